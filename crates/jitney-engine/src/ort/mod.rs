//! ONNX Runtime, loaded from the user's machine when it is there.
//!
//! It knows every operator and every type of the standard and is the faster engine for most models. Nothing of it is part of jitney: its
//! library comes with the `onnxruntime` package of Python, with the system, or from a path, and is found by [`find`].

mod find;
mod runtime;

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use half::{bf16, f16};
use ort::session::{Session, SessionInputValue};
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorRef};

use crate::model_file::{ModelFile, suggested_instances};
use crate::tensor::{DataType, Element, Tensor};
use crate::{Instance, LoadError, LoadOptions, Model, RunError, Spec, TensorSpec};

pub use find::find;
use runtime::Runtime;

/// All instances together may hold this many bytes of weights, since each needs a copy of its own.
const WEIGHTS: u64 = 1 << 30;

/// Loads an ONNX file with the ONNX Runtime that [`find`] finds.
///
/// # Errors
/// As [`load_with`], and when there is no ONNX Runtime.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    let library = find(None).ok_or_else(not_found)?;
    load_with(&library, path, options)
}

/// Loads an ONNX file with the ONNX Runtime in that library.
///
/// A process has one ONNX Runtime: the first that was loaded serves all later models, whatever library they name.
///
/// # Errors
/// When the library cannot be loaded or is too old, and when the file cannot be read, is damaged, or is not to ONNX Runtime's liking.
pub fn load_with(
    library: &Path,
    path: &Path,
    options: &LoadOptions,
) -> Result<Box<dyn Model>, LoadError> {
    let file = ModelFile::read(path)?;
    let spec = file.spec()?;
    let source = Source {
        runtime: runtime::load(library)?,
        path: file.path().to_path_buf(),
        threads: options.threads.unwrap_or(NonZeroUsize::MIN),
        spec,
    };
    let first = source.session()?;
    Ok(Box::new(Ort {
        source: Arc::new(source),
        bytes: file.bytes,
        first: Mutex::new(Some(first)),
    }))
}

/// Whether the library can be loaded. Where it can it is, and stays so.
///
/// # Errors
/// What is wrong with the library, and what to do about it.
pub fn check(library: &Path) -> Result<(), LoadError> {
    runtime::load(library).map(|_| ())
}

pub(crate) fn not_found() -> LoadError {
    LoadError::new("ONNX Runtime was not found").hint(
        "pip install onnxruntime, in the environment that is active or that --python names; \
         or set ORT_DYLIB_PATH to its library",
    )
}

/// All it takes to make a session.
struct Source {
    runtime: Runtime,
    path: PathBuf,
    threads: NonZeroUsize,
    spec: Spec,
}

impl Source {
    /// A session computes on the thread that calls it; more threads are its own. They do not spin while they wait, since they share the
    /// cores with other instances and the server.
    fn session(&self) -> Result<Session, LoadError> {
        let refused = |error: &dyn fmt::Display| {
            LoadError::new(format!(
                "{}: ONNX Runtime cannot load it: {error}",
                self.path.display()
            ))
        };
        Session::builder(&self.runtime.environment)
            .map_err(|error| refused(&error))?
            .with_intra_threads(self.threads.get())
            .map_err(|error| refused(&error))?
            .with_inter_threads(1)
            .map_err(|error| refused(&error))?
            .with_intra_op_spinning(false)
            .map_err(|error| refused(&error))?
            .commit_from_file(&self.path)
            .map_err(|error| refused(&error))
    }
}

struct Ort {
    source: Arc<Source>,
    bytes: u64,
    /// The session that loading made, for the first instance.
    first: Mutex<Option<Session>>,
}

impl Model for Ort {
    fn spec(&self) -> &Spec {
        &self.source.spec
    }

    fn engine(&self) -> &'static str {
        "ort"
    }

    fn platform(&self) -> &'static str {
        "onnxruntime_onnx"
    }

    fn threads(&self) -> NonZeroUsize {
        self.source.threads
    }

    fn runtime(&self) -> Option<&str> {
        Some(&self.source.runtime.name)
    }

    fn suggested_instances(&self, cores: NonZeroUsize) -> NonZeroUsize {
        suggested_instances(cores, self.bytes, WEIGHTS / self.bytes.max(1))
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        let first = self.first.lock();
        let first = first.unwrap_or_else(PoisonError::into_inner).take();
        let session = match first {
            Some(session) => session,
            None => self.source.session()?,
        };
        Ok(Box::new(OrtInstance {
            session,
            source: Arc::clone(&self.source),
        }))
    }
}

struct OrtInstance {
    session: Session,
    source: Arc<Source>,
}

impl Instance for OrtInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let spec = &self.source.spec;
        let mut values = Vec::with_capacity(inputs.len());
        for (input, spec) in inputs.iter().zip(&spec.inputs) {
            values.push((Cow::Borrowed(spec.name.as_str()), to_runtime(input, spec)?));
        }
        let outputs = self.session.run(values).map_err(|error| raised(&error))?;
        spec.outputs
            .iter()
            .map(|spec| match outputs.get(&spec.name) {
                Some(value) => from_runtime(value, spec),
                None => Err(failed(format!("output \"{}\" is missing", spec.name))),
            })
            .collect()
    }
}

/// The value as ONNX Runtime takes it: lent where the memory is aligned, copied where it is not.
fn to_runtime<'a>(
    tensor: &'a Tensor,
    spec: &TensorSpec,
) -> Result<SessionInputValue<'a>, RunError> {
    match tensor.datatype() {
        DataType::Bool => lend::<bool>(tensor),
        DataType::Uint8 => lend::<u8>(tensor),
        DataType::Uint16 => lend::<u16>(tensor),
        DataType::Uint32 => lend::<u32>(tensor),
        DataType::Uint64 => lend::<u64>(tensor),
        DataType::Int8 => lend::<i8>(tensor),
        DataType::Int16 => lend::<i16>(tensor),
        DataType::Int32 => lend::<i32>(tensor),
        DataType::Int64 => lend::<i64>(tensor),
        DataType::Fp16 => lend::<f16>(tensor),
        DataType::Bf16 => lend::<bf16>(tensor),
        DataType::Fp32 => lend::<f32>(tensor),
        DataType::Fp64 => lend::<f64>(tensor),
        DataType::Bytes => texts(tensor, spec),
    }
}

fn lend<'a, T>(tensor: &'a Tensor) -> Result<SessionInputValue<'a>, RunError>
where
    T: Element + PrimitiveTensorElementType + fmt::Debug + 'static,
{
    match tensor.values::<T>() {
        Some(Cow::Borrowed(values)) => {
            let value = TensorRef::from_array_view((tensor.shape(), values));
            Ok(value.map_err(failed)?.into())
        }
        Some(Cow::Owned(values)) => {
            let value = OrtTensor::from_array((tensor.shape(), values));
            Ok(value.map_err(failed)?.into())
        }
        None => Err(failed(format!("unreadable {}", tensor.datatype()))),
    }
}

/// Elements of `BYTES` are ONNX Runtime's strings, which are UTF-8 and end at the first zero.
fn texts<'a>(tensor: &Tensor, spec: &TensorSpec) -> Result<SessionInputValue<'a>, RunError> {
    let text = |(at, element): (usize, &Bytes)| match std::str::from_utf8(element) {
        Ok(text) if !text.contains('\0') => Ok(text.to_owned()),
        _ => Err(RunError::InvalidInput(format!(
            "input \"{}\": expected UTF-8 text without zero bytes, got something else in element {at}",
            spec.name,
        ))),
    };
    let elements = tensor.byte_elements().unwrap_or_default();
    let texts: Vec<String> = elements
        .iter()
        .enumerate()
        .map(text)
        .collect::<Result<_, _>>()?;
    let value = OrtTensor::from_string_array((tensor.shape(), texts.as_slice()));
    Ok(value.map_err(failed)?.into())
}

fn from_runtime(value: &DynValue, spec: &TensorSpec) -> Result<Tensor, RunError> {
    match spec.datatype {
        DataType::Bool => take::<bool>(value),
        DataType::Uint8 => take::<u8>(value),
        DataType::Uint16 => take::<u16>(value),
        DataType::Uint32 => take::<u32>(value),
        DataType::Uint64 => take::<u64>(value),
        DataType::Int8 => take::<i8>(value),
        DataType::Int16 => take::<i16>(value),
        DataType::Int32 => take::<i32>(value),
        DataType::Int64 => take::<i64>(value),
        DataType::Fp16 => take::<f16>(value),
        DataType::Bf16 => take::<bf16>(value),
        DataType::Fp32 => take::<f32>(value),
        DataType::Fp64 => take::<f64>(value),
        DataType::Bytes => {
            let (shape, texts) = value.try_extract_strings().map_err(failed)?;
            let elements = texts.into_iter().map(Bytes::from).collect();
            Tensor::from_bytes(sizes(shape)?, elements).map_err(failed)
        }
    }
}

fn take<T>(value: &DynValue) -> Result<Tensor, RunError>
where
    T: Element + PrimitiveTensorElementType,
{
    let (shape, values) = value.try_extract_tensor::<T>().map_err(failed)?;
    Tensor::from_vec(sizes(shape)?, values.to_vec()).map_err(failed)
}

fn sizes(shape: &[i64]) -> Result<Vec<usize>, RunError> {
    let sizes = shape.iter().map(|size| usize::try_from(*size));
    sizes.collect::<Result<_, _>>().map_err(failed)
}

/// What the caller is told of an error within the model; where in the model it was is for the log.
fn raised(error: &ort::Error) -> RunError {
    let text = error.to_string();
    tracing::debug!("ONNX Runtime: {text}");
    RunError::Failed(plain(&text))
}

/// The last cause in a message, without the source lines of ONNX Runtime.
fn plain(text: &str) -> String {
    let cause = text.rsplit("Status Message: ").next().unwrap_or(text);
    let words = cause.split(' ');
    let kept: Vec<&str> = words
        .filter(|word| !word.contains("onnxruntime_src/"))
        .collect();
    kept.join(" ")
}

fn failed(error: impl fmt::Display) -> RunError {
    RunError::Failed(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_tell_the_cause_and_nothing_of_the_inside() {
        let table = [
            (
                "Non-zero status code returned while running If node. Name:'a' Status Message: Non-zero status code \
                 returned while running Pad node. Name:'b' Status Message: post-pad (64) exceeds 2",
                "post-pad (64) exceeds 2",
            ),
            (
                "/onnxruntime_src/core/providers/cpu/x.cc:12 bool Fits() was false. Too small",
                "bool Fits() was false. Too small",
            ),
            ("Unexpected", "Unexpected"),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), expected);
        }
    }
}
