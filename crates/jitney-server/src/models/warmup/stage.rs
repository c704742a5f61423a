//! Where a model rehearses: one instance that is run before anyone waits for it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use jitney_engine::{Instance, LoadError, Model, Spec, Tensor, stack};

/// A model and the instance that rehearses it.
pub(super) struct Stage<'a> {
    model: &'a dyn Model,
    instance: Box<dyn Instance>,
}

/// What a run gave.
pub(super) struct Ran {
    /// An answer for each request.
    pub(super) answers: Vec<Vec<Tensor>>,
    pub(super) took: Duration,
}

impl<'a> Stage<'a> {
    /// # Errors
    /// When there is no instance to be had.
    pub(super) fn new(model: &'a dyn Model) -> Result<Stage<'a>, LoadError> {
        let instance = model.instance()?;
        Ok(Stage { model, instance })
    }

    pub(super) fn spec(&self) -> &'a Spec {
        self.model.spec()
    }

    /// Runs these requests together. The inner error is the model's, which may be a panic; after it the instance is another one.
    ///
    /// # Errors
    /// When there is no other instance to be had.
    pub(super) fn run(&mut self, requests: &[&[Tensor]]) -> Result<Result<Ran, String>, LoadError> {
        let ran = run(&mut *self.instance, self.model.spec(), requests);
        if ran.is_err() {
            // It may have panicked, and then its state is anybody's guess.
            self.instance = self.model.instance()?;
        }
        Ok(ran)
    }

    pub(super) fn into_instance(self) -> Box<dyn Instance> {
        self.instance
    }
}

/// Runs these requests together. A panic of the engine is an error like any other here.
pub(super) fn run(
    instance: &mut dyn Instance,
    spec: &Spec,
    requests: &[&[Tensor]],
) -> Result<Ran, String> {
    let started = Instant::now();
    match catch_unwind(AssertUnwindSafe(|| stack::run(instance, spec, requests))) {
        Ok(Ok(answers)) => Ok(Ran {
            answers,
            took: started.elapsed(),
        }),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the engine panicked".to_owned()),
    }
}
