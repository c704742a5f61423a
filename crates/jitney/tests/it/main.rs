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
mod orphans;
#[cfg(all(feature = "process", target_os = "linux"))]
mod process;
mod random;
mod support;
mod timeout;
mod tree;
