//! How models are loaded: the same for every command.

use std::path::PathBuf;

use clap::Args;

/// Settings about loading a model.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Loading models")]
pub(crate) struct LoadArgs {
    /// What runs ONNX models: `onnx` is the embedded engine, `ort` is ONNX Runtime, `auto` takes ONNX Runtime where it is found [default: auto]
    #[arg(long, value_name = "ENGINE", env = "JITNEY_ENGINE", value_parser = ["auto", "onnx", "ort"])]
    pub(crate) engine: Option<String>,

    /// The Python that runs Python models, and in whose packages ONNX Runtime is looked for [default: the active one]
    #[arg(long, value_name = "PATH", env = "JITNEY_PYTHON")]
    pub(crate) python: Option<PathBuf>,

    /// Threads that one instance of an ONNX model may use inside one call [default: chosen for the machine]
    #[arg(long, value_name = "N", env = "JITNEY_THREADS")]
    pub(crate) threads: Option<usize>,
}
