//! The count that keeps a scope open while anything it started is running.
//!
//! A scope counts its tasks and itself. As long as the count is not zero it is itself one member of the scope around it,
//! so a scope that was dropped halfway leaves its debt where somebody is still waiting: with the nearest scope alive.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use super::context::Surroundings;

pub(super) struct Lease {
    /// Twice the number of members, plus one if it is closed to new ones.
    state: AtomicUsize,
    /// Whoever runs the scope.
    owner: AtomicWaker,
    parent: Option<Arc<Surroundings>>,
}

const CLOSED: usize = 1;
const MEMBER: usize = 2;

impl Lease {
    /// A lease with one member, the scope itself, which must `leave` once.
    ///
    /// It joins the parent even if that is closed to new tasks: who opens a scope inside a task is covered by that task.
    pub(super) fn new(parent: Option<Arc<Surroundings>>) -> Lease {
        if let Some(parent) = &parent {
            parent.lease.state.fetch_add(MEMBER, Ordering::Relaxed);
        }
        Lease {
            state: AtomicUsize::new(MEMBER),
            owner: AtomicWaker::new(),
            parent,
        }
    }

    /// Ready when the scope is the only member left, and then closed in the same instant.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.owner.register(cx.waker());
        let closed = self.state.compare_exchange(
            MEMBER,
            MEMBER | CLOSED,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        match closed {
            Ok(_) => Poll::Ready(()),
            Err(_) => Poll::Pending,
        }
    }

    /// Closed to new members, whoever is left.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Gives a place back. The last one to leave gives back the place in the scope around.
    pub(super) fn leave(&self) {
        let mut lease = self;
        loop {
            let left = lease.state.fetch_sub(MEMBER, Ordering::AcqRel) - MEMBER;
            match (left / MEMBER, &lease.parent) {
                (0, Some(parent)) => lease = &parent.lease,
                (1, _) => return lease.owner.wake(),
                _ => return,
            }
        }
    }
}

/// A place in the lease of a scope, given back when dropped.
pub(super) struct Member(Arc<Surroundings>);

impl Member {
    /// A place, or `None` if the lease is closed.
    pub(super) fn join(scope: &Arc<Surroundings>) -> Option<Member> {
        let joined = |state: usize| (state & CLOSED == 0).then_some(state + MEMBER);
        scope
            .lease
            .state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, joined)
            .ok()
            .map(|_| Member(scope.clone()))
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.0.lease.leave();
    }
}
