//! A request of gRPC into tensors that are checked against the model's signature, and an answer into a message.
//!
//! Tensors come either all raw or all in the typed fields of their datatypes; `FP16` and `BF16` have no such field. The answer comes as the
//! request did. Raw tensors are not copied: they are pieces of the request's memory, and of the model's.

use std::collections::HashMap;
use std::num::NonZeroUsize;

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
use crate::protocol::Excerpt;
use crate::protocol::classes::is_classifiable;
use crate::protocol::infer::{self, Wanted};
use crate::protocol::parameters;
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

const CLASSIFICATION: &str = "classification";
const EMPTY_FINAL: &str = "triton_enable_empty_final_response";
pub(super) const FINAL: &str = "triton_final_response";

/// Takes a request apart.
///
/// # Errors
/// `invalid_input` with a sentence that names the field, what was expected and what came; `too_large` for more elements of `BYTES` tensors
/// than [`crate::protocol::MAX_STRINGS`].
pub(super) fn decode(request: ModelInferRequest, spec: &Spec) -> Result<Asked, Failure> {
    let meta = meta(request.id, &request.parameters)?;
    let empty_final = reserved(&request.parameters)?;
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
    for (name, parameter) in parameters {
        let taken = parameters::take(&mut meta, name, value(parameter));
        taken.map_err(|what| expected(name, what, parameter))?;
    }
    meta.parameters = json(parameters);
    Ok(meta)
}

/// Checks the parameters whose names are not the caller's to choose. Gives whether an empty answer shall end a stream, which some clients
/// say of every request.
fn reserved(parameters: &Parameters) -> Result<bool, Failure> {
    no_shared_memory(parameters)?;
    let mut empty_final = false;
    for (name, value) in parameters {
        if name == EMPTY_FINAL {
            let Some(ParameterChoice::BoolParam(asked)) = value.parameter_choice else {
                return Err(expected(name, "true or false", value));
            };
            empty_final = asked;
        } else if name.starts_with("triton_") {
            return Err(refused(name, parameters::RESERVED));
        }
    }
    Ok(empty_final)
}

fn no_shared_memory(parameters: &Parameters) -> Result<(), Failure> {
    let refusal = |name: &String| Some(refused(name, parameters::refusal(name)?));
    parameters.keys().find_map(refusal).map_or(Ok(()), Err)
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
    no_shared_memory(parameters)?;
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
        Some(_) => Err(Failure::invalid(format!(
            "parameters.{CLASSIFICATION}: expected an output of numbers, got one of other things"
        ))),
        None => Err(expected(
            CLASSIFICATION,
            "a number of classes",
            classification,
        )),
    }
}

fn refused(name: &str, why: &str) -> Failure {
    Failure::invalid(format!(
        "parameters.{}: expected a request without this parameter: {why}",
        Excerpt(name)
    ))
}

fn expected(name: &str, what: &str, got: &InferParameter) -> Failure {
    let got = match &got.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => value.to_string(),
        Some(ParameterChoice::Int64Param(value)) => value.to_string(),
        Some(ParameterChoice::Uint64Param(value)) => value.to_string(),
        Some(ParameterChoice::DoubleParam(value)) => format!("{value:?}"),
        Some(ParameterChoice::StringParam(text)) => format!("\"{}\"", Excerpt(text)),
        None => "nothing".to_owned(),
    };
    Failure::invalid(format!("parameters.{name}: expected {what}, got {got}"))
}

fn within(mut failure: Failure, place: &str) -> Failure {
    failure.message = format!("{place}.{}", failure.message);
    failure
}

fn value(parameter: &InferParameter) -> parameters::Value {
    match (whole(parameter), &parameter.parameter_choice) {
        (Some(number), _) => parameters::Value::Whole(number),
        (None, Some(ParameterChoice::BoolParam(_))) => parameters::Value::Switch,
        (None, Some(ParameterChoice::StringParam(_))) => parameters::Value::Text,
        _ => parameters::Value::Other,
    }
}

/// A number of 0 or more, in either of the forms in which clients write it.
fn whole(parameter: &InferParameter) -> Option<u64> {
    match parameter.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(value) => u64::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => Some(*value),
        ParameterChoice::StringParam(_)
        | ParameterChoice::BoolParam(_)
        | ParameterChoice::DoubleParam(_) => None,
    }
}

/// The parameters that a model is told as the text of a JSON object, in the order of their names; `None` where there are none.
fn json(parameters: &Parameters) -> Option<String> {
    let value = |parameter: &InferParameter| match &parameter.parameter_choice {
        Some(ParameterChoice::BoolParam(value)) => Value::from(*value),
        Some(ParameterChoice::Int64Param(value)) => Value::from(*value),
        Some(ParameterChoice::StringParam(value)) => Value::from(value.as_str()),
        // Those that JSON cannot say are null.
        Some(ParameterChoice::DoubleParam(value)) => Value::from(*value),
        Some(ParameterChoice::Uint64Param(value)) => Value::from(*value),
        None => Value::Null,
    };
    // The server's own name is none of the model's affair.
    let told = parameters
        .iter()
        .filter(|(name, _)| *name != EMPTY_FINAL)
        .map(|(name, parameter)| (name.clone(), value(parameter)));
    let fields: Map<_, _> = told.collect();
    (!fields.is_empty()).then(|| Value::Object(fields).to_string())
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
        let none = filled(&contents).iter().all(|(_, filled)| !filled);
        // An unknown datatype is found by the check against the signature.
        let data = match DataType::from_name(&tensor.datatype) {
            Some(datatype) => data(at, datatype, contents)?,
            None => Data::Fixed(Bytes::new()),
        };
        if none && !tensor.shape.contains(&0) {
            return Err(Failure::invalid(format!(
                "inputs[{at}]: expected elements in contents or in raw_input_contents, got neither"
            )));
        }
        inputs.add(&tensor.name, &tensor.datatype, &tensor.shape, data)?;
    }
    inputs.finish()
}

fn checked_parameters(at: usize, tensor: &InferInputTensor) -> Result<(), Failure> {
    no_shared_memory(&tensor.parameters)
        .map_err(|failure| within(failure, &format!("inputs[{at}]")))
}

/// The elements of the typed tensor at that place, which must be in the field of its datatype alone.
fn data(at: usize, datatype: DataType, mut contents: InferTensorContents) -> Result<Data, Failure> {
    let Some(field) = field(datatype) else {
        return Err(Failure::invalid(format!(
            "inputs[{at}].contents: expected {datatype} in raw_input_contents, since contents have no field for it"
        )));
    };
    let odd = filled(&contents)
        .into_iter()
        .find(|(name, filled)| *filled && *name != field);
    if let Some((odd, _)) = odd {
        return Err(Failure::invalid(format!(
            "inputs[{at}].contents: expected {datatype} in {field}, got {odd}"
        )));
    }
    match datatype {
        DataType::Bool => lend(std::mem::take(&mut contents.bool_contents)),
        DataType::Uint8 => narrowed::<u32, u8>(at, field, &contents.uint_contents),
        DataType::Uint16 => narrowed::<u32, u16>(at, field, &contents.uint_contents),
        DataType::Uint32 => lend(contents.uint_contents),
        DataType::Uint64 => lend(contents.uint64_contents),
        DataType::Int8 => narrowed::<i32, i8>(at, field, &contents.int_contents),
        DataType::Int16 => narrowed::<i32, i16>(at, field, &contents.int_contents),
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
fn narrowed<Wide, Narrow>(input: usize, field: &str, values: &[Wide]) -> Result<Data, Failure>
where
    Wide: Copy + std::fmt::Display,
    Narrow: Element + TryFrom<Wide>,
{
    let mut narrow = Vec::with_capacity(values.len());
    for (at, value) in values.iter().enumerate() {
        let value = Narrow::try_from(*value).map_err(|_| {
            Failure::invalid(format!(
                "inputs[{input}].contents.{field}[{at}]: expected a number in the range of {}, got {value}",
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jitney_engine::{BatchAxis, Items, TensorSpec};
    use proptest::prelude::*;

    use super::*;

    fn spec(rows: &[(&str, &str)]) -> Spec {
        let tensors = rows
            .iter()
            .map(|(name, row)| TensorSpec::parse_row(name, row).unwrap());
        let tensors: Vec<_> = tensors.collect();
        Spec {
            inputs: tensors.clone(),
            outputs: tensors,
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    fn model(spec: &Spec) -> Model<'_> {
        Model {
            name: "m",
            version: "1",
            spec,
            labels: &[],
        }
    }

    fn request(name: &str, datatype: DataType, shape: &[i64]) -> ModelInferRequest {
        ModelInferRequest {
            inputs: vec![InferInputTensor {
                name: name.to_owned(),
                datatype: datatype.name().to_owned(),
                shape: shape.to_vec(),
                ..InferInputTensor::default()
            }],
            ..ModelInferRequest::default()
        }
    }

    /// A tensor of that datatype whose elements are made of these bytes.
    fn tensor(datatype: DataType, rows: usize, bytes: &[u8]) -> Tensor {
        let mut bytes = bytes.iter().copied().cycle();
        let data = match datatype.width() {
            _ if datatype == DataType::Bool => {
                Data::Fixed(bytes.take(2 * rows).map(|byte| byte & 1).collect())
            }
            Some(width) => Data::Fixed(bytes.take(2 * rows * width).collect()),
            None => {
                let mut element = || (0..3).map(|_| bytes.next().unwrap()).collect();
                Data::Elements((0..2 * rows).map(|_| element()).collect())
            }
        };
        Tensor::new(datatype, [rows, 2].as_slice().into(), data).unwrap()
    }

    proptest! {
        /// To the last bit, NaN included, in either form; and the answer has the form of the request.
        #[test]
        fn tensors_come_back_as_they_went(
            datatype in prop::sample::select(DataType::ALL.to_vec()),
            rows in 1..4_usize,
            bytes in prop::collection::vec(any::<u8>(), 1..50),
            typed in any::<bool>(),
        ) {
            let row = format!("{datatype}[2]");
            let spec = spec(&[("x", row.as_str())]);
            let tensor = tensor(datatype, rows, &bytes);
            let mut request = request("x", datatype, &shape(&tensor));
            let typed = typed && field(datatype).is_some();
            match typed {
                true => request.inputs[0].contents = Some(contents(&tensor)),
                false => request.raw_input_contents = vec![to_raw(&tensor).unwrap()],
            }
            let asked = decode(request.clone(), &spec).unwrap();
            let mut outputs = asked.inputs.clone();
            prop_assert_eq!(&outputs, std::slice::from_ref(&tensor));
            let (response, raw) = encode(model(&spec), None, &asked.form, &mut outputs, None).unwrap();
            let bits = |contents: Option<InferTensorContents>| contents.map(|c| prost::Message::encode_to_vec(&c));
            prop_assert_eq!(bits(response.outputs[0].contents.clone()), bits(request.inputs[0].contents.clone()));
            prop_assert_eq!(raw, request.raw_input_contents);
            prop_assert_eq!(&response.outputs[0].shape, &request.inputs[0].shape);
        }
    }

    #[test]
    fn raw_tensors_are_pieces_of_the_message() {
        let spec = spec(&[("a", "FP32[2]"), ("b", "BYTES[1]")]);
        let memory = Bytes::from_static(b"01234567\x02\0\0\0hi");
        let mut both = request("a", DataType::Fp32, &[1, 2]);
        both.inputs
            .extend(request("b", DataType::Bytes, &[1, 1]).inputs);
        both.raw_input_contents = vec![memory.slice(..8), memory.slice(8..)];
        let asked = decode(both, &spec).unwrap();
        let Data::Fixed(floats) = asked.inputs[0].data() else {
            panic!("floats have a fixed width");
        };
        let strings = asked.inputs[1].byte_elements().unwrap();
        let memory = memory.as_ptr_range();
        assert!(memory.contains(&floats.as_ptr()) && memory.contains(&strings[0].as_ptr()));
    }

    #[test]
    fn numbers_must_be_in_the_range_of_their_datatype() {
        let ints = |values: &[i32]| InferTensorContents {
            int_contents: values.to_vec(),
            ..Default::default()
        };
        let uints = |values: &[u32]| InferTensorContents {
            uint_contents: values.to_vec(),
            ..Default::default()
        };
        let rows = [
            (DataType::Int8, ints(&[-128, 127]), None),
            (
                DataType::Int8,
                ints(&[0, 128]),
                Some(
                    "inputs[0].contents.int_contents[1]: expected a number in the range of INT8, got 128",
                ),
            ),
            (DataType::Int8, ints(&[-129]), Some("int_contents[0]")),
            (DataType::Int16, ints(&[-32_768, 32_767]), None),
            (DataType::Int16, ints(&[32_768]), Some("INT16, got 32768")),
            (DataType::Uint8, uints(&[255]), None),
            (DataType::Uint8, uints(&[256]), Some("UINT8, got 256")),
            (DataType::Uint16, uints(&[65_535]), None),
            (
                DataType::Uint16,
                uints(&[65_536]),
                Some("UINT16, got 65536"),
            ),
            (
                DataType::Fp32,
                ints(&[1]),
                Some("inputs[0].contents: expected FP32 in fp32_contents, got int_contents"),
            ),
            (
                DataType::Bf16,
                ints(&[]),
                Some("inputs[0].contents: expected BF16 in raw_input_contents"),
            ),
        ];
        for (datatype, contents, expected) in rows {
            match (data(0, datatype, contents), expected) {
                (Ok(_), None) => (),
                (Err(failure), Some(words)) => {
                    assert!(failure.message.contains(words), "{failure}");
                }
                (got, expected) => panic!("{datatype}: {got:?} instead of {expected:?}"),
            }
        }
    }

    #[test]
    fn parameters_of_every_kind_reach_the_model_as_json() {
        use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam, Uint64Param};
        let spec = spec(&[("x", "FP32[2]")]);
        let mut asked = request("x", DataType::Fp32, &[1, 2]);
        asked.id = "7".to_owned();
        asked.raw_input_contents = vec![Bytes::from_static(&[0; 8])];
        let choices = [
            ("a", BoolParam(true)),
            ("b\"", StringParam("\n".to_owned())),
            ("c", DoubleParam(0.5)),
            ("d", DoubleParam(f64::NAN)),
            ("e", Uint64Param(u64::MAX)),
            ("priority", Uint64Param(3)),
            ("sequence_id", Int64Param(7)),
            ("timeout", Int64Param(250)),
        ];
        asked.parameters = choices
            .map(|(name, choice)| (name.to_owned(), parameter(choice)))
            .into();
        let meta = decode(asked, &spec).unwrap().meta;
        let text = r#"{"a":true,"b\"":"\n","c":0.5,"d":null,"e":18446744073709551615,"priority":3,"sequence_id":7,"timeout":250}"#;
        let expected = Meta {
            id: Some("7".to_owned()),
            timeout: Some(Duration::from_micros(250)),
            priority: 3,
            parameters: Some(text.to_owned()),
            key: None,
        };
        assert_eq!(meta, expected);
    }

    #[test]
    fn parameters_with_a_meaning_are_checked() {
        use ParameterChoice::{BoolParam, DoubleParam, Int64Param, StringParam};
        let spec = spec(&[("x", "FP32[2]")]);
        let text = |text: &str| StringParam(text.to_owned());
        let rows = [
            ("sequence_id", text("a"), ""),
            ("sequence_id", Int64Param(0), ""),
            ("sequence_id", Int64Param(-1), "or a string, got -1"),
            ("sequence_id", BoolParam(true), "or a string, got true"),
            ("sequence_start", BoolParam(true), ""),
            (
                "sequence_end",
                Int64Param(1),
                "expected true or false, got 1",
            ),
            ("priority", text("1"), "or 0 for none, got \"1\""),
            ("priority", DoubleParam(1.0), "or 0 for none, got 1.0"),
            ("timeout", text("250"), "of microseconds, got \"250\""),
            (
                "triton_x",
                Int64Param(1),
                "parameters.triton_x: expected a request without this parameter: names that begin with triton_ are reserved",
            ),
        ];
        for (name, choice, words) in rows {
            let mut asked = request("x", DataType::Fp32, &[1, 2]);
            asked.raw_input_contents = vec![Bytes::from_static(&[0; 8])];
            let row = format!("{name} {choice:?}");
            asked.parameters = [(name.to_owned(), parameter(choice))].into();
            match decode(asked, &spec) {
                Ok(_) => assert_eq!(words, "", "{row}"),
                Err(failure) => {
                    assert!(
                        !words.is_empty() && failure.message.contains(words),
                        "{failure}"
                    );
                }
            }
        }
    }

    /// A refusal on a stream is a message, and those of many requests must not add up.
    #[test]
    fn a_refusal_is_short_however_long_a_name_is() {
        let spec = spec(&[("x", "FP32[2]")]);
        let parameters = |start: &str| -> Parameters {
            let name = format!("{start}{}", "\u{1b}".repeat(100_000));
            [(name, parameter(ParameterChoice::BoolParam(true)))].into()
        };
        let own = |start: &str| {
            let mut asked = request("x", DataType::Fp32, &[1, 2]);
            asked.parameters = parameters(start);
            asked
        };
        let mut of_input = request("x", DataType::Fp32, &[1, 2]);
        of_input.inputs[0].parameters = parameters("shared_memory_");
        for asked in [own("shared_memory_"), own("triton_"), of_input] {
            let failure = decode(asked, &spec).unwrap_err();
            assert!(failure.message.len() < 500, "{failure}");
            assert!(failure.message.contains("..."), "{failure}");
        }
    }

    #[test]
    fn one_of_the_servers_own_names_is_understood() {
        let spec = spec(&[("x", "FP32[2]")]);
        let mut asked = request("x", DataType::Fp32, &[1, 2]);
        asked.raw_input_contents = vec![Bytes::from_static(&[0; 8])];
        let with = |choice| {
            let mut asked = asked.clone();
            asked
                .parameters
                .insert(EMPTY_FINAL.to_owned(), parameter(choice));
            asked
        };
        let yes = with(ParameterChoice::BoolParam(true));
        let asked_for = decode(yes, &spec).unwrap();
        assert!(asked_for.form.empty_final);
        assert_eq!(asked_for.meta.parameters, None);
        assert!(decode(with(ParameterChoice::Int64Param(1)), &spec).is_err());
        let other = (
            "triton_other".to_owned(),
            parameter(ParameterChoice::BoolParam(true)),
        );
        asked.parameters.extend([other]);
        assert!(decode(asked, &spec).is_err());
    }
}
