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
mod reenter;
mod sessions;

pub use chores::run_chores;
pub use follow::follow;
pub use leases::{Lease, Leases};
pub use notice::Notice;
pub use outbox::{Outbox, Waiting};
pub use sessions::{Proofs, another_is_alive, begins, ends, instance_elsewhere, online, settled};

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use exhibit_evidence::id::CollectionId;

use crate::parts::Parts;
use crate::problem::Result;

/// How long an upload, or an end, waits for another coordinator to let go of a collection.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// Looks whether this machine's clock agrees with the database's. While it does not, this coordinator serves nobody: what it
/// would write or end by a wrong clock could not be taken back. False then.
///
/// # Errors
/// When the database does not answer; nothing is known then, and nothing changes.
pub async fn keep_time(parts: &Arc<Parts>) -> Result<bool> {
    let Some(apart) = crate::serve::clocks_apart(&parts.leases).await? else {
        if parts.out_of_time.swap(false, Ordering::AcqRel) {
            tracing::info!("the clocks agree again; serving");
        }
        return Ok(true);
    };
    if !parts.out_of_time.swap(true, Ordering::AcqRel) {
        tracing::error!("{apart}; nobody is served until they agree");
        parts.uploads.cut_all();
        parts.sessions.cut_all();
    }
    Ok(false)
}

/// The right to write a collection's objects and its end, if nobody has it now, or if it is this coordinator's already.
///
/// # Errors
/// Busy when another has it, or the catalog does not answer: [`collection`] waits for it.
pub async fn collection_at_once(parts: &Arc<Parts>, collection: &CollectionId) -> Result<Arc<Lease>> {
    Ok(parts.leases.shared(&right_to(collection), Duration::ZERO).await?)
}

/// The right to write a collection's objects and its end. Another coordinator that has it is asked to end what it does. An upload
/// here whose right was lost is ended: it can write nothing more, and nobody gets the right before it lets go.
///
/// # Errors
/// Busy when it does not within the time: the caller comes again.
pub async fn collection(parts: &Arc<Parts>, collection: &CollectionId) -> Result<Arc<Lease>> {
    if let Ok(lease) = collection_at_once(parts, collection).await {
        return Ok(lease);
    }
    parts.uploads.cut(collection);
    parts.leases.outbox().send(Notice::Yield { collection: collection.clone() });
    Ok(parts.leases.shared(&right_to(collection), TAKE_OVER).await?)
}

fn right_to(collection: &CollectionId) -> String {
    format!("collection:{collection}")
}
