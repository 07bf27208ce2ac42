//! Tables that a capture makes: JSON Lines, one object a row, as record items. A long table becomes several items
//! (`sockets.jsonl`, `sockets.1.jsonl`, ...), so that memory stays bounded and no row is lost. Whoever has one part finds the
//! others: each but the last names the next one, each but the first the first one, and the last says how many there are.

use exhibit_evidence::manifest::Status;
use serde::Serialize;

use super::{Content, Moment, NewItem, Output, Room, Stop};

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
    /// Rows for which the order's limit had no room.
    left_out: u64,
    /// Room that is kept for the rows that are not put yet.
    room: u64,
    spare: bool,
    facts: Vec<(&'static str, String)>,
    /// What the output said to rows of what was at hand.
    ended: Option<Stop>,
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
            left_out: 0,
            room: 0,
            spare: true,
            facts: Vec::new(),
            ended: None,
        }
    }

    /// The same without a right to the room that is kept for records: it can be missed, and is worth less than the others.
    #[must_use]
    pub fn ordinary(self) -> Self {
        Self { spare: false, ..self }
    }

    /// Adds a row; puts a part when enough rows have come together. At the limit of the order the table is cut, and says so, rather
    /// than lost as a whole.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn row(&mut self, out: &mut dyn Output, row: &impl Serialize) -> Result<(), Stop> {
        if !self.offer(out, row)? {
            self.left_out = self.left_out.saturating_add(1);
        }
        Ok(())
    }

    /// The same for a row of what was read before: told to end or not, it is added, and [`Table::finish`] returns what the output said.
    pub fn row_at_hand(&mut self, out: &mut dyn Output, row: &impl Serialize) {
        if let Err(stop) = self.row(out, row) {
            self.ended.get_or_insert(stop);
        }
    }

    /// The same for a row that can be said more briefly elsewhere: false when the limit of the order has no room for it.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn offer(&mut self, out: &mut dyn Output, row: &impl Serialize) -> Result<bool, Stop> {
        // The row is of what was read already: it stands in the next part whatever becomes of this one.
        let put = if self.bytes.len() >= TABLE_PART_BYTES_MAX { self.put_part(out, None, false) } else { Ok(()) };
        let before = self.bytes.len();
        if serde_json::to_writer(&mut self.bytes, row).is_err() {
            // Only a map with keys that are no strings can do that; the row is counted instead of shown half.
            self.bytes.truncate(before);
            self.bad_rows = self.bad_rows.saturating_add(1);
            return put.map(|()| true);
        }
        self.bytes.push(b'\n');
        // What is taken meanwhile must leave room for what says that it was.
        if self.spare {
            let grown = self.bytes.len().saturating_sub(before) as u64;
            if !out.keep_room(grown) {
                self.bytes.truncate(before);
                return put.map(|()| false);
            }
            self.room = self.room.saturating_add(grown);
        }
        self.rows = self.rows.saturating_add(1);
        self.rows_in_part = self.rows_in_part.saturating_add(1);
        put.map(|()| true)
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
        let lost = [(self.bad_rows, "could not be written"), (self.left_out, "are left out: the limit of raw bytes has no room for them")];
        let lost: Vec<String> = lost.iter().filter(|(n, _)| *n > 0).map(|(n, why)| format!("{n} rows {why}")).collect();
        let problem = match (lost.is_empty(), problem) {
            (true, problem) => problem,
            (false, None) => Some((Status::Partial, lost.join("; "))),
            (false, Some((status, reason))) => Some((status, format!("{reason}; {}", lost.join("; ")))),
        };
        if self.parts == 0 || self.rows_in_part > 0 || problem.is_some() {
            self.put_part(out, problem, true)?;
        }
        self.ended.map_or(Ok(self.rows), Err)
    }

    fn name(&self, part: u32) -> String {
        if part == 0 { format!("{}.jsonl", self.stem) } else { format!("{}.{part}.jsonl", self.stem) }
    }

    fn put_part(&mut self, out: &mut dyn Output, problem: Option<(Status, String)>, last: bool) -> Result<(), Stop> {
        let mut item = NewItem::record(&self.name(self.parts), self.started, self.method).with_fact("rows", self.rows_in_part.to_string());
        item.room = Room { kept: std::mem::take(&mut self.room), spare: self.spare };
        if self.parts > 0 {
            item = item.with_fact("first_part", self.name(0));
        }
        match self.parts.saturating_add(1) {
            next if !last => item = item.with_fact("next_part", self.name(next)),
            1 => {}
            all => item = item.with_fact("parts", all.to_string()),
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::Memory;

    /// From the first part every other one is found, and from every part the first.
    #[test]
    fn every_part_leads_to_the_others() {
        let mut out = Memory::default();
        let mut table = Table::new("7/map", out.now(), "test");
        let row = "x".repeat(TABLE_PART_BYTES_MAX / 4);
        for _ in 0..9 {
            table.row(&mut out, &row).expect("put");
        }
        assert_eq!(table.finish(&mut out, None), Ok(9));
        let said = |fact: &str| out.puts.iter().map(|p| p.item.facts.get(fact).map_or("", String::as_str)).collect::<Vec<_>>();
        assert_eq!(said("rows"), ["4", "4", "1"]);
        assert_eq!(said("next_part"), ["7/map.1.jsonl", "7/map.2.jsonl", ""]);
        assert_eq!(said("first_part"), ["", "7/map.jsonl", "7/map.jsonl"]);
        assert_eq!(said("parts"), ["", "", "3"]);
        assert_eq!(out.rows("7/map").len(), 9);
    }
}
