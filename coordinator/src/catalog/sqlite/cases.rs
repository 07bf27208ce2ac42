//! Cases, orders, collections.

use std::collections::BTreeMap;

use exhibit_evidence::id::{CaseId, CollectionId, OrderId};
use exhibit_evidence::{Digest, Timestamp};
use sqlx::SqliteConnection;

use super::super::{CaseRow, CatalogError, CollectionChange, CollectionFilter, CollectionRow, OrderRow, State};
use super::{blob, decode, int, json, map, page, same};

type Result<T> = std::result::Result<T, CatalogError>;

pub async fn add(c: &mut SqliteConnection, case: CaseRow) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO cases (case_id, title, legal_basis, accountable, opened_by, opened_at, case_opened, case_closed)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )
    .bind(case.case.as_str())
    .bind(&case.title)
    .bind(&case.legal_basis)
    .bind(&case.accountable)
    .bind(&case.opened_by)
    .bind(case.opened_at.unix_ns())
    .bind(blob(case.case_opened))
    .bind(case.case_closed.map(blob))
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if inserted.rows_affected() == 1 {
        return Ok(());
    }
    // A case that was closed meanwhile is still the same case.
    let there = one(c, case.case.clone()).await?.map(|row| CaseRow { case_closed: case.case_closed, ..row });
    same(&there, &Some(case), "case")
}

pub async fn one(c: &mut SqliteConnection, case: CaseId) -> Result<Option<CaseRow>> {
    let row = sqlx::query("SELECT * FROM cases WHERE case_id = ?1").bind(case.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::case).transpose()
}

pub async fn some(c: &mut SqliteConnection, after: Option<CaseId>, limit: u32) -> Result<Vec<CaseRow>> {
    let rows = sqlx::query("SELECT * FROM cases WHERE (?1 IS NULL OR case_id < ?1) ORDER BY case_id DESC LIMIT ?2")
        .bind(after.map(|a| a.as_str().to_owned()))
        .bind(page(limit))
        .fetch_all(c)
        .await
        .map_err(map)?;
    rows.iter().map(decode::case).collect()
}

pub async fn close(c: &mut SqliteConnection, case: CaseId, case_closed: Digest) -> Result<bool> {
    sqlx::query("UPDATE cases SET case_closed = ?2 WHERE case_id = ?1 AND case_closed IS NULL")
        .bind(case.as_str())
        .bind(blob(case_closed))
        .execute(&mut *c)
        .await
        .map_err(map)?;
    Ok(one(c, case).await?.is_some())
}

pub async fn counts(c: &mut SqliteConnection, case: CaseId) -> Result<(BTreeMap<String, u64>, u64)> {
    let rows =
        sqlx::query("SELECT state, count(*) AS n, sum(exhibit_count) AS exhibits FROM collections WHERE case_id = ?1 GROUP BY state")
            .bind(case.as_str())
            .fetch_all(c)
            .await
            .map_err(map)?;
    let (mut by_state, mut exhibits) = (BTreeMap::new(), 0_u64);
    for row in &rows {
        by_state.insert(decode::get(row, "state")?, decode::number(row, "n")?);
        exhibits = exhibits.saturating_add(decode::number(row, "exhibits")?);
    }
    Ok((by_state, exhibits))
}

pub async fn add_order(c: &mut SqliteConnection, order_row: OrderRow, collections: Vec<CollectionRow>) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO orders (order_id, digest, envelope, case_id, issued_by, profile, expires_at, admitted_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING",
    )
    .bind(order_row.order.as_str())
    .bind(blob(order_row.digest))
    .bind(&order_row.envelope)
    .bind(order_row.case.as_str())
    .bind(&order_row.issued_by)
    .bind(&order_row.profile)
    .bind(order_row.expires_at.unix_ns())
    .bind(order_row.admitted_at.unix_ns())
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if inserted.rows_affected() == 0 {
        // The moment of admission is the first call's; the collections have moved on since then.
        let there = order(c, order_row.order.clone()).await?.map(|row| OrderRow { admitted_at: order_row.admitted_at, ..row });
        return same(&there, &Some(order_row), "order");
    }
    for row in collections {
        write(c, &row, true).await?;
    }
    Ok(())
}

pub async fn order(c: &mut SqliteConnection, order: OrderId) -> Result<Option<OrderRow>> {
    let row = sqlx::query("SELECT * FROM orders WHERE order_id = ?1").bind(order.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::order).transpose()
}

pub async fn collection(c: &mut SqliteConnection, collection: CollectionId) -> Result<Option<CollectionRow>> {
    let row =
        sqlx::query("SELECT * FROM collections WHERE collection = ?1").bind(collection.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::collection).transpose()
}

pub async fn collections(
    c: &mut SqliteConnection,
    filter: CollectionFilter,
    after: Option<CollectionId>,
    limit: u32,
) -> Result<Vec<CollectionRow>> {
    let only = if filter.only.is_empty() { None } else { Some(json(&filter.only)?) };
    let rows = sqlx::query(
        "SELECT * FROM collections WHERE (?1 IS NULL OR case_id = ?1) AND (?2 IS NULL OR order_id = ?2) AND (?3 IS NULL OR agent = ?3)
           AND (?4 IS NULL OR collection IN (SELECT value FROM json_each(?4)))
           AND (NOT ?5 OR state IN ('unapproved', 'queued', 'offered', 'running', 'sealing'))
           AND (?6 IS NULL OR (queued_at, collection) < (SELECT queued_at, collection FROM collections WHERE collection = ?6))
         ORDER BY queued_at DESC, collection DESC LIMIT ?7",
    )
    .bind(filter.case.map(|v| v.as_str().to_owned()))
    .bind(filter.order.map(|v| v.as_str().to_owned()))
    .bind(filter.agent.map(|v| v.as_str().to_owned()))
    .bind(only)
    .bind(filter.open)
    .bind(after.map(|v| v.as_str().to_owned()))
    .bind(page(limit))
    .fetch_all(c)
    .await
    .map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn due(c: &mut SqliteConnection, now: Timestamp, limit: u32) -> Result<Vec<CollectionRow>> {
    let rows = sqlx::query(
        "SELECT * FROM collections WHERE (state IN ('unapproved', 'queued', 'offered') AND expires_at <= ?1)
            OR (state = 'running' AND give_up_at <= ?1)
         ORDER BY queued_at, collection LIMIT ?2",
    )
    .bind(now.unix_ns())
    .bind(page(limit))
    .fetch_all(c)
    .await
    .map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn sealing(c: &mut SqliteConnection, limit: u32) -> Result<Vec<CollectionRow>> {
    let rows = sqlx::query("SELECT * FROM collections WHERE state = 'sealing' ORDER BY queued_at, collection LIMIT ?1")
        .bind(page(limit))
        .fetch_all(c)
        .await
        .map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn change(
    c: &mut SqliteConnection,
    id: CollectionId,
    from: Vec<State>,
    change: CollectionChange,
) -> Result<Option<CollectionRow>> {
    let Some(mut row) = collection(c, id).await?.filter(|row| from.contains(&row.state)) else { return Ok(None) };
    let CollectionChange { state, reason, ending, cancel, stream, started_at, ended_at, give_up_at, totals, exhibits, seal } = change;
    row.state = state.unwrap_or(row.state);
    row.reason = reason.unwrap_or(row.reason);
    row.ending = ending.unwrap_or(row.ending);
    row.cancel = cancel.or(row.cancel);
    row.stream = stream.unwrap_or(row.stream);
    row.started_at = started_at.or(row.started_at);
    row.ended_at = ended_at.or(row.ended_at);
    row.give_up_at = give_up_at.or(row.give_up_at);
    row.totals = totals.unwrap_or(row.totals);
    (row.exhibit_first, row.exhibit_count) = exhibits.unwrap_or((row.exhibit_first, row.exhibit_count));
    row.seal = seal.or(row.seal);
    write(c, &row, false).await?;
    Ok(Some(row))
}

const INSERT: &str = "INSERT INTO collections (collection, order_id, order_digest, case_id, agent, profile, state, reason, ending_outcome,
   ending_reason, ending_refusal, cancel, stream, queued_at, started_at, ended_at, expires_at, give_up_at, items, raw_bytes, stored_bytes,
   by_status, exhibit_first, exhibit_count, seal)
 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24, ?25)";
/// The columns up to `profile` are what a collection is and never change; SQLite ignores their binds ?2..?6.
const UPDATE: &str =
    "UPDATE collections SET state = ?7, reason = ?8, ending_outcome = ?9, ending_reason = ?10, ending_refusal = ?11, cancel = ?12,
   stream = ?13, queued_at = ?14, started_at = ?15, ended_at = ?16, expires_at = ?17, give_up_at = ?18, items = ?19, raw_bytes = ?20,
   stored_bytes = ?21, by_status = ?22, exhibit_first = ?23, exhibit_count = ?24, seal = ?25 WHERE collection = ?1";

async fn write(c: &mut SqliteConnection, row: &CollectionRow, new: bool) -> Result<()> {
    let ending = row.ending.as_ref();
    sqlx::query(if new { INSERT } else { UPDATE })
        .bind(row.collection.as_str())
        .bind(row.order.as_str())
        .bind(blob(row.order_digest))
        .bind(row.case.as_str())
        .bind(row.agent.as_str())
        .bind(&row.profile)
        .bind(row.state.as_str())
        .bind(&row.reason)
        .bind(ending.map(|e| e.outcome.as_str()))
        .bind(ending.and_then(|e| e.reason.as_deref()))
        .bind(ending.and_then(|e| e.refusal.as_deref()))
        .bind(&row.cancel)
        .bind(i64::from(row.stream.0))
        .bind(row.queued_at.unix_ns())
        .bind(row.started_at.map(Timestamp::unix_ns))
        .bind(row.ended_at.map(Timestamp::unix_ns))
        .bind(row.expires_at.unix_ns())
        .bind(row.give_up_at.map(Timestamp::unix_ns))
        .bind(int(row.totals.items)?)
        .bind(int(row.totals.raw_bytes)?)
        .bind(int(row.totals.stored_bytes)?)
        .bind(json(&row.totals.by_status)?)
        .bind(int(row.exhibit_first)?)
        .bind(int(row.exhibit_count)?)
        .bind(row.seal.as_deref())
        .execute(c)
        .await
        .map_err(map)?;
    Ok(())
}
