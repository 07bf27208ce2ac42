//! What a pass found, kept before it is mended; and what lasts and harms no evidence, told once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use futures::future::BoxFuture;

use super::refusals::KIND as UNATTESTED;
use super::{in_copy, kept, tell};
use crate::custody;
use crate::incidents::Reported;
use crate::parts::Parts;
use crate::store::attest::{HELD, Keeper};
use crate::store::{Kind, StoreError, Trouble};

/// The name under which the catalog keeps what was told once.
const CHORE: &str = "held";
/// Subjects that are kept, of some 120 bytes each. What more there are is told again, by each pass and at most once an hour.
const KEPT_MAX: usize = 2_000;
/// Sentences about one of them that are kept; beyond, they are forgotten, and may be told again.
const SAID_MAX: usize = 64;
/// What is told while nobody can say whether it was, or of which nothing can be kept, is told again after so long.
const AGAIN: Duration = Duration::from_hours(1);
/// The kind under which this process remembers that.
const IN_DOUBT: &str = "in doubt";
/// How names begin of what a pass over a case saw of the bucket, of what a verification saw, of what was seen behind a write, and of cases that
/// the catalog lacks.
const PART: &str = "part ";
const PROBE: &str = "probe ";
const WRITTEN: &str = "written ";
const LACKING: &str = "lacking ";
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

/// What was told last, as digests, by kind and subject: one kind of trouble with one subject may come in several sentences.
type Told = BTreeMap<String, BTreeSet<Digest>>;

/// What is told once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    /// What a pass over everything saw: what it saw no more is forgotten, so that it is told when it comes again.
    All,
    /// What a pass over a case saw.
    OfCase,
    /// What keeps a disposal waiting.
    Waits,
    /// What a scheduled verification saw of the store before it read it; what it saw no more is forgotten.
    Probe,
    /// What was seen behind a write, until a pass over everything sees nothing of the kind.
    Written,
    /// Some of the cases that the catalog lacks.
    Lacking,
    /// All of them; what is no more among them is forgotten.
    AllLacking,
}

/// A trouble under the name by which it is told once.
#[derive(Debug)]
struct Named {
    /// Its kind, as it is called in the store or in the copy, and its subject.
    place: String,
    key: String,
    digest: Digest,
}

impl Named {
    /// Whether it can be kept beside what is.
    fn has_room(&self, told: &Told) -> bool {
        told.len() < KEPT_MAX || told.contains_key(&self.key)
    }

    /// What this process remembers in the place of the catalog.
    fn mark(&self, kind: &'static str) -> Trouble {
        Trouble { kind, subject: format!("{} {}", self.key, self.digest), detail: String::new() }
    }
}

impl Lasting {
    fn named(self, kind: &str, trouble: &Trouble) -> Named {
        let before = match self {
            // A pass over a case sees of the bucket a part of what one over everything does, in a sentence of its own.
            Self::OfCase if !trouble.subject.starts_with("cases/") => PART,
            Self::All | Self::OfCase => "",
            Self::Waits => "waits ",
            Self::Probe => PROBE,
            Self::Written => WRITTEN,
            Self::Lacking | Self::AllLacking => LACKING,
        };
        let place = format!("{kind} {}", trouble.subject);
        // Behind a write each object has its own words, and the same is to be done about all.
        let said = if self == Self::Written { remedy_in(&trouble.detail) } else { trouble.detail.as_str() };
        Named { key: format!("{before}{place}"), place, digest: Digest::of(said.as_bytes()) }
    }

    /// Whether this was told.
    fn is_told(self, told: &Told, named: &Named) -> bool {
        let has = |key: &str| told.get(key).is_some_and(|digests| digests.contains(&named.digest));
        let is_of_pass = matches!(self, Self::All | Self::OfCase);
        has(&named.key) || (is_of_pass && (has(&named.place) || has(&format!("{PART}{}", named.place))))
    }

    /// Notes of what was seen what is told, `newly` or before, and forgets what is over. `kinds` are those that last.
    fn note(self, told: &mut Told, seen: &[Named], newly: &[bool], kinds: &[String]) {
        let is_there = |place: &str| seen.iter().any(|named| named.place == place);
        match self {
            // Of what a pass over everything sees no more nothing is left, whoever saw it.
            Self::All => told.retain(|key, _| {
                let place = [PART, WRITTEN].into_iter().find_map(|before| key.strip_prefix(before)).unwrap_or(key.as_str());
                !kinds.iter().any(|kind| place.strip_prefix(kind.as_str()).is_some_and(|rest| rest.starts_with(' '))) || is_there(place)
            }),
            Self::Probe => told.retain(|key, _| key.strip_prefix(PROBE).is_none_or(is_there)),
            Self::AllLacking => told.retain(|key, _| key.strip_prefix(LACKING).is_none_or(is_there)),
            Self::OfCase | Self::Waits | Self::Written | Self::Lacking => {}
        }
        let is_known: Vec<bool> = seen.iter().zip(newly).map(|(named, newly)| *newly || self.is_told(told, named)).collect();
        // What was said before of the same, and is not any more, is told when it comes again.
        if self != Self::Written {
            for named in seen {
                told.remove(&named.key);
            }
        }
        for (named, _) in seen.iter().zip(is_known).filter(|(_, is_known)| *is_known) {
            if !named.has_room(told) {
                continue;
            }
            let digests = told.entry(named.key.clone()).or_default();
            if digests.len() >= SAID_MAX {
                digests.clear();
            }
            digests.insert(named.digest);
        }
    }
}

/// What helps, as an error says it at its end: `what happened (what helps)`.
fn remedy_in(detail: &str) -> &str {
    if !detail.ends_with(')') {
        return detail;
    }
    let mut depth = 0_u32;
    for (at, c) in detail.char_indices().rev() {
        match c {
            ')' => depth = depth.saturating_add(1),
            '(' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return detail.get(at..).unwrap_or(detail);
        }
    }
    detail
}

/// Tells these, unless the catalog knows that the same was told. Where it does not say, or has no room, they are told, once an hour.
pub(super) async fn tell_lasting(parts: &Parts, troubles: &[Trouble], copy_in: Option<&str>, lasting: Lasting) {
    let _here = parts.attesting.lasting.lock().await;
    let before = kept::read::<Told>(&*parts.catalog, CHORE).await;
    if let Err(error) = &before {
        tracing::warn!(%error, "what was told of locks could not be read: what is wrong is told, at most once an hour");
    }
    let of_kind = |kind: &'static str| if copy_in.is_some() { in_copy(kind) } else { kind };
    let seen: Vec<Named> = troubles.iter().map(|trouble| lasting.named(of_kind(trouble.kind), trouble)).collect();
    let mut newly = Vec::with_capacity(seen.len());
    for (trouble, named) in troubles.iter().zip(&seen) {
        newly.push(match &before {
            Ok(told) if lasting.is_told(told, named) => false,
            Ok(told) if named.has_room(told) => tell(parts, trouble, copy_in).await.is_told(),
            Ok(_) | Err(_) => tell_in_doubt(parts, trouble, copy_in, named).await,
        });
    }
    let kinds = LASTING.map(|kind| of_kind(kind).to_owned());
    if let Err(error) = kept::change(&*parts.catalog, CHORE, |told: &mut Told| lasting.note(told, &seen, &newly, &kinds)).await {
        tracing::warn!(%error, "what was told of locks could not be kept; it is told again");
    }
}

/// True when it is an incident now. It is said once an hour: the same may come with each look, or each write, while nobody knows whether it
/// was told.
async fn tell_in_doubt(parts: &Parts, trouble: &Trouble, copy_in: Option<&str>, named: &Named) -> bool {
    let mark = named.mark(trouble.kind);
    if parts.attesting.was_told_within(IN_DOUBT, &mark, AGAIN) {
        return false;
    }
    let reported = tell(parts, trouble, copy_in).await;
    if reported != Reported::Limited {
        parts.attesting.note_told(IN_DOUBT, &mark);
    }
    reported.is_told()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trouble(kind: &'static str, subject: &str, detail: &str) -> Trouble {
        Trouble { kind, subject: subject.to_owned(), detail: detail.to_owned() }
    }

    /// Which of these are told, as by a pass that can tell them all.
    fn look(told: &mut Told, lasting: Lasting, troubles: &[Trouble]) -> Vec<bool> {
        let seen: Vec<Named> = troubles.iter().map(|trouble| lasting.named(trouble.kind, trouble)).collect();
        let newly: Vec<bool> = seen.iter().map(|named| !lasting.is_told(told, named)).collect();
        lasting.note(told, &seen, &newly, &LASTING.map(str::to_owned));
        newly
    }

    #[test]
    fn two_sentences_about_one_place_are_told_once_each_and_anew_when_they_come_back() {
        let (full, unread) = (trouble(UNATTESTED, "s3://b", "the list is full"), trouble(UNATTESTED, "s3://b", "no lock can be read"));
        let both = [full.clone(), unread.clone()];
        let mut told = Told::new();
        assert_eq!(look(&mut told, Lasting::All, &both), [true, true]);
        assert_eq!(look(&mut told, Lasting::All, &both), [false, false], "neither takes the other's place");
        assert_eq!(look(&mut told, Lasting::All, &both[..1]), [false]);
        assert_eq!(look(&mut told, Lasting::All, &both), [false, true], "it ended in between");
        assert_eq!(look(&mut told, Lasting::All, &[]), [false; 0]);
        assert!(told.is_empty());

        let held = [trouble(HELD, "cases/x", "one object"), trouble(HELD, "cases/x", "two objects")];
        for (n, is_new) in [(0, true), (1, true), (0, true), (1, true), (1, false)] {
            assert_eq!(look(&mut told, Lasting::All, &held[n..=n]), [is_new], "what somebody does again is told again");
        }
    }

    #[test]
    fn a_pass_over_a_case_and_one_over_everything_tell_of_the_bucket_by_turns_once() {
        let (alone, joined) = (trouble(UNATTESTED, "s3://b", "holds"), trouble(UNATTESTED, "s3://b", "holds; the deployment's log"));
        let mut told = Told::new();
        for is_new in [true, false, false] {
            assert_eq!(look(&mut told, Lasting::OfCase, std::slice::from_ref(&alone)), [is_new]);
            assert_eq!(look(&mut told, Lasting::All, std::slice::from_ref(&joined)), [is_new]);
        }
        let case = trouble(HELD, "cases/x", "a hold");
        assert_eq!(look(&mut told, Lasting::OfCase, std::slice::from_ref(&case)), [true]);
        assert_eq!(look(&mut told, Lasting::All, &[case, joined]), [false, false], "whichever saw it");
        assert_eq!(look(&mut told, Lasting::All, &[]), [false; 0]);
        assert_eq!(look(&mut told, Lasting::OfCase, std::slice::from_ref(&alone)), [true], "it could be looked at");
    }

    #[test]
    fn what_may_not_be_read_behind_a_write_is_told_once_until_a_pass_reads_it() {
        let unread = |n: u32| trouble(UNATTESTED, "cases/x", &format!("could not look at 'cases/x/{n}': 403 no (give (all) rights)"));
        let other = trouble(UNATTESTED, "cases/x", "could not look at 'cases/x/1': 403 no (another thing)");
        let mut told = Told::new();
        for (trouble, is_new) in [(unread(1), true), (unread(2), false), (other.clone(), true), (unread(3), false), (other, false)] {
            assert_eq!(look(&mut told, Lasting::Written, std::slice::from_ref(&trouble)), [is_new], "{trouble:?}");
        }
        let of_pass = trouble(UNATTESTED, "cases/x", "its lock cannot be read");
        assert_eq!(look(&mut told, Lasting::All, std::slice::from_ref(&of_pass)), [true]);
        assert_eq!(look(&mut told, Lasting::Written, &[unread(4)]), [false], "it lasts");
        assert_eq!(look(&mut told, Lasting::All, &[]), [false; 0]);
        assert_eq!(look(&mut told, Lasting::Written, &[unread(5)]), [true], "the right was there in between");

        let probe = trouble(UNATTESTED, "s3://b", "the lock of the probe");
        for is_new in [true, false] {
            assert_eq!(look(&mut told, Lasting::Probe, std::slice::from_ref(&probe)), [is_new]);
        }
        assert_eq!(look(&mut told, Lasting::Probe, &[]), [false; 0]);
        assert_eq!(look(&mut told, Lasting::Probe, &[probe]), [true], "it could be read in between");
    }

    #[test]
    fn a_case_that_the_catalog_lacks_is_told_once_until_it_is_not_lacking() {
        let (one, other) = (trouble("recovery", "cases/x", "its log has more"), trouble("recovery", "cases/y", "its log has more"));
        let mut told = Told::new();
        assert_eq!(look(&mut told, Lasting::AllLacking, &[one.clone(), other.clone()]), [true, true]);
        assert_eq!(look(&mut told, Lasting::Lacking, std::slice::from_ref(&one)), [false], "cut short, by a store that is away");
        assert_eq!(look(&mut told, Lasting::All, &[]), [false; 0]);
        assert_eq!(look(&mut told, Lasting::AllLacking, &[one.clone(), other]), [false, false], "the next start");
        assert_eq!(look(&mut told, Lasting::AllLacking, &[]), [false; 0]);
        assert_eq!(look(&mut told, Lasting::AllLacking, &[one]), [true], "it was there in between");
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_be_kept_is_told_once_an_hour_whichever_object_was_written() {
        let mut told: Told = (0..KEPT_MAX).map(|n| (format!("{UNATTESTED} cases/{n}"), BTreeSet::new())).collect();
        let unread = |n: u32| trouble(UNATTESTED, "cases/x", &format!("could not look at 'cases/x/{n}': 403 no (give rights)"));
        assert_eq!(look(&mut told, Lasting::Written, &[unread(1)]), [true]);
        let named = |trouble: &Trouble| Lasting::Written.named(trouble.kind, trouble);
        assert!(told.len() == KEPT_MAX && !named(&unread(1)).has_room(&told), "it is not kept");
        assert!(Lasting::All.named(UNATTESTED, &trouble(UNATTESTED, "cases/0", "another sentence")).has_room(&told));

        let (desk, mark) = (super::super::Desk::default(), |trouble: &Trouble| named(trouble).mark(UNATTESTED));
        desk.note_told(IN_DOUBT, &mark(&unread(1)));
        let other = trouble(UNATTESTED, "cases/x", "could not look at 'cases/x/1': 403 no (another thing)");
        assert!(!desk.was_told_within(IN_DOUBT, &mark(&other), AGAIN), "something else is to be done");
        desk.note_told(IN_DOUBT, &mark(&other));
        for n in 1..4 {
            assert!(desk.was_told_within(IN_DOUBT, &mark(&unread(n)), AGAIN), "{n}");
        }
        tokio::time::advance(AGAIN).await;
        assert!(!desk.was_told_within(IN_DOUBT, &mark(&unread(1)), AGAIN));
    }
}
