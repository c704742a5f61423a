//! What models do that they should not: each costs its own run, and at worst its own process.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jitney_engine::python::PythonOptions;
use jitney_engine::{Model, RunError, Tensor, stack};

use super::support::{Answers, items, load, load_with, options, run, run_error, run_items, texts};

const SHORT: Duration = Duration::from_millis(500);

/// The model answers again, though its worker may have to start first.
fn recovers(model: &dyn Model) {
    assert_eq!(texts(run_items(model, &["1", "2"])), ["1", "2"]);
}

fn mismatch(answers: &Answers) -> &str {
    match answers {
        Err(stack::Error::Mismatch(message)) => message,
        other => panic!("expected a mismatch, got {other:?}"),
    }
}

#[test]
fn what_is_raised_is_told() {
    let model = load("untyped.py", "Mischief");
    for (what, expected) in [
        ("fail", "ValueError: no \u{1b}[31m"),
        ("leave", "SystemExit: 3"),
    ] {
        let error = run_error(run_items(&*model, &["1", &format!(r#"{{"do":"{what}"}}"#)]));
        assert_eq!(error, RunError::Failed(expected.to_owned()));
    }
    let answers = texts(run_items(&*model, &["1", r#"{"do":"set"}"#, "3"]));
    assert_eq!((answers[0].as_str(), answers[2].as_str()), ("1", "3"));
    assert!(answers[1].starts_with("!TypeError: expected a value that JSON can say, got set"));
    assert_eq!(model.workers()[0].restarts, 0);
}

#[test]
fn a_death_is_told_and_mended() {
    let model = load("untyped.py", "Mischief");
    for what in ["end", "crash", "kill"] {
        let error = run_error(run_items(&*model, &["1", &format!(r#"{{"do":"{what}"}}"#)]));
        assert!(matches!(error, RunError::Crashed(_)), "{what}: {error:?}");
        recovers(&*model);
    }
    assert_eq!(model.workers()[0].restarts, 3);
}

#[test]
fn a_run_without_an_end_is_ended() {
    let model = load("untyped.py", "Mischief");
    for what in ["loop", "hold", "stop"] {
        let start = Instant::now();
        let item = items(&[&format!(r#"{{"do":"{what}"}}"#)]);
        let error = run_error(run(&*model, vec![item], SHORT));
        assert_eq!(error, RunError::RunLimit(SHORT), "{what}");
        assert!(start.elapsed() >= SHORT && start.elapsed() < Duration::from_secs(10));
        recovers(&*model);
    }
}

#[test]
fn printing_stalls_nothing() {
    let model = load("untyped.py", "Mischief");
    assert_eq!(
        texts(run_items(&*model, &[r#"{"do":"print"}"#])),
        ["\"printed\""]
    );
    recovers(&*model);
}

#[test]
fn untyped_answers_are_counted() {
    let model = load("untyped.py", "Wrong");
    let table = [
        ("short", "expected 3 results, got 2"),
        ("middle", "expected 3 results, got 2"),
        ("long", "expected 3 results, got 6"),
        ("none", "expected a list of 3 results, got None"),
        ("dict", "expected a list of 3 results, got dict"),
        ("text", "expected a list of 3 results, got str"),
    ];
    for (what, expected) in table {
        let answers = run_items(&*model, &[&format!("\"{what}\""), "2", "3"]);
        assert_eq!(
            mismatch(&answers),
            format!("the model answered wrongly: {expected}")
        );
    }
}

#[test]
fn typed_answers_are_counted() {
    let model = load("typed.py", "Wrong");
    let table = [
        (1, "expected 3 rows, got 2"),
        (2, "expected 3 rows, got 2"),
        (3, "expected an array, got None"),
        (4, "expected the outputs y, got z"),
        (5, "expected rows of shape [2], got [1]"),
        (6, "expected FP32, got complex64"),
        (7, "expected 3 rows, got a single number"),
    ];
    for (what, expected) in table {
        let x = Tensor::from_f32([3, 2], vec![what as f32; 6]).unwrap();
        let answers = run(&*model, vec![x], Duration::from_secs(30));
        assert!(mismatch(&answers).contains(expected), "{answers:?}");
    }
}

/// Its bytes are zeros that are never touched, so it needs no memory as long as nobody copies it.
#[test]
fn an_answer_that_is_too_long_is_refused_by_its_worker() {
    let model = load("typed.py", "Vast");
    let size = |size: i64| Tensor::from_vec([1], vec![size]).unwrap();
    let answers = run(&*model, vec![size(600 << 20)], Duration::from_secs(30));
    let expected =
        "the model answered wrongly: expected an answer of at most 536870912 bytes, got 629145600";
    assert_eq!(mismatch(&answers), expected);
    let answers = run(&*model, vec![size(2)], Duration::from_secs(30)).unwrap();
    let values = answers[0].as_ref().unwrap()[0].to_vec::<u8>();
    assert_eq!(values, Some(vec![0; 2]));
    assert_eq!(model.workers()[0].restarts, 0);
}

#[test]
fn typed_faults_are_told_too() {
    let model = load("typed.py", "Mischief");
    let row = |what: f32| Tensor::from_f32([1, 2], vec![what; 2]).unwrap();
    let error = run_error(run(
        &*model,
        vec![row(0.0), row(1.0)],
        Duration::from_secs(30),
    ));
    assert!(matches!(error, RunError::Crashed(_)), "{error:?}");
    let recovers = || {
        let answers = run(&*model, vec![row(0.0)], Duration::from_secs(30)).unwrap();
        let values = answers[0].as_ref().unwrap()[0].to_vec::<f32>();
        assert_eq!(values, Some(vec![0.0; 2]));
    };
    recovers();
    let error = run_error(run(&*model, vec![row(2.0)], SHORT));
    assert_eq!(error, RunError::RunLimit(SHORT));
    recovers();
}

#[test]
fn memory_has_a_cap() {
    let options = PythonOptions {
        memory: Some(256 << 20),
        ..options()
    };
    let model = load_with("untyped.py", "Hungry", &options).unwrap();
    let answers = texts(run_items(&*model, &["1024", "1073741824", "2048"]));
    assert_eq!(answers, ["1024", "!MemoryError", "2048"]);
}

#[test]
fn workers_are_renewed_on_demand() {
    let options = PythonOptions {
        recycle_after: Some(4),
        ..options()
    };
    let model = load_with("untyped.py", "Mischief", &options).unwrap();
    let pid = || texts(run_items(&*model, &[r#"{"do":"pid"}"#])).remove(0);
    let mut pids = HashSet::new();
    let patience = Instant::now() + Duration::from_secs(30);
    while pids.len() < 3 && Instant::now() < patience {
        pids.insert(pid());
    }
    assert_eq!(pids.len(), 3, "{pids:?}");
    assert!(pids.iter().all(|pid| !pid.starts_with('!')), "{pids:?}");
    assert_eq!(model.workers()[0].restarts, 0);
}
