//! `exhibit-coordinator store verify`: reads the store again and verifies it from the bytes, case by case, with the code that
//! courts use. It writes nothing into the store, so the coordinator may run.
//!
//! Every case's log, and the deployment's, is verified whole each time. Of the evidence, either everything is (`--all`), or every manifest against its
//! receipt and a share of the segments against their manifest (`--sample`), another share each time.

mod accounted;
mod beside;
mod files;
mod log;
mod results;
mod scheduled;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use accounted::{Left, Records, Why};
pub(crate) use beside::strangers;
use bytes::Bytes;
use exhibit_certs::Deployment;
use exhibit_evidence::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::layout::{self, LogName};
use exhibit_evidence::log::NOTE_BYTES_MAX;
use exhibit_evidence::record::{ManifestRef, Record};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::verify::{self, Options};
use exhibit_evidence::{Digest, Timestamp};
use files::{Files, GivenUp};
pub(crate) use log::judge_log;
pub use results::RESULTS;
use results::Results;
pub use scheduled::{Schedule, run_scheduled};
use tokio::runtime::Handle;

use crate::attest::Offline;
use crate::catalog::{Catalog, CatalogError, PAGE_MAX, Published};
use crate::config::Config;
use crate::ledger::{self, Head, Keys, LedgerError, Look, News};
use crate::pace::Pace;
use crate::reindex;
use crate::several;
use crate::store::{Kind, Store, StoreError, attest, history, list_all};

/// Objects of one case: a segment of 8 MiB each, 32 TiB.
const OBJECTS_MAX: usize = 4 << 20;
/// Tries at a case that grows while it is read.
const TRIES_MAX: u32 = 3;
/// After a record its head is written within this time.
const HEAD_FOLLOWS: Duration = Duration::from_secs(1);
/// Findings that are kept of a case, of 400 characters each; the rest is counted.
const FINDINGS_MAX: usize = 200;
/// Findings of a case that are shown on a terminal.
const SHOWN_MAX: usize = 20;

/// How much of the evidence is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it, every item decoded and hashed; of encrypted cases every segment as it is stored.
    All,
    /// So many of a million segments.
    Sample(u32),
}

impl std::fmt::Display for Depth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Sample(millionths) => write!(f, "{}%", f64::from(*millionths) / 10_000.0),
        }
    }
}

impl std::str::FromStr for Depth {
    type Err = String;

    /// A share like `1%` or `0.5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok()).filter(|n| *n > 0.0 && *n <= 100.0);
        share
            .map(|n| Self::Sample((n * 10_000.0).ceil() as u32))
            .ok_or_else(|| "expected a share above 0 and up to 100, like 1%".to_owned())
    }
}

/// The name of the deployment's own log among the cases, which no case can have.
const DEPLOYMENT: &str = "deployment/log";

/// What was read and found of one case; a line of the result file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CaseResult {
    /// The case.
    pub case: String,
    /// When it was verified.
    pub at: Timestamp,
    /// Everything that was read holds.
    pub sound: bool,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// What does not hold.
    pub findings: Vec<String>,
    /// How much more does not hold.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Items whose contents were not decoded, because they are encrypted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items_unchecked: u64,
    /// Nothing of it is in the store any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Its log holds together, and is shorter than, or another one than, what the catalog knows of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_back: bool,
    /// What is worth knowing of it and changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What whoever opens its log would tell of it.
    #[serde(skip)]
    pub news: Vec<News>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What was found in all.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Everything that was read holds, and no case is gone.
    pub sound: bool,
    /// When the run began: earlier than now if it was interrupted.
    pub begun: Timestamp,
    /// Cases that an interrupted run had verified already.
    pub resumed: u64,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
    /// How many of the notes name what somebody else put into the store and what is passed over: it changes nothing of what was read.
    #[serde(skip_serializing_if = "is_zero")]
    pub answered: u64,
    /// Every case of this run.
    pub cases: Vec<CaseResult>,
    /// The deployment's own log, which is verified whole with each run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<CaseResult>,
}

impl Report {
    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let (segments, bytes) =
            self.cases.iter().fold((0_u64, 0_u64), |(s, b), c| (s.saturating_add(c.segments), b.saturating_add(c.bytes)));
        let (gone, there): (Vec<&CaseResult>, Vec<_>) = self.cases.iter().filter(|c| c.log().is_some()).partition(|c| c.gone);
        let mut out = format!(
            "{}, {}, {} read from the store",
            several::count(there.len() as u64, "case"),
            several::count(segments, "segment"),
            several::count(bytes, "byte")
        );
        if !gone.is_empty() {
            let _ = write!(out, "; {} gone", several::count(gone.len() as u64, "case"));
        }
        let _ = writeln!(
            out,
            "{}",
            if self.resumed > 0 {
                format!("; {} of the interrupted run that began at {} counted", several::count(self.resumed, "case"), self.begun)
            } else {
                String::new()
            }
        );
        for note in &self.notes {
            let _ = writeln!(out, "{note}");
        }
        for case in self.cases.iter().chain(&self.deployment).filter(|c| !c.sound) {
            let _ = writeln!(out, "{}: NOT SOUND", escape_bounded(&case.case, 100));
            for finding in case.findings.iter().take(SHOWN_MAX) {
                let _ = writeln!(out, "  - {finding}");
            }
            let left = case.more.saturating_add(case.findings.len().saturating_sub(SHOWN_MAX) as u64);
            if left > 0 {
                let what = if case.more == 0 { "all" } else { "more" };
                let _ = writeln!(out, "  - and {left} more (--json has {what})");
            }
        }
        for case in self.cases.iter().chain(&self.deployment).filter(|c| !c.notes.is_empty()) {
            let _ = writeln!(out, "{}: worth knowing", escape_bounded(&case.case, 100));
            for note in &case.notes {
                let _ = writeln!(out, "  - {note}");
            }
        }
        if self.answered > 0 {
            let _ = writeln!(
                out,
                "{} of the notes name what in the store is not ours; it was passed over (docs/operations/stores.md).",
                self.answered
            );
        }
        if self.deployment.as_ref().is_some_and(|log| !log.sound) {
            out.push_str(
                "The deployment's own log does not hold: copy the folder 'deployment', then run exhibit-verify --deployment on the copy.\n",
            );
        }
        out.push_str(if self.sound {
            "Everything that was read is sound.\n"
        } else {
            "Copy these cases before anything else, then run exhibit-verify on the copies: it says whose each finding is.\n"
        });
        out
    }
}

/// Verifies the store of a deployment. `rate` bounds the bytes read in a second.
///
/// # Errors
/// A sentence when the store does not answer or refuses us, or the result cannot be kept.
pub async fn run(
    config: &Config,
    store: Arc<dyn Store>,
    depth: Depth,
    rate: Option<u64>,
    now: fn() -> Timestamp,
) -> Result<Report, String> {
    let deployment = Deployment::load(&config.resolve(&config.paths.deployment)).map_err(|e| e.to_string())?;
    // Before anything is read: what lies on top of an object is not what is to be verified, and what is hidden is.
    let seen = attest::recall(&*store, "").await.map_err(|e| e.to_string())?;
    let keys = Arc::new(Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let judge: Arc<dyn attest::Judge> = Offline::new(Arc::clone(&store), Arc::clone(&keys));
    let on_top = Box::pin(attest::recall_again(&*store, "", seen, Some(judge))).await.map_err(|e| e.to_string())?;
    let task = Task { keys, results: config.resolve(Path::new(RESULTS)), store, depth, rate, now };
    let mut run = Run::begin(task, None, known_to_catalog(config).await).await?;
    let told = on_top.iter().map(|t| format!("{} {}: {}", t.kind, t.subject, t.detail));
    run.report.notes.extend(told);
    run.report.answered = on_top.iter().filter(|t| t.is_answered()).count() as u64;
    while run.next().await?.is_some() {}
    run.end().await
}

/// What to verify, and how.
#[derive(Debug, Clone)]
struct Task {
    keys: Arc<Keys>,
    /// The file that keeps the results.
    results: PathBuf,
    store: Arc<dyn Store>,
    depth: Depth,
    /// Bytes read in a second, at most.
    rate: Option<u64>,
    now: fn() -> Timestamp,
}

/// A run, case by case.
///
/// Order for each case: 1. read and verify; 2. its line, synced. Died before 2: the case is verified again. What is wrong
/// with one case is a finding, and the run goes on with the next one.
struct Run {
    task: Task,
    results: Results,
    report: Report,
    /// Why a case must be there.
    known: BTreeMap<String, &'static str>,
    /// How long its log must be.
    heads: BTreeMap<String, Published>,
    todo: VecDeque<String>,
}

/// What the catalog knows.
pub(crate) struct Catalogued {
    /// Each case that it has, and the newest head of its log that was published.
    pub(crate) cases: Vec<(String, Option<Published>)>,
    /// The newest head of the deployment's log that was published.
    pub(crate) deployment: Option<Published>,
}

impl Run {
    /// `stood`: when a run began that another coordinator left, and the last case that it verified. `catalog` is what the catalog knows; it
    /// is asked before the store is, because a case is in the store before it is in the catalog, and so is a head.
    async fn begin(task: Task, stood: Option<(Timestamp, Option<String>)>, catalog: Result<Catalogued, String>) -> Result<Self, String> {
        let begun = stood.as_ref().map(|(begun, _)| *begun);
        let results = Results::open(&task.results, task.depth, begun, (task.now)())?;
        let resumed = results.done.len() as u64;
        let (sound, begun) = (results.sound, results.begun);
        let mut report = Report { sound, begun, resumed, notes: Vec::new(), answered: 0, cases: Vec::new(), deployment: None };
        let mut known: BTreeMap<String, &str> = results.seen.iter().map(|case| (case.clone(), "an earlier run saw it")).collect();
        let mut heads = BTreeMap::new();
        match catalog {
            Ok(Catalogued { cases, deployment }) => {
                for (case, head) in cases {
                    heads.extend(head.map(|head| (case.clone(), head)));
                    known.insert(case, "the catalog has it");
                }
                heads.extend(deployment.map(|head| (DEPLOYMENT.to_owned(), head)));
            }
            Err(why) => report.notes.push(format!(
                "The catalog was not asked which cases there must be: {}. A case that is gone as a whole is missed only if an earlier run saw it, \
                 and one that was put back to an older state is not seen.",
                escape_bounded(&why, 300)
            )),
        }
        let mut strangers = strangers(&*task.store).await.map_err(|e| e.to_string())?;
        let there: BTreeSet<String> = task.store.folders("cases").await.map_err(|e| e.to_string())?.into_iter().collect();
        let no_cases = task.store.foreign("cases");
        strangers.extend(no_cases.iter().filter(|name| name.ends_with('/')).map(|name| format!("'{}'", escape_bounded(name, 200))));
        if !strangers.is_empty() {
            report.sound = false;
            let named = several::listed(&strangers, 0, ", ", several::DETAIL_BYTES);
            report.notes.push(format!(
                "Nothing of ours ever has such a name; find out who wrote there (docs/operations/stores.md, store-foreign): {named}"
            ));
        }
        let after = stood.and_then(|(_, after)| after);
        // In the order of their names, so that one name says how far a run came.
        let all: BTreeSet<&String> = there.iter().chain(known.keys()).collect();
        let is_done =
            |name: &String| after.as_ref().is_some_and(|after| name <= after) || (there.contains(name) && results.done.contains(name));
        let todo = all.into_iter().filter(|name| !is_done(name)).cloned().collect();
        Ok(Self { task, results, report, known, heads, todo })
    }

    /// The next case's result; `None` when all are done. Not to be called again after an error.
    async fn next(&mut self) -> Result<Option<CaseResult>, String> {
        let Some(name) = self.todo.pop_front() else { return Ok(None) };
        let now = self.task.now;
        let mut result = if let Ok(case) = name.parse::<CaseId>() {
            let work = self.work(LogName::Case(case), &name);
            work.case_result(self.known.get(&name).copied(), now).await.map_err(|e| e.to_string())?
        } else {
            let mut result = CaseResult::new(name.clone(), now());
            result.fail(format!("'cases/{}' is not a case; find out who wrote it", escape_bounded(&name, 100)));
            result
        };
        result.fail_foreign(&*self.task.store, &format!("cases/{name}"));
        self.note_news(&result);
        let CaseResult { case, sound, bytes, items_unchecked, .. } = &result;
        tracing::info!(%case, sound, bytes, items_unchecked, "verified from the store");
        self.results.line(&serde_json::to_value(&result).map_err(|e| e.to_string())?)?;
        self.report.sound &= result.sound;
        self.report.cases.push(result.clone());
        Ok(Some(result))
    }

    fn work(&self, log: LogName, name: &str) -> Work {
        let Task { store, keys, depth, rate, .. } = &self.task;
        let seed = Digest::of(format!("{}{name}", self.results.begun).as_bytes());
        let (store, keys, head) = (Arc::clone(store), Arc::clone(keys), self.heads.get(name).copied());
        Work { store, log, keys, depth: Some(*depth), pace: Pace::new(*rate), seed, head }
    }

    /// What somebody put into a log's places, and what was passed over, is named with what lies on top of objects.
    fn note_news(&mut self, result: &CaseResult) {
        for news in &result.news {
            self.report.notes.push(format!("{} {}: {}", news.kind, news.log.folder(), news.detail));
            self.report.answered = self.report.answered.saturating_add(u64::from(news.is_answered()));
        }
    }

    /// The deployment's own log: the keys of people and agents, without which no case begins. A store that has no case need not have it.
    async fn deployment(&mut self) -> Result<(), String> {
        let folder = self.task.store.list("deployment", None).await.map_err(|e| e.to_string())?;
        let why = if self.heads.contains_key(DEPLOYMENT) {
            Some("the catalog knows of it")
        } else {
            (!self.report.cases.is_empty() || !self.known.is_empty()).then_some("there are cases")
        };
        if folder.entries.is_empty() && why.is_none() {
            return Ok(());
        }
        let mut result = self.work(LogName::Deployment, DEPLOYMENT).case_result(why, self.task.now).await.map_err(|e| e.to_string())?;
        result.fail_foreign(&*self.task.store, "deployment");
        self.note_news(&result);
        self.results.line(&serde_json::json!({ "deployment": &result }))?;
        self.report.sound &= result.sound;
        self.report.deployment = Some(result);
        Ok(())
    }

    /// The run is done, but for the deployment's log.
    async fn end(mut self) -> Result<Report, String> {
        self.deployment().await?;
        let unchecked = self.report.cases.iter().fold(self.results.unchecked, |sum, case| sum.saturating_add(case.items_unchecked));
        if unchecked > 0 {
            self.report.notes.push(format!(
                "The contents of {unchecked} items were not decoded: they are encrypted to the recipients of their cases, so their segments \
                 were compared as they are stored. Only a recipient can check more: exhibit export, then exhibit-verify --identity FILE."
            ));
        }
        self.results.line(&serde_json::json!({ "done": true }))?;
        Ok(self.report)
    }
}

/// What the catalog knows. It is opened as by every other command; one in a file belongs to whoever has it open.
async fn known_to_catalog(config: &Config) -> Result<Catalogued, String> {
    let open = config.catalog().map_err(|e| e.to_string())?.open().await.map_err(|e| e.to_string())?;
    let catalog = open.shared();
    let known = catalogued(&*catalog).await;
    drop(catalog);
    open.close().await;
    known.map_err(|e| e.to_string())
}

/// Every case of a catalog, and how long it knows the logs to be.
///
/// # Errors
/// [`CatalogError`]
pub(crate) async fn catalogued(catalog: &dyn Catalog) -> Result<Catalogued, CatalogError> {
    let deployment = catalog.published(LogName::Deployment.folder()).await?;
    let (mut cases, mut after) = (Vec::new(), None);
    loop {
        let page = catalog.cases(after.take(), PAGE_MAX).await?;
        let Some(last) = page.last() else { return Ok(Catalogued { cases, deployment }) };
        after = Some(last.case.clone());
        for row in page {
            let (case, log) = (row.case.to_string(), LogName::Case(row.case));
            cases.push((case, catalog.published(log.folder()).await?));
        }
    }
}

/// A case, or the deployment's own log, that is to be verified.
struct Work {
    store: Arc<dyn Store>,
    log: LogName,
    keys: Arc<Keys>,
    /// How much of the evidence; none: the log by itself.
    depth: Option<Depth>,
    pace: Pace,
    seed: Digest,
    /// What its log must hold.
    head: Option<Published>,
}

impl Work {
    /// The case's line, whatever is wrong with it. `known` says why it must be there.
    ///
    /// # Errors
    /// [`Kind::Retry`] and [`Kind::Denied`], which say nothing about the case.
    async fn case_result(&self, known: Option<&str>, now: fn() -> Timestamp) -> Result<CaseResult, StoreError> {
        let mut result = CaseResult::new(self.name(), now());
        if let Some(why) = known
            && self.store.list(&self.folder(), None).await?.entries.is_empty()
        {
            result.gone = true;
            let what = if self.log == LogName::Deployment { "this log" } else { "a whole case" };
            result.fail(format!(
                "nothing of it is in the store, and {why}: {what} is never destroyed; find out who deleted it, and bring it back \
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

    /// Each manifest that a receipt of the log names, whole, and a share of its segments; and by names whatever no record accounts for of
    /// the objects that were listed before.
    async fn sample(
        &self,
        share: u32,
        (look, objects): (Option<&Look>, &[crate::store::Entry]),
        result: &mut CaseResult,
    ) -> Result<(), StoreError> {
        let LogName::Case(case) = &self.log else { return Ok(()) };
        let slots = list_all(&*self.store, &format!("{}/seq", self.log.folder()), OBJECTS_MAX).await?;
        let (mut records, mut left) = (Records::default(), Left::default());
        for slot in slots.into_iter().filter(|slot| look.is_none_or(|look| !look.is_beside(&slot.name))) {
            let Some(bytes) = result.read(self.store.get(&slot.name, ENVELOPE_BYTES_MAX as u64).await)? else { continue };
            let Ok(envelope) = Envelope::parse(&bytes) else { continue };
            // What is no record the verifier has named above.
            let Ok(record) = Record::from_payload(envelope.unverified_payload()) else { continue };
            records.take(case, envelope.digest(), &record);
            let Record::Receipt(receipt) = record else { continue };
            let folder = layout::stream_folder(case, &receipt.collection, receipt.stream);
            // Gone as a whole: it was not left out above, so the verifier has named it, unless a disposal explains it.
            if self.store.list(&folder, None).await?.entries.is_empty() {
                continue;
            }
            self.sample_stream(case, (&receipt.collection, receipt.stream), &receipt.manifest, share, result).await?;
        }
        for object in objects {
            left.note(&records, object);
        }
        for finding in left.findings(None) {
            result.fail(finding);
        }
        Ok(())
    }

    async fn sample_stream(
        &self,
        case: &CaseId,
        (collection, stream): (&CollectionId, layout::StreamNumber),
        manifest: &ManifestRef,
        share: u32,
        result: &mut CaseResult,
    ) -> Result<(), StoreError> {
        let segments = match reindex::segments(&*self.store, case, collection, stream, manifest).await {
            Ok(found) => {
                for name in found.strangers.iter().filter(|name| layout::parse(name).is_some()) {
                    result.fail(format!("{collection} {stream}: '{}' is not in the manifest", escape_bounded(name, 200)));
                }
                found.segments
            }
            Err(reindex::Trouble::Damaged(why)) => {
                result.fail(format!("{collection} {stream}: {why}"));
                return Ok(());
            }
            Err(reindex::Trouble::Fatal(why)) => {
                return Err(StoreError::new(Kind::Retry, why, "run the same command again: it goes on where it ended"));
            }
        };
        self.pace.moved(manifest.size).await;
        result.bytes = result.bytes.saturating_add(manifest.size);
        for segment in segments {
            let name = layout::segment(case, collection, stream, segment.n);
            let drawn = Digest::of(format!("{}{name}", self.seed).as_bytes());
            let drawn = drawn.as_bytes().first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
            if (u64::from(drawn) * 1_000_000) >> 32 >= u64::from(share) {
                continue;
            }
            let Some(bytes) = result.read(self.store.get(&name, SEGMENT_BYTES_MAX as u64).await)? else { continue };
            (result.segments, result.bytes) = (result.segments.saturating_add(1), result.bytes.saturating_add(bytes.len() as u64));
            if Digest::of(&bytes) != segment.sha256 {
                result.fail(format!("'{name}' is not what its manifest names"));
            }
            self.pace.moved(bytes.len() as u64).await;
        }
        Ok(())
    }
}

impl CaseResult {
    const fn new(case: String, at: Timestamp) -> Self {
        Self {
            case,
            at,
            sound: true,
            segments: 0,
            bytes: 0,
            findings: Vec::new(),
            more: 0,
            items_unchecked: 0,
            gone: false,
            put_back: false,
            notes: Vec::new(),
            news: Vec::new(),
        }
    }

    /// The log that it is about; none of what is no case.
    fn log(&self) -> Option<LogName> {
        if self.case == DEPLOYMENT { Some(LogName::Deployment) } else { self.case.parse().ok().map(LogName::Case) }
    }

    /// What the verifier found.
    fn take(&mut self, report: &verify::Report, tiles: &str, has_tiles: bool) {
        (self.segments, self.bytes) = (report.counts.segments, report.counts.stored_bytes);
        self.items_unchecked = report.counts.items_unchecked;
        let serious = report.findings.kept().iter().filter(|f| f.severity != verify::Severity::Note);
        self.more = serious.clone().skip(FINDINGS_MAX).count() as u64;
        self.findings =
            serious.take(FINDINGS_MAX).map(|f| escape_bounded(&format!("{} {}: {}", f.code.as_str(), f.object, f.message), 400)).collect();
        self.sound = report.verdict.is_sound();
        self.take_notes(&report.findings);
        if report.checkpoint.is_some() && !has_tiles {
            self.note(format!("{} {tiles}: none of the tiles that the checkpoint needs is there", verify::Code::LogTileMissing.as_str()));
        }
        if report.counts.requests_unanswered > 0 {
            let requests = report.counts.requests_unanswered;
            self.note(format!(
                "{requests} requests for timestamps lie there that no authority answered; 'timestamp-failed' records say so"
            ));
        }
        self.take_put_back(report);
    }

    fn take_put_back(&mut self, report: &verify::Report) {
        // A log that is damaged as well is told as that.
        let put_back = |f: &verify::Finding| f.code == verify::Code::LogExpected && f.follows_from.is_none();
        if report.findings.kept().iter().any(put_back) {
            self.put_back = true;
            self.fail(
                "the catalog knows of a longer log, or of another one: this one was put back to an older state (docs/operations/stores.md)"
                    .to_owned(),
            );
        }
    }

    /// What whoever opens the log would tell. What it does not go on past does not hold.
    fn take_news(&mut self, look: &Look) {
        for wrong in look.contradictions() {
            self.fail(format!("{}: {wrong}", ledger::HEAD));
        }
        self.news.clone_from(&look.news);
    }

    /// Why nobody could open the log: no better than what the verifier says of it, if that found anything.
    fn take_refusal(&mut self, e: &LedgerError) {
        if e.kind() != ledger::Kind::Damaged {
            self.note(format!("which versions of its log are the genuine ones could not be looked at: {e}"));
        } else if self.sound {
            self.fail(format!("{}: {e}", ledger::DAMAGED));
        }
    }

    /// Names below a folder that nothing of ours ever has.
    fn fail_foreign(&mut self, store: &dyn Store, folder: &str) {
        for stranger in store.foreign(folder) {
            let shown = escape_bounded(&stranger, 200);
            self.fail(format!(
                "'{shown}': nothing of ours ever has such a name; find out who wrote it (docs/operations/stores.md, store-foreign)"
            ));
        }
    }

    /// What nobody else would say of a store: tiles that are gone, which whoever opens the log makes again, and what lies in its timestamps.
    fn take_notes(&mut self, findings: &verify::Findings) {
        let told = [verify::Code::LogTileMissing, verify::Code::TimestampUnrecorded, verify::Code::TimestampCertificates];
        let notes = findings.kept().iter().filter(|f| told.contains(&f.code));
        let shown = |f: &verify::Finding| escape_bounded(&format!("{} {}: {}", f.code.as_str(), f.object, f.message), 400);
        self.notes = notes.take(FINDINGS_MAX).map(shown).collect();
    }

    /// What was read of an object; `None` when it cannot be read, which is a finding. Only a store that is disturbed says
    /// nothing about the object.
    fn read(&mut self, read: Result<Bytes, StoreError>) -> Result<Option<Bytes>, StoreError> {
        match read {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == Kind::Retry => Err(e),
            Err(e) => {
                self.fail(e.to_string());
                Ok(None)
            }
        }
    }

    fn note(&mut self, what: String) {
        if self.notes.len() < FINDINGS_MAX {
            self.notes.push(escape_bounded(&what, 400));
        }
    }

    fn fail(&mut self, what: String) {
        self.sound = false;
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(escape_bounded(&what, 400));
        } else {
            self.more = self.more.saturating_add(1);
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
