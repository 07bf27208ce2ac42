//! Whether a second store can hold a copy of the first one: before the copier begins, and for `store check`.

use std::time::Duration;

use super::ANSWER_WITHIN;
use super::compare::lag;
use super::identity::{self, Found, Identity};
use crate::clock;
use crate::store::check::{self as probing, CheckReport, State};
use crate::store::{self, Kind, LockPolicy, Patience, Store, StoreError};

/// A store that overwrites, holds another deployment, is not the copy that was in its place, is the first one, or is to lock and cannot,
/// takes no copy. One that takes its first one has its mark afterwards.
///
/// # Errors
/// [`Kind::Denied`] when it takes none; otherwise as a store fails.
pub(super) async fn takes_copies(first: &dyn Store, copy: &dyn Store) -> Result<Found, StoreError> {
    // Before anything is written there.
    let found = identity::of(first, copy, true).await?;
    fit_for_copies(first, copy).await?;
    store::can_lock(copy, &Patience::default()).await?;
    if matches!(found.identity, Identity::New | Identity::Marked) {
        identity::settle(first, copy).await?;
    }
    Ok(found)
}

/// What is asked of it besides who it is and its lock.
async fn fit_for_copies(first: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    store::creates_only(copy, &Patience::default()).await.map_err(|e| e.during("in the second store"))?;
    if !store::is_same(first, copy).await? {
        return Ok(());
    }
    // Each with its own remedy: by that what was told once is told apart.
    let remedy = "name another bucket, prefix or folder in [copy.store] than in [store]";
    let message = format!("{} is the store itself, by whatever name: a copy lies elsewhere", copy.describe());
    Err(StoreError::new(Kind::Denied, message, remedy))
}

/// For `store check`, which begins no copy: it writes into none of which it is not known what it is.
async fn known_and_fit(first: &dyn Store, copy: &dyn Store) -> Result<(), StoreError> {
    identity::of(first, copy, false).await?;
    fit_for_copies(first, copy).await
}

/// A store that took a call and did not answer.
pub(super) fn silent(store: &dyn Store, within: Duration) -> StoreError {
    let message = format!("{} did not answer within {} s", store.describe(), within.as_secs());
    StoreError::new(Kind::Retry, message, "see to that store and the way to it; it is tried again")
}

/// For `store check`: what the second store refuses, as lines that begin with `copy:`, and a line about the copy, which fails when the
/// copy cannot be trusted, not when it is behind.
pub async fn check(report: &mut CheckReport, first: &dyn Store, copy: &dyn Store, lock: Option<LockPolicy>) {
    let away = "see to the second store; evidence is in the first one";
    let fit = tokio::time::timeout(ANSWER_WITHIN, known_and_fit(first, copy)).await;
    if let Err(e) = fit.unwrap_or_else(|_| Err(silent(copy, ANSWER_WITHIN))) {
        return report.add("copy", State::Missing, e.to_string(), away);
    }
    report.add_copy(probing::run(copy, lock, clock::now()).await);
    // The same as at the start: into one that fails this nothing is copied.
    if let Err(e) = store::can_lock(copy, &Patience::default()).await {
        return report.add(
            "copy",
            State::Missing,
            e.to_string(),
            "make the copy's bucket or container lock (S3: Object Lock), or take 'lock' out of [copy.store]: docs/operations/stores.md",
        );
    }
    match lag(first, copy).await {
        Ok(lag) => {
            let remedy = "the copy is not what the store is: docs/operations/stores.md says what to do";
            let state = if lag.differ + lag.only_in_copy == 0 { State::Holds } else { State::Missing };
            report.add("copy", state, format!("{}: {}", copy.describe(), lag.text(clock::now())), remedy);
        }
        Err(e) => report.add("copy", State::Missing, e.to_string(), away),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use exhibit_evidence::Digest;
    use exhibit_evidence::layout::LogName;

    use super::super::failed::Failed;
    use super::super::told::Told;
    use super::*;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{Payload, RemoteStore};

    #[tokio::test]
    async fn each_reason_for_which_a_second_store_is_refused_is_told() {
        let (first, copy) = (RemoteStore::memory(), RemoteStore::memory());
        let slot = LogName::Deployment.slot(0);
        for (store, record) in [(&first, b"ours__"), (&copy, b"theirs")] {
            store.put_new(&slot, Payload::from_static(record), Digest::of(record)).await.expect("written");
        }
        let refusing = FaultyStore::new(Arc::new(RemoteStore::memory()));
        refusing.faults.fail(Op::PutHead, "probe/head", 0, 2, Fault::Before(Kind::Denied));
        let told = Told::default();
        let stores: [&dyn Store; 4] = [&refusing, &refusing, &copy, &first];
        let mut news = Vec::new();
        for store in stores {
            let reason = Failed::from(takes_copies(&first, store).await.expect_err("unfit")).reason();
            news.push(told.is_new("start", "copy-failed", &reason));
            told.remember("start", "copy-failed", &reason);
        }
        assert_eq!(news, [true, false, true, true], "the credentials once, then another deployment, then the store itself");
    }
}
