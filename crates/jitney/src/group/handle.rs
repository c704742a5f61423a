//! The value of one task, for whoever wants it, and the request to that task alone.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use super::context::Surroundings;
use super::core::Team;
use super::lease::Place;
use crate::cancel::{Cancel, Cause};
use crate::lock::lock;
use crate::tree::{Details, Entry, Node, Registry};

/// The value a task will give. Dropping it discards the value, never the task: the group waits for that in any case.
///
/// A task that fails gives [`Cancelled`] here; what went wrong is kept by the group, and cannot get lost with the handle.
///
/// # Cancel safety
/// Polling it by reference loses nothing.
///
/// ```
/// use jitney::{Cancelled, Cause, Group, Scope};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jitney::GroupError<String>> {
/// Scope::named("example")
///     .run(async |group: Group<String>| {
///         let stuck = group.named("stuck").spawn(std::future::pending::<Result<(), String>>());
///         assert_eq!(stuck.name(), "stuck");
///         stuck.cancel(Cause::Requested); // this task, and no other
///         assert_eq!(stuck.await, Err(Cancelled { cause: Cause::Requested }));
///         Ok(())
///     })
///     .await
/// # }
/// ```
#[must_use = "dropping a handle discards the task's value, never the task: say so with drop(..)"]
pub struct Handle<T> {
    task: Arc<Entry<Slot<T>>>,
    /// Whether it has given out the value.
    taken: bool,
}

impl<T> Handle<T> {
    pub(super) fn new(task: Arc<Entry<Slot<T>>>) -> Handle<T> {
        Handle { task, taken: false }
    }

    /// The task's id in the tree.
    pub fn id(&self) -> u64 {
        self.task.id()
    }

    /// The task's name.
    pub fn name(&self) -> &str {
        self.task.name()
    }

    /// Asks this task alone to stop; it is dropped after the grace of its scope. That is no failure of the group.
    ///
    /// Does nothing if the task was cancelled before, or has ended. Never waits: await the handle for the end of the task.
    pub fn cancel(&self, cause: Cause) {
        self.task.details.personal.ask(cause);
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let slot = &this.task.details;
        let outcome = slot.take().or_else(|| {
            // Cloning and dropping a waker may run foreign code, which must not find the lock taken.
            let waker = cx.waker().clone();
            slot.take_or_await(waker)
        });
        this.taken |= outcome.is_some();
        outcome.map_or(Poll::Pending, Poll::Ready)
    }
}

impl<T> Drop for Handle<T> {
    fn drop(&mut self) {
        if !self.taken {
            let value = self.task.details.replace(Value::Unwanted);
            // Values are foreign code, which must not find the lock taken.
            drop(value);
        }
    }
}

impl<T> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({} #{})", self.name(), self.id())
    }
}

/// A task gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task gave no value: {cause}")]
pub struct Cancelled {
    /// Why. [`Cause::SiblingFailed`] also if the failed task is the very one that was awaited.
    pub cause: Cause,
}

/// What a task and its handle share, beside the task's node.
pub(super) struct Slot<T> {
    pub(super) team: Arc<Team>,
    pub(super) place: Place,
    value: Mutex<Value<T>>,
    personal: Personal,
}

enum Value<T> {
    Awaited(Option<Waker>),
    Ready(Result<T, Cancelled>),
    /// The handle has given it out.
    Taken,
    /// The handle is gone.
    Unwanted,
}

impl<T> Slot<T> {
    pub(super) fn new(team: Arc<Team>, place: Place) -> Slot<T> {
        Slot {
            team,
            place,
            value: Mutex::new(Value::Awaited(None)),
            personal: Personal::default(),
        }
    }

    fn take(&self) -> Option<Result<T, Cancelled>> {
        let mut value = lock(&self.value);
        match std::mem::replace(&mut *value, Value::Taken) {
            Value::Ready(outcome) => Some(outcome),
            other => {
                *value = other;
                None
            }
        }
    }

    fn replace(&self, new: Value<T>) -> Value<T> {
        std::mem::replace(&mut *lock(&self.value), new)
    }

    /// Has this waker woken when there is a value, unless there is one already.
    fn take_or_await(&self, waker: Waker) -> Option<Result<T, Cancelled>> {
        let mut value = lock(&self.value);
        let new = match *value {
            Value::Awaited(_) => Value::Awaited(Some(waker)),
            _ => Value::Taken,
        };
        let before = std::mem::replace(&mut *value, new);
        drop(value);
        match before {
            Value::Ready(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Gives the outcome to the handle, or back if that is gone.
    pub(super) fn fill(&self, outcome: Result<T, Cancelled>) -> Option<Result<T, Cancelled>> {
        let mut value = lock(&self.value);
        if let Value::Unwanted = *value {
            return Some(outcome);
        }
        let before = std::mem::replace(&mut *value, Value::Ready(outcome));
        drop(value);
        if let Value::Awaited(Some(waker)) = before {
            waker.wake();
        }
        None
    }
}

impl<T> Details for Slot<T> {
    fn name(&self) -> &Arc<str> {
        self.team.name()
    }

    fn parent(&self) -> Option<&Node> {
        Some(&self.team.core.node)
    }

    fn registry(&self) -> &Arc<Registry> {
        self.team.core.node.registry()
    }

    fn take_parent(&mut self) -> Option<Node> {
        None
    }
}

/// A task, whatever its value.
pub(super) trait Own: Details + Send + Sync {
    fn personal(&self) -> &Personal;
    /// What its group is to it.
    fn scope(&self) -> &Arc<Surroundings>;
}

impl<T: Send> Own for Slot<T> {
    fn personal(&self) -> &Personal {
        &self.personal
    }

    fn scope(&self) -> &Arc<Surroundings> {
        self.team.core.part(self.place)
    }
}

/// The request to one task. Most tasks never need it, so it is made when it is first asked for.
#[derive(Default)]
pub(super) struct Personal {
    asked: AtomicBool,
    state: Mutex<Asking>,
}

#[derive(Default)]
struct Asking {
    cause: Option<Cause>,
    cancel: Option<Cancel>,
    task: Option<Waker>,
}

impl Personal {
    /// Why this task alone was asked to stop.
    pub(super) fn cause(&self) -> Option<Cause> {
        if !self.asked.load(Ordering::Acquire) {
            return None;
        }
        lock(&self.state).cause
    }

    /// Has `waker` woken when the task is asked; says why if it was before.
    pub(super) fn listen(&self, waker: &Waker) -> Option<Cause> {
        let mut state = lock(&self.state);
        let old = state.task.replace(waker.clone());
        let cause = state.cause;
        drop(state);
        drop(old);
        cause
    }

    /// The request that this task obeys, below that of its group.
    pub(super) fn cancel_below(&self, group: &Cancel) -> Cancel {
        let mut state = lock(&self.state);
        let cause = state.cause;
        let cancel = state.cancel.get_or_insert_with(|| group.child()).clone();
        drop(state);
        if let Some(cause) = cause {
            cancel.cancel(cause);
        }
        cancel
    }

    /// The task has ended.
    pub(super) fn forget(&self) {
        let task = lock(&self.state).task.take();
        drop(task);
    }

    fn ask(&self, cause: Cause) {
        let mut state = lock(&self.state);
        if state.cause.is_some() {
            return;
        }
        state.cause = Some(cause);
        self.asked.store(true, Ordering::Release);
        let (cancel, task) = (state.cancel.clone(), state.task.take());
        drop(state);
        if let Some(cancel) = cancel {
            cancel.cancel(cause);
        }
        if let Some(task) = task {
            task.wake();
        }
    }
}
