//! One case, or the deployment's own log: whether it is there, and what the verifier says of it while it stands still.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{self, LogName};
use exhibit_evidence::log::NOTE_BYTES_MAX;
use exhibit_evidence::verify::{self, Options};
use exhibit_evidence::{Digest, Timestamp};
use tokio::runtime::Handle;

use super::files::{Files, GivenUp};
use super::{CaseResult, DEPLOYMENT, Depth};
use crate::catalog::Published;
use crate::ledger::{self, Head, Keys, LedgerError, Look};
use crate::pace::Pace;
use crate::store::{Kind, Store, StoreError, history, list_all};

/// Objects of one case: a segment of 8 MiB each, 32 TiB.
pub(super) const OBJECTS_MAX: usize = 4 << 20;
/// Tries at a case that grows while it is read.
const TRIES_MAX: u32 = 3;
/// After a record its head is written within this time.
const HEAD_FOLLOWS: Duration = Duration::from_secs(1);

/// How a finding begins that says that nothing is left; why it must be there follows.
pub(super) const GONE: &str = "nothing of it is in the store, and ";

/// A case, or the deployment's own log, that is to be verified.
pub(super) struct Work {
    pub(super) store: Arc<dyn Store>,
    pub(super) log: LogName,
    pub(super) keys: Arc<Keys>,
    /// How much of the evidence; none: the log by itself.
    pub(super) depth: Option<Depth>,
    pub(super) pace: Pace,
    pub(super) seed: Digest,
    /// What its log must hold.
    pub(super) head: Option<Published>,
}

impl Work {
    /// The case's line, whatever is wrong with it. `known` says why it must be there.
    ///
    /// # Errors
    /// [`Kind::Retry`] and [`Kind::Denied`], which say nothing about the case.
    pub(super) async fn case_result(&self, known: Option<&str>, now: fn() -> Timestamp) -> Result<CaseResult, StoreError> {
        let mut result = CaseResult::new(self.name(), now());
        if let Some(why) = known
            && self.store.list(&self.folder(), None).await?.entries.is_empty()
        {
            result.gone = true;
            let what = if self.log == LogName::Deployment { "this log" } else { "a whole case" };
            result.fail(format!(
                "{GONE}{why}: {what} is never destroyed; find out who deleted it, and bring it back \
                 from a replica or a backup of the store"
            ));
            return Ok(result);
        }
        match self.verify_still(now).await {
            Err(e) if matches!(e.kind(), Kind::Retry | Kind::Denied) => Err(e),
            Err(e) => {
                result.fail(e.to_string());
                Ok(result)
            }
            verified => verified,
        }
    }

    /// A case that grows while it is read looks as if something was missing or left over; so what does not hold must not hold
    /// in a case that stood still, its log's head too: between a record and the head that covers it the list does not change.
    async fn verify_still(&self, now: fn() -> Timestamp) -> Result<CaseResult, StoreError> {
        let mut tries = 0;
        loop {
            // Listed first: what the log grows by before it is looked at shows as a change.
            let before = (self.top().await, self.objects().await?);
            let looked = self.look().await?;
            let result = Box::pin(self.verify(&before.1, looked, now)).await?;
            tries += 1;
            if result.sound || tries >= TRIES_MAX {
                return Ok(result);
            }
            tokio::time::sleep(HEAD_FOLLOWS).await;
            if before == (self.top().await, self.objects().await?) {
                return Ok(result);
            }
        }
    }

    /// What lies on top of the log's head. That it cannot be read is the verification's to say.
    async fn top(&self) -> Option<Bytes> {
        self.store.get(&self.log.checkpoint(), NOTE_BYTES_MAX as u64).await.ok()
    }

    /// Where the store keeps what lies beneath: the log as whoever opens it finds it, or why nobody can open it. From then on the store
    /// reads the genuine versions of its records and tiles.
    async fn look(&self) -> Result<Option<Result<Look, LedgerError>>, StoreError> {
        if !history::is_kept(&*self.store) {
            return Ok(None);
        }
        let disturbed = |e: &LedgerError| StoreError::new(Kind::Retry, e.to_string(), "run it again");
        let published = self.head.map(|Published { size, root }| Head { size, root });
        let looked = Box::pin(ledger::look(&self.store, &self.log, &self.keys, published)).await;
        let Err(e) = &looked else { return Ok(Some(looked)) };
        if e.kind() == ledger::Kind::Retry {
            return Err(disturbed(e));
        }
        // As far as it can be read all the same.
        if let Err(e) = Box::pin(ledger::settle(&self.store, &self.log, &self.keys.anchor)).await
            && e.kind() == ledger::Kind::Retry
        {
            return Err(disturbed(&e));
        }
        Ok(Some(looked))
    }

    async fn objects(&self) -> Result<Vec<crate::store::Entry>, StoreError> {
        list_all(&*self.store, &self.folder(), OBJECTS_MAX).await
    }

    fn folder(&self) -> String {
        match &self.log {
            LogName::Case(case) => layout::case_folder(case),
            LogName::Deployment => "deployment".to_owned(),
        }
    }

    fn name(&self) -> String {
        match &self.log {
            LogName::Case(case) => case.to_string(),
            LogName::Deployment => DEPLOYMENT.to_owned(),
        }
    }

    async fn verify(
        &self,
        objects: &[crate::store::Entry],
        looked: Option<Result<Look, LedgerError>>,
        now: fn() -> Timestamp,
    ) -> Result<CaseResult, StoreError> {
        let mut result = CaseResult::new(self.name(), now());
        result.objects = Some(objects.iter().filter(|o| layout::parse(&o.name).is_some()).count() as u64);
        let whole = self.depth == Some(Depth::All);
        let evidence = format!("{}/collections/", self.folder());
        // Without its evidence the log is verified as in a copy from which the collections were left out.
        let left_out = if whole { Vec::new() } else { collections(&evidence, objects) };
        let look = looked.as_ref().and_then(|looked| looked.as_ref().ok());
        // What lies in the places of records and is none is named by its own name, and no part of the log.
        let is_read = |name: &str| self.is_wanted(name, &evidence) && look.is_none_or(|look: &Look| !look.is_beside(name));
        let listed: Vec<(String, u64)> = objects.iter().filter(|o| is_read(&o.name)).map(|o| (o.name.clone(), o.size)).collect();
        let given_up = GivenUp::default();
        let files = Files {
            store: Arc::clone(&self.store),
            folder: format!("{}/", self.folder()),
            listed,
            head: look.and_then(|look| look.head.clone()),
            pace: self.pace,
            runtime: Handle::current(),
            given_up: Arc::clone(&given_up.0),
        };
        let expected = self.head.map(|head| (head.size, head.root));
        let deployment = self.log == LogName::Deployment;
        let (anchor, options) = (self.keys.anchor.clone(), Options { deployment, left_out, expected, ..Options::default() });
        let verified = tokio::task::spawn_blocking(move || verify::verify(&files, &anchor, &options, &mut |_| {})).await;
        let verified = verified.map_err(|e| StoreError::bug(format!("the verification ended badly: {e}")))?;
        match verified {
            Ok(report) if self.depth.is_none() => result.take_log(&report),
            Ok(report) => {
                let tiles = format!("{}/tile/", self.log.folder());
                let has_tiles = objects.iter().any(|o| o.name.starts_with(&tiles));
                result.take(&report, &tiles, has_tiles);
            }
            Err(e) => result.fail(format!("it cannot be listed: {e}")),
        }
        // Of a log by itself whoever opens it next tells both.
        match looked.as_ref().filter(|_| self.depth.is_some()) {
            Some(Ok(look)) => result.take_news(look),
            Some(Err(e)) => result.take_refusal(e),
            None => {}
        }
        if let Some(Depth::Sample(share)) = self.depth {
            self.sample(share, (look, objects), &mut result).await?;
        }
        Ok(result)
    }

    /// Whether the verifier is to see an object.
    fn is_wanted(&self, name: &str, evidence: &str) -> bool {
        match self.depth {
            Some(Depth::All) => true,
            // What is no part of any collection it names by its name alone.
            Some(Depth::Sample(_)) => !name.starts_with(evidence) || layout::parse(name).is_none(),
            // What lies beside a log may be so much that what is wrong with the log would not be among the findings that are kept.
            None => name.strip_prefix(&self.log.folder()).is_some_and(|rest| rest.starts_with('/')),
        }
    }
}

/// The collections of which there are objects, in the order of their ids.
fn collections(evidence: &str, objects: &[crate::store::Entry]) -> Vec<CollectionId> {
    let mut ids: Vec<CollectionId> =
        objects.iter().filter_map(|o| o.name.strip_prefix(evidence)?.split('/').next()?.parse().ok()).collect();
    ids.sort();
    ids.dedup();
    ids
}
