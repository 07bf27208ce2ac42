//! Opening and closing cases.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::record::{CaseClosed, CaseOpened, Record};
use exhibit_evidence::text::{escape_bounded, written};

use super::admit::{TWO_PERSON_REMEDY, not_signed, require_case};
use super::bounds::CLOCK_AHEAD_S_MAX;
use super::orders::{self, Settling};
use super::recover;
use crate::catalog::{CaseRow, CatalogError};
use crate::clock;
use crate::ledger::{self, LedgerError, View};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// Orders that are named to whoever closes a case too early.
const NAMED_MAX: usize = 5;
/// Longest text of a case's fields.
const TEXT_BYTES_MAX: usize = 1_024;
/// A case that the catalog did not take is given to it again after this.
const GIVE_AGAIN: Duration = Duration::from_secs(5);

/// Cases that are given to the catalog again. Memory only: a start looks for such cases in the store.
#[derive(Debug, Default)]
pub struct Untaken(Mutex<BTreeSet<CaseId>>);

impl Untaken {
    /// False when it is done already, for an earlier try of the same record.
    fn begin(&self, case: &CaseId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(case.clone())
    }

    fn end(&self, case: &CaseId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(case);
    }
}

/// Opens a case.
///
/// Order of writes: (1) log key's and responder's enrolments and the record into the case's new log; (2) the catalog.
/// Died between: recovery at the next start does 2 ([`super::cases_without_rows`]), as does the responder's repeat of the same record. Where
/// the catalog does not take it, it is given to it again until it does, and the caller hears that what became of it is not known.
///
/// # Errors
/// [`Problem`]
pub async fn open(parts: &Arc<Parts>, caller: &str, envelope: &Envelope) -> Result<CaseRow> {
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| not_signed("case_opened: ", &ring, (caller, envelope), &e))?;
    let Record::CaseOpened(opened) = verified.record() else {
        return Err(Problem::invalid(format!("case_opened: a record of type {} opens no case", verified.record().type_name())));
    };
    check_opened(caller, opened, parts.issuing.rules.two_person)?;
    if let Some(known) = parts.catalog.case(opened.case.clone()).await? {
        if known.case_opened == envelope.digest() {
            return Ok(known);
        }
        return Err(Problem::new(Kind::Conflict, format!("case_opened: {} was already opened by another record", opened.case)));
    }
    let log_key = parts.ledgers.log_key().public().id();
    parts.ledgers.ensure_enrolled(&opened.case, &[log_key, envelope.keyid()]).await?;
    let ledger = parts.ledgers.case(&opened.case).await?;
    let written = ledger.append(vec![envelope.clone()]).await;
    let not_known = format!(
        "case_opened: it is not known whether {0} was opened: its record may be in its log, and then the coordinator's next start opens it. \
         Look before another one is opened, also after what failed was mended: exhibit case show {0}",
        opened.case
    );
    orders::written(&ledger, &envelope.digest(), written, &not_known).await?;
    let row = row_of(opened, envelope);
    if let Err(error) = parts.catalog.add_case(row.clone()).await {
        tracing::error!(case = %row.case, %error, "a case is open in its log, and the catalog did not take it; it is given to it again");
        if !matches!(error, CatalogError::Conflict(_)) && parts.untaken.begin(&row.case) {
            tokio::spawn(give_again(Arc::downgrade(parts), row.clone()));
        }
        let what = format!("case_opened: the record that opens {} is in its log, and the catalog does not take it yet", row.case);
        return Err(Problem::from(error).unfinished(&what));
    }
    tracing::info!(case = %row.case, by = %escape_bounded(caller, 200), "case opened");
    Ok(row)
}

/// What the catalog has of a case that was opened by this record.
pub(super) fn row_of(opened: &CaseOpened, envelope: &Envelope) -> CaseRow {
    CaseRow {
        case: opened.case.clone(),
        title: opened.title.clone(),
        legal_basis: opened.legal_basis.clone(),
        accountable: opened.accountable.clone(),
        opened_by: opened.opened_by.clone(),
        opened_at: opened.opened_at,
        case_opened: envelope.digest(),
        case_closed: None,
    }
}

/// Gives a case to the catalog until it takes it, or until this coordinator ends: the next start looks for such cases in the store.
async fn give_again(parts: Weak<Parts>, row: CaseRow) {
    loop {
        tokio::time::sleep(GIVE_AGAIN).await;
        let Some(parts) = parts.upgrade() else { return };
        match parts.catalog.add_case(row.clone()).await {
            Ok(()) => tracing::warn!(case = %row.case, "the catalog has a case now that it had not taken when it was opened"),
            Err(CatalogError::Conflict(error)) => {
                tracing::error!(case = %row.case, %error, "the catalog has another case under this name");
            }
            Err(error) => {
                tracing::debug!(case = %row.case, %error, "the catalog does not take a case yet");
                continue;
            }
        }
        parts.untaken.end(&row.case);
        return;
    }
}

fn check_opened(caller: &str, opened: &CaseOpened, two_person: bool) -> Result<()> {
    if opened.opened_by != caller {
        return Err(Problem::new(
            Kind::Denied,
            format!("case_opened: signed by {}, sent by {caller}", escape_bounded(&opened.opened_by, 200)),
        ));
    }
    for (field, text) in [("title", &opened.title), ("legal_basis", &opened.legal_basis), ("accountable", &opened.accountable)] {
        written(text, TEXT_BYTES_MAX).map_err(|why| Problem::invalid(format!("{field}: {why}")))?;
    }
    if two_person && !opened.two_person {
        return Err(Problem::new(
            Kind::Denied,
            format!("two_person: this deployment wants two persons for every order: {TWO_PERSON_REMEDY}"),
        ));
    }
    let now = clock::now();
    if opened.opened_at > now.plus_s(CLOCK_AHEAD_S_MAX) {
        return Err(Problem::invalid(format!(
            "opened_at: {}: more than {CLOCK_AHEAD_S_MAX} s ahead of the coordinator's clock ({now}); set the clock of the machine that signed the record",
            opened.opened_at
        )));
    }
    Ok(())
}

/// Closes a case: no further order is accepted; what runs goes on. Refused while an order waits for an approval, which nobody can
/// give afterwards: whoever closes the case cancels it first, by name and with a reason, or has it approved.
///
/// Order of writes as in [`open`].
///
/// # Errors
/// [`Problem`]
pub async fn close(parts: &Arc<Parts>, caller: &str, envelope: &Envelope) -> Result<CaseRow> {
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| not_signed("case_closed: ", &ring, (caller, envelope), &e))?;
    let Record::CaseClosed(closed) = verified.record() else {
        return Err(Problem::invalid(format!("case_closed: a record of type {} closes no case", verified.record().type_name())));
    };
    let row = require_case(parts, &closed.case).await?;
    check_closed(caller, closed, &row)?;
    if row.case_closed.is_some() {
        return already_closed(&row, envelope);
    }
    parts.ledgers.ensure_enrolled(&closed.case, &[envelope.keyid()]).await?;
    let ledger = parts.ledgers.case(&closed.case).await?;
    let now = clock::now();
    nothing_waits(&ledger.view(), &closed.case, now)?;
    // Only the log's writer can tell whether another request came first.
    let (record, case) = (envelope.clone(), closed.case.clone());
    let settling = Settling::new(parts, &closed.case, envelope.digest(), false);
    let written = ledger
        .append_built(move |view| {
            if view.case_closed().is_some() {
                return Ok(Vec::new());
            }
            nothing_waits(view, &case, now).map_err(|p| LedgerError::new(ledger::Kind::Refused, p.to_string()))?;
            Ok(vec![record.clone()])
        })
        .await;
    let not_known = format!(
        "case_closed: it is not known whether {0} was closed: the record may be in its log, and then it is closed as soon as the coordinator \
         can. Look first, also after what failed was mended: exhibit case show {0}",
        closed.case
    );
    settling.written(&ledger, written, &not_known).await?;
    let standing = ledger.case_closed().map(|e| e.digest);
    let standing = standing.ok_or_else(|| Problem::new(Kind::Damaged, format!("the log of {} lacks its end", closed.case)))?;
    let not_taken = || format!("case_closed: the record that closes {} is in its log, and the catalog does not take it yet", closed.case);
    // An order that was written and told as not known may be before that end: once the catalog knows of the end no start looks for it.
    match recover::take_in_orders(parts, &ledger, &closed.case).await {
        Err(problem) if problem.kind() != Kind::Conflict => return Err(problem.unfinished(&not_taken())),
        Err(problem) => {
            tracing::error!(case = %row.case, %problem, "the catalog has another order under the name of one that is in the log");
        }
        Ok(_) => {}
    }
    parts.catalog.close_case(closed.case.clone(), standing).await.map_err(|e| Problem::from(e).unfinished(&not_taken()))?;
    if standing != envelope.digest() {
        return already_closed(&require_case(parts, &closed.case).await?, envelope);
    }
    tracing::info!(case = %row.case, by = %escape_bounded(caller, 200), "case closed");
    require_case(parts, &closed.case).await
}

fn nothing_waits(view: &View, case: &CaseId, now: Timestamp) -> Result<()> {
    let waiting = view.custody().orders_to_approve(now);
    if waiting.is_empty() {
        return Ok(());
    }
    let named: Vec<&str> = waiting.iter().take(NAMED_MAX).map(|(_, order)| order.as_str()).collect();
    let more = waiting.len().saturating_sub(named.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    Err(Problem::new(
        Kind::NotNow,
        format!(
            "case_closed: orders of {case} wait for an approval, which nobody can give once it is closed: {}{more}; cancel each \
             ('exhibit cancel --order ORDER --reason ...') or have it approved, then close the case",
            named.join(", ")
        ),
    ))
}

/// The answer to a request that came second: the same record again is success.
fn already_closed(row: &CaseRow, envelope: &Envelope) -> Result<CaseRow> {
    if row.case_closed == Some(envelope.digest()) {
        return Ok(row.clone());
    }
    Err(Problem::new(Kind::NotNow, format!("case_closed: {} is already closed", row.case)))
}

fn check_closed(caller: &str, closed: &CaseClosed, row: &CaseRow) -> Result<()> {
    if closed.closed_by != caller {
        return Err(Problem::new(
            Kind::Denied,
            format!("case_closed: signed by {}, sent by {caller}", escape_bounded(&closed.closed_by, 200)),
        ));
    }
    if closed.predecessor != row.case_opened {
        return Err(Problem::invalid(format!("predecessor: {} is not the case-opened record of {}", closed.predecessor, closed.case)));
    }
    written(&closed.reason, TEXT_BYTES_MAX).map_err(|why| Problem::invalid(format!("reason: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_case_is_given_to_the_catalog_by_one_however_often_its_opening_is_repeated() {
        let (untaken, case) = (Untaken::default(), CaseId::new(1, [7; 10]));
        assert!(untaken.begin(&case) && !untaken.begin(&case), "one");
        assert!(untaken.begin(&CaseId::new(2, [7; 10])), "another case");
        untaken.end(&case);
        assert!(untaken.begin(&case), "when it failed anew");
    }
}
