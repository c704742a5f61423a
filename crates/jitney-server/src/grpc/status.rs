//! How a call ended: the status that stands behind an answer, or instead of it.

use std::collections::hash_map::RandomState;
use std::fmt::Write;
use std::hash::BuildHasher;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderName};
use http::{HeaderMap, HeaderValue, Response};

use super::head::GRPC_ACCEPT_ENCODING;
use super::wire::Body;
use crate::failure::{Code, Failure};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const JITNEY_CODE: HeaderName = HeaderName::from_static("jitney-code");
pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// Most bytes of a status message as it is written. Clients refuse the metadata of an answer beyond 8 KiB.
const MESSAGE_MAX: usize = 4096;
/// When to come back where nothing better is known.
const SOON: Duration = Duration::from_secs(1);

/// The status of a call that was answered.
pub(super) fn ok() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The status of a call that failed: the row of its code in the table of failures.
pub(super) fn trailers(failure: &Failure) -> HeaderMap {
    let code = failure.code;
    let mut trailers = HeaderMap::with_capacity(4);
    trailers.insert(GRPC_STATUS, u16::from(code.grpc_status()).into());
    if let Ok(message) = HeaderValue::from_str(&escaped(&failure.message)) {
        trailers.insert(GRPC_MESSAGE, message);
    }
    trailers.insert(JITNEY_CODE, HeaderValue::from_static(code.word()));
    if matches!(code.http_status().as_u16(), 429 | 503) {
        let pushback = spread(failure.retry_after.unwrap_or(SOON));
        trailers.insert(GRPC_RETRY_PUSHBACK_MS, pushback.into());
    }
    trailers
}

/// The whole answer to a call that failed before there was one: a head, which is the end at the same time.
pub(crate) fn refusal(failure: &Failure) -> Response<Body> {
    let mut response = Response::new(Body::default());
    let headers = response.headers_mut();
    *headers = trailers(failure);
    headers.insert(CONTENT_TYPE, GRPC);
    if failure.code == Code::UnsupportedMediaType {
        let known = HeaderValue::from_static("identity,gzip,deflate");
        headers.insert(GRPC_ACCEPT_ENCODING, known);
    }
    response
}

/// A status message is UTF-8, in which everything but plain ASCII is escaped as in an address.
fn escaped(message: &str) -> String {
    let mut out = String::with_capacity(message.len() + 16);
    for char in message.chars() {
        if out.len() + 3 * char.len_utf8() > MESSAGE_MAX {
            out.push_str("...");
            break;
        }
        match char {
            ' '..='~' if char != '%' => out.push(char),
            _ => {
                let mut buffer = [0; 4];
                for byte in char.encode_utf8(&mut buffer).bytes() {
                    // Writing to a string does not fail.
                    let _ = write!(out, "%{byte:02X}");
                }
            }
        }
    }
    out
}

/// Milliseconds up to half as long again, so that clients who are told to come back do not come together.
fn spread(after: Duration) -> u64 {
    let least = u64::try_from(after.as_millis())
        .unwrap_or(u64::MAX)
        .clamp(1, 30_000);
    let random = RandomState::new().hash_one(least);
    least + random % (least / 2 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_row() {
        for code in Code::ALL {
            let trailers = trailers(&Failure::new(code, "why: 100 %\nä"));
            let field = |name: &str| trailers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!(field("grpc-status"), Some(&*code.grpc_status().to_string()));
            assert_eq!(field("grpc-message"), Some("why: 100 %25%0A%C3%A4"));
            assert_eq!(field("jitney-code"), Some(code.word()));
            let retry = [429, 503].contains(&code.http_status().as_u16());
            assert_eq!(field("grpc-retry-pushback-ms").is_some(), retry, "{code:?}");
        }
    }

    #[test]
    fn messages_are_bounded_and_cut_between_characters() {
        for text in ["a".repeat(5000), "ä".repeat(5000)] {
            let escaped = escaped(&text);
            assert!(escaped.len() <= MESSAGE_MAX + 3 && escaped.ends_with("..."));
            assert!(!escaped.trim_end_matches("...").ends_with("%C3"));
        }
    }

    #[test]
    fn clients_are_told_to_come_back_at_different_times() {
        let failure = Failure::new(Code::Overloaded, "full").retry_after(Duration::from_secs(2));
        let waits: Vec<u64> = (0..50)
            .map(|_| spread(failure.retry_after.unwrap()))
            .collect();
        assert!(waits.iter().all(|wait| (2000..=3000).contains(wait)));
        assert!(waits.iter().any(|wait| *wait != waits[0]));
        assert!((30_000..=45_000).contains(&spread(Duration::MAX)));
    }
}
