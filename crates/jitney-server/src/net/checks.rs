//! What the head of a request must say before anything else is done for it.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HOST, HeaderName, ORIGIN};
use http::{HeaderMap, HeaderValue, Method, Version, request};

use super::reply::Refusal;
use super::router::Form;
use crate::config::NetConfig;
use crate::context::Context;
use crate::failure::{Code, Failure};

pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_REQUEST_TIMEOUT_MS: HeaderName = HeaderName::from_static("x-request-timeout-ms");
pub(crate) const INFERENCE_HEADER_CONTENT_LENGTH: HeaderName =
    HeaderName::from_static("inference-header-content-length");
const SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Longest request id that is echoed.
const REQUEST_ID_MAX: usize = 128;

/// Under which names the server may be called, and by pages of which sites.
///
/// A browser lets any page send requests to any address. A page that had its own name resolve to this machine could read the answers too.
/// So a server on a loopback address answers only to the loopback names, and no server answers pages of other sites.
#[derive(Debug)]
pub(crate) struct Sites {
    /// `None` when every name will do. Our port may stand behind each.
    hosts: Option<Vec<String>>,
    origins: Vec<String>,
    /// With its colon.
    port: String,
}

impl Sites {
    /// The rules of a server that is bound to `address`.
    pub(crate) fn new(config: &NetConfig, address: SocketAddr) -> Sites {
        let mut hosts = config.allowed_hosts.clone();
        if address.ip().to_canonical().is_loopback() {
            hosts.extend(["localhost", "127.0.0.1", "[::1]"].map(str::to_owned));
        }
        Sites {
            hosts: (!hosts.is_empty()).then_some(hosts),
            origins: config
                .allowed_origins
                .iter()
                .map(|origin| origin.to_ascii_lowercase())
                .collect(),
            port: format!(":{}", address.port()),
        }
    }

    /// Checks whom the request is for and which page sent it, if one did.
    pub(crate) fn check(&self, head: &request::Parts) -> Result<(), Refusal> {
        let host = host(head)?;
        // The target of CONNECT is no name of this server, and its method is refused in any case.
        if head.method != Method::CONNECT {
            self.check_host(head.uri.authority().map(http::uri::Authority::as_str))?;
        }
        self.check_host(host)?;
        match head.headers.get(ORIGIN) {
            None => Ok(()),
            Some(origin) => self.check_origin(origin, host),
        }
    }

    fn check_host(&self, host: Option<&str>) -> Result<(), Failure> {
        let (Some(hosts), Some(host)) = (&self.hosts, host) else {
            return Ok(());
        };
        let known = hosts.iter().any(|allowed| self.is_called(allowed, host));
        if known {
            return Ok(());
        }
        Err(Failure::new(
            Code::MisdirectedRequest,
            "this server is not served under the name in Host; call it by its own address, or start it with --allowed-host NAME",
        ))
    }

    /// Whether `host` is `allowed`, by itself or with our port behind it.
    fn is_called(&self, allowed: &str, host: &str) -> bool {
        host.split_at_checked(allowed.len())
            .is_some_and(|(name, rest)| {
                name.eq_ignore_ascii_case(allowed) && (rest.is_empty() || rest == self.port)
            })
    }

    fn check_origin(&self, origin: &HeaderValue, host: Option<&str>) -> Result<(), Refusal> {
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        let site = origin
            .strip_prefix("http://")
            .or_else(|| origin.strip_prefix("https://"));
        let own = site.is_some_and(|site| host.is_some_and(|host| site.eq_ignore_ascii_case(host)));
        if own || self.origins.contains(&origin) {
            return Ok(());
        }
        Err(Failure::new(
            Code::Forbidden,
            "the request comes from a page of another site; start the server with --allowed-origin ORIGIN to allow it",
        )
        .into())
    }
}

/// Checks that the head is within its limits. In HTTP/1.1 it is: there it was counted as it arrived.
pub(crate) fn size(head: &request::Parts, config: &NetConfig) -> Result<(), Failure> {
    if head.version != Version::HTTP_2 {
        return Ok(());
    }
    let target = head
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    let field = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    let bytes = target + head.headers.iter().map(field).sum::<usize>();
    if bytes <= config.max_header_bytes && head.headers.len() <= config.max_headers {
        return Ok(());
    }
    Err(head_too_large(config))
}

/// The refusal of a head beyond its limits.
pub(crate) fn head_too_large(config: &NetConfig) -> Failure {
    Failure::new(
        Code::HeadersTooLarge,
        format!(
            "the request's head is larger than {} bytes or has more than {} header lines",
            config.max_header_bytes, config.max_headers
        ),
    )
}

/// What the request calls the server. HTTP/2 says it in the request's target.
fn host(head: &request::Parts) -> Result<Option<&str>, Refusal> {
    match head.headers.get(HOST) {
        Some(host) => host
            .to_str()
            .map(Some)
            .map_err(|_| Refusal::closing(Failure::invalid("Host is not text"))),
        None if head.version == Version::HTTP_2 => {
            Ok(head.uri.authority().map(http::uri::Authority::as_str))
        }
        None => Ok(None),
    }
}

/// The forms in which a body can come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Ndjson,
    /// JSON of that many bytes and raw tensors behind it, or one raw tensor where there is no JSON.
    Binary {
        json: usize,
    },
    /// An object of JSON, if it begins like one: nothing is said.
    Unsaid,
}

impl Media {
    /// Where the first raw tensor begins, if there is one.
    pub(crate) const fn tensors(self) -> usize {
        match self {
            Media::Binary { json } => json,
            Media::Json | Media::Ndjson | Media::Unsaid => 0,
        }
    }
}

/// Finds the form of the body, or says that it cannot be read.
///
/// A page of another site can have a browser send what a form or a beacon can: text, forms, and bytes of no type, none of which the server
/// would be asked about first. So a body needs a type that none of them can have. Clients of the protocol may leave it away, since some do
/// (`tritonclient`), where their request is none of a browser's: the header about raw tensors is asked about first, and a request without
/// it must not come from a page.
pub(crate) fn media(headers: &HeaderMap, form: Form) -> Result<Media, Failure> {
    let json = json_length(headers)?;
    let kind = match only_type(headers)? {
        None => None,
        Some(text) => match parse_media(text) {
            Some(kind) => Some(kind),
            None if form == Form::Protocol && is_octets(text) => None,
            None => {
                return Err(unsupported(match form {
                    Form::Protocol => {
                        "the body's type is neither JSON nor raw tensors behind JSON; send it with Content-Type: application/json or application/octet-stream"
                    }
                    _ => "the body's type is not JSON; send it with Content-Type: application/json",
                }));
            }
        },
    };
    match (kind, json) {
        (_, Some(_)) if form != Form::Protocol => Err(Failure::invalid(
            "Inference-Header-Content-Length: raw tensors are read by /v2/models/NAME/infer only; send JSON without this header",
        )),
        (Some(Media::Ndjson), Some(_)) => Err(only_json()),
        (_, Some(json)) => Ok(Media::Binary { json }),
        (Some(kind), None) => Ok(kind),
        (None, None) if form == Form::Protocol && !may_be_a_page(headers) => Ok(Media::Unsaid),
        (None, None) => Err(no_type(headers, form)),
    }
}

/// The refusal of a body whose type is missing, or says nothing.
fn no_type(headers: &HeaderMap, form: Form) -> Failure {
    unsupported(match form {
        Form::Protocol if headers.contains_key(CONTENT_TYPE) => {
            "application/octet-stream is read from pages with Inference-Header-Content-Length only; send JSON with Content-Type: application/json"
        }
        Form::Protocol => {
            "the body's type is missing; send Content-Type: application/json, or Inference-Header-Content-Length where raw tensors follow"
        }
        _ => "the body's type is missing; send Content-Type: application/json",
    })
}

/// The refusal of a body that does not begin as one of which nothing is said must.
pub(crate) fn no_object() -> Failure {
    unsupported(
        "the body does not begin like an object of JSON; send one with Content-Type: application/json, or Inference-Header-Content-Length where raw tensors follow",
    )
}

/// Says of a body of which nothing was said what may be wrong with it: raw tensors stand behind its JSON.
pub(crate) fn unsaid(mut failure: Failure) -> Failure {
    if failure.message.starts_with("body: ") {
        failure.message.push_str(
            "; where raw tensors follow the JSON, say its length in Inference-Header-Content-Length",
        );
    }
    failure
}

/// What the one `Content-Type` says.
fn only_type(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    match (types.next(), types.next()) {
        (only, None) => Ok(only.map(|only| only.to_str().unwrap_or_default())),
        (_, Some(_)) => Err(unsupported(
            "Content-Type is given twice; send it once, as application/json",
        )),
    }
}

/// How many bytes of JSON the body begins with, where raw tensors follow.
fn json_length(headers: &HeaderMap) -> Result<Option<usize>, Failure> {
    let mut values = headers.get_all(INFERENCE_HEADER_CONTENT_LENGTH).iter();
    let (value, second) = (values.next(), values.next());
    let Some(value) = value else {
        return Ok(None);
    };
    match (digits(value), second) {
        (Some(length), None) => Ok(Some(length)),
        _ => Err(Failure::invalid(
            "Inference-Header-Content-Length must be one whole number: the bytes of JSON that the body begins with, or 0",
        )),
    }
}

/// A number that is written with digits alone.
fn digits<T: FromStr>(value: &HeaderValue) -> Option<T> {
    let text = value.to_str().ok()?;
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

/// Whether a browser may have sent it on behalf of a page. Browsers say the origin of what they send with a body; newer ones say besides
/// where it came from.
fn may_be_a_page(headers: &HeaderMap) -> bool {
    headers.contains_key(ORIGIN) || headers.contains_key(SEC_FETCH_SITE)
}

fn is_octets(text: &str) -> bool {
    text.trim().eq_ignore_ascii_case("application/octet-stream")
}

fn parse_media(text: &str) -> Option<Media> {
    let mut parts = text.split(';').map(str::trim);
    let essence = parts.next()?.to_ascii_lowercase();
    let utf8 = |parameter: &str| {
        parameter.split_once('=').is_some_and(|(name, value)| {
            name.trim().eq_ignore_ascii_case("charset")
                && value.trim().trim_matches('"').eq_ignore_ascii_case("utf-8")
        })
    };
    if !parts.all(utf8) {
        return None;
    }
    match essence.as_str() {
        "application/json" => Some(Media::Json),
        "application/x-ndjson" => Some(Media::Ndjson),
        other => {
            (other.starts_with("application/") && other.ends_with("+json")).then_some(Media::Json)
        }
    }
}

/// The refusal of NDJSON where there is one item only.
pub(crate) fn only_json() -> Failure {
    unsupported(
        "NDJSON is read by /predict/NAME/batch only; send one JSON text with Content-Type: application/json",
    )
}

fn unsupported(message: &str) -> Failure {
    Failure::new(Code::UnsupportedMediaType, message)
}

/// How long the client will wait, as `X-Request-Timeout-Ms` says.
pub(crate) fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Failure> {
    let mut values = headers.get_all(X_REQUEST_TIMEOUT_MS).iter();
    let (value, second) = (values.next(), values.next());
    let Some(value) = value else {
        return Ok(None);
    };
    match (digits(value), second) {
        (Some(millis @ 1..), None) => Ok(Some(Duration::from_millis(millis))),
        _ => Err(Failure::invalid(
            "X-Request-Timeout-Ms must be one whole number of milliseconds, at least 1",
        )),
    }
}

/// The client's id for the request, when it is one that can be sent back and written in a log.
pub(crate) fn request_id(headers: &HeaderMap) -> Option<HeaderValue> {
    let id = headers.get(X_REQUEST_ID)?;
    let harmless = id.len() <= REQUEST_ID_MAX && id.as_bytes().iter().all(u8::is_ascii_graphic);
    (harmless && !id.is_empty()).then(|| id.clone())
}

/// What a head says to the model, copied out of it. `until` is when the caller waits no longer.
pub(crate) fn context(
    headers: &HeaderMap,
    config: &NetConfig,
    key: Option<u64>,
    until: Option<Instant>,
) -> Context {
    let pattern = config.forward_header_pattern.as_ref();
    Context {
        id: request_id(headers).and_then(|id| Some(id.to_str().ok()?.to_owned())),
        fields: pattern.map_or_else(Vec::new, |pattern| pattern.fields(headers)),
        key,
        until,
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config::HeaderPattern;

    fn sites(address: &str, hosts: &[&str]) -> Sites {
        let config = NetConfig {
            allowed_hosts: hosts.iter().map(|&host| host.to_owned()).collect(),
            allowed_origins: vec!["https://friend.example".to_owned()],
            ..NetConfig::default()
        };
        Sites::new(&config, address.parse().unwrap())
    }

    fn head(fields: &[(&str, &str)]) -> request::Parts {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn fields_that_are_let_through_are_said_to_the_model() {
        let mut headers =
            head(&[("x-request-id", "7"), ("x-tenant", "a"), ("x-other", "b")]).headers;
        headers.append("x-tenant-key", "\u{e9}".parse().unwrap());
        let config = NetConfig {
            forward_header_pattern: HeaderPattern::parse("^X-Tenant").ok(),
            ..NetConfig::default()
        };
        let said = context(&headers, &config, None, None);
        assert_eq!(said.id.as_deref(), Some("7"));
        assert_eq!(said.fields, [("x-tenant".to_owned(), "a".to_owned())]);
        let nothing = context(&headers, &NetConfig::default(), None, None);
        assert_eq!(nothing.fields, []);
    }

    #[test]
    fn hosts() {
        let rows = [
            ("127.0.0.1:80", &[][..], "localhost", true),
            ("127.0.0.1:8080", &[], "localhost:8080", true),
            ("127.0.0.1:8080", &[], "LocalHost:8080", true),
            ("127.0.0.1:8080", &[], "127.0.0.1:8080", true),
            ("[::1]:8080", &[], "[::1]:8080", true),
            ("127.0.0.1:8080", &[], "localhost", true),
            ("127.0.0.1:8080", &[], "localhost:80", false),
            ("127.0.0.1:8080", &[], "localhost:08080", false),
            ("127.0.0.1:8080", &[], "localhost.evil.example:8080", false),
            ("127.0.0.1:8080", &[], "evil.example:8080", false),
            ("127.0.0.1:8080", &[], "", false),
            (
                "127.0.0.1:8080",
                &["Model.example"],
                "model.example:8080",
                true,
            ),
            (
                "127.0.0.1:8080",
                &["model.example:9000"],
                "model.example:9000",
                true,
            ),
            ("0.0.0.0:8080", &[], "anything.example", true),
            (
                "0.0.0.0:8080",
                &["model.example"],
                "anything.example",
                false,
            ),
            ("0.0.0.0:8080", &["model.example"], "model.example", true),
        ];
        for (address, allowed, host, expected) in rows {
            let check = sites(address, allowed).check(&head(&[("host", host)]));
            assert_eq!(check.is_ok(), expected, "{address} {allowed:?} {host:?}");
        }
    }

    #[test]
    fn origins() {
        let rows = [
            ("http://localhost:8080", true),
            ("https://friend.example", true),
            ("http://evil.example", false),
            ("http://localhost:8081", false),
            ("null", false),
            ("", false),
        ];
        for (origin, expected) in rows {
            let head = head(&[("host", "localhost:8080"), ("origin", origin)]);
            let check = sites("127.0.0.1:8080", &[]).check(&head);
            assert_eq!(check.is_ok(), expected, "{origin:?}");
        }
    }

    /// The form of a body with these headers, on the route of a prediction and on that of the protocol.
    fn both(fields: &[(&str, &str)]) -> [Result<Media, Code>; 2] {
        let headers = head(fields).headers;
        [Form::Predict, Form::Protocol]
            .map(|form| media(&headers, form).map_err(|failure| failure.code))
    }

    const OTHER: Result<Media, Code> = Err(Code::UnsupportedMediaType);

    #[test]
    fn media_types() {
        let rows = [
            (&["application/json"][..], Ok(Media::Json)),
            (&["application/json; charset=utf-8"], Ok(Media::Json)),
            (&["Application/JSON;Charset=\"UTF-8\""], Ok(Media::Json)),
            (&["application/vnd.x+json"], Ok(Media::Json)),
            (&["application/x-ndjson"], Ok(Media::Ndjson)),
            (&["application/json; charset=latin1"], OTHER),
            (&["application/json; x"], OTHER),
            (&["text/plain"], OTHER),
            (&["text/json"], OTHER),
            (&["application/x-www-form-urlencoded"], OTHER),
            (&["multipart/form-data; boundary=x"], OTHER),
            (&[""], OTHER),
            (&["application/json", "application/json"], OTHER),
        ];
        for (types, expected) in rows {
            let fields: Vec<_> = types.iter().map(|value| ("content-type", *value)).collect();
            assert_eq!(both(&fields), [expected; 2], "{types:?}");
        }
    }

    #[test]
    fn the_protocol_takes_bodies_without_a_type_from_what_is_no_page() {
        let octets = ("content-type", "application/octet-stream");
        assert_eq!(both(&[]), [OTHER, Ok(Media::Unsaid)]);
        assert_eq!(both(&[octets]), [OTHER, Ok(Media::Unsaid)]);
        for page in [("origin", "http://localhost"), ("sec-fetch-site", "none")] {
            assert_eq!(both(&[page]), [OTHER; 2]);
            assert_eq!(both(&[page, octets]), [OTHER; 2]);
        }
    }

    #[test]
    fn the_type_that_is_missing_is_named() {
        let page = ("origin", "http://localhost");
        let octets = ("content-type", "application/octet-stream");
        let rows: [(Form, &[(&str, &str)], &str); 5] = [
            (
                Form::Predict,
                &[],
                "type is missing; send Content-Type: application/json",
            ),
            (
                Form::Generate,
                &[page],
                "type is missing; send Content-Type: application/json",
            ),
            (
                Form::Protocol,
                &[page],
                "json, or Inference-Header-Content-Length where raw tensors follow",
            ),
            (
                Form::Protocol,
                &[page, octets],
                "application/octet-stream is read from pages with",
            ),
            (
                Form::Predict,
                &[page, octets],
                "type is not JSON; send it with Content-Type: application/json",
            ),
        ];
        for (form, fields, words) in rows {
            let failure = media(&head(fields).headers, form).unwrap_err();
            assert!(failure.message.contains(words), "{failure}");
            let binary = failure.message.contains("Inference-Header");
            assert_eq!(binary, form == Form::Protocol, "{failure}");
        }
    }

    #[test]
    fn raw_tensors_are_the_protocols_alone() {
        let wrong = Err(Code::InvalidInput);
        let length = |value| ("inference-header-content-length", value);
        let json = ("content-type", "application/json");
        let octets = ("content-type", "application/octet-stream");
        for (value, json_length) in [("0", 0), ("10", 10), ("007", 7)] {
            let binary = Ok(Media::Binary { json: json_length });
            assert_eq!(both(&[json, length(value)]), [wrong, binary]);
            assert_eq!(both(&[length(value)]), [wrong, binary]);
            assert_eq!(both(&[octets, length(value)]), [OTHER, binary]);
            assert_eq!(
                both(&[("origin", "null"), octets, length(value)])[1],
                binary
            );
        }
        for value in ["-1", "+5", "0x5", "1,1", "x", "", "99999999999999999999"] {
            assert_eq!(both(&[json, length(value)]), [wrong; 2], "{value}");
        }
        assert_eq!(both(&[json, length("5"), length("5")]), [wrong; 2]);
        for kind in ["text/plain", "application/x-ndjson"] {
            assert_eq!(both(&[("content-type", kind), length("5")])[1], OTHER);
        }
    }

    #[test]
    fn timeouts() {
        let rows = [
            (&["250"][..], Ok(Some(250))),
            (&[], Ok(None)),
            (&["0"], Err(())),
            (&["+5"], Err(())),
            (&["-5"], Err(())),
            (&["1.5"], Err(())),
            (&["soon"], Err(())),
            (&[""], Err(())),
            (&["99999999999999999999"], Err(())),
            (&["5", "5"], Err(())),
        ];
        for (values, expected) in rows {
            let fields: Vec<_> = values
                .iter()
                .map(|value| ("x-request-timeout-ms", *value))
                .collect();
            let got = timeout(&head(&fields).headers).map_err(|_| ());
            assert_eq!(
                got,
                expected.map(|millis| millis.map(Duration::from_millis)),
                "{values:?}"
            );
        }
    }

    #[test]
    fn request_ids_are_echoed_only_when_harmless() {
        let long = "a".repeat(REQUEST_ID_MAX + 1);
        let rows = [
            ("abc-1", true),
            ("", false),
            ("a b", false),
            ("a\tb", false),
            (long.as_str(), false),
        ];
        for (id, echoed) in rows {
            let head = head(&[("x-request-id", id)]);
            assert_eq!(request_id(&head.headers).is_some(), echoed, "{id:?}");
        }
    }
}
