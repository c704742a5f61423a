//! Processes: started where they are needed, buried when they end, and started again.

use std::time::Instant;

use bytes::Bytes;

use super::{Advice, Phase, Seat, StartFailure, State, Supervisor, Verdict};

/// What the keepers of the workers report and ask.
impl Supervisor {
    /// What to do for a worker now. Answers [`Advice::Spawn`], [`Advice::Close`] and [`Advice::Kill`] once each.
    pub(in crate::process) fn advice(&mut self, index: usize, now: Instant) -> Advice {
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
    pub(in crate::process) fn generation(&self, index: usize) -> u64 {
        self.seats[index].generation
    }

    /// The process said that it is ready.
    ///
    /// # Errors
    /// It had said so before.
    pub(in crate::process) fn ready(&mut self, index: usize, now: Instant) -> Result<(), String> {
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
    pub(in crate::process) fn refused(
        &mut self,
        index: usize,
        why: Bytes,
        now: Instant,
    ) -> Result<(), String> {
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

    /// The process does not keep to the protocol.
    pub(in crate::process) fn garbage(&mut self, index: usize, what: &str, now: Instant) {
        if self.seats[index].is_starting() {
            let how = format!("did not keep to the protocol: {what}");
            self.start_failed(index, StartFailure::Died(how), now);
        }
        if !matches!(self.seats[index].state, State::Dying { .. }) {
            self.condemn(index, &Verdict::Garbage(what.to_owned()));
        }
    }

    /// The process is gone, and was reaped; everything that it sent before was reported. Also told when it could not be started.
    /// `unread` says that it had not read all that it was sent: if that was a single run, it has not begun.
    pub(in crate::process) fn exited(
        &mut self,
        index: usize,
        how: StartFailure,
        unread: bool,
        now: Instant,
    ) {
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

/// What follows from it.
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
}
