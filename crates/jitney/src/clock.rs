//! The time a batcher lives by: the machine's, or one that a test moves by hand.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard, lock};

/// A source of time. Cloning it gives the same clock.
///
/// The system's clock is monotonic: changes of the wall time have no effect. Waits are as fine as the operating system's, well below
/// the millisecond to which an async runtime's timers round.
///
/// ```
/// use std::time::Duration;
/// use jitney::clock::Clock;
///
/// let clock = Clock::paused();
/// let before = clock.now();
/// clock.advance(Duration::from_secs(3600));
/// assert_eq!(clock.now() - before, Duration::from_secs(3600));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<Arc<Paused>>);

#[derive(Debug)]
struct Paused {
    start: Instant,
    nanos: AtomicU64,
    sleepers: Mutex<Vec<Weak<dyn Sleeper>>>,
}

/// Somebody who waits on a paused clock and must look again when it moves.
pub(crate) trait Sleeper: std::fmt::Debug + Send + Sync {
    fn time_moved(&self);
}

impl Clock {
    /// The machine's monotonic clock.
    pub fn system() -> Clock {
        Clock(None)
    }

    /// A clock that stands still until [`Clock::advance`] moves it.
    pub fn paused() -> Clock {
        Clock(Some(Arc::new(Paused {
            start: Instant::now(),
            nanos: AtomicU64::new(0),
            sleepers: Mutex::new(Vec::new()),
        })))
    }

    /// The present time.
    pub fn now(&self) -> Instant {
        match &self.0 {
            None => Instant::now(),
            Some(paused) => {
                paused.start + Duration::from_nanos(paused.nanos.load(Ordering::SeqCst))
            }
        }
    }

    /// Moves a paused clock and wakes whom that concerns. Does nothing to the system's clock.
    pub fn advance(&self, by: Duration) {
        let Some(paused) = &self.0 else { return };
        let nanos = u64::try_from(by.as_nanos()).unwrap_or(u64::MAX);
        paused.nanos.fetch_add(nanos, Ordering::SeqCst);
        let sleepers: Vec<_> = {
            let mut sleepers = lock(&paused.sleepers);
            sleepers.retain(|sleeper| sleeper.strong_count() > 0);
            sleepers.iter().filter_map(Weak::upgrade).collect()
        };
        sleepers.iter().for_each(|sleeper| sleeper.time_moved());
    }

    /// Has `sleeper` told of every move of a paused clock.
    pub(crate) fn register(&self, sleeper: Weak<dyn Sleeper>) {
        if let Some(paused) = &self.0 {
            lock(&paused.sleepers).push(sleeper);
        }
    }

    /// Waits for a notification, or until then. May return early.
    pub(crate) fn wait<'a, T>(
        &self,
        condvar: &Condvar,
        guard: MutexGuard<'a, T>,
        until: Option<Instant>,
    ) -> MutexGuard<'a, T> {
        match until {
            Some(until) if self.0.is_none() => {
                let left = until.saturating_duration_since(Instant::now());
                let woken = condvar.wait_timeout(guard, left);
                woken.unwrap_or_else(PoisonError::into_inner).0
            }
            Some(until) if until <= self.now() => guard,
            _ => condvar.wait(guard).unwrap_or_else(PoisonError::into_inner),
        }
    }
}
