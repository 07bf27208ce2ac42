//! Cases whose locks in the store are still to be brought to what custody asks for. The log says what they should be; it does not say whether
//! the store was told: a lock that was never raised looks like one that somebody took off, and a hold that was released and is still on like one
//! that somebody else set.
//!
//! Order of writes: (1) the case is kept in the catalog; (2) the record goes into the case's log; (3) the locks are set; (4) the case is
//! forgotten, unless custody changed again meanwhile. Died between: whoever looks at the store next does 3 first, and 4. A catalog that was
//! made again knows of none: then such a lock is told as one that was weak, and such a hold as none of custody's, which stays.

use std::collections::BTreeMap;
use std::time::Duration;

use exhibit_evidence::id::CaseId;

use crate::clock;
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};

/// The name under which the catalog keeps them.
const CHORE: &str = "raising";
/// Cases that are kept, of some 60 bytes each. Of more, what a process leaves undone is told as a weak lock or a strange hold.
const CASES_MAX: usize = 10_000;
/// How long a change waits for one by another coordinator.
const WAIT: Duration = Duration::from_secs(10);

/// The cases, each with a number of the last change of its custody.
type Cases = BTreeMap<String, u64>;

/// Custody of a case is about to ask the store for more, or to release what it asked for.
///
/// # Errors
/// When the catalog cannot keep it: nothing was asked then.
pub(crate) async fn begins(parts: &Parts, case: &CaseId) -> Result<()> {
    if !is_locked(parts) {
        return Ok(());
    }
    let number = u64::from_be_bytes(clock::random());
    change(parts, |cases| {
        if cases.len() < CASES_MAX || cases.contains_key(&case.to_string()) {
            cases.insert(case.to_string(), number);
        }
    })
    .await
}

/// The number of the last change of a case's custody that is still to be done, if there is one.
///
/// # Errors
/// When the catalog cannot be read.
pub(crate) async fn number(parts: &Parts, case: &CaseId) -> Result<Option<u64>> {
    Ok(kept(parts).await?.remove(&case.to_string()))
}

/// The cases that are still to be looked at.
///
/// # Errors
/// When the catalog cannot be read.
pub(crate) async fn left(parts: &Parts) -> Result<Vec<CaseId>> {
    Ok(kept(parts).await?.keys().filter_map(|case| case.parse().ok()).collect())
}

/// The locks of a case are as its custody asked with this number.
///
/// # Errors
/// When the catalog cannot keep it: they are looked at once more.
pub(crate) async fn ended(parts: &Parts, case: &CaseId, number: u64) -> Result<()> {
    change(parts, |cases| {
        if cases.get(&case.to_string()) == Some(&number) {
            cases.remove(&case.to_string());
        }
    })
    .await
}

/// Whether the store, or its copy, locks what is written.
fn is_locked(parts: &Parts) -> bool {
    let copy = parts.copy.as_ref().and_then(|second| second.store.attestable());
    parts.store.attestable().into_iter().chain(copy).any(|store| store.locks())
}

async fn kept(parts: &Parts) -> Result<Cases> {
    let text = parts.catalog.standing(CHORE).await?;
    // What cannot be read was not written by this version.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// Reads, changes and keeps them, while nobody else does, here or at another coordinator.
async fn change(parts: &Parts, change: impl FnOnce(&mut Cases)) -> Result<()> {
    let _here = parts.attesting.raising.lock().await;
    let right = parts.leases.alone(CHORE, WAIT).await?;
    let before = kept(parts).await?;
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        let text = serde_json::to_string(&after).map_err(|e| Problem::new(Kind::Failed, e.to_string()))?;
        parts.catalog.set_standing(CHORE, text).await?;
    }
    right.give(None).await;
    Ok(())
}
