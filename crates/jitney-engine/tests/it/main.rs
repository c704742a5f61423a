//! Real and tiny models through the engines.
//!
//! The models are prepared by `tests/models.py`; `cargo xtask test` does that and says where they are.

#![cfg_attr(
    any(feature = "onnx", feature = "ort", feature = "python"),
    expect(
        clippy::unwrap_used,
        clippy::panic,
        reason = "helpers of tests fail as tests do"
    )
)]

#[cfg(all(feature = "onnx", feature = "ort"))]
mod agreement;
#[cfg(feature = "onnx")]
mod damage;
#[cfg(feature = "onnx")]
mod onnx;
#[cfg(feature = "ort")]
mod ort;
#[cfg(all(feature = "python", unix))]
mod python;
#[cfg(any(feature = "onnx", feature = "ort"))]
mod support;
