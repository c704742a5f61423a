//! Cancellation that stays, says why, and reaches everything below it.

use std::fmt;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::task::{Poll, Waker};

use slab::Slab;

pub(crate) use crate::deadline::Deadline;
use crate::deadline::Limit;
use crate::lock::lock;

/// Why something was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Cause {
    /// Somebody asked for it.
    Requested = 1,
    /// The deadline passed.
    Deadline,
    /// A task of the same group failed.
    SiblingFailed,
    /// A task of the same group succeeded, and one was enough.
    SiblingSucceeded,
    /// The scope it belonged to is over, or the future that ran the scope was dropped.
    ParentGone,
    /// The client that wanted the answer went away.
    ClientGone,
    /// The program is shutting down.
    Shutdown,
}

impl Cause {
    const ALL: [Cause; 7] = [
        Cause::Requested,
        Cause::Deadline,
        Cause::SiblingFailed,
        Cause::SiblingSucceeded,
        Cause::ParentGone,
        Cause::ClientGone,
        Cause::Shutdown,
    ];
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Requested => "it was asked to stop",
            Cause::Deadline => "the deadline passed",
            Cause::SiblingFailed => "a task of its group failed",
            Cause::SiblingSucceeded => "another task of its group was enough",
            Cause::ParentGone => "its scope is over",
            Cause::ClientGone => "the client went away",
            Cause::Shutdown => "the program is shutting down",
        })
    }
}

/// A request to stop, shared by all who should hear it.
///
/// It is a level and not an edge: once cancelled it stays so, for those who ask later too. The first cause wins.
/// Cancelling reaches every [`child`](Cancel::child), however deep; a child's cancelling never reaches its parent.
/// Clones are the same request.
///
/// ```
/// use jitney::{Cancel, Cause};
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let server = Cancel::new();
/// let request = server.child();
/// server.cancel(Cause::Shutdown);
/// server.cancel(Cause::Requested); // too late: the first cause wins
/// assert_eq!(request.cancelled().await, Cause::Shutdown);
/// # });
/// ```
#[derive(Clone)]
pub struct Cancel {
    state: Arc<State>,
}

impl Cancel {
    /// A request of its own, with no parent and no deadline.
    pub fn new() -> Cancel {
        Cancel::with_limit(None)
    }

    /// A request that is cancelled with this one, and can be cancelled alone.
    pub fn child(&self) -> Cancel {
        self.child_until(None)
    }

    /// Asks to stop. Does nothing if it was asked before.
    ///
    /// When the first waiter is woken, everything below is cancelled already.
    pub fn cancel(&self, cause: Cause) {
        if !self.state.mark(cause as u8) {
            return;
        }
        let mut marked = vec![self.state.clone()];
        let mut wakers = Vec::new();
        while let Some(state) = marked.pop() {
            // The flag is set, so nobody listens anew; the listeners are taken out because waking runs foreign code.
            let listeners = std::mem::take(&mut *lock(&state.listeners));
            for (_, listener) in listeners {
                match listener {
                    Listener::Waker(waker) => wakers.push(waker),
                    Listener::Child(child) => marked.extend(
                        child
                            .upgrade()
                            .filter(|child| child.mark(cause as u8 | INHERITED)),
                    ),
                }
            }
        }
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Why it was cancelled, or `None` while it is not. One atomic load.
    pub fn cause(&self) -> Option<Cause> {
        self.state.cause()
    }

    /// Waits until it is cancelled, and says why; at once if it is already.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped.
    pub fn cancelled(&self) -> impl Future<Output = Cause> + Send + use<> {
        let mut listening = Listening::new(self);
        std::future::poll_fn(move |cx| {
            listening
                .poll(cx.waker())
                .map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// The earliest deadline of the scopes around, if any has one. Those scopes enforce it: they cancel with
    /// [`Cause::Deadline`] when it passes.
    pub fn deadline(&self) -> Option<Deadline> {
        self.limit().map(|limit| limit.deadline)
    }

    /// A child whose deadline is the earlier of its own and this one's.
    pub(crate) fn child_until(&self, own: Option<Arc<Limit>>) -> Cancel {
        let limits = self.state.limit.clone().into_iter().chain(own);
        let limit = limits.min_by_key(|limit| limit.deadline);
        let child = Cancel {
            state: Arc::new(State::new(limit, Some(self.state.clone()))),
        };
        let mut listeners = lock(&self.state.listeners);
        match self.cause() {
            Some(cause) => {
                child.state.mark(cause as u8 | INHERITED);
            }
            None => {
                let key = listeners.insert(Listener::Child(Arc::downgrade(&child.state)));
                child.state.key.store(key, Ordering::Relaxed);
            }
        }
        drop(listeners);
        child
    }

    pub(crate) fn with_limit(limit: Option<Arc<Limit>>) -> Cancel {
        Cancel {
            state: Arc::new(State::new(limit, None)),
        }
    }

    /// The earliest deadline, and whose it is.
    pub(crate) fn limit(&self) -> Option<&Arc<Limit>> {
        self.state.limit.as_ref()
    }

    /// Whether it was cancelled because an ancestor was.
    pub(crate) fn is_inherited(&self) -> bool {
        self.state.flag.load(Ordering::Acquire) & INHERITED != 0
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Cancel::new()
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancel")
            .field("cause", &self.cause())
            .field("deadline", &self.deadline())
            .finish()
    }
}

/// One who wants to be woken by a [`Cancel`]; stops listening when dropped.
pub(crate) struct Listening {
    state: Arc<State>,
    key: Option<usize>,
    /// Addresses of the waker in the list. While it is there they belong to no other waker.
    heard_by: (usize, usize),
}

impl Listening {
    pub(crate) fn new(cancel: &Cancel) -> Listening {
        Listening {
            state: cancel.state.clone(),
            key: None,
            heard_by: (0, 0),
        }
    }

    /// The cause, or `None` and a promise to wake `waker` when there is one. Takes no lock if it promised already.
    pub(crate) fn poll(&mut self, waker: &Waker) -> Option<Cause> {
        let identity = (
            waker.data().addr(),
            std::ptr::from_ref(waker.vtable()).addr(),
        );
        if self.key.is_some() && self.heard_by == identity {
            return self.state.cause();
        }
        let new = Listener::Waker(waker.clone());
        let mut listeners = lock(&self.state.listeners);
        if let Some(cause) = self.state.cause() {
            return Some(cause);
        }
        let old = match self.key.and_then(|key| listeners.get_mut(key)) {
            Some(listener) => Some(std::mem::replace(listener, new)),
            None => {
                self.key = Some(listeners.insert(new));
                None
            }
        };
        self.heard_by = identity;
        drop(listeners);
        // Dropping a waker may run foreign code, which must not find the lock taken.
        drop(old);
        None
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            self.state.forget(key);
        }
    }
}

/// Set beside the cause when an ancestor was cancelled and not this one.
const INHERITED: u8 = 0x80;

/// The key of a child that came too late to be in a list.
const NO_KEY: usize = usize::MAX;

struct State {
    /// Zero, and then for ever the cause, perhaps with `INHERITED`.
    flag: AtomicU8,
    limit: Option<Arc<Limit>>,
    /// Strong, so that a cancelled grandparent reaches the grandchildren after everyone let go of the parent.
    parent: Option<Arc<State>>,
    /// Where the parent's list has this one.
    key: AtomicUsize,
    listeners: Mutex<Slab<Listener>>,
}

enum Listener {
    Waker(Waker),
    Child(Weak<State>),
}

impl State {
    fn new(limit: Option<Arc<Limit>>, parent: Option<Arc<State>>) -> State {
        State {
            flag: AtomicU8::new(0),
            limit,
            parent,
            key: AtomicUsize::new(NO_KEY),
            listeners: Mutex::new(Slab::new()),
        }
    }

    /// Sets the flag; false if it was set before.
    fn mark(&self, flag: u8) -> bool {
        self.flag
            .compare_exchange(0, flag, Ordering::AcqRel, Ordering::Acquire)
            .is_ok()
    }

    fn cause(&self) -> Option<Cause> {
        let flag = self.flag.load(Ordering::Acquire) & !INHERITED;
        Cause::ALL.get(usize::from(flag).checked_sub(1)?).copied()
    }

    /// Takes a listener out. Keys are never used again once a cancel emptied the list, because nobody listens then.
    fn forget(&self, key: usize) {
        let listener = lock(&self.listeners).try_remove(key);
        drop(listener);
    }

    /// Takes this one out of its parent's list, once, and lets go of the parent.
    fn leave(&mut self) -> Option<Arc<State>> {
        let parent = self.parent.take()?;
        parent.forget(*self.key.get_mut());
        Some(parent)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        // A long line of states that only this one kept goes one by one, not in a recursion that overflows the stack.
        let mut next = self.leave();
        while let Some(mut state) = next.and_then(Arc::into_inner) {
            next = state.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_remembers_no_child_that_is_gone() {
        let parent = Cancel::new();
        let listeners = |cancel: &Cancel| lock(&cancel.state.listeners).len();
        for _ in 0..1000 {
            let child = parent.child();
            let mut waiting = std::pin::pin!(child.cancelled());
            let mut cx = std::task::Context::from_waker(Waker::noop());
            assert!(waiting.as_mut().poll(&mut cx).is_pending());
            assert_eq!((listeners(&parent), listeners(&child)), (1, 1));
        }
        assert_eq!(listeners(&parent), 0);
    }
}
