//! Lanes come to their end, each on a thread of its own: that waits for processes, and nobody else shall wait with it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::timeout;

use super::bell::Bell;
use super::entry::Entry;
use super::lane::Lane;

/// The lanes that are being closed.
pub(super) struct Closing {
    bell: Bell,
    /// The server ends: nobody waits any more for a model that hangs.
    hurry: Arc<AtomicBool>,
    closers: Vec<Closer>,
}

struct Closer {
    entry: Arc<Entry>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// How often a closer looks whether the server ends.
const LOOK: Duration = Duration::from_millis(50);

impl Closing {
    /// The bell is rung when a lane is gone.
    pub(super) fn new(bell: Bell, hurry: Arc<AtomicBool>) -> Closing {
        Closing {
            bell,
            hurry,
            closers: Vec::new(),
        }
    }

    /// Closes a lane that nobody else can get hold of, and frees what it has.
    pub(super) fn begin(&mut self, entry: &Arc<Entry>, lane: Arc<Lane>) {
        let ended = Arc::new(AtomicBool::new(false));
        let (bell, hurry, end) = (self.bell.clone(), Arc::clone(&self.hurry), ended.clone());
        let close = move || {
            empty(&lane, &hurry);
            drop(lane);
            end.store(true, Ordering::Release);
            bell.ring();
        };
        // Without a thread the lane ends here, which is slower and no worse.
        let thread = thread::Builder::new().name(format!("close {}", entry.name));
        if let Ok(thread) = thread.spawn(close) {
            self.closers.push(Closer {
                entry: Arc::clone(entry),
                ended,
                thread,
            });
        }
    }

    /// Takes note of what has ended.
    pub(super) fn step(&mut self) {
        let ended = |closer: &mut Closer| closer.ended.load(Ordering::Acquire);
        for closer in self.closers.extract_if(.., ended) {
            let _ = closer.thread.join();
        }
    }

    /// Whether a lane of this model is being closed.
    pub(super) fn concerns(&self, entry: &Arc<Entry>) -> bool {
        let mut closers = self.closers.iter();
        closers.any(|closer| Arc::ptr_eq(&closer.entry, entry))
    }

    /// Whether nothing is being closed.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.closers.is_empty()
    }

    /// Waits for the end of all.
    pub(super) fn wait(&mut self) {
        for closer in self.closers.drain(..) {
            let _ = closer.thread.join();
        }
    }
}

/// Drops lanes all at once and waits until the processes of all have ended: one after the other, each would take its time.
pub(super) fn drop_together(lanes: Vec<Arc<Lane>>) {
    for lane in &lanes {
        lane.close();
    }
    let threads: Vec<_> = lanes
        .into_iter()
        .filter_map(|lane| {
            let thread = thread::Builder::new().name(format!("close {}", lane.name()));
            thread.spawn(move || drop(lane)).ok()
        })
        .collect();
    for thread in threads {
        let _ = thread.join();
    }
}

/// Waits until the lane has no call and no thread, unless the server ends first.
fn empty(lane: &Lane, hurry: &AtomicBool) {
    lane.close();
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else {
        return;
    };
    runtime.block_on(async {
        while timeout(LOOK, lane.wait_closed()).await.is_err() {
            if hurry.load(Ordering::Acquire) {
                return;
            }
        }
    });
}
