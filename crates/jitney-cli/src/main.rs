//! The `jitney` command.
//!
//! What was typed ([`args`]) becomes what it means ([`settings`]), then one of [`cmd`] does it, and [`exit`] says how it went.

mod args;
mod cmd;
mod exit;
mod logs;
mod settings;
mod signals;

use std::process::ExitCode;

use clap::FromArgMatches;

/// The system's allocator keeps memory per thread and gives little of it back after a burst.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let matches = args::command().get_matches();
    let cli = args::Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.exit());
    let level = cli.command.log_level();
    match logs::start(&cli.logs, level).and_then(|levels| cmd::run(cli.command, levels)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => problem.report(),
    }
}
