//! `jitney serve` at its work.

use std::fs;

use serde_json::{Value, json};

use crate::command::{jitney, root};
use crate::server::Served;

#[test]
fn the_ready_line_says_where_and_how_many() {
    let served = Served::start(&["one=echo:FP32[2]", "two=echo:FP32[2]"]);
    let words: Vec<&str> = served.ready_line.split(' ').collect();
    let [jitney, ready, http, models, took] = words.as_slice() else {
        panic!("{}", served.ready_line);
    };
    assert_eq!((*jitney, *ready, *models), ("jitney", "ready", "models=2"));
    let port = http.strip_prefix("http=127.0.0.1:").unwrap();
    assert_ne!(port.parse::<u16>().unwrap(), 0);
    let seconds = took.strip_prefix("in=").unwrap().strip_suffix('s').unwrap();
    assert!(seconds.parse::<f64>().unwrap() >= 0.0);
    let ended = served.stop();
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(0), ""),
        "{}",
        ended.stderr
    );
}

#[test]
fn the_digits_example_sees_a_three() {
    let served = Served::start(&["examples/digits"]);
    let item = fs::read_to_string(root().join("examples/digits/samples/3.json")).unwrap();
    let answer = served.post("/predict/digits", &item);
    assert_eq!(answer.status, 200, "{answer:?}");
    let scores = answer.json()["prediction"]["scores"].clone();
    let scores: Vec<f64> = serde_json::from_value(scores).unwrap();
    let best = scores
        .iter()
        .enumerate()
        .max_by(|a, b| a.1.total_cmp(b.1))
        .unwrap()
        .0;
    assert_eq!(best, 3, "{scores:?}");
}

#[test]
fn the_log_says_which_engine_each_model_uses() {
    let served = Served::start(&["examples/digits", "copy=echo:FP32[2]"]);
    let log = served.stop().stderr;
    for (model, engine) in [("digits", "onnx"), ("copy", "echo")] {
        let line = log
            .lines()
            .find(|line| line.contains(&format!("model=\"{model}\"")) && line.contains("engine="));
        assert!(
            line.is_some_and(|line| line.contains(&format!("engine=\"{engine}\""))),
            "{log}"
        );
    }
}

#[test]
fn a_broken_model_fails_alone() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.onnx");
    fs::write(&broken, "this is no model").unwrap();
    let served = Served::start(&[broken.to_str().unwrap(), "good=echo:FP32[2]"]);
    assert!(
        served.ready_line.contains(" models=1 "),
        "{}",
        served.ready_line
    );

    let answer = served.post("/predict/good", r#"{"input":[1,2]}"#);
    assert_eq!(answer.status, 200, "{answer:?}");
    let refusal = served.post("/predict/broken", r#"{"input":[1,2]}"#);
    assert_eq!(
        (refusal.status, &refusal.json()["code"]),
        (503, &json!("failed")),
        "{refusal:?}"
    );
    assert!(refusal.head.contains("\r\nretry-after: "), "{refusal:?}");
    assert_eq!(served.get("/v2/models/good/ready").status, 200);
    assert_eq!(served.get("/v2/models/broken/ready").status, 503);
    assert_eq!(served.get("/v2/health/live").status, 200);
    assert_eq!(served.get("/v2/health/ready").status, 200);

    let ended = served.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let errors: Vec<&str> = ended
        .stderr
        .lines()
        .filter(|line| line.contains("ERROR"))
        .collect();
    assert!(
        errors.iter().any(|line| line.contains("model=\"broken\"")),
        "{}",
        ended.stderr
    );
}

#[test]
fn when_no_model_loads_there_is_nothing_to_serve() {
    let ended = jitney(&["serve", "missing.onnx", "--http", "127.0.0.1:0"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert_eq!(ended.stdout, "");
    let last = ended
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect::<Vec<_>>();
    assert_eq!(last.len(), 1, "{ended:?}");
    assert!(last[0].contains("missing.onnx"), "{ended:?}");
}

#[test]
fn an_address_in_use_is_a_failure_that_says_what_to_change() {
    let served = Served::start(&["echo:FP32[2]"]);
    let taken = served
        .ready_line
        .split(' ')
        .find_map(|word| word.strip_prefix("http="))
        .unwrap();
    let ended = jitney(&["serve", "echo:FP32[2]", "--http", taken]);
    assert_eq!(
        (ended.code, ended.stdout.as_str()),
        (Some(1), ""),
        "{ended:?}"
    );
    assert!(ended.stderr.contains(taken), "{ended:?}");
    assert!(ended.stderr.contains("another address"), "{ended:?}");
}

#[test]
fn a_batch_answers_each_item() {
    let served = Served::start(&["copy=echo:FP32[2]"]);
    let answer = served.post(
        "/predict/copy/batch",
        r#"[{"input":[1,2]},{"input":[1,2,3]},{"input":[5,6]}]"#,
    );
    assert_eq!(answer.status, 200, "{answer:?}");
    let Value::Array(answers) = answer.json() else {
        panic!("{answer:?}");
    };
    assert_eq!(answers.len(), 3);
    assert!(
        answers[0]["prediction"].is_object() && answers[2]["prediction"].is_object(),
        "{answers:?}"
    );
    assert_eq!(answers[1]["code"], "invalid_input");
}
