//! The file that keeps what each run found.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use exhibit_evidence::Timestamp;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::verify::Code;
use rustix::fs::FlockOperation;

use super::case_by_case::CATALOGUED;
use super::work::GONE;
use super::{CaseResult, Depth};

/// Where results are kept, one JSON line each: `{"run": ..., "depth": ...}` begins a run or goes on with it, `{"done": true}`
/// ends it, and between them stands one line for each case. Of each depth the last run that has no end is gone on with.
pub const RESULTS: &str = "store-verify.jsonl";

/// A run, and what was found before.
pub(super) struct Results {
    file: File,
    /// When the run began.
    pub begun: Timestamp,
    /// Cases that this run verified before it was interrupted.
    pub done: BTreeSet<String>,
    /// All of those were sound.
    pub sound: bool,
    /// Items of those whose contents were not decoded.
    pub unchecked: u64,
    /// Cases of which a run of any depth read an object.
    pub seen: BTreeSet<String>,
}

struct Run {
    begun: Timestamp,
    done: BTreeSet<String>,
    sound: bool,
    unchecked: u64,
}

impl Run {
    const fn new(begun: Timestamp) -> Self {
        Self { begun, done: BTreeSet::new(), sound: true, unchecked: 0 }
    }
}

impl Results {
    /// Goes on with the run of this depth that began at `begun`, or else with the last one that has no end, and begins one otherwise.
    pub fn open(path: &Path, depth: Depth, begun: Option<Timestamp>, now: Timestamp) -> Result<Self, String> {
        let shown = escape_bounded(&path.to_string_lossy(), 200);
        let fail = |e: io::Error| format!("cannot keep the result in {shown}: {e}");
        let file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path).map_err(fail)?;
        // The lines of two runs at once could not be told apart.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            format!("another 'store verify', or the coordinator's own ([verify]), is writing to {shown}: wait until it has ended")
        })?;
        let depth = format!("{depth:?}");
        let (mut unended, seen) = read(&file).map_err(fail)?;
        let unended = unended.remove(&depth).filter(|run| begun.is_none_or(|begun| run.begun == begun));
        let Run { begun, done, sound, unchecked } = unended.unwrap_or_else(|| Run::new(begun.unwrap_or(now)));
        let mut found = Self { file, begun, done, sound, unchecked, seen };
        found.line(&serde_json::json!({ "run": begun, "depth": depth }))?;
        Ok(found)
    }

    /// Adds a line, synced.
    pub fn line(&mut self, value: &serde_json::Value) -> Result<(), String> {
        // A newline first: what a crash cut before must not swallow this line.
        let written = self.file.write_all(format!("\n{value}\n").as_bytes()).and_then(|()| self.file.sync_all());
        written.map_err(|e| format!("cannot keep the result: {e}"))
    }
}

/// Whether a line says that something of its case was in the store once, or that the catalog had it: not one of a folder in which nothing
/// ever was, as a full disk left it, nor one that only repeats what an earlier run took such a folder for.
fn was_there(case: &CaseResult) -> bool {
    if case.gone {
        return case.findings.iter().any(|f| f.strip_prefix(GONE).is_some_and(|why| why.starts_with(CATALOGUED)));
    }
    case.objects.map_or_else(|| !is_folder_alone(case), |objects| objects > 0)
}

/// What earlier versions wrote of a folder without an object: neither a head nor a record, and nothing else that does not hold.
fn is_folder_alone(case: &CaseResult) -> bool {
    let codes = [Code::LogCheckpointMissing.as_str(), Code::CaseNotOpened.as_str()];
    let is_of = |finding: &String, code: &str| finding.split(' ').next() == Some(code);
    case.segments == 0
        && case.bytes == 0
        && case.more == 0
        && case.notes.is_empty()
        && case.findings.len() == codes.len()
        && codes.iter().all(|code| case.findings.iter().any(|finding| is_of(finding, code)))
}

/// The runs that have no end, by depth, and every case of which something was read.
fn read(file: &File) -> io::Result<(BTreeMap<String, Run>, BTreeSet<String>)> {
    let (mut unended, mut seen) = (BTreeMap::<String, Run>::new(), BTreeSet::new());
    let mut current = String::new();
    for line in BufReader::new(file).lines() {
        // A line that a crash cut is no result.
        let Ok(line) = serde_json::from_str::<serde_json::Value>(&line?) else { continue };
        if let Some(begun) = line.get("run").and_then(|r| r.as_str()).and_then(|r| r.parse().ok()) {
            line.get("depth").and_then(|d| d.as_str()).unwrap_or_default().clone_into(&mut current);
            if unended.get(&current).is_none_or(|run| run.begun != begun) {
                unended.insert(current.clone(), Run::new(begun));
            }
        } else if line.get("done").is_some() {
            unended.remove(&current);
        } else if let Ok(case) = serde_json::from_value::<CaseResult>(line) {
            if case.case.parse::<CaseId>().is_ok() {
                if was_there(&case) {
                    seen.insert(case.case.clone());
                } else if !seen.contains(&case.case) {
                    // There never was such a case, so nothing is claimed of it any more.
                    continue;
                }
            }
            if let Some(run) = unended.get_mut(&current) {
                run.sound &= case.sound;
                run.unchecked = run.unchecked.saturating_add(case.items_unchecked);
                run.done.insert(case.case);
            }
        }
    }
    Ok((unended, seen))
}
