//! What is done to locks that are not as they should be. Who can weaken a lock can also have the coordinator end right after it was set
//! again, so what was found is kept before anything is mended: a page of objects at a time.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;
use futures::future::BoxFuture;

use super::locks::{Brought, Parts, Weighed};
use super::report::{Tally, told};
use super::{NAMED_MAX, Pass, named};
use crate::store::lock::Lock;
use crate::store::vault::Version;
use crate::store::{Kind, StoreError, Trouble};

/// Whoever keeps what a pass found before it is mended.
pub trait Keeper: std::fmt::Debug + Send + Sync {
    /// Whether custody of a case changed and its locks are still to be brought to that: then they differ from it, and nobody did anything.
    fn awaits<'a>(&'a self, case: &'a CaseId) -> BoxFuture<'a, Result<bool, StoreError>>;

    /// Keeps these, so that they are told whatever becomes of this process.
    ///
    /// # Errors
    /// When that cannot be done now: nothing is mended then, and the pass goes on there later.
    fn keep(&self, troubles: Vec<Trouble>) -> BoxFuture<'_, Result<(), StoreError>>;
}

/// What is to be done to the lock of one version.
#[derive(Debug, Clone)]
pub(super) struct Mend {
    pub(super) log: LogName,
    pub(super) name: String,
    pub(super) version: Version,
    pub(super) deed: Deed,
    /// The parts that were seen to be weak.
    pub(super) lacks: Parts,
    /// What was seen, in words.
    pub(super) what: String,
    /// It may be nothing but what custody just asked for.
    pub(super) only_new: bool,
    /// What keeps the object beside, in words, and is not ours to take off.
    pub(super) stays: Option<String>,
    /// Why a part of the lock could not be read, of which nothing is done.
    pub(super) unread: Option<StoreError>,
}

/// What is done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Deed {
    /// The lock is set.
    Set(Lock),
    /// The hold is taken off.
    Free,
}

impl Deed {
    const fn announced(self) -> &'static str {
        match self {
            Self::Set(_) => "it is set again",
            Self::Free => "it is taken off",
        }
    }

    const fn done(self, is_read_back: bool) -> &'static str {
        match (self, is_read_back) {
            (Self::Set(_), true) => "it was set again",
            (Self::Set(_), false) => "it was set again and could not be read back",
            (Self::Free, _) => "it was taken off",
        }
    }

    const fn failed(self) -> &'static str {
        match self {
            Self::Set(_) => "it could not be set",
            Self::Free => "it stays",
        }
    }
}

impl Mend {
    /// Of one version: what is done, and why in words.
    pub(super) fn new((log, version): (&LogName, &Version), deed: Deed, what: String) -> Self {
        let (log, name, version) = (log.clone(), version.name.clone(), version.clone());
        Self { log, name, version, deed, lacks: Parts::default(), what, only_new: false, stays: None, unread: None }
    }

    fn id(&self) -> (String, String) {
        (self.name.clone(), self.version.version.clone())
    }
}

impl Pass {
    /// Order, for the objects of a page: 1. each is looked at again, because custody, another pass or another coordinator may have seen to
    /// it meanwhile; 2. what is wrong is kept; 3. the locks are set, and holds taken off. Died between 2 and 3: the next pass finds the
    /// same and tells it once more.
    pub(super) async fn mend(&mut self) -> Result<(), StoreError> {
        let mends = std::mem::take(&mut self.mends);
        // Asked before and after: a case whose locks were being brought to what it asks when they were read is done a moment later.
        let mut awaited = self.awaited(&mends).await?;
        let due = if self.keeper.is_some() { self.still_due(mends).await? } else { mends };
        awaited.append(&mut self.awaited(&due).await?);
        self.keep(&due, &awaited).await?;
        let mut still_weak = BTreeSet::new();
        for mend in &due {
            // A hold may be all that keeps it.
            if matches!(mend.deed, Deed::Free) && still_weak.contains(&mend.id()) {
                continue;
            }
            if !self.carry_out(mend, self.is_quiet(mend, &awaited)).await? {
                still_weak.insert(mend.id());
            }
        }
        self.kept.clear();
        Ok(())
    }

    async fn still_due(&mut self, mends: Vec<Mend>) -> Result<Vec<Mend>, StoreError> {
        self.asked = None;
        let mut due = Vec::with_capacity(mends.len());
        let mut of_versions: BTreeMap<(String, String), Vec<Mend>> = BTreeMap::new();
        for mend in mends {
            of_versions.entry(mend.id()).or_default().push(mend);
        }
        for mends in of_versions.into_values() {
            let Some(Mend { log, name, version, .. }) = mends.first().cloned() else { continue };
            tokio::time::sleep(self.task.pause).await;
            let (weighed, unread) = self.weigh(&log, &name, &version).await?;
            let why = unread.as_ref().map(|unread| unread.why.clone());
            if let Weighed::Mend(mut again) = weighed {
                if let Some(last) = again.last_mut() {
                    last.unread = why;
                }
                due.append(&mut again);
                continue;
            }
            let (Some(unread), Some(why)) = (unread, why) else { continue };
            let left = mends.into_iter().find_map(|mend| self.still_due_of(mend, unread.parts));
            match left {
                Some(mend) => due.push(Mend { unread: Some(why), ..mend }),
                None => self.tell_unread(&name, &why),
            }
        }
        Ok(due)
    }

    /// What is left to be done where parts of a lock cannot be read any more. Of a part that was seen to be weak, and that is still wanted,
    /// nobody saw that it was mended. A hold comes off only where it was seen again, and is still not wanted.
    fn still_due_of(&self, mend: Mend, unread: Parts) -> Option<Mend> {
        let (Deed::Set(then), Some(locks)) = (mend.deed, self.store.locks.as_ref()) else { return None };
        let (now, _) = locks.of(&mend.name, mend.version.modified);
        let retention = mend.lacks.retention && unread.retention && now.mode >= then.mode && now.until >= then.until;
        let hold = mend.lacks.hold && unread.hold && now.hold;
        let deed = Deed::Set(Lock { until: now.until.max(then.until), ..now });
        (retention || hold).then_some(Mend { deed, ..mend })
    }

    /// The cases of these of which custody changed, so that their locks are still to be brought to that.
    async fn awaited(&self, mends: &[Mend]) -> Result<BTreeSet<CaseId>, StoreError> {
        let (mut asked, mut awaited) = (BTreeSet::new(), BTreeSet::new());
        let Some(keeper) = self.keeper.clone() else { return Ok(awaited) };
        for mend in mends.iter().filter(|mend| mend.only_new) {
            let LogName::Case(case) = &mend.log else { continue };
            if asked.insert(case.clone()) && keeper.awaits(case).await? {
                awaited.insert(case.clone());
            }
        }
        Ok(awaited)
    }

    /// Whether nothing is told of what can be done, because custody asked for it.
    fn is_quiet(&self, mend: &Mend, awaited: &BTreeSet<CaseId>) -> bool {
        mend.only_new
            && match (&self.keeper, &mend.log) {
                (None, _) => !self.task.begin.is_empty(),
                (Some(_), LogName::Deployment) => false,
                (Some(_), LogName::Case(case)) => awaited.contains(case),
            }
    }

    async fn keep(&mut self, due: &[Mend], awaited: &BTreeSet<CaseId>) -> Result<(), StoreError> {
        let Some(keeper) = self.keeper.clone() else { return Ok(()) };
        let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
        for mend in due {
            // Kept, and then the store failed: the page is looked at again.
            if self.is_quiet(mend, awaited) || self.kept.contains(&mend.id()) {
                continue;
            }
            let subject = self.subject(&mend.name, tallies.len());
            let tally = tallies.entry(subject).or_default();
            tally.count = tally.count.saturating_add(1);
            if tally.named.len() < NAMED_MAX {
                tally.named.push(named(&mend.name, format!("{}; {}", mend.what, mend.deed.announced())));
            }
        }
        if tallies.is_empty() {
            return Ok(());
        }
        keeper.keep(tallies.iter().map(|(subject, tally)| told("store-lock", subject, tally)).collect()).await?;
        self.kept.extend(due.iter().map(Mend::id));
        Ok(())
    }

    /// False when it could not be done.
    async fn carry_out(&mut self, mend: &Mend, quiet: bool) -> Result<bool, StoreError> {
        let done = match &mend.deed {
            Deed::Set(want) => self.set(mend, want).await,
            Deed::Free => {
                let freed = self.store.vault.hold(&mend.name, &mend.version.version, false).await;
                freed.map(|()| Brought { before: None, unread: mend.unread.clone(), is_read_back: true })
            }
        };
        let is_done = done.is_ok();
        let unread = match done {
            Ok(done) => {
                let count = match mend.deed {
                    Deed::Set(_) => &mut self.report.set_again,
                    Deed::Free => &mut self.report.holds_released,
                };
                *count = count.saturating_add(1);
                if !quiet && self.keeper.is_none() {
                    self.tell("store-lock", &mend.name, format!("{}; {}", mend.what, mend.deed.done(done.is_read_back)));
                }
                done.unread
            }
            // Destroyed since it was looked at.
            Err(e) if e.kind() == Kind::NotFound => None,
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            Err(e) => {
                self.tell("store-lock", &mend.name, format!("{}; {}: {e}", mend.what, mend.deed.failed()));
                if e.is_unread() { Some(e) } else { mend.unread.clone() }
            }
        };
        // What was seen to be weak is told whatever cannot be read beside it.
        if let Some(e) = unread {
            self.tell_unread(&mend.name, &e);
        }
        Ok(is_done)
    }
}
