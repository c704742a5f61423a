//! A bounded number of resources that are dear to open, such as connections to a database, for any number of tasks.
//!
//! ```
//! use std::time::Duration;
//! use jitney::pool::{Manager, Pool, Settings};
//! use jitney::{Group, Scope};
//!
//! struct Connections;
//!
//! impl Manager for Connections {
//!     type Resource = String;
//!     type Error = std::io::Error;
//!
//!     async fn open(&self) -> std::io::Result<String> {
//!         Ok("a connection".to_owned())
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let outcome = Scope::named("work").run(async |group: Group<String>| {
//!     let pool = Pool::new(&group, "database", Settings::new(2.try_into().unwrap()), Connections);
//!     let connection = pool.get().await.map_err(|error| error.to_string())?;
//!     assert_eq!(*connection, "a connection");
//!     drop(connection);
//!     pool.close(Duration::from_secs(5)).await.map_err(|error| error.to_string())
//! });
//! outcome.await.unwrap();
//! # }
//! ```
//!
//! **Nothing is lost when a waiter is.** Resources are opened, checked and closed by a task of the pool, its keeper, and not by
//! those who wait: what was opened for a waiter that is gone goes to the next one, and what was handed to it comes back.
//!
//! **It belongs to a group.** The keeper is a task of the group the pool was made with, which therefore ends after the pool has.
//! The pool ends when it is closed, or when the last [`Pool`] is dropped and every resource is back. If the group is cancelled
//! the pool closes; what is not closed within the group's grace is dropped.

mod keeper;
mod state;

use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::group::Group;
use crate::limiter::{Holder, task_name, write_holders};
use crate::tree::Node;

use keeper::Keeper;
pub use state::Stats;
use state::{Answer, Asked, Lived, Shared};

/// How the resources of a [`Pool`] come to be and how they end.
///
/// Everything here is run by the pool's keeper, in turns with everything else it has begun, so it must not block. A panic counts
/// as a failure.
pub trait Manager: Send + Sync + 'static {
    /// What the pool is of.
    type Resource: Send + 'static;
    /// What goes wrong with it.
    type Error: Send + 'static;

    /// Opens a resource.
    fn open(&self) -> impl Future<Output = Result<Self::Resource, Self::Error>> + Send;

    /// Sees whether a resource that was idle still works, if [`Settings::check`] asks for that. One that does not is dropped, and
    /// another one taken in its place.
    fn check(
        &self,
        resource: &mut Self::Resource,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = resource;
        async { Ok(()) }
    }

    /// Makes a resource that has come back ready for the next holder. The last one may have been cancelled in the middle of
    /// anything. One that fails is dropped.
    fn recycle(
        &self,
        resource: &mut Self::Resource,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        let _ = resource;
        async { Ok(()) }
    }

    /// Closes a resource; by default it is dropped.
    fn close(
        &self,
        resource: Self::Resource,
    ) -> impl Future<Output = Result<(), Self::Error>> + Send {
        async move {
            drop(resource);
            Ok(())
        }
    }
}

/// The limits of a [`Pool`].
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most resources that exist at once.
    pub max: NonZeroUsize,
    /// Most that wait for one at once; 1024 by default.
    pub max_waiting: usize,
    /// Whether a resource is [checked](Manager::check) before it is handed out again; no by default.
    pub check: bool,
    /// How long a resource may lie idle before it is closed; for ever by default.
    pub idle: Option<Duration>,
    /// How old a resource may become before it is closed, in the moment it is not held; for ever by default.
    pub lifetime: Option<Duration>,
    /// How long opening may take; 30 seconds by default.
    pub open_within: Duration,
    /// How long a check, a recycling or a closing may take; 5 seconds by default. What takes longer is dropped.
    pub care_within: Duration,
}

impl Settings {
    /// At most `max` resources, and the defaults for the rest.
    pub fn new(max: NonZeroUsize) -> Settings {
        Settings {
            max,
            max_waiting: 1024,
            check: false,
            idle: None,
            lifetime: None,
            open_within: Duration::from_secs(30),
            care_within: Duration::from_secs(5),
        }
    }
}

/// A bounded number of resources. Clones are the same pool. See the [module](self).
///
/// It is a node of the tree, and below it is one for each holder and each who waits.
pub struct Pool<M: Manager> {
    handle: Arc<Handle<M>>,
}

impl<M: Manager> Pool<M> {
    /// A pool that opens nothing yet, whose keeper is a task of `owner`.
    ///
    /// # Panics
    /// Outside of a tokio runtime. Its keeper needs the runtime's timer.
    #[track_caller]
    pub fn new<E: Send + 'static>(
        owner: &Group<E>,
        name: impl AsRef<str>,
        settings: Settings,
        manager: M,
    ) -> Pool<M> {
        let node = owner.node().child(name);
        let shared = Arc::new(Shared::new(node, manager, settings));
        let keeper = Keeper::new(shared.clone());
        let keeping = owner
            .named(format!("{}'s keeper", shared.node.name()))
            .spawn(async move {
                keeper.run().await;
                Ok(())
            });
        drop(keeping);
        Pool {
            handle: Arc::new(Handle { shared }),
        }
    }

    /// Waits in line for a resource: one that lies idle, or a new one while there are fewer than [`Settings::max`].
    ///
    /// # Errors
    /// [`PoolError::Open`] and what is like it go to who waited longest when opening failed; it is not tried again for them.
    /// [`PoolError::Full`] if too many wait, [`PoolError::Closed`] if the pool is closed, or closes while this waits.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the line, and loses no resource.
    #[track_caller]
    pub fn get(
        &self,
    ) -> impl Future<Output = Result<Guarded<M>, PoolError<M::Error>>> + Send + use<M> {
        let pool = self.clone();
        let site = Location::caller();
        async move { wait(&pool.handle.shared, site).await }
    }

    /// As [`get`](Pool::get), until the deadline.
    ///
    /// # Errors
    /// Those of [`get`](Pool::get); and [`PoolError::TimedOut`], which says who held the resources.
    ///
    /// # Cancel safety
    /// As [`get`](Pool::get).
    #[track_caller]
    pub fn get_by<D: Into<Deadline>>(
        &self,
        deadline: D,
    ) -> impl Future<Output = Result<Guarded<M>, PoolError<M::Error>>> + Send + use<M, D> {
        let pool = self.clone();
        let site = Location::caller();
        let deadline = deadline.into();
        async move {
            let shared = &pool.handle.shared;
            let begun = Instant::now();
            let waiting = tokio::time::timeout_at(deadline.into(), wait(shared, site));
            waiting.await.unwrap_or_else(|_| {
                Err(PoolError::TimedOut {
                    pool: shared.node.shared_name(),
                    waited: begun.elapsed(),
                    holders: shared.holders(),
                })
            })
        }
    }

    /// Hands out nothing more, refuses those who wait, closes what is idle and what comes back, and waits until all is closed.
    ///
    /// # Errors
    /// [`StillHeld`] at the deadline, with the names of those who hold. What they give back later is closed then, and the group
    /// of the pool waits for it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the pool closing.
    ///
    /// # Panics
    /// Outside of a tokio runtime with a timer.
    pub async fn close(&self, limit: impl Into<Deadline>) -> Result<(), StillHeld> {
        let limit = limit.into();
        let shared = &self.handle.shared;
        shared.begin_closing();
        match tokio::time::timeout_at(limit.into(), shared.over()).await {
            Ok(()) => Ok(()),
            Err(_) => Err(StillHeld {
                pool: shared.node.shared_name(),
                holders: shared.holders(),
            }),
        }
    }

    /// Who holds a resource now.
    pub fn holders(&self) -> Vec<Holder> {
        self.handle.shared.holders()
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Stats {
        self.handle.shared.stats()
    }

    /// Its place in the tree.
    pub fn node(&self) -> &Node {
        &self.handle.shared.node
    }
}

impl<M: Manager> Clone for Pool<M> {
    fn clone(&self) -> Self {
        Pool {
            handle: self.handle.clone(),
        }
    }
}

impl<M: Manager> fmt::Debug for Pool<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("node", self.node())
            .field("stats", &self.stats())
            .finish()
    }
}

/// A resource of a [`Pool`], which goes back to it when this is dropped.
#[must_use = "a resource that is dropped goes back to its pool"]
pub struct Guarded<M: Manager> {
    /// There until it goes back.
    lived: Option<Lived<M::Resource>>,
    key: usize,
    shared: Arc<Shared<M>>,
}

impl<M: Manager> Guarded<M> {
    /// Gives it back to be closed, because it is broken or in a state that the next holder must not see.
    pub fn discard(mut self) {
        if let Some(lived) = self.lived.take() {
            self.shared.give_back(self.key, lived, true);
        }
    }

    /// Undoes the handing out.
    fn take_back(mut self) -> Option<Lived<M::Resource>> {
        self.shared.release(self.key);
        self.lived.take()
    }
}

impl<M: Manager> Drop for Guarded<M> {
    fn drop(&mut self) {
        if let Some(lived) = self.lived.take() {
            self.shared.give_back(self.key, lived, false);
        }
    }
}

const HELD: &str = "a resource that has gone back is not reachable";

impl<M: Manager> Deref for Guarded<M> {
    type Target = M::Resource;

    #[expect(
        clippy::expect_used,
        reason = "only methods that consume the guard take the resource"
    )]
    fn deref(&self) -> &M::Resource {
        &self.lived.as_ref().expect(HELD).resource
    }
}

impl<M: Manager> DerefMut for Guarded<M> {
    #[expect(
        clippy::expect_used,
        reason = "only methods that consume the guard take the resource"
    )]
    fn deref_mut(&mut self) -> &mut M::Resource {
        &mut self.lived.as_mut().expect(HELD).resource
    }
}

impl<M: Manager<Resource: fmt::Debug>> fmt::Debug for Guarded<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Guarded").field(&**self).finish()
    }
}

/// Why there is no resource. `E` is the manager's error.
#[derive(Debug, thiserror::Error)]
pub enum PoolError<E> {
    /// It could not be opened.
    #[error("the resource could not be opened: {0}")]
    Open(E),
    /// Opening took longer than [`Settings::open_within`].
    #[error("the resource was not open within {within:.1?}")]
    OpenTimedOut {
        /// The limit.
        within: Duration,
    },
    /// The manager panicked.
    #[error("opening the resource panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// As many wait as [`Settings::max_waiting`] lets.
    #[error("{waiting} wait for a resource already: try again later, or limit how many ask")]
    Full {
        /// How many.
        waiting: usize,
    },
    /// The pool is closed.
    #[error("the pool is closed")]
    Closed,
    /// The deadline passed.
    #[error(
        "no resource of {pool} within {waited:.1?}; held by {}",
        Names(holders)
    )]
    TimedOut {
        /// The name of the pool.
        pool: Arc<str>,
        /// For how long it was waited.
        waited: Duration,
        /// Who held the resources at the end.
        holders: Vec<Holder>,
    },
}

/// A closing pool did not get everything back in time.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "not all of {pool} could be closed in time; held by {}",
    Names(holders)
)]
pub struct StillHeld {
    /// The name of the pool.
    pub pool: Arc<str>,
    /// Who holds; nobody if what took so long was the closing itself.
    pub holders: Vec<Holder>,
}

struct Names<'a>(&'a [Holder]);

impl fmt::Display for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_holders(f, self.0)
    }
}

/// The pool closes when the last of its users lets go of it.
struct Handle<M: Manager> {
    shared: Arc<Shared<M>>,
}

impl<M: Manager> Drop for Handle<M> {
    fn drop(&mut self) {
        self.shared.begin_closing();
    }
}

async fn wait<M: Manager>(shared: &Arc<Shared<M>>, site: &'static Location<'static>) -> Answer<M> {
    let name = task_name();
    let waiting = match shared.ask(name.clone(), site) {
        Asked::Answered(answer) => return answer,
        Asked::Waiting(waiting) => waiting,
    };
    let node = shared.node.child_at(name, site);
    node.label("waits");
    waiting.answer().await
}
