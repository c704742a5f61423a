//! Offloaded work: bounds, refusal, cancelling, context, panics, and who waits for it. The clock runs here: paused, it would
//! leap to every deadline while the threads work.

use std::num::NonZeroUsize;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::clock::Clock;
use jitney::offload::{Offload, OffloadError, Settings, StillRunning};
use jitney::tree::Tree;
use jitney::{Cancel, Cause, Group, Scope};
use proptest::prelude::*;

use crate::support::{Alive, outside, settle};

fn settings(threads: usize, queue: usize) -> Settings {
    let threads = NonZeroUsize::new(threads).unwrap();
    Settings {
        blocking_threads: threads,
        blocking_queue: queue,
        cpu_threads: threads,
        cpu_queue: queue,
        ..Settings::default()
    }
}

/// Holds a thread until it is told to go on.
struct Hold {
    begun: Receiver<()>,
    go_on: SyncSender<()>,
}

impl Hold {
    fn new() -> (Hold, impl FnOnce() + Send + 'static) {
        let (begin, begun) = sync_channel(1);
        let (go_on, gate) = sync_channel(1);
        let work = move || {
            begin.send(()).unwrap();
            gate.recv().unwrap();
        };
        (Hold { begun, go_on }, work)
    }

    fn wait_until_it_began(&self) {
        self.begun.recv().unwrap();
    }

    fn release(self) {
        self.go_on.send(()).unwrap();
    }
}

#[tokio::test]
async fn values_come_back_from_named_threads() {
    let offload = Offload::start("work", settings(1, 1)).unwrap();
    let name = || std::thread::current().name().map(str::to_owned);
    assert_eq!(
        offload.blocking(name).await.unwrap().unwrap(),
        "work-blocking-0"
    );
    assert_eq!(offload.cpu(name).await.unwrap().unwrap(), "work-cpu-0");
    let sum = offload.scoped(vec![1, 2, 3], |numbers, threads| {
        let doubled = threads.spawn(|| numbers.iter().map(|n| n * 2).sum::<i32>());
        doubled.join().unwrap()
    });
    assert_eq!(sum.await.unwrap(), 12);
}

#[tokio::test]
async fn a_full_queue_gives_the_closure_back() {
    let offload = Offload::start("work", settings(1, 1)).unwrap();
    let (hold, work) = Hold::new();
    let running = outside({
        let offload = offload.clone();
        async move { offload.cpu(work).await }
    });
    settle().await;
    hold.wait_until_it_began();
    let queued = outside({
        let offload = offload.clone();
        async move { offload.cpu(|| 2).await }
    });
    settle().await;
    let word = String::from("mine");
    let Err(OffloadError::Full(back)) = offload.cpu(move || word).await else {
        panic!("there was no place");
    };
    assert_eq!(back(), "mine");
    let stats = offload.cpu_stats();
    assert_eq!((stats.running, stats.queued, stats.refused), (1, 1, 1));
    assert_eq!(
        offload.blocking(|| 3).await.unwrap(),
        3,
        "the others have threads of their own"
    );
    hold.release();
    running.await.unwrap().unwrap();
    assert_eq!(queued.await.unwrap().unwrap(), 2);
}

#[tokio::test]
async fn panics_are_errors_and_threads_survive_them() {
    let offload = Offload::start("work", settings(1, 1)).unwrap();
    for _ in 0..3 {
        let outcome = offload.blocking(|| -> () { panic!("bug {}", 7) }).await;
        let Err(OffloadError::Panicked { message }) = outcome else {
            panic!("{outcome:?}");
        };
        assert_eq!(message, "bug 7");
    }
    struct Grenade;
    impl Drop for Grenade {
        fn drop(&mut self) {
            panic!("its value panics too");
        }
    }
    let (hold, work) = Hold::new();
    let mut unwanted = Box::pin(offload.blocking(move || {
        work();
        Grenade
    }));
    assert!(futures_util::poll!(&mut unwanted).is_pending());
    hold.wait_until_it_began();
    drop(unwanted);
    hold.release();
    assert_eq!(offload.blocking(|| 1).await.unwrap(), 1);
    let stats = offload.blocking_stats();
    assert_eq!((stats.begun, stats.ended, stats.panicked), (5, 5, 3));
}

#[tokio::test]
async fn what_has_not_begun_never_runs_and_what_has_is_asked_to_stop() {
    let offload = Offload::start("work", settings(1, 2)).unwrap();
    let (answer, heard) = sync_channel(1);
    let (begin, begun) = sync_channel(1);
    let mut running = Box::pin(offload.cpu(move || {
        let cancel = Cancel::current();
        begin.send(()).unwrap();
        while cancel.cause().is_none() {
            std::thread::yield_now();
        }
        answer.send(cancel.cause()).unwrap();
    }));
    assert!(futures_util::poll!(&mut running).is_pending());
    begun.recv().unwrap();
    let token = Arc::new(());
    let mut queued = Box::pin(offload.cpu({
        let token = token.clone();
        move || drop(token)
    }));
    assert!(futures_util::poll!(&mut queued).is_pending());
    assert_eq!(offload.cpu_stats().queued, 1);
    drop(queued);
    assert_eq!(Arc::strong_count(&token), 1, "the closure is gone at once");
    assert_eq!(
        (offload.cpu_stats().queued, offload.cpu_stats().withdrawn),
        (0, 1)
    );
    drop(running);
    assert_eq!(heard.recv().unwrap(), Some(Cause::ParentGone));
    offload.close(Duration::from_secs(60)).await.unwrap();
    assert_eq!(offload.cpu_stats().begun, 1);
}

#[tokio::test]
async fn the_scope_waits_for_the_work_of_a_task_that_was_dropped() {
    let offload = Offload::start("work", settings(1, 1)).unwrap();
    let alive = Alive::default();
    let (hold, work) = Hold::new();
    let guard = alive.guard();
    let (inner, releaser) = (offload.clone(), sync_channel::<()>(1));
    let (told, tell) = (releaser.1, releaser.0);
    // Another thread lets the work go on when the scope has been cancelled, so the scope must outlast that.
    let helper = std::thread::Builder::new()
        .spawn(move || {
            told.recv().unwrap();
            hold.release();
        })
        .unwrap();
    let (begin, begun) = sync_channel(1);
    let outcome = Scope::named("request")
        .run(async |group: Group<String>| {
            drop(group.spawn(async move {
                let work = inner.cpu(move || {
                    begin.send(()).unwrap();
                    work();
                    assert_eq!(Cancel::current().cause(), Some(Cause::ClientGone));
                    drop(guard);
                });
                work.await.map_err(|error| error.to_string())
            }));
            settle().await;
            begun.recv().unwrap();
            group.cancel(Cause::ClientGone);
            tell.send(()).unwrap();
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(
        alive.count(),
        0,
        "the scope returned while its work was running"
    );
    helper.join().unwrap();
}

#[tokio::test]
async fn work_knows_the_deadline_and_the_tree_shows_it() {
    let tree = Tree::new("test");
    let offload = Offload::under(&tree.root(), "work", settings(1, 1)).unwrap();
    let (hold, work) = Hold::new();
    let scope = Scope::named("request")
        .under(&tree.root())
        .deadline(Duration::from_secs(60));
    let outcome = scope
        .run(async |group: Group<String>| {
            let inner = offload.clone();
            let task = group.named("resize").spawn(async move {
                let held = inner.blocking(move || {
                    work();
                    Cancel::current().deadline().is_some()
                });
                held.await.map_err(|error| error.to_string())
            });
            settle().await;
            hold.wait_until_it_began();
            let shown = tree.snapshot().to_string();
            assert!(
                shown.contains("resize [blocking: on work-blocking-0]"),
                "{shown}"
            );
            assert!(
                shown.contains("blocking [1 threads, 1 may wait]"),
                "{shown}"
            );
            hold.release();
            task.await.map_err(|error| error.to_string())
        })
        .await;
    assert!(outcome.unwrap());
    offload.close(Duration::from_secs(60)).await.unwrap();
    drop(offload);
    assert_eq!(tree.snapshot().nodes.len(), 1, "{}", tree.snapshot());
}

#[tokio::test]
async fn the_time_in_the_queue_is_measured() {
    let clock = Clock::paused();
    let with_clock = Settings {
        clock: clock.clone(),
        ..settings(1, 1)
    };
    let offload = Offload::start("work", with_clock).unwrap();
    let (hold, work) = Hold::new();
    let mut first = Box::pin(offload.cpu(work));
    assert!(futures_util::poll!(&mut first).is_pending());
    hold.wait_until_it_began();
    let mut second = Box::pin(offload.cpu(|| ()));
    assert!(futures_util::poll!(&mut second).is_pending());
    clock.advance(Duration::from_secs(3));
    assert_eq!(offload.cpu_stats().queue_age, Duration::from_secs(3));
    hold.release();
    second.await.unwrap();
    let stats = offload.cpu_stats();
    assert_eq!((stats.begun, stats.queue_age), (2, Duration::ZERO));
    assert_eq!(
        (stats.queue_time, stats.queue_time_max),
        (Duration::from_secs(3), Duration::from_secs(3))
    );
}

#[tokio::test]
async fn closing_drains_refuses_and_names_what_is_left() {
    let offload = Offload::start("work", settings(1, 2)).unwrap();
    let (hold, work) = Hold::new();
    let mut running = Box::pin(offload.blocking(work));
    assert!(futures_util::poll!(&mut running).is_pending());
    hold.wait_until_it_began();
    let mut queued = Box::pin(offload.blocking(|| 2));
    assert!(futures_util::poll!(&mut queued).is_pending());
    let StillRunning { work } = offload.close(Duration::ZERO).await.unwrap_err();
    assert_eq!(work.len(), 2, "{work:?}");
    assert!(
        work.iter()
            .all(|work| work.site.file().ends_with("offload.rs"))
    );
    assert!(matches!(
        offload.cpu(|| ()).await,
        Err(OffloadError::Closed(_))
    ));
    assert!(matches!(
        queued.await,
        Err(OffloadError::Cancelled(Cause::Shutdown))
    ));
    hold.release();
    running.await.unwrap();
    offload.close(Duration::from_secs(60)).await.unwrap();

    let offload = Offload::start("work", settings(1, 9)).unwrap();
    let done = Arc::new(Mutex::new(Vec::new()));
    let (hold, work) = Hold::new();
    let mut first = Box::pin(offload.blocking(work));
    assert!(futures_util::poll!(&mut first).is_pending());
    hold.wait_until_it_began();
    let mut rest: Vec<_> = (0..5)
        .map(|number| {
            let done = done.clone();
            Box::pin(offload.blocking(move || done.lock().unwrap().push(number)))
        })
        .collect();
    for work in &mut rest {
        assert!(futures_util::poll!(work).is_pending());
    }
    hold.release();
    offload.close(Duration::from_secs(60)).await.unwrap();
    assert_eq!(
        *done.lock().unwrap(),
        [0, 1, 2, 3, 4],
        "in the order of asking"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// However the futures are dropped, every closure is run or dropped, once, and the counts agree.
    #[test]
    fn no_closure_is_lost_under_random_cancellation(
        patience in proptest::collection::vec(0..6u8, 1..40),
        threads in 1..4usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let offload = Offload::start("work", settings(threads, 8)).unwrap();
            let alive = Alive::default();
            let tasks: Vec<_> = patience.into_iter().map(|turns| {
                let (offload, guard) = (offload.clone(), alive.guard());
                outside(async move {
                    tokio::select! {
                        biased;
                        outcome = offload.cpu(move || drop(guard)) => drop(outcome.map_err(OffloadError::without_work)),
                        () = async { for _ in 0..turns { tokio::task::yield_now().await } } => {}
                    }
                })
            }).collect();
            let asked = tasks.len() as u64;
            for task in tasks {
                task.await.unwrap();
            }
            offload.close(Duration::from_secs(60)).await.unwrap();
            assert_eq!(alive.count(), 0);
            let stats = offload.cpu_stats();
            assert_eq!(stats.begun, stats.ended);
            assert_eq!(stats.begun + stats.withdrawn + stats.refused, asked);
            assert_eq!((stats.queued, stats.running), (0, 0));
        });
    }
}
