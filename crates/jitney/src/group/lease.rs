//! The count that keeps a scope open while anything it started is running.
//!
//! A scope counts its tasks and itself. As long as the count is not zero it is itself one member of the scope around it,
//! so a scope that was dropped halfway leaves its debt where somebody is still waiting: with the nearest scope alive.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;

use crate::sync::atomic::{AtomicU64, Ordering};

/// What kind of member somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The scope stays open for it.
    Member,
    /// It has to end before the scope does, and is asked to when only helpers are left.
    Helper,
}

impl Place {
    const fn unit(self) -> u64 {
        match self {
            Place::Member => MEMBER,
            Place::Helper => HELPER,
        }
    }
}

/// Where a lease counts as one: in which other, and as what.
pub(super) type Within = (Arc<Lease>, Place);

pub(super) struct Lease {
    /// The helpers, the members, and whether it is closed to new ones.
    state: AtomicU64,
    /// Whoever waits for it to empty.
    owner: AtomicWaker,
    within: Option<Within>,
}

const CLOSED: u64 = 1;
const MEMBER: u64 = 2;
/// Above the members, of whom there can be 2^39: more than fit into memory.
const HELPER: u64 = 1 << 40;

const fn members(state: u64) -> u64 {
    state % HELPER / MEMBER
}

const fn helpers(state: u64) -> u64 {
    state / HELPER
}

/// Who is left in a lease besides its owner.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nobody,
    Helpers,
    Members,
}

impl Lease {
    /// A lease with one member, its owner, which must `leave` once.
    ///
    /// It joins the other even if that is closed to new tasks: who opens a scope inside a task is covered by that task.
    pub(super) fn new(within: Option<Within>) -> Lease {
        if let Some((around, place)) = &within {
            around.state.fetch_add(place.unit(), Ordering::Relaxed);
        }
        Lease {
            state: AtomicU64::new(MEMBER),
            owner: AtomicWaker::new(),
            within,
        }
    }

    /// Takes a place, unless it is closed.
    pub(super) fn join(&self, place: Place) -> bool {
        let joined = |state: u64| (state & CLOSED == 0).then_some(state + place.unit());
        self.state
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, joined)
            .is_ok()
    }

    /// Gives a place back. The last one to leave gives back the place in the lease around.
    pub(super) fn leave(&self, place: Place) {
        let (mut lease, mut place) = (self, place);
        loop {
            let unit = place.unit();
            let left = lease.state.fetch_sub(unit, Ordering::AcqRel) - unit;
            match (members(left), helpers(left), &lease.within) {
                (0, 0, Some((around, as_what))) => (lease, place) = (around, *as_what),
                (1, _, _) => return lease.owner.wake(),
                _ => return,
            }
        }
    }

    /// Who is left, for the owner. If it is nobody, the lease has been closed in the same instant; otherwise the owner is
    /// woken when that changes.
    pub(super) fn poll_close(&self, cx: &mut Context<'_>) -> Left {
        self.owner.register(cx.waker());
        let alone = |state: u64| (state & !CLOSED == MEMBER).then_some(MEMBER | CLOSED);
        let closed = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, alone);
        match closed {
            Ok(_) => Left::Nobody,
            Err(state) if members(state) == 1 => Left::Helpers,
            Err(_) => Left::Members,
        }
    }

    /// Ready when the owner is alone, and then closed.
    pub(super) fn poll_alone(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_close(cx) {
            Left::Nobody => Poll::Ready(()),
            Left::Helpers | Left::Members => Poll::Pending,
        }
    }

    /// Closed to new members, whoever is left.
    pub(super) fn close(&self) {
        self.state.fetch_or(CLOSED, Ordering::AcqRel);
    }

    /// Whether the owner is alone. In a closed lease nobody can come any more.
    pub(super) fn is_alone(&self) -> bool {
        self.state.load(Ordering::Acquire) & !CLOSED == MEMBER
    }
}
