//! Reading evidence: first the access is recorded in the case's log, then a byte is served. What is served is checked
//! again on its way: the manifest against its receipt, each item against its digest.

mod export;
mod items;
mod lines;
mod paths;

use std::collections::BTreeMap;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{self, Access, Action};
use exhibit_evidence::text::escape_bounded;

use crate::catalog::{CollectionRow, StreamRow, StreamState};
use crate::clock;
use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

pub use export::{ExportRequest, Exported, Foreign, export_case};
pub use items::{Begins, Served, read_items};
pub use lines::{Filter, ListedItem, list_items};

/// Entries of one access record, so that it fits into a log entry: 1,000 item ids of 45 bytes, as base64.
const WHAT_MAX: usize = 700;

/// Somebody who reads evidence: the person whom access records name, and the key whose rights allow it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// SPIFFE-style URI.
    pub name: String,
    /// The evidence key that the person's certificate names.
    pub key: KeyId,
}

/// Records in each case's log that somebody is about to see something of it. Order:
///
/// 1. the enrolments of the reader's key into the case's log, so that the verifier sees by what right; those of other keys of the
///    same name give nothing here and stay out
/// 2. the access records
/// 3. a checkpoint over them is published - only when this has returned may the first byte be served
///
/// Dropped anywhere: nothing was served, and at most an access is recorded that did not happen.
///
/// # Errors
/// [`Problem`]: then nothing may be served.
pub async fn record_access(
    parts: &Parts,
    Reader { name: by, key }: &Reader,
    action: Action,
    reason: &str,
    what: BTreeMap<CaseId, Vec<String>>,
) -> Result<()> {
    for (case, names) in what {
        parts.ledgers.ensure_enrolled(&case, &[*key]).await?;
        let ledger = parts.ledgers.case(&case).await?;
        let opened = ledger.case_opened().ok_or_else(|| Problem::new(Kind::Damaged, format!("the log of {case} does not open it")))?;
        let mut records = Vec::new();
        for chunk in names.chunks(WHAT_MAX) {
            let access = Access {
                case: case.clone(),
                predecessor: opened.digest,
                by: by.clone(),
                action,
                what: chunk.to_vec(),
                reason: reason.to_owned(),
                at: clock::now(),
            };
            let signed = record::sign(&access, parts.ledgers.log_key())
                .map_err(|e| Problem::from(LedgerError::new(ledger::Kind::Bug, format!("access record: {e}"))))?;
            records.push(signed);
        }
        let count = names.len();
        let key = *key;
        ledger
            .append_built(move |view| {
                // Revoked since the call was let in: the record would say that somebody without a right was shown evidence.
                if view.key_ring().is_revoked(key) {
                    return Err(LedgerError::new(ledger::Kind::Refused, format!("key {key} was revoked: nothing is shown with it")));
                }
                Ok(records.clone())
            })
            .await?;
        tracing::info!(%case, by = %escape_bounded(by, 200), %action, count, "access recorded");
    }
    Ok(())
}

/// The streams of a collection that hold something, in order, each with the exhibit number of its first item (zero
/// before sealing).
async fn streams_of(parts: &Parts, row: &CollectionRow) -> Result<Vec<(StreamRow, u64)>> {
    let mut next = if row.state.is_closed() { row.exhibit_first } else { 0 };
    let (mut out, mut found) = (Vec::new(), 0_u64);
    for stream in parts.catalog.streams(row.collection.clone()).await? {
        if stream.state == StreamState::Void {
            continue;
        }
        let items = stream.manifest.as_ref().map_or(stream.totals.items, |m| m.items);
        found = found.saturating_add(items);
        let first = next;
        if next > 0 {
            next = next.saturating_add(items);
        }
        out.push((stream, first));
    }
    // The seal counted them. Fewer would pass for a collection that never had them.
    if row.state.is_closed() && found < row.exhibit_count {
        let (id, count) = (&row.collection, row.exhibit_count);
        return Err(damaged(format!(
            "{id} was sealed with {count} items, and the catalog has the streams of {found}: run 'exhibit-coordinator reindex', which says \
             what is wrong with the others"
        )));
    }
    Ok(out)
}

/// A problem with what is stored, in words for whoever reads.
fn damaged(what: impl Into<String>) -> Problem {
    Problem::new(Kind::Damaged, format!("{}; do not use this copy, run exhibit-verify on the case", what.into()))
}
