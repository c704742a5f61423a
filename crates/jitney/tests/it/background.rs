use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use jitney::jobs::Settings;
use jitney::tree::Tree;
use jitney::{
    Background, Cause, DeadLetter, Drained, Failure, FailureKind, Group, GroupError, Jobs, Refusal,
    Retry, Scope,
};

use crate::support::{Alive, Gate, settle};

type Text = &'static str;

const SECOND: Duration = Duration::from_secs(1);

fn limit(limit: usize) -> NonZeroUsize {
    NonZeroUsize::new(limit).unwrap()
}

/// What was told to a hook, in order.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn hook(&self) -> impl Fn(Failure<Text>) + Send + Sync + use<> {
        let told = self.clone();
        move |failure| told.push(format!("{}: {}", failure.task.name, failure.kind))
    }

    fn push(&self, line: String) {
        self.0.lock().unwrap().push(line);
    }

    fn sorted(&self) -> Vec<String> {
        let mut told = self.0.lock().unwrap().clone();
        told.sort();
        told
    }
}

async fn in_scope<T>(body: impl AsyncFnOnce(Group<Text>) -> T) -> Result<T, GroupError<Text>> {
    let scope = Scope::named("scope").grace(SECOND * 3600);
    scope.run(async |group| Ok(body(group).await)).await
}

#[tokio::test(start_paused = true)]
async fn every_failure_is_told() {
    let told = Told::default();
    in_scope(async |group| {
        let work = Background::new(&group, "work", limit(10), told.hook());
        work.spawn("good", async { Ok(()) }).unwrap();
        work.spawn("bad", async { Err("expected") }).unwrap();
        work.spawn("ugly", async { panic!("expected") }).unwrap();
        work.spawn("slow", std::future::pending()).unwrap();
        assert_eq!(work.running(), 4);
        let drained = work.close(SECOND).await;
        assert_eq!(
            drained,
            Drained {
                finished: 3,
                cut_off: 1
            }
        );
        assert_eq!(work.running(), 0);
        let refused = work.spawn("late", async { Ok(()) }).unwrap_err();
        assert_eq!(refused.reason, Refusal::Closed);
        let refused = work
            .spawn_when_free("late", async { Ok(()) })
            .await
            .unwrap_err();
        assert_eq!(refused.to_string(), "not taken, because it is closed");
    })
    .await
    .unwrap();
    let expected = [
        "bad: expected",
        "slow: cancelled: the program is shutting down",
        "ugly: panicked: expected",
    ];
    assert_eq!(told.sorted(), expected);
}

#[tokio::test(start_paused = true)]
async fn what_is_too_much_comes_back() {
    let alive = Alive::default();
    in_scope(async |group| {
        let work = Background::new(&group, "work", limit(2), |_: Failure<Text>| {});
        let gate = Gate::new();
        let job = || {
            let (guard, gate) = (alive.guard(), gate.clone());
            async move {
                let _guard = guard;
                gate.wait().await;
                Ok(())
            }
        };
        work.spawn("one", job()).unwrap();
        work.spawn("two", job()).unwrap();
        let refused = work.spawn("three", job()).unwrap_err();
        assert_eq!((refused.reason, alive.count()), (Refusal::Full, 3));
        let mut waiting = Box::pin(work.spawn_when_free("three", refused.work));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        gate.open();
        waiting.await.unwrap();
        assert_eq!(work.close(SECOND).await.cut_off, 0);
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn of_several_limits_the_earliest_holds_whether_moment_or_length() {
    in_scope(async |group| {
        let work = Background::new(&group, "work", limit(1), |_: Failure<Text>| {});
        work.spawn("stuck", std::future::pending()).unwrap();
        let began = tokio::time::Instant::now();
        let (late, early) = tokio::join!(work.close(SECOND * 60), work.close(began + SECOND));
        assert_eq!((late.cut_off, early.cut_off), (1, 1));
        assert_eq!(began.elapsed().as_secs(), 1);
    })
    .await
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_closing_that_has_begun_is_not_taken_back() {
    let alive = Alive::default();
    in_scope(async |group| {
        let work = Background::new(&group, "work", limit(2), |_: Failure<Text>| {});
        let (guard, gate) = (alive.guard(), Gate::new());
        let open = gate.clone();
        let slow = async move {
            let _guard = guard;
            gate.wait().await;
            Ok(())
        };
        work.spawn("slow", slow).unwrap();
        let mut closing = Box::pin(work.close(SECOND));
        assert!(futures_util::poll!(&mut closing).is_pending());
        drop(closing);
        let refused = work.spawn("late", async { Ok(()) }).unwrap_err();
        assert_eq!(refused.reason, Refusal::Closed);
        // The limit went with the future.
        tokio::time::sleep(SECOND * 60).await;
        assert_eq!(alive.count(), 1);
        open.open();
    })
    .await
    .unwrap();
    assert_eq!(alive.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn it_is_in_the_tree_by_name() {
    let tree = Tree::new("test");
    let scope = Scope::named("app").under(&tree.root());
    let outcome = scope.run(async |group: Group<Text>| {
        let work = Background::new(&group, "mail", limit(2), |_: Failure<Text>| {});
        work.spawn("to ada", std::future::pending()).unwrap();
        settle().await;
        let nodes = tree.snapshot().nodes;
        let names: Vec<_> = nodes.iter().map(|node| (node.depth, &*node.name)).collect();
        assert_eq!(names[2..], [(2, "mail"), (3, "work"), (4, "to ada")]);
        work.close(Duration::ZERO).await;
        assert_eq!(tree.snapshot().nodes.len(), 2);
        Ok(())
    });
    outcome.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_background_finishes_its_work_in_the_care_of_its_owner() {
    let alive = Alive::default();
    let began = tokio::time::Instant::now();
    in_scope(async |group| {
        let work = Background::new(&group, "work", limit(2), |_: Failure<Text>| {});
        let guard = alive.guard();
        work.spawn("slow", async move {
            tokio::time::sleep(SECOND * 5).await;
            drop(guard);
            Ok(())
        })
        .unwrap();
    })
    .await
    .unwrap();
    assert_eq!((alive.count(), began.elapsed().as_secs()), (0, 5));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_owner_cancels_the_work_and_it_is_told() {
    for polled in [false, true] {
        let (told, alive) = (Told::default(), Alive::default());
        let scope = Scope::named("scope");
        let outcome = scope.run(async |group: Group<Text>| {
            let work = Background::new(&group, "work", limit(2), told.hook());
            let guard = alive.guard();
            work.spawn("never", async move {
                let _guard = guard;
                std::future::pending().await
            })
            .unwrap();
            if polled {
                settle().await;
            }
            group.cancel(Cause::ClientGone);
            std::future::pending::<Result<(), Text>>().await
        });
        assert!(outcome.await.is_err());
        assert_eq!(
            told.sorted(),
            ["never: cancelled: the client went away"],
            "{polled}"
        );
        assert_eq!(alive.count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_hook_that_panics_is_a_failure_of_the_owner() {
    let outcome = in_scope(async |group| {
        let hook = |_: Failure<Text>| panic!("the hook");
        let work = Background::new(&group, "work", limit(2), hook);
        work.spawn("bad", async { Err("expected") }).unwrap();
        assert_eq!(work.close(SECOND).await.finished, 1);
    });
    let failure = outcome.await.unwrap_err().into_first();
    assert_eq!(&*failure.task.name, "work");
    assert!(matches!(failure.kind, FailureKind::Panic { message } if message == "the hook"));
}

fn settings(queue: usize, workers: usize, attempts: u32) -> Settings {
    Settings {
        queue: limit(queue),
        workers: limit(workers),
        retry: Retry::new(attempts).seed(1),
    }
}

fn bury(told: &Told) -> impl Fn(DeadLetter<u32, Text>) + Send + Sync + use<> {
    let told = told.clone();
    move |letter| told.push(format!("{}: {letter}", letter.job))
}

#[tokio::test(start_paused = true)]
async fn every_job_is_done_or_told() {
    let (told, tried) = (Told::default(), Told::default());
    let attempts = tried.clone();
    in_scope(async |group| {
        let work = move |job: Arc<u32>| {
            attempts.push(job.to_string());
            let attempt = attempts
                .0
                .lock()
                .unwrap()
                .iter()
                .filter(|tried| **tried == job.to_string())
                .count();
            async move {
                match (*job, attempt) {
                    (2, 1..3) | (3, _) => Err("busy"),
                    (4, _) => panic!("expected"),
                    _ => Ok(()),
                }
            }
        };
        let jobs = Jobs::new(&group, "jobs", settings(10, 2, 3), work, bury(&told));
        for job in 1..=5 {
            jobs.submit(job).unwrap();
        }
        assert_eq!(jobs.stats().queued, 5);
        jobs.close(SECOND * 60).await;
        let stats = jobs.stats();
        assert_eq!(
            (stats.queued, stats.running, stats.done, stats.dead),
            (0, 0, 3, 2)
        );
    })
    .await
    .unwrap();
    assert_eq!(
        told.sorted(),
        [
            "3: gave up after 3 attempts, because no attempts are left: busy",
            "4: panicked: expected"
        ]
    );
    assert_eq!(
        tried.sorted(),
        ["1", "2", "2", "2", "3", "3", "3", "4", "5"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_start_in_their_order() {
    let started = Arc::new(Mutex::new(Vec::new()));
    let seen = started.clone();
    in_scope(async |group| {
        let work = move |job: Arc<u32>| {
            started.lock().unwrap().push(*job);
            async { Ok(()) }
        };
        let jobs = Jobs::new(
            &group,
            "jobs",
            settings(1000, 1, 1),
            work,
            bury(&Told::default()),
        );
        for job in 0..1000 {
            jobs.submit(job).unwrap();
        }
        jobs.close(SECOND * 60).await;
    })
    .await
    .unwrap();
    assert!(seen.lock().unwrap().iter().copied().eq(0..1000));
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_so_are_the_workers() {
    let alive = Alive::default();
    let peak = alive.clone();
    in_scope(async |group| {
        let work = move |_: Arc<u32>| {
            let guard = alive.guard();
            async move {
                tokio::time::sleep(SECOND).await;
                drop(guard);
                Ok(())
            }
        };
        let jobs = Jobs::new(
            &group,
            "jobs",
            settings(3, 2, 1),
            work,
            bury(&Told::default()),
        );
        for job in 0..5 {
            jobs.submit(job).unwrap();
        }
        let refused = jobs.submit(5).unwrap_err();
        assert_eq!((refused.work, refused.reason), (5, Refusal::Full));
        settle().await;
        assert_eq!((jobs.stats().queued, jobs.stats().running), (3, 2));
        jobs.submit_when_free(refused.work).await.unwrap();
        jobs.close(SECOND * 60).await;
        assert_eq!(jobs.stats().done, 6);
        assert_eq!(jobs.submit(7).unwrap_err().reason, Refusal::Closed);
    })
    .await
    .unwrap();
    assert_eq!(peak.peak(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_is_left_at_the_end_is_told() {
    for (case, close) in [("close", true), ("the owner is cancelled", false)] {
        let told = Told::default();
        let scope = Scope::named("scope");
        let outcome = scope.run(async |group: Group<Text>| {
            let work = async |_: Arc<u32>| std::future::pending().await;
            let jobs = Jobs::new(&group, "jobs", settings(9, 2, 3), work, bury(&told));
            for job in 0..5 {
                jobs.submit(job).unwrap();
            }
            settle().await;
            match close {
                true => assert_eq!(jobs.close(Duration::ZERO).await.cut_off, 5),
                false => group.cancel(Cause::Shutdown),
            }
            Ok(())
        });
        outcome.await.unwrap();
        let expected: Vec<_> = (0..5)
            .map(|job| format!("{job}: cancelled: the program is shutting down"))
            .collect();
        assert_eq!(told.sorted(), expected, "{case}");
    }
}
