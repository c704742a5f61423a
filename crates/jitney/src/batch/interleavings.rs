//! The driver's threads under shuttle: thousands of random and of prioritised schedules of submit, drop, run, panic and close.
//!
//! `cargo nextest run -p jitney --features model-check`
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shuttle::{future::block_on, thread};

use super::{BatchError, Batcher, Batching, Context, Model, Refused, Surroundings};
use crate::clock::Clock;

struct Doubler;

impl Model for Doubler {
    type In = u64;
    type Out = u64;
    type Error = &'static str;

    fn run(
        &mut self,
        items: &[u64],
        _: &Context<'_>,
    ) -> Result<Vec<Result<u64, &'static str>>, &'static str> {
        // A schedule may have anything happen while the model runs.
        thread::yield_now();
        if items.contains(&13) {
            return Err("unlucky");
        }
        Ok(items.iter().map(|item| Ok(item * 2)).collect())
    }
}

fn explore(test: impl Fn() + Send + Sync + Clone + 'static) {
    shuttle::check_random(test.clone(), 2_000);
    shuttle::check_pct(test, 1_000, 3);
}

fn batcher(instances: usize, ahead: usize) -> Batcher<Doubler> {
    let batching = Batching {
        max_batch: NonZeroUsize::new(2).unwrap(),
        instances: NonZeroUsize::new(instances).unwrap(),
        ahead,
        ..Batching::default()
    };
    Batcher::start_with("doubler", batching, standing_still(), || {
        Ok::<_, String>(Doubler)
    })
    .unwrap()
}

fn standing_still() -> Surroundings {
    Surroundings {
        clock: Clock::paused(),
        courier: None,
        ..Surroundings::default()
    }
}

/// Nobody is left behind: no wake-up is lost whatever the schedule, or shuttle reports the deadlock.
fn everyone_is_answered(instances: usize, ahead: usize) {
    let batcher = batcher(instances, ahead);
    let callers: Vec<_> = (0..3u64)
        .map(|caller| {
            let batcher = batcher.clone();
            thread::spawn(move || {
                for item in [caller, caller + 10] {
                    let ticket = batcher.submit(item, None).unwrap();
                    if item == 2 {
                        drop(ticket);
                        continue;
                    }
                    match block_on(ticket) {
                        Ok(answer) => assert_eq!(answer.value, item * 2),
                        Err(BatchError::Model(_)) => assert_eq!(item, 13),
                        Err(other) => panic!("item {item}: {other}"),
                    }
                }
            })
        })
        .collect();
    callers
        .into_iter()
        .for_each(|caller| caller.join().unwrap());
    batcher.close();
    block_on(batcher.wait_closed());
    let stats = batcher.stats();
    assert_eq!(
        stats.received,
        stats.ok + stats.failed + stats.cancelled,
        "{stats:?}"
    );
}

#[test]
fn with_one_instance() {
    explore(|| everyone_is_answered(1, 0));
}

#[test]
fn with_two_instances() {
    explore(|| everyone_is_answered(2, 0));
}

#[test]
fn with_one_instance_that_takes_batches_ahead() {
    explore(|| everyone_is_answered(1, 1));
}

#[test]
fn with_two_instances_that_take_batches_ahead() {
    explore(|| everyone_is_answered(2, 1));
}

/// Closing races with submitting: a caller is refused or answered, never forgotten.
#[test]
fn closing_while_others_submit() {
    explore(|| {
        let batcher = batcher(2, 0);
        let answered = Arc::new(AtomicUsize::new(0));
        let callers: Vec<_> = (0..2u64)
            .map(|item| {
                let (batcher, answered) = (batcher.clone(), answered.clone());
                thread::spawn(move || match batcher.submit(item, None) {
                    Ok(ticket) => {
                        assert_eq!(block_on(ticket).unwrap().value, item * 2);
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                    Err(refused) => assert_eq!(refused, Refused::Closed),
                })
            })
            .collect();
        batcher.close();
        block_on(batcher.wait_closed());
        callers
            .into_iter()
            .for_each(|caller| caller.join().unwrap());
        let stats = batcher.stats();
        assert_eq!(
            (stats.ok, stats.queued),
            (answered.load(Ordering::SeqCst) as u64, 0)
        );
    });
}

/// A deadline is kept whatever the schedule, and the one who waits longer gets the answer.
#[test]
fn time_moves_while_a_batch_runs() {
    explore(|| {
        let surroundings = standing_still();
        let clock = surroundings.clock.clone();
        let make = || Ok::<_, String>(Doubler);
        let batcher =
            Batcher::start_with("doubler", Batching::default(), surroundings, make).unwrap();
        let second = std::time::Duration::from_secs(1);
        let hasty = batcher.submit(1, Some(clock.now() + second)).unwrap();
        let patient = batcher.submit(2, Some(clock.now() + 5 * second)).unwrap();
        let mover = thread::spawn(move || clock.advance(2 * second));
        match block_on(hasty) {
            Ok(answer) => assert_eq!(answer.value, 2),
            Err(error) => assert!(matches!(error, BatchError::Expired { .. }), "{error}"),
        }
        assert_eq!(block_on(patient).unwrap().value, 4);
        mover.join().unwrap();
        batcher.close();
        block_on(batcher.wait_closed());
    });
}
