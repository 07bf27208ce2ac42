//! The end of a stream: the agent's acquisition record, and what follows from it for the collection.

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::record::{Acquisition, Order, Outcome, Record};

use crate::catalog::{CollectionRow, Ending, State, StreamRow, StreamState};
use crate::dispatch;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// How often a finished stream's collection is looked at until it is closed, besides the bell.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The acquisition in an envelope: signed by this agent's enrolled key, about this stream of this order.
///
/// # Errors
/// [`Problem`] that names the field.
pub(super) async fn verify_acquisition(parts: &Parts, row: &CollectionRow, order: &Order, envelope: &Envelope) -> Result<Acquisition> {
    let mut ring = parts.ledgers.deployment().await?.key_ring();
    let verified = ring.verify(envelope).map_err(|e| Problem::new(Kind::Denied, format!("acquisition: {e}")))?;
    let Record::Acquisition(acquisition) = verified.record() else {
        return Err(Problem::invalid(format!("acquisition: a record of type {} is none", verified.record().type_name())));
    };
    let a = acquisition;
    let names = [
        ("case", a.case.to_string(), row.case.to_string()),
        ("collection", a.collection.to_string(), row.collection.to_string()),
        ("stream", a.stream.to_string(), row.stream.to_string()),
        ("agent", a.agent.to_string(), row.agent.to_string()),
        ("predecessor", a.predecessor.to_string(), row.order_digest.to_string()),
        ("nonce.root", a.nonce.root.to_string(), order.nonce.root.to_string()),
        ("nonce.size", a.nonce.size.to_string(), order.nonce.size.to_string()),
    ];
    if let Some((field, said, expected)) = names.iter().find(|(_, said, expected)| said != expected) {
        return Err(Problem::invalid(format!("acquisition.{field}: {said}, expected {expected}")));
    }
    if !a.complete && a.reason.as_deref().is_none_or(|r| r.trim().is_empty()) {
        return Err(Problem::invalid("acquisition.reason: it is not complete and gives no reason"));
    }
    Ok((**a).clone())
}

/// Ends the collection of a finished stream and waits until it is sealed; gives the stream's receipt. Repeatable: an
/// agent that did not hear the answer asks again, and a coordinator that died in between goes on here.
///
/// # Errors
/// [`Problem`]
pub(super) async fn conclude(parts: &Arc<Parts>, row: &CollectionRow) -> Result<Vec<u8>> {
    let stream = parts.catalog.stream(row.collection.clone(), row.stream).await?;
    let stream = stream.ok_or_else(|| Problem::new(Kind::Damaged, format!("the catalog lacks {} {}", row.collection, row.stream)))?;
    if stream.state == StreamState::Finished {
        end_finished(parts, row, &stream).await?;
    }
    let mut bell = parts.progress.listen();
    loop {
        let now = parts.catalog.collection(row.collection.clone()).await?;
        if now.is_some_and(|row| row.state.is_closed()) {
            break;
        }
        // Lagging and silence both mean: look again.
        let _ = tokio::time::timeout(LOOK_EVERY, bell.recv()).await;
    }
    parts.uploads.forget(&row.collection);
    let ledger = parts.ledgers.case(&row.case).await?;
    let receipt = ledger.receipt_of(&row.collection, row.stream);
    let receipt = receipt.ok_or_else(|| {
        Problem::new(Kind::Damaged, format!("the log of {} lacks the receipt of {} {}", row.case, row.collection, row.stream))
    })?;
    Ok(ledger.read(receipt.n).await?.as_bytes().to_vec())
}

/// Ends the running collection of a stream that its agent finished: as the agent signed it.
pub(crate) async fn end_finished(parts: &Arc<Parts>, row: &CollectionRow, stream: &StreamRow) -> Result<()> {
    let acquisition = stream.acquisition.as_deref().and_then(|bytes| Envelope::parse(bytes).ok());
    let ending = match acquisition.and_then(|e| Record::from_payload(e.unverified_payload()).ok()) {
        Some(Record::Acquisition(a)) if a.complete => Ending { outcome: Outcome::Sealed, reason: None, refusal: None },
        Some(Record::Acquisition(a)) => Ending { outcome: Outcome::Partial, reason: a.reason, refusal: None },
        _ => Ending { outcome: Outcome::Partial, reason: Some("the agent did not end the stream".to_owned()), refusal: None },
    };
    dispatch::end(parts, &row.collection, &[State::Running], ending).await?;
    Ok(())
}
