//! Models written in Python, in worker processes.
//!
//! A model is a plain class in a plain file: it imports nothing of jitney. Each worker is an interpreter of its own that loads the class
//! once and computes whole batches, away from the server's memory and locks: what it raises, prints, leaks or breaks costs the request
//! that made it, and at worst its own process, which is replaced.
//!
//! The workers' source, `worker.py`, is carried in this binary and sent down the private channel, so nothing has to be installed: any
//! CPython from 3.9 will do, with numpy where the model has types.

mod greeting;
mod interpreter;
mod json;
mod output;
mod reply;
mod run;
mod streams;

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jitney::batch::Context;
use jitney::process::{self, CallError, Pool, Program, Settings, WorkerState};

use crate::contract::{
    Health, Instance, LoadError, Model, Request, RunError, Streaming, WorkerStatus,
};
use crate::{Spec, Tensor, stack};
use greeting::{Greeting, Refusal};
pub use interpreter::find as find_interpreter;
use reply::Reply;
use run::Run;
use streams::{PythonStreams, STREAMS_MAX};

/// Reads the worker's source from the channel and becomes it.
const BOOT: &str = include_str!("boot.py");
const WORKER: &str = include_str!("worker.py");
const GUARD: &str = include_str!("guard.py");

/// Runs that a worker is given at a time: one that it computes, and one that waits in its pipe.
const DEPTH: usize = 1 + AHEAD;
const AHEAD: usize = 1;

/// How a class is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PythonOptions {
    /// The interpreter: a path, or the name of a program. By default that of the active virtual environment, else `python3`.
    pub python: Option<PathBuf>,
    /// How many processes there are.
    pub workers: NonZeroUsize,
    /// How long [`Instance::run`] may take. Within a batcher its own limit counts.
    pub run_limit: Duration,
    /// How long a worker may take until it has loaded the model.
    pub start_limit: Duration,
    /// How long a worker may take to leave after it was told to, before it is killed.
    pub close_limit: Duration,
    /// How long the streams of a worker that is being replaced may go on once its replacement is ready.
    pub retire_limit: Duration,
    /// The most rows that are run together: the model's own warm-up is cut into such batches.
    pub max_batch: NonZeroUsize,
    /// How many calls of an `async` method may overlap in a worker, and how many streams may go on there at a time, where the class does not
    /// say so or says otherwise.
    pub max_concurrency: Option<NonZeroUsize>,
    /// The most bytes of memory that a worker may have for its data.
    pub memory: Option<u64>,
    /// Requests after which a worker is replaced.
    pub recycle_after: Option<u64>,
    /// Resident bytes above which a worker is replaced, when it has finished what it runs.
    pub memory_mark: Option<u64>,
    /// Variables that workers have beside those of this process. Variables of this process that begin with `JITNEY_` are kept from them.
    pub env: Vec<(OsString, OsString)>,
}

/// One worker, limits of 30 s for a run, 120 s for a start, 10 s for an end and 30 s for the streams of a worker that is being replaced, and
/// no other limits.
impl Default for PythonOptions {
    fn default() -> PythonOptions {
        PythonOptions {
            python: None,
            workers: NonZeroUsize::MIN,
            run_limit: Duration::from_secs(30),
            start_limit: Duration::from_secs(120),
            close_limit: Duration::from_secs(10),
            retire_limit: Duration::from_secs(30),
            max_batch: NonZeroUsize::MIN.saturating_add(31),
            max_concurrency: None,
            memory: None,
            recycle_after: None,
            memory_mark: None,
            env: Vec::new(),
        }
    }
}

/// Loads a class from a file and starts its workers; returns when the first is ready. `name` is how logs and the model itself call it.
///
/// Dropping the model tells the workers to go and waits until they have.
///
/// # Errors
/// There is no interpreter or it is older than 3.9; the file or the class is not what can be served, in which case the message begins
/// with file and line; the class raised while it was made or warmed up; it was not ready in time.
///
/// ```no_run
/// use std::path::Path;
/// use jitney_engine::python::{self, PythonOptions};
///
/// let model = python::load(Path::new("model.py"), "Digits", "digits", &PythonOptions::default())?;
/// println!("{} with {} inputs", model.engine(), model.spec().inputs.len());
/// # Ok::<(), jitney_engine::LoadError>(())
/// ```
pub fn load(
    file: &Path,
    class: &str,
    name: &str,
    options: &PythonOptions,
) -> Result<Box<dyn Model>, LoadError> {
    let python = interpreter::find(options.python.as_deref())?;
    let hello = greeting::hello(file, class, name, options)?;
    let pool = Pool::start(
        program(&python, hello, options),
        settings(options),
        output::logger(name),
    )
    .map_err(|error| Refusal::of(error, &python, file).into_load_error(name))?;
    let greeting = Greeting::parse(&pool.greeting())
        .map_err(|error| LoadError::new(format!("{}: {error}", file.display())))?;
    if let Some(streams) = greeting.streams {
        pool.narrow(streams.get());
    }
    let runtime = greeting.runtime(&python);
    Ok(Box::new(PythonModel {
        workers: options.workers,
        runtime,
        shared: Arc::new(Shared {
            pool,
            name: name.to_owned(),
            greeting: Arc::new(greeting),
            run_limit: options.run_limit,
        }),
    }))
}

fn program(python: &Path, hello: Bytes, options: &PythonOptions) -> Program {
    let argument = |text: &str| OsString::from(text);
    let guard = ["-I", "-S", "-c", GUARD].map(argument);
    let ours = |name: &OsString| name.as_encoded_bytes().starts_with(b"JITNEY_");
    let inherited = std::env::vars_os().filter(|(name, _)| !ours(name));
    let length = u32::try_from(WORKER.len()).unwrap_or(u32::MAX);
    Program {
        args: ["-c", BOOT].map(argument).into(),
        env: inherited.chain(options.env.iter().cloned()).collect(),
        preamble: [&length.to_le_bytes(), WORKER.as_bytes()].concat().into(),
        hello,
        guard: Some([&[python.into()], &guard[..]].concat()),
        ..Program::new(python)
    }
}

fn settings(options: &PythonOptions) -> Settings {
    Settings {
        workers: options.workers.get(),
        depth: DEPTH,
        streams: STREAMS_MAX,
        start_limit: options.start_limit,
        close_limit: options.close_limit,
        retire_limit: options.retire_limit,
        recycle_after: options.recycle_after,
        memory_mark: options.memory_mark,
        ..Settings::default()
    }
}

struct PythonModel {
    workers: NonZeroUsize,
    runtime: String,
    shared: Arc<Shared>,
}

/// What the model and its instances have in common: any of them may use any worker.
struct Shared {
    pool: Pool,
    name: String,
    greeting: Arc<Greeting>,
    run_limit: Duration,
}

impl Model for PythonModel {
    fn spec(&self) -> &Spec {
        &self.shared.greeting.spec
    }

    fn engine(&self) -> &'static str {
        "python"
    }

    fn platform(&self) -> &'static str {
        "python"
    }

    fn runtime(&self) -> Option<&str> {
        Some(&self.runtime)
    }

    fn suggested_instances(&self, _cores: NonZeroUsize) -> NonZeroUsize {
        self.workers
    }

    fn ahead(&self) -> usize {
        AHEAD
    }

    fn idempotent(&self) -> bool {
        self.shared.greeting.idempotent
    }

    fn keeps_limit(&self) -> bool {
        true
    }

    fn promises_independent_rows(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        match self.shared.pool.health() {
            process::Health::Ready | process::Health::Starting => Health::Ready,
            process::Health::Failed(reason) => Health::Failed(reason),
            process::Health::Closed => Health::Failed("the workers were told to go".to_owned()),
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let workers = self.shared.pool.workers();
        workers.into_iter().enumerate().map(status).collect()
    }

    fn streaming(&self) -> Option<Arc<dyn Streaming>> {
        let each = self.shared.greeting.streams?;
        Some(Arc::new(PythonStreams {
            shared: Arc::clone(&self.shared),
            places: each.saturating_mul(self.workers),
        }))
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        if self.shared.greeting.streams.is_some() {
            return Err(LoadError::new(
                "it answers requests with streams of results",
            ));
        }
        Ok(Box::new(PythonInstance(Arc::clone(&self.shared))))
    }
}

fn status((index, worker): (usize, process::WorkerStatus)) -> WorkerStatus {
    WorkerStatus {
        index,
        pid: worker.pid,
        state: match worker.state {
            WorkerState::Resting | WorkerState::Backoff => "waiting",
            WorkerState::Starting => "starting",
            WorkerState::Idle => "idle",
            WorkerState::Busy => "busy",
            WorkerState::Draining | WorkerState::Stopping => "stopping",
        },
        restarts: worker.restarts,
        served: worker.served,
        resident: worker.rss,
    }
}

/// A way to the workers, which are the true instances.
struct PythonInstance(Arc<Shared>);

impl Instance for PythonInstance {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let shared = Arc::clone(&self.0);
        let request = Request {
            inputs,
            id: None,
            parameters: None,
        };
        let context = Context::detached(1, shared.run_limit);
        let mut answers = self
            .run_requests(&shared.greeting.spec, &[request], &context)
            .map_err(run_error)?;
        match answers.pop() {
            Some(answer) => answer.map_err(run_error),
            None => Err(RunError::Failed("there was no answer".to_owned())),
        }
    }

    fn run_requests(
        &mut self,
        _spec: &Spec,
        requests: &[Request<'_>],
        context: &Context<'_>,
    ) -> Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error> {
        let Shared {
            pool,
            greeting,
            name,
            ..
        } = &*self.0;
        let run = Run::of(greeting, requests, &|at| context.deadline(at))?;
        let left = |request| !context.awaited(request);
        let reply = pool
            .call(&process::Request {
                meta: &run.meta,
                payload: &run.payload(),
                weight: requests.len() as u64,
                limit: context.limit(),
                deadline: context.last_deadline(),
                left: Some(&left),
                items: requests.len(),
            })
            .map_err(call_error)?;
        context.ran_for(reply.took);
        let reply = Reply::parse(&greeting.spec, &run.rows, &reply.meta, &reply.payload)
            .map_err(|error| RunError::Crashed(format!("its answer makes no sense: {error}")))?;
        output::run(name, requests.iter().map(|request| request.id), &reply);
        reply.into_answers()
    }
}

fn call_error(error: CallError) -> RunError {
    match error {
        CallError::Crashed(how) => RunError::Crashed(how),
        CallError::Hung(limit) => RunError::RunLimit(limit),
        CallError::Garbage(what) => RunError::Crashed(format!("its answer makes no sense: {what}")),
        CallError::Unavailable(why) => RunError::Unavailable(why),
        error @ CallError::TooLarge { .. } => RunError::InvalidInput(error.to_string()),
        error @ CallError::Closed => RunError::Unavailable(error.to_string()),
    }
}

fn run_error(error: stack::Error) -> RunError {
    match error {
        stack::Error::Run(error) => error,
        stack::Error::Mismatch(message) => RunError::Failed(message),
    }
}
