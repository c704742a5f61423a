//! ONNX Runtime.

use std::path::PathBuf;

use bytes::Bytes;
use half::f16;
#[cfg(feature = "onnx")]
use jitney_engine::load::{self, EngineChoice};
use jitney_engine::{LoadOptions, Model, Tensor, ort};

use crate::support::{floats, model_path, one_thread, refusal, run, signature};

pub(crate) fn load(name: &str) -> Box<dyn Model> {
    ort::load_with(&library(), &model_path(name), &one_thread()).unwrap()
}

fn library() -> PathBuf {
    ort::find(None).unwrap_or_else(|| {
        panic!("no ONNX Runtime: run `cargo xtask test`, which prepares an environment with it")
    })
}

#[test]
fn what_the_embedded_engine_cannot_run_runs_here() {
    let table = [
        (
            "unsupported_operator.onnx",
            "x: FP32[-1,2,2] -> y: FP32[-1], Free",
        ),
        (
            "bare_convolution.onnx",
            "x: FP32[-1,1,8,8] -> y: FP32[-1,5], Free",
        ),
        ("strings.onnx", "x: BYTES[-1,2] -> y: BYTES[-1,2], Free"),
        ("unsigned.onnx", "x: UINT32[-1] -> y: UINT32[-1], Free"),
        ("wide_constant.onnx", "ids: INT64[-1] -> y: INT64[-1], Free"),
        (
            "dynamic_quantization_in_function.onnx",
            "x: FP32[-1,4] -> y: FP32[-1,4], Free",
        ),
    ];
    for (name, expected) in table {
        let model = load(name);
        assert_eq!(signature(&*model), expected, "{name}");
        let dynamic = name.starts_with("dynamic");
        assert_eq!(model.spec().rows_independent, !dynamic, "{name}");
    }
    let squares = [vec![floats(&[1, 2, 2], 1)], vec![floats(&[3, 2, 2], 2)]];
    let answers = run(&*load("unsupported_operator.onnx"), &squares).unwrap();
    assert_eq!(answers[1][0].shape(), [3]);
    let wide = vec![Tensor::from_vec([1], vec![1_i64 << 40]).unwrap()];
    let answers = run(&*load("wide_constant.onnx"), &[wide]).unwrap();
    assert_eq!(answers[0][0].to_vec::<i64>().unwrap(), [1 << 41]);
}

#[test]
fn texts_pass_and_what_is_no_text_is_refused() {
    let model = load("strings.onnx");
    let row = |elements: [&'static [u8]; 2]| {
        vec![Tensor::from_bytes([1, 2], elements.map(Bytes::from_static).to_vec()).unwrap()]
    };
    let requests = [row([b"", "gr\u{fc}n".as_bytes()]), row([b"x y", b"z"])];
    assert_eq!(run(&*model, &requests).unwrap(), requests);
    for bad in [&b"\xff"[..], b"a\0b"] {
        let message = refusal(&*model, row([b"fine", bad]));
        assert_eq!(
            message,
            "input \"x\": expected UTF-8 text without zero bytes, got something else in element 1"
        );
    }
}

#[test]
fn small_types_pass() {
    let halves = vec![Tensor::from_vec([1, 2], [1.5, -2.0].map(f16::from_f32).to_vec()).unwrap()];
    let answers = run(&*load("halves.onnx"), &[halves]).unwrap();
    assert_eq!(
        answers[0][0].to_vec::<f16>().unwrap(),
        [3.0, -4.0].map(f16::from_f32)
    );
    let numbers = vec![Tensor::from_vec([2], vec![u32::MAX, 0]).unwrap()];
    let answers = run(&*load("unsigned.onnx"), std::slice::from_ref(&numbers)).unwrap();
    assert_eq!(answers, [numbers]);
    let bools = vec![Tensor::from_vec([1, 2], vec![true, false]).unwrap()];
    let answers = run(&*load("booleans.onnx"), &[bools]).unwrap();
    assert_eq!(answers[0][0].to_vec::<bool>().unwrap(), [false, true]);
}

#[test]
fn instances_run_side_by_side() {
    let model = load("matmul.onnx");
    let request = vec![floats(&[2, 4], 1)];
    let expected = run(&*model, std::slice::from_ref(&request))
        .unwrap()
        .remove(0);
    let instances: Vec<_> = (0..3).map(|_| model.instance().unwrap()).collect();
    std::thread::scope(|scope| {
        for mut instance in instances {
            let (request, expected) = (&request, &expected);
            scope.spawn(move || assert_eq!(&instance.run(request).unwrap(), expected));
        }
    });
}

#[test]
fn a_failing_call_harms_nothing() {
    let mut instance = load("gather.onnx").instance().unwrap();
    let ids = |values: [i64; 2]| vec![Tensor::from_vec([1, 2], values.to_vec()).unwrap()];
    let error = instance.run(&ids([0, 99])).unwrap_err().to_string();
    assert!(
        error.starts_with("indices element out of data bounds"),
        "{error}"
    );
    assert_eq!(instance.run(&ids([0, 9])).unwrap()[0].shape(), [1, 2, 3]);
}

#[test]
fn damaged_files_are_refused_before_the_runtime_sees_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("half.onnx");
    let whole = std::fs::read(model_path("magika.onnx")).unwrap();
    std::fs::write(&path, &whole[..whole.len() / 2]).unwrap();
    let error = ort::load_with(&library(), &path, &LoadOptions::default());
    assert!(
        error
            .err()
            .unwrap()
            .to_string()
            .contains("not a whole ONNX file")
    );
    let escaping = model_path("escaping.onnx");
    let error = ort::load_with(&library(), &escaping, &LoadOptions::default());
    assert!(
        error
            .err()
            .unwrap()
            .to_string()
            .contains("must lie in its own folder")
    );
}

#[cfg(feature = "onnx")]
#[test]
fn auto_prefers_the_runtime_that_is_there() {
    let engine = |choice| {
        let path = model_path("matmul.onnx");
        let model = load::onnx(&path, choice, &LoadOptions::default(), None).unwrap();
        model.engine()
    };
    assert_eq!(engine(EngineChoice::Auto), "ort");
    assert_eq!(engine(EngineChoice::Ort), "ort");
    assert_eq!(engine(EngineChoice::Onnx), "onnx");
}

/// A version of the format that is not out yet is refused by the one and does not matter to the other.
#[cfg(feature = "onnx")]
#[test]
fn what_the_runtime_refuses_auto_embeds() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("newer.onnx");
    let mut file = std::fs::read(model_path("matmul.onnx")).unwrap();
    assert_eq!(file[..2], [8, 8], "the version of the format comes first");
    file[1] = 99;
    std::fs::write(&path, file).unwrap();
    let load = |choice| load::onnx(&path, choice, &LoadOptions::default(), None);
    let refused = load(EngineChoice::Ort).err().unwrap().to_string();
    assert!(refused.contains("IR version"), "{refused}");
    assert_eq!(load(EngineChoice::Auto).unwrap().engine(), "onnx");
}

#[test]
fn a_model_says_which_runtime_it_stands_on() {
    let model = load("matmul.onnx");
    let runtime = model.runtime().unwrap();
    assert!(runtime.starts_with("ONNX Runtime 1."), "{runtime}");
    assert!(
        runtime.ends_with(&*library().to_string_lossy()),
        "{runtime}"
    );
}

#[cfg(feature = "onnx")]
#[test]
fn without_the_runtime_auto_embeds_and_ort_explains() {
    // A Python without packages beside it, and which cannot be asked.
    let folder = tempfile::tempdir().unwrap();
    let python = folder.path().join("bin/python3");
    let load = |name: &str, choice| {
        let path = model_path(name);
        load::onnx(&path, choice, &LoadOptions::default(), Some(&python))
    };
    if std::env::var_os("ORT_DYLIB_PATH").is_some() {
        panic!("unset ORT_DYLIB_PATH: it hides what this test is about; VIRTUAL_ENV says enough");
    }
    assert_eq!(
        load("matmul.onnx", EngineChoice::Auto).unwrap().engine(),
        "onnx"
    );
    let refused = load("unsupported_operator.onnx", EngineChoice::Auto)
        .err()
        .unwrap();
    assert!(
        refused.to_string().contains("no operator \"Det\""),
        "{refused}"
    );
    assert!(
        refused.to_string().contains("pip install onnxruntime"),
        "{refused}"
    );
    let missing = load("matmul.onnx", EngineChoice::Ort).err().unwrap();
    assert!(
        missing.to_string().contains("ONNX Runtime was not found"),
        "{missing}"
    );
    assert!(
        missing.to_string().contains("pip install onnxruntime"),
        "{missing}"
    );
}
