//! The exit stack: what a scope does at its very end, however it comes.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use jitney::tree::Tree;
use jitney::{AsyncClose, Cancel, Cause, Deadline, FailureKind, Group, GroupError, Scope, timeout};

use crate::support::{Gate, outside, settle};

type Text = &'static str;
type Log = Arc<Mutex<Vec<Text>>>;

const LONG: Duration = Duration::from_secs(60);

fn note(log: &Log, what: Text) {
    log.lock().unwrap().push(what);
}

fn read(log: &Log) -> Vec<Text> {
    log.lock().unwrap().clone()
}

/// A connection that says when it was closed, after a while.
struct Connection {
    name: Text,
    log: Log,
    answer: Result<(), Text>,
}

impl AsyncClose for Connection {
    type Error = Text;

    async fn close(self) -> Result<(), Text> {
        tokio::time::sleep(Duration::from_millis(3)).await;
        note(&self.log, self.name);
        self.answer
    }

    fn close_limit(&self) -> Duration {
        Duration::from_secs(2)
    }
}

fn connection(name: Text, log: &Log) -> Connection {
    Connection {
        name,
        log: log.clone(),
        answer: Ok(()),
    }
}

#[derive(Clone, Copy, Debug)]
enum Exit {
    Done,
    BodyError,
    BodyPanic,
    ChildError,
    OwnCancel,
    OuterCancel,
    Deadline,
    Dropped,
}

#[tokio::test(start_paused = true)]
async fn it_runs_last_in_first_out_after_every_task_on_every_path() {
    use Exit::*;
    for exit in [
        Done,
        BodyError,
        BodyPanic,
        ChildError,
        OwnCancel,
        OuterCancel,
        Deadline,
        Dropped,
    ] {
        let log = Log::default();
        let outer = Scope::named("outer").grace(Duration::from_secs(5));
        let outcome = outer.run(async |outer: Group<Text>| {
            let job = job(exit, outer, log.clone());
            match exit {
                // A foreign timeout just drops.
                Dropped => drop(tokio::time::timeout(Duration::from_secs(1), job).await),
                _ => drop(job.await),
            }
            Ok(())
        });
        drop(outcome.await);
        let expected = ["task", "second", "pool", "first"];
        assert_eq!(read(&log), expected, "{exit:?}");
    }
}

/// Has something on its exit stack, and a task that takes a while to stop.
async fn job(exit: Exit, outer: Group<Text>, log: Log) -> Result<(), GroupError<Text>> {
    let mut scope = Scope::named("job").grace(Duration::from_secs(1));
    if let Exit::Deadline = exit {
        scope = scope.deadline(Duration::from_secs(1));
    }
    let body = async |group: Group<Text>| {
        let later = |what: Text| {
            let log = log.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(3)).await;
                assert_eq!(Cancel::current().cause(), None, "it is shielded");
                note(&log, what);
            }
        };
        group.defer(LONG, later("first"));
        let pool = group.named("pool").enter(connection("pool", &log));
        group.defer(LONG, later("second"));
        let (task, done) = (log.clone(), matches!(exit, Exit::Done));
        drop(group.spawn(async move {
            if !done {
                Cancel::current().cancelled().await;
            }
            tokio::time::sleep(Duration::from_millis(3)).await;
            note(&task, "task");
            drop(pool);
            Ok(())
        }));
        settle().await;
        match exit {
            Exit::Done => return Ok(()),
            Exit::BodyError => return Err("expected"),
            Exit::BodyPanic => std::panic::resume_unwind(Box::new("expected")),
            Exit::ChildError => drop(group.spawn(async { Err::<(), _>("expected") })),
            Exit::OwnCancel => group.cancel(Cause::Requested),
            Exit::OuterCancel => outer.cancel(Cause::Shutdown),
            Exit::Deadline | Exit::Dropped => {}
        }
        std::future::pending().await
    };
    scope.run(body).await
}

#[tokio::test(start_paused = true)]
async fn dropped_at_any_await_the_rest_of_it_is_run_by_the_scope_around() {
    let mut polls = 0;
    loop {
        let (log, tree, mut whole) = (Log::default(), Tree::new("test"), false);
        let outer = Scope::named("outer").under(&tree.root());
        let outcome: Result<(), GroupError<Text>> = outer
            .run(async |outer| {
                let mut job = pin!(job(Exit::Done, outer, log.clone()));
                let mut left = polls;
                std::future::poll_fn(|cx| {
                    if left == 0 {
                        return Poll::Ready(());
                    }
                    left -= 1;
                    let polled = job.as_mut().poll(cx);
                    whole = polled.is_ready();
                    polled.map(drop)
                })
                .await;
                Ok(())
            })
            .await;
        outcome.unwrap();
        let begun = polls > 0;
        let expected: &[Text] = if begun {
            &["second", "pool", "first"]
        } else {
            &[]
        };
        let cleaned: Vec<_> = read(&log)
            .into_iter()
            .filter(|what| *what != "task")
            .collect();
        assert_eq!(cleaned, expected, "dropped after {polls} polls");
        assert_eq!(
            tree.snapshot().nodes.len(),
            1,
            "dropped after {polls} polls"
        );
        if whole {
            break;
        }
        polls += 1;
    }
    assert!(polls > 5, "only {polls} places to drop it");
}

#[tokio::test(start_paused = true)]
async fn what_goes_wrong_at_the_end_is_a_failure_and_stops_nothing() {
    let log = Log::default();
    let begun = tokio::time::Instant::now();
    let outcome: Result<(), _> = Scope::named("job")
        .run(async |group: Group<Text>| {
            group.defer(LONG, {
                let log = log.clone();
                async move { note(&log, "first") }
            });
            let mut rude = connection("rude", &log);
            rude.answer = Err("go away");
            drop(group.named("rude").enter(rude));
            group
                .named("slow")
                .defer(Duration::from_secs(3), std::future::pending());
            group.named("wild").defer(LONG, async {
                std::panic::resume_unwind(Box::new("wild"));
            });
            Ok(())
        })
        .await;
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(read(&log), ["rude", "first"]);
    let failures: Vec<_> = outcome
        .as_ref()
        .unwrap_err()
        .iter()
        .map(|failure| (failure.task.name.to_string(), failure.kind.to_string()))
        .collect();
    assert_eq!(failures[0], ("wild".into(), "panicked: wild".into()));
    assert!(
        failures[1].0 == "slow" && failures[1].1.contains("the deadline slow of 3s passed"),
        "{failures:?}"
    );
    assert_eq!(
        failures[2],
        ("rude".into(), "not cleaned up: go away".into())
    );
    assert_eq!(failures.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn each_has_its_own_limit_and_no_deadline_from_around() {
    let outcome: Result<(), GroupError<Text>> = Scope::named("job")
        .deadline(Duration::from_secs(1))
        .run(async |group| {
            group.defer(LONG, async {
                assert_eq!(Deadline::current().unwrap().remaining(), LONG);
                tokio::time::sleep(LONG / 2).await;
            });
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_who_still_uses_the_resource() {
    let (log, gate) = (Log::default(), Gate::new());
    let user = gate.clone();
    let outcome: Result<(), GroupError<Text>> = Scope::named("job")
        .run(async |group| {
            let mut pool = group.named("pool").enter(connection("wrong", &log));
            pool.name = "pool";
            drop(outside(async move {
                user.wait().await;
                assert_eq!(pool.name, "pool");
                drop(pool);
            }));
            let gate = gate.clone();
            group.defer(LONG, async move { gate.open() });
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(read(&log), ["pool"]);
    let leaked: Result<_, GroupError<Text>> = Scope::named("job")
        .run(async |group| Ok(group.named("leaked").enter(connection("leaked", &log))))
        .await;
    let failure = leaked.err().unwrap().into_first();
    assert!(
        matches!(failure.kind, FailureKind::Cleanup { .. }),
        "{failure}"
    );
    assert_eq!(read(&log), ["pool"], "what is in use is not closed");
}

#[tokio::test(start_paused = true)]
async fn a_scope_opened_while_cleaning_up_is_waited_for_too() {
    let log = Log::default();
    let dropped = async {
        let body = async |group: Group<Text>| {
            let log = log.clone();
            group.defer(LONG, async move {
                let inner = Scope::named("inner").run(async move |inner: Group<Text>| {
                    drop(inner.spawn(async move {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        note(&log, "inner");
                        Ok(())
                    }));
                    Ok(())
                });
                inner.await.unwrap();
            });
            std::future::pending::<Result<(), Text>>().await
        };
        Scope::named("job").run(body).await
    };
    timeout(Duration::from_secs(1), dropped).await.unwrap_err();
    assert_eq!(
        read(&log),
        ["inner"],
        "our own timeout waits for what it cuts off"
    );
}

#[tokio::test]
async fn after_the_scope_nothing_is_run() {
    let log = Log::default();
    let group = Scope::named("job")
        .run(async |group: Group<Text>| Ok(group))
        .await
        .unwrap();
    let late = log.clone();
    group.defer(LONG, async move { note(&late, "late") });
    drop(group.enter(connection("late", &log)));
    settle().await;
    assert_eq!(read(&log), [""; 0]);
}
