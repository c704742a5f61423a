//! The golden exchanges of `spec/exchanges`: what a client sends, and what it must be answered with.

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jitney_server::config::ModelOptions;
use jitney_server::grpc::generated::{ModelInferRequest, ModelInferResponse};
use prost::Message;
use serde_json::Value;
use tonic::Status;

use crate::grpc;
use crate::support::{Answer, Fixture, start_given};

#[test]
fn rest_with_json() {
    check_rest("rest_json.json");
}

#[test]
fn rest_with_binary_tensors() {
    check_rest("rest_binary.json");
}

#[test]
fn grpc() {
    let document = read("grpc.json");
    let server = serve(&document);
    let exchanges = document["exchanges"].as_array().unwrap();
    assert!(exchanges.len() > 10, "there are few exchanges");
    for exchange in exchanges {
        let method = exchange["method"].as_str().unwrap().trim_start_matches('/');
        let request = message::<ModelInferRequest>(&exchange["request"]);
        let answer = server.block_on(async {
            let channel = grpc::connect(&server).await;
            grpc::call::<_, ModelInferResponse>(&channel, method, request).await
        });
        check_call(exchange, answer);
    }
}

fn check_call(exchange: &Value, answer: Result<ModelInferResponse, Status>) {
    let name = &exchange["name"];
    match answer {
        Ok(answer) => {
            assert_eq!(exchange["status"], 0, "{name}");
            let wanted = message::<ModelInferResponse>(&exchange["response"]);
            assert_eq!(answer, wanted, "{name}");
        }
        Err(status) => {
            assert_eq!(exchange["status"], status.code() as i32, "{name}: {status}");
            let word = status.metadata().get("jitney-code").unwrap();
            assert_eq!(exchange["code"], word.to_str().unwrap(), "{name}");
        }
    }
}

fn message<M: Message + Default>(value: &Value) -> M {
    M::decode(&*bytes(&value["base64"])).unwrap()
}

fn check_rest(file: &str) {
    let document = read(file);
    let server = serve(&document);
    let exchanges = document["exchanges"].as_array().unwrap();
    assert!(exchanges.len() > 10, "{file} has few exchanges");
    for exchange in exchanges {
        let answer = ask(&server, &exchange["request"]);
        check(&exchange["name"], &exchange["response"], &answer);
    }
}

fn read(file: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/exchanges");
    let text = fs::read_to_string(folder.join(file)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// A server with the models that a file names.
fn serve(document: &Value) -> Fixture {
    let models = document["models"].as_object().unwrap().iter();
    let sources: Vec<String> = models
        .map(|(name, source)| format!("{name}={}", source.as_str().unwrap()))
        .collect();
    let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
    start_given(&sources, ModelOptions::default(), grpc::same_port)
}

fn ask(server: &Fixture, request: &Value) -> Answer {
    let text = |key: &str| request[key].as_str().unwrap();
    let body = [
        request["body"]["text"].as_str().unwrap_or_default().into(),
        bytes(&request["body"]["base64"]),
    ]
    .concat();
    let fields: String = request["headers"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, value)| format!("{name}: {}\r\n", value.as_str().unwrap()))
        .collect();
    let (method, path, length) = (text("method"), text("path"), body.len());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: {length}\r\n{fields}\r\n"
    );
    let mut client = server.connect();
    client.send([head.into_bytes(), body].concat());
    client.answer().expect("an answer")
}

fn check(name: &Value, wanted: &Value, answer: &Answer) {
    let shown = String::from_utf8_lossy(&answer.body);
    assert_eq!(wanted["status"], answer.status, "{name}: {shown}");
    for (field, value) in wanted["headers"].as_object().unwrap() {
        assert_eq!(answer.field(field), value.as_str(), "{name}: {field}");
    }
    if let Some(error) = wanted.get("error") {
        let said = answer.json();
        assert_eq!(error["code"], said["code"], "{name}: {shown}");
        assert!(said["error"].is_string(), "{name}: {shown}");
        return;
    }
    let raw: Vec<Vec<u8>> = match wanted.get("raw") {
        Some(parts) => parts.as_array().unwrap().iter().map(bytes).collect(),
        None => Vec::new(),
    };
    let length = answer.field("inference-header-content-length");
    assert_eq!(length.is_some(), wanted.get("raw").is_some(), "{name}");
    let length = length.map_or(answer.body.len(), |length| length.parse().unwrap());
    let said = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert!(same(&wanted["json"], &said), "{name}: {said}");
    assert_eq!(answer.body[length..], raw.concat(), "{name}");
}

/// Base64, or nothing where there is none.
fn bytes(value: &Value) -> Vec<u8> {
    STANDARD.decode(value.as_str().unwrap_or_default()).unwrap()
}

/// Whether two values of JSON are the same, for which 1 and 1.0 are.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array(left), Value::Array(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .zip(right)
                    .all(|(left, right)| same(left, right))
        }
        (Value::Object(left), Value::Object(right)) => {
            left.len() == right.len()
                && left
                    .iter()
                    .all(|(key, left)| right.get(key).is_some_and(|right| same(left, right)))
        }
        (Value::Number(left), Value::Number(right)) if left.is_f64() || right.is_f64() => {
            left.as_f64() == right.as_f64()
        }
        _ => left == right,
    }
}
