//! The live tree of what is running: who started it, where, how old it is and what it is doing.
//!
//! A [`Tree`] belongs to whoever starts a server or a test; there is no global one. Scopes, groups and their tasks
//! enter it by themselves, and leave it when they end. Looking at it never polls a task, and takes no lock that a task
//! holds across a poll, so it answers while every task is stuck.
//!
//! ```
//! use jitney::tree::Tree;
//! let tree = Tree::new("server");
//! let models = tree.root().child("models");
//! let digits = models.child("digits");
//! digits.label("loading");
//! let names: Vec<_> = tree.snapshot().nodes.iter().map(|node| node.name.to_string()).collect();
//! assert_eq!(names, ["server", "models", "digits"]);
//! drop(digits);
//! assert_eq!(tree.snapshot().nodes.len(), 2);
//! ```

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::Poll;
use std::time::Duration;

use slab::Slab;
use tokio::time::Instant;

use crate::lock::lock;

/// Longest name in bytes; longer ones are cut.
pub const NAME_MAX: usize = 64;
/// Longest label in bytes; longer ones are cut.
pub const LABEL_MAX: usize = 160;

/// A tree of running things. Clones are the same tree.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Node,
}

impl Tree {
    /// A tree with a root and nothing else.
    #[track_caller]
    pub fn new(name: impl AsRef<str>) -> Tree {
        Tree::at(bounded(name.as_ref()), Location::caller())
    }

    /// The root, under which scopes and nodes are put.
    pub fn root(&self) -> Node {
        self.root.clone()
    }

    pub(crate) fn at(name: Arc<str>, site: &'static Location<'static>) -> Tree {
        Tree {
            root: Node::enter(Arc::default(), None, name, site),
        }
    }

    /// What is in the tree now. Costs time in proportion to it, and disturbs no task.
    pub fn snapshot(&self) -> Snapshot {
        let mut found = BTreeMap::new();
        for node in self.root.entry.registry.live() {
            // A node may have entered while the shard of its parent was already read: its parents come with it.
            let mut next = Some(node);
            while let Some(node) = next {
                next = node.entry.parent.clone();
                if found.insert(node.id(), node).is_some() {
                    break;
                }
            }
        }
        Snapshot::of(&found)
    }
}

/// A place in the tree. Clones are the same place; it leaves the tree when the last of them is dropped, but not before
/// the nodes below it. The node of a scope or a task leaves when that has ended.
#[derive(Clone)]
pub struct Node {
    entry: Arc<Entry>,
}

impl Node {
    /// Puts a node below this one. Names longer than [`NAME_MAX`] are cut.
    #[track_caller]
    pub fn child(&self, name: impl AsRef<str>) -> Node {
        self.child_at(bounded(name.as_ref()), Location::caller())
    }

    /// Says what it is doing now, in the place of what it said before. Labels longer than [`LABEL_MAX`] are cut.
    pub fn label(&self, label: impl Into<Cow<'static, str>>) {
        let label = clean(label.into(), LABEL_MAX);
        let old = std::mem::replace(&mut *lock(&self.entry.label), label);
        drop(old);
    }

    /// A number that no other node of its tree has, nor had.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.entry.name
    }

    pub(crate) fn child_at(&self, name: Arc<str>, site: &'static Location<'static>) -> Node {
        Node::enter(self.entry.registry.clone(), Some(self.clone()), name, site)
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.entry.name.clone()
    }

    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.entry.site
    }

    pub(crate) fn age(&self) -> Duration {
        self.entry.created.elapsed()
    }

    /// Counts one poll and its time. The poll must not unwind.
    pub(crate) fn measure<R>(&self, poll: impl FnOnce() -> Poll<R>) -> Poll<R> {
        let entry = &*self.entry;
        let begun = Instant::now();
        entry
            .begun_ns
            .store(nanos(begun - entry.created), Ordering::Relaxed);
        let before = entry.state.swap(State::Running as u8, Ordering::Relaxed);
        let polled = poll();
        entry.state.store(before, Ordering::Relaxed);
        // Only the task itself writes these, so a load and a store do what a dearer read-modify-write would.
        let polls = entry.polls.load(Ordering::Relaxed) + 1;
        entry.polls.store(polls, Ordering::Relaxed);
        // The clock is most of the cost, so of many polls a sample is timed; a task that has ended leaves the tree.
        let stands_for = polls_timed(polls);
        if stands_for > 0 && polled.is_pending() {
            let sample = nanos(begun.elapsed()) * stands_for;
            let busy_ns = entry.busy_ns.load(Ordering::Relaxed) + sample;
            entry.busy_ns.store(busy_ns, Ordering::Relaxed);
        }
        polled
    }

    /// From now on the state between polls is [`State::Cancelling`].
    pub(crate) fn set_cancelling(&self) {
        self.entry
            .state
            .store(State::Cancelling as u8, Ordering::Relaxed);
    }

    /// Leaves the tree now, whoever has a clone: a task that has ended is not running. It is still seen above nodes that
    /// have not left.
    pub(crate) fn leave(&self) {
        self.entry.leave();
    }

    fn enter(
        registry: Arc<Registry>,
        parent: Option<Node>,
        name: Arc<str>,
        site: &'static Location<'static>,
    ) -> Node {
        let id = registry.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            id,
            name,
            site,
            created: Instant::now(),
            parent,
            registry,
            key: AtomicUsize::new(0),
            state: AtomicU8::new(State::Idle as u8),
            polls: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            begun_ns: AtomicU64::new(0),
            label: Mutex::new(Cow::Borrowed("")),
        });
        let key = lock(entry.registry.shard(id)).insert(Arc::downgrade(&entry));
        entry.key.store(key, Ordering::Relaxed);
        Node { entry }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Node({} #{})", self.name(), self.id())
    }
}

/// What a node was doing when the snapshot was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Waiting for something, or not a task.
    Idle,
    /// Being polled.
    Running,
    /// Asked to stop, and using its grace.
    Cancelling,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Running => "running",
            State::Cancelling => "cancelling",
        }
    }
}

/// A tree as it was at one moment. Its `Display` is an indented text, one node a line.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Every node, parents before their children, siblings by age, the oldest first.
    pub nodes: Vec<NodeInfo>,
}

/// One node of a [`Snapshot`].
#[derive(Clone, Debug)]
pub struct NodeInfo {
    /// Unique in the tree, and never used again.
    pub id: u64,
    /// The id of the node above; none for the root.
    pub parent: Option<u64>,
    /// Zero for the root.
    pub depth: usize,
    /// At most [`NAME_MAX`] bytes.
    pub name: Arc<str>,
    /// What it said it was doing, or empty. At most [`LABEL_MAX`] bytes.
    pub label: Cow<'static, str>,
    /// What it was doing.
    pub state: State,
    /// Where in the source it was started.
    pub site: &'static Location<'static>,
    /// Since when it is in the tree.
    pub age: Duration,
    /// How many times it was polled.
    pub polls: u64,
    /// Time spent being polled, the poll under way included; after the first polls an estimate from a sample of them.
    pub busy: Duration,
}

impl Snapshot {
    fn of(found: &BTreeMap<u64, Node>) -> Snapshot {
        let mut children: BTreeMap<Option<u64>, Vec<&Node>> = BTreeMap::new();
        for node in found.values().rev() {
            children.entry(node.parent_id()).or_default().push(node);
        }
        let mut nodes = Vec::with_capacity(found.len());
        let mut next: Vec<(usize, &Node)> = Vec::new();
        let below = |id, children: &mut BTreeMap<_, _>| children.remove(&id).unwrap_or_default();
        next.extend(below(None, &mut children).into_iter().map(|node| (0, node)));
        while let Some((depth, node)) = next.pop() {
            nodes.push(node.info(depth));
            next.extend(
                below(Some(node.id()), &mut children)
                    .into_iter()
                    .map(|node| (depth + 1, node)),
            );
        }
        Snapshot { nodes }
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.nodes.iter().try_for_each(|node| writeln!(f, "{node}"))
    }
}

impl fmt::Display for NodeInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:indent$}{}", "", self.name, indent = 2 * self.depth)?;
        if !self.label.is_empty() {
            write!(f, " [{}]", self.label)?;
        }
        write!(f, " {} age={:.1?}", self.state.word(), self.age)?;
        if self.polls > 0 {
            write!(f, " busy={:.1?} polls={}", self.busy, self.polls)?;
        }
        write!(f, " at {}:{}", self.site.file(), self.site.line())
    }
}

impl Node {
    fn parent_id(&self) -> Option<u64> {
        self.entry.parent.as_ref().map(Node::id)
    }

    fn info(&self, depth: usize) -> NodeInfo {
        let entry = &*self.entry;
        let age = self.age();
        let state = entry.state();
        let mut busy = Duration::from_nanos(entry.busy_ns.load(Ordering::Relaxed));
        if state == State::Running {
            let begun = Duration::from_nanos(entry.begun_ns.load(Ordering::Relaxed));
            busy += age.saturating_sub(begun);
        }
        NodeInfo {
            id: entry.id,
            parent: self.parent_id(),
            depth,
            name: self.shared_name(),
            label: lock(&entry.label).clone(),
            state,
            site: entry.site,
            age,
            polls: entry.polls.load(Ordering::Relaxed),
            busy,
        }
    }
}

/// What a node is; lives as long as the node is in the tree.
struct Entry {
    id: u64,
    name: Arc<str>,
    site: &'static Location<'static>,
    created: Instant,
    parent: Option<Node>,
    registry: Arc<Registry>,
    /// Where its shard has it.
    key: AtomicUsize,
    state: AtomicU8,
    polls: AtomicU64,
    busy_ns: AtomicU64,
    /// When the last poll began, counted from `created`.
    begun_ns: AtomicU64,
    label: Mutex<Cow<'static, str>>,
}

impl Entry {
    fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            state if state == State::Running as u8 => State::Running,
            state if state == State::Cancelling as u8 => State::Cancelling,
            _ => State::Idle,
        }
    }
}

impl Entry {
    /// Takes it out of its shard; does nothing the second time.
    fn leave(&self) {
        let key = self.key.swap(NO_KEY, Ordering::Relaxed);
        if key != NO_KEY {
            let entry = lock(self.registry.shard(self.id)).try_remove(key);
            drop(entry);
        }
    }
}

/// For how many polls the time of this one stands: the first are timed each, and then every sixteenth for all of them.
fn polls_timed(poll: u64) -> u64 {
    const EACH: u64 = 16;
    match poll {
        0..=EACH => 1,
        _ if poll.is_multiple_of(EACH) => EACH,
        _ => 0,
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.leave();
        // A long line of nodes that only this one kept goes one by one, not in a recursion that overflows the stack.
        let mut next = self.parent.take();
        while let Some(mut entry) = next.and_then(|node| Arc::into_inner(node.entry)) {
            next = entry.parent.take();
        }
    }
}

/// The key of an entry that has left its shard.
const NO_KEY: usize = usize::MAX;

/// All nodes of one tree, in shards so that tasks that start on different threads seldom meet.
#[derive(Default)]
struct Registry {
    next_id: AtomicU64,
    shards: [Shard; SHARDS],
}

const SHARDS: usize = 16;

/// On cache lines of its own.
#[derive(Default)]
#[repr(align(128))]
struct Shard(Mutex<Slab<Weak<Entry>>>);

impl Registry {
    fn shard(&self, id: u64) -> &Mutex<Slab<Weak<Entry>>> {
        // The remainder is below 16, so nothing is lost.
        &self.shards[(id % SHARDS as u64) as usize].0
    }

    /// The nodes alive now. They are handed out after the lock is gone, because the last clone of a node takes it.
    fn live(&self) -> Vec<Node> {
        let mut live = Vec::new();
        for shard in &self.shards {
            let shard = lock(&shard.0);
            live.extend(shard.iter().filter_map(|(_, entry)| {
                Some(Node {
                    entry: entry.upgrade()?,
                })
            }));
        }
        live
    }
}

/// A name as the tree keeps it: short, and on one line.
pub(crate) fn bounded(name: &str) -> Arc<str> {
    clean(Cow::Borrowed(name), NAME_MAX).into()
}

/// Cuts a text at `max` bytes and replaces control characters, which would let a text forge lines of the tree.
fn clean(text: Cow<'_, str>, max: usize) -> Cow<'_, str> {
    let end = text.floor_char_boundary(max);
    if end == text.len() && !text.contains(char::is_control) {
        return text;
    }
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    Cow::Owned(text[..end].chars().map(printable).collect())
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
