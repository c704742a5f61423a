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
mod defects;
mod exits;
mod group;
mod kit;
mod orphans;
mod random;
mod support;
mod tree;
mod watch;
