//! The settings of traces, of the server and of single models.

use crate::failure::{Code, Failure};
use crate::observe::logging;
use crate::observe::metrics::Metrics;
use crate::observe::trace::{self, TraceChange};
use crate::protocol::Excerpt;
use crate::protocol::extension::settings::{TraceSettings, TraceValues};

/// The settings of a configured model, or of the server.
pub(crate) fn get(metrics: &Metrics, model: Option<&str>) -> TraceSettings {
    settings(metrics.traces(model))
}

/// Sets what is named, all of it or nothing.
///
/// # Errors
/// `forbidden` for what no request may set, `invalid_input`.
pub(crate) fn set(
    metrics: &Metrics,
    model: Option<&str>,
    values: &TraceValues,
) -> Result<TraceSettings, Failure> {
    let mut change = TraceChange::default();
    for (name, value) in values {
        read(&mut change, name, value.as_deref())?;
    }
    metrics.change_traces(model, &change);
    Ok(get(metrics, model))
}

fn read(change: &mut TraceChange, name: &str, value: Option<&[String]>) -> Result<(), Failure> {
    match name {
        "trace_level" => change.on = Some(value.map(level).transpose()?),
        "trace_rate" => change.rate = Some(value.map(rate).transpose()?),
        "trace_count" => change.count = Some(value.map(count).transpose()?),
        "log_frequency" => fixed(
            value,
            "0",
            "log_frequency can only be 0: each trace is written to the log at once",
        )?,
        "trace_file" => fixed(
            value,
            "",
            "trace_file cannot be set by a request: traces are lines of the log",
        )?,
        _ => {
            return Err(Failure::invalid(format!(
                "expected trace_level, trace_rate or trace_count, got \"{}\"",
                logging::escaped(name)
            )));
        }
    }
    Ok(())
}

fn level(value: &[String]) -> Result<bool, Failure> {
    let words: Vec<&str> = value.iter().map(String::as_str).collect();
    match *words {
        ["OFF"] => Ok(false),
        ["TIMESTAMPS"] => Ok(true),
        _ if words.contains(&"TENSORS") => Err(Failure::new(
            Code::Forbidden,
            "trace_level TENSORS is not served: what requests carry is not written anywhere",
        )),
        _ => Err(wrong("trace_level", "OFF or TIMESTAMPS", value)),
    }
}

fn rate(value: &[String]) -> Result<u64, Failure> {
    let rate = only(value).and_then(whole).filter(|rate| *rate > 0);
    rate.ok_or_else(|| wrong("trace_rate", "a whole number from 1", value))
}

fn count(value: &[String]) -> Result<Option<u64>, Failure> {
    let expected = "a whole number from 0, or -1 for traces without end";
    match only(value) {
        Some("-1") => Ok(None),
        text => match text.and_then(whole) {
            Some(count) => Ok(Some(count)),
            None => Err(wrong("trace_count", expected, value)),
        },
    }
}

fn wrong(name: &str, expected: &str, got: &[String]) -> Failure {
    let shown = |text: &String| format!("\"{}\"", Excerpt(text));
    let got = match got {
        [] => "no text".to_owned(),
        [only] => shown(only),
        [first, ..] => format!("{} texts, the first {}", got.len(), shown(first)),
    };
    Failure::invalid(format!("{name}: expected {expected}, got {got}"))
}

/// A number that is written as numbers are, and is far from the end of what there is room for.
fn whole(text: &str) -> Option<u64> {
    let number: u64 = text.parse().ok()?;
    (number < 1_000_000_000_000_000_000 && number.to_string() == text).then_some(number)
}

fn fixed(value: Option<&[String]>, only_one: &str, otherwise: &str) -> Result<(), Failure> {
    match value {
        None => Ok(()),
        Some(value) if only(value) == Some(only_one) => Ok(()),
        Some(_) => Err(Failure::new(Code::Forbidden, otherwise)),
    }
}

fn only(value: &[String]) -> Option<&str> {
    match value {
        [only] => Some(only),
        _ => None,
    }
}

fn settings(settings: trace::TraceSettings) -> TraceSettings {
    TraceSettings {
        trace_file: "",
        trace_level: [if settings.on { "TIMESTAMPS" } else { "OFF" }],
        trace_rate: settings.rate.to_string(),
        trace_count: settings
            .count
            .map_or_else(|| "-1".to_owned(), |count| count.to_string()),
        log_frequency: "0",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::extension::settings::read_trace;

    #[test]
    fn values_are_taken_or_refused_together() {
        let rows = [
            (
                r#"{"trace_level":["TIMESTAMPS"]}"#,
                Ok(("TIMESTAMPS", "1000", "-1")),
            ),
            (
                r#"{"trace_level":"TIMESTAMPS","trace_rate":"5","trace_count":"7"}"#,
                Ok(("TIMESTAMPS", "5", "7")),
            ),
            (
                r#"{"trace_rate":"2","log_frequency":"0","trace_file":""}"#,
                Ok(("OFF", "2", "-1")),
            ),
            (
                r#"{"trace_rate":null,"trace_level":null,"trace_count":null,"log_frequency":null}"#,
                Ok(("OFF", "1000", "-1")),
            ),
            (
                r#"{"trace_level":["TIMESTAMPS","TENSORS"]}"#,
                Err(Code::Forbidden),
            ),
            (
                r#"{"trace_rate":"3","trace_file":"/tmp/x"}"#,
                Err(Code::Forbidden),
            ),
            (
                r#"{"trace_rate":"3","log_frequency":"10"}"#,
                Err(Code::Forbidden),
            ),
            (r#"{"trace_rate":"0"}"#, Err(Code::InvalidInput)),
            (r#"{"trace_rate":["1","2"]}"#, Err(Code::InvalidInput)),
            (r#"{"trace_rate":"+1"}"#, Err(Code::InvalidInput)),
            (r#"{"trace_rate":"01"}"#, Err(Code::InvalidInput)),
            (
                r#"{"trace_rate":"1000000000000000000"}"#,
                Err(Code::InvalidInput),
            ),
            (r#"{"trace_count":"-2"}"#, Err(Code::InvalidInput)),
            (r#"{"trace_level":["MIN"]}"#, Err(Code::InvalidInput)),
            (r#"{"trace_level":[]}"#, Err(Code::InvalidInput)),
            (r#"{"trace_depth":"1"}"#, Err(Code::InvalidInput)),
        ];
        for (body, expected) in rows {
            let metrics = Metrics::new();
            let before = get(&metrics, None);
            let values = read_trace(body.as_bytes()).unwrap();
            let set = set(&metrics, None, &values).map_err(|failure| failure.code);
            let now = get(&metrics, None);
            let said = set.as_ref().map(|set| {
                assert_eq!(*set, now, "{body}");
                (set.trace_level[0], &*set.trace_rate, &*set.trace_count)
            });
            assert_eq!(said.map_err(|code| *code), expected, "{body}");
            if expected.is_err() {
                assert_eq!(now, before, "{body}");
            }
        }
    }
}
