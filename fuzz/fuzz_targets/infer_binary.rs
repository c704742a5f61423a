//! Any bytes as the body of an inference request with raw tensors, and any place where its JSON ends.

#![no_main]

use jitney_engine::tensor::DataType;
use jitney_engine::{BatchAxis, Dim, Items, Spec, TensorSpec};
use jitney_server::protocol::infer::{Form, Wanted};
use jitney_server::protocol::{error, infer};
use libfuzzer_sys::{Corpus, fuzz_target};

// The first two bytes say where the JSON ends, unless the body has a line end with a 1 behind it: that ends it too, and an input is easier to
// change where the place moves with the text.
fuzz_target!(|input: &[u8]| -> Corpus {
    let Some((place, body)) = input.split_first_chunk::<2>() else {
        return Corpus::Reject;
    };
    let (json, body) = match body.windows(2).position(|pair| pair == b"\n\x01") {
        Some(end) => (end, [&body[..end], &body[end + 2..]].concat()),
        None => (u16::from_le_bytes(*place).into(), body.to_vec()),
    };
    let body = body.into();
    for spec in [
        one(DataType::Fp32),
        one(DataType::Bytes),
        several(),
        matrix(),
        Spec::json(),
    ] {
        match infer::decode_binary(&body, json, &spec) {
            Ok(request) => check_round_trip(&spec, &request),
            Err(failure) => assert!(error::body(&failure).len() < 1000, "{failure}"),
        }
    }
    Corpus::Keep
});

/// One batched input with rows of any size.
fn one(datatype: DataType) -> Spec {
    echo(
        BatchAxis::Free,
        vec![tensor("a", datatype, &[Dim::Any, Dim::Any])],
    )
}

fn several() -> Spec {
    let inputs = [
        ("a", DataType::Bytes, &[Dim::Any][..]),
        ("b", DataType::Bool, &[Dim::Any, Dim::Fixed(2)]),
        ("c", DataType::Fp16, &[Dim::Any, Dim::Fixed(1), Dim::Any]),
    ];
    let inputs = inputs.map(|(name, datatype, shape)| tensor(name, datatype, shape));
    echo(BatchAxis::Free, inputs.into())
}

/// A matrix without a batch axis.
fn matrix() -> Spec {
    echo(
        BatchAxis::None,
        vec![tensor("a", DataType::Bf16, &[Dim::Fixed(2), Dim::Any])],
    )
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

/// Writes the tensors of a request as raw bytes behind an answer, which has the form of a request but for one key, and reads them again.
fn check_round_trip(spec: &Spec, request: &infer::Request) {
    assert_eq!(spec.check(&request.inputs).map(|_| ()), Ok(()));
    if spec.items == Items::Json {
        return;
    }
    let mut classified = request.inputs.clone();
    infer::put_classes(
        spec,
        &request.outputs,
        &["label".to_owned()],
        &mut classified,
    );
    let all = Wanted::all(spec, Form::Binary);
    let mut answer = Vec::new();
    let inputs = &request.inputs;
    let raw = infer::encode(&mut answer, "m", "1", &request.meta, spec, &all, inputs);
    let raw = raw.expect("small elements have a raw form").concat();
    let answer = String::from_utf8(answer).expect("an answer is UTF-8");
    let json = answer.replacen(",\"outputs\":[", ",\"inputs\":[", 1);
    let body = [json.as_bytes(), &raw].concat().into();
    let again = infer::decode_binary(&body, json.len(), spec).expect("what was written is read");
    assert_eq!(again.inputs, request.inputs);
    assert_eq!(again.meta.id, request.meta.id);
}
