//! Which request goes where: one table.

use http::Method;

/// A route, with the names that its path carries. Names are as they came: whether such a model exists is the catalog's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    Page,
    Status,
    Metrics,
    DebugTree,
    Server,
    Live,
    Ready,
    Models,
    Model(ModelRef<'a>),
    ModelReady(ModelRef<'a>),
    Infer(ModelRef<'a>),
    Predict(ModelRef<'a>),
    PredictBatch(ModelRef<'a>),
}

/// A model as a path names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelRef<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: Option<&'a str>,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    NotFound,
    /// The path exists, for these methods.
    Method {
        allow: &'static str,
    },
}

const GET: &str = "GET, HEAD";
const POST: &str = "POST";
const SEGMENTS_MAX: usize = 8;

/// Finds the route of a request.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, NoRoute> {
    // These two never reach a resource, so they are refused whatever the path.
    if matches!(*method, Method::TRACE | Method::CONNECT) {
        return Err(NoRoute::Method {
            allow: "GET, HEAD, POST",
        });
    }
    let mut segments = [""; SEGMENTS_MAX];
    let segments = split(path, &mut segments).ok_or(NoRoute::NotFound)?;
    let (allow, route) = match *segments {
        [""] => (GET, Route::Page),
        ["status"] => (GET, Route::Status),
        ["metrics"] => (GET, Route::Metrics),
        ["debug", "tree"] => (GET, Route::DebugTree),
        ["predict", name] => (POST, Route::Predict(model(name, None))),
        ["predict", name, "batch"] => (POST, Route::PredictBatch(model(name, None))),
        ["v2"] | ["v2", ""] => (GET, Route::Server),
        ["v2", "health", "live"] => (GET, Route::Live),
        ["v2", "health", "ready"] => (GET, Route::Ready),
        ["v2", "models"] => (GET, Route::Models),
        ["v2", "models", name] => (GET, Route::Model(model(name, None))),
        ["v2", "models", name, "ready"] => (GET, Route::ModelReady(model(name, None))),
        ["v2", "models", name, "infer"] => (POST, Route::Infer(model(name, None))),
        ["v2", "models", name, "versions", v] => (GET, Route::Model(model(name, Some(v)))),
        ["v2", "models", name, "versions", v, "ready"] => {
            (GET, Route::ModelReady(model(name, Some(v))))
        }
        ["v2", "models", name, "versions", v, "infer"] => {
            (POST, Route::Infer(model(name, Some(v))))
        }
        _ => return Err(NoRoute::NotFound),
    };
    let allowed = match *method {
        Method::GET | Method::HEAD => allow == GET,
        Method::POST => allow == POST,
        _ => false,
    };
    allowed.then_some(route).ok_or(NoRoute::Method { allow })
}

impl Route<'_> {
    /// Whether the control thread serves connections that begin with it. Everything else belongs to the data plane.
    pub(crate) const fn is_control(self) -> bool {
        matches!(
            self,
            Route::Page
                | Route::Status
                | Route::Metrics
                | Route::DebugTree
                | Route::Live
                | Route::Ready
                | Route::ModelReady(_)
        )
    }

    /// Whether it runs a model.
    pub(crate) const fn is_inference(self) -> bool {
        matches!(
            self,
            Route::Infer(_) | Route::Predict(_) | Route::PredictBatch(_)
        )
    }
}

/// Whether these first bytes of a connection are a request that the control thread serves.
pub(crate) fn begins_with_control(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(3, |byte| *byte == b' ');
    let (Some(method), Some(target), Some(_)) = (parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let method = match method {
        b"GET" => Method::GET,
        b"HEAD" => Method::HEAD,
        _ => return false,
    };
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    std::str::from_utf8(path).is_ok_and(|path| route(&method, path).is_ok_and(Route::is_control))
}

const fn model<'a>(name: &'a str, version: Option<&'a str>) -> ModelRef<'a> {
    ModelRef { name, version }
}

/// The segments behind the leading slash; `None` when there is no such slash or there are too many segments for any route.
fn split<'a, 'b>(
    path: &'a str,
    segments: &'b mut [&'a str; SEGMENTS_MAX],
) -> Option<&'b [&'a str]> {
    let mut count = 0;
    for segment in path.strip_prefix('/')?.split('/') {
        *segments.get_mut(count)? = segment;
        count += 1;
    }
    Some(&segments[..count])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(name: &str) -> ModelRef<'_> {
        model(name, None)
    }

    #[test]
    fn routes() {
        let rows = [
            ("GET", "/", Ok(Route::Page)),
            ("HEAD", "/metrics", Ok(Route::Metrics)),
            ("GET", "/v2", Ok(Route::Server)),
            ("GET", "/v2/", Ok(Route::Server)),
            ("GET", "/v2/health/live", Ok(Route::Live)),
            ("GET", "/v2/models/m", Ok(Route::Model(name("m")))),
            (
                "GET",
                "/v2/models/m/versions/2",
                Ok(Route::Model(model("m", Some("2")))),
            ),
            (
                "POST",
                "/v2/models/m/versions/2/infer",
                Ok(Route::Infer(model("m", Some("2")))),
            ),
            ("POST", "/predict/m", Ok(Route::Predict(name("m")))),
            (
                "POST",
                "/predict/m/batch",
                Ok(Route::PredictBatch(name("m"))),
            ),
            ("POST", "/predict/m/batch/", Err(NoRoute::NotFound)),
            ("POST", "//predict/m", Err(NoRoute::NotFound)),
            (
                "GET",
                "/v2/models/m/versions/1/infer/x/y/z",
                Err(NoRoute::NotFound),
            ),
            ("GET", "*", Err(NoRoute::NotFound)),
            ("GET", "", Err(NoRoute::NotFound)),
            ("GET", "/predict/m", Err(NoRoute::Method { allow: POST })),
            ("PUT", "/predict/m", Err(NoRoute::Method { allow: POST })),
            (
                "POST",
                "/v2/health/live",
                Err(NoRoute::Method { allow: GET }),
            ),
            ("OPTIONS", "/metrics", Err(NoRoute::Method { allow: GET })),
            (
                "TRACE",
                "/nowhere",
                Err(NoRoute::Method {
                    allow: "GET, HEAD, POST",
                }),
            ),
            (
                "CONNECT",
                "",
                Err(NoRoute::Method {
                    allow: "GET, HEAD, POST",
                }),
            ),
        ];
        for (method, path, expected) in rows {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            assert_eq!(route(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn the_first_bytes_tell_the_plane() {
        let rows: [(&[u8], bool); 10] = [
            (b"GET /v2/health/live HTTP/1.1\r\n", true),
            (b"HEAD /v2/health/ready HTTP/1.1\r\n", true),
            (b"GET /metrics?x=y HTTP/1.1\r\n", true),
            (b"GET / HTTP/1.1", true),
            (b"GET /v2/models/m/ready HTTP/1.1", true),
            (b"GET /v2/health/li", false),
            (b"POST /v2/health/live HTTP/1.1", false),
            (b"POST /predict/m HTTP/1.1", false),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false),
            (b"\xff\xff \xff \xff", false),
        ];
        for (bytes, control) in rows {
            assert_eq!(
                begins_with_control(bytes),
                control,
                "{}",
                bytes.escape_ascii()
            );
        }
    }
}
