//! Which task each thread is polling, for whoever watches.
//!
//! A thread writes only into a slot of its own, and only while somebody watches the tree.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread;

use super::registry::Registry;
use crate::lock::lock;

/// The threads that polled tasks of one tree while it was watched.
#[derive(Default)]
pub(super) struct Threads {
    watchers: AtomicUsize,
    slots: Mutex<Vec<Arc<Slot>>>,
}

/// What one thread is doing. On cache lines of its own.
#[repr(align(128))]
pub(crate) struct Slot {
    /// Even between polls, odd during one; never the same for two polls.
    poll: AtomicU64,
    /// One more than the id of the innermost node that is being polled.
    node: AtomicU64,
    thread: Arc<ThreadInfo>,
}

/// A thread of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThreadInfo {
    /// Its name, or empty.
    pub name: String,
    /// Its number at the operating system, where that says it.
    pub id: Option<u64>,
}

/// A thread seen in the middle of a poll.
#[derive(Clone)]
pub(crate) struct Sight {
    /// No two polls of a thread have the same number.
    pub(crate) poll: u64,
    /// The id of the innermost node.
    pub(crate) node: u64,
    pub(crate) thread: Arc<ThreadInfo>,
}

const NOBODY: u64 = 0;

thread_local! {
    /// The slots of this thread, one for each watched tree. The weak reference keeps the address from being used again.
    static SLOTS: RefCell<Vec<(Weak<Registry>, Arc<Slot>)>> = const { RefCell::new(Vec::new()) };
}

impl Threads {
    pub(super) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) > 0
    }

    pub(super) fn watch(&self) {
        self.watchers.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn unwatch(&self) {
        self.watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// The threads that are in the middle of a poll.
    pub(super) fn polling(&self) -> Vec<Sight> {
        let mut slots = lock(&self.slots);
        // The other owner is the thread, and it is gone.
        slots.retain(|slot| Arc::strong_count(slot) > 1);
        slots.iter().filter_map(|slot| slot.sight()).collect()
    }

    fn add(&self) -> Arc<Slot> {
        let slot = Arc::new(Slot {
            poll: AtomicU64::new(0),
            node: AtomicU64::new(NOBODY),
            thread: Arc::new(ThreadInfo::current()),
        });
        lock(&self.slots).push(slot.clone());
        slot
    }
}

/// This thread begins to poll a node of the tree. Gives what [`left`] needs.
pub(super) fn entered(registry: &Arc<Registry>, node: u64) -> u64 {
    with_slot(registry, |slot| slot.change(node + 1))
}

/// This thread has ended the poll that began with [`entered`].
pub(super) fn left(registry: &Arc<Registry>, outer: u64) {
    with_slot(registry, |slot| slot.change(outer));
}

/// This thread is about to block on purpose. Gives what [`left`] needs when that is over.
pub(super) fn excused(registry: &Arc<Registry>) -> u64 {
    with_slot(registry, |slot| slot.change(NOBODY))
}

fn with_slot(registry: &Arc<Registry>, act: impl FnOnce(&Slot) -> u64) -> u64 {
    let same = |known: &Weak<Registry>| known.as_ptr() == Arc::as_ptr(registry);
    let find = |slots: &RefCell<Vec<(Weak<Registry>, Arc<Slot>)>>| {
        if let Some((_, slot)) = slots.borrow().iter().find(|(known, _)| same(known)) {
            return act(slot);
        }
        let slot = registry.threads.add();
        let done = act(&slot);
        let mut slots = slots.borrow_mut();
        slots.retain(|(known, _)| known.strong_count() > 0);
        slots.push((Arc::downgrade(registry), slot));
        done
    };
    // A thread that is ending has no slots any more.
    SLOTS.try_with(find).unwrap_or(NOBODY)
}

impl Slot {
    /// Puts another in the place of the node, and counts if that begins or ends a poll.
    fn change(&self, node: u64) -> u64 {
        // Only this thread writes, so loads and stores do what dearer read-modify-writes would.
        let before = self.node.load(Ordering::Relaxed);
        self.node.store(node, Ordering::Relaxed);
        if (before == NOBODY) != (node == NOBODY) {
            let poll = self.poll.load(Ordering::Relaxed) + 1;
            self.poll.store(poll, Ordering::Release);
        }
        before
    }

    fn sight(&self) -> Option<Sight> {
        let poll = self.poll.load(Ordering::Acquire);
        let node = self.node.load(Ordering::Acquire);
        let during = poll % 2 == 1 && self.poll.load(Ordering::Relaxed) == poll;
        (during && node != NOBODY).then(|| Sight {
            poll,
            node: node - 1,
            thread: self.thread.clone(),
        })
    }
}

impl ThreadInfo {
    fn current() -> ThreadInfo {
        // Linux only; a name of the form PID/task/TID.
        let link = std::fs::read_link("/proc/thread-self").ok();
        let id = link.and_then(|link| link.file_name()?.to_str()?.parse().ok());
        ThreadInfo {
            name: thread::current().name().unwrap_or_default().to_owned(),
            id,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(registry: &Arc<Registry>) -> Vec<u64> {
        let polling = registry.threads.polling();
        polling.iter().map(|sight| sight.node).collect()
    }

    #[test]
    fn the_innermost_node_is_seen_and_a_poll_has_one_number() {
        let registry = Registry::new();
        let outer = entered(&registry, 0);
        let number = registry.threads.polling()[0].poll;
        let inner = entered(&registry, 7);
        assert_eq!(nodes(&registry), [7]);
        left(&registry, inner);
        assert_eq!(nodes(&registry), [0]);
        assert_eq!(registry.threads.polling()[0].poll, number);
        left(&registry, outer);
        assert_eq!(nodes(&registry), []);
        entered(&registry, 0);
        assert_ne!(registry.threads.polling()[0].poll, number);
    }

    #[test]
    fn blocking_on_purpose_ends_the_poll_for_the_watcher_and_what_follows_is_another() {
        let registry = Registry::new();
        entered(&registry, 3);
        let number = registry.threads.polling()[0].poll;
        let before = excused(&registry);
        assert_eq!(nodes(&registry), []);
        left(&registry, before);
        assert_eq!(nodes(&registry), [3]);
        assert_ne!(registry.threads.polling()[0].poll, number);
    }

    #[test]
    fn trees_have_slots_of_their_own_and_threads_that_ended_have_none() {
        let (one, other) = (Registry::new(), Registry::new());
        thread::scope(|threads| {
            let polls = threads.spawn(|| {
                entered(&one, 1);
                entered(&other, 2);
                assert_eq!((nodes(&one), nodes(&other)), (vec![1], vec![2]));
            });
            // The end of the scope alone would not wait for the thread's own values to be dropped.
            polls.join().unwrap();
        });
        assert_eq!((nodes(&one), nodes(&other)), (vec![], vec![]));
    }
}
