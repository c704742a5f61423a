//! The queue: requests in the order they are due, in one bucket for each kind that can share a batch.
//!
//! Who is due when is decided once, on arrival, so the order never has to be made again: a request is due when it comes, earlier by its
//! priority, later by what its key has waiting already. A lower priority therefore ages: whoever comes later must be so much more urgent
//! to go first. And a key with a long line waits behind its own line, not others behind it, as in start-time fair queueing (Goyal, Vin
//! and Cheng, 1996).

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How much earlier than it came a request of the next higher priority is due.
const PRIORITY_STEP: Duration = Duration::from_secs(1);

/// A queued request.
#[derive(Debug)]
pub(crate) struct Entry<I, R> {
    /// Each bucket is sorted by it.
    pub(crate) place: Place,
    pub(crate) item: I,
    pub(crate) rows: usize,
    pub(crate) at: Instant,
    pub(crate) deadline: Option<Instant>,
    pub(crate) key: Option<u64>,
    pub(crate) reply: R,
}

/// Where a request stands in the line: when it is due, in nanoseconds from an instant of the queue's own, and its number among all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    due: i64,
    pub(crate) seq: u64,
}

/// Requests that wait. Whose head is due first is served first, so no bucket starves.
#[derive(Debug)]
pub(crate) struct Queue<I, R> {
    buckets: Vec<VecDeque<Entry<I, R>>>,
    keys: HashMap<u64, Line>,
    len: usize,
    rows: usize,
    /// Whether every item of a batch takes as many rows as its largest.
    padded: bool,
    /// What [`Place::due`] counts from: the first arrival.
    epoch: Option<Instant>,
    next_seq: u64,
}

/// What one key has waiting.
#[derive(Clone, Copy, Debug)]
struct Line {
    len: usize,
    /// When the next request of the key is due at the earliest.
    due: i64,
}

impl<I, R> Queue<I, R> {
    pub(crate) fn new(padded: bool) -> Queue<I, R> {
        Queue {
            buckets: Vec::new(),
            keys: HashMap::new(),
            len: 0,
            rows: 0,
            padded,
            epoch: None,
            next_seq: 0,
        }
    }

    /// Requests waiting.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Requests of one key waiting.
    pub(crate) fn len_of(&self, key: u64) -> usize {
        self.keys.get(&key).map_or(0, |line| line.len)
    }

    /// Rows waiting.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Rows of those who stand before a place.
    pub(crate) fn rows_before(&self, place: Place) -> usize {
        let last = |bucket: &VecDeque<Entry<I, R>>| bucket.back().map(|entry| entry.place);
        if self
            .buckets
            .iter()
            .filter_map(last)
            .all(|last| last < place)
        {
            return self.rows;
        }
        let before = |entry: &&Entry<I, R>| entry.place < place;
        let entries = self.buckets.iter().flatten().filter(before);
        entries.map(|entry| entry.rows).sum()
    }

    /// Kinds of requests that cannot share a batch with each other.
    pub(crate) fn kinds(&self) -> usize {
        self.buckets.len()
    }

    /// The place of a request that comes now.
    pub(crate) fn place(&self, now: Instant, priority: i8, key: Option<u64>) -> Place {
        let epoch = self.epoch.unwrap_or(now);
        let since = now.saturating_duration_since(epoch);
        let line = key.and_then(|key| self.keys.get(&key));
        let came = line.map_or(nanos(since), |line| line.due.max(nanos(since)));
        let due = came.saturating_sub(nanos(PRIORITY_STEP).saturating_mul(i64::from(priority)));
        Place {
            due,
            seq: self.next_seq,
        }
    }

    /// Puts a request at its place in the bucket it is compatible with. `service` is the time an instance needs for it.
    pub(crate) fn push(
        &mut self,
        entry: Entry<I, R>,
        service: Duration,
        compatible: impl Fn(&I, &I) -> bool,
    ) {
        self.epoch.get_or_insert(entry.at);
        self.next_seq += 1;
        self.len += 1;
        self.rows += entry.rows;
        self.lengthen_line(&entry, service);
        // Only an only bucket can be empty, and then it takes any kind.
        let fits = |bucket: &&mut VecDeque<Entry<I, R>>| {
            bucket
                .front()
                .is_none_or(|head| compatible(&head.item, &entry.item))
        };
        match self.buckets.iter_mut().find(fits) {
            Some(bucket) => insert(bucket, entry),
            None => self.buckets.push(VecDeque::from([entry])),
        }
    }

    fn lengthen_line(&mut self, entry: &Entry<I, R>, service: Duration) {
        let (Some(key), Some(epoch)) = (entry.key, self.epoch) else {
            return;
        };
        let came = nanos(entry.at.saturating_duration_since(epoch));
        let line = self.keys.entry(key).or_insert(Line { len: 0, due: came });
        line.len += 1;
        line.due = line.due.max(came).saturating_add(nanos(service));
    }

    fn shorten_line(keys: &mut HashMap<u64, Line>, key: Option<u64>) {
        let Some(key) = key else { return };
        if let Some(line) = keys.get_mut(&key) {
            line.len -= 1;
            if line.len == 0 {
                keys.remove(&key);
            }
        }
    }

    /// Takes a request out, wherever it stands. `None` when it is not in the queue any more.
    pub(crate) fn remove(&mut self, place: Place) -> Option<Entry<I, R>> {
        for index in 0..self.buckets.len() {
            let bucket = &mut self.buckets[index];
            if let Ok(at) = bucket.binary_search_by_key(&place, |entry| entry.place) {
                let entry = bucket.remove(at)?;
                self.forget(index, entry.rows);
                Self::shorten_line(&mut self.keys, entry.key);
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

    /// When the oldest request came. Looks at every request.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.buckets.iter().flatten().map(|entry| entry.at).min()
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
        let mut largest = 0;
        for entry in bucket {
            largest = entry.rows.max(largest);
            let rows = if self.padded {
                largest * (head.entries + 1)
            } else {
                head.rows + entry.rows
            };
            if head.entries > 0 && rows > max_rows {
                head.full = true;
                break;
            }
            head.entries += 1;
            head.rows = rows;
            head.oldest = head.oldest.min(entry.at);
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
        self.drop_if_empty(index);
        self.taken(&taken);
        taken
    }

    fn first(&self) -> Option<usize> {
        let head = |index: &usize| self.buckets[*index].front().map(|entry| entry.place);
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
        self.taken(&taken);
        taken
    }

    fn taken(&mut self, taken: &[Entry<I, R>]) {
        self.len -= taken.len();
        self.rows -= taken.iter().map(|entry| entry.rows).sum::<usize>();
        for entry in taken {
            Self::shorten_line(&mut self.keys, entry.key);
        }
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

/// Almost everyone belongs at the end.
fn insert<I, R>(bucket: &mut VecDeque<Entry<I, R>>, entry: Entry<I, R>) {
    if bucket.back().is_none_or(|last| last.place < entry.place) {
        bucket.push_back(entry);
    } else {
        let at = bucket.partition_point(|other| other.place < entry.place);
        bucket.insert(at, entry);
    }
}

fn nanos(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
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
