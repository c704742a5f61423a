//! Running the items as tasks of a scope.

use std::any::Any;
use std::convert::Infallible;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, OwnedPermit, Receiver, Sender};

use super::input::Input;
use super::{Ahead, POLLS_MAX, Plan, Report};
use crate::cancel::{Cause, Deadline};
use crate::group::{FailureKind, Group, Scope};
use crate::outcome::{Outcome, Reported};
use crate::tree::Node;

/// As [`run`](super::inline::run) of the plain form, in a scope of its own. When it returns, no item is running.
pub(super) async fn run<S, F, T, E>(
    plan: &Plan,
    items: S,
    mut sink: impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
) where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    let (spawner, reports) = Spawner::new(plan, None);
    let items = pin!(items);
    let mut course = Course {
        input: Input::new(items),
        spawner,
        reports,
        end: None,
    };
    let body = async |group: Group<Infallible>| {
        std::future::poll_fn(|cx| course.poll(cx, &group, &mut sink)).await;
        group.cancel(Cause::SiblingFailed);
        Ok(())
    };
    let cut = scope(plan).run(body).await.err().map(|error| {
        // Items do not fail in the eyes of the group: their failures are in their reports.
        match error.first.kind {
            FailureKind::Cancelled(cause) => cause,
            _ => Cause::Deadline,
        }
    });
    let mut enough = matches!(course.end, Some(End::Enough));
    while let Ok(report) = course.reports.try_recv() {
        enough |= sink(report, course.ahead()).is_break();
    }
    match (course.end, cut) {
        (Some(End::Panicked(payload)), _) => resume_unwind(payload),
        (None, Some(cause)) if !enough => course.input.forgo(cause, sink).await,
        _ => {}
    }
}

/// The scope of a plan.
pub(super) fn scope(plan: &Plan) -> Scope {
    let scope = Scope::named(&plan.name);
    match plan.deadline {
        Some(deadline) => scope.deadline(deadline),
        None => scope,
    }
}

/// What a panic was raised with.
pub(super) type Payload = Box<dyn Any + Send>;

/// Why no more items are started.
enum End {
    Done,
    Enough,
    Panicked(Payload),
}

struct Course<'a, S, T, E> {
    input: Input<'a, S>,
    spawner: Spawner<T, E>,
    reports: Receiver<Report<T, E>>,
    end: Option<End>,
}

impl<S, F, T, E> Course<'_, S, T, E>
where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>> + Send + 'static,
    T: Send + 'static,
    E: Send + 'static,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        group: &Group<Infallible>,
        sink: &mut impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
    ) -> Poll<()> {
        let end = ready!(self.poll_end(cx, group, sink));
        self.end = Some(end);
        Poll::Ready(())
    }

    fn poll_end(
        &mut self,
        cx: &mut Context<'_>,
        group: &Group<Infallible>,
        sink: &mut impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
    ) -> Poll<End> {
        while let Poll::Ready(Some(report)) = self.reports.poll_recv(cx) {
            if sink(report, self.ahead()).is_break() {
                return Poll::Ready(End::Enough);
            }
        }
        match ready!(self.spawner.fill(cx, group, &mut self.input)) {
            Err(payload) => Poll::Ready(End::Panicked(payload)),
            Ok(()) if self.spawner.running() == 0 => Poll::Ready(End::Done),
            Ok(()) => Poll::Pending,
        }
    }

    fn ahead(&self) -> Ahead {
        self.input.ahead(self.spawner.running())
    }
}

/// Starts items. Each holds a place in the channel of reports from before it is taken out of the input until its report is read:
/// so the channel is what bounds them, and a report never waits.
pub(super) struct Spawner<T, E> {
    reports: Sender<Report<T, E>>,
    name: Arc<str>,
    deadline: Option<Deadline>,
}

impl<T, E> Spawner<T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    /// With a deadline that the items keep by themselves.
    pub(super) fn new(
        plan: &Plan,
        deadline: Option<Deadline>,
    ) -> (Spawner<T, E>, Receiver<Report<T, E>>) {
        let (sender, reports) = mpsc::channel(plan.limit.min(Semaphore::MAX_PERMITS));
        let spawner = Spawner {
            reports: sender,
            name: plan.name.clone(),
            deadline,
        };
        (spawner, reports)
    }

    /// Items that were started and whose reports were not read.
    pub(super) fn running(&self) -> usize {
        self.reports.max_capacity() - self.reports.capacity()
    }

    /// Starts items as long as there is room and the input has some. Ready when the input is at its end, or panicked. When there
    /// is no room it must be called again after a report was read.
    pub(super) fn fill<S, F>(
        &self,
        cx: &mut Context<'_>,
        group: &Group<Infallible>,
        input: &mut Input<'_, S>,
    ) -> Poll<Result<(), Payload>>
    where
        S: Stream<Item = F>,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        for _ in 0..POLLS_MAX {
            let Ok(place) = self.reports.clone().try_reserve_owned() else {
                return Poll::Pending;
            };
            match catch_unwind(AssertUnwindSafe(|| input.poll(cx))) {
                Ok(Poll::Ready(Some((index, item)))) => self.start(group, index, item, place),
                Ok(Poll::Ready(None)) => return Poll::Ready(Ok(())),
                Ok(Poll::Pending) => return Poll::Pending,
                Err(payload) => return Poll::Ready(Err(payload)),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn start<F>(
        &self,
        group: &Group<Infallible>,
        index: usize,
        item: F,
        place: OwnedPermit<Report<T, E>>,
    ) where
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        let report = move |outcome| drop(place.send(Report::of_own_task(index, outcome)));
        let task = Reported::new(item, group.cancel_token(), report).until(self.deadline);
        let group = group.named(format!("{}[{index}]", self.name));
        drop(group.spawn(async move {
            task.await;
            Ok(())
        }));
    }
}

impl<T, E> Report<T, E> {
    /// Polled by a task of its own, which is the present one.
    fn of_own_task(index: usize, outcome: Outcome<T, E>) -> Report<T, E> {
        let node = Node::current();
        Report {
            index,
            outcome,
            node: node.as_ref().map_or(0, Node::id),
            elapsed: node.map_or(Duration::ZERO, |node| node.age()),
        }
    }
}
