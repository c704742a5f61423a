//! What callers share with one process: the link, the regions of each slot, and the control region.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use super::frame::{DESCRIPTOR, HEADER, Header, INLINE_MAX, Kind, REGION};
use super::link::Link;
use super::outbox::Outbox;
use super::region::{Foreign, Region};
use super::supervisor::{CallId, Marks, Place};
use super::{Request, Settings};
use crate::lock::lock;

/// One process, as callers see it. It lives as long as anybody reads from it, and dies with its process otherwise: regions are never
/// handed from one process to the next.
#[derive(Debug)]
pub(super) struct Channel {
    pub(super) generation: u64,
    pub(super) link: Link,
    /// Frames go out one at a time, and in the order in which the supervisor heard of them.
    pub(super) sending: Mutex<()>,
    /// What goes to a child that answers with streams, which nobody may wait for.
    pub(super) outbox: Outbox,
    slots: Vec<Slot>,
    control: Region,
    /// Where the streams have their part of the control region.
    streams_at: u64,
    streams: usize,
}

/// The regions of one slot. Whoever holds the slot is alone with them, so that these locks are never waited for.
#[derive(Debug, Default)]
struct Slot {
    ours: Mutex<Option<Ours>>,
    theirs: Mutex<Option<Arc<Foreign>>>,
}

#[derive(Debug)]
struct Ours {
    region: Region,
    /// The child has it.
    sent: bool,
}

/// The flags that tell a child which items nobody waits for any more.
pub(super) struct Flags {
    bytes: [u8; FLAGS],
    items: usize,
}

impl Channel {
    pub(super) fn new(generation: u64, link: Link, settings: &Settings) -> io::Result<Self> {
        let (streams_at, streams) = (settings.streams_at(), settings.streams);
        let length = streams_at + STEP + streams * STREAM_SLOT;
        let control = Region::exactly(length.next_multiple_of(CONTROL) as u64)?;
        let slots = (0..settings.depth).map(|_| Slot::default()).collect();
        Ok(Self {
            generation,
            link,
            sending: Mutex::new(()),
            outbox: Outbox::default(),
            slots,
            control,
            streams_at: streams_at as u64,
            streams,
        })
    }

    /// Tells a child that may be at work on the stream that its reader has left, in its slot's part of the control region.
    pub(super) fn stop(&self, slot: usize, id: CallId) {
        let at = self.streams_at + (STEP + slot * STREAM_SLOT) as u64;
        let _ = self.control.write(&[IoSlice::new(&id.to_le_bytes())], at);
    }

    /// What the child has written down about its streams.
    pub(super) fn marks(&self) -> Marks {
        let mut bytes = vec![0; STEP + self.streams * STREAM_SLOT];
        self.control.read(&mut bytes, self.streams_at);
        let numbers: Vec<u64> = bytes
            .as_chunks()
            .0
            .iter()
            .copied()
            .map(u64::from_le_bytes)
            .collect();
        let &[since, stepped, ref slots @ ..] = &*numbers else {
            return Marks::default();
        };
        let age = Duration::from_nanos(monotonic_ns().saturating_sub(since));
        Marks {
            stepped: (stepped != 0).then_some((stepped, age)),
            begun: slots.iter().skip(1).step_by(2).copied().collect(),
        }
    }

    /// The control region, which goes out with HELLO.
    pub(super) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// Writes a payload that is too long for a frame into the slot's region.
    pub(super) fn fill(&self, slot: usize, payload: &[IoSlice<'_>], bytes: u64) -> io::Result<()> {
        let mut ours = lock(&self.slots[slot].ours);
        if !ours.as_ref().is_some_and(|ours| ours.region.holds(bytes)) {
            *ours = None;
            *ours = Some(Ours {
                region: Region::new(bytes)?,
                sent: false,
            });
        }
        match &*ours {
            Some(ours) => ours.region.write(payload, 0),
            None => Ok(()),
        }
    }

    /// Sends the run; its payload is in the region already if it is too long for a frame. The caller holds `sending`.
    pub(super) fn send_run(&self, run: &Run<'_>, stalled: impl FnOnce()) -> io::Result<()> {
        let mut ours = lock(&self.slots[run.place.slot].ours);
        let mut header = run.header();
        let descriptor = match &mut *ours {
            Some(ours) if header.has(REGION) && !ours.sent => {
                ours.sent = true;
                header.flags |= DESCRIPTOR;
                Some(ours.region.as_fd())
            }
            _ => None,
        };
        let head = header.encode();
        let payload = if header.has(REGION) {
            &[]
        } else {
            run.request.payload
        };
        let mut pieces = Vec::with_capacity(2 + payload.len());
        pieces.extend([IoSlice::new(&head), IoSlice::new(run.request.meta)]);
        pieces.extend_from_slice(payload);
        let mut pieces = pieces.as_mut_slice();
        IoSlice::advance_slices(&mut pieces, 0);
        self.link.send(pieces, descriptor, stalled)
    }

    /// The child has a new region for a slot.
    pub(super) fn replace(&self, slot: usize, region: Foreign) -> Result<(), String> {
        let slot = self
            .slots
            .get(slot)
            .ok_or_else(|| format!("a region for slot {slot}, which there is not"))?;
        *lock(&slot.theirs) = Some(Arc::new(region));
        Ok(())
    }

    /// The child's region for a slot.
    pub(super) fn region(&self, slot: usize) -> Option<Arc<Foreign>> {
        lock(&self.slots.get(slot)?.theirs).clone()
    }

    /// Writes a slot's part of the control region. A child that cannot be told loses nothing but a hint.
    pub(super) fn flag(&self, slot: usize, id: CallId, flags: &Flags) {
        let id = id.to_le_bytes();
        let pieces = [IoSlice::new(&id), IoSlice::new(&flags.bytes)];
        let _ = self.control.write(&pieces, (slot * CONTROL_SLOT) as u64);
    }
}

/// One run, as it is sent.
pub(super) struct Run<'a> {
    pub(super) id: CallId,
    pub(super) place: Place,
    pub(super) request: &'a Request<'a>,
    /// The length of the payload.
    pub(super) bytes: u64,
    /// Microseconds until the deadline; zero without one.
    pub(super) remaining: u64,
}

impl Run<'_> {
    fn header(&self) -> Header {
        let inline = self.bytes <= INLINE_MAX as u64;
        let payload = if inline { self.bytes as usize } else { 0 };
        Header {
            body: self.request.meta.len() + payload,
            flags: if inline { 0 } else { REGION },
            slot: u16::try_from(self.place.slot).unwrap_or(u16::MAX),
            id: self.id,
            a: self.bytes,
            b: self.remaining,
            ..Header::new(Kind::Run)
        }
    }
}

impl Flags {
    pub(super) fn new(items: usize) -> Self {
        Self {
            bytes: [0; FLAGS],
            items,
        }
    }

    /// Whether anybody has left.
    pub(super) fn any(&self) -> bool {
        self.bytes.contains(&1)
    }

    /// Asks about every item; whether anything changed. The items beyond the last flag share it: it is set when all of them are left.
    pub(super) fn update(&mut self, left: &dyn Fn(usize) -> bool) -> bool {
        let mut changed = false;
        for index in 0..self.items.min(FLAGS) {
            let last = if index == FLAGS - 1 {
                self.items
            } else {
                index + 1
            };
            if self.bytes[index] == 0 && (index..last).all(left) {
                self.bytes[index] = 1;
                changed = true;
            }
        }
        changed
    }
}

/// The greeting: the preamble and the HELLO frame, whose first byte brings the control region.
#[derive(Debug)]
pub(super) struct Greeting {
    bytes: Vec<u8>,
    sent: usize,
    /// Where HELLO begins.
    hello: usize,
}

impl Greeting {
    pub(super) fn new(preamble: &[u8], hello: &[u8]) -> Self {
        let header = Header {
            body: hello.len(),
            flags: DESCRIPTOR,
            ..Header::new(Kind::Hello)
        };
        let mut bytes = Vec::with_capacity(preamble.len() + HEADER + hello.len());
        bytes.extend_from_slice(preamble);
        bytes.extend(header.encode());
        bytes.extend_from_slice(hello);
        Self {
            bytes,
            sent: 0,
            hello: preamble.len(),
        }
    }

    /// Sends what can be sent without waiting; whether that was all.
    pub(super) fn go_on(&mut self, channel: &Channel) -> io::Result<bool> {
        while self.sent < self.bytes.len() {
            let end = if self.sent < self.hello {
                self.hello
            } else {
                self.bytes.len()
            };
            let descriptor = (self.sent == self.hello).then(|| channel.control());
            let piece = IoSlice::new(&self.bytes[self.sent..end]);
            match channel.link.try_send(&[piece], descriptor) {
                Ok(sent) => self.sent += sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }
}

impl Settings {
    /// The offset in the control region at which the streams' part begins: 16 bytes that the child writes, the time in nanoseconds of
    /// `CLOCK_MONOTONIC` since when it has been at work on a stream, and the number of that stream, or 0. Then 16 bytes for each slot: the
    /// number of the stream whose reader has left, which the pool writes, and that of the stream which has begun, which the child does.
    pub fn streams_at(&self) -> usize {
        self.depth * CONTROL_SLOT
    }
}

/// The clock that children go by too.
fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

/// The least length of the control region.
const CONTROL: usize = 4096;
/// What each slot has of it: the number of the run, and flags.
const CONTROL_SLOT: usize = 512;
const FLAGS: usize = CONTROL_SLOT - 8;
/// What a child says of the stream that it is at work on: since when, and which.
const STEP: usize = 16;
/// What each slot for a stream has: the stream that was left, and the one that has begun.
const STREAM_SLOT: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_flag_waits_for_all_that_share_it() {
        let mut flags = Flags::new(FLAGS + 10);
        assert!(flags.update(&|index| index == 0 || index == FLAGS - 1));
        assert_eq!((flags.bytes[0], flags.bytes[FLAGS - 1]), (1, 0));
        assert!(!flags.update(&|index| index == 0));
        assert!(flags.update(&|index| index >= FLAGS - 1));
        assert_eq!(flags.bytes[FLAGS - 1], 1);
        assert!(!Flags::new(0).update(&|_| true));
    }
}
