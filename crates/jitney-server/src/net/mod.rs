//! The network face: sockets, HTTP, and the handlers that take a request through the server.
//!
//! In the order of a request: [`listener`] accepts a connection and chooses its thread, [`screen`] and [`framing`] check what comes in,
//! [`connection`] drives hyper, [`exchange`] takes one request to one answer, [`router`] names its route, [`checks`] look at its head,
//! [`body`] reads it, and [`coding`] inflates it, [`infer`], [`control`] and [`manage`] answer it, [`reply`] writes the answer.

mod body;
mod checks;
mod coding;
mod connection;
mod control;
mod exchange;
mod framing;
mod infer;
pub(crate) mod listener;
mod manage;
mod payload;
mod record;
mod reply;
mod router;
mod screen;
mod sse;
mod stream;
mod websocket;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use hyper_util::server::conn::auto;
use jitney::Group;
use jitney::tree::Tree;
use tokio::runtime::Handle;

pub(crate) use self::checks::Sites;
pub(crate) use self::connection::{Executor, Plane, http};
pub(crate) use self::listener::Seats;
pub(crate) use self::reply::Jitter;
use crate::access::Access;
use crate::admit::Admission;
use crate::config::NetConfig;
use crate::models::Catalog;
use crate::observe::logging::Levels;
use crate::observe::metrics::Metrics;

/// What every connection of one server shares.
pub(crate) struct Net {
    pub(crate) config: NetConfig,
    /// Since when the server runs.
    pub(crate) started: Instant,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    pub(crate) sites: Sites,
    pub(crate) access: Access,
    pub(crate) seats: Seats,
    pub(crate) admission: Arc<Admission>,
    pub(crate) catalog: Catalog,
    pub(crate) metrics: Arc<Metrics>,
    /// The switches of the process's log, where the server may set them.
    pub(crate) levels: Option<Arc<dyn Levels>>,
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
