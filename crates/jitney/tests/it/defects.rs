//! The thirty-four defects of a batcher written by hand in an afternoon, each as a test that this one does not have it.
//!
//! The hand-made batcher is the usual one: an asyncio queue, a loop that collects up to `max_batch` items for up to `max_wait_ms`, and a
//! future for each caller. What the compiler refuses is in `src/batch/unwritable.rs`.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::batch::{
    BatchError, Batcher, Batching, Context, Model, Reason, Refused, Surroundings, Terms, Ticket,
};
use jitney::clock::Clock;

const S: Duration = Duration::from_secs(1);

type Said = Result<Vec<Result<u64, String>>, String>;
type Work = Arc<dyn Fn(&[u64]) -> Said + Send + Sync>;

/// A model that notes its batches, waits to be let go where it is gated, and then does its work.
struct Worker {
    work: Work,
    noted: Arc<Mutex<Vec<Vec<u64>>>>,
    gate: Option<Gate>,
}

impl Model for Worker {
    type In = u64;
    type Out = u64;
    type Error = String;

    fn run(&mut self, items: &[u64], _: &Context<'_>) -> Said {
        self.noted.lock().unwrap().push(items.to_vec());
        if let Some((entered, leave)) = &self.gate {
            entered.send(()).ok();
            leave.lock().unwrap().recv().ok();
        }
        (self.work)(items)
    }

    fn compatible(a: &u64, b: &u64) -> bool {
        // Items from a thousand on are of another shape.
        (*a < 1000) == (*b < 1000)
    }

    fn rows(item: &u64) -> usize {
        if *item == 999 { 3 } else { 1 }
    }
}

/// Says that a batch has entered, and waits to be let go.
type Gate = (SyncSender<()>, Arc<Mutex<Receiver<()>>>);

struct Rig {
    batcher: Batcher<Worker>,
    clock: Clock,
    noted: Arc<Mutex<Vec<Vec<u64>>>>,
    entered: Receiver<()>,
    leave: SyncSender<()>,
}

impl Rig {
    fn new(
        batching: Batching,
        gated: bool,
        work: impl Fn(&[u64]) -> Said + Send + Sync + 'static,
    ) -> Rig {
        let (clock, work) = (Clock::paused(), Arc::new(work));
        let (enter, entered) = sync_channel(1000);
        let (leave, left) = sync_channel(1000);
        let (left, noted) = (Arc::new(Mutex::new(left)), Arc::default());
        let shared = Arc::clone(&noted);
        let make = move || {
            Ok::<_, String>(Worker {
                work: Arc::clone(&work) as Work,
                noted: Arc::clone(&shared),
                gate: gated.then(|| (enter.clone(), Arc::clone(&left))),
            })
        };
        let surroundings = Surroundings {
            clock: clock.clone(),
            courier: None,
            ..Surroundings::default()
        };
        Rig {
            batcher: Batcher::start_with("defects", batching, surroundings, make).unwrap(),
            clock,
            noted,
            entered,
            leave,
        }
    }

    /// One whose model doubles, at once.
    fn quick(max_batch: usize) -> Rig {
        Rig::new(batching(max_batch), false, double)
    }

    /// One whose model doubles, and is busy with the item 0 until it is let go.
    fn busy(max_batch: usize) -> (Rig, Ticket<Worker>) {
        Rig::busy_with(batching(max_batch), double)
    }

    fn busy_with(
        batching: Batching,
        work: impl Fn(&[u64]) -> Said + Send + Sync + 'static,
    ) -> (Rig, Ticket<Worker>) {
        let rig = Rig::new(batching, true, work);
        let first = rig.submit(0);
        rig.entered.recv().unwrap();
        (rig, first)
    }

    fn submit(&self, item: u64) -> Ticket<Worker> {
        self.batcher.submit(item, None).unwrap()
    }

    fn open(&self) {
        for _ in 0..100 {
            self.leave.send(()).ok();
        }
    }

    /// The batches so far.
    fn batches(&self) -> Vec<Vec<u64>> {
        self.noted.lock().unwrap().clone()
    }
}

fn batching(max_batch: usize) -> Batching {
    Batching {
        max_batch: NonZeroUsize::new(max_batch).unwrap(),
        ..Batching::default()
    }
}

fn double(items: &[u64]) -> Said {
    Ok(items.iter().map(|item| Ok(2 * item)).collect())
}

async fn values(tickets: Vec<Ticket<Worker>>) -> Vec<Result<u64, String>> {
    let mut values = Vec::new();
    for ticket in tickets {
        values.push(
            ticket
                .await
                .map(|answer| answer.value)
                .map_err(|error| error.to_string()),
        );
    }
    values
}

fn submit_all(rig: &Rig, items: impl IntoIterator<Item = u64>) -> Vec<Ticket<Worker>> {
    items.into_iter().map(|item| rig.submit(item)).collect()
}

#[tokio::test]
async fn b01_the_model_runs_off_the_loop() {
    let (rig, first) = Rig::busy(1);
    // The model is let go by the only thread of the loop, which therefore goes round while the model blocks.
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    rig.open();
    assert_eq!(first.await.unwrap().value, 0);
}

#[tokio::test]
async fn b02_a_lone_request_needs_no_others_and_no_time() {
    let rig = Rig::quick(32);
    assert_eq!(
        rig.submit(4).await.unwrap().value,
        8,
        "the clock stands still"
    );
}

#[tokio::test]
async fn b03_a_caller_who_leaves_a_running_batch_harms_no_mate() {
    let (rig, first) = Rig::busy(4);
    let mut tickets = submit_all(&rig, [1, 2, 3]);
    rig.leave.send(()).unwrap();
    rig.entered.recv().unwrap();
    drop(tickets.remove(1));
    rig.open();
    assert_eq!(values(tickets).await, [Ok(2), Ok(6)]);
    first.await.unwrap();
}

#[tokio::test]
async fn b04_who_left_the_queue_is_neither_run_nor_counted() {
    let (rig, first) = Rig::busy(4);
    let gone = submit_all(&rig, 1..=20);
    let stay = submit_all(&rig, 101..=104);
    drop(gone);
    assert_eq!(
        rig.batcher.stats().queued,
        4,
        "the queue is shorter at once"
    );
    rig.open();
    values(stay).await;
    assert_eq!(rig.batches(), [vec![0], vec![101, 102, 103, 104]]);
    first.await.unwrap();
}

/// The answers of a batch of three whose model gives this many results.
async fn with_results(count: usize) -> Vec<Result<u64, String>> {
    let settings = Batching {
        isolate: false,
        ..batching(4)
    };
    let (rig, first) = Rig::busy_with(settings, move |items| {
        let count = if items == [0] { 1 } else { count };
        Ok((0..count as u64).map(Ok).collect())
    });
    let tickets = submit_all(&rig, [1, 2, 3]);
    rig.open();
    let values = values(tickets).await;
    first.await.unwrap();
    values
}

#[tokio::test]
async fn b05_too_few_results_answer_nobody_wrongly_and_everybody() {
    let error = Err("the model gave 2 results for 3 items".to_owned());
    assert_eq!(with_results(2).await, vec![error; 3]);
}

#[tokio::test]
async fn b06_too_many_results_shift_no_answers() {
    let error = Err("the model gave 4 results for 3 items".to_owned());
    assert_eq!(with_results(4).await, vec![error; 3]);
}

#[tokio::test]
async fn b09_one_bad_item_fails_alone() {
    let (rig, first) = Rig::busy_with(batching(8), |items| {
        if items.contains(&5) {
            Err("five".to_owned())
        } else {
            double(items)
        }
    });
    let tickets = submit_all(&rig, 1..=8);
    rig.open();
    let values = values(tickets).await;
    for (item, value) in (1..=8).zip(values) {
        let expected = if item == 5 {
            Err("five".to_owned())
        } else {
            Ok(2 * item)
        };
        assert_eq!(value, expected);
    }
    first.await.unwrap();
}

#[tokio::test]
async fn b10_each_caller_has_an_error_of_its_own() {
    let settings = Batching {
        isolate: false,
        ..batching(4)
    };
    let (rig, first) = Rig::busy_with(settings, |items| {
        if items == [0] {
            double(items)
        } else {
            Err("no".to_owned())
        }
    });
    let [one, other] = [rig.submit(1), rig.submit(2)];
    rig.open();
    let (one, other) = (one.await.unwrap_err(), other.await.unwrap_err());
    drop(one);
    assert_eq!(other.to_string(), "no");
    first.await.unwrap();
}

#[tokio::test]
async fn b11_b12_whatever_the_model_throws_is_caught_and_it_lives_on() {
    let rig = Rig::new(batching(1), false, |items| match items {
        [1] => std::panic::panic_any(7_u8),
        [2] => panic!("StopIteration"),
        items => double(items),
    });
    for item in [1, 2] {
        let error = rig.submit(item).await.unwrap_err();
        assert!(matches!(error, BatchError::Panicked(_)), "{error}");
    }
    assert_eq!(rig.submit(3).await.unwrap().value, 6);
    assert_eq!(rig.batcher.stats().replaced, 2);
}

#[tokio::test]
async fn b13_nobody_is_answered_before_the_model_has_answered_for_all() {
    // Lazy results that fail midway are made whole inside the model's call, where a panic is still the batch's.
    let settings = Batching {
        isolate: false,
        ..batching(4)
    };
    let (rig, first) = Rig::busy_with(settings, |items| {
        Ok(items
            .iter()
            .map(|item| {
                if *item == 2 {
                    panic!("midway")
                } else {
                    Ok(*item)
                }
            })
            .collect())
    });
    let tickets = submit_all(&rig, [1, 2, 3]);
    rig.open();
    assert!(values(tickets).await.iter().all(Result::is_err));
    first.await.unwrap();
}

#[tokio::test]
async fn b14_the_threads_have_an_owner_who_waits_for_them() {
    let rig = Rig::quick(4);
    let ticket = rig.submit(1);
    rig.batcher.close();
    rig.batcher.wait_closed().await;
    assert_eq!(ticket.await.unwrap().value, 2);
    // With the threads the model has gone, and with it the last other owner of what it shares.
    assert_eq!(Arc::strong_count(&rig.noted), 1);
}

#[tokio::test]
async fn b17_whoever_waits_at_the_end_is_answered_and_later_ones_are_told() {
    let (rig, first) = Rig::busy(1);
    let queued = submit_all(&rig, [1, 2]);
    rig.batcher.close();
    assert_eq!(rig.batcher.submit(3, None).unwrap_err(), Refused::Closed);
    rig.open();
    assert_eq!(values(queued).await, [Ok(2), Ok(4)]);
    first.await.unwrap();
    rig.batcher.wait_closed().await;
}

#[tokio::test]
async fn b18_the_queue_has_a_bound() {
    let (rig, first) = Rig::busy_with(
        Batching {
            queue: NonZeroUsize::new(3).unwrap(),
            ..batching(1)
        },
        double,
    );
    let queued = submit_all(&rig, 1..=3);
    let refused = rig.batcher.submit(4, None).unwrap_err();
    assert!(
        matches!(refused, Refused::Full { queued: 3, .. }),
        "{refused}"
    );
    rig.open();
    values(queued).await;
    first.await.unwrap();
}

#[tokio::test]
async fn b19_who_is_too_late_is_not_run() {
    let (rig, first) = Rig::busy(1);
    let late = rig.batcher.submit(1, Some(rig.clock.now() + S)).unwrap();
    rig.clock.advance(S);
    let error = late.await.unwrap_err();
    assert!(
        matches!(error, BatchError::Expired { running: false }),
        "{error}"
    );
    rig.open();
    first.await.unwrap();
    assert_eq!(rig.batches(), [[0]]);
}

#[tokio::test]
async fn b20_what_is_ready_leaves_together_even_without_a_window() {
    let settings = Batching {
        max_wait: Duration::ZERO,
        ..batching(32)
    };
    let (rig, first) = Rig::busy_with(settings, double);
    let tickets = submit_all(&rig, 1..=64);
    rig.open();
    values(tickets).await;
    first.await.unwrap();
    let sizes: Vec<usize> = rig.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 32, 32]);
}

#[tokio::test]
async fn b21_a_late_look_takes_all_that_wait() {
    let (rig, first) = Rig::busy(32);
    let tickets = submit_all(&rig, 1..=60);
    rig.clock.advance(S);
    rig.open();
    values(tickets).await;
    first.await.unwrap();
    let sizes: Vec<usize> = rig.batches().iter().map(Vec::len).collect();
    assert_eq!(sizes, [1, 32, 28]);
}

#[tokio::test]
async fn b22_who_waited_through_a_batch_does_not_wait_again() {
    let (rig, first) = Rig::busy(32);
    let ticket = rig.submit(1);
    rig.clock.advance(S);
    rig.open();
    // The clock stands still: any window would never end.
    assert_eq!(ticket.await.unwrap().value, 2);
    first.await.unwrap();
}

#[tokio::test]
async fn b23_a_lone_request_pays_no_window() {
    let rig = Rig::quick(32);
    for _ in 0..50 {
        let trip = rig.submit(1).await.unwrap().trip;
        assert_eq!((trip.held, trip.reason), (Duration::ZERO, Reason::Idle));
    }
}

#[tokio::test]
async fn b24_the_next_batch_is_collected_and_handed_over_while_one_runs() {
    let settings = Batching {
        ahead: 1,
        ..batching(2)
    };
    let (rig, first) = Rig::busy_with(settings, double);
    let next = submit_all(&rig, [1, 2]);
    rig.entered.recv().unwrap();
    assert_eq!(rig.batches(), [vec![0], vec![1, 2]]);
    rig.open();
    values(next).await;
    first.await.unwrap();
}

#[tokio::test]
async fn b25_a_request_costs_no_timer_and_a_batch_one_call() {
    let (rig, first) = Rig::busy(32);
    let tickets = submit_all(&rig, 1..=32);
    rig.open();
    values(tickets).await;
    first.await.unwrap();
    assert_eq!(rig.batches().len(), 2);
}

#[tokio::test]
async fn b26_a_cancellation_at_any_moment_loses_nobody() {
    let rig = Rig::quick(4);
    let mut answered = 0;
    for round in 0..3000_u64 {
        let (stays, leaves) = (rig.submit(round % 900), rig.submit(1));
        if round % 3 == 0 {
            tokio::task::yield_now().await;
        }
        drop(leaves);
        assert_eq!(stays.await.unwrap().value, 2 * (round % 900));
        answered += 1;
    }
    let stats = rig.batcher.stats();
    assert_eq!(stats.received, 6000);
    assert!(stats.ok >= answered && stats.failed == 0, "{stats:?}");
}

#[tokio::test]
async fn b28_b29_any_thread_may_ask_and_any_executor_may_wait() {
    let rig = Rig::quick(8);
    let batcher = rig.batcher.clone();
    let asks = std::thread::Builder::new().spawn(move || batcher.submit(21, None).unwrap());
    let ticket = asks.unwrap().join().unwrap();
    assert_eq!(
        futures_util::future::join(ticket, async { 1 })
            .await
            .0
            .unwrap()
            .value,
        42
    );
}

#[tokio::test]
async fn b30_shapes_are_not_mixed_and_weights_are_counted() {
    let (rig, first) = Rig::busy(4);
    let tickets = submit_all(&rig, [1, 1001, 2, 1002, 999, 3]);
    rig.open();
    values(tickets).await;
    first.await.unwrap();
    let batches = rig.batches();
    assert!(batches.contains(&vec![1001, 1002]), "{batches:?}");
    // 999 takes three rows of the four.
    assert!(batches.contains(&vec![999, 3]), "{batches:?}");
}

#[tokio::test]
async fn b31_the_urgent_go_first_and_nobody_is_crowded_out() {
    let (rig, first) = Rig::busy(1);
    let on = |priority, key| Terms {
        priority,
        key: Some(key),
        ..Terms::default()
    };
    let submit = |item, terms| rig.batcher.submit_on(item, &terms).unwrap();
    let tickets = vec![
        submit(1, on(0, 1)),
        submit(2, on(0, 1)),
        submit(3, on(0, 2)),
        submit(4, on(1, 3)),
    ];
    rig.open();
    values(tickets).await;
    first.await.unwrap();
    assert_eq!(rig.batches(), [[0], [4], [1], [3], [2]]);
}

#[tokio::test]
async fn b32_every_failure_is_counted() {
    let rig = Rig::new(batching(1), false, |_| Err("no".to_owned()));
    for _ in 0..3 {
        rig.submit(1).await.unwrap_err();
    }
    let stats = rig.batcher.stats();
    assert_eq!((stats.failed, stats.ok, stats.received), (3, 0, 3));
}

#[tokio::test]
async fn b27_b34_the_way_of_each_request_can_be_told() {
    let (rig, first) = Rig::busy(4);
    let second = rig.submit(1);
    rig.clock.advance(S);
    rig.open();
    assert_eq!(first.await.unwrap().trip.run, S);
    let trip = second.await.unwrap().trip;
    assert_eq!((trip.queued, trip.rows), (S, 1));
    let stats = rig.batcher.stats();
    assert_eq!(stats.batch_rows[0], 2);
    assert_eq!(stats.oldest, None);
}
