//! One model in the catalog: where it stands, and its lane once it is loaded.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jitney::batch::Courier;
use jitney::tree::Node;
use jitney_engine::LoadError;
use tokio::sync::watch;

use super::discover::{Card, Found, Plan};
use super::failures::{SOON, draining, no_instance};
use super::lane::Lane;
use super::loader::Job;
use super::state::{Event, ModelState};
use super::{Loaded, ModelStatus, engines};
use crate::failure::{Code, Failure};
use crate::observe::log;
use crate::observe::metrics::{Metrics, ModelMetrics};

/// One version of one model.
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) metrics: Arc<ModelMetrics>,
    card: Card,
    node: Node,
    /// How many models are still being loaded.
    pending: watch::Sender<usize>,
    slot: Mutex<Slot>,
}

pub(super) struct Slot {
    pub(super) state: ModelState,
    /// There is one as soon as it was ready, and from then on.
    pub(super) lane: Option<Arc<Lane>>,
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
    pub(super) fn job(
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
            loaded: lane.map(|lane| Loaded {
                engine: lane.engine(),
                stats: lane.stats(),
            }),
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
