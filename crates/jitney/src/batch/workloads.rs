//! How well the policy does, in virtual time: callers that wait for their answer, callers that do not, and too many of them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::lane::{Lane, Next, Seat};
use super::simulation::Random;
use super::ticket::{Due, Reply, Told};
use super::{Batching, Context, Model, Terms};

struct Device;

impl Model for Device {
    type In = usize;
    type Out = ();
    type Error = ();

    fn run(&mut self, _: &[usize], _: &Context<'_>) -> Result<Vec<Result<(), ()>>, ()> {
        Err(())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrive(usize),
    Done,
    Look(u64),
}

/// How callers behave.
enum Callers {
    /// So many, each of whom asks again a moment after its answer.
    Closed(usize),
    /// Independent of each other and of the answers, so many a second.
    Open { per_second: f64 },
}

struct Workload {
    callers: Callers,
    cost: fn(usize) -> f64,
    deadline: Option<Duration>,
    seconds: f64,
}

#[derive(Debug, Default)]
struct Report {
    answered: usize,
    /// Seconds from arrival to answer.
    latencies: Vec<f64>,
    in_time: usize,
    refused: usize,
    batches: usize,
}

struct Run {
    start: Instant,
    now: Duration,
    lane: Lane<Device>,
    seat: Seat,
    events: BinaryHeap<Reverse<(Duration, Event)>>,
    random: Random,
    waiting: Vec<(usize, Duration, oneshot::Receiver<Told<Device>>)>,
    running: Option<usize>,
    hold: Option<(Instant, usize)>,
    looks: u64,
    report: Report,
}

impl Workload {
    fn run(&self) -> Report {
        let batching = Batching {
            queue: NonZeroUsize::new(2048).unwrap(),
            ..Batching::default()
        };
        let start = Instant::now();
        let mut lane = Lane::new(batching);
        // As the warm-up of a model does.
        for rows in [1, 2, 4, 8, 16, 32] {
            lane.observe_cost(rows, Duration::from_secs_f64((self.cost)(rows)));
        }
        let seat = lane.seat(0);
        lane.sit(start, seat);
        let mut run = Run {
            start,
            now: Duration::ZERO,
            lane,
            seat,
            events: BinaryHeap::new(),
            random: Random::seeded(7),
            waiting: Vec::new(),
            running: None,
            hold: None,
            looks: 0,
            report: Report::default(),
        };
        let first = if let Callers::Closed(callers) = self.callers {
            callers
        } else {
            1
        };
        for caller in 0..first {
            run.events
                .push(Reverse((Duration::from_micros(100), Event::Arrive(caller))));
        }
        while let Some(Reverse((at, event))) = run.events.pop() {
            if at.as_secs_f64() > self.seconds {
                break;
            }
            run.now = at;
            self.handle(&mut run, event);
        }
        run.report
    }

    fn handle(&self, run: &mut Run, event: Event) {
        match event {
            Event::Arrive(caller) => self.arrive(run, caller),
            Event::Done => self.done(run),
            Event::Look(look) if look == run.looks && run.hold.is_some() => self.look(run),
            Event::Look(_) => {}
        }
    }

    fn arrive(&self, run: &mut Run, caller: usize) {
        if let Callers::Open { per_second } = self.callers {
            let uniform = (run.random.below(1 << 53) as f64 + 1.0) / (1u64 << 53) as f64;
            let gap = Duration::from_secs_f64(-uniform.ln() / per_second);
            run.events
                .push(Reverse((run.now + gap, Event::Arrive(caller + 1))));
        }
        let now = run.start + run.now;
        let deadline = self.deadline.map(|deadline| now + deadline);
        let (reply, told) = Reply::new();
        let terms = Terms {
            deadline,
            ..Terms::default()
        };
        match run.lane.submit(now, caller, &terms, reply) {
            Ok(_) => run.waiting.push((caller, run.now, told)),
            Err(_) => run.report.refused += 1,
        }
        match run.hold {
            Some((until, rows)) if run.lane.disturbs(until, rows, deadline) => self.look(run),
            None if run.running.is_none() => self.look(run),
            _ => {}
        }
    }

    fn look(&self, run: &mut Run) {
        let now = run.start + run.now;
        let mut due = Vec::new();
        run.hold = None;
        match run.lane.next(now, run.seat, &mut due) {
            Next::Run(items) => {
                run.running = Some(items.len());
                run.report.batches += 1;
                let took = Duration::from_secs_f64((self.cost)(items.len()));
                run.events.push(Reverse((run.now + took, Event::Done)));
            }
            Next::Hold { until, rows } => {
                run.hold = Some((until, rows));
                run.looks += 1;
                run.events
                    .push(Reverse((until - run.start, Event::Look(run.looks))));
            }
            Next::Wait | Next::Follow | Next::Stop => {}
        }
        due.into_iter().for_each(Due::send);
    }

    fn done(&self, run: &mut Run) {
        let now = run.start + run.now;
        let rows = run.running.take().unwrap();
        let took = Duration::from_secs_f64((self.cost)(rows));
        let mut due = Vec::new();
        let results = (0..rows).map(|_| Ok(())).collect();
        run.lane
            .complete(now, run.seat, results, Some(took), &mut due);
        due.into_iter().for_each(Due::send);
        let mut returning = 0;
        let (now, deadline) = (run.now, self.deadline);
        let (report, events, random) = (&mut run.report, &mut run.events, &mut run.random);
        run.waiting
            .retain_mut(|(caller, since, told)| match told.try_recv() {
                Err(_) => true,
                Ok(told) => {
                    let latency = now - *since;
                    if told.is_ok() {
                        report.answered += 1;
                        report.latencies.push(latency.as_secs_f64());
                        report.in_time +=
                            usize::from(deadline.is_none_or(|deadline| latency <= deadline));
                    }
                    if let Callers::Closed(_) = self.callers {
                        // One core serves them one after the other, about 30 microseconds each.
                        returning += 1;
                        let micros = 60 + 30 * returning + random.below(40);
                        events.push(Reverse((
                            now + Duration::from_micros(micros),
                            Event::Arrive(*caller),
                        )));
                    }
                    false
                }
            });
        self.look(run);
    }
}

impl Report {
    fn percentile(&mut self, percent: usize) -> f64 {
        self.latencies.sort_by(f64::total_cmp);
        self.latencies[self.latencies.len() * percent / 100] * 1e3
    }
}

/// 5 ms a call and 0.1 ms a row: at best 32 rows in 8.2 ms.
fn device(rows: usize) -> f64 {
    5e-3 + 1e-4 * rows as f64
}

/// 20 ms a call and 1 ms a row: at best 32 rows in 52 ms.
fn slow_device(rows: usize) -> f64 {
    20e-3 + 1e-3 * rows as f64
}

fn closed(callers: usize, cost: fn(usize) -> f64) -> Report {
    Workload {
        callers: Callers::Closed(callers),
        cost,
        deadline: None,
        seconds: 10.0,
    }
    .run()
}

#[test]
fn callers_who_come_back_together_stay_together() {
    let best = 32.0 / device(32);
    // Callers, and the least share of the device's best that they must get; with n < 32 callers n / (cost(n) + their way back).
    for (callers, share) in [
        (2, 0.09),
        (4, 0.17),
        (8, 0.32),
        (16, 0.57),
        (32, 0.84),
        (64, 0.97),
        (256, 0.97),
    ] {
        let report = closed(callers, device);
        let got = report.answered as f64 / 10.0 / best;
        assert!(
            got >= share,
            "{callers} callers got {got:.3} of the best, not {share}"
        );
    }
}

#[test]
fn a_lone_caller_is_never_held() {
    let mut report = closed(1, device);
    assert!(
        (report.percentile(99) - 5.1).abs() < 0.01,
        "{} ms",
        report.percentile(99)
    );
}

#[test]
fn independent_callers_at_half_load_wait_little() {
    let callers = Callers::Open {
        per_second: 0.5 * 32.0 / device(32),
    };
    let mut report = Workload {
        callers,
        cost: device,
        deadline: None,
        seconds: 10.0,
    }
    .run();
    let (p50, p99) = (report.percentile(50), report.percentile(99));
    assert!(p50 <= 10.0 && p99 <= 16.0, "p50 {p50} ms, p99 {p99} ms");
}

#[test]
fn three_times_too_many_cost_those_who_fit_nothing() {
    let capacity = 32.0 / slow_device(32);
    let callers = Callers::Open {
        per_second: 3.0 * capacity,
    };
    let deadline = Some(Duration::from_millis(100));
    let report = Workload {
        callers,
        cost: slow_device,
        deadline,
        seconds: 10.0,
    }
    .run();
    let goodput = report.in_time as f64 / 10.0 / capacity;
    assert!(
        goodput >= 0.9,
        "goodput {goodput:.3} of the capacity: {} batches",
        report.batches
    );
    assert!(report.refused > report.answered, "the rest is refused");
    assert!(
        report.answered - report.in_time <= report.answered / 100,
        "hardly anything is answered late"
    );
}

#[test]
fn a_model_that_gains_nothing_is_run_row_by_row() {
    let report = closed(16, |rows| {
        2e-3 * rows as f64 * if rows > 1 { 1.3 } else { 1.0 }
    });
    assert!(
        report.batches * 10 >= report.answered * 9,
        "{} batches",
        report.batches
    );
}
