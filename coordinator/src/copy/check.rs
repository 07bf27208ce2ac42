//! Whether a second store can hold a copy of the first one: before the copier begins, and for `store check`.

use std::sync::Arc;
use std::time::Duration;

use super::ANSWER_WITHIN;
use super::compare::lag;
use super::identity::{self, Found, Identity};
use crate::clock;
use crate::store::check::{self as probing, CheckReport, State};
use crate::store::{self, Kind, LockPolicy, Patience, PatientStore, Store, StoreError};

/// What helps where the second store is to lock and cannot.
const MAKE_IT_LOCK: &str =
    "make the copy's bucket or container lock (S3: Object Lock), or take 'lock' out of [copy.store]: docs/operations/stores.md";

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
/// copy cannot be trusted, not when it is behind. Each call to either is waited for as long as [`store::ANSWERS_WITHIN`], a listing longer.
pub async fn check(report: &mut CheckReport, first: Arc<dyn Store>, copy: Arc<dyn Store>, lock: Option<LockPolicy>) {
    let (first, copy) = (PatientStore::new(first), PatientStore::new(copy));
    match tokio::time::timeout(ANSWER_WITHIN, known_and_fit(&first, &copy)).await {
        Ok(Ok(())) => {}
        Ok(Err(e)) => return report.unfit("copy", &e, remedy(&first), remedy(&first)),
        // Neither was silent for as long as one call may take, so nothing is known to be wrong.
        Err(_) => {
            return report.add("copy", State::Untested, slow(&first, &copy), "see to both stores and the ways to them, and try again");
        }
    }
    report.add_copy(probing::run(&copy, lock, clock::now()).await);
    // The same as at the start: into one that fails this nothing is copied.
    if let Err(e) = store::can_lock(&copy, &Patience::default()).await {
        return report.unfit("copy", &e, remedy(&first), MAKE_IT_LOCK);
    }
    match lag(&first, &copy).await {
        Ok(lag) => {
            let remedy = "the copy is not what the store is: docs/operations/stores.md says what to do";
            let state = if lag.differ + lag.only_in_copy == 0 { State::Holds } else { State::Missing };
            report.add("copy", state, format!("{}: {}", copy.describe(), lag.text(clock::now())), remedy);
        }
        Err(e) => report.unfit("copy", &e, remedy(&first), remedy(&first)),
    }
}

/// By the store that was silent.
fn remedy(first: &PatientStore) -> &'static str {
    if first.was_silent() {
        "see to the first store, in which the evidence is: of the second one this says nothing"
    } else {
        "see to the second store; evidence is in the first one"
    }
}

fn slow(first: &PatientStore, copy: &PatientStore) -> String {
    let (first, copy, within) = (first.describe(), copy.describe(), ANSWER_WITHIN.as_secs());
    format!("whether {copy} can be the copy of {first} was not known within {within} s: both together answer too slowly")
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Digest;
    use exhibit_evidence::layout::LogName;
    use tokio::time::Instant;

    use super::super::failed::Failed;
    use super::super::told::Told;
    use super::*;
    use crate::store::check::Check;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{Payload, RemoteStore};

    #[tokio::test(start_paused = true)]
    async fn a_store_that_falls_silent_is_told_in_time_and_which_of_the_two_it_is() {
        let slot = LogName::Deployment.slot(0);
        let (here, there) = ("see to the first store", "see to the second store");
        // Its mark, whether it is the store itself, and how far it lies behind.
        for (is_first, op, name, within, remedy) in [
            (false, Op::Get, "probe/copy-mark", 30, there),
            (false, Op::PutHead, "probe/log/checkpoint", 30, there),
            (false, Op::List, "cases", 120, there),
            (true, Op::Get, slot.as_str(), 30, here),
            (true, Op::List, "cases", 120, here),
        ] {
            let [first, copy] = pair().await;
            let faults = if is_first { &first.faults } else { &copy.faults };
            faults.fail(op, name, 0, 1_000_000, Fault::DieBefore);
            let begun = Instant::now();
            let line = line_of(first, copy).await;
            let told = line.detail.contains(&format!("no answer within {within} s")) && line.detail.contains(&format!("'{name}'"));
            assert!(line.what == "copy" && line.state == State::Untested && told && line.remedy.starts_with(remedy), "{name}: {line:?}");
            assert_eq!(begun.elapsed().as_secs(), within, "{name}");
        }
    }

    #[tokio::test]
    async fn what_nobody_could_look_at_is_no_copy_that_fails() {
        let (own, there) = ("none: this is a test", "see to the second store");
        for (fault, state, remedy) in [
            (Fault::Before(Kind::Retry), State::Untested, there),
            (Fault::Unheard, State::Untested, own),
            (Fault::Before(Kind::Denied), State::Missing, there),
        ] {
            for (op, name) in [(Op::Get, "probe/copy-mark"), (Op::List, "cases")] {
                let [first, copy] = pair().await;
                copy.faults.fail(op, name, 0, 1_000, fault);
                let line = line_of(first, copy).await;
                assert!(line.what == "copy" && line.state == state && line.remedy.starts_with(remedy), "{name}, {fault:?}: {line:?}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn stores_that_answer_late_each_time_are_no_copy_that_fails() {
        let [first, copy] = pair().await;
        copy.faults.fail(Op::List, "cases", 0, 1_000_000, Fault::Delay(Duration::from_secs(100)));
        let line = line_of(first, copy).await;
        assert!(line.what == "copy" && line.state == State::Holds, "a listing may begin late: {line:?}");
        let [first, copy] = pair().await;
        for store in [&first, &copy] {
            store.faults.fail(Op::Get, "", 0, 1_000_000, Fault::Delay(Duration::from_secs(25)));
        }
        let begun = Instant::now();
        let line = line_of(first, copy).await;
        assert!(line.what == "copy" && line.state == State::Untested, "{line:?}");
        assert!(line.detail.contains("was not known within 60 s") && line.remedy.contains("try again"), "{line:?}");
        assert_eq!(begun.elapsed().as_secs(), ANSWER_WITHIN.as_secs());
    }

    /// A store with a deployment, and one for its copy.
    async fn pair() -> [FaultyStore; 2] {
        let stores = [RemoteStore::memory(), RemoteStore::memory()].map(|store| FaultyStore::new(Arc::new(store)));
        let slot = LogName::Deployment.slot(0);
        stores[0].put_new(&slot, Payload::from_static(b"ours"), Digest::of(b"ours")).await.expect("written");
        stores
    }

    /// What the report says of the copy at last.
    async fn line_of(first: FaultyStore, copy: FaultyStore) -> Check {
        let mut report = CheckReport { store: first.describe(), lock: None, checks: Vec::new() };
        let looked = Box::pin(check(&mut report, Arc::new(first), Arc::new(copy), None));
        tokio::time::timeout(ANSWER_WITHIN * 10, looked).await.expect("it ends");
        report.checks.pop().expect("a line")
    }

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
