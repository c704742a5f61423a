//! Structured concurrency and dynamic batching for services that call models.
//!
//! One rule: **when the await returns, nothing it started is running; and if you drop it, your nearest living scope inherits the
//! debt.** It holds for every scope, gather, race, timeout and stream of this crate, on success, on errors, panics, cancelling and
//! deadlines. Whoever reads a function sees in it everything that can still be running when it is over: nothing.
//!
//! # A tour
//! ```
//! use std::time::Duration;
//! use jitney::{Group, GroupError, Retry, Scope, gather};
//!
//! async fn fetch(url: &str) -> Result<String, String> {
//!     Ok(format!("the page {url}"))
//! }
//!
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), GroupError<String>> {
//! let pages = Scope::named("crawl")
//!     .deadline(Duration::from_secs(30)) // inherited by everything inside
//!     .run(async |group: Group<String>| {
//!         // A task: if it fails the others are cancelled, and the scope returns every failure.
//!         let index = group.named("index").spawn(fetch("index"));
//!
//!         // Many futures, at most ten at once, each tried three times; every outcome, in the order of the input.
//!         let retry = Retry::new(3);
//!         let urls = ["a", "b", "c"];
//!         let settled = gather(urls.map(|url| retry.run(move || fetch(url)))).limit(10).settle().await;
//!         assert_eq!(settled.errors().count(), 0);
//!
//!         // What must happen at the end happens, when every task has ended.
//!         group.defer(Duration::from_secs(1), async { /* say goodbye */ });
//!
//!         // If the task failed there is no value; what went wrong is not lost, but the result of the scope.
//!         let index = index.await.ok();
//!         Ok(index.into_iter().count() + settled.oks().count())
//!     })
//!     .await?; // Nothing of it is running any more.
//! assert_eq!(pages, 4);
//! # Ok(())
//! # }
//! ```
//!
//! # What is where
//! | for | there is | in |
//! |---|---|---|
//! | tasks with an owner who waits for them | [`scope`], [`Scope`], [`Group`], [`Handle`] | [`group`] |
//! | many futures at once, and what became of each | [`gather()`](gather()), [`Settled`], [`Outcome`] | [`gather`](mod@gather) |
//! | several attempts of which one counts | [`first`], [`first_ok`], [`hedge`] | |
//! | trying again, within reason | [`Retry`], [`Budget`] | [`retry`] |
//! | time | [`timeout`], [`move_on_after`], [`shield`], [`Deadline`], [`Elapsed`] | |
//! | stopping, and why | [`Cancel`], [`Cause`] | [`cancel`] |
//! | what is closed by waiting | [`Group::enter`], [`Group::defer`], [`AsyncClose`] | |
//! | resources that are dear to open | [`Pool`] | [`pool`] |
//! | at most so many | [`Limiter`], [`KeyedLimiter`] | [`limiter`] |
//! | handing over, with a bound | [`queue()`](queue()), [`Overflow`] | [`queue`](mod@queue) |
//! | streams that work ahead, pages, chunks of bytes | [`producer`], [`paginate`], [`Chunks`] | [`stream`] |
//! | code that blocks or computes | [`Offload`] | [`offload`] |
//! | code that may crash or hang | supervised worker processes (feature `process`, Linux) | `process` |
//! | one model, many callers | [`Batcher`], [`Batching`] | [`batch`] |
//! | work that nobody waits for | [`Background`] | |
//! | jobs with a queue and a place for the dead | [`Jobs`] | [`jobs`] |
//! | what is running now | [`Tree`](tree::Tree), [`Snapshot`](tree::Snapshot) | [`tree`] |
//! | who blocks the thread of others | [`Watchdog`](watch::Watchdog) | [`watch`] |
//! | a paused clock, gates and checks for tests (feature `test`) | `test::run`, `Sequencer`, `Peak`, `FakeModel` | `test` |
//!
//! At the root is what programs name all the time. Settings, statistics, and the errors of one thing are in its module, and are
//! called alike in each: `Settings`, `Stats`.
//!
//! # What to expect everywhere
//! - **Errors are values, and all of them are kept.** A [`GroupError`] has every error and panic, with the name of the task, where it
//!   was started and how long it ran. An [`Outcome`] says of a single piece of work how it ended. What was not taken comes back to
//!   whoever offered it.
//! - **Everything has a bound**, and full is an answer: an error now, or a wait where the name says so (`spawn_when_free`, `acquire`).
//!   What begins with `try_` never waits.
//! - **Everything has an owner.** Where something goes on by itself, a [`Group`] is an argument of its constructor, or a scope is
//!   around it. There is nothing global: two servers and their trees fit in one process.
//! - **Deadlines are moments or lengths.** What takes `impl Into<Deadline>` takes a [`Duration`](std::time::Duration) from now, an
//!   instant, or a [`Deadline`] with a name. They are inherited, and the earliest counts.
//! - **Every function says what dropping its future does**, under *Cancel safety*.
//!
//! # What it costs
//! A task of a group has a node in the live tree, a name, a request to stop of its own, and a place with its scope, which a task of a
//! [`JoinSet`](tokio::task::JoinSet) has not; a poll of it is counted and sometimes timed. A plain gather spawns nothing. The numbers depend on
//! the machine, so measure on yours, each beside tokio or futures in the same run:
//!
//! | what | with |
//! |---|---|
//! | a task, beside `JoinSet` | `cargo bench -p jitney --bench group`, `cargo run --release -p jitney --example spawn_speed` |
//! | a poll of a task in the tree, a snapshot of it | `cargo bench -p jitney --bench tree` |
//! | a gather, beside `buffered` | `cargo bench -p jitney --bench gather` |
//! | the way of an item through a batcher | `cargo run --release -p jitney --example batcher_speed` |
//!
//! # What it cannot do
//! - **A task cannot borrow** from the scope that starts it. Running elsewhere, borrowing, and not blocking cannot all be had in safe
//!   Rust. A plain gather borrows, because it runs nowhere else; [`Offload::scoped`] borrows, because it blocks a thread.
//! - **Code that blocks cannot be stopped**, only asked: its scope waits for it. What must be stopped in any case belongs in a process.
//! - **A future that is dropped cannot wait.** Who drops a scope by hand (`select!`, a foreign timeout) goes on at once, and the
//!   nearest scope around it waits instead; if there is none, nobody does, although the tasks still end. Our own [`timeout`] waits.
//! - It runs on tokio. Jobs and queues live in the memory of the process, and nothing of them survives it.
//!
//! # Features
//! None is on by default. `process` has supervised worker processes, `test` the kit for tests. No feature needs an unstable flag.
#![forbid(unsafe_code)]

mod background;
pub mod batch;
pub mod cancel;
pub mod clock;
mod close;
mod deadline;
pub mod gather;
pub mod group;
pub mod jobs;
pub mod limiter;
mod lock;
pub mod offload;
mod outcome;
pub mod pool;
#[cfg(all(feature = "process", target_os = "linux"))]
pub mod process;
pub mod queue;
mod race;
pub mod retry;
pub mod stream;
mod sync;
#[cfg(feature = "test")]
pub mod test;
pub mod tree;
pub mod watch;

pub use background::{Background, Drained, Refusal, Refused};
pub use batch::{Batcher, Batching};
pub use cancel::{Cancel, Cause};
pub use close::{AsyncClose, Entered};
pub use deadline::{Deadline, Elapsed};
pub use gather::{Gather, NotEnough, Settled, Winner, gather, gather_stream};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, NotReady, OrphanError, Policy,
    Ready, Scope, TaskInfo, move_on_after, scope, shield, timeout,
};
pub use jobs::{DeadLetter, Jobs};
pub use limiter::{KeyedLimiter, Limiter};
pub use offload::{Offload, OffloadError};
pub use outcome::Outcome;
pub use pool::Pool;
pub use queue::{Overflow, queue};
pub use race::{first, first_ok, hedge};
pub use retry::{Budget, Retry};
pub use stream::{Chunks, Page, paginate, producer};

/// The examples of the guide and of the first pages, run as tests.
#[cfg(all(doctest, feature = "test"))]
mod guide {
    #[doc = include_str!("../../../README.md")]
    struct FirstPage;
    #[doc = include_str!("../README.md")]
    struct Readme;
    #[doc = include_str!("../../../docs/guide/choosing.md")]
    struct Choosing;
    #[doc = include_str!("../../../docs/guide/compared.md")]
    struct Compared;
    #[doc = include_str!("../../../docs/guide/from-asyncio.md")]
    struct FromAsyncio;
    #[doc = include_str!("../../../docs/guide/gotchas.md")]
    struct Gotchas;
}
