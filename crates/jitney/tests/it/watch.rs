use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use jitney::test;
use jitney::tree::{Node, Tree};
use jitney::watch::{Incident, Report, Verdict, Watchdog};
use jitney::{Group, Scope};

const THRESHOLD: Duration = Duration::from_millis(100);
/// The machine that runs the tests does other things too.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a watched task does that should not be done there.
fn reports_of(misdeed: impl FnOnce() + Send + 'static) -> (Receiver<Report>, impl FnOnce()) {
    let tree = Tree::new("server");
    let (send, reports) = sync_channel(16);
    let sink = move |report| drop(send.try_send(report));
    let watchdog = Watchdog::start(&tree, THRESHOLD, sink).unwrap();
    let thread = std::thread::Builder::new().name("worker".into());
    let worker = thread.spawn(move || {
        test::run_with_threads(async |_| {
            let outcome = Scope::named("requests")
                .under(&tree.root())
                .run(async |group: Group<String>| {
                    drop(group.named("request").spawn(async {
                        tokio::task::yield_now().await;
                        Node::current().unwrap().label("thumbnail");
                        misdeed();
                        Ok(())
                    }));
                    Ok(())
                })
                .await;
            outcome.unwrap();
        });
    });
    (reports, || {
        worker.unwrap().join().unwrap();
        drop(watchdog);
    })
}

fn blocked(reports: &Receiver<Report>) -> Incident {
    match reports.recv_timeout(PATIENCE).unwrap() {
        Report::Blocked(incident) => incident,
        Report::Ended(incident) => panic!("ended before it began: {incident}"),
    }
}

#[test]
fn a_task_that_sleeps_is_named_while_it_still_does_and_its_end_is_told() {
    let (release, released) = sync_channel::<()>(1);
    let (reports, end) = reports_of(move || released.recv().unwrap());
    let incident = blocked(&reports);
    assert!(incident.blocked >= THRESHOLD, "{incident}");
    let names: Vec<_> = incident.path.iter().map(|node| &*node.name).collect();
    assert_eq!(names, ["server", "requests", "request"]);
    let task = incident.path.last().unwrap();
    assert_eq!(task.label, "thumbnail");
    assert!(task.site.file().ends_with("it/watch.rs"));
    assert_eq!(incident.thread.name, "worker");
    #[cfg(target_os = "linux")]
    assert!(
        matches!(incident.verdict, Verdict::Sleeps { .. }),
        "{incident}"
    );
    let text = incident.to_string();
    assert!(text.contains("server > requests > request"), "{text}");
    release.send(()).unwrap();
    let Report::Ended(over) = reports.recv_timeout(PATIENCE).unwrap() else {
        panic!("one incident is told once");
    };
    assert_eq!(over.number, incident.number);
    assert!(over.blocked >= incident.blocked);
    end();
    assert!(reports.try_recv().is_err(), "nothing more is told");
}

#[test]
fn a_report_comes_within_twice_the_threshold() {
    // On a machine that is busy a single attempt may be late; none may be early.
    let in_time = (0..10).any(|_| {
        let (send, begun) = sync_channel(1);
        let (release, released) = sync_channel::<()>(1);
        let (reports, end) = reports_of(move || {
            send.send(Instant::now()).unwrap();
            released.recv().unwrap();
        });
        let begun = begun.recv().unwrap();
        blocked(&reports);
        let took = begun.elapsed();
        assert!(took >= THRESHOLD, "{took:?}");
        release.send(()).unwrap();
        end();
        took <= 2 * THRESHOLD
    });
    assert!(in_time);
}

#[cfg(target_os = "linux")]
#[test]
fn a_task_that_computes_is_told_from_one_that_sleeps() {
    let (release, released) = sync_channel::<()>(1);
    let (reports, end) = reports_of(move || while released.try_recv().is_err() {});
    let incident = blocked(&reports);
    // Where others use all processors, it is starved for part of the time.
    assert!(
        matches!(incident.verdict, Verdict::Computes | Verdict::Starved),
        "{incident}"
    );
    release.send(()).unwrap();
    end();
}

#[test]
fn tasks_that_are_polled_often_and_briefly_are_not_told() {
    let tree = Tree::new("server");
    let (send, reports) = sync_channel(16);
    let sink = move |report: Report| drop(send.try_send(report.to_string()));
    // Half a second is longer than any machine keeps a thread from running, one would hope.
    let watchdog = Watchdog::start(&tree, Duration::from_millis(500), sink).unwrap();
    let start = Instant::now();
    test::run_with_threads(async |_| {
        let outcome = Scope::named("busy")
            .under(&tree.root())
            .run(async |_: Group<String>| {
                while start.elapsed() < Duration::from_millis(1200) {
                    tokio::task::yield_now().await;
                }
                Ok(())
            })
            .await;
        outcome.unwrap();
    });
    drop(watchdog);
    assert_eq!(reports.try_recv().ok(), None);
}

#[test]
fn blocking_on_purpose_is_not_told() {
    let (reports, end) = reports_of(|| {
        let node = Node::current().unwrap();
        node.blocking(|| std::thread::sleep(4 * THRESHOLD));
    });
    end();
    assert!(reports.try_recv().is_err());
}

#[test]
fn two_watchdogs_see_the_same_and_each_ends_alone() {
    let tree = Tree::new("server");
    let start = |send: std::sync::mpsc::SyncSender<Report>| {
        Watchdog::start(&tree, THRESHOLD, move |report| drop(send.try_send(report))).unwrap()
    };
    let ((one, from_one), (other, from_other)) = (sync_channel(4), sync_channel(4));
    let (first, second) = (start(one), start(other));
    let node = tree.root();
    drop(first);
    let block = async move {
        let outcome = Scope::named("blocks").under(&node);
        let outcome = outcome.run(async |_: Group<String>| {
            std::thread::sleep(4 * THRESHOLD);
            Ok(())
        });
        outcome.await.unwrap();
    };
    test::run_with_threads(async |_| block.await);
    blocked(&from_other);
    drop(second);
    assert!(from_one.try_recv().is_err());
}
