//! Answers to people.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::custody::Disposed;
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::responder::v1 as wire;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;

use crate::catalog::{AgentRow, CaseRow, CollectionFilter, CollectionRow, State};
use crate::custody;
use crate::dispatch::admit;
use crate::ledger::{Brief, Gone};
use crate::parts::Parts;
use crate::problem::{Kind, Problem, Result};
use crate::read::Begins;
use crate::seal;

/// Changes of one collection are shown at most this often.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// Everything watched is looked at again this often, whatever the bell says.
const LOOK_EVERY: Duration = Duration::from_secs(5);

fn ns(time: Option<Timestamp>) -> i64 {
    time.map_or(0, Timestamp::unix_ns)
}

pub(super) async fn case(parts: &Parts, row: CaseRow) -> Result<wire::Case> {
    let brief = parts.ledgers.case(&row.case).await?.brief();
    told(parts, row, &brief).await
}

/// A case in a list: one whose log is damaged stands there as that, and hides none of the others.
pub(super) async fn listed_case(parts: &Parts, row: CaseRow) -> Result<wire::Case> {
    match brief(parts, &row.case).await? {
        Some(brief) => told(parts, row, &brief).await,
        None => Ok(wire::Case { state: "damaged".to_owned(), ..from_catalog(row) }),
    }
}

/// What a case's log says for a list, which opens no log that was closed; of one that is damaged the catalog alone speaks.
async fn brief(parts: &Parts, case: &CaseId) -> Result<Option<Arc<Brief>>> {
    match parts.ledgers.brief(case).await {
        Ok(brief) => Ok(Some(brief)),
        Err(e) if e.kind() == crate::ledger::Kind::Damaged => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// What the catalog and a case's log know of it.
async fn told(parts: &Parts, row: CaseRow, brief: &Brief) -> Result<wire::Case> {
    let (counts, exhibits) = parts.catalog.case_counts(row.case.clone()).await?;
    let mut collections = BTreeMap::new();
    for (state, count) in counts {
        *collections.entry(shown_text(&state)).or_insert(0) += count;
    }
    // The catalog knows how each ended; that it is gone stands in the log.
    for Gone { disposed: gone, .. } in brief.disposed.values() {
        if let Some(count) = gone.outcome.and_then(|outcome| collections.get_mut(outcome.as_str())).filter(|count| **count > 0) {
            *count -= 1;
            *collections.entry(disposed_text(gone).to_owned()).or_insert(0) += 1;
        }
    }
    collections.retain(|_, count| *count > 0);
    Ok(wire::Case {
        log_size: brief.head.size,
        log_root: brief.head.root.as_bytes().to_vec(),
        collections,
        exhibits,
        two_person: brief.two_person,
        encrypt_to: brief.encrypt_to.as_slice().iter().map(ToString::to_string).collect(),
        ..from_catalog(row)
    })
}

/// What the catalog alone knows of a case.
fn from_catalog(row: CaseRow) -> wire::Case {
    wire::Case {
        case_id: row.case.to_string(),
        title: row.title,
        legal_basis: row.legal_basis,
        accountable: row.accountable,
        opened_by: row.opened_by,
        opened_at_ns: row.opened_at.unix_ns(),
        state: if row.case_closed.is_some() { "closed" } else { "open" }.to_owned(),
        case_opened_sha256: row.case_opened.as_bytes().to_vec(),
        ..wire::Case::default()
    }
}

/// People see the writing of an end as part of `running`.
fn shown_text(state: &str) -> String {
    if state == State::Sealing.as_str() { State::Running.as_str() } else { state }.to_owned()
}

/// What is to be said of a collection that is not kept.
const fn disposed_text(gone: &Disposed) -> &'static str {
    if gone.destroyed.is_some() { "destroyed" } else { "destroying" }
}

/// State and reason as people see them.
fn standing(row: &CollectionRow, gone: Option<&Disposed>) -> (String, String) {
    let reason = row.reason.clone().unwrap_or_default();
    match gone {
        Some(gone) => {
            let who =
                format!("asked for by {}, approved by {}", escape_bounded(&gone.requested_by, 200), escape_bounded(&gone.approved_by, 200));
            let said =
                gone.destroyed.map_or_else(|| format!("its destruction goes on, {who}"), |(at, _)| format!("destroyed at {at}, {who}"));
            let before = if reason.is_empty() { row.state.as_str().to_owned() } else { format!("{}: {reason}", row.state.as_str()) };
            (disposed_text(gone).to_owned(), format!("{said}; before that it was {before}"))
        }
        // Nothing ran, so nothing is running: what is decided, and not written yet.
        None if row.ends_unbegun() => {
            let ending = row.ending.as_ref();
            let outcome = ending.map_or("closed", |e| e.outcome.as_str());
            let why = ending.and_then(|e| e.reason.clone()).unwrap_or_default();
            let writing = if reason.starts_with(seal::CANNOT) { reason } else { "its seal is being written".to_owned() };
            ("ending".to_owned(), format!("{outcome}, and {writing}: {why}"))
        }
        None => (shown_text(row.state.as_str()), reason),
    }
}

/// Who decided that a collection is destroyed, and the records that say so.
fn disposed(Gone { disposed: gone, certificate_n }: Gone) -> wire::Disposed {
    let certificate = gone.destroyed.map(|(_, certificate)| certificate);
    wire::Disposed {
        destroyed_at_ns: ns(gone.destroyed.map(|(at, _)| at)),
        requested_by: gone.requested_by,
        approved_by: gone.approved_by,
        disposal_sha256: gone.disposal.as_bytes().to_vec(),
        approval_sha256: gone.approval.as_bytes().to_vec(),
        certificate_sha256: certificate.map(|c| c.as_bytes().to_vec()).unwrap_or_default(),
        certificate_n: certificate_n.unwrap_or_default(),
        outcome: gone.outcome.map(|outcome| outcome.as_str().to_owned()).unwrap_or_default(),
    }
}

/// An agent, with who is connected.
pub(super) fn agent(row: AgentRow, online: &HashSet<AgentId>) -> wire::Agent {
    let state = match (&row.revoked, online.contains(&row.agent)) {
        (Some(_), _) => "revoked",
        (None, true) => "online",
        (None, false) => "offline",
    };
    wire::Agent {
        agent: row.agent.to_string(),
        hostname: row.seen.hostname,
        labels: row.labels.into_iter().collect(),
        state: state.to_owned(),
        last_seen_ns: ns(row.seen.at),
        version: row.seen.version,
        kernel: row.seen.kernel,
        os: row.seen.os,
        clock_offset_ns: row.seen.clock_offset_ns,
        enrolled_at_ns: row.enrolled_at.unix_ns(),
        captures: row.seen.captures,
        alarm: row.alarm.unwrap_or_default(),
    }
}

/// Collections with what is known of them besides their rows.
pub(super) async fn collections(parts: &Parts, rows: Vec<CollectionRow>) -> Result<Vec<wire::Collection>> {
    let mut hostnames: HashMap<AgentId, String> = HashMap::new();
    let mut busy: HashMap<AgentId, Option<CollectionId>> = HashMap::new();
    let mut briefs: HashMap<CaseId, Option<Arc<Brief>>> = HashMap::new();
    let mut unapprovable: HashMap<OrderId, Option<String>> = HashMap::new();
    let mut out = Vec::with_capacity(rows.len());
    for row in rows {
        if !hostnames.contains_key(&row.agent) {
            let hostname = parts.catalog.agent(row.agent.clone()).await?.map(|a| a.seen.hostname).unwrap_or_default();
            hostnames.insert(row.agent.clone(), hostname);
        }
        let hostname = hostnames.get(&row.agent).cloned().unwrap_or_default();
        let mut reason = row.reason.clone();
        if row.state == State::Offered {
            if !busy.contains_key(&row.agent) {
                busy.insert(row.agent.clone(), running_on(parts, &row.agent).await?);
            }
            // What it began since the row was read is not what it waits for.
            if let Some(other) = busy.get(&row.agent).and_then(Option::as_ref).filter(|other| **other != row.collection) {
                reason = Some(format!("the agent is busy with {other}; it begins this one afterwards"));
            }
        }
        if row.state == State::Unapproved {
            if !unapprovable.contains_key(&row.order) {
                unapprovable.insert(row.order.clone(), custody::unapprovable(parts, &row.order).await?);
            }
            reason = unapprovable.get(&row.order).cloned().flatten().or(reason);
        }
        let live = parts.progress.live(&row.collection).unwrap_or_default();
        let hindered = live.hindrance().map(|why| format!("the agent says: {why}"));
        // What it says is an answer.
        if hindered.is_some() {
            reason = reason.map(|reason| reason.strip_suffix(", no answer yet").unwrap_or(&reason).to_owned());
        }
        for more in [hindered, parts.progress.paused(&row.collection)].into_iter().flatten() {
            reason = Some(reason.map_or_else(|| more.clone(), |reason| format!("{reason}; {more}")));
        }
        if row.state.is_closed() && !briefs.contains_key(&row.case) {
            briefs.insert(row.case.clone(), brief(parts, &row.case).await?);
        }
        let gone = briefs.get(&row.case).and_then(Option::as_ref).and_then(|brief| brief.disposed.get(&row.collection)).cloned();
        out.push(collection(parts, CollectionRow { reason, ..row }, hostname, gone).await?);
    }
    Ok(out)
}

/// The collection that an agent works on. It takes one at a time.
async fn running_on(parts: &Parts, agent: &AgentId) -> Result<Option<CollectionId>> {
    let open = CollectionFilter { agent: Some(agent.clone()), open: true, ..CollectionFilter::default() };
    let rows = admit::select(parts, open).await?;
    Ok(rows.into_iter().find(|row| row.state == State::Running).map(|row| row.collection))
}

/// `gone` is what the case's log says of one that is not kept.
async fn collection(parts: &Parts, row: CollectionRow, hostname: String, gone: Option<Gone>) -> Result<wire::Collection> {
    let live = parts.progress.live(&row.collection).unwrap_or_default();
    let mut totals = row.totals.clone();
    if matches!(row.state, State::Running | State::Sealing) {
        for stream in parts.catalog.streams(row.collection.clone()).await? {
            totals.stored_bytes = totals.stored_bytes.saturating_add(stream.totals.stored_bytes);
        }
        totals.items = live.items;
        totals.raw_bytes = live.raw_bytes;
    }
    let store_cost = cost(parts, &row).await?;
    let (state, reason) = standing(&row, gone.as_ref().map(|gone| &gone.disposed));
    let streams = if row.started_at.is_some() { row.stream.0 } else { 0 };
    Ok(wire::Collection {
        collection: row.collection.to_string(),
        order: row.order.to_string(),
        case_id: row.case.to_string(),
        agent: row.agent.to_string(),
        hostname,
        state,
        reason,
        profile: row.profile.unwrap_or_default(),
        queued_at_ns: row.queued_at.unix_ns(),
        started_at_ns: ns(row.started_at),
        ended_at_ns: ns(row.ended_at),
        capture: live.capture,
        items: totals.items,
        raw_bytes: totals.raw_bytes,
        stored_bytes: totals.stored_bytes,
        expected_raw_bytes: live.expected_raw_bytes,
        by_status: totals.by_status.iter().map(|(status, n)| (status.as_str().to_owned(), *n)).collect(),
        streams,
        exhibit_first: row.exhibit_first,
        exhibit_count: row.exhibit_count,
        seal: row.seal.unwrap_or_default(),
        current: live.current,
        store_cost,
        disposed: gone.map(disposed),
    })
}

/// What a closed collection costs in a store that somebody bills.
async fn cost(parts: &Parts, row: &CollectionRow) -> Result<Option<wire::StoreCost>> {
    let Some(prices) = parts.prices.as_ref().filter(|_| row.state.is_closed() && row.started_at.is_some()) else { return Ok(None) };
    let cost = crate::cost::of(&parts.catalog.streams(row.collection.clone()).await?, prices);
    Ok(Some(wire::StoreCost {
        puts: cost.puts,
        lists: cost.lists,
        reads: cost.reads,
        bytes: cost.bytes,
        requests_nanos: cost.requests_nanos,
        month_nanos: cost.month_nanos,
        currency: prices.currency.clone(),
    }))
}

/// What is said to whoever watches when the coordinator stops. With it the connection is free: an open call would hold the stop up.
const WATCH_ELSEWHERE: &str = "the coordinator is stopping: watching goes on at another one, or here when it is back";

/// Sends every collection once, then each that changed, until all are closed, nobody listens or the coordinator stops.
///
/// # Errors
/// [`Kind::Busy`] when it stops, and as the catalog fails.
pub(super) async fn watch(parts: Arc<Parts>, filter: CollectionFilter, out: mpsc::Sender<wire::Collection>) -> Result<()> {
    let mut ending = parts.progress.ending();
    tokio::select! {
        watched = watch_all(Arc::clone(&parts), filter, out) => watched,
        _ = ending.wait_for(|ending| *ending) => Err(Problem::new(Kind::Busy, WATCH_ELSEWHERE)),
    }
}

async fn watch_all(parts: Arc<Parts>, filter: CollectionFilter, out: mpsc::Sender<wire::Collection>) -> Result<()> {
    let mut bell = parts.progress.listen();
    let rows = admit::select(&parts, filter.clone()).await?;
    if let Some(missing) = filter.only.iter().find(|id| rows.iter().all(|row| row.collection != **id)) {
        return Err(Problem::new(Kind::NotFound, format!("collections: there is no collection {missing}")));
    }
    // What was sent last of each: an unchanged one is not sent again.
    let mut open: HashMap<CollectionId, Option<wire::Collection>> = rows.iter().map(|row| (row.collection.clone(), None)).collect();
    let mut changed: HashSet<CollectionId> = open.keys().cloned().collect();
    loop {
        for id in changed.drain() {
            let Some(row) = parts.catalog.collection(id.clone()).await? else { continue };
            let closed = row.state.is_closed();
            let Some(now) = collections(&parts, vec![row]).await?.pop() else { continue };
            if open.get(&id).is_some_and(|sent| sent.as_ref() != Some(&now)) {
                if out.send(now.clone()).await.is_err() {
                    return Ok(());
                }
                if closed {
                    open.remove(&id);
                } else {
                    open.insert(id, Some(now));
                }
            }
        }
        if open.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(SHOW_EVERY).await;
        collect_changes(&mut bell, &open, &mut changed).await;
        if out.is_closed() {
            return Ok(());
        }
    }
}

/// Waits for the bell, then takes all that rang.
async fn collect_changes(
    bell: &mut tokio::sync::broadcast::Receiver<CollectionId>,
    open: &HashMap<CollectionId, Option<wire::Collection>>,
    changed: &mut HashSet<CollectionId>,
) {
    let everything = |changed: &mut HashSet<CollectionId>| changed.extend(open.keys().cloned());
    match tokio::time::timeout(LOOK_EVERY, bell.recv()).await {
        Ok(Ok(id)) => {
            changed.extend(open.contains_key(&id).then_some(id));
        }
        // Silence, or too much to keep: look at everything once.
        Ok(Err(RecvError::Lagged(_))) | Err(_) => everything(changed),
        Ok(Err(RecvError::Closed)) => {}
    }
    while let Ok(id) = bell.try_recv() {
        changed.extend(open.contains_key(&id).then_some(id));
    }
}

/// The beginning of an encrypted segment.
pub(super) fn segment(begins: Begins) -> wire::EncryptedSegment {
    let Begins { facts, encrypted_to, follows } = begins;
    wire::EncryptedSegment {
        n: facts.n,
        size: if follows { facts.size } else { 0 },
        raw_offset: facts.raw_offset,
        raw_size: facts.raw_size,
        encrypted_to: encrypted_to.as_slice().iter().map(ToString::to_string).collect(),
    }
}
