//! The record of one request in the metrics: made when it begins, written exactly once when it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::metrics::{Metrics, ModelMetrics, Route, Times};
use crate::failure::Code;

/// What became of one request. Dropped before it was finished, the client left: the handler's future is dropped then.
pub(crate) struct Record {
    metrics: Arc<ModelMetrics>,
    route: Route,
    begun: Instant,
    /// From the body's bytes to tensors; `None` for a request with no model to run.
    decode: Option<Duration>,
    /// From tensors to bytes, of all answers so far.
    encode: Duration,
    finished: bool,
}

impl Record {
    /// A request that has reached no model yet.
    pub(crate) fn begin(metrics: &Metrics, route: Route) -> Record {
        Record {
            metrics: Arc::clone(metrics.without_model()),
            route,
            begun: Instant::now(),
            decode: None,
            encode: Duration::ZERO,
            finished: false,
        }
    }

    /// The request reached this model.
    pub(crate) fn reached(&mut self, model: Arc<ModelMetrics>) {
        self.metrics = model;
    }

    /// The body has become tensors, which took that long.
    pub(crate) fn decoded(&mut self, took: Duration) {
        self.decode = Some(took);
    }

    /// An answer has been written, one of any number, which took that long.
    pub(crate) fn encoded(&mut self, took: Duration) {
        self.encode += took;
    }

    /// The record in the hands of what ends the request, such as what answers on after the answer's head is out. Nothing more is written here.
    pub(crate) fn take(&mut self) -> Record {
        Record {
            metrics: Arc::clone(&self.metrics),
            route: self.route,
            begun: self.begun,
            decode: self.decode,
            encode: self.encode,
            finished: std::mem::replace(&mut self.finished, true),
        }
    }

    /// It was no request after all.
    pub(crate) fn discard(mut self) {
        self.finished = true;
    }

    /// Writes the record.
    pub(crate) fn finish(mut self, answer: Result<(), Code>) {
        if !self.finished {
            self.write(answer);
        }
    }

    fn write(&mut self, answer: Result<(), Code>) {
        self.finished = true;
        match (answer.map_err(Code::word), self.decode) {
            (Ok(()), Some(decode)) => {
                let times = Times {
                    decode,
                    encode: self.encode,
                    total: self.begun.elapsed(),
                };
                self.metrics.request(self.route, Ok(times));
            }
            (answer, _) => self.metrics.request_untimed(self.route, answer),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.finished {
            self.write(Err(Code::Cancelled));
        }
    }
}
