//! The locks, atomics and threads of the concurrent cores: the standard library's, or shuttle's when interleavings are explored.
//!
//! Shuttle's work only inside of its own scheduler, so they are for the unit tests of this crate and never for who depends on it,
//! whatever features are enabled.

#[cfg(not(all(test, feature = "model-check")))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};

#[cfg(all(test, feature = "model-check"))]
pub(crate) use shuttle::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};

use std::sync::PoisonError;

/// Locks. A panic of another holder does not spread: what these locks guard is consistent whenever user code can run.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
