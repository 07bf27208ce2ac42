//! One coordinator among several over one PostgreSQL catalog and one store. An agent or a person may be connected to any;
//! what only one may do at a time needs a right ([`Leases`]); what others should know at once is a [`Notice`].
//!
//! Nothing of it holds evidence together: objects and log slots are create-only, and steps in the catalog compare before they
//! change. Rights keep two coordinators from working against each other, notices keep them from waiting for a timer.

mod chores;
mod follow;
mod leases;
mod notice;
mod outbox;
mod sessions;

pub use chores::run_chores;
pub use follow::follow;
pub use leases::{Lease, Leases};
pub use notice::Notice;
pub use outbox::{Outbox, Waiting};
pub use sessions::{Proofs, another_is_alive, begins, ends, instance_elsewhere, online};

use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::id::CollectionId;

use crate::parts::Parts;
use crate::problem::Result;

/// How long an upload, or an end, waits for another coordinator to let go of a collection.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// The right to write a collection's objects and its end. Another coordinator that has it is asked to end what it does.
///
/// # Errors
/// Busy when it does not within the time: the caller comes again.
pub async fn collection(parts: &Arc<Parts>, collection: &CollectionId) -> Result<Arc<Lease>> {
    let name = format!("collection:{collection}");
    if let Ok(lease) = parts.leases.shared(&name, Duration::ZERO).await {
        return Ok(lease);
    }
    parts.leases.outbox().send(Notice::Yield { collection: collection.clone() });
    Ok(parts.leases.shared(&name, TAKE_OVER).await?)
}
