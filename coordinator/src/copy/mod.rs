//! `[copy]`: everything that is durable in the store goes into a second one as well, in the background. Nobody waits for it, and an
//! acknowledgement does not speak of it.
//!
//! The truth about what is missing are the two listings, compared whole at the start and then regularly: nothing is kept that
//! could be lost. A log that grew is only a hint that its folder is worth a look now. Of several coordinators one copies, and every
//! folder that is being copied has its turn, a batch each: a new case does not wait for an old one of terabytes.

mod check;
mod compare;
mod folder;
mod heads;
mod known;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::{LogName, case_folder};
use tokio::sync::broadcast::error::TryRecvError;
use tokio::sync::{broadcast, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use check::check;
pub use compare::{Lag, lag};
use folder::{Failed, Folder};
use known::Foreign;

use crate::clock;
use crate::parts::Parts;
use crate::store::{Kind, Store, StoreError};

const TICK: Duration = Duration::from_secs(1);
/// A log that grew is looked at after so long: records come in groups.
const SETTLE: Duration = Duration::from_secs(2);
/// A folder that takes long to compare is compared more seldom: at most a tenth of the time is spent on it.
const REST_FACTOR: u32 = 10;
/// Time before it is tried again when a store was away, or something else that passes.
const TRY_AGAIN: Duration = Duration::from_secs(5);
/// Time before it is tried again after what a person has to mend.
const LATER: Duration = Duration::from_mins(10);
/// The second store answers to its first calls within this, or counts as away.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// A store that is away for so long is an incident.
const AWAY: Duration = Duration::from_mins(10);
/// It is told again after so long.
const AWAY_AGAIN: Duration = Duration::from_hours(1);
/// Folders that wait to be looked at; beyond, the next comparison of everything finds them.
const DUE_MAX: usize = 4_096;
/// Folders whose logs grew that are copied at once: each holds two pages of listings in memory, about 300 KiB.
const OPEN_MAX: usize = 16;

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
    let work = Copier::new(&parts, second).work();
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// A folder that is being copied; `whole`: for the comparison of everything, and not because its log grew.
struct Job<'a> {
    folder: Folder<'a>,
    whole: bool,
}

/// A store is away.
struct Away;

struct Copier<'a> {
    parts: &'a Parts,
    second: &'a Second,
    /// When each folder is to be looked at, because its log grew or it failed.
    due: BTreeMap<String, Instant>,
    /// Until when a folder is left alone.
    rest: BTreeMap<String, Instant>,
    /// When everything is to be compared.
    whole: Instant,
    comparing: JoinSet<Result<BTreeMap<String, Lag>, StoreError>>,
    /// What the copy lacks, by folder; none before the first comparison.
    lags: Option<BTreeMap<String, Lag>>,
    /// Folders of the comparison of everything that were not looked at yet.
    waiting: VecDeque<String>,
    open: VecDeque<Job<'a>>,
    /// What the copy alone has, of this comparison and as it was told last.
    foreign: (Foreign, Foreign),
    /// When the comparison began whose folders are looked at, until they are.
    pass: Option<Timestamp>,
    /// What was written before was in the copy once.
    asked_before: Timestamp,
    /// Since when a store is away, and when that was told.
    away: (Option<Instant>, Option<Instant>),
}

impl<'a> Copier<'a> {
    fn new(parts: &'a Parts, second: &'a Second) -> Self {
        Self {
            parts,
            second,
            due: BTreeMap::new(),
            rest: BTreeMap::new(),
            whole: Instant::now(),
            comparing: JoinSet::new(),
            lags: None,
            waiting: VecDeque::new(),
            open: VecDeque::new(),
            foreign: (Foreign::default(), Foreign::default()),
            pass: None,
            asked_before: Timestamp::from_unix_s(0),
            away: (None, None),
        }
    }

    async fn work(mut self) {
        self.parts.metrics.copy_unknown();
        let mut grown = self.parts.ledgers.grown();
        loop {
            self.reach().await;
            loop {
                self.listen(&mut grown);
                match self.round().await {
                    Ok(true) => tokio::task::yield_now().await,
                    Ok(false) => tokio::time::sleep(TICK).await,
                    Err(Away) => break,
                }
            }
            self.whole = Instant::now();
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }

    /// Waits until the second store answers, and is one that takes a copy of this store.
    async fn reach(&mut self) {
        loop {
            let fit = tokio::time::timeout(ANSWER_WITHIN, check::fit_for_copies(&*self.parts.store, &*self.second.store)).await;
            let failed = match fit.unwrap_or_else(|_| Err(check::silent(&*self.second.store, ANSWER_WITHIN))) {
                Ok(is_new) => {
                    if !is_new && self.lags.is_none() {
                        self.asked_before = clock::now();
                    }
                    return;
                }
                Err(e) => e,
            };
            let wait = if failed.kind() == Kind::Retry { TRY_AGAIN } else { LATER };
            self.failed("start", wait, &Failed::Store(failed)).await;
            tokio::time::sleep(wait).await;
        }
    }

    fn listen(&mut self, grown: &mut broadcast::Receiver<LogName>) {
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
                Ok(_) | Err(TryRecvError::Lagged(_)) => self.whole = Instant::now(),
                Err(_) => return,
            }
        }
    }

    /// One batch of each folder that is being copied. False when there is none.
    async fn round(&mut self) -> Result<bool, Away> {
        self.compare().await?;
        self.begin_ripe().await?;
        self.begin_waiting().await?;
        let busy = !self.open.is_empty();
        let mut turn = std::mem::take(&mut self.open);
        while let Some(mut job) = turn.pop_front() {
            let stepped = job.folder.step().await;
            let (objects, bytes) = std::mem::take(&mut job.folder.looked.copied);
            if let Some(lag) = self.lags.as_mut().and_then(|lags| lags.get_mut(&job.folder.name)) {
                lag.less(objects, bytes);
            }
            let gone_on = match stepped {
                Ok(true) => {
                    self.open.push_back(job);
                    Ok(())
                }
                Ok(false) => {
                    self.done(job);
                    Ok(())
                }
                Err(e) => self.gave_up(job.folder.name, job.whole, &e).await,
            };
            if gone_on.is_err() {
                turn.extend(self.open.drain(..));
                for job in turn {
                    self.put_back(job.folder.name, job.whole, TRY_AGAIN);
                }
                return Err(Away);
            }
            self.away = (None, None);
            self.tell_behind();
        }
        self.end_pass().await;
        Ok(busy)
    }

    /// Compares everything, beside the copying, and takes what it brought.
    async fn compare(&mut self) -> Result<(), Away> {
        match self.comparing.try_join_next() {
            Some(Ok(Ok(lags))) => {
                self.away = (None, None);
                self.waiting = lags.keys().cloned().collect();
                self.lags = Some(lags);
                self.foreign.0 = Foreign::default();
                self.parts.metrics.copy_compared(clock::now());
                self.tell_behind();
            }
            Some(Ok(Err(e))) => {
                self.pass = None;
                return self.not_compared(&Failed::Store(e)).await;
            }
            Some(Err(e)) => {
                self.pass = None;
                return self.not_compared(&Failed::Own(format!("the comparison ended badly: {e}"))).await;
            }
            None => {}
        }
        if self.pass.is_none() && self.whole <= Instant::now() {
            self.whole = Instant::now() + self.second.every;
            self.pass = Some(clock::now());
            let (first, copy) = (Arc::clone(&self.parts.store), Arc::clone(&self.second.store));
            self.comparing.spawn(compare::by_folder(first, copy, self.parts.ledgers.log_key().public()));
        }
        Ok(())
    }

    async fn not_compared(&mut self, e: &Failed) -> Result<(), Away> {
        self.whole = Instant::now() + LATER.min(self.second.every);
        if self.failed("everything", LATER, e).await { Err(Away) } else { Ok(()) }
    }

    /// Begins with folders whose logs grew and that are ripe.
    async fn begin_ripe(&mut self) -> Result<(), Away> {
        let now = Instant::now();
        self.rest.retain(|_, until| *until > now);
        let is_open = |name: &String| self.open.iter().any(|job| job.folder.name == *name);
        let ripe = |name: &String, at: Instant| at <= now && !self.rest.contains_key(name) && !is_open(name);
        let room = OPEN_MAX.saturating_sub(self.open.len());
        let mut ripe: Vec<(Instant, String)> =
            self.due.iter().filter(|(name, at)| ripe(name, **at)).map(|(name, at)| (*at, name.clone())).collect();
        // Who waits longest comes first: names of cases begin with their age, and old ones that keep growing would keep the new out.
        ripe.sort_unstable();
        for (_, name) in ripe.into_iter().take(room) {
            self.due.remove(&name);
            self.begin(name, false).await?;
        }
        Ok(())
    }

    /// Begins with the next folder of the comparison of everything, one at a time.
    async fn begin_waiting(&mut self) -> Result<(), Away> {
        if self.open.iter().any(|job| job.whole) {
            return Ok(());
        }
        // One whose log grew just now is being looked at, and tells as much.
        while let Some(name) = self.waiting.pop_front() {
            if self.open.iter().all(|job| job.folder.name != name) {
                return self.begin(name, true).await;
            }
        }
        Ok(())
    }

    async fn begin(&mut self, name: String, whole: bool) -> Result<(), Away> {
        match Folder::begin(self.parts, self.second, name.clone(), self.asked_before).await {
            Ok(folder) => {
                self.open.push_back(Job { folder, whole });
                Ok(())
            }
            Err(e) => self.gave_up(name, whole, &e).await,
        }
    }

    fn done(&mut self, job: Job<'_>) {
        let Folder { name, looked, .. } = job.folder;
        if let Some(lags) = &mut self.lags {
            if looked.left == Lag::default() {
                lags.remove(&name);
            } else {
                lags.insert(name.clone(), looked.left);
            }
        }
        if job.whole {
            self.foreign.0.join(looked.foreign);
        }
        if self.rest.len() < DUE_MAX {
            self.rest.insert(name, Instant::now() + looked.comparing * REST_FACTOR);
        }
    }

    /// What is wrong with one folder does not keep the others from being copied; what it lacks stays told.
    async fn gave_up(&mut self, name: String, whole: bool, e: &Failed) -> Result<(), Away> {
        let passes = match e {
            Failed::Passing(_) => true,
            Failed::Store(e) => e.kind() == Kind::Retry,
            Failed::Own(_) => false,
        };
        let wait = if passes { TRY_AGAIN } else { LATER };
        let away = self.failed(&name, wait, e).await;
        self.put_back(name, whole && away, wait);
        if away { Err(Away) } else { Ok(()) }
    }

    fn put_back(&mut self, name: String, whole: bool, wait: Duration) {
        if whole {
            self.waiting.push_front(name);
        } else if self.due.len() < DUE_MAX {
            self.due.insert(name, Instant::now() + wait);
        }
    }

    /// Tells what was found when every folder of a comparison was looked at.
    async fn end_pass(&mut self) {
        if !self.comparing.is_empty() || !self.waiting.is_empty() || self.open.iter().any(|job| job.whole) {
            return;
        }
        let Some(begun) = self.pass.take() else { return };
        self.asked_before = begun;
        let left = self.behind();
        tracing::info!(left = left.objects, differ = left.differ, only_in_copy = left.only_in_copy, "the copy was compared with the store");
        let (found, told) = &mut self.foreign;
        if found == told {
            return;
        }
        told.clone_from(found);
        if found.count > 0 {
            let detail = format!(
                "{} objects are in the copy that the store has not and that neither a log nor the catalog knows, like '{}': find out who \
                 wrote them there (docs/operations/stores.md)",
                found.count,
                found.named.join("', '")
            );
            self.parts.incident(None, "copy-foreign", &self.second.store.describe(), &detail).await;
        }
    }

    fn behind(&self) -> Lag {
        let mut all = Lag::default();
        self.lags.iter().flat_map(BTreeMap::values).for_each(|lag| all.join(lag));
        all
    }

    fn tell_behind(&self) {
        if self.lags.is_some() {
            self.parts.metrics.copy_behind(&self.behind());
        }
    }

    /// What another try does not mend is an incident, and so is a store that is away for long. True when a store is away.
    async fn failed(&mut self, what: &str, wait: Duration, e: &Failed) -> bool {
        tracing::warn!(folder = what, error = %e, again_in_s = wait.as_secs(), "the copy was not made");
        let place = self.second.store.describe();
        match e {
            Failed::Passing(_) => false,
            Failed::Own(e) => {
                let case = what.strip_prefix("cases/").and_then(|case| case.parse().ok());
                let detail = format!("'{}' is not copied into {place}: {e}", compare::shown(what));
                self.parts.incident(case.as_ref(), "copy-failed", what, &detail).await;
                false
            }
            Failed::Store(e) if e.kind() == Kind::Retry => {
                let since = self.away.0.get_or_insert_with(Instant::now).elapsed();
                if since >= AWAY && self.away.1.is_none_or(|told| told.elapsed() >= AWAY_AGAIN) {
                    self.away.1 = Some(Instant::now());
                    let detail = format!("nothing could be copied into {place} for {} minutes: {e}", since.as_secs() / 60);
                    self.parts.incident(None, "copy-away", &place, &detail).await;
                }
                true
            }
            Failed::Store(e) => {
                self.parts.incident(None, "copy-failed", &place, &e.to_string()).await;
                false
            }
        }
    }
}
