//! The socket as hyper sees it: every message head checked, slow heads and stalled readers timed out, and a close that does not destroy
//! the last answer.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::framing::{Fault, Framing, HeadLimits, Step};

/// The method of the request that hyper is given in place of a refused one. Its service answers with the fault, in order behind the answers
/// of the requests before it.
pub(crate) const REFUSED: &str = "X-REFUSED";
const REFUSED_REQUEST: &[u8] =
    b"X-REFUSED / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";

/// How long a closing connection still reads what the client sends, so that the kernel does not reset the connection and with it the answer.
const LINGER: Duration = Duration::from_secs(2);
const LINGER_BYTES: usize = 16 * 1024 * 1024;

/// The time limits of a socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// When the first head must be complete.
    pub(crate) first_head_by: Instant,
    /// From the first byte of any later head to its last.
    pub(crate) head: Duration,
    /// Without any byte written while there are bytes to write.
    pub(crate) write: Duration,
}

/// What a screen lets the service of its connection know.
#[derive(Debug, Default)]
pub(crate) struct Signs {
    fault: OnceLock<Fault>,
    quiet: AtomicBool,
    written: AtomicU64,
}

impl Signs {
    /// What was found wrong in the byte stream.
    pub(crate) fn fault(&self) -> Option<Fault> {
        self.fault.get().copied()
    }

    /// Whether the client has sent nothing that hyper has not got, is not within a message, and has taken everything that was written.
    pub(crate) fn quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    /// How many bytes have been written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

/// A checked socket.
pub(crate) struct Screen<S> {
    io: S,
    framing: Framing,
    patience: Patience,
    /// Bytes that were read and not yet handed to hyper. Empty but for heads that came in pieces.
    held: BytesMut,
    /// How many of them may go to hyper.
    released: usize,
    signs: Arc<Signs>,
    /// Whether the body that hyper reads is to end with an error, behind what may still go to it.
    body_error: bool,
    head_timer: Option<Pin<Box<Sleep>>>,
    write_timer: Option<Pin<Box<Sleep>>>,
    linger: Linger,
}

enum Linger {
    /// The write side is open. => Reading, Over
    No,
    /// The write side is closed; reading and dropping until the client closes, time is up, or it was enough. => Over
    Reading {
        timer: Pin<Box<Sleep>>,
        left: usize,
    },
    Over,
}

impl<S> Screen<S> {
    pub(crate) fn new(
        io: S,
        limits: HeadLimits,
        patience: Patience,
        signs: Arc<Signs>,
    ) -> Screen<S> {
        Screen {
            io,
            framing: Framing::new(limits),
            patience,
            held: BytesMut::new(),
            released: 0,
            signs,
            body_error: false,
            head_timer: None,
            write_timer: None,
            linger: Linger::No,
        }
    }

    /// Checks nothing more: from now on the connection speaks another protocol, which knows itself when it is over. The time limit on
    /// writing stays.
    pub(crate) fn upgrade(&mut self) {
        self.framing.upgrade();
        self.released = self.held.len();
        self.head_timer = None;
    }

    /// Hands over released bytes; false when there are none.
    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.released == 0 {
            return false;
        }
        let count = self.released.min(buf.remaining());
        buf.put_slice(&self.held[..count]);
        self.held.advance(count);
        self.released -= count;
        true
    }

    /// Checks what `buf` got beyond `before` and takes back what may not go on yet.
    fn check(&mut self, buf: &mut ReadBuf<'_>, before: usize) {
        if self.held.is_empty() {
            let step = self.framing.advance(&buf.filled()[before..]);
            let pass = before + step.release;
            self.held.extend_from_slice(&buf.filled()[pass..]);
            buf.set_filled(pass);
            self.take(step);
        } else {
            self.hold(&buf.filled()[before..]);
            buf.set_filled(before);
        }
    }

    /// Keeps bytes until their head is whole.
    fn hold(&mut self, bytes: &[u8]) {
        self.held.extend_from_slice(bytes);
        let step = self.framing.advance(&self.held);
        self.released = step.release;
        self.take(step);
    }

    fn take(&mut self, step: Step) {
        if step.release > 0 {
            self.head_timer = None;
        }
        if let Some(fault) = step.fault {
            self.refuse(fault);
        }
    }

    /// In place of a bad head hyper gets a request that stands for it; a bad body is an error of the body.
    fn refuse(&mut self, fault: Fault) {
        let _ = self.signs.fault.set(fault);
        self.head_timer = None;
        self.held.truncate(self.released);
        if self.framing.in_body() {
            self.body_error = true;
        } else {
            self.held.extend_from_slice(REFUSED_REQUEST);
            self.released = self.held.len();
        }
        self.framing.stop();
    }

    /// Ready when the head that began to arrive took too long.
    fn poll_head_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.is_empty() {
            return Poll::Pending;
        }
        let by = match self.framing.in_first_head() {
            true => self.patience.first_head_by,
            false => Instant::now() + self.patience.head,
        };
        let timer = self
            .head_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep_until(by)));
        timer.as_mut().poll(cx)
    }

    fn is_quiet(&self) -> bool {
        self.held.is_empty()
            && self.write_timer.is_none()
            && matches!(self.linger, Linger::No)
            && !self.framing.in_body()
    }

    fn count(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(count)) = written {
            let written = &self.signs.written;
            written.fetch_add(*count as u64, Ordering::Relaxed);
        }
    }

    /// Turns "not yet" into an error when the client has not read for too long. All that waits for the client to read goes through here.
    fn watch_write<T>(
        &mut self,
        cx: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.write_timer = None;
            return result;
        }
        self.signs.quiet.store(false, Ordering::Relaxed);
        let patience = self.patience.write;
        let timer = self
            .write_timer
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

impl<S: AsyncRead + Unpin> Screen<S> {
    /// Waits for the next bytes while nobody reads, and keeps them for the next reader. False when there are no more.
    ///
    /// Cancel safety: nothing is lost.
    pub(crate) async fn stir(&mut self) -> bool {
        self.held = BytesMut::new();
        poll_fn(|cx| {
            let mut scratch = [0; 4096];
            let mut buf = ReadBuf::new(&mut scratch);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf));
            let came = read.is_ok() && !buf.filled().is_empty();
            self.signs.quiet.store(false, Ordering::Relaxed);
            if came {
                self.hold(buf.filled());
            }
            Poll::Ready(came)
        })
        .await
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Linger::Reading { timer, left } = &mut self.linger else {
            return Poll::Ready(());
        };
        let mut scratch = [0; 4096];
        while timer.as_mut().poll(cx).is_pending() {
            let mut buf = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.io).poll_read(cx, &mut buf)) {
                Ok(()) if !buf.filled().is_empty() && *left > buf.filled().len() => {
                    *left -= buf.filled().len();
                }
                _ => break,
            }
        }
        self.linger = Linger::Over;
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Screen<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.hand_over(buf) {
                return Poll::Ready(Ok(()));
            }
            if std::mem::take(&mut this.body_error) {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::InvalidData)));
            }
            // Behind a fault nothing is read: the answer is on its way, and then the connection closes.
            if this.signs.fault().is_some() {
                return Poll::Pending;
            }
            let before = buf.filled().len();
            if Pin::new(&mut this.io).poll_read(cx, buf)?.is_pending() {
                this.signs.quiet.store(this.is_quiet(), Ordering::Relaxed);
                ready!(this.poll_head_timer(cx));
                this.refuse(Fault::HeadTooSlow);
                continue;
            }
            let end_of_stream = buf.filled().len() == before;
            if end_of_stream {
                return Poll::Ready(Ok(()));
            }
            this.signs.quiet.store(false, Ordering::Relaxed);
            this.check(buf, before);
            if buf.filled().len() > before {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Screen<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write(cx, buf);
        this.count(&result);
        this.watch_write(cx, result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_write_vectored(cx, bufs);
        this.count(&result);
        this.watch_write(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let result = Pin::new(&mut this.io).poll_flush(cx);
        this.watch_write(cx, result)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.signs.quiet.store(false, Ordering::Relaxed);
        if matches!(this.linger, Linger::No) {
            let result = Pin::new(&mut this.io).poll_shutdown(cx);
            ready!(this.watch_write(cx, result))?;
            let message_is_over = !this.framing.in_body() && this.held.is_empty();
            this.linger = if message_is_over {
                Linger::Over
            } else {
                Linger::Reading {
                    timer: Box::pin(tokio::time::sleep_until(Instant::now() + LINGER)),
                    left: LINGER_BYTES,
                }
            };
        }
        this.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, BufWriter, DuplexStream, duplex};

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

    /// A client's end, the checked end, and what is found wrong with it.
    fn screened(buffer: usize) -> (DuplexStream, Screen<DuplexStream>, Arc<Signs>) {
        screened_through(buffer, |server| server)
    }

    fn screened_through<S>(
        buffer: usize,
        through: impl FnOnce(DuplexStream) -> S,
    ) -> (DuplexStream, Screen<S>, Arc<Signs>) {
        let (client, server) = duplex(buffer);
        let limits = HeadLimits {
            bytes: 1024,
            fields: 8,
        };
        let patience = Patience {
            first_head_by: Instant::now() + SECOND,
            head: 10 * SECOND,
            write: SECOND,
        };
        let signs = Arc::default();
        let screen = Screen::new(through(server), limits, patience, Arc::clone(&signs));
        (client, screen, signs)
    }

    async fn read(screen: &mut Screen<DuplexStream>, size: usize) -> Vec<u8> {
        let mut bytes = vec![0; size];
        screen.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_goes_on_only_when_it_is_whole() {
        let (mut client, mut screen, _) = screened(1024);
        client.write_all(&GET[..10]).await.unwrap();
        let mut first = [0; 1];
        assert!(
            tokio::time::timeout(SECOND / 2, screen.read(&mut first))
                .await
                .is_err()
        );
        client.write_all(&GET[10..]).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_waited_for_from_the_start_and_others_from_their_first_byte() {
        let (mut client, mut screen, signs) = screened(1024);
        client.write_all(GET).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        client.write_all(&GET[..5]).await.unwrap();
        let begun = Instant::now();
        assert_eq!(
            read(&mut screen, REFUSED_REQUEST.len()).await,
            REFUSED_REQUEST
        );
        assert_eq!(
            (begun.elapsed(), signs.fault()),
            (10 * SECOND, Some(Fault::HeadTooSlow))
        );

        let (mut client, mut screen, signs) = screened(1024);
        client.write_all(&GET[..5]).await.unwrap();
        let begun = Instant::now();
        assert_eq!(
            read(&mut screen, REFUSED_REQUEST.len()).await,
            REFUSED_REQUEST
        );
        assert_eq!(
            (begun.elapsed(), signs.fault()),
            (SECOND, Some(Fault::HeadTooSlow))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_head_is_replaced_and_nothing_behind_it_is_read() {
        let (mut client, mut screen, signs) = screened(1024);
        let bytes = [GET, b"GET / HTTP/1.1\nHost: a\n\n", GET].concat();
        client.write_all(&bytes).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        assert_eq!(
            read(&mut screen, REFUSED_REQUEST.len()).await,
            REFUSED_REQUEST
        );
        assert!(matches!(signs.fault(), Some(Fault::Malformed(_))));
        let mut more = [0; 1];
        assert!(
            tokio::time::timeout(60 * SECOND, screen.read(&mut more))
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_body_ends_with_an_error_behind_what_was_right() {
        let (mut client, mut screen, signs) = screened(1024);
        let head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc";
        client
            .write_all(&[head, b"XX".as_slice()].concat())
            .await
            .unwrap();
        assert_eq!(read(&mut screen, head.len()).await, head);
        let mut more = [0; 1];
        let error = screen.read(&mut more).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(signs.fault().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_upgraded_connection_is_not_checked() {
        let (mut client, mut screen, signs) = screened(1024);
        client.write_all(GET).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        screen.upgrade();
        client.write_all(b"\x81\x80\0\0").await.unwrap();
        assert_eq!(read(&mut screen, 4).await, b"\x81\x80\0\0");
        assert_eq!(signs.fault(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up() {
        let (_client, mut screen, _) = screened(4);
        let begun = Instant::now();
        let error = screen.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(
            (error.kind(), begun.elapsed()),
            (io::ErrorKind::TimedOut, SECOND)
        );
    }

    /// As TLS does, which takes bytes long before the client does.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_is_given_up_whatever_keeps_bytes_for_it() {
        let (mut client, mut screen, signs) = screened_through(4, BufWriter::new);
        screen.write_all(&[7; 64]).await.unwrap();
        let mut more = [0; 1];
        assert!(futures_util::poll!(pin!(screen.flush())).is_pending());
        assert!(futures_util::poll!(pin!(screen.read(&mut more))).is_pending());
        assert!(!signs.quiet(), "a connection whose answer is not out yet");
        let mut got = [0; 64];
        let (flushed, read) = tokio::join!(screen.flush(), client.read_exact(&mut got));
        assert!(flushed.is_ok() && read.is_ok() && got == [7; 64]);
        assert!(futures_util::poll!(pin!(screen.read(&mut more))).is_pending());
        assert!(signs.quiet() && signs.written() == 64);

        for shuts in [false, true] {
            let (_client, mut screen, _) = screened_through(4, BufWriter::new);
            screen.write_all(&[7; 64]).await.unwrap();
            let begun = Instant::now();
            let result = match shuts {
                false => screen.flush().await,
                true => screen.shutdown().await,
            };
            let error = result.unwrap_err();
            assert_eq!(
                (error.kind(), begun.elapsed()),
                (io::ErrorKind::TimedOut, SECOND),
                "shuts: {shuts}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_close_in_the_middle_of_a_body_lingers_but_not_for_ever() {
        let (mut client, mut screen, _) = screened(1024);
        client
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc")
            .await
            .unwrap();
        assert_ne!(screen.read(&mut [0; 64]).await.unwrap(), 0);
        let begun = Instant::now();
        screen.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), LINGER);

        let (mut client, mut screen, _) = screened(1024);
        client.write_all(GET).await.unwrap();
        assert_ne!(screen.read(&mut [0; 64]).await.unwrap(), 0);
        let begun = Instant::now();
        screen.shutdown().await.unwrap();
        assert_eq!(begun.elapsed(), Duration::ZERO);
    }

    /// Half a head is as much as a reader may not see.
    #[tokio::test(start_paused = true)]
    async fn a_screen_is_quiet_between_messages_alone() {
        let (mut client, mut screen, signs) = screened(1024);
        client.write_all(GET).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        let mut more = [0; 1];
        let nothing = tokio::time::timeout(SECOND, screen.read(&mut more)).await;
        assert!(nothing.is_err() && signs.quiet());
        client.write_all(&GET[..5]).await.unwrap();
        let nothing = tokio::time::timeout(SECOND, screen.read(&mut more)).await;
        assert!(nothing.is_err() && !signs.quiet());
    }

    /// A connection that closes is not one that rests, though nothing more is read of it.
    #[tokio::test(start_paused = true)]
    async fn a_screen_that_closes_is_not_quiet() {
        let (mut client, mut screen, signs) = screened(1024);
        let mut more = [0; 64];
        let nothing = tokio::time::timeout(SECOND / 2, screen.read(&mut more)).await;
        assert!(nothing.is_err() && signs.quiet());
        client.write_all(b"no request\r\n\r\n").await.unwrap();
        assert_ne!(screen.read(&mut more).await.unwrap(), 0);
        let nothing = tokio::time::timeout(SECOND, screen.read(&mut more)).await;
        assert!(nothing.is_err() && !signs.quiet());

        let (_client, mut screen, signs) = screened(1024);
        let nothing = tokio::time::timeout(SECOND / 2, screen.read(&mut more)).await;
        assert!(nothing.is_err() && signs.quiet());
        screen.shutdown().await.unwrap();
        assert!(!signs.quiet());
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_while_nobody_reads_is_kept_and_checked() {
        let (mut client, mut screen, signs) = screened(1024);
        client.write_all(GET).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        let stirred = tokio::time::timeout(SECOND, screen.stir()).await;
        assert!(stirred.is_err());
        client.write_all(&GET[..5]).await.unwrap();
        assert!(screen.stir().await);
        client.write_all(&GET[5..]).await.unwrap();
        assert_eq!(read(&mut screen, GET.len()).await, GET);
        client.write_all(b"no request\r\n\r\n").await.unwrap();
        assert!(screen.stir().await);
        assert!(signs.fault().is_some());
        let stands_for_it = read(&mut screen, REFUSED_REQUEST.len()).await;
        assert_eq!(stands_for_it, REFUSED_REQUEST);
        drop(client);
        assert!(!screen.stir().await);
    }
}
