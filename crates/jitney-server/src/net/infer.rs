//! The routes that run a model: from a body to tensors, to the model, to a body.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use http::HeaderMap;
use jitney_engine::{Spec, Tensor};

use super::body::{self, Arriving, BodyLimits, Manner};
use super::checks::{self, INFERENCE_HEADER_CONTENT_LENGTH, Media};
use super::coding::{self, Coding};
use super::exchange::Exchange;
use super::payload::Body;
use super::reply::{self, JSON, NDJSON, OCTETS, Refusal, Reply};
use super::router::{Form, ModelRef};
use super::stream::{self, Asked};
use crate::admit::Admitted;
use crate::call::Meta;
use crate::context::Context;
use crate::failure::Failure;
use crate::models::Lane;
use crate::protocol::infer::Wanted;
use crate::protocol::predict::Format;
use crate::protocol::{error, generate, infer, predict};

/// A body that may be decoded for a model.
///
/// The body is let go as soon as it is decoded: it may be large, and the connection's next request is read into its memory.
pub(super) struct Work {
    pub(super) lane: Arc<Lane>,
    media: Media,
    pub(super) body: Bytes,
    pub(super) started: Instant,
    pub(super) context: Context,
}

/// A request that has been read, and has come in.
pub(super) struct Received {
    pub(super) work: Work,
    pub(super) admitted: Admitted,
    /// How the client would like its answer compressed.
    accepted: Option<Coding>,
    /// When all of it was there.
    pub(super) read: Instant,
}

/// An encoded answer, and when its parts were done.
struct Answered {
    reply: Reply,
    decoded: Instant,
    ran: Instant,
}

/// Answers a request for a prediction.
pub(crate) async fn answer(
    mut exchange: Exchange<'_>,
    form: Form,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: &mut Arriving,
) -> Result<Reply, Refusal> {
    let received = receive(&mut exchange, form, model, headers, body).await?;
    let Received {
        work,
        admitted: _admitted,
        accepted,
        read,
    } = received;
    let Answered {
        mut reply,
        decoded,
        ran,
    } = run(form, work).await?;
    coding::compress(&mut reply, accepted).await;
    exchange.record.decoded(decoded - read);
    exchange.record.encoded(ran.elapsed());
    Ok(reply)
}

/// Reads a request for a model, if it may come in.
pub(super) async fn receive(
    exchange: &mut Exchange<'_>,
    form: Form,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: &mut Arriving,
) -> Result<Received, Refusal> {
    let (net, config) = (&exchange.peer.net, &exchange.peer.net.config);
    let lane = net
        .catalog
        .called(model.name, model.version, exchange.record);
    let media = checks::media(&headers, form)?;
    let manner = Manner {
        coding: coding::of_request(&headers)?,
        tensors: media.tensors(),
    };
    let asked = checks::timeout(&headers)?;
    let accepted = coding::accepted(&headers);
    let until = asked.and_then(|asked| exchange.started.checked_add(asked));
    let context = checks::context(&headers, config, exchange.grant.number(), until);
    drop(headers);
    let announced = body::announced(body, config.max_body_bytes)?;
    let mut admitted = net.admission.enter(announced)?;
    let limits = BodyLimits {
        bytes: config.max_body_bytes,
        timeout: config.body_timeout,
        deadline: context.deadline(exchange.started + lane?.deadline()),
    };
    let body = body::read(body, manner, &mut admitted, limits).await?;
    let read = Instant::now();
    let work = Work {
        // Looked up again: while the body came, which may take long, another lane may have taken the place of the first.
        lane: net.catalog.model(model.name, model.version)?,
        media,
        body,
        started: exchange.started,
        context,
    };
    if media == Media::Ndjson && form != Form::PredictBatch {
        return Err(checks::only_json().into());
    }
    Ok(Received {
        work,
        admitted,
        accepted,
        read,
    })
}

async fn run(form: Form, work: Work) -> Result<Answered, Failure> {
    match form {
        Form::Predict => predict_one(work).await,
        Form::PredictBatch => Box::pin(predict_batch(work)).await,
        Form::Protocol => protocol_infer(work).await,
        Form::Generate => Box::pin(generate_one(work)).await,
    }
}

async fn predict_one(work: Work) -> Result<Answered, Failure> {
    let Work {
        lane,
        body,
        started,
        context,
        ..
    } = work;
    let spec = lane.spec();
    let inputs = predict::decode_item(&body, spec)?;
    drop(body);
    let decoded = Instant::now();
    let call = context.call(inputs, Meta::default(), started, lane.deadline());
    let outcome = lane.infer(call).await?;
    let ran = Instant::now();
    let mut out = Vec::with_capacity(capacity(&outcome.outputs));
    predict::encode_item(&mut out, spec, &outcome.outputs);
    Ok(Answered {
        reply: reply::ok(JSON, out),
        decoded,
        ran,
    })
}

async fn protocol_infer(work: Work) -> Result<Answered, Failure> {
    let Work {
        lane,
        media,
        body,
        started,
        context,
    } = work;
    let spec = lane.spec();
    let infer::Request {
        meta,
        inputs,
        outputs: wanted,
    } = decode(&body, media, spec)?;
    drop(body);
    let decoded = Instant::now();
    // The answer repeats the id of the body alone.
    let id = meta.id.clone();
    let call = context.call(inputs, meta, started, lane.deadline());
    let mut outputs = lane.infer(call).await?.outputs;
    let ran = Instant::now();
    infer::put_classes(spec, &wanted, lane.labels(), &mut outputs);
    let mut out = Vec::with_capacity(json_capacity(&wanted, &outputs));
    let (name, version) = (lane.name(), lane.version());
    let id = id.as_deref();
    let raw = infer::encode(&mut out, name, version, id, spec, &wanted, &outputs)?;
    Ok(Answered {
        reply: protocol_reply(out, raw),
        decoded,
        ran,
    })
}

/// The model's one result; a model that streams may give more, or none.
async fn generate_one(work: Work) -> Result<Answered, Failure> {
    let spec_of = Arc::clone(&work.lane);
    let (lane, spec) = (&spec_of, spec_of.spec());
    let Asked { call, id } = stream::generated(work)?;
    let decoded = Instant::now();
    let outputs = lane.only(call).await?;
    let ran = Instant::now();
    let mut out = Vec::with_capacity(capacity(&outputs));
    let (name, version) = (lane.name(), lane.version());
    generate::encode(&mut out, name, version, id.as_deref(), spec, &outputs);
    Ok(Answered {
        reply: reply::ok(JSON, out),
        decoded,
        ran,
    })
}

fn decode(body: &Bytes, media: Media, spec: &Spec) -> Result<infer::Request, Failure> {
    match media {
        Media::Binary { json } => infer::decode_binary(body, json, spec),
        Media::Unsaid if !body.trim_ascii_start().starts_with(b"{") => Err(checks::no_object()),
        Media::Unsaid => infer::decode(body, spec).map_err(checks::unsaid),
        _ => infer::decode(body, spec),
    }
}

/// The JSON of an answer, and the raw tensors behind it where there are any.
fn protocol_reply(json: Vec<u8>, raw: Vec<Bytes>) -> Reply {
    if raw.is_empty() {
        return reply::ok(JSON, json);
    }
    let mut reply = reply::ok(OCTETS, Bytes::new());
    reply
        .headers_mut()
        .insert(INFERENCE_HEADER_CONTENT_LENGTH, json.len().into());
    let pieces = std::iter::once(json.into()).chain(raw);
    *reply.body_mut() = Body::Pieces(pieces.filter(|piece| !piece.is_empty()).collect());
    reply
}

/// Runs the items a few batches ahead of their answers, so that a body with more items than the queue has places is not refused by it.
async fn predict_batch(work: Work) -> Result<Answered, Failure> {
    let Work {
        lane,
        media,
        body,
        started,
        context,
    } = work;
    let (lane, context, spec) = (&*lane, &context, lane.spec());
    let format = match media {
        Media::Ndjson => Format::Ndjson,
        _ => Format::Json,
    };
    let items = predict::decode_items(&body, format, spec)?;
    drop(body);
    let decoded = Instant::now();
    let ahead = lane.max_batch().saturating_mul(2);
    let answers: Vec<_> = futures_util::stream::iter(items)
        .map(|item| async move {
            let context = context.clone();
            let call = context.call(item?, Meta::default(), started, lane.deadline());
            let outcome = lane.infer(call).await?;
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

/// Room for the JSON of an answer of which some tensors may follow behind it.
fn json_capacity(wanted: &[Wanted], outputs: &[Tensor]) -> usize {
    let json = wanted
        .iter()
        .filter(|wanted| wanted.form == infer::Form::Json);
    let outputs = json.filter_map(|wanted| outputs.get(wanted.output));
    256 * (1 + wanted.len()) + outputs.map(text_length).sum::<usize>()
}

/// Room for an answer of JSON alone.
fn capacity(outputs: &[Tensor]) -> usize {
    256 + outputs.iter().map(text_length).sum::<usize>()
}

/// About a dozen characters for each number.
fn text_length(output: &Tensor) -> usize {
    12 * output.elements()
}
