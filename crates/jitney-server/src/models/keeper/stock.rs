//! The models that there are, and how one version takes the place of another.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use super::super::bell::Bell;
use super::super::closing::Closing;
use super::super::discover::{Found, discover};
use super::super::entry::Entry;
use super::super::files::Stamp;
use super::super::loads::Loads;
use super::super::roster::{Roster, Versions};
use super::{Surroundings, Ways};
use crate::config::{AtStart, Control, SourceError, VersionLabels, number};

/// All models, by name.
pub(super) struct Stock {
    pub(super) ways: Arc<Ways>,
    surroundings: Surroundings,
    roster: Arc<ArcSwap<Roster>>,
    models: BTreeMap<String, Model>,
    /// What is not served any more and has requests to answer, or lanes to close.
    leaving: Vec<Arc<Entry>>,
    /// Of those, the ones that requests can still find.
    retiring: Vec<Arc<Entry>>,
    loads: Loads,
    closing: Closing,
    bell: Bell,
    stop: Arc<AtomicBool>,
    /// The roster is not what it should be.
    stale: bool,
    /// The server does not wait for what comes from now on.
    filled: bool,
}

/// One model, in the versions that are served or about to be.
pub(super) struct Model {
    /// The number of its source.
    pub(super) source: usize,
    /// Its folder, where it has one.
    pub(super) home: Option<PathBuf>,
    /// What the last looks at the disk have said about its being there.
    pub(super) presence: Presence,
    labels: VersionLabels,
    /// The lowest version first.
    editions: Vec<Edition>,
}

/// Whether a model is where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    There,
    /// It was not, the last time.
    Missed,
    /// Its folder is there without a model in it, and that was said.
    Hollow,
}

/// One version of a model.
struct Edition {
    entry: Arc<Entry>,
    /// It is to be served. In a model there is always one that is.
    chosen: bool,
    /// Its files when it was loaded, or was tried to be; empty where nobody watches.
    stamp: Stamp,
    /// Its loads are numbered; this is the last that has begun.
    load: u64,
}

/// What one version has been found to be.
pub(super) struct Sighting {
    pub(super) found: Found,
    pub(super) stamp: Stamp,
}

/// Without a limit of the server, requests may hold what was replaced for so long before it is closed under them.
const HOLD_LIMIT: Duration = Duration::from_secs(30);

impl Stock {
    pub(super) fn new(
        ways: &Arc<Ways>,
        surroundings: Surroundings,
        roster: &Arc<ArcSwap<Roster>>,
        bell: Bell,
        stop: &Arc<AtomicBool>,
    ) -> Stock {
        let at_once = thread::available_parallelism().unwrap_or(NonZeroUsize::MIN);
        Stock {
            ways: Arc::clone(ways),
            surroundings,
            roster: Arc::clone(roster),
            models: BTreeMap::new(),
            leaving: Vec::new(),
            retiring: Vec::new(),
            loads: Loads::new(at_once, bell.clone()),
            closing: Closing::new(bell.clone(), Arc::clone(stop)),
            bell,
            stop: Arc::clone(stop),
            stale: false,
            filled: false,
        }
    }

    /// Takes in what is to be served from the start. The first loads begin with the first step.
    pub(super) fn fill(&mut self, seen: Option<&Stamp>) -> Result<(), SourceError> {
        let discovery = discover(&self.ways.sources, &self.ways.settings);
        if let Some(mistake) = discovery.mistakes.into_iter().next() {
            return Err(mistake);
        }
        check_names(&self.ways.settings.at_start, &discovery.found)?;
        let explicit = self.control() == Control::Explicit;
        for (name, sightings) in sightings(discovery.found, seen) {
            if !explicit || self.ways.settings.at_start.includes(&name) {
                self.arrange(&name, sightings, false);
            }
        }
        self.filled = true;
        self.publish();
        Ok(())
    }

    pub(super) fn control(&self) -> Control {
        self.ways.settings.control
    }

    pub(super) fn models(&self) -> impl Iterator<Item = (&String, &Model)> {
        self.models.iter()
    }

    pub(super) fn model_mut(&mut self, name: &str) -> Option<&mut Model> {
        self.models.get_mut(name)
    }

    /// Has these versions of a model served, and no others once they are ready. A version whose files are not those that it was loaded
    /// from is loaded again; where that is asked for, every one is. The answer is what is to be served, with the numbers of the loads.
    pub(super) fn arrange(
        &mut self,
        name: &str,
        sightings: Vec<Sighting>,
        again: bool,
    ) -> Vec<(Arc<Entry>, u64)> {
        let mut model = self.models.remove(name).unwrap_or_else(Model::new);
        for edition in &mut model.editions {
            edition.chosen = false;
        }
        model.presence = Presence::There;
        let mut chosen = Vec::new();
        for Sighting { found, stamp } in sightings {
            model.source = found.source;
            model.home = found.scope.folder().map(Into::into);
            model.labels.clone_from(&found.labels);
            chosen.push(self.sight(&mut model, found, stamp, again));
        }
        model
            .editions
            .sort_by_key(|edition| number(&edition.entry.version));
        self.models.insert(name.to_owned(), model);
        self.stale = true;
        chosen
    }

    /// Takes a model from the requests. The answer is what they may still hold.
    pub(super) fn remove(&mut self, name: &str) -> Vec<Arc<Entry>> {
        let Some(model) = self.models.remove(name) else {
            return self.leaving(name);
        };
        for edition in model.editions {
            self.retire(edition.entry);
        }
        self.leaving(name)
    }

    /// What requests may still hold of a model that is not served any more.
    pub(super) fn leaving(&self, name: &str) -> Vec<Arc<Entry>> {
        let leaving = self.leaving.iter().filter(|entry| entry.name == name);
        leaving.cloned().collect()
    }

    /// Whether nothing of it is left.
    pub(super) fn is_gone(&self, entry: &Arc<Entry>) -> bool {
        !self
            .leaving
            .iter()
            .any(|leaving| Arc::ptr_eq(leaving, entry))
    }

    /// Says of a model that there is nothing to load it from. Its versions go on.
    pub(super) fn say_hollow(&mut self, name: &str) {
        let Some(model) = self.models.get_mut(name) else {
            return;
        };
        model.presence = Presence::Hollow;
        let home = model.home.clone().unwrap_or_default();
        for edition in &mut model.editions {
            edition.load += 1;
            // Whatever comes back is loaded, even if it is the same as before.
            edition.stamp = Stamp::default();
            let why = format!("there is no model any more in {}", home.display());
            edition.entry.unloadable(why, edition.load);
        }
    }

    /// Does what can be done now.
    pub(super) fn step(&mut self, now: Instant) {
        self.loads.step(now);
        self.settle();
        if self.stale {
            self.publish();
        }
        self.sweep();
    }

    /// Whether there is nothing to load.
    pub(super) fn is_idle(&self) -> bool {
        self.loads.is_idle()
    }

    /// Whether requests hold what they cannot get hold of again.
    pub(super) fn is_held(&self) -> bool {
        let mut entries = self.entries();
        entries.any(|entry| entry.is_held())
    }

    /// Whether something is not gone yet that is about to.
    #[cfg(test)]
    pub(super) fn is_closing(&self) -> bool {
        !self.leaving.is_empty() || !self.closing.is_idle()
    }

    /// When a load will have taken too long.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.loads.next_due()
    }

    /// Fails what waits to be loaded.
    pub(super) fn fail(&mut self, why: &str) {
        self.loads.fail(why);
    }

    /// Waits for what is being closed.
    pub(super) fn end(&mut self) {
        self.closing.wait();
    }

    fn sight(
        &mut self,
        model: &mut Model,
        found: Found,
        stamp: Stamp,
        again: bool,
    ) -> (Arc<Entry>, u64) {
        let mut editions = model.editions.iter_mut();
        let known = editions.find(|edition| edition.entry.version == found.version);
        let Some(known) = known else {
            let entry = self.entry(&found);
            self.load(&entry, found, 0);
            model.editions.push(Edition {
                entry: Arc::clone(&entry),
                chosen: true,
                stamp,
                load: 0,
            });
            return (entry, 0);
        };
        known.chosen = true;
        let (entry, mut load) = (Arc::clone(&known.entry), known.load);
        if again || known.stamp != stamp {
            load += 1;
            (known.load, known.stamp) = (load, stamp);
            let (model, version) = (&entry.name, &entry.version);
            tracing::info!(model, version, "the model is loaded again");
            self.load(&entry, found, load);
        }
        (entry, load)
    }

    fn entry(&self, found: &Found) -> Arc<Entry> {
        let Surroundings {
            metrics,
            node,
            pending,
            changes,
        } = &self.surroundings;
        let (name, version) = (&found.name, &found.version);
        let pending = (!self.filled).then(|| pending.clone());
        let metrics = metrics.model(name, version);
        Entry::new(name, version, metrics, node, changes.clone(), pending)
    }

    fn load(&mut self, entry: &Arc<Entry>, found: Found, number: u64) {
        match entry.job(found.plan, &self.ways, number) {
            Some(job) => self.loads.add(job),
            // It has failed already, and that is to be looked at.
            None => self.bell.ring(),
        }
    }

    /// Versions that are not to be served any more go, once all that are to be served can be called. Those that have never been ready are
    /// of no use until then.
    fn settle(&mut self) {
        let mut leave = Vec::new();
        for model in self.models.values_mut() {
            let complete = model.is_complete();
            let superfluous = |edition: &mut Edition| {
                !edition.chosen && (complete || edition.entry.lanes().is_empty())
            };
            let superfluous = model.editions.extract_if(.., superfluous);
            leave.extend(superfluous.map(|edition| edition.entry));
        }
        for entry in leave {
            self.retire(entry);
        }
    }

    /// Nobody can find it after the next roster, and only then it is told.
    fn retire(&mut self, entry: Arc<Entry>) {
        self.leaving.push(Arc::clone(&entry));
        self.retiring.push(entry);
        self.stale = true;
    }

    /// Shows requests what there is.
    fn publish(&mut self) {
        self.stale = false;
        let models = self.models.iter();
        let shown = models.map(|(name, model)| (name.clone(), model.shown()));
        self.roster
            .store(Arc::new(Roster::new(shown, self.leaving.clone())));
        self.surroundings.changes.send_replace(());
        for entry in self.retiring.drain(..) {
            let (model, version) = (&entry.name, &entry.version);
            tracing::info!(model, version, "the model is served no more");
            entry.retire();
        }
        // Whoever closes the server closes what is shown at that moment, and this may have been shown after it.
        if self.stop.load(Ordering::SeqCst) {
            self.entries().for_each(|entry| entry.close());
        }
    }

    /// Closes what nobody holds any more, and forgets what is gone.
    fn sweep(&mut self) {
        let limit = self.ways.settings.close_limit.unwrap_or(HOLD_LIMIT);
        let abandoned: Vec<_> = self
            .entries()
            .flat_map(|entry| {
                let lanes = entry.abandoned(limit).into_iter();
                lanes.map(|lane| (Arc::clone(entry), lane))
            })
            .collect();
        for (entry, lane) in abandoned {
            self.closing.begin(&entry, lane);
        }
        self.closing.step();
        let closing = &self.closing;
        let gone = |entry: &mut Arc<Entry>| !entry.is_held() && !closing.concerns(entry);
        let gone: Vec<_> = self.leaving.extract_if(.., gone).collect();
        for entry in gone {
            self.forget(&entry);
        }
    }

    fn forget(&mut self, entry: &Entry) {
        entry.emptied();
        let same = |other: &&Arc<Entry>| other.name == entry.name && other.version == entry.version;
        if self.entries().find(same).is_none() {
            self.surroundings
                .metrics
                .forget(&entry.name, &entry.version);
        }
        self.stale = true;
        // Somebody may wait for this.
        self.bell.ring();
    }

    fn entries(&self) -> impl Iterator<Item = &Arc<Entry>> {
        let served = self.models.values().flat_map(|model| &model.editions);
        served.map(|edition| &edition.entry).chain(&self.leaving)
    }
}

impl Model {
    fn new() -> Model {
        Model {
            source: 0,
            home: None,
            presence: Presence::There,
            labels: VersionLabels::new(),
            editions: Vec::new(),
        }
    }

    /// Whether a load of one of its versions goes on.
    pub(super) fn is_loading(&self) -> bool {
        let mut editions = self.editions.iter();
        editions.any(|edition| edition.entry.outcome(edition.load).is_none())
    }

    /// Whether all versions that are to be served can be called.
    fn is_complete(&self) -> bool {
        let mut chosen = self.editions.iter().filter(|edition| edition.chosen);
        chosen.all(|edition| edition.entry.is_ready())
    }

    fn shown(&self) -> Versions {
        let entries = self.editions.iter().map(|edition| &edition.entry);
        Versions {
            entries: entries.cloned().collect(),
            labels: self.labels.clone(),
        }
    }
}

/// What was found, model by model, with what the files looked like before it was.
pub(super) fn sightings(
    found: Vec<Found>,
    seen: Option<&Stamp>,
) -> BTreeMap<String, Vec<Sighting>> {
    let mut models: BTreeMap<String, Vec<Sighting>> = BTreeMap::new();
    for found in found {
        let stamp = seen.map(|seen| seen.within(&found.scope));
        let model = models.entry(found.name.clone()).or_default();
        model.push(Sighting {
            stamp: stamp.unwrap_or_default(),
            found,
        });
    }
    models
}

/// Everything that is to be loaded at the start must be there.
fn check_names(at_start: &AtStart, found: &[Found]) -> Result<(), SourceError> {
    let AtStart::Only(names) = at_start else {
        return Ok(());
    };
    let absent = |name: &&String| !found.iter().any(|found| found.name == **name);
    let Some(name) = names.iter().find(absent) else {
        return Ok(());
    };
    let mut known: Vec<&str> = found.iter().map(|found| &*found.name).collect();
    known.dedup();
    Err(SourceError::Absent {
        name: name.clone(),
        known: known.join(", "),
    })
}
