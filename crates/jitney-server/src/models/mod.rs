//! The models of a server: found, loaded, warmed up, called, closed.
//!
//! Discovery finds what the sources hold, the [`Catalog`] has them loaded, and a loaded one is a [`Lane`]. A model that cannot be loaded
//! fails alone: the others serve, and its state says why.

mod classes;
mod discover;
mod engines;
mod entry;
mod failures;
mod index;
mod lane;
mod loader;
#[cfg(test)]
mod probe;
mod quarantine;
mod reload;
mod state;
mod warmup;

use std::collections::HashMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;

use jitney::batch::{Courier, Stats};
use jitney::tree::Node;
use jitney_engine::WorkerStatus;
use tokio::sync::watch;

use self::entry::Entry;
pub use self::index::{IndexRow, IndexState};
pub use self::lane::{Answers, Lane, Sharing};
use self::loader::Loader;
use self::reload::{Reloader, Watched, Ways};
use self::state::Event;
pub use self::state::ModelState;
use crate::config::{ModelSource, Settings, Sketch, SourceError};
use crate::failure::{Code, Failure};
use crate::observe::logging;
use crate::observe::metrics::{Metrics, ModelMetrics, ModelReading, WorkerReading};

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
    /// Why it could not be loaded again when its files changed last, where the one before goes on.
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
        let ways = Ways {
            sources: sources.to_vec(),
            settings: settings.clone(),
            courier: courier.cloned(),
        };
        let found = discover::discover(sources, settings)?;
        let (pending, _) = watch::channel(found.len());
        let files: Vec<_> = found.iter().map(|found| found.files.clone()).collect();
        let (entries, plans): (Vec<_>, Vec<_>) = found
            .into_iter()
            .map(|found| Entry::new(found, metrics, node, &pending))
            .unzip();
        let reloader = if settings.reload {
            watch_files(&entries, files, &ways)
        } else {
            None
        };
        let jobs = entries.iter().zip(plans);
        let jobs = jobs.filter_map(|(entry, plan)| entry.job(plan, &ways, 0));
        let at_once = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        let shelf = Arc::new(Shelf {
            loader: Loader::start(jobs.collect(), at_once),
            by_name: by_name(&entries),
            entries,
            pending,
            reloader,
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

    /// What the repository holds, loaded or not, by name and version.
    pub fn index(&self) -> Vec<IndexRow> {
        let statuses = self.statuses().into_iter();
        statuses
            .map(|status| {
                IndexRow::of(
                    &status.name,
                    &status.version,
                    &status.state,
                    status.reload_failure,
                )
            })
            .collect()
    }

    /// Whether models are loaded and unloaded by [`Catalog::load`] and [`Catalog::unload`].
    pub fn explicit(&self) -> bool {
        false
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
        let _ = (name, settings);
        Err(not_explicit())
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
        let _ = name;
        Err(not_explicit())
    }

    /// Says in the task tree what the processes of the models are doing at this moment.
    pub fn show_workers(&self) {
        for entry in &self.0.entries {
            entry.show_workers();
        }
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

    /// Ends every stream of results now: the last that each gives is `draining`. For when the time to shut down is over; models whose calls
    /// have one answer go on.
    pub fn cut_streams(&self) {
        let lanes = self.0.entries.iter().flat_map(|entry| entry.lanes());
        lanes.for_each(|lane| lane.cut_streams());
    }

    /// Accepts no calls from now on. What is queued is still answered. Models that are being loaded are closed at once: the load goes on,
    /// since engines cannot be interrupted, but nobody waits for it.
    pub fn close(&self) {
        self.0.loader.close();
        if let Some(reloader) = &self.0.reloader {
            reloader.close();
        }
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
            for lane in entry.lanes() {
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
    /// Only where files are watched.
    reloader: Option<Reloader>,
}

impl Catalog {
    fn entry(&self, name: &str, version: Option<&str>) -> Result<&Arc<Entry>, Failure> {
        let versions = self.0.by_name.get(name);
        let versions = versions.ok_or_else(|| unknown_model(name))?;
        let entry = match version {
            None => versions.last(),
            Some(version) => versions.iter().find(|entry| entry.version == version),
        };
        entry.ok_or_else(|| {
            let known: Vec<&str> = versions.iter().map(|entry| &*entry.version).collect();
            let message = format!(
                "model \"{name}\" has no version \"{}\"; it has {}",
                logging::escaped(version.unwrap_or_default()),
                known.join(", "),
            );
            Failure::new(Code::UnknownModel, message)
        })
    }
}

/// The answer about a model that is not there, or that whoever asks may not see.
pub(crate) fn unknown_model(name: &str) -> Failure {
    let name = logging::escaped(name);
    Failure::new(Code::UnknownModel, format!("there is no model \"{name}\""))
}

fn not_explicit() -> Failure {
    Failure::new(
        Code::Forbidden,
        "models are loaded and unloaded on request only by a server that was started with --control explicit",
    )
}

fn by_name(entries: &[Arc<Entry>]) -> HashMap<String, Vec<Arc<Entry>>> {
    let mut by_name: HashMap<String, Vec<Arc<Entry>>> = HashMap::new();
    for entry in entries {
        let versions = by_name.entry(entry.name.clone()).or_default();
        versions.push(Arc::clone(entry));
    }
    by_name
}

/// Without it the models are served all the same.
fn watch_files(entries: &[Arc<Entry>], files: Vec<Vec<PathBuf>>, ways: &Ways) -> Option<Reloader> {
    let watched = entries.iter().zip(files);
    let watched = watched.map(|(entry, files)| Watched::new(entry, files));
    Reloader::start(watched.collect(), ways.clone())
        .inspect_err(|error| tracing::error!(%error, "no thread to watch files: models are not loaded again when they change"))
        .ok()
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
    shelf.entries.iter().map(reading).collect()
}

#[cfg(test)]
mod tests;
