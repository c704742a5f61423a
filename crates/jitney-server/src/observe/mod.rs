//! What the server says about itself: numbers in [`metrics`], and what may stand in a log line in [`logging`].

pub mod logging;
pub mod metrics;
