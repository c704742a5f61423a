//! Payloads of every size, both ways.

use std::io::IoSlice;
use std::thread;

use jitney::process::{CallError, Request, Settings};

use super::support::*;

fn pattern(bytes: usize, seed: usize) -> Vec<u8> {
    (0..bytes)
        .map(|index| (index.wrapping_mul(31) ^ seed ^ (index >> 12)) as u8)
        .collect()
}

#[test]
fn payloads_come_back_as_they_went() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    for bytes in [
        0,
        1,
        1000,
        32 << 10,
        (32 << 10) + 1,
        100_000,
        64 << 10,
        3_000_000,
        10,
    ] {
        let payload = pattern(bytes, bytes);
        let reply = call_with(&pool, "echo", &payload).unwrap();
        assert!(reply.payload == payload, "{bytes} bytes");
    }
}

#[test]
fn pieces_are_joined_on_the_way() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    for count in [3_usize, 500, 3000] {
        let pieces: Vec<Vec<u8>> = (0..count).map(|index| pattern(index % 50, index)).collect();
        let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let reply = pool
            .call(&Request {
                payload: &slices,
                ..Request::new(b"echo", PATIENCE)
            })
            .unwrap();
        assert!(reply.payload == pieces.concat(), "{count} pieces");
    }
}

/// On one plain socket, both sides would block in writing for ever.
#[test]
fn large_payloads_both_ways_with_two_in_flight_do_not_lock() {
    let (pool, _) = start(child(&[]), workers(1, 2));
    thread::scope(|scope| {
        for seed in 0..4 {
            let pool = &pool;
            scope.spawn(move || {
                let payload = pattern(20 << 20, seed);
                for _ in 0..3 {
                    let reply = call_with(pool, "echo", &payload).unwrap();
                    assert!(reply.payload == payload);
                }
            });
        }
    });
}

#[test]
fn many_callers_each_get_their_own_reply() {
    let (pool, _) = start(child(&[]), workers(2, 2));
    thread::scope(|scope| {
        for caller in 0..8_usize {
            let pool = &pool;
            scope.spawn(move || {
                for round in 0..100_usize {
                    let size = [16, 5000, 40_000][round % 3];
                    let payload = pattern(size, caller * 1000 + round);
                    assert!(call_with(pool, "echo", &payload).unwrap().payload == payload);
                }
            });
        }
    });
}

#[test]
fn what_is_too_large_is_refused_before_it_is_sent_and_a_reply_ends_its_worker() {
    let settings = Settings {
        payload_max: 1 << 20,
        ..workers(1, 1)
    };
    let (pool, _) = start(child(&[]), settings);
    let before = pid(&pool, 0);
    let long = vec![b' '; Request::META_MAX + 1];
    let error = pool.call(&Request::new(&long, PATIENCE)).unwrap_err();
    assert!(
        matches!(
            error,
            CallError::TooLarge {
                what: "head of the message",
                ..
            }
        ),
        "{error}"
    );
    let error = call_with(&pool, "echo", &vec![0; (1 << 20) + 1]).unwrap_err();
    assert!(
        matches!(
            error,
            CallError::TooLarge {
                what: "payload",
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(number(&pool, "pid"), before);
    let error = call(&pool, "zeros 2000000").unwrap_err();
    assert!(
        matches!(&error, CallError::Garbage(what) if what.contains("1048576 is the most")),
        "{error}"
    );
    echoes(&pool);
}
