//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod cancel;
pub mod clock;
mod close;
mod deadline;
pub mod group;
pub mod limiter;
mod lock;
pub mod offload;
pub mod pool;
#[cfg(all(feature = "process", target_os = "linux"))]
pub mod process;
pub mod queue;
pub mod stream;
mod sync;
pub mod tree;

pub use cancel::{Cancel, Cause};
pub use close::{AsyncClose, Entered};
pub use deadline::{Deadline, Elapsed};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, NotReady, OrphanError, Policy,
    Ready, Scope, TaskInfo, move_on_after, scope, shield, timeout,
};
pub use limiter::{KeyedLimiter, Limiter};
pub use offload::{Offload, OffloadError};
pub use pool::Pool;
pub use queue::{Overflow, queue};
pub use stream::{Chunks, Page, paginate, producer};
