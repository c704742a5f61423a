//! A task that makes items, behind a stream.

use std::fmt;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::FusedStream;
use tokio::sync::mpsc;

use crate::cancel::{Cancel, Cause};
use crate::group::{FailureKind, GroupError, Scope};

/// Runs `produce` in a task of its own, and gives what it sends as a stream.
///
/// The task begins when the stream is polled for the first time, is a child of the scope that polls it, and then works ahead
/// of the consumer until `capacity` items wait. When it returns `Ok` the stream ends after the last item; when it fails,
/// panics or is cut off, that is the last item, so a stream that was cut short cannot be taken for a whole one.
///
/// Who stops early calls [`Records::close`], which stops the task and waits for it. Dropping the stream cancels the task too,
/// and the nearest scope around it that is still alive waits for it, as for any task of a scope that was dropped.
///
/// ```
/// use futures_util::TryStreamExt;
/// use jitney::stream::{ProducerError, producer};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), ProducerError<String>> {
/// let squares = producer(8.try_into().unwrap(), |items| async move {
///     for n in 1..=3_u32 {
///         if items.send(n * n).await.is_err() {
///             break; // nobody wants more
///         }
///     }
///     Ok(())
/// });
/// assert_eq!(squares.try_collect::<Vec<u32>>().await?, [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
///
/// # Panics
/// Polling the stream panics outside of a tokio runtime.
#[track_caller]
pub fn producer<T, E, F, Fut>(capacity: NonZeroUsize, produce: F) -> Records<T, E>
where
    F: FnOnce(Sender<T>) -> Fut + Send + 'static,
    Fut: Future<Output = Result<(), E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let (sender, items) = mpsc::channel(capacity.get().min(CAPACITY_MAX));
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let start = move |scope: Scope| -> Run<E> {
        Box::pin(scope.run(move |group| async move {
            let task = group.named("task").spawn(produce(Sender { items: sender }));
            tokio::select! {
                // What went wrong is kept by the group.
                _ = task => {}
                cause = stop.cancelled() => group.cancel(cause),
            }
            Ok(())
        }))
    };
    Records {
        items,
        cancel,
        phase: Phase::Idle(Scope::named("producer"), Box::new(start)),
    }
}

/// The items of a [`producer`]. Every item is `Ok` but the last, which may be what went wrong.
#[must_use = "a producer does nothing until its stream is polled"]
pub struct Records<T, E> {
    items: mpsc::Receiver<T>,
    cancel: Cancel,
    phase: Phase<E>,
}

impl<T, E: Send + 'static> Records<T, E> {
    /// A name for the tree, where it is called `producer` by default. This and [`grace`](Records::grace) have no effect on a
    /// producer that has begun, and the name comes first.
    #[track_caller]
    pub fn named(mut self, name: impl AsRef<str>) -> Records<T, E> {
        let scope = Scope::named(name);
        self.phase = self.phase.configure(|_| scope);
        self
    }

    /// How long a cancelled producer may go on, to clean up after its first failed send; zero by default.
    pub fn grace(mut self, grace: Duration) -> Records<T, E> {
        self.phase = self.phase.configure(|scope| scope.grace(grace));
        self
    }

    /// Stops the producer and waits until it has ended. Items that were not taken are dropped.
    ///
    /// # Errors
    /// What the producer failed with, if it did and the stream has not said so already.
    ///
    /// # Cancel safety
    /// Dropping the future is dropping the stream: the producer is cancelled, and the scope around waits for it.
    pub async fn close(mut self) -> Result<(), ProducerError<E>> {
        self.items.close();
        self.cancel.cancel(Cause::Requested);
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Running(run) => run.await.map_err(ProducerError::of),
            Phase::Ended(outcome) => outcome,
            Phase::Idle(..) | Phase::Over => Ok(()),
        }
    }
}

impl<T, E: Send + 'static> Stream for Records<T, E> {
    type Item = Result<T, ProducerError<E>>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.phase.begin(cx);
        match this.items.poll_recv(cx) {
            Poll::Ready(Some(item)) => Poll::Ready(Some(Ok(item))),
            Poll::Ready(None) => this.phase.poll_end(cx).map(|error| error.map(Err)),
            Poll::Pending => {
                // Its scope is polled here too, because that is who acts on deadlines.
                this.phase.advance(cx);
                Poll::Pending
            }
        }
    }
}

// Nothing in it is pinned in place.
impl<T, E> Unpin for Records<T, E> {}

impl<T, E: Send + 'static> FusedStream for Records<T, E> {
    fn is_terminated(&self) -> bool {
        matches!(self.phase, Phase::Over)
    }
}

impl<T, E> fmt::Debug for Records<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records")
            .field("waiting", &self.items.len())
            .finish_non_exhaustive()
    }
}

/// Where a producer puts its items. Clones send to the same stream.
pub struct Sender<T> {
    items: mpsc::Sender<T>,
}

impl<T> Sender<T> {
    /// Gives one item to the consumer, and waits while the consumer is behind.
    ///
    /// # Errors
    /// [`ConsumerGone`]: nobody will take this item or any other, so the producer should clean up and return `Ok`.
    ///
    /// # Cancel safety
    /// Dropping the future before it is ready drops the item, which was not given. Use [`reserve`](Sender::reserve) to keep it.
    pub async fn send(&self, item: T) -> Result<(), ConsumerGone> {
        self.items.send(item).await.map_err(|_| ConsumerGone)
    }

    /// Waits for a place before the item is made. A producer that reserves first is never ahead by more than the capacity.
    ///
    /// # Errors
    /// [`ConsumerGone`].
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn reserve(&self) -> Result<Slot<'_, T>, ConsumerGone> {
        let place = self.items.reserve().await.map_err(|_| ConsumerGone)?;
        Ok(Slot { place })
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Sender {
            items: self.items.clone(),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender")
            .field("free", &self.items.capacity())
            .finish()
    }
}

/// A place in the stream for one item. Dropping it gives it back.
#[derive(Debug)]
#[must_use = "a place that is not filled holds the producer back"]
pub struct Slot<'a, T> {
    place: mpsc::Permit<'a, T>,
}

impl<T> Slot<'_, T> {
    /// Gives the item to the consumer. Never waits; if the consumer has gone in the meantime, the item is dropped.
    pub fn send(self, item: T) {
        self.place.send(item);
    }
}

/// The consumer of a producer wants no more items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the consumer wants no more items")]
pub struct ConsumerGone;

/// Why a producer ended before its work was done.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProducerError<E> {
    /// It returned an error.
    #[error("{0}")]
    Failed(E),
    /// It panicked.
    #[error("the producer panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// Something it had opened, or a scope that it had dropped, failed while it ended.
    #[error("the producer was not cleaned up: {message}")]
    NotCleanedUp {
        /// What was said about it.
        message: String,
    },
    /// It was cut off.
    #[error("the producer was cut off: {0}")]
    Cancelled(Cause),
}

impl<E> ProducerError<E> {
    fn of(error: GroupError<E>) -> ProducerError<E> {
        match error.into_first().kind {
            FailureKind::Error(error) => ProducerError::Failed(error),
            FailureKind::Panic { message } => ProducerError::Panicked { message },
            FailureKind::TimedOut(_) => ProducerError::Cancelled(Cause::Deadline),
            FailureKind::Cancelled(cause) => ProducerError::Cancelled(cause),
            FailureKind::Cleanup { message } => ProducerError::NotCleanedUp { message },
            FailureKind::Orphan(error) => ProducerError::NotCleanedUp {
                message: error.to_string(),
            },
        }
    }
}

/// More would be too much for a channel of tokio.
const CAPACITY_MAX: usize = tokio::sync::Semaphore::MAX_PERMITS;

type Run<E> = Pin<Box<dyn Future<Output = Result<(), GroupError<E>>> + Send>>;

/// From idle it becomes running, then ended, then over; a stream that is closed is over from anywhere.
enum Phase<E> {
    Idle(Scope, Box<dyn FnOnce(Scope) -> Run<E> + Send>),
    Running(Run<E>),
    Ended(Result<(), ProducerError<E>>),
    Over,
}

impl<E> Phase<E> {
    fn configure(self, change: impl FnOnce(Scope) -> Scope) -> Phase<E> {
        match self {
            Phase::Idle(scope, start) => Phase::Idle(change(scope), start),
            begun => begun,
        }
    }

    /// Idle to running.
    fn begin(&mut self, cx: &mut Context<'_>) {
        match std::mem::replace(self, Phase::Over) {
            Phase::Idle(scope, start) => {
                *self = Phase::Running(start(scope));
                self.advance(cx);
            }
            begun => *self = begun,
        }
    }

    /// Running to ended, if it has.
    fn advance(&mut self, cx: &mut Context<'_>) {
        if let Phase::Running(run) = self
            && let Poll::Ready(outcome) = run.as_mut().poll(cx)
        {
            *self = Phase::Ended(outcome.map_err(ProducerError::of));
        }
    }

    /// To over, with what went wrong, once the producer has ended.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<ProducerError<E>>> {
        self.advance(cx);
        match std::mem::replace(self, Phase::Over) {
            Phase::Ended(outcome) => Poll::Ready(outcome.err()),
            Phase::Over => Poll::Ready(None),
            running => {
                *self = running;
                Poll::Pending
            }
        }
    }
}
