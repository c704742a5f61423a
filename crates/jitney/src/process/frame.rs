//! The frames of the channel.

use bytes::Bytes;

/// The length of a frame's header.
pub(super) const HEADER: usize = 32;
/// The longest body of a frame.
pub(super) const BODY_MAX: usize = 1 << 20;
/// The longest payload that travels inside a frame; longer ones go through a region.
pub(super) const INLINE_MAX: usize = 32 << 10;

/// The header says that a descriptor came with its first byte: the sender's new region for the slot.
pub(super) const DESCRIPTOR: u8 = 1;
/// The header says that the payload lies in the sender's region for the slot.
pub(super) const REGION: u8 = 2;

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// To the child: the first frame.
    Hello = 1,
    /// To the child: a run.
    Run = 2,
    /// To the child: leave.
    Close = 3,
    /// To the child: a stream has credit for so many more replies.
    Credit = 4,
    /// To the child: nobody reads the stream any more.
    Stop = 5,
    /// From the child: it can serve.
    Ready = 65,
    /// From the child: it cannot.
    Failed = 66,
    /// From the child: the reply to a run.
    Done = 67,
    /// From the child: one reply of a stream. A payload that is not in the frame has a region of its own, which comes with it.
    Chunk = 68,
    /// From the child: the end of a stream.
    End = 69,
}

/// What precedes every body. Little-endian: length of the body u32, kind u8, flags u8, slot u16, id u64, a u64, b u64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) body: usize,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    pub(super) slot: u16,
    pub(super) id: u64,
    /// The length of the payload.
    pub(super) a: u64,
    pub(super) b: u64,
}

/// A frame from a child.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) header: Header,
    pub(super) body: Bytes,
}

/// Puts frames together from what arrives, however it is cut.
#[derive(Debug)]
pub(super) struct Inbox {
    /// What was received, from `start` to `end`; the rest is room.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Header {
    /// A header without a body, a payload or anything else.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            body: 0,
            kind,
            flags: 0,
            slot: 0,
            id: 0,
            a: 0,
            b: 0,
        }
    }

    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0..4].copy_from_slice(&u32::try_from(self.body).unwrap_or(u32::MAX).to_le_bytes());
        bytes[4] = self.kind as u8;
        bytes[5] = self.flags;
        bytes[6..8].copy_from_slice(&self.slot.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.a.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.b.to_le_bytes());
        bytes
    }

    /// Reads a header that a child sent.
    fn decode(bytes: &[u8; HEADER]) -> Result<Self, String> {
        let [l0, l1, l2, l3, kind, flags, s0, s1, numbers @ ..] = bytes;
        let number = |at: usize| {
            let mut eight = [0; 8];
            eight.copy_from_slice(&numbers[at..at + 8]);
            u64::from_le_bytes(eight)
        };
        let header = Self {
            body: u32::from_le_bytes([*l0, *l1, *l2, *l3]) as usize,
            kind: Kind::from_child(*kind)?,
            flags: *flags,
            slot: u16::from_le_bytes([*s0, *s1]),
            id: number(0),
            a: number(8),
            b: number(16),
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<(), String> {
        if self.body > BODY_MAX {
            return Err(format!(
                "a body of {} bytes, where {BODY_MAX} is the most",
                self.body
            ));
        }
        if self.flags & !(DESCRIPTOR | REGION) != 0 {
            return Err(format!("unknown flags {:#x}", self.flags));
        }
        let has_payload = matches!(self.kind, Kind::Done | Kind::Chunk | Kind::End);
        if has_payload && !self.has(REGION) && self.a > self.body as u64 {
            return Err(format!(
                "a payload of {} bytes in a body of {}",
                self.a, self.body
            ));
        }
        let allowed = match self.kind {
            Kind::Done => true,
            Kind::Chunk => self.has(REGION) == self.has(DESCRIPTOR),
            _ => self.flags == 0,
        };
        if !allowed {
            return Err(format!("flags {:#x} on a frame that has none", self.flags));
        }
        Ok(())
    }
}

impl Frame {
    /// The head of the body, and the payload behind it.
    pub(super) fn split(self) -> (Bytes, Bytes) {
        let mut meta = self.body;
        let payload = usize::try_from(self.header.a).unwrap_or(usize::MAX);
        let payload = meta.split_off(meta.len() - payload.min(meta.len()));
        (meta, payload)
    }
}

impl Kind {
    fn from_child(byte: u8) -> Result<Self, String> {
        match byte {
            65 => Ok(Self::Ready),
            66 => Ok(Self::Failed),
            67 => Ok(Self::Done),
            68 => Ok(Self::Chunk),
            69 => Ok(Self::End),
            _ => Err(format!("a frame of unknown kind {byte}")),
        }
    }
}

impl Inbox {
    /// Room for many small frames, or the beginning of a large one.
    const ROOM: usize = 64 << 10;

    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; Self::ROOM],
            start: 0,
            end: 0,
        }
    }

    /// Where to put what arrives next. Never empty.
    pub(super) fn room(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        }
        if self.buffer.len() - self.end < HEADER || self.end == self.buffer.len() {
            self.make_room();
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were put there.
    pub(super) fn filled(&mut self, bytes: usize) {
        self.end = (self.end + bytes).min(self.buffer.len());
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// What came cannot be a frame; nothing that follows can be understood.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, String> {
        let waiting = &self.buffer[self.start..self.end];
        let Some((head, rest)) = waiting.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let header = Header::decode(head)?;
        let Some(body) = rest.get(..header.body) else {
            return Ok(None);
        };
        let body = Bytes::copy_from_slice(body);
        self.start += HEADER + header.body;
        Ok(Some(Frame { header, body }))
    }

    /// Moves what waits to the front; makes the buffer longer if that is not enough, up to the longest frame.
    fn make_room(&mut self) {
        self.buffer.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.end + HEADER > self.buffer.len() {
            let longer = (self.buffer.len() * 2).min(HEADER + BODY_MAX + HEADER);
            self.buffer.resize(longer, 0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn done(body: &[u8], a: u64) -> Vec<u8> {
        let header = Header {
            body: body.len(),
            slot: 3,
            id: 77,
            a,
            b: 5,
            ..Header::new(Kind::Done)
        };
        [&header.encode(), body].concat()
    }

    /// All frames of what arrives in these pieces.
    fn read(bytes: &[u8], mut piece: impl FnMut() -> usize) -> Result<Vec<Frame>, String> {
        let mut inbox = Inbox::new();
        let mut frames = Vec::new();
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = inbox.room();
            assert!(!room.is_empty());
            let taken = piece().clamp(1, room.len().min(rest.len()));
            room[..taken].copy_from_slice(&rest[..taken]);
            inbox.filled(taken);
            rest = &rest[taken..];
            while let Some(frame) = inbox.next()? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn the_layout_is_the_agreed_one() {
        let header = Header {
            body: 0x0102,
            kind: Kind::Run,
            flags: 3,
            slot: 0x0405,
            id: 6,
            a: 7,
            b: 8,
        };
        let mut expected = vec![2, 1, 0, 0, 2, 3, 5, 4];
        for number in [6_u64, 7, 8] {
            expected.extend(number.to_le_bytes());
        }
        assert_eq!(header.encode().to_vec(), expected);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        let set = |at: usize, value: u8| {
            let mut bytes = done(b"abc", 1);
            bytes[at] = value;
            bytes
        };
        let table = [
            (set(4, 2), "unknown kind 2"),
            (set(4, 99), "unknown kind 99"),
            (set(3, 1), "a body of 16777219 bytes"),
            (set(5, 4), "unknown flags"),
            (set(16, 4), "a payload of 4 bytes in a body of 3"),
            (set(23, 255), "a payload of"),
            (
                [set(5, 1)].map(|mut bytes| {
                    bytes[4] = 65;
                    bytes
                })[0]
                    .clone(),
                "flags 0x1 on a frame",
            ),
        ];
        for (bytes, expected) in table {
            let error = read(&bytes, || usize::MAX).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_frame_of_the_greatest_length_passes_and_its_room_is_bounded() {
        let body = vec![7; BODY_MAX];
        let bytes = [done(&body, 9), done(b"next", 0), done(&body, 0)].concat();
        let frames = read(&bytes, || usize::MAX).unwrap();
        let lengths: Vec<_> = frames.iter().map(|frame| frame.body.len()).collect();
        assert_eq!(lengths, [BODY_MAX, 4, BODY_MAX]);
    }

    proptest! {
        #[test]
        fn frames_survive_any_cut(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..20), cuts in prop::collection::vec(1..300_usize, 1..20)) {
            let bytes: Vec<u8> = bodies.iter().flat_map(|body| done(body, body.len() as u64)).collect();
            let mut next = cuts.iter().cycle();
            let frames = read(&bytes, || *next.next().unwrap()).unwrap();
            let got: Vec<Vec<u8>> = frames.iter().map(|frame| frame.body.to_vec()).collect();
            prop_assert_eq!(got, bodies);
        }

        #[test]
        fn noise_is_refused_or_waits_for_more(noise in prop::collection::vec(any::<u8>(), 0..4000)) {
            let _ = read(&noise, || 512);
        }
    }
}
