//! The integration tests of the crate, in one binary.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "clippy does not see that helpers outside of test functions are tests too"
)]

mod cancel;
mod group;
mod orphans;
mod random;
mod support;
mod tree;
