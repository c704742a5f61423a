//! Connections to a SQLite file.

use jitney::pool::Manager;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection};

use crate::{Database, Event};

/// Opens connections to one file.
#[derive(Clone, Debug)]
pub struct Sqlite {
    /// The file, and how to open it.
    pub options: SqliteConnectOptions,
}

impl Manager for Sqlite {
    type Resource = SqliteConnection;
    type Error = sqlx::Error;

    async fn open(&self) -> sqlx::Result<SqliteConnection> {
        self.options.connect().await
    }

    async fn check(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        connection.ping().await
    }

    /// Waits until the connection's thread has noticed that the last holder's query is not wanted any more.
    async fn recycle(&self, connection: &mut SqliteConnection) -> sqlx::Result<()> {
        connection.ping().await
    }

    async fn close(&self, connection: SqliteConnection) -> sqlx::Result<()> {
        connection.close().await
    }
}

impl Database for Sqlite {
    async fn fill(connection: &mut SqliteConnection, rows: i64) -> sqlx::Result<()> {
        sqlx::query("CREATE TABLE events (id INTEGER PRIMARY KEY, kind TEXT NOT NULL, payload TEXT NOT NULL)")
            .execute(&mut *connection)
            .await?;
        sqlx::query(
            "WITH RECURSIVE n(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM n WHERE id < ?)
             INSERT INTO events SELECT id, 'kind ' || (id % 7), printf('%0100d', id) FROM n",
        )
        .bind(rows)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn page(
        connection: &mut SqliteConnection,
        last: i64,
        limit: u32,
    ) -> sqlx::Result<Vec<Event>> {
        let query = "SELECT id, kind, payload FROM events WHERE id > ? ORDER BY id LIMIT ?";
        let query = sqlx::query_as::<_, (i64, String, String)>(query);
        let rows = query
            .bind(last)
            .bind(i64::from(limit))
            .fetch_all(connection);
        Ok(rows.await?.into_iter().map(Event::from).collect())
    }
}
