//! All rows of a catalog as lines of JSON: the way from one kind of database to the other.
//!
//! # Format, version 1
//! UTF-8, one JSON object a line, each line at most [`LINE_BYTES_MAX`]:
//! 1. `{"format":"exhibit-catalog","version":1}`
//! 2. a row a line, `{"TABLE":{"COLUMN":VALUE,...}}` with every column of the table: integers as numbers, text as strings,
//!    bytes as base64 (standard alphabet, padded), no value as `null`. Tables in the order of [`TABLES`], so that what is
//!    referred to comes first; rows of a table in the order of their key.
//! 3. `{"end":{"rows":N,"sha256":"HEX"}}`: how many lines there were between, and SHA-256 over all bytes before this line. A
//!    file without it is not whole.
//!
//! A sum against accidents, not against people: an index vouches for nothing, and whoever can write the file can sum it anew.

use std::io::{BufRead, Read as _, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Hasher};
use serde_json::{Map, Value};

/// The first line's `format`.
pub const FORMAT: &str = "exhibit-catalog";
/// The version that is written, and the only one that is read.
pub const VERSION: u64 = 1;
/// The longest line: a segment's part of a manifest (1 MiB) and a parser's state fit many times.
pub const LINE_BYTES_MAX: u64 = 32 << 20;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Int,
    Text,
    Bytes,
}

/// A table, its key, its columns.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Table {
    pub name: &'static str,
    /// ORDER BY this.
    pub key: &'static str,
    pub columns: &'static [(&'static str, Kind)],
}

use Kind::{Bytes, Int, Text};

/// Every table that holds something: a table refers only to those before it.
pub(super) const TABLES: [Table; 11] = [
    Table {
        name: "tokens",
        key: "sha256",
        columns: &[
            ("sha256", Bytes),
            ("labels", Text),
            ("uses", Int),
            ("uses_left", Int),
            ("expires_at", Int),
            ("created_by", Text),
            ("created_at", Int),
        ],
    },
    Table { name: "token_uses", key: "token, keys", columns: &[("token", Bytes), ("keys", Bytes), ("agent", Text)] },
    Table {
        name: "agents",
        key: "agent",
        columns: &[
            ("agent", Text),
            ("key", Bytes),
            ("enrolment", Bytes),
            ("enrolled_at", Int),
            ("labels", Text),
            ("revoked_at", Int),
            ("revoked_reason", Text),
            ("alarm", Text),
            ("seen_at", Int),
            ("hostname", Text),
            ("version", Text),
            ("kernel", Text),
            ("os", Text),
            ("boot_id", Text),
            ("build", Bytes),
            ("clock_offset_ns", Int),
            ("captures", Text),
        ],
    },
    Table {
        name: "cases",
        key: "case_id",
        columns: &[
            ("case_id", Text),
            ("title", Text),
            ("legal_basis", Text),
            ("accountable", Text),
            ("opened_by", Text),
            ("opened_at", Int),
            ("case_opened", Bytes),
            ("case_closed", Bytes),
        ],
    },
    Table {
        name: "orders",
        key: "order_id",
        columns: &[
            ("order_id", Text),
            ("digest", Bytes),
            ("envelope", Bytes),
            ("case_id", Text),
            ("issued_by", Text),
            ("profile", Text),
            ("expires_at", Int),
            ("admitted_at", Int),
        ],
    },
    Table {
        name: "collections",
        key: "collection",
        columns: &[
            ("collection", Text),
            ("order_id", Text),
            ("order_digest", Bytes),
            ("case_id", Text),
            ("agent", Text),
            ("profile", Text),
            ("state", Text),
            ("reason", Text),
            ("ending_outcome", Text),
            ("ending_reason", Text),
            ("ending_refusal", Bytes),
            ("cancel", Text),
            ("stream", Int),
            ("queued_at", Int),
            ("started_at", Int),
            ("ended_at", Int),
            ("expires_at", Int),
            ("give_up_at", Int),
            ("items", Int),
            ("raw_bytes", Int),
            ("stored_bytes", Int),
            ("by_status", Text),
            ("exhibit_first", Int),
            ("exhibit_count", Int),
            ("seal", Bytes),
        ],
    },
    Table {
        name: "streams",
        key: "collection, stream",
        columns: &[
            ("collection", Text),
            ("stream", Int),
            ("state", Text),
            ("next_segment", Int),
            ("snapshot", Bytes),
            ("bookmark", Bytes),
            ("items", Int),
            ("raw_bytes", Int),
            ("stored_bytes", Int),
            ("by_status", Text),
            ("received_from", Int),
            ("received_to", Int),
            ("manifest", Text),
            ("acquisition", Bytes),
            ("receipt", Bytes),
        ],
    },
    Table {
        name: "segments",
        key: "collection, stream, n",
        columns: &[
            ("collection", Text),
            ("stream", Int),
            ("n", Int),
            ("size", Int),
            ("sha256", Bytes),
            ("raw_offset", Int),
            ("raw_size", Int),
        ],
    },
    Table {
        name: "manifest_parts",
        key: "collection, stream, n",
        columns: &[("collection", Text), ("stream", Int), ("n", Int), ("bytes", Bytes)],
    },
    Table {
        name: "incidents",
        key: "id",
        columns: &[("at", Int), ("case_id", Text), ("kind", Text), ("subject", Text), ("detail", Text), ("count", Int), ("logged", Int)],
    },
    Table { name: "published", key: "log", columns: &[("log", Text), ("size", Int), ("root", Bytes)] },
];

/// One value of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Cell {
    Null,
    Int(i64),
    Text(String),
    Bytes(Vec<u8>),
}

/// What went wrong with a file; the text names line and field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The file is not what an export writes.
    #[error("line {line}: {what}")]
    Line {
        /// From 1.
        line: u64,
        /// What is wrong there.
        what: String,
    },
    /// It cannot be read or written.
    #[error("{0}")]
    File(String),
    /// The catalog did not do it.
    #[error(transparent)]
    Catalog(#[from] super::CatalogError),
}

/// What was written or read.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Moved {
    /// Rows of all tables.
    pub rows: u64,
    /// SHA-256 over the file without its last line.
    pub sha256: Option<Digest>,
}

/// Writes a file line by line.
pub(super) struct Writer<'w> {
    out: &'w mut (dyn Write + Send),
    hasher: Hasher,
    rows: u64,
}

impl<'w> Writer<'w> {
    pub fn begin(out: &'w mut (dyn Write + Send)) -> Result<Self, TransferError> {
        let mut writer = Self { out, hasher: Hasher::new(), rows: 0 };
        writer.line(&serde_json::json!({ "format": FORMAT, "version": VERSION }))?;
        Ok(writer)
    }

    pub fn row(&mut self, table: &Table, cells: Vec<Cell>) -> Result<(), TransferError> {
        let cell = |cell| match cell {
            Cell::Null => Value::Null,
            Cell::Int(n) => n.into(),
            Cell::Text(text) => text.into(),
            Cell::Bytes(bytes) => BASE64.encode(bytes).into(),
        };
        let row: Map<String, Value> = table.columns.iter().zip(cells).map(|((name, _), value)| ((*name).to_owned(), cell(value))).collect();
        self.rows += 1;
        self.line(&serde_json::json!({ (table.name): row }))
    }

    pub fn end(mut self) -> Result<Moved, TransferError> {
        let (rows, sha256) = (self.rows, self.hasher.clone().finish());
        self.line(&serde_json::json!({ "end": { "rows": rows, "sha256": sha256.to_string() } }))?;
        self.out.flush().map_err(|e| cannot_write(&e))?;
        Ok(Moved { rows, sha256: Some(sha256) })
    }

    fn line(&mut self, value: &Value) -> Result<(), TransferError> {
        let mut line = serde_json::to_vec(value).map_err(|e| TransferError::File(e.to_string()))?;
        line.push(b'\n');
        if line.len() as u64 > LINE_BYTES_MAX {
            return Err(TransferError::File(format!("a row of {} bytes: at most {LINE_BYTES_MAX} fit into a line", line.len())));
        }
        self.hasher.update(&line);
        self.out.write_all(&line).map_err(|e| cannot_write(&e))
    }
}

fn cannot_write(e: &std::io::Error) -> TransferError {
    TransferError::File(format!("cannot write the export: {e}"))
}

/// A line as an object, and its bytes.
type Line = (Map<String, Value>, Vec<u8>);

/// Reads a file line by line, and believes nothing of it.
pub(super) struct Reader<'r> {
    input: &'r mut (dyn BufRead + Send),
    hasher: Hasher,
    line: u64,
    rows: u64,
    table: usize,
}

impl<'r> Reader<'r> {
    pub fn begin(input: &'r mut (dyn BufRead + Send)) -> Result<Self, TransferError> {
        let mut reader = Self { input, hasher: Hasher::new(), line: 0, rows: 0, table: 0 };
        let Some((first, bytes)) = reader.object()? else { return Err(reader.wrong("the file is empty")) };
        if first.get("format").and_then(Value::as_str) != Some(FORMAT) {
            return Err(reader.wrong("is not the beginning of what 'exhibit-coordinator catalog export' writes"));
        }
        if first.get("version").and_then(Value::as_u64) != Some(VERSION) {
            let version = escape_bounded(&first.get("version").unwrap_or(&Value::Null).to_string(), 40);
            return Err(
                reader.wrong(format!("version {version}: this program reads version {VERSION} (import it with the program that wrote it)"))
            );
        }
        reader.hasher.update(&bytes);
        Ok(reader)
    }

    /// The line that was read last, from 1.
    pub const fn line(&self) -> u64 {
        self.line
    }

    /// The next row, `None` behind the last one, when count and sum are right.
    pub fn row(&mut self) -> Result<Option<(&'static Table, Vec<Cell>)>, TransferError> {
        let Some((object, bytes)) = self.object()? else {
            return Err(self.wrong("the file ends without its last line, so it is not whole: export again"));
        };
        let mut entries = object.into_iter();
        let (Some((name, value)), None) = (entries.next(), entries.next()) else { return Err(self.wrong("expected one table's name")) };
        if name == "end" {
            return self.end(&value).map(|()| None);
        }
        self.hasher.update(&bytes);
        self.rows += 1;
        let Some(at) = TABLES.iter().position(|t| t.name == name) else {
            return Err(self.wrong(format!("'{}' is no table", escape_bounded(&name, 60))));
        };
        if at < self.table {
            return Err(self.wrong(format!("{name}: stands behind {}", TABLES.get(self.table).map_or("", |t| t.name))));
        }
        self.table = at;
        let Some(table) = TABLES.get(at) else { return Err(self.wrong("is no table")) };
        let Value::Object(row) = value else { return Err(self.wrong(format!("{name}: is not an object"))) };
        self.cells(table, row).map(|cells| Some((table, cells)))
    }

    fn cells(&self, table: &Table, mut row: Map<String, Value>) -> Result<Vec<Cell>, TransferError> {
        let mut cells = Vec::with_capacity(table.columns.len());
        for (column, kind) in table.columns {
            let field = |what: &str| self.wrong(format!("{}.{column}: {what}", table.name));
            let value = row.remove(*column).ok_or_else(|| field("is missing"))?;
            cells.push(match (kind, value) {
                (_, Value::Null) => Cell::Null,
                (Int, Value::Number(n)) => Cell::Int(n.as_i64().ok_or_else(|| field("is no integer of 64 bits"))?),
                (Text, Value::String(text)) if text.contains('\0') => return Err(field("holds a NUL character")),
                (Text, Value::String(text)) => Cell::Text(text),
                (Bytes, Value::String(text)) => Cell::Bytes(BASE64.decode(text).map_err(|e| field(&format!("is no base64: {e}")))?),
                (Int, _) => return Err(field("expected a number")),
                (Text | Bytes, _) => return Err(field("expected a string")),
            });
        }
        match row.keys().next() {
            Some(other) => Err(self.wrong(format!("{}.{}: is no column", table.name, escape_bounded(other, 60)))),
            None => Ok(cells),
        }
    }

    fn end(&mut self, said: &Value) -> Result<(), TransferError> {
        let sha256 = self.hasher.clone().finish().to_string();
        if said.get("rows").and_then(Value::as_u64) != Some(self.rows) {
            return Err(self.wrong(format!("end.rows: there were {} rows; lines are missing or too many: export again", self.rows)));
        }
        if said.get("sha256").and_then(Value::as_str) != Some(&sha256) {
            return Err(self.wrong(format!("end.sha256: the bytes before have {sha256}: the file was changed or damaged, export again")));
        }
        match self.object()? {
            None => Ok(()),
            Some(_) => Err(self.wrong("stands behind the end")),
        }
    }

    /// One line as an object, and its bytes; `None` at the end of the file.
    fn object(&mut self) -> Result<Option<Line>, TransferError> {
        let mut bytes = Vec::new();
        let read = (&mut *self.input).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes);
        let read = read.map_err(|e| TransferError::File(format!("cannot read the import: {e}")))?;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        if bytes.last() != Some(&b'\n') {
            return Err(self.wrong(format!("does not end within {LINE_BYTES_MAX} bytes, or the file was cut here")));
        }
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(object)) => Ok(Some((object, bytes))),
            Ok(_) => Err(self.wrong("is not a JSON object")),
            Err(e) => Err(self.wrong(format!("is not JSON: {e}"))),
        }
    }

    pub fn wrong(&self, what: impl Into<String>) -> TransferError {
        TransferError::Line { line: self.line, what: what.into() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use sqlx::{ConnectOptions as _, Row as _};

    use super::*;

    /// A column that a later step adds and nobody lists here would be left behind in silence.
    #[tokio::test]
    async fn every_column_of_the_schema_travels() {
        // A chore begins again in a new place.
        const STAY: [(&str, &str); 4] = [("health", "beats"), ("incidents", "id"), ("chores", "name"), ("chores", "standing")];
        let dir = tempfile::tempdir().expect("dir");
        let file = dir.path().join("catalog.sqlite");
        crate::catalog::sqlite::SqliteCatalog::create(&file).await.expect("new").close().await;
        let mut connection = sqlx::sqlite::SqliteConnectOptions::new().filename(&file).connect().await.expect("opens");
        let columns = "SELECT t.name AS t, c.name AS c FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'";
        let rows = sqlx::query(columns).fetch_all(&mut connection).await.expect("schema");
        let there: BTreeSet<(String, String)> = rows.iter().map(|r| (r.get("t"), r.get("c"))).collect();
        let ours = TABLES.iter().flat_map(|t| t.columns.iter().map(|(c, _)| (t.name, *c)));
        let listed: BTreeSet<(String, String)> = ours.chain(STAY).map(|(t, c)| (t.to_owned(), c.to_owned())).collect();
        assert_eq!(there, listed);
    }
}
