//! The one vocabulary of failures, and the one table that takes it to the wire.

use std::time::Duration;

use http::StatusCode;

/// Why a request was not answered with a prediction. The text is for the caller: it says what was expected, what came and what to change,
/// and nothing of the server's inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The stable word for programs.
    pub code: Code,
    /// The sentence for people.
    pub message: String,
    /// When it is worth trying again, where that is known.
    pub retry_after: Option<Duration>,
}

/// The stable codes. One row of the table below each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the rows of the table below explain them")]
pub enum Code {
    InvalidInput,
    Unauthenticated,
    Forbidden,
    UnknownModel,
    NotFound,
    MethodNotAllowed,
    UnsupportedMediaType,
    RequestTimeout,
    TooLarge,
    MisdirectedRequest,
    UpgradeRequired,
    HeadersTooLarge,
    Overloaded,
    Cancelled,
    ModelError,
    WorkerCrashed,
    OutputMismatch,
    Internal,
    NotReady,
    Draining,
    Failed,
    DeadlineExceeded,
}

impl Code {
    /// Every code, in the order of the table.
    pub const ALL: [Code; 22] = [
        Code::InvalidInput,
        Code::Unauthenticated,
        Code::Forbidden,
        Code::UnknownModel,
        Code::NotFound,
        Code::MethodNotAllowed,
        Code::UnsupportedMediaType,
        Code::RequestTimeout,
        Code::TooLarge,
        Code::MisdirectedRequest,
        Code::UpgradeRequired,
        Code::HeadersTooLarge,
        Code::Overloaded,
        Code::Cancelled,
        Code::ModelError,
        Code::WorkerCrashed,
        Code::OutputMismatch,
        Code::Internal,
        Code::NotReady,
        Code::Draining,
        Code::Failed,
        Code::DeadlineExceeded,
    ];

    /// The stable word, the HTTP status and the gRPC status code.
    const fn row(self) -> (&'static str, u16, u8) {
        match self {
            Code::InvalidInput => ("invalid_input", 400, 3),
            Code::Unauthenticated => ("unauthenticated", 401, 16),
            Code::Forbidden => ("forbidden", 403, 7),
            Code::UnknownModel => ("unknown_model", 404, 5),
            Code::NotFound => ("not_found", 404, 5),
            Code::MethodNotAllowed => ("method_not_allowed", 405, 12),
            Code::UnsupportedMediaType => ("unsupported_media_type", 415, 12),
            Code::RequestTimeout => ("request_timeout", 408, 4),
            Code::TooLarge => ("too_large", 413, 8),
            Code::MisdirectedRequest => ("misdirected_request", 421, 9),
            Code::UpgradeRequired => ("upgrade_required", 426, 9),
            Code::HeadersTooLarge => ("headers_too_large", 431, 8),
            Code::Overloaded => ("overloaded", 429, 8),
            // 499 is nobody's standard, but the field's custom for "the client left"; no answer over HTTP has it.
            Code::Cancelled => ("cancelled", 499, 1),
            Code::ModelError => ("model_error", 500, 13),
            Code::WorkerCrashed => ("worker_crashed", 500, 13),
            Code::OutputMismatch => ("output_mismatch", 500, 13),
            Code::Internal => ("internal", 500, 13),
            Code::NotReady => ("not_ready", 503, 14),
            Code::Draining => ("draining", 503, 14),
            Code::Failed => ("failed", 503, 14),
            Code::DeadlineExceeded => ("deadline_exceeded", 504, 4),
        }
    }

    /// The stable word that programs match on.
    pub const fn word(self) -> &'static str {
        self.row().0
    }

    /// The HTTP status.
    pub fn http_status(self) -> StatusCode {
        StatusCode::from_u16(self.row().1).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The gRPC status code.
    pub const fn grpc_status(self) -> u8 {
        self.row().2
    }
}

impl Failure {
    /// A failure without advice about when to try again.
    pub fn new(code: Code, message: impl Into<String>) -> Failure {
        Failure {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// The caller's mistake.
    pub fn invalid(message: impl Into<String>) -> Failure {
        Failure::new(Code::InvalidInput, message)
    }

    /// Says when it is worth trying again.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Failure {
        self.retry_after = Some(after);
        self
    }
}
