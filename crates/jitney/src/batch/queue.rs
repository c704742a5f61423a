//! The bounded queue: requests in the order they came, in one bucket for each kind that can share a batch.

use std::collections::VecDeque;
use std::time::Instant;

/// A queued request.
#[derive(Debug)]
pub(crate) struct Entry<I, R> {
    /// Grows with every request, so each bucket is sorted by it.
    pub(crate) seq: u64,
    pub(crate) item: I,
    pub(crate) rows: usize,
    pub(crate) at: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) reply: R,
}

/// Requests that wait. Whose head is the oldest is served first, so no bucket starves.
#[derive(Debug)]
pub(crate) struct Queue<I, R> {
    buckets: Vec<VecDeque<Entry<I, R>>>,
    len: usize,
    rows: usize,
}

impl<I, R> Queue<I, R> {
    pub(crate) fn new() -> Queue<I, R> {
        Queue {
            buckets: Vec::new(),
            len: 0,
            rows: 0,
        }
    }

    /// Requests waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Rows waiting.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Kinds of requests that cannot share a batch with each other.
    pub(crate) fn kinds(&self) -> usize {
        self.buckets.len()
    }

    /// Puts a request at the end of the bucket it is compatible with.
    pub(crate) fn push(&mut self, entry: Entry<I, R>, compatible: impl Fn(&I, &I) -> bool) {
        self.len += 1;
        self.rows += entry.rows;
        // Only an only bucket can be empty, and then it takes any kind.
        let fits = |bucket: &&mut VecDeque<Entry<I, R>>| {
            bucket
                .front()
                .is_none_or(|head| compatible(&head.item, &entry.item))
        };
        match self.buckets.iter_mut().find(fits) {
            Some(bucket) => bucket.push_back(entry),
            None => self.buckets.push(VecDeque::from([entry])),
        }
    }

    /// Takes a request out, wherever it stands. `None` when it is not in the queue any more.
    pub(crate) fn remove(&mut self, seq: u64) -> Option<Entry<I, R>> {
        for index in 0..self.buckets.len() {
            let bucket = &mut self.buckets[index];
            if let Ok(place) = bucket.binary_search_by_key(&seq, |entry| entry.seq) {
                let entry = bucket.remove(place)?;
                self.forget(index, entry.rows);
                return Some(entry);
            }
        }
        None
    }

    /// Takes out every request whose deadline is not after `now`.
    pub(crate) fn take_expired(&mut self, now: Instant) -> Vec<Entry<I, R>> {
        self.take_where(|entry| entry.deadline.is_some_and(|deadline| deadline <= now))
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<Entry<I, R>> {
        self.take_where(|_| true)
    }

    /// The earliest deadline of all that wait. Looks at every request.
    pub(crate) fn earliest_deadline(&self) -> Option<Instant> {
        self.buckets
            .iter()
            .flatten()
            .filter_map(|entry| entry.deadline)
            .min()
    }

    /// When the oldest request came.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.buckets
            .iter()
            .filter_map(|bucket| bucket.front())
            .map(|entry| entry.at)
            .min()
    }

    /// What would leave next: the head of the line, counted up to `max_rows`.
    pub(crate) fn head(&self, max_rows: usize) -> Option<Head> {
        let bucket = &self.buckets[self.first()?];
        let oldest = bucket.front()?.at;
        let mut head = Head {
            rows: 0,
            entries: 0,
            full: false,
            oldest,
            earliest_deadline: None,
            others: self.kinds() > 1,
        };
        for entry in bucket {
            if head.entries > 0 && head.rows + entry.rows > max_rows {
                head.full = true;
                break;
            }
            head.entries += 1;
            head.rows += entry.rows;
            head.earliest_deadline = match (head.earliest_deadline, entry.deadline) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        }
        Some(head)
    }

    /// Takes the first `entries` of the head of the line.
    pub(crate) fn take(&mut self, entries: usize) -> Vec<Entry<I, R>> {
        let Some(index) = self.first() else {
            return Vec::new();
        };
        let bucket = &mut self.buckets[index];
        let taken: Vec<_> = bucket.drain(..entries.min(bucket.len())).collect();
        self.len -= taken.len();
        self.rows -= taken.iter().map(|entry| entry.rows).sum::<usize>();
        self.drop_if_empty(index);
        taken
    }

    fn first(&self) -> Option<usize> {
        let head = |index: &usize| self.buckets[*index].front().map(|entry| entry.seq);
        (0..self.buckets.len()).min_by_key(head)
    }

    fn take_where(&mut self, out: impl Fn(&Entry<I, R>) -> bool) -> Vec<Entry<I, R>> {
        let mut taken = Vec::new();
        for bucket in &mut self.buckets {
            let mut place = 0;
            while place < bucket.len() {
                if out(&bucket[place]) {
                    taken.extend(bucket.remove(place));
                } else {
                    place += 1;
                }
            }
        }
        self.buckets.retain(|bucket| !bucket.is_empty());
        self.len -= taken.len();
        self.rows -= taken.iter().map(|entry| entry.rows).sum::<usize>();
        taken
    }

    fn forget(&mut self, index: usize, rows: usize) {
        self.len -= 1;
        self.rows -= rows;
        self.drop_if_empty(index);
    }

    /// An only bucket is kept when it runs empty: its memory serves the next request.
    fn drop_if_empty(&mut self, index: usize) {
        if self.buckets[index].is_empty() && self.buckets.len() > 1 {
            self.buckets.swap_remove(index);
        }
    }
}

/// The requests that would share the next batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) rows: usize,
    pub(crate) entries: usize,
    /// There is a next one, and it does not fit.
    pub(crate) full: bool,
    pub(crate) oldest: Instant,
    pub(crate) earliest_deadline: Option<Instant>,
    /// Requests wait that cannot share this batch.
    pub(crate) others: bool,
}
