//! A request's tensors against a model's signature, whatever form they came in, and the raw bytes of tensors.
//!
//! Raw tensors are little-endian and row-major; a `BOOL` is one byte, 0 or 1. The elements of a `BYTES` tensor stand behind each other, each
//! after its length as four bytes, lowest first. Reading them copies nothing: every tensor is a piece of the buffer that it came in.

use bytes::Bytes;
use jitney_engine::tensor::{Data, DataType, Shape, element_count};
use jitney_engine::{Items, Spec, Tensor, TensorSpec};

use super::data::{self, Dims, too_many_dimensions, too_many_strings};
use super::scan::{Excerpt, Fault, Outcome};
use super::{MAX_DIMENSIONS, MAX_STRINGS};
use crate::failure::{Code, Failure};

/// The inputs of one request while they come in.
#[derive(Debug)]
pub(crate) struct Inputs<'s> {
    spec: &'s Spec,
    slots: Vec<Option<Tensor>>,
    /// How many have come.
    came: usize,
}

impl<'s> Inputs<'s> {
    /// No inputs yet for a model of that signature.
    pub(crate) fn new(spec: &'s Spec) -> Inputs<'s> {
        Inputs {
            spec,
            slots: vec![None; spec.inputs.len()],
            came: 0,
        }
    }

    /// Takes the next input, with its elements.
    ///
    /// # Errors
    /// `invalid_input` with a sentence that begins with the place, such as `inputs[0].shape: expected [-1, 64] for "pixels", got [1, 63]`.
    pub(crate) fn add(
        &mut self,
        name: &str,
        datatype: &str,
        shape: &[i64],
        data: Data,
    ) -> Result<(), Failure> {
        self.take(name, datatype, shape, |_, _| Ok(data))
    }

    /// Takes the next input, with the raw bytes of its elements.
    ///
    /// # Errors
    /// As [`Inputs::add`]; `too_large` for more elements in a `BYTES` tensor than [`MAX_STRINGS`].
    pub(crate) fn add_raw(
        &mut self,
        name: &str,
        datatype: &str,
        shape: &[i64],
        raw: Bytes,
    ) -> Result<(), Failure> {
        let at = self.came;
        self.take(name, datatype, shape, |datatype, shape| {
            from_raw(datatype, shape, raw)
                .map_err(|fault| fault.index(at).key("raw_input_contents"))
        })
    }

    /// The tensors in the order of [`Spec::inputs`], which are ready for the model: none is missing, and all have as many rows.
    ///
    /// # Errors
    /// `invalid_input` with a sentence.
    pub(crate) fn finish(self) -> Result<Vec<Tensor>, Failure> {
        let tensors = self.complete().map_err(|fault| fault.key("inputs"))?;
        Ok(tensors)
    }

    fn take(
        &mut self,
        name: &str,
        datatype: &str,
        shape: &[i64],
        data: impl FnOnce(DataType, &[usize]) -> Outcome<Data>,
    ) -> Result<(), Failure> {
        let at = self.came;
        self.came += 1;
        let within = |fault: Box<Fault>| fault.index(at).key("inputs");
        let checked = checked(self.spec, name, datatype, shape);
        let (index, shape) = checked.map_err(within)?;
        // What is wrong with the elements may be elsewhere than the input.
        let data = data(self.spec.inputs[index].datatype, &shape)?;
        Ok(self.place(index, shape, data).map_err(within)?)
    }

    /// Makes the tensor of an input whose datatype and shape are checked, and puts it where the model takes it.
    pub(super) fn place(&mut self, index: usize, shape: Shape, data: Data) -> Outcome<()> {
        let (Some(slot), Some(input)) = (self.slots.get_mut(index), self.spec.inputs.get(index))
        else {
            return Ok(());
        };
        if slot.is_some() {
            return Err(given_twice(&input.name).key("name"));
        }
        if self.spec.items == Items::Json {
            data::check_json(&data)?;
        }
        let tensor = Tensor::new(input.datatype, shape, data);
        *slot = Some(tensor.map_err(|error| Fault::new(error.to_string()))?);
        Ok(())
    }

    /// The tensors of all inputs.
    pub(super) fn complete(self) -> Outcome<Vec<Tensor>> {
        let inputs = self.spec.inputs.iter().zip(self.slots);
        let inputs: Vec<Tensor> = inputs
            .map(|(spec, slot)| slot.ok_or_else(|| not_given(&spec.name)))
            .collect::<Outcome<_>>()?;
        check_rows(&inputs, self.spec)?;
        Ok(inputs)
    }
}

/// The indices of the outputs of these names, in their order; of all of them where there is no name.
///
/// # Errors
/// `invalid_input` for a name that is unknown or comes twice.
pub(crate) fn outputs<'n>(
    spec: &Spec,
    names: impl Iterator<Item = &'n str>,
) -> Result<Vec<usize>, Failure> {
    let mut wanted = Vec::new();
    for (at, name) in names.enumerate() {
        let output =
            find(name, &spec.outputs).and_then(|(index, _)| match wanted.contains(&index) {
                true => Err(given_twice(name)),
                false => Ok(index),
            });
        wanted.push(output.map_err(|fault| fault.key("name").index(at).key("outputs"))?);
    }
    if wanted.is_empty() {
        wanted = (0..spec.outputs.len()).collect();
    }
    Ok(wanted)
}

/// The elements of a tensor from its raw bytes, of which they are pieces.
///
/// # Errors
/// A fault without a place: the bytes are more or fewer than the shape needs.
pub(super) fn from_raw(datatype: DataType, shape: &[usize], raw: Bytes) -> Outcome<Data> {
    let count = element_count(shape).ok_or_else(uncountable)?;
    let Some(width) = datatype.width() else {
        return Ok(Data::Elements(split(&raw, count)?));
    };
    match count.checked_mul(width) {
        Some(bytes) if bytes == raw.len() => Ok(Data::Fixed(raw)),
        Some(bytes) => Err(Fault::new(format!(
            "expected {bytes} bytes for {datatype} of shape {shape:?}, got {}",
            raw.len()
        ))),
        None => Err(uncountable()),
    }
}

/// The raw bytes of a tensor: its own memory, except for `BYTES`.
///
/// # Errors
/// `output_mismatch` for an element of 4 GiB or more, which has no raw form.
pub(crate) fn to_raw(tensor: &Tensor) -> Result<Bytes, Failure> {
    match tensor.data() {
        Data::Fixed(bytes) => Ok(bytes.clone()),
        Data::Elements(elements) => join(elements),
    }
}

/// The raw bytes of the elements of a `BYTES` tensor.
///
/// # Errors
/// As [`to_raw`].
pub(crate) fn join(elements: &[Bytes]) -> Result<Bytes, Failure> {
    let bytes: usize = elements.iter().map(|element| PREFIX + element.len()).sum();
    let mut raw = Vec::with_capacity(bytes);
    for element in elements {
        let length = u32::try_from(element.len()).map_err(|_| no_raw_form(element.len()))?;
        raw.extend_from_slice(&length.to_le_bytes());
        raw.extend_from_slice(element);
    }
    Ok(raw.into())
}

/// Bytes of the length before each element.
const PREFIX: usize = 4;

/// The elements of a `BYTES` tensor, which are pieces of its raw bytes.
pub(super) fn split(raw: &Bytes, count: usize) -> Outcome<Vec<Bytes>> {
    // Each takes its length at least, so that a shape alone sets no memory aside.
    if count > raw.len() / PREFIX {
        return Err(too_few(count, raw.len()));
    }
    if count > MAX_STRINGS {
        return Err(too_many_strings());
    }
    let mut elements = Vec::with_capacity(count);
    let mut at = 0;
    while elements.len() < count {
        let rest = raw.get(at..).unwrap_or_default();
        let Some((prefix, rest)) = rest.split_first_chunk::<PREFIX>() else {
            return Err(too_few(count, raw.len()));
        };
        let length = u32::from_le_bytes(*prefix);
        let end = usize::try_from(length)
            .ok()
            .filter(|length| *length <= rest.len())
            .map(|length| at + PREFIX + length);
        let end = end.ok_or_else(|| past_the_end(elements.len(), length, rest.len()))?;
        elements.push(raw.slice(at + PREFIX..end));
        at = end;
    }
    match raw.len() - at {
        0 => Ok(elements),
        left => Err(Fault::new(format!(
            "expected {}, got {left} {} more behind them",
            strings(count),
            if left == 1 { "byte" } else { "bytes" },
        ))),
    }
}

fn strings(count: usize) -> String {
    let noun = if count == 1 { "element" } else { "elements" };
    format!("{count} {noun} (BYTES)")
}

#[cold]
fn too_few(count: usize, bytes: usize) -> Box<Fault> {
    Fault::new(format!(
        "expected {}, each after its length in 4 bytes, got fewer in {bytes} bytes",
        strings(count)
    ))
}

#[cold]
fn past_the_end(index: usize, length: u32, left: usize) -> Box<Fault> {
    Fault::new(format!(
        "expected the {length} bytes that its length says, got {left} up to the end of the tensor"
    ))
    .index(index)
}

fn no_raw_form(bytes: usize) -> Failure {
    Failure::new(
        Code::OutputMismatch,
        format!(
            "the model answered an element of {bytes} bytes, and the binary form has none of 4 GiB or more; ask for JSON"
        ),
    )
}

#[cold]
pub(super) fn uncountable() -> Box<Fault> {
    Fault::new("expected a shape that fits into memory, got more elements than can be counted")
}

/// Checks an input's fields in the order in which they depend on each other.
fn checked(spec: &Spec, name: &str, datatype: &str, shape: &[i64]) -> Outcome<(usize, Shape)> {
    let (index, input) = find(name, &spec.inputs).map_err(|fault| fault.key("name"))?;
    datatype_of(datatype)
        .and_then(|datatype| check_datatype(input, datatype))
        .map_err(|fault| fault.key("datatype"))?;
    let shape = sizes(shape)
        .and_then(|shape| check_shape(input, &shape, spec.batched()).map(|()| shape))
        .map_err(|fault| fault.key("shape"))?;
    Ok((index, shape))
}

/// Finds the tensor of that name.
pub(super) fn find<'s>(name: &str, tensors: &'s [TensorSpec]) -> Outcome<(usize, &'s TensorSpec)> {
    let mut all = tensors.iter().enumerate();
    let found = all.find(|(_, tensor)| tensor.name == name);
    found.ok_or_else(|| unknown_name(name, tensors))
}

#[cold]
pub(super) fn unknown_name(name: &str, tensors: &[TensorSpec]) -> Box<Fault> {
    const SHOWN: usize = 8;
    let names: Vec<String> = tensors
        .iter()
        .take(SHOWN)
        .map(|tensor| format!("\"{}\"", Excerpt(&tensor.name)))
        .collect();
    let more = if tensors.len() > SHOWN { ", ..." } else { "" };
    Fault::new(format!(
        "expected one of {}{more}, got \"{}\"",
        names.join(", "),
        Excerpt(name)
    ))
}

/// The fault of a name that came before.
#[cold]
pub(super) fn given_twice(name: &str) -> Box<Fault> {
    Fault::new(format!("expected \"{}\" once, got it twice", Excerpt(name)))
}

#[cold]
fn not_given(name: &str) -> Box<Fault> {
    Fault::new(format!(
        "expected the input \"{}\" too, but it is missing",
        Excerpt(name)
    ))
}

/// The datatype of that name.
pub(super) fn datatype_of(name: &str) -> Outcome<DataType> {
    DataType::from_name(name).ok_or_else(|| {
        Fault::new(format!(
            "expected a datatype such as FP32, got \"{}\"",
            Excerpt(name)
        ))
    })
}

/// Checks a datatype against the signature.
pub(super) fn check_datatype(tensor: &TensorSpec, got: DataType) -> Outcome<()> {
    if tensor.datatype == got {
        return Ok(());
    }
    Err(Fault::new(format!(
        "expected {} for \"{}\", got {got}",
        tensor.datatype,
        Excerpt(&tensor.name)
    )))
}

/// The sizes of a shape that came as signed numbers.
fn sizes(shape: &[i64]) -> Outcome<Shape> {
    if shape.len() > MAX_DIMENSIONS {
        return Err(too_many_dimensions());
    }
    let size = |(at, size): (usize, &i64)| {
        usize::try_from(*size)
            .map_err(|_| Fault::new(format!("expected a size of 0 or more, got {size}")).index(at))
    };
    shape.iter().enumerate().map(size).collect()
}

/// Checks a shape against the signature.
pub(super) fn check_shape(tensor: &TensorSpec, shape: &[usize], batched: bool) -> Outcome<()> {
    let fits = shape.len() == tensor.shape.len()
        && tensor
            .shape
            .iter()
            .zip(shape)
            .all(|(dim, size)| dim.admits(*size));
    if fits && !(batched && shape.first() == Some(&0)) {
        return Ok(());
    }
    let hint = match batched {
        _ if fits => ": at least one row is needed",
        true if shape.len() + 1 == tensor.shape.len() => {
            ": the first dimension counts the rows, so a single row starts with 1"
        }
        _ => "",
    };
    Err(Fault::new(format!(
        "expected {} for \"{}\", got {shape:?}{hint}",
        Dims(&tensor.shape),
        Excerpt(&tensor.name),
    )))
}

/// Checks that every input has the same number of rows.
fn check_rows(inputs: &[Tensor], spec: &Spec) -> Outcome<()> {
    let Some(first) = inputs.first().filter(|_| spec.batched()) else {
        return Ok(());
    };
    let odd = inputs
        .iter()
        .zip(&spec.inputs)
        .find(|(input, _)| input.rows() != first.rows());
    match odd {
        None => Ok(()),
        Some((input, odd)) => Err(Fault::new(format!(
            "expected as many rows in every input, got {} in \"{}\" and {} in \"{}\"",
            first.rows(),
            Excerpt(&spec.inputs[0].name),
            input.rows(),
            Excerpt(&odd.name),
        ))),
    }
}

#[cfg(test)]
mod tests {
    use jitney_engine::BatchAxis;
    use proptest::prelude::*;

    use super::*;

    fn spec(rows: &[(&str, &str)]) -> Spec {
        let inputs: Vec<_> = rows
            .iter()
            .map(|(name, row)| TensorSpec::parse_row(name, row).unwrap())
            .collect();
        Spec {
            outputs: inputs.clone(),
            inputs,
            batch: BatchAxis::Free,
            rows_independent: true,
            items: Items::Tensors,
        }
    }

    #[test]
    fn inputs_come_in_any_order_and_raw_or_not() {
        let spec = spec(&[("a", "UINT8[2]"), ("b", "BYTES"), ("c", "FP16[1]")]);
        let mut inputs = Inputs::new(&spec);
        let raw = Bytes::from_static(b"\x02\0\0\0hi\0\0\0\0");
        inputs.add_raw("b", "BYTES", &[2], raw).unwrap();
        let halves = Bytes::from_static(&[0, 0x3c, 1, 0x7c]);
        inputs
            .add_raw("c", "FP16", &[2, 1], halves.clone())
            .unwrap();
        let data = Data::Fixed(Bytes::from_static(&[1, 2, 3, 4]));
        inputs.add("a", "UINT8", &[2, 2], data).unwrap();
        let tensors = inputs.finish().unwrap();
        assert_eq!(tensors[0].to_vec::<u8>(), Some(vec![1, 2, 3, 4]));
        assert_eq!(tensors[1].byte_elements().unwrap(), ["hi", ""]);
        assert_eq!(to_raw(&tensors[2]).unwrap(), halves);
    }

    #[test]
    fn inputs_that_are_not_the_models() {
        let spec = spec(&[("a", "UINT8[2]"), ("b", "BYTES")]);
        let two = || Data::Fixed(Bytes::from_static(&[1, 2]));
        let rows: [(&str, &str, &[i64], &str); 9] = [
            (
                "x",
                "UINT8",
                &[1, 2],
                r#"inputs[0].name: expected one of "a", "b", got "x""#,
            ),
            (
                "a",
                "U8",
                &[1, 2],
                r#"inputs[0].datatype: expected a datatype such as FP32, got "U8""#,
            ),
            (
                "a",
                "INT8",
                &[1, 2],
                r#"inputs[0].datatype: expected UINT8 for "a", got INT8"#,
            ),
            (
                "a",
                "UINT8",
                &[2],
                r#"inputs[0].shape: expected [-1, 2] for "a", got [2]: the first"#,
            ),
            (
                "a",
                "UINT8",
                &[-1, 2],
                "inputs[0].shape[0]: expected a size of 0 or more, got -1",
            ),
            (
                "a",
                "UINT8",
                &[0, 2],
                "inputs[0].shape: expected [-1, 2] for \"a\", got [0, 2]: at least one row",
            ),
            (
                "a",
                "UINT8",
                &[1; 1000],
                "inputs[0].shape: expected at most 32 dimensions",
            ),
            (
                "a",
                "UINT8",
                &[2, 2],
                "inputs[0]: shape [2, 2] of UINT8 needs 4 elements",
            ),
            (
                "b",
                "BYTES",
                &[2],
                "inputs[0]: shape [2] of BYTES needs 2 elements of varying length",
            ),
        ];
        for (name, datatype, shape, words) in rows {
            let failure = Inputs::new(&spec)
                .add(name, datatype, shape, two())
                .unwrap_err();
            assert_eq!(failure.code, Code::InvalidInput);
            assert!(failure.message.starts_with(words), "{failure}");
        }
        let mut inputs = Inputs::new(&spec);
        inputs.add("a", "UINT8", &[1, 2], two()).unwrap();
        let failure = inputs.add("a", "UINT8", &[1, 2], two()).unwrap_err();
        assert_eq!(
            failure.message,
            r#"inputs[1].name: expected "a" once, got it twice"#
        );
        let failure = inputs.finish().unwrap_err();
        assert_eq!(
            failure.message,
            r#"inputs: expected the input "b" too, but it is missing"#
        );
        let mut inputs = Inputs::new(&spec);
        inputs.add("a", "UINT8", &[1, 2], two()).unwrap();
        inputs
            .add_raw("b", "BYTES", &[2], Bytes::from_static(&[0; 8]))
            .unwrap();
        let failure = inputs.finish().unwrap_err();
        assert!(
            failure.message.contains(r#"got 1 in "a" and 2 in "b""#),
            "{failure}"
        );
    }

    #[test]
    fn raw_bytes_that_do_not_fit() {
        let rows: [(DataType, &[usize], &[u8], &str); 8] = [
            (
                DataType::Fp32,
                &[1],
                &[0; 3],
                "expected 4 bytes for FP32 of shape [1], got 3",
            ),
            (
                DataType::Fp64,
                &[1 << 60, 1 << 60],
                &[],
                "more elements than can be counted",
            ),
            (
                DataType::Fp64,
                &[usize::MAX],
                &[],
                "more elements than can be counted",
            ),
            (
                DataType::Bytes,
                &[1],
                b"\x01\0\0",
                "expected 1 element (BYTES), each after its length",
            ),
            (
                DataType::Bytes,
                &[1],
                b"\x02\0\0\0a",
                "[0]: expected the 2 bytes that its length says, got 1",
            ),
            (
                DataType::Bytes,
                &[2],
                b"\0\0\0\0\xff\xff\xff\xff",
                "[1]: expected the 4294967295 bytes",
            ),
            (
                DataType::Bytes,
                &[1],
                b"\0\0\0\0\0",
                "expected 1 element (BYTES), got 1 byte more behind them",
            ),
            (
                DataType::Bytes,
                &[0],
                b"\0\0",
                "expected 0 elements (BYTES), got 2 bytes more behind them",
            ),
        ];
        for (datatype, shape, raw, words) in rows {
            let fault = from_raw(datatype, shape, Bytes::from_static(raw)).unwrap_err();
            let failure = Failure::from(fault);
            assert_eq!(failure.code, Code::InvalidInput);
            assert!(failure.message.contains(words), "{failure}");
        }
        let many = MAX_STRINGS + 1;
        let fault = split(&vec![0; PREFIX * many].into(), many).unwrap_err();
        assert_eq!(Failure::from(fault).code, Code::TooLarge);
        let fault = split(&Bytes::new(), usize::MAX).unwrap_err();
        assert_eq!(Failure::from(fault).code, Code::InvalidInput);
    }

    #[test]
    fn outputs_are_found_by_name() {
        let spec = spec(&[("a", "UINT8"), ("b", "BYTES")]);
        assert_eq!(outputs(&spec, ["b", "a"].into_iter()).unwrap(), [1, 0]);
        assert_eq!(outputs(&spec, [].into_iter()).unwrap(), [0, 1]);
        let twice = outputs(&spec, ["b", "b"].into_iter()).unwrap_err();
        assert_eq!(
            twice.message,
            r#"outputs[1].name: expected "b" once, got it twice"#
        );
        let unknown = outputs(&spec, ["c"].into_iter()).unwrap_err();
        assert_eq!(
            unknown.message,
            r#"outputs[0].name: expected one of "a", "b", got "c""#
        );
    }

    proptest! {
        #[test]
        fn elements_are_split_where_they_were_joined(
            words in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20),
        ) {
            let words: Vec<Bytes> = words.into_iter().map(Bytes::from).collect();
            let raw = join(&words).unwrap();
            let read = split(&raw, words.len()).unwrap();
            prop_assert_eq!(&read, &words);
            let pieces = raw.as_ptr_range();
            prop_assert!(read.iter().all(|word| word.is_empty() || pieces.contains(&word.as_ptr())));
            prop_assert!(split(&raw, words.len() + 1).is_err());
            prop_assert!(words.is_empty() || split(&raw, words.len() - 1).is_err());
        }

        #[test]
        fn any_bytes_are_elements_or_refused(raw in prop::collection::vec(any::<u8>(), 0..40), count in 0..9_usize) {
            let raw = Bytes::from(raw);
            if let Ok(read) = split(&raw, count) {
                prop_assert_eq!(join(&read).unwrap(), raw);
            }
        }
    }
}
