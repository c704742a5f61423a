//! The routes that tell of the server: health, metadata, metrics, and what a person looks at. None of them waits.

use bytes::Bytes;
use http::header::HeaderName;
use http::{HeaderValue, Response};
use jitney_engine::{Spec, TensorSpec};

use super::reply::{self, JSON, Reply, TEXT};
use super::router::{ModelRef, View};
use super::{Net, openapi};
use crate::access::Grant;
use crate::admin::status::{self, Server, ServerState, Status};
use crate::admin::{docs, page};
use crate::extension;
use crate::failure::{Code, Failure};
use crate::models::{Loaded, ModelState, ModelStatus};
use crate::observe::metrics::{self, ModelMetrics, Phase, Quantiles};
use crate::protocol::extension::{self as documents, Document};
use crate::protocol::metadata::{self, ModelMetadata};

const NAME: &str = "jitney";
const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Answers what the server is asked about itself.
pub(crate) fn answer(net: &Net, grant: &Grant, view: View<'_>) -> Result<Reply, Failure> {
    match view {
        View::Page => Ok(html(page::HTML, page::HEADERS)),
        View::Status => Ok(status(net, grant)),
        View::Metrics => Ok(numbers(net, grant)),
        View::DebugTree => Ok(tree(net)),
        View::Server => Ok(json(|out| {
            metadata::server(out, NAME, VERSION, &extension::served(net.levels()));
        })),
        View::Live => Ok(json(|out| metadata::live(out, true))),
        View::Ready => ready(net),
        View::Models => Ok(models(net, grant)),
        View::Model(model) => model_metadata(net, model),
        View::ModelReady(model) => model_ready(net, model),
        View::Configuration(model) => configuration(net, model),
        View::Statistics(model) => statistics(net, grant, model),
        View::Logging => Ok(document(&extension::logging::get(net.levels())?)),
        View::Tracing(model) => tracing(net, model),
        View::OpenApi => Ok(reply::ok(JSON, openapi::document(net, grant, VERSION))),
        View::Docs => Ok(html(docs::HTML, docs::HEADERS)),
    }
}

fn json(write: impl FnOnce(&mut Vec<u8>)) -> Reply {
    let mut out = Vec::new();
    write(&mut out);
    reply::ok(JSON, out)
}

fn document(document: &impl Document) -> Reply {
    reply::ok(JSON, documents::body(document))
}

fn html(html: &'static str, fields: [(&'static str, &'static str); 5]) -> Reply {
    let mut reply = Response::new(Bytes::from_static(html.as_bytes()).into());
    for (name, value) in fields {
        reply.headers_mut().insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
    reply
}

fn status(net: &Net, grant: &Grant) -> Reply {
    let state = match (net.admission.draining(), net.catalog.is_ready()) {
        (true, _) => ServerState::Draining,
        (false, true) => ServerState::Ready,
        (false, false) => ServerState::Starting,
    };
    let server = Server {
        name: NAME,
        version: VERSION,
        uptime_s: net.started.elapsed().as_secs_f64(),
        state,
    };
    let models = net.catalog.statuses();
    let models = models
        .into_iter()
        .filter(|model| grant.sees(&model.name))
        .map(|model| model_status(net, model))
        .collect();
    reply::ok(JSON, status::body(&Status { server, models }))
}

fn model_status(net: &Net, model: ModelStatus) -> status::Model {
    let lane = net.catalog.model(&model.name, Some(&model.version)).ok();
    let tensors = |specs: fn(&Spec) -> &[TensorSpec]| {
        let specs = lane.as_ref().map_or(&[][..], |lane| specs(lane.spec()));
        specs.iter().map(status::Tensor::from).collect()
    };
    let (inputs, outputs) = (tensors(|spec| &spec.inputs), tensors(|spec| &spec.outputs));
    let (state, message) = match model.state {
        ModelState::Loading => (status::ModelState::Loading, None),
        ModelState::Ready => (status::ModelState::Ready, None),
        ModelState::Failed { message } => (status::ModelState::Failed, Some(message)),
        ModelState::Draining | ModelState::Closed => (status::ModelState::Closed, None),
    };
    let latency_ms = model
        .loaded
        .is_some()
        .then(|| latency(&net.metrics.model(&model.name, &model.version)));
    status::Model {
        name: model.name,
        version: model.version,
        description: model.description,
        state,
        // It may name files, which is nobody's business on a network.
        message: message.filter(|_| net.is_private()),
        reload_message: model.reload_failure.filter(|_| net.is_private()),
        engine: model
            .loaded
            .as_ref()
            .map(|loaded| loaded.engine.to_owned())
            .unwrap_or_default(),
        inputs,
        outputs,
        workers: model
            .loaded
            .as_ref()
            .map_or_else(Vec::new, |loaded| workers(net, loaded)),
        stats: model.loaded.map(|loaded| loaded.stats.into()),
        latency_ms,
        sketch: model.sketch.map(|sketch| status::Sketch {
            input: sketch.input,
            width: sketch.width,
            height: sketch.height,
            max: sketch.max,
        }),
        labels: model.labels,
    }
}

/// The ids of processes are nobody's business on a network.
fn workers(net: &Net, loaded: &Loaded) -> Vec<status::Worker> {
    let workers = loaded.workers.iter().cloned().map(status::Worker::from);
    workers
        .map(|worker| status::Worker {
            pid: worker.pid.filter(|_| net.is_private()),
            ..worker
        })
        .collect()
}

fn latency(model: &ModelMetrics) -> status::Latency {
    let in_ms = |quantiles: Quantiles| status::Quantiles {
        p50: quantiles.p50.map(|seconds| seconds * 1e3),
        p99: quantiles.p99.map(|seconds| seconds * 1e3),
    };
    status::Latency {
        queue: in_ms(model.phase_quantiles(Phase::Queue)),
        hold: in_ms(model.phase_quantiles(Phase::Hold)),
        run: in_ms(model.phase_quantiles(Phase::Run)),
        total: in_ms(model.total_quantiles()),
    }
}

fn numbers(net: &Net, grant: &Grant) -> Reply {
    let held = i64::try_from(net.admission.bytes_held()).unwrap_or(i64::MAX);
    net.metrics.server().inflight_bytes.set(held);
    reply::ok(
        HeaderValue::from_static(metrics::CONTENT_TYPE),
        visible(net.metrics.encode(), grant),
    )
}

/// Without the samples of models that the caller may not see.
fn visible(metrics: String, grant: &Grant) -> String {
    if grant.sees_everything() {
        return metrics;
    }
    let model = |line: &str| {
        let (_, rest) = line.split_once("model=\"")?;
        Some(rest.split_once('"')?.0.to_owned())
    };
    let lines = metrics.split_inclusive('\n');
    lines
        .filter(|line| model(line).is_none_or(|model| grant.sees(&model)))
        .collect()
}

fn tree(net: &Net) -> Reply {
    net.catalog.show_workers();
    reply::ok(TEXT, net.tree.snapshot().to_string())
}

fn ready(net: &Net) -> Result<Reply, Failure> {
    if net.admission.draining() {
        return Err(Failure::new(Code::Draining, "the server is shutting down"));
    }
    if !net.catalog.is_ready() {
        return Err(Failure::new(
            Code::NotReady,
            "models are still being loaded, or none could be; GET /v2/models/NAME/ready tells about one",
        ));
    }
    Ok(json(|out| metadata::ready(out, true)))
}

fn models(net: &Net, grant: &Grant) -> Reply {
    let statuses = net.catalog.statuses();
    let names = statuses.iter().map(|status| status.name.as_str());
    let mut names: Vec<_> = names.filter(|name| grant.sees(name)).collect();
    names.sort_unstable();
    names.dedup();
    json(|out| metadata::list(out, &names))
}

fn model_metadata(net: &Net, model: ModelRef<'_>) -> Result<Reply, Failure> {
    let lane = net.catalog.model(model.name, model.version)?;
    let versions = net.catalog.versions(model.name);
    let versions: Vec<_> = versions.iter().map(String::as_str).collect();
    Ok(json(|out| {
        metadata::model(
            out,
            &ModelMetadata {
                name: lane.name(),
                versions: &versions,
                platform: lane.platform(),
                spec: lane.spec(),
            },
        );
    }))
}

fn model_ready(net: &Net, model: ModelRef<'_>) -> Result<Reply, Failure> {
    let lane = net.catalog.model(model.name, model.version)?;
    Ok(json(|out| metadata::model_ready(out, lane.name(), true)))
}

fn configuration(net: &Net, model: ModelRef<'_>) -> Result<Reply, Failure> {
    let lane = net.catalog.model(model.name, model.version)?;
    Ok(document(&extension::configuration::of_lane(&lane)))
}

fn statistics(net: &Net, grant: &Grant, model: Option<ModelRef<'_>>) -> Result<Reply, Failure> {
    let statistics = match model {
        Some(model) => extension::statistics::of_model(&net.catalog, model.name, model.version)?,
        None => extension::statistics::of_all(&net.catalog, |model| grant.sees(model)),
    };
    Ok(document(&statistics))
}

fn tracing(net: &Net, model: Option<&str>) -> Result<Reply, Failure> {
    if let Some(model) = model {
        net.catalog.known(model)?;
    }
    Ok(document(&extension::trace::get(&net.metrics, model)))
}
