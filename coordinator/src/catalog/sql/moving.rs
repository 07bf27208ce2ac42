//! All rows out of a catalog, and into an empty one.

use std::io::{BufRead, Write};

use futures::TryStreamExt as _;
use sqlx::Connection as _;

use super::{Backend, Connection, QueryBuilder, Row, decode, dialect, map};
use crate::catalog::CatalogError;
use crate::catalog::transfer::{Cell, Kind, Moved, Reader, TABLES, Table, TransferError, Writer};

/// Rows that go into the database with one statement: fewer bind values than SQLite allows (32,766) with the widest table.
const BATCH_ROWS: usize = 500;
/// Bytes after which a batch goes although it is not full.
const BATCH_BYTES: usize = 4 << 20;

impl Backend {
    /// Writes every row as `transfer` describes it, as of one moment.
    ///
    /// # Errors
    /// [`TransferError`]: what was written until then is no export.
    pub async fn export(&self, out: &mut (dyn Write + Send)) -> Result<Moved, TransferError> {
        let mut connection = self.readers().acquire().await.map_err(map)?;
        let mut tx = connection.begin_with(dialect::SNAPSHOT).await.map_err(map)?;
        dialect::unhurried(&mut tx).await?;
        let mut writer = Writer::begin(out)?;
        for table in &TABLES {
            let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
            let sql = format!("SELECT {} FROM {} ORDER BY {}", columns.join(", "), table.name, table.key);
            let mut rows = sqlx::query(sqlx::AssertSqlSafe(sql)).fetch(&mut *tx);
            while let Some(row) = rows.try_next().await.map_err(map)? {
                writer.row(table, cells(table, &row)?)?;
            }
        }
        writer.end()
    }

    /// Fills an empty catalog from an export: all of it in one transaction, or nothing.
    ///
    /// # Errors
    /// [`TransferError`]: nothing was changed, except that an answer of the last step may have been lost
    /// ([`CatalogError::Busy`]); a repeated call then says that the catalog is not empty.
    pub async fn import(&self, input: &mut (dyn BufRead + Send)) -> Result<Moved, TransferError> {
        let mut reader = Reader::begin(input)?;
        let mut connection = self.writers().acquire().await.map_err(map)?;
        let mut tx = connection.begin_with(dialect::BEGIN).await.map_err(map)?;
        dialect::unhurried(&mut tx).await?;
        must_be_empty(&mut tx).await?;
        let (mut batch, mut moved) = (Batch::default(), Moved::default());
        while let Some((table, cells)) = reader.row()? {
            if batch.table.is_some_and(|t| t != table) || batch.is_full() {
                batch.insert(&mut tx).await?;
            }
            batch.add(table, cells, reader.line());
            moved.rows += 1;
        }
        batch.insert(&mut tx).await?;
        dialect::settle(&mut tx).await?;
        tx.commit().await.map_err(map)?;
        Ok(moved)
    }
}

async fn must_be_empty(c: &mut Connection) -> Result<(), CatalogError> {
    for table in &TABLES {
        let sql = format!("SELECT count(*) FROM (SELECT 1 FROM {} LIMIT 1) AS one", table.name);
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(&mut *c).await.map_err(map)?;
        if rows != 0 {
            return Err(CatalogError::Conflict(format!(
                "there are {} already, and an import goes into an empty catalog only: name an empty database or another file",
                table.name
            )));
        }
    }
    Ok(())
}

fn cells(table: &Table, row: &Row) -> Result<Vec<Cell>, CatalogError> {
    let cell = |(name, kind): &(&'static str, Kind)| {
        Ok(match kind {
            Kind::Int => decode::get::<Option<i64>>(row, name)?.map_or(Cell::Null, Cell::Int),
            Kind::Text => decode::get::<Option<String>>(row, name)?.map_or(Cell::Null, Cell::Text),
            Kind::Bytes => decode::get::<Option<Vec<u8>>>(row, name)?.map_or(Cell::Null, Cell::Bytes),
        })
    };
    table.columns.iter().map(cell).collect()
}

/// Rows of one table that go together.
#[derive(Default)]
struct Batch {
    table: Option<&'static Table>,
    rows: Vec<Vec<Cell>>,
    bytes: usize,
    first_line: u64,
}

impl Batch {
    const fn is_full(&self) -> bool {
        self.rows.len() >= BATCH_ROWS || self.bytes >= BATCH_BYTES
    }

    fn add(&mut self, table: &'static Table, cells: Vec<Cell>, line: u64) {
        let size = |cell: &Cell| match cell {
            Cell::Text(text) => text.len(),
            Cell::Bytes(bytes) => bytes.len(),
            Cell::Null | Cell::Int(_) => 8,
        };
        if self.rows.is_empty() {
            (self.table, self.first_line) = (Some(table), line);
        }
        self.bytes += cells.iter().map(size).sum::<usize>();
        self.rows.push(cells);
    }

    /// Writes the rows, and reads what the database made of them as it will be read later: a row that is no row of ours is
    /// refused now.
    async fn insert(&mut self, c: &mut Connection) -> Result<(), TransferError> {
        let Self { table: Some(table), rows, first_line, .. } = std::mem::take(self) else { return Ok(()) };
        let last_line = first_line + rows.len() as u64 - 1;
        let columns: Vec<&str> = table.columns.iter().map(|(name, _)| *name).collect();
        let mut query = QueryBuilder::new(format!("INSERT INTO {} ({}) ", table.name, columns.join(", ")));
        query.push_values(rows, |mut row, cells| {
            for ((_, kind), cell) in table.columns.iter().zip(cells) {
                match (cell, kind) {
                    (Cell::Int(n), _) => row.push_bind(n),
                    (Cell::Text(text), _) => row.push_bind(text),
                    (Cell::Bytes(bytes), _) => row.push_bind(bytes),
                    (Cell::Null, Kind::Int) => row.push_bind(None::<i64>),
                    (Cell::Null, Kind::Text) => row.push_bind(None::<String>),
                    (Cell::Null, Kind::Bytes) => row.push_bind(None::<Vec<u8>>),
                };
            }
        });
        let written = query.push(" RETURNING *").build().fetch_all(c).await.map_err(map).map_err(|e| match e {
            CatalogError::Conflict(what) | CatalogError::Damaged(what) => {
                TransferError::Line { line: first_line, what: format!("{} (one of the lines to {last_line}): {what}", table.name) }
            }
            e => TransferError::Catalog(e),
        })?;
        // Databases give the rows in the order of the values.
        for (line, row) in (first_line..).zip(&written) {
            check(table, row).map_err(|e| match e {
                CatalogError::Damaged(what) => TransferError::Line { line, what: format!("{}: {what}", table.name) },
                e => TransferError::Catalog(e),
            })?;
        }
        Ok(())
    }
}

fn check(table: &Table, row: &Row) -> Result<(), CatalogError> {
    match table.name {
        "tokens" => decode::token(row).map(drop),
        "token_uses" => decode::digest(row, "keys").and_then(|_| decode::parsed::<exhibit_evidence::AgentId>(row, "agent").map(drop)),
        "agents" => decode::agent(row).map(drop),
        "cases" => decode::case(row).map(drop),
        "orders" => decode::order(row).map(drop),
        "collections" => decode::collection(row).map(drop),
        "streams" => decode::stream(row).map(drop),
        "segments" => decode::segment(row).map(drop),
        "incidents" => decode::incident(row).map(drop),
        "published" => decode::published(row).map(drop),
        _ => Ok(()),
    }
}
