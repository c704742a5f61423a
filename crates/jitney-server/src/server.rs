//! A server: started with [`Server::start`], lived with and drained through [`Running`].

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroUsize;
use std::pin::pin;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use jitney::batch::Courier;
use jitney::tree::Tree;
use jitney::{Cause, Group, Policy, Scope};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::access::{Access, Crowd, KeysError, Tls, TlsError};
use crate::admit::{Admission, Phase};
use crate::config::{Config, NetConfig, SourceError};
use crate::grpc;
use crate::models::Catalog;
use crate::net::{Cors, Door, Http, Jitter, Net, Plane, Seats, Serves, are_private, listener};
use crate::observe::logging::Levels;
use crate::observe::metrics::Metrics;

/// Ready sockets that a data-plane thread takes up before it looks what else there is to do. With hundreds at once, a request's memory has
/// left the caches by the time its answer is written: 64 instead of all of 256 gave a fifth more requests per second.
const SOCKETS_AT_ONCE: usize = 64;
/// How often files that may change are looked at. A change counts when it was there twice.
const LOOK_AT_FILES: Duration = Duration::from_millis(500);
/// How long connections are given, after the drain, to write what they still have.
const CLOSING: Duration = Duration::from_secs(2);
/// How long models are given to end after that. None has work left; one that is loading or hangs is left behind.
const MODELS_END: Duration = Duration::from_secs(1);

/// The way to start a server.
#[derive(Debug)]
pub struct Server;

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {error}; choose another address, or stop who uses it")]
    Bind {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system said.
        error: io::Error,
    },
    /// Other machines can reach the address, and the server has no keys.
    #[error(
        "{address} can be reached from other machines, and there are no keys: everybody could run the models\n  hint: make a key with `jitney key new --name NAME` and give the server the file with --keys-file, or listen on 127.0.0.1, or say --insecure where the network itself keeps strangers out"
    )]
    Open {
        /// The address that was asked for.
        address: SocketAddr,
    },
    /// The keys cannot be used.
    #[error(transparent)]
    Keys(#[from] KeysError),
    /// The files of TLS cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The models are not named so that requests can tell them apart.
    #[error(transparent)]
    Models(#[from] SourceError),
    /// The system gave no threads.
    #[error("cannot start the server's threads: {0}")]
    Threads(io::Error),
}

/// A server that runs. Dropping it stops the server at once and waits for its threads; to let it finish its work, [`drain`](Running::drain)
/// and [`wait`](Running::wait) first.
#[derive(Debug)]
pub struct Running {
    address: SocketAddr,
    grpc: Option<SocketAddr>,
    admission: Arc<Admission>,
    catalog: Catalog,
    tree: Tree,
    metrics: Arc<Metrics>,
    drained: watch::Receiver<Option<Drained>>,
    control: Mutex<Option<JoinHandle<()>>>,
}

/// How a server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Requests that were accepted and had not been answered when time was up.
    pub cut: usize,
    /// Streams that still went on when time was up, and were told so with their last message.
    pub streams: usize,
}

impl Drained {
    /// Whether every accepted request was answered.
    pub fn is_clean(self) -> bool {
        self.cut == 0
    }
}

/// The server's control thread ended without a word, which is a bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's control thread panicked; the log has its message")]
pub struct ControlLost;

impl Server {
    /// Starts a server: it listens when this returns, and loads its models meanwhile.
    ///
    /// It needs no runtime around it, and shares nothing with other servers of the process.
    ///
    /// ```
    /// use jitney_server::config::{Config, ModelSource};
    /// use jitney_server::server::Server;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let mut config = Config { models: vec![ModelSource::parse("m=echo:FP32[2]")?], ..Config::default() };
    /// config.net.http = "127.0.0.1:0".parse()?;
    /// let running = Server::start(config)?;
    /// running.wait_ready().await;
    /// println!("POST http://{}/predict/m", running.http_addr());
    /// running.drain();
    /// assert!(running.wait().await?.is_clean());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the address cannot be bound, the threads cannot be started, or two models have one name. A model that cannot be loaded is no
    /// error: the others serve, and its state says why.
    pub fn start(config: Config) -> Result<Running, StartError> {
        let Config {
            net: config,
            mut settings,
            models,
            levels,
        } = config;
        settings.close_limit = Some(config.drain.max(MODELS_END));
        let entrances = entrances(&config)?;
        let address = |grpc: bool| {
            let found = entrances
                .iter()
                .find(|(_, door)| door.serves.includes(grpc));
            found.map(|(_, door)| door.address)
        };
        let private = entrances
            .iter()
            .all(|(_, door)| door.address.ip().to_canonical().is_loopback());
        let access = Access::new(&config, private)?;
        let tls = config.tls.clone().map(Tls::new).transpose()?;
        let asks_clients = config
            .tls
            .as_ref()
            .is_some_and(|tls| tls.client_ca.is_some());
        if !config.has_keys() && !asks_clients && !private {
            tracing::warn!("there are no keys: whoever reaches the server may run its models");
        }
        if config.has_keys() && tls.is_none() && !private {
            tracing::warn!(
                "keys come in clear text, and whoever sees the traffic has them: give the server a certificate with --tls-cert and --tls-key, or put a proxy with TLS in front of it"
            );
        }
        let (address, grpc) = (address(false).unwrap_or(config.http), address(true));
        let tree = Tree::new("jitney");
        let metrics = Arc::new(Metrics::new());
        let (courier, deliver) = Courier::new();
        let catalog = Catalog::start(&models, &settings, &metrics, &tree.root(), Some(&courier))?;
        let admission = Admission::new(config.max_inflight_bytes);
        let parts = Parts {
            config,
            access,
            tls,
            admission: Arc::clone(&admission),
            catalog: catalog.clone(),
            metrics: Arc::clone(&metrics),
            levels,
            tree: tree.clone(),
            deliver: Box::pin(deliver),
        };
        let (drained_sender, drained) = watch::channel(None);
        let (started_sender, started) = sync_channel(1);
        let control = std::thread::Builder::new()
            .name("jitney-control".to_owned())
            .spawn(move || control_thread(parts, entrances, &started_sender, &drained_sender))
            .map_err(StartError::Threads)?;
        let lost = |_| Err(io::Error::other(ControlLost));
        started
            .recv()
            .unwrap_or_else(lost)
            .map_err(StartError::Threads)?;
        Ok(Running {
            address,
            grpc,
            admission,
            catalog,
            tree,
            metrics,
            drained,
            control: Mutex::new(Some(control)),
        })
    }
}

impl Running {
    /// Where the server listens; the real port where 0 was asked for.
    pub fn http_addr(&self) -> SocketAddr {
        self.address
    }

    /// Where the server serves gRPC, if it does; the real port where 0 was asked for.
    pub fn grpc_addr(&self) -> Option<SocketAddr> {
        self.grpc
    }

    /// The server's models.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The server's numbers.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Everything that the server is doing.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Waits until every model is loaded or has failed to.
    ///
    /// Cancel safety: it only waits.
    pub async fn wait_ready(&self) {
        self.catalog.wait_loaded().await;
    }

    /// Begins to shut down, and returns at once: from now on the server is not ready and refuses new work, answers what it has accepted, and
    /// then closes. Calling it again changes nothing.
    pub fn drain(&self) {
        self.admission.advance(Phase::Draining);
    }

    /// Waits until the server has ended: after a [`drain`](Running::drain), or when it is lost.
    ///
    /// # Errors
    /// When the control thread panicked.
    ///
    /// Cancel safety: it only waits, and may be called again.
    pub async fn wait(&self) -> Result<Drained, ControlLost> {
        let mut drained = self.drained.clone();
        let ended = drained.wait_for(Option::is_some).await;
        ended.ok().and_then(|drained| *drained).ok_or(ControlLost)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.admission.advance(Phase::Cut);
        let control = self
            .control
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(control) = control {
            // Its panic was logged where it happened.
            let _ = control.join();
        }
    }
}

/// A socket that listens, and what is behind it.
type Entrance = (TcpListener, Door);

/// Binds the addresses at which the server listens.
fn entrances(config: &NetConfig) -> Result<Vec<Entrance>, StartError> {
    let entrance = |address, serves| -> Result<Entrance, StartError> {
        may_be_reached(config, address)?;
        let bind = |error| StartError::Bind { address, error };
        let socket = listener::bind(address).map_err(bind)?;
        let door = Door::new(config, socket.local_addr().map_err(bind)?, serves);
        Ok((socket, door))
    };
    Ok(match config.grpc {
        None => vec![entrance(config.http, Serves::Http)?],
        Some(grpc) if grpc == config.http => vec![entrance(grpc, Serves::Both)?],
        Some(grpc) => vec![
            entrance(config.http, Serves::Http)?,
            entrance(grpc, Serves::Grpc)?,
        ],
    })
}

/// What the control thread begins with.
struct Parts {
    config: NetConfig,
    access: Arc<Access>,
    tls: Option<Tls>,
    admission: Arc<Admission>,
    catalog: Catalog,
    metrics: Arc<Metrics>,
    levels: Option<Arc<dyn Levels>>,
    tree: Tree,
    /// The work of the courier.
    deliver: BoxFuture<'static, ()>,
}

impl Parts {
    fn into_net(
        self,
        doors: Vec<Arc<Door>>,
        group: Group<Infallible>,
        data_plane: Handle,
    ) -> (Arc<Net>, BoxFuture<'static, ()>) {
        let grpc = grpc::Service::new(
            self.catalog.clone(),
            are_private(&doors),
            Arc::clone(&self.admission),
            Arc::clone(&self.metrics),
            self.levels.clone(),
            self.config.max_body_bytes,
            self.config.body_timeout,
        );
        let net = Net {
            doors,
            grpc,
            cors: Cors::new(&self.config),
            access: self.access,
            tls: self.tls,
            crowd: Crowd::new(self.config.max_connections_per_client),
            seats: Seats::new(&self.config),
            http: Http::new(&self.config, &group),
            config: self.config,
            started: Instant::now(),
            admission: self.admission,
            catalog: self.catalog,
            metrics: self.metrics,
            levels: self.levels,
            tree: self.tree,
            jitter: Jitter::default(),
            group,
            data_plane,
        };
        (Arc::new(net), self.deliver)
    }
}

/// The runtimes, and the sockets where the control plane's can wait for them.
struct Planes {
    control: Runtime,
    data: Runtime,
    entrances: Vec<(tokio::net::TcpListener, Arc<Door>)>,
}

impl Planes {
    fn new(workers: Option<NonZeroUsize>, entrances: Vec<Entrance>) -> io::Result<Planes> {
        let workers = workers.map_or_else(std::thread::available_parallelism, Ok)?;
        let control = Builder::new_current_thread().enable_all().build()?;
        let entrances = {
            let _runtime = control.enter();
            let waiting = entrances.into_iter().map(|(socket, door)| {
                tokio::net::TcpListener::from_std(socket).map(|socket| (socket, Arc::new(door)))
            });
            waiting.collect::<io::Result<_>>()?
        };
        let data = Builder::new_multi_thread()
            .worker_threads(workers.get())
            .thread_name("jitney-data")
            .max_io_events_per_tick(SOCKETS_AT_ONCE)
            .enable_all()
            .build()?;
        Ok(Planes {
            control,
            data,
            entrances,
        })
    }
}

/// Everything of the server that is not a model, from start to end. The runtimes live and die here, since a thread that runs somebody else's
/// runtime may not drop them.
fn control_thread(
    parts: Parts,
    entrances: Vec<Entrance>,
    started: &SyncSender<io::Result<()>>,
    drained: &watch::Sender<Option<Drained>>,
) {
    // Whoever starts the server waits for the one message there is room for.
    let (planes, outcome) = match Planes::new(parts.config.workers, entrances) {
        Ok(planes) => (Some(planes), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = started.send(outcome);
    let Some(Planes {
        control,
        data,
        entrances,
    }) = planes
    else {
        return;
    };
    let ended = control.block_on(serve(parts, entrances, data.handle().clone()));
    // Every task has ended, so this waits for threads only.
    data.shutdown_timeout(CLOSING);
    drained.send_replace(ended);
}

async fn serve(
    parts: Parts,
    entrances: Vec<(tokio::net::TcpListener, Arc<Door>)>,
    data_plane: Handle,
) -> Option<Drained> {
    let catalog = parts.catalog.clone();
    let root = parts.tree.root();
    let doors = entrances.iter().map(|(_, door)| Arc::clone(door)).collect();
    let mut ended = None;
    let scope = Scope::named("net").under(&root).policy(Policy::Isolate);
    let outcome = scope
        .run(async |group: Group<Infallible>| {
            let (net, deliver) = parts.into_net(doors, group, data_plane);
            net.spawn(Plane::Data, "courier", deliver);
            net.spawn(Plane::Data, "files", watch_files(Arc::clone(&net)));
            net.spawn(
                Plane::Control,
                "health",
                grpc::look_out(net.catalog.clone()),
            );
            for (socket, door) in entrances {
                net.spawn(
                    Plane::Control,
                    "listener",
                    listener::accept(Arc::clone(&net), door, socket),
                );
            }
            ended = Some(conduct(&net).await);
            net.group.cancel(Cause::Shutdown);
            Ok(())
        })
        .await;
    if let Err(failures) = outcome {
        tracing::error!("tasks of the server failed: {failures}");
    }
    catalog.close();
    if timeout(MODELS_END, catalog.wait_closed()).await.is_err() {
        tracing::warn!("a model still runs or loads; it ends with the process");
    }
    ended
}

/// Every listener passes this before it is bound.
fn may_be_reached(config: &NetConfig, address: SocketAddr) -> Result<(), StartError> {
    if config.may_listen_on(address) {
        return Ok(());
    }
    Err(StartError::Open { address })
}

/// Reads files again when they change.
async fn watch_files(net: Arc<Net>) {
    loop {
        sleep(LOOK_AT_FILES).await;
        net.access.refresh();
        if let Some(tls) = &net.tls {
            tls.refresh();
        }
    }
}

/// Waits for the drain and leads through it. When this returns, what is left is to be cut off.
async fn conduct(net: &Net) -> Drained {
    let admission = &net.admission;
    let mut phase = admission.watch();
    // The sender lives as long as `net`, so waiting for a phase does not fail.
    let _ = phase.wait_for(|phase| *phase >= Phase::Draining).await;
    tracing::info!(in_flight = admission.in_flight(), "draining");
    let mut cut = pin!(phase.wait_for(|phase| *phase >= Phase::Cut));
    tokio::select! {
        biased;
        _ = cut.as_mut() => return Drained { cut: admission.in_flight(), streams: 0 },
        () = admission.wait_idle() => (),
        () = sleep(net.config.drain) => (),
    }
    // The last answers may still be on their way to their sockets, and streams that went on are told why they end; connections close when
    // that is written.
    let streams = net.catalog.cut_streams();
    admission.advance(Phase::Closing);
    tokio::select! {
        _ = cut => (),
        () = net.seats.wait_empty() => (),
        () = sleep(CLOSING) => (),
    }
    Drained {
        cut: admission.in_flight(),
        streams,
    }
}
