//! The embedded engine: ONNX files run in pure Rust, with nothing installed.
//!
//! It computes with four element types. `INT64` and `BOOL` are held as 32-bit integers, `FP64` and `FP16` as 32-bit floats; values are
//! converted at the border, and those that do not fit are refused, in requests as in the file. What only appears *within* the model,
//! such as a product of two integers, is beyond that check. A model with other types or unknown operators is refused when it is loaded.

use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use half::f16;
use rten::{NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;
use rten_tensor::{Tensor as RtenTensor, TensorView};

use crate::model_file::{ModelFile, suggested_instances};
use crate::tensor::{Data, DataType, Element, Tensor, element_count};
use crate::{BatchAxis, Dim, Instance, LoadError, LoadOptions, Model, RunError, Spec, TensorSpec};

/// What to do about a model that this engine cannot run.
const OTHER_ENGINE: &str = "install ONNX Runtime (pip install onnxruntime) and use --engine ort";

/// The engine finds the order of operators by recursion, so that a long chain of them needs a deep stack.
const STACK_PER_NODE: usize = 2 * 1024;

/// Chains up to this length fit on the stack of any thread.
const SHALLOW: usize = 1_000;

/// The most nodes the file and one nested graph may have. Nested graphs are ordered anew on the engine's own threads.
const NODES: usize = 100_000;
const NESTED_NODES: usize = 2_000;

/// Loads an ONNX file.
///
/// # Errors
/// When the file cannot be read or is damaged, and when it uses a type or operator that this engine does not have; the message names it.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Box<dyn Model>, LoadError> {
    let file = ModelFile::read(path)?;
    let spec = file.spec()?;
    check_types(&file, &spec)?;
    check_convolutions(&file)?;
    check_limits(&file)?;
    let loaded = on_deep_stack(&file, || Loaded::new(&file, spec))?;
    let threads = options.threads.unwrap_or(NonZeroUsize::MIN);
    Ok(Box::new(Onnx {
        loaded: Arc::new(loaded),
        threads,
        bytes: file.bytes,
    }))
}

fn check_types(file: &ModelFile, spec: &Spec) -> Result<(), LoadError> {
    let roles = [("input", &spec.inputs), ("output", &spec.outputs)];
    for (role, tensors) in roles {
        for tensor in tensors {
            if !is_held(tensor.datatype) {
                let message = format!(
                    "{role} \"{}\" is {}, which the embedded engine does not have",
                    tensor.name, tensor.datatype,
                );
                return Err(file.error(message).hint(OTHER_ENGINE));
            }
        }
    }
    if let Some(place) = &file.wide_integers {
        let message = format!(
            "{place} has INT64 values beyond 32 bits, and the embedded engine holds no more"
        );
        return Err(file.error(message).hint(OTHER_ENGINE));
    }
    Ok(())
}

fn is_held(datatype: DataType) -> bool {
    use DataType::{Bool, Fp16, Fp32, Fp64, Int8, Int32, Int64, Uint8};
    matches!(
        datatype,
        Bool | Uint8 | Int8 | Int32 | Int64 | Fp16 | Fp32 | Fp64
    )
}

/// The engine takes a convolution without `kernel_shape`, which the standard allows, and then fails every call.
fn check_convolutions(file: &ModelFile) -> Result<(), LoadError> {
    let Some(name) = &file.bare_convolution else {
        return Ok(());
    };
    let message =
        format!("the convolution \"{name}\" has no kernel_shape, which the embedded engine needs");
    Err(file.error(message).hint(OTHER_ENGINE))
}

fn check_limits(file: &ModelFile) -> Result<(), LoadError> {
    let limits = [
        ("nodes", file.nodes, NODES),
        ("nodes in a nested graph", file.nested_nodes, NESTED_NODES),
    ];
    for (what, count, limit) in limits {
        if count > limit {
            let message = format!("{count} {what}, and the embedded engine takes at most {limit}");
            return Err(file.error(message).hint(OTHER_ENGINE));
        }
    }
    Ok(())
}

/// Does the engine's recursive work where the stack is deep enough for this file, and where a panic ends nothing but the load.
fn on_deep_stack<T: Send>(
    file: &ModelFile,
    work: impl FnOnce() -> Result<T, LoadError> + Send,
) -> Result<T, LoadError> {
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("onnx-load".to_owned())
            .stack_size(4 * 1024 * 1024 + file.nodes * STACK_PER_NODE)
            .spawn_scoped(scope, work)
            .map_err(|error| file.error(format!("no thread to load it on: {error}")))?
            .join()
            .unwrap_or_else(|_| {
                let message = "the embedded engine gave up on it; the file may be damaged";
                Err(file.error(message).hint(OTHER_ENGINE))
            })
    })
}

/// The engine's model, which all instances share.
struct Loaded {
    model: rten::Model,
    spec: Spec,
    /// The engine's ids of the inputs; `None` for one that the model does not use.
    inputs: Vec<Option<NodeId>>,
    outputs: Vec<NodeId>,
}

impl Loaded {
    fn new(file: &ModelFile, spec: Spec) -> Result<Loaded, LoadError> {
        let model = rten::Model::load_file(file.path()).map_err(|error| refused(file, &error))?;
        let inputs = spec.inputs.iter();
        let inputs = inputs.map(|input| model.find_node(&input.name)).collect();
        let outputs = spec.outputs.iter().map(|output| {
            let found = model.find_node(&output.name);
            found.ok_or_else(|| file.error(format!("output \"{}\" is never computed", output.name)))
        });
        let loaded = Loaded {
            outputs: outputs.collect::<Result<_, _>>()?,
            model,
            inputs,
            spec,
        };
        if file.nodes > SHALLOW {
            loaded.plan();
        }
        Ok(loaded)
    }

    /// Makes the engine order its operators now, on this thread's deep stack. It keeps the order for the calls to come, which all
    /// name the same inputs and outputs. The way there is a call, with as little in it as the shapes allow; its answer is of no interest.
    fn plan(&self) {
        let rows = match self.spec.batch {
            BatchAxis::Fixed(size) => Some(size),
            BatchAxis::Free | BatchAxis::None => None,
        };
        let inputs = self.spec.inputs.iter().map(|input| least(input, rows));
        let inputs: Option<Vec<Tensor>> = inputs.collect();
        if let Some(inputs) = inputs {
            let pool = Arc::new(ThreadPool::with_num_threads(1));
            let _ = catch_unwind(AssertUnwindSafe(|| self.run(&inputs, pool)));
        }
    }

    fn run(&self, inputs: &[Tensor], pool: Arc<ThreadPool>) -> Result<Vec<Tensor>, RunError> {
        let mut values = Vec::with_capacity(inputs.len());
        for ((input, spec), node) in inputs.iter().zip(&self.spec.inputs).zip(&self.inputs) {
            let value = to_engine(input, spec)?;
            values.extend(node.map(|node| (node, value)));
        }
        let options = RunOptions::default().with_thread_pool(Some(pool));
        let outputs = self.model.run(values, &self.outputs, Some(options));
        let outputs = outputs.map_err(|error| raised(&error))?;
        outputs
            .into_iter()
            .zip(&self.spec.outputs)
            .map(|(value, spec)| from_engine(value, spec))
            .collect()
    }
}

/// A small tensor of that signature, with that many rows.
fn least(spec: &TensorSpec, rows: Option<usize>) -> Option<Tensor> {
    let size = |dim: &Dim| match dim {
        Dim::Fixed(fixed) => *fixed,
        Dim::Any => 1,
    };
    let mut shape: Vec<usize> = spec.shape.iter().map(size).collect();
    if let (Some(first), Some(rows)) = (shape.first_mut(), rows) {
        *first = rows;
    }
    let bytes = element_count(&shape)?.checked_mul(spec.datatype.width()?)?;
    let data = Data::Fixed(vec![0; bytes].into());
    Tensor::new(spec.datatype, shape.into(), data).ok()
}

fn refused(file: &ModelFile, error: &rten::LoadError) -> LoadError {
    const MISSING: &str = " operator not supported or not enabled";
    let text = error.to_string();
    let operator = text
        .find(MISSING)
        .and_then(|at| text[..at].rsplit(' ').next());
    let message = match operator {
        Some(operator) => format!("the embedded engine has no operator \"{operator}\""),
        None => format!("the embedded engine cannot run it: {text}"),
    };
    file.error(message).hint(OTHER_ENGINE)
}

struct Onnx {
    loaded: Arc<Loaded>,
    threads: NonZeroUsize,
    bytes: u64,
}

impl Model for Onnx {
    fn spec(&self) -> &Spec {
        &self.loaded.spec
    }

    fn engine(&self) -> &'static str {
        "onnx"
    }

    fn platform(&self) -> &'static str {
        "onnx_rten"
    }

    fn threads(&self) -> NonZeroUsize {
        self.threads
    }

    fn suggested_instances(&self, cores: NonZeroUsize) -> NonZeroUsize {
        // All instances share the weights.
        suggested_instances(cores, self.bytes, u64::MAX)
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        Ok(Box::new(OnnxInstance {
            loaded: Arc::clone(&self.loaded),
            pool: Arc::new(ThreadPool::with_num_threads(self.threads.get())),
        }))
    }
}

struct OnnxInstance {
    loaded: Arc<Loaded>,
    /// A pool of its own, so that no instance waits for another's work.
    pool: Arc<ThreadPool>,
}

impl Instance for OnnxInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        self.loaded.run(inputs, Arc::clone(&self.pool))
    }
}

/// The value as the engine holds it: lent where the types are the same, converted where they are not.
fn to_engine<'a>(tensor: &'a Tensor, spec: &TensorSpec) -> Result<ValueOrView<'a>, RunError> {
    match tensor.datatype() {
        DataType::Fp32 => lend::<f32>(tensor),
        DataType::Int32 => lend::<i32>(tensor),
        DataType::Uint8 => lend::<u8>(tensor),
        DataType::Int8 => lend::<i8>(tensor),
        DataType::Int64 => convert(tensor, |value: i64| {
            i32::try_from(value).map_err(|_| too_large(spec, &value, "INT64 in 32 bits"))
        }),
        DataType::Bool => convert(tensor, |value: bool| Ok(i32::from(value))),
        DataType::Fp16 => convert(tensor, |value: f16| Ok(value.to_f32())),
        DataType::Fp64 => convert(tensor, |value: f64| {
            let narrow = value as f32;
            if narrow.is_infinite() && value.is_finite() {
                return Err(too_large(spec, &value, "FP64 as FP32"));
            }
            Ok(narrow)
        }),
        _ => Err(not_held(tensor.datatype())),
    }
}

fn too_large(spec: &TensorSpec, value: &dyn std::fmt::Display, how: &str) -> RunError {
    RunError::InvalidInput(format!(
        "input \"{}\": the value {value} is too large for the embedded engine, which holds {how}; serve the model with --engine ort",
        spec.name,
    ))
}

fn lend<'a, T: Element>(tensor: &'a Tensor) -> Result<ValueOrView<'a>, RunError>
where
    ValueView<'a>: From<TensorView<'a, T>>,
    Value: From<RtenTensor<T>>,
{
    match tensor.values::<T>() {
        Some(std::borrow::Cow::Borrowed(values)) => {
            let view = TensorView::try_from_data(tensor.shape(), values).map_err(failed)?;
            Ok(ValueOrView::View(view.into()))
        }
        Some(std::borrow::Cow::Owned(values)) => own(tensor.shape(), values),
        None => Err(not_held(tensor.datatype())),
    }
}

fn convert<'a, T: Element, U>(
    tensor: &'a Tensor,
    each: impl Fn(T) -> Result<U, RunError>,
) -> Result<ValueOrView<'a>, RunError>
where
    Value: From<RtenTensor<U>>,
{
    let values = tensor.values::<T>();
    let values = values.ok_or_else(|| not_held(tensor.datatype()))?;
    let converted = values.iter().copied().map(each).collect::<Result<_, _>>()?;
    own(tensor.shape(), converted)
}

fn own<'a, T>(shape: &[usize], values: Vec<T>) -> Result<ValueOrView<'a>, RunError>
where
    Value: From<RtenTensor<T>>,
{
    let value = Value::from_shape(shape, values).map_err(failed)?;
    Ok(ValueOrView::Value(value))
}

/// The engine's answer as the file declares it.
fn from_engine(value: Value, spec: &TensorSpec) -> Result<Tensor, RunError> {
    match (value, spec.datatype) {
        (Value::FloatTensor(values), DataType::Fp32) => take(values, |value| value),
        (Value::FloatTensor(values), DataType::Fp64) => take(values, f64::from),
        (Value::FloatTensor(values), DataType::Fp16) => take(values, f16::from_f32),
        (Value::Int32Tensor(values), DataType::Int32) => take(values, |value| value),
        (Value::Int32Tensor(values), DataType::Int64) => take(values, i64::from),
        (Value::Int32Tensor(values), DataType::Bool) => take(values, |value| value != 0),
        (Value::UInt8Tensor(values), DataType::Uint8) => take(values, |value| value),
        (Value::Int8Tensor(values), DataType::Int8) => take(values, |value| value),
        (value, declared) => Err(RunError::Failed(format!(
            "output \"{}\": the file declares {declared}, but the embedded engine computes {}",
            spec.name,
            value.dtype(),
        ))),
    }
}

fn take<T: Copy, U: Element>(
    values: RtenTensor<T>,
    each: impl Fn(T) -> U,
) -> Result<Tensor, RunError> {
    let shape = values.shape().to_vec();
    let values = values.into_data().into_iter().map(each).collect();
    Tensor::from_vec(shape, values).map_err(failed)
}

/// What the caller is told of an error within the model; where in the model it was is for the log.
fn raised(error: &rten::RunError) -> RunError {
    let text = error.to_string();
    tracing::debug!("the embedded engine: {text}");
    RunError::Failed(plain(&text).to_owned())
}

/// The last cause in a message, without the shapes within the model.
fn plain(text: &str) -> &str {
    let cause = text.rsplit(" failed: ").next().unwrap_or(text);
    cause.split(" Inputs were (").next().unwrap_or(cause)
}

fn failed(error: impl std::fmt::Display) -> RunError {
    RunError::Failed(error.to_string())
}

fn not_held(datatype: DataType) -> RunError {
    RunError::Failed(format!("the embedded engine has no {datatype}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_tell_the_cause_and_nothing_of_the_inside() {
        let table = [
            (
                "operator \"a\" subgraph error: operator \"b\" failed: invalid value: Index 9 is out of range. \
                 Inputs were (tensor(f32) [10, 3])",
                "invalid value: Index 9 is out of range.",
            ),
            ("no node found with name x", "no node found with name x"),
        ];
        for (text, expected) in table {
            assert_eq!(plain(text), expected);
        }
    }
}
