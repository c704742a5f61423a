//! The settings of a model: partly said in several places, and resolved.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::control::{AtStart, Control};
use super::versions::VersionPolicy;

/// The settings of a model as one place says them; `None` where it says nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelOptions {
    /// What runs the model.
    pub engine: Option<Engine>,
    /// Most rows in a batch.
    pub max_batch: Option<usize>,
    /// Longest time in milliseconds that a request is held back for others to join.
    pub max_wait_ms: Option<f64>,
    /// Instances of the model.
    pub instances: Option<usize>,
    /// Threads of one instance inside one call.
    pub threads: Option<usize>,
    /// Most requests waiting.
    pub queue: Option<usize>,
    /// How long in milliseconds a request may take that does not say so itself.
    pub deadline_ms: Option<f64>,
    /// How long in milliseconds a batch may run before it is given up.
    pub run_limit_ms: Option<f64>,
    /// Whether rows are kept apart.
    pub row_by_row: Option<RowByRow>,
    /// Warm-up runs for each batch size.
    pub warmup: Option<usize>,
    /// How long in milliseconds the model may take to load before it counts as failed.
    pub load_limit_ms: Option<f64>,
    /// Calls of an `async` Python model that overlap in one process.
    pub max_concurrency: Option<usize>,
    /// Most memory of one process of a Python model, in MiB.
    pub memory_mb: Option<usize>,
    /// Requests after which a process of a Python model is replaced.
    pub recycle_after: Option<usize>,
    /// Resident memory in MiB above which a process of a Python model is replaced.
    pub recycle_above_mb: Option<usize>,
    /// Which versions are served.
    pub versions: Option<VersionPolicy>,
}

/// What every place but `model.toml` says, and what concerns every model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Settings {
    /// What is said for this run: flags, and the environment where no flag says it.
    pub given: ModelOptions,
    /// What the file given with `--config` says.
    pub file: ModelOptions,
    /// The Python that runs Python models, and in whose packages ONNX Runtime is looked for. By default the active one.
    pub python: Option<PathBuf>,
    /// When models are loaded and unloaded.
    pub control: Control,
    /// Which models are loaded at the start, where they can be loaded on request later.
    pub at_start: AtStart,
    /// How long the batch sizes of a fast model are measured while it is loaded: 50 ms where nothing is said.
    pub measuring: Option<Duration>,
    /// The longest time that a process of a Python model is given to leave, where that is less than the 10 s that it has anyway.
    pub close_limit: Option<Duration>,
}

/// The settings of one model, all decided.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSettings {
    /// What runs the model. Default [`Engine::Auto`].
    pub engine: Engine,
    /// Most rows in a batch. Default 32.
    pub max_batch: NonZeroUsize,
    /// Longest time a request is held back for others to join. Default 5 ms.
    pub max_wait: Duration,
    /// Instances of the model. By default the engine chooses for the machine.
    pub instances: Option<NonZeroUsize>,
    /// Threads of one instance inside one call. By default the engine chooses.
    pub threads: Option<NonZeroUsize>,
    /// Most requests waiting. Default 256.
    pub queue: NonZeroUsize,
    /// How long a request may take that does not say so itself. Default 30 s.
    pub deadline: Duration,
    /// How long a batch may run before it is given up. Default 30 s.
    pub run_limit: Duration,
    /// Whether rows are kept apart. Default [`RowByRow::Auto`].
    pub row_by_row: RowByRow,
    /// Warm-up runs for each batch size; 0 switches the warm-up off. Default 2: the first finds memory, the second is measured.
    pub warmup: usize,
    /// How long it may take to load before it counts as failed. Default 120 s.
    pub load_limit: Duration,
    /// How long the batch sizes of a fast model are measured while it is loaded. Default 50 ms.
    pub measuring: Duration,
    /// Calls of an `async` Python model that overlap in one process. By default the model says, or the engine.
    pub max_concurrency: Option<NonZeroUsize>,
    /// Most memory of one process of a Python model, in bytes. Default none.
    pub memory: Option<u64>,
    /// Requests after which a process of a Python model is replaced. Default none.
    pub recycle_after: Option<u64>,
    /// Resident memory in bytes above which a process of a Python model is replaced. Default none.
    pub recycle_above: Option<u64>,
    /// Which versions are served. Default the highest one.
    pub versions: VersionPolicy,
}

/// What runs a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// ONNX Runtime where it is found, else the embedded engine.
    #[default]
    Auto,
    /// The embedded engine.
    Onnx,
    /// ONNX Runtime.
    Ort,
    /// The fake engine.
    Echo,
}

/// Whether the rows of a model are kept apart instead of sharing batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowByRow {
    /// Only where a row's answer would depend on the other rows of its batch.
    #[default]
    Auto,
    /// Always.
    Yes,
    /// Never: answers may depend on the batch.
    No,
}

/// A setting has a value that it cannot have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} must be {allowed}, but is {value}")]
pub struct OptionError {
    pub(super) key: &'static str,
    pub(super) value: String,
    pub(super) allowed: String,
}

const DAY_MS: f64 = 86_400_000.0;
/// A pebibyte.
const MOST_MB: usize = 1 << 30;

impl ModelOptions {
    /// Checks every value that is said against the range of its setting.
    ///
    /// # Errors
    /// The first setting out of its range, with its value and the range.
    pub fn check(&self) -> Result<(), OptionError> {
        whole("max_batch", self.max_batch, 1, 65_536)?;
        milliseconds("max_wait_ms", self.max_wait_ms, 0.0, 60_000.0)?;
        whole("instances", self.instances, 1, 1024)?;
        whole("threads", self.threads, 1, 1024)?;
        whole("queue", self.queue, 1, 1_000_000)?;
        milliseconds("deadline_ms", self.deadline_ms, 1.0, DAY_MS)?;
        milliseconds("run_limit_ms", self.run_limit_ms, 1.0, DAY_MS)?;
        whole("warmup", self.warmup, 0, 100)?;
        milliseconds("load_limit_ms", self.load_limit_ms, 1.0, DAY_MS)?;
        whole("max_concurrency", self.max_concurrency, 1, 65_536)?;
        // Less than this and no Python comes up.
        whole("memory_mb", self.memory_mb, 16, MOST_MB)?;
        whole("recycle_after", self.recycle_after, 1, usize::MAX)?;
        whole("recycle_above_mb", self.recycle_above_mb, 16, MOST_MB)
    }

    /// These options, and the other ones where these say nothing.
    #[must_use]
    pub fn or(&self, other: &ModelOptions) -> ModelOptions {
        ModelOptions {
            engine: self.engine.or(other.engine),
            max_batch: self.max_batch.or(other.max_batch),
            max_wait_ms: self.max_wait_ms.or(other.max_wait_ms),
            instances: self.instances.or(other.instances),
            threads: self.threads.or(other.threads),
            queue: self.queue.or(other.queue),
            deadline_ms: self.deadline_ms.or(other.deadline_ms),
            run_limit_ms: self.run_limit_ms.or(other.run_limit_ms),
            row_by_row: self.row_by_row.or(other.row_by_row),
            warmup: self.warmup.or(other.warmup),
            load_limit_ms: self.load_limit_ms.or(other.load_limit_ms),
            max_concurrency: self.max_concurrency.or(other.max_concurrency),
            memory_mb: self.memory_mb.or(other.memory_mb),
            recycle_after: self.recycle_after.or(other.recycle_after),
            recycle_above_mb: self.recycle_above_mb.or(other.recycle_above_mb),
            versions: self.versions.clone().or_else(|| other.versions.clone()),
        }
    }

    fn resolve(&self) -> Result<ModelSettings, OptionError> {
        self.check()?;
        let count = |said: Option<usize>| said.and_then(NonZeroUsize::new);
        let default = ModelSettings::default();
        Ok(ModelSettings {
            engine: self.engine.unwrap_or_default(),
            max_batch: count(self.max_batch).unwrap_or(default.max_batch),
            max_wait: time(self.max_wait_ms, default.max_wait),
            instances: count(self.instances),
            threads: count(self.threads),
            queue: count(self.queue).unwrap_or(default.queue),
            deadline: time(self.deadline_ms, default.deadline),
            run_limit: time(self.run_limit_ms, default.run_limit),
            row_by_row: self.row_by_row.unwrap_or_default(),
            warmup: self.warmup.unwrap_or(default.warmup),
            load_limit: time(self.load_limit_ms, default.load_limit),
            max_concurrency: count(self.max_concurrency),
            memory: bytes(self.memory_mb),
            recycle_after: self.recycle_after.map(|requests| requests as u64),
            recycle_above: bytes(self.recycle_above_mb),
            versions: self.versions.clone().unwrap_or_default(),
            ..default
        })
    }
}

impl Settings {
    /// The settings of a model whose `model.toml` says this, in the order that the [module](super) explains.
    ///
    /// # Errors
    /// When a value is out of its range, wherever it was said.
    ///
    /// ```
    /// use jitney_server::config::{ModelOptions, Settings};
    ///
    /// let mut settings = Settings::default();
    /// settings.file.max_batch = Some(8);
    /// let model = ModelOptions { max_batch: Some(16), ..ModelOptions::default() };
    /// assert_eq!(settings.for_model(&model)?.max_batch.get(), 16);
    /// settings.given.max_batch = Some(4);
    /// assert_eq!(settings.for_model(&model)?.max_batch.get(), 4);
    /// # Ok::<(), jitney_server::config::OptionError>(())
    /// ```
    pub fn for_model(&self, model: &ModelOptions) -> Result<ModelSettings, OptionError> {
        let resolved = self.given.or(model).or(&self.file).resolve()?;
        Ok(ModelSettings {
            measuring: self.measuring.unwrap_or(resolved.measuring),
            ..resolved
        })
    }
}

impl Default for ModelSettings {
    fn default() -> ModelSettings {
        ModelSettings {
            engine: Engine::Auto,
            max_batch: const { NonZeroUsize::new(32).unwrap() },
            max_wait: Duration::from_millis(5),
            instances: None,
            threads: None,
            queue: const { NonZeroUsize::new(256).unwrap() },
            deadline: Duration::from_secs(30),
            run_limit: Duration::from_secs(30),
            row_by_row: RowByRow::Auto,
            warmup: 2,
            load_limit: Duration::from_secs(120),
            measuring: Duration::from_millis(50),
            max_concurrency: None,
            memory: None,
            recycle_after: None,
            recycle_above: None,
            versions: VersionPolicy::default(),
        }
    }
}

impl FromStr for Engine {
    type Err = String;

    fn from_str(text: &str) -> Result<Engine, String> {
        match text {
            "auto" => Ok(Engine::Auto),
            "onnx" => Ok(Engine::Onnx),
            "ort" => Ok(Engine::Ort),
            "echo" => Ok(Engine::Echo),
            _ => Err(format!("expected auto, onnx, ort or echo, got \"{text}\"")),
        }
    }
}

impl<'de> Deserialize<'de> for RowByRow {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<RowByRow, D::Error> {
        deserializer.deserialize_any(RowByRowVisitor)
    }
}

struct RowByRowVisitor;

impl Visitor<'_> for RowByRowVisitor {
    type Value = RowByRow;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("\"auto\", true or false")
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RowByRow, E> {
        Ok(if value { RowByRow::Yes } else { RowByRow::No })
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<RowByRow, E> {
        match value {
            "auto" => Ok(RowByRow::Auto),
            _ => Err(E::invalid_value(de::Unexpected::Str(value), &self)),
        }
    }
}

pub(super) fn whole(
    key: &'static str,
    said: Option<usize>,
    least: usize,
    most: usize,
) -> Result<(), OptionError> {
    match said {
        Some(value) if !(least..=most).contains(&value) => Err(OptionError {
            key,
            value: value.to_string(),
            allowed: format!("a whole number from {least} to {most}"),
        }),
        _ => Ok(()),
    }
}

pub(super) fn milliseconds(
    key: &'static str,
    said: Option<f64>,
    least: f64,
    most: f64,
) -> Result<(), OptionError> {
    match said {
        // Not a number is in no range.
        Some(value) if !(least..=most).contains(&value) => Err(OptionError {
            key,
            value: value.to_string(),
            allowed: format!("a number of milliseconds from {least} to {most}"),
        }),
        _ => Ok(()),
    }
}

/// The time that was said in milliseconds, checked before, or the default.
pub(super) fn time(said: Option<f64>, default: Duration) -> Duration {
    said.map_or(default, |ms| Duration::from_secs_f64(ms / 1000.0))
}

fn bytes(megabytes: Option<usize>) -> Option<u64> {
    megabytes.map(|megabytes| (megabytes as u64) << 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_place_wins() {
        let say = |max_batch: Option<usize>| ModelOptions {
            max_batch,
            ..ModelOptions::default()
        };
        // given, model.toml, file => the batch size.
        let table = [
            (None, None, None, 32),
            (None, None, Some(3), 3),
            (None, Some(2), None, 2),
            (None, Some(2), Some(3), 2),
            (Some(1), None, None, 1),
            (Some(1), None, Some(3), 1),
            (Some(1), Some(2), None, 1),
            (Some(1), Some(2), Some(3), 1),
        ];
        for (given, model, file, expected) in table {
            let settings = Settings {
                given: say(given),
                file: say(file),
                ..Settings::default()
            };
            let resolved = settings.for_model(&say(model)).unwrap();
            assert_eq!(
                resolved.max_batch.get(),
                expected,
                "{given:?} {model:?} {file:?}"
            );
        }
    }

    /// Every option of one place must pass through, and none may land in another's field.
    #[test]
    fn every_option_is_passed_on() {
        let options = ModelOptions {
            engine: Some(Engine::Ort),
            max_batch: Some(3),
            max_wait_ms: Some(0.25),
            instances: Some(4),
            threads: Some(5),
            queue: Some(6),
            deadline_ms: Some(7000.0),
            run_limit_ms: Some(8000.0),
            row_by_row: Some(RowByRow::No),
            warmup: Some(9),
            load_limit_ms: Some(10_000.0),
            max_concurrency: Some(12),
            memory_mb: Some(512),
            recycle_after: Some(1000),
            recycle_above_mb: Some(256),
            versions: Some(VersionPolicy::All),
        };
        let expected = ModelSettings {
            engine: Engine::Ort,
            max_batch: NonZeroUsize::new(3).unwrap(),
            max_wait: Duration::from_micros(250),
            instances: NonZeroUsize::new(4),
            threads: NonZeroUsize::new(5),
            queue: NonZeroUsize::new(6).unwrap(),
            deadline: Duration::from_secs(7),
            run_limit: Duration::from_secs(8),
            row_by_row: RowByRow::No,
            warmup: 9,
            load_limit: Duration::from_secs(10),
            measuring: Duration::from_millis(11),
            max_concurrency: NonZeroUsize::new(12),
            memory: Some(512 << 20),
            recycle_after: Some(1000),
            recycle_above: Some(256 << 20),
            versions: VersionPolicy::All,
        };
        let settings = |given: &ModelOptions, file: &ModelOptions| Settings {
            given: given.clone(),
            file: file.clone(),
            measuring: Some(Duration::from_millis(11)),
            ..Settings::default()
        };
        let none = ModelOptions::default();
        let through = [
            settings(&options, &none).for_model(&none),
            settings(&none, &options).for_model(&none),
            settings(&none, &none).for_model(&options),
        ];
        for resolved in through {
            assert_eq!(resolved.unwrap(), expected);
        }
        let nothing = Settings::default().for_model(&none).unwrap();
        assert_eq!(nothing, ModelSettings::default());
    }

    #[test]
    fn a_value_out_of_range_is_named() {
        let none = ModelOptions::default;
        let table = [
            (
                ModelOptions {
                    max_batch: Some(0),
                    ..none()
                },
                "max_batch must be a whole number from 1 to 65536, but is 0",
            ),
            (
                ModelOptions {
                    max_wait_ms: Some(-1.0),
                    ..none()
                },
                "max_wait_ms must be a number of milliseconds from 0 to 60000, but is -1",
            ),
            (
                ModelOptions {
                    max_wait_ms: Some(f64::NAN),
                    ..none()
                },
                "max_wait_ms must be a number of milliseconds from 0 to 60000, but is NaN",
            ),
            (
                ModelOptions {
                    deadline_ms: Some(f64::INFINITY),
                    ..none()
                },
                "deadline_ms must be a number of milliseconds from 1 to 86400000, but is inf",
            ),
            (
                ModelOptions {
                    run_limit_ms: Some(0.0),
                    ..none()
                },
                "run_limit_ms must be a number of milliseconds from 1 to 86400000, but is 0",
            ),
            (
                ModelOptions {
                    instances: Some(0),
                    ..none()
                },
                "instances must be a whole number from 1 to 1024, but is 0",
            ),
            (
                ModelOptions {
                    threads: Some(0),
                    ..none()
                },
                "threads must be a whole number from 1 to 1024, but is 0",
            ),
            (
                ModelOptions {
                    queue: Some(0),
                    ..none()
                },
                "queue must be a whole number from 1 to 1000000, but is 0",
            ),
            (
                ModelOptions {
                    warmup: Some(101),
                    ..none()
                },
                "warmup must be a whole number from 0 to 100, but is 101",
            ),
            (
                ModelOptions {
                    load_limit_ms: Some(0.0),
                    ..none()
                },
                "load_limit_ms must be a number of milliseconds from 1 to 86400000, but is 0",
            ),
            (
                ModelOptions {
                    max_concurrency: Some(0),
                    ..none()
                },
                "max_concurrency must be a whole number from 1 to 65536, but is 0",
            ),
            (
                ModelOptions {
                    memory_mb: Some(1),
                    ..none()
                },
                "memory_mb must be a whole number from 16 to 1073741824, but is 1",
            ),
        ];
        for (options, message) in table {
            assert_eq!(options.check().unwrap_err().to_string(), message);
            let resolved = Settings::default().for_model(&options);
            assert_eq!(resolved.unwrap_err().to_string(), message);
        }
    }
}
