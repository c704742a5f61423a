//! Black-box tests of the crate `jitney`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod batch;
mod cancel;
mod group;
mod limiter;
mod offload;
mod orphans;
mod pool;
mod queue;
mod random;
mod streams;
mod support;
mod tree;
