//! Attestation: looks at every version in the store, whether each object is still the one that was created, and locked as it
//! should be. What is weaker is set again and told all the same: somebody made it weaker.
//!
//! A lock protects *versions*. Whoever may delete can put a marker on top of an object, then create another one under the
//! freed name, and a reader who asks for no version gets that. The first version of a name is the genuine one, because a
//! creation succeeds only on a free name; so that one is locked, told apart, and read from then on. Under a marker alone it is read
//! and listed as if there was none.
//!
//! What is not ours is told and never locked: a name that is none of the layout's, and what a [`Judge`] knows to be no record in the
//! place of one, or to be named by nothing that was signed. Its writer would have us keep it for the whole term.

mod beside;
mod heads;
mod holds;
mod locks;
mod mend;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::{self, CaseObject, LogName};
use exhibit_evidence::text::escape_bounded;
use futures::future::BoxFuture;

use beside::beside;

use super::lock::{Locks, is_replaced};
use super::vault::{Cursor, Vault, Version};
use super::{Kind, Patience, Store, StoreError, Trouble};

pub(super) use locks::ensure;
pub use mend::Keeper;
pub use report::Report;
use report::Tally;
pub(super) use report::case_of;

/// Objects that one trouble names; more are counted.
const NAMED_MAX: usize = 10;
/// Objects that the lists of a report name in all, of some 300 bytes each.
const NAMED_IN_ALL_MAX: usize = 20_000;
/// Cases whose troubles are told one by one in one pass; the rest is told of the bucket.
const CASES_MAX: usize = 1_000;
/// Versions of one name that are looked at: the newest and the first. A name that is replaced has one for each time.
const VERSIONS_OF_NAME_MAX: usize = 10_000;

/// Hidden objects of one pass for which it waits a moment, whether they are being destroyed.
const WAITS_MAX: usize = 10;
const A_MOMENT: Duration = Duration::from_secs(1);

/// The kind of what lies beside the genuine version of an object.
pub(crate) const VERSION: &str = "store-version";
/// The kind of what hides an object.
pub(crate) const MARKER: &str = "store-marker";
/// The kind of a lock that keeps an object for longer than anybody here asked: it harms no evidence, and lasts.
pub(crate) const HELD: &str = "store-held";

/// The kind of what could not be looked at: nobody saw that anything is wrong with it.
pub(super) const UNATTESTED: &str = "store-unattested";

/// Takes the genuine one of the versions of a name, and whether a reader who names none sees anything there; false when the store
/// cannot remember any more.
pub(super) type Covered = Arc<dyn Fn(&Version, bool) -> bool + Send + Sync>;

/// Gives the version of a name that [`Store::choose`] was told.
pub(super) type Chosen = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// Reads one version of an object, of so many bytes at most.
pub(super) type ReadVersion = Arc<dyn Fn(String, String, u64) -> BoxFuture<'static, Result<Bytes, StoreError>> + Send + Sync>;

/// Whoever knows the logs: a store cannot tell a record from what somebody wrote under its name before its coordinator did.
pub trait Judge: std::fmt::Debug + Send + Sync {
    /// Why what lies in a log's place `n` is no record of this deployment, in words for a message. None when it is one, or when that
    /// cannot be told: then it is locked, because what is not locked can be taken away.
    fn squats<'a>(&'a self, log: &'a LogName, n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// Why an object under a name of the layout is none of ours: a tile over records that do not exist, or what nothing that was signed
    /// names in the folder of a sealed collection. None when it is ours, or when that cannot be told.
    fn unnamed<'a>(&'a self, log: &'a LogName, object: &'a CaseObject) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// What is wrong with the head of a log that a reader gets, in words for a message: an older one lies on top of the newest, or none at
    /// all, or the log does not hold what was signed, so that nobody can open it. None when nothing is, when that is told elsewhere, or when it cannot be told.
    ///
    /// # Errors
    /// When the store is disturbed, and when that head may not be read, of which nobody saw that anything is wrong with it.
    fn heads<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>>;

    /// Whether what lies in a log's place `n` and is no record is told by whoever keeps the log, so that a pass need not tell it as well.
    fn tells<'a>(&'a self, _log: &'a LogName, _n: u64) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(async { Ok(false) })
    }

    /// What is wrong with a log of which no head was listed, though there is something of its case, or of other cases where it is the
    /// deployment's, in words for a message. None when nothing is, when that is told elsewhere, or when it cannot be told.
    fn headless<'a>(&'a self, _log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    /// Has the store know what custody of a log's case asks for now. Why that cannot be known, in words for a message; none when it is
    /// known, or when nobody can be asked.
    fn custody<'a>(&'a self, _log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    /// Looks at a log, so that the store knows which versions of its records and tiles are the genuine ones. When it cannot be read, the
    /// first ones are locked, and none is called genuine.
    fn open<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, ()>;
}

/// A store that has versions, seen by whoever looks after it.
#[derive(Clone)]
pub struct Attestable {
    /// Versions and locks.
    pub vault: Vault,
    pub(super) locks: Option<Arc<Locks>>,
    /// Tells the store which version of a name is the genuine one under something newer, or under nothing that is seen.
    pub(super) covered: Covered,
    /// The version of a name that was chosen by its content, as far as one was.
    pub(super) chosen: Chosen,
    /// Reads one version of an object.
    pub(super) read: ReadVersion,
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

/// Looks at the versions of all names that begin so, so that from then on the store reads and lists the genuine ones, and says what
/// lies on top of them. A store that locks nothing is left alone: there is no saying which version is genuine.
///
/// # Errors
/// As the store fails.
pub async fn recall(store: &dyn Store, begin: &str) -> Result<Vec<Trouble>, StoreError> {
    look_over(store, begin, None).await
}

/// What [`recall`] said, once more, now that it can be known which versions of a log's records and tiles are the genuine ones: because
/// the log was opened meanwhile, or because this judge looks. What was hidden then stays told: it may lie on top again.
///
/// # Errors
/// As the store fails.
pub(crate) async fn recall_again(
    store: &dyn Store,
    begin: &str,
    before: Vec<Trouble>,
    judge: Option<Arc<dyn Judge>>,
) -> Result<Vec<Trouble>, StoreError> {
    if before.iter().all(|trouble| trouble.kind != VERSION) {
        return Ok(before);
    }
    let now = look_over(store, begin, judge).await?;
    let hidden = before.into_iter().filter(|trouble| trouble.kind != VERSION);
    Ok(hidden.chain(now.into_iter().filter(|trouble| trouble.kind == VERSION)).collect())
}

async fn look_over(store: &dyn Store, begin: &str, judge: Option<Arc<dyn Judge>>) -> Result<Vec<Trouble>, StoreError> {
    let Some(found) = store.attestable().filter(Attestable::locks) else { return Ok(Vec::new()) };
    let mut pass = Pass { versions_only: true, judge, ..Pass::new(found, glance(begin)) };
    Ok(Box::pin(pass.run()).await?.troubles)
}

/// Whether a store that is to lock still does: what the bucket says of itself, and the lock of the start's own probe, which is
/// written if it is not there, and read back.
///
/// # Errors
/// [`Kind::Retry`], also where the store does not hear us, unless something was found before. What else it answers is a trouble; beside
/// them, why the bucket may not be asked, if that is refused.
pub async fn still_locks(store: &dyn Store) -> Result<(Vec<Trouble>, Option<StoreError>), StoreError> {
    let Some(found) = store.attestable().filter(Attestable::locks) else { return Ok((Vec::new(), None)) };
    let place = found.vault.describe().to_owned();
    let mut bucket = Pass::new(found, glance(""));
    let said = bucket.look_at_bucket().await;
    let (mut troubles, mut refused) = (bucket.told(), None);
    for (kind, looked) in [(UNATTESTED, said), ("store-lock", super::can_lock(store, &Patience::default()).await)] {
        match looked {
            Ok(()) => {}
            // What was found is told, whatever cannot be read beside it.
            Err(e) if e.kind() == Kind::Retry && troubles.is_empty() && refused.is_none() => return Err(e),
            Err(e) if e.is_passing() => {}
            Err(e) if kind == UNATTESTED && e.kind() == Kind::Denied => refused = Some(e),
            Err(e) => {
                let kind = if e.says_nothing() || e.is_unread() { UNATTESTED } else { kind };
                troubles.push(Trouble { kind, subject: place.clone(), detail: e.to_string() });
            }
        }
    }
    Ok((troubles, refused))
}

/// A task that reads no lock, so that no time matters.
fn glance(begin: &str) -> Task {
    Task { begin: begin.to_owned(), repair: false, pause: Duration::ZERO, now: Timestamp::from_unix_s(0) }
}

/// What a pass is to do.
#[derive(Debug, Clone)]
pub struct Task {
    /// Names that begin so are looked at; empty for all.
    pub begin: String,
    /// Sets locks that are too weak, and takes off legal holds that custody released or that keep a log from growing. Without it, it is
    /// only looked.
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
    /// Objects that they name.
    named: usize,
    judge: Option<Arc<dyn Judge>>,
    /// Who keeps what was found before it is mended.
    keeper: Option<Arc<dyn Keeper>>,
    /// What is to be done to locks of this page, and of which versions of it that is kept already.
    mends: Vec<mend::Mend>,
    kept: BTreeSet<(String, String)>,
    /// The log whose custody was asked for last, and whether it is known.
    asked: Option<(LogName, bool)>,
    /// Whether a hold may be read.
    holds: holds::Holds,
    /// Objects under another version, of which the store could not remember the genuine one.
    unremembered: u64,
    /// How often it waited for what might be being destroyed.
    waited: usize,
    /// The logs of which something was listed.
    logs: heads::Logs,
    /// Neither the bucket nor any lock is looked at, which would cost a request for each object.
    versions_only: bool,
    done: bool,
}

impl Pass {
    /// A pass that begins.
    #[must_use]
    pub fn new(store: Attestable, task: Task) -> Self {
        let (report, tallies) = (Report::default(), BTreeMap::new());
        Self {
            store,
            task,
            cursor: None,
            carried: Vec::new(),
            report,
            tallies,
            named: 0,
            judge: None,
            keeper: None,
            mends: Vec::new(),
            kept: BTreeSet::new(),
            asked: None,
            holds: holds::Holds::default(),
            unremembered: 0,
            waited: 0,
            logs: heads::Logs::default(),
            versions_only: false,
            done: false,
        }
    }

    /// With somebody who knows the logs.
    #[must_use]
    pub fn judged_by(self, judge: Arc<dyn Judge>) -> Self {
        Self { judge: Some(judge), ..self }
    }

    /// With somebody who keeps what is wrong with locks before they are mended.
    #[must_use]
    pub fn kept_by(self, keeper: Arc<dyn Keeper>) -> Self {
        Self { keeper: Some(keeper), ..self }
    }

    /// Looks until the end, or until the store fails: then calling again goes on where it stood.
    ///
    /// # Errors
    /// As the store fails; what one object is refused is told in the report and not here.
    pub async fn run(&mut self) -> Result<Report, StoreError> {
        while !self.done {
            self.step().await?;
        }
        self.ask_of_logs().await?;
        let mut report = self.report.clone();
        report.troubles = self.told();
        report.lists = self.tallies.iter().filter_map(|((kind, subject), tally)| report::List::of(kind, subject, tally)).collect();
        report.troubles.extend(self.holds.told(self.store.vault.describe()));
        report.troubles.extend(report::too_many(self.unremembered, self.store.vault.describe()));
        Ok(report)
    }

    /// True when no page is left: what [`Pass::run`] still does is to ask of logs, and to report.
    #[must_use]
    pub const fn is_through(&self) -> bool {
        self.done
    }

    /// Looks at one page more, before the first one at the bucket.
    ///
    /// # Errors
    /// As of [`Pass::run`].
    pub async fn step(&mut self) -> Result<(), StoreError> {
        if self.done {
            return Ok(());
        }
        if self.cursor.is_none() && self.carried.is_empty() {
            self.look_at_bucket().await?;
        }
        self.page().await
    }

    fn told(&self) -> Vec<Trouble> {
        self.tallies.iter().map(|((kind, subject), tally)| report::told(kind, subject, tally)).collect()
    }

    async fn look_at_bucket(&mut self) -> Result<(), StoreError> {
        if self.store.locks.is_none() || self.versions_only {
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

    /// One page. Order: 1. list; 2. look at each name that is whole; 3. keep what is wrong with locks; 4. mend them; 5. note where the next
    /// page begins. What is looked at twice because one of these failed halfway costs requests and nothing else.
    async fn page(&mut self) -> Result<(), StoreError> {
        let page = self.store.vault.versions(&self.task.begin, self.cursor.as_ref()).await?;
        tokio::time::sleep(self.task.pause).await;
        self.mends.clear();
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
        self.mend().await?;
        self.report.versions = self.report.versions.saturating_add(seen);
        self.done = page.next.is_none();
        (self.carried, self.cursor) = (carried, page.next);
        Ok(())
    }

    async fn look(&mut self, name: &str, versions: &[Version]) -> Result<(), StoreError> {
        if name.starts_with("probe/") {
            return Ok(());
        }
        let Some((log, object)) = layout::parse(name) else {
            // Of what nobody sees any more, its owner has seen to it.
            if let Some(seen) = versions.iter().find(|v| v.latest && !v.marker).filter(|_| !self.versions_only) {
                let lock = self.strange_lock(seen).await?;
                self.tell("store-foreign", name, format!("nothing of ours has such a name; {lock}"));
            }
            return Ok(());
        };
        self.note_log(&log, &object).await?;
        let hidden = self.store.vault.hidden_by(versions);
        if hidden.is_some() && !versions.iter().any(|v| v.marker) && self.is_being_destroyed(name).await? {
            return Ok(());
        }
        self.report.objects = self.report.objects.saturating_add(1);
        if let Some(why) = &hidden {
            self.tell(MARKER, name, format!("hidden {why}"));
        }
        let mut whole: Vec<&Version> = versions.iter().filter(|v| !v.marker).collect();
        // The newest comes first. What is replaced counts by its newest version, what is created once by its first, unless that is what
        // somebody put there before us.
        let replaced = is_replaced(name);
        let chosen = self.chosen(name, (&log, &object), whole.len()).await;
        let at = chosen.and_then(|chosen| whole.iter().position(|v| v.version == chosen));
        // Of what somebody else can take first, the order of the versions says nothing.
        let is_open = at.is_none() && whole.len() > 1 && is_of_a_log(&object);
        let at = at.unwrap_or_else(|| if replaced { 0 } else { whole.len().saturating_sub(1) });
        let Some(genuine) = whole.get(at).copied() else {
            self.tell(VERSION, name, "no version of it is left under its delete marker".to_owned());
            return Ok(());
        };
        let is_seen = versions.iter().any(|v| v.latest && !v.marker);
        if (versions.len() > 1 || hidden.is_some()) && !(self.store.covered)(genuine, is_seen) {
            self.unremembered = self.unremembered.saturating_add(1);
        }
        let is_undecided = is_open && self.is_undecided(name, &object, (genuine, whole.as_slice())).await?;
        whole.remove(at);
        if !is_open && !replaced && !whole.is_empty() {
            let (above, beneath) = whole.split_at(at);
            let above = self.forged(&object, genuine, above).await?;
            if !above.is_empty() || !beneath.is_empty() {
                self.tell(VERSION, name, beside(genuine, &above, beneath));
            }
        }
        if self.squats((&log, &object), genuine).await? || self.is_strange((&log, &object), genuine).await? {
            return Ok(());
        }
        // Who repairs locks the first one, as ever: what is not locked can be taken away. Who only looks cannot say which is to be locked.
        if is_undecided && !self.task.repair {
            return Ok(());
        }
        self.look_at_head(&log, &object, name).await?;
        self.look_at_lock(&log, name, genuine).await
    }

    /// Whether the head that a reader gets is the newest one of its log, however well it is locked.
    async fn look_at_head(&mut self, log: &LogName, object: &CaseObject, name: &str) -> Result<(), StoreError> {
        // Who only looks at versions is followed by whoever reads the log.
        let Some(judge) = self.judge.clone().filter(|_| !self.versions_only && *object == CaseObject::Checkpoint) else { return Ok(()) };
        match judge.heads(log).await {
            Ok(Some(why)) => self.tell("log-head", name, why),
            Ok(None) => {}
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            Err(e) => self.tell(UNATTESTED, name, format!("the head that a reader gets of this log cannot be read: {e}")),
        }
        Ok(())
    }

    /// The version that was chosen by its content, where there are several under a name of a log that somebody else can take first. The
    /// log is opened for it, if it is not.
    async fn chosen(&self, name: &str, (log, object): (&LogName, &CaseObject), versions: usize) -> Option<String> {
        let chosen = (self.store.chosen)(name);
        if chosen.is_some() || versions < 2 || !is_of_a_log(object) {
            return chosen;
        }
        self.judge.clone()?.open(log).await;
        (self.store.chosen)(name)
    }

    /// Whether what lies under a record's name is none. By then the store reads the version that was there first.
    async fn squats(&mut self, (log, object): (&LogName, &CaseObject), version: &Version) -> Result<bool, StoreError> {
        let (Some(judge), CaseObject::Slot(n)) = (self.judge.clone(), object) else { return Ok(false) };
        let Some(why) = judge.squats(log, *n).await? else { return Ok(false) };
        if !judge.tells(log, *n).await? {
            let lock = self.strange_lock(version).await?;
            let what = format!("it lies in the place of a record that was never published, and {why}; {lock}");
            self.tell("store-squatted", &version.name, what);
        }
        Ok(true)
    }

    /// Whether nothing that was signed speaks of an object.
    async fn is_strange(&mut self, (log, object): (&LogName, &CaseObject), version: &Version) -> Result<bool, StoreError> {
        // Who only looks at versions locks nothing.
        let Some(judge) = self.judge.clone().filter(|_| !self.versions_only) else { return Ok(false) };
        let Some(why) = judge.unnamed(log, object).await? else { return Ok(false) };
        let lock = self.strange_lock(version).await?;
        self.tell("store-foreign", &version.name, format!("{why}; {lock}"));
        Ok(true)
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
        let subject = self.subject(name, self.tallies.len());
        let tally = self.tallies.entry((kind, subject)).or_default();
        tally.count = tally.count.saturating_add(1);
        if tally.named.len() < NAMED_MAX || self.named < NAMED_IN_ALL_MAX {
            self.named = self.named.saturating_add(1);
            tally.named.push(named(name, what));
        }
    }

    /// What a trouble of an object is told of: its case, as long as there are not too many, else the bucket.
    fn subject(&self, name: &str, so_many: usize) -> String {
        case_of(name).filter(|_| so_many < CASES_MAX).unwrap_or_else(|| self.store.vault.describe().to_owned())
    }
}

/// What is said of one object.
fn named(name: &str, what: String) -> String {
    let name = escape_bounded(name, 200);
    if name.is_empty() { what } else { format!("'{name}': {what}") }
}

/// What the next writer of a log creates under a name that is known before.
const fn is_of_a_log(object: &CaseObject) -> bool {
    matches!(object, CaseObject::Slot(_) | CaseObject::Tile(_))
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
