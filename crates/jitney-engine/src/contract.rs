//! The contract between the server and an engine: a [`Model`] is loaded once and describes itself; an [`Instance`] of it is owned by
//! one thread and runs batches there.
//!
//! An implementer needs nothing but this module, [`Spec`] and [`Tensor`]. The `echo` engine is the smallest complete example.

use std::fmt;
use std::num::NonZeroUsize;

use crate::{Spec, Tensor};

/// What the person who serves a model may choose about how it is loaded. Engines ignore what does not apply to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads one instance may use inside one call. `None` lets the engine choose for the machine.
    pub threads: Option<NonZeroUsize>,
}

/// A loaded model: it knows its signature and makes instances of itself.
pub trait Model: Send + Sync {
    /// The inputs and outputs, and whether rows can be batched.
    fn spec(&self) -> &Spec;

    /// The engine's name as it appears in logs, metrics and metadata: `echo`, `onnx`, `ort`.
    fn engine(&self) -> &'static str;

    /// The protocol's platform string, such as `onnx_rten` or `onnxruntime_onnx`.
    fn platform(&self) -> &'static str;

    /// How many threads one instance uses inside one call.
    fn threads(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// What the engine stands on, for logs alone, since it may name files: `ONNX Runtime 1.23 from /usr/lib/libonnxruntime.so`. `None` where
    /// the engine is all there is.
    fn runtime(&self) -> Option<&str> {
        None
    }

    /// How many instances suit this machine of `cores` cores, when nobody said.
    fn suggested_instances(&self, cores: NonZeroUsize) -> NonZeroUsize {
        let _ = cores;
        NonZeroUsize::MIN
    }

    /// Makes an instance. Called once for each instance thread, and again when an instance has panicked.
    ///
    /// # Errors
    /// When the resources for another instance cannot be had.
    fn instance(&self) -> Result<Box<dyn Instance>, LoadError>;
}

/// One copy of a model, owned by one thread.
pub trait Instance: Send {
    /// Runs the model on tensors in the order of [`Spec::inputs`] and returns tensors in the order of [`Spec::outputs`].
    ///
    /// With a batch axis, every input has the same number of rows in its first dimension and every output must have that many too;
    /// the caller checks it. The call blocks its thread. It may panic: the caller answers the batch and makes a new instance.
    ///
    /// # Errors
    /// [`RunError`] when the model raised or refused the values.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError>;
}

/// A model refused or failed a batch. The text is shown to the caller, so it must say what was wrong and nothing of the inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The values are not what the model takes: the caller's mistake.
    #[error("{0}")]
    InvalidInput(String),
    /// The model raised while it computed.
    #[error("{0}")]
    Failed(String),
}

/// A model could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    message: String,
    hint: Option<String>,
}

impl LoadError {
    /// An error that says what was expected and what came.
    pub fn new(message: impl Into<String>) -> LoadError {
        LoadError {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what the user can change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> LoadError {
        self.hint = Some(hint.into());
        self
    }

    /// Begins with the name of what it is about, where the message does not name it.
    #[must_use]
    pub fn about(mut self, what: &str) -> LoadError {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LoadError {}
