//! The frames of a WebSocket (RFC 6455) as the server reads and writes them: strictly, without extensions, and with nothing set aside for
//! what a frame only announces.
//!
//! What is wrong with a frame is found in its head, before its payload has come; what is wrong with a text, at the byte where it is wrong.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use sha1::{Digest, Sha1};

/// The version of the protocol, as `Sec-WebSocket-Version` names it.
pub const VERSION: &str = "13";

/// Most bytes in the payload of a control frame.
const CONTROL_MAX: usize = 125;

/// What a client says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message that is known to be UTF-8.
    Text(Bytes),
    /// A message of any bytes.
    Binary(Bytes),
    /// To be answered with a pong of the same payload.
    Ping(Bytes),
    /// An answer to a ping, or unasked for.
    Pong,
    /// The client closes, for the reason that this code says, if any. Nothing follows.
    Close(Option<u16>),
}

/// Why a connection cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The bytes are not what a client may send.
    Malformed(&'static str),
    /// A text is not UTF-8.
    NotUtf8,
    /// A message is larger than it may be.
    TooLarge,
}

impl Fault {
    /// The code that the connection is closed with.
    pub const fn close_code(self) -> u16 {
        match self {
            Fault::Malformed(_) => close::PROTOCOL_ERROR,
            Fault::NotUtf8 => close::NOT_UTF8,
            Fault::TooLarge => close::TOO_LARGE,
        }
    }

    /// The same for people.
    pub const fn reason(self) -> &'static str {
        match self {
            Fault::Malformed(what) => what,
            Fault::NotUtf8 => "the text is not UTF-8",
            Fault::TooLarge => "the message is too large",
        }
    }
}

/// The codes that the server closes with.
pub mod close {
    /// The client closed, and gave no other code.
    pub const NORMAL: u16 = 1000;
    /// The server shuts down.
    pub const GOING_AWAY: u16 = 1001;
    /// The frames are not what a client may send.
    pub const PROTOCOL_ERROR: u16 = 1002;
    /// A text is not UTF-8.
    pub const NOT_UTF8: u16 = 1007;
    /// The client does what is allowed too slowly.
    pub const POLICY: u16 = 1008;
    /// A message is larger than it may be.
    pub const TOO_LARGE: u16 = 1009;
    /// The server failed.
    pub const INTERNAL: u16 = 1011;
    /// The server holds as much as it may.
    pub const TRY_AGAIN: u16 = 1013;
}

/// Reads what a client sends.
///
/// ```
/// use bytes::BytesMut;
/// use jitney_server::protocol::frames::{Decoder, Event};
///
/// let mut decoder = Decoder::new(1024);
/// let mut bytes = BytesMut::from(&b"\x81\x82\x00\x00\x00\x00hi\x81"[..]);
/// assert_eq!(decoder.next(&mut bytes), Ok(Some(Event::Text("hi".into()))));
/// assert_eq!(decoder.next(&mut bytes), Ok(None));
/// ```
#[derive(Debug)]
pub struct Decoder {
    /// Most bytes in one message.
    limit: usize,
    frame: Option<Frame>,
    /// What has come of the message that is not finished.
    message: BytesMut,
    kind: Kind,
    /// So much of a text is known to be UTF-8.
    checked: usize,
    control: BytesMut,
}

/// The message that goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// There is none. => Text, Binary
    Idle,
    /// => Idle
    Text,
    /// => Idle
    Binary,
}

/// A frame whose payload is on its way.
#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    last: bool,
    left: usize,
    mask: [u8; 4],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Decoder {
    /// A decoder of messages of at most so many bytes each.
    pub fn new(limit: usize) -> Decoder {
        Decoder {
            limit,
            frame: None,
            message: BytesMut::new(),
            kind: Kind::Idle,
            checked: 0,
            control: BytesMut::new(),
        }
    }

    /// Takes from the front of the bytes what belongs to the next event; `None` when it takes more bytes.
    ///
    /// # Errors
    /// [`Fault`]. Nothing can be read after it.
    pub fn next(&mut self, bytes: &mut BytesMut) -> Result<Option<Event>, Fault> {
        loop {
            if self.frame.is_none() {
                let Some(frame) = self.head(bytes)? else {
                    return Ok(None);
                };
                self.frame = Some(frame);
            }
            if !self.payload(bytes)? {
                return Ok(None);
            }
            if let Some(event) = self.end_of_frame()? {
                return Ok(Some(event));
            }
        }
    }

    /// How many bytes of a message are held that is not finished.
    pub fn held(&self) -> usize {
        self.message.len()
    }

    /// Whether a message or a frame has begun and is not finished.
    pub fn is_within(&self) -> bool {
        self.frame.is_some() || self.kind != Kind::Idle
    }

    /// Reads the head of a frame, if all of it is there.
    fn head(&self, bytes: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        let [first, second, rest @ ..] = &**bytes else {
            return Ok(None);
        };
        let (opcode, last) = self.first_byte(*first)?;
        if second & 0x80 == 0 {
            return Err(Fault::Malformed("a frame is not masked"));
        }
        let short = usize::from(second & 0x7f);
        if opcode.is_control() && short > CONTROL_MAX {
            return Err(Fault::Malformed(
                "a control frame has more than 125 bytes of payload",
            ));
        }
        let wide = match short {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if rest.len() < wide {
            return Ok(None);
        }
        let (length, rest) = rest.split_at(wide);
        let length = match wide {
            0 => short,
            _ => long_length(length)?,
        };
        if !opcode.is_control() && length > self.limit.saturating_sub(self.message.len()) {
            return Err(Fault::TooLarge);
        }
        let Some(mask) = rest.first_chunk() else {
            return Ok(None);
        };
        let frame = Frame {
            opcode,
            last,
            left: length,
            mask: *mask,
        };
        bytes.advance(2 + wide + 4);
        Ok(Some(frame))
    }

    fn first_byte(&self, byte: u8) -> Result<(Opcode, bool), Fault> {
        let last = byte & 0x80 != 0;
        if byte & 0x70 != 0 {
            return Err(Fault::Malformed("a reserved bit is set"));
        }
        let opcode =
            Opcode::of(byte & 0x0f).ok_or(Fault::Malformed("a frame has an unknown opcode"))?;
        let within = self.kind != Kind::Idle;
        match opcode {
            Opcode::Continuation if !within => Err(Fault::Malformed(
                "a continuation follows no beginning of a message",
            )),
            Opcode::Text | Opcode::Binary if within => Err(Fault::Malformed(
                "a message begins before the one before it has ended",
            )),
            _ if opcode.is_control() && !last => {
                Err(Fault::Malformed("a control frame is fragmented"))
            }
            _ => Ok((opcode, last)),
        }
    }

    /// Takes what there is of the frame's payload; whether that is all of it.
    fn payload(&mut self, bytes: &mut BytesMut) -> Result<bool, Fault> {
        let Some(frame) = &mut self.frame else {
            return Ok(true);
        };
        let mut piece = bytes.split_to(frame.left.min(bytes.len()));
        frame.left -= piece.len();
        unmask(&mut piece, frame.mask);
        frame.mask.rotate_left(piece.len() % 4);
        let done = frame.left == 0;
        if frame.opcode.is_control() {
            self.control.extend_from_slice(&piece);
            return Ok(done);
        }
        match frame.opcode {
            Opcode::Text => self.kind = Kind::Text,
            Opcode::Binary => self.kind = Kind::Binary,
            _ => (),
        }
        if self.message.is_empty() {
            // What came in one piece is not copied.
            self.message = piece;
        } else {
            self.message.extend_from_slice(&piece);
        }
        if self.kind == Kind::Text {
            self.check_text()?;
        }
        Ok(done)
    }

    /// Checks what has come of a text; a character that is cut off may be finished by what follows.
    fn check_text(&mut self) -> Result<(), Fault> {
        match str::from_utf8(&self.message[self.checked..]) {
            Ok(_) => self.checked = self.message.len(),
            Err(error) if error.error_len().is_none() => self.checked += error.valid_up_to(),
            Err(_) => return Err(Fault::NotUtf8),
        }
        Ok(())
    }

    fn end_of_frame(&mut self) -> Result<Option<Event>, Fault> {
        let Some(frame) = self.frame.take() else {
            return Ok(None);
        };
        let control = match frame.opcode {
            Opcode::Close => return close_event(&self.control.split()).map(Some),
            Opcode::Ping => Event::Ping(self.control.split().freeze()),
            Opcode::Pong => {
                self.control.clear();
                Event::Pong
            }
            _ if frame.last => return self.end_of_message().map(Some),
            _ => return Ok(None),
        };
        Ok(Some(control))
    }

    fn end_of_message(&mut self) -> Result<Event, Fault> {
        let message = std::mem::take(&mut self.message);
        let checked = std::mem::take(&mut self.checked);
        match std::mem::replace(&mut self.kind, Kind::Idle) {
            Kind::Text if checked < message.len() => Err(Fault::NotUtf8),
            Kind::Text => Ok(Event::Text(message.freeze())),
            _ => Ok(Event::Binary(message.freeze())),
        }
    }
}

impl Opcode {
    const fn of(bits: u8) -> Option<Opcode> {
        Some(match bits {
            0 => Opcode::Continuation,
            1 => Opcode::Text,
            2 => Opcode::Binary,
            8 => Opcode::Close,
            9 => Opcode::Ping,
            10 => Opcode::Pong,
            _ => return None,
        })
    }

    const fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// The length that 126 or 127 stand for: in as few bytes as will do, and without the highest bit.
fn long_length(bytes: &[u8]) -> Result<usize, Fault> {
    let length = bytes
        .iter()
        .fold(0_u64, |length, byte| length << 8 | u64::from(*byte));
    let least = if bytes.len() == 2 { 126 } else { 1 << 16 };
    if length < least || length >> 63 != 0 {
        return Err(Fault::Malformed(
            "a frame's length is not written as it must be",
        ));
    }
    usize::try_from(length).map_err(|_| Fault::TooLarge)
}

/// Checks the payload of a close frame: nothing, or a code that may be sent and a reason in UTF-8.
fn close_event(payload: &[u8]) -> Result<Event, Fault> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(Event::Close(None)),
            _ => Err(Fault::Malformed("a close frame has half a code")),
        };
    };
    let code = u16::from_be_bytes(*code);
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(Fault::Malformed(
            "a close frame has a code that may not be sent",
        ));
    }
    str::from_utf8(reason).map_err(|_| Fault::NotUtf8)?;
    Ok(Event::Close(Some(code)))
}

fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = payload.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask) {
        *byte ^= mask;
    }
}

/// Writes a text message in one frame.
pub fn text(out: &mut Vec<u8>, message: &[u8]) {
    frame(out, 0x81, message);
}

/// Writes a message of any bytes in one frame, of which the pieces follow each other.
pub fn binary<'p>(out: &mut Vec<u8>, pieces: impl Iterator<Item = &'p [u8]> + Clone) {
    head(out, 0x82, pieces.clone().map(<[u8]>::len).sum());
    pieces.for_each(|piece| out.put_slice(piece));
}

/// Writes a ping.
pub fn ping(out: &mut Vec<u8>) {
    frame(out, 0x89, b"");
}

/// Writes the answer to a ping.
pub fn pong(out: &mut Vec<u8>, payload: &[u8]) {
    frame(out, 0x8a, payload);
}

/// Writes the last frame of a connection. A reason that is too long for one is cut.
pub fn closing(out: &mut Vec<u8>, code: u16, reason: &str) {
    let reason = &reason[..reason.floor_char_boundary(CONTROL_MAX - 2)];
    head(out, 0x88, 2 + reason.len());
    out.put_u16(code);
    out.put_slice(reason.as_bytes());
}

fn frame(out: &mut Vec<u8>, first: u8, payload: &[u8]) {
    head(out, first, payload.len());
    out.put_slice(payload);
}

fn head(out: &mut Vec<u8>, first: u8, length: usize) {
    out.reserve(length + 10);
    out.put_u8(first);
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(length @ ..=125), _) => out.put_u8(length),
        (_, Ok(length)) => {
            out.put_u8(126);
            out.put_u16(length);
        }
        _ => {
            out.put_u8(127);
            out.put_u64(length as u64);
        }
    }
}

/// What `Sec-WebSocket-Accept` must say to a client that sent this key; `None` for what is no key.
pub fn accept(key: &[u8]) -> Option<String> {
    const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    let nonce = STANDARD.decode(key).ok().filter(|nonce| nonce.len() == 16);
    nonce?;
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    Some(STANDARD.encode(digest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client writes it.
    fn sent(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut bytes = Vec::new();
        head(&mut bytes, first, payload.len());
        bytes[1] |= 0x80;
        bytes.extend(mask);
        let masked = payload.iter().zip(mask.iter().cycle());
        bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
        bytes
    }

    fn read(bytes: &[u8]) -> (Vec<Event>, Option<Fault>) {
        in_pieces(bytes, &[bytes.len().max(1)])
    }

    fn in_pieces(bytes: &[u8], cuts: &[usize]) -> (Vec<Event>, Option<Fault>) {
        let mut decoder = Decoder::new(300);
        let (mut events, mut input, mut rest) = (Vec::new(), BytesMut::new(), bytes);
        let mut cuts = cuts.iter().cycle();
        loop {
            match decoder.next(&mut input) {
                Ok(Some(event)) => events.push(event),
                Err(fault) => return (events, Some(fault)),
                Ok(None) if rest.is_empty() => return (events, None),
                Ok(None) => {
                    let (piece, after) = rest.split_at(rest.len().min(*cuts.next().unwrap()));
                    input.extend_from_slice(piece);
                    rest = after;
                }
            }
        }
    }

    fn text_event(text: &'static str) -> Event {
        Event::Text(text.into())
    }

    #[test]
    fn messages_are_joined_around_control_frames() {
        let bytes = [
            sent(0x01, b"a"),
            sent(0x89, b"are you there"),
            sent(0x00, "\u{e4}".as_bytes()),
            sent(0x8a, b""),
            sent(0x80, b""),
            sent(0x82, &[0, 255]),
            sent(0x81, &[b'x'; 200]),
            sent(0x88, b"\x03\xe8bye"),
        ];
        let expected = vec![
            Event::Ping("are you there".into()),
            Event::Pong,
            text_event("a\u{e4}"),
            Event::Binary(Bytes::from_static(&[0, 255])),
            Event::Text(vec![b'x'; 200].into()),
            Event::Close(Some(1000)),
        ];
        assert_eq!(read(&bytes.concat()), (expected, None));
    }

    #[test]
    fn what_is_wrong_is_found_as_soon_as_it_is_there() {
        let malformed = 1002;
        let rows: &[(&str, Vec<u8>, u16)] = &[
            ("not masked", vec![0x81, 0x05], malformed),
            ("the first reserved bit", vec![0xc1, 0x80], malformed),
            ("the second", vec![0xa1, 0x80], malformed),
            ("the third", vec![0x91, 0x80], malformed),
            ("an unknown data frame", vec![0x83, 0x80], malformed),
            ("an unknown control frame", vec![0x8b, 0x80], malformed),
            ("a fragmented ping", vec![0x09, 0x80], malformed),
            ("a large ping", vec![0x89, 0xfe], malformed),
            ("nothing to continue", vec![0x80, 0x80], malformed),
            (
                "a text within a text",
                [sent(0x01, b"a"), sent(0x81, b"b")].concat(),
                malformed,
            ),
            (
                "126 in more bytes than needed",
                vec![0x81, 0xfe, 0, 125],
                malformed,
            ),
            (
                "127 in more bytes than needed",
                vec![0x81, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                malformed,
            ),
            (
                "the highest bit of a length",
                vec![0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0],
                malformed,
            ),
            ("half a code", sent(0x88, b"\x03"), malformed),
            (
                "a code that means that there was none",
                sent(0x88, &1005_u16.to_be_bytes()),
                malformed,
            ),
            (
                "a code of nobody",
                sent(0x88, &999_u16.to_be_bytes()),
                malformed,
            ),
            (
                "a code beyond all",
                sent(0x88, &5000_u16.to_be_bytes()),
                malformed,
            ),
            (
                "a reason that is no text",
                sent(0x88, b"\x03\xe8\xff"),
                1007,
            ),
            ("too large", vec![0x82, 0xfe, 0x01, 0x2d], 1009),
            (
                "far too large",
                vec![0x82, 0xff, 0, 0, 0, 0, 4, 0, 0, 0],
                1009,
            ),
            (
                "too large together",
                [sent(0x02, &[0; 200]), vec![0x00, 0xe5]].concat(),
                1009,
            ),
            ("no text", vec![0x81, 0x8a, 0, 0, 0, 0, b'a', 0xff], 1007),
            ("a text that is cut off", sent(0x81, b"a\xc3"), 1007),
            ("a surrogate", sent(0x81, b"\xed\xa0\x80"), 1007),
        ];
        for (what, bytes, code) in rows {
            let (events, fault) = read(bytes);
            assert_eq!(fault.map(Fault::close_code), Some(*code), "{what}");
            assert_eq!(events, [], "{what}");
        }
    }

    #[test]
    fn codes_that_may_be_sent() {
        for code in [1000, 1001, 1002, 1003, 1007, 1011, 1014, 3000, 4999_u16] {
            let close = sent(0x88, &code.to_be_bytes());
            assert_eq!(read(&close), (vec![Event::Close(Some(code))], None));
        }
        assert_eq!(read(&sent(0x88, b"")), (vec![Event::Close(None)], None));
    }

    #[test]
    fn the_limit_is_for_a_message() {
        let full = sent(0x82, &[7; 300]);
        let twice = [full.clone(), full].concat();
        assert_eq!(read(&twice).0.len(), 2);
    }

    #[test]
    fn frames_are_written_in_their_shortest_form() {
        let rows = [(0, 2), (125, 2), (126, 4), (65_535, 4), (65_536, 10)];
        for (length, head) in rows {
            let mut out = Vec::new();
            text(&mut out, &vec![b'a'; length]);
            assert_eq!(out.len(), head + length);
        }
        let mut out = Vec::new();
        binary(&mut out, [&b"ab"[..], b"c"].into_iter());
        assert_eq!(out, b"\x82\x03abc");
        let mut out = Vec::new();
        closing(&mut out, 1001, &"\u{e4}".repeat(80));
        assert_eq!((out.len(), out[1]), (2 + 124, 124));
        assert_eq!(str::from_utf8(&out[4..]).map(str::len), Ok(122));
    }

    #[test]
    fn keys_are_answered_as_the_standard_says() {
        let accepted = accept(b"dGhlIHNhbXBsZSBub25jZQ==");
        assert_eq!(accepted.as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
        for key in [&b""[..], b"dGhlIHNhbXBsZSBub25jZQ", b"AAAA", b"not base64"] {
            assert_eq!(accept(key), None);
        }
    }

    proptest! {
        /// However the bytes are cut, the same is read, and nothing makes it panic.
        #[test]
        fn cuts_do_not_matter(
            frames in prop::collection::vec(
                (prop::sample::select(vec![0x01_u8, 0x81, 0x00, 0x80, 0x02, 0x82, 0x89, 0x8a, 0x88, 0x83]), "[a-z\u{e4}\u{20ac}]{0,40}"),
                0..6,
            ),
            noise in prop::collection::vec(any::<u8>(), 0..8),
            cuts in prop::collection::vec(1_usize..20, 1..20),
        ) {
            let mut bytes: Vec<u8> = frames.iter().flat_map(|(first, payload)| sent(*first, payload.as_bytes())).collect();
            bytes.extend(noise);
            prop_assert_eq!(in_pieces(&bytes, &cuts), read(&bytes));
        }
    }
}
