//! The inference request and answer of the Open Inference Protocol, with tensors as JSON.
//!
//! Beside the protocol's fields these are understood: the request parameters `timeout` (microseconds) and `binary_data_output: false`,
//! the input parameter `content_type: "base64"` of `BYTES` tensors, and the output parameter `binary_data: false`. Binary tensors, shared
//! memory, classification and parameters named `triton_...` are refused by name, since an answer without them would be another one than
//! asked for. All other parameters, `priority` and `sequence_...` among them, mean nothing here. The request's parameters are kept as they
//! were written, for the model.
//!
//! A model that takes JSON values ([`Items::Json`]) has one `BYTES` input and one `BYTES` output; each of their elements is the text of one
//! JSON value.
//!
//! The protocol has no JSON form for inputs of `FP16` and `BF16`, so they are refused here; [`super::predict`] takes their numbers.

use std::time::Duration;

use jitney_engine::tensor::{Data, DataType, Shape};
use jitney_engine::{Dim, Items, Spec, Tensor, TensorSpec};
use smallvec::SmallVec;

use super::data::{self, too_many_dimensions};
use super::scan::{Fault, Outcome, Scanner};
use super::tensors::{Inputs, check_datatype, check_shape, datatype_of, find, given_twice};
use super::write::Notes;
use super::{MAX_DIMENSIONS, write};
use crate::call::Meta;
use crate::failure::Failure;

/// A request, checked against the model's signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What it says about itself.
    pub meta: Meta,
    /// The tensors, in the order of [`Spec::inputs`], batch axis included.
    pub inputs: Vec<Tensor>,
    /// Which outputs to answer, as indices into [`Spec::outputs`], in the order asked for.
    pub outputs: Vec<usize>,
}

/// Reads the body of a request.
///
/// # Errors
/// `invalid_input` with a sentence that names the field, what was expected and what came, such as `inputs[0].data[17]: expected an integer
/// from 0 to 255 (UINT8), got 256 at byte 90`; `too_large` for more strings than [`super::MAX_STRINGS`].
///
/// ```
/// use jitney_engine::{BatchAxis, Items, Spec, TensorSpec};
/// use jitney_server::protocol::infer;
///
/// let spec = Spec {
///     inputs: vec![TensorSpec::parse_row("pixels", "FP32[2]")?],
///     outputs: vec![TensorSpec::parse_row("score", "FP32")?],
///     batch: BatchAxis::Free,
///     rows_independent: true,
///     items: Items::Tensors,
/// };
/// let body = br#"{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1]}]}"#;
/// let request = infer::decode(body, &spec)?;
/// assert_eq!(request.inputs[0].to_vec::<f32>(), Some(vec![0.5, 1.0]));
/// assert_eq!(request.outputs, [0]);
///
/// let body = br#"{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 2], "data": [0.5, "1"]}]}"#;
/// assert_eq!(
///     infer::decode(body, &spec).unwrap_err().message,
///     r#"inputs[0].data[1]: expected a number in the range of FP32, got "1" at byte 82"#,
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode(body: &[u8], spec: &Spec) -> Result<Request, Failure> {
    Ok(read(body, spec)?)
}

/// Writes the answer: of `outputs`, which has a tensor for each of [`Spec::outputs`], those of which the index is wanted.
pub fn encode(
    out: &mut Vec<u8>,
    model: &str,
    version: &str,
    meta: &Meta,
    spec: &Spec,
    wanted: &[usize],
    outputs: &[Tensor],
) {
    write::text(out, r#"{"model_name":"#);
    write::string(out, model);
    write::text(out, r#","model_version":"#);
    write::string(out, version);
    if let Some(id) = &meta.id {
        write::text(out, r#","id":"#);
        write::string(out, id);
    }
    write::text(out, r#","outputs":"#);
    let tensors = wanted
        .iter()
        .filter_map(|index| Some((spec.outputs.get(*index)?, outputs.get(*index)?)));
    let json = (spec.items == Items::Json).then(|| Notes::of_json(outputs));
    write::list(out, tensors, |out, (spec, tensor)| {
        encode_output(out, &spec.name, tensor, json);
    });
    out.push(b'}');
}

fn encode_output(out: &mut Vec<u8>, name: &str, tensor: &Tensor, json: Option<Notes>) {
    write::text(out, r#"{"name":"#);
    write::string(out, name);
    write::text(out, r#","datatype":""#);
    write::text(out, tensor.datatype().name());
    write::text(out, r#"","shape":"#);
    write::integers(out, tensor.shape());
    write::text(out, r#","data":"#);
    let written = write::flat(out, tensor);
    let notes = json.unwrap_or(written);
    if !notes.is_empty() {
        write::text(out, r#","parameters":"#);
        notes.write(out);
    }
    out.push(b'}');
}

pub(super) fn read(body: &[u8], spec: &Spec) -> Outcome<Request> {
    let mut scanner = Scanner::new(body)?;
    let mut meta = Meta::default();
    let mut inputs = None;
    let mut outputs = Vec::new();
    let mut keys = scanner.object("an object with \"inputs\"")?;
    while let Some(key) = keys.next(&mut scanner)? {
        match &*key {
            "id" => optional(&mut scanner, |scanner| {
                meta.id = Some(scanner.string("a string")?.into_owned());
                Ok(())
            }),
            "parameters" => optional(&mut scanner, |scanner| {
                let start = scanner.at();
                meta.timeout = read_request_parameters(scanner)?;
                meta.parameters = Some(scanner.text_since(start).to_owned());
                Ok(())
            }),
            "inputs" => read_inputs(&mut scanner, spec).map(|read| inputs = Some(read)),
            "outputs" => optional(&mut scanner, |scanner| {
                outputs = read_outputs(scanner, spec)?;
                Ok(())
            }),
            _ => scanner.skip(),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    scanner.end()?;
    if outputs.is_empty() {
        outputs = (0..spec.outputs.len()).collect();
    }
    Ok(Request {
        meta,
        inputs: inputs.ok_or_else(|| missing("an array of tensors", "inputs"))?,
        outputs,
    })
}

/// Reads a value, or the `null` that some clients write for none.
pub(super) fn optional<'a>(
    scanner: &mut Scanner<'a>,
    read: impl FnOnce(&mut Scanner<'a>) -> Outcome<()>,
) -> Outcome<()> {
    if scanner.eat_word("null") {
        return Ok(());
    }
    read(scanner)
}

/// Reads the parameters of the request, of which the timeout alone matters to the server.
fn read_request_parameters(scanner: &mut Scanner<'_>) -> Outcome<Option<Duration>> {
    let mut meta = Meta::default();
    read_parameters(scanner, |scanner, name| {
        read_request_parameter(scanner, name, &mut meta)
    })?;
    Ok(meta.timeout)
}

/// Reads one parameter of a request.
pub(super) fn read_request_parameter(
    scanner: &mut Scanner<'_>,
    name: &str,
    meta: &mut Meta,
) -> Outcome<()> {
    match name {
        // Zero is the protocol's default and stands for no timeout of the request's own.
        "timeout" => match scanner.unsigned::<u64>() {
            Some(micros) => {
                meta.timeout = (micros > 0).then(|| Duration::from_micros(micros));
                Ok(())
            }
            None => Err(scanner.expected("an integer of microseconds")),
        },
        "binary_data_output" => read_false(scanner, BINARY),
        name if name.starts_with("triton_") => Err(refused("is reserved")),
        _ => scanner.skip(),
    }
}

const BINARY: &str = "binary tensors are not supported, only tensors in JSON";
const SHARED_MEMORY: &str = "shared memory is not supported";

/// Reads an object of parameters, each by the function that is given its name.
fn read_parameters<'a>(
    scanner: &mut Scanner<'a>,
    mut read: impl FnMut(&mut Scanner<'a>, &str) -> Outcome<()>,
) -> Outcome<()> {
    let mut keys = scanner.object("an object of parameters")?;
    while let Some(name) = keys.next(scanner)? {
        let read = if name.starts_with("shared_memory_") {
            Err(refused(SHARED_MEMORY))
        } else {
            read(scanner, &name)
        };
        read.map_err(|fault| fault.key(&name))?;
    }
    Ok(())
}

/// Reads a switch that cannot be on.
fn read_false(scanner: &mut Scanner<'_>, why: &str) -> Outcome<()> {
    match scanner.boolean() {
        Some(false) => Ok(()),
        Some(true) => Err(refused(why)),
        None => Err(scanner.expected("true or false")),
    }
}

fn refused(why: &str) -> Box<Fault> {
    Fault::new(format!("expected a request without this parameter: {why}"))
}

fn missing(what: &str, key: &str) -> Box<Fault> {
    Fault::new(format!("expected {what}, but it is missing")).key(key)
}

fn read_inputs(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Vec<Tensor>> {
    let mut inputs = Inputs::new(spec);
    let mut items = scanner.array("an array of tensors")?;
    let mut index = 0;
    while items.next(scanner)? {
        read_input(scanner, spec, &mut inputs).map_err(|fault| fault.index(index))?;
        index += 1;
    }
    inputs.complete()
}

/// The fields of an input, as far as they have come. Keys may stand in any order, so the data may come before what it takes to read it.
#[derive(Default)]
struct Input<'s> {
    spec: Option<(usize, &'s TensorSpec)>,
    datatype: Option<DataType>,
    shape: Option<Shape>,
    base64: bool,
    data: Option<Data>,
    /// Where data stands that could not be read yet.
    pending: Option<usize>,
}

fn read_input(scanner: &mut Scanner<'_>, spec: &Spec, inputs: &mut Inputs<'_>) -> Outcome<()> {
    let mut input = Input::default();
    let mut keys =
        scanner.object("an object with \"name\", \"shape\", \"datatype\" and \"data\"")?;
    while let Some(key) = keys.next(scanner)? {
        match &*key {
            "name" => read_name(scanner, &spec.inputs).map(|named| input.spec = Some(named)),
            "datatype" => read_datatype(scanner).map(|datatype| input.datatype = Some(datatype)),
            "shape" => read_shape(scanner).map(|shape| input.shape = Some(shape)),
            "parameters" => optional(scanner, |scanner| input.read_parameters(scanner)),
            "data" if input.is_described() => {
                input.check(spec)?;
                input.read_data(scanner)
            }
            "data" => {
                scanner.peek();
                input.pending = Some(scanner.at());
                scanner.skip()
            }
            _ => scanner.skip(),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    input.read_pending(scanner, spec)?;
    input.decode()?;
    input.place(inputs)
}

impl Input<'_> {
    fn is_described(&self) -> bool {
        self.spec.is_some() && self.datatype.is_some() && self.shape.is_some()
    }

    fn read_parameters(&mut self, scanner: &mut Scanner<'_>) -> Outcome<()> {
        read_parameters(scanner, |scanner, name| match name {
            "content_type" => {
                self.base64 = scanner.string("a string")? == "base64";
                Ok(())
            }
            "binary_data_size" => Err(refused(BINARY)),
            _ => scanner.skip(),
        })
    }

    /// Checks the name, the datatype and the shape against the signature.
    fn check(&self, spec: &Spec) -> Outcome<()> {
        let (_, tensor) = self
            .spec
            .ok_or_else(|| missing("the name of an input", "name"))?;
        let datatype = self
            .datatype
            .ok_or_else(|| missing("a datatype", "datatype"))?;
        let shape = self
            .shape
            .as_deref()
            .ok_or_else(|| missing("an array of sizes", "shape"))?;
        check_datatype(tensor, datatype).map_err(|fault| fault.key("datatype"))?;
        if matches!(datatype, DataType::Fp16 | DataType::Bf16) {
            return Err(no_json_form(datatype).key("datatype"));
        }
        check_shape(tensor, shape, spec.batched()).map_err(|fault| fault.key("shape"))
    }

    fn read_data(&mut self, scanner: &mut Scanner<'_>) -> Outcome<()> {
        let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) else {
            return Ok(());
        };
        let dims: SmallVec<[Dim; 6]> = shape.iter().copied().map(Dim::Fixed).collect();
        let (_, data) = data::read(scanner, datatype, &dims)?;
        self.data = Some(data);
        Ok(())
    }

    /// Reads data that had to wait for the other fields.
    fn read_pending(&mut self, scanner: &Scanner<'_>, spec: &Spec) -> Outcome<()> {
        if self.data.is_some() {
            return Ok(());
        }
        self.check(spec)?;
        let at = self
            .pending
            .ok_or_else(|| missing("an array of elements", "data"))?;
        self.read_data(&mut scanner.moved_to(at))
            .map_err(|fault| fault.key("data"))
    }

    /// Turns what the data stands for into what the model takes.
    fn decode(&mut self) -> Outcome<()> {
        match &mut self.data {
            Some(data) if self.base64 => data::decode_base64(data),
            _ => Ok(()),
        }
    }

    /// Puts the tensor where the model takes it.
    fn place(self, inputs: &mut Inputs<'_>) -> Outcome<()> {
        let (Some((index, _)), Some(shape), Some(data)) = (self.spec, self.shape, self.data) else {
            return Ok(());
        };
        inputs.place(index, shape, data)
    }
}

/// Reads the name of one of the tensors, and finds it.
fn read_name<'s>(
    scanner: &mut Scanner<'_>,
    tensors: &'s [TensorSpec],
) -> Outcome<(usize, &'s TensorSpec)> {
    let name = scanner.string("a string")?;
    find(&name, tensors)
}

fn read_datatype(scanner: &mut Scanner<'_>) -> Outcome<DataType> {
    datatype_of(&scanner.string("a string")?)
}

/// The protocol writes the other types as JSON numbers, and leaves these to its binary form.
fn no_json_form(datatype: DataType) -> Box<Fault> {
    Fault::new(format!(
        "expected a datatype that the protocol has a JSON form for, got {datatype}: send its numbers to /predict/NAME instead"
    ))
}

fn read_shape(scanner: &mut Scanner<'_>) -> Outcome<Shape> {
    let mut shape = Shape::new();
    let mut items = scanner.array("an array of sizes")?;
    while items.next(scanner)? {
        if shape.len() == MAX_DIMENSIONS {
            return Err(too_many_dimensions());
        }
        let size = scanner.unsigned();
        shape.push(size.ok_or_else(|| scanner.expected("a size of 0 or more").index(shape.len()))?);
    }
    Ok(shape)
}

/// Reads which outputs are wanted.
fn read_outputs(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Vec<usize>> {
    let mut wanted = Vec::new();
    let mut items = scanner.array("an array of outputs")?;
    let mut index = 0;
    while items.next(scanner)? {
        let output = read_output(scanner, spec).and_then(|(output, tensor)| {
            match wanted.contains(&output) {
                true => Err(given_twice(&tensor.name).key("name")),
                false => Ok(output),
            }
        });
        wanted.push(output.map_err(|fault| fault.index(index))?);
        index += 1;
    }
    Ok(wanted)
}

fn read_output<'s>(scanner: &mut Scanner<'_>, spec: &'s Spec) -> Outcome<(usize, &'s TensorSpec)> {
    let mut output = None;
    let mut keys = scanner.object("an object with \"name\"")?;
    while let Some(key) = keys.next(scanner)? {
        match &*key {
            "name" => read_name(scanner, &spec.outputs).map(|named| output = Some(named)),
            "parameters" => optional(scanner, read_output_parameters),
            _ => scanner.skip(),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    output.ok_or_else(|| missing("the name of an output", "name"))
}

fn read_output_parameters(scanner: &mut Scanner<'_>) -> Outcome<()> {
    read_parameters(scanner, |scanner, name| match name {
        "binary_data" => read_false(scanner, BINARY),
        "classification" => Err(refused("classification is not supported")),
        _ => scanner.skip(),
    })
}
