//! What somebody wants to know of the sources. Their folders are read here, on the keeper's thread, since a disk may take its time.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use tokio::sync::oneshot;

use super::super::discover::discover;
use super::super::index::IndexRow;
use super::stock::Stock;

/// Most who wait for the same look.
const MOST_INQUIRIES: usize = 64;

/// What the sources hold, as if none of it were loaded.
pub(in super::super) type Holdings = Arc<[IndexRow]>;

/// The way to ask.
pub(super) struct Asker(SyncSender<oneshot::Sender<Holdings>>);

/// Those who have asked.
pub(super) struct Inquiries(Receiver<oneshot::Sender<Holdings>>);

pub(super) fn inquiries() -> (Asker, Inquiries) {
    let (asker, asked) = sync_channel(MOST_INQUIRIES);
    (Asker(asker), Inquiries(asked))
}

impl Asker {
    /// Asks. The keeper has to be woken for the answer to come.
    pub(super) fn ask(&self) -> Result<oneshot::Receiver<Holdings>, TrySendError<()>> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(reply).map_err(|error| match error {
            TrySendError::Full(_) => TrySendError::Full(()),
            TrySendError::Disconnected(_) => TrySendError::Disconnected(()),
        })?;
        Ok(answer)
    }
}

impl Inquiries {
    /// Looks at the sources once for all who have asked and still wait.
    pub(super) fn answer(&self, stock: &Stock) {
        let waiting: Vec<_> = self
            .0
            .try_iter()
            .filter(|reply| !reply.is_closed())
            .collect();
        if waiting.is_empty() {
            return;
        }
        let found = discover(&stock.ways.sources, &stock.ways.settings).found;
        let holdings: Holdings = found.iter().map(IndexRow::not_loaded).collect();
        for reply in waiting {
            let _ = reply.send(Arc::clone(&holdings));
        }
    }
}
