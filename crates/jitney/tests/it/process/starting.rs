//! Workers that start well, slowly, or not at all.

use std::time::{Duration, Instant};

use bytes::Bytes;
use jitney::process::{CallError, Health, Program, Request, RestartPolicy, Settings, StartError};

use super::support::*;

#[test]
fn the_preamble_comes_before_the_greeting() {
    let mut program = child(&[("CHILD_PREAMBLE", "print('x')")]);
    program.preamble = Bytes::from_static(b"print('x')");
    program.hello = Bytes::from_static(b" {}");
    let (pool, _) = start(program, workers(1, 1));
    assert_eq!(&pool.greeting()[..], b"print('x') {}");
    assert_eq!(pool.health(), Health::Ready);
    echoes(&pool);
}

#[test]
fn a_preamble_longer_than_the_socket_holds_is_sent_while_the_child_reads() {
    let preamble = "x".repeat(100_000);
    let mut program = child(&[("CHILD_PREAMBLE", &preamble)]);
    program.preamble = Bytes::from(preamble.clone().into_bytes());
    program.hello = Bytes::from(vec![b'y'; 900_000]);
    let (pool, _) = start(program, workers(1, 1));
    assert_eq!(pool.greeting().len(), 1_000_000);
}

#[test]
fn a_start_that_cannot_succeed_says_why() {
    let patient = |start: &str, expected: &str| {
        let log = Log::default();
        let settings = Settings {
            start_limit: Duration::from_secs(20),
            ..workers(3, 1)
        };
        let error = try_start(child(&[("CHILD_START", start)]), settings, &log)
            .err()
            .unwrap();
        assert!(
            error.to_string().contains(expected),
            "{start}: {error}: {:#?}",
            log.lines()
        );
        log
    };
    let log = patient(
        "fail:no class Digits in model.py",
        "cannot serve: no class Digits in model.py",
    );
    assert_eq!(log.count("started"), 1);
    let log = patient("die", "exited with code 3 before it was ready");
    assert_eq!(log.count("started"), 5);
    patient(
        "garbage",
        "did not keep to the protocol: a frame of unknown kind 0",
    );
}

#[test]
fn the_start_limit_is_kept() {
    let log = Log::default();
    let settings = Settings {
        start_limit: Duration::from_millis(300),
        ..workers(1, 1)
    };
    let begin = Instant::now();
    let error = try_start(child(&[("CHILD_START", "hang")]), settings, &log)
        .err()
        .unwrap();
    assert!(matches!(error, StartError::Slow(_)), "{error}");
    assert!(begin.elapsed() >= Duration::from_millis(300));
}

#[test]
fn a_program_that_is_not_there_is_named() {
    let program = Program::new("/nowhere/worker");
    let error = try_start(program, workers(2, 1), &Log::default())
        .err()
        .unwrap();
    assert!(error.to_string().contains("/nowhere/worker"), "{error}");
}

#[test]
fn limits_may_be_the_longest_duration() {
    let end = Duration::MAX;
    let settings = Settings {
        start_limit: end,
        close_limit: end,
        retire_limit: end,
        restart: RestartPolicy {
            base: end,
            ceiling: end,
            window: end,
            healthy: end,
            ..RestartPolicy::default()
        },
        ..workers(1, 1)
    };
    let (pool, _) = start(child(&[]), settings);
    kill(pid(&pool, 0));
    pool.call(&Request::new(b"pid", end)).unwrap();
    pool.close();
    pool.wait_closed();
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let jitter = Settings {
        restart: RestartPolicy {
            jitter: f64::NAN,
            ..RestartPolicy::default()
        },
        ..workers(1, 1)
    };
    for settings in [workers(0, 1), workers(1, 0), workers(1, 65), jitter] {
        let error = try_start(child(&[]), settings, &Log::default())
            .err()
            .unwrap();
        assert!(matches!(error, StartError::Settings(_)), "{error}");
    }
}

#[test]
fn the_others_start_one_after_another() {
    let (pool, log) = start(child(&[("CHILD_START", "slow:0.1")]), workers(3, 1));
    all_ready(&pool);
    let steps: Vec<String> = log
        .lines()
        .iter()
        .map(|line| line.rsplit(") ").next().unwrap().to_owned())
        .collect();
    assert_eq!(
        steps,
        [
            "started", "is ready", "started", "is ready", "started", "is ready"
        ]
    );
}

#[test]
fn a_pool_that_failed_answers_at_once_and_recovers_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("there");
    std::fs::write(&file, "").unwrap();
    let how = format!("die-unless:{}", file.display());
    let ceiling = Duration::from_millis(300);
    let restart = RestartPolicy {
        base: Duration::from_millis(5),
        ceiling,
        ..RestartPolicy::default()
    };
    let settings = Settings {
        restart,
        ..workers(2, 1)
    };
    let (pool, log) = start(child(&[("CHILD_START", &how)]), settings);
    all_ready(&pool);

    std::fs::remove_file(&file).unwrap();
    kill(pid(&pool, 0));
    kill(pid(&pool, 1));
    assert!(
        eventually(|| matches!(pool.health(), Health::Failed(_))),
        "{:#?}",
        log.lines()
    );
    let begin = Instant::now();
    let error = call(&pool, "echo").unwrap_err();
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    assert!(
        matches!(&error, CallError::Unavailable(why) if why.contains("exited with code 3")),
        "{error}"
    );

    std::fs::write(&file, "").unwrap();
    assert!(eventually(|| pool.health() == Health::Ready));
    echoes(&pool);
    all_ready(&pool);
}

#[test]
fn a_replacement_that_greets_differently_is_not_taken() {
    let restart = RestartPolicy {
        base: Duration::from_millis(1),
        failures: 2,
        ..RestartPolicy::default()
    };
    let settings = Settings {
        restart,
        ..workers(1, 1)
    };
    let (pool, log) = start(child(&[("CHILD_GREETING", "pid")]), settings);
    kill(pid(&pool, 0));
    log.wait_for("greeting is not the one");
    assert!(eventually(|| matches!(pool.health(), Health::Failed(_))));
}
