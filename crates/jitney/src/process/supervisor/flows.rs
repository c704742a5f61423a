//! The streams of one process, as its supervisor counts them.

use std::time::{Duration, Instant};

use super::CallId;

/// The streams of the process in one place, and whether it may be silent.
#[derive(Debug)]
pub(super) struct Flows {
    /// Which stream holds each slot, until the process has said that it has ended.
    slots: Vec<Option<CallId>>,
    taken: usize,
    /// How many streams the process owes something: results for which their readers have room, or an end that was asked for.
    owing: usize,
    /// How long it may be silent then: the longest limit of its streams.
    limit: Duration,
    /// Since when it has been silent and owed something.
    silent_since: Instant,
    /// When to look what it is doing.
    look_at: Instant,
    marks: Marks,
    /// They were all taken away, which the process does not know.
    cut: bool,
}

/// What a process has written down about itself, for when it can no longer say so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::process) struct Marks {
    /// The stream of which it computes a result, and for how long.
    pub(in crate::process) stepped: Option<(CallId, Duration)>,
    /// For each slot the last stream that it has begun there.
    pub(in crate::process) begun: Vec<CallId>,
}

impl Flows {
    pub(super) fn new(slots: usize, now: Instant) -> Self {
        Self {
            slots: vec![None; slots],
            taken: 0,
            owing: 0,
            limit: Duration::ZERO,
            silent_since: now,
            look_at: now,
            marks: Marks::default(),
            cut: false,
        }
    }

    /// There is another process, which knows of none.
    pub(super) fn clear(&mut self, now: Instant) {
        *self = Self::new(self.slots.len(), now);
    }

    pub(super) fn count(&self) -> usize {
        self.taken
    }

    pub(super) fn holds(&self, slot: usize, id: CallId) -> bool {
        self.slots.get(slot) == Some(&Some(id))
    }

    /// Gives the stream a slot, if there is one and there are fewer than `most` streams.
    pub(super) fn take(&mut self, id: CallId, most: usize) -> Option<usize> {
        let free = self.slots.iter().position(Option::is_none);
        let slot = free.filter(|_| self.taken < most)?;
        self.slots[slot] = Some(id);
        self.taken += 1;
        Some(slot)
    }

    pub(super) fn free(&mut self, slot: usize) {
        self.taken -= usize::from(self.slots[slot].take().is_some());
    }

    /// Takes every stream away, with its slot.
    pub(super) fn take_all(&mut self) -> Vec<(usize, CallId)> {
        (self.taken, self.owing) = (0, 0);
        let slots = self.slots.iter_mut().enumerate();
        slots
            .filter_map(|(slot, id)| Some((slot, id.take()?)))
            .collect()
    }

    /// Takes every stream away while the process goes on with it.
    pub(super) fn cut(&mut self) -> Vec<(usize, CallId)> {
        self.cut = true;
        self.take_all()
    }

    /// Whether the process may still speak of streams that it has no more.
    pub(super) fn are_cut(&self) -> bool {
        self.cut
    }

    /// It owes one more stream something. True: that is the first, and from now on there is a time to look.
    pub(super) fn owe(&mut self, limit: Duration, now: Instant) -> bool {
        self.limit = self.limit.max(limit);
        self.owing += 1;
        if self.owing == 1 {
            self.heard(now);
        }
        self.owing == 1
    }

    /// It owes one stream nothing any more.
    pub(super) fn settle(&mut self) {
        self.owing = self.owing.saturating_sub(1);
    }

    #[cfg(test)]
    pub(super) fn owing(&self) -> usize {
        self.owing
    }

    /// It said something.
    pub(super) fn heard(&mut self, now: Instant) {
        self.silent_since = now;
        self.look_at = now + self.limit;
    }

    /// When to look what it is doing, since it has been silent for too long by then.
    pub(super) fn look_at(&self) -> Option<Instant> {
        (self.owing > 0).then_some(self.look_at)
    }

    pub(super) fn mark(&mut self, marks: Marks) {
        self.marks = marks;
    }

    /// Whether it is stuck, by what it has written down. If not, there is another time to look.
    pub(super) fn is_stuck(&mut self, now: Instant) -> bool {
        let patience = match self.marks.stepped {
            Some((_, age)) => self.limit.saturating_sub(age),
            // It computes nothing. It may be about to end streams by itself, for which it has some more time.
            None => (self.silent_since + self.limit + self.limit / 2 + GRACE)
                .saturating_duration_since(now),
        };
        self.look_at = now + patience;
        patience.is_zero()
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    /// Whether it was computing a result of that stream.
    pub(super) fn is_stepping(&self, id: CallId) -> bool {
        self.marks.stepped.is_some_and(|(stepped, _)| stepped == id)
    }

    /// Whether it had begun that stream.
    pub(super) fn has_begun(&self, slot: usize, id: CallId) -> bool {
        self.marks.begun.get(slot) == Some(&id)
    }
}

/// How much longer a process may be silent that computes nothing.
const GRACE: Duration = Duration::from_secs(1);
