//! `exhibit-coordinator store check`: tries what an enemy with the coordinator's own credentials would try, on a probe, and
//! says what the store refuses. A setting that was only read proves nothing; a refusal does.

mod report;

use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::Timestamp;
use exhibit_evidence::text::escape_bounded;

use super::creation::{Unfit, try_creation};
use super::lock::{Lock, LockMode, LockPolicy};
use super::patience::{Asked, Patience};
use super::vault::Vault;
use super::{Kind, Store, StoreError, attest};

pub use report::{Check, CheckReport, State};

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
    if let Err(unfit) = try_creation(store, &patience).await {
        let (what, state, e) = match unfit {
            Unfit::Overwrites(e) => ("create-only", State::Missing, e),
            Unfit::Unencrypted(e) => ("encryption", State::Missing, e),
            Unfit::Alters(e) => ("write", State::Missing, e),
            Unfit::Unseen(e) => ("create-only", State::Untested, e),
        };
        report.ended(what, state, &e);
        return report;
    }
    report.add("create-only", State::Holds, "an object that exists cannot be created again", "");
    let name = format!("probe/check-{}", now.unix_ms());
    let content = Bytes::from_static(b"written by 'exhibit-coordinator store check'\n");
    let probe = match asked.create(&name, &content).await {
        Ok(stored) => stored,
        Err(e) => {
            report.ended("write", State::Missing, &e);
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
        Err(e) => report.not_allowed("list", &e),
    }
}

/// What the store says of the probe's encryption. Without store.encryption it is shown and nothing is missing.
async fn encryption(report: &mut CheckReport, vault: &Vault, name: &str) {
    let seen = match vault.encryption_of(name).await {
        Ok(seen) => seen,
        Err(e) => return report.add_own("encryption", State::Untested, &e),
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
                let gone = vault.try_delete(name, Some(version), false).await;
                report.refused("delete-version", &gone, "the coordinator's credentials can delete versions", words.use_policy);
            }
        }
    }
    let hidden = vault.try_delete(name, None, false).await;
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
        let weaker = vault.lock_of(name, version).await.map(|seen| !seen.retains(&full, 60));
        match weaker {
            Ok(false) => report.kept(what, &tried, "the lock is as it was"),
            Ok(true) => {
                let remedy = if bypass { use_policy } else { weakened };
                report.add(what, State::Missing, "the lock was shortened", remedy);
                let _ = attest::ensure(vault, name, version, &full, 60).await;
            }
            Err(e) => report.untried(what, &e, use_policy),
        }
    }
    for (what, bypass) in [("delete-version", false), ("bypass-delete", true)] {
        let tried = vault.try_delete(name, Some(version), bypass).await;
        let there = vault.lock_of(name, version).await;
        match there {
            Ok(_) => report.kept(what, &tried, "the version is still there"),
            Err(e) if e.kind() == Kind::NotFound => {
                report.add(what, State::Missing, "the locked version could be deleted", if bypass { use_policy } else { OTHER_STORE });
                return;
            }
            Err(e) => report.untried(what, &e, use_policy),
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
    let seen = match (&over, vault.lock_with(name, version, true).await) {
        (_, Err(e)) if e.kind() == Kind::NotFound => return Ok(OverHeld::Gone),
        // That nothing more was asked says less than what was not answered, or not in words.
        (Err(e), _) if e.says_nothing() || e.is_wordless() => return Err(e.clone()),
        (_, seen) => seen?,
    };
    if !seen.hold {
        let message = format!("{}: a hold was set on '{name}' and is not there", vault.describe());
        return Err(StoreError::new(Kind::Denied, message, vault.words().stays_weak));
    }
    match over {
        Ok(()) => Ok(OverHeld::Covered),
        Err(e) if e.is_coded() => Ok(OverHeld::Refused),
        Err(e) => Err(e),
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
                          x-amz-object-lock-retain-until-date: 2099-01-01T00:00:00Z\r\nx-amz-object-lock-legal-hold: OFF\r\n\
                          content-length: 0\r\n\r\n";
    const DISTURBED: &str = "HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const UNHEARD: &str = "HTTP/1.1 401 Unauthorized\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const UNKNOWN_KEY: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 53\r\n\r\n\
                               <Error><Code>InvalidAccessKeyId</Code><X></X></Error>";
    const BARE_403: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BARE_400: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BARE_405: &str = "HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const NO_METHOD: &str = "HTTP/1.1 405 Method Not Allowed\r\nconnection: close\r\ncontent-length: 44\r\n\r\n\
                             <Error><Code>MethodNotAllowed</Code></Error>";
    const BARE_404: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const NO_VERSION: &str = "HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 41\r\n\r\n\
                              <Error><Code>NoSuchVersion</Code></Error>";
    const BARE_409: &str = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BARE_412: &str = "HTTP/1.1 412 Precondition Failed\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BARE_501: &str = "HTTP/1.1 501 Not Implemented\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const FOUND: &str = "HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const BLOCKED: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 19\r\n\r\n{\"error\":\"blocked\"}";
    /// As a proxy or a firewall answers.
    const PAGE: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 20\r\n\r\n<html>blocked</html>";
    const REFUSED: &str = "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 40\r\n\r\n\
                           <Error><Code>AccessDenied</Code></Error>";
    /// In codes that are about neither rights nor locks, and as MinIO says it of a lock.
    const TOO_LATE: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 42\r\n\r\n\
        <Error><Code>RequestTimeout</Code></Error>";
    const CONFLICT: &str = "HTTP/1.1 409 Conflict\r\nconnection: close\r\ncontent-length: 44\r\n\r\n\
        <Error><Code>OperationAborted</Code></Error>";
    const OTHER: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 78\r\n\r\n\
        <Error><Code>InvalidRequest</Code><Message>the date is wrong</Message></Error>";
    const WORM: &str = "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 111\r\n\r\n\
        <Error><Code>InvalidRequest</Code><Message>Object is WORM protected and cannot be overwritten</Message></Error>";
    const SAYS_DONE: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    const WELCOME: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 20\r\n\r\n<html>welcome</html>";

    const HELD: &str = "HTTP/1.1 200 OK\r\nconnection: close\r\nx-amz-object-lock-mode: COMPLIANCE\r\n\
                        x-amz-object-lock-retain-until-date: 2099-01-01T00:00:00Z\r\nx-amz-object-lock-legal-hold: ON\r\n\
                        content-length: 0\r\n\r\n";

    async fn locking(answer: &'static str) -> (RemoteStore, Vault) {
        saying(LOCKED, answer).await
    }

    /// A bucket that says so of every version, that it is locked for long for example, and gives this answer to whatever else is asked.
    async fn saying(of_version: &'static str, answer: &'static str) -> (RemoteStore, Vault) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0_u8; 4_096];
                    let Ok(read) = connection.read(&mut request).await else { return };
                    let answer = if request[..read].starts_with(b"HEAD") { of_version } else { answer };
                    if connection.write_all(answer.as_bytes()).await.is_ok() {
                        while connection.read(&mut request).await.is_ok_and(|n| n > 0) {}
                    }
                });
            }
        });
        let store = RemoteStore::open(&bucket_at(port)).expect("settings");
        let vault = store.attestable().expect("an S3 store").vault;
        // What is disturbed is asked again once, and no longer.
        (store, Vault { lists_within: Duration::ZERO, ..vault })
    }

    const NOW: Timestamp = Timestamp::from_unix_s(1_767_225_600);
    const POLICY: LockPolicy = LockPolicy { mode: LockMode::Compliance, days: 1 };
    const TRIED_ON_LOCKS: [&str; 4] = ["shorten", "bypass-shorten", "delete-version", "bypass-delete"];

    fn empty() -> CheckReport {
        CheckReport { store: "a bucket".to_owned(), lock: Some(POLICY), checks: Vec::new() }
    }

    fn line<'a>(report: &'a CheckReport, what: &str) -> &'a Check {
        report.checks.iter().find(|line| line.what == what).expect("tried")
    }

    /// What is tried on a locked probe, and what hides it.
    async fn tried_on(answer: &'static str) -> CheckReport {
        let (mut report, (_, vault)) = (empty(), locking(answer).await);
        locked(&mut report, &vault, "probe/check-1", "v1", POLICY, NOW).await;
        let gone = vault.try_delete("probe/check-1", None, false).await;
        report.refused("delete-marker", &gone, "deleted", OTHER_STORE);
        report
    }

    #[tokio::test]
    async fn what_a_store_did_not_come_to_refuse_is_not_certified() {
        for (answer, state, remedy) in [
            (DISTURBED, State::Untested, "check the store"),
            (UNHEARD, State::Untested, "renew the credentials"),
            (UNKNOWN_KEY, State::Untested, "renew the credentials"),
            (BARE_403, State::Untested, "what stands between this machine and the store"),
            (BARE_400, State::Untested, "what stands between this machine and the store"),
            (PAGE, State::Untested, "what stands between this machine and the store"),
            (BARE_405, State::Untested, "what stands between this machine and the store"),
            (BARE_404, State::Untested, "what stands between this machine and the store"),
            (NO_VERSION, State::Untested, "what stands between this machine and the store"),
            (BARE_409, State::Untested, "what stands between this machine and the store"),
            (BARE_412, State::Untested, "what stands between this machine and the store"),
            (BARE_501, State::Untested, "what stands between this machine and the store"),
            (FOUND, State::Untested, "what stands between this machine and the store"),
            (BLOCKED, State::Untested, "what stands between this machine and the store"),
            (TOO_LATE, State::Untested, "docs/operations/stores.md"),
            (CONFLICT, State::Untested, "docs/operations/stores.md"),
            (OTHER, State::Untested, "docs/operations/stores.md"),
            (WORM, State::Holds, ""),
            (REFUSED, State::Holds, ""),
            (NO_METHOD, State::Holds, ""),
        ] {
            let report = tried_on(answer).await;
            for what in TRIED_ON_LOCKS.into_iter().chain(["delete-marker"]) {
                let line = line(&report, what);
                assert_eq!(line.state, state, "{}", report.text());
                assert!(line.remedy.contains(remedy) && line.remedy.is_empty() == remedy.is_empty(), "{line:?}");
                assert!(!line.remedy.contains("try again") && !line.remedy.contains("policies/"), "{line:?}");
            }
            assert_eq!(report.holds(), state == State::Holds, "{}", report.text());
        }
    }

    #[tokio::test]
    async fn a_refusal_without_a_word_says_what_was_seen_all_the_same() {
        let (unsaid, absent) = ("refused without a word why", "answered as if it were not there");
        for (answer, begin, status) in [
            (BARE_403, unsaid, "403"),
            (BARE_400, unsaid, "400"),
            (BARE_405, unsaid, "405"),
            (BARE_409, unsaid, "409"),
            (BARE_501, unsaid, "501"),
            (FOUND, unsaid, "302"),
            (BARE_404, absent, "there is no object"),
            (NO_VERSION, absent, "there is no object"),
        ] {
            let report = tried_on(answer).await;
            for (what, seen) in TRIED_ON_LOCKS.into_iter().zip([["the lock is as it was"; 2], ["the version is still there"; 2]].concat()) {
                let detail = &line(&report, what).detail;
                let begin = format!("{begin}, which proves nothing about the lock; {seen}: ");
                assert!(detail.starts_with(&begin) && detail.contains(status), "{detail}");
            }
            assert!(report.text().contains("nobody knows whether evidence is safe"), "{}", report.text());
        }
    }

    #[test]
    fn an_error_that_is_no_refusal_in_a_code_of_the_store_proves_nothing() {
        let kinds = [Kind::Retry, Kind::Denied, Kind::Full, Kind::Damaged, Kind::NotFound, Kind::Conflict, Kind::Bug];
        let refusals = [Kind::Denied, Kind::Conflict].map(|kind| (kind, true));
        for (kind, is_coded) in kinds.map(|kind| (kind, false)).into_iter().chain(refusals) {
            let e = StoreError::new(kind, "this is no answer of S3", "is this a store of that kind?");
            let tried = Err(if is_coded { e.coded() } else { e });
            let mut report = empty();
            report.kept("shorten", &tried, "the lock is as it was");
            report.refused("overwrite", &tried, "it can be replaced", OTHER_STORE);
            for line in &report.checks {
                let state = if is_coded { State::Holds } else { State::Untested };
                assert!(line.state == state && line.remedy.is_empty() == is_coded, "{kind:?}: {line:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_plain_write_is_refused_by_the_store_or_by_nobody() {
        for (answer, state) in [
            (BARE_403, State::Untested),
            (BARE_404, State::Untested),
            (BARE_409, State::Untested),
            (BARE_412, State::Untested),
            (FOUND, State::Untested),
            (PAGE, State::Untested),
            (BLOCKED, State::Untested),
            (REFUSED, State::Holds),
        ] {
            let (mut report, (store, _)) = (empty(), locking(answer).await);
            let patience = Patience::of(Duration::from_secs(20));
            let over = Asked { store: &store, patience: &patience }.replace(NAME, Bytes::from_static(b"other\n")).await;
            report.refused("overwrite", &over, "it can be replaced", OTHER_STORE);
            assert_eq!(report.state("overwrite"), Some(state), "{answer}: {}", report.text());
        }
    }

    #[tokio::test]
    async fn only_a_refusal_in_a_code_of_the_store_says_what_becomes_of_held_objects() {
        for (answer, is_refused) in
            [(REFUSED, true), (CONFLICT, false), (BARE_404, false), (BARE_409, false), (FOUND, false), (PAGE, false), (BLOCKED, false)]
        {
            let (store, vault) = saying(HELD, answer).await;
            let patience = Patience::of(Duration::from_secs(20));
            let tried = overwritten(Asked { store: &store, patience: &patience }, &vault, (NAME, "v1")).await;
            assert_eq!((matches!(tried, Ok(OverHeld::Refused)), tried.is_err()), (is_refused, !is_refused), "{answer}: {tried:?}");
        }
    }

    #[test]
    fn what_keeps_a_store_from_being_a_copy_is_missing_only_where_it_was_seen() {
        let error = |kind: Kind| StoreError::new(kind, "x", "its own");
        for (e, state, remedy) in [
            (error(Kind::Retry), State::Untested, "see to it"),
            (StoreError::unheard("x", "its own"), State::Untested, "its own"),
            (error(Kind::Denied).unread(), State::Untested, "its own"),
            (error(Kind::Denied).wordless(), State::Untested, "what stands between this machine and the store"),
            (error(Kind::Denied), State::Missing, "make it lock"),
            (error(Kind::Damaged), State::Missing, "make it lock"),
        ] {
            let mut report = empty();
            report.unfit("copy", &e, "see to it", "make it lock");
            let line = line(&report, "copy");
            assert!(line.state == state && line.remedy.contains(remedy), "{line:?}");
        }
    }

    #[tokio::test]
    async fn what_a_store_says_that_it_did_and_did_not_is_no_refusal() {
        for answer in [SAYS_DONE, WELCOME] {
            let report = tried_on(answer).await;
            for what in TRIED_ON_LOCKS {
                let line = line(&report, what);
                assert!(line.state == State::Untested && !line.detail.contains("refused"), "{line:?}");
                assert!(line.detail.contains("it was not") && line.remedy.contains("what stands between"), "{line:?}");
            }
            assert_eq!(report.state("delete-marker"), Some(State::Missing), "{}", report.text());
        }
    }

    #[tokio::test]
    async fn a_write_that_is_refused_without_a_word_tells_nothing_of_held_objects_and_a_listing_nothing_of_rights() {
        for (answer, is_wordless, lists_state) in [
            (BARE_403, true, State::Untested),
            (BARE_400, true, State::Untested),
            (PAGE, true, State::Untested),
            (BLOCKED, true, State::Untested),
            (BARE_409, true, State::Untested),
            (UNHEARD, false, State::Untested),
            (REFUSED, false, State::Missing),
        ] {
            let (mut report, (store, vault)) = (empty(), locking(answer).await);
            let patience = Patience::of(Duration::from_secs(20));
            let asked = Asked { store: &store, patience: &patience };
            let e = overwritten(asked, &vault, (NAME, "v1")).await.expect_err("that version is not held");
            assert_eq!(e.is_wordless(), is_wordless, "{answer}: {e}");
            assert!(!e.message().contains("and is not there"), "a hold that may not be read is not called absent: {e}");
            report.untried("held-overwrite", &e, "the policy");
            let line = line(&report, "held-overwrite");
            assert_eq!(line.remedy.contains("what stands between"), is_wordless, "{line:?}");
            lists(&mut report, asked).await;
            assert_eq!(report.state("list"), Some(lists_state), "{}", report.text());
        }
    }

    /// The first and only line of a report.
    async fn stopped_at(op: Op, name: &str, fault: Fault) -> Check {
        let store = FaultyStore::new(Arc::new(RemoteStore::memory()));
        store.faults.fail(op, name, 0, 1, fault);
        let mut report = run(&store, None, NOW).await;
        assert!(!report.holds(), "{}", report.text());
        report.checks.pop().expect("a line")
    }

    #[tokio::test]
    async fn a_store_that_was_not_seen_to_create_twice_is_not_said_to() {
        for fault in [Fault::Before(Kind::Denied), Fault::Before(Kind::Retry), Fault::Unheard] {
            for (op, name) in [(Op::PutHead, "probe/head"), (Op::Get, "probe/head"), (Op::PutNew, "probe/create-only")] {
                let line = stopped_at(op, name, fault).await;
                assert_eq!((&*line.what, line.state, &*line.remedy), ("create-only", State::Untested, "none: this is a test"), "{line:?}");
                assert!(line.detail.starts_with("nothing else was tried: the start-up test could not "), "{line:?}");
            }
        }
        // That was seen.
        for fault in [Fault::Corrupt, Fault::Short] {
            let line = stopped_at(Op::Get, "probe/head", fault).await;
            assert_eq!((&*line.what, line.state), ("write", State::Missing), "{fault:?}: {line:?}");
        }
        // What lies there says that a name was created twice.
        let store = RemoteStore::memory();
        let other = Bytes::from_static(b"second\n");
        let patience = Patience::default();
        Asked { store: &store, patience: &patience }.create("probe/create-only", &other).await.expect("written");
        let report = run(&store, None, NOW).await;
        let line = line(&report, "create-only");
        assert!(line.state == State::Missing && line.remedy.contains("create-only writes"), "{line:?}");
    }

    #[tokio::test]
    async fn a_write_that_is_not_answered_is_no_right_that_is_missing() {
        for (fault, state) in [
            (Fault::Before(Kind::Denied), State::Missing),
            (Fault::Before(Kind::Retry), State::Untested),
            (Fault::Unheard, State::Untested),
        ] {
            let line = stopped_at(Op::PutNew, "probe/check-", fault).await;
            assert_eq!((&*line.what, line.state, &*line.remedy), ("write", state, "none: this is a test"), "{line:?}");
        }
    }
}
