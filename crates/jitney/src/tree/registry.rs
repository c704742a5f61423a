//! All nodes of one tree.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::Instant;

use slab::Slab;

use super::threads::Threads;
use super::{Entry, Node};
use crate::lock::lock;

/// The key of an entry that is in no shard.
pub(super) const NO_KEY: usize = usize::MAX;

/// Entries that are read under one lock, so that a task that starts meanwhile waits for a few microseconds.
const CHUNK: usize = 256;

/// The nodes, in shards so that tasks that start on different threads seldom meet.
pub(crate) struct Registry {
    /// What the times of polls are counted from. It is the machine's clock, also where a test has paused tokio's.
    epoch: Instant,
    next_id: AtomicU64,
    pub(super) threads: Threads,
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

    pub(super) fn insert(&self, id: u64, key: &AtomicUsize, entry: Weak<Entry>) {
        let mut shard = self.shard(id);
        key.store(shard.insert(entry), Ordering::Relaxed);
    }

    /// Takes an entry out of its shard; does nothing the second time.
    pub(super) fn remove(&self, id: u64, key: &AtomicUsize) {
        let mut shard = self.shard(id);
        // Only written under the lock, so a dearer swap is not needed.
        let before = key.load(Ordering::Relaxed);
        key.store(NO_KEY, Ordering::Relaxed);
        let entry = shard.try_remove(before);
        drop(shard);
        drop(entry);
    }

    /// Calls back with the nodes that are in the tree. One that is there all the while is found, since entries keep their
    /// places.
    pub(super) fn for_each(&self, mut act: impl FnMut(&Node)) {
        let mut chunk = Vec::with_capacity(CHUNK);
        for shard in &self.shards {
            let mut from = Some(0);
            while let Some(key) = from {
                from = shard.read(key, &mut chunk);
                // Here and not under the lock, also because the last clone of a node takes it.
                chunk.drain(..).for_each(|node| act(&node));
            }
        }
    }

    /// The node with this id, if it is in the tree.
    pub(super) fn find(&self, id: u64) -> Option<Node> {
        let shard = &self.shards[place(id)];
        let mut chunk = Vec::with_capacity(CHUNK);
        let mut from = Some(0);
        while let Some(key) = from {
            from = shard.read(key, &mut chunk);
            if let Some(node) = chunk.drain(..).find(|node| node.id() == id) {
                return Some(node);
            }
        }
        None
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Slab<Weak<Entry>>> {
        lock(&self.shards[place(id)].0)
    }
}

impl Shard {
    /// Takes some nodes along, from this key on, and says from where to go on.
    fn read(&self, from: usize, chunk: &mut Vec<Node>) -> Option<usize> {
        let shard = lock(&self.0);
        let end = shard.capacity().min(from + CHUNK);
        let entries = (from..end).filter_map(|key| shard.get(key)?.upgrade());
        chunk.extend(entries.map(|entry| Node { entry }));
        (end < shard.capacity()).then_some(end)
    }
}

fn place(id: u64) -> usize {
    // The remainder is below 16, so nothing is lost.
    (id % SHARDS as u64) as usize
}
