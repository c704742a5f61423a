//! Models that answer a request with any number of results.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, ready};
use futures_util::{FutureExt, StreamExt, stream};
use jitney::process::{Part, Replies, StreamRequest};

use super::greeting::Greeting;
use super::reply::Reply;
use super::run::Run;
use super::{Shared, call_error, output};
use crate::contract::{Request, Results, RunError, StreamTerms, Streaming};
use crate::{Tensor, stack};

/// The most streams that a worker is given at a time, whatever its model says.
pub(super) const STREAMS_MAX: usize = 4096;

/// The way to the streams of the workers.
pub(super) struct PythonStreams {
    pub(super) shared: Arc<Shared>,
    pub(super) places: NonZeroUsize,
}

/// One stream of results, read from its worker's replies.
struct Reading {
    about: Arc<Greeting>,
    model: String,
    /// The caller's name for the request, for the log.
    id: Option<String>,
    limit: Duration,
    replies: Replies,
    /// That numbers were lost was said.
    non_finite_told: bool,
}

impl Streaming for PythonStreams {
    fn places(&self) -> NonZeroUsize {
        self.places
    }

    fn open(
        &self,
        request: &Request<'_>,
        terms: StreamTerms,
    ) -> BoxFuture<'static, Result<Results, stack::Error>> {
        match self.begin(request, terms) {
            Ok(reading) => reading.placed().boxed(),
            Err(error) => ready(Err(error)).boxed(),
        }
    }
}

impl PythonStreams {
    fn begin(&self, request: &Request<'_>, terms: StreamTerms) -> Result<Reading, stack::Error> {
        let Shared {
            pool,
            name,
            greeting,
            ..
        } = &*self.shared;
        let asked = asked(greeting, request, terms)?;
        Ok(Reading {
            about: Arc::clone(greeting),
            model: name.clone(),
            id: request.id.map(str::to_owned),
            limit: terms.limit,
            replies: pool.open(asked).map_err(call_error)?,
            non_finite_told: false,
        })
    }
}

impl Reading {
    async fn placed(mut self) -> Result<Results, stack::Error> {
        self.replies.placed().await.map_err(call_error)?;
        let step = |reading: Option<Reading>| async move { reading?.step().await };
        Ok(stream::unfold(Some(self), step).boxed())
    }

    /// The next result; nothing is left after an error.
    async fn step(mut self) -> Option<(Result<Vec<Tensor>, stack::Error>, Option<Reading>)> {
        let result = match self.replies.next().await? {
            Ok(part) => self.read(&part)?,
            Err(error) => Err(call_error(error).into()),
        };
        let rest = result.is_ok().then_some(self);
        Some((result, rest))
    }

    /// What a part says; `None` where it is that all is well and there is no more.
    fn read(&mut self, part: &Part) -> Option<Result<Vec<Tensor>, stack::Error>> {
        if part.last && part.meta.is_empty() {
            return None;
        }
        let spec = &self.about.spec;
        Some(match Reply::parse(spec, &[1], &part.meta, &part.payload) {
            Ok(reply) => self.answer(reply, part.last),
            Err(error) => Err(senseless(&error)),
        })
    }

    fn answer(&mut self, mut reply: Reply, last: bool) -> Result<Vec<Tensor>, stack::Error> {
        if reply.non_finite > 0 && std::mem::replace(&mut self.non_finite_told, true) {
            reply.non_finite = 0;
        }
        output::run(&self.model, [self.id.as_deref()], &reply);
        match reply.into_answers().map(|mut answers| answers.pop()) {
            Ok(Some(Ok(outputs))) if !last => Ok(outputs),
            Err(stack::Error::Run(RunError::RunLimit(_))) => {
                Err(RunError::RunLimit(self.limit).into())
            }
            Err(error) | Ok(Some(Err(error))) => Err(error),
            Ok(_) => Err(senseless("a result where there is none")),
        }
    }
}

/// The request as it is sent, copied: the limit in microseconds, then what a run of one row is.
fn asked(
    greeting: &Greeting,
    request: &Request<'_>,
    terms: StreamTerms,
) -> Result<StreamRequest, stack::Error> {
    let requests = [*request];
    let run = Run::of(greeting, &requests, &|_| terms.deadline)?;
    let limit = u64::try_from(terms.limit.as_micros()).unwrap_or(u64::MAX);
    let meta = [&limit.to_le_bytes()[..], &run.meta].concat();
    let pieces = run.payload();
    let mut payload = Vec::with_capacity(pieces.iter().map(|piece| piece.len()).sum());
    pieces
        .iter()
        .for_each(|piece| payload.extend_from_slice(piece));
    Ok(StreamRequest {
        meta: meta.into(),
        payload: Bytes::from(payload),
        weight: 1,
        limit: terms.limit,
        deadline: terms.deadline,
    })
}

fn senseless(what: &str) -> stack::Error {
    RunError::Crashed(format!("its answer makes no sense: {what}")).into()
}
