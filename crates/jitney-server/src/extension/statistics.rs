//! What models have done.

use std::time::Duration;

use jitney_engine::WorkerStatus;

use crate::failure::Failure;
use crate::models::{Catalog, Lane};
use crate::observe::metrics::{Sum, Totals};
use crate::protocol::extension::statistics::{
    BatchStatistics, InferenceStatistics, MemoryUsage, ModelStatistics, Statistics, Timed,
};

/// What the loaded ones among the models have done that the caller sees.
pub(crate) fn of_all(catalog: &Catalog, sees: impl Fn(&str) -> bool) -> Statistics {
    let statuses = catalog.statuses().into_iter();
    let lanes = statuses
        .filter(|status| sees(&status.name))
        .filter_map(|status| catalog.model(&status.name, Some(&status.version)).ok());
    Statistics {
        model_stats: lanes.map(|lane| of_lane(&lane)).collect(),
    }
}

/// What one version of a model has done; all of its versions that are loaded, where none is named.
///
/// # Errors
/// Those of [`Catalog::model`].
pub(crate) fn of_model(
    catalog: &Catalog,
    name: &str,
    version: Option<&str>,
) -> Result<Statistics, Failure> {
    let asked = catalog.model(name, version)?;
    if version.is_some() {
        return Ok(Statistics {
            model_stats: vec![of_lane(&asked)],
        });
    }
    let versions = catalog.versions(name).into_iter();
    let lanes = versions.filter_map(|version| catalog.model(name, Some(&version)).ok());
    Ok(Statistics {
        model_stats: lanes.map(|lane| of_lane(&lane)).collect(),
    })
}

fn of_lane(lane: &Lane) -> ModelStatistics {
    let totals = lane.totals();
    let batches = totals.batches.iter().map(|(count, _)| count).sum();
    ModelStatistics {
        name: lane.name().to_owned(),
        version: lane.version().to_owned(),
        last_inference: totals.last.map_or(0, millis),
        inference_count: totals.rows,
        execution_count: if lane.streams() {
            totals.run.count
        } else {
            batches
        },
        inference_stats: inference(&totals),
        batch_stats: batch(&totals),
        memory_usage: lane.workers().iter().filter_map(memory).collect(),
    }
}

fn inference(totals: &Totals) -> InferenceStatistics {
    let timed = |sum: Sum| Timed::new(sum.count, sum.time);
    let Totals {
        decode,
        queue,
        run,
        encode,
        failed,
        ..
    } = *totals;
    InferenceStatistics {
        success: Timed::new(run.count, decode.time + queue.time + run.time + encode.time),
        fail: timed(failed),
        queue: timed(queue),
        compute_input: timed(decode),
        compute_infer: timed(run),
        compute_output: timed(encode),
        ..InferenceStatistics::default()
    }
}

fn batch(totals: &Totals) -> Vec<BatchStatistics> {
    let sizes = (1..).zip(&totals.batches);
    sizes
        .filter(|(_, (count, _))| *count > 0)
        .map(|(batch_size, (count, time))| BatchStatistics {
            batch_size,
            compute_input: Timed::new(*count, Duration::ZERO),
            compute_infer: Timed::new(*count, *time),
            compute_output: Timed::new(*count, Duration::ZERO),
        })
        .collect()
}

fn memory(worker: &WorkerStatus) -> Option<MemoryUsage> {
    Some(MemoryUsage {
        kind: "CPU",
        id: i64::try_from(worker.index).ok()?,
        byte_size: worker.resident?,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
