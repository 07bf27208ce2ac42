//! Orders that wait while a key is revoked that they rest on: no agent is given them.

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::text::escape_bounded;

use crate::catalog::CollectionRow;
use crate::parts::Parts;
use crate::problem::Result;

/// Why a collection that waits for its agent must not be offered: the key that signed its order, or the order's approval, was
/// revoked meanwhile. `None` while both count, and for a collection that was begun: that one runs, and is cancelled by a person.
///
/// # Errors
/// When a log cannot be read.
pub(super) async fn revoked(parts: &Parts, row: &CollectionRow, order: &Envelope, approval: Option<&Envelope>) -> Result<Option<String>> {
    if row.started_at.is_some() {
        return Ok(None);
    }
    let deployment = parts.ledgers.deployment().await?;
    let ledger = parts.ledgers.case(&row.case).await?;
    for (signed, did) in [(Some(order), "gave"), (approval, "approved")] {
        let Some(key) = signed.map(Envelope::keyid) else { continue };
        let counts = deployment.view().key_ring().holder(key).is_some();
        if counts {
            continue;
        }
        // The case's own log has the name, whether it knows of the revocation or not.
        let name = ledger.view().key_ring().name_of(key).map_or_else(|| "somebody".to_owned(), |name| escape_bounded(name, 200));
        return Ok(Some(format!(
            "cancelled by the coordinator: key {key} of {name}, who {did} the order, was revoked before the agent began; a responder gives a new order"
        )));
    }
    Ok(None)
}
