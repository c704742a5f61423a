//! Results as server-sent events, pulled by whoever reads them.
//!
//! Nothing is written ahead of the reader: the connection asks for more when it has room, and that is when the model's results are taken up.
//! A reader that leaves drops the stream, and with it the model's work.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName};
use http::{HeaderValue, Response};
use jitney_engine::Tensor;
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use super::Net;
use super::connection::{Peer, Plane};
use super::payload::Body;
use super::reply::Reply;
use crate::admit::Admitted;
use crate::failure::{Code, Failure};
use crate::models::{Answers, Lane};
use crate::observe::record::Record;
use crate::protocol::{error, generate, predict};

const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
/// Tells proxies of nginx's kind to pass on each event as it comes.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// After so long without an event a comment is written, so that proxies keep the connection and a reader that has left is noticed.
const SILENCE: Duration = Duration::from_secs(15);
/// Events that are ready together are written together, up to about so many bytes.
const TOGETHER: usize = 16 * 1024;

/// What the events are made from.
pub(crate) struct Source {
    pub(crate) lane: Arc<Lane>,
    pub(crate) style: Style,
    /// The first result, which has been waited for; `None` when there is none.
    pub(crate) first: Option<Vec<Tensor>>,
    pub(crate) answers: Answers,
    /// What the request is until its last event is written.
    pub(crate) going: Going,
}

/// How a result is written, and what is written behind the last one.
pub(crate) enum Style {
    /// `{"prediction": ..}`, and at the end an event of the name `end` that says how many there were.
    Prediction,
    /// As Triton writes it, which marks no end.
    Generated {
        /// The caller's name for the request.
        id: Option<String>,
    },
}

/// A request whose answer is on its way. Dropped before it has ended, the client has left.
pub(crate) struct Going {
    pub(crate) record: Record,
    pub(crate) admitted: Admitted,
}

impl Going {
    fn end(self, answer: Result<(), Code>) {
        self.record.finish(answer);
        drop(self.admitted);
    }
}

/// The answer whose body is the events.
pub(crate) fn reply(source: Source, peer: &Arc<Peer>) -> Reply {
    let events = Events::new(source);
    let events = match peer.plane {
        Plane::Data => events.left_stream(),
        // The control thread must not write what may be large.
        Plane::Control => written_elsewhere(&peer.net, events).right_stream(),
    };
    // On the connection's side, so that events on their way from another thread count too.
    let answering = peer.answering();
    let events = events.inspect(move |_| {
        let _held = &answering;
    });
    let mut reply = Response::new(peer.stream(Body::Stream(events.boxed())));
    let headers = reply.headers_mut();
    headers.insert(CONTENT_TYPE, EVENT_STREAM);
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
    reply
}

struct Events {
    lane: Arc<Lane>,
    style: Style,
    first: Option<Vec<Tensor>>,
    results: u64,
    /// `None` when the last event is written.
    live: Option<(Answers, Going)>,
    /// When something was written last.
    spoke: Instant,
    silence: Pin<Box<Sleep>>,
}

impl Events {
    fn new(source: Source) -> Events {
        let Source {
            lane,
            style,
            first,
            answers,
            going,
        } = source;
        Events {
            lane,
            style,
            first,
            results: 0,
            live: Some((answers, going)),
            spoke: Instant::now(),
            silence: Box::pin(sleep(SILENCE)),
        }
    }

    /// The next result; there is always one more, or an end, as long as the stream is live.
    fn poll_answer(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Vec<Tensor>, Failure>>> {
        match (self.first.take(), &mut self.live) {
            (Some(first), _) => Poll::Ready(Some(Ok(first))),
            (None, Some((answers, _))) => answers.poll_next_unpin(cx),
            (None, None) => Poll::Ready(None),
        }
    }

    fn write(&mut self, out: &mut Vec<u8>, answer: Option<Result<Vec<Tensor>, Failure>>) {
        match answer {
            Some(Ok(outputs)) => {
                self.results += 1;
                let began = Instant::now();
                event(out, |out| self.write_result(out, &outputs));
                if let Some((_, going)) = &mut self.live {
                    going.record.encoded(began.elapsed());
                }
            }
            Some(Err(failure)) => {
                event(out, |out| out.extend_from_slice(&error::body(&failure)));
                self.end(Err(failure.code));
            }
            None => {
                if matches!(self.style, Style::Prediction) {
                    let results = self.results;
                    let text = format!("event: end\ndata: {{\"results\":{results}}}\n\n");
                    out.extend_from_slice(text.as_bytes());
                }
                self.end(Ok(()));
            }
        }
    }

    fn write_result(&self, out: &mut Vec<u8>, outputs: &[Tensor]) {
        let lane = &self.lane;
        match &self.style {
            Style::Prediction => predict::encode_item(out, lane.spec(), outputs),
            Style::Generated { id } => {
                let (name, version) = (lane.name(), lane.version());
                generate::encode(out, name, version, id.as_deref(), lane.spec(), outputs);
            }
        }
    }

    fn end(&mut self, answer: Result<(), Code>) {
        if let Some((_, going)) = self.live.take() {
            going.end(answer);
        }
    }

    /// Ready when nothing was written for too long. The timer is set once in each such time, and not by each event.
    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.silence.as_mut().poll(cx));
            let due = self.spoke + SILENCE;
            let now = Instant::now();
            if due <= now {
                self.spoke = now;
                return Poll::Ready(());
            }
            self.silence.as_mut().reset(due);
        }
    }
}

impl Stream for Events {
    type Item = Bytes;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut out = Vec::new();
        while self.live.is_some() && out.len() < TOGETHER {
            let Poll::Ready(answer) = self.poll_answer(cx) else {
                break;
            };
            self.write(&mut out, answer);
        }
        if !out.is_empty() {
            self.spoke = Instant::now();
            return Poll::Ready(Some(out.into()));
        }
        if self.live.is_none() {
            return Poll::Ready(None);
        }
        self.poll_silence(cx)
            .map(|()| Some(Bytes::from_static(b": ping\n\n")))
    }
}

/// Writes one event. JSON has line ends between its tokens only, where a space means the same.
fn event(out: &mut Vec<u8>, json: impl FnOnce(&mut Vec<u8>)) {
    out.extend_from_slice(b"data: ");
    let start = out.len();
    json(out);
    for byte in out.iter_mut().skip(start) {
        if matches!(byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
    out.extend_from_slice(b"\n\n");
}

/// The same events, written by a task of the data plane that is one write ahead of the reader.
fn written_elsewhere(net: &Net, mut events: Events) -> impl Stream<Item = Bytes> + use<> {
    let (sender, mut receiver) = mpsc::channel(1);
    net.spawn(Plane::Data, "events", async move {
        loop {
            let next = tokio::select! {
                next = events.next() => next,
                () = sender.closed() => None,
            };
            let Some(bytes) = next else { return };
            if sender.send(bytes).await.is_err() {
                return;
            }
        }
    });
    futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx))
}
