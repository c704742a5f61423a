//! What can be typed: one file a subcommand. What it means is worked out elsewhere, so every setting is optional here.

pub(crate) mod check;
pub(crate) mod key;
pub(crate) mod load;
pub(crate) mod logs;
pub(crate) mod predict;
pub(crate) mod reference;
pub(crate) mod serve;

use clap::{CommandFactory, Parser, Subcommand};

/// The whole command line.
#[derive(Debug, Parser)]
#[command(
    name = "jitney",
    version,
    about = "Serves machine-learning models: many requests come in, batches go to the model, each caller gets its own answer",
    long_about = None,
    after_help = SOURCES,
    arg_required_else_help = true,
    disable_help_subcommand = true,
    max_term_width = 110,
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) logs: logs::LogArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Serve(Box<serve::ServeArgs>),
    Predict(predict::PredictArgs),
    Check(check::CheckArgs),
    Key(key::KeyArgs),
    #[command(hide = true)]
    Reference(reference::ReferenceArgs),
}

impl Command {
    /// What is logged when nobody said. A server's log is its voice; the other commands speak for themselves.
    pub(crate) fn log_level(&self) -> &'static str {
        match self {
            Command::Serve(_) => "info",
            Command::Predict(_) | Command::Check(_) | Command::Key(_) | Command::Reference(_) => {
                "off"
            }
        }
    }
}

/// The parser of the command line. Help names the environment variables, and not their values, which may differ between two readers.
pub(crate) fn command() -> clap::Command {
    fn hide_values(command: clap::Command) -> clap::Command {
        command
            .mut_args(|arg| arg.hide_env_values(true))
            .mut_subcommands(hide_values)
    }
    hide_values(Cli::command())
}

/// What a SOURCE can be, for the help of every command that takes one.
pub(crate) const SOURCES: &str = "\
A SOURCE is one of:
  model.onnx       an ONNX model
  model.py:Class   a Python model: a class with a method predict_batch or
                   predict; :Class can be left out where there is but one
  FOLDER           a folder with a model.toml, a model.onnx or a model.py
  REPOSITORY       a folder of such folders, or of NAME/VERSION/model.onnx
  echo:FP32[16]    answers what it is asked, to try things out; with
                   echo:FP32[16],call_ms=5,row_ms=0.1 a batch takes its time
Write NAME=SOURCE to choose the name under which a model is served.";
