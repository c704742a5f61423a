//! A scrape: everything that was recorded, and what the batchers say at this moment, as OpenMetrics text.

use std::fmt;
use std::sync::Arc;

use jitney::batch::{Reason, Stats};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::registry;

use super::histogram::{self, Observed};
use super::names::{self, Metric, Unit};
use super::{Cause, ModelMetrics, ModelReading, Phase, Reload, Route, Shared, WorkerReading, lock};

pub(super) struct Scrape(pub(super) Arc<Shared>);

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let readings = match &*lock(&self.0.probe) {
            Some(probe) => probe(),
            None => Vec::new(),
        };
        let mut recorded = vec![Arc::clone(&self.0.without_model)];
        recorded.extend(lock(&self.0.models).iter().cloned());
        let mut page = Page(&mut encoder);
        page.server(&self.0)?;
        page.recorded(&recorded)?;
        page.models(&readings)
    }
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

/// What is being written.
struct Page<'a, 'e>(&'a mut DescriptorEncoder<'e>);

type Labels<'a> = Vec<(&'static str, &'a str)>;

impl Page<'_, '_> {
    fn server(&mut self, shared: &Shared) -> fmt::Result {
        let server = &shared.server;
        self.family(&names::BUILD, |family| {
            family.encode_info(&vec![("program", env!("CARGO_PKG_VERSION"))])
        })?;
        self.family(&names::UPTIME, |family| {
            family.encode_gauge(&shared.started.elapsed().as_secs_f64())
        })?;
        self.family(&names::CONNECTIONS, |family| {
            family.encode_gauge(&server.connections.get())
        })?;
        self.family(&names::CONNECTIONS_ACCEPTED, |family| {
            count(family, server.connections_accepted.get())
        })?;
        self.family(&names::CONNECTIONS_REFUSED, |family| {
            count(family, server.connections_refused.get())
        })?;
        self.family(&names::INFLIGHT_BYTES, |family| {
            family.encode_gauge(&server.inflight_bytes.get())
        })
    }

    /// What was counted while requests went by. Zeros are left out where the table is wide.
    fn recorded(&mut self, recorded: &[Arc<ModelMetrics>]) -> fmt::Result {
        self.family(&names::REQUESTS, |family| {
            for model in recorded {
                requests(family, model)?;
            }
            Ok(())
        })?;
        // Requests without a model are answered by the server itself: their time says nothing.
        let models = &recorded[1..];
        self.family(&names::REQUEST_SECONDS, |family| {
            for model in models {
                observed(family, &model.labels(), &model.total.read())?;
            }
            Ok(())
        })?;
        self.family(&names::PHASE_SECONDS, |family| {
            for (model, phase) in pairs(models, &Phase::ALL) {
                let labels = model.labels_and("phase", phase.word());
                observed(family, &labels, &model.phases[*phase as usize].read())?;
            }
            Ok(())
        })?;
        self.family(&names::ITEMS_REFUSED, |family| {
            for (model, cause) in pairs(models, &Cause::ALL) {
                let labels = model.labels_and("cause", cause.word());
                let refused = model.refused[*cause as usize].get();
                count(&mut family.encode_family(&labels)?, refused)?;
            }
            Ok(())
        })?;
        self.family(&names::ITEMS_QUARANTINED, |family| {
            for model in models {
                let quarantined = model.quarantined.get();
                count(&mut family.encode_family(&model.labels())?, quarantined)?;
            }
            Ok(())
        })?;
        self.family(&names::STREAMED, |family| {
            for model in models {
                let streamed = model.streamed.get();
                count(&mut family.encode_family(&model.labels())?, streamed)?;
            }
            Ok(())
        })?;
        self.family(&names::RELOADS, |family| {
            for (model, outcome) in pairs(models, &Reload::ALL) {
                let labels = model.labels_and("outcome", outcome.word());
                let reloads = model.reloads[*outcome as usize].get();
                count(&mut family.encode_family(&labels)?, reloads)?;
            }
            Ok(())
        })
    }

    /// What the models and their batchers say now.
    fn models(&mut self, readings: &[ModelReading]) -> fmt::Result {
        self.family(&names::READY, |family| {
            for reading in readings {
                let labels = reading.labels();
                family
                    .encode_family(&labels)?
                    .encode_gauge(&i64::from(reading.ready))?;
            }
            Ok(())
        })?;
        self.items(readings)?;
        self.batches(readings)?;
        self.gauge(&names::INSTANCES, readings, |stats| stats.instances as f64)?;
        self.counter(&names::INSTANCES_REPLACED, readings, |stats| stats.replaced)?;
        self.workers(readings)
    }

    fn workers(&mut self, readings: &[ModelReading]) -> fmt::Result {
        let alive =
            |workers: &[WorkerReading]| workers.iter().filter(|worker| worker.alive).count();
        let resident = |workers: &[WorkerReading]| -> u64 {
            workers.iter().filter_map(|worker| worker.resident).sum()
        };
        self.family(&names::WORKERS, |family| {
            for reading in with_workers(readings) {
                let alive = alive(&reading.workers) as f64;
                family
                    .encode_family(&reading.labels())?
                    .encode_gauge(&alive)?;
            }
            Ok(())
        })?;
        self.family(&names::WORKERS_RESTARTED, |family| {
            for reading in with_workers(readings) {
                let restarts = reading.workers.iter().map(|worker| worker.restarts).sum();
                count(&mut family.encode_family(&reading.labels())?, restarts)?;
            }
            Ok(())
        })?;
        self.family(&names::WORKERS_RESIDENT, |family| {
            for reading in with_workers(readings) {
                let resident = resident(&reading.workers) as f64;
                family
                    .encode_family(&reading.labels())?
                    .encode_gauge(&resident)?;
            }
            Ok(())
        })
    }

    fn items(&mut self, readings: &[ModelReading]) -> fmt::Result {
        self.counter(&names::ITEMS_RECEIVED, readings, |stats| stats.received)?;
        self.counters(&names::ITEMS, readings, "outcome", |stats| {
            vec![
                ("ok", stats.ok),
                ("failed", stats.failed),
                ("refused", stats.refused),
                ("expired", stats.expired),
                ("cancelled", stats.cancelled),
            ]
        })?;
        self.gauge(&names::ITEMS_QUEUED, readings, |stats| stats.queued as f64)?;
        self.gauge(&names::ITEMS_RUNNING, readings, |stats| {
            stats.running as f64
        })?;
        self.gauge(&names::OLDEST_ITEM, readings, |stats| {
            stats.oldest.unwrap_or_default().as_secs_f64()
        })
    }

    fn batches(&mut self, readings: &[ModelReading]) -> fmt::Result {
        self.counters(&names::BATCHES, readings, "reason", |stats| {
            Reason::ALL
                .map(Reason::word)
                .into_iter()
                .zip(stats.batches)
                .collect()
        })?;
        self.family(&names::BATCH_ROWS, |family| {
            for (labels, stats) in with_stats(readings) {
                observed(family, &labels, &histogram::of_rows(&stats.batch_rows))?;
            }
            Ok(())
        })?;
        self.gauge(&names::BATCH_AIM, readings, |stats| stats.aim as f64)?;
        self.gauge(&names::BATCH_GAIN, readings, |stats| stats.gain)
    }

    fn gauge(
        &mut self,
        metric: &Metric,
        readings: &[ModelReading],
        value: impl Fn(&Stats) -> f64,
    ) -> fmt::Result {
        self.family(metric, |family| {
            for (labels, stats) in with_stats(readings) {
                family.encode_family(&labels)?.encode_gauge(&value(stats))?;
            }
            Ok(())
        })
    }

    fn counter(
        &mut self,
        metric: &Metric,
        readings: &[ModelReading],
        value: impl Fn(&Stats) -> u64,
    ) -> fmt::Result {
        self.family(metric, |family| {
            for (labels, stats) in with_stats(readings) {
                count(&mut family.encode_family(&labels)?, value(stats))?;
            }
            Ok(())
        })
    }

    fn counters(
        &mut self,
        metric: &Metric,
        readings: &[ModelReading],
        label: &'static str,
        values: impl Fn(&Stats) -> Vec<(&'static str, u64)>,
    ) -> fmt::Result {
        self.family(metric, |family| {
            for (mut labels, stats) in with_stats(readings) {
                for (word, value) in values(stats) {
                    labels.push((label, word));
                    count(&mut family.encode_family(&labels)?, value)?;
                    labels.pop();
                }
            }
            Ok(())
        })
    }

    /// Writes the head of a metric and then its values. The encoder wants the name without its unit and appends that itself.
    fn family(
        &mut self,
        metric: &Metric,
        values: impl FnOnce(&mut MetricEncoder<'_>) -> fmt::Result,
    ) -> fmt::Result {
        let unit = match metric.unit {
            Unit::Ready | Unit::Build => None,
            unit => Some(registry::Unit::Other(unit.word().to_owned())),
        };
        let suffix = unit.as_ref().map_or("", registry::Unit::as_str);
        let stem = metric.name.strip_suffix(suffix).unwrap_or(metric.name);
        let stem = stem.strip_suffix('_').unwrap_or(stem);
        let help = format!("{}.", metric.help);
        let mut family = self
            .0
            .encode_descriptor(stem, &help, unit.as_ref(), metric.kind)?;
        values(&mut family)
    }
}

impl ModelMetrics {
    fn labels(&self) -> Labels<'_> {
        vec![("model", &self.model), ("version", &self.version)]
    }

    fn labels_and(&self, label: &'static str, word: &'static str) -> Labels<'_> {
        let mut labels = self.labels();
        labels.push((label, word));
        labels
    }
}

impl ModelReading {
    fn labels(&self) -> Labels<'_> {
        vec![("model", &self.model), ("version", &self.version)]
    }
}

fn requests(family: &mut MetricEncoder<'_>, model: &ModelMetrics) -> fmt::Result {
    let answered = Route::ALL.map(|route| (route, "ok", model.answered[route as usize].get()));
    let unanswered = lock(&model.unanswered).clone();
    let unanswered = unanswered
        .iter()
        .map(|failed| (failed.route, failed.code, failed.count));
    for (route, code, number) in answered.into_iter().chain(unanswered) {
        if number > 0 {
            let mut labels = model.labels_and("route", route.word());
            labels.push(("code", code));
            count(&mut family.encode_family(&labels)?, number)?;
        }
    }
    Ok(())
}

fn count(metric: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    metric.encode_counter::<NoLabelSet, u64, f64>(&value, None)
}

fn observed(family: &mut MetricEncoder<'_>, labels: &Labels<'_>, seen: &Observed) -> fmt::Result {
    family
        .encode_family(labels)?
        .encode_histogram::<NoLabelSet>(seen.sum, seen.count, &seen.buckets, None)
}

fn with_stats(readings: &[ModelReading]) -> impl Iterator<Item = (Labels<'_>, &Stats)> {
    readings
        .iter()
        .filter_map(|reading| Some((reading.labels(), reading.stats.as_ref()?)))
}

fn with_workers(readings: &[ModelReading]) -> impl Iterator<Item = &ModelReading> {
    let runs_elsewhere = |reading: &&ModelReading| !reading.workers.is_empty();
    readings.iter().filter(runs_elsewhere)
}

fn pairs<'a, A, B>(left: &'a [A], right: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    left.iter()
        .flat_map(move |a| right.iter().map(move |b| (a, b)))
}
