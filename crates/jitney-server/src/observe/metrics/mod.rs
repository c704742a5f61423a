//! The numbers of one server.
//!
//! Recording costs a few uncontended atomic additions and no look-up: whoever serves a model holds its [`ModelMetrics`]. What a batcher
//! counts anyway is read when somebody asks ([`Metrics::watch_models`]) and never counted twice. Labels have few values: a model's name
//! becomes one only when the model is configured, never because a request named it. Nothing here holds payload, keys or file paths.

mod encode;
mod histogram;
pub mod names;

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jitney::batch::{Refused, Stats, Trip};
use prometheus_client::registry::Registry;

use self::histogram::Histogram;
use super::trace::{Book, Sampler, Trace, TraceChange, TraceSettings};

/// The media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The metrics of one server. There is no global state: two servers in a process have two of these.
pub struct Metrics {
    shared: Arc<Shared>,
    registry: Registry,
}

/// What concerns the server as a whole.
#[derive(Debug, Default)]
pub struct ServerMetrics {
    /// Connections that are open now.
    pub connections: Gauge,
    /// Connections that were accepted.
    pub connections_accepted: Counter,
    /// Connections that were closed at once because too many were open.
    pub connections_refused: Counter,
    /// Bytes of request bodies held now.
    pub inflight_bytes: Gauge,
}

/// The metrics of one version of one model, or of the requests that reached no model.
#[derive(Debug)]
pub struct ModelMetrics {
    model: String,
    version: String,
    answered: [Counter; Route::ALL.len()],
    /// Few enough to be searched one by one, and only failures come here.
    unanswered: Mutex<Vec<Unanswered>>,
    refused: [Counter; Cause::ALL.len()],
    quarantined: Counter,
    streamed: Counter,
    reloads: [Counter; Reload::ALL.len()],
    total: Histogram,
    phases: [Histogram; Phase::ALL.len()],
    calls: Calls,
    sampler: Sampler,
}

/// What is counted of the calls to a model beside their phases, whatever protocol they came by.
#[derive(Debug)]
struct Calls {
    /// What `last` counts from.
    since: Instant,
    /// When that was, after the epoch.
    since_epoch: Duration,
    /// When the last call came, in milliseconds; 0 before the first.
    last: AtomicU64,
    /// Rows of answered calls.
    rows: Counter,
    failed: Counter,
    failed_nanos: Counter,
    /// The batches of lanes that are gone.
    batches: Mutex<Batches>,
}

/// Batches by their size, at index 0 those of one row: how many came back, and how long they were inside the model together.
pub type Batches = Vec<(u64, Duration)>;

/// A number of things and the time they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum {
    /// How many.
    pub count: u64,
    /// How long, all together.
    pub time: Duration,
}

/// What a model has done, over all its loads until it is unloaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// When the last call came, after the epoch; `None` before the first.
    pub last: Option<Duration>,
    /// Rows of answered calls.
    pub rows: u64,
    /// Calls that the batcher or the model failed, refusals included.
    pub failed: Sum,
    /// Reading requests into tensors.
    pub decode: Sum,
    /// Waiting for an instance and for company, of answered calls.
    pub queue: Sum,
    /// Inside the model, of answered calls.
    pub run: Sum,
    /// Writing answers.
    pub encode: Sum,
    /// The batches of lanes that are gone.
    pub batches: Batches,
}

/// What kind of thing a request asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `POST /predict/NAME`.
    Predict,
    /// `POST /predict/NAME/batch`.
    PredictBatch,
    /// `POST /v2/models/NAME/infer`.
    Infer,
    /// `POST /v2/models/NAME/generate`.
    Generate,
    /// A request that is answered with a stream of events, over HTTP or WebSocket.
    Stream,
    /// A method of gRPC.
    Grpc,
    /// Server and model metadata.
    Metadata,
    /// Live and ready.
    Health,
    /// Metrics, status and pages for people.
    Admin,
    /// Everything else, above all what is not found.
    Other,
}

/// A part of an answered request's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Reading the body into tensors.
    Decode,
    /// Waiting until an instance was free.
    Queue,
    /// Waiting for others to join the batch, an instance being free.
    Hold,
    /// Inside the model.
    Run,
    /// Writing the answer.
    Encode,
}

/// What the protocols know about the time of one request. Queue, hold and run are recorded by the model's lane.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// From the body's bytes to tensors.
    pub decode: Duration,
    /// From tensors to the answer's bytes.
    pub encode: Duration,
    /// All of it.
    pub total: Duration,
}

/// Two quantiles since the start, in seconds, as near as the histogram's buckets tell; `None` before the first request.
#[derive(Clone, Copy, Debug)]
pub struct Quantiles {
    /// Half took at most this long.
    pub p50: Option<f64>,
    /// All but one in a hundred took at most this long.
    pub p99: Option<f64>,
}

/// The state of a model at the moment of a scrape.
#[derive(Clone, Debug)]
pub struct ModelReading {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: String,
    /// Whether it can be called.
    pub ready: bool,
    /// Its batcher's counts, where it has one.
    pub stats: Option<Stats>,
    /// The processes that run it, where it runs in others than this one.
    pub workers: Vec<WorkerReading>,
}

/// The state of a model's process at the moment of a scrape.
#[derive(Clone, Copy, Debug)]
pub struct WorkerReading {
    /// Whether there is a process.
    pub alive: bool,
    /// How often it was started again.
    pub restarts: u64,
    /// Its resident memory in bytes, where known.
    pub resident: Option<u64>,
}

/// What became of loading a model again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// It took the place of the one before.
    Ok,
    /// It could not be loaded, and the one before went on.
    Failed,
}

/// A number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

/// A number that goes up and down.
#[derive(Debug, Default)]
pub struct Gauge(AtomicI64);

/// The metrics of the models of one server.
#[derive(Clone)]
pub(crate) struct ModelTable(Arc<Shared>);

type Probe = Box<dyn Fn() -> Vec<ModelReading> + Send + Sync>;

struct Shared {
    started: Instant,
    server: ServerMetrics,
    without_model: Arc<ModelMetrics>,
    models: Mutex<Vec<Arc<ModelMetrics>>>,
    traces: Mutex<Book>,
    probe: Mutex<Option<Probe>>,
}

impl Metrics {
    /// Metrics of a server that starts now.
    pub fn new() -> Metrics {
        let shared = Arc::new(Shared {
            started: Instant::now(),
            server: ServerMetrics::default(),
            without_model: Arc::new(ModelMetrics::new("", "")),
            models: Mutex::default(),
            traces: Mutex::default(),
            probe: Mutex::default(),
        });
        let mut registry = Registry::default();
        registry.register_collector(Box::new(encode::Scrape(Arc::clone(&shared))));
        Metrics { shared, registry }
    }

    /// What concerns the server as a whole.
    pub fn server(&self) -> &ServerMetrics {
        &self.shared.server
    }

    /// The metrics of a configured model; the same ones for the same name and version. For the catalog: a name from a request must never
    /// come here, or strangers could fill the memory with labels.
    pub fn model(&self, model: &str, version: &str) -> Arc<ModelMetrics> {
        self.models().model(model, version)
    }

    /// The metrics of all models, for whoever adds models while the server runs.
    pub(crate) fn models(&self) -> ModelTable {
        ModelTable(Arc::clone(&self.shared))
    }

    /// Which requests are traced: of this model, or of those of which nothing else is said.
    pub fn traces(&self, model: Option<&str>) -> TraceSettings {
        lock(&self.shared.traces).settings(model)
    }

    /// Changes which requests are traced: of this configured model, or of those of which nothing else is said.
    pub fn change_traces(&self, model: Option<&str>, change: &TraceChange) {
        // The order of the locks is that of `model`.
        let models = lock(&self.shared.models);
        let mut traces = lock(&self.shared.traces);
        traces.change(model, change);
        for known in &*models {
            traces.apply(&known.model, &known.sampler);
        }
    }

    /// The metrics of requests that reached no model; their model label is empty.
    pub fn without_model(&self) -> &Arc<ModelMetrics> {
        &self.shared.without_model
    }

    /// Sets whom to ask for the state of the models at each scrape. The closure must not block, and should hold what it reads weakly.
    pub fn watch_models(&self, probe: impl Fn() -> Vec<ModelReading> + Send + Sync + 'static) {
        *lock(&self.shared.probe) = Some(Box::new(probe));
    }

    /// Everything in the OpenMetrics text format, whose media type is [`CONTENT_TYPE`].
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        // Writing to a string cannot fail, and no encoder here fails by itself.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry);
        text
    }
}

impl ModelTable {
    /// The metrics of a model, as [`Metrics::model`] has them.
    pub(crate) fn model(&self, model: &str, version: &str) -> Arc<ModelMetrics> {
        let mut models = lock(&self.0.models);
        let known = models
            .iter()
            .find(|known| known.model == model && known.version == version);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let new = Arc::new(ModelMetrics::new(model, version));
        lock(&self.0.traces).apply(model, &new.sampler);
        models.push(Arc::clone(&new));
        new
    }

    /// Shows a model no more. Versions come and go without end, and so would their labels.
    pub(crate) fn forget(&self, model: &str, version: &str) {
        let mut models = lock(&self.0.models);
        models.retain(|known| known.model != model || known.version != version);
    }
}

impl Quantiles {
    fn of(histogram: &Histogram) -> Quantiles {
        let observed = histogram.read();
        Quantiles {
            p50: observed.quantile(0.5),
            p99: observed.quantile(0.99),
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl ModelMetrics {
    /// Records one HTTP request that ended: answered with what it asked for, or not, for the reason that this stable word says. The times
    /// of failures are not recorded, since quick refusals would hide how long answers take.
    pub fn request(&self, route: Route, answer: Result<Times, &'static str>) {
        self.request_untimed(route, answer.map(|_| ()));
        if let Ok(times) = answer {
            self.phase(Phase::Decode, times.decode);
            self.phase(Phase::Encode, times.encode);
            self.total.observe(times.total);
        }
    }

    /// Records one HTTP request that ended and whose time is of no interest, such as one for metadata.
    pub fn request_untimed(&self, route: Route, answer: Result<(), &'static str>) {
        match answer {
            Ok(()) => self.answered[route as usize].add(1),
            Err(code) => self.count_unanswered(route, code),
        }
    }

    /// Records that a call came. The trace of it where it is one of those that are traced, for [`ModelMetrics::answered`].
    pub(crate) fn called(&self, at: Instant, id: Option<&String>) -> Option<Trace> {
        let millis = at.saturating_duration_since(self.calls.since).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.calls.last.store(millis.max(1), Ordering::Relaxed);
        let picked = self.sampler.picks();
        picked.then(|| Trace::begin(id.cloned(), at))
    }

    /// Records how an answered call of so many rows travelled through the batcher.
    pub(crate) fn answered(&self, trip: &Trip, rows: usize, trace: Option<Trace>) {
        self.phase(Phase::Queue, trip.queued);
        self.phase(Phase::Hold, trip.held);
        self.phase(Phase::Run, trip.run);
        self.calls.rows.add(rows as u64);
        if let Some(trace) = trace {
            trace.end(&self.model, &self.version, trip);
        }
    }

    /// Records that a call failed after so long.
    pub(crate) fn failed(&self, took: Duration) {
        self.calls.failed.add(1);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.calls.failed_nanos.add(nanos);
    }

    /// Keeps what a lane has run that ends.
    pub(crate) fn keep(&self, batches: &Batches) {
        add(&mut lock(&self.calls.batches), batches);
    }

    /// What the model has done so far.
    pub fn totals(&self) -> Totals {
        let sum = |phase: Phase| {
            let (count, time) = self.phases[phase as usize].sum();
            Sum { count, time }
        };
        let (queue, hold) = (sum(Phase::Queue), sum(Phase::Hold));
        let last = self.calls.last.load(Ordering::Relaxed);
        let last = Duration::from_millis(last);
        Totals {
            last: (!last.is_zero()).then(|| self.calls.since_epoch + last),
            rows: self.calls.rows.get(),
            failed: Sum {
                count: self.calls.failed.get(),
                time: Duration::from_nanos(self.calls.failed_nanos.get()),
            },
            decode: sum(Phase::Decode),
            queue: Sum {
                count: queue.count,
                time: queue.time + hold.time,
            },
            run: sum(Phase::Run),
            encode: sum(Phase::Encode),
            batches: lock(&self.calls.batches).clone(),
        }
    }

    /// How long a part of the answered requests took.
    pub fn phase_quantiles(&self, phase: Phase) -> Quantiles {
        Quantiles::of(&self.phases[phase as usize])
    }

    /// How long the answered requests took altogether.
    pub fn total_quantiles(&self) -> Quantiles {
        Quantiles::of(&self.total)
    }

    /// Records an item that the batcher refused.
    pub(crate) fn refused(&self, refused: &Refused) {
        self.refused[Cause::of(refused) as usize].add(1);
    }

    /// Records an item that was not run because the same input had crashed the model or made it hang.
    pub(crate) fn quarantined(&self) {
        self.quarantined.add(1);
    }

    /// Records a result of a stream.
    pub(crate) fn streamed(&self) {
        self.streamed.add(1);
    }

    /// Records that the model was loaded again, or could not be.
    pub(crate) fn reloaded(&self, outcome: Reload) {
        self.reloads[outcome as usize].add(1);
    }

    fn new(model: &str, version: &str) -> ModelMetrics {
        ModelMetrics {
            model: model.to_owned(),
            version: version.to_owned(),
            answered: Default::default(),
            unanswered: Mutex::default(),
            refused: Default::default(),
            quarantined: Counter::default(),
            streamed: Counter::default(),
            reloads: Default::default(),
            total: Histogram::default(),
            phases: Default::default(),
            calls: Calls {
                since: Instant::now(),
                since_epoch: SystemTime::now()
                    .duration_since(SystemTime::UNIX_EPOCH)
                    .unwrap_or_default(),
                last: AtomicU64::new(0),
                rows: Counter::default(),
                failed: Counter::default(),
                failed_nanos: Counter::default(),
                batches: Mutex::default(),
            },
            sampler: Sampler::default(),
        }
    }

    fn count_unanswered(&self, route: Route, code: &'static str) {
        let mut unanswered = lock(&self.unanswered);
        let known = unanswered
            .iter_mut()
            .find(|known| known.route == route && known.code == code);
        match known {
            Some(known) => known.count += 1,
            None => unanswered.push(Unanswered {
                route,
                code,
                count: 1,
            }),
        }
    }

    fn phase(&self, phase: Phase, took: Duration) {
        self.phases[phase as usize].observe(took);
    }
}

impl Route {
    const ALL: [Route; 10] = [
        Route::Predict,
        Route::PredictBatch,
        Route::Infer,
        Route::Generate,
        Route::Stream,
        Route::Grpc,
        Route::Metadata,
        Route::Health,
        Route::Admin,
        Route::Other,
    ];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Route::Predict => "predict",
            Route::PredictBatch => "predict_batch",
            Route::Infer => "infer",
            Route::Generate => "generate",
            Route::Stream => "stream",
            Route::Grpc => "grpc",
            Route::Metadata => "metadata",
            Route::Health => "health",
            Route::Admin => "admin",
            Route::Other => "other",
        }
    }
}

impl Phase {
    const ALL: [Phase; 5] = [
        Phase::Decode,
        Phase::Queue,
        Phase::Hold,
        Phase::Run,
        Phase::Encode,
    ];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Phase::Decode => "decode",
            Phase::Queue => "queue",
            Phase::Hold => "hold",
            Phase::Run => "run",
            Phase::Encode => "encode",
        }
    }
}

impl Reload {
    const ALL: [Reload; 2] = [Reload::Ok, Reload::Failed];

    /// The label's value.
    pub const fn word(self) -> &'static str {
        match self {
            Reload::Ok => "ok",
            Reload::Failed => "failed",
        }
    }
}

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The sum so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Gauge {
    /// Adds `n`, which may be negative.
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// Replaces the value.
    pub fn set(&self, value: i64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How many requests of a route ended with this word.
#[derive(Clone, Copy, Debug)]
struct Unanswered {
    route: Route,
    code: &'static str,
    count: u64,
}

/// The values of the label `cause`.
#[derive(Clone, Copy)]
enum Cause {
    Full,
    TooLate,
    TooLarge,
    Closed,
    Failed,
}

impl Cause {
    const ALL: [Cause; 5] = [
        Cause::Full,
        Cause::TooLate,
        Cause::TooLarge,
        Cause::Closed,
        Cause::Failed,
    ];

    fn of(refused: &Refused) -> Cause {
        match refused {
            Refused::Full { .. } => Cause::Full,
            Refused::TooLate { .. } => Cause::TooLate,
            Refused::TooLarge { .. } => Cause::TooLarge,
            Refused::Closed => Cause::Closed,
            Refused::Failed(_) => Cause::Failed,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Cause::Full => "full",
            Cause::TooLate => "too_late",
            Cause::TooLarge => "too_large",
            Cause::Closed => "closed",
            Cause::Failed => "failed",
        }
    }
}

/// Adds batches to batches of the same sizes.
pub fn add(sum: &mut Batches, more: &[(u64, Duration)]) {
    if sum.len() < more.len() {
        sum.resize(more.len(), (0, Duration::ZERO));
    }
    for (sum, more) in sum.iter_mut().zip(more) {
        *sum = (sum.0 + more.0, sum.1 + more.1);
    }
}

/// A panic while one of these locks was held leaves nothing half-changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
