//! The protocol as a whole: what is refused and with which words, and that what is written reads back the same.

mod binary;
mod json;

use std::time::Duration;

use bytes::Bytes;
use half::{bf16, f16};
use jitney_engine::tensor::{Data, DataType, Shape};
use jitney_engine::{BatchAxis, Dim, Items, Spec, Tensor, TensorSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::infer::{Form, Wanted};
use super::predict::Format;
use super::scan::Scanner;
use super::{MAX_ITEMS, MAX_STRINGS, error, infer, metadata, predict};
use crate::call::Meta;
use crate::failure::{Code, Failure};

fn spec_of(batch: BatchAxis, inputs: Vec<TensorSpec>) -> Spec {
    Spec {
        outputs: inputs.clone(),
        inputs,
        batch,
        rows_independent: true,
        items: Items::Tensors,
    }
}

/// A model with a batch axis that answers what it is given.
fn echo(rows: &[(&str, &str)]) -> Spec {
    let inputs = rows
        .iter()
        .map(|(name, row)| TensorSpec::parse_row(name, row).unwrap());
    spec_of(BatchAxis::Free, inputs.collect())
}

fn digits() -> Spec {
    echo(&[("pixels", "UINT8[2,2]")])
}

fn two() -> Spec {
    echo(&[("numbers", "FP32[3]"), ("words", "BYTES")])
}

/// These outputs, whole and as JSON.
fn json_outputs<const N: usize>(indices: [usize; N]) -> [Wanted; N] {
    indices.map(|output| Wanted {
        output,
        form: Form::Json,
        classes: None,
    })
}

/// The request for one `pixels` of these fields, each of which may be broken.
fn pixels(shape: &str, datatype: &str, data: &str) -> String {
    format!(
        r#"{{"inputs":[{{"name":"pixels","shape":{shape},"datatype":{datatype},"data":{data}}}]}}"#
    )
}

/// Checks that each body is a caller's mistake, said with these words and not many more.
#[track_caller]
fn check_refused(spec: &Spec, rows: &[(&str, &str)]) {
    for (body, words) in rows {
        let failure = infer::decode(body.as_bytes(), spec).expect_err(body);
        check_failure(&failure, body, words);
    }
}

#[track_caller]
fn check_failure(failure: &Failure, body: &str, words: &str) {
    assert_eq!(failure.code, Code::InvalidInput, "{body}");
    assert!(failure.message.contains(words), "{body}: {failure}");
    assert!(failure.message.len() < 500, "{failure}");
    let body = error::body(failure);
    let value: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(value["code"], "invalid_input");
}

#[test]
fn bodies_that_are_not_the_json_asked_for() {
    check_refused(
        &digits(),
        &[
            ("", "body: expected JSON, got nothing"),
            (" \n", "body: expected JSON, got nothing"),
            ("\u{feff}{}", "body: expected JSON, got a byte order mark"),
            (
                "[]",
                "body: expected an object with \"inputs\", got an array at byte 0",
            ),
            ("\u{0}{}", "got '\\0' at byte 0"),
            ("{", "expected a key in quotes, got the end of the body"),
            (
                "{\"inputs\"}",
                "inputs: expected ':' after the key, got '}'",
            ),
            ("{\"a\":1,}", "expected a key in quotes, got '}' at byte 7"),
            (
                "{\"a\":1 \"b\":2}",
                "expected ',' or '}', got \"b\" at byte 7",
            ),
            ("{\"a\":01}", "a: expected a value, got 01 at byte 5"),
            ("{\"a\":[1,]}", "a: expected a value, got ']' at byte 8"),
            ("{\"a\":[1}", "a: expected ',' or ']', got '}' at byte 7"),
            ("{\"a\":{\"b\" 1}}", "a.b: expected ':' after the key"),
            ("{\"a\":nul}", "a: expected a value, got nul"),
            (
                "{}",
                "inputs: expected an array of tensors, but it is missing",
            ),
            (
                "{\"inputs\":{}}",
                "inputs: expected an array of tensors, got an object at byte 10",
            ),
            (
                "{\"inputs\":[1]}",
                "inputs[0]: expected an object with \"name\"",
            ),
            (
                "{\"inputs\":[]}",
                "inputs: expected the input \"pixels\" too, but it is missing",
            ),
            ("{\"inputs\":[],\"inputs\":[]}", "inputs: expected"),
            (
                "{\"id\":\"a\",\"id\":\"b\"}",
                "id: expected this key once, got it twice",
            ),
            (
                "{\"x\":1,\"x\":1}",
                "x: expected this key once, got it twice",
            ),
            (
                "{\"i\\u0064\":\"a\",\"id\":\"b\"}",
                "id: expected this key once, got it twice",
            ),
            ("{\"id\":7}", "id: expected a string, got 7 at byte 6"),
            (
                "{\"id\":\"\u{1}\"}",
                "id: expected the rest of a string, got the control character 0x01 at byte 7",
            ),
            (
                "{\"id\":\"",
                "id: expected the rest of a string, got the end of the body",
            ),
            (
                "{\"id\":\"\\x\"}",
                "id: expected an escape sequence of JSON",
            ),
            (
                "{\"id\":\"\\é\"}",
                "id: expected an escape sequence of JSON",
            ),
            (
                "{\"id\":\"\\u12\"}",
                "id: expected an escape sequence of JSON",
            ),
            ("{\"id\":\"\\ud800\"}", "with surrogates in pairs"),
            ("{\"id\":\"\\ud800\\u0041\"}", "with surrogates in pairs"),
            ("{\"id\":\"\\udc00\\ud800\"}", "with surrogates in pairs"),
        ],
    );
    let good = pixels("[1,2,2]", "\"UINT8\"", "[1,2,3,4]");
    check_refused(
        &digits(),
        &[(
            &format!("{good} x"),
            "body: expected nothing after the JSON value, got x",
        )],
    );
}

#[test]
fn bytes_that_are_not_utf8() {
    for body in [
        &b"{\"id\":\"\xff\"}"[..],
        b"\xc0\x80",
        b"{\"id\":\"\xed\xa0\x80\"}",
    ] {
        let failure = infer::decode(body, &digits()).unwrap_err();
        check_failure(&failure, "", "body: expected UTF-8, got none from byte");
    }
}

/// A bomb of brackets costs neither the stack nor time, wherever it stands.
#[test]
fn nesting_is_bounded() {
    for depth in [101, 500, 100_000, 1_000_000] {
        for open in ["[", "{\"a\":"] {
            let bomb = open.repeat(depth);
            let too_deep = "expected at most 100 arrays and objects inside each other";
            check_refused(&digits(), &[(&format!("{{\"x\":{bomb}"), too_deep)]);
            let body = format!("{{\"inputs\":[{{\"data\":{bomb}");
            check_refused(&digits(), &[(&body, too_deep)]);
            let failure =
                predict::decode_items(format!("[{bomb}").as_bytes(), Format::Json, &digits());
            check_failure(&failure.unwrap_err(), "", too_deep);
        }
        let bomb = "[".repeat(depth);
        check_refused(&digits(), &[(&bomb, "expected an object")]);
        check_refused(
            &digits(),
            &[(
                &pixels("[1,2,2]", "\"UINT8\"", &bomb),
                "inputs[0].data[0][0][0]: expected an integer from 0 to 255 (UINT8), got an array",
            )],
        );
        let failure = predict::decode_item(bomb.as_bytes(), &digits()).unwrap_err();
        check_failure(&failure, "", "[0][0]: expected an integer from 0 to 255");
    }
    let deepest = format!("{{\"x\":{}{}}}", "[".repeat(100), "]".repeat(100));
    check_refused(&digits(), &[(&deepest, "inputs: expected")]);
}

#[test]
fn tensors_that_are_not_the_models() {
    let refused = |shape: &str, datatype: &str, data: &str, words: &str| {
        check_refused(&digits(), &[(&pixels(shape, datatype, data), words)]);
    };
    let one = "[1,2,2]";
    let uint8 = "\"UINT8\"";
    let rows = [
        (
            one,
            "\"uint8\"",
            "[]",
            "inputs[0].datatype: expected a datatype such as FP32, got \"uint8\"",
        ),
        (
            one,
            "\"FP32\"",
            "[]",
            "inputs[0].datatype: expected UINT8 for \"pixels\", got FP32",
        ),
        (
            one,
            "\"BF16\"",
            "[]",
            "inputs[0].datatype: expected UINT8 for \"pixels\", got BF16",
        ),
        (
            one,
            "8",
            "[]",
            "inputs[0].datatype: expected a string, got 8",
        ),
        (
            "4",
            uint8,
            "[]",
            "inputs[0].shape: expected an array of sizes, got 4",
        ),
        (
            "[1,2,-2]",
            uint8,
            "[]",
            "inputs[0].shape[2]: expected a size of 0 or more, got -2",
        ),
        (
            "[1,2,2.0]",
            uint8,
            "[]",
            "inputs[0].shape[2]: expected a size of 0 or more, got 2.0",
        ),
        (
            "[1,2,18446744073709551616]",
            uint8,
            "[]",
            "inputs[0].shape[2]: expected a size",
        ),
        (
            "[2,2]",
            uint8,
            "[]",
            "inputs[0].shape: expected [-1, 2, 2] for \"pixels\", got [2, 2]: the first dimension counts the rows",
        ),
        (
            "[1,2,3]",
            uint8,
            "[]",
            "inputs[0].shape: expected [-1, 2, 2] for \"pixels\", got [1, 2, 3]",
        ),
        (
            "[0,2,2]",
            uint8,
            "[]",
            "got [0, 2, 2]: at least one row is needed",
        ),
        (one, uint8, "7", "inputs[0].data: expected an array, got 7"),
        (
            one,
            uint8,
            "\"AQIDBA==\"",
            "inputs[0].data: expected an array, got \"AQIDBA==\"",
        ),
        (
            one,
            uint8,
            "null",
            "inputs[0].data: expected an array, got null",
        ),
        (
            one,
            uint8,
            "[1,2,3,256]",
            "inputs[0].data[3]: expected an integer from 0 to 255 (UINT8), got 256 at byte",
        ),
        (
            one,
            uint8,
            "[1,-1,3,4]",
            "inputs[0].data[1]: expected an integer from 0 to 255 (UINT8), got -1",
        ),
        (
            one,
            uint8,
            "[1.0,1,3,4]",
            "inputs[0].data[0]: expected an integer from 0 to 255 (UINT8), got 1.0",
        ),
        (
            one,
            uint8,
            "[1,\"1\",3,4]",
            "inputs[0].data[1]: expected an integer from 0 to 255 (UINT8), got \"1\"",
        ),
        (
            one,
            uint8,
            "[true,1,3,4]",
            "inputs[0].data[0]: expected an integer from 0 to 255 (UINT8), got true",
        ),
        (
            one,
            uint8,
            "[1,2,3]",
            "inputs[0].data: expected 4 elements for shape [1, 2, 2], got 3",
        ),
        (
            one,
            uint8,
            "[]",
            "inputs[0].data: expected 4 elements for shape [1, 2, 2], got 0",
        ),
        (
            one,
            uint8,
            "[1,2,3,4,5]",
            "inputs[0].data: expected 4 elements for shape [1, 2, 2], got more",
        ),
        (
            one,
            uint8,
            "[1,2,3 4]",
            "inputs[0].data: expected ',' or ']', got 4",
        ),
        (
            one,
            uint8,
            "[1,2,3,4",
            "inputs[0].data: expected ',' or ']', got '}'",
        ),
        (
            one,
            uint8,
            "[[1,2],[3,4]]",
            "inputs[0].data[0][0]: expected an inner array, as the shape has one, got 1",
        ),
        (
            one,
            uint8,
            "[[[1,2],[3]]]",
            "inputs[0].data[0][1]: expected 2 elements for dimension 2 of shape [1, 2, 2], got 1",
        ),
        (
            one,
            uint8,
            "[[[1,2],[3,4,5]]]",
            "inputs[0].data[0][1]: expected 2 elements for dimension 2 of shape [1, 2, 2], got more",
        ),
        (
            one,
            uint8,
            "[[[1,2]]]",
            "inputs[0].data[0]: expected 2 elements for dimension 1 of shape [1, 2, 2], got 1",
        ),
        (
            one,
            uint8,
            "[[[1,2],[3,4]],[]]",
            "inputs[0].data: expected 1 element for dimension 0 of shape [1, 2, 2], got more",
        ),
        (
            one,
            uint8,
            "[[[1,2],3]]",
            "inputs[0].data[0][1]: expected an inner array, as the shape has one, got 3",
        ),
        (
            one,
            uint8,
            "[[[1,2],[3,300]]]",
            "inputs[0].data[0][1][1]: expected an integer from 0 to 255 (UINT8), got 300",
        ),
    ];
    for (shape, datatype, data, words) in rows {
        refused(shape, datatype, data, words);
    }
}

/// Sizes whose product wraps, or whose memory nobody has.
#[test]
fn shapes_larger_than_the_body_cost_nothing() {
    let any = echo(&[("pixels", "FP64[-1]")]);
    for (shape, words) in [
        (
            "[16,1152921504606846978]",
            "got more elements than can be counted",
        ),
        (
            "[4,1152921504606846978]",
            "expected 4611686018427387912 elements for shape",
        ),
        (
            "[4294967296,4294967296]",
            "got more elements than can be counted",
        ),
        (
            "[1,1152921504606846976]",
            "expected 1152921504606846976 elements for shape",
        ),
    ] {
        let in_order = pixels(shape, "\"FP64\"", "[1,2,3]");
        let data_first = format!(
            r#"{{"inputs":[{{"data":[1,2,3],"name":"pixels","shape":{shape},"datatype":"FP64"}}]}}"#
        );
        check_refused(&any, &[(&in_order, words), (&data_first, words)]);
    }
    let dimensions = format!("[{}]", vec!["1"; 1000].join(","));
    let words = "inputs[0].shape: expected at most 32 dimensions, got more";
    check_refused(&any, &[(&pixels(&dimensions, "\"FP64\"", "[1]"), words)]);
}

#[test]
fn names_that_are_missing_unknown_or_twice() {
    let number = r#"{"name":"numbers","shape":[1,3],"datatype":"FP32","data":[1,2,3]}"#;
    let word = r#"{"name":"words","shape":[1],"datatype":"BYTES","data":["a"]}"#;
    let two_words = r#"{"name":"words","shape":[2],"datatype":"BYTES","data":["a","b"]}"#;
    let body = |inputs: &[&str], outputs: &str| {
        format!(r#"{{"inputs":[{}],"outputs":{outputs}}}"#, inputs.join(","))
    };
    let both = &[number, word][..];
    let rows = [
        (
            body(&[number], "[]"),
            "inputs: expected the input \"words\" too, but it is missing",
        ),
        (
            body(&[number, number], "[]"),
            "inputs[1].name: expected \"numbers\" once, got it twice",
        ),
        (
            body(&[r#"{"name":"x"}"#], "[]"),
            "inputs[0].name: expected one of \"numbers\", \"words\", got \"x\"",
        ),
        (
            body(&["{}"], "[]"),
            "inputs[0].name: expected the name of an input, but it is missing",
        ),
        (
            body(&[r#"{"name":"words"}"#], "[]"),
            "inputs[0].datatype: expected a datatype, but it is missing",
        ),
        (
            body(&[r#"{"name":"words","datatype":"BYTES"}"#], "[]"),
            "inputs[0].shape: expected an array of sizes, but it is missing",
        ),
        (
            body(
                &[r#"{"name":"words","datatype":"BYTES","shape":[1]}"#],
                "[]",
            ),
            "inputs[0].data: expected an array of elements, but it is missing",
        ),
        (
            body(&[number, two_words], "[]"),
            "inputs: expected as many rows in every input, got 1 in \"numbers\" and 2 in \"words\"",
        ),
        (
            body(both, "[{}]"),
            "outputs[0].name: expected the name of an output, but it is missing",
        ),
        (
            body(both, r#"[{"name":"words"},{"name":"y"}]"#),
            "outputs[1].name: expected one of \"numbers\", \"words\", got \"y\"",
        ),
        (
            body(both, r#"[{"name":"words"},{"name":"words"}]"#),
            "outputs[1].name: expected \"words\" once, got it twice",
        ),
        (
            body(both, "{}"),
            "outputs: expected an array of outputs, got an object",
        ),
    ];
    for (body, words) in &rows {
        check_refused(&two(), &[(body, words)]);
    }
    let long = format!(r#"{{"inputs":[{{"name":"{}"}}]}}"#, "é\\n".repeat(100_000));
    check_refused(&two(), &[(&long, "got \"é\\né\\n")]);
}

#[test]
fn parameters_that_cannot_be_kept_are_refused_by_name() {
    let memory = "expected a request without this parameter: shared memory is not supported";
    check_refused(
        &two(),
        &[
            (
                r#"{"parameters":[]}"#,
                "parameters: expected an object of parameters, got an array",
            ),
            (
                r#"{"parameters":{"timeout":"9"}}"#,
                "parameters.timeout: expected an integer of microseconds, got \"9\"",
            ),
            (
                r#"{"parameters":{"timeout":-1}}"#,
                "parameters.timeout: expected an integer of microseconds, got -1",
            ),
            (
                r#"{"parameters":{"timeout":1.5}}"#,
                "parameters.timeout: expected an integer of microseconds, got 1.5",
            ),
            (
                r#"{"parameters":{"colour":[1,NaN]}}"#,
                "parameters.colour[1]: expected a JSON value, got NaN",
            ),
            (
                r#"{"parameters":{"colour":1e999}}"#,
                "parameters.colour: expected a number in the range of FP64, got 1e999",
            ),
            (
                r#"{"parameters":{"priority":-1}}"#,
                "parameters.priority: expected an integer, 1 or more, or 0 for none, got -1",
            ),
            (
                r#"{"parameters":{"priority":"high"}}"#,
                "parameters.priority: expected an integer",
            ),
            (
                r#"{"parameters":{"sequence_id":-1}}"#,
                "parameters.sequence_id: expected an integer of 0 or more, or a string, got -1",
            ),
            (
                r#"{"parameters":{"sequence_start":1}}"#,
                "parameters.sequence_start: expected true or false, got 1",
            ),
            (
                r#"{"parameters":{"sequence_end":"true"}}"#,
                "parameters.sequence_end: expected true or false",
            ),
            (
                r#"{"parameters":{"binary_data_output":1}}"#,
                "parameters.binary_data_output: expected true or false, got 1",
            ),
            (
                r#"{"parameters":{"triton_enable_empty_final_response":true}}"#,
                "parameters.triton_enable_empty_final_response: expected a request without",
            ),
            (
                r#"{"parameters":{"a":1,"a":2}}"#,
                "parameters.a: expected this key once",
            ),
            (
                r#"{"inputs":[{"parameters":{"shared_memory_region":"x"}}]}"#,
                memory,
            ),
            (
                r#"{"outputs":[{"name":"numbers","parameters":{"binary_data":1}}]}"#,
                "outputs[0].parameters.binary_data: expected true or false, got 1",
            ),
            (
                r#"{"outputs":[{"parameters":{"shared_memory_offset":1}}]}"#,
                memory,
            ),
            (
                r#"{"outputs":[{"name":"numbers","parameters":{"classification":-1}}]}"#,
                "outputs[0].parameters.classification: expected a number of classes, got -1",
            ),
            (
                r#"{"outputs":[{"parameters":{"classification":2},"name":"words"}]}"#,
                "outputs[0].parameters.classification: expected an output of numbers, but \"words\" is BYTES",
            ),
        ],
    );
    let many: Vec<String> = (0..129).map(|key| format!("\"{key}\":1")).collect();
    let body = format!("{{\"parameters\":{{{}}}}}", many.join(","));
    check_refused(
        &two(),
        &[(&body, "parameters: expected at most 128 keys, got more")],
    );
}

#[test]
fn base64_that_is_none() {
    let body = |word: &str| {
        format!(
            r#"{{"inputs":[{{"name":"words","shape":[2],"datatype":"BYTES","data":["",{word}],"parameters":{{"content_type":"base64"}}}}]}}"#
        )
    };
    for word in ["\"a\"", "\"aGk\"", "\"aGk=x\"", "\"a-k=\"", "\"aGl=\""] {
        check_refused(
            &echo(&[("words", "BYTES")]),
            &[(
                &body(word),
                "inputs[0].data[1]: expected base64 with padding, got",
            )],
        );
    }
}

#[test]
fn more_strings_than_there_may_be() {
    let spec = echo(&[("words", "BYTES[-1]")]);
    let count = MAX_STRINGS + 1;
    let data = vec!["\"\""; count].join(",");
    let body = format!(
        r#"{{"inputs":[{{"name":"words","shape":[1,{count}],"datatype":"BYTES","data":[{data}]}}]}}"#
    );
    let failure = infer::decode(body.as_bytes(), &spec).unwrap_err();
    assert_eq!(failure.code, Code::TooLarge);
    assert!(
        failure.message.contains("expected at most 1048576 strings"),
        "{failure}"
    );
}

#[test]
fn a_model_without_a_batch_axis_takes_its_shape_as_it_is() {
    let matrix = TensorSpec {
        name: "pixels".to_owned(),
        datatype: DataType::Uint8,
        shape: vec![Dim::Fixed(2), Dim::Any],
    };
    let spec = spec_of(BatchAxis::None, vec![matrix]);
    let request = infer::decode(pixels("[2,0]", "\"UINT8\"", "[[],[]]").as_bytes(), &spec).unwrap();
    assert_eq!(request.inputs[0].shape(), [2, 0]);
    check_refused(
        &spec,
        &[(
            &pixels("[1,2,1]", "\"UINT8\"", "[1,2]"),
            "inputs[0].shape: expected [2, -1] for \"pixels\", got [1, 2, 1]",
        )],
    );
    let inputs = predict::decode_item(b"[[1,2,3],[4,5,6]]", &spec).unwrap();
    assert_eq!(inputs[0].shape(), [2, 3]);
    let mut out = Vec::new();
    predict::encode_item(&mut out, &spec, &inputs);
    assert_eq!(out, br#"{"prediction":{"pixels":[[1,2,3],[4,5,6]]}}"#);
}

#[test]
fn a_scalar_without_a_batch_axis_is_one_element() {
    let scalar = TensorSpec {
        name: "pixels".to_owned(),
        datatype: DataType::Bool,
        shape: Vec::new(),
    };
    let spec = spec_of(BatchAxis::None, vec![scalar]);
    for data in ["[true]", "true"] {
        let request = infer::decode(pixels("[]", "\"BOOL\"", data).as_bytes(), &spec).unwrap();
        assert_eq!(request.inputs[0].to_vec(), Some(vec![true]));
    }
    check_refused(
        &spec,
        &[
            (
                &pixels("[]", "\"BOOL\"", "[]"),
                "inputs[0].data: expected 1 element for shape [], got 0",
            ),
            (
                &pixels("[]", "\"BOOL\"", "[true,true]"),
                "inputs[0].data: expected 1 element for shape [], got more",
            ),
            (
                &pixels("[]", "\"BOOL\"", "1"),
                "inputs[0].data: expected true or false, got 1",
            ),
        ],
    );
}

#[test]
fn the_golden_request_and_its_answer() {
    let spec = two();
    let request = infer::decode(include_bytes!("golden/infer_request.json"), &spec).unwrap();
    let meta = Meta {
        id: Some("request 7 \"🚀\"".to_owned()),
        timeout: Some(Duration::from_millis(250)),
        priority: 1,
        parameters: Some(GOLDEN_PARAMETERS.to_owned()),
        key: None,
    };
    assert_eq!(request.meta, meta);
    let [words, numbers] = json_outputs([1, 0]);
    assert_eq!(request.outputs, [words, numbers]);
    let numbers = request.inputs[0].to_vec::<f32>().unwrap();
    assert_eq!(numbers[..4], [1.0, -2.5, 3.0, 0.1]);
    assert!(numbers[4].is_nan() && numbers[5] == f32::NEG_INFINITY);
    let words = [Bytes::from_static(b"\xff\x00"), Bytes::from_static(b"hi")];
    assert_eq!(request.inputs[1].byte_elements().unwrap(), words);

    let mut out = Vec::new();
    infer::encode(
        &mut out,
        "echo",
        "3",
        meta.id.as_deref(),
        &spec,
        &request.outputs,
        &request.inputs,
    )
    .unwrap();
    assert_eq!(
        str::from_utf8(&out).unwrap(),
        include_str!("golden/infer_response.json").trim_end()
    );
}

const GOLDEN_PARAMETERS: &str = r#"{"timeout": 250000, "priority": 1, "sequence_id": 0, "binary_data_output": false, "colour": ["blue", null]}"#;

#[test]
fn optional_fields_may_be_null_and_a_timeout_of_zero_is_none() {
    let mut body = pixels("[1,2,2]", "\"UINT8\"", "[1,2,3,4]");
    body.insert_str(1, r#""id":null,"parameters":null,"outputs":null,"#);
    let request = infer::decode(body.as_bytes(), &digits()).unwrap();
    assert_eq!(request.meta, Meta::default());
    assert_eq!(request.outputs, json_outputs([0]));

    let body = body.replacen("\"parameters\":null", r#""parameters":{"timeout":0}"#, 1);
    let request = infer::decode(body.as_bytes(), &digits()).unwrap();
    assert_eq!(request.meta.timeout, None);
}

#[test]
fn items_are_objects_or_the_one_value() {
    let spec = digits();
    let nested = predict::decode_item(br#"{"pixels":[[1,2],[3,4]]}"#, &spec).unwrap();
    assert_eq!(nested[0].shape(), [1, 2, 2]);
    for same in [
        "[[1,2],[3,4]]",
        "[1,2,3,4]",
        " { \"pixels\" : [ 1 , 2 , 3 , 4 ] } ",
    ] {
        assert_eq!(
            predict::decode_item(same.as_bytes(), &spec).unwrap(),
            nested
        );
    }
    let item = br#"{"words":"a","numbers":[1,2,3]}"#;
    let inputs = predict::decode_item(item, &two()).unwrap();
    let mut out = Vec::new();
    predict::encode_item(&mut out, &two(), &inputs);
    assert_eq!(
        out,
        br#"{"prediction":{"numbers":[1.0,2.0,3.0],"words":"a"}}"#
    );
}

#[test]
fn dimensions_of_any_size_are_as_the_nesting_has_them() {
    let spec = echo(&[("x", "INT8[-1,2,-1]")]);
    for (body, shape) in [
        ("[]", [1, 0, 2, 0]),
        ("[[[1,2,3],[4,5,6]]]", [1, 1, 2, 3]),
        ("[[[],[]],[[],[]]]", [1, 2, 2, 0]),
    ] {
        let inputs = predict::decode_item(body.as_bytes(), &spec).unwrap();
        assert_eq!(inputs[0].shape(), shape, "{body}");
    }
    for (body, words) in [
        (
            "[1,2]",
            "[0]: expected an inner array, as the shape has one, got 1",
        ),
        (
            "[[[1],[2,3]]]",
            "[0][1]: expected 1 element for dimension 2 of shape [-1, 2, -1], got more",
        ),
        (
            "[[[1,2],[3]]]",
            "[0][1]: expected 2 elements for dimension 2 of shape [-1, 2, -1], got 1",
        ),
        (
            "[[[1],[2],[3]]]",
            "[0]: expected 2 elements for dimension 1 of shape [-1, 2, -1], got more",
        ),
    ] {
        let failure = predict::decode_item(body.as_bytes(), &spec).unwrap_err();
        check_failure(&failure, body, words);
    }
}

#[test]
fn items_that_are_not_the_models() {
    let rows = [
        ("", "body: expected JSON, got nothing"),
        (
            "[1,2,3]",
            "body: expected an object with a value for each input, got an array",
        ),
        (
            "{}",
            "body: expected a value for the input \"numbers\", but it is missing",
        ),
        (
            r#"{"numbers":[1,2,3]}"#,
            "body: expected a value for the input \"words\"",
        ),
        (
            r#"{"numbers":[1,2]}"#,
            "numbers: expected 3 elements for shape [3], got 2",
        ),
        (
            r#"{"numbers":[1,2,"3"]}"#,
            "numbers[2]: expected a number in the range of FP32, got \"3\"",
        ),
        (
            r#"{"numbers":[1,2,null]}"#,
            "numbers[2]: expected a number in the range of FP32, got null",
        ),
        (r#"{"words":7}"#, "words: expected a string (BYTES), got 7"),
        (
            r#"{"wrods":"a"}"#,
            "expected one of \"numbers\", \"words\", got \"wrods\"",
        ),
        (
            r#"{"words":"a","words":"a"}"#,
            "words: expected this key once, got it twice",
        ),
        (
            r#"{"numbers":[1,2,3],"words":"a"}{}"#,
            "body: expected nothing after the JSON value",
        ),
    ];
    for (body, words) in rows {
        let failure = predict::decode_item(body.as_bytes(), &two()).unwrap_err();
        check_failure(&failure, body, words);
    }
}

#[test]
fn a_bad_item_is_its_own_failure() {
    let spec = digits();
    let items = [
        "[1,2,3,4]",
        "[1,2,3,400]",
        r#"{"pixels":[[5,6],[7,8]]}"#,
        r#"{"pixel":[]}"#,
        "null",
    ];
    for (body, format) in [
        (format!(" [{}] ", items.join(" , ")), Format::Json),
        (format!("\n{}\n\n", items.join("\r\n")), Format::Ndjson),
    ] {
        let read = predict::decode_items(body.as_bytes(), format, &spec).unwrap();
        let ok: Vec<bool> = read.iter().map(Result::is_ok).collect();
        assert_eq!(ok, [true, false, true, false, false]);
        check_failure(
            read[1].as_ref().unwrap_err(),
            &body,
            "[1][3]: expected an integer from 0 to 255",
        );
        check_failure(
            read[3].as_ref().unwrap_err(),
            &body,
            "[3]: expected one of \"pixels\", got \"pixel\"",
        );

        let mut out = Vec::new();
        predict::encode_items(&mut out, &spec, &read);
        let answers: Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(
            answers[2],
            json!({"prediction": {"pixels": [[5, 6], [7, 8]]}})
        );
        assert_eq!(answers[1]["code"], "invalid_input");
        assert_eq!(answers.as_array().unwrap().len(), 5);
    }
}

#[test]
fn a_body_without_items_to_tell_apart_fails_whole() {
    for (body, words) in [
        ("", "body: expected JSON, got nothing"),
        ("{}", "body: expected an array of items, got an object"),
        (
            "[[1,2,3,4]",
            "body: expected ',' or ']', got the end of the body",
        ),
        ("[[1,2,3,4],]", "[1]: expected a value, got ']'"),
        (
            "[[1,2,3,4],[1,2",
            "[1]: expected ',' or ']', got the end of the body",
        ),
        ("[{\"pixels\": x}]", "[0]: expected a value, got x"),
        (
            "[[1,2,3,4]] 1",
            "body: expected nothing after the JSON value",
        ),
    ] {
        let failure = predict::decode_items(body.as_bytes(), Format::Json, &digits()).unwrap_err();
        check_failure(&failure, body, words);
    }
    let failure = predict::decode_items(b"x\n[1,", Format::Ndjson, &digits()).unwrap_err();
    check_failure(
        &failure,
        "",
        "body: expected JSON values on separate lines, got none",
    );
    let mixed = predict::decode_items(b"[1,\n[1,2,3,4]", Format::Ndjson, &digits()).unwrap();
    assert!(mixed[0].is_err() && mixed[1].is_ok());
    assert!(
        predict::decode_items(b"[]", Format::Json, &digits())
            .unwrap()
            .is_empty()
    );
}

#[test]
fn more_items_than_there_may_be() {
    let spec = echo(&[("x", "BOOL")]);
    for (separator, format) in [(",", Format::Json), ("\n", Format::Ndjson)] {
        let body = |count: usize| {
            let items = vec!["true"; count].join(separator);
            match format {
                Format::Json => format!("[{items}]"),
                Format::Ndjson => items,
            }
        };
        let read = predict::decode_items(body(MAX_ITEMS).as_bytes(), format, &spec).unwrap();
        assert_eq!(read.len(), MAX_ITEMS);
        let failure =
            predict::decode_items(body(MAX_ITEMS + 1).as_bytes(), format, &spec).unwrap_err();
        assert_eq!(failure.code, Code::TooLarge);
    }
}

#[test]
fn halves_have_no_json_form_in_the_protocol_but_are_predicted_from_numbers() {
    for datatype in [DataType::Fp16, DataType::Bf16] {
        let spec = echo(&[("x", &format!("{datatype}[2]"))]);
        let body = format!(
            r#"{{"inputs":[{{"name":"x","shape":[1,2],"datatype":"{datatype}","data":[0.5,-1]}}]}}"#
        );
        let words = format!(
            "inputs[0].data: expected a datatype that the protocol has a JSON form for, got {datatype}: send its raw bytes, or its numbers to /predict/NAME"
        );
        check_refused(&spec, &[(&body, &words)]);
        let inputs = predict::decode_item(br#"{"x":[0.5,-1]}"#, &spec).unwrap();
        assert_eq!(inputs[0].datatype(), datatype);
        let failure = predict::decode_item(br#"{"x":[0.5,1e39]}"#, &spec).unwrap_err();
        assert!(failure.message.starts_with("x[1]: "), "{failure}");
    }
}

#[test]
fn a_prediction_says_what_it_could_not_write() {
    let spec = two();
    let outputs = [
        Tensor::from_f32([1, 3], vec![f32::NAN, 0.5, f32::INFINITY]).unwrap(),
        Tensor::from_bytes([1], vec![Bytes::from_static(b"\xff")]).unwrap(),
    ];
    let mut out = Vec::new();
    predict::encode_item(&mut out, &spec, &outputs);
    let value: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        value,
        json!({
            "prediction": {"numbers": ["NaN", 0.5, "Infinity"], "words": "/w=="},
            "parameters": {"numbers": {"non_finite": 2}, "words": {"content_type": "base64"}},
        })
    );
}

#[test]
fn the_small_documents() {
    let text = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    let spec = two();
    let model = metadata::ModelMetadata {
        name: "echo",
        versions: &["3"],
        platform: "echo",
        spec: &spec,
    };
    assert_eq!(
        text(&|out| metadata::model(out, &model)),
        include_str!("golden/model_metadata.json").trim_end()
    );
    assert_eq!(
        text(&|out| metadata::server(out, "jitney", "0.1.0", &["statistics"])),
        r#"{"name":"jitney","version":"0.1.0","extensions":["statistics"]}"#
    );
    assert_eq!(text(&|out| metadata::live(out, true)), r#"{"live":true}"#);
    assert_eq!(
        text(&|out| metadata::ready(out, false)),
        r#"{"ready":false}"#
    );
    assert_eq!(
        text(&|out| metadata::model_ready(out, "a\"b", true)),
        r#"{"name":"a\"b","ready":true}"#
    );
    assert_eq!(
        text(&|out| metadata::list(out, &["a", "b"])),
        r#"{"models":["a","b"]}"#
    );
}

fn any_datatype() -> impl Strategy<Value = DataType> {
    prop::sample::select(DataType::ALL.to_vec())
}

/// A tensor of three rows, of any datatype, with every bit pattern that datatype has.
fn any_tensor() -> impl Strategy<Value = Tensor> {
    (any_datatype(), prop::collection::vec(0..4_usize, 0..3)).prop_flat_map(|(datatype, row)| {
        let shape: Shape = std::iter::once(3).chain(row).collect();
        let count = shape.iter().product::<usize>();
        let data = match (datatype, datatype.width()) {
            (DataType::Bool, _) => prop::collection::vec(0..2_u8, count)
                .prop_map(|bytes| Data::Fixed(bytes.into()))
                .boxed(),
            (_, Some(width)) => prop::collection::vec(any::<u8>(), count * width)
                .prop_map(|bytes| Data::Fixed(bytes.into()))
                .boxed(),
            (_, None) => any_words(count).boxed(),
        };
        data.prop_map(move |data| Tensor::new(datatype, shape.clone(), data).unwrap())
    })
}

fn any_words(count: usize) -> impl Strategy<Value = Data> {
    let text = any::<String>().prop_map(String::into_bytes);
    let word = prop_oneof![4 => text, 1 => prop::collection::vec(any::<u8>(), 0..8)];
    prop::collection::vec(word.prop_map(Bytes::from), count).prop_map(Data::Elements)
}

fn spec_for(tensor: &Tensor) -> Spec {
    let dims = tensor.shape().iter().skip(1).map(|size| Dim::Fixed(*size));
    let input = TensorSpec {
        name: "x \"é\"\n".to_owned(),
        datatype: tensor.datatype(),
        shape: std::iter::once(Dim::Any).chain(dims).collect(),
    };
    spec_of(BatchAxis::Free, vec![input])
}

/// The answer to a request, changed into a request of its tensors: the two have the same form.
fn request_of_answer(id: Option<&str>, spec: &Spec, outputs: &[Tensor]) -> (String, Value) {
    let mut out = Vec::new();
    infer::encode(&mut out, "m", "1", id, spec, &json_outputs([0]), outputs).unwrap();
    let answer = String::from_utf8(out).unwrap();
    let value = serde_json::from_str(&answer).unwrap();
    (
        answer.replacen(r#","outputs":["#, r#","inputs":["#, 1),
        value,
    )
}

/// A tensor of which all NaN are the same: the word for it does not say which it is.
fn numbers(tensor: &Tensor) -> Tensor {
    let Data::Fixed(bytes) = tensor.data() else {
        return tensor.clone();
    };
    let (nan, width): (fn(&[u8]) -> bool, _) = match tensor.datatype() {
        DataType::Fp16 => (|le| f16::from_le_bytes([le[0], le[1]]).is_nan(), 2),
        DataType::Bf16 => (|le| bf16::from_le_bytes([le[0], le[1]]).is_nan(), 2),
        DataType::Fp32 => (|le| f32::from_le_bytes(le.try_into().unwrap()).is_nan(), 4),
        DataType::Fp64 => (|le| f64::from_le_bytes(le.try_into().unwrap()).is_nan(), 8),
        _ => return tensor.clone(),
    };
    let mut bytes = bytes.to_vec();
    for element in bytes.chunks_mut(width).filter(|le| nan(le)) {
        element.fill(0xff);
    }
    let shape: Shape = tensor.shape().iter().copied().collect();
    Tensor::new(tensor.datatype(), shape, Data::Fixed(bytes.into())).unwrap()
}

/// Pieces that make JSON now and then.
const TOKENS: &[&str] = &[
    "[",
    "]",
    "[",
    "]",
    "{",
    "}",
    "\"a\":",
    "\"\\u00e9\\n\"",
    "\"",
    "\\",
    ":",
    ",",
    ",",
    " ",
    "0",
    "-1",
    "1.5e-3",
    "1e999",
    ".",
    "true",
    "null",
    "\u{1}",
    "é",
];

proptest! {
    #[test]
    fn what_is_written_reads_back_the_same(tensor in any_tensor(), id in prop::option::of(any::<String>())) {
        let spec = spec_for(&tensor);
        let meta = Meta {
            id,
            ..Meta::default()
        };
        let (body, answer) = request_of_answer(meta.id.as_deref(), &spec, std::slice::from_ref(&tensor));
        let data = answer["outputs"][0]["data"].as_array().unwrap();
        let words = data.iter().filter(|value| value.is_string()).count();
        let non_finite = answer["outputs"][0]["parameters"]["non_finite"].as_u64();
        if tensor.byte_elements().is_none() {
            prop_assert_eq!(words as u64, non_finite.unwrap_or(0));
        }
        if matches!(tensor.datatype(), DataType::Fp16 | DataType::Bf16) {
            prop_assert_eq!(infer::decode(body.as_bytes(), &spec).unwrap_err().code, Code::InvalidInput);
        } else {
            let request = infer::decode(body.as_bytes(), &spec).unwrap();
            prop_assert_eq!(numbers(&request.inputs[0]), numbers(&tensor));
            prop_assert_eq!(request.meta, meta);
        }
    }

    #[test]
    fn predictions_read_back_the_same(tensor in any_tensor()) {
        let spec = spec_for(&tensor);
        let row = tensor.slice_rows(1, 1).unwrap();
        let mut out = Vec::new();
        predict::encode_item(&mut out, &spec, std::slice::from_ref(&row));
        let value: Value = serde_json::from_slice(&out).unwrap();
        if row.byte_elements().is_none() || value.get("parameters").is_none() {
            let read = predict::read_item_at(&out, r#"{"prediction":"#.len(), &spec).unwrap();
            prop_assert_eq!(numbers(&read[0]), numbers(&row));
        }
    }

    /// Documents of both kinds of number and of strings, with the spaces and escapes that serde_json writes, are read as it reads them.
    #[test]
    fn agrees_with_serde_json(floats in prop::collection::vec(any::<f64>(), 3), words in prop::collection::vec(any::<String>(), 1), pretty: bool) {
        let finite = floats.iter().all(|value| value.is_finite());
        let document = json!({
            "id": words[0],
            "inputs": [
                {"name": "words", "shape": [1], "datatype": "BYTES", "data": words},
                {"name": "numbers", "shape": [1, 3], "datatype": "FP64", "data": [floats]},
            ],
        });
        let body = if pretty { serde_json::to_string_pretty(&document) } else { serde_json::to_string(&document) }.unwrap();
        let spec = echo(&[("numbers", "FP64[3]"), ("words", "BYTES")]);
        let read = infer::decode(body.as_bytes(), &spec);
        prop_assert_eq!(read.is_ok(), finite);
        if let Ok(request) = read {
            prop_assert_eq!(request.inputs[0].to_vec::<f64>().unwrap(), floats);
            prop_assert_eq!(&request.inputs[1].byte_elements().unwrap()[0][..], words[0].as_bytes());
            prop_assert_eq!(request.meta.id.as_ref(), Some(&words[0]));
        }
    }

    /// What serde_json takes for JSON, the scanner skips, and the reverse.
    #[test]
    fn skips_what_serde_json_takes_for_json(tokens in prop::collection::vec(prop::sample::select(TOKENS), 1..9)) {
        let text = tokens.concat();
        let skipped = Scanner::new(text.as_bytes()).is_ok_and(|mut scanner| {
            scanner.skip().and_then(|()| scanner.end()).is_ok()
        });
        let expected = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(skipped, expected, "{}", text);
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = infer::decode(&body, &two());
        let _ = predict::decode_items(&body, Format::Ndjson, &two());
    }

    #[test]
    fn any_mutation_is_answered(at: prop::sample::Index, with in prop::collection::vec(any::<u8>(), 0..4), cut in 0..6_usize) {
        let mut body = include_bytes!("golden/infer_request.json").to_vec();
        let at = at.index(body.len());
        let end = (at + cut).min(body.len());
        body.splice(at..end, with);
        if let Err(failure) = infer::decode(&body, &two()) {
            prop_assert_eq!(failure.code, Code::InvalidInput);
            prop_assert!(failure.message.len() < 500);
        }
        let _ = predict::decode_items(&body, Format::Json, &two());
    }
}
