//! `[copy]`: everything that is durable in the store goes into a second one as well, in the background. Nobody waits for it, and an
//! acknowledgement does not speak of it.
//!
//! The truth about what is missing are the two listings, compared whole at the start and then regularly: nothing is kept that
//! could be lost. A log that grew is only a hint that its folder is worth a look now. Of several coordinators one copies, and every
//! folder that is being copied has its turn, a batch each: a new case does not wait for an old one of terabytes. After an error only
//! the folder that failed is looked at again, later each time.
//!
//! # Memory
//!
//! Bounded, whatever lies in the stores:
//!
//! - of contents one object of at most 513 MiB (the largest manifest; a segment has 10 MiB) and 4 MiB that are read back, or eight
//!   small ones: folders have their turns one after the other
//! - of names two pages of 1,000 for each of the at most 17 folders that are being copied and for the comparison beside them, about
//!   300 KiB each, so 5 MiB
//! - of folders about 400 bytes for each case while everything is compared and as long as it differs, at most 2^18 of them, so 100 MiB;
//!   4,096 that wait, rest or failed
//! - of what was told about 150 bytes for each difference, at most 2^16 of them, so 10 MiB

mod check;
mod compare;
mod failed;
mod folder;
mod heads;
mod identity;
mod known;
mod missing;
mod strangers;
mod told;
mod words;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
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
use failed::Failed;
use folder::Folder;
pub(crate) use identity::require_known;
use identity::{Found, Identity};
use missing::PutBack;
use strangers::Strangers;
use told::Told;
use words::Foreigners;

use crate::clock;
use crate::parts::Parts;
use crate::problem::{Kind, Problem};
use crate::retry::Retries;
use crate::store::{Store, StoreError};

const TICK: Duration = Duration::from_secs(1);
/// A log that grew is looked at after so long: records come in groups.
const SETTLE: Duration = Duration::from_secs(2);
/// A folder that takes long to compare is compared more seldom: at most a tenth of the time is spent on it.
const REST_FACTOR: u32 = 10;
/// Time before it is tried again after what a person has to mend, and the longest before everything is compared again.
const LATER: Duration = Duration::from_mins(10);
/// A store that is away, or a folder of which an error that passes kept everything from being copied, is tried again within this time,
/// however often that was so.
const ASK_AGAIN: Duration = Duration::from_mins(1);
/// The second store answers to its first calls within this, or counts as away.
const ANSWER_WITHIN: Duration = Duration::from_mins(1);
/// Folders that wait to be looked at; beyond, the next comparison of everything finds them.
const DUE_MAX: usize = 4_096;
/// Folders whose logs grew that are copied at once.
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

/// Names under which it is told that something failed that is no folder.
const START: &str = "start";
const EVERYTHING: &str = "everything";
const STORE: &str = "store";

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
    /// Folders that were looked at meanwhile: what was found there is newer.
    meanwhile: BTreeSet<String>,
    /// What the copy lacks, by folder; none before the first comparison.
    lags: Option<BTreeMap<String, Lag>>,
    /// Folders of the comparison of everything that were not looked at yet.
    waiting: VecDeque<String>,
    open: VecDeque<Job<'a>>,
    /// What failed lately, and how often in a row.
    retries: Retries,
    told: Arc<Told>,
    /// What the copy alone has and nobody knows.
    foreign: Foreigners,
    /// When the comparison began whose folders are looked at, until they are.
    pass: Option<Timestamp>,
    /// What was written before may have been in the copy: it is asked whether it hides it.
    asked_before: Timestamp,
    /// What was written before was in the copy, by a comparison that left nothing out.
    covered: Timestamp,
    /// Since when something may be there that the comparison whose folders are looked at did not see, or that waits for a head.
    uncovered: Option<Timestamp>,
    /// What was gone from the copy and is there again, until it is told.
    was_gone: PutBack,
    /// When that was told last.
    told_gone: Option<Instant>,
    /// The copy has no mark: an earlier version made it.
    unmarked: bool,
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
            meanwhile: BTreeSet::new(),
            lags: None,
            waiting: VecDeque::new(),
            open: VecDeque::new(),
            retries: Retries::default(),
            told: Arc::default(),
            foreign: Foreigners::default(),
            pass: None,
            asked_before: Timestamp::from_unix_s(0),
            covered: Timestamp::from_unix_s(0),
            uncovered: None,
            was_gone: PutBack::default(),
            told_gone: None,
            unmarked: false,
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
            // What was being copied waits in its place, and what grew meanwhile is heard afterwards: no need to compare everything.
            tokio::time::sleep(self.retries.after(STORE, ASK_AGAIN)).await;
        }
    }

    /// Waits until the second store answers, and is one that takes a copy of this store. One that does not, because it cannot lock as it
    /// is to or its folder is not there, keeps no coordinator from starting, because evidence is in the first store; it is told at once.
    async fn reach(&mut self) {
        loop {
            let fit = tokio::time::timeout(ANSWER_WITHIN, check::takes_copies(&*self.parts.store, &*self.second.store)).await;
            let failed = match fit.unwrap_or_else(|_| Err(check::silent(&*self.second.store, ANSWER_WITHIN))) {
                Ok(found) => {
                    if self.lags.is_none() && !found.is_new {
                        self.recall_covered().await;
                    }
                    return self.reached(found).await;
                }
                Err(e) => Failed::Store(e),
            };
            // What a person has to mend is asked for soon as well at first: a disk may be mounted a moment after this program started.
            let wait = self.retries.after(START, if failed.is_passing() { ASK_AGAIN } else { LATER });
            self.failed(START, wait, &failed).await;
            tokio::time::sleep(wait).await;
        }
    }

    async fn reached(&mut self, Found { identity, is_new }: Found) {
        self.goes_on(START);
        self.unmarked = identity == Identity::Unmarked;
        self.told.forget(START);
        if is_new {
            // Of what it does not hold nothing was in it, for whoever goes on after a restart too.
            self.covers_nothing().await;
        }
        if self.lags.is_none() {
            if !is_new {
                self.asked_before = clock::now();
            }
        } else if is_new {
            // It came back empty: another disk under the same name. Of a folder that was being copied what went before is missing there,
            // so it is begun anew and no head is put on top.
            for job in std::mem::take(&mut self.open) {
                self.put_back(job.folder.name, job.whole, Duration::ZERO);
            }
            self.whole = Instant::now();
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
            self.was_gone.join(job.folder.put_back.take());
            self.tell_put_back_meanwhile().await;
            if let Some(lag) = self.lags.as_mut().and_then(|lags| lags.get_mut(&job.folder.name)) {
                lag.less(objects, bytes);
            }
            if objects > 0 {
                self.goes_on(&job.folder.name);
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
                Err(e) => self.gave_up(job.folder.name, job.folder.looked.comparing, &e).await,
            };
            if gone_on.is_err() {
                turn.extend(self.open.drain(..));
                for job in turn {
                    self.put_back(job.folder.name, job.whole, Duration::ZERO);
                }
                return Err(Away);
            }
            self.is_there();
            self.tell_behind();
        }
        self.end_pass().await;
        Ok(busy)
    }

    /// Compares everything, beside the copying, and takes what it brought.
    async fn compare(&mut self) -> Result<(), Away> {
        match self.comparing.try_join_next() {
            Some(Ok(Ok(lags))) => {
                self.is_there();
                self.goes_on(EVERYTHING);
                // What does not differ any more is told again when it comes back.
                let differs = |name: &str| lags.contains_key(name) || self.meanwhile.contains(name);
                self.told.keep_folders(differs);
                self.foreign.keep_folders(differs);
                self.waiting = lags.keys().cloned().collect();
                self.lags = Some(lags);
                self.parts.metrics.copy_compared(clock::now());
                self.tell_behind();
            }
            Some(Ok(Err(e))) => {
                self.pass = None;
                return self.not_compared(&Failed::Store(e)).await;
            }
            Some(Err(e)) => {
                self.pass = None;
                let e = Problem::new(Kind::Failed, format!("the comparison ended badly: {e}"));
                return self.not_compared(&Failed::Own(e)).await;
            }
            None => {}
        }
        if self.pass.is_none() && self.whole <= Instant::now() {
            self.whole = Instant::now() + self.second.every;
            self.pass = Some(clock::now());
            self.uncovered = None;
            self.meanwhile.clear();
            let (first, copy) = (Arc::clone(&self.parts.store), Arc::clone(&self.second.store));
            let strangers = Strangers::of(self.parts);
            self.comparing.spawn(compare::by_folder(first, copy, self.parts.ledgers.log_key().public(), strangers));
        }
        Ok(())
    }

    async fn not_compared(&mut self, e: &Failed) -> Result<(), Away> {
        let again = self.retries.after(EVERYTHING, LATER);
        let wait = if e.is_passing() { again } else { LATER };
        let wait = wait.min(self.second.every);
        self.whole = Instant::now() + wait;
        if self.failed(EVERYTHING, wait, e).await { Err(Away) } else { Ok(()) }
    }

    /// A store answered.
    fn is_there(&mut self) {
        if self.away.0.is_some() {
            self.told.forget(STORE);
        }
        self.away = (None, None);
        self.goes_on(STORE);
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
        let Some(name) = self.waiting.pop_front() else { return Ok(()) };
        let open = self.open.iter_mut().find(|job| job.folder.name == name);
        if let Some(job) = open {
            // Its log grew just now: it is being looked at, which tells as much, but of what came since it was listed.
            job.whole = true;
            self.uncovered = Some(Timestamp::from_unix_s(0));
            return Ok(());
        }
        self.begin(name, true).await
    }

    async fn begin(&mut self, name: String, whole: bool) -> Result<(), Away> {
        match Folder::begin(self.parts, self.second, name.clone(), (self.asked_before, self.covered), &self.told).await {
            Ok(folder) => {
                self.open.push_back(Job { folder, whole });
                Ok(())
            }
            Err(e) => self.gave_up(name, Duration::ZERO, &e).await,
        }
    }

    fn done(&mut self, job: Job<'_>) {
        let Folder { name, looked, .. } = job.folder;
        self.uncovered = self.uncovered.into_iter().chain(looked.unsigned).min();
        if let Some(lags) = &mut self.lags {
            if looked.left == Lag::default() {
                lags.remove(&name);
            } else {
                lags.insert(name.clone(), looked.left);
            }
        }
        self.goes_on(&name);
        self.foreign.found(&name, looked.foreign);
        if !self.comparing.is_empty() && self.meanwhile.len() < DUE_MAX {
            self.meanwhile.insert(name.clone());
        }
        if self.rest.len() < DUE_MAX {
            self.rest.insert(name, Instant::now() + looked.comparing * REST_FACTOR);
        }
    }

    /// What is wrong with one folder does not keep the others from being copied; what it lacks stays told, and it alone is looked at
    /// again: later each time that nothing of it could be copied, and no sooner than comparing it is worth.
    async fn gave_up(&mut self, name: String, compared: Duration, e: &Failed) -> Result<(), Away> {
        // The comparison whose folders are looked at goes on without it, and how much it lacks was counted before it grew.
        self.uncovered = Some(Timestamp::from_unix_s(0));
        let passing = (compared * REST_FACTOR).min(LATER);
        let again = self.retries.after(&name, ASK_AGAIN);
        let wait = if e.is_passing() { again.max(passing) } else { LATER };
        let away = self.failed(&name, wait, e).await;
        self.put_back(name, false, wait);
        if away { Err(Away) } else { Ok(()) }
    }

    fn put_back(&mut self, name: String, whole: bool, wait: Duration) {
        if whole {
            self.waiting.push_front(name);
        } else if self.due.len() < DUE_MAX || self.due.contains_key(&name) {
            self.due.insert(name, Instant::now() + wait);
        } else {
            self.whole = self.whole.min(Instant::now() + LATER);
        }
    }
}
