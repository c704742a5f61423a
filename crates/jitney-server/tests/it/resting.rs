//! A connection of HTTP/1.1 whose client asks for nothing rests: nobody must be able to tell, whatever comes and whenever it comes.

use std::io::Read;
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use crate::support::{Client, Fixture, start, start_with};

const MODEL: &[&str] = &["m=echo:FP32[-1]"];
/// Longer than a connection takes to rest. There is nothing that one could wait for: that it rests is not to be seen.
const RESTED: Duration = Duration::from_millis(1300);
const ITEM: &str = "{\"input\":[1,2]}";

/// What is sent, in pieces, the statuses of the answers, and whether the connection is closed behind them.
type Row<'r> = (Vec<&'r [u8]>, &'r [u16], bool);

/// A connection that has had an answer.
fn used(server: &Fixture) -> Client {
    let mut client = server.connect();
    assert_eq!(client.get("/v2").status, 200);
    client
}

/// The bytes of a prediction, with this field for the length of its body, and then the body.
fn post(server: &Fixture, length: &str, body: &str) -> String {
    let host = server.address();
    format!(
        "POST /predict/m HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{length}\r\n\r\n{body}"
    )
}

fn sized(server: &Fixture, body: &str) -> String {
    post(server, &format!("content-length: {}", body.len()), body)
}

#[test]
fn whatever_wakes_a_connection_is_answered_as_always() {
    let server = start(MODEL);
    let get = format!("GET /v2 HTTP/1.1\r\nhost: {}\r\n\r\n", server.address());
    let whole = sized(&server, ITEM);
    let chunked = post(
        &server,
        "transfer-encoding: chunked",
        "f\r\n{\"input\":[1,2]}\r\n0\r\n\r\n",
    );
    let large = sized(
        &server,
        &format!("{{\"input\":[{}1]}}", "1,".repeat(100_000)),
    );
    let bad_chunk = post(&server, "transfer-encoding: chunked", "zz\r\n");
    let rows: Vec<Row<'_>> = vec![
        (vec![whole.as_bytes()], &[200], false),
        (
            vec![whole.as_bytes(), get.as_bytes(), whole.as_bytes()],
            &[200; 3],
            false,
        ),
        (
            vec![&whole.as_bytes()[..1], &whole.as_bytes()[1..]],
            &[200],
            false,
        ),
        (
            vec![&whole.as_bytes()[..30], &whole.as_bytes()[30..]],
            &[200],
            false,
        ),
        (
            vec![
                &whole.as_bytes()[..whole.len() - 3],
                &whole.as_bytes()[whole.len() - 3..],
            ],
            &[200],
            false,
        ),
        (large.as_bytes().chunks(4097).collect(), &[200], false),
        (chunked.as_bytes().chunks(7).collect(), &[200], false),
        (
            vec![get.as_bytes(), b"no request\r\n\r\n", get.as_bytes()],
            &[200, 400],
            true,
        ),
        (vec![b"no request\r\n\r\n"], &[400], true),
        (vec![bad_chunk.as_bytes()], &[400], true),
    ];
    let mut clients: Vec<Client> = rows.iter().map(|_| used(&server)).collect();
    sleep(RESTED);
    for again in 0..2 {
        for ((pieces, statuses, closes), client) in rows.iter().zip(&mut clients) {
            if again > 0 && *closes {
                continue;
            }
            for piece in pieces {
                client.send(piece);
                // So that pieces come one by one, as a rule; the answers are the same when they do not.
                sleep(Duration::from_micros(200));
            }
            for &status in *statuses {
                let answer = client.answer().unwrap();
                assert_eq!(answer.status, status, "{answer:?}");
            }
            if *closes {
                let begun = Instant::now();
                assert!(client.is_closed());
                assert!(
                    begun.elapsed() < Duration::from_secs(5),
                    "held for {:?}",
                    begun.elapsed()
                );
            }
        }
        // And once more after another rest.
        sleep(RESTED);
    }
    assert_eq!(server.scrape("jitney_inflight_bytes "), Some(0.0));
}

/// The moment at which a connection comes to rest is hit, or nearly so, by some of them.
#[test]
fn what_comes_at_the_moment_of_resting_is_not_lost() {
    let server = start(MODEL);
    let whole = sized(&server, ITEM);
    let (first, last) = whole.as_bytes().split_at(40);
    scope(|threads| {
        for number in 0..24 {
            let (server, whole) = (&server, &whole);
            threads.spawn(move || {
                let mut client = used(server);
                for _ in 0..4 {
                    sleep(Duration::from_millis(480 + number * 2));
                    client.send(whole.repeat(2));
                    sleep(Duration::from_millis(490 + number));
                    let answers = [(); 2].map(|()| client.answer().unwrap());
                    assert!(
                        answers.iter().all(|answer| answer.status == 200),
                        "{answers:?}"
                    );
                    client.send(first);
                    sleep(Duration::from_millis(500));
                    client.send(last);
                    assert_eq!(client.answer().unwrap().status, 200);
                }
            });
        }
    });
    assert_eq!(server.stats().ok, 24 * 4 * 3);
}

/// A request whose body is slow, and an answer that takes long, are no quiet.
#[test]
fn a_request_that_takes_long_is_no_rest() {
    let server = start(&["m=echo:FP32[-1],call_ms=1500"]);
    let whole = sized(&server, ITEM);
    let (head, body) = whole.as_bytes().split_at(whole.len() - ITEM.len());
    let mut client = used(&server);
    client.send(head);
    for byte in body.chunks(5) {
        sleep(RESTED / 3);
        client.send(byte);
    }
    assert_eq!(client.answer().unwrap().status, 200);
    assert_eq!(client.get("/v2").status, 200);
}

#[test]
fn half_a_head_that_woke_a_connection_has_its_time_and_no_more() {
    let server = start_with(MODEL, |net| net.header_timeout = Duration::from_millis(100));
    let mut client = used(&server);
    sleep(RESTED);
    client.send("GET /v2");
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert!(client.is_closed());
}

#[test]
fn a_connection_does_not_rest_for_ever() {
    const IDLE: Duration = Duration::from_millis(700);
    let server = start_with(MODEL, |net| net.idle_timeout = IDLE);
    let mut client = used(&server);
    let begun = Instant::now();
    assert!(client.is_closed());
    assert!(
        begun.elapsed() >= IDLE,
        "closed after {:?}",
        begun.elapsed()
    );
}

/// A connection at rest is no request: it holds up no drain, and until the end is told that there is one.
#[test]
fn a_drain_finds_those_who_rest() {
    let server = start(&["m=echo:FP32[-1],call_ms=1000"]);
    let mut resting: Vec<Client> = (0..32).map(|_| used(&server)).collect();
    let mut asks = resting.remove(0);
    sleep(RESTED);
    let mut busy = server.connect();
    busy.begin_post("/predict/m", ITEM);
    server.wait_stats("it runs", |stats| stats.running == 1);
    server.running.drain();
    let refused = asks.post("/predict/m", ITEM);
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    assert!(asks.is_closed());
    assert_eq!(busy.answer().unwrap().status, 200);
    for client in &mut resting {
        assert!(client.is_closed());
    }
    assert!(server.block_on(server.running.wait()).unwrap().is_clean());
}

#[test]
fn many_wake_at_once() {
    let server = start(MODEL);
    let mut clients: Vec<Client> = (0..300).map(|_| used(&server)).collect();
    sleep(RESTED);
    for client in &mut clients {
        client.begin_post("/predict/m", ITEM);
    }
    for client in &mut clients {
        assert!(matches!(client.answer().unwrap().status, 200 | 429));
    }
    for client in &mut clients {
        assert_eq!(client.get("/v2").status, 200);
    }
}

/// Several times what the sockets between a client and the server hold.
const LARGE: usize = 24 << 20;

/// The body of a request whose answer is about as large, and how many of its bytes are JSON.
pub(crate) fn large() -> (Vec<u8>, usize) {
    let (elements, bytes) = (LARGE / 4, LARGE);
    let json = format!(
        r#"{{"parameters":{{"binary_data_output":true}},"inputs":[{{"name":"input","shape":[1,{elements}],"datatype":"FP32","parameters":{{"binary_data_size":{bytes}}}}}]}}"#
    );
    let mut body = json.clone().into_bytes();
    body.resize(json.len() + bytes, 0);
    (body, json.len())
}

/// It takes several times as long as a connection may be idle.
#[test]
fn a_large_answer_that_is_read_slowly_is_not_cut() {
    let server = start_with(MODEL, |net| {
        net.idle_timeout = Duration::from_millis(600);
    });
    let (body, json) = large();
    let mut client = used(&server);
    client.send(format!(
        "POST /v2/models/m/infer HTTP/1.1\r\nhost: {}\r\ncontent-type: application/octet-stream\r\ninference-header-content-length: {json}\r\ncontent-length: {}\r\n\r\n",
        server.address(),
        body.len(),
    ));
    client.send(&body);
    let (mut socket, mut came) = client.into_parts();
    let mut piece = vec![0; 128 * 1024];
    while came.len() < LARGE {
        let count = socket.read(&mut piece).unwrap();
        assert!(count > 0, "cut off after {} bytes", came.len());
        came.extend_from_slice(&piece[..count]);
        sleep(Duration::from_millis(20));
    }
}
