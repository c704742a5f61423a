//! What is wrong with a class is said when it is loaded, with file and line.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use jitney_engine::python::{self, PythonOptions};

use super::support::{load, load_with, options};

fn refusal(source: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.py");
    std::fs::write(&file, source).unwrap();
    match python::load(&file, "Model", "model", &options()) {
        Ok(_) => panic!("loaded: {source}"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn each_error_has_its_place() {
    let table = [
        (
            "class Model:\n  def predict(self: pass\n",
            "model.py:2: it is not Python: SyntaxError",
        ),
        (
            "import no_such\n",
            "model.py:1: importing it raised ModuleNotFoundError",
        ),
        (
            "class Other: pass\n",
            "model.py: there is no class \"Model\": there is Other",
        ),
        (
            "\nclass Model: pass\n",
            "model.py:2: class \"Model\": it has no method predict_batch",
        ),
        (
            "class Model:\n  inputs = 3\n  def predict(self, x): 0\n",
            "model.py:2: class \"Model\": inputs must be a dict",
        ),
        (
            "class Model:\n  def __init__(self): raise OSError('no weights')\n  def predict(self, x): 0\n",
            "model.py:2: __init__ raised OSError: no weights",
        ),
    ];
    for (source, expected) in table {
        let error = refusal(source);
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn hints_say_what_to_change() {
    let error = refusal("import no_such\n");
    assert!(error.contains("--python"), "{error}");
    let error = load_with("no_such.py", "Model", &options())
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("no_such.py: the file cannot be read: No such file"),
        "{error}"
    );
}

#[test]
fn an_interpreter_that_is_none_is_named() {
    let attempt = |python: &str| {
        let options = PythonOptions {
            python: Some(PathBuf::from(python)),
            ..options()
        };
        load_with("untyped.py", "Batch", &options)
            .err()
            .unwrap()
            .to_string()
    };
    let error = attempt("/nowhere/python");
    assert!(
        error.contains("there is no Python interpreter at /nowhere/python"),
        "{error}"
    );
    let error = attempt("/bin/false");
    assert!(error.contains("while it loaded the model"), "{error}");
}

#[test]
fn an_old_interpreter_is_told_apart() {
    // Not every machine has one; where there is none, the start of the worker is shown one.
    let old = [8, 7, 6].map(|minor| format!("python3.{minor}"));
    let old = old
        .iter()
        .map(String::as_str)
        .chain(["python2.7"])
        .find(|name| {
            let mut command = std::process::Command::new(name);
            command
                .args(["-c", ""])
                .output()
                .is_ok_and(|output| output.status.success())
        });
    let Some(old) = old else { return };
    let options = PythonOptions {
        python: Some(PathBuf::from(old)),
        ..options()
    };
    let error = load_with("untyped.py", "Batch", &options)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("expected CPython 3.9 or newer, got "),
        "{error}"
    );
}

#[test]
fn a_start_has_a_limit() {
    let options = PythonOptions {
        start_limit: Duration::from_secs(1),
        ..options()
    };
    let start = Instant::now();
    let error = load_with("untyped.py", "Slow", &options)
        .err()
        .unwrap()
        .to_string();
    assert!(
        error.contains("the model was not ready within 1s"),
        "{error}"
    );
    assert!(start.elapsed() < Duration::from_secs(10));
}

#[test]
fn a_death_at_the_start_is_told() {
    let error = load_with("untyped.py", "Abrupt", &options())
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("untyped.py: the worker "), "{error}");
    assert!(error.contains('7'), "{error}");
}

#[test]
fn the_end_is_clean() {
    let model = load("untyped.py", "Close");
    let worker = model.workers()[0].pid.unwrap();
    drop(model);
    assert!(!PathBuf::from(format!("/proc/{worker}")).exists());
}

#[test]
fn what_is_ours_in_the_environment_stays_ours() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("model.py");
    let source = "import os\nclass Model:\n  def __init__(self): raise KeyError(sorted(n for n in os.environ if n.startswith('JITNEY_') or n == 'EXTRA'))\n  def predict(self, item): 0\n";
    std::fs::write(&file, source).unwrap();
    let options = PythonOptions {
        env: vec![("EXTRA".into(), "1".into())],
        ..options()
    };
    let error = python::load(&file, "Model", "model", &options)
        .err()
        .unwrap()
        .to_string();
    assert!(error.contains("['EXTRA', 'JITNEY_POOL']"), "{error}");
}
