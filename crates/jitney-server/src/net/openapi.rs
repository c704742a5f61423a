//! The document about the paths of this server: every path of the router's table, and those of each model that the caller sees.

use http::Method;
use jitney_engine::Spec;

use super::Net;
use super::router::{self, Channel, Form, Order, Route, View};
use crate::access::{Grant, Need};
use crate::failure::Code;
use crate::protocol::openapi::schemas::reference;
use crate::protocol::openapi::{self, Content, Example, Operation};

/// How a request for a model can fail that does not wait.
const OF_MODEL: [Code; 4] = [
    Code::UnknownModel,
    Code::NotReady,
    Code::Failed,
    Code::Draining,
];

/// How a request with a body can fail.
const OF_BODY: [Code; 5] = [
    Code::TooLarge,
    Code::UnsupportedMediaType,
    Code::Draining,
    Code::DeadlineExceeded,
    Code::Internal,
];

/// How running a model can fail.
const OF_RUN: [Code; 4] = [
    Code::ModelError,
    Code::WorkerCrashed,
    Code::OutputMismatch,
    Code::Internal,
];

/// The document for a caller.
pub(crate) fn document(net: &Net, grant: &Grant, version: &str) -> Vec<u8> {
    let mut operations = operations();
    let mut example = Example::default();
    for status in net.catalog.statuses() {
        if !status.default || !grant.sees(&status.name) {
            continue;
        }
        let Ok(lane) = net.catalog.model(&status.name, None) else {
            continue;
        };
        operations.extend(of_model(lane.name(), lane.spec()));
        if example.name.is_none() {
            example.name = Some(lane.name().to_owned());
            example.version = Some(lane.version().to_owned());
            for operation in &mut operations {
                give_example(operation, lane.spec());
            }
        }
    }
    openapi::document(version, &operations, &example, net.access.keyed())
}

/// Every operation of the router's table, but for gRPC, whose description is its own.
fn operations() -> Vec<Operation> {
    let paths = router::paths();
    let all = paths.iter().flat_map(|path| {
        let methods = [("get", Method::GET), ("post", Method::POST)];
        methods.into_iter().filter_map(move |(word, method)| {
            let route = router::route(&method, path).ok()?;
            let operation = describe(route, None)?;
            Some(Operation {
                id: id(word, path),
                method: word,
                path: path.clone(),
                ..operation
            })
        })
    });
    all.collect()
}

/// The operations of one model under its own name, with its own schemas.
fn of_model(name: &str, spec: &Spec) -> Vec<Operation> {
    let paths = ["", "/batch", "/stream"].map(|rest| format!("/predict/{name}{rest}"));
    let operations = paths.into_iter().filter_map(|path| {
        let route = router::route(&Method::POST, &path).ok()?;
        let mut operation = describe(route, Some(spec))?;
        operation.summary = format!("{} ({name})", operation.summary);
        if let (Some(body), Some(item)) = (operation.body.first_mut(), openapi::item_example(spec))
        {
            let is_batch = path.ends_with("/batch");
            body.example = Some(if is_batch {
                [item].into_iter().collect()
            } else {
                item
            });
        }
        Some(Operation {
            method: "post",
            path,
            ..operation
        })
    });
    operations.collect()
}

/// Something to try where the path names a model by an example.
fn give_example(operation: &mut Operation, spec: &Spec) {
    if operation.path.ends_with("/infer")
        && let Some(body) = operation.body.first_mut()
    {
        body.example = openapi::infer_example(spec);
    }
}

fn id(method: &str, path: &str) -> String {
    let segments = path.split('/').filter(|segment| !segment.is_empty());
    let plain = |segment: &str| segment.trim_matches(['{', '}']).replace('.', "_");
    let words = segments.map(plain);
    std::iter::once(method.to_owned())
        .chain(words)
        .collect::<Vec<_>>()
        .join("_")
}

/// What a route is, with the schemas of a model where it is known.
fn describe(route: Route<'_>, spec: Option<&Spec>) -> Option<Operation> {
    let operation = match route {
        Route::Control(view) => of_view(view),
        Route::Manage(order) => of_order(order),
        Route::Infer(form, _) => of_form(form, spec),
        Route::Stream(channel, _) => of_channel(channel, spec),
        Route::WebSocket(_) => of_websocket(),
        Route::Grpc(_) => return None,
    };
    Some(Operation {
        key: route.need() != Need::Nothing,
        ..operation
    })
}

fn of_view(view: View<'_>) -> Operation {
    let page = || vec![Content::text("text/html")];
    let (tag, summary, answer, failures): (_, _, _, &[Code]) = match view {
        View::Page => ("server", "A page that shows the models", page(), &[]),
        View::Docs => ("server", "This document as a page", page(), &[]),
        View::OpenApi => (
            "server",
            "This document",
            vec![Content::json(openapi::anything("object"))],
            &[],
        ),
        View::Status => ("server", "What the page shows", schema("Status"), &[]),
        View::Metrics => (
            "server",
            "Numbers for Prometheus",
            vec![Content::text("application/openmetrics-text")],
            &[],
        ),
        View::DebugTree => (
            "server",
            "Everything that the server is doing",
            vec![Content::text("text/plain")],
            &[],
        ),
        View::Server => (
            "protocol",
            "The server and its extensions",
            schema("Server"),
            &[],
        ),
        View::Live => ("protocol", "Whether the server lives", schema("Live"), &[]),
        View::Ready => (
            "protocol",
            "Whether the server takes requests",
            schema("Ready"),
            &[Code::NotReady, Code::Draining],
        ),
        View::Models => ("protocol", "The names of the models", schema("Models"), &[]),
        View::Model(_) => (
            "protocol",
            "The inputs and outputs of a model",
            schema("Model"),
            &OF_MODEL,
        ),
        View::ModelReady(_) => (
            "protocol",
            "Whether a model takes requests",
            schema("ModelReady"),
            &OF_MODEL,
        ),
        View::Configuration(_) => (
            "extensions",
            "How a model is served",
            schema("Configuration"),
            &OF_MODEL,
        ),
        View::Statistics(None) => (
            "extensions",
            "What the models have done",
            schema("Statistics"),
            &[],
        ),
        View::Statistics(Some(_)) => (
            "extensions",
            "What a model has done",
            schema("Statistics"),
            &OF_MODEL,
        ),
        View::Logging => (
            "extensions",
            "Which lines the log has",
            schema("LogSettings"),
            &[Code::NotFound],
        ),
        View::Tracing(None) => (
            "extensions",
            "Which requests are traced",
            schema("TraceSettings"),
            &[],
        ),
        View::Tracing(Some(_)) => (
            "extensions",
            "Which requests of a model are traced",
            schema("TraceSettings"),
            &[Code::UnknownModel],
        ),
    };
    Operation {
        tag,
        summary: summary.to_owned(),
        answer,
        failures: failures.to_vec(),
        ..blank()
    }
}

fn of_order(order: Order<'_>) -> Operation {
    let (summary, body, answer, failures): (_, _, _, &[Code]) = match order {
        Order::Index(None) => (
            "The models that there are, loaded or not",
            "IndexRequest",
            "Index",
            &[],
        ),
        Order::Index(Some(_)) => (
            "The models of one repository",
            "IndexRequest",
            "Index",
            &[Code::NotFound],
        ),
        Order::Load(..) => (
            "Load a model, or load it again",
            "LoadRequest",
            "Loaded",
            &[
                Code::NotFound,
                Code::UnknownModel,
                Code::Failed,
                Code::NotReady,
            ],
        ),
        Order::Unload(..) => (
            "Unload a model",
            "UnloadRequest",
            "Unloaded",
            &[Code::NotFound, Code::UnknownModel, Code::NotReady],
        ),
        Order::Logging => (
            "Set which lines the log has",
            "LogSettings",
            "LogSettings",
            &[Code::NotFound],
        ),
        Order::Tracing(None) => (
            "Set which requests are traced",
            "TraceSettings",
            "TraceSettings",
            &[],
        ),
        Order::Tracing(Some(_)) => (
            "Set which requests of a model are traced; null takes a setting back",
            "TraceSettings",
            "TraceSettings",
            &[Code::UnknownModel],
        ),
    };
    Operation {
        tag: "extensions",
        summary: summary.to_owned(),
        body: schema(body),
        answer: schema(answer),
        failures: [failures, &OF_BODY].concat(),
        ..blank()
    }
}

fn of_form(form: Form, spec: Option<&Spec>) -> Operation {
    let (item, prediction) = own(spec);
    let (tag, summary, description, body, answer) = match form {
        Form::Predict => (
            "predict",
            "One prediction",
            "",
            vec![Content::json(item)],
            vec![Content::json(prediction)],
        ),
        Form::PredictBatch => (
            "predict",
            "Many predictions, each with its own answer or error",
            "As an array, or as NDJSON: an item a line in, an answer a line out.",
            vec![
                Content::json(openapi::batch_body(&item)),
                Content::text("application/x-ndjson"),
            ],
            vec![
                Content::json(openapi::batch_answer(&prediction)),
                Content::text("application/x-ndjson"),
            ],
        ),
        Form::Protocol => (
            "protocol",
            "Run a model on tensors",
            "Raw tensors may follow the JSON of the body, and of the answer where it is asked for: Inference-Header-Content-Length says how long the JSON is.",
            schema("InferRequest"),
            vec![
                Content::json(reference("InferResponse")),
                Content::text("application/octet-stream"),
            ],
        ),
        Form::Generate => (
            "extensions",
            "Run a model on values by their names, for one answer",
            "",
            schema("GenerateRequest"),
            schema("GenerateResponse"),
        ),
    };
    Operation {
        tag,
        summary: summary.to_owned(),
        description,
        body,
        body_required: true,
        answer,
        failures: [&OF_MODEL[..], &OF_BODY, &OF_RUN].concat(),
        timed: true,
        ..blank()
    }
}

fn of_channel(channel: Channel, spec: Option<&Spec>) -> Operation {
    let (item, _) = own(spec);
    let events = || vec![Content::of("text/event-stream", reference("Event"))];
    match channel {
        Channel::Predict => Operation {
            tag: "predict",
            summary: "Predictions as they come".to_owned(),
            description: "Server-sent events, each with a prediction. An error after the first is the last event.",
            body: vec![Content::json(item)],
            answer: events(),
            ..of_form(Form::Predict, None)
        },
        Channel::Generate => Operation {
            summary: "Run a model on values by their names, for answers as they come".to_owned(),
            description: "Server-sent events, each with an answer. An error after the first is the last event.",
            answer: events(),
            ..of_form(Form::Generate, None)
        },
    }
}

fn of_websocket() -> Operation {
    Operation {
        tag: "protocol",
        summary: "Many requests on one WebSocket".to_owned(),
        status: 101,
        failures: [&OF_MODEL[..], &[Code::UpgradeRequired]].concat(),
        ..blank()
    }
}

fn own(spec: Option<&Spec>) -> (openapi::Schema, openapi::Schema) {
    match spec {
        Some(spec) => (openapi::item(spec), openapi::prediction(spec)),
        None => (openapi::anything(""), reference("Prediction")),
    }
}

fn schema(name: &str) -> Vec<Content> {
    vec![Content::json(reference(name))]
}

fn blank() -> Operation {
    Operation {
        path: String::new(),
        method: "",
        id: String::new(),
        tag: "",
        summary: String::new(),
        description: "",
        body: Vec::new(),
        body_required: false,
        status: 200,
        answer: Vec::new(),
        failures: Vec::new(),
        key: true,
        timed: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_path_of_the_table_is_described() {
        let operations = operations();
        let described: HashSet<&str> = operations
            .iter()
            .map(|operation| &*operation.path)
            .collect();
        let paths = router::paths();
        let missing: Vec<_> = paths
            .iter()
            .filter(|path| !described.contains(path.as_str()))
            .collect();
        assert_eq!(missing, ["/{service}/{method}"], "gRPC describes itself");
        let ids: HashSet<&str> = operations.iter().map(|operation| &*operation.id).collect();
        assert_eq!(ids.len(), operations.len());
        assert!(
            operations
                .iter()
                .all(|operation| !operation.summary.is_empty())
        );
    }
}
