//! A tree as it was at one moment, and how it is written.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::registry::Registry;
use super::{Node, State};
use crate::cancel::{Cancel, Cause};

/// A tree as it was at one moment. Its `Display` is an indented text, one node a line; [`json`](Snapshot::json) is for
/// programs.
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
    /// At most [`NAME_MAX`](super::NAME_MAX) bytes.
    pub name: Arc<str>,
    /// What it said it was doing, or empty. At most [`LABEL_MAX`](super::LABEL_MAX) bytes.
    pub label: Cow<'static, str>,
    /// What it was doing.
    pub state: State,
    /// For how long the poll under way has lasted. Of a task that was polled often only a sample of the polls is timed: then
    /// it may be missing though the task is running.
    pub running: Option<Duration>,
    /// Where in the source it was started.
    pub site: &'static Location<'static>,
    /// Since when it is in the tree. What is started in one poll of a task is as old as the first of it: a task that starts
    /// thousands of others reads the clock once.
    pub age: Duration,
    /// How many times it was polled.
    pub polls: u64,
    /// Time spent being polled, the poll under way included; after the first polls an estimate from a sample of them.
    pub busy: Duration,
    /// What is left until the deadline of the scopes around it, if any has one; zero once it has passed.
    pub deadline: Option<Duration>,
    /// Why it was cancelled, if it was.
    pub cancelled: Option<Cause>,
}

impl Snapshot {
    /// The snapshot as JSON: an array with an object for each node, in the same order. Durations are seconds.
    ///
    /// ```
    /// let tree = jitney::tree::Tree::new("server");
    /// tree.root().label("ready");
    /// let text = tree.snapshot().json().to_string();
    /// assert!(text.starts_with(r#"[{"id":0,"parent":null,"name":"server","label":"ready","state":"idle","#));
    /// ```
    pub fn json(&self) -> impl fmt::Display + '_ {
        Json(self)
    }

    /// What is in the registry, and above that.
    pub(super) fn of(registry: &Registry) -> Snapshot {
        let mut found = Found::new();
        // Each node is read while it is in the processor's cache, and let go of.
        registry.for_each(|node| found.add(node));
        found.add_parents();
        found.in_order()
    }
}

/// Nodes in no order.
struct Found {
    now: Now,
    nodes: Vec<NodeInfo>,
    /// The requests to stop of those that obey another than their parent: place in `nodes`, and the request.
    cancels: Vec<(usize, Cancel)>,
    /// Nodes that are above others: each once in a row.
    parents: Vec<Node>,
}

impl Found {
    fn new() -> Found {
        Found {
            now: Now::new(),
            nodes: Vec::new(),
            cancels: Vec::new(),
            parents: Vec::new(),
        }
    }

    fn add(&mut self, node: &Node) {
        if let Some(cancel) = node.entry.cancel.get() {
            self.cancels.push((self.nodes.len(), cancel.clone()));
        }
        if let Some(parent) = node.parent()
            && self.parents.last().map(Node::id) != Some(parent.id())
        {
            self.parents.push(parent.clone());
        }
        self.nodes.push(node.info(0, None, &self.now));
    }

    /// A node may have entered while the shard of its parent was already read, and may stay longer than its parent: those
    /// above are added now.
    fn add_parents(&mut self) {
        let mut known = self.ids();
        while let Some(parent) = self.parents.pop() {
            if let Err(place) = known.binary_search(&parent.id()) {
                known.insert(place, parent.id());
                self.add(&parent);
            }
        }
    }

    fn ids(&self) -> Vec<u64> {
        let mut ids: Vec<_> = self.nodes.iter().map(|node| node.id).collect();
        // Not the unstable one: this is quick where there are long sorted parts, and each shard is nearly one.
        ids.sort();
        ids
    }

    /// Parents before children, and the oldest first.
    fn in_order(self) -> Snapshot {
        let mut cancels: Vec<Option<&Cancel>> = vec![None; self.nodes.len()];
        for (place, cancel) in &self.cancels {
            cancels[*place] = Some(cancel);
        }
        let links = Links::of(&self.nodes);
        let mut nodes = Vec::with_capacity(self.nodes.len());
        // Those around the next node: its depth is their number.
        let mut around: Vec<(usize, Option<&Cancel>)> = Vec::new();
        let mut next = links.first_child[NONE];
        while next != NONE {
            let info = &self.nodes[next - 1];
            let inherited = around.last().and_then(|(_, cancel)| *cancel);
            let cancel = cancels[next - 1].or(inherited);
            nodes.push(NodeInfo {
                depth: around.len(),
                deadline: self.now.deadline(cancel),
                cancelled: cancel.and_then(Cancel::cause),
                ..info.clone()
            });
            if links.first_child[next] != NONE {
                around.push((next, cancel));
                next = links.first_child[next];
                continue;
            }
            next = links.next_sibling[next];
            while next == NONE
                && let Some((above, _)) = around.pop()
            {
                next = links.next_sibling[above];
            }
        }
        Snapshot { nodes }
    }
}

/// Who is whose child, as places in the list of nodes plus one; place zero is above the root.
struct Links {
    first_child: Vec<usize>,
    next_sibling: Vec<usize>,
}

const NONE: usize = 0;

impl Links {
    fn of(nodes: &[NodeInfo]) -> Links {
        let mut by_age: Vec<_> = (0..nodes.len()).map(|at| (nodes[at].id, at + 1)).collect();
        by_age.sort();
        let mut links = Links {
            first_child: vec![NONE; nodes.len() + 1],
            next_sibling: vec![NONE; nodes.len() + 1],
        };
        let mut last = (None, NONE);
        // From the end, so that the oldest child comes first.
        for (_, at) in by_age.iter().rev() {
            let parent = nodes[at - 1].parent;
            // Siblings often follow each other.
            if parent != last.0 {
                let find = |id| by_age.binary_search_by_key(&id, |(id, _)| *id);
                let found = parent.and_then(|id| find(id).ok());
                last = (parent, found.map_or(NONE, |found| by_age[found].1));
            }
            links.next_sibling[*at] = links.first_child[last.1];
            links.first_child[last.1] = *at;
        }
        links
    }
}

/// The moment of a snapshot.
pub(super) struct Now {
    at: Instant,
}

impl Now {
    pub(super) fn new() -> Now {
        Now { at: Instant::now() }
    }

    pub(super) fn since(&self, past: Instant) -> Duration {
        self.at.saturating_duration_since(past)
    }

    /// What is left until the deadline of a request to stop.
    pub(super) fn deadline(&self, cancel: Option<&Cancel>) -> Option<Duration> {
        let deadline = Instant::from(cancel?.deadline()?);
        Some(deadline.saturating_duration_since(self.at))
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
        f.write_char(' ')?;
        f.write_str(self.state.word())?;
        if let Some(running) = self.running {
            write!(f, " for {running:.1?}")?;
        }
        write!(f, " age={:.1?}", self.age)?;
        if self.polls > 0 {
            write!(f, " busy={:.1?} polls={}", self.busy, self.polls)?;
        }
        if let Some(deadline) = self.deadline {
            write!(f, " deadline={deadline:.1?}")?;
        }
        if let Some(cause) = self.cancelled {
            write!(f, " cancelled=({cause})")?;
        }
        write!(f, " at {}:{}", self.site.file(), self.site.line())
    }
}

struct Json<'a>(&'a Snapshot);

impl fmt::Display for Json<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('[')?;
        for (at, node) in self.0.nodes.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            node.write_json(f)?;
        }
        f.write_char(']')
    }
}

impl NodeInfo {
    fn write_json(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, r#"{{"id":{},"parent":"#, self.id)?;
        optional(f, self.parent)?;
        f.write_str(r#","name":"#)?;
        text(f, &self.name)?;
        f.write_str(r#","label":"#)?;
        text(f, &self.label)?;
        write!(f, r#","state":"{}","running":"#, self.state.word())?;
        optional(f, self.running.as_ref().map(Duration::as_secs_f64))?;
        write!(f, r#","age":{},"polls":{},"#, seconds(self.age), self.polls)?;
        write!(f, r#""busy":{},"deadline":"#, seconds(self.busy))?;
        optional(f, self.deadline.as_ref().map(Duration::as_secs_f64))?;
        f.write_str(r#","cancelled":"#)?;
        match self.cancelled {
            Some(cause) => text(f, &cause.to_string())?,
            None => f.write_str("null")?,
        }
        f.write_str(r#","file":"#)?;
        text(f, self.site.file())?;
        write!(f, r#","line":{}}}"#, self.site.line())
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn optional(f: &mut fmt::Formatter<'_>, value: Option<impl fmt::Display>) -> fmt::Result {
    match value {
        Some(value) => value.fmt(f),
        None => f.write_str("null"),
    }
}

fn text(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    f.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' | '\\' => write!(f, "\\{c}")?,
            c if u32::from(c) < 0x20 => write!(f, "\\u{:04x}", u32::from(c))?,
            c => f.write_char(c)?,
        }
    }
    f.write_char('"')
}
