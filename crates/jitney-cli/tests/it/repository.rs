//! A repository whose models come, change and go while the server runs.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::command::{jitney, root};
use crate::server::{Response, Served};

/// Far beyond what a few looks at the disk take.
const PATIENCE: Duration = Duration::from_secs(60);

struct Repository(tempfile::TempDir);

impl Repository {
    fn new(files: &[(&str, &str)]) -> Repository {
        let repository = Repository(tempfile::tempdir().unwrap());
        for (file, text) in files {
            repository.write(file, text);
        }
        repository
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn write(&self, file: &str, text: &str) {
        let path = self.0.path().join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// A version of the digits model, all at once.
    fn put_digits(&self, version: &str) {
        let (new, place) = (
            self.0.path().join(".new"),
            self.0.path().join("digits").join(version),
        );
        fs::create_dir_all(&new).unwrap();
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        fs::copy(digits("model.onnx"), new.join("model.onnx")).unwrap();
        fs::rename(new, place).unwrap();
    }
}

fn digits(file: &str) -> std::path::PathBuf {
    root().join(Path::new("examples/digits")).join(file)
}

fn infer(served: &Served, path: &str) -> Response {
    let body = json!({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": vec![0; 64]}]});
    served.post(path, &body.to_string())
}

/// The version that answers who names none.
fn version(served: &Served) -> Value {
    let answer = infer(served, "/v2/models/digits/infer");
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["model_version"].clone()
}

fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !so() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn state(served: &Served, name: &str, version: &str) -> Value {
    let status = served.get("/status").json();
    let models = status["models"].as_array().unwrap();
    let found = models
        .iter()
        .find(|model| model["name"] == name && model["version"] == version);
    found.map_or(Value::Null, |model| model["state"].clone())
}

#[test]
fn the_server_follows_its_repository() {
    let repository = Repository::new(&[]);
    let served = Served::start(&[repository.path(), "--control", "poll"]);
    assert!(
        served.ready_line.contains(" models=0 "),
        "{}",
        served.ready_line
    );
    assert_eq!(served.get("/v2/health/ready").status, 200);
    assert_eq!(infer(&served, "/v2/models/digits/infer").status, 404);

    repository.put_digits("1");
    wait_until("the first version", || {
        state(&served, "digits", "1") == "ready"
    });
    assert_eq!(version(&served), "1");

    // Half a file is no version, and a broken one takes nothing over.
    let model = fs::read(digits("model.onnx")).unwrap();
    let half = repository.0.path().join("digits/2");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("model.onnx"), &model[..model.len() / 2]).unwrap();
    wait_until("the broken version", || {
        state(&served, "digits", "2") == "failed"
    });
    assert_eq!(version(&served), "1");
    fs::write(half.join("model.onnx"), &model).unwrap();
    wait_until("the second version", || version(&served) == "2");
    wait_until("the end of the first", || {
        state(&served, "digits", "1") == Value::Null
    });
    let old = infer(&served, "/v2/models/digits/versions/1/infer");
    assert_eq!(
        (old.status, old.json()["code"].as_str()),
        (404, Some("unknown_model"))
    );

    repository.write(
        "digits/model.toml",
        "versions = \"all\"\nversion_labels = { stable = 1 }",
    );
    wait_until("the first version again", || {
        infer(&served, "/v2/models/digits/versions/stable/infer").status == 200
    });
    let stable = infer(&served, "/v2/models/digits/versions/stable/infer").json();
    assert_eq!(stable["model_version"], "1");
    wait_until("both versions", || {
        served.get("/v2/models/digits").json()["versions"] == json!(["1", "2"])
    });

    fs::remove_dir_all(repository.0.path().join("digits")).unwrap();
    wait_until("the end of the model", || {
        served.get("/v2/models/digits/ready").status == 404
    });
    assert_eq!(served.get("/v2/models").json()["models"], json!([]));
    let ended = served.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn versions_can_be_chosen_for_all_models() {
    let repository = Repository::new(&[]);
    for version in ["1", "2", "3"] {
        repository.put_digits(version);
    }
    let config = Repository::new(&[("jitney.toml", "versions = { latest = 2 }")]);
    let config = format!("{}/jitney.toml", config.path());
    let table: [(&[&str], Value); 4] = [
        (&[], json!(["3"])),
        (&["--versions", "all"], json!(["1", "2", "3"])),
        (&["--versions", "1,3"], json!(["1", "3"])),
        (&["--config", &config], json!(["2", "3"])),
    ];
    for (args, expected) in table {
        let served = Served::start(&[&[repository.path()], args].concat());
        let metadata = served.get("/v2/models/digits").json();
        assert_eq!(metadata["versions"], expected, "{args:?}");
    }
}

#[test]
fn with_explicit_control_the_start_can_be_empty() {
    let repository = Repository::new(&[]);
    repository.put_digits("1");
    let explicit = [repository.path(), "--control", "explicit"];
    for (args, status) in [
        (&[][..], 200),
        (&["--load-model", "digits"], 200),
        (&["--load-model", "*"], 200),
        (&["--load-model", "none"], 404),
    ] {
        let served = Served::start(&[&explicit, args].concat());
        assert_eq!(served.get("/v2/health/ready").status, 200);
        let answer = infer(&served, "/v2/models/digits/infer");
        assert_eq!(answer.status, status, "{args:?}");
    }
}

#[test]
fn models_are_loaded_and_unloaded_over_http() {
    let repository = Repository::new(&[]);
    repository.put_digits("1");
    let explicit = ["--control", "explicit", "--load-model", "none"];
    let served = Served::start(&[&[repository.path()], &explicit[..]].concat());
    let index = || served.post("/v2/repository/index", "").json();
    let order = |path: &str, body: &str| {
        let answer = served.post(&format!("/v2/repository/models/{path}"), body);
        (answer.status, answer.body)
    };
    assert_eq!(index()[0]["state"], "UNAVAILABLE");
    assert_eq!(order("digits/load", "").0, 200);
    assert_eq!(version(&served), "1");
    repository.put_digits("2");
    assert_eq!(order("digits/load", "").0, 200);
    assert_eq!(version(&served), "2");
    let rows = index();
    let names = rows.as_array().unwrap().iter();
    let rows: Vec<_> = names.map(|row| (&row["version"], &row["state"])).collect();
    assert_eq!(rows.last().unwrap(), &(&json!("2"), &json!("READY")));

    let config = |text: &str| json!({"parameters": {"config": text}}).to_string();
    let (status, body) = order("digits/load", &config(r#"{"max_batch_size": 1}"#));
    assert_eq!(status, 200, "{body}");
    let two = json!({"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [2, 64], "data": vec![0; 128]}]});
    let refused = served.post("/v2/models/digits/infer", &two.to_string());
    assert_eq!(refused.status, 400, "{refused:?}");
    let (status, body) = order("digits/load", &config(r#"{"backend": "magic"}"#));
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("unknown field `backend`"), "{body}");
    for name in ["other", "%2e%2e", "..%2fdigits", "digits%00"] {
        let (status, body) = order(&format!("{name}/load"), "");
        assert!([400, 404].contains(&status), "{name}: {status} {body}");
    }

    assert_eq!(order("digits/unload", "").0, 200);
    assert_eq!(infer(&served, "/v2/models/digits/infer").status, 404);
    assert_eq!(served.get("/v2/models/digits/ready").status, 404);
    assert_eq!(served.get("/v2/health/ready").status, 200);
    let ended = served.stop();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn what_cannot_be_meant_is_refused_at_the_start() {
    let repository = Repository::new(&[]);
    repository.put_digits("1");
    let table: [(&[&str], &str); 5] = [
        (
            &["--load-model", "digits"],
            "--load-model chooses models only where others can be loaded later",
        ),
        (
            &["--control", "explicit", "--load-model", "digit"],
            "there is no model \"digit\" to load; the sources hold digits",
        ),
        (
            &["--control", "often"],
            "[possible values: none, poll, explicit]",
        ),
        (&["--versions", "newest"], "--versions: expected \"latest\""),
        (&["--versions", "0"], "--versions: expected \"latest\""),
    ];
    for (args, expected) in table {
        let ended =
            jitney(&[&["serve", repository.path(), "--http", "127.0.0.1:0"], args].concat());
        assert_eq!(ended.code, Some(2), "{args:?} {ended:?}");
        assert!(ended.stderr.contains(expected), "{args:?} {ended:?}");
    }
}
