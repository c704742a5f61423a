//! Any bytes as the body of an inference request in binary form, with any length of JSON, to three models.

#![no_main]

mod specs;

use bytes::Bytes;
use jitney_engine::Spec;
use jitney_server::protocol::error;
use jitney_server::protocol::infer::{self, Form, Wanted};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((length, body)) = data.split_first_chunk() else {
        return;
    };
    let (length, body) = (usize::from(u16::from_le_bytes(*length)), Bytes::copy_from_slice(body));
    for spec in specs::all() {
        // The end of the body is a length that is hard to guess.
        for length in [length, body.len()] {
            match infer::decode_binary(&body, length, &spec) {
                Ok(request) => check_round_trip(&spec, &request),
                Err(failure) => assert!(error::body(&failure).len() < 1000, "{failure}"),
            }
        }
    }
});

/// Writes the tensors of a request as an answer, which has the form of a request but for one key, and reads them again, to the last bit.
fn check_round_trip(spec: &Spec, request: &infer::Request) {
    assert_eq!(spec.check(&request.inputs).map(|_| ()), Ok(()));
    let all = Wanted::all(spec, Form::Binary);
    let mut answer = Vec::new();
    let raw = infer::encode(&mut answer, "m", "1", None, spec, &all, &request.inputs)
        .expect("the tensors are small");
    let json = String::from_utf8(answer).expect("the JSON of an answer is UTF-8");
    let json = json.replacen(",\"outputs\":[", ",\"inputs\":[", 1);
    let body = Bytes::from([json.as_bytes(), &raw.concat()].concat());
    let again = infer::decode_binary(&body, json.len(), spec)
        .unwrap_or_else(|failure| panic!("{failure}: {json}"));
    assert_eq!(again.inputs, request.inputs);
}
