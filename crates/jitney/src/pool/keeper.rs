//! The task that opens, checks, recycles and closes what a pool has.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use super::state::{Done, Lived, Shared, Step};
use super::{Manager, PoolError};
use crate::cancel::Cancel;
use crate::group::panic_message;

pub(super) struct Keeper<M: Manager> {
    shared: Arc<Shared<M>>,
}

impl<M: Manager> Keeper<M> {
    pub(super) fn new(shared: Arc<Shared<M>>) -> Keeper<M> {
        Keeper { shared }
    }

    /// Does what there is to do until the pool is closed and nothing of it is left.
    pub(super) async fn run(self) {
        let shared = &self.shared;
        let cancel = Cancel::current();
        let mut doing = FuturesUnordered::new();
        loop {
            let plan = shared.plan(Instant::now());
            if plan.over {
                return;
            }
            doing.extend(plan.steps.into_iter().map(|step| perform(shared, step)));
            self.label();
            tokio::select! {
                Some(done) = doing.next() => shared.settle(done),
                () = shared.changed.notified() => {}
                () = until(plan.look_again) => {}
                _ = cancel.cancelled(), if !shared.is_closing() => shared.begin_closing(),
            }
        }
    }

    fn label(&self) {
        let stats = self.shared.stats();
        let (held, max, idle, waiting) = (stats.held, stats.max, stats.idle, stats.waiting);
        self.shared
            .node
            .label(format!("{held} of {max} held, {idle} idle, {waiting} wait"));
    }
}

impl<M: Manager> Drop for Keeper<M> {
    fn drop(&mut self) {
        self.shared.end();
    }
}

async fn perform<M: Manager>(shared: &Shared<M>, step: Step<M::Resource>) -> Done<M> {
    let manager = &shared.manager;
    let within = shared.settings.care_within;
    match step {
        Step::Open => Done::Opened(open(shared).await),
        Step::Check(mut lived) => {
            let check = shared.settings.check;
            let sound = !check || succeeds(within, manager.check(&mut lived.resource)).await;
            usable(sound, lived)
        }
        Step::Recycle(mut lived) => {
            let sound = succeeds(within, manager.recycle(&mut lived.resource)).await;
            usable(sound, lived)
        }
        Step::Close(lived) => {
            // There is nobody to tell, and nothing to be done about it.
            succeeds(within, manager.close(lived.resource)).await;
            Done::Closed
        }
    }
}

async fn open<M: Manager>(shared: &Shared<M>) -> Result<M::Resource, PoolError<M::Error>> {
    let within = shared.settings.open_within;
    let opening = AssertUnwindSafe(shared.manager.open()).catch_unwind();
    match tokio::time::timeout(within, opening).await {
        Ok(Ok(opened)) => opened.map_err(PoolError::Open),
        Ok(Err(panic)) => Err(PoolError::Panicked {
            message: panic_message(&*panic),
        }),
        Err(_) => Err(PoolError::OpenTimedOut { within }),
    }
}

fn usable<M: Manager>(sound: bool, lived: Lived<M::Resource>) -> Done<M> {
    match sound {
        true => Done::Usable(lived),
        false => Done::Broken,
    }
}

/// Whether it returns `Ok` in time, and does not panic.
async fn succeeds<E>(within: Duration, care: impl Future<Output = Result<(), E>>) -> bool {
    let care = AssertUnwindSafe(care).catch_unwind();
    matches!(tokio::time::timeout(within, care).await, Ok(Ok(Ok(()))))
}

async fn until(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment).await,
        None => std::future::pending().await,
    }
}
