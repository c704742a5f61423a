use std::collections::HashMap;
use std::time::Duration;

use super::super::{Advice, StartFailure, Terms};
use super::*;
use crate::process::Settings;

const LIMIT: Duration = Duration::from_secs(10);
const S: Duration = Duration::from_secs(1);

/// One worker that is ready.
struct World {
    supervisor: Supervisor,
    now: Instant,
    /// The last verdict about each stream.
    verdicts: HashMap<CallId, Verdict>,
}

impl World {
    fn new(workers: usize, streams: usize) -> Self {
        Self::with(Settings {
            workers,
            streams,
            ..Settings::default()
        })
    }

    fn with(settings: Settings) -> Self {
        let (now, workers) = (Instant::now(), settings.workers);
        let mut world = Self {
            supervisor: Supervisor::new(settings, 1, now),
            now,
            verdicts: HashMap::new(),
        };
        for seat in 0..workers {
            world.rise(seat);
        }
        world
    }

    /// A process comes up.
    fn rise(&mut self, seat: usize) {
        while self.supervisor.advice(seat, self.now) != Advice::Spawn {
            self.now += S;
        }
        self.supervisor.ready(seat, self.now).unwrap();
        self.listen();
    }

    fn listen(&mut self) {
        self.verdicts.extend(self.supervisor.take_verdicts());
        self.supervisor.take_nudges();
    }

    fn open(&mut self, id: CallId) {
        let terms = Terms {
            weight: 1,
            limit: LIMIT,
            patience: self.now + LIMIT * 1000,
        };
        self.supervisor.opened(id, terms);
        self.listen();
    }

    fn place(&self, id: CallId) -> Option<Place> {
        match self.verdicts.get(&id) {
            Some(Verdict::Assigned(place)) => Some(*place),
            _ => None,
        }
    }

    fn send(&mut self, id: CallId) -> Place {
        let place = self.place(id).unwrap();
        assert!(self.supervisor.sent(id, place, self.now));
        place
    }

    fn reply(&mut self, id: CallId, cost: i64) -> Result<bool, String> {
        let place = self.place(id).unwrap();
        self.supervisor
            .replied(place.seat, id, place.slot, cost, self.now)
    }

    fn end(&mut self, id: CallId) -> Result<bool, String> {
        let place = self.place(id).unwrap();
        let ended = self.supervisor.ended(place.seat, id, place.slot, self.now);
        self.listen();
        ended
    }

    /// The first worker dies at work on that stream, having begun those.
    fn die(&mut self, stepped: Option<CallId>, begun: &[CallId]) {
        self.supervisor.marked(0, marks(stepped, S, begun));
        let how = StartFailure::Died("died".to_owned());
        self.supervisor.exited(0, how, false, self.now);
        self.listen();
    }

    fn looks(&mut self) -> bool {
        self.supervisor.advice(0, self.now) == Advice::Look
    }

    /// The keeper has looked; whether the worker is killed.
    fn look(&mut self, stepped: Option<(CallId, Duration)>) -> bool {
        let marks = Marks {
            stepped,
            begun: Vec::new(),
        };
        self.supervisor.marked(0, marks);
        self.supervisor.looked(0, self.now);
        self.listen();
        matches!(self.supervisor.advice(0, self.now), Advice::Kill(_))
    }
}

fn marks(stepped: Option<CallId>, age: Duration, begun: &[CallId]) -> Marks {
    Marks {
        stepped: stepped.map(|id| (id, age)),
        begun: begun.to_vec(),
    }
}

#[test]
fn a_large_reply_takes_more_of_the_credit() {
    let table = [
        (0, 1),
        (65_535, 1),
        (65_536, 2),
        (1 << 20, 16),
        (u64::MAX, 16),
    ];
    for (bytes, expected) in table {
        assert_eq!(cost(bytes), expected, "{bytes}");
    }
}

#[test]
fn nothing_comes_beyond_the_credit() {
    let mut world = World::new(1, 4);
    world.open(1);
    world.send(1);
    for _ in 0..CREDIT {
        assert_eq!(world.reply(1, 1), Ok(true));
    }
    assert!(world.reply(1, 1).unwrap_err().contains("beyond its credit"));
    assert!(world.supervisor.taken(1, 2, world.now));
    // The last may cost more than is left.
    assert_eq!(
        (world.reply(1, 16), world.reply(1, 1).is_err()),
        (Ok(true), true)
    );
    assert!(world.supervisor.taken(1, 14, world.now));
    assert!(world.reply(1, 1).is_err());
    assert_eq!(world.end(1), Ok(true));
    assert!(!world.supervisor.taken(1, 1, world.now), "it has ended");
}

#[test]
fn what_does_not_go_on_is_garbage() {
    let mut world = World::new(1, 4);
    world.open(1);
    assert!(world.reply(1, 1).is_err(), "it was not sent");
    let place = world.send(1);
    let mut reply = |id, slot| world.supervisor.replied(0, id, slot, 1, world.now);
    assert!(reply(2, place.slot).is_err() && reply(1, place.slot + 1).is_err());
    assert!(reply(1, 99).is_err() && reply(1, place.slot).is_ok());
    assert_eq!(world.end(1), Ok(true));
    assert!(world.end(1).is_err() && world.reply(1, 1).is_err());
}

#[test]
fn streams_wait_for_a_place_and_are_spread() {
    let mut world = World::new(2, 4);
    world.supervisor.narrow(2);
    for id in 1..=6 {
        world.open(id);
    }
    let seats: Vec<_> = (1..=6)
        .map(|id| world.place(id).map(|place| place.seat))
        .collect();
    assert_eq!(
        seats,
        [Some(0), Some(1), Some(0), Some(1), None, None],
        "two each"
    );
    for id in 1..=4 {
        world.send(id);
    }
    world.end(2).unwrap();
    assert_eq!(world.place(5).unwrap().seat, 1);
    // Who leaves while he waits, or before anything was sent, leaves room.
    assert_eq!(world.supervisor.left(5, world.now), None);
    world.listen();
    assert_eq!(world.place(6).unwrap().seat, 1);
    world.open(7);
    assert_eq!(world.supervisor.left(7, world.now), None);
    world.end(1).unwrap();
    assert_eq!(world.place(7), None);
}

#[test]
fn who_has_left_holds_his_place_until_the_generator_has_ended() {
    let mut world = World::new(1, 1);
    world.open(1);
    let place = world.send(1);
    world.open(2);
    assert_eq!(world.supervisor.left(1, world.now), Some(place));
    assert_eq!(world.reply(1, 1), Ok(false), "nobody reads it");
    assert_eq!(world.place(2), None);
    assert_eq!(world.end(1), Ok(false));
    assert_eq!(world.place(2), Some(place));
}

#[test]
fn each_stream_of_a_dead_process_has_its_own_end() {
    let mut world = World::new(2, 16);
    for id in 1..=10 {
        world.open(id);
    }
    // The odd ones are with the first worker: at work on 1, 3 gave something, 5 has begun, 7 has not, and 9 was not sent.
    for id in [1, 3, 5, 7] {
        world.send(id);
    }
    world.reply(3, 1).unwrap();
    let begun = [1, 3, 5, 0, 0];
    world.die(Some(1), &begun);
    assert_eq!(world.verdicts[&1], Verdict::Crashed("died".to_owned()));
    assert_eq!([&world.verdicts[&3], &world.verdicts[&5]], [&innocent(); 2]);
    for id in [7, 9] {
        assert_eq!(world.place(id).unwrap().seat, 1, "{id} goes on elsewhere");
    }
    // They begin from the beginning there, with all their credit.
    world.send(7);
    for _ in 0..CREDIT {
        assert_eq!(world.reply(7, 1), Ok(true));
    }
}

#[test]
fn a_death_between_two_steps_is_nobodys_fault() {
    let mut world = World::new(1, 16);
    for id in 1..=2 {
        world.open(id);
        world.send(id);
    }
    world.supervisor.left(2, world.now);
    world.die(None, &[1, 2]);
    assert_eq!(world.verdicts[&1], innocent());
    assert!(world.place(2).is_some(), "who has left is told nothing");
    assert!(world.supervisor.calls.is_empty());
}

#[test]
fn garbage_is_the_fault_of_what_was_at_work() {
    let mut world = World::new(1, 16);
    for id in 1..=3 {
        world.open(id);
        world.send(id);
    }
    world.open(4);
    world.supervisor.marked(0, marks(Some(2), S, &[1, 2]));
    world.supervisor.garbage(0, "noise", world.now);
    world.listen();
    assert_eq!(world.verdicts[&1], innocent());
    assert_eq!(world.verdicts[&2], Verdict::Garbage("noise".to_owned()));
    assert_eq!(world.verdicts[&3], innocent(), "it may begin yet");
    let waits = matches!(world.supervisor.calls[&4].stage, Stage::Queued);
    assert!(waits, "it was not sent");
    let late = world.supervisor.replied(0, 1, 0, 1, world.now);
    assert_eq!(late, Ok(false), "what comes after it is not heard");
}

#[test]
fn a_step_may_take_as_long_as_the_limit() {
    let mut world = World::new(1, 16);
    for id in 1..=2 {
        world.open(id);
        world.send(id);
    }
    world.now += LIMIT - S;
    assert!(!world.looks());
    world.now += S;
    assert!(world.looks());
    assert!(!world.look(Some((1, LIMIT - S))), "it began a second late");
    assert!(!world.looks());
    world.now += S;
    assert!(world.looks() && world.look(Some((1, LIMIT))));
    assert_eq!(world.verdicts[&1], Verdict::Hung(LIMIT));
    assert!(world.place(2).is_none() || world.supervisor.calls.contains_key(&2));
}

#[test]
fn whoever_says_something_is_not_stuck() {
    let mut world = World::new(1, 16);
    for id in 1..=2 {
        world.open(id);
        world.send(id);
    }
    for _ in 0..10 {
        world.now += LIMIT - S;
        assert!(!world.looks());
        world.reply(2, 1).unwrap();
    }
}

#[test]
fn only_those_who_owe_something_may_not_be_silent() {
    let mut world = World::new(1, 16);
    assert!(!world.looks());
    world.open(1);
    world.now += LIMIT * 2;
    assert!(!world.looks(), "it was not sent");
    world.send(1);
    assert_eq!(world.reply(1, CREDIT), Ok(true));
    world.now += LIMIT * 2;
    assert!(!world.looks(), "its reader has no room");
    world.supervisor.taken(1, CREDIT, world.now);
    world.now += LIMIT - S;
    assert!(!world.looks(), "now it may take its time");
    assert_eq!(world.reply(1, CREDIT), Ok(true));
    world.supervisor.left(1, world.now);
    world.now += LIMIT;
    assert!(world.looks(), "it should have ended");
    // It is not at work on anything: it may be about to say so.
    assert!(!world.look(None));
    world.now += LIMIT / 2 + S;
    assert!(world.looks() && world.look(None));
}

#[test]
fn a_closed_pool_waits_for_its_streams_until_they_are_cut() {
    let mut world = World::new(1, 16);
    for id in 1..=2 {
        world.open(id);
        world.send(id);
    }
    world.supervisor.close(world.now);
    world.open(3);
    assert_eq!(world.verdicts[&3], Verdict::Closed);
    assert!(matches!(
        world.supervisor.advice(0, world.now),
        Advice::Wait(_)
    ));
    world.end(1).unwrap();
    world.now += Settings::default().close_limit;
    assert!(matches!(
        world.supervisor.advice(0, world.now),
        Advice::Kill(_)
    ));
    world.listen();
    assert_eq!(world.verdicts[&2], Verdict::Closed);
}

/// One worker that has served its time, with two streams that go on and one that it was not sent; its replacement is ready. `before` that
/// time something else was done.
fn replaced(before: impl FnOnce(&mut World)) -> World {
    let mut world = World::with(Settings {
        streams: 16,
        recycle_after: Some(1),
        ..Settings::default()
    });
    for id in 1..=4 {
        world.open(id);
    }
    for id in 1..=3 {
        world.send(id);
    }
    before(&mut world);
    world.end(1).unwrap();
    world.rise(1);
    world
}

#[test]
fn streams_of_a_worker_that_is_replaced_are_cut_in_the_end() {
    let mut world = replaced(|_| {});
    world.supervisor.left(3, world.now);
    world.now += Settings::default().retire_limit - S;
    assert_eq!(world.reply(2, 1), Ok(true));
    // It gives results as fast as it should, so there is nothing else to look at.
    let until = Advice::Wait(Some(world.now + S));
    assert_eq!(world.supervisor.advice(0, world.now), until);
    world.now += S;
    assert_eq!(world.supervisor.advice(0, world.now), Advice::Close);
    let Place { slot, .. } = world.place(2).unwrap();
    world.listen();
    assert_eq!(
        world.verdicts[&2],
        Verdict::Unavailable(REPLACED.to_owned())
    );
    assert_eq!(world.place(4).map(|place| place.seat), Some(1));
    assert!(matches!(world.verdicts[&3], Verdict::Assigned(_)), "nobody");

    // What it says until it has gone is nobody's business, and no lie.
    assert_eq!(
        world.supervisor.replied(0, 2, slot, 1, world.now),
        Ok(false)
    );
    assert_eq!(world.supervisor.ended(0, 2, slot, world.now), Ok(false));
    assert!(!world.supervisor.taken(2, 1, world.now));
    assert_eq!(world.supervisor.left(2, world.now), None);
    world.die(None, &[]);
    assert_eq!(world.supervisor.advice(0, world.now), Advice::Wait(None));
    world.send(4);
    world.end(4).unwrap();
    assert!(world.supervisor.calls.is_empty());
}

#[test]
fn a_worker_without_streams_leaves_before_its_time() {
    let mut world = replaced(|_| {});
    world.supervisor.left(4, world.now);
    world.end(2).unwrap();
    world.end(3).unwrap();
    assert_eq!(world.supervisor.advice(0, world.now), Advice::Close);
}

#[test]
fn a_run_is_not_cut_with_the_streams_beside_it() {
    let mut world = replaced(|world| {
        let terms = Terms {
            weight: 1,
            limit: LIMIT * 10,
            patience: world.now + LIMIT,
        };
        world.supervisor.called(9, terms);
        world.listen();
        world.send(9);
    });
    world.now += Settings::default().retire_limit;
    let limit = Advice::Wait(Some(
        world.now + LIMIT * 10 - Settings::default().retire_limit,
    ));
    assert_eq!(world.supervisor.advice(0, world.now), limit);
    world.listen();
    assert_eq!(
        world.verdicts[&2],
        Verdict::Unavailable(REPLACED.to_owned())
    );
    let took = world.supervisor.done(0, 9, 0, false, world.now);
    assert_eq!(took, Ok(Some(Settings::default().retire_limit)));
    assert_eq!(world.supervisor.advice(0, world.now), Advice::Close);
}

/// Random histories of well-behaved children, who are killed at any moment: everything ends, nothing is counted twice, and what a child owes
/// is what its streams say.
#[test]
fn a_thousand_histories() {
    let mut seen = [0_u32; 4];
    for seed in 1..=1_000 {
        History::new(seed).run(&mut seen);
    }
    assert!(seen.iter().all(|&count| count > 500), "{seen:?}");
}

struct History {
    world: World,
    dice: u64,
    /// What each stream that was not answered has had: replies that were not taken, and whether it was sent and left.
    streams: HashMap<CallId, Known>,
    next: CallId,
}

#[derive(Default)]
struct Known {
    sent: Option<Place>,
    untaken: i64,
    left: bool,
    begun: bool,
}

impl History {
    fn new(seed: u64) -> Self {
        let workers = 1 + (seed % 3) as usize;
        Self {
            world: World::new(workers, 1 + (seed % 5) as usize),
            dice: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            streams: HashMap::new(),
            next: 1,
        }
    }

    fn run(&mut self, seen: &mut [u32; 4]) {
        for _ in 0..200 {
            let choice = self.upto(100);
            let id = 1 + self.upto(self.next);
            match choice {
                0..25 => self.open(),
                25..70 => self.reply(id),
                70..80 => self.take(id),
                80..88 => seen[0] += u32::from(self.end(id)),
                88..95 => seen[1] += u32::from(self.leave(id)),
                95..97 => self.die(seen),
                _ => self.world.now += S / 10,
            }
            self.hear(seen);
            self.check();
        }
        for id in 1..self.next {
            self.end(id);
            self.hear(seen);
        }
        for id in 1..self.next {
            self.leave(id);
            self.end(id);
        }
        self.check();
        assert!(self.world.supervisor.calls.is_empty());
        assert!(
            self.world
                .supervisor
                .seats
                .iter()
                .all(|seat| seat.flows.count() == 0)
        );
    }

    fn upto(&mut self, n: u64) -> u64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        self.dice % n
    }

    fn open(&mut self) {
        let id = self.next;
        self.next += 1;
        self.streams.insert(id, Known::default());
        self.world.open(id);
    }

    /// Sends what has a place, and forgets what has an answer.
    fn hear(&mut self, seen: &mut [u32; 4]) {
        self.world.listen();
        for (id, verdict) in std::mem::take(&mut self.world.verdicts) {
            let Some(known) = self.streams.get_mut(&id) else {
                panic!("a verdict about a stream that was answered: {verdict:?}");
            };
            match verdict {
                Verdict::Assigned(place) => {
                    seen[2] += u32::from(known.sent.is_some());
                    assert!(!known.begun, "it has begun elsewhere");
                    assert!(self.world.supervisor.sent(id, place, self.world.now));
                    *known = Known {
                        sent: Some(place),
                        ..Known::default()
                    };
                }
                _ => {
                    seen[3] += 1;
                    self.streams.remove(&id);
                }
            }
        }
    }

    fn reply(&mut self, id: CallId) {
        let cost = 1 + i64::from(self.upto(4) == 0) * 15;
        let Some(known) = self.streams.get_mut(&id) else {
            return;
        };
        let (Some(place), now) = (known.sent, self.world.now) else {
            return;
        };
        known.begun = true;
        let reply = self
            .world
            .supervisor
            .replied(place.seat, id, place.slot, cost, now);
        match known.untaken < CREDIT {
            true => {
                assert_eq!(reply, Ok(!known.left));
                known.untaken += cost;
            }
            false => {
                // A child that does this is killed; nothing may have changed.
                assert!(reply.is_err());
            }
        }
    }

    fn take(&mut self, id: CallId) {
        let Some(known) = self.streams.get_mut(&id) else {
            return;
        };
        if known.left || known.sent.is_none() {
            return;
        }
        let taken = std::mem::take(&mut known.untaken);
        assert!(self.world.supervisor.taken(id, taken, self.world.now));
    }

    fn end(&mut self, id: CallId) -> bool {
        let Some(known) = self.streams.get(&id) else {
            return false;
        };
        let Some(place) = known.sent else {
            return false;
        };
        let left = known.left;
        let ended = self
            .world
            .supervisor
            .ended(place.seat, id, place.slot, self.world.now);
        assert_eq!(ended, Ok(!left));
        self.streams.remove(&id);
        true
    }

    fn leave(&mut self, id: CallId) -> bool {
        let Some(known) = self.streams.get_mut(&id) else {
            return false;
        };
        if std::mem::replace(&mut known.left, true) {
            return false;
        }
        let told = self.world.supervisor.left(id, self.world.now);
        assert_eq!(told, known.sent);
        if told.is_none() {
            self.streams.remove(&id);
        }
        true
    }

    fn die(&mut self, seen: &mut [u32; 4]) {
        let of_first = |known: &Known| known.sent.is_some_and(|place| place.seat == 0);
        let mut begun = vec![0; 5];
        for (id, known) in self
            .streams
            .iter()
            .filter(|(_, known)| known.begun && of_first(known))
        {
            begun[known.sent.unwrap().slot] = *id;
        }
        let stepped = begun.iter().copied().find(|&id| id != 0);
        self.world.supervisor.marked(0, marks(stepped, S, &begun));
        let how = StartFailure::Died("died".to_owned());
        self.world.supervisor.exited(0, how, false, self.world.now);
        // Those whose readers have left are forgotten.
        self.streams
            .retain(|_, known| !(known.left && of_first(known)));
        self.hear(seen);
        self.world.rise(0);
    }

    /// What each worker owes.
    fn check(&self) {
        for (index, seat) in self.world.supervisor.seats.iter().enumerate() {
            let there = |known: &&Known| known.sent.is_some_and(|place| place.seat == index);
            let owed = |known: &&Known| known.left || known.untaken < CREDIT;
            let mine: Vec<_> = self.streams.values().filter(there).collect();
            assert_eq!(seat.flows.count(), mine.len());
            let owing = mine.into_iter().filter(owed).count();
            assert_eq!(seat.flows.owing(), owing);
        }
    }
}
