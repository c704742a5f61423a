//! Raw tensors behind the JSON, and requests that are one raw tensor.

use bytes::Bytes;
use jitney_engine::tensor::{DataType, Shape};
use jitney_engine::{BatchAxis, Dim, Spec, Tensor, TensorSpec};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::infer::{self, Form, Wanted};
use super::super::tensors::{split, to_raw};
use super::{any_tensor, check_failure, digits, echo, json_outputs, spec_for, spec_of};
use crate::call::Meta;
use crate::failure::{Code, Failure};

/// A body of that JSON with raw bytes behind it, and how long the JSON is.
fn mixed(json: &str, raw: &[u8]) -> (Bytes, usize) {
    (Bytes::from([json.as_bytes(), raw].concat()), json.len())
}

fn decode(spec: &Spec, json: &str, raw: &[u8]) -> Result<infer::Request, Failure> {
    let (body, length) = mixed(json, raw);
    infer::decode_binary(&body, length, spec)
}

/// A request for one input `x` of two rows, each of two elements.
fn request(datatype: &str, fields: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"x","shape":[2,2],"datatype":"{datatype}",{fields}}}]}}"#)
}

fn sized(datatype: &str, size: usize) -> String {
    request(
        datatype,
        &format!(r#""parameters":{{"binary_data_size":{size}}}"#),
    )
}

#[track_caller]
fn check_refused(spec: &Spec, json: &str, raw: &[u8], words: &str) {
    let failure = decode(spec, json, raw).expect_err(json);
    check_failure(&failure, json, words);
}

#[test]
fn the_golden_request_and_its_answer() {
    let spec = echo(&[
        ("flags", "BOOL[1]"),
        ("halves", "FP16[3]"),
        ("words", "BYTES"),
    ]);
    let json = include_str!("../golden/infer_binary_request.json").trim_end();
    let words = b"\x04\0\0\0\xff\0a\"\0\0\0\0";
    // 1, -2, the least above zero, infinity, and two kinds of NaN.
    let halves = [0, 0x3c, 0, 0xc0, 1, 0, 0, 0x7c, 0, 0x7e, 0x01, 0xfc];
    let raw = [&words[..], &halves].concat();
    let (body, length) = mixed(json, &raw);
    let read = infer::decode_binary(&body, length, &spec).unwrap();
    assert_eq!(read.inputs[0].to_vec(), Some(vec![true, false]));
    assert_eq!(to_raw(&read.inputs[1]).unwrap()[..], halves);
    assert_eq!(
        read.inputs[2].byte_elements().unwrap(),
        [&b"\xff\0a\""[..], b""]
    );
    let halves_memory = to_raw(&read.inputs[1]).unwrap();
    assert!(body.as_ptr_range().contains(&halves_memory.as_ptr()));

    let mut out = Vec::new();
    let (id, outputs) = (read.meta.id.as_deref(), &read.outputs);
    let pieces = infer::encode(&mut out, "echo", "3", id, &spec, outputs, &read.inputs);
    let expected = include_str!("../golden/infer_binary_response.json").trim_end();
    assert_eq!(str::from_utf8(&out).unwrap(), expected);
    let pieces = pieces.unwrap();
    assert_eq!(pieces[0][..], halves);
    assert_eq!(pieces[0].as_ptr(), halves_memory.as_ptr());
    assert_eq!(pieces[1][..], words[..]);
    assert_eq!(pieces.len(), 2);
}

#[test]
fn which_outputs_are_raw() {
    let spec = echo(&[("a", "UINT8"), ("b", "UINT8")]);
    let inputs = r#""inputs":[{"name":"a","shape":[1],"datatype":"UINT8","data":[1]},{"name":"b","shape":[1],"datatype":"UINT8","data":[2]}]"#;
    let all = r#""parameters":{"binary_data_output":true}"#;
    let rows = [
        (String::new(), vec![(0, Form::Json), (1, Form::Json)]),
        (format!(",{all}"), vec![(0, Form::Binary), (1, Form::Binary)]),
        (format!(r#",{all},"outputs":[]"#), vec![(0, Form::Binary), (1, Form::Binary)]),
        // One that is listed says for itself.
        (format!(r#",{all},"outputs":[{{"name":"b"}}]"#), vec![(1, Form::Json)]),
        (
            r#","outputs":[{"parameters":{"binary_data":true},"name":"b"},{"name":"a","parameters":{"binary_data":false}}]"#.to_owned(),
            vec![(1, Form::Binary), (0, Form::Json)],
        ),
    ];
    for (more, expected) in rows {
        let body = format!("{{{inputs}{more}}}");
        // Raw outputs may be asked for by a request that is JSON alone, with and without the header.
        for read in [
            infer::decode(body.as_bytes(), &spec),
            decode(&spec, &body, &[]),
        ] {
            let wanted: Vec<_> = (read.unwrap().outputs.iter())
                .map(|wanted| (wanted.output, wanted.form))
                .collect();
            assert_eq!(wanted, expected, "{body}");
        }
    }
}

#[test]
fn sizes_that_do_not_fit() {
    let spec = echo(&[("x", "FP32[2]")]);
    let at = "inputs[0].parameters.binary_data_size: ";
    let rows = [
        (sized("FP32", 15), 15, format!("{at}expected 16 bytes for FP32 of shape [2, 2], got 15")),
        (sized("FP32", 17), 17, format!("{at}expected 16 bytes for FP32 of shape [2, 2], got 17")),
        (sized("FP32", 0), 0, format!("{at}expected 16 bytes for FP32 of shape [2, 2], got 0")),
        (sized("FP32", 16), 15, format!("{at}expected at most 15, which is what the body still has, got 16")),
        (sized("FP32", usize::MAX), 16, format!("{at}expected at most 16")),
        (sized("FP32", 16), 17, "body: expected as many bytes behind the JSON as binary_data_size of all inputs says, got 1 more".to_owned()),
        (request("FP32", r#""data":[1,2,3,4]"#), 16, "body: expected as many bytes behind the JSON".to_owned()),
        (request("FP32", r#""data":[1,2,3,4],"parameters":{"binary_data_size":16}"#), 16, "inputs[0].data: expected either this or parameters.binary_data_size, got both".to_owned()),
        (request("FP32", r#""parameters":{"binary_data_size":16},"data":[1,2,3,4]"#), 16, "inputs[0].data: expected either this".to_owned()),
        (request("FP32", r#""parameters":{"binary_data_size":-1}"#), 16, format!("{at}expected a number of bytes, got -1")),
        (request("FP32", r#""parameters":{"binary_data_size":"16"}"#), 16, format!("{at}expected a number of bytes, got \"16\"")),
        (request("FP32", r#""parameters":{"binary_data_size":99999999999999999999}"#), 16, format!("{at}expected a number of bytes")),
        (request("FP32", r#""parameters":{"other":1}"#), 0, "inputs[0].data: expected an array of elements, but it is missing".to_owned()),
        (sized("FP64", 32), 32, "inputs[0].datatype: expected FP32 for \"x\", got FP64".to_owned()),
        (sized("FP32", 16).replace("[2,2]", "[2,1152921504606846978]"), 16, "inputs[0].shape: expected [-1, 2]".to_owned()),
        (sized("FP32", 16).replace("[2,2]", "[4294967296,2]"), 16, format!("{at}expected 34359738368 bytes")),
        (sized("FP32", 16).replace("[2,2]", "[9223372036854775807,2]"), 16, "more elements than can be counted".to_owned()),
    ];
    for (json, raw, words) in rows {
        check_refused(&spec, &json, &vec![0; raw], &words);
    }
    // Without the header there is no place where they could be.
    let failure = infer::decode(sized("FP32", 16).as_bytes(), &spec).unwrap_err();
    check_failure(
        &failure,
        "",
        "binary_data_size: expected raw bytes behind the JSON, but the header Inference-Header-Content-Length",
    );
}

#[test]
fn elements_that_run_over() {
    let spec = echo(&[("x", "BYTES[2]")]);
    let rows: [(&[u8], &str); 6] = [
        (
            b"\x0d\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
            "inputs[0].data[0]: expected the 13 bytes that its length says, got 12",
        ),
        (
            b"\0\0\0\0\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
            "inputs[0].data[1]: expected the 4294967295 bytes that its length says, got 8",
        ),
        // Only the last of four lengths is cut off.
        (
            b"\x04\0\0\0abcd\0\0\0\0\0\0\0\0\0\0",
            "inputs[0].data: expected 4 elements (BYTES), each after its length in 4 bytes, got fewer in 18 bytes",
        ),
        (b"", "inputs[0].data: expected 4 elements"),
        (
            &[0; 20],
            "inputs[0].data: expected 4 elements (BYTES), got 4 bytes more behind them",
        ),
        (&[0; 17], "got 1 bytes more behind them"),
    ];
    for (raw, words) in rows {
        check_refused(&spec, &sized("BYTES", raw.len()), raw, words);
    }
    assert!(decode(&spec, &sized("BYTES", 16), &[0; 16]).is_ok());
}

#[test]
fn booleans_are_zero_or_one() {
    let spec = echo(&[("x", "BOOL[2]")]);
    check_refused(&spec, &sized("BOOL", 4), &[0, 1, 2, 0], "inputs[0]: ");
    assert!(decode(&spec, &sized("BOOL", 4), &[0, 1, 1, 0]).is_ok());
}

#[test]
fn a_header_length_beyond_the_body() {
    let failure = infer::decode_binary(&Bytes::from_static(b"{}"), 3, &digits()).unwrap_err();
    check_failure(
        &failure,
        "",
        "Inference-Header-Content-Length: expected at most 2, the length of the body, got 3",
    );
    // One that is too short cuts the JSON off.
    let body = Bytes::from(sized("UINT8", 4));
    for length in 1..body.len() {
        assert!(infer::decode_binary(&body, length, &digits()).is_err());
    }
}

#[test]
fn json_of_raw_models_is_checked() {
    let spec = Spec::json();
    let json = r#"{"inputs":[{"name":"item","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":6}}]}"#;
    assert!(decode(&spec, json, b"\x02\0\0\0{}").is_ok());
    check_refused(
        &spec,
        json,
        b"\x02\0\0\0{]",
        "inputs[0].data[0]: expected a key in quotes",
    );
    let outputs = [
        Tensor::from_bytes([1], vec![Bytes::from_static(b"[null]")]).unwrap(),
        Tensor::from_vec([1], vec![1_i64]).unwrap(),
    ];
    let mut out = Vec::new();
    let wanted = Wanted::all(&spec, Form::Binary);
    infer::encode(&mut out, "m", "1", None, &spec, &wanted, &outputs).unwrap();
    let answer: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(
        answer["outputs"][0]["parameters"],
        json!({"binary_data_size": 10, "non_finite": 1})
    );
}

fn without_batch_axis(datatype: DataType, shape: &[Dim]) -> Spec {
    let input = TensorSpec {
        name: "x".to_owned(),
        datatype,
        shape: shape.to_vec(),
    };
    spec_of(BatchAxis::None, vec![input])
}

#[test]
fn the_shape_of_a_body_that_is_one_tensor() {
    let fixed = Dim::Fixed;
    let rows: [(Spec, usize, &[usize]); 7] = [
        (echo(&[("x", "FP32[2]")]), 8, &[1, 2]),
        (echo(&[("x", "FP32[-1,3]")]), 24, &[1, 2, 3]),
        (echo(&[("x", "UINT8[-1]")]), 0, &[1, 0]),
        (echo(&[("x", "INT64")]), 8, &[1]),
        (
            without_batch_axis(DataType::Fp16, &[fixed(2), Dim::Any]),
            12,
            &[2, 3],
        ),
        (without_batch_axis(DataType::Uint8, &[]), 1, &[]),
        (
            without_batch_axis(DataType::Fp64, &[fixed(0), fixed(5)]),
            0,
            &[0, 5],
        ),
    ];
    for (spec, bytes, shape) in rows {
        let read = infer::decode_binary(&vec![0; bytes].into(), 0, &spec).unwrap();
        assert_eq!(read.inputs[0].shape(), shape);
        assert_eq!(read.outputs, Wanted::all(&spec, Form::Binary));
        assert_eq!(read.meta, Meta::default());
    }
    for row in ["BYTES", "BYTES[1]", "BYTES[-1,1]"] {
        let read = infer::decode_binary(&Bytes::from_static(b"\xff\0"), 0, &echo(&[("x", row)]));
        assert_eq!(
            read.unwrap().inputs[0].byte_elements().unwrap(),
            [&b"\xff\0"[..]]
        );
    }
}

#[test]
fn bodies_that_cannot_be_one_tensor() {
    let header = "Inference-Header-Content-Length: expected ";
    let rows = [
        (
            echo(&[("x", "FP32"), ("y", "FP32")]),
            4,
            format!("{header}the length of the JSON, as the model has 2 inputs, got 0"),
        ),
        (
            echo(&[("x", "FP32[-1,-1]")]),
            4,
            format!(
                "{header}a model whose input has dimensions with at most one of any size, but \"x\" is FP32 of shape [1, -1, -1]"
            ),
        ),
        (
            echo(&[("x", "BYTES[2]")]),
            4,
            format!("{header}a model whose input has dimensions with room for one element alone"),
        ),
        (
            echo(&[("x", "FP32[2]")]),
            7,
            "body: expected 8 bytes for FP32 of shape [1, 2], got 7".to_owned(),
        ),
        (
            echo(&[("x", "FP32[2]")]),
            16,
            "body: expected 8 bytes for FP32 of shape [1, 2], got 16".to_owned(),
        ),
        (
            echo(&[("x", "FP32[-1]")]),
            7,
            "body: expected a multiple of 4 bytes for \"x\" of shape [1, -1], got 7".to_owned(),
        ),
        (
            echo(&[("x", "FP32[-1,0]")]),
            7,
            "body: expected a multiple of 0 bytes".to_owned(),
        ),
        (
            without_batch_axis(DataType::Fp64, &[Dim::Fixed(usize::MAX), Dim::Any]),
            8,
            "more elements than can be counted".to_owned(),
        ),
    ];
    for (spec, bytes, words) in rows {
        let failure = infer::decode_binary(&vec![0; bytes].into(), 0, &spec).unwrap_err();
        check_failure(&failure, "", &words);
    }
    let failure = infer::decode_binary(&Bytes::from_static(b"{]"), 0, &Spec::json()).unwrap_err();
    check_failure(&failure, "", "data[0]: expected a key in quotes");
}

#[test]
fn classes_take_the_place_of_an_output() {
    let spec = echo(&[("scores", "FP32[3]"), ("words", "BYTES")]);
    let body = r#"{"inputs":[{"name":"scores","shape":[2,3],"datatype":"FP32","data":[0.5,2,1,NaN,-1,-2]},{"name":"words","shape":[2],"datatype":"BYTES","data":["",""]}],"outputs":[{"name":"scores","parameters":{"classification":2,"binary_data":BINARY}},{"name":"words","parameters":{"classification":0}}]}"#;
    let labels = ["cat", "dog"].map(str::to_owned);
    for binary in [false, true] {
        let body = body.replace("BINARY", &binary.to_string());
        let read = infer::decode(body.as_bytes(), &spec).unwrap();
        let mut outputs = read.inputs;
        infer::put_classes(&spec, &read.outputs, &labels, &mut outputs);
        let mut out = Vec::new();
        let wanted = &read.outputs;
        let raw = infer::encode(&mut out, "m", "1", None, &spec, wanted, &outputs);
        let answer: Value = serde_json::from_slice(&out).unwrap();
        let scores = &answer["outputs"][0];
        assert_eq!(scores["datatype"], "BYTES");
        assert_eq!(scores["shape"], json!([2, 2]));
        let texts = ["2:1:dog", "1:2", "-1:1:dog", "-2:2"];
        match raw.unwrap().as_slice() {
            [] => assert_eq!(scores["data"], json!(texts)),
            [raw] => {
                let elements = split(raw, 4).unwrap();
                assert_eq!(elements, texts);
                assert_eq!(scores["parameters"]["binary_data_size"], raw.len());
            }
            more => panic!("{more:?}"),
        }
        assert_eq!(answer["outputs"][1]["data"], json!(["", ""]));
    }
}

/// What comes first of all reads of a body, so that a hostile one finds no way around another.
fn read_any(body: &Bytes, length: usize) {
    for spec in [
        echo(&[("x", "FP16[2]")]),
        echo(&[("words", "BYTES"), ("numbers", "INT64[-1]")]),
        Spec::json(),
    ] {
        match infer::decode_binary(body, length, &spec) {
            Ok(read) => assert!(spec.check(&read.inputs).is_ok()),
            Err(failure) => {
                assert_eq!(failure.code, Code::InvalidInput);
                assert!(failure.message.len() < 500);
            }
        }
    }
}

proptest! {
    /// Every datatype, in every form of question and answer, NaN bits included.
    #[test]
    fn what_is_written_reads_back_the_same(tensor in any_tensor()) {
        let spec = spec_for(&tensor);
        let wanted = Wanted::all(&spec, Form::Binary);
        let tensors = [tensor];
        let mut out = Vec::new();
        let raw = infer::encode(&mut out, "m", "1", None, &spec, &wanted, &tensors).unwrap();
        let json = String::from_utf8(out).unwrap().replacen(r#","outputs":["#, r#","inputs":["#, 1);
        let read = decode(&spec, &json, &raw.concat()).unwrap();
        prop_assert_eq!(&read.inputs, &tensors);
        prop_assert_eq!(read.outputs, json_outputs([0]));

        // The same bytes alone are the same tensor, of one row.
        let row = tensors[0].slice_rows(1, 1).unwrap();
        if row.datatype() != DataType::Bytes {
            let read = infer::decode_binary(&to_raw(&row).unwrap(), 0, &spec).unwrap();
            prop_assert_eq!(read.inputs, [row]);
        }
    }

    #[test]
    fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..99), length in 0..120_usize) {
        read_any(&body.into(), length);
    }

    #[test]
    fn any_sizes_are_answered(
        shape in prop::collection::vec(prop_oneof![0..4_usize, any::<usize>()], 0..4),
        size in prop_oneof![0..40_usize, any::<usize>()],
        raw in prop::collection::vec(any::<u8>(), 0..40),
        name in prop::sample::select(vec![("x", "FP16"), ("words", "BYTES"), ("item", "BYTES")]),
    ) {
        let shape: Shape = shape.into_iter().collect();
        let json = json!({"inputs": [{"name": name.0, "datatype": name.1, "shape": shape.as_slice(), "parameters": {"binary_data_size": size}}]});
        let (body, length) = mixed(&json.to_string(), &raw);
        read_any(&body, length);
    }
}
