//! Moments after which an answer is worth nothing, and what is said when one has passed.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

/// A moment after which an answer is worth nothing. Follows tokio's clock, so tests can pause it.
///
/// Two deadlines are equal if the moments are; the name and the place where it was made only serve to tell which one
/// has passed. It is a moment and not a length, so it can be handed down: what is left of it shrinks by itself.
///
/// ```
/// use std::time::Duration;
/// use jitney::Deadline;
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let deadline = Deadline::after(Duration::from_secs(5)).named("whole request");
/// tokio::time::advance(Duration::from_secs(2)).await;
/// assert_eq!(deadline.remaining(), Duration::from_secs(3));
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    at: Instant,
    length: Duration,
    name: Option<&'static str>,
    site: Option<&'static Location<'static>>,
}

impl Deadline {
    /// The moment `wait` from now. A wait too long for the clock counts as thirty years.
    #[track_caller]
    pub fn after(wait: Duration) -> Deadline {
        Deadline {
            site: Some(Location::caller()),
            ..Deadline::of_length(wait)
        }
    }

    /// The same moment, with the name by which [`Elapsed`] tells it from others.
    pub fn named(self, name: &'static str) -> Deadline {
        Deadline {
            name: Some(name),
            ..self
        }
    }

    /// What is left until then; zero once it has passed.
    pub fn remaining(self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// The same moment on the standard clock.
    pub fn instant(self) -> std::time::Instant {
        self.at.into_std()
    }

    fn of_length(wait: Duration) -> Deadline {
        const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);
        let now = Instant::now();
        Deadline {
            at: now.checked_add(wait).unwrap_or_else(|| now + FAR),
            length: wait,
            name: None,
            site: None,
        }
    }
}

impl From<Duration> for Deadline {
    fn from(wait: Duration) -> Self {
        Deadline::of_length(wait)
    }
}

impl From<Instant> for Deadline {
    fn from(at: Instant) -> Self {
        Deadline {
            at,
            length: at.saturating_duration_since(Instant::now()),
            name: None,
            site: None,
        }
    }
}

impl From<std::time::Instant> for Deadline {
    fn from(at: std::time::Instant) -> Self {
        Deadline::from(Instant::from_std(at))
    }
}

impl From<Deadline> for Instant {
    fn from(deadline: Deadline) -> Self {
        deadline.at
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Deadline {}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        self.at.cmp(&other.at)
    }
}

impl Hash for Deadline {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.at.hash(state);
    }
}

/// A deadline has passed: this one, and no other.
///
/// ```
/// use std::time::Duration;
/// use jitney::{Deadline, timeout};
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let upstream = Deadline::after(Duration::from_millis(20)).named("upstream");
/// let elapsed = timeout(upstream, std::future::pending::<()>()).await.unwrap_err();
/// assert_eq!(&*elapsed.name, "upstream");
/// assert!(elapsed.to_string().starts_with("the deadline upstream of 20ms passed"));
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elapsed {
    /// The name of the deadline, or else of the scope that had it; `timeout` or `shield` if it was one without a name.
    pub name: Arc<str>,
    /// Where in the source the deadline was set.
    pub site: &'static Location<'static>,
    /// How long after its setting it passed.
    pub limit: Duration,
    /// Where the work was then, as far as scopes tell: the name of the task or scope that waited, and of the scopes it had
    /// open, outermost first, with ` > ` between. None for a scope's own deadline, whose failures name each task.
    pub stuck: Option<Arc<str>>,
}

impl fmt::Display for Elapsed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Elapsed {
            name, site, limit, ..
        } = self;
        let (file, line) = (site.file(), site.line());
        write!(
            f,
            "the deadline {name} of {limit:?} passed (set at {file}:{line})"
        )?;
        match &self.stuck {
            Some(stuck) => write!(f, " while in {stuck}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Elapsed {}

/// A deadline, and who enforces it.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) deadline: Deadline,
    name: Arc<str>,
    site: &'static Location<'static>,
}

impl Limit {
    /// The names of the deadline itself go before those of its owner.
    pub(crate) fn new(
        deadline: Deadline,
        owner: impl Into<Arc<str>>,
        site: &'static Location<'static>,
    ) -> Limit {
        Limit {
            deadline,
            name: deadline.name.map_or_else(|| owner.into(), Arc::from),
            site: deadline.site.unwrap_or(site),
        }
    }

    pub(crate) fn elapsed(&self, stuck: Option<Arc<str>>) -> Elapsed {
        Elapsed {
            name: self.name.clone(),
            site: self.site,
            limit: self.deadline.length,
            stuck,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_the_moment_counts_when_deadlines_are_compared() {
        let second = Duration::from_secs(1);
        let (plain, named) = (
            Deadline::from(second),
            Deadline::after(second).named("named"),
        );
        assert_eq!(plain, named);
        assert!(Deadline::from(2 * second) > named);
        assert_eq!(Deadline::from(Instant::now() + second), named);
    }
}
