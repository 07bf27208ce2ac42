//! What the catalog before knew, held against what the store shows: each log is judged as `store verify` judges it, and nothing that was
//! known may be gone without a word.

use std::collections::{BTreeMap, BTreeSet};

use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::escape_bounded;

use super::rebuild::Trouble;
use super::{ReindexError, Report};
use crate::catalog::{Catalog, CatalogError, CatalogPlace, Labels, PAGE_MAX, Published, postgres::PostgresCatalog};
use crate::ledger::Ledgers;
use crate::reverify::{self, Catalogued};
use crate::several;

/// Why a case or a log must be there.
const KNOWN: &str = "the catalog before had it";
/// Bytes of a list of names in a problem, which has 1,000 with what stands around it.
const NAMES_BYTES: usize = 700;

/// What the catalog before knew; nothing where there was none.
#[derive(Debug, Default)]
pub(super) struct Before {
    /// Each case, and the newest head of its log that was published.
    cases: BTreeMap<String, Option<Published>>,
    /// The newest head of the deployment's log that was published.
    deployment: Option<Published>,
    agents: Vec<AgentId>,
    /// Why a catalog that is there was not asked.
    pub(super) unread: Option<String>,
}

impl Before {
    /// Asks the catalog that is there now. It is opened as by every other command, and closed again. That it cannot be asked is no reason
    /// not to make a new one.
    pub(super) async fn ask(place: &CatalogPlace) -> Self {
        match Self::read(place).await {
            Ok(before) => before,
            Err(e) => Self { unread: Some(escape_bounded(&e.to_string(), 400)), ..Self::default() },
        }
    }

    async fn read(place: &CatalogPlace) -> Result<Self, CatalogError> {
        let is_there = match place {
            CatalogPlace::File(path) => path.is_file(),
            CatalogPlace::Postgres(settings) => PostgresCatalog::is_there(settings).await?,
        };
        if !is_there {
            return Ok(Self::default());
        }
        let open = place.open().await?;
        let catalog = open.shared();
        let before = Self::of(&*catalog).await;
        drop(catalog);
        open.close().await;
        before
    }

    async fn of(catalog: &dyn Catalog) -> Result<Self, CatalogError> {
        let Catalogued { cases, deployment } = reverify::catalogued(catalog).await?;
        let (mut agents, mut after) = (Vec::new(), None);
        loop {
            let page = catalog.agents(Labels::new(), after.take(), PAGE_MAX).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.agent.clone());
            agents.extend(page.into_iter().map(|row| row.agent));
        }
        Ok(Self { cases: cases.into_iter().collect(), deployment, agents, unread: None })
    }

    /// Whether it had a case.
    pub(super) fn had(&self, case: &str) -> bool {
        self.cases.contains_key(case)
    }

    /// What is wrong with a case's log. To be asked before the log is opened, which mends what can be mended.
    pub(super) async fn judge_case(&self, ledgers: &Ledgers, log: LogName, case: &str) -> Result<Vec<String>, Trouble> {
        let known = self.cases.get(case);
        judge(ledgers, log, known.copied().flatten(), known.map(|_| KNOWN)).await
    }

    /// The same of the deployment's log, without which no case begins: only a store without any (`are_cases`) need not have it.
    pub(super) async fn judge_deployment(&self, ledgers: &Ledgers, are_cases: bool) -> Result<Vec<String>, Trouble> {
        let is_known = self.deployment.is_some() || !self.agents.is_empty();
        let why = if is_known { Some(KNOWN) } else { are_cases.then_some("there are cases") };
        if why.is_none() && ledgers.store().list("deployment", None).await?.entries.is_empty() {
            return Ok(Vec::new());
        }
        judge(ledgers, LogName::Deployment, self.deployment, why).await
    }

    /// Names the cases of which nothing is in the store any more; `there` are the folders of cases.
    pub(super) async fn tell_gone(&self, ledgers: &Ledgers, there: &[String], report: &mut Report) -> Result<(), Trouble> {
        let there: BTreeSet<&String> = there.iter().collect();
        let gone: Vec<&String> = self.cases.keys().filter(|case| !there.contains(case)).collect();
        for case in gone {
            let Ok(id) = case.parse::<CaseId>() else { continue };
            for finding in self.judge_case(ledgers, LogName::Case(id), case).await? {
                report.problem(format!("{case}: {finding}"));
            }
        }
        Ok(())
    }

    /// Names the agents that no enrolment brings back.
    pub(super) async fn tell_agents(&self, catalog: &dyn Catalog, report: &mut Report) -> Result<(), ReindexError> {
        let mut missing = Vec::new();
        for agent in &self.agents {
            if catalog.agent(agent.clone()).await.map_err(ReindexError::new)?.is_none() {
                missing.push(agent.to_string());
            }
        }
        if !missing.is_empty() {
            let names = several::listed(&missing, 0, ", ", NAMES_BYTES);
            report.problem(format!("deployment/log: no record of it enrols these agents, and the catalog before had them: {names}"));
        }
        Ok(())
    }
}

async fn judge(ledgers: &Ledgers, log: LogName, head: Option<Published>, why: Option<&str>) -> Result<Vec<String>, Trouble> {
    let judged = Box::pin(reverify::judge_log(ledgers, log, head, why)).await?;
    let mut findings = judged.findings;
    if judged.more > 0 {
        findings.push(format!("and {} more (exhibit-coordinator store verify)", judged.more));
    }
    Ok(findings)
}
