//! The models of a server: found, loaded, warmed up, called, closed.
//!
//! Discovery finds what the sources hold, the [`Catalog`] has them loaded, and a loaded one is a [`Lane`]. A model that cannot be loaded
//! fails alone: the others serve, and its state says why.

mod discover;
mod engines;
mod lane;
mod loader;
#[cfg(test)]
mod probe;
mod state;
mod warmup;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread;
use std::time::{Duration, Instant};

use jitney::batch::{Courier, Stats};
use jitney::tree::Node;
use jitney_engine::LoadError;
use tokio::sync::watch;

use self::discover::{Card, Found, Plan};
pub use self::lane::{Lane, Sharing};
use self::loader::{Job, Loader};
use self::state::Event;
pub use self::state::ModelState;
use crate::config::{ModelSource, Settings, Sketch, SourceError};
use crate::failure::{Code, Failure};
use crate::observe::log;
use crate::observe::metrics::{Metrics, ModelMetrics, ModelReading};

/// Every model of a server. Cloning it gives another handle to the same models.
#[derive(Clone)]
pub struct Catalog(Arc<Shelf>);

/// One version of one model as status pages show it. For operators: the message of a failure may name files.
#[derive(Clone, Debug)]
pub struct ModelStatus {
    /// The name by which requests call it.
    pub name: String,
    /// The version.
    pub version: String,
    /// Whether requests that name no version get this one: it is the highest.
    pub default: bool,
    /// Where it stands.
    pub state: ModelState,
    /// What the model's folder says about it.
    pub description: Option<String>,
    /// What the places of its first output mean; empty where nobody said.
    pub labels: Vec<String>,
    /// How a person can draw an input.
    pub sketch: Option<Sketch>,
    /// What is known once it is loaded.
    pub loaded: Option<Loaded>,
}

/// What is known of a loaded model.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The engine that runs it.
    pub engine: &'static str,
    /// The protocol's platform string.
    pub platform: &'static str,
    /// Whether rows are run together, and if not, why.
    pub sharing: Sharing,
    /// What batching gains, as a sentence.
    pub batching: String,
    /// From the beginning of the load until it could be called, without the time that its batch sizes were measured.
    pub took_to_load: Duration,
    /// What its batcher has counted.
    pub stats: Stats,
}

impl Catalog {
    /// Finds the models of the sources and begins to load them, as many at a time as the machine has cores. Does not wait for them: until a
    /// model is loaded, [`Catalog::model`] says that it is not ready. Reads folders and `model.toml` files, but no models, before it returns.
    ///
    /// What is wrong with one model is that model's state, never an error here. Answers are delivered by the courier, where there is one.
    ///
    /// # Errors
    /// When the sources themselves cannot be what was meant: two models of the same name, a name that cannot be one.
    pub fn start(
        sources: &[ModelSource],
        settings: &Settings,
        metrics: &Metrics,
        node: &Node,
        courier: Option<&Courier>,
    ) -> Result<Catalog, SourceError> {
        let found = discover::discover(sources, settings)?;
        let (pending, _) = watch::channel(found.len());
        let (entries, plans): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|found| Entry::new(found, metrics, node, &pending))
            .unzip();
        let jobs = entries.iter().zip(plans);
        let jobs = jobs
            .filter_map(|(entry, plan)| entry.job(plan, settings.python.clone(), courier.cloned()));
        let at_once = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let shelf = Arc::new(Shelf {
            loader: Loader::start(jobs.collect(), at_once),
            by_name: by_name(&entries),
            entries,
            pending,
        });
        let watched = Arc::downgrade(&shelf);
        metrics.watch_models(move || readings(&watched));
        Ok(Catalog(shelf))
    }

    /// The lane of a ready model: of that version, or of the highest where none is named.
    ///
    /// # Errors
    /// `unknown_model` where there is no such name or version; `not_ready`, `failed` or `draining` where it cannot be called now.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Lane>, Failure> {
        self.entry(name, version)?.lane()
    }

    /// Where requests to a configured model are recorded, whether it can be called or not; `None` where there is no such name or version.
    pub fn metrics(&self, name: &str, version: Option<&str>) -> Option<Arc<ModelMetrics>> {
        let entry = self.entry(name, version).ok()?;
        Some(Arc::clone(&entry.metrics))
    }

    /// The versions of a model, lowest first; empty where there is no such model.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let entries = self.0.by_name.get(name).into_iter().flatten();
        entries.map(|entry| entry.version.clone()).collect()
    }

    /// Every version of every model by name.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        let is_default = |entry: &Arc<Entry>| {
            let versions = self.0.by_name.get(&entry.name);
            versions
                .and_then(|versions| versions.last())
                .is_some_and(|highest| Arc::ptr_eq(highest, entry))
        };
        let entries = self.0.entries.iter();
        entries
            .map(|entry| entry.status(is_default(entry)))
            .collect()
    }

    /// Whether there is something to call and nothing more to wait for: no model is being loaded, and one or more can be called. A model that
    /// failed does not keep the others from traffic: that would make one broken file an outage of everything.
    pub fn is_ready(&self) -> bool {
        let loading = *self.0.pending.borrow() > 0;
        !loading && self.0.entries.iter().any(|entry| entry.is_ready())
    }

    /// Waits until every model is ready, failed or closed.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait_loaded(&self) {
        let mut pending = self.0.pending.subscribe();
        // The sender lives as long as this catalog, so the wait ends with the condition.
        pending.wait_for(|pending| *pending == 0).await.ok();
    }

    /// Accepts no calls from now on. What is queued is still answered. Models that are being loaded are closed at once: the load goes on,
    /// since engines cannot be interrupted, but nobody waits for it.
    pub fn close(&self) {
        self.0.loader.close();
        for entry in &self.0.entries {
            entry.slot().change(entry, Event::Close);
        }
    }

    /// Waits until a closed catalog has answered every call.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait_closed(&self) {
        for entry in &self.0.entries {
            let lane = entry.slot().lane.clone();
            if let Some(lane) = lane {
                lane.wait_closed().await;
            }
            entry.slot().change(entry, Event::Emptied);
        }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let states = self.0.entries.iter();
        f.debug_list()
            .entries(states.map(|entry| (&entry.name, &entry.version, entry.slot().state.word())))
            .finish()
    }
}

/// What the handles of a catalog share.
struct Shelf {
    entries: Vec<Arc<Entry>>,
    /// Lowest version first.
    by_name: HashMap<String, Vec<Arc<Entry>>>,
    /// How many models are still being loaded.
    pending: watch::Sender<usize>,
    loader: Loader,
}

/// One version of one model.
struct Entry {
    name: String,
    version: String,
    card: Card,
    metrics: Arc<ModelMetrics>,
    node: Node,
    pending: watch::Sender<usize>,
    slot: Mutex<Slot>,
}

struct Slot {
    state: ModelState,
    /// There is one as soon as it was ready, and from then on.
    lane: Option<Arc<Lane>>,
    /// When somebody last looked whether the lane is alive.
    looked: Instant,
}

/// Requests look whether their model is alive when nobody has for so long.
const FRESH: Duration = Duration::from_millis(100);

impl Entry {
    fn new(
        found: Found,
        metrics: &Metrics,
        node: &Node,
        pending: &watch::Sender<usize>,
    ) -> (Arc<Entry>, Result<Plan, String>) {
        let node = node.child(format!("model {} version {}", found.name, found.version));
        node.label(ModelState::Loading.word());
        let card = found.plan.as_ref().map(|plan| plan.card.clone());
        let entry = Entry {
            metrics: metrics.model(&found.name, &found.version),
            name: found.name,
            version: found.version,
            card: card.unwrap_or_default(),
            node,
            pending: pending.clone(),
            slot: Mutex::new(Slot {
                state: ModelState::Loading,
                lane: None,
                looked: Instant::now(),
            }),
        };
        (Arc::new(entry), found.plan)
    }

    /// How it is loaded; `None` where that cannot even be tried.
    fn job(
        self: &Arc<Entry>,
        plan: Result<Plan, String>,
        python: Option<PathBuf>,
        courier: Option<Courier>,
    ) -> Option<Job> {
        let plan = plan.map_err(|why| self.broke(why)).ok()?;
        let (loading, failing) = (Arc::clone(self), Arc::clone(self));
        Some(Job {
            name: self.name.clone(),
            limit: plan.settings.load_limit,
            load: Box::new(move || loading.load(&plan, python.as_deref(), courier)),
            fail: Box::new(move |why| failing.broke(format!("{}: {why}", failing.name))),
        })
    }

    /// The work of the loading thread. A panic of the engine is a model that failed.
    fn load(&self, plan: &Plan, python: Option<&Path>, courier: Option<Courier>) {
        let start = || {
            Lane::start(
                &self.name,
                &self.version,
                &plan.settings,
                Arc::clone(&self.metrics),
                courier,
                || engines::open(plan, python),
            )
        };
        let loaded = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|_| {
            let error = LoadError::new("the engine panicked while it loaded the model");
            Err(error.about(&self.name))
        });
        match loaded {
            Ok(lane) => self.loaded(lane),
            Err(error) => self.broke(error.to_string()),
        }
    }

    fn loaded(&self, lane: Lane) {
        tracing::info!(
            model = self.name,
            version = self.version,
            engine = lane.engine(),
            runtime = lane.runtime(),
            instances = lane.instances(),
            batching = lane.batching(),
            seconds = lane.took_to_load().as_secs_f64(),
            "model loaded"
        );
        let mut slot = self.slot();
        // Where it was closed in the meantime the lane is dropped here, which ends its threads.
        if slot.change(self, Event::Alive) {
            slot.lane = Some(Arc::new(lane));
        }
    }

    fn broke(&self, why: String) {
        let mut slot = self.slot();
        if slot.state != ModelState::Closed {
            tracing::error!(
                model = self.name,
                version = self.version,
                error = %log::one_line(&why),
                "the model could not be loaded"
            );
        }
        slot.change(self, Event::Broke(why));
    }

    fn lane(&self) -> Result<Arc<Lane>, Failure> {
        let mut slot = self.slot();
        if slot.looked.elapsed() > FRESH {
            slot.look(self);
        }
        match (&slot.state, &slot.lane) {
            (ModelState::Ready, Some(lane)) => Ok(Arc::clone(lane)),
            (ModelState::Loading | ModelState::Ready, _) => Err(Failure::new(
                Code::NotReady,
                format!("model \"{}\" is still being loaded", self.name),
            )
            .retry_after(lane::SOON)),
            (ModelState::Failed { .. }, Some(_)) => Err(lane::no_instance()),
            // The cause may name files, so it is for the log and for status pages.
            (ModelState::Failed { .. }, None) => Err(Failure::new(
                Code::Failed,
                format!("model \"{}\" could not be loaded", self.name),
            )
            .retry_after(lane::SOON * 60)),
            (ModelState::Draining | ModelState::Closed, _) => Err(lane::draining()),
        }
    }

    fn is_ready(&self) -> bool {
        self.looked_at().state == ModelState::Ready
    }

    fn status(&self, default: bool) -> ModelStatus {
        let (state, lane) = {
            let slot = self.looked_at();
            (slot.state.clone(), slot.lane.clone())
        };
        ModelStatus {
            name: self.name.clone(),
            version: self.version.clone(),
            default,
            state,
            description: self.card.description.clone(),
            labels: self.card.labels.clone(),
            sketch: self.card.sketch.clone(),
            loaded: lane.map(|lane| Loaded::of(&lane)),
        }
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        // What is behind the lock is changed by single assignments, so a panic elsewhere leaves it whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot as it is at this moment.
    fn looked_at(&self) -> MutexGuard<'_, Slot> {
        let mut slot = self.slot();
        slot.look(self);
        slot
    }
}

impl Slot {
    /// The only place where a model's state changes. Says whether it did.
    fn change(&mut self, entry: &Entry, event: Event) -> bool {
        let Some(next) = self.state.after(event) else {
            return false;
        };
        entry.node.label(next.word());
        if let (ModelState::Draining | ModelState::Closed, Some(lane)) = (&next, &self.lane) {
            lane.close();
        }
        let was_loading = self.state == ModelState::Loading;
        self.state = next;
        if was_loading {
            entry.pending.send_modify(|pending| *pending -= 1);
        }
        true
    }

    /// Finds out whether a loaded model is alive.
    fn look(&mut self, entry: &Entry) {
        self.looked = Instant::now();
        let Some(lane) = &self.lane else { return };
        let (model, version) = (&entry.name, &entry.version);
        match lane.stats().dead {
            Some(why) => {
                if self.change(entry, Event::Broke(why.to_string())) {
                    let error = log::one_line(&why);
                    tracing::error!(model, version, %error, "no instance of the model is alive");
                }
            }
            None => {
                if self.change(entry, Event::Alive) {
                    tracing::info!(model, version, "an instance of the model is alive again");
                }
            }
        }
    }
}

impl Loaded {
    fn of(lane: &Lane) -> Loaded {
        Loaded {
            engine: lane.engine(),
            platform: lane.platform(),
            sharing: lane.sharing().clone(),
            batching: lane.batching(),
            took_to_load: lane.took_to_load(),
            stats: lane.stats(),
        }
    }
}

impl Catalog {
    fn entry(&self, name: &str, version: Option<&str>) -> Result<&Arc<Entry>, Failure> {
        let unknown = |message: String| Failure::new(Code::UnknownModel, message);
        let versions = self.0.by_name.get(name);
        let versions = versions
            .ok_or_else(|| unknown(format!("there is no model \"{}\"", log::escaped(name))))?;
        let entry = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|entry| entry.version == version),
        };
        entry.ok_or_else(|| {
            let known: Vec<&str> = versions.iter().map(|entry| &*entry.version).collect();
            unknown(format!(
                "model \"{name}\" has no version \"{}\"; it has {}",
                log::escaped(version.unwrap_or_default()),
                known.join(", "),
            ))
        })
    }
}

fn by_name(entries: &[Arc<Entry>]) -> HashMap<String, Vec<Arc<Entry>>> {
    let mut by_name: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
    for entry in entries {
        let versions = by_name.entry(entry.name.clone()).or_default();
        versions.push(Arc::clone(entry));
    }
    by_name
}

/// What a scrape shows. The metrics outlive the catalog, so they hold it weakly.
fn readings(shelf: &Weak<Shelf>) -> Vec<ModelReading> {
    let Some(shelf) = shelf.upgrade() else {
        return Vec::new();
    };
    let reading = |entry: &Arc<Entry>| {
        let lane = entry.slot().lane.clone();
        ModelReading {
            model: entry.name.clone(),
            version: entry.version.clone(),
            ready: entry.is_ready(),
            stats: lane.map(|lane| lane.stats()),
        }
    };
    shelf.entries.iter().map(reading).collect()
}

#[cfg(test)]
mod tests;
