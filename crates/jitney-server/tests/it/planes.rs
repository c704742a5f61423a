//! The control plane answers whatever the data plane does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::support::{start, start_with, wait_until};

const CONTROL: &[&str] = &[
    "/",
    "/status",
    "/metrics",
    "/debug/tree",
    "/v2/health/live",
    "/v2/health/ready",
    "/v2/models/m/ready",
];

#[test]
fn control_requests_are_answered_while_the_data_plane_is_busy() {
    answered_while_busy(0);
}

/// Clients of models ask for health before they infer, and keep the connection.
#[test]
fn many_connections_that_began_with_a_health_check_turn_away_no_other() {
    answered_while_busy(300);
}

fn answered_while_busy(connections: usize) {
    let server = start_with(&["m=echo:FP32[-1],op=sum"], |net| {
        net.workers = std::num::NonZeroUsize::new(1);
    });
    let mut kept: Vec<_> = (0..connections).map(|_| server.connect()).collect();
    for client in &mut kept {
        assert_eq!(client.get("/v2/health/live").status, 200);
    }
    // About a second of decoding, whether this was built to be fast or not.
    let count = if cfg!(debug_assertions) {
        1_000_000
    } else {
        10_000_000
    };
    let numbers = vec!["1.25"; count].join(",");
    let body = format!("{{\"input\":[{numbers}]}}");
    let answered = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let answer = server.connect().post("/predict/m", &body);
            answered.store(true, Ordering::SeqCst);
            assert_eq!(answer.status, 200);
        });
        // When the whole body is held, the only thread of the data plane begins to decode it.
        let held = || server.scrape("jitney_inflight_bytes ").unwrap_or(0.0);
        wait_until(
            || held() >= body.len() as f64,
            || format!("{} bytes, but {}", body.len(), held()),
        );
        for path in CONTROL {
            assert_eq!(server.connect().get(path).status, 200, "{path}");
        }
        assert!(
            !answered.load(Ordering::SeqCst),
            "the data plane was not busy long enough to show anything"
        );
    });
}

#[test]
fn every_route_is_served_on_either_plane() {
    let server = start(&["m=echo:FP32[1]"]);
    for first in ["/v2/health/live", "/v2"] {
        let mut client = server.connect();
        assert_eq!(client.get(first).status, 200);
        for path in CONTROL {
            assert_eq!(client.get(path).status, 200, "{path} behind {first}");
            assert_eq!(
                client.post("/predict/m", "{\"input\":[1]}").status,
                200,
                "behind {first}"
            );
        }
    }
}

#[test]
fn heads_are_as_for_get_without_a_body() {
    let server = start(&["m=echo:FP32[1]"]);
    let mut client = server.connect();
    for path in ["/", "/v2", "/v2/models/m"] {
        let length = client.get(path).body.len();
        let answer = client.request("HEAD", path, "", "");
        assert_eq!(
            (answer.status, answer.field("content-length")),
            (200, Some(length.to_string().as_str())),
            "{path}"
        );
    }
    assert_eq!(client.get("/v2/health/live").status, 200);
}

#[test]
fn two_servers_live_side_by_side() {
    let (first, second) = (start(&["one=echo:FP32[1]"]), start(&["two=echo:FP32[1]"]));
    assert_eq!(first.connect().get("/v2/models/one").status, 200);
    assert_eq!(second.connect().get("/v2/models/one").status, 404);
    drop(first);
    assert_eq!(second.connect().get("/v2/models/two").status, 200);
}

#[test]
fn the_tree_shows_the_connections() {
    let server = start(&["m=echo:FP32[1]"]);
    let mut client = server.connect();
    client.get("/v2");
    let tree = client.get("/debug/tree").text();
    for name in ["jitney", "net", "listener", "connection"] {
        assert!(tree.contains(name), "{name} is not in\n{tree}");
    }
}
