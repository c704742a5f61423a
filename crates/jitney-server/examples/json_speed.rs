//! Measures reading and writing of tensors as JSON beside serde_json: `cargo run --release --example json_speed -p jitney-server`.

#![expect(clippy::print_stdout, reason = "a program for people")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use jitney_engine::{BatchAxis, Items, Spec, Tensor, TensorSpec};
use jitney_server::protocol::infer::{self, Form, Wanted};
use serde::Deserialize;

/// What serde_json reads, with the one field that costs time.
#[derive(Deserialize)]
struct Typed {
    inputs: Vec<TypedInput>,
}

#[derive(Deserialize)]
struct TypedInput {
    data: Vec<f32>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    for (row, count) in [("FP32[16]", 16), ("FP32[3,224,224]", 3 * 224 * 224)] {
        let input = TensorSpec::parse_row("input", row)?;
        let spec = Spec {
            outputs: vec![input.clone()],
            inputs: vec![input],
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        };
        let values = random(count);
        compare(
            row,
            "shortest digits",
            &spec,
            &body(&spec, &values, f32::to_string),
        )?;
        compare(
            row,
            "17 digits",
            &spec,
            &body(&spec, &values, |value| format!("{}", f64::from(*value))),
        )?;
    }
    Ok(())
}

fn compare(
    row: &str,
    digits: &str,
    spec: &Spec,
    body: &[u8],
) -> Result<(), Box<dyn std::error::Error>> {
    println!("{row}, {digits}, {} bytes", body.len());
    let request = infer::decode(body, spec)?;
    let typed: Typed = serde_json::from_slice(body)?;
    assert_eq!(
        request.inputs[0].to_vec::<f32>().as_ref(),
        Some(&typed.inputs[0].data)
    );

    report("  decode", body.len(), || {
        infer::decode(black_box(body), spec).is_ok()
    });
    report("  serde_json, typed", body.len(), || {
        serde_json::from_slice::<Typed>(black_box(body)).is_ok()
    });
    let mut out = Vec::new();
    encode(&mut out, spec, &request.inputs);
    report("  encode", out.len(), || {
        let mut out = Vec::with_capacity(1024);
        encode(&mut out, spec, black_box(&request.inputs));
        !out.is_empty()
    });
    report("  serde_json, data alone", out.len(), || {
        serde_json::to_vec(black_box(&typed.inputs[0].data)).is_ok()
    });
    Ok(())
}

fn encode(out: &mut Vec<u8>, spec: &Spec, outputs: &[Tensor]) {
    let wanted = Wanted::all(spec, Form::Json);
    let raw = infer::encode(out, "echo", "1", None, spec, &wanted, outputs);
    assert!(raw.is_ok_and(|raw| raw.is_empty()));
}

/// Prints the time of one call, the best of several rounds, since noise only ever adds.
fn report(name: &str, bytes: usize, mut work: impl FnMut() -> bool) {
    let calls = 20_000_000 / bytes.max(1000) + 1;
    let mut best = Duration::MAX;
    for _ in 0..15 {
        let start = Instant::now();
        for _ in 0..calls {
            assert!(black_box(work()));
        }
        best = best.min(start.elapsed() / u32::try_from(calls).unwrap_or(u32::MAX));
    }
    let speed = bytes as f64 / best.as_secs_f64() / 1e6;
    println!(
        "{name:<26}{:>10.2} us{speed:>8.0} MB/s",
        best.as_secs_f64() * 1e6
    );
}

fn body(spec: &Spec, values: &[f32], digits: impl Fn(&f32) -> String) -> Vec<u8> {
    let row: Vec<i64> = spec.inputs[0]
        .protocol_shape()
        .iter()
        .map(|size| size.abs())
        .collect();
    let data: Vec<String> = values.iter().map(digits).collect();
    let text = format!(
        r#"{{"inputs":[{{"name":"input","shape":{row:?},"datatype":"FP32","data":[{}]}}]}}"#,
        data.join(",")
    );
    text.into_bytes()
}

/// Values between 0 and 1, the same in every run.
fn random(count: usize) -> Vec<f32> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 24) as f32
    };
    (0..count).map(|_| next()).collect()
}
