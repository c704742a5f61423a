//! The server from outside: real sockets, mostly `echo` models.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "the helpers of tests fail tests"
)]

mod access;
mod binary;
mod drain;
mod extensions;
#[cfg(feature = "python")]
mod fields;
mod golden;
mod grpc;
mod http2;
mod load;
mod planes;
mod predict;
mod proto;
mod refusals;
mod reloads;
mod resting;
mod streams;
mod support;
mod tls;
mod wire;
