//! Shutting down: everything accepted is answered, nothing new is.

use std::net::TcpStream;
use std::time::Duration;

use jitney_server::config::{Config, ModelSource};
use jitney_server::server::{Drained, Server, StartError};

use crate::support::{Client, start, start_with};

const SLOW: &[&str] = &["m=echo:FP32[1],call_ms=20"];
const ITEM: &str = "{\"input\":[1]}";

#[test]
fn everything_accepted_is_answered() {
    let server = start(SLOW);
    let mut idle = server.connect();
    assert_eq!(idle.get("/v2").status, 200);
    let mut clients: Vec<Client> = (0..32).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.begin_post("/predict/m", ITEM);
    }
    server.wait_stats("all accepted", |stats| stats.received == 32);
    server.running.drain();

    let ready = server.connect().get("/v2/health/ready");
    assert_eq!((ready.status, ready.code().as_str()), (503, "draining"));
    assert_eq!(server.connect().get("/v2/health/live").status, 200);
    let mut new = server.connect();
    let refused = new.post("/predict/m", ITEM);
    assert_eq!((refused.status, refused.code().as_str()), (503, "draining"));
    assert_eq!(refused.field("connection"), Some("close"));
    assert!(new.is_closed());

    for client in &mut clients {
        let answer = client.answer().unwrap();
        assert_eq!(
            (answer.status, answer.field("connection")),
            (200, Some("close"))
        );
        assert!(client.is_closed());
    }
    assert!(idle.is_closed());
    assert_eq!(
        server.block_on(server.running.wait()),
        Ok(Drained { cut: 0, streams: 0 })
    );
    assert!(
        TcpStream::connect(server.address()).is_err(),
        "the port is closed"
    );
}

#[test]
fn an_idle_server_drains_at_once() {
    let server = start(SLOW);
    let mut idle = server.connect();
    assert_eq!(idle.get("/v2/health/ready").status, 200);
    let silent = server.connect();
    server.running.drain();
    server.running.drain();
    assert!(server.block_on(server.running.wait()).unwrap().is_clean());
    assert!(idle.is_closed());
    drop(silent);
}

#[test]
fn a_drain_has_an_end() {
    let server = start_with(&["m=echo:FP32[1],faulty=true"], |net| {
        net.drain = Duration::from_millis(50);
    });
    let mut client = server.connect();
    client.begin_post("/predict/m", "{\"input\":[-5]}");
    server.wait_stats("one running", |stats| stats.running == 1);
    server.running.drain();
    let drained = server.block_on(server.running.wait()).unwrap();
    assert_eq!(drained, Drained { cut: 1, streams: 0 });
    assert!(client.answer().is_none());
}

#[test]
fn dropping_a_server_ends_it() {
    let server = start(SLOW);
    let (address, mut client) = (server.address(), server.connect());
    client.get("/v2");
    drop(server);
    assert!(client.is_closed());
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_server_that_cannot_start_says_why() {
    let first = start(SLOW);
    let start_at = |address, models: &[&str]| {
        let mut config = Config::default();
        config.net.http = address;
        config.models = models
            .iter()
            .map(|model| ModelSource::parse(model).unwrap())
            .collect();
        Server::start(config).unwrap_err()
    };
    // Inside of a runtime, where a runtime may not be dropped.
    first.block_on(async {
        let taken = start_at(first.address(), SLOW);
        assert!(matches!(taken, StartError::Bind { .. }), "{taken}");
        let free = "127.0.0.1:0".parse().unwrap();
        let twice = start_at(free, &["m=echo:FP32[1]", "m=echo:FP32[2]"]);
        assert!(matches!(twice, StartError::Models(_)), "{twice}");
    });
}
