//! What the server says about itself: numbers in [`metrics`], and what may stand in a log line in [`log`].

pub mod log;
pub mod metrics;
