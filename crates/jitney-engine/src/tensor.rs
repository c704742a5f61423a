//! A tensor as it travels: a datatype of the Open Inference Protocol, a shape, and bytes.

use std::fmt;

use bytes::Bytes;
use smallvec::SmallVec;

/// The dimensions of a tensor, outermost first. Up to six live without an allocation.
pub type Shape = SmallVec<[usize; 6]>;

/// The datatypes of the Open Inference Protocol, with Triton's `BF16`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the protocol's own names say it")]
pub enum DataType {
    Bool,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Int8,
    Int16,
    Int32,
    Int64,
    Fp16,
    Bf16,
    Fp32,
    Fp64,
    Bytes,
}

impl DataType {
    /// Every datatype, in the protocol's order.
    pub const ALL: [DataType; 14] = {
        use DataType::{
            Bf16, Bool, Bytes, Fp16, Fp32, Fp64, Int8, Int16, Int32, Int64, Uint8, Uint16, Uint32,
            Uint64,
        };
        [
            Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64,
            Bytes,
        ]
    };

    /// The protocol's name, such as `FP32`.
    pub const fn name(self) -> &'static str {
        match self {
            DataType::Bool => "BOOL",
            DataType::Uint8 => "UINT8",
            DataType::Uint16 => "UINT16",
            DataType::Uint32 => "UINT32",
            DataType::Uint64 => "UINT64",
            DataType::Int8 => "INT8",
            DataType::Int16 => "INT16",
            DataType::Int32 => "INT32",
            DataType::Int64 => "INT64",
            DataType::Fp16 => "FP16",
            DataType::Bf16 => "BF16",
            DataType::Fp32 => "FP32",
            DataType::Fp64 => "FP64",
            DataType::Bytes => "BYTES",
        }
    }

    /// The datatype of that name, which is case-sensitive as in the protocol.
    pub fn from_name(name: &str) -> Option<DataType> {
        DataType::ALL
            .into_iter()
            .find(|datatype| datatype.name() == name)
    }

    /// Bytes per element; `None` for `BYTES`, whose elements vary.
    pub const fn width(self) -> Option<usize> {
        match self {
            DataType::Bool | DataType::Uint8 | DataType::Int8 => Some(1),
            DataType::Uint16 | DataType::Int16 | DataType::Fp16 | DataType::Bf16 => Some(2),
            DataType::Uint32 | DataType::Int32 | DataType::Fp32 => Some(4),
            DataType::Uint64 | DataType::Int64 | DataType::Fp64 => Some(8),
            DataType::Bytes => None,
        }
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The elements of a tensor, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// Elements of a fixed width, little-endian, not necessarily aligned.
    Fixed(Bytes),
    /// The elements of a `BYTES` tensor.
    Elements(Vec<Bytes>),
}

/// A value of a model's input or output. Cloning it is cheap: the bytes are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tensor {
    datatype: DataType,
    shape: Shape,
    data: Data,
}

/// A tensor's data does not fit its datatype and shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shape {shape:?} of {datatype} needs {expected}, but the data has {got}")]
pub struct ShapeError {
    datatype: DataType,
    shape: Shape,
    expected: String,
    got: String,
}
