//! What workers print and raise, as events of the log.

use std::fmt::Write as _;

use jitney::process::{Output, Stream};

use super::reply::Reply;

/// Writes what a worker of that model prints, and what becomes of it, as events.
pub(super) fn logger(model: &str) -> impl Fn(Output<'_>) + Send + Sync + use<> {
    let model = model.to_owned();
    move |output| match output {
        Output::Line {
            worker,
            stream,
            text,
            cut,
            ..
        } => {
            let more = if cut { "…" } else { "" };
            let (stream, text) = (name(stream), plain(text));
            tracing::info!(target: "jitney::model", model, worker, stream, "{text}{more}");
        }
        Output::Dropped { .. } => tracing::warn!(model, "{output}"),
        Output::Event { expected: true, .. } => tracing::info!(model, "{output}"),
        Output::Event { .. } => tracing::warn!(model, "{output}"),
        _ => {}
    }
}

fn name(stream: Stream) -> &'static str {
    match stream {
        Stream::Out => "stdout",
        Stream::Err => "stderr",
    }
}

/// Writes what callers are not told of a run: tracebacks, each with the ids of the requests it answers, and numbers that were lost.
pub(super) fn run<'a>(model: &str, ids: impl IntoIterator<Item = Option<&'a str>>, reply: &Reply) {
    if reply.non_finite > 0 {
        let non_finite = reply.non_finite;
        tracing::warn!(
            model,
            non_finite,
            "the model answered NaN or Infinity, which JSON has no number for: the word was sent in quotes"
        );
    }
    let ids = Vec::from_iter(ids);
    for failure in reply.failures() {
        let Some(traceback) = &failure.traceback else {
            continue;
        };
        let concerned = match failure.request {
            Some(request) => ids.get(request..=request).unwrap_or_default(),
            None => &ids,
        };
        let requests = concerned.iter().flatten().map(|id| plain(id));
        let requests = requests.collect::<Vec<_>>().join(" ");
        tracing::warn!(model, requests, "the model raised\n{}", lines(traceback));
    }
}

/// A traceback that cannot be taken for other lines of the log: each of its lines is indented.
pub(super) fn lines(traceback: &str) -> String {
    let mut text = String::with_capacity(traceback.len() + 64);
    for line in traceback.lines() {
        let _ = writeln!(text, "    {}", plain(line));
    }
    text.truncate(text.trim_end().len());
    text
}

/// Text without characters that a terminal would obey.
fn plain(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for char in text.chars() {
        if is_plain(char) {
            plain.push(char);
        } else {
            plain.extend(char.escape_default());
        }
    }
    plain
}

/// Whether a character shows as itself: it is neither a control character, other than a tab, nor one that hides or reorders others.
fn is_plain(char: char) -> bool {
    let hides = matches!(
        char,
        '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    );
    char == '\t' || !(char.is_control() || hides)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use jitney::process::Stream;
    use tracing::field::{Field, Visit};
    use tracing::span;

    use super::*;

    /// Keeps the fields of each event.
    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<String>>>);

    struct Fields(Vec<String>);

    impl Visit for Fields {
        fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
            self.0.push(format!("{field}={value:?}"));
        }
    }

    impl tracing::Subscriber for Kept {
        fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut fields = Fields(Vec::new());
            event.record(&mut fields);
            self.0.lock().unwrap().push(fields.0.join(" "));
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    #[test]
    fn printed_lines_say_who_printed_them() {
        let kept = Kept::default();
        tracing::subscriber::with_default(kept.clone(), || {
            logger("digits")(Output::Line {
                worker: 2,
                pid: 77,
                stream: Stream::Err,
                text: "red \u{1b}[31m",
                cut: true,
            });
        });
        let expected = r#"message=red \u{1b}[31m… model="digits" worker=2 stream="stderr""#;
        assert_eq!(*kept.0.lock().unwrap(), [expected]);
    }

    #[test]
    fn nothing_printed_can_pass_for_another_line() {
        let traceback =
            "Traceback:\n  File \"a\"\nValueError: \u{1b}[31m\r\u{202e}\n2026 ERROR forged\n";
        let expected = "    Traceback:\n      File \"a\"\n    ValueError: \\u{1b}[31m\\r\\u{202e}\n    2026 ERROR forged";
        assert_eq!(lines(traceback), expected);
    }
}
