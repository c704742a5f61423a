//! Outcomes in the order in which they come.

use std::fmt;
use std::panic::resume_unwind;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use futures_util::Stream;
use tokio::sync::mpsc::Receiver;

use super::input::Input;
use super::parallel::{Payload, Spawner, scope};
use super::{Plan, Report};
use crate::outcome::Outcome;

/// The outcomes of a gather as they come. Made by [`Gather::as_completed`](super::Gather::as_completed).
///
/// When it gives `None`, nothing that the items started is running. Dropping it before cancels them, and the nearest
/// [`Scope`](crate::Scope) around waits for them.
#[must_use = "no item is started before the stream is polled"]
pub struct AsCompleted<'a, T, E> {
    /// None when it is over. What it gives is a panic of the input.
    scope: Option<Pin<Box<dyn Future<Output = Option<Payload>> + Send + 'a>>>,
    reports: Receiver<Report<T, E>>,
}

/// How one item ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed<T, E> {
    /// Its place in the input.
    pub index: usize,
    /// How it ended.
    pub outcome: Outcome<T, E>,
}

impl<'a, T, E> AsCompleted<'a, T, E>
where
    T: Send + 'static,
    E: Send + 'static,
{
    pub(super) fn new<S, F>(plan: Plan, items: S) -> AsCompleted<'a, T, E>
    where
        S: Stream<Item = F> + Send + 'a,
        F: Future<Output = Result<T, E>> + Send + 'static,
    {
        // A consumer that is busy does not poll the scope, which could not keep the deadline meanwhile.
        let (spawner, reports) = Spawner::new(&plan, plan.deadline);
        let scope = async move {
            let items = pin!(items);
            let mut input = Input::new(items);
            let mut panic = None;
            let body = async |group| {
                let filled = std::future::poll_fn(|cx| spawner.fill(cx, &group, &mut input));
                panic = filled.await.err();
                Ok(())
            };
            // What the scope says of items that it cut off is in their reports.
            drop(scope(&plan).run(body).await);
            panic
        };
        AsCompleted {
            scope: Some(Box::pin(scope)),
            reports,
        }
    }
}

impl<T, E> Stream for AsCompleted<'_, T, E> {
    type Item = Completed<T, E>;

    /// # Panics
    /// If the input panicked, once nothing runs any more.
    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // The scope first, each time: what was consumed before made room for new items.
        if let Some(scope) = &mut self.scope
            && let Poll::Ready(panic) = scope.as_mut().poll(cx)
        {
            self.scope = None;
            if let Some(payload) = panic {
                resume_unwind(payload);
            }
        }
        self.reports.poll_recv(cx).map(|report| {
            let Report { index, outcome, .. } = report?;
            Some(Completed { index, outcome })
        })
    }
}

impl<T, E> fmt::Debug for AsCompleted<'_, T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsCompleted")
            .field("is_over", &self.scope.is_none())
            .finish_non_exhaustive()
    }
}
