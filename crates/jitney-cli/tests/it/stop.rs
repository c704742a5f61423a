//! Being told to stop.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::command::command;
use crate::server::{Served, read_response};

const ITEM: &str = r#"{"input":[1,2]}"#;
/// The fake model hangs on this one.
const HANGS: &str = r#"{"input":[-5,2]}"#;

#[test]
fn sigterm_answers_what_was_accepted() {
    stops_cleanly("TERM");
}

#[test]
fn sigint_answers_what_was_accepted() {
    stops_cleanly("INT");
}

/// One request runs and more are queued when the signal comes; all of them are answered.
fn stops_cleanly(signal: &str) {
    let served = Served::start(&["slow=echo:FP32[2],call_ms=500", "--max-batch", "1"]);
    let requests: Vec<_> = (0..4)
        .map(|_| served.send("POST", "/predict/slow", "", ITEM))
        .collect();
    served.wait_for_metric("jitney_received_items_total", 4.0);
    served.signal(signal);
    for request in requests {
        let answer = read_response(request);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let ended = served.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

/// As `timeout` and some shells do it: both signals are one wish.
#[test]
fn two_signals_at_once_are_one() {
    let served = Served::start(&["slow=echo:FP32[2],call_ms=500"]);
    let request = served.send("POST", "/predict/slow", "", ITEM);
    served.wait_for_metric("jitney_running_items", 1.0);
    served.signal_twice("TERM");
    assert_eq!(read_response(request).status, 200);
    let ended = served.wait();
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut served = Served::start(&["slow=echo:FP32[2],faulty=true,hang_ms=20000"]);
    let request = served.send("POST", "/predict/slow", "", HANGS);
    served.wait_for_metric("jitney_running_items", 1.0);
    served.signal("TERM");
    // The first signal was heard when readiness turns.
    while served.get("/v2/health/ready").status == 200 {}
    let start = Instant::now();
    // One that follows the first at once is the same wish.
    while !served.has_ended() {
        served.signal("TERM");
    }
    let ended = served.wait();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it waited for the model"
    );
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    drop(request);
}

#[test]
fn a_drain_that_takes_too_long_cuts_and_says_so() {
    let served = Served::start(&[
        "slow=echo:FP32[2],faulty=true,hang_ms=20000",
        "--drain-ms",
        "100",
    ]);
    let request = served.send("POST", "/predict/slow", "", HANGS);
    served.wait_for_metric("jitney_running_items", 1.0);
    let ended = served.stop();
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("error: ") && ended.stderr.contains("--drain-ms"),
        "{}",
        ended.stderr
    );
    drop(request);
}

#[test]
fn a_server_that_still_loads_stops_too() {
    let mut child = command()
        .args([
            "serve",
            "heavy=echo:FP32[2],load_ms=30000",
            "--http",
            "127.0.0.1:0",
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert_ne!(
            log.read_line(&mut line).unwrap(),
            0,
            "it ended before it listened"
        );
    }
    let start = Instant::now();
    let killed = Command::new("kill")
        .args(["-TERM", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let code = child.wait().unwrap().code();
    assert!(
        start.elapsed() < Duration::from_secs(10),
        "it waited for the model"
    );
    assert_eq!(code, Some(0));
}
