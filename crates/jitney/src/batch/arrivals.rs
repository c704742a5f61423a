//! What usually arrives, learned from what arrived.
//!
//! Two things are kept. The *profile* says how many rows usually arrive within a time after a batch was answered, for each row that was:
//! callers that wait for their answer before they ask again come back together just then, while independent callers arrive evenly, and
//! one curve tells both. The *rate* says how many rows are offered per second, however they arrive.

use std::time::{Duration, Instant};

/// Bins of the profile over the longest hold. Fine enough to see a wave of callers come back within a millisecond or two.
const BINS: usize = 32;

/// What a cycle still counts in the profile when the next one has ended.
const FADING: f64 = 0.875;

/// The rate is folded no more often than this, so that single gaps do not make it jump.
const RATE_WINDOW: Duration = Duration::from_millis(20);

/// The learned pattern of arrivals at one batcher.
#[derive(Clone, Debug)]
pub(crate) struct Arrivals {
    bin: Duration,
    /// Rows that arrived within each bin after a batch was answered, and the rows that were answered before, both fading.
    usual: [Share; BINS],
    /// Rows that arrived within each bin of the present cycle.
    seen: [f64; BINS],
    /// When a batch was last answered, which began the present cycle, and how many rows that were.
    answered: Option<(Instant, f64)>,
    rate: f64,
    offered: f64,
    window: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Share {
    arrived: f64,
    answered: f64,
}

/// A moment until which more rows are expected.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    pub(crate) within: Duration,
    pub(crate) rows: f64,
}

impl Arrivals {
    /// Knows nothing yet; looks at most `max_wait` ahead.
    pub(crate) fn new(max_wait: Duration) -> Arrivals {
        Arrivals {
            bin: (max_wait / BINS as u32).max(Duration::from_micros(1)),
            usual: [Share::default(); BINS],
            seen: [0.0; BINS],
            answered: None,
            rate: 0.0,
            offered: 0.0,
            window: None,
        }
    }

    /// Rows were offered, whether or not they were let in.
    pub(crate) fn offered(&mut self, now: Instant, rows: usize) {
        let start = *self.window.get_or_insert(now);
        self.offered += rows as f64;
        let elapsed = now.saturating_duration_since(start);
        if elapsed >= RATE_WINDOW {
            self.rate = 0.5 * self.rate + 0.5 * self.offered / elapsed.as_secs_f64();
            self.offered = 0.0;
            self.window = Some(now);
        }
    }

    /// Rows were let into the queue.
    pub(crate) fn arrived(&mut self, now: Instant, rows: usize) {
        if let Some(bin) = self.answered.and_then(|(since, _)| self.bin_at(since, now)) {
            self.seen[bin] += rows as f64;
        }
    }

    /// A batch of `rows` was answered: the cycle that ends is learned, and a new one begins.
    pub(crate) fn answered(&mut self, now: Instant, rows: usize) {
        let mut rows = rows as f64;
        if let Some((since, answered)) = self.answered {
            let whole = self.bin_at(since, now).unwrap_or(BINS);
            if whole == 0 {
                // Too short to say anything: the cycle goes on.
                rows += answered;
                self.answered = Some((since, rows));
                return;
            }
            // Bins after the end of the cycle were not observed and stay as they were.
            for (usual, seen) in self.usual[..whole].iter_mut().zip(self.seen) {
                usual.arrived = FADING * usual.arrived + seen;
                usual.answered = FADING * usual.answered + answered;
            }
        }
        self.seen = [0.0; BINS];
        self.answered = Some((now, rows));
    }

    /// How many more rows are expected from now, at the end of each bin ahead: within ever longer times, ever more rows.
    pub(crate) fn expected(&self, now: Instant) -> impl Iterator<Item = Expected> {
        let (since, answered) = self.answered.unwrap_or((now, 0.0));
        let since = now.saturating_duration_since(since);
        let here = self.index(since).unwrap_or(BINS);
        let usual = move |bin: usize| answered * self.usual[bin].per_answered();
        // Who should have come a bin ago and did not is not waited for.
        let due: f64 = (0..here.saturating_sub(1)).map(usual).sum();
        let come: f64 = self.seen.iter().sum();
        let mut total: f64 = (0..here).map(usual).sum();
        (here..BINS).map(move |bin| {
            total += usual(bin);
            let within = (self.bin * (bin as u32 + 1)).saturating_sub(since);
            Expected {
                within,
                rows: (total - due.max(come)).max(0.0),
            }
        })
    }

    /// Rows offered per second, lately.
    pub(crate) fn rate(&self) -> f64 {
        self.rate
    }

    fn bin_at(&self, since: Instant, now: Instant) -> Option<usize> {
        self.index(now.saturating_duration_since(since))
    }

    fn index(&self, since: Duration) -> Option<usize> {
        let bin = (since.as_nanos() / self.bin.as_nanos()) as usize;
        (bin < BINS).then_some(bin)
    }
}

impl Share {
    fn per_answered(self) -> f64 {
        if self.answered > 0.0 {
            self.arrived / self.answered
        } else {
            0.0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(5);

    /// Plays `cycles` cycles of `length`, in each of which a row arrives at every offset.
    fn learned(cycles: usize, length: Duration, offsets: &[Duration]) -> (Arrivals, Instant) {
        let mut arrivals = Arrivals::new(WAIT);
        let mut now = Instant::now();
        arrivals.answered(now, offsets.len());
        for _ in 0..cycles {
            for &offset in offsets {
                arrivals.offered(now + offset, 1);
                arrivals.arrived(now + offset, 1);
            }
            now += length;
            arrivals.answered(now, offsets.len());
        }
        (arrivals, now)
    }

    fn micros(values: impl IntoIterator<Item = u64>) -> Vec<Duration> {
        values.into_iter().map(Duration::from_micros).collect()
    }

    #[test]
    fn nothing_is_expected_before_anything_was_seen() {
        let arrivals = Arrivals::new(WAIT);
        assert!(
            arrivals
                .expected(Instant::now())
                .all(|expected| expected.rows == 0.0)
        );
    }

    #[test]
    fn a_smaller_batch_brings_fewer_back() {
        let offsets = micros((0..32).map(|i| i * 40));
        let (mut arrivals, now) = learned(50, Duration::from_millis(9), &offsets);
        let later = now + Duration::from_millis(9);
        arrivals.answered(later, 4);
        // Nobody came in the cycle that just ended, so a little less than all four are expected.
        let last = arrivals.expected(later).last().unwrap();
        assert!((last.rows - 3.5).abs() < 0.1, "{last:?}");
    }

    #[test]
    fn callers_that_come_back_together_are_expected_together() {
        let (arrivals, now) = learned(
            50,
            Duration::from_millis(9),
            &micros((0..32).map(|i| i * 40)),
        );
        let last = arrivals.expected(now).last().unwrap();
        assert!((last.rows - 32.0).abs() < 0.5, "{last:?}");
        let wave = arrivals
            .expected(now)
            .find(|expected| expected.rows > 31.0)
            .unwrap();
        assert!(wave.within < Duration::from_millis(2), "{wave:?}");
    }

    #[test]
    fn who_has_come_is_not_expected_again() {
        let (mut arrivals, now) = learned(50, Duration::from_millis(9), &micros([50]));
        let later = now + Duration::from_micros(60);
        arrivals.arrived(later, 1);
        assert!(arrivals.expected(later).all(|expected| expected.rows < 0.1));
    }

    #[test]
    fn who_is_late_is_not_waited_for() {
        let (arrivals, now) = learned(50, Duration::from_millis(9), &micros([50]));
        let later = now + Duration::from_millis(1);
        assert!(arrivals.expected(later).all(|expected| expected.rows < 0.1));
    }

    #[test]
    fn long_after_an_instance_became_free_nothing_is_expected() {
        let (arrivals, now) = learned(
            50,
            Duration::from_millis(9),
            &micros((0..32).map(|i| i * 40)),
        );
        assert_eq!(arrivals.expected(now + Duration::from_secs(1)).count(), 0);
    }

    #[test]
    fn the_rate_follows_what_is_offered() {
        let (arrivals, _) = learned(
            50,
            Duration::from_millis(10),
            &micros((0..20).map(|i| i * 500)),
        );
        assert!(
            (arrivals.rate() - 2000.0).abs() < 200.0,
            "{}",
            arrivals.rate()
        );
    }
}
