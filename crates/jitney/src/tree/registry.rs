//! All nodes of one tree.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use slab::Slab;

use super::threads::Threads;
use super::{Entry, LostFailure, Node};
use crate::lock::lock;

/// The key of an entry that is in no shard.
pub(super) const NO_KEY: usize = usize::MAX;

/// Entries that are read under one lock, so that a task that starts meanwhile waits for a few microseconds.
const CHUNK: usize = 256;
/// Most failures without a reader that a tree remembers.
const LOST_MAX: usize = 64;

/// The nodes, in shards so that tasks that start on different threads seldom meet.
pub(super) struct Registry {
    /// What the times of polls are counted from. It is the machine's clock, also where a test has paused tokio's.
    epoch: Instant,
    next_id: AtomicU64,
    pub(super) threads: Threads,
    lost: Mutex<Vec<LostFailure>>,
    shards: [Shard; SHARDS],
}

const SHARDS: usize = 16;

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Slab<Weak<Entry>>>);

impl Registry {
    pub(super) fn new() -> Arc<Registry> {
        Arc::new(Registry {
            epoch: Instant::now(),
            next_id: AtomicU64::new(0),
            threads: Threads::default(),
            lost: Mutex::default(),
            shards: Default::default(),
        })
    }

    pub(super) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Nanoseconds since the tree was made, and never zero.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_nanos())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    pub(super) fn insert(&self, entry: &Arc<Entry>) {
        let weak = Arc::downgrade(entry);
        let key = self.shard(entry.id).insert(weak);
        entry.key.store(key, Ordering::Relaxed);
    }

    /// Takes an entry out of its shard; does nothing the second time.
    pub(super) fn remove(&self, id: u64, key: &AtomicUsize) {
        let key = key.swap(NO_KEY, Ordering::Relaxed);
        if key != NO_KEY {
            let entry = self.shard(id).try_remove(key);
            drop(entry);
        }
    }

    /// The nodes that are in the tree now, and those above them, by age.
    ///
    /// A node that is there all the while is found, since entries keep their places. One may enter while the shard of its
    /// parent was already read: its parents come with it.
    pub(super) fn live(&self) -> Vec<Node> {
        let mut live = Vec::new();
        for shard in &self.shards {
            shard.read(&mut live);
        }
        let mut known: HashSet<u64> = live.iter().map(Node::id).collect();
        let mut at = 0;
        let mut last = None;
        while let Some(node) = live.get(at) {
            at += 1;
            let parent = node.entry.parent.as_ref();
            // Brothers follow each other, so most look-ups are the last one again.
            if let Some(parent) = parent
                && last.replace(parent.id()) != Some(parent.id())
                && known.insert(parent.id())
            {
                live.push(parent.clone());
            }
        }
        live.sort_unstable_by_key(Node::id);
        live
    }

    /// The node with this id, if it is in the tree.
    pub(super) fn find(&self, id: u64) -> Option<Node> {
        let mut same_shard = Vec::new();
        self.shards[place(id)].read(&mut same_shard);
        same_shard.into_iter().find(|node| node.id() == id)
    }

    pub(super) fn lose(&self, failure: LostFailure) {
        let mut lost = lock(&self.lost);
        if lost.len() < LOST_MAX {
            lost.push(failure);
        }
    }

    pub(super) fn lost(&self) -> Vec<LostFailure> {
        lock(&self.lost).clone()
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Slab<Weak<Entry>>> {
        lock(&self.shards[place(id)].0)
    }
}

impl Shard {
    /// Adds what is in the shard. No node is dropped under the lock, because the last clone of a node takes it.
    fn read(&self, live: &mut Vec<Node>) {
        let mut from = 0;
        loop {
            live.reserve(CHUNK);
            let shard = lock(&self.0);
            let end = shard.capacity().min(from + CHUNK);
            live.extend(
                (from..end)
                    .filter_map(|key| shard.get(key)?.upgrade())
                    .map(|entry| Node { entry }),
            );
            if end == shard.capacity() {
                return;
            }
            from = end;
        }
    }
}

fn place(id: u64) -> usize {
    // The remainder is below 16, so nothing is lost.
    (id % SHARDS as u64) as usize
}
