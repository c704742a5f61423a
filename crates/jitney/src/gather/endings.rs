//! The ways a gather can end.

use std::ops::ControlFlow;
use std::sync::Arc;

use futures_util::Stream;

use super::completed::AsCompleted;
use super::settled::{NotEnough, Settled, Winner};
use super::{Ahead, Gather, Inline, Parallel, Plan, Report, inline, parallel};
use crate::cancel::Cause;
use crate::deadline::Limit;
use crate::group::{FAILURES_MAX, Failure, FailureKind, GroupError, TaskInfo};
use crate::outcome::Outcome;

/// # Cancel safety
/// Dropping the future of an ending drops the items that run and the values that were had.
///
/// # Panics
/// If the input panics; and with a deadline, outside of a tokio runtime with a timer.
impl<S, F, T, E> Gather<S, Inline>
where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>>,
{
    /// Every value, in the order of the input.
    ///
    /// # Errors
    /// At the first failure the other items are dropped. The error says which item it was.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let items = ["1", "x", "3"].map(async |text| text.parse::<u8>());
    /// let error = jitney::gather(items).named("numbers").all().await.unwrap_err();
    /// assert_eq!(&*error.first.task.name, "numbers[1]");
    /// # }
    /// ```
    pub async fn all(self) -> Result<Vec<T>, GroupError<E>> {
        let mut all = All::new();
        let sink = |report, _| all.take(report, &self.plan);
        inline::run(&self.plan, self.items, sink).await;
        all.conclude()
    }

    /// Every outcome, in the order of the input. Nothing that fails stops the others.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::{Outcome, gather};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let sleep = async |seconds| {
    ///     tokio::time::sleep(Duration::from_secs(seconds)).await;
    ///     Ok::<_, String>(seconds)
    /// };
    /// let settled = gather([1, 3600].map(sleep)).deadline(Duration::from_secs(5)).settle().await;
    /// assert_eq!(settled.outcomes(), [Outcome::Ok(1), Outcome::TimedOut]);
    /// # }
    /// ```
    pub async fn settle(self) -> Settled<T, E> {
        self.tally(Goal::Everything).await.settled()
    }

    /// The value of the item that is done first. The others are dropped.
    ///
    /// # Errors
    /// If the first one that is done has failed, or there are no items.
    pub async fn first(self) -> Result<Winner<T>, NotEnough<T, E>> {
        self.tally(Goal::AnyEnd).await.winner()
    }

    /// The first value that there is. The other items are dropped.
    ///
    /// # Errors
    /// If all fail, or there are no items; then every failure is in the error.
    pub async fn first_ok(self) -> Result<Winner<T>, NotEnough<T, E>> {
        self.tally(Goal::Values(1)).await.winner()
    }

    /// The first `wanted` values that there are, in the order of the input. The other items are dropped. Zero values are had
    /// without starting anything.
    ///
    /// # Errors
    /// As soon as so many items have failed that there cannot be enough values; then every failure is in the error.
    pub async fn quorum(self, wanted: usize) -> Result<Vec<Winner<T>>, NotEnough<T, E>> {
        self.tally(Goal::Values(wanted)).await.winners()
    }

    async fn tally(self, goal: Goal) -> Tally<T, E> {
        let mut tally = Tally::new(goal);
        if !tally.is_reached {
            let sink = |report, ahead| tally.take(report, ahead);
            inline::run(&self.plan, self.items, sink).await;
        }
        tally
    }
}

/// The endings promise the same as those of the plain form. Items that are cut off are cancelled as tasks of a group are, and when
/// the ending returns, nothing they started is running.
///
/// # Cancel safety
/// Dropping the future of an ending cancels the items. The nearest [`Scope`](crate::Scope) around waits for them.
///
/// # Panics
/// If the input panics, and outside of a tokio runtime.
impl<S, F, T, E> Gather<S, Parallel>
where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    /// Every value, in the order of the input.
    ///
    /// # Errors
    /// At the first failure the other items are cancelled. What they failed with until they ended is in the error too.
    ///
    /// ```
    /// # #[tokio::main]
    /// # async fn main() -> Result<(), jitney::GroupError<std::convert::Infallible>> {
    /// let squares = jitney::gather((0..4).map(async |n| Ok(n * n))).parallel().all().await?;
    /// assert_eq!(squares, [0, 1, 4, 9]);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn all(self) -> Result<Vec<T>, GroupError<E>> {
        let mut all = All::new();
        let sink = |report, _| all.take(report, &self.plan);
        parallel::run(&self.plan, self.items, sink).await;
        all.conclude()
    }

    /// Every outcome, in the order of the input. Nothing that fails stops the others.
    pub async fn settle(self) -> Settled<T, E> {
        self.tally(Goal::Everything).await.settled()
    }

    /// The value of the item that is done first. The others are cancelled and waited for.
    ///
    /// # Errors
    /// If the first one that is done has failed, or there are no items.
    pub async fn first(self) -> Result<Winner<T>, NotEnough<T, E>> {
        self.tally(Goal::AnyEnd).await.winner()
    }

    /// The first value that there is. The other items are cancelled and waited for.
    ///
    /// # Errors
    /// If all fail, or there are no items; then every failure is in the error.
    pub async fn first_ok(self) -> Result<Winner<T>, NotEnough<T, E>> {
        self.tally(Goal::Values(1)).await.winner()
    }

    /// The first `wanted` values that there are, in the order of the input. The other items are cancelled and waited for. Zero
    /// values are had without starting anything.
    ///
    /// # Errors
    /// As soon as so many items have failed that there cannot be enough values; then every failure is in the error.
    pub async fn quorum(self, wanted: usize) -> Result<Vec<Winner<T>>, NotEnough<T, E>> {
        self.tally(Goal::Values(wanted)).await.winners()
    }

    async fn tally(self, goal: Goal) -> Tally<T, E> {
        let mut tally = Tally::new(goal);
        if !tally.is_reached {
            let sink = |report, ahead| tally.take(report, ahead);
            parallel::run(&self.plan, self.items, sink).await;
        }
        tally
    }

    /// As `first_ok`, but fails when all that run have failed, even if the input may have more.
    pub(crate) async fn first_ok_in_time(self) -> Result<Winner<T>, NotEnough<T, E>> {
        self.tally(Goal::ValueInTime).await.winner()
    }

    /// A stream of the outcomes, as they come. It starts when it is first polled.
    ///
    /// Items that were started go on while the consumer is busy with something else. At most the limit of them run or wait to be
    /// consumed, so the memory of a slow consumer is bounded; new items are started when it takes outcomes. The deadline ends the
    /// stream; items that were never started are not in it.
    ///
    /// ```
    /// use futures_util::StreamExt;
    /// # #[tokio::main]
    /// # async fn main() {
    /// let mut done = jitney::gather((0..100).map(async |n: u64| n.checked_sub(1).ok_or("zero")))
    ///     .limit(10)
    ///     .parallel()
    ///     .as_completed();
    /// let mut sum = 0;
    /// while let Some(completed) = done.next().await {
    ///     match completed.outcome.into_result() {
    ///         Ok(value) => sum += value,
    ///         Err(_) => assert_eq!(completed.index, 0),
    ///     }
    /// }
    /// assert_eq!(sum, 98 * 99 / 2);
    /// # }
    /// ```
    pub fn as_completed<'a>(self) -> AsCompleted<'a, T, E>
    where
        S: Send + 'a,
    {
        AsCompleted::new(self.plan, self.items)
    }
}

impl Plan {
    /// Says of an item that was late which deadline that was, if it was the gather's own and not one around it.
    fn named_deadline<E>(&self, kind: FailureKind<E>) -> FailureKind<E> {
        match (kind, self.deadline) {
            (FailureKind::Cancelled(Cause::Deadline), Some(deadline)) => {
                let limit = Limit::new(deadline, self.name.clone(), self.site);
                FailureKind::TimedOut(Box::new(limit.elapsed(None)))
            }
            (kind, _) => kind,
        }
    }
}

/// The values, or everything that failed.
struct All<T, E> {
    values: Vec<Option<T>>,
    failures: Vec<Failure<E>>,
    omitted: u64,
}

impl<T, E> All<T, E> {
    fn new() -> All<T, E> {
        All {
            values: Vec::new(),
            failures: Vec::new(),
            omitted: 0,
        }
    }

    fn take(&mut self, report: Report<T, E>, plan: &Plan) -> ControlFlow<()> {
        let Report {
            index,
            outcome,
            node,
            elapsed,
        } = report;
        let kind = match outcome {
            Outcome::Ok(value) => {
                put(&mut self.values, index, value);
                return ControlFlow::Continue(());
            }
            // It was cut off because of the failure before it.
            Outcome::Cancelled(_) if !self.failures.is_empty() => return ControlFlow::Break(()),
            outcome => outcome.into_result().err(),
        };
        let kind = kind.map(|kind| plan.named_deadline(kind));
        let task = TaskInfo {
            name: Arc::from(format!("{}[{index}]", plan.name)),
            id: node,
            site: plan.site,
            elapsed,
        };
        let failure = kind.map(|kind| Failure { task, kind });
        match self.failures.len() < FAILURES_MAX {
            true => self.failures.extend(failure),
            false => self.omitted += 1,
        }
        ControlFlow::Break(())
    }

    fn conclude(self) -> Result<Vec<T>, GroupError<E>> {
        let mut failures = self.failures.into_iter();
        match failures.next() {
            None => Ok(self.values.into_iter().flatten().collect()),
            Some(first) => Err(GroupError {
                first,
                rest: failures.collect(),
                omitted: self.omitted,
            }),
        }
    }
}

/// When a tally has enough.
#[derive(Clone, Copy)]
enum Goal {
    Everything,
    AnyEnd,
    Values(usize),
    /// One value of those that run; what the input may still give is not waited for.
    ValueInTime,
}

/// Outcomes until the goal is reached, or cannot be any more.
struct Tally<T, E> {
    outcomes: Vec<Option<Outcome<T, E>>>,
    goal: Goal,
    oks: usize,
    is_reached: bool,
}

impl<T, E> Tally<T, E> {
    fn new(goal: Goal) -> Tally<T, E> {
        Tally {
            outcomes: Vec::new(),
            goal,
            oks: 0,
            is_reached: matches!(goal, Goal::Values(0)),
        }
    }

    fn take(&mut self, report: Report<T, E>, ahead: Ahead) -> ControlFlow<()> {
        let ok = report.outcome.is_ok();
        let outcome = match self.is_reached && ok {
            // It came too late to be among the first.
            true => Outcome::Cancelled(Cause::SiblingFailed),
            false => report.outcome,
        };
        let is_first = self.outcomes.is_empty();
        put(&mut self.outcomes, report.index, outcome);
        self.oks += usize::from(ok);
        self.is_reached |= match self.goal {
            Goal::Everything => false,
            Goal::AnyEnd => is_first && ok,
            Goal::Values(wanted) => self.oks >= wanted,
            Goal::ValueInTime => ok,
        };
        match self.is_reached || self.is_hopeless(ahead) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn is_hopeless(&self, ahead: Ahead) -> bool {
        match (self.goal, ahead.unstarted) {
            (Goal::AnyEnd, _) => true,
            (Goal::ValueInTime, _) => ahead.running == 0,
            (Goal::Values(wanted), Some(unstarted)) => {
                let possible = ahead.running.saturating_add(unstarted);
                self.oks.saturating_add(possible) < wanted
            }
            _ => false,
        }
    }

    fn settled(self) -> Settled<T, E> {
        Settled::new(self.outcomes.into_iter().flatten().collect())
    }

    fn winners(self) -> Result<Vec<Winner<T>>, NotEnough<T, E>> {
        let wanted = match self.goal {
            Goal::Values(wanted) => wanted,
            Goal::AnyEnd | Goal::ValueInTime | Goal::Everything => 1,
        };
        match self.is_reached {
            true => self.settled().quorum(wanted),
            false => Err(NotEnough {
                wanted,
                settled: self.settled(),
            }),
        }
    }

    fn winner(self) -> Result<Winner<T>, NotEnough<T, E>> {
        let mut winners = self.winners()?;
        winners.pop().ok_or_else(|| NotEnough {
            wanted: 1,
            settled: Settled::new(Vec::new()),
        })
    }
}

/// Places may come in any order.
fn put<T>(places: &mut Vec<Option<T>>, index: usize, value: T) {
    if index == places.len() {
        return places.push(Some(value));
    }
    if index >= places.len() {
        places.resize_with(index + 1, || None);
    }
    places[index] = Some(value);
}
