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
    let text = |summary, media| Operation::new("server", summary, vec![Content::text(media)]);
    let server = |summary, answer| Operation::new("server", summary, vec![Content::json(answer)]);
    let protocol = |summary, answer| Operation::new("protocol", summary, schema(answer));
    let extension = |summary, answer| Operation::new("extensions", summary, schema(answer));
    let operation = match view {
        View::Page => text("A page that shows the models", "text/html"),
        View::Docs => text("This document as a page", "text/html"),
        View::OpenApi => server("This document", openapi::anything("object")),
        View::Status => server("What the page shows", reference("Status")),
        View::Metrics => text("Numbers for Prometheus", "application/openmetrics-text"),
        View::DebugTree => text("Everything that the server is doing", "text/plain"),
        View::Server => protocol("The server and its extensions", "Server"),
        View::Live => protocol("Whether the server lives", "Live"),
        View::Ready => protocol("Whether the server takes requests", "Ready"),
        View::Models => protocol("The names of the models", "Models"),
        View::Model(_) => protocol("The inputs and outputs of a model", "Model"),
        View::ModelReady(_) => protocol("Whether a model takes requests", "ModelReady"),
        View::Configuration(_) => extension("How a model is served", "Configuration"),
        View::Statistics(None) => extension("What the models have done", "Statistics"),
        View::Statistics(Some(_)) => extension("What a model has done", "Statistics"),
        View::Logging => extension("Which lines the log has", "LogSettings"),
        View::Tracing(None) => extension("Which requests are traced", "TraceSettings"),
        View::Tracing(Some(_)) => {
            extension("Which requests of a model are traced", "TraceSettings")
        }
    };
    operation.failing(match view {
        View::Ready => &[Code::NotReady, Code::Draining],
        View::Model(_) | View::ModelReady(_) | View::Configuration(_) => &OF_MODEL,
        View::Statistics(Some(_)) => &OF_MODEL,
        View::Logging => &[Code::NotFound],
        View::Tracing(Some(_)) => &[Code::UnknownModel],
        _ => &[],
    })
}

fn of_order(order: Order<'_>) -> Operation {
    let takes = |body, summary, answer| {
        Operation::new("extensions", summary, schema(answer)).taking(schema(body))
    };
    let operation = match order {
        Order::Index(None) => takes(
            "IndexRequest",
            "The models that there are, loaded or not",
            "Index",
        ),
        Order::Index(Some(_)) => takes("IndexRequest", "The models of one repository", "Index"),
        Order::Load(..) => takes("LoadRequest", "Load a model, or load it again", "Loaded"),
        Order::Unload(..) => takes("UnloadRequest", "Unload a model", "Unloaded"),
        Order::Logging => takes("LogSettings", "Set which lines the log has", "LogSettings"),
        Order::Tracing(None) => takes(
            "TraceSettings",
            "Set which requests are traced",
            "TraceSettings",
        ),
        Order::Tracing(Some(_)) => takes(
            "TraceSettings",
            "Set which requests of a model are traced; null takes a setting back",
            "TraceSettings",
        ),
    };
    let failures: &[Code] = match order {
        Order::Index(None) | Order::Tracing(None) => &[],
        Order::Index(Some(_)) | Order::Logging => &[Code::NotFound],
        Order::Load(..) => &[
            Code::NotFound,
            Code::UnknownModel,
            Code::Failed,
            Code::NotReady,
        ],
        Order::Unload(..) => &[Code::NotFound, Code::UnknownModel, Code::NotReady],
        Order::Tracing(Some(_)) => &[Code::UnknownModel],
    };
    operation.failing(failures).failing(&OF_BODY)
}

fn of_form(form: Form, spec: Option<&Spec>) -> Operation {
    let (item, prediction) = own(spec);
    let lines = || Content::text("application/x-ndjson");
    let operation = match form {
        Form::Predict => {
            Operation::new("predict", "One prediction", vec![Content::json(prediction)])
                .taking(vec![Content::json(item)])
        }
        Form::PredictBatch => Operation {
            description: "As an array, or as NDJSON: an item a line in, an answer a line out.",
            body: vec![Content::json(openapi::batch_body(&item)), lines()],
            ..Operation::new(
                "predict",
                "Many predictions, each with its own answer or error",
                vec![Content::json(openapi::batch_answer(&prediction)), lines()],
            )
        },
        Form::Protocol => Operation {
            description: "Raw tensors may follow the JSON of the body, and of the answer where it is asked for: Inference-Header-Content-Length says how long the JSON is.",
            body: schema("InferRequest"),
            ..Operation::new(
                "protocol",
                "Run a model on tensors",
                vec![
                    Content::json(reference("InferResponse")),
                    Content::text("application/octet-stream"),
                ],
            )
        },
        Form::Generate => Operation::new(
            "extensions",
            "Run a model on values by their names, for one answer",
            schema("GenerateResponse"),
        )
        .taking(schema("GenerateRequest")),
    };
    Operation {
        body_required: true,
        timed: true,
        ..operation
    }
    .failing(&OF_MODEL)
    .failing(&OF_BODY)
    .failing(&OF_RUN)
}

fn of_channel(channel: Channel, spec: Option<&Spec>) -> Operation {
    let (summary, description) = match channel {
        Channel::Predict => (
            "Predictions as they come",
            "Server-sent events, each with a prediction. An error after the first is the last event.",
        ),
        Channel::Generate => (
            "Run a model on values by their names, for answers as they come",
            "Server-sent events, each with an answer. An error after the first is the last event.",
        ),
    };
    Operation {
        summary: summary.to_owned(),
        description,
        answer: vec![Content::of("text/event-stream", reference("Event"))],
        ..of_form(channel.form(), spec)
    }
}

fn of_websocket() -> Operation {
    let operation = Operation::new("protocol", "Many requests on one WebSocket", Vec::new());
    let operation = operation
        .failing(&OF_MODEL)
        .failing(&[Code::UpgradeRequired]);
    Operation {
        status: 101,
        ..operation
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
