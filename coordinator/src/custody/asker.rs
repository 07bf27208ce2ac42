//! Whoever asked for what a second person approves, or offered what another one accepts, must still be somebody. A key is revoked in
//! the deployment's log, of which a case's log has a copy only later: here both are asked.

use exhibit_evidence::Digest;
use exhibit_evidence::custody::Rule;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::OrderId;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::record::{Predicate as _, Revocation};
use exhibit_evidence::text::escape_bounded;

use crate::ledger::View;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// The key that signed a record of the case and was revoked since, and whose it was; `None` while it counts.
fn revoked(parts: &Parts, view: &View, record: &Digest) -> Option<(KeyId, String)> {
    let key = view.find(record).and_then(|n| view.entry(n))?.keyid;
    if parts.deployment_log.view().key_ring().holder(key).is_some() {
        return None;
    }
    let name = view.key_ring().name_of(key).map_or_else(|| "somebody".to_owned(), |name| escape_bounded(name, 200));
    Some((key, name))
}

/// Why nobody can approve an order that waits: the key that gave it was revoked. `None` while somebody can, and where the catalog's copy
/// of the order cannot be read; what an approval would be refused for is [`require_asker`]'s.
///
/// # Errors
/// When the catalog does not answer.
pub(crate) async fn unapprovable(parts: &Parts, order: &OrderId) -> Result<Option<String>> {
    let kept = parts.catalog.order(order.clone()).await?;
    let envelope = kept.and_then(|row| Envelope::parse(&row.envelope).ok());
    Ok(envelope.and_then(|envelope| given_by_nobody(parts, order, envelope.keyid())))
}

fn given_by_nobody(parts: &Parts, order: &OrderId, key: KeyId) -> Option<String> {
    let view = parts.deployment_log.view();
    if view.key_ring().holder(key).is_some() {
        return None;
    }
    let record = recorded(&view, key);
    Some(format!(
        "can be approved by nobody: the key that gave it was revoked{record}; order again: exhibit cancel --order {order} --reason '...', \
         then exhibit collect"
    ))
}

/// The record of the deployment's log that revokes a key, in words; nothing where it has none.
fn recorded(deployment: &View, key: KeyId) -> String {
    let revocation = deployment.entries().iter().find(|e| e.kind == Revocation::TYPE && e.key == Some(key));
    revocation.map_or_else(String::new, |e| format!(" (record {} of the deployment's log)", e.n))
}

/// Refuses the approval of a disposal or an order whose asker's key is revoked by now.
///
/// # Errors
/// [`Kind::NotNow`] with what to do instead.
pub(super) fn require_asker(parts: &Parts, view: &View, asked: &Digest) -> Result<()> {
    let Some((key, name)) = revoked(parts, view, asked) else { return Ok(()) };
    let (what, instead) = match view.custody().order_id(asked) {
        Some(order) => (
            format!("{order} was given"),
            format!("cancel it ('exhibit cancel --order {order} --reason ...'), and a responder gives a new order: 'exhibit collect'"),
        ),
        None => (
            "this disposal was asked for".to_owned(),
            "a custodian asks for it anew with a key that counts ('exhibit dispose request'); else everything is kept".to_owned(),
        ),
    };
    Err(Problem::new(Kind::NotNow, format!("{what} with key {key} of {name}, which was revoked since: nobody can approve it; {instead}")))
}

/// Refuses to take custody from a key that is revoked by now: whoever stole it may have offered. Nothing is stuck by that, since another
/// offer takes the place of this one.
///
/// # Errors
/// [`Kind::NotNow`] with who offers instead.
pub(super) fn require_offerer(parts: &Parts, view: &View, offer: &Digest) -> Result<()> {
    let Some((key, name)) = revoked(parts, view, offer) else { return Ok(()) };
    let record = recorded(&parts.deployment_log.view(), key);
    let instead = match view.custody().custodian() {
        None => {
            "another custodian of the case offers it again ('exhibit transfer offer'); where there is none, an admin enrols one".to_owned()
        }
        Some(holder) => format!(
            "{} has custody and offers it again ('exhibit transfer offer') with a key that counts; where there is none, an admin enrols a \
             new key under that name for whoever hands over in their place ('exhibit person request')",
            escape_bounded(holder, 200)
        ),
    };
    Err(Problem::new(
        Kind::NotNow,
        format!("custody was offered with key {key} of {name}, which was revoked since{record}: nobody can accept it; {instead}"),
    ))
}

/// The way out where somebody has custody who cannot hand it over, since every key of that name was revoked; `None` where that is not so.
pub(super) fn stuck(parts: &Parts, custodian: Option<&str>, broken: Rule) -> Option<String> {
    let holder = custodian.filter(|_| matches!(broken, Rule::TransferRelease | Rule::DisposalRequest))?;
    let view = parts.deployment_log.view();
    let ring = view.key_ring();
    if !ring.knows(holder) || !ring.keys_of(holder).is_empty() {
        return None;
    }
    Some(format!(
        "every key of {} was revoked: an admin enrols a new key under that name for whoever hands over in their place ('exhibit person \
         request', then 'exhibit person enroll')",
        escape_bounded(holder, 200)
    ))
}
