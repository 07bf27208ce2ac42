//! All logs of a deployment: each is opened once, on first use.

use std::collections::HashMap;
use std::sync::Arc;

use exhibit_evidence::Digest;
use exhibit_evidence::anchor::Anchor;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::{KeyId, SigningKey};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Enrolment, Predicate as _, Record};
use tokio::sync::{Mutex, OnceCell, broadcast};

use super::brief::{Brief, Briefs};
use super::log::{Around, is_as_known};
use super::{Keys, Kind, Known, Ledger, LedgerError};
use crate::audit::Audit;
use crate::replica::Leases;
use crate::store::Store;

/// Logs that are kept open: a case of 5,000 records takes about 2 MB, so 256 of them half a gigabyte at worst. Beyond
/// it, logs that nobody uses just now are closed; they are opened again when needed.
pub const LOGS_OPEN_MAX: usize = 256;

/// A chain has root, issuer or admin, holder; more links than this are a loop.
const CHAIN_LINKS_MAX: usize = 8;

/// The logs of one deployment. There is one of these per process and store: two without a catalog that gives rights would race
/// for the checkpoints.
#[derive(Debug)]
pub struct Ledgers {
    store: Arc<dyn Store>,
    keys: Arc<Keys>,
    logs: Mutex<Logs>,
    leases: Arc<Leases>,
    grown: broadcast::Sender<LogName>,
    audit: Audit,
    known: Arc<Known>,
}

#[derive(Debug, Default)]
struct Logs {
    open: HashMap<LogName, Arc<OnceCell<Ledger>>>,
    /// Of logs that were open; of none that is.
    closed: Briefs,
}

impl Logs {
    /// The place of a log among those that are open. Where that would be too many, those that nobody uses just now are closed.
    fn place(&mut self, name: &LogName) -> Arc<OnceCell<Ledger>> {
        if let Some(cell) = self.open.get(name) {
            return Arc::clone(cell);
        }
        if self.open.len() >= LOGS_OPEN_MAX {
            let closed = &mut self.closed;
            self.open.retain(|_, cell| {
                // A log that is held anywhere stays: a second handle beside it would race for its checkpoint.
                let stays = Arc::strong_count(cell) > 1 || cell.get().is_some_and(Ledger::is_in_use);
                if let Some(ledger) = cell.get().filter(|_| !stays) {
                    closed.keep(ledger);
                }
                stays
            });
        }
        self.closed.forget(name);
        Arc::clone(self.open.entry(name.clone()).or_default())
    }
}

/// Names of grown logs that wait for a slow listener, who then has to look at all logs: about 100 bytes each.
const GROWN_MAX: usize = 4_096;

impl Ledgers {
    /// Nothing is opened yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, keys: Keys) -> Arc<Self> {
        Self::among(store, keys, Leases::of_one(), Audit::default(), Known::default())
    }

    /// The logs of a coordinator among others; `audit` is told each record that this one adds. A log that does not hold what is `known`
    /// of it is refused.
    #[must_use]
    pub fn among(store: Arc<dyn Store>, keys: Keys, leases: Arc<Leases>, audit: Audit, known: Known) -> Arc<Self> {
        let (keys, known, grown) = (Arc::new(keys), Arc::new(known), broadcast::Sender::new(GROWN_MAX));
        Arc::new(Self { store, keys, logs: Mutex::default(), leases, grown, audit, known })
    }

    /// What is known of the logs beside the store.
    #[must_use]
    pub fn known(&self) -> &Known {
        &self.known
    }

    /// The store that the logs lie in.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// From now on, the name of each log whenever it has a new checkpoint.
    #[must_use]
    pub fn grown(&self) -> broadcast::Receiver<LogName> {
        self.grown.subscribe()
    }

    /// What every record is verified from.
    #[must_use]
    pub fn anchor(&self) -> &Anchor {
        &self.keys.anchor
    }

    /// What the logs are read by.
    #[must_use]
    pub const fn keys(&self) -> &Arc<Keys> {
        &self.keys
    }

    /// The key that signs checkpoints, receipts, seals and access records.
    #[must_use]
    pub fn log_key(&self) -> &SigningKey {
        &self.keys.log
    }

    /// A log; opened and recovered on first use, and with all that other coordinators added by now. A log without records is an
    /// empty one; nothing is written for it.
    ///
    /// # Errors
    /// As [`Ledger::open`]; the next call tries again.
    pub async fn get(&self, name: &LogName) -> Result<Ledger, LedgerError> {
        let cell = self.logs.lock().await.place(name);
        if let Some(ledger) = cell.get() {
            self.known.check(name)?;
            let fresh = ledger.refresh().await;
            if fresh.is_err() {
                self.known.note_use(name, &fresh);
            }
            return fresh.map(|()| ledger.clone());
        }
        let (store, keys) = (Arc::clone(&self.store), Arc::clone(&self.keys));
        let (leases, known) = (Arc::clone(&self.leases), Arc::clone(&self.known));
        let around = Around { leases, grown: self.grown.clone(), audit: self.audit.clone(), known };
        let opening = || Ledger::open_among(store, name.clone(), keys, around);
        let opened = cell.get_or_try_init(opening).await;
        self.known.note_use(name, &opened);
        opened.cloned()
    }

    /// Another coordinator added to a log: reads what, where the log is open, and tells who listens here.
    ///
    /// # Errors
    /// As [`Ledger::refresh`].
    pub async fn follow(&self, name: &LogName) -> Result<(), LedgerError> {
        let open = self.logs.lock().await.open.get(name).and_then(|cell| cell.get().cloned());
        if let Some(ledger) = open {
            return ledger.refresh().await;
        }
        // What custody says there decides how the store locks what is written here.
        if self.store.attestable().is_some() {
            self.get(name).await?;
        }
        let _ = self.grown.send(name.clone());
        Ok(())
    }

    /// [`Ledgers::follow`] for every log that is open: what grew may have been missed.
    pub async fn follow_all(&self) {
        let open: Vec<LogName> = self.logs.lock().await.open.keys().cloned().collect();
        for name in open {
            if let Err(error) = self.follow(&name).await {
                tracing::warn!(log = %name.folder(), %error, "new records of a log could not be read; they will be when it is used");
            }
        }
    }

    /// The deployment's log.
    ///
    /// # Errors
    /// As [`Ledgers::get`].
    pub async fn deployment(&self) -> Result<Ledger, LedgerError> {
        self.get(&LogName::Deployment).await
    }

    /// A case's log.
    ///
    /// # Errors
    /// As [`Ledgers::get`].
    pub async fn case(&self, case: &CaseId) -> Result<Ledger, LedgerError> {
        self.get(&LogName::Case(case.clone())).await
    }

    /// What a case's log says, as far as lists show it. As [`Ledgers::case`], but a log that was closed, because others were used, is not
    /// opened again for it as long as nobody added to it.
    ///
    /// # Errors
    /// As [`Ledgers::get`].
    pub async fn brief(&self, case: &CaseId) -> Result<Arc<Brief>, LedgerError> {
        let name = LogName::Case(case.clone());
        let kept = self.logs.lock().await.closed.get(&name);
        if let Some(brief) = kept
            && is_as_known(&self.leases, &name, brief.head.size).await?
        {
            self.known.check(&name)?;
            return Ok(brief);
        }
        Ok(Arc::new(self.get(&name).await?.brief()))
    }

    /// The enrolments that lead to a key, from the one that the root signed down to the key's own.
    ///
    /// # Errors
    /// [`Kind::Refused`] when the key was never enrolled, and as [`Ledgers::get`].
    pub async fn chain_of(&self, key: KeyId) -> Result<Vec<Envelope>, LedgerError> {
        let log = self.deployment().await?;
        let own = log.view().enrolment_of(key).map(|e| e.digest);
        let own = own.ok_or_else(|| LedgerError::new(Kind::Refused, format!("key {key} was never enrolled in this deployment")))?;
        self.chain_to(&log, own).await
    }

    /// All enrolments of a key that hold in a case, each with those that lead to it, in an order in which they verify. What
    /// holds in other cases only is left out: it is not this case's business.
    ///
    /// # Errors
    /// As [`Ledgers::chain_of`]; [`Kind::Refused`] when there are too many for an order to carry.
    pub async fn chain_in(&self, key: KeyId, case: &CaseId) -> Result<Vec<Envelope>, LedgerError> {
        self.chain_without(key, case, &|_| false).await
    }

    /// [`Ledgers::chain_in`] without those that `have` says are there; those need not be read.
    async fn chain_without(
        &self,
        key: KeyId,
        case: &CaseId,
        have: &(dyn Fn(&Digest) -> bool + Sync),
    ) -> Result<Vec<Envelope>, LedgerError> {
        let log = self.deployment().await?;
        let own = log.entries(0, &|e| e.kind == Enrolment::TYPE && e.key == Some(key), usize::MAX);
        if own.is_empty() {
            return Err(LedgerError::new(Kind::Refused, format!("key {key} was never enrolled in this deployment")));
        }
        let mut all: Vec<Envelope> = Vec::new();
        for entry in own.into_iter().filter(|e| !have(&e.digest)) {
            let envelope = log.read(entry.n).await?;
            if !matches!(Record::from_payload(envelope.unverified_payload()), Ok(Record::Enrolment(p)) if p.holds_in(case)) {
                continue;
            }
            for link in self.chain_to(&log, entry.digest).await? {
                if !all.contains(&link) {
                    all.push(link);
                }
            }
        }
        if all.len() > CHAIN_LINKS_MAX {
            let message =
                format!("key {key} has {} enrolments for {case}, at most {CHAIN_LINKS_MAX} can be used; enrol a new key", all.len());
            return Err(LedgerError::new(Kind::Refused, message));
        }
        Ok(all)
    }

    pub(super) async fn chain_to(&self, log: &Ledger, own: Digest) -> Result<Vec<Envelope>, LedgerError> {
        let mut next = Some(own);
        let mut chain = Vec::new();
        while let Some(digest) = next {
            let envelope = log.read_by_digest(&digest).await?;
            let envelope =
                envelope.ok_or_else(|| LedgerError::new(Kind::Damaged, format!("enrolment {digest} is not in the deployment's log")))?;
            next = match Record::from_payload(envelope.unverified_payload()) {
                Ok(Record::Enrolment(p)) => p.predecessor,
                _ => return Err(LedgerError::new(Kind::Damaged, format!("record {digest} is not an enrolment"))),
            };
            chain.push(envelope);
            if chain.len() > CHAIN_LINKS_MAX {
                return Err(LedgerError::new(Kind::Damaged, format!("the enrolments above {own} do not end")));
            }
        }
        chain.reverse();
        Ok(chain)
    }

    /// Copies into a case's log the enrolments of these keys that it lacks, and what [`Ledgers::ensure_revoked`] does: a case is verified
    /// without anything outside it.
    ///
    /// # Errors
    /// As [`Ledgers::chain_of`] and [`Ledger::append`].
    pub async fn ensure_enrolled(&self, case: &CaseId, keys: &[KeyId]) -> Result<(), LedgerError> {
        let log = self.case(case).await?;
        let mut enrolments = Vec::new();
        for key in keys {
            enrolments.extend(self.chain_without(*key, case, &|digest| log.find(digest).is_some()).await?);
        }
        log.ensure_enrolled(enrolments).await?;
        self.ensure_revoked(case).await
    }
}
