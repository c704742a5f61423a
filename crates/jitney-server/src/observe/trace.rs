//! Traces: one line of the log for each of the sampled requests, with the moments of its way through the server.
//!
//! What is sampled is set while the server runs, for all models and for single ones. A model whose requests are not sampled pays one load of
//! an atomic for each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use jitney::batch::Trip;

use super::logging;

/// What is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceSettings {
    /// Whether anything is.
    pub on: bool,
    /// One in so many requests of each model.
    pub rate: u64,
    /// How many traces are left before it ends; `None` where it does not end.
    pub count: Option<u64>,
}

/// A change of what is sampled. The outer `None` leaves a setting as it is, the inner one takes it back: a model's to the server's, the
/// server's to that of its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraceChange {
    /// Whether anything is sampled.
    pub on: Option<Option<bool>>,
    /// One in so many requests.
    pub rate: Option<Option<u64>>,
    /// How many traces until it ends; `Some(Some(None))` is without end.
    pub count: Option<Option<Option<u64>>>,
}

/// What is sampled where nobody has said anything.
const AT_START: TraceSettings = TraceSettings {
    on: false,
    rate: 1000,
    count: None,
};

/// The settings of a server and those of its models that differ.
#[derive(Debug, Default)]
pub(super) struct Book {
    server: Said,
    models: HashMap<String, Said>,
}

/// What is said at one place.
#[derive(Clone, Debug, Default)]
struct Said {
    on: Option<bool>,
    rate: Option<u64>,
    left: Option<Left>,
}

/// How many traces are left, for all that share it; negative where there is no end.
type Left = Arc<AtomicI64>;

/// Decides which requests of one model are traced.
#[derive(Debug, Default)]
pub(super) struct Sampler {
    /// One in so many; 0 for none.
    period: AtomicU64,
    seen: AtomicU64,
    /// Looked at only for those that the period picks.
    left: Mutex<Option<Left>>,
}

/// The trace of one request, begun when it reached its model.
#[derive(Debug)]
pub(crate) struct Trace {
    id: Option<String>,
    began: Instant,
}

impl Book {
    pub(super) fn settings(&self, model: Option<&str>) -> TraceSettings {
        let said = self.effective(model);
        TraceSettings {
            on: said.on.unwrap_or(AT_START.on),
            rate: said.rate.unwrap_or(AT_START.rate),
            count: said.left.map_or(AT_START.count, |left| {
                u64::try_from(left.load(Ordering::Relaxed)).ok()
            }),
        }
    }

    pub(super) fn change(&mut self, model: Option<&str>, change: &TraceChange) {
        match model {
            None => self.server.change(change),
            Some(model) => {
                let said = self.models.entry(model.to_owned()).or_default();
                said.change(change);
                if said.is_empty() {
                    self.models.remove(model);
                }
            }
        }
    }

    /// Has a model's sampler do as is said.
    pub(super) fn apply(&self, model: &str, sampler: &Sampler) {
        let TraceSettings { on, rate, .. } = self.settings(Some(model));
        *lock(&sampler.left) = self.effective(Some(model)).left;
        let period = if on { rate } else { 0 };
        sampler.period.store(period, Ordering::Relaxed);
    }

    fn effective(&self, model: Option<&str>) -> Said {
        let own = model.and_then(|model| self.models.get(model));
        let own = own.cloned().unwrap_or_default();
        Said {
            on: own.on.or(self.server.on),
            rate: own.rate.or(self.server.rate),
            left: own.left.or_else(|| self.server.left.clone()),
        }
    }
}

impl Said {
    fn change(&mut self, change: &TraceChange) {
        if let Some(on) = change.on {
            self.on = on;
        }
        if let Some(rate) = change.rate {
            self.rate = rate;
        }
        if let Some(count) = change.count {
            self.left = count.map(|count| {
                let left = count.map_or(-1, |count| i64::try_from(count).unwrap_or(i64::MAX));
                Arc::new(AtomicI64::new(left))
            });
        }
    }

    fn is_empty(&self) -> bool {
        self.on.is_none() && self.rate.is_none() && self.left.is_none()
    }
}

impl Sampler {
    /// Whether this request is traced.
    pub(super) fn picks(&self) -> bool {
        let period = self.period.load(Ordering::Relaxed);
        if period == 0 {
            return false;
        }
        let turn = self.seen.fetch_add(1, Ordering::Relaxed);
        turn.is_multiple_of(period) && self.takes_one()
    }

    fn takes_one(&self) -> bool {
        let left = lock(&self.left).clone();
        left.is_none_or(|left| {
            let one_less = |left: i64| match left {
                0 => None,
                left => Some(left - left.signum().max(0)),
            };
            let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
            left.fetch_update(set, fetch, one_less).is_ok()
        })
    }
}

impl Trace {
    pub(super) fn begin(id: Option<String>, began: Instant) -> Trace {
        Trace { id, began }
    }

    /// Writes the trace of a request that was answered. The moments are nanoseconds since the epoch.
    pub(super) fn end(self, model: &str, version: &str, trip: &Trip) {
        let queue_start = since_epoch(self.began);
        let compute_start = queue_start + trip.queued + trip.held;
        let compute_end = compute_start + trip.run;
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "jitney_server::trace",
            model,
            version,
            request_id = self.id.as_deref().map(|id| tracing::field::display(logging::escaped(id))),
            queue_start_ns = nanos(queue_start),
            compute_start_ns = nanos(compute_start),
            compute_end_ns = nanos(compute_end),
            end_ns = nanos(since_epoch(Instant::now())),
            batch_rows = trip.rows,
            "trace"
        );
    }
}

/// How long after the epoch that was, by the clock of now.
fn since_epoch(then: Instant) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default().saturating_sub(then.elapsed())
}

/// What is behind it is changed by single assignments, so a panic elsewhere leaves it whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(sampler: &Sampler, requests: usize) -> Vec<usize> {
        (0..requests).filter(|_| sampler.picks()).collect()
    }

    #[test]
    fn a_model_follows_the_server_but_for_what_is_said_of_it() {
        let mut book = Book::default();
        assert_eq!(book.settings(Some("m")), AT_START);
        let server = TraceChange {
            on: Some(Some(true)),
            rate: Some(Some(10)),
            count: Some(Some(Some(5))),
        };
        book.change(None, &server);
        let own = TraceChange {
            rate: Some(Some(2)),
            ..TraceChange::default()
        };
        book.change(Some("m"), &own);
        let expected = TraceSettings {
            on: true,
            rate: 2,
            count: Some(5),
        };
        assert_eq!(book.settings(Some("m")), expected);
        assert_eq!(book.settings(Some("other")).rate, 10);
        let cleared = TraceChange {
            rate: Some(None),
            ..TraceChange::default()
        };
        book.change(Some("m"), &cleared);
        assert_eq!(book.settings(Some("m")).rate, 10);
        assert!(book.models.is_empty(), "nothing is kept of what is cleared");
        book.change(None, &cleared);
        assert_eq!(book.settings(None).rate, AT_START.rate);
    }

    #[test]
    fn one_in_so_many_is_picked_until_the_count_is_used_up() {
        let (mut book, sampler, other) = (Book::default(), Sampler::default(), Sampler::default());
        assert_eq!(picks(&sampler, 5), [0; 0]);
        let change = TraceChange {
            on: Some(Some(true)),
            rate: Some(Some(3)),
            count: Some(Some(Some(3))),
        };
        book.change(None, &change);
        book.apply("m", &sampler);
        book.apply("other", &other);
        assert_eq!(picks(&sampler, 6), [0, 3]);
        assert_eq!(picks(&other, 6), [0], "the models share the server's count");
        assert_eq!(book.settings(None).count, Some(0));
        let endless = TraceChange {
            count: Some(Some(None)),
            ..TraceChange::default()
        };
        book.change(None, &endless);
        book.apply("m", &sampler);
        assert_eq!(picks(&sampler, 7), [0, 3, 6]);
        assert_eq!(book.settings(None).count, None);
    }
}
