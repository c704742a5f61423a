//! Three models, for what reads requests.

use jitney_engine::tensor::DataType;
use jitney_engine::{BatchAxis, Dim, Items, Spec, TensorSpec};

pub fn all() -> [Spec; 3] {
    [typical(), every_datatype(), without_batch_axis()]
}

/// One batched input of fixed rows.
fn typical() -> Spec {
    echo(
        BatchAxis::Free,
        vec![tensor("a", DataType::Fp32, &[Dim::Any, Dim::Fixed(2)])],
    )
}

/// Inputs of several datatypes, of which some have rows of any size.
fn every_datatype() -> Spec {
    let inputs = [
        ("a", DataType::Bytes, &[Dim::Any][..]),
        ("b", DataType::Uint8, &[Dim::Any, Dim::Any, Dim::Fixed(2)]),
        ("c", DataType::Int64, &[Dim::Any, Dim::Fixed(1), Dim::Any]),
    ];
    let inputs = inputs.map(|(name, datatype, shape)| tensor(name, datatype, shape));
    echo(BatchAxis::Free, inputs.into())
}

/// A matrix of any size and a scalar.
fn without_batch_axis() -> Spec {
    let inputs = vec![
        tensor("a", DataType::Fp64, &[Dim::Any, Dim::Any]),
        tensor("b", DataType::Fp32, &[]),
    ];
    echo(BatchAxis::None, inputs)
}

fn tensor(name: &str, datatype: DataType, shape: &[Dim]) -> TensorSpec {
    TensorSpec {
        name: name.to_owned(),
        datatype,
        shape: shape.to_vec(),
    }
}

fn echo(batch: BatchAxis, inputs: Vec<TensorSpec>) -> Spec {
    Spec {
        outputs: inputs.clone(),
        inputs,
        batch,
        rows_independent: true,
        items: Items::Tensors,
    }
}
