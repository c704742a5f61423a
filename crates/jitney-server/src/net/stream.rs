//! The routes that ask a model for any number of results, or for exactly one of a model that may give any number.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use http::HeaderMap;
use hyper::body::Incoming;

use super::body::{self, BodyLimits};
use super::checks::{self, Media};
use super::exchange::Exchange;
use super::infer::{metrics_of, with_timeout};
use super::reply::{self, JSON, Refusal, Reply};
use super::router::ModelRef;
use super::sse::{self, Form, Going, Source};
use crate::admit::{self, Admitted};
use crate::call::Call;
use crate::failure::Failure;
use crate::models::{Answers, Lane};
use crate::protocol::{generate, predict};

/// What the body of a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// One item, as `/predict/NAME` takes it.
    Item,
    /// As Triton's generate extension has it.
    Generate,
}

/// A request that the model has begun to answer.
struct Begun {
    lane: Arc<Lane>,
    form: Form,
    answers: Answers,
    admitted: Admitted,
}

/// Answers with a stream of events. The first result is waited for: what goes wrong before it is an answer like any other.
pub(crate) async fn events(
    mut exchange: Exchange<'_>,
    ask: Ask,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let begun = begin(&mut exchange, ask, model, headers, body).await?;
    let Begun {
        lane,
        form,
        mut answers,
        mut admitted,
    } = begun;
    let first = answers.next().await.transpose()?;
    admitted.give_back();
    let Exchange { peer, record, .. } = exchange;
    let source = Source {
        lane,
        form,
        first,
        answers,
        going: Going {
            record: record.take(),
            admitted,
            answering: peer.answering(),
        },
    };
    Ok(sse::reply(source, &peer.net, peer.plane))
}

/// Answers with the model's one result.
pub(crate) async fn generate(
    mut exchange: Exchange<'_>,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Reply, Refusal> {
    let begun = begin(&mut exchange, Ask::Generate, model, headers, body).await?;
    let Begun {
        lane,
        form,
        mut answers,
        admitted: _admitted,
    } = begun;
    let first = answers.next().await.transpose()?;
    let only = match (first, answers.next().await) {
        (Some(only), None) => only,
        (None, _) => return Err(not_one(&lane, "none").into()),
        (Some(_), Some(Ok(_))) => return Err(not_one(&lane, "more").into()),
        (Some(_), Some(Err(failure))) => return Err(failure.into()),
    };
    let id = match &form {
        Form::Generated { id } => id.as_deref(),
        Form::Prediction => None,
    };
    let mut out = Vec::new();
    generate::encode(
        &mut out,
        lane.name(),
        lane.version(),
        id,
        lane.spec(),
        &only,
    );
    Ok(reply::ok(JSON, out))
}

fn not_one(lane: &Lane, how_many: &str) -> Failure {
    let name = lane.name();
    Failure::invalid(format!(
        "generate answers with exactly one result, and model \"{name}\" gave {how_many}: ask /v2/models/{name}/generate_stream"
    ))
}

/// Reads the request and hands it to the model.
async fn begin(
    exchange: &mut Exchange<'_>,
    ask: Ask,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: Incoming,
) -> Result<Begun, Refusal> {
    let (net, config) = (&exchange.peer.net, &exchange.peer.net.config);
    let lane = net.catalog.model(model.name, model.version);
    if let Some(metrics) = metrics_of(net, model, lane.as_deref()) {
        exchange.record.reached(metrics);
    }
    if checks::media(&headers)? != Media::Json {
        return Err(checks::only_json().into());
    }
    let asked = checks::timeout(&headers)?;
    let id = checks::request_id(&headers).and_then(|id| Some(id.to_str().ok()?.to_owned()));
    drop(headers);
    let announced = body::announced(&body, config.max_body_bytes)?;
    let mut admitted = net.admission.enter(announced)?;
    let deadline = admit::deadline(exchange.started, lane?.deadline(), asked);
    let limits = BodyLimits {
        bytes: config.max_body_bytes,
        timeout: config.body_timeout,
        deadline,
    };
    let body = body::read(body, &mut admitted, limits).await?;
    // Looked up again: while the body came, which may take long, another lane may have taken the place of the first.
    let lane = net.catalog.model(model.name, model.version)?;
    let (mut call, form) = decode(ask, &lane, &body, deadline)?;
    drop(body);
    call.deadline = with_timeout(deadline, exchange.started, &call.meta);
    call.whole = asked.is_some() || call.meta.timeout.is_some();
    call.meta.id = call.meta.id.or(id);
    let answers = lane.stream(call).await?;
    Ok(Begun {
        lane,
        form,
        answers,
        admitted,
    })
}

fn decode(
    ask: Ask,
    lane: &Lane,
    body: &[u8],
    deadline: Instant,
) -> Result<(Call, Form), Failure> {
    match ask {
        Ask::Item => {
            let inputs = predict::decode_item(body, lane.spec())?;
            Ok((Call::new(inputs, deadline), Form::Prediction))
        }
        Ask::Generate => {
            let generate::Request { meta, inputs } = generate::decode(body, lane.spec())?;
            let mut call = Call::new(inputs, deadline);
            // The answer repeats the id of the body alone.
            let id = meta.id.clone();
            call.meta = meta;
            Ok((call, Form::Generated { id }))
        }
    }
}
