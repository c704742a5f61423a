//! A model that does as it is told.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use tokio::sync::watch;

use super::fail;
use crate::batch::{Context, Model, Results};
use crate::clock::Clock;
use crate::lock::lock;

/// A [`Model`] for tests of what is built on a batcher: it answers each item with itself, or misbehaves as it is told, and
/// remembers the batches it was given. Clones are the same model, so one of them can be given to each instance.
///
/// ```
/// use jitney::batch::{BatchError, Batcher, Batching};
/// use jitney::test::{FakeModel, Step};
///
/// jitney::test::run_with_threads(async |_| {
///     let model = FakeModel::new().fails(|item: &u32| *item == 13);
///     let made = model.clone();
///     let batcher = Batcher::start("fake", Batching::default(), move || Ok::<_, String>(made.clone())).unwrap();
///     assert_eq!(batcher.submit(1, None).unwrap().await.unwrap().value, 1);
///     assert!(matches!(batcher.submit(13, None).unwrap().await, Err(BatchError::Model(_))));
///     model.script([Step::Panic]);
///     assert!(matches!(batcher.submit(2, None).unwrap().await, Err(BatchError::Panicked(_))));
///     assert_eq!(model.batches(), [[1], [13], [2]]);
///     batcher.close();
///     batcher.wait_closed().await;
/// });
/// ```
pub struct FakeModel<T> {
    shared: Arc<Shared<T>>,
    clock: Clock,
    fixed: Duration,
    each: Duration,
    fails: Arc<dyn Fn(&T) -> bool + Send + Sync>,
}

/// What a [`FakeModel`] does with one batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Answers.
    Answer,
    /// Waits until it is [released](FakeModel::release), then answers.
    Hold,
    /// Fails the batch with this text.
    Fail(String),
    /// Panics.
    Panic,
    /// Gives one result too few.
    Miscount,
}

/// How a [`FakeModel`] fails.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FakeError(pub String);

struct Shared<T> {
    state: Mutex<State<T>>,
    released: Condvar,
    begun: watch::Sender<usize>,
}

struct State<T> {
    script: VecDeque<Step>,
    batches: Vec<Vec<T>>,
    /// Held batches that may go on.
    releases: usize,
}

impl<T> FakeModel<T> {
    /// One that answers at once.
    pub fn new() -> FakeModel<T> {
        FakeModel {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    script: VecDeque::new(),
                    batches: Vec::new(),
                    releases: 0,
                }),
                released: Condvar::new(),
                begun: watch::Sender::new(0),
            }),
            clock: Clock::system(),
            fixed: Duration::ZERO,
            each: Duration::ZERO,
            fails: Arc::new(|_| false),
        }
    }

    /// A batch takes `fixed`, and `each` for every item. On a paused clock, which should be the batcher's too, it moves that
    /// clock; on the system's it sleeps.
    pub fn costs(mut self, clock: &Clock, fixed: Duration, each: Duration) -> FakeModel<T> {
        self.clock = clock.clone();
        self.fixed = fixed;
        self.each = each;
        self
    }

    /// Fails the items that are bad.
    pub fn fails(mut self, bad: impl Fn(&T) -> bool + Send + Sync + 'static) -> FakeModel<T> {
        self.fails = Arc::new(bad);
        self
    }

    /// What to do with the next batches, after those that were scripted before. Without a script it answers.
    pub fn script(&self, steps: impl IntoIterator<Item = Step>) {
        lock(&self.shared.state).script.extend(steps);
    }

    /// Lets one held batch go on, or the next one that will be held.
    pub fn release(&self) {
        lock(&self.shared.state).releases += 1;
        self.shared.released.notify_one();
    }

    /// Waits until so many batches have begun since the model was made.
    ///
    /// # Cancel safety
    /// Can be dropped.
    pub async fn begun(&self, batches: usize) {
        let mut begun = self.shared.begun.subscribe();
        // The sender is here, so the error cannot come.
        begun.wait_for(|begun| *begun >= batches).await.ok();
    }
}

impl<T: Clone> FakeModel<T> {
    /// The batches that have begun, in order; a batch that was run again is there again.
    pub fn batches(&self) -> Vec<Vec<T>> {
        lock(&self.shared.state).batches.clone()
    }
}

impl<T: Clone + Send + 'static> Model for FakeModel<T> {
    type In = T;
    type Out = T;
    type Error = FakeError;

    fn run(&mut self, items: &[T], _: &Context<'_>) -> Result<Results<Self>, FakeError> {
        let step = self.begin(items);
        self.take_time(items.len());
        match step {
            Step::Answer => Ok(self.answers(items)),
            Step::Hold => {
                self.wait_released();
                Ok(self.answers(items))
            }
            Step::Fail(text) => Err(FakeError(text)),
            Step::Panic => fail("the fake model was told to panic"),
            Step::Miscount => Ok(self.answers(&items[1..])),
        }
    }
}

impl<T: Clone + Send + 'static> FakeModel<T> {
    fn begin(&self, items: &[T]) -> Step {
        let mut state = lock(&self.shared.state);
        state.batches.push(items.to_vec());
        let step = state.script.pop_front().unwrap_or(Step::Answer);
        drop(state);
        self.shared.begun.send_modify(|begun| *begun += 1);
        step
    }

    fn take_time(&self, items: usize) {
        let items = u32::try_from(items).unwrap_or(u32::MAX);
        let cost = self.fixed + self.each.saturating_mul(items);
        if cost.is_zero() {
            return;
        }
        let until = self.clock.now() + cost;
        self.clock.advance(cost);
        // The system's clock was not moved by that.
        thread::sleep(until.saturating_duration_since(self.clock.now()));
    }

    fn wait_released(&self) {
        let state = lock(&self.shared.state);
        let held = self
            .shared
            .released
            .wait_while(state, |state| state.releases == 0);
        held.unwrap_or_else(PoisonError::into_inner).releases -= 1;
    }

    fn answers(&self, items: &[T]) -> Results<Self> {
        let answer = |item: &T| match (self.fails)(item) {
            true => Err(FakeError("the item is bad".into())),
            false => Ok(item.clone()),
        };
        items.iter().map(answer).collect()
    }
}

impl<T> Default for FakeModel<T> {
    fn default() -> FakeModel<T> {
        FakeModel::new()
    }
}

impl<T> Clone for FakeModel<T> {
    fn clone(&self) -> FakeModel<T> {
        FakeModel {
            shared: self.shared.clone(),
            clock: self.clock.clone(),
            fixed: self.fixed,
            each: self.each,
            fails: self.fails.clone(),
        }
    }
}

impl<T> std::fmt::Debug for FakeModel<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FakeModel").finish_non_exhaustive()
    }
}
