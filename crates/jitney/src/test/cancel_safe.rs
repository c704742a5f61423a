//! Dropping a future wherever it can be dropped.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use super::fail;

/// Polls after which a future counts as one that does not end.
const POLLS_MAX: usize = 10_000;

/// Drops a future at each of its await points in turn, and checks an invariant after each drop.
///
/// It makes a future, polls it once and drops it; makes another, polls it twice; and so on until one of them is done. At each
/// point it does so twice: it drops the future as soon as that waits, and after it was woken but before it could know, which
/// is where a value that is on its way gets lost. What the future waits for is arranged by `make` too. Gives the number of
/// drops.
///
/// ```
/// use std::cell::RefCell;
/// use jitney::test::{self, assert_cancel_safe};
///
/// test::run(async |_| {
///     let (queue, done) = (RefCell::new(vec![1, 2, 3]), RefCell::new(Vec::new()));
///     let drops = assert_cancel_safe(
///         async || {
///             tokio::task::yield_now().await;
///             // Nothing is awaited between taking and keeping, so nothing can be lost.
///             done.borrow_mut().extend(queue.borrow_mut().pop());
///             tokio::task::yield_now().await;
///         },
///         async || assert_eq!(queue.borrow().len() + done.borrow().len(), 3),
///     );
///     assert_eq!(drops.await, 4);
/// });
/// ```
///
/// # Panics
/// When the future never waits, for then nothing was checked; when it does not end; and when `check` panics.
pub async fn assert_cancel_safe<T>(
    mut make: impl AsyncFnMut() -> T,
    mut check: impl AsyncFnMut(),
) -> usize {
    let mut drops = 0;
    for polls in 1..=POLLS_MAX {
        for woken in [false, true] {
            let done = is_done(make(), polls, woken).await;
            check().await;
            match (done, drops) {
                (true, 0) => fail(
                    "the future never waits, so it cannot be dropped halfway: nothing was checked",
                ),
                (true, drops) => return drops,
                (false, _) => drops += 1,
            }
        }
    }
    fail(&format!("the future is not done after {POLLS_MAX} polls"))
}

/// Polls so often, perhaps waits until it should be polled once more, and drops the future. Whether it was done.
async fn is_done<T>(future: impl Future<Output = T>, polls: usize, woken: bool) -> bool {
    let mut future = pin!(future);
    let mut left = polls;
    let polled = poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(false);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(_) => Poll::Ready(true),
            Poll::Pending if left == 0 && !woken => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        }
    });
    polled.await
}
