//! Asking a model for any number of results: all of them as events, or the one of a model that may give any number.

use std::sync::Arc;

use futures_util::StreamExt;
use http::HeaderMap;

use super::body::Arriving;
use super::exchange::Exchange;
use super::infer::{Received, Work, receive};
use super::reply::{Refusal, Reply};
use super::router::{Channel, ModelRef};
use super::sse::{self, Going, Source, Style};
use crate::call::{Call, Meta};
use crate::failure::Failure;
use crate::protocol::{generate, predict};

/// A call for any number of results.
pub(super) struct Asked {
    pub(super) call: Call,
    /// The caller's name for the request, as the body says it.
    pub(super) id: Option<String>,
}

/// Answers with a stream of events. The first result is waited for: what goes wrong before it is an answer like any other.
pub(crate) async fn events(
    mut exchange: Exchange<'_>,
    channel: Channel,
    model: ModelRef<'_>,
    headers: HeaderMap,
    body: &mut Arriving,
) -> Result<Reply, Refusal> {
    let received = receive(&mut exchange, channel.form(), model, headers, body).await?;
    let Received {
        work,
        mut admitted,
        read,
        ..
    } = received;
    let Exchange { peer, record, .. } = exchange;
    let lane = Arc::clone(&work.lane);
    let (call, style) = match channel {
        Channel::Generate => {
            let Asked { call, id } = generated(work)?;
            (call, Style::Generated { id })
        }
        Channel::Predict => (item(work)?, Style::Prediction),
    };
    record.decoded(read.elapsed());
    let mut answers = lane.stream(call).await?;
    let first = answers.next().await.transpose()?;
    admitted.give_back();
    let source = Source {
        lane,
        style,
        first,
        answers,
        going: Going {
            record: record.take(),
            admitted,
        },
    };
    Ok(sse::reply(source, peer))
}

/// Reads one item.
fn item(work: Work) -> Result<Call, Failure> {
    let inputs = predict::decode_item(&work.body, work.lane.spec())?;
    let limit = work.lane.deadline();
    let context = work.context;
    Ok(context.call(inputs, Meta::default(), work.started, limit))
}

/// Reads a request of the generate extension.
pub(super) fn generated(work: Work) -> Result<Asked, Failure> {
    let generate::Request { meta, inputs } = generate::decode(&work.body, work.lane.spec())?;
    // The answer repeats the id of the body alone.
    let id = meta.id.clone();
    let limit = work.lane.deadline();
    let call = work.context.call(inputs, meta, work.started, limit);
    Ok(Asked { call, id })
}
