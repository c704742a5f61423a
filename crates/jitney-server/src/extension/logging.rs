//! The settings of the log.

use std::collections::BTreeMap;

use crate::failure::{Code, Failure};
use crate::observe::logging::{self, Level, Levels};
use crate::protocol::extension::settings::{LogSettings, LogValue};

/// The format that cannot be changed.
const FORMAT: &str = "default";

/// How the log is set.
///
/// # Errors
/// `not_found` where the log is no matter of the server.
pub(crate) fn get(levels: Option<&dyn Levels>) -> Result<LogSettings, Failure> {
    Ok(settings(known(levels)?.get()))
}

/// Sets what is named, all of it or nothing.
///
/// # Errors
/// `not_found` where the log is no matter of the server, `forbidden` for what no request may set, `invalid_input`.
pub(crate) fn set(
    levels: Option<&dyn Levels>,
    values: &BTreeMap<String, LogValue>,
) -> Result<LogSettings, Failure> {
    let levels = known(levels)?;
    let mut level = levels.get();
    for (name, value) in values {
        change(&mut level, name, value)?;
    }
    levels.set(level);
    tracing::info!(
        error = level.error,
        warning = level.warning,
        info = level.info,
        verbose = level.verbose,
        "log levels set by a request"
    );
    Ok(settings(level))
}

fn change(level: &mut Level, name: &str, value: &LogValue) -> Result<(), Failure> {
    match (name, value) {
        ("log_error", LogValue::Bool(on)) => level.error = *on,
        ("log_warning", LogValue::Bool(on)) => level.warning = *on,
        ("log_info", LogValue::Bool(on)) => level.info = *on,
        ("log_verbose_level", LogValue::Level(verbose)) => level.verbose = (*verbose).min(2),
        ("log_file", LogValue::Text(file)) if file.is_empty() => {}
        ("log_file", _) => {
            return Err(Failure::new(
                Code::Forbidden,
                "log_file cannot be set by a request: the log goes to the server's standard error",
            ));
        }
        ("log_format", LogValue::Text(format)) if format == FORMAT => {}
        ("log_format", _) => {
            return Err(Failure::new(
                Code::Forbidden,
                "log_format cannot be set by a request: choose it with --log-format when the server is started",
            ));
        }
        ("log_error" | "log_warning" | "log_info", _) => {
            return Err(Failure::invalid(format!(
                "{name}: expected true or false, got {value}"
            )));
        }
        ("log_verbose_level", _) => {
            return Err(Failure::invalid(format!(
                "log_verbose_level: expected a whole number from 0, got {value}"
            )));
        }
        _ => {
            return Err(Failure::invalid(format!(
                "expected log_error, log_warning, log_info or log_verbose_level, got \"{}\"",
                logging::escaped(name)
            )));
        }
    }
    Ok(())
}

fn known(levels: Option<&dyn Levels>) -> Result<&dyn Levels, Failure> {
    levels.ok_or_else(|| {
        Failure::new(
            Code::NotFound,
            "the log of this process is not set by the server",
        )
    })
}

fn settings(level: Level) -> LogSettings {
    LogSettings {
        log_file: "",
        log_info: level.info,
        log_warning: level.warning,
        log_error: level.error,
        log_verbose_level: level.verbose,
        log_format: FORMAT,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[derive(Debug)]
    struct Fake(Mutex<Level>);

    impl Levels for Fake {
        fn get(&self) -> Level {
            *self.0.lock().unwrap()
        }

        fn set(&self, level: Level) {
            *self.0.lock().unwrap() = level;
        }
    }

    #[test]
    fn all_or_nothing_is_set() {
        let before = Level {
            error: true,
            warning: true,
            info: true,
            verbose: 0,
        };
        let on = LogValue::Bool(true);
        let off = LogValue::Bool(false);
        let text = |text: &str| LogValue::Text(text.to_owned());
        let quiet = Level {
            info: false,
            ..before
        };
        let rows = [
            (vec![("log_info", off.clone())], Ok(quiet)),
            (
                vec![("log_info", off.clone()), ("log_file", text(""))],
                Ok(quiet),
            ),
            (vec![("log_format", text("default"))], Ok(before)),
            (
                vec![("log_verbose_level", LogValue::Level(7))],
                Ok(Level {
                    verbose: 2,
                    ..before
                }),
            ),
            (
                vec![("log_error", off.clone()), ("log_file", text("/tmp/x"))],
                Err(Code::Forbidden),
            ),
            (
                vec![("log_error", off), ("log_format", text("ISO8601"))],
                Err(Code::Forbidden),
            ),
            (vec![("log_info", text("on"))], Err(Code::InvalidInput)),
            (
                vec![("log_verbose_level", on.clone())],
                Err(Code::InvalidInput),
            ),
            (vec![("log_debug", on)], Err(Code::InvalidInput)),
        ];
        for (values, expected) in rows {
            let fake = Fake(Mutex::new(before));
            let named = values.iter().cloned();
            let map = named.map(|(name, value)| (name.to_owned(), value));
            let set = set(Some(&fake), &map.collect());
            assert_eq!(
                set.map(|_| fake.get()).map_err(|failure| failure.code),
                expected,
                "{values:?}"
            );
            if expected.is_err() {
                assert_eq!(fake.get(), before, "{values:?}");
            }
        }
        assert_eq!(
            get(None).map_err(|failure| failure.code),
            Err(Code::NotFound)
        );
    }
}
