//! What becomes of streams: calls with any number of replies, many of which one process works on at a time.
//!
//! A stream has credit: its process may send as many replies as its reader has room for. What has no credit owes nothing, so a slow reader
//! makes nobody look stuck.

use std::time::{Duration, Instant};

use super::calls::{Call, Stage, Way};
use super::flows::Marks;
use super::{CallId, Place, Supervisor, Verdict};

/// What a reader has room for: so many replies of the least cost.
pub(in crate::process) const CREDIT: i64 = 16;
/// A reply costs one, and one more for each of these bytes; at most all there is.
const COST_BYTES: u64 = 64 << 10;

/// How far a stream has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Flow {
    credit: i64,
    /// Something came of it.
    replied: bool,
    /// Its reader has left: it has yet to end.
    left: bool,
}

/// What a reply of so many bytes costs.
pub(in crate::process) fn cost(bytes: u64) -> i64 {
    let more = i64::try_from(bytes / COST_BYTES).unwrap_or(CREDIT);
    (1 + more.min(CREDIT)).min(CREDIT)
}

impl Flow {
    pub(super) const NEW: Self = Self {
        credit: CREDIT,
        replied: false,
        left: false,
    };

    /// Whether its process owes it something.
    fn is_owed(self) -> bool {
        self.left || self.credit > 0
    }
}

/// What readers report.
impl Supervisor {
    /// A worker is given at most so many streams at a time from now on.
    pub(in crate::process) fn narrow(&mut self, streams: usize) {
        self.streams_max = streams;
    }

    /// The reader has taken replies of that cost. True: the process is to be told.
    pub(in crate::process) fn taken(&mut self, id: CallId, cost: i64, now: Instant) -> bool {
        let Some(Call {
            way: Way::Stream(flow),
            stage: Stage::Sent(place),
            terms,
        }) = self.calls.get_mut(&id)
        else {
            return false;
        };
        let owed = flow.is_owed();
        flow.credit += cost;
        if !owed && flow.is_owed() {
            let (seat, limit) = (place.seat, terms.limit);
            self.owe(seat, limit, now);
        }
        true
    }

    /// The reader has left. If the process has the stream, it is to be told, at this place.
    pub(in crate::process) fn left(&mut self, id: CallId, now: Instant) -> Option<Place> {
        let call = self.calls.get_mut(&id)?;
        let Way::Stream(flow) = &mut call.way else {
            return None;
        };
        match call.stage {
            Stage::Queued => {
                self.leave_queue(id);
                self.calls.remove(&id);
                None
            }
            Stage::Assigned(place) => {
                self.calls.remove(&id);
                self.vacated(place.seat, place.slot, now);
                None
            }
            Stage::Sent(place) => {
                let owed = flow.is_owed();
                flow.left = true;
                if !owed {
                    let limit = call.terms.limit;
                    self.owe(place.seat, limit, now);
                }
                Some(place)
            }
        }
    }
}

/// What the keepers of the workers report and ask.
impl Supervisor {
    /// A reply of that cost came; whether there is somebody to read it.
    ///
    /// # Errors
    /// It is none that may come.
    pub(in crate::process) fn replied(
        &mut self,
        index: usize,
        id: CallId,
        slot: usize,
        cost: i64,
        now: Instant,
    ) -> Result<bool, String> {
        let Some(flow) = self.flowing(index, id, slot)? else {
            return Ok(false);
        };
        if flow.credit < 1 {
            return Err(format!("a reply of stream {id} beyond its credit"));
        }
        let owed = flow.is_owed();
        flow.credit -= cost;
        flow.replied = true;
        let (settled, read) = (owed && !flow.is_owed(), !flow.left);
        let seat = &mut self.seats[index];
        if settled {
            seat.flows.settle();
        }
        seat.flows.heard(now);
        seat.proved = true;
        seat.streak = 0;
        Ok(read)
    }

    /// A stream has ended; whether there is somebody who wants to know.
    ///
    /// # Errors
    /// It does not go on there.
    pub(in crate::process) fn ended(
        &mut self,
        index: usize,
        id: CallId,
        slot: usize,
        now: Instant,
    ) -> Result<bool, String> {
        let Some(flow) = self.flowing(index, id, slot)? else {
            return Ok(false);
        };
        let flow = *flow;
        let seat = &mut self.seats[index];
        if flow.is_owed() {
            seat.flows.settle();
        }
        seat.flows.heard(now);
        seat.proved = true;
        seat.streak = 0;
        if let Some(call) = self.calls.remove(&id) {
            seat.served = seat.served.saturating_add(call.terms.weight);
        }
        self.vacated(index, slot, now);
        self.consider_recycling();
        Ok(!flow.left)
    }

    /// What the process has written down. Told before its end, when it talks nonsense, and after [`super::Advice::Look`].
    pub(in crate::process) fn marked(&mut self, index: usize, marks: Marks) {
        self.seats[index].flows.mark(marks);
    }

    /// Decides by its marks whether a process that has been silent for too long is stuck.
    pub(in crate::process) fn looked(&mut self, index: usize, now: Instant) {
        let seat = &mut self.seats[index];
        let silent = seat.flows.look_at().is_some_and(|at| at <= now);
        if silent && seat.is_answering() && seat.flows.is_stuck(now) {
            let limit = seat.flows.limit();
            self.condemn(index, &Verdict::Hung(limit));
        }
    }

    /// The stream's state, if what the process says of it still counts.
    fn flowing(
        &mut self,
        index: usize,
        id: CallId,
        slot: usize,
    ) -> Result<Option<&mut Flow>, String> {
        let seat = &self.seats[index];
        if matches!(seat.state, super::State::Dying { .. }) || seat.flows.are_cut() {
            return Ok(None);
        }
        let call = self
            .calls
            .get_mut(&id)
            .filter(|_| seat.flows.holds(slot, id));
        match call {
            Some(Call {
                way: Way::Stream(flow),
                stage: Stage::Sent(_),
                ..
            }) => Ok(Some(flow)),
            _ => Err(format!(
                "something of stream {id} in slot {slot}, which does not go on there"
            )),
        }
    }

    /// A slot is free again.
    fn vacated(&mut self, index: usize, slot: usize, now: Instant) {
        self.seats[index].flows.free(slot);
        self.dispatch();
        self.settle(index, now);
    }
}

impl Supervisor {
    /// The process owes one more stream something. If it was idle, its keeper has to know until when.
    pub(super) fn owe(&mut self, index: usize, limit: Duration, now: Instant) {
        if self.seats[index].flows.owe(limit, now) {
            self.nudges.push(index);
        }
    }

    /// The process is given no more time for its streams: they end, but for those that it was not sent, which go to another one.
    pub(super) fn cut_streams(&mut self, index: usize) {
        let mut again = Vec::new();
        for (_, id) in self.seats[index].flows.cut() {
            match self.calls.get(&id) {
                Some(Call {
                    way: Way::Stream(Flow { left: true, .. }),
                    ..
                }) => drop(self.calls.remove(&id)),
                Some(Call {
                    stage: Stage::Assigned(_),
                    ..
                }) => again.push(id),
                _ => self.answer(id, Verdict::Unavailable(REPLACED.to_owned())),
            }
        }
        self.requeue_all(again);
    }

    /// The process will say nothing more: answers its streams, but for those that can go to another one, which are returned.
    pub(super) fn end_streams(&mut self, index: usize, verdict: &Verdict) -> Vec<CallId> {
        let mut again = Vec::new();
        for (slot, id) in self.seats[index].flows.take_all() {
            match self.fate(index, slot, id, verdict) {
                Fate::Again => again.push(id),
                Fate::Gone => drop(self.calls.remove(&id)),
                Fate::Answer(verdict) => self.answer(id, verdict),
            }
        }
        again
    }

    fn fate(&self, index: usize, slot: usize, id: CallId, verdict: &Verdict) -> Fate {
        let Some(Call {
            way: Way::Stream(flow),
            stage,
            ..
        }) = self.calls.get(&id)
        else {
            return Fate::Gone;
        };
        let flows = &self.seats[index].flows;
        match stage {
            _ if flow.left => Fate::Gone,
            Stage::Queued | Stage::Assigned(_) => Fate::Again,
            Stage::Sent(_) if flows.is_stepping(id) || *verdict == Verdict::Closed => {
                Fate::Answer(verdict.clone())
            }
            // It goes on until it is killed, and may begin what it had not begun when it was last looked at.
            Stage::Sent(_) if matches!(verdict, Verdict::Garbage(_)) => Fate::Answer(innocent()),
            Stage::Sent(_) if !flow.replied && !flows.has_begun(slot, id) => Fate::Again,
            Stage::Sent(_) => Fate::Answer(innocent()),
        }
    }
}

/// What becomes of a stream whose process is lost.
enum Fate {
    /// It had not begun.
    Again,
    /// Nobody waits for it.
    Gone,
    Answer(Verdict),
}

fn innocent() -> Verdict {
    Verdict::Unavailable(INNOCENT.to_owned())
}

const REPLACED: &str = "the process that gave these results is replaced, which is not the fault of this request: it can be sent again";
const INNOCENT: &str = "the process that gave these results has ended, which was not the fault of this request: it can be sent again";

#[cfg(test)]
mod tests;
