//! Python models, from what is typed to what is answered, with real processes.

mod faults;
mod reload;
mod support;

use serde_json::json;

use self::support::{Folder, UPPER};
use crate::command::{jitney, jitney_with};
use crate::server::Served;

const TYPED: &str = "\
class Sum:
    inputs = {'x': 'FP32[3]'}
    outputs = {'total': 'FP32', 'twice': 'FP32[3]'}

    def predict_batch(self, x):
        return {'total': x.sum(axis=1), 'twice': x * 2}
";

/// Shows what it is told about each request.
const CURIOUS: &str = "\
class Curious:
    def predict(self, item, context):
        return [context.id, context.parameters, context.deadline is not None]
";

#[test]
fn a_prediction_without_a_server() {
    let folder = Folder::with(&[("upper.py", UPPER), ("sum.py", TYPED)]);
    for source in ["upper.py:Upper", "upper.py"] {
        let ended = jitney_with(&["predict", &folder.path(source)], " \"caf\u{e9}\" ");
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_eq!(ended.stdout, "{\"prediction\":\"CAF\u{c9}\"}\n");
    }
    let ended = jitney_with(
        &["predict", &folder.path("sum.py:Sum")],
        r#"{"x": [1, 2, 3]}"#,
    );
    let expected = "{\"prediction\":{\"total\":6.0,\"twice\":[2.0,4.0,6.0]}}\n";
    assert_eq!(ended.stdout, expected, "{ended:?}");
    let ended = jitney_with(&["predict", &folder.path("sum.py")], r#"{"x": [1, 2]}"#);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("invalid_input: x: "), "{ended:?}");
}

#[test]
fn a_check_shows_the_signature_and_what_batching_gains() {
    let folder = Folder::with(&[("upper.py", UPPER), ("sum.py", TYPED)]);
    let ended = jitney(&["check", &folder.path("sum.py")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in [
        "model sum version 1",
        "  engine       python: Python 3.",
        "  input        x FP32[-1,3]",
        "  output       twice FP32[-1,3]",
        "  instances    1, a process",
        "      32 ",
        "  can be served",
    ] {
        assert!(ended.stdout.contains(line), "{line}: {ended:?}");
    }
    let ended = jitney(&["check", &folder.path("upper.py")]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for line in ["  item         any JSON value", "no inputs can be made up"] {
        assert!(ended.stdout.contains(line), "{line}: {ended:?}");
    }
}

#[test]
fn what_cannot_be_served_is_said_with_its_place() {
    let folder = Folder::with(&[
        ("upper.py", UPPER),
        (
            "raises.py",
            "import os\n\nclass Net:\n    def __init__(self):\n        raise ValueError('no weights')\n    def predict(self, item):\n        return item\n",
        ),
        ("syntax.py", "class Net\n    def predict(self, item): ...\n"),
        ("none.py", "x = 1\n"),
        (
            "two.py",
            "class A:\n    def predict(self, item): ...\nclass B:\n    def predict(self, item): ...\n",
        ),
    ]);
    let table = [
        ("upper.py:Lower", &["upper.py", "no class \"Lower\""][..]),
        ("raises.py:Net", &["raises.py:5", "ValueError: no weights"]),
        ("syntax.py:Net", &["syntax.py:1"]),
        ("none.py", &["none.py", "no class in it"]),
        (
            "two.py",
            &["two.py", "2 of its classes", "hint: say which", "FILE.py:A"],
        ),
        ("gone.py:Net", &["gone.py"]),
    ];
    for (source, words) in table {
        for command in ["check", "predict"] {
            let ended = jitney_with(&[command, &folder.path(source)], "1");
            assert_eq!(ended.code, Some(1), "{source}: {ended:?}");
            for word in words {
                assert!(ended.stderr.contains(word), "{word}: {ended:?}");
            }
        }
    }
    let ended = jitney(&[
        "check",
        &folder.path("upper.py"),
        "--python",
        "no/such/python",
    ]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains("no/such/python"), "{ended:?}");
}

#[test]
fn a_model_of_json_values_by_every_route() {
    let folder = Folder::with(&[("upper.py", UPPER)]);
    let served = Served::start(&[&folder.path("upper.py")]);
    let answer = served.post("/predict/upper", "\"a\"");
    assert_eq!(
        (answer.status, &*answer.body),
        (200, r#"{"prediction":"A"}"#)
    );
    let answer = served.post("/predict/upper", "[\"a\", ");
    assert_eq!(
        (answer.status, answer.json()["code"].as_str()),
        (400, Some("invalid_input"))
    );

    let answer = served.post("/predict/upper/batch", r#"["a", {"k": 1, "k": 2}, "c"]"#);
    let answers = answer.json();
    assert_eq!(answers[0], json!({"prediction": "A"}));
    assert_eq!(answers[1]["code"], "invalid_input");
    assert_eq!(answers[2], json!({"prediction": "C"}));

    let body = json!({"id": "7", "inputs": [{"name": "item", "datatype": "BYTES", "shape": [2], "data": ["\"a\"", "null"]}]});
    let answer = served
        .post("/v2/models/upper/infer", &body.to_string())
        .json();
    let output =
        json!({"name": "prediction", "datatype": "BYTES", "shape": [2], "data": ["\"A\"", "null"]});
    assert_eq!(
        (&answer["id"], &answer["outputs"][0]),
        (&json!("7"), &output)
    );
    let metadata = served.get("/v2/models/upper").json();
    assert_eq!(metadata["platform"], "python");
    assert_eq!(
        metadata["inputs"][0]["parameters"],
        json!({"content_type": "application/json"})
    );
    let ended = served.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_model_knows_what_its_request_says_about_itself() {
    let folder = Folder::with(&[("curious.py", CURIOUS)]);
    let served = Served::start(&[&folder.path("curious.py")]);
    let input = json!({"name": "item", "datatype": "BYTES", "shape": [1], "data": ["1"]});
    let ask =
        |path: &str, headers: &str, body: &str| served.ask("POST", path, headers, body).json();
    let told = |answer: &serde_json::Value| -> serde_json::Value {
        serde_json::from_str(answer["outputs"][0]["data"][0].as_str().unwrap()).unwrap()
    };
    let named = "x-request-id: head-1\r\n";
    let answer = ask("/predict/curious", named, "1");
    assert_eq!(answer["prediction"], json!(["head-1", {}, true]));
    assert_eq!(
        ask("/predict/curious", "", "1")["prediction"][0],
        json!(null)
    );

    let body = json!({"id": "body-1", "parameters": {"top": 3}, "inputs": [input]}).to_string();
    let answer = ask("/v2/models/curious/infer", named, &body);
    assert_eq!(told(&answer), json!(["body-1", {"top": 3}, true]));
    let body = json!({"inputs": [input]}).to_string();
    let answer = ask("/v2/models/curious/infer", named, &body);
    assert_eq!(told(&answer)[0], "head-1");
    assert_eq!(answer.get("id"), None, "the body had none");
}

#[test]
fn a_repository_holds_models_of_every_kind() {
    let folder = Folder::with(&[
        ("upper/1/model.py", UPPER),
        ("upper/2/model.py", &UPPER.replace("upper()", "lower()")),
        ("upper/model.toml", "versions = \"all\""),
        ("sum/model.py", TYPED),
        (
            "sum/model.toml",
            "class = \"Sum\"\ninstances = 2\ndescription = \"Adds\"",
        ),
        (
            "bad/model.py",
            "class Net:\n    def predict(self, item) return item\n",
        ),
        ("echo/model.toml", "[echo]\ninputs = [\"FP32[1]\"]"),
    ]);
    let served = Served::start(&[&folder.path("")]);
    assert!(
        served.ready_line.contains(" models=4 "),
        "{}",
        served.ready_line
    );
    let predicted = |path: &str, body: &str| served.post(path, body).json()["prediction"].clone();
    assert_eq!(predicted("/predict/upper", "\"aB\""), "ab");
    let body = json!({"inputs": [{"name": "item", "datatype": "BYTES", "shape": [1], "data": ["\"aB\""]}]});
    let old = served.post("/v2/models/upper/versions/1/infer", &body.to_string());
    assert_eq!(old.json()["outputs"][0]["data"][0], "\"AB\"");
    assert_eq!(predicted("/predict/sum", "{\"x\":[1,1,1]}")["total"], 3.0);
    assert_eq!(predicted("/predict/echo", "[5]"), json!({"output": [5.0]}));
    let bad = served.post("/predict/bad", "1");
    assert_eq!(
        (bad.status, bad.json()["code"].as_str()),
        (503, Some("failed"))
    );
    assert!(
        !bad.body.contains("SyntaxError") && !bad.body.contains("model.py"),
        "{bad:?}"
    );

    let status = served.status_of("sum");
    assert_eq!(status["workers"].as_array().unwrap().len(), 2, "{status}");
    assert!(status["workers"][0]["pid"].as_u64().is_some(), "{status}");
    assert!(served.get("/debug/tree").body.contains("worker 1"));
    served.wait_for_metric("jitney_workers{model=\"sum\"", 2.0);
}
