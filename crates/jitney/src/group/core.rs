//! What the body and the tasks of a group share.

use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::context::{Context, OrphanHook, Surroundings};
use super::error::{Failure, FailureKind, GroupError, Kept, OrphanError, TaskInfo};
use super::exits::Exits;
use super::lease::{Left, Place};
use super::scope::Policy;
use super::task::{Ended, Payload, message};
use crate::cancel::{Cancel, Cause};
use crate::deadline::{Deadline, Limit};
use crate::lock::lock;
use crate::tree::{Entry, Node, Tree};

/// How a scope is to be.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) name: Arc<str>,
    pub(super) site: &'static Location<'static>,
    pub(super) under: Option<Node>,
    pub(super) deadline: Option<(Deadline, &'static Location<'static>)>,
    pub(super) grace: Duration,
    pub(super) limit: Option<NonZeroUsize>,
    pub(super) policy: Policy,
    pub(super) resume_panics: bool,
    pub(super) on_orphan: Option<OrphanHook>,
}

/// A running scope.
pub(super) struct Core {
    pub(super) node: Node,
    /// Of tasks that are given none.
    task_name: Arc<str>,
    pub(super) around: Arc<Surroundings>,
    /// The same again, except where the tasks can be cancelled without the body.
    pub(super) tasks: Arc<Surroundings>,
    helpers: OnceLock<Arc<Surroundings>>,
    pub(super) grace: Duration,
    pub(super) permits: Option<Arc<Semaphore>>,
    pub(super) exits: Exits,
    /// What this scope must enforce: its own deadline, unless one around it is earlier.
    pub(super) alarm: Option<Deadline>,
    policy: Policy,
    /// The first panic, where it is to go on in the caller.
    panic: Option<Mutex<Option<Payload>>>,
}

/// Tasks of a scope that have one name.
pub(super) struct Team {
    pub(super) core: Arc<Core>,
    /// None where nobody has given one.
    pub(super) chosen: Option<Arc<str>>,
}

impl Team {
    pub(super) fn name(&self) -> &Arc<str> {
        self.chosen.as_ref().unwrap_or(&self.core.task_name)
    }
}

impl Core {
    pub(super) fn new(settings: Settings) -> Core {
        let outer = Context::current();
        let limit = settings
            .deadline
            .map(|(deadline, site)| Arc::new(Limit::new(deadline, settings.name.clone(), site)));
        let outer_node = outer.as_ref().and_then(Context::node);
        let node = match settings.under.or(outer_node) {
            Some(under) => under.child_at(settings.name, settings.site),
            None => Tree::at(settings.name, settings.site).root(),
        };
        let (cancel, alarm) = below(outer.as_ref(), limit);
        node.obeys(&cancel);
        let around = Surroundings::of_scope(outer.as_ref(), cancel, &node, settings.on_orphan);
        let around = Arc::new(around).opened();
        let tasks = match settings.policy {
            Policy::FirstSuccess => Arc::new(Surroundings::of_part(&around, Place::Member)),
            Policy::CancelSiblings | Policy::Isolate => around.clone(),
        };
        Core {
            node,
            task_name: Arc::from("task"),
            around,
            tasks,
            helpers: OnceLock::new(),
            grace: settings.grace,
            permits: settings
                .limit
                .map(|limit| Arc::new(Semaphore::new(limit.get().min(Semaphore::MAX_PERMITS)))),
            exits: Exits::new(),
            alarm,
            policy: settings.policy,
            panic: settings.resume_panics.then(|| Mutex::new(None)),
        }
    }

    pub(super) fn cancel(&self) -> &Cancel {
        &self.around.cancel
    }

    /// What those who have this place in the lease run in.
    pub(super) fn part(&self, place: Place) -> &Arc<Surroundings> {
        match place {
            Place::Member => &self.tasks,
            Place::Helper => self
                .helpers
                .get_or_init(|| Arc::new(Surroundings::of_part(&self.around, place))),
        }
    }

    /// The context of the body, and of what is cleaned up.
    pub(super) fn context(&self, node: &Node) -> Context {
        Context::Place(self.around.clone(), Some(node.clone()))
    }

    /// Ready when every task has ended. Once only helpers are left, they are asked to.
    pub(super) fn poll_close(&self, cx: &mut TaskContext<'_>) -> Poll<()> {
        match self.around.lease.poll_close(cx) {
            Left::Nobody => Poll::Ready(()),
            Left::Members => Poll::Pending,
            Left::Helpers => {
                let helpers = self.part(Place::Helper);
                helpers.cancel.cancel(Cause::ParentGone);
                Poll::Pending
            }
        }
    }

    /// Cancels at the deadline. Never ready.
    pub(super) async fn enforce_deadline(&self) -> std::convert::Infallible {
        if let Some(deadline) = self.alarm {
            tokio::time::sleep_until(deadline.into()).await;
            self.cancel().cancel(Cause::Deadline);
        }
        std::future::pending().await
    }

    /// Keeps what went wrong, and lets the policy act on it; in this order, so that who is woken finds it.
    pub(super) fn settle_task<T, E: Send + 'static>(
        &self,
        node: &Entry,
        ended: Ended<Result<T, E>>,
    ) -> Result<T, Cause> {
        let settled = self.settle(node, ended);
        match (self.policy, &settled) {
            (Policy::FirstSuccess, Ok(_)) => self.tasks.cancel.cancel(Cause::SiblingSucceeded),
            (Policy::CancelSiblings, Err(Cause::SiblingFailed)) => {
                self.cancel().cancel(Cause::SiblingFailed);
            }
            _ => {}
        }
        settled
    }

    /// A failing body cancels the tasks whatever the policy.
    pub(super) fn settle_body<T, E: Send + 'static>(
        &self,
        ended: Ended<Result<T, E>>,
    ) -> Option<T> {
        let value = self.settle(self.node.entry(), ended).ok();
        if value.is_none() {
            self.cancel().cancel(Cause::SiblingFailed);
        }
        value
    }

    fn settle<T, E: Send + 'static>(
        &self,
        node: &Entry,
        ended: Ended<Result<T, E>>,
    ) -> Result<T, Cause> {
        let (cause, kind) = match ended {
            Ended::Returned(Ok(value)) => return Ok(value),
            Ended::Returned(Err(error)) => {
                let error = OrphanError::new(error);
                (Cause::SiblingFailed, FailureKind::Error(error))
            }
            Ended::Panicked(payload) => (Cause::SiblingFailed, self.panicked(payload)),
            Ended::Cut(cause) => match self.cut(cause) {
                Some(kind) => (cause, kind),
                None => return Err(cause),
            },
        };
        self.record(node, kind);
        Err(cause)
    }

    fn panicked(&self, payload: Payload) -> FailureKind<OrphanError> {
        let message = message(&*payload);
        if let Some(panic) = &self.panic {
            lock(panic).get_or_insert(payload);
        }
        FailureKind::Panic { message }
    }

    /// What it means to have been cut off. To be cancelled by one's own group, or alone, is no failure.
    fn cut(&self, cause: Cause) -> Option<FailureKind<OrphanError>> {
        let group = self.cancel();
        if group.cause() != Some(cause) {
            return None;
        }
        match group.limit() {
            Some(limit) if cause == Cause::Deadline => {
                Some(FailureKind::TimedOut(Box::new(limit.elapsed(None))))
            }
            _ => group
                .is_inherited()
                .then_some(FailureKind::Cancelled(cause)),
        }
    }

    pub(super) fn record(&self, node: &Entry, kind: FailureKind<OrphanError>) {
        let task = TaskInfo::of(node);
        self.around.record(Failure { task, kind });
    }

    /// The result, once everything has ended.
    pub(super) fn conclude<T, E: 'static>(&self, value: Option<T>) -> Result<T, GroupError<E>> {
        let mut ledger = self.around.close_ledger();
        if self.has_succeeded() {
            ledger.retain(|failure| self.counts_beside_a_success(failure));
        }
        match (ledger.into_error(), value) {
            (None, Some(value)) => Ok(value),
            (Some(error), _) => Err(error),
            // The body was cut off by its own group, which is no failure of a task, but there is no value either.
            (None, None) => Err(GroupError {
                first: Failure {
                    task: TaskInfo::of(self.node.entry()),
                    kind: FailureKind::Cancelled(self.cancel().cause().unwrap_or(Cause::Requested)),
                },
                rest: Vec::new(),
                omitted: 0,
            }),
        }
    }

    /// Whether one success was enough, and came. A scope inside a task that was not needed is cancelled for the same cause.
    fn has_succeeded(&self) -> bool {
        let tasks = &self.tasks.cancel;
        self.policy == Policy::FirstSuccess
            && tasks.cause() == Some(Cause::SiblingSucceeded)
            && !tasks.is_inherited()
    }

    fn counts_beside_a_success(&self, failure: &Kept) -> bool {
        !matches!(failure.kind, FailureKind::Error(_)) || failure.task.id == self.node.id()
    }

    /// The panic that is to go on in the caller.
    pub(super) fn take_panic(&self) -> Option<Payload> {
        lock(self.panic.as_ref()?).take()
    }
}

/// A request to stop below that of the context, and the deadline to be enforced there.
pub(super) fn below(
    outer: Option<&Context>,
    limit: Option<Arc<Limit>>,
) -> (Cancel, Option<Deadline>) {
    let cancel = match outer {
        Some(outer) => outer.cancel().child_until(limit.clone()),
        None => Cancel::with_limit(limit.clone()),
    };
    let own = limit.filter(|limit| {
        cancel
            .limit()
            .is_some_and(|effective| Arc::ptr_eq(effective, limit))
    });
    (cancel, own.map(|limit| limit.deadline))
}
