//! One supervised future: polled in its context, dropped when its time is over, its panics caught.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};

use pin_project_lite::pin_project;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, oneshot};
use tokio::task::futures::TaskLocalFuture;
use tokio::time::Sleep;

use super::context::Context;
use super::error::{FailureKind, PANIC_MESSAGE_MAX};
use super::handle::Cancelled;
use super::lease::Member;
use super::scope::Core;
use crate::cancel::{Cause, Listening};
use crate::tree::Node;

/// How a future ended. It is dropped by then.
pub(super) enum Ended<T> {
    Returned(T),
    Panicked(String),
    /// Dropped because it was cancelled.
    Cut(Cause),
}

/// Whether a future may run.
pub(super) enum Permit {
    NotNeeded,
    Held(#[expect(dead_code, reason = "held until the task has ended")] OwnedSemaphorePermit),
    Waiting(Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>),
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

    /// Polls the future, unless the group was cancelled and it has not begun or its grace is over.
    pub(super) fn poll<E>(
        mut self: Pin<&mut Self>,
        core: &Core<E>,
        node: &Node,
        cx: &mut TaskContext<'_>,
    ) -> Poll<Ended<F::Output>> {
        loop {
            let cause = core.cancel().cause();
            if let Some(cause) = cause
                && self.as_mut().is_over(core, node, cx)
            {
                return Poll::Ready(self.end(Ended::Cut(cause)));
            }
            if let Poll::Ready(ended) = self.as_mut().poll_once(node, cx) {
                return Poll::Ready(self.end(ended));
            }
            let listening = self.as_mut().project().listening;
            let heard = listening
                .get_or_insert_with(|| Listening::new(core.cancel()))
                .poll(cx.waker());
            // Cancelled while it was being polled: the grace begins, or is over at once.
            if heard == cause {
                return Poll::Pending;
            }
        }
    }

    /// Whether a cancelled future is to be dropped now.
    fn is_over<E>(
        self: Pin<&mut Self>,
        core: &Core<E>,
        node: &Node,
        cx: &mut TaskContext<'_>,
    ) -> bool {
        let this = self.project();
        if !*this.began || core.grace.is_zero() {
            return true;
        }
        node.set_cancelling();
        this.grace
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(core.grace)))
            .as_mut()
            .poll(cx)
            .is_ready()
    }

    fn poll_once(
        self: Pin<&mut Self>,
        node: &Node,
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
                Err(payload) => Poll::Ready(Ended::Panicked(message(&*payload))),
            },
        )
    }

    /// Drops the future, which may panic too.
    fn end(self: Pin<&mut Self>, ended: Ended<F::Output>) -> Ended<F::Output> {
        let mut future = self.project().future;
        match catch_unwind(AssertUnwindSafe(|| future.set(None))) {
            Ok(()) => ended,
            Err(payload) => Ended::Panicked(message(&*payload)),
        }
    }
}

pin_project! {
    /// A spawned task of a group.
    pub(super) struct Task<F, T, E>
    where
        E: Send,
        E: 'static,
    {
        #[pin]
        work: Work<F>,
        debt: Option<Debt<T, E>>,
    }

    impl<F, T, E> PinnedDrop for Task<F, T, E>
    where
        E: Send,
        E: 'static,
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

impl<F, T, E> Task<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    E: Send + 'static,
{
    pub(super) fn new(work: Work<F>, debt: Debt<T, E>) -> Task<F, T, E> {
        Task {
            work,
            debt: Some(debt),
        }
    }
}

impl<F, T, E> Future for Task<F, T, E>
where
    F: Future<Output = Result<T, E>>,
    E: Send + 'static,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(debt) = &this.debt else {
            return Poll::Ready(());
        };
        let ended = ready!(this.work.as_mut().poll(&*debt.core, &debt.node, cx));
        let permit = std::mem::replace(this.work.project().permit, Permit::NotNeeded);
        if let Some(debt) = this.debt.take() {
            debt.pay(ended, permit);
        }
        Poll::Ready(())
    }
}

/// What a task owes when it has ended.
pub(super) struct Debt<T, E: Send + 'static> {
    pub(super) value: oneshot::Sender<Result<T, Cancelled>>,
    pub(super) core: Arc<Core<E>>,
    pub(super) node: Node,
    pub(super) member: Member,
}

impl<T, E: Send + 'static> Debt<T, E> {
    /// The order matters. A failure is kept, and the siblings are cancelled, before the permit lets the next task start.
    /// The place in the lease goes last, because it may wake the scope, which must find everything else done.
    fn pay(self, ended: Ended<Result<T, E>>, permit: Permit) {
        let Debt {
            value,
            core,
            node,
            member,
        } = self;
        let outcome = core.settle(&node, ended);
        drop(permit);
        node.leave();
        drop(node);
        // A value that nobody wants comes back, and is dropped before the task counts as ended.
        drop(value.send(outcome.map_err(|cause| Cancelled { cause })));
        drop(core);
        drop(member);
    }

    fn abandon(self) {
        self.core
            .record(&self.node, FailureKind::Cancelled(Cause::Shutdown));
        self.node.leave();
    }
}

pub(crate) fn message(payload: &(dyn Any + Send)) -> String {
    let text = match payload.downcast_ref::<&'static str>() {
        Some(text) => text,
        None => payload
            .downcast_ref::<String>()
            .map_or("the panic's value is not a text", String::as_str),
    };
    text[..text.floor_char_boundary(PANIC_MESSAGE_MAX)].to_owned()
}
