//! Starting tasks in a group.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::context::{CONTEXT, Context};
use super::core::{Core, Team};
use super::exits::Exit;
use super::handle::{Cancelled, Handle, Slot};
use super::lease::Place;
use super::task::{Debt, Permit, Task, Work};
use crate::cancel::{Cancel, Cause};
use crate::close::{AsyncClose, Entered};
use crate::tree::{Entry, Node, bounded};

/// The group of tasks of a running [`Scope`](super::Scope). Clones are the same group.
///
/// A clone may outlive the scope; tasks spawned then never run, and their handles say so.
pub struct Group<E: Send + 'static> {
    team: Arc<Team>,
    errors: PhantomData<fn(E)>,
}

impl<E: Send + 'static> Group<E> {
    pub(super) fn new(core: Arc<Core>) -> Group<E> {
        Group::of(core, None)
    }

    fn of(core: Arc<Core>, chosen: Option<Arc<str>>) -> Group<E> {
        Group {
            team: Arc::new(Team { core, chosen }),
            errors: PhantomData,
        }
    }

    /// The same group, with a name for what is spawned, deferred and entered through this clone. Keep the clone to spawn many.
    pub fn named(&self, name: impl AsRef<str>) -> Group<E> {
        Group::of(self.core().clone(), Some(bounded(name.as_ref())))
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
        let permit = match &self.core().permits {
            None => Permit::NotNeeded,
            Some(permits) => match permits.clone().try_acquire_owned() {
                Ok(permit) => Permit::Held(permit),
                Err(_) => Permit::Waiting(Box::pin(permits.clone().acquire_owned())),
            },
        };
        self.launch(future, permit, Location::caller())
    }

    /// Waits until the group is below its limit or cancelled, then starts a task.
    ///
    /// ```
    /// use jitney::{Group, Scope};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jitney::GroupError<String>> {
    /// let crawl = Scope::named("crawl").limit(10.try_into().unwrap());
    /// crawl
    ///     .run(async |group: Group<String>| {
    ///         for page in 0..1000 {
    ///             // No more than ten of the thousand exist at any time.
    ///             drop(group.spawn_when_free(async move { Ok(page) }).await);
    ///         }
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
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
            group.launch(future, permit, site)
        }
    }

    /// Starts a task, or gives its future back if the group is at its limit. Never waits.
    ///
    /// ```
    /// use jitney::{Group, Scope};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jitney::GroupError<String>> {
    /// let scope = Scope::named("connections").limit(1.try_into().unwrap());
    /// scope
    ///     .run(async |group: Group<String>| {
    ///         let first = group.try_spawn(async { Ok("served") });
    ///         assert!(group.try_spawn(async { Ok("turned away") }).is_err());
    ///         assert_eq!(first.ok().unwrap().await, Ok("served"));
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
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
        let permit = match &self.core().permits {
            None => Permit::NotNeeded,
            Some(permits) => match permits.clone().try_acquire_owned() {
                Ok(permit) => Permit::Held(permit),
                Err(_) => return Err(future),
            },
        };
        Ok(self.launch(future, permit, Location::caller()))
    }

    /// Starts a task, and waits until it says that it is ready: a server that listens, a worker that has loaded its model.
    ///
    /// The task is started by the call itself, and goes on after it is ready. It gets its permit like that of
    /// [`spawn`](Group::spawn).
    ///
    /// ```
    /// use jitney::{Group, Scope};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), jitney::GroupError<String>> {
    /// Scope::named("example")
    ///     .run(async |group: Group<String>| {
    ///         let port = group.named("server").start(|ready| async move {
    ///             ready.say(8080);
    ///             Ok(())
    ///         });
    ///         assert_eq!(port.await, Ok(8080));
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`NotReady`] if the task ended without saying it. What it failed with is kept by the group.
    ///
    /// # Cancel safety
    /// Dropping this future drops what the task says, never the task.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn start<V, F, Fut>(
        &self,
        task: F,
    ) -> impl Future<Output = Result<V, NotReady>> + Send + use<V, F, Fut, E>
    where
        F: FnOnce(Ready<V>) -> Fut,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        V: Send + 'static,
    {
        let (ready, said) = oneshot::channel();
        let task = self.spawn(task(Ready(ready)));
        async move {
            match said.await {
                Ok(value) => Ok(value),
                Err(_) => Err(NotReady {
                    cause: task.await.err().map(|cancelled| cancelled.cause),
                }),
            }
        }
    }

    /// Starts a task that only serves the others, such as one that reports progress: it does not keep the scope open.
    ///
    /// When the body and every other task have ended, helpers are cancelled with [`Cause::ParentGone`], and the scope waits
    /// for them as for all its tasks. Their failures count like others. Helpers need no permit.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::{Cancelled, Cause, Group, Scope};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() -> Result<(), jitney::GroupError<String>> {
    /// Scope::named("download")
    ///     .run(async |group: Group<String>| {
    ///         drop(group.named("progress").spawn_helper(async {
    ///             loop {
    ///                 tokio::time::sleep(Duration::from_secs(1)).await;
    ///             }
    ///         }));
    ///         drop(group.named("fetch").spawn(async { Ok(tokio::time::sleep(Duration::from_secs(3)).await) }));
    ///         Ok(())
    ///     })
    ///     .await
    /// # }
    /// ```
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[track_caller]
    pub fn spawn_helper<F>(&self, future: F) -> Handle<()>
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
    {
        self.launch_as(Place::Helper, future, Permit::NotNeeded, Location::caller())
    }

    /// Puts something on the exit stack: it runs when every task has ended, after what was put there later.
    ///
    /// It runs however the scope ends: with success, an error, a panic, a cancelling, or by the dropping of the scope's
    /// future; then the scope around waits for it. It is not cancelled by anything, but dropped when it takes longer than its
    /// limit, which is a failure of the group: [`FailureKind::Cleanup`](super::FailureKind::Cleanup). A panic is a failure too.
    ///
    /// Through a clone of the group that outlived the scope nothing runs any more: the future is dropped.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::{Cause, Group, Scope};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let (tell, told) = tokio::sync::oneshot::channel();
    /// let outcome = Scope::named("job")
    ///     .run(async |group: Group<String>| {
    ///         group.named("tell").defer(Duration::from_secs(1), async { drop(tell.send("goodbye")) });
    ///         Err::<(), _>("failed".to_owned())
    ///     })
    ///     .await;
    /// assert_eq!(told.await, Ok("goodbye"));
    /// # drop(outcome);
    /// # }
    /// ```
    #[track_caller]
    pub fn defer(&self, limit: Duration, cleanup: impl Future<Output = ()> + Send + 'static) {
        let cleanup = async move {
            cleanup.await;
            Ok(())
        };
        self.push_exit(limit, cleanup, Location::caller());
    }

    /// Puts a resource on the exit stack, and gives it for use: it is [closed](AsyncClose::close) as described at
    /// [`defer`](Group::defer), within its [`close_limit`](AsyncClose::close_limit).
    ///
    /// Who has the [`Entered`] must drop it by then, as tasks and the body do when they end. Closing waits for that, within
    /// the limit; after the limit the resource is only dropped. An error of closing is a failure of the group.
    #[track_caller]
    pub fn enter<R: AsyncClose>(&self, resource: R) -> Entered<R> {
        let limit = resource.close_limit();
        let (entered, closed) = Entered::lend(resource);
        self.push_exit(limit, closed, Location::caller());
        entered
    }

    /// Cancels the body and every task. Does nothing if the group is cancelled already.
    pub fn cancel(&self, cause: Cause) {
        self.core().cancel().cancel(cause);
    }

    /// What the body and the tasks see as [`Cancel::current`].
    pub fn cancel_token(&self) -> Cancel {
        self.core().cancel().clone()
    }

    /// The place of the group in the tree, under which its tasks are.
    pub fn node(&self) -> &Node {
        &self.core().node
    }

    async fn permit(&self) -> Permit {
        let Some(permits) = &self.core().permits else {
            return Permit::NotNeeded;
        };
        tokio::select! {
            biased;
            // The task will see that itself; what matters is not to wait for tasks that use their grace.
            _ = self.core().tasks.cancel.cancelled() => Permit::NotNeeded,
            permit = permits.clone().acquire_owned() => permit.map_or(Permit::NotNeeded, Permit::Held),
        }
    }

    fn core(&self) -> &Arc<Core> {
        &self.team.core
    }

    fn launch<T, F>(&self, future: F, permit: Permit, site: &'static Location<'static>) -> Handle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        self.launch_as(Place::Member, future, permit, site)
    }

    fn launch_as<T, F>(
        &self,
        place: Place,
        future: F,
        permit: Permit,
        site: &'static Location<'static>,
    ) -> Handle<T>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
    {
        let task = Entry::enter(site, Slot::new(self.team.clone(), place));
        let handle = Handle::new(task.clone());
        let lease = &self.core().around.lease;
        if !lease.join(place) {
            task.leave();
            let cause = self.core().cancel().cause().unwrap_or(Cause::ParentGone);
            drop(task.details.fill(Err(Cancelled { cause })));
            return handle;
        }
        let context = Context::Task(task.clone());
        let work = Work::new(CONTEXT.scope(context, future), permit);
        #[expect(
            clippy::disallowed_methods,
            reason = "the one place that gives tasks an owner"
        )]
        drop(tokio::spawn(Task::new(work, Debt { task })));
        handle
    }

    fn push_exit(
        &self,
        limit: Duration,
        cleanup: impl Future<Output = Result<(), String>> + Send + 'static,
        site: &'static Location<'static>,
    ) {
        let refused = self.core().exits.push(Exit {
            name: self
                .team
                .chosen
                .clone()
                .unwrap_or_else(|| Arc::from("cleanup")),
            site,
            limit,
            cleanup: Box::pin(cleanup),
        });
        drop(refused);
    }
}

/// By which a task says that it is ready; see [`Group::start`].
#[must_use = "dropping it without a word says that the task will never be ready"]
pub struct Ready<V>(oneshot::Sender<V>);

impl<V> Ready<V> {
    /// Says so, with what the one who waits is to know. Nobody may be waiting any more; that changes nothing.
    pub fn say(self, value: V) {
        drop(self.0.send(value));
    }
}

impl<V> fmt::Debug for Ready<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ready")
    }
}

/// A task ended without saying that it is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the task ended before it said that it was ready{}", .cause.map(|cause| format!(": {cause}")).unwrap_or_default())]
pub struct NotReady {
    /// Why it ended, if it did not just return. [`Cause::SiblingFailed`] also if it failed itself.
    pub cause: Option<Cause>,
}

impl<E: Send + 'static> Clone for Group<E> {
    fn clone(&self) -> Self {
        Group {
            team: self.team.clone(),
            errors: PhantomData,
        }
    }
}

impl<E: Send + 'static> fmt::Debug for Group<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("node", &self.core().node)
            .field("cancel", self.core().cancel())
            .finish()
    }
}
