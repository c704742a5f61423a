//! The server from outside: real sockets, `echo` models.

mod drain;
mod http2;
mod load;
mod planes;
mod predict;
mod refusals;
mod support;
mod wire;
