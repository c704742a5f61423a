//! A test in which no task may block its thread.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::fail;
use crate::lock::lock;
use crate::tree::Tree;
use crate::watch::{Report, Verdict, Watchdog};

/// From now on no task of the tree may block its thread for so long; checked when the guard is dropped.
///
/// A thread that gets no processor because the machine is busy is no failure.
///
/// ```should_panic
/// use std::time::Duration;
/// use jitney::test;
///
/// test::run(async |tree| {
///     let _guard = test::deny_blocking(&tree, Duration::from_millis(20));
///     let outcome = jitney::Scope::named("report").run(async |_: jitney::Group<String>| {
///         std::thread::sleep(Duration::from_millis(200)); // should be tokio's, or on another thread
///         Ok(())
///     });
///     outcome.await.unwrap();
/// });
/// ```
///
/// # Panics
/// When the watchdog's thread could not be started.
#[track_caller]
pub fn deny_blocking(tree: &Tree, threshold: Duration) -> DenyBlocking {
    let found = Arc::new(Mutex::new(String::new()));
    let kept = found.clone();
    let sink = move |report| {
        if let Report::Blocked(incident) = &report
            && incident.verdict != Verdict::Starved
        {
            // Writing into a string cannot fail.
            writeln!(lock(&kept), "{incident}").ok();
        }
    };
    match Watchdog::start(tree, threshold, sink) {
        Ok(watchdog) => DenyBlocking {
            watchdog: Some(watchdog),
            found,
        },
        Err(error) => fail(&format!("the watchdog could not be started: {error}")),
    }
}

/// Panics when it is dropped and a task has blocked its thread, with what the watchdog reported.
#[derive(Debug)]
#[must_use = "it watches until it is dropped"]
pub struct DenyBlocking {
    watchdog: Option<Watchdog>,
    found: Arc<Mutex<String>>,
}

impl Drop for DenyBlocking {
    fn drop(&mut self) {
        // Ends its thread, so that every report has come.
        self.watchdog.take();
        let found = std::mem::take(&mut *lock(&self.found));
        if !found.is_empty() && !std::thread::panicking() {
            fail(&format!("a task has blocked its thread:\n{found}"));
        }
    }
}
