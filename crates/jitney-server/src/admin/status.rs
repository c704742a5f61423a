//! The JSON at `/status`, which the page reads each second.

use jitney_engine::TensorSpec;
use serde::Serialize;

/// Everything the page shows.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The server itself.
    pub server: Server,
    /// Its models, in the order of their names.
    pub models: Vec<Model>,
}

/// The server itself.
#[derive(Clone, Debug, Serialize)]
pub struct Server {
    /// The name of the program.
    pub name: &'static str,
    /// Its version.
    pub version: &'static str,
    /// Seconds since it started.
    pub uptime_s: f64,
    /// What it is doing.
    pub state: ServerState,
}

/// What the server is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// Some models are still loading.
    Starting,
    /// Every model that can be loaded is.
    Ready,
    /// It answers what it accepted, and refuses the rest.
    Draining,
}

/// One version of one model.
#[derive(Clone, Debug, Serialize)]
pub struct Model {
    /// The name by which requests call it.
    pub name: String,
    /// Its version.
    pub version: String,
    /// One sentence of its `model.toml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Whether it can be asked.
    pub state: ModelState,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What runs it.
    pub engine: String,
    /// Its inputs; empty until it is loaded.
    pub inputs: Vec<Tensor>,
    /// Its outputs; empty until it is loaded.
    pub outputs: Vec<Tensor>,
    /// Its batcher's counts, once it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// How long its requests took, once there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_ms: Option<Latency>,
    /// The input a person can draw.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sketch: Option<Sketch>,
    /// The names of its scores, in order; empty where it has none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub labels: Vec<String>,
}

/// Whether a model can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the words of the wire say it")]
pub enum ModelState {
    Loading,
    Ready,
    Failed,
    Closed,
}

/// One input or output.
#[derive(Clone, Debug, Serialize)]
pub struct Tensor {
    /// Its name.
    pub name: String,
    /// Its type by the protocol's name, such as `FP32`.
    pub datatype: &'static str,
    /// Its dimensions, `-1` where any number goes.
    pub shape: Vec<i64>,
}

/// The counts of a model's batcher since the start, and its state of this moment.
#[derive(Clone, Debug, Serialize)]
#[expect(missing_docs, reason = "the fields of `jitney::batch::Stats`, which explains them")]
pub struct Stats {
    pub received: u64,
    pub ok: u64,
    pub failed: u64,
    pub refused: u64,
    pub expired: u64,
    pub cancelled: u64,
    pub queued: usize,
    pub running: usize,
    pub instances: usize,
    pub replaced: u64,
    pub aim: usize,
    pub gain: f64,
    pub batches: Reasons,
    pub batch_rows: Vec<u64>,
}

/// Batches by the reason why they left.
#[derive(Clone, Copy, Debug, Serialize)]
#[expect(missing_docs, reason = "the reasons of `jitney::batch::Reason`")]
pub struct Reasons {
    pub full: u64,
    pub idle: u64,
    pub gain: u64,
    pub deadline: u64,
    pub drain: u64,
}

/// How long requests took, by phase.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// From submission until an instance was free.
    pub queue: Quantiles,
    /// While the batch was held open for others.
    pub hold: Quantiles,
    /// Inside the model.
    pub run: Quantiles,
    /// From the last byte of the request to the first of the answer.
    pub total: Quantiles,
}

/// Two quantiles, in milliseconds; `null` on the wire where there is nothing to tell.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Quantiles {
    /// Half of the requests took at most this long.
    pub p50: Option<f64>,
    /// All but one in a hundred took at most this long.
    pub p99: Option<f64>,
}

/// An input a person can draw.
#[derive(Clone, Debug, Serialize)]
pub struct Sketch {
    /// The name of the input; the first one where nothing is said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Pixels from left to right.
    pub width: usize,
    /// Pixels from top to bottom.
    pub height: usize,
    /// The value of a pixel full of ink; paper is 0.
    pub max: f64,
}

/// The status as JSON.
pub fn body(status: &Status) -> Vec<u8> {
    // Writing to memory cannot fail, and every key above is a string.
    serde_json::to_vec(status).unwrap_or_default()
}

impl From<&TensorSpec> for Tensor {
    fn from(spec: &TensorSpec) -> Tensor {
        Tensor {
            name: spec.name.clone(),
            datatype: spec.datatype.name(),
            shape: spec.protocol_shape(),
        }
    }
}

impl From<jitney::batch::Stats> for Stats {
    fn from(stats: jitney::batch::Stats) -> Stats {
        let [full, idle, gain, deadline, drain] = stats.batches;
        Stats {
            received: stats.received,
            ok: stats.ok,
            failed: stats.failed,
            refused: stats.refused,
            expired: stats.expired,
            cancelled: stats.cancelled,
            queued: stats.queued,
            running: stats.running,
            instances: stats.instances,
            replaced: stats.replaced,
            aim: stats.aim,
            gain: stats.gain,
            batches: Reasons {
                full,
                idle,
                gain,
                deadline,
                drain,
            },
            batch_rows: stats.batch_rows,
        }
    }
}
