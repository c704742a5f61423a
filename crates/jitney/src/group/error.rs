//! What went wrong in a group: all of it.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::Cause;
use crate::tree::{LostFailure, Node};

/// Everything that failed in a scope, in the order of time.
///
/// `Display` is one line about the first failure and how many followed; `{:#}` is one line for each.
#[derive(Debug)]
pub struct GroupError<E> {
    /// What failed first, and under [`Policy::CancelSiblings`](super::Policy) cancelled the rest.
    pub first: Failure<E>,
    /// What failed after it.
    pub rest: Vec<Failure<E>>,
    /// How many more there were beyond the first [`FAILURES_MAX`], which are only counted so that memory stays bounded.
    pub omitted: u64,
}

/// Most failures that a group keeps.
pub const FAILURES_MAX: usize = 1024;

impl<E> GroupError<E> {
    /// All failures that were kept, the first one first.
    pub fn iter(&self) -> impl Iterator<Item = &Failure<E>> {
        std::iter::once(&self.first).chain(&self.rest)
    }

    /// The failure that came first.
    pub fn into_first(self) -> Failure<E> {
        self.first
    }
}

impl<E: fmt::Display> fmt::Display for GroupError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let more = self.rest.len() as u64 + self.omitted;
        if !f.alternate() {
            write!(f, "{}", self.first)?;
            return match more {
                0 => Ok(()),
                more => write!(f, " (and {more} more)"),
            };
        }
        write!(f, "{} failed:", more + 1)?;
        self.iter()
            .try_for_each(|failure| write!(f, "\n  {failure}"))?;
        match self.omitted {
            0 => Ok(()),
            omitted => write!(f, "\n  and {omitted} more"),
        }
    }
}

impl<E: fmt::Debug + fmt::Display> std::error::Error for GroupError<E> {}

/// One failure, and whose it was.
#[derive(Debug)]
pub struct Failure<E> {
    /// The task; or the scope, if its body failed.
    pub task: TaskInfo,
    /// What happened.
    pub kind: FailureKind<E>,
}

impl<E: fmt::Display> fmt::Display for Failure<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.task, self.kind)
    }
}

/// What can happen to a task.
#[derive(Debug)]
pub enum FailureKind<E> {
    /// It returned an error.
    Error(E),
    /// It panicked.
    Panic {
        /// What the panic said, cut at [`PANIC_MESSAGE_MAX`] bytes.
        message: String,
    },
    /// The deadline of the scope passed before it was done.
    TimedOut,
    /// It was cut off, and not by its own group.
    Cancelled(Cause),
}

/// Longest panic message that is kept, in bytes.
pub const PANIC_MESSAGE_MAX: usize = 1024;

impl<E: fmt::Display> fmt::Display for FailureKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Error(error) => error.fmt(f),
            FailureKind::Panic { message } => write!(f, "panicked: {message}"),
            FailureKind::TimedOut => f.write_str("not done when the deadline passed"),
            FailureKind::Cancelled(cause) => write!(f, "cancelled: {cause}"),
        }
    }
}

/// Which task it was.
#[derive(Clone, Debug)]
pub struct TaskInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its id in the tree.
    pub id: u64,
    /// Where in the source it was started.
    pub site: &'static Location<'static>,
    /// How long after its start it ended.
    pub elapsed: Duration,
}

impl TaskInfo {
    pub(super) fn of(node: &Node) -> TaskInfo {
        TaskInfo {
            name: node.shared_name(),
            id: node.id(),
            site: node.site(),
            elapsed: node.age(),
        }
    }
}

impl fmt::Display for TaskInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TaskInfo {
            name, id, elapsed, ..
        } = self;
        write!(
            f,
            "{name} #{id} after {elapsed:.1?} (started at {}:{})",
            self.site.file(),
            self.site.line()
        )
    }
}

/// The failures of a group that is still open.
pub(super) struct Failures<E> {
    kept: Vec<Failure<E>>,
    omitted: u64,
}

impl<E> Failures<E> {
    pub(super) const fn new() -> Failures<E> {
        Failures {
            kept: Vec::new(),
            omitted: 0,
        }
    }

    /// Keeps it, or gives it back to be dropped outside the lock.
    pub(super) fn push(&mut self, failure: Failure<E>) -> Option<Failure<E>> {
        if self.kept.len() < FAILURES_MAX {
            self.kept.push(failure);
            return None;
        }
        self.omitted += 1;
        Some(failure)
    }

    /// What failed by itself, for the tree to remember when nobody will read the errors.
    pub(super) fn lost(&self) -> impl Iterator<Item = LostFailure> {
        let own = |failure: &&Failure<E>| {
            matches!(
                failure.kind,
                FailureKind::Error(_) | FailureKind::Panic { .. }
            )
        };
        self.kept.iter().filter(own).map(|failure| LostFailure {
            name: failure.task.name.clone(),
            id: failure.task.id,
            site: failure.task.site,
        })
    }

    pub(super) fn into_error(self) -> Option<GroupError<E>> {
        let mut kept = self.kept.into_iter();
        Some(GroupError {
            first: kept.next()?,
            rest: kept.collect(),
            omitted: self.omitted,
        })
    }
}
