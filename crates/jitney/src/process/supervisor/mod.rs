//! The decisions of a pool, without a clock and without a process: it is told what happened and when, and answers what to do.
//!
//! Each worker has a thread, its keeper, which reports facts about its process and asks for [`Supervisor::advice`]. What concerns calls
//! comes out as [`Verdict`]s, which the driver takes with [`Supervisor::take_verdicts`] after every fact. Where a fact about one worker
//! changes what another's keeper has to do, that keeper is among [`Supervisor::take_nudges`].
//!
//! What is decided of whom has a room of its own: `calls` and, of those, `streams`; `lives` of processes from their start to their burial,
//! with `backoff` and `failures`; and `leaving`, for workers that end without having died.

mod backoff;
mod calls;
mod failures;
mod flows;
mod leaving;
mod lives;
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
use self::calls::Call;
use self::failures::Failures;
pub(super) use self::flows::Marks;
use self::seat::{Seat, State};
pub(super) use self::streams::{CREDIT, cost};
use super::{Health, RestartPolicy, Settings, WorkerState};

/// The number of a call, and of its run.
pub(super) type CallId = u64;

/// The state of the pool.
#[derive(Debug)]
pub(super) struct Supervisor {
    settings: Settings,
    phase: Phase,
    seats: Vec<Seat>,
    calls: HashMap<CallId, Call>,
    /// The calls that have no worker, in order; runs and streams apart.
    queues: [VecDeque<CallId>; 2],
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
    /// How long the run may head its worker's pipe; [`bounded`].
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

#[derive(Debug, Clone, PartialEq, Eq)]
enum Phase {
    /// Next: Failed, Closing.
    Open,
    /// Starts fail; one worker goes on trying. Next: Open, Closing.
    Failed,
    /// No new calls; everybody is killed at that time.
    Closing { kill_at: Instant },
}

/// The pool as a whole.
impl Supervisor {
    /// `seed` decides the jitter of the back-off.
    pub(super) fn new(settings: Settings, seed: u64, now: Instant) -> Self {
        let settings = settings.bounded();
        let spare = settings.recycle_after.is_some() || settings.memory_mark.is_some();
        let seats = settings.workers + usize::from(spare);
        Self {
            phase: Phase::Open,
            seats: (0..seats).map(|_| Seat::new(&settings, now)).collect(),
            streams_max: settings.streams,
            calls: HashMap::new(),
            queues: Default::default(),
            backoff: Backoff::new(settings.restart, seed),
            failures: Failures::new(settings.restart, settings.start_limit),
            last_failure: None,
            started: false,
            verdicts: Vec::new(),
            nudges: Vec::new(),
            settings,
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

impl Settings {
    /// With limits that can be added to any time.
    fn bounded(self) -> Self {
        let restart = RestartPolicy {
            ceiling: bounded(self.restart.ceiling),
            healthy: bounded(self.restart.healthy),
            ..self.restart
        };
        Self {
            start_limit: bounded(self.start_limit),
            close_limit: bounded(self.close_limit),
            retire_limit: bounded(self.retire_limit),
            restart,
            ..self
        }
    }
}

/// The limit, or a year if that is shorter: a limit without end is given as the longest duration, which cannot be added to any time.
pub(super) fn bounded(limit: Duration) -> Duration {
    limit.min(Duration::from_secs(365 * 24 * 3600))
}

/// What more than one of the rooms needs.
impl Supervisor {
    fn kill_at(&self) -> Option<Instant> {
        match self.phase {
            Phase::Closing { kill_at } => Some(kill_at),
            _ => None,
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
