//! Opening a scope, running its body, and waiting for everything it started.

use std::num::NonZeroUsize;
use std::panic::Location;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::context::{CONTEXT, Context, Surroundings};
use super::error::{Failure, FailureKind, Failures, GroupError, TaskInfo};
use super::lease::Lease;
use super::spawn::Group;
use super::task::{Ended, Permit, Work};
use crate::cancel::{Cancel, Cause, Deadline};
use crate::lock::lock;
use crate::tree::{Node, Tree, bounded};

/// How a scope will run: its name, its limits, and what a failure does. See the [module](super) for what it promises.
///
/// ```
/// use std::time::Duration;
/// use jitney::{Cause, FailureKind, Scope};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let outcome = Scope::named("slow")
///     .deadline(Duration::from_millis(5))
///     .run(async |group: jitney::Group<String>| {
///         drop(group.named("never").spawn(std::future::pending::<Result<(), String>>()));
///         Ok(7)
///     })
///     .await;
/// let failure = outcome.unwrap_err().into_first();
/// assert!(matches!(failure.kind, FailureKind::TimedOut));
/// assert_eq!(&*failure.task.name, "never");
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use = "a scope does nothing until it is run"]
pub struct Scope {
    name: Arc<str>,
    site: &'static Location<'static>,
    under: Option<Node>,
    deadline: Option<Deadline>,
    grace: Duration,
    limit: Option<NonZeroUsize>,
    policy: Policy,
}

/// What the failure of one task does to the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// They are cancelled with [`Cause::SiblingFailed`].
    #[default]
    CancelSiblings,
    /// They go on, and the failure is reported when all are done. A failing body still cancels them.
    Isolate,
}

impl Scope {
    /// A scope with no deadline, no grace, no limit, and [`Policy::CancelSiblings`].
    #[track_caller]
    pub fn named(name: impl AsRef<str>) -> Scope {
        Scope {
            name: bounded(name.as_ref()),
            site: Location::caller(),
            under: None,
            deadline: None,
            grace: Duration::ZERO,
            limit: None,
            policy: Policy::default(),
        }
    }

    /// Puts it under this node of a tree. By default it is under the task that runs it, or in a tree of its own.
    pub fn under(mut self, node: &Node) -> Scope {
        self.under = Some(node.clone());
        self
    }

    /// Cancels it with [`Cause::Deadline`] at a moment, or this long after the present call. The deadlines of the scopes
    /// around hold too: the earliest counts.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Scope {
        self.deadline = Some(deadline.into());
        self
    }

    /// How long a cancelled task may go on before it is dropped. Tasks that never began are dropped at once.
    pub fn grace(mut self, grace: Duration) -> Scope {
        self.grace = grace;
        self
    }

    /// Most tasks of the group that run at once. The body is not counted.
    pub fn limit(mut self, tasks: NonZeroUsize) -> Scope {
        self.limit = Some(tasks);
        self
    }

    /// What the failure of one task does to the others.
    pub fn policy(mut self, policy: Policy) -> Scope {
        self.policy = policy;
        self
    }

    /// Runs the body, waits for every task it started, and returns its value, or everything that failed.
    ///
    /// `Ok` means that the body returned `Ok`, no task failed, and none was cut off by a deadline or from outside. The body
    /// is a member of the group like the tasks: a cancelled group drops it after the grace. Tasks may spawn into the
    /// group until the last one is done.
    ///
    /// # Cancel safety
    /// Dropping this future cancels the tasks with [`Cause::ParentGone`], and the nearest scope around that is still alive
    /// waits for them. Without one they still end, but nobody waits. What they fail with after that has no reader left, and
    /// is dropped.
    ///
    /// # Panics
    /// When it spawns, waits for a deadline or gives grace outside of a tokio runtime that can. Panics of the body and of
    /// tasks are caught, and are failures.
    pub async fn run<T, E, F, Fut>(self, body: F) -> Result<T, GroupError<E>>
    where
        F: FnOnce(Group<E>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Send + 'static,
    {
        let open = Open::new(self);
        let core = &*open.core;
        let mut alarm = pin!(core.alarm());
        let value = {
            let group = Group::new(open.core.clone());
            let mut work = pin!(Work::new(
                CONTEXT.scope(core.context(&core.node), async move { body(group).await }),
                Permit::NotNeeded,
            ));
            let ended = std::future::poll_fn(|cx| {
                let Poll::Pending = alarm.as_mut().poll(cx);
                work.as_mut().poll(core, &core.node, cx)
            });
            core.settle_body(ended.await)
        };
        std::future::poll_fn(|cx| {
            let Poll::Pending = alarm.as_mut().poll(cx);
            core.around.lease.poll_close(cx)
        })
        .await;
        core.conclude(value)
    }
}

/// Ends the scope however its future ends.
struct Open<E: Send + 'static> {
    core: Arc<Core<E>>,
}

impl<E: Send + 'static> Open<E> {
    fn new(scope: Scope) -> Open<E> {
        Open {
            core: Arc::new(Core::new(scope)),
        }
    }
}

impl<E: Send + 'static> Drop for Open<E> {
    fn drop(&mut self) {
        self.core.around.lease.close();
        self.core.cancel().cancel(Cause::ParentGone);
        self.core.node.leave();
        self.core.around.lease.leave();
    }
}

/// What the body and the tasks of a group share.
pub(super) struct Core<E> {
    pub(super) node: Node,
    pub(super) around: Arc<Surroundings>,
    pub(super) grace: Duration,
    pub(super) permits: Option<Arc<Semaphore>>,
    policy: Policy,
    failures: Mutex<Failures<E>>,
}

impl<E> Core<E> {
    pub(super) fn cancel(&self) -> &Cancel {
        &self.around.cancel
    }
}

impl<E: Send + 'static> Core<E> {
    fn new(scope: Scope) -> Core<E> {
        let context = Context::current();
        let node = match scope.under.or_else(|| Some(context.as_ref()?.node.clone())) {
            Some(under) => under.child_at(scope.name, scope.site),
            None => Tree::at(scope.name, scope.site).root(),
        };
        let (cancel, parent) = match context {
            Some(context) => (
                context.scope.cancel.child_until(scope.deadline),
                Some(context.scope),
            ),
            None => (Cancel::with_deadline(scope.deadline), None),
        };
        node.obeys(&cancel);
        Core {
            node,
            around: Arc::new(Surroundings {
                cancel,
                lease: Lease::new(parent),
            }),
            grace: scope.grace,
            permits: scope
                .limit
                .map(|limit| Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)))),
            policy: scope.policy,
            failures: Mutex::new(Failures::new()),
        }
    }

    pub(super) fn context(&self, node: &Node) -> Context {
        Context {
            scope: self.around.clone(),
            node: node.clone(),
        }
    }

    /// Cancels at the deadline. Never ready.
    async fn alarm(&self) -> std::convert::Infallible {
        if let Some(deadline) = self.cancel().deadline() {
            tokio::time::sleep_until(deadline.into()).await;
            self.cancel().cancel(Cause::Deadline);
        }
        std::future::pending().await
    }

    /// Keeps what went wrong, and lets the policy act on it; in this order, so that who is woken finds it.
    pub(super) fn settle<T>(&self, node: &Node, ended: Ended<Result<T, E>>) -> Result<T, Cause> {
        let (cause, kind) = match ended {
            Ended::Returned(Ok(value)) => return Ok(value),
            Ended::Returned(Err(error)) => (Cause::SiblingFailed, FailureKind::Error(error)),
            Ended::Panicked(message) => (Cause::SiblingFailed, FailureKind::Panic { message }),
            Ended::Cut(Cause::Deadline) => (Cause::Deadline, FailureKind::TimedOut),
            Ended::Cut(cause) if self.cancel().is_inherited() => {
                (cause, FailureKind::Cancelled(cause))
            }
            Ended::Cut(cause) => return Err(cause),
        };
        self.record(node, kind);
        if self.policy == Policy::CancelSiblings {
            self.cancel().cancel(Cause::SiblingFailed);
        }
        Err(cause)
    }

    pub(super) fn record(&self, node: &Node, kind: FailureKind<E>) {
        let task = TaskInfo::of(node);
        let omitted = lock(&self.failures).push(Failure { task, kind });
        drop(omitted);
    }

    fn settle_body<T>(&self, ended: Ended<Result<T, E>>) -> Option<T> {
        let value = self.settle(&self.node, ended).ok();
        if value.is_none() {
            self.cancel().cancel(Cause::SiblingFailed);
        }
        value
    }

    /// The result, once everything has ended.
    fn conclude<T>(&self, value: Option<T>) -> Result<T, GroupError<E>> {
        let failures = std::mem::replace(&mut *lock(&self.failures), Failures::new());
        match (failures.into_error(), value) {
            (None, Some(value)) => Ok(value),
            (Some(error), _) => Err(error),
            // The body was cut off by its own group, which is no failure of a task, but there is no value either.
            (None, None) => Err(GroupError {
                first: Failure {
                    task: TaskInfo::of(&self.node),
                    kind: FailureKind::Cancelled(self.cancel().cause().unwrap_or(Cause::Requested)),
                },
                rest: Vec::new(),
                omitted: 0,
            }),
        }
    }
}

impl<E> Drop for Core<E> {
    /// Who ran the scope has taken the failures by now, unless its future was dropped.
    fn drop(&mut self) {
        let failures = std::mem::replace(&mut *lock(&self.failures), Failures::new());
        failures.lost().for_each(|failure| self.node.lose(failure));
    }
}
