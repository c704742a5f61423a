//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod cancel;
pub mod clock;
pub mod group;
mod lock;
mod sync;
#[cfg(feature = "test")]
pub mod test;
pub mod tree;
pub mod watch;

pub use cancel::{Cancel, Cause, Deadline};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, Policy, Scope, TaskInfo,
};
