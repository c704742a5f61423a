//! What callers are told when a model does not answer.

use std::time::Duration;

use jitney::batch::{BatchError, Refused};
use jitney_engine::{RunError, stack};

use super::quarantine::Verdict;
use crate::failure::{Code, Failure};

/// When to try again a model that is not there now but may soon be.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// What the batcher's refusal is to a caller.
pub(super) fn refusal(refused: &Refused) -> Failure {
    match refused {
        Refused::Full {
            queued,
            retry_after,
        } => Failure::new(
            Code::Overloaded,
            format!("the model's queue is full: {queued} requests wait"),
        )
        .retry_after(*retry_after),
        Refused::TooLate { remaining, .. } if remaining.is_zero() => Failure::new(
            Code::DeadlineExceeded,
            "the deadline had passed before the request could be queued",
        ),
        Refused::TooLate {
            estimate,
            remaining,
        } => Failure::new(
            Code::Overloaded,
            format!(
                "it could not be answered in time: about {estimate:.0?} are needed, {remaining:.0?} are left"
            ),
        )
        .retry_after(*estimate),
        Refused::TooLarge { rows, max_batch } => Failure::invalid(format!(
            "the request has {rows} rows, but the model takes at most {max_batch} in one request"
        )),
        Refused::Closed => draining(),
        Refused::Failed(_) => no_instance(),
    }
}

/// What the batcher's failure is to a caller. Texts about the inside are left out.
pub(super) fn failure(error: &BatchError<stack::Error>) -> Failure {
    match error {
        BatchError::Expired { .. } | BatchError::RunLimit(_) => {
            Failure::new(Code::DeadlineExceeded, error.to_string())
        }
        BatchError::Closed => draining(),
        BatchError::CountMismatch { .. } => Failure::new(Code::OutputMismatch, error.to_string()),
        BatchError::Panicked(_) => crashed(),
        BatchError::Failed(_) => no_instance(),
        BatchError::Model(error) => model_failure(error),
        BatchError::Lost => Failure::new(Code::Internal, "the server lost the request"),
    }
}

/// What a model's own error is to a caller.
pub(super) fn model_failure(error: &stack::Error) -> Failure {
    match error {
        stack::Error::Run(RunError::InvalidInput(message)) => Failure::invalid(message),
        stack::Error::Run(RunError::Failed(message)) => Failure::new(Code::ModelError, message),
        stack::Error::Run(RunError::Crashed(_)) => {
            Failure::new(Code::WorkerCrashed, error.to_string())
        }
        stack::Error::Run(RunError::RunLimit(_)) => {
            Failure::new(Code::DeadlineExceeded, error.to_string())
        }
        stack::Error::Run(RunError::Unavailable(message)) => {
            Failure::new(Code::Failed, message).retry_after(SOON * 5)
        }
        stack::Error::Mismatch(message) => Failure::new(Code::OutputMismatch, message),
    }
}

/// What a request is told whose inputs are in quarantine for so long.
pub(super) fn quarantined(verdict: Verdict, left: Duration) -> Failure {
    let (code, did) = match verdict {
        Verdict::Crashes => (
            Code::WorkerCrashed,
            "crashed the model's process twice while it was run alone",
        ),
        Verdict::Hangs => (
            Code::DeadlineExceeded,
            "ran past the model's limit while it was run alone",
        ),
    };
    Failure::new(
        code,
        format!(
            "a request with the same input {did}, so this one was not run; it may be tried again in {} s",
            left.as_secs().max(1)
        ),
    )
}

/// What everyone in a batch is told whose process died, where the model must not run a request twice: nobody knows who was to blame.
pub(super) fn died_once() -> Failure {
    Failure::new(
        Code::Failed,
        "the model's process died while it ran this request, and the model allows no second run; whether the first had an effect is not known",
    )
    .retry_after(SOON)
}

/// What a request is told on which the model panicked.
pub(super) fn crashed() -> Failure {
    Failure::new(
        Code::WorkerCrashed,
        "the model crashed while it computed this request",
    )
}

/// What a stream is told whose time is over.
pub(super) fn expired() -> Failure {
    Failure::new(
        Code::DeadlineExceeded,
        "the deadline passed before the model had given its results",
    )
}

/// What a model that is being closed answers.
pub(super) fn draining() -> Failure {
    Failure::new(Code::Draining, "the model is being closed").retry_after(SOON)
}

/// What a model answers whose instances are all lost.
pub(super) fn no_instance() -> Failure {
    Failure::new(Code::Failed, "no instance of the model is alive").retry_after(SOON * 5)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn refusals_on_the_wire() {
        let table = [
            (
                Refused::Full {
                    queued: 256,
                    retry_after: S,
                },
                Code::Overloaded,
                "the model's queue is full: 256 requests wait",
                Some(S),
            ),
            (
                Refused::TooLate {
                    estimate: S * 2,
                    remaining: S,
                },
                Code::Overloaded,
                "it could not be answered in time: about 2s are needed, 1s are left",
                Some(S * 2),
            ),
            (
                Refused::TooLate {
                    estimate: S,
                    remaining: Duration::ZERO,
                },
                Code::DeadlineExceeded,
                "the deadline had passed before the request could be queued",
                None,
            ),
            (
                Refused::TooLarge {
                    rows: 40,
                    max_batch: 32,
                },
                Code::InvalidInput,
                "the request has 40 rows, but the model takes at most 32 in one request",
                None,
            ),
            (
                Refused::Closed,
                Code::Draining,
                "the model is being closed",
                Some(S),
            ),
            (
                Refused::Failed("thread died at /srv/secret.rs:3".into()),
                Code::Failed,
                "no instance of the model is alive",
                Some(S * 5),
            ),
        ];
        for (refused, code, message, retry_after) in table {
            let expected = Failure {
                code,
                message: message.to_owned(),
                retry_after,
            };
            assert_eq!(refusal(&refused), expected);
        }
    }

    #[test]
    fn failures_on_the_wire() {
        let model = |error: stack::Error| BatchError::Model(Arc::new(error));
        let table = [
            (
                BatchError::Expired { running: false },
                Code::DeadlineExceeded,
                "the deadline passed in the queue",
            ),
            (
                BatchError::Expired { running: true },
                Code::DeadlineExceeded,
                "the deadline passed while the model ran",
            ),
            (
                BatchError::RunLimit(S * 30),
                Code::DeadlineExceeded,
                "the model ran longer than its limit of 30s",
            ),
            (
                BatchError::Closed,
                Code::Draining,
                "the model is being closed",
            ),
            (
                BatchError::CountMismatch {
                    expected: 3,
                    got: 2,
                },
                Code::OutputMismatch,
                "the model gave 2 results for 3 items",
            ),
            (
                BatchError::Panicked("index out of bounds at /srv/secret.rs:3".into()),
                Code::WorkerCrashed,
                "the model crashed while it computed this request",
            ),
            (
                BatchError::Failed("/srv/secret".into()),
                Code::Failed,
                "no instance of the model is alive",
            ),
            (
                model(RunError::InvalidInput("ids must be below 100".to_owned()).into()),
                Code::InvalidInput,
                "ids must be below 100",
            ),
            (
                model(RunError::Failed("ValueError: no".to_owned()).into()),
                Code::ModelError,
                "ValueError: no",
            ),
            (
                model(stack::Error::Mismatch("2 rows for 3".to_owned())),
                Code::OutputMismatch,
                "2 rows for 3",
            ),
            (
                BatchError::Lost,
                Code::Internal,
                "the server lost the request",
            ),
        ];
        for (error, code, message) in table {
            let failure = failure(&error);
            assert_eq!((failure.code, &*failure.message), (code, message));
        }
    }
}
