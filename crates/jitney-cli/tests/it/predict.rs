//! `jitney predict`.

use std::process::Stdio;

use crate::command::{command, jitney, jitney_with, root};

#[test]
fn an_item_comes_from_a_file_or_from_standard_input() {
    let sample = "examples/digits/samples/7.json";
    let from_file = jitney(&["predict", "examples/digits", sample]);
    assert_eq!(from_file.code, Some(0), "{from_file:?}");
    assert!(
        from_file.stdout.starts_with(r#"{"prediction":{"scores":["#),
        "{from_file:?}"
    );
    assert_eq!(from_file.stdout.lines().count(), 1);
    let text = std::fs::read_to_string(root().join(sample)).unwrap();
    for args in [
        &["predict", "examples/digits"][..],
        &["predict", "examples/digits", "-"],
    ] {
        assert_eq!(
            jitney_with(args, &text).stdout,
            from_file.stdout,
            "{args:?}"
        );
    }
}

#[test]
fn a_reader_that_leaves_is_no_failure() {
    let mut child = command()
        .args([
            "predict",
            "examples/digits",
            "examples/digits/samples/7.json",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
}
