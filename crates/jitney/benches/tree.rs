//! What being in the tree costs: `cargo bench -p jitney --bench tree`.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark is no library, and tokio's own way is what it compares with"
)]

use std::convert::Infallible;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use jitney::tree::Tree;
use jitney::watch::Watchdog;
use jitney::{Group, Scope};
use tokio::runtime::{Builder, Runtime};

fn main() {
    divan::main();
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

/// One clock reading: what a poll cannot afford twice.
#[divan::bench]
fn instant_now() -> std::time::Instant {
    std::time::Instant::now()
}

const POLLS: usize = 10_000;

async fn yield_often() {
    for _ in 0..POLLS {
        tokio::task::yield_now().await;
    }
}

#[divan::bench_group(name = "a poll of a task")]
mod polls {
    use super::*;

    #[divan::bench]
    fn untracked(bencher: Bencher<'_, '_>) {
        let runtime = runtime();
        bencher
            .counter(ItemsCount::new(POLLS))
            .bench_local(|| runtime.block_on(async { tokio::spawn(yield_often()).await.unwrap() }));
    }

    #[divan::bench]
    fn tracked(bencher: Bencher<'_, '_>) {
        let (runtime, tree) = (runtime(), Tree::new("bench"));
        bencher
            .counter(ItemsCount::new(POLLS))
            .bench_local(|| runtime.block_on(tracked_polls(&tree)));
    }

    #[divan::bench]
    fn tracked_and_watched(bencher: Bencher<'_, '_>) {
        let (runtime, tree) = (runtime(), Tree::new("bench"));
        let _watchdog = Watchdog::start(&tree, Duration::from_millis(100), drop).unwrap();
        bencher
            .counter(ItemsCount::new(POLLS))
            .bench_local(|| runtime.block_on(tracked_polls(&tree)));
    }
}

async fn tracked_polls(tree: &Tree) {
    Scope::named("bench")
        .under(&tree.root())
        .run(async |group: Group<Infallible>| {
            let polls = async {
                yield_often().await;
                Ok(())
            };
            group.spawn(polls).await.unwrap();
            Ok(())
        })
        .await
        .unwrap();
}

#[divan::bench_group(name = "a snapshot", max_time = Duration::from_secs(5))]
mod snapshots {
    use super::*;

    #[divan::bench(args = [1_000, 100_000])]
    fn taken(bencher: Bencher<'_, '_>, tasks: usize) {
        with_tasks(tasks, |tree| bencher.bench_local(|| tree.snapshot()));
    }

    #[divan::bench(args = [1_000, 100_000])]
    fn taken_and_printed(bencher: Bencher<'_, '_>, tasks: usize) {
        with_tasks(tasks, |tree| {
            bencher.bench_local(|| tree.snapshot().to_string());
        });
    }
}

/// Runs `measure` while so many tasks wait in hundred groups.
fn with_tasks(tasks: usize, measure: impl FnOnce(&Tree)) {
    const GROUPS: usize = 100;
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let tree = Tree::new("bench");
    let groups: Vec<_> = (0..GROUPS)
        .map(|_| runtime.spawn(waiting(tree.clone(), tasks / GROUPS)))
        .collect();
    while tree.snapshot().nodes.len() < tasks + GROUPS + 1 {
        std::thread::yield_now();
    }
    measure(&tree);
    drop(groups);
    drop(runtime);
}

async fn waiting(tree: Tree, tasks: usize) {
    let outcome =
        Scope::named("group")
            .under(&tree.root())
            .run(async move |group: Group<Infallible>| {
                let group = group.named("waiting");
                for _ in 0..tasks {
                    drop(group.spawn(std::future::pending::<Result<(), _>>()));
                }
                Ok(())
            });
    outcome.await.unwrap();
}
