//! One call, on its caller's thread.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::channel::{Channel, Flags, Run};
use super::desk::{Desk, Mailbox, Message};
use super::frame::{Frame, INLINE_MAX, REGION};
use super::supervisor::{CallId, Place, Terms, Verdict, bounded};
use super::{CallError, Reply, Request, Settings};
use crate::lock::lock;

/// One call that is under way.
pub(super) struct Calling<'a> {
    desk: &'a Desk,
    id: CallId,
    request: &'a Request<'a>,
    /// The length of the payload.
    bytes: u64,
    mailbox: Arc<Mailbox>,
    flags: Flags,
}

/// How often those who left are asked for.
const POLL: Duration = Duration::from_millis(20);

impl<'a> Calling<'a> {
    /// Checks the lengths and registers the call.
    pub(super) fn begin(
        desk: &'a Desk,
        id: CallId,
        request: &'a Request<'a>,
        settings: &Settings,
    ) -> Result<Self, CallError> {
        let bytes = request.payload.iter().map(|piece| piece.len() as u64).sum();
        CallError::check(request, bytes, settings.payload_max)?;
        let (now, limit) = (Instant::now(), bounded(request.limit));
        let patience = request
            .deadline
            .unwrap_or_else(|| now + bounded(settings.start_limit) + limit);
        let terms = Terms {
            weight: request.weight,
            limit,
            patience,
        };
        let mailbox = Arc::new(Mailbox::default());
        desk.with(None, |inner| {
            inner.mailboxes.insert(id, Arc::clone(&mailbox));
            inner.supervisor.called(id, terms);
        });
        let flags = Flags::new(request.items);
        Ok(Self {
            desk,
            id,
            request,
            bytes,
            mailbox,
            flags,
        })
    }

    /// Goes where the supervisor says until there is an answer.
    pub(super) fn finish(mut self) -> Result<Reply, CallError> {
        let mut sent = None;
        let mut look_at = Instant::now();
        loop {
            match self.wait(look_at, sent.as_ref()) {
                Some(Message::Verdict(Verdict::Assigned(place))) => {
                    sent = self.send(place);
                    look_at = Instant::now() + bounded(self.request.limit);
                }
                Some(Message::Verdict(verdict)) => return Err(verdict.into()),
                Some(Message::Reply { frame, took }) => return self.read(frame, took, sent),
                None => look_at = self.look(),
            }
        }
    }

    /// Waits for a message until then, and keeps the control region up to date meanwhile.
    fn wait(&mut self, until: Instant, sent: Option<&Sent>) -> Option<Message> {
        let (Some(sent), Some(left)) = (sent, self.request.left) else {
            return self.mailbox.wait(until);
        };
        loop {
            let now = Instant::now();
            if now >= until {
                return self.mailbox.wait(until);
            }
            if let Some(message) = self.mailbox.wait(until.min(now + POLL)) {
                return Some(message);
            }
            if self.flags.update(left) {
                sent.channel.flag(sent.place.slot, self.id, &self.flags);
            }
        }
    }

    /// Asks the supervisor whether this has taken too long; if not, when to ask again.
    fn look(&self) -> Instant {
        let now = Instant::now();
        let due = self
            .desk
            .with(None, |inner| inner.supervisor.look(self.id, now));
        due.unwrap_or(now + POLL)
    }

    /// Sends the run to its place, unless that is lost already.
    fn send(&self, place: Place) -> Option<Sent> {
        let channel = self.desk.channel(place.seat)?;
        if channel.generation != place.generation {
            return None;
        }
        // A block with another run's number says nothing about this one: only those who have left are to be told of.
        if self.flags.any() {
            channel.flag(place.slot, self.id, &self.flags);
        }
        if self.bytes > INLINE_MAX as u64
            && let Err(error) = channel.fill(place.slot, self.request.payload, self.bytes)
        {
            self.withdraw(place, &error);
            return None;
        }
        let run = Run {
            id: self.id,
            place,
            request: self.request,
            bytes: self.bytes,
            remaining: self.remaining(),
        };
        self.send_in_turn(&channel, &run)
            .then_some(Sent { channel, place })
    }

    /// Sends the run behind those that were sent before, if its place is still its own.
    fn send_in_turn(&self, channel: &Channel, run: &Run<'_>) -> bool {
        let turn = lock(&channel.sending);
        if !self.desk.with(None, |inner| {
            inner.supervisor.sent(self.id, run.place, Instant::now())
        }) {
            return false;
        }
        let stalled = || self.desk.bell(run.place.seat).ring();
        // A channel that cannot be written is at its end: its keeper sees that, and the supervisor decides.
        if let Err(error) = channel.send_run(run, stalled) {
            channel.link.shut();
            if matches!(
                error.kind(),
                ErrorKind::BrokenPipe | ErrorKind::ConnectionReset
            ) {
                self.desk
                    .with(None, |inner| inner.supervisor.unsent(self.id, run.place));
            }
        }
        drop(turn);
        true
    }

    fn withdraw(&self, place: Place, error: &io::Error) {
        let why = format!(
            "there is no memory for a payload of {} bytes: {error}",
            self.bytes
        );
        self.desk.with(None, |inner| {
            inner
                .supervisor
                .withdraw(self.id, place, why, Instant::now());
        });
    }

    fn read(&self, frame: Frame, took: Duration, sent: Option<Sent>) -> Result<Reply, CallError> {
        let header = frame.header;
        let (meta, payload) = match sent {
            Some(sent) if header.has(REGION) => (frame.body, self.read_region(&sent, header.a)?),
            _ => frame.split(),
        };
        Ok(Reply {
            meta,
            payload,
            b: header.b,
            took,
        })
    }

    fn read_region(&self, sent: &Sent, bytes: u64) -> Result<Bytes, CallError> {
        let region = sent.channel.region(sent.place.slot);
        let read = region.map_or_else(
            || Err(ErrorKind::NotFound.into()),
            |region| region.read(bytes),
        );
        self.desk.with(None, |inner| {
            inner.supervisor.released(sent.place, Instant::now());
        });
        read.map_err(|error| {
            CallError::Garbage(format!(
                "a payload of {bytes} bytes that cannot be read: {error}"
            ))
        })
    }

    fn remaining(&self) -> u64 {
        let Some(deadline) = self.request.deadline else {
            return 0;
        };
        let left = deadline.saturating_duration_since(Instant::now());
        u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
    }
}

/// Where a run was sent.
struct Sent {
    channel: Arc<Channel>,
    place: Place,
}

impl From<Verdict> for CallError {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Crashed(how) => Self::Crashed(how),
            Verdict::Hung(limit) => Self::Hung(limit),
            Verdict::Garbage(what) => Self::Garbage(what),
            Verdict::Unavailable(why) => Self::Unavailable(why),
            Verdict::Assigned(_) | Verdict::Closed => Self::Closed,
        }
    }
}
