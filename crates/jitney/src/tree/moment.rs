//! The time at which nodes enter the tree. A poll reads the clock once, however many tasks it starts.

use std::cell::Cell;

use tokio::time::Instant;

/// What is known of the time in the poll that is under way on this thread.
#[derive(Clone, Copy)]
pub(super) enum Known {
    /// No task is being polled.
    NoPoll,
    NotYet,
    At(Instant),
}

thread_local! {
    static KNOWN: Cell<Known> = const { Cell::new(Known::NoPoll) };
}

/// The present time; in a poll that of the first call.
pub(super) fn now() -> Instant {
    KNOWN.with(|known| match known.get() {
        Known::NoPoll => Instant::now(),
        Known::NotYet => {
            let now = Instant::now();
            known.set(Known::At(now));
            now
        }
        Known::At(now) => now,
    })
}

/// A poll begins. Gives what [`poll_ends`] needs.
pub(super) fn poll_begins() -> Known {
    KNOWN.replace(Known::NotYet)
}

pub(super) fn poll_ends(outer: Known) {
    KNOWN.set(outer);
}

/// The thread has blocked for a while: what was known is no longer true.
pub(super) fn passed() {
    if let Known::At(_) = KNOWN.get() {
        KNOWN.set(Known::NotYet);
    }
}
