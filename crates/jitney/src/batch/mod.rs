//! Dynamic batching: many callers, one model that is cheaper by the batch.
//!
//! A [`Batcher`] owns some instances of a [`Model`], each on a thread of its own. Callers [`submit`](Batcher::submit) items and await
//! a [`Ticket`]; the batcher runs them together and gives each caller its own answer, or a clear error, in time.
//!
//! - A free instance is reserved first, and then a batch is formed for it: as late and as full as possible. What is ready is taken before
//!   any clock is looked at.
//! - `max_batch` and `max_wait` are upper bounds. A lone request on an idle model leaves at once. The door is held open only while those
//!   who are expected are worth the wait; what they are worth is learned from the model's cost and from the arrivals.
//! - Where rows cost more together than alone, batches shrink by themselves.
//! - Everything is bounded. A full queue, or a deadline that cannot be met, is refused at once.
//! - A failing batch is run again in smaller parts until only the guilty items fail. A panic or a crash costs its batch no more than
//!   that; a batch that hangs is given up at the run limit and its instance replaced.
//! - No answer is lost, given twice, or given to another: every request is counted once, as
//!   `received = ok + failed + refused + expired + cancelled` plus what is queued and running.
//!
//! ```
//! use jitney::batch::{Batcher, Batching, Context, Model};
//!
//! struct Doubler;
//!
//! impl Model for Doubler {
//!     type In = u32;
//!     type Out = u32;
//!     type Error = std::convert::Infallible;
//!
//!     fn run(&mut self, items: &[u32], _: &Context<'_>) -> Result<Vec<Result<u32, Self::Error>>, Self::Error> {
//!         Ok(items.iter().map(|item| Ok(item * 2)).collect())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let batcher = Batcher::start("doubler", Batching::default(), || Ok::<_, String>(Doubler))?;
//! assert_eq!(batcher.submit(21, None)?.await?.value, 42);
//!
//! batcher.close();
//! batcher.wait_closed().await;
//! # Ok(())
//! # }
//! ```

mod arrivals;
mod context;
mod cost;
mod courier;
mod driver;
#[cfg(all(test, feature = "model-check"))]
mod interleavings;
mod isolate;
mod lane;
mod policy;
mod queue;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod simulation;
#[cfg(not(fuzzing))]
#[cfg(test)]
mod simulation;
mod ticket;
#[cfg(doctest)]
mod unwritable;
#[cfg(test)]
mod workloads;

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

pub use self::context::Context;
pub use self::courier::Courier;
use self::driver::Shared;
pub use self::ticket::Ticket;
use crate::clock::Clock;
use crate::tree::Node;

/// A model that one thread owns and runs batch by batch.
///
/// An instance is made, run and dropped on its own thread, so it need not be `Send`, and it may block.
pub trait Model: Sized + 'static {
    /// One caller's input.
    type In: Send + 'static;
    /// One caller's answer.
    type Out: Send + 'static;
    /// Why an item or a batch failed. Callers of one batch share it.
    type Error: Send + Sync + 'static;

    /// Runs a batch. The answer has one entry for each item, in order; anything else fails the batch.
    ///
    /// # Errors
    /// The inner error fails one item. The outer one fails the batch, part of which is then run again as [`Model::blame`] says, unless
    /// [`Batching::isolate`] is off.
    fn run(
        &mut self,
        items: &[Self::In],
        context: &Context<'_>,
    ) -> Result<Results<Self>, Self::Error>;

    /// Who is to blame for an error that failed a whole batch, and so what is run again.
    fn blame(error: &Self::Error) -> Blame {
        let _ = error;
        Blame::OneItem
    }

    /// Told of an item that was found guilty: it crashed the model, or the model hung on it, while it was alone, and that was not the
    /// first time unless it always was alone. For instance to refuse the like of it from then on.
    fn convicted(&mut self, item: &Self::In, error: &Self::Error) {
        let _ = (item, error);
    }

    /// How many rows of the batch this item takes; at least one.
    ///
    /// Called while the batcher's lock is held, as is [`Model::compatible`]: it must be quick and not panic.
    fn rows(item: &Self::In) -> usize {
        let _ = item;
        1
    }

    /// Whether two items can share a batch. An equivalence relation.
    fn compatible(a: &Self::In, b: &Self::In) -> bool {
        let _ = (a, b);
        true
    }
}

/// Who is to blame when a batch fails, and so how the innocent are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// An item, and running others again costs little: the batch is halved and run again until the guilty are alone.
    OneItem,
    /// An item, perhaps, and it took the instance with it: every item is run again by itself. One that crashes again is guilty, even
    /// when it was alone the first time.
    Crash,
    /// An item on which the model hangs: as after a crash, but with little more time than the item should need. Where several need more,
    /// they are run once again with all the time that there is. An item that was alone is guilty.
    Hang,
    /// Nobody: the error is everyone's answer.
    Nobody,
}

/// What a model made of a batch: one result for each item, in order.
pub type Results<M> = Vec<Result<<M as Model>::Out, <M as Model>::Error>>;

/// The settings of a batcher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batching {
    /// Most rows in a batch: 32 by default.
    pub max_batch: NonZeroUsize,
    /// Longest time a request is held back for others to join: 5 ms by default.
    pub max_wait: Duration,
    /// Most requests that wait in the queue: 256 by default.
    pub queue: NonZeroUsize,
    /// Instances of the model, each on a thread of its own: 1 by default.
    pub instances: NonZeroUsize,
    /// A batch that runs longer is given up: its callers are answered and its instance is replaced. 30 s by default.
    pub run_limit: Duration,
    /// Whether what failed is run again in smaller parts, so that only the guilty items fail: true by default. For models that must not
    /// see an item twice, false.
    pub isolate: bool,
    /// Full batches that are handed to an instance while it runs another, so that it finds the next one waiting: 0 by default. Each takes
    /// a thread and a [`Model`] value of its own, which share the instance.
    pub ahead: usize,
    /// Whether the model itself ends its runs at [`Context::limit`], as one in a process of its own can. Then the batcher gives no
    /// instance up. False by default.
    pub keeps_limit: bool,
    /// Whether the rows of a batch count as its items times its largest item's rows, for models that pad every item to the largest. False
    /// by default: a batch has the rows of its items.
    pub padded: bool,
}

impl Batching {
    /// Batches that can be with the instances at once.
    fn slots(&self) -> usize {
        self.instances.get().saturating_mul(1 + self.ahead)
    }
}

impl Default for Batching {
    fn default() -> Batching {
        Batching {
            max_batch: NonZeroUsize::MIN.saturating_add(31),
            max_wait: Duration::from_millis(5),
            queue: NonZeroUsize::MIN.saturating_add(255),
            instances: NonZeroUsize::MIN,
            run_limit: Duration::from_secs(30),
            isolate: true,
            ahead: 0,
            keeps_limit: false,
            padded: false,
        }
    }
}

/// On what terms an item is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Terms {
    /// When the answer is worth nothing any more: see [`Batcher::submit`].
    pub deadline: Option<Instant>,
    /// Who goes first: by each step up, an item is treated as if it had come a second earlier. So nobody waits for ever, however many
    /// urgent ones come after.
    pub priority: i8,
    /// On whose behalf. An instance's time is shared evenly among the keys that have something waiting, and no key can fill the queue so
    /// that others find no room in it. Items without a key are served as they come.
    pub key: Option<u64>,
}

/// What a batcher lives in.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The time it goes by: the system's by default.
    pub clock: Clock,
    /// Who delivers its answers: by default the instances' threads, each answer by itself.
    pub courier: Option<Courier>,
    /// What it is under in a tree: the batcher is a node there, with one below it for each instance, whose label says what that is
    /// doing. By default it is in no tree.
    ///
    /// ```
    /// # use jitney::batch::{Batcher, Batching, Context, Model};
    /// # use std::convert::Infallible;
    /// # struct Doubler;
    /// # impl Model for Doubler {
    /// #     type In = u32;
    /// #     type Out = u32;
    /// #     type Error = Infallible;
    /// #     fn run(&mut self, items: &[u32], _: &Context<'_>) -> Result<Vec<Result<u32, Infallible>>, Infallible> {
    /// #         Ok(items.iter().map(|item| Ok(item * 2)).collect())
    /// #     }
    /// # }
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use jitney::batch::Surroundings;
    /// use jitney::tree::Tree;
    ///
    /// let tree = Tree::new("server");
    /// let surroundings = Surroundings { node: Some(tree.root()), ..Surroundings::default() };
    /// let batcher = Batcher::start_with("doubler", Batching::default(), surroundings, || Ok::<_, String>(Doubler))?;
    /// let names: Vec<_> = tree.snapshot().nodes.iter().map(|node| node.name.to_string()).collect();
    /// assert_eq!(names, ["server", "batcher doubler", "instance 0"]);
    /// # drop(batcher);
    /// # Ok(())
    /// # }
    /// ```
    pub node: Option<Node>,
}

/// Runs items of many callers together. Cloning it gives another handle to the same batcher; dropping the last one closes it.
pub struct Batcher<M: Model>(Arc<Handle<M>>);

struct Handle<M: Model> {
    shared: Arc<Shared<M>>,
    closed: watch::Receiver<bool>,
}

impl<M: Model> Batcher<M> {
    /// Starts a batcher whose instances come from `make`, which is called on each instance's own thread, and again after a panic or a
    /// hang.
    ///
    /// Blocks until every first instance has been made, so call it where blocking is allowed. `name` appears in the threads' names.
    ///
    /// # Errors
    /// When an instance could not be made or a thread could not be started.
    #[track_caller]
    pub fn start<E: fmt::Display>(
        name: &str,
        batching: Batching,
        make: impl Fn() -> Result<M, E> + Send + Sync + 'static,
    ) -> Result<Batcher<M>, StartError> {
        Batcher::start_with(name, batching, Surroundings::default(), make)
    }

    /// [`Batcher::start`] with surroundings of your own, such as a paused clock in a test.
    ///
    /// # Errors
    /// As [`Batcher::start`].
    #[track_caller]
    pub fn start_with<E: fmt::Display>(
        name: &str,
        batching: Batching,
        surroundings: Surroundings,
        make: impl Fn() -> Result<M, E> + Send + Sync + 'static,
    ) -> Result<Batcher<M>, StartError> {
        let shared = Shared::new(name, batching, surroundings);
        let make = Arc::new(move || make().map_err(|error| Arc::from(error.to_string())));
        let closed = shared.start(make).map_err(StartError)?;
        Ok(Batcher(Arc::new(Handle { shared, closed })))
    }

    /// Queues an item, or refuses it at once; never waits. The answer comes through the ticket, dropping which cancels the request.
    ///
    /// With a deadline, the ticket resolves to [`BatchError::Expired`] when it passes, wherever the item is then; and an item that could
    /// not be answered in time is refused here and now.
    ///
    /// # Errors
    /// [`Refused`] says why the item was not queued.
    pub fn submit(&self, item: M::In, deadline: Option<Instant>) -> Result<Ticket<M>, Refused> {
        self.submit_on(
            item,
            &Terms {
                deadline,
                ..Terms::default()
            },
        )
    }

    /// [`Batcher::submit`] with a priority, or on behalf of somebody.
    ///
    /// # Errors
    /// As [`Batcher::submit`].
    ///
    /// ```
    /// # use jitney::batch::{Batcher, Batching, Context, Model};
    /// # use std::convert::Infallible;
    /// # struct Doubler;
    /// # impl Model for Doubler {
    /// #     type In = u32;
    /// #     type Out = u32;
    /// #     type Error = Infallible;
    /// #     fn run(&mut self, items: &[u32], _: &Context<'_>) -> Result<Vec<Result<u32, Infallible>>, Infallible> {
    /// #         Ok(items.iter().map(|item| Ok(item * 2)).collect())
    /// #     }
    /// # }
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use jitney::batch::Terms;
    ///
    /// let batcher = Batcher::start("doubler", Batching::default(), || Ok::<_, String>(Doubler))?;
    /// let urgent = Terms { priority: 1, ..Terms::default() };
    /// assert_eq!(batcher.submit_on(21, &urgent)?.await?.value, 42);
    /// # Ok(())
    /// # }
    /// ```
    pub fn submit_on(&self, item: M::In, terms: &Terms) -> Result<Ticket<M>, Refused> {
        self.0.shared.submit(item, terms)
    }

    /// What has happened so far, and the state of this moment.
    pub fn stats(&self) -> Stats {
        self.0.shared.stats()
    }

    /// Teaches what a batch of `rows` costs, from a run outside of the batcher such as a warm-up.
    pub fn observe_cost(&self, rows: usize, took: Duration) {
        self.0.shared.observe_cost(rows, took);
    }

    /// Refuses new items from now on. What is queued is still run. Calling it again does nothing.
    pub fn close(&self) {
        self.0.shared.close();
    }

    /// Closes, and answers what is queued with [`BatchError::Closed`]. What runs already is still answered.
    pub fn abort(&self) {
        let _ = self.0.shared.abort();
    }

    /// Closes, waits up to `limit` for everyone in the queue to be answered, and then answers the rest with [`BatchError::Closed`]. Says
    /// how many those were. What runs by then is not waited for.
    ///
    /// # Cancel safety
    /// When dropped, the batcher is closed, and what is queued is still run.
    ///
    /// # Panics
    /// Outside of a tokio runtime with time.
    pub async fn drain(&self, limit: Duration) -> usize {
        self.close();
        if tokio::time::timeout(limit, self.wait_closed())
            .await
            .is_ok()
        {
            return 0;
        }
        self.0.shared.abort()
    }

    /// Waits until a closed batcher has answered everyone and its threads have ended; those that hang inside the model are not waited
    /// for.
    ///
    /// # Cancel safety
    /// Can be dropped and called again.
    pub async fn wait_closed(&self) {
        let mut closed = self.0.closed.clone();
        // The sender's end is dropped with the keeper's thread, which is the end too.
        closed.wait_for(|closed| *closed).await.ok();
    }
}

impl<M: Model> Clone for Batcher<M> {
    fn clone(&self) -> Batcher<M> {
        Batcher(self.0.clone())
    }
}

impl<M: Model> fmt::Debug for Batcher<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.shared.fmt(f)
    }
}

impl<M: Model> Drop for Handle<M> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// A batcher could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(Arc<str>);

/// Why an item was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// As many requests wait as may.
    #[error("the queue is full: {queued} requests wait")]
    Full {
        /// Requests in the queue.
        queued: usize,
        /// About how long until they have left it.
        retry_after: Duration,
    },
    /// The deadline would pass before the answer.
    #[error(
        "it could not be answered in time: about {estimate:.0?} are needed, {remaining:.0?} are left"
    )]
    TooLate {
        /// How long the answer would take.
        estimate: Duration,
        /// How long until the deadline.
        remaining: Duration,
    },
    /// One item alone is larger than a batch may be.
    #[error("the item has {rows} rows, but a batch has at most {max_batch}")]
    TooLarge {
        /// Rows of the item.
        rows: usize,
        /// Most rows of a batch.
        max_batch: usize,
    },
    /// The batcher is closing.
    #[error("the batcher is closing")]
    Closed,
    /// Every instance is lost, and none could be made in its place so far.
    #[error("no instance of the model is alive: {0}")]
    Failed(Arc<str>),
}

/// An answer, and how it came about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// What the model gave for the item.
    pub value: T,
    /// How the request travelled.
    pub trip: Trip,
}

/// How a request travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// From its arrival until its batch left, but for the time of `held`.
    pub queued: Duration,
    /// While a free instance held the door open for others on purpose.
    pub held: Duration,
    /// Inside the model, with what isolation of bad items cost.
    pub run: Duration,
    /// Rows in its batch.
    pub rows: usize,
    /// Why its batch left.
    pub reason: Reason,
}

/// Why a batch left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// It had as many rows as it should have.
    Full,
    /// An instance was free and nobody else was worth waiting for.
    Idle,
    /// The door had been held, and holding it longer would have gained nothing.
    Gain,
    /// A caller's deadline or the longest wait was reached.
    Deadline,
    /// The batcher is closing.
    Drain,
}

impl Reason {
    /// Every reason, in the order of [`Stats::batches`].
    pub const ALL: [Reason; 5] = [
        Reason::Full,
        Reason::Idle,
        Reason::Gain,
        Reason::Deadline,
        Reason::Drain,
    ];

    /// The reason as a word for logs and metrics.
    pub const fn word(self) -> &'static str {
        match self {
            Reason::Full => "full",
            Reason::Idle => "idle",
            Reason::Gain => "gain",
            Reason::Deadline => "deadline",
            Reason::Drain => "drain",
        }
    }
}

/// Why a queued item was not answered with a value.
#[derive(Debug, thiserror::Error)]
pub enum BatchError<E> {
    /// The deadline passed.
    #[error("the deadline passed {}", if *.running { "while the model ran" } else { "in the queue" })]
    Expired {
        /// Whether the item was inside the model by then.
        running: bool,
    },
    /// The model was given up because it ran too long.
    #[error("the model ran longer than its limit of {0:?}")]
    RunLimit(Duration),
    /// The batcher was closed before the item was run.
    #[error("the batcher was closed")]
    Closed,
    /// The model gave another number of results than it got items, so nobody can know which is whose.
    #[error("the model gave {got} results for {expected} items")]
    CountMismatch {
        /// Items in the batch.
        expected: usize,
        /// Results of the model.
        got: usize,
    },
    /// The model panicked.
    #[error("the model panicked: {0}")]
    Panicked(Arc<str>),
    /// Every instance is lost, and none could be made in its place.
    #[error("no instance of the model is alive: {0}")]
    Failed(Arc<str>),
    /// The model failed the item or its batch.
    #[error("{0}")]
    Model(Arc<E>),
    /// The batcher lost the item: a defect of this crate.
    #[error("the batcher lost the request")]
    Lost,
}

impl<E> BatchError<E> {
    fn model(error: E) -> BatchError<E> {
        BatchError::Model(Arc::new(error))
    }
}

// Not derived: the error is shared, so it need not be `Clone` itself.
impl<E> Clone for BatchError<E> {
    fn clone(&self) -> BatchError<E> {
        match self {
            BatchError::Expired { running } => BatchError::Expired { running: *running },
            BatchError::RunLimit(limit) => BatchError::RunLimit(*limit),
            BatchError::Closed => BatchError::Closed,
            BatchError::CountMismatch { expected, got } => BatchError::CountMismatch {
                expected: *expected,
                got: *got,
            },
            BatchError::Panicked(text) => BatchError::Panicked(text.clone()),
            BatchError::Failed(text) => BatchError::Failed(text.clone()),
            BatchError::Model(error) => BatchError::Model(error.clone()),
            BatchError::Lost => BatchError::Lost,
        }
    }
}

/// Counts since the start, and the state of the moment in which they were taken.
///
/// At any moment `received` is the sum of `ok`, `failed`, `refused`, `expired`, `cancelled`, `queued` and `running`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Items that were submitted.
    pub received: u64,
    /// Items answered with a value.
    pub ok: u64,
    /// Items that the model or the batcher failed.
    pub failed: u64,
    /// Items that were not queued.
    pub refused: u64,
    /// Items whose deadline passed.
    pub expired: u64,
    /// Items whose ticket was dropped.
    pub cancelled: u64,
    /// Items in the queue now.
    pub queued: usize,
    /// Items inside the model now, for whom somebody waits.
    pub running: usize,
    /// How long the oldest item in the queue has waited.
    pub oldest: Option<Duration>,
    /// Batches by the reason why they left, in the order of [`Reason::ALL`].
    pub batches: [u64; Reason::ALL.len()],
    /// Batches by their size: at index 0 those of one row.
    pub batch_rows: Vec<u64>,
    /// Batches that came back from the model, by their size as in `batch_rows`: how many, and how long they were inside it together. One that
    /// was run again in parts to find out who is guilty counts once, with the time of all its parts. Those that were given up are missing.
    pub batch_runs: Vec<(u64, Duration)>,
    /// Instances that are alive now.
    pub instances: usize,
    /// Instances replaced after a panic or a hang.
    pub replaced: u64,
    /// Why no instance is alive, when none is and none is being made: items are refused until one could be made again.
    pub dead: Option<Arc<str>>,
    /// The rows a batch aims at now.
    pub aim: usize,
    /// How many times the throughput of one-by-one a batch of that size gives, as far as is known.
    pub gain: f64,
    /// What was learned of the model's cost: rows, and the time a batch of them takes.
    pub costs: Vec<(usize, Duration)>,
}
