//! Black-box tests of the crate `jitney`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod background;
mod batch;
mod batch_terms;
mod cancel;
mod compared;
mod defects;
mod exits;
mod gather;
mod group;
mod kit;
mod limiter;
mod offload;
mod orphans;
mod pool;
#[cfg(all(feature = "process", target_os = "linux"))]
mod process;
mod queue;
mod race;
mod random;
mod retry;
mod streams;
mod support;
mod timeout;
mod tree;
mod watch;
