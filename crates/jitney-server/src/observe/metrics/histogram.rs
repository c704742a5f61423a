//! A histogram of durations made of plain atomics: an observation is two additions.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper bounds in seconds: from what a batcher costs to what a slow model takes.
const BOUNDS: [f64; 18] = [
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0,
    2.5, 5.0, 10.0, 30.0,
];

#[derive(Debug, Default)]
pub(super) struct Histogram {
    /// The last bucket takes what is above every bound.
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum_nanos: AtomicU64,
}

/// What a histogram held at one moment.
pub(super) struct Observed {
    pub(super) sum: f64,
    pub(super) count: u64,
    /// Upper bound and number of each bucket, not cumulated.
    pub(super) buckets: Vec<(f64, u64)>,
}

impl Histogram {
    pub(super) fn observe(&self, took: Duration) {
        let seconds = took.as_secs_f64();
        let bucket = BOUNDS.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// How many observations there were, and their exact sum.
    pub(super) fn sum(&self) -> (u64, Duration) {
        let counts = self.buckets.iter();
        let count = counts.map(|bucket| bucket.load(Ordering::Relaxed)).sum();
        let sum = Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed));
        (count, sum)
    }

    /// The count is the sum of the buckets as read, so that the two never contradict each other.
    pub(super) fn read(&self) -> Observed {
        let bounds = BOUNDS.into_iter().chain([f64::INFINITY]);
        let counts = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed));
        let buckets: Vec<_> = bounds.zip(counts).collect();
        Observed {
            sum: Duration::from_nanos(self.sum_nanos.load(Ordering::Relaxed)).as_secs_f64(),
            count: buckets.iter().map(|(_, count)| count).sum(),
            buckets,
        }
    }
}

impl Observed {
    /// The value that this share of the observations did not exceed, as if they were spread evenly within their bucket. `None` where
    /// there are none; the highest bound where the value is above it.
    pub(super) fn quantile(&self, share: f64) -> Option<f64> {
        let rank = share * self.count as f64;
        let mut below = 0.0;
        let mut lower = 0.0;
        for (upper, count) in self.buckets.iter().filter(|(_, count)| *count > 0) {
            let count = *count as f64;
            lower = self.lower_bound(*upper);
            if upper.is_infinite() {
                break;
            }
            if below + count >= rank {
                return Some(lower + (upper - lower) * (rank - below) / count);
            }
            below += count;
        }
        (self.count > 0).then_some(lower)
    }

    fn lower_bound(&self, upper: f64) -> f64 {
        let bounds = self.buckets.iter().map(|(bound, _)| *bound);
        bounds
            .take_while(|bound| *bound < upper)
            .last()
            .unwrap_or(0.0)
    }
}

/// The histogram of batch sizes, from the number of batches of one row, of two, and so on. Bounds are powers of two.
pub(super) fn of_rows(batches_by_rows: &[u64]) -> Observed {
    let mut bounds: Vec<usize> = std::iter::successors(Some(1), |bound| Some(bound * 2))
        .take_while(|bound| *bound < batches_by_rows.len())
        .collect();
    bounds.push(batches_by_rows.len().max(1).next_power_of_two());
    let mut buckets: Vec<(f64, u64)> = bounds.iter().map(|bound| (*bound as f64, 0)).collect();
    buckets.push((f64::INFINITY, 0));
    let mut sum = 0.0;
    for (rows, count) in (1..).zip(batches_by_rows) {
        buckets[bounds.partition_point(|bound| *bound < rows)].1 += count;
        sum += rows as f64 * *count as f64;
    }
    Observed {
        sum,
        count: batches_by_rows.iter().sum(),
        buckets,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_own_bucket() {
        let table = [
            (Duration::ZERO, 0),
            (Duration::from_micros(50), 0),
            (Duration::from_nanos(50_001), 1),
            (Duration::from_millis(5), 6),
            (Duration::from_secs(30), 17),
            (Duration::from_secs(31), 18),
            (Duration::MAX, 18),
        ];
        for (took, bucket) in table {
            let histogram = Histogram::default();
            histogram.observe(took);
            let observed = histogram.read();
            assert_eq!(observed.buckets[bucket].1, 1, "{took:?}");
            assert_eq!(observed.count, 1, "{took:?}");
        }
    }

    #[test]
    fn sums_are_in_seconds() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(250));
        histogram.observe(Duration::from_millis(500));
        assert_eq!(histogram.read().sum, 0.75);
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().quantile(0.5), None);
        for _ in 0..99 {
            histogram.observe(Duration::from_micros(700));
        }
        histogram.observe(Duration::from_secs(60));
        let observed = histogram.read();
        let half = observed.quantile(0.5).expect("there are observations");
        assert!((0.0005..=0.001).contains(&half), "{half}");
        assert_eq!(observed.quantile(0.99), Some(0.001));
        assert_eq!(observed.quantile(1.0), Some(30.0));
    }

    #[test]
    fn batch_sizes_fall_into_powers_of_two() {
        // 5 batches of one row, 1 of three, 2 of five.
        let observed = of_rows(&[5, 0, 1, 0, 2]);
        let expected = [(1.0, 5), (2.0, 0), (4.0, 1), (8.0, 2), (f64::INFINITY, 0)];
        assert_eq!(observed.buckets, expected);
        assert_eq!((observed.sum, observed.count), (18.0, 8));
        assert_eq!(of_rows(&[]).count, 0);
        assert_eq!(of_rows(&[7]).buckets, [(1.0, 7), (f64::INFINITY, 0)]);
    }
}
