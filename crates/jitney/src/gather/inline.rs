//! Running the items in the task that gathers.

use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::time::Sleep;

use super::input::Input;
use super::slots::Slots;
use super::{Ahead, POLLS_MAX, Plan, Report};
use crate::cancel::Cause;

/// Runs items until the input is at its end, the sink has enough, or the deadline passes. The sink is told of every item that was
/// started, and at the deadline of every other one.
pub(super) async fn run<S, F, T, E>(
    plan: &Plan,
    items: S,
    mut sink: impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
) where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>>,
{
    let items = pin!(items);
    let mut crew = Crew {
        input: Input::new(items),
        slots: Slots::new(),
        limit: plan.limit,
        alarm: plan
            .deadline
            .map(|at| Box::pin(tokio::time::sleep_until(at.into()))),
    };
    let end = std::future::poll_fn(|cx| crew.poll(cx, &mut sink)).await;
    let cause = match end {
        End::Done => return,
        End::Enough => Cause::SiblingFailed,
        End::TimedOut => Cause::Deadline,
    };
    let mut enough = end == End::Enough;
    for report in crew.slots.cut(cause) {
        enough |= sink(report.of_this_task(), crew.input.ahead(0)).is_break();
    }
    if !enough {
        crew.input.forgo(cause, sink).await;
    }
}

/// Why no more items are started.
#[derive(PartialEq)]
enum End {
    Done,
    Enough,
    TimedOut,
}

struct Crew<'a, S, F> {
    input: Input<'a, S>,
    slots: Slots<F>,
    limit: usize,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl<S, F, T, E> Crew<'_, S, F>
where
    S: Stream<Item = F>,
    F: Future<Output = Result<T, E>>,
{
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        sink: &mut impl FnMut(Report<T, E>, Ahead) -> ControlFlow<()>,
    ) -> Poll<End> {
        self.slots.register(cx.waker());
        if self.is_late(cx) {
            return Poll::Ready(End::TimedOut);
        }
        // Those that were woken before those that are new: an input that is always ready must not keep them waiting.
        self.slots.next_round();
        for _ in 0..POLLS_MAX {
            let report = match self.step(cx) {
                Step::Polled(report) => report,
                Step::Asleep => return Poll::Pending,
                Step::Done => return Poll::Ready(End::Done),
            };
            let Some(report) = report else { continue };
            let ahead = self.input.ahead(self.slots.len());
            if sink(report.of_this_task(), ahead).is_break() {
                return Poll::Ready(End::Enough);
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        self.alarm
            .as_mut()
            .is_some_and(|alarm| alarm.as_mut().poll(cx).is_ready())
    }

    /// Polls one item: one that was woken, or else a new one.
    fn step(&mut self, cx: &mut Context<'_>) -> Step<T, E> {
        if let Some(key) = self.slots.next_woken() {
            return Step::Polled(self.slots.poll(key));
        }
        if self.slots.len() < self.limit {
            match self.input.poll(cx) {
                Poll::Ready(Some((index, item))) => {
                    return Step::Polled(self.slots.start(index, item));
                }
                Poll::Ready(None) if self.slots.len() == 0 => return Step::Done,
                Poll::Ready(None) | Poll::Pending => {}
            }
        }
        match self.slots.next_round() {
            true => Step::Polled(None),
            false => Step::Asleep,
        }
    }
}

enum Step<T, E> {
    /// Something was done, and an item perhaps with it.
    Polled(Option<Report<T, E>>),
    Asleep,
    Done,
}
