//! The inference request and answer of the Open Inference Protocol, with tensors as JSON and as raw bytes behind it.
//!
//! # What of it is understood
//! - Request parameters: `timeout` (microseconds), `priority` (1 is the highest, 0 the default), `sequence_id`, `sequence_start` and
//!   `sequence_end`, `binary_data_output`. All of them, and all others, are kept as they were written, for the model. Names that begin with
//!   `triton_` are reserved and refused.
//! - Input parameters: `binary_data_size`; `content_type: "base64"` of `BYTES` tensors.
//! - Output parameters: `binary_data`; `classification: N`, which turns the output into its N highest numbers: `"VALUE:PLACE"` or
//!   `"VALUE:PLACE:LABEL"`, as `BYTES`.
//! - Shared memory is refused by name, since an answer without it would be another one than asked for.
//!
//! # Raw bytes
//! A body may have raw tensors behind its JSON, in the order of `inputs`; `Inference-Header-Content-Length` says how long the JSON is, and
//! each such input has `parameters.binary_data_size` and no `data`. Outputs come in the same way where they are asked for so: each by its own
//! `binary_data`, or all by `binary_data_output` where the request lists none. One that is listed without `binary_data` comes as JSON.
//! Raw bytes are the tensor's to the last bit, NaN included; nothing is copied on the way in, nor on the way out but for `BYTES`.
//!
//! Where the header says 0, the body is the bytes of the model's one input, and all outputs come as raw bytes: see [`decode_binary`].
//!
//! # Special models
//! A model that takes JSON values ([`Items::Json`]) has one `BYTES` input and one `BYTES` output; each of their elements is the text of one
//! JSON value.
//!
//! The protocol has no JSON form for inputs of `FP16` and `BF16`, so they are refused as `data`: send their raw bytes, or their numbers to
//! [`super::predict`].

use std::num::NonZeroUsize;

use bytes::Bytes;
use jitney_engine::tensor::{Data, DataType, Shape};
use jitney_engine::{Dim, Items, Spec, Tensor, TensorSpec};
use smallvec::SmallVec;

use super::binary::{self, HEADER, Tail};
use super::classes::{classify, is_classifiable};
use super::data::{self, too_many_dimensions};
use super::parameters::{self, Value};
use super::scan::{Excerpt, Fault, Outcome, Scanner};
use super::tensors::{Inputs, check_datatype, check_shape, datatype_of, find, given_twice, to_raw};
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
    /// Which outputs to answer, in the order asked for.
    pub outputs: Vec<Wanted>,
}

/// An output that is to be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which one, as an index into [`Spec::outputs`].
    pub output: usize,
    /// How it is written.
    pub form: Form,
    /// How many of its highest numbers are wanted instead of all of them.
    pub classes: Option<NonZeroUsize>,
}

/// How a tensor is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As an array in the JSON.
    Json,
    /// As raw bytes behind the JSON.
    Binary,
}

impl Wanted {
    /// All outputs of a model, each as it is.
    pub fn all(spec: &Spec, form: Form) -> Vec<Wanted> {
        let wanted = |output| Wanted {
            output,
            form,
            classes: None,
        };
        (0..spec.outputs.len()).map(wanted).collect()
    }
}

/// Reads the body of a request that is JSON from its beginning to its end.
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
/// assert_eq!(request.outputs, infer::Wanted::all(&spec, infer::Form::Json));
///
/// let body = br#"{"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 2], "data": [0.5, "1"]}]}"#;
/// assert_eq!(
///     infer::decode(body, &spec).unwrap_err().message,
///     r#"inputs[0].data[1]: expected a number in the range of FP32, got "1" at byte 82"#,
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode(body: &[u8], spec: &Spec) -> Result<Request, Failure> {
    Ok(read(body, None, spec)?)
}

/// Reads the body of a request whose `Inference-Header-Content-Length` is `json`: so many bytes of JSON, and raw tensors behind them, which
/// become slices of the body.
///
/// With 0 the body is the bytes of the model's one input: one row, whose one dimension of any size is as long as the bytes say; an element
/// of `BYTES` is the body itself, without its length in front. All outputs are wanted as raw bytes.
///
/// # Errors
/// As [`decode`].
///
/// ```
/// use bytes::Bytes;
/// use jitney_engine::{BatchAxis, Items, Spec, TensorSpec};
/// use jitney_server::protocol::infer::{self, Form, Wanted};
///
/// let spec = Spec {
///     inputs: vec![TensorSpec::parse_row("pixels", "UINT8[-1]")?],
///     outputs: vec![TensorSpec::parse_row("score", "FP32")?],
///     batch: BatchAxis::Free,
///     rows_independent: true,
///     items: Items::Tensors,
/// };
/// let json = br#"{"inputs": [{"name": "pixels", "datatype": "UINT8", "shape": [1, 3], "parameters": {"binary_data_size": 3}}]}"#;
/// let body = Bytes::from([json, &[7_u8, 8, 9][..]].concat());
/// let request = infer::decode_binary(&body, json.len(), &spec)?;
/// assert_eq!(request.inputs[0].to_vec::<u8>(), Some(vec![7, 8, 9]));
///
/// let same = infer::decode_binary(&Bytes::from_static(&[7, 8, 9]), 0, &spec)?;
/// assert_eq!(same.inputs, request.inputs);
/// assert_eq!(same.outputs, Wanted::all(&spec, Form::Binary));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode_binary(body: &Bytes, json: usize, spec: &Spec) -> Result<Request, Failure> {
    if json == 0 {
        return Ok(Request {
            meta: Meta::default(),
            inputs: binary::bare(body.clone(), spec)?,
            outputs: Wanted::all(spec, Form::Binary),
        });
    }
    let tail = Tail::of(body, json)?;
    let json = body.get(..json).unwrap_or_default();
    Ok(read(json, Some(tail), spec)?)
}

/// Puts classes in the place of the outputs of which they are wanted. `labels` are what the places of the first output mean.
pub fn put_classes(spec: &Spec, wanted: &[Wanted], labels: &[String], outputs: &mut [Tensor]) {
    for wanted in wanted {
        let labels = if wanted.output == 0 { labels } else { &[] };
        if let Some(classes) = wanted.classes
            && let Some(output) = outputs.get_mut(wanted.output)
            && let Some(top) = classify(output, spec.batched(), classes.get(), labels)
        {
            *output = top;
        }
    }
}

/// Writes the answer to the request of that id: of `outputs`, which has a tensor for each of [`Spec::outputs`], those that are wanted. Gives the raw bytes that follow
/// the JSON, one piece for each output that is wanted so.
///
/// # Errors
/// `output_mismatch` for an element of `BYTES` that is too large for the raw form, of 4 GiB or more.
pub fn encode(
    out: &mut Vec<u8>,
    model: &str,
    version: &str,
    id: Option<&str>,
    spec: &Spec,
    wanted: &[Wanted],
    outputs: &[Tensor],
) -> Result<Vec<Bytes>, Failure> {
    write::text(out, r#"{"model_name":"#);
    write::string(out, model);
    write::text(out, r#","model_version":"#);
    write::string(out, version);
    if let Some(id) = id {
        write::text(out, r#","id":"#);
        write::string(out, id);
    }
    write::text(out, r#","outputs":["#);
    let json = (spec.items == Items::Json).then(|| Notes::of_json(outputs));
    let mut raw = Vec::new();
    for (at, wanted) in wanted.iter().enumerate() {
        let named = spec.outputs.get(wanted.output);
        let Some((spec, tensor)) = named.zip(outputs.get(wanted.output)) else {
            continue;
        };
        if at > 0 {
            out.push(b',');
        }
        write_head(out, &spec.name, tensor);
        match wanted.form {
            Form::Json => write_data(out, tensor, json),
            Form::Binary => raw.push(write_size(out, tensor, json)?),
        }
        out.push(b'}');
    }
    write::text(out, "]}");
    Ok(raw)
}

fn write_head(out: &mut Vec<u8>, name: &str, tensor: &Tensor) {
    write::text(out, r#"{"name":"#);
    write::string(out, name);
    write::text(out, r#","datatype":""#);
    write::text(out, tensor.datatype().name());
    write::text(out, r#"","shape":"#);
    write::integers(out, tensor.shape());
}

/// Writes the elements, and what could not be written as itself. A model that gives JSON values says that itself.
fn write_data(out: &mut Vec<u8>, tensor: &Tensor, json: Option<Notes>) {
    write::text(out, r#","data":"#);
    let written = write::flat(out, tensor);
    json.unwrap_or(written).add(out);
}

/// Writes how many raw bytes there are, and gives them.
fn write_size(out: &mut Vec<u8>, tensor: &Tensor, json: Option<Notes>) -> Result<Bytes, Failure> {
    let raw = to_raw(tensor)?;
    write::text(out, r#","parameters":{"binary_data_size":"#);
    write::integer(out, raw.len());
    if let Some(notes) = json.filter(|notes| !notes.is_empty()) {
        out.push(b',');
        notes.write(out);
    }
    out.push(b'}');
    Ok(raw)
}

/// Reads the JSON of a request, and the tensors behind it where there is anything.
pub(super) fn read(json: &[u8], mut tail: Option<Tail>, spec: &Spec) -> Outcome<Request> {
    let mut scanner = Scanner::new(json)?;
    let mut meta = Meta::default();
    let mut inputs = None;
    let mut outputs = Vec::new();
    let mut form = Form::Json;
    let mut keys = scanner.object("an object with \"inputs\"")?;
    while let Some(key) = keys.next(&mut scanner)? {
        match &*key {
            "id" => optional(&mut scanner, |scanner| {
                meta.id = Some(scanner.string("a string")?.into_owned());
                Ok(())
            }),
            "parameters" => optional(&mut scanner, |scanner| {
                let start = scanner.at();
                form = read_request_parameters(scanner, &mut meta)?;
                meta.parameters = Some(scanner.text_since(start).to_owned());
                Ok(())
            }),
            "inputs" => {
                read_inputs(&mut scanner, tail.as_mut(), spec).map(|read| inputs = Some(read))
            }
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
        outputs = Wanted::all(spec, form);
    }
    let inputs = inputs.ok_or_else(|| missing("an array of tensors", "inputs"))?;
    tail.map_or(Ok(()), |tail| tail.end())?;
    Ok(Request {
        meta,
        inputs,
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

/// Reads the parameters of the request, and how its outputs are written where it lists none.
fn read_request_parameters(scanner: &mut Scanner<'_>, meta: &mut Meta) -> Outcome<Form> {
    let mut form = Form::Json;
    read_parameters(scanner, |scanner, name| match name {
        "binary_data_output" => {
            form = read_form(scanner)?;
            Ok(())
        }
        name => read_request_parameter(scanner, name, meta),
    })?;
    Ok(form)
}

/// Reads one parameter of a request that has nothing to do with the form of its answer.
pub(super) fn read_request_parameter(
    scanner: &mut Scanner<'_>,
    name: &str,
    meta: &mut Meta,
) -> Outcome<()> {
    if name.starts_with("triton_") {
        return Err(refused(parameters::RESERVED));
    }
    let value = value(scanner.moved_to(scanner.at()));
    parameters::take(meta, name, value).map_err(|expected| scanner.expected(expected))?;
    // The model shall be able to read it: one that it cannot read would cost it all of them.
    scanner.value().map(drop)
}

/// What kind of value is next.
fn value(mut scanner: Scanner<'_>) -> Value {
    if scanner.peek() == Some(b'"') {
        Value::Text
    } else if let Some(number) = scanner.unsigned() {
        Value::Whole(number)
    } else if scanner.boolean().is_some() {
        Value::Switch
    } else {
        Value::Other
    }
}

fn switch(scanner: &mut Scanner<'_>) -> Outcome<bool> {
    scanner
        .boolean()
        .ok_or_else(|| scanner.expected("true or false"))
}

/// Reads whether outputs are wanted as raw bytes.
fn read_form(scanner: &mut Scanner<'_>) -> Outcome<Form> {
    Ok(match switch(scanner)? {
        true => Form::Binary,
        false => Form::Json,
    })
}

/// Reads an object of parameters, each by the function that is given its name.
fn read_parameters<'a>(
    scanner: &mut Scanner<'a>,
    mut read: impl FnMut(&mut Scanner<'a>, &str) -> Outcome<()>,
) -> Outcome<()> {
    let mut keys = scanner.object("an object of parameters")?;
    while let Some(name) = keys.next(scanner)? {
        let read = match parameters::refusal(&name) {
            Some(why) => Err(refused(why)),
            None => read(scanner, &name),
        };
        read.map_err(|fault| fault.key(&name))?;
    }
    Ok(())
}

fn refused(why: &str) -> Box<Fault> {
    Fault::new(format!("expected a request without this parameter: {why}"))
}

fn missing(what: &str, key: &str) -> Box<Fault> {
    Fault::new(format!("expected {what}, but it is missing")).key(key)
}

fn read_inputs(
    scanner: &mut Scanner<'_>,
    mut tail: Option<&mut Tail>,
    spec: &Spec,
) -> Outcome<Vec<Tensor>> {
    let mut inputs = Inputs::new(spec);
    let mut items = scanner.array("an array of tensors")?;
    let mut index = 0;
    while items.next(scanner)? {
        let mut input = Input::default();
        read_input(scanner, spec, &mut input)
            .and_then(|()| input.complete(scanner, tail.as_deref_mut(), spec))
            .and_then(|()| input.place(&mut inputs))
            .map_err(|fault| fault.index(index))?;
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
    /// How many bytes behind the JSON are its elements, where they are there.
    binary: Option<usize>,
}

fn read_input<'s>(scanner: &mut Scanner<'_>, spec: &'s Spec, input: &mut Input<'s>) -> Outcome<()> {
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
    Ok(())
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
            "binary_data_size" => {
                let size = scanner.unsigned();
                self.binary = Some(size.ok_or_else(|| scanner.expected("a number of bytes"))?);
                Ok(())
            }
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
        check_shape(tensor, shape, spec.batched()).map_err(|fault| fault.key("shape"))
    }

    fn read_data(&mut self, scanner: &mut Scanner<'_>) -> Outcome<()> {
        let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) else {
            return Ok(());
        };
        if matches!(datatype, DataType::Fp16 | DataType::Bf16) {
            return Err(no_json_form(datatype));
        }
        let dims: SmallVec<[Dim; 6]> = shape.iter().copied().map(Dim::Fixed).collect();
        let (_, data) = data::read(scanner, datatype, &dims)?;
        self.data = Some(data);
        Ok(())
    }

    /// Reads elements that had to wait for the other fields, or that are not in the JSON.
    fn complete(
        &mut self,
        scanner: &Scanner<'_>,
        tail: Option<&mut Tail>,
        spec: &Spec,
    ) -> Outcome<()> {
        match self.binary {
            Some(size) => {
                self.check(spec)?;
                self.take(size, tail)?;
            }
            None if self.data.is_none() => self.read_pending(scanner, spec)?,
            None => {}
        }
        self.decode()
    }

    fn read_pending(&mut self, scanner: &Scanner<'_>, spec: &Spec) -> Outcome<()> {
        self.check(spec)?;
        let at = self
            .pending
            .ok_or_else(|| missing("an array of elements", "data"))?;
        self.read_data(&mut scanner.moved_to(at))
            .map_err(|fault| fault.key("data"))
    }

    /// Takes the elements from behind the JSON.
    fn take(&mut self, size: usize, tail: Option<&mut Tail>) -> Outcome<()> {
        if self.data.is_some() || self.pending.is_some() {
            return Err(Fault::new(
                "expected either this or parameters.binary_data_size, got both",
            )
            .key("data"));
        }
        let (Some(datatype), Some(shape)) = (self.datatype, &self.shape) else {
            return Ok(());
        };
        let raw = tail
            .ok_or_else(no_header)
            .and_then(|tail| tail.take(size))
            .map_err(|fault| fault.key("binary_data_size").key("parameters"))?;
        self.data = Some(binary::announced(datatype, shape, raw)?);
        Ok(())
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

fn no_header() -> Box<Fault> {
    Fault::new(format!(
        "expected raw bytes behind the JSON, but the header {HEADER}, which says where they begin, is missing"
    ))
}

/// The protocol writes the other types as JSON numbers, and leaves these to its binary form.
fn no_json_form(datatype: DataType) -> Box<Fault> {
    Fault::new(format!(
        "expected a datatype that the protocol has a JSON form for, got {datatype}: send its raw bytes, or its numbers to /predict/NAME"
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
fn read_outputs(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Vec<Wanted>> {
    let mut wanted: Vec<Wanted> = Vec::new();
    let mut items = scanner.array("an array of outputs")?;
    while items.next(scanner)? {
        let index = wanted.len();
        let output = read_output(scanner, spec).and_then(|output| {
            let twice = wanted.iter().any(|earlier| earlier.output == output.output);
            match spec.outputs.get(output.output) {
                Some(tensor) if twice => Err(given_twice(&tensor.name).key("name")),
                _ => Ok(output),
            }
        });
        wanted.push(output.map_err(|fault| fault.index(index))?);
    }
    Ok(wanted)
}

fn read_output(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Wanted> {
    let mut output = None;
    let mut form = Form::Json;
    let mut classes = None;
    let mut keys = scanner.object("an object with \"name\"")?;
    while let Some(key) = keys.next(scanner)? {
        match &*key {
            "name" => read_name(scanner, &spec.outputs).map(|named| output = Some(named)),
            "parameters" => optional(scanner, |scanner| {
                (form, classes) = read_output_parameters(scanner)?;
                Ok(())
            }),
            _ => scanner.skip(),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    let (output, tensor) = output.ok_or_else(|| missing("the name of an output", "name"))?;
    if classes.is_some() && !is_classifiable(tensor.datatype) {
        return Err(no_classes(tensor).key("classification").key("parameters"));
    }
    Ok(Wanted {
        output,
        form,
        classes,
    })
}

fn read_output_parameters(scanner: &mut Scanner<'_>) -> Outcome<(Form, Option<NonZeroUsize>)> {
    let mut form = Form::Json;
    let mut classes = None;
    read_parameters(scanner, |scanner, name| {
        match name {
            "binary_data" => form = read_form(scanner)?,
            "classification" => {
                let count = scanner.unsigned();
                let count = count.ok_or_else(|| scanner.expected("a number of classes"))?;
                classes = NonZeroUsize::new(count);
            }
            _ => scanner.skip()?,
        }
        Ok(())
    })?;
    Ok((form, classes))
}

fn no_classes(tensor: &TensorSpec) -> Box<Fault> {
    Fault::new(format!(
        "expected an output of numbers, but \"{}\" is {}",
        Excerpt(&tensor.name),
        tensor.datatype
    ))
}
