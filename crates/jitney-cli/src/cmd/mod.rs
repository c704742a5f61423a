//! What each subcommand does.

mod reference;

use std::io::{self, Write};

use crate::args::Command;
use crate::exit::Problem;

/// Does what was asked.
pub(crate) fn run(command: Command) -> Result<(), Problem> {
    match command {
        Command::Reference(args) => reference::run(&args),
        _ => Err(Problem::failure("not wired yet")),
    }
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
