//! Black-box tests of the crate `jitney`.

mod batch;
