//! What a scope does at its very end: the exit stack, last in, first out.

use std::panic::{AssertUnwindSafe, Location};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use futures_util::FutureExt;

use super::context::CONTEXT;
use super::core::Core;
use super::error::{Failure, FailureKind, Kept, TaskInfo};
use super::lease::Place;
use super::task::{bounded, message};
use super::timeout::{Bound, enforce};
use crate::deadline::{Deadline, Limit};
use crate::sync::{Mutex, lock};

/// One thing to do at the end.
pub(super) struct Exit {
    pub(super) name: Arc<str>,
    pub(super) site: &'static Location<'static>,
    pub(super) limit: Duration,
    pub(super) cleanup: Cleanup,
}

/// An error is its text.
pub(super) type Cleanup = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

/// A stack that is over once it was found empty.
pub(super) struct Stack<T>(Mutex<Option<Vec<T>>>);

pub(super) type Exits = Stack<Exit>;

impl<T> Stack<T> {
    pub(super) fn new() -> Stack<T> {
        Stack(Mutex::new(Some(Vec::new())))
    }

    /// Gives it back if the stack is over.
    pub(super) fn push(&self, item: T) -> Option<T> {
        match &mut *lock(&self.0) {
            Some(items) => {
                items.push(item);
                None
            }
            None => Some(item),
        }
    }

    pub(super) fn pop(&self) -> Option<T> {
        let mut stack = lock(&self.0);
        let last = stack.as_mut()?.pop();
        if last.is_none() {
            *stack = None;
        }
        last
    }

    /// Whether it is over; an empty one is from now on.
    pub(super) fn is_over(&self) -> bool {
        let mut stack = lock(&self.0);
        if stack.as_ref().is_some_and(Vec::is_empty) {
            *stack = None;
        }
        stack.is_none()
    }
}

/// The running of an exit stack, which can change hands halfway.
#[derive(Default)]
pub(super) struct Unwinding {
    current: Option<Running>,
}

/// Ends with what went wrong.
type Running = Pin<Box<dyn Future<Output = Option<Kept>> + Send>>;

impl Unwinding {
    /// Ready when the stack is empty.
    pub(super) fn poll(&mut self, core: &Core, cx: &mut TaskContext<'_>) -> Poll<()> {
        loop {
            if let Some(current) = &mut self.current {
                let failure = ready!(current.as_mut().poll(cx));
                self.current = None;
                if let Some(failure) = failure {
                    core.around.record(failure);
                }
            }
            match core.exits.pop() {
                Some(exit) => self.current = Some(Box::pin(run(exit, core))),
                None => return Poll::Ready(()),
            }
        }
    }

    pub(super) fn is_done(&self, core: &Core) -> bool {
        self.current.is_none() && core.exits.is_over()
    }

    /// Takes the owner's place in the lease of a scope that was dropped: waits for the tasks, and unwinds.
    ///
    /// Without a runtime nothing can run any more, and what is on the stack is dropped.
    pub(super) fn go_on_alone(self, core: Arc<Core>) {
        let place = OwnersPlace(core);
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let mut debt = (self, place);
        // The lease of the scope owns it.
        drop(runtime.spawn(async move {
            // Captured whole, because the place must be given back after everything else is dropped.
            let (unwinding, OwnersPlace(core)) = &mut debt;
            // What is being cleaned up is a member itself, and began when the tasks had ended.
            if unwinding.current.is_none() {
                std::future::poll_fn(|cx| core.around.lease.poll_alone(cx)).await;
            }
            std::future::poll_fn(|cx| unwinding.poll(core, cx)).await;
        }));
    }
}

struct OwnersPlace(Arc<Core>);

impl Drop for OwnersPlace {
    fn drop(&mut self) {
        self.0.around.lease.leave(Place::Member);
    }
}

/// Runs one exit, whatever was cancelled around it, and says what went wrong.
fn run(exit: Exit, core: &Core) -> impl Future<Output = Option<Kept>> + Send + use<> {
    let node = core.node.child_at(exit.name.clone(), exit.site);
    let limit = Limit::new(Deadline::from(exit.limit), exit.name, exit.site);
    let cleanup = enforce(Bound::Shield, limit, exit.cleanup);
    let cleanup = CONTEXT.scope(
        core.context(&node),
        AssertUnwindSafe(cleanup).catch_unwind(),
    );
    async move {
        let ended = cleanup.await;
        let task = TaskInfo::of(node.entry());
        node.leave();
        let kind = match ended {
            Ok(Ok(Ok(()))) => return None,
            Ok(Ok(Err(error))) => FailureKind::Cleanup {
                message: bounded(&error),
            },
            Ok(Err(elapsed)) => FailureKind::Cleanup {
                message: elapsed.to_string(),
            },
            Err(panic) => FailureKind::Panic {
                message: message(&*panic),
            },
        };
        Some(Failure { task, kind })
    }
}
