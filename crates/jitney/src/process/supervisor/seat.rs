//! The place of one worker: one process after another sits in it.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::CallId;
use super::flows::Flows;
use crate::process::{Settings, WorkerState};

/// What is known of one place.
#[derive(Debug)]
pub(super) struct Seat {
    pub(super) state: State,
    /// The number of the process that sits here, counted from one; facts about an earlier one are stale.
    pub(super) generation: u64,
    /// Lives in a row that came to nothing.
    pub(super) streak: u32,
    /// Deaths that nobody asked for.
    pub(super) restarts: u64,
    /// Weight of the runs that this process has finished.
    pub(super) served: u64,
    pub(super) rss: Option<u64>,
    /// This process is to be replaced: it leaves when its replacement is ready.
    pub(super) retiring: bool,
    /// Which call holds each slot, until its reply was read.
    pub(super) slots: Vec<Option<CallId>>,
    /// The runs that were sent, in order; the first of them is running.
    pub(super) pipe: VecDeque<CallId>,
    /// Since when the first run of the pipe is first.
    pub(super) head_since: Instant,
    pub(super) flows: Flows,
    /// This process has finished a run, or given a reply of a stream.
    pub(super) proved: bool,
    /// When this process said that it is ready.
    pub(super) ready_at: Option<Instant>,
}

/// What happens in a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Empty, and not needed yet. Next: Starting, Gone.
    Resting,
    /// Empty; a process is started at that time. Next: Starting, Resting, Gone.
    Backoff { until: Instant },
    /// There is a process that has until then to become ready. Next: Ready, Dying, Backoff.
    Starting { until: Instant },
    /// Takes runs. Next: Draining, Dying, Backoff, Resting.
    Ready,
    /// Takes no more runs, and finishes those it has; its streams have until then. Next: Leaving, Dying, and what follows an exit.
    Draining { until: Option<Instant> },
    /// Has nothing left to do and until then to leave. Next: Dying, and what follows an exit.
    Leaving { until: Instant, told: bool },
    /// To be killed, or killed already. Next: what follows an exit (Backoff, Resting, Gone).
    Dying {
        killed: bool,
        why: Option<&'static str>,
    },
    /// The pool is closed and this place empty for ever.
    Gone,
}

impl State {
    pub(super) fn dying(why: Option<&'static str>) -> State {
        State::Dying { killed: false, why }
    }
}

impl Seat {
    pub(super) fn new(settings: &Settings, now: Instant) -> Self {
        let depth = settings.depth;
        Self {
            state: State::Resting,
            generation: 0,
            streak: 0,
            restarts: 0,
            served: 0,
            rss: None,
            retiring: false,
            slots: vec![None; depth],
            pipe: VecDeque::with_capacity(depth),
            head_since: now,
            flows: Flows::new(settings.streams, now),
            proved: false,
            ready_at: None,
        }
    }

    /// A new process sits down.
    pub(super) fn start(&mut self, now: Instant, limit: Duration) {
        self.state = State::Starting { until: now + limit };
        self.generation += 1;
        self.served = 0;
        self.rss = None;
        self.proved = false;
        self.ready_at = None;
        self.slots.fill(None);
        self.pipe.clear();
        self.flows.clear(now);
    }

    pub(super) fn free_slot(&self) -> Option<usize> {
        self.slots.iter().position(Option::is_none)
    }

    pub(super) fn in_flight(&self) -> usize {
        self.slots.iter().flatten().count() + self.flows.count()
    }

    pub(super) fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Whether what sits here answers what it was given.
    pub(super) fn is_answering(&self) -> bool {
        matches!(self.state, State::Ready | State::Draining { .. })
    }

    /// Whether this place counts as one of the workers that the pool should have.
    pub(super) fn is_filled(&self) -> bool {
        !self.retiring && !matches!(self.state, State::Resting | State::Gone)
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.state, State::Starting { .. })
    }

    /// Whether this process finished a run, or lived so long.
    pub(super) fn was_of_use(&self, healthy: Duration, now: Instant) -> bool {
        self.proved || self.ready_at.is_some_and(|at| at + healthy <= now)
    }

    /// What the user of the pool is told.
    pub(super) fn status(&self) -> WorkerState {
        match self.state {
            State::Resting | State::Gone => WorkerState::Resting,
            State::Backoff { .. } => WorkerState::Backoff,
            State::Starting { .. } => WorkerState::Starting,
            State::Ready if self.pipe.is_empty() && self.flows.count() == 0 => WorkerState::Idle,
            State::Ready => WorkerState::Busy,
            State::Draining { .. } => WorkerState::Draining,
            State::Leaving { .. } | State::Dying { .. } => WorkerState::Stopping,
        }
    }
}
