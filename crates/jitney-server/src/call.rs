//! A request, decoded and checked, on its way to a model; and its answer on the way back.

use std::time::{Duration, Instant};

use jitney::batch::Trip;
use jitney_engine::Tensor;

/// One request to one model.
#[derive(Debug)]
pub struct Call {
    /// Tensors in the order of the model's inputs, checked against its signature, batch axis included.
    pub inputs: Vec<Tensor>,
    /// When the answer is worth nothing any more.
    pub deadline: Instant,
    /// Whether the deadline counts for all of a stream of results, because the request itself asked for it. Otherwise it counts to the first.
    pub whole: bool,
    /// What the request says about itself.
    pub meta: Meta,
}

impl Call {
    /// A call that says nothing about itself.
    pub fn new(inputs: Vec<Tensor>, deadline: Instant) -> Call {
        Call {
            inputs,
            deadline,
            whole: false,
            meta: Meta::default(),
        }
    }
}

/// What a model answered.
#[derive(Debug)]
pub struct Outcome {
    /// Tensors in the order of the model's outputs, batch axis included.
    pub outputs: Vec<Tensor>,
    /// How the request travelled.
    pub trip: Trip,
}

/// What a request says about itself beside its tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The caller's id, echoed in the answer.
    pub id: Option<String>,
    /// How long the caller is willing to wait, as the body says.
    pub timeout: Option<Duration>,
    /// What it says to the model: the text of a JSON object.
    pub parameters: Option<String>,
}
