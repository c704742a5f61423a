//! Header fields are among the parameters of a request, whatever protocol it comes by. The model is one in Python: `echo` looks at none.

use std::io::Read;

use futures_util::{StreamExt, stream};
use jitney_server::config::HeaderPattern;
use jitney_server::grpc::generated::{
    ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use serde_json::json;
use tempfile::TempDir;
use tonic::Request;

use crate::grpc::{call, connect, open, raw, same_port};
use crate::streams::{connect_with, hear, say};
use crate::support::{Fixture, start_with};

const CURIOUS: &str = "\
class Curious:
    def predict(self, item, context):
        return context.parameters
";

struct Curious {
    server: Fixture,
    _folder: TempDir,
}

fn start_curious() -> Curious {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("curious.py");
    std::fs::write(&file, CURIOUS).unwrap();
    let server = start_with(&[file.to_str().unwrap()], |net| {
        same_port(net);
        net.forward_header_pattern = HeaderPattern::parse("^x-tenant-").ok();
    });
    Curious {
        server,
        _folder: folder,
    }
}

/// Whatever the form of the answer, the model was told of the one field.
fn check(what: &str, answer: &str) {
    let plain: String = answer
        .chars()
        .filter(|c| !matches!(c, '\\' | ' '))
        .collect();
    assert!(plain.contains(r#""x-tenant-id":"a""#), "{what}: {answer}");
    assert!(!plain.contains("x-other"), "{what}: {answer}");
}

#[test]
fn fields_of_http_requests_are_parameters() {
    let Curious { server, .. } = &start_curious();
    let input = json!({"name": "item", "datatype": "BYTES", "shape": [1], "data": ["1"]});
    let infer = json!({"inputs": [input]}).to_string();
    for (path, body) in [
        ("/predict/curious", "1"),
        ("/predict/curious/batch", "[1]"),
        ("/predict/curious/stream", "1"),
        ("/v2/models/curious/infer", &infer),
        ("/v2/models/curious/generate", "{}"),
        ("/v2/models/curious/generate_stream", "{}"),
    ] {
        let fields = "content-type: application/json\r\nx-tenant-id: a\r\nx-other: b\r\nconnection: close\r\n";
        let mut client = server.connect();
        client.begin("POST", path, fields, body);
        let mut answer = String::new();
        client.into_parts().0.read_to_string(&mut answer).unwrap();
        check(path, &answer);
    }
}

#[test]
fn fields_of_a_handshake_are_parameters_of_every_request_on_the_socket() {
    let Curious { server, .. } = &start_curious();
    server.block_on(async {
        let fields = [("x-tenant-id", "a"), ("x-other", "b")];
        let mut socket = connect_with(server, "curious", &fields).await;
        let input = json!({"name": "item", "datatype": "BYTES", "shape": [1], "data": ["1"]});
        for request in [
            json!({"id": "1", "item": 1}),
            json!({"id": "2", "inputs": [input]}),
            json!({"id": "3", "item": 1, "parameters": {"top": 3}}),
        ] {
            say(&mut socket, &request).await;
            let answer = hear(&mut socket).await;
            assert_eq!(answer["id"], request["id"]);
            check(&request.to_string(), &answer.to_string());
        }
    });
}

#[test]
fn metadata_of_a_call_is_among_the_parameters_of_its_requests() {
    let Curious { server, .. } = &start_curious();
    fn with_metadata<T>(message: T) -> Request<T> {
        let mut request = Request::new(message);
        for (name, value) in [("x-tenant-id", "a"), ("x-other", "b")] {
            request.metadata_mut().insert(name, value.parse().unwrap());
        }
        request
    }
    let asked = || {
        let mut asked = raw("curious", "BYTES", &[1], &b"\x01\x00\x00\x001"[..]);
        asked.inputs[0].name = "item".to_owned();
        asked
    };
    let told = |what: &str, answer: ModelInferResponse| {
        check(
            what,
            &String::from_utf8_lossy(&answer.raw_output_contents[0]),
        );
    };
    server.block_on(async {
        let channel = connect(server).await;
        let answer = call::<ModelInferRequest, _>(&channel, "ModelInfer", with_metadata(asked()));
        told("a call", answer.await.unwrap());
        let requests = with_metadata(stream::iter([asked(), asked()]));
        let answers = open(&channel, "ModelStreamInfer", requests).await.unwrap();
        let answers: Vec<ModelStreamInferResponse> = answers.map(Result::unwrap).collect().await;
        assert_eq!(answers.len(), 2);
        for answer in answers {
            told("a stream", answer.infer_response.unwrap());
        }
    });
}
