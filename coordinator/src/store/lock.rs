//! Locks: until when the store itself refuses to delete or replace a version of an object, whoever asks.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::sync::{PoisonError, RwLock};

use exhibit_evidence::Timestamp;
use exhibit_evidence::id::{CaseId, CollectionId};
use serde::Deserialize;

/// The longest lock that a configuration may ask for: 100 years, S3's own bound.
pub const LOCK_DAYS_MAX: u32 = 36_500;
const DAY_S: i64 = 86_400;

/// How hard a lock is. The order is that of strength.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LockMode {
    /// Whoever has a right for that can take it off (on S3 `s3:BypassGovernanceRetention`); Google and Azure call it unlocked.
    Governance,
    /// Nobody can, the owner of the account included, before its day.
    Compliance,
}

impl LockMode {
    /// As S3 writes it.
    #[must_use]
    pub const fn as_s3(self) -> &'static str {
        match self {
            Self::Governance => "GOVERNANCE",
            Self::Compliance => "COMPLIANCE",
        }
    }

    pub(super) fn from_s3(text: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|m| m.as_s3() == text)
    }

    /// As Google's JSON API and Azure write it.
    pub(super) const fn as_state(self) -> &'static str {
        match self {
            Self::Governance => "Unlocked",
            Self::Compliance => "Locked",
        }
    }

    /// Azure's answers write it small, its reference says both.
    pub(super) fn from_state(text: &str) -> Option<Self> {
        [Self::Governance, Self::Compliance].into_iter().find(|m| m.as_state().eq_ignore_ascii_case(text))
    }
}

/// What the operator asks for every object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, serde::Serialize)]
#[serde(deny_unknown_fields)]
pub struct LockPolicy {
    /// How hard.
    pub mode: LockMode,
    /// Days from the writing of an object, 1 to [`LOCK_DAYS_MAX`].
    pub days: u32,
}

impl LockPolicy {
    /// The end of a lock over what is written at `written`, in whole seconds as S3 keeps it, rounded up.
    #[must_use]
    pub fn until(&self, written: Timestamp) -> Timestamp {
        Timestamp::from_unix_s(written.unix_ns().div_euclid(1_000_000_000).saturating_add(1)).plus_s(i64::from(self.days) * DAY_S)
    }
}

impl std::str::FromStr for LockPolicy {
    type Err = String;

    /// `MODE:DAYS`, as on the command line.
    fn from_str(text: &str) -> Result<Self, String> {
        let (mode, days) = text.split_once(':').unwrap_or((text, ""));
        let mode = LockMode::from_s3(&mode.to_uppercase());
        match (mode, days.parse::<u32>()) {
            (Some(mode), Ok(days)) if (1..=LOCK_DAYS_MAX).contains(&days) => Ok(Self { mode, days }),
            _ => Err(format!("expected compliance:DAYS or governance:DAYS with 1 to {LOCK_DAYS_MAX} days, like compliance:365")),
        }
    }
}

impl fmt::Display for LockPolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} for {} days", self.mode.as_s3(), self.days)
    }
}

/// A lock that a version is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// How hard.
    pub mode: LockMode,
    /// Until when.
    pub until: Timestamp,
    /// A legal hold, which has no end of its own.
    pub hold: bool,
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} until {}{}", self.mode.as_s3(), seconds_text(self.until), if self.hold { " and a legal hold" } else { "" })
    }
}

/// What the store says of a version's lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// How hard, when there is a retention.
    pub mode: Option<LockMode>,
    /// Until when.
    pub until: Option<Timestamp>,
    /// A legal hold is on.
    pub hold: bool,
}

impl Seen {
    /// True when mode and date are at least those of `want`, give or take `slack_s` seconds.
    #[must_use]
    pub fn retains(&self, want: &Lock, slack_s: i64) -> bool {
        self.mode.is_some_and(|m| m >= want.mode) && self.until.is_some_and(|u| u.plus_s(slack_s) >= want.until)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.mode, self.until) {
            (Some(mode), Some(until)) => write!(f, "{} until {}", mode.as_s3(), seconds_text(until))?,
            _ => f.write_str("no retention")?,
        }
        f.write_str(if self.hold { " and a legal hold" } else { "" })
    }
}

/// RFC 3339 in whole seconds, which is what S3 takes everywhere.
pub(super) fn seconds_text(t: Timestamp) -> String {
    let text = t.to_string();
    format!("{}Z", text.get(..19).unwrap_or_default())
}

/// A time of the store, in UTC with or without a fraction, which is left out.
pub(super) fn parse_time(text: &str) -> Option<Timestamp> {
    let rest = text.get(19..)?;
    if !(rest.ends_with('Z') || rest.ends_with("+00:00")) {
        return None;
    }
    format!("{}.000000000Z", text.get(..19)?).parse().ok()
}

/// What custody asks for the objects of one case, beyond the operator's policy.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protection {
    /// Until when the case is to be kept.
    pub until: Option<Timestamp>,
    /// A hold stands on all of the case.
    pub held: bool,
    /// Collections on which a hold stands.
    pub held_collections: BTreeSet<CollectionId>,
    /// Collections for which it came too late: they are being destroyed.
    pub condemned: BTreeSet<CollectionId>,
    /// A hold on all of the case was released.
    pub released: bool,
    /// Collections on which a hold stood that was released.
    pub released_collections: BTreeSet<CollectionId>,
}

/// Heads are replaced: checkpoints, and what witnesses cosigned. All else is created once.
pub(super) fn is_replaced(name: &str) -> bool {
    name.ends_with("/log/checkpoint") || name.contains("/log/cosigned/")
}

/// The policy, and what is known of cases: one small entry for each case whose log was opened.
#[derive(Debug)]
pub(super) struct Locks {
    policy: LockPolicy,
    /// The heads of a held case have its hold.
    holds_heads: bool,
    cases: RwLock<HashMap<String, Protection>>,
}

impl Locks {
    /// `holds_heads`: the store is known to put a new version on top of a held one. Where it is not, heads have no hold, because the
    /// log of a held case could stand still; the records under them have it.
    pub(super) fn new(policy: LockPolicy, holds_heads: bool) -> Self {
        Self { policy, holds_heads, cases: RwLock::default() }
    }

    /// The lock by the operator's policy alone.
    pub(super) fn by_policy(&self, written: Timestamp) -> Lock {
        Lock { mode: self.policy.mode, until: self.policy.until(written), hold: false }
    }

    pub(super) fn protect(&self, case: &CaseId, protection: Protection) {
        self.cases.write().unwrap_or_else(PoisonError::into_inner).insert(case.to_string(), protection);
    }

    /// The lock of an object that was or is written at `written`: the later of policy and case. The second value says
    /// whether custody of its case is known, so that the absence of a hold means something.
    pub(super) fn of(&self, name: &str, written: Timestamp) -> (Lock, bool) {
        let mut lock = self.by_policy(written);
        let mut parts = name.split('/');
        let (Some("cases"), Some(case)) = (parts.next(), parts.next()) else { return (lock, true) };
        let cases = self.cases.read().unwrap_or_else(PoisonError::into_inner);
        let Some(protection) = cases.get(case) else { return (lock, false) };
        lock.until = lock.until.max(protection.until.unwrap_or(lock.until));
        lock.hold = match (parts.next(), parts.next()) {
            _ if self.bears_no_hold(name) => false,
            (Some("collections"), Some(id)) => {
                let id: Option<CollectionId> = id.parse().ok();
                let in_set = |set: &BTreeSet<CollectionId>| id.as_ref().is_some_and(|id| set.contains(id));
                in_set(&protection.held_collections) || (protection.held && !in_set(&protection.condemned))
            }
            // The log and its timestamps bear witness to whatever is held.
            _ => protection.held || !protection.held_collections.is_empty(),
        };
        (lock, true)
    }

    /// True for what is never to have a hold, whatever custody says: what belongs to no case, and heads where a hold may keep them
    /// from being replaced.
    pub(super) fn bears_no_hold(&self, name: &str) -> bool {
        !name.starts_with("cases/") || self.hold_hampers(name)
    }

    /// True for what a hold of custody covered that was released, as far as custody of its case is known here: a hold that is still on it
    /// may be that one.
    pub(super) fn was_held(&self, name: &str) -> bool {
        let mut parts = name.split('/');
        let (Some("cases"), Some(case)) = (parts.next(), parts.next()) else { return false };
        let cases = self.cases.read().unwrap_or_else(PoisonError::into_inner);
        let Some(protection) = cases.get(case) else { return false };
        match (parts.next(), parts.next().map(str::parse::<CollectionId>)) {
            (Some("collections"), Some(Ok(id))) => protection.released || protection.released_collections.contains(&id),
            _ => protection.released || !protection.released_collections.is_empty(),
        }
    }

    /// True where a hold may keep what is replaced from being replaced.
    pub(super) fn hold_hampers(&self, name: &str) -> bool {
        is_replaced(name) && !self.holds_heads
    }

    /// True for what is being destroyed, as far as custody of its case is known here.
    pub(super) fn is_condemned(&self, name: &str) -> bool {
        let mut parts = name.split('/');
        let (Some("cases"), Some(case), Some("collections"), Some(id)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return false;
        };
        let Ok(id) = id.parse::<CollectionId>() else { return false };
        let cases = self.cases.read().unwrap_or_else(PoisonError::into_inner);
        cases.get(case).is_some_and(|protection| protection.condemned.contains(&id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Digest;

    #[test]
    fn the_later_of_policy_and_case_and_holds_where_they_stand() {
        let locks = Locks::new(LockPolicy { mode: LockMode::Compliance, days: 10 }, true);
        let (case, held) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&Digest::of(b"held")));
        let free = CollectionId::from_digest(&Digest::of(b"free"));
        let written = Timestamp::from_unix_ns(1_500_000_000);
        let name = |c: &CollectionId| format!("cases/{case}/collections/{c}/s1/00000000.tar.zst");
        assert_eq!(locks.of("deployment/log/seq/0", written).0.until, Timestamp::from_unix_s(2 + 864_000));
        assert!(!locks.of(&name(&held), written).1, "nothing is known of the case yet");
        let far = Timestamp::from_unix_s(10_000_000);
        locks.protect(
            &case,
            Protection { until: Some(far), held: false, held_collections: BTreeSet::from([held.clone()]), ..Protection::default() },
        );
        let (lock, known) = locks.of(&name(&held), written);
        assert_eq!((lock, known), (Lock { mode: LockMode::Compliance, until: far, hold: true }, true));
        assert!(!locks.of(&name(&free), written).0.hold && locks.of(&format!("cases/{case}/log/seq/1"), written).0.hold);
        // Heads have it where that keeps nobody from replacing them.
        let without = Locks::new(LockPolicy { mode: LockMode::Compliance, days: 10 }, false);
        without.protect(&case, Protection { held: true, ..Protection::default() });
        for head in ["log/checkpoint", "log/cosigned/0a1b2c3d/7"] {
            let (head, slot) = (format!("cases/{case}/{head}"), format!("cases/{case}/log/seq/1"));
            assert!(locks.of(&head, written).0.hold && !locks.bears_no_hold(&head), "{head}");
            assert!(!without.of(&head, written).0.hold && without.bears_no_hold(&head), "{head}");
            assert!(without.of(&slot, written).0.hold && !without.bears_no_hold(&slot));
        }
        assert!(locks.bears_no_hold("deployment/log/checkpoint") && locks.bears_no_hold("deployment/log/seq/0"));
        // A retention that ends earlier than the policy shortens nothing.
        locks.protect(&case, Protection { until: Some(written), held: true, ..Protection::default() });
        let lock = locks.of(&name(&free), written).0;
        assert!(lock.hold && lock.until == Timestamp::from_unix_s(2 + 864_000));
        assert!(!locks.is_condemned(&name(&free)));
        locks.protect(&case, Protection { condemned: BTreeSet::from([free.clone()]), ..Protection::default() });
        assert!(locks.is_condemned(&name(&free)) && !locks.is_condemned(&name(&held)));
        assert!(!locks.is_condemned(&format!("cases/{case}/log/seq/1")) && !locks.is_condemned("deployment/log/checkpoint"));
        // What a released hold covered, and nothing else.
        locks.protect(&case, Protection { released_collections: BTreeSet::from([free.clone()]), ..Protection::default() });
        assert!(locks.was_held(&name(&free)) && !locks.was_held(&name(&held)) && locks.was_held(&format!("cases/{case}/log/seq/1")));
        locks.protect(&case, Protection::default());
        assert!(!locks.was_held(&name(&free)) && !locks.was_held("deployment/log/seq/1"));
        locks.protect(&case, Protection { released: true, ..Protection::default() });
        assert!(locks.was_held(&name(&held)));
    }

    #[test]
    fn policies_are_read_from_the_command_line() {
        assert_eq!("governance:30".parse(), Ok(LockPolicy { mode: LockMode::Governance, days: 30 }));
        for bad in ["", "compliance", "compliance:", "compliance:0", "compliance:36501", "none:1", "compliance:-1"] {
            assert!(bad.parse::<LockPolicy>().is_err(), "{bad}");
        }
    }

    #[test]
    fn times_of_stores_are_read_and_written_in_seconds() {
        let t = Timestamp::from_unix_s(1_767_225_600);
        assert_eq!(seconds_text(t), "2026-01-01T00:00:00Z");
        for text in ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123Z", "2026-01-01T00:00:00+00:00"] {
            assert_eq!(parse_time(text), Some(t), "{text}");
        }
        for bad in ["", "2026-01-01T00:00:00", "2026-01-01T00:00:00+02:00", "x", "ä2026-01-01T00:00:00Z"] {
            assert_eq!(parse_time(bad), None, "{bad}");
        }
    }
}
