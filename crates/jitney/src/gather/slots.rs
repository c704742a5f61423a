//! The items that one task polls: each in a slot with a waker of its own, so that only those are polled that were woken.
//!
//! Slots are used again, and with them their memory and their wakers: an item that is ready at its first poll costs no
//! allocation. A waker that outlives its item at worst has the next item of the slot polled once for nothing.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use super::Report;
use crate::cancel::Cause;
use crate::lock::lock;
use crate::outcome::{Outcome, drop_caught, poll_caught};
use crate::tree::Node;

pub(super) struct Slots<F> {
    slots: Vec<Slot<F>>,
    free: Vec<usize>,
    /// Slots that were woken and are to be polled now, the last one first.
    round: Vec<usize>,
    woken: Arc<Woken>,
}

struct Slot<F> {
    future: Pin<Box<Option<F>>>,
    index: usize,
    /// When the item began, if it was not ready at once.
    began: Option<Instant>,
    doorbell: Arc<Doorbell>,
    waker: Waker,
}

impl<F, T, E> Slots<F>
where
    F: Future<Output = Result<T, E>>,
{
    pub(super) fn new() -> Slots<F> {
        Slots {
            slots: Vec::new(),
            free: Vec::new(),
            round: Vec::new(),
            woken: Arc::default(),
        }
    }

    /// How many items run.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Who is to be woken with an item.
    pub(super) fn register(&self, waker: &Waker) {
        self.woken.owner.register(waker);
    }

    /// Starts an item, which may be done at once.
    pub(super) fn start(&mut self, index: usize, future: F) -> Option<Report<T, E>> {
        let key = self.vacant();
        let slot = &mut self.slots[key];
        slot.index = index;
        slot.future.set(Some(future));
        let report = self.poll(key);
        if report.is_none() {
            self.slots[key].began = Some(Instant::now());
        }
        report
    }

    /// A slot that was woken, or none if all are asleep.
    pub(super) fn next_woken(&mut self) -> Option<usize> {
        self.round.pop()
    }

    /// Goes on to those that were woken since the last time, once that round is over. False if there is nobody to poll. In
    /// between others have their turn, however often one wakes itself.
    pub(super) fn next_round(&mut self) -> bool {
        if self.round.is_empty() {
            std::mem::swap(&mut self.round, &mut *lock(&self.woken.slots));
            self.round.reverse();
        }
        !self.round.is_empty()
    }

    /// Polls the item of a slot, and reports it if it is done.
    pub(super) fn poll(&mut self, key: usize) -> Option<Report<T, E>> {
        let slot = &mut self.slots[key];
        // Before the poll, so that a wake in its course is not lost.
        slot.doorbell.rung.swap(false, Ordering::AcqRel);
        let future = slot.future.as_mut().as_pin_mut()?;
        match poll_caught(future, &mut Context::from_waker(&slot.waker)) {
            Poll::Ready(outcome) => Some(self.end(key, outcome)),
            Poll::Pending => None,
        }
    }

    /// Drops every item that runs, in the order of the input.
    pub(super) fn cut(&mut self, cause: Cause) -> Vec<Report<T, E>> {
        let mut running: Vec<usize> = (0..self.slots.len())
            .filter(|&key| self.slots[key].future.is_some())
            .collect();
        running.sort_unstable_by_key(|&key| self.slots[key].index);
        running
            .into_iter()
            .map(|key| self.end(key, Outcome::cut(cause)))
            .collect()
    }

    fn end(&mut self, key: usize, outcome: Outcome<T, E>) -> Report<T, E> {
        let slot = &mut self.slots[key];
        self.free.push(key);
        Report {
            index: slot.index,
            outcome: drop_caught(slot.future.as_mut(), outcome),
            node: 0,
            elapsed: slot
                .began
                .take()
                .map_or(Duration::ZERO, |began| began.elapsed()),
        }
    }

    fn vacant(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            let key = self.slots.len();
            self.slots.push(Slot::new(key, &self.woken));
            key
        })
    }
}

impl<T, E> Report<T, E> {
    /// Polled by the present task.
    pub(super) fn of_this_task(mut self) -> Report<T, E> {
        if !self.outcome.is_ok() {
            self.node = Node::current().map_or(0, |node| node.id());
        }
        self
    }
}

impl<F> Slot<F> {
    fn new(key: usize, woken: &Arc<Woken>) -> Slot<F> {
        let doorbell = Arc::new(Doorbell {
            key,
            rung: AtomicBool::new(false),
            woken: woken.clone(),
        });
        Slot {
            future: Box::pin(None),
            index: 0,
            began: None,
            waker: doorbell.clone().into(),
            doorbell,
        }
    }
}

/// Who was woken, each slot at most once, and who wants to know.
#[derive(Default)]
struct Woken {
    slots: Mutex<Vec<usize>>,
    owner: AtomicWaker,
}

struct Doorbell {
    key: usize,
    /// Whether the slot is among the woken already.
    rung: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for Doorbell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            lock(&self.woken.slots).push(self.key);
            self.woken.owner.wake();
        }
    }
}
