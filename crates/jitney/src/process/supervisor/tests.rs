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
        let now = Instant::now();
        Self {
            supervisor: Supervisor::new(Settings::default(), 1, now),
            now,
        }
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
    let terms = Terms {
        weight: 1,
        limit: 30 * S,
        patience: world.now + 600 * S,
    };
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
