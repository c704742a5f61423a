//! Ten thousand random histories of a pool, with children that crash, hang, stall, lie and are killed at any moment.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Advice, CallId, Place, StartFailure, Supervisor, Terms, Verdict};
use crate::process::{Health, RestartPolicy, Settings};

const HISTORIES: u64 = 10_000;

#[test]
fn ten_thousand_histories() {
    let mut seen = Seen::default();
    for seed in 1..=HISTORIES {
        let mut world = World::new(seed);
        world.live_through_trouble();
        world.recover();
        world.close();
        seen.add(&world);
    }
    seen.check();
}

/// That the histories contain what they are about.
#[derive(Default)]
struct Seen {
    answers: BTreeMap<&'static str, u64>,
    given_again: u64,
    failed: u64,
    recycled: u64,
    late: u64,
    raved: u64,
}

impl Seen {
    fn add(&mut self, world: &World) {
        for answer in world.answers.values() {
            *self.answers.entry(answer).or_default() += 1;
        }
        self.given_again += world.given_again;
        self.failed += u64::from(world.failed);
        self.recycled += world.recycled;
        self.late += world.late;
        self.raved += world.raved;
    }

    fn check(&self) {
        for answer in [
            "done",
            "crashed",
            "hung",
            "garbage",
            "unavailable",
            "closed",
        ] {
            assert!(
                self.answers.get(answer).copied().unwrap_or(0) > 100,
                "{answer}: {:?}",
                self.answers
            );
        }
        let rest = [
            self.given_again,
            self.failed,
            self.recycled,
            self.late,
            self.raved,
        ];
        assert!(rest.iter().all(|&count| count > 100), "{rest:?}");
    }
}

struct World {
    seed: u64,
    dice: u64,
    start: Instant,
    now: Instant,
    settings: Settings,
    supervisor: Supervisor,
    events: BinaryHeap<Reverse<(Instant, u64, Event)>>,
    order: u64,
    children: Vec<Option<Child>>,
    /// When each keeper next asks by itself.
    wakes: Vec<Option<Instant>>,
    lives: Vec<Life>,
    calls: HashMap<CallId, Option<Place>>,
    answers: HashMap<CallId, &'static str>,
    begun: HashMap<CallId, u32>,
    /// What was in the pipe of a process that raves.
    doubtful: HashSet<CallId>,
    next_call: CallId,
    trouble: bool,
    closing: bool,
    given_again: u64,
    failed: bool,
    recycled: u64,
    late: u64,
    /// How many runs were begun by processes that rave.
    raved: u64,
    /// The process that exited last had a single run in its pipe.
    alone: bool,
}

/// A process, as the world has it.
struct Child {
    generation: u64,
    pipe: VecDeque<(CallId, usize)>,
    dying: bool,
    told_to_close: bool,
    stuck: bool,
    /// It has said what it may not, and goes on with its work until it is gone.
    raves: bool,
    /// Something was sent to it when it was dying already.
    unread: bool,
}

/// What the simulation itself counts of a seat, to check the back-off.
#[derive(Default)]
struct Life {
    fruitless: u32,
    useful: bool,
    ended: Option<Instant>,
    ready: Option<Instant>,
    lived: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Call,
    Look(CallId),
    Send(CallId),
    Read(CallId, usize, u64, usize),
    Greeting(usize, u64),
    Step(usize, u64),
    Exit(usize, u64),
    KilledFromOutside,
    Weigh,
    Wake(usize),
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut dice = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut upto = |n: u64| below(&mut dice, n);
        let settings = Settings {
            workers: 1 + upto(4) as usize,
            depth: 1 + upto(3) as usize,
            start_limit: Duration::from_secs(5),
            close_limit: Duration::from_millis(1 + upto(2000)),
            recycle_after: [None, Some(3 + upto(20))][upto(2) as usize],
            memory_mark: [None, Some(1 << 20)][upto(2) as usize],
            restart: RestartPolicy {
                healthy: Duration::from_secs(20),
                window: Duration::from_secs([60, 1][upto(2) as usize]),
                ..RestartPolicy::default()
            },
            ..Settings::default()
        };
        let supervisor = Supervisor::new(settings.clone(), seed, start);
        let seats = supervisor.seats.len();
        let mut world = Self {
            seed,
            dice,
            start,
            now: start,
            settings,
            supervisor,
            events: BinaryHeap::new(),
            order: 0,
            children: (0..seats).map(|_| None).collect(),
            wakes: vec![None; seats],
            lives: (0..seats).map(|_| Life::default()).collect(),
            calls: HashMap::new(),
            answers: HashMap::new(),
            begun: HashMap::new(),
            doubtful: HashSet::new(),
            next_call: 1,
            trouble: true,
            closing: false,
            given_again: 0,
            failed: false,
            recycled: 0,
            late: 0,
            raved: 0,
            alone: false,
        };
        for seat in 0..seats {
            world.ask(seat);
        }
        world
    }

    fn live_through_trouble(&mut self) {
        for _ in 0..10 + self.upto(60) {
            let at = self.upto(20_000);
            self.plan(at, Event::Call);
        }
        for _ in 0..self.upto(12) {
            let at = self.upto(20_000);
            self.plan(at, Event::KilledFromOutside);
        }
        for _ in 0..self.upto(4) {
            let at = self.upto(20_000);
            self.plan(at, Event::Weigh);
        }
        self.run_until(self.start + Duration::from_secs(20));
    }

    /// Once children behave again, so does the pool: within the ceiling of the back-off, the limits of what still hangs, and a start.
    fn recover(&mut self) {
        if self.supervisor.is_stillborn() {
            return;
        }
        self.trouble = false;
        self.run_until(self.now + Duration::from_secs(60));
        assert_eq!(
            self.supervisor.health(),
            Health::Ready,
            "seed {}",
            self.seed
        );
        let id = self.next_call;
        self.plan(0, Event::Call);
        self.run_until(self.now + Duration::from_secs(10));
        assert_eq!(self.answers.get(&id), Some(&"done"), "seed {}", self.seed);
        let alive = self.children.iter().flatten().count();
        assert!(
            alive >= self.settings.workers,
            "seed {}: {alive} workers",
            self.seed
        );
    }

    fn close(&mut self) {
        self.trouble = true;
        for _ in 0..self.upto(12) {
            self.plan(0, Event::Call);
        }
        let pause = self.upto(30);
        self.run_until(self.now + Duration::from_millis(pause));
        self.closing = true;
        self.supervisor.close(self.now);
        self.settle();
        self.plan(0, Event::Call);
        self.run_until(self.now + self.settings.close_limit + Duration::from_secs(1));
        let left = self.children.iter().flatten().count();
        assert_eq!(left, 0, "seed {}: processes left", self.seed);
        for id in 1..self.next_call {
            assert!(
                self.answers.contains_key(&id),
                "seed {}: call {id} has no answer",
                self.seed
            );
        }
        assert!(
            self.supervisor.calls.is_empty()
                && self.supervisor.queues.iter().all(VecDeque::is_empty),
            "seed {}",
            self.seed
        );
        for seat in 0..self.children.len() {
            assert_eq!(
                self.supervisor.advice(seat, self.now),
                Advice::Stop,
                "seed {}",
                self.seed
            );
        }
    }

    fn run_until(&mut self, end: Instant) {
        let mut steps = 0;
        while let Some(Reverse((at, ..))) = self.events.peek() {
            if *at > end {
                break;
            }
            let Some(Reverse((at, _, event))) = self.events.pop() else {
                break;
            };
            self.now = at;
            self.happen(event);
            self.settle();
            steps += 1;
            assert!(steps < 20_000, "seed {}: the pool spins", self.seed);
        }
        self.now = end;
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Call => self.call(),
            Event::Look(id) => self.look(id),
            Event::Send(id) => self.send(id),
            Event::Read(id, seat, generation, slot) => {
                let _ = id;
                self.supervisor.released(
                    Place {
                        seat,
                        generation,
                        slot,
                    },
                    self.now,
                );
            }
            Event::Greeting(seat, generation) => self.greet(seat, generation),
            Event::Step(seat, generation) => self.step(seat, generation),
            Event::Exit(seat, generation) => self.exit(seat, generation),
            Event::KilledFromOutside => {
                let seat = self.upto(self.children.len() as u64) as usize;
                self.die(seat);
            }
            Event::Weigh => {
                let seat = self.upto(self.children.len() as u64) as usize;
                if self.children[seat].is_some() {
                    self.supervisor.weighed(seat, 2 << 20);
                }
            }
            Event::Wake(seat) => self.wakes[seat] = None,
        }
        if let Event::Wake(seat)
        | Event::Greeting(seat, _)
        | Event::Step(seat, _)
        | Event::Exit(seat, _) = event
        {
            self.ask(seat);
        }
    }

    /// Delivers verdicts and asks for advice where the supervisor says so, and only there.
    fn settle(&mut self) {
        loop {
            let verdicts: Vec<_> = self.supervisor.take_verdicts().collect();
            let nudges: Vec<_> = self.supervisor.take_nudges().collect();
            if verdicts.is_empty() && nudges.is_empty() {
                break;
            }
            for (id, verdict) in verdicts {
                self.hear(id, &verdict);
            }
            for seat in nudges {
                self.ask(seat);
            }
        }
        self.failed |= matches!(self.supervisor.health(), Health::Failed(_));
        let alive = self.children.iter().flatten().count();
        assert!(
            alive <= self.settings.workers + 1,
            "seed {}: {alive} processes",
            self.seed
        );
    }

    fn call(&mut self) {
        let id = self.next_call;
        self.next_call += 1;
        let terms = Terms {
            weight: 1 + self.upto(3),
            limit: Duration::from_secs(2),
            patience: self.now + Duration::from_millis(1 + self.upto(8000)),
        };
        self.calls.insert(id, None);
        self.supervisor.called(id, terms);
        self.plan(2000, Event::Look(id));
    }

    fn look(&mut self, id: CallId) {
        if self.answers.contains_key(&id) {
            return;
        }
        if let Some(at) = self.supervisor.look(id, self.now) {
            assert!(at > self.now, "seed {}: call {id} spins", self.seed);
            self.plan_at(at, Event::Look(id));
        } else {
            self.settle();
            let answered = self.answers.contains_key(&id);
            if !answered {
                self.plan(1, Event::Look(id));
            }
        }
    }

    fn send(&mut self, id: CallId) {
        let Some(Some(place)) = self.calls.get(&id).copied() else {
            return;
        };
        if !self.supervisor.sent(id, place, self.now) {
            return;
        }
        let Some(child) = self.children[place.seat]
            .as_mut()
            .filter(|child| child.generation == place.generation)
        else {
            return;
        };
        child.pipe.push_back((id, place.slot));
        child.unread |= child.dying;
        assert!(
            child.pipe.len() <= self.settings.depth,
            "seed {}",
            self.seed
        );
        if child.pipe.len() == 1 && !child.dying {
            self.begin(place.seat);
        }
    }

    /// The child begins the run at the head of its pipe.
    fn begin(&mut self, seat: usize) {
        let Some(child) = &self.children[seat] else {
            return;
        };
        let generation = child.generation;
        let Some(&(id, _)) = child.pipe.front() else {
            return;
        };
        self.raved += u64::from(child.raves);
        let times = self.begun.entry(id).or_default();
        *times += 1;
        assert_eq!(*times, 1, "seed {}: call {id} was run twice", self.seed);
        let time = 1 + self.upto(300);
        self.plan(time, Event::Step(seat, generation));
    }

    /// The child is through with the run at the head of its pipe, one way or another.
    fn step(&mut self, seat: usize, generation: u64) {
        let luck = if self.trouble { self.upto(20) } else { 19 };
        let Some(child) = self.children[seat]
            .as_mut()
            .filter(|child| child.generation == generation)
        else {
            return;
        };
        if child.stuck || child.dying && luck > 9 {
            return;
        }
        let Some(&(id, slot)) = child.pipe.front() else {
            return;
        };
        match luck {
            0 => self.die(seat),
            1 => child.stuck = true,
            2 => self.rave(seat, "noise"),
            3 => self.lie(seat, id, slot),
            _ => self.finish(seat, generation, id, slot),
        }
    }

    fn finish(&mut self, seat: usize, generation: u64, id: CallId, slot: usize) {
        let kept = self.upto(2) == 0;
        match self.supervisor.done(seat, id, slot, kept, self.now) {
            Ok(Some(took)) => {
                assert!(
                    took <= Duration::from_secs(2),
                    "seed {}: {took:?}",
                    self.seed
                );
                self.answer(id, "done");
                self.lives[seat].useful = true;
                if kept {
                    let time = self.upto(20);
                    self.plan(time, Event::Read(id, seat, generation, slot));
                }
            }
            Ok(None) => self.late += 1,
            Err(error) => panic!("seed {}: {error}", self.seed),
        }
        let Some(child) = self.children[seat].as_mut() else {
            return;
        };
        child.pipe.pop_front();
        if child.dying && !child.raves {
            child.unread |= !child.pipe.is_empty();
        } else {
            self.begin(seat);
        }
    }

    /// The child answers with garbage, and goes on with its next run as if nothing were wrong.
    fn rave(&mut self, seat: usize, what: &str) {
        self.supervisor.garbage(seat, what, self.now);
        let Some(child) = self.children[seat].as_mut().filter(|child| !child.dying) else {
            return;
        };
        self.doubtful.extend(child.pipe.iter().map(|&(id, _)| id));
        child.raves = true;
        child.pipe.pop_front();
        self.begin(seat);
    }

    /// The child answers what it was not asked.
    fn lie(&mut self, seat: usize, id: CallId, slot: usize) {
        let (other, slot) = if self.upto(2) == 0 {
            (id + 1, slot)
        } else {
            (id, slot + 1)
        };
        match self.supervisor.done(seat, other, slot, false, self.now) {
            Err(what) => self.rave(seat, &what),
            Ok(None) => self.late += 1,
            Ok(Some(_)) => panic!("seed {}: a reply to another run was taken", self.seed),
        }
    }

    fn greet(&mut self, seat: usize, generation: u64) {
        let luck = if self.trouble { self.upto(12) } else { 11 };
        let Some(child) = self.children[seat]
            .as_mut()
            .filter(|child| child.generation == generation && !child.dying)
        else {
            return;
        };
        match luck {
            0 | 1 => self.die(seat),
            2 => child.stuck = true,
            3 => self
                .supervisor
                .refused(seat, Bytes::from_static(b"no"), self.now)
                .unwrap(),
            4 => self.supervisor.garbage(seat, "noise", self.now),
            _ => {
                self.lives[seat].ready = Some(self.now);
                self.supervisor.ready(seat, self.now).unwrap();
            }
        }
    }

    fn die(&mut self, seat: usize) {
        let most = [5, 300][self.upto(2) as usize];
        let Some(child) = self.children[seat].as_mut() else {
            return;
        };
        if !child.dying {
            child.dying = true;
            let generation = child.generation;
            let time = self.upto(most);
            self.plan(time, Event::Exit(seat, generation));
        }
    }

    fn exit(&mut self, seat: usize, generation: u64) {
        let Some(child) = self.children[seat].take() else {
            return;
        };
        assert_eq!(child.generation, generation);
        self.recycled += u64::from(child.told_to_close && !self.closing);
        let life = &mut self.lives[seat];
        life.ended = Some(self.now);
        life.lived = life
            .ready
            .take()
            .map_or(Duration::ZERO, |ready| self.now - ready);
        life.fruitless = if std::mem::take(&mut life.useful) {
            1
        } else {
            life.fruitless + 1
        };
        let how = StartFailure::Died("died".to_owned());
        self.alone = child.pipe.len() == 1;
        self.supervisor.exited(seat, how, child.unread, self.now);
    }

    /// Follows the supervisor's advice until it says to wait.
    fn ask(&mut self, seat: usize) {
        for _ in 0..10 {
            match self.supervisor.advice(seat, self.now) {
                Advice::Spawn => self.spawn(seat),
                Advice::Kill(_) => self.die(seat),
                Advice::Close => {
                    self.children[seat].as_mut().unwrap().told_to_close = true;
                    if self.upto(8) > 0 {
                        self.die(seat);
                    }
                }
                Advice::Look => unreachable!("there are no streams here"),
                Advice::Wait(at) => return self.wake_at(seat, at),
                Advice::Stop => {
                    assert!(self.children[seat].is_none(), "seed {}", self.seed);
                    return;
                }
            }
        }
        panic!("seed {}: advice without end", self.seed);
    }

    fn spawn(&mut self, seat: usize) {
        assert!(
            self.children[seat].is_none(),
            "seed {}: two processes in one place",
            self.seed
        );
        assert!(!self.closing, "seed {}: a start after the close", self.seed);
        self.check_backoff(seat);
        let generation = self.supervisor.generation(seat);
        self.children[seat] = Some(Child {
            generation,
            pipe: VecDeque::new(),
            dying: false,
            told_to_close: false,
            stuck: false,
            raves: false,
            unread: false,
        });
        let time = 1 + self.upto(1000);
        self.plan(time, Event::Greeting(seat, generation));
    }

    /// From the second fruitless life in a row on, each start waits at least as long as the policy says; a place that was empty for
    /// another reason is filled when it is needed.
    fn check_backoff(&mut self, seat: usize) {
        let life = &self.lives[seat];
        let (Some(ended), true) = (life.ended, life.fruitless >= 2) else {
            return;
        };
        let policy = self.settings.restart;
        let wait = policy
            .base
            .mul_f64(2_f64.powi(life.fruitless.min(20) as i32 - 2))
            .min(policy.ceiling);
        let waited = self.now - ended;
        let spare = self.supervisor.seats.len() > self.settings.workers;
        let excused = spare || self.failed || life.lived >= self.settings.restart.healthy;
        assert!(
            excused || waited >= wait.mul_f64(0.79),
            "seed {}: waited {waited:?} of {wait:?}",
            self.seed
        );
    }

    fn hear(&mut self, id: CallId, verdict: &Verdict) {
        match verdict {
            &Verdict::Assigned(place) => {
                let before = self.calls.insert(id, Some(place));
                self.given_again += u64::from(before.flatten().is_some());
                let time = self.upto(4);
                self.plan(time, Event::Send(id));
            }
            Verdict::Crashed(_) => {
                let began = self.begun.contains_key(&id);
                assert!(
                    began || !self.alone,
                    "seed {}: call {id} had not begun",
                    self.seed
                );
                self.answer(id, "crashed");
            }
            Verdict::Hung(_) => self.answer(id, "hung"),
            Verdict::Garbage(_) => self.answer(id, "garbage"),
            Verdict::Unavailable(_) => {
                assert!(
                    !self.begun.contains_key(&id) || self.doubtful.contains(&id),
                    "seed {}: call {id} had begun",
                    self.seed
                );
                self.answer(id, "unavailable");
            }
            Verdict::Closed => self.answer(id, "closed"),
        }
    }

    fn answer(&mut self, id: CallId, answer: &'static str) {
        let before = self.answers.insert(id, answer);
        assert_eq!(
            before, None,
            "seed {}: call {id} was answered twice",
            self.seed
        );
    }

    fn wake_at(&mut self, seat: usize, at: Option<Instant>) {
        let Some(at) = at else { return };
        assert!(at > self.now, "seed {}: a wait that is over", self.seed);
        if self.wakes[seat].is_none_or(|wake| at < wake) {
            self.wakes[seat] = Some(at);
            self.plan_at(at, Event::Wake(seat));
        }
    }

    fn plan(&mut self, millis: u64, event: Event) {
        self.plan_at(self.now + Duration::from_millis(millis), event);
    }

    fn plan_at(&mut self, at: Instant, event: Event) {
        self.order += 1;
        self.events.push(Reverse((at, self.order, event)));
    }

    fn upto(&mut self, n: u64) -> u64 {
        below(&mut self.dice, n)
    }
}

/// A number below `n`.
fn below(dice: &mut u64, n: u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    (*dice >> 33) % n.max(1)
}
