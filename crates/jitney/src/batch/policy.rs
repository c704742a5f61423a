//! When a batch leaves: the decision, without clock, queue or thread.
//!
//! An instance is free and some rows wait. Leaving now serves them sooner; holding the door lets others share the fixed part of the
//! model's cost instead of waiting for the next batch. With `n` rows ready, `m` more expected within `t`, and a batch of `k` rows
//! costing `c(k)`, the sum of what everyone waits is
//!
//! - leaving now: `n c(n) + m (c(n) + c(m))`, since those who come later wait for this batch and then for their own;
//! - holding: `(n + m) (t + c(n + m))`.
//!
//! The door is held for the `t` that saves most, if any saves anything. An idle model with a lone request never holds: nobody is
//! expected. A model whose rows gain nothing from company never holds: `c(n + m)` is no less than the two apart.

use std::time::{Duration, Instant};

use super::Reason;
use super::arrivals::Expected;

/// Rows that might be turned away for the sake of a little more waiting are not worth a wake-up: less than this many expected rows
/// count as nobody.
const SOMEBODY: f64 = 0.5;

/// What the decision looks at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scene {
    pub(crate) now: Instant,
    /// Rows that would leave now: those that are compatible with the oldest request.
    pub(crate) ready: usize,
    /// Rows a batch should have.
    pub(crate) aim: usize,
    /// The next request in line does not fit into this batch any more.
    pub(crate) full: bool,
    /// Since when a batch could have left: an instance was free and the oldest of the ready requests had come. What a request waited for a
    /// busy model is not counted against the door: callers who were split into a small and a large batch could never meet again if the
    /// small one always left at once because it had waited for the large one.
    pub(crate) open_since: Instant,
    /// Longest time a request is held.
    pub(crate) max_wait: Duration,
    /// The time by which this batch must leave for the tightest deadline in it to be met.
    pub(crate) leave_by: Option<Instant>,
    /// Requests of another shape wait too, and a free instance is of more use to them than a held door to these.
    pub(crate) others_wait: bool,
    /// The batcher is closing: nobody else will come.
    pub(crate) draining: bool,
    /// The door has been held for this batch already.
    pub(crate) held: bool,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Decision {
    /// Leave now.
    Go(Reason),
    /// Hold the door until then, or until that many rows are ready.
    Hold { until: Instant, rows: usize },
}

/// Decides for a batch that has at least one row ready.
pub(crate) fn decide(
    scene: &Scene,
    cost: impl Fn(usize) -> Option<f64>,
    expected: impl Iterator<Item = Expected>,
) -> Decision {
    if scene.full || scene.ready >= scene.aim {
        return Decision::Go(Reason::Full);
    }
    if scene.draining {
        return Decision::Go(Reason::Drain);
    }
    let window = scene.open_since + scene.max_wait;
    let latest = scene.leave_by.map_or(window, |by| by.min(window));
    if latest <= scene.now {
        let met = scene.held || scene.leave_by.is_some_and(|by| by <= scene.now);
        return Decision::Go(if met { Reason::Deadline } else { Reason::Idle });
    }
    let longest = latest - scene.now;
    let hold = if scene.others_wait {
        None
    } else {
        best_hold(scene, longest, cost, expected)
    };
    match hold {
        Some(hold) => hold,
        None if scene.held => Decision::Go(Reason::Gain),
        None => Decision::Go(Reason::Idle),
    }
}

fn best_hold(
    scene: &Scene,
    longest: Duration,
    cost: impl Fn(usize) -> Option<f64>,
    expected: impl Iterator<Item = Expected>,
) -> Option<Decision> {
    let n = scene.ready as f64;
    let alone = cost(scene.ready)?;
    let mut best = 0.0;
    let mut hold = None;
    for Expected { within, rows } in expected {
        let within = within.min(longest);
        let more = (rows.round() as usize).min(scene.aim - scene.ready);
        if rows >= SOMEBODY && more > 0 {
            let m = more as f64;
            let leaving = n * alone + m * (alone + cost(more)?);
            let holding = (n + m) * (within.as_secs_f64() + cost(scene.ready + more)?);
            if leaving - holding > best {
                best = leaving - holding;
                hold = Some(Decision::Hold {
                    until: scene.now + within,
                    rows: scene.ready + more,
                });
            }
        }
        if within == longest {
            break;
        }
    }
    hold
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn scene(now: Instant, ready: usize) -> Scene {
        Scene {
            now,
            ready,
            aim: 32,
            full: false,
            open_since: now,
            max_wait: 5 * MS,
            leave_by: None,
            others_wait: false,
            draining: false,
            held: false,
        }
    }

    fn line(rows: usize) -> Option<f64> {
        Some(5e-3 + 1e-4 * rows as f64)
    }

    fn flat(rows: usize) -> Option<f64> {
        Some(1e-3 * rows as f64)
    }

    fn wave(rows: f64, within: Duration) -> Vec<Expected> {
        vec![Expected { within, rows }]
    }

    #[test]
    fn the_table() {
        let now = Instant::now();
        let base = scene(now, 1);
        let hold = |until, rows| Decision::Hold {
            until: now + until,
            rows,
        };
        let many = || wave(31.0, MS);
        let none = Vec::new;
        type Row = (
            &'static str,
            Scene,
            fn(usize) -> Option<f64>,
            Vec<Expected>,
            Decision,
        );
        let rows: Vec<Row> = vec![
            (
                "a lone request goes at once",
                base,
                line,
                none(),
                Decision::Go(Reason::Idle),
            ),
            (
                "a wave that comes back is held for",
                base,
                line,
                many(),
                hold(MS, 32),
            ),
            (
                "half a row is nobody",
                base,
                line,
                wave(0.4, MS),
                Decision::Go(Reason::Idle),
            ),
            (
                "nothing known, nothing held",
                base,
                |_| None,
                many(),
                Decision::Go(Reason::Idle),
            ),
            (
                "no gain, no holding",
                base,
                flat,
                many(),
                Decision::Go(Reason::Idle),
            ),
            (
                "too late to be worth it",
                base,
                line,
                wave(1.0, 5 * MS),
                Decision::Go(Reason::Idle),
            ),
            (
                "a big batch does not wait for one more",
                scene(now, 28),
                line,
                wave(1.0, MS),
                Decision::Go(Reason::Idle),
            ),
            (
                "full",
                scene(now, 32),
                line,
                many(),
                Decision::Go(Reason::Full),
            ),
            (
                "the next does not fit",
                Scene { full: true, ..base },
                line,
                many(),
                Decision::Go(Reason::Full),
            ),
            (
                "the aim is enough",
                Scene { aim: 1, ..base },
                line,
                many(),
                Decision::Go(Reason::Full),
            ),
            (
                "others wait",
                Scene {
                    others_wait: true,
                    ..base
                },
                line,
                many(),
                Decision::Go(Reason::Idle),
            ),
            (
                "closing",
                Scene {
                    draining: true,
                    ..base
                },
                line,
                many(),
                Decision::Go(Reason::Drain),
            ),
            (
                "held, and the rest did not come",
                Scene { held: true, ..base },
                line,
                none(),
                Decision::Go(Reason::Gain),
            ),
            (
                "a deadline is not waited past",
                Scene {
                    leave_by: Some(now),
                    ..base
                },
                line,
                many(),
                Decision::Go(Reason::Deadline),
            ),
            (
                "a near deadline shortens the hold",
                Scene {
                    leave_by: Some(now + MS / 2),
                    ..base
                },
                line,
                many(),
                hold(MS / 2, 32),
            ),
            (
                "the window is over",
                Scene {
                    open_since: now - 5 * MS,
                    held: true,
                    ..base
                },
                line,
                many(),
                Decision::Go(Reason::Deadline),
            ),
        ];
        for (name, scene, cost, expected, decision) in rows {
            assert_eq!(
                decide(&scene, cost, expected.into_iter()),
                decision,
                "{name}"
            );
        }
    }

    proptest! {
        /// Whatever is expected and whatever a batch costs: never past the window or a deadline, never for fewer than one more row.
        #[test]
        fn bounds_hold(
            ready in 1usize..40,
            aim in 1usize..64,
            waited in 0u64..10_000,
            leave_in in proptest::option::of(0u64..10_000),
            fixed in 0.0f64..0.1,
            each in 0.0f64..0.01,
            curve in proptest::collection::vec((1u64..400, 0.0f64..10.0), 0..32),
        ) {
            let now = Instant::now() + Duration::from_secs(1);
            let scene = Scene {
                aim,
                open_since: now - Duration::from_micros(waited),
                leave_by: leave_in.map(|micros| now + Duration::from_micros(micros)),
                ..scene(now, ready)
            };
            let mut within = Duration::ZERO;
            let mut rows = 0.0;
            let curve = curve.into_iter().map(|(micros, more)| {
                within += Duration::from_micros(micros);
                rows += more;
                Expected { within, rows }
            });
            let cost = |rows: usize| Some(fixed + each * rows as f64);
            if let Decision::Hold { until, rows } = decide(&scene, cost, curve) {
                prop_assert!(until > now);
                prop_assert!(until <= scene.open_since + scene.max_wait);
                prop_assert!(scene.leave_by.is_none_or(|by| until <= by));
                prop_assert!(rows > ready && rows <= aim);
            }
        }
    }
}
