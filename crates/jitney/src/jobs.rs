//! A queue of jobs, workers that do them, and a place for those that cannot be done.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{Location, resume_unwind};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;

use crate::background::{Background, Drained, Place, Refused};
use crate::cancel::{Cancel, Cause, Deadline};
use crate::group::{Failure, FailureKind, Group};
use crate::lock::lock;
use crate::outcome::{Outcome, Reported};
use crate::retry::{GaveUp, Retry};

/// Jobs that are done in the background: a bounded queue, so many workers, retries with jitter and a budget, and a hook for the jobs
/// that are dead: each job that was taken is either done, or told to that hook with what went wrong. Clones are the same queue.
///
/// **Nothing survives the process.** What is in the queue when it is killed is lost without a word, as is what a crash interrupts; a
/// job that must not get lost belongs into a queue on disk or in a database, and only its execution here.
///
/// Jobs start in the order in which they were submitted. A worker that waits before a retry is not free for another job.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use std::time::Duration;
/// use jitney::jobs::{DeadLetter, Jobs, Settings};
/// use jitney::{Group, Scope};
///
/// # #[tokio::main(flavor = "current_thread", start_paused = true)]
/// # async fn main() {
/// let dead = Arc::new(Mutex::new(Vec::new()));
/// let letters = dead.clone();
/// let server = Scope::named("server").run(async |group: Group<String>| {
///     let thumbnail = async |file: Arc<String>| match file.ends_with(".png") {
///         true => Ok(()),
///         false => Err("not an image"),
///     };
///     let bury = move |letter: DeadLetter<String, &str>| letters.lock().unwrap().push(letter.to_string());
///     let jobs = Jobs::new(&group, "thumbnails", Settings::default(), thumbnail, bury);
///     for file in ["a.png", "b.txt"] {
///         jobs.submit(file.to_owned()).unwrap();
///     }
///     jobs.close(Duration::from_secs(60)).await;
///     assert_eq!(jobs.stats().done, 1);
///     Ok(())
/// });
/// server.await.unwrap();
/// let why = "gave up after 3 attempts, because no attempts are left: not an image";
/// assert_eq!(*dead.lock().unwrap(), [why]);
/// # }
/// ```
pub struct Jobs<J> {
    background: Background<Infallible>,
    state: Arc<State<J>>,
}

/// Sizes of [`Jobs`], and what is done about failures.
#[derive(Debug)]
pub struct Settings {
    /// Most jobs that wait for a worker. A job more is refused.
    pub queue: NonZeroUsize,
    /// Most jobs that are done at once.
    pub workers: NonZeroUsize,
    /// How often a job is tried.
    pub retry: Retry,
}

impl Default for Settings {
    /// A queue of 1024, 4 workers, and 3 attempts without a budget.
    fn default() -> Self {
        const QUEUE: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);
        const WORKERS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(3);
        Settings {
            queue: QUEUE,
            workers: WORKERS,
            retry: Retry::new(3),
        }
    }
}

impl<J: Send + Sync + 'static> Jobs<J> {
    /// Workers in the care of `owner`, as for [`Background::new`].
    ///
    /// `work` makes one attempt at a job. `bury` is told of each job that failed at its last attempt, panicked (which is not tried
    /// again, for a panic is a mistake in the program), or was cut off or still in the queue at the end. It is called by the worker,
    /// so it must be quick; a panic of it is a failure of the owner.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn new<G, E, F>(
        owner: &Group<G>,
        name: impl AsRef<str>,
        settings: Settings,
        work: impl Fn(Arc<J>) -> F + Send + Sync + 'static,
        bury: impl Fn(DeadLetter<J, E>) + Send + Sync + 'static,
    ) -> Jobs<J>
    where
        G: Send + 'static,
        E: Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let Settings {
            queue,
            workers,
            retry,
        } = settings;
        let workers = workers.get().min(Semaphore::MAX_PERMITS);
        let limit = queue.saturating_add(workers);
        let state = Arc::new(State::new(workers, retry, work, bury));
        let hook = {
            let state = state.clone();
            move |failure: Failure<Infallible>| state.lose(failure.kind)
        };
        Jobs {
            background: Background::new(owner, name, limit, hook),
            state,
        }
    }

    /// Puts a job into the queue. Never waits.
    ///
    /// # Errors
    /// Gives the job back if the queue is full or closed.
    #[track_caller]
    pub fn submit(&self, job: J) -> Result<(), Refused<J>> {
        match self.background.try_place() {
            Ok(place) => {
                self.enqueue(place, Location::caller(), job);
                Ok(())
            }
            Err(reason) => Err(Refused { work: job, reason }),
        }
    }

    /// Waits until there is room in the queue, and puts a job into it.
    ///
    /// # Errors
    /// Gives the job back if the queue is closed.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready drops the job, which is in no queue then.
    #[track_caller]
    pub fn submit_when_free(&self, job: J) -> impl Future<Output = Result<(), Refused<J>>> {
        let site = Location::caller();
        async move {
            match self.background.place().await {
                Ok(place) => {
                    self.enqueue(place, site, job);
                    Ok(())
                }
                Err(reason) => Err(Refused { work: job, reason }),
            }
        }
    }

    /// Takes no more jobs, and waits until all are done or dead. What is not done after `limit` is cut off or taken out of the
    /// queue, told to the hook, and waited for: a limit of zero aborts.
    ///
    /// # Cancel safety
    /// Once it was polled the queue is closed, also if the future is dropped then; but what is in it has no limit any more.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn close(&self, limit: impl Into<Deadline>) -> Drained {
        self.background.close(limit).await
    }

    /// What there is now, and what there was.
    pub fn stats(&self) -> Stats {
        let state = &*self.state;
        Stats {
            queued: lock(&state.queue).len(),
            running: state.running.load(Ordering::SeqCst),
            done: state.counts.done.load(Ordering::SeqCst),
            dead: state.counts.dead.load(Ordering::SeqCst),
        }
    }

    /// Each job in the queue has a task that waits for a worker, and then takes whichever job is the first: so the order is that of
    /// the queue, however the tasks are scheduled.
    fn enqueue(&self, place: Place, site: &'static Location<'static>, job: J) {
        lock(&self.state.queue).push_back(Arc::new(job));
        let state = self.state.clone();
        let work = async move {
            state.attend().await;
            Ok(())
        };
        self.background.start(place, site, "job", work);
    }
}

impl<J> Clone for Jobs<J> {
    fn clone(&self) -> Self {
        Jobs {
            background: self.background.clone(),
            state: self.state.clone(),
        }
    }
}

impl<J: Send + Sync + 'static> fmt::Debug for Jobs<J> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jobs")
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}

/// How many jobs there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Stats {
    /// Wait for a worker.
    pub queued: usize,
    /// Are being done, or wait for their next attempt.
    pub running: usize,
    /// Were done.
    pub done: u64,
    /// Were told to the hook.
    pub dead: u64,
}

/// A job that will not be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter<J, E> {
    /// The job.
    pub job: Arc<J>,
    /// What became of it; never `Ok`. [`Cancelled`](Outcome::Cancelled) also if it was never begun.
    pub outcome: Outcome<(), GaveUp<E>>,
}

impl<J, E: fmt::Display> fmt::Display for DeadLetter<J, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.outcome.fmt(f)
    }
}

type Attempts = Pin<Box<dyn Future<Output = ()> + Send>>;

struct State<J> {
    queue: Mutex<VecDeque<Arc<J>>>,
    workers: Semaphore,
    running: AtomicUsize,
    counts: Arc<Counts>,
    /// Does a job, and reports how that ended.
    work: Box<dyn Fn(Arc<J>) -> Attempts + Send + Sync>,
    /// Reports a job that was never begun.
    forgo: Box<dyn Fn(Arc<J>, Cause) + Send + Sync>,
}

#[derive(Default)]
struct Counts {
    done: AtomicU64,
    dead: AtomicU64,
}

impl<J: Send + Sync + 'static> State<J> {
    fn new<E, F>(
        workers: usize,
        retry: Retry,
        work: impl Fn(Arc<J>) -> F + Send + Sync + 'static,
        bury: impl Fn(DeadLetter<J, E>) + Send + Sync + 'static,
    ) -> State<J>
    where
        E: Send + 'static,
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let counts = Arc::new(Counts::default());
        let tell = {
            let counts = counts.clone();
            Arc::new(move |job, outcome: Outcome<(), GaveUp<E>>| {
                if outcome.is_ok() {
                    counts.done.fetch_add(1, Ordering::SeqCst);
                } else {
                    counts.dead.fetch_add(1, Ordering::SeqCst);
                    bury(DeadLetter { job, outcome });
                }
            })
        };
        let forgo = {
            let tell = tell.clone();
            move |job, cause| tell(job, Outcome::cut(cause))
        };
        let craft = Arc::new((retry, work));
        let work = move |job: Arc<J>| -> Attempts {
            let (craft, item, tell) = (craft.clone(), job.clone(), tell.clone());
            let attempts = async move {
                let (retry, work) = &*craft;
                retry.run(|| work(item.clone())).await
            };
            let report = move |outcome| tell(job, outcome);
            Box::pin(Reported::new(attempts, Cancel::current(), report))
        };
        State {
            queue: Mutex::default(),
            workers: Semaphore::new(workers),
            running: AtomicUsize::new(0),
            counts,
            work: Box::new(work),
            forgo: Box::new(forgo),
        }
    }

    /// Does the job at the front of the queue, when a worker is free.
    async fn attend(&self) {
        // The semaphore is never closed, so there is always a permit in the end.
        let _worker = self.workers.acquire().await;
        let Some(job) = self.next() else { return };
        let _running = Running::new(&self.running);
        (self.work)(job).await;
    }

    /// A task was lost. If it had taken no job, there is one in the queue that nobody will take; and if it had, all tasks are being
    /// lost, and each of them takes one out.
    fn lose(&self, kind: FailureKind<Infallible>) {
        let cause = match kind {
            FailureKind::Cancelled(cause) => cause,
            // Only the hook can panic there, and its panic goes on to the owner.
            FailureKind::Panic { message } => resume_unwind(Box::new(message)),
            _ => Cause::Deadline,
        };
        if let Some(job) = self.next() {
            (self.forgo)(job, cause);
        }
    }

    fn next(&self) -> Option<Arc<J>> {
        lock(&self.queue).pop_front()
    }
}

/// Counted as running until it is dropped.
struct Running<'a>(&'a AtomicUsize);

impl Running<'_> {
    fn new(running: &AtomicUsize) -> Running<'_> {
        running.fetch_add(1, Ordering::SeqCst);
        Running(running)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
