//! How a loaded model is served.

use jitney_engine::{Spec, TensorSpec};

use crate::config;
use crate::models::{Lane, Sharing};
use crate::protocol::extension::configuration::{
    Configuration, DynamicBatching, Input, InstanceGroup, Output, Parameter, TransactionPolicy,
    VersionPolicy, data_type,
};

/// The configuration of a loaded model, as it turned out and not only as it was said.
pub(crate) fn of_lane(lane: &Lane) -> Configuration {
    let spec = lane.spec();
    let inputs = spec.inputs.iter();
    let outputs = spec.outputs.iter();
    Configuration {
        name: lane.name().to_owned(),
        platform: lane.platform().to_owned(),
        backend: lane.engine().to_owned(),
        version_policy: version_policy(lane.version_policy()),
        max_batch_size: if spec.batched() {
            count(lane.max_rows())
        } else {
            0
        },
        input: inputs.map(|tensor| input(spec, tensor)).collect(),
        output: outputs.map(|tensor| output(spec, tensor)).collect(),
        instance_group: vec![InstanceGroup {
            name: format!("{}_0", lane.name()),
            kind: "KIND_CPU",
            count: count(lane.instances()),
            gpus: [],
        }],
        default_model_filename: "",
        dynamic_batching: dynamic_batching(lane),
        model_transaction_policy: TransactionPolicy {
            decoupled: lane.streams(),
        },
        parameters: [
            ("deadline_ms", lane.deadline().as_millis().to_string()),
            ("threads", lane.threads().to_string()),
        ]
        .map(|(name, string_value)| (name, Parameter { string_value }))
        .into(),
    }
}

fn version_policy(policy: &config::VersionPolicy) -> VersionPolicy {
    match policy {
        config::VersionPolicy::Latest(count) => VersionPolicy::Latest {
            num_versions: u32::try_from(count.get()).unwrap_or(u32::MAX),
        },
        config::VersionPolicy::All => VersionPolicy::All {},
        config::VersionPolicy::Listed(versions) => VersionPolicy::Specific {
            versions: versions
                .iter()
                .filter_map(|version| version.parse().ok())
                .collect(),
        },
    }
}

fn dynamic_batching(lane: &Lane) -> Option<DynamicBatching> {
    let Sharing::Together { .. } = lane.sharing() else {
        return None;
    };
    let micros = lane.max_wait().as_micros();
    Some(DynamicBatching {
        preferred_batch_size: vec![count(lane.stats().aim)],
        max_queue_delay_microseconds: u64::try_from(micros).unwrap_or(u64::MAX),
    })
}

fn input(spec: &Spec, tensor: &TensorSpec) -> Input {
    Input {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype),
        format: "FORMAT_NONE",
        dims: dims(spec, tensor),
        is_shape_tensor: false,
        allow_ragged_batch: false,
        optional: false,
    }
}

fn output(spec: &Spec, tensor: &TensorSpec) -> Output {
    Output {
        name: tensor.name.clone(),
        data_type: data_type(tensor.datatype),
        dims: dims(spec, tensor),
        label_filename: "",
        is_shape_tensor: false,
    }
}

/// The dimensions without the batch axis, where there is one.
fn dims(spec: &Spec, tensor: &TensorSpec) -> Vec<i64> {
    let mut dims = tensor.protocol_shape();
    if spec.batched() && !dims.is_empty() {
        dims.remove(0);
    }
    dims
}

fn count(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
