//! How the command logs.

use clap::{Args, ValueEnum};

/// Settings of the log, which goes to standard error.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Log")]
pub(crate) struct LogArgs {
    /// How events are written to standard error: one line each
    #[arg(
        long,
        global = true,
        value_name = "FORMAT",
        env = "JITNEY_LOG_FORMAT",
        default_value = "text"
    )]
    pub(crate) log_format: LogFormat,

    /// The least important events to log: off, error, warn, info, debug or trace; or by module, as in `warn,jitney_server=debug`
    /// [default: info for serve, else off]
    #[arg(long, global = true, value_name = "LEVEL", env = "JITNEY_LOG")]
    pub(crate) log: Option<String>,
}

/// How an event is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people
    Text,
    /// For machines: an object a line
    Json,
}
