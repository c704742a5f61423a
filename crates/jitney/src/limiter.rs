//! Limits on how many may do something at once, with names for those who do.
//!
//! ```
//! use jitney::limiter::Limiter;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let disk = Limiter::new("disk", 1.try_into().unwrap());
//! let permit = disk.named("backup").acquire().await;
//! assert!(disk.try_acquire().is_none());
//! assert_eq!(&*disk.holders()[0].name, "backup");
//! drop(permit);
//! assert_eq!(disk.available(), 1);
//! # }
//! ```
//!
//! A permit belongs in the task that does the work. In a future that nobody polls any more, such as the branch of a `select!`
//! by reference, it blocks everyone else; the tree then shows who holds it and since when.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroUsize;
use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use slab::Slab;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::lock::lock;
use crate::tree::{Node, Tree, bounded};

/// Lets a number of holders in at once; the others wait in line. Clones are the same limiter.
///
/// It is a node of the tree, and below it is one for each holder and each who waits.
#[derive(Clone)]
pub struct Limiter {
    shared: Arc<Shared>,
    /// For those who come through this clone; by default they are named after their task.
    name: Option<Arc<str>>,
}

impl Limiter {
    /// A limiter for `limit` holders, in the tree under the running task, or in a tree of its own.
    #[track_caller]
    pub fn new(name: impl AsRef<str>, limit: NonZeroUsize) -> Limiter {
        let name = bounded(name.as_ref());
        Limiter::at(node_here(name, Location::caller()), limit)
    }

    /// A limiter for `limit` holders, in the tree under this node.
    #[track_caller]
    pub fn under(node: &Node, name: impl AsRef<str>, limit: NonZeroUsize) -> Limiter {
        Limiter::at(node.child(name), limit)
    }

    /// The same limiter, with a name for those who come through this clone.
    pub fn named(&self, name: impl AsRef<str>) -> Limiter {
        Limiter {
            shared: self.shared.clone(),
            name: Some(bounded(name.as_ref())),
        }
    }

    /// Waits in line until there is a permit.
    ///
    /// # Cancel safety
    /// Dropping the future gives up the place in the line, and loses no permit.
    #[track_caller]
    pub fn acquire(&self) -> impl Future<Output = Permit> + Send + use<> {
        let limiter = self.clone();
        let site = Location::caller();
        async move {
            match limiter.permit(site, None).await {
                Ok(permit) => permit,
                // It is never closed, and without a deadline there is nothing else to fail.
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Takes a permit if one is free and nobody waits.
    #[track_caller]
    pub fn try_acquire(&self) -> Option<Permit> {
        let permit = self.shared.permits.clone().try_acquire_owned().ok()?;
        Some(self.hold(permit, Location::caller()))
    }

    /// Waits in line until there is a permit or the deadline passes. A free permit is given even after the deadline.
    ///
    /// # Errors
    /// [`LimitTimeout`], which says who held the permits.
    ///
    /// # Cancel safety
    /// As [`acquire`](Limiter::acquire).
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with a timer.
    #[track_caller]
    pub fn acquire_by<D: Into<Deadline>>(
        &self,
        deadline: D,
    ) -> impl Future<Output = Result<Permit, LimitTimeout>> + Send + use<D> {
        let limiter = self.clone();
        let site = Location::caller();
        let deadline = deadline.into();
        async move { limiter.permit(site, Some(deadline)).await }
    }

    /// Most holders at once.
    pub fn limit(&self) -> usize {
        self.shared.limit
    }

    /// How many permits are free now.
    pub fn available(&self) -> usize {
        self.shared.permits.available_permits()
    }

    /// Who holds the permits now.
    pub fn holders(&self) -> Vec<Holder> {
        let holders = lock(&self.shared.holders);
        holders.iter().map(|(_, entry)| entry.holder()).collect()
    }

    /// Its place in the tree.
    pub fn node(&self) -> &Node {
        &self.shared.node
    }

    fn at(node: Node, limit: NonZeroUsize) -> Limiter {
        let limit = limit.get().min(Semaphore::MAX_PERMITS);
        node.label(format!("limit {limit}"));
        Limiter {
            shared: Arc::new(Shared {
                node,
                limit,
                permits: Arc::new(Semaphore::new(limit)),
                holders: Mutex::default(),
            }),
            name: None,
        }
    }

    async fn permit(
        &self,
        site: &'static Location<'static>,
        deadline: Option<Deadline>,
    ) -> Result<Permit, LimitTimeout> {
        if let Ok(permit) = self.shared.permits.clone().try_acquire_owned() {
            return Ok(self.hold(permit, site));
        }
        let begun = Instant::now();
        let waiting = self.enter(site);
        waiting.label("waits");
        match by(deadline, self.shared.permits.clone().acquire_owned()).await {
            Some(Ok(permit)) => Ok(self.hold(permit, site)),
            _ => Err(LimitTimeout {
                limiter: self.shared.node.shared_name(),
                waited: begun.elapsed(),
                holders: self.holders(),
            }),
        }
    }

    fn hold(&self, permit: OwnedSemaphorePermit, site: &'static Location<'static>) -> Permit {
        let node = self.enter(site);
        node.label("holds");
        let entry = Entry(node);
        let key = lock(&self.shared.holders).insert(entry);
        Permit {
            place: Place {
                shared: self.shared.clone(),
                key,
            },
            permit,
        }
    }

    /// A node for one who holds or waits.
    fn enter(&self, site: &'static Location<'static>) -> Node {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => task_name(),
        };
        self.shared.node.child_at(name, site)
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("node", &self.shared.node)
            .field("limit", &self.limit())
            .field("available", &self.available())
            .finish()
    }
}

/// The right to do what a [`Limiter`] limits, until it is dropped.
#[must_use = "a permit that is dropped limits nothing: keep it while the work is done"]
pub struct Permit {
    // The fields are dropped in this order: who gets the permit next does not find the last holder still there.
    place: Place,
    #[expect(dead_code, reason = "held until the work is done")]
    permit: OwnedSemaphorePermit,
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permit({:?})", self.place.shared.node)
    }
}

/// One who holds a permit, or a resource of a pool.
#[derive(Clone, Debug)]
pub struct Holder {
    /// The name that was given, or that of the task.
    pub name: Arc<str>,
    /// Where in the source it was asked for.
    pub site: &'static Location<'static>,
    /// For how long it has been held.
    pub age: Duration,
}

impl Holder {
    pub(crate) fn of(node: &Node) -> Holder {
        Holder {
            name: node.shared_name(),
            site: node.site(),
            age: node.age(),
        }
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Holder { name, site, age } = self;
        write!(f, "{name} for {age:.1?} ({}:{})", site.file(), site.line())
    }
}

/// No permit came free before the deadline.
#[derive(Clone, Debug)]
pub struct LimitTimeout {
    /// The name of the limiter.
    pub limiter: Arc<str>,
    /// For how long it was waited.
    pub waited: Duration,
    /// Who held the permits at the end.
    pub holders: Vec<Holder>,
}

impl fmt::Display for LimitTimeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let LimitTimeout {
            limiter, waited, ..
        } = self;
        write!(f, "no permit of {limiter} within {waited:.1?}; held by ")?;
        write_holders(f, &self.holders)
    }
}

impl std::error::Error for LimitTimeout {}

/// One [`Limiter`] for each key, which exists only while somebody holds or waits for a permit of it. Clones are the same.
///
/// ```
/// use jitney::limiter::KeyedLimiter;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let tenants = KeyedLimiter::new("tenants", 1.try_into().unwrap());
/// let red = tenants.acquire("red").await;
/// assert!(tenants.try_acquire("red").is_none());
/// assert!(tenants.try_acquire("blue").is_some());
/// assert_eq!(tenants.keys(), ["red"]);
/// drop(red);
/// assert!(tenants.keys().is_empty());
/// # }
/// ```
pub struct KeyedLimiter<K> {
    keyed: Arc<Keyed<K>>,
}

impl<K: Eq + Hash + Clone + fmt::Display + Send + Sync + 'static> KeyedLimiter<K> {
    /// A limit of `limit` holders for each key, in the tree under the running task, or in a tree of its own.
    #[track_caller]
    pub fn new(name: impl AsRef<str>, limit: NonZeroUsize) -> KeyedLimiter<K> {
        let name = bounded(name.as_ref());
        KeyedLimiter::at(node_here(name, Location::caller()), limit)
    }

    /// The same, in the tree under this node.
    #[track_caller]
    pub fn under(node: &Node, name: impl AsRef<str>, limit: NonZeroUsize) -> KeyedLimiter<K> {
        KeyedLimiter::at(node.child(name), limit)
    }

    /// As [`Limiter::acquire`], for one key.
    ///
    /// # Cancel safety
    /// As [`Limiter::acquire`].
    #[track_caller]
    pub fn acquire(&self, key: K) -> impl Future<Output = KeyedPermit<K>> + Send + use<K> {
        let user = User::enter(&self.keyed, key);
        let permit = user.limiter.acquire();
        async move {
            let permit = permit.await;
            KeyedPermit { permit, user }
        }
    }

    /// As [`Limiter::try_acquire`], for one key.
    #[track_caller]
    pub fn try_acquire(&self, key: K) -> Option<KeyedPermit<K>> {
        let user = User::enter(&self.keyed, key);
        let permit = user.limiter.try_acquire()?;
        Some(KeyedPermit { permit, user })
    }

    /// As [`Limiter::acquire_by`], for one key.
    ///
    /// # Errors
    /// As [`Limiter::acquire_by`].
    ///
    /// # Cancel safety
    /// As [`Limiter::acquire`].
    ///
    /// # Panics
    /// As [`Limiter::acquire_by`].
    #[track_caller]
    pub fn acquire_by<D: Into<Deadline>>(
        &self,
        key: K,
        deadline: D,
    ) -> impl Future<Output = Result<KeyedPermit<K>, LimitTimeout>> + Send + use<K, D> {
        let user = User::enter(&self.keyed, key);
        let permit = user.limiter.acquire_by(deadline);
        async move {
            let permit = permit.await?;
            Ok(KeyedPermit { permit, user })
        }
    }

    /// The keys that somebody holds or waits for now, in no order.
    pub fn keys(&self) -> Vec<K> {
        lock(&self.keyed.limiters).keys().cloned().collect()
    }

    /// Its place in the tree.
    pub fn node(&self) -> &Node {
        &self.keyed.node
    }

    fn at(node: Node, limit: NonZeroUsize) -> KeyedLimiter<K> {
        node.label(format!("limit {limit} for each key"));
        KeyedLimiter {
            keyed: Arc::new(Keyed {
                node,
                limit,
                limiters: Mutex::default(),
            }),
        }
    }
}

impl<K> Clone for KeyedLimiter<K> {
    fn clone(&self) -> Self {
        KeyedLimiter {
            keyed: self.keyed.clone(),
        }
    }
}

impl<K> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter")
            .field("node", &self.keyed.node)
            .field("limit", &self.keyed.limit)
            .finish_non_exhaustive()
    }
}

/// The right to do what a [`KeyedLimiter`] limits, for one key, until it is dropped.
#[must_use = "a permit that is dropped limits nothing: keep it while the work is done"]
pub struct KeyedPermit<K: Eq + Hash> {
    // Dropped before the user of the key, so that a key without users has no holders.
    permit: Permit,
    #[expect(dead_code, reason = "keeps the key's limiter")]
    user: User<K>,
}

impl<K: Eq + Hash> fmt::Debug for KeyedPermit<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.permit.fmt(f)
    }
}

struct Shared {
    node: Node,
    limit: usize,
    permits: Arc<Semaphore>,
    holders: Mutex<Slab<Entry>>,
}

struct Entry(Node);

impl Entry {
    fn holder(&self) -> Holder {
        Holder::of(&self.0)
    }
}

/// A holder's place in the list.
struct Place {
    shared: Arc<Shared>,
    key: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        let entry = lock(&self.shared.holders).try_remove(self.key);
        drop(entry);
    }
}

struct Keyed<K> {
    node: Node,
    limit: NonZeroUsize,
    limiters: Mutex<HashMap<K, Counted>>,
}

/// A key's limiter and how many hold or wait for a permit of it.
struct Counted {
    limiter: Limiter,
    users: usize,
}

/// One who holds or waits for a permit of a key. The last one to go takes the key's limiter along.
struct User<K: Eq + Hash> {
    keyed: Arc<Keyed<K>>,
    key: K,
    limiter: Limiter,
}

impl<K: Eq + Hash + Clone + fmt::Display> User<K> {
    #[track_caller]
    fn enter(keyed: &Arc<Keyed<K>>, key: K) -> User<K> {
        let mut limiters = lock(&keyed.limiters);
        let counted = limiters.entry(key.clone()).or_insert_with(|| Counted {
            limiter: Limiter::under(&keyed.node, key.to_string(), keyed.limit),
            users: 0,
        });
        counted.users += 1;
        let limiter = counted.limiter.clone();
        drop(limiters);
        User {
            keyed: keyed.clone(),
            key,
            limiter,
        }
    }
}

impl<K: Eq + Hash> Drop for User<K> {
    fn drop(&mut self) {
        let mut limiters = lock(&self.keyed.limiters);
        let Some(counted) = limiters.get_mut(&self.key) else {
            return;
        };
        counted.users -= 1;
        if counted.users == 0 {
            let gone = limiters.remove_entry(&self.key);
            drop(limiters);
            drop(gone);
        }
    }
}

/// A node under the running task, or the root of a tree of its own.
fn node_here(name: Arc<str>, site: &'static Location<'static>) -> Node {
    match Node::current() {
        Some(node) => node.child_at(name, site),
        None => Tree::at(name, site).root(),
    }
}

/// What those are named who gave no name.
pub(crate) fn task_name() -> Arc<str> {
    match Node::current() {
        Some(node) => node.shared_name(),
        None => Arc::from("outside"),
    }
}

pub(crate) fn write_holders(f: &mut fmt::Formatter<'_>, holders: &[Holder]) -> fmt::Result {
    let Some((first, rest)) = holders.split_first() else {
        return f.write_str("nobody");
    };
    write!(f, "{first}")?;
    rest.iter().try_for_each(|holder| write!(f, ", {holder}"))
}

/// What the future gives, or `None` if the deadline passes before.
async fn by<F: Future>(deadline: Option<Deadline>, future: F) -> Option<F::Output> {
    match deadline {
        None => Some(future.await),
        Some(deadline) => tokio::time::timeout_at(deadline.into(), future).await.ok(),
    }
}
