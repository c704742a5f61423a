//! Accepting connections, and choosing the thread that serves each.
//!
//! Health and metrics must answer while every data-plane thread parses a large body. A connection belongs to one runtime, so the choice is made
//! once, from its first bytes, which are looked at without being taken. Load balancers and scrapers open connections for control requests alone
//! and clients for inference alone, so the first request tells the rest. Where it does not, the answer is still right: a control request on
//! the data plane is answered there, and an inference request on the control thread is run on the data plane.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::connection::{self, Arrived, Plane, Room, Speech};
use super::transport::Transport;
use super::{Door, Net, reply, router};
use crate::access::Place;
use crate::admit::Phase;
use crate::config::NetConfig;

/// Connections that wait in the kernel to be accepted.
const BACKLOG: i32 = 1024;
/// Connections of the control thread that have seats of their own, which clients of models cannot take. Those that ask for health first
/// can, and stay: who comes after them has a seat like any other.
const CONTROL_SEATS: usize = 256;
/// How long a client that is turned away is given to read why.
const FAREWELL: Duration = Duration::from_secs(1);
/// How long accepting pauses when the process has no descriptor left.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(5);
/// How often that is worth a line in the log.
const WARNING_PAUSE: Duration = Duration::from_secs(1);

/// How many connections there may be, each kind for itself.
#[derive(Debug)]
pub(crate) struct Seats {
    /// For those that were accepted and have not shown what they want: as many as for data.
    arrivals: Arc<Semaphore>,
    /// Woken for whoever has arrived first and said nothing since, to leave for somebody else.
    leave: Notify,
    control: Arc<Semaphore>,
    data: Arc<Semaphore>,
    data_max: u32,
}

impl Seats {
    pub(crate) fn new(config: &NetConfig) -> Seats {
        let data_max = config.max_connections.clamp(1, Semaphore::MAX_PERMITS);
        let data_max = u32::try_from(data_max).unwrap_or(u32::MAX);
        Seats {
            arrivals: Arc::new(Semaphore::new(data_max as usize)),
            leave: Notify::new(),
            control: Arc::new(Semaphore::new(CONTROL_SEATS)),
            data: Arc::new(Semaphore::new(data_max as usize)),
            data_max,
        }
    }

    /// Waits until no connection is left. To be used when none can come any more.
    pub(crate) async fn wait_empty(&self) {
        // Neither semaphore is ever closed, so these do not fail.
        let _ = self.control.acquire_many(CONTROL_SEATS as u32).await;
        let _ = self.data.acquire_many(self.data_max).await;
    }

    /// A seat for one who arrives. Where there is none, the one who has been silent the longest leaves: connections that say nothing must not
    /// keep a health check waiting.
    async fn arrival(&self) -> Option<OwnedSemaphorePermit> {
        if let Ok(seat) = Arc::clone(&self.arrivals).try_acquire_owned() {
            return Some(seat);
        }
        self.leave.notify_one();
        // The semaphore is never closed, so this does not fail.
        Arc::clone(&self.arrivals).acquire_owned().await.ok()
    }

    /// Lets the one who has been silent the longest leave, if there is one.
    fn make_room(&self) {
        // Without this check the word would wait for the next one who arrives.
        if self.arrivals.available_permits() < self.data_max as usize {
            self.leave.notify_one();
        }
    }

    /// A seat for a connection that this plane serves, if there is one. What begins with a health check need not be a probe: clients of models
    /// do too, and then infer on the same connection. Where they have taken the seats of control, any seat will do for the next probe, which
    /// the control thread serves nevertheless.
    fn take(&self, plane: Plane) -> Option<OwnedSemaphorePermit> {
        let seat = match plane {
            Plane::Control => self.control(),
            Plane::Data => None,
        };
        seat.or_else(|| Arc::clone(&self.data).try_acquire_owned().ok())
    }

    /// One of the seats that only control has.
    fn control(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.control).try_acquire_owned().ok()
    }
}

/// Binds a listening socket that does not block.
pub(crate) fn bind(address: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    // A server that was restarted must not wait for the old one's closed connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the drain has finished its requests. The port is closed when this returns.
///
/// While the drain waits for requests, connections are still accepted: they get an answer, which says that the server is shutting down.
pub(crate) async fn accept(net: Arc<Net>, door: Arc<Door>, listener: TcpListener) {
    let mut phase = net.admission.watch();
    tokio::select! {
        () = accept_all(&net, &door, &listener) => (),
        _ = phase.wait_for(|phase| *phase >= Phase::Closing) => (),
    }
}

async fn accept_all(net: &Arc<Net>, door: &Arc<Door>, listener: &TcpListener) {
    let mut warned: Option<Instant> = None;
    loop {
        match listener.accept().await {
            Ok((socket, from)) => {
                net.metrics.server().connections_accepted.add(1);
                let Some(place) = net.crowd.enter(from.ip()) else {
                    // Closed without a word, which costs less than any.
                    net.metrics.server().connections_refused.add(1);
                    continue;
                };
                let Some(arrival) = net.seats.arrival().await else {
                    return;
                };
                net.spawn(
                    Plane::Control,
                    "arrival",
                    arrive(
                        Arc::clone(net),
                        Arc::clone(door),
                        socket,
                        from.ip(),
                        place,
                        arrival,
                    ),
                );
            }
            Err(error) if concerns_one_connection(&error) => (),
            Err(error) => {
                if warned.is_none_or(|warned| warned.elapsed() >= WARNING_PAUSE) {
                    tracing::warn!(%error, "connections cannot be accepted");
                    warned = Some(Instant::now());
                }
                net.seats.make_room();
                tokio::time::sleep(EXHAUSTED_PAUSE).await;
            }
        }
    }
}

fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset
    )
}

async fn arrive(
    net: Arc<Net>,
    door: Arc<Door>,
    socket: TcpStream,
    from: IpAddr,
    place: Place,
    arrival: OwnedSemaphorePermit,
) {
    let first_head_by = Instant::now() + net.config.header_timeout;
    let mut first = [0; 512];
    let said = tokio::select! {
        biased;
        said = timeout_at(first_head_by, socket.peek(&mut first)) => said,
        () = net.seats.leave.notified() => return,
    };
    let Ok(Ok(count @ 1..)) = said else {
        return;
    };
    let plane = match net.tls {
        // What it wants is not to be seen yet.
        Some(_) => Plane::Data,
        None => plane_of(&first[..count]),
    };
    let Some(seat) = net.seats.take(plane) else {
        net.metrics.server().connections_refused.add(1);
        // Boxed, since its buffer would be part of every arrival.
        return Box::pin(turn_away(&net, socket)).await;
    };
    // Small answers must not wait for the acknowledgement of the ones before.
    let _ = socket.set_nodelay(true);
    let mut arrived = Arrived {
        door,
        transport: Transport::plain(socket),
        from,
        room: Room { place, seat },
        first_head_by,
        speech: Speech::of(&first[..count]),
    };
    if arrived.transport.leave().is_err() {
        return;
    }
    match &net.tls {
        None => hand_over(&net, plane, arrived),
        Some(tls) => {
            let agree = agree(Arc::clone(&net), tls.acceptor(), arrived);
            net.spawn(plane, "handshake", agree);
        }
    }
    drop(arrival);
}

fn plane_of(first: &[u8]) -> Plane {
    if router::begins_with_control(first) {
        Plane::Control
    } else {
        Plane::Data
    }
}

fn hand_over(net: &Arc<Net>, plane: Plane, arrived: Arrived) {
    net.spawn(
        plane,
        "connection",
        connection::drive(Arc::clone(net), plane, arrived),
    );
}

/// Agrees with a client on TLS, and then sees what it wants. On the data plane, since agreeing takes a thread a good part of a millisecond:
/// many at once would keep the control thread from what it is there for.
async fn agree(net: Arc<Net>, acceptor: TlsAcceptor, mut arrived: Arrived) {
    let agreed = timeout_at(arrived.first_head_by, in_tls(&acceptor, arrived.transport));
    // Whoever cannot agree was told so by TLS, as far as it has a word for it.
    let Ok(Ok((transport, speech, mut plane))) = agreed.await else {
        return;
    };
    arrived.transport = transport;
    arrived.speech = speech;
    if plane == Plane::Control {
        match net.seats.control() {
            Some(seat) => arrived.room.seat = seat,
            // It keeps the seat that it has.
            None => plane = Plane::Data,
        }
    }
    hand_over(&net, plane, arrived);
}

async fn in_tls(
    acceptor: &TlsAcceptor,
    plain: Transport,
) -> io::Result<(Transport, Speech, Plane)> {
    let mut transport = plain.into_tls(acceptor).await?;
    let first = transport.first_bytes().await?;
    let (speech, plane) = (Speech::of(first), plane_of(first));
    transport.leave()?;
    Ok((transport, speech, plane))
}

/// Says why, and gives the client a moment to read it: a socket that is closed with unread bytes destroys what was written to it.
async fn turn_away(net: &Net, mut socket: TcpStream) {
    // With TLS there is no way to say anything yet.
    if net.tls.is_some() {
        return;
    }
    let farewell = async {
        socket.write_all(&reply::turned_away(&net.jitter)).await?;
        socket.shutdown().await?;
        let mut scratch = [0; 4096];
        while socket.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(FAREWELL, farewell).await;
}
