use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;

const S: Duration = Duration::from_secs(1);

/// One worker, and a clock that stands still unless it is moved.
struct World {
    supervisor: Supervisor,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self::with(Settings::default())
    }

    fn with(settings: Settings) -> Self {
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(settings, 1, now),
            now,
        }
    }

    fn terms(&self, limit: Duration) -> Terms {
        Terms {
            weight: 1,
            limit: bounded(limit),
            patience: self.now + 600 * S,
        }
    }

    /// Who was given a place since this was last asked.
    fn assigned(&mut self) -> BTreeMap<CallId, Place> {
        let place = |(id, verdict)| match verdict {
            Verdict::Assigned(place) => (id, place),
            verdict => panic!("{id}: {verdict:?}"),
        };
        self.supervisor.take_verdicts().map(place).collect()
    }

    /// Waits until a process is started.
    fn start(&mut self) {
        loop {
            match self.supervisor.advice(0, self.now) {
                Advice::Spawn => return,
                Advice::Wait(Some(until)) => self.now = until,
                advice => panic!("no start is due: {advice:?}"),
            }
        }
    }

    fn rise(&mut self) {
        self.start();
        self.supervisor.ready(0, self.now).unwrap();
    }

    fn die(&mut self) {
        let how = StartFailure::Died("died".to_owned());
        self.supervisor.exited(0, how, false, self.now);
    }

    /// Starts of which each dies after so long, until the pool says what has become of it; how many, and how long that took.
    fn die_early(&mut self, after: Duration, over: impl Fn(&Supervisor) -> bool) -> (usize, u64) {
        let begin = self.now;
        for starts in 1..100 {
            self.start();
            self.now += after;
            self.die();
            if over(&self.supervisor) {
                return (starts, (self.now - begin).as_secs());
            }
        }
        panic!("it never ends");
    }
}

fn has_failed(supervisor: &Supervisor) -> bool {
    matches!(supervisor.health(), Health::Failed(_))
}

#[test]
fn quick_deaths_fail_the_pool_and_rarer_ones_only_after_the_time_of_a_start() {
    let table = [
        (S / 10, 5, 1..4),
        (10 * S, 5, 50..55),
        (20 * S, 7, 120..160),
    ];
    for (after, starts, took) in table {
        let mut world = World::new();
        world.rise();
        world.die();
        let (died, seconds) = world.die_early(after, has_failed);
        assert_eq!(died, starts, "{after:?}");
        assert!(took.contains(&seconds), "{after:?}: {seconds} s");
    }
}

#[test]
fn calls_wait_for_a_slow_worker_that_is_killed_now_and_then() {
    let mut world = World::new();
    world.rise();
    world.die();
    let terms = world.terms(30 * S);
    world.supervisor.called(1, terms);
    for _ in 0..5 {
        world.start();
        world.now += 17 * S;
        world.die();
    }
    assert_eq!(world.supervisor.health(), Health::Starting);
    assert_eq!(world.supervisor.take_verdicts().count(), 0);
    // What comes up next has them, long before a pool that has failed would have tried again.
    let begin = world.now;
    world.rise();
    assert!(world.now - begin < 2 * S, "{:?}", world.now - begin);
    let verdicts: Vec<_> = world.supervisor.take_verdicts().collect();
    assert!(matches!(verdicts[..], [(1, Verdict::Assigned(_))]));
}

#[test]
fn a_first_start_that_dies_slowly_is_given_up_too() {
    let mut world = World::new();
    let (_, seconds) = world.die_early(20 * S, Supervisor::is_stillborn);
    assert!((120..180).contains(&seconds), "{seconds} s");
}

#[test]
fn runs_and_streams_do_not_wait_for_each_others_places() {
    for first_are_streams in [false, true] {
        let is_stream = |id| (id <= 3) == first_are_streams;
        let mut world = World::with(Settings {
            streams: 1,
            ..Settings::default()
        });
        world.rise();
        let terms = world.terms(30 * S);
        for id in 1..=5 {
            match is_stream(id) {
                true => world.supervisor.opened(id, terms),
                false => world.supervisor.called(id, terms),
            }
        }
        assert_eq!(Vec::from_iter(world.assigned().into_keys()), [1, 4]);
        // Those who lose their places are the first again.
        world.die();
        world.rise();
        let assigned = world.assigned();
        assert_eq!(Vec::from_iter(assigned.keys().copied()), [1, 4]);
        for (id, place) in assigned {
            assert!(world.supervisor.sent(id, place, world.now));
            let (supervisor, slot) = (&mut world.supervisor, place.slot);
            match is_stream(id) {
                true => _ = supervisor.ended(0, id, slot, world.now).unwrap(),
                false => _ = supervisor.done(0, id, slot, false, world.now).unwrap(),
            }
        }
        assert_eq!(Vec::from_iter(world.assigned().into_keys()), [2, 5]);
    }
}

#[test]
fn every_limit_may_be_the_longest_duration() {
    let end = Duration::MAX;
    let mut world = World::with(Settings {
        streams: 1,
        start_limit: end,
        close_limit: end,
        retire_limit: end,
        recycle_after: Some(1),
        restart: RestartPolicy {
            base: end,
            ceiling: end,
            jitter: 1.0,
            failures: 1,
            window: end,
            healthy: end,
        },
        ..Settings::default()
    });
    world.rise();
    world.die();
    world.start();
    world.die();
    assert!(has_failed(&world.supervisor));
    world.rise();
    // It is replaced after the run, while it has a stream.
    world.supervisor.called(1, world.terms(end));
    world.supervisor.opened(2, world.terms(end));
    let assigned = world.assigned();
    for (id, place) in &assigned {
        assert!(world.supervisor.sent(*id, *place, world.now));
    }
    world
        .supervisor
        .done(0, 1, assigned[&1].slot, false, world.now)
        .unwrap();
    assert_eq!(world.supervisor.advice(1, world.now), Advice::Spawn);
    world.supervisor.ready(1, world.now).unwrap();
    assert_eq!(world.supervisor.status(0).0, WorkerState::Draining);
    world.supervisor.looked(0, world.now);
    world.supervisor.close(world.now);
    assert!(matches!(
        world.supervisor.advice(0, world.now),
        Advice::Wait(Some(_))
    ));
    assert_eq!(world.supervisor.advice(1, world.now), Advice::Close);
}
