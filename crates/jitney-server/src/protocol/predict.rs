//! The plain form of a prediction: a JSON value for each input, without shapes, datatypes and the batch axis.
//!
//! An item is an object with a value for each input, nested like the shape of a row: `{"pixels": [0.0, 0.5]}`. Where a model has one
//! input, the value alone will do. Where every dimension is fixed, a flat array of all elements will do for a nested one. For a model
//! without a batch axis the value is the whole tensor.
//!
//! Where a model takes JSON values ([`Items::Json`]), an item is any value, which the model gets as it was written, and the prediction is
//! the value that the model gave. Such values are held to the letter: without NaN and the infinities, and with no key twice in an object.

use bytes::Bytes;
use jitney_engine::tensor::Shape;
use jitney_engine::{Dim, Items, Spec, Tensor, TensorSpec};

use super::scan::{Excerpt, Fault, Outcome, Scanner};
use super::tensors::unknown_name;
use super::write::Notes;
use super::{MAX_ITEMS, data, error, write};
use crate::failure::Failure;

/// How many items come in one body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON array of items.
    Json,
    /// One item on each line; lines of white space are skipped.
    Ndjson,
}

/// Reads one item as a request of one row, its tensors in the order of [`Spec::inputs`].
///
/// # Errors
/// `invalid_input` with a sentence that names the field, what was expected and what came; `too_large` for more strings than
/// [`super::MAX_STRINGS`].
///
/// ```
/// use jitney_engine::{BatchAxis, Items, Spec, TensorSpec};
/// use jitney_server::protocol::predict;
///
/// let spec = Spec {
///     inputs: vec![TensorSpec::parse_row("pixels", "FP32[2]")?],
///     outputs: vec![TensorSpec::parse_row("score", "FP32")?],
///     batch: BatchAxis::Free,
///     rows_independent: true,
///     items: Items::Tensors,
/// };
/// let inputs = predict::decode_item(br#"{"pixels": [0.5, 1]}"#, &spec)?;
/// assert_eq!(inputs[0].shape(), [1, 2]);
/// assert_eq!(predict::decode_item(b"[0.5, 1]", &spec)?, inputs);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode_item(body: &[u8], spec: &Spec) -> Result<Vec<Tensor>, Failure> {
    Ok(read_whole(body, spec)?)
}

/// Reads many items, each for itself: what is wrong with one is that one's failure.
///
/// # Errors
/// `invalid_input` when the body has no items to tell apart: it is not UTF-8, not an array of JSON values, or, as NDJSON, none of its lines
/// is JSON. `too_large` for more than [`super::MAX_ITEMS`] items.
pub fn decode_items(
    body: &[u8],
    format: Format,
    spec: &Spec,
) -> Result<Vec<Result<Vec<Tensor>, Failure>>, Failure> {
    let items = match format {
        Format::Json => read_array(body, spec),
        Format::Ndjson => read_lines(body, spec),
    };
    Ok(items?)
}

/// Writes `{"prediction": {"NAME": VALUE, ..}}`, each value nested like the shape of a row; `{"prediction": VALUE}` where the model gives
/// JSON values.
///
/// What could not be written as itself is said in `"parameters"` by the name of the output: how many numbers are NaN or an infinity, or
/// that strings are in base64. Where the model gives JSON values there are no names: `"parameters": {"non_finite": 1}`.
pub fn encode_item(out: &mut Vec<u8>, spec: &Spec, outputs: &[Tensor]) {
    match spec.items {
        Items::Json => encode_json(out, outputs),
        Items::Tensors => encode_tensors(out, spec, outputs),
    }
}

/// Writes an array with a prediction or an error for each item.
pub fn encode_items(out: &mut Vec<u8>, spec: &Spec, items: &[Result<Vec<Tensor>, Failure>]) {
    write::list(out, items.iter(), |out, item| match item {
        Ok(outputs) => encode_item(out, spec, outputs),
        Err(failure) => error::encode(out, failure),
    });
}

/// The text is the engine's, which has promised that it is one JSON value.
fn encode_json(out: &mut Vec<u8>, outputs: &[Tensor]) {
    let element = outputs.first().and_then(Tensor::byte_elements);
    let text = element.and_then(|elements| str::from_utf8(elements.first()?).ok());
    write::text(out, r#"{"prediction":"#);
    write::text(out, text.unwrap_or("null"));
    Notes::of_json(outputs).add(out);
    out.push(b'}');
}

fn encode_tensors(out: &mut Vec<u8>, spec: &Spec, outputs: &[Tensor]) {
    let mut notes = Vec::new();
    write::text(out, r#"{"prediction":{"#);
    write::separated(
        out,
        spec.outputs.iter().zip(outputs),
        |out, (output, tensor)| {
            write::string(out, &output.name);
            out.push(b':');
            let noted = write::nested(out, tensor, row_of(tensor, spec));
            if !noted.is_empty() {
                notes.push((&*output.name, noted));
            }
        },
    );
    out.push(b'}');
    write::notes(out, &notes);
    out.push(b'}');
}

/// The dimensions to nest an output by: without the batch axis, which has one row.
fn row_of<'t>(tensor: &'t Tensor, spec: &Spec) -> &'t [usize] {
    match tensor.shape() {
        [1, row @ ..] if spec.batched() => row,
        shape => shape,
    }
}

fn read_whole(body: &[u8], spec: &Spec) -> Outcome<Vec<Tensor>> {
    let mut scanner = Scanner::new(body)?;
    let inputs = read_item(&mut scanner, spec)?;
    scanner.end()?;
    Ok(inputs)
}

/// Reads the item that stands there in a text that is JSON.
pub(super) fn read_item_at(text: &[u8], at: usize, spec: &Spec) -> Outcome<Vec<Tensor>> {
    read_item(&mut Scanner::new(text)?.moved_to(at), spec)
}

fn read_array(body: &[u8], spec: &Spec) -> Outcome<Vec<Result<Vec<Tensor>, Failure>>> {
    let mut scanner = Scanner::new(body)?;
    let mut read = Vec::new();
    let mut items = scanner.array("an array of items")?;
    while items.next(&mut scanner)? {
        check_room(read.len())?;
        let mut ahead = scanner.clone();
        match read_item(&mut ahead, spec) {
            Ok(inputs) => {
                scanner = ahead;
                read.push(Ok(inputs));
            }
            Err(fault) => {
                scanner.skip().map_err(|fault| fault.index(read.len()))?;
                read.push(Err(fault.index(read.len()).into()));
            }
        }
    }
    scanner.end()?;
    Ok(read)
}

fn read_lines(body: &[u8], spec: &Spec) -> Outcome<Vec<Result<Vec<Tensor>, Failure>>> {
    let text = Scanner::new(body)?.rest();
    let mut read = Vec::new();
    let mut json_lines = 0;
    for line in text.split(|byte| *byte == b'\n') {
        if line.trim_ascii().is_empty() {
            continue;
        }
        check_room(read.len())?;
        let item = read_whole(line, spec).map_err(|fault| fault.index(read.len()));
        json_lines += usize::from(item.is_ok() || check_json(line).is_ok());
        read.push(item.map_err(Failure::from));
    }
    if json_lines == 0 {
        return Err(Fault::new(
            "expected JSON values on separate lines, got none",
        ));
    }
    Ok(read)
}

fn check_json(line: &[u8]) -> Outcome<()> {
    let mut scanner = Scanner::new(line)?;
    scanner.skip()?;
    scanner.end()
}

fn check_room(items: usize) -> Outcome<()> {
    if items < MAX_ITEMS {
        return Ok(());
    }
    Err(Fault::too_large(format!(
        "expected at most {MAX_ITEMS} items, got more: send them in several requests"
    )))
}

fn read_item(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Vec<Tensor>> {
    if spec.items == Items::Json {
        return read_json(scanner);
    }
    match spec.inputs.as_slice() {
        [input] if scanner.peek() != Some(b'{') => Ok(vec![read_value(scanner, input, spec)?]),
        _ => read_object(scanner, spec),
    }
}

fn read_json(scanner: &mut Scanner<'_>) -> Outcome<Vec<Tensor>> {
    let text = Bytes::copy_from_slice(scanner.value()?.as_bytes());
    let item = Tensor::from_bytes([1], vec![text]);
    Ok(vec![item.map_err(|error| Fault::new(error.to_string()))?])
}

fn read_object(scanner: &mut Scanner<'_>, spec: &Spec) -> Outcome<Vec<Tensor>> {
    let mut slots: Vec<Option<Tensor>> = vec![None; spec.inputs.len()];
    let mut keys = scanner.object("an object with a value for each input")?;
    while let Some(key) = keys.next(scanner)? {
        let found = spec
            .inputs
            .iter()
            .zip(&mut slots)
            .find(|(input, _)| input.name == key);
        let (input, slot) = found.ok_or_else(|| unknown_name(&key, &spec.inputs))?;
        *slot = Some(read_value(scanner, input, spec).map_err(|fault| fault.key(&key))?);
    }
    let inputs = spec.inputs.iter().zip(slots);
    inputs
        .map(|(input, slot)| slot.ok_or_else(|| missing(&input.name)))
        .collect()
}

fn missing(name: &str) -> Box<Fault> {
    Fault::new(format!(
        "expected a value for the input \"{}\", but it is missing",
        Excerpt(name)
    ))
}

/// Reads the value of one input as a tensor of one row.
pub(super) fn read_value(
    scanner: &mut Scanner<'_>,
    input: &TensorSpec,
    spec: &Spec,
) -> Outcome<Tensor> {
    let dims: &[Dim] = if spec.batched() {
        input.row_shape()
    } else {
        &input.shape
    };
    let (row, data) = data::read(scanner, input.datatype, dims)?;
    let batch: &[usize] = if spec.batched() { &[1] } else { &[] };
    let shape: Shape = batch.iter().copied().chain(row).collect();
    Tensor::new(input.datatype, shape, data).map_err(|error| Fault::new(error.to_string()))
}
