//! Waiting until everything waits.

use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Handle, RuntimeFlavor, RuntimeMetrics};

use super::fail;

/// Ready when every other task of this current-thread runtime waits for something: all that can happen without time passing
/// has happened. Paused time stands still meanwhile.
///
/// Other threads are not part of the runtime, so what they are about to do is not waited for.
///
/// ```
/// use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
/// use jitney::test::{self, settle};
/// use jitney::{Group, Scope};
///
/// test::run(async |_| {
///     let steps = std::sync::Arc::new(AtomicUsize::new(0));
///     let outcome = Scope::named("steps").run(async |group: Group<String>| {
///         let counted = steps.clone();
///         drop(group.spawn(async move {
///             for _ in 0..1000 {
///                 counted.fetch_add(1, Relaxed);
///                 tokio::task::yield_now().await;
///             }
///             Ok(())
///         }));
///         settle().await;
///         assert_eq!(steps.load(Relaxed), 1000);
///         Ok(())
///     });
///     outcome.await.unwrap();
/// });
/// ```
///
/// # Cancel safety
/// Can be dropped.
///
/// # Panics
/// Outside of a current-thread tokio runtime, because another one is never still for certain; and when a task is still being
/// polled after ten seconds, which means that it yields for ever and waits for nothing.
pub async fn settle() {
    let runtime = Handle::current();
    if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
        fail("settle() needs a current-thread runtime: other threads could go on at any moment");
    }
    // Timers that are due already are fired before the runtime counts as still.
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
    let metrics = runtime.metrics();
    // While this runs, tokio does not move a paused clock, though the runtime has nothing to do.
    #[expect(
        clippy::disallowed_methods,
        reason = "it is awaited right here, and a test's runtime has no use for its threads otherwise"
    )]
    let waiting = tokio::task::spawn_blocking(move || wait_still(&metrics));
    // It cannot be cancelled or panic, so the error cannot come.
    if let Ok(false) = waiting.await {
        fail(&format!(
            "a task is still being polled after {PATIENCE:?}: does it yield in a loop?"
        ));
    }
}

const PATIENCE: Duration = Duration::from_secs(10);

/// Whether everything waits now.
fn wait_still(metrics: &RuntimeMetrics) -> bool {
    let until = Instant::now() + PATIENCE;
    // Odd means that the thread is parked, which it does only with nothing left to poll.
    while metrics.worker_park_unpark_count(0).is_multiple_of(2) {
        if Instant::now() > until {
            return false;
        }
        thread::sleep(Duration::from_micros(20));
    }
    true
}
