use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jitney::test::settle;
use jitney::tree::{LABEL_MAX, NAME_MAX, Node, State, Tree};
use jitney::{Cause, Group, Scope};

use crate::support::{Gate, outside};

#[tokio::test(start_paused = true)]
async fn a_snapshot_reads_as_an_indented_tree() {
    let tree = Tree::new("server");
    let gate = Gate::new();
    let running = outside({
        let (root, gate) = (tree.root(), gate.clone());
        async move {
            Scope::named("requests")
                .under(&root)
                .deadline(Duration::from_secs(10))
                .run(async |group: Group<String>| {
                    let one = group.named("request");
                    drop(one.spawn(request(gate.clone())));
                    drop(one.spawn(request(gate.clone())));
                    gate.wait().await;
                    Ok(())
                })
                .await
        }
    });
    settle().await;
    tokio::time::advance(Duration::from_millis(1500)).await;
    let text: Vec<String> = tree
        .snapshot()
        .to_string()
        .lines()
        .map(without_site_and_busy)
        .collect();
    assert_eq!(
        text,
        [
            "server idle age=1.5s",
            "  requests idle age=1.5s polls=1 deadline=8.5s",
            "    request [decode] idle age=1.5s polls=1 deadline=8.5s",
            "      model idle age=1.5s polls=1 deadline=8.5s",
            "    request [decode] idle age=1.5s polls=1 deadline=8.5s",
            "      model idle age=1.5s polls=1 deadline=8.5s",
        ]
    );
    assert!(
        tree.snapshot()
            .nodes
            .iter()
            .all(|node| node.site.file().ends_with("it/tree.rs"))
    );
    gate.open();
    running.await.unwrap().unwrap();
    assert_eq!(tree.snapshot().nodes.len(), 1);
}

async fn request(gate: Gate) -> Result<(), String> {
    Node::current().unwrap().label("decode");
    Scope::named("model")
        .run(async |_: Group<String>| {
            gate.wait().await;
            Ok(())
        })
        .await
        .map_err(|error| error.to_string())
}

/// How long a poll takes is the machine's affair.
fn without_site_and_busy(line: &str) -> String {
    let line = line.split(" at ").next().unwrap();
    let parts = line.split(' ').filter(|part| !part.starts_with("busy="));
    parts.collect::<Vec<_>>().join(" ")
}

#[test]
fn a_program_reads_the_same_tree_as_json() {
    let tree = Tree::new("quote \" and \\");
    tree.root().label("a\u{1f}b ü");
    let child = tree.root().child("child");
    let text = tree.snapshot().json().to_string();
    let nodes: serde_json::Value = serde_json::from_str(&text).unwrap();
    let (root, below) = (&nodes[0], &nodes[1]);
    assert_eq!(root["name"], "quote \" and \\");
    assert_eq!(root["label"], "a b ü");
    assert_eq!(root["parent"], serde_json::Value::Null);
    assert_eq!((&below["id"], &below["parent"]), (&1.into(), &0.into()));
    assert_eq!(
        (&below["state"], &below["polls"]),
        (&"idle".into(), &0.into())
    );
    assert!(below["age"].is_f64() && below["running"].is_null());
    assert!(below["file"].as_str().unwrap().ends_with("tree.rs"));
    drop(child);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_says_why_and_so_do_those_below_it() {
    let outcome = Scope::named("outer")
        .grace(Duration::from_secs(5))
        .run(async |group: Group<String>| {
            let tree = group.node().tree();
            drop(group.named("task").spawn(async {
                let inner = Scope::named("inner").grace(Duration::from_secs(5));
                let inner = inner.run(async |_: Group<String>| {
                    tokio::time::sleep(Duration::from_secs(3)).await;
                    Ok(())
                });
                inner.await.map_err(|error| error.to_string())
            }));
            settle().await;
            assert!(
                tree.snapshot()
                    .nodes
                    .iter()
                    .all(|node| node.cancelled.is_none())
            );
            group.cancel(Cause::ClientGone);
            settle().await;
            let causes: Vec<_> = tree
                .snapshot()
                .nodes
                .iter()
                .map(|node| (node.name.to_string(), node.cancelled))
                .collect();
            let gone = Some(Cause::ClientGone);
            let named = |name: &str| (name.to_owned(), gone);
            assert_eq!(causes, [named("outer"), named("task"), named("inner")]);
            let text = tree.snapshot().to_string();
            assert!(text.contains("cancelling"), "{text}");
            assert!(text.contains("cancelled=(the client went away)"), "{text}");
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[tokio::test]
async fn the_time_of_many_polls_is_estimated_from_some() {
    let tree = Tree::new("root");
    let outcome = Scope::named("scope")
        .under(&tree.root())
        .run(async |_: Group<String>| {
            for _ in 0..400 {
                std::thread::sleep(Duration::from_micros(100));
                tokio::task::yield_now().await;
            }
            let node = tree.snapshot().nodes.pop().unwrap();
            assert_eq!(node.polls, 400);
            assert!(node.busy > Duration::from_millis(38), "{:?}", node.busy);
            Ok(())
        })
        .await;
    outcome.unwrap();
}

#[test]
fn a_node_stays_while_anything_below_it_does() {
    let tree = Tree::new("root");
    let below = tree.root().child("middle").child("leaf");
    assert_eq!(tree.snapshot().nodes.len(), 3);
    drop(below);
    assert_eq!(tree.snapshot().nodes.len(), 1);
}

#[tokio::test]
async fn what_has_ended_is_not_in_the_tree_though_somebody_keeps_its_node() {
    let tree = Tree::new("root");
    let mut kept = Vec::new();
    let outcome = Scope::named("scope")
        .under(&tree.root())
        .run(async |group: Group<String>| {
            kept.push(group.node().clone());
            let task = group.spawn(async { Ok(Node::current().unwrap()) });
            kept.push(task.await.unwrap());
            assert_eq!(tree.snapshot().nodes.len(), 2);
            Ok(())
        })
        .await;
    outcome.unwrap();
    assert_eq!(kept.len(), 2);
    assert_eq!(tree.snapshot().nodes.len(), 1);
}

#[test]
fn a_long_line_of_nodes_overflows_no_stack() {
    let tree = Tree::new("root");
    let mut last = tree.root();
    for _ in 0..20_000 {
        last = last.child("link");
    }
    assert_eq!(tree.snapshot().nodes.last().unwrap().depth, 20_000);
    drop(last);
    assert_eq!(tree.snapshot().nodes.len(), 1);
}

#[test]
fn texts_are_bounded_and_cannot_forge_lines() {
    let tree = Tree::new("é".repeat(NAME_MAX));
    tree.root().label(format!("a\nb{}", "c".repeat(LABEL_MAX)));
    let node = tree.snapshot().nodes.remove(0);
    assert_eq!(node.name.len(), NAME_MAX);
    assert_eq!(node.label.len(), LABEL_MAX);
    assert!(node.label.starts_with("a bc"));
}

#[test]
fn a_task_that_blocks_its_thread_is_seen_running() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let tree = Tree::new("root");
    let (blocked, is_blocked) = std::sync::mpsc::sync_channel(1);
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let root = tree.root();
    let task = runtime.handle().spawn(async move {
        Scope::named("scope")
            .under(&root)
            .run(async move |group: Group<String>| {
                drop(group.named("blocker").spawn(async move {
                    blocked.send(()).unwrap();
                    released.recv().map_err(|error| error.to_string())
                }));
                Ok(())
            })
            .await
    });
    is_blocked.recv().unwrap();
    let first = tree.snapshot().nodes.pop().unwrap();
    assert_eq!((&*first.name, first.state), ("blocker", State::Running));
    let later = tree.snapshot().nodes.pop().unwrap();
    assert!(later.busy > first.busy, "the poll under way counts");
    assert!(later.running > first.running, "and is told by itself");
    release.send(()).unwrap();
    runtime.block_on(task).unwrap().unwrap();
}

#[test]
fn snapshots_are_whole_while_threads_come_and_go() {
    let tree = Tree::new("root");
    let stop = Arc::new(AtomicBool::new(false));
    std::thread::scope(|threads| {
        for _ in 0..2 {
            threads.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let parent = tree.root().child("parent");
                    let children: Vec<_> = (0..20).map(|_| parent.child("child")).collect();
                    drop((parent, children));
                }
            });
        }
        for _ in 0..200 {
            let nodes = tree.snapshot().nodes;
            for (at, node) in nodes.iter().enumerate() {
                let Some(parent) = node.parent else { continue };
                let parent = nodes[..at].iter().rfind(|above| above.id == parent);
                assert_eq!(parent.map(|parent| parent.depth + 1), Some(node.depth));
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(tree.snapshot().nodes.len(), 1);
}

/// Of the rounds the best one counts, since a task that a snapshot holds up is held up in each of them. The promise is about a build with
/// optimisation, `cargo test --release -p jitney --test it -- --nocapture a_snapshot_of_100_000`; without it everything takes longer.
#[test]
fn a_snapshot_of_100_000_tasks_is_quick_and_delays_no_task() {
    const TASKS: usize = 100_000;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let tree = Tree::new("busy");
    let beat = Arc::new(Beat::default());
    runtime.spawn(beating(tree.root(), TASKS, beat.clone()));
    while !beat.begun.load(Ordering::SeqCst) {
        std::thread::yield_now();
    }
    let mut rounds: Vec<_> = (0..20)
        .map(|_| {
            beat.longest_ns.store(0, Ordering::SeqCst);
            let begun = Instant::now();
            assert!(tree.snapshot().nodes.len() > TASKS);
            let took = begun.elapsed();
            let gap = Duration::from_nanos(beat.longest_ns.load(Ordering::SeqCst));
            (took, gap)
        })
        .collect();
    rounds.sort();
    let fastest = rounds[0].0;
    let gap = rounds.iter().map(|(_, gap)| *gap).min().unwrap();
    println!("a snapshot takes {fastest:.1?}, and no task waits for longer than {gap:.1?}");
    let slower = if cfg!(debug_assertions) { 20 } else { 1 };
    assert!(fastest < slower * Duration::from_millis(50), "{rounds:?}");
    assert!(gap < slower * Duration::from_millis(1), "{rounds:?}");
}

/// How a task fares that starts and awaits others all the time.
#[derive(Default)]
struct Beat {
    begun: AtomicBool,
    /// The longest time between two that it awaited.
    longest_ns: AtomicU64,
}

async fn beating(root: Node, tasks: usize, beat: Arc<Beat>) {
    let outcome = Scope::named("group")
        .under(&root)
        .run(async move |group: Group<String>| {
            for _ in 0..tasks {
                drop(group.spawn(std::future::pending::<Result<(), String>>()));
            }
            beat.begun.store(true, Ordering::SeqCst);
            let mut last = Instant::now();
            loop {
                group.spawn(async { Ok(()) }).await.unwrap();
                let now = Instant::now();
                let gap = u64::try_from((now - last).as_nanos()).unwrap();
                beat.longest_ns.fetch_max(gap, Ordering::SeqCst);
                last = now;
            }
            #[expect(unreachable_code, reason = "says of what type the body is")]
            Ok(())
        });
    outcome.await.unwrap();
}
