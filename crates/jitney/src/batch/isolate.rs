//! Running a batch so that a bad item costs nobody else anything: panics are caught, and of a batch that fails parts are run again until
//! the guilty items are alone. Each is answered as soon as its own fate is known.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::driver::{Make, SeatRiders, Shared};
use super::lane::{Outcomes, Seat};
use super::{BatchError, Blame, Context, Model};
use crate::clock::Clock;

/// Instances that the items of one batch may cost when they are run one by one: whoever crashes everything must not keep an instance from
/// its work for ever.
const MOST_LOST: usize = 4;

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

    /// Runs a batch: results for its items, and the time inside the model when it ran cleanly at the first attempt. Without results,
    /// everyone has been answered already.
    pub(crate) fn run(
        &mut self,
        items: &[M::In],
        isolate: bool,
        clock: &Clock,
    ) -> (Outcomes<M>, Option<Duration>) {
        let (limit, short) = self.shared.limits();
        let started = clock.now();
        let attempt = self.attempt(items, 0, limit);
        match attempt.outcome {
            Ok(results) => {
                let took = attempt.took.unwrap_or_else(|| clock.now() - started);
                (results, Some(took))
            }
            Err(error) if !isolate => (everyone::<M>(items, &error), None),
            Err(error) => {
                match blame::<M>(&error) {
                    Blame::OneItem => self.halve_all(items, &error, limit),
                    Blame::Crash => self.one_by_one(items, &error, limit),
                    Blame::Hang if items.len() > 1 => self.one_by_one(items, &error, short),
                    Blame::Hang | Blame::Nobody => self.tell(0, everyone::<M>(items, &error)),
                }
                (Vec::new(), None)
            }
        }
    }

    /// The instance, made anew if the last batch broke it.
    pub(crate) fn alive(&mut self) -> Result<&mut M, Arc<str>> {
        if self.model.is_none() {
            self.model = Some(make_guarded(self.make)?);
        }
        self.model.as_mut().ok_or_else(|| "no instance".into())
    }

    /// Runs the items that stand from `first` on in the batch.
    fn attempt(&mut self, items: &[M::In], first: usize, limit: Duration) -> Attempt<M> {
        let riders = SeatRiders {
            shared: self.shared,
            seat: self.seat,
        };
        let context = Context::new(&riders, first, items.len(), limit);
        let outcome = self.run_once(items, &context);
        Attempt {
            outcome,
            took: context.took(),
        }
    }

    fn run_once(
        &mut self,
        items: &[M::In],
        context: &Context<'_>,
    ) -> Result<Outcomes<M>, BatchError<M::Error>> {
        let model = self.alive().map_err(BatchError::Failed)?;
        match catch_unwind(AssertUnwindSafe(|| model.run(items, context))) {
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

    fn tell(&self, first: usize, results: Outcomes<M>) {
        self.shared.answer(self.seat, first, results);
    }

    /// Finds the guilty items of a batch by halves.
    fn halve_all(&mut self, items: &[M::In], error: &BatchError<M::Error>, limit: Duration) {
        // One guilty item is found in two runs a level; a model that fails whatever it gets must not be run for every item.
        let levels = items.len().next_power_of_two().trailing_zeros() as usize;
        let mut runs = 2 * levels + 2;
        self.halve(items, 0, limit, &mut runs);
        self.tell(0, everyone::<M>(items, error));
    }

    /// Runs both halves of a failed part again, those first that lie before, and what fails again by halves in turn.
    fn halve(&mut self, items: &[M::In], first: usize, limit: Duration, runs: &mut usize) {
        if items.len() < 2 {
            return;
        }
        let (left, right) = items.split_at(items.len() / 2);
        for (half, first) in [(left, first), (right, first + left.len())] {
            let Some(awaited) = self.shared.awaited(self.seat) else {
                return;
            };
            if *runs == 0 || !awaited[first..first + half.len()].contains(&true) {
                continue;
            }
            *runs -= 1;
            match self.attempt(half, first, limit).outcome {
                Ok(results) => self.tell(first, results),
                Err(error) => {
                    if blame::<M>(&error) == Blame::OneItem {
                        self.halve(half, first, limit, runs);
                    }
                    self.tell(first, everyone::<M>(half, &error));
                }
            }
        }
    }

    /// Finds the guilty items of a batch that took the instance with it, each of whose runs may cost an instance more.
    fn one_by_one(&mut self, items: &[M::In], error: &BatchError<M::Error>, limit: Duration) {
        let mut lost = 0;
        for (place, item) in items.iter().enumerate() {
            let Some(awaited) = self.shared.awaited(self.seat) else {
                return;
            };
            if !awaited[place] {
                continue;
            }
            let item = slice::from_ref(item);
            let outcome = self.attempt(item, place, limit).outcome;
            let told = outcome.unwrap_or_else(|again| {
                let blame = blame::<M>(&again);
                lost += usize::from(matches!(blame, Blame::Crash | Blame::Hang));
                // Who hangs has had the whole limit before, though not alone.
                everyone::<M>(item, if blame == Blame::Hang { error } else { &again })
            });
            self.tell(place, told);
            if lost == MOST_LOST {
                break;
            }
        }
        self.tell(0, everyone::<M>(items, error));
    }
}

impl<M: Model> Drop for Guarded<'_, M> {
    fn drop(&mut self) {
        let model = self.model.take();
        catch_unwind(AssertUnwindSafe(|| drop(model))).ok();
    }
}

/// One run of the model.
struct Attempt<M: Model> {
    outcome: Result<Outcomes<M>, BatchError<M::Error>>,
    /// How long it took, where the model says so itself.
    took: Option<Duration>,
}

/// Who is to blame for what befell a batch.
fn blame<M: Model>(error: &BatchError<M::Error>) -> Blame {
    match error {
        BatchError::Model(error) => M::blame(error),
        BatchError::Panicked(_) => Blame::OneItem,
        _ => Blame::Nobody,
    }
}

/// The same error for every item.
fn everyone<M: Model>(items: &[M::In], error: &BatchError<M::Error>) -> Outcomes<M> {
    items.iter().map(|_| Err(error.clone())).collect()
}

/// What a panic said, cut to a length that fits a message.
fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let said = panic.downcast_ref::<&str>().copied();
    let said = said.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    said.unwrap_or("no message").chars().take(200).collect()
}
