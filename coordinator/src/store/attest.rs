//! Attestation: looks at every version in the store, whether each object is still the one that was created, and locked as it
//! should be. What is weaker is set again and told all the same: somebody made it weaker.
//!
//! A lock protects *versions*. Whoever may delete can put a marker on top of an object, then create another one under the
//! freed name, and a reader who asks for no version gets that. The first version of a name is the genuine one, because a
//! creation succeeds only on a free name; so that one is locked, told apart, and read from then on.

mod locks;
mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;

use super::lock::{Locks, is_replaced};
use super::vault::{Cursor, Vault, Version};
use super::{Store, StoreError, Trouble};

pub(super) use locks::ensure;
pub use report::Report;
use report::Tally;
pub(super) use report::case_of;

/// Objects that one trouble names; more are counted.
const NAMED_MAX: usize = 10;
/// Cases whose troubles are told one by one in one pass; the rest is told of the bucket.
const CASES_MAX: usize = 1_000;
/// Versions of one name that are looked at: the newest and the first. A name that is replaced has one for each time.
const VERSIONS_OF_NAME_MAX: usize = 10_000;

/// Hidden objects of one pass for which it waits a moment, whether they are being destroyed.
const WAITS_MAX: usize = 10;
const A_MOMENT: Duration = Duration::from_secs(1);

/// Takes a name and the genuine one of its versions; false when the store cannot remember any more.
pub(super) type Covered = Arc<dyn Fn(&str, &str) -> bool + Send + Sync>;

/// A store that has versions, seen by whoever looks after it.
#[derive(Clone)]
pub struct Attestable {
    /// Versions and locks.
    pub vault: Vault,
    pub(super) locks: Option<Arc<Locks>>,
    /// Tells the store which version of a name is the genuine one under something newer.
    pub(super) covered: Covered,
}

impl std::fmt::Debug for Attestable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Attestable({})", self.vault.describe())
    }
}

impl Attestable {
    /// True when objects are to be locked here.
    #[must_use]
    pub const fn locks(&self) -> bool {
        self.locks.is_some()
    }

    /// What lies under the newest version of an object, in words for a message; nothing where that is the only one, or the store
    /// does not say.
    pub(crate) async fn beneath(&self, name: &str) -> Option<String> {
        let mut versions = self.vault.versions_of(name).await.ok()?;
        self.vault.newest_first(&mut versions);
        let first = versions.iter().rfind(|v| !v.marker).filter(|_| versions.len() > 1)?;
        let id = escape_bounded(&first.version, 80);
        Some(format!("under what was put on top of it lies version '{id}' of {}; see 'exhibit-coordinator store attest'", first.modified))
    }
}

/// Looks at all versions, so that from then on the store reads the genuine ones, and says what lies on top of them. A store that
/// locks nothing is left alone: there is no saying which version is genuine.
///
/// # Errors
/// As the store fails.
pub async fn recall(store: &dyn Store, now: Timestamp) -> Result<Vec<Trouble>, StoreError> {
    let Some(found) = store.attestable().filter(Attestable::locks) else { return Ok(Vec::new()) };
    // Without its locks none of them is read, which would cost a request for each object.
    let versions = Attestable { locks: None, ..found };
    let task = Task { begin: String::new(), repair: false, pause: Duration::ZERO, now };
    Ok(Pass::new(versions, task).run().await?.troubles)
}

/// What a pass is to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// Names that begin so are looked at; empty for all.
    pub begin: String,
    /// Sets locks that are too weak, and takes off legal holds that custody released. Without it, it is only looked.
    pub repair: bool,
    /// Time between two requests, so that the store and its bill stay quiet.
    pub pause: Duration,
    /// The time of the pass.
    pub now: Timestamp,
}

/// A pass that can be stopped and gone on with: what it holds is where it stands.
#[derive(Debug)]
pub struct Pass {
    store: Attestable,
    task: Task,
    cursor: Option<Cursor>,
    /// Versions of the last name of a page, which may go on in the next.
    carried: Vec<Version>,
    report: Report,
    tallies: BTreeMap<(&'static str, String), Tally>,
    /// Objects under another version, of which the store could not remember the genuine one.
    unremembered: u64,
    /// How often it waited for what might be being destroyed.
    waited: usize,
    done: bool,
}

impl Pass {
    /// A pass that begins.
    #[must_use]
    pub fn new(store: Attestable, task: Task) -> Self {
        let (report, tallies) = (Report::default(), BTreeMap::new());
        Self { store, task, cursor: None, carried: Vec::new(), report, tallies, unremembered: 0, waited: 0, done: false }
    }

    /// Looks until the end, or until the store fails: then calling again goes on where it stood.
    ///
    /// # Errors
    /// As the store fails; what one object is refused is told in the report and not here.
    pub async fn run(&mut self) -> Result<Report, StoreError> {
        if self.cursor.is_none() && self.carried.is_empty() && !self.done {
            self.look_at_bucket().await?;
        }
        while !self.done {
            self.page().await?;
        }
        let mut report = self.report.clone();
        report.troubles = self.tallies.iter().map(|((kind, subject), tally)| report::told(kind, subject, tally)).collect();
        report.troubles.extend(report::too_many(self.unremembered, self.store.vault.describe()));
        Ok(report)
    }

    async fn look_at_bucket(&mut self) -> Result<(), StoreError> {
        if self.store.locks.is_none() {
            return Ok(());
        }
        let posture = self.store.vault.posture().await?;
        if !posture.versioned || !posture.lockable {
            let (state, lock) = (|on: bool| if on { "on" } else { "off" }, self.store.vault.words().lock);
            let what = format!("versioning is {}, {lock} is {}", state(posture.versioned), state(posture.lockable));
            self.tell("store-bucket", "", what);
        }
        Ok(())
    }

    /// One page. Order: 1. list; 2. look at each name that is whole; 3. note where the next page begins. What is looked at
    /// twice because 2 failed halfway costs requests and nothing else.
    async fn page(&mut self) -> Result<(), StoreError> {
        let page = self.store.vault.versions(&self.task.begin, self.cursor.as_ref()).await?;
        tokio::time::sleep(self.task.pause).await;
        let seen = page.versions.len() as u64;
        let mut names: BTreeMap<String, Vec<Version>> = BTreeMap::new();
        for version in self.carried.iter().cloned().chain(page.versions) {
            keep(names.entry(version.name.clone()).or_default(), version);
        }
        let carried = if page.next.is_some() { names.pop_last().map(|(_, versions)| versions).unwrap_or_default() } else { Vec::new() };
        for (name, versions) in &mut names {
            self.store.vault.newest_first(versions);
            self.look(name, versions).await?;
        }
        self.report.versions = self.report.versions.saturating_add(seen);
        self.done = page.next.is_none();
        (self.carried, self.cursor) = (carried, page.next);
        Ok(())
    }

    async fn look(&mut self, name: &str, versions: &[Version]) -> Result<(), StoreError> {
        if name.starts_with("probe/") {
            return Ok(());
        }
        let hidden = self.store.vault.hidden_by(versions);
        if hidden.is_some() && !versions.iter().any(|v| v.marker) && self.is_being_destroyed(name).await? {
            return Ok(());
        }
        self.report.objects = self.report.objects.saturating_add(1);
        if let Some(why) = &hidden {
            self.tell("store-marker", name, format!("hidden {why}"));
        }
        let mut whole = versions.iter().filter(|v| !v.marker);
        // The newest comes first. What is replaced counts by its newest version, what is created once by its first.
        let replaced = is_replaced(name);
        let genuine = if replaced { whole.next() } else { whole.next_back() };
        let Some(genuine) = genuine else {
            self.tell("store-version", name, "no version of it is left under its delete marker".to_owned());
            return Ok(());
        };
        if !replaced && (versions.len() > 1 || hidden.is_some()) {
            if !(self.store.covered)(name, &genuine.version) {
                self.unremembered = self.unremembered.saturating_add(1);
            }
            let others: Vec<String> =
                whole.map(|v| format!("'{}' of {}", escape_bounded(&v.version, 80), v.modified)).take(NAMED_MAX).collect();
            if !others.is_empty() {
                let first = escape_bounded(&genuine.version, 80);
                self.tell("store-version", name, format!("the genuine version is '{first}'; on top of it lie {}", others.join(", ")));
            }
        }
        self.look_at_lock(name, genuine).await
    }

    /// On Azure a disposal takes an object away in two steps, and between them it looks as if somebody hid it. What custody lets be
    /// destroyed is passed over, and so is what is gone a moment later: another coordinator may know more.
    async fn is_being_destroyed(&mut self, name: &str) -> Result<bool, StoreError> {
        if self.store.locks.as_ref().is_some_and(|locks| locks.is_condemned(name)) {
            return Ok(true);
        }
        if self.waited < WAITS_MAX {
            self.waited = self.waited.saturating_add(1);
            tokio::time::sleep(A_MOMENT).await;
        }
        Ok(self.store.vault.versions_of(name).await?.is_empty())
    }

    fn tell(&mut self, kind: &'static str, name: &str, what: String) {
        let of_case = case_of(name).filter(|_| self.tallies.len() < CASES_MAX);
        let subject = of_case.unwrap_or_else(|| self.store.vault.describe().to_owned());
        let tally = self.tallies.entry((kind, subject)).or_default();
        tally.count = tally.count.saturating_add(1);
        if tally.named.len() < NAMED_MAX {
            let name = escape_bounded(name, 200);
            tally.named.push(if name.is_empty() { what } else { format!("'{name}': {what}") });
        }
    }
}

/// Adds a version to those of its name. Beyond the bound the last place is that of the last in the list: where the newest comes
/// first it is the first version, which is the genuine one, and nobody pushes it out of sight by writing others on top, or markers
/// below; where the oldest comes first it is the newest, and the genuine one has the first place.
fn keep(versions: &mut Vec<Version>, next: Version) {
    if versions.len() < VERSIONS_OF_NAME_MAX {
        versions.push(next);
    } else if let Some(last) = versions.last_mut().filter(|_| !next.marker) {
        *last = next;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_version_stays_in_sight_however_many_lie_on_top() {
        let version = |n: usize, marker: bool| Version {
            name: "cases/x".to_owned(),
            version: n.to_string(),
            marker,
            latest: n == 0,
            modified: Timestamp::from_unix_s(1),
        };
        let mut kept = Vec::new();
        (0..VERSIONS_OF_NAME_MAX + 1_234).for_each(|n| keep(&mut kept, version(n, n % 7 == 0)));
        keep(&mut kept, version(50_000, false));
        keep(&mut kept, version(50_001, true));
        let (newest, first) = (kept.first().expect("kept"), kept.last().expect("kept"));
        assert_eq!((newest.version.as_str(), first.version.as_str(), kept.len()), ("0", "50000", VERSIONS_OF_NAME_MAX));
    }
}
