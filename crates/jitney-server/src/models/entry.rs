//! One model in the catalog: where it stands, and its lane once it is loaded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jitney::batch::Surroundings;
use jitney::tree::Node;
use jitney_engine::LoadError;
use tokio::sync::watch;

use super::discover::{Card, Plan};
use super::failures::{SOON, draining, no_instance};
use super::index::IndexRow;
use super::keeper::Ways;
use super::lane::Lane;
use super::loads::Job;
use super::state::{Event, ModelState};
use super::{Loaded, ModelStatus, engines};
use crate::failure::{Code, Failure};
use crate::observe::logging;
use crate::observe::metrics::{ModelMetrics, Reload};

/// One version of one model.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) metrics: Arc<ModelMetrics>,
    node: Node,
    /// Told of every change of the state.
    changes: watch::Sender<()>,
    slot: Mutex<Slot>,
}

pub(super) struct Slot {
    pub(super) state: ModelState,
    /// There is one from the time when it was ready until it leaves.
    pub(super) lane: Option<Arc<Lane>>,
    card: Card,
    /// Lanes that requests cannot get hold of any more, as long as they hold them.
    replaced: Vec<Replaced>,
    /// Of the loads that have ended, the one that began last.
    newest: u64,
    /// Why that one failed, where there is a lane all the same.
    reload_failure: Option<String>,
    /// A place in the task tree for each process that runs it.
    workers: Vec<Node>,
    /// When somebody last looked whether the lane is alive.
    looked: Instant,
    /// How many models the server waits for before it is ready, where this is one of them.
    pending: Option<watch::Sender<usize>>,
}

struct Replaced {
    lane: Arc<Lane>,
    since: Instant,
    /// It was closed because requests have held it for too long.
    closed: bool,
}

/// Requests look whether their model is alive when nobody has for so long.
const FRESH: Duration = Duration::from_millis(100);

impl Entry {
    /// A model that is about to be loaded. `pending` counts those that the server waits for before it is ready.
    pub(super) fn new(
        name: &str,
        version: &str,
        metrics: Arc<ModelMetrics>,
        parent: &Node,
        changes: watch::Sender<()>,
        pending: Option<watch::Sender<usize>>,
    ) -> Arc<Entry> {
        let node = parent.child(format!("model {name} version {version}"));
        node.label(ModelState::Loading.word());
        if let Some(pending) = &pending {
            pending.send_modify(|pending| *pending += 1);
        }
        Arc::new(Entry {
            name: name.to_owned(),
            version: version.to_owned(),
            metrics,
            node,
            changes,
            slot: Mutex::new(Slot {
                state: ModelState::Loading,
                lane: None,
                card: Card::default(),
                replaced: Vec::new(),
                newest: 0,
                reload_failure: None,
                workers: Vec::new(),
                looked: Instant::now(),
                pending,
            }),
        })
    }

    /// How it is loaded; `None` where that cannot even be tried. Loads are numbered in the order in which they begin, the first with 0.
    pub(super) fn job(
        self: &Arc<Entry>,
        plan: Result<Plan, String>,
        ways: &Arc<Ways>,
        number: u64,
    ) -> Option<Job> {
        let plan = plan.map_err(|why| self.unloadable(why, number)).ok()?;
        self.slot().expect(&plan.card);
        let (loading, failing, ways) = (Arc::clone(self), Arc::clone(self), Arc::clone(ways));
        Some(Job {
            name: self.name.clone(),
            limit: plan.settings.load_limit,
            load: Box::new(move || loading.load(plan, &ways, number)),
            fail: Box::new(move |why| {
                failing.unloadable(format!("{}: {why}", failing.name), number);
            }),
        })
    }

    /// The work of the loading thread. A panic of the engine is a model that failed.
    fn load(&self, plan: Plan, ways: &Ways, number: u64) {
        let surroundings = Surroundings {
            courier: ways.courier.clone(),
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
        if slot.is_leaving() || number < slot.newest {
            drop(slot);
            return drop(lane);
        }
        slot.newest = number;
        slot.card = card;
        slot.reload_failure = None;
        slot.retire_lane();
        slot.lane = Some(Arc::new(lane));
        slot.change(self, Event::Alive);
        if number > 0 {
            self.metrics.reloaded(Reload::Ok);
        }
    }

    /// Takes down why a load failed. Where there is a lane, it goes on as if nothing had happened.
    pub(super) fn unloadable(&self, why: String, number: u64) {
        let mut slot = self.slot();
        if slot.is_leaving() || number < slot.newest {
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

    /// How the load of that number ended; `None` while it goes on.
    pub(super) fn outcome(&self, number: u64) -> Option<Result<(), String>> {
        let slot = self.slot();
        if slot.is_leaving() {
            return Some(Err("it was unloaded while it was being loaded".to_owned()));
        }
        if slot.newest < number || slot.state == ModelState::Loading {
            return None;
        }
        match (&slot.state, &slot.reload_failure) {
            (_, Some(why)) => Some(Err(why.clone())),
            (ModelState::Failed { message }, None) if slot.lane.is_none() => {
                Some(Err(message.clone()))
            }
            _ => Some(Ok(())),
        }
    }

    /// Takes it from the requests: those that hold its lane go on, and nobody gets hold of it any more.
    pub(super) fn retire(&self) {
        let mut slot = self.slot();
        slot.change(self, Event::Close);
        slot.retire_lane();
    }

    /// Accepts no calls from now on, not even from those that hold its lanes. What is queued is still answered.
    pub(super) fn close(&self) {
        self.slot().change(self, Event::Close);
        for lane in self.lanes() {
            lane.close();
        }
    }

    /// Everyone has been answered.
    pub(super) fn emptied(&self) {
        self.slot().change(self, Event::Emptied);
    }

    /// Lanes that were replaced and that no request holds any more. Those that are held for longer than the limit are closed, so that
    /// what holds them comes to its end; after as long again nobody looks after them.
    pub(super) fn abandoned(&self, limit: Duration) -> Vec<Arc<Lane>> {
        let mut slot = self.slot();
        // Nobody can get hold of it again: it is not where requests look for it.
        let abandoned = |replaced: &mut Replaced| {
            Arc::strong_count(&replaced.lane) == 1 || replaced.since.elapsed() > limit * 2
        };
        let abandoned: Vec<Replaced> = slot.replaced.extract_if(.., abandoned).collect();
        for replaced in &mut slot.replaced {
            if !replaced.closed && replaced.since.elapsed() > limit {
                replaced.closed = true;
                replaced.lane.close();
            }
        }
        abandoned
            .into_iter()
            .map(|replaced| replaced.lane)
            .collect()
    }

    /// Whether there are lanes that requests hold although they cannot be got hold of any more.
    pub(super) fn is_held(&self) -> bool {
        !self.slot().replaced.is_empty()
    }

    /// Its lane and those that it has replaced.
    pub(super) fn lanes(&self) -> Vec<Arc<Lane>> {
        let slot = self.slot();
        let replaced = slot.replaced.iter().map(|replaced| &replaced.lane);
        slot.lane.iter().chain(replaced).cloned().collect()
    }

    /// Gives its lanes away, for the end of the server.
    pub(super) fn take_lanes(&self) -> Vec<Arc<Lane>> {
        let mut slot = self.slot();
        slot.retire_lane();
        let replaced = slot.replaced.drain(..);
        replaced.map(|replaced| replaced.lane).collect()
    }

    /// Finds out whether it is alive, where it is loaded.
    pub(super) fn look(&self) {
        drop(self.looked_at());
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

    /// Its lane, where it can be called.
    pub(super) fn ready_lane(&self) -> Option<Arc<Lane>> {
        let slot = self.slot_for_a_request();
        slot.lane
            .as_ref()
            .filter(|_| slot.state == ModelState::Ready)
            .cloned()
    }

    /// Its lane, or why it cannot be called.
    pub(super) fn lane(&self) -> Result<Arc<Lane>, Failure> {
        let slot = self.slot_for_a_request();
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
                format!(
                    "version {} of model \"{}\" could not be loaded",
                    self.version, self.name
                ),
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

    /// Its row in the index.
    pub(super) fn row(&self) -> IndexRow {
        let slot = self.looked_at();
        let reload_failure = slot.reload_failure.clone();
        IndexRow::of(&self.name, &self.version, &slot.state, reload_failure)
    }

    pub(super) fn slot(&self) -> MutexGuard<'_, Slot> {
        // What is behind the lock is changed by single assignments, so a panic elsewhere leaves it whole.
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot, looked at anew only where nobody has for a while.
    fn slot_for_a_request(&self) -> MutexGuard<'_, Slot> {
        let mut slot = self.slot();
        if slot.looked.elapsed() > FRESH {
            slot.look(self);
        }
        slot
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
        self.state = next;
        if let Some(pending) = self.pending.take() {
            // Whatever became of it, it is not waited for any more.
            pending.send_modify(|pending| *pending -= 1);
        }
        // Whoever hears of it waits for the lock around this before he looks.
        entry.changes.send_replace(());
        true
    }

    fn is_leaving(&self) -> bool {
        matches!(self.state, ModelState::Draining | ModelState::Closed)
    }

    /// What is known of a model before it is loaded.
    fn expect(&mut self, card: &Card) {
        if self.lane.is_none() {
            self.card = card.clone();
        }
    }

    fn retire_lane(&mut self) {
        let lane = self.lane.take();
        self.replaced.extend(lane.map(|lane| Replaced {
            lane,
            since: Instant::now(),
            closed: false,
        }));
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
