use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::{Digest, Timestamp};
use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;
use crate::clock;
use crate::store::attest::{Attestable, Judge, Keeper, Pass, Report, Task, ensure, still_locks};
use crate::store::lock::Locks;
use crate::store::tests::bucket_at;
use crate::store::{LockMode, LockPolicy, Payload, Protection, RemoteSettings, RemoteStore, Store as _, Trouble};

const NAMES: [&str; 2] = ["deployment/log/seq/0000000000.dsse.json", "deployment/log/seq/0000000001.dsse.json"];
const POLICY: LockPolicy = LockPolicy { mode: LockMode::Compliance, days: 36_500 };

/// What is answered to HEAD, in header lines, and to the questions for the parts of a lock.
#[derive(Debug, Clone, Copy)]
struct Answers {
    head: &'static str,
    retention: &'static str,
    hold: &'static str,
}

/// As long as the policy asks of what was written at the beginning of 2026.
const SHOWN: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2125-12-08T00:00:01Z\r\n";
const SHOWN_SHORT: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2026-01-02T00:00:00Z\r\n";
const SHOWN_HELD: &str = "x-amz-object-lock-legal-hold: ON\r\n";
/// Longer than the policy asks of what is written now.
const LONG: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2200-01-01T00:00:00Z\r\n";
const HIDDEN: &str = "";
const NO_RIGHT: &str = "403 Forbidden <Error><Code>AccessDenied</Code></Error>";
const NONE: &str = "404 Not Found <Error><Code>NoSuchObjectLockConfiguration</Code></Error>";
const GONE: &str = "404 Not Found <Error><Code>NoSuchVersion</Code></Error>";
/// The same, and from then on nothing is listed.
const DESTROYED: &str = "404 Not Found <Error><Code>NoSuchKey</Code></Error>";
/// What HEAD says of an object that is not there.
const ABSENT: &str = "absent";
const GOOD: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2125-12-08T00:00:01Z</RetainUntilDate></Retention>";
const SHORT: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2026-01-02T00:00:00Z</RetainUntilDate></Retention>";
const ODD: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>tomorrow</RetainUntilDate></Retention>";
const HELD: &str = "200 OK <LegalHold><Status>ON</Status></LegalHold>";
/// An object that holds what a lock would be told with.
const OBJECT: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2125-12-08T00:00:01Z</RetainUntilDate></Retention >";
/// A page of somebody between here and the store, with the headers of an object.
const TAGGED: &str = "200 OK <html>static</html>";
const NO_LOCKS: &str =
    "400 Bad Request <Error><Code>InvalidRequest</Code><Message>Bucket is missing Object Lock Configuration</Message></Error>";
const NO_CALL: [&str; 2] = [
    "405 Method Not Allowed <Error><Code>MethodNotAllowed</Code></Error>",
    "501 Not Implemented <Error><Code>NotImplemented</Code></Error>",
];
/// What anybody between here and the store may say.
const PAGES: [&str; 6] = [
    "404 Not Found",
    "404 Not Found <html>no</html>",
    "405 Method Not Allowed",
    "501 Not Implemented",
    "200 OK",
    "200 OK <html>welcome</html>",
];
const UNHEARD: [&str; 2] = ["400 Bad Request <Error><Code>ExpiredToken</Code></Error>", "403 Forbidden"];

/// How often a part of a lock was asked for, and set, and how often that was the hold; and how often a version was looked at.
#[derive(Debug, Default)]
struct Asked {
    parts: AtomicUsize,
    sets: AtomicUsize,
    hold_sets: AtomicUsize,
    looks: AtomicUsize,
}

fn listed(names: &[String]) -> String {
    let row = |name: &String| {
        format!(
            "<Version><Key>{name}</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Version>"
        )
    };
    format!("200 OK <ListVersionsResult>{}</ListVersionsResult>", names.iter().map(row).collect::<Vec<_>>().concat())
}

/// The whole answer to a request.
fn answer(request: &str, answers: Answers, names: &[String], asked: &Asked) -> String {
    const OF_OBJECT: &str = "etag: \"1\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n";
    let line = request.lines().next().unwrap_or_default();
    let is_of_lock = line.contains("?retention") || line.contains("?legal-hold");
    let is_destroyed = answers.retention == DESTROYED && asked.parts.load(Ordering::Acquire) > 0;
    let listing = listed(if is_destroyed { &[] } else { names });
    let (said, headers) = match line {
        line if line.starts_with("HEAD") && answers.head == ABSENT => ("404 Not Found", String::new()),
        line if line.starts_with("HEAD") => ("200 OK", format!("{OF_OBJECT}{}", answers.head)),
        line if line.starts_with("PUT") && line.contains("?retention") && answers.head == STAYS_WEAK => (NO_RIGHT, String::new()),
        line if line.starts_with("PUT") => {
            asked.sets.fetch_add(usize::from(is_of_lock), Ordering::AcqRel);
            asked.hold_sets.fetch_add(usize::from(line.contains("?legal-hold")), Ordering::AcqRel);
            ("200 OK", OF_OBJECT.to_owned())
        }
        line if is_of_lock => {
            asked.parts.fetch_add(1, Ordering::AcqRel);
            let said = if line.contains("?retention") { answers.retention } else { answers.hold };
            let headers = match said {
                OBJECT => OF_OBJECT,
                TAGGED => "etag: \"2\"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\n",
                _ => "",
            };
            (said, headers.to_owned())
        }
        line if line.contains("?versioning") => {
            ("200 OK <VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>", String::new())
        }
        line if line.contains("?object-lock") => {
            ("200 OK <ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>", String::new())
        }
        _ => (listing.as_str(), String::new()),
    };
    let (status, body) = said.split_once(" <").map_or((said, String::new()), |(status, body)| (status, format!("<{body}")));
    let length = body.len();
    format!("HTTP/1.1 {status}\r\nconnection: close\r\nx-amz-version-id: v1\r\n{headers}content-length: {length}\r\n\r\n{body}")
}

/// A bucket that lists these and takes every write, and what it was asked.
async fn bucket(names: &[&str], answers: Answers) -> (RemoteStore, Arc<Asked>) {
    bucket_then(names, answers, answers).await
}

/// The same, which answers otherwise once something was set.
async fn bucket_then(names: &[&str], before: Answers, after: Answers) -> (RemoteStore, Arc<Asked>) {
    bucket_turning(names, [before, after], |asked| asked.sets.load(Ordering::Acquire) > 0).await
}

/// The same, which answers otherwise from the second look on.
async fn bucket_seen_again(names: &[&str], first: Answers, then: Answers) -> (RemoteStore, Arc<Asked>) {
    bucket_turning(names, [first, then], |asked| asked.looks.load(Ordering::Acquire) > 1).await
}

async fn bucket_turning(names: &[&str], [before, after]: [Answers; 2], turned: fn(&Asked) -> bool) -> (RemoteStore, Arc<Asked>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let names: Arc<Vec<String>> = Arc::new(names.iter().map(|name| (*name).to_owned()).collect());
    let asked = Arc::<Asked>::default();
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let (names, counted) = (Arc::clone(&names), Arc::clone(&counted));
            tokio::spawn(async move {
                let mut request = [0_u8; 4_096];
                let Ok(read) = connection.read(&mut request).await else { return };
                let request_text = String::from_utf8_lossy(&request[..read]).into_owned();
                counted.looks.fetch_add(usize::from(request_text.starts_with("HEAD")), Ordering::AcqRel);
                let answers = if turned(&counted) { after } else { before };
                let text = answer(&request_text, answers, &names, &counted);
                if connection.write_all(text.as_bytes()).await.is_ok() {
                    while connection.read(&mut request).await.is_ok_and(|n| n > 0) {}
                }
            });
        }
    });
    let settings = RemoteSettings { lock: Some(POLICY), ..bucket_at(port) };
    (RemoteStore::open(&settings).expect("settings"), asked)
}

async fn pass(store: &RemoteStore, repair: bool) -> Result<Report, StoreError> {
    let task = Task { begin: String::new(), repair, pause: Duration::ZERO, now: clock::now() };
    let mut pass = Pass::new(store.attestable().expect("an S3 store"), task);
    Box::pin(pass.run()).await
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.troubles.iter().map(|trouble| trouble.kind).collect()
}

fn want(hold: bool) -> Lock {
    Lock { mode: POLICY.mode, until: POLICY.until(Timestamp::from_unix_s(1_767_225_600)), hold }
}

#[tokio::test]
async fn a_retention_that_head_does_not_show_is_asked_for_before_it_is_called_absent() {
    let pages = PAGES.map(|page| (page, "store-unattested", false));
    let told = [
        (NO_RIGHT, "store-unattested", false),
        (ODD, "store-unattested", false),
        (TAGGED, "store-unattested", false),
        (NONE, "store-lock", true),
        (NO_LOCKS, "store-lock", true),
        (NO_CALL[0], "store-lock", true),
        (NO_CALL[1], "store-lock", true),
        (OBJECT, "store-lock", true),
        (SHORT, "store-lock", true),
    ];
    for (retention, kind, sets) in told.into_iter().chain(pages) {
        let (store, asked) = bucket(&NAMES, Answers { head: HIDDEN, retention, hold: NONE }).await;
        for repair in [false, true] {
            let report = pass(&store, repair).await.expect("heard");
            assert_eq!(kinds(&report), [kind], "{retention}, {repair}: {report:?}");
            assert_eq!(asked.sets.load(Ordering::Acquire) > 0, sets && repair, "{retention}, {repair}");
        }
    }
    let (store, asked) = bucket(&NAMES, Answers { head: HIDDEN, retention: GOOD, hold: NONE }).await;
    let report = pass(&store, true).await.expect("heard");
    assert_eq!((kinds(&report).len(), asked.sets.load(Ordering::Acquire)), (0, 0), "{report:?}");
    assert!(report.text().contains("and locked as it should be"), "{report:?}");
}

#[tokio::test]
async fn a_version_that_is_listed_is_not_destroyed_whatever_is_said_of_its_lock() {
    let told = [(HIDDEN, GONE, true), (ABSENT, GOOD, true), (HIDDEN, DESTROYED, false)];
    for (head, retention, is_told) in told {
        let (store, asked) = bucket(&[NAMES[0]], Answers { head, retention, hold: NONE }).await;
        let report = pass(&store, true).await.expect("heard");
        assert_eq!(kinds(&report), vec!["store-unattested"; usize::from(is_told)], "{head}, {retention}: {report:?}");
        assert_eq!((report.locks_read, asked.sets.load(Ordering::Acquire)), (0, 0), "{head}, {retention}: {report:?}");
        assert!(!report.text().contains("locked as it should be"), "{}", report.text());
    }
}

#[tokio::test]
async fn behind_a_write_an_answer_that_it_is_not_there_loses_no_object() {
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    for answers in [Answers { head: HIDDEN, retention: GONE, hold: HELD }, Answers { head: LONG, retention: GOOD, hold: GONE }] {
        let (store, asked) = bucket(&[name.as_str()], answers).await;
        store.protect(&case, Protection { held: true, ..Protection::default() });
        let e = store.put_new(&name, Payload::from_static(b"record"), Digest::of(b"record")).await.expect_err("not locked");
        assert!(e.is_unread() && e.kind() == Kind::Denied && !e.to_string().contains("was lost"), "{answers:?}: {e}");
        let told: Vec<&str> = store.troubles().iter().map(|trouble| trouble.kind).collect();
        assert_eq!((told, asked.sets.load(Ordering::Acquire)), (vec!["store-unattested"], 0), "{answers:?}: {e}");
    }
}

#[tokio::test]
async fn a_hold_that_is_wanted_and_not_shown_is_asked_for_too() {
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    let told: [(&str, &[&str], bool); 3] = [(NO_RIGHT, &["store-unattested"], false), (NONE, &["store-lock"], true), (HELD, &[], false)];
    for (hold, expected, sets) in told {
        let (store, asked) = bucket(&[name.as_str()], Answers { head: SHOWN, retention: NO_RIGHT, hold }).await;
        store.protect(&case, Protection { held: true, ..Protection::default() });
        for repair in [false, true] {
            let report = pass(&store, repair).await.expect("heard");
            assert_eq!(kinds(&report), expected, "{hold}, {repair}: {report:?}");
            assert_eq!(asked.sets.load(Ordering::Acquire) > 0, sets && repair, "{hold}, {repair}");
        }
        let vault = store.attestable().expect("an S3 store").vault;
        let ensured = ensure(&vault, &name, "v1", &want(true), 1).await;
        assert_eq!(ensured.is_ok(), hold == HELD, "{ensured:?}");
        if hold == NO_RIGHT {
            let e = ensured.expect_err("not read");
            assert!(e.kind() == Kind::Denied && e.is_unread() && e.remedy().contains("s3:GetObjectLegalHold"), "{e}");
        }
    }
}

#[tokio::test]
async fn that_no_hold_may_be_read_is_told_once_for_a_pass() {
    let (store, asked) = bucket(&NAMES, Answers { head: SHOWN, retention: NONE, hold: NO_RIGHT }).await;
    let report = pass(&store, true).await.expect("heard");
    assert_eq!((kinds(&report), asked.parts.load(Ordering::Acquire)), (vec!["store-unattested"], 1), "{report:?}");
    let trouble = &report.troubles[0];
    assert!(trouble.detail.contains("legal holds may not be read") && trouble.detail.contains("s3:GetObjectLegalHold"), "{trouble:?}");
    assert_eq!(asked.sets.load(Ordering::Acquire), 0, "nobody wants one");
}

#[tokio::test]
async fn what_is_well_locked_costs_no_further_request() {
    let (store, asked) = bucket(&NAMES, Answers { head: SHOWN, retention: NO_RIGHT, hold: NO_RIGHT }).await;
    let vault = store.attestable().expect("an S3 store").vault;
    assert_eq!(ensure(&vault, NAMES[0], "v1", &want(false), 1).await.expect("locked"), None);
    assert_eq!(asked.parts.load(Ordering::Acquire), 0);
}

#[tokio::test]
async fn a_write_whose_lock_may_not_be_read_back_is_told_as_such() {
    for (retention, kind) in [(NO_RIGHT, "store-unattested"), (NONE, "store-lock")] {
        let (store, asked) = bucket(&NAMES, Answers { head: HIDDEN, retention, hold: NONE }).await;
        let e = store.put_new(NAMES[0], Payload::from_static(b"record"), Digest::of(b"record")).await.expect_err("not locked");
        assert_eq!((e.kind(), e.is_unread()), (Kind::Denied, retention == NO_RIGHT), "{e}");
        assert_eq!(e.remedy().contains("give the credentials the right s3:GetObjectRetention"), retention == NO_RIGHT, "{e}");
        let told: Vec<&str> = store.troubles().iter().map(|trouble| trouble.kind).collect();
        assert_eq!(told, [kind], "{e}");
        assert_eq!(asked.sets.load(Ordering::Acquire) > 0, retention == NONE, "nothing is set on what was not read");
        let (looked, _) = Box::pin(still_locks(&store)).await.expect("looked");
        assert_eq!(looked.iter().map(|trouble| trouble.kind).collect::<Vec<_>>(), [kind], "{looked:?}");
    }
}

#[tokio::test]
async fn what_says_nothing_of_a_lock_stops_a_pass_and_tells_of_none() {
    for retention in UNHEARD {
        let (store, _) = bucket(&NAMES, Answers { head: HIDDEN, retention, hold: NONE }).await;
        let e = pass(&store, true).await.map(|report| report.troubles).expect_err("it goes on once it is heard");
        assert!(e.says_nothing() && e.needs_a_person(), "{retention}: {e}");
        store.put_new(NAMES[0], Payload::from_static(b"record"), Digest::of(b"record")).await.expect_err("not locked");
        assert_eq!(store.troubles().len(), 0, "{retention}");
    }
}

/// What is read of one part is judged, told and mended, whatever may not be read of the other.
#[tokio::test]
async fn a_part_that_was_seen_to_be_weak_is_no_less_so_where_the_other_may_not_be_read() {
    const BOTH: &[&str] = &["store-lock", "store-unattested"];
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    // Head, retention, hold; what is told; whether the retention is set, and the hold.
    let told: [(Answers, &[&str], bool, bool); 8] = [
        (Answers { head: SHOWN_SHORT, retention: NO_RIGHT, hold: GONE }, BOTH, true, false),
        (Answers { head: SHOWN_SHORT, retention: NO_RIGHT, hold: NO_RIGHT }, BOTH, true, false),
        (Answers { head: HIDDEN, retention: SHORT, hold: NO_RIGHT }, BOTH, true, false),
        (Answers { head: HIDDEN, retention: SHORT, hold: PAGES[0] }, BOTH, true, false),
        (Answers { head: SHOWN_SHORT, retention: NO_RIGHT, hold: HELD }, &["store-lock"], true, false),
        (Answers { head: HIDDEN, retention: NO_RIGHT, hold: NONE }, BOTH, false, true),
        (Answers { head: SHOWN_HELD, retention: NO_RIGHT, hold: NONE }, &["store-unattested"], false, false),
        (Answers { head: HIDDEN, retention: NO_RIGHT, hold: NO_RIGHT }, &["store-unattested"], false, false),
    ];
    for (answers, expected, retains, holds) in told {
        let (store, asked) = bucket(&[name.as_str()], answers).await;
        store.protect(&case, Protection { held: true, ..Protection::default() });
        for repair in [false, true] {
            let report = pass(&store, repair).await.expect("heard");
            assert_eq!(kinds(&report), expected, "{answers:?}, {repair}: {report:?}");
            let unread = report.troubles.iter().filter(|trouble| trouble.kind == "store-unattested");
            for trouble in unread {
                assert_eq!(trouble.detail.matches("its lock cannot be read").count(), 1, "{trouble:?}");
            }
            let hold_sets = asked.hold_sets.load(Ordering::Acquire);
            let sets = (asked.sets.load(Ordering::Acquire) > hold_sets, hold_sets > 0);
            assert_eq!(sets, (retains && repair, holds && repair), "{answers:?}, {repair}");
        }
    }
}

#[tokio::test]
async fn what_was_set_is_told_as_weak_though_it_cannot_be_read_back_or_the_hold_not_at_all() {
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    let before = Answers { head: SHOWN_SHORT, retention: NO_RIGHT, hold: NO_RIGHT };
    for (after, words) in [(SHOWN, "; it was set again ("), (HIDDEN, "; it was set again and could not be read back (")] {
        let (store, _) = bucket_then(&[name.as_str()], before, Answers { head: after, ..before }).await;
        store.protect(&case, Protection { held: true, ..Protection::default() });
        let report = pass(&store, true).await.expect("heard");
        assert_eq!((kinds(&report), report.set_again), (vec!["store-lock", "store-unattested"], 1), "{report:?}");
        assert!(report.troubles[0].detail.contains(words), "{report:?}");
    }
}

#[tokio::test]
async fn a_hold_that_was_read_counts_where_the_retention_may_not_be_read() {
    let answers = Answers { head: SHOWN_HELD, retention: NO_RIGHT, hold: NO_RIGHT };
    let (store, asked) = bucket(&[NAMES[0]], answers).await;
    let report = pass(&store, false).await.expect("heard");
    let told = kinds(&report);
    assert!(told.len() == 2 && told.contains(&"store-held") && told.contains(&"store-unattested"), "{report:?}");
    let kept = store.attestable().expect("an S3 store").keeps(NAMES[0]).await.expect("kept");
    assert!(kept.0 && kept.1.contains("a legal hold"), "{kept:?}");
    assert_eq!(asked.sets.load(Ordering::Acquire), 0);
}

/// Where nobody wants a hold.
#[tokio::test]
async fn whatever_the_question_for_holds_brings_the_pass_goes_on_and_what_lasts_is_told_once() {
    let names: Vec<String> = (0..5).map(|n| format!("deployment/log/seq/{n:010}.dsse.json")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let told = [
        (UNHEARD[0], 5, 3, 1),
        (UNHEARD[1], 5, 3, 1),
        ("400 Bad Request", 5, 3, 1),
        ("400 Bad Request", 1, 1, 1),
        // Each request is tried three times. A store that is disturbed says nothing of rights.
        ("503 Service Unavailable", 1, 3, 0),
        (PAGES[0], 5, 1, 1),
        (GONE, 5, 3, 1),
        (GONE, 2, 2, 0),
        (NONE, 5, 1, 0),
    ];
    for (hold, objects, asks, troubles) in told {
        let (store, asked) = bucket(&names[..objects], Answers { head: SHOWN, retention: NONE, hold }).await;
        let report = pass(&store, true).await.expect("it goes on");
        assert_eq!(report.objects, objects as u64, "{hold}");
        assert_eq!(asked.parts.load(Ordering::Acquire), asks, "{hold}");
        assert_eq!(kinds(&report), vec!["store-unattested"; troubles], "{hold}: {report:?}");
        assert!(report.troubles.iter().all(|trouble| trouble.detail.starts_with("legal holds may not be read: ")), "{report:?}");
    }
}

/// What is told once goes by kind and subject.
#[tokio::test]
async fn that_holds_may_not_be_read_has_a_name_of_its_own_whatever_else_is_told_of_the_bucket() {
    let mut told = Vec::new();
    for retention in [GOOD, NO_RIGHT] {
        let (store, _) = bucket(&NAMES, Answers { head: HIDDEN, retention, hold: NO_RIGHT }).await;
        let report = pass(&store, true).await.expect("heard");
        assert_eq!(report.troubles.len(), if retention == GOOD { 1 } else { 2 }, "{report:?}");
        let holds = report.troubles.into_iter().filter(|trouble| trouble.subject.ends_with(" (legal holds)"));
        told.extend(holds.map(|trouble| trouble.detail));
    }
    assert!(told.len() == 2 && told[0] == told[1], "the same, so that it is told once: {told:?}");
}

#[tokio::test]
async fn of_what_is_not_ours_no_lock_is_called_absent_that_was_not_read() {
    let told = [
        (NONE, NONE, "no lock is set on it"),
        (NONE, NO_RIGHT, "no retention is set on it, and whether it is held cannot be read"),
        (NONE, "403 Forbidden", "no retention is set on it, and whether it is held cannot be read"),
        (NONE, HELD, "it carries a legal hold, which is not ours"),
        (NO_RIGHT, NONE, "its lock cannot be read"),
        (NO_RIGHT, HELD, "it carries a legal hold, which is not ours"),
        (SHORT, NO_RIGHT, "it carries a lock, which is not ours"),
    ];
    for (retention, hold, words) in told {
        let (store, _) = bucket(&["strange/object"], Answers { head: HIDDEN, retention, hold }).await;
        let report = pass(&store, true).await.expect("heard");
        let foreign: Vec<&str> = report.troubles.iter().filter(|t| t.kind == "store-foreign").map(|t| t.detail.as_str()).collect();
        assert!(foreign.len() == 1 && foreign[0].contains(words), "{retention}, {hold}: {report:?}");
    }
}

/// Who may not read the heads of logs.
#[derive(Debug)]
struct Blind;

impl Judge for Blind {
    fn squats<'a>(&'a self, _log: &'a LogName, _n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn unnamed<'a>(&'a self, _log: &'a LogName, _object: &'a CaseObject) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Ok(None) })
    }

    fn heads<'a>(&'a self, _log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async { Err(StoreError::new(Kind::Denied, "403 AccessDenied", "give the right to decrypt")) })
    }

    fn open<'a>(&'a self, _log: &'a LogName) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }
}

#[tokio::test]
async fn a_head_that_may_not_be_read_is_told_and_the_pass_goes_on() {
    let names = [LogName::Deployment.checkpoint(), NAMES[0].to_owned()];
    let names = names.each_ref().map(String::as_str);
    let (store, _) = bucket(&names, Answers { head: SHOWN, retention: NONE, hold: NONE }).await;
    let task = Task { begin: String::new(), repair: true, pause: Duration::ZERO, now: clock::now() };
    let mut pass = Pass::new(store.attestable().expect("an S3 store"), task).judged_by(Arc::new(Blind));
    let report = Box::pin(pass.run()).await.expect("it goes on");
    assert_eq!((kinds(&report), report.objects), (vec!["store-unattested"], 2), "{report:?}");
    let detail = &report.troubles[0].detail;
    assert!(detail.contains("the head that a reader gets of this log cannot be read") && detail.contains("right to decrypt"), "{detail}");
}

/// Keeps what it is given, and places a hold on the case between the first look and the second.
#[derive(Debug)]
struct Placing {
    store: Arc<RemoteStore>,
    asked: AtomicUsize,
    kept: Mutex<Vec<Trouble>>,
}

impl Keeper for Placing {
    fn awaits<'a>(&'a self, case: &'a CaseId) -> BoxFuture<'a, Result<bool, StoreError>> {
        if self.asked.fetch_add(1, Ordering::AcqRel) == 1 {
            self.store.protect(case, Protection { held: true, ..Protection::default() });
        }
        Box::pin(async { Ok(true) })
    }

    fn keep(&self, troubles: Vec<Trouble>) -> BoxFuture<'_, Result<(), StoreError>> {
        self.kept.lock().expect("lock").extend(troubles);
        Box::pin(async { Ok(()) })
    }
}

/// A pass over a case that mends, and what it kept before it did.
async fn kept_pass(store: RemoteStore, begin: String) -> (Report, Vec<Trouble>) {
    let found = store.attestable().expect("an S3 store");
    kept_pass_over(found, store, begin).await
}

async fn kept_pass_over(found: Attestable, store: RemoteStore, begin: String) -> (Report, Vec<Trouble>) {
    let store = Arc::new(store);
    let keeper = Arc::new(Placing { store, asked: AtomicUsize::new(0), kept: Mutex::default() });
    let task = Task { begin, repair: true, pause: Duration::ZERO, now: clock::now() };
    let kept_by: Arc<dyn Keeper> = Arc::<Placing>::clone(&keeper);
    let mut pass = Pass::new(found, task).kept_by(kept_by);
    let report = Box::pin(pass.run()).await.expect("heard");
    let kept = keeper.kept.lock().expect("lock").clone();
    (report, kept)
}

const SHOWN_WHOLE: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2125-12-08T00:00:01Z\r\n\
                           x-amz-object-lock-legal-hold: ON\r\n";
const SHOWN_WEAK: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2026-01-02T00:00:00Z\r\n\
                          x-amz-object-lock-legal-hold: ON\r\n";
/// The same, and the retention may not be set.
const STAYS_WEAK: &str = "x-amz-object-lock-mode: COMPLIANCE\r\nx-amz-object-lock-retain-until-date: 2026-01-02T00:00:00Z\r\n\
                          x-amz-object-lock-legal-hold: ON\r\nx-test: nothing-is-set\r\n";

#[tokio::test]
async fn a_hold_that_custody_placed_before_the_second_look_stays_though_the_rest_cannot_be_read_any_more() {
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    for second in [SHOWN_HELD, HIDDEN] {
        let first = Answers { head: SHOWN_WHOLE, retention: NO_RIGHT, hold: NO_RIGHT };
        let (store, asked) = bucket_seen_again(&[name.as_str()], first, Answers { head: second, ..first }).await;
        store.protect(&case, Protection { released: true, ..Protection::default() });
        let (report, kept) = kept_pass(store, format!("cases/{case}/")).await;
        assert_eq!((report.holds_released, asked.hold_sets.load(Ordering::Acquire)), (0, 0), "{second}: {report:?}");
        assert_eq!((kinds(&report), kept), (vec!["store-unattested"], Vec::new()), "{second}: {report:?}");
    }
}

#[tokio::test]
async fn what_was_weak_is_told_as_such_only_while_nobody_saw_that_part_mended() {
    let case = CaseId::new(1, [2; 10]);
    let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
    let first = Answers { head: SHOWN_WEAK, retention: NO_RIGHT, hold: NO_RIGHT };
    // Somebody mended the retention, and the hold cannot be read any more; and the other way about.
    for (head, is_kept) in [(SHOWN, false), (SHOWN_HELD, true)] {
        let (store, asked) = bucket_seen_again(&[name.as_str()], first, Answers { head, ..first }).await;
        store.protect(&case, Protection { held: true, ..Protection::default() });
        let (report, kept) = kept_pass(store, String::new()).await;
        assert_eq!(kept.len(), usize::from(is_kept), "{head}: {kept:?}");
        let expected = if is_kept { vec!["store-lock", "store-unattested"] } else { vec!["store-unattested"] };
        assert_eq!((kinds(&report), asked.sets.load(Ordering::Acquire)), (expected, 0), "{head}: {report:?}");
    }
}

/// Where a hold may keep a head from being replaced: whoever sets one again and again must not keep its lock weak with it.
#[tokio::test]
async fn a_lock_that_is_weak_beside_a_hold_that_comes_off_is_told_and_set_in_the_same_pass() {
    let name = LogName::Deployment.checkpoint();
    for repair in [false, true] {
        let before = Answers { head: SHOWN_WEAK, retention: NO_RIGHT, hold: NO_RIGHT };
        let (store, asked) = bucket_then(&[name.as_str()], before, Answers { head: SHOWN_WHOLE, ..before }).await;
        let found = store.attestable().expect("an S3 store");
        let found = Attestable { locks: Some(Arc::new(Locks::new(POLICY, false))), ..found };
        let (report, told) = if repair {
            kept_pass_over(found, store, String::new()).await
        } else {
            let task = Task { begin: String::new(), repair, pause: Duration::ZERO, now: clock::now() };
            let report = Box::pin(Pass::new(found, task).run()).await.expect("heard");
            let told = report.troubles.clone();
            (report, told)
        };
        assert!(told.len() == 1 && told[0].kind == "store-lock", "{repair}: {told:?}");
        for words in ["it should be COMPLIANCE until 2125-12-08", "nothing here is ever to have one"] {
            assert!(told[0].detail.contains(words), "{repair}: {told:?}");
        }
        let done = (report.set_again, report.holds_released);
        let sets = (asked.sets.load(Ordering::Acquire), asked.hold_sets.load(Ordering::Acquire));
        assert_eq!((done, sets), if repair { ((1, 1), (2, 1)) } else { ((0, 0), (0, 0)) }, "{report:?}");
    }
}

#[tokio::test]
async fn a_hold_stays_where_the_retention_beside_it_could_not_be_set() {
    let name = LogName::Deployment.checkpoint();
    let (store, asked) = bucket(&[name.as_str()], Answers { head: STAYS_WEAK, retention: NO_RIGHT, hold: NO_RIGHT }).await;
    let found = store.attestable().expect("an S3 store");
    let found = Attestable { locks: Some(Arc::new(Locks::new(POLICY, false))), ..found };
    let (report, told) = kept_pass_over(found, store, String::new()).await;
    assert_eq!((report.holds_released, asked.hold_sets.load(Ordering::Acquire)), (0, 0), "it may be all that keeps it: {report:?}");
    assert!(told.iter().any(|trouble| trouble.kind == "store-lock"), "{told:?}");
}
