//! The lane under a storm: cancels, hangs, late replies, lost instances, full queues and clock jumps, with virtual time and no threads.
//! Whatever happens, every request is answered exactly once, with its own answer, and counted once. A test plays thousands of seeds; a
//! fuzzer plays what its bytes say.

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lane::{Lane, Next, Seat};
use super::queue::Place;
use super::ticket::{Due, Reply, Told};
use super::{BatchError, Batching, Context, Model, Stats, Terms};

const MICRO: Duration = Duration::from_micros(1);

struct Fake;

#[derive(Clone, Copy, Debug, PartialEq)]
struct Item {
    id: u64,
    rows: usize,
    kind: u64,
    deadline: Option<Instant>,
}

impl Model for Fake {
    type In = Item;
    type Out = u64;
    type Error = u64;

    fn run(&mut self, _: &[Item], _: &Context<'_>) -> Result<Vec<Result<u64, u64>>, u64> {
        Err(0)
    }

    fn rows(item: &Item) -> usize {
        item.rows
    }

    fn compatible(a: &Item, b: &Item) -> bool {
        a.kind == b.kind
    }
}

/// Chance: a script, as long as there is one, and then Steele, Lea and Flood's SplitMix64, which is small and good enough for a storm.
pub(super) struct Random {
    script: std::vec::IntoIter<u8>,
    state: u64,
}

impl Random {
    #[cfg(not(fuzzing))]
    pub(super) fn seeded(seed: u64) -> Random {
        Random {
            script: Vec::new().into_iter(),
            state: seed,
        }
    }

    #[cfg(fuzzing)]
    fn scripted(script: &[u8]) -> Random {
        Random {
            script: script.to_vec().into_iter(),
            state: 0,
        }
    }

    fn next(&mut self) -> u64 {
        match self.script.next() {
            Some(byte) => u64::from(byte) << 8 | u64::from(self.script.next().unwrap_or(0)),
            None => self.roll(),
        }
    }

    fn roll(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What the harness knows of a request.
struct Caller {
    item: Item,
    place: Place,
    told: Option<oneshot::Receiver<Told<Fake>>>,
}

struct World {
    random: Random,
    now: Instant,
    lane: Lane<Fake>,
    /// Instances by slot, and what they are at.
    seats: Vec<(Seat, At)>,
    /// Instances that were given up and may yet come back with the results of their batch.
    lost: Vec<(Seat, Vec<Item>)>,
    callers: Vec<Caller>,
    max_batch: usize,
    padded: bool,
    tally: Tally,
}

enum At {
    Free,
    Running(Vec<Item>),
    Absent,
}

#[derive(Debug, Default, PartialEq)]
struct Tally {
    received: u64,
    ok: u64,
    failed: u64,
    refused: u64,
    expired: u64,
    cancelled: u64,
}

impl World {
    fn new(mut random: Random) -> World {
        let size = |n: u64| NonZeroUsize::new(usize::try_from(n).unwrap()).unwrap();
        let batching = Batching {
            max_batch: size(1 + random.below(12)),
            max_wait: MICRO * u32::try_from(random.below(8_000)).unwrap(),
            queue: size(1 + random.below(40)),
            instances: size(1 + random.below(3)),
            run_limit: Duration::from_millis(20 + random.below(100)),
            isolate: true,
            ahead: usize::try_from(random.below(2)).unwrap(),
            keeps_limit: false,
            padded: random.one_in(3),
        };
        let now = Instant::now();
        let max_batch = batching.max_batch.get();
        let padded = batching.padded;
        let instances = batching.slots();
        let mut lane = Lane::new(batching);
        let seats = (0..instances)
            .map(|slot| {
                let seat = lane.seat(slot);
                lane.sit(now, seat);
                (seat, At::Free)
            })
            .collect();
        let (lost, callers, tally) = (Vec::new(), Vec::new(), Tally::default());
        World {
            random,
            now,
            lane,
            seats,
            lost,
            callers,
            max_batch,
            padded,
            tally,
        }
    }

    fn step(&mut self) {
        match self.random.below(16) {
            0..=5 => self.submit(),
            6 => self.cancel(),
            7..=9 => self.look(),
            10..=11 => self.finish(),
            12 => self.late_reply(),
            13 => self.lose_or_restore(),
            _ => self.pass_time(),
        }
        self.keep();
        self.check();
    }

    fn submit(&mut self) {
        let deadline = (!self.random.one_in(3)).then(|| self.now + self.some_time());
        let item = Item {
            id: self.tally.received,
            rows: 1 + usize::try_from(self.random.below(3)).unwrap(),
            kind: self.random.below(6) / 4,
            deadline,
        };
        let (reply, told) = Reply::new();
        self.tally.received += 1;
        let terms = Terms {
            deadline,
            priority: [0, 0, 0, 1, -1][usize::try_from(self.random.below(5)).unwrap()],
            key: (!self.random.one_in(3)).then(|| self.random.below(3)),
        };
        match self.lane.submit(self.now, item, &terms, reply) {
            Ok(place) => self.callers.push(Caller {
                item,
                place,
                told: Some(told),
            }),
            Err(_) => self.tally.refused += 1,
        }
    }

    fn cancel(&mut self) {
        if self.callers.is_empty() {
            return;
        }
        let index = usize::try_from(self.random.next()).unwrap_or(0) % self.callers.len();
        let Some(mut told) = self.callers[index].told.take() else {
            return;
        };
        match told.try_recv() {
            Ok(answer) => self.receive(index, answer),
            Err(_) => {
                self.tally.cancelled += 1;
                self.lane.cancel(self.callers[index].place);
            }
        }
    }

    /// Every free instance looks at the queue.
    fn look(&mut self) {
        for slot in 0..self.seats.len() {
            let (seat, At::Free) = self.seats[slot] else {
                continue;
            };
            let mut due = Vec::new();
            let next = self.lane.next(self.now, seat, &mut due);
            due.into_iter().for_each(Due::send);
            match next {
                Next::Run(items) => {
                    self.check_batch(&items);
                    self.seats[slot].1 = At::Running(items);
                }
                Next::Hold { until, .. } => {
                    assert!(until > self.now, "a hold must end later than now");
                }
                Next::Wait | Next::Follow => {}
                Next::Stop => panic!("the lane is open"),
            }
        }
    }

    fn check_batch(&self, items: &[Item]) {
        let rows: usize = if self.padded {
            items.len() * items.iter().map(|item| item.rows).max().unwrap_or(0)
        } else {
            items.iter().map(|item| item.rows).sum()
        };
        assert!(
            !items.is_empty() && rows <= self.max_batch,
            "{rows} rows of {}",
            self.max_batch
        );
        for item in items {
            assert_eq!(item.kind, items[0].kind, "kinds mixed");
            assert!(
                item.deadline.is_none_or(|deadline| deadline > self.now),
                "expired item run"
            );
            let caller = self
                .callers
                .iter()
                .find(|caller| caller.item.id == item.id)
                .unwrap();
            assert!(caller.told.is_some(), "an item is run for nobody");
        }
    }

    fn finish(&mut self) {
        let slot = usize::try_from(self.random.next()).unwrap_or(0) % self.seats.len();
        if let (seat, At::Running(items)) = &self.seats[slot] {
            let (seat, items) = (*seat, items.clone());
            self.complete(seat, &items);
            self.seats[slot].1 = At::Free;
        }
    }

    fn complete(&mut self, seat: Seat, items: &[Item]) {
        let how = self.random.below(6);
        let result = |item: &Item| match how {
            0 => Err(BatchError::Panicked("boom".into())),
            1 => Err(BatchError::CountMismatch {
                expected: items.len(),
                got: 0,
            }),
            2 if item.id.is_multiple_of(3) => Err(BatchError::model(item.id)),
            _ => Ok(answer(item)),
        };
        let results = items.iter().map(result).collect();
        let took = (how > 2).then(|| MICRO * u32::try_from(self.random.below(9_000)).unwrap());
        let mut due = Vec::new();
        self.lane.complete(self.now, seat, results, took, &mut due);
        due.into_iter().for_each(Due::send);
    }

    /// A batch that was given up comes back: nobody must notice.
    fn late_reply(&mut self) {
        let Some((seat, items)) = self.lost.pop() else {
            return;
        };
        let before = self.lane.stats(self.now);
        self.complete(seat, &items);
        assert_eq!(
            before,
            self.lane.stats(self.now),
            "a late reply changed something"
        );
    }

    fn lose_or_restore(&mut self) {
        let slot = usize::try_from(self.random.next()).unwrap_or(0) % self.seats.len();
        let seat = self.seats[slot].0;
        match self.seats[slot].1 {
            At::Free => {
                let mut due = Vec::new();
                self.lane.vacate(seat, "killed".into(), &mut due);
                due.into_iter().for_each(Due::send);
                self.seats[slot].1 = At::Absent;
            }
            At::Absent => {
                self.lane.sit(self.now, seat);
                self.seats[slot].1 = At::Free;
            }
            At::Running(_) => {}
        }
    }

    fn pass_time(&mut self) {
        let jump = self.random.one_in(40);
        let passed = if jump {
            Duration::from_secs(3600)
        } else {
            self.some_time() / 8
        };
        self.now += passed;
    }

    fn some_time(&mut self) -> Duration {
        MICRO * u32::try_from(self.random.below(60_000)).unwrap()
    }

    /// What the keeper's thread does.
    fn keep(&mut self) {
        let mut due = Vec::new();
        self.lane.expire(self.now, &mut due);
        for slot in self.lane.give_up(self.now, &mut due) {
            let fresh = self.lane.seat(slot);
            let (old, at) = std::mem::replace(&mut self.seats[slot], (fresh, At::Absent));
            let At::Running(items) = at else {
                panic!("only a running instance is given up")
            };
            self.lost.push((old, items));
            if self.random.one_in(2) {
                self.lane.sit(self.now, fresh);
                self.seats[slot].1 = At::Free;
            }
        }
        due.into_iter().for_each(Due::send);
        let next = self.lane.next_due();
        assert!(
            next.is_none_or(|next| next > self.now),
            "something overdue was left"
        );
    }

    fn check(&mut self) {
        for index in 0..self.callers.len() {
            let Some(told) = &mut self.callers[index].told else {
                continue;
            };
            match told.try_recv() {
                Ok(answer) => {
                    self.callers[index].told = None;
                    self.receive(index, answer);
                }
                Err(oneshot::error::TryRecvError::Empty) => {}
                Err(oneshot::error::TryRecvError::Closed) => panic!("a request was lost"),
            }
        }
        self.callers.retain(|caller| caller.told.is_some());
        let stats = self.lane.stats(self.now);
        let open = u64::try_from(stats.queued + stats.running).unwrap();
        assert_eq!(tally(&stats), self.tally);
        assert_eq!(
            open,
            u64::try_from(self.callers.len()).unwrap(),
            "queued and running"
        );
        let ended = stats.ok + stats.failed + stats.refused + stats.expired + stats.cancelled;
        assert_eq!(stats.received, ended + open, "conservation");
    }

    fn receive(&mut self, index: usize, told: Told<Fake>) {
        let item = self.callers[index].item;
        match told {
            Ok(given) => {
                assert_eq!(given.value, answer(&item), "another's answer");
                self.tally.ok += 1;
            }
            Err(BatchError::Expired { .. }) => {
                assert!(item.deadline.is_some_and(|deadline| deadline <= self.now));
                self.tally.expired += 1;
            }
            Err(BatchError::Model(id)) => {
                assert_eq!(*id, item.id, "another's error");
                self.tally.failed += 1;
            }
            Err(BatchError::Lost) => panic!("a request was lost"),
            Err(_) => self.tally.failed += 1,
        }
    }

    /// Closes the lane and lets everything end.
    fn drain(&mut self) {
        if self.random.one_in(2) {
            let mut due = Vec::new();
            self.lane.abort(&mut due);
            due.into_iter().for_each(Due::send);
        }
        self.lane.close();
        let mut stopped = 0;
        while stopped < self.seats.len() {
            stopped = 0;
            for slot in 0..self.seats.len() {
                let (seat, at) = (self.seats[slot].0, &self.seats[slot].1);
                match at {
                    At::Running(items) => {
                        let items = items.clone();
                        self.complete(seat, &items);
                        self.seats[slot].1 = At::Free;
                    }
                    At::Absent => {
                        self.lane.sit(self.now, seat);
                        self.seats[slot].1 = At::Free;
                    }
                    At::Free => {
                        let mut due = Vec::new();
                        let next = self.lane.next(self.now, seat, &mut due);
                        due.into_iter().for_each(Due::send);
                        match next {
                            Next::Run(items) => self.seats[slot].1 = At::Running(items),
                            Next::Stop => stopped += 1,
                            Next::Hold { .. } | Next::Wait | Next::Follow => {
                                panic!("a closing lane waits")
                            }
                        }
                    }
                }
            }
        }
        self.check();
        assert!(self.callers.is_empty(), "somebody was left behind");
    }
}

fn answer(item: &Item) -> u64 {
    item.id * 7 + 1
}

fn tally(stats: &Stats) -> Tally {
    Tally {
        received: stats.received,
        ok: stats.ok,
        failed: stats.failed,
        refused: stats.refused,
        expired: stats.expired,
        cancelled: stats.cancelled,
    }
}

/// Plays the storm that the bytes describe, and panics when something is lost.
#[cfg(fuzzing)]
pub fn play(script: &[u8]) {
    let mut world = World::new(Random::scripted(script));
    while world.random.script.len() > 0 {
        world.step();
    }
    world.drain();
}

/// One seed after another; `JITNEY_SEEDS=10000` for more of them. A failure names its seed.
#[test]
fn nothing_is_lost_in_any_storm() {
    let seeds = std::env::var("JITNEY_SEEDS")
        .ok()
        .and_then(|seeds| seeds.parse().ok());
    let mut ran = 0;
    for seed in 0..seeds.unwrap_or(1_000) {
        let storm = move || {
            let mut world = World::new(Random::seeded(seed));
            for _ in 0..300 {
                world.step();
            }
            world.drain();
            world.tally.ok
        };
        match std::panic::catch_unwind(storm) {
            Ok(ok) => ran += ok,
            Err(panic) => {
                eprintln!("failed with seed {seed}");
                std::panic::resume_unwind(panic);
            }
        }
    }
    assert!(
        ran > 0,
        "some requests must have been answered for this to mean anything"
    );
}
