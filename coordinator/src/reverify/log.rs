//! A log by itself, judged as `store verify` judges it, for `reindex`: what the verifier says of its records, its head and its tiles.

use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::verify::{self, Severity};

use super::CaseResult;
use super::work::Work;
use crate::catalog::Published;
use crate::clock;
use crate::ledger::Ledgers;
use crate::pace::Pace;
use crate::store::StoreError;

/// What is wrong with a log; nothing of it where nothing is. To be asked before the log is opened, which mends what can be mended. `head` is
/// one that it must hold, `why` says why it must be there. Records that no head covers yet are what a coordinator leaves that died: they are
/// not among it.
///
/// # Errors
/// As the store is disturbed or refuses us.
pub(crate) async fn judge_log(
    ledgers: &Ledgers,
    log: LogName,
    head: Option<Published>,
    why: Option<&str>,
) -> Result<CaseResult, StoreError> {
    let work = Work {
        store: Arc::clone(ledgers.store()),
        log,
        keys: Arc::clone(ledgers.keys()),
        depth: None,
        pace: Pace::new(None),
        // Nothing is drawn.
        seed: Digest::of(b""),
        head,
    };
    Box::pin(work.case_result(why, clock::now)).await
}

impl CaseResult {
    /// What the verifier found of the log. What is wrong with a record keeps the log from being opened, and is told there.
    pub(super) fn take_log(&mut self, report: &verify::Report) {
        let is_of_log = |f: &&verify::Finding| f.severity == Severity::Error && f.code.as_str().starts_with("log.");
        for finding in report.findings.kept().iter().filter(is_of_log) {
            self.fail(format!("{} {}: {}", finding.code.as_str(), finding.object, finding.message));
        }
        self.take_put_back(report);
    }
}
