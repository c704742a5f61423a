//! What a batch of a given size costs, learned from the batches that ran.
//!
//! A model's cost need not be a line: rows can be cheaper together (a fixed part is shared) or dearer (a convolution that leaves the
//! cache). So the cost is kept at the powers of two up to the largest batch, each a moving average, and read between them by
//! interpolation. Everything here is plain arithmetic: no clock, no lock.

use std::num::NonZeroUsize;
use std::time::Duration;

/// What the batcher itself spends on a batch, whatever the model: waking a thread, forming the batch, and so on. It makes one-by-one
/// the wrong choice for models that cost next to nothing, even where the model alone gains nothing from batching.
const OVERHEAD: f64 = 20e-6;

/// A size is good enough when a row costs at most this much more than at the best size. Smaller batches answer sooner.
const TOLERANCE: f64 = 1.03;

/// Interference from other work only ever adds time, so a cheaper measurement is believed sooner than a dearer one.
const FALL: f64 = 0.25;
const RISE: f64 = 0.0625;

/// A size that was measured fewer times than this is not known well: the first measurements may all have been disturbed.
const KNOWN_WELL: u32 = 8;

/// How often the size after the one aimed at is tried, in batches: while it is not known well, and then, to notice when batching has
/// become worth more.
const TRY_UNSURE_EVERY: u64 = 4;
const TRY_KNOWN_EVERY: u64 = 64;

/// An outlier beyond this multiple of what was expected is counted as this multiple.
const OUTLIER: f64 = 4.0;

/// The learned cost of a batch as a function of its rows.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    points: Vec<Point>,
}

#[derive(Clone, Copy, Debug)]
struct Point {
    rows: usize,
    /// Measurements so far.
    seen: u32,
    /// The moving average of what was measured.
    measured: Option<f64>,
    /// The same, but no more than what a larger batch takes: more rows never cost less, so a dearer small batch was only disturbed.
    seconds: Option<f64>,
}

impl Cost {
    /// Knows nothing yet about batches of up to `max_batch` rows.
    pub(crate) fn new(max_batch: NonZeroUsize) -> Cost {
        let max = max_batch.get();
        let powers = std::iter::successors(Some(1usize), |rows| rows.checked_mul(2));
        let mut points: Vec<Point> = powers
            .take_while(|&rows| rows < max)
            .map(Point::unknown)
            .collect();
        points.push(Point::unknown(max));
        Cost { points }
    }

    /// Learns that a batch of `rows` took that long.
    pub(crate) fn observe(&mut self, rows: usize, took: Duration) {
        let Some(nearest) = self.nearest(rows) else {
            return;
        };
        let at = self.points[nearest].rows;
        let took = took.as_secs_f64();
        // A batch between two points says something about the nearer one, by the shape known so far.
        let took = match (self.seconds(at), self.seconds(rows)) {
            (Some(there), Some(here)) if here > 0.0 => took * there / here,
            _ => took * at as f64 / rows.max(1) as f64,
        };
        let point = &mut self.points[nearest];
        point.seen = point.seen.saturating_add(1);
        point.measured = Some(match point.measured {
            None => took,
            Some(old) if took < old && point.seen < KNOWN_WELL => took,
            Some(old) if took < old => old + FALL * (took - old),
            Some(old) => old + RISE * (took.min(OUTLIER * old) - old),
        });
        self.straighten();
    }

    fn straighten(&mut self) {
        let mut least = f64::INFINITY;
        for point in self.points.iter_mut().rev() {
            if let Some(measured) = point.measured {
                least = least.min(measured);
                point.seconds = Some(least);
            }
        }
    }

    /// How long a batch of `rows` is expected to take. `None` before the first observation.
    pub(crate) fn expect(&self, rows: usize) -> Option<Duration> {
        self.seconds(rows).map(Duration::from_secs_f64)
    }

    /// The same in seconds. Outside of what was seen it is careful: fewer rows are taken to cost as much as the fewest seen, and more
    /// rows to gain nothing from being together.
    pub(crate) fn seconds(&self, rows: usize) -> Option<f64> {
        let below = self.known().take_while(|&(at, _)| at <= rows).last();
        let above = self.known().find(|&(at, _)| at >= rows);
        match (below, above) {
            (None, None) => None,
            (None, Some((_, seconds))) => Some(seconds),
            (Some((at, seconds)), None) => Some(seconds * rows as f64 / at as f64),
            (Some((low, from)), Some((high, to))) if high > low => {
                let part = (rows - low) as f64 / (high - low) as f64;
                Some(from + part * (to - from))
            }
            (Some((_, seconds)), Some(_)) => Some(seconds),
        }
    }

    /// The number of rows a batch should aim at: the smallest size whose rows cost about as little as any. While the largest size seen is
    /// the best so far, larger ones are taken to be better still: one batch will show.
    pub(crate) fn aim(&self) -> usize {
        let best = self.known().map(per_row).fold(f64::INFINITY, f64::min);
        let good = self
            .known()
            .find(|&point| per_row(point) <= best * TOLERANCE);
        let Some((aim, _)) = good else {
            return self.max();
        };
        match self.known().last() {
            Some((largest, _)) if largest == aim => self.max(),
            _ => aim,
        }
    }

    /// What the batch after `batches` others should aim at: now and then one size more, to look whether that is better by now.
    pub(crate) fn aim_of_next(&self, batches: u64) -> usize {
        let aim = self.aim();
        match self.points.iter().find(|point| point.rows > aim) {
            Some(larger) if batches % larger.try_every() == larger.try_every() - 1 => larger.rows,
            _ => aim,
        }
    }

    /// How many times the throughput of one-by-one a batch of `rows` gives. 1 while that is not known.
    pub(crate) fn gain(&self, rows: usize) -> f64 {
        match (self.seconds(1), self.seconds(rows)) {
            (Some(one), Some(together)) if together > 0.0 => one * rows as f64 / together,
            _ => 1.0,
        }
    }

    /// The sizes at which the cost is known, with seconds a batch.
    pub(crate) fn known(&self) -> impl Iterator<Item = (usize, f64)> {
        self.points
            .iter()
            .filter_map(|point| Some((point.rows, point.seconds?)))
    }

    fn max(&self) -> usize {
        self.points.last().map_or(1, |point| point.rows)
    }

    fn nearest(&self, rows: usize) -> Option<usize> {
        let distance = |at: usize| ((at.max(1) as f64) / (rows.max(1) as f64)).ln().abs();
        let by = |&a: &usize, &b: &usize| {
            distance(self.points[a].rows).total_cmp(&distance(self.points[b].rows))
        };
        (0..self.points.len()).min_by(by)
    }
}

impl Point {
    fn unknown(rows: usize) -> Point {
        Point {
            rows,
            seen: 0,
            measured: None,
            seconds: None,
        }
    }

    fn try_every(&self) -> u64 {
        if self.seen < KNOWN_WELL {
            TRY_UNSURE_EVERY
        } else {
            TRY_KNOWN_EVERY
        }
    }
}

fn per_row((rows, seconds): (usize, f64)) -> f64 {
    (seconds + OVERHEAD) / rows as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learned(max: usize, cost: impl Fn(usize) -> f64) -> Cost {
        let mut learned = Cost::new(NonZeroUsize::new(max).unwrap());
        let sizes: Vec<usize> = learned.points.iter().map(|point| point.rows).collect();
        for rows in sizes {
            learned.observe(rows, Duration::from_secs_f64(cost(rows)));
        }
        learned
    }

    #[test]
    fn a_fixed_part_makes_the_largest_batch_the_best() {
        let cost = learned(32, |rows| 5e-3 + 1e-4 * rows as f64);
        assert_eq!(cost.aim(), 32);
        assert!((cost.gain(32) - 5.1 * 32.0 / 8.2).abs() < 0.01);
        assert!((cost.seconds(24).unwrap() - 7.4e-3).abs() < 1e-6);
    }

    #[test]
    fn batches_shrink_where_rows_cost_more_together() {
        // Seconds a row at 1, 2, 4, 8, 16 and 32 rows, as convolutions on a CPU behave.
        let rows_cost = |rows: usize| match rows {
            1 => 10.2e-3,
            2..=8 => 10.7e-3,
            _ => 13.9e-3,
        };
        assert_eq!(learned(32, |rows| rows as f64 * rows_cost(rows)).aim(), 1);
    }

    #[test]
    fn a_dip_in_the_middle_is_found() {
        let cost = learned(32, |rows| {
            rows as f64 * if rows == 8 { 1e-3 } else { 1.5e-3 }
        });
        assert_eq!(cost.aim(), 8);
    }

    #[test]
    fn a_model_that_costs_nothing_is_batched_all_the_same() {
        assert_eq!(learned(32, |rows| 1e-7 * rows as f64).aim(), 32);
    }

    #[test]
    fn unseen_sizes_are_good_until_shown_otherwise() {
        let mut cost = Cost::new(NonZeroUsize::new(32).unwrap());
        assert_eq!(cost.aim(), 32);
        cost.observe(1, Duration::from_millis(5));
        assert_eq!(cost.aim(), 32);
        cost.observe(32, Duration::from_millis(320));
        assert_eq!(cost.aim(), 1);
        cost.observe(4, Duration::from_millis(8));
        assert_eq!(cost.aim(), 4);
    }

    #[test]
    fn estimates_are_careful_outside_of_what_was_seen() {
        let mut cost = Cost::new(NonZeroUsize::new(32).unwrap());
        assert_eq!(cost.expect(1), None);
        cost.observe(4, Duration::from_millis(8));
        assert_eq!(cost.expect(1), Some(Duration::from_millis(8)));
        assert_eq!(cost.expect(8), Some(Duration::from_millis(16)));
    }

    #[test]
    fn a_disturbed_first_run_does_not_make_batching_look_better_than_it_can_be() {
        let mut cost = learned(32, |rows| 1e-6 * rows as f64);
        cost.observe(1, Duration::from_millis(1));
        assert!(cost.gain(32) <= 32.0, "{}", cost.gain(32));
        let cost = learned(
            32,
            |rows| if rows == 1 { 50e-3 } else { 1e-6 * rows as f64 },
        );
        assert!(cost.gain(32) <= 32.0, "{}", cost.gain(32));
    }

    #[test]
    fn a_disturbed_warm_up_is_soon_forgotten() {
        let device = |rows: usize| Duration::from_secs_f64(5e-3 + 1e-4 * rows as f64);
        let mut cost = learned(32, |rows| {
            device(rows).as_secs_f64() * if rows == 32 { 2.0 } else { 1.0 }
        });
        assert_eq!(cost.aim(), 16);
        for batches in 0..8 {
            let rows = cost.aim_of_next(batches);
            cost.observe(rows, device(rows));
        }
        assert_eq!(cost.aim(), 32);
    }

    #[test]
    fn one_outlier_does_not_turn_the_aim() {
        let mut cost = learned(32, |rows| 1e-3 + 1e-5 * rows as f64);
        cost.observe(32, Duration::from_secs(1));
        assert_eq!(cost.aim(), 32);
    }

    #[test]
    fn a_largest_batch_that_is_no_power_of_two_is_a_point() {
        let cost = learned(24, |rows| 1e-3 + 1e-5 * rows as f64);
        assert_eq!(cost.aim(), 24);
        assert_eq!(Cost::new(NonZeroUsize::MIN).aim(), 1);
    }
}
