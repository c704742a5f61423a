use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jitney::tree::{LABEL_MAX, NAME_MAX, Node, State, Tree};
use jitney::{Group, Scope};

use crate::support::{Gate, outside, settle};

#[tokio::test(start_paused = true)]
async fn a_snapshot_reads_as_an_indented_tree() {
    let tree = Tree::new("server");
    let gate = Gate::new();
    let running = outside({
        let (root, gate) = (tree.root(), gate.clone());
        async move {
            Scope::named("requests")
                .under(&root)
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
        .map(without_site)
        .collect();
    assert_eq!(
        text,
        [
            "server idle age=1.5s",
            "  requests idle age=1.5s busy=0.0ns polls=1",
            "    request [decode] idle age=1.5s busy=0.0ns polls=1",
            "      model idle age=1.5s busy=0.0ns polls=1",
            "    request [decode] idle age=1.5s busy=0.0ns polls=1",
            "      model idle age=1.5s busy=0.0ns polls=1",
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

fn without_site(line: &str) -> String {
    line.split(" at ").next().unwrap().to_owned()
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
