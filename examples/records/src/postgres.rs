//! Connections to a PostgreSQL server.

use jitney::pool::Manager;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{ConnectOptions, Connection};

use crate::{Database, Event};

/// Opens connections to one server.
#[derive(Clone, Debug)]
pub struct Postgres {
    options: PgConnectOptions,
}

impl Postgres {
    /// Connections with these options.
    ///
    /// The server is asked to look every 100 milliseconds whether its client is still there, because otherwise a query goes on
    /// for as long as it likes after its connection has been dropped.
    pub fn new(options: PgConnectOptions) -> Postgres {
        Postgres {
            options: options.options([("client_connection_check_interval", "100ms")]),
        }
    }
}

impl Manager for Postgres {
    type Resource = PgConnection;
    type Error = sqlx::Error;

    async fn open(&self) -> sqlx::Result<PgConnection> {
        self.options.connect().await
    }

    async fn check(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        connection.ping().await
    }

    /// Reads what is left of a result that the last holder did not finish. If that takes too long the pool drops the connection.
    async fn recycle(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        connection.ping().await
    }

    async fn close(&self, connection: PgConnection) -> sqlx::Result<()> {
        connection.close().await
    }
}

impl Database for Postgres {
    async fn fill(connection: &mut PgConnection, rows: i64) -> sqlx::Result<()> {
        sqlx::query(
            "CREATE TABLE events (id bigint PRIMARY KEY, kind text NOT NULL, payload text NOT NULL)",
        )
        .execute(&mut *connection)
        .await?;
        sqlx::query(
            "INSERT INTO events SELECT id, 'kind ' || (id % 7), lpad(id::text, 100, '0')
             FROM generate_series(1, $1) AS id",
        )
        .bind(rows)
        .execute(connection)
        .await?;
        Ok(())
    }

    async fn page(
        connection: &mut PgConnection,
        last: i64,
        limit: u32,
    ) -> sqlx::Result<Vec<Event>> {
        let query = "SELECT id, kind, payload FROM events WHERE id > $1 ORDER BY id LIMIT $2";
        let query = sqlx::query_as::<_, (i64, String, String)>(query);
        let rows = query
            .bind(last)
            .bind(i64::from(limit))
            .fetch_all(connection);
        Ok(rows.await?.into_iter().map(Event::from).collect())
    }
}
