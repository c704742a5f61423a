//! The encoding of ONNX files, Protocol Buffers, as far as it is needed to walk one and to skip what is of no interest.

use std::io::{self, BufRead, Read, Seek};

/// Texts of interest are names; a longer one is damage.
const TEXT: u64 = 64 * 1024;

/// Why a file cannot be walked.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Read(#[from] io::Error),
    #[error("{0}")]
    Malformed(&'static str),
}

/// One field of a message.
#[derive(Debug)]
pub(super) struct Field {
    pub(super) number: u64,
    pub(super) value: Value,
}

#[derive(Debug)]
pub(super) enum Value {
    Varint(u64),
    /// Four or eight bytes, already passed.
    Fixed,
    /// What ends at this position of the file: bytes, text or a message.
    Span {
        end: u64,
    },
}

impl Field {
    /// Where the message in this field ends.
    pub(super) fn end(&self) -> Result<u64, Error> {
        match self.value {
            Value::Span { end } => Ok(end),
            _ => Err(Error::Malformed("a number stands where a message belongs")),
        }
    }
}

/// A file, and how far it is read.
pub(super) struct Source<R> {
    reader: R,
    at: u64,
}

impl<R: BufRead + Seek> Source<R> {
    pub(super) fn new(reader: R) -> Source<R> {
        Source { reader, at: 0 }
    }

    /// The next field of the message that ends at `end`; `None` at its end. A field never reaches beyond its message.
    pub(super) fn field(&mut self, end: u64) -> Result<Option<Field>, Error> {
        if self.at == end {
            return Ok(None);
        }
        let key = self.varint(end)?;
        let value = match key & 7 {
            0 => Value::Varint(self.varint(end)?),
            1 => self.fixed::<8>(end).map(|_| Value::Fixed)?,
            2 => {
                let length = self.varint(end)?;
                Value::Span {
                    end: self.within(length, end)?,
                }
            }
            5 => self.fixed::<4>(end).map(|_| Value::Fixed)?,
            _ => return Err(Error::Malformed("a field has no type")),
        };
        let number = key >> 3;
        Ok(Some(Field { number, value }))
    }

    /// Goes to the end of a field, wherever within it the reader stands.
    pub(super) fn finish(&mut self, field: &Field) -> Result<(), Error> {
        if let Value::Span { end } = field.value {
            let rest = i64::try_from(end - self.at).map_err(|_| cut_off())?;
            self.reader.seek_relative(rest)?;
            self.at = end;
        }
        Ok(())
    }

    /// The text of a field.
    pub(super) fn text(&mut self, field: &Field) -> Result<String, Error> {
        let length = field.end()? - self.at;
        if length > TEXT {
            return Err(Error::Malformed("a name is too long"));
        }
        let mut bytes = Vec::new();
        (&mut self.reader).take(length).read_to_end(&mut bytes)?;
        self.at += length;
        String::from_utf8(bytes).map_err(|_| Error::Malformed("a name is not UTF-8"))
    }

    /// The values of a repeated integer, packed or not.
    pub(super) fn varints(
        &mut self,
        field: &Field,
        mut each: impl FnMut(u64),
    ) -> Result<(), Error> {
        match field.value {
            Value::Varint(value) => each(value),
            Value::Fixed => {}
            Value::Span { end } => {
                while self.at < end {
                    each(self.varint(end)?);
                }
            }
        }
        Ok(())
    }

    /// The bytes of a field as 64-bit integers; bytes that are left over are passed.
    pub(super) fn words(&mut self, field: &Field, mut each: impl FnMut(i64)) -> Result<(), Error> {
        let end = field.end()?;
        while end - self.at >= 8 {
            each(i64::from_le_bytes(self.fixed(end)?));
        }
        Ok(())
    }

    fn varint(&mut self, end: u64) -> Result<u64, Error> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let [byte] = self.fixed(end)?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Error::Malformed("a number is too long"))
    }

    fn fixed<const N: usize>(&mut self, end: u64) -> Result<[u8; N], Error> {
        let end = self.within(N as u64, end)?;
        let mut bytes = [0; N];
        self.reader.read_exact(&mut bytes)?;
        self.at = end;
        Ok(bytes)
    }

    /// Where `length` bytes from here end, if that is not beyond `end`.
    fn within(&self, length: u64, end: u64) -> Result<u64, Error> {
        match self.at.checked_add(length) {
            Some(here) if here <= end => Ok(here),
            _ => Err(cut_off()),
        }
    }
}

fn cut_off() -> Error {
    Error::Malformed("it is cut off or damaged")
}
