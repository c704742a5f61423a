//! The exit code and the message of everything that can be asked wrongly.

use crate::command::{jitney, jitney_with};

#[test]
fn what_was_asked_wrongly_ends_with_2_and_says_what_to_change() {
    let table: &[(&[&str], &str)] = &[
        (&[], "Usage:"),
        (&["surve"], "unrecognized subcommand"),
        (&["serve"], "hint: name one"),
        (&["serve", ""], "expected a model"),
        (&["serve", "a b=model.onnx"], "A-Z a-z 0-9"),
        (&["serve", "model.onnx", "--max-batch", "0"], "from 1 to"),
        (
            &["serve", "model.onnx", "--max-batch", "many"],
            "--max-batch",
        ),
        (
            &["serve", "model.onnx", "--max-wait-ms", "1e9"],
            "max_wait_ms must be",
        ),
        (
            &["serve", "model.onnx", "--drain-ms", "nan"],
            "drain_ms must be",
        ),
        (
            &["serve", "model.onnx", "--engine", "torch"],
            "[possible values: auto, onnx, ort]",
        ),
        (
            &["serve", "model.onnx", "--http", "localhost:8080"],
            "as in 127.0.0.1:8080",
        ),
        (
            &["serve", "model.onnx", "--config", "missing.toml"],
            "missing.toml could not be read",
        ),
        (&["serve", "model.onnx", "--log", "=="], "--log"),
        (
            &["serve", "model.onnx", "--log", "warn,verbose"],
            "got \"verbose\"",
        ),
        (&["serve", "model.onnx", "--log", "jitney="], "--log"),
        (
            &["serve", "model.onnx", "--log-format", "xml"],
            "[possible values: text, json]",
        ),
        (&["predict"], "<SOURCE>"),
        (&["key", "new"], "--name"),
        (&["key", "new", "--name", "a b"], "A-Z a-z 0-9"),
        (
            &["key", "new", "--name", "a", "--model", "../m"],
            "A-Z a-z 0-9",
        ),
        (&["check"], "<SOURCE>"),
    ];
    for (args, expected) in table {
        let ended = jitney(args);
        assert_eq!(ended.code, Some(2), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        assert!(
            ended.stderr.contains(expected),
            "{args:?}: expected {expected:?} in {}",
            ended.stderr
        );
    }
}

#[test]
fn what_fails_ends_with_1() {
    let table: &[(&[&str], &str, &str)] = &[
        (&["predict", "missing.onnx"], "{}", "missing.onnx"),
        (&["predict", "examples/digits"], "not json", "invalid_input"),
        (
            &["predict", "examples/digits"],
            r#"{"pixels":[1,2,3]}"#,
            "pixels",
        ),
        (
            &["predict", "examples/digits", "missing.json"],
            "",
            "missing.json",
        ),
        (
            &["predict", "echo:FP32[2],faulty=true"],
            r#"{"input":[-1,2]}"#,
            "model_error",
        ),
        (&["check", "missing.onnx"], "", "missing.onnx"),
        (&["check", "crates"], "", "error: "),
    ];
    for (args, stdin, expected) in table {
        let ended = jitney_with(args, stdin);
        assert_eq!(ended.code, Some(1), "{args:?}: {ended:?}");
        assert!(
            ended.stderr.contains("error: "),
            "{args:?}: {}",
            ended.stderr
        );
        assert!(
            ended.stderr.contains(expected),
            "{args:?}: expected {expected:?} in {}",
            ended.stderr
        );
    }
}

#[test]
fn help_and_version_end_with_0() {
    for args in [
        &["--help"][..],
        &["--version"],
        &["serve", "--help"],
        &["predict", "-h"],
        &["check", "--help"],
    ] {
        let ended = jitney(args);
        assert_eq!(ended.code, Some(0), "{args:?}");
        assert!(
            !ended.stdout.is_empty() && ended.stderr.is_empty(),
            "{args:?}: {ended:?}"
        );
    }
}
