//! `jitney check`.

use std::fs;

use crate::command::jitney;

#[test]
fn a_good_model_is_described_and_measured() {
    let ended = jitney(&["check", "examples/digits", "--max-batch", "8"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for expected in [
        "digits",
        "pixels",
        "scores",
        "FP32",
        "onnx",
        "can be served",
    ] {
        assert!(
            ended.stdout.contains(expected),
            "expected {expected:?} in\n{}",
            ended.stdout
        );
    }
    assert_eq!(table_sizes(&ended.stdout), [1, 2, 4, 8], "{}", ended.stdout);
    for expected in [
        "served       in batches of up to 8 rows",
        "instances    1, with one thread",
        "batching     batches of 8 rows give",
    ] {
        assert!(
            ended.stdout.contains(expected),
            "expected {expected:?} in\n{}",
            ended.stdout
        );
    }
}

#[test]
fn a_model_that_is_not_batched_says_why() {
    let folder = std::env::var("JITNEY_TEST_MODELS")
        .expect("JITNEY_TEST_MODELS is not set: run `cargo xtask test`, which prepares the models");
    let table = [
        (
            format!("{folder}/reversed_rows.onnx"),
            "row by row, since a row's answer changes with the row beside it; row_by_row = false batches them all the same",
        ),
        (
            "echo:FP32[2],rows_independent=false".to_owned(),
            "row by row, since a row's answer would depend on the other rows of its batch",
        ),
        (
            "echo:FP32[2],batch=none".to_owned(),
            "row by row, since its tensors have no batch axis",
        ),
    ];
    for (source, expected) in table {
        let ended = jitney(&["check", &source]);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains(expected), "{}", ended.stdout);
        assert_eq!(table_sizes(&ended.stdout), [1], "{}", ended.stdout);
    }
}

/// ONNX Runtime refuses a version of the format that is not out yet; the embedded engine does not mind.
#[test]
fn an_engine_that_takes_over_is_logged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.onnx");
    let digits = crate::command::root().join("examples/digits/model.onnx");
    let mut file = fs::read(digits).unwrap();
    assert_eq!(file[0], 8, "the version of the format comes first");
    file[1] = 99;
    fs::write(&path, file).unwrap();
    let path = path.to_str().unwrap();
    let ended = jitney(&["check", path, "--engine", "auto", "--log", "info"]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("engine       onnx\n"), "{ended:?}");
    let warning = "ONNX Runtime refused the model; the embedded engine runs it";
    assert!(ended.stderr.contains(warning), "{ended:?}");
}

#[test]
fn the_log_says_which_runtime_runs_a_model() {
    let ended = jitney(&[
        "check",
        "examples/digits",
        "--engine",
        "ort",
        "--log",
        "info",
    ]);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let loaded = ended
        .stderr
        .lines()
        .find(|line| line.contains("model loaded"));
    let loaded = loaded.unwrap_or_else(|| panic!("{ended:?}"));
    for expected in [
        "engine=\"ort\"",
        "runtime=\"ONNX Runtime 1.",
        "libonnxruntime",
    ] {
        assert!(loaded.contains(expected), "{loaded}");
    }
}

#[test]
fn one_broken_model_in_a_repository_is_named_and_ends_with_1() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["good", "bad"] {
        fs::create_dir_all(folder.path().join(name).join("1")).unwrap();
    }
    let digits = crate::command::root().join("examples/digits/model.onnx");
    fs::copy(digits, folder.path().join("good/1/model.onnx")).unwrap();
    fs::write(folder.path().join("bad/1/model.onnx"), "this is no model").unwrap();
    let ended = jitney(&["check", folder.path().to_str().unwrap(), "--max-batch", "2"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stdout.contains("good") && ended.stdout.contains("can be served"),
        "{ended:?}"
    );
    assert!(ended.stderr.contains("bad"), "{ended:?}");
}

/// The first column of the table of batch sizes.
fn table_sizes(report: &str) -> Vec<usize> {
    let rows = report
        .lines()
        .skip_while(|line| !line.trim_start().starts_with("rows "));
    rows.skip(1)
        .map_while(|line| line.split_whitespace().next()?.parse().ok())
        .collect()
}
