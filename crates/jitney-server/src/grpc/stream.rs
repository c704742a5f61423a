//! Many requests on one call, each with one answer or many, in whatever order they come.
//!
//! There is no task: what goes on is driven by the connection as it writes the answers. So a reader who is slow slows his own stream only,
//! and one who leaves cancels everything on it. No more than [`AT_ONCE`] requests of a stream go on at a time; more are not read.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream, SelectAll};
use jitney_engine::Tensor;
use tokio::sync::watch;
use tokio::time::sleep_until;

use super::generated::infer_parameter::ParameterChoice;
use super::generated::{ModelInferResponse, ModelStreamInferResponse};
use super::infer::{self, Asked, FINAL, Form, parameter};
use super::service::{Caller, RAW, Service, infer_request, model};
use super::wire::{self, Parts, Pieces};
use crate::admit::{Admitted, Phase};
use crate::failure::{Code, Failure};
use crate::models::{Answers, Lane};
use crate::observe::metrics::Route;
use crate::observe::record::Record;

/// Most requests of one stream that go on at a time.
const AT_ONCE: usize = 64;
/// The field of the answer in a `ModelStreamInferResponse`.
const INFER_RESPONSE: u32 = 2;

type Requests = BoxStream<'static, Result<(Bytes, Admitted), Failure>>;
type Written = BoxStream<'static, Result<Pieces, Failure>>;

/// Answers the requests of a stream. The status at its end is the first failure of the stream itself; that of a request is an answer like any
/// other, unless the caller has asked for it to end the stream.
pub(super) fn open(service: Service, caller: Caller, requests: Requests) -> Written {
    let deadline = caller.context.until;
    let conversation = Conversation {
        phase: service.admission.watch(),
        service,
        caller: Arc::new(caller),
        requests: Some(requests),
        going: SelectAll::new(),
        deadline,
        end: None,
    };
    let step = |conversation: Option<Conversation>| async move { conversation?.step().await };
    stream::unfold(Some(conversation), step).boxed()
}

/// One stream.
struct Conversation {
    service: Service,
    caller: Arc<Caller>,
    /// `None` when no more are read.
    requests: Option<Requests>,
    going: SelectAll<Written>,
    phase: watch::Receiver<Phase>,
    /// When the whole of it must have ended, where the caller said so.
    deadline: Option<Instant>,
    /// How it ends when nothing goes on any more, other than well.
    end: Option<Failure>,
}

/// What happens to a stream.
enum Event {
    Answer(Result<Pieces, Failure>),
    /// Nothing goes on any more.
    Idle,
    Request(Option<Result<(Bytes, Admitted), Failure>>),
    Drain,
    Deadline,
}

impl Conversation {
    /// To the next answer.
    async fn step(mut self) -> Option<(Result<Pieces, Failure>, Option<Conversation>)> {
        loop {
            if self.requests.is_none() && self.going.is_empty() {
                return self.end.take().map(|failure| (Err(failure), None));
            }
            match self.event().await {
                Event::Answer(Ok(pieces)) => return Some((Ok(pieces), Some(self))),
                Event::Answer(Err(failure)) => return Some((Err(failure), None)),
                Event::Idle => (),
                Event::Request(Some(Ok((message, room)))) => self.begin(message, room),
                Event::Request(Some(Err(failure))) => self.stop(Some(failure)),
                Event::Request(None) => self.stop(None),
                Event::Drain => self.stop(Some(draining())),
                Event::Deadline => return Some((Err(late()), None)),
            }
        }
    }

    /// Reads no more requests; those that go on are answered.
    fn stop(&mut self, end: Option<Failure>) {
        self.requests = None;
        self.end = end;
    }

    async fn event(&mut self) -> Event {
        let reading = self.requests.is_some();
        let room = self.going.len() < AT_ONCE;
        let answering = !self.going.is_empty();
        let requests = &mut self.requests;
        let request = async {
            match requests {
                Some(requests) => requests.next().await,
                None => None,
            }
        };
        let deadline = self.deadline;
        let late = async {
            match deadline {
                Some(deadline) => sleep_until(deadline.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            answer = self.going.next(), if answering => answer.map_or(Event::Idle, Event::Answer),
            request = request, if reading && room => Event::Request(request),
            _ = self.phase.wait_for(|phase| *phase >= Phase::Draining), if reading => Event::Drain,
            () = late => Event::Deadline,
        }
    }

    fn begin(&mut self, message: Bytes, room: Admitted) {
        let turn = Turn {
            service: self.service.clone(),
            caller: Arc::clone(&self.caller),
            started: Instant::now(),
            id: String::new(),
            model: String::new(),
            record: Record::begin(&self.service.metrics, Route::Grpc),
            room,
        };
        self.going.push(turn.answers(message));
    }
}

fn draining() -> Failure {
    Failure::new(
        Code::Draining,
        "the server is shutting down; open the stream to another one",
    )
}

fn late() -> Failure {
    Failure::new(
        Code::DeadlineExceeded,
        "the deadline of the stream passed before it ended",
    )
}

/// One request of a stream.
struct Turn {
    service: Service,
    caller: Arc<Caller>,
    started: Instant,
    /// What the request calls itself and its model, as far as it could be read.
    id: String,
    model: String,
    record: Record,
    /// Given back when the request has ended.
    room: Admitted,
}

/// A request whose model answers.
struct Going {
    lane: Arc<Lane>,
    form: Form,
    answers: Answers,
}

/// How far a request has come.
enum State {
    /// => Going, Ended
    Begun(Turn, Bytes),
    /// => Ended
    Going(Turn, Going),
    /// Final.
    Ended,
}

impl State {
    /// To the next answer.
    async fn step(self) -> Option<(Result<Pieces, Failure>, State)> {
        let (mut turn, mut going) = match self {
            State::Begun(mut turn, message) => match turn.begin(message).await {
                Ok(going) => (turn, going),
                Err(failure) => return Some((turn.failed(failure).await, State::Ended)),
            },
            State::Going(turn, going) => (turn, going),
            State::Ended => return None,
        };
        let streams = going.lane.streams();
        let answer = match going.answers.next().await {
            Some(Ok(outputs)) => {
                turn.answer(&going.lane, &going.form, outputs, !streams)
                    .await
            }
            Some(Err(failure)) => Err(failure),
            None => {
                turn.answered();
                if !going.form.empty_final {
                    return None;
                }
                return Some((turn.empty_final(&going.lane).await, State::Ended));
            }
        };
        match answer {
            Ok(pieces) if streams => Some((Ok(pieces), State::Going(turn, going))),
            Ok(pieces) => {
                turn.answered();
                Some((Ok(pieces), State::Ended))
            }
            Err(failure) => Some((turn.failed(failure).await, State::Ended)),
        }
    }
}

impl Turn {
    fn answers(self, message: Bytes) -> Written {
        stream::unfold(State::Begun(self, message), State::step).boxed()
    }

    /// Brings the request to its model.
    async fn begin(&mut self, message: Bytes) -> Result<Going, Failure> {
        let request = infer_request(message, &mut self.room)?;
        self.id.clone_from(&request.id);
        self.model.clone_from(&request.model_name);
        self.caller.grant.again()?;
        let (service, caller) = (&self.service, &self.caller);
        let lane = service.called(caller, &request, &mut self.record)?;
        let Asked { meta, inputs, form } = infer::decode(request, lane.spec())?;
        let context = self.caller.context.clone();
        let call = context.call(inputs, meta, self.started, lane.deadline());
        self.record.decoded(self.started.elapsed());
        let answers = lane.stream(call).await?;
        Ok(Going {
            lane,
            form,
            answers,
        })
    }

    async fn answer(
        &mut self,
        lane: &Lane,
        form: &Form,
        mut outputs: Vec<Tensor>,
        last: bool,
    ) -> Result<Pieces, Failure> {
        let began = Instant::now();
        let (response, raw) =
            infer::encode(model(lane), self.id(), form, &mut outputs, Some(last))?;
        let pieces = self.wrapped(&response, &raw).await;
        self.record.encoded(began.elapsed());
        pieces
    }

    async fn empty_final(&self, lane: &Lane) -> Result<Pieces, Failure> {
        let response = infer::empty(model(lane), self.id(), Some(true));
        self.wrapped(&response, &[]).await
    }

    async fn wrapped(
        &self,
        response: &ModelInferResponse,
        raw: &[Bytes],
    ) -> Result<Pieces, Failure> {
        let parts = Parts {
            wrapper: Some(INFER_RESPONSE),
            message: response,
            raw: (RAW, raw),
        };
        parts.write(&self.caller.head).await
    }

    /// The model has given all that it gives.
    fn answered(&mut self) {
        self.record.take().finish(Ok(()));
    }

    /// The last answer of a request that failed.
    async fn failed(&mut self, failure: Failure) -> Result<Pieces, Failure> {
        self.record.take().finish(Err(failure.code));
        if self.caller.head.failure_ends_stream {
            return Err(failure);
        }
        let word = ParameterChoice::StringParam(failure.code.word().to_owned());
        let parameters = [
            (FINAL, ParameterChoice::BoolParam(true)),
            ("jitney_code", word),
        ];
        let parameters = parameters.map(|(name, choice)| (name.to_owned(), parameter(choice)));
        let response = ModelStreamInferResponse {
            error_message: failure.message,
            infer_response: Some(ModelInferResponse {
                model_name: self.model.clone(),
                id: self.id.clone(),
                parameters: parameters.into(),
                ..ModelInferResponse::default()
            }),
        };
        wire::message(&response, &self.caller.head).await
    }

    fn id(&self) -> Option<&str> {
        (!self.id.is_empty()).then_some(self.id.as_str())
    }
}
