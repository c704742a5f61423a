//! The ONNX Runtime of this process.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use ort::LoadDynamicError;
use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::LoadError;

/// ONNX Runtime allows a process one library and one environment, for ever; a second cannot even be tried after the first is dropped. So
/// this is the one thing that two servers in a process share. Nothing is configured here that could differ between them.
static RUNTIME: Mutex<Option<Runtime>> = Mutex::new(None);

/// A loaded ONNX Runtime.
#[derive(Clone)]
pub(super) struct Runtime {
    pub(super) environment: Environment,
    /// What it is and where from.
    pub(super) name: Arc<str>,
    library: PathBuf,
}

/// The process's ONNX Runtime, loaded from the library when this is the first call that succeeds.
pub(super) fn load(library: &Path) -> Result<Runtime, LoadError> {
    let mut loaded = RUNTIME.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(runtime) = &*loaded {
        if runtime.library != library {
            let (name, asked) = (&runtime.name, library.display());
            tracing::warn!("{name} is already loaded; {asked} is not used");
        }
        return Ok(runtime.clone());
    }
    // A library of that name which is something else makes the binding panic.
    let environment = catch_unwind(|| start(library)).unwrap_or_else(|_| {
        let message = format!("{}: not a library of ONNX Runtime", library.display());
        Err(LoadError::new(message))
    })?;
    let minor = ort::util::probe(library).unwrap_or(ort::MINOR_VERSION);
    let runtime = Runtime {
        environment,
        name: format!("ONNX Runtime 1.{minor} from {}", library.display()).into(),
        library: library.to_path_buf(),
    };
    *loaded = Some(runtime.clone());
    Ok(runtime)
}

fn start(library: &Path) -> Result<Environment, LoadError> {
    let environment = ort::init_from(library)
        .map_err(|error| unusable(library, &error))?
        .with_name("jitney")
        .with_telemetry(false)
        .with_logger(Arc::new(|_, _, _, _, message| {
            tracing::debug!(target: "onnxruntime", "{message}");
        }))
        .build()
        .map_err(|error| LoadError::new(format!("{}: {error}", library.display())))?;
    environment.set_log_level(LogLevel::Warning);
    Ok(environment)
}

fn unusable(library: &Path, error: &LoadDynamicError) -> LoadError {
    let library = library.display();
    match error {
        LoadDynamicError::BadVersion { version_str, .. } => LoadError::new(format!(
            "{library}: ONNX Runtime {version_str} is too old; expected 1.{} or later",
            ort::MINOR_VERSION,
        ))
        .hint("pip install --upgrade onnxruntime"),
        LoadDynamicError::Dlopen { error, .. } => {
            LoadError::new(format!("{library}: the library cannot be loaded: {error}"))
        }
        _ => LoadError::new(format!("{library}: not a library of ONNX Runtime")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Here and not among the tests on a runtime: a process that has loaded one keeps it, and looks at no other.
    #[test]
    fn unusable_libraries_are_explained() {
        let folder = tempfile::tempdir().unwrap();
        let text = folder.path().join("libonnxruntime.so");
        std::fs::write(&text, "not a library").unwrap();
        for library in [&text, Path::new("/none/libonnxruntime.so")] {
            let error = load(library).err().unwrap().to_string();
            assert!(error.contains(&library.display().to_string()), "{error}");
            assert!(error.contains("cannot be loaded"), "{error}");
        }
    }
}
