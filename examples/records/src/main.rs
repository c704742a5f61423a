//! Makes a table of a million rows in a new SQLite file, and counts them by kind.
//!
//! `cargo run --manifest-path examples/records/Cargo.toml -- events.sqlite`
#![expect(clippy::print_stdout, reason = "an example that says what it found")]

use std::collections::BTreeMap;
use std::error::Error;
use std::num::NonZeroU32;
use std::time::Duration;

use futures_util::TryStreamExt;
use jitney::pool::{Pool, Settings};
use jitney::stream::ProducerError;
use jitney::{Group, Scope};
use jitney_records_example::{Database, ReadError, Sqlite, events};
use sqlx::sqlite::SqliteConnectOptions;

const ROWS: i64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let file = std::env::args_os()
        .nth(1)
        .ok_or("expected the name of a file to make")?;
    let options = SqliteConnectOptions::new()
        .filename(&file)
        .create_if_missing(true);
    let counts = Scope::named("records")
        .grace(Duration::from_secs(5))
        .run(async |group: Group<ProducerError<ReadError>>| {
            let settings = Settings::new(const { std::num::NonZeroUsize::new(2).unwrap() });
            let pool = Pool::new(&group, "connections", settings, Sqlite { options });
            count(&pool).await
        })
        .await?;
    for (kind, count) in counts {
        println!("{kind}: {count}");
    }
    Ok(())
}

async fn count(pool: &Pool<Sqlite>) -> Result<BTreeMap<String, u64>, ProducerError<ReadError>> {
    const PAGE: NonZeroU32 = NonZeroU32::new(1000).unwrap();
    let mut connection = pool.get().await.map_err(failed)?;
    Sqlite::fill(&mut connection, ROWS).await.map_err(failed)?;
    drop(connection);
    let mut counts = BTreeMap::new();
    let mut rows = events(pool, 0, PAGE);
    while let Some(event) = rows.try_next().await? {
        *counts.entry(event.kind).or_default() += 1;
    }
    Ok(counts)
}

fn failed(error: impl Into<ReadError>) -> ProducerError<ReadError> {
    ProducerError::Failed(error.into())
}
