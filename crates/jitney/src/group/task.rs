//! One supervised future: polled in its context, dropped when its time is over, its panics caught.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker, ready};
use std::time::Duration;

use pin_project_lite::pin_project;
use tokio::sync::{AcquireError, OwnedSemaphorePermit};
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Sleep;

use super::context::{Context, Surroundings};
use super::error::{FailureKind, PANIC_MESSAGE_MAX};
use super::handle::{Cancelled, Own, Personal, Slot};
use crate::cancel::{Cause, Listening};
use crate::tree::Entry;

/// How a future ended. It is dropped by then.
pub(super) enum Ended<T> {
    Returned(T),
    Panicked(Payload),
    /// Dropped because it was cancelled.
    Cut(Cause),
}

/// What a panic was given.
pub(super) type Payload = Box<dyn Any + Send>;

/// Whether a future may run.
pub(super) enum Permit {
    NotNeeded,
    Held(#[expect(dead_code, reason = "held until the task has ended")] OwnedSemaphorePermit),
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
}

/// What a future in the care of a group obeys.
pub(super) struct Care<'a> {
    pub(super) scope: &'a Surroundings,
    pub(super) node: &'a Entry,
    pub(super) grace: Duration,
    /// None for the body.
    pub(super) personal: Option<&'a Personal>,
}

impl Care<'_> {
    fn cause(&self) -> Option<Cause> {
        let personal = self.personal.and_then(Personal::cause);
        personal.or_else(|| self.scope.cancel.cause())
    }

    fn is_shielded(&self) -> bool {
        self.scope.is_shielded(Some(self.node.id()))
    }
}

pin_project! {
    /// A future in the care of a group.
    pub(super) struct Work<F> {
        #[pin]
        future: Option<TaskLocalFuture<Context, F>>,
        permit: Permit,
        began: bool,
        listening: Option<Listening>,
        grace: Option<Pin<Box<Sleep>>>,
    }
}

impl<F: Future> Work<F> {
    pub(super) fn new(future: TaskLocalFuture<Context, F>, permit: Permit) -> Work<F> {
        Work {
            future: Some(future),
            permit,
            began: false,
            listening: None,
            grace: None,
        }
    }

    /// Polls the future, unless it was cancelled and has not begun or its grace is over.
    pub(super) fn poll(
        mut self: Pin<&mut Self>,
        care: &Care<'_>,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Ended<F::Output>> {
        loop {
            let cause = care.cause();
            if let Some(cause) = cause
                && self.as_mut().is_over(care, cx)
            {
                return Poll::Ready(self.end(Ended::Cut(cause)));
            }
            if let Poll::Ready(ended) = self.as_mut().poll_once(care.node, cx) {
                return Poll::Ready(self.end(ended));
            }
            match (cause, self.as_mut().listen(care, cx.waker())) {
                (None, None) => return Poll::Pending,
                // A shield may have ended in this poll, and the grace with it.
                (Some(_), _) if !self.as_mut().is_over(care, cx) => return Poll::Pending,
                // Cancelled while it was being polled: the grace begins, or is over at once.
                _ => {}
            }
        }
    }

    /// Has the task woken when it is cancelled; says why if it was meanwhile.
    fn listen(self: Pin<&mut Self>, care: &Care<'_>, waker: &Waker) -> Option<Cause> {
        let listening = self.project().listening;
        let first = listening.is_none();
        let group = listening
            .get_or_insert_with(|| Listening::new(&care.scope.cancel))
            .poll(waker);
        let personal = match care.personal {
            // The waker of a spawned task is the same in every poll.
            Some(personal) if first => personal.listen(waker),
            Some(personal) => personal.cause(),
            None => None,
        };
        personal.or(group)
    }

    /// Whether a cancelled future is to be dropped now.
    fn is_over(self: Pin<&mut Self>, care: &Care<'_>, cx: &mut TaskContext<'_>) -> bool {
        let this = self.project();
        if !*this.began {
            return true;
        }
        if care.grace.is_zero() {
            return !care.is_shielded();
        }
        care.node.set_cancelling();
        let grace = this
            .grace
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(care.grace)));
        grace.as_mut().poll(cx).is_ready() && !care.is_shielded()
    }

    fn poll_once(
        self: Pin<&mut Self>,
        node: &Entry,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Ended<F::Output>> {
        let mut this = self.project();
        if let Permit::Waiting(permit) = this.permit {
            // The semaphore of a group is never closed, so the error cannot come; without a permit it would wait on.
            if let Ok(permit) = ready!(permit.as_mut().poll(cx)) {
                *this.permit = Permit::Held(permit);
            }
        }
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Pending;
        };
        *this.began = true;
        node.measure(
            || match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
                Ok(polled) => polled.map(Ended::Returned),
                Err(payload) => Poll::Ready(Ended::Panicked(payload)),
            },
        )
    }

    /// Drops the future, which may panic too.
    fn end(self: Pin<&mut Self>, ended: Ended<F::Output>) -> Ended<F::Output> {
        let mut future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.set(None))) {
            Ok(()) => ended,
            Err(payload) => Ended::Panicked(payload),
        }
    }
}

pin_project! {
    /// A spawned task of a group.
    pub(super) struct Task<F, T>
    where
        T: Send,
        T: 'static,
    {
        #[pin]
        work: Work<F>,
        debt: Option<Debt<T>>,
    }

    impl<F, T> PinnedDrop for Task<F, T>
    where
        T: Send,
        T: 'static,
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            // Only a runtime that shuts down drops a task that has not ended.
            if let Some(debt) = this.debt.take() {
                let mut future = this.work.project().future;
                future.set(None);
                debt.abandon();
            }
        }
    }
}

impl<F: Future, T: Send + 'static> Task<F, T> {
    pub(super) fn new(work: Work<F>, debt: Debt<T>) -> Task<F, T> {
        Task {
            work,
            debt: Some(debt),
        }
    }
}

impl<F, T, E> Future for Task<F, T>
where
    F: Future<Output = Result<T, E>>,
    T: Send + 'static,
    E: Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(debt) = &this.debt else {
            return Poll::Ready(());
        };
        let ended = ready!(this.work.as_mut().poll(&debt.care(), cx));
        let work = this.work.project();
        let permit = std::mem::replace(work.permit, Permit::NotNeeded);
        if work.listening.take().is_some() {
            debt.task.details.personal().forget();
        }
        if let Some(debt) = this.debt.take() {
            debt.pay(ended, permit);
        }
        Poll::Ready(())
    }
}

/// What a task owes when it has ended; with the place in the lease, which is given back when this is dropped.
pub(super) struct Debt<T> {
    pub(super) task: Arc<Entry<Slot<T>>>,
}

impl<T: Send + 'static> Debt<T> {
    fn care(&self) -> Care<'_> {
        let slot = &self.task.details;
        Care {
            scope: slot.scope(),
            node: &*self.task,
            grace: slot.team.core.grace,
            personal: Some(slot.personal()),
        }
    }

    /// The order matters. A failure is kept, and the siblings are cancelled, before the permit lets the next task start.
    /// The place in the lease goes last, because it may wake the scope, which must find everything else done.
    fn pay<E: Send + 'static>(self, ended: Ended<Result<T, E>>, permit: Permit) {
        let slot = &self.task.details;
        let outcome = slot.team.core.settle_task(&*self.task, ended);
        drop(permit);
        self.task.leave();
        // A value that nobody wants comes back, and is dropped before the task counts as ended.
        drop(slot.fill(outcome.map_err(|cause| Cancelled { cause })));
    }

    fn abandon(self) {
        const CAUSE: Cause = Cause::Shutdown;
        let kind = FailureKind::Cancelled(CAUSE);
        let slot = &self.task.details;
        slot.team.core.record(&*self.task, kind);
        self.task.leave();
        drop(slot.fill(Err(Cancelled { cause: CAUSE })));
    }
}

impl<T> Drop for Debt<T> {
    fn drop(&mut self) {
        let slot = &self.task.details;
        slot.team.core.around.lease.leave(slot.place);
    }
}

/// What a panic said.
pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    let text = match payload.downcast_ref::<&'static str>() {
        Some(text) => text,
        None => payload
            .downcast_ref::<String>()
            .map_or("the panic's value is not a text", String::as_str),
    };
    bounded(text)
}

/// A text as failures keep it.
pub(super) fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(PANIC_MESSAGE_MAX)].to_owned()
}
