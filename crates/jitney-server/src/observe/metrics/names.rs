//! Every metric by name. The documentation's table is this one.

use prometheus_client::metrics::MetricType;

/// What a metric counts or measures in. Its word ends the metric's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the word says it")]
pub enum Unit {
    Seconds,
    Bytes,
    Ratio,
    Requests,
    Items,
    Rows,
    Batches,
    Instances,
    Connections,
    Workers,
    Results,
    Reloads,
    /// 1 for yes and 0 for no.
    Ready,
    /// A constant 1 whose labels carry the information.
    Build,
}

impl Unit {
    /// The word at the end of the name.
    pub const fn word(self) -> &'static str {
        match self {
            Unit::Seconds => "seconds",
            Unit::Bytes => "bytes",
            Unit::Ratio => "ratio",
            Unit::Requests => "requests",
            Unit::Items => "items",
            Unit::Rows => "rows",
            Unit::Batches => "batches",
            Unit::Instances => "instances",
            Unit::Connections => "connections",
            Unit::Workers => "workers",
            Unit::Results => "results",
            Unit::Reloads => "reloads",
            Unit::Ready => "ready",
            Unit::Build => "build",
        }
    }
}

/// One metric: its name without the suffixes that the format adds (`_total`, `_bucket`, `_info`), and what it says.
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// The name, which ends with the unit.
    pub name: &'static str,
    /// What it is measured in.
    pub unit: Unit,
    /// Counter, gauge, histogram or info.
    pub kind: MetricType,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// One sentence without its full stop, which the format adds.
    pub help: &'static str,
}

const MODEL: &[&str] = &["model", "version"];
const COUNTER: MetricType = MetricType::Counter;
const GAUGE: MetricType = MetricType::Gauge;
const HISTOGRAM: MetricType = MetricType::Histogram;

macro_rules! metrics {
    ($($constant:ident = $name:literal, $unit:ident, $kind:expr, $labels:expr, $help:literal;)*) => {
        $(#[doc = $help]
        pub const $constant: Metric =
            Metric { name: $name, unit: Unit::$unit, kind: $kind, labels: $labels, help: $help };)*

        /// Every metric, in the order of the scrape.
        pub const ALL: &[Metric] = &[$($constant),*];
    };
}

metrics! {
    BUILD = "jitney_build", Build, MetricType::Info, &["program"],
        "The version of the program";
    UPTIME = "jitney_uptime_seconds", Seconds, GAUGE, &[],
        "Time since the server started";
    CONNECTIONS = "jitney_connections", Connections, GAUGE, &[],
        "Connections that are open now";
    CONNECTIONS_ACCEPTED = "jitney_accepted_connections", Connections, COUNTER, &[],
        "Connections that were accepted";
    CONNECTIONS_REFUSED = "jitney_refused_connections", Connections, COUNTER, &[],
        "Connections that were closed at once because too many were open";
    INFLIGHT_BYTES = "jitney_inflight_bytes", Bytes, GAUGE, &[],
        "Bytes of request bodies that the server holds now";
    REQUESTS = "jitney_requests", Requests, COUNTER, &["model", "version", "route", "code"],
        "HTTP requests that ended, by route and by the stable word of their answer; the model is empty where none was reached";
    REQUEST_SECONDS = "jitney_request_seconds", Seconds, HISTOGRAM, MODEL,
        "Time from the first byte of a request's body to the last byte of its answer being ready, for requests answered with a prediction";
    PHASE_SECONDS = "jitney_request_phase_seconds", Seconds, HISTOGRAM, &["model", "version", "phase"],
        "Where the time of answered requests went: decode, queue (no instance was free), hold (the door was open for others), run, encode";
    RELOADS = "jitney_model_reloads", Reloads, COUNTER, &["model", "version", "outcome"],
        "Loads of the model after its files changed: ok, failed (the one before went on)";
    READY = "jitney_model_ready", Ready, GAUGE, MODEL,
        "1 while the model can be called, else 0";
    ITEMS_RECEIVED = "jitney_received_items", Items, COUNTER, MODEL,
        "Items handed to the model's batcher; a request to the batch route has many";
    ITEMS = "jitney_ended_items", Items, COUNTER, &["model", "version", "outcome"],
        "Items by how they ended: ok, failed, refused, expired, cancelled; with those queued and running they add up to the received";
    ITEMS_REFUSED = "jitney_refused_items", Items, COUNTER, &["model", "version", "cause"],
        "Items that were refused at once, by cause: full, too_late, too_large, closed, failed";
    ITEMS_QUARANTINED = "jitney_quarantined_items", Items, COUNTER, MODEL,
        "Items that were answered without being run because the same input had crashed the model or made it hang";
    STREAMED = "jitney_streamed_results", Results, COUNTER, MODEL,
        "Results that were given to the readers of streams";
    ITEMS_QUEUED = "jitney_queued_items", Items, GAUGE, MODEL,
        "Items that wait for an instance now";
    ITEMS_RUNNING = "jitney_running_items", Items, GAUGE, MODEL,
        "Items inside the model now";
    OLDEST_ITEM = "jitney_oldest_item_seconds", Seconds, GAUGE, MODEL,
        "How long the oldest waiting item has waited";
    BATCHES = "jitney_batches", Batches, COUNTER, &["model", "version", "reason"],
        "Batches by why they left: full, idle, gain (more were not worth waiting for), deadline, drain";
    BATCH_ROWS = "jitney_batch_rows", Rows, HISTOGRAM, MODEL,
        "Rows in a batch";
    BATCH_AIM = "jitney_batch_aim_rows", Rows, GAUGE, MODEL,
        "The batch size that the batcher aims at now";
    BATCH_GAIN = "jitney_batch_gain_ratio", Ratio, GAUGE, MODEL,
        "The throughput expected at that batch size, as a multiple of running one row at a time";
    INSTANCES = "jitney_instances", Instances, GAUGE, MODEL,
        "Instances of the model that are alive";
    INSTANCES_REPLACED = "jitney_replaced_instances", Instances, COUNTER, MODEL,
        "Instances that were replaced because they panicked or ran past the limit";
    WORKERS = "jitney_workers", Workers, GAUGE, MODEL,
        "Processes of the model that are alive; only of models that run in processes of their own";
    WORKERS_RESTARTED = "jitney_restarted_workers", Workers, COUNTER, MODEL,
        "Processes of the model that were started again: after a crash or a hang, or in their turn";
    WORKERS_RESIDENT = "jitney_workers_resident_bytes", Bytes, GAUGE, MODEL,
        "Resident memory of the model's processes, all together";
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_end_with_their_unit() {
        let mut seen = HashSet::new();
        for metric in ALL {
            assert!(seen.insert(metric.name), "{} stands twice", metric.name);
            assert!(metric.name.starts_with("jitney_"), "{}", metric.name);
            assert!(metric.name.ends_with(metric.unit.word()), "{}", metric.name);
            assert!(
                !metric.help.ends_with('.'),
                "{}: the format adds it",
                metric.name
            );
        }
    }
}
