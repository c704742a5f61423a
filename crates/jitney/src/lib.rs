//! Structured concurrency and dynamic batching for services that call models.

pub mod batch;
pub mod clock;
mod sync;
