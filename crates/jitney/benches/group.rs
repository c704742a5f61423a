//! What a group costs above tokio: `cargo bench -p jitney --bench group`.
//!
//! Each pair runs in the same process, one after the other. The difference of the medians is the price; divide it by the number of tasks.
#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark is no library, and tokio's own way is what it compares with"
)]

use std::convert::Infallible;

use divan::Bencher;
use divan::counter::ItemsCount;
use jitney::{Group, Scope};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinSet;

fn main() {
    divan::main();
}

const TASKS: [usize; 2] = [100, 10_000];

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_time().build().unwrap()
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(2)
        .enable_time()
        .build()
        .unwrap()
}

async fn bare(tasks: usize) -> usize {
    let handles: Vec<_> = (0..tasks).map(|n| tokio::spawn(async move { n })).collect();
    let mut sum = 0;
    for handle in handles {
        sum += handle.await.unwrap();
    }
    sum
}

async fn join_set(tasks: usize) -> usize {
    let mut set = JoinSet::new();
    for n in 0..tasks {
        set.spawn(async move { n });
    }
    let mut sum = 0;
    while let Some(n) = set.join_next().await {
        sum += n.unwrap();
    }
    sum
}

/// Every value is read through its handle.
async fn group(tasks: usize) -> usize {
    Scope::named("bench")
        .run(async move |group: Group<Infallible>| {
            let handles: Vec<_> = (0..tasks)
                .map(|n| group.spawn(async move { Ok(n) }))
                .collect();
            let mut sum = 0;
            for handle in handles {
                sum += handle.await.unwrap();
            }
            Ok(sum)
        })
        .await
        .unwrap()
}

/// No value is read: the scope waits for all.
async fn group_unread(tasks: usize) {
    Scope::named("bench")
        .run(async move |group: Group<Infallible>| {
            for n in 0..tasks {
                drop(group.spawn(async move { Ok(n) }));
            }
            Ok(())
        })
        .await
        .unwrap();
}

fn run<F: Future<Output: Send> + Send + 'static>(
    bencher: Bencher<'_, '_>,
    runtime: &Runtime,
    tasks: usize,
    make: fn(usize) -> F,
) {
    bencher
        .counter(ItemsCount::new(tasks))
        .bench_local(|| runtime.block_on(async { tokio::spawn(make(tasks)).await.unwrap() }));
}

#[divan::bench_group(name = "spawn + join, one thread")]
mod current_thread {
    use super::*;

    #[divan::bench(args = TASKS)]
    fn tokio_spawn(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &one_thread(), tasks, bare);
    }
    #[divan::bench(args = TASKS)]
    fn tokio_join_set(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &one_thread(), tasks, join_set);
    }
    #[divan::bench(args = TASKS)]
    fn jitney_group(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &one_thread(), tasks, group);
    }
    #[divan::bench(args = TASKS)]
    fn jitney_group_unread(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &one_thread(), tasks, group_unread);
    }
}

#[divan::bench_group(name = "spawn + join, two threads")]
mod multi_thread {
    use super::*;

    #[divan::bench(args = TASKS)]
    fn tokio_spawn(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &two_threads(), tasks, bare);
    }
    #[divan::bench(args = TASKS)]
    fn tokio_join_set(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &two_threads(), tasks, join_set);
    }
    #[divan::bench(args = TASKS)]
    fn jitney_group(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &two_threads(), tasks, group);
    }
    #[divan::bench(args = TASKS)]
    fn jitney_group_unread(bencher: Bencher<'_, '_>, tasks: usize) {
        run(bencher, &two_threads(), tasks, group_unread);
    }
}
