//! The models as requests see them: a table that is never changed, only replaced as a whole.

use std::collections::HashMap;
use std::sync::Arc;

use super::entry::Entry;
use super::lane::Lane;
use super::unknown_model;
use crate::config::VersionLabels;
use crate::failure::{Code, Failure};
use crate::observe::logging;

/// What is served at one time.
#[derive(Default)]
pub(super) struct Roster {
    /// By name, and the lowest version first.
    pub(super) entries: Vec<Arc<Entry>>,
    by_name: HashMap<String, Versions>,
    /// What is served no more, but has requests to answer.
    pub(super) leaving: Vec<Arc<Entry>>,
}

/// The versions of one model.
#[derive(Clone, Default)]
pub(super) struct Versions {
    /// The lowest first; one or more.
    pub(super) entries: Vec<Arc<Entry>>,
    /// Words that stand for versions.
    pub(super) labels: VersionLabels,
}

impl Roster {
    /// The models in the order of their names.
    pub(super) fn new(
        models: impl Iterator<Item = (String, Versions)>,
        leaving: Vec<Arc<Entry>>,
    ) -> Roster {
        let mut roster = Roster {
            leaving,
            ..Roster::default()
        };
        for (name, versions) in models {
            roster.entries.extend(versions.entries.iter().cloned());
            roster.by_name.insert(name, versions);
        }
        roster
    }

    /// The lane that a request means: of that version, or of the highest that can be called.
    pub(super) fn lane(&self, name: &str, version: Option<&str>) -> Result<Arc<Lane>, Failure> {
        let versions = self.versions(name)?;
        match version {
            Some(version) => versions.find(name, version)?.lane(),
            None => {
                let mut highest_first = versions.entries.iter().rev();
                match highest_first.find_map(|entry| entry.ready_lane()) {
                    Some(lane) => Ok(lane),
                    None => versions.default(name)?.lane(),
                }
            }
        }
    }

    /// What a request means, whether it can be called or not.
    pub(super) fn entry(&self, name: &str, version: Option<&str>) -> Result<&Arc<Entry>, Failure> {
        let versions = self.versions(name)?;
        match version {
            Some(version) => versions.find(name, version),
            None => versions.default(name),
        }
    }

    /// What is served and what is leaving.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries.iter().chain(&self.leaving)
    }

    pub(super) fn versions(&self, name: &str) -> Result<&Versions, Failure> {
        self.by_name.get(name).ok_or_else(|| unknown_model(name))
    }
}

impl Versions {
    /// The highest version that can be called; where none can, the highest.
    fn default(&self, name: &str) -> Result<&Arc<Entry>, Failure> {
        let mut highest_first = self.entries.iter().rev();
        let ready = highest_first.find(|entry| entry.is_ready());
        ready
            .or(self.entries.last())
            .ok_or_else(|| unknown_model(name))
    }

    fn find(&self, name: &str, version: &str) -> Result<&Arc<Entry>, Failure> {
        let said = self.labels.get(version);
        let meant = said.map_or(version, String::as_str);
        let entry = self.entries.iter().find(|entry| entry.version == meant);
        entry.ok_or_else(|| {
            let known: Vec<&str> = self.entries.iter().map(|entry| &*entry.version).collect();
            let labels: Vec<&str> = self.labels.keys().map(String::as_str).collect();
            let known = [known, labels].concat().join(", ");
            let version = logging::escaped(version);
            let message = format!("model \"{name}\" has no version \"{version}\"; it has {known}");
            Failure::new(Code::UnknownModel, message)
        })
    }
}
