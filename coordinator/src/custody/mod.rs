//! What people decide about a case besides orders: holds, retention, transfer, disposal, and approvals. The rules are
//! `exhibit_evidence::custody`; here they are asked under the log's writer lock, and what an approval decides is carried out.
//!
//! There is no state besides the logs: a restart, or a catalog that was made again, changes nothing.

mod asker;
mod destroy;
pub(crate) mod raising;

use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::custody::{Breach, Fate, Rule};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Record, Role};
use exhibit_evidence::text::{escape_bounded, one_line};
use exhibit_evidence::{CaseId, Timestamp};

pub(crate) use asker::unapprovable;
pub use destroy::{Certified, Condemned, finish_due, recover};
pub(crate) use destroy::{Standstill, destroy_rest, standstill, wait_no_longer};

use crate::authz;
use crate::catalog::CollectionRow;
use crate::clock;
use crate::dispatch::orders::Settling;
use crate::dispatch::{self, admit};
use crate::ledger::{self, Ledger, LedgerError, View};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// How far a person's clock may be ahead, seconds; behind is allowed, for a record may be signed and sent later.
const CLOCK_AHEAD_S_MAX: i64 = 300;

/// What became of a record that was submitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Submitted {
    /// Its place in the case's log.
    pub n: u64,
    /// Records in the log now.
    pub log_size: u64,
    /// The certificate, when the record approved a disposal and nothing is left of it.
    pub certified: Option<Certified>,
    /// Why the disposal that the record approved is not finished, one line. The approval stands; the timers go on with it.
    pub unfinished: Option<String>,
}

/// Who a custody record says that it is from, and when; `None` for a record of another kind.
fn signer_of(record: &Record) -> Option<(&str, Timestamp)> {
    Some(match record {
        Record::Hold(p) => (&p.placed_by, p.placed_at),
        Record::HoldReleased(p) => (&p.released_by, p.released_at),
        Record::Retention(p) => (&p.set_by, p.set_at),
        Record::Release(p) => (&p.released_by, p.released_at),
        Record::Transfer(p) => (&p.received_by, p.received_at),
        Record::Disposal(p) => (&p.requested_by, p.requested_at),
        Record::Approval(p) => (&p.approved_by, p.approved_at),
        _ => return None,
    })
}

/// Takes a signed custody record of `caller` into its case's log, and carries out what it decides.
///
/// Order of writes:
/// 1. the signer's enrolments into the case's log (only what is missing);
/// 2. for a hold, its release or a retention: the catalog keeps that the case's locks are to be changed ([`raising`]);
///    then the record into the case's log, if the rules allow it at that moment;
/// 3. for the approval of a disposal: what [`destroy`] does; of an order: its collections go to their agents; for a hold, its
///    release or a retention: the case's locks in the store are looked at soon.
///
/// Died between 2 and 3: [`recover`] and [`dispatch::approved_orders`] do 3 at the next start. The same record again is success.
/// Where 2 fails and the record may be in the log, it is looked for, the timers do 3, and the caller hears that it is not known.
///
/// # Errors
/// [`Problem`]. From step 3 on nothing is one: the record is in the log, and whoever signed it must not hear that it was refused.
pub async fn submit(parts: &Arc<Parts>, caller: &str, envelope: &Envelope) -> Result<Submitted> {
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| admit::not_signed("", &ring, (caller, envelope), &e))?;
    let record = verified.record().clone();
    let kind = record.type_name();
    let (Some((signer, at)), Some(case)) = (signer_of(&record), record.case().cloned()) else {
        return Err(Problem::invalid(format!("record: one of type {kind} is not submitted here")));
    };
    if signer != caller {
        let signer = escape_bounded(signer, 200);
        return Err(Problem::new(Kind::Denied, format!("a record signed by {signer} was sent by {caller}: only its signer may send it")));
    }
    admit::require_case(parts, &case).await?;
    let now = clock::now();
    if at > now.plus_s(CLOCK_AHEAD_S_MAX) {
        return Err(Problem::invalid(format!(
            "the record is dated {at}, more than {CLOCK_AHEAD_S_MAX} s ahead of the coordinator's clock ({now}); set the clock of the machine that signed it"
        )));
    }
    if let Record::Release(p) = &record {
        require_recipient(parts, (caller, envelope.keyid()), &p.to, &case)?;
    }
    parts.ledgers.ensure_enrolled(&case, &[envelope.keyid()]).await?;
    let ledger = parts.ledgers.case(&case).await?;
    let digest = envelope.digest();
    allowed(parts, &ledger.view(), digest, &record, now)?;
    add(parts, (&ledger, &case), (envelope, &record), now).await?;
    let n = ledger.find(&digest).ok_or_else(|| Problem::new(Kind::Damaged, format!("the log of {case} lacks what was written")))?;
    tracing::info!(%case, kind, by = %escape_bounded(caller, 200), n, "custody record taken");
    let (certified, unfinished) = match record {
        Record::Approval(p) => {
            let order = ledger.view().custody().order_id(&p.predecessor).cloned();
            match order {
                Some(order) => {
                    dispatch::approved(parts, &order).await;
                    (None, None)
                }
                None => destroyed(parts, &case, (digest, n)).await?,
            }
        }
        _ => (None, None),
    };
    Ok(Submitted { n, log_size: ledger.size(), certified, unfinished })
}

/// Step 2 of [`submit`].
async fn add(
    parts: &Arc<Parts>,
    (ledger, case): (&Ledger, &CaseId),
    (envelope, record): (&Envelope, &Record),
    now: Timestamp,
) -> Result<()> {
    let digest = envelope.digest();
    let (signed, checked, known) = (envelope.clone(), record.clone(), Arc::clone(parts));
    let changes_locks = matches!(record, Record::Hold(_) | Record::Retention(_) | Record::HoldReleased(_));
    let changing = parts.attesting.changing.read().await;
    if changes_locks {
        raising::begins(parts, case).await?;
    }
    let settling = Settling::new(parts, case, digest, changes_locks);
    let added = ledger
        .append_built(move |view| {
            // Under the writer's lock nothing can come between this look and the record.
            allowed(&known, view, digest, &checked, now).map_err(|p| LedgerError::new(ledger::Kind::Refused, p.to_string()))?;
            Ok(vec![signed.clone()])
        })
        .await;
    let added = settling.written(ledger, added, &not_known(case, record, &digest)).await;
    drop(changing);
    // Also where that failed: the record may be in the log all the same.
    if changes_locks {
        parts.attesting.ask(case);
    }
    added
}

/// What whoever signed a record hears when nobody knows what became of it; why comes behind it.
fn not_known(case: &CaseId, record: &Record, digest: &Digest) -> String {
    let kind = record.type_name();
    let kind = kind.split(':').next().unwrap_or(kind);
    format!(
        "record: it is not known whether the {kind} record was taken ({digest}): it may be in the log of {case}, and then it counts, and is carried \
         out as soon as the coordinator can. Do not sign another one; look first, also after what failed was mended: exhibit case custody {case}"
    )
}

/// Characters of why a disposal is not finished.
const UNFINISHED_CHARS_MAX: usize = 1_000;

/// Carries out the disposal that record `n` approved: its certificate, or why it is not finished. That is no refusal: the approval
/// stands, parts may be gone, and the timers go on.
///
/// # Errors
/// When it is finished and its certificate is not as it was written.
async fn destroyed(parts: &Arc<Parts>, case: &CaseId, (approval, n): (Digest, u64)) -> Result<(Option<Certified>, Option<String>)> {
    match destroy::finish(parts, case).await {
        // From here on it is finished, whatever becomes of the reading.
        Ok(ledger) => Ok((destroy::certified(parts, &ledger, (case, &approval)).await?, None)),
        Err(error) => {
            tracing::warn!(%case, n, %error, "a disposal was approved and is not finished; it goes on by itself");
            Ok((None, Some(one_line(&error.to_string(), UNFINISHED_CHARS_MAX))))
        }
    }
}

/// Custody is offered to nobody who could not accept it. Whoever mistyped a name hears that it is nobody's, and who could be meant.
fn require_recipient(parts: &Parts, (caller, key): (&str, KeyId), to: &str, case: &CaseId) -> Result<()> {
    if parts.rights_of(to).in_case(case).contains(&Role::Custodian) {
        return Ok(());
    }
    let shown = escape_bounded(to, 200);
    let (is_somebody, was_somebody) = {
        let view = parts.deployment_log.view();
        (!view.key_ring().keys_of(to).is_empty(), view.key_ring().knows(to))
    };
    if is_somebody {
        let how = authz::how_to_allow(to, &[Role::Custodian], case);
        return Err(Problem::invalid(format!("to: {shown} is no custodian in case {case}; an admin gives the role: {how}")));
    }
    let what = if was_somebody { format!("every key of {shown} was revoked") } else { format!("nobody is enrolled as {shown}") };
    let mut others = parts.people_with(&[Role::Custodian]);
    others.retain(|(name, _)| name != caller);
    let who = authz::who_has_it(case, &[Role::Custodian], &parts.rights_of_key(caller, key), &others);
    Err(Problem::invalid(format!(
        "to: {what}: check the name; whoever accepts custody needs role custodian in case {case}{who}; somebody new comes in with \
         'exhibit person request', and an admin's 'exhibit person enroll REQUEST --role custodian --case {case} --out ANSWER'"
    )))
}

/// True to the rules, and by the coordinator's own clock for what must not come too early: a signer could date it later. What is
/// approved was asked for, and what is accepted was offered, with a key that still counts.
fn allowed(parts: &Parts, view: &View, digest: Digest, record: &Record, now: Timestamp) -> Result<()> {
    if view.find(&digest).is_some() {
        return Ok(());
    }
    let custody = view.custody();
    custody.check(digest, record).map_err(|breach| match asker::stuck(parts, custody.custodian(), breach.rule) {
        Some(how) => Problem::new(problem(&breach).kind(), format!("not taken: {breach}; {how}")),
        None => problem(&breach),
    })?;
    if let Record::Transfer(p) = record {
        return asker::require_offerer(parts, view, &p.predecessor);
    }
    let Record::Approval(p) = record else { return Ok(()) };
    asker::require_asker(parts, view, &p.predecessor)?;
    if let Some((order, expires_at)) = custody.order_expiry(&p.predecessor) {
        if view.case_closed().is_some() {
            return Err(Problem::new(Kind::NotNow, format!("the case of {order} is closed; open another case for further collections")));
        }
        if custody.awaits_approval(&p.predecessor) && now < expires_at && custody.orders_to_approve(now).iter().all(|(_, id)| id != order) {
            return Err(Problem::new(
                Kind::NotNow,
                format!("{order} is at its end, all of it cancelled: its responder must give a new order"),
            ));
        }
        return if now < expires_at {
            Ok(())
        } else {
            Err(Problem::new(Kind::NotNow, format!("{order} expired at {expires_at}; its responder must give a new order")))
        };
    }
    match custody.retained_until() {
        Some(until) if now < until => Err(Problem::new(Kind::NotNow, format!("the case is to be kept until {until}, it is {now} now"))),
        _ => Ok(()),
    }
}

fn problem(breach: &Breach) -> Problem {
    let kind = match breach.rule {
        Rule::Reason | Rule::Collection | Rule::Certificate | Rule::RetentionShortened | Rule::ApprovalEarly => Kind::Invalid,
        Rule::TransferRelease | Rule::TransferAcceptance | Rule::DisposalRequest | Rule::SecondPerson | Rule::OrderSecondPerson => {
            Kind::Denied
        }
        Rule::Predecessor | Rule::Held | Rule::Retained | Rule::ApprovalLate => Kind::NotNow,
    };
    Problem::new(kind, format!("not taken: {breach}"))
}

/// Leaves out collections that were destroyed, or are about to be: for whoever asks for all of a case.
///
/// # Errors
/// When a log cannot be read.
pub(crate) async fn only_kept(parts: &Parts, rows: Vec<CollectionRow>) -> Result<Vec<CollectionRow>> {
    let mut kept = Vec::with_capacity(rows.len());
    for row in rows {
        if parts.ledgers.case(&row.case).await?.view().custody().fate(&row.collection) == Fate::Kept {
            kept.push(row);
        }
    }
    Ok(kept)
}

/// True when a collection was destroyed, or is about to be.
pub(crate) fn is_disposed_of(ledger: &Ledger, collection: &CollectionId) -> bool {
    ledger.view().custody().fate(collection) != Fate::Kept
}

/// Refuses collections that were destroyed, or are about to be. One of which nothing was ever received was not, whatever certificate
/// names it.
///
/// # Errors
/// [`Kind::NotFound`] with the record that says so.
pub(crate) async fn require_kept<'a>(parts: &Parts, case: &CaseId, collections: impl Iterator<Item = &'a CollectionId>) -> Result<()> {
    let ledger = parts.ledgers.case(case).await?;
    let view = ledger.view();
    for id in collections {
        let Some(gone) = view.custody().disposal_of(id).filter(|_| view.custody().received(id)) else { continue };
        let (asked, approved) = (escape_bounded(&gone.requested_by, 200), escape_bounded(&gone.approved_by, 200));
        let who = format!("asked for by {asked}, approved by {approved}");
        let record = |digest: &Digest| view.find(digest).map_or_else(|| digest.to_string(), |n| format!("{n} ({digest})"));
        let said = match gone.destroyed {
            None => format!("{id} is being destroyed, {who}; the approval is record {} of the case's log", record(&gone.approval)),
            Some((at, certificate)) => {
                format!("{id} was destroyed at {at}, {who}; the certificate is record {} of the case's log", record(&certificate))
            }
        };
        return Err(Problem::new(Kind::NotFound, format!("{said}: exhibit case custody {case}")));
    }
    Ok(())
}
