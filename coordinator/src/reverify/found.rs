//! What was found of one case, as it is taken down: what does not hold, and what is worth knowing.

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::verify;

use super::{CaseResult, DEPLOYMENT};
use crate::ledger::{self, LedgerError, Look};
use crate::store::{Store, StoreError};

/// Findings that are kept of a case, of 400 characters each; the rest is counted.
const FINDINGS_MAX: usize = 200;

impl CaseResult {
    pub(super) const fn new(case: String, at: Timestamp) -> Self {
        Self {
            case,
            at,
            sound: true,
            segments: 0,
            bytes: 0,
            objects: None,
            findings: Vec::new(),
            more: 0,
            items_unchecked: 0,
            gone: false,
            put_back: false,
            notes: Vec::new(),
            news: Vec::new(),
        }
    }

    /// The log that it is about; none of what is no case.
    pub(super) fn log(&self) -> Option<LogName> {
        if self.case == DEPLOYMENT { Some(LogName::Deployment) } else { self.case.parse().ok().map(LogName::Case) }
    }

    /// What the verifier found.
    pub(super) fn take(&mut self, report: &verify::Report, tiles: &str, has_tiles: bool) {
        (self.segments, self.bytes) = (report.counts.segments, report.counts.stored_bytes);
        self.items_unchecked = report.counts.items_unchecked;
        let serious = report.findings.kept().iter().filter(|f| f.severity != verify::Severity::Note);
        self.more = serious.clone().skip(FINDINGS_MAX).count() as u64;
        self.findings =
            serious.take(FINDINGS_MAX).map(|f| escape_bounded(&format!("{} {}: {}", f.code.as_str(), f.object, f.message), 400)).collect();
        self.sound = report.verdict.is_sound();
        self.take_notes(&report.findings);
        if report.checkpoint.is_some() && !has_tiles {
            self.note(format!("{} {tiles}: none of the tiles that the checkpoint needs is there", verify::Code::LogTileMissing.as_str()));
        }
        if report.counts.requests_unanswered > 0 {
            let requests = report.counts.requests_unanswered;
            self.note(format!(
                "{requests} requests for timestamps lie there that no authority answered; 'timestamp-failed' records say so"
            ));
        }
        self.take_put_back(report);
    }

    pub(super) fn take_put_back(&mut self, report: &verify::Report) {
        // A log that is damaged as well is told as that.
        let put_back = |f: &verify::Finding| f.code == verify::Code::LogExpected && f.follows_from.is_none();
        if report.findings.kept().iter().any(put_back) {
            self.put_back = true;
            self.fail(
                "the catalog knows of a longer log, or of another one: this one was put back to an older state (docs/operations/stores.md)"
                    .to_owned(),
            );
        }
    }

    /// What whoever opens the log would tell. What it does not go on past does not hold.
    pub(super) fn take_news(&mut self, look: &Look) {
        for wrong in look.contradictions() {
            self.fail(format!("{}: {wrong}", ledger::HEAD));
        }
        self.news.clone_from(&look.news);
    }

    /// Why nobody could open the log: no better than what the verifier says of it, if that found anything.
    pub(super) fn take_refusal(&mut self, e: &LedgerError) {
        if e.kind() != ledger::Kind::Damaged {
            self.note(format!("which versions of its log are the genuine ones could not be looked at: {e}"));
        } else if self.sound {
            self.fail(format!("{}: {e}", ledger::DAMAGED));
        }
    }

    /// Names below a folder that nothing of ours ever has.
    pub(super) fn fail_foreign(&mut self, store: &dyn Store, folder: &str) {
        for stranger in store.foreign(folder) {
            let shown = escape_bounded(&stranger, 200);
            self.fail(format!(
                "'{shown}': nothing of ours ever has such a name; find out who wrote it (docs/operations/stores.md, store-foreign)"
            ));
        }
    }

    /// What nobody else would say of a store: tiles that are gone, which whoever opens the log makes again, and what lies in its timestamps.
    fn take_notes(&mut self, findings: &verify::Findings) {
        let told = [verify::Code::LogTileMissing, verify::Code::TimestampUnrecorded, verify::Code::TimestampCertificates];
        let notes = findings.kept().iter().filter(|f| told.contains(&f.code));
        let shown = |f: &verify::Finding| escape_bounded(&format!("{} {}: {}", f.code.as_str(), f.object, f.message), 400);
        self.notes = notes.take(FINDINGS_MAX).map(shown).collect();
    }

    /// What was read of an object; `None` when it cannot be read, which is a finding. Only a store that is disturbed, or
    /// that does not hear whoever asks, says nothing about the object.
    pub(super) fn read(&mut self, read: Result<Bytes, StoreError>) -> Result<Option<Bytes>, StoreError> {
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.says_nothing() => Err(e),
            Err(e) => {
                self.fail(e.to_string());
                Ok(None)
            }
        }
    }

    pub(super) fn note(&mut self, what: String) {
        if self.notes.len() < FINDINGS_MAX {
            self.notes.push(escape_bounded(&what, 400));
        }
    }

    pub(super) fn fail(&mut self, what: String) {
        self.sound = false;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(escape_bounded(&what, 400));
        } else {
            self.more = self.more.saturating_add(1);
        }
    }
}
