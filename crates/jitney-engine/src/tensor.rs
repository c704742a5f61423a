//! A tensor as it travels: a datatype of the Open Inference Protocol, a shape, and bytes.

use std::borrow::Cow;
use std::fmt;

use bytemuck::{CheckedBitPattern, NoUninit, checked};
use bytes::Bytes;
use half::{bf16, f16};
use smallvec::SmallVec;

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian in memory; big-endian machines are not supported");

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

/// A Rust type that can be the element of a tensor.
///
/// [`Tensor::values`] never reinterprets: `u8` is `UINT8` alone, and `BOOL` is `bool`.
pub trait Element: sealed::Sealed + CheckedBitPattern + NoUninit + Send + Sync {
    /// The datatype whose elements are of this type.
    const DATATYPE: DataType;
}

impl Tensor {
    /// A tensor of these elements, whose count must be what the shape says. Nothing is copied.
    ///
    /// # Errors
    /// [`ShapeError`] when the data is longer or shorter than the shape, when the shape counts more elements than memory could hold,
    /// when `BYTES` comes with fixed-width data or the reverse, and when a `BOOL` is neither 0 nor 1.
    ///
    /// ```
    /// use jitney_engine::tensor::{Data, DataType, Tensor};
    ///
    /// let data = Data::Fixed(vec![0, 0, 128, 63].into());
    /// let one = Tensor::new(DataType::Fp32, [1].as_slice().into(), data)?;
    /// assert_eq!(one.to_vec::<f32>(), Some(vec![1.0]));
    /// # Ok::<(), jitney_engine::tensor::ShapeError>(())
    /// ```
    pub fn new(datatype: DataType, shape: Shape, data: Data) -> Result<Tensor, ShapeError> {
        match misfit(datatype, &shape, &data) {
            None => Ok(Tensor {
                datatype,
                shape,
                data,
            }),
            Some((expected, got)) => Err(ShapeError {
                datatype,
                shape,
                expected,
                got,
            }),
        }
    }

    /// A tensor that takes over the vector's memory.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_vec<T: Element>(
        shape: impl AsRef<[usize]>,
        values: Vec<T>,
    ) -> Result<Tensor, ShapeError> {
        let data = Data::Fixed(Bytes::from_owner(Values(values)));
        Tensor::new(T::DATATYPE, Shape::from_slice(shape.as_ref()), data)
    }

    /// An `FP32` tensor that takes over the vector's memory.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_f32(shape: impl AsRef<[usize]>, values: Vec<f32>) -> Result<Tensor, ShapeError> {
        Tensor::from_vec(shape, values)
    }

    /// A `BYTES` tensor of these elements.
    ///
    /// # Errors
    /// As [`Tensor::new`].
    pub fn from_bytes(
        shape: impl AsRef<[usize]>,
        elements: Vec<Bytes>,
    ) -> Result<Tensor, ShapeError> {
        let shape = Shape::from_slice(shape.as_ref());
        Tensor::new(DataType::Bytes, shape, Data::Elements(elements))
    }

    /// The type of the elements.
    pub fn datatype(&self) -> DataType {
        self.datatype
    }

    /// The dimensions, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, row-major.
    pub fn data(&self) -> &Data {
        &self.data
    }

    /// The first dimension; 1 for a scalar.
    pub fn rows(&self) -> usize {
        self.shape.first().copied().unwrap_or(1)
    }

    /// How many elements there are.
    pub fn elements(&self) -> usize {
        match (&self.data, self.datatype.width()) {
            (Data::Fixed(bytes), Some(width)) => bytes.len() / width,
            (Data::Fixed(_), None) => 0,
            (Data::Elements(elements), _) => elements.len(),
        }
    }

    /// The elements as Rust values: borrowed where the memory is aligned for them, copied where it is not, `None` where the datatype is
    /// another.
    pub fn values<T: Element>(&self) -> Option<Cow<'_, [T]>> {
        let Data::Fixed(bytes) = &self.data else {
            return None;
        };
        if self.datatype != T::DATATYPE {
            return None;
        }
        match checked::try_cast_slice(bytes) {
            Ok(values) => Some(Cow::Borrowed(values)),
            Err(_) => unaligned(bytes).map(Cow::Owned),
        }
    }

    /// The elements as a vector of Rust values, `None` where the datatype is another.
    pub fn to_vec<T: Element>(&self) -> Option<Vec<T>> {
        self.values().map(Cow::into_owned)
    }

    /// The elements as numbers, `None` for `BYTES`. A `BOOL` is 0 or 1; 64-bit integers beyond 2^53 lose their last digits.
    pub fn numbers(&self) -> Option<Vec<f64>> {
        fn read<T: Element>(tensor: &Tensor, number: impl Fn(T) -> f64) -> Option<Vec<f64>> {
            let values = tensor.values::<T>()?;
            Some(values.iter().copied().map(number).collect())
        }
        match self.datatype {
            DataType::Bool => read(self, |value: bool| f64::from(u8::from(value))),
            DataType::Uint8 => read::<u8>(self, f64::from),
            DataType::Uint16 => read::<u16>(self, f64::from),
            DataType::Uint32 => read::<u32>(self, f64::from),
            DataType::Uint64 => read(self, |value: u64| value as f64),
            DataType::Int8 => read::<i8>(self, f64::from),
            DataType::Int16 => read::<i16>(self, f64::from),
            DataType::Int32 => read::<i32>(self, f64::from),
            DataType::Int64 => read(self, |value: i64| value as f64),
            DataType::Fp16 => read::<f16>(self, f64::from),
            DataType::Bf16 => read::<bf16>(self, f64::from),
            DataType::Fp32 => read::<f32>(self, f64::from),
            DataType::Fp64 => read(self, |value: f64| value),
            DataType::Bytes => None,
        }
    }

    /// The elements of a `BYTES` tensor, `None` for any other.
    pub fn byte_elements(&self) -> Option<&[Bytes]> {
        match &self.data {
            Data::Fixed(_) => None,
            Data::Elements(elements) => Some(elements),
        }
    }

    /// The rows `start..start + rows` as a tensor that shares this one's memory; `None` when there are not that many, and for a scalar.
    pub fn slice_rows(&self, start: usize, rows: usize) -> Option<Tensor> {
        let total = *self.shape.first()?;
        let end = start.checked_add(rows).filter(|end| *end <= total)?;
        let mut shape = self.shape.clone();
        *shape.first_mut()? = rows;
        let data = match &self.data {
            Data::Fixed(bytes) => {
                let row = bytes.len().checked_div(total).unwrap_or(0);
                Data::Fixed(bytes.slice(start * row..end * row))
            }
            Data::Elements(elements) => {
                let row = elements.len().checked_div(total).unwrap_or(0);
                Data::Elements(elements[start * row..end * row].to_vec())
            }
        };
        Some(Tensor {
            datatype: self.datatype,
            shape,
            data,
        })
    }
}

/// How many elements a shape counts; `None` when that is more than a `usize` can say.
pub fn element_count(shape: &[usize]) -> Option<usize> {
    if shape.contains(&0) {
        return Some(0);
    }
    shape
        .iter()
        .try_fold(1_usize, |count, dim| count.checked_mul(*dim))
}

/// What the shape needs and what the data has, when they differ.
fn misfit(datatype: DataType, shape: &[usize], data: &Data) -> Option<(String, String)> {
    let needs = match (element_count(shape), datatype.width(), data) {
        (None, _, _) => "more elements than memory can hold".to_owned(),
        (Some(count), None, Data::Elements(elements)) if elements.len() == count => return None,
        (Some(count), None, _) => format!("{count} elements of varying length"),
        (Some(count), Some(width), Data::Fixed(bytes))
            if count.checked_mul(width) == Some(bytes.len()) =>
        {
            return misfit_bool(datatype, bytes);
        }
        (Some(count), Some(width), _) => format!("{count} elements of {width} bytes each"),
    };
    let has = match data {
        Data::Fixed(bytes) => format!("{} bytes", bytes.len()),
        Data::Elements(elements) => format!("{} elements of varying length", elements.len()),
    };
    Some((needs, has))
}

/// Other bytes than 0 and 1 are no `bool`, and an engine that reads them as such may do anything.
fn misfit_bool(datatype: DataType, bytes: &[u8]) -> Option<(String, String)> {
    if datatype != DataType::Bool {
        return None;
    }
    let odd = bytes.iter().find(|byte| **byte > 1)?;
    Some(("bytes of 0 or 1".to_owned(), format!("a byte of {odd}")))
}

fn unaligned<T: Element>(bytes: &[u8]) -> Option<Vec<T>> {
    let chunks = bytes.chunks_exact(size_of::<T>());
    // Collected into an `Option`, it would grow as it goes.
    let mut values = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        values.push(checked::try_pod_read_unaligned(chunk).ok()?);
    }
    Some(values)
}

/// Lends a vector of elements to [`Bytes`], so that a tensor is made of it without a copy and stays aligned.
struct Values<T>(Vec<T>);

impl<T: Element> AsRef<[u8]> for Values<T> {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

mod sealed {
    /// Keeps [`super::Element`] to the datatypes there are.
    pub trait Sealed {}
}

macro_rules! elements {
    ($($rust:ty => $datatype:ident,)*) => {$(
        impl sealed::Sealed for $rust {}
        impl Element for $rust {
            const DATATYPE: DataType = DataType::$datatype;
        }
    )*};
}

elements! {
    bool => Bool,
    u8 => Uint8,
    u16 => Uint16,
    u32 => Uint32,
    u64 => Uint64,
    i8 => Int8,
    i16 => Int16,
    i32 => Int32,
    i64 => Int64,
    f16 => Fp16,
    bf16 => Bf16,
    f32 => Fp32,
    f64 => Fp64,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use smallvec::smallvec;

    use super::*;

    fn fixed(len: usize) -> Data {
        Data::Fixed(vec![0; len].into())
    }

    fn elements(len: usize) -> Data {
        Data::Elements(vec![Bytes::from_static(b"x"); len])
    }

    #[test]
    fn data_must_fit_the_shape() {
        let fits = [
            (DataType::Fp32, smallvec![2, 3], fixed(24)),
            (DataType::Int64, smallvec![], fixed(8)),
            (
                DataType::Uint8,
                smallvec![0, usize::MAX, usize::MAX],
                fixed(0),
            ),
            (DataType::Bytes, smallvec![3], elements(3)),
            (DataType::Bytes, smallvec![0], elements(0)),
        ];
        for (datatype, shape, data) in fits {
            let shape: Shape = shape;
            Tensor::new(datatype, shape, data).unwrap();
        }
    }

    #[test]
    fn a_misfit_says_what_was_needed_and_what_came() {
        let rows: [(DataType, Shape, Data, &str); 7] = [
            (
                DataType::Fp32,
                smallvec![2, 3],
                fixed(20),
                "shape [2, 3] of FP32 needs 6 elements of 4 bytes each, but the data has 20 bytes",
            ),
            (
                DataType::Fp64,
                smallvec![usize::MAX, 2],
                fixed(0),
                "needs more elements than memory can hold, but the data has 0 bytes",
            ),
            (
                DataType::Fp64,
                smallvec![usize::MAX / 4],
                fixed(0),
                "elements of 8 bytes each, but the data has 0 bytes",
            ),
            (
                DataType::Bytes,
                smallvec![1],
                fixed(1),
                "needs 1 elements of varying length, but the data has 1 bytes",
            ),
            (
                DataType::Uint8,
                smallvec![1],
                elements(1),
                "needs 1 elements of 1 bytes each, but the data has 1 elements of varying length",
            ),
            (
                DataType::Bool,
                smallvec![2],
                Data::Fixed(Bytes::from_static(&[1, 7])),
                "needs bytes of 0 or 1, but the data has a byte of 7",
            ),
            (
                DataType::Bytes,
                smallvec![2],
                elements(3),
                "needs 2 elements of varying length, but the data has 3 elements",
            ),
        ];
        for (datatype, shape, data, expected) in rows {
            let error = Tensor::new(datatype, shape, data).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn values_are_never_reinterpreted() {
        let tensor = Tensor::from_vec([2], vec![1_u8, 0]).unwrap();
        assert_eq!(tensor.to_vec::<u8>(), Some(vec![1, 0]));
        assert_eq!(tensor.to_vec::<bool>(), None);
        assert_eq!(tensor.to_vec::<i8>(), None);
        assert!(tensor.byte_elements().is_none());
    }

    #[test]
    fn values_are_borrowed_when_aligned_and_copied_when_not() {
        let aligned = Tensor::from_f32([2], vec![1.0, 2.0]).unwrap();
        assert!(matches!(aligned.values::<f32>(), Some(Cow::Borrowed(_))));

        // A slice that starts one byte into a word cannot be aligned for `f32`.
        let mut words = vec![0_u64; 2];
        bytemuck::cast_slice_mut::<u64, u8>(&mut words)[1..9]
            .copy_from_slice(bytemuck::bytes_of(&[1.0_f32, 2.0]));
        let whole = Bytes::from_owner(Values(words));
        let tensor = Tensor::new(DataType::Fp32, smallvec![2], Data::Fixed(whole.slice(1..9)));
        let tensor = tensor.unwrap();
        assert!(matches!(tensor.values::<f32>(), Some(Cow::Owned(_))));
        assert_eq!(tensor.to_vec::<f32>(), Some(vec![1.0, 2.0]));
    }

    #[test]
    fn rows_are_sliced_without_a_copy() {
        let tensor = Tensor::from_f32([3, 2], vec![0.0, 1.0, 2.0, 3.0, 4.0, 5.0]).unwrap();
        let middle = tensor.slice_rows(1, 1).unwrap();
        assert_eq!(middle.shape(), [1, 2]);
        assert_eq!(middle.to_vec::<f32>(), Some(vec![2.0, 3.0]));
        assert_eq!(tensor.slice_rows(2, 2), None);
        assert_eq!(tensor.slice_rows(usize::MAX, 2), None);
        let scalar = Tensor::from_f32(Shape::new(), vec![1.0]).unwrap();
        assert_eq!(scalar.slice_rows(0, 1), None);
        assert_eq!(scalar.rows(), 1);
    }

    proptest! {
        #[test]
        fn counting_elements_agrees_with_wide_arithmetic(shape in prop::collection::vec(any::<usize>(), 0..4)) {
            let wide = shape.iter().try_fold(1_u128, |count, dim| count.checked_mul(*dim as u128));
            let expected = wide.and_then(|count| usize::try_from(count).ok());
            let count = element_count(&shape);
            prop_assert!(count == expected || (count == Some(0) && shape.contains(&0)));
        }

        #[test]
        fn values_round_trip(values in prop::collection::vec(any::<i64>(), 0..20)) {
            let tensor = Tensor::from_vec([values.len()], values.clone()).unwrap();
            prop_assert_eq!(tensor.elements(), values.len());
            prop_assert_eq!(tensor.to_vec::<i64>(), Some(values));
        }
    }
}
