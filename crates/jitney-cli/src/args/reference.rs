//! `jitney reference`, which prints the generated parts of the documentation. Hidden from the help.

use clap::{Args, ValueEnum};

/// Prints a part of the reference documentation
#[derive(Args, Debug)]
pub(crate) struct ReferenceArgs {
    /// Which part
    pub(crate) topic: Topic,
}

/// A generated part of the documentation.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Topic {
    /// The help of every command
    Commands,
    /// Every setting with its flag, variable, key and default
    Settings,
    /// Every code of a failure
    Errors,
    /// Every metric
    Metrics,
}
