//! One model in the catalog: where it stands, and its lane once it is loaded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jitney::batch::Surroundings;
use jitney::tree::Node;
use jitney_engine::LoadError;
use tokio::sync::watch;

use super::discover::{Card, Found, Plan};
use super::failures::{SOON, draining, no_instance};
use super::lane::Lane;
use super::loader::Job;
use super::reload::Ways;
use super::state::{Event, ModelState};
use super::{Loaded, ModelStatus, engines};
use crate::failure::{Code, Failure};
use crate::observe::logging;
use crate::observe::metrics::{Metrics, ModelMetrics, Reload};

/// One version of one model.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) metrics: Arc<ModelMetrics>,
    node: Node,
    /// How many models are still being loaded.
    pending: watch::Sender<usize>,
    slot: Mutex<Slot>,
}

pub(super) struct Slot {
    pub(super) state: ModelState,
    /// There is one as soon as it was ready, and from then on.
    pub(super) lane: Option<Arc<Lane>>,
    card: Card,
    /// The lanes whose place it has taken, as long as requests hold them.
    replaced: Vec<Arc<Lane>>,
    /// Of the loads that have ended, the one that began last.
    newest: u64,
    /// Why that one failed, where there is a lane all the same.
    reload_failure: Option<String>,
    /// A place in the task tree for each process that runs it.
    workers: Vec<Node>,
    /// When somebody last looked whether the lane is alive.
    looked: Instant,
}

/// Requests look whether their model is alive when nobody has for so long.
const FRESH: Duration = Duration::from_millis(100);

impl Entry {
    pub(super) fn new(
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
            node,
            pending: pending.clone(),
            slot: Mutex::new(Slot {
                state: ModelState::Loading,
                lane: None,
                card: card.unwrap_or_default(),
                replaced: Vec::new(),
                newest: 0,
                reload_failure: None,
                workers: Vec::new(),
                looked: Instant::now(),
            }),
        };
        (Arc::new(entry), found.plan)
    }

    /// How it is loaded; `None` where that cannot even be tried. Loads are numbered in the order in which they begin, the first with 0.
    pub(super) fn job(
        self: &Arc<Entry>,
        plan: Result<Plan, String>,
        ways: &Ways,
        number: u64,
    ) -> Option<Job> {
        let plan = plan.map_err(|why| self.unloadable(why, number)).ok()?;
        let (loading, failing, ways) = (Arc::clone(self), Arc::clone(self), ways.clone());
        Some(Job {
            name: self.name.clone(),
            limit: plan.settings.load_limit,
            load: Box::new(move || loading.load(plan, ways, number)),
            fail: Box::new(move |why| {
                failing.unloadable(format!("{}: {why}", failing.name), number);
            }),
        })
    }

    /// The work of the loading thread. A panic of the engine is a model that failed.
    fn load(&self, plan: Plan, ways: Ways, number: u64) {
        let surroundings = Surroundings {
            courier: ways.courier,
            node: Some(self.node.clone()),
            ..Surroundings::default()
        };
        let start = || {
            Lane::start(
                &self.name,
                &self.version,
                &plan.settings,
                Arc::clone(&self.metrics),
                surroundings,
                || engines::open(&self.name, &plan, &ways.settings),
            )
        };
        let loaded = catch_unwind(AssertUnwindSafe(start)).unwrap_or_else(|_| {
            let error = LoadError::new("the engine panicked while it loaded the model");
            Err(error.about(&self.name))
        });
        match loaded {
            Ok(lane) => {
                let lane = lane.labelled(plan.card.labels.clone());
                self.replace(lane, plan.card, number);
            }
            Err(error) => self.unloadable(error.to_string(), number),
        }
    }

    /// Puts a lane in the place of the one before, if there was one. New requests go to it from now on; the old one is closed when those
    /// that hold it have let go of it, so that none of them is refused.
    ///
    /// Nothing happens where a load that began later has ended before, or the model was closed: then the lane is dropped here, which ends
    /// its threads.
    pub(super) fn replace(&self, lane: Lane, card: Card, number: u64) {
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
        let closed = matches!(slot.state, ModelState::Draining | ModelState::Closed);
        if closed || number < slot.newest {
            return;
        }
        slot.newest = number;
        slot.card = card;
        slot.reload_failure = None;
        let before = slot.lane.replace(Arc::new(lane));
        slot.replaced.extend(before);
        slot.change(self, Event::Alive);
        if number > 0 {
            self.metrics.reloaded(Reload::Ok);
        }
    }

    /// Takes down why a load failed. Where there is a lane, it goes on as if nothing had happened.
    pub(super) fn unloadable(&self, why: String, number: u64) {
        let mut slot = self.slot();
        if slot.state == ModelState::Closed || number < slot.newest {
            return;
        }
        slot.newest = number;
        let error = logging::one_line(&why);
        let (model, version) = (&self.name, &self.version);
        if slot.lane.is_some() {
            tracing::error!(model, version, %error, "the model could not be loaded again; the one before goes on serving");
            slot.reload_failure = Some(why);
        } else {
            tracing::error!(model, version, %error, "the model could not be loaded");
            slot.change(self, Event::Unloadable(why));
        }
        if number > 0 {
            self.metrics.reloaded(Reload::Failed);
        }
    }

    /// Whether its first load goes on.
    pub(super) fn is_loading(&self) -> bool {
        self.slot().state == ModelState::Loading
    }

    /// Lanes that were replaced and that no request holds any more. Dropping one waits for what runs it.
    pub(super) fn abandoned(&self) -> Vec<Arc<Lane>> {
        let mut slot = self.slot();
        // Nobody can get hold of it again: it is not where requests look for it.
        let abandoned = |lane: &mut Arc<Lane>| Arc::strong_count(lane) == 1;
        slot.replaced.extract_if(.., abandoned).collect()
    }

    /// Its lane and those that it has replaced.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let slot = self.slot();
        slot.lane.iter().chain(&slot.replaced).cloned().collect()
    }

    /// Says in the task tree what the processes of the model are doing at this moment.
    pub(super) fn show_workers(&self) {
        let mut slot = self.slot();
        let workers = slot
            .lane
            .as_ref()
            .map_or_else(Vec::new, |lane| lane.workers());
        slot.workers.truncate(workers.len());
        for worker in workers {
            if worker.index >= slot.workers.len() {
                let place = self.node.child(format!("worker {}", worker.index));
                slot.workers.push(place);
            }
            if let Some(place) = slot.workers.get(worker.index) {
                let pid = worker.pid.map(|pid| format!(", process {pid}"));
                place.label(format!("{}{}", worker.state, pid.unwrap_or_default()));
            }
        }
    }

    pub(super) fn lane(&self) -> Result<Arc<Lane>, Failure> {
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
            .retry_after(SOON)),
            (ModelState::Failed { .. }, Some(_)) => Err(no_instance()),
            // The cause may name files, so it is for the log and for status pages.
            (ModelState::Failed { .. }, None) => Err(Failure::new(
                Code::Failed,
                format!("model \"{}\" could not be loaded", self.name),
            )
            .retry_after(SOON * 60)),
            (ModelState::Draining | ModelState::Closed, _) => Err(draining()),
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.looked_at().state == ModelState::Ready
    }

    pub(super) fn status(&self, default: bool) -> ModelStatus {
        let (state, lane, card, reload_failure) = {
            let slot = self.looked_at();
            let (state, card) = (slot.state.clone(), slot.card.clone());
            (state, slot.lane.clone(), card, slot.reload_failure.clone())
        };
        ModelStatus {
            name: self.name.clone(),
            version: self.version.clone(),
            default,
            state,
            description: card.description,
            labels: card.labels,
            sketch: card.sketch,
            loaded: lane.map(|lane| Loaded {
                engine: lane.engine(),
                stats: lane.stats(),
                workers: lane.workers(),
            }),
            reload_failure,
        }
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
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
    pub(super) fn change(&mut self, entry: &Entry, event: Event) -> bool {
        let Some(next) = self.state.after(event) else {
            return false;
        };
        entry.node.label(next.word());
        if let ModelState::Draining | ModelState::Closed = next {
            self.lane
                .iter()
                .chain(&self.replaced)
                .for_each(|lane| lane.close());
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
        match lane.dead() {
            Some(why) => {
                let error = logging::one_line(&why);
                if self.change(entry, Event::Broke(why)) {
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
