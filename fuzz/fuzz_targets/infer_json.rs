//! Any bytes as the body of an inference request, to three models.

#![no_main]

mod specs;

use jitney_engine::tensor::DataType;
use jitney_engine::{Spec, Tensor};
use jitney_server::call::Meta;
use jitney_server::protocol::infer::{self, Form, Wanted};
use jitney_server::protocol::predict::{self, Format};
use jitney_server::protocol::{error, generate};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for spec in specs::all() {
        match infer::decode(body, &spec) {
            Ok(request) => check_round_trip(&spec, &request),
            Err(failure) => assert!(error::body(&failure).len() < 1000, "{failure}"),
        }
        check_items(body, &spec);
        if let Err(failure) = generate::decode(body, &spec) {
            assert!(error::body(&failure).len() < 1000, "{failure}");
        }
    }
});

/// Writes the tensors of a request as an answer, which has the form of a request but for one key, and reads them again.
fn check_round_trip(spec: &Spec, request: &infer::Request) {
    assert_eq!(spec.check(&request.inputs).map(|_| ()), Ok(()));
    let meta = Meta {
        id: request.meta.id.clone(),
        ..Meta::default()
    };
    let all = Wanted::all(spec, Form::Json);
    let mut answer = Vec::new();
    let raw = infer::encode(&mut answer, "m", "1", meta.id.as_deref(), spec, &all, &request.inputs);
    assert!(raw.is_ok_and(|raw| raw.is_empty()));
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
