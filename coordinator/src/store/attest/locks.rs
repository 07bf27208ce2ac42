//! The lock of one version: read, compared with what it should be, set where it is weaker, taken off where nobody asked for it.

use exhibit_evidence::text::escape_bounded;

use super::Pass;
use crate::store::lock::{Lock, Seen};
use crate::store::vault::{Vault, Version};
use crate::store::{Kind, StoreError};

/// How far the store's clock and ours may differ: a lock is computed from one and compared by the other.
const CLOCKS_APART_S: i64 = 3_600;

impl Pass {
    pub(super) async fn look_at_lock(&mut self, name: &str, version: &Version) -> Result<(), StoreError> {
        let Some(locks) = self.store.locks.clone().filter(|_| !self.versions_only) else { return Ok(()) };
        let (mut want, known) = locks.of(name, version.modified);
        tokio::time::sleep(self.task.pause).await;
        let seen = match self.store.vault.lock_of(name, &version.version).await {
            Ok(seen) => seen,
            // Destroyed since it was listed.
            Err(e) if e.kind() == Kind::NotFound => return Ok(()),
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            Err(e) => {
                self.tell("store-lock", name, format!("its lock cannot be read: {e}"));
                return Ok(());
            }
        };
        self.report.locks_read = self.report.locks_read.saturating_add(1);
        if seen.hold && locks.bears_no_hold(name) {
            self.free(name, version).await?;
        } else if known && seen.hold && !want.hold && self.task.begin.is_empty() {
            self.report.to_release.extend(name.split('/').nth(1).map(str::to_owned));
        } else if known && seen.hold && !want.hold && self.task.repair {
            match self.store.vault.hold(name, &version.version, false).await {
                Ok(()) => self.report.holds_released = self.report.holds_released.saturating_add(1),
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                Err(e) => self.tell("store-lock", name, format!("a legal hold that custody released stays: {e}")),
            }
        }
        let over = want.until <= self.task.now;
        if (over || seen.retains(&want, CLOCKS_APART_S)) && (seen.hold || !want.hold) {
            return Ok(());
        }
        if over {
            // Its time has passed: a hold needs no date, but a retention that ends in the past is refused.
            want.until = self.task.now.plus_s(CLOCKS_APART_S);
        }
        let mut what = format!("the lock was {seen}, it should be {want}");
        if self.task.repair {
            // What custody just asked for is new to what was written before; nobody weakened anything. A pass over all
            // comes later, and finds it done.
            let only_new = !self.task.begin.is_empty() && seen.retains(&locks.by_policy(version.modified), CLOCKS_APART_S);
            match ensure(&self.store.vault, name, &version.version, &want, CLOCKS_APART_S).await {
                Ok(_) => {
                    self.report.set_again = self.report.set_again.saturating_add(1);
                    if only_new {
                        return Ok(());
                    }
                    what.push_str("; it was set again");
                }
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                Err(e) => what = format!("{what}; it could not be set: {e}"),
            }
        }
        self.tell("store-lock", name, what);
        Ok(())
    }

    /// What is said of the lock of something that is none of ours: somebody can lock what he wrote, which makes it no evidence.
    pub(super) async fn strange_lock(&self, version: &Version) -> Result<String, StoreError> {
        let none = "it is not what was created here, and no lock is set on it".to_owned();
        if self.store.locks.is_none() || self.versions_only {
            return Ok(none);
        }
        tokio::time::sleep(self.task.pause).await;
        match self.store.vault.lock_of(&version.name, &version.version).await {
            Ok(seen) if seen.hold || seen.until.is_some() => {
                Ok(format!("it is not what was created here, though it carries a lock, which is not ours: {seen}"))
            }
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Ok(_) | Err(_) => Ok(none),
        }
    }

    /// Takes off a hold that no custody asks for, whatever it says: on a head it may keep the log from growing.
    async fn free(&mut self, name: &str, version: &Version) -> Result<(), StoreError> {
        let mut what = "it has a legal hold, and nothing here is ever to have one".to_owned();
        if self.task.repair {
            match self.store.vault.hold(name, &version.version, false).await {
                Ok(()) => {
                    self.report.holds_released = self.report.holds_released.saturating_add(1);
                    what.push_str("; it was taken off");
                }
                Err(e) if e.kind() == Kind::Retry => return Err(e),
                Err(e) => what = format!("{what}; it stays: {e}"),
            }
        }
        self.tell("store-lock", name, what);
        Ok(())
    }
}

/// Makes the lock of a version at least what it should be, and says what it was before when it had to be set.
///
/// Order: 1. read; 2. set retention, then the hold, each only where it is too weak, and never weaker than it was; 3. read
/// again. Repeating it is safe at any point.
pub(in crate::store) async fn ensure(
    vault: &Vault,
    name: &str,
    version: &str,
    want: &Lock,
    slack_s: i64,
) -> Result<Option<Seen>, StoreError> {
    let holds = |seen: &Seen| seen.retains(want, slack_s) && (seen.hold || !want.hold);
    let seen = vault.lock_of(name, version).await?;
    if holds(&seen) {
        return Ok(None);
    }
    if !seen.retains(want, slack_s) {
        let mode = seen.mode.map_or(want.mode, |mode| mode.max(want.mode));
        let until = seen.until.map_or(want.until, |until| until.max(want.until));
        vault.retain(name, version, mode, until, false).await?;
    }
    if want.hold && !seen.hold {
        vault.hold(name, version, true).await?;
    }
    let after = vault.lock_of(name, version).await?;
    if holds(&after) {
        return Ok(Some(seen));
    }
    Err(StoreError::new(
        Kind::Denied,
        format!("{}: the lock of '{name}' (version {}) is {after} and should be {want}", vault.describe(), escape_bounded(version, 80)),
        vault.words().stays_weak,
    ))
}
