//! A large table of SQLite or PostgreSQL as a stream: connections come from a [`Pool`], rows come in [`Pages`], and memory stays
//! flat however large the table is.
//!
//! What to copy from here: a [`Manager`] for the connections of each database ([`Sqlite`], [`Postgres`]), and [`events`], which reads
//! by keyset: `WHERE id > last ORDER BY id LIMIT n`. An offset would read and throw away all rows before it, and would skip or
//! repeat rows while the table changes.

mod postgres;
mod sqlite;

use std::num::NonZeroU32;

use jitney::pool::{Manager, Pool, PoolError};
use jitney::stream::{Page, Pages, paginate};

pub use postgres::Postgres;
pub use sqlite::Sqlite;

/// One row of the table `events`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its key, which grows.
    pub id: i64,
    /// What happened.
    pub kind: String,
    /// About a hundred bytes.
    pub payload: String,
}

impl From<(i64, String, String)> for Event {
    fn from((id, kind, payload): (i64, String, String)) -> Event {
        Event { id, kind, payload }
    }
}

/// A database with a table `events`.
pub trait Database: Manager<Error = sqlx::Error> {
    /// Makes the table with rows numbered from 1.
    fn fill(
        connection: &mut Self::Resource,
        rows: i64,
    ) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// The rows after `last`, at most `limit` of them, in the order of their key.
    fn page(
        connection: &mut Self::Resource,
        last: i64,
        limit: u32,
    ) -> impl Future<Output = sqlx::Result<Vec<Event>>> + Send;
}

/// All events after `last`, read in pages of so many rows. A connection is held only while a page is read.
pub fn events<D: Database>(pool: &Pool<D>, last: i64, page: NonZeroU32) -> Pages<Event, ReadError> {
    let pool = pool.clone();
    paginate(last, move |last| {
        let pool = pool.clone();
        async move {
            let mut connection = pool.get().await?;
            let items = D::page(&mut connection, last, page.get()).await?;
            let full = items.len() == page.get() as usize;
            let next = items.last().map(|event| event.id).filter(|_| full);
            Ok(Page { items, next })
        }
    })
}

/// Why a page could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There was no connection.
    #[error(transparent)]
    Pool(#[from] PoolError<sqlx::Error>),
    /// The query failed.
    #[error("reading a page failed: {0}")]
    Query(#[from] sqlx::Error),
}
