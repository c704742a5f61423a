//! One connection: hyper on a checked socket, until the client, idleness or the drain ends it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use jitney::Group;
use tokio::io::AsyncWriteExt;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::framing::HeadLimits;
use super::payload::{Body, Watch};
use super::reply::Reply;
use super::screen::{Patience, Screen, Signs};
use super::transport::Transport;
use super::websocket::Upgrade;
use super::{Door, Net, exchange};
use crate::access::Place;
use crate::admit::Phase;
use crate::config::NetConfig;

/// The thread, or threads, on which something runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plane {
    /// One thread for health, metrics and the like, which must answer whatever the models do.
    Control,
    /// As many threads as there are cores, for inference.
    Data,
}

/// The other end of a connection, as its requests see it.
pub(crate) struct Peer {
    pub(crate) net: Arc<Net>,
    pub(crate) door: Arc<Door>,
    pub(crate) plane: Plane,
    /// Where it is.
    pub(crate) from: IpAddr,
    pub(crate) signs: Arc<Signs>,
    active: AtomicUsize,
    begun: AtomicUsize,
    speaks_http2: AtomicBool,
    /// What the connection becomes when hyper has written that it does.
    upgrade: Mutex<Option<Box<Upgrade>>>,
    /// Its answers that may go on for ever, as long as they are taken.
    streams: Mutex<Vec<Watch>>,
}

/// The checked bytes of a connection, and as hyper holds them.
pub(crate) type Wire = Screen<Transport>;
pub(crate) type Socket = TokioIo<Wire>;

/// After so long without a request a connection rests, at the latest after twice that.
const RESTS_AFTER: Duration = Duration::from_millis(500);

/// As long as a client that does not read may hold up the end of its connection.
const CLOSES_WITHIN: Duration = Duration::from_secs(1);

/// A request of a connection that has not ended.
pub(crate) struct Active<'a>(&'a Peer);

/// The same for as long as its answer is being written.
pub(crate) struct Answering(Arc<Peer>);

impl Peer {
    fn new(net: Arc<Net>, door: Arc<Door>, plane: Plane, from: IpAddr) -> Peer {
        Peer {
            net,
            door,
            plane,
            from,
            signs: Arc::default(),
            active: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            speaks_http2: AtomicBool::new(false),
            upgrade: Mutex::default(),
            streams: Mutex::default(),
        }
    }

    /// Counts a request until the guard is dropped.
    pub(crate) fn begin_request(&self) -> Active<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Active(self)
    }

    /// Counts the request on for as long as its answer is being written.
    pub(crate) fn answering(self: &Arc<Self>) -> Answering {
        self.active.fetch_add(1, Ordering::Relaxed);
        Answering(Arc::clone(self))
    }

    /// The connection becomes this as soon as the answer to the request is written.
    pub(crate) fn upgrade(&self, upgrade: Upgrade) {
        *self.upgrade.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(upgrade));
    }

    fn take_upgrade(&self) -> Option<Box<Upgrade>> {
        let mut upgrade = self.upgrade.lock().unwrap_or_else(PoisonError::into_inner);
        upgrade.take()
    }

    /// The same answer, which ends when its reader takes nothing of it.
    pub(crate) fn stream(&self, body: Body) -> Body {
        let (body, watch) = body.watched();
        let mut streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        streams.retain(|stream| !stream.is_over());
        streams.push(watch);
        body
    }

    /// Ends the answers that nobody takes. Over HTTP/2 the socket does not show that: others may go on beside them.
    fn give_up_streams(&self) {
        let streams = self.streams.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in &*streams {
            stream.give_up_after(self.net.config.idle_timeout);
        }
    }

    fn look(&self) -> Look {
        Look {
            at: Instant::now(),
            begun: self.begun.load(Ordering::Relaxed),
            written: self.signs.written(),
        }
    }

    /// Whether there is no request now, and since that look none has begun and no answer went on.
    fn idle_since(&self, before: Look) -> bool {
        self.active.load(Ordering::Relaxed) == 0 && self.look().is_idle_since(before)
    }
}

/// What there had been on a connection at a moment.
#[derive(Clone, Copy, Debug)]
struct Look {
    at: Instant,
    /// Requests.
    begun: usize,
    /// Bytes.
    written: u64,
}

impl Look {
    /// A client that takes an answer slowly is no idle one, but it must take a byte for each millisecond, which is 1 kB for each second.
    /// The pings of HTTP/2, which never end, are far less.
    fn is_idle_since(self, before: Look) -> bool {
        let millis = self.at.duration_since(before.at).as_millis();
        self.begun == before.begun && u128::from(self.written - before.written) < millis
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection that was accepted and may be served.
pub(crate) struct Arrived {
    /// Where it came in.
    pub(crate) door: Arc<Door>,
    /// Out of its runtime, so that it can be taken to any.
    pub(crate) transport: Transport,
    pub(crate) from: IpAddr,
    pub(crate) room: Room,
    /// When the head of its first request must be complete.
    pub(crate) first_head_by: Instant,
    pub(crate) speech: Speech,
}

/// What the first bytes of a connection say of its protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// They are not how HTTP/2 begins.
    Http1,
    /// They may be.
    Unsaid,
}

impl Speech {
    pub(crate) fn of(first: &[u8]) -> Speech {
        const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        let common = first.len().min(PREFACE.len());
        match first[..common] == PREFACE[..common] {
            true => Speech::Unsaid,
            false => Speech::Http1,
        }
    }
}

/// What a connection takes up until it ends.
pub(crate) struct Room {
    /// Among the connections of its client.
    #[expect(dead_code, reason = "it is given back when it is dropped")]
    pub(crate) place: Place,
    /// Among those of its plane.
    pub(crate) seat: OwnedSemaphorePermit,
}

/// Serves a connection to its end.
pub(crate) async fn drive(net: Arc<Net>, plane: Plane, arrived: Arrived) {
    let Arrived {
        door,
        mut transport,
        from,
        room,
        first_head_by,
        speech,
    } = arrived;
    if transport.arrive().is_err() {
        return;
    }
    let peer = Arc::new(Peer::new(Arc::clone(&net), door, plane, from));
    let patience = Patience {
        first_head_by,
        head: net.config.header_timeout,
        write: net.config.idle_timeout,
    };
    let wire = Screen::new(
        transport,
        head_limits(&net.config),
        patience,
        Arc::clone(&peer.signs),
    );
    match speech {
        Speech::Http1 => http1(&peer, wire).await,
        Speech::Unsaid => any_http(&peer, wire).await,
    }
    match peer.take_upgrade() {
        None => drop(room),
        // The control thread must not read messages.
        Some(upgrade) if plane == Plane::Control => {
            let session = async move {
                upgrade.drive(&peer).await;
                drop(room);
            };
            net.spawn(Plane::Data, "websocket", session);
        }
        Some(upgrade) => {
            upgrade.drive(&peer).await;
            drop(room);
        }
    }
}

/// Answers the requests of a connection.
fn service(
    peer: &Arc<Peer>,
) -> impl Service<
    Request<Incoming>,
    Response = Reply,
    Error = Infallible,
    Future: Future<Output = Result<Reply, Infallible>> + Send,
> + Unpin
+ use<> {
    let peer = Arc::clone(peer);
    service_fn(move |request: Request<Incoming>| {
        if request.version() == Version::HTTP_2 {
            peer.speaks_http2.store(true, Ordering::Relaxed);
        }
        exchange::on_data_plane(Arc::clone(&peer), request)
    })
}

/// Serves a connection that speaks HTTP/1.1 alone. While its client asks for nothing it rests: hyper, whose buffers are most of what a
/// connection takes up, is taken off it until something comes.
async fn http1(peer: &Arc<Peer>, mut wire: Wire) {
    loop {
        let http = &peer.net.http.http1;
        let connection = http.serve_connection(Socket::new(wire), service(peer));
        // On the heap, so that a connection that rests does not keep the room for it.
        let served = Box::pin(until_quiet(peer, connection.with_upgrades())).await;
        let Some(quiet) = served else { return };
        wire = quiet;
        if !rest(peer, &mut wire).await {
            // Over TLS a client can tell the end from a cut by this alone.
            let _ = tokio::time::timeout(CLOSES_WITHIN, wire.shutdown()).await;
            return;
        }
    }
}

/// Serves until the connection is over, or, which gives its bytes back, until it has been quiet for a while.
async fn until_quiet<S>(
    peer: &Peer,
    mut connection: http1::UpgradeableConnection<Socket, S>,
) -> Option<Wire>
where
    S: Service<Request<Incoming>, Response = Reply, Error = Infallible> + Unpin,
    S::Future: Send,
{
    let mut look = pin!(tokio::time::sleep(RESTS_AFTER));
    let (mut before, mut busy) = (peer.look(), Instant::now());
    let mut end = pin!(told_to_end(peer));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            // Errors of a connection are its client's affair: it has left, or its requests were answered with what is wrong.
            _ = Pin::new(&mut connection) => return None,
            () = look.as_mut() => {
                if !peer.idle_since(before) {
                    busy = Instant::now();
                } else if peer.signs.quiet() && !ending {
                    return quiet(connection);
                } else if busy.elapsed() > 2 * peer.net.config.idle_timeout {
                    // Its client neither asks nor reads.
                    return None;
                }
                before = peer.look();
                look.as_mut().reset(Instant::now() + RESTS_AFTER);
            }
            () = end.as_mut(), if !ending => {
                ending = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// Takes hyper off a connection. A quiet one has nothing in hyper's buffers.
fn quiet<S>(connection: http1::UpgradeableConnection<Socket, S>) -> Option<Wire>
where
    S: Service<Request<Incoming>, Response = Reply, Error = Infallible>,
{
    let parts = connection.into_parts()?;
    debug_assert!(parts.read_buf.is_empty());
    Some(parts.io.into_inner())
}

/// Waits until the client asks for something; false when the connection is over.
async fn rest(peer: &Peer, wire: &mut Wire) -> bool {
    tokio::select! {
        biased;
        stirred = wire.stir() => stirred,
        () = told_to_end(peer) => false,
        () = tokio::time::sleep(peer.net.config.idle_timeout) => false,
    }
}

/// Serves a connection whose version of HTTP is still to be seen.
async fn any_http(peer: &Arc<Peer>, wire: Wire) {
    let either = &peer.net.http.either;
    let connection = either.serve_connection(Socket::new(wire), service(peer));
    until_over(peer, pin!(connection)).await;
}

async fn until_over(peer: &Peer, mut connection: Pin<&mut impl GracefulConnection>) {
    let mut look = pin!(tokio::time::sleep(peer.net.config.idle_timeout));
    let mut before = peer.look();
    let mut end = pin!(told_to_end(peer));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            // Errors of a connection are its client's affair: it has left, or its requests were answered with what is wrong.
            _ = connection.as_mut() => return,
            () = look.as_mut() => {
                peer.give_up_streams();
                match peer.idle_since(before) {
                    // It was asked to end and does not, since its client does not read: it is dropped.
                    true if ending => return,
                    true => {
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    false => (),
                }
                before = peer.look();
                look.as_mut().reset(Instant::now() + peer.net.config.idle_timeout);
            }
            () = end.as_mut(), if !ending => {
                ending = true;
                connection.as_mut().graceful_shutdown();
            }
        }
    }
}

/// Ready when the drain has come to this connection.
///
/// HTTP/2 has a word for it, so its clients are told at once and can take new requests elsewhere. An HTTP/1.1 connection without a request
/// could only be closed, and a request that is on its way at this moment would be lost: it stays until nothing is in flight, and what
/// arrives until then is refused with an answer.
async fn told_to_end(peer: &Peer) {
    let mut phase = peer.net.admission.watch();
    // The sender lives as long as `net`, so these do not fail.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    if !peer.speaks_http2.load(Ordering::Relaxed) {
        let _ = phase.wait_for(|phase| *phase >= Phase::Closing).await;
    }
}

fn head_limits(config: &NetConfig) -> HeadLimits {
    HeadLimits {
        bytes: config.max_header_bytes,
        fields: config.max_headers,
    }
}

/// hyper with its settings, which are the same for every connection.
pub(crate) struct Http {
    http1: http1::Builder,
    either: auto::Builder<Executor>,
}

impl Http {
    pub(crate) fn new(config: &NetConfig, group: &Group<Infallible>) -> Http {
        /// What hyper takes by itself, and more quickly than a number that is set.
        const HYPER_MAX_HEADERS: usize = 100;
        // The screen has checked every head before hyper sees it, so these limits only have to let through what passed.
        let buffer = config.max_header_bytes.max(256 * 1024);
        let mut http1 = http1::Builder::new();
        let mut either = either(config, group);
        http1.max_buf_size(buffer);
        either.http1().max_buf_size(buffer);
        if config.max_headers > HYPER_MAX_HEADERS {
            http1.max_headers(config.max_headers);
            either.http1().max_headers(config.max_headers);
        }
        Http { http1, either }
    }
}

fn either(config: &NetConfig, group: &Group<Infallible>) -> auto::Builder<Executor> {
    const PING: Duration = Duration::from_secs(20);
    // What a stream may send ahead, which bounds how fast a large tensor comes from afar.
    const STREAM_WINDOW: u32 = 256 * 1024;
    // That of many streams whose requests wait for a model, and are not read, together: where all of it is unread, nothing else comes in.
    // h2 takes half of it for the cost of small frames that are not read, 256 bytes for each, and ends the connection beyond that.
    const CONNECTION_WINDOW: u32 = 32 * STREAM_WINDOW;
    let mut http = auto::Builder::new(Executor(group.named("stream")));
    // Beyond this limit h2 refuses without a word, so it is twice ours, and what lies between is refused with one.
    let header_list = u32::try_from(config.max_header_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(header_list)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .initial_stream_window_size(Some(STREAM_WINDOW))
        .initial_connection_window_size(Some(CONNECTION_WINDOW))
        .max_send_buf_size(256 * 1024)
        .keep_alive_interval(Some(PING))
        .keep_alive_timeout(PING);
    http
}

/// Runs the streams of HTTP/2 connections as tasks of the server's group.
#[derive(Clone)]
pub(crate) struct Executor(Group<Infallible>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        drop(self.0.spawn(async {
            stream.await;
            Ok(())
        }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_goes_on_is_no_idleness_and_pings_are() {
        let before = Look {
            at: Instant::now(),
            begun: 7,
            written: 1000,
        };
        let later = |begun, bytes| Look {
            at: before.at + Duration::from_secs(120),
            begun: before.begun + begun,
            written: before.written + bytes,
        };
        let table = [
            ("nothing", later(0, 0), true),
            ("a request", later(1, 0), false),
            ("pings, and answers to pings", later(0, 12 * 17 * 20), true),
            ("an answer that is taken slowly", later(0, 120_000), false),
        ];
        for (what, look, idle) in table {
            assert_eq!(look.is_idle_since(before), idle, "{what}");
        }
    }
}
