//! Black-box tests of the crate `jitney`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod batch;
mod cancel;
mod gather;
mod group;
mod orphans;
mod random;
mod support;
mod tree;
