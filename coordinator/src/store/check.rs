//! `exhibit-coordinator store check`: tries what an enemy with the coordinator's own credentials would try, on a probe, and
//! says what the store refuses. A setting that was only read proves nothing; a refusal does.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;

use super::lock::{Lock, LockMode, LockPolicy};
use super::patience::{Asked, Patience};
use super::vault::Vault;
use super::{Kind, Store, StoreError, attest, creates_only};

/// How one check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It was tried, and it is as it should be.
    Holds,
    /// It was tried, and evidence is not protected against it.
    Missing,
    /// It could not be tried.
    Untested,
}

/// One check.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Check {
    /// A stable word; of the copy in a second store it begins with `copy:`.
    pub what: Cow<'static, str>,
    /// How it ended.
    pub state: State,
    /// What was seen.
    pub detail: String,
    /// What to do where it does not hold; empty otherwise.
    pub remedy: Cow<'static, str>,
}

/// What the store keeps, and what it does not.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct CheckReport {
    /// Where the store is.
    pub store: String,
    /// The lock of the configuration.
    pub lock: Option<LockPolicy>,
    /// In the order in which they were made.
    pub checks: Vec<Check>,
}

impl CheckReport {
    /// True when nothing is missing and everything could be tried.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.checks.iter().all(|c| c.state == State::Holds)
    }

    /// How a check ended; `None` for one that this kind of store does not have.
    #[must_use]
    pub fn state(&self, what: &str) -> Option<State> {
        self.checks.iter().find(|c| c.what == what).map(|c| c.state)
    }

    /// The table for people.
    #[must_use]
    pub fn text(&self) -> String {
        let lock = self.lock.map_or_else(|| "none in the configuration".to_owned(), |lock| lock.to_string());
        let mut out = format!("Store: {}\nLock:  {lock}\n\n", self.store);
        for check in &self.checks {
            let state = match check.state {
                State::Holds => "holds",
                State::Missing => "MISSING",
                State::Untested => "untested",
            };
            let _ = writeln!(out, "  {state:<9} {:<20} {}", check.what, check.detail);
            if !check.remedy.is_empty() {
                let _ = writeln!(out, "  {:<30} -> {}", "", check.remedy);
            }
        }
        let end = if self.holds() {
            "Everything that was tried is as it should be."
        } else {
            "Evidence is not safe from what is listed as missing."
        };
        let _ = writeln!(out, "\n{end}");
        out
    }

    pub(crate) fn add(&mut self, what: &'static str, state: State, detail: impl Into<String>, remedy: &'static str) {
        let remedy = Cow::Borrowed(if state == State::Holds { "" } else { remedy });
        self.checks.push(Check { what: Cow::Borrowed(what), state, detail: escape_bounded(&detail.into(), 600), remedy });
    }

    /// For what could not be tried. What the store did not come to look at has a remedy of its own; where it refuses, that is this one.
    fn untried(&mut self, what: &'static str, e: &StoreError, remedy: &'static str) {
        if e.says_nothing() {
            self.add_own(what, State::Untested, e);
        } else {
            self.add(what, State::Untested, e.to_string(), remedy);
        }
    }

    /// With the remedy of the error.
    fn add_own(&mut self, what: &'static str, state: State, e: &StoreError) {
        let (detail, remedy) = (escape_bounded(e.message(), 600), Cow::Owned(e.remedy().to_owned()));
        self.checks.push(Check { what: Cow::Borrowed(what), state, detail, remedy });
    }

    /// What was tried on the copy, after what was tried on the store.
    pub(crate) fn add_copy(&mut self, of_copy: Self) {
        let named = of_copy.checks.into_iter().map(|check| Check { what: format!("copy:{}", check.what).into(), ..check });
        self.checks.extend(named);
    }

    /// For what must be refused: success is what is missing, and a refusal of whoever asks is none of what was asked.
    fn refused(&mut self, what: &'static str, tried: &Result<(), StoreError>, allowed: &str, remedy: &'static str) {
        match tried {
            Ok(()) => self.add(what, State::Missing, allowed, remedy),
            Err(e) if matches!(e.kind(), Kind::Denied | Kind::Conflict) && !e.says_nothing() => {
                self.add(what, State::Holds, "refused", remedy);
            }
            Err(e) => self.add(what, State::Untested, e.to_string(), TRY_AGAIN),
        }
    }
}

const TRY_AGAIN: &str = "try again";
const HARDER: &str = "governance is weak here, because who sets a lock may shorten it: set mode = \"compliance\" in store.lock";
const OTHER_STORE: &str = "this store does not keep what it promises: use another one";
const BUCKET_LOCK: &str = "this store refuses nothing to whoever may write there: use one with store.lock, or its owner sets retention on the bucket or container: docs/operations/stores.md";

/// Tries everything that is to be refused, on a new probe. What is not refused is done: the probe is then deleted or covered,
/// and nothing else is touched. A probe that is locked stays until its day. Each call is waited for as long as [`super::ANSWERS_WITHIN`];
/// after one that was not answered nothing more is asked.
pub async fn run(store: &dyn Store, lock: Option<LockPolicy>, now: Timestamp) -> CheckReport {
    run_with(store, lock, now, Patience::default()).await
}

pub(super) async fn run_with(store: &dyn Store, lock: Option<LockPolicy>, now: Timestamp, patience: Patience) -> CheckReport {
    let patience = Arc::new(patience);
    let asked = Asked { store, patience: &patience };
    let mut report = CheckReport { store: store.describe(), lock, checks: Vec::new() };
    match creates_only(store, &patience).await {
        Ok(()) => report.add("create-only", State::Holds, "an object that exists cannot be created again", ""),
        Err(e) => {
            report.add("create-only", State::Missing, e.to_string(), "nothing else was tried: see to this first");
            return report;
        }
    }
    let name = format!("probe/check-{}", now.unix_ms());
    let content = Bytes::from_static(b"written by 'exhibit-coordinator store check'\n");
    let probe = match asked.create(&name, &content).await {
        Ok(stored) => stored,
        Err(e) => {
            report.add("write", State::Missing, e.to_string(), "nothing else was tried: see to this first");
            return report;
        }
    };
    let vault = store.attestable().map(|found| found.vault.asked_with(&patience));
    if let Some(vault) = vault.as_ref().filter(|vault| vault.tells_encryption()) {
        encryption(&mut report, vault, &name).await;
    }
    match &vault {
        Some(vault) => versions(&mut report, asked, vault, &name, probe.version.as_deref(), now).await,
        None => plain(&mut report, asked, &name).await,
    }
    // Last, because what takes long to list would leave nothing else to be tried.
    lists(&mut report, asked).await;
    report
}

/// Whether the coordinator may list, which is a right of its own: without it no log is opened.
async fn lists(report: &mut CheckReport, asked: Asked<'_>) {
    match asked.list("probe").await {
        Ok(()) => report.add("list", State::Holds, "objects can be listed", ""),
        Err(e) if e.says_nothing() => report.add_own("list", State::Untested, &e),
        Err(e) => report.add_own("list", State::Missing, &e),
    }
}

/// What the store says of the probe's encryption. Without store.encryption it is shown and nothing is missing.
async fn encryption(report: &mut CheckReport, vault: &Vault, name: &str) {
    let seen = match vault.encryption_of(name).await {
        Ok(seen) => seen,
        Err(e) => return report.add("encryption", State::Untested, e.to_string(), TRY_AGAIN),
    };
    match vault.encryption().map(|asked| (asked, asked.compare(&seen))) {
        Some((asked, Ok(()))) => report.add("encryption", State::Holds, format!("{asked}; the store says so of the probe"), ""),
        Some((_, Err(why))) => report.add("encryption", State::Missing, why, "compare the key's policy and the bucket's settings"),
        None if seen.with.is_empty() => report.add("encryption", State::Holds, "not asked for; the store says of none", ""),
        None => report.add("encryption", State::Holds, format!("not asked for; by the bucket: {} {}", seen.with, seen.key), ""),
    }
}

/// A store without versions that we could ask for: what the bucket itself refuses.
async fn plain(report: &mut CheckReport, asked: Asked<'_>, name: &str) {
    let over = asked.replace(name, Bytes::from_static(b"other\n")).await;
    report.refused("overwrite", &over, "an object can be replaced by a write that does not ask whether it exists", BUCKET_LOCK);
    let gone = asked.destroy(name).await;
    report.refused("delete", &gone, "the coordinator's credentials can delete objects", BUCKET_LOCK);
}

async fn versions(report: &mut CheckReport, asked: Asked<'_>, vault: &Vault, name: &str, version: Option<&str>, now: Timestamp) {
    let words = vault.words();
    match vault.posture().await {
        Ok(posture) => {
            let state = |on: bool| if on { State::Holds } else { State::Missing };
            let detail = if posture.versioned { "on" } else { "off: what is overwritten or deleted is gone" };
            report.add("versioning", state(posture.versioned), detail, words.set_lock);
            let detail = if posture.lockable { "on" } else { "off: the bucket cannot keep anything from its owner" };
            report.add("object-lock", state(posture.lockable), format!("{} is {detail}", words.lock), words.set_lock);
        }
        Err(e) => report.untried("versioning", &e, words.use_policy),
    }
    // A version on top takes nothing away, but hides what is below until attestation finds it. It comes before the tries on the
    // version below it, because Azure does not delete the current version by its id, whatever its lock.
    let over = asked.replace(name, Bytes::from_static(b"other\n")).await;
    report.refused(
        "overwrite",
        &over,
        "another version can be put on top of an object; attestation finds it, nothing prevents it",
        words.use_policy,
    );
    match (report.lock, version) {
        (Some(policy), Some(version)) => {
            locked(report, vault, name, version, policy, now).await;
            held(report, asked, vault, now).await;
        }
        (Some(_), None) => report.add("lock", State::Missing, "the probe has no version, so nothing locks it", words.set_lock),
        (None, version) => {
            report.add("lock", State::Missing, "store.lock is not set: objects are not locked when they are written", words.set_lock);
            if let Some(version) = version {
                let gone = vault.delete(name, Some(version), false).await;
                report.refused("delete-version", &gone, "the coordinator's credentials can delete versions", words.use_policy);
            }
        }
    }
    let hidden = vault.delete(name, None, false).await;
    report.refused("delete-marker", &hidden, words.hidden, words.use_policy);
}

/// Order: what would only weaken the lock first, what would delete last, so that each try has something to try on.
async fn locked(report: &mut CheckReport, vault: &Vault, name: &str, version: &str, policy: LockPolicy, now: Timestamp) {
    let use_policy = vault.words().use_policy;
    let full = Lock { mode: policy.mode, until: policy.until(now), hold: false };
    // put_new read it back already; a write that was not locked would have failed.
    report.add("lock", State::Holds, format!("the probe was written as {full}, and reads back so"), "");
    // What is unlocked on Azure is shortened by whoever may set it: there the mode is the remedy, and not another store.
    let weakened = if policy.mode == LockMode::Governance && vault.words().shortens_governance { HARDER } else { OTHER_STORE };
    let soon = now.plus_s(3_600);
    for (what, mode, bypass) in [("shorten", policy.mode, false), ("bypass-shorten", LockMode::Governance, true)] {
        let tried = vault.retain(name, version, mode, soon, bypass).await;
        // Some stores answer that they did it and do not.
        let weaker = vault.lock_of(name, version).await.map(|seen| !seen.retains(&full, 60));
        match (tried, weaker) {
            // A lock that nobody came to look at was not put to the test.
            (Err(e), Ok(false)) if e.says_nothing() => report.add(what, State::Untested, e.to_string(), TRY_AGAIN),
            (Err(e), Ok(false)) if e.kind() == Kind::Denied => report.add(what, State::Holds, "refused", ""),
            (_, Ok(false)) => report.add(what, State::Holds, "the lock is as it was", ""),
            (_, Ok(true)) => {
                let remedy = if bypass { use_policy } else { weakened };
                report.add(what, State::Missing, "the lock was shortened", remedy);
                let _ = attest::ensure(vault, name, version, &full, 60).await;
            }
            (_, Err(e)) => report.untried(what, &e, use_policy),
        }
    }
    for (what, bypass) in [("delete-version", false), ("bypass-delete", true)] {
        let tried = vault.delete(name, Some(version), bypass).await;
        let there = vault.lock_of(name, version).await;
        match (tried, there) {
            (Err(e), Ok(_)) if e.says_nothing() => report.add(what, State::Untested, e.to_string(), TRY_AGAIN),
            (_, Ok(_)) => report.add(what, State::Holds, "refused: the version is still there", ""),
            (_, Err(e)) if e.kind() == Kind::NotFound => {
                report.add(what, State::Missing, "the locked version could be deleted", if bypass { use_policy } else { OTHER_STORE });
                return;
            }
            (_, Err(e)) => report.untried(what, &e, use_policy),
        }
    }
}

/// What becomes of an object under a legal hold when it is written again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OverHeld {
    /// The write is refused.
    Refused,
    /// A version lies on top of it.
    Covered,
    /// It is gone.
    Gone,
}

/// The clouds' pages can be read both ways, and where heads have the hold of their case its log rests on the answer.
async fn held(report: &mut CheckReport, asked: Asked<'_>, vault: &Vault, now: Timestamp) {
    // Policies let nothing but heads be written again, so it has the name of a start's probe.
    let name = format!("probe/held-{}/probe/head", now.unix_ms());
    let heads_have_none = vault.words().hold_keeps_name;
    let (tried, left) = over_held(asked, vault, &name).await;
    if let Some(left) = left {
        report.add("held-probe", State::Untested, left, "take the hold off that version: it is a probe, and no evidence");
    }
    let (state, detail) = match tried {
        Ok(OverHeld::Refused) if heads_have_none => {
            (State::Holds, "a write over a held object is refused: heads have no hold here, the records under them have")
        }
        Ok(OverHeld::Refused) => (State::Missing, "a write over a held object is refused: the log of a held case would stand still"),
        Ok(OverHeld::Covered) if heads_have_none => {
            (State::Holds, "a write over a held object makes a version on top, the held one stays; heads have no hold here all the same")
        }
        Ok(OverHeld::Covered) => (State::Holds, "a write over a held object makes a version on top, the held one stays"),
        Ok(OverHeld::Gone) => (State::Missing, "a write over a held object takes it away"),
        Err(e) => return report.untried("held-overwrite", &e, vault.words().use_policy),
    };
    report.add("held-overwrite", state, detail, OTHER_STORE);
}

/// Order: 1. a probe; 2. a hold on it; 3. a write over it; 4. a look whether the held version is there; 5. the hold is taken off,
/// whatever 2 to 4 brought, also where the store fell silent. Died before 5: a probe that is held stays, which nothing looks at. Gives as
/// well what may stay because 5 failed.
async fn over_held(asked: Asked<'_>, vault: &Vault, name: &str) -> (Result<OverHeld, StoreError>, Option<String>) {
    let version = match to_hold(asked, vault, name).await {
        Ok(version) => version,
        Err(e) => return (Err(e), None),
    };
    let tried = match vault.hold(name, &version, true).await {
        Ok(()) => overwritten(asked, vault, (name, &version)).await,
        // It may have happened, or may still happen. Whoever is not heard has done nothing.
        Err(e) if e.is_passing() => Err(e),
        Err(e) => return (Err(e), None),
    };
    if matches!(tried, Ok(OverHeld::Gone)) {
        return (tried, None);
    }
    // After a silence nothing more is asked with the patience that was spent on it.
    let released = vault.asked_with(&Arc::new(Patience::default())).hold(name, &version, false).await;
    let left = released.err().map(|e| format!("a legal hold may stay on version {} of '{name}': {e}", escape_bounded(&version, 80)));
    (tried, left)
}

/// The version of a new probe.
async fn to_hold(asked: Asked<'_>, vault: &Vault, name: &str) -> Result<String, StoreError> {
    asked.replace(name, Bytes::from_static(b"held\n")).await?;
    let version = vault.versions_of(name).await?.pop().ok_or_else(|| StoreError::not_found(name))?;
    Ok(version.version)
}

async fn overwritten(asked: Asked<'_>, vault: &Vault, (name, version): (&str, &str)) -> Result<OverHeld, StoreError> {
    let over = asked.replace(name, Bytes::from_static(b"other\n")).await;
    match (over, vault.lock_of(name, version).await) {
        (_, Err(e)) if e.kind() == Kind::NotFound => Ok(OverHeld::Gone),
        // That nothing more was asked says less than what was not answered.
        (Err(e), _) if e.says_nothing() => Err(e),
        (_, Err(e)) => Err(e),
        (_, Ok(seen)) if !seen.hold => {
            let message = format!("{}: a hold was set on '{name}' and is not there", vault.describe());
            Err(StoreError::new(Kind::Denied, message, vault.words().stays_weak))
        }
        (Ok(()), Ok(_)) => Ok(OverHeld::Covered),
        (Err(_), Ok(_)) => Ok(OverHeld::Refused),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};
    use std::time::Duration;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::store::RemoteStore;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::tests::bucket_at;

    const NAME: &str = "probe/held-1/probe/head";
    const LISTED: &str = "<ListVersionsResult><Version><Key>probe/held-1/probe/head</Key><VersionId>v1</VersionId>\
                          <IsLatest>true</IsLatest><LastModified>2026-01-01T00:00:00.000Z</LastModified></Version></ListVersionsResult>";

    const DONE: &str = "200 OK";

    /// A bucket that lists one version, says whether it is held, and answers so to who sets a hold, and to who takes it off. What it was asked
    /// for holds.
    async fn bucket((sets, releases): (&'static str, &'static str)) -> (Vault, Arc<Mutex<Vec<&'static str>>>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let holds = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&holds);
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                let mut request = Vec::new();
                // Of what comes here only what sets a hold has a body, and that ends so.
                while !request.windows(4).any(|end| end == b"\r\n\r\n")
                    || (request.starts_with(b"PUT") && !request.ends_with(b"</LegalHold>"))
                {
                    if connection.read_buf(&mut request).await.expect("read") == 0 {
                        break;
                    }
                }
                let said = String::from_utf8_lossy(&request);
                let (status, body) = if said.starts_with("PUT") {
                    let word = if said.contains("<Status>ON</Status>") { "ON" } else { "OFF" };
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(word);
                    (if word == "ON" { sets } else { releases }, "")
                } else {
                    (DONE, LISTED)
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
                connection.write_all(answer.as_bytes()).await.expect("written");
            }
        });
        let store = RemoteStore::open(&bucket_at(port)).expect("settings");
        (store.attestable().expect("an S3 store").vault, holds)
    }

    #[tokio::test]
    async fn a_hold_on_a_probe_is_taken_off_after_a_silence_and_what_stays_is_named() {
        for (releases, off) in [(true, DONE), (false, "403 Forbidden")] {
            let (vault, holds) = bucket((DONE, off)).await;
            let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
            // The probe is written, and the write over it is not answered.
            store.faults.fail(Op::PutHead, NAME, 1, 1, Fault::DieBefore);
            let patience = Arc::new(Patience::of(Duration::from_secs(2)));
            let asked = Asked { store: &store, patience: &patience };
            let (tried, left) = over_held(asked, &vault.asked_with(&patience), NAME).await;
            let silent = tried.expect_err("silent");
            assert!(silent.message().contains("could not replace") && silent.message().contains("no answer within 2 s"), "{silent}");
            assert_eq!(*holds.lock().unwrap_or_else(PoisonError::into_inner), ["ON", "OFF"]);
            let named = left.as_ref().is_some_and(|left| left.starts_with(&format!("a legal hold may stay on version v1 of '{NAME}': ")));
            assert_eq!((left.is_none(), named), (releases, !releases), "{left:?}");
        }
    }

    #[tokio::test]
    async fn a_hold_that_nobody_heard_of_is_not_taken_off() {
        for refused in ["401 Unauthorized", "403 Forbidden"] {
            let (vault, holds) = bucket((refused, DONE)).await;
            let store = RemoteStore::memory();
            let patience = Arc::new(Patience::of(Duration::from_secs(20)));
            let asked = Asked { store: &store, patience: &patience };
            let (tried, left) = over_held(asked, &vault.asked_with(&patience), NAME).await;
            let e = tried.expect_err("not done");
            assert!(e.message().contains(refused.split(' ').next().unwrap_or_default()), "{e}");
            assert_eq!(left, None, "nothing was set: {e}");
            assert_eq!(*holds.lock().unwrap_or_else(PoisonError::into_inner), ["ON"], "asked once: {e}");
        }
    }

    #[tokio::test]
    async fn whether_objects_can_be_listed_is_tried() {
        let fails = |kind: Kind| Some(Fault::Before(kind));
        for (fault, state) in [(None, State::Holds), (fails(Kind::Denied), State::Missing), (fails(Kind::Retry), State::Untested)] {
            let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
            if let Some(fault) = fault {
                store.faults.fail(Op::List, "probe", 0, 1, fault);
            }
            let report = run(&store, None, Timestamp::from_unix_s(1_767_225_600)).await;
            assert_eq!(report.state("list"), Some(state), "{}", report.text());
            let line = report.checks.last().expect("the last line");
            assert_eq!((&*line.what, line.remedy.is_empty()), ("list", state == State::Holds), "{}", report.text());
        }
    }

    #[test]
    fn what_a_silent_store_was_not_asked_has_no_remedy_in_a_policy() {
        let mut report = CheckReport { store: "a bucket".to_owned(), lock: None, checks: Vec::new() };
        let silent = super::super::patience::silent("replace 'a'", Duration::from_secs(30));
        report.untried("held-overwrite", &silent, "the policy");
        report.untried("versioning", &StoreError::new(Kind::Denied, "403", "compare"), "the policy");
        let remedies: Vec<&str> = report.checks.iter().map(|line| &*line.remedy).collect();
        assert_eq!(remedies, [silent.remedy(), "the policy"], "{}", report.text());
        assert!(report.text().contains("no answer within 30 s"), "{}", report.text());
    }

    const LOCKED: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\nx-amz-object-lock-mode: COMPLIANCE\r\n\
                          x-amz-object-lock-retain-until-date: 2099-01-01T00:00:00Z\r\ncontent-length: 0\r\n\r\n";

    /// A bucket that says of every version that it is locked for long, and gives this answer to who wants to change anything.
    async fn locking(answer: &'static str) -> Vault {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0_u8; 4_096];
                    let Ok(read) = connection.read(&mut request).await else { return };
                    let answer = if request[..read].starts_with(b"HEAD") { LOCKED } else { answer };
                    if connection.write_all(answer.as_bytes()).await.is_ok() {
                        while connection.read(&mut request).await.is_ok_and(|n| n > 0) {}
                    }
                });
            }
        });
        let vault = RemoteStore::open(&bucket_at(port)).expect("settings").attestable().expect("an S3 store").vault;
        // What is disturbed is asked again once, and no longer.
        Vault { lists_within: Duration::ZERO, ..vault }
    }

    #[tokio::test]
    async fn what_a_store_did_not_come_to_refuse_is_not_certified() {
        const DISTURBED: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const UNHEARD: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
        const UNKNOWN_KEY: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 53\r\n\r\n\
            <Error><Code>InvalidAccessKeyId</Code><X></X></Error>";
        let (now, policy) = (Timestamp::from_unix_s(1_767_225_600), LockPolicy { mode: LockMode::Compliance, days: 1 });
        let answers = [(DISTURBED, State::Untested), (UNHEARD, State::Untested), (UNKNOWN_KEY, State::Untested), (REFUSED, State::Holds)];
        for (answer, state) in answers {
            let mut report = CheckReport { store: "a bucket".to_owned(), lock: Some(policy), checks: Vec::new() };
            locked(&mut report, &locking(answer).await, "probe/check-1", "v1", policy, now).await;
            for what in ["shorten", "bypass-shorten", "delete-version", "bypass-delete"] {
                assert_eq!(report.state(what), Some(state), "{what}: {}", report.text());
            }
            assert_eq!(report.holds(), state == State::Holds, "{}", report.text());
            let gone = locking(answer).await.delete("probe/check-1", None, false).await;
            report.refused("delete-marker", &gone, "deleted", OTHER_STORE);
            assert_eq!(report.state("delete-marker"), Some(state), "{}", report.text());
        }
    }
}
