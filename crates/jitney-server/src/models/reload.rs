//! Models are loaded again when their files change, and the new one takes the place of the old one when it is ready.
//!
//! Files are looked at a few times a second: that works on every file system, and costs a few calls of the system for each model.

mod changes;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use jitney::batch::Courier;

use self::changes::{Changes, Stamp};
use super::discover::{Found, discover};
use super::entry::Entry;
use super::loader::Loader;
use crate::config::{ModelSource, Settings};

/// How often files are looked at. A change counts when it was there twice, so that a file is not read while it is being written.
const EVERY: Duration = Duration::from_millis(300);

/// How models are found and loaded: the same the second time as the first.
#[derive(Clone)]
pub(super) struct Ways {
    pub(super) sources: Vec<ModelSource>,
    pub(super) settings: Settings,
    pub(super) courier: Option<Courier>,
}

/// Watches the files of models. Dropping it ends that; loads that have begun are left to themselves.
pub(super) struct Reloader {
    stop: SyncSender<()>,
    thread: Option<JoinHandle<()>>,
}

/// A model, and the files that it was made of before it was loaded.
pub(super) struct Watched {
    entry: Arc<Entry>,
    files: Vec<PathBuf>,
    changes: Changes,
    /// The load that goes on.
    loading: Option<Loader>,
    /// How many loads there have been, the first of all not counted.
    loads: u64,
}

impl Watched {
    /// Looks at the files, so it must come before the model is loaded from them.
    pub(super) fn new(entry: &Arc<Entry>, files: Vec<PathBuf>) -> Watched {
        Watched {
            entry: Arc::clone(entry),
            changes: Changes::new(Stamp::of(&files)),
            files,
            loading: None,
            loads: 0,
        }
    }
}

impl Reloader {
    /// Begins to watch.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub(super) fn start(watched: Vec<Watched>, ways: Ways) -> io::Result<Reloader> {
        let (stop, stopped) = sync_channel(1);
        let thread = thread::Builder::new()
            .name("jitney-reload".to_owned())
            .spawn(move || watch(watched, &ways, &stopped))?;
        Ok(Reloader {
            stop,
            thread: Some(thread),
        })
    }

    /// Begins no more loads.
    pub(super) fn close(&self) {
        let _ = self.stop.try_send(());
    }
}

impl Drop for Reloader {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            // Its panic was logged where it happened.
            let _ = thread.join();
        }
    }
}

fn watch(mut watched: Vec<Watched>, ways: &Ways, stopped: &Receiver<()>) {
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        for model in &mut watched {
            model.look(ways);
        }
    }
}

impl Watched {
    fn look(&mut self, ways: &Ways) {
        // The ends of processes are waited for here, where nobody else waits.
        drop(self.entry.abandoned());
        if self.entry.is_loading() || self.loading.as_ref().is_some_and(Loader::is_busy) {
            return;
        }
        self.loading = None;
        if self.changes.settled(Stamp::of(&self.files)) {
            self.reload(ways);
        }
    }

    fn reload(&mut self, ways: &Ways) {
        self.loads += 1;
        let Entry { name, version, .. } = &*self.entry;
        tracing::info!(
            model = name,
            version,
            "files of the model have changed: it is loaded again"
        );
        let found = match self.find(ways) {
            Ok(found) => found,
            Err(why) => return self.entry.unloadable(why, self.loads),
        };
        self.files = found.files;
        let job = self.entry.job(found.plan, ways, self.loads);
        self.loading = job.map(|job| Loader::start(vec![job], NonZeroUsize::MIN));
    }

    /// The model as its source holds it now.
    fn find(&self, ways: &Ways) -> Result<Found, String> {
        let found = discover(&ways.sources, &ways.settings).map_err(|error| error.to_string())?;
        let same =
            |found: &Found| found.name == self.entry.name && found.version == self.entry.version;
        found.into_iter().find(same).ok_or_else(|| {
            "it is not where it was found\n  hint: where its name or version was changed, start the server again".to_owned()
        })
    }
}
