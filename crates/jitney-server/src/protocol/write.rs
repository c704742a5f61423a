//! JSON from values: strict, and as short as reads back the same.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use half::{bf16, f16};
use jitney_engine::Tensor;
use jitney_engine::tensor::{Data, DataType};

/// What had to be written otherwise than as itself, which the reader must be told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// How many NaN and infinities were written as words.
    pub(super) non_finite: usize,
    /// Whether the elements are in base64.
    pub(super) base64: bool,
}

impl Notes {
    /// What a model that gives JSON values says beside its output: see [`jitney_engine::Spec::json`].
    pub(super) fn of_json(outputs: &[Tensor]) -> Notes {
        let counts = outputs.get(1).and_then(Tensor::to_vec::<i64>);
        let sum: i64 = counts.unwrap_or_default().iter().sum();
        Notes {
            non_finite: usize::try_from(sum).unwrap_or_default(),
            base64: false,
        }
    }

    /// Whether everything was written as itself.
    pub(super) fn is_empty(self) -> bool {
        self == Notes::default()
    }

    /// Adds it to the object that is being written, where there is something to say.
    pub(super) fn add(self, out: &mut Vec<u8>) {
        if !self.is_empty() {
            text(out, r#","parameters":{"#);
            self.write(out);
            out.push(b'}');
        }
    }

    /// Writes the parameter that says it, without the braces around it.
    pub(super) fn write(self, out: &mut Vec<u8>) {
        if self.base64 {
            text(out, r#""content_type":"base64""#);
        } else {
            text(out, r#""non_finite":"#);
            integer(out, self.non_finite);
        }
    }
}

/// Adds to the object that is being written what must be said of some of its values, by their names.
pub(super) fn notes(out: &mut Vec<u8>, notes: &[(&str, Notes)]) {
    if notes.is_empty() {
        return;
    }
    text(out, r#","parameters":{"#);
    separated(out, notes.iter(), |out, (name, noted)| {
        string(out, name);
        text(out, ":{");
        noted.write(out);
        out.push(b'}');
    });
    out.push(b'}');
}

/// Writes what is JSON already.
#[inline]
pub(super) fn text(out: &mut Vec<u8>, json: &str) {
    out.extend_from_slice(json.as_bytes());
}

/// Writes an integer.
pub(super) fn integer(out: &mut Vec<u8>, value: impl itoa::Integer) {
    text(out, itoa::Buffer::new().format(value));
}

/// Writes a string in quotes.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    let mut rest = value;
    while let Some(at) = rest.bytes().position(needs_escape) {
        let (plain, tail) = rest.split_at(at);
        text(out, plain);
        let (special, tail) = tail.split_at(1);
        escape(out, special.bytes().next().unwrap_or_default());
        rest = tail;
    }
    text(out, rest);
    out.push(b'"');
}

/// Writes `[1,2,3]`.
pub(super) fn integers(out: &mut Vec<u8>, values: &[usize]) {
    list(out, values.iter(), |out, value| integer(out, *value));
}

/// Writes items between brackets.
pub(super) fn list<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    item: impl FnMut(&mut Vec<u8>, T),
) {
    out.push(b'[');
    separated(out, items, item);
    out.push(b']');
}

/// Writes items with commas between them.
#[inline]
pub(super) fn separated<T>(
    out: &mut Vec<u8>,
    items: impl Iterator<Item = T>,
    mut item: impl FnMut(&mut Vec<u8>, T),
) {
    let start = out.len();
    for value in items {
        if out.len() > start {
            out.push(b',');
        }
        item(out, value);
    }
}

/// Writes the elements of a tensor as one flat array.
pub(super) fn flat(out: &mut Vec<u8>, tensor: &Tensor) -> Notes {
    let mut elements = Elements::new(tensor);
    elements.nested(out, &[tensor.elements()]);
    elements.notes
}

/// Writes the elements of a tensor nested like the dimensions, whose product is their number; without dimensions, the one element alone.
pub(super) fn nested(out: &mut Vec<u8>, tensor: &Tensor, dims: &[usize]) -> Notes {
    let mut elements = Elements::new(tensor);
    elements.nested(out, dims);
    elements.notes
}

/// The elements of a tensor while they are written in their order.
struct Elements<'t> {
    tensor: &'t Tensor,
    next: usize,
    notes: Notes,
}

impl<'t> Elements<'t> {
    fn new(tensor: &'t Tensor) -> Elements<'t> {
        let base64 = match tensor.data() {
            Data::Fixed(_) => false,
            Data::Elements(elements) => elements
                .iter()
                .any(|element| str::from_utf8(element).is_err()),
        };
        Elements {
            tensor,
            next: 0,
            notes: Notes {
                non_finite: 0,
                base64,
            },
        }
    }

    fn nested(&mut self, out: &mut Vec<u8>, dims: &[usize]) {
        match dims {
            [] => self.run(out, 1),
            [count] => {
                out.push(b'[');
                self.run(out, *count);
                out.push(b']');
            }
            [count, inner @ ..] => list(out, 0..*count, |out, _| self.nested(out, inner)),
        }
    }

    /// Writes that many elements with commas between them.
    fn run(&mut self, out: &mut Vec<u8>, count: usize) {
        let range = self.next..self.next + count;
        self.next += count;
        match self.tensor.data() {
            Data::Elements(elements) => {
                self.strings(out, elements.get(range).unwrap_or_default());
            }
            Data::Fixed(bytes) => {
                let width = self.tensor.datatype().width().unwrap_or(1);
                let bytes = bytes.get(range.start * width..range.end * width);
                self.numbers(out, bytes.unwrap_or_default());
            }
        }
    }

    fn strings(&self, out: &mut Vec<u8>, elements: &[Bytes]) {
        separated(out, elements.iter(), |out, element| {
            match str::from_utf8(element) {
                Ok(value) if !self.notes.base64 => string(out, value),
                _ => string(out, &STANDARD.encode(element)),
            }
        });
    }

    fn numbers(&mut self, out: &mut Vec<u8>, bytes: &[u8]) {
        match self.tensor.datatype() {
            DataType::Bool => each(out, bytes, |out, [byte]| {
                text(out, if byte == 0 { "false" } else { "true" });
            }),
            DataType::Uint8 => each(out, bytes, |out, le| integer(out, u8::from_le_bytes(le))),
            DataType::Uint16 => each(out, bytes, |out, le| integer(out, u16::from_le_bytes(le))),
            DataType::Uint32 => each(out, bytes, |out, le| integer(out, u32::from_le_bytes(le))),
            DataType::Uint64 => each(out, bytes, |out, le| integer(out, u64::from_le_bytes(le))),
            DataType::Int8 => each(out, bytes, |out, le| integer(out, i8::from_le_bytes(le))),
            DataType::Int16 => each(out, bytes, |out, le| integer(out, i16::from_le_bytes(le))),
            DataType::Int32 => each(out, bytes, |out, le| integer(out, i32::from_le_bytes(le))),
            DataType::Int64 => each(out, bytes, |out, le| integer(out, i64::from_le_bytes(le))),
            DataType::Fp16 => each(out, bytes, |out, le| {
                self.float(out, f16::from_le_bytes(le).to_f32());
            }),
            DataType::Bf16 => each(out, bytes, |out, le| {
                self.float(out, bf16::from_le_bytes(le).to_f32());
            }),
            DataType::Fp32 => each(out, bytes, |out, le| {
                self.float(out, f32::from_le_bytes(le));
            }),
            DataType::Fp64 => each(out, bytes, |out, le| {
                self.float(out, f64::from_le_bytes(le));
            }),
            // Its elements are strings.
            DataType::Bytes => {}
        }
    }

    #[inline]
    fn float<F: zmij::Float + Into<f64> + Copy>(&mut self, out: &mut Vec<u8>, value: F) {
        if value.into().is_finite() {
            text(out, zmij::Buffer::new().format_finite(value));
        } else {
            self.word(out, value.into());
        }
    }

    /// Writes what JSON has no number for, which the scanner reads back.
    #[cold]
    fn word(&mut self, out: &mut Vec<u8>, value: f64) {
        self.notes.non_finite += 1;
        let word = match value {
            f64::INFINITY => r#""Infinity""#,
            f64::NEG_INFINITY => r#""-Infinity""#,
            _ => r#""NaN""#,
        };
        text(out, word);
    }
}

/// Writes elements of `W` bytes each with commas between them.
#[inline]
fn each<const W: usize>(
    out: &mut Vec<u8>,
    bytes: &[u8],
    element: impl FnMut(&mut Vec<u8>, [u8; W]),
) {
    // About the most that a number of that width and its comma take.
    out.reserve(bytes.len() / W * (2 * W + 2));
    separated(out, bytes.as_chunks().0.iter().copied(), element);
}

fn needs_escape(byte: u8) -> bool {
    matches!(byte, b'"' | b'\\' | 0..0x20)
}

fn escape(out: &mut Vec<u8>, byte: u8) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            text(out, "\\u00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}
