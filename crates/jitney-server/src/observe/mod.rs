//! What the server says about itself: numbers in [`metrics`], what may stand in a log line in [`logging`], single requests in [`trace`].

pub mod logging;
pub mod metrics;
pub mod trace;
