//! The network face: sockets, HTTP, and the handlers that take a request through the server.
//!
//! In the order of a request: [`listener`] accepts a connection and chooses its thread, [`screen`] and [`framing`] check what comes in,
//! [`connection`] drives hyper, [`exchange`] takes one request to one answer, [`router`] names its route, [`checks`] look at its head,
//! [`body`] reads it, and [`coding`] inflates it, [`infer`], [`rpc`], [`control`] and [`manage`] answer it, [`reply`] writes the answer.

mod body;
mod checks;
mod coding;
mod connection;
mod control;
mod cors;
mod exchange;
mod framing;
mod infer;
pub(crate) mod listener;
mod manage;
mod openapi;
mod payload;
mod reply;
mod router;
mod rpc;
mod screen;
mod sse;
mod stream;
mod transport;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use jitney::Group;
use jitney::tree::Tree;
use tokio::runtime::Handle;

use self::checks::Sites;
pub(crate) use self::connection::{Http, Plane};
pub(crate) use self::cors::Cors;
pub(crate) use self::listener::Seats;
pub(crate) use self::reply::Jitter;
use crate::access::{Access, Crowd, Tls};
use crate::admit::Admission;
use crate::config::NetConfig;
use crate::grpc;
use crate::models::Catalog;
use crate::observe::logging::Levels;
use crate::observe::metrics::Metrics;

/// What every connection of one server shares.
pub(crate) struct Net {
    pub(crate) config: NetConfig,
    /// Since when the server runs.
    pub(crate) started: Instant,
    /// Where it listens.
    pub(crate) doors: Vec<Arc<Door>>,
    pub(crate) cors: Cors,
    pub(crate) access: Arc<Access>,
    pub(crate) crowd: Arc<Crowd>,
    pub(crate) tls: Option<Tls>,
    pub(crate) seats: Seats,
    pub(crate) admission: Arc<Admission>,
    pub(crate) catalog: Catalog,
    pub(crate) grpc: grpc::Service,
    pub(crate) metrics: Arc<Metrics>,
    /// The switches of the process's log, where the server may set them.
    pub(crate) levels: Option<Arc<dyn Levels>>,
    pub(crate) tree: Tree,
    pub(crate) jitter: Jitter,
    pub(crate) http: Http,
    pub(crate) group: Group<Infallible>,
    /// The runtime that inference runs on.
    pub(crate) data_plane: Handle,
}

/// An address at which the server listens.
pub(crate) struct Door {
    pub(crate) address: SocketAddr,
    pub(crate) sites: Sites,
    pub(crate) serves: Serves,
}

/// What is served behind a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Serves {
    /// All but gRPC.
    Http,
    Grpc,
    Both,
}

impl Serves {
    /// Whether calls of gRPC are served, or requests of other kinds.
    pub(crate) const fn includes(self, grpc: bool) -> bool {
        match self {
            Serves::Http => !grpc,
            Serves::Grpc => grpc,
            Serves::Both => true,
        }
    }
}

impl Door {
    pub(crate) fn new(config: &NetConfig, address: SocketAddr, serves: Serves) -> Door {
        Door {
            sites: Sites::new(config, address),
            address,
            serves,
        }
    }
}

/// Whether only programs of this machine come in by these doors.
pub(crate) fn are_private(doors: &[Arc<Door>]) -> bool {
    doors
        .iter()
        .all(|door| door.address.ip().to_canonical().is_loopback())
}

impl Net {
    /// Whether only programs of this machine can reach the server, so that it may speak of files and peers.
    pub(crate) fn is_private(&self) -> bool {
        are_private(&self.doors)
    }

    pub(crate) fn levels(&self) -> Option<&dyn Levels> {
        self.levels.as_deref()
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
