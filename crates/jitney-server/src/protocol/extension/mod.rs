//! The documents of Triton's extensions: plain values with the names of the wire, as JSON.
//!
//! Numbers are JSON numbers, also those of 64 bits, as Triton writes them.

pub mod configuration;
pub mod repository;
pub mod settings;
pub mod statistics;

/// What can be written as a document.
pub(crate) use serde::Serialize as Document;
use serde::de::DeserializeOwned;

use crate::failure::Failure;
use crate::observe::logging;

/// A document as JSON.
pub(crate) fn body(document: &impl Document) -> Vec<u8> {
    // Every key is a string, and writing to memory cannot fail.
    serde_json::to_vec(document).unwrap_or_default()
}

/// Reads the body of a request; none is as good as an empty object.
fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Failure> {
    let body = match body.trim_ascii() {
        [] => b"{}",
        body => body,
    };
    // An array would be taken for an object whose fields come in order.
    if !body.starts_with(b"{") {
        return Err(Failure::invalid(
            "the body must be an object of JSON, or empty",
        ));
    }
    serde_json::from_slice(body).map_err(|error| {
        let error = error.to_string();
        Failure::invalid(format!(
            "the body is not what this path takes: {}",
            logging::one_line(&error)
        ))
    })
}
