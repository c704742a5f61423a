//! The log: one line an event, whatever clients send.

use serde_json::Value;

use crate::server::Served;

/// A body whose error text quotes what came.
const FORGED: &str = "{\"in\\u001b[31mput\\nERROR forged\":[1,2]}";

#[test]
fn json_logs_are_an_object_a_line() {
    let served = Served::start(&[
        "copy=echo:FP32[2]",
        "--log-format",
        "json",
        "--log",
        "debug",
    ]);
    served.post("/predict/copy", FORGED);
    let ended = served.stop();
    assert!(ended.stderr.lines().count() > 0);
    for line in ended.stderr.lines() {
        let event: Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line:?}"));
        assert!(
            event["level"].is_string() && event["timestamp"].is_string(),
            "{event}"
        );
    }
}

#[test]
fn no_client_can_forge_a_line() {
    let served = Served::start(&["copy=echo:FP32[2]", "--log", "debug"]);
    served.post("/predict/copy", FORGED);
    served.ask(
        "POST",
        "/predict/%0aERROR%20forged",
        "x-request-id: \u{9b}31m\r\n",
        "{}",
    );
    let ended = served.stop();
    for line in ended.stderr.lines() {
        assert!(
            line.starts_with("20"),
            "not the start of an event: {line:?}"
        );
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
}
