//! The models of a server: found, loaded, warmed up, called, closed.
//!
//! Discovery finds what the sources hold, the [`Catalog`] has them loaded, and a loaded one is a [`Lane`]. A model that cannot be loaded
//! fails alone: the others serve, and its state says why.

mod bell;
mod classes;
mod closing;
mod discover;
mod engines;
mod entry;
mod failures;
mod files;
mod index;
mod keeper;
mod lane;
mod loads;
#[cfg(test)]
mod probe;
mod quarantine;
mod roster;
mod state;
mod warmup;

use std::fmt;
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;
use jitney::batch::{Courier, Stats};
use jitney::tree::Node;
use jitney_engine::WorkerStatus;
use tokio::sync::{Notify, watch};

use self::entry::Entry;
use self::failures::draining;
pub use self::index::{IndexRow, IndexState};
use self::keeper::{Keeper, Surroundings, Ways, Wish};
pub use self::lane::{Answers, Lane, Sharing};
use self::roster::Roster;
pub use self::state::ModelState;
use crate::config::{Control, ModelSource, Settings, Sketch, SourceError, load_request};
use crate::failure::{Code, Failure};
use crate::observe::logging;
use crate::observe::metrics::{Metrics, ModelMetrics, ModelReading, WorkerReading};
use crate::observe::record::Record;

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
    /// Whether requests that name no version get this one: it is the highest that is ready, or the highest where none is.
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
    /// Why it could not be loaded again the last time, where the one before goes on.
    pub reload_failure: Option<String>,
}

/// What is known of a loaded model.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The engine that runs it.
    pub engine: &'static str,
    /// What its batcher has counted.
    pub stats: Stats,
    /// The processes that run it; none where it runs in this one.
    pub workers: Vec<WorkerStatus>,
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
        let ways = Arc::new(Ways {
            sources: sources.to_vec(),
            settings: settings.clone(),
            courier: courier.cloned(),
        });
        let (pending, _) = watch::channel(0);
        let (changes, _) = watch::channel(());
        let surroundings = Surroundings {
            metrics: metrics.models(),
            node: node.clone(),
            pending: pending.clone(),
            changes: changes.clone(),
        };
        let roster = Arc::new(ArcSwap::from_pointee(Roster::default()));
        let shelf = Arc::new(Shelf {
            keeper: Keeper::start(&ways, surroundings, &roster)?,
            roster,
            pending,
            changes,
            watched: Notify::new(),
            ways,
        });
        let watched = Arc::downgrade(&shelf);
        metrics.watch_models(move || readings(&watched));
        Ok(Catalog(shelf))
    }

    /// The lane of a ready model: of that version, for which a label may stand, or of the highest that is ready where none is named.
    ///
    /// Hold it as long as what you do with it lasts, and no longer: a model that was replaced or unloaded is closed when nobody holds it,
    /// and at the latest when the time for a drain has passed twice.
    ///
    /// # Errors
    /// `unknown_model` where there is no such name or version; `not_ready`, `failed` or `draining` where it cannot be called now.
    pub fn model(&self, name: &str, version: Option<&str>) -> Result<Arc<Lane>, Failure> {
        let mut roster = self.0.roster.load();
        loop {
            let failure = match roster.lane(name, version) {
                Ok(lane) => return Ok(lane),
                Err(failure) => failure,
            };
            // What one roster shows may leave between the look at it and the look at the model. Then there is another one.
            let now = self.0.roster.load();
            if Arc::ptr_eq(&roster, &now) {
                return Err(failure);
            }
            roster = now;
        }
    }

    /// The lane of a ready model, for a request that is recorded there. A model that is configured has a record of its own, whether it can be
    /// called or not.
    ///
    /// # Errors
    /// As [`Catalog::model`].
    pub(crate) fn called(
        &self,
        name: &str,
        version: Option<&str>,
        record: &mut Record,
    ) -> Result<Arc<Lane>, Failure> {
        let lane = self.model(name, version);
        let metrics = match &lane {
            Ok(lane) => Some(Arc::clone(lane.metrics())),
            Err(_) => self.metrics(name, version),
        };
        if let Some(metrics) = metrics {
            record.reached(metrics);
        }
        lane
    }

    /// Where requests to a configured model are recorded, whether it can be called or not; `None` where there is no such name or version.
    pub fn metrics(&self, name: &str, version: Option<&str>) -> Option<Arc<ModelMetrics>> {
        let roster = self.0.roster.load();
        let entry = roster.entry(name, version).ok()?;
        Some(Arc::clone(&entry.metrics))
    }

    /// Whether there is a model of that name, whether it can be called or not.
    ///
    /// # Errors
    /// `unknown_model`.
    pub fn known(&self, name: &str) -> Result<(), Failure> {
        self.0.roster.load().versions(name).map(|_| ())
    }

    /// The versions of a model that can be called, lowest first; empty where there is no such model.
    pub fn versions(&self, name: &str) -> Vec<String> {
        let roster = self.0.roster.load();
        let entries = roster.versions(name).map(|versions| &versions.entries[..]);
        let ready = entries.unwrap_or_default().iter();
        ready
            .filter(|entry| entry.is_ready())
            .map(|entry| entry.version.clone())
            .collect()
    }

    /// Every version of every model that is served or should be, by name.
    pub fn statuses(&self) -> Vec<ModelStatus> {
        let roster = self.0.roster.load();
        let is_default = |entry: &Arc<Entry>| {
            let default = roster.entry(&entry.name, None);
            default.is_ok_and(|default| Arc::ptr_eq(default, entry))
        };
        let entries = roster.entries.iter();
        entries
            .map(|entry| entry.status(is_default(entry)))
            .collect()
    }

    /// What the sources hold, loaded or not, by name and version. Where models are loaded on request, this waits until the folders of the
    /// sources have been read on another thread, for as long as that takes.
    ///
    /// # Errors
    /// Where models are loaded on request: `overloaded` while too many wait for the same, `draining` when the server ends.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn index(&self) -> Result<Vec<IndexRow>, Failure> {
        let holdings = match self.explicit() {
            true => Some(self.0.keeper.look()?.await.map_err(|_| draining())?),
            false => None,
        };
        let roster = self.0.roster.load_full();
        let shown = roster.entries.iter().chain(&roster.leaving);
        let mut rows: Vec<IndexRow> = shown.map(|entry| entry.row()).collect();
        let absent = |row: &&IndexRow| roster.versions(&row.name).is_err();
        let holdings = holdings.iter().flat_map(|holdings| holdings.iter());
        rows.extend(holdings.filter(absent).cloned());
        rows.sort_by_key(IndexRow::place);
        rows.dedup_by(|a, b| a.place() == b.place());
        Ok(rows)
    }

    /// Whether models are loaded and unloaded by [`Catalog::load`] and [`Catalog::unload`].
    pub fn explicit(&self) -> bool {
        self.0.ways.settings.control == Control::Explicit
    }

    /// Loads a model, or loads it again beside the one that serves, and waits until it serves. `settings` is a model configuration of the
    /// protocol as JSON; what it says holds for this load, before all else that says the same.
    ///
    /// # Errors
    /// `forbidden` where models are not loaded on request; `unknown_model` where the sources hold no such model; `invalid_input` where the
    /// settings are not understood; `failed` where it could not be loaded: the one before goes on serving.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing about the load.
    pub async fn load(&self, name: &str, settings: Option<&str>) -> Result<(), Failure> {
        self.check_explicit()?;
        let options = load_request(name, settings.unwrap_or_default()).map_err(Failure::invalid)?;
        self.order(name, Wish::Load(Box::new(options))).await
    }

    /// Takes every version of a model from the requests at once, and waits until what they had accepted is answered and the model is freed.
    /// A model that is not loaded is left so.
    ///
    /// # Errors
    /// `forbidden` where models are not unloaded on request; `unknown_model` where there is no such model.
    ///
    /// # Cancel safety
    /// Dropping the future changes nothing about what was begun.
    pub async fn unload(&self, name: &str) -> Result<(), Failure> {
        self.check_explicit()?;
        self.order(name, Wish::Unload).await
    }

    /// Says in the task tree what the processes of the models are doing at this moment.
    pub fn show_workers(&self) {
        for entry in &self.0.roster.load().entries {
            entry.show_workers();
        }
    }

    /// Whether there is something to call and nothing more to wait for: no model is being loaded for the first time since the start, and one
    /// or more can be called. A model that failed does not keep the others from traffic: that would make one broken file an outage of
    /// everything. Where models come and go, having none is no failure.
    pub fn is_ready(&self) -> bool {
        let loading = *self.0.pending.borrow() > 0;
        let entries = &self.0.roster.load().entries;
        let none = entries.is_empty() && self.0.ways.settings.control != Control::None;
        !loading && (none || entries.iter().any(|entry| entry.is_ready()))
    }

    /// Changes whenever what can be called may have become something else. That a model's processes have ended is seen where somebody looks.
    pub(crate) fn changes(&self) -> watch::Receiver<()> {
        let changes = self.0.changes.subscribe();
        self.0.watched.notify_one();
        changes
    }

    /// Waits until somebody waits for a change.
    pub(crate) async fn watched(&self) {
        while self.0.changes.receiver_count() == 0 {
            self.0.watched.notified().await;
        }
    }

    /// Finds out of every model whether it is alive, which whoever waits for a change is told.
    pub(crate) fn look(&self) {
        for entry in &self.0.roster.load().entries {
            entry.look();
        }
    }

    /// Waits until every model that was there at the start is ready, failed or closed.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait_loaded(&self) {
        let mut pending = self.0.pending.subscribe();
        // The sender lives as long as this catalog, so the wait ends with the condition.
        pending.wait_for(|pending| *pending == 0).await.ok();
    }

    /// Ends every stream of results now: the last that each gives is `draining`. For when the time to shut down is over; models whose calls
    /// have one answer go on. Gives how many there were.
    pub fn cut_streams(&self) -> usize {
        let roster = self.0.roster.load();
        let lanes = roster.all().flat_map(|entry| entry.lanes());
        lanes.map(|lane| lane.cut_streams()).sum()
    }

    /// Accepts no calls from now on. What is queued is still answered. Models that are being loaded are closed at once: the load goes on,
    /// since engines cannot be interrupted, but nobody waits for it.
    pub fn close(&self) {
        self.0.keeper.close();
        for entry in self.0.roster.load().all() {
            entry.close();
        }
    }

    /// Waits until a closed catalog has answered every call.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait_closed(&self) {
        let roster = self.0.roster.load_full();
        for entry in roster.all() {
            for lane in entry.lanes() {
                lane.wait_closed().await;
            }
            entry.emptied();
        }
    }
}

impl fmt::Debug for Catalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roster = self.0.roster.load();
        let states = roster.entries.iter();
        f.debug_list()
            .entries(states.map(|entry| (&entry.name, &entry.version, entry.slot().state.word())))
            .finish()
    }
}

/// What the handles of a catalog share.
struct Shelf {
    keeper: Keeper,
    roster: Arc<ArcSwap<Roster>>,
    /// How many of the models that were there at the start are still being loaded.
    pending: watch::Sender<usize>,
    /// Told whenever what can be called may have become something else.
    changes: watch::Sender<()>,
    /// Told of everybody who begins to wait for a change.
    watched: Notify,
    ways: Arc<Ways>,
}

impl Catalog {
    fn check_explicit(&self) -> Result<(), Failure> {
        if self.explicit() {
            return Ok(());
        }
        Err(Failure::new(
            Code::Forbidden,
            "models are loaded and unloaded on request only by a server that was started with --control explicit",
        ))
    }

    async fn order(&self, name: &str, wish: Wish) -> Result<(), Failure> {
        let answer = self.0.keeper.order(name, wish)?;
        answer.await.unwrap_or_else(|_| Err(draining()))
    }
}

impl Drop for Shelf {
    fn drop(&mut self) {
        self.keeper.close();
        let roster = self.roster.load_full();
        let lanes = roster.all().flat_map(|entry| entry.take_lanes());
        closing::drop_together(lanes.collect());
    }
}

/// The answer about a model that is not there, or that whoever asks may not see.
pub(crate) fn unknown_model(name: &str) -> Failure {
    let name = logging::escaped(name);
    let message = format!("there is no model \"{name}\"");
    Failure::new(Code::UnknownModel, message)
}

fn worker_readings(lane: &Lane) -> Vec<WorkerReading> {
    let workers = lane.workers().into_iter();
    workers
        .map(|worker| WorkerReading {
            alive: worker.pid.is_some(),
            restarts: worker.restarts,
            resident: worker.resident,
        })
        .collect()
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
            stats: lane.as_ref().map(|lane| lane.stats()),
            workers: lane.map_or_else(Vec::new, |lane| worker_readings(&lane)),
        }
    };
    shelf.roster.load().entries.iter().map(reading).collect()
}

#[cfg(test)]
mod tests;
