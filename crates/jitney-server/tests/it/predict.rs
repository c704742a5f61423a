//! Predictions by every route.

use serde_json::json;

use crate::support::{start, start_queued};

#[test]
fn one_item() {
    let server = start(&["m=echo:FP32[2]"]);
    let answer = server.connect().post("/predict/m", "{\"input\":[1.5,-2]}");
    assert_eq!(
        (answer.status, answer.field("content-type")),
        (200, Some("application/json"))
    );
    assert_eq!(answer.json()["prediction"].as_object().unwrap().len(), 1);
    let values = answer.json()["prediction"]
        .as_object()
        .unwrap()
        .values()
        .next()
        .unwrap()
        .clone();
    assert_eq!(values, json!([1.5, -2.0]));
}

#[test]
fn many_items_fail_each_for_itself_and_keep_their_order() {
    let server = start_queued(&["m=echo:FP32[1],op=sum"], 4, |_| ());
    let items: Vec<_> = (0..50)
        .map(|n| {
            if n == 7 {
                json!({"input": "x"})
            } else {
                json!({"input": [n]})
            }
        })
        .collect();
    let answer = server
        .connect()
        .post("/predict/m/batch", &json!(items).to_string());
    assert_eq!(answer.status, 200);
    let answers = answer.json().as_array().unwrap().clone();
    assert_eq!(answers.len(), 50);
    for (n, answer) in answers.iter().enumerate() {
        if n == 7 {
            assert_eq!(answer["code"], "invalid_input");
        } else {
            let values = answer["prediction"]
                .as_object()
                .unwrap()
                .values()
                .next()
                .unwrap();
            assert_eq!(values[0].as_f64(), Some(n as f64), "{answer}");
        }
    }
}

#[test]
fn lines_in_lines_out() {
    let server = start(&["m=echo:FP32[1]"]);
    let fields = "content-type: application/x-ndjson\r\n";
    let answer = server.connect().request(
        "POST",
        "/predict/m/batch",
        fields,
        "{\"input\":[1]}\nnonsense\n{\"input\":[3]}\n",
    );
    assert_eq!(
        (answer.status, answer.field("content-type")),
        (200, Some("application/x-ndjson"))
    );
    let text = answer.text();
    let lines: Vec<serde_json::Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["prediction"].is_object() && lines[2]["prediction"].is_object());
    assert_eq!(lines[1]["code"], "invalid_input");
}

#[test]
fn the_protocol() {
    let server = start(&["m=echo:FP32[2]"]);
    let mut client = server.connect();
    let body = json!({"id": "7", "inputs": [{"name": "input", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]});
    for path in ["/v2/models/m/infer", "/v2/models/m/versions/1/infer"] {
        let answer = client.post(path, &body.to_string());
        assert_eq!(answer.status, 200, "{path} {answer:?}");
        let json = answer.json();
        assert_eq!(
            (&json["model_name"], &json["id"]),
            (&json!("m"), &json!("7"))
        );
        assert_eq!(json["outputs"][0]["data"], json!([1.0, 2.0]));
    }
    assert_eq!(client.get("/v2").json()["name"], "jitney");
    assert_eq!(client.get("/v2/health/live").json()["live"], true);
    assert_eq!(client.get("/v2/health/ready").json()["ready"], true);
    assert_eq!(client.get("/v2/models").json()["models"], json!(["m"]));
    assert_eq!(
        client.get("/v2/models/m/ready").json(),
        json!({"name": "m", "ready": true})
    );
    assert_eq!(
        client.get("/v2/models/m").json()["inputs"][0]["shape"],
        json!([-1, 2])
    );
}

#[test]
fn deadlines_of_header_and_body() {
    // The first request hangs in the model, and the second waits behind it.
    let server = start(&["m=echo:FP32[1],faulty=true"]);
    let infer = |timeout: &str| {
        format!(
            "{{\"parameters\":{{\"timeout\":{timeout}}},\"inputs\":[{{\"name\":\"input\",\"shape\":[1,1],\"datatype\":\"FP32\",\"data\":[1]}}]}}"
        )
    };
    let fields = "content-type: application/json\r\nx-request-timeout-ms: 50\r\n";
    let running = server
        .connect()
        .request("POST", "/predict/m", fields, "{\"input\":[-5]}");
    let queued = server.connect().post("/v2/models/m/infer", &infer("50000"));
    for answer in [running, queued] {
        assert!(matches!(answer.status, 504 | 429), "{answer:?}");
        assert!(matches!(
            answer.code().as_str(),
            "deadline_exceeded" | "overloaded"
        ));
    }
}
