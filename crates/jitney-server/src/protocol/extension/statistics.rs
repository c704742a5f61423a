//! What models have done: Triton's statistics extension.

use std::time::Duration;

use serde::Serialize;

/// The answer: `{"model_stats": [..]}`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// One for each version of each model.
    pub model_stats: Vec<ModelStatistics>,
}

/// What one version of one model has done since it was loaded for the first time.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ModelStatistics {
    /// The name by which requests call it.
    pub name: String,
    /// The version.
    pub version: String,
    /// When the last request came, in milliseconds since the epoch; 0 before the first.
    pub last_inference: u64,
    /// Rows that were answered.
    pub inference_count: u64,
    /// Batches that were run; streams, where the model answers with streams.
    pub execution_count: u64,
    /// Requests, and where their time went.
    pub inference_stats: InferenceStatistics,
    /// Batches by their size.
    pub batch_stats: Vec<BatchStatistics>,
    /// Memory of the processes that run it; empty where it runs in the server's own.
    pub memory_usage: Vec<MemoryUsage>,
}

/// Requests, and where their time went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InferenceStatistics {
    /// Answered requests, with all of the parts below.
    pub success: Timed,
    /// Requests that the queue refused or the model failed.
    pub fail: Timed,
    /// Waiting for an instance, and for others to share the batch.
    pub queue: Timed,
    /// Reading bodies into tensors. A body with several requests counts once.
    pub compute_input: Timed,
    /// Inside the model.
    pub compute_infer: Timed,
    /// Writing tensors into answers.
    pub compute_output: Timed,
    /// Nothing: answers are not kept for equal requests.
    pub cache_hit: Timed,
    /// Nothing.
    pub cache_miss: Timed,
}

/// The batches of one size.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BatchStatistics {
    /// Rows in the batch.
    pub batch_size: u64,
    /// Nothing: joining the rows is part of what is below.
    pub compute_input: Timed,
    /// From the batch's start to its end.
    pub compute_infer: Timed,
    /// Nothing: taking the rows apart is part of what is above.
    pub compute_output: Timed,
}

/// The memory of one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUsage {
    /// `CPU`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The number of the process among those of the model.
    pub id: i64,
    /// Resident bytes.
    pub byte_size: u64,
}

/// A number of things and the time they took together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Timed {
    /// How many.
    pub count: u64,
    /// How long, in nanoseconds.
    pub ns: u64,
}

impl Timed {
    /// So many things that took so long together.
    pub fn new(count: u64, time: Duration) -> Timed {
        Timed {
            count,
            ns: u64::try_from(time.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}
