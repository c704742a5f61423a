//! The log: one line an event, on standard error.

use std::fmt::Debug;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use jitney_server::observe::logging::{Level, Levels, is_plain};
use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{EnvFilter, filter_fn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Filter, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::args::logs::{LogArgs, LogFormat};
use crate::exit::Problem;

/// Sends every event of the process to standard error, as the settings say; those of `default_level` and above when they say nothing. What
/// it gives sets the levels while the process runs.
///
/// # Errors
/// When the level cannot be understood.
pub(crate) fn start(args: &LogArgs, default_level: &str) -> Result<Arc<dyn Levels>, Problem> {
    let level = args.log.as_deref().unwrap_or(default_level);
    let filter = typed_filter(level).map_err(|error| {
        Problem::usage(format!("--log {level:?}: {error}"))
            .hint("give one of off, error, warn, info, debug, trace, or pairs such as warn,jitney_server=debug")
    })?;
    let level = level_of(filter.max_level_hint());
    let (filter, handle) = reload::Layer::new(Box::new(filter) as AnyFilter);
    let lines = fmt::layer().with_writer(Lines).with_ansi(false);
    let lines = match args.log_format {
        LogFormat::Text => lines.with_filter(filter).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).with_filter(filter).boxed(),
    };
    let started = tracing_subscriber::registry().with(lines).try_init();
    started.map_err(Problem::failure)?;
    log_panics();
    Ok(Arc::new(Switches {
        level: Mutex::new(level),
        handle,
    }))
}

/// The parser takes a word that is no level for the name of a module: with `--log verbose` there would be no log at all, and no word of it.
fn typed_filter(text: &str) -> Result<EnvFilter, String> {
    let is_level = |word: &str| word.parse::<LevelFilter>().is_ok();
    let is_sound = |part: &str| match part.rsplit_once('=') {
        Some((_, level)) => !level.is_empty(),
        None => is_level(part),
    };
    match text.split(',').map(str::trim).find(|part| !is_sound(part)) {
        Some(part) => Err(format!("expected a level, or MODULE=LEVEL, got {part:?}")),
        None => EnvFilter::try_new(text).map_err(|error| error.to_string()),
    }
}

type AnyFilter = Box<dyn Filter<Registry> + Send + Sync>;

/// The levels of the process. As long as nobody changes them, the filter that was typed holds, with all that it says of single modules.
struct Switches {
    level: Mutex<Level>,
    handle: reload::Handle<AnyFilter, Registry>,
}

impl Levels for Switches {
    fn get(&self) -> Level {
        *self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, level: Level) {
        let mut now = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        if *now == level {
            return;
        }
        // It fails only where there is no log any more.
        if self.handle.reload(filter(level)).is_ok() {
            *now = level;
        }
    }
}

impl Debug for Switches {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Switches").field(&self.get()).finish()
    }
}

/// What a filter lets through that lets nothing through above `most`.
fn level_of(most: Option<LevelFilter>) -> Level {
    let most = most.unwrap_or(LevelFilter::TRACE);
    Level {
        error: most >= LevelFilter::ERROR,
        warning: most >= LevelFilter::WARN,
        info: most >= LevelFilter::INFO,
        verbose: u32::from(most >= LevelFilter::DEBUG) + u32::from(most >= LevelFilter::TRACE),
    }
}

fn filter(level: Level) -> AnyFilter {
    Box::new(filter_fn(move |event| is_wanted(level, event)))
}

/// What is verbose is of interest only where it is our own: libraries tell of every frame.
fn is_wanted(level: Level, event: &Metadata<'_>) -> bool {
    let ours = event.target().starts_with("jitney");
    match *event.level() {
        tracing::Level::ERROR => level.error,
        tracing::Level::WARN => level.warning,
        tracing::Level::INFO => level.info,
        tracing::Level::DEBUG => ours && level.verbose > 0,
        tracing::Level::TRACE => ours && level.verbose > 1,
    }
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
    fn a_filter_is_told_in_levels() {
        let level = |error, warning, info, verbose| Level {
            error,
            warning,
            info,
            verbose,
        };
        let rows = [
            ("off", level(false, false, false, 0)),
            ("error", level(true, false, false, 0)),
            ("info", level(true, true, true, 0)),
            ("warn,jitney_server=debug", level(true, true, true, 1)),
            ("trace", level(true, true, true, 2)),
        ];
        for (text, expected) in rows {
            let filter = EnvFilter::try_new(text).unwrap();
            assert_eq!(
                level_of(Filter::<Registry>::max_level_hint(&filter)),
                expected,
                "{text}"
            );
        }
    }

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
