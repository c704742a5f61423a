//! Calls: who waits, who runs where, and what becomes of whom.

use std::time::{Duration, Instant};

use super::streams::Flow;
use super::{CallId, Phase, Place, Seat, State, Supervisor, Terms, Verdict};

#[derive(Debug)]
pub(super) struct Call {
    pub(super) terms: Terms,
    pub(super) stage: Stage,
    pub(super) way: Way,
}

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// By one reply. The runs of a worker are done one after another.
    Once,
    /// By any number of replies.
    Stream(Flow),
}

impl Way {
    /// The queue for those who are answered so: there may be places for runs and none for streams, or the reverse.
    fn queue(self) -> usize {
        match self {
            Self::Once => 0,
            Self::Stream(_) => 1,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Without a worker. Next: Assigned.
    Queued,
    /// Has a slot, but was not sent. Next: Sent, or Queued when the worker is lost.
    Assigned(Place),
    /// In the worker's pipe. Next: answered, or Queued when the worker is lost before this began.
    Sent(Place),
}

/// What callers report and ask.
impl Supervisor {
    /// A call came. Its first verdict may be there at once.
    pub(in crate::process) fn called(&mut self, id: CallId, terms: Terms) {
        self.enqueue(id, terms, Way::Once);
    }

    /// A stream is to begin. Its first verdict may be there at once.
    pub(in crate::process) fn opened(&mut self, id: CallId, terms: Terms) {
        self.enqueue(id, terms, Way::Stream(Flow::NEW));
    }

    /// The run is about to be sent there, behind those that were sent before. False: it has lost that place, and another verdict is due.
    pub(in crate::process) fn sent(&mut self, id: CallId, place: Place, now: Instant) -> bool {
        let Some(call) = self.calls.get_mut(&id) else {
            return false;
        };
        if call.stage != Stage::Assigned(place) {
            return false;
        }
        call.stage = Stage::Sent(place);
        if let Way::Stream(_) = call.way {
            let limit = call.terms.limit;
            self.owe(place.seat, limit, now);
            return true;
        }
        let seat = &mut self.seats[place.seat];
        if seat.pipe.is_empty() {
            seat.head_since = now;
        }
        seat.pipe.push_back(id);
        true
    }

    /// The run could not be sent whole: it has not begun, and is given to another worker when this one is gone. To be told before the
    /// next run is sent to that place.
    pub(in crate::process) fn unsent(&mut self, id: CallId, place: Place) {
        let Some(call) = self.calls.get_mut(&id) else {
            return;
        };
        let pipe = &mut self.seats[place.seat].pipe;
        if call.stage == Stage::Sent(place) && pipe.back() == Some(&id) {
            pipe.pop_back();
            call.stage = Stage::Assigned(place);
        }
    }

    /// The run cannot be sent, and that is not its worker's fault: the call is answered, and the place is free again.
    pub(in crate::process) fn withdraw(
        &mut self,
        id: CallId,
        place: Place,
        why: String,
        now: Instant,
    ) {
        if self
            .calls
            .get(&id)
            .is_some_and(|call| call.stage == Stage::Assigned(place))
        {
            self.answer(id, Verdict::Unavailable(why));
            self.released(place, now);
        }
    }

    /// The caller has waited long. Either a verdict is there now, or this is when to ask again.
    pub(in crate::process) fn look(&mut self, id: CallId, now: Instant) -> Option<Instant> {
        let call = self.calls.get(&id)?;
        let due = match call.stage {
            Stage::Queued => call.terms.patience,
            Stage::Assigned(_) => return Some(now + Duration::from_secs(1)),
            Stage::Sent(place) => self.run_limit(place.seat)?,
        };
        if due > now {
            return Some(due);
        }
        match call.stage {
            Stage::Sent(place) => self.hang(place.seat),
            _ => self.give_up(id),
        }
        None
    }

    /// The reply was read: its slot can be used again.
    pub(in crate::process) fn released(&mut self, place: Place, now: Instant) {
        let seat = &mut self.seats[place.seat];
        if seat.generation != place.generation || !seat.is_answering() {
            return;
        }
        seat.slots[place.slot] = None;
        self.dispatch();
        self.settle(place.seat, now);
    }
}

/// What the keepers of the workers report.
impl Supervisor {
    /// A reply came. `kept` says that the caller has yet to read it from the worker's region, and will report
    /// [`Supervisor::released`]. Answers how long the run took, or `None` if nobody waits for it: the worker is being killed.
    ///
    /// # Errors
    /// It is not the reply to the run at the head of the pipe.
    pub(in crate::process) fn done(
        &mut self,
        index: usize,
        id: CallId,
        slot: usize,
        kept: bool,
        now: Instant,
    ) -> Result<Option<Duration>, String> {
        let seat = &mut self.seats[index];
        if matches!(seat.state, State::Dying { .. }) {
            return Ok(None);
        }
        let expected = seat.pipe.front().copied();
        if expected != Some(id) || seat.slots.get(slot) != Some(&expected) {
            return Err(format!(
                "a reply to run {id} in slot {slot}, which is not the one that is running"
            ));
        }
        seat.pipe.pop_front();
        let took = now.saturating_duration_since(seat.head_since);
        seat.head_since = now;
        seat.proved = true;
        seat.streak = 0;
        if let Some(call) = self.calls.remove(&id) {
            seat.served = seat.served.saturating_add(call.terms.weight);
        }
        if !kept {
            seat.slots[slot] = None;
            self.dispatch();
        }
        self.settle(index, now);
        self.consider_recycling();
        Ok(Some(took))
    }
}

/// The way of a call.
impl Supervisor {
    fn enqueue(&mut self, id: CallId, terms: Terms, way: Way) {
        let stage = Stage::Queued;
        self.calls.insert(id, Call { terms, stage, way });
        self.queues[way.queue()].push_back(id);
        self.dispatch();
    }

    /// Gives waiting calls to workers that are free, or turns them away if there will be none.
    pub(super) fn dispatch(&mut self) {
        for queue in 0..self.queues.len() {
            self.dispatch_from(queue);
        }
    }

    fn dispatch_from(&mut self, queue: usize) {
        while let Some(&id) = self.queues[queue].front() {
            let verdict = match &self.phase {
                Phase::Closing { .. } => Verdict::Closed,
                Phase::Failed => Verdict::Unavailable(self.failure_text()),
                Phase::Open => match self.assign(id) {
                    Some(place) => Verdict::Assigned(place),
                    None => return,
                },
            };
            self.queues[queue].pop_front();
            if !matches!(verdict, Verdict::Assigned(_)) {
                self.calls.remove(&id);
            }
            self.verdicts.push((id, verdict));
        }
    }

    /// Takes a slot of the ready worker that has the least to do.
    fn assign(&mut self, id: CallId) -> Option<Place> {
        let stream = matches!(self.calls.get(&id)?.way, Way::Stream(_));
        let streams_max = self.streams_max;
        let free = |seat: &Seat| match stream {
            true => seat.flows.count() < streams_max,
            false => seat.free_slot().is_some(),
        };
        let ready = |seat: &Seat| seat.is_ready() && free(seat);
        let candidates = self.seats.iter().enumerate();
        let candidates = candidates.filter(|(_, seat)| ready(seat));
        let (index, _) = candidates.min_by_key(|(_, seat)| seat.in_flight())?;
        let seat = &mut self.seats[index];
        let slot = match stream {
            true => seat.flows.take(id, streams_max)?,
            false => {
                let slot = seat.free_slot()?;
                seat.slots[slot] = Some(id);
                slot
            }
        };
        let place = Place {
            seat: index,
            generation: seat.generation,
            slot,
        };
        self.calls.get_mut(&id)?.stage = Stage::Assigned(place);
        Some(place)
    }

    pub(super) fn answer(&mut self, id: CallId, verdict: Verdict) {
        if self.calls.remove(&id).is_some() {
            self.verdicts.push((id, verdict));
        }
    }

    fn give_up(&mut self, id: CallId) {
        self.leave_queue(id);
        self.answer(
            id,
            Verdict::Unavailable("no worker was free in time".to_owned()),
        );
    }

    pub(super) fn leave_queue(&mut self, id: CallId) {
        for queue in &mut self.queues {
            queue.retain(|&other| other != id);
        }
    }

    pub(super) fn hang(&mut self, index: usize) {
        let head = self.seats[index].pipe.front();
        let Some(limit) = head.and_then(|id| Some(self.calls.get(id)?.terms.limit)) else {
            return;
        };
        self.condemn(index, &Verdict::Hung(limit));
        self.nudges.push(index);
    }

    /// The worker will answer nothing more: what it was running gets the verdict, and what had not begun goes to others, first in line.
    pub(super) fn condemn(&mut self, index: usize, verdict: &Verdict) {
        let seat = &mut self.seats[index];
        seat.state = State::dying(match verdict {
            Verdict::Hung(_) => Some("it worked longer on one thing than it may"),
            Verdict::Garbage(_) => None,
            _ => Some("the pool closes"),
        });
        let mut held: Vec<CallId> = seat.slots.iter_mut().filter_map(Option::take).collect();
        let mut sent = std::mem::take(&mut seat.pipe).into_iter();
        if let Some(head) = sent.next() {
            self.answer(head, verdict.clone());
        }
        if let Verdict::Garbage(_) = verdict {
            // It goes on until it is killed, and nothing that it says is heard any more: each of these may have begun.
            sent.for_each(|id| self.answer(id, Verdict::Unavailable(DOUBTFUL.to_owned())));
        }
        held.extend(self.end_streams(index, verdict));
        held.retain(|id| self.calls.contains_key(id));
        self.requeue_all(held);
    }

    /// Puts calls back in line, before all that wait, in the order in which they came.
    pub(super) fn requeue_all(&mut self, mut calls: Vec<CallId>) {
        calls.sort_unstable();
        for id in calls.into_iter().rev() {
            self.requeue(id);
        }
        self.dispatch();
    }

    fn requeue(&mut self, id: CallId) {
        if let Some(call) = self.calls.get_mut(&id) {
            call.stage = Stage::Queued;
            if let Way::Stream(flow) = &mut call.way {
                *flow = Flow::NEW;
            }
            self.queues[call.way.queue()].push_front(id);
        }
    }

    /// When the run at the head of the worker's pipe has to be done.
    pub(super) fn run_limit(&self, index: usize) -> Option<Instant> {
        let seat = &self.seats[index];
        let head = self.calls.get(seat.pipe.front()?)?;
        Some(seat.head_since + head.terms.limit)
    }
}

const DOUBTFUL: &str = "the worker to which this was sent did not keep to the protocol and was killed, and whether it had begun this is not known";
