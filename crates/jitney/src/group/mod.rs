//! Structured concurrency: every task has an owner who waits for it.
//!
//! One rule: **when [`Scope::run`] returns, nothing it started is running.** It holds for success, errors, panics of the
//! body or of a task, cancellation and deadlines. If the future of `run` is dropped halfway, nobody is left who could
//! wait there: its tasks are cancelled, and the nearest scope around it that is still alive waits for them.
//!
//! ```
//! use jitney::{GroupError, Scope};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), GroupError<std::num::ParseIntError>> {
//! let sum = Scope::named("sum")
//!     .run(|group| async move {
//!         let one = group.named("one").spawn(async { "1".parse::<i32>() });
//!         let two = group.named("two").spawn(async { "2".parse::<i32>() });
//!         // A task that failed has cancelled the group; the scope returns its error whatever is answered here.
//!         Ok(one.await.unwrap_or(0) + two.await.unwrap_or(0))
//!     })
//!     .await?;
//! assert_eq!(sum, 3);
//! # Ok(())
//! # }
//! ```
//!
//! What ends a group early, and what [`Scope::run`] then returns:
//!
//! | event | the other tasks | result |
//! |---|---|---|
//! | a task fails, [`Policy::CancelSiblings`] | cancelled: `SiblingFailed` | every failure |
//! | a task fails, [`Policy::Isolate`] | go on | every failure, when all are done |
//! | a task succeeds, [`Policy::FirstSuccess`] | cancelled: `SiblingSucceeded`; the body goes on | the body's value |
//! | the body fails | cancelled: `SiblingFailed` | every failure |
//! | the deadline passes | cancelled: `Deadline` | `TimedOut` for each one cut off |
//! | something around the scope is cancelled | cancelled, same cause | `Cancelled` for each one cut off |
//! | the group's own [`cancel`](Group::cancel) | cancelled, that cause | the body's value, if it gave one |
//! | a task's own [`cancel`](Handle::cancel) | go on | as if that task had not been |
//! | what is on the exit stack fails or is late | have ended already | `Cleanup`, beside every other failure |
//! | a task of a scope inside that was dropped fails | go on | that failure, when all are done |
//!
//! To be cancelled is to be asked first and dropped later: a task sees its [`Cancel`](crate::Cancel) at once, and its
//! future is dropped after the [`grace`](Scope::grace), which is zero by default. Code that blocks its thread can only be
//! asked, and the scope waits for it.
//!
//! What must happen at the end goes on the exit stack, with [`Group::defer`] and [`Group::enter`]: it runs last in, first out,
//! when every task has ended, however the scope ends, and nothing cancels it.
//!
//! Tasks run on their own, perhaps on other threads, so they cannot borrow from the body:
//!
//! ```compile_fail,E0373
//! # async fn borrows() {
//! let list = vec![1, 2, 3];
//! let length = jitney::scope(async |group: jitney::Group<String>| {
//!     group.spawn(async { Ok(list.len()) }).await.map_err(|error| error.to_string())
//! });
//! # length.await.unwrap();
//! # }
//! ```
//!
//! Tasks run on tokio, and a scope must be run on a tokio runtime; with deadlines or grace, on one whose timer is enabled.

mod context;
mod core;
mod errand;
mod error;
mod exits;
mod handle;
#[cfg(all(test, feature = "model-check"))]
mod interleavings;
mod lease;
mod scope;
mod spawn;
mod task;
mod timeout;

pub(crate) use errand::{Errand, caught};
pub use error::{
    FAILURES_MAX, Failure, FailureKind, GroupError, OrphanError, PANIC_MESSAGE_MAX, TaskInfo,
};
pub use handle::{Cancelled, Handle};
pub use scope::{Policy, Scope, scope};
pub use spawn::{Group, NotReady, Ready};
pub(crate) use task::message as panic_message;
pub use timeout::{move_on_after, shield, timeout};
