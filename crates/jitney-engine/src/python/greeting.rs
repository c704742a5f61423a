//! What is said at the start: HELLO to a worker, and READY or FAILED from it.

use std::fmt;
use std::num::NonZeroUsize;
use std::path::Path;

use bytes::Bytes;
use jitney::process::StartError;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::PythonOptions;
use super::streams::STREAMS_MAX;
use crate::{BatchAxis, Items, LoadError, Spec, TensorSpec};

/// The version of what both sides say.
const PROTOCOL: u32 = 1;

/// The body of HELLO.
pub(super) fn hello(
    file: &Path,
    class: &str,
    name: &str,
    options: &PythonOptions,
) -> Result<Bytes, LoadError> {
    let absolute = std::path::absolute(file).unwrap_or_else(|_| file.to_path_buf());
    let Some(file) = absolute.to_str() else {
        let message = format!("{}: the path is not UTF-8", file.display());
        return Err(LoadError::new(message).hint("rename the file or its folder"));
    };
    let settings = super::settings(options);
    let hello = Hello {
        protocol: PROTOCOL,
        file,
        class,
        name,
        max_concurrency: options.max_concurrency.map(Into::into),
        memory: options.memory,
        max_batch: options.max_batch.into(),
        payload_max: settings.payload_max,
        streams_at: settings.streams_at(),
    };
    let text = serde_json::to_vec(&hello).map_err(|error| LoadError::new(error.to_string()))?;
    Ok(text.into())
}

#[derive(Serialize)]
struct Hello<'a> {
    protocol: u32,
    file: &'a str,
    class: &'a str,
    name: &'a str,
    max_concurrency: Option<usize>,
    memory: Option<u64>,
    max_batch: usize,
    /// The most bytes of the payload of an answer.
    payload_max: u64,
    /// Where the streams' part of the control region begins.
    streams_at: usize,
}

/// What a worker says of its model.
#[derive(Clone, Debug)]
pub(super) struct Greeting {
    pub(super) spec: Spec,
    /// Whether the model wants to know who waits for it.
    pub(super) context: bool,
    pub(super) idempotent: bool,
    /// How many streams a worker bears at a time, where the model answers with streams.
    pub(super) streams: Option<NonZeroUsize>,
    python: String,
    numpy: Option<String>,
}

impl Greeting {
    /// Reads the body of READY.
    pub(super) fn parse(body: &[u8]) -> Result<Greeting, String> {
        let ready: Ready = serde_json::from_slice(body)
            .map_err(|error| format!("the worker's greeting cannot be read: {error}"))?;
        if ready.protocol != PROTOCOL {
            let got = ready.protocol;
            return Err(format!(
                "the worker speaks protocol {got}, expected {PROTOCOL}"
            ));
        }
        let spec = match (ready.inputs, ready.outputs) {
            (Some(inputs), Some(outputs)) => Spec {
                inputs: inputs.specs()?,
                outputs: outputs.specs()?,
                batch: BatchAxis::Free,
                rows_independent: true,
                items: Items::Tensors,
            },
            _ => Spec::json(),
        };
        Ok(Greeting {
            spec,
            context: ready.context,
            idempotent: ready.idempotent,
            streams: (ready.mode == "stream").then(|| {
                let streams = ready.max_concurrency.unwrap_or(NonZeroUsize::MIN);
                streams.min(NonZeroUsize::MIN.saturating_add(STREAMS_MAX - 1))
            }),
            python: ready.python,
            numpy: ready.numpy,
        })
    }

    /// What the model stands on, for logs: `Python 3.11.7 with numpy 2.1.0 from /usr/bin/python3`.
    pub(super) fn runtime(&self, python: &Path) -> String {
        let numpy = match &self.numpy {
            Some(version) => format!(" with numpy {version}"),
            None => String::new(),
        };
        format!("Python {}{numpy} from {}", self.python, python.display())
    }
}

#[derive(Deserialize)]
struct Ready {
    protocol: u32,
    python: String,
    numpy: Option<String>,
    inputs: Option<Tensors>,
    outputs: Option<Tensors>,
    mode: String,
    context: bool,
    idempotent: bool,
    max_concurrency: Option<NonZeroUsize>,
}

/// The tensors of one side, in the order in which the class names them.
struct Tensors(Vec<(String, String)>);

impl Tensors {
    fn specs(&self) -> Result<Vec<TensorSpec>, String> {
        let spec = |(name, row): &(String, String)| TensorSpec::parse_row(name, row);
        self.0.iter().map(spec).collect()
    }
}

impl<'de> Deserialize<'de> for Tensors {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Tensors, D::Error> {
        struct Pairs;

        impl<'de> Visitor<'de> for Pairs {
            type Value = Tensors;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("tensors by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Tensors, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Tensors(pairs))
            }
        }

        deserializer.deserialize_map(Pairs)
    }
}

/// Why a model was not loaded.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Refusal {
    error: String,
    /// File and line.
    #[serde(rename = "where")]
    place: Option<String>,
    traceback: Option<String>,
    #[serde(skip)]
    hint: Option<String>,
}

impl Refusal {
    /// What a pool that did not start says of the class in that file.
    pub(super) fn of(error: StartError, python: &Path, file: &Path) -> Refusal {
        let file = Some(file.display().to_string());
        match error {
            StartError::Failed(body) => {
                let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| Refusal {
                    error: String::from_utf8_lossy(&body).into_owned(),
                    ..Refusal::default()
                });
                refusal.explained(python)
            }
            StartError::Slow(limit) => Refusal {
                error: format!("the model was not ready within {limit:?}"),
                place: file,
                hint: Some("allow it more time, or load less in __init__".to_owned()),
                ..Refusal::default()
            },
            StartError::Died(how) => Refusal {
                error: format!("the worker {how} while it loaded the model"),
                place: file,
                hint: Some("what it printed is in the log, where --log info lets it in".to_owned()),
                ..Refusal::default()
            },
            error => Refusal {
                error: error.to_string(),
                hint: Some("name a Python interpreter with --python".to_owned()),
                ..Refusal::default()
            },
        }
    }

    /// With a hint where what is wrong may be the interpreter.
    fn explained(mut self, python: &Path) -> Refusal {
        let python = python.display();
        let missing = ["ModuleNotFoundError", "need numpy"];
        if self.error.starts_with("expected CPython") {
            self.place = Some(python.to_string());
            self.hint = Some("name a newer interpreter with --python".to_owned());
        } else if missing.iter().any(|sign| self.error.contains(sign)) {
            self.hint = Some(format!(
                "install the package for {python}, or name the interpreter that has it with --python"
            ));
        }
        self
    }

    /// The error as it is shown; the traceback goes to the log.
    pub(super) fn into_load_error(self, model: &str) -> LoadError {
        if let Some(traceback) = &self.traceback {
            tracing::warn!(
                model,
                "the model raised while it loaded\n{}",
                super::output::lines(traceback)
            );
        }
        let error = LoadError::new(match self.place {
            Some(place) => format!("{place}: {}", self.error),
            None => self.error,
        });
        match self.hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
