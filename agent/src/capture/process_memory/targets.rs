//! `targets.jsonl`: every process that the order meant, and what became of it. At the limit of the order the rows of those that
//! were taken come first: the others have items of their own, and where there is no room for their rows a fact has their numbers.

use std::collections::BTreeMap;

use crate::capture::live::Lossless;
use crate::capture::{Moment, Output, Status, Stop, Table};

/// Ranges of numbers that are said for each result; what is beyond them is counted. A fact is a few KiB at most.
const RANGES_MAX: usize = 60;

/// Rows that wait until their group is thawed, some 200 bytes each: 3 MiB.
const STANDING_MAX: usize = 16_384;
/// What the rows of further processes say of how long they stood.
const NOT_WAITED: &str = "its group stood from the freeze until it was thawed: see the fact frozen";

/// One process.
#[derive(Debug, serde::Serialize)]
pub struct TargetRow {
    /// Its number.
    pub pid: u32,
    /// Its name.
    pub name: Lossless,
    /// What of the order means it.
    pub by: Option<&'static str>,
    /// What became of it.
    pub result: &'static str,
    /// The item with its memory, if there is one.
    pub core: Option<String>,
    /// The longest time that one of its threads stood, microseconds; in a frozen group from the freeze until it was thawed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopped_us: Option<u64>,
    /// Why that is not all of the time that it stood.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stood: Option<&'static str>,
}

/// Rows of processes of frozen groups, by the group's place among them: how long they stood is known when it is thawed.
#[derive(Debug, Default)]
pub struct Standing {
    rows: Vec<(usize, TargetRow)>,
}

impl Standing {
    /// Keeps a row until its group is thawed. Gives it back where there are too many, with a word about its time: then it is put now.
    pub fn keep(&mut self, group: usize, row: TargetRow) -> Option<TargetRow> {
        if self.rows.len() >= STANDING_MAX {
            return Some(TargetRow { stood: Some(NOT_WAITED), ..row });
        }
        self.rows.push((group, row));
        None
    }

    /// All that were kept.
    #[must_use]
    pub fn into_rows(self) -> Vec<(usize, TargetRow)> {
        self.rows
    }
}

/// The table under construction.
pub struct Targets {
    table: Table,
    /// Those without a row, by result.
    without_row: BTreeMap<&'static str, Pids>,
}

impl Targets {
    /// No rows yet.
    #[must_use]
    pub fn new(started: Moment) -> Self {
        Self { table: Table::new("targets", started, "read:/proc"), without_row: BTreeMap::new() }
    }

    /// Adds a fact to the item.
    pub fn fact(&mut self, name: &'static str, value: impl Into<String>) {
        self.table.fact(name, value);
    }

    /// Adds a process.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn row(&mut self, out: &mut dyn Output, row: &TargetRow) -> Result<(), Stop> {
        if row.core.is_some() {
            return self.table.row(out, row);
        }
        if !self.table.offer(out, row)? {
            self.without_row.entry(row.result).or_default().add(row.pid);
        }
        Ok(())
    }

    /// Says which processes were not looked at when the capture was told to end. Returns the reason for [`Targets::finish`].
    #[must_use]
    pub fn cut(&mut self, not_reached: &[u32], stop: &Stop) -> String {
        let mut pids = Pids::default();
        for pid in not_reached {
            pids.add(*pid);
        }
        if pids.count == 0 {
            return format!("the capture ended with its last row: {stop}");
        }
        self.table.fact("not_reached", pids.shown());
        format!("{} processes were not looked at (fact not_reached): {stop}", pids.count)
    }

    /// Puts the table. `cut` is the status and reason when the capture was told to end.
    ///
    /// # Errors
    /// [`Stop`] from the output.
    pub fn finish(mut self, out: &mut dyn Output, cut: Option<(Status, String)>) -> Result<(), Stop> {
        let count: u64 = self.without_row.values().map(|pids| pids.count).sum();
        if count == 0 {
            return self.table.finish(out, cut).map(drop);
        }
        let shown: Vec<String> = self.without_row.iter().map(|(result, pids)| format!("{result}: {}", pids.shown())).collect();
        self.table.fact("without_row", shown.join("; "));
        let why = format!("{count} processes that were not taken have no row: the limit of raw bytes has no room (fact without_row)");
        let (status, reason) = match cut {
            Some((status, reason)) => (status, format!("{reason}; {why}")),
            None => (Status::Partial, why),
        };
        self.table.finish(out, Some((status, reason))).map(drop)
    }
}

/// Numbers of processes, in the order in which they came.
#[derive(Debug, Default)]
struct Pids {
    /// First and last.
    ranges: Vec<(u32, u32)>,
    count: u64,
    /// Of them, those behind the last range.
    more: u64,
}

impl Pids {
    fn add(&mut self, pid: u32) {
        self.count = self.count.saturating_add(1);
        if self.more > 0 {
            self.more = self.more.saturating_add(1);
            return;
        }
        let follows = self.ranges.last().is_some_and(|(_, last)| last.checked_add(1) == Some(pid));
        if follows && let Some((_, last)) = self.ranges.last_mut() {
            *last = pid;
        } else if self.ranges.len() < RANGES_MAX {
            self.ranges.push((pid, pid));
        } else {
            self.more = 1;
        }
    }

    fn shown(&self) -> String {
        let one = |(first, last): &(u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
        let shown = self.ranges.iter().map(one).collect::<Vec<_>>().join(", ");
        if self.more == 0 { shown } else { format!("{shown} and {} more", self.more) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::{Content, NewItem};

    /// An output with room for so many bytes of tables.
    struct Full {
        left: u64,
        puts: Vec<(NewItem, Vec<u8>)>,
    }

    impl Output for Full {
        fn put(&mut self, item: NewItem, content: Content<'_>) -> Result<Status, Stop> {
            let Content::Bytes(bytes) = content else { panic!("a table is in memory") };
            let status = item.status;
            self.puts.push((item, bytes.to_vec()));
            Ok(status)
        }

        fn checkpoint(&mut self) -> Result<(), Stop> {
            Ok(())
        }

        fn note(&mut self, _current: &str) {}

        fn now(&self) -> Moment {
            crate::clock::now()
        }

        fn keep_room(&mut self, bytes: u64) -> bool {
            let fits = bytes <= self.left;
            self.left -= if fits { bytes } else { 0 };
            fits
        }

        fn ran(&mut self, _command: String) {}
    }

    fn row(pid: u32, core: bool) -> TargetRow {
        let core = core.then(|| format!("/proc/{pid}/core"));
        let result = if core.is_some() { "taken" } else { "not taken: see its item" };
        TargetRow { pid, name: Lossless(b"x".to_vec()), by: Some("all"), result, core, stopped_us: None, stood: None }
    }

    /// A group may have any number of processes.
    #[test]
    fn rows_that_wait_for_their_group_are_bounded_and_the_others_say_where_its_time_is() {
        let mut standing = Standing::default();
        let back: Vec<TargetRow> = (0..STANDING_MAX as u32 + 2).filter_map(|pid| standing.keep(0, row(pid, true))).collect();
        assert_eq!(back.iter().map(|row| row.pid).collect::<Vec<_>>(), [STANDING_MAX as u32, STANDING_MAX as u32 + 1]);
        let told = serde_json::to_value(&back[0]).expect("a row");
        assert!(told["stood"].as_str().is_some_and(|s| s.contains("fact frozen")) && told.get("stopped_us").is_none(), "{told}");
        let kept = standing.into_rows();
        assert!(kept.len() == STANDING_MAX && kept.iter().all(|(_, row)| row.stood.is_none()));
    }

    #[test]
    fn without_room_the_numbers_of_those_that_were_left_out_are_there() {
        let mut out = Full { left: 200, puts: Vec::new() };
        let mut targets = Targets::new(out.now());
        targets.row(&mut out, &row(1, true)).expect("put");
        for pid in (2..2_000).chain([3_000, 3_002]) {
            targets.row(&mut out, &row(pid, false)).expect("put");
        }
        targets.finish(&mut out, None).expect("put");
        let (item, bytes) = &out.puts[0];
        let rows = bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()).count() as u32;
        assert!(rows > 1 && bytes.len() <= 200, "{rows}");
        assert_eq!(item.status, Status::Partial);
        let first = rows + 1;
        assert_eq!(item.facts["without_row"], format!("not taken: see its item: {first}-1999, 3000, 3002"));
        let reason = item.reason.as_deref().expect("a reason");
        assert!(reason.starts_with(&format!("{} processes", 2_001 - rows)), "{reason}");
    }

    #[test]
    fn numbers_are_bounded_and_counted() {
        let mut pids = Pids::default();
        (0..1_000).for_each(|n| pids.add(n * 2));
        let shown = pids.shown();
        assert!(shown.starts_with("0, 2, 4, ") && shown.ends_with(", 118 and 940 more"), "{shown}");
    }
}
