//! The pool and the pages on real databases.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a test fails by panicking, and says loudly what it cannot do"
)]

mod cluster;
mod records;
