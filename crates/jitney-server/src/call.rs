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
    /// How urgent it is, as the protocol counts: 1 is the highest, larger numbers come later, and 0 says nothing.
    pub priority: u64,
    /// What it says to the model: the text of a JSON object.
    pub parameters: Option<String>,
    /// On whose behalf it is. A model's time is shared evenly among those who have requests waiting.
    pub key: Option<u64>,
}

impl Meta {
    /// How urgent a request is that says nothing about it.
    const PRIORITY: u64 = 100;

    /// The priority as the batcher counts: by each step up, a request is treated as if it had come a second earlier. Requests that say
    /// nothing are on the step of 100, which is 0.
    ///
    /// ```
    /// use jitney_server::call::Meta;
    ///
    /// let step = |priority| Meta { priority, ..Meta::default() }.step();
    /// assert_eq!([step(1), step(2), step(0), step(100), step(1000)], [99, 98, 0, 0, -128]);
    /// ```
    pub fn step(&self) -> i8 {
        let priority = match self.priority {
            0 => Meta::PRIORITY,
            said => said,
        };
        let step = Meta::PRIORITY
            .cast_signed()
            .saturating_sub_unsigned(priority);
        i8::try_from(step).unwrap_or(i8::MIN)
    }
}
