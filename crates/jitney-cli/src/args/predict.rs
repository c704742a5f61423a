//! `jitney predict`.

use std::path::PathBuf;

use clap::Args;

use super::SOURCES;
use super::load::LoadArgs;

const EXAMPLES: &str = "\
Examples:
  jitney predict examples/digits examples/digits/samples/3.json
  echo '{\"input\":[1,2,3]}' | jitney predict 'echo:FP32[3]'";

/// Makes one prediction without a server
///
/// Reads one item as JSON, the same as the body of POST /predict/NAME: an object with the model's inputs by name, without the batch axis,
/// or any value where the model has no types.
/// Prints {"prediction": ...} on standard output.
#[derive(Args, Debug)]
#[command(after_help = SOURCES, after_long_help = format!("{SOURCES}\n\n{EXAMPLES}"))]
pub(crate) struct PredictArgs {
    /// The model
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,

    /// A file with the item; `-` is standard input
    #[arg(value_name = "IN", default_value = "-")]
    pub(crate) input: PathBuf,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}
