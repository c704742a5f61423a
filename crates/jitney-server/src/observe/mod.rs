//! What the server says about itself: numbers in [`metrics`], to which each request adds its `record`, what may stand in a log line in
//! [`logging`], single requests in [`trace`].

pub mod logging;
pub mod metrics;
pub(crate) mod record;
pub mod trace;
