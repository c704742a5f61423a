//! Compressed messages.

use std::collections::VecDeque;
use std::io::Read;

use bytes::Bytes;
use flate2::read::{GzDecoder, ZlibDecoder};

use crate::admit::Admitted;
use crate::deflate::{Encoder, STEP, Turns};
use crate::failure::{Code, Failure};

/// How messages are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Gzip,
    /// In the frame of zlib, as everywhere in HTTP.
    Deflate,
}

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

    /// The bytes of these pieces, compressed together. Lets others have their turn.
    pub(super) async fn compress(
        self,
        pieces: impl IntoIterator<Item = &Bytes>,
    ) -> VecDeque<Bytes> {
        let encoder = match self {
            Encoding::Gzip => Encoder::gzip(),
            Encoding::Deflate => Encoder::zlib(),
        };
        encoder.all(pieces).await
    }
}

/// Memory follows what comes out, and never the message's own word.
async fn inflate(
    mut decoder: impl Read,
    limit: usize,
    room: &mut Admitted,
) -> Result<Bytes, Failure> {
    let mut out = Vec::new();
    let mut turns = Turns::default();
    loop {
        turns.step().await;
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

    async fn compressed(encoding: Encoding, pieces: &[Bytes]) -> Vec<u8> {
        encoding
            .compress(pieces)
            .await
            .into_iter()
            .flatten()
            .collect()
    }

    /// Others have had their turn while a large message was compressed.
    #[tokio::test]
    async fn compressing_lets_others_have_their_turn() {
        let large = [Bytes::from(vec![7; 64 * STEP])];
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let mut turns = 0;
            let others = async {
                loop {
                    turns += 1;
                    tokio::task::yield_now().await;
                }
            };
            tokio::select! {
                biased;
                _ = compressed(encoding, &large) => (),
                () = others => (),
            }
            assert!(turns >= 8, "{turns}");
        }
    }

    #[tokio::test]
    async fn what_is_compressed_comes_back() {
        let pieces = [Bytes::from(vec![7; 100_000]), Bytes::from_static(b"end")];
        let whole = pieces.concat();
        for encoding in [Encoding::Gzip, Encoding::Deflate] {
            let small = compressed(encoding, &pieces).await;
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
            let small = compressed(encoding, &whole).await;
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
