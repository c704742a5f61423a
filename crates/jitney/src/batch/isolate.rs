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

/// Instances that the items of one batch may cost each time they are run one by one: whoever crashes everything must not keep an instance from
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
            Err(error) => {
                match blame::<M>(&error) {
                    Blame::Hang if items.len() == 1 => self.convict(items, 0, &error),
                    _ if !isolate => self.tell(0, everyone::<M>(items, &error)),
                    Blame::OneItem => self.halve_all(items, &error, limit),
                    Blame::Crash => self.crashed(items, &error, limit),
                    Blame::Hang => self.hung(items, &error, limit, short),
                    Blame::Nobody => self.tell(0, everyone::<M>(items, &error)),
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
        // One guilty item is found in two runs a level; a model that fails whatever it gets must not be run for every item. Each run
        // that succeeds pays for two more, so that the innocent are found beside several guilty ones too.
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
                Ok(results) => {
                    *runs += 2;
                    self.tell(first, results);
                }
                Err(error) => {
                    if blame::<M>(&error) == Blame::OneItem {
                        self.halve(half, first, limit, runs);
                    }
                    self.tell(first, everyone::<M>(half, &error));
                }
            }
        }
    }

    /// Finds the guilty items of a batch that crashed.
    fn crashed(&mut self, items: &[M::In], error: &BatchError<M::Error>, limit: Duration) {
        let places: Vec<usize> = (0..items.len()).collect();
        for (place, error) in self.one_by_one(items, &places, limit) {
            self.convict(items, place, &error);
        }
        self.tell(0, everyone::<M>(items, error));
    }

    /// Finds the guilty items of a batch that hung. A single item that is not done within the short limit is guilty, since nobody else can
    /// be. Of several each gets the whole limit once more: one that only is slower than usual is not to be taken for one that hangs.
    fn hung(
        &mut self,
        items: &[M::In],
        error: &BatchError<M::Error>,
        limit: Duration,
        short: Duration,
    ) {
        let places: Vec<usize> = (0..items.len()).collect();
        let mut suspects = self.one_by_one(items, &places, short);
        if suspects.len() > 1 && short < limit {
            let places: Vec<usize> = suspects.iter().map(|(place, _)| *place).collect();
            suspects = self.one_by_one(items, &places, limit);
        }
        for (place, again) in suspects {
            // Who hangs has had the whole limit before, though not alone.
            let hung = blame::<M>(&again) == Blame::Hang;
            self.convict(items, place, if hung { error } else { &again });
        }
        self.tell(0, everyone::<M>(items, error));
    }

    /// Runs the items at these places again, each by itself: those that cost an instance once more, with their errors. The others are
    /// answered.
    fn one_by_one(
        &mut self,
        items: &[M::In],
        places: &[usize],
        limit: Duration,
    ) -> Vec<(usize, BatchError<M::Error>)> {
        let mut lost = Vec::new();
        for &place in places {
            let Some(awaited) = self.shared.awaited(self.seat) else {
                break;
            };
            if lost.len() == MOST_LOST || !awaited[place] {
                continue;
            }
            let item = slice::from_ref(&items[place]);
            match self.attempt(item, place, limit).outcome {
                Ok(results) => self.tell(place, results),
                Err(error) if matches!(blame::<M>(&error), Blame::Crash | Blame::Hang) => {
                    lost.push((place, error));
                }
                Err(error) => self.tell(place, everyone::<M>(item, &error)),
            }
        }
        lost
    }

    /// Answers an item that was alone when it cost an instance, and tells the model about it.
    fn convict(&mut self, items: &[M::In], place: usize, error: &BatchError<M::Error>) {
        let item = &items[place];
        if let (Some(model), BatchError::Model(error)) = (&mut self.model, error) {
            // What the model makes of it is not worth an instance.
            catch_unwind(AssertUnwindSafe(|| model.convicted(item, error))).ok();
        }
        self.tell(place, everyone::<M>(slice::from_ref(item), error));
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
