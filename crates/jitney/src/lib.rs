//! Structured concurrency and dynamic batching for services that call models.

mod background;
pub mod batch;
pub mod cancel;
pub mod clock;
mod close;
mod deadline;
pub mod gather;
pub mod group;
mod jobs;
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
pub use cancel::{Cancel, Cause};
pub use close::{AsyncClose, Entered};
pub use deadline::{Deadline, Elapsed};
pub use gather::{Gather, NotEnough, Settled, Winner, gather, gather_stream};
pub use group::{
    Cancelled, Failure, FailureKind, Group, GroupError, Handle, NotReady, OrphanError, Policy,
    Ready, Scope, TaskInfo, move_on_after, scope, shield, timeout,
};
pub use jobs::{DeadLetter, JobSettings, JobStats, Jobs};
pub use limiter::{KeyedLimiter, Limiter};
pub use offload::{Offload, OffloadError};
pub use outcome::Outcome;
pub use pool::Pool;
pub use queue::{Overflow, queue};
pub use race::{first, first_ok, hedge};
pub use retry::{Budget, Retry};
pub use stream::{Chunks, Page, paginate, producer};

/// The examples of the guide, run as tests.
#[cfg(all(doctest, feature = "test"))]
mod guide {
    #[doc = include_str!("../../../docs/guide/choosing.md")]
    struct Choosing;
    #[doc = include_str!("../../../docs/guide/gotchas.md")]
    struct Gotchas;
}
