//! Reading the body of a request: bounded in bytes, in time, and in what all bodies together may hold. What counts of a compressed body is
//! what comes out of it, as it comes.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http::header::EXPECT;
use http::{HeaderValue, Version, request};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::coding::{Coding, Decoder};
use super::reply::Refusal;
use crate::admit::Admitted;
use crate::deflate::Turns;
use crate::failure::{Code, Failure};
use crate::memory::aligned;

/// Memory that is set aside for a body on its word alone. When as much has arrived, the word is good for the rest.
const TRUSTED_BYTES: usize = 1024 * 1024;

/// How much is read away of a body that nobody wants.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    bytes: u64,
    within: Duration,
}

impl Rest {
    /// The next request can only follow behind the body. Beyond this the connection is closed instead, which is said.
    pub(crate) const HTTP1: Rest = Rest {
        bytes: 1024 * 1024,
        within: Duration::from_secs(1),
    };
    /// The stream is reset beyond this, and many clients that are still sending lose the answer that came before the reset. Time alone
    /// bounds it, since a body above the limit of bytes is refused in this way too.
    pub(crate) const HTTP2: Rest = Rest {
        bytes: u64::MAX,
        within: Duration::from_secs(5),
    };
}

/// The limit of bodies that hold no tensors, which no setting raises.
pub(crate) const FIXED_MAX: usize = 1 << 20;

/// The limits of one body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BodyLimits {
    pub(crate) bytes: usize,
    pub(crate) timeout: Duration,
    pub(crate) deadline: Instant,
}

/// How many bytes the body is announced to have; 0 when that is not known. Refuses it before any byte is read when they are too many.
pub(crate) fn announced(body: &impl Body, limit: usize) -> Result<usize, Refusal> {
    let length = body.size_hint().lower();
    match usize::try_from(length) {
        Ok(length) if length <= limit => Ok(length),
        _ => Err(too_large(limit)),
    }
}

/// How a body is to be read.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Manner {
    /// How it is compressed.
    pub(crate) coding: Option<Coding>,
    /// The offset of its first raw tensor.
    pub(crate) tensors: usize,
}

/// Reads the whole body. One that comes in one piece is not copied, any other one once; its first raw tensor then is aligned.
///
/// Cancel safety: what was read is lost, and its bytes are given back when `admitted` is dropped.
pub(crate) async fn read<B>(
    body: B,
    manner: Manner,
    admitted: &mut Admitted,
    limits: BodyLimits,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut pace = Pace::new(limits);
    match manner.coding {
        None => read_plain(body, manner.tensors, admitted, &mut pace).await,
        Some(coding) => Box::pin(read_coded(body, coding, admitted, &mut pace)).await,
    }
}

/// Reads a body in the pieces that it comes in, of which none is copied.
///
/// Cancel safety: as [`read`].
pub(crate) async fn pieces<B>(
    mut body: B,
    admitted: &mut Admitted,
    limits: BodyLimits,
    mut take: impl FnMut(Bytes) -> Result<(), Failure>,
) -> Result<(), Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut pace = Pace::new(limits);
    while let Some(piece) = pace.next(&mut body).await? {
        pace.hold(piece.len(), admitted)?;
        take(piece)?;
    }
    Ok(())
}

/// The body of a request. Whoever polls it asks its client for it, so it knows whether anybody has.
pub(crate) struct Arriving<B = Incoming> {
    body: B,
    /// The client waits for `100 Continue` before it sends the body, which hyper writes as soon as the body is polled.
    expects: bool,
}

impl<B: Body> Arriving<B> {
    pub(crate) fn new(head: &request::Parts, body: B) -> Arriving<B> {
        let expectation = head.headers.get(EXPECT).map(HeaderValue::as_bytes);
        let continues = |value: &[u8]| value.eq_ignore_ascii_case(b"100-continue");
        Arriving {
            body,
            expects: head.version == Version::HTTP_11 && expectation.is_some_and(continues),
        }
    }

    /// Whether the client holds the body back because nobody has asked for it.
    pub(crate) fn is_held_back(&self) -> bool {
        self.expects && !self.body.is_end_stream()
    }

    pub(crate) fn into_inner(self) -> B {
        self.body
    }
}

impl<B: Body + Unpin> Body for Arriving<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        self.expects = false;
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Reads what is left of a body away, since a refusal is often known before the body has arrived. False when there is more of it, or it does
/// not come.
///
/// Cancel safety: what was read is lost.
pub(crate) async fn pass_over<B>(body: &mut B, rest: Rest) -> bool
where
    B: Body<Data = Bytes> + Unpin,
{
    if body.is_end_stream() {
        return true;
    }
    if body.size_hint().lower() > rest.bytes {
        return false;
    }
    let read = async {
        let mut left = rest.bytes;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            match left.checked_sub(bytes as u64) {
                Some(rest) => left = rest,
                None => return false,
            }
        }
        true
    };
    tokio::time::timeout(rest.within, read)
        .await
        .unwrap_or(false)
}

async fn read_plain<B>(
    mut body: B,
    tensors: usize,
    admitted: &mut Admitted,
    pace: &mut Pace,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let Some(first) = pace.next(&mut body).await? else {
        return Ok(Bytes::new());
    };
    pace.hold(first.len(), admitted)?;
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut whole = aligned(room(&body, first.len()), tensors);
    whole.extend_from_slice(&first);
    drop(first);
    while let Some(more) = pace.next(&mut body).await? {
        pace.hold(more.len(), admitted)?;
        if whole.capacity() - whole.len() < more.len() {
            let before = whole;
            whole = aligned(room(&body, before.len() + more.len()), tensors);
            whole.extend_from_slice(&before);
        }
        whole.extend_from_slice(&more);
    }
    Ok(whole.freeze())
}

async fn read_coded<B>(
    mut body: B,
    coding: Coding,
    admitted: &mut Admitted,
    pace: &mut Pace,
) -> Result<Bytes, Refusal>
where
    B: Body<Data = Bytes> + Unpin,
{
    let mut decoder = Decoder::new(coding);
    let mut turns = Turns::default();
    let mut whole = BytesMut::new();
    while let Some(frame) = pace.next(&mut body).await? {
        let mut input = &frame[..];
        loop {
            let piece = decoder.step(&mut input).map_err(Refusal::closing)?;
            if piece.is_empty() && input.is_empty() {
                break;
            }
            pace.hold(piece.len(), admitted)?;
            whole.extend_from_slice(piece);
            turns.step().await;
        }
    }
    decoder.finish()?;
    Ok(whole.freeze())
}

/// How much memory to set aside for a body of which so much has arrived: for all that is still announced where enough has arrived to
/// believe it, else twice as much as there is.
fn room(body: &impl Body, arrived: usize) -> usize {
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    let whole = arrived.saturating_add(announced);
    let doubled = arrived.saturating_mul(2);
    if whole <= TRUSTED_BYTES || arrived >= TRUSTED_BYTES {
        // Where nothing is announced, the body is as long as it gets.
        return if announced > 0 { whole } else { doubled };
    }
    TRUSTED_BYTES.max(arrived)
}

/// Watches how much came, and how fast.
struct Pace {
    limits: BodyLimits,
    /// Bytes that came.
    read: usize,
    /// Bytes that are kept of them, or of what they stand for.
    held: usize,
    window_end: Instant,
    read_before_window: usize,
}

impl Pace {
    fn new(limits: BodyLimits) -> Pace {
        Pace {
            limits,
            read: 0,
            held: 0,
            window_end: Instant::now() + limits.timeout,
            read_before_window: 0,
        }
    }

    /// The next bytes that come.
    async fn next<B>(&mut self, body: &mut B) -> Result<Option<Bytes>, Refusal>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        loop {
            let until = self.window_end.min(self.limits.deadline);
            // What is there already needs no timer: most bodies come with their heads.
            let there = body.frame().now_or_never();
            let frame = match there {
                Some(frame) => Ok(frame),
                None => tokio::time::timeout_at(until.into(), body.frame()).await,
            };
            let Ok(frame) = frame else {
                self.late(Instant::now())?;
                continue;
            };
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(broken_off()),
                Some(Ok(frame)) => {
                    // Trailers say nothing that is wanted here.
                    if let Ok(data) = frame.into_data() {
                        self.count(data.len())?;
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    fn count(&mut self, bytes: usize) -> Result<(), Refusal> {
        self.read += bytes;
        self.check(self.read)
    }

    /// Takes room for bytes that are to be kept.
    fn hold(&mut self, bytes: usize, admitted: &mut Admitted) -> Result<(), Refusal> {
        self.held += bytes;
        self.check(self.held)?;
        admitted.take(bytes).map_err(Refusal::closing)
    }

    fn check(&self, bytes: usize) -> Result<(), Refusal> {
        match bytes > self.limits.bytes {
            true => Err(too_large(self.limits.bytes)),
            false => Ok(()),
        }
    }

    /// Opens the next window when enough came in this one.
    fn late(&mut self, now: Instant) -> Result<(), Refusal> {
        if now >= self.limits.deadline {
            return Err(Refusal::closing(Failure::new(
                Code::DeadlineExceeded,
                "the deadline passed while the body was read",
            )));
        }
        // A byte for each millisecond is 1 kB for each second.
        let came = (self.read - self.read_before_window) as u128;
        if came < self.limits.timeout.as_millis() {
            return Err(Refusal::closing(Failure::new(
                Code::RequestTimeout,
                "the body came too slowly; send at least 1 kB in each second",
            )));
        }
        self.window_end = now + self.limits.timeout;
        self.read_before_window = self.read;
        Ok(())
    }
}

fn too_large(limit: usize) -> Refusal {
    let rises = if limit == FIXED_MAX {
        ""
    } else {
        ", or raise max_body_bytes"
    };
    Refusal::closing(Failure::new(
        Code::TooLarge,
        format!("the body is larger than the limit of {limit} bytes; send less at a time{rises}"),
    ))
}

/// The body broke off: the client has left, unless the connection's fault says something else.
fn broken_off() -> Refusal {
    Refusal::closing(Failure::new(
        Code::Cancelled,
        "the client left before the body's end",
    ))
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::io::Write;
    use std::pin::Pin;
    use std::sync::Arc;
    use std::task::{Context, Poll};

    use flate2::Compression;
    use flate2::write::GzEncoder;
    use http_body::{Frame, SizeHint};

    use super::*;
    use crate::admit::Admission;
    use crate::memory::ALIGNMENT;

    /// A body that comes in these frames.
    struct Frames {
        frames: VecDeque<Bytes>,
        announced: bool,
    }

    impl Frames {
        fn new(whole: &[u8], frame: usize, announced: bool) -> Frames {
            Frames {
                frames: whole.chunks(frame).map(Bytes::copy_from_slice).collect(),
                announced,
            }
        }
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(
                self.get_mut()
                    .frames
                    .pop_front()
                    .map(|frame| Ok(Frame::data(frame))),
            )
        }

        fn is_end_stream(&self) -> bool {
            self.frames.is_empty()
        }

        fn size_hint(&self) -> SizeHint {
            let left = self.frames.iter().map(|frame| frame.len() as u64).sum();
            match self.announced {
                true => SizeHint::with_exact(left),
                false => SizeHint::default(),
            }
        }
    }

    fn limits(bytes: usize) -> BodyLimits {
        BodyLimits {
            bytes,
            timeout: Duration::from_secs(9),
            deadline: Instant::now() + Duration::from_secs(99),
        }
    }

    async fn read_in(
        body: Frames,
        manner: Manner,
        admission: &Arc<Admission>,
    ) -> Result<Bytes, Refusal> {
        let mut admitted = admission.enter(0).unwrap();
        let read = read(body, manner, &mut admitted, limits(4 << 20)).await;
        let held = read.as_ref().map_or(0, Bytes::len);
        assert!(read.is_err() || admission.bytes_held() == held);
        read
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut writer = GzEncoder::new(Vec::new(), Compression::fast());
        writer.write_all(plain).unwrap();
        writer.finish().unwrap()
    }

    #[tokio::test]
    async fn bodies_are_whole_and_their_tensors_aligned() {
        let admission = Admission::new(1 << 30);
        let whole: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
        for (bytes, frame, announced) in [
            (0, 1, true),
            (9, 9, true),
            (602_112, 16_384, true),
            (602_112, 16_384, false),
            (1 << 20, 65_536, true),
            (3_000_000, 400_000, true),
            (3_000_000, 400_000, false),
            (3_000_000, 2_000_000, true),
        ] {
            let body = Frames::new(&whole[..bytes], frame, announced);
            let manner = Manner {
                coding: None,
                tensors: 123,
            };
            let read = read_in(body, manner, &admission).await.unwrap();
            assert_eq!(read, whole[..bytes]);
            if frame < bytes {
                assert_eq!(
                    read[123..].as_ptr().addr() % ALIGNMENT,
                    0,
                    "{bytes} {frame}"
                );
            }
        }
    }

    #[test]
    fn memory_follows_the_word_up_to_a_megabyte_and_then_what_has_arrived() {
        let room = |arrived: usize, left: usize, announced| {
            room(&Frames::new(&vec![0; left], 1 << 16, announced), arrived)
        };
        assert_eq!(room(8_000, 602_112, true), 610_112);
        assert_eq!(room(8_000, 50 << 20, true), TRUSTED_BYTES);
        assert_eq!(
            room(TRUSTED_BYTES, 50 << 20, true),
            TRUSTED_BYTES + (50 << 20)
        );
        assert_eq!(room(8_000, 100, false), 16_000);
        assert_eq!(room(8 << 20, 100, false), 16 << 20);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_wants_is_passed_over_while_it_is_short_and_comes() {
        let rest = Rest::HTTP1;
        let most = usize::try_from(rest.bytes).unwrap();
        for (bytes, announced, passed) in [
            (0, true, true),
            (most, true, true),
            (most, false, true),
            (most + 1, true, false),
            (most + 1, false, false),
        ] {
            let mut body = Frames::new(&vec![0; bytes], 1 << 16, announced);
            assert_eq!(
                pass_over(&mut body, rest).await,
                passed,
                "{bytes} {announced}"
            );
            assert_eq!(body.is_end_stream(), passed || !announced);
        }
        let begun = tokio::time::Instant::now();
        let mut endless = http_body_util::StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, Infallible>,
        >());
        assert!(!pass_over(&mut endless, rest).await);
        assert_eq!(begun.elapsed(), rest.within);
    }

    #[tokio::test]
    async fn a_compressed_body_counts_by_what_comes_out_of_it() {
        let admission = Admission::new(3 << 20);
        let manner = Manner {
            coding: Some(Coding::Gzip),
            tensors: 0,
        };
        let fits = vec![7; 3 << 20];
        let read = read_in(Frames::new(&gzip(&fits), 999, true), manner, &admission).await;
        assert_eq!(read.unwrap(), fits);
        assert_eq!(admission.bytes_held(), 0);
        let bomb = gzip(&vec![0; 8 << 20]);
        for (room, code) in [(3 << 20, Code::Overloaded), (1 << 30, Code::TooLarge)] {
            let admission = Admission::new(room);
            let refusal = read_in(Frames::new(&bomb, 1 << 16, true), manner, &admission).await;
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.failure.code, code);
            assert!(refusal.close);
        }
        let cut = Frames::new(&gzip(&fits)[..99], 50, true);
        let refusal = read_in(cut, manner, &admission).await.unwrap_err();
        assert_eq!(
            (refusal.failure.code, refusal.close),
            (Code::InvalidInput, false)
        );
    }
}
