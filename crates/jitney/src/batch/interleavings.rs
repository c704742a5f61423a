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

use shuttle::sync::mpsc::{Receiver, Sender, channel};
use shuttle::{future::block_on, thread};

use super::{BatchError, Batcher, Batching, Context, Model, Refused, Surroundings};
use crate::clock::Clock;
use crate::sync::{Mutex, lock};

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

/// Hangs on 0 for as long as the test wants, and says when it is dropped.
struct Hanging {
    entered: Sender<()>,
    leave: Arc<Mutex<Receiver<()>>>,
    dropped: Sender<()>,
}

impl Model for Hanging {
    type In = u64;
    type Out = u64;
    type Error = &'static str;

    fn run(
        &mut self,
        items: &[u64],
        _: &Context<'_>,
    ) -> Result<Vec<Result<u64, &'static str>>, &'static str> {
        if items.contains(&0) {
            self.entered.send(()).map_err(|_| "the test is over")?;
            lock(&self.leave).recv().map_err(|_| "the test is over")?;
        }
        Ok(items.iter().map(|item| Ok(item * 2)).collect())
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.dropped.send(()).ok();
    }
}

/// A batcher whose instances hang, and the test's side of them.
struct Rig {
    batcher: Batcher<Hanging>,
    clock: Clock,
    entered: Receiver<()>,
    leave: Sender<()>,
    dropped: Receiver<()>,
}

impl Rig {
    /// Every instance after the first of each slot is made only when the test says so on the sender that comes with it.
    fn new(ahead: usize) -> (Rig, Sender<()>) {
        let batching = Batching {
            max_batch: NonZeroUsize::new(2).unwrap(),
            ahead,
            ..Batching::default()
        };
        let surroundings = standing_still();
        let clock = surroundings.clock.clone();
        let (enter, entered) = channel();
        let (leave, left) = channel();
        let (drop, dropped) = channel();
        let (replace, replaced) = channel();
        let left = Arc::new(Mutex::new(left));
        let made = Arc::new(AtomicUsize::new(0));
        let parts = Mutex::new((enter, drop, replaced));
        let make = move || {
            let parts = lock(&parts);
            if made.fetch_add(1, Ordering::SeqCst) > ahead {
                parts.2.recv().map_err(|_| "the test is over")?;
            }
            Ok::<_, &'static str>(Hanging {
                entered: parts.0.clone(),
                leave: left.clone(),
                dropped: parts.1.clone(),
            })
        };
        let batcher = Batcher::start_with("hanging", batching, surroundings, make).unwrap();
        let rig = Rig {
            batcher,
            clock,
            entered,
            leave,
            dropped,
        };
        (rig, replace)
    }

    fn submit(&self, item: u64) -> super::Ticket<Hanging> {
        self.batcher.submit(item, None).unwrap()
    }

    /// The instance that has entered the model is given up.
    fn give_up(&self, hung: super::Ticket<Hanging>) {
        self.clock.advance(Batching::default().run_limit);
        assert!(matches!(block_on(hung), Err(BatchError::RunLimit(_))));
    }

    fn close(self) {
        self.batcher.close();
        block_on(self.batcher.wait_closed());
    }
}

/// A given-up instance that comes back leaves, whoever leads by then: nobody is to come and wake it.
#[test]
fn an_instance_that_comes_back_late_goes() {
    explore(|| {
        let (rig, replace) = Rig::new(0);
        replace.send(()).unwrap();
        let hung = rig.submit(0);
        rig.entered.recv().unwrap();
        rig.give_up(hung);
        assert_eq!(block_on(rig.submit(1)).unwrap().value, 2);
        rig.leave.send(()).unwrap();
        rig.dropped.recv().unwrap();
        rig.close();
    });
}

/// What waits for an instance that hangs goes to one that is free once the other is given up, before there is another in its place.
#[test]
fn who_waits_to_lead_takes_over_from_an_instance_that_is_given_up() {
    explore(|| {
        let (rig, replace) = Rig::new(1);
        let hung = rig.submit(0);
        rig.entered.recv().unwrap();
        let behind = rig.submit(1);
        rig.give_up(hung);
        assert_eq!(block_on(behind).unwrap().value, 2);
        replace.send(()).unwrap();
        rig.leave.send(()).unwrap();
        rig.close();
    });
}
