//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod cancel;
pub mod clock;
pub mod group;
mod lock;
#[cfg(all(feature = "process", target_os = "linux"))]
pub mod process;
mod sync;
pub mod tree;

pub use cancel::{Cancel, Cause, Deadline};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, Policy, Scope, TaskInfo,
};
