//! The workspace's own commands: `cargo xtask test` and `cargo xtask tidy`.
//!
//! Standard library only, so that it builds in a second on a fresh machine and can then fetch whatever else is needed.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "it is a command line"
)]

mod pythons;
mod server;
mod setup;
mod shell;
mod steps;
mod tidy;
mod workspace;

use std::process::ExitCode;

use workspace::Workspace;

const USAGE: &str = "\
usage: cargo xtask test [--step NAME]...   set up what the tests need, and run everything (or only the named steps)
       cargo xtask test --list             the steps in their order
       cargo xtask tidy [--write]          check the rules no compiler knows; --write renews the generated tables in docs/";

/// What went wrong, in a sentence for the person at the terminal.
pub(crate) type Outcome<T = ()> = Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match args.as_slice() {
        ["test", "--list"] => steps::list(),
        ["test", rest @ ..] => match named_steps(rest) {
            Some(names) => Workspace::open().and_then(|workspace| steps::run(&workspace, &names)),
            None => return usage(),
        },
        ["tidy"] => Workspace::open().and_then(|workspace| tidy::check(&workspace)),
        ["tidy", "--write"] => Workspace::open().and_then(|workspace| tidy::write(&workspace)),
        _ => return usage(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn named_steps<'a>(args: &[&'a str]) -> Option<Vec<&'a str>> {
    args.chunks(2)
        .map(|pair| match *pair {
            ["--step", name] => Some(name),
            _ => None,
        })
        .collect()
}

fn usage() -> ExitCode {
    eprintln!("{USAGE}");
    ExitCode::from(2)
}
