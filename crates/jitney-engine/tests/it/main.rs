//! Real and tiny models through the engines.
//!
//! The models are prepared by `tests/models.py`; `cargo xtask test` does that and says where they are.

#[cfg(feature = "onnx")]
mod damage;
#[cfg(feature = "onnx")]
mod onnx;
mod support;
