//! The bytes of a call: messages, each behind a prefix of five bytes, and the status at the end.
//!
//! Memory follows the bytes that have arrived. The length in a prefix is a stranger's word: it is compared with the limit, and nothing is
//! set aside for it.

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::mem;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use http::HeaderMap;
use http_body::Frame;
use http_body_util::BodyExt;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::coding::{Encoding, too_large};
use super::head::Head;
use super::status;
use crate::admit::{Admission, Admitted};
use crate::failure::{Code, Failure};
use crate::memory;

/// Whether the message is compressed, and its length.
const PREFIX: usize = 5;
/// A message up to here is copied once, so that the memory that the connection reads into can be used again while the model runs. So is a
/// piece below it, which could keep many times its size of that memory.
const COPIED: usize = 4096;
/// A tensor up to here is copied into the answer's first piece, which costs less than a piece of its own.
const JOINED: usize = 8192;
/// What is smaller is not worth compressing.
const COMPRESSED_FROM: usize = 1024;

/// Takes messages out of the bytes of one call.
#[derive(Debug)]
pub(crate) struct Messages {
    /// Large pieces as they came, with what was small between them joined.
    pieces: VecDeque<Bytes>,
    /// The small pieces behind those, joined.
    tail: BytesMut,
    held: usize,
    encoding: Option<Encoding>,
    /// Most bytes of a message, before and after it is decompressed.
    limit: usize,
}

impl Messages {
    pub(crate) fn new(head: &Head, limit: usize) -> Messages {
        Messages {
            pieces: VecDeque::new(),
            tail: BytesMut::new(),
            held: 0,
            encoding: head.encoding,
            limit,
        }
    }

    /// The next bytes of the call.
    ///
    /// # Errors
    /// As [`Messages::take`], as soon as the prefix of a message is there.
    pub(crate) fn push(&mut self, piece: Bytes) -> Result<(), Failure> {
        self.held += piece.len();
        if piece.len() < COPIED {
            self.tail.extend_from_slice(&piece);
        } else {
            if !self.tail.is_empty() {
                self.pieces.push_back(mem::take(&mut self.tail).freeze());
            }
            self.pieces.push_back(piece);
        }
        self.prefix().map(|_| ())
    }

    /// The next message, where all of it is there.
    ///
    /// # Errors
    /// `too_large`, and `invalid_input` for a prefix that cannot be one. Nothing can be read behind either.
    pub(crate) fn take(&mut self) -> Result<Option<Packed>, Failure> {
        let Some((encoding, length)) = self.prefix()? else {
            return Ok(None);
        };
        if self.held - PREFIX < length {
            return Ok(None);
        }
        self.cut(PREFIX);
        Ok(Some(Packed {
            bytes: self.cut(length),
            encoding,
            limit: self.limit,
        }))
    }

    /// The only message of a call that has ended.
    ///
    /// # Errors
    /// As [`Messages::take`]; `invalid_input` where there is not exactly one.
    pub(crate) fn only(mut self) -> Result<Packed, Failure> {
        let message = self.take()?;
        match message {
            Some(message) if self.held == 0 => Ok(message),
            Some(_) => Err(Failure::invalid(
                "expected one message, got bytes behind it: this method takes one in a call",
            )),
            None => Err(broken_off(self.held)),
        }
    }

    fn prefix(&self) -> Result<Option<(Option<Encoding>, usize)>, Failure> {
        if self.held < PREFIX {
            return Ok(None);
        }
        let mut prefix = [0; PREFIX];
        let bytes = self.pieces.iter().flatten().chain(&self.tail);
        prefix
            .iter_mut()
            .zip(bytes)
            .for_each(|(to, from)| *to = *from);
        let [flag, length @ ..] = prefix;
        let encoding = match (flag, self.encoding) {
            (0, _) => None,
            (1, Some(encoding)) => Some(encoding),
            (1, None) => {
                return Err(Failure::invalid(
                    "the message is marked as compressed, but grpc-encoding does not say how",
                ));
            }
            _ => {
                return Err(Failure::invalid(format!(
                    "expected a message to begin with a byte of 0 or 1, got {flag}"
                )));
            }
        };
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > self.limit {
            return Err(too_large(self.limit));
        }
        Ok(Some((encoding, length)))
    }

    /// Takes so many bytes, which are there. They are copied where they are few or lie in several pieces.
    fn cut(&mut self, count: usize) -> Bytes {
        self.held -= count;
        match self.pieces.front_mut() {
            Some(first) if first.len() >= count => {
                let cut = first.split_to(count);
                if first.is_empty() {
                    self.pieces.pop_front();
                }
                if count <= COPIED {
                    Bytes::copy_from_slice(&cut)
                } else {
                    cut
                }
            }
            None if count <= COPIED => {
                let cut = Bytes::copy_from_slice(self.tail.get(..count).unwrap_or_default());
                self.tail.advance(cut.len());
                cut
            }
            _ => self.join(count),
        }
    }

    /// Joins pieces so that the end is aligned: raw tensors are the last field of most requests, and the last of them then begins as
    /// processors like it. One that does not has to be copied again.
    fn join(&mut self, count: usize) -> Bytes {
        let mut joined = memory::aligned(count, count);
        while let Some(mut first) = self.pieces.pop_front() {
            let rest = first.split_off(first.len().min(count - joined.len()));
            joined.extend_from_slice(&first);
            if !rest.is_empty() {
                self.pieces.push_front(rest);
            }
            if joined.len() == count {
                return joined.freeze();
            }
        }
        let (last, rest) = self
            .tail
            .split_at(self.tail.len().min(count - joined.len()));
        joined.extend_from_slice(last);
        // In memory of its own, since what the message lay in may be large.
        self.tail = BytesMut::from(rest);
        joined.freeze()
    }
}

/// A message as it came.
#[derive(Debug)]
pub(crate) struct Packed {
    bytes: Bytes,
    encoding: Option<Encoding>,
    limit: usize,
}

impl Packed {
    /// The message itself, and its room where it needs more than it came with.
    ///
    /// # Errors
    /// `too_large`; `invalid_input` where it is not compressed as was said; `overloaded` where there is no room.
    pub(crate) async fn open(self, room: &mut Admitted) -> Result<Bytes, Failure> {
        match self.encoding {
            None => Ok(self.bytes),
            Some(encoding) => encoding.decompress(&self.bytes, self.limit, room).await,
        }
    }
}

/// The failure of a call that ended in the middle of a message, or before one.
fn broken_off(held: usize) -> Failure {
    Failure::invalid(match held {
        0 => "expected a message, got none".to_owned(),
        held => format!("the call ended within a message, of which {held} bytes came"),
    })
}

/// The messages of a stream, each with the room that it takes.
///
/// A stream may be silent for as long as it likes between messages, and for `patience` within one.
pub(super) struct Requests<B> {
    body: B,
    messages: Messages,
    admission: Arc<Admission>,
    patience: Duration,
    /// Takes the room of a message while it arrives.
    arriving: Option<Admitted>,
}

impl<B> Requests<B>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(super) fn new(
        body: B,
        messages: Messages,
        admission: Arc<Admission>,
        patience: Duration,
    ) -> Requests<B> {
        Requests {
            body,
            messages,
            admission,
            patience,
            arriving: None,
        }
    }

    /// A failure is the last thing that it gives.
    pub(super) fn into_stream(self) -> BoxStream<'static, Result<(Bytes, Admitted), Failure>> {
        let step = |requests: Option<Requests<B>>| async move {
            let mut requests = requests?;
            match requests.next().await {
                Ok(None) => None,
                Ok(Some(next)) => Some((Ok(next), Some(requests))),
                Err(failure) => Some((Err(failure), None)),
            }
        };
        stream::unfold(Some(self), step).boxed()
    }

    async fn next(&mut self) -> Result<Option<(Bytes, Admitted)>, Failure> {
        loop {
            if let Some(packed) = self.messages.take()? {
                let mut room = match self.arriving.take() {
                    Some(room) => room,
                    None => self.admission.enter(0)?,
                };
                room.grow_to(packed.bytes.len())?;
                let message = packed.open(&mut room).await?;
                return Ok(Some((message, room)));
            }
            match self.frame().await? {
                Some(piece) => self.arrive(piece)?,
                None if self.messages.held == 0 => return Ok(None),
                None => return Err(broken_off(self.messages.held)),
            }
        }
    }

    fn arrive(&mut self, piece: Bytes) -> Result<(), Failure> {
        let room = match &mut self.arriving {
            Some(room) => room,
            none => none.insert(self.admission.enter(0)?),
        };
        room.take(piece.len())?;
        self.messages.push(piece)
    }

    /// The next bytes; `None` at the end. Trailers mean nothing here.
    async fn frame(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            let frame = if self.messages.held == 0 {
                self.body.frame().await
            } else {
                let frame = tokio::time::timeout(self.patience, self.body.frame()).await;
                frame.map_err(|_| too_slow())?
            };
            match frame {
                None => return Ok(None),
                Some(Err(_)) => return Err(Failure::new(Code::Cancelled, "the client left")),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

fn too_slow() -> Failure {
    Failure::new(
        Code::RequestTimeout,
        "the message came too slowly: nothing more of it arrived in time",
    )
}

/// The bytes of messages on their way out, written one after another without being joined.
pub(super) type Pieces = VecDeque<Bytes>;

/// A message behind its prefix.
///
/// # Errors
/// `output_mismatch` for a message of 4 GiB or more.
pub(super) async fn message(message: &impl Message, head: &Head) -> Result<Pieces, Failure> {
    let parts = Parts {
        wrapper: None,
        message,
        raw: (0, &[]),
    };
    parts.write(head).await
}

/// A message whose last field is a list of large pieces of bytes, which are not copied for it.
pub(super) struct Parts<'a, M> {
    /// The field of another message that this one is, if it is one.
    pub(super) wrapper: Option<u32>,
    /// All but the pieces.
    pub(super) message: &'a M,
    /// The number of the field, and the pieces.
    pub(super) raw: (u32, &'a [Bytes]),
}

impl<M: Message> Parts<'_, M> {
    /// The message behind its prefix, compressed where the caller can read that and it is worth it. Lets others have their turn.
    ///
    /// # Errors
    /// As [`message`].
    pub(super) async fn write(&self, head: &Head) -> Result<Pieces, Failure> {
        let (length, pieces) = self.plain()?;
        match head.answers {
            Some(encoding) if length >= COMPRESSED_FROM => {
                Box::pin(compressed(encoding, pieces)).await
            }
            _ => Ok(pieces),
        }
    }

    /// The length of the message, and its bytes behind the prefix.
    fn plain(&self) -> Result<(usize, Pieces), Failure> {
        let (tag, raw) = self.raw;
        let raw_field =
            |bytes: &Bytes| key_len(tag) + encoded_len_varint(bytes.len() as u64) + bytes.len();
        let length = self.message.encoded_len() + raw.iter().map(raw_field).sum::<usize>();
        let outer = match self.wrapper {
            Some(tag) => key_len(tag) + encoded_len_varint(length as u64),
            None => 0,
        };
        let total = u32::try_from(outer + length).map_err(|_| too_long())?;
        let small: usize = raw
            .iter()
            .map(Bytes::len)
            .filter(|len| *len <= JOINED)
            .sum();
        let room = PREFIX + outer + self.message.encoded_len() + small + 8 * raw.len();
        let mut out = Vec::with_capacity(room);
        out.push(0);
        out.extend_from_slice(&total.to_be_bytes());
        if let Some(tag) = self.wrapper {
            encode_key(tag, WireType::LengthDelimited, &mut out);
            encode_varint(length as u64, &mut out);
        }
        self.message.encode_raw(&mut out);
        let mut pieces = Pieces::new();
        for bytes in raw {
            encode_key(tag, WireType::LengthDelimited, &mut out);
            encode_varint(bytes.len() as u64, &mut out);
            if bytes.len() <= JOINED {
                out.extend_from_slice(bytes);
            } else {
                pieces.push_back(mem::take(&mut out).into());
                pieces.push_back(bytes.clone());
            }
        }
        if !out.is_empty() {
            pieces.push_back(out.into());
        }
        Ok((outer + length, pieces))
    }
}

async fn compressed(encoding: Encoding, mut pieces: Pieces) -> Result<Pieces, Failure> {
    if let Some(first) = pieces.front_mut() {
        *first = first.slice(PREFIX.min(first.len())..);
    }
    let mut compressed = encoding.compress(&pieces).await;
    let length = compressed.iter().map(Bytes::len).sum::<usize>();
    let length = u32::try_from(length).map_err(|_| too_long())?;
    let mut prefix = Vec::with_capacity(PREFIX);
    prefix.push(1);
    prefix.extend_from_slice(&length.to_be_bytes());
    compressed.push_front(prefix.into());
    Ok(compressed)
}

fn too_long() -> Failure {
    Failure::new(
        Code::OutputMismatch,
        "the answer is larger than the 4 GiB that a message of gRPC can have",
    )
}

/// The answer to a call behind its head: messages, and the status.
#[derive(Default)]
pub(crate) struct Body {
    /// What is to be written next.
    pieces: Pieces,
    rest: Rest,
    /// What is to be there for as long as the answer is.
    guard: Option<Box<dyn Any + Send>>,
}

/// What follows the pieces.
#[derive(Default)]
enum Rest {
    /// More messages, and in the end a status. Dropping them cancels what makes them.
    Messages(BoxStream<'static, Result<Pieces, Failure>>),
    Status(HeaderMap),
    #[default]
    Nothing,
}

impl Body {
    /// One message, of a call that was answered.
    pub(super) fn whole(pieces: Pieces) -> Body {
        Body {
            pieces,
            rest: Rest::Status(status::ok()),
            guard: None,
        }
    }

    /// Messages as they are made. The status is that of the first failure.
    pub(super) fn stream(messages: BoxStream<'static, Result<Pieces, Failure>>) -> Body {
        Body {
            pieces: Pieces::new(),
            rest: Rest::Messages(messages),
            guard: None,
        }
    }

    /// Drops the guard with the answer.
    pub(crate) fn holding(mut self, guard: impl Any + Send) -> Body {
        self.guard = Some(Box::new(guard));
        self
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Body")
            .field("pieces", &self.pieces.len())
            .finish_non_exhaustive()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let body = self.get_mut();
        loop {
            if let Some(piece) = body.pieces.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            let status = match &mut body.rest {
                Rest::Messages(messages) => match ready!(messages.as_mut().poll_next(cx)) {
                    Some(Ok(pieces)) => {
                        body.pieces = pieces;
                        continue;
                    }
                    Some(Err(failure)) => status::trailers(&failure),
                    None => status::ok(),
                },
                Rest::Status(status) => mem::take(status),
                Rest::Nothing => return Poll::Ready(None),
            };
            body.rest = Rest::Nothing;
            return Poll::Ready(Some(Ok(Frame::trailers(status))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_empty() && matches!(self.rest, Rest::Nothing)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::grpc::generated::{ModelInferResponse, ModelStreamInferResponse};

    fn messages(limit: usize) -> Messages {
        Messages::new(&Head::default(), limit)
    }

    fn prefixed(flag: u8, message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).unwrap();
        [&[flag], &length.to_be_bytes()[..], message].concat()
    }

    fn opened(packed: Packed) -> Bytes {
        assert!(packed.encoding.is_none());
        packed.bytes
    }

    #[test]
    fn a_length_is_compared_before_anything_comes_for_it() {
        let mut messages = messages(10);
        messages.push(Bytes::from_static(&[0, 0, 0])).unwrap();
        messages.push(Bytes::from_static(&[0, 10])).unwrap();
        assert!(messages.take().unwrap().is_none());
        messages.push(Bytes::from_static(&[7; 10])).unwrap();
        assert_eq!(opened(messages.take().unwrap().unwrap()).len(), 10);
        let too_large = messages.push(Bytes::from_static(&[0, 0, 0, 0, 11]));
        assert_eq!(too_large.unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn the_end_of_what_is_joined_is_aligned() {
        let message: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        for piece in [999, 16_384] {
            let mut messages = messages(1 << 20);
            for piece in prefixed(0, &message).chunks(piece) {
                messages.push(Bytes::copy_from_slice(piece)).unwrap();
            }
            let joined = opened(messages.only().unwrap());
            assert_eq!(joined, message);
            assert_eq!(joined.as_ptr_range().end.addr() % memory::ALIGNMENT, 0);
        }
    }

    /// Memory of a connection, in which a piece lies.
    struct Read {
        bytes: [u8; COPIED],
        _kept: Arc<()>,
    }

    impl AsRef<[u8]> for Read {
        fn as_ref(&self) -> &[u8] {
            &self.bytes
        }
    }

    #[test]
    fn small_pieces_keep_no_memory_of_the_connection() {
        const SMALL: usize = 10_000;
        let mut messages = messages(1 << 20);
        let reads = Arc::new(());
        let push = |messages: &mut Messages, bytes: usize| {
            let read = Bytes::from_owner(Read {
                bytes: [0; COPIED],
                _kept: Arc::clone(&reads),
            });
            messages.push(read.slice(..bytes)).unwrap();
            drop(read);
            Arc::strong_count(&reads) - 1
        };
        let length = u32::try_from(2 * SMALL + COPIED).unwrap().to_be_bytes();
        messages
            .push(Bytes::copy_from_slice(&[&[0], &length[..]].concat()))
            .unwrap();
        for _ in 0..SMALL {
            assert_eq!(push(&mut messages, 1), 0);
        }
        assert_eq!(push(&mut messages, COPIED), 1);
        for _ in 0..SMALL {
            assert_eq!(push(&mut messages, 1), 1);
        }
        assert_eq!(messages.pieces.len(), 2);
        push(&mut messages, 7);
        let message = opened(messages.take().unwrap().unwrap());
        assert_eq!((message.len(), messages.held), (2 * SMALL + COPIED, 7));
        assert!(messages.tail.capacity() < 100);
    }

    #[test]
    fn flags_must_be_ones_that_are_meant() {
        for (flag, accepted) in [(0, true), (1, false), (2, false), (255, false)] {
            let mut messages = messages(10);
            let pushed = messages.push(prefixed(flag, b"abc").into());
            assert_eq!(pushed.is_ok(), accepted, "{flag}");
        }
    }

    #[test]
    fn one_message_is_one() {
        let rows: [(&[&[u8]], bool); 5] = [
            (&[b"abc"], true),
            (&[b""], true),
            (&[], false),
            (&[b"abc", b"d"], false),
            (&[b"abc", b""], false),
        ];
        for (parts, accepted) in rows {
            let mut messages = messages(10);
            let bytes = parts.iter().flat_map(|part| prefixed(0, part)).collect();
            messages.push(bytes).unwrap();
            assert_eq!(messages.only().is_ok(), accepted, "{parts:?}");
        }
    }

    fn whole(pieces: Pieces) -> Vec<u8> {
        pieces.into_iter().flatten().collect()
    }

    proptest! {
        #[test]
        fn messages_come_whole_however_they_are_cut(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..6000), 0..5),
            cuts in prop::collection::vec(1..5000_usize, 1..20),
        ) {
            let bytes: Bytes = parts.iter().flat_map(|part| prefixed(0, part)).collect();
            let mut messages = messages(6000);
            let mut came = Vec::new();
            let (mut at, mut cuts) = (0, cuts.into_iter().cycle());
            while at < bytes.len() {
                let end = bytes.len().min(at + cuts.next().unwrap());
                messages.push(bytes.slice(at..end)).unwrap();
                at = end;
                while let Some(message) = messages.take().unwrap() {
                    came.push(opened(message).to_vec());
                }
            }
            prop_assert_eq!(came, parts);
            prop_assert_eq!(messages.held, 0);
        }

        /// What is written in pieces is what the generated code would have written, and small pieces are joined.
        #[test]
        fn pieces_make_up_the_message(
            raw in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..10_000), 0..4),
            wrapped in any::<bool>(),
            encoding in prop::sample::select(vec![None, Some(Encoding::Gzip), Some(Encoding::Deflate)]),
        ) {
            let raw: Vec<Bytes> = raw.into_iter().map(Bytes::from).collect();
            let message = ModelInferResponse { model_name: "m".to_owned(), ..Default::default() };
            let expected = ModelInferResponse { raw_output_contents: raw.clone(), ..message.clone() };
            let head = Head { answers: encoding, encoding, ..Head::default() };
            let parts = Parts { wrapper: wrapped.then_some(2), message: &message, raw: (6, &raw) };
            let mut messages = Messages::new(&head, 100_000);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let pieces = runtime.block_on(parts.write(&head)).unwrap();
            messages.push(whole(pieces).into()).unwrap();
            let packed = messages.only().unwrap();
            let mut room = Admission::new(1 << 20).enter(0).unwrap();
            let bytes = runtime.block_on(packed.open(&mut room)).unwrap();
            let got = match wrapped {
                true => ModelStreamInferResponse::decode(bytes).unwrap().infer_response.unwrap(),
                false => ModelInferResponse::decode(bytes).unwrap(),
            };
            prop_assert_eq!(got, expected);
        }
    }
}
