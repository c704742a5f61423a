//! The record of one request in the metrics: made when it begins, written exactly once when it ends.

use std::sync::Arc;

use super::metrics::{Metrics, ModelMetrics, Route, Times};
use crate::failure::Code;

/// What became of one request. Dropped before it was finished, the client left: the handler's future is dropped then.
pub(crate) struct Record {
    metrics: Arc<ModelMetrics>,
    route: Route,
    times: Option<Times>,
    finished: bool,
}

impl Record {
    /// A request that has reached no model yet.
    pub(crate) fn begin(metrics: &Metrics, route: Route) -> Record {
        Record {
            metrics: Arc::clone(metrics.without_model()),
            route,
            times: None,
            finished: false,
        }
    }

    /// The request reached this model.
    pub(crate) fn reached(&mut self, model: Arc<ModelMetrics>) {
        self.metrics = model;
    }

    /// The request was answered, and how long that took.
    pub(crate) fn took(&mut self, times: Times) {
        self.times = Some(times);
    }

    /// The record in the hands of what ends the request, such as what answers on after the answer's head is out. Nothing more is written here.
    pub(crate) fn take(&mut self) -> Record {
        Record {
            metrics: Arc::clone(&self.metrics),
            route: self.route,
            times: self.times.take(),
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
        match (answer.map_err(Code::word), self.times) {
            (Ok(()), Some(times)) => self.metrics.request(self.route, Ok(times)),
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
