//! One loaded model: its batcher or its streams, and the way of a call through it.

mod stream;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use jitney::batch::{
    self, Answer, BatchError, Batcher, Batching, Blame, Context, Refused, Stats, Surroundings,
    Terms,
};
use jitney_engine::{
    BatchAxis, Health, Instance, Items, LoadError, Model, Request, RunError, Spec, Streaming,
    Tensor, WorkerStatus, stack,
};

pub use self::stream::Answers;
use self::stream::{About, Streams};
use super::failures::{died_once, failure, quarantined, refusal};
use super::quarantine::{Verdict, Ward};
use super::warmup::{self, Effort, Warmth};
use crate::call::{Call, Outcome};
use crate::config::{ModelSettings, RowByRow, VersionPolicy};
use crate::failure::Failure;
use crate::observe::logging;
use crate::observe::metrics::{self, ModelMetrics, Totals};

/// A model that can be called.
pub struct Lane {
    name: String,
    version: String,
    model: Arc<dyn Model>,
    work: Work,
    instances: NonZeroUsize,
    sharing: Sharing,
    /// What the places of the first output mean.
    labels: Vec<String>,
    /// Most rows in one request.
    max_rows: usize,
    max_wait: Duration,
    policy: VersionPolicy,
    deadline: Duration,
    took_to_load: Duration,
    metrics: Arc<ModelMetrics>,
    ward: Arc<Ward>,
}

/// How it answers.
enum Work {
    Batches(Batcher<Rows>),
    Streams(Streams),
}

/// Whether the rows of different requests are run together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// They are, up to this many.
    Together {
        /// Most rows in a batch.
        max_batch: usize,
    },
    /// Every row is run alone.
    Alone {
        /// Why, as the end of a sentence.
        because: &'static str,
    },
}

impl Lane {
    /// The name by which requests call the model.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The signature.
    pub fn spec(&self) -> &Spec {
        self.model.spec()
    }

    /// The protocol's platform string.
    pub fn platform(&self) -> &'static str {
        self.model.platform()
    }

    /// The name of the engine that runs it.
    pub fn engine(&self) -> &'static str {
        self.model.engine()
    }

    /// What the engine stands on, for logs alone: it may name files.
    pub fn runtime(&self) -> Option<&str> {
        self.model.runtime()
    }

    /// How many threads one instance uses inside one call.
    pub fn threads(&self) -> usize {
        self.model.threads().get()
    }

    /// Most rows that are run together; 1 where rows are kept apart.
    pub fn max_batch(&self) -> usize {
        match self.sharing {
            Sharing::Together { max_batch } => max_batch,
            Sharing::Alone { .. } => 1,
        }
    }

    /// Most rows in one request, whether they are then run together or one by one.
    pub fn max_rows(&self) -> usize {
        self.max_rows
    }

    /// Longest time that a request is held back for others to join.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Which versions of the model are served.
    pub fn version_policy(&self) -> &VersionPolicy {
        &self.policy
    }

    /// How many instances it has when all are well.
    pub fn instances(&self) -> usize {
        self.instances.get()
    }

    /// Whether the rows of different requests are run together, and if not, why.
    pub fn sharing(&self) -> &Sharing {
        &self.sharing
    }

    /// How long a request may take that does not say so itself.
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// From the beginning of the load until it could be called, without the time that its batch sizes were measured.
    pub fn took_to_load(&self) -> Duration {
        self.took_to_load
    }

    /// What the places of the first output mean, where its folder says it.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Where requests to this model are recorded. Queue, hold and run are recorded by [`Lane::infer`].
    pub fn metrics(&self) -> &Arc<ModelMetrics> {
        &self.metrics
    }

    /// What the batcher has counted. The items of a model that streams are its streams.
    pub fn stats(&self) -> Stats {
        match &self.work {
            Work::Batches(batcher) => batcher.stats(),
            Work::Streams(streams) => Stats {
                instances: self.instances(),
                ..streams.stats()
            },
        }
    }

    /// Whether the model answers a request with any number of results.
    pub fn streams(&self) -> bool {
        matches!(self.work, Work::Streams(_))
    }

    /// The processes that run the model; none where it runs in this one.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        self.model.workers()
    }

    /// What the model has done, over all its loads until it is unloaded; the batches of another lane that still ends are missing.
    pub fn totals(&self) -> Totals {
        let mut totals = self.metrics.totals();
        metrics::add(&mut totals.batches, &self.stats().batch_runs);
        totals
    }

    /// What batching is expected to give for this model, as a sentence.
    pub fn batching(&self) -> String {
        gain_sentence(&self.sharing, &self.stats())
    }

    /// Runs a call whose inputs have passed [`Spec::check`], together with others where that pays.
    ///
    /// A model that streams answers with the list of all its results where they are JSON values, and else with its one result where it
    /// gives exactly one. The deadline counts for all of it.
    ///
    /// # Errors
    /// [`Failure`], ready for the wire.
    ///
    /// # Cancel safety
    /// Dropping the future cancels the call: it is not run any more if it has not been, and its answer is dropped otherwise. The other
    /// calls of its batch notice nothing.
    pub async fn infer(&self, call: Call) -> Result<Outcome, Failure> {
        self.screen(&call)?;
        match &self.work {
            Work::Batches(batcher) => self.batched(batcher, call).await,
            // On the heap, so that no batched call sets room aside for it.
            Work::Streams(streams) => Box::pin(streams.gather(call)).await,
        }
    }

    /// Begins the stream of results for a call of one row whose inputs have passed [`Spec::check`]; waits for a place where all are taken.
    /// A model that does not stream gives one result, as [`Lane::infer`] does.
    ///
    /// The call's deadline counts to the first result, or to the end where [`Call::whole`] is set. Between results the model's run limit
    /// counts, while the reader has room. A lane that is closed ends its streams with `draining` after as long as a request may take.
    ///
    /// # Errors
    /// [`Failure`], ready for the wire. What goes wrong after the first result is the last thing that the stream gives.
    ///
    /// # Cancel safety
    /// Dropping the future or the stream ends the call: the model computes at most the result that it is computing.
    pub async fn stream(self: &Arc<Self>, call: Call) -> Result<Answers, Failure> {
        match &self.work {
            Work::Batches(_) => {
                let outputs = self.infer(call).await?.outputs;
                Ok(futures_util::stream::iter([Ok(outputs)]).boxed())
            }
            Work::Streams(streams) => {
                self.screen(&call)?;
                Ok(streams.open(call).await?.holding(self).into_answers())
            }
        }
    }

    /// The one result of a call, by which a model that streams ends. Else as [`Lane::stream`].
    ///
    /// # Errors
    /// `invalid_input` beside those, where there is none or another one.
    pub(crate) async fn only(self: &Arc<Self>, call: Call) -> Result<Vec<Tensor>, Failure> {
        let mut answers = self.stream(call).await?;
        stream::only(&self.name, &mut answers).await
    }

    /// Loads a model on this thread: makes instances, warms them up, starts the batcher.
    pub(super) fn start(
        name: &str,
        version: &str,
        settings: &ModelSettings,
        metrics: Arc<ModelMetrics>,
        surroundings: Surroundings,
        load: impl FnOnce() -> Result<Box<dyn Model>, LoadError>,
    ) -> Result<Lane, LoadError> {
        let started = Instant::now();
        let model: Arc<dyn Model> = load()?.into();
        if let Some(streaming) = model.streaming() {
            let id = (name, version);
            return Ok(Lane::streaming(
                id, settings, metrics, model, streaming, started,
            ));
        }
        let wished = Sharing::of(model.spec(), settings);
        let sizes = warmup::sizes(model.spec(), wished.max_batch());
        let effort = effort(&*model, &wished, settings);
        let warmth = warmup::warm_up(&*model, &sizes, effort).map_err(|error| error.about(name))?;
        report(name, version, &warmth);
        let sharing = match &warmth.apart {
            Some(apart) => Sharing::Alone {
                because: apart.because(),
            },
            None => wished,
        };
        let batching = batching(&*model, &sharing, settings);
        let (instances, measuring) = (batching.instances, warmth.measuring);
        let spec = as_run(model.spec(), &sharing);
        let ward = Arc::new(Ward::default());
        let batcher = start_batcher(name, batching, surroundings, &model, spec, warmth, &ward)
            .map_err(|error| error.about(name))?;
        Ok(Lane {
            name: name.to_owned(),
            version: version.to_owned(),
            max_rows: max_rows(model.spec(), settings),
            sharing,
            labels: Vec::new(),
            instances,
            model,
            work: Work::Batches(batcher),
            max_wait: settings.max_wait,
            policy: settings.versions.clone(),
            deadline: settings.deadline,
            took_to_load: started.elapsed().saturating_sub(measuring),
            metrics,
            ward,
        })
    }

    fn streaming(
        (name, version): (&str, &str),
        settings: &ModelSettings,
        metrics: Arc<ModelMetrics>,
        model: Arc<dyn Model>,
        streaming: Arc<dyn Streaming>,
        started: Instant,
    ) -> Lane {
        let ward = Arc::new(Ward::default());
        let about = About::new((name, version), model.spec(), &metrics, &ward);
        Lane {
            name: name.to_owned(),
            version: version.to_owned(),
            max_rows: 1,
            sharing: Sharing::Alone {
                because: "each is answered by a stream of results",
            },
            instances: instances(&*model, settings),
            labels: Vec::new(),
            work: Work::Streams(Streams::new(about, settings, streaming)),
            model,
            max_wait: settings.max_wait,
            policy: settings.versions.clone(),
            deadline: settings.deadline,
            took_to_load: started.elapsed(),
            metrics,
            ward,
        }
    }

    /// The same lane, which knows what the places of its first output mean.
    pub(super) fn labelled(mut self, labels: Vec<String>) -> Lane {
        self.labels = labels;
        self
    }

    /// Why it cannot be called, where it cannot: no instance is alive, or no process runs it.
    pub(super) fn dead(&self) -> Option<String> {
        if let Some(why) = self.stats().dead {
            return Some(why.to_string());
        }
        match self.model.health() {
            Health::Ready => None,
            Health::Failed(why) => Some(why),
        }
    }

    /// Accepts nothing more; what is queued is still run, but for streams that wait for a place. Streams that go on have as long as a request
    /// may take.
    pub(super) fn close(&self) {
        match &self.work {
            Work::Batches(batcher) => batcher.close(),
            Work::Streams(streams) => streams.close(),
        }
    }

    /// Ends its streams now, and begins no more: the last that they give is `draining`. Gives how many there were.
    pub(super) fn cut_streams(&self) -> usize {
        match &self.work {
            Work::Batches(_) => 0,
            Work::Streams(streams) => streams.cut(),
        }
    }

    /// Waits until a closed lane has answered everyone.
    pub(super) async fn wait_closed(&self) {
        match &self.work {
            Work::Batches(batcher) => batcher.wait_closed().await,
            Work::Streams(streams) => streams.wait_closed().await,
        }
    }

    async fn batched(&self, batcher: &Batcher<Rows>, call: Call) -> Result<Outcome, Failure> {
        let terms = Terms {
            deadline: Some(call.deadline),
            priority: call.meta.step(),
            key: call.meta.key,
        };
        let began = Instant::now();
        let rows = self.rows(&call)?;
        let trace = self.metrics.called(began, call.meta.id.as_ref());
        let queued = self.queued(call, rows);
        let answered = match batcher.submit_on(queued, &terms) {
            Ok(ticket) => ticket.await.map_err(|error| self.failed(&error)),
            Err(refused) => Err(self.refused(&refused)),
        };
        let Answer { value, trip } =
            answered.inspect_err(|_| self.metrics.failed(began.elapsed()))?;
        self.metrics.answered(&trip, rows, trace);
        Ok(Outcome {
            outputs: value,
            trip,
        })
    }

    /// Counts the rows of a call, and refuses too many.
    fn rows(&self, call: &Call) -> Result<usize, Failure> {
        let rows = match call.inputs.first() {
            Some(first) if self.spec().batched() => first.rows().max(1),
            _ => 1,
        };
        if rows > self.max_rows {
            let refused = Refused::TooLarge {
                rows,
                max_batch: self.max_rows,
            };
            // A bad request like any other: the batcher has not received it, so it is none of those that it refused.
            return Err(refusal(&refused));
        }
        Ok(rows)
    }

    /// Rows that are run alone count as one however many the request has: the batcher must not refuse it for them.
    fn queued(&self, call: Call, rows: usize) -> Queued {
        let rows = match self.sharing {
            Sharing::Together { .. } => rows,
            Sharing::Alone { .. } => 1,
        };
        Queued { call, rows }
    }

    /// Refuses what is known to crash the model or to make it hang.
    fn screen(&self, call: &Call) -> Result<(), Failure> {
        match self.ward.look_up(call) {
            None => Ok(()),
            Some((verdict, left)) => {
                self.metrics.quarantined();
                Err(quarantined(verdict, left))
            }
        }
    }

    fn refused(&self, refused: &Refused) -> Failure {
        self.metrics.refused(refused);
        refusal(refused)
    }

    fn failed(&self, error: &BatchError<stack::Error>) -> Failure {
        if let BatchError::Panicked(panic) = error {
            // The caller is not told: a panic's text is about the inside.
            tracing::error!(
                model = self.name,
                version = self.version,
                panic = %logging::one_line(panic),
                "the model panicked"
            );
        }
        if is_crash(error) && !self.model.idempotent() {
            return died_once();
        }
        failure(error)
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.metrics.keep(&self.stats().batch_runs);
    }
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("sharing", &self.sharing)
            .finish_non_exhaustive()
    }
}

impl Sharing {
    /// What the signature allows and the settings ask for.
    fn of(spec: &Spec, settings: &ModelSettings) -> Sharing {
        let alone = |because| Sharing::Alone { because };
        let together = |max_batch: usize| match max_batch {
            0 | 1 => alone("its largest batch is one row"),
            max_batch => Sharing::Together { max_batch },
        };
        match (spec.batch, settings.row_by_row) {
            (BatchAxis::None, _) => alone("its tensors have no batch axis"),
            (_, RowByRow::Yes) => alone("row_by_row is set"),
            (_, RowByRow::Auto) if !spec.rows_independent => {
                alone("a row's answer would depend on the other rows of its batch")
            }
            // The model takes exactly this many whatever the settings say, and clients read the size from its signature.
            (BatchAxis::Fixed(size), _) => together(size),
            (BatchAxis::Free, _) => together(settings.max_batch.get()),
        }
    }

    fn max_batch(&self) -> usize {
        match self {
            Sharing::Together { max_batch } => *max_batch,
            Sharing::Alone { .. } => 1,
        }
    }
}

/// What the batcher queues.
struct Queued {
    call: Call,
    rows: usize,
}

impl Queued {
    fn request(&self) -> Request<'_> {
        Request {
            inputs: &self.call.inputs,
            id: self.call.meta.id.as_deref(),
            parameters: self.call.meta.parameters.as_deref(),
        }
    }
}

/// An instance as the batcher sees it.
struct Rows {
    instance: Box<dyn Instance>,
    spec: Arc<Spec>,
    ward: Arc<Ward>,
}

impl batch::Model for Rows {
    type In = Queued;
    type Out = Vec<Tensor>;
    type Error = stack::Error;

    fn run(
        &mut self,
        queued: &[Queued],
        context: &Context<'_>,
    ) -> Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error> {
        let requests: Vec<Request<'_>> = queued.iter().map(Queued::request).collect();
        self.instance.run_requests(&self.spec, &requests, context)
    }

    fn blame(error: &stack::Error) -> Blame {
        match error {
            stack::Error::Run(RunError::Crashed(_)) => Blame::Crash,
            stack::Error::Run(RunError::RunLimit(_)) => Blame::Hang,
            stack::Error::Run(RunError::Unavailable(_)) => Blame::Nobody,
            stack::Error::Run(RunError::InvalidInput(_) | RunError::Failed(_))
            | stack::Error::Mismatch(_) => Blame::OneItem,
        }
    }

    fn convicted(&mut self, queued: &Queued, error: &stack::Error) {
        let verdict = match error {
            stack::Error::Run(RunError::RunLimit(_)) => Verdict::Hangs,
            _ => Verdict::Crashes,
        };
        self.ward.put(&queued.call, verdict);
    }

    fn rows(queued: &Queued) -> usize {
        queued.rows
    }

    fn compatible(a: &Queued, b: &Queued) -> bool {
        Spec::compatible(&a.call.inputs, &b.call.inputs)
    }
}

fn is_crash(error: &BatchError<stack::Error>) -> bool {
    matches!(error, BatchError::Model(error) if matches!(**error, stack::Error::Run(RunError::Crashed(_))))
}

/// What is run before anyone asks. Inputs are made up only where there are types to go by, and not for a model on which each run leaves its
/// mark.
fn effort(model: &dyn Model, sharing: &Sharing, settings: &ModelSettings) -> Effort {
    let can_be_made_up = model.spec().items == Items::Tensors && model.idempotent();
    let promised = model.promises_independent_rows();
    Effort {
        runs: if can_be_made_up { settings.warmup } else { 0 },
        budget: settings.measuring,
        compare_rows: sharing.max_batch() > 1 && settings.row_by_row == RowByRow::Auto && !promised,
        trusting: promised,
    }
}

fn batching(model: &dyn Model, sharing: &Sharing, settings: &ModelSettings) -> Batching {
    Batching {
        max_batch: NonZeroUsize::new(sharing.max_batch()).unwrap_or(NonZeroUsize::MIN),
        max_wait: settings.max_wait,
        queue: settings.queue,
        instances: instances(model, settings),
        run_limit: settings.run_limit,
        isolate: model.idempotent(),
        ahead: model.ahead(),
        keeps_limit: model.keeps_limit(),
        padded: false,
    }
}

fn instances(model: &dyn Model, settings: &ModelSettings) -> NonZeroUsize {
    let cores = std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
    let said = settings.instances;
    said.unwrap_or_else(|| model.suggested_instances(cores))
}

fn start_batcher(
    name: &str,
    batching: Batching,
    surroundings: Surroundings,
    model: &Arc<dyn Model>,
    spec: Spec,
    warmth: Warmth,
    ward: &Arc<Ward>,
) -> Result<Batcher<Rows>, LoadError> {
    let spec = Arc::new(spec);
    let smallest = warmup::sizes(model.spec(), 1).first().copied();
    let quickly = smallest.zip(warmth.guess);
    let first = Mutex::new(Some(warmth.instance));
    let (model, ward) = (Arc::clone(model), Arc::clone(ward));
    let instance = move || -> Result<Box<dyn Instance>, LoadError> {
        let warm = first.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(instance) = warm {
            return Ok(instance);
        }
        let mut instance = model.instance()?;
        if let Some((smallest, guess)) = quickly {
            warmup::warm_quickly(model.spec(), &mut *instance, smallest, guess);
        }
        Ok(instance)
    };
    let make = move || -> Result<Rows, LoadError> {
        Ok(Rows {
            instance: instance()?,
            spec: Arc::clone(&spec),
            ward: Arc::clone(&ward),
        })
    };
    let batcher = Batcher::start_with(name, batching, surroundings, make)
        .map_err(|error| LoadError::new(format!("an instance could not be made: {error}")))?;
    for (rows, took) in warmth.costs {
        batcher.observe_cost(rows, took);
    }
    Ok(batcher)
}

/// Most rows in one request, whether they are then run together or one by one.
fn max_rows(spec: &Spec, settings: &ModelSettings) -> usize {
    match spec.batch {
        BatchAxis::Free => settings.max_batch.get(),
        BatchAxis::Fixed(size) => size.max(1),
        BatchAxis::None => 1,
    }
}

/// The signature as the stack shall see it: a model whose rows are kept apart takes one row at a time.
fn as_run(spec: &Spec, sharing: &Sharing) -> Spec {
    let mut spec = spec.clone();
    if let (Sharing::Alone { .. }, BatchAxis::Free) = (sharing, spec.batch) {
        spec.batch = BatchAxis::Fixed(1);
    }
    spec
}

fn report(name: &str, version: &str, warmth: &Warmth) {
    if let Some(why) = &warmth.skipped {
        let reason = logging::one_line(why);
        tracing::warn!(model = name, version, %reason, "no input for a warm-up could be guessed; the first requests will be slower");
    }
    if let Some(apart) = &warmth.apart {
        let (because, detail) = (apart.because(), logging::one_line(apart.detail()));
        tracing::warn!(model = name, version, %detail, "rows are run one by one: {because}");
    }
}

fn gain_sentence(sharing: &Sharing, stats: &Stats) -> String {
    if let Sharing::Alone { because } = sharing {
        return format!("rows are run one by one: {because}");
    }
    let (Some((_, one)), Some((rows, took))) = (stats.costs.first(), stats.costs.last()) else {
        return "what batching gains is not known before the model has run".to_owned();
    };
    let (aim, gain) = (stats.aim, stats.gain);
    if aim > 1 && gain >= 1.05 {
        let limit = if aim < *rows {
            ", and larger ones no more"
        } else {
            ""
        };
        return format!(
            "batches of {aim} rows give {gain:.1} times the throughput of one row at a time{limit}"
        );
    }
    let together = took.as_secs_f64() / (one.as_secs_f64() * *rows as f64);
    if together >= 1.05 {
        return format!(
            "batching gains nothing: {rows} rows together take {together:.1} times as long as one by one, so batches stay small"
        );
    }
    "batching gains nothing: rows cost as much together as one by one".to_owned()
}

#[cfg(test)]
mod tests;
