//! A model that does what a test says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jitney_engine::{
    BatchAxis, DataType, Dim, Health, Instance, Items, LoadError, Model, RunError, Spec, Tensor,
    TensorSpec, WorkerStatus,
};

type Answer = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>, RunError> + Send + Sync;

/// A model with one input and one output of the same type and shape, whose instances answer as they are told and write down the shapes
/// that they were given.
#[derive(Clone)]
pub(super) struct Probe {
    pub(super) spec: Spec,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Vec<usize>>>>,
    /// Whether a request may be run twice.
    pub(super) idempotent: bool,
    /// Whether no more instances are to be had.
    pub(super) lost: Arc<AtomicBool>,
    /// Whether the processes that it stands for cannot be started.
    pub(super) failed: Arc<AtomicBool>,
}

impl Probe {
    pub(super) fn new(
        datatype: DataType,
        shape: &[Dim],
        batch: BatchAxis,
        answer: impl Fn(&[Tensor]) -> Result<Vec<Tensor>, RunError> + Send + Sync + 'static,
    ) -> Probe {
        let tensor = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype,
            shape: shape.to_vec(),
        };
        Probe {
            spec: Spec {
                inputs: vec![tensor("in")],
                outputs: vec![tensor("out")],
                batch,
                rows_independent: true,
                items: Items::Tensors,
            },
            answer: Arc::new(answer),
            seen: Arc::default(),
            idempotent: true,
            lost: Arc::default(),
            failed: Arc::default(),
        }
    }

    /// A model that answers with its input where `accepts` has nothing against the shape.
    pub(super) fn accepting(
        datatype: DataType,
        shape: &[Dim],
        batch: BatchAxis,
        accepts: fn(&[usize]) -> Result<(), RunError>,
    ) -> Probe {
        Probe::new(datatype, shape, batch, move |inputs| {
            accepts(inputs[0].shape()).map(|()| inputs.to_vec())
        })
    }

    /// A model of JSON values that answers with them, after `judge` has had its say about each.
    pub(super) fn json(
        judge: impl Fn(&str) -> Result<(), RunError> + Send + Sync + 'static,
    ) -> Probe {
        let answer = move |inputs: &[Tensor]| {
            for item in inputs[0].byte_elements().unwrap_or_default() {
                judge(str::from_utf8(item).unwrap_or_default())?;
            }
            Ok(inputs.to_vec())
        };
        let mut probe = Probe::new(DataType::Bytes, &[Dim::Any], BatchAxis::Free, answer);
        probe.spec = Spec::json();
        probe
    }

    /// The shapes of all inputs so far.
    pub(super) fn seen(&self) -> Vec<Vec<usize>> {
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Model for Probe {
    fn spec(&self) -> &Spec {
        &self.spec
    }

    fn engine(&self) -> &'static str {
        "probe"
    }

    fn platform(&self) -> &'static str {
        "probe"
    }

    fn promises_independent_rows(&self) -> bool {
        self.spec.items == Items::Json
    }

    fn idempotent(&self) -> bool {
        self.idempotent
    }

    fn keeps_limit(&self) -> bool {
        true
    }

    fn health(&self) -> Health {
        if self.failed.load(Ordering::SeqCst) {
            Health::Failed("its processes do not come up".to_owned())
        } else {
            Health::Ready
        }
    }

    fn workers(&self) -> Vec<WorkerStatus> {
        let worker = WorkerStatus {
            index: 0,
            pid: Some(7),
            state: "idle",
            restarts: 1,
            served: 2,
            resident: Some(3),
        };
        vec![worker]
    }

    fn instance(&self) -> Result<Box<dyn Instance>, LoadError> {
        if self.lost.load(Ordering::SeqCst) {
            return Err(LoadError::new("the device is lost"));
        }
        Ok(Box::new(self.clone()))
    }
}

impl Instance for Probe {
    fn run(&mut self, inputs: &[Tensor]) -> Result<Vec<Tensor>, RunError> {
        let shape = inputs[0].shape().to_vec();
        let seen = self.seen.lock();
        seen.unwrap_or_else(PoisonError::into_inner).push(shape);
        (self.answer)(inputs)
    }
}

/// The failure of a model.
pub(super) fn refuse(why: &str) -> Result<(), RunError> {
    Err(RunError::Failed(why.to_owned()))
}
