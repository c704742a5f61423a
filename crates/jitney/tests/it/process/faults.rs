//! What a worker's death, hang or lie costs, and whom.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use jitney::process::{CallError, Health, Request, RestartPolicy, Settings, WorkerState};

use super::support::*;

/// However close the call comes behind the kill: a run that its worker never read has not begun.
#[test]
fn an_idle_worker_that_was_killed_is_replaced_unnoticed() {
    let restart = RestartPolicy {
        ceiling: Duration::from_millis(20),
        ..RestartPolicy::default()
    };
    for count in [1, 2] {
        let (pool, log) = start(
            child(&[]),
            Settings {
                restart,
                ..workers(count, 2)
            },
        );
        all_ready(&pool);
        for round in 0..20 {
            let victim = pid(&pool, 0);
            kill(victim);
            thread::sleep(Duration::from_micros(50 * (round % 5)));
            echoes(&pool);
            assert!(dies(victim));
            all_ready(&pool);
        }
        assert_eq!(log.count("was killed by signal 9 (SIGKILL)"), 20);
        assert_eq!(
            pool.workers()
                .iter()
                .map(|worker| worker.restarts)
                .sum::<u64>(),
            20
        );
    }
}

#[test]
fn a_worker_that_dies_costs_what_it_was_running() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    let table = [
        ("crash", "was killed by signal 9 (SIGKILL)"),
        ("exit 7", "exited with code 7"),
        ("exit 0", "exited with code 0"),
    ];
    for (command, expected) in table {
        let error = call(&pool, command).unwrap_err();
        assert_eq!(error, CallError::Crashed(expected.to_owned()));
        echoes(&pool);
    }
}

#[test]
fn what_waited_in_the_pipe_of_a_dead_worker_goes_to_another() {
    let (pool, log) = start(child(&[]), workers(2, 2));
    all_ready(&pool);
    thread::scope(|scope| {
        let asleep: Vec<_> = (0..2)
            .map(|_| scope.spawn(|| call(&pool, "sleep 1")))
            .collect();
        busy(&pool, 2);
        let waiting: Vec<_> = (0..2).map(|_| scope.spawn(|| call(&pool, "pid"))).collect();
        thread::sleep(Duration::from_millis(100));
        let victim = pid(&pool, 0);
        kill(victim);
        let crashed = asleep
            .into_iter()
            .filter(|_| true)
            .map(|call| call.join().unwrap())
            .filter(Result::is_err)
            .count();
        assert_eq!(crashed, 1, "{:#?}", log.lines());
        for reply in waiting.into_iter().map(|call| call.join().unwrap()) {
            assert_ne!(reply.unwrap().meta, victim.to_string().as_bytes());
        }
    });
}

#[test]
fn a_worker_that_hangs_is_killed_at_the_limit_of_the_run_it_is_at() {
    let (pool, _) = start(child(&[]), workers(1, 2));
    let limit = Duration::from_millis(700);
    // In Python, and stopped by a signal; the second run in the pipe does not pay for the first.
    for command in ["hang", "stop"] {
        thread::scope(|scope| {
            let begin = Instant::now();
            let hung = scope.spawn(|| pool.call(&Request::new(command.as_bytes(), limit)));
            busy(&pool, 1);
            let next = scope.spawn(|| pool.call(&Request::new(b"echo", PATIENCE)));
            assert_eq!(hung.join().unwrap().unwrap_err(), CallError::Hung(limit));
            let took = begin.elapsed();
            assert!(
                took >= limit && took < limit + Duration::from_secs(3),
                "{took:?}"
            );
            assert_eq!(&next.join().unwrap().unwrap().meta[..], b"echo");
        });
    }
}

#[test]
fn the_limit_counts_from_when_a_run_is_first_in_its_pipe() {
    let (pool, _) = start(child(&[]), workers(1, 3));
    let limit = Duration::from_millis(1500);
    thread::scope(|scope| {
        let pool = &pool;
        let run = move || pool.call(&Request::new(b"sleep 0.8", limit));
        let runs: Vec<_> = (0..3).map(|_| scope.spawn(run)).collect();
        for run in runs {
            let reply = run.join().unwrap().unwrap();
            assert!(
                reply.took >= Duration::from_millis(600) && reply.took < limit,
                "{:?}",
                reply.took
            );
        }
    });
}

#[test]
fn a_worker_that_is_sent_more_than_it_reads_is_killed_at_the_limit() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    let stopped = pid(&pool, 0);
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(stopped).unwrap(),
        rustix::process::Signal::STOP,
    )
    .unwrap();
    let meta = vec![b' '; Request::META_MAX];
    let limit = Duration::from_millis(300);
    assert_eq!(
        pool.call(&Request::new(&meta, limit)).unwrap_err(),
        CallError::Hung(limit)
    );
    echoes(&pool);
}

#[test]
fn lies_end_the_worker_and_cost_only_the_run_that_told_them() {
    let restart = RestartPolicy {
        ceiling: Duration::from_millis(100),
        ..RestartPolicy::default()
    };
    let (pool, log) = start(
        child(&[]),
        Settings {
            restart,
            ..workers(2, 1)
        },
    );
    let kinds = [
        "noise",
        "long",
        "other-run",
        "other-slot",
        "no-descriptor",
        "no-region",
        "loose",
        "pipe",
        "descriptors",
        "ready",
        "hang-up",
    ];
    for how in kinds {
        all_ready(&pool);
        let error = call(&pool, &format!("hostile {how}")).unwrap_err();
        assert!(
            matches!(error, CallError::Garbage(_)),
            "{how}: {error}: {:#?}",
            log.lines()
        );
        echoes(&pool);
    }
    assert_eq!(log.count("did not keep to the protocol"), kinds.len());
}

/// It goes on with the next run, until it is killed: that one is not run again, whether it has come so far or not.
#[test]
fn what_stands_behind_garbage_is_not_run_twice() {
    let folder = tempfile::tempdir().unwrap();
    let (pool, log) = start(child(&[]), workers(1, 2));
    for round in 0..5 {
        let notes = folder.path().join(round.to_string());
        let note = format!("note {}", notes.display());
        let (noted, raved) = thread::scope(|scope| {
            let raves = scope.spawn(|| call(&pool, "rave"));
            busy(&pool, 1);
            (call(&pool, &note), raves.join().unwrap())
        });
        assert!(matches!(raved, Err(CallError::Garbage(_))), "{raved:?}");
        assert!(matches!(noted, Err(CallError::Unavailable(_))), "{noted:?}");
        echoes(&pool);
        let begun = fs::read_to_string(notes).unwrap_or_default();
        assert!(begun.lines().count() <= 1, "{begun}: {:#?}", log.lines());
    }
}

#[test]
fn a_second_reply_ends_the_worker_and_reaches_nobody() {
    let (pool, log) = start(child(&[]), workers(1, 1));
    assert_eq!(call(&pool, "hostile twice").unwrap().meta.len(), 0);
    log.wait_for("which is not the one that is running");
    echoes(&pool);
}

#[test]
fn a_call_without_a_worker_ends_with_its_deadline() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    thread::scope(|scope| {
        let asleep = scope.spawn(|| call(&pool, "sleep 1"));
        busy(&pool, 1);
        let begin = Instant::now();
        let deadline = Some(begin + Duration::from_millis(100));
        let error = pool
            .call(&Request {
                deadline,
                ..Request::new(b"echo", PATIENCE)
            })
            .unwrap_err();
        assert!(matches!(error, CallError::Unavailable(_)), "{error}");
        assert!(
            begin.elapsed() >= Duration::from_millis(100)
                && begin.elapsed() < Duration::from_millis(900)
        );
        asleep.join().unwrap().unwrap();
    });
    echoes(&pool);
}

#[test]
fn the_worker_learns_who_has_left() {
    let (pool, _) = start(child(&[]), workers(1, 1));
    let begin = Instant::now();
    let left = |item: usize| begin.elapsed() > Duration::from_millis(100) && item.is_multiple_of(2);
    let request = Request {
        left: Some(&left),
        items: 5,
        ..Request::new(b"left 5 3", PATIENCE)
    };
    assert_eq!(&pool.call(&request).unwrap().meta[..], [1, 0, 1, 0, 1]);
    // The next run begins with a clean slate.
    let nobody = |_: usize| false;
    let request = Request {
        left: Some(&nobody),
        items: 5,
        ..Request::new(b"left 5 0", PATIENCE)
    };
    assert_eq!(&pool.call(&request).unwrap().meta[..], [0; 5]);
}

#[test]
fn workers_and_health_tell_the_truth() {
    let (pool, _) = start(child(&[]), workers(2, 1));
    all_ready(&pool);
    thread::scope(|scope| {
        let run = scope.spawn(|| {
            pool.call(&Request {
                weight: 7,
                ..Request::new(b"sleep 0.3", PATIENCE)
            })
        });
        busy(&pool, 1);
        let states: Vec<_> = pool.workers().iter().map(|worker| worker.state).collect();
        assert_eq!(states, [WorkerState::Busy, WorkerState::Idle]);
        run.join().unwrap().unwrap();
    });
    let workers = pool.workers();
    assert_eq!((workers[0].served, workers[1].served), (7, 0));
    assert!(workers.iter().all(|worker| worker.rss.unwrap() > 1 << 20));
    assert_eq!(pool.health(), Health::Ready);
    pool.close();
    assert_eq!(pool.health(), Health::Closed);
}
