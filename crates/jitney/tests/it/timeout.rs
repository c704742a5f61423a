//! Time limits: which one passed, what they inherit, and what they leave behind, which is nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jitney::{
    Cancel, Cause, Deadline, Elapsed, FailureKind, Group, GroupError, Scope, move_on_after, shield,
    timeout,
};
use tokio::time::{Instant, sleep};

use crate::support::{Alive, settle};

type Text = &'static str;

const SECOND: Duration = Duration::from_secs(1);

fn never() -> std::future::Pending<Result<(), Text>> {
    std::future::pending()
}

#[tokio::test(start_paused = true)]
async fn the_error_says_which_deadline_it_was() {
    let line = line!() + 1;
    let elapsed = timeout(2 * SECOND, never()).await.unwrap_err();
    assert_eq!((&*elapsed.name, elapsed.limit), ("timeout", 2 * SECOND));
    assert_eq!((elapsed.site.file(), elapsed.site.line()), (file!(), line));

    let named = Deadline::after(SECOND).named("upstream");
    let line = line!() - 1;
    let elapsed = timeout(named, never()).await.unwrap_err();
    assert_eq!((&*elapsed.name, elapsed.site.line()), ("upstream", line));
    let text = elapsed.to_string();
    assert_eq!(
        text,
        format!(
            "the deadline upstream of 1s passed (set at {}:{line})",
            file!()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn the_error_says_where_the_work_was_stuck() {
    let fetch = async || {
        let scope = Scope::named("fetch").run(async |_: Group<Text>| never().await);
        Scope::named("over")
            .run(async |_: Group<Text>| Ok(()))
            .await
            .unwrap();
        drop(scope.await);
    };
    let in_a_task = Scope::named("request").run(async |group: Group<Text>| {
        let task = group
            .named("page")
            .spawn(async move { Ok(timeout(SECOND, fetch()).await) });
        task.await.map_err(|_| "cancelled")
    });
    let elapsed = in_a_task.await.unwrap().unwrap_err();
    assert_eq!(elapsed.stuck.as_deref(), Some("page > fetch"));
    assert!(elapsed.to_string().ends_with(" while in page > fetch"));
    let elapsed = timeout(SECOND, fetch()).await.unwrap_err();
    assert_eq!(elapsed.stuck.as_deref(), Some("fetch"));
}

#[tokio::test(start_paused = true)]
async fn of_nested_deadlines_the_earliest_passes_and_is_named() {
    for (outer, inner, passed) in [
        (1, 2, "outer"),
        (2, 1, "inner"),
        (0, 2, "outer"),
        (2, 0, "inner"),
    ] {
        let at = |seconds, name| Deadline::after(seconds * SECOND).named(name);
        let (begun, earliest) = (Instant::now(), outer.min(inner) * SECOND);
        let limited = timeout(at(inner, "inner"), async {
            assert_eq!(Deadline::current().unwrap().remaining(), earliest);
            std::future::pending::<()>().await;
        });
        let name = match timeout(at(outer, "outer"), limited).await {
            Err(elapsed) | Ok(Err(elapsed)) => elapsed.name,
            Ok(Ok(())) => panic!("it cannot end"),
        };
        assert_eq!((&*name, begun.elapsed()), (passed, earliest));
    }
}

#[tokio::test(start_paused = true)]
async fn a_foreign_timeout_is_a_value_like_any_other() {
    let foreign = tokio::time::timeout(SECOND, never());
    let outcome = timeout(2 * SECOND, foreign).await;
    assert!(matches!(outcome, Ok(Err(_))), "{outcome:?}");
    let made_up: Result<(), Elapsed> = {
        let ours = timeout(SECOND, never()).await.unwrap_err();
        timeout(SECOND, async { Err(ours) }).await.unwrap()
    };
    made_up.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_ready_in_the_last_instant_is_not_lost() {
    assert_eq!(
        timeout(SECOND, async {
            sleep(SECOND).await;
            7
        })
        .await,
        Ok(7)
    );
    assert_eq!(move_on_after(SECOND, sleep(SECOND)).await, Some(()));
    assert_eq!(timeout(Duration::ZERO, async { 7 }).await, Ok(7));
    assert_eq!(move_on_after(SECOND, never()).await, None);
}

#[tokio::test(start_paused = true)]
async fn what_it_cut_off_has_ended_when_it_returns() {
    let (alive, begun) = (Alive::default(), Instant::now());
    let guard = alive.guard();
    let slow = Scope::named("slow")
        .grace(5 * SECOND)
        .run(async move |group: Group<Text>| {
            drop(group.spawn(async move {
                let _guard = guard;
                assert_eq!(Cancel::current().cancelled().await, Cause::Deadline);
                sleep(SECOND).await;
                Ok(())
            }));
            never().await
        });
    timeout(SECOND, slow).await.unwrap_err();
    assert_eq!((alive.count(), begun.elapsed()), (0, 2 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_future_that_never_rests_is_cut_off_too() {
    let busy = async {
        loop {
            tokio::time::advance(Duration::from_millis(10)).await;
            tokio::task::consume_budget().await;
        }
    };
    let never: Result<(), Elapsed> = timeout(SECOND, busy).await;
    never.unwrap_err();
}

#[tokio::test(start_paused = true)]
async fn children_inherit_the_deadline_and_the_request_to_stop() {
    let (deadline, cause) = (Deadline::after(SECOND), Cause::Deadline);
    let inherited = async {
        Scope::named("scope")
            .grace(SECOND)
            .run(async |group: Group<Text>| {
                let task = group.spawn(async move {
                    assert_eq!(Deadline::current(), Some(deadline));
                    assert_eq!(Cancel::current().cancelled().await, cause);
                    Ok(())
                });
                task.await.map_err(|_| "cancelled")
            })
            .await
    };
    timeout(deadline, inherited).await.unwrap_err();
    assert_eq!(
        (Deadline::current(), Cancel::current().cause()),
        (None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn the_scope_that_is_late_says_so_for_every_task_cut_off() {
    let outcome: Result<(), GroupError<Text>> = Scope::named("report")
        .deadline(SECOND)
        .run(async |group| {
            drop(group.named("query").spawn(never()));
            let inner = Scope::named("inner")
                .deadline(2 * SECOND)
                .run(async |_: Group<Text>| never().await);
            inner.await.map_err(|_| "inner")
        })
        .await;
    let error = outcome.unwrap_err();
    let mut late: Vec<_> = error
        .iter()
        .map(|failure| match &failure.kind {
            FailureKind::TimedOut(elapsed) => (&*failure.task.name, &*elapsed.name, elapsed.limit),
            other => panic!("{other:?}"),
        })
        .collect();
    late.sort_unstable();
    assert_eq!(
        late,
        [("query", "report", SECOND), ("report", "report", SECOND)]
    );
}

#[tokio::test(start_paused = true)]
async fn a_shield_holds_off_every_way_to_be_cancelled_and_nothing_after_it() {
    for grace in [Duration::ZERO, SECOND / 2] {
        for way in ["group", "handle", "deadline", "timeout", "around"] {
            let (ended, after) = (
                Arc::new(AtomicBool::new(false)),
                Arc::new(AtomicBool::new(false)),
            );
            let (says, went_on) = (ended.clone(), after.clone());
            let guarded = async move {
                let given_back = async {
                    assert_eq!(Cancel::current().cause(), None);
                    assert!(Deadline::current().unwrap().remaining() <= 9 * SECOND);
                    sleep(3 * SECOND).await;
                    says.store(true, Ordering::SeqCst);
                };
                shield(9 * SECOND, given_back).await.unwrap();
                sleep(3 * SECOND).await;
                went_on.store(true, Ordering::SeqCst);
                Ok::<_, Text>(())
            };
            let begun = Instant::now();
            let outer = Scope::named("outer")
                .grace(grace)
                .run(async |outer: Group<Text>| {
                    let mut scope = Scope::named("scope").grace(grace);
                    if way == "deadline" {
                        scope = scope.deadline(SECOND);
                    }
                    let running = scope.run(async |group: Group<Text>| {
                        // In a task, in the body, and in a scope that is part of a task.
                        let task = group.spawn(async move {
                            match way {
                                "timeout" => drop(timeout(SECOND, guarded).await),
                                _ => {
                                    let inner = Scope::named("inner").grace(grace);
                                    drop(inner.run(async move |_| guarded.await).await);
                                }
                            }
                            Ok(())
                        });
                        settle().await;
                        match way {
                            "group" => group.cancel(Cause::Requested),
                            "around" => outer.cancel(Cause::Requested),
                            "handle" => task.cancel(Cause::Requested),
                            _ => {}
                        }
                        Ok(())
                    });
                    drop(running.await);
                    Ok(())
                });
            drop(outer.await);
            let case = format!("{way}, grace {grace:?}");
            assert!(ended.load(Ordering::SeqCst), "{case}");
            assert!(!after.load(Ordering::SeqCst), "{case}");
            assert_eq!(begun.elapsed(), 3 * SECOND, "{case}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_shield_has_an_end() {
    let begun = Instant::now();
    let outcome: Result<(), GroupError<Text>> = Scope::named("scope")
        .run(async |group| {
            drop(group.spawn(async {
                let elapsed = shield(SECOND, never()).await.unwrap_err();
                assert_eq!(&*elapsed.name, "shield");
                never().await
            }));
            settle().await;
            group.cancel(Cause::Requested);
            Ok(())
        })
        .await;
    drop(outcome);
    assert_eq!(begun.elapsed(), SECOND);
}
