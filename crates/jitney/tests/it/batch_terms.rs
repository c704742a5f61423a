//! Who goes first, what is handed ahead, and who pays for a crash or a hang. The model is gated, and time is a paused clock.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use jitney::batch::{
    BatchError, Batcher, Batching, Blame, Context, Model, Refused, Surroundings, Terms, Ticket,
};
use jitney::clock::Clock;

const S: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Item {
    Plain(u64),
    /// Takes that many rows.
    Rows(usize),
    Kills,
    /// Kills at the first attempt only, as a stray signal would.
    KilledOnce,
    Hangs,
    /// Needs more time than the short limit, and less than the whole.
    Slow,
    /// Fails its batch with an error that is nobody's fault.
    Unlucky,
}

#[derive(Debug, PartialEq)]
enum Trouble {
    Crash,
    Hang(Duration),
    Nobody,
}

/// What one run was like: its items, for whom of them somebody waited at its end, and its limit.
#[derive(Debug, PartialEq)]
struct Run {
    items: Vec<Item>,
    awaited: Vec<bool>,
    limit: Duration,
}

struct Gated {
    entered: SyncSender<Vec<Item>>,
    gate: Arc<Gate>,
    runs: Arc<Mutex<Vec<Run>>>,
    convicted: Arc<Mutex<Vec<Item>>>,
}

/// Lets runs leave in the order in which they entered.
#[derive(Default)]
struct Gate {
    /// How many have entered, and how many may leave.
    counts: Mutex<(usize, usize)>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self, enter: impl FnOnce()) {
        let mut counts = self.counts.lock().unwrap();
        let place = counts.0;
        counts.0 += 1;
        enter();
        drop(self.opened.wait_while(counts, |counts| counts.1 <= place));
    }

    fn open(&self, runs: usize) {
        self.counts.lock().unwrap().1 += runs;
        self.opened.notify_all();
    }
}

impl Model for Gated {
    type In = Item;
    type Out = u64;
    type Error = Trouble;

    fn run(
        &mut self,
        items: &[Item],
        context: &Context<'_>,
    ) -> Result<Vec<Result<u64, Trouble>>, Trouble> {
        self.gate
            .pass(|| self.entered.send(items.to_vec()).unwrap());
        let mut runs = self.runs.lock().unwrap();
        let again = |run: &Run| run.items.contains(&Item::KilledOnce);
        let killed = items.contains(&Item::KilledOnce) && !runs.iter().any(again);
        runs.push(Run {
            items: items.to_vec(),
            awaited: (0..items.len()).map(|item| context.awaited(item)).collect(),
            limit: context.limit(),
        });
        assert_eq!(
            context.anyone_waits(),
            runs.last().unwrap().awaited.contains(&true)
        );
        if killed || items.contains(&Item::Kills) {
            Err(Trouble::Crash)
        } else if items.contains(&Item::Hangs)
            || items.contains(&Item::Slow) && context.limit() < Batching::default().run_limit
        {
            Err(Trouble::Hang(context.limit()))
        } else if items.contains(&Item::Unlucky) {
            Err(Trouble::Nobody)
        } else {
            Ok(items.iter().map(|item| Ok(value(*item))).collect())
        }
    }

    fn blame(error: &Trouble) -> Blame {
        match error {
            Trouble::Crash => Blame::Crash,
            Trouble::Hang(_) => Blame::Hang,
            Trouble::Nobody => Blame::Nobody,
        }
    }

    fn convicted(&mut self, item: &Item, _: &Trouble) {
        self.convicted.lock().unwrap().push(*item);
    }

    fn rows(item: &Item) -> usize {
        if let Item::Rows(rows) = item {
            *rows
        } else {
            1
        }
    }
}

fn value(item: Item) -> u64 {
    if let Item::Plain(n) = item { 2 * n } else { 0 }
}

struct Rig {
    batcher: Batcher<Gated>,
    clock: Clock,
    entered: Receiver<Vec<Item>>,
    gate: Arc<Gate>,
    runs: Arc<Mutex<Vec<Run>>>,
    convicted: Arc<Mutex<Vec<Item>>>,
}

impl Rig {
    fn new(batching: Batching) -> Rig {
        let clock = Clock::paused();
        let (enter, entered) = sync_channel(1000);
        let (gate, runs, convicted) = (Arc::<Gate>::default(), Arc::default(), Arc::default());
        let (kept, kept_too) = (Arc::clone(&runs), Arc::clone(&convicted));
        let passed = Arc::clone(&gate);
        let make = move || {
            Ok::<_, String>(Gated {
                entered: enter.clone(),
                gate: Arc::clone(&passed),
                runs: Arc::clone(&kept),
                convicted: Arc::clone(&kept_too),
            })
        };
        let surroundings = Surroundings {
            clock: clock.clone(),
            courier: None,
            ..Surroundings::default()
        };
        Rig {
            batcher: Batcher::start_with("gated", batching, surroundings, make).unwrap(),
            clock,
            entered,
            gate,
            runs,
            convicted,
        }
    }

    fn submit(&self, item: Item) -> Ticket<Gated> {
        self.batcher.submit(item, None).unwrap()
    }

    fn submit_on(&self, item: Item, terms: Terms) -> Result<Ticket<Gated>, Refused> {
        self.batcher.submit_on(item, &terms)
    }

    /// Occupies the instance, so that what follows queues.
    fn occupy(&self) -> Ticket<Gated> {
        let ticket = self.submit(Item::Plain(0));
        assert_eq!(self.entered(), [Item::Plain(0)]);
        ticket
    }

    fn entered(&self) -> Vec<Item> {
        self.entered
            .recv_timeout(10 * S)
            .expect("the model should have got a batch")
    }

    fn open(&self, runs: usize) {
        self.gate.open(runs);
    }

    /// The items of the next runs, each of which is let go.
    fn order(&self, runs: usize) -> Vec<Vec<Item>> {
        let next = |_| {
            self.open(1);
            self.entered()
        };
        (0..runs).map(next).collect()
    }

    async fn close(self) -> Vec<Run> {
        self.batcher.close();
        self.open(100);
        self.batcher.wait_closed().await;
        let stats = self.batcher.stats();
        let ended = stats.ok + stats.failed + stats.refused + stats.expired + stats.cancelled;
        assert_eq!((stats.queued, stats.running), (0, 0));
        assert_eq!(stats.received, ended, "{stats:?}");
        drop(self.batcher);
        std::mem::take(&mut *self.runs.lock().unwrap())
    }
}

fn batching(max_batch: usize) -> Batching {
    Batching {
        max_batch: NonZeroUsize::new(max_batch).unwrap(),
        keeps_limit: true,
        ..Batching::default()
    }
}

fn plain(n: u64) -> Item {
    Item::Plain(n)
}

// === handing ahead ===

#[tokio::test]
async fn a_full_batch_is_handed_over_while_another_runs_and_a_partial_one_is_not() {
    let rig = Rig::new(Batching {
        ahead: 1,
        ..batching(2)
    });
    let mut tickets = vec![rig.occupy()];
    tickets.extend([1, 2].map(|n| rig.submit(plain(n))));
    assert_eq!(rig.entered(), [plain(1), plain(2)], "it waited to be full");
    tickets.extend([3, 4, 5].map(|n| rig.submit(plain(n))));
    rig.open(1);
    assert_eq!(
        rig.entered(),
        [plain(3), plain(4)],
        "no more than one ahead"
    );
    rig.open(10);
    assert_eq!(rig.entered(), [plain(5)]);
    for (n, ticket) in tickets.into_iter().enumerate() {
        assert_eq!(ticket.await.unwrap().value, 2 * n as u64);
    }
    rig.close().await;
}

#[tokio::test]
async fn what_was_handed_ahead_is_not_counted_as_running_before_it_could() {
    let rig = Rig::new(Batching {
        ahead: 1,
        ..batching(2)
    });
    let first = rig.occupy();
    let others = [1, 2].map(|n| rig.submit(plain(n)));
    assert_eq!(rig.entered().len(), 2);
    rig.clock.advance(3 * S);
    rig.open(1);
    assert_eq!(first.await.unwrap().trip.run, 3 * S);
    rig.clock.advance(S);
    rig.open(1);
    for ticket in others {
        let trip = ticket.await.unwrap().trip;
        assert_eq!((trip.queued, trip.run), (3 * S, S));
    }
    rig.close().await;
}

// === who goes first ===

#[tokio::test]
async fn the_urgent_go_first_until_the_others_have_waited_long_enough() {
    let rig = Rig::new(batching(1));
    let _first = rig.occupy();
    let priority = |priority| Terms {
        priority,
        ..Terms::default()
    };
    let submit = |n, level| rig.submit_on(plain(n), priority(level)).unwrap();
    let _tickets = [submit(1, 0), submit(2, 1), submit(3, -1), submit(4, 1)];
    rig.clock.advance(S + S / 10);
    // Level 1 now is no better than level 0 was a second ago.
    let _late = [submit(5, 1), submit(6, 3)];
    let order = [6, 2, 4, 1, 5, 3].map(|n| vec![plain(n)]);
    assert_eq!(rig.order(6), order);
    rig.close().await;
}

#[tokio::test]
async fn keys_share_the_instance_however_much_one_of_them_sends() {
    let rig = Rig::new(batching(1));
    let _first = rig.occupy();
    let key = |key| Terms {
        key: Some(key),
        ..Terms::default()
    };
    let submit = |n, of| rig.submit_on(plain(n), key(of)).unwrap();
    let _many = [1, 2, 3, 4].map(|n| submit(n, 7));
    let _few = [submit(10, 8), submit(11, 8)];
    let order = [1, 10, 2, 11, 3, 4].map(|n| vec![plain(n)]);
    assert_eq!(rig.order(6), order);
    rig.close().await;
}

#[tokio::test]
async fn no_key_can_fill_the_queue() {
    let rig = Rig::new(Batching {
        queue: NonZeroUsize::new(8).unwrap(),
        ..batching(1)
    });
    let _first = rig.occupy();
    let key = |key| Terms {
        key: Some(key),
        ..Terms::default()
    };
    let mut tickets = Vec::new();
    let mut admitted = |of| {
        let before = tickets.len();
        tickets.extend((0..8).filter_map(|n| rig.submit_on(plain(n), key(of)).ok()));
        tickets.len() - before
    };
    assert_eq!(
        (admitted(1), admitted(2), admitted(3)),
        (4, 2, 1),
        "each takes half of what is left"
    );
    let unkeyed = rig.submit(plain(1));
    assert!(matches!(
        rig.submit_on(plain(2), Terms::default()),
        Err(Refused::Full { queued: 8, .. })
    ));
    drop((unkeyed, tickets));
    rig.close().await;
}

#[tokio::test]
async fn padded_batches_count_their_largest_item_for_each() {
    let rig = Rig::new(Batching {
        padded: true,
        ..batching(12)
    });
    let _first = rig.occupy();
    let _tickets = [3, 4, 4, 1, 1].map(|rows| rig.submit(Item::Rows(rows)));
    let order = [vec![3, 4, 4], vec![1, 1]];
    assert_eq!(
        rig.order(2),
        order.map(|rows| rows.into_iter().map(Item::Rows).collect::<Vec<_>>())
    );
    rig.close().await;
}

// === who pays ===

/// Sends them as one batch, and gives back their answers and the runs it took.
async fn together(items: &[Item]) -> (Vec<Result<u64, BatchError<Trouble>>>, Vec<Run>) {
    let rig = Rig::new(batching(8));
    let first = rig.occupy();
    let tickets: Vec<_> = items.iter().map(|item| rig.submit(*item)).collect();
    rig.open(100);
    let mut answers = Vec::new();
    for ticket in tickets {
        answers.push(ticket.await.map(|answer| answer.value));
    }
    first.await.unwrap();
    let mut runs = rig.close().await;
    runs.remove(0);
    (answers, runs)
}

fn is<'a>(trouble: &'a Trouble) -> impl Fn(&Result<u64, BatchError<Trouble>>) -> bool + 'a {
    move |answer| matches!(answer, Err(BatchError::Model(error)) if **error == *trouble)
}

#[tokio::test]
async fn of_a_batch_that_crashed_only_the_guilty_fails_and_it_ran_twice() {
    let mut items: Vec<Item> = (0..7).map(plain).collect();
    items.insert(3, Item::Kills);
    let (answers, runs) = together(&items).await;
    for (item, answer) in items.iter().zip(&answers) {
        match item {
            Item::Kills => assert!(is(&Trouble::Crash)(answer), "{answer:?}"),
            item => assert_eq!(*answer.as_ref().unwrap(), value(*item)),
        }
    }
    let of = |run: &&Run| run.items.contains(&Item::Kills);
    assert_eq!((runs.len(), runs.iter().filter(of).count()), (9, 2));
}

#[tokio::test]
async fn an_item_that_was_alone_when_it_crashed_is_run_once_more() {
    let (answers, runs) = together(&[Item::KilledOnce]).await;
    assert!(answers[0].is_ok());
    assert_eq!(runs.len(), 2);
    let (answers, runs) = together(&[Item::Kills]).await;
    assert!(is(&Trouble::Crash)(&answers[0]));
    assert_eq!(runs.len(), 2);
}

#[tokio::test]
async fn a_batch_that_kills_whoever_runs_it_costs_few_instances() {
    let (answers, runs) = together(&[Item::Kills; 8]).await;
    assert!(answers.iter().all(is(&Trouble::Crash)));
    assert_eq!(runs.len(), 5);
}

#[tokio::test]
async fn of_a_batch_that_hung_the_guilty_is_found_with_a_short_limit() {
    let (answers, runs) = together(&[plain(1), Item::Hangs, plain(2)]).await;
    assert_eq!(
        (*answers[0].as_ref().unwrap(), *answers[2].as_ref().unwrap()),
        (2, 4)
    );
    assert_eq!(runs.len(), 4);
    let (whole, alone) = (runs[0].limit, runs[2].limit);
    assert_eq!(whole, Batching::default().run_limit);
    assert!(alone < whole / 10, "{alone:?}");
    assert!(is(&Trouble::Hang(whole))(&answers[1]));
    let (answers, runs) = together(&[Item::Hangs]).await;
    assert!(is(&Trouble::Hang(whole))(&answers[0]));
    assert_eq!(runs.len(), 1, "it was alone: there is nothing to find out");
}

#[tokio::test]
async fn who_is_slower_than_usual_is_not_taken_for_one_that_hangs() {
    let rig = Rig::new(batching(8));
    let first = rig.occupy();
    let items = [plain(1), Item::Slow, Item::Hangs, plain(2)];
    let tickets: Vec<_> = items.iter().map(|item| rig.submit(*item)).collect();
    rig.open(100);
    first.await.unwrap();
    for (item, ticket) in items.iter().zip(tickets) {
        let answer = ticket.await.map(|answer| answer.value);
        match item {
            Item::Hangs => assert!(is(&Trouble::Hang(Batching::default().run_limit))(&answer)),
            item => assert_eq!(answer.unwrap(), value(*item)),
        }
    }
    assert_eq!(*rig.convicted.lock().unwrap(), [Item::Hangs]);
    let runs = rig.close().await;
    assert_eq!(runs.len(), 1 + 1 + 4 + 2);
}

#[tokio::test]
async fn only_who_is_guilty_is_convicted() {
    let rig = Rig::new(batching(8));
    let first = rig.occupy();
    let items = [plain(1), Item::Kills, Item::KilledOnce, Item::Unlucky];
    let tickets: Vec<_> = items.iter().map(|item| rig.submit(*item)).collect();
    rig.open(100);
    first.await.unwrap();
    for ticket in tickets {
        ticket.await.ok();
    }
    assert_eq!(*rig.convicted.lock().unwrap(), [Item::Kills]);
    rig.close().await;
}

#[tokio::test]
async fn what_is_nobodys_fault_is_not_run_again() {
    let (answers, runs) = together(&[plain(1), Item::Unlucky, plain(2)]).await;
    assert!(answers.iter().all(is(&Trouble::Nobody)));
    assert_eq!(runs.len(), 1);
}

#[tokio::test]
async fn the_innocent_are_answered_before_the_guilty_are_found() {
    let rig = Rig::new(batching(8));
    let first = rig.occupy();
    let innocent = rig.submit(plain(1));
    let guilty = rig.submit(Item::Kills);
    rig.open(3);
    assert_eq!(innocent.await.unwrap().value, 2);
    assert_eq!([rig.entered(), rig.entered(), rig.entered()].len(), 3);
    // The guilty one is in the model for the second time.
    rig.open(1);
    assert!(guilty.await.is_err());
    first.await.unwrap();
    rig.close().await;
}

// === what a running model knows ===

#[tokio::test]
async fn a_running_model_sees_who_has_left() {
    let rig = Rig::new(batching(2));
    let first = rig.occupy();
    let (stays, leaves) = (rig.submit(plain(1)), rig.submit(plain(2)));
    rig.open(1);
    assert_eq!(rig.entered().len(), 2);
    drop(leaves);
    rig.open(1);
    stays.await.unwrap();
    first.await.unwrap();
    let runs = rig.close().await;
    assert_eq!(runs[1].awaited, [true, false]);
}

// === closing ===

#[tokio::test]
async fn a_drain_says_how_many_it_cut_off() {
    let rig = Rig::new(batching(1));
    let first = rig.occupy();
    let rest = [1, 2].map(|n| rig.submit(plain(n)));
    assert_eq!(rig.batcher.drain(Duration::ZERO).await, 2);
    for ticket in rest {
        assert!(matches!(ticket.await, Err(BatchError::Closed)));
    }
    rig.open(1);
    assert!(first.await.is_ok(), "what runs is still answered");
    assert_eq!(rig.batcher.drain(10 * S).await, 0);
    rig.close().await;
}
