//! That the store refuses whoever looks at it lasts until a person has seen to it, and every try of every pass meets it: it is told once
//! for each reason, and again after an hour.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::{in_copy, tell};
use crate::parts::Parts;
use crate::store::{StoreError, Trouble};

const KIND: &str = "store-unattested";
/// A reason that lasts is told again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// Reasons that are remembered; beyond, all are forgotten, and may be told again earlier. There are few: what helps is a text of this program.
const TOLD_MAX: usize = 256;

/// What was told, and when: kind, place and reason.
#[derive(Debug, Default)]
pub(super) struct Refusals(Mutex<HashMap<(String, String, String), Instant>>);

impl Refusals {
    fn key(kind: &str, place: &str, e: &StoreError) -> (String, String, String) {
        // Messages name objects and requests that change with each try.
        (kind.to_owned(), place.to_owned(), format!("{}: {}", e.word(), e.remedy()))
    }

    /// True when this reason was not told in the last hour, or not since the store could be looked at.
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

/// Tells that the store in `place`, or its copy in `copy_in`, refuses whoever looks at it.
pub(super) async fn tell_refused(parts: &Parts, place: &str, e: &StoreError, copy_in: Option<&str>) {
    // Two passes at once see the same.
    let _here = parts.attesting.refusing.lock().await;
    let (kind, refusals) = (kind_in(copy_in), &parts.attesting.refusals);
    if !refusals.is_due(kind, place, e) {
        return;
    }
    let trouble = Trouble { kind: KIND, subject: place.to_owned(), detail: e.to_string() };
    if tell(parts, &trouble, copy_in).await.is_told() {
        refusals.note(kind, place, e);
    }
}

/// The store in `place` could be looked at: what it refuses from now on is told at once.
pub(super) fn looked_at(parts: &Parts, place: &str, copy_in: Option<&str>) {
    parts.attesting.refusals.end(kind_in(copy_in), place);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Kind;

    #[tokio::test(start_paused = true)]
    async fn a_reason_is_told_once_an_hour_and_anew_after_the_store_could_be_looked_at() {
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
