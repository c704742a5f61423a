//! Every way to write a model.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use bytes::Bytes;
use jitney_engine::python::PythonOptions;
use jitney_engine::{Items, Model, Tensor};

use super::support::{
    folder, interpreters, items, load, load_with, minor_of, options, run, run_items, run_on, texts,
};

const LIMIT: Duration = Duration::from_secs(30);

fn floats(rows: usize, width: usize) -> Tensor {
    let values = (0..rows * width).map(|value| value as f32).collect();
    Tensor::from_f32([rows, width], values).unwrap()
}

/// The worker's own tests, as a test for each version: they start some hundred interpreters.
macro_rules! the_worker_passes_its_own_tests {
    ($($name:ident: $minor:literal),*) => {
        $(
            #[test]
            fn $name() {
                pass_the_worker_s_own_tests($minor);
            }
        )*
    };
}

the_worker_passes_its_own_tests! {
    the_worker_passes_its_own_tests_on_3_9: 9,
    the_worker_passes_its_own_tests_on_3_10: 10,
    the_worker_passes_its_own_tests_on_3_11: 11,
    the_worker_passes_its_own_tests_on_3_12: 12,
    the_worker_passes_its_own_tests_on_3_13: 13,
    the_worker_passes_its_own_tests_on_3_14: 14
}

#[expect(clippy::print_stderr, reason = "a test that tests nothing says so")]
fn pass_the_worker_s_own_tests(minor: u32) {
    let pythons = interpreters();
    let found: Vec<_> = pythons.iter().map(|python| minor_of(python)).collect();
    let known = found.iter().flatten().any(|minor| (9..=14).contains(minor));
    assert!(known, "expected a CPython 3.9 to 3.14 among {pythons:?}");
    let Some(at) = found.iter().position(|found| *found == Some(minor)) else {
        eprintln!("SKIPPED: there is no CPython 3.{minor}");
        return;
    };
    let python = &pythons[at];
    let mut command = Command::new(python);
    command.args(["-m", "unittest", "discover", "-s"]);
    let output = command.arg(folder()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", python.display());
}

#[test]
fn every_interpreter_serves() {
    for python in interpreters() {
        let options = PythonOptions {
            python: Some(python.clone()),
            ..options()
        };
        let model = load_with("untyped.py", "Batch", &options).unwrap();
        let answers = run_items(&*model, &[r#"{"features":[1,2.5]}"#, r#"{"features":[]}"#]);
        assert_eq!(texts(answers), ["3.5", "0"]);
        let runtime = model.runtime().unwrap();
        assert!(runtime.starts_with("Python 3."), "{runtime}");
        assert!(
            runtime.ends_with(&python.display().to_string()),
            "{runtime}"
        );
    }
}

#[test]
fn a_typed_batch_is_one_array() {
    let model = load("typed.py", "Sum");
    let spec = model.spec();
    assert_eq!(
        (spec.inputs[0].to_string(), spec.outputs[1].to_string()),
        ("FP32[-1,16]".to_owned(), "INT64[-1]".to_owned())
    );
    let answers = run(&*model, vec![floats(1, 16), floats(2, 16)], LIMIT).unwrap();
    let second = answers[1].as_ref().unwrap();
    assert_eq!(second[0].to_vec::<f32>(), Some(vec![120.0, 376.0]));
    assert_eq!(second[1].to_vec::<i64>(), Some(vec![3, 3]));
    assert_eq!(
        answers[0].as_ref().unwrap()[0].to_vec::<f32>(),
        Some(vec![120.0])
    );
}

#[test]
fn a_single_call_needs_no_batcher() {
    let model = load("typed.py", "Sum");
    let outputs = model.instance().unwrap().run(&[floats(2, 16)]).unwrap();
    assert_eq!(outputs[0].to_vec::<f32>(), Some(vec![120.0, 376.0]));
}

#[test]
fn typed_rows_may_fail_alone() {
    let model = load("typed.py", "RowByRow");
    let bad = Tensor::from_f32([1, 16], vec![-1.0; 16]).unwrap();
    let answers = run(&*model, vec![floats(1, 16), bad, floats(2, 16)], LIMIT).unwrap();
    assert_eq!(
        answers[0].as_ref().unwrap()[0].to_vec::<f32>(),
        Some(vec![120.0])
    );
    assert_eq!(
        answers[1].as_ref().unwrap_err().to_string(),
        "ValueError: negative"
    );
    assert_eq!(
        answers[2].as_ref().unwrap()[0].to_vec::<f32>(),
        Some(vec![120.0, 376.0])
    );
}

#[test]
fn large_batches_go_through_shared_memory() {
    const PIXELS: usize = 3 * 224 * 224;
    let model = load("typed.py", "Pictures");
    let mut instance = model.instance().unwrap();
    for rows in [1, 32, 7] {
        let picture = |at: usize| {
            let values = (0..PIXELS)
                .map(|pixel| (at * 1000 + pixel % 977) as f32)
                .collect();
            [Tensor::from_f32([1, 3, 224, 224], values).unwrap()]
        };
        let requests: Vec<[Tensor; 1]> = (0..rows).map(picture).collect();
        let answers = run_on(&mut *instance, &*model, &requests, LIMIT).unwrap();
        for (answer, request) in answers.into_iter().zip(&requests) {
            let expected: Vec<f32> = request[0]
                .values::<f32>()
                .unwrap()
                .iter()
                .map(|x| -x)
                .collect();
            assert!(answer.unwrap()[0].to_vec::<f32>() == Some(expected));
        }
    }
}

#[test]
fn texts_and_numbers_go_side_by_side() {
    let model = load("typed.py", "Texts");
    let request = |text: &'static [u8], times: i32| {
        [
            Tensor::from_bytes([1], vec![Bytes::from_static(text)]).unwrap(),
            Tensor::from_vec([1], vec![times]).unwrap(),
        ]
    };
    let requests = [
        request(b"ab\0", 2),
        request("ä".as_bytes(), 40_000),
        request(b"", 1),
    ];
    let answers = run_on(&mut *model.instance().unwrap(), &*model, &requests, LIMIT).unwrap();
    let lengths: Vec<usize> = answers
        .iter()
        .map(|answer| answer.as_ref().unwrap()[0].byte_elements().unwrap()[0].len())
        .collect();
    assert_eq!(lengths, [6, 80_000, 0]);
    assert_eq!(
        answers[0].as_ref().unwrap()[0].byte_elements().unwrap()[0],
        &b"ab\0ab\0"[..]
    );
}

#[test]
fn special_numbers_keep_their_bits() {
    let model = load("typed.py", "Special");
    let bits = [0x7ff8_0000_dead_beef, 0xfff0_0000_0000_0000, 1, 1 << 63];
    let values = bits.map(f64::from_bits).to_vec();
    let answers = run(&*model, vec![Tensor::from_vec([4], values).unwrap()], LIMIT).unwrap();
    let got = answers[0].as_ref().unwrap()[0].to_vec::<f64>().unwrap();
    assert_eq!(
        got.iter().map(|value| value.to_bits()).collect::<Vec<_>>(),
        bits
    );
}

#[test]
fn untyped_models_take_and_give_json() {
    let model = load("untyped.py", "Item");
    assert_eq!(model.spec().items, Items::Json);
    let answers = run_items(&*model, &["4", "0", "\"x\"", "3"]);
    let expected = [
        "3.0",
        "!ZeroDivisionError: division by zero",
        "!TypeError",
        "4.0",
    ];
    for (answer, expected) in texts(answers).iter().zip(expected) {
        assert!(answer.starts_with(expected), "{answer}");
    }
    let several = run(&*model, vec![items(&["4", "3"]), items(&["2"])], LIMIT);
    assert_eq!(texts(several), ["3.0 4.0", "6.0"]);
}

#[test]
fn async_calls_overlap() {
    let model = load("untyped.py", "Async");
    assert_eq!(texts(run_items(&*model, &["0"; 4])), ["4"; 4]);
}

#[test]
fn nan_becomes_a_word() {
    let model = load("untyped.py", "Mischief");
    let answers = run_items(&*model, &[r#"{"do":"nan"}"#, "1"]);
    assert_eq!(texts(answers), [r#"["NaN","NaN"]"#, "1"]);
}

#[test]
fn a_model_says_what_it_is() {
    let model = load("untyped.py", "Once");
    assert!(!model.idempotent());
    assert_eq!((model.engine(), model.ahead()), ("python", 1));
    assert!(model.keeps_limit() && model.promises_independent_rows());
    let workers = model.workers();
    assert_eq!((workers.len(), workers[0].restarts), (1, 0));
    assert!(Path::new(&format!("/proc/{}", workers[0].pid.unwrap())).exists());
}

#[test]
fn instances_share_the_workers() {
    let options = PythonOptions {
        workers: 2.try_into().unwrap(),
        ..options()
    };
    let model: &dyn Model = &*load_with("untyped.py", "Batch", &options).unwrap();
    assert_eq!(model.suggested_instances(8.try_into().unwrap()).get(), 2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(move || {
                for number in 0..50 {
                    let item = format!(r#"{{"features":[{number},1]}}"#);
                    let expected = (number + 1).to_string();
                    assert_eq!(texts(run_items(model, &[&item])), [expected]);
                }
            });
        }
    });
}
