//! What limiters promise: the limit, the line, the names, and that no permit is lost under any schedule.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::limiter::{KeyedLimiter, Limiter};
use jitney::tree::Tree;
use jitney::{Group, Scope};
use proptest::prelude::*;

use crate::support::{Alive, Gate, outside, settle};

fn limit(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

#[tokio::test]
async fn no_more_than_the_limit_and_in_the_order_of_asking() {
    let limiter = Limiter::new("disk", limit(2));
    let (alive, gate) = (Alive::default(), Gate::new());
    let order = Arc::new(Mutex::new(Vec::new()));
    let tasks: Vec<_> = (0..10)
        .map(|number| {
            let (limiter, alive, gate, order) =
                (limiter.clone(), alive.clone(), gate.clone(), order.clone());
            outside(async move {
                let _permit = limiter.acquire().await;
                let _alive = alive.guard();
                order.lock().unwrap().push(number);
                gate.wait().await;
            })
        })
        .collect();
    settle().await;
    assert_eq!((alive.count(), limiter.available()), (2, 0));
    assert!(limiter.try_acquire().is_none());
    gate.open();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!((alive.peak(), limiter.available()), (2, 2));
    assert_eq!(*order.lock().unwrap(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn the_tree_and_the_error_name_who_holds_and_since_when() {
    let tree = Tree::new("test");
    let limiter = Limiter::under(&tree.root(), "disk", limit(1));
    let gate = Gate::new();
    let run = Scope::named("jobs")
        .under(&tree.root())
        .run(async |group: Group<String>| {
            let (held, open) = (limiter.clone(), gate.clone());
            drop(group.named("backup").spawn(async move {
                let _permit = held.acquire().await;
                open.wait().await;
                Ok(())
            }));
            settle().await;
            tokio::time::advance(Duration::from_secs(5)).await;
            let waiting = limiter.named("restore").acquire_by(Duration::from_secs(1));
            let waiting = outside(waiting);
            settle().await;
            let shown = tree.snapshot().to_string();
            assert!(shown.contains("disk [limit 1]"), "{shown}");
            assert!(shown.contains("backup [holds]"), "{shown}");
            assert!(shown.contains("restore [waits]"), "{shown}");
            let error = waiting.await.unwrap().unwrap_err();
            assert_eq!(error.waited, Duration::from_secs(1));
            assert_eq!(&*error.holders[0].name, "backup");
            assert!(error.holders[0].age >= Duration::from_secs(6), "{error}");
            assert!(
                error.to_string().contains("held by backup for 6.0s"),
                "{error}"
            );
            gate.open();
            Ok(())
        });
    run.await.unwrap();
    assert!(limiter.holders().is_empty());
    assert_eq!(tree.snapshot().nodes.len(), 2, "{}", tree.snapshot());
}

#[tokio::test]
async fn a_free_permit_is_given_even_after_the_deadline() {
    let limiter = Limiter::new("disk", limit(1));
    assert!(limiter.acquire_by(Duration::ZERO).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn keys_do_not_disturb_each_other_and_vanish_when_unused() {
    let tenants = KeyedLimiter::new("tenants", limit(1));
    let red = tenants.acquire("red").await;
    let blue = tenants.acquire("blue").await;
    assert!(tenants.try_acquire("red").is_none());
    assert!(
        tenants
            .acquire_by("red", Duration::from_millis(1))
            .await
            .is_err()
    );
    let waiting = outside(tenants.acquire("red"));
    settle().await;
    drop((red, blue));
    assert_eq!(tenants.keys(), ["red"], "who waits keeps the key");
    drop(waiting.await.unwrap());
    for key in 0..1000 {
        drop(
            tenants
                .try_acquire(if key % 2 == 0 { "even" } else { "odd" })
                .unwrap(),
        );
        assert!(tenants.keys().is_empty());
    }
    let nodes = tenants.node();
    assert_eq!(nodes.name(), "tenants");
}

#[derive(Clone, Copy, Debug)]
struct Asker {
    key: u8,
    patience: u8,
    holds: u8,
}

proptest! {
    /// However askers are cancelled, the limit holds, everyone else is served, and all permits are free at the end.
    #[test]
    fn no_permit_is_lost_under_random_cancellation(
        askers in proptest::collection::vec(
            (0..3u8, 0..12u8, 0..4u8).prop_map(|(key, patience, holds)| Asker { key, patience, holds }),
            1..30,
        ),
        permits in 1..4usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(check(askers, permits));
    }
}

async fn check(askers: Vec<Asker>, permits: usize) {
    let limiter = Limiter::new("all", limit(permits));
    let keyed = KeyedLimiter::new("keyed", limit(permits));
    let alive = Alive::default();
    let tasks: Vec<_> = askers
        .into_iter()
        .map(|asker| {
            let (limiter, keyed, alive) = (limiter.clone(), keyed.clone(), alive.clone());
            outside(async move {
                let work = async {
                    let _keyed = keyed.acquire(asker.key).await;
                    let _permit = limiter.acquire().await;
                    let _alive = alive.guard();
                    turns(asker.holds).await;
                };
                tokio::select! {
                    biased;
                    () = work => {}
                    () = turns(asker.patience) => {}
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    assert!(alive.peak() <= permits);
    assert_eq!(limiter.available(), permits);
    assert!(limiter.holders().is_empty());
    assert!(keyed.keys().is_empty());
}

async fn turns(turns: u8) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}
