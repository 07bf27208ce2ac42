//! Whoever asked for what a second person approves must still be somebody. A key is revoked in the deployment's log, which the rules
//! of a case's log do not see: here both are asked.

use exhibit_evidence::Digest;
use exhibit_evidence::key::KeyId;
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
    let name = view.key_ring().holder(key).map_or_else(|| "somebody".to_owned(), |(name, ..)| escape_bounded(name, 200));
    Some((key, name))
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
