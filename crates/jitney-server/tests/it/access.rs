//! Who may do what: over every route, every method, and every trick that makes two readers of a path disagree.

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::Full;
use jitney_server::access::Secret;
use jitney_server::config::{Key, NetConfig, Scope};
use jitney_server::server::{Server, StartError};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::http2::with_connection;
use crate::support::{Answer, Client, Fixture, start, start_with};

const MODELS: &[&str] = &["a=echo:FP32[1]", "other=echo:FP32[1]"];
const METHODS: [&str; 9] = [
    "GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW",
];
const OPEN: [&str; 5] = ["/v2/health/live", "/v2/health/ready", "/ping", "/", "/docs"];
const JSON: &str = "content-type: application/json\r\n";
const ITEM: &str = "{\"input\":[1]}";

struct Keyed {
    server: Fixture,
    infer: Secret,
    only_a: Secret,
    admin: Secret,
}

fn keyed() -> Keyed {
    let [infer, only_a, admin] = [(); 3].map(|()| Secret::generate().unwrap());
    let keys = vec![
        key("infer", &infer, Scope::Infer, None),
        key("a", &only_a, Scope::Infer, Some(vec!["a".to_owned()])),
        key("admin", &admin, Scope::Admin, None),
    ];
    Keyed {
        server: start_with(MODELS, |net| net.keys = keys),
        infer,
        only_a,
        admin,
    }
}

fn key(name: &str, secret: &Secret, scope: Scope, models: Option<Vec<String>>) -> Key {
    Key {
        name: name.to_owned(),
        digest: secret.digest(),
        scopes: vec![scope],
        models,
    }
}

fn bearer(secret: &Secret) -> String {
    format!("authorization: Bearer {}\r\n", secret.reveal())
}

impl Keyed {
    fn get(&self, secret: &Secret, path: &str) -> Answer {
        let mut client = self.server.connect();
        client.request("GET", path, &bearer(secret), "")
    }

    fn post(&self, secret: &Secret, path: &str, body: &str) -> Answer {
        let fields = format!("{JSON}{}", bearer(secret));
        self.server.connect().request("POST", path, &fields, body)
    }
}

/// Every path that the router knows, read from its own text, so that none can be forgotten here.
fn paths() -> Vec<String> {
    let router = include_str!("../../src/net/router.rs");
    let (_, table) = router.split_once("fn resource(segments)").unwrap();
    let (of_server, of_model) = table.split_once("fn model_resource").unwrap();
    let tails = patterns(of_model);
    let mut paths = Vec::new();
    for pattern in patterns(of_server) {
        match pattern.split_last() {
            Some((last, head)) if last.starts_with("ref ") => {
                paths.extend(tails.iter().map(|tail| path(&[head, tail].concat())));
            }
            _ => paths.push(path(&pattern)),
        }
    }
    paths
}

/// The patterns of a `match` on the segments of a path.
fn patterns(source: &str) -> Vec<Vec<&str>> {
    let arms = source.lines().filter_map(|line| line.split_once(" =>"));
    let arms = arms.map(|(arm, _)| arm.trim());
    arms.filter(|arm| arm.starts_with('['))
        .flat_map(|arm| arm.split(" | "))
        .map(|arm| {
            let inside = arm.split_once('[').unwrap().1.split_once(']').unwrap().0;
            inside.split(", ").filter(|part| !part.is_empty()).collect()
        })
        .collect()
}

fn path(pattern: &[&str]) -> String {
    let segments = pattern.iter().map(|part| match *part {
        "service" => "inference.GRPCInferenceService",
        "method" => "ModelInfer",
        "version" => "1",
        "name" | "repository" => "a",
        literal => literal.trim_matches('"'),
    });
    segments.fold(String::new(), |path, segment| path + "/" + segment)
}

#[test]
fn the_paths_of_the_router_are_found() {
    let paths = paths();
    for expected in [
        "/",
        "/metrics",
        "/debug/tree",
        "/predict/a/batch",
        "/v2",
        "/v2/",
        "/v2/models/a",
        "/v2/models/a/infer",
        "/v2/models/a/versions/1/infer",
        "/v2/models/a/versions/1/stream",
        "/v2/repository/models/a/load",
        "/v2/repository/a/models/a/unload",
        "/inference.GRPCInferenceService/ModelInfer",
    ] {
        assert!(
            paths.iter().any(|path| path == expected),
            "{expected} is not in {paths:?}"
        );
    }
    assert!(paths.len() > 40, "{paths:?}");
}

/// The ways in which a path was written elsewhere so that the one who checks it and the one who serves it read it differently.
fn disguises(path: &str, host: &str) -> Vec<(String, String)> {
    let escaped = path.replacen('/', "/%2f", 1);
    let double = path.replace('/', "//");
    let unneeded = |byte: u8| match byte {
        b'/' => "/".to_owned(),
        byte => format!("%{byte:02x}"),
    };
    let unneeded: String = path.bytes().map(unneeded).collect();
    let target = |target: String| (target, format!("host: {host}\r\n"));
    let field = |field: &str| (path.to_owned(), format!("host: {host}\r\n{field}\r\n"));
    vec![
        target(path.to_owned()),
        target(double),
        target(format!("{path}/")),
        target(escaped),
        target(unneeded),
        target(path.to_ascii_uppercase()),
        target(format!("{path};x")),
        target(format!("{path}?x=/v2/health/live")),
        target(format!("/v2/health/live/..{path}")),
        target(format!("/v2/health/live/%2e%2e{path}")),
        target(format!("http://{host}{path}")),
        target(format!("{path}#/v2/health/live")),
        (path.to_owned(), "host: a/v2/health/live?x=\r\n".to_owned()),
        field("x-original-url: /v2/health/live"),
        field("x-rewrite-url: /v2/health/live"),
        field("x-forwarded-for: 127.0.0.1"),
        field("x-http-method-override: GET"),
        field("authorization: Bearer "),
        field("authorization: Basic YTpi"),
        field("x-api-key: x"),
    ]
}

#[test]
fn nothing_but_health_and_the_pages_is_open() {
    let Keyed { server, .. } = keyed();
    let host = server.address().to_string();
    for path in paths() {
        let mut disguises = disguises(&path, &host);
        if OPEN.contains(&path.as_str()) {
            // These lead to it all the same, or to it with a query.
            disguises.retain(|(target, _)| target.contains("//") || target.ends_with('/'));
            disguises.retain(|(target, _)| !target.starts_with("http") && *target != path);
        }
        // One connection for each path, and another whenever it was closed.
        let mut client = server.connect();
        for (target, fields) in disguises {
            for method in METHODS {
                let raw =
                    format!("{method} {target} HTTP/1.1\r\n{fields}content-length: 0\r\n\r\n");
                let answer = client.send(&raw).answer_to(method).unwrap();
                let (status, closed) = (answer.status, answer.field("connection").is_some());
                assert!(matches!(status, 401 | 400 | 421), "{raw}: {answer:?}");
                if status == 401 {
                    assert_eq!(answer.field("www-authenticate"), Some("Bearer"), "{raw}");
                }
                let refused_before = fields.contains("a/v2") || target.contains('#');
                assert_eq!(status == 401, !refused_before, "{raw}: {answer:?}");
                if closed {
                    client = server.connect();
                }
            }
        }
    }
    for path in OPEN {
        for method in ["GET", "HEAD"] {
            let answer = server.connect().request(method, path, "", "");
            assert_eq!(answer.status, 200, "{method} {path}");
        }
        for method in ["POST", "DELETE", "OPTIONS"] {
            let answer = server.connect().request(method, path, "", "");
            assert_eq!(answer.status, 401, "{method} {path}");
        }
    }
    assert_eq!(server.stats().received, 0);
}

#[test]
fn nothing_is_open_over_http2_and_grpc() {
    let Keyed { server, .. } = keyed();
    let address = server.address();
    let mut targets: Vec<_> = paths()
        .into_iter()
        .filter(|path| !OPEN.contains(&path.as_str()))
        .map(|path| format!("http://{address}{path}"))
        .collect();
    targets.push(format!("http://user@{address}/v2"));
    targets.push(format!("http://{address}:1/v2"));
    let exchange = with_connection(&server, async |mut sender| {
        for target in targets {
            let Ok(uri) = target.parse::<http::Uri>() else {
                continue;
            };
            for (method, media) in [
                ("GET", "application/json"),
                ("POST", "application/json"),
                ("POST", "application/grpc"),
                ("OPTIONS", "application/grpc"),
            ] {
                let request = Request::builder()
                    .method(method)
                    .uri(uri.clone())
                    .header("content-type", media)
                    .body(Full::<Bytes>::default())
                    .unwrap();
                let answer = sender.send_request(request).await.unwrap();
                let in_grpc = answer.headers().get("grpc-status");
                let status = answer.status().as_u16();
                let refused = matches!(status, 401 | 400 | 421)
                    || in_grpc.is_some_and(|status| status == "16" || status == "9");
                assert!(refused, "{method} {uri} {media}: {answer:?}");
            }
        }
    });
    server.block_on(exchange);
    assert_eq!(server.stats().received, 0);
}

#[test]
fn a_websocket_is_refused_before_it_is_one() {
    let Keyed { server, infer, .. } = keyed();
    let upgrade = "upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n";
    let ask = |more: &str| {
        let fields = format!("{upgrade}{more}");
        let mut client = server.connect();
        client
            .request("GET", "/v2/models/a/stream", &fields, "")
            .status
    };
    assert_eq!(ask(""), 401);
    let key = bearer(&infer);
    assert_eq!(ask(&format!("{key}origin: http://evil.example\r\n")), 403);
    assert_eq!(ask(&format!("{key}origin: null\r\n")), 403);
}

#[test]
fn each_key_opens_what_it_is_for() {
    let keyed = keyed();
    let Keyed {
        infer,
        only_a,
        admin,
        ..
    } = &keyed;
    for secret in [infer, only_a, admin] {
        assert_eq!(keyed.post(secret, "/predict/a", ITEM).status, 200);
        assert_eq!(keyed.get(secret, "/v2/models/a").status, 200);
        assert_eq!(keyed.get(secret, "/nowhere").status, 404);
    }
    for secret in [infer, only_a] {
        for path in ["/v2/repository/models/a/load", "/v2/logging"] {
            let answer = keyed.post(secret, path, "{}");
            assert_eq!((answer.status, answer.code().as_str()), (403, "forbidden"));
        }
        assert_eq!(keyed.get(secret, "/debug/tree").status, 403);
    }
    let tree = keyed.get(admin, "/debug/tree");
    assert_eq!(tree.status, 200);
    for secret in [infer, only_a, admin] {
        assert!(!tree.text().contains(&secret.reveal()[7..]));
    }
}

/// To the holder of a key for one model there are no others, and no way to find out.
#[test]
fn a_key_for_one_model_knows_of_no_other() {
    let keyed = keyed();
    let only_a = &keyed.only_a;
    let paths = paths();
    for path in paths.iter().filter(|path| path.contains("/a")) {
        for method in METHODS {
            let ask = |name: &str| {
                let path = path.replacen("/a", &format!("/{name}"), 1);
                let fields = format!("{JSON}{}", bearer(only_a));
                let mut client = keyed.server.connect();
                let answer = client.request(method, &path, &fields, "");
                let allow = answer.field("allow").map(str::to_owned);
                (answer.status, allow, answer.text().replace(name, "NAME"))
            };
            assert_eq!(ask("other"), ask("absent"), "{method} {path}");
        }
    }
    for (path, expected) in [
        ("/predict/other", (404, "unknown_model")),
        ("/predict/%6fther", (404, "unknown_model")),
        ("/v2/models/other%2F..%2Fa/infer", (404, "not_found")),
        ("/predict/%61", (200, "")),
    ] {
        let answer = keyed.post(only_a, path, ITEM);
        let code = if answer.status == 200 {
            String::new()
        } else {
            answer.code()
        };
        assert_eq!((answer.status, code.as_str()), expected, "{path}");
    }
    for path in ["/v2/models", "/status", "/metrics"] {
        let of = |secret| keyed.get(secret, path).text();
        let (own, all) = (of(only_a), of(&keyed.infer));
        for quoted in ["\"other\"", "model=\"other\""] {
            assert!(!own.contains(quoted), "{path}: {own}");
        }
        assert!(own.contains("\"a\"") && all.contains("\"other\""), "{path}");
    }
}

#[test]
fn a_file_of_keys_is_read_again() {
    let [first, second] = [(); 2].map(|()| Secret::generate().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let write = |name: &str, secret: &Secret| {
        let digest = secret.digest();
        let text = format!("[[keys]]\nname = \"{name}\"\ndigest = \"{digest}\"\n");
        std::fs::write(&path, text).unwrap();
    };
    write("first", &first);
    let server = start_with(MODELS, |net| net.keys_file = Some(path.clone()));
    let status = |secret: &Secret| {
        let mut client = server.connect();
        client.request("GET", "/v2", &bearer(secret), "").status
    };
    assert_eq!((status(&first), status(&second)), (200, 401));
    write("second", &second);
    crate::support::wait_until(
        || status(&second) == 200,
        || "the new key opens nothing".to_owned(),
    );
    assert_eq!(status(&first), 401);
}

#[test]
fn other_machines_are_let_in_only_with_keys_or_on_purpose() {
    let everywhere = "0.0.0.0:0".parse().unwrap();
    let config = |adjust: fn(&mut NetConfig)| {
        let mut config = jitney_server::config::Config::default();
        config.net.http = everywhere;
        adjust(&mut config.net);
        config
    };
    let refused = Server::start(config(|_| ())).unwrap_err();
    assert!(matches!(refused, StartError::Open { .. }), "{refused}");
    assert!(refused.to_string().contains("--keys-file"), "{refused}");
    let insecure = Server::start(config(|net| net.insecure = true)).unwrap();
    // Without keys nobody changes a server that others can reach, not even from here.
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], insecure.http_addr().port()));
    let mut client = Client::connect(address);
    assert_eq!(client.get("/v2").status, 200);
    assert_eq!(
        client.post("/v2/repository/models/a/load", "{}").status,
        403
    );
    assert_eq!(client.get("/debug/tree").status, 403);
}

#[test]
fn without_keys_this_machine_may_do_everything_but_for_others() {
    let server = start(MODELS);
    assert_eq!(server.connect().get("/debug/tree").status, 200);
    for field in [
        "forwarded: for=10.0.0.1\r\n",
        "x-forwarded-for: 10.0.0.1\r\n",
    ] {
        let mut client = server.connect();
        assert_eq!(client.request("GET", "/debug/tree", field, "").status, 403);
    }
}

/// One head lets many requests in, so each of them is looked at.
#[test]
fn a_websocket_does_not_get_around_the_rate_or_outlive_its_key() {
    let secret = Secret::generate().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("keys.toml");
    let digest = secret.digest();
    let text = format!("[[keys]]\nname = \"app\"\ndigest = \"{digest}\"\n");
    std::fs::write(&path, &text).unwrap();
    let server = start_with(MODELS, |net| {
        net.keys_file = Some(path.clone());
        net.max_requests_per_second = std::num::NonZeroUsize::new(3);
    });
    server.block_on(async {
        let url = format!("ws://{}/v2/models/a/stream", server.address());
        let mut request = url.into_client_request().unwrap();
        let value = format!("Bearer {}", secret.reveal());
        let headers = request.headers_mut();
        headers.insert("authorization", value.parse().unwrap());
        let socket = TcpStream::connect(server.address()).await.unwrap();
        let (mut socket, _) = client_async(request, socket).await.unwrap();
        let mut number = 0;
        let mut ask = async || {
            number += 1;
            let message = format!(r#"{{"id":"{number}","item":{ITEM}}}"#);
            socket.send(message.into()).await.unwrap();
            socket.next().await.unwrap().unwrap().into_text().unwrap()
        };
        let mut said = async |code: &str| {
            loop {
                let answer = ask().await;
                if answer.contains(code) {
                    return;
                }
                tokio::task::yield_now().await;
            }
        };
        said("overloaded").await;
        std::fs::write(&path, "").unwrap();
        said("unauthenticated").await;
    });
}

#[test]
fn a_client_has_as_many_connections_as_it_may() {
    let server = start_with(MODELS, |net| net.max_connections_per_client = Some(3));
    let mut clients: Vec<_> = (0..3).map(|_| server.connect()).collect();
    for client in &mut clients {
        assert_eq!(client.get("/v2").status, 200);
    }
    assert!(server.connect().is_closed(), "one too many");
    drop(clients.pop());
    crate::support::wait_until(
        || {
            let mut client = server.connect();
            client.begin("GET", "/v2", "", "");
            client.answer().is_some()
        },
        || "no place was given back".to_owned(),
    );
    assert_eq!(clients[0].get("/v2").status, 200, "those who are in");
}

#[test]
fn a_client_has_its_rate() {
    let keys = [(); 2].map(|()| Secret::generate().unwrap());
    let named = [
        key("x", &keys[0], Scope::Infer, None),
        key("y", &keys[1], Scope::Infer, None),
    ];
    let server = start_with(MODELS, |net| {
        net.keys = named.to_vec();
        net.max_requests_per_second = std::num::NonZeroUsize::new(2);
    });
    let ask = |secret: &Secret| {
        let mut client = server.connect();
        client.request("GET", "/v2", &bearer(secret), "")
    };
    let answers: Vec<_> = (0..20).map(|_| ask(&keys[0])).collect();
    let refused: Vec<_> = answers
        .iter()
        .filter(|answer| answer.status != 200)
        .collect();
    assert!(!refused.is_empty(), "20 requests at once");
    for answer in refused {
        assert_eq!((answer.status, answer.code().as_str()), (429, "overloaded"));
        assert!(answer.field("retry-after").is_some(), "{answer:?}");
    }
    assert_eq!(ask(&keys[1]).status, 200, "another client");
    assert_eq!(server.connect().get(OPEN[0]).status, 200, "health");
}

#[test]
fn pages_of_other_origins_read_nothing_unless_they_are_allowed() {
    const FRIEND: &str = "https://friend.example";
    let secret = Secret::generate().unwrap();
    let serve = |origins: &[&str]| {
        start_with(MODELS, |net| {
            net.keys = vec![key("app", &secret, Scope::Infer, None)];
            net.allowed_origins = origins.iter().map(|&origin| origin.to_owned()).collect();
        })
    };
    let asks =
        "access-control-request-method: POST\r\naccess-control-request-headers: authorization\r\n";
    let (closed, open) = (serve(&[]), serve(&[FRIEND]));
    let ask = |server: &Fixture, method: &str, origin: Option<&str>, more: &str| {
        let origin = origin.map_or_else(String::new, |origin| format!("origin: {origin}\r\n"));
        let mut client = server.connect();
        client.request(method, "/v2/models", &format!("{origin}{more}"), "")
    };
    let allowed = |answer: &Answer| {
        let field = answer.field("access-control-allow-origin");
        assert!(answer.field("access-control-allow-credentials").is_none());
        field.map(str::to_owned)
    };
    let with_key = bearer(&secret);
    for method in METHODS {
        let answer = ask(&closed, method, None, &with_key);
        assert_eq!((allowed(&answer), answer.field("vary")), (None, None));
        for server in [&closed, &open] {
            for origin in [
                "null",
                "http://friend.example",
                "https://friend.example.org",
            ] {
                let answer = ask(server, method, Some(origin), &with_key);
                assert_eq!(
                    (answer.status, allowed(&answer)),
                    (403, None),
                    "{method} {origin}"
                );
            }
        }
        // Where the answer depends on who asks, it says so to everybody.
        assert_eq!(
            ask(&open, method, None, &with_key).field("vary"),
            Some("origin")
        );
    }
    let preflight = ask(&open, "OPTIONS", Some(FRIEND), asks);
    assert_eq!(
        (preflight.status, allowed(&preflight).as_deref()),
        (204, Some(FRIEND))
    );
    let headers = preflight.field("access-control-allow-headers").unwrap();
    assert!(headers.contains("authorization"), "{headers}");
    assert_eq!(ask(&closed, "OPTIONS", Some(FRIEND), asks).status, 403);
    // A preflight that is none of a browser's needs a key like everything.
    assert_eq!(ask(&open, "OPTIONS", None, asks).status, 401);
    assert_eq!(ask(&open, "OPTIONS", Some(FRIEND), "").status, 401);
    for (more, status) in [(with_key.as_str(), 200), ("", 401)] {
        let answer = ask(&open, "GET", Some(FRIEND), more);
        assert_eq!(
            (answer.status, allowed(&answer).as_deref()),
            (status, Some(FRIEND))
        );
        assert_eq!(answer.field("vary"), Some("origin"));
    }
}
