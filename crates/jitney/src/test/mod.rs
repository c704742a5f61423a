//! A kit for testing concurrent code: time that stands still, gates in the place of sleeping, and checks that print the tree.
//!
//! [`run`] runs a test on a paused clock and fails it, with the tree of what is running, when nothing can go on, when a task
//! outlives it, or when an error has lost its reader. Inside, [`settle`] lets everything happen that can happen without time
//! passing; a [`Sequencer`] says in which order points are reached; a [`Peak`] counts how many are somewhere at once.
//!
//! ```
//! use std::num::NonZeroUsize;
//! use jitney::test::{self, Peak};
//! use jitney::{Group, Scope};
//!
//! test::run(async |_| {
//!     let peak = Peak::new();
//!     let limit = NonZeroUsize::MIN.saturating_add(2);
//!     let outcome = Scope::named("fetch").limit(limit).run(async |group: Group<String>| {
//!         for _ in 0..10 {
//!             let peak = peak.clone();
//!             drop(group.spawn(async move {
//!                 let _inside = peak.enter();
//!                 tokio::time::sleep(std::time::Duration::from_secs(1)).await; // takes no time at all
//!                 Ok(())
//!             }));
//!         }
//!         Ok(())
//!     });
//!     outcome.await.unwrap();
//!     peak.assert(3..=3);
//! });
//! ```
//!
//! For tests only: what goes wrong here is told by a panic.

mod arrivals;
mod cancel_safe;
mod deny_blocking;
mod fake_model;
mod peak;
mod run;
mod sequencer;
mod settle;

pub use arrivals::{Schedule, closed_loop};
pub use cancel_safe::assert_cancel_safe;
pub use deny_blocking::{DenyBlocking, deny_blocking};
pub use fake_model::{FakeError, FakeModel, Step};
pub use peak::{Inside, Peak};
pub use run::{run, run_with_threads};
pub use sequencer::{Sequencer, Turn};
pub use settle::settle;

/// How this kit says that a test has failed.
#[track_caller]
#[expect(clippy::panic, reason = "a test fails by panicking")]
fn fail(text: &str) -> ! {
    panic!("{text}")
}
