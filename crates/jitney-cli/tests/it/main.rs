//! The built `jitney` command from the outside: what it prints, how it ends, and what it answers over the wire.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on fails"
)]

mod check;
mod command;
mod documentation;
mod exit_codes;
mod keys;
mod logs;
mod predict;
mod python;
mod repository;
mod serve;
mod server;
mod settings;
mod stop;
