//! What `gather` costs beside `buffered` of futures: a hundred thousand futures, at most a thousand at once.
//!
//! `cargo bench -p jitney --bench gather`

use std::convert::Infallible;

use divan::Bencher;
use futures_util::{StreamExt, TryStreamExt, stream};

const ITEMS: u64 = 100_000;
const LIMIT: usize = 1_000;

fn main() {
    divan::main();
}

/// Ready at the first poll.
async fn ready(number: u64) -> Result<u64, Infallible> {
    Ok(number)
}

/// Ready at the second poll.
async fn once_pending(number: u64) -> Result<u64, Infallible> {
    tokio::task::yield_now().await;
    Ok(number)
}

#[divan::bench_group]
mod ready_at_once {
    use super::*;

    #[divan::bench]
    fn gather(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            jitney::gather((0..ITEMS).map(ready))
                .limit(LIMIT)
                .all()
                .await
                .unwrap_or_default()
        });
    }

    #[divan::bench]
    fn buffered(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            let buffered = stream::iter((0..ITEMS).map(ready)).buffered(LIMIT);
            buffered.try_collect::<Vec<_>>().await.unwrap_or_default()
        });
    }
}

#[divan::bench_group]
mod pending_once {
    use super::*;

    #[divan::bench]
    fn gather(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            jitney::gather((0..ITEMS).map(once_pending))
                .limit(LIMIT)
                .all()
                .await
                .unwrap_or_default()
        });
    }

    #[divan::bench]
    fn buffered(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            let buffered = stream::iter((0..ITEMS).map(once_pending)).buffered(LIMIT);
            buffered.try_collect::<Vec<_>>().await.unwrap_or_default()
        });
    }
}

#[divan::bench_group]
mod as_tasks {
    use super::*;

    #[divan::bench]
    fn gather_parallel(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            let items = jitney::gather((0..ITEMS).map(ready)).limit(LIMIT);
            items.parallel().all().await.unwrap_or_default()
        });
    }

    #[divan::bench]
    fn buffered_join_handles(bencher: Bencher<'_, '_>) {
        run(bencher, || async {
            #[expect(clippy::disallowed_methods, reason = "it is what we are compared with")]
            let handles = stream::iter((0..ITEMS).map(|number| tokio::spawn(ready(number))));
            let buffered = handles
                .buffered(LIMIT)
                .map(|joined| joined.unwrap_or(Ok(0)));
            buffered.try_collect::<Vec<_>>().await.unwrap_or_default()
        });
    }
}

/// Every run gathers into a vector of the numbers in their order.
fn run<F>(bencher: Bencher<'_, '_>, gather: impl Fn() -> F + Sync)
where
    F: Future<Output = Vec<u64>>,
{
    #[expect(
        clippy::expect_used,
        reason = "without a runtime there is nothing to measure"
    )]
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime");
    bencher.bench_local(|| {
        let numbers = runtime.block_on(gather());
        assert!(numbers.len() as u64 == ITEMS && numbers.is_sorted());
        numbers
    });
}
