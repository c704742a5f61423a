//! How many were somewhere at once.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::fail;

/// Counts how many are inside of something, and the most that ever were. Clones are the same count.
///
/// ```
/// let peak = jitney::test::Peak::new();
/// let first = peak.enter();
/// drop(peak.enter());
/// drop(first);
/// drop(peak.enter());
/// peak.assert(2..=2);
/// assert_eq!(peak.now(), 0);
/// ```
#[derive(Clone, Debug, Default)]
pub struct Peak {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Peak {
    /// A count of nobody.
    pub fn new() -> Peak {
        Peak::default()
    }

    /// Counts one more until the guard is dropped.
    pub fn enter(&self) -> Inside {
        let now = self.counts.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.counts.most.fetch_max(now, Ordering::SeqCst);
        Inside(self.counts.clone())
    }

    /// How many are inside.
    pub fn now(&self) -> usize {
        self.counts.now.load(Ordering::SeqCst)
    }

    /// The most that ever were inside at once.
    pub fn most(&self) -> usize {
        self.counts.most.load(Ordering::SeqCst)
    }

    /// Checks the most that ever were inside at once: at least the first number, at most the last.
    ///
    /// # Panics
    /// When it was another number; and when the range begins at zero, because then a test in which nothing happens passes.
    #[track_caller]
    pub fn assert(&self, range: RangeInclusive<usize>) {
        if range.contains(&0) {
            fail(
                "a peak that may be zero checks nothing: let the range begin at the number that must be reached",
            );
        }
        let most = self.most();
        if !range.contains(&most) {
            fail(&format!(
                "at most {most} were inside at once, but {range:?} was expected"
            ));
        }
    }
}

/// One that is inside, until it is dropped.
#[derive(Debug)]
#[must_use = "it counts until the guard is dropped"]
pub struct Inside(Arc<Counts>);

impl Drop for Inside {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
    }
}
