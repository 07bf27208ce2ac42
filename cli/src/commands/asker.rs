//! Whether whoever asked for something, or offered it, is still somebody. Said before anything is signed; the coordinator decides.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use exhibit_evidence::Timestamp;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Record, Verified};
use exhibit_evidence::text::one_line;

use super::log;
use crate::connection::Connection;
use crate::exit::{Code, Result};
use crate::output::Output;

/// Characters of a reason that are shown.
const REASON_SHOWN_MAX: usize = 300;

/// What somebody hears who may not read the deployment's log.
pub const LIMITED: &str = "whether the key that asked for it or offered it was revoked stands in the deployment's log, which is not for \
                       roles that are limited to cases: the coordinator looks when you approve or accept";

/// That a key was revoked, and which record of the deployment's log says so.
#[derive(Debug)]
pub struct Revocation {
    n: u64,
    at: Timestamp,
    reason: String,
}

impl fmt::Display for Revocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "revoked at {}, record {} of the deployment's log ({})", self.at, self.n, self.reason)
    }
}

/// When a key was revoked and why, by the deployment's verified log; `None` when it was not. Whose roles are limited to cases may not
/// read that log, and is told so.
pub async fn revoked(connection: &mut Connection, key: KeyId, out: &Output) -> Result<Option<String>> {
    let known = revocations(connection, &BTreeSet::from([key])).await?;
    if known.is_none() {
        out.note(LIMITED);
    }
    Ok(known.and_then(|known| known.get(&key).map(ToString::to_string)))
}

/// Which of some keys were revoked, by the deployment's verified log; `None` for whoever may not read that one.
pub async fn revocations(connection: &mut Connection, keys: &BTreeSet<KeyId>) -> Result<Option<BTreeMap<KeyId, Revocation>>> {
    let mut found = BTreeMap::new();
    let mut each = |n: u64, verified: &Verified, _: &Envelope| -> Result<()> {
        if let Record::Revocation(p) = verified.record()
            && keys.contains(&p.key)
        {
            let reason = one_line(&p.reason, REASON_SHOWN_MAX);
            found.entry(p.key).or_insert(Revocation { n, at: p.revoked_at, reason });
        }
        Ok(())
    };
    let is_read = read_deployment(connection, &mut each).await?;
    Ok(is_read.then_some(found))
}

/// Reads the deployment's verified log; false for whoever may not.
pub async fn read_deployment(connection: &mut Connection, each: &mut dyn FnMut(u64, &Verified, &Envelope) -> Result<()>) -> Result<bool> {
    // Asked only where it will be answered: a refused call is told to the deployment's SIEM.
    let me = connection.whoami();
    if me.roles.iter().all(|role| me.limits.iter().any(|limit| limit.role == *role)) {
        return Ok(false);
    }
    match log::read_all(connection, &LogName::Deployment, each).await {
        Ok(_) => Ok(true),
        Err(failure) if failure.code == Code::NotPermitted => Ok(false),
        Err(failure) => Err(failure),
    }
}
