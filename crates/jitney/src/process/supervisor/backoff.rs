//! How long to wait before the next start.

use std::time::Duration;

use crate::process::RestartPolicy;

/// Draws the waits of one pool.
#[derive(Debug)]
pub(super) struct Backoff {
    policy: RestartPolicy,
    dice: u64,
}

impl Backoff {
    /// `seed` decides the jitter.
    pub(super) fn new(policy: RestartPolicy, seed: u64) -> Self {
        Self {
            policy,
            dice: seed | 1,
        }
    }

    /// The wait after so many lives in a row that came to nothing.
    pub(super) fn after(&mut self, streak: u32) -> Duration {
        match streak {
            0 | 1 => Duration::ZERO,
            _ => self.jittered(self.doubled(streak - 2)),
        }
    }

    /// The wait between two attempts of a pool that has failed.
    pub(super) fn ceiling(&mut self) -> Duration {
        self.jittered(self.policy.ceiling)
    }

    fn doubled(&self, times: u32) -> Duration {
        let factor = 1_u32.checked_shl(times).unwrap_or(u32::MAX);
        self.policy
            .base
            .saturating_mul(factor)
            .min(self.policy.ceiling)
    }

    fn jittered(&mut self, wait: Duration) -> Duration {
        let share = self.policy.jitter.clamp(0.0, 1.0);
        wait.mul_f64(1.0 + share * (2.0 * self.roll() - 1.0))
    }

    /// A number from 0 to 1 (xorshift: the jitter has nothing to hide).
    fn roll(&mut self) -> f64 {
        self.dice ^= self.dice << 13;
        self.dice ^= self.dice >> 7;
        self.dice ^= self.dice << 17;
        f64::from((self.dice >> 32) as u32) / f64::from(u32::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_from_the_second_restart_to_the_ceiling() {
        let expected = [
            0.0, 0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0,
        ];
        for seed in 1..200 {
            let mut backoff = Backoff::new(RestartPolicy::default(), seed);
            for (streak, &wait) in (0..).zip(&expected) {
                let got = backoff.after(streak).as_secs_f64();
                assert!(
                    (got - wait).abs() <= 0.2 * wait + 1e-6,
                    "streak {streak}: {got} for {wait}"
                );
            }
            assert!(backoff.after(u32::MAX) <= Duration::from_secs(36));
        }
    }
}
