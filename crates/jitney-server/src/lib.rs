//! The jitney inference server as a library.
//!
//! Modules in the order a request travels: `net` accepts it, `access` says whether it may come in, [`protocol`] decodes it into a [`call::Call`], `admit` lets it in,
//! [`models`] finds its lane and answers. [`observe`] is imported by all and imports [`failure`] alone.

pub mod access;
pub mod admin;
mod admit;
pub mod call;
pub mod config;
mod extension;
pub mod failure;
pub mod grpc;
pub mod models;
mod net;
pub mod observe;
pub mod protocol;
pub mod server;
