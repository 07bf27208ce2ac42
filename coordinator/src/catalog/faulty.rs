//! A catalog that fails on purpose: before the operation, after it was applied, late, or never answering.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::{Digest, Timestamp};
use tokio::sync::watch;

use super::*;

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The operation is not done, the caller gets this error.
    Before(CatalogError),
    /// The operation is done and the caller gets this error nevertheless.
    After(CatalogError),
    /// The operation is done after a while.
    Delay(Duration),
    /// The operation is not done and never answers, as for a process that dies before it; [`FaultyCatalog::died`] says so.
    DieBefore,
    /// The operation is done and never answers, as for a process that dies behind it; [`FaultyCatalog::died`] says so.
    DieAfter,
}

/// The operations that change something, by the names of their methods.
pub const WRITES: [&str; 19] = [
    "add_token",
    "use_token",
    "add_agent",
    "set_labels",
    "set_seen",
    "set_alarm",
    "revoke_agent",
    "add_case",
    "close_case",
    "add_order",
    "change",
    "open_stream",
    "commit_segment",
    "finish_stream",
    "receive_stream",
    "void_stream",
    "set_published",
    "add_incident",
    "incidents_logged",
];

#[derive(Debug)]
struct Rule {
    op: String,
    skip: u32,
    times: u32,
    fault: Fault,
}

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    random: Option<(Digest, u32)>,
    calls: Vec<&'static str>,
}

/// What is to fail, and what was called. Cloning shares it, also with the wrapper of the process that follows a dead one.
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Faults {
    /// Lets the method of this name fail `times` times, after it worked `skip` times.
    pub fn fail(&self, op: &str, skip: u32, times: u32, fault: Fault) {
        self.plan().rules.push(Rule { op: op.to_owned(), skip, times, fault });
    }

    /// From now on every write fails as busy or as failed with the given chance, half of the time after it was applied.
    /// The same seed and the same calls fail the same way.
    pub fn fail_at_random(&self, seed: u64, per_mille: u32) {
        self.plan().random = Some((Digest::of(&seed.to_le_bytes()), per_mille));
    }

    /// Nothing fails from now on.
    pub fn heal(&self) {
        let mut plan = self.plan();
        plan.rules.clear();
        plan.random = None;
    }

    /// The calls so far.
    #[must_use]
    pub fn calls(&self) -> Vec<&'static str> {
        self.plan().calls.clone()
    }

    fn plan(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn draw(&self, op: &'static str) -> Option<Fault> {
        let mut plan = self.plan();
        plan.calls.push(op);
        if let Some((state, per_mille)) = plan.random.as_mut().filter(|_| WRITES.contains(&op)) {
            *state = Digest::of(state.as_bytes());
            let [a, b, c, ..] = *state.as_bytes();
            if u32::from(u16::from_le_bytes([a, b])) % 1_000 < *per_mille {
                let text = format!("injected fault at {op}");
                let error = if c & 2 == 0 { CatalogError::Busy(text) } else { CatalogError::Failed(text) };
                return Some(if c & 1 == 0 { Fault::Before(error) } else { Fault::After(error) });
            }
        }
        let rule = plan.rules.iter_mut().find(|r| r.op == op && r.times > 0)?;
        if rule.skip > 0 {
            rule.skip -= 1;
            return None;
        }
        rule.times -= 1;
        Some(rule.fault.clone())
    }
}

/// The wrapper. Cloning shares the faults.
#[derive(Debug, Clone)]
pub struct FaultyCatalog {
    inner: SharedCatalog,
    /// What is to fail.
    pub faults: Faults,
    died: watch::Sender<bool>,
}

impl FaultyCatalog {
    /// Wraps a catalog; until told otherwise nothing fails.
    #[must_use]
    pub fn new(inner: SharedCatalog) -> Self {
        Self::with(inner, Faults::default())
    }

    /// Wraps a catalog with these faults.
    #[must_use]
    pub fn with(inner: SharedCatalog, faults: Faults) -> Self {
        Self { inner, faults, died: watch::Sender::new(false) }
    }

    /// Waits until an operation came that never answers.
    pub async fn died(&self) {
        let mut died = self.died.subscribe();
        // The sender lives as long as `self`.
        let _ = died.wait_for(|d| *d).await;
    }

    fn apply<'a, T: Send + 'a>(&'a self, op: &'static str, work: Answer<'a, T>) -> Answer<'a, T> {
        Box::pin(async move {
            let fault = self.faults.draw(op);
            match fault {
                Some(Fault::Before(error)) => return Err(error),
                Some(Fault::DieBefore) => return self.die().await,
                Some(Fault::Delay(time)) => tokio::time::sleep(time).await,
                _ => {}
            }
            let value = work.await;
            match fault {
                // Done, or refused for a reason of its own: the caller learns neither.
                Some(Fault::After(error)) => Err(error),
                Some(Fault::DieAfter) => self.die().await,
                _ => value,
            }
        })
    }

    async fn die<T>(&self) -> Result<T, CatalogError> {
        self.died.send_replace(true);
        std::future::pending().await
    }
}

impl Catalog for FaultyCatalog {
    fn add_token(&self, token: TokenRow) -> Answer<'_, ()> {
        self.apply("add_token", self.inner.add_token(token))
    }
    fn use_token(&self, token: Digest, keys: Digest, proposed: AgentId, now: Timestamp) -> Answer<'_, TokenUse> {
        self.apply("use_token", self.inner.use_token(token, keys, proposed, now))
    }
    fn add_agent(&self, agent: AgentRow) -> Answer<'_, ()> {
        self.apply("add_agent", self.inner.add_agent(agent))
    }
    fn agent(&self, agent: AgentId) -> Answer<'_, Option<AgentRow>> {
        self.apply("agent", self.inner.agent(agent))
    }
    fn agents(&self, labels: Labels, after: Option<AgentId>, limit: u32) -> Answer<'_, Vec<AgentRow>> {
        self.apply("agents", self.inner.agents(labels, after, limit))
    }
    fn set_labels(&self, agent: AgentId, labels: Labels) -> Answer<'_, bool> {
        self.apply("set_labels", self.inner.set_labels(agent, labels))
    }
    fn set_seen(&self, agent: AgentId, seen: Seen) -> Answer<'_, bool> {
        self.apply("set_seen", self.inner.set_seen(agent, seen))
    }
    fn set_alarm(&self, agent: AgentId, alarm: Option<String>) -> Answer<'_, bool> {
        self.apply("set_alarm", self.inner.set_alarm(agent, alarm))
    }
    fn revoke_agent(&self, agent: AgentId, at: Timestamp, reason: String) -> Answer<'_, bool> {
        self.apply("revoke_agent", self.inner.revoke_agent(agent, at, reason))
    }
    fn add_case(&self, case: CaseRow) -> Answer<'_, ()> {
        self.apply("add_case", self.inner.add_case(case))
    }
    fn case(&self, case: CaseId) -> Answer<'_, Option<CaseRow>> {
        self.apply("case", self.inner.case(case))
    }
    fn cases(&self, after: Option<CaseId>, limit: u32) -> Answer<'_, Vec<CaseRow>> {
        self.apply("cases", self.inner.cases(after, limit))
    }
    fn close_case(&self, case: CaseId, case_closed: Digest) -> Answer<'_, bool> {
        self.apply("close_case", self.inner.close_case(case, case_closed))
    }
    fn case_counts(&self, case: CaseId) -> Answer<'_, (BTreeMap<String, u64>, u64)> {
        self.apply("case_counts", self.inner.case_counts(case))
    }
    fn add_order(&self, order: OrderRow, collections: Vec<CollectionRow>) -> Answer<'_, ()> {
        self.apply("add_order", self.inner.add_order(order, collections))
    }
    fn order(&self, order: OrderId) -> Answer<'_, Option<OrderRow>> {
        self.apply("order", self.inner.order(order))
    }
    fn collection(&self, collection: CollectionId) -> Answer<'_, Option<CollectionRow>> {
        self.apply("collection", self.inner.collection(collection))
    }
    fn collections(&self, filter: CollectionFilter, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.apply("collections", self.inner.collections(filter, after, limit))
    }
    fn due(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.apply("due", self.inner.due(now, limit))
    }
    fn sealing(&self, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.apply("sealing", self.inner.sealing(after, limit))
    }
    fn change(&self, collection: CollectionId, from: Vec<State>, change: CollectionChange) -> Answer<'_, Option<CollectionRow>> {
        self.apply("change", self.inner.change(collection, from, change))
    }
    fn open_stream(&self, stream: StreamRow) -> Answer<'_, StreamRow> {
        self.apply("open_stream", self.inner.open_stream(stream))
    }
    fn stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Option<StreamRow>> {
        self.apply("stream", self.inner.stream(collection, stream))
    }
    fn streams(&self, collection: CollectionId) -> Answer<'_, Vec<StreamRow>> {
        self.apply("streams", self.inner.streams(collection))
    }
    fn commit_segment(&self, commit: SegmentCommit) -> Answer<'_, Step> {
        self.apply("commit_segment", self.inner.commit_segment(commit))
    }
    fn finish_stream(&self, finish: StreamFinish) -> Answer<'_, Step> {
        self.apply("finish_stream", self.inner.finish_stream(finish))
    }
    fn receive_stream(&self, collection: CollectionId, stream: StreamNumber, receipt: Digest) -> Answer<'_, Step> {
        self.apply("receive_stream", self.inner.receive_stream(collection, stream, receipt))
    }
    fn void_stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Step> {
        self.apply("void_stream", self.inner.void_stream(collection, stream))
    }
    fn segments(&self, collection: CollectionId, stream: StreamNumber, from: u32, limit: u32) -> Answer<'_, Vec<Segment>> {
        self.apply("segments", self.inner.segments(collection, stream, from, limit))
    }
    fn manifest_part(&self, collection: CollectionId, stream: StreamNumber, n: u32) -> Answer<'_, Option<Vec<u8>>> {
        self.apply("manifest_part", self.inner.manifest_part(collection, stream, n))
    }
    fn published(&self, log: String) -> Answer<'_, Option<Published>> {
        self.apply("published", self.inner.published(log))
    }
    fn set_published(&self, log: String, head: Published) -> Answer<'_, ()> {
        self.apply("set_published", self.inner.set_published(log, head))
    }
    fn add_incident(&self, incident: IncidentRow) -> Answer<'_, ()> {
        self.apply("add_incident", self.inner.add_incident(incident))
    }
    fn incidents(&self, limit: u32) -> Answer<'_, Vec<IncidentRow>> {
        self.apply("incidents", self.inner.incidents(limit))
    }
    fn unlogged_incidents(&self, limit: u32) -> Answer<'_, Vec<UnloggedIncidents>> {
        self.apply("unlogged_incidents", self.inner.unlogged_incidents(limit))
    }
    fn incident_details(&self, incidents: UnloggedIncidents, after: i64, limit: u32) -> Answer<'_, Vec<(i64, String)>> {
        self.apply("incident_details", self.inner.incident_details(incidents, after, limit))
    }
    fn incidents_logged(&self, incidents: UnloggedIncidents) -> Answer<'_, ()> {
        self.apply("incidents_logged", self.inner.incidents_logged(incidents))
    }
    fn standing(&self, chore: &'static str) -> Answer<'_, Option<String>> {
        self.apply("standing", self.inner.standing(chore))
    }
    fn set_standing(&self, chore: &'static str, standing: String) -> Answer<'_, ()> {
        self.apply("set_standing", self.inner.set_standing(chore, standing))
    }
    fn replace_standing(&self, chore: &'static str, before: Option<String>, standing: String) -> Answer<'_, bool> {
        self.apply("replace_standing", self.inner.replace_standing(chore, before, standing))
    }
    fn peers(&self) -> Option<Arc<dyn super::peers::Peers>> {
        self.inner.peers()
    }
    fn healthy(&self) -> Answer<'_, ()> {
        self.apply("healthy", self.inner.healthy())
    }
    fn silence(&self) -> futures::future::BoxFuture<'_, CatalogError> {
        self.inner.silence()
    }
}
