//! What was found in all, as it is shown to people.

use std::fmt::Write as _;

use exhibit_evidence::text::escape_bounded;

use super::{CaseResult, Report};
use crate::several;

/// Findings of a case that are shown on a terminal.
const SHOWN_MAX: usize = 20;

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let (segments, bytes) =
            self.cases.iter().fold((0_u64, 0_u64), |(s, b), c| (s.saturating_add(c.segments), b.saturating_add(c.bytes)));
        let (gone, there): (Vec<&CaseResult>, Vec<_>) = self.cases.iter().filter(|c| c.log().is_some()).partition(|c| c.gone);
        let mut out = format!(
            "{}, {}, {} read from the store",
            several::count(there.len() as u64, "case"),
            several::count(segments, "segment"),
            several::count(bytes, "byte")
        );
        if !gone.is_empty() {
            let _ = write!(out, "; {} gone", several::count(gone.len() as u64, "case"));
        }
        let _ = writeln!(
            out,
            "{}",
            if self.resumed > 0 {
                format!("; {} of the interrupted run that began at {} counted", several::count(self.resumed, "case"), self.begun)
            } else {
                String::new()
            }
        );
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        for case in self.cases.iter().chain(&self.deployment).filter(|c| !c.sound) {
            let _ = writeln!(out, "{}: NOT SOUND", escape_bounded(&case.case, 100));
            for finding in case.findings.iter().take(SHOWN_MAX) {
                let _ = writeln!(out, "  - {finding}");
            }
            let left = case.more.saturating_add(case.findings.len().saturating_sub(SHOWN_MAX) as u64);
            if left > 0 {
                let what = if case.more == 0 { "all" } else { "more" };
                let _ = writeln!(out, "  - and {left} more (--json has {what})");
            }
        }
        for case in self.cases.iter().chain(&self.deployment).filter(|c| !c.notes.is_empty()) {
            let _ = writeln!(out, "{}: worth knowing", escape_bounded(&case.case, 100));
            for note in &case.notes {
                let _ = writeln!(out, "  - {note}");
            }
        }
        if self.answered > 0 {
            let _ = writeln!(
                out,
                "{} of the notes name what in the store is not ours; it was passed over (docs/operations/stores.md).",
                self.answered
            );
        }
        if self.deployment.as_ref().is_some_and(|log| !log.sound) {
            out.push_str(
                "The deployment's own log does not hold: copy the folder 'deployment', then run exhibit-verify --deployment on the copy.\n",
            );
        }
        out.push_str(if self.sound {
            "Everything that was read is sound.\n"
        } else {
            "Copy these cases before anything else, then run exhibit-verify on the copies: it says whose each finding is.\n"
        });
        out
    }
}
