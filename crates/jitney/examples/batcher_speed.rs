//! What the batcher itself costs: 64 tasks that submit to a model that does nothing, microseconds a request.
//!
//! `cargo run --release -p jitney --example batcher_speed`
#![expect(clippy::print_stdout, reason = "its output is its purpose")]

use std::convert::Infallible;
use std::error::Error;
use std::time::{Duration, Instant};

use jitney::batch::{Batcher, Batching, Context, Model};

const TASKS: u32 = 64;
const EACH: u32 = 20_000;

struct Nothing;

impl Model for Nothing {
    type In = u64;
    type Out = u64;
    type Error = Infallible;

    fn run(
        &mut self,
        items: &[u64],
        _: &Context<'_>,
    ) -> Result<Vec<Result<u64, Infallible>>, Infallible> {
        Ok(items.iter().map(|&item| Ok(item)).collect())
    }
}

async fn measure(workers: &str) -> Result<(), Box<dyn Error>> {
    let batcher = Batcher::start("nothing", Batching::default(), || {
        Ok::<_, Infallible>(Nothing)
    })?;
    let mut runs = Vec::new();
    for _ in 0..5 {
        let started = Instant::now();
        let mut tasks = tokio::task::JoinSet::new();
        for task in 0..TASKS {
            let batcher = batcher.clone();
            tasks.spawn(async move {
                for n in 0..EACH {
                    let item = u64::from(task) << 32 | u64::from(n);
                    let deadline = Instant::now() + Duration::from_secs(30);
                    let ticket = batcher
                        .submit(item, Some(deadline))
                        .map_err(|error| error.to_string())?;
                    let answer = ticket.await.map_err(|error| error.to_string())?;
                    assert_eq!(answer.value, item, "another's answer");
                }
                Ok::<_, String>(())
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended??;
        }
        runs.push(started.elapsed().as_secs_f64() * 1e6 / f64::from(TASKS * EACH));
    }
    runs.sort_by(f64::total_cmp);
    let stats = batcher.stats();
    let batches: u64 = stats.batches.iter().sum();
    let mean = stats.ok as f64 / batches.max(1) as f64;
    println!(
        "{workers}: median {:.2} us a request (best {:.2}), {mean:.1} rows a batch",
        runs[2], runs[0]
    );
    batcher.close();
    batcher.wait_closed().await;
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?
        .block_on(measure("one thread"))?;
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?
        .block_on(measure("a worker for each core"))
}
