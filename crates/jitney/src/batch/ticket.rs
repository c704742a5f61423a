//! A caller's end of a request, and the batcher's.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::driver::Shared;
use super::queue::Place;
use super::{Answer, BatchError, Model};

/// What one item of a batch came to.
pub(crate) type Outcome<M> = Result<<M as Model>::Out, BatchError<<M as Model>::Error>>;

/// What the caller of a request gets.
pub(crate) type Told<M> = Result<Answer<<M as Model>::Out>, BatchError<<M as Model>::Error>>;

/// The obligation to answer one request. Dropping it answers [`BatchError::Lost`].
pub(crate) struct Reply<M: Model>(oneshot::Sender<Told<M>>);

/// An answer that is decided but not sent: it is sent outside of the lock.
pub(crate) struct Due<M: Model>(oneshot::Sender<Told<M>>, Told<M>);

impl<M: Model> Reply<M> {
    pub(crate) fn new() -> (Reply<M>, oneshot::Receiver<Told<M>>) {
        let (sender, receiver) = oneshot::channel();
        (Reply(sender), receiver)
    }

    pub(crate) fn due(self, told: Told<M>) -> Due<M> {
        Due(self.0, told)
    }
}

impl<M: Model> Due<M> {
    /// Sends the answer. A caller who left meanwhile does not mind.
    pub(crate) fn send(self) {
        self.0.send(self.1).ok();
    }
}

/// A queued request: a future of its answer, on any executor.
///
/// # Cancel safety
/// Dropping the ticket cancels the request: while it is queued it leaves the queue and is never run; when it runs already, its
/// batch-mates are not affected and its result is dropped.
#[must_use = "dropping a ticket cancels its request"]
pub struct Ticket<M: Model> {
    receiver: oneshot::Receiver<Told<M>>,
    shared: Arc<Shared<M>>,
    place: Place,
    answered: bool,
}

impl<M: Model> Ticket<M> {
    pub(crate) fn new(
        receiver: oneshot::Receiver<Told<M>>,
        shared: Arc<Shared<M>>,
        place: Place,
    ) -> Ticket<M> {
        Ticket {
            receiver,
            shared,
            place,
            answered: false,
        }
    }
}

impl<M: Model> Future for Ticket<M> {
    type Output = Told<M>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Told<M>> {
        let told = ready!(Pin::new(&mut self.receiver).poll(cx));
        self.answered = true;
        Poll::Ready(told.unwrap_or(Err(BatchError::Lost)))
    }
}

impl<M: Model> Drop for Ticket<M> {
    fn drop(&mut self) {
        if !self.answered {
            self.shared.cancel(self.place);
        }
    }
}

impl<M: Model> std::fmt::Debug for Ticket<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket")
            .field("seq", &self.place.seq)
            .finish_non_exhaustive()
    }
}
