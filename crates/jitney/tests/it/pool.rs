//! What the pool promises: the bound, the line, that cancelled waiters lose nothing, and an end that names who holds.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::pool::{Manager, Pool, PoolError, Settings, Stats};
use jitney::tree::Tree;
use jitney::{Cause, Group, Scope};
use proptest::prelude::*;

use crate::support::{Gate, outside, settle};

/// Makes numbered resources, and knows which exist.
#[derive(Clone, Default)]
struct Lab {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    made: AtomicUsize,
    open: Mutex<BTreeSet<usize>>,
    most: AtomicUsize,
    closed: Mutex<Vec<usize>>,
    broken: Mutex<BTreeSet<usize>>,
    /// Opening waits for it.
    gate: Mutex<Option<Gate>>,
    /// The openings with these numbers fail.
    failing: Mutex<BTreeSet<usize>>,
    /// How often everything gives up its turn.
    turns: AtomicUsize,
}

struct Resource {
    number: usize,
    lab: Lab,
}

impl Drop for Resource {
    fn drop(&mut self) {
        self.lab.shared.open.lock().unwrap().remove(&self.number);
    }
}

impl Lab {
    fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    fn break_down(&self, number: usize) {
        self.shared.broken.lock().unwrap().insert(number);
    }

    async fn turns(&self) {
        for _ in 0..self.shared.turns.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    }

    fn sound(&self, resource: &Resource) -> Result<(), String> {
        match self
            .shared
            .broken
            .lock()
            .unwrap()
            .contains(&resource.number)
        {
            true => Err("broken".to_owned()),
            false => Ok(()),
        }
    }
}

impl Manager for Lab {
    type Resource = Resource;
    type Error = String;

    async fn open(&self) -> Result<Resource, String> {
        let number = self.shared.made.fetch_add(1, Ordering::SeqCst);
        let gate = self.shared.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            gate.wait().await;
        }
        self.turns().await;
        if self.shared.failing.lock().unwrap().contains(&number) {
            return Err(format!("no {number}"));
        }
        let mut open = self.shared.open.lock().unwrap();
        open.insert(number);
        self.shared.most.fetch_max(open.len(), Ordering::SeqCst);
        let lab = self.clone();
        Ok(Resource { number, lab })
    }

    async fn check(&self, resource: &mut Resource) -> Result<(), String> {
        self.turns().await;
        self.sound(resource)
    }

    async fn recycle(&self, resource: &mut Resource) -> Result<(), String> {
        self.turns().await;
        self.sound(resource)
    }

    async fn close(&self, resource: Resource) -> Result<(), String> {
        self.turns().await;
        self.shared.closed.lock().unwrap().push(resource.number);
        Ok(())
    }
}

fn settings(max: usize) -> Settings {
    Settings::new(NonZeroUsize::new(max).unwrap())
}

/// Runs `body` with a pool, whose scope must end by itself and leave nothing open.
async fn with_pool<F, Fut>(settings: Settings, body: F)
where
    F: FnOnce(Lab, Pool<Lab>) -> Fut,
    Fut: Future<Output = ()>,
{
    let lab = Lab::default();
    let outcome = Scope::named("pool's owner")
        .run(async |group: Group<String>| {
            let pool = Pool::new(&group, "lab", settings, lab.clone());
            body(lab.clone(), pool).await;
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(lab.open(), 0);
}

#[tokio::test(start_paused = true)]
async fn resources_are_used_again_and_never_more_than_the_most() {
    with_pool(settings(2), async |lab, pool| {
        let first = pool.get().await.unwrap();
        assert_eq!(first.number, 0);
        drop(first);
        settle().await;
        let (first, second) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        assert_eq!((first.number, second.number), (0, 1));
        let third = outside(pool.get());
        settle().await;
        assert!(!third.is_finished());
        assert_eq!((pool.stats().held, pool.stats().waiting), (2, 1));
        drop(first);
        assert_eq!(third.await.unwrap().unwrap().number, 0);
        assert_eq!(lab.open(), 2);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_was_opened_for_a_cancelled_waiter_goes_to_the_next() {
    with_pool(settings(1), async |lab, pool| {
        let gate = Gate::new();
        *lab.shared.gate.lock().unwrap() = Some(gate.clone());
        let first = outside(pool.get());
        let second = outside(pool.get());
        settle().await;
        first.abort();
        settle().await;
        assert_eq!(pool.stats().waiting, 1);
        gate.open();
        assert_eq!(
            second.await.unwrap().unwrap().number,
            0,
            "it was not opened again"
        );
        assert_eq!(pool.stats().opened, 1);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_resource_handed_to_a_waiter_that_never_looks_comes_back() {
    with_pool(settings(1), async |_, pool| {
        let held = pool.get().await.unwrap();
        let mut waiting = Box::pin(pool.get());
        assert!(futures_util::poll!(&mut waiting).is_pending());
        drop(held);
        settle().await;
        assert_eq!(pool.stats().held, 1, "it is on its way");
        drop(waiting);
        assert_eq!(pool.get().await.unwrap().number, 0);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn broken_ones_are_replaced_when_they_come_back_and_when_they_are_checked() {
    let checked = Settings {
        check: true,
        ..settings(1)
    };
    with_pool(checked, async |lab, pool| {
        let resource = pool.get().await.unwrap();
        lab.break_down(resource.number);
        drop(resource);
        let resource = pool.get().await.unwrap();
        assert_eq!((resource.number, pool.stats().broken), (1, 1));
        drop(resource);
        settle().await;
        assert_eq!(pool.stats().idle, 1);
        lab.break_down(1);
        let resource = pool.get().await.unwrap();
        assert_eq!((resource.number, pool.stats().broken), (2, 2));
        resource.discard();
        assert_eq!(pool.get().await.unwrap().number, 3);
        assert_eq!(*lab.shared.closed.lock().unwrap(), [2]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn failures_and_panics_of_opening_go_to_who_waited_longest() {
    struct Bad;
    impl Manager for Bad {
        type Resource = ();
        type Error = String;
        async fn open(&self) -> Result<(), String> {
            panic!("bug");
        }
    }
    with_pool(settings(1), async |lab, pool| {
        lab.shared.failing.lock().unwrap().insert(0);
        let (first, second) = (outside(pool.get()), outside(pool.get()));
        let first = first.await.unwrap();
        assert!(matches!(first, Err(PoolError::Open(error)) if error == "no 0"));
        assert_eq!(second.await.unwrap().unwrap().number, 1);
        let gate = Gate::new();
        *lab.shared.gate.lock().unwrap() = Some(gate);
    })
    .await;
    let outcome = Scope::named("owner").run(async |group: Group<String>| {
        let pool = Pool::new(&group, "bad", settings(1), Bad);
        let outcome = pool.get().await;
        assert!(matches!(outcome, Err(PoolError::Panicked { message }) if message == "bug"));
        Ok(())
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn opening_and_care_have_limits() {
    struct Slow(Arc<AtomicUsize>);
    impl Manager for Slow {
        type Resource = usize;
        type Error = String;
        async fn open(&self) -> Result<usize, String> {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => std::future::pending().await,
                number => Ok(number),
            }
        }
        async fn recycle(&self, _: &mut usize) -> Result<(), String> {
            std::future::pending().await
        }
        async fn close(&self, _: usize) -> Result<(), String> {
            std::future::pending().await
        }
    }
    let outcome = Scope::named("owner").run(async |group: Group<String>| {
        let pool = Pool::new(&group, "slow", settings(1), Slow(Arc::default()));
        let first = pool.get().await;
        assert!(matches!(first, Err(PoolError::OpenTimedOut { .. })));
        let second = pool.get().await.unwrap();
        drop(second);
        assert_eq!(*pool.get().await.unwrap(), 2, "the second was given up");
        Ok(())
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn idle_and_old_resources_are_closed() {
    let limited = Settings {
        idle: Some(Duration::from_secs(10)),
        lifetime: Some(Duration::from_secs(60)),
        ..settings(2)
    };
    with_pool(limited, async |lab, pool| {
        let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        drop((a, b));
        for _ in 0..9 {
            tokio::time::sleep(Duration::from_secs(6)).await;
            let last_used = pool.get().await.unwrap();
            assert_eq!(last_used.number, 1, "the last one used is used again");
        }
        settle().await;
        assert_eq!(*lab.shared.closed.lock().unwrap(), [0], "it lay idle");
        let old = pool.get().await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(lab.open(), 1, "what is held is left alone");
        drop(old);
        assert_eq!(pool.get().await.unwrap().number, 2);
        settle().await;
        assert_eq!(*lab.shared.closed.lock().unwrap(), [0, 1]);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_or_in_too_long_a_line_is_told_who_holds() {
    let short = Settings {
        max_waiting: 1,
        ..settings(1)
    };
    with_pool(short, async |_, pool| {
        let held = pool.get().await.unwrap();
        let waiting = outside(pool.get());
        settle().await;
        assert!(matches!(
            pool.get().await,
            Err(PoolError::Full { waiting: 1 })
        ));
        waiting.abort();
        settle().await;
        let late = pool.get_by(Duration::from_secs(2)).await;
        let Err(PoolError::TimedOut {
            waited, holders, ..
        }) = late
        else {
            panic!("there was none to be had");
        };
        assert_eq!((waited, holders.len()), (Duration::from_secs(2), 1));
        assert!(holders[0].site.file().ends_with("pool.rs"));
        assert_eq!(pool.stats().waiting, 0, "who gave up is forgotten");
        drop(held);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_drains_and_names_who_still_holds() {
    let tree = Tree::new("test");
    let lab = Lab::default();
    let gate = Gate::new();
    let outcome = Scope::named("owner")
        .under(&tree.root())
        .run(async |group: Group<String>| {
            let pool = Pool::new(&group, "lab", settings(2), lab.clone());
            let (inner, open) = (pool.clone(), gate.clone());
            drop(group.named("report").spawn(async move {
                let _held = inner.get().await.map_err(|error| error.to_string())?;
                open.wait().await;
                Ok(())
            }));
            drop(pool.get().await.unwrap());
            settle().await;
            let second = pool.get().await.unwrap();
            let waiting = outside(pool.get());
            settle().await;
            let shown = tree.snapshot().to_string();
            assert!(
                shown.contains("lab [2 of 2 held, 0 idle, 1 wait]"),
                "{shown}"
            );
            assert!(shown.contains("report [holds]"), "{shown}");
            drop(second);
            drop(waiting.await.unwrap().unwrap());
            let error = pool.close(Duration::from_secs(3)).await.unwrap_err();
            assert_eq!(error.holders.len(), 1);
            assert_eq!(&*error.holders[0].name, "report", "{error}");
            assert!(matches!(pool.get().await, Err(PoolError::Closed)));
            assert_eq!(lab.open(), 1);
            gate.open();
            pool.close(Duration::from_secs(3)).await.unwrap();
            assert_eq!(lab.open(), 0);
            assert_eq!(lab.shared.closed.lock().unwrap().len(), 2);
            Ok(())
        });
    outcome.await.unwrap();
    assert_eq!(tree.snapshot().nodes.len(), 1, "{}", tree.snapshot());
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_group_closes_within_its_grace_and_drops_without() {
    for (grace, closed) in [(Duration::from_secs(1), vec![0]), (Duration::ZERO, vec![])] {
        let lab = Lab::default();
        let mut kept = None;
        let scope = Scope::named("owner").grace(grace);
        let outcome = scope.run(async |group: Group<String>| {
            let pool = Pool::new(&group, "lab", settings(1), lab.clone());
            drop(pool.get().await.unwrap());
            settle().await;
            assert_eq!(pool.stats().idle, 1);
            kept = Some(pool);
            group.cancel(Cause::Requested);
            Ok(())
        });
        outcome.await.unwrap();
        assert_eq!(*lab.shared.closed.lock().unwrap(), closed);
        assert_eq!(lab.open(), 0);
        let orphan = kept.unwrap();
        assert!(
            matches!(orphan.get().await, Err(PoolError::Closed)),
            "nobody would answer"
        );
        orphan.close(Duration::ZERO).await.unwrap();
    }
}

#[derive(Clone, Copy, Debug)]
struct User {
    patience: u8,
    holds: u8,
    breaks: bool,
    discards: bool,
}

prop_compose! {
    fn users()(
        users in proptest::collection::vec((0..20u8, 0..5u8, 0..8u8), 1..30),
    ) -> Vec<User> {
        users.into_iter().map(|(patience, holds, fate)| User {
            patience,
            holds,
            breaks: fate == 0,
            discards: fate == 1,
        }).collect()
    }
}

proptest! {
    /// However users are cancelled and resources break, there are never too many, none is lost, and none stays open.
    #[test]
    fn no_resource_is_lost_under_random_cancellation(
        users in users(),
        max in 1..4usize,
        turns in 0..3usize,
        check in any::<bool>(),
        failing in proptest::collection::btree_set(0..8usize, 0..4),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(with_pool(Settings { check, ..settings(max) }, async move |lab, pool| {
            lab.shared.turns.store(turns, Ordering::SeqCst);
            *lab.shared.failing.lock().unwrap() = failing;
            let tasks: Vec<_> = users.into_iter().map(|user| outside(use_it(user, lab.clone(), pool.clone()))).collect();
            for task in tasks {
                task.await.unwrap();
            }
            // Whatever happened, as many as ever can still be had at the same time.
            lab.shared.failing.lock().unwrap().clear();
            let mut all = Vec::new();
            for _ in 0..max {
                all.push(pool.get().await.map_err(|error| error.to_string()).unwrap());
            }
            assert!(lab.shared.most.load(Ordering::SeqCst) <= max);
            drop(all);
            pool.close(Duration::from_secs(1)).await.unwrap();
            let Stats { held, idle, busy, waiting, opened, broken, closed, .. } = pool.stats();
            assert_eq!((held, idle, busy, waiting), (0, 0, 0, 0));
            assert_eq!(opened, broken + closed);
        }));
    }
}

async fn use_it(user: User, lab: Lab, pool: Pool<Lab>) {
    let work = async {
        let Ok(resource) = pool.get().await else {
            return;
        };
        for _ in 0..user.holds {
            tokio::task::yield_now().await;
        }
        if user.breaks {
            lab.break_down(resource.number);
        }
        if user.discards {
            resource.discard();
        }
    };
    tokio::select! {
        biased;
        () = work => {}
        () = async {
            for _ in 0..user.patience {
                tokio::task::yield_now().await;
            }
        } => {}
    }
}
