//! What a running batch can know of those who wait for it.

use std::cell::Cell;
use std::fmt;
use std::time::{Duration, Instant};

/// The circumstances of one run of a model: how long it may take, and who still waits for it.
///
/// A model that can stop half-way looks at it from time to time. Each question takes the batcher's lock for a moment: every few
/// milliseconds is often enough.
pub struct Context<'a> {
    riders: Option<&'a dyn Riders>,
    /// Where this run's items begin in the batch that left, of which it may be a part.
    first: usize,
    items: usize,
    limit: Duration,
    took: Cell<Option<Duration>>,
}

/// Those who wait for a batch, by their place in it.
pub(crate) trait Riders {
    /// Whether somebody still waits for the item.
    fn awaited(&self, place: usize) -> bool;

    /// When its caller stops waiting.
    fn deadline(&self, place: usize) -> Option<Instant>;
}

impl<'a> Context<'a> {
    /// The circumstances of a run outside of any batcher: everybody waits, until the limit.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::batch::Context;
    ///
    /// let context = Context::detached(3, Duration::from_secs(1));
    /// assert!(context.awaited(2) && context.anyone_waits());
    /// assert_eq!(context.last_deadline(), None);
    /// ```
    pub fn detached(items: usize, limit: Duration) -> Context<'static> {
        Context {
            riders: None,
            first: 0,
            items,
            limit,
            took: Cell::new(None),
        }
    }

    pub(crate) fn new(
        riders: &'a dyn Riders,
        first: usize,
        items: usize,
        limit: Duration,
    ) -> Context<'a> {
        Context {
            riders: Some(riders),
            first,
            items,
            limit,
            took: Cell::new(None),
        }
    }

    /// How long this run may take. Whoever sets [`Batching::keeps_limit`](super::Batching::keeps_limit) ends it by then.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether somebody still waits for the item at this place of the run.
    pub fn awaited(&self, item: usize) -> bool {
        self.riders
            .is_none_or(|riders| riders.awaited(self.first + item))
    }

    /// Whether somebody still waits for any item of the run.
    pub fn anyone_waits(&self) -> bool {
        (0..self.items).any(|item| self.awaited(item))
    }

    /// When the caller of the item at this place stops waiting. `None` when it has no deadline.
    pub fn deadline(&self, item: usize) -> Option<Instant> {
        self.riders
            .and_then(|riders| riders.deadline(self.first + item))
    }

    /// When nobody will wait for this run any more. `None` when somebody has no deadline.
    pub fn last_deadline(&self) -> Option<Instant> {
        let mut last = None;
        for item in 0..self.items {
            last = last.max(Some(self.deadline(item)?));
        }
        last
    }

    /// Tells how long the run itself took, where the call also waited for something else, such as the run before it. What batches cost is
    /// learned from this.
    pub fn ran_for(&self, took: Duration) {
        self.took.set(Some(took));
    }

    pub(crate) fn took(&self) -> Option<Duration> {
        self.took.get()
    }
}

impl fmt::Debug for Context<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("items", &self.items)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
