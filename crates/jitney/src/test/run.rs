//! Running a test, and looking at what it leaves behind.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use tokio::runtime::{Builder, Handle};

use super::{fail, settle};
use crate::group::{Group, Scope};
use crate::tree::Tree;

/// How much paused time may pass in a test.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How much real time may pass in a test.
const MINUTE: Duration = Duration::from_secs(60);

/// Runs a test on one thread and on a paused clock: waiting takes no time, and time passes only when nothing else can
/// happen. Scopes inside are in the tree that the body is given.
///
/// ```
/// use std::time::Duration;
/// jitney::test::run(async |tree| {
///     let outcome = jitney::Scope::named("slow").run(async |_: jitney::Group<String>| {
///         tokio::time::sleep(Duration::from_secs(3600)).await;
///         Ok(tree.snapshot().nodes.len())
///     });
///     assert_eq!(outcome.await.unwrap(), 3); // the root, the test and the scope
/// });
/// ```
///
/// # Panics
/// When the body panics. When nothing can go on, which is when a day of paused time has passed. When a task that the body started is
/// still there after it, whoever spawned it. When a task failed whose scope was dropped, so that nobody else reads the error.
/// The panics print the
/// tree.
///
/// Threads are not seen to work on a paused clock, so a test that waits for a [`Batcher`](crate::batch::Batcher) or for
/// another thread would be taken for one in which nothing can go on: for those there is [`run_with_threads`].
#[track_caller]
pub fn run<T>(body: impl AsyncFnOnce(Tree) -> T) -> T {
    checked(Builder::new_current_thread().start_paused(true), DAY, body)
}

/// [`run`] in real time, of which a minute may pass, for tests in which other threads take part.
///
/// ```
/// let answer = jitney::test::run_with_threads(async |_| {
///     let (send, receive) = tokio::sync::oneshot::channel();
///     let thread = std::thread::Builder::new().spawn(move || send.send(42)).unwrap();
///     let answer = receive.await.unwrap();
///     thread.join().unwrap().unwrap();
///     answer
/// });
/// assert_eq!(answer, 42);
/// ```
///
/// # Panics
/// As [`run`].
#[track_caller]
pub fn run_with_threads<T>(body: impl AsyncFnOnce(Tree) -> T) -> T {
    checked(&mut Builder::new_current_thread(), MINUTE, body)
}

#[track_caller]
fn checked<T>(builder: &mut Builder, limit: Duration, body: impl AsyncFnOnce(Tree) -> T) -> T {
    let runtime = match builder.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => fail(&format!("the test's runtime could not be started: {error}")),
    };
    let tree = Tree::new("root");
    let test = Scope::named("test").under(&tree.root());
    let (value, left) = runtime.block_on(async {
        let in_tree = tree.clone();
        let body = test.run(|_: Group<Infallible>| async { Ok(body(in_tree).await) });
        let mut body = pin!(body);
        let value = tokio::select! {
            biased;
            value = &mut body => match value {
                Ok(value) => value,
                Err(error) => fail(&format!("the test failed: {error:#}")),
            },
            // The body is still there when this prints the tree.
            () = tokio::time::sleep(limit) => fail(&format!(
                "the test is not done after {limit:?}; this is what waits:\n{}",
                tree.snapshot()
            )),
        };
        settle().await;
        (value, left_behind(&tree))
    });
    if let Some(left) = left {
        fail(&left);
    }
    value
}

/// What a test should not leave behind, as text.
fn left_behind(tree: &Tree) -> Option<String> {
    let tasks = Handle::current().metrics().num_alive_tasks();
    let snapshot = tree.snapshot();
    (tasks > 0 || snapshot.nodes.len() > 1).then(|| {
        format!("the test has ended, but {tasks} tasks of its runtime go on; its tree:\n{snapshot}")
    })
}
