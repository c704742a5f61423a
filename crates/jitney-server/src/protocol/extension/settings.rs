//! The settings of the log and of traces: Triton's logging and trace extensions.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::read;
use crate::failure::Failure;

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LogSettings {
    /// Empty: the log goes to standard error.
    pub log_file: &'static str,
    /// Whether informational lines are written.
    pub log_info: bool,
    /// Whether warnings are.
    pub log_warning: bool,
    /// Whether errors are.
    pub log_error: bool,
    /// 0; 1 with lines for debugging; 2 with all.
    pub log_verbose_level: u32,
    /// `default`.
    pub log_format: &'static str,
}

/// What a setting is set to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum LogValue {
    /// A switch.
    Bool(bool),
    /// A level.
    Level(u32),
    /// A word.
    Text(String),
}

/// The settings of traces, all but the level as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TraceSettings {
    /// Empty: traces are lines of the log.
    pub trace_file: &'static str,
    /// `OFF` or `TIMESTAMPS`.
    pub trace_level: [&'static str; 1],
    /// One in so many requests.
    pub trace_rate: String,
    /// How many are left; `-1` without end.
    pub trace_count: String,
    /// `0`: each is written at once.
    pub log_frequency: &'static str,
}

/// New values of trace settings by name, in which `None` takes a setting back.
pub type TraceValues = BTreeMap<String, Option<Vec<String>>>;

/// Reads new settings of the log.
///
/// # Errors
/// `invalid_input`.
pub fn read_log(body: &[u8]) -> Result<BTreeMap<String, LogValue>, Failure> {
    read(body)
}

/// Reads new settings of traces. A value is text, a list of texts, a number, or null.
///
/// # Errors
/// `invalid_input`.
///
/// ```
/// use jitney_server::protocol::extension::settings::read_trace;
///
/// let values = read_trace(br#"{"trace_level": ["TIMESTAMPS"], "trace_rate": "10", "trace_count": null}"#)?;
/// assert_eq!(values["trace_rate"], Some(vec!["10".to_owned()]));
/// assert_eq!(values["trace_count"], None);
/// # Ok::<(), jitney_server::failure::Failure>(())
/// ```
pub fn read_trace(body: &[u8]) -> Result<TraceValues, Failure> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum TraceValue {
        Texts(Vec<String>),
        Text(String),
        Number(i64),
    }
    let values: BTreeMap<String, Option<TraceValue>> = read(body)?;
    let texts = |value| match value {
        TraceValue::Texts(texts) => texts,
        TraceValue::Text(text) => vec![text],
        TraceValue::Number(number) => vec![number.to_string()],
    };
    let values = values.into_iter();
    Ok(values
        .map(|(name, value)| (name, value.map(texts)))
        .collect())
}
