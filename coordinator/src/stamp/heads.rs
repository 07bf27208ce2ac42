//! Which head of a log an authority has to stamp, by the records alone.

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::layout::{AuthorityName, LogName};
use exhibit_evidence::log::{Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::record::{NotStamped, Predicate, Record, Stamped};

use crate::ledger::{Entry, View};
use crate::store::Store;

/// Records that are worth a token before the interval is over.
const SOON: [&str; 5] = ["case-opened:v1", "order:v1", "seal:v1", "case-closed:v1", "revocation:v1"];

/// A head that is to be stamped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Due {
    /// Records in it.
    pub size: u64,
    /// Its root.
    pub root: Digest,
    /// The record that opened the case; of the deployment's log its first one.
    pub opened: Digest,
    /// Something in it should not wait for the whole interval.
    pub soon: bool,
    /// That this authority failed with this head is recorded already.
    pub failure_recorded: bool,
}

fn is_about_timestamps(entry: &Entry) -> bool {
    entry.stamped.is_some()
}

fn by(entry: &Entry, kind: &str, authority: &AuthorityName) -> Option<u64> {
    entry.stamped.as_ref().filter(|(name, _)| entry.kind == kind && **name == *authority.as_str()).map(|(_, size)| *size)
}

/// The head that `authority` has to stamp, if there is one.
#[must_use]
pub fn due(view: &View, log: &LogName, authority: &AuthorityName) -> Option<Due> {
    // A case's log begins with enrolments, and nothing is stamped before the case is open; the deployment's opens none.
    let opened = match log {
        LogName::Case(_) => view.case_opened()?,
        LogName::Deployment => view.entries().first()?,
    };
    let opened = opened.digest;
    let last = view.entries().iter().rev().find(|e| !is_about_timestamps(e))?;
    let size = last.n.saturating_add(1);
    let covered = view.entries().iter().rev().find_map(|e| by(e, Stamped::TYPE, authority)).unwrap_or(0);
    if covered >= size {
        return None;
    }
    let new = view.entries().iter().rev().take_while(|e| e.n >= covered);
    let soon = new.clone().any(|e| SOON.contains(&e.kind));
    let failure_recorded =
        view.entries().iter().rev().take_while(|e| e.n >= last.n).any(|e| by(e, NotStamped::TYPE, authority) == Some(size));
    Some(Due { size, root: last.root, opened, soon, failure_recorded })
}

/// Trailing records about timestamps that are read at start; a log with more of them is simply opened.
const TAIL_MAX: u64 = 64;

/// At start: whether the log may have a head to stamp, from its checkpoint and last records, without reading all of it. What
/// cannot be told is `true`; nothing is believed here that matters, because the log is verified when it is opened.
pub(super) async fn may_be_due(store: &dyn Store, name: &LogName, authority: &AuthorityName) -> bool {
    let Ok(note) = store.get(&name.checkpoint(), NOTE_BYTES_MAX as u64).await else { return true };
    let Ok(head) = Checkpoint::parse_unverified(&note) else { return true };
    let mut covered = 0;
    for n in (head.size.saturating_sub(TAIL_MAX)..head.size).rev() {
        let Ok(bytes) = store.get(&name.slot(n), ENVELOPE_BYTES_MAX as u64).await else { return true };
        match Envelope::parse(&bytes).ok().and_then(|e| Record::from_payload(e.unverified_payload()).ok()) {
            Some(Record::Stamped(p)) if p.authority == authority.as_str() => covered = covered.max(p.size),
            Some(Record::Stamped(_) | Record::NotStamped(_)) => {}
            _ => return covered <= n,
        }
    }
    true
}
