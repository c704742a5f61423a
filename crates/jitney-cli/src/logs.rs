//! The log: one line an event, on standard error.

use std::io::{self, Write};

use jitney_server::observe::logging::is_plain;
use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::fmt::MakeWriter;

use crate::args::logs::{LogArgs, LogFormat};
use crate::exit::Problem;

/// Sends every event of the process to standard error, as the settings say; those of `default_level` and above when they say nothing.
///
/// # Errors
/// When the level cannot be understood.
pub(crate) fn start(args: &LogArgs, default_level: &str) -> Result<(), Problem> {
    let level = args.log.as_deref().unwrap_or(default_level);
    let filter = EnvFilter::try_new(level).map_err(|error| {
        Problem::usage(format!("--log {level:?}: {error}"))
            .hint("give one of error, warn, info, debug, trace, or pairs such as warn,jitney_server=debug")
    })?;
    let events = fmt()
        .with_env_filter(filter)
        .with_writer(Lines)
        .with_ansi(false);
    let started = match args.log_format {
        LogFormat::Text => events.try_init(),
        LogFormat::Json => events.json().flatten_event(true).try_init(),
    };
    started.map_err(Problem::failure)?;
    log_panics();
    Ok(())
}

/// Makes a panic an event like any other: its text may hold what a client sent, and would come in lines of its own.
fn log_panics() {
    let by_default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        tracing::error!(
            panic = panic.payload_as_str().unwrap_or("no message"),
            at = panic.location().map(tracing::field::display),
            thread = std::thread::current().name(),
            "a thread panicked"
        );
        // Whoever asks for the trace gets it as the language prints it.
        if std::env::var_os("RUST_BACKTRACE").is_some_and(|wish| wish != "0") {
            by_default(panic);
        }
    }));
}

/// Makes writers that keep every event on one line.
struct Lines;

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Line<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        Line(io::stderr())
    }
}

/// Escapes control characters, so that nothing a client sends can forge an event or move a terminal's cursor.
/// The subscriber writes each event with one call, and its last byte is the line's end.
struct Line<W>(W);

impl<W: Write> Write for Line<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.0
            .write_all(escape(text.trim_end_matches('\n')).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn escape(line: &str) -> String {
    let mut escaped = String::with_capacity(line.len() + 1);
    for character in line.chars() {
        if is_plain(character) {
            escaped.push(character);
        } else {
            escaped.extend(character.escape_default());
        }
    }
    escaped.push('\n');
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_is_one_line_whatever_it_holds() {
        let table = [
            ("plain\n", "plain\n"),
            ("two\nlines\r\n", "two\\nlines\\r\n"),
            ("\u{1b}[31mred\n", "\\u{1b}[31mred\n"),
            (
                "bell\u{7} nul\0 next\u{85}\n",
                "bell\\u{7} nul\\u{0} next\\u{85}\n",
            ),
            ("turned \u{202e}around\n", "turned \\u{202e}around\n"),
            ("größer 模型\n", "größer 模型\n"),
        ];
        for (event, expected) in table {
            let mut written = Vec::new();
            Line(&mut written).write_all(event.as_bytes()).unwrap();
            assert_eq!(String::from_utf8(written).unwrap(), expected);
        }
    }
}
