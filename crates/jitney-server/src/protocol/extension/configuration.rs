//! How a model is served, in the words of Triton's model configuration.

use std::collections::BTreeMap;

use serde::Serialize;

/// The configuration of a loaded model. What is not Triton's to know is left out, and what clients look up without asking whether it is there
/// is always written.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Configuration {
    /// The name by which requests call it.
    pub name: String,
    /// What runs it, as in the metadata.
    pub platform: String,
    /// The engine.
    pub backend: String,
    /// Which versions are served.
    pub version_policy: VersionPolicy,
    /// Most rows in a request; 0 where the tensors have no batch axis.
    pub max_batch_size: i32,
    /// The inputs.
    pub input: Vec<Input>,
    /// The outputs.
    pub output: Vec<Output>,
    /// What runs side by side.
    pub instance_group: Vec<InstanceGroup>,
    /// Empty: files are the server's own matter.
    pub default_model_filename: &'static str,
    /// How requests are joined, where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic_batching: Option<DynamicBatching>,
    /// Whether a request may have any number of answers.
    pub model_transaction_policy: TransactionPolicy,
    /// What else is set.
    pub parameters: BTreeMap<&'static str, Parameter>,
}

/// Which versions of a model are served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum VersionPolicy {
    /// The highest.
    Latest {
        /// How many of them.
        num_versions: u32,
    },
    /// All.
    All {},
    /// These.
    Specific {
        /// Their numbers.
        versions: Vec<i64>,
    },
}

/// An input.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Input {
    /// Its name.
    pub name: String,
    /// Its datatype.
    pub data_type: &'static str,
    /// `FORMAT_NONE`.
    pub format: &'static str,
    /// The dimensions of a row, -1 for any size.
    pub dims: Vec<i64>,
    /// False.
    pub is_shape_tensor: bool,
    /// False: requests with rows of different shapes are not joined.
    pub allow_ragged_batch: bool,
    /// False.
    pub optional: bool,
}

/// An output.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Output {
    /// Its name.
    pub name: String,
    /// Its datatype.
    pub data_type: &'static str,
    /// The dimensions of a row, -1 for any size.
    pub dims: Vec<i64>,
    /// Empty: files are the server's own matter.
    pub label_filename: &'static str,
    /// False.
    pub is_shape_tensor: bool,
}

/// Instances of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceGroup {
    /// A name.
    pub name: String,
    /// `KIND_CPU`, or `KIND_MODEL` where the model decides.
    pub kind: &'static str,
    /// How many.
    pub count: i32,
    /// None.
    pub gpus: [i32; 0],
}

/// How requests are joined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DynamicBatching {
    /// The size that batches aim at now; it is learned.
    pub preferred_batch_size: Vec<i32>,
    /// Longest time that a request is held back for others to join.
    pub max_queue_delay_microseconds: u64,
}

/// How many answers a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TransactionPolicy {
    /// Whether any number is possible.
    pub decoupled: bool,
}

/// The value of a parameter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Parameter {
    /// As text.
    pub string_value: String,
}

/// The configuration's word for a datatype.
///
/// ```
/// use jitney_engine::DataType;
/// use jitney_server::protocol::extension::configuration::data_type;
///
/// assert_eq!(data_type(DataType::Fp32), "TYPE_FP32");
/// assert_eq!(data_type(DataType::Bytes), "TYPE_STRING");
/// ```
pub const fn data_type(datatype: jitney_engine::DataType) -> &'static str {
    use jitney_engine::DataType;
    match datatype {
        DataType::Bool => "TYPE_BOOL",
        DataType::Uint8 => "TYPE_UINT8",
        DataType::Uint16 => "TYPE_UINT16",
        DataType::Uint32 => "TYPE_UINT32",
        DataType::Uint64 => "TYPE_UINT64",
        DataType::Int8 => "TYPE_INT8",
        DataType::Int16 => "TYPE_INT16",
        DataType::Int32 => "TYPE_INT32",
        DataType::Int64 => "TYPE_INT64",
        DataType::Fp16 => "TYPE_FP16",
        DataType::Bf16 => "TYPE_BF16",
        DataType::Fp32 => "TYPE_FP32",
        DataType::Fp64 => "TYPE_FP64",
        DataType::Bytes => "TYPE_STRING",
    }
}
