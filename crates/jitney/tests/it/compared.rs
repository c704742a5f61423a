//! The rows of `docs/guide/compared.md`: what a scope promises, and beside it what tokio's `JoinSet` does in the same place.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::tree::Node;
use jitney::{
    Cancel, Cancelled, Cause, Deadline, FailureKind, Group, GroupError, NotReady, Policy, Ready,
    Scope, scope, timeout,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::support::{Alive, Gate, Guard, outside, settle};

type Text = &'static str;
type Outcome<T> = Result<T, GroupError<Text>>;

const SECOND: Duration = Duration::from_secs(1);

async fn rest(time: Duration) -> Result<(), Text> {
    sleep(time).await;
    Ok(())
}

async fn hold(guard: Guard) -> Result<(), Text> {
    let _guard = guard;
    std::future::pending().await
}

#[tokio::test]
async fn when_it_returns_its_tasks_have_ended_and_a_join_set_only_aborts() {
    let alive = Alive::default();
    let mut tasks = JoinSet::new();
    drop(tasks.spawn(hold(alive.guard())));
    settle().await;
    drop(tasks);
    assert_eq!(
        alive.count(),
        1,
        "the task of a JoinSet is dropped some time later"
    );
    settle().await;
    assert_eq!(alive.count(), 0);

    let outcome: Outcome<()> = scope(async |group: Group<Text>| {
        drop(group.spawn(hold(alive.guard())));
        settle().await;
        Err("over")
    })
    .await;
    assert_eq!(alive.count(), 0);
    outcome.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn dropped_halfway_the_scope_around_waits_and_with_a_join_set_nobody_does() {
    let slow = |guard| async move {
        let _guard: Guard = guard;
        let stopped = Cancel::current().cancelled().await;
        sleep(SECOND).await;
        assert_eq!(stopped, Cause::ParentGone);
        Ok::<_, Text>(())
    };
    let alive = Alive::default();
    let foreign = async {
        let mut tasks = JoinSet::new();
        drop(tasks.spawn(slow(alive.guard())));
        tasks.join_next().await;
    };
    drop(tokio::time::timeout(SECOND, foreign).await);
    assert_eq!(alive.count(), 1);
    settle().await;

    let outer: Outcome<()> = scope(async |_| {
        let inner = Scope::named("inner")
            .grace(SECOND * 2)
            .run(async |group: Group<Text>| {
                drop(group.spawn(slow(alive.guard())));
                std::future::pending::<Result<(), Text>>().await
            });
        drop(tokio::time::timeout(SECOND, inner).await);
        assert_eq!(alive.count(), 1, "a foreign timeout does not wait");
        Ok(())
    })
    .await;
    assert_eq!(alive.count(), 0);
    outer.unwrap();
}

#[tokio::test]
async fn a_failure_cancels_the_siblings_and_in_a_join_set_they_go_on() {
    let alive = Alive::default();
    let mut tasks = JoinSet::new();
    drop(tasks.spawn(async { Err("failed") }));
    drop(tasks.spawn(hold(alive.guard())));
    assert_eq!(tasks.join_next().await.unwrap().unwrap(), Err("failed"));
    settle().await;
    assert_eq!(alive.count(), 1);
    drop(tasks);

    let ours = Alive::default();
    let outcome: Outcome<()> = scope(async |group| {
        drop(group.spawn(hold(ours.guard())));
        drop(group.spawn(async { Err::<(), _>("failed") }));
        Ok(())
    })
    .await;
    let failure = outcome.unwrap_err().into_first();
    assert!(matches!(failure.kind, FailureKind::Error("failed")));
}

#[tokio::test]
async fn every_error_and_panic_is_kept_and_join_all_gives_up_at_the_first_panic() {
    let panic = || std::panic::resume_unwind(Box::new("panic"));
    let mut tasks = JoinSet::new();
    drop(tasks.spawn(async { Err::<(), _>("lost") }));
    drop(tasks.spawn(async move { panic() }));
    let joined = outside(tasks.join_all()).await;
    assert!(joined.unwrap_err().is_panic(), "the error went with it");

    let outcome: Outcome<()> = Scope::named("scope")
        .policy(Policy::Isolate)
        .run(async |group| {
            drop(group.named("first").spawn(async { Err::<(), _>("kept") }));
            drop(group.named("second").spawn::<(), _>(async move { panic() }));
            Ok(())
        })
        .await;
    let error = outcome.unwrap_err();
    let told: Vec<_> = error
        .iter()
        .map(|failure| format!("{} {}", failure.task.name, failure.kind))
        .collect();
    assert_eq!(told, ["first kept", "second panicked: panic"]);
    assert!(
        error
            .iter()
            .all(|failure| failure.task.site.file() == file!())
    );
}

#[tokio::test]
async fn the_cause_of_cancelling_is_told_and_a_join_error_has_none() {
    let mut tasks = JoinSet::new();
    drop(tasks.spawn(std::future::pending::<()>()));
    tasks.abort_all();
    let error = tasks.join_next().await.unwrap().unwrap_err();
    assert!(error.is_cancelled(), "and that is all it says");

    let outer: Outcome<()> = Scope::named("scope")
        .grace(SECOND)
        .run(async |group| {
            let handle = group.spawn(std::future::pending::<Result<(), Text>>());
            group.cancel(Cause::ClientGone);
            assert_eq!(
                handle.await,
                Err(Cancelled {
                    cause: Cause::ClientGone
                })
            );
            Ok(())
        })
        .await;
    outer.unwrap();
}

#[tokio::test]
async fn who_asks_late_is_told_too() {
    let outcome: Outcome<()> = Scope::named("scope")
        .grace(SECOND)
        .run(async |group| {
            group.cancel(Cause::Shutdown);
            for _ in 0..3 {
                assert_eq!(Cancel::current().cancelled().await, Cause::Shutdown);
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn spawning_waits_for_a_place_and_a_join_set_has_no_limit() {
    const LIMIT: usize = 2;
    let (alive, theirs, go) = (Alive::default(), Alive::default(), Gate::new());
    let work = |guard: Guard, go: Gate| async move {
        let _guard = guard;
        go.wait().await;
        Ok::<_, Text>(())
    };
    let mut tasks = JoinSet::new();
    for _ in 0..10 {
        drop(tasks.spawn(work(theirs.guard(), go.clone())));
    }
    assert_eq!(theirs.count(), 10);

    let outcome: Outcome<()> = Scope::named("scope")
        .limit(NonZeroUsize::new(LIMIT).unwrap())
        .run(async |group| {
            drop(group.spawn_helper({
                let go = go.clone();
                async move {
                    settle().await;
                    go.open();
                    Ok(())
                }
            }));
            for _ in 0..10 {
                drop(group.spawn_when_free(work(alive.guard(), go.clone())).await);
            }
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(
        alive.peak(),
        LIMIT + 1,
        "those that run, and the one that waits for a place"
    );
}

tokio::task_local! {
    static REQUEST: u32;
}

#[tokio::test]
async fn children_know_where_they_are_and_in_a_join_set_they_forget() {
    let forgot = REQUEST.scope(7, async {
        let mut tasks = JoinSet::new();
        drop(tasks.spawn(async { REQUEST.try_with(|request| *request).is_err() }));
        tasks.join_next().await.unwrap().unwrap()
    });
    assert!(forgot.await);

    let deadline = Deadline::after(SECOND);
    let outcome: Outcome<()> = Scope::named("request")
        .deadline(deadline)
        .run(async |group| {
            let child = group.named("child").spawn(async {
                let inside = scope(async |group: Group<Text>| {
                    let grandchild =
                        group.spawn(async { Ok((Deadline::current(), Node::current())) });
                    grandchild.await.map_err(|_| "cancelled")
                });
                inside.await.map_err(|_| "inside")
            });
            let (inherited, node) = child.await.map_err(|_| "cancelled")?;
            assert_eq!(inherited, Some(deadline));
            assert_eq!(node.unwrap().name(), "task");
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn a_child_added_to_a_cancelled_group_starts_cancelled() {
    let alive = Alive::default();
    let outcome: Outcome<()> = Scope::named("scope")
        .grace(SECOND)
        .run(async |group| {
            group.cancel(Cause::Requested);
            let polled = Arc::new(Mutex::new(false));
            let (says, guard) = (polled.clone(), alive.guard());
            let child = group.spawn(async move {
                *says.lock().unwrap() = true;
                hold(guard).await
            });
            assert_eq!(
                child.await,
                Err(Cancelled {
                    cause: Cause::Requested
                })
            );
            assert!(!*polled.lock().unwrap());
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn isolated_failures_touch_nobody() {
    let outcome: Outcome<()> = Scope::named("supervisor")
        .policy(Policy::Isolate)
        .run(async |group| {
            drop(group.spawn(async { Err::<(), _>("failed") }));
            let other = group.spawn(async {
                settle().await;
                Ok(7)
            });
            assert_eq!(other.await, Ok(7));
            Ok(())
        })
        .await;
    assert_eq!(outcome.unwrap_err().iter().count(), 1);
}

#[tokio::test]
async fn the_first_success_is_enough() {
    let alive = Alive::default();
    let race = async |answers: &[Result<u32, Text>]| -> Outcome<Option<u32>> {
        Scope::named("race")
            .policy(Policy::FirstSuccess)
            .run(async |group: Group<Text>| {
                let slow = alive.guard();
                let handles: Vec<_> = answers
                    .iter()
                    .map(|&answer| group.spawn(async move { answer }))
                    .collect();
                let won = answers.iter().any(Result::is_ok);
                if won {
                    drop(group.spawn(hold(slow)));
                }
                let mut first = None;
                for handle in handles {
                    first = first.or(handle.await.ok());
                }
                Ok(first)
            })
            .await
    };
    assert_eq!(race(&[Err("no"), Ok(7)]).await.unwrap(), Some(7));
    assert_eq!(alive.count(), 0);
    let all_failed = race(&[Err("no"), Err("nor this")]).await.unwrap_err();
    assert_eq!(all_failed.iter().count(), 2);
}

#[tokio::test]
async fn a_success_forgives_errors_and_no_panic() {
    let outcome: Outcome<()> = Scope::named("race")
        .policy(Policy::FirstSuccess)
        .run(async |group| {
            drop(group.spawn::<(), _>(async { std::panic::resume_unwind(Box::new("a bug")) }));
            drop(group.spawn(async { Ok(()) }));
            Ok(())
        })
        .await;
    let kind = outcome.unwrap_err().into_first().kind;
    assert!(matches!(kind, FailureKind::Panic { message } if message == "a bug"));
}

#[tokio::test]
async fn starting_waits_until_the_task_is_ready() {
    let go = Gate::new();
    let outcome: Outcome<()> = scope(async |group| {
        let serve = go.clone();
        let port = group.start(|ready| async move {
            settle().await;
            ready.say(8080);
            serve.wait().await;
            Ok(())
        });
        assert_eq!(port.await, Ok(8080));
        let quiet = group.start(|ready: Ready<()>| async move {
            drop(ready);
            Ok(())
        });
        assert_eq!(quiet.await, Err(NotReady { cause: None }));
        go.open();
        Ok(())
    })
    .await;
    outcome.unwrap();
    let outcome: Outcome<()> = scope(async |group| {
        let failed = group.start::<(), _, _>(|_ready| async { Err("no port is free") });
        let cause = Some(Cause::SiblingFailed);
        assert_eq!(failed.await, Err(NotReady { cause }));
        Ok(())
    })
    .await;
    let kind = outcome.unwrap_err().into_first().kind;
    assert!(matches!(kind, FailureKind::Error("no port is free")));
}

#[tokio::test(start_paused = true)]
async fn a_helper_keeps_no_scope_open() {
    let (alive, begun) = (Alive::default(), Instant::now());
    let seen = Arc::new(Mutex::new(None));
    let outcome: Outcome<()> = Scope::named("scope")
        .grace(SECOND)
        .run(async |group| {
            let (guard, sees) = (alive.guard(), seen.clone());
            drop(group.spawn_helper(async move {
                let _guard = guard;
                let cause = Cancel::current().cancelled().await;
                *sees.lock().unwrap() = Some(cause);
                Ok(())
            }));
            drop(group.spawn(rest(SECOND)));
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!((alive.count(), begun.elapsed()), (0, SECOND));
    assert_eq!(*seen.lock().unwrap(), Some(Cause::ParentGone));
}

#[tokio::test(start_paused = true)]
async fn one_task_can_be_cancelled_alone_and_uses_its_grace() {
    let begun = Instant::now();
    let outcome: Outcome<()> = Scope::named("scope")
        .grace(2 * SECOND)
        .run(async |group| {
            let cleans_up = group.spawn(async {
                let inside = Scope::named("inside")
                    .grace(SECOND)
                    .run(async |_: Group<Text>| Ok(Cancel::current().cancelled().await));
                assert_eq!(inside.await.unwrap(), Cause::Requested);
                sleep(SECOND).await;
                Ok(7)
            });
            let deaf = group
                .named("deaf")
                .spawn(std::future::pending::<Result<(), Text>>());
            let other = group.spawn(rest(3 * SECOND));
            settle().await;
            for handle in [&cleans_up as &dyn Stop, &deaf] {
                handle.stop();
            }
            assert_eq!((cleans_up.await, begun.elapsed()), (Ok(7), SECOND));
            let cause = Cause::Requested;
            assert_eq!(
                (deaf.await, begun.elapsed()),
                (Err(Cancelled { cause }), 2 * SECOND)
            );
            assert_eq!(other.await, Ok(()));
            Ok(())
        })
        .await;
    outcome.unwrap();
}

trait Stop {
    fn stop(&self);
}

impl<T> Stop for jitney::Handle<T> {
    fn stop(&self) {
        self.cancel(Cause::Requested);
    }
}

#[tokio::test]
async fn panics_go_on_in_the_caller_if_they_are_to_after_all_has_ended() {
    let alive = Alive::default();
    let guard = alive.guard();
    let caller = outside(Scope::named("scope").resume_panics().run(
        |group: Group<Text>| async move {
            drop(group.spawn(hold(guard)));
            drop(group.spawn::<(), _>(async { std::panic::resume_unwind(Box::new("a bug")) }));
            Ok(())
        },
    ));
    let panic = caller.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref(), Some(&"a bug"));
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_fails_after_its_scope_was_dropped_is_told_by_the_scope_around() {
    // The inner error has another type than the outer one, except in the last task.
    let outcome: Outcome<()> = Scope::named("outer")
        .run(async |group| {
            let other = group.spawn(rest(9 * SECOND));
            let middle = async {
                let inner = Scope::named("inner")
                    .grace(SECOND)
                    .run(async |inner: Group<u32>| {
                        drop(inner.named("number").spawn(async {
                            Cancel::current().cancelled().await;
                            Err::<(), _>(7)
                        }));
                        drop(inner.named("panic").spawn::<(), _>(async {
                            Cancel::current().cancelled().await;
                            sleep(SECOND / 4).await;
                            std::panic::resume_unwind(Box::new("a bug"))
                        }));
                        let innermost = Scope::named("innermost")
                            .grace(SECOND)
                            .policy(Policy::Isolate);
                        drop(
                            innermost
                                .run(async |group: Group<Text>| {
                                    drop(
                                        group
                                            .named("before")
                                            .spawn(async { Err::<(), _>("before") }),
                                    );
                                    drop(group.named("after").spawn(async {
                                        Cancel::current().cancelled().await;
                                        sleep(SECOND / 2).await;
                                        Err::<(), _>("after")
                                    }));
                                    std::future::pending::<Result<(), Text>>().await
                                })
                                .await,
                        );
                        Ok(())
                    });
                drop(inner.await);
            };
            drop(tokio::time::timeout(SECOND, middle).await);
            other.await.map_err(|_| "an orphan cancels nobody")
        })
        .await;
    let mut told = Vec::new();
    let error = outcome.unwrap_err();
    for failure in std::iter::once(error.first).chain(error.rest) {
        let what = match failure.kind {
            FailureKind::Error(error) => error.to_owned(),
            FailureKind::Orphan(error) => format!("orphan {}", error.downcast::<u32>().unwrap()),
            other => other.to_string(),
        };
        told.push((failure.task.name.to_string(), what));
    }
    let expected = [
        ("before", "before"),
        ("number", "orphan 7"),
        ("panic", "panicked: a bug"),
        ("after", "after"),
    ];
    let expected = expected.map(|(task, what)| (task.to_owned(), what.to_owned()));
    told.sort_unstable();
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(told, expected);
}

#[tokio::test(start_paused = true)]
async fn or_it_is_told_to_a_hook() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let hears = told.clone();
    let dropped = Scope::named("root")
        .grace(SECOND)
        .on_orphan(move |failure| {
            let text = format!("{} {}", failure.task.name, failure.kind);
            hears.lock().unwrap().push(text);
        })
        .run(async |group: Group<Text>| {
            drop(group.named("late").spawn::<(), _>(async {
                Cancel::current().cancelled().await;
                std::panic::resume_unwind(Box::new("a bug"))
            }));
            std::future::pending::<Result<(), Text>>().await
        });
    timeout(SECOND, dropped).await.unwrap_err();
    assert_eq!(*told.lock().unwrap(), ["late panicked: a bug"]);
}
