//! A request of gRPC into tensors that are checked against the model's signature, and an answer into a message.
//!
//! Tensors come either all raw or all in the typed fields of their datatypes; `FP16` and `BF16` have no such field. The answer comes as the
//! request did. Raw tensors are not copied: they are pieces of the request's memory, and of the model's.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::time::Duration;

use bytes::Bytes;
use jitney_engine::tensor::{Data, DataType, Element};
use jitney_engine::{Spec, Tensor};
use serde_json::{Map, Value};

use super::generated::infer_parameter::ParameterChoice;
use super::generated::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::generated::model_infer_response::InferOutputTensor;
use super::generated::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
};
use crate::call::Meta;
use crate::failure::Failure;
use crate::protocol::classes::is_classifiable;
use crate::protocol::infer::{self, Wanted};
use crate::protocol::tensors::{Inputs, outputs, to_raw};

/// A request, checked against the model's signature.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    /// What it says about itself.
    pub(super) meta: Meta,
    /// In the order of [`Spec::inputs`], batch axis included.
    pub(super) inputs: Vec<Tensor>,
    /// How the answer shall look.
    pub(super) form: Form,
}

/// What an answer shall have in it, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// In the order asked for.
    outputs: Vec<Wanted>,
    /// In the typed fields of their datatypes, where they all have one.
    typed: bool,
    /// Whether a stream of results ends with an answer that says so and has nothing else.
    pub(super) empty_final: bool,
}

type Parameters = HashMap<String, InferParameter>;

const TIMEOUT: &str = "timeout";
const PRIORITY: &str = "priority";
const CLASSIFICATION: &str = "classification";
const EMPTY_FINAL: &str = "triton_enable_empty_final_response";
pub(super) const FINAL: &str = "triton_final_response";

/// Takes a request apart. `streamed` says whether it may have many answers.
///
/// # Errors
/// `invalid_input` with a sentence that names the field, what was expected and what came; `too_large` for more elements of `BYTES` tensors
/// than [`crate::protocol::MAX_STRINGS`].
pub(super) fn decode(
    request: ModelInferRequest,
    spec: &Spec,
    streamed: bool,
) -> Result<Asked, Failure> {
    let meta = meta(request.id, &request.parameters)?;
    let empty_final = reserved(&request.parameters, streamed)?;
    let typed = request.raw_input_contents.is_empty() && !request.inputs.is_empty();
    let form = Form {
        outputs: wanted(spec, &request.outputs)?,
        typed,
        empty_final,
    };
    let inputs = if typed {
        typed_inputs(spec, request.inputs)?
    } else {
        raw_inputs(spec, &request.inputs, request.raw_input_contents)?
    };
    Ok(Asked { meta, inputs, form })
}

fn meta(id: String, parameters: &Parameters) -> Result<Meta, Failure> {
    let mut meta = Meta {
        id: (!id.is_empty()).then_some(id),
        ..Meta::default()
    };
    if let Some(timeout) = parameters.get(TIMEOUT) {
        let micros =
            whole(timeout).ok_or_else(|| expected(TIMEOUT, "a whole number of microseconds"))?;
        // Zero is the protocol's default and stands for no timeout of the request's own.
        meta.timeout = (micros > 0).then(|| Duration::from_micros(micros));
    }
    if let Some(priority) = parameters.get(PRIORITY) {
        let number = || expected(PRIORITY, "a whole number of 0 or more");
        meta.priority = whole(priority).ok_or_else(number)?;
    }
    if !parameters.is_empty() {
        meta.parameters = Some(json(parameters));
    }
    Ok(meta)
}

/// Checks the parameters whose names are not the caller's to choose. Gives whether an empty answer shall end a stream.
fn reserved(parameters: &Parameters, streamed: bool) -> Result<bool, Failure> {
    let mut empty_final = false;
    for (name, value) in parameters {
        if name.starts_with("shared_memory_") {
            return Err(refused(name, "shared memory is not supported"));
        }
        if name == EMPTY_FINAL && streamed {
            let Some(ParameterChoice::BoolParam(asked)) = value.parameter_choice else {
                return Err(expected(name, "true or false"));
            };
            empty_final = asked;
        } else if name.starts_with("triton_") {
            return Err(refused(name, "is reserved"));
        }
    }
    Ok(empty_final)
}

fn input_parameters(parameters: &Parameters) -> Result<(), Failure> {
    match parameters
        .keys()
        .find(|name| name.starts_with("shared_memory_"))
    {
        Some(name) => Err(refused(name, "shared memory is not supported")),
        None => Ok(()),
    }
}

/// The outputs that a request asks for; all of them where it names none.
fn wanted(spec: &Spec, asked: &[InferRequestedOutputTensor]) -> Result<Vec<Wanted>, Failure> {
    let names = asked.iter().map(|output| output.name.as_str());
    let indices = outputs(spec, names)?;
    let mut wanted = Vec::with_capacity(indices.len());
    for (at, output) in indices.into_iter().enumerate() {
        let classes = match asked.get(at) {
            Some(asked) => classes(spec, output, &asked.parameters)
                .map_err(|failure| within(failure, &format!("outputs[{at}]")))?,
            None => None,
        };
        wanted.push(Wanted {
            output,
            form: infer::Form::Binary,
            classes,
        });
    }
    Ok(wanted)
}

/// How many of the highest numbers of an output are asked for.
fn classes(
    spec: &Spec,
    output: usize,
    parameters: &Parameters,
) -> Result<Option<NonZeroUsize>, Failure> {
    input_parameters(parameters)?;
    let Some(classification) = parameters.get(CLASSIFICATION) else {
        return Ok(None);
    };
    let numbers = spec
        .outputs
        .get(output)
        .is_some_and(|output| is_classifiable(output.datatype));
    let count = whole(classification).and_then(|count| usize::try_from(count).ok());
    match count {
        Some(count) if numbers => Ok(NonZeroUsize::new(count)),
        Some(_) => Err(expected(
            CLASSIFICATION,
            "an output of numbers, got one of other things",
        )),
        None => Err(expected(CLASSIFICATION, "a number of classes")),
    }
}

fn refused(name: &str, why: &str) -> Failure {
    Failure::invalid(format!(
        "parameters.{}: expected a request without this parameter: {why}",
        name.escape_debug()
    ))
}

fn expected(name: &str, what: &str) -> Failure {
    Failure::invalid(format!("parameters.{name}: expected {what}"))
}

fn within(mut failure: Failure, place: &str) -> Failure {
    failure.message = format!("{place}.{}", failure.message);
    failure
}

/// A number of 0 or more, in any of the forms in which clients write it.
fn whole(parameter: &InferParameter) -> Option<u64> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(value) => u64::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => Some(*value),
        ParameterChoice::StringParam(text) => text.parse().ok(),
        ParameterChoice::BoolParam(_) | ParameterChoice::DoubleParam(_) => None,
    }
}

/// The parameters as the text of a JSON object, in the order of their names.
fn json(parameters: &Parameters) -> String {
    let value = |parameter: &InferParameter| match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Value::from(*value),
        Some(ParameterChoice::Int64Param(value)) => Value::from(*value),
        Some(ParameterChoice::StringParam(value)) => Value::from(value.as_str()),
        // Those that JSON cannot say are null.
        Some(ParameterChoice::DoubleParam(value)) => Value::from(*value),
        Some(ParameterChoice::Uint64Param(value)) => Value::from(*value),
        None => Value::Null,
    };
    let fields = parameters
        .iter()
        .map(|(name, parameter)| (name.clone(), value(parameter)));
    Value::Object(fields.collect::<Map<_, _>>()).to_string()
}

fn raw_inputs(
    spec: &Spec,
    tensors: &[InferInputTensor],
    raw: Vec<Bytes>,
) -> Result<Vec<Tensor>, Failure> {
    if raw.len() != tensors.len() {
        return Err(Failure::invalid(format!(
            "raw_input_contents: expected as many as there are inputs, {}, got {}",
            tensors.len(),
            raw.len()
        )));
    }
    let mut inputs = Inputs::new(spec);
    for (at, (tensor, raw)) in tensors.iter().zip(raw).enumerate() {
        if tensor.contents.is_some() {
            return Err(Failure::invalid(format!(
                "inputs[{at}].contents: expected none beside raw_input_contents: send all tensors in one form or all in the other"
            )));
        }
        checked_parameters(at, tensor)?;
        inputs.add_raw(&tensor.name, &tensor.datatype, &tensor.shape, raw)?;
    }
    inputs.finish()
}

fn typed_inputs(spec: &Spec, tensors: Vec<InferInputTensor>) -> Result<Vec<Tensor>, Failure> {
    let mut inputs = Inputs::new(spec);
    for (at, mut tensor) in tensors.into_iter().enumerate() {
        checked_parameters(at, &tensor)?;
        let contents = tensor.contents.take().unwrap_or_default();
        // An unknown datatype is found by the check against the signature.
        let data = match DataType::from_name(&tensor.datatype) {
            Some(datatype) => data(datatype, contents)
                .map_err(|failure| within(failure, &format!("inputs[{at}].contents")))?,
            None => Data::Fixed(Bytes::new()),
        };
        inputs.add(&tensor.name, &tensor.datatype, &tensor.shape, data)?;
    }
    inputs.finish()
}

fn checked_parameters(at: usize, tensor: &InferInputTensor) -> Result<(), Failure> {
    input_parameters(&tensor.parameters)
        .map_err(|failure| within(failure, &format!("inputs[{at}]")))
}

/// The elements of a typed tensor, which must be in the field of its datatype alone.
fn data(datatype: DataType, mut contents: InferTensorContents) -> Result<Data, Failure> {
    let Some(field) = field(datatype) else {
        return Err(Failure::invalid(format!(
            "expected {datatype} in raw_input_contents, since contents have no field for it"
        )));
    };
    let odd = filled(&contents)
        .into_iter()
        .find(|(name, filled)| *filled && *name != field);
    if let Some((odd, _)) = odd {
        return Err(Failure::invalid(format!(
            "expected {datatype} in {field}, got {odd}"
        )));
    }
    match datatype {
        DataType::Bool => lend(std::mem::take(&mut contents.bool_contents)),
        DataType::Uint8 => narrowed::<u32, u8>(field, &contents.uint_contents),
        DataType::Uint16 => narrowed::<u32, u16>(field, &contents.uint_contents),
        DataType::Uint32 => lend(contents.uint_contents),
        DataType::Uint64 => lend(contents.uint64_contents),
        DataType::Int8 => narrowed::<i32, i8>(field, &contents.int_contents),
        DataType::Int16 => narrowed::<i32, i16>(field, &contents.int_contents),
        DataType::Int32 => lend(contents.int_contents),
        DataType::Int64 => lend(contents.int64_contents),
        DataType::Fp32 => lend(contents.fp32_contents),
        DataType::Fp64 => lend(contents.fp64_contents),
        DataType::Bytes => Ok(Data::Elements(contents.bytes_contents)),
        DataType::Fp16 | DataType::Bf16 => Ok(Data::Fixed(Bytes::new())),
    }
}

/// The name of the field that elements of a datatype stand in.
fn field(datatype: DataType) -> Option<&'static str> {
    match datatype {
        DataType::Bool => Some("bool_contents"),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => Some("int_contents"),
        DataType::Int64 => Some("int64_contents"),
        DataType::Uint8 | DataType::Uint16 | DataType::Uint32 => Some("uint_contents"),
        DataType::Uint64 => Some("uint64_contents"),
        DataType::Fp32 => Some("fp32_contents"),
        DataType::Fp64 => Some("fp64_contents"),
        DataType::Bytes => Some("bytes_contents"),
        DataType::Fp16 | DataType::Bf16 => None,
    }
}

fn filled(contents: &InferTensorContents) -> [(&'static str, bool); 8] {
    [
        ("bool_contents", !contents.bool_contents.is_empty()),
        ("int_contents", !contents.int_contents.is_empty()),
        ("int64_contents", !contents.int64_contents.is_empty()),
        ("uint_contents", !contents.uint_contents.is_empty()),
        ("uint64_contents", !contents.uint64_contents.is_empty()),
        ("fp32_contents", !contents.fp32_contents.is_empty()),
        ("fp64_contents", !contents.fp64_contents.is_empty()),
        ("bytes_contents", !contents.bytes_contents.is_empty()),
    ]
}

/// The memory of the elements as that of a tensor.
fn lend<T: Element>(values: Vec<T>) -> Result<Data, Failure> {
    let tensor = Tensor::from_vec([values.len()], values);
    let tensor = tensor.map_err(|error| Failure::invalid(error.to_string()))?;
    Ok(tensor.data().clone())
}

/// The elements of a datatype that is smaller than its field.
fn narrowed<Wide, Narrow>(field: &str, values: &[Wide]) -> Result<Data, Failure>
where
    Wide: Copy + std::fmt::Display,
    Narrow: Element + TryFrom<Wide>,
{
    let mut narrow = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let value = Narrow::try_from(*value).map_err(|_| {
            Failure::invalid(format!(
                "{field}[{at}]: expected a number in the range of {}, got {value}",
                Narrow::DATATYPE
            ))
        })?;
        narrow.push(value);
    }
    lend(narrow)
}

/// Which model answers what.
#[derive(Clone, Copy, Debug)]
pub(super) struct Model<'a> {
    pub(super) name: &'a str,
    pub(super) version: &'a str,
    pub(super) spec: &'a Spec,
    /// What the places of its first output mean.
    pub(super) labels: &'a [String],
}

/// The message of an answer, and the raw tensors that belong at its end. `last` says on a stream whether it is the last answer to its
/// request. Outputs of which the highest numbers are wanted are exchanged for those.
///
/// # Errors
/// `output_mismatch` for what has no form in a message.
pub(super) fn encode(
    from: Model<'_>,
    id: Option<&str>,
    form: &Form,
    outputs: &mut [Tensor],
    last: Option<bool>,
) -> Result<(ModelInferResponse, Vec<Bytes>), Failure> {
    infer::put_classes(from.spec, &form.outputs, from.labels, outputs);
    let wanted = form.outputs.iter().map(|wanted| wanted.output);
    let wanted =
        wanted.filter_map(|index| Some((from.spec.outputs.get(index)?, outputs.get(index)?)));
    let typed = form.typed
        && wanted
            .clone()
            .all(|(_, tensor)| field(tensor.datatype()).is_some());
    let mut response = empty(from, id, last);
    let mut raw = Vec::with_capacity(if typed { 0 } else { form.outputs.len() });
    for (spec, tensor) in wanted {
        response.outputs.push(InferOutputTensor {
            name: spec.name.clone(),
            datatype: tensor.datatype().name().to_owned(),
            shape: shape(tensor),
            parameters: HashMap::new(),
            contents: typed.then(|| contents(tensor)),
        });
        if !typed {
            raw.push(to_raw(tensor)?);
        }
    }
    Ok((response, raw))
}

/// An answer without tensors.
pub(super) fn empty(from: Model<'_>, id: Option<&str>, last: Option<bool>) -> ModelInferResponse {
    let last = last.map(|last| {
        (
            FINAL.to_owned(),
            parameter(ParameterChoice::BoolParam(last)),
        )
    });
    ModelInferResponse {
        model_name: from.name.to_owned(),
        model_version: from.version.to_owned(),
        id: id.unwrap_or_default().to_owned(),
        parameters: last.into_iter().collect(),
        ..ModelInferResponse::default()
    }
}

pub(super) fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter {
        parameter_choice: Some(choice),
    }
}

fn shape(tensor: &Tensor) -> Vec<i64> {
    let sizes = tensor.shape().iter();
    sizes
        .map(|size| i64::try_from(*size).unwrap_or(i64::MAX))
        .collect()
}

/// The elements in the field of their datatype, which has one.
fn contents(tensor: &Tensor) -> InferTensorContents {
    let mut contents = InferTensorContents::default();
    match tensor.datatype() {
        DataType::Bool => contents.bool_contents = values(tensor),
        DataType::Uint8 => contents.uint_contents = widened::<u8, _>(tensor),
        DataType::Uint16 => contents.uint_contents = widened::<u16, _>(tensor),
        DataType::Uint32 => contents.uint_contents = values(tensor),
        DataType::Uint64 => contents.uint64_contents = values(tensor),
        DataType::Int8 => contents.int_contents = widened::<i8, _>(tensor),
        DataType::Int16 => contents.int_contents = widened::<i16, _>(tensor),
        DataType::Int32 => contents.int_contents = values(tensor),
        DataType::Int64 => contents.int64_contents = values(tensor),
        DataType::Fp32 => contents.fp32_contents = values(tensor),
        DataType::Fp64 => contents.fp64_contents = values(tensor),
        DataType::Bytes => {
            contents.bytes_contents = tensor.byte_elements().unwrap_or_default().to_vec();
        }
        DataType::Fp16 | DataType::Bf16 => (),
    }
    contents
}

fn values<T: Element>(tensor: &Tensor) -> Vec<T> {
    tensor.to_vec().unwrap_or_default()
}

fn widened<Narrow: Element, Wide: From<Narrow>>(tensor: &Tensor) -> Vec<Wide> {
    let values = tensor.values::<Narrow>().unwrap_or_default();
    values.iter().copied().map(Wide::from).collect()
}
