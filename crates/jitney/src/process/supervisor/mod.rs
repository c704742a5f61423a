//! The decisions of a pool, without a clock and without a process: it is told what happened and when, and answers what to do.
//!
//! Each worker has a thread, its keeper, which reports facts about its process and asks for [`Supervisor::advice`]. What concerns calls
//! comes out as [`Verdict`]s, which the driver takes with [`Supervisor::take_verdicts`] after every fact. Where a fact about one worker
//! changes what another's keeper has to do, that keeper is among [`Supervisor::take_nudges`].

mod backoff;
mod failures;
mod flows;
mod seat;
#[cfg(test)]
mod simulation;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};
use std::vec::Drain;

use bytes::Bytes;

use self::backoff::Backoff;
use self::failures::Failures;
pub(super) use self::flows::Marks;
use self::seat::{Seat, State};
use self::streams::Flow;
pub(super) use self::streams::{CREDIT, cost};
use super::{Health, Settings, WorkerState};

/// The number of a call, and of its run.
pub(super) type CallId = u64;

/// The state of the pool.
#[derive(Debug)]
pub(super) struct Supervisor {
    settings: Settings,
    phase: Phase,
    seats: Vec<Seat>,
    calls: HashMap<CallId, Call>,
    /// The calls that have no worker, in order.
    queue: VecDeque<CallId>,
    /// How many streams a worker is given at a time.
    streams_max: usize,
    backoff: Backoff,
    /// Starts that failed, over all workers.
    failures: Failures,
    /// Why the last of them did.
    last_failure: Option<StartFailure>,
    /// Some worker was ready at some time: the pool has started.
    started: bool,
    verdicts: Vec<(CallId, Verdict)>,
    nudges: Vec<usize>,
}

/// What there is to do for one worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Advice {
    /// Start a process. A report of [`Supervisor::ready`], [`Supervisor::refused`] or [`Supervisor::exited`] is due.
    Spawn,
    /// Tell the process to leave.
    Close,
    /// Kill the process and its group, for this reason where it has not been told already.
    Kill(Option<&'static str>),
    /// Look what the process has written down, and report [`Supervisor::marked`] and [`Supervisor::looked`].
    Look,
    /// Nothing, until something happens or that time comes.
    Wait(Option<Instant>),
    /// Nothing ever again.
    Stop,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Its run is to be sent to this place, once [`Supervisor::sent`] agrees. A later verdict of this kind replaces it.
    Assigned(Place),
    Crashed(String),
    Hung(Duration),
    Garbage(String),
    Unavailable(String),
    Closed,
}

/// One slot of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) seat: usize,
    pub(super) generation: u64,
    pub(super) slot: usize,
}

/// What the supervisor has to know of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    pub(super) weight: u64,
    /// How long the run may head its worker's pipe.
    pub(super) limit: Duration,
    /// Until when to wait for a worker.
    pub(super) patience: Instant,
}

/// Why a worker did not become ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StartFailure {
    /// It said so.
    Refused(Bytes),
    /// It took too long.
    Slow(Duration),
    /// It ended.
    Died(String),
    /// It could not be started.
    Spawn(String),
}

#[derive(Debug)]
struct Call {
    terms: Terms,
    stage: Stage,
    way: Way,
}

/// How a call is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// By one reply. The runs of a worker are done one after another.
    Once,
    /// By any number of replies.
    Stream(Flow),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Without a worker. Next: Assigned.
    Queued,
    /// Has a slot, but was not sent. Next: Sent, or Queued when the worker is lost.
    Assigned(Place),
    /// In the worker's pipe. Next: answered, or Queued when the worker is lost before this began.
    Sent(Place),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Next: Failed, Closing.
    Open,
    /// Starts fail; one worker goes on trying. Next: Open, Closing.
    Failed,
    /// No new calls; everybody is killed at that time.
    Closing { kill_at: Instant },
}

/// What callers report and ask.
impl Supervisor {
    /// `seed` decides the jitter of the back-off.
    pub(super) fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let spare = settings.recycle_after.is_some() || settings.memory_mark.is_some();
        let seats = settings.workers + usize::from(spare);
        Self {
            phase: Phase::Open,
            seats: (0..seats).map(|_| Seat::new(&settings, now)).collect(),
            streams_max: settings.streams,
            calls: HashMap::new(),
            queue: VecDeque::new(),
            backoff: Backoff::new(settings.restart, seed),
            failures: Failures::new(settings.restart, settings.start_limit),
            last_failure: None,
            started: false,
            verdicts: Vec::new(),
            nudges: Vec::new(),
            settings,
        }
    }

    /// A call came. Its first verdict may be there at once.
    pub(super) fn called(&mut self, id: CallId, terms: Terms) {
        self.enqueue(id, terms, Way::Once);
    }

    /// A stream is to begin. Its first verdict may be there at once.
    pub(super) fn opened(&mut self, id: CallId, terms: Terms) {
        self.enqueue(id, terms, Way::Stream(Flow::NEW));
    }

    /// The run is about to be sent there, behind those that were sent before. False: it has lost that place, and another verdict is due.
    pub(super) fn sent(&mut self, id: CallId, place: Place, now: Instant) -> bool {
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
    pub(super) fn unsent(&mut self, id: CallId, place: Place) {
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
    pub(super) fn withdraw(&mut self, id: CallId, place: Place, why: String, now: Instant) {
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
    pub(super) fn look(&mut self, id: CallId, now: Instant) -> Option<Instant> {
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
    pub(super) fn released(&mut self, place: Place, now: Instant) {
        let seat = &mut self.seats[place.seat];
        if seat.generation != place.generation || !seat.is_answering() {
            return;
        }
        seat.slots[place.slot] = None;
        self.dispatch();
        self.settle(place.seat, now);
    }

    /// No new calls, and everybody leaves.
    pub(super) fn close(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Closing { .. }) {
            return;
        }
        let kill_at = now + self.settings.close_limit;
        self.phase = Phase::Closing { kill_at };
        self.dispatch();
        for index in 0..self.seats.len() {
            self.dismiss(index, now);
            self.nudges.push(index);
        }
    }

    pub(super) fn health(&self) -> Health {
        match &self.phase {
            Phase::Closing { .. } => Health::Closed,
            Phase::Failed => Health::Failed(self.failure_text()),
            Phase::Open if self.seats.iter().any(Seat::is_ready) => Health::Ready,
            Phase::Open => Health::Starting,
        }
    }

    /// How the first start went, once that is clear. What the program itself says, or that it takes too long, is clear at once; a death
    /// only when it repeats itself.
    pub(super) fn first_start(&self) -> Option<Result<(), StartFailure>> {
        match &self.last_failure {
            _ if self.started => Some(Ok(())),
            Some(StartFailure::Died(_)) if self.phase == Phase::Open => None,
            Some(failure) => Some(Err(failure.clone())),
            None => None,
        }
    }

    /// It is clear that the pool will not start: nothing more is tried, and it is to be closed.
    pub(super) fn is_stillborn(&self) -> bool {
        matches!(self.first_start(), Some(Err(_)))
    }

    /// How many places there are: one more than workers, where they are replaced before they leave.
    pub(super) fn places(&self) -> usize {
        self.seats.len()
    }

    /// State, restarts and weight served of a worker.
    pub(super) fn status(&self, index: usize) -> (WorkerState, u64, u64) {
        let seat = &self.seats[index];
        (seat.status(), seat.restarts, seat.served)
    }

    pub(super) fn take_verdicts(&mut self) -> Drain<'_, (CallId, Verdict)> {
        self.verdicts.drain(..)
    }

    pub(super) fn take_nudges(&mut self) -> Drain<'_, usize> {
        self.nudges.drain(..)
    }
}

/// What the keepers of the workers report and ask.
impl Supervisor {
    /// What to do for a worker now. Answers [`Advice::Spawn`], [`Advice::Close`] and [`Advice::Kill`] once each.
    pub(super) fn advice(&mut self, index: usize, now: Instant) -> Advice {
        self.expire(index, now);
        let may_start = self.may_start(index);
        let limit = self.run_limit(index);
        let seat = &mut self.seats[index];
        match &mut seat.state {
            State::Resting if may_start => self.spawn(index, now),
            State::Resting => Advice::Wait(None),
            State::Backoff { until } if *until <= now => self.spawn(index, now),
            State::Backoff { until } | State::Starting { until } => Advice::Wait(Some(*until)),
            State::Ready | State::Draining { .. }
                if seat.flows.look_at().is_some_and(|at| at <= now) =>
            {
                Advice::Look
            }
            State::Ready => Advice::Wait(limit.into_iter().chain(seat.flows.look_at()).min()),
            State::Draining { until } => {
                let look_at = seat.flows.look_at();
                Advice::Wait(limit.into_iter().chain(*until).chain(look_at).min())
            }
            State::Leaving {
                told: told @ false, ..
            } => {
                *told = true;
                Advice::Close
            }
            State::Leaving { until, .. } => Advice::Wait(Some(*until)),
            State::Dying {
                killed: killed @ false,
                why,
            } => {
                *killed = true;
                Advice::Kill(*why)
            }
            State::Dying { .. } => Advice::Wait(None),
            State::Gone => Advice::Stop,
        }
    }

    /// The process that is starting in this place.
    pub(super) fn generation(&self, index: usize) -> u64 {
        self.seats[index].generation
    }

    /// The process said that it is ready.
    ///
    /// # Errors
    /// It had said so before.
    pub(super) fn ready(&mut self, index: usize, now: Instant) -> Result<(), String> {
        let seat = &mut self.seats[index];
        match seat.state {
            State::Starting { .. } => {}
            State::Dying { .. } => return Ok(()),
            _ => return Err("it said a second time that it is ready".to_owned()),
        }
        seat.state = State::Ready;
        seat.ready_at = Some(now);
        self.started = true;
        self.failures.forget();
        if self.phase == Phase::Failed {
            self.phase = Phase::Open;
        }
        self.nudge_resting();
        self.relieve(now);
        self.dispatch();
        Ok(())
    }

    /// The process said that it cannot serve, or its greeting is not the one expected.
    ///
    /// # Errors
    /// It had said that it is ready.
    pub(super) fn refused(&mut self, index: usize, why: Bytes, now: Instant) -> Result<(), String> {
        match self.seats[index].state {
            State::Starting { .. } => {}
            State::Dying { .. } => return Ok(()),
            _ => {
                return Err(
                    "it said that it cannot serve after it had said that it is ready".to_owned(),
                );
            }
        }
        self.start_failed(index, StartFailure::Refused(why), now);
        self.seats[index].state = State::dying(None);
        Ok(())
    }

    /// A reply came. `kept` says that the caller has yet to read it from the worker's region, and will report
    /// [`Supervisor::released`]. Answers how long the run took, or `None` if nobody waits for it: the worker is being killed.
    ///
    /// # Errors
    /// It is not the reply to the run at the head of the pipe.
    pub(super) fn done(
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

    /// The process does not keep to the protocol.
    pub(super) fn garbage(&mut self, index: usize, what: &str, now: Instant) {
        if self.seats[index].is_starting() {
            let how = format!("did not keep to the protocol: {what}");
            self.start_failed(index, StartFailure::Died(how), now);
        }
        if !matches!(self.seats[index].state, State::Dying { .. }) {
            self.condemn(index, &Verdict::Garbage(what.to_owned()));
        }
    }

    /// How much memory the process holds.
    pub(super) fn weighed(&mut self, index: usize, rss: u64) {
        self.seats[index].rss = Some(rss);
        self.consider_recycling();
    }

    /// The process is gone, and was reaped; everything that it sent before was reported. Also told when it could not be started.
    /// `unread` says that it had not read all that it was sent: if that was a single run, it has not begun.
    pub(super) fn exited(&mut self, index: usize, how: StartFailure, unread: bool, now: Instant) {
        let (was, text) = (self.seats[index].state, how.to_string());
        if matches!(was, State::Starting { .. }) {
            self.start_failed(index, how, now);
        }
        let seat = &mut self.seats[index];
        if unread && seat.pipe.len() == 1 {
            seat.pipe.clear();
        }
        self.condemn(index, &Verdict::Crashed(text));
        self.vacate(index, matches!(was, State::Leaving { .. }), now);
        self.nudge_resting();
    }
}

/// Calls.
impl Supervisor {
    fn enqueue(&mut self, id: CallId, terms: Terms, way: Way) {
        let stage = Stage::Queued;
        self.calls.insert(id, Call { terms, stage, way });
        self.queue.push_back(id);
        self.dispatch();
    }

    /// Gives waiting calls to workers that are free, or turns them away if there will be none.
    fn dispatch(&mut self) {
        while let Some(&id) = self.queue.front() {
            let verdict = match &self.phase {
                Phase::Closing { .. } => Verdict::Closed,
                Phase::Failed => Verdict::Unavailable(self.failure_text()),
                Phase::Open => match self.assign(id) {
                    Some(place) => Verdict::Assigned(place),
                    None => return,
                },
            };
            self.queue.pop_front();
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

    fn give_up(&mut self, id: CallId) {
        self.queue.retain(|&other| other != id);
        self.answer(
            id,
            Verdict::Unavailable("no worker was free in time".to_owned()),
        );
    }

    fn answer(&mut self, id: CallId, verdict: Verdict) {
        if self.calls.remove(&id).is_some() {
            self.verdicts.push((id, verdict));
        }
    }

    /// The worker will answer nothing more: what it was running gets the verdict, and what had not begun goes to others, first in line.
    fn condemn(&mut self, index: usize, verdict: &Verdict) {
        let seat = &mut self.seats[index];
        seat.state = State::dying(match verdict {
            Verdict::Hung(_) => Some("it worked longer on one thing than it may"),
            Verdict::Garbage(_) => None,
            _ => Some("the pool closes"),
        });
        let mut held: Vec<CallId> = seat.slots.iter_mut().filter_map(Option::take).collect();
        if let Some(head) = seat.pipe.front().copied() {
            held.retain(|&id| id != head);
            self.answer(head, verdict.clone());
        }
        self.seats[index].pipe.clear();
        held.extend(self.end_streams(index, verdict));
        held.retain(|id| self.calls.contains_key(id));
        self.requeue_all(held);
    }

    /// Puts calls back in line, before all that wait, in the order in which they came.
    fn requeue_all(&mut self, mut calls: Vec<CallId>) {
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
            self.queue.push_front(id);
        }
    }

    fn hang(&mut self, index: usize) {
        let head = self.seats[index].pipe.front();
        let Some(limit) = head.and_then(|id| Some(self.calls.get(id)?.terms.limit)) else {
            return;
        };
        self.condemn(index, &Verdict::Hung(limit));
        self.nudges.push(index);
    }

    /// When the run at the head of the worker's pipe has to be done.
    fn run_limit(&self, index: usize) -> Option<Instant> {
        let seat = &self.seats[index];
        let head = self.calls.get(seat.pipe.front()?)?;
        Some(seat.head_since + head.terms.limit)
    }
}

/// Workers.
impl Supervisor {
    /// Ends what has lasted too long.
    fn expire(&mut self, index: usize, now: Instant) {
        if self.run_limit(index).is_some_and(|limit| limit <= now) {
            self.hang(index);
        }
        match self.seats[index].state {
            State::Starting { until } if until <= now => {
                let limit = self.settings.start_limit;
                self.start_failed(index, StartFailure::Slow(limit), now);
                self.seats[index].state = State::dying(Some("it was not ready in time"));
            }
            State::Leaving { until, .. } if until <= now => {
                self.seats[index].state = State::dying(Some("it did not leave in time"));
            }
            State::Draining { until: Some(until) } if until <= now => {
                if self.kill_at().is_some() {
                    self.condemn(index, &Verdict::Closed);
                } else {
                    self.cut(index, now);
                }
            }
            _ => {}
        }
    }

    fn kill_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing { kill_at } => Some(kill_at),
            _ => None,
        }
    }

    /// Whether an empty place is to be filled: there are too few workers, and no other is starting. Until one is ready there is only
    /// one at a time, so that a program that cannot serve fails once and not once per worker.
    fn may_start(&self, index: usize) -> bool {
        let filled = self.seats.iter().filter(|seat| seat.is_filled()).count();
        let first_empty = self
            .seats
            .iter()
            .position(|seat| seat.state == State::Resting);
        let any_ready = self.seats.iter().any(Seat::is_ready);
        let any_starting = self.seats.iter().any(Seat::is_starting);
        let in_turn = first_empty == Some(index) && !any_starting && (any_ready || filled == 0);
        in_turn && filled < self.settings.workers && !self.is_stillborn()
    }

    fn spawn(&mut self, index: usize, now: Instant) -> Advice {
        self.seats[index].start(now, self.settings.start_limit);
        Advice::Spawn
    }

    fn start_failed(&mut self, index: usize, failure: StartFailure, now: Instant) {
        self.last_failure = Some(failure);
        let any_ready = self.seats.iter().any(Seat::is_ready);
        let hopeless = self.failures.add(any_ready, now);
        if hopeless && self.phase == Phase::Open {
            self.phase = Phase::Failed;
            self.rest_others(index);
            self.dispatch();
        }
    }

    /// Lets one worker alone try on behalf of all.
    fn rest_others(&mut self, index: usize) {
        for (other, seat) in self.seats.iter_mut().enumerate() {
            if other != index && matches!(seat.state, State::Backoff { .. }) {
                seat.state = State::Resting;
            }
        }
    }

    /// What follows when a process has left its place.
    fn vacate(&mut self, index: usize, asked: bool, now: Instant) {
        let healthy = self.settings.restart.healthy;
        let closing = matches!(self.phase, Phase::Closing { .. });
        let seat = &mut self.seats[index];
        seat.streak = match seat.was_of_use(healthy, now) {
            true => 1,
            false => seat.streak.saturating_add(1),
        };
        if !asked && !closing {
            seat.restarts += 1;
        }
        let retired = std::mem::take(&mut seat.retiring);
        seat.state = State::Resting;
        let streak = seat.streak;
        let state = match self.phase {
            Phase::Closing { .. } => State::Gone,
            _ if retired || self.is_stillborn() => State::Resting,
            Phase::Open => State::Backoff {
                until: now + self.backoff.after(streak),
            },
            Phase::Failed if self.seats.iter().any(Seat::is_filled) => State::Resting,
            Phase::Failed => State::Backoff {
                until: now + self.backoff.ceiling(),
            },
        };
        self.seats[index].state = state;
    }

    /// A worker that was told to go, or whose pool closes, leaves as soon as it has nothing to do.
    fn settle(&mut self, index: usize, now: Instant) {
        let until = self.kill_at().unwrap_or(now + self.settings.close_limit);
        let seat = &mut self.seats[index];
        if matches!(seat.state, State::Draining { .. }) && seat.in_flight() == 0 {
            seat.state = State::Leaving { until, told: false };
            self.nudges.push(index);
        }
    }

    /// The streams of a worker that is being replaced have gone on for long enough. Its runs end by themselves.
    fn cut(&mut self, index: usize, now: Instant) {
        self.seats[index].state = State::Draining { until: None };
        self.cut_streams(index);
        self.settle(index, now);
    }

    /// The pool closes.
    fn dismiss(&mut self, index: usize, now: Instant) {
        let until = self.kill_at();
        let seat = &mut self.seats[index];
        match seat.state {
            State::Resting | State::Backoff { .. } => seat.state = State::Gone,
            State::Starting { .. } => seat.state = State::dying(Some("the pool closes")),
            State::Ready | State::Draining { .. } => seat.state = State::Draining { until },
            State::Leaving { .. } | State::Dying { .. } | State::Gone => {}
        }
        self.settle(index, now);
    }

    /// Chooses a worker that has served its time, unless another is being replaced. It goes on until its replacement is ready.
    fn consider_recycling(&mut self) {
        let closing = matches!(self.phase, Phase::Closing { .. });
        if closing || self.seats.iter().any(|seat| seat.retiring) {
            return;
        }
        let above = |mark: Option<u64>, value: u64| mark.is_some_and(|mark| value >= mark);
        let due = |seat: &Seat| {
            above(self.settings.recycle_after, seat.served)
                || above(self.settings.memory_mark, seat.rss.unwrap_or(0))
        };
        let found = self
            .seats
            .iter()
            .position(|seat| seat.is_ready() && due(seat));
        if let Some(index) = found {
            self.seats[index].retiring = true;
            self.nudge_resting();
        }
    }

    /// Once there are enough workers without it, the one that is being replaced takes no more runs.
    fn relieve(&mut self, now: Instant) {
        let ready = self
            .seats
            .iter()
            .filter(|seat| seat.is_ready() && !seat.retiring)
            .count();
        let old = self
            .seats
            .iter()
            .position(|seat| seat.is_ready() && seat.retiring);
        if let Some(index) = old.filter(|_| ready >= self.settings.workers) {
            let until = now.checked_add(self.settings.retire_limit);
            self.seats[index].state = State::Draining { until };
            self.nudges.push(index);
            self.settle(index, now);
        }
    }

    fn nudge_resting(&mut self) {
        let resting = |seat: &Seat| seat.state == State::Resting;
        let found = self.seats.iter().position(resting);
        self.nudges.extend(found);
    }

    fn failure_text(&self) -> String {
        match &self.last_failure {
            Some(failure) => format!("no worker can be started: the last one {failure}"),
            None => "no worker can be started".to_owned(),
        }
    }
}

impl std::fmt::Display for StartFailure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(why) => {
                write!(formatter, "cannot serve: {}", String::from_utf8_lossy(why))
            }
            Self::Slow(limit) => write!(formatter, "was not ready within {limit:?}"),
            Self::Died(how) => write!(formatter, "{how}"),
            Self::Spawn(error) => write!(formatter, "could not be started: {error}"),
        }
    }
}
