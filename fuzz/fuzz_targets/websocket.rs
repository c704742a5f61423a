//! Any bytes as what a client sends on a WebSocket: whole, and cut in two anywhere.

#![no_main]

use bytes::BytesMut;
use jitney_engine::{BatchAxis, Items, Spec, TensorSpec};
use jitney_server::protocol::frames::{Decoder, Event, Fault};
use jitney_server::protocol::socket;
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1000;

fuzz_target!(|input: &[u8]| {
    let Some((cut, bytes)) = input.split_first() else {
        return;
    };
    let whole = read(&[bytes]);
    let (head, tail) = bytes.split_at(usize::from(*cut).min(bytes.len()));
    assert_eq!(read(&[head, tail]), whole);
    for event in whole.0 {
        follow(event);
    }
});

fn read(pieces: &[&[u8]]) -> (Vec<Event>, Option<Fault>) {
    let mut decoder = Decoder::new(LIMIT);
    let (mut events, mut bytes) = (Vec::new(), BytesMut::new());
    for piece in pieces {
        bytes.extend_from_slice(piece);
        loop {
            match decoder.next(&mut bytes) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(fault) => return (events, Some(fault)),
            }
            assert!(decoder.held() <= LIMIT);
        }
    }
    (events, None)
}

fn follow(event: Event) {
    for spec in [Spec::json(), typed()] {
        let followed = match &event {
            Event::Text(text) => {
                assert!(std::str::from_utf8(text).is_ok() && text.len() <= LIMIT);
                socket::decode(text, &spec)
            }
            Event::Binary(bytes) => socket::decode_binary(bytes, &spec),
            Event::Ping(payload) => return assert!(payload.len() <= 125),
            Event::Pong | Event::Close(_) => return,
        };
        if let Err(refused) = followed {
            assert!(refused.failure.message.len() < 1000, "{refused:?}");
        }
    }
}

fn typed() -> Spec {
    let tensor = |name| TensorSpec::parse_row(name, "FP32[2]").ok();
    Spec {
        inputs: tensor("x").into_iter().collect(),
        outputs: tensor("y").into_iter().collect(),
        batch: BatchAxis::Free,
        rows_independent: true,
        items: Items::Tensors,
    }
}
