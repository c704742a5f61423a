//! What went wrong in a group: all of it.

use std::any::Any;
use std::fmt;
use std::panic::Location;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::cancel::Cause;
use crate::deadline::Elapsed;
use crate::tree::Entry;

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
    /// The deadline of the scope, or one around it, passed before it was done.
    TimedOut(Box<Elapsed>),
    /// It was cut off, and not by its own group.
    Cancelled(Cause),
    /// What the group had to close or to clean up at its end answered with an error, or took longer than its limit.
    Cleanup {
        /// What the error said, cut at [`PANIC_MESSAGE_MAX`] bytes.
        message: String,
    },
    /// It returned an error of another type, because it belonged to a scope inside, whose future was dropped.
    Orphan(OrphanError),
}

impl<E> FailureKind<E> {
    /// It was stopped, and did nothing wrong itself.
    pub(super) fn is_cut(&self) -> bool {
        matches!(self, FailureKind::TimedOut(_) | FailureKind::Cancelled(_))
    }
}

/// The error of a task whose scope was dropped. Only that scope knew its type.
pub struct OrphanError(Box<Typed>);

struct Typed {
    type_name: &'static str,
    /// In a lock that is never taken, because errors that can be sent need not be shareable, and a [`GroupError`] should be.
    error: Mutex<Box<dyn Any + Send>>,
}

impl OrphanError {
    pub(super) fn new<E: Send + 'static>(error: E) -> OrphanError {
        OrphanError(Box::new(Typed {
            type_name: std::any::type_name::<E>(),
            error: Mutex::new(Box::new(error)),
        }))
    }

    /// The error itself, for who knows what it may be.
    ///
    /// # Errors
    /// This one again, if it is of another type.
    pub fn downcast<E: 'static>(self) -> Result<E, OrphanError> {
        let Typed { type_name, error } = *self.0;
        let error = error.into_inner().unwrap_or_else(PoisonError::into_inner);
        error.downcast().map(|error| *error).map_err(|error| {
            let error = Mutex::new(error);
            OrphanError(Box::new(Typed { type_name, error }))
        })
    }
}

impl fmt::Debug for OrphanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OrphanError({})", self.0.type_name)
    }
}

impl fmt::Display for OrphanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "an error of type {} in a scope that was dropped",
            self.0.type_name
        )
    }
}

/// Longest panic message that is kept, in bytes.
pub const PANIC_MESSAGE_MAX: usize = 1024;

impl<E: fmt::Display> fmt::Display for FailureKind<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FailureKind::Error(error) => error.fmt(f),
            FailureKind::Panic { message } => write!(f, "panicked: {message}"),
            FailureKind::TimedOut(elapsed) => write!(f, "not done when {elapsed}"),
            FailureKind::Cancelled(cause) => write!(f, "cancelled: {cause}"),
            FailureKind::Cleanup { message } => write!(f, "not cleaned up: {message}"),
            FailureKind::Orphan(error) => error.fmt(f),
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
    pub(crate) fn of(node: &Entry) -> TaskInfo {
        TaskInfo {
            name: node.name().clone(),
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

/// A failure as scopes keep it and hand it on, before the type of its error is known again.
pub(super) type Kept = Failure<OrphanError>;

impl Kept {
    /// With the type that the reader expects, if it is that one.
    fn typed<E: 'static>(self) -> Failure<E> {
        let kind = match self.kind {
            FailureKind::Error(error) => match error.downcast() {
                Ok(error) => FailureKind::Error(error),
                Err(error) => FailureKind::Orphan(error),
            },
            FailureKind::Panic { message } => FailureKind::Panic { message },
            FailureKind::TimedOut(elapsed) => FailureKind::TimedOut(elapsed),
            FailureKind::Cancelled(cause) => FailureKind::Cancelled(cause),
            FailureKind::Cleanup { message } => FailureKind::Cleanup { message },
            FailureKind::Orphan(error) => FailureKind::Orphan(error),
        };
        Failure {
            task: self.task,
            kind,
        }
    }
}

/// The failures of a scope.
pub(super) enum Ledger {
    Open {
        kept: Vec<Kept>,
        omitted: u64,
    },
    /// Nobody will read it any more.
    Gone,
}

impl Ledger {
    pub(super) const fn open() -> Ledger {
        Ledger::Open {
            kept: Vec::new(),
            omitted: 0,
        }
    }

    /// Keeps it; what is beyond the bound comes back to be dropped. An error gives it back for another ledger.
    pub(super) fn push(&mut self, failure: Kept) -> Result<Option<Kept>, Kept> {
        match self {
            Ledger::Open { kept, .. } if kept.len() < FAILURES_MAX => {
                kept.push(failure);
                Ok(None)
            }
            Ledger::Open { omitted, .. } => {
                *omitted += 1;
                Ok(Some(failure))
            }
            Ledger::Gone => Err(failure),
        }
    }

    pub(super) fn into_kept(self) -> Vec<Kept> {
        match self {
            Ledger::Open { kept, .. } => kept,
            Ledger::Gone => Vec::new(),
        }
    }

    pub(super) fn retain(&mut self, keep: impl Fn(&Kept) -> bool) {
        if let Ledger::Open { kept, .. } = self {
            kept.retain(keep);
        }
    }

    pub(super) fn into_error<E: 'static>(self) -> Option<GroupError<E>> {
        let omitted = match &self {
            Ledger::Open { omitted, .. } => *omitted,
            Ledger::Gone => 0,
        };
        let mut kept = self.into_kept().into_iter().map(Kept::typed);
        Some(GroupError {
            first: kept.next()?,
            rest: kept.collect(),
            omitted,
        })
    }
}
