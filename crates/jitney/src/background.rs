//! Work that nobody waits for, and that has an owner all the same.

use std::convert::Infallible;
use std::fmt;
use std::num::NonZeroUsize;
use std::panic::{Location, resume_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, TryAcquireError};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::cancel::{Cancel, Cause, Deadline};
use crate::group::{Failure, FailureKind, Group, Policy, Scope, TaskInfo};
use crate::outcome::{Outcome, Reported};
use crate::tree::{Node, bounded};

/// Fire and forget, done right: work that nobody waits for is bounded, has a name, is in the tree, and does not fail in silence.
/// Clones are the same.
///
/// It is a task of a group, and has a scope of its own inside: when the group is cancelled so is the work, and the scope of the
/// group waits for it. So that scope ends only after [`close`](Background::close), or when all clones were dropped and the work is
/// done.
///
/// ```
/// use std::num::NonZeroUsize;
/// use std::time::Duration;
/// use jitney::{Background, Failure, Group, Scope};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let server = Scope::named("server").run(async |group: Group<String>| {
///     let limit = NonZeroUsize::new(100).unwrap();
///     let mail = Background::new(&group, "mail", limit, |failure: Failure<String>| {
///         assert!(failure.to_string().starts_with("to ada #"));
///     });
///     let refused = mail.spawn("to ada", async { Err("no such mailbox".to_owned()) });
///     assert!(refused.is_ok());
///     let drained = mail.close(Duration::from_secs(5)).await;
///     assert_eq!((drained.finished, drained.cut_off), (1, 0));
///     Ok(())
/// });
/// server.await.unwrap();
/// # }
/// ```
pub struct Background<E> {
    shared: Arc<Shared<E>>,
    queue: Sender<Work>,
}

impl<E: Send + 'static> Background<E> {
    /// A place in `owner` for at most `limit` pieces of work at once.
    ///
    /// `on_error` is told of everything that fails, panics or is cut off, by the task it happened to, so it must be quick. If it
    /// panics itself, that is a failure of the owner, seen when the work has ended.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn new<G: Send + 'static>(
        owner: &Group<G>,
        name: impl AsRef<str>,
        limit: NonZeroUsize,
        on_error: impl Fn(Failure<E>) + Send + Sync + 'static,
    ) -> Background<E> {
        let limit = limit.get().min(Semaphore::MAX_PERMITS);
        let shared = Arc::new(Shared {
            permits: Arc::new(Semaphore::new(limit)),
            outstanding: TaskTracker::new(),
            cut_off: AtomicUsize::new(0),
            closing: Cancel::new(),
            stop: owner.cancel_token().child(),
            ended: Cancel::new(),
            on_error: Box::new(on_error),
        });
        // Never full: whoever sends has a permit.
        let (queue, receiver) = mpsc::channel(limit);
        let driver = Driver {
            queue: receiver,
            closing: shared.closing.clone(),
            stop: shared.stop.clone(),
            outstanding: shared.outstanding.clone(),
            ended: Ended(shared.ended.clone()),
        };
        drop(owner.named(name).spawn(driver.run()));
        Background { shared, queue }
    }

    /// Starts a piece of work. Never waits.
    ///
    /// # Errors
    /// Gives the work back, not polled, if as much runs as may, or if it is closed.
    #[track_caller]
    pub fn spawn<F>(&self, name: impl AsRef<str>, work: F) -> Result<(), Refused<F>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        match self.try_place() {
            Ok(place) => {
                self.start(place, Location::caller(), name.as_ref(), work);
                Ok(())
            }
            Err(reason) => Err(Refused { work, reason }),
        }
    }

    /// Waits until there is room, then starts a piece of work.
    ///
    /// # Errors
    /// Gives the work back, not polled, if it is closed.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready drops the work, which was never polled.
    #[track_caller]
    pub fn spawn_when_free<F>(
        &self,
        name: impl AsRef<str>,
        work: F,
    ) -> impl Future<Output = Result<(), Refused<F>>>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        let site = Location::caller();
        async move {
            match self.place().await {
                Ok(place) => {
                    self.start(place, site, name.as_ref(), work);
                    Ok(())
                }
                Err(reason) => Err(Refused { work, reason }),
            }
        }
    }

    /// How much work there is.
    pub fn running(&self) -> usize {
        self.shared.outstanding.len()
    }

    /// Takes no more work, and waits for what there is; what is not done after `limit` is cancelled with
    /// [`Cause::Shutdown`], told to the error hook, and waited for too. When it returns, nothing of it is running.
    ///
    /// Of several calls the earliest limit holds.
    ///
    /// # Cancel safety
    /// Once it was polled it is closed, also if the future is dropped then; but what runs has no limit any more.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn close(&self, limit: impl Into<Deadline>) -> Drained {
        let limit = limit.into();
        let shared = &*self.shared;
        let (running, cut_off) = (self.running(), shared.cut_off.load(Ordering::SeqCst));
        shared.permits.close();
        shared.closing.cancel(Cause::Shutdown);
        tokio::select! {
            biased;
            _ = shared.ended.cancelled() => {}
            () = tokio::time::sleep_until(limit.into()) => {
                shared.stop.cancel(Cause::Shutdown);
                shared.ended.cancelled().await;
            }
        }
        // A cancelled owner drops the driver before the tasks have ended.
        shared.outstanding.close();
        shared.outstanding.wait().await;
        let cut_off = shared.cut_off.load(Ordering::SeqCst) - cut_off;
        Drained {
            finished: running.saturating_sub(cut_off),
            cut_off,
        }
    }

    /// Room for one piece of work.
    pub(crate) fn try_place(&self) -> Result<Place, Refusal> {
        let place = self.shared.permits.clone().try_acquire_owned();
        match place {
            Ok(place) if !self.queue.is_closed() => Ok(Place(place)),
            Err(TryAcquireError::NoPermits) if !self.queue.is_closed() => Err(Refusal::Full),
            _ => Err(Refusal::Closed),
        }
    }

    /// Room for one piece of work, when there is some.
    pub(crate) async fn place(&self) -> Result<Place, Refusal> {
        tokio::select! {
            biased;
            () = self.queue.closed() => Err(Refusal::Closed),
            place = self.shared.permits.clone().acquire_owned() => {
                place.map(Place).map_err(|_| Refusal::Closed)
            }
        }
    }

    pub(crate) fn start(
        &self,
        place: Place,
        site: &'static Location<'static>,
        name: &str,
        work: impl Future<Output = Result<(), E>> + Send + 'static,
    ) {
        let name = bounded(name);
        let (shared, token) = (self.shared.clone(), self.shared.outstanding.token());
        let (began, task) = (Instant::now(), name.clone());
        let report = move |outcome: Outcome<(), E>| {
            let task = TaskInfo {
                name: task,
                id: Node::current().map_or(0, |node| node.id()),
                site,
                elapsed: began.elapsed(),
            };
            shared.tell(task, outcome);
            drop((place, token));
        };
        let task = Box::pin(Reported::new(work, self.shared.stop.clone(), report));
        // If it ended in this moment, the task that comes back reports as cut off when it is dropped.
        drop(self.queue.try_send(Work { name, task }));
    }
}

impl<E> Clone for Background<E> {
    fn clone(&self) -> Self {
        Background {
            shared: self.shared.clone(),
            queue: self.queue.clone(),
        }
    }
}

impl<E> fmt::Debug for Background<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background")
            .field("running", &self.shared.outstanding.len())
            .field("closing", &self.shared.closing)
            .finish_non_exhaustive()
    }
}

/// What became of the work that there was when it was closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Drained {
    /// Came to its end in time, well or not.
    pub finished: usize,
    /// Was cancelled at the limit, and told to the hook.
    pub cut_off: usize,
}

/// Work that was not taken, given back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not taken, because it {reason}")]
pub struct Refused<W> {
    /// The work.
    pub work: W,
    /// Why it was not taken.
    pub reason: Refusal,
}

impl<W> fmt::Debug for Refused<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Refused")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

/// Why work was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Refusal {
    /// There is as much already as there may be.
    #[error("is full")]
    Full,
    /// It was closed, or its owner has ended.
    #[error("is closed")]
    Closed,
}

struct Shared<E> {
    permits: Arc<Semaphore>,
    outstanding: TaskTracker,
    cut_off: AtomicUsize,
    /// Takes no more work.
    closing: Cancel,
    /// The work is over. Cancelled with the owner.
    stop: Cancel,
    /// Nothing is running any more.
    ended: Cancel,
    on_error: Box<dyn Fn(Failure<E>) + Send + Sync>,
}

impl<E> Shared<E> {
    fn tell(&self, task: TaskInfo, outcome: Outcome<(), E>) {
        if let Outcome::Cancelled(_) | Outcome::TimedOut = outcome {
            self.cut_off.fetch_add(1, Ordering::SeqCst);
        }
        if let Err(kind) = outcome.into_result() {
            (self.on_error)(Failure { task, kind });
        }
    }
}

/// Room for one piece of work, until it has ended.
pub(crate) struct Place(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit);

/// A piece of work on its way to its scope. It reports also if it never gets there.
struct Work {
    name: Arc<str>,
    task: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The task that owns the work. What is left in the queue is dropped, and so reported, before it says that it has ended.
struct Driver {
    queue: Receiver<Work>,
    closing: Cancel,
    stop: Cancel,
    outstanding: TaskTracker,
    #[expect(dead_code, reason = "it counts when it is dropped")]
    ended: Ended,
}

impl Driver {
    async fn run<G>(mut self) -> Result<(), G> {
        let scope = Scope::named("work").policy(Policy::Isolate);
        let body = async |group: Group<Infallible>| {
            let work = async {
                feed(&mut self.queue, &self.closing, &group).await;
                self.outstanding.close();
                self.outstanding.wait().await;
            };
            tokio::select! {
                biased;
                cause = self.stop.cancelled() => group.cancel(cause),
                () = work => {}
            }
            Ok(())
        };
        let ended = scope.run(body).await;
        // Work that fails, panics or is cut off has reported that; only the hook can make the task itself panic.
        let hook_panicked = ended.as_ref().err().and_then(|error| {
            error.iter().find_map(|failure| match &failure.kind {
                FailureKind::Panic { message } => Some(message.clone()),
                _ => None,
            })
        });
        drop(self);
        match hook_panicked {
            Some(message) => resume_unwind(Box::new(message)),
            None => Ok(()),
        }
    }
}

/// Starts work until there will be no more.
async fn feed(queue: &mut Receiver<Work>, closing: &Cancel, group: &Group<Infallible>) {
    let mut closed = pin!(closing.cancelled());
    loop {
        let next = tokio::select! {
            biased;
            _ = &mut closed, if !queue.is_closed() => {
                queue.close();
                continue;
            }
            next = queue.recv() => next,
        };
        let Some(Work { name, task }) = next else {
            return;
        };
        let work = group.named(name).spawn(async move {
            task.await;
            Ok(())
        });
        drop(work);
    }
}

/// Says that all has ended, also if the driver was never polled.
struct Ended(Cancel);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.cancel(Cause::Shutdown);
    }
}
