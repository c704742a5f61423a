//! The elements of a tensor: from a JSON array straight into the bytes of the tensor, counted against its shape on the way.

use std::fmt;

use base64::engine::general_purpose::STANDARD;
use base64::{DecodeError, Engine};
use bytes::Bytes;
use jitney_engine::spec::Dim;
use jitney_engine::tensor::{Data, DataType, Shape};
use smallvec::SmallVec;

use super::scan::{Fault, Outcome, Scanner};
use super::tensors::uncountable;
use super::{MAX_DIMENSIONS, MAX_STRINGS};

/// Reads an array that is flat or nested like the dimensions, and says which shape it has: dimensions of any size are as the nesting has
/// them. Without dimensions a single bare element will do.
pub(super) fn read(
    scanner: &mut Scanner<'_>,
    datatype: DataType,
    dims: &[Dim],
) -> Outcome<(Shape, Data)> {
    let mut array = Array::new(scanner, dims)?;
    let data = match datatype {
        DataType::Bool => array.fixed(|s| Some([u8::from(s.boolean()?)]), "true or false"),
        DataType::Uint8 => array.fixed(|s| s.unsigned().map(u8::to_le_bytes), UINT8),
        DataType::Uint16 => array.fixed(|s| s.unsigned().map(u16::to_le_bytes), UINT16),
        DataType::Uint32 => array.fixed(|s| s.unsigned().map(u32::to_le_bytes), UINT32),
        DataType::Uint64 => array.fixed(|s| s.unsigned().map(u64::to_le_bytes), UINT64),
        DataType::Int8 => array.fixed(|s| s.signed().map(i8::to_le_bytes), INT8),
        DataType::Int16 => array.fixed(|s| s.signed().map(i16::to_le_bytes), INT16),
        DataType::Int32 => array.fixed(|s| s.signed().map(i32::to_le_bytes), INT32),
        DataType::Int64 => array.fixed(|s| s.signed().map(i64::to_le_bytes), INT64),
        DataType::Fp16 => array.fixed(|s| Some(s.float16()?.to_le_bytes()), FP16),
        DataType::Bf16 => array.fixed(|s| Some(s.brain16()?.to_le_bytes()), BF16),
        DataType::Fp32 => array.fixed(|s| s.float32().map(f32::to_le_bytes), FP32),
        DataType::Fp64 => array.fixed(|s| s.float64().map(f64::to_le_bytes), FP64),
        DataType::Bytes => array.strings(),
    }?;
    Ok((array.shape(), data))
}

/// Replaces elements in base64 by what they encode.
pub(super) fn decode_base64(data: &mut Data) -> Outcome<()> {
    let Data::Elements(elements) = data else {
        return Ok(());
    };
    for (index, element) in elements.iter_mut().enumerate() {
        let decoded = STANDARD.decode(&*element).map_err(|error| {
            let fault = Fault::new(format!("expected base64 with padding, got {}", Odd(error)));
            fault.index(index).key("data")
        })?;
        *element = decoded.into();
    }
    Ok(())
}

/// What there is instead of base64.
struct Odd(DecodeError);

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            DecodeError::InvalidByte(at, byte) => {
                write!(f, "'{}' at byte {at} of the string", byte.escape_ascii())
            }
            DecodeError::InvalidLastSymbol(at, byte) => {
                let byte = byte.escape_ascii();
                write!(
                    f,
                    "'{byte}' at byte {at}, the last, which has bits of no byte"
                )
            }
            DecodeError::InvalidLength(length) => {
                write!(f, "{length} characters, which are no whole number of bytes")
            }
            DecodeError::InvalidPadding => f.write_str("other padding"),
        }
    }
}

/// Checks that every element is the text of one JSON value.
pub(super) fn check_json(data: &Data) -> Outcome<()> {
    let Data::Elements(elements) = data else {
        return Ok(());
    };
    for (index, element) in elements.iter().enumerate() {
        check_value(element).map_err(|fault| fault.index(index).key("data"))?;
    }
    Ok(())
}

fn check_value(text: &[u8]) -> Outcome<()> {
    let mut scanner = Scanner::new(text)?;
    scanner.value()?;
    scanner.end()
}

const UINT8: &str = "an integer from 0 to 255 (UINT8)";
const UINT16: &str = "an integer from 0 to 65535 (UINT16)";
const UINT32: &str = "an integer from 0 to 4294967295 (UINT32)";
const UINT64: &str = "an integer from 0 to 18446744073709551615 (UINT64)";
const INT8: &str = "an integer from -128 to 127 (INT8)";
const INT16: &str = "an integer from -32768 to 32767 (INT16)";
const INT32: &str = "an integer from -2147483648 to 2147483647 (INT32)";
const INT64: &str = "an integer from -9223372036854775808 to 9223372036854775807 (INT64)";
const FP16: &str = "a number in the range of FP16";
const BF16: &str = "a number in the range of BF16";
const FP32: &str = "a number in the range of FP32";
const FP64: &str = "a number in the range of FP64";

/// One array while it is read.
struct Array<'s, 'a, 'd> {
    scanner: &'s mut Scanner<'a>,
    dims: &'d [Dim],
    /// How many elements the dimensions allow, where they are fixed.
    expected: Option<usize>,
    /// The size of each dimension, once it is known.
    sizes: SmallVec<[Option<usize>; 6]>,
    /// Whether the elements come without inner arrays.
    flat: bool,
    /// Where in the nesting the scanner is: the index at each level that is open.
    indices: SmallVec<[usize; 6]>,
}

/// The strings of a `BYTES` tensor behind each other, so that they cost one allocation and not one each.
#[derive(Default)]
struct Strings {
    text: Vec<u8>,
    ends: Vec<usize>,
}

impl<'s, 'a, 'd> Array<'s, 'a, 'd> {
    fn new(scanner: &'s mut Scanner<'a>, dims: &'d [Dim]) -> Outcome<Array<'s, 'a, 'd>> {
        if dims.len() > MAX_DIMENSIONS {
            return Err(too_many_dimensions());
        }
        let sizes: SmallVec<_> = dims.iter().map(|dim| fixed_size(*dim)).collect();
        Ok(Array {
            scanner,
            dims,
            expected: product(&sizes)?,
            sizes,
            flat: false,
            indices: SmallVec::new(),
        })
    }

    fn shape(&self) -> Shape {
        self.sizes.iter().map(|size| size.unwrap_or(0)).collect()
    }

    /// Reads elements of `W` bytes each.
    #[inline]
    fn fixed<const W: usize>(
        &mut self,
        element: impl Fn(&mut Scanner<'a>) -> Option<[u8; W]>,
        what: &str,
    ) -> Outcome<Data> {
        let mut bytes = Vec::with_capacity(self.room(2).saturating_mul(W));
        self.elements(|scanner| match element(scanner) {
            Some(element) => {
                bytes.extend_from_slice(&element);
                Ok(())
            }
            None => Err(scanner.expected(what)),
        })?;
        Ok(Data::Fixed(bytes.into()))
    }

    fn strings(&mut self) -> Outcome<Data> {
        let mut strings = Strings::default();
        strings.ends.reserve_exact(self.room(3).min(MAX_STRINGS));
        self.elements(|scanner| strings.push(&scanner.string("a string (BYTES)")?))?;
        Ok(Data::Elements(strings.elements()))
    }

    /// How many elements to make room for: no more than the rest of the body can hold, whatever the shape claims, when each takes
    /// that many bytes of text at least.
    fn room(&self, text: usize) -> usize {
        self.expected
            .unwrap_or(0)
            .min(self.scanner.left() / text + 1)
    }

    /// Reads all elements, in whichever of the two forms they come.
    #[inline]
    fn elements(
        &mut self,
        mut element: impl FnMut(&mut Scanner<'a>) -> Outcome<()>,
    ) -> Outcome<()> {
        if self.dims.is_empty() && self.scanner.peek() != Some(b'[') {
            return element(self.scanner);
        }
        self.open()?;
        self.flat = self.dims.len() <= 1 || self.scanner.peek() != Some(b'[');
        match self.expected {
            Some(expected) if self.flat => self.flat(expected, &mut element),
            _ => self.level(&mut element),
        }
    }

    fn open(&mut self) -> Outcome<()> {
        if self.scanner.eat(b'[') {
            return Ok(());
        }
        let what = match self.indices.len() {
            0 => "an array",
            _ => "an inner array, as the shape has one",
        };
        let fault = self.scanner.expected(what);
        Err(self.place(fault))
    }

    #[inline]
    fn flat(
        &mut self,
        expected: usize,
        element: &mut impl FnMut(&mut Scanner<'a>) -> Outcome<()>,
    ) -> Outcome<()> {
        let count = self.run(Some(expected), element)?;
        if count == expected {
            return Ok(());
        }
        Err(self.wrong_count(expected, &format!("got {count}")))
    }

    /// Reads an array of one dimension and those inside it, after its bracket. The depth is that of the shape, never that of the body.
    fn level(&mut self, element: &mut impl FnMut(&mut Scanner<'a>) -> Outcome<()>) -> Outcome<()> {
        let depth = self.indices.len();
        let limit = self.sizes.get(depth).copied().flatten();
        let count = if depth + 1 >= self.dims.len() {
            self.run(limit, element)?
        } else {
            self.inner(limit, element)?
        };
        match limit {
            Some(limit) if limit != count => Err(self.wrong_count(limit, &format!("got {count}"))),
            _ => {
                if let Some(size) = self.sizes.get_mut(depth) {
                    *size = Some(count);
                }
                Ok(())
            }
        }
    }

    /// Reads inner arrays up to the bracket that ends theirs, and counts them.
    fn inner(
        &mut self,
        limit: Option<usize>,
        element: &mut impl FnMut(&mut Scanner<'a>) -> Outcome<()>,
    ) -> Outcome<usize> {
        let mut count = 0;
        if self.scanner.eat(b']') {
            return Ok(count);
        }
        loop {
            self.indices.push(count);
            self.open()?;
            self.level(element)?;
            self.indices.pop();
            count += 1;
            if !self.another(count, limit)? {
                return Ok(count);
            }
        }
    }

    /// Reads elements up to the bracket that ends them, and counts them.
    #[inline]
    fn run(
        &mut self,
        limit: Option<usize>,
        element: &mut impl FnMut(&mut Scanner<'a>) -> Outcome<()>,
    ) -> Outcome<usize> {
        let mut count = 0;
        if self.scanner.eat(b']') {
            return Ok(count);
        }
        loop {
            if limit == Some(count) {
                return Err(self.wrong_count(count, "got more"));
            }
            if let Err(fault) = element(self.scanner) {
                return Err(self.place(fault.index(count)));
            }
            count += 1;
            if !self.another(count, None)? {
                return Ok(count);
            }
        }
    }

    /// Moves past a comma, or past the bracket when there is no other item.
    #[inline]
    fn another(&mut self, count: usize, limit: Option<usize>) -> Outcome<bool> {
        match self.scanner.peek() {
            Some(b',') if limit == Some(count) => Err(self.wrong_count(count, "got more")),
            Some(byte @ (b',' | b']')) => {
                self.scanner.advance(1);
                Ok(byte == b',')
            }
            _ => {
                let fault = self.scanner.expected("',' or ']'");
                Err(self.place(fault))
            }
        }
    }

    #[cold]
    fn wrong_count(&self, expected: usize, got: &str) -> Box<Fault> {
        let noun = if expected == 1 { "element" } else { "elements" };
        let dimension = if self.flat {
            String::new()
        } else {
            format!("dimension {} of ", self.indices.len())
        };
        self.place(Fault::new(format!(
            "expected {expected} {noun} for {dimension}shape {}, {got}",
            Dims(self.dims)
        )))
    }

    /// Says at which indices a fault is.
    #[cold]
    fn place(&self, fault: Box<Fault>) -> Box<Fault> {
        self.indices
            .iter()
            .rev()
            .fold(fault, |fault, index| fault.index(*index))
    }
}

impl Strings {
    fn push(&mut self, string: &str) -> Outcome<()> {
        if self.ends.len() == MAX_STRINGS {
            return Err(too_many_strings());
        }
        self.text.extend_from_slice(string.as_bytes());
        self.ends.push(self.text.len());
        Ok(())
    }

    fn elements(self) -> Vec<Bytes> {
        cut(&self.text.into(), &self.ends)
    }
}

/// The pieces of a text that end there, one behind the other.
pub(super) fn cut(text: &Bytes, ends: &[usize]) -> Vec<Bytes> {
    let starts = std::iter::once(0).chain(ends.iter().copied());
    starts
        .zip(ends)
        .map(|(start, end)| text.slice(start..*end))
        .collect()
}

/// Dimensions as the protocol writes them.
pub(super) struct Dims<'d>(pub(super) &'d [Dim]);

impl fmt::Display for Dims<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[")?;
        for (at, dim) in self.0.iter().enumerate() {
            f.write_str(if at > 0 { ", " } else { "" })?;
            match dim {
                Dim::Fixed(size) => write!(f, "{size}")?,
                Dim::Any => f.write_str("-1")?,
            }
        }
        f.write_str("]")
    }
}

pub(super) fn too_many_dimensions() -> Box<Fault> {
    Fault::new(format!(
        "expected at most {MAX_DIMENSIONS} dimensions, got more"
    ))
}

#[cold]
pub(super) fn too_many_strings() -> Box<Fault> {
    Fault::too_large(format!(
        "expected at most {MAX_STRINGS} strings in one tensor, got more"
    ))
}

fn fixed_size(dim: Dim) -> Option<usize> {
    match dim {
        Dim::Fixed(size) => Some(size),
        Dim::Any => None,
    }
}

/// How many elements the sizes make, when all are known.
fn product(sizes: &[Option<usize>]) -> Outcome<Option<usize>> {
    if sizes.contains(&None) {
        return Ok(None);
    }
    let mut sizes = sizes.iter().flatten();
    if sizes.clone().any(|size| *size == 0) {
        return Ok(Some(0));
    }
    let product = sizes.try_fold(1_usize, |product, size| product.checked_mul(*size));
    match product {
        Some(product) => Ok(Some(product)),
        None => Err(uncountable()),
    }
}
