//! Too much of everything, and clients that leave.

use crate::support::{Client, start, start_queued, start_with};

const SLOW: &[&str] = &["m=echo:FP32[1],call_ms=300"];
const ITEM: &str = "{\"input\":[1]}";

#[test]
fn a_client_that_leaves_takes_its_request_out_of_the_queue() {
    let server = start(SLOW);
    let (mut running, mut queued) = (server.connect(), server.connect());
    running.begin_post("/predict/m", ITEM);
    server.wait_stats("one running", |stats| stats.running == 1);
    queued.begin_post("/predict/m", ITEM);
    server.wait_stats("one queued", |stats| stats.queued == 1);
    drop(queued);
    server.wait_stats("none queued", |stats| {
        stats.queued == 0 && stats.cancelled == 1
    });
    assert_eq!(running.answer().unwrap().status, 200);
    let stats = server.stats();
    assert_eq!((stats.received, stats.ok, stats.cancelled), (2, 1, 1));
    assert_eq!(cancelled(&server), 1.0);
}

#[test]
fn a_client_that_leaves_is_noticed_behind_a_control_request_too() {
    let server = start(SLOW);
    let mut client = server.connect();
    assert_eq!(client.get("/v2/health/live").status, 200);
    client.begin_post("/predict/m", ITEM);
    server.wait_stats("one running", |stats| stats.running == 1);
    drop(client);
    server.wait_stats("one cancelled", |stats| stats.cancelled == 1);
    crate::support::wait_until(
        || cancelled(&server) == 1.0,
        || "the record of it".to_owned(),
    );
}

#[test]
fn a_client_that_leaves_in_its_body_is_counted_and_gives_its_bytes_back() {
    let server = start(SLOW);
    let mut client = server.connect();
    client.begin(
        "POST",
        "/predict/m",
        "content-type: application/json\r\ncontent-length: 1000\r\n",
        ITEM,
    );
    let held = || server.scrape("jitney_inflight_bytes ").unwrap_or(-1.0);
    crate::support::wait_until(|| held() == 13.0, || format!("13 bytes, but {}", held()));
    drop(client);
    crate::support::wait_until(|| held() == 0.0, || format!("no bytes, but {}", held()));
    crate::support::wait_until(
        || cancelled(&server) == 1.0,
        || "the record of it".to_owned(),
    );
    assert_eq!(server.stats().received, 0);
}

#[test]
fn a_full_queue_refuses_and_says_when_to_come_back() {
    let server = start_queued(SLOW, 1, |_| ());
    let (mut running, mut queued) = (server.connect(), server.connect());
    running.begin_post("/predict/m", ITEM);
    server.wait_stats("one running", |stats| stats.running == 1);
    queued.begin_post("/predict/m", ITEM);
    server.wait_stats("one queued", |stats| stats.queued == 1);
    let mut refused = server.connect();
    let answer = refused.post("/predict/m", ITEM);
    assert_eq!((answer.status, answer.code().as_str()), (429, "overloaded"));
    let seconds: u64 = answer.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds));
    assert_eq!(refused.get("/v2").status, 200, "the connection is kept");
    assert_eq!(running.answer().unwrap().status, 200);
    assert_eq!(queued.answer().unwrap().status, 200);
}

#[test]
fn bytes_in_flight_are_bounded() {
    let server = start_with(SLOW, |net| {
        net.max_inflight_bytes = 20;
    });
    let mut first = server.connect();
    first.begin_post("/predict/m", ITEM);
    server.wait_stats("one running", |stats| stats.running == 1);
    let answer = server.connect().post("/predict/m", ITEM);
    assert_eq!((answer.status, answer.code().as_str()), (429, "overloaded"));
    assert!(answer.field("retry-after").is_some());
    assert_eq!(first.answer().unwrap().status, 200);
    assert_eq!(first.post("/predict/m", ITEM).status, 200);
}

#[test]
fn connections_are_bounded_but_for_control() {
    let server = start_with(SLOW, |net| {
        net.max_connections = 1;
    });
    let mut first = server.connect();
    assert_eq!(first.post("/predict/m", ITEM).status, 200);
    let mut second = server.connect();
    let answer = second.post("/predict/m", ITEM);
    assert_eq!((answer.status, answer.code().as_str()), (503, "overloaded"));
    assert!(answer.field("retry-after").is_some());
    assert!(second.is_closed());
    assert_eq!(server.connect().get("/v2/health/live").status, 200);
    drop(first);
    // One that comes too early may be cut off before it has read why.
    let served = |mut client: Client| {
        client.begin_post("/predict/m", ITEM);
        client.answer().is_some_and(|answer| answer.status == 200)
    };
    crate::support::wait_until(
        || served(server.connect()),
        || "the seat of the first".to_owned(),
    );
}

#[test]
fn whoever_says_nothing_makes_room() {
    let server = start_with(SLOW, |net| {
        net.max_connections = 2;
    });
    let mut silent: Vec<Client> = (0..5).map(|_| server.connect()).collect();
    assert_eq!(server.connect().get("/v2/health/live").status, 200);
    assert_eq!(server.connect().post("/predict/m", ITEM).status, 200);
    assert!(silent[0].is_closed(), "the first leaves first");
}

fn cancelled(server: &crate::support::Fixture) -> f64 {
    let text = server.connect().get("/metrics").text();
    let lines = text
        .lines()
        .filter(|line| line.contains("requests_total{") && line.contains("code=\"cancelled\""));
    lines
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
