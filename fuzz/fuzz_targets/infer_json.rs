//! Any bytes as the body of an inference request, to three models.

#![no_main]

use jitney_engine::tensor::DataType;
use jitney_engine::{BatchAxis, Dim, Items, Spec, Tensor, TensorSpec};
use jitney_server::call::Meta;
use jitney_server::protocol::infer::{Form, Wanted};
use jitney_server::protocol::predict::{self, Format};
use jitney_server::protocol::{error, infer};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for spec in [typical(), every_datatype(), without_batch_axis()] {
        match infer::decode(body, &spec) {
            Ok(request) => check_round_trip(&spec, &request),
            Err(failure) => assert!(error::body(&failure).len() < 1000, "{failure}"),
        }
        check_items(body, &spec);
    }
});

/// One batched input of fixed rows.
fn typical() -> Spec {
    echo(
        BatchAxis::Free,
        vec![tensor("a", DataType::Fp32, &[Dim::Any, Dim::Fixed(2)])],
    )
}

/// Inputs of several datatypes, of which some have rows of any size.
fn every_datatype() -> Spec {
    let inputs = [
        ("a", DataType::Bytes, &[Dim::Any][..]),
        ("b", DataType::Uint8, &[Dim::Any, Dim::Any, Dim::Fixed(2)]),
        ("c", DataType::Int64, &[Dim::Any, Dim::Fixed(1), Dim::Any]),
    ];
    let inputs = inputs.map(|(name, datatype, shape)| tensor(name, datatype, shape));
    echo(BatchAxis::Free, inputs.into())
}

/// A matrix of any size and a scalar.
fn without_batch_axis() -> Spec {
    let inputs = vec![
        tensor("a", DataType::Fp64, &[Dim::Any, Dim::Any]),
        tensor("b", DataType::Fp32, &[]),
    ];
    echo(BatchAxis::None, inputs)
}

fn tensor(name: &str, datatype: DataType, shape: &[Dim]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
    }
}

fn echo(batch: BatchAxis, inputs: Vec<TensorSpec>) -> Spec {
    Spec {
        outputs: inputs.clone(),
        inputs,
        batch,
        rows_independent: true,
        items: Items::Tensors,
    }
}

/// Writes the tensors of a request as an answer, which has the form of a request but for one key, and reads them again.
fn check_round_trip(spec: &Spec, request: &infer::Request) {
    assert_eq!(spec.check(&request.inputs).map(|_| ()), Ok(()));
    let meta = Meta {
        id: request.meta.id.clone(),
        ..Meta::default()
    };
    let all = Wanted::all(spec, Form::Json);
    let mut answer = Vec::new();
    let raw = infer::encode(&mut answer, "m", "1", &meta, spec, &all, &request.inputs);
    assert_eq!(raw.map(|raw| raw.len()), Ok(0));
    let answer = String::from_utf8(answer).expect("an answer is UTF-8");
    let body = answer.replacen(",\"outputs\":[", ",\"inputs\":[", 1);
    match infer::decode(body.as_bytes(), spec) {
        Ok(again) => {
            assert_eq!(again.inputs, request.inputs);
            assert_eq!(again.meta, meta);
        }
        Err(failure) => assert!(request.inputs.iter().any(has_null), "{failure}: {body}"),
    }
}

/// Whether a tensor has a value that JSON has no number for.
fn has_null(tensor: &Tensor) -> bool {
    match tensor.datatype() {
        DataType::Fp32 => tensor
            .to_vec::<f32>()
            .is_some_and(|values| values.iter().any(|value| !value.is_finite())),
        DataType::Fp64 => tensor
            .to_vec::<f64>()
            .is_some_and(|values| values.iter().any(|value| !value.is_finite())),
        _ => false,
    }
}

fn check_items(body: &[u8], spec: &Spec) {
    for format in [Format::Json, Format::Ndjson] {
        if let Ok(items) = predict::decode_items(body, format, spec) {
            let mut out = Vec::new();
            predict::encode_items(&mut out, spec, &items);
            assert!(String::from_utf8(out).is_ok());
        }
    }
}
