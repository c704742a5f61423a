//! The table of engines: which one opens which file.

use std::path::Path;

use jitney_engine::echo::Echo;
use jitney_engine::load::{self, EngineChoice};
use jitney_engine::{LoadError, LoadOptions, Model};

use super::classes;
use super::discover::{self, ModelFile, Plan};
use crate::config::Engine;

/// Opens the model on this thread, which may take long.
pub(super) fn open(
    name: &str,
    plan: &Plan,
    python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    let options = LoadOptions {
        threads: plan.settings.threads,
    };
    let path = match &plan.file {
        ModelFile::Echo(text) => return Ok(Box::new(Echo::parse(text)?)),
        ModelFile::Python { file, class } => return run_python(name, file, class.as_deref()),
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

fn run_python(name: &str, file: &Path, class: Option<&str>) -> Result<Box<dyn Model>, LoadError> {
    let class = match class {
        Some(class) => class.to_owned(),
        None => only_model(file)
            .map_err(|why| LoadError::new(why).about(&file.display().to_string()))?,
    };
    Err(LoadError::new(format!(
        "{name}: {}:{class}: Python models are not part of this build yet",
        file.display()
    )))
}

fn only_model(file: &Path) -> Result<String, String> {
    let source = discover::read_text(file)?;
    classes::only_model(&source).map(str::to_owned)
}
