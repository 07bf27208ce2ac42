//! `[copy]`: everything that is durable in the store goes into a second one as well, in the background. Nobody waits for it, and an
//! acknowledgement does not speak of it.
//!
//! The truth about what is missing are the two listings, compared whole at the start and then regularly: nothing is kept that
//! could be lost. A log that grew is only a hint that its folder is worth a look now. Of several coordinators one copies.

mod compare;
mod folder;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::layout::{LogName, case_folder};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::time::Instant;

pub use compare::{Lag, lag};
use folder::{Failed, Folder};

use crate::clock;
use crate::parts::Parts;
use crate::store::{self, Kind, Store, StoreError, check};

const TICK: Duration = Duration::from_secs(1);
/// A log that grew is looked at after so long: records come in groups.
const SETTLE: Duration = Duration::from_secs(2);
/// A folder that takes long to compare is compared more seldom: at most a tenth of the time is spent on it.
const REST_FACTOR: u32 = 10;
/// Time before it is tried again after a failure.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Folders that wait to be looked at; beyond, the next comparison of everything finds them.
const DUE_MAX: usize = 4_096;

/// The second store.
#[derive(Debug, Clone)]
pub struct Second {
    /// Where the copy lies.
    pub store: Arc<dyn Store>,
    /// Time between two comparisons of everything.
    pub every: Duration,
    /// Bytes copied in a second, at most.
    pub rate: Option<u64>,
}

/// Copies until `stop` says so.
pub async fn run(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let Some(second) = &parts.copy else { return };
    let work = Copier { parts: &parts, second, due: BTreeMap::new(), rest: BTreeMap::new() }.work();
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

struct Copier<'a> {
    parts: &'a Parts,
    second: &'a Second,
    /// When each folder is to be looked at, because its log grew.
    due: BTreeMap<String, Instant>,
    /// Until when a folder is left alone.
    rest: BTreeMap<String, Instant>,
}

impl Copier<'_> {
    async fn work(mut self) {
        while let Err(e) = self.fit_for_copies().await {
            self.failed("start", &Failed::Store(e)).await;
            tokio::time::sleep(TRY_AGAIN).await;
        }
        let mut grown = self.parts.ledgers.grown();
        let mut whole = Instant::now();
        loop {
            self.listen(&mut grown, &mut whole);
            if whole <= Instant::now() {
                whole = Instant::now() + if self.everything().await { self.second.every } else { TRY_AGAIN };
            }
            self.what_grew().await;
            tokio::time::sleep(TICK).await;
        }
    }

    /// A store that overwrites, or holds another deployment, takes no copy.
    async fn fit_for_copies(&self) -> Result<(), StoreError> {
        store::self_test(&*self.second.store).await?;
        let first = LogName::Deployment.slot(0);
        let ours = self.parts.store.get(&first, store::OBJECT_BYTES_MAX).await?;
        match self.second.store.get(&first, store::OBJECT_BYTES_MAX).await {
            Ok(theirs) if theirs == ours => Ok(()),
            Ok(_) => Err(StoreError::new(
                Kind::Denied,
                format!("{} holds another deployment", self.second.store.describe()),
                "name another bucket, prefix or folder in [copy.store]",
            )),
            Err(e) if e.kind() == Kind::NotFound => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn listen(&mut self, grown: &mut broadcast::Receiver<LogName>, whole: &mut Instant) {
        loop {
            match grown.try_recv() {
                Ok(log) if self.due.len() < DUE_MAX => {
                    let folder = match log {
                        LogName::Case(case) => case_folder(&case),
                        LogName::Deployment => "deployment".to_owned(),
                    };
                    self.due.entry(folder).or_insert_with(|| Instant::now() + SETTLE);
                }
                // More grew than is remembered: look at everything.
                Ok(_) | Err(TryRecvError::Lagged(_)) => *whole = Instant::now(),
                Err(_) => return,
            }
        }
    }

    /// Compares everything and copies what is missing. False when it must be done again soon.
    async fn everything(&mut self) -> bool {
        let (first, copy) = (&*self.parts.store, &*self.second.store);
        let behind = lag(first, copy).await;
        let folders = compare::folders(first, copy).await;
        let folders = match (behind, folders) {
            (Ok(behind), Ok(folders)) => {
                self.parts.metrics.copy_behind(&behind);
                folders
            }
            (Err(e), _) | (_, Err(e)) => {
                self.failed("copy", &Failed::Store(e)).await;
                return false;
            }
        };
        let mut left = Lag::default();
        for folder in folders {
            match self.look(&folder).await {
                Ok(of_folder) => left.join(&of_folder),
                Err(e) if self.failed(&folder, &e).await => return false,
                // What is wrong with one folder does not keep the others from being copied.
                Err(_) => {
                    self.due.insert(folder, Instant::now() + TRY_AGAIN);
                }
            }
        }
        self.parts.metrics.copy_compared(clock::now(), &left);
        tracing::info!(left = left.objects, differ = left.differ, only_in_copy = left.only_in_copy, "the copy was compared with the store");
        true
    }

    /// Folders whose logs grew and that are ripe.
    async fn what_grew(&mut self) {
        let now = Instant::now();
        self.rest.retain(|_, until| *until > now);
        let ripe = |folder: &String, at: Instant| at <= now && !self.rest.contains_key(folder);
        let ripe: Vec<String> = self.due.iter().filter(|(folder, at)| ripe(folder, **at)).map(|(folder, _)| folder.clone()).collect();
        for folder in ripe {
            self.due.remove(&folder);
            if let Err(e) = self.look(&folder).await {
                let away = self.failed(&folder, &e).await;
                self.due.insert(folder, Instant::now() + TRY_AGAIN);
                if away {
                    return;
                }
            }
        }
    }

    async fn look(&mut self, folder: &str) -> Result<Lag, Failed> {
        let looked = Folder { parts: self.parts, second: self.second, name: folder }.copy().await?;
        if self.rest.len() < DUE_MAX {
            self.rest.insert(folder.to_owned(), Instant::now() + looked.comparing * REST_FACTOR);
        }
        Ok(looked.left)
    }

    /// What another try does not mend is an incident. True when a store is away.
    async fn failed(&self, what: &str, e: &Failed) -> bool {
        tracing::warn!(folder = what, error = %e, again_in_s = TRY_AGAIN.as_secs(), "the copy was not made");
        let Failed::Store(e) = e else { return false };
        if e.kind() == Kind::Retry {
            return true;
        }
        self.parts.incident(None, "copy-failed", &self.second.store.describe(), &e.to_string()).await;
        false
    }
}

/// For `store check`: adds a line about the copy, which fails when the copy cannot be trusted, not when it is behind.
pub async fn check(report: &mut check::CheckReport, first: &dyn Store, copy: &dyn Store) {
    let remedy = "the copy is not what the store is: docs/operations/stores.md says what to do";
    let looked = match store::self_test(copy).await {
        Ok(()) => lag(first, copy).await,
        Err(e) => Err(e),
    };
    match looked {
        Ok(lag) => {
            let state = if lag.differ + lag.only_in_copy == 0 { check::State::Holds } else { check::State::Missing };
            report.add("copy", state, format!("{}: {}", copy.describe(), lag.text(clock::now())), remedy);
        }
        Err(e) => report.add("copy", check::State::Missing, e.to_string(), "see to the second store; evidence is in the first one"),
    }
}
