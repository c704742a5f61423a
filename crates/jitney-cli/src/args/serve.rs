//! `jitney serve`.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::SOURCES;
use super::load::LoadArgs;

const EXAMPLES: &str = "\
Examples:
  jitney serve examples/digits
  jitney serve model.py:Digits --python .venv/bin/python --reload
  jitney serve digits=model.onnx --http 0.0.0.0:8080 --keys-file keys.toml
  JITNEY_MAX_WAIT_MS=2 jitney serve models/ --config jitney.toml
  jitney serve models/ --control explicit --load-model digits
  jitney serve echo:FP32[16],call_ms=5,row_ms=0.1

A setting is taken from the flag, else from the environment, else from the file, else from the default.
SIGTERM and SIGINT drain: what was accepted is answered, then the server ends with 0. A second signal ends it at once.";

/// Serves models over HTTP
///
/// Prints one line on standard output once every model is loaded, and serves until it is told to stop:
///
///     jitney ready http=127.0.0.1:8080 models=2 in=0.12s
///
/// Where gRPC is served, the line says `grpc=` and its address too.
///
/// A model that cannot be loaded is logged and answers 503; the others are served. When none can be loaded, the command ends with 1.
#[derive(Args, Debug)]
#[command(after_help = SOURCES, after_long_help = format!("{SOURCES}\n\n{EXAMPLES}"))]
pub(crate) struct ServeArgs {
    /// What to serve: SOURCE or NAME=SOURCE
    #[arg(value_name = "SOURCE")]
    pub(crate) sources: Vec<String>,

    /// The address of the HTTP server; port 0 takes a free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "JITNEY_HTTP", value_parser = address)]
    pub(crate) http: Option<SocketAddr>,

    /// The address of the gRPC server; that of --http serves both on one port [default: gRPC is not served]
    #[arg(long, value_name = "ADDR", env = "JITNEY_GRPC", value_parser = address)]
    pub(crate) grpc: Option<SocketAddr>,

    /// A name under which the server may be called, as HOST or HOST:PORT; may be said several times [default: the loopback names on a
    /// loopback address, else every name]
    #[arg(
        long,
        value_name = "HOST",
        env = "JITNEY_ALLOWED_HOST",
        value_delimiter = ','
    )]
    pub(crate) allowed_host: Option<Vec<String>>,

    /// A regular expression: header fields whose names it matches are among the parameters that a model is given [default: none]
    #[arg(long, value_name = "REGEX", env = "JITNEY_FORWARD_HEADER_PATTERN")]
    pub(crate) forward_header_pattern: Option<String>,

    /// The origin of web pages that may call the server, as https://HOST; may be said several times [default: the server's own]
    #[arg(
        long,
        value_name = "ORIGIN",
        env = "JITNEY_ALLOWED_ORIGIN",
        value_delimiter = ','
    )]
    pub(crate) allowed_origin: Option<Vec<String>>,

    /// A TOML file with settings and models
    #[arg(long, value_name = "FILE", env = "JITNEY_CONFIG")]
    pub(crate) config: Option<PathBuf>,

    /// When models are loaded and unloaded: `none`, at the start alone; `poll`, also when their files change, come or go; `explicit`, also
    /// when a request says so [default: none]
    #[arg(long, value_name = "MODE", env = "JITNEY_CONTROL", value_parser = ["none", "poll", "explicit"])]
    pub(crate) control: Option<String>,

    /// Loads a model again when its files change: the same as `--control poll`, unless that says otherwise [default: off]
    #[arg(long, env = "JITNEY_RELOAD")]
    pub(crate) reload: bool,

    /// With `--control explicit`, a model to load at the start; `*` is every one, `none` is none; may be said several times [default: *]
    #[arg(
        long,
        value_name = "NAME",
        env = "JITNEY_LOAD_MODEL",
        value_delimiter = ','
    )]
    pub(crate) load_model: Option<Vec<String>>,

    /// Which versions of each model are served: `latest`, `latest:N`, `all`, or versions with commas between them [default: latest]
    #[arg(long, value_name = "VERSIONS", env = "JITNEY_VERSIONS")]
    pub(crate) versions: Option<String>,

    #[command(flatten)]
    pub(crate) batching: BatchingArgs,

    #[command(flatten)]
    pub(crate) limits: LimitArgs,

    #[command(flatten)]
    pub(crate) access: AccessArgs,

    #[command(flatten)]
    pub(crate) load: LoadArgs,
}

/// Settings about forming batches.
#[derive(Args, Debug)]
#[command(next_help_heading = "Batching")]
pub(crate) struct BatchingArgs {
    /// Most rows in a batch [default: 32]
    #[arg(long, value_name = "N", env = "JITNEY_MAX_BATCH")]
    pub(crate) max_batch: Option<usize>,

    /// Longest time a request is held back for others to join its batch; a lone request never waits [default: 5]
    #[arg(long, value_name = "MS", env = "JITNEY_MAX_WAIT_MS")]
    pub(crate) max_wait_ms: Option<f64>,

    /// Instances of each model: threads that run it, or processes of a Python model [default: chosen for the machine]
    #[arg(long, value_name = "N", env = "JITNEY_INSTANCES")]
    pub(crate) instances: Option<usize>,
}

/// How long things may take, and how many may wait.
#[derive(Args, Debug)]
#[command(next_help_heading = "Limits")]
pub(crate) struct LimitArgs {
    /// Most requests waiting for one model; more are refused with 429 [default: 256]
    #[arg(long, value_name = "N", env = "JITNEY_QUEUE")]
    pub(crate) queue: Option<usize>,

    /// How long a request may take when it does not say [default: 30000]
    #[arg(long, value_name = "MS", env = "JITNEY_DEADLINE_MS")]
    pub(crate) deadline_ms: Option<f64>,

    /// How long a model may run on one batch before it is given up [default: 30000]
    #[arg(long, value_name = "MS", env = "JITNEY_RUN_LIMIT_MS")]
    pub(crate) run_limit_ms: Option<f64>,

    /// How long accepted requests may take to finish once the server is told to stop [default: 30000]
    #[arg(long, value_name = "MS", env = "JITNEY_DRAIN_MS")]
    pub(crate) drain_ms: Option<f64>,
}

/// Who may come in, and how much each may have.
#[derive(Args, Debug)]
#[command(next_help_heading = "Access")]
pub(crate) struct AccessArgs {
    /// A TOML file with the keys that clients must send, as `jitney key new` makes them; read again when it changes [default: everybody may
    /// come in]
    #[arg(long, value_name = "FILE", env = "JITNEY_KEYS_FILE")]
    pub(crate) keys_file: Option<PathBuf>,

    /// Listens where other machines can reach the server though it has no keys [default: off]
    #[arg(long, env = "JITNEY_INSECURE")]
    pub(crate) insecure: bool,

    /// The server's certificate for TLS, in PEM, with those between it and a root; read again when it changes [default: no TLS]
    #[arg(long, value_name = "FILE", env = "JITNEY_TLS_CERT")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// The private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", env = "JITNEY_TLS_KEY")]
    pub(crate) tls_key: Option<PathBuf>,

    /// The roots that clients' certificates must come from, in PEM [default: clients need no certificate]
    #[arg(long, value_name = "FILE", env = "JITNEY_TLS_CLIENT_CA")]
    pub(crate) tls_client_ca: Option<PathBuf>,

    /// Most connections of one client at a time [default: 1000 for clients on other machines]
    #[arg(long, value_name = "N", env = "JITNEY_MAX_CONNECTIONS_PER_CLIENT")]
    pub(crate) max_connections_per_client: Option<usize>,

    /// Most requests of one client in a second, a client being a key, or an address where there are no keys; more are refused with 429
    /// [default: no limit]
    #[arg(long, value_name = "N", env = "JITNEY_MAX_REQUESTS_PER_SECOND")]
    pub(crate) max_requests_per_second: Option<usize>,
}

/// Reads an address to listen on, and says what one looks like.
fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse().map_err(
        |_| "expected an IP address and a port, as in 127.0.0.1:8080, [::1]:8080 or 0.0.0.0:8080",
    )
}
