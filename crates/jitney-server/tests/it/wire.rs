//! What is not plainly one HTTP/1.1 request is refused, and nothing behind it is read.

use std::time::Duration;

use crate::support::{start, start_with};

const MODEL: &[&str] = &["m=echo:FP32[1]"];
const PREDICT: &str = "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ncontent-type: application/json\r\ncontent-length: 13\r\n\r\n{\"input\":[1]}";

#[test]
fn ambiguous_requests_are_refused_and_what_is_pipelined_behind_them_never_runs() {
    let server = start(MODEL);
    let host = server.address().to_string();
    let rows = [
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ncontent-length: 4\r\ncontent-length: 5\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ncontent-length: 4\r\ncontent-length: 4\r\n\r\nabcd",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ncontent-length: +5\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\ntransfer-encoding: identity\r\n\r\n",
        "POST /predict/m HTTP/1.0\r\nhost: HOST\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost : HOST\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\n\thost: HOST\r\n\r\n",
        "POST /predict/m HTTP/1.1\r\nhost: HOST\r\nx: a\r\n b\r\n\r\n",
        "GET /v2 HTTP/1.1\nhost: HOST\n\n",
        "GET /v2 HTTP/1.1\r\nhost: HOST\r\nx: a\rb\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nhost: HOST\r\nx: a\0b\r\n\r\n",
        "GET /v2 HTTP/1.1\r\nhost: HOST\r\nhost: HOST\r\n\r\n",
        "GET /v2 HTTP/1.1\r\n\r\n",
        "GET /v2/health/live HTTP/1.1\r\n\r\n",
    ];
    for row in rows {
        let mut client = server.connect();
        client.send(format!("{row}{PREDICT}").replace("HOST", &host));
        let answer = client
            .answer()
            .unwrap_or_else(|| panic!("no answer to {row:?}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (400, "invalid_input"),
            "{row:?}"
        );
        assert_eq!(answer.field("connection"), Some("close"), "{row:?}");
        assert!(client.is_closed(), "{row:?}");
    }
    assert_eq!(server.stats().received, 0);
}

#[test]
fn requests_before_a_bad_one_are_answered_first() {
    let server = start(MODEL);
    let good = PREDICT.replace("HOST", &server.address().to_string());
    let mut client = server.connect();
    client.send(format!("{good}{good}GET / HTTP/1.1\n\n"));
    let statuses = [(); 3].map(|()| client.answer().unwrap().status);
    assert_eq!(statuses, [200, 200, 400]);
    assert!(client.is_closed());
}

#[test]
fn a_request_in_any_pieces_is_read() {
    let server = start(MODEL);
    let request = PREDICT.replace("HOST", &server.address().to_string());
    for size in [1, 7, 24, 100] {
        let mut client = server.connect();
        for piece in request.as_bytes().chunks(size) {
            client.send(piece);
        }
        assert_eq!(client.answer().unwrap().status, 200, "pieces of {size}");
    }
}

#[test]
fn chunked_bodies_are_read_and_broken_ones_refused() {
    let server = start(MODEL);
    let fields = "content-type: application/json\r\ntransfer-encoding: chunked\r\n";
    let rows = [
        (
            "5\r\n{\"inp\r\n8;x=y\r\nut\":[1]}\r\n0\r\nt: v\r\n\r\n",
            200,
        ),
        ("5\r\n{\"inp\n8\r\nut\":[1]}\r\n0\r\n\r\n", 400),
        ("5\r\n{\"inpXX", 400),
        ("zz\r\n", 400),
    ];
    for (body, status) in rows {
        let answer = server.connect().request("POST", "/predict/m", fields, body);
        assert_eq!(answer.status, status, "{body:?}: {answer:?}");
    }
    assert_eq!(server.stats().received, 1);
}

#[test]
fn heads_are_bounded() {
    let server = start(MODEL);
    let long = format!("x: {}\r\n", "a".repeat(1024 * 1024));
    let many = "x: a\r\n".repeat(5000);
    for fields in [long, many] {
        let mut client = server.connect();
        let answer = client.request("GET", "/v2", &fields, "");
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (431, "headers_too_large")
        );
        assert!(client.is_closed());
    }
}

#[test]
fn slow_heads_are_closed() {
    let server = start_with(MODEL, |net| {
        net.header_timeout = Duration::from_millis(100);
    });
    let host = server.address();
    for head in [
        "P",
        "GET /v2 HTTP/1.1\r\nhost:",
        "PRI * HTTP/2.0\r\n",
        "GET /v2/health/live HTTP/1.1\r\n",
    ] {
        let mut client = server.connect();
        let answer = client
            .send(head)
            .answer()
            .unwrap_or_else(|| panic!("{head:?}"));
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (408, "request_timeout"),
            "{head:?}"
        );
        assert!(client.is_closed(), "{head:?}");
    }
    assert!(server.connect().is_closed(), "a silent connection");
    let mut client = server.connect();
    assert_eq!(client.get("/v2").status, 200);
    let answer = client
        .send(format!("GET /v2 HTTP/1.1\r\nhost: {host}\r\n"))
        .answer();
    assert_eq!(answer.unwrap().status, 408, "a later request");
}

#[test]
fn slow_bodies_are_refused() {
    let server = start_with(MODEL, |net| {
        net.body_timeout = Duration::from_millis(100);
    });
    let mut client = server.connect();
    client.begin(
        "POST",
        "/predict/m",
        "content-type: application/json\r\ncontent-length: 13\r\n",
        "{\"inp",
    );
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (408, "request_timeout")
    );
    assert!(client.is_closed());
}

#[test]
fn idle_connections_are_closed() {
    let server = start_with(MODEL, |net| {
        net.idle_timeout = Duration::from_millis(50);
    });
    let mut client = server.connect();
    assert_eq!(client.get("/v2").status, 200);
    assert!(client.is_closed());
}

#[test]
fn connections_are_kept_and_pipelines_answered_in_order() {
    let server = start(MODEL);
    let mut client = server.connect();
    for item in [
        "{\"input\":[1]}",
        "{\"input\":[2]}",
        "nonsense",
        "{\"input\":[3]}",
    ] {
        client.begin_post("/predict/m", item);
    }
    let answers = [(); 4].map(|()| client.answer().unwrap());
    assert_eq!(answers.map(|answer| answer.status), [200, 200, 400, 200]);
}

#[test]
fn what_is_refused_by_its_head_takes_its_body_along() {
    let server = start(MODEL);
    let (mut client, mut other) = (server.connect(), server.connect());
    for (path, status) in [
        ("/nowhere", 404),
        ("/predict/none", 404),
        ("/v2/health/live", 405),
    ] {
        for body in ["9", "GET / HTTP/1.1\r\n\r\n"] {
            let fields = format!(
                "content-type: application/json\r\ncontent-length: {}\r\n",
                body.len()
            );
            client.begin("POST", path, &fields, "");
            // The head is judged by now, most of the times.
            assert_eq!(other.get("/v2").status, 200);
            let answer = client.send(body).answer().unwrap();
            assert_eq!((answer.status, answer.field("connection")), (status, None));
        }
    }
    assert_eq!(client.post("/predict/m", "{\"input\":[1]}").status, 200);
    // What would be long in coming is not waited for, and that the connection ends is said.
    let long = "content-type: application/json\r\ncontent-length: 2000000\r\n";
    client.begin("POST", "/nowhere", long, "");
    let answer = client.answer().unwrap();
    assert_eq!(
        (answer.status, answer.field("connection")),
        (404, Some("close"))
    );
}

#[test]
fn http10_is_answered_and_closed() {
    let server = start(MODEL);
    let mut client = server.connect();
    client.send("GET /v2/health/live HTTP/1.0\r\n\r\n");
    assert_eq!(client.answer().unwrap().status, 200);
    assert!(client.is_closed());
}
