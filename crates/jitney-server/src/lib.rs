//! The jitney inference server as a library.
//!
//! Modules in the order a request travels: `net` accepts it, `access` says whether it may come in, `admit` lets it in, [`protocol`] decodes
//! its body, `context` makes a [`call::Call`] of that and of its head, [`models`] finds its lane and answers. [`observe`] is imported by all and imports [`failure`] alone.

pub mod access;
pub mod admin;
mod admit;
pub mod call;
pub mod config;
mod context;
mod deflate;
mod extension;
pub mod failure;
pub mod grpc;
mod memory;
pub mod models;
mod net;
pub mod observe;
pub mod protocol;
pub mod server;
