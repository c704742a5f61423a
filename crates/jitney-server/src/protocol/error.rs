//! The body of every refusal.

use super::write;
use crate::failure::Failure;

/// The body `{"error": "a sentence", "code": "a_stable_word"}`.
///
/// ```
/// use jitney_server::failure::{Code, Failure};
/// use jitney_server::protocol::error;
///
/// let body = error::body(&Failure::new(Code::UnknownModel, "there is no model \"x\""));
/// assert_eq!(body, br#"{"error":"there is no model \"x\"","code":"unknown_model"}"#);
/// ```
pub fn body(failure: &Failure) -> Vec<u8> {
    let mut out = Vec::with_capacity(failure.message.len() + 64);
    encode(&mut out, failure);
    out
}

/// Writes that body.
pub(super) fn encode(out: &mut Vec<u8>, failure: &Failure) {
    write::text(out, r#"{"error":"#);
    write::string(out, &failure.message);
    write::text(out, r#","code":""#);
    write::text(out, failure.code.word());
    write::text(out, r#""}"#);
}
