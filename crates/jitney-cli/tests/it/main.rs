//! The built `jitney` command from the outside: what it prints, how it ends, and what it answers over the wire.

mod check;
mod command;
mod documentation;
mod exit_codes;
mod logs;
mod predict;
mod serve;
mod server;
mod settings;
mod stop;
