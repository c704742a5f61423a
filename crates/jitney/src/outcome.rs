//! How one piece of work ended, as data: what [`gather`](crate::gather()), [`Background`](crate::Background) and
//! [`Jobs`](crate::Jobs) say of each.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use pin_project_lite::pin_project;
use tokio::time::Sleep;

use crate::cancel::{Cancel, Cause, Deadline};
use crate::group::{FailureKind, panic_message};

/// How one piece of work ended. A failure is never a value that looks like a result.
///
/// ```
/// use jitney::Outcome;
/// let outcome: Outcome<u8, std::num::ParseIntError> = "256".parse().into();
/// assert_eq!(outcome.to_string(), "number too large to fit in target type");
/// assert!(outcome.into_result().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "it may be a failure: read it, or say that you do not care with drop(..)"]
pub enum Outcome<T, E> {
    /// It gave its value.
    Ok(T),
    /// It returned an error.
    Err(E),
    /// It panicked, and this is what the panic said, cut at [`PANIC_MESSAGE_MAX`](crate::group::PANIC_MESSAGE_MAX) bytes.
    Panicked(String),
    /// It was dropped before it was done, or before it began.
    Cancelled(Cause),
    /// It was not done when the deadline passed, and was dropped.
    TimedOut,
}

impl<T, E> Outcome<T, E> {
    /// Whether it gave its value.
    pub fn is_ok(&self) -> bool {
        matches!(self, Outcome::Ok(_))
    }

    /// The value, if there is one.
    pub fn ok(self) -> Option<T> {
        match self {
            Outcome::Ok(value) => Some(value),
            _ => None,
        }
    }

    /// The value, or what went wrong in the words of a group. What was late is cancelled by a deadline there, for an outcome does not
    /// say which one.
    ///
    /// # Errors
    /// Everything that is not [`Outcome::Ok`].
    pub fn into_result(self) -> Result<T, FailureKind<E>> {
        Err(match self {
            Outcome::Ok(value) => return Ok(value),
            Outcome::Err(error) => FailureKind::Error(error),
            Outcome::Panicked(message) => FailureKind::Panic { message },
            Outcome::Cancelled(cause) => FailureKind::Cancelled(cause),
            Outcome::TimedOut => FailureKind::Cancelled(Cause::Deadline),
        })
    }

    /// What becomes of work that was cut off for this reason.
    pub(crate) fn cut(cause: Cause) -> Outcome<T, E> {
        match cause {
            Cause::Deadline => Outcome::TimedOut,
            cause => Outcome::Cancelled(cause),
        }
    }
}

impl<T, E> From<Result<T, E>> for Outcome<T, E> {
    fn from(result: Result<T, E>) -> Self {
        match result {
            Ok(value) => Outcome::Ok(value),
            Err(error) => Outcome::Err(error),
        }
    }
}

impl<T, E: fmt::Display> fmt::Display for Outcome<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Ok(_) => f.write_str("ok"),
            Outcome::Err(error) => error.fmt(f),
            Outcome::Panicked(message) => write!(f, "panicked: {message}"),
            Outcome::Cancelled(cause) => write!(f, "cancelled: {cause}"),
            Outcome::TimedOut => f.write_str("not done when the deadline passed"),
        }
    }
}

/// Polls a future, and makes a panic its outcome.
pub(crate) fn poll_caught<F, T, E>(future: Pin<&mut F>, cx: &mut Context<'_>) -> Poll<Outcome<T, E>>
where
    F: Future<Output = Result<T, E>>,
{
    match catch_unwind(AssertUnwindSafe(|| future.poll(cx))) {
        Ok(polled) => polled.map(Outcome::from),
        Err(payload) => Poll::Ready(Outcome::Panicked(panic_message(&*payload))),
    }
}

/// Drops a future, whose destructor may panic too; then that is the outcome.
pub(crate) fn drop_caught<F, T, E>(
    mut future: Pin<&mut Option<F>>,
    outcome: Outcome<T, E>,
) -> Outcome<T, E> {
    match catch_unwind(AssertUnwindSafe(|| future.set(None))) {
        Ok(()) => outcome,
        Err(payload) => Outcome::Panicked(panic_message(&*payload)),
    }
}

pin_project! {
    /// The future of a task that reports how it ended exactly once, also if it panics or is dropped, after its own future
    /// is gone. Made on the task's way into a group, whose request to stop tells why it was dropped.
    pub(crate) struct Reported<F, T, E, R>
    where
        F: Future<Output = Result<T, E>>,
        R: FnOnce(Outcome<T, E>),
    {
        #[pin]
        future: Option<F>,
        report: Option<R>,
        cancel: Cancel,
        alarm: Option<Pin<Box<Sleep>>>,
    }

    impl<F, T, E, R> PinnedDrop for Reported<F, T, E, R>
    where
        F: Future<Output = Result<T, E>>,
        R: FnOnce(Outcome<T, E>),
    {
        fn drop(this: Pin<&mut Self>) {
            let this = this.project();
            if let Some(report) = this.report.take() {
                // Only a runtime that shuts down drops a task that nobody cancelled.
                let cause = this.cancel.cause().unwrap_or(Cause::Shutdown);
                report(drop_caught(this.future, Outcome::cut(cause)));
            }
        }
    }
}

impl<F, T, E, R> Reported<F, T, E, R>
where
    F: Future<Output = Result<T, E>>,
    R: FnOnce(Outcome<T, E>),
{
    pub(crate) fn new(future: F, cancel: Cancel, report: R) -> Self {
        Reported {
            future: Some(future),
            report: Some(report),
            cancel,
            alarm: None,
        }
    }

    /// Has it end at the deadline by itself, for when nobody may be there to cancel its group.
    pub(crate) fn until(mut self, deadline: Option<Deadline>) -> Self {
        self.alarm = deadline.map(|at| Box::pin(tokio::time::sleep_until(at.into())));
        self
    }
}

impl<F, T, E, R> Future for Reported<F, T, E, R>
where
    F: Future<Output = Result<T, E>>,
    R: FnOnce(Outcome<T, E>),
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(future) = this.future.as_mut().as_pin_mut() else {
            return Poll::Ready(());
        };
        let outcome = match poll_caught(future, cx) {
            Poll::Ready(outcome) => outcome,
            Poll::Pending => match this.alarm {
                Some(alarm) => {
                    ready!(alarm.as_mut().poll(cx));
                    Outcome::TimedOut
                }
                None => return Poll::Pending,
            },
        };
        let outcome = drop_caught(this.future, outcome);
        if let Some(report) = this.report.take() {
            report(outcome);
        }
        Poll::Ready(())
    }
}
