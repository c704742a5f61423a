//! The signature of a model as its file declares it.

use super::{FileDim, Kind, ModelFile, Value};
use crate::tensor::DataType;
use crate::{BatchAxis, Dim, Items, LoadError, Spec, TensorSpec};

/// `TensorProto.DataType` of 64-bit integers.
pub(super) const INT64: u64 = 7;

impl ModelFile {
    /// The signature.
    ///
    /// # Errors
    /// When an input or output is of a type that the protocol cannot carry, or an input's number of dimensions is not known.
    pub(crate) fn spec(&self) -> Result<Spec, LoadError> {
        let given = |input: &&Value| !self.initializers.contains(&input.name);
        let inputs: Vec<&Value> = self.inputs.iter().filter(given).collect();
        let outputs: Vec<&Value> = self.outputs.iter().collect();
        if outputs.is_empty() {
            return Err(self.error("it has no outputs"));
        }
        for input in &inputs {
            if input.shape.is_none() {
                let message = format!("input \"{}\" declares no shape", input.name);
                return Err(self
                    .error(message)
                    .hint("export the model with the shapes of its inputs"));
            }
        }
        let batch = batch_axis(&inputs, &outputs);
        let tensors = |kind, values: Vec<&Value>| -> Result<Vec<TensorSpec>, LoadError> {
            let tensor = |value| self.tensor_spec(kind, value, batch);
            values.into_iter().map(tensor).collect()
        };
        Ok(Spec {
            inputs: tensors("input", inputs)?,
            outputs: tensors("output", outputs)?,
            batch,
            rows_independent: !self.quantizes_dynamically(),
            items: Items::Tensors,
        })
    }

    fn tensor_spec(
        &self,
        role: &str,
        value: &Value,
        batch: BatchAxis,
    ) -> Result<TensorSpec, LoadError> {
        let refused = |what: &str| self.error(format!("{role} \"{}\" is {what}", value.name));
        let datatype = match value.kind {
            Kind::Tensor(code) => datatype(code).map_err(|name| {
                refused(&format!("of type {name}, which the protocol does not have"))
            })?,
            Kind::Other(kind) => {
                return Err(refused(&format!("{kind}, and only tensors can be served"))
                    .hint("export it with tensors alone; for scikit-learn, with zipmap=False"));
            }
            Kind::Unknown => return Err(refused("of no declared type")),
        };
        let mut shape: Vec<Dim> = match &value.shape {
            Some(dims) => dims.iter().map(FileDim::dim).collect(),
            None => vec![Dim::Any],
        };
        if batch != BatchAxis::None
            && let Some(first) = shape.first_mut()
        {
            *first = Dim::Any;
        }
        Ok(TensorSpec {
            name: value.name.clone(),
            datatype,
            shape,
        })
    }
}

impl FileDim {
    fn dim(&self) -> Dim {
        match self {
            FileDim::Fixed(size) => Dim::Fixed(*size),
            FileDim::Named(_) | FileDim::Unnamed => Dim::Any,
        }
    }
}

/// Whether a dimension's name is an exporter's way of saying that it has none: tf2onnx numbers them `unk__7`, PaddlePaddle
/// `DynamicDimension.0`, and others write a question mark. Such names differ between dimensions that are always equal.
pub(super) fn is_generated(name: &str) -> bool {
    let name = name.trim_start_matches("p2o.");
    let after = |prefix: &str| {
        let rest = name.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit()))
    };
    matches!(name, "" | "?" | "None" | "-1")
        || after("unk__")
        || after("unknown")
        || after("unnamed")
        || after("DynamicDimension.")
}

/// Decides by the first dimensions whether requests can be joined along them.
///
/// They count rows together when they are free on every input and every output and nothing speaks against it: two names that differ,
/// or a name that says length. A wrong `Free` would mix the rows of strangers, a wrong `None` only costs speed, so in doubt it is `None`.
fn batch_axis(inputs: &[&Value], outputs: &[&Value]) -> BatchAxis {
    let mut firsts = Vec::with_capacity(inputs.len() + outputs.len());
    for value in inputs.iter().chain(outputs) {
        match value.shape.as_ref().and_then(|shape| shape.first()) {
            Some(first) => firsts.push(first),
            None => return BatchAxis::None,
        }
    }
    if inputs.is_empty() {
        return BatchAxis::None;
    }
    if let FileDim::Fixed(size) = firsts[0] {
        let alike = *size > 0 && firsts.iter().all(|first| *first == firsts[0]);
        return if alike {
            BatchAxis::Fixed(*size)
        } else {
            BatchAxis::None
        };
    }
    let mut name = None;
    for first in firsts {
        match first {
            FileDim::Fixed(_) => return BatchAxis::None,
            FileDim::Named(this) if is_length(this) || name.is_some_and(|name| name != this) => {
                return BatchAxis::None;
            }
            FileDim::Named(this) => name = Some(this),
            FileDim::Unnamed => {}
        }
    }
    BatchAxis::Free
}

/// Whether a name says that the dimension is an extent of one item, not a number of items.
fn is_length(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["seq", "len", "time", "token", "frame", "height", "width"]
        .iter()
        .any(|word| name.contains(word))
}

/// The protocol's datatype for an element type of ONNX; else the type's name.
fn datatype(code: u64) -> Result<DataType, String> {
    Ok(match code {
        1 => DataType::Fp32,
        2 => DataType::Uint8,
        3 => DataType::Int8,
        4 => DataType::Uint16,
        5 => DataType::Int16,
        6 => DataType::Int32,
        INT64 => DataType::Int64,
        8 => DataType::Bytes,
        9 => DataType::Bool,
        10 => DataType::Fp16,
        11 => DataType::Fp64,
        12 => DataType::Uint32,
        13 => DataType::Uint64,
        16 => DataType::Bf16,
        14 => return Err("COMPLEX64".to_owned()),
        15 => return Err("COMPLEX128".to_owned()),
        17..=20 => return Err("FLOAT8".to_owned()),
        21 => return Err("UINT4".to_owned()),
        22 => return Err("INT4".to_owned()),
        code => return Err(format!("number {code}")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(name: &str, dims: &[FileDim]) -> Value {
        Value {
            name: name.to_owned(),
            kind: Kind::Tensor(1),
            shape: Some(dims.to_vec()),
        }
    }

    /// Dimensions from text: a number, a name, or `?`.
    fn dims(text: &str) -> Vec<FileDim> {
        text.split_whitespace()
            .map(|dim| match dim.parse() {
                Ok(size) => FileDim::Fixed(size),
                Err(_) if is_generated(dim) => FileDim::Unnamed,
                Err(_) => FileDim::Named(dim.to_owned()),
            })
            .collect()
    }

    #[test]
    fn the_batch_axis_is_told_from_the_first_dimensions() {
        use BatchAxis::{Fixed, Free, None};
        let table: [(&[&str], &[&str], BatchAxis); 16] = [
            (&["batch 4"], &["batch 3"], Free),
            (&["N 4", "N"], &["N 3", "N"], Free),
            (&["? 4"], &["? 3"], Free),
            (&["unk__214 2048"], &["unk__215 214"], Free),
            (
                &["p2o.DynamicDimension.0 3"],
                &["p2o.DynamicDimension.7 2"],
                Free,
            ),
            (&["batch 4"], &["? 3"], Free),
            (&["batch 4"], &["boxes 3"], None),
            (&["a 4", "b 4"], &["a 3"], None),
            (&["sequence 4"], &["sequence 3"], None),
            (&["batch 4"], &["3"], None),
            (&["batch 4", ""], &["batch 3"], None),
            (&["? 4", "2 ? 128"], &["? 1"], None),
            (&["1 3 224 224"], &["1 1000"], Fixed(1)),
            (&["4 8"], &["4 2"], Fixed(4)),
            (&["4 8"], &["2 4"], None),
            (&[], &["batch 3"], None),
        ];
        for (inputs, outputs, expected) in table {
            let values = |texts: &[&str]| -> Vec<Value> {
                texts.iter().map(|text| value("x", &dims(text))).collect()
            };
            let (inputs_, outputs_) = (values(inputs), values(outputs));
            let axis = batch_axis(
                &inputs_.iter().collect::<Vec<_>>(),
                &outputs_.iter().collect::<Vec<_>>(),
            );
            assert_eq!(axis, expected, "{inputs:?} -> {outputs:?}");
        }
    }

    #[test]
    fn the_signature_frees_the_batch_axis_and_drops_constants() {
        let mut file = ModelFile {
            inputs: vec![value("x", &dims("4 8")), value("w", &dims("8 2"))],
            outputs: vec![value("y", &dims("4 2"))],
            ..ModelFile::default()
        };
        file.initializers.insert("w".to_owned());
        let spec = file.spec().unwrap();
        assert_eq!(spec.batch, BatchAxis::Fixed(4));
        assert_eq!(spec.inputs.len(), 1);
        assert_eq!(spec.inputs[0].to_string(), "FP32[-1,8]");
        assert_eq!(spec.outputs[0].to_string(), "FP32[-1,2]");
        assert!(spec.rows_independent);
        file.operators
            .insert("com.microsoft.DynamicQuantizeMatMul".to_owned());
        assert!(!file.spec().unwrap().rows_independent);
    }

    #[test]
    fn what_cannot_be_served_is_refused_by_name() {
        let with = |change: fn(&mut Value)| {
            let mut file = ModelFile {
                inputs: vec![value("x", &dims("N 8"))],
                outputs: vec![value("y", &dims("N 2"))],
                ..ModelFile::default()
            };
            change(&mut file.inputs[0]);
            file.spec().unwrap_err().to_string()
        };
        assert!(with(|x| x.kind = Kind::Tensor(14)).contains("input \"x\" is of type COMPLEX64"));
        assert!(with(|x| x.kind = Kind::Other("a sequence")).contains("zipmap=False"));
        assert!(with(|x| x.shape = None).contains("input \"x\" declares no shape"));
    }
}
