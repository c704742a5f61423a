//! Opening a scope, running its body, and waiting for everything it started.

use std::fmt;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::context::CONTEXT;
use super::core::{Core, Settings};
use super::error::{Failure, GroupError, OrphanError};
use super::exits::Unwinding;
use super::lease::Place;
use super::spawn::Group;
use super::task::{Care, Permit, Work};
use crate::cancel::Cause;
use crate::deadline::Deadline;
use crate::tree::{Node, bounded};

/// Runs a body with a group of tasks, waits for every task, and returns the body's value, or everything that failed.
///
/// It is [`Scope::run`] with nothing set: no name of its own, no limits, and [`Policy::CancelSiblings`].
///
/// # Errors
/// As [`Scope::run`].
///
/// # Cancel safety
/// As [`Scope::run`].
///
/// # Panics
/// As [`Scope::run`].
///
/// ```
/// use jitney::{Group, GroupError, scope};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), GroupError<std::num::ParseIntError>> {
/// let sum = scope(async |group| {
///     let (one, two) = (group.spawn(async { "1".parse::<i32>() }), group.spawn(async { "2".parse::<i32>() }));
///     Ok(one.await.unwrap_or(0) + two.await.unwrap_or(0))
/// })
/// .await?;
/// assert_eq!(sum, 3);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn scope<T, E, F, Fut>(body: F) -> impl Future<Output = Result<T, GroupError<E>>>
where
    F: FnOnce(Group<E>) -> Fut,
    Fut: Future<Output = Result<T, E>>,
    E: Send + 'static,
{
    Scope::named("scope").run(body)
}

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
/// assert!(matches!(failure.kind, FailureKind::TimedOut(_)));
/// assert_eq!(&*failure.task.name, "never");
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a scope does nothing until it is run"]
pub struct Scope(Settings);

/// What the end of one task does to the others.
///
/// A failing body cancels the tasks whatever the policy, because nobody is left to want them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// If one fails, the others are cancelled with [`Cause::SiblingFailed`].
    #[default]
    CancelSiblings,
    /// If one fails, the others go on, and the failure is reported when all are done.
    Isolate,
    /// If one succeeds, the others are cancelled with [`Cause::SiblingSucceeded`], and errors of tasks are forgotten; panics
    /// are not. The body goes on. If none succeeds, every failure is reported.
    ///
    /// ```
    /// use jitney::{Group, Policy, Scope};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jitney::GroupError<&'static str>> {
    /// let answer = Scope::named("mirrors")
    ///     .policy(Policy::FirstSuccess)
    ///     .run(async |group: Group<&'static str>| {
    ///         let broken = group.spawn(async { Err("broken") });
    ///         let slow = group.spawn(std::future::pending());
    ///         let good = group.spawn(async { Ok(7) });
    ///         Ok([broken.await, slow.await, good.await].into_iter().find_map(Result::ok))
    ///     })
    ///     .await?;
    /// assert_eq!(answer, Some(7));
    /// # Ok(())
    /// # }
    /// ```
    FirstSuccess,
}

impl Scope {
    /// A scope with no deadline, no grace, no limit, and [`Policy::CancelSiblings`].
    #[track_caller]
    pub fn named(name: impl AsRef<str>) -> Scope {
        Scope(Settings {
            name: bounded(name.as_ref()),
            site: Location::caller(),
            under: None,
            deadline: None,
            grace: Duration::ZERO,
            limit: None,
            policy: Policy::default(),
            resume_panics: false,
            on_orphan: None,
        })
    }

    /// Puts it under this node of a tree. By default it is under the task that runs it, or in a tree of its own.
    pub fn under(mut self, node: &Node) -> Scope {
        self.0.under = Some(node.clone());
        self
    }

    /// Cancels it with [`Cause::Deadline`] at a moment, or this long after the present call. The deadlines of the scopes
    /// around hold too: the earliest counts.
    #[track_caller]
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Scope {
        self.0.deadline = Some((deadline.into(), Location::caller()));
        self
    }

    /// How long a cancelled task may go on before it is dropped. Tasks that never began are dropped at once.
    pub fn grace(mut self, grace: Duration) -> Scope {
        self.0.grace = grace;
        self
    }

    /// Most tasks of the group that run at once. The body and the helpers are not counted.
    pub fn limit(mut self, tasks: NonZeroUsize) -> Scope {
        self.0.limit = Some(tasks);
        self
    }

    /// What the end of one task does to the others.
    pub fn policy(mut self, policy: Policy) -> Scope {
        self.0.policy = policy;
        self
    }

    /// A panic of the body or of a task goes on in the caller of [`run`](Scope::run), after everything has ended, as it
    /// does with [`std::thread::scope`]. If there are several, it is the first. By default they are failures like others.
    pub fn resume_panics(mut self) -> Scope {
        self.0.resume_panics = true;
        self
    }

    /// Where failures go that have no scope left to report them: of this scope's tasks after its future was dropped, and of
    /// tasks of scopes inside it that were dropped. Without it they are failures of the nearest scope around that is alive,
    /// which they do not cancel.
    ///
    /// The hook runs on the thread of the task that failed, and must not block. If it panics the task is lost.
    pub fn on_orphan(
        mut self,
        hook: impl Fn(Failure<OrphanError>) + Send + Sync + 'static,
    ) -> Scope {
        self.0.on_orphan = Some(Arc::new(hook));
        self
    }

    /// Runs the body, waits for every task it started, runs the exit stack, and returns the body's value, or everything
    /// that failed.
    ///
    /// `Ok` means that the body returned `Ok`, no task failed, none was cut off by a deadline or from outside, and all was
    /// cleaned up. The body is a member of the group like the tasks: a cancelled group drops it after the grace. Tasks may
    /// spawn into the group until the last one is done.
    ///
    /// # Errors
    /// Everything that failed, in the order of time; see the table of the [module](super).
    ///
    /// # Cancel safety
    /// Dropping this future cancels the tasks with [`Cause::ParentGone`], and the nearest scope around that is still alive
    /// waits for them and for the exit stack. Without one they still end, but nobody waits. What failed or fails after that
    /// goes to that scope, or to the hook of [`on_orphan`](Scope::on_orphan).
    ///
    /// # Panics
    /// When it spawns, waits for a deadline or gives grace outside of a tokio runtime that can. Panics of the body and of
    /// tasks are caught, and are failures, unless they are to be [resumed](Scope::resume_panics).
    pub async fn run<T, E, F, Fut>(self, body: F) -> Result<T, GroupError<E>>
    where
        F: FnOnce(Group<E>) -> Fut,
        Fut: Future<Output = Result<T, E>>,
        E: Send + 'static,
    {
        let mut open = Open::new(self.0);
        let core = open.core.clone();
        let value = {
            let mut alarm = pin!(tokio::task::unconstrained(core.enforce_deadline()));
            let group = Group::new(core.clone());
            let mut work = pin!(Work::new(
                CONTEXT.scope(core.context(&core.node), async move { body(group).await }),
                Permit::NotNeeded,
            ));
            let care = Care {
                scope: &core.around,
                node: core.node.entry(),
                grace: core.grace,
                personal: None,
            };
            let ended = std::future::poll_fn(|cx| {
                let Poll::Pending = alarm.as_mut().poll(cx);
                work.as_mut().poll(&care, cx)
            });
            let value = core.settle_body(ended.await);
            std::future::poll_fn(|cx| {
                let Poll::Pending = alarm.as_mut().poll(cx);
                core.poll_close(cx)
            })
            .await;
            value
        };
        std::future::poll_fn(|cx| open.unwinding.poll(&core, cx)).await;
        let outcome = core.conclude(value);
        drop(open);
        match core.take_panic() {
            Some(panic) => std::panic::resume_unwind(panic),
            None => outcome,
        }
    }
}

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings = &self.0;
        f.debug_struct("Scope")
            .field("name", &settings.name)
            .field("deadline", &settings.deadline.map(|(deadline, _)| deadline))
            .field("grace", &settings.grace)
            .field("limit", &settings.limit)
            .field("policy", &settings.policy)
            .finish_non_exhaustive()
    }
}

/// Ends the scope however its future ends.
struct Open {
    core: Arc<Core>,
    unwinding: Unwinding,
}

impl Open {
    fn new(settings: Settings) -> Open {
        Open {
            core: Arc::new(Core::new(settings)),
            unwinding: Unwinding::default(),
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let (core, around) = (&self.core, &self.core.around);
        around.lease.close();
        core.cancel().cancel(Cause::ParentGone);
        core.node.leave();
        around.disown();
        let unwinding = std::mem::take(&mut self.unwinding);
        if around.lease.is_alone() && unwinding.is_done(core) {
            around.lease.leave(Place::Member);
        } else {
            unwinding.go_on_alone(core.clone());
        }
    }
}
