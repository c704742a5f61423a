//! What lets pages of other origins read answers. Off unless origins are allowed, and then for these and no others.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN,
    VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};

use super::payload::Body;
use super::reply::Reply;
use crate::config::NetConfig;

/// What a page may send beside what every page may.
const SENT: HeaderValue = HeaderValue::from_static(
    "authorization, content-type, content-encoding, inference-header-content-length, x-request-id, x-request-timeout-ms",
);
/// What a page may read beside what every page may.
const READ: HeaderValue = HeaderValue::from_static(
    "inference-header-content-length, retry-after, www-authenticate, x-request-id",
);
const METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, POST");
/// How long a browser may remember it, in seconds.
const REMEMBERED: HeaderValue = HeaderValue::from_static("600");

/// The origins whose pages may read answers. A key that a page sends is said by its program, so nothing here speaks of credentials, which
/// are what a browser sends by itself.
#[derive(Debug)]
pub(crate) struct Cors {
    origins: Vec<String>,
}

/// What the request says that its answer depends on.
#[derive(Debug)]
pub(crate) struct Origin(Option<HeaderValue>);

impl Cors {
    pub(crate) fn new(config: &NetConfig) -> Cors {
        let origins = config.allowed_origins.iter();
        Cors {
            origins: origins.map(|origin| origin.to_ascii_lowercase()).collect(),
        }
    }

    /// The origin that a request comes from, if its pages may read answers.
    pub(crate) fn origin(&self, headers: &HeaderMap) -> Origin {
        if self.origins.is_empty() {
            return Origin(None);
        }
        let allowed = headers.get(ORIGIN).filter(|origin| self.allows(origin));
        // Copied: the head's memory is used again.
        Origin(allowed.and_then(|origin| HeaderValue::from_bytes(origin.as_bytes()).ok()))
    }

    /// The answer to a browser that asks whether a page may send a request, which it does without any key.
    pub(crate) fn preflight(&self, head: &request::Parts) -> Option<Reply> {
        let asks = head.method == Method::OPTIONS
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || self.origin(&head.headers).0.is_none() {
            return None;
        }
        let mut reply = Response::new(Body::default());
        *reply.status_mut() = StatusCode::NO_CONTENT;
        let headers = reply.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, METHODS);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, SENT);
        headers.insert(ACCESS_CONTROL_MAX_AGE, REMEMBERED);
        Some(reply)
    }

    /// Says on an answer, a refusal too, who may read it.
    pub(crate) fn mark(&self, origin: &Origin, headers: &mut HeaderMap) {
        if self.origins.is_empty() {
            return;
        }
        headers.append(VARY, HeaderValue::from_static("origin"));
        if let Origin(Some(origin)) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, READ);
        }
    }

    fn allows(&self, origin: &HeaderValue) -> bool {
        let origin = origin.to_str().unwrap_or_default();
        let mut origins = self.origins.iter();
        origins.any(|allowed| allowed.eq_ignore_ascii_case(origin))
    }
}
