//! Many futures at once, never more than a limit, with one outcome for each.
//!
//! [`gather`] takes futures from an iterator, lazily, and runs at most [`limit`](Gather::limit) of them at a time. How it ends
//! is chosen by the last call:
//!
//! | ending | gives | a failure |
//! |---|---|---|
//! | [`all`](Gather::all) | every value, in the order of the input | drops the others; every failure is in the error |
//! | [`settle`](Gather::settle) | every outcome, in the order of the input | is an outcome |
//! | [`first`](Gather::first) | what is done first | is an outcome, if it is the first |
//! | [`first_ok`](Gather::first_ok) | the first value | counts only if all fail |
//! | [`quorum`](Gather::quorum) | the first `k` values | counts when `k` values cannot be had any more |
//! | [`as_completed`](Gather::as_completed) | a stream of outcomes as they come | is an outcome |
//!
//! ```
//! use jitney::{Outcome, gather};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let texts = ["1", "two", "3"];
//! let settled = gather(texts.iter().map(async |text| text.parse::<u8>())).limit(2).settle().await;
//! assert_eq!(settled.oks().collect::<Vec<_>>(), [(0, &1), (2, &3)]);
//! let (index, error) = settled.errors().next().unwrap();
//! assert_eq!((index, error.to_string().as_str()), (1, "invalid digit found in string"));
//! # }
//! ```
//!
//! # Two ways to run
//! | | by default | [`parallel`](Gather::parallel) |
//! |---|---|---|
//! | the futures are polled | by the task that gathers | by tasks of their own, in a scope of this gather |
//! | they may borrow | yes | no: `Send + 'static` |
//! | they use several cores | no | yes |
//! | one that blocks its thread holds up | all of them | itself |
//! | cost of each | a poll | a spawn, about a microsecond |
//! | those cut off | are dropped | are cancelled, dropped and waited for, with everything they started |
//!
//! Either way the items make progress while the ending is awaited, and nobody can forget to poll them: the stream of outcomes
//! exists only where the items are tasks, which go on while its consumer is busy.
//!
//! # Order, bounds and panics
//! Items start in the order of the input. Memory is in proportion to the limit, and to what the ending keeps. A panic of an item
//! is caught, and is its outcome; one of the input (the iterator or stream itself) goes on into the caller once nothing runs any
//! more. A gather lets other tasks of its thread run after every [`POLLS_MAX`] polls, however many items are ready.

mod completed;
mod endings;
mod inline;
mod input;
mod parallel;
mod settled;
mod slots;

use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::{self, Iter};

pub use completed::{AsCompleted, Completed};
pub use settled::{NotEnough, Settled, Winner};

use crate::cancel::{Cause, Deadline};
use crate::outcome::Outcome;
use crate::tree::bounded;

/// Most items that run at once, unless [`Gather::limit`] says otherwise.
pub const DEFAULT_LIMIT: usize = 64;

/// After so many polls of items other tasks of the thread have their turn.
pub const POLLS_MAX: usize = 128;

/// Runs the futures of an iterator, at most [`DEFAULT_LIMIT`] of them at once. Nothing happens before an ending is awaited; see
/// the [module](self) for the endings.
///
/// The iterator is asked for the next future when there is room for it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jitney::GroupError<std::num::ParseIntError>> {
/// let lines = String::from("1\n2\n3");
/// let numbers = jitney::gather(lines.lines().map(async |line| line.parse::<u8>())).all().await?;
/// assert_eq!(numbers, [1, 2, 3]);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn gather<I>(items: I) -> Gather<Iter<I::IntoIter>>
where
    I: IntoIterator<Item: Future>,
{
    gather_stream(stream::iter(items))
}

/// As [`gather`], for futures that come from a stream, which may take its time.
///
/// ```
/// use futures_util::{StreamExt, stream};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), jitney::GroupError<std::convert::Infallible>> {
/// let work = stream::iter(1..=3).map(async |number| Ok(number * number));
/// assert_eq!(jitney::gather_stream(work).all().await?, [1, 4, 9]);
/// # Ok(())
/// # }
/// ```
#[track_caller]
pub fn gather_stream<S>(items: S) -> Gather<S>
where
    S: Stream<Item: Future>,
{
    Gather {
        items,
        plan: Plan {
            name: Arc::from("gather"),
            site: Location::caller(),
            limit: DEFAULT_LIMIT,
            deadline: None,
        },
        mode: PhantomData,
    }
}

/// Futures that are going to run at the same time. Made by [`gather`]; see the [module](self).
#[derive(Debug)]
#[must_use = "a gather does nothing until one of its endings is awaited"]
pub struct Gather<S, M = Inline> {
    items: S,
    plan: Plan,
    mode: PhantomData<M>,
}

/// The futures are polled by the task that gathers, and may borrow from it.
#[derive(Debug)]
pub enum Inline {}

/// The futures are tasks.
#[derive(Debug)]
pub enum Parallel {}

impl<S, M> Gather<S, M> {
    /// Most items that run at once. Zero counts as one, because a gather that runs nothing would never end.
    pub fn limit(mut self, items: usize) -> Self {
        self.plan.limit = items.max(1);
        self
    }

    /// What is not done at this moment, or this long after the present call, is dropped, and its outcome is
    /// [`TimedOut`](Outcome::TimedOut). So is the outcome of what the input still had: an iterator is read to its end, and its
    /// futures are dropped unpolled; of a stream only what is there at once.
    pub fn deadline(mut self, deadline: impl Into<Deadline>) -> Self {
        self.plan.deadline = Some(deadline.into());
        self
    }

    /// What failures and, for tasks, the tree call it; "gather" by default. Item 17 is `gather[17]`.
    pub fn named(mut self, name: impl AsRef<str>) -> Self {
        self.plan.name = bounded(name.as_ref());
        self
    }
}

impl<S> Gather<S, Inline> {
    /// Runs every item as a task of its own, in a [`Scope`](crate::Scope) of this gather.
    pub fn parallel(self) -> Gather<S, Parallel> {
        Gather {
            items: self.items,
            plan: self.plan,
            mode: PhantomData,
        }
    }
}

/// What was asked for, apart from the items and the ending.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) name: Arc<str>,
    pub(crate) site: &'static Location<'static>,
    pub(crate) limit: usize,
    pub(crate) deadline: Option<Deadline>,
}

/// How one item ended.
pub(crate) struct Report<T, E> {
    /// Its place in the input.
    pub(crate) index: usize,
    pub(crate) outcome: Outcome<T, E>,
    /// The task that polled it.
    node: u64,
    /// Since it was started.
    elapsed: Duration,
}

impl<T, E> Report<T, E> {
    /// Of an item that was never started.
    fn unstarted(index: usize, cause: Cause) -> Report<T, E> {
        Report {
            index,
            outcome: Outcome::cut(cause),
            node: 0,
            elapsed: Duration::ZERO,
        }
    }
}

/// What may still come after a report.
#[derive(Clone, Copy)]
pub(crate) struct Ahead {
    /// Items that run.
    pub(crate) running: usize,
    /// Items that the input has left, at most; none if it does not know.
    pub(crate) unstarted: Option<usize>,
}
