//! The table of engines: which one opens which file.

use std::path::Path;

use jitney_engine::echo::Echo;
use jitney_engine::{LoadError, LoadOptions, Model};

use super::discover::{ModelFile, Plan};
use crate::config::Engine;

/// Opens the model on this thread, which may take long.
pub(super) fn open(plan: &Plan, python: Option<&Path>) -> Result<Box<dyn Model>, LoadError> {
    let options = LoadOptions {
        threads: plan.settings.threads,
    };
    match &plan.file {
        ModelFile::Echo(text) => Ok(Box::new(Echo::parse(text)?)),
        ModelFile::Onnx(path) => {
            let _ = (path, options, python, Engine::Auto);
            Err(LoadError::new("pending"))
        }
    }
}
