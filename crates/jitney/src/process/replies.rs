//! One stream, as its reader holds it.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;

use super::channel::Channel;
use super::frame::{DESCRIPTOR, Header, INLINE_MAX, Kind, REGION};
use super::keeper::Shared;
use super::outbox::{Letter, Posted};
use super::region::Region;
use super::supervisor::{CREDIT, CallId, Place, Terms, Verdict, bounded, cost};
use super::{CallError, Request};
use crate::lock::lock;

/// What a stream asks of a worker.
#[derive(Clone, Debug)]
pub struct StreamRequest {
    /// The head of the message, at most [`Request::META_MAX`] bytes.
    pub meta: Bytes,
    /// The body of the message.
    pub payload: Bytes,
    /// What the stream counts towards [`super::Settings::recycle_after`] when it has ended.
    pub weight: u64,
    /// How long the worker may take to the next reply of any of its streams, while a reader has room for one. Beyond it the worker is
    /// killed.
    pub limit: Duration,
    /// When the reader leaves, for the worker to know.
    pub deadline: Option<Instant>,
}

/// One of the replies of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The head of the message.
    pub meta: Bytes,
    /// The body of the message.
    pub payload: Bytes,
    /// The number that the worker put in the header, for whatever the program likes.
    pub b: u64,
    /// It is the last: the worker has ended the stream with it.
    pub last: bool,
}

/// The replies to one request as they come, ended by one that is the last, or by an error.
///
/// The worker is at most 16 replies ahead of the reader, or 1 MiB and one reply. Dropping this ends the stream: the worker is told, and what it
/// sends until it has noticed is thrown away.
#[must_use = "dropping it ends the stream"]
pub struct Replies {
    shared: Arc<Shared>,
    id: CallId,
    /// What to send, as long as it may have to be sent again.
    request: Option<StreamRequest>,
    tray: Arc<Tray>,
    sent: Option<Sent>,
    /// What the replies cost that were taken since the worker was last told.
    taken: i64,
    ended: bool,
}

/// Where the request was sent.
struct Sent {
    channel: Arc<Channel>,
    place: Place,
}

impl Replies {
    pub(super) fn open(
        shared: &Arc<Shared>,
        id: CallId,
        request: StreamRequest,
    ) -> Result<Self, CallError> {
        let head = Request::new(&request.meta, request.limit);
        let settings = &shared.settings;
        CallError::check(&head, request.payload.len() as u64, settings.payload_max)?;
        if settings.streams == 0 {
            return Err(CallError::Unavailable(
                "the workers of this pool take no streams".to_owned(),
            ));
        }
        let terms = Terms {
            weight: request.weight,
            limit: bounded(request.limit),
            // Whoever polls this decides how long to wait.
            patience: Instant::now() + bounded(Duration::MAX),
        };
        let tray = Arc::new(Tray::default());
        shared.desk.with(None, |inner| {
            inner.trays.insert(id, Arc::clone(&tray));
            inner.supervisor.opened(id, terms);
        });
        Ok(Self {
            shared: Arc::clone(shared),
            id,
            request: Some(request),
            tray,
            sent: None,
            taken: 0,
            ended: false,
        })
    }

    /// Waits until a worker has the request. Reading the replies does so too.
    ///
    /// # Errors
    /// There is no worker, and will be none soon; the pool was closed. The stream has ended then.
    ///
    /// # Cancel safety
    /// It only waits.
    pub async fn placed(&mut self) -> Result<(), CallError> {
        poll_fn(|cx| self.poll_placed(cx)).await
    }

    fn poll_placed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallError>> {
        while self.sent.is_none() && !self.ended {
            match ready!(self.tray.poll(cx)) {
                News::Assigned(place) => self.send(place)?,
                News::Refused(verdict) => return Poll::Ready(Err(self.refused(verdict))),
                // Nothing can be read before the request was sent.
                News::Part(_) => {}
            }
        }
        Poll::Ready(Ok(()))
    }

    fn refused(&mut self, verdict: Verdict) -> CallError {
        self.ended = true;
        verdict.into()
    }

    fn part(&mut self, part: Part) -> Part {
        // It has begun, so it is never sent again.
        self.request = None;
        match part.last {
            true => self.ended = true,
            false => self.give_credit(cost(part.payload.len() as u64)),
        }
        part
    }

    /// The reader has room again. The worker is told when that is worth a message.
    fn give_credit(&mut self, cost: i64) {
        self.taken += cost;
        if self.taken < CREDIT / 2 {
            return;
        }
        let taken = std::mem::take(&mut self.taken);
        let goes_on = self.shared.desk.with(None, |inner| {
            inner.supervisor.taken(self.id, taken, Instant::now())
        });
        if goes_on {
            self.tell(Kind::Credit, taken.unsigned_abs());
        }
    }

    /// Sends a frame without a body to where the stream goes on. If that is no more, nobody need be told.
    fn tell(&self, kind: Kind, a: u64) {
        if let Some(Sent { channel, place }) = &self.sent {
            let header = Header {
                slot: slot(*place),
                id: self.id,
                a,
                ..Header::new(kind)
            };
            let letter = Letter::new(header.encode().to_vec(), None);
            self.post(channel, *place, letter, || true);
        }
    }

    /// Sends the request to its place, unless that is lost already.
    fn send(&mut self, place: Place) -> Result<(), CallError> {
        let channel = self.shared.desk.channel(place.seat);
        let channel = channel.filter(|channel| channel.generation == place.generation);
        let (Some(channel), Some(request)) = (channel, &self.request) else {
            return Ok(());
        };
        let letter = letter(self.id, place, request).map_err(|error| {
            let bytes = request.payload.len();
            let why = format!("there is no memory for a payload of {bytes} bytes: {error}");
            self.leave();
            CallError::Unavailable(why)
        })?;
        let mut agreed = false;
        self.post(&channel, place, letter, || {
            agreed = self.shared.desk.with(None, |inner| {
                inner.supervisor.sent(self.id, place, Instant::now())
            });
            agreed
        });
        if agreed {
            self.sent = Some(Sent { channel, place });
        }
        Ok(())
    }

    fn post(&self, channel: &Channel, place: Place, letter: Letter, agreed: impl FnOnce() -> bool) {
        match channel.outbox.post(&channel.link, letter, agreed) {
            Ok(Posted::Sent) => {}
            Ok(Posted::Waits) => self.shared.desk.bell(place.seat).ring(),
            // A channel that cannot be written is at its end: its keeper sees that, and the supervisor decides.
            Err(_) => channel.link.shut(),
        }
    }

    fn leave(&self) -> Option<Place> {
        self.shared.desk.with(None, |inner| {
            inner.trays.remove(&self.id);
            inner.supervisor.left(self.id, Instant::now())
        })
    }
}

impl Stream for Replies {
    type Item = Result<Part, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        while !this.ended {
            match ready!(this.tray.poll(cx)) {
                News::Assigned(place) => {
                    if let Err(error) = this.send(place) {
                        this.ended = true;
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                News::Refused(verdict) => return Poll::Ready(Some(Err(this.refused(verdict)))),
                News::Part(part) => return Poll::Ready(Some(Ok(this.part(part)))),
            }
        }
        Poll::Ready(None)
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        if let (Some(place), Some(sent)) = (self.leave(), &self.sent) {
            sent.channel.stop(place.slot, self.id);
            self.tell(Kind::Stop, 0);
        }
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Replies")
            .field("id", &self.id)
            .field("sent", &self.sent.is_some())
            .field("ended", &self.ended)
            .finish_non_exhaustive()
    }
}

/// Where replies wait for their reader. They are never more than there is credit for.
#[derive(Debug, Default)]
pub(super) struct Tray {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// A newer place replaces one that was not read.
    assigned: Option<Place>,
    parts: VecDeque<Part>,
    refused: Option<Verdict>,
    reader: Option<Waker>,
}

/// What a reader finds.
enum News {
    Assigned(Place),
    Part(Part),
    Refused(Verdict),
}

impl Tray {
    pub(super) fn put(&self, part: Part) {
        self.change(|inner| inner.parts.push_back(part));
    }

    /// The verdict, behind what came before.
    pub(super) fn tell(&self, verdict: Verdict) {
        self.change(|inner| match verdict {
            Verdict::Assigned(place) => inner.assigned = Some(place),
            verdict => inner.refused = Some(verdict),
        });
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = lock(&self.inner);
        change(&mut inner);
        let reader = inner.reader.take();
        drop(inner);
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<News> {
        let mut inner = lock(&self.inner);
        if let Some(part) = inner.parts.pop_front() {
            return Poll::Ready(News::Part(part));
        }
        if let Some(verdict) = inner.refused.take() {
            return Poll::Ready(News::Refused(verdict));
        }
        if let Some(place) = inner.assigned.take() {
            return Poll::Ready(News::Assigned(place));
        }
        match &mut inner.reader {
            Some(reader) => reader.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

/// The request as a frame. A payload that is too long for one goes in a region of its own.
fn letter(id: CallId, place: Place, request: &StreamRequest) -> io::Result<Letter> {
    let bytes = request.payload.len();
    let region = if bytes > INLINE_MAX {
        let region = Region::new(bytes as u64)?;
        region.write(&[io::IoSlice::new(&request.payload)], 0)?;
        Some(region)
    } else {
        None
    };
    let inline: &[u8] = match region {
        Some(_) => &[],
        None => &request.payload,
    };
    let header = Header {
        body: request.meta.len() + inline.len(),
        flags: if region.is_some() {
            DESCRIPTOR | REGION
        } else {
            0
        },
        slot: slot(place),
        id,
        a: bytes as u64,
        b: remaining(request.deadline),
        ..Header::new(Kind::Run)
    };
    let frame = [&header.encode(), &*request.meta, inline].concat();
    Ok(Letter::new(frame, region))
}

/// Microseconds until the deadline; zero without one.
fn remaining(deadline: Option<Instant>) -> u64 {
    let Some(deadline) = deadline else {
        return 0;
    };
    let left = deadline.saturating_duration_since(Instant::now());
    u64::try_from(left.as_micros()).unwrap_or(u64::MAX).max(1)
}

fn slot(place: Place) -> u16 {
    u16::try_from(place.slot).unwrap_or(u16::MAX)
}
