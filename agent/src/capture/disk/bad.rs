//! What of a device could not be read, sector by sector: kept in memory that is bounded, put as an item beside the content.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Most ranges that are kept: 8,192 x 24 bytes, about 1 MiB as rows. Errors beyond are counted.
pub const RANGES_MAX: usize = 8_192;
/// With more ranges than this a later process does not go on in the middle of the device: the list would not fit into the
/// bookmark.
const KEPT_BY_PLACE_MAX: usize = 2_000;

/// Neighbouring sectors that failed alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Range {
    /// First byte, and bytes.
    at: u64,
    length: u64,
    /// The kernel's error number; 0 when it had none.
    errno: i32,
    /// How often each sector was tried.
    tries: u32,
}

/// The list of one device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BadSectors {
    ranges: Arc<Vec<Range>>,
    /// Bytes in all, those beyond the list too.
    bytes: u64,
    /// Bytes that are not in the list.
    beyond: u64,
    /// The last bytes that failed in a row: from and to.
    run: (u64, u64),
    /// Sectors that failed at first and could be read when they were tried again.
    recovered: u64,
}

#[derive(Serialize)]
struct Row<'a> {
    first_lba: u64,
    last_lba: u64,
    sectors: u64,
    sector_bytes: u64,
    offset: u64,
    length: u64,
    errno: i32,
    error: &'a str,
    tries: u32,
}

impl BadSectors {
    /// Adds a sector (or what of one there is) that failed every time.
    pub fn add(&mut self, at: u64, length: u64, error: &std::io::Error, tries: u32) {
        let errno = error.raw_os_error().unwrap_or(0);
        self.bytes = self.bytes.saturating_add(length);
        let end = at.saturating_add(length);
        self.run = if self.run.1 == at { (self.run.0, end) } else { (at, end) };
        let ranges = Arc::make_mut(&mut self.ranges);
        let room = ranges.len() < RANGES_MAX;
        match ranges.last_mut() {
            Some(last) if last.at.saturating_add(last.length) == at && (last.errno, last.tries) == (errno, tries) => {
                last.length = last.length.saturating_add(length);
            }
            _ if room => ranges.push(Range { at, length, errno, tries }),
            _ => self.beyond = self.beyond.saturating_add(length),
        }
    }

    /// Counts a sector that could be read in the end.
    pub fn recovered(&mut self) {
        self.recovered = self.recovered.saturating_add(1);
    }

    /// Bytes that could not be read.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Bytes that failed in a row up to here.
    #[must_use]
    pub const fn run_to(&self, at: u64) -> u64 {
        if self.run.1 == at { at.saturating_sub(self.run.0) } else { 0 }
    }

    /// The error with which the sector at an offset failed, if it was the last that did.
    #[must_use]
    pub fn failed_last(&self, at: u64) -> Option<std::io::Error> {
        let last = self.ranges.last().filter(|_| (self.run.0..self.run.1).contains(&at))?;
        Some(std::io::Error::from_raw_os_error(last.errno))
    }

    /// True when nothing ever failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0 && self.recovered == 0
    }

    /// True when it is short enough to travel in a bookmark.
    #[must_use]
    pub fn fits_place(&self) -> bool {
        self.ranges.len() <= KEPT_BY_PLACE_MAX
    }

    /// In one sentence, for the fact.
    #[must_use]
    pub fn summary(&self) -> String {
        let bad = format!("{} bytes in {} ranges could not be read", self.bytes, self.ranges.len());
        if self.recovered > 0 { format!("{bad}; {} sectors were read when tried again", self.recovered) } else { bad }
    }

    /// What is not in the list, if anything is not.
    #[must_use]
    pub fn cut(&self) -> Option<String> {
        (self.beyond > 0).then(|| {
            format!("the list holds {RANGES_MAX} ranges, the most that are kept; {} further bytes could not be read either", self.beyond)
        })
    }

    /// The rows of the item, one JSON object a line.
    #[must_use]
    pub fn rows(&self, sector: u64) -> Vec<u8> {
        let sector = sector.max(1);
        let mut out = Vec::new();
        for range in self.ranges.iter() {
            let end = range.at.saturating_add(range.length);
            let error =
                if range.errno == 0 { "the reader failed".to_owned() } else { std::io::Error::from_raw_os_error(range.errno).to_string() };
            let first = range.at / sector;
            let last = end.saturating_sub(1) / sector;
            let row = Row {
                first_lba: first,
                last_lba: last,
                sectors: last.saturating_sub(first).saturating_add(1),
                sector_bytes: sector,
                offset: range.at,
                length: range.length,
                errno: range.errno,
                error: &error,
                tries: range.tries,
            };
            if serde_json::to_writer(&mut out, &row).is_ok() {
                out.push(b'\n');
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_one_range_and_the_list_is_bounded() {
        let eio = std::io::Error::from_raw_os_error(5);
        let mut bad = BadSectors::default();
        for lba in [7_u64, 8, 9, 20] {
            bad.add(lba * 512, 512, &eio, 2);
        }
        bad.add(21 * 512, 512, &std::io::Error::from_raw_os_error(61), 2);
        assert_eq!((bad.bytes(), bad.run_to(22 * 512), bad.run_to(0)), (5 * 512, 1024, 0));
        let rows = String::from_utf8(bad.rows(512)).expect("text");
        let rows: Vec<serde_json::Value> = rows.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
        assert_eq!((rows.len(), rows[0]["first_lba"].as_u64(), rows[0]["last_lba"].as_u64()), (3, Some(7), Some(9)));
        assert_eq!((rows[1]["sectors"].as_u64(), rows[2]["errno"].as_i64()), (Some(1), Some(61)));
        assert!(bad.cut().is_none() && bad.fits_place());
        for lba in 0..RANGES_MAX as u64 + 10 {
            bad.add(1_000_000 + lba * 1024, 512, &eio, 1);
        }
        assert_eq!(bad.rows(512).split(|b| *b == b'\n').count() - 1, RANGES_MAX);
        assert!(bad.cut().is_some_and(|c| c.contains(&format!("{} further bytes", 13 * 512))) && !bad.fits_place());
    }
}
