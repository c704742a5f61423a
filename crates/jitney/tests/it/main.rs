//! Black-box tests of the crate `jitney`.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod background;
mod batch;
mod cancel;
mod gather;
mod group;
mod orphans;
mod race;
mod random;
mod retry;
mod support;
mod tree;
