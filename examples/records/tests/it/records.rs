//! A million rows with flat memory, early exits, cancelled holders, and dead connections; the same on both databases.

use std::fs;
use std::num::{NonZeroU32, NonZeroUsize};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt};
use jitney::pool::{Pool, Settings};
use jitney::stream::{Records, producer};
use jitney::{Group, Scope};
use jitney_records_example::{Database, Postgres, Sqlite, events};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions, Row};
use tempfile::TempDir;

use crate::cluster::Cluster;

const ROWS: i64 = 1_000_000;
const PAGE: NonZeroU32 = NonZeroU32::new(2000).unwrap();

/// The table has more than 100 MiB; a whole copy of it, or of its ids, would not fit in this.
const GROWTH_MAX_KIB: u64 = 24 * 1024;

#[tokio::test]
async fn sqlite_streams_a_million_rows_with_flat_memory() {
    let (_folder, sqlite) = sqlite();
    with_pool(sqlite, settings(2), a_million_rows).await;
}

#[tokio::test]
async fn postgres_streams_a_million_rows_with_flat_memory() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    with_pool(
        Postgres::new(cluster.options()),
        settings(2),
        a_million_rows,
    )
    .await;
}

async fn a_million_rows<D: Database>(pool: Pool<D>) {
    fill(&pool, ROWS).await;
    let mut rows = events(&pool, 0, PAGE);
    // Whatever is needed once has been needed after the first page.
    let first = rows.try_next().await.unwrap().unwrap();
    assert_eq!(
        (first.id, first.kind.as_str(), first.payload.len()),
        (1, "kind 1", 100)
    );
    let (before, mut most) = (resident_kib(), 0);
    let mut last = first.id;
    while let Some(event) = rows.try_next().await.unwrap() {
        assert_eq!(event.id, last + 1);
        last = event.id;
        if last % 10_000 == 0 {
            most = most.max(resident_kib());
        }
    }
    assert_eq!(last, ROWS);
    let growth = most.saturating_sub(before);
    assert!(
        growth < GROWTH_MAX_KIB,
        "{growth} KiB more than the {before} KiB before"
    );
    assert!(pool.stats().opened <= 2, "{:?}", pool.stats());
}

#[tokio::test]
async fn leaving_early_reads_one_page_ahead_and_no_more() {
    let (_folder, sqlite) = sqlite();
    with_pool(sqlite, settings(1), early_exit).await;
    if let Some(cluster) = Cluster::start().await {
        with_pool(Postgres::new(cluster.options()), settings(1), early_exit).await;
    }
}

async fn early_exit<D: Database>(pool: Pool<D>) {
    fill(&pool, 20_000).await;
    let mut rows = events(&pool, 0, PAGE);
    for id in 1..=10 {
        assert_eq!(rows.try_next().await.unwrap().unwrap().id, id);
    }
    rows.close().await.unwrap();
    assert_eq!(pool.stats().held, 0, "nobody reads any more");
    // The only connection is there for the next one, even if a page was being read.
    let again: Vec<_> = events(&pool, 19_990, PAGE).try_collect().await.unwrap();
    assert_eq!(again.len(), 10);
}

/// A query without end stops when nobody wants its rows any more, and its connection can be used again.
#[tokio::test]
async fn sqlite_stops_an_endless_query_whose_consumer_left() {
    let (_folder, sqlite) = sqlite();
    with_pool(sqlite, settings(1), async |pool| {
        let source = pool.clone();
        let mut numbers: Records<i64, sqlx::Error> =
            producer(NonZeroUsize::new(16).unwrap(), move |items| async move {
                let mut connection = source.get().await.expect("the pool is open");
                let query = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n";
                let mut rows = sqlx::query(query).fetch(&mut *connection);
                while let Some(row) = rows.try_next().await? {
                    if items.send(row.get(0)).await.is_err() {
                        break;
                    }
                }
                Ok(())
            });
        let first: Vec<_> = numbers.by_ref().take(100).try_collect().await.unwrap();
        assert_eq!(first, (1..=100).collect::<Vec<_>>());
        numbers.close().await.unwrap();
        fill(&pool, 1).await;
        assert_eq!((pool.stats().opened, pool.stats().broken), (1, 0));
    })
    .await;
}

/// A query that its server would go on with for an hour: the pool gives its connection up, and the server notices.
#[tokio::test]
async fn postgres_stops_a_query_whose_holder_was_cancelled() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let impatient = Settings {
        care_within: Duration::from_millis(100),
        ..settings(1)
    };
    with_pool(Postgres::new(cluster.options()), impatient, async |pool| {
        let mut watcher = cluster.options().connect().await.unwrap();
        let sleeping = async |watcher: &mut _| -> i64 {
            let query = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
            sqlx::query_scalar(query).fetch_one(watcher).await.unwrap()
        };
        let holder = async {
            let mut connection = pool.get().await.unwrap();
            sqlx::query("SELECT pg_sleep(3600)").execute(&mut *connection).await
        };
        let seen = async {
            while sleeping(&mut watcher).await == 0 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            outcome = holder => panic!("it was to sleep: {outcome:?}"),
            () = seen => {}
        }
        fill(&pool, 1).await;
        assert_eq!((pool.stats().opened, pool.stats().broken), (2, 1), "the connection was replaced");
        let begun = Instant::now();
        while sleeping(&mut watcher).await != 0 {
            assert!(begun.elapsed() < Duration::from_secs(30), "the query goes on");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn postgres_connections_that_died_are_replaced_at_the_next_checkout() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    let checked = Settings {
        check: true,
        ..settings(2)
    };
    with_pool(Postgres::new(cluster.options()), checked, async |pool| {
        let (a, b) = (pool.get().await.unwrap(), pool.get().await.unwrap());
        drop((a, b));
        let mut killer = cluster.options().connect().await.unwrap();
        let query = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                     WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
        let killed: i64 = sqlx::query_scalar(query)
            .fetch_one(&mut killer)
            .await
            .unwrap();
        assert_eq!(killed, 2);
        for _ in 0..2 {
            let mut connection = pool.get().await.unwrap();
            let one: i32 = sqlx::query_scalar("SELECT 1")
                .fetch_one(&mut *connection)
                .await
                .unwrap();
            assert_eq!(one, 1);
        }
        assert!(pool.stats().broken >= 1);
    })
    .await;
}

#[tokio::test]
async fn closing_leaves_no_connection_on_the_server() {
    let Some(cluster) = Cluster::start().await else {
        return;
    };
    with_pool(
        Postgres::new(cluster.options()),
        settings(3),
        async |pool| {
            let connections = [pool.get().await, pool.get().await, pool.get().await];
            assert!(connections.iter().all(Result::is_ok));
            let left = pool.close(Duration::ZERO).await.unwrap_err();
            assert_eq!(left.holders.len(), 3);
            drop(connections);
            pool.close(Duration::from_secs(10)).await.unwrap();
            let mut watcher = cluster.options().connect().await.unwrap();
            let query = "SELECT count(*) FROM pg_stat_activity
                     WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
            let begun = Instant::now();
            // The server's processes end a moment after they were told to.
            while sqlx::query_scalar::<_, i64>(query)
                .fetch_one(&mut watcher)
                .await
                .unwrap()
                > 0
            {
                assert!(
                    begun.elapsed() < Duration::from_secs(10),
                    "a connection is left"
                );
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        },
    )
    .await;
}

/// Runs `body` with a pool, whose scope must end by itself.
async fn with_pool<D, F, Fut>(database: D, settings: Settings, body: F)
where
    D: Database,
    F: FnOnce(Pool<D>) -> Fut,
    Fut: Future<Output = ()>,
{
    let outcome = Scope::named("records").run(async |group: Group<String>| {
        body(Pool::new(&group, "connections", settings, database)).await;
        Ok(())
    });
    outcome.await.unwrap();
}

async fn fill<D: Database>(pool: &Pool<D>, rows: i64) {
    let mut connection = pool.get().await.unwrap();
    D::fill(&mut connection, rows).await.unwrap();
}

fn settings(max: usize) -> Settings {
    Settings::new(NonZeroUsize::new(max).unwrap())
}

fn sqlite() -> (TempDir, Sqlite) {
    let folder = TempDir::new().unwrap();
    let options = SqliteConnectOptions::new()
        .filename(folder.path().join("events.sqlite"))
        .create_if_missing(true);
    (folder, Sqlite { options })
}

/// The memory of this process that is in RAM.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
