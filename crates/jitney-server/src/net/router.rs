//! Which request goes where: one table.

use http::Method;

/// A route, with the names that its path carries. Names are as they came: whether such a model exists is the catalog's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Tells of the server and never waits.
    Control(View<'a>),
    /// Runs a model.
    Infer(Form, ModelRef<'a>),
}

/// What the server can be asked about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View<'a> {
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
}

/// How a model is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One item.
    Predict,
    /// Many items, each with its own answer.
    PredictBatch,
    /// The Open Inference Protocol.
    Protocol,
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
    let get = |view| (GET, Route::Control(view));
    let post = |form, name, version| (POST, Route::Infer(form, model(name, version)));
    let (allow, route) = match *segments {
        [""] => get(View::Page),
        ["status"] => get(View::Status),
        ["metrics"] => get(View::Metrics),
        ["debug", "tree"] => get(View::DebugTree),
        ["predict", name] => post(Form::Predict, name, None),
        ["predict", name, "batch"] => post(Form::PredictBatch, name, None),
        ["v2"] | ["v2", ""] => get(View::Server),
        ["v2", "health", "live"] => get(View::Live),
        ["v2", "health", "ready"] => get(View::Ready),
        ["v2", "models"] => get(View::Models),
        ["v2", "models", name] => get(View::Model(model(name, None))),
        ["v2", "models", name, "ready"] => get(View::ModelReady(model(name, None))),
        ["v2", "models", name, "infer"] => post(Form::Protocol, name, None),
        ["v2", "models", name, "versions", v] => get(View::Model(model(name, Some(v)))),
        ["v2", "models", name, "versions", v, "ready"] => {
            get(View::ModelReady(model(name, Some(v))))
        }
        ["v2", "models", name, "versions", v, "infer"] => post(Form::Protocol, name, Some(v)),
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
    /// Whether the control thread serves connections that begin with it. Metadata does not: clients of models ask for it first, on the
    /// connection that they then infer on.
    const fn is_for_control_thread(self) -> bool {
        match self {
            Route::Control(view) => !matches!(view, View::Server | View::Models | View::Model(_)),
            Route::Infer(..) => false,
        }
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
    std::str::from_utf8(path)
        .is_ok_and(|path| route(&method, path).is_ok_and(Route::is_for_control_thread))
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
            ("GET", "/", Ok(Route::Control(View::Page))),
            ("HEAD", "/metrics", Ok(Route::Control(View::Metrics))),
            ("GET", "/v2", Ok(Route::Control(View::Server))),
            ("GET", "/v2/", Ok(Route::Control(View::Server))),
            ("GET", "/v2/health/live", Ok(Route::Control(View::Live))),
            (
                "GET",
                "/v2/models/m",
                Ok(Route::Control(View::Model(name("m")))),
            ),
            (
                "GET",
                "/v2/models/m/versions/2",
                Ok(Route::Control(View::Model(model("m", Some("2"))))),
            ),
            (
                "POST",
                "/v2/models/m/versions/2/infer",
                Ok(Route::Infer(Form::Protocol, model("m", Some("2")))),
            ),
            (
                "POST",
                "/predict/m",
                Ok(Route::Infer(Form::Predict, name("m"))),
            ),
            (
                "POST",
                "/predict/m/batch",
                Ok(Route::Infer(Form::PredictBatch, name("m"))),
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
