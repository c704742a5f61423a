//! `jitney check`.

use clap::Args;

use super::SOURCES;
use super::load::LoadArgs;

const EXAMPLES: &str = "\
Examples:
  jitney check examples/digits
  jitney check model.py:Digits --python .venv/bin/python
  jitney check model.onnx --engine onnx --max-batch 8";

/// Says whether a model can be served, and what batching gains
///
/// Loads the model, shows its signature, runs warm-up batches of growing size and reports how long they took.
/// Ends with 0 when the model can be served, and with 1 when it cannot.
#[derive(Args, Debug)]
#[command(after_help = SOURCES, after_long_help = format!("{SOURCES}\n\n{EXAMPLES}"))]
pub(crate) struct CheckArgs {
    /// The model, or a repository of models
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,

    /// The largest batch to try [default: 32]
    #[arg(long, value_name = "N", env = "JITNEY_MAX_BATCH")]
    pub(crate) max_batch: Option<usize>,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}
