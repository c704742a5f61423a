//! Time limits for futures that run in the task they are awaited in.

use std::panic::Location;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::context::{CONTEXT, Context, Shield, Surroundings};
use super::core::below;
use super::lease::Place;
use crate::cancel::{Cancel, Cause};
use crate::deadline::{Deadline, Elapsed, Limit};
use crate::tree::Node;

/// Waits for a future until a deadline, or for a length of time that begins now.
///
/// Inside, [`Deadline::current`] and [`Cancel::current`] know of it, and so does every scope that is opened there. When
/// it passes, the future is cancelled with [`Cause::Deadline`] and dropped, and then the scopes that it had open are waited for:
/// when this returns, nothing of it is running. A value that is ready in the instant of the deadline is not lost.
///
/// ```
/// use std::time::Duration;
/// use jitney::timeout;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// assert_eq!(timeout(Duration::from_secs(1), async { 7 }).await, Ok(7));
///
/// // Each says of itself that it passed, and of no other.
/// let inner = timeout(Duration::from_secs(1), std::future::pending::<()>());
/// let outcome = timeout(Duration::from_secs(5), inner).await;
/// assert!(matches!(outcome, Ok(Err(inner)) if inner.limit == Duration::from_secs(1)));
/// # }
/// ```
///
/// # Errors
/// [`Elapsed`], which says which deadline it was. It is only ever this one: what the future itself returns, be it an error
/// of another timeout, is in the `Ok`.
///
/// # Cancel safety
/// Dropping it drops the future; the nearest scope around waits for what that had open.
///
/// # Panics
/// Outside of a tokio runtime whose timer is enabled, and if the future does.
#[track_caller]
pub fn timeout<F: Future>(
    deadline: impl Into<Deadline>,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let limit = Limit::new(deadline.into(), "timeout", Location::caller());
    enforce(Bound::Timeout, limit, future)
}

/// Like [`timeout`] for when being late is no error: `None` if the deadline passed first.
///
/// ```
/// use std::time::Duration;
/// use jitney::move_on_after;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// assert_eq!(move_on_after(Duration::from_secs(1), std::future::pending::<()>()).await, None);
/// # }
/// ```
///
/// # Cancel safety
/// As [`timeout`].
///
/// # Panics
/// As [`timeout`].
#[track_caller]
pub fn move_on_after<F: Future>(
    deadline: impl Into<Deadline>,
    future: F,
) -> impl Future<Output = Option<F::Output>> {
    let limited = timeout(deadline, future);
    async move { limited.await.ok() }
}

/// Runs a future to its end although the task around it is cancelled, but for no longer than the limit.
///
/// For what must not be left half done, such as giving something back. Inside, [`Cancel::current`] is not cancelled, and the only
/// deadline is the limit. Cancelling the group, or the passing of a deadline around, drops the task when the shield has ended. The
/// clean-up that is known in advance is better put on the exit stack: [`Group::defer`](crate::Group::defer).
///
/// It cannot help against the dropping of a future by hand, as in `select!`, or of the future of a whole scope in whose body
/// it is.
///
/// ```
/// use std::time::Duration;
/// use jitney::{Cause, Group, Scope, shield};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let (tell, told) = tokio::sync::oneshot::channel();
/// let outcome = Scope::named("work")
///     .run(async |group: Group<String>| {
///         let me = group.clone();
///         drop(group.spawn(async move {
///             me.cancel(Cause::Requested);
///             let given_back = shield(Duration::from_secs(1), tokio::time::sleep(Duration::from_millis(5))).await;
///             Ok(drop(tell.send(given_back.is_ok())))
///         }));
///         Ok(())
///     })
///     .await;
/// assert_eq!(told.await, Ok(true));
/// # drop(outcome);
/// # }
/// ```
///
/// # Errors
/// [`Elapsed`] if it took longer; the future is dropped then.
///
/// # Cancel safety
/// Dropping it drops the future; the nearest scope around waits for what that had open.
///
/// # Panics
/// As [`timeout`].
#[track_caller]
pub fn shield<F: Future>(
    limit: Duration,
    future: F,
) -> impl Future<Output = Result<F::Output, Elapsed>> {
    let limit = Limit::new(Deadline::from(limit), "shield", Location::caller());
    enforce(Bound::Shield, limit, future)
}

/// What a time limit has to do with the cancelling around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bound {
    /// It is cancelled with what is around.
    Timeout,
    /// It goes on.
    Shield,
}

/// Polls a future until it is ready or late, and waits for what it had open.
pub(super) async fn enforce<F: Future>(
    bound: Bound,
    limit: Limit,
    future: F,
) -> Result<F::Output, Elapsed> {
    let limit = Arc::new(limit);
    let outer = Context::current();
    let open = Open::new(bound, outer.as_ref(), &limit);
    let outcome = {
        let _shield = (bound == Bound::Shield).then(|| Shield::raise(outer.clone()));
        let mut work = pin!(CONTEXT.scope(open.context(), future));
        // A future that uses up its budget in every poll must not keep the alarm from being heard.
        let alarm = tokio::time::sleep_until(limit.deadline.into());
        let mut alarm = pin!(tokio::task::unconstrained(alarm));
        std::future::poll_fn(|cx| {
            if let Poll::Ready(value) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(value));
            }
            if alarm.as_mut().poll(cx).is_pending() || open.is_shielded() {
                return Poll::Pending;
            }
            open.around.cancel.cancel(Cause::Deadline);
            Poll::Ready(Err(limit.elapsed(open.stuck())))
        })
        .await
    };
    std::future::poll_fn(|cx| open.around.lease.poll_alone(cx)).await;
    outcome
}

/// Ends a time limit however its future ends.
struct Open {
    around: Arc<Surroundings>,
    /// That of the task or scope in which the future runs.
    node: Option<Node>,
}

impl Open {
    fn new(bound: Bound, outer: Option<&Context>, limit: &Arc<Limit>) -> Open {
        let cancel = match bound {
            Bound::Timeout => below(outer, Some(limit.clone())).0,
            Bound::Shield => Cancel::with_limit(Some(limit.clone())),
        };
        Open {
            around: Arc::new(Surroundings::of_limit(outer, cancel)).opened(),
            node: outer.and_then(Context::node),
        }
    }

    fn context(&self) -> Context {
        Context::Place(self.around.clone(), self.node.clone())
    }

    /// Where the future is, as far as scopes tell: the one it is in, and those it has opened.
    fn stuck(&self) -> Option<Arc<str>> {
        let mut names = self.around.names_inside();
        if let Some(node) = &self.node {
            names.insert(0, node.shared_name());
        }
        (!names.is_empty()).then(|| Arc::from(names.join(" > ")))
    }

    fn is_shielded(&self) -> bool {
        self.around.is_shielded(self.node.as_ref().map(Node::id))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.around.lease.close();
        self.around.cancel.cancel(Cause::ParentGone);
        self.around.lease.leave(Place::Member);
    }
}
