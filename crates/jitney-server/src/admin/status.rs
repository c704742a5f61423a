//! The JSON at `/status`, which the page reads each second.

use jitney_engine::{TensorSpec, WorkerStatus};
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
    /// Why it could not be loaded again when its files changed last; the one before goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_message: Option<String>,
    /// What runs it.
    pub engine: String,
    /// Its inputs; empty until it is loaded.
    pub inputs: Vec<Tensor>,
    /// Its outputs; empty until it is loaded.
    pub outputs: Vec<Tensor>,
    /// Its batcher's counts, once it is loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<Stats>,
    /// The processes that run it; left out where it runs in the server's own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub workers: Vec<Worker>,
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
#[expect(
    missing_docs,
    reason = "the fields of `jitney::batch::Stats`, which explains them"
)]
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

/// A process that runs a model.
#[derive(Clone, Debug, Serialize)]
pub struct Worker {
    /// Its number among the model's workers, from 0.
    pub index: usize,
    /// Its process id, while there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// What it is doing: `starting`, `idle`, `busy`, `waiting` (to be started again), `stopping`.
    pub state: &'static str,
    /// How often it was started again.
    pub restarts: u64,
    /// Requests it has answered since it was started.
    pub served: u64,
    /// Its resident memory, where known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
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

impl From<WorkerStatus> for Worker {
    fn from(worker: WorkerStatus) -> Worker {
        Worker {
            index: worker.index,
            pid: worker.pid,
            state: worker.state,
            restarts: worker.restarts,
            served: worker.served,
            resident_bytes: worker.resident,
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

#[cfg(test)]
mod tests {
    use jitney_engine::{DataType, Dim};
    use serde_json::{Value, json};

    use super::*;

    fn written(status: &Status) -> Value {
        serde_json::from_slice(&body(status)).expect("the status is JSON")
    }

    fn server() -> Server {
        Server {
            name: "jitney",
            version: "1.2.3",
            uptime_s: 0.5,
            state: ServerState::Ready,
        }
    }

    fn failed() -> Model {
        Model {
            name: "broken \u{1F4A5} \"model\"".to_owned(),
            version: "1".to_owned(),
            description: None,
            state: ModelState::Failed,
            message: Some("no such file".to_owned()),
            reload_message: None,
            engine: "onnx".to_owned(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            stats: None,
            workers: Vec::new(),
            latency_ms: None,
            sketch: None,
            labels: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let status = Status {
            server: server(),
            models: vec![failed()],
        };
        assert_eq!(
            written(&status),
            json!({
                "server": {"name": "jitney", "version": "1.2.3", "uptime_s": 0.5, "state": "ready"},
                "models": [{
                    "name": "broken \u{1F4A5} \"model\"", "version": "1", "state": "failed", "message": "no such file",
                    "engine": "onnx", "inputs": [], "outputs": [],
                }],
            })
        );
    }

    #[test]
    fn a_ready_model_is_told_in_full() {
        let spec = TensorSpec {
            name: "pixels".to_owned(),
            datatype: DataType::Fp32,
            shape: vec![Dim::Any, Dim::Fixed(64)],
        };
        let quantiles = |p50, p99| Quantiles { p50, p99 };
        let model = Model {
            state: ModelState::Ready,
            message: None,
            inputs: vec![Tensor::from(&spec)],
            stats: Some(Stats::from(jitney::batch::Stats {
                batches: [1, 2, 3, 4, 5],
                batch_rows: vec![6, 7],
                aim: 8,
                gain: f64::NAN,
                ..jitney::batch::Stats::default()
            })),
            latency_ms: Some(Latency {
                queue: quantiles(Some(0.5), Some(1.5)),
                hold: quantiles(None, None),
                run: quantiles(Some(2.0), Some(3.0)),
                total: quantiles(Some(4.0), Some(5.0)),
            }),
            sketch: Some(Sketch {
                input: Some("pixels".to_owned()),
                width: 8,
                height: 8,
                max: 16.0,
            }),
            labels: vec!["zero".to_owned()],
            workers: vec![Worker::from(WorkerStatus {
                index: 0,
                pid: None,
                state: "waiting",
                restarts: 3,
                served: 7,
                resident: Some(1024),
            })],
            ..failed()
        };
        let status = written(&Status {
            server: server(),
            models: vec![model],
        });
        let model = &status["models"][0];
        assert_eq!(
            model["inputs"],
            json!([{"name": "pixels", "datatype": "FP32", "shape": [-1, 64]}])
        );
        assert_eq!(
            model["stats"]["batches"],
            json!({"full": 1, "idle": 2, "gain": 3, "deadline": 4, "drain": 5})
        );
        assert_eq!(model["stats"]["batch_rows"], json!([6, 7]));
        assert_eq!(model["stats"]["aim"], json!(8));
        assert_eq!(model["stats"]["gain"], Value::Null);
        assert_eq!(
            model["latency_ms"]["queue"],
            json!({"p50": 0.5, "p99": 1.5})
        );
        assert_eq!(
            model["latency_ms"]["hold"],
            json!({"p50": null, "p99": null})
        );
        assert_eq!(
            model["sketch"],
            json!({"input": "pixels", "width": 8, "height": 8, "max": 16.0})
        );
        assert_eq!(model["labels"], json!(["zero"]));
        let worker = json!({"index": 0, "state": "waiting", "restarts": 3, "served": 7, "resident_bytes": 1024});
        assert_eq!(model["workers"], json!([worker]));
    }
}
