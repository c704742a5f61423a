//! Models that take JSON values and give JSON values.

use std::collections::HashSet;

use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::super::MAX_NESTING;
use super::*;

fn texts(tensor: &Tensor) -> Vec<&str> {
    let elements = tensor.byte_elements().unwrap().iter();
    elements
        .map(|element| str::from_utf8(element).unwrap())
        .collect()
}

fn item(body: &str) -> Result<Vec<Tensor>, Failure> {
    predict::decode_item(body.as_bytes(), &Spec::json())
}

fn answer(text: &str) -> Vec<Tensor> {
    vec![Tensor::from_bytes([1], vec![Bytes::copy_from_slice(text.as_bytes())]).unwrap()]
}

#[test]
fn an_item_is_any_value_and_stays_as_it_was_written() {
    let table = [
        ("null", "null"),
        (" \n-1.50e+3 ", "-1.50e+3"),
        (r#""caf\u00e9 \ud83d\ude00""#, r#""caf\u00e9 \ud83d\ude00""#),
        (
            r#"{ "b" : [1, {}, []] , "a":true}"#,
            r#"{ "b" : [1, {}, []] , "a":true}"#,
        ),
        (
            "123456789012345678901234567890",
            "123456789012345678901234567890",
        ),
    ];
    for (body, expected) in table {
        let inputs = item(body).unwrap();
        assert_eq!((inputs.len(), inputs[0].shape()), (1, &[1][..]), "{body}");
        assert_eq!(texts(&inputs[0]), [expected], "{body}");
    }
}

#[test]
fn an_item_is_json_to_the_letter() {
    let table = [
        ("", "body: expected JSON, got nothing"),
        ("{} {}", "expected nothing after the JSON value"),
        ("NaN", "body: expected a JSON value, got NaN at byte 0"),
        (
            r#"{"a":[0,-Infinity]}"#,
            "a[1]: expected a JSON value, got -Infinity",
        ),
        ("01", "expected"),
        ("[1,]", "[1]: expected a JSON value, got ']'"),
        (r#"{"a":1,}"#, "expected a key in quotes"),
        (
            r#"{"a":{"b":1,"c":2,"b":3}}"#,
            "a.b: expected this key once, got it twice",
        ),
        (r#"{"a":1,"\u0061":1}"#, "a: expected this key once"),
        (r#""\ud800""#, "expected an escape sequence"),
        ("\"a\u{1}\"", "control character 0x01"),
        ("'a'", "expected a JSON value, got '"),
        ("[1", "expected ',' or ']'"),
        (
            r#"{"a":[1,-0.5e1011]}"#,
            "a[1]: expected a number in the range of FP64, got -0.5e1011",
        ),
        ("1e309", "body: expected a number in the range of FP64"),
    ];
    for (body, words) in table {
        check_failure(&item(body).unwrap_err(), body, words);
    }
}

#[test]
fn a_value_may_have_many_keys_and_be_nested_as_deep_as_any() {
    let many: String = (0..10_000).map(|n| format!("\"{n}\":{n},")).collect();
    item(&format!("{{{many}\"end\":0}}")).unwrap();
    let failure = item(&format!("{{{many}\"9999\":0}}")).unwrap_err();
    check_failure(&failure, "many keys", "9999: expected this key once");

    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    item(&nested(MAX_NESTING)).unwrap();
    for depth in [MAX_NESTING + 1, 1_000_000] {
        let failure = item(&nested(depth)).unwrap_err();
        assert!(failure.message.contains("expected at most 100 arrays"));
        assert!(failure.message.len() < 500, "{failure}");
    }
}

#[test]
fn the_place_of_a_fault_is_short_however_deep_it_is() {
    let inner = "{\"a key of thirty-five bytes, caf\u{e9}s\":".repeat(MAX_NESTING - 1);
    let failure = item(&format!("{inner}{{7")).unwrap_err();
    assert!(failure.message.len() < 500, "{failure}");
    assert!(failure.message.starts_with("a key of"), "{failure}");
    assert!(failure.message.contains(" ... "), "{failure}");
}

#[test]
fn items_fail_each_for_itself() {
    let body = br#"[{"a":1}, {"a":1,"a":2}, NaN, 4]"#;
    let items = predict::decode_items(body, Format::Json, &Spec::json()).unwrap();
    assert_eq!(texts(&items[0].as_ref().unwrap()[0]), [r#"{"a":1}"#]);
    let failure = items[1].as_ref().unwrap_err();
    let words = "[1].a: expected this key once";
    assert!(failure.message.starts_with(words), "{failure}");
    assert!(items[2].is_err());
    assert_eq!(texts(&items[3].as_ref().unwrap()[0]), ["4"]);

    let lines = predict::decode_items(b"1\n\n{\n\"x\"\n", Format::Ndjson, &Spec::json()).unwrap();
    let good: Vec<bool> = lines.iter().map(Result::is_ok).collect();
    assert_eq!(good, [true, false, true]);
}

#[test]
fn a_prediction_is_the_value() {
    let mut out = Vec::new();
    predict::encode_item(&mut out, &Spec::json(), &answer(r#"{"label":"cat"}"#));
    assert_eq!(out, br#"{"prediction":{"label":"cat"}}"#);
    let mut out = Vec::new();
    let failed = Err(Failure::new(Code::ModelError, "ValueError: no"));
    predict::encode_items(&mut out, &Spec::json(), &[Ok(answer("[1,2]")), failed]);
    let expected = r#"[{"prediction":[1,2]},{"error":"ValueError: no","code":"model_error"}]"#;
    assert_eq!(String::from_utf8(out).unwrap(), expected);
}

#[test]
fn numbers_that_json_does_not_have_are_counted() {
    let counted = |count: i64| {
        let counts = Tensor::from_vec([1], vec![count]).unwrap();
        [answer(r#"["NaN","Infinity"]"#), vec![counts]].concat()
    };
    for (count, parameters) in [(0, ""), (2, r#","parameters":{"non_finite":2}"#)] {
        let mut out = Vec::new();
        predict::encode_item(&mut out, &Spec::json(), &counted(count));
        let expected = format!(r#"{{"prediction":["NaN","Infinity"]{parameters}}}"#);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
    let mut out = Vec::new();
    infer::encode(
        &mut out,
        "m",
        "1",
        None,
        &Spec::json(),
        &json_outputs([0]),
        &counted(2),
    )
    .unwrap();
    let written: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        written["outputs"][0]["parameters"],
        json!({"non_finite": 2})
    );
    assert_eq!(written["outputs"].as_array().unwrap().len(), 1);
}

/// The request for the `item` of these texts.
fn request(shape: usize, data: &Value) -> String {
    json!({"inputs": [{"name": "item", "datatype": "BYTES", "shape": [shape], "data": data}]})
        .to_string()
}

#[test]
fn the_protocol_carries_values_as_texts() {
    let spec = Spec::json();
    let data = json!([r#"{"a": 1}"#, " 2 "]);
    let read = infer::decode(request(2, &data).as_bytes(), &spec).unwrap();
    assert_eq!(texts(&read.inputs[0]), [r#"{"a": 1}"#, " 2 "]);
    let mut out = Vec::new();
    let outputs = answer("[true]");
    infer::encode(
        &mut out,
        "m",
        "1",
        read.meta.id.as_deref(),
        &spec,
        &json_outputs([0]),
        &outputs,
    )
    .unwrap();
    let written: Value = serde_json::from_slice(&out).unwrap();
    let expected =
        json!({"name": "prediction", "datatype": "BYTES", "shape": [1], "data": ["[true]"]});
    assert_eq!(written["outputs"][0], expected);

    let table = [
        (
            json!(["1", "nonsense"]),
            "inputs[0].data[1]: expected a JSON value",
        ),
        (
            json!(["1", ""]),
            "inputs[0].data[1]: expected JSON, got nothing",
        ),
        (
            json!(["1 2", "1"]),
            "inputs[0].data[0]: expected nothing after the JSON value",
        ),
        (
            json!([r#"{"a":1,"a":1}"#, "1"]),
            "inputs[0].data[0].a: expected this key once",
        ),
    ];
    for (data, words) in table {
        check_refused(&spec, &[(&request(2, &data), words)]);
    }
}

#[test]
fn parameters_are_kept_for_the_model_as_they_were_written() {
    let body = |parameters: &str| {
        let input = r#"{"name":"item","datatype":"BYTES","shape":[1],"data":["1"]}"#;
        format!(r#"{{"id":"7","parameters": {parameters} ,"inputs":[{input}]}}"#)
    };
    let meta = |parameters: &str| {
        let read = infer::decode(body(parameters).as_bytes(), &Spec::json());
        read.unwrap().meta
    };
    let text = r#"{"timeout": 5000, "greeting":"h\u00e9", "deep":{"x":[1]}}"#;
    let kept = meta(text);
    assert_eq!(kept.parameters.as_deref(), Some(text));
    assert_eq!(kept.timeout, Some(Duration::from_millis(5)));
    assert_eq!(meta("null").parameters, None);
    assert_eq!(meta("{}").parameters.as_deref(), Some("{}"));
}

#[test]
fn the_metadata_says_that_the_elements_are_json() {
    let mut out = Vec::new();
    let spec = Spec::json();
    let document = metadata::ModelMetadata {
        name: "m",
        versions: &["1"],
        platform: "python",
        spec: &spec,
    };
    metadata::model(&mut out, &document);
    let written: Value = serde_json::from_slice(&out).unwrap();
    let tensor = |name: &str| {
        let parameters = json!({"content_type": "application/json"});
        json!({"name": name, "datatype": "BYTES", "shape": [-1], "parameters": parameters})
    };
    assert_eq!(written["inputs"], json!([tensor("item")]));
    assert_eq!(written["outputs"], json!([tensor("prediction")]));
}

/// JSON in which no object has a key twice, by another reader.
struct Strict;

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Strict, D::Error> {
        deserializer.deserialize_any(StrictVisitor)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Strict;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Strict, E> {
        Ok(Strict)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Strict, A::Error> {
        while items.next_element::<Strict>()?.is_some() {}
        Ok(Strict)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Strict, A::Error> {
        let mut seen = HashSet::new();
        while let Some((key, _)) = entries.next_entry::<String, Strict>()? {
            if !seen.insert(key) {
                return Err(de::Error::custom("a key twice"));
            }
        }
        Ok(Strict)
    }
}

const PIECES: &[&str] = &[
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"a\"",
    "\"b\"",
    "\"\\u0061\"",
    "1",
    "-0.5e-1",
    "-0.5e1",
    "01",
    "true",
    "null",
    "NaN",
    " ",
    "\"",
    "\u{e9}",
];

proptest! {
    /// What it lets pass, and nothing else, is what another reader takes for JSON without keys twice.
    #[test]
    fn takes_what_another_reader_takes(pieces in prop::collection::vec(prop::sample::select(PIECES), 1..12)) {
        let text = pieces.concat();
        let expected = serde_json::from_str::<Strict>(&text).is_ok();
        prop_assert_eq!(item(&text).is_ok(), expected, "{}", text);
    }

    /// The same with every value in its place, so that most of it is JSON.
    #[test]
    fn takes_values_of_objects_and_arrays(keys in prop::collection::vec("[ab]{1,2}", 0..5), depth in 0..4_usize) {
        let members: Vec<String> = keys.iter().map(|key| format!("\"{key}\": [1, {{}}]")).collect();
        let object = format!("{{{}}}", members.join(" , "));
        let text = format!("{}{object}{}", "[".repeat(depth), "]".repeat(depth));
        let expected = serde_json::from_str::<Strict>(&text).is_ok();
        prop_assert_eq!(item(&text).is_ok(), expected, "{}", text);
    }
}
