//! What models do wrong, and whom it costs.

use std::process::Stdio;
use std::time::{Duration, Instant};

use super::support::{Folder, PATIENCE, UPPER, is_alive, kill, wait_until};
use crate::command::command;
use crate::server::{Response, Served, read_response};

/// Does what an item says. The first of a test is `wait`, behind which the others gather for one batch.
const FAULTY: &str = "\
import os
import time


class Faulty:
    def predict_batch(self, items):
        for item in items:
            if item == 'wait':
                time.sleep(0.5)
            if item == 'kill':
                os._exit(3)
            if item == 'hang':
                time.sleep(3600)
            if item == 'raise':
                raise ValueError('this one')
        return items
";

/// Sends these so that they are run in one batch, and reads their answers.
fn together(served: &Served, items: &[&str]) -> Vec<Response> {
    let received = || metric(served, "jitney_received_items_total{model=\"faulty\"");
    let before = received();
    let first = served.send("POST", "/predict/faulty", "", "\"wait\"");
    wait_until("the first to run", || {
        metric(served, "jitney_running_items{model=\"faulty\"") > 0.0
    });
    let requests: Vec<_> = items
        .iter()
        .map(|item| served.send("POST", "/predict/faulty", "", &format!("\"{item}\"")))
        .collect();
    let all = before + 1.0 + items.len() as f64;
    wait_until("all to be queued", || received() == all);
    assert_eq!(read_response(first).status, 200);
    requests.into_iter().map(read_response).collect()
}

fn metric(served: &Served, name: &str) -> f64 {
    let text = served.get("/metrics").body;
    let line = text.lines().find(|line| line.starts_with(name));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
        .unwrap_or(0.0)
}

fn code(response: &Response) -> String {
    response.json()["code"].as_str().unwrap_or("ok").to_owned()
}

const ONE_OF_EIGHT: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

#[test]
fn one_bad_item_of_eight_costs_only_itself() {
    let folder = Folder::with(&[("faulty.py", FAULTY)]);
    let served = Served::start(&[&folder.path("faulty.py"), "--run-limit-ms", "2000"]);
    let table = [
        ("raise", 500, "model_error", "ValueError: this one"),
        ("kill", 500, "worker_crashed", "died while it computed"),
        ("hang", 504, "deadline_exceeded", "limit"),
    ];
    for (bad, status, word, text) in table {
        let items = [&ONE_OF_EIGHT[..3], &[bad], &ONE_OF_EIGHT[3..]].concat();
        let answers = together(&served, &items);
        for (item, answer) in items.iter().zip(&answers) {
            if *item == bad {
                assert_eq!(
                    (answer.status, &*code(answer)),
                    (status, word),
                    "{answer:?}"
                );
                assert!(answer.body.contains(text), "{answer:?}");
                let internal = ["Traceback", "faulty.py", "pid", "/tmp"];
                assert!(
                    !internal.iter().any(|word| answer.body.contains(word)),
                    "{answer:?}"
                );
            } else {
                assert_eq!(answer.body, format!("{{\"prediction\":\"{item}\"}}"));
            }
        }
    }
    // What took a process with it is not run again for a while, and costs nobody anything.
    let worker = served.worker_of("faulty");
    for (bad, status, word) in [
        ("kill", 500, "worker_crashed"),
        ("hang", 504, "deadline_exceeded"),
    ] {
        let start = Instant::now();
        let answer = served.post("/predict/faulty", &format!("\"{bad}\""));
        assert_eq!(
            (answer.status, &*code(&answer)),
            (status, word),
            "{answer:?}"
        );
        assert!(answer.body.contains("was not run"), "{answer:?}");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    assert_eq!(served.worker_of("faulty"), worker);
    served.wait_for_metric("jitney_quarantined_items_total{model=\"faulty\"", 2.0);
    let log = served.stop().stderr;
    assert!(log.contains("ValueError: this one"), "{log}");
}

#[test]
fn the_log_names_the_request_that_raised() {
    let folder = Folder::with(&[("faulty.py", FAULTY)]);
    let served = Served::start(&[&folder.path("faulty.py")]);
    let answer = served.ask(
        "POST",
        "/predict/faulty",
        "x-request-id: the-guilty\r\n",
        "\"raise\"",
    );
    assert_eq!(answer.status, 500);
    let log = served.stop().stderr;
    let named = log.lines().any(|line| line.contains("the-guilty"));
    assert!(named && log.contains("faulty.py"), "{log}");
}

#[test]
fn an_idle_process_that_is_killed_is_replaced_before_anyone_notices() {
    let folder = Folder::with(&[("upper.py", UPPER)]);
    let served = Served::start(&[&folder.path("upper.py")]);
    let first = served.worker_of("upper");
    kill(first, "KILL");
    let answer = served.post("/predict/upper", "\"a\"");
    assert_eq!(
        (answer.status, &*answer.body),
        (200, r#"{"prediction":"A"}"#)
    );
    assert_ne!(served.worker_of("upper"), first);
    served.wait_for_metric("jitney_restarted_workers_total{model=\"upper\"", 1.0);
}

#[test]
fn what_may_not_run_twice_does_not() {
    let once = FAULTY.replace(
        "class Faulty:\n",
        "class Faulty:\n    idempotent = False\n\n",
    );
    let folder = Folder::with(&[("faulty.py", &once)]);
    let served = Served::start(&[&folder.path("faulty.py")]);
    for answer in together(&served, &["a", "kill", "b"]) {
        assert_eq!(
            (answer.status, &*code(&answer)),
            (503, "failed"),
            "{answer:?}"
        );
    }
    assert_eq!(served.post("/predict/faulty", "\"a\"").status, 200);
}

/// Raises as long as a file lies beside it.
const FRAGILE: &str = "\
import pathlib


class Fragile:
    def __init__(self):
        if pathlib.Path(__file__).with_name('broken').exists():
            raise OSError('no weights')

    def predict(self, item):
        return item
";

#[test]
fn a_model_whose_processes_do_not_come_up_fails_alone_and_recovers() {
    let folder = Folder::with(&[("fragile.py", FRAGILE), ("upper.py", UPPER)]);
    let served = Served::start(&[
        &folder.path("fragile.py"),
        &folder.path("upper.py"),
        "echo:FP32[1]",
        "--reload",
    ]);
    folder.write("broken", "");
    kill(served.worker_of("fragile"), "KILL");
    wait_until("the model to fail", || {
        served.status_of("fragile")["state"] == "failed"
    });
    let start = Instant::now();
    let answer = served.post("/predict/fragile", "1");
    assert_eq!(
        (answer.status, &*code(&answer)),
        (503, "failed"),
        "{answer:?}"
    );
    assert!(
        start.elapsed() < Duration::from_secs(1),
        "it was made to wait"
    );
    assert!(answer.head.contains("\r\nretry-after: "), "{answer:?}");
    assert!(!answer.body.contains("weights"), "{answer:?}");
    assert_eq!(served.get("/v2/models/fragile/ready").status, 503);
    served.wait_for_metric("jitney_model_ready{model=\"fragile\"", 0.0);
    // The others, and the server, are well.
    assert_eq!(served.get("/v2/health/ready").status, 200);
    assert_eq!(served.post("/predict/upper", "\"a\"").status, 200);
    assert_eq!(served.post("/predict/echo", "[1]").status, 200);

    folder.remove("broken");
    folder.write("fragile.py", &format!("{FRAGILE}\n# mended\n"));
    wait_until("the model to recover", || {
        served.status_of("fragile")["state"] == "ready"
    });
    assert_eq!(served.post("/predict/fragile", "1").status, 200);
}

#[test]
fn an_overloaded_model_disturbs_no_other() {
    let folder = Folder::with(&[("faulty.py", FAULTY), ("upper.py", UPPER)]);
    let served = Served::start(&[
        &folder.path("faulty.py"),
        &folder.path("upper.py"),
        "examples/digits",
        "--queue",
        "1",
        "--max-batch",
        "1",
    ]);
    let waiting: Vec<_> = (0..8)
        .map(|_| served.send("POST", "/predict/faulty", "", "\"wait\""))
        .collect();
    for _ in 0..20 {
        assert_eq!(served.post("/predict/upper", "\"a\"").status, 200);
    }
    let answers: Vec<u16> = waiting
        .into_iter()
        .map(|request| read_response(request).status)
        .collect();
    assert!(
        answers.contains(&200) && answers.contains(&429),
        "{answers:?}"
    );
    assert!(
        answers.iter().all(|status| [200, 429].contains(status)),
        "{answers:?}"
    );
}

#[test]
fn no_process_is_left_however_the_server_ends() {
    let folder = Folder::with(&[("upper.py", UPPER)]);
    for signal in ["TERM", "KILL"] {
        let served = Served::start(&[&folder.path("upper.py"), "--instances", "2"]);
        let workers = served.status_of("upper")["workers"]
            .as_array()
            .unwrap()
            .clone();
        let workers: Vec<u32> = workers
            .iter()
            .filter_map(|worker| worker["pid"].as_u64()?.try_into().ok())
            .collect();
        assert!(!workers.is_empty());
        served.signal(signal);
        let code = served.wait().code;
        if signal == "TERM" {
            assert_eq!(code, Some(0));
            assert!(!workers.iter().any(|pid| is_alive(*pid)), "left behind");
        }
        wait_until("the workers to end", || {
            !workers.iter().any(|pid| is_alive(*pid))
        });
    }
}

const SLOW_TO_LOAD: &str = "\
import os
import pathlib
import time


class Slow:
    def __init__(self):
        path = pathlib.Path(__file__).with_name('pid')
        path.with_suffix('.tmp').write_text(str(os.getpid()))
        path.with_suffix('.tmp').rename(path)
        time.sleep(3600)

    def predict(self, item):
        return item
";

#[test]
fn a_server_whose_model_still_loads_stops_at_once() {
    let folder = Folder::with(&[("slow.py", SLOW_TO_LOAD)]);
    let mut server = command()
        .args(["serve", &folder.path("slow.py"), "--http", "127.0.0.1:0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut worker = None;
    wait_until("the load to begin", || {
        worker = folder.read("pid").and_then(|pid| pid.parse().ok());
        worker.is_some()
    });
    let start = Instant::now();
    kill(server.id(), "TERM");
    assert_eq!(server.wait().unwrap().code(), Some(0));
    assert!(start.elapsed() < PATIENCE / 6, "it waited for the load");
    wait_until("the worker to end", || !is_alive(worker.unwrap()));
    assert!(start.elapsed() < PATIENCE / 6, "the worker was left");
}
