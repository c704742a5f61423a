//! The integration tests of the crate, in one binary.

mod cancel;
mod group;
mod orphans;
mod random;
mod support;
mod tree;
