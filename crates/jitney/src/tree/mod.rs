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

mod moment;
mod registry;
mod snapshot;
mod threads;

use std::borrow::Cow;
use std::fmt;
use std::panic::Location;
use std::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use self::registry::NO_KEY;
pub(crate) use self::registry::Registry;
use self::snapshot::Now;
pub use self::snapshot::{NodeInfo, Snapshot};
pub(crate) use self::threads::Sight;
pub use self::threads::ThreadInfo;
use crate::cancel::Cancel;
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
            root: Node::enter(Registry::new(), None, name, site),
        }
    }

    /// What is in the tree now. Costs time in proportion to it, and disturbs no task: a task that starts or ends at the same
    /// moment waits for some microseconds at most.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.registry())
    }

    /// What is above a node and the node itself, the root first; empty when it is not in the tree.
    pub(crate) fn line(&self, id: u64) -> Vec<NodeInfo> {
        let Some(node) = self.registry().find(id) else {
            return Vec::new();
        };
        let now = Now::new();
        let mut cancel = None;
        let infos = node.line().into_iter().enumerate().map(|(depth, node)| {
            cancel = node.entry.cancel.get().or(cancel);
            node.info(depth, cancel, &now)
        });
        infos.collect()
    }

    /// From now until [`unwatch`](Tree::unwatch), threads say what they poll.
    pub(crate) fn watch(&self) {
        self.registry().threads.watch();
    }

    pub(crate) fn unwatch(&self) {
        self.registry().threads.unwatch();
    }

    /// The threads that are polling a node of this tree.
    pub(crate) fn polling(&self) -> Vec<Sight> {
        self.registry().threads.polling()
    }

    fn registry(&self) -> &Registry {
        self.root.registry()
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
        self.entry.set_label(Label::Text(label));
    }

    /// A number that no other node of its tree has, nor had.
    pub fn id(&self) -> u64 {
        self.entry.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.entry.name()
    }

    /// The tree it is in.
    ///
    /// ```
    /// use jitney::tree::Tree;
    /// let models = Tree::new("server").root().child("models");
    /// assert_eq!(models.tree().root().name(), "server");
    /// ```
    pub fn tree(&self) -> Tree {
        let line = self.line();
        Tree {
            root: line
                .first()
                .map_or_else(|| self.clone(), |&root| root.clone()),
        }
    }

    /// Runs `work`, which blocks this thread where that does no harm, such as inside of `tokio::task::block_in_place`: the
    /// node is [`State::Blocking`] meanwhile, and no [`Watchdog`](crate::watch::Watchdog) reports it.
    ///
    /// ```
    /// use jitney::tree::{State, Tree};
    /// let node = Tree::new("server").root().child("export");
    /// let state = node.blocking(|| node.tree().snapshot().nodes[1].state);
    /// assert_eq!(state, State::Blocking);
    /// ```
    pub fn blocking<T>(&self, work: impl FnOnce() -> T) -> T {
        let _until_then = Blocking::begin(&self.entry);
        work()
    }

    /// A label with a number in it, for where labels change often: nothing is written out before somebody looks.
    pub(crate) fn label_number(&self, before: &'static str, number: usize, after: &'static str) {
        self.entry.set_label(Label::Number(before, number, after));
    }

    pub(crate) fn child_at(&self, name: Arc<str>, site: &'static Location<'static>) -> Node {
        let registry = self.registry().clone();
        Node::enter(registry, Some(self.clone()), name, site)
    }

    /// From now on it obeys this request to stop, as do the nodes below it that obey no other. The first one stays.
    pub(crate) fn obeys(&self, cancel: &Cancel) {
        self.entry.cancel.get_or_init(|| cancel.clone());
    }

    pub(crate) fn shared_name(&self) -> Arc<str> {
        self.entry.name().clone()
    }

    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.entry.site
    }

    pub(crate) fn age(&self) -> Duration {
        self.entry.age()
    }

    /// Leaves the tree now, whoever has a clone. It is still seen above nodes that have not left.
    pub(crate) fn leave(&self) {
        self.entry.leave();
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        self.entry.details.registry()
    }

    pub(crate) fn entry(&self) -> &Entry {
        &self.entry
    }

    fn enter(
        registry: Arc<Registry>,
        parent: Option<Node>,
        name: Arc<str>,
        site: &'static Location<'static>,
    ) -> Node {
        let details = Plain {
            name,
            parent,
            registry,
        };
        Node {
            entry: Entry::enter(site, details),
        }
    }
}

impl Node {
    pub(crate) fn of(entry: Arc<Entry>) -> Node {
        Node { entry }
    }
}

/// A node that blocks its thread on purpose, until this is dropped.
struct Blocking<'a> {
    entry: &'a Entry,
    state: u8,
    polled: Option<u64>,
}

impl Blocking<'_> {
    fn begin(entry: &Entry) -> Blocking<'_> {
        let blocking = State::Blocking as u8;
        let registry = entry.details.registry();
        let watched = registry.threads.is_watched();
        Blocking {
            entry,
            state: entry.state.swap(blocking, Ordering::Relaxed),
            polled: watched.then(|| threads::excused(registry)),
        }
    }
}

impl Drop for Blocking<'_> {
    fn drop(&mut self) {
        self.entry.state.store(self.state, Ordering::Relaxed);
        moment::passed();
        if let Some(polled) = self.polled {
            threads::left(self.entry.details.registry(), polled);
        }
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
    /// Blocking a thread on purpose, where that does no harm.
    Blocking,
    /// Asked to stop, and using its grace.
    Cancelling,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Running => "running",
            State::Blocking => "blocking",
            State::Cancelling => "cancelling",
        }
    }
}

impl Node {
    fn parent(&self) -> Option<&Node> {
        self.entry.details.parent()
    }

    fn parent_id(&self) -> Option<u64> {
        self.parent().map(Node::id)
    }

    /// Those above it, the root first, and itself.
    fn line(&self) -> Vec<&Node> {
        let mut line: Vec<_> = std::iter::successors(Some(self), |node| node.parent()).collect();
        line.reverse();
        line
    }

    fn info(&self, depth: usize, cancel: Option<&Cancel>, now: &Now) -> NodeInfo {
        let entry = &*self.entry;
        let state = entry.state();
        let begun = match state {
            State::Running => entry.begun_ns.load(Ordering::Relaxed),
            _ => UNTIMED,
        };
        let running = (begun != UNTIMED)
            .then(|| Duration::from_nanos(self.registry().now_ns().saturating_sub(begun)));
        NodeInfo {
            id: entry.id,
            parent: self.parent_id(),
            depth,
            name: self.shared_name(),
            label: lock(&entry.label).text(),
            state,
            running,
            site: entry.site,
            age: now.since(entry.created),
            polls: entry.polls.load(Ordering::Relaxed),
            busy: Duration::from_nanos(entry.busy_ns.load(Ordering::Relaxed))
                + running.unwrap_or_default(),
            deadline: now.deadline(cancel),
            cancelled: cancel.and_then(Cancel::cause),
        }
    }
}

/// What a node is; lives as long as the node is in the tree.
pub(crate) struct Entry<D: Details + ?Sized = dyn Details + Send + Sync> {
    id: u64,
    site: &'static Location<'static>,
    created: Instant,
    /// What it and the nodes below it obey, where that is another than above.
    cancel: OnceLock<Cancel>,
    /// Where its shard has it.
    key: AtomicUsize,
    state: AtomicU8,
    polls: AtomicU64,
    busy_ns: AtomicU64,
    /// When the last poll began by the registry's time, or [`UNTIMED`].
    begun_ns: AtomicU64,
    label: Mutex<Label>,
    pub(crate) details: D,
}

enum Label {
    Text(Cow<'static, str>),
    /// What is before the number, and after it.
    Number(&'static str, usize, &'static str),
}

impl Label {
    fn text(&self) -> Cow<'static, str> {
        match self {
            Label::Text(text) => text.clone(),
            Label::Number(before, number, after) => format!("{before}{number}{after}").into(),
        }
    }
}

/// What kinds of nodes know in different ways. A task keeps what else it needs there too: one allocation is enough for all.
pub(crate) trait Details {
    fn name(&self) -> &Arc<str>;
    /// The node above; none for the root.
    fn parent(&self) -> Option<&Node>;
    fn registry(&self) -> &Arc<Registry>;
    /// Lets go of the node above. It is not asked for any more.
    fn take_parent(&mut self) -> Option<Node>;
}

struct Plain {
    name: Arc<str>,
    parent: Option<Node>,
    registry: Arc<Registry>,
}

impl Details for Plain {
    fn name(&self) -> &Arc<str> {
        &self.name
    }

    fn parent(&self) -> Option<&Node> {
        self.parent.as_ref()
    }

    fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    fn take_parent(&mut self) -> Option<Node> {
        self.parent.take()
    }
}

/// In the place of a time that was not taken.
const UNTIMED: u64 = 0;

impl<D: Details + Send + Sync + 'static> Entry<D> {
    /// Puts it into the tree that its details tell.
    pub(crate) fn enter(site: &'static Location<'static>, details: D) -> Arc<Entry<D>> {
        let entry = Arc::new(Entry {
            id: details.registry().next_id(),
            site,
            created: moment::now(),
            cancel: OnceLock::new(),
            key: AtomicUsize::new(NO_KEY),
            state: AtomicU8::new(State::Idle as u8),
            polls: AtomicU64::new(0),
            busy_ns: AtomicU64::new(0),
            begun_ns: AtomicU64::new(UNTIMED),
            label: Mutex::new(Label::Text(Cow::Borrowed(""))),
            details,
        });
        let weak = Arc::downgrade(&entry);
        entry.details.registry().insert(entry.id, &entry.key, weak);
        entry
    }
}

impl<D: Details + ?Sized> Entry<D> {
    pub(crate) fn id(&self) -> u64 {
        self.id
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        self.details.name()
    }

    pub(crate) fn site(&self) -> &'static Location<'static> {
        self.site
    }

    pub(crate) fn age(&self) -> Duration {
        self.created.elapsed()
    }

    /// Counts one poll and its time. The poll must not unwind.
    pub(crate) fn measure<R>(&self, poll: impl FnOnce() -> Poll<R>) -> Poll<R> {
        let registry = self.details.registry();
        let polls = self.polls.load(Ordering::Relaxed) + 1;
        // The clock is most of the cost, so of many polls a sample is timed.
        let stands_for = polls_timed(polls);
        let begun = match stands_for {
            0 => UNTIMED,
            _ => registry.now_ns(),
        };
        // Only the task itself writes these, so loads and stores do what dearer read-modify-writes would.
        self.begun_ns.store(begun, Ordering::Relaxed);
        let before = self.state.load(Ordering::Relaxed);
        self.state.store(State::Running as u8, Ordering::Relaxed);
        let watched = registry.threads.is_watched();
        let outer = watched.then(|| threads::entered(registry, self.id));
        let outer_time = moment::poll_begins();
        let polled = poll();
        moment::poll_ends(outer_time);
        if let Some(outer) = outer {
            threads::left(registry, outer);
        }
        self.state.store(before, Ordering::Relaxed);
        self.polls.store(polls, Ordering::Relaxed);
        // A task that has ended leaves the tree, so its last poll need not be timed.
        if stands_for > 0 && polled.is_pending() {
            let sample = (registry.now_ns() - begun) * stands_for;
            let busy_ns = self.busy_ns.load(Ordering::Relaxed) + sample;
            self.busy_ns.store(busy_ns, Ordering::Relaxed);
        }
        polled
    }

    /// From now on the state between polls is [`State::Cancelling`].
    pub(crate) fn set_cancelling(&self) {
        self.state.store(State::Cancelling as u8, Ordering::Relaxed);
    }

    /// Leaves the tree now, whoever has a node of it: a task that has ended is not running.
    pub(crate) fn leave(&self) {
        // The details of one that has left may have let go of the registry.
        if self.key.load(Ordering::Relaxed) != NO_KEY {
            self.details.registry().remove(self.id, &self.key);
        }
    }

    fn set_label(&self, label: Label) {
        let old = std::mem::replace(&mut *lock(&self.label), label);
        drop(old);
    }

    fn state(&self) -> State {
        match self.state.load(Ordering::Relaxed) {
            state if state == State::Running as u8 => State::Running,
            state if state == State::Blocking as u8 => State::Blocking,
            state if state == State::Cancelling as u8 => State::Cancelling,
            _ => State::Idle,
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

impl<D: Details + ?Sized> Drop for Entry<D> {
    fn drop(&mut self) {
        self.leave();
        // A long line of nodes that only this one kept goes one by one, not in a recursion that overflows the stack.
        let mut next = self.details.take_parent();
        while let Some(mut node) = next {
            next = node.dismantle();
        }
    }
}

impl Node {
    /// The node above, if this is the last clone.
    fn dismantle(&mut self) -> Option<Node> {
        if Arc::strong_count(&self.entry) > 1 {
            return None;
        }
        // The registry has a weak reference until then.
        self.entry.leave();
        Arc::get_mut(&mut self.entry)?.details.take_parent()
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
