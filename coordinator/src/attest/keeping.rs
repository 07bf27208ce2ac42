//! What a pass found, kept before it is mended; and what lasts and harms no evidence, told once.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use futures::future::BoxFuture;

use super::refusals::KIND as UNATTESTED;
use super::{in_copy, tell};
use crate::custody;
use crate::incidents::Reported;
use crate::parts::Parts;
use crate::store::attest::{HELD, Keeper};
use crate::store::{Kind, StoreError, Trouble};

/// The name under which the catalog keeps what was told once.
const CHORE: &str = "held";
/// Subjects that are kept, of some 120 bytes each. What more there are is told by each pass.
const KEPT_MAX: usize = 2_000;
/// The kinds of what stays so until a person has seen to it: a pass, or a start, that sees the same has nothing new to tell.
const LASTING: [&str; 2] = [HELD, UNATTESTED];

/// True of a kind that is told once as long as it stays the same.
pub(super) fn lasts(kind: &str) -> bool {
    LASTING.contains(&kind)
}

/// Keeps a trouble as an incident.
pub(super) struct Keeping {
    pub(super) parts: Arc<Parts>,
    /// The copy that is looked at, if it is one.
    pub(super) copy_in: Option<String>,
}

impl fmt::Debug for Keeping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Keeping({:?})", self.copy_in)
    }
}

impl Keeping {
    async fn keep_all(&self, troubles: &[Trouble]) -> Result<(), StoreError> {
        let (parts, copy_in) = (&*self.parts, self.copy_in.as_deref());
        for trouble in troubles {
            let kind = if copy_in.is_some() { in_copy(trouble.kind) } else { trouble.kind };
            if parts.attesting.was_told(kind, trouble) {
                continue;
            }
            if !tell(parts, trouble, copy_in).await.is_told() {
                let what = format!("what is wrong with locks of {} could not be kept, so nothing was set again", trouble.subject);
                return Err(StoreError::new(Kind::Retry, what, "it is tried again"));
            }
            parts.attesting.note_told(kind, trouble);
        }
        Ok(())
    }
}

impl Keeper for Keeping {
    fn awaits<'a>(&'a self, case: &'a CaseId) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async move {
            let number = custody::raising::number(&self.parts, case).await;
            number.map(|number| number.is_some()).map_err(|e| StoreError::new(Kind::Retry, e.to_string(), "it is tried again"))
        })
    }

    fn keep(&self, troubles: Vec<Trouble>) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(async move { self.keep_all(&troubles).await })
    }
}

/// What was told last, as a digest, by its kind and subject.
type Told = BTreeMap<String, Digest>;

/// What is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// What a pass over everything saw: what it saw no more is forgotten, so that it is told when it comes again.
    All,
    /// What a pass over a case saw.
    OfCase,
    /// What keeps a disposal waiting.
    Waits,
}

impl Lasting {
    fn key(self, kind: &str, trouble: &Trouble) -> String {
        let waits = if self == Self::Waits { "waits " } else { "" };
        format!("{waits}{kind} {}", trouble.subject)
    }
}

/// Tells these, unless the catalog knows that the same was told.
pub(super) async fn tell_lasting(parts: &Parts, troubles: &[Trouble], copy_in: Option<&str>, lasting: Lasting) {
    let _here = parts.attesting.lasting.lock().await;
    let before = match parts.catalog.standing(CHORE).await {
        // What cannot be read was not written by this version.
        Ok(text) => text.and_then(|text| serde_json::from_str::<Told>(&text).ok()).unwrap_or_default(),
        Err(error) => {
            tracing::warn!(%error, "what was told of locks could not be read; the next pass looks again");
            return;
        }
    };
    let of_kind = |kind: &'static str| if copy_in.is_some() { in_copy(kind) } else { kind };
    let mut after = before.clone();
    if lasting == Lasting::All {
        let is_there = |known: &String| troubles.iter().any(|trouble| *known == lasting.key(of_kind(trouble.kind), trouble));
        let prefixes = LASTING.map(|kind| format!("{} ", of_kind(kind)));
        after.retain(|known, _| !prefixes.iter().any(|prefix| known.starts_with(prefix)) || is_there(known));
    }
    for trouble in troubles {
        let (key, digest) = (lasting.key(of_kind(trouble.kind), trouble), Digest::of(trouble.detail.as_bytes()));
        let is_told = after.get(&key) == Some(&digest) || tell(parts, trouble, copy_in).await == Reported::Told;
        if is_told && (after.len() < KEPT_MAX || after.contains_key(&key)) {
            after.insert(key, digest);
        }
    }
    if after == before {
        return;
    }
    let kept = match serde_json::to_string(&after) {
        Ok(text) => parts.catalog.set_standing(CHORE, text).await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    if let Err(error) = kept {
        tracing::warn!(%error, "what was told of locks could not be kept; it is told again");
    }
}
