//! Bytes in pieces of one size.

use std::fmt;
use std::io;
use std::num::NonZeroUsize;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream::FusedStream;
use tokio::io::AsyncRead;
use tokio_util::io::poll_read_buf;

/// The bytes of a reader as a stream of chunks, each of exactly the same size but the last, which may be shorter.
///
/// It holds at most one chunk. After the end or an error it gives `None` for ever, and does not read again. What was read of a
/// chunk before an error is not part of the stream; [`into_parts`](Chunks::into_parts) has it.
///
/// # Cancel safety
/// Dropping the future of `next()` loses nothing: what was read stays for the next call.
///
/// ```
/// use futures_util::StreamExt;
/// use jitney::stream::Chunks;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::io::Result<()> {
/// let mut chunks = Chunks::new(&b"twelve bytes"[..], 5.try_into().unwrap());
/// let mut sizes = Vec::new();
/// while let Some(chunk) = chunks.next().await {
///     sizes.push(chunk?.len());
/// }
/// assert_eq!(sizes, [5, 5, 2]);
/// # Ok(())
/// # }
/// ```
pub struct Chunks<R> {
    reader: R,
    size: usize,
    partial: BytesMut,
    done: bool,
}

impl<R> Chunks<R> {
    /// Chunks of `size` bytes. A reader that is not [`Unpin`] goes in a `Box::pin`.
    pub fn new(reader: R, size: NonZeroUsize) -> Chunks<R> {
        Chunks {
            reader,
            size: size.get(),
            partial: BytesMut::new(),
            done: false,
        }
    }

    /// The reader, and what was read of a chunk that is not whole.
    pub fn into_parts(self) -> (R, Bytes) {
        (self.reader, self.partial.freeze())
    }
}

impl<R: AsyncRead + Unpin> Stream for Chunks<R> {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        match ready!(this.poll_fill(cx)) {
            Ok(true) => {}
            Ok(false) => this.done = true,
            Err(error) => {
                this.done = true;
                return Poll::Ready(Some(Err(error)));
            }
        }
        let chunk = std::mem::take(&mut this.partial).freeze();
        Poll::Ready((!chunk.is_empty()).then_some(Ok(chunk)))
    }
}

impl<R: AsyncRead + Unpin> FusedStream for Chunks<R> {
    fn is_terminated(&self) -> bool {
        self.done
    }
}

impl<R: AsyncRead + Unpin> Chunks<R> {
    /// Reads until the chunk is whole; false if the end came first.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.partial.capacity() == 0 {
            self.partial.reserve(self.size.min(FIRST_CAPACITY));
        }
        while self.partial.len() < self.size {
            let missing = self.size - self.partial.len();
            let mut rest = (&mut self.partial).limit(missing);
            match ready!(poll_read_buf(Pin::new(&mut self.reader), cx, &mut rest)) {
                Ok(0) => return Poll::Ready(Ok(false)),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(true))
    }
}

/// A large chunk of a small file does not take the memory of a large one.
const FIRST_CAPACITY: usize = 64 * 1024;

impl<R> fmt::Debug for Chunks<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chunks")
            .field("size", &self.size)
            .field("partial", &self.partial.len())
            .field("done", &self.done)
            .finish_non_exhaustive()
    }
}
