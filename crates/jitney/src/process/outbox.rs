//! What goes to a child without anybody waiting for it: what the channel does not take at once is sent on by the child's keeper.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Mutex;

use super::link::Link;
use super::region::Region;
use crate::lock::lock;

/// Frames in their order. What can wait here is bounded by the streams of the child: a beginning, a stop and a few credits of each.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: Mutex<VecDeque<Letter>>,
}

/// A frame, or what is left of it.
#[derive(Debug)]
pub(super) struct Letter {
    bytes: Vec<u8>,
    sent: usize,
    /// What goes with the first byte.
    region: Option<Region>,
}

/// What became of a letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Posted {
    /// Nothing waits.
    Sent,
    /// Something waits: the keeper has to go on when the channel can be written.
    Waits,
}

impl Letter {
    pub(super) fn new(bytes: Vec<u8>, region: Option<Region>) -> Self {
        Self {
            bytes,
            sent: 0,
            region,
        }
    }
}

impl Outbox {
    /// Sends the letter behind those that wait, if `agreed` says so just before: nothing is sent between the two.
    pub(super) fn post(
        &self,
        link: &Link,
        letter: Letter,
        agreed: impl FnOnce() -> bool,
    ) -> io::Result<Posted> {
        let mut waiting = lock(&self.waiting);
        if agreed() {
            waiting.push_back(letter);
        }
        // With another before it, the keeper has been told to look after them all.
        if waiting.len() > 1 {
            return Ok(Posted::Sent);
        }
        flush(&mut waiting, link)
    }

    /// Goes on with what waits.
    pub(super) fn flush(&self, link: &Link) -> io::Result<Posted> {
        flush(&mut lock(&self.waiting), link)
    }

    /// Whether anything waits.
    pub(super) fn is_empty(&self) -> bool {
        lock(&self.waiting).is_empty()
    }
}

fn flush(waiting: &mut VecDeque<Letter>, link: &Link) -> io::Result<Posted> {
    while let Some(first) = waiting.front() {
        let region = first.region.as_ref().filter(|_| first.sent == 0);
        // A descriptor goes with the first byte of a message, so a letter that has one begins the next.
        let alone = |letter: &&Letter| letter.region.is_none();
        let others = waiting.iter().skip(1).take_while(alone).take(TOGETHER - 1);
        let pieces: Vec<_> = std::iter::once(first)
            .chain(others)
            .map(|letter| IoSlice::new(&letter.bytes[letter.sent..]))
            .collect();
        match link.try_send(&pieces, region.map(AsFd::as_fd)) {
            Ok(sent) => advance(waiting, sent),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Posted::Waits),
            Err(error) => {
                waiting.clear();
                return Err(error);
            }
        }
    }
    Ok(Posted::Sent)
}

fn advance(waiting: &mut VecDeque<Letter>, mut sent: usize) {
    while let Some(first) = waiting.front_mut() {
        let left = first.bytes.len() - first.sent;
        if sent < left {
            first.sent += sent;
            return;
        }
        sent -= left;
        waiting.pop_front();
    }
}

/// How many letters go out in one system call.
const TOGETHER: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::frame::{Header, Inbox, Kind};
    use super::super::link::Received;
    use super::*;

    fn letter(id: u64, length: usize, region: bool) -> Letter {
        let header = Header {
            body: length,
            id,
            ..Header::new(Kind::Done)
        };
        let bytes = [header.encode().to_vec(), vec![7; length]].concat();
        Letter::new(bytes, region.then(|| Region::new(1).unwrap()))
    }

    #[test]
    fn all_arrives_in_order_however_slowly_it_is_read() {
        let (link, theirs) = Link::pair().unwrap();
        let theirs = Link::of(theirs);
        let outbox = Outbox::default();
        for id in 0..500 {
            let letter = letter(id, 5000 + id as usize, id % 7 == 0);
            outbox.post(&link, letter, || id % 10 != 3).unwrap();
        }
        assert!(!outbox.is_empty(), "the channel is full");
        let (mut inbox, mut descriptors, mut ids) = (Inbox::new(), VecDeque::new(), Vec::new());
        loop {
            let received = theirs.receive(&mut inbox, &mut descriptors).unwrap();
            while let Some(frame) = inbox.next().unwrap() {
                if frame.header.id % 7 == 0 {
                    descriptors.pop_front().unwrap();
                }
                ids.push(frame.header.id);
            }
            let posted = outbox.flush(&link).unwrap();
            if received == Received::Nothing && posted == Posted::Sent {
                break;
            }
        }
        let expected: Vec<u64> = (0..500).filter(|id| id % 10 != 3).collect();
        assert_eq!(ids, expected);
        assert!(descriptors.is_empty() && outbox.is_empty());
    }
}
