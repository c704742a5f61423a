//! Supervised worker processes that answer calls over a private channel.
//!
//! A [`Pool`] starts [`Settings::workers`] child processes of one [`Program`], hands each [`Request`] to one of them and gives back its
//! [`Reply`]. A child that dies, hangs or talks nonsense costs the call that it was working on, and nothing else: what had not begun goes
//! to another child without a word, the child's whole process group is killed, and a new child takes its place, at once or after a
//! back-off that never spins. Only behind nonsense nobody can know what has begun: what the child had been sent by then ends with
//! [`CallError::Unavailable`], since what has begun is not run again. One window is left: a child that ends a run just as its limit passes
//! may begin the next before it is killed, and that one goes to another child too.
//!
//! The channel is a Unix socket pair that only the two ends hold. Payloads of more than 32 KiB travel in sealed memory descriptors, so
//! nothing has a name in the file system and nothing is left behind. What a child sends is checked as coming from an enemy.
//!
//! A request can be answered by a stream too, by any number of replies one after another ([`Pool::open`]): a child works on many of them at a
//! time, and is only as far ahead of each reader as that has room for. A child that dies costs the stream that it was at work on; those that
//! it had not begun go to another child, and the others end with [`CallError::Unavailable`].
//!
//! Streams are for tasks. Every other method here blocks: call it from threads.

mod call;
mod channel;
mod child;
mod desk;
mod error;
mod frame;
mod guard;
mod keeper;
mod lines;
mod link;
mod outbox;
mod program;
mod region;
mod replies;
mod supervisor;

pub use error::{CallError, StartError};
pub use program::{Output, Program, RestartPolicy, Settings, Stream};
pub use replies::{Part, Replies, StreamRequest};

use std::fmt;
use std::io;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::rand::{GetRandomFlags, getrandom};

use self::call::Calling;
use self::desk::Desk;
use self::guard::Guard;
use self::keeper::{Keeper, Shared};
use self::supervisor::Supervisor;
use crate::lock::lock;

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
pub struct Pool {
    shared: Arc<Shared>,
    next_call: AtomicU64,
    keepers: Mutex<Vec<JoinHandle<()>>>,
}

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
    pub limit: Duration,
    /// When the last of those who wait leaves. The worker is told, and the call does not wait for a worker for longer. Without one it waits
    /// as long as a start and a run may take.
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
    /// The number under which its output appears.
    pub worker: usize,
    /// The process, while there is one.
    pub pid: Option<u32>,
    /// What it is doing.
    pub state: WorkerState,
    /// How many processes had this place before and died without having been asked to.
    pub restarts: u64,
    /// The weight of the runs that this process has finished.
    pub served: u64,
    /// The resident memory of the process in bytes.
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
    /// dies as often as [`RestartPolicy::failures`] says. Nothing is left behind then.
    pub fn start(
        program: Program,
        settings: Settings,
        output: impl Fn(Output<'_>) + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        settings.check()?;
        let output: Arc<dyn Fn(Output<'_>) + Send + Sync> = Arc::new(output);
        let shared = Shared::new(program, settings, output)?;
        let pool = Self {
            shared: Arc::new(shared),
            next_call: AtomicU64::new(1),
            keepers: Mutex::default(),
        };
        // Returning early drops the pool, which closes it and waits.
        pool.hire()?;
        let started = pool.shared.desk.wait_started();
        started.map_err(|failure| StartError::of(failure, &pool.shared.program))?;
        Ok(pool)
    }

    /// What the first worker said when it was ready. A later worker that says anything else is not taken.
    pub fn greeting(&self) -> Bytes {
        self.shared.greeting.get().cloned().unwrap_or_default()
    }

    /// Hands the request to the ready worker with the fewest runs in flight and waits for its reply.
    ///
    /// If the worker dies or retires before it has begun, the request goes to another one; if it was sent to a worker that then talks
    /// nonsense, it ends with [`CallError::Unavailable`], as it may have begun. Blocks the thread; ends by the
    /// request's deadline when there is no worker, and within its limit once it heads its worker's pipe.
    ///
    /// # Errors
    /// See [`CallError`]. The pool itself does not run a request again that a worker has begun, but for one behind a run that ends just as
    /// its limit passes: whether to call again after [`CallError::Crashed`] is the caller's decision.
    pub fn call(&self, request: &Request<'_>) -> Result<Reply, CallError> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        Calling::begin(&self.shared.desk, id, request, &self.shared.settings)?.finish()
    }

    /// Begins a stream: hands the request to the ready worker with the fewest of them, as soon as one may have one more. Does not wait;
    /// nothing is sent before the stream is polled.
    ///
    /// If the worker dies or retires before it has begun, the request goes to another one. Of the streams of a worker that dies, the one that
    /// it was at work on ends with [`CallError::Crashed`] or [`CallError::Hung`], the others with [`CallError::Unavailable`]; so does all else
    /// that was sent to a worker that talks nonsense.
    ///
    /// # Errors
    /// The request is too long, or [`Settings::streams`] is 0. What happens later the stream says.
    pub fn open(&self, request: StreamRequest) -> Result<Replies, CallError> {
        let id = self.next_call.fetch_add(1, Ordering::Relaxed);
        Replies::open(&self.shared, id, request)
    }

    /// Gives each worker at most so many streams at a time, and never more than [`Settings::streams`]: for programs that say only in their
    /// greeting how many they can bear.
    pub fn narrow(&self, streams: usize) {
        let desk = &self.shared.desk;
        desk.with(None, |inner| inner.supervisor.narrow(streams));
    }

    /// How the pool is.
    pub fn health(&self) -> Health {
        self.shared
            .desk
            .with(None, |inner| inner.supervisor.health())
    }

    /// How each worker is: as many as there should be, and those that are about to leave.
    pub fn workers(&self) -> Vec<WorkerStatus> {
        let desk = &self.shared.desk;
        let mut workers: Vec<_> = (0..desk.seats())
            .map(|worker| self.worker(worker))
            .collect();
        // The place that is kept for a replacement is none of the user's business while it is empty.
        let empty = workers
            .iter()
            .position(|worker| worker.state == WorkerState::Resting);
        if let Some(empty) = empty.filter(|_| workers.len() > self.shared.settings.workers) {
            workers.remove(empty);
        }
        workers
    }

    /// Takes no new calls. Workers finish what they run, are told to go, and are killed with their groups once
    /// [`Settings::close_limit`] has passed. Does not wait; calling it again changes nothing.
    pub fn close(&self) {
        self.shared
            .desk
            .with(None, |inner| inner.supervisor.close(Instant::now()));
    }

    /// Waits until a closed pool has no process and no thread left.
    pub fn wait_closed(&self) {
        let mut keepers = lock(&self.keepers);
        for keeper in keepers.drain(..) {
            let _ = keeper.join();
        }
        if let Some(guard) = &self.shared.guard {
            guard.close();
        }
    }

    /// Starts the keepers.
    fn hire(&self) -> Result<(), StartError> {
        let mut keepers = lock(&self.keepers);
        for index in 0..self.shared.desk.seats() {
            let keeper = Keeper {
                shared: Arc::clone(&self.shared),
                index,
            };
            let thread = std::thread::Builder::new().name(format!("jitney-worker-{index}"));
            let handle = thread.spawn(move || keeper.run());
            keepers
                .push(handle.map_err(|error| StartError::spawn("a thread", &error.to_string()))?);
        }
        Ok(())
    }

    fn worker(&self, worker: usize) -> WorkerStatus {
        let desk = &self.shared.desk;
        let (state, restarts, served) = desk.with(None, |inner| inner.supervisor.status(worker));
        let pid = desk.pid(worker);
        WorkerStatus {
            worker,
            pid,
            state,
            restarts,
            served,
            rss: pid.and_then(child::resident),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.close();
        self.wait_closed();
    }
}

impl Shared {
    fn new(
        program: Program,
        settings: Settings,
        output: Arc<dyn Fn(Output<'_>) + Send + Sync>,
    ) -> Result<Self, StartError> {
        let system = |error: io::Error| {
            StartError::spawn(&program.executable.to_string_lossy(), &error.to_string())
        };
        let random: [u8; 16] = random().map_err(system)?;
        let seed = u64::from_le_bytes(std::array::from_fn(|index| random[index]));
        let token = random
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>();
        let supervisor = Supervisor::new(settings.clone(), seed, Instant::now());
        let desk = Desk::new(supervisor).map_err(system)?;
        let guard = match &program.guard {
            Some(argv) => Some(
                Guard::start(argv, &program, &token, Arc::clone(&output))
                    .map_err(|error| StartError::spawn("the guard", &error.to_string()))?,
            ),
            None => None,
        };
        Ok(Self {
            program,
            settings,
            token,
            desk,
            greeting: OnceLock::new(),
            guard,
            output,
        })
    }
}

impl Settings {
    fn check(&self) -> Result<(), StartError> {
        let wrong = |what: &str| Err(StartError::Settings(what.to_owned()));
        match self {
            Self { workers: 0, .. } => wrong("a pool needs at least one worker"),
            Self { depth: 0, .. } => wrong("a worker needs to be given at least one run at a time"),
            Self { depth, .. } if *depth > DEPTH_MAX => {
                wrong("a worker can be given at most 64 runs at a time")
            }
            Self { streams, .. } if *streams > STREAMS_MAX => {
                wrong("a worker can be given at most 65535 streams at a time")
            }
            Self {
                recycle_after: Some(0),
                ..
            } => wrong("a worker must be allowed to run something before it is replaced"),
            Self { restart, .. } if restart.jitter.is_nan() => {
                wrong("the jitter of restarts must be a number from 0 to 1")
            }
            _ => Ok(()),
        }
    }
}

/// Bytes that nobody can guess.
fn random() -> io::Result<[u8; 16]> {
    let mut bytes = [0; 16];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += getrandom(&mut bytes[filled..], GetRandomFlags::empty())?;
    }
    Ok(bytes)
}

/// Descriptors that a child has sent but whose frames have not come are bounded, and so must the runs be that may bring one.
const DEPTH_MAX: usize = 64;
/// A frame names its slot by two bytes.
const STREAMS_MAX: usize = u16::MAX as usize;

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
