//! Which request goes where, and what it takes to be let in: one table.

use std::borrow::Cow;

use http::Method;

use crate::access::Need;

/// A route, with the names that its path carries. Whether such a model exists is the catalog's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Tells of the server and never waits.
    Control(View<'a>),
    /// Changes the server, or asks it something with a body.
    Manage(Order<'a>),
    /// Runs a model, and answers once.
    Infer(Form, ModelRef<'a>),
    /// Runs a model, and answers with events as often as it does.
    Stream(Channel, ModelRef<'a>),
    /// Runs a model for many requests on one connection.
    WebSocket(ModelRef<'a>),
    /// A method of a service of gRPC.
    Grpc(Call<'a>),
}

/// What the server can be asked about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum View<'a> {
    Page,
    Docs,
    OpenApi,
    Status,
    Metrics,
    DebugTree,
    Server,
    Live,
    Ready,
    Models,
    Model(ModelRef<'a>),
    ModelReady(ModelRef<'a>),
    Configuration(ModelRef<'a>),
    Statistics(Option<ModelRef<'a>>),
    Logging,
    /// Of the server, or of one model.
    Tracing(Option<&'a str>),
}

/// What the server can be told to do, or asked with a body. Repositories are named where the path names one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    Index(Repository<'a>),
    Load(Repository<'a>, &'a str),
    Unload(Repository<'a>, &'a str),
    Logging,
    Tracing(Option<&'a str>),
}

/// A repository as a path names it; `None` where it names none and all are meant.
pub(crate) type Repository<'a> = Option<&'a str>;

/// How a model is asked for one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// One item.
    Predict,
    /// Many items, each with its own answer.
    PredictBatch,
    /// The Open Inference Protocol.
    Protocol,
    /// Triton's generate extension.
    Generate,
}

/// How a model is asked for any number of answers, which come as server-sent events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    /// One item.
    Predict,
    /// Triton's generate extension.
    Generate,
}

/// A model as a path names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ModelRef<'a> {
    pub(crate) name: &'a str,
    pub(crate) version: Option<&'a str>,
}

/// A method of gRPC as a path names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Call<'a> {
    pub(crate) service: &'a str,
    pub(crate) method: &'a str,
}

/// Why there is no route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    NotFound,
    /// There is something under the path without the slash at its end.
    Slash,
    /// The escapes of the path stand for no text, or for a slash.
    Escapes,
    /// The path exists, for these methods.
    Method {
        allow: &'static str,
    },
}

/// What is served under a path, by method.
#[derive(Clone, Copy)]
struct Resource<'a> {
    get: Option<Route<'a>>,
    post: Option<Route<'a>>,
}

const SEGMENTS_MAX: usize = 8;

/// A path as routes are found by it: without the escapes (`%5F`) that any character of a URL may be written with.
///
/// An escaped slash separates nothing, and no name has one, so there is nothing under such a path.
pub(crate) fn plain(path: &str) -> Result<Cow<'_, str>, NoRoute> {
    if path.contains('%') {
        let unescaped = unescape(path.as_bytes()).ok_or(NoRoute::Escapes)?;
        let text = String::from_utf8(unescaped);
        text.map(Cow::Owned).map_err(|_| NoRoute::Escapes)
    } else {
        Ok(Cow::Borrowed(path))
    }
}

fn unescape(mut bytes: &[u8]) -> Option<Vec<u8>> {
    let mut unescaped = Vec::with_capacity(bytes.len());
    loop {
        match *bytes {
            [] => return Some(unescaped),
            [b'%', high, low, ref rest @ ..] => {
                let digit = |digit| char::from(digit).to_digit(16);
                let byte = u8::try_from(digit(high)? * 16 + digit(low)?).ok()?;
                if byte == b'/' {
                    return None;
                }
                unescaped.push(byte);
                bytes = rest;
            }
            [b'%', ..] => return None,
            [byte, ref rest @ ..] => {
                unescaped.push(byte);
                bytes = rest;
            }
        }
    }
}

/// Finds the route of a request, by its [`plain`] path.
pub(crate) fn route<'a>(method: &Method, path: &'a str) -> Result<Route<'a>, NoRoute> {
    let mut segments = [""; SEGMENTS_MAX];
    let found = split(path, &mut segments)
        .ok_or(NoRoute::NotFound)
        .and_then(found);
    // These two never reach a resource, so they are refused whatever the path.
    if matches!(*method, Method::TRACE | Method::CONNECT) {
        let allow = found.map_or("GET, HEAD, POST", Resource::allow);
        return Err(NoRoute::Method { allow });
    }
    found?.on(method)
}

fn found<'a>(segments: &[&'a str]) -> Result<Resource<'a>, NoRoute> {
    match *segments {
        // Under no path but these two is there anything with a slash at its end.
        [""] | ["v2", ""] => resource(segments).ok_or(NoRoute::NotFound),
        [ref before @ .., ""] => Err(match resource(before) {
            Some(_) => NoRoute::Slash,
            None => NoRoute::NotFound,
        }),
        _ => resource(segments).ok_or(NoRoute::NotFound),
    }
}

/// Writes a table of paths: the patterns of their segments, and what is served under each. The patterns are kept as text too, from which the
/// document of the server's paths is made: it cannot lack one.
macro_rules! table {
    ($(#[$doc:meta])* fn $name:ident($segments:ident $(, $model:ident)?), $patterns:ident: $($pattern:pat $(if $guard:expr)? => $resource:expr,)*) => {
        const $patterns: &[&str] = &[$(stringify!($pattern)),*];

        $(#[$doc])*
        fn $name<'a>($($model: ModelRef<'a>,)? $segments: &[&'a str]) -> Option<Resource<'a>> {
            Some(match *$segments {
                $($pattern $(if $guard)? => $resource,)*
                _ => return None,
            })
        }
    };
}

table! {
    fn resource(segments), PATTERNS:
    [""] => view(View::Page),
    ["docs"] => view(View::Docs),
    ["openapi.json"] => view(View::OpenApi),
    ["status"] => view(View::Status),
    ["metrics"] => view(View::Metrics),
    ["debug", "tree"] => view(View::DebugTree),
    // What Amazon SageMaker asks.
    ["ping"] => view(View::Ready),
    ["predict", name] => infer(Form::Predict, model(name, None)),
    ["predict", name, "batch"] => infer(Form::PredictBatch, model(name, None)),
    ["predict", name, "stream"] => stream(Channel::Predict, model(name, None)),
    ["v2"] | ["v2", ""] => view(View::Server),
    ["v2", "health", "live"] => view(View::Live),
    ["v2", "health", "ready"] => view(View::Ready),
    ["v2", "logging"] => view_and_order(View::Logging, Order::Logging),
    ["v2", "trace", "setting"] => tracing(None),
    ["v2", "repository", "index"] => order(Order::Index(None)),
    ["v2", "repository", repository, "index"] => order(Order::Index(Some(repository))),
    ["v2", "repository", "models", name, "load"] => order(Order::Load(None, name)),
    ["v2", "repository", "models", name, "unload"] => order(Order::Unload(None, name)),
    ["v2", "repository", repository, "models", name, "load"] => order(Order::Load(Some(repository), name)),
    ["v2", "repository", repository, "models", name, "unload"] => order(Order::Unload(Some(repository), name)),
    ["v2", "models"] => view(View::Models),
    ["v2", "models", "stats"] => view(View::Statistics(None)),
    ["v2", "models", name, "versions", version, ref of_model @ ..] => {
        return model_resource(model(name, Some(version)), of_model);
    },
    ["v2", "models", name, "trace", "setting"] => tracing(Some(name)),
    ["v2", "models", name, ref of_model @ ..] => {
        return model_resource(model(name, None), of_model);
    },
    // The name of a service has its package before a dot.
    [service, method] if service.contains('.') => Resource {
        get: None,
        post: Some(Route::Grpc(Call { service, method })),
    },
}

table! {
    /// What stands behind the name of a model, or behind its version.
    fn model_resource(segments, model), MODEL_PATTERNS:
    [] => view(View::Model(model)),
    ["ready"] => view(View::ModelReady(model)),
    ["config"] => view(View::Configuration(model)),
    ["stats"] => view(View::Statistics(Some(model))),
    ["infer"] => infer(Form::Protocol, model),
    ["generate"] => infer(Form::Generate, model),
    ["generate_stream"] => stream(Channel::Generate, model),
    ["stream"] => Resource {
        get: Some(Route::WebSocket(model)),
        post: None,
    },
}

/// Every path that is served, as `/v2/models/{name}`, in the order of the table. A path is a template of itself: [`route`] takes it.
pub(crate) fn paths() -> Vec<String> {
    let (mut paths, models) = (
        Vec::new(),
        MODEL_PATTERNS.iter().map(|pattern| path(pattern)),
    );
    let models: Vec<_> = models.collect();
    for pattern in PATTERNS {
        match path(pattern).strip_suffix("/..") {
            None => paths.push(path(pattern)),
            Some(path) => paths.extend(models.iter().map(|of_model| {
                format!("{path}{}", of_model.strip_suffix('/').unwrap_or(of_model))
            })),
        }
    }
    paths
}

/// The path of a pattern: of `["v2", "models", name]`, `/v2/models/{name}`. Of several patterns that mean the same, the first.
fn path(pattern: &str) -> String {
    let first = pattern.split(" | ").next().unwrap_or_default();
    let segments = first.trim_matches(['[', ']']).split(',').map(str::trim);
    let segment = |segment: &str| match segment.trim_matches('"') {
        rest if rest.ends_with("..") => "..".to_owned(),
        literal if literal.len() < segment.len() || segment.is_empty() => literal.to_owned(),
        name => format!("{{{name}}}"),
    };
    let segments: Vec<String> = segments.map(segment).collect();
    format!("/{}", segments.join("/"))
}

const fn view(view: View<'_>) -> Resource<'_> {
    Resource {
        get: Some(Route::Control(view)),
        post: None,
    }
}

const fn order(order: Order<'_>) -> Resource<'_> {
    Resource {
        get: None,
        post: Some(Route::Manage(order)),
    }
}

const fn view_and_order<'a>(view: View<'a>, order: Order<'a>) -> Resource<'a> {
    Resource {
        get: Some(Route::Control(view)),
        post: Some(Route::Manage(order)),
    }
}

const fn tracing(model: Option<&str>) -> Resource<'_> {
    view_and_order(View::Tracing(model), Order::Tracing(model))
}

const fn infer(form: Form, model: ModelRef<'_>) -> Resource<'_> {
    Resource {
        get: None,
        post: Some(Route::Infer(form, model)),
    }
}

const fn stream(channel: Channel, model: ModelRef<'_>) -> Resource<'_> {
    Resource {
        get: None,
        post: Some(Route::Stream(channel, model)),
    }
}

impl<'a> Resource<'a> {
    fn on(self, method: &Method) -> Result<Route<'a>, NoRoute> {
        let route = match *method {
            Method::GET | Method::HEAD => self.get,
            Method::POST => self.post,
            _ => None,
        };
        let allow = self.allow();
        route.ok_or(NoRoute::Method { allow })
    }

    const fn allow(self) -> &'static str {
        match (self.get, self.post) {
            (Some(_), Some(_)) => "GET, HEAD, POST",
            (Some(_), None) => "GET, HEAD",
            (None, _) => "POST",
        }
    }
}

impl<'a> Route<'a> {
    /// What it takes to be let in.
    pub(crate) fn need(self) -> Need {
        match self {
            // The two pages are the program's, the same on every server. What they show they ask for with the key that they are given.
            Route::Control(View::Live | View::Ready | View::Page | View::Docs) => Need::Nothing,
            Route::Control(View::DebugTree) => Need::Admin,
            Route::Control(_) | Route::Manage(Order::Index(_)) => Need::Look,
            Route::Infer(..) | Route::Stream(..) | Route::WebSocket(_) => Need::Infer,
            Route::Manage(_) => Need::Admin,
            Route::Grpc(call) => call.need(),
        }
    }

    /// The model that the path names.
    pub(crate) const fn model(self) -> Option<&'a str> {
        match self {
            Route::Control(
                View::Model(model)
                | View::ModelReady(model)
                | View::Configuration(model)
                | View::Statistics(Some(model)),
            )
            | Route::Infer(_, model)
            | Route::Stream(_, model)
            | Route::WebSocket(model) => Some(model.name),
            Route::Control(View::Tracing(model)) | Route::Manage(Order::Tracing(model)) => model,
            Route::Manage(Order::Load(_, model) | Order::Unload(_, model)) => Some(model),
            Route::Control(_) | Route::Manage(_) | Route::Grpc(_) => None,
        }
    }

    /// Whether the control thread serves connections that begin with it. Metadata does not: clients of models ask for it first, on the
    /// connection that they then infer on.
    const fn is_for_control_thread(self) -> bool {
        match self {
            Route::Control(view) => !matches!(
                view,
                View::Server
                    | View::Models
                    | View::Model(_)
                    | View::Configuration(_)
                    | View::OpenApi
            ),
            Route::Manage(_)
            | Route::Infer(..)
            | Route::Stream(..)
            | Route::WebSocket(_)
            | Route::Grpc(_) => false,
        }
    }

    /// Whether it may read or write much, or wait, which the control thread must never do.
    pub(crate) const fn is_work(self) -> bool {
        match self {
            Route::Control(view) => matches!(view, View::OpenApi),
            Route::Manage(_)
            | Route::Infer(..)
            | Route::Stream(..)
            | Route::WebSocket(_)
            | Route::Grpc(_) => true,
        }
    }
}

impl Channel {
    /// How one answer is asked for in the same way.
    pub(crate) const fn form(self) -> Form {
        match self {
            Channel::Predict => Form::Predict,
            Channel::Generate => Form::Generate,
        }
    }
}

impl Call<'_> {
    /// The models are named in the messages, so whether the caller may see one is asked there again.
    fn need(self) -> Need {
        match (self.service, self.method) {
            ("grpc.health.v1.Health", _)
            | ("inference.GRPCInferenceService", "ServerLive" | "ServerReady") => Need::Nothing,
            ("inference.GRPCInferenceService", "ModelInfer" | "ModelStreamInfer") => Need::Infer,
            (
                "inference.GRPCInferenceService",
                "RepositoryModelLoad" | "RepositoryModelUnload" | "LogSettings" | "TraceSetting",
            ) => Need::Admin,
            _ => Need::Look,
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
            ("POST", "/predict/m/batch/", Err(NoRoute::Slash)),
            ("POST", "/predict/m/", Err(NoRoute::Slash)),
            ("GET", "/v2/models/", Err(NoRoute::Slash)),
            ("GET", "/docs/", Err(NoRoute::Slash)),
            ("GET", "/v2/models/m//", Err(NoRoute::NotFound)),
            ("POST", "/predict/", Err(NoRoute::NotFound)),
            ("GET", "//", Err(NoRoute::Slash)),
            ("POST", "//predict/m", Err(NoRoute::NotFound)),
            (
                "GET",
                "/v2/models/m/versions/1/infer/x/y/z",
                Err(NoRoute::NotFound),
            ),
            ("GET", "*", Err(NoRoute::NotFound)),
            ("GET", "", Err(NoRoute::NotFound)),
            ("GET", "/predict/m", Err(NoRoute::Method { allow: "POST" })),
            ("PUT", "/predict/m", Err(NoRoute::Method { allow: "POST" })),
            (
                "POST",
                "/v2/health/live",
                Err(NoRoute::Method { allow: "GET, HEAD" }),
            ),
            (
                "OPTIONS",
                "/metrics",
                Err(NoRoute::Method { allow: "GET, HEAD" }),
            ),
            (
                "GET",
                "/v2/models/m/versions/2/stream",
                Ok(Route::WebSocket(model("m", Some("2")))),
            ),
            (
                "POST",
                "/v2/repository/r/models/m/load",
                Ok(Route::Manage(Order::Load(Some("r"), "m"))),
            ),
            (
                "POST",
                "/inference.GRPCInferenceService/ModelInfer",
                Ok(Route::Grpc(Call {
                    service: "inference.GRPCInferenceService",
                    method: "ModelInfer",
                })),
            ),
            (
                "PUT",
                "/v2/logging",
                Err(NoRoute::Method {
                    allow: "GET, HEAD, POST",
                }),
            ),
            (
                "TRACE",
                "/nowhere",
                Err(NoRoute::Method {
                    allow: "GET, HEAD, POST",
                }),
            ),
            ("TRACE", "/v2", Err(NoRoute::Method { allow: "GET, HEAD" })),
            (
                "CONNECT",
                "/predict/m",
                Err(NoRoute::Method { allow: "POST" }),
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
    fn escapes() {
        let rows = [
            ("/predict/m", Ok("/predict/m")),
            ("/predict/e%5FFP32", Ok("/predict/e_FP32")),
            ("/predict/e%5fFP32", Ok("/predict/e_FP32")),
            ("/pr%65dict/%6D", Ok("/predict/m")),
            ("/predict/%C3%A4", Ok("/predict/ä")),
            // Once is enough.
            ("/predict/%2541", Ok("/predict/%41")),
            ("/predict/a%2Fbatch", Err(NoRoute::Escapes)),
            ("/predict%2fm", Err(NoRoute::Escapes)),
            ("/predict/%ff", Err(NoRoute::Escapes)),
            ("/predict/%ED%A0%80", Err(NoRoute::Escapes)),
            ("/predict/%", Err(NoRoute::Escapes)),
            ("/predict/%5", Err(NoRoute::Escapes)),
            ("/predict/%5G", Err(NoRoute::Escapes)),
            ("/predict/%+5", Err(NoRoute::Escapes)),
        ];
        for (path, expected) in rows {
            assert_eq!(plain(path).as_deref(), expected.as_ref().copied(), "{path}");
        }
        assert!(matches!(plain("/predict/m"), Ok(Cow::Borrowed(_))));
    }

    #[test]
    fn every_pattern_is_a_path_that_is_served() {
        let paths = paths();
        for expected in [
            "/",
            "/v2",
            "/predict/{name}/batch",
            "/v2/models/{name}",
            "/v2/models/{name}/versions/{version}",
            "/v2/models/{name}/versions/{version}/infer",
            "/v2/repository/{repository}/models/{name}/load",
        ] {
            assert!(paths.iter().any(|path| path == expected), "{expected}");
        }
        let served = |path: &str| {
            [Method::GET, Method::POST]
                .iter()
                .any(|method| route(method, path).is_ok())
        };
        // Which services there are is not the router's to say.
        let lost: Vec<_> = paths.iter().filter(|path| !served(path)).collect();
        assert_eq!(lost, ["/{service}/{method}"]);
        assert!(paths.iter().all(|path| !path.contains("..")), "{paths:?}");
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
