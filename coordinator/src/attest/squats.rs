//! Whether what lies in the place of a record is one. Whoever may write into the store can take the next places of a log before its
//! coordinator does, and attestation would lock what they put there.
//!
//! What was published is never doubted here: that it was altered is for whoever reads the log to say. Of what comes after, a record
//! that a process left between its slot and the head is told from any other by its signature.

mod strangers;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::layout::{CaseObject, LogName};
use exhibit_evidence::record::{Record, TrustError};
use futures::future::BoxFuture;

use super::offline::Looked;
use crate::catalog::SharedCatalog;
use crate::ledger::{self, LedgerError, Ledgers};
use crate::seal::Named;
use crate::several;
use crate::store::attest::Judge;
use crate::store::{Kind, Store, StoreError};

/// What the logs and the catalog say, about one store or its copy, for one pass.
#[derive(Debug)]
pub(super) struct Logs {
    ledgers: Arc<Ledgers>,
    catalog: SharedCatalog,
    /// Where the records lie that are judged.
    store: Arc<dyn Store>,
    /// That is the copy, of whose heads whoever copies says what is wrong.
    is_copy: bool,
    /// The log that was asked for last, and how many of its records were published then.
    last: Mutex<Option<(LogName, u64)>>,
    /// The sealed collection that was asked for last.
    sealed: Mutex<Option<Named>>,
    /// The logs of which the versions were looked at.
    looked: Looked,
}

/// What a reader gets who asks for the head of a log.
#[derive(Debug)]
enum Shown {
    Newest,
    /// One of fewer records than were published.
    Older,
    /// None, or what is no head of this log.
    Nothing,
    /// Nobody read it: the store refuses that.
    Unread(LedgerError),
}

impl Logs {
    pub(super) fn new(ledgers: Arc<Ledgers>, catalog: SharedCatalog, store: Arc<dyn Store>, is_copy: bool) -> Self {
        Self { ledgers, catalog, store, is_copy, last: Mutex::default(), sealed: Mutex::default(), looked: Looked::default() }
    }

    /// Has it told that a head that a reader gets is older than what was published, or none at all. The log itself tells it, once, and the
    /// record of that is followed by a newer head; so there is nothing more to say here. Gives why it could not be read, if that is it.
    async fn look_at_head(&self, log: &LogName) -> Result<Option<StoreError>, StoreError> {
        // What is known before the store is asked: a head is in the store before the catalog knows it.
        let published = self.catalog.published(log.folder()).await.map_err(|e| later(&e))?;
        let Some(published) = published.filter(|_| !self.is_copy) else { return Ok(None) };
        let what = match self.shown(log, published.size).await? {
            Shown::Newest => return Ok(None),
            Shown::Older => "the head that a reader gets is not the newest one",
            Shown::Nothing => "a reader gets no head of the log",
            Shown::Unread(e) => return Ok(Some(unread_head(&e))),
        };
        let looked = match self.ledgers.get(log).await {
            Ok(ledger) => ledger.look_at_head().await,
            Err(e) => Err(e),
        };
        if let Err(error) = looked {
            tracing::warn!(log = %log.folder(), %error, "{what}, and the log could not be looked at");
        }
        Ok(None)
    }

    /// What a reader gets of a log of which so many records were published.
    async fn shown(&self, log: &LogName, published: u64) -> Result<Shown, StoreError> {
        match ledger::top(&*self.store, log, self.ledgers.keys()).await {
            Ok(Some(size)) if size >= published => Ok(Shown::Newest),
            Ok(Some(_)) => Ok(Shown::Older),
            Ok(None) => Ok(Shown::Nothing),
            Err(e) if e.kind() == ledger::Kind::Retry => Err(later_of_log(&e)),
            Err(e) => Ok(Shown::Unread(e)),
        }
    }

    fn last(&self) -> MutexGuard<'_, Option<(LogName, u64)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sealed(&self) -> MutexGuard<'_, Option<Named>> {
        self.sealed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remembered(&self, log: &LogName) -> u64 {
        self.last().as_ref().filter(|(name, _)| name == log).map_or(0, |(_, size)| *size)
    }

    /// How many records of a log are known to have been published.
    async fn published(&self, log: &LogName) -> Result<u64, StoreError> {
        let size = match self.catalog.published(log.folder()).await.map_err(|e| later(&e))? {
            Some(head) => head.size,
            None => self.in_store(log).await?,
        };
        *self.last() = Some((log.clone(), size));
        Ok(size)
    }

    /// Of a log whose head the catalog has not, as one from before heads were kept there.
    async fn in_store(&self, log: &LogName) -> Result<u64, StoreError> {
        // A log of no case is not opened: that would put a head over whatever somebody wrote there.
        if let LogName::Case(case) = log
            && self.catalog.case(case.clone()).await.map_err(|e| later(&e))?.is_none()
        {
            return Ok(0);
        }
        match self.ledgers.get(log).await {
            Ok(ledger) => Ok(ledger.size()),
            Err(e) if e.kind() == ledger::Kind::Retry => Err(later_of_log(&e)),
            // Nobody can say how long it is.
            Err(_) => Ok(u64::MAX),
        }
    }

    /// Whether a log's own coordinator tells of what lies in a place of it: then it is told once.
    async fn is_told(&self, log: &LogName, n: u64) -> Result<bool, StoreError> {
        // What lies in the copy no log writes past.
        if self.is_copy || !self.is_known(log).await? {
            return Ok(false);
        }
        let told = match self.ledgers.get(log).await {
            Ok(ledger) => ledger.tells_squat(n).await,
            Err(e) => Err(e),
        };
        match told {
            Ok(told) => Ok(told),
            Err(e) if e.kind() == ledger::Kind::Retry => Err(later_of_log(&e)),
            Err(_) => Ok(false),
        }
    }

    /// False of a log of no case.
    async fn is_known(&self, log: &LogName) -> Result<bool, StoreError> {
        match log {
            LogName::Deployment => Ok(true),
            LogName::Case(case) => Ok(self.catalog.case(case.clone()).await.map_err(|e| later(&e))?.is_some()),
        }
    }

    /// Of a log of which no head was listed: it is told here, because what is gone has left nothing that the log could name.
    async fn why_headless(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        let published = self.catalog.published(log.folder()).await.map_err(|e| later(&e))?;
        let Some(published) = published.filter(|published| published.size > 0 && !self.is_copy) else { return Ok(None) };
        match self.store.size(&log.checkpoint()).await {
            Err(e) if e.kind() == Kind::NotFound => {}
            Err(e) if e.kind() == Kind::Retry => return Err(e),
            // It was written since.
            Ok(_) | Err(_) => return Ok(None),
        }
        // That it is gone is told, whatever cannot be read of it.
        let _ = self.look_at_head(log).await?;
        let records = several::count(published.size, "record");
        Ok(Some(format!("its signed head is gone, though {records} of the log were published; 'store verify' says what else is")))
    }

    /// Has the store know what custody of a case says now, whichever coordinator wrote it. A log that cannot be opened is told with the locks
    /// that nobody can judge.
    async fn why_unknown(&self, log: &LogName) -> Result<Option<String>, StoreError> {
        // A log of no case is not opened, as above.
        let LogName::Case(case) = log else { return Ok(None) };
        if !self.is_known(log).await? {
            return Ok(None);
        }
        match self.ledgers.brief(case).await {
            Ok(_) => Ok(None),
            Err(e) if e.kind() == ledger::Kind::Retry => Err(later_of_log(&e)),
            Err(e) => Ok(Some(format!(
                "the log of the case cannot be read, so its holds and its retention are not known: its locks are held to the policy alone, and no hold is taken off: {e}"
            ))),
        }
    }

    async fn judge(&self, log: &LogName, n: u64, bytes: &[u8]) -> Result<Option<String>, StoreError> {
        let Ok(envelope) = Envelope::parse(bytes) else { return Ok(Some("it is no signed record".to_owned())) };
        let mut ring = self.ledgers.deployment().await.map_err(|e| later_of_log(&e))?.key_ring();
        // A key that was revoked since, or a kind of record that is newer than this program, is no stranger's.
        if let Err(TrustError::UnknownKey(_) | TrustError::BadSignature(_)) = ring.verify(&envelope) {
            return Ok(Some("no key that this deployment enrolled signed it".to_owned()));
        }
        if let (LogName::Case(case), Ok(record)) = (log, Record::from_payload(envelope.unverified_payload()))
            && record.case().is_some_and(|of| of != case)
        {
            return Ok(Some("it is a record of another case".to_owned()));
        }
        if self.remembered(log) == 0 {
            return Ok(None);
        }
        // Whatever is wrong with the log is told by whoever uses it.
        let Ok(ledger) = self.ledgers.get(log).await else { return Ok(None) };
        Ok(ledger.find(&envelope.digest()).filter(|at| *at != n).map(|at| format!("it is record {at} once more")))
    }
}

impl Judge for Logs {
    fn open<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            // A log of no case is not opened, as above.
            let is_there = match log {
                LogName::Deployment => true,
                LogName::Case(case) => self.catalog.case(case.clone()).await.is_ok_and(|row| row.is_some()),
            };
            if is_there {
                if let Err(error) = self.ledgers.get(log).await {
                    tracing::warn!(log = %log.folder(), %error, "which versions of a log's objects are genuine could not be looked at");
                }
                // Of a log that is open already what came on top of it since was not looked at, nor what lies in the copy.
                self.looked.settle(&self.store, log, self.ledgers.anchor()).await;
            }
        })
    }

    fn unnamed<'a>(&'a self, log: &'a LogName, object: &'a CaseObject) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_strange(log, object))
    }

    fn custody<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_unknown(log))
    }

    fn tells<'a>(&'a self, log: &'a LogName, n: u64) -> BoxFuture<'a, Result<bool, StoreError>> {
        Box::pin(self.is_told(log, n))
    }

    fn headless<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(self.why_headless(log))
    }

    fn heads<'a>(&'a self, log: &'a LogName) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move { self.look_at_head(log).await?.map_or(Ok(None), Err) })
    }

    fn squats<'a>(&'a self, log: &'a LogName, n: u64) -> BoxFuture<'a, Result<Option<String>, StoreError>> {
        Box::pin(async move {
            if n < self.remembered(log) || n < self.published(log).await? {
                return Ok(None);
            }
            match self.store.get(&log.slot(n), ENVELOPE_BYTES_MAX as u64).await {
                Ok(bytes) => self.judge(log, n, &bytes).await,
                Err(e) if e.kind() == Kind::Damaged => Ok(Some("it is larger than any record".to_owned())),
                // It is gone since it was listed.
                Err(e) if e.kind() == Kind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        })
    }
}

/// That the catalog or a log does not answer now says nothing about an object.
fn later(e: &impl std::fmt::Display) -> StoreError {
    StoreError::new(Kind::Retry, e.to_string(), "it is tried again")
}

/// The same of a log; where its store refuses whoever asks, that stays so.
fn later_of_log(e: &LedgerError) -> StoreError {
    if e.needs_a_person() {
        StoreError::unheard(e.to_string(), "the store of the logs refuses whoever asks: see to that")
    } else {
        later(e)
    }
}

/// The store refuses the head of a log: nobody saw that it is an older one.
fn unread_head(e: &LedgerError) -> StoreError {
    StoreError::new(Kind::Denied, e.to_string(), "which one a reader gets is not known until it may be read")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use exhibit_evidence::Digest;
    use exhibit_evidence::anchor::{Anchor, FORMAT};
    use exhibit_evidence::id::CaseId;
    use exhibit_evidence::key::SigningKey;
    use exhibit_evidence::log::Checkpoint;

    use super::*;
    use crate::catalog::Published;
    use crate::catalog::sqlite::SqliteCatalog;
    use crate::ledger::Keys;
    use crate::store::faulty::{Fault, FaultyStore, Op};
    use crate::store::{Payload, RemoteStore};

    async fn put(store: &dyn Store, name: &str, content: &[u8]) {
        store.put_new(name, Payload::from(content.to_vec()), Digest::of(content)).await.expect("written");
    }

    #[test]
    fn a_log_whose_store_refuses_whoever_asks_is_no_disturbance() {
        let of = |e: StoreError| later_of_log(&LedgerError::from(e));
        let unheard = of(StoreError::unheard("could not list: 401", "renew the credentials"));
        assert!(unheard.says_nothing() && unheard.needs_a_person() && unheard.message().contains("renew the credentials"), "{unheard}");
        let disturbed = of(StoreError::new(Kind::Retry, "could not list: 503", "it is tried again"));
        assert!(disturbed.says_nothing() && !disturbed.needs_a_person(), "{disturbed}");
    }

    #[tokio::test]
    async fn a_head_that_may_not_be_read_is_no_older_one() {
        let dir = tempfile::tempdir().expect("folder");
        let faulty = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let faults = faulty.faults.clone();
        let store: Arc<dyn Store> = Arc::new(faulty);
        let root = SigningKey::from_seed(&[1; 32]);
        let anchor = Anchor { format: FORMAT.to_owned(), deployment: "d1".to_owned(), root_key: root.public() };
        let keys = Keys { anchor, log: SigningKey::from_seed(&[2; 32]), witnesses: Vec::new() };
        let catalog: SharedCatalog = Arc::new(SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("catalog"));
        let log = LogName::Deployment;
        let logs = Logs::new(Ledgers::new(Arc::clone(&store), keys), Arc::clone(&catalog), Arc::clone(&store), false);
        assert!(matches!(logs.shown(&log, 2).await, Ok(Shown::Nothing)));
        let head = Checkpoint { origin: log.origin("d1"), size: 1, root: Digest::of(b"root") };
        store.put_head(&log.checkpoint(), Bytes::from(head.sign(&SigningKey::from_seed(&[2; 32])))).await.expect("written");
        assert!(matches!(logs.shown(&log, 2).await, Ok(Shown::Older)));
        assert!(matches!(logs.shown(&log, 1).await, Ok(Shown::Newest)));

        faults.fail(Op::Get, "checkpoint", 0, 1, Fault::Before(Kind::Denied));
        let shown = logs.shown(&log, 2).await.expect("looked");
        let Shown::Unread(e) = &shown else { panic!("nobody read an older one: {shown:?}") };
        assert!(e.needs_a_person() && e.to_string().contains("(none: this is a test)"), "with what helps: {e}");
        faults.fail(Op::Get, "checkpoint", 0, 1, Fault::Unheard);
        let e = logs.shown(&log, 2).await.map(|_| ()).expect_err("the pass goes on later");
        assert!(e.says_nothing() && e.needs_a_person() && e.message().contains("(none: this is a test)"), "{e}");

        catalog.set_published(log.folder(), Published { size: 2, root: Digest::of(b"root") }).await.expect("kept");
        faults.fail(Op::Get, "checkpoint", 0, 1, Fault::Before(Kind::Denied));
        let e = logs.heads(&log).await.expect_err("the pass is to tell it");
        assert!(e.kind() == Kind::Denied && e.message().contains("(none: this is a test)"), "{e}");
    }

    #[tokio::test]
    async fn what_was_published_is_not_doubted_and_after_it_only_what_is_signed_is_a_record() {
        let dir = tempfile::tempdir().expect("folder");
        let store: Arc<dyn Store> = Arc::new(RemoteStore::memory());
        let root = SigningKey::from_seed(&[1; 32]);
        let anchor = Anchor { format: FORMAT.to_owned(), deployment: "d1".to_owned(), root_key: root.public() };
        let keys = Keys { anchor, log: SigningKey::from_seed(&[2; 32]), witnesses: Vec::new() };
        let catalog: SharedCatalog = Arc::new(SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("catalog"));
        let log = LogName::Case(CaseId::new(1, [2; 10]));
        let head = Published { size: 2, root: Digest::of(b"root") };
        catalog.set_published(log.folder(), head).await.expect("kept");
        let logs = Logs::new(Ledgers::new(Arc::clone(&store), keys), Arc::clone(&catalog), Arc::clone(&store), false);

        let signed = |key: &SigningKey| Envelope::sign(b"{}".to_vec(), key).expect("small").as_bytes().to_vec();
        put(&*store, &log.slot(1), b"junk").await;
        put(&*store, &log.slot(2), b"junk").await;
        put(&*store, &log.slot(3), "x".repeat(70_000).as_bytes()).await;
        put(&*store, &log.slot(4), &signed(&SigningKey::from_seed(&[9; 32]))).await;
        put(&*store, &log.slot(5), &signed(&root)).await;
        for (n, why) in [
            (1, None),
            (2, Some("it is no signed record")),
            (3, Some("it is larger than any record")),
            (4, Some("no key that this deployment enrolled signed it")),
            (5, None),
            (6, None),
        ] {
            assert_eq!(logs.squats(&log, n).await.expect("judged").as_deref(), why, "{n}");
        }
        // Of a case that was never opened nothing was published, and nothing is written there for asking.
        let other = LogName::Case(CaseId::new(2, [3; 10]));
        put(&*store, &other.slot(0), b"junk").await;
        assert!(logs.squats(&other, 0).await.expect("judged").is_some());
        assert_eq!(store.get(&other.checkpoint(), 1_000).await.map(|b: Bytes| b.len()).expect_err("none").kind(), Kind::NotFound);
    }
}
