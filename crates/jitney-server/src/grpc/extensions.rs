//! Triton's extensions: the methods beside those of the Open Inference Protocol.

use bytes::Bytes;

use super::service::{Caller, Service};
use super::wire::Pieces;
use crate::failure::{Code, Failure};

/// The names of the extensions that are served. Clients ask for what stands here.
pub(super) const ADVERTISED: &[&str] = &[];

/// A method of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extension {
    ModelConfig,
    ModelStatistics,
    RepositoryIndex,
    RepositoryModelLoad,
    RepositoryModelUnload,
    TraceSetting,
    LogSettings,
}

impl Extension {
    /// The method of that name, if it is one of an extension.
    pub(super) fn find(method: &str) -> Option<Extension> {
        match method {
            "ModelConfig" => Some(Extension::ModelConfig),
            "ModelStatistics" => Some(Extension::ModelStatistics),
            "RepositoryIndex" => Some(Extension::RepositoryIndex),
            "RepositoryModelLoad" => Some(Extension::RepositoryModelLoad),
            "RepositoryModelUnload" => Some(Extension::RepositoryModelUnload),
            "TraceSetting" => Some(Extension::TraceSetting),
            "LogSettings" => Some(Extension::LogSettings),
            _ => None,
        }
    }
}

/// Answers a message to a method of an extension.
pub(super) async fn answer(
    _service: &Service,
    _caller: &Caller,
    _extension: Extension,
    _message: Bytes,
) -> Result<Pieces, Failure> {
    Err(Failure::new(
        Code::MethodNotAllowed,
        "this extension is not served",
    ))
}
