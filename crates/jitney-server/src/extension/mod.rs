//! Triton's extensions: what they ask of the server, gathered once for every face that shows it.
//!
//! The answers are the plain values of [`crate::protocol::extension`]; whether they travel as JSON or in the messages of gRPC is no matter here.

pub(crate) mod configuration;
pub(crate) mod logging;
pub(crate) mod repository;
pub(crate) mod statistics;
pub(crate) mod trace;

use crate::observe::logging::Levels;

/// The extensions that the server's metadata names, always.
const ALWAYS: [&str; 9] = [
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "model_repository",
    "model_repository(unload_dependents)",
    "parameters",
    "schedule_policy",
    "statistics",
    "trace",
];

/// The extensions that the server's metadata names: those that work, and no others, since clients go by them.
pub(crate) fn served(levels: Option<&dyn Levels>) -> Vec<&'static str> {
    let logging = levels.map(|_| "logging");
    ALWAYS.into_iter().chain(logging).collect()
}
