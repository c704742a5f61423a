//! The embedded engine.

use half::f16;
use jitney_engine::{LoadOptions, Model, Tensor, onnx};

use crate::support::{floats, model_path, one_thread, refusal, run, signature};

fn load(name: &str) -> Box<dyn Model> {
    onnx::load(&model_path(name), &one_thread()).unwrap()
}

fn error(name: &str) -> String {
    match onnx::load(&model_path(name), &LoadOptions::default()) {
        Ok(_) => panic!("{name} was loaded"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn signatures_come_from_the_file() {
    let table = [
        ("matmul.onnx", "x: FP32[-1,4] -> y: FP32[-1,3], Free"),
        (
            "fixed_batch.onnx",
            "x: FP32[-1,4] -> y: FP32[-1,3], Fixed(4)",
        ),
        ("unbatched.onnx", "x: FP32[4] -> y: FP32[3], None"),
        (
            "integers.onnx",
            "ids: INT64[-1] -> next: INT64[-1], small: BOOL[-1], Free",
        ),
        ("doubles.onnx", "x: FP64[-1,2] -> y: FP64[-1,2], Free"),
        (
            "magika.onnx",
            "bytes: INT32[-1,2048] -> target_label: FP32[-1,214], Free",
        ),
        (
            "ocr_cls.onnx",
            "x: FP32[-1,3,-1,-1] -> save_infer_model/scale_0.tmp_1: FP32[-1,2], Free",
        ),
        (
            "silero_vad.onnx",
            "input: FP32[-1,-1], state: FP32[2,-1,128], sr: INT64[] -> output: FP32[-1,1], stateN: FP32[-1,-1,-1], None",
        ),
    ];
    for (name, expected) in table {
        let model = load(name);
        assert_eq!(signature(&*model), expected, "{name}");
        assert!(model.spec().rows_independent, "{name}");
    }
}

#[test]
fn what_the_engine_cannot_run_is_refused_by_name() {
    let table: [(&str, &[&str]); 7] = [
        (
            "bare_convolution.onnx",
            &["convolution \"first\" has no kernel_shape", "--engine ort"],
        ),
        (
            "unsupported_operator.onnx",
            &["no operator \"Det\"", "--engine ort"],
        ),
        ("strings.onnx", &["input \"x\" is BYTES", "--engine ort"]),
        ("unsigned.onnx", &["input \"x\" is UINT32", "--engine ort"]),
        (
            "wide_constant.onnx",
            &["the constant \"offset\"", "beyond 32 bits", "--engine ort"],
        ),
        (
            "dynamic_quantization_in_function.onnx",
            &["no operator \"local/Fake\""],
        ),
        (
            "escaping.onnx",
            &["must lie in its own folder", "../outside.onnx_data"],
        ),
    ];
    for (name, expected) in table {
        let message = error(name);
        for part in [&[name][..], expected].concat() {
            assert!(message.contains(part), "{message}");
        }
    }
}

#[test]
fn dynamic_quantization_is_found_wherever_it_is() {
    for name in [
        "dynamic_quantization.onnx",
        "dynamic_quantization_in_branch.onnx",
    ] {
        assert!(!load(name).spec().rows_independent, "{name}");
    }
}

#[test]
fn integers_of_64_bits_are_narrowed_and_widened_or_refused() {
    let model = load("integers.onnx");
    let ids = |values: &[i64]| vec![Tensor::from_vec([values.len()], values.to_vec()).unwrap()];
    let answers = run(&*model, &[ids(&[i64::from(i32::MIN), 0]), ids(&[7])]).unwrap();
    assert_eq!(
        answers[0][0].to_vec::<i64>().unwrap(),
        [i64::from(i32::MIN) + 1, 1]
    );
    assert_eq!(answers[0][1].to_vec::<bool>().unwrap(), [true, true]);
    assert_eq!(answers[1][0].to_vec::<i64>().unwrap(), [8]);
    assert_eq!(answers[1][1].to_vec::<bool>().unwrap(), [false]);
    for wide in [i64::from(i32::MAX) + 1, i64::from(i32::MIN) - 1, i64::MAX] {
        let message = refusal(&*model, ids(&[1, wide]));
        assert!(
            message.contains(&format!("input \"ids\": the value {wide}")),
            "{message}"
        );
        assert!(message.contains("--engine ort"), "{message}");
    }
}

#[test]
fn doubles_are_narrowed_and_widened_or_refused() {
    let model = load("doubles.onnx");
    let row = |values: [f64; 2]| vec![Tensor::from_vec([1, 2], values.to_vec()).unwrap()];
    let answers = run(&*model, &[row([1.0, f64::NEG_INFINITY])]).unwrap();
    assert_eq!(
        answers[0][0].to_vec::<f64>().unwrap(),
        [1.5, f64::NEG_INFINITY]
    );
    assert!(refusal(&*model, row([0.0, 1e300])).contains("input \"x\": the value 1"));
}

#[test]
fn small_types_pass() {
    let bools = vec![Tensor::from_vec([1, 2], vec![true, false]).unwrap()];
    let answers = run(&*load("booleans.onnx"), &[bools]).unwrap();
    assert_eq!(answers[0][0].to_vec::<bool>().unwrap(), [false, true]);

    let bytes = vec![Tensor::from_vec([1, 3], vec![0_u8, 4, 200]).unwrap()];
    let answers = run(&*load("bytes.onnx"), &[bytes]).unwrap();
    assert_eq!(answers[0][0].to_vec::<i8>().unwrap(), [0, 2, 100]);

    let halves = vec![Tensor::from_vec([1, 2], [1.5, -2.0].map(f16::from_f32).to_vec()).unwrap()];
    let answers = run(&*load("halves.onnx"), &[halves]).unwrap();
    assert_eq!(
        answers[0][0].to_vec::<f16>().unwrap(),
        [3.0, -4.0].map(f16::from_f32)
    );
}

#[test]
fn a_fixed_batch_is_filled_up_and_cut_again() {
    let (free, fixed) = (load("matmul.onnx"), load("fixed_batch.onnx"));
    let requests: Vec<_> = (1..7)
        .map(|rows| vec![floats(&[rows, 4], rows as u64)])
        .collect();
    assert_eq!(
        run(&*fixed, &requests).unwrap(),
        run(&*free, &requests).unwrap()
    );
}

#[test]
fn weights_beside_the_file_are_read() {
    let request = [vec![floats(&[2, 4], 1)]];
    let external = run(&*load("external.onnx"), &request).unwrap();
    assert_eq!(external, run(&*load("matmul.onnx"), &request).unwrap());
}

#[test]
fn an_index_outside_the_table_fails_and_harms_nothing() {
    let model = load("gather.onnx");
    let ids = |values: [i64; 2]| vec![Tensor::from_vec([1, 2], values.to_vec()).unwrap()];
    let mut instance = model.instance().unwrap();
    let error = instance.run(&ids([0, 99])).unwrap_err().to_string();
    assert!(error.contains("Index 99 is out of range"), "{error}");
    assert!(!error.contains("tensor("), "{error}");
    assert_eq!(instance.run(&ids([0, 9])).unwrap()[0].shape(), [1, 2, 3]);
}

#[test]
fn a_chain_of_thousands_of_operators_needs_no_deep_stack_to_run() {
    for name in ["deep.onnx", "deep_fixed_batch.onnx"] {
        let model = load(name);
        let request = vec![floats(&[1, 2], 1)];
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let work = move || run(&*model, std::slice::from_ref(&request)).unwrap() == [request];
        assert!(thread.spawn(work).unwrap().join().unwrap(), "{name}");
    }
}

#[test]
fn instances_are_suggested_for_the_machine() {
    let cores = |count| std::num::NonZeroUsize::new(count).unwrap();
    let magika = load("magika.onnx");
    let suggested = [1, 2, 64].map(|count| magika.suggested_instances(cores(count)).get());
    assert_eq!(suggested, [1, 2, 8]);
    assert_eq!(load("matmul.onnx").suggested_instances(cores(64)).get(), 1);
}
