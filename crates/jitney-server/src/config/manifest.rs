//! `model.toml`: what a model's folder says about it.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use serde::Deserialize;
use serde::de::{self, Deserializer, SeqAccess, Visitor};

use super::options::{Engine, ModelOptions, RowByRow};
use super::versions::{Version, VersionLabels, VersionPolicy, check_labels};

/// The content of a `model.toml`. An empty file is as good as none.
///
/// ```
/// let manifest = jitney_server::config::Manifest::parse(r#"
///     description = "Handwritten digits"
///     max_batch = 64
///     max_wait_ms = 2.5
///     row_by_row = "auto"
///     labels = ["zero", "one"]
///     [page]
///     sketch = { width = 8, height = 8, max = 16.0, input = "pixels" }
/// "#)?;
/// assert_eq!(manifest.options.max_batch, Some(64));
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifest {
    /// The settings that it says.
    pub options: ModelOptions,
    /// The name, where it is not the folder's.
    pub name: Option<String>,
    /// The model file within the folder, where it is neither `model.onnx` nor `model.py`.
    pub file: Option<String>,
    /// The class of a Python model, where its file has several.
    pub class: Option<String>,
    /// What the model is, for people.
    pub description: Option<String>,
    /// What the places of its first output mean.
    pub labels: Option<Labels>,
    /// How a person can draw an input on the server's page.
    pub sketch: Option<Sketch>,
    /// The source text of a fake model.
    pub echo: Option<String>,
    /// Words that stand for versions in requests.
    pub version_labels: VersionLabels,
}

/// What the places of an output mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Labels {
    /// Given one by one.
    List(Vec<String>),
    /// The name of a file in the model's folder with one label a line.
    File(String),
}

/// A canvas on which an input is drawn.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sketch {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// The value of a pixel in full ink; no ink is 0.
    pub max: f64,
    /// The input that takes the pixels, row by row; the first one where nothing is said.
    pub input: Option<String>,
}

impl Manifest {
    /// Reads the text of a `model.toml`.
    ///
    /// # Errors
    /// What is wrong, with line and column where it is a matter of the text, or with the key, its value and the allowed range.
    pub fn parse(text: &str) -> Result<Manifest, String> {
        let file: ModelToml = super::read_toml(text)?;
        let manifest = file.into_manifest()?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        self.options.check().map_err(|error| error.to_string())?;
        if let Some(name) = &self.name {
            super::check_name(name)?;
        }
        if let Some(file) = &self.file {
            check_inside("file", file)?;
        }
        if let Some(class) = &self.class {
            check_class(class)?;
        }
        if let Some(Labels::File(file)) = &self.labels {
            check_inside("labels", file)?;
        }
        if let Some(sketch) = &self.sketch {
            sketch.check()?;
        }
        check_labels(&self.version_labels)?;
        match (self.options.engine, &self.echo, &self.file) {
            (Some(Engine::Auto | Engine::Echo) | None, Some(_), None) | (_, None, _) => Ok(()),
            (Some(engine), Some(_), None) => Err(format!(
                "engine = \"{engine:?}\" cannot run the fake model of [echo]",
            )
            .to_lowercase()),
            (_, Some(_), Some(_)) => Err("file and [echo] exclude each other".to_owned()),
        }
    }
}

impl Sketch {
    fn check(&self) -> Result<(), String> {
        for (key, value) in [("width", self.width), ("height", self.height)] {
            if !(1..=1024).contains(&value) {
                return Err(format!(
                    "page.sketch.{key} must be a whole number from 1 to 1024, but is {value}"
                ));
            }
        }
        if !(self.max.is_finite() && self.max > 0.0) {
            return Err(format!(
                "page.sketch.max must be a number above 0, but is {}",
                self.max
            ));
        }
        Ok(())
    }
}

/// The file as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ModelToml {
    name: Option<String>,
    file: Option<String>,
    class: Option<String>,
    description: Option<String>,
    labels: Option<Labels>,
    page: Option<Page>,
    echo: Option<toml::Table>,
    engine: Option<Engine>,
    max_batch: Option<usize>,
    max_wait_ms: Option<f64>,
    instances: Option<usize>,
    threads: Option<usize>,
    queue: Option<usize>,
    deadline_ms: Option<f64>,
    run_limit_ms: Option<f64>,
    row_by_row: Option<RowByRow>,
    warmup: Option<usize>,
    load_limit_ms: Option<f64>,
    max_concurrency: Option<usize>,
    memory_mb: Option<usize>,
    recycle_after: Option<usize>,
    recycle_above_mb: Option<usize>,
    versions: Option<VersionPolicy>,
    #[serde(default)]
    version_labels: BTreeMap<String, Version>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    sketch: Option<Sketch>,
}

impl ModelToml {
    fn into_manifest(self) -> Result<Manifest, String> {
        let labels = self.version_labels.into_iter();
        let labels = labels.map(|(label, Version(version))| (label, version));
        Ok(Manifest {
            options: ModelOptions {
                engine: self.engine,
                max_batch: self.max_batch,
                max_wait_ms: self.max_wait_ms,
                instances: self.instances,
                threads: self.threads,
                queue: self.queue,
                deadline_ms: self.deadline_ms,
                run_limit_ms: self.run_limit_ms,
                row_by_row: self.row_by_row,
                warmup: self.warmup,
                load_limit_ms: self.load_limit_ms,
                max_concurrency: self.max_concurrency,
                memory_mb: self.memory_mb,
                recycle_after: self.recycle_after,
                recycle_above_mb: self.recycle_above_mb,
                versions: self.versions,
            },
            name: self.name,
            file: self.file,
            class: self.class,
            description: self.description,
            labels: self.labels,
            sketch: self.page.and_then(|page| page.sketch),
            echo: self.echo.as_ref().map(echo_source).transpose()?,
            version_labels: labels.collect(),
        })
    }
}

/// The source text that says the same as an `[echo]` table: `inputs` is a list such as `["FP32[16]"]`, and every other key is an option
/// of the fake engine, which checks them itself.
fn echo_source(table: &toml::Table) -> Result<String, String> {
    let mut parts = Vec::new();
    for (key, value) in table {
        match value {
            toml::Value::Array(inputs) if key == "inputs" => {
                for input in inputs {
                    parts.push(echo_word("inputs", input)?);
                }
            }
            _ if key == "inputs" => {
                return Err(format!(
                    "echo.inputs must be a list such as [\"FP32[16]\"], but is {value}"
                ));
            }
            value => parts.push(format!("{key}={}", echo_word(key, value)?)),
        }
    }
    Ok(format!("echo:{}", parts.join(",")))
}

fn echo_word(key: &str, value: &toml::Value) -> Result<String, String> {
    match value {
        toml::Value::String(word) if key == "inputs" || !word.contains(',') => Ok(word.clone()),
        toml::Value::Integer(number) => Ok(number.to_string()),
        toml::Value::Float(number) => Ok(number.to_string()),
        toml::Value::Boolean(word) => Ok(word.to_string()),
        _ => Err(format!(
            "echo.{key} must be a number, true, false or a word without a comma, but is {value}"
        )),
    }
}

fn check_class(class: &str) -> Result<(), String> {
    let plain = |char: char| char.is_alphanumeric() || char == '_';
    if !class.is_empty() && class.chars().all(plain) {
        return Ok(());
    }
    Err(format!(
        "class must be the name of a class in the model's file, but is \"{}\"",
        class.escape_debug()
    ))
}

/// A folder speaks only of what is in it.
fn check_inside(key: &str, file: &str) -> Result<(), String> {
    let mut parts = Path::new(file).components();
    let inside = parts.all(|part| matches!(part, std::path::Component::Normal(_)));
    if inside && !file.is_empty() {
        return Ok(());
    }
    Err(format!(
        "{key} must be a relative path without \"..\", but is \"{}\"",
        file.escape_debug()
    ))
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
        deserializer.deserialize_any(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of labels, or the name of a file with one label a line")
    }

    fn visit_str<E: de::Error>(self, file: &str) -> Result<Labels, E> {
        Ok(Labels::File(file.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Labels, A::Error> {
        let mut labels = Vec::new();
        while let Some(label) = list.next_element()? {
            labels.push(label);
        }
        Ok(Labels::List(labels))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_said() {
        let text = r#"
            name = "digits"
            file = "v2/net.onnx"
            description = "Handwritten digits"
            labels = "labels.txt"
            engine = "ort"
            max_batch = 64
            max_wait_ms = 0.5
            instances = 2
            threads = 1
            queue = 10
            deadline_ms = 1000
            run_limit_ms = 2000
            row_by_row = false
            warmup = 0
            load_limit_ms = 5
            class = "Net"
            max_concurrency = 6
            memory_mb = 700
            recycle_after = 8
            recycle_above_mb = 900
            versions = [1, "3"]
            version_labels = { stable = 1, next = "3" }
            [page]
            sketch = { width = 8, height = 9, max = 16 }
        "#;
        let expected = Manifest {
            options: ModelOptions {
                engine: Some(Engine::Ort),
                max_batch: Some(64),
                max_wait_ms: Some(0.5),
                instances: Some(2),
                threads: Some(1),
                queue: Some(10),
                deadline_ms: Some(1000.0),
                run_limit_ms: Some(2000.0),
                row_by_row: Some(RowByRow::No),
                warmup: Some(0),
                load_limit_ms: Some(5.0),
                max_concurrency: Some(6),
                memory_mb: Some(700),
                recycle_after: Some(8),
                recycle_above_mb: Some(900),
                versions: Some(VersionPolicy::Listed(vec!["1".into(), "3".into()])),
            },
            version_labels: [("stable", "1"), ("next", "3")]
                .map(|(label, version)| (label.into(), version.into()))
                .into(),
            class: Some("Net".to_owned()),
            name: Some("digits".to_owned()),
            file: Some("v2/net.onnx".to_owned()),
            description: Some("Handwritten digits".to_owned()),
            labels: Some(Labels::File("labels.txt".to_owned())),
            sketch: Some(Sketch {
                width: 8,
                height: 9,
                max: 16.0,
                input: None,
            }),
            echo: None,
        };
        assert_eq!(Manifest::parse(text), Ok(expected));
        assert_eq!(Manifest::parse(""), Ok(Manifest::default()));
    }

    #[test]
    fn a_fake_model_is_a_table() {
        let table = [
            ("[echo]", "echo:"),
            (
                r#"echo = { inputs = ["FP32[3,8]", "ids=INT64[-1]"] }"#,
                "echo:FP32[3,8],ids=INT64[-1]",
            ),
            (
                r#"echo = { op = "sum", call_ms = 5, row_ms = 0.1, busy = true }"#,
                "echo:busy=true,call_ms=5,op=sum,row_ms=0.1",
            ),
        ];
        for (text, expected) in table {
            let manifest = Manifest::parse(text).unwrap();
            assert_eq!(manifest.echo.as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn mistakes_are_shown_where_they_stand() {
        let cases = [
            (
                "max_batch = \"many\"",
                "TOML parse error at line 1, column 13\n  |\n1 | max_batch = \"many\"\n  |             ^^^^^^\ninvalid type: string \"many\", expected usize",
            ),
            (
                "queue = 1\nmax_bach = 3",
                "TOML parse error at line 2, column 1\n  |\n2 | max_bach = 3\n  | ^^^^^^^^\nunknown field `max_bach`, expected one of `name`, `file`, `class`, `description`, `labels`, `page`, `echo`, `engine`, `max_batch`, `max_wait_ms`, `instances`, `threads`, `queue`, `deadline_ms`, `run_limit_ms`, `row_by_row`, `warmup`, `load_limit_ms`, `max_concurrency`, `memory_mb`, `recycle_after`, `recycle_above_mb`, `versions`, `version_labels`",
            ),
            (
                "row_by_row = \"maybe\"",
                "TOML parse error at line 1, column 14\n  |\n1 | row_by_row = \"maybe\"\n  |              ^^^^^^^\ninvalid value: string \"maybe\", expected \"auto\", true or false",
            ),
            (
                "engine = \"onx\"",
                "TOML parse error at line 1, column 10\n  |\n1 | engine = \"onx\"\n  |          ^^^^^\nunknown variant `onx`, expected one of `auto`, `onnx`, `ort`, `echo`",
            ),
            (
                "labels = 3",
                "TOML parse error at line 1, column 10\n  |\n1 | labels = 3\n  |          ^\ninvalid type: integer `3`, expected a list of labels, or the name of a file with one label a line",
            ),
            (
                "max_batch = 0",
                "max_batch must be a whole number from 1 to 65536, but is 0",
            ),
            (
                "max_wait_ms = nan",
                "max_wait_ms must be a number of milliseconds from 0 to 60000, but is NaN",
            ),
            (
                "file = \"../../etc/passwd\"",
                "file must be a relative path without \"..\", but is \"../../etc/passwd\"",
            ),
            (
                "labels = \"/etc/passwd\"",
                "labels must be a relative path without \"..\", but is \"/etc/passwd\"",
            ),
            (
                "page = { sketch = { width = 0, height = 8, max = 1 } }",
                "page.sketch.width must be a whole number from 1 to 1024, but is 0",
            ),
            (
                "page = { sketch = { width = 8, height = 8, max = inf } }",
                "page.sketch.max must be a number above 0, but is inf",
            ),
            (
                "version_labels = { 3 = \"1\" }",
                "version_labels must have words such as stable for keys, which are no numbers, but has \"3\"",
            ),
            (
                "file = \"m.onnx\"\n[echo]",
                "file and [echo] exclude each other",
            ),
            (
                "engine = \"ort\"\n[echo]",
                "engine = \"ort\" cannot run the fake model of [echo]",
            ),
            (
                "echo = { inputs = \"FP32[2]\" }",
                "echo.inputs must be a list such as [\"FP32[16]\"], but is \"FP32[2]\"",
            ),
            (
                "echo = { op = \"sum,faulty=true\" }",
                "echo.op must be a number, true, false or a word without a comma, but is \"sum,faulty=true\"",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(Manifest::parse(text).unwrap_err(), expected, "{text}");
        }
        assert!(Manifest::parse("name = \"a/b\"").is_err());
    }
}
