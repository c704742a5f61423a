//! What the metadata of a call says.

use std::time::Duration;

use http::header::HeaderName;
use http::{HeaderMap, HeaderValue};

use super::coding::Encoding;
use super::status::GRPC;
use crate::failure::{Code, Failure};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
pub(super) const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
const TRITON_GRPC_ERROR: HeaderName = HeaderName::from_static("triton_grpc_error");

/// The metadata that means something here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// How compressed messages of the call are compressed.
    pub(super) encoding: Option<Encoding>,
    /// How large answers are compressed: as the call is, where the client reads that.
    pub(super) answers: Option<Encoding>,
    /// How long the client will wait.
    pub(crate) timeout: Option<Duration>,
    /// Whether a failed request of a stream ends the stream with its status.
    pub(super) failure_ends_stream: bool,
}

impl Head {
    /// Whether a content type is that of gRPC, in whatever form its messages are.
    pub(crate) fn is_grpc(content_type: Option<&HeaderValue>) -> bool {
        subtype(content_type).is_some()
    }

    /// Says in the metadata of an answer how it is written.
    pub(crate) fn describe(&self, headers: &mut HeaderMap) {
        headers.insert(http::header::CONTENT_TYPE, GRPC);
        if let Some(encoding) = self.answers {
            headers.insert(GRPC_ENCODING, HeaderValue::from_static(encoding.name()));
        }
    }

    /// Reads the metadata.
    ///
    /// # Errors
    /// `unsupported_media_type` where the messages are in no form that is known here; `invalid_input`.
    pub(crate) fn read(headers: &HeaderMap) -> Result<Head, Failure> {
        if !matches!(
            subtype(headers.get(http::header::CONTENT_TYPE)),
            Some("" | "+proto")
        ) {
            return Err(Failure::new(
                Code::UnsupportedMediaType,
                "expected messages of protobuf: send them with content-type: application/grpc",
            ));
        }
        let encoding = encoding(headers)?;
        Ok(Head {
            encoding,
            answers: encoding.filter(|encoding| accepts(headers, *encoding)),
            timeout: timeout(headers)?,
            failure_ends_stream: headers
                .get(TRITON_GRPC_ERROR)
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true")),
        })
    }
}

/// What follows `application/grpc`, without parameters. gRPC for browsers is another protocol under a longer name.
fn subtype(content_type: Option<&HeaderValue>) -> Option<&str> {
    let text = content_type?.to_str().ok()?;
    let essence = text.split(';').next()?.trim();
    let (name, rest) = essence.split_at_checked("application/grpc".len())?;
    let known = name.eq_ignore_ascii_case("application/grpc");
    (known && (rest.is_empty() || rest.starts_with('+'))).then_some(rest)
}

fn encoding(headers: &HeaderMap) -> Result<Option<Encoding>, Failure> {
    match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
        None | Some(b"identity") => Ok(None),
        Some(name) => match Encoding::from_name(name) {
            Some(encoding) => Ok(Some(encoding)),
            None => Err(Failure::new(
                Code::UnsupportedMediaType,
                "expected grpc-encoding to be identity, gzip or deflate",
            )),
        },
    }
}

fn accepts(headers: &HeaderMap, encoding: Encoding) -> bool {
    let mut names = headers
        .get_all(GRPC_ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(',').map(str::trim));
    names.any(|name| name == encoding.name())
}

/// At most eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else {
        return Ok(None);
    };
    let wrong = || {
        Failure::invalid(
            "grpc-timeout must be one to eight digits and a unit of H, M, S, m, u or n, such as 250m",
        )
    };
    let (unit, digits) = value.as_bytes().split_last().ok_or_else(wrong)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(wrong());
    }
    let count = digits
        .iter()
        .fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    let timeout = match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return Err(wrong()),
    };
    Ok(Some(timeout))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let parse = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        };
        let mut headers: HeaderMap = fields.iter().map(parse).collect();
        let grpc = HeaderValue::from_static("application/grpc");
        headers.entry(http::header::CONTENT_TYPE).or_insert(grpc);
        headers
    }

    #[test]
    fn timeouts() {
        let rows = [
            ("1S", Some(Duration::from_secs(1))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("2M", Some(Duration::from_secs(120))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("00000007n", Some(Duration::from_nanos(7))),
            ("0m", Some(Duration::ZERO)),
            ("", None),
            ("m", None),
            ("5", None),
            ("100000000m", None),
            ("-1S", None),
            ("+1S", None),
            ("1.5S", None),
            ("1s", None),
            ("1 S", None),
        ];
        for (text, expected) in rows {
            let read = Head::read(&headers(&[("grpc-timeout", text)]));
            match (read, expected) {
                (Ok(head), Some(expected)) => assert_eq!(head.timeout, Some(expected), "{text}"),
                (Err(failure), None) => assert_eq!(failure.code, Code::InvalidInput, "{text}"),
                (read, _) => panic!("{text}: {read:?}"),
            }
        }
    }

    #[test]
    fn content_types() {
        let rows = [
            ("application/grpc", true, true),
            ("application/grpc+proto", true, true),
            ("Application/gRPC", true, true),
            ("application/grpc; charset=utf-8", true, true),
            ("application/grpc+json", true, false),
            ("application/grpc-web", false, false),
            ("application/grpc-web+proto", false, false),
            ("application/json", false, false),
            ("", false, false),
        ];
        for (text, grpc, read) in rows {
            let headers = headers(&[("content-type", text)]);
            let content_type = headers.get("content-type");
            assert_eq!(Head::is_grpc(content_type), grpc, "{text}");
            assert_eq!(Head::read(&headers).is_ok(), read, "{text}");
        }
        assert!(!Head::is_grpc(None));
    }

    #[test]
    fn answers_are_compressed_as_the_call_is_where_that_is_read() {
        use Encoding::{Deflate, Gzip};
        let rows = [
            (None, "gzip", None, None),
            (Some("identity"), "gzip", None, None),
            (
                Some("gzip"),
                "identity, deflate, gzip",
                Some(Gzip),
                Some(Gzip),
            ),
            (Some("deflate"), "deflate", Some(Deflate), Some(Deflate)),
            (Some("gzip"), "deflate", Some(Gzip), None),
        ];
        for (encoding, accept, expected, answers) in rows {
            let mut fields = vec![("grpc-accept-encoding", accept)];
            fields.extend(encoding.map(|encoding| ("grpc-encoding", encoding)));
            let head = Head::read(&headers(&fields)).unwrap();
            assert_eq!((head.encoding, head.answers), (expected, answers));
        }
        let unknown = Head::read(&headers(&[("grpc-encoding", "br")])).unwrap_err();
        assert_eq!(unknown.code, Code::UnsupportedMediaType);
    }

    #[test]
    fn clients_say_how_a_stream_fails() {
        for (value, expected) in [("true", true), ("True", true), ("false", false)] {
            let head = Head::read(&headers(&[("triton_grpc_error", value)])).unwrap();
            assert_eq!(head.failure_ends_stream, expected, "{value}");
        }
    }
}
