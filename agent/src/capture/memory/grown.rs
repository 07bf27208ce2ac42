//! Memory that was plugged in or removed while a capture ran: `/proc/iomem` is read again, and the kernel is asked to look.

use serde::Serialize;

use super::iomem::Iomem;
use super::physical::Physical;
use super::ranges::{Range, total, without};
use crate::capture::live::{LARGE_BYTES_MAX, put_read, read, refusal};
use crate::capture::{Output, Stop, evidence_path};

/// The record `ram-changes.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// System RAM that was not there at the beginning: `[first, end)`, decimal. It is in `added.lime`.
    added: Vec<[u64; 2]>,
    added_bytes: u64,
    /// System RAM that is not there any more. What of it was read before is in the images.
    removed: Vec<[u64; 2]>,
    removed_bytes: u64,
    /// How often the source's table of memory was found changed.
    source_changes: u64,
    /// Why the ranges are not known, if they are not.
    problem: Option<String>,
}

/// Looks what changed since `/proc/iomem` listed `ram`, records it, and gives what was added. A list that differs is put as
/// `iomem-after.txt`.
///
/// # Errors
/// [`Stop`] from the output.
pub fn look(out: &mut dyn Output, physical: &dyn Physical, ram: &[Range]) -> Result<Vec<Range>, Stop> {
    let started = out.now();
    physical.refresh();
    let now = read("/proc/iomem", LARGE_BYTES_MAX);
    let list = now.as_ref().map(Iomem::of).map_err(|e| refusal(*e).1);
    let (report, added) = compare(ram, list, physical.changes());
    super::put_json(out, "ram-changes.json", &report, started, "read:/proc/iomem")?;
    if report.problem.is_some() || total(&added) > 0 || report.removed_bytes > 0 {
        put_read(out, evidence_path("iomem-after.txt"), &now, started, std::collections::BTreeMap::new())?;
    }
    Ok(added)
}

fn compare(ram: &[Range], now: Result<Iomem, String>, source_changes: u64) -> (Report, Vec<Range>) {
    let (now, problem) = match now {
        Err(why) => (ram.to_vec(), Some(format!("/proc/iomem could not be read again: {why}"))),
        Ok(now) if now.cut.is_some() || now.hidden || now.bad_lines > 0 => {
            let why = now.problems().join(" | ");
            (now.ram, Some(why))
        }
        Ok(now) => (now.ram, None),
    };
    let (added, removed) = (without(&now, ram), without(ram, &now));
    let pairs = |ranges: &[Range]| ranges.iter().map(|r| [r.start, r.end]).collect();
    let report = Report {
        added: pairs(&added),
        added_bytes: total(&added),
        removed: pairs(&removed),
        removed_bytes: total(&removed),
        source_changes,
        problem,
    };
    (report, added)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_went_is_named() {
        let range = |start: u64, end: u64| Range { start, end };
        let ram = [range(0, 100), range(200, 300)];
        let now = Iomem { ram: vec![range(0, 50), range(200, 300), range(400, 450)], ..Iomem::default() };
        let (report, added) = compare(&ram, Ok(now), 2);
        assert_eq!((&report.added, &report.removed, &added), (&vec![[400, 450]], &vec![[50, 100]], &vec![range(400, 450)]));
        assert_eq!((report.added_bytes, report.removed_bytes, report.source_changes, report.problem), (50, 50, 2, None));
        let (report, added) = compare(&ram, Err("gone".to_owned()), 0);
        assert!(added.is_empty() && report.removed.is_empty() && report.problem.is_some_and(|p| p.contains("gone")));
        let hidden = Iomem { hidden: true, ..Iomem::default() };
        assert!(compare(&ram, Ok(hidden), 0).0.problem.is_some());
    }
}
