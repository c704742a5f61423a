//! Answers: what they are made of, and how a failure is written.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE,
    WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use super::payload::Body;
use crate::failure::{Code, Failure};
use crate::protocol::{error, frames};

/// An answer.
pub(crate) type Reply = Response<Body>;

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
pub(crate) const NDJSON: HeaderValue = HeaderValue::from_static("application/x-ndjson");
pub(crate) const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
pub(crate) const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// A failure, and what it means for the connection.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) failure: Failure,
    /// Whether nothing more can be read from the connection.
    pub(crate) close: bool,
    /// The methods that are allowed, for a wrong one.
    pub(crate) allow: Option<&'static str>,
}

impl From<Failure> for Refusal {
    fn from(failure: Failure) -> Refusal {
        Refusal {
            failure,
            close: false,
            allow: None,
        }
    }
}

impl Refusal {
    /// A failure after which the connection is closed.
    pub(crate) fn closing(failure: Failure) -> Refusal {
        Refusal {
            close: true,
            ..failure.into()
        }
    }
}

/// An answer with status 200.
pub(crate) fn ok(content_type: HeaderValue, body: impl Into<Bytes>) -> Reply {
    let mut reply = Response::new(Body::Whole(body.into()));
    reply.headers_mut().insert(CONTENT_TYPE, content_type);
    reply
}

/// The answer that tells of a failure.
pub(crate) fn refusal(refusal: &Refusal, jitter: &Jitter) -> Reply {
    let failure = &refusal.failure;
    let mut reply = ok(JSON, error::body(failure));
    *reply.status_mut() = failure.code.http_status();
    let headers = reply.headers_mut();
    if let Some(allow) = refusal.allow {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    if failure.code == Code::Unauthenticated {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if failure.code == Code::UpgradeRequired {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(
            SEC_WEBSOCKET_VERSION,
            HeaderValue::from_static(frames::VERSION),
        );
    }
    if matches!(
        failure.code.http_status(),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    ) {
        let seconds = jitter.seconds(failure.retry_after.unwrap_or_default());
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    reply
}

/// Tells an HTTP/1.1 client that this answer is the last of the connection.
pub(crate) fn close(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// The answer to HEAD: the same head, no body.
pub(crate) fn without_body(reply: Reply) -> Reply {
    let (mut head, body) = reply.into_parts();
    if let Some(length) = body.length() {
        head.headers
            .insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Response::from_parts(head, Body::default())
}

/// A whole HTTP/1.1 answer for a client that is turned away before anything it sent is read.
pub(crate) fn turned_away(jitter: &Jitter) -> Vec<u8> {
    let failure = Failure::new(
        Code::Overloaded,
        "the server has as many connections as it may; try again later",
    );
    let body = error::body(&failure);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\nretry-after: {}\r\nconnection: close\r\n\r\n",
        body.len(),
        jitter.seconds(Duration::from_secs(1)),
    );
    [head.into_bytes(), body].concat()
}

/// Spreads the clients that are told to come back, so that they do not come together.
#[derive(Debug, Default)]
pub(crate) struct Jitter(AtomicU64);

impl Jitter {
    const LONGEST: u64 = 30;

    /// Whole seconds, not less than `after` unless that is beyond 30, and up to half as many on top: the same number never twice in a row
    /// where there is room for another.
    pub(crate) fn seconds(&self, after: Duration) -> u64 {
        let least = (after.as_secs() + u64::from(after.subsec_nanos() > 0)).clamp(1, Self::LONGEST);
        let spread = least / 2 + 1;
        let turn = self.0.fetch_add(1, Ordering::Relaxed);
        (least + turn % (spread + 1)).min(Self::LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_whole_seconds_within_bounds() {
        let rows = [
            (0, 1..=2),
            (1, 1..=2),
            (1_001, 2..=4),
            (10_000, 10..=16),
            (90_000, 30..=30),
        ];
        let jitter = Jitter::default();
        for (millis, range) in rows {
            for _ in 0..20 {
                let seconds = jitter.seconds(Duration::from_millis(millis));
                assert!(range.contains(&seconds), "{millis} ms gave {seconds} s");
            }
        }
    }

    #[test]
    fn waits_differ() {
        let jitter = Jitter::default();
        let first = jitter.seconds(Duration::from_secs(4));
        assert_ne!(first, jitter.seconds(Duration::from_secs(4)));
    }

    #[test]
    fn only_refusals_that_pass_say_when_to_come_back() {
        for code in Code::ALL {
            let reply = refusal(&Failure::new(code, "text").into(), &Jitter::default());
            let status = reply.status().as_u16();
            assert_eq!(
                reply.headers().contains_key(RETRY_AFTER),
                matches!(status, 429 | 503),
                "{code:?}"
            );
        }
    }
}
