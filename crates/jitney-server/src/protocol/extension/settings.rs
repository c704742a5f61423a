//! The settings of the log and of traces: Triton's logging and trace extensions.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::{Number, Value};

use super::super::Excerpt;
use super::read;
use crate::failure::Failure;
use crate::observe::logging;

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogValue {
    /// A switch.
    Bool(bool),
    /// A level.
    Level(u32),
    /// A word.
    Text(String),
}

impl fmt::Display for LogValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LogValue::Bool(on) => write!(f, "{on}"),
            LogValue::Level(level) => write!(f, "{level}"),
            LogValue::Text(text) => write!(f, "\"{}\"", Excerpt(text)),
        }
    }
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
    let values: BTreeMap<String, Value> = read(body)?;
    let values = values.into_iter();
    values
        .map(|(name, value)| match log_value(&value) {
            Some(value) => Ok((name, value)),
            None => Err(wrong(
                &name,
                "true, false, a whole number from 0 or a text",
                &value,
            )),
        })
        .collect()
}

/// Reads new settings of traces. A value is text, a list of texts, or null.
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
    let values: BTreeMap<String, Value> = read(body)?;
    let values = values.into_iter();
    values
        .map(|(name, value)| match value {
            Value::Null => Ok((name, None)),
            value => match texts(&value) {
                Some(texts) => Ok((name, Some(texts))),
                None => Err(wrong(&name, "a text, a list of texts or null", &value)),
            },
        })
        .collect()
}

fn log_value(value: &Value) -> Option<LogValue> {
    Some(match value {
        Value::Bool(on) => LogValue::Bool(*on),
        Value::String(text) => LogValue::Text(text.clone()),
        Value::Number(number) => LogValue::Level(whole(number)?),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    })
}

/// A whole number, which may be written as `1.0`.
fn whole(number: &Number) -> Option<u32> {
    let number = number.as_f64()?;
    let whole = number.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&number);
    whole.then_some(number as u32)
}

fn texts(value: &Value) -> Option<Vec<String>> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match value {
        Value::Array(values) => values.iter().map(text).collect(),
        value => Some(vec![text(value)?]),
    }
}

fn wrong(name: &str, expected: &str, got: &Value) -> Failure {
    let name = logging::escaped(name);
    let got = match got {
        Value::Array(_) => "a list".to_owned(),
        Value::Object(_) => "an object".to_owned(),
        Value::String(text) => format!("\"{}\"", Excerpt(text)),
        got => got.to_string(),
    };
    Failure::invalid(format!("{name}: expected {expected}, got {got}"))
}
