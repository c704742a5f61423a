//! What has changed on the disk, and is done changing.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use super::super::discover::{Discovery, Found, discover};
use super::super::files::Stamp;
use super::stock::{Presence, Stock, sightings};
use crate::config::ModelSource;
use crate::observe::logging;

/// How often files are looked at. A change counts when it was there twice, so that a file is not read while it is being written.
const EVERY: Duration = Duration::from_millis(300);

/// Looks at the files of the sources.
pub(super) struct Poll {
    /// What they looked like last.
    seen: Stamp,
    /// Something was not done because it was still changing.
    restless: bool,
    due: Instant,
    /// What was wrong with the sources, as it was last said.
    mistakes: Vec<String>,
}

impl Poll {
    /// Looks at the files for the first time, so it must come before models are loaded from them.
    pub(super) fn new(sources: &[ModelSource]) -> Poll {
        Poll {
            seen: Stamp::of(sources),
            restless: false,
            due: Instant::now() + EVERY,
            mistakes: Vec::new(),
        }
    }

    /// What the files looked like last.
    pub(super) fn seen(&self) -> &Stamp {
        &self.seen
    }

    /// When it is time to look again.
    pub(super) fn next_due(&self) -> Instant {
        self.due
    }

    /// Looks at the files if it is time, and has the models follow them.
    pub(super) fn look(&mut self, stock: &mut Stock, now: Instant) {
        if now < self.due {
            return;
        }
        self.look_now(stock);
        self.due = Instant::now() + EVERY;
    }

    pub(super) fn look_now(&mut self, stock: &mut Stock) {
        let now = Stamp::of(&stock.ways.sources);
        if now != self.seen || self.restless {
            self.restless = false;
            self.follow(stock, &now);
        }
        self.seen = now;
    }

    /// What is found now was not written to between the last look and this one, as far as it looked the same both times.
    fn follow(&mut self, stock: &mut Stock, now: &Stamp) {
        let Discovery {
            mut found,
            mistakes,
        } = discover(&stock.ways.sources, &stock.ways.settings);
        self.report(mistakes.iter().map(ToString::to_string).collect());
        let unread = unread(stock, &found);
        found.retain(|found| !unread.contains(&found.source));
        self.miss(stock, &found, &unread);
        for (name, sightings) in sightings(found, Some(now)) {
            if let Some(model) = stock.model_mut(&name) {
                model.presence = Presence::There;
            }
            let settled = sightings
                .iter()
                .all(|sighting| self.seen.within(&sighting.found.scope) == sighting.stamp);
            let loading = stock
                .models()
                .any(|(known, model)| *known == name && model.is_loading());
            if settled && !loading {
                stock.arrange(&name, sightings, false);
            } else {
                self.restless = true;
            }
        }
    }

    /// Models that are not where they were twice are let go. A folder that is there without a model may be about to get one.
    fn miss(&mut self, stock: &mut Stock, found: &[Found], unread: &BTreeSet<usize>) {
        let is_found = |name: &str| found.iter().any(|found| found.name == name);
        let is_claimed = |home: &Path| {
            let mut homes = found.iter().filter_map(|found| found.scope.folder());
            homes.any(|other| other == home)
        };
        let missed: Vec<_> = stock
            .models()
            .filter(|(name, model)| !is_found(name) && !unread.contains(&model.source))
            .map(|(name, model)| {
                let home = model.home.as_deref();
                let hollow = home.is_some_and(|home| home.is_dir() && !is_claimed(home));
                (name.clone(), model.presence, hollow)
            })
            .collect();
        for (name, presence, hollow) in missed {
            match (presence, hollow) {
                (Presence::There, _) => {
                    self.restless = true;
                    if let Some(model) = stock.model_mut(&name) {
                        model.presence = Presence::Missed;
                    }
                }
                (Presence::Missed, true) => stock.say_hollow(&name),
                (Presence::Hollow, true) => {}
                (Presence::Missed | Presence::Hollow, false) => drop(stock.remove(&name)),
            }
        }
    }

    fn report(&mut self, mistakes: Vec<String>) {
        for mistake in mistakes
            .iter()
            .filter(|mistake| !self.mistakes.contains(mistake))
        {
            let error = logging::one_line(mistake);
            tracing::error!(%error, "a source holds what cannot be served; the rest goes on");
        }
        self.mistakes = mistakes;
    }
}

/// The sources that hold nothing readable although models came from them: whatever is wrong with them, their models go on.
fn unread(stock: &Stock, found: &[Found]) -> BTreeSet<usize> {
    let instead = found.iter().filter(|found| found.instead);
    let served = |source: usize| stock.models().any(|(_, model)| model.source == source);
    instead
        .map(|found| found.source)
        .filter(|source| served(*source))
        .collect()
}
