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
use std::time::{Duration, Instant};

use jitney::batch::{Refused, Stats, Trip};
use prometheus_client::registry::Registry;

use self::histogram::Histogram;

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

type Probe = Box<dyn Fn() -> Vec<ModelReading> + Send + Sync>;

struct Shared {
    started: Instant,
    server: ServerMetrics,
    without_model: Arc<ModelMetrics>,
    models: Mutex<Vec<Arc<ModelMetrics>>>,
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
        let mut models = lock(&self.shared.models);
        let known = models
            .iter()
            .find(|known| known.model == model && known.version == version);
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let new = Arc::new(ModelMetrics::new(model, version));
        models.push(Arc::clone(&new));
        new
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

    /// Records how an answered item travelled through the batcher.
    pub(crate) fn trip(&self, trip: &Trip) {
        self.phase(Phase::Queue, trip.queued);
        self.phase(Phase::Hold, trip.held);
        self.phase(Phase::Run, trip.run);
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

/// A panic while one of these locks was held leaves nothing half-changed, so a poisoned lock is as good as any.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
