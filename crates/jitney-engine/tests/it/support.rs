//! Finds the prepared models and runs requests through one.

use std::path::PathBuf;

use jitney_engine::{LoadOptions, Model, RunError, Tensor, stack};

/// A file in the folder of prepared models.
pub(crate) fn model_path(name: &str) -> PathBuf {
    let folder = std::env::var_os("JITNEY_TEST_MODELS").unwrap_or_else(|| {
        panic!("JITNEY_TEST_MODELS is not set: run `cargo xtask test`, which prepares the models")
    });
    let path = PathBuf::from(folder).join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo xtask test`, which prepares the models",
        path.display(),
    );
    path
}

pub(crate) fn one_thread() -> LoadOptions {
    LoadOptions {
        threads: std::num::NonZeroUsize::new(1),
    }
}

/// Runs requests together, as a server would.
pub(crate) fn run(
    model: &dyn Model,
    requests: &[Vec<Tensor>],
) -> Result<Vec<Vec<Tensor>>, stack::Error> {
    for request in requests {
        model.spec().check(request).unwrap();
    }
    stack::run(&mut *model.instance().unwrap(), model.spec(), requests)
}

/// The message of a refusal of the values.
pub(crate) fn refusal(model: &dyn Model, request: Vec<Tensor>) -> String {
    match run(model, &[request]) {
        Err(stack::Error::Run(RunError::InvalidInput(message))) => message,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

/// The signature in one line.
pub(crate) fn signature(model: &dyn Model) -> String {
    let side = |tensors: &[jitney_engine::TensorSpec]| {
        let texts: Vec<String> = tensors
            .iter()
            .map(|tensor| format!("{}: {tensor}", tensor.name))
            .collect();
        texts.join(", ")
    };
    let spec = model.spec();
    format!(
        "{} -> {}, {:?}",
        side(&spec.inputs),
        side(&spec.outputs),
        spec.batch
    )
}

/// `FP32` values between -1 and 1 that are always the same.
pub(crate) fn floats(shape: &[usize], seed: u64) -> Tensor {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let values = (0..shape.iter().product())
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1 << 23) as f32 - 1.0
        })
        .collect();
    Tensor::from_f32(shape, values).unwrap()
}
