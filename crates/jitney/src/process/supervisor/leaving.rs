//! Workers that leave in peace: the pool closes, or they have served their time and others take their places.

use std::time::Instant;

use super::{Phase, Seat, State, Supervisor};

/// What the driver reports.
impl Supervisor {
    /// No new calls, and everybody leaves.
    pub(in crate::process) fn close(&mut self, now: Instant) {
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

    /// How much memory the process holds.
    pub(in crate::process) fn weighed(&mut self, index: usize, rss: u64) {
        self.seats[index].rss = Some(rss);
        self.consider_recycling();
    }
}

/// What follows from it.
impl Supervisor {
    /// The pool closes.
    pub(super) fn dismiss(&mut self, index: usize, now: Instant) {
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
    pub(super) fn consider_recycling(&mut self) {
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
    pub(super) fn relieve(&mut self, now: Instant) {
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
            let until = Some(now + self.settings.retire_limit);
            self.seats[index].state = State::Draining { until };
            self.nudges.push(index);
            self.settle(index, now);
        }
    }

    /// The streams of a worker that is being replaced have gone on for long enough. Its runs end by themselves.
    pub(super) fn cut(&mut self, index: usize, now: Instant) {
        self.seats[index].state = State::Draining { until: None };
        self.cut_streams(index);
        self.settle(index, now);
    }

    /// A worker that was told to go, or whose pool closes, leaves as soon as it has nothing to do.
    pub(super) fn settle(&mut self, index: usize, now: Instant) {
        let until = self.kill_at().unwrap_or(now + self.settings.close_limit);
        let seat = &mut self.seats[index];
        if matches!(seat.state, State::Draining { .. }) && seat.in_flight() == 0 {
            seat.state = State::Leaving { until, told: false };
            self.nudges.push(index);
        }
    }
}
