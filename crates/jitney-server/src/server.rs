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

use crate::access::Access;
use crate::admit::{Admission, Phase};
use crate::config::{Config, NetConfig, SourceError};
use crate::models::Catalog;
use crate::net::{Jitter, Net, Plane, Seats, Sites, http, listener};
use crate::observe::logging::Levels;
use crate::observe::metrics::Metrics;

/// Ready sockets that a data-plane thread takes up before it looks what else there is to do. With hundreds at once, a request's memory has
/// left the caches by the time its answer is written: 64 instead of all of 256 gave a fifth more requests per second.
const SOCKETS_AT_ONCE: usize = 64;
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
        let bind = |error| StartError::Bind {
            address: config.http,
            error,
        };
        let socket = listener::bind(config.http).map_err(bind)?;
        let address = socket.local_addr().map_err(bind)?;
        let tree = Tree::new("jitney");
        let metrics = Arc::new(Metrics::new());
        let (courier, deliver) = Courier::new();
        let catalog = Catalog::start(&models, &settings, &metrics, &tree.root(), Some(&courier))?;
        let admission = Admission::new(config.max_inflight_bytes);
        let parts = Parts {
            config,
            address,
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
            .spawn(move || control_thread(parts, socket, &started_sender, &drained_sender))
            .map_err(StartError::Threads)?;
        let lost = |_| Err(io::Error::other(ControlLost));
        started
            .recv()
            .unwrap_or_else(lost)
            .map_err(StartError::Threads)?;
        Ok(Running {
            address,
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

/// What the control thread begins with.
struct Parts {
    config: NetConfig,
    address: SocketAddr,
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
        group: Group<Infallible>,
        data_plane: Handle,
    ) -> (Arc<Net>, BoxFuture<'static, ()>) {
        let net = Net {
            sites: Sites::new(&self.config, self.address),
            access: Access,
            seats: Seats::new(&self.config),
            http: http(&self.config, &group),
            config: self.config,
            started: Instant::now(),
            address: self.address,
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

/// The runtimes, and the socket where the control plane's can wait for it.
struct Planes {
    control: Runtime,
    data: Runtime,
    socket: tokio::net::TcpListener,
}

impl Planes {
    fn new(workers: Option<NonZeroUsize>, socket: TcpListener) -> io::Result<Planes> {
        let workers = workers.map_or_else(std::thread::available_parallelism, Ok)?;
        let control = Builder::new_current_thread().enable_all().build()?;
        let socket = {
            let _runtime = control.enter();
            tokio::net::TcpListener::from_std(socket)?
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
            socket,
        })
    }
}

/// Everything of the server that is not a model, from start to end. The runtimes live and die here, since a thread that runs somebody else's
/// runtime may not drop them.
fn control_thread(
    parts: Parts,
    socket: TcpListener,
    started: &SyncSender<io::Result<()>>,
    drained: &watch::Sender<Option<Drained>>,
) {
    // Whoever starts the server waits for the one message there is room for.
    let (planes, outcome) = match Planes::new(parts.config.workers, socket) {
        Ok(planes) => (Some(planes), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let _ = started.send(outcome);
    let Some(Planes {
        control,
        data,
        socket,
    }) = planes
    else {
        return;
    };
    let ended = control.block_on(serve(parts, socket, data.handle().clone()));
    // Every task has ended, so this waits for threads only.
    data.shutdown_timeout(CLOSING);
    drained.send_replace(ended);
}

async fn serve(
    parts: Parts,
    socket: tokio::net::TcpListener,
    data_plane: Handle,
) -> Option<Drained> {
    let catalog = parts.catalog.clone();
    let root = parts.tree.root();
    let mut ended = None;
    let scope = Scope::named("net").under(&root).policy(Policy::Isolate);
    let outcome = scope
        .run(async |group: Group<Infallible>| {
            let (net, deliver) = parts.into_net(group, data_plane);
            net.spawn(Plane::Data, "courier", deliver);
            net.spawn(
                Plane::Control,
                "listener",
                listener::accept(Arc::clone(&net), socket),
            );
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
        _ = cut.as_mut() => return Drained { cut: admission.in_flight() },
        () = admission.wait_idle() => (),
        () = sleep(net.config.drain) => (),
    }
    // The last answers may still be on their way to their sockets, and streams that went on are told why they end; connections close when
    // that is written.
    net.catalog.cut_streams();
    admission.advance(Phase::Closing);
    tokio::select! {
        _ = cut => (),
        () = net.seats.wait_empty() => (),
        () = sleep(CLOSING) => (),
    }
    Drained {
        cut: admission.in_flight(),
    }
}
