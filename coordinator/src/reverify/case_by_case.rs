//! A run through the store: which cases there must be, each of them in turn, and the deployment's log at the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};

use super::known::IN_USE;
use super::results::Results;
use super::work::Work;
use super::{CaseResult, Catalogued, DEPLOYMENT, Report, Task, strangers};
use crate::catalog::Published;
use crate::pace::Pace;
use crate::several;

/// Why a case must be there that the catalog has.
pub(super) const CATALOGUED: &str = "the catalog has it";

/// A run, case by case.
///
/// Order for each case: 1. read and verify; 2. its line, synced. Died before 2: the case is verified again. What is wrong
/// with one case is a finding, and the run goes on with the next one.
pub(super) struct Run {
    task: Task,
    results: Results,
    pub(super) report: Report,
    /// Why a case must be there.
    known: BTreeMap<String, &'static str>,
    /// How long its log must be.
    heads: BTreeMap<String, Published>,
    /// The cases that the catalog has; none where it was not asked.
    catalogued: Option<BTreeSet<String>>,
    todo: VecDeque<String>,
}

impl Run {
    /// `stood`: when a run began that another coordinator left, and the last case that it verified. `catalog` is what the catalog knows; it
    /// is asked before the store is, because a case is in the store before it is in the catalog, and so is a head.
    pub(super) async fn begin(
        task: Task,
        stood: Option<(Timestamp, Option<String>)>,
        catalog: Result<Catalogued, String>,
    ) -> Result<Self, String> {
        let begun = stood.as_ref().map(|(begun, _)| *begun);
        let results = Results::open(&task.results, task.depth, begun, (task.now)())?;
        let resumed = results.done.len() as u64;
        let (sound, begun) = (results.sound, results.begun);
        let mut report = Report { sound, begun, resumed, notes: Vec::new(), answered: 0, cases: Vec::new(), deployment: None };
        let mut known: BTreeMap<String, &str> = results.seen.iter().map(|case| (case.clone(), "an earlier run saw it")).collect();
        let (mut heads, mut catalogued) = (BTreeMap::new(), None);
        match catalog {
            Ok(Catalogued { cases, deployment }) => {
                catalogued = Some(cases.iter().map(|(case, _)| case.clone()).collect());
                for (case, head) in cases {
                    heads.extend(head.map(|head| (case.clone(), head)));
                    known.insert(case, CATALOGUED);
                }
                heads.extend(deployment.map(|head| (DEPLOYMENT.to_owned(), head)));
            }
            // Nothing is wrong, so one sentence; docs/operations/stores.md says the rest.
            Err(why) if why == IN_USE => report.notes.push(format!(
                "The catalog was not asked which cases there must be, because {IN_USE}; this did no harm ([verify] in its configuration has it asked)."
            )),
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
        Ok(Self { task, results, report, known, heads, catalogued, todo })
    }

    /// The next case's result; `None` when all are done. Not to be called again after an error.
    pub(super) async fn next(&mut self) -> Result<Option<CaseResult>, String> {
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
        self.note_lacking(&name, &mut result);
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

    /// A case whose log is in the store and that the catalog lacks: nobody sees it in a list. Of one that is no case, or gone, more is said already.
    fn note_lacking(&self, name: &String, result: &mut CaseResult) {
        let lacks = self.catalogued.as_ref().is_some_and(|cases| !cases.contains(name));
        if lacks && result.log().is_some() && !result.gone {
            result.note(
                "the catalog lacks it, unless it was opened just now: no list shows it. If nothing followed its opening, a coordinator takes it \
                 in at its next start; otherwise stop every coordinator and run 'exhibit-coordinator reindex' (docs/operations/catalog.md)"
                    .to_owned(),
            );
        }
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
    pub(super) async fn end(mut self) -> Result<Report, String> {
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
