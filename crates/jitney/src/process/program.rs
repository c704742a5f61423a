//! What to run, how many of it, and what it prints.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;

/// What a worker runs. It is started by exec, without a shell, in a process group of its own.
///
/// Its standard input is the private channel, of which it first gets the preamble and then frames; it had better move it away from
/// descriptor 0 before anything else reads there. The environment is exactly `env` and `JITNEY_POOL`, a token by which the pool finds
/// descendants that left the group: nothing is inherited.
#[derive(Debug, Clone)]
pub struct Program {
    /// The file to execute.
    pub executable: PathBuf,
    /// Its arguments, without the name of the program itself.
    pub args: Vec<OsString>,
    /// The whole environment.
    pub env: Vec<(OsString, OsString)>,
    /// Where to run; `None` is where this process runs.
    pub current_dir: Option<PathBuf>,
    /// Raw bytes that go through the channel before the first frame: the program's own source, for one.
    pub preamble: Bytes,
    /// The body of the HELLO frame.
    pub hello: Bytes,
    /// The command of the guard: a program that reads `+GROUP` and `-GROUP` lines from its standard input and, when that ends, kills
    /// every group it knows and every process that has `JITNEY_POOL=TOKEN.…` in its environment, where `TOKEN` is the value of the
    /// guard's own variable `JITNEY_GUARD`. It sees to it that nothing outlives this process, however this process ends.
    pub guard: Option<Vec<OsString>>,
}

/// How many workers, and what they may do. A limit of more than a year is one of a year: [`Duration::MAX`] stands for none.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How many workers answer calls. While one of them is replaced by recycling there is one more.
    pub workers: usize,
    /// How many runs one worker may be given at a time: one that runs, and those that wait in its pipe.
    pub depth: usize,
    /// How many streams one worker may be given at a time: what [`super::Pool::open`] begins. They are counted apart from runs.
    pub streams: usize,
    /// How long a worker may take until it is ready.
    pub start_limit: Duration,
    /// How long workers may take to leave after they were told to, before they are killed.
    pub close_limit: Duration,
    /// How long the streams of a worker that is being replaced may go on once its replacement is ready. Then they end with
    /// [`CallError::Unavailable`](super::CallError::Unavailable), and the worker leaves.
    pub retire_limit: Duration,
    /// The weight of runs after which a worker is replaced; `None` for never.
    pub recycle_after: Option<u64>,
    /// The resident memory in bytes above which a worker is replaced; `None` for never.
    pub memory_mark: Option<u64>,
    /// The most bytes of one payload, either way.
    pub payload_max: u64,
    /// When those who died are started again.
    pub restart: RestartPolicy,
}

/// When a worker that died is started again.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RestartPolicy {
    /// The wait before the second restart in a row; the first is at once, and each further wait is twice as long.
    pub base: Duration,
    /// The longest wait, and the time between two attempts once the pool has failed.
    pub ceiling: Duration,
    /// Waits are longer or shorter by at most this share of them.
    pub jitter: f64,
    /// The pool has failed when this many starts in a row have within [`RestartPolicy::window`], and no worker is ready.
    pub failures: u32,
    /// How close together those starts must have failed. Starts that fail less often, such as those of a worker that loads for long and is
    /// killed now and then, make a pool fail only when it has been without a ready worker for [`Settings::start_limit`], or for this if it
    /// is longer.
    pub window: Duration,
    /// A worker that lived for so long, or that has finished a run, has proved itself: its back-off starts from the beginning.
    pub healthy: Duration,
}

/// What there is to be logged. Its `Display` is one line.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Output<'a> {
    /// A worker printed a line.
    Line {
        /// The number of the worker.
        worker: usize,
        /// Its process.
        pid: u32,
        /// Where it printed.
        stream: Stream,
        /// The line without its end, with what is not UTF-8 replaced.
        text: &'a str,
        /// The line is longer than is passed on: the rest of it is left out.
        cut: bool,
    },
    /// A worker printed more than is passed on.
    Dropped {
        /// The number of the worker.
        worker: usize,
        /// Its process.
        pid: u32,
        /// How many lines were dropped since this was last said.
        lines: u64,
    },
    /// A worker started, stopped, died or was killed.
    Event {
        /// The number of the worker; `None` is the guard.
        worker: Option<usize>,
        /// The process, if there is one.
        pid: Option<u32>,
        /// What happened, in words.
        text: &'a str,
        /// Whether it is as it should be: a start, or an end that was asked for.
        expected: bool,
    },
}

/// Where a worker printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Out,
    /// Standard error.
    Err,
}

impl Program {
    /// A program without arguments, environment, preamble, greeting or guard.
    pub fn new(executable: impl Into<PathBuf>) -> Self {
        Self {
            executable: executable.into(),
            args: Vec::new(),
            env: Vec::new(),
            current_dir: None,
            preamble: Bytes::new(),
            hello: Bytes::new(),
            guard: None,
        }
    }
}

/// One worker, one run at a time and no streams, two minutes to start, half a minute for streams that should have
/// ended, ten seconds to leave, payloads of at most 512 MiB.
impl Default for Settings {
    fn default() -> Self {
        Self {
            workers: 1,
            depth: 1,
            streams: 0,
            start_limit: Duration::from_secs(120),
            close_limit: Duration::from_secs(10),
            retire_limit: Duration::from_secs(30),
            recycle_after: None,
            memory_mark: None,
            payload_max: 512 << 20,
            restart: RestartPolicy::default(),
        }
    }
}

/// At once, then from 0.1 s doubling to 30 s, give or take 20 %; five failed starts in a minute are a failure; a minute is healthy.
impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            base: Duration::from_millis(100),
            ceiling: Duration::from_secs(30),
            jitter: 0.2,
            failures: 5,
            window: Duration::from_secs(60),
            healthy: Duration::from_secs(60),
        }
    }
}

impl fmt::Display for Output<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Line {
                worker,
                pid,
                stream,
                text,
                cut,
            } => {
                let more = if *cut { " […]" } else { "" };
                write!(formatter, "worker {worker} ({pid}) {stream}: {text}{more}")
            }
            Self::Dropped { worker, pid, lines } => {
                write!(
                    formatter,
                    "worker {worker} ({pid}) printed too much: {lines} lines dropped"
                )
            }
            Self::Event {
                worker, pid, text, ..
            } => {
                match worker {
                    Some(worker) => write!(formatter, "worker {worker}")?,
                    None => write!(formatter, "guard")?,
                }
                match pid {
                    Some(pid) => write!(formatter, " ({pid}) {text}"),
                    None => write!(formatter, " {text}"),
                }
            }
        }
    }
}

impl fmt::Display for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Out => "stdout",
            Self::Err => "stderr",
        })
    }
}
