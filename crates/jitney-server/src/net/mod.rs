//! The network face: sockets, HTTP, and the handlers that take a request through the server.
//!
//! In the order of a request: [`listener`] accepts a connection and chooses its thread, [`screen`] and [`framing`] check what comes in,
//! [`connection`] drives hyper, [`exchange`] takes one request to one answer, [`router`] names its route, [`checks`] look at its head,
//! [`body`] reads it, [`infer`] and [`control`] answer it, [`reply`] writes the answer.

mod body;
mod checks;
mod connection;
mod control;
mod exchange;
mod framing;
mod infer;
pub(crate) mod listener;
mod record;
mod reply;
mod router;
mod screen;

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper_util::server::conn::auto;
use jitney::Group;
use jitney::tree::Tree;
use tokio::runtime::Handle;

pub(crate) use self::checks::Sites;
pub(crate) use self::connection::{Executor, Plane, http};
pub(crate) use self::listener::Seats;
pub(crate) use self::reply::Jitter;
use crate::admit::Admission;
use crate::models::Catalog;
use crate::observe::metrics::Metrics;

/// How the server listens, and what it grants to strangers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetConfig {
    /// Where HTTP/1.1 and HTTP/2 are served. Port 0 takes a free one. Default `127.0.0.1:8080`.
    pub http: SocketAddr,
    /// Threads of the data plane. Default: as many as the machine has cores.
    pub workers: Option<NonZeroUsize>,
    /// Most connections at a time; beyond it only control requests are served. Default 16384.
    pub max_connections: usize,
    /// Most bytes in the body of one request. Default 64 MiB.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies held at a time, all requests together. Default 512 MiB.
    pub max_inflight_bytes: usize,
    /// Most bytes in the head of one request. Default 32 KiB.
    pub max_header_bytes: usize,
    /// Most header lines of one request. Default 100.
    pub max_headers: usize,
    /// Most requests at a time on one HTTP/2 connection. Default 128.
    pub max_streams: u32,
    /// From the first byte of a request's head, or from the connection, to the head's end. Default 10 s.
    pub header_timeout: Duration,
    /// In every such span a body must be finished or grow by at least 1 kB for each second of it. Default 20 s.
    pub body_timeout: Duration,
    /// A connection without a request is closed after this time. Default 120 s.
    pub idle_timeout: Duration,
    /// Longest time a drain waits for requests that were accepted. Default 30 s.
    pub drain: Duration,
    /// Names under which the server may be called, as `host` or `host:port`, beside the loopback names on a loopback address. Without any,
    /// a server on another address answers to every name.
    pub allowed_hosts: Vec<String>,
    /// Origins of web pages that may call the server, such as `https://example.org`, beside its own. Default none.
    pub allowed_origins: Vec<String>,
}

impl Default for NetConfig {
    fn default() -> NetConfig {
        NetConfig {
            http: SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)),
            workers: None,
            max_connections: 16 * 1024,
            max_body_bytes: 64 * 1024 * 1024,
            max_inflight_bytes: 512 * 1024 * 1024,
            max_header_bytes: 32 * 1024,
            max_headers: 100,
            max_streams: 128,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(120),
            drain: Duration::from_secs(30),
            allowed_hosts: Vec::new(),
            allowed_origins: Vec::new(),
        }
    }
}

/// What every connection of one server shares.
pub(crate) struct Net {
    pub(crate) config: NetConfig,
    /// Since when the server runs.
    pub(crate) started: Instant,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) sites: Sites,
    pub(crate) seats: Seats,
    pub(crate) admission: Arc<Admission>,
    pub(crate) catalog: Catalog,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) tree: Tree,
    pub(crate) jitter: Jitter,
    pub(crate) http: auto::Builder<Executor>,
    pub(crate) group: Group<Infallible>,
    /// The runtime that inference runs on.
    pub(crate) data_plane: Handle,
}

impl Net {
    /// Whether only programs of this machine can reach the server, so that it may speak of files and peers.
    pub(crate) fn is_private(&self) -> bool {
        self.address.ip().is_loopback()
    }

    /// Starts a task of the server's group on a plane.
    pub(crate) fn spawn(
        &self,
        plane: Plane,
        name: &str,
        task: impl Future<Output = ()> + Send + 'static,
    ) {
        let _runtime = (plane == Plane::Data).then(|| self.data_plane.enter());
        drop(self.group.named(name).spawn(async {
            task.await;
            Ok(())
        }));
    }
}
