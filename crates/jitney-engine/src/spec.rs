//! The signature of a model: which tensors it takes and gives, and whether it can be batched.

use std::fmt;

use crate::tensor::{DataType, Shape, Tensor};

/// One dimension of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dim {
    /// Exactly this many.
    Fixed(usize),
    /// Any number; `-1` in the protocol.
    Any,
}

/// One input or output of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name by which requests and answers call it.
    pub name: String,
    /// The type of its elements.
    pub datatype: DataType,
    /// Its dimensions, the batch axis included where the model has one.
    pub shape: Vec<Dim>,
}

/// How the first dimension of a model's tensors relates to requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchAxis {
    /// The first dimension of every input and output counts rows, and any number of rows can be run together.
    Free,
    /// The first dimension counts rows, and the model takes exactly this many at a time. With more than one, short batches are padded.
    Fixed(usize),
    /// The tensors have no batch axis: requests are run one by one.
    None,
}

/// The signature of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spec {
    /// The inputs, in the order in which an instance takes them.
    pub inputs: Vec<TensorSpec>,
    /// The outputs, in the order in which an instance gives them.
    pub outputs: Vec<TensorSpec>,
    /// Whether and how rows of different requests can be joined.
    pub batch: BatchAxis,
    /// False when a row's answer depends on the other rows of its batch, as with dynamic quantization.
    pub rows_independent: bool,
}
