//! The way of a call through a model that answers with any number of results.
//!
//! A stream takes one of the model's places for as long as it goes on; calls wait for a place in a queue that has a bound. From then on the
//! stream is driven by whoever reads it: there is no task and no thread for it here.

use std::any::Any;
use std::future::pending;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::stream::BoxStream;
use futures_util::{FutureExt, StreamExt, stream};
use jitney::batch::{Reason, Refused, Stats, Trip};
use jitney_engine::{
    Items, Request, Results, RunError, Spec, StreamTerms, Streaming, Tensor, stack,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant as Moment, sleep_until, timeout_at};

use super::Lane;
use crate::call::{Call, Outcome};
use crate::config::ModelSettings;
use crate::failure::{Code, Failure};
use crate::models::failures::{SOON, crashed, draining, expired, model_failure, refusal};
use crate::models::quarantine::{Fingerprint, Verdict, Ward};
use crate::observe::logging;
use crate::observe::metrics::ModelMetrics;
use crate::observe::trace::Trace;

/// The results of a call as they come: tensors in the order of the model's outputs, of one row where there is a batch axis.
///
/// Nothing follows a failure or the end, however often it is asked for. Dropping it ends the stream: the model computes at most the result that it is computing.
pub type Answers = BoxStream<'static, Result<Vec<Tensor>, Failure>>;

/// The most results, and bytes of results, that are gathered into one answer.
const GATHERED_RESULTS: usize = 1 << 20;
const GATHERED_BYTES: usize = 64 << 20;
/// How long readers have to hear that their stream has ended.
const UNREAD: Duration = Duration::from_secs(1);

/// The streams of one lane.
pub(super) struct Streams {
    about: Arc<About>,
    model: Arc<dyn Streaming>,
    places: Arc<Semaphore>,
    /// Most calls that wait for a place.
    queue: usize,
    /// Longest time from one result to the next.
    limit: Duration,
    /// How long the streams of a closed lane may go on.
    grace: Duration,
}

/// What the streams have in common, and need after the lane is gone.
pub(super) struct About {
    name: String,
    version: String,
    spec: Spec,
    metrics: Arc<ModelMetrics>,
    tally: Mutex<Tally>,
    /// Calls that have not ended.
    going: watch::Sender<usize>,
    /// When streams are ended; `None` as long as the lane is open.
    end: watch::Sender<Option<Instant>>,
    /// What crashed the model or made it hang twice.
    ward: Arc<Ward>,
    /// What did so once: it need not have been its fault.
    suspects: Ward,
}

/// How the calls so far have ended, and how many have not.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    received: u64,
    ok: u64,
    failed: u64,
    refused: u64,
    expired: u64,
    cancelled: u64,
    queued: usize,
    running: usize,
}

/// How a call has ended.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Ok,
    Failed,
    Expired,
    Cancelled,
}

/// A stream that goes on.
pub(super) struct Open {
    results: Results,
    /// When it is ended; counts to the first result only, unless it counts for the whole stream.
    deadline: Option<Instant>,
    whole: bool,
    suspect: Suspect,
    place: Place,
    /// A lane is not dropped under its streams.
    lane: Option<Arc<Lane>>,
}

/// A call that has not ended. Dropping it is an end too: nobody waits any more.
struct Place {
    about: Arc<About>,
    permit: Option<OwnedSemaphorePermit>,
    came: Instant,
    /// When it had waited long enough.
    ran: Option<Instant>,
    trace: Option<Trace>,
    ended: bool,
}

/// The fingerprint of a call's inputs, in case they are the model's end.
#[derive(Clone, Copy, Debug)]
struct Suspect(Fingerprint);

/// Why there is no next result.
#[derive(Debug)]
enum Broke {
    Closed,
    Panicked(String),
    Run(stack::Error),
}

impl From<stack::Error> for Broke {
    fn from(error: stack::Error) -> Broke {
        Broke::Run(error)
    }
}

impl Streams {
    pub(super) fn new(
        about: About,
        settings: &ModelSettings,
        model: Arc<dyn Streaming>,
    ) -> Streams {
        let places = model.places().get().min(Semaphore::MAX_PERMITS);
        Streams {
            about: Arc::new(about),
            model,
            places: Arc::new(Semaphore::new(places)),
            queue: settings.queue.get(),
            limit: settings.run_limit,
            grace: settings.deadline,
        }
    }

    /// Waits for a place and begins the stream.
    pub(super) async fn open(&self, call: Call) -> Result<Open, Failure> {
        self.check(&call)?;
        let mut place = Place::take(&self.about, self.queue, call.meta.id.as_ref())?;
        let suspect = self.about.suspect(&call);
        let begun = self
            .about
            .in_time(Some(call.deadline), self.begin(&call, &mut place))
            .await;
        // The outer failure is that of the time, the inner one that of the model.
        match begun.and_then(|begun| begun.map_err(|error| self.about.failed(&error, suspect))) {
            Ok(results) => Ok(Open {
                results,
                deadline: Some(call.deadline),
                whole: call.whole,
                suspect,
                place,
                lane: None,
            }),
            Err(failure) => {
                place.end(Ending::of(&failure));
                Err(failure)
            }
        }
    }

    async fn begin(&self, call: &Call, place: &mut Place) -> Result<Results, Broke> {
        // It fails when the lane is closed, for those too who wait.
        let permit = Arc::clone(&self.places).acquire_owned().await;
        place.run(permit.map_err(|_| Broke::Closed)?);
        let terms = StreamTerms {
            limit: self.limit,
            deadline: call.whole.then_some(call.deadline),
        };
        let request = Request {
            inputs: &call.inputs,
            id: call.meta.id.as_deref(),
            parameters: call.meta.parameters.as_deref(),
        };
        let opened = AssertUnwindSafe(async { self.model.open(&request, terms).await });
        let opened = opened.catch_unwind().await;
        Ok(opened.map_err(|panic| Broke::Panicked(text(&*panic)))??)
    }

    /// The whole stream as one answer: a list of all results where they are JSON values, else the one result.
    pub(super) async fn gather(&self, mut call: Call) -> Result<Outcome, Failure> {
        call.whole = true;
        let began = Instant::now();
        let open = self.open(call).await?;
        let opened = Instant::now();
        let mut answers = open.into_answers();
        let outputs = match self.about.spec.items {
            Items::Json => gather_json(&mut answers).await?,
            Items::Tensors => only(&self.about.name, &mut answers).await?,
        };
        Ok(Outcome {
            outputs,
            trip: Trip {
                queued: opened - began,
                held: Duration::ZERO,
                run: opened.elapsed(),
                rows: 1,
                reason: Reason::Idle,
            },
        })
    }

    /// Begins no more streams. Those that go on have as long as a request may take.
    pub(super) fn close(&self) {
        self.places.close();
        self.about.end_by(now() + self.grace);
    }

    /// Ends all streams now, and says how many there were.
    pub(super) fn cut(&self) -> usize {
        self.places.close();
        // Before they are told, upon which they go.
        let going = *self.about.going.borrow();
        self.about.end_by(now());
        going
    }

    /// Waits until no stream of a closed lane goes on. One whose reader does not read cannot be told that it has ended: it is not waited for
    /// any longer once it should have.
    pub(super) async fn wait_closed(&self) {
        let mut going = self.about.going.subscribe();
        let none = going.wait_for(|going| *going == 0);
        // The sender lives as long as this, so the wait ends with the condition.
        // Not within the match, which would hold off whoever ends the streams sooner for as long as it waits.
        let end = *self.about.end.borrow();
        match end {
            Some(end) => drop(timeout_at((end + UNREAD).into(), none).await),
            None => drop(none.await),
        }
    }

    pub(super) fn stats(&self) -> Stats {
        let tally = *self.about.tally();
        Stats {
            received: tally.received,
            ok: tally.ok,
            failed: tally.failed,
            refused: tally.refused,
            expired: tally.expired,
            cancelled: tally.cancelled,
            queued: tally.queued,
            running: tally.running,
            ..Stats::default()
        }
    }

    fn check(&self, call: &Call) -> Result<(), Failure> {
        let rows = call.inputs.first().map_or(1, Tensor::rows);
        if self.about.spec.batched() && rows != 1 {
            return Err(Failure::invalid(format!(
                "the request has {rows} rows, but each stream of results answers one"
            )));
        }
        Ok(())
    }
}

impl Open {
    /// Keeps the lane for as long as the stream goes on.
    pub(super) fn holding(mut self, lane: &Arc<Lane>) -> Open {
        self.lane = Some(Arc::clone(lane));
        self
    }

    pub(super) fn into_answers(self) -> Answers {
        let step = |open: Option<Open>| async move { open?.step().await };
        stream::unfold(Some(self), step).fuse().boxed()
    }

    /// The next result; nothing is left after a failure.
    async fn step(mut self) -> Option<(Result<Vec<Tensor>, Failure>, Option<Open>)> {
        match self.next().await {
            None => {
                self.place.end(Ending::Ok);
                None
            }
            Some(Ok(outputs)) => {
                self.place.about.metrics.streamed();
                self.deadline = self.deadline.filter(|_| self.whole);
                Some((Ok(outputs), Some(self)))
            }
            Some(Err(failure)) => {
                self.place.end(Ending::of(&failure));
                Some((Err(failure), None))
            }
        }
    }

    async fn next(&mut self) -> Option<Result<Vec<Tensor>, Failure>> {
        let about = &self.place.about;
        let next = AssertUnwindSafe(self.results.next()).catch_unwind();
        let broke = match about.in_time(self.deadline, next).await {
            Ok(Ok(None)) => return None,
            Ok(Ok(Some(Ok(outputs)))) => return Some(about.check(outputs)),
            Ok(Ok(Some(Err(error)))) => Broke::Run(error),
            Ok(Err(panic)) => Broke::Panicked(text(&*panic)),
            Err(failure) => return Some(Err(failure)),
        };
        Some(Err(about.failed(&broke, self.suspect)))
    }
}

impl About {
    pub(super) fn new(
        (name, version): (&str, &str),
        spec: &Spec,
        metrics: &Arc<ModelMetrics>,
        ward: &Arc<Ward>,
    ) -> About {
        About {
            name: name.to_owned(),
            version: version.to_owned(),
            spec: spec.clone(),
            metrics: Arc::clone(metrics),
            tally: Mutex::default(),
            going: watch::Sender::new(0),
            end: watch::Sender::new(None),
            ward: Arc::clone(ward),
            suspects: Ward::default(),
        }
    }

    /// What the work gives, unless the deadline passes or streams are ended before. A result that is there goes first.
    async fn in_time<T>(
        &self,
        deadline: Option<Instant>,
        work: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let mut end = self.end.subscribe();
        // A reader who always finds a result never waits below.
        let now = Moment::now();
        let passed = |time: Option<Instant>| time.is_some_and(|time| Moment::from(time) <= now);
        if passed(*end.borrow_and_update()) {
            return Err(draining());
        }
        if passed(deadline) {
            return Err(expired());
        }
        tokio::select! {
            biased;
            done = work => Ok(done),
            () = ended(&mut end) => Err(draining()),
            () = at(deadline) => Err(expired()),
        }
    }

    fn end_by(&self, end: Instant) {
        self.end.send_modify(|before| {
            *before = Some(before.map_or(end, |before| before.min(end)));
        });
    }

    /// Holds a result to the signature.
    fn check(&self, outputs: Vec<Tensor>) -> Result<Vec<Tensor>, Failure> {
        let rows = self.spec.batched().then_some(1);
        // Behind JSON values there may be the number of those that could not be said.
        let checked = outputs.len().min(match self.spec.items {
            Items::Json => 1,
            Items::Tensors => usize::MAX,
        });
        match stack::check_outputs(&self.spec, &outputs[..checked], rows) {
            Ok(()) => Ok(outputs),
            Err(message) => Err(Failure::new(Code::OutputMismatch, message)),
        }
    }

    fn failed(&self, broke: &Broke, suspect: Suspect) -> Failure {
        match broke {
            Broke::Closed => draining(),
            Broke::Panicked(panic) => {
                // The caller is not told: a panic's text is about the inside.
                let panic = logging::one_line(panic);
                tracing::error!(model = self.name, version = self.version, %panic, "the model panicked");
                crashed()
            }
            Broke::Run(error) => {
                match error {
                    stack::Error::Run(RunError::Crashed(_)) => {
                        self.accuse(suspect, Verdict::Crashes);
                    }
                    stack::Error::Run(RunError::RunLimit(_)) => {
                        self.accuse(suspect, Verdict::Hangs);
                    }
                    _ => {}
                }
                model_failure(error)
            }
        }
    }

    fn suspect(&self, call: &Call) -> Suspect {
        Suspect(self.ward.fingerprint(call))
    }

    /// The first time it need not have been the fault of these inputs.
    fn accuse(&self, suspect: Suspect, verdict: Verdict) {
        let ward = match self.suspects.look_up_print(suspect.0) {
            None => &self.suspects,
            Some(_) => &*self.ward,
        };
        ward.put_print(suspect.0, verdict);
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        // Nothing in there can panic half-way.
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// A place in the queue.
    fn take(about: &Arc<About>, queue: usize, id: Option<&String>) -> Result<Place, Failure> {
        let came = Instant::now();
        let trace = about.metrics.called(came, id);
        let mut tally = about.tally();
        tally.received += 1;
        let refused = if about.end.borrow().is_some() {
            Refused::Closed
        } else if tally.queued >= queue {
            Refused::Full {
                queued: tally.queued,
                retry_after: SOON,
            }
        } else {
            tally.queued += 1;
            drop(tally);
            about.going.send_modify(|going| *going += 1);
            return Ok(Place {
                about: Arc::clone(about),
                permit: None,
                came,
                ran: None,
                trace,
                ended: false,
            });
        };
        tally.refused += 1;
        drop(tally);
        about.metrics.refused(&refused);
        about.metrics.failed(came.elapsed());
        Err(refusal(&refused))
    }

    /// It is a stream's place from now on.
    fn run(&mut self, permit: OwnedSemaphorePermit) {
        self.permit = Some(permit);
        self.ran = Some(Instant::now());
        let mut tally = self.about.tally();
        tally.queued -= 1;
        tally.running += 1;
    }

    fn end(&mut self, ending: Ending) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let mut tally = self.about.tally();
        match self.permit.take() {
            Some(_) => tally.running -= 1,
            None => tally.queued -= 1,
        }
        match ending {
            Ending::Ok => tally.ok += 1,
            Ending::Failed => tally.failed += 1,
            Ending::Expired => tally.expired += 1,
            Ending::Cancelled => tally.cancelled += 1,
        }
        drop(tally);
        self.about.going.send_modify(|going| *going -= 1);
        match ending {
            Ending::Ok => {
                let (trip, trace) = (self.trip(), self.trace.take());
                self.about.metrics.answered(&trip, 1, trace);
            }
            Ending::Failed | Ending::Expired => self.about.metrics.failed(self.came.elapsed()),
            Ending::Cancelled => {}
        }
    }

    fn trip(&self) -> Trip {
        let ran = self.ran.unwrap_or(self.came);
        Trip {
            queued: ran - self.came,
            held: Duration::ZERO,
            run: ran.elapsed(),
            rows: 1,
            reason: Reason::Idle,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.end(Ending::Cancelled);
    }
}

impl Ending {
    fn of(failure: &Failure) -> Ending {
        match failure.code {
            Code::DeadlineExceeded => Ending::Expired,
            _ => Ending::Failed,
        }
    }
}

/// The result of a request that takes exactly one.
pub(super) async fn only(model: &str, answers: &mut Answers) -> Result<Vec<Tensor>, Failure> {
    let not_one = |how_many| {
        Failure::invalid(format!(
            "this request takes exactly one result, and model \"{model}\" gave {how_many}: ask /v2/models/{model}/generate_stream, \
             the WebSocket /v2/models/{model}/stream or, by gRPC, ModelStreamInfer"
        ))
    };
    let first = answers.next().await.ok_or_else(|| not_one("none"))??;
    match answers.next().await.transpose()? {
        None => Ok(first),
        Some(_) => Err(not_one("more")),
    }
}

async fn gather_json(answers: &mut Answers) -> Result<Vec<Tensor>, Failure> {
    let (mut list, mut count, mut non_finite) = (vec![b'['], 0, 0);
    while let Some(outputs) = answers.next().await {
        let outputs = outputs?;
        let texts = outputs.iter().filter_map(Tensor::byte_elements).flatten();
        for text in texts {
            if count > 0 {
                list.push(b',');
            }
            list.extend_from_slice(text);
            count += 1;
        }
        let unsaid = outputs.get(1).and_then(Tensor::to_vec::<i64>);
        non_finite += unsaid.into_iter().flatten().sum::<i64>();
        if list.len() > GATHERED_BYTES || count > GATHERED_RESULTS {
            return Err(too_much());
        }
    }
    list.push(b']');
    let mut outputs = vec![Tensor::from_bytes([1], vec![list.into()])];
    if non_finite > 0 {
        outputs.push(Tensor::from_vec([1], vec![non_finite]));
    }
    let outputs: Result<Vec<Tensor>, _> = outputs.into_iter().collect();
    outputs.map_err(|error| Failure::new(Code::Internal, error.to_string()))
}

fn too_much() -> Failure {
    let message = format!(
        "the model gave more than {GATHERED_RESULTS} results or {} MiB of them, too much for one answer: read them as a stream",
        GATHERED_BYTES >> 20
    );
    Failure::new(Code::OutputMismatch, message)
}

/// Waits until streams are ended.
async fn ended(end: &mut watch::Receiver<Option<Instant>>) {
    loop {
        let until = *end.borrow_and_update();
        tokio::select! {
            // The sender is held by whoever waits.
            _ = end.changed() => {}
            () = at(until) => return,
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time.into()).await,
        None => pending().await,
    }
}

fn now() -> Instant {
    Moment::now().into_std()
}

fn text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    text.unwrap_or_else(|| "a panic without a text".to_owned())
}

#[cfg(test)]
mod tests;
