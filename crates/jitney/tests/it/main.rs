//! Black-box tests of the crate `jitney`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod batch;
mod batch_terms;
mod cancel;
mod compared;
mod defects;
mod exits;
mod group;
mod limiter;
mod offload;
mod orphans;
mod pool;
#[cfg(all(feature = "process", target_os = "linux"))]
mod process;
mod queue;
mod random;
mod streams;
mod support;
mod timeout;
mod tree;
