//! The request and answer of Triton's generate extension: an object with a value for each input by its name, and the same for outputs.
//!
//! A value may be one element where the shape of a row has room for exactly one, `"text_input": "hello"` for `BYTES[1]`; otherwise it is an
//! array as [`super::predict`] reads it. A key that names no input is a parameter for the model: a string, a number, `true` or `false`. So
//! is every key of the object `parameters`, with a value of any kind, unless it names an input. `id` comes back in the answer. The parameters
//! that [`super::infer`] understands are understood here.
//!
//! A model that takes JSON values ([`Items::Json`]) gets the whole object as its item.

use bytes::Bytes;
use jitney_engine::tensor::Shape;
use jitney_engine::{Items, Spec, Tensor, TensorSpec};

use super::infer::{optional, read_request_parameter};
use super::predict::read_value;
use super::scan::{Excerpt, Fault, Outcome, Scanner};
use super::tensors::unknown_name;
use super::write::Notes;
use super::{data, write};
use crate::call::Meta;
use crate::failure::Failure;

/// A request for one row, checked against the model's signature.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// What it says about itself.
    pub meta: Meta,
    /// The tensors, in the order of [`Spec::inputs`], batch axis included.
    pub inputs: Vec<Tensor>,
}

/// Reads the body of a request.
///
/// # Errors
/// `invalid_input` with a sentence that names the field, what was expected and what came; `too_large` for more strings than
/// [`super::MAX_STRINGS`].
///
/// ```
/// use jitney_engine::{BatchAxis, Items, Spec, TensorSpec};
/// use jitney_server::protocol::generate;
///
/// let spec = Spec {
///     inputs: vec![TensorSpec::parse_row("text_input", "BYTES[1]")?],
///     outputs: vec![TensorSpec::parse_row("text_output", "BYTES[1]")?],
///     batch: BatchAxis::Free,
///     rows_independent: true,
///     items: Items::Tensors,
/// };
/// let request = generate::decode(br#"{"text_input": "hello", "max_tokens": 5}"#, &spec)?;
/// assert_eq!(request.inputs[0].shape(), [1, 1]);
/// assert_eq!(request.meta.parameters.as_deref(), Some(r#"{"max_tokens":5}"#));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub fn decode(body: &[u8], spec: &Spec) -> Result<Request, Failure> {
    let read = match spec.items {
        Items::Tensors => read_tensors(body, spec),
        Items::Json => read_json(body),
    };
    Ok(read?)
}

/// Writes one answer: `{"model_name": .., "model_version": .., "id": .., "NAME": VALUE, ..}`.
///
/// An output of one element is written as that element, any other as a flat array. What could not be written as itself is said in
/// `"parameters"`, as [`super::predict::encode_item`] says it. Where the model gives JSON values, the keys of an object take the place of
/// the outputs, and any other value becomes `text_output`.
pub fn encode(
    out: &mut Vec<u8>,
    model: &str,
    version: &str,
    id: Option<&str>,
    spec: &Spec,
    outputs: &[Tensor],
) {
    write::text(out, r#"{"model_name":"#);
    write::string(out, model);
    write::text(out, r#","model_version":"#);
    write::string(out, version);
    if let Some(id) = id {
        write::text(out, r#","id":"#);
        write::string(out, id);
    }
    match spec.items {
        Items::Tensors => encode_tensors(out, spec, outputs),
        Items::Json => encode_json(out, outputs),
    }
    out.push(b'}');
}

/// A request while it is read.
struct Reading<'s> {
    spec: &'s Spec,
    slots: Vec<Option<Tensor>>,
    meta: Meta,
    /// The names of the parameters so far, each in quotes, and the text of all of them without the braces.
    names: Vec<String>,
    parameters: Vec<u8>,
}

fn read_tensors(body: &[u8], spec: &Spec) -> Outcome<Request> {
    let mut scanner = Scanner::new(body)?;
    let mut reading = Reading {
        spec,
        slots: vec![None; spec.inputs.len()],
        meta: Meta::default(),
        names: Vec::new(),
        parameters: Vec::new(),
    };
    let mut keys = scanner.object(AN_OBJECT)?;
    while let Some(key) = keys.next(&mut scanner)? {
        match &*key {
            "id" => read_id(&mut scanner, &mut reading.meta),
            "parameters" if !spec.inputs.iter().any(|input| input.name == "parameters") => {
                optional(&mut scanner, |scanner| reading.read_parameters(scanner))
            }
            name => reading.read_member(&mut scanner, name, false),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    scanner.end()?;
    reading.finish()
}

const AN_OBJECT: &str = "an object with a value for each input";

fn read_id(scanner: &mut Scanner<'_>, meta: &mut Meta) -> Outcome<()> {
    optional(scanner, |scanner| {
        meta.id = Some(scanner.string("a string")?.into_owned());
        Ok(())
    })
}

impl Reading<'_> {
    fn read_parameters(&mut self, scanner: &mut Scanner<'_>) -> Outcome<()> {
        let mut keys = scanner.object("an object of parameters")?;
        while let Some(name) = keys.next(scanner)? {
            self.read_member(scanner, &name, true)
                .map_err(|fault| fault.key(&name))?;
        }
        Ok(())
    }

    /// Reads the value of an input, or of a parameter of any kind or of a plain one.
    fn read_member(&mut self, scanner: &mut Scanner<'_>, name: &str, any: bool) -> Outcome<()> {
        let inputs = self.spec.inputs.iter().zip(&mut self.slots);
        if let Some((input, slot)) = inputs.into_iter().find(|(input, _)| input.name == name) {
            if slot.is_some() {
                return Err(twice());
            }
            *slot = Some(read_input(scanner, input, self.spec)?);
            return Ok(());
        }
        if !any && matches!(scanner.peek(), Some(b'[' | b'{')) {
            return Err(unknown_name(name, &self.spec.inputs));
        }
        scanner.peek();
        let start = scanner.at();
        read_request_parameter(scanner, name, &mut self.meta)?;
        self.note(name, scanner.text_since(start))
    }

    fn note(&mut self, name: &str, value: &str) -> Outcome<()> {
        if value == "null" {
            return Ok(());
        }
        if self.names.iter().any(|noted| noted == name) {
            return Err(twice());
        }
        if !self.names.is_empty() {
            self.parameters.push(b',');
        }
        write::string(&mut self.parameters, name);
        self.parameters.push(b':');
        write::text(&mut self.parameters, value);
        self.names.push(name.to_owned());
        Ok(())
    }

    fn finish(mut self) -> Outcome<Request> {
        if !self.names.is_empty() {
            let text = String::from_utf8(self.parameters);
            self.meta.parameters = text.ok().map(|text| format!("{{{text}}}"));
        }
        let inputs = self.spec.inputs.iter().zip(self.slots);
        let inputs: Outcome<Vec<Tensor>> = inputs
            .map(|(input, slot)| slot.ok_or_else(|| missing(&input.name)))
            .collect();
        Ok(Request {
            meta: self.meta,
            inputs: inputs?,
        })
    }
}

fn twice() -> Box<Fault> {
    Fault::new("expected this once, got it beside \"parameters\" and in it")
}

fn missing(name: &str) -> Box<Fault> {
    Fault::new(format!(
        "expected a value for the input \"{}\", but it is missing",
        Excerpt(name)
    ))
}

/// Reads the value of an input: one element alone where the row has room for just one, else as a prediction has it.
fn read_input(scanner: &mut Scanner<'_>, input: &TensorSpec, spec: &Spec) -> Outcome<Tensor> {
    let row = match spec.batched() {
        true => input.row_shape(),
        false => &input.shape,
    };
    if scanner.peek() == Some(b'[') || !row.iter().all(|dim| dim.admits(1)) {
        return read_value(scanner, input, spec);
    }
    let (_, data) = data::read(scanner, input.datatype, &[])?;
    let shape: Shape = input.shape.iter().map(|_| 1).collect();
    Tensor::new(input.datatype, shape, data).map_err(|error| Fault::new(error.to_string()))
}

fn read_json(body: &[u8]) -> Outcome<Request> {
    let mut scanner = Scanner::new(body)?;
    let item = Bytes::copy_from_slice(scanner.clone().value()?.as_bytes());
    let mut meta = Meta::default();
    let mut keys = scanner.object("an object")?;
    while let Some(key) = keys.next(&mut scanner)? {
        match &*key {
            "id" => read_id(&mut scanner, &mut meta),
            "parameters" => optional(&mut scanner, |scanner| read_known(scanner, &mut meta)),
            name => read_request_parameter(&mut scanner, name, &mut meta),
        }
        .map_err(|fault| fault.key(&key))?;
    }
    scanner.end()?;
    let item = Tensor::from_bytes([1], vec![item]);
    Ok(Request {
        meta,
        inputs: vec![item.map_err(|error| Fault::new(error.to_string()))?],
    })
}

/// Reads an object of parameters and keeps its text.
fn read_known(scanner: &mut Scanner<'_>, meta: &mut Meta) -> Outcome<()> {
    scanner.peek();
    let start = scanner.at();
    let mut keys = scanner.object("an object of parameters")?;
    while let Some(name) = keys.next(scanner)? {
        read_request_parameter(scanner, &name, meta).map_err(|fault| fault.key(&name))?;
    }
    meta.parameters = Some(scanner.text_since(start).to_owned());
    Ok(())
}

fn encode_tensors(out: &mut Vec<u8>, spec: &Spec, outputs: &[Tensor]) {
    let mut notes = Vec::new();
    for (output, tensor) in spec.outputs.iter().zip(outputs) {
        out.push(b',');
        write::string(out, &output.name);
        out.push(b':');
        let noted = match tensor.elements() {
            1 => write::nested(out, tensor, &[]),
            _ => write::flat(out, tensor),
        };
        if !noted.is_empty() {
            notes.push((&*output.name, noted));
        }
    }
    write::notes(out, &notes);
}

/// The text is the engine's, which has promised that it is one JSON value.
fn encode_json(out: &mut Vec<u8>, outputs: &[Tensor]) {
    let element = outputs.first().and_then(Tensor::byte_elements);
    let text = element.and_then(|elements| str::from_utf8(elements.first()?).ok());
    let text = text.unwrap_or("null");
    let before = out.len();
    if splice(out, text).is_err() {
        out.truncate(before);
        write::text(out, r#","text_output":"#);
        write::text(out, text);
    }
    Notes::of_json(outputs).add(out);
}

/// Writes the members of an object, but for those that are written before them.
fn splice(out: &mut Vec<u8>, object: &str) -> Outcome<()> {
    let mut scanner = Scanner::new(object.as_bytes())?;
    let mut keys = scanner.object("an object")?;
    while let Some(key) = keys.next(&mut scanner)? {
        scanner.peek();
        let start = scanner.at();
        scanner.skip()?;
        if !matches!(&*key, "model_name" | "model_version" | "id") {
            out.push(b',');
            write::string(out, &key);
            out.push(b':');
            write::text(out, scanner.text_since(start));
        }
    }
    scanner.end()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use jitney_engine::BatchAxis;
    use serde_json::{Value, json};

    use super::*;

    fn spec() -> Spec {
        Spec {
            inputs: vec![
                TensorSpec::parse_row("text_input", "BYTES[1]").unwrap(),
                TensorSpec::parse_row("weights", "FP32[-1]").unwrap(),
            ],
            outputs: vec![
                TensorSpec::parse_row("text_output", "BYTES[1]").unwrap(),
                TensorSpec::parse_row("scores", "FP32[2]").unwrap(),
            ],
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    #[test]
    fn inputs_and_parameters_are_told_apart_by_their_names() {
        let plain = r#"{"max_tokens":5,"stop":["a"],"stream":true}"#;
        let rows = [
            (
                r#"{"text_input": "a", "weights": 0.5}"#,
                (vec![1, 1], None, None),
            ),
            (
                r#"{"weights": [1, 2], "id": "x", "text_input": ["a"]}"#,
                (vec![1, 2], None, Some("x")),
            ),
            (
                r#"{"id": null, "text_input": "a", "weights": [[1]], "parameters": null}"#,
                (vec![1, 1], None, None),
            ),
            (
                r#"{"max_tokens": 5, "text_input": "a", "parameters": {"stop": ["a"], "weights": [1, 2, 3]}, "stream": true, "top_p": null}"#,
                (vec![1, 3], Some(plain), None),
            ),
        ];
        for (body, (weights, parameters, id)) in rows {
            // A row has one dimension, so nesting it is wrong.
            let request = decode(body.as_bytes(), &spec());
            if body.contains("[[") {
                assert!(request.is_err(), "{body}");
                continue;
            }
            let Request { meta, inputs } = request.unwrap_or_else(|f| panic!("{f}: {body}"));
            assert_eq!(inputs[0].shape(), [1, 1], "{body}");
            assert_eq!(inputs[1].shape(), weights, "{body}");
            assert_eq!(meta.parameters.as_deref(), parameters, "{body}");
            assert_eq!(meta.id.as_deref(), id, "{body}");
        }
    }

    #[test]
    fn a_timeout_is_understood_wherever_parameters_may_be() {
        for body in [
            r#"{"text_input": "a", "weights": 1, "timeout": 1500}"#,
            r#"{"text_input": "a", "weights": 1, "parameters": {"timeout": 1500}}"#,
        ] {
            let json = decode(body.as_bytes(), &Spec::json()).unwrap();
            let typed = decode(body.as_bytes(), &spec()).unwrap();
            for request in [json, typed] {
                assert_eq!(request.meta.timeout, Some(Duration::from_micros(1500)));
            }
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows = [
            (
                "[]",
                "body: expected an object with a value for each input, got an array at byte 0",
            ),
            (
                r#"{"weights": 1}"#,
                "body: expected a value for the input \"text_input\", but it is missing",
            ),
            (
                r#"{"text_input": 5, "weights": 1}"#,
                "text_input: expected a string (BYTES), got 5 at byte 15",
            ),
            (
                r#"{"text_input": "a", "weights": 1, "wieghts": [1]}"#,
                "wieghts: expected one of \"text_input\", \"weights\", got \"wieghts\"",
            ),
            (
                r#"{"text_input": "a", "weights": 1, "parameters": {"weights": 1}}"#,
                "parameters.weights: expected this once, got it beside \"parameters\" and in it",
            ),
            (
                r#"{"text_input": "a", "weights": 1, "a": 1, "parameters": {"a": 1}}"#,
                "parameters.a: expected this once, got it beside \"parameters\" and in it",
            ),
            (
                r#"{"text_input": "a", "weights": 1, "id": 7}"#,
                "id: expected a string, got 7 at byte 40",
            ),
            (
                r#"{"text_input": "a", "weights": 1} 2"#,
                "body: expected nothing after the JSON value, got 2 at byte 34",
            ),
        ];
        for (body, message) in rows {
            assert_eq!(
                decode(body.as_bytes(), &spec()).unwrap_err().message,
                message
            );
        }
        let reserved = br#"{"text_input": "a", "weights": 1, "triton_x": 1}"#;
        assert!(decode(reserved, &spec()).is_err());
        for body in ["5", "{\"a\": NaN}", "{\"a\": 1, \"a\": 1}"] {
            assert!(decode(body.as_bytes(), &Spec::json()).is_err(), "{body}");
        }
        let deep = format!("{{\"a\": {}1{}}}", "[".repeat(500), "]".repeat(500));
        for spec in [spec(), Spec::json()] {
            assert!(decode(deep.as_bytes(), &spec).is_err());
        }
    }

    #[test]
    fn a_model_of_json_values_gets_the_whole_object() {
        let body = br#" {"text_input": "a", "id": "x", "parameters": {"n": 2}} "#;
        let request = decode(body, &Spec::json()).unwrap();
        let item = request.inputs[0].byte_elements().unwrap()[0].clone();
        assert_eq!(item, body.trim_ascii());
        assert_eq!(request.meta.id.as_deref(), Some("x"));
        assert_eq!(request.meta.parameters.as_deref(), Some("{\"n\": 2}"));
    }

    fn written(spec: &Spec, id: Option<&str>, outputs: &[Tensor]) -> Value {
        let mut out = Vec::new();
        encode(&mut out, "m", "1", id, spec, outputs);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn outputs_stand_beside_each_other() {
        let text = Tensor::from_bytes([1, 1], vec!["hello".into()]).unwrap();
        let scores = Tensor::from_f32([1, 2], vec![0.5, f32::NAN]).unwrap();
        assert_eq!(
            written(&spec(), Some("x"), &[text, scores]),
            json!({
                "model_name": "m", "model_version": "1", "id": "x", "text_output": "hello", "scores": [0.5, "NaN"],
                "parameters": {"scores": {"non_finite": 1}},
            }),
        );
    }

    #[test]
    fn the_keys_of_an_object_take_the_place_of_outputs() {
        let rows = [
            ("\"a\"", json!({"text_output": "a"})),
            ("[1]", json!({"text_output": [1]})),
            ("{}", json!({})),
            (
                r#"{"text_output": "a", "id": "y", "model_name": "z", "more": {"n": 1}}"#,
                json!({"text_output": "a", "more": {"n": 1}}),
            ),
        ];
        for (value, expected) in rows {
            let output = Tensor::from_bytes([1], vec![value.into()]).unwrap();
            let mut expected = expected;
            expected["model_name"] = "m".into();
            expected["model_version"] = "1".into();
            assert_eq!(written(&Spec::json(), None, &[output]), expected);
        }
    }
}
