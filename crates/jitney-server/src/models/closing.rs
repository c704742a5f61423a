//! Lanes come to their end, each on a thread of its own: that waits for processes, and nobody else shall wait with it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
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
    progress: Arc<Progress>,
    thread: JoinHandle<()>,
}

/// How far a closer has come.
#[derive(Debug)]
struct Progress(Mutex<Stage>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Calls are being answered, or threads and processes come to their end. => Held, Ended
    Closing,
    /// Nothing goes on in the lane, but a stream that nobody reads keeps it. Nobody waits for that. => Ended
    Held,
    /// The lane is gone, unless the server ends first.
    Ended,
}

/// How often a closer looks whether the server ends, and whether its lane is still held.
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
        let progress = Arc::new(Progress(Mutex::new(Stage::Closing)));
        let (bell, hurry, stage) = (self.bell.clone(), Arc::clone(&self.hurry), progress.clone());
        let close = move || {
            empty(&lane, &hurry);
            if is_held(&lane) {
                stage.reach(Stage::Held);
                bell.ring();
                outlast(&lane, &hurry);
            }
            drop(lane);
            stage.reach(Stage::Ended);
            bell.ring();
        };
        // Without a thread the lane ends here, which is slower and no worse.
        let thread = thread::Builder::new().name(format!("close {}", entry.name));
        if let Ok(thread) = thread.spawn(close) {
            self.closers.push(Closer {
                entry: Arc::clone(entry),
                progress,
                thread,
            });
        }
    }

    /// Takes note of what has ended.
    pub(super) fn step(&mut self) {
        let ended = |closer: &mut Closer| closer.progress.stage() == Stage::Ended;
        for closer in self.closers.extract_if(.., ended) {
            let _ = closer.thread.join();
        }
    }

    /// Whether a lane of this model is being closed, and it pays to wait for that.
    pub(super) fn concerns(&self, entry: &Arc<Entry>) -> bool {
        let mut closers = self.closers.iter();
        closers.any(|closer| {
            Arc::ptr_eq(&closer.entry, entry) && closer.progress.stage() == Stage::Closing
        })
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

impl Progress {
    fn reach(&self, stage: Stage) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    fn stage(&self) -> Stage {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Whether a stream still holds the lane.
fn is_held(lane: &Arc<Lane>) -> bool {
    Arc::strong_count(lane) > 1
}

/// Waits until nobody else holds the lane, unless the server ends first. Whoever drops it last waits for its processes, and that must not be
/// the thread that serves the connection of a stream.
fn outlast(lane: &Arc<Lane>, hurry: &AtomicBool) {
    while is_held(lane) && !hurry.load(Ordering::Acquire) {
        thread::sleep(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use futures_util::FutureExt;
    use jitney::batch::Surroundings;
    use jitney::tree::Tree;
    use jitney_engine::echo::Echo;
    use jitney_engine::{Model, Tensor};

    use super::super::bell::Door;
    use super::*;
    use crate::call::Call;
    use crate::config::ModelSettings;
    use crate::observe::metrics::Metrics;

    /// Whoever holds a lane last waits for its processes. That must not be a stream, which the thread of a connection drops.
    #[test]
    fn a_stream_that_nobody_reads_is_not_the_last_to_hold_its_lane() {
        let settings = ModelSettings {
            deadline: Duration::from_millis(1),
            ..ModelSettings::default()
        };
        let (metrics, tree, door) = (Metrics::new(), Tree::new("test"), Door::new());
        let model = metrics.model("m", "1");
        let entry = Entry::new("m", "1", Arc::clone(&model), &tree.root(), None);
        let load = || Ok(Box::new(Echo::parse("echo:FP32[1],results=2")?) as Box<dyn Model>);
        let lane = Lane::start("m", "1", &settings, model, Surroundings::default(), load);
        let lane = Arc::new(lane.unwrap());
        let unread = lane.stream(call()).now_or_never().unwrap();
        let held = Arc::downgrade(&lane);
        let mut closing = Closing::new(door.bell(), Arc::default());
        closing.begin(&entry, lane);
        while closing.concerns(&entry) {
            door.wait(None);
        }
        assert_eq!(held.strong_count(), 2);
        drop(unread);
        while !closing.is_idle() {
            door.wait(None);
            closing.step();
        }
        assert_eq!(held.strong_count(), 0);
    }

    fn call() -> Call {
        let input = Tensor::from_f32([1, 1], vec![1.0]).unwrap();
        Call::new(vec![input], Instant::now() + Duration::from_secs(20))
    }
}
