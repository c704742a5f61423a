//! Chooses the engine for an ONNX file.

use std::path::Path;

use crate::{LoadError, LoadOptions, Model};

/// Which engine runs ONNX files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineChoice {
    /// ONNX Runtime where it is found, else the embedded engine.
    #[default]
    Auto,
    /// The embedded engine.
    Onnx,
    /// ONNX Runtime.
    Ort,
}

/// Loads an ONNX file with the chosen engine. `python` is the interpreter whose packages are searched for ONNX Runtime.
///
/// [`Model::engine`] says which engine it became.
///
/// # Errors
/// When the file cannot be read or the engine cannot run it. With [`EngineChoice::Auto`] the message says why the embedded engine cannot,
/// and that ONNX Runtime was not there to do it.
pub fn onnx(
    path: &Path,
    engine: EngineChoice,
    options: &LoadOptions,
    python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    match engine {
        EngineChoice::Onnx => embedded(path, options),
        EngineChoice::Ort => runtime(path, options, python),
        EngineChoice::Auto => auto(path, options, python),
    }
}

#[cfg(feature = "onnx")]
fn embedded(path: &Path, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    crate::onnx::load(path, options)
}

#[cfg(not(feature = "onnx"))]
fn embedded(_path: &Path, _options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    Err(LoadError::new("this build has no embedded engine").hint("use --engine ort"))
}

#[cfg(feature = "ort")]
fn runtime(
    path: &Path,
    options: &LoadOptions,
    python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    let library = crate::ort::find(python).ok_or_else(crate::ort::not_found)?;
    crate::ort::load_with(&library, path, options)
}

#[cfg(not(feature = "ort"))]
fn runtime(
    _path: &Path,
    _options: &LoadOptions,
    _python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    Err(LoadError::new("this build cannot use ONNX Runtime").hint("use --engine onnx"))
}

#[cfg(feature = "ort")]
fn auto(
    path: &Path,
    options: &LoadOptions,
    python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    let Some(library) = crate::ort::find(python) else {
        return embedded(path, options);
    };
    if let Err(error) = crate::ort::check(&library) {
        tracing::warn!("{error}");
        return embedded(path, options);
    }
    crate::ort::load_with(&library, path, options).or_else(|error| {
        // What the one cannot load the other may; when neither can, ONNX Runtime is the better judge.
        let model = embedded(path, options).map_err(|_| error.clone())?;
        let reason = error.to_string();
        tracing::warn!(%reason, "ONNX Runtime refused the model; the embedded engine runs it");
        Ok(model)
    })
}

#[cfg(not(feature = "ort"))]
fn auto(
    path: &Path,
    options: &LoadOptions,
    _python: Option<&Path>,
) -> Result<Box<dyn Model>, LoadError> {
    embedded(path, options)
}
