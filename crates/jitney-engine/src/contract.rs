//! The contract between the server and an engine: a [`Model`] is loaded once and describes itself; an [`Instance`] of it is owned by
//! one thread and runs batches there. A model that answers one request with any number of results is [`Streaming`] instead.
//!
//! An implementer needs nothing but this module, [`Spec`] and [`Tensor`]. The `echo` engine is the smallest complete example.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use jitney::batch::Context;

use crate::{Spec, Tensor, stack};

/// What the person who serves a model may choose about how it is loaded. Engines ignore what does not apply to them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadOptions {
    /// Threads one instance may use inside one call. `None` lets the engine choose for the machine.
    pub threads: Option<NonZeroUsize>,
}

/// A loaded model: it knows its signature and makes instances of itself.
pub trait Model: Send + Sync {
    /// The inputs and outputs, and whether rows can be batched.
    fn spec(&self) -> &Spec;

    /// The engine's name as it appears in logs, metrics and metadata: `echo`, `onnx`, `ort`.
    fn engine(&self) -> &'static str;

    /// The protocol's platform string, such as `onnx_rten` or `onnxruntime_onnx`.
    fn platform(&self) -> &'static str;

    /// How many threads one instance uses inside one call.
    fn threads(&self) -> NonZeroUsize {
        NonZeroUsize::MIN
    }

    /// What the engine stands on, for logs alone, since it may name files: `ONNX Runtime 1.23 from /usr/lib/libonnxruntime.so`. `None` where
    /// the engine is all there is.
    fn runtime(&self) -> Option<&str> {
        None
    }

    /// How many instances suit this machine of `cores` cores, when nobody said.
    fn suggested_instances(&self, cores: NonZeroUsize) -> NonZeroUsize {
        let _ = cores;
        NonZeroUsize::MIN
    }

    /// Full batches that an instance takes while it runs another. For each, one more is made by [`Model::instance`], which shares what it
    /// stands for with the others.
    fn ahead(&self) -> usize {
        0
    }

    /// Whether a request may be run again after a crash, or once more beside others to find out whose fault an error is.
    fn idempotent(&self) -> bool {
        true
    }

    /// Whether its instances end a run by themselves at [`Context::limit`], whatever the model does.
    fn keeps_limit(&self) -> bool {
        false
    }

    /// Whether whoever wrote the model has promised that the rows of a batch do not influence each other. Otherwise that is tried with
    /// made-up inputs before strangers' rows share a batch.
    fn promises_independent_rows(&self) -> bool {
        false
    }

    /// Whether the model can serve. One that cannot goes on trying.
    fn health(&self) -> Health {
        Health::Ready
    }

    /// The processes that run the model; none where it runs in this one.
    fn workers(&self) -> Vec<WorkerStatus> {
        Vec::new()
    }

    /// The way to its results, where it answers one request with any number of them. Such a model has no instances: [`Model::instance`] is
    /// not called.
    fn streaming(&self) -> Option<Arc<dyn Streaming>> {
        None
    }

    /// Makes an instance. Called once for each instance thread, and again when an instance has panicked.
    ///
    /// # Errors
    /// When the resources for another instance cannot be had, and always where the model is streaming.
    fn instance(&self) -> Result<Box<dyn Instance>, LoadError>;
}

/// One copy of a model, owned by one thread.
pub trait Instance: Send {
    /// Runs the model on tensors in the order of [`Spec::inputs`] and returns tensors in the order of [`Spec::outputs`].
    ///
    /// With a batch axis, every input has the same number of rows in its first dimension and every output must have that many too;
    /// the caller checks it. The call blocks its thread. It may panic: the caller answers the batch and makes a new instance.
    ///
    /// # Errors
    /// [`RunError`] when the model raised or refused the values.
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError>;

    /// Runs whole requests together and answers each, in order. By default their rows are joined and split by [`stack::run`]; an engine
    /// that can do without the copies, or that knows which request failed, has its own way.
    ///
    /// Every request must have passed [`Spec::check`] and all must be [`Spec::compatible`].
    ///
    /// # Errors
    /// The inner error fails one request, the outer one all of them.
    fn run_requests(
        &mut self,
        spec: &Spec,
        requests: &[Request<'_>],
        context: &Context<'_>,
    ) -> Result<Vec<Result<Vec<Tensor>, stack::Error>>, stack::Error> {
        let _ = context;
        let answers = stack::run(self, spec, requests)?;
        Ok(answers.into_iter().map(Ok).collect())
    }
}

/// A model that answers one request with any number of results, one after another.
///
/// ```
/// use std::time::Duration;
///
/// use futures_util::StreamExt;
/// use jitney_engine::echo::Echo;
/// use jitney_engine::{Model, Request, StreamTerms, Tensor};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let model = Echo::parse("echo:FP32[2],results=3")?;
/// let streaming = model.streaming().ok_or("it gives one result")?;
/// let inputs = [Tensor::from_f32([1, 2], vec![0.5, 0.25])?];
/// let request = Request { inputs: &inputs, id: None, parameters: None };
/// let mut results = streaming.open(&request, StreamTerms::new(Duration::from_secs(30))).await?;
/// let mut count = 0;
/// while let Some(result) = results.next().await {
///     assert_eq!(result?, inputs);
///     count += 1;
/// }
/// assert_eq!(count, 3);
/// # Ok(())
/// # }
/// ```
pub trait Streaming: Send + Sync {
    /// How many streams can go on at a time, all processes of the model together. Opening more waits for one to end.
    fn places(&self) -> NonZeroUsize;

    /// Begins a stream for a request of one row that has passed [`Spec::check`]. What it needs of the request is copied before this returns.
    ///
    /// The future needs a tokio runtime with time. Dropping it, or what it gives, ends the stream: the model computes at most the result
    /// that it is computing.
    ///
    /// # Errors
    /// [`stack::Error`] when the stream could not be begun. What goes wrong later is the last thing that the stream gives.
    fn open(
        &self,
        request: &Request<'_>,
        terms: StreamTerms,
    ) -> BoxFuture<'static, Result<Results, stack::Error>>;
}

/// The results of one request as they come: tensors in the order of [`Spec::outputs`], of one row where there is a batch axis.
///
/// Nothing follows an error. At most a handful of results is computed ahead of the reader: one that does not read pauses its own stream and
/// no other. Dropping it ends the stream at its next step.
pub type Results = BoxStream<'static, Result<Vec<Tensor>, stack::Error>>;

/// What holds for one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamTerms {
    /// The longest time from one result to the next while the reader has room for it. Beyond it the stream ends with
    /// [`RunError::RunLimit`].
    pub limit: Duration,
    /// When the caller leaves, for the model to know. Whoever opens the stream ends it then.
    pub deadline: Option<Instant>,
}

impl StreamTerms {
    /// Terms without a deadline.
    pub fn new(limit: Duration) -> StreamTerms {
        StreamTerms {
            limit,
            deadline: None,
        }
    }
}

/// One caller's request, as an instance sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Tensors in the order of [`Spec::inputs`].
    pub inputs: &'a [Tensor],
    /// The caller's name for the request.
    pub id: Option<&'a str>,
    /// What the caller said beside the inputs: the text of a JSON object.
    pub parameters: Option<&'a str>,
}

impl AsRef<[Tensor]> for Request<'_> {
    fn as_ref(&self) -> &[Tensor] {
        self.inputs
    }
}

/// Whether a model can serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It can.
    Ready,
    /// It cannot, for this reason, and goes on trying to.
    Failed(String),
}

/// A process that runs a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Its number among the model's workers, from 0.
    pub index: usize,
    /// Its process id, while there is one.
    pub pid: Option<u32>,
    /// What it is doing, as one word: `starting`, `idle`, `busy`, `waiting`, `stopping`.
    pub state: &'static str,
    /// How often it was started again.
    pub restarts: u64,
    /// Requests it has answered since it was started.
    pub served: u64,
    /// Its resident memory in bytes, where known.
    pub resident: Option<u64>,
}

/// A model refused or failed a batch. The text is shown to the caller, so it must say what was wrong and nothing of the inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RunError {
    /// The values are not what the model takes: the caller's mistake.
    #[error("{0}")]
    InvalidInput(String),
    /// The model raised while it computed.
    #[error("{0}")]
    Failed(String),
    /// The process that ran the model died, or said what made no sense and was ended.
    #[error("the model's process died while it computed: {0}")]
    Crashed(String),
    /// The model ran longer than it may and was stopped.
    #[error("the model ran longer than its limit of {0:?}")]
    RunLimit(Duration),
    /// The request was not run, or must not be run again, for this reason.
    #[error("{0}")]
    Unavailable(String),
}

/// A model could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError {
    message: String,
    hint: Option<String>,
}

impl LoadError {
    /// An error that says what was expected and what came.
    pub fn new(message: impl Into<String>) -> LoadError {
        LoadError {
            message: message.into(),
            hint: None,
        }
    }

    /// Adds what the user can change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> LoadError {
        self.hint = Some(hint.into());
        self
    }

    /// Begins with the name of what it is about, where the message does not name it.
    #[must_use]
    pub fn about(mut self, what: &str) -> LoadError {
        self.message = format!("{what}: {}", self.message);
        self
    }
}

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(f, "\n  hint: {hint}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for LoadError {}
