//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod cancel;
pub mod clock;
mod close;
mod deadline;
pub mod group;
mod lock;
mod sync;
#[cfg(feature = "test")]
pub mod test;
pub mod tree;
pub mod watch;

pub use cancel::{Cancel, Cause};
pub use close::{AsyncClose, Entered};
pub use deadline::{Deadline, Elapsed};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, NotReady, OrphanError, Policy,
    Ready, Scope, TaskInfo, move_on_after, scope, shield, timeout,
};

/// The examples of the guide, run as tests.
#[cfg(all(doctest, feature = "test"))]
mod guide {
    #[doc = include_str!("../../../docs/guide/choosing.md")]
    struct Choosing;
    #[doc = include_str!("../../../docs/guide/gotchas.md")]
    struct Gotchas;
}
