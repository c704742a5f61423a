//! A model that does what a test says.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jitney_engine::{
    BatchAxis, DataType, Dim, Instance, Items, LoadError, Model, RunError, Spec, Tensor, TensorSpec,
};

type Answer = dyn Fn(&[Tensor]) -> Result<Vec<Tensor>, RunError> + Send + Sync;

/// A model with one input and one output of the same type and shape, whose instances answer as they are told and write down the shapes
/// that they were given.
#[derive(Clone)]
pub(super) struct Probe {
    pub(super) spec: Spec,
    answer: Arc<Answer>,
    seen: Arc<Mutex<Vec<Vec<usize>>>>,
    /// Whether no more instances are to be had.
    pub(super) lost: Arc<AtomicBool>,
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
            lost: Arc::default(),
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
