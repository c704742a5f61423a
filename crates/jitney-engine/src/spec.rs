//! The signature of a model: which tensors it takes and gives, and whether it can be batched.

use std::fmt;

use crate::tensor::{DataType, Tensor};

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
    /// Its dimensions, the batch axis included where the model has one. The batch axis is always [`Dim::Any`], even where
    /// [`BatchAxis::Fixed`] says that the model itself takes a fixed number: a request may have any number of rows.
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
    /// What a row is.
    pub items: Items,
}

/// What a row of a model's tensors is to those who call it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Items {
    /// Values of the datatypes of its inputs.
    #[default]
    Tensors,
    /// One JSON value, as text in a `BYTES` element: the model has no types. See [`Spec::json`].
    Json,
}

impl TensorSpec {
    /// A tensor with a batch axis in front, from the text of one row's type and shape: `FP32[64]`, `INT64[-1]`, `BYTES[]`, `BOOL`.
    ///
    /// # Errors
    /// A sentence that says what was expected.
    ///
    /// ```
    /// use jitney_engine::TensorSpec;
    ///
    /// let pixels = TensorSpec::parse_row("pixels", "FP32[3, 8, 8]")?;
    /// assert_eq!(pixels.to_string(), "FP32[-1,3,8,8]");
    /// # Ok::<(), String>(())
    /// ```
    pub fn parse_row(name: &str, text: &str) -> Result<TensorSpec, String> {
        let wrong = || {
            format!("expected a datatype and the shape of a row, such as FP32[64], got \"{text}\"")
        };
        let (datatype, dims) = match text.trim().split_once('[') {
            Some((datatype, rest)) => (datatype, rest.strip_suffix(']').ok_or_else(wrong)?),
            None => (text.trim(), ""),
        };
        let datatype = DataType::from_name(datatype.trim()).ok_or_else(wrong)?;
        let mut shape = vec![Dim::Any];
        for dim in dims.split(',').map(str::trim) {
            match dim {
                "" if dims.trim().is_empty() => {}
                "-1" => shape.push(Dim::Any),
                dim => shape.push(Dim::Fixed(dim.parse().map_err(|_| wrong())?)),
            }
        }
        Ok(TensorSpec {
            name: name.to_owned(),
            datatype,
            shape,
        })
    }

    /// Checks a tensor's datatype and shape.
    ///
    /// # Errors
    /// A sentence that names the tensor, what was expected and what came: `"pixels": expected FP32 of shape [-1, 64], got FP32 of shape
    /// [1, 63]`.
    pub fn matches(&self, tensor: &Tensor) -> Result<(), String> {
        let fits = self.datatype == tensor.datatype()
            && self.shape.len() == tensor.shape().len()
            && (self.shape.iter().zip(tensor.shape())).all(|(dim, size)| dim.admits(*size));
        if fits {
            return Ok(());
        }
        Err(format!(
            "\"{}\": expected {} of shape {}, got {} of shape {:?}",
            self.name,
            self.datatype,
            Dims(&self.shape, ", "),
            tensor.datatype(),
            tensor.shape(),
        ))
    }

    /// The dimensions after the first.
    pub fn row_shape(&self) -> &[Dim] {
        self.shape.get(1..).unwrap_or_default()
    }

    /// The dimensions as the protocol writes them, with -1 for any number.
    pub fn protocol_shape(&self) -> Vec<i64> {
        self.shape.iter().map(|dim| dim.protocol()).collect()
    }
}

impl fmt::Display for TensorSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.datatype, Dims(&self.shape, ","))
    }
}

impl Dim {
    /// Whether a dimension of that size is allowed.
    pub fn admits(self, size: usize) -> bool {
        match self {
            Dim::Fixed(fixed) => fixed == size,
            Dim::Any => true,
        }
    }

    fn protocol(self) -> i64 {
        match self {
            Dim::Fixed(fixed) => i64::try_from(fixed).unwrap_or(i64::MAX),
            Dim::Any => -1,
        }
    }
}

impl Spec {
    /// The signature of a model that takes JSON values and gives JSON values: one input `item` and one output `prediction`, both `BYTES`,
    /// each element of which is the text of one value.
    ///
    /// Where numbers of an answer are none that JSON has (NaN and the infinities) their words stand in quotes, `"NaN"`, and a second tensor
    /// behind the output, `INT64[-1]`, counts them for each row.
    ///
    /// ```
    /// use jitney_engine::{Items, Spec};
    ///
    /// let spec = Spec::json();
    /// assert_eq!(spec.inputs[0].to_string(), "BYTES[-1]");
    /// assert_eq!(spec.items, Items::Json);
    /// ```
    pub fn json() -> Spec {
        let texts = |name: &str| TensorSpec {
            name: name.to_owned(),
            datatype: DataType::Bytes,
            shape: vec![Dim::Any],
        };
        Spec {
            inputs: vec![texts("item")],
            outputs: vec![texts("prediction")],
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Json,
        }
    }

    /// Whether the first dimension of the tensors counts rows.
    pub fn batched(&self) -> bool {
        self.batch != BatchAxis::None
    }

    /// Checks the inputs of one request, in the order of [`Spec::inputs`], and counts its rows: one where there is no batch axis.
    ///
    /// # Errors
    /// A sentence that names the input, what was expected and what came.
    ///
    /// ```
    /// use jitney_engine::{BatchAxis, Items, Spec, Tensor, TensorSpec};
    ///
    /// let spec = Spec {
    ///     inputs: vec![TensorSpec::parse_row("pixels", "FP32[64]")?],
    ///     outputs: vec![TensorSpec::parse_row("scores", "FP32[10]")?],
    ///     batch: BatchAxis::Free,
    ///     rows_independent: true,
    ///     items: Items::Tensors,
    /// };
    /// let pixels = Tensor::from_f32([1, 63], vec![0.0; 63])?;
    /// assert_eq!(
    ///     spec.check(&[pixels]).unwrap_err(),
    ///     r#"input "pixels": expected FP32 of shape [-1, 64], got FP32 of shape [1, 63]"#,
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn check(&self, inputs: &[Tensor]) -> Result<usize, String> {
        if inputs.len() != self.inputs.len() {
            return Err(format!(
                "expected {} inputs, got {}",
                self.inputs.len(),
                inputs.len(),
            ));
        }
        for (spec, input) in self.inputs.iter().zip(inputs) {
            spec.matches(input)
                .map_err(|error| format!("input {error}"))?;
        }
        if self.batched() {
            self.check_rows(inputs)
        } else {
            Ok(1)
        }
    }

    fn check_rows(&self, inputs: &[Tensor]) -> Result<usize, String> {
        let rows = inputs.first().map_or(1, Tensor::rows);
        for (spec, input) in self.inputs.iter().zip(inputs) {
            if input.rows() == 0 {
                return Err(format!(
                    "input \"{}\": expected at least one row, got none",
                    spec.name
                ));
            }
            if input.rows() != rows {
                return Err(format!(
                    "input \"{}\": expected {rows} rows as in \"{}\", got {}",
                    spec.name,
                    self.inputs[0].name,
                    input.rows(),
                ));
            }
        }
        Ok(rows)
    }

    /// Whether the rows of two checked requests can be joined: every input has the same datatype and the same shape after the first
    /// dimension.
    pub fn compatible(a: &[Tensor], b: &[Tensor]) -> bool {
        a.len() == b.len()
            && a.iter().zip(b).all(|(a, b)| {
                a.datatype() == b.datatype() && a.shape().get(1..) == b.shape().get(1..)
            })
    }
}

/// Writes dimensions as the protocol does.
struct Dims<'a>(&'a [Dim], &'static str);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, dim) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(self.1)?;
            }
            write!(f, "{}", dim.protocol())?;
        }
        f.write_str("]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor(datatype: DataType, shape: &[usize]) -> Tensor {
        let bytes: usize = shape.iter().product::<usize>() * datatype.width().unwrap();
        let data = crate::tensor::Data::Fixed(vec![0; bytes].into());
        Tensor::new(datatype, shape.into(), data).unwrap()
    }

    fn spec(batch: BatchAxis, inputs: &[&str]) -> Spec {
        let inputs: Vec<_> = inputs
            .iter()
            .enumerate()
            .map(|(at, text)| TensorSpec::parse_row(&format!("in{at}"), text).unwrap())
            .collect();
        Spec {
            outputs: inputs.clone(),
            inputs,
            batch,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    #[test]
    fn rows_are_parsed_from_text() {
        let good = [
            ("FP32[64]", "FP32[-1,64]"),
            (" INT64 [ 3, -1 ] ", "INT64[-1,3,-1]"),
            ("BYTES[]", "BYTES[-1]"),
            ("BOOL", "BOOL[-1]"),
        ];
        for (text, expected) in good {
            assert_eq!(
                TensorSpec::parse_row("x", text).unwrap().to_string(),
                expected
            );
        }
        for text in [
            "", "fp32[1]", "FP32[1", "FP32[1,]", "FP32[-2]", "FP32[a]", "FP32]",
        ] {
            let error = TensorSpec::parse_row("x", text).unwrap_err();
            assert!(error.contains("such as FP32[64]"), "{text}: {error}");
        }
    }

    #[test]
    fn checking_inputs() {
        use DataType::{Fp32, Fp64};
        let two = spec(BatchAxis::Free, &["FP32[4]", "FP64[-1,2]"]);
        let rows: [(&[Tensor], Result<usize, &str>); 7] = [
            (&[tensor(Fp32, &[3, 4]), tensor(Fp64, &[3, 9, 2])], Ok(3)),
            (&[tensor(Fp32, &[3, 4])], Err("expected 2 inputs, got 1")),
            (
                &[tensor(Fp32, &[1, 5]), tensor(Fp64, &[1, 9, 2])],
                Err(r#"input "in0": expected FP32 of shape [-1, 4], got FP32 of shape [1, 5]"#),
            ),
            (
                &[tensor(Fp32, &[4]), tensor(Fp64, &[1, 9, 2])],
                Err(r#"input "in0": expected FP32 of shape [-1, 4], got FP32 of shape [4]"#),
            ),
            (
                &[tensor(Fp32, &[1, 4]), tensor(Fp32, &[1, 9, 2])],
                Err(
                    r#"input "in1": expected FP64 of shape [-1, -1, 2], got FP32 of shape [1, 9, 2]"#,
                ),
            ),
            (
                &[tensor(Fp32, &[2, 4]), tensor(Fp64, &[1, 9, 2])],
                Err(r#"input "in1": expected 2 rows as in "in0", got 1"#),
            ),
            (
                &[tensor(Fp32, &[0, 4]), tensor(Fp64, &[0, 9, 2])],
                Err(r#"input "in0": expected at least one row, got none"#),
            ),
        ];
        for (inputs, expected) in rows {
            assert_eq!(two.check(inputs), expected.map_err(str::to_owned));
        }
    }

    #[test]
    fn without_a_batch_axis_a_request_is_one_row() {
        let spec = spec(BatchAxis::None, &["FP32[4]", "FP32[4]"]);
        let inputs = [
            tensor(DataType::Fp32, &[2, 4]),
            tensor(DataType::Fp32, &[3, 4]),
        ];
        assert_eq!(spec.check(&inputs), Ok(1));
    }

    #[test]
    fn requests_are_compatible_when_their_rows_have_one_shape() {
        use DataType::{Fp32, Int32};
        let a = [tensor(Fp32, &[1, 4])];
        assert!(Spec::compatible(&a, &[tensor(Fp32, &[7, 4])]));
        assert!(!Spec::compatible(&a, &[tensor(Fp32, &[1, 5])]));
        assert!(!Spec::compatible(&a, &[tensor(Int32, &[1, 4])]));
        assert!(!Spec::compatible(&a, &[tensor(Fp32, &[])]));
        assert!(!Spec::compatible(&a, &[]));
    }
}
