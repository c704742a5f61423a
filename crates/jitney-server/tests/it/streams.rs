//! Any number of results to one request: as server-sent events, and on a WebSocket among those of other requests.

use std::collections::{BTreeSet, HashSet};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use jitney_server::server::Drained;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::handshake::client::{Request, generate_key};
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::support::{Fixture, PATIENCE, start, start_with, wait_until};

const FIVE: &str = "m=echo:FP32[1],results=5";
/// Goes on for longer than any test.
const ENDLESS: &str = "m=echo:FP32[1],results=1000000000,every_ms=1";
/// Fails after two of its four results.
const FAULTY: &str = "m=echo:FP32[1],results=4,faulty=true";
const ITEM: &str = "{\"input\":[1]}";

/// A stream of events as its reader sees it.
struct Reader {
    socket: TcpStream,
    status: u16,
    head: String,
    raw: Vec<u8>,
    text: Vec<u8>,
    ended: bool,
}

fn open(server: &Fixture, path: &str, body: &str) -> Reader {
    let socket = TcpStream::connect(server.address()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        server.address(),
        body.len(),
    );
    (&socket).write_all(request.as_bytes()).unwrap();
    Reader::new(socket)
}

impl Reader {
    fn new(socket: TcpStream) -> Reader {
        let mut reader = Reader {
            socket,
            status: 0,
            head: String::new(),
            raw: Vec::new(),
            text: Vec::new(),
            ended: false,
        };
        let end = loop {
            match find(&reader.raw, b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(reader.fill(), "there is no head"),
            }
        };
        reader.head = String::from_utf8(reader.raw.drain(..end).collect()).unwrap();
        reader.status = reader.head[9..12].parse().unwrap();
        reader
    }

    fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let count = self.socket.read(&mut piece).unwrap_or(0);
        self.raw.extend_from_slice(&piece[..count]);
        count > 0
    }

    /// The lines of the next event; `None` at the end of the body, which is checked to be one.
    fn event(&mut self) -> Option<Vec<String>> {
        loop {
            if let Some(end) = find(&self.text, b"\n\n") {
                let event: Vec<u8> = self.text.drain(..end + 2).collect();
                let event = String::from_utf8(event).unwrap();
                return Some(event.trim_end().lines().map(str::to_owned).collect());
            }
            if self.ended {
                assert_eq!(self.text, b"", "the last event is cut off");
                return None;
            }
            self.chunk();
        }
    }

    fn chunk(&mut self) {
        let end = loop {
            match find(&self.raw, b"\r\n") {
                Some(end) => break end,
                None => assert!(self.fill(), "the body is cut off"),
            }
        };
        let size = str::from_utf8(&self.raw[..end]).unwrap();
        let size = usize::from_str_radix(size, 16).unwrap();
        while self.raw.len() < end + 2 + size + 2 {
            assert!(self.fill(), "a chunk is cut off");
        }
        let chunk: Vec<u8> = self.raw.drain(..end + 2 + size + 2).collect();
        self.text.extend_from_slice(&chunk[end + 2..end + 2 + size]);
        self.ended = size == 0;
    }

    fn data(&mut self) -> Option<Value> {
        let event = self.event()?;
        let data = event.last()?.strip_prefix("data: ")?;
        Some(serde_json::from_str(data).unwrap())
    }

    fn rest(&mut self) -> Vec<Vec<String>> {
        std::iter::from_fn(|| self.event()).collect()
    }

    fn refusal(mut self) -> (u16, String) {
        while find(&self.raw, b"\"}").is_none() && self.fill() {}
        let body: Value = serde_json::from_slice(&self.raw).unwrap();
        (self.status, body["code"].as_str().unwrap().to_owned())
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    memchr::memmem::find(bytes, wanted)
}

#[test]
fn predictions_come_as_events_with_an_end() {
    let server = start(&[FIVE, "one=echo:FP32[1]"]);
    let mut reader = open(&server, "/predict/m/stream", ITEM);
    assert_eq!(reader.status, 200);
    for field in [
        "content-type: text/event-stream",
        "cache-control: no-store",
        "x-accel-buffering: no",
    ] {
        assert!(reader.head.contains(field), "{}", reader.head);
    }
    let mut expected = vec![vec!["data: {\"prediction\":{\"output\":[1.0]}}".to_owned()]; 5];
    expected.push(vec![
        "event: end".to_owned(),
        "data: {\"results\":5}".to_owned(),
    ]);
    assert_eq!(reader.rest(), expected);
    // A model that does not stream has one.
    let mut reader = open(&server, "/predict/one/stream", "[7]");
    assert_eq!(
        reader.data(),
        Some(json!({"prediction": {"output": [7.0]}}))
    );
    assert_eq!(reader.data(), Some(json!({"results": 1})));
    assert_eq!(reader.event(), None);
    let counted = |model: &str| {
        server.scrape(&format!(
            "jitney_requests_total{{model=\"{model}\",version=\"1\",route=\"stream\",code=\"ok\"}}"
        ))
    };
    assert_eq!((counted("m"), counted("one")), (Some(1.0), Some(1.0)));
}

/// How often each part of answered requests has been counted.
fn parts(server: &Fixture) -> [u64; 4] {
    let stats = server.connect().get("/v2/models/m/stats").json();
    let stats = &stats["model_stats"][0]["inference_stats"];
    [
        "success",
        "compute_input",
        "compute_infer",
        "compute_output",
    ]
    .map(|part| stats[part]["count"].as_u64().unwrap())
}

#[test]
fn a_stream_counts_once_in_each_part_of_the_statistics() {
    let server = start(&[FIVE]);
    open(&server, "/predict/m/stream", ITEM).rest();
    open(&server, "/v2/models/m/generate_stream", ITEM).rest();
    assert_eq!(parts(&server), [2; 4]);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        say(&mut socket, &json!({"id": "a", "item": [1]})).await;
        while hear(&mut socket).await["final"] == false {}
    });
    assert_eq!(parts(&server), [3; 4]);
}

#[test]
fn generate_stream_is_tritons() {
    let server = start(&[FIVE]);
    for path in [
        "/v2/models/m/generate_stream",
        "/v2/models/m/versions/1/generate_stream",
    ] {
        let mut reader = open(
            &server,
            path,
            "{\"input\": 1, \"id\": \"x\", \"stream\": true}",
        );
        let event =
            "data: {\"model_name\":\"m\",\"model_version\":\"1\",\"id\":\"x\",\"output\":1.0}";
        assert_eq!(reader.rest(), vec![vec![event.to_owned()]; 5]);
    }
}

#[test]
fn generate_answers_with_exactly_one_result() {
    let server = start(&[
        "one=echo:FP32[1]",
        "first=echo:FP32[1],results=1",
        FIVE,
        "none=echo:FP32[1],results=0",
    ]);
    let ask = |model: &str| {
        let path = format!("/v2/models/{model}/generate");
        server
            .connect()
            .post(&path, "{\"input\": 2.5, \"parameters\": {\"top_p\": 0.5}}")
    };
    for model in ["one", "first"] {
        let answer = ask(model);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let expected = json!({"model_name": model, "model_version": "1", "output": 2.5});
        assert_eq!(answer.json(), expected);
    }
    for model in ["m", "none"] {
        let answer = ask(model);
        assert_eq!((answer.status, &*answer.code()), (400, "invalid_input"));
    }
    server.wait_stats("no stream is left", |stats| stats.running == 0);
}

#[test]
fn the_first_result_decides_about_the_status() {
    let server = start(&[
        "m=echo:FP32[1],results=1,faulty=true",
        "deep=echo:FP32[1],results=1",
    ]);
    for route in ["/predict/m/stream", "/v2/models/m/generate_stream"] {
        let refusal =
            |value: &str| open(&server, route, &format!("{{\"input\":[{value}]}}")).refusal();
        assert_eq!(refusal("-1"), (500, "model_error".to_owned()), "{route}");
        assert_eq!(refusal("-6"), (400, "invalid_input".to_owned()), "{route}");
        assert_eq!(
            refusal("\"a\""),
            (400, "invalid_input".to_owned()),
            "{route}"
        );
        assert_eq!(
            refusal(&"[".repeat(100_000)),
            (400, "invalid_input".to_owned()),
            "{route}"
        );
    }
    let unknown = open(&server, "/predict/x/stream", ITEM).refusal();
    assert_eq!(unknown, (404, "unknown_model".to_owned()));
    let wrong_method = server.connect().get("/predict/m/stream");
    assert_eq!(wrong_method.field("allow"), Some("POST"));
    let untyped = server
        .connect()
        .request("POST", "/predict/m/stream", "", ITEM);
    assert_eq!(untyped.status, 415);
}

#[test]
fn a_failure_in_mid_stream_is_the_last_event() {
    let server = start(&[FAULTY]);
    for (route, failed) in [
        ("/predict/m/stream", 1),
        ("/v2/models/m/generate_stream", 2),
    ] {
        let mut reader = open(&server, route, "{\"input\":[-1]}");
        assert_eq!(reader.status, 200);
        let events = reader.rest();
        assert_eq!(events.len(), 3, "{events:?}");
        assert!(events[2][0].starts_with("data: {\"error\":"), "{events:?}");
        assert!(
            events[2][0].ends_with("\"code\":\"model_error\"}"),
            "{events:?}"
        );
        let counted = "jitney_requests_total{model=\"m\",version=\"1\",route=\"stream\",code=\"model_error\"}";
        assert_eq!(server.scrape(counted), Some(f64::from(failed)));
        // The connection is good for another request.
        let mut client = reader.socket;
        client
            .write_all(format!("GET /v2 HTTP/1.1\r\nhost: {}\r\n\r\n", server.address()).as_bytes())
            .unwrap();
        assert_eq!(Reader::new(client).status, 200);
    }
}

#[test]
fn a_departed_reader_ends_its_stream() {
    let server = start(&[ENDLESS]);
    const READERS: u64 = 20;
    for _ in 0..READERS {
        let mut reader = open(&server, "/predict/m/stream", ITEM);
        assert!(reader.event().is_some());
    }
    server.wait_stats("all streams have ended", |stats| {
        stats.running == 0 && stats.cancelled == READERS
    });
    let counted =
        "jitney_requests_total{model=\"m\",version=\"1\",route=\"stream\",code=\"cancelled\"}";
    wait_until(
        || server.scrape(counted) == Some(READERS as f64),
        || "the requests are counted".to_owned(),
    );
}

#[test]
fn a_slow_reader_slows_its_own_stream_only() {
    let endless = "echo:FP32[2048],results=1000000000";
    let server = start(&[&format!("a={endless}"), &format!("quick={endless}")]);
    let item = format!("[{}]", vec!["0.123456789"; 2048].join(","));
    let slow = open(&server, "/predict/a/stream", &item);
    let mut quick = open(&server, "/predict/quick/stream", &item);
    const READ: u64 = 1000;
    for _ in 0..READ {
        assert!(quick.event().is_some());
    }
    let given = server.scrape("jitney_streamed_results_total{model=\"a\",version=\"1\"}");
    // What its sockets and the connection hold, at more than 20 kB for each.
    assert!(given.unwrap() < 600.0, "{given:?}");
    drop(slow);
    server.wait_stats("it has ended", |stats| stats.cancelled == 1);
}

#[test]
fn a_stream_is_a_request_that_keeps_its_connection() {
    let server = start_with(&["m=echo:FP32[1],results=8,every_ms=50"], |net| {
        net.idle_timeout = Duration::from_millis(20);
    });
    let mut reader = open(&server, "/predict/m/stream", ITEM);
    assert_eq!(reader.rest().len(), 9);
}

#[test]
fn a_connection_that_began_with_a_health_check_streams_too() {
    let server = start(&[FIVE]);
    let mut client = server.connect();
    assert_eq!(client.get("/v2/health/live").status, 200);
    client.begin_post("/predict/m/stream", ITEM);
    let mut reader = Reader::new(client.into_parts().0);
    assert_eq!(reader.rest().len(), 6);
}

#[test]
fn a_drain_ends_streams_with_an_event() {
    let server = start_with(&[ENDLESS], |net| net.drain = Duration::from_millis(100));
    let mut reader = open(&server, "/predict/m/stream", ITEM);
    assert!(reader.event().is_some());
    let (mut busy, mut idle) = server.block_on(async {
        let mut busy = connect(&server, "m").await;
        say(&mut busy, &json!({"id": "a", "item": [1]})).await;
        assert_eq!(hear(&mut busy).await["final"], false);
        (busy, connect(&server, "m").await)
    });
    server.running.drain();
    server.block_on(async {
        assert_eq!(closed(&mut idle).await, Some(1001));
        // New requests are refused, and those that go on are told why they end.
        say(&mut busy, &json!({"id": "b", "item": [1]})).await;
        let (mut first, mut last) = (Value::Null, Value::Null);
        while let Some(Ok(Message::Text(text))) = busy.next().await {
            let answer: Value = serde_json::from_str(&text).unwrap();
            match (answer["id"].as_str(), answer["final"].as_bool()) {
                (Some("b"), _) => first = answer,
                (_, Some(true)) => last = answer,
                _ => (),
            }
        }
        assert_eq!(
            (&first["code"], &first["final"]),
            (&"draining".into(), &true.into())
        );
        assert_eq!(
            (&last["code"], &last["id"]),
            (&"draining".into(), &"a".into())
        );
    });
    let events = reader.rest();
    let last = &events.last().unwrap()[0];
    assert!(last.ends_with("\"code\":\"draining\"}"), "{last}");
    assert_eq!(
        server.block_on(server.running.wait()),
        Ok(Drained { cut: 0, streams: 2 })
    );
}

pub(crate) type Socket = WebSocketStream<tokio::net::TcpStream>;

async fn connect(server: &Fixture, model: &str) -> Socket {
    connect_with(server, model, &[]).await
}

/// Opens a WebSocket by a handshake that has these fields too.
pub(crate) async fn connect_with(server: &Fixture, model: &str, fields: &[(&str, &str)]) -> Socket {
    let request = Request::builder()
        .uri(format!(
            "ws://{}/v2/models/{model}/stream",
            server.address()
        ))
        .header("host", server.address().to_string())
        .header("connection", "keep-alive, Upgrade")
        .header("upgrade", "WebSocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", generate_key());
    let request = fields.iter().fold(request, |request, (name, value)| {
        request.header(*name, *value)
    });
    let request = request.body(()).unwrap();
    let socket = tokio::net::TcpStream::connect(server.address())
        .await
        .unwrap();
    client_async(request, socket).await.unwrap().0
}

pub(crate) async fn say(socket: &mut Socket, message: &Value) {
    let message = Message::text(message.to_string());
    socket.send(message).await.unwrap();
}

pub(crate) async fn hear(socket: &mut Socket) -> Value {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return serde_json::from_str(&text).unwrap(),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => (),
            other => panic!("expected an answer, got {other:?}"),
        }
    }
}

/// The code that the connection is closed with, after whatever else comes.
async fn closed(socket: &mut Socket) -> Option<u16> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
            Some(Ok(_)) => (),
            Some(Err(_)) | None => return None,
        }
    }
}

#[test]
fn requests_on_one_socket_are_answered_by_their_ids() {
    let server = start(&["m=echo:FP32[1],results=3,every_ms=5"]);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        const REQUESTS: usize = 100;
        for at in 0..REQUESTS {
            say(&mut socket, &json!({"id": format!("r{at}"), "item": [at]})).await;
        }
        let mut results = vec![0; REQUESTS];
        let mut orders = HashSet::new();
        let mut last = Vec::new();
        while last.len() < REQUESTS {
            let answer = hear(&mut socket).await;
            let id = answer["id"].as_str().unwrap().to_owned();
            let at: usize = id[1..].parse().unwrap();
            if answer["final"] == true {
                assert_eq!(answer, json!({"id": id, "results": 3, "final": true}));
                last.push(id);
            } else {
                let expected =
                    json!({"prediction": {"output": [at as f64]}, "id": id, "final": false});
                assert_eq!(answer, expected);
                results[at] += 1;
                orders.insert(at);
            }
        }
        assert_eq!(results, vec![3; REQUESTS]);
        assert_eq!(orders.len(), REQUESTS);
        socket.close(None).await.unwrap();
        assert_eq!(closed(&mut socket).await, Some(1000));
    });
    server.wait_stats("none is left", |stats| {
        stats.running == 0 && stats.ok == 100
    });
}

#[test]
fn all_forms_are_spoken_on_one_socket() {
    let server = start(&["m=echo:FP32[2],faulty=true"]);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        let tensor = json!({"name": "input", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
        say(&mut socket, &json!({"id": "a", "inputs": [tensor]})).await;
        let answered = json!({"name": "output", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]});
        let expected = json!({"model_name": "m", "model_version": "1", "id": "a", "outputs": [answered], "final": true});
        assert_eq!(hear(&mut socket).await, expected);

        let tensor = json!({"name": "input", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}});
        let head = json!({"id": "b", "inputs": [tensor], "parameters": {"binary_data_output": true}}).to_string();
        let raw: Vec<u8> = [3.0_f32, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        let length = (head.len() as u32).to_le_bytes();
        let message = [&length, head.as_bytes(), &raw].concat();
        socket.send(Message::binary(message)).await.unwrap();
        let Some(Ok(Message::Binary(answer))) = socket.next().await else {
            panic!("expected raw tensors");
        };
        let json_end = 4 + u32::from_le_bytes(answer[..4].try_into().unwrap()) as usize;
        let head: Value = serde_json::from_slice(&answer[4..json_end]).unwrap();
        assert_eq!((&head["id"], &head["final"]), (&"b".into(), &true.into()));
        assert_eq!(answer[json_end..], raw);

        // What is wrong with a message ends nothing but its request.
        for (message, id, code) in [
            (json!({"id": "c", "item": [-1, 0]}), json!("c"), "model_error"),
            (json!({"id": "c", "item": [1]}), json!("c"), "invalid_input"),
            (json!({"item": [1, 2]}), Value::Null, "invalid_input"),
            (json!([]), Value::Null, "invalid_input"),
        ] {
            say(&mut socket, &message).await;
            let answer = hear(&mut socket).await;
            assert_eq!((&answer["id"], answer["code"].as_str()), (&id, Some(code)));
            assert_eq!(answer["final"].as_bool(), id.is_string().then_some(true));
        }
        for deep in [500, 100_000, 1_000_000] {
            let text = format!("{{\"id\": \"d\", \"item\": {}", "[".repeat(deep));
            socket.send(Message::text(text)).await.unwrap();
            assert_eq!(hear(&mut socket).await["code"], "invalid_input");
        }
        socket.send(Message::binary(vec![1, 2, 3])).await.unwrap();
        assert_eq!(hear(&mut socket).await["code"], "invalid_input");
        say(&mut socket, &json!({"id": "e", "item": [5, 6]})).await;
        let expected = json!({"prediction": {"output": [5.0, 6.0]}, "id": "e", "final": true});
        assert_eq!(hear(&mut socket).await, expected);
    });
}

#[test]
fn a_request_can_be_cancelled_and_its_id_used_again() {
    let server = start(&[ENDLESS]);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        for round in 1..=3 {
            say(&mut socket, &json!({"id": "a", "item": [1]})).await;
            assert_eq!(hear(&mut socket).await["final"], false);
            say(&mut socket, &json!({"id": "a", "item": [1]})).await;
            say(&mut socket, &json!({"cancel": "a"})).await;
            // Nobody has this one, which may be since it has just ended.
            say(&mut socket, &json!({"cancel": "b"})).await;
            let mut twice = 0;
            loop {
                let answer = hear(&mut socket).await;
                if answer["final"] == true {
                    assert_eq!(
                        (&answer["id"], &answer["code"]),
                        (&"a".into(), &"cancelled".into())
                    );
                    break;
                }
                twice += usize::from(answer["code"] == "invalid_input" && answer["id"].is_null());
            }
            assert_eq!(twice, 1, "round {round}");
        }
        drop(socket);
    });
    server.wait_stats("all have ended", |stats| {
        stats.running == 0 && stats.cancelled == 3
    });
}

#[test]
fn a_departed_client_takes_its_requests_with_it() {
    let server = start(&[ENDLESS]);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        for id in ["a", "b", "c"] {
            say(&mut socket, &json!({"id": id, "item": [1]})).await;
        }
        let mut heard = BTreeSet::new();
        while heard.len() < 3 {
            heard.insert(hear(&mut socket).await["id"].to_string());
        }
    });
    server.wait_stats("all have ended", |stats| {
        stats.running == 0 && stats.cancelled == 3
    });
}

#[test]
fn requests_beyond_the_limit_wait_unread() {
    let server = start_with(&[ENDLESS], |net| net.max_streams = 2);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        for id in ["a", "b", "c", "d"] {
            say(&mut socket, &json!({"id": id, "item": [1]})).await;
        }
        let mut heard = BTreeSet::new();
        for _ in 0..50 {
            heard.insert(hear(&mut socket).await["id"].as_str().unwrap().to_owned());
        }
        assert_eq!(heard.into_iter().collect::<Vec<_>>(), ["a", "b"]);
    });
    assert_eq!(server.stats().received, 2);
}

#[test]
fn a_client_that_does_not_read_stops_its_requests() {
    let server = start(&["m=echo:FP32[2048],results=1000000000"]);
    let socket = server.block_on(async {
        let mut socket = connect(&server, "m").await;
        say(
            &mut socket,
            &json!({"id": "a", "item": vec![0.123_456_789; 2048]}),
        )
        .await;
        assert_eq!(hear(&mut socket).await["final"], false);
        socket
    });
    let given = || server.scrape("jitney_streamed_results_total{model=\"m\",version=\"1\"}");
    // It stops by itself, at what the sockets between them hold.
    let stopped = || {
        let before = given();
        std::thread::sleep(Duration::from_millis(100));
        before == given()
    };
    wait_until(stopped, || format!("it stops, but gave {:?}", given()));
    assert!(given().unwrap() < 600.0, "{:?}", given());
    drop(socket);
    server.wait_stats("it has ended", |stats| stats.running == 0);
}

/// A connection after its handshake, for frames that no client library writes.
fn upgraded(server: &Fixture) -> TcpStream {
    let mut client = server.connect();
    client.begin("GET", "/v2/models/m/stream", HANDSHAKE, "");
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 101);
    let accept = answer.field("sec-websocket-accept");
    assert_eq!(accept, Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client.into_parts().0
}

const HANDSHAKE: &str = "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

#[test]
fn what_no_client_may_send_closes_the_connection_with_a_code() {
    let server = start_with(&[FIVE], |net| net.max_body_bytes = 1000);
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    let rows: &[(&str, Vec<u8>, u16)] = &[
        ("unmasked", vec![0x81, 0x02, b'h', b'i'], 1002),
        ("a reserved bit", vec![0xc1, 0x80, 0, 0, 0, 0], 1002),
        ("a fragmented ping", vec![0x09, 0x80, 0, 0, 0, 0], 1002),
        ("an unknown opcode", vec![0x83, 0x80, 0, 0, 0, 0], 1002),
        (
            "65 MiB, announced",
            vec![0x82, 0xff, 0, 0, 0, 0, 4, 0x10, 0, 0],
            1009,
        ),
        ("bad UTF-8", vec![0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),
        ("a flood of pings", ping.repeat(1000), 1002),
        ("a close", vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8], 1000),
        (
            "a close that says nothing",
            vec![0x88, 0x80, 0, 0, 0, 0],
            1000,
        ),
        (
            "a close with a code of the client's",
            vec![0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa0],
            4000,
        ),
        (
            "a close with a wrong code",
            vec![0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed],
            1002,
        ),
    ];
    for (what, bytes, code) in rows {
        let mut socket = upgraded(&server);
        socket.write_all(bytes).unwrap();
        let begun = std::time::Instant::now();
        let frame = read_close(&mut socket);
        assert_eq!(frame, Some(*code), "{what}");
        assert!(begun.elapsed() < Duration::from_secs(1), "{what}");
        // And then it is closed, without a reset that would destroy what was written.
        assert_eq!(socket.read(&mut [0; 64]).unwrap(), 0, "{what}");
    }
    server.wait_stats("nothing was run", |stats| stats.received == 0);
}

/// Reads over pings and pongs to the close frame.
fn read_close(socket: &mut TcpStream) -> Option<u16> {
    read_close_behind(Vec::new(), socket)
}

fn read_close_behind(mut bytes: Vec<u8>, socket: &mut TcpStream) -> Option<u16> {
    let mut piece = [0; 4096];
    loop {
        while let [first, length, ..] = bytes[..] {
            let whole = 2 + usize::from(length);
            if bytes.len() < whole {
                break;
            }
            if first == 0x88 {
                return Some(u16::from_be_bytes([bytes[2], bytes[3]]));
            }
            assert!(matches!(first, 0x89 | 0x8a), "{first:#x}");
            bytes.drain(..whole);
        }
        match socket.read(&mut piece).unwrap() {
            0 => return None,
            count => bytes.extend_from_slice(&piece[..count]),
        }
    }
}

#[test]
fn handshakes_that_are_none_are_refused() {
    let server = start_with(&[FIVE], |net| net.max_header_bytes = 8192);
    let without = |line: &str| HANDSHAKE.replace(line, "");
    let with = |line: &str, instead: &str| HANDSHAKE.replace(line, instead);
    let version = "sec-websocket-version: 13\r\n";
    let key = "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let endless = format!("{HANDSHAKE}x: {}\r\n", "a".repeat(9000));
    let rows = [
        ("", "/v2/models/m/stream", 426),
        (
            &*without("connection: upgrade\r\n"),
            "/v2/models/m/stream",
            426,
        ),
        (
            &with("upgrade: websocket", "upgrade: h2c"),
            "/v2/models/m/stream",
            426,
        ),
        (
            &with(version, "sec-websocket-version: 8\r\n"),
            "/v2/models/m/stream",
            426,
        ),
        (&with(version, ""), "/v2/models/m/stream", 426),
        (&with(key, ""), "/v2/models/m/stream", 400),
        (
            &with(key, "sec-websocket-key: short\r\n"),
            "/v2/models/m/stream",
            400,
        ),
        (&format!("{HANDSHAKE}{key}"), "/v2/models/m/stream", 400),
        (
            &format!("{HANDSHAKE}content-length: 1\r\n"),
            "/v2/models/m/stream",
            400,
        ),
        (
            &format!("{HANDSHAKE}origin: http://evil.example\r\n"),
            "/v2/models/m/stream",
            403,
        ),
        (
            &format!("{HANDSHAKE}origin: null\r\n"),
            "/v2/models/m/stream",
            403,
        ),
        (HANDSHAKE, "/v2/models/x/stream", 404),
        (HANDSHAKE, "/v2/models/m/versions/7/stream", 404),
        (&*endless, "/v2/models/m/stream", 431),
    ];
    for (fields, path, status) in rows {
        let answer = server.connect().request("GET", path, fields, "");
        assert_eq!(answer.status, status, "{path} {fields:?}");
        if status == 426 {
            assert_eq!(answer.field("sec-websocket-version"), Some("13"));
            assert_eq!(answer.field("upgrade"), Some("websocket"));
        }
    }
    let post = server.connect().post("/v2/models/m/stream", "{}");
    assert_eq!(post.status, 405);
    let head = server
        .connect()
        .request("HEAD", "/v2/models/m/stream", HANDSHAKE, "");
    assert_eq!(head.status, 426);
}

#[test]
fn pings_are_answered_and_a_silent_client_is_pinged_and_given_up() {
    let server = start_with(&[FIVE], |net| net.idle_timeout = Duration::from_millis(800));
    server.block_on(async {
        // This client answers pings, and so stays.
        let mut socket = connect(&server, "m").await;
        socket
            .send(Message::Ping(Bytes::from_static(b"hello")))
            .await
            .unwrap();
        let mut pings = 0;
        while pings < 2 {
            match socket.next().await {
                Some(Ok(Message::Pong(payload))) => assert_eq!(payload, "hello"),
                Some(Ok(Message::Ping(_))) => pings += 1,
                other => panic!("{other:?}"),
            }
        }
        say(&mut socket, &json!({"id": "a", "item": [1]})).await;
        assert_eq!(hear(&mut socket).await["id"], "a");
    });
    let mut silent = upgraded(&server);
    let mut bytes = Vec::new();
    silent.read_to_end(&mut bytes).unwrap();
    assert!(bytes.starts_with(&[0x89, 0]), "{bytes:?}");
}

#[test]
fn a_message_must_come_at_some_pace() {
    let server = start_with(&[FIVE], |net| {
        net.body_timeout = Duration::from_millis(50);
    });
    let mut socket = upgraded(&server);
    socket
        .write_all(&[0x81, 0xfe, 0x01, 0, 0, 0, 0, 0, b'{'])
        .unwrap();
    assert_eq!(read_close(&mut socket), Some(1008));
}

#[test]
fn messages_count_as_bytes_in_flight() {
    let server = start_with(&[FIVE], |net| net.max_inflight_bytes = 10_000);
    let mut socket = upgraded(&server);
    let mut frame = vec![0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    frame.extend(vec![b' '; 20_000]);
    socket.write_all(&frame).unwrap();
    assert_eq!(read_close(&mut socket), Some(1013));
}

/// While it is taken in its bytes are those of its request, and no more those of a message on its way.
#[test]
fn a_message_counts_once() {
    let server = start_with(&[FIVE], |net| net.max_inflight_bytes = 10_000);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        for id in ["first", "second"] {
            let padding = " ".repeat(9_000);
            let message = format!("{{\"id\":\"{id}\",\"item\":[1]{padding}}}");
            socket.send(Message::text(message)).await.unwrap();
            for _ in 0..5 {
                let answer = hear(&mut socket).await;
                assert_eq!(answer["prediction"]["output"], json!([1.0]), "{answer}");
            }
            let last = hear(&mut socket).await;
            assert_eq!(last, json!({"id": id, "results": 5, "final": true}));
        }
    });
}

#[test]
fn a_connection_that_began_with_a_health_check_is_upgraded_too() {
    let server = start(&[FIVE]);
    let mut client = server.connect();
    assert_eq!(client.get("/v2/health/live").status, 200);
    client.begin("GET", "/v2/models/m/stream", HANDSHAKE, "");
    assert_eq!(client.answer().unwrap().status, 101);
    let mut socket = client.into_parts().0;
    socket.write_all(&[0x88, 0x80, 0, 0, 0, 0]).unwrap();
    assert_eq!(read_close(&mut socket), Some(1000));
}

#[test]
fn frames_before_the_answer_to_the_handshake_are_refused() {
    let server = start(&[FIVE]);
    let host = server.address();
    let mut client = server.connect();
    let head = format!("GET /v2/models/m/stream HTTP/1.1\r\nhost: {host}\r\n{HANDSHAKE}\r\n");
    client.send([head.as_bytes(), &[0x81, 0x80, 0, 0, 0, 0]].concat());
    assert_eq!(client.answer().unwrap().status, 101);
    let (mut socket, read) = client.into_parts();
    assert_eq!(read_close_behind(read, &mut socket), Some(1002));
}

#[test]
fn the_clients_own_library_sees_codes_and_reasons() {
    let server = start_with(&[FIVE], |net| net.max_body_bytes = 1000);
    server.block_on(async {
        let mut socket = connect(&server, "m").await;
        let large = Message::text("a".repeat(1001));
        socket.send(large).await.unwrap();
        match socket.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Size),
            other => panic!("{other:?}"),
        }
        match socket.next().await {
            None | Some(Err(Error::ConnectionClosed)) => (),
            other => panic!("{other:?}"),
        }
    });
}
