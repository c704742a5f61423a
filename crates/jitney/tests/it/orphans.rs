//! Scopes whose futures are dropped halfway, and runtimes that are.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use jitney::tree::Tree;
use jitney::{Cancelled, Cause, Group, GroupError, Scope};

use crate::support::{Alive, Gate, outside, settle};

type Text = &'static str;
type Outcome<T> = Result<T, GroupError<Text>>;

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_it_leaves_its_debt_to_the_scope_around() {
    let mut completed = false;
    let mut orphaned = 0;
    for polls in 0.. {
        let (tree, alive) = (Tree::new("test"), Alive::default());
        let outcome: Outcome<()> = Scope::named("outer")
            .under(&tree.root())
            .run(async |_| {
                let mut story = pin!(story(alive.clone()));
                let mut left = polls;
                std::future::poll_fn(|cx| {
                    if left == 0 {
                        return Poll::Ready(());
                    }
                    left -= 1;
                    let polled = story.as_mut().poll(cx);
                    completed |= polled.is_ready();
                    polled.map(drop)
                })
                .await;
                Ok(())
            })
            .await;
        outcome.unwrap();
        orphaned += usize::from(alive.peak() > 0 && !completed);
        assert_eq!(alive.count(), 0, "dropped after {polls} polls");
        assert_eq!(
            tree.snapshot().nodes.len(),
            1,
            "dropped after {polls} polls"
        );
        if completed {
            break;
        }
    }
    assert!(
        orphaned >= 5,
        "only {orphaned} of the drops had something to leave"
    );
}

/// Awaits in many places: while tasks start, use their grace, sleep, and have tasks of their own.
async fn story(alive: Alive) -> Outcome<()> {
    let scope = Scope::named("story")
        .grace(Duration::from_secs(1))
        .deadline(Duration::from_secs(5));
    scope
        .run(async |group: Group<Text>| {
            let deaf = {
                let alive = alive.clone();
                move || {
                    let guard = alive.guard();
                    async move {
                        let _guard = guard;
                        std::future::pending::<Result<(), Text>>().await
                    }
                }
            };
            drop(group.spawn(deaf()));
            tokio::task::yield_now().await;
            let inner = Scope::named("inner").grace(Duration::from_secs(1)).run(
                async |inner: Group<Text>| {
                    drop(inner.spawn(deaf()));
                    tokio::task::yield_now().await;
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    inner.cancel(Cause::Requested);
                    Ok(())
                },
            );
            drop(inner.await);
            group.spawn(async { Ok(()) }).await.map_err(|_| "child")?;
            tokio::task::yield_now().await;
            Ok(())
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn the_nearest_living_ancestor_waits_for_an_orphan() {
    let (gate, alive, dropped) = (Gate::new(), Alive::default(), Gate::new());
    let outer = outside({
        let (gate, alive, dropped) = (gate.clone(), alive.clone(), dropped.clone());
        Scope::named("outer").run(move |_: Group<Text>| async move {
            let middle = Scope::named("middle").run(|_: Group<Text>| async move {
                let inner = Scope::named("inner").grace(Duration::MAX).run(
                    |inner: Group<Text>| async move {
                        let guard = alive.guard();
                        drop(inner.named("orphan").spawn(async move {
                            let _guard = guard;
                            gate.wait().await;
                            Ok(())
                        }));
                        settle().await;
                        std::future::pending::<Result<(), Text>>().await
                    },
                );
                inner.await.map_err(|_| "inner")
            });
            // Drops the middle and the inner scope together.
            drop(tokio::time::timeout(Duration::from_secs(1), middle).await);
            dropped.open();
            Ok(())
        })
    });
    dropped.wait().await;
    settle().await;
    assert!(!outer.is_finished() && alive.count() == 1);
    gate.open();
    outer.await.unwrap().unwrap();
    assert_eq!(alive.count(), 0);
}

#[test]
fn a_task_that_blocks_its_thread_is_waited_for() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let released = Arc::new(AtomicBool::new(false));
    let (blocked, is_blocked) = tokio::sync::oneshot::channel();
    let (release, wait) = std::sync::mpsc::sync_channel::<()>(1);
    let done = runtime.spawn_scope(released.clone(), blocked, wait);
    runtime.block_on(async {
        let group: Group<Text> = is_blocked.await.unwrap();
        group.cancel(Cause::Requested);
        settle().await;
        assert!(!done.is_finished());
        released.store(true, Ordering::SeqCst);
        release.send(()).unwrap();
        assert!(
            done.await.unwrap(),
            "the scope returned while its task was running"
        );
    });
}

trait SpawnScope {
    fn spawn_scope(
        &self,
        released: Arc<AtomicBool>,
        blocked: tokio::sync::oneshot::Sender<Group<Text>>,
        wait: std::sync::mpsc::Receiver<()>,
    ) -> tokio::task::JoinHandle<bool>;
}

impl SpawnScope for tokio::runtime::Runtime {
    fn spawn_scope(
        &self,
        released: Arc<AtomicBool>,
        blocked: tokio::sync::oneshot::Sender<Group<Text>>,
        wait: std::sync::mpsc::Receiver<()>,
    ) -> tokio::task::JoinHandle<bool> {
        self.spawn(async move {
            let body = async move |group: Group<Text>| {
                let clone = group.clone();
                drop(group.spawn(async move {
                    drop(blocked.send(clone));
                    wait.recv().map_err(|_| "no release")
                }));
                Ok(())
            };
            drop(Scope::named("scope").run(body).await);
            released.load(Ordering::SeqCst)
        })
    }
}

#[test]
fn a_runtime_that_shuts_down_drops_everything_and_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let (tree, alive) = (Tree::new("test"), Alive::default());
    let (root, guard) = (tree.root(), alive.guard());
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    runtime.block_on(async move {
        drop(outside(Scope::named("scope").under(&root).run(
            async move |group: Group<Text>| {
                let handle = group.spawn(async move {
                    let _guard = guard;
                    std::future::pending::<Result<(), Text>>().await
                });
                tell.send(handle).unwrap();
                std::future::pending::<Result<(), Text>>().await
            },
        )));
        settle().await;
    });
    drop(runtime);
    assert_eq!((alive.count(), tree.snapshot().nodes.len()), (0, 1));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let handle = told.recv().unwrap();
    let cause = Cause::Shutdown;
    assert_eq!(runtime.block_on(handle), Err(Cancelled { cause }));
}
