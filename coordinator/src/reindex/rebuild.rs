//! From logs to rows.

use std::collections::BTreeMap;

use exhibit_certs::PeerName;
use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::key::KeyId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Acquisition, Incident, Record, Role};
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{Digest, Timestamp};
use exhibit_proto::bounds::NAME_BYTES_MAX;

use super::before::Before;
use super::collections::CaseRecords;
use super::{ReindexError, Report, strangers};
use crate::catalog::{AgentRow, CaseRow, Catalog, CatalogError, IncidentRow, Labels, Published, Seen};
use crate::ledger::{self, Head, Ledger, LedgerError, Ledgers};
use crate::reverify::{self, Records};
use crate::store::attest;

/// Words of what has a name that nothing of ours has.
const NOT_OURS: &str = "nothing of ours ever has such a name; it was left out (docs/operations/stores.md)";

/// Fills an empty catalog from the store. A case whose log is damaged is left out and reported; a store that is
/// disturbed ends the whole.
///
/// # Errors
/// [`ReindexError`]
pub async fn rebuild(ledgers: &Ledgers, catalog: &dyn Catalog, now: Timestamp) -> Result<Report, ReindexError> {
    rebuild_after(ledgers, catalog, &Before::default(), now).await
}

/// [`rebuild`], with what the catalog before knew: what is gone of that is told.
pub(super) async fn rebuild_after(
    ledgers: &Ledgers,
    catalog: &dyn Catalog,
    before: &Before,
    now: Timestamp,
) -> Result<Report, ReindexError> {
    let mut report = Report { not_compared: before.unread.clone(), ..Report::default() };
    // Before anything is read: what somebody put on top of it would be taken for what was received, and what is hidden is in no listing.
    let seen = attest::recall(ledgers.store().as_ref(), "").await.map_err(ReindexError::new)?;
    let beside = reverify::strangers(ledgers.store().as_ref()).await.map_err(ReindexError::new)?;
    for name in &beside {
        report.problem(format!("store-foreign {name}: {NOT_OURS}"));
    }
    let folders = ledgers.store().folders("cases").await.map_err(ReindexError::new)?;
    let own = Box::pin(deployment(ledgers, catalog, (before, !folders.is_empty()), &mut report)).await;
    report.take_trouble(LogName::Deployment.folder(), own)?;
    let told = strangers::tell(ledgers.store().as_ref(), &LogName::Deployment, None, &mut report).await;
    report.take_trouble("deployment", told)?;
    before.tell_agents(catalog, &mut report).await?;
    for name in &folders {
        let Ok(case) = name.parse::<CaseId>() else {
            report.problem(format!("'cases/{}' is not a case's folder", escape_bounded(name, 100)));
            continue;
        };
        let (cases, mut records) = (report.cases, None);
        let made = Box::pin(one_case(ledgers, catalog, (&case, before), (&mut report, &mut records))).await;
        report.left_out += u64::from(report.cases == cases && matches!(made, Err(Trouble::Damaged(_))));
        report.take_trouble(&case, made)?;
        let told = strangers::tell(ledgers.store().as_ref(), &LogName::Case(case.clone()), records.as_ref(), &mut report).await;
        report.take_trouble(&case, told)?;
    }
    let told = before.tell_gone(ledgers, &folders, &mut report).await;
    report.take_trouble("cases", told)?;
    // Not before: which version of a record is the genuine one is known since its log was opened.
    for trouble in Box::pin(attest::recall_again(ledgers.store().as_ref(), "", seen, None)).await.map_err(ReindexError::new)? {
        let what = format!("{} {}: {}", trouble.kind, trouble.subject, trouble.detail);
        if trouble.is_answered() { report.answered(what) } else { report.problem(what) }
    }
    for name in ledgers.store().foreign("") {
        let shown = format!("'{}'", escape_bounded(&name, 200));
        if !beside.contains(&shown) {
            report.problem(format!("store-foreign {shown}: {NOT_OURS}"));
        }
    }
    // What else is wrong with a log is among them already.
    for news in ledgers.known().news().take().into_iter().filter(|news| news.kind != ledger::DAMAGED) {
        let what = format!("{} {}: {}", news.kind, news.log.folder(), news.detail);
        if news.is_answered() { report.answered(what) } else { report.problem(what) }
    }
    for problem in report.problems.iter().chain(&report.answered) {
        let row = IncidentRow::new(now, None, "reindex", "store", problem.clone());
        catalog.add_incident(row).await.map_err(ReindexError::new)?;
    }
    crate::filled::note(catalog).await.map_err(ReindexError::new)?;
    Ok(report)
}

/// What stops one case, and what stops everything.
pub(crate) enum Trouble {
    Damaged(String),
    Fatal(String),
}

impl From<LedgerError> for Trouble {
    fn from(e: LedgerError) -> Self {
        match e.kind() {
            ledger::Kind::Damaged => Self::Damaged(e.to_string()),
            _ => Self::Fatal(e.to_string()),
        }
    }
}

impl From<crate::store::StoreError> for Trouble {
    fn from(e: crate::store::StoreError) -> Self {
        LedgerError::from(e).into()
    }
}

impl From<crate::catalog::CatalogError> for Trouble {
    fn from(e: crate::catalog::CatalogError) -> Self {
        match e {
            // Two records that cannot both be true, for instance one order id in two cases.
            crate::catalog::CatalogError::Conflict(what) => Self::Damaged(what),
            other => Self::Fatal(other.to_string()),
        }
    }
}

/// Every record of a log, in order, once more from the store.
pub(super) async fn records(log: &Ledger) -> Result<Vec<(Digest, Vec<u8>, Record)>, LedgerError> {
    let mut out = Vec::new();
    for n in 0..log.size() {
        let envelope = log.read(n).await?;
        // Verified when the log was opened; read() has compared the digest.
        let record = Record::from_payload(envelope.unverified_payload())
            .map_err(|e| LedgerError::new(ledger::Kind::Damaged, format!("record {n}: {e}")))?;
        out.push((envelope.digest(), envelope.as_bytes().to_vec(), record));
    }
    Ok(out)
}

/// Of how long a log is the new catalog begins with what the store shows.
async fn remember(log: &Ledger, catalog: &dyn Catalog) -> Result<(), CatalogError> {
    let Head { size, root } = log.head();
    if size == 0 {
        return Ok(());
    }
    catalog.set_published(log.name().folder(), Published { size, root }).await
}

/// The deployment's own log: what is wrong with it, and the agents in it. One that nobody can open keeps no case from being made again.
async fn deployment(
    ledgers: &Ledgers,
    catalog: &dyn Catalog,
    (before, are_cases): (&Before, bool),
    report: &mut Report,
) -> Result<(), Trouble> {
    // Before it is opened, which mends what can be mended. What keeps it from being opened is said better by who opens it.
    let wrong = before.judge_deployment(ledgers, are_cases).await?;
    let log = ledgers.deployment().await?;
    for finding in wrong {
        report.problem(format!("{}: {finding}", log.name().folder()));
    }
    agents(&log, catalog, report).await
}

async fn agents(log: &Ledger, catalog: &dyn Catalog, report: &mut Report) -> Result<(), Trouble> {
    let (mut rows, mut by_key) = (BTreeMap::<AgentId, AgentRow>::new(), BTreeMap::<KeyId, AgentId>::new());
    remember(log, catalog).await?;
    for (digest, _, record) in records(log).await? {
        match record {
            Record::Enrolment(p) if p.roles == [Role::Agent] => {
                let Ok(PeerName::Agent(_, agent)) = p.name.parse::<PeerName>() else {
                    report.problem(format!("enrolment {digest}: '{}' is not an agent's name", escape_bounded(&p.name, 200)));
                    continue;
                };
                by_key.insert(p.key.id(), agent.clone());
                let row = AgentRow {
                    agent: agent.clone(),
                    key: p.key.id(),
                    enrolment: digest,
                    enrolled_at: p.enrolled_at,
                    labels: Labels::new(),
                    revoked: None,
                    alarm: None,
                    seen: Seen::default(),
                };
                // The same identity with a newer key: the last enrolment is the one that counts.
                rows.insert(agent, row);
            }
            Record::Incident(p) => catalog.add_incident(incident(*p)).await?,
            Record::Revocation(p) => {
                if let Some(row) = by_key.get(&p.key).and_then(|agent| rows.get_mut(agent)).filter(|row| row.key == p.key) {
                    row.revoked.get_or_insert((p.revoked_at, p.reason));
                }
            }
            _ => {}
        }
    }
    for row in rows.into_values() {
        catalog.add_agent(row).await?;
        report.agents += 1;
    }
    Ok(())
}

fn incident(p: Incident) -> IncidentRow {
    IncidentRow { at: p.last_at, case: p.case, kind: p.kind, subject: p.about, detail: p.detail, count: p.count, logged: true }
}

async fn one_case(
    ledgers: &Ledgers,
    catalog: &dyn Catalog,
    (case, before): (&CaseId, &Before),
    (report, taken): (&mut Report, &mut Option<Records>),
) -> Result<(), Trouble> {
    // As of the deployment's log.
    let wrong = before.judge_case(ledgers, LogName::Case(case.clone()), case.as_str()).await?;
    let log = ledgers.case(case).await?;
    let is_whole = wrong.is_empty();
    for finding in wrong {
        report.problem(format!("{case}: {finding}"));
    }
    remember(&log, catalog).await?;
    let mut found = CaseRecords::default();
    let (mut opened, mut closed) = (None, None);
    let (mut hosts, mut all) = (BTreeMap::<AgentId, Seen>::new(), Records::default());
    for (digest, bytes, record) in records(&log).await? {
        all.take(case, digest, &record);
        if let Record::Acquisition(p) = &record {
            hosts.insert(p.agent.clone(), seen_in(p));
        }
        match record {
            Record::CaseOpened(p) if p.case == *case => opened = opened.or(Some((digest, p))),
            Record::CaseOpened(_) => return Err(Trouble::Damaged("its log opens another case".to_owned())),
            Record::CaseClosed(_) => closed = closed.or(Some(digest)),
            Record::Incident(p) => catalog.add_incident(incident(*p)).await?,
            other => found.take(digest, bytes, other),
        }
    }
    *taken = Some(all);
    let Some((digest, p)) = opened else {
        if is_whole && before.had(case.as_str()) {
            return Err(Trouble::Damaged("no record of its log opens it, and the catalog before had it".to_owned()));
        }
        // A process died while it opened the case: there is no case, and the next try opens another one.
        tracing::info!(%case, "a log without a case-opened record is left out");
        return Ok(());
    };
    let row = CaseRow {
        case: case.clone(),
        title: p.title,
        legal_basis: p.legal_basis,
        accountable: p.accountable,
        opened_by: p.opened_by,
        opened_at: p.opened_at,
        case_opened: digest,
        case_closed: closed,
    };
    catalog.add_case(row).await?;
    report.cases += 1;
    for (agent, seen) in hosts {
        let known = catalog.agent(agent.clone()).await?;
        if known.is_some_and(|row| row.seen.at < seen.at) {
            catalog.set_seen(agent, seen).await?;
        }
    }
    let custody = log.view().custody().clone();
    found.write(ledgers.store().as_ref(), catalog, (case, &custody), report).await
}

/// What an agent says about its host in an acquisition that it signed: until it connects again, nothing newer is known.
fn seen_in(p: &Acquisition) -> Seen {
    Seen {
        at: Some(p.ended.wall),
        hostname: escape_bounded(&p.host.hostname, NAME_BYTES_MAX),
        version: escape_bounded(&p.tool.version, 64),
        kernel: escape_bounded(&p.host.kernel, NAME_BYTES_MAX),
        os: escape_bounded(p.host.os.as_deref().unwrap_or_default(), NAME_BYTES_MAX),
        boot_id: escape_bounded(&p.host.boot_id, 64),
        build: Some(p.tool.sha256),
        clock_offset_ns: 0,
        captures: Vec::new(),
    }
}
