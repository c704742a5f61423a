//! Any bytes as the body of a call of gRPC, in pieces of any size, and as a request to three models.

#![no_main]

mod specs;

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use jitney_engine::Spec;
use jitney_server::failure::Failure;
use jitney_server::grpc::fuzzing::{self, Request};
use jitney_server::grpc::generated::model_infer_request::InferInputTensor;
use jitney_server::grpc::generated::model_infer_response::InferOutputTensor;
use jitney_server::grpc::generated::{ModelInferRequest, ModelInferResponse};
use jitney_server::protocol::{MAX_DIMENSIONS, MAX_KEYS};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_varint};
use tokio::runtime::{Builder, Runtime};

/// Most bytes of a message.
const LIMIT: usize = 4096;
/// Most bytes of an answer, which may be larger than the request.
const ANSWER_MAX: usize = 1 << 20;
/// Most tensors of a request, of each kind.
const MAX_TENSORS: usize = 1024;
/// Bytes that say how to read those behind them.
const BEFORE: usize = 2;
const ENCODINGS: [Option<&str>; 3] = [None, Some("gzip"), Some("deflate")];

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without threads")
});

fuzz_target!(|data: &[u8]| {
    let Some(([how, cut], data)) = data.split_first_chunk::<BEFORE>() else {
        return;
    };
    let encoding = ENCODINGS[usize::from(*how) % ENCODINGS.len()];
    let data = Bytes::copy_from_slice(data);
    for message in messages(encoding, &data, usize::from(*cut) + 1) {
        check_message(message, encoding);
    }
    // The bytes are a message too, since the length of one is hard to guess.
    check_message(data, encoding);
});

// A change that keeps the lengths around it right gets deeper than one that does not, so each has half of the tries.
fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    if seed.is_multiple_of(2) || size <= BEFORE {
        return fuzzer_mutate(data, size, max_size);
    }
    let room = max_size.saturating_sub(BEFORE);
    let message = mutated(&data[BEFORE..size], room, seed as usize / 2);
    let size = message.len().min(room);
    data[BEFORE..][..size].copy_from_slice(&message[..size]);
    BEFORE + size
});

/// The message with a change in one of its fields, however deep, or beside them.
fn mutated(message: &[u8], room: usize, seed: usize) -> Vec<u8> {
    let fields = fields(message);
    let choices = fields.len() + 1;
    let Some((length, value)) = fields.get(seed % choices) else {
        let mut bytes = message.to_vec();
        bytes.resize(room.max(message.len()).max(1), 0);
        let size = fuzzer_mutate(&mut bytes, message.len(), room.max(1));
        bytes.truncate(size);
        return bytes;
    };
    let around = message.len() - value.len();
    let changed = mutated(
        &message[value.clone()],
        room.saturating_sub(around),
        seed / choices,
    );
    let mut bytes = message[..*length].to_vec();
    encode_varint(changed.len() as u64, &mut bytes);
    [bytes, changed, message[value.end..].to_vec()].concat()
}

/// Where the lengths of a message's fields are, of those that have one, and their values.
fn fields(message: &[u8]) -> Vec<(usize, Range<usize>)> {
    let (mut fields, mut rest) = (Vec::new(), message);
    while let Ok((_, kind)) = decode_key(&mut rest) {
        let length = message.len() - rest.len();
        let size = match kind {
            WireType::Varint => decode_varint(&mut rest).map(|_| 0),
            WireType::SixtyFourBit => Ok(8),
            WireType::ThirtyTwoBit => Ok(4),
            WireType::LengthDelimited => decode_varint(&mut rest),
            WireType::StartGroup | WireType::EndGroup => Ok(0),
        };
        let size = size.ok().and_then(|size| usize::try_from(size).ok());
        let Some((value, behind)) = size.and_then(|size| rest.split_at_checked(size)) else {
            break;
        };
        if kind == WireType::LengthDelimited {
            let start = message.len() - rest.len();
            fields.push((length, start..start + value.len()));
        }
        rest = behind;
    }
    fields
}

/// The messages in these bytes, which are the same however the bytes are cut.
fn messages(encoding: Option<&str>, data: &Bytes, size: usize) -> Vec<Bytes> {
    let read = |size| RUNTIME.block_on(fuzzing::messages(encoding, cut(data, size), LIMIT));
    let (messages, failure) = read(data.len().max(1));
    assert_eq!(read(size), (messages.clone(), failure.clone()));
    assert!(messages.iter().all(|message| message.len() <= LIMIT));
    let only = RUNTIME.block_on(fuzzing::message(encoding, cut(data, size), LIMIT));
    match (&messages[..], &failure) {
        ([message], None) => assert_eq!(only.as_ref(), Ok(message)),
        _ => check_sentence(&only.expect_err("there is not exactly one")),
    }
    failure.iter().for_each(check_sentence);
    messages
}

fn cut(data: &Bytes, size: usize) -> Vec<Bytes> {
    data.chunks(size)
        .map(|piece| data.slice_ref(piece))
        .collect()
}

fn check_message(message: Bytes, encoding: Option<&str>) {
    let request = match fuzzing::read(message) {
        Ok(request) => request,
        Err(failure) => return check_sentence(&failure),
    };
    check_size(&request);
    for spec in specs::all() {
        match Request::check(request.clone(), &spec) {
            Ok(accepted) => check_accepted(&spec, &request, &accepted, encoding),
            Err(failure) => check_sentence(&failure),
        }
    }
}

fn check_sentence(failure: &Failure) {
    assert!(failure.message.len() < 1000, "{failure}");
}

/// What a request takes in memory follows the bytes that it came in.
fn check_size(request: &ModelInferRequest) {
    let tensors = [
        request.inputs.len(),
        request.outputs.len(),
        request.raw_input_contents.len(),
    ];
    assert!(tensors.iter().all(|count| *count <= MAX_TENSORS));
    assert!(request.parameters.len() <= MAX_KEYS);
    for input in &request.inputs {
        assert!(input.shape.len() <= MAX_DIMENSIONS && input.parameters.len() <= MAX_KEYS);
    }
    let mut outputs = request.outputs.iter();
    assert!(outputs.all(|output| output.parameters.len() <= MAX_KEYS));
}

fn check_accepted(
    spec: &Spec,
    request: &ModelInferRequest,
    accepted: &Request,
    encoding: Option<&str>,
) {
    assert_eq!(spec.check(accepted.inputs()).map(|_| ()), Ok(()));
    let answer = answer(accepted, spec, encoding);
    assert_eq!(answer.id, request.id);
    // Some outputs may not have been asked for, or in another form.
    let plain = ModelInferRequest {
        outputs: Vec::new(),
        ..request.clone()
    };
    check_round_trip(spec, plain, accepted, encoding);
}

/// Writes the tensors of a request as an answer, and reads them again as a request, to the last bit.
fn check_round_trip(
    spec: &Spec,
    request: ModelInferRequest,
    accepted: &Request,
    encoding: Option<&str>,
) {
    let plain = Request::check(request, spec).expect("outputs are all that is missing");
    assert_eq!(plain.inputs(), accepted.inputs());
    let answer = answer(&plain, spec, encoding);
    let again = ModelInferRequest {
        inputs: answer.outputs.into_iter().map(input).collect(),
        raw_input_contents: answer.raw_output_contents,
        ..ModelInferRequest::default()
    };
    let again = fuzzing::read(again.encode_to_vec().into()).expect("what was read is not too much");
    let again = Request::check(again, spec).unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(again.inputs(), accepted.inputs());
}

fn input(output: InferOutputTensor) -> InferInputTensor {
    InferInputTensor {
        name: output.name,
        datatype: output.datatype,
        shape: output.shape,
        parameters: output.parameters,
        contents: output.contents,
    }
}

/// The answer of a model that gives its inputs back.
fn answer(request: &Request, spec: &Spec, encoding: Option<&str>) -> ModelInferResponse {
    let bytes = RUNTIME.block_on(request.echo(spec, encoding));
    let bytes = bytes.expect("the tensors are small");
    let message = RUNTIME.block_on(fuzzing::message(encoding, vec![bytes], ANSWER_MAX));
    let message = message.unwrap_or_else(|failure| panic!("{failure}"));
    ModelInferResponse::decode(message).expect("an answer is a message")
}
