//! Both engines give the same answers, alone and in batches.

use jitney_engine::{Model, Tensor, onnx};

use crate::ort;
use crate::support::{floats, model_path, one_thread, run};

/// How far two answers for the same row may lie apart. Two engines add up in different orders; one engine may too when a batch has
/// another size. Measured: 1.6e-6 at most.
const TOLERANCE: f64 = 1e-5;

/// One row of pseudo-random inputs.
type Row = fn(u64) -> Vec<Tensor>;

const MODELS: [(&str, Row); 7] = [
    ("magika.onnx", |seed| vec![file_bytes(seed)]),
    ("ocr_cls.onnx", |seed| vec![floats(&[1, 3, 48, 192], seed)]),
    ("silero_vad.onnx", |seed| {
        vec![
            floats(&[1, 576], seed),
            floats(&[2, 1, 128], seed + 1),
            Tensor::from_vec([], vec![16_000_i64]).unwrap(),
        ]
    }),
    ("convolution.onnx", |seed| vec![floats(&[1, 1, 8, 8], seed)]),
    ("matmul.onnx", |seed| vec![floats(&[1, 4], seed)]),
    ("gather.onnx", |seed| {
        let ids = vec![(seed % 10) as i64, 3];
        vec![Tensor::from_vec([1, 2], ids).unwrap()]
    }),
    ("fixed_batch.onnx", |seed| vec![floats(&[1, 4], seed)]),
];

/// What magika is given: the first and last bytes of a file.
fn file_bytes(seed: u64) -> Tensor {
    let values = floats(&[2048], seed).to_vec::<f32>().unwrap();
    let bytes = values.iter().map(|value| ((value + 1.0) * 127.0) as i32);
    Tensor::from_vec([1, 2048], bytes.collect()).unwrap()
}

#[test]
fn engines_agree_and_batches_change_nothing() {
    for (name, row) in MODELS {
        let embedded = onnx::load(&model_path(name), &one_thread()).unwrap();
        let runtime = ort::load(name);
        assert_eq!(embedded.spec(), runtime.spec(), "{name}");
        let rows: Vec<Vec<Tensor>> = (1..9).map(row).collect();
        let alone = one_by_one(&*embedded, &rows);
        for (what, answers) in [
            ("embedded, batch of 8", run(&*embedded, &rows).unwrap()),
            ("runtime, one by one", one_by_one(&*runtime, &rows)),
            ("runtime, batch of 8", run(&*runtime, &rows).unwrap()),
        ] {
            let apart = distance(&alone, &answers);
            assert!(apart <= TOLERANCE, "{name}: {what}: {apart:e} apart");
        }
    }
}

fn one_by_one(model: &dyn Model, rows: &[Vec<Tensor>]) -> Vec<Vec<Tensor>> {
    let alone = |row| run(model, std::slice::from_ref(row)).unwrap().remove(0);
    rows.iter().map(alone).collect()
}

/// The largest difference between two values in the same place.
fn distance(left: &[Vec<Tensor>], right: &[Vec<Tensor>]) -> f64 {
    let pairs = left.iter().flatten().zip(right.iter().flatten());
    pairs
        .flat_map(|(left, right)| {
            assert_eq!(left.shape(), right.shape());
            left.numbers()
                .unwrap()
                .into_iter()
                .zip(right.numbers().unwrap())
        })
        .map(|(left, right)| {
            assert!(left.is_finite() && right.is_finite());
            (left - right).abs()
        })
        .fold(0.0, f64::max)
}
