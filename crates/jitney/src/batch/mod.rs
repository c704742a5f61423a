//! Dynamic batching: many callers, one model that is cheaper by the batch.
#![expect(
    missing_docs,
    clippy::unimplemented,
    reason = "signatures only, for now"
)]

use std::future::Future;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

/// A model that one thread owns and runs batch by batch.
pub trait Model: 'static {
    type In: Send + 'static;
    type Out: Send + 'static;
    type Error: Send + Sync + 'static;
    /// Outer `Err`: the whole batch failed. Inner `Err`: that item did. The answer must have one entry for each item, in order.
    fn run(
        &mut self,
        items: &[Self::In],
    ) -> Result<Vec<Result<Self::Out, Self::Error>>, Self::Error>;
    /// How many rows of the batch this item takes.
    fn rows(_item: &Self::In) -> usize {
        1
    }
    /// Whether the two may share a batch; an equivalence relation.
    fn compatible(_a: &Self::In, _b: &Self::In) -> bool {
        true
    }
}

/// The settings of a batcher.
#[derive(Clone, Debug)]
pub struct Batching {
    /// Most rows in a batch. Default 32.
    pub max_batch: NonZeroUsize,
    /// Longest time a request is held back for others to join. Default 5 ms.
    pub max_wait: Duration,
    /// Most requests waiting. Default 256.
    pub queue: NonZeroUsize,
    /// Instances of the model, each on a thread of its own. Default 1.
    pub instances: NonZeroUsize,
    /// A batch that runs longer is given up: its callers are answered and the instance is replaced. Default 30 s.
    pub run_limit: Duration,
    /// Whether a failed batch is split and run again so that only the guilty item fails. Default true.
    pub isolate: bool,
}

pub struct Batcher<M: Model>(std::marker::PhantomData<fn() -> M>);
impl<M: Model> Clone for Batcher<M> {
    fn clone(&self) -> Self {
        unimplemented!()
    }
}

impl<M: Model> Batcher<M> {
    /// Starts the instance threads; returns once the first calls of `make` (one for each instance, each on its thread) have succeeded.
    pub fn start<E>(
        name: &str,
        batching: Batching,
        make: impl Fn() -> Result<M, E> + Send + Sync + 'static,
    ) -> Result<Batcher<M>, E>
    where
        E: std::fmt::Display + Send + 'static,
    {
        let _ = (name, batching, make);
        unimplemented!()
    }
    /// Queues an item, or refuses it at once. Never waits. Dropping the ticket cancels the request.
    pub fn submit(&self, item: M::In, deadline: Option<Instant>) -> Result<Ticket<M>, Refused> {
        let _ = (item, deadline);
        unimplemented!()
    }
    pub fn stats(&self) -> Stats {
        unimplemented!()
    }
    /// Feeds the learned cost with a measured run, as the warm-up does.
    pub fn observe_cost(&self, rows: usize, took: Duration) {
        let _ = (rows, took);
        unimplemented!()
    }
    /// Refuses new items from now on; what is queued is still run. Idempotent.
    pub fn close(&self) {
        unimplemented!()
    }
    /// Answers everything queued with `BatchError::Closed` and refuses new items.
    pub fn abort(&self) {
        unimplemented!()
    }
    /// Waits until a closed batcher has answered everyone and its threads have ended.
    pub async fn wait_closed(&self) {
        unimplemented!()
    }
}

/// Why an item was not queued.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the queue is full: {queued} requests wait")]
    Full {
        queued: usize,
        retry_after: Duration,
    },
    #[error(
        "it could not be answered in time: about {estimate:?} of work is ahead, {remaining:?} are left"
    )]
    TooLate {
        estimate: Duration,
        remaining: Duration,
    },
    #[error("the item has {rows} rows, but a batch has at most {max_batch}")]
    TooLarge { rows: usize, max_batch: usize },
    #[error("closing")]
    Closed,
    #[error("no instance of the model is alive: {0}")]
    Failed(Arc<str>),
}

/// A queued request: a future of its answer. Runs on any executor. Dropping it cancels the request at any stage.
#[must_use = "dropping a ticket cancels its request"]
pub struct Ticket<M: Model>(std::marker::PhantomData<fn() -> M>);

impl<M: Model> Future for Ticket<M> {
    type Output = Result<Answer<M::Out>, BatchError<M::Error>>;
    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        unimplemented!()
    }
}

#[derive(Debug)]
pub struct Answer<T> {
    pub value: T,
    pub trip: Trip,
}

/// How a request travelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trip {
    /// From submission until an instance was free for its batch.
    pub queued: Duration,
    /// While the door was held open for others, an instance being free.
    pub held: Duration,
    /// Inside the model.
    pub run: Duration,
    /// Rows in its batch.
    pub rows: usize,
    pub reason: Reason,
}

/// Why a batch left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    Full,
    Idle,
    Gain,
    Deadline,
    Drain,
}

#[derive(Debug, thiserror::Error)]
pub enum BatchError<E> {
    #[error("the deadline passed {}", if *.running { "while the model ran" } else { "in the queue" })]
    Expired { running: bool },
    #[error("the model ran longer than its limit of {0:?}")]
    RunLimit(Duration),
    #[error("the batcher was closed")]
    Closed,
    #[error("the model gave {got} results for {expected} items")]
    CountMismatch { expected: usize, got: usize },
    #[error("the model panicked: {0}")]
    Panicked(Arc<str>),
    #[error("no instance of the model is alive: {0}")]
    Failed(Arc<str>),
    #[error("{0}")]
    Model(Arc<E>),
}

/// Counts since the start, and the state of this moment.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    pub received: u64,
    pub ok: u64,
    pub failed: u64,
    pub refused: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub queued: usize,
    pub running: usize,
    pub oldest: Option<Duration>,
    /// Batches by the reason why they left, in the order of `Reason`.
    pub batches: [u64; 5],
    /// Batches by number of rows: index 0 is one row.
    pub batch_rows: Vec<u64>,
    pub instances: usize,
    pub replaced: u64,
    /// The batch size the batcher aims at now, and how many times the throughput of one-by-one that is expected to give.
    pub aim: usize,
    pub gain: f64,
}
