//! One connection: hyper on a checked socket, until the client, idleness or the drain ends it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use http::{Request, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use jitney::Group;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use super::framing::{Fault, HeadLimits};
use super::screen::{Patience, Screen};
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
    /// What was found wrong in the byte stream.
    pub(crate) fault: Arc<OnceLock<Fault>>,
    active: AtomicUsize,
    begun: AtomicUsize,
    speaks_http2: AtomicBool,
    /// What the connection becomes when hyper has written that it does.
    upgrade: Mutex<Option<Box<Upgrade>>>,
}

/// The checked bytes of a connection, and as hyper holds them.
pub(crate) type Wire = Screen<Transport>;
pub(crate) type Socket = TokioIo<Wire>;

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
            fault: Arc::default(),
            active: AtomicUsize::new(0),
            begun: AtomicUsize::new(0),
            speaks_http2: AtomicBool::new(false),
            upgrade: Mutex::default(),
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

    /// Whether there is no request now, and none has begun since the count was `before`.
    fn idle_since(&self, before: usize) -> bool {
        self.active.load(Ordering::Relaxed) == 0 && self.begun.load(Ordering::Relaxed) == before
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
        Arc::clone(&peer.fault),
    );
    let service = service_fn(|request: Request<Incoming>| {
        if request.version() == Version::HTTP_2 {
            peer.speaks_http2.store(true, Ordering::Relaxed);
        }
        exchange::on_data_plane(Arc::clone(&peer), request)
    });
    {
        let socket = Socket::new(wire);
        let connection = net.http.serve_connection_with_upgrades(socket, service);
        until_over(&peer, pin!(connection)).await;
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

async fn until_over(peer: &Peer, mut connection: Pin<&mut impl GracefulConnection>) {
    let mut look = pin!(tokio::time::sleep(peer.net.config.idle_timeout));
    let mut begun = 0;
    let mut end = pin!(told_to_end(peer));
    let mut ending = false;
    loop {
        tokio::select! {
            biased;
            // Errors of a connection are its client's affair: it has left, or its requests were answered with what is wrong.
            _ = connection.as_mut() => return,
            () = look.as_mut() => {
                match peer.idle_since(begun) {
                    // It was asked to end and does not, since its client does not read: it is dropped.
                    true if ending => return,
                    true => {
                        ending = true;
                        connection.as_mut().graceful_shutdown();
                    }
                    false => (),
                }
                begun = peer.begun.load(Ordering::Relaxed);
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

/// The settings of hyper, which are the same for every connection.
pub(crate) fn http(config: &NetConfig, group: &Group<Infallible>) -> auto::Builder<Executor> {
    const PING: Duration = Duration::from_secs(20);
    /// What hyper takes by itself, and more quickly than a number that is set.
    const HYPER_MAX_HEADERS: usize = 100;
    let mut http = auto::Builder::new(Executor(group.named("stream")));
    // The screen has checked every head before hyper sees it, so these limits only have to let through what passed.
    http.http1()
        .max_buf_size(config.max_header_bytes.max(256 * 1024));
    if config.max_headers > HYPER_MAX_HEADERS {
        http.http1().max_headers(config.max_headers);
    }
    // Beyond this limit h2 refuses without a word, so it is twice ours, and what lies between is refused with one.
    let header_list = u32::try_from(config.max_header_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_streams)
        .max_header_list_size(header_list)
        .max_pending_accept_reset_streams(Some(20))
        .max_local_error_reset_streams(Some(256))
        .initial_stream_window_size(Some(256 * 1024))
        .initial_connection_window_size(Some(1024 * 1024))
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
