//! That the store refuses whoever looks at it lasts until a person has seen to it, and every try of every pass meets it, after every start.
//! It is an incident once for each reason, until the store could be looked at: the catalog keeps which. This program's own log says it
//! once for each reason after a start, and again after an hour.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::Digest;
use tokio::time::Instant;

use super::{in_copy, tell};
use crate::catalog::{Catalog, CatalogError};
use crate::parts::Parts;
use crate::store::{StoreError, Trouble};

/// What an incident of it is called.
pub(super) const KIND: &str = "store-unattested";
/// A reason that lasts is said again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// Reasons that are remembered; beyond, all are forgotten, and may be said again earlier. There are few: what helps is a text of this program.
const TOLD_MAX: usize = 256;
/// The name under which the catalog keeps which refusals are incidents already.
const CHORE: &str = "refused";
/// Places that are kept there, and reasons of each; beyond, they are forgotten, and may be told again.
const KEPT_MAX: usize = 64;

/// What was said here, and when: kind, place and reason.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<(String, String, String), Instant>>);

impl Refusals {
    fn key(kind: &str, place: &str, e: &StoreError) -> (String, String, String) {
        (kind.to_owned(), place.to_owned(), e.reason())
    }

    /// True when this reason was not said in the last hour, or not since the store could be looked at.
    fn is_due(&self, kind: &str, place: &str, e: &StoreError) -> bool {
        let told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(&Self::key(kind, place, e)).is_none_or(|at| at.elapsed() >= AGAIN)
    }

    fn note(&self, kind: &str, place: &str, e: &StoreError) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_MAX {
            told.clear();
        }
        told.insert(Self::key(kind, place, e), Instant::now());
    }

    fn end(&self, kind: &str, place: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        told.retain(|(of_kind, at, _), _| of_kind != kind || at != place);
    }
}

fn kind_in(copy_in: Option<&str>) -> &'static str {
    if copy_in.is_some() { in_copy(KIND) } else { KIND }
}

/// The reasons that are incidents, as digests, by kind and place.
type Kept = BTreeMap<String, BTreeSet<Digest>>;

fn kept_as(kind: &str, place: &str) -> String {
    format!("{kind} {place}")
}

async fn kept(catalog: &dyn Catalog) -> Result<Kept, CatalogError> {
    // What cannot be read was not written by this version.
    Ok(catalog.standing(CHORE).await?.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

async fn keep(catalog: &dyn Catalog, kept: &Kept) -> Result<(), CatalogError> {
    let text = serde_json::to_string(kept).map_err(|e| CatalogError::Failed(e.to_string()))?;
    catalog.set_standing(CHORE, text).await
}

/// Whether this reason is an incident since the store in `place` could be looked at.
async fn is_kept(catalog: &dyn Catalog, (kind, place): (&str, &str), e: &StoreError) -> Result<bool, CatalogError> {
    let reason = Digest::of(e.reason().as_bytes());
    Ok(kept(catalog).await?.get(&kept_as(kind, place)).is_some_and(|reasons| reasons.contains(&reason)))
}

/// This reason is an incident now.
async fn keep_told(catalog: &dyn Catalog, (kind, place): (&str, &str), e: &StoreError) -> Result<(), CatalogError> {
    let (mut kept, key) = (kept(catalog).await?, kept_as(kind, place));
    if kept.len() >= KEPT_MAX && !kept.contains_key(&key) {
        kept.clear();
    }
    let reasons = kept.entry(key).or_default();
    if reasons.len() >= KEPT_MAX {
        reasons.clear();
    }
    reasons.insert(Digest::of(e.reason().as_bytes()));
    keep(catalog, &kept).await
}

/// The store in `place` could be looked at.
async fn forget(catalog: &dyn Catalog, kind: &str, place: &str) -> Result<(), CatalogError> {
    let mut kept = kept(catalog).await?;
    if kept.remove(&kept_as(kind, place)).is_none() {
        return Ok(());
    }
    keep(catalog, &kept).await
}

/// Tells that the store in `place`, or its copy in `copy_in`, refuses whoever looks at it.
///
/// Order: (1) the incident; (2) the catalog knows that this reason is one. Died in between, the next start tells it once more.
pub(super) async fn tell_refused(parts: &Parts, place: &str, e: &StoreError, copy_in: Option<&str>) {
    // Two passes at once see the same.
    let _here = parts.attesting.refusing.lock().await;
    let (kind, refusals) = (kind_in(copy_in), &parts.attesting.refusals);
    if !refusals.is_due(kind, place, e) {
        return;
    }
    match is_kept(&*parts.catalog, (kind, place), e).await {
        Ok(true) => tracing::warn!(error = %e, place, "the store still cannot be attested, as an incident says; it goes on by itself"),
        Ok(false) => {
            let trouble = Trouble { kind: KIND, subject: place.to_owned(), detail: e.to_string() };
            if !tell(parts, &trouble, copy_in).await.is_told() {
                return;
            }
            if let Err(error) = keep_told(&*parts.catalog, (kind, place), e).await {
                tracing::warn!(%error, "that a refusal was told could not be kept; the next start may tell it again");
            }
        }
        Err(error) => {
            tracing::warn!(refusal = %e, place, %error, "the store could not be attested, and whether that was told could not be read; next try in a minute");
            return;
        }
    }
    refusals.note(kind, place, e);
}

/// The store in `place` could be looked at: what it refuses from now on is told at once.
pub(super) async fn looked_at(parts: &Parts, place: &str, copy_in: Option<&str>) {
    // Whoever tells of a refusal is not to keep it after this.
    let _here = parts.attesting.refusing.lock().await;
    let kind = kind_in(copy_in);
    parts.attesting.refusals.end(kind, place);
    if let Err(error) = forget(&*parts.catalog, kind, place).await {
        tracing::warn!(%error, "that the store could be attested could not be kept: the same refusal is no new incident until the next pass");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::sqlite::SqliteCatalog;
    use crate::store::Kind;

    #[tokio::test]
    async fn a_reason_stays_told_after_a_restart_until_the_store_could_be_looked_at() {
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("catalog.sqlite");
        let expired = |request: &str| StoreError::unheard(format!("could not list: 401 {request}"), "renew the credentials");
        let denied = StoreError::new(Kind::Denied, "could not list: 403", "compare the rights");
        let (store, copy) = ((KIND, "a"), ("copy-unattested", "a"));
        let catalog = SqliteCatalog::create(&file).await.expect("catalog");
        assert!(!is_kept(&catalog, store, &expired("1")).await.expect("read"));
        keep_told(&catalog, store, &expired("1")).await.expect("kept");
        keep_told(&catalog, copy, &denied).await.expect("kept");
        catalog.close().await;
        drop(catalog);

        let catalog = SqliteCatalog::open(&file).await.expect("the next process");
        let again = expired("2");
        for (place, e, is) in [(store, &again, true), (store, &denied, false), (copy, &denied, true), ((KIND, "b"), &again, false)] {
            assert_eq!(is_kept(&catalog, place, e).await.expect("read"), is, "{place:?} {e}");
        }
        keep_told(&catalog, store, &denied).await.expect("kept");
        assert!(is_kept(&catalog, store, &expired("3")).await.expect("read"), "what comes by turns is told once");
        forget(&catalog, KIND, "a").await.expect("kept");
        for (place, is) in [(store, false), (copy, true)] {
            assert_eq!(is_kept(&catalog, place, &denied).await.expect("read"), is, "{place:?}");
        }
        for n in 0..3 * KEPT_MAX {
            let e = StoreError::new(Kind::Denied, "403", n.to_string());
            keep_told(&catalog, (KIND, &n.to_string()), &denied).await.expect("kept");
            keep_told(&catalog, store, &e).await.expect("kept");
        }
        let kept = kept(&catalog).await.expect("read");
        assert!(kept.len() <= KEPT_MAX && kept.values().all(|reasons| reasons.len() <= KEPT_MAX), "bounded");
    }

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_said_once_an_hour_and_anew_after_the_store_could_be_looked_at() {
        let refusals = Refusals::default();
        let expired = |request: &str| StoreError::unheard(format!("could not list: 401 {request}"), "renew the credentials");
        let denied = StoreError::new(Kind::Denied, "could not list: 403", "compare the rights");
        assert!(refusals.is_due(KIND, "a", &expired("1")));
        assert!(refusals.is_due(KIND, "a", &expired("1")), "as long as it could not be told");
        refusals.note(KIND, "a", &expired("1"));
        for minute in 0..59 {
            assert!(!refusals.is_due(KIND, "a", &expired(&minute.to_string())), "another request is no other reason");
            tokio::time::advance(Duration::from_mins(1)).await;
        }
        assert!(refusals.is_due(KIND, "a", &denied), "something else is to be done");
        refusals.note(KIND, "a", &denied);
        assert!(!refusals.is_due(KIND, "a", &expired("2")), "what is told by turns is told once");
        assert!(refusals.is_due(KIND, "b", &expired("1")) && refusals.is_due("copy-unattested", "a", &expired("1")), "another store");
        tokio::time::advance(Duration::from_mins(1)).await;
        assert!(refusals.is_due(KIND, "a", &expired("3")) && !refusals.is_due(KIND, "a", &denied), "an hour later");
        refusals.note(KIND, "b", &denied);
        refusals.end(KIND, "a");
        assert!(refusals.is_due(KIND, "a", &denied) && !refusals.is_due(KIND, "b", &denied), "it could be looked at in between");
        for n in 0..3 * TOLD_MAX {
            refusals.note(KIND, &n.to_string(), &denied);
        }
        assert!(refusals.0.lock().expect("lock").len() <= TOLD_MAX);
    }
}
