use std::cell::Cell;
use std::time::Duration;

use jitney::{Cause, Group, Outcome, Scope, first, first_ok, hedge};

use crate::support::{Alive, settle};

type Text = &'static str;

const SECOND: Duration = Duration::from_secs(1);

/// After so many seconds this result, while a guard is alive.
async fn after(alive: Alive, seconds: u32, result: Result<u32, Text>) -> Result<u32, Text> {
    let _guard = alive.guard();
    tokio::time::sleep(SECOND * seconds).await;
    result
}

#[tokio::test(start_paused = true)]
async fn losers_have_ended_with_what_they_started() {
    let alive = Alive::default();
    // The loser's own scope gives its task a grace, which dropping the loser could not wait for.
    let loser = {
        let alive = alive.clone();
        async move {
            let scope = Scope::named("inner").grace(SECOND * 10);
            let outcome = scope.run(async |group: Group<Text>| {
                drop(group.spawn(async move {
                    let _guard = alive.guard();
                    let cause = jitney::Cancel::current().cancelled().await;
                    assert_eq!(cause, Cause::SiblingFailed);
                    tokio::time::sleep(SECOND).await;
                    Ok(())
                }));
                std::future::pending::<Result<u32, Text>>().await
            });
            outcome.await.map_err(|_| "cut off")
        }
    };
    let contenders: [futures_util::future::BoxFuture<'static, _>; 2] =
        [Box::pin(loser), Box::pin(after(alive.clone(), 5, Ok(7)))];
    let began = tokio::time::Instant::now();
    let winner = first(contenders).await.unwrap();
    assert_eq!((winner.index, winner.value), (1, 7));
    assert_eq!((alive.count(), alive.peak()), (0, 2));
    assert_eq!(
        began.elapsed().as_secs(),
        6,
        "it did not wait for the loser's clean-up"
    );
}

#[tokio::test(start_paused = true)]
async fn all_contenders_start_at_once() {
    let alive = Alive::default();
    let many = || (0..1000).map(|index| after(alive.clone(), 1000 - index, Ok(index)));
    assert_eq!(first(many()).await.unwrap().index, 999);
    assert_eq!(first_ok(many()).await.unwrap().index, 999);
    assert_eq!((alive.count(), alive.peak()), (0, 1000));
}

#[tokio::test(start_paused = true)]
async fn first_ends_with_a_failure_and_first_ok_does_not() {
    let alive = Alive::default();
    let contenders = || {
        [(3, Ok(3)), (1, Err("a")), (2, Err("b"))]
            .map(|(seconds, result)| after(alive.clone(), seconds, result))
    };
    let missed = first(contenders()).await.unwrap_err();
    let cut = Outcome::Cancelled(Cause::SiblingFailed);
    assert_eq!(
        missed.settled.outcomes(),
        [cut.clone(), Outcome::Err("a"), cut]
    );
    assert_eq!(
        missed.to_string(),
        "1 had to succeed, but only 0 of 3 did; item 1: a"
    );
    assert_eq!(first_ok(contenders()).await.unwrap().value, 3);
    let all_fail = [2, 1].map(|seconds| after(alive.clone(), seconds, Err("down")));
    let missed = first_ok(all_fail).await.unwrap_err();
    assert_eq!(missed.settled.errors().count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hedge_is_made_late_and_only_if_needed() {
    // How long each attempt takes and what it gives; the delay is five seconds. Then: attempts made, the result, and when.
    type Row = (u32, Result<u32, Text>, u32, Result<u32, Text>);
    type Expected = Result<u32, Vec<Text>>;
    let table: [(Row, usize, Expected, u64); 7] = [
        ((1, Ok(1), 1, Ok(2)), 1, Ok(1), 1),
        ((9, Ok(1), 1, Ok(2)), 2, Ok(2), 6),
        ((9, Ok(1), 60, Ok(2)), 2, Ok(1), 9),
        ((1, Err("a"), 1, Ok(2)), 1, Err(vec!["a"]), 1),
        ((9, Err("a"), 8, Ok(2)), 2, Ok(2), 13),
        ((9, Ok(1), 1, Err("b")), 2, Ok(1), 9),
        ((9, Err("a"), 1, Err("b")), 2, Err(vec!["a", "b"]), 9),
    ];
    for ((first, result, second, other), attempts, expected, seconds) in table {
        let alive = Alive::default();
        let made = Cell::new(0);
        let began = tokio::time::Instant::now();
        let hedged = hedge(SECOND * 5, || {
            made.set(made.get() + 1);
            match made.get() {
                1 => after(alive.clone(), first, result),
                _ => after(alive.clone(), second, other),
            }
        });
        let hedged = hedged.await.map(|winner| winner.value).map_err(|missed| {
            let outcomes = missed.settled.into_iter();
            let errors = outcomes.map(|outcome| match outcome {
                Outcome::Err(error) => error,
                other => panic!("{other:?}"),
            });
            errors.collect::<Vec<_>>()
        });
        assert_eq!((hedged, made.get()), (expected, attempts));
        assert_eq!((began.elapsed().as_secs(), alive.count()), (seconds, 0));
    }
}

#[tokio::test]
async fn a_dropped_race_leaves_its_contenders_to_the_scope_around() {
    let alive = Alive::default();
    let scope = Scope::named("scope").run(async |_: Group<Text>| {
        let mut race = Box::pin(first([after(alive.clone(), 60, Ok(1))]));
        assert!(futures_util::poll!(&mut race).is_pending());
        settle().await;
        assert_eq!(alive.count(), 1);
        Ok(())
    });
    scope.await.unwrap();
    assert_eq!(alive.count(), 0);
}
