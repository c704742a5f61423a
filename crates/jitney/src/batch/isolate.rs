//! Running a batch so that a bad item costs nobody else anything: panics are caught, and a batch that fails is halved and run again
//! until the guilty items are alone.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use super::driver::{Make, Shared};
use super::lane::{Outcomes, Seat};
use super::ticket::Outcome;
use super::{BatchError, Model};
use crate::clock::Clock;

/// An instance whose panics are caught, and which is made anew after one.
pub(crate) struct Guarded<'a, M: Model> {
    model: Option<M>,
    make: &'a Make<M>,
    shared: &'a Shared<M>,
    seat: Seat,
}

/// Makes an instance. A panic while it is made is a reason like any other.
pub(crate) fn make_guarded<M: Model>(make: &Make<M>) -> Result<M, Arc<str>> {
    match catch_unwind(AssertUnwindSafe(|| make())) {
        Ok(made) => made,
        Err(panic) => Err(format!("panicked while it was made: {}", text(&*panic)).into()),
    }
}

impl<'a, M: Model> Guarded<'a, M> {
    pub(crate) fn new(model: M, make: &'a Make<M>, shared: &'a Shared<M>, seat: Seat) -> Self {
        Guarded {
            model: Some(model),
            make,
            shared,
            seat,
        }
    }

    /// Runs a batch: a result for every item, and the time inside the model when it ran cleanly at the first attempt.
    pub(crate) fn run(
        &mut self,
        items: &[M::In],
        isolate: bool,
        clock: &Clock,
    ) -> (Outcomes<M>, Option<Duration>) {
        let started = clock.now();
        match self.attempt(items) {
            Ok(results) => (results, Some(clock.now() - started)),
            Err(error) => (self.split(items, &error, isolate), None),
        }
    }

    /// The instance, made anew if the last batch broke it.
    pub(crate) fn alive(&mut self) -> Result<&mut M, Arc<str>> {
        if self.model.is_none() {
            self.model = Some(make_guarded(self.make)?);
        }
        self.model.as_mut().ok_or_else(|| "no instance".into())
    }

    fn attempt(&mut self, items: &[M::In]) -> Result<Outcomes<M>, BatchError<M::Error>> {
        let model = self.alive().map_err(BatchError::Failed)?;
        match catch_unwind(AssertUnwindSafe(|| model.run(items))) {
            Ok(Ok(results)) if results.len() == items.len() => Ok(results
                .into_iter()
                .map(|result| result.map_err(BatchError::model))
                .collect()),
            Ok(Ok(results)) => Err(BatchError::CountMismatch {
                expected: items.len(),
                got: results.len(),
            }),
            Ok(Err(error)) => Err(BatchError::model(error)),
            Err(panic) => {
                self.discard();
                Err(BatchError::Panicked(text(&*panic).into()))
            }
        }
    }

    /// Drops a broken instance, whose own cleaning up may panic too.
    fn discard(&mut self) {
        let broken = self.model.take();
        catch_unwind(AssertUnwindSafe(|| drop(broken))).ok();
        self.shared.count_replaced();
    }

    fn split(
        &mut self,
        items: &[M::In],
        error: &BatchError<M::Error>,
        isolate: bool,
    ) -> Outcomes<M> {
        let mut results: Vec<Option<Outcome<M>>> = items.iter().map(|_| None).collect();
        if isolate && error.may_be_one_items() {
            // One guilty item is found in two runs a level; a model that fails whatever it gets must not be run for every item.
            let levels = items.len().next_power_of_two().trailing_zeros() as usize;
            let mut runs = 2 * levels + 2;
            self.halve(items, 0, &mut runs, &mut results);
        }
        results
            .into_iter()
            .map(|result| result.unwrap_or_else(|| Err(error.clone())))
            .collect()
    }

    /// Runs both halves of a failed part again, those first that lie before, and what fails again by halves in turn.
    fn halve(
        &mut self,
        items: &[M::In],
        start: usize,
        runs: &mut usize,
        results: &mut [Option<Outcome<M>>],
    ) {
        if items.len() < 2 {
            return;
        }
        let (left, right) = items.split_at(items.len() / 2);
        for (half, start) in [(left, start), (right, start + left.len())] {
            let Some(awaited) = self.shared.awaited(self.seat) else {
                return;
            };
            let here = start..start + half.len();
            if *runs == 0 || !awaited[here.clone()].contains(&true) {
                continue;
            }
            *runs -= 1;
            match self.attempt(half) {
                Ok(outcomes) => {
                    for (result, outcome) in results[here].iter_mut().zip(outcomes) {
                        *result = Some(outcome);
                    }
                }
                Err(error) => {
                    results[here]
                        .iter_mut()
                        .for_each(|result| *result = Some(Err(error.clone())));
                    if error.may_be_one_items() {
                        self.halve(half, start, runs, results);
                    }
                }
            }
        }
    }
}

impl<M: Model> Drop for Guarded<'_, M> {
    fn drop(&mut self) {
        let model = self.model.take();
        catch_unwind(AssertUnwindSafe(|| drop(model))).ok();
    }
}

/// What a panic said, cut to a length that fits a message.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.unwrap_or("no message").chars().take(200).collect()
}
