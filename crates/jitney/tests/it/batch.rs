//! The batcher with its real threads. Interleavings are forced by gates inside the model; time is a paused clock or does not matter.

use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::batch::{
    BatchError, Batcher, Batching, Context, Courier, Model, Reason, Refused, Surroundings, Ticket,
};
use jitney::clock::Clock;
use jitney::tree::{Node, Tree};

/// What the model does with an item.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Double(u64),
    /// The item fails, alone.
    Refuse,
    /// The batch it is in fails.
    Raise,
    Panic,
    /// The batch has one result too few, or too many.
    Short,
    Long,
    /// An item of so many rows.
    Rows(usize),
    /// An item that shares a batch only with its like.
    Kind(u64),
}

/// A model that says which batches it got, and runs each only when the test lets it.
struct Gated {
    entered: SyncSender<Vec<Item>>,
    leave: Arc<Mutex<Receiver<()>>>,
}

impl Model for Gated {
    type In = Item;
    type Out = u64;
    type Error = String;

    fn run(&mut self, items: &[Item], _: &Context<'_>) -> Result<Vec<Result<u64, String>>, String> {
        self.entered
            .send(items.to_vec())
            .map_err(|error| error.to_string())?;
        self.leave
            .lock()
            .unwrap()
            .recv()
            .map_err(|error| error.to_string())?;
        if items.contains(&Item::Raise) {
            return Err("raised".into());
        }
        assert!(!items.contains(&Item::Panic), "boom");
        let mut results: Vec<_> = items.iter().map(|item| double(*item)).collect();
        if items.contains(&Item::Short) {
            results.pop();
        }
        if items.contains(&Item::Long) {
            results.push(Ok(0));
        }
        Ok(results)
    }

    fn rows(item: &Item) -> usize {
        if let Item::Rows(rows) = item {
            *rows
        } else {
            1
        }
    }

    fn compatible(a: &Item, b: &Item) -> bool {
        let kind = |item: &Item| {
            if let Item::Kind(kind) = item {
                *kind
            } else {
                0
            }
        };
        kind(a) == kind(b)
    }
}

fn double(item: Item) -> Result<u64, String> {
    match item {
        Item::Double(n) => Ok(2 * n),
        Item::Refuse => Err("refused".into()),
        _ => Ok(0),
    }
}

/// A batcher around a gated model, and the test's side of the gate.
struct Rig {
    batcher: Batcher<Gated>,
    clock: Clock,
    entered: Receiver<Vec<Item>>,
    leave: SyncSender<()>,
    made: Arc<AtomicUsize>,
}

impl Rig {
    fn new(batching: Batching) -> Rig {
        Rig::under(None, batching)
    }

    fn under(node: Option<Node>, batching: Batching) -> Rig {
        let clock = Clock::paused();
        let (enter, entered) = sync_channel(1000);
        let (leave, left) = sync_channel(1000);
        let left = Arc::new(Mutex::new(left));
        let made = Arc::new(AtomicUsize::new(0));
        let count = made.clone();
        let make = move || {
            count.fetch_add(1, Ordering::SeqCst);
            Ok::<_, String>(Gated {
                entered: enter.clone(),
                leave: left.clone(),
            })
        };
        let surroundings = Surroundings { node, ..at(&clock) };
        let batcher = Batcher::start_with("gated", batching, surroundings, make).unwrap();
        Rig {
            batcher,
            clock,
            entered,
            leave,
            made,
        }
    }

    fn submit(&self, item: Item) -> Ticket<Gated> {
        self.batcher.submit(item, None).unwrap()
    }

    fn submit_within(&self, item: Item, time: Duration) -> Result<Ticket<Gated>, Refused> {
        self.batcher.submit(item, Some(self.clock.now() + time))
    }

    /// Occupies the instance with a batch of one, so that what follows queues.
    fn occupy(&self) -> Ticket<Gated> {
        let ticket = self.submit(Item::Double(1));
        assert_eq!(self.entered(), [Item::Double(1)]);
        ticket
    }

    /// Waits until the model has entered its next batch.
    fn entered(&self) -> Vec<Item> {
        self.entered
            .recv_timeout(Duration::from_secs(10))
            .expect("the model should have got a batch")
    }

    fn nothing_entered(&self) -> bool {
        self.entered.try_recv().is_err()
    }

    /// Lets that many batches pass.
    fn open(&self, batches: usize) {
        for _ in 0..batches {
            // Nobody is left to pass when the batcher has closed already.
            self.leave.send(()).ok();
        }
    }

    async fn close(self) {
        self.batcher.close();
        self.open(100);
        self.batcher.wait_closed().await;
        let stats = self.batcher.stats();
        let ended = stats.ok + stats.failed + stats.refused + stats.expired + stats.cancelled;
        assert_eq!(
            (stats.queued, stats.running, stats.received),
            (0, 0, ended),
            "{stats:?}"
        );
    }
}

fn batching(max_batch: usize) -> Batching {
    Batching {
        max_batch: NonZeroUsize::new(max_batch).unwrap(),
        ..Batching::default()
    }
}

fn at(clock: &Clock) -> Surroundings {
    Surroundings {
        clock: clock.clone(),
        courier: None,
        ..Surroundings::default()
    }
}

fn value<E: std::fmt::Debug>(answer: Result<jitney::batch::Answer<u64>, E>) -> u64 {
    answer.unwrap().value
}

#[tokio::test]
async fn a_lone_request_leaves_at_once_though_time_stands_still() {
    let rig = Rig::new(batching(32));
    let ticket = rig.occupy();
    rig.open(1);
    let answer = ticket.await.unwrap();
    assert_eq!(
        (answer.value, answer.trip.rows, answer.trip.reason),
        (2, 1, Reason::Idle)
    );
    assert_eq!(answer.trip.held, Duration::ZERO);
    rig.close().await;
}

#[tokio::test]
async fn what_is_ready_is_taken_before_any_clock_is_looked_at() {
    for max_wait in [Duration::ZERO, Duration::from_millis(5)] {
        let rig = Rig::new(Batching {
            max_wait,
            ..batching(32)
        });
        let first = rig.occupy();
        let others: Vec<_> = (0..64).map(|n| rig.submit(Item::Double(n))).collect();
        rig.open(3);
        assert_eq!(value(first.await), 2);
        assert_eq!((rig.entered().len(), rig.entered().len()), (32, 32));
        for (n, ticket) in others.into_iter().enumerate() {
            assert_eq!(value(ticket.await), 2 * n as u64);
        }
        rig.close().await;
    }
}

#[tokio::test]
async fn a_cancelled_request_is_not_run_and_harms_no_batch_mate() {
    let rig = Rig::new(batching(32));
    let first = rig.occupy();
    let mut others: Vec<_> = (0..5).map(|n| rig.submit(Item::Double(n))).collect();
    drop(others.remove(2));
    assert_eq!(
        rig.batcher.stats().queued,
        4,
        "the queue shrinks when a caller leaves"
    );
    rig.open(1);
    assert_eq!(value(first.await), 2);
    let running = rig.entered();
    assert_eq!(running, [0, 1, 3, 4].map(Item::Double));
    drop(others.remove(1));
    rig.open(1);
    for (ticket, n) in others.into_iter().zip([0, 3, 4]) {
        assert_eq!(value(ticket.await), 2 * n);
    }
    assert_eq!(rig.batcher.stats().cancelled, 2);
    rig.close().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let queue = NonZeroUsize::new(3).unwrap();
    let rig = Rig::new(Batching {
        queue,
        ..batching(32)
    });
    let first = rig.occupy();
    let waiting: Vec<_> = (0..3).map(|n| rig.submit(Item::Double(n))).collect();
    let refused = rig.batcher.submit(Item::Double(9), None).unwrap_err();
    assert!(
        matches!(refused, Refused::Full { queued: 3, .. }),
        "{refused}"
    );
    drop(waiting);
    let again = rig.submit(Item::Double(9));
    rig.open(2);
    assert_eq!((value(first.await), value(again.await)), (2, 18));
    rig.close().await;
}

#[tokio::test]
async fn a_deadline_is_kept_in_the_queue_and_in_the_model() {
    let rig = Rig::new(batching(32));
    let ms = Duration::from_millis;
    let running = rig.submit_within(Item::Double(1), ms(50)).unwrap();
    rig.entered();
    let queued = rig.submit_within(Item::Double(2), ms(30)).unwrap();
    let patient = rig.submit(Item::Double(3));
    rig.clock.advance(ms(30));
    assert!(matches!(
        queued.await,
        Err(BatchError::Expired { running: false })
    ));
    rig.clock.advance(ms(20));
    assert!(matches!(
        running.await,
        Err(BatchError::Expired { running: true })
    ));
    rig.open(2);
    assert_eq!(value(patient.await), 6);
    assert_eq!(
        rig.entered(),
        [Item::Double(3)],
        "an expired request is not run"
    );
    assert_eq!(rig.batcher.stats().expired, 2);
    rig.close().await;
}

#[tokio::test]
async fn what_cannot_be_in_time_is_refused_at_once() {
    let rig = Rig::new(batching(32));
    for rows in [1, 2, 4, 8, 16, 32] {
        rig.batcher.observe_cost(rows, Duration::from_millis(50));
    }
    let refused = rig
        .submit_within(Item::Double(1), Duration::from_millis(40))
        .unwrap_err();
    assert!(matches!(refused, Refused::TooLate { .. }), "{refused}");
    let running = rig
        .submit_within(Item::Double(1), Duration::from_millis(80))
        .unwrap();
    rig.entered();
    let refused = rig
        .submit_within(Item::Double(1), Duration::from_millis(80))
        .unwrap_err();
    assert!(
        matches!(refused, Refused::TooLate { .. }),
        "behind a batch that runs: {refused}"
    );
    let later = rig
        .submit_within(Item::Double(2), Duration::from_millis(200))
        .unwrap();
    rig.open(2);
    assert_eq!((value(running.await), value(later.await)), (2, 4));
    rig.close().await;
}

#[tokio::test]
async fn only_the_guilty_item_of_a_batch_fails() {
    for (guilty, batches) in [(Item::Raise, 9), (Item::Panic, 9), (Item::Refuse, 1)] {
        let rig = Rig::new(batching(16));
        let first = rig.occupy();
        let tickets: Vec<_> = (0..16)
            .map(|n| rig.submit(if n == 5 { guilty } else { Item::Double(n) }))
            .collect();
        rig.open(1 + batches);
        assert_eq!(value(first.await), 2);
        for (n, ticket) in tickets.into_iter().enumerate() {
            match ticket.await {
                Ok(answer) => assert_eq!((n != 5, answer.value), (true, 2 * n as u64)),
                Err(BatchError::Model(_) | BatchError::Panicked(_)) => assert_eq!(n, 5),
                Err(other) => panic!("item {n}: {other}"),
            }
        }
        assert_eq!(rig.batcher.stats().failed, 1);
        assert_eq!(
            rig.entered.try_iter().count(),
            batches,
            "two runs for each halving, and the first"
        );
        rig.close().await;
    }
}

#[tokio::test]
async fn the_innocent_are_found_beside_several_guilty() {
    const GUILTY: [usize; 4] = [1, 6, 8, 15];
    let rig = Rig::new(batching(16));
    let first = rig.occupy();
    let item = |n| match GUILTY.contains(&n) {
        true => Item::Raise,
        false => Item::Double(n as u64),
    };
    let tickets: Vec<_> = (0..16).map(|n| rig.submit(item(n))).collect();
    rig.open(100);
    first.await.unwrap();
    for (n, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.is_err(), GUILTY.contains(&n), "item {n}");
    }
    rig.close().await;
}

#[tokio::test]
async fn a_model_that_fails_whatever_it_gets_is_not_run_for_every_item() {
    let rig = Rig::new(batching(32));
    let first = rig.occupy();
    let tickets: Vec<_> = (0..32).map(|_| rig.submit(Item::Raise)).collect();
    rig.open(100);
    first.await.unwrap();
    for ticket in tickets {
        assert!(matches!(ticket.await, Err(BatchError::Model(_))));
    }
    assert!(
        rig.entered.try_iter().count() <= 13,
        "one run, and two a level and two"
    );
    rig.close().await;
}

#[tokio::test]
async fn without_isolation_the_whole_batch_fails_once() {
    let rig = Rig::new(Batching {
        isolate: false,
        ..batching(4)
    });
    let first = rig.occupy();
    let tickets = [Item::Double(1), Item::Raise].map(|item| rig.submit(item));
    rig.open(2);
    first.await.unwrap();
    for ticket in tickets {
        assert!(matches!(ticket.await, Err(BatchError::Model(_))));
    }
    rig.close().await;
}

#[tokio::test]
async fn a_wrong_number_of_results_fails_the_batch_and_nobody_gets_anothers() {
    for guilty in [Item::Short, Item::Long] {
        let rig = Rig::new(batching(8));
        let first = rig.occupy();
        let tickets = [Item::Double(1), guilty, Item::Double(2)].map(|item| rig.submit(item));
        rig.open(2);
        first.await.unwrap();
        for ticket in tickets {
            let error = ticket.await.unwrap_err();
            assert!(
                matches!(error, BatchError::CountMismatch { expected: 3, .. }),
                "{error}"
            );
        }
        rig.close().await;
    }
}

#[tokio::test]
async fn a_panic_costs_its_instance_only() {
    let rig = Rig::new(batching(4));
    rig.open(2);
    let error = rig.submit(Item::Panic).await.unwrap_err();
    assert!(
        matches!(&error, BatchError::Panicked(text) if text.contains("boom")),
        "{error}"
    );
    assert_eq!(value(rig.submit(Item::Double(4)).await), 8);
    assert_eq!(
        (
            rig.made.load(Ordering::SeqCst),
            rig.batcher.stats().replaced
        ),
        (2, 1)
    );
    rig.close().await;
}

#[tokio::test]
async fn a_hung_batch_is_given_up_and_its_late_reply_ignored() {
    let run_limit = Duration::from_secs(2);
    let rig = Rig::new(Batching {
        run_limit,
        ..batching(4)
    });
    let hung = rig.occupy();
    let behind = rig.submit(Item::Double(5));
    rig.clock.advance(run_limit);
    assert!(matches!(hung.await, Err(BatchError::RunLimit(limit)) if limit == run_limit));
    assert_eq!(
        rig.entered(),
        [Item::Double(5)],
        "a new instance takes over"
    );
    rig.open(2);
    assert_eq!(value(behind.await), 10);
    let stats = rig.batcher.stats();
    assert_eq!((stats.failed, stats.ok, stats.replaced), (1, 1, 1));
    rig.close().await;
}

#[tokio::test]
async fn a_model_that_always_hangs_is_given_up_for_as_long_as_it_does() {
    let run_limit = Duration::from_secs(2);
    let rig = Rig::new(Batching {
        run_limit,
        ..batching(1)
    });
    for _ in 0..2 {
        let hung = rig.occupy();
        rig.clock.advance(run_limit);
        assert!(matches!(hung.await, Err(BatchError::RunLimit(_))));
    }
    let refused = rig.batcher.submit(Item::Double(1), None).unwrap_err();
    assert!(
        matches!(&refused, Refused::Failed(why) if why.contains("hangs")),
        "{refused}"
    );
    assert!(rig.batcher.stats().dead.is_some());
    rig.open(2);
    let answer = loop {
        match rig.batcher.submit(Item::Double(2), None) {
            Ok(ticket) => break ticket,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    rig.open(1);
    assert_eq!(
        value(answer.await),
        4,
        "one came back, so there is room for another"
    );
    rig.close().await;
}

#[tokio::test]
async fn shapes_are_not_mixed_and_none_starves() {
    let rig = Rig::new(batching(4));
    let first = rig.occupy();
    let order = [1, 2, 1, 2, 1, 1, 1];
    let tickets = order.map(|kind| rig.submit(Item::Kind(kind)));
    rig.open(4);
    first.await.unwrap();
    let batches: Vec<_> = (0..3).map(|_| rig.entered()).collect();
    assert_eq!(
        batches[0],
        [Item::Kind(1); 4],
        "the oldest first, up to a full batch"
    );
    assert_eq!(
        batches[1],
        [Item::Kind(2); 2],
        "then those who are the oldest now"
    );
    assert_eq!(batches[2], [Item::Kind(1); 1]);
    for ticket in tickets {
        ticket.await.unwrap();
    }
    rig.close().await;
}

#[tokio::test]
async fn rows_are_counted_not_items() {
    let rig = Rig::new(batching(8));
    let first = rig.occupy();
    let tickets = [3, 4, 2, 8].map(|rows| rig.submit(Item::Rows(rows)));
    let refused = rig.batcher.submit(Item::Rows(9), None).unwrap_err();
    assert_eq!(
        refused,
        Refused::TooLarge {
            rows: 9,
            max_batch: 8
        }
    );
    rig.open(4);
    first.await.unwrap();
    let sizes: Vec<_> = (0..3).map(|_| rig.entered()).collect();
    assert_eq!(
        sizes,
        [
            vec![Item::Rows(3), Item::Rows(4)],
            vec![Item::Rows(2)],
            vec![Item::Rows(8)]
        ]
    );
    for ticket in tickets {
        ticket.await.unwrap();
    }
    rig.close().await;
}

#[tokio::test]
async fn closing_runs_what_is_queued_and_refuses_the_rest() {
    let rig = Rig::new(batching(2));
    let first = rig.occupy();
    let queued: Vec<_> = (0..5).map(|n| rig.submit(Item::Double(n))).collect();
    rig.batcher.close();
    assert_eq!(
        rig.batcher.submit(Item::Double(0), None).unwrap_err(),
        Refused::Closed
    );
    rig.open(4);
    first.await.unwrap();
    for (n, ticket) in queued.into_iter().enumerate() {
        let answer = ticket.await.unwrap();
        assert_eq!(answer.value, 2 * n as u64);
        assert!(matches!(answer.trip.reason, Reason::Full | Reason::Drain));
    }
    rig.close().await;
}

#[tokio::test]
async fn aborting_answers_what_is_queued_at_once() {
    let rig = Rig::new(batching(2));
    let first = rig.occupy();
    let queued = rig.submit(Item::Double(5));
    rig.batcher.abort();
    assert!(matches!(queued.await, Err(BatchError::Closed)));
    rig.open(1);
    assert_eq!(value(first.await), 2, "what runs is answered all the same");
    rig.close().await;
}

#[tokio::test]
async fn instances_work_side_by_side() {
    let instances = NonZeroUsize::new(3).unwrap();
    let rig = Rig::new(Batching {
        instances,
        ..batching(1)
    });
    let tickets: Vec<_> = (0..3).map(|n| rig.submit(Item::Double(n))).collect();
    let mut running: Vec<_> = (0..3).map(|_| rig.entered()).collect();
    running.sort_by_key(|batch| format!("{batch:?}"));
    assert_eq!(
        running,
        [[Item::Double(0)], [Item::Double(1)], [Item::Double(2)]]
    );
    let waiting = rig.submit(Item::Double(3));
    assert!(rig.nothing_entered(), "there is no fourth instance");
    rig.open(4);
    for (n, ticket) in tickets.into_iter().chain([waiting]).enumerate() {
        assert_eq!(value(ticket.await), 2 * n as u64);
    }
    rig.close().await;
}

#[test]
fn an_instance_that_cannot_be_made_is_an_error_at_the_start() {
    let make = || Err::<Gated, _>("no such file");
    let error = Batcher::start("broken", Batching::default(), make).unwrap_err();
    assert_eq!(error.to_string(), "no such file");
}

#[tokio::test]
async fn when_the_last_instance_is_lost_everyone_is_told_and_later_it_comes_back() {
    let clock = Clock::paused();
    let (enter, _entered) = sync_channel(1000);
    let (leave, left) = sync_channel::<()>(1000);
    let left = Arc::new(Mutex::new(left));
    let broken = Arc::new(AtomicUsize::new(0));
    let state = broken.clone();
    let make = move || match state.load(Ordering::SeqCst) {
        0 => Ok(Gated {
            entered: enter.clone(),
            leave: left.clone(),
        }),
        _ => Err("the file is gone"),
    };
    let batcher = Batcher::start_with("mortal", batching(1), at(&clock), make).unwrap();
    let fatal = batcher.submit(Item::Panic, None).unwrap();
    let queued = batcher.submit(Item::Double(1), None).unwrap();
    broken.store(1, Ordering::SeqCst);
    leave.send(()).unwrap();
    assert!(matches!(fatal.await, Err(BatchError::Panicked(_))));
    assert!(matches!(queued.await, Err(BatchError::Failed(_))));
    let refused = batcher.submit(Item::Double(1), None).unwrap_err();
    assert!(matches!(refused, Refused::Failed(_)), "{refused}");

    broken.store(0, Ordering::SeqCst);
    leave.send(()).unwrap();
    let answer = loop {
        clock.advance(Duration::from_millis(100));
        match batcher.submit(Item::Double(2), None) {
            Ok(ticket) => break ticket.await,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    assert_eq!(value(answer), 4);
    batcher.close();
    batcher.wait_closed().await;
}

#[tokio::test]
async fn dropping_the_last_handle_closes() {
    let rig = Rig::new(batching(1));
    let ticket = rig.occupy();
    let Rig { batcher, leave, .. } = rig;
    drop(batcher);
    leave.send(()).unwrap();
    assert_eq!(value(ticket.await), 2, "the ticket is still good");
}

struct Doubler;
impl Model for Doubler {
    type In = u64;
    type Out = u64;
    type Error = String;
    fn run(&mut self, items: &[u64], _: &Context<'_>) -> Result<Vec<Result<u64, String>>, String> {
        Ok(items.iter().map(|item| Ok(item * 2)).collect())
    }
}

#[tokio::test]
async fn a_courier_delivers_every_answer_and_nothing_is_lost_without_it() {
    let (courier, deliver) = Courier::new();
    let surroundings = Surroundings {
        courier: Some(courier),
        ..Surroundings::default()
    };
    let make = || Ok::<_, String>(Doubler);
    let batcher = Batcher::start_with("doubler", Batching::default(), surroundings, make).unwrap();
    let ask = |callers: u64| {
        let tickets: Vec<_> = (0..callers)
            .map(|n| batcher.submit(n, None).unwrap())
            .collect();
        async {
            for (n, ticket) in tickets.into_iter().enumerate() {
                assert_eq!(value(ticket.await), 2 * n as u64);
            }
        }
    };
    tokio::select! {
        () = ask(200) => (),
        () = deliver => panic!("there is a batcher that has the courier"),
    }
    // The courier's work was dropped: the instance answers by itself.
    ask(200).await;
    batcher.close();
    batcher.wait_closed().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_callers_each_get_their_own_answer() {
    let instances = NonZeroUsize::new(2).unwrap();
    let settings = Batching {
        instances,
        ..Batching::default()
    };
    let batcher = Batcher::start("doubler", settings, || Ok::<_, String>(Doubler)).unwrap();
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..64u64 {
        let batcher = batcher.clone();
        callers.spawn(async move {
            for n in 0..200 {
                let item = caller * 1000 + n;
                let ticket = batcher.submit(item, None).unwrap();
                if n % 7 == 3 {
                    drop(ticket);
                } else {
                    assert_eq!(value(ticket.await), item * 2);
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    batcher.close();
    batcher.wait_closed().await;
    let stats = batcher.stats();
    assert_eq!(stats.received, 64 * 200);
    assert_eq!(stats.ok + stats.cancelled, stats.received, "{stats:?}");
}

#[tokio::test]
async fn each_instance_is_a_node_that_says_what_it_is_doing() {
    let tree = Tree::new("server");
    let rig = Rig::under(Some(tree.root()), batching(8));
    let shown = || {
        let nodes = tree.snapshot().nodes;
        let lines = nodes
            .iter()
            .map(|node| format!("{} [{}]", node.name, node.label));
        lines.collect::<Vec<_>>()
    };
    assert_eq!(
        shown(),
        ["server []", "batcher gated []", "instance 0 [idle]"]
    );
    let alone = rig.occupy();
    assert_eq!(shown()[2], "instance 0 [runs 1 row]");
    let together = [rig.submit(Item::Rows(3)), rig.submit(Item::Double(4))];
    rig.open(1);
    rig.entered();
    assert_eq!(shown()[2], "instance 0 [runs 4 rows]");
    rig.open(1);
    for ticket in together.into_iter().chain([alone]) {
        ticket.await.unwrap();
    }
    assert_eq!(shown()[2], "instance 0 [idle]");
    rig.close().await;
    assert_eq!(shown(), ["server []"]);
}
