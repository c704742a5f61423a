//! Compressed messages.

use std::io::{self, Read, Write};

use bytes::Bytes;
use flate2::Compression;
use flate2::read::{GzDecoder, ZlibDecoder};
use flate2::write::{GzEncoder, ZlibEncoder};

use crate::admit::Admitted;
use crate::failure::{Code, Failure};

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// In the frame of zlib, as everywhere in HTTP.
    Deflate,
}

/// What is read of a compressed message at a time. Memory follows it, and never the message's own word.
const STEP: usize = 64 * 1024;
/// Steps after which others have their turn: well under a millisecond of work.
const STEPS_IN_A_ROW: usize = 4;

impl Encoding {
    pub(super) fn from_name(name: &[u8]) -> Option<Encoding> {
        match name {
            b"gzip" => Some(Encoding::Gzip),
            b"deflate" => Some(Encoding::Deflate),
            _ => None,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Encoding::Gzip => "gzip",
            Encoding::Deflate => "deflate",
        }
    }

    /// The message that was compressed, which takes its room as it gets larger. Lets others have their turn.
    ///
    /// # Errors
    /// `too_large` as soon as it has more bytes than `limit`; `invalid_input` where nothing was compressed like that; `overloaded` where
    /// there is no room.
    ///
    /// Cancel safety: the message is lost.
    pub(super) async fn decompress(
        self,
        compressed: &[u8],
        limit: usize,
        room: &mut Admitted,
    ) -> Result<Bytes, Failure> {
        match self {
            Encoding::Gzip => inflate(GzDecoder::new(compressed), limit, room).await,
            Encoding::Deflate => inflate(ZlibDecoder::new(compressed), limit, room).await,
        }
    }

    /// The bytes of these pieces, compressed together.
    pub(super) fn compress<'a>(
        self,
        pieces: impl Iterator<Item = &'a Bytes>,
    ) -> io::Result<Vec<u8>> {
        match self {
            Encoding::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                write_all(&mut encoder, pieces)?;
                encoder.finish()
            }
            Encoding::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                write_all(&mut encoder, pieces)?;
                encoder.finish()
            }
        }
    }
}

fn write_all<'a>(
    out: &mut impl Write,
    mut pieces: impl Iterator<Item = &'a Bytes>,
) -> io::Result<()> {
    pieces.try_for_each(|piece| out.write_all(piece))
}

async fn inflate(
    mut decoder: impl Read,
    limit: usize,
    room: &mut Admitted,
) -> Result<Bytes, Failure> {
    let mut out = Vec::new();
    let mut steps = 0_usize;
    loop {
        steps += 1;
        if steps.is_multiple_of(STEPS_IN_A_ROW) {
            tokio::task::yield_now().await;
        }
        let before = out.len();
        let step = STEP.min(limit - before + 1) as u64;
        decoder
            .by_ref()
            .take(step)
            .read_to_end(&mut out)
            .map_err(|_| Failure::invalid("the message is not compressed as grpc-encoding says"))?;
        if out.len() > limit {
            return Err(too_large(limit));
        }
        room.grow_to(out.len())?;
        if out.len() == before {
            return Ok(out.into());
        }
    }
}

/// The refusal of a message beyond the limit.
pub(super) fn too_large(limit: usize) -> Failure {
    Failure::new(
        Code::TooLarge,
        format!(
            "the message is larger than the limit of {limit} bytes; send less at a time, or raise max_body_bytes"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admit::Admission;

    fn room() -> Admitted {
        Admission::new(1 << 20).enter(0).unwrap()
    }

    #[tokio::test]
    async fn what_is_compressed_comes_back() {
        let pieces = [Bytes::from(vec![7; 100_000]), Bytes::from_static(b"end")];
        let whole = pieces.concat();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let small = encoding.compress(pieces.iter()).unwrap();
            assert!(small.len() < 1000);
            for limit in [whole.len(), whole.len() + 1, usize::MAX - 1] {
                let back = encoding
                    .decompress(&small, limit, &mut room())
                    .await
                    .unwrap();
                assert!(back == whole, "{encoding:?} within {limit}");
            }
            let failure = encoding
                .decompress(&small, whole.len() - 1, &mut room())
                .await
                .unwrap_err();
            assert_eq!(failure.code, Code::TooLarge);
            let mut crowded = Admission::new(50_000).enter(0).unwrap();
            let failure = encoding
                .decompress(&small, whole.len(), &mut crowded)
                .await
                .unwrap_err();
            assert_eq!(failure.code, Code::Overloaded);
            assert_eq!(
                Encoding::from_name(encoding.name().as_bytes()),
                Some(encoding)
            );
        }
    }

    #[tokio::test]
    async fn what_is_not_compressed_is_refused() {
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let whole = [Bytes::from(vec![7; 1000])];
            let small = encoding.compress(whole.iter()).unwrap();
            for wrong in [&b"plain text"[..], b"", &small[..small.len() - 3]] {
                let failure = encoding
                    .decompress(wrong, 10_000, &mut room())
                    .await
                    .unwrap_err();
                assert_eq!(failure.code, Code::InvalidInput);
            }
        }
    }
}
