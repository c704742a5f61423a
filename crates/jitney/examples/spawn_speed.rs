//! What a task costs: started and awaited through tokio's `JoinSet`, and through a `Group`.
//!
//! `cargo run --release -p jitney --example spawn_speed`
//!
//! With `group` or `join_set` as its argument it starts and awaits 100,000 tasks in that way and says nothing, for tools that count
//! instructions: `valgrind --tool=callgrind target/release/examples/spawn_speed group`.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a measurement prints, and a failure of it may panic"
)]

use std::time::Instant;

use jitney::{Group, Scope};
use tokio::task::JoinSet;

const TASKS: usize = 1_000;
const ROUNDS: usize = 400;

fn main() {
    let counted = std::env::args().nth(1);
    match counted.as_deref() {
        None => compare(),
        Some("group") => repeat(group),
        Some("join_set") => repeat(join_set),
        Some(other) => panic!("expected group, join_set or nothing, got {other:?}"),
    }
}

fn repeat<Fut: Future<Output = usize>>(round: impl Fn() -> Fut) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    for _ in 0..100_000 / TASKS {
        runtime.block_on(round());
    }
}

fn compare() {
    for (name, threads) in [("one thread", 1), ("two threads", 2)] {
        let mut builder = match threads {
            1 => tokio::runtime::Builder::new_current_thread(),
            _ => tokio::runtime::Builder::new_multi_thread(),
        };
        let runtime = builder
            .worker_threads(threads)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            // In turns, so that what else the machine does hits both alike.
            let (mut ours, mut theirs) = (f64::MAX, f64::MAX);
            for _ in 0..ROUNDS {
                theirs = theirs.min(nanos_a_task(join_set).await);
                ours = ours.min(nanos_a_task(group).await);
            }
            let more = ours - theirs;
            println!("{name}: JoinSet {theirs:.0} ns a task, Group {ours:.0} ns, {more:+.0} ns");
        });
    }
}

async fn nanos_a_task<Fut: Future<Output = usize>>(round: impl Fn() -> Fut) -> f64 {
    let begun = Instant::now();
    assert_eq!(round().await, TASKS * (TASKS - 1) / 2);
    begun.elapsed().as_nanos() as f64 / TASKS as f64
}

async fn join_set() -> usize {
    let mut tasks = JoinSet::new();
    for i in 0..TASKS {
        tasks.spawn(async move { i });
    }
    let mut sum = 0;
    while let Some(value) = tasks.join_next().await {
        sum += value.unwrap();
    }
    sum
}

async fn group() -> usize {
    Scope::named("group")
        .run(async |group: Group<()>| {
            let handles: Vec<_> = (0..TASKS)
                .map(|i| group.spawn(async move { Ok(i) }))
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
