//! The routes that run a model: from a body to tensors, to the model, to a body.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use hyper::body::Incoming;
use jitney_engine::Tensor;

use super::Net;
use super::body::{self, BodyLimits};
use super::checks::{self, Media};
use super::exchange::Exchange;
use super::reply::{self, JSON, NDJSON, Refusal, Reply};
use super::router::{Form, ModelRef};
use crate::admit;
use crate::call::{Call, Meta};
use crate::failure::{Code, Failure};
use crate::models::Lane;
use crate::observe::metrics::{ModelMetrics, Times};
use crate::protocol::predict::Format;
use crate::protocol::{error, infer, predict};

/// A body that may be decoded for a model.
///
/// The body is let go as soon as it is decoded: it may be large, and the connection's next request is read into its memory.
struct Work {
    lane: Arc<Lane>,
    media: Media,
    body: Bytes,
    deadline: Instant,
    /// The caller's name for the request, as its head says.
    id: Option<String>,
}

/// An encoded answer, and when its parts were done.
struct Answered {
    reply: Reply,
    decoded: Instant,
    ran: Instant,
}

/// Answers a request for a prediction.
pub(crate) async fn answer(
    exchange: Exchange<'_>,
    form: Form,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let Exchange {
        peer,
        started,
        record,
        ..
    } = exchange;
    let (net, config) = (&peer.net, &peer.net.config);
    let lane = net.catalog.model(model.name, model.version);
    if let Some(metrics) = metrics_of(net, model, lane.as_deref()) {
        record.reached(metrics);
    }
    let media = checks::media(&headers)?;
    let asked = checks::timeout(&headers)?;
    let id = checks::request_id(&headers).and_then(|id| Some(id.to_str().ok()?.to_owned()));
    drop(headers);
    let announced = body::announced(&body, config.max_body_bytes)?;
    let mut admitted = net.admission.enter(announced)?;
    let deadline = admit::deadline(started, lane?.deadline(), asked);
    let limits = BodyLimits {
        bytes: config.max_body_bytes,
        timeout: config.body_timeout,
        deadline,
    };
    let body = body::read(body, &mut admitted, limits).await?;
    let read = Instant::now();
    let work = Work {
        // Looked up again: while the body came, which may take long, another lane may have taken the place of the first.
        lane: net.catalog.model(model.name, model.version)?,
        media,
        body,
        deadline,
        id,
    };
    let Answered {
        reply,
        decoded,
        ran,
    } = run(form, work, started).await?;
    let done = Instant::now();
    record.took(Times {
        decode: decoded - read,
        encode: done - ran,
        total: done - started,
    });
    Ok(reply)
}

/// A model that is configured has its own metrics, whether it can be called or not.
pub(super) fn metrics_of(
    net: &Net,
    model: ModelRef<'_>,
    lane: Result<&Lane, &Failure>,
) -> Option<Arc<ModelMetrics>> {
    match lane {
        Ok(lane) => Some(Arc::clone(lane.metrics())),
        Err(_) => net.catalog.metrics(model.name, model.version),
    }
}

async fn run(form: Form, work: Work, started: Instant) -> Result<Answered, Failure> {
    match (form, work.media) {
        (Form::PredictBatch, _) => predict_batch(work).await,
        (_, Media::Ndjson) => Err(checks::only_json()),
        (Form::Generate, Media::Json) => Err(Failure::new(Code::NotFound, "not served")),
        (Form::Predict, Media::Json) => predict_one(work).await,
        (Form::Protocol, Media::Json) => protocol_infer(work, started).await,
    }
}

async fn predict_one(work: Work) -> Result<Answered, Failure> {
    let Work {
        lane,
        body,
        deadline,
        id,
        ..
    } = work;
    let spec = lane.spec();
    let inputs = predict::decode_item(&body, spec)?;
    drop(body);
    let decoded = Instant::now();
    let outcome = lane.infer(call(inputs, deadline, id)).await?;
    let ran = Instant::now();
    let mut out = Vec::with_capacity(capacity(&outcome.outputs));
    predict::encode_item(&mut out, spec, &outcome.outputs);
    Ok(Answered {
        reply: reply::ok(JSON, out),
        decoded,
        ran,
    })
}

async fn protocol_infer(work: Work, started: Instant) -> Result<Answered, Failure> {
    let Work {
        lane,
        body,
        deadline,
        id,
        ..
    } = work;
    let spec = lane.spec();
    let infer::Request {
        meta,
        inputs,
        outputs,
    } = infer::decode(&body, spec)?;
    drop(body);
    let decoded = Instant::now();
    let deadline = with_timeout(deadline, started, &meta);
    // The answer repeats the id of the body alone.
    let mut known_as = meta.clone();
    known_as.id = known_as.id.or(id);
    let outcome = lane
        .infer(Call {
            inputs,
            deadline,
            whole: meta.timeout.is_some(),
            meta: known_as,
        })
        .await?;
    let ran = Instant::now();
    let mut out = Vec::with_capacity(capacity(&outcome.outputs));
    infer::encode(
        &mut out,
        lane.name(),
        lane.version(),
        &meta,
        spec,
        &outputs,
        &outcome.outputs,
    );
    Ok(Answered {
        reply: reply::ok(JSON, out),
        decoded,
        ran,
    })
}

/// A call by which the model knows the request as its head names it.
fn call(inputs: Vec<Tensor>, deadline: Instant, id: Option<String>) -> Call {
    let mut call = Call::new(inputs, deadline);
    call.meta.id = id;
    call
}

/// The body's own time limit counts from the request's start, as the others do.
pub(super) fn with_timeout(deadline: Instant, started: Instant, meta: &Meta) -> Instant {
    let asked = meta
        .timeout
        .and_then(|timeout| started.checked_add(timeout));
    asked.map_or(deadline, |asked| asked.min(deadline))
}

/// Runs the items a few batches ahead of their answers, so that a body with more items than the queue has places is not refused by it.
async fn predict_batch(work: Work) -> Result<Answered, Failure> {
    let Work {
        lane,
        media,
        body,
        deadline,
        id,
    } = work;
    let (lane, id, spec) = (&*lane, &id, lane.spec());
    let format = match media {
        Media::Json => Format::Json,
        Media::Ndjson => Format::Ndjson,
    };
    let items = predict::decode_items(&body, format, spec)?;
    drop(body);
    let decoded = Instant::now();
    let ahead = lane.max_batch().saturating_mul(2);
    let answers: Vec<_> = stream::iter(items)
        .map(|item| async move {
            let outcome = lane.infer(call(item?, deadline, id.clone())).await?;
            Ok(outcome.outputs)
        })
        .buffered(ahead)
        .collect()
        .await;
    let ran = Instant::now();
    let mut out = Vec::new();
    let content_type = match format {
        Format::Json => {
            predict::encode_items(&mut out, spec, &answers);
            JSON
        }
        Format::Ndjson => {
            answers
                .iter()
                .for_each(|answer| encode_line(&mut out, lane, answer));
            NDJSON
        }
    };
    Ok(Answered {
        reply: reply::ok(content_type, out),
        decoded,
        ran,
    })
}

fn encode_line(out: &mut Vec<u8>, lane: &Lane, answer: &Result<Vec<Tensor>, Failure>) {
    match answer {
        Ok(outputs) => predict::encode_item(out, lane.spec(), outputs),
        Err(failure) => out.extend_from_slice(&error::body(failure)),
    }
    out.push(b'\n');
}

/// Room for the answer's text: about a dozen characters for each number, and the names.
fn capacity(outputs: &[Tensor]) -> usize {
    256 + outputs
        .iter()
        .map(|output| 12 * output.elements())
        .sum::<usize>()
}
