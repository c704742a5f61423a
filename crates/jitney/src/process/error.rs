//! What can go wrong, in the words of the caller.

use std::time::Duration;

use bytes::Bytes;

use super::supervisor::StartFailure;
use super::{Program, Request};

/// Why a pool did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The settings make no sense.
    #[error("{0}")]
    Settings(String),
    /// The program, or what a pool needs of the system, is not to be had.
    #[error("cannot run {program}: {error}")]
    Spawn {
        /// What was to be run.
        program: String,
        /// What the system said.
        error: String,
    },
    /// The first worker said that it cannot serve; these are its words.
    #[error("the worker cannot serve: {}", String::from_utf8_lossy(.0))]
    Failed(Bytes),
    /// The first worker was not ready within the start limit.
    #[error("the worker was not ready within {0:?}: raise the start limit if it needs longer")]
    Slow(Duration),
    /// The first worker died before it was ready, and so did those after it.
    #[error("the worker {0} before it was ready")]
    Died(String),
}

/// Why a call has no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The worker died while it ran this.
    #[error("the worker {0} while it ran this")]
    Crashed(String),
    /// The run took longer than its limit; the worker was killed.
    #[error("the run took longer than {0:?}, and its worker was killed")]
    Hung(Duration),
    /// The worker sent what is no reply; it was killed.
    #[error("the worker did not keep to the protocol: {0}")]
    Garbage(String),
    /// There is no worker, or none was free in time. Or the worker to which this was sent talked nonsense about another call and was killed,
    /// and whether it had begun this is not known.
    #[error("{0}")]
    Unavailable(String),
    /// [`Request::meta`] is longer than [`Request::META_MAX`], or the payload longer than [`super::Settings::payload_max`].
    #[error("the {what} has {bytes} bytes, and at most {max} can be sent")]
    TooLarge {
        /// Which part.
        what: &'static str,
        /// How long it is.
        bytes: u64,
        /// How long it may be.
        max: u64,
    },
    /// The pool was closed.
    #[error("the pool of workers was closed")]
    Closed,
}

impl CallError {
    /// Whether a request can be sent at all.
    pub(super) fn check(request: &Request<'_>, payload: u64, payload_max: u64) -> Result<(), Self> {
        let too_large = |what, bytes, max| Err(Self::TooLarge { what, bytes, max });
        if request.meta.len() > Request::META_MAX {
            return too_large(
                "head of the message",
                request.meta.len() as u64,
                Request::META_MAX as u64,
            );
        }
        if payload > payload_max {
            return too_large("payload", payload, payload_max);
        }
        Ok(())
    }
}

impl StartError {
    /// The error of a first start that came to nothing.
    pub(super) fn of(failure: StartFailure, program: &Program) -> Self {
        match failure {
            StartFailure::Refused(why) => Self::Failed(why),
            StartFailure::Slow(limit) => Self::Slow(limit),
            StartFailure::Died(how) => Self::Died(how),
            StartFailure::Spawn(error) => {
                Self::spawn(&program.executable.to_string_lossy(), &error)
            }
        }
    }

    pub(super) fn spawn(program: &str, error: &str) -> Self {
        Self::Spawn {
            program: program.to_string(),
            error: error.to_string(),
        }
    }
}
