//! Any bytes as what a client sends on a WebSocket, in pieces of any size, and as the messages in it.

#![no_main]

mod specs;

use bytes::BytesMut;
use jitney_server::protocol::frames::{Decoder, Event, Fault};
use jitney_server::protocol::socket::{self, Message, Refused};
use libfuzzer_sys::fuzz_target;

const MESSAGE_MAX: usize = 4096;

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else {
        return;
    };
    let (events, fault) = read(data, data.len().max(1));
    // How the bytes are cut makes no difference, but that a fault may be found before the rest has come.
    let pieces = read(data, usize::from(*cut) + 1);
    assert_eq!(pieces, (events.clone(), fault));
    for event in &events {
        check(event);
    }
    // The messages are hard to find behind a mask, so the bytes are one too.
    check_message(data, false);
    check_message(data, true);
});

fn read(data: &[u8], size: usize) -> (Vec<Event>, Option<Fault>) {
    let mut decoder = Decoder::new(MESSAGE_MAX);
    let (mut events, mut input) = (Vec::new(), BytesMut::new());
    for piece in data.chunks(size) {
        input.extend_from_slice(piece);
        loop {
            assert!(decoder.held() <= MESSAGE_MAX);
            match decoder.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Ok(None) => break,
                Err(fault) => return (events, Some(fault)),
            }
            // Nothing follows.
            if let Some(Event::Close(_)) = events.last() {
                return (events, None);
            }
        }
    }
    (events, None)
}

fn check(event: &Event) {
    match event {
        Event::Text(text) => {
            assert!(str::from_utf8(text).is_ok() && text.len() <= MESSAGE_MAX);
            check_message(text, false);
        }
        Event::Binary(message) => {
            assert!(message.len() <= MESSAGE_MAX);
            check_message(message, true);
        }
        Event::Ping(payload) => assert!(payload.len() <= 125),
        Event::Pong | Event::Close(_) => (),
    }
}

fn check_message(message: &[u8], binary: bool) {
    let message = bytes::Bytes::copy_from_slice(message);
    for spec in specs::all() {
        let decoded = match binary {
            true => socket::decode_binary(&message, &spec),
            false => socket::decode(&message, &spec),
        };
        match decoded {
            Ok(Message::Request(request)) => {
                assert_eq!(spec.check(&request.inputs).map(|_| ()), Ok(()));
                let found = socket::id(&message, binary);
                assert_eq!(found, Some(request.id), "found without the signature");
            }
            Ok(Message::Cancel(_)) => (),
            Err(Refused { id, failure }) => {
                let mut out = Vec::new();
                socket::failure(&mut out, id.as_deref(), &failure);
                assert!(String::from_utf8(out).is_ok_and(|out| out.len() < 2000), "{failure}");
            }
        }
    }
}
