//! The lock of one version: read, and compared with what it should be.

use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;

use super::mend::{Deed, Mend};
use super::{Attestable, HELD, Pass, UNATTESTED};
use crate::store::lock::{Lock, Locks, Seen};
use crate::store::vault::{Looked, Vault, Version};
use crate::store::{Kind, StoreError};

/// How far the store's clock and ours may differ: a lock is computed from one and compared by the other.
const CLOCKS_APART_S: i64 = 3_600;
/// A lock that ends later than this after what was asked is not ours.
const LONGER_S: i64 = 86_400;
/// Versions of an object whose locks are read to say what keeps it.
const KEPT_VERSIONS_MAX: usize = 10;

/// What a lock is, compared with what it should be.
pub(super) enum Weighed {
    /// As it should be, or nobody can say.
    Right,
    /// Weaker, or with a hold that is to come off, or both: in the order in which that is done.
    Mend(Vec<Mend>),
    /// It keeps the object for longer than anybody here asked, in words: harm to no evidence, and not ours to take off.
    Longer(String),
    /// Custody seems to have released its hold.
    Released,
}

/// Parts of a lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Parts {
    pub(super) retention: bool,
    pub(super) hold: bool,
}

/// Why parts of a lock could not be read, and which ones.
pub(super) struct Unread {
    pub(super) why: StoreError,
    pub(super) parts: Parts,
}

impl Unread {
    fn of(looked: Looked) -> Option<Self> {
        let parts = Parts { retention: looked.retention.is_some(), hold: looked.hold.is_some() };
        looked.unread().map(|why| Self { why, parts })
    }
}

impl Pass {
    pub(super) async fn look_at_lock(&mut self, log: &LogName, name: &str, version: &Version) -> Result<(), StoreError> {
        if self.store.locks.is_none() || self.versions_only {
            return Ok(());
        }
        tokio::time::sleep(self.task.pause).await;
        let (weighed, mut unread) = self.weigh(log, name, version).await?;
        match weighed {
            Weighed::Right => {}
            Weighed::Mend(mut mends) => {
                // Told by this pass as well: what a pass does not find any more is told anew by the next one.
                for what in mends.iter().filter_map(|mend| mend.stays.clone()) {
                    self.tell(HELD, name, what);
                }
                if self.task.repair {
                    // Told once the rest is mended, which looks again.
                    if let Some(last) = mends.last_mut() {
                        last.unread = unread.take().map(|unread| unread.why);
                    }
                    self.mends.append(&mut mends);
                } else {
                    let whats: Vec<String> = mends.into_iter().map(|mend| mend.what).collect();
                    self.tell("store-lock", name, whats.join("; "));
                }
            }
            Weighed::Longer(what) => self.tell(HELD, name, what),
            Weighed::Released => self.report.to_release.extend(name.split('/').nth(1).map(str::to_owned)),
        }
        if let Some(unread) = unread {
            self.tell_unread(name, &unread.why);
        }
        Ok(())
    }

    /// Reads a lock and compares it with what it should be now. Gives as well why a part of it could not be read, which is to be told beside.
    pub(super) async fn weigh(&mut self, log: &LogName, name: &str, version: &Version) -> Result<(Weighed, Option<Unread>), StoreError> {
        let Some(locks) = self.store.locks.clone() else { return Ok((Weighed::Right, None)) };
        // Before anything is compared: what custody asks for is in a log that nobody may have opened yet.
        let is_told = self.knows_custody(log).await?;
        let (want, known) = locks.of(name, version.modified);
        let known = known && is_told;
        let looked = match self.store.vault.read_lock_of_listed(name, &version.version, want.hold).await {
            Ok(looked) => looked,
            // Destroyed since it was listed, and not listed any more.
            Err(e) if e.kind() == Kind::NotFound => {
                self.report.locks_gone = self.report.locks_gone.saturating_add(1);
                return Ok((Weighed::Right, None));
            }
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            Err(why) => return Ok((Weighed::Right, Some(Unread { why, parts: Parts { retention: true, hold: true } }))),
        };
        if looked.is_whole() {
            self.report.locks_read = self.report.locks_read.saturating_add(1);
        }
        if !looked.seen.hold && !want.hold && !self.holds.is_settled() {
            // Asked for what it tells of all holds.
            let _ = self.ask_hold(version, &looked).await;
        }
        let weighed = self.compare((&*locks, log, version), &looked, (want, known)).await?;
        Ok((weighed, Unread::of(looked)))
    }

    /// Judges what was read of a lock: each part of it by itself.
    async fn compare(
        &mut self,
        (locks, log, version): (&Locks, &LogName, &Version),
        looked: &Looked,
        (want, known): (Lock, bool),
    ) -> Result<Weighed, StoreError> {
        let seen = looked.seen;
        let surplus = if seen.hold && !want.hold { self.weigh_hold(locks, log, version, known).await? } else { Weighed::Right };
        let over = want.until <= self.task.now;
        let lacks = Parts { retention: !over && looked.lacks_retention(&want, CLOCKS_APART_S), hold: looked.lacks_hold(&want) };
        if lacks.retention || lacks.hold {
            let what = format!("the lock was {looked}, it should be {want}");
            // Its time has passed: a hold needs no date, but a retention that ends in the past is refused.
            let until = if over { self.task.now.plus_s(CLOCKS_APART_S) } else { want.until };
            let mend = Mend::new((log, version), Deed::Set(Lock { until, ..want }), what);
            // What custody just asked for is new to what was written before; nobody need have weakened anything.
            let only_new = !looked.lacks_retention(&locks.by_policy(version.modified), CLOCKS_APART_S);
            let (frees, stays) = match surplus {
                Weighed::Mend(frees) => (frees, None),
                Weighed::Longer(what) => (Vec::new(), Some(what)),
                Weighed::Right | Weighed::Released => (Vec::new(), None),
            };
            // The lock is set before a hold comes off, so that something keeps the version at each moment.
            let mend = Mend { lacks, only_new, stays, ..mend };
            return Ok(Weighed::Mend(std::iter::once(mend).chain(frees).collect()));
        }
        let ceiling = want.until.max(self.task.now).plus_s(LONGER_S);
        let is_longer = seen.until.is_some_and(|until| until > ceiling) || seen.mode.is_some_and(|mode| mode > want.mode);
        if matches!(surplus, Weighed::Right) && known && is_longer {
            let what = format!("the lock is {looked}, and {want} was asked for: nobody here made it longer or harder");
            return Ok(Weighed::Longer(waited_for(locks, &version.name, what)));
        }
        Ok(surplus)
    }

    /// Nobody saw that it is weak: some stores say the same of credentials that ended.
    pub(super) fn tell_unread(&mut self, name: &str, e: &StoreError) {
        self.tell(UNATTESTED, name, format!("its lock cannot be read: {e}"));
    }

    /// A hold that custody does not ask for: one that keeps a log from growing, one that custody released, which is to come off, or one that
    /// somebody else set, which may be a court's.
    async fn weigh_hold(&mut self, locks: &Locks, log: &LogName, version: &Version, known: bool) -> Result<Weighed, StoreError> {
        let name = version.name.as_str();
        if locks.hold_hampers(name) {
            let what = "it has a legal hold, and nothing here is ever to have one".to_owned();
            return Ok(Weighed::Mend(vec![Mend::new((log, version), Deed::Free, what)]));
        }
        if !known {
            return Ok(Weighed::Right);
        }
        let is_released = match (self.keeper.clone(), log) {
            (Some(keeper), LogName::Case(case)) => locks.was_held(name) && keeper.awaits(case).await?,
            (Some(_), LogName::Deployment) => false,
            (None, _) => locks.was_held(name) || self.task.repair,
        };
        if !is_released {
            let is_strange = self.is_still_strange(locks, log, version).await?;
            let what = "it has a legal hold that custody did not place, and that stays".to_owned();
            return Ok(if is_strange { Weighed::Longer(waited_for(locks, name, what)) } else { Weighed::Right });
        }
        // What this process knows of a case may be older than a new hold: the caller looks at the case's log, and asks for a pass over it.
        if self.task.begin.is_empty() || !self.task.repair {
            return Ok(Weighed::Released);
        }
        let mend = Mend::new((log, version), Deed::Free, "a legal hold that custody released".to_owned());
        Ok(Weighed::Mend(vec![Mend { only_new: true, ..mend }]))
    }

    /// Whether a hold is none of custody's also by what its log and the store say now: another coordinator may have placed one, or taken
    /// one off, since they were asked.
    async fn is_still_strange(&mut self, locks: &Locks, log: &LogName, version: &Version) -> Result<bool, StoreError> {
        self.asked = None;
        if !self.knows_custody(log).await? {
            return Ok(false);
        }
        let (want, known) = locks.of(&version.name, version.modified);
        match self.store.vault.read_lock(&version.name, &version.version, false).await {
            Ok(looked) => Ok(known && looked.seen.hold && !want.hold),
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Err(e) => {
                if e.is_unread() {
                    self.tell_unread(&version.name, &e);
                }
                Ok(false)
            }
        }
    }

    /// Whether the store knows what custody of a log's case asks for, asked once for each log.
    async fn knows_custody(&mut self, log: &LogName) -> Result<bool, StoreError> {
        let Some(judge) = self.judge.clone().filter(|_| matches!(log, LogName::Case(_))) else { return Ok(true) };
        if let Some((_, known)) = self.asked.as_ref().filter(|(asked, _)| asked == log) {
            return Ok(*known);
        }
        let why = judge.custody(log).await?;
        self.asked = Some((log.clone(), why.is_none()));
        let Some(why) = why else { return Ok(true) };
        self.tell(UNATTESTED, &log.checkpoint(), why);
        Ok(false)
    }

    /// What is said of the lock of something that is none of ours: somebody can lock what he wrote, which makes it no evidence.
    pub(super) async fn strange_lock(&mut self, version: &Version) -> Result<String, StoreError> {
        let none = "it is not what was created here, and no lock is set on it".to_owned();
        if self.store.locks.is_none() || self.versions_only {
            return Ok(none);
        }
        tokio::time::sleep(self.task.pause).await;
        let looked = match self.store.vault.read_lock_of_listed(&version.name, &version.version, false).await {
            Ok(looked) => looked,
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            Err(e) if e.is_unread() => return Ok(format!("it is not what was created here, and its lock cannot be read: {e}")),
            Err(_) => return Ok(none),
        };
        if looked.seen.hold || looked.seen.until.is_some() {
            return Ok(format!("it is not what was created here, though it carries a lock, which is not ours: {looked}"));
        }
        let held = self.ask_hold(version, &looked).await;
        Ok(match (looked.unread(), held) {
            (_, Ok(true)) => "it is not what was created here, though it carries a legal hold, which is not ours".to_owned(),
            (Some(e), _) => format!("it is not what was created here, and its lock cannot be read: {e}"),
            (None, Err(why)) => {
                format!("it is not what was created here, no retention is set on it, and whether it is held cannot be read: {why}")
            }
            (None, Ok(false)) => none,
        })
    }

    /// Sets a lock as it should be.
    pub(super) async fn set(&self, mend: &Mend, want: &Lock) -> Result<Brought, StoreError> {
        bring(&self.store.vault, &mend.name, &mend.version.version, want, CLOCKS_APART_S).await
    }
}

/// Says of what is to be destroyed that this waits. Whoever destroys it stops at the first object that the store keeps, and names no other.
fn waited_for(locks: &Locks, name: &str, what: String) -> String {
    if locks.is_condemned(name) { format!("{what}; an approved disposal waits for it") } else { what }
}

impl Attestable {
    /// Which lock keeps an object that is to be destroyed and was refused: whether it is a hold, and in words for a message. A hold is
    /// somebody's who alone can take it off, because custody's own are released before a disposal is approved.
    pub(crate) async fn keeps(&self, name: &str) -> Option<(bool, String)> {
        let versions = self.vault.versions_of(name).await.ok()?;
        let (mut longest, mut unread): (Option<Seen>, Option<StoreError>) = (None, None);
        for version in versions.iter().filter(|v| !v.marker).take(KEPT_VERSIONS_MAX) {
            let looked = match self.vault.read_lock(name, &version.version, false).await {
                Ok(looked) => looked,
                Err(e) => {
                    unread = Some(e).filter(StoreError::is_unread).or(unread);
                    continue;
                }
            };
            if looked.seen.hold {
                let id = escape_bounded(&version.version, 80);
                let what = "has a legal hold that custody does not ask for: the destruction waits until whoever set it takes it off";
                return Some((true, format!("version '{id}' {what}")));
            }
            if looked.seen.until > longest.and_then(|longest| longest.until) {
                longest = Some(looked.seen);
            }
            unread = looked.unread().or(unread);
        }
        let lock = longest.map(|seen| format!("its lock is {seen}: the destruction waits for that day"));
        let what = lock.or_else(|| unread.map(|e| format!("its lock, for whose end the destruction may wait, cannot be read: {e}")))?;
        Some((false, what))
    }
}

/// Makes the lock of a version at least what it should be, and says what it was before when it had to be set.
///
/// # Errors
/// As [`bring`], and with what could not be read of it, whatever was set beside.
pub(in crate::store) async fn ensure(
    vault: &Vault,
    name: &str,
    version: &str,
    want: &Lock,
    slack_s: i64,
) -> Result<Option<Seen>, StoreError> {
    let brought = bring(vault, name, version, want, slack_s).await?;
    match brought.unread {
        Some(e) => Err(e),
        None => Ok(brought.before),
    }
}

/// What was done to a lock.
pub(super) struct Brought {
    /// What it was, where something was set.
    pub(super) before: Option<Seen>,
    /// Why a part of it could not be read.
    pub(super) unread: Option<StoreError>,
    /// What was set was read again.
    pub(super) is_read_back: bool,
}

/// Order: 1. read; 2. set retention, then the hold, each only where it was seen to be too weak, and never weaker than it was; 3. read
/// again. Repeating it is safe at any point. Nothing is set of a part that may not be read: it may be as it should be, or harder.
///
/// # Errors
/// As the store fails; when something stays weaker than it was set; and unread where nothing was set and not all of it could be read.
async fn bring(vault: &Vault, name: &str, version: &str, want: &Lock, slack_s: i64) -> Result<Brought, StoreError> {
    let looked = vault.read_lock_of_listed(name, version, want.hold).await?;
    let (retention, hold) = (looked.lacks_retention(want, slack_s), looked.lacks_hold(want));
    let seen = looked.seen;
    if !retention && !hold {
        return match looked.unread() {
            Some(e) => Err(e),
            None => Ok(Brought { before: None, unread: None, is_read_back: true }),
        };
    }
    if retention {
        let mode = seen.mode.map_or(want.mode, |mode| mode.max(want.mode));
        let until = seen.until.map_or(want.until, |until| until.max(want.until));
        vault.retain(name, version, mode, until, false).await?;
    }
    if hold {
        vault.hold(name, version, true).await?;
    }
    let after = match vault.read_lock_of_listed(name, version, want.hold).await {
        Err(e) if e.is_unread() => return Ok(Brought { before: Some(seen), unread: Some(e), is_read_back: false }),
        after => after?,
    };
    if !after.lacks_retention(want, slack_s) && !after.lacks_hold(want) {
        let is_read_back = !(retention && after.retention.is_some() || hold && after.hold.is_some());
        return Ok(Brought { before: Some(seen), unread: after.unread(), is_read_back });
    }
    Err(StoreError::new(
        Kind::Denied,
        format!("{}: the lock of '{name}' (version {}) is {after} and should be {want}", vault.describe(), escape_bounded(version, 80)),
        vault.words().stays_weak,
    ))
}
