//! Compressing in steps that are short enough for the threads that everyone shares.

use std::collections::VecDeque;

use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};

/// Bytes that are inflated or deflated in one step: well under a millisecond of work.
pub(crate) const STEP: usize = 64 * 1024;

/// Little is gained beyond it, and much time lost.
pub(crate) const LEVEL: Compression = Compression::new(2);

/// zlib's window, and that of gzip.
pub(crate) const WINDOW_BITS: u8 = 15;

/// Steps after which others have their turn.
const STEPS_IN_A_ROW: usize = 4;

/// Lets others have their turn, now and then.
#[derive(Debug, Default)]
pub(crate) struct Turns(usize);

impl Turns {
    /// Counts a step.
    pub(crate) async fn step(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(STEPS_IN_A_ROW) {
            tokio::task::yield_now().await;
        }
    }
}

/// Compresses bytes that are there.
pub(crate) struct Encoder {
    stream: Compress,
    turns: Turns,
    room: Vec<u8>,
    done: VecDeque<Bytes>,
}

impl Encoder {
    pub(crate) fn gzip() -> Encoder {
        Encoder::new(Compress::new_gzip(LEVEL, WINDOW_BITS))
    }

    /// In the frame of zlib, as `deflate` means everywhere in HTTP.
    pub(crate) fn zlib() -> Encoder {
        Encoder::new(Compress::new(LEVEL, true))
    }

    fn new(stream: Compress) -> Encoder {
        Encoder {
            stream,
            turns: Turns::default(),
            room: Vec::with_capacity(STEP),
            done: VecDeque::new(),
        }
    }

    /// The bytes of these pieces, compressed together. Lets others have their turn.
    pub(crate) async fn all(mut self, pieces: impl IntoIterator<Item = &Bytes>) -> VecDeque<Bytes> {
        for piece in pieces {
            for step in piece.chunks(STEP) {
                let mut rest = step;
                while !rest.is_empty() && self.deflate(&mut rest, FlushCompress::None) {}
                self.turns.step().await;
            }
        }
        while self.deflate(&mut &[][..], FlushCompress::Finish) {}
        self.done.push_back(self.room.into());
        self.done.retain(|piece| !piece.is_empty());
        self.done
    }

    /// One step, which cuts the input by what it used; whether another may follow. Where the room is full it becomes a piece.
    fn deflate(&mut self, input: &mut &[u8], flush: FlushCompress) -> bool {
        let before = self.stream.total_in();
        let status = self.stream.compress_vec(input, &mut self.room, flush);
        let used = usize::try_from(self.stream.total_in() - before).unwrap_or(usize::MAX);
        *input = input.get(used..).unwrap_or_default();
        if self.room.len() == self.room.capacity() {
            let full = std::mem::replace(&mut self.room, Vec::with_capacity(STEP));
            self.done.push_back(full.into());
        }
        matches!(status, Ok(Status::Ok | Status::BufError))
    }
}
