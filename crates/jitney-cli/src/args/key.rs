//! `jitney key`.

use clap::{Args, Subcommand, ValueEnum};

const EXAMPLES: &str = "\
Examples:
  jitney key new --name app >> keys.toml
  jitney key new --name team --model digits --model spam >> keys.toml
  jitney key new --name operator --scope admin >> keys.toml
  jitney serve models/ --http 0.0.0.0:8080 --keys-file keys.toml";

/// Makes keys that open a server
#[derive(Args, Debug)]
pub(crate) struct KeyArgs {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

/// What to do about keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    New(NewArgs),
}

/// Makes a key
///
/// Prints the lines for the server's file of keys on standard output, and the key itself, which is kept nowhere, on standard error. A client
/// sends it as `Authorization: Bearer KEY`.
#[derive(Args, Debug)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct NewArgs {
    /// Whose key it is; the log says it
    #[arg(long, value_name = "NAME")]
    pub(crate) name: String,

    /// What it is good for; may be said several times
    #[arg(long, value_name = "SCOPE", value_enum, default_values_t = [ScopeArg::Infer])]
    pub(crate) scope: Vec<ScopeArg>,

    /// A model that it is good for; may be said several times [default: all]
    #[arg(long, value_name = "NAME")]
    pub(crate) model: Vec<String>,
}

/// What a key is good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum ScopeArg {
    /// To run models, and to look at them and at the server
    Infer,
    /// To change the server too
    Admin,
}
