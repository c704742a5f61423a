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
    let sizes = table_sizes(&ended.stdout);
    // A machine that is busy elsewhere has no time for the larger ones.
    assert!(
        !sizes.is_empty() && [1, 2, 4, 8].starts_with(&sizes),
        "{}",
        ended.stdout
    );
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
