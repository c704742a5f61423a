//! The table of engines: which one opens which file.

use std::path::Path;
#[cfg(feature = "python")]
use std::time::Duration;

use jitney_engine::echo::Echo;
use jitney_engine::load::{self, EngineChoice};
#[cfg(feature = "python")]
use jitney_engine::python::{self, PythonOptions};
use jitney_engine::{LoadError, LoadOptions, Model};

use super::classes;
use super::discover::{self, ModelFile, Plan};
use crate::config::{Engine, ModelSettings, Settings};

/// Opens the model on this thread, which may take long. `name` is how logs call it.
pub(super) fn open(
    name: &str,
    plan: &Plan,
    settings: &Settings,
) -> Result<Box<dyn Model>, LoadError> {
    let python = settings.python.as_deref();
    match &plan.file {
        ModelFile::Echo(text) => Ok(Box::new(Echo::parse(text)?)),
        ModelFile::Onnx(file) => onnx(file, &plan.settings, python),
        ModelFile::Python { file, class } => {
            let class = match class {
                Some(class) => class.clone(),
                None => only_model(file)?,
            };
            load_python(file, &class, name, &plan.settings, settings)
        }
    }
}

fn onnx(
    file: &Path,
    settings: &ModelSettings,
    python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    let engine = match settings.engine {
        Engine::Auto => EngineChoice::Auto,
        Engine::Onnx => EngineChoice::Onnx,
        Engine::Ort => EngineChoice::Ort,
        Engine::Echo => return Err(LoadError::new("engine = \"echo\" runs no files")),
    };
    let options = LoadOptions {
        threads: settings.threads,
    };
    load::onnx(file, engine, &options, python)
}

#[cfg(feature = "python")]
fn load_python(
    file: &Path,
    class: &str,
    name: &str,
    settings: &ModelSettings,
    of_all: &Settings,
) -> Result<Box<dyn Model>, LoadError> {
    let default = PythonOptions::default();
    let options = PythonOptions {
        python: of_all.python.clone(),
        close_limit: default
            .close_limit
            .min(of_all.close_limit.unwrap_or(Duration::MAX)),
        workers: settings.instances.unwrap_or(default.workers),
        run_limit: settings.run_limit,
        retire_limit: settings.deadline,
        start_limit: settings.load_limit,
        max_batch: settings.max_batch,
        max_concurrency: settings.max_concurrency,
        memory: settings.memory,
        recycle_after: settings.recycle_after,
        memory_mark: settings.recycle_above,
        ..default
    };
    python::load(file, class, name, &options)
}

#[cfg(not(feature = "python"))]
fn load_python(
    _file: &Path,
    _class: &str,
    _name: &str,
    _settings: &ModelSettings,
    _of_all: &Settings,
) -> Result<Box<dyn Model>, LoadError> {
    Err(LoadError::new("this build cannot run Python models"))
}

fn only_model(file: &Path) -> Result<String, LoadError> {
    let shown = file.display().to_string();
    let source = discover::read_text(file).map_err(LoadError::new)?;
    let class = classes::only_model(&source).map_err(|why| LoadError::new(why).about(&shown))?;
    Ok(class.to_owned())
}
