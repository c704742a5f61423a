//! Code that blocks or computes, on threads of its own and away from those that poll tasks.
//!
//! | work | verb | threads |
//! |---|---|---|
//! | waits for a disk, a lock, a library without async | [`Offload::blocking`] | several; they mostly sleep |
//! | computes for more than about a millisecond | [`Offload::cpu`] | as many as cores |
//! | computes in parallel over data it borrows | [`Offload::scoped`] | one as above, and those it starts itself |
//!
//! ```
//! use jitney::offload::Offload;
//! use jitney::{Cancel, GroupError, Scope};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> std::io::Result<()> {
//! let offload = Offload::start("files", Default::default())?;
//! let sum = offload.cpu(|| (1..=1_000_u64).sum::<u64>()).await;
//! assert_eq!(sum.unwrap(), 500_500);
//! offload.close(std::time::Duration::from_secs(5)).await.unwrap();
//! # Ok(())
//! # }
//! ```
//!
//! **The work belongs to the task that wants it.** A scope stays open until the work its tasks have begun here is done, even if
//! the task itself has been dropped: code on a thread can be asked to stop, and not be made to. Inside the work
//! [`Cancel::current`](crate::Cancel::current) is the flag to look at now and then; it is set when the future is dropped or the
//! scope cancelled, and it knows the deadline. Work that has not begun by then never runs.
//!
//! **Queues are bounded.** When all threads are taken and the queue is full, the closure comes back as
//! [`OffloadError::Full`].

mod crew;

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::Arc;
use std::thread;

use tokio::sync::oneshot;

use crate::cancel::Cause;
use crate::clock::Clock;
use crate::deadline::Deadline;
use crate::group::Errand;
use crate::limiter::{Holder, write_holders};
use crate::tree::{Node, Tree, bounded};

pub use crew::Stats;
use crew::{Crew, Refusal};

/// How many threads and how much work may wait for them.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Threads of [`Offload::blocking`]; 16 by default.
    pub blocking_threads: NonZeroUsize,
    /// Most closures that wait for one of them; 256 by default.
    pub blocking_queue: usize,
    /// Threads of [`Offload::cpu`] and [`Offload::scoped`]; by default as many as the machine has cores for this process.
    pub cpu_threads: NonZeroUsize,
    /// Most closures that wait for one of them; 256 by default.
    pub cpu_queue: usize,
    /// What the time in the queue is measured with; the system's clock by default.
    pub clock: Clock,
}

impl Default for Settings {
    fn default() -> Self {
        const BLOCKING: NonZeroUsize = NonZeroUsize::MIN.saturating_add(15);
        Settings {
            blocking_threads: BLOCKING,
            blocking_queue: 256,
            cpu_threads: thread::available_parallelism().unwrap_or(NonZeroUsize::MIN),
            cpu_queue: 256,
            clock: Clock::system(),
        }
    }
}

/// Threads for work that must not run where tasks are polled. Clones are the same threads.
///
/// It is a node of the tree; work is a node below the task that wants it, and says whether it waits or which thread runs it.
/// When the last clone is dropped the threads end as soon as they have nothing to do; [`close`](Offload::close) waits for that.
#[derive(Clone)]
pub struct Offload {
    node: Node,
    blocking: Arc<Crew>,
    cpu: Arc<Crew>,
}

impl Offload {
    /// Starts all threads, in the tree under the running task, or in a tree of its own.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    #[track_caller]
    pub fn start(name: impl AsRef<str>, settings: Settings) -> io::Result<Offload> {
        let (name, site) = (bounded(name.as_ref()), Location::caller());
        let node = match Node::current() {
            Some(node) => node.child_at(name, site),
            None => Tree::at(name, site).root(),
        };
        Offload::at(node, settings)
    }

    /// Starts all threads, in the tree under this node.
    ///
    /// # Errors
    /// If the system refuses to start a thread.
    #[track_caller]
    pub fn under(node: &Node, name: impl AsRef<str>, settings: Settings) -> io::Result<Offload> {
        Offload::at(node.child(name), settings)
    }

    /// Runs code that blocks its thread.
    ///
    /// # Errors
    /// The closure, if there is no place for it; what happened, if it did not return.
    ///
    /// # Cancel safety
    /// Dropping the future asks the work to stop, or takes it out of the queue if it has not begun. Its value is then lost.
    #[track_caller]
    pub fn blocking<T, F>(&self, work: F) -> impl Future<Output = Result<T, OffloadError<F>>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        run_on(&self.blocking, Location::caller(), work, |work| work())
    }

    /// Runs code that computes.
    ///
    /// # Errors
    /// As [`blocking`](Offload::blocking).
    ///
    /// # Cancel safety
    /// As [`blocking`](Offload::blocking).
    #[track_caller]
    pub fn cpu<T, F>(&self, work: F) -> impl Future<Output = Result<T, OffloadError<F>>> + Send
    where
        F: FnOnce() -> T + Send + 'static,
        T: Send + 'static,
    {
        run_on(&self.cpu, Location::caller(), work, |work| work())
    }

    /// Runs code that computes, and may start threads of its own that borrow `data`: they have ended when it returns.
    ///
    /// The threads are those of [`std::thread::scope`], so nothing bounds them but the code itself. They have no
    /// [`Cancel::current`](crate::Cancel::current); give them a reference to that of the code that starts them.
    ///
    /// ```
    /// # use jitney::offload::Offload;
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> std::io::Result<()> {
    /// let offload = Offload::start("sums", Default::default())?;
    /// let numbers: Vec<u64> = (1..=1000).collect();
    /// let sum = offload.scoped(numbers, |numbers, threads| {
    ///     let (left, right) = numbers.split_at(500);
    ///     let left = threads.spawn(|| left.iter().sum::<u64>());
    ///     right.iter().sum::<u64>() + left.join().unwrap()
    /// });
    /// assert_eq!(sum.await.unwrap(), 500_500);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`blocking`](Offload::blocking), with the data beside the closure. A panic of a thread that was not joined counts as
    /// a panic of the closure.
    ///
    /// # Cancel safety
    /// As [`blocking`](Offload::blocking).
    #[track_caller]
    pub fn scoped<D, T, F>(
        &self,
        data: D,
        work: F,
    ) -> impl Future<Output = Result<T, OffloadError<(D, F)>>> + Send
    where
        D: Send + 'static,
        T: Send + 'static,
        F: for<'scope, 'env> FnOnce(&'env mut D, &'scope thread::Scope<'scope, 'env>) -> T
            + Send
            + 'static,
    {
        let run = |(mut data, work): (D, F)| thread::scope(|threads| work(&mut data, threads));
        run_on(&self.cpu, Location::caller(), (data, work), run)
    }

    /// Takes no more work, waits until what is queued or running is done, and ends the threads.
    ///
    /// At the deadline what has not begun is dropped, and what runs is asked to stop; its threads end when it does.
    ///
    /// # Errors
    /// [`StillRunning`], which names what had not ended at the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future leaves it closed, and everything accepted is still done.
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with a timer.
    pub async fn close(&self, limit: impl Into<Deadline>) -> Result<(), StillRunning> {
        let limit = limit.into();
        self.blocking.close();
        self.cpu.close();
        let ended = async {
            self.blocking.ended().await;
            self.cpu.ended().await;
        };
        if tokio::time::timeout_at(limit.into(), ended).await.is_ok() {
            return Ok(());
        }
        let mut work = self.blocking.abandon();
        work.extend(self.cpu.abandon());
        Err(StillRunning { work })
    }

    /// What the threads of [`blocking`](Offload::blocking) do and have done.
    pub fn blocking_stats(&self) -> Stats {
        self.blocking.stats()
    }

    /// What the threads of [`cpu`](Offload::cpu) and [`scoped`](Offload::scoped) do and have done.
    pub fn cpu_stats(&self) -> Stats {
        self.cpu.stats()
    }

    /// Its place in the tree.
    pub fn node(&self) -> &Node {
        &self.node
    }

    fn at(node: Node, settings: Settings) -> io::Result<Offload> {
        let Settings {
            blocking_threads,
            blocking_queue,
            cpu_threads,
            cpu_queue,
            clock,
        } = settings;
        let crew = |kind, threads, queue| Crew::start(&node, kind, threads, queue, clock.clone());
        Ok(Offload {
            blocking: Arc::new(crew("blocking", blocking_threads, blocking_queue)?),
            cpu: Arc::new(crew("cpu", cpu_threads, cpu_queue)?),
            node,
        })
    }
}

impl fmt::Debug for Offload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offload")
            .field("blocking", &self.blocking.stats())
            .field("cpu", &self.cpu.stats())
            .finish_non_exhaustive()
    }
}

/// Why a closure gave no value. `W` is the closure.
#[derive(thiserror::Error)]
pub enum OffloadError<W> {
    /// All threads are taken and the queue is full. The closure did not run.
    #[error(
        "all threads are taken and the queue is full: try again later, or limit how much is offered"
    )]
    Full(W),
    /// It is closed. The closure did not run.
    #[error("it is closed and takes no more work")]
    Closed(W),
    /// The closure panicked.
    #[error("the work panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The closure never ran, because what wanted it was cancelled first, or closing did not wait for it.
    #[error("the work never began: {0}")]
    Cancelled(Cause),
}

impl<W> OffloadError<W> {
    /// The error without the closure, so that functions can name its type.
    pub fn without_work(self) -> OffloadError<()> {
        match self {
            OffloadError::Full(_) => OffloadError::Full(()),
            OffloadError::Closed(_) => OffloadError::Closed(()),
            OffloadError::Panicked { message } => OffloadError::Panicked { message },
            OffloadError::Cancelled(cause) => OffloadError::Cancelled(cause),
        }
    }
}

impl<W> fmt::Debug for OffloadError<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OffloadError::Full(_) => f.write_str("Full(..)"),
            OffloadError::Closed(_) => f.write_str("Closed(..)"),
            OffloadError::Panicked { message } => write!(f, "Panicked({message:?})"),
            OffloadError::Cancelled(cause) => write!(f, "Cancelled({cause:?})"),
        }
    }
}

/// Work that had not ended when closing had to. It was asked to stop.
#[derive(Clone, Debug)]
pub struct StillRunning {
    /// Each piece: the task it is for, where it was offloaded, and for how long it has been here.
    pub work: Vec<Holder>,
}

impl fmt::Display for StillRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("work is still running on offload threads: ")?;
        write_holders(f, &self.work)
    }
}

impl std::error::Error for StillRunning {}

/// Runs `run` with the work on a thread of the crew, and waits for its value.
async fn run_on<T, W, R>(
    crew: &Crew,
    site: &'static Location<'static>,
    work: W,
    run: R,
) -> Result<T, OffloadError<W>>
where
    W: Send + 'static,
    R: FnOnce(W) -> T + Send + 'static,
    T: Send + 'static,
{
    let place = match crew.reserve() {
        Ok(place) => place,
        Err(Refusal::Full) => return Err(OffloadError::Full(work)),
        Err(Refusal::Closed) => return Err(OffloadError::Closed(work)),
    };
    let errand = Errand::new(crew.node_of_work(site));
    let (sender, mut value) = oneshot::channel();
    let ticket = place.fill(errand, move || run(work), sender);
    let outcome = tokio::select! {
        biased;
        outcome = &mut value => outcome,
        cause = ticket.cancel().cancelled() => match ticket.withdraw() {
            true => return Err(OffloadError::Cancelled(cause)),
            false => value.await,
        },
    };
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(message)) => Err(OffloadError::Panicked { message }),
        Err(_) => Err(OffloadError::Cancelled(
            ticket.cancel().cause().unwrap_or(Cause::Shutdown),
        )),
    }
}
