//! Whether starts fail so often that the pool has failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::process::RestartPolicy;

/// The starts of a pool that have failed since a worker was last ready.
#[derive(Debug)]
pub(super) struct Failures {
    policy: RestartPolicy,
    /// After so long without a ready worker, they count however far apart they are.
    patience: Duration,
    /// The first of them since no worker is ready.
    first: Option<Instant>,
    /// The latest of them, as many as it takes to have failed; the oldest is in front.
    latest: VecDeque<Instant>,
}

impl Failures {
    pub(super) fn new(policy: RestartPolicy, start_limit: Duration) -> Self {
        Self {
            policy,
            patience: policy.window.max(start_limit),
            first: None,
            latest: VecDeque::new(),
        }
    }

    /// One more start has failed, while another worker is ready or none is. Whether that is enough to give up.
    pub(super) fn add(&mut self, any_ready: bool, now: Instant) -> bool {
        let enough = self.policy.failures.max(1) as usize;
        if self.latest.len() == enough {
            self.latest.pop_front();
        }
        self.latest.push_back(now);
        if any_ready {
            self.first = None;
            return false;
        }
        let first = *self.first.get_or_insert(now);
        let oldest = self.latest.front().copied().unwrap_or(now);
        let ago = |then: Instant| now.saturating_duration_since(then);
        let too_many = ago(oldest) <= self.policy.window || ago(first) > self.patience;
        self.latest.len() == enough && too_many
    }

    /// A start has succeeded.
    pub(super) fn forget(&mut self) {
        self.first = None;
        self.latest.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// The first of these failures, in seconds, after which it is given up.
    fn given_up(seconds: &[u64]) -> Option<u64> {
        let mut failures = Failures::new(RestartPolicy::default(), 2 * MINUTE);
        let begin = Instant::now();
        let mut times = seconds.iter().copied();
        times.find(|&second| failures.add(false, begin + Duration::from_secs(second)))
    }

    #[test]
    fn five_in_a_minute_are_too_many() {
        let table: [(&[u64], _); 8] = [
            (&[0, 0, 0, 0], None),
            (&[0, 0, 0, 0, 0], Some(0)),
            (&[0, 15, 30, 45, 60], Some(60)),
            (&[0, 15, 30, 45, 61], None),
            // It is the last five that count.
            (&[0, 15, 30, 45, 61, 70], Some(70)),
            (&[0, 16, 32, 48, 64, 80, 96, 112], None),
            // Nobody has been able to call the model for two minutes: that is a failure at any pace.
            (&[0, 16, 32, 48, 64, 80, 96, 112, 128], Some(128)),
            (&[0, 120, 240, 360, 480], Some(480)),
        ];
        for (seconds, expected) in table {
            assert_eq!(given_up(seconds), expected, "{seconds:?}");
        }
    }

    #[test]
    fn a_start_that_succeeds_makes_up_for_all_that_failed() {
        let mut failures = Failures::new(RestartPolicy::default(), 2 * MINUTE);
        let now = Instant::now();
        for _ in 0..2 {
            assert!((0..4).all(|_| !failures.add(false, now)));
            failures.forget();
        }
        let later = now + MINUTE * 10;
        assert!((0..4).all(|_| !failures.add(false, later)));
        assert!(failures.add(false, later));
    }

    #[test]
    fn nothing_is_given_up_while_a_worker_is_ready() {
        let mut failures = Failures::new(RestartPolicy::default(), 2 * MINUTE);
        let begin = Instant::now();
        assert!((0..20).all(|minute| !failures.add(true, begin + minute * MINUTE)));
        // From now on none is.
        let now = begin + 20 * MINUTE;
        assert!(!failures.add(false, now));
        assert!(!failures.add(false, now + MINUTE));
        assert!(failures.add(false, now + 3 * MINUTE));
    }
}
