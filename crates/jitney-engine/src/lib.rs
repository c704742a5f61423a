//! What a model is, and every way jitney runs one.
//!
//! The modules stand in the order data flows: a [`tensor`] is a value, a [`spec`] says which tensors a model takes and gives,
//! [`stack`] joins the rows of many requests into one batch and splits the answer again, and the [`contract`] is what an engine
//! implements. The engines import the contract, never each other.

pub mod contract;
pub mod echo;
pub mod load;
#[cfg(any(feature = "onnx", feature = "ort"))]
mod model_file;
#[cfg(feature = "onnx")]
pub mod onnx;
#[cfg(feature = "ort")]
pub mod ort;
#[cfg(all(feature = "python", unix))]
pub mod python;
pub mod spec;
pub mod stack;
pub mod tensor;

pub use contract::{
    Health, Instance, LoadError, LoadOptions, Model, Request, Results, RunError, StreamTerms,
    Streaming, WorkerStatus,
};
pub use spec::{BatchAxis, Dim, Items, Spec, TensorSpec};
pub use tensor::{DataType, Shape, Tensor};
