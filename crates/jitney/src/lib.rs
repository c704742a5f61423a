//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod cancel;
pub mod clock;
pub mod group;
pub mod limiter;
mod lock;
pub mod offload;
pub mod pool;
pub mod queue;
pub mod stream;
mod sync;
pub mod tree;

pub use cancel::{Cancel, Cause, Deadline};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, Policy, Scope, TaskInfo,
};
pub use limiter::{KeyedLimiter, Limiter};
pub use offload::{Offload, OffloadError};
pub use pool::Pool;
pub use queue::{Overflow, queue};
pub use stream::{Chunks, Page, paginate, producer};
