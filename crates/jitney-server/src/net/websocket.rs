//! Many requests on one WebSocket: the handshake, and the one task that reads, runs and answers them.
//!
//! Answers are written as fast as the client reads them: while it does not, nothing is read either, and the models' streams wait in their own
//! buffers. A client that leaves takes all of its requests with it.

use std::io;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Poll, ready};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{self, AbortHandle, Abortable, SelectAll};
use futures_util::{FutureExt, Stream, StreamExt};
use http::header::{
    CONNECTION, HeaderName, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::upgrade::{OnUpgrade, Upgraded};
use jitney_engine::Tensor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::time::{Interval, MissedTickBehavior, interval_at, timeout};

use super::Net;
use super::body::Arriving;
use super::checks;
use super::connection::{Peer, Socket, Wire};
use super::exchange::Exchange;
use super::payload::Body;
use super::reply::{Refusal, Reply};
use super::router::ModelRef;
use crate::access::Grant;
use crate::admit::{Admitted, Phase};
use crate::context::Context;
use crate::failure::{Code, Failure};
use crate::models::{Answers, Lane};
use crate::observe::metrics::Route;
use crate::observe::record::Record;
use crate::protocol::frames::{self, Decoder, Event, Fault, close};
use crate::protocol::infer;
use crate::protocol::socket::{self, Form, Message, Request};

/// The longest time between two looks at whether the client was heard; from the second in which it was not on, it is pinged.
const PING: Duration = Duration::from_secs(20);
/// After more of them in a row it is given up.
const SILENT_BEATS_MAX: u32 = 4;
/// Most pings of a client within a second.
const PINGS_MAX: u32 = 100;
/// Room that is made for what the client sends next; more while a message is on its way.
const READ: usize = 4 * 1024;
const READ_WITHIN: usize = 64 * 1024;
/// How long a connection that was closed still reads what the client sends, and how much of it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// Answers that are ready together are written together, up to about so many bytes.
const TOGETHER: usize = 16 * 1024;

/// What a connection becomes.
pub(crate) struct Upgrade {
    connection: OnUpgrade,
    name: String,
    version: Option<String>,
    grant: Grant,
    /// What the handshake says to the model of every request.
    context: Context,
    admitted: Admitted,
}

/// Answers the handshake. The connection's own task goes on with it.
pub(crate) fn answer(
    exchange: Exchange<'_>,
    model: ModelRef<'_>,
    mut head: request::Parts,
    body: &Arriving,
) -> Result<Reply, Refusal> {
    let Exchange {
        peer,
        grant,
        record,
        ..
    } = exchange;
    let net = &peer.net;
    let lane = net.catalog.called(model.name, model.version, record);
    let accept = handshake(&head)?;
    if !body.is_end_stream() {
        return Err(Failure::invalid("a request for a WebSocket has no body").into());
    }
    lane?;
    let context = checks::context(&head.headers, &net.config, grant.number(), None);
    let admitted = net.admission.enter(0)?;
    let connection = head.extensions.remove().ok_or_else(upgrade_required)?;
    peer.upgrade(Upgrade {
        connection,
        name: model.name.to_owned(),
        version: model.version.map(str::to_owned),
        grant,
        context,
        admitted,
    });
    let mut reply = Response::new(Body::default());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = reply.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    Ok(reply)
}

/// Checks the request; what `Sec-WebSocket-Accept` is to say.
fn handshake(head: &request::Parts) -> Result<HeaderValue, Failure> {
    let headers = &head.headers;
    let wanted = head.method == Method::GET
        && head.version == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && has_token(headers, &UPGRADE, "websocket")
        && only(headers, &SEC_WEBSOCKET_VERSION) == Some(frames::VERSION.as_bytes());
    if !wanted {
        return Err(upgrade_required());
    }
    let accept = only(headers, &SEC_WEBSOCKET_KEY).and_then(frames::accept);
    let accept = accept.and_then(|accept| HeaderValue::try_from(accept).ok());
    accept.ok_or_else(|| {
        Failure::invalid("Sec-WebSocket-Key must be given once, as 16 bytes in base64")
    })
}

fn upgrade_required() -> Failure {
    Failure::new(
        Code::UpgradeRequired,
        "this path speaks WebSocket: send GET over HTTP/1.1 with Connection: Upgrade, Upgrade: websocket and Sec-WebSocket-Version: 13",
    )
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter();
    let mut tokens = values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','));
    tokens.any(|found| found.trim().eq_ignore_ascii_case(token))
}

fn only<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Option<&'h [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(only), None) => Some(only.as_bytes()),
        _ => None,
    }
}

impl Upgrade {
    /// Serves the connection to its end, once hyper has let go of it.
    pub(crate) async fn drive(self: Box<Self>, peer: &Peer) {
        let Upgrade {
            connection,
            name,
            version,
            grant,
            context,
            admitted,
        } = *self;
        // Whoever left before it was answered has no connection any more.
        let Ok(Ok(parts)) = connection.await.map(Upgraded::downcast::<Socket>) else {
            return;
        };
        let mut socket = parts.io.into_inner();
        socket.upgrade();
        let mut session = Session::new(
            &peer.net,
            (name, version),
            (grant, context),
            admitted,
            &parts.read_buf,
        );
        let ended = match peer.signs.fault() {
            None => guarded(session.run(&mut socket)).await,
            Some(_) => End::Close(
                close::PROTOCOL_ERROR,
                "a frame came before the handshake was answered",
            ),
        };
        session.close(&mut socket, ended).await;
    }
}

/// A panic costs its connection, and nobody else anything.
async fn guarded(run: impl Future<Output = End>) -> End {
    let ran = AssertUnwindSafe(run).catch_unwind().await;
    ran.unwrap_or_else(|_| {
        tracing::error!("the handler of a WebSocket panicked");
        End::Close(close::INTERNAL, "the server failed to handle a message")
    })
}

/// How a connection ends.
enum End {
    /// The client is gone.
    Gone,
    /// The client has closed, with this code.
    Closed(u16),
    /// The server closes, with this code and reason.
    Close(u16, &'static str),
}

impl From<Fault> for End {
    fn from(fault: Fault) -> End {
        End::Close(fault.close_code(), fault.reason())
    }
}

impl From<io::Error> for End {
    fn from(_: io::Error) -> End {
        End::Gone
    }
}

/// One connection.
struct Session<'n> {
    net: &'n Net,
    model: (String, Option<String>),
    grant: Grant,
    context: Context,
    /// The connection itself is in flight, and so are the bytes of the message that is on its way.
    admitted: Admitted,
    decoder: Decoder,
    input: Input,
    out: Vec<u8>,
    running: SelectAll<Abortable<Running>>,
    /// The requests that run.
    ids: Vec<(Arc<str>, AbortHandle)>,
    /// A request beyond those that may run at a time. Nothing more is read until it can.
    waiting: Option<Running>,
    draining: bool,
    pulse: Pulse,
}

/// What the client has sent and nobody has looked at.
struct Input {
    bytes: BytesMut,
    /// Whether there is room for a message on its way.
    wide: bool,
}

/// What tells a connection that is alive from one that is not.
struct Pulse {
    /// How often it is looked at.
    beat: Duration,
    /// How many of them the client was not heard before.
    silent_beats: u32,
    /// All bytes of the client so far.
    received: u64,
    /// Since when a message has been on its way, or was looked at last, and how many bytes had come then.
    within: Option<(Instant, u64)>,
    pings: u32,
    pings_since: Instant,
}

impl<'n> Session<'n> {
    fn new(
        net: &'n Net,
        model: (String, Option<String>),
        (grant, context): (Grant, Context),
        admitted: Admitted,
        early: &[u8],
    ) -> Session<'n> {
        let config = &net.config;
        let now = Instant::now();
        let beat = PING.min(config.idle_timeout / SILENT_BEATS_MAX);
        let beat = beat.min(config.body_timeout);
        Session {
            net,
            model,
            grant,
            context,
            admitted,
            decoder: Decoder::new(config.max_body_bytes),
            input: Input {
                bytes: BytesMut::from(early),
                wide: false,
            },
            out: Vec::new(),
            running: SelectAll::new(),
            ids: Vec::new(),
            waiting: None,
            draining: false,
            pulse: Pulse {
                beat: beat.max(Duration::from_millis(1)),
                silent_beats: 0,
                received: 0,
                within: None,
                pings: 0,
                pings_since: now,
            },
        }
    }

    async fn run(&mut self, socket: &mut Wire) -> End {
        let mut phase = self.net.admission.watch();
        let mut beats = beats(self.pulse.beat);
        loop {
            match self.turn(socket, &mut phase, &mut beats).await {
                Ok(()) => (),
                Err(end) => return end,
            }
        }
    }

    /// Does what there is to do, and waits for the next thing that happens.
    async fn turn(
        &mut self,
        socket: &mut Wire,
        phase: &mut watch::Receiver<Phase>,
        beats: &mut Interval,
    ) -> Result<(), End> {
        while self.listen()? {
            self.flush(socket).await?;
        }
        if self.draining && self.running.is_empty() {
            return Err(End::Close(close::GOING_AWAY, "the server is shutting down"));
        }
        self.flush(socket).await?;
        self.input.make_room(self.decoder.is_within());
        tokio::select! {
            answer = self.running.next(), if !self.running.is_empty() => self.speak(answer),
            read = socket.read_buf(&mut self.input.bytes), if self.waiting.is_none() => {
                let count = read?;
                if count == 0 {
                    return Err(End::Gone);
                }
                self.pulse.hear(count);
            }
            _ = beats.tick() => self.beat()?,
            // The sender lives as long as `net`, so this does not fail.
            _ = phase.wait_for(|phase| *phase >= Phase::Draining), if !self.draining => {
                self.draining = true;
            }
        }
        Ok(())
    }

    /// Follows the messages that have come, as far as requests may run; whether there may be more of them as soon as the answers are out.
    fn listen(&mut self) -> Result<bool, End> {
        if let Some(running) = self.waiting.take() {
            self.begin(running);
        }
        while self.waiting.is_none() {
            if self.out.len() >= TOGETHER {
                return Ok(true);
            }
            match self.decoder.next(&mut self.input.bytes)? {
                None => break,
                Some(Event::Text(message)) => self.message(&message, false),
                Some(Event::Binary(message)) => self.message(&message, true),
                Some(Event::Ping(payload)) => {
                    self.pulse.ping()?;
                    frames::pong(&mut self.out, &payload);
                }
                Some(Event::Pong) => (),
                Some(Event::Close(code)) => {
                    return Err(End::Closed(code.unwrap_or(close::NORMAL)));
                }
            }
        }
        match self.hold_input() {
            Ok(()) => Ok(false),
            Err(_) => Err(End::Close(
                close::TRY_AGAIN,
                "the server holds as much as it may",
            )),
        }
    }

    fn message(&mut self, message: &Bytes, binary: bool) {
        let (name, version) = &self.model;
        let mut record = Record::begin(&self.net.metrics, Route::Stream);
        let catalog = &self.net.catalog;
        let lane = match catalog.called(name, version.as_deref(), &mut record) {
            Ok(lane) => lane,
            Err(failure) => {
                let id = socket::id(message, binary);
                return self.refuse(id.as_deref(), &failure, record);
            }
        };
        let began = Instant::now();
        let decoded = match binary {
            true => socket::decode_binary(message, lane.spec()),
            false => socket::decode(message, lane.spec()),
        };
        record.decoded(began.elapsed());
        match decoded {
            Ok(Message::Request(request)) => self.request(lane, request, record, message.len()),
            Ok(Message::Cancel(id)) => {
                record.discard();
                self.cancel(&id);
            }
            Err(refused) => self.refuse(refused.id.as_deref(), &refused.failure, record),
        }
    }

    fn request(&mut self, lane: Arc<Lane>, request: Request, record: Record, bytes: usize) {
        if self.knows(&request.id) {
            let taken = "id: expected one that no other request on its way has";
            return self.refuse(None, &Failure::invalid(taken), record);
        }
        match self.enter(bytes) {
            Ok(admitted) => {
                let context = self.context.clone();
                self.begin(Running::new(lane, request, context, (record, admitted)));
            }
            Err(failure) => self.refuse(Some(&request.id), &failure, record),
        }
    }

    fn enter(&mut self, bytes: usize) -> Result<Admitted, Failure> {
        self.grant.again()?;
        // Until now the bytes of the message counted as those of a message on its way. They must not count twice.
        self.hold_input()?;
        let mut admitted = self.net.admission.enter(bytes)?;
        admitted.take(bytes)?;
        Ok(admitted)
    }

    /// Takes room for what nobody has looked at, and for nothing else.
    fn hold_input(&mut self) -> Result<(), Failure> {
        self.admitted
            .hold(self.decoder.held() + self.input.bytes.len())
    }

    /// Runs a request, or lets it wait until another one has ended.
    fn begin(&mut self, running: Running) {
        if self.ids.len() >= self.net.config.max_streams as usize {
            self.waiting = Some(running);
            return;
        }
        let id = Arc::clone(&running.id);
        let (running, abort) = stream::abortable(running);
        self.ids.push((id, abort));
        self.running.push(running);
    }

    fn knows(&self, id: &str) -> bool {
        self.waits(id) || self.ids.iter().any(|(known, _)| &**known == id)
    }

    fn waits(&self, id: &str) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_some_and(|running| &*running.id == id)
    }

    /// Ends a request. One that is not known may have ended by itself.
    fn cancel(&mut self, id: &str) {
        let Some(at) = self.ids.iter().position(|(known, _)| &**known == id) else {
            return;
        };
        let (_, abort) = self.ids.swap_remove(at);
        abort.abort();
        let cancelled = Failure::new(Code::Cancelled, "the request was cancelled");
        self.say_failure(Some(id), &cancelled);
    }

    fn refuse(&mut self, id: Option<&str>, failure: &Failure, record: Record) {
        record.finish(Err(failure.code));
        self.say_failure(id, failure);
    }

    fn say_failure(&mut self, id: Option<&str>, failure: &Failure) {
        let mut message = Vec::new();
        socket::failure(&mut message, id, failure);
        frames::text(&mut self.out, &message);
    }

    /// Writes an answer, and those that are ready too.
    fn speak(&mut self, mut next: Option<Answer>) {
        while let Some(answer) = next {
            answer.write(&mut self.out);
            if answer.last {
                self.ids.retain(|(id, _)| *id != answer.id);
            }
            if self.out.len() >= TOGETHER {
                return;
            }
            next = self.running.next().now_or_never().flatten();
        }
    }

    fn beat(&mut self) -> Result<(), End> {
        // A client that is not listened to cannot be heard.
        if self.waiting.is_some() {
            self.pulse.silent_beats = 0;
            return Ok(());
        }
        self.pulse.silent_beats += 1;
        match self.pulse.silent_beats {
            1 => (),
            2..=SILENT_BEATS_MAX => frames::ping(&mut self.out),
            _ => return Err(End::Gone),
        }
        let timeout = self.net.config.body_timeout;
        self.pulse.check_pace(self.decoder.is_within(), timeout)
    }

    async fn flush(&mut self, socket: &mut Wire) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        socket.write_all(&self.out).await?;
        self.out.clear();
        self.out.shrink_to(2 * TOGETHER);
        socket.flush().await
    }

    async fn close(mut self, socket: &mut Wire, end: End) {
        self.running = SelectAll::new();
        self.waiting = None;
        let (code, reason) = match end {
            End::Gone => return,
            End::Closed(code) => (code, ""),
            End::Close(code, reason) => (code, reason),
        };
        frames::closing(&mut self.out, code, reason);
        let written = self.flush(socket).await;
        // Nothing that the drain must wait for is left.
        drop(self);
        let shut = written.is_ok() && socket.shutdown().await.is_ok();
        if shut && matches!(end, End::Close(..)) {
            let _ = timeout(LINGER, linger(socket)).await;
        }
    }
}

/// Reads on until the client closes too: bytes that nobody has read would destroy what was written.
async fn linger(socket: &mut Wire) {
    let mut decoder = Decoder::new(0);
    let mut input = BytesMut::new();
    let mut left = LINGER_BYTES;
    loop {
        match decoder.next(&mut input) {
            Ok(Some(Event::Close(_))) => return,
            Ok(Some(_)) => continue,
            Ok(None) => (),
            // What is left of a message that was on its way, above all.
            Err(_) => input.clear(),
        }
        input.reserve(READ_WITHIN);
        match socket.read_buf(&mut input).await {
            Ok(count @ 1..) if count < left => left -= count,
            _ => return,
        }
    }
}

fn beats(beat: Duration) -> Interval {
    let mut beats = interval_at(tokio::time::Instant::now() + beat, beat);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    beats
}

impl Input {
    /// Makes room for what comes next: the rest of a message, or anything. A connection that rests does not keep the room of a message.
    fn make_room(&mut self, within: bool) {
        if self.wide && !within && self.bytes.is_empty() {
            self.bytes = BytesMut::new();
            self.wide = false;
        }
        self.wide |= within;
        self.bytes.reserve(if within { READ_WITHIN } else { READ });
    }
}

impl Pulse {
    fn hear(&mut self, bytes: usize) {
        self.silent_beats = 0;
        self.received += bytes as u64;
    }

    fn ping(&mut self) -> Result<(), End> {
        if self.pings_since.elapsed() >= Duration::from_secs(1) {
            (self.pings, self.pings_since) = (0, Instant::now());
        }
        self.pings += 1;
        if self.pings > PINGS_MAX {
            return Err(Fault::Malformed("more pings than anybody needs").into());
        }
        Ok(())
    }

    /// A message that has begun must grow, as the body of a request must.
    fn check_pace(&mut self, within: bool, timeout: Duration) -> Result<(), End> {
        let now = Instant::now();
        match self.within.filter(|_| within) {
            Some((since, _)) if now.duration_since(since) < timeout => Ok(()),
            // A byte for each millisecond is 1 kB for each second.
            Some((_, before)) if u128::from(self.received - before) < timeout.as_millis() => {
                Err(End::Close(close::POLICY, "the message came too slowly"))
            }
            _ => {
                self.within = within.then_some((now, self.received));
                Ok(())
            }
        }
    }
}

/// A request on its way: what the model gives becomes answers. Dropped before its last one, it is cancelled.
struct Running {
    id: Arc<str>,
    form: Form,
    lane: Arc<Lane>,
    step: Step,
    results: u64,
    /// `None` when the last answer is out.
    going: Option<(Record, Admitted)>,
}

enum Step {
    /// The model has not begun. => Answering, Over
    Opening(BoxFuture<'static, Result<Answers, Failure>>),
    /// => Over
    Answering(Answers),
    /// Final.
    Over,
}

/// What the client gets to read.
struct Answer {
    id: Arc<str>,
    last: bool,
    json: Vec<u8>,
    /// Raw tensors behind the JSON.
    raw: Vec<Bytes>,
}

impl Answer {
    fn write(&self, out: &mut Vec<u8>) {
        if self.raw.is_empty() {
            return frames::text(out, &self.json);
        }
        let length = u32::try_from(self.json.len()).unwrap_or(u32::MAX);
        let length = length.to_le_bytes();
        let head = [length.as_slice(), &self.json];
        let pieces = head.into_iter().chain(self.raw.iter().map(|raw| &**raw));
        frames::binary(out, pieces);
    }
}

impl Running {
    fn new(
        lane: Arc<Lane>,
        request: Request,
        context: Context,
        going: (Record, Admitted),
    ) -> Running {
        let Request {
            id,
            mut meta,
            inputs,
            form,
        } = request;
        meta.id = Some(id.clone());
        let call = context.call(inputs, meta, Instant::now(), lane.deadline());
        let opening = {
            let lane = Arc::clone(&lane);
            async move { lane.stream(call).await }
        };
        Running {
            id: id.into(),
            form,
            lane,
            step: Step::Opening(opening.boxed()),
            results: 0,
            going: Some(going),
        }
    }

    fn result(&mut self, mut outputs: Vec<Tensor>) -> Answer {
        self.results += 1;
        let began = Instant::now();
        let lane = &self.lane;
        if let Form::Outputs(wanted) = &self.form {
            infer::put_classes(lane.spec(), wanted, lane.labels(), &mut outputs);
        }
        let last = !lane.streams();
        let mut json = Vec::new();
        let request = (&*self.id, &self.form);
        let model = (lane.name(), lane.version());
        let written = socket::result(&mut json, model, request, lane.spec(), &outputs, last);
        if let Some((record, _)) = &mut self.going {
            record.encoded(began.elapsed());
        }
        match written {
            Err(failure) => self.failure(&failure),
            Ok(raw) if last => self.last(json, raw, Ok(())),
            Ok(raw) => self.answer(json, raw, false),
        }
    }

    fn failure(&mut self, failure: &Failure) -> Answer {
        let mut json = Vec::new();
        socket::failure(&mut json, Some(&self.id), failure);
        self.last(json, Vec::new(), Err(failure.code))
    }

    fn end(&mut self) -> Answer {
        let mut json = Vec::new();
        socket::end(&mut json, &self.id, self.results);
        self.last(json, Vec::new(), Ok(()))
    }

    fn last(&mut self, json: Vec<u8>, raw: Vec<Bytes>, answer: Result<(), Code>) -> Answer {
        self.step = Step::Over;
        if let Some((record, admitted)) = self.going.take() {
            record.finish(answer);
            drop(admitted);
        }
        self.answer(json, raw, true)
    }

    fn answer(&self, json: Vec<u8>, raw: Vec<Bytes>, last: bool) -> Answer {
        Answer {
            id: Arc::clone(&self.id),
            last,
            json,
            raw,
        }
    }
}

impl Stream for Running {
    type Item = Answer;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Answer>> {
        loop {
            let next = match &mut self.step {
                Step::Over => return Poll::Ready(None),
                Step::Answering(answers) => ready!(answers.poll_next_unpin(cx)),
                Step::Opening(opening) => match ready!(opening.poll_unpin(cx)) {
                    Ok(answers) => {
                        self.step = Step::Answering(answers);
                        continue;
                    }
                    Err(failure) => Some(Err(failure)),
                },
            };
            return Poll::Ready(Some(match next {
                Some(Ok(outputs)) => self.result(outputs),
                Some(Err(failure)) => self.failure(&failure),
                None => self.end(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_of_a_message_is_not_kept() {
        let mut decoder = Decoder::new(1 << 20);
        let mut input = Input {
            bytes: BytesMut::new(),
            wide: false,
        };
        let size = 100 * 1024_u64;
        let head = [&[0x82, 0xff][..], &size.to_be_bytes(), &[0; 4]].concat();
        let mut sent = vec![0; head.len() + 100 * 1024];
        sent[..head.len()].copy_from_slice(&head);
        let mut left = sent.as_slice();
        while !left.is_empty() {
            input.make_room(decoder.is_within());
            let room = input.bytes.capacity() - input.bytes.len();
            let (piece, rest) = left.split_at(room.min(left.len()));
            input.bytes.extend_from_slice(piece);
            left = rest;
            let came = decoder.next(&mut input.bytes).unwrap();
            assert_eq!(came.is_some(), left.is_empty());
        }
        assert!(input.bytes.is_empty() && input.wide);
        input.make_room(decoder.is_within());
        assert!((READ..2 * READ).contains(&input.bytes.capacity()));
    }
}
