//! The routes that ask a model for any number of results, or for exactly one of a model that may give any number.

use std::sync::Arc;
use std::time::Instant;

use futures_util::StreamExt;
use http::HeaderMap;
use hyper::body::Incoming;

use super::checks::{self, Media};
use super::exchange::Exchange;
use super::infer::{Received, receive, with_timeout};
use super::reply::{self, JSON, Refusal, Reply};
use super::router::{self, ModelRef};
use super::sse::{self, Form, Going, Source};
use crate::admit::Admitted;
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

impl Ask {
    const fn form(self) -> router::Form {
        match self {
            Ask::Item => router::Form::Predict,
            Ask::Generate => router::Form::Generate,
        }
    }
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
    let received = receive(exchange, ask.form(), model, headers, body).await?;
    if received.media == Media::Ndjson {
        return Err(checks::only_json().into());
    }
    let Received { lane, said, .. } = received;
    let (mut call, form) = decode(ask, &lane, &received.body, received.deadline)?;
    drop(received.body);
    call.deadline = with_timeout(call.deadline, exchange.started, &call.meta);
    call.whole = received.asked || call.meta.timeout.is_some();
    call.meta = said.with(call.meta);
    let answers = lane.stream(call).await?;
    Ok(Begun {
        lane,
        form,
        answers,
        admitted: received.admitted,
    })
}

fn decode(ask: Ask, lane: &Lane, body: &[u8], deadline: Instant) -> Result<(Call, Form), Failure> {
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
