//! The value of one task, for whoever wants it.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::cancel::Cause;

/// The value a task will give. Dropping it discards the value, never the task: the group waits for that in any case.
///
/// A task that fails gives [`Cancelled`] here; what went wrong is kept by the group, and cannot get lost with the handle.
///
/// # Cancel safety
/// Polling it by reference loses nothing.
#[derive(Debug)]
#[must_use = "dropping a handle discards the task's value, never the task: say so with drop(..)"]
pub struct Handle<T> {
    value: oneshot::Receiver<Result<T, Cancelled>>,
}

impl<T> Handle<T> {
    pub(super) fn new() -> (oneshot::Sender<Result<T, Cancelled>>, Handle<T>) {
        let (sender, value) = oneshot::channel();
        (sender, Handle { value })
    }
}

impl<T> Future for Handle<T> {
    type Output = Result<T, Cancelled>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // A task says nothing only if its runtime dropped it.
        const LOST: Cancelled = Cancelled {
            cause: Cause::Shutdown,
        };
        Pin::new(&mut self.value)
            .poll(cx)
            .map(|value| value.unwrap_or(Err(LOST)))
    }
}

/// A task gave no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task gave no value: {cause}")]
pub struct Cancelled {
    /// Why. [`Cause::SiblingFailed`] also if the failed task is the very one that was awaited.
    pub cause: Cause,
}
