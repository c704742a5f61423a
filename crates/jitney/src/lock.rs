//! How this crate takes a lock.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, and ignores poison: no code that can panic runs under the locks that use this, so what they guard is whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
