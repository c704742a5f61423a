//! Starting tasks in a group.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use super::context::CONTEXT;
use super::handle::{Cancelled, Handle};
use super::lease::Member;
use super::scope::Core;
use super::task::{Debt, Permit, Task, Work};
use crate::cancel::{Cancel, Cause};
use crate::tree::{Node, bounded};

/// The group of tasks of a running [`Scope`](super::Scope). Clones are the same group.
///
/// A clone may outlive the scope; tasks spawned then never run, and their handles say so.
pub struct Group<E: Send + 'static> {
    core: Arc<Core<E>>,
    /// For the tasks that this clone spawns.
    name: Arc<str>,
}

impl<E: Send + 'static> Group<E> {
    pub(super) fn new(core: Arc<Core<E>>) -> Group<E> {
        Group {
            core,
            name: Arc::from("task"),
        }
    }

    /// The same group, with a name for the tasks that are spawned through this clone. Keep the clone to spawn many.
    pub fn named(&self, name: impl AsRef<str>) -> Group<E> {
        Group {
            core: self.core.clone(),
            name: bounded(name.as_ref()),
        }
    }

    /// Starts a task. Never waits.
    ///
    /// An `Err` of the task is a failure of the group, and so is a panic. In a group that is at its limit the task is held
    /// back until another has ended; where tasks come without end, use [`spawn_when_free`](Group::spawn_when_free)
    /// or [`try_spawn`](Group::try_spawn), so that only as many exist as may run. In a cancelled group it is never polled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn spawn<T, F>(&self, future: F) -> Handle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let permit = match &self.core.permits {
            None => Permit::NotNeeded,
            Some(permits) => match permits.clone().try_acquire_owned() {
                Ok(permit) => Permit::Held(permit),
                Err(_) => Permit::Waiting(Box::pin(permits.clone().acquire_owned())),
            },
        };
        self.start(future, permit, Location::caller())
    }

    /// Waits until the group is below its limit or cancelled, then starts a task.
    ///
    /// # Cancel safety
    /// Dropping this future before it is ready drops the task's future, which was never polled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    #[expect(
        clippy::async_yields_async,
        reason = "the handle is for later: waiting for it here would run one task at a time"
    )]
    pub fn spawn_when_free<T, F>(
        &self,
        future: F,
    ) -> impl Future<Output = Handle<T>> + Send + use<T, F, E>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let group = self.clone();
        let site = Location::caller();
        async move {
            let permit = group.permit().await;
            group.start(future, permit, site)
        }
    }

    /// Starts a task, or gives its future back if the group is at its limit. Never waits.
    ///
    /// # Errors
    /// The future, not polled.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn try_spawn<T, F>(&self, future: F) -> Result<Handle<T>, F>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let permit = match &self.core.permits {
            None => Permit::NotNeeded,
            Some(permits) => match permits.clone().try_acquire_owned() {
                Ok(permit) => Permit::Held(permit),
                Err(_) => return Err(future),
            },
        };
        Ok(self.start(future, permit, Location::caller()))
    }

    /// Cancels the body and every task. Does nothing if the group is cancelled already.
    pub fn cancel(&self, cause: Cause) {
        self.core.cancel().cancel(cause);
    }

    /// What the body and the tasks see as [`Cancel::current`].
    pub fn cancel_token(&self) -> Cancel {
        self.core.cancel().clone()
    }

    /// The place of the group in the tree, under which its tasks are.
    pub fn node(&self) -> &Node {
        &self.core.node
    }

    async fn permit(&self) -> Permit {
        let Some(permits) = &self.core.permits else {
            return Permit::NotNeeded;
        };
        tokio::select! {
            biased;
            // The task will see that itself; what matters is not to wait for tasks that use their grace.
            _ = self.core.cancel().cancelled() => Permit::NotNeeded,
            permit = permits.clone().acquire_owned() => permit.map_or(Permit::NotNeeded, Permit::Held),
        }
    }

    fn start<T, F>(&self, future: F, permit: Permit, site: &'static Location<'static>) -> Handle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let (value, handle) = Handle::new();
        let Some(member) = Member::join(&self.core.around) else {
            let cause = self.core.cancel().cause().unwrap_or(Cause::ParentGone);
            drop(value.send(Err(Cancelled { cause })));
            return handle;
        };
        let node = self.core.node.child_at(self.name.clone(), site);
        let work = Work::new(CONTEXT.scope(self.core.context(&node), future), permit);
        let debt = Debt {
            value,
            core: self.core.clone(),
            node,
            member,
        };
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that gives tasks an owner"
        )]
        drop(tokio::spawn(Task::new(work, debt)));
        handle
    }
}

impl<E: Send + 'static> Clone for Group<E> {
    fn clone(&self) -> Self {
        Group {
            core: self.core.clone(),
            name: self.name.clone(),
        }
    }
}

impl<E: Send + 'static> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("node", &self.core.node)
            .field("cancel", self.core.cancel())
            .finish()
    }
}
