//! A bounded queue that says what happens when it is full.
//!
//! Any number of [`Sender`]s and [`Receiver`]s share it, and each item goes to one receiver, the oldest item first. A full
//! queue answers as its [`Overflow`] says, and what has to make room comes back to the sender: nothing is lost without a word.
//!
//! ```
//! use jitney::queue::{Overflow, queue};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (frames, screen) = queue(2.try_into().unwrap(), Overflow::DropOldest);
//! for frame in 1..=3 {
//!     let displaced = frames.send(frame).await.unwrap();
//!     assert_eq!(displaced, if frame == 3 { vec![1] } else { vec![] });
//! }
//! frames.close();
//! assert_eq!([screen.recv().await, screen.recv().await, screen.recv().await], [Some(2), Some(3), None]);
//! # }
//! ```
//!
//! [`close`](Sender::close) ends it in peace: no item comes in, and the receivers take what is there. [`abort`](Sender::abort)
//! ends it at once, and gives back what was there. It closes by itself when the last sender is dropped, and aborts when the
//! last receiver is.

use std::collections::VecDeque;
use std::fmt;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};
use tokio::time::Instant;

use crate::deadline::Deadline;
use crate::lock::lock;

/// Makes a queue for `capacity` items.
pub fn queue<T>(capacity: NonZeroUsize, overflow: Overflow) -> (Sender<T>, Receiver<T>) {
    let capacity = capacity.get().min(Semaphore::MAX_PERMITS);
    let shared = Arc::new(Shared {
        capacity,
        overflow,
        places: Semaphore::new(capacity),
        ready: Semaphore::new(0),
        senders: AtomicUsize::new(1),
        receivers: AtomicUsize::new(1),
        state: Mutex::new(State::new()),
    });
    let sender = Sender {
        shared: shared.clone(),
    };
    (sender, Receiver { shared })
}

/// What a full queue does with one more item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overflow {
    /// The sender waits for a place. Who waited longest gets the next one.
    Wait,
    /// The item comes back as [`SendError::Full`].
    Reject,
    /// The oldest item makes room.
    DropOldest,
    /// Items whose deadline has passed make room; if there are none, the item comes back as [`SendError::Full`].
    DropExpired,
}

/// The end of a queue that items go in. Clones send into the same queue.
pub struct Sender<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Sender<T> {
    /// Puts an item in, and returns those that had to make room for it.
    ///
    /// # Errors
    /// The item, if the queue is closed, or full and its [`Overflow`] refuses.
    ///
    /// # Cancel safety
    /// Only [`Overflow::Wait`] waits. A future dropped while it waits drops its item, which was not put in, and loses its place
    /// among those who wait; use [`reserve`](Sender::reserve) to keep the item.
    pub async fn send(&self, item: T) -> Result<Vec<T>, SendError<T>> {
        self.put(Entry::new(item, None)).await
    }

    /// Puts an item in that is worth nothing after the deadline: no receiver gets it after that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use jitney::{Overflow, queue};
    /// # #[tokio::main(flavor = "current_thread", start_paused = true)]
    /// # async fn main() {
    /// let (requests, worker) = queue(8.try_into().unwrap(), Overflow::DropExpired);
    /// requests.send_until("impatient", Duration::from_secs(1)).await.unwrap();
    /// requests.send("patient").await.unwrap();
    /// tokio::time::sleep(Duration::from_secs(5)).await;
    /// assert_eq!(worker.recv().await, Some("patient"));
    /// assert_eq!(worker.stats().expired, 1);
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`send`](Sender::send); and [`SendError::Expired`] if the deadline passes before there is a place.
    ///
    /// # Cancel safety
    /// As [`send`](Sender::send).
    ///
    /// # Panics
    /// Where it has to wait outside of a tokio runtime with a timer.
    pub async fn send_until(
        &self,
        item: T,
        deadline: impl Into<Deadline>,
    ) -> Result<Vec<T>, SendError<T>> {
        let deadline = deadline.into();
        if deadline.remaining().is_zero() {
            return Err(SendError::Expired(item));
        }
        let entry = Entry::new(item, Some(deadline));
        if self.shared.overflow != Overflow::Wait {
            return self.put(entry).await;
        }
        match tokio::time::timeout_at(deadline.into(), self.reserve()).await {
            Ok(Ok(slot)) => slot.fill(entry),
            Ok(Err(Closed)) => Err(SendError::Closed(entry.item)),
            Err(_) => Err(SendError::Expired(entry.item)),
        }
    }

    /// Puts an item in if that needs no waiting, and returns those that had to make room for it.
    ///
    /// # Errors
    /// The item: [`SendError::Full`] also where [`send`](Sender::send) would wait.
    pub fn try_send(&self, item: T) -> Result<Vec<T>, SendError<T>> {
        self.put_now(Entry::new(item, None))
    }

    /// Waits for a place, whatever the queue's [`Overflow`] is, and holds it until it is filled or dropped.
    ///
    /// ```
    /// use jitney::{Overflow, queue};
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() {
    /// let (orders, kitchen) = queue(1.try_into().unwrap(), Overflow::Wait);
    /// let place = orders.reserve().await.unwrap(); // Can be dropped, and there is no item to lose yet.
    /// place.send("soup").unwrap();
    /// assert_eq!(kitchen.recv().await, Some("soup"));
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Closed`].
    ///
    /// # Cancel safety
    /// Nothing is lost but the place among those who wait.
    pub async fn reserve(&self) -> Result<Slot<'_, T>, Closed> {
        let place = self.shared.places.acquire().await.map_err(|_| Closed)?;
        let shared = &*self.shared;
        Ok(Slot { shared, place })
    }

    /// Lets nothing more in. Receivers take what is there, and then get `None`; senders who wait get [`SendError::Closed`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// Closes it and takes out what is there, the oldest first.
    pub fn abort(&self) -> Vec<T> {
        self.shared.abort()
    }

    /// What it holds and has seen.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }

    async fn put(&self, entry: Entry<T>) -> Result<Vec<T>, SendError<T>> {
        if self.shared.overflow != Overflow::Wait {
            return self.put_now(entry);
        }
        match self.reserve().await {
            Ok(slot) => slot.fill(entry),
            Err(Closed) => Err(SendError::Closed(entry.item)),
        }
    }

    fn put_now(&self, entry: Entry<T>) -> Result<Vec<T>, SendError<T>> {
        let shared = &*self.shared;
        match shared.places.try_acquire() {
            Ok(place) => Slot { shared, place }.fill(entry),
            Err(TryAcquireError::Closed) => Err(SendError::Closed(entry.item)),
            Err(TryAcquireError::NoPermits) => shared.put_in_place_of_others(entry),
        }
    }
}

/// A place in a queue that nobody else can take. Dropping it gives it back.
#[must_use = "a place that is not filled is lost to the others while it is held"]
pub struct Slot<'a, T> {
    shared: &'a Shared<T>,
    place: SemaphorePermit<'a>,
}

impl<T> Slot<'_, T> {
    /// Puts an item in. Never waits, and displaces nothing.
    ///
    /// # Errors
    /// The item as [`SendError::Closed`], if the queue was closed in the meantime.
    pub fn send(self, item: T) -> Result<(), SendError<T>> {
        self.fill(Entry::new(item, None)).map(drop)
    }

    fn fill(self, entry: Entry<T>) -> Result<Vec<T>, SendError<T>> {
        self.shared.push(entry)?;
        self.place.forget();
        self.shared.ready.add_permits(1);
        Ok(Vec::new())
    }
}

/// The end of a queue that items come out of. Clones take from the same queue, and each item goes to one of them.
pub struct Receiver<T> {
    shared: Arc<Shared<T>>,
}

impl<T> Receiver<T> {
    /// Takes the oldest item out, and waits if there is none. `None` when the queue is closed and empty.
    ///
    /// Items whose deadline has passed are dropped, and counted in [`Stats::expired`]. Receivers who wait are served in turn.
    ///
    /// # Cancel safety
    /// Nothing is lost: an item leaves the queue in the moment this returns it.
    pub async fn recv(&self) -> Option<T> {
        loop {
            let Ok(turn) = self.shared.ready.acquire().await else {
                return self.shared.pop();
            };
            turn.forget();
            // What was to be had may have expired, or made room, since the turn was given.
            if let Some(item) = self.shared.pop() {
                return Some(item);
            }
        }
    }

    /// Takes the oldest item out if that needs no waiting.
    ///
    /// # Errors
    /// [`TryRecvError::Empty`] also if what is there belongs to receivers who wait already.
    pub fn try_recv(&self) -> Result<T, TryRecvError> {
        loop {
            match self.shared.ready.try_acquire() {
                Ok(turn) => turn.forget(),
                Err(TryAcquireError::NoPermits) => return Err(TryRecvError::Empty),
                Err(TryAcquireError::Closed) => {
                    return self.shared.pop().ok_or(TryRecvError::Closed);
                }
            }
            if let Some(item) = self.shared.pop() {
                return Ok(item);
            }
        }
    }

    /// As [`Sender::close`].
    pub fn close(&self) {
        self.shared.close();
    }

    /// As [`Sender::abort`].
    pub fn abort(&self) -> Vec<T> {
        self.shared.abort()
    }

    /// What it holds and has seen.
    pub fn stats(&self) -> Stats {
        self.shared.stats()
    }
}

/// What a queue holds now and has seen since it was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Most items it holds.
    pub capacity: usize,
    /// Items it holds.
    pub depth: usize,
    /// How long the oldest of them has been waiting; zero if there is none.
    pub age: Duration,
    /// Items put in.
    pub sent: u64,
    /// Items taken out by receivers.
    pub received: u64,
    /// Items that made room or were given back by an abort, and had not expired.
    pub displaced: u64,
    /// Items whose deadline passed while they were in.
    pub expired: u64,
}

/// An item was not put in; it comes back.
#[derive(Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError<T> {
    /// There is no place.
    #[error("the queue is full: send later, or drop the item")]
    Full(T),
    /// The queue takes no more items.
    #[error("the queue is closed")]
    Closed(T),
    /// The item's deadline passed before there was a place.
    #[error("the item's deadline passed before the queue had a place for it")]
    Expired(T),
}

impl<T> SendError<T> {
    /// The item that was not put in.
    pub fn into_item(self) -> T {
        match self {
            SendError::Full(item) | SendError::Closed(item) | SendError::Expired(item) => item,
        }
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            SendError::Full(_) => "Full(..)",
            SendError::Closed(_) => "Closed(..)",
            SendError::Expired(_) => "Expired(..)",
        })
    }
}

/// There is no item now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TryRecvError {
    /// There may be one later.
    #[error("the queue is empty")]
    Empty,
    /// There will never be one.
    #[error("the queue is closed and empty")]
    Closed,
}

/// The queue takes no more items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue is closed")]
pub struct Closed;

/// What the two ends share.
///
/// A permit of `places` stands for a place that is free, and one of `ready` for an item that is there. The permits of `ready`
/// may for a moment be more than the items, which costs a receiver a second look, but never fewer.
struct Shared<T> {
    capacity: usize,
    overflow: Overflow,
    places: Semaphore,
    ready: Semaphore,
    senders: AtomicUsize,
    receivers: AtomicUsize,
    state: Mutex<State<T>>,
}

impl<T> Shared<T> {
    fn push(&self, entry: Entry<T>) -> Result<(), SendError<T>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(SendError::Closed(entry.item));
        }
        state.push(entry);
        Ok(())
    }

    /// Puts an item into a queue that has no free place.
    fn put_in_place_of_others(&self, entry: Entry<T>) -> Result<Vec<T>, SendError<T>> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(SendError::Closed(entry.item));
        }
        let gone = match self.overflow {
            Overflow::Wait | Overflow::Reject => Vec::new(),
            Overflow::DropOldest => state.displace_oldest(),
            Overflow::DropExpired => state.take_expired(),
        };
        // Nothing may be there to make room: all places can be reserved.
        if gone.is_empty() {
            return Err(SendError::Full(entry.item));
        }
        state.push(entry);
        drop(state);
        self.take_turns(gone.len() - 1);
        self.places.add_permits(gone.len() - 1);
        Ok(gone)
    }

    /// The oldest item that has not expired.
    fn pop(&self) -> Option<T> {
        let mut state = lock(&self.state);
        let (item, expired) = state.pop();
        drop(state);
        // The caller used one turn, for the item or for one of those that expired.
        let gone = expired.len() + usize::from(item.is_some());
        self.take_turns(gone.saturating_sub(1));
        self.places.add_permits(gone);
        // The items are dropped here, after the lock: that may run foreign code.
        drop(expired);
        item
    }

    /// Takes back the turns of items that no receiver will find; those that receivers have already are theirs to waste.
    fn take_turns(&self, turns: usize) {
        for _ in 0..turns {
            let Ok(turn) = self.ready.try_acquire() else {
                return;
            };
            turn.forget();
        }
    }

    fn close(&self) {
        lock(&self.state).closed = true;
        self.places.close();
        self.ready.close();
    }

    fn abort(&self) -> Vec<T> {
        self.close();
        let mut state = lock(&self.state);
        let entries = std::mem::take(&mut state.entries);
        state.displaced += entries.len() as u64;
        drop(state);
        entries.into_iter().map(|entry| entry.item).collect()
    }

    fn stats(&self) -> Stats {
        let state = lock(&self.state);
        let oldest = state.entries.front();
        Stats {
            capacity: self.capacity,
            depth: state.entries.len(),
            age: oldest.map_or(Duration::ZERO, |entry| entry.since.elapsed()),
            sent: state.sent,
            received: state.received,
            displaced: state.displaced,
            expired: state.expired,
        }
    }
}

struct State<T> {
    entries: VecDeque<Entry<T>>,
    closed: bool,
    sent: u64,
    received: u64,
    displaced: u64,
    expired: u64,
}

impl<T> State<T> {
    fn new() -> State<T> {
        State {
            entries: VecDeque::new(),
            closed: false,
            sent: 0,
            received: 0,
            displaced: 0,
            expired: 0,
        }
    }

    fn push(&mut self, entry: Entry<T>) {
        self.entries.push_back(entry);
        self.sent += 1;
    }

    /// The oldest item that has not expired, and those before it.
    fn pop(&mut self) -> (Option<T>, Vec<T>) {
        let mut expired = Vec::new();
        while let Some(entry) = self.entries.pop_front() {
            if !entry.is_expired() {
                self.received += 1;
                return (Some(entry.item), expired);
            }
            self.expired += 1;
            expired.push(entry.item);
        }
        (None, expired)
    }

    fn displace_oldest(&mut self) -> Vec<T> {
        let oldest = self.entries.pop_front();
        self.displaced += u64::from(oldest.is_some());
        oldest.into_iter().map(|entry| entry.item).collect()
    }

    fn take_expired(&mut self) -> Vec<T> {
        let mut gone = Vec::new();
        for entry in std::mem::take(&mut self.entries) {
            if entry.is_expired() {
                gone.push(entry.item);
            } else {
                self.entries.push_back(entry);
            }
        }
        self.expired += gone.len() as u64;
        gone
    }
}

struct Entry<T> {
    item: T,
    since: Instant,
    deadline: Option<Deadline>,
}

impl<T> Entry<T> {
    fn new(item: T, deadline: Option<Deadline>) -> Entry<T> {
        Entry {
            item,
            since: Instant::now(),
            deadline,
        }
    }

    fn is_expired(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| deadline.remaining().is_zero())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.shared.senders.fetch_add(1, Ordering::Relaxed);
        Sender {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.shared.receivers.fetch_add(1, Ordering::Relaxed);
        Receiver {
            shared: self.shared.clone(),
        }
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        if self.shared.senders.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.close();
        }
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        if self.shared.receivers.fetch_sub(1, Ordering::AcqRel) == 1 {
            drop(self.shared.abort());
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sender").field(&self.stats()).finish()
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Receiver").field(&self.stats()).finish()
    }
}

impl<T> fmt::Debug for Slot<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
