//! The messages of a WebSocket on which many requests go to one model at a time.
//!
//! A client sends one JSON object for each request, in one of two forms, or a word about a request that goes on:
//! ```json
//! {"id": "a", "item": [0.5, 1.0]}
//! {"id": "b", "inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [0.5, 1.0]}]}
//! {"cancel": "a"}
//! ```
//! `item` is what [`super::predict`] takes and `inputs` what [`super::infer`] takes, with all its other fields; `parameters` go with either.
//! Each request has an `id` that no other request on its way has: its answers, of which any number may come between those of other
//! requests, carry it. Each answer is what the same form is answered with elsewhere, and has `final`, which is `true` in the last one.
//!
//! Raw tensors go with `inputs` as they do elsewhere. Such a request is one binary message: the length of its JSON as four bytes, lowest first,
//! the JSON, and the raw bytes. So is an answer with raw tensors.
//!
//! A request that gives one result has it in its last answer. The last answer of any other is `{"id": "a", "results": 5, "final": true}`,
//! or a failure: `{"error": .., "code": .., "id": "a", "final": true}`. A failure without an id is about a message of which it could not be
//! read which request it is.

use bytes::{Buf, Bytes};
use jitney_engine::{Spec, Tensor};

use super::infer::{self, Wanted, optional, read_request_parameter};
use super::scan::{Fault, Outcome, Scanner};
use super::{error, predict, write};
use crate::call::Meta;
use crate::failure::Failure;

/// Most bytes in an id.
const ID_MAX: usize = 128;

/// What a client says.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    /// It asks for a prediction.
    Request(Request),
    /// It does not wait any more for the answers to the request of this id.
    Cancel(String),
}

/// A request, checked against the model's signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What all its answers carry.
    pub id: String,
    /// What it says about itself beside that.
    pub meta: Meta,
    /// The tensors, in the order of [`Spec::inputs`], batch axis included.
    pub inputs: Vec<Tensor>,
    /// How it is answered.
    pub form: Form,
}

/// How a request is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// As [`predict::encode_item`] writes it.
    Prediction,
    /// As [`infer::encode`] writes these outputs.
    Outputs(Vec<Wanted>),
}

/// A message that cannot be followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The request that it is about, where that could be read.
    pub id: Option<String>,
    /// What is wrong.
    pub failure: Failure,
}

/// Reads a message.
///
/// # Errors
/// [`Refused`], with `invalid_input` or `too_large`.
///
/// ```
/// use jitney_engine::Spec;
/// use jitney_server::protocol::socket::{self, Message};
///
/// let spec = Spec::json();
/// let Message::Request(request) = socket::decode(br#"{"id": "a", "item": "hello"}"#, &spec)? else {
///     panic!("this is a request");
/// };
/// assert_eq!(request.id, "a");
/// assert_eq!(socket::decode(br#"{"cancel": "a"}"#, &spec)?, Message::Cancel("a".to_owned()));
/// assert_eq!(socket::decode(br#"{"id": "b"}"#, &spec).unwrap_err().id.as_deref(), Some("b"));
/// # Ok::<(), socket::Refused>(())
/// ```
pub fn decode(message: &[u8], spec: &Spec) -> Result<Message, Refused> {
    refused(message, |envelope| {
        envelope.message(spec, message, || infer::decode(message, spec))
    })
}

/// Reads a binary message, whose raw tensors become slices of it.
///
/// # Errors
/// As [`decode`].
pub fn decode_binary(message: &Bytes, spec: &Spec) -> Result<Message, Refused> {
    let Some((json, body)) = split(message) else {
        return Err(Refused {
            id: None,
            failure: Failure::invalid(
                "expected four bytes that say how long the JSON behind them is, lowest first, got more than there is or nothing",
            ),
        });
    };
    let text = body.get(..json).unwrap_or_default();
    refused(text, |envelope| {
        envelope.message(spec, text, || infer::decode_binary(&body, json, spec))
    })
}

/// The id in a message, text or binary, where it can be read: for a failure that has nothing to do with the rest.
pub fn id(message: &Bytes, binary: bool) -> Option<String> {
    let mut envelope = Envelope::default();
    // What else is wrong with it does not matter.
    let _ = match split(message).filter(|_| binary) {
        Some((json, body)) => envelope.read(body.get(..json).unwrap_or_default()),
        None => envelope.read(message),
    };
    envelope.id
}

/// Writes the JSON of one answer of a model, the last or not. Gives the raw bytes that follow it, where there are any.
///
/// # Errors
/// As [`infer::encode`].
pub fn result(
    out: &mut Vec<u8>,
    (model, version): (&str, &str),
    (id, form): (&str, &Form),
    spec: &Spec,
    outputs: &[Tensor],
    last: bool,
) -> Result<Vec<Bytes>, Failure> {
    match form {
        Form::Prediction => {
            predict::encode_item(out, spec, outputs);
            about(out, Some(id), last);
            Ok(Vec::new())
        }
        Form::Outputs(wanted) => {
            let id = Some(id);
            let raw = infer::encode(out, model, version, id, spec, wanted, outputs)?;
            about(out, None, last);
            Ok(raw)
        }
    }
}

/// Writes the last answer of a request, whose results have all been written.
pub fn end(out: &mut Vec<u8>, id: &str, results: u64) {
    write::text(out, r#"{"results":"#);
    write::integer(out, results);
    out.push(b'}');
    about(out, Some(id), true);
}

/// Writes a failure: the last answer of its request, where that is known.
pub fn failure(out: &mut Vec<u8>, id: Option<&str>, failure: &Failure) {
    error::encode(out, failure);
    if id.is_some() {
        about(out, id, true);
    }
}

/// Where the JSON of a binary message ends in what stands behind its length.
fn split(message: &Bytes) -> Option<(usize, Bytes)> {
    let mut body = message.clone();
    let json = usize::try_from(body.try_get_u32_le().ok()?).ok()?;
    // Without JSON there would be no id.
    (1..=body.len()).contains(&json).then_some((json, body))
}

fn refused(
    json: &[u8],
    message: impl FnOnce(&mut Envelope) -> Result<Message, Failure>,
) -> Result<Message, Refused> {
    let mut envelope = Envelope::default();
    let read = envelope.read(json).map_err(Failure::from);
    read.and_then(|()| message(&mut envelope))
        .map_err(|failure| Refused {
            id: envelope.id,
            failure,
        })
}

/// Adds to the object that has just been written whose it is, and whether it is the last.
fn about(out: &mut Vec<u8>, id: Option<&str>, last: bool) {
    if out.last() == Some(&b'}') {
        out.pop();
    }
    if let Some(id) = id {
        write::text(out, r#","id":"#);
        write::string(out, id);
    }
    write::text(
        out,
        if last {
            r#","final":true}"#
        } else {
            r#","final":false}"#
        },
    );
}

/// What a message is, before its tensors are read.
#[derive(Default)]
struct Envelope {
    id: Option<String>,
    cancel: Option<String>,
    /// Where the item stands.
    item: Option<usize>,
    inputs: bool,
    meta: Meta,
}

impl Envelope {
    fn read(&mut self, message: &[u8]) -> Outcome<()> {
        let mut scanner = Scanner::new(message)?;
        let mut keys = scanner.object("an object with \"id\", and \"item\" or \"inputs\"")?;
        while let Some(key) = keys.next(&mut scanner)? {
            match &*key {
                "id" => read_id(&mut scanner).map(|id| self.id = Some(id)),
                "cancel" => read_id(&mut scanner).map(|id| self.cancel = Some(id)),
                "item" => {
                    scanner.peek();
                    self.item = Some(scanner.at());
                    scanner.skip()
                }
                "inputs" => {
                    self.inputs = true;
                    scanner.skip()
                }
                "parameters" => optional(&mut scanner, |scanner| self.read_parameters(scanner)),
                _ => scanner.skip(),
            }
            .map_err(|fault| fault.key(&key))?;
        }
        scanner.end()
    }

    fn read_parameters(&mut self, scanner: &mut Scanner<'_>) -> Outcome<()> {
        let start = scanner.at();
        let mut keys = scanner.object("an object of parameters")?;
        while let Some(name) = keys.next(scanner)? {
            // It is about the outputs, which only the other form names.
            let read = match &*name {
                "binary_data_output" => scanner.value().map(drop),
                name => read_request_parameter(scanner, name, &mut self.meta),
            };
            read.map_err(|fault| fault.key(&name))?;
        }
        self.meta.parameters = Some(scanner.text_since(start).to_owned());
        Ok(())
    }

    /// What it is altogether; `inputs` reads it as a request that has them.
    fn message(
        &mut self,
        spec: &Spec,
        json: &[u8],
        inputs: impl FnOnce() -> Result<infer::Request, Failure>,
    ) -> Result<Message, Failure> {
        match (self.cancel.take(), self.item, self.inputs) {
            (Some(id), None, false) => return Ok(Message::Cancel(id)),
            (None, Some(_), false) | (None, None, true) => (),
            _ => {
                return Err(Failure::invalid(
                    "expected exactly one of \"item\", \"inputs\" and \"cancel\"",
                ));
            }
        }
        let id = self.known_id()?;
        let request = match self.item {
            Some(at) => Request {
                id,
                inputs: predict::read_item_at(json, at, spec).map_err(|fault| fault.key("item"))?,
                meta: std::mem::take(&mut self.meta),
                form: Form::Prediction,
            },
            None => {
                let infer::Request {
                    meta,
                    inputs,
                    outputs,
                } = inputs()?;
                Request {
                    id,
                    inputs,
                    meta: Meta { id: None, ..meta },
                    form: Form::Outputs(outputs),
                }
            }
        };
        Ok(Message::Request(request))
    }

    fn known_id(&self) -> Outcome<String> {
        self.id.clone().ok_or_else(|| {
            Fault::new("expected a string by which to know its answers, but it is missing")
                .key("id")
        })
    }
}

fn read_id(scanner: &mut Scanner<'_>) -> Outcome<String> {
    let id = scanner.string("a string")?;
    if id.is_empty() || id.len() > ID_MAX {
        return Err(Fault::new(format!(
            "expected a string of 1 to {ID_MAX} bytes, got {}",
            id.len()
        )));
    }
    Ok(id.into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jitney_engine::{BatchAxis, Items, TensorSpec};
    use serde_json::{Value, json};

    use super::*;
    use crate::failure::Code;

    fn spec() -> Spec {
        Spec {
            inputs: vec![TensorSpec::parse_row("x", "FP32[2]").unwrap()],
            outputs: vec![TensorSpec::parse_row("y", "FP32[2]").unwrap()],
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    fn request(message: &str) -> Request {
        match decode(message.as_bytes(), &spec()) {
            Ok(Message::Request(request)) => request,
            other => panic!("{message}: {other:?}"),
        }
    }

    #[test]
    fn both_forms_are_read() {
        let item = request(r#"{"item": [1, 2], "id": "a", "parameters": {"timeout": 7, "n": 1}}"#);
        let tensor = r#"{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}"#;
        let inputs = request(&format!(
            r#"{{"inputs": [{tensor}], "parameters": {{"timeout": 7, "n": 1}}, "id": "b"}}"#
        ));
        assert_eq!((&*item.id, &item.form), ("a", &Form::Prediction));
        let outputs = Form::Outputs(Wanted::all(&spec(), infer::Form::Json));
        assert_eq!((&*inputs.id, &inputs.form), ("b", &outputs));
        assert_eq!(item.inputs, inputs.inputs);
        assert_eq!(item.meta, inputs.meta);
        assert_eq!(item.meta.timeout, Some(Duration::from_micros(7)));
        assert_eq!(
            item.meta.parameters.as_deref(),
            Some(r#"{"timeout": 7, "n": 1}"#)
        );
    }

    #[test]
    fn raw_tensors_come_and_go_behind_their_json() {
        let tensor = r#"{"name": "x", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}"#;
        let json = format!(
            r#"{{"id": "a", "inputs": [{tensor}], "parameters": {{"binary_data_output": true}}}}"#
        );
        let length = u32::try_from(json.len()).unwrap().to_le_bytes();
        let raw: Vec<u8> = [1.0_f32, 2.0]
            .iter()
            .flat_map(|x| x.to_le_bytes())
            .collect();
        let message = Bytes::from([&length, json.as_bytes(), &raw].concat());
        let Ok(Message::Request(request)) = decode_binary(&message, &spec()) else {
            panic!("this is a request");
        };
        assert_eq!(request.inputs[0].to_vec(), Some(vec![1.0_f32, 2.0]));
        let mut out = Vec::new();
        let request = ("a", &request.form);
        let outputs = [Tensor::from_f32([1, 2], vec![1.0, 2.0]).unwrap()];
        let answer = result(&mut out, ("m", "1"), request, &spec(), &outputs, false);
        assert_eq!(answer, Ok(vec![Bytes::from(raw)]));
        assert_eq!(id(&message, true).as_deref(), Some("a"));

        for cut in [0, 3, 4, 20] {
            let refused = decode_binary(&message.slice(..cut), &spec()).unwrap_err();
            assert_eq!(refused.id, None, "{cut}");
        }
        let refused = decode_binary(&message.slice(..message.len() - 1), &spec()).unwrap_err();
        assert_eq!(refused.id.as_deref(), Some("a"));
    }

    #[test]
    fn what_is_wrong_is_said_to_whom_it_concerns() {
        let long = format!(r#"{{"item": [1, 2], "id": "{}"}}"#, "a".repeat(129));
        let deep = format!(r#"{{"id": "a", "item": {}"#, "[".repeat(500));
        let rows = [
            (
                "",
                None,
                "body: expected JSON, got nothing: the body is empty",
            ),
            (
                "5",
                None,
                "body: expected an object with \"id\", and \"item\" or \"inputs\", got 5 at byte 0",
            ),
            (
                r#"{"item": [1, 2]}"#,
                None,
                "id: expected a string by which to know its answers, but it is missing",
            ),
            (
                r#"{"item": [1, 2], "id": ""}"#,
                None,
                "id: expected a string of 1 to 128 bytes, got 0",
            ),
            (
                &long,
                None,
                "id: expected a string of 1 to 128 bytes, got 129",
            ),
            (
                r#"{"id": "a"}"#,
                Some("a"),
                "expected exactly one of \"item\", \"inputs\" and \"cancel\"",
            ),
            (
                r#"{"id": "a", "item": 1, "inputs": []}"#,
                Some("a"),
                "expected exactly one of \"item\", \"inputs\" and \"cancel\"",
            ),
            (
                r#"{"id": "a", "cancel": "b", "item": 1}"#,
                Some("a"),
                "expected exactly one of \"item\", \"inputs\" and \"cancel\"",
            ),
            (
                r#"{"id": "a", "item": [1]}"#,
                Some("a"),
                "item: expected 2 elements for shape [2], got 1",
            ),
            (
                r#"{"id": "a", "item": [1, 2]"#,
                Some("a"),
                "body: expected ',' or '}', got the end of the body at byte 26",
            ),
            (
                &deep,
                Some("a"),
                "item: expected at most 100 arrays and objects inside each other, got more at byte 121",
            ),
        ];
        for (message, id, sentence) in rows {
            let refused = decode(message.as_bytes(), &spec()).unwrap_err();
            assert_eq!(refused.failure.message, sentence);
            assert_eq!(
                (refused.id.as_deref(), refused.failure.code),
                (id, Code::InvalidInput)
            );
        }
    }

    #[test]
    fn answers_say_whose_they_are_and_whether_they_are_the_last() {
        let spec = spec();
        let outputs = [Tensor::from_f32([1, 2], vec![1.0, 2.0]).unwrap()];
        let written = |write: &dyn Fn(&mut Vec<u8>)| -> Value {
            let mut out = Vec::new();
            write(&mut out);
            serde_json::from_slice(&out).unwrap()
        };
        let prediction = written(&|out| {
            let raw = result(
                out,
                ("m", "1"),
                ("a", &Form::Prediction),
                &spec,
                &outputs,
                false,
            );
            assert_eq!(raw, Ok(Vec::new()));
        });
        assert_eq!(
            prediction,
            json!({"prediction": {"y": [1.0, 2.0]}, "id": "a", "final": false})
        );
        let form = Form::Outputs(Wanted::all(&spec, infer::Form::Json));
        let tensors = written(&|out| {
            result(out, ("m", "1"), ("a", &form), &spec, &outputs, true).unwrap();
        });
        assert_eq!(
            tensors,
            json!({
                "model_name": "m", "model_version": "1", "id": "a",
                "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}], "final": true,
            })
        );
        assert_eq!(
            written(&|out| end(out, "a", 5)),
            json!({"results": 5, "id": "a", "final": true})
        );
        let failed = Failure::invalid("no");
        assert_eq!(
            written(&|out| failure(out, Some("a"), &failed)),
            json!({"error": "no", "code": "invalid_input", "id": "a", "final": true})
        );
        assert_eq!(
            written(&|out| failure(out, None, &failed)),
            json!({"error": "no", "code": "invalid_input"})
        );
    }
}
