//! What each subcommand does.

mod check;
mod key;
mod models;
mod predict;
mod reference;
mod serve;

use std::io::{self, Write};
use std::sync::Arc;

use jitney_server::observe::logging::Levels;
use tokio::runtime::Builder;

use crate::args::Command;
use crate::exit::Problem;

/// Does what was asked. A server's administrators may set the levels of the log.
pub(crate) fn run(command: Command, levels: Arc<dyn Levels>) -> Result<(), Problem> {
    match command {
        Command::Serve(args) => serve::run(*args, levels),
        Command::Predict(args) => predict::run(args),
        Command::Check(args) => check::run(&args),
        Command::Key(args) => key::run(args),
        Command::Reference(args) => reference::run(&args),
    }
}

/// Runs the work of a subcommand. Its own thread is enough: servers and models bring theirs.
fn block_on<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Problem> {
    let runtime = Builder::new_current_thread().enable_all().build();
    runtime.map_err(Problem::failure)?.block_on(work)
}

/// Writes to standard output. A reader that has gone away, as with `| head`, is no failure.
fn print(text: &str) -> Result<(), Problem> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Problem::failure(format!(
            "could not write to standard output: {error}"
        ))),
        _ => Ok(()),
    }
}
