//! The lock of one version. S3's HEAD leaves out what whoever asks may not read, "only returned if the requester has the permission" (API
//! reference of HeadObject), so what it does not show is asked for alone before it is called absent: that is refused instead.

use http::HeaderMap;

use super::super::lock::Seen;
use super::super::{Kind, StoreError};
use super::dialect::{Part, header};
use super::{Vault, refusal};

impl Vault {
    /// What the store says of the lock of one version; a hold that it does not show counts as none.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no such version, [`Kind::Denied`] when its lock may not be read.
    pub async fn lock_of(&self, name: &str, version: &str) -> Result<Seen, StoreError> {
        self.lock_with(name, version, false).await
    }

    /// [`Vault::lock_of`]; where a hold is wanted its absence too is asked for before it is believed.
    pub(in crate::store) async fn lock_with(&self, name: &str, version: &str, hold: bool) -> Result<Seen, StoreError> {
        let seen = self.read_lock(name, version, hold).await;
        seen.map_err(|e| if e.kind() == Kind::NotFound || e.says_nothing() { e } else { e.unread() })
    }

    async fn read_lock(&self, name: &str, version: &str, hold: bool) -> Result<Seen, StoreError> {
        let reply = self.ask("look at the lock of", Some(name), "", self.dialect().look(version)).await?;
        let mut seen = self.read(self.dialect().seen(&reply, version))?;
        if seen.mode.is_none() || seen.until.is_none() {
            self.look_closer(Part::Retention, name, version, &mut seen).await?;
        }
        if hold && !seen.hold {
            self.look_closer(Part::Hold, name, version, &mut seen).await?;
        }
        Ok(seen)
    }

    /// Whether the hold of a version may be read, as far as the store leaves one out that may not.
    pub(in crate::store) async fn may_read_hold(&self, name: &str, version: &str) -> Result<(), StoreError> {
        self.look_closer(Part::Hold, name, version, &mut Seen::default()).await
    }

    async fn look_closer(&self, part: Part, name: &str, version: &str, seen: &mut Seen) -> Result<(), StoreError> {
        let Some(ask) = self.dialect().look_closer(part, version) else { return Ok(()) };
        let reply = match self.ask("look at the lock of", Some(name), "", ask).await {
            Err(e) if e.is_wordless() => return Err(refusal::unclear(e.message())),
            other => other?,
        };
        self.read(self.dialect().closer(part, &reply, seen))
    }
}

/// True for the headers of an object. A store that does not know the question for a part of its lock gives the object itself, whose content
/// says nothing of that.
pub(super) fn is_of_object(headers: &HeaderMap) -> bool {
    !header(headers, "etag").is_empty() && !header(headers, "last-modified").is_empty()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use exhibit_evidence::id::CaseId;
    use exhibit_evidence::{Digest, Timestamp};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;
    use crate::clock;
    use crate::store::attest::{Pass, Report, Task, ensure, still_locks};
    use crate::store::lock::Lock;
    use crate::store::tests::bucket_at;
    use crate::store::{LockMode, LockPolicy, Payload, Protection, RemoteSettings, RemoteStore, Store as _};

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
    const HIDDEN: &str = "";
    const NO_RIGHT: &str = "403 Forbidden <Error><Code>AccessDenied</Code></Error>";
    const NONE: &str = "404 Not Found <Error><Code>NoSuchObjectLockConfiguration</Code></Error>";
    const GONE: &str = "404 Not Found <Error><Code>NoSuchVersion</Code></Error>";
    const GOOD: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2125-12-08T00:00:01Z</RetainUntilDate></Retention>";
    const SHORT: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2026-01-02T00:00:00Z</RetainUntilDate></Retention>";
    const ODD: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>tomorrow</RetainUntilDate></Retention>";
    const HELD: &str = "200 OK <LegalHold><Status>ON</Status></LegalHold>";
    /// An object that holds what a lock would be told with.
    const OBJECT: &str = "200 OK <Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>2125-12-08T00:00:01Z</RetainUntilDate></Retention >";
    const NO_LOCKS: &str =
        "400 Bad Request <Error><Code>InvalidRequest</Code><Message>Bucket is missing Object Lock Configuration</Message></Error>";
    const NO_CALL: [&str; 2] = ["405 Method Not Allowed", "501 Not Implemented <Error><Code>NotImplemented</Code></Error>"];
    const UNHEARD: [&str; 2] = ["400 Bad Request <Error><Code>ExpiredToken</Code></Error>", "403 Forbidden"];

    /// How often a part of a lock was asked for, and set.
    #[derive(Debug, Default)]
    struct Asked {
        parts: AtomicUsize,
        sets: AtomicUsize,
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
        let listing = listed(names);
        let (said, headers) = match line {
            line if line.starts_with("HEAD") => ("200 OK", format!("{OF_OBJECT}{}", answers.head)),
            line if line.starts_with("PUT") => {
                asked.sets.fetch_add(usize::from(is_of_lock), Ordering::AcqRel);
                ("200 OK", OF_OBJECT.to_owned())
            }
            line if is_of_lock => {
                asked.parts.fetch_add(1, Ordering::AcqRel);
                let said = if line.contains("?retention") { answers.retention } else { answers.hold };
                let headers = if said == OBJECT { OF_OBJECT } else { "" };
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
                    let text = answer(&String::from_utf8_lossy(&request[..read]), answers, &names, &counted);
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
        let told = [
            (NO_RIGHT, "store-unattested", false),
            (ODD, "store-unattested", false),
            (NONE, "store-lock", true),
            (NO_LOCKS, "store-lock", true),
            (NO_CALL[0], "store-lock", true),
            (NO_CALL[1], "store-lock", true),
            (OBJECT, "store-lock", true),
            (SHORT, "store-lock", true),
        ];
        for (retention, kind, sets) in told {
            let (store, asked) = bucket(&NAMES, Answers { head: HIDDEN, retention, hold: NONE }).await;
            for repair in [false, true] {
                let report = pass(&store, repair).await.expect("heard");
                assert_eq!(kinds(&report), [kind], "{retention}, {repair}: {report:?}");
                assert_eq!(asked.sets.load(Ordering::Acquire) > 0, sets && repair, "{retention}, {repair}");
            }
        }
        for quiet in [GOOD, GONE] {
            let (store, asked) = bucket(&NAMES, Answers { head: HIDDEN, retention: quiet, hold: NONE }).await;
            let report = pass(&store, true).await.expect("heard");
            assert_eq!((kinds(&report).len(), asked.sets.load(Ordering::Acquire)), (0, 0), "{quiet}: {report:?}");
        }
    }

    #[tokio::test]
    async fn a_hold_that_is_wanted_and_not_shown_is_asked_for_too() {
        let case = CaseId::new(1, [2; 10]);
        let name = format!("cases/{case}/log/seq/0000000000.dsse.json");
        let told: [(&str, &[&str], bool); 3] =
            [(NO_RIGHT, &["store-unattested"], false), (NONE, &["store-lock"], true), (HELD, &[], false)];
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
            let looked = Box::pin(still_locks(&store)).await.expect("looked");
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
}
