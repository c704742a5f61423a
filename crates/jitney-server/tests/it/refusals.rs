//! Every refusal has its status, its code, and a JSON body.

use jitney_server::access::Secret;
use jitney_server::config::{Key, Scope};

use crate::support::{start, start_with};

const MODEL: &[&str] = &["m=echo:FP32[1]"];
const JSON: &str = "content-type: application/json\r\n";
const ITEM: &str = "{\"input\":[1]}";

#[test]
fn routes_methods_and_heads() {
    let server = start(MODEL);
    let long_name = format!("/predict/{}", "a".repeat(300));
    let rows: &[(&str, &str, &str, &str, u16, &str)] = &[
        ("GET", "/nowhere", "", "", 404, "not_found"),
        ("POST", "/predict/none", JSON, ITEM, 404, "unknown_model"),
        ("POST", "/predict/..", JSON, ITEM, 404, "unknown_model"),
        ("POST", "/predict/%2e%2e%2fm", JSON, ITEM, 404, "not_found"),
        ("POST", "/predict/%00", JSON, ITEM, 404, "unknown_model"),
        ("POST", "/predict/a/b", JSON, ITEM, 404, "not_found"),
        ("POST", &long_name, JSON, ITEM, 404, "unknown_model"),
        (
            "POST",
            "/v2/models/m/versions/-1/infer",
            JSON,
            ITEM,
            404,
            "unknown_model",
        ),
        ("GET", "/v2/models/none", "", "", 404, "unknown_model"),
        ("GET", "/v2/models/none/ready", "", "", 404, "unknown_model"),
        ("GET", "/predict/m", "", "", 405, "method_not_allowed"),
        ("DELETE", "/v2/models/m", "", "", 405, "method_not_allowed"),
        (
            "POST",
            "/v2/health/live",
            JSON,
            ITEM,
            405,
            "method_not_allowed",
        ),
        ("TRACE", "/", "", "", 405, "method_not_allowed"),
        (
            "CONNECT",
            "example.org:443",
            "",
            "",
            405,
            "method_not_allowed",
        ),
        ("OPTIONS", "*", "", "", 404, "not_found"),
        (
            "POST",
            "/predict/m",
            "",
            ITEM,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: text/plain\r\n",
            ITEM,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/x-www-form-urlencoded\r\n",
            ITEM,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/x-ndjson\r\n",
            ITEM,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/json\r\ncontent-encoding: br\r\n",
            ITEM,
            415,
            "unsupported_media_type",
        ),
        (
            "POST",
            "/v2/models/m/infer",
            "content-type: application/json\r\ninference-header-content-length: 5\r\n",
            ITEM,
            400,
            "invalid_input",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/json\r\nx-request-timeout-ms: soon\r\n",
            ITEM,
            400,
            "invalid_input",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/json\r\norigin: http://evil.example\r\n",
            ITEM,
            403,
            "forbidden",
        ),
        (
            "POST",
            "/predict/m",
            "content-type: application/json\r\norigin: null\r\n",
            ITEM,
            403,
            "forbidden",
        ),
        ("POST", "/predict/m", JSON, "", 400, "invalid_input"),
        ("POST", "/predict/m", JSON, "{", 400, "invalid_input"),
        (
            "POST",
            "/predict/m",
            JSON,
            "{\"input\":[1,2]}",
            400,
            "invalid_input",
        ),
        ("POST", "/predict/m/batch", JSON, "{}", 400, "invalid_input"),
        (
            "POST",
            "/v2/models/m/infer",
            JSON,
            "[]",
            400,
            "invalid_input",
        ),
    ];
    for (method, path, fields, body, status, code) in rows {
        let answer = server.connect().request(method, path, fields, body);
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (*status, *code),
            "{method} {path} {fields:?}"
        );
        assert_eq!(
            answer.field("allow").is_some(),
            answer.status == 405,
            "{method} {path}"
        );
    }
    assert_eq!(server.stats().received, 0);
}

#[test]
fn a_wrong_method_is_told_the_right_ones() {
    let server = start(MODEL);
    assert_eq!(
        server.connect().get("/predict/m").field("allow"),
        Some("POST")
    );
    assert_eq!(
        server.connect().post("/metrics", "{}").field("allow"),
        Some("GET, HEAD")
    );
}

#[test]
fn other_host_names_are_misdirected() {
    let server = start(MODEL);
    let port = server.address().port();
    let rows = [
        (format!("localhost:{port}"), 200),
        (format!("[::1]:{port}"), 200),
        (format!("127.0.0.1:{port}"), 200),
        (format!("evil.example:{port}"), 421),
        ("localhost".to_owned(), 200),
        ("localhost:1".to_owned(), 421),
        (String::new(), 421),
    ];
    for path in ["/v2", "/v2/health/live"] {
        for (host, status) in &rows {
            let mut client = server.connect();
            client.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n"));
            assert_eq!(client.answer().unwrap().status, *status, "{path} {host:?}");
        }
    }
    let mut client = server.connect();
    client.send(format!(
        "GET http://evil.example/v2 HTTP/1.1\r\nhost: localhost:{port}\r\n\r\n"
    ));
    assert_eq!(client.answer().unwrap().status, 421);
}

#[test]
fn large_bodies_are_refused_before_they_are_read() {
    let server = start_with(MODEL, |net| {
        net.max_body_bytes = 1000;
    });
    let mut client = server.connect();
    client.begin(
        "POST",
        "/predict/m",
        "content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 1001\r\n",
        "",
    );
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    assert!(client.is_closed());
}

/// Whoever asks before sending a body is not told to send it by an answer that does not depend on it.
#[test]
fn a_body_that_is_held_back_is_not_asked_for_by_a_refusal() {
    let key = |secret: &Secret| Key {
        name: "k".to_owned(),
        digest: secret.digest(),
        scopes: vec![Scope::Infer],
        models: None,
    };
    let secret = Secret::generate().unwrap();
    let server = start_with(MODEL, |net| {
        net.keys = vec![key(&secret)];
        net.max_inflight_bytes = 20;
    });
    let with_key = format!("authorization: Bearer {}\r\n", secret.reveal());
    const LENGTH: &str = "content-length: 13";
    const CHUNKED: &str = "transfer-encoding: chunked";
    let rows = [
        ("", LENGTH, "/predict/m", 401, "unauthenticated"),
        ("", CHUNKED, "/predict/m", 401, "unauthenticated"),
        (&*with_key, LENGTH, "/predict/nobody", 404, "unknown_model"),
        (&*with_key, CHUNKED, "/predict/nobody", 404, "unknown_model"),
        (&*with_key, LENGTH, "/nowhere", 404, "not_found"),
        (
            &*with_key,
            "content-length: 21",
            "/predict/m",
            429,
            "overloaded",
        ),
    ];
    for (key, length, path, status, code) in rows {
        let fields =
            format!("content-type: application/json\r\nexpect: 100-continue\r\n{length}\r\n{key}");
        let mut client = server.connect();
        client.begin("POST", path, &fields, "");
        let answer = client.answer().unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
        assert_eq!(answer.field("connection"), Some("close"), "{path}");
        assert!(client.is_closed());
    }
}

#[test]
fn large_chunked_bodies_are_refused_at_the_limit() {
    let server = start_with(MODEL, |net| {
        net.max_body_bytes = 1000;
    });
    let mut client = server.connect();
    client.begin(
        "POST",
        "/predict/m",
        "content-type: application/json\r\ntransfer-encoding: chunked\r\n",
        "",
    );
    // The client goes on sending while it is refused, and still gets to read why.
    let chunk = format!("400\r\n{}\r\n", " ".repeat(1024));
    for _ in 0..512 {
        client.send(&chunk);
    }
    let answer = client
        .answer()
        .expect("the answer survives what was sent behind it");
    assert_eq!((answer.status, answer.code().as_str()), (413, "too_large"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_body_is_asked_for_when_it_is_wanted() {
    let server = start(MODEL);
    let mut client = server.connect();
    client.begin(
        "POST",
        "/predict/m",
        "content-type: application/json\r\nexpect: 100-continue\r\ncontent-length: 13\r\n",
        "",
    );
    assert_eq!(client.answer().unwrap().status, 100);
    assert_eq!(client.send(ITEM).answer().unwrap().status, 200);
}

#[test]
fn request_ids_are_echoed_when_harmless() {
    let server = start(MODEL);
    for (id, echoed) in [("abc-1", Some("abc-1")), ("a b", None), ("\x1b[31m", None)] {
        let fields = format!("x-request-id: {id}\r\n");
        let mut client = server.connect();
        client.begin("GET", "/nowhere", &fields, "");
        let answer = client.answer().unwrap();
        assert_eq!(answer.field("x-request-id"), echoed, "{id:?}: {answer:?}");
    }
}
