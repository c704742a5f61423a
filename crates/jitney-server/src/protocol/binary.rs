//! Tensors as raw bytes behind the JSON of a request, and requests that are nothing but one tensor's bytes.

use bytes::Bytes;
use jitney_engine::tensor::{Data, DataType, Shape};
use jitney_engine::{Dim, Spec, Tensor, TensorSpec};

use super::data::Dims;
use super::scan::{Excerpt, Fault, Outcome};
use super::tensors::{Inputs, from_raw, uncountable};
use crate::failure::Failure;

/// The header that says where the JSON of a body ends.
pub(super) const HEADER: &str = "Inference-Header-Content-Length";

/// The bytes behind the JSON of a request, which are taken piece by piece.
pub(super) struct Tail {
    rest: Bytes,
}

impl Tail {
    /// What stands behind the JSON, of which there are that many bytes.
    ///
    /// # Errors
    /// `invalid_input` when the body has fewer.
    pub(super) fn of(body: &Bytes, json: usize) -> Result<Tail, Failure> {
        if json > body.len() {
            return Err(Failure::invalid(format!(
                "{HEADER}: expected at most {}, the length of the body, got {json}",
                body.len()
            )));
        }
        Ok(Tail {
            rest: body.slice(json..),
        })
    }

    /// The next that many bytes.
    pub(super) fn take(&mut self, bytes: usize) -> Outcome<Bytes> {
        if bytes <= self.rest.len() {
            return Ok(self.rest.split_to(bytes));
        }
        Err(Fault::new(format!(
            "expected at most {}, which is what the body still has, got {bytes}",
            self.rest.len()
        )))
    }

    /// Checks that all were taken.
    pub(super) fn end(&self) -> Outcome<()> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(Fault::new(format!(
            "expected as many bytes behind the JSON as binary_data_size of all inputs says, got {} more",
            self.rest.len()
        )))
    }
}

/// Reads the raw bytes of an input that `binary_data_size` has announced.
pub(super) fn announced(datatype: DataType, shape: &[usize], raw: Bytes) -> Outcome<Data> {
    from_raw(datatype, shape, raw).map_err(|fault| match datatype.width() {
        Some(_) => fault.key("binary_data_size").key("parameters"),
        None => fault.key("data"),
    })
}

/// The inputs of a request of which the body is the bytes of the one tensor that the model takes: one row, whose one dimension of any size
/// is as long as the bytes say. An element of `BYTES` is the body itself, without its length in front.
pub(super) fn bare(body: Bytes, spec: &Spec) -> Outcome<Vec<Tensor>> {
    let [input] = spec.inputs.as_slice() else {
        return Err(Fault::new(format!(
            "expected the length of the JSON, as the model has {} inputs, got 0, which is for the raw bytes of one",
            spec.inputs.len()
        ))
        .key(HEADER));
    };
    let dims: Vec<Dim> = match spec.batched() {
        true => std::iter::once(Dim::Fixed(1))
            .chain(input.row_shape().iter().copied())
            .collect(),
        false => input.shape.clone(),
    };
    let (shape, data) = match input.datatype.width() {
        Some(width) => {
            let shape = sized(input, &dims, width, body.len())?;
            let data = from_raw(input.datatype, &shape, body)?;
            (shape, data)
        }
        None => (one(input, &dims)?, Data::Elements(vec![body])),
    };
    let mut inputs = Inputs::new(spec);
    inputs.place(0, shape, data)?;
    inputs.complete()
}

/// The dimensions with the one of any size as long as that many bytes need it.
fn sized(input: &TensorSpec, dims: &[Dim], width: usize, bytes: usize) -> Outcome<Shape> {
    let fixed = dims.iter().filter_map(|dim| match dim {
        Dim::Fixed(size) => Some(*size),
        Dim::Any => None,
    });
    let product = fixed.clone().try_fold(width, usize::checked_mul);
    let any = dims.len() - fixed.count();
    if any > 1 {
        return Err(needs_json(input, dims, "at most one of any size"));
    }
    let step = product.ok_or_else(uncountable)?;
    let size = match any {
        0 => 0,
        _ if step > 0 && bytes.is_multiple_of(step) => bytes / step,
        _ => {
            return Err(Fault::new(format!(
                "expected a multiple of {step} bytes for \"{}\" of shape {}, got {bytes}",
                Excerpt(&input.name),
                Dims(dims)
            )));
        }
    };
    Ok(with_any(dims, size))
}

/// The dimensions of a tensor of one element.
fn one(input: &TensorSpec, dims: &[Dim]) -> Outcome<Shape> {
    match dims.iter().all(|dim| dim.admits(1)) {
        true => Ok(with_any(dims, 1)),
        false => Err(needs_json(input, dims, "room for one element alone")),
    }
}

fn with_any(dims: &[Dim], size: usize) -> Shape {
    dims.iter()
        .map(|dim| match dim {
            Dim::Fixed(size) => *size,
            Dim::Any => size,
        })
        .collect()
}

fn needs_json(input: &TensorSpec, dims: &[Dim], expected: &str) -> Box<Fault> {
    Fault::new(format!(
        "expected a model whose input has dimensions with {expected}, but \"{}\" is {} of shape {}: send its shape in JSON",
        Excerpt(&input.name),
        input.datatype,
        Dims(dims)
    ))
    .key(HEADER)
}
