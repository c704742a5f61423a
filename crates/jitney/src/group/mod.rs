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
//! | the body fails | cancelled: `SiblingFailed` | every failure |
//! | the deadline passes | cancelled: `Deadline` | `TimedOut` for each one cut off |
//! | something around the scope is cancelled | cancelled, same cause | `Cancelled` for each one cut off |
//! | the group's own [`cancel`](Group::cancel) | cancelled, that cause | the body's value, if it gave one |
//!
//! To be cancelled is to be asked first and dropped later: a task sees its [`Cancel`](crate::Cancel) at once, and its
//! future is dropped after the [`grace`](Scope::grace), which is zero by default. Code that blocks its thread can only be
//! asked, and the scope waits for it.
//!
//! Tasks run on tokio, and a scope must be run on a tokio runtime; with deadlines or grace, on one whose timer is enabled.

mod context;
mod core;
mod error;
mod exits;
mod handle;
mod lease;
mod scope;
mod spawn;
mod task;
mod timeout;

pub use error::{
    FAILURES_MAX, Failure, FailureKind, GroupError, OrphanError, PANIC_MESSAGE_MAX, TaskInfo,
};
pub use handle::{Cancelled, Handle};
pub use scope::{Policy, Scope, scope};
pub use spawn::{Group, NotReady, Ready};
pub use timeout::{move_on_after, shield, timeout};
