//! The table of engines: which one opens which file.

use std::path::Path;

use jitney_engine::echo::Echo;
use jitney_engine::load::{self, EngineChoice};
use jitney_engine::{LoadError, LoadOptions, Model};

use super::discover::{ModelFile, Plan};
use crate::config::Engine;

/// Opens the model on this thread, which may take long.
pub(super) fn open(plan: &Plan, python: Option<&Path>) -> Result<Box<dyn Model>, LoadError> {
    let options = LoadOptions {
        threads: plan.settings.threads,
    };
    let path = match &plan.file {
        ModelFile::Echo(text) => return Ok(Box::new(Echo::parse(text)?)),
        ModelFile::Onnx(path) => path,
    };
    let engine = match plan.settings.engine {
        Engine::Auto => EngineChoice::Auto,
        Engine::Onnx => EngineChoice::Onnx,
        Engine::Ort => EngineChoice::Ort,
        Engine::Echo => return Err(LoadError::new("engine = \"echo\" runs no files")),
    };
    load::onnx(path, engine, &options, python)
}
