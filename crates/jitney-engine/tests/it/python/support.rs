//! Interpreters, models and requests.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use jitney::batch::Context;
use jitney_engine::python::{self, PythonOptions};
use jitney_engine::{Instance, LoadError, Model, Request, RunError, Tensor, stack};

pub(super) type Answers = Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error>;

pub(super) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python")
}

/// The interpreters to test: those that `JITNEY_TEST_PYTHONS` names, else those of every version on the `PATH`, and the default one.
pub(super) fn interpreters() -> Vec<PathBuf> {
    let named = std::env::var_os("JITNEY_TEST_PYTHONS").unwrap_or_default();
    let named: Vec<PathBuf> = std::env::split_paths(&named)
        .filter(|path| path.is_file())
        .collect();
    if !named.is_empty() {
        return named;
    }
    let versions = (9..=14).filter_map(|minor| {
        python::find_interpreter(Some(Path::new(&format!("python3.{minor}")))).ok()
    });
    let default = python::find_interpreter(None).unwrap();
    let works = |python: &PathBuf| minor_of(python).is_some();
    versions.filter(works).chain([default]).collect()
}

/// The 9 of Python 3.9; none where it does not start, as a launcher without the version that it is named after.
pub(super) fn minor_of(python: &Path) -> Option<u32> {
    let mut command = Command::new(python);
    command.args(["-c", "import sys; print(sys.version_info[1])"]);
    let output = command.stderr(Stdio::null()).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    said.trim().parse().ok()
}

/// One worker, quick to give up.
pub(super) fn options() -> PythonOptions {
    PythonOptions {
        run_limit: Duration::from_secs(30),
        start_limit: Duration::from_secs(60),
        ..PythonOptions::default()
    }
}

pub(super) fn load_with(
    file: &str,
    class: &str,
    options: &PythonOptions,
) -> Result<Box<dyn Model>, LoadError> {
    python::load(&folder().join("models").join(file), class, "model", options)
}

pub(super) fn load(file: &str, class: &str) -> Box<dyn Model> {
    load_with(file, class, &options()).unwrap_or_else(|error| {
        panic!("{error} (typed models need numpy: run `cargo xtask test`, which prepares it)")
    })
}

/// Requests of one tensor each, run together.
pub(super) fn run(model: &dyn Model, tensors: Vec<Tensor>, limit: Duration) -> Answers {
    let requests: Vec<[Tensor; 1]> = tensors.into_iter().map(|tensor| [tensor]).collect();
    for request in &requests {
        model.spec().check(request).unwrap();
    }
    run_on(&mut *model.instance().unwrap(), model, &requests, limit)
}

pub(super) fn run_on(
    instance: &mut dyn Instance,
    model: &dyn Model,
    requests: &[impl AsRef<[Tensor]>],
    limit: Duration,
) -> Answers {
    let requests: Vec<Request<'_>> = requests
        .iter()
        .map(|inputs| Request {
            inputs: inputs.as_ref(),
            id: Some("r1"),
            parameters: None,
        })
        .collect();
    let context = Context::detached(requests.len(), limit);
    instance.run_requests(model.spec(), &requests, &context)
}

/// One item, or several in one request.
pub(super) fn items(texts: &[&str]) -> Tensor {
    let elements = texts
        .iter()
        .map(|text| Bytes::copy_from_slice(text.as_bytes()));
    Tensor::from_bytes([texts.len()], elements.collect()).unwrap()
}

/// Runs each item as a request of its own, within half a minute.
pub(super) fn run_items(model: &dyn Model, texts: &[&str]) -> Answers {
    let tensors = texts.iter().map(|text| items(&[text])).collect();
    run(model, tensors, Duration::from_secs(30))
}

/// The text of each answer, `!` and the error where there is none.
pub(super) fn texts(answers: Answers) -> Vec<String> {
    let text = |tensors: Vec<Tensor>| {
        let elements = tensors[0].byte_elements().unwrap();
        let texts = elements
            .iter()
            .map(|element| std::str::from_utf8(element).unwrap());
        texts.collect::<Vec<_>>().join(" ")
    };
    match answers {
        Ok(answers) => answers
            .into_iter()
            .map(|answer| answer.map_or_else(|error| format!("!{error}"), text))
            .collect(),
        Err(error) => vec![format!("!!{error}")],
    }
}

pub(super) fn run_error(answers: Answers) -> RunError {
    match answers {
        Err(stack::Error::Run(error)) => error,
        other => panic!("expected an error of the whole run, got {other:?}"),
    }
}
