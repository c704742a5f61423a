use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jitney::group::FAILURES_MAX;
use jitney::tree::Tree;
use jitney::{Cancel, Cancelled, Cause, FailureKind, Group, GroupError, Policy, Scope};

use crate::support::{Alive, Gate, outside, settle};

type Text = &'static str;
type Outcome<T> = Result<T, GroupError<Text>>;

/// How a scope comes to its end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Exit {
    Done,
    BodyError,
    BodyPanic,
    ChildError,
    ChildPanic,
    OwnCancel,
    OuterCancel,
    Deadline,
}

const EXITS: [Exit; 8] = [
    Exit::Done,
    Exit::BodyError,
    Exit::BodyPanic,
    Exit::ChildError,
    Exit::ChildPanic,
    Exit::OwnCancel,
    Exit::OuterCancel,
    Exit::Deadline,
];

/// What the other tasks are doing at that moment. They go on until a gate opens, which it does only for `Exit::Done`.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Child {
    NeverPolled,
    HeldBack,
    Idle,
    AlwaysReady,
    Finished,
    CleaningUp,
    Nested,
}

const CHILDREN: [Child; 7] = [
    Child::NeverPolled,
    Child::HeldBack,
    Child::Idle,
    Child::AlwaysReady,
    Child::Finished,
    Child::CleaningUp,
    Child::Nested,
];

#[tokio::test(start_paused = true)]
async fn when_run_returns_nothing_it_started_is_running() {
    for exit in EXITS {
        for child in CHILDREN {
            for grace in [Duration::ZERO, Duration::from_secs(1)] {
                let tree = Tree::new("test");
                let alive = Alive::default();
                let (outcome, left, nodes) = leave_by(exit, child, grace, &tree, &alive).await;
                let case = format!("{exit:?}, {child:?}, grace {grace:?}: {outcome:?}");
                assert_eq!((left, nodes), (0, 2), "{case}");
                assert!(alive.peak() >= 3, "{case}");
                let outcome = outcome.map_err(|error| error.into_first().kind);
                assert!(is_expected(exit, &outcome), "{case}");
            }
        }
    }
}

/// The outcome of a scope inside another, and what is alive in the instant after.
async fn leave_by(
    exit: Exit,
    child: Child,
    grace: Duration,
    tree: &Tree,
    alive: &Alive,
) -> (Outcome<i32>, usize, usize) {
    let mut scope = Scope::named("scope").grace(grace);
    if child == Child::HeldBack {
        scope = scope.limit(NonZeroUsize::MIN);
    }
    if exit == Exit::Deadline {
        scope = scope.deadline(Duration::from_secs(60));
    }
    // The grace lets the outer body see what comes out of the inner scope.
    let outer = Scope::named("outer")
        .under(&tree.root())
        .grace(Duration::from_secs(9));
    let seen = outer.run(async |outer: Group<Text>| {
        let body = async |group| leave(exit, child, &outer, group, alive).await;
        let outcome = scope.run(body).await;
        Ok((outcome, alive.count(), tree.snapshot().nodes.len()))
    });
    seen.await.unwrap()
}

async fn leave(
    exit: Exit,
    child: Child,
    outer: &Group<Text>,
    group: Group<Text>,
    alive: &Alive,
) -> Result<i32, Text> {
    let (go, finish) = (Gate::new(), Gate::new());
    drop(group.named("culprit").spawn(culprit(exit, go.clone())));
    for _ in 0..3 {
        let work = work(child, finish.clone(), alive.clone());
        drop(group.named("child").spawn(work));
    }
    if child != Child::NeverPolled {
        settle().await;
    }
    go.open();
    match exit {
        Exit::Done => {
            finish.open();
            return Ok(7);
        }
        Exit::BodyError => return Err("expected"),
        Exit::BodyPanic => panic!("expected"),
        Exit::OwnCancel => group.cancel(Cause::Requested),
        Exit::OuterCancel => outer.cancel(Cause::Shutdown),
        Exit::ChildError | Exit::ChildPanic | Exit::Deadline => {}
    }
    std::future::pending().await
}

async fn culprit(exit: Exit, go: Gate) -> Result<(), Text> {
    go.wait().await;
    match exit {
        Exit::ChildError => Err("expected"),
        Exit::ChildPanic => panic!("expected"),
        _ => Ok(()),
    }
}

fn work(child: Child, finish: Gate, alive: Alive) -> impl Future<Output = Result<(), Text>> + Send {
    // Counts from here on, also if it is never polled.
    let guard = alive.guard();
    async move {
        let _guard = guard;
        match child {
            Child::NeverPolled | Child::HeldBack | Child::Idle => finish.wait().await,
            Child::AlwaysReady => {
                // A paused clock goes on by itself only when nobody is ready.
                while !finish.is_open() {
                    tokio::time::advance(Duration::from_millis(100)).await;
                }
            }
            Child::Finished => {}
            Child::CleaningUp => tokio::select! {
                () = finish.wait() => {}
                _ = Cancel::current().cancelled() => tokio::time::sleep(Duration::from_millis(100)).await,
            },
            Child::Nested => {
                let nested = Scope::named("nested").grace(Duration::from_secs(2));
                let body = async |group: Group<Text>| {
                    for _ in 0..3 {
                        let (finish, guard) = (finish.clone(), alive.guard());
                        drop(group.spawn(async move {
                            let _guard = guard;
                            finish.wait().await;
                            Ok(())
                        }));
                    }
                    Ok(())
                };
                nested.run(body).await.map_err(|_| "nested")?;
            }
        }
        Ok(())
    }
}

fn is_expected(exit: Exit, outcome: &Result<i32, FailureKind<Text>>) -> bool {
    match (exit, outcome) {
        (Exit::Done, outcome) => matches!(outcome, Ok(7)),
        (Exit::BodyError | Exit::ChildError, Err(kind)) => {
            matches!(kind, FailureKind::Error("expected"))
        }
        (Exit::BodyPanic | Exit::ChildPanic, Err(kind)) => {
            matches!(kind, FailureKind::Panic { message } if message == "expected")
        }
        (Exit::OwnCancel, Err(kind)) => matches!(kind, FailureKind::Cancelled(Cause::Requested)),
        (Exit::OuterCancel, Err(kind)) => matches!(kind, FailureKind::Cancelled(Cause::Shutdown)),
        (Exit::Deadline, Err(kind)) => matches!(kind, FailureKind::TimedOut(_)),
        (_, Ok(_)) => false,
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ignores_the_grace_is_dropped_at_its_end_and_not_before() {
    let begun = tokio::time::Instant::now();
    let alive = Alive::default();
    let outcome: Outcome<()> = Scope::named("scope")
        .grace(Duration::from_secs(3))
        .run(async |group| {
            let guard = alive.guard();
            drop(group.spawn(async move {
                let _guard = guard;
                std::future::pending::<Result<(), Text>>().await
            }));
            settle().await;
            group.cancel(Cause::Requested);
            tokio::time::sleep(Duration::from_secs(2)).await;
            assert_eq!(alive.count(), 1);
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
}

#[tokio::test]
async fn a_group_opened_in_a_cancelled_context_polls_nothing() {
    let polled = Arc::new(AtomicBool::new(false));
    let outcome: Outcome<()> = Scope::named("outer")
        .grace(Duration::from_secs(5))
        .run(async |outer: Group<Text>| {
            outer.cancel(Cause::ClientGone);
            let flag = polled.clone();
            let inner: Outcome<()> = Scope::named("inner")
                .run(async move |_| {
                    flag.store(true, Ordering::SeqCst);
                    Ok(())
                })
                .await;
            let kind = inner.unwrap_err().into_first().kind;
            assert!(matches!(kind, FailureKind::Cancelled(Cause::ClientGone)));
            let flag = polled.clone();
            let handle = outer.spawn(async move {
                flag.store(true, Ordering::SeqCst);
                Ok(())
            });
            let cause = Cause::ClientGone;
            assert_eq!(handle.await, Err(Cancelled { cause }));
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert!(!polled.load(Ordering::SeqCst));
}

#[tokio::test]
async fn after_the_scope_a_clone_of_the_group_gives_cancelled_handles() {
    let alive = Alive::default();
    let mut leaked = None;
    let outcome: Outcome<()> = Scope::named("scope")
        .limit(NonZeroUsize::MIN)
        .run(async |group: Group<Text>| {
            leaked = Some(group);
            Ok(())
        })
        .await;
    outcome.unwrap();
    let group = leaked.unwrap();
    let task = || {
        let guard = alive.guard();
        async move {
            drop(guard);
            panic!("polled")
        }
    };
    let handles = [
        group.spawn::<(), _>(task()),
        group.spawn_when_free(task()).await,
        group.try_spawn(task()).ok().unwrap(),
    ];
    assert_eq!(alive.count(), 0, "the futures are dropped at once");
    let cause = Cause::ParentGone;
    for handle in handles {
        assert_eq!(handle.await, Err(Cancelled { cause }));
    }
    assert_eq!(group.cancel_token().cause(), Some(cause));
}

#[tokio::test]
async fn a_dropped_handle_drops_the_value_inside_the_task_and_never_the_task() {
    let alive = Alive::default();
    let gate = Gate::new();
    let outcome: Outcome<()> = Scope::named("scope")
        .run(async |group| {
            let (values, waiting) = (alive.clone(), gate.clone());
            drop(group.spawn(async move {
                waiting.wait().await;
                Ok(values.guard())
            }));
            gate.open();
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!((alive.peak(), alive.count()), (1, 0));
}

#[tokio::test]
async fn isolated_tasks_go_on_and_all_that_failed_is_reported_in_order() {
    let alive = Alive::default();
    let outcome: Outcome<()> = Scope::named("scope")
        .policy(Policy::Isolate)
        .run(async |group| {
            let failed = group.named("first").spawn(async { Err::<(), _>("one") });
            let cause = Cause::SiblingFailed;
            assert_eq!(failed.await, Err(Cancelled { cause }));
            drop(
                group
                    .named("second")
                    .spawn::<(), _>(async { panic!("two {}", 2) }),
            );
            let guard = alive.guard();
            let fine = group.named("fine").spawn(async move {
                settle().await;
                drop(guard);
                Ok(3)
            });
            assert_eq!(fine.await, Ok(3));
            Ok(())
        })
        .await;
    let error = outcome.unwrap_err();
    let told: Vec<_> = error
        .iter()
        .map(|failure| (&*failure.task.name, failure.kind.to_string()))
        .collect();
    assert_eq!(
        told,
        [
            ("first", "one".to_owned()),
            ("second", "panicked: two 2".to_owned())
        ]
    );
    let line = error.to_string();
    assert!(
        line.starts_with("first #") && line.ends_with(": one (and 1 more)"),
        "{line}"
    );
    assert_eq!(format!("{error:#}").lines().count(), 3);
}

#[tokio::test]
async fn failures_beyond_the_bound_are_counted() {
    let outcome: Outcome<()> = Scope::named("scope")
        .policy(Policy::Isolate)
        .run(async |group| {
            for _ in 0..FAILURES_MAX + 5 {
                drop(group.spawn(async { Err::<(), _>("no") }));
            }
            Ok(())
        })
        .await;
    let error = outcome.unwrap_err();
    assert_eq!((error.iter().count(), error.omitted), (FAILURES_MAX, 5));
    assert!(error.to_string().ends_with("(and 1028 more)"), "{error}");
}

#[tokio::test]
async fn panics_are_caught_wherever_they_come_from() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("in drop")
        }
    }
    type Spawn = fn(&Group<Text>);
    let table: [(Text, Spawn); 4] = [
        ("in poll", |group| {
            drop(group.spawn::<(), _>(async { panic!("in poll") }));
        }),
        ("in drop", |group| {
            let bomb = Bomb;
            drop(group.spawn(async move {
                let _bomb = bomb;
                Ok(())
            }));
        }),
        ("the panic's value is not a text", |group| {
            drop(group.spawn::<(), _>(async { std::panic::panic_any(1) }));
        }),
        ("in drop", |group| {
            let bomb = Bomb;
            drop(group.spawn(async move {
                let _bomb = bomb;
                std::future::pending::<Result<(), Text>>().await
            }));
            group.cancel(Cause::Requested);
        }),
    ];
    for (expected, spawn) in table {
        let outcome: Outcome<()> = Scope::named("scope")
            .run(async |group| {
                spawn(&group);
                Ok(())
            })
            .await;
        let kind = outcome.unwrap_err().into_first().kind;
        assert!(
            matches!(&kind, FailureKind::Panic { message } if message == expected),
            "{kind:?}"
        );
    }
    let outcome: Outcome<()> = Scope::named("scope")
        .run(|_| -> std::future::Ready<Result<(), Text>> { panic!("before the body") })
        .await;
    let kind = outcome.unwrap_err().into_first().kind;
    assert!(matches!(&kind, FailureKind::Panic { message } if message == "before the body"));
}

#[tokio::test]
async fn a_panic_while_a_value_is_dropped_still_lets_the_scope_end() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("nobody wanted me")
        }
    }
    let outcome: Outcome<()> = Scope::named("scope")
        .run(async |group| {
            drop(group.spawn(async { Ok(Bomb) }));
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn no_task_starts_between_a_failure_and_the_cancelling_of_its_siblings() {
    let started = Arc::new(AtomicBool::new(false));
    let outcome: Outcome<()> = Scope::named("scope")
        .limit(NonZeroUsize::MIN)
        .run(async |group| {
            drop(group.spawn(async { Err::<(), _>("first") }));
            for _ in 0..2 {
                let started = started.clone();
                drop(group.spawn(async move {
                    started.store(true, Ordering::SeqCst);
                    Ok(())
                }));
            }
            Ok(())
        })
        .await;
    assert_eq!(outcome.unwrap_err().iter().count(), 1);
    assert!(!started.load(Ordering::SeqCst));
}

#[derive(Clone, Copy, Debug)]
enum Verb {
    Spawn,
    WhenFree,
    Try,
}

#[tokio::test]
async fn the_limit_is_reached_and_never_exceeded() {
    let limit = NonZeroUsize::new(3).unwrap();
    for verb in [Verb::Spawn, Verb::WhenFree, Verb::Try] {
        let (alive, gate) = (Alive::default(), Gate::new());
        let outcome: Outcome<usize> = Scope::named("scope")
            .limit(limit)
            .run(async |group| {
                let mut refused = 0;
                let opener = outside(open_when_settled(gate.clone()));
                for _ in 0..10 {
                    let (alive, gate) = (alive.clone(), gate.clone());
                    let task = async move {
                        let _guard = alive.guard();
                        gate.wait().await;
                        settle().await;
                        Ok(())
                    };
                    match verb {
                        Verb::Spawn => drop(group.spawn(task)),
                        Verb::WhenFree => drop(group.spawn_when_free(task).await),
                        Verb::Try => match group.try_spawn(task) {
                            Ok(handle) => drop(handle),
                            Err(_task) => refused += 1,
                        },
                    }
                }
                opener.await.unwrap();
                Ok(refused)
            })
            .await;
        let refused = outcome.unwrap();
        assert_eq!(alive.peak(), 3, "{verb:?}");
        assert_eq!(
            refused,
            if matches!(verb, Verb::Try) { 7 } else { 0 },
            "{verb:?}"
        );
    }
}

async fn open_when_settled(gate: Gate) {
    settle().await;
    gate.open();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_full_group_keeps_nobody_waiting_for_a_place() {
    let outcome: Outcome<()> = Scope::named("scope")
        .limit(NonZeroUsize::MIN)
        .grace(Duration::from_secs(60))
        .run(async |group| {
            drop(group.spawn(std::future::pending::<Result<(), Text>>()));
            settle().await;
            group.cancel(Cause::Requested);
            let begun = tokio::time::Instant::now();
            let handle = group.spawn_when_free(async { Ok(()) }).await;
            let cause = Cause::Requested;
            assert_eq!(handle.await, Err(Cancelled { cause }));
            assert_eq!(begun.elapsed(), Duration::ZERO);
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn a_hundred_thousand_tasks_leave_nothing_behind() {
    let tree = Tree::new("test");
    let limit = NonZeroUsize::new(16).unwrap();
    let outcome: Outcome<()> = Scope::named("server")
        .under(&tree.root())
        .limit(limit)
        .run(async |group| {
            let connections = group.named("connection");
            for i in 0..100_000 {
                drop(connections.spawn_when_free(async move { Ok(i) }).await);
                if i % 1000 == 0 {
                    let nodes = tree.snapshot().nodes.len();
                    assert!(nodes <= 2 + limit.get(), "{nodes} nodes after {i} tasks");
                }
            }
            settle().await;
            assert_eq!(tree.snapshot().nodes.len(), 2);
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn tasks_may_spawn_siblings_after_the_body_has_returned() {
    let count = Alive::default();
    let outcome: Outcome<()> = Scope::named("scope")
        .run(async |group| {
            drop(group.spawn(generation(5, group.clone(), count.clone())));
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!((count.peak(), count.count()), (32, 0));
}

/// Every task starts two more; the last generation waits until all of its 32 tasks are there.
fn generation(
    left: u32,
    group: Group<Text>,
    last: Alive,
) -> std::pin::Pin<Box<dyn Future<Output = Result<(), Text>> + Send>> {
    Box::pin(async move {
        if left == 0 {
            let _guard = last.guard();
            while last.peak() < 32 {
                tokio::task::yield_now().await;
            }
            return Ok(());
        }
        for _ in 0..2 {
            drop(group.spawn(generation(left - 1, group.clone(), last.clone())));
        }
        Ok(())
    })
}
