//! Tables that a capture makes: JSON Lines, one object a row, as record items. A long table becomes several items
//! (`sockets.jsonl`, `sockets.1.jsonl`, ...), so that memory stays bounded and no row is lost.

use exhibit_evidence::manifest::Status;
use serde::Serialize;

use super::{Content, Moment, NewItem, Output, Stop};

/// A part of a table is put when it has reached this many bytes.
pub const TABLE_PART_BYTES_MAX: usize = 2 << 20;

/// A table under construction.
#[derive(Debug)]
pub struct Table {
    stem: String,
    method: &'static str,
    started: Moment,
    bytes: Vec<u8>,
    parts: u32,
    rows: u64,
    rows_in_part: u64,
    bad_rows: u64,
    facts: Vec<(&'static str, String)>,
}

impl Table {
    /// A table with no rows. `stem` is the name without `.jsonl`.
    #[must_use]
    pub fn new(stem: &str, started: Moment, method: &'static str) -> Self {
        Self {
            stem: stem.to_owned(),
            method,
            started,
            bytes: Vec::new(),
            parts: 0,
            rows: 0,
            rows_in_part: 0,
            bad_rows: 0,
            facts: Vec::new(),
        }
    }

    /// Adds a row; puts a part when enough rows have come together.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn row(&mut self, out: &mut dyn Output, row: &impl Serialize) -> Result<(), Stop> {
        let before = self.bytes.len();
        if serde_json::to_writer(&mut self.bytes, row).is_err() {
            // Only a map with keys that are no strings can do that; the row is counted instead of shown half.
            self.bytes.truncate(before);
            self.bad_rows = self.bad_rows.saturating_add(1);
            return Ok(());
        }
        self.bytes.push(b'\n');
        self.rows = self.rows.saturating_add(1);
        self.rows_in_part = self.rows_in_part.saturating_add(1);
        if self.bytes.len() >= TABLE_PART_BYTES_MAX {
            self.put_part(out, None)?;
        }
        Ok(())
    }

    /// Adds a fact to the part that is put next: what a reader of the table should know and is no fault of it.
    pub fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.facts.push((name, value.into()));
    }

    /// Rows so far.
    #[must_use]
    pub const fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the last part. `problem` is the status and reason of a table that is not whole; an empty table is put too:
    /// "none were found" is a finding.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn finish(mut self, out: &mut dyn Output, problem: Option<(Status, String)>) -> Result<u64, Stop> {
        let problem = match (self.bad_rows, problem) {
            (0, problem) => problem,
            (n, None) => Some((Status::Partial, format!("{n} rows could not be written"))),
            (n, Some((status, reason))) => Some((status, format!("{reason}; {n} rows could not be written"))),
        };
        if self.parts == 0 || self.rows_in_part > 0 || problem.is_some() {
            self.put_part(out, problem)?;
        }
        Ok(self.rows)
    }

    fn put_part(&mut self, out: &mut dyn Output, problem: Option<(Status, String)>) -> Result<(), Stop> {
        let name = match self.parts {
            0 => format!("{}.jsonl", self.stem),
            n => format!("{}.{n}.jsonl", self.stem),
        };
        let mut item = NewItem::record(&name, self.started, self.method).with_fact("rows", self.rows_in_part.to_string());
        for (name, value) in self.facts.drain(..) {
            item = item.with_fact(name, value);
        }
        if let Some((status, reason)) = problem {
            item = item.with_status(status, reason);
        }
        let result = out.put(item, Content::Bytes(&self.bytes)).map(drop);
        self.parts = self.parts.saturating_add(1);
        self.rows_in_part = 0;
        self.bytes.clear();
        self.started = out.now();
        result
    }
}
