//! Raw tensors, compressed bodies and what a request says of itself, over real sockets.

use std::io::{Read, Write};

use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};
use serde_json::{Value, json};

use crate::support::{Answer, Client, start, start_with};

const OCTETS: &str = "content-type: application/octet-stream\r\n";
const JSON: &str = "content-type: application/json\r\n";
const INFER: &str = "/v2/models/m/infer";

/// Sends JSON with raw bytes behind it, as a request whose header fields say so.
fn post_mixed(client: &mut Client, json: &str, raw: &[u8]) -> Answer {
    let fields = format!(
        "{OCTETS}inference-header-content-length: {}\r\n",
        json.len()
    );
    post(client, INFER, &fields, &[json.as_bytes(), raw].concat())
}

fn post(client: &mut Client, path: &str, fields: &str, body: &[u8]) -> Answer {
    let length = format!("content-length: {}\r\n{fields}", body.len());
    client.begin("POST", path, &length, "");
    client.send(body).answer().expect("an answer")
}

fn floats(values: &[f32]) -> Vec<u8> {
    values
        .iter()
        .flat_map(|value| value.to_le_bytes())
        .collect()
}

/// The JSON of an answer and the raw bytes behind it.
fn parts(answer: &Answer) -> (Value, &[u8]) {
    let length = answer.field("inference-header-content-length");
    let length = length.expect("raw tensors").parse().unwrap();
    let (json, raw) = answer.body.split_at(length);
    (serde_json::from_slice(json).unwrap(), raw)
}

fn request(fields: &str) -> String {
    format!(r#"{{"inputs":[{{"name":"input","shape":[1,2],"datatype":"FP32",{fields}}}]}}"#)
}

#[test]
fn raw_in_and_raw_out_to_the_last_bit() {
    let server = start(&["m=echo:FP32[2]"]);
    let mut client = server.connect();
    let raw = [1, 0, 0xc0, 0x7f, 0, 0, 0x80, 0xff];
    let json = r#"{"id":"7","parameters":{"binary_data_output":true},"inputs":[{"name":"input","shape":[1,2],"datatype":"FP32","parameters":{"binary_data_size":8}}]}"#;
    let answer = post_mixed(&mut client, json, &raw);
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(
        answer.field("content-type"),
        Some("application/octet-stream")
    );
    let (head, bytes) = parts(&answer);
    assert_eq!(bytes, raw);
    assert_eq!(head["id"], "7");
    assert_eq!(
        head["outputs"][0]["parameters"],
        json!({"binary_data_size": 8})
    );
    assert_eq!(head["outputs"][0].get("data"), None);

    // The same bytes as JSON are words, for it has no such numbers.
    let json = request(r#""parameters":{"binary_data_size":8}"#);
    let answer = post_mixed(&mut client, &json, &raw);
    let output = &answer.json()["outputs"][0];
    assert_eq!(output["data"], json!(["NaN", "-Infinity"]));
    assert_eq!(output["parameters"], json!({"non_finite": 2}));

    // And JSON may be answered with raw bytes.
    let json = request(r#""data":[1,-2]"#).replacen(
        '{',
        r#"{"parameters":{"binary_data_output":true},"#,
        1,
    );
    let answer = post(&mut client, INFER, JSON, json.as_bytes());
    assert_eq!(parts(&answer).1, floats(&[1.0, -2.0]));
}

#[test]
fn a_body_that_is_one_tensor() {
    let server = start(&["m=echo:FP32[2]"]);
    let raw = floats(&[0.5, f32::NAN]);
    let zero = "inference-header-content-length: 0\r\n";
    for fields in [zero.to_owned(), format!("{OCTETS}{zero}")] {
        let answer = post(&mut server.connect(), INFER, &fields, &raw);
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(parts(&answer).1, raw);
    }
    let answer = post(&mut server.connect(), INFER, zero, &raw[1..]);
    assert_eq!((answer.status, &*answer.code()), (400, "invalid_input"));
}

#[test]
fn large_bodies_are_whole() {
    let server = start(&["m=echo:FP32[3,224,224]"]);
    let values: Vec<f32> = (0..3 * 224 * 224).map(|n| n as f32).collect();
    let raw = floats(&values);
    let json = format!(
        r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"input","shape":[1,3,224,224],"datatype":"FP32","parameters":{{"binary_data_size":{}}}}}]}}"#,
        raw.len()
    );
    let mut client = server.connect();
    for _ in 0..3 {
        assert_eq!(parts(&post_mixed(&mut client, &json, &raw)).1, raw);
    }
}

#[test]
fn what_is_refused_leaves_the_connection_as_it_was() {
    let server = start(&["m=echo:FP32[2]"]);
    let mut client = server.connect();
    let json = request(r#""parameters":{"binary_data_size":8}"#);
    for (raw, words) in [
        (
            &[0; 7][..],
            "inputs[0].parameters.binary_data_size: expected at most 7",
        ),
        (&[0; 9], "body: expected as many bytes behind the JSON"),
    ] {
        let answer = post_mixed(&mut client, &json, raw);
        assert_eq!((answer.status, &*answer.code()), (400, "invalid_input"));
        assert!(answer.text().contains(words), "{answer:?}");
    }
    let rows = [
        (INFER, "-1", 400),
        (INFER, "+5", 400),
        (INFER, "99999999999", 400),
        (INFER, "x", 400),
        (INFER, "", 400),
        ("/predict/m", "5", 400),
        ("/predict/m/batch", "0", 400),
    ];
    for (path, length, status) in rows {
        let fields = format!("{JSON}inference-header-content-length: {length}\r\n");
        let answer = post(&mut client, path, &fields, json.as_bytes());
        assert_eq!((answer.status, &*answer.code()), (status, "invalid_input"));
        assert!(
            answer.text().contains("Inference-Header-Content-Length"),
            "{answer:?}"
        );
    }
    assert_eq!(post_mixed(&mut client, &json, &[0; 8]).status, 200);
}

#[test]
fn clients_that_say_no_type_and_pages_that_cannot() {
    let server = start(&["m=echo:FP32[2]"]);
    let mut client = server.connect();
    let body = request(r#""data":[1,2]"#);
    let own = format!("origin: http://{}\r\n", server.address());
    let rows = [
        ("", &*body, 200),
        (OCTETS, &*body, 200),
        ("", "[1]", 415),
        ("", "", 415),
        ("content-type: text/plain\r\n", &*body, 415),
        (&*own, &*body, 415),
        ("sec-fetch-site: cross-site\r\n", &*body, 415),
        ("origin: http://evil.example\r\n", &*body, 403),
    ];
    for (fields, body, status) in rows {
        let answer = post(&mut client, INFER, fields, body.as_bytes());
        assert_eq!(answer.status, status, "{fields:?} {answer:?}");
    }
    let answer = post(&mut client, "/predict/m", "", b"[1,2]");
    assert_eq!(
        (answer.status, &*answer.code()),
        (415, "unsupported_media_type")
    );
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut writer = GzEncoder::new(Vec::new(), Compression::default());
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn zlib(plain: &[u8]) -> Vec<u8> {
    let mut writer = ZlibEncoder::new(Vec::new(), Compression::default());
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

fn bare(plain: &[u8]) -> Vec<u8> {
    let mut writer = DeflateEncoder::new(Vec::new(), Compression::default());
    writer.write_all(plain).unwrap();
    writer.finish().unwrap()
}

#[test]
fn compressed_bodies() {
    let server = start(&["m=echo:FP32[2]"]);
    let mut client = server.connect();
    let json = request(r#""parameters":{"binary_data_size":8}"#);
    let plain = [json.as_bytes(), &floats(&[1.0, 2.0])].concat();
    let fields = format!(
        "{OCTETS}inference-header-content-length: {}\r\n",
        json.len()
    );
    for (coding, body) in [
        ("gzip", gzip(&plain)),
        ("deflate", zlib(&plain)),
        ("deflate", bare(&plain)),
    ] {
        let fields = format!("{fields}content-encoding: {coding}\r\n");
        let answer = post(&mut client, INFER, &fields, &body);
        assert_eq!(answer.json()["outputs"][0]["data"], json!([1.0, 2.0]));
        let cut = post(&mut client, INFER, &fields, &body[..body.len() - 1]);
        assert_eq!((cut.status, &*cut.code()), (400, "invalid_input"));
        assert!(cut.text().contains("cut off"), "{cut:?}");
    }
    let fields = format!("{JSON}content-encoding: gzip\r\n");
    let answer = post(&mut client, "/predict/m", &fields, &gzip(b"[3,4]"));
    assert_eq!(answer.status, 200, "{answer:?}");
    for coding in ["br", "zstd", "gzip, gzip", "compress"] {
        let fields = format!("{JSON}content-encoding: {coding}\r\n");
        let answer = post(&mut server.connect(), "/predict/m", &fields, b"[3,4]");
        assert_eq!(answer.status, 415, "{coding}");
    }
}

#[test]
fn bombs_stop_at_the_limit() {
    let server = start_with(&["m=echo:FP32[2]"], |net| net.max_body_bytes = 1 << 20);
    for (coding, pack) in [("gzip", gzip as fn(&[u8]) -> Vec<u8>), ("deflate", zlib)] {
        let bomb = pack(&vec![b' '; 16 << 20]);
        assert!(bomb.len() < 1 << 20);
        let fields = format!("{JSON}content-encoding: {coding}\r\n");
        let answer = post(&mut server.connect(), INFER, &fields, &bomb);
        assert_eq!((answer.status, &*answer.code()), (413, "too_large"));
        assert_eq!(answer.field("connection"), Some("close"));
    }
    assert_eq!(server.connect().post("/predict/m", "[1,2]").status, 200);
}

#[test]
fn compressed_answers() {
    let server = start(&["m=echo:FP32[1000]"]);
    let mut client = server.connect();
    let body = json!([vec![0.25; 1000]]).to_string();
    let mut asked = |accepted: &str| {
        let fields = format!("{JSON}accept-encoding: {accepted}\r\n");
        post(&mut client, "/predict/m/batch", &fields, body.as_bytes())
    };
    let plain = asked("identity").body;
    let gzip = asked("deflate;q=0.5, gzip");
    assert_eq!(gzip.field("content-encoding"), Some("gzip"));
    assert_eq!(gzip.field("vary"), Some("accept-encoding"));
    let mut read = Vec::new();
    GzDecoder::new(&gzip.body[..])
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, plain);
    let zlib = asked("deflate");
    assert_eq!(zlib.field("content-encoding"), Some("deflate"));
    read.clear();
    ZlibDecoder::new(&zlib.body[..])
        .read_to_end(&mut read)
        .unwrap();
    assert_eq!(read, plain);
    assert_eq!(asked("gzip;q=0").field("content-encoding"), None);

    // The JSON ends where it ends in what was compressed.
    let values = json!({
        "parameters": {"binary_data_output": true},
        "inputs": [{"name": "input", "shape": [1, 1000], "datatype": "FP32", "data": vec![0.25; 1000]}],
    });
    let fields = format!("{JSON}accept-encoding: gzip\r\n");
    let mut answer = post(&mut client, INFER, &fields, values.to_string().as_bytes());
    assert_eq!(answer.field("content-encoding"), Some("gzip"));
    read.clear();
    GzDecoder::new(&answer.body[..])
        .read_to_end(&mut read)
        .unwrap();
    answer.body = read;
    assert_eq!(parts(&answer).1, floats(&[0.25; 1000]));
}

#[test]
fn classes_are_the_highest_numbers() {
    let server = start(&["m=echo:FP32[3]"]);
    let body = json!({
        "inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP32", "data": [1, 3, 2]}],
        "outputs": [{"name": server.connect().get("/v2/models/m").json()["outputs"][0]["name"], "parameters": {"classification": 2}}],
    });
    let answer = server.connect().post(INFER, &body.to_string());
    let output = &answer.json()["outputs"][0];
    assert_eq!(output["datatype"], "BYTES");
    assert_eq!(output["shape"], json!([1, 2]));
    assert_eq!(output["data"], json!(["3:1", "2:2"]));
}
