//! What the repository holds, in the words of the protocol's repository extension.

use super::ModelState;
use super::discover::Found;
use crate::config::number;

/// One version of one model in the repository, loaded or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IndexRow {
    /// The name by which requests call it.
    pub name: String,
    /// The version, where there is one to speak of.
    pub version: Option<String>,
    /// Where it stands.
    pub state: IndexState,
    /// Why it stands there, for operators: it may name files. Empty where there is nothing to explain.
    pub reason: String,
}

/// Where a version of a model stands, in the protocol's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IndexState {
    /// Nobody knows.
    Unknown,
    /// It can be called.
    Ready,
    /// It cannot be called: it was not loaded, or it could not be.
    Unavailable,
    /// It is being loaded for the first time.
    Loading,
    /// It takes no more requests, and answers those that it has taken.
    Unloading,
}

impl IndexState {
    /// The protocol's word for it.
    pub const fn word(self) -> &'static str {
        match self {
            IndexState::Unknown => "UNKNOWN",
            IndexState::Ready => "READY",
            IndexState::Unavailable => "UNAVAILABLE",
            IndexState::Loading => "LOADING",
            IndexState::Unloading => "UNLOADING",
        }
    }
}

impl IndexRow {
    /// The row of a model that is in this state; `reload_failure` is why it could not be loaded again.
    pub(super) fn of(
        name: &str,
        version: &str,
        state: &ModelState,
        reload_failure: Option<String>,
    ) -> IndexRow {
        let (state, reason) = match state {
            ModelState::Loading => (IndexState::Loading, String::new()),
            ModelState::Ready => (IndexState::Ready, reload_failure.unwrap_or_default()),
            ModelState::Failed { message } => (IndexState::Unavailable, message.clone()),
            ModelState::Draining => (IndexState::Unloading, String::new()),
            ModelState::Closed => (IndexState::Unavailable, "unloaded".to_owned()),
        };
        IndexRow {
            name: name.to_owned(),
            version: Some(version.to_owned()),
            state,
            reason,
        }
    }

    /// The row of a model that waits to be loaded.
    pub(super) fn not_loaded(found: &Found) -> IndexRow {
        let reason = match &found.plan {
            Ok(_) => "it is not loaded".to_owned(),
            Err(why) => why.clone(),
        };
        IndexRow {
            name: found.name.clone(),
            version: Some(found.version.clone()),
            state: IndexState::Unavailable,
            reason,
        }
    }

    /// Where it stands in the index.
    pub(super) fn place(&self) -> (String, u64) {
        let version = self.version.as_deref();
        (self.name.clone(), version.map_or(0, number))
    }
}
