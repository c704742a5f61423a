//! Trouble that goes on, and the replacement of workers that have served their time.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use jitney::process::{CallError, Pool, RestartPolicy, Settings, WorkerState, WorkerStatus};

use super::support::*;

/// What a run loses to a kill is that run: all others are answered, and nobody waits long. Workers are killed whatever they are doing, and
/// the pool does not fail, since those that were starting do not die as fast as its window would have it.
#[test]
fn a_storm_of_kills_costs_only_what_was_running() {
    let restart = RestartPolicy {
        window: Duration::from_millis(500),
        ..RestartPolicy::default()
    };
    let settings = Settings {
        restart,
        ..workers(2, 2)
    };
    let (pool, log) = start(guarded(&[("CHILD_START", "slow:0.2")]), settings);
    all_ready(&pool);
    let (over, answered, crashed) = (
        AtomicBool::new(false),
        AtomicUsize::new(0),
        AtomicUsize::new(0),
    );
    let mut kills = Vec::new();
    thread::scope(|scope| {
        for caller in 0..4_u8 {
            let (pool, over, answered, crashed) = (&pool, &over, &answered, &crashed);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    match call_with(pool, "echo", &[caller; 100]) {
                        Ok(reply) => {
                            assert_eq!(reply.payload, [caller; 100][..]);
                            answered.fetch_add(1, Ordering::Relaxed);
                        }
                        Err(CallError::Crashed(_)) => _ = crashed.fetch_add(1, Ordering::Relaxed),
                        Err(error) => panic!("{error}"),
                    }
                    assert!(
                        begin.elapsed() < Duration::from_secs(10),
                        "{:?}",
                        begin.elapsed()
                    );
                }
            });
        }
        let end = Instant::now() + Duration::from_secs(5);
        while Instant::now() < end {
            let round = kills.len();
            thread::sleep(Duration::from_millis(250 + 37 * (round as u64 % 7)));
            kills.extend(strike(&pool, &pool.workers()[round % 2]));
            if round % 3 == 0 {
                let starting = starting(&pool);
                kills.extend(starting.and_then(|worker| strike(&pool, &worker)));
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    let (answered, crashed) = (answered.into_inner(), crashed.into_inner());
    assert!(crashed <= kills.len(), "{crashed} of {kills:?}");
    assert!(answered > 100, "{answered}: {:#?}", log.lines());
    for state in [WorkerState::Busy, WorkerState::Starting] {
        assert!(kills.contains(&state), "{kills:?}");
    }
    all_ready(&pool);
    echoes(&pool);
}

/// Kills what is in a worker's place, if anything, and waits until the pool knows; what it was doing.
fn strike(pool: &Pool, victim: &WorkerStatus) -> Option<WorkerState> {
    kill(victim.pid?.cast_signed());
    let is_gone = || pool.workers().iter().all(|worker| worker.pid != victim.pid);
    assert!(eventually(is_gone));
    Some(victim.state)
}

/// Waits for a worker that starts, unless there are enough.
fn starting(pool: &Pool) -> Option<WorkerStatus> {
    loop {
        let workers = pool.workers();
        let is = |worker: &WorkerStatus, states: &[WorkerState]| states.contains(&worker.state);
        let enough = |worker| is(worker, &[WorkerState::Idle, WorkerState::Busy]);
        if workers.iter().all(enough) {
            return None;
        }
        let starts = |worker: &WorkerStatus| is(worker, &[WorkerState::Starting]);
        if let Some(worker) = workers.into_iter().find(starts) {
            return Some(worker);
        }
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_worker_that_has_served_its_time_is_replaced_without_a_gap() {
    let settings = Settings {
        recycle_after: Some(50),
        ..workers(2, 1)
    };
    let (pool, log) = start(child(&[("CHILD_START", "slow:0.2")]), settings);
    all_ready(&pool);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let end = Instant::now() + PATIENCE;
                while log.count("exited with code 0") < 4 && Instant::now() < end {
                    assert!(call(&pool, "sleep 0.002").is_ok(), "{:#?}", log.lines());
                    let serving = |state| matches!(state, WorkerState::Idle | WorkerState::Busy);
                    let ready = pool
                        .workers()
                        .iter()
                        .filter(|worker| serving(worker.state))
                        .count();
                    assert!(ready >= 2, "{:#?}", pool.workers());
                }
            });
        }
    });
    assert!(log.count("exited with code 0") >= 4, "{:#?}", log.lines());
    assert_eq!(log.count("SIGKILL"), 0);
    assert_eq!(
        pool.workers()
            .iter()
            .map(|worker| worker.restarts)
            .sum::<u64>(),
        0
    );
}

#[test]
fn a_worker_above_the_memory_mark_is_replaced() {
    let settings = Settings {
        memory_mark: Some(120 << 20),
        ..workers(1, 1)
    };
    let (pool, log) = start(child(&[]), settings);
    let before = pid(&pool, 0);
    call(&pool, "grow 150").unwrap();
    let changed = || {
        call(&pool, "sleep 0.05").unwrap();
        let workers = pool.workers();
        workers.len() == 1
            && workers[0].pid != Some(before.cast_unsigned())
            && workers[0].state == WorkerState::Idle
    };
    assert!(eventually(changed), "{:#?}", log.lines());
    assert!(dies(before));
}

#[test]
fn two_pools_live_side_by_side() {
    let (first, _) = start(child(&[]), workers(1, 1));
    let (second, _) = start(child(&[]), workers(1, 1));
    let grandchild = number(&second, "fork leaves");
    drop(first);
    assert!(is_alive(grandchild));
    echoes(&second);
}
