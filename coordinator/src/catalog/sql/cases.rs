//! Cases, orders, collections.

use std::collections::BTreeMap;

use exhibit_evidence::id::{CaseId, CollectionId, OrderId};
use exhibit_evidence::{Digest, Timestamp};

use super::{Connection, Query, QueryBuilder, blob, decode, dialect, int, json, map, page, same};
use crate::catalog::{CaseRow, CatalogError, CollectionChange, CollectionFilter, CollectionRow, OrderRow, State};

type Result<T> = std::result::Result<T, CatalogError>;

/// The open states, word for word as the index of open collections has them.
const IS_OPEN: &str = "state IN ('unapproved', 'queued', 'offered', 'running', 'sealing')";

pub async fn add(c: &mut Connection, case: CaseRow) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO cases (case_id, title, legal_basis, accountable, opened_by, opened_at, case_opened, case_closed)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
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

pub async fn one(c: &mut Connection, case: CaseId) -> Result<Option<CaseRow>> {
    let row = sqlx::query("SELECT * FROM cases WHERE case_id = $1").bind(case.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::case).transpose()
}

pub async fn some(c: &mut Connection, after: Option<CaseId>, limit: u32) -> Result<Vec<CaseRow>> {
    let mut query = QueryBuilder::new("SELECT * FROM cases WHERE TRUE");
    if let Some(after) = after {
        query.push(" AND case_id < ").push_bind(after.as_str().to_owned());
    }
    let rows = query.push(" ORDER BY case_id DESC LIMIT ").push_bind(page(limit)).build().fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::case).collect()
}

pub async fn close(c: &mut Connection, case: CaseId, case_closed: Digest) -> Result<bool> {
    sqlx::query("UPDATE cases SET case_closed = $2 WHERE case_id = $1 AND case_closed IS NULL")
        .bind(case.as_str())
        .bind(blob(case_closed))
        .execute(&mut *c)
        .await
        .map_err(map)?;
    Ok(one(c, case).await?.is_some())
}

pub async fn counts(c: &mut Connection, case: CaseId) -> Result<(BTreeMap<String, u64>, u64)> {
    let rows = sqlx::query(
        "SELECT state, count(*) AS n, CAST(sum(exhibit_count) AS BIGINT) AS exhibits FROM collections WHERE case_id = $1 GROUP BY state",
    )
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

pub async fn add_order(c: &mut Connection, order_row: OrderRow, collections: Vec<CollectionRow>) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO orders (order_id, digest, envelope, case_id, issued_by, profile, expires_at, admitted_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING",
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
        changing(INSERT, &row)?
            .bind(row.order.as_str())
            .bind(blob(row.order_digest))
            .bind(row.case.as_str())
            .bind(row.agent.as_str())
            .bind(&row.profile)
            .execute(&mut *c)
            .await
            .map_err(map)?;
    }
    Ok(())
}

pub async fn order(c: &mut Connection, order: OrderId) -> Result<Option<OrderRow>> {
    let row = sqlx::query("SELECT * FROM orders WHERE order_id = $1").bind(order.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::order).transpose()
}

pub async fn collection(c: &mut Connection, collection: CollectionId) -> Result<Option<CollectionRow>> {
    let row =
        sqlx::query("SELECT * FROM collections WHERE collection = $1").bind(collection.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::collection).transpose()
}

pub async fn collections(
    c: &mut Connection,
    filter: CollectionFilter,
    after: Option<CollectionId>,
    limit: u32,
) -> Result<Vec<CollectionRow>> {
    // Those of an agent, of an order and by id are fewer still.
    let by_open = filter.open && filter.agent.is_none() && filter.order.is_none() && filter.only.is_empty();
    let mut query = QueryBuilder::new(format!("SELECT * FROM collections{} WHERE TRUE", if by_open { dialect::BY_OPEN } else { "" }));
    if let Some(case) = filter.case {
        query.push(" AND case_id = ").push_bind(case.as_str().to_owned());
    }
    if let Some(order) = filter.order {
        query.push(" AND order_id = ").push_bind(order.as_str().to_owned());
    }
    if let Some(agent) = filter.agent {
        query.push(" AND agent = ").push_bind(agent.as_str().to_owned());
    }
    if !filter.only.is_empty() {
        query.push(dialect::ONLY_COLLECTIONS.0).push_bind(json(&filter.only)?).push(dialect::ONLY_COLLECTIONS.1);
    }
    if filter.open {
        query.push(" AND ").push(IS_OPEN);
    }
    if let Some(after) = after {
        // When it was queued never changes: asked for beforehand, the comparison is one with constants, which an index answers.
        let row = sqlx::query("SELECT queued_at FROM collections WHERE collection = $1").bind(after.as_str()).fetch_optional(&mut *c).await;
        let Some(row) = row.map_err(map)? else { return Ok(Vec::new()) };
        query.push(" AND (queued_at, collection) < (").push_bind(decode::time(&row, "queued_at")?.unix_ns());
        query.push(", ").push_bind(after.as_str().to_owned()).push(")");
    }
    query.push(" ORDER BY queued_at DESC, collection DESC LIMIT ").push_bind(page(limit));
    let rows = query.build().fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn due(c: &mut Connection, now: Timestamp, limit: u32) -> Result<Vec<CollectionRow>> {
    let mut query = QueryBuilder::new(format!("SELECT * FROM collections{} WHERE {IS_OPEN}", dialect::BY_OPEN));
    query.push(" AND ((state IN ('unapproved', 'queued', 'offered') AND expires_at <= ").push_bind(now.unix_ns());
    query.push(") OR (state = 'running' AND give_up_at <= ").push_bind(now.unix_ns());
    let rows = query.push(")) ORDER BY queued_at, collection LIMIT ").push_bind(page(limit)).build().fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn sealing(c: &mut Connection, after: Option<CollectionId>, limit: u32) -> Result<Vec<CollectionRow>> {
    let mut query = QueryBuilder::new(format!("SELECT * FROM collections{} WHERE {IS_OPEN}", dialect::BY_OPEN));
    query.push(" AND state = 'sealing'");
    if let Some(after) = after {
        let row = sqlx::query("SELECT queued_at FROM collections WHERE collection = $1").bind(after.as_str()).fetch_optional(&mut *c).await;
        let Some(row) = row.map_err(map)? else { return Ok(Vec::new()) };
        query.push(" AND (queued_at, collection) > (").push_bind(decode::time(&row, "queued_at")?.unix_ns());
        query.push(", ").push_bind(after.as_str().to_owned()).push(")");
    }
    query.push(" ORDER BY queued_at, collection LIMIT ").push_bind(page(limit));
    let rows = query.build().fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::collection).collect()
}

pub async fn change(c: &mut Connection, id: CollectionId, from: Vec<State>, change: CollectionChange) -> Result<Option<CollectionRow>> {
    let there = sqlx::query(dialect::for_update!("SELECT * FROM collections WHERE collection = $1"))
        .bind(id.as_str())
        .fetch_optional(&mut *c)
        .await
        .map_err(map)?;
    let there = there.as_ref().map(decode::collection).transpose()?;
    let Some(mut row) = there.filter(|row| from.contains(&row.state)) else { return Ok(None) };
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
    changing(UPDATE, &row)?.execute(c).await.map_err(map)?;
    Ok(Some(row))
}

/// What may change comes first, so that both statements count alike; the last five are what a collection is.
const INSERT: &str = "INSERT INTO collections (collection, state, reason, ending_outcome, ending_reason, ending_refusal, cancel, stream,
   queued_at, started_at, ended_at, expires_at, give_up_at, items, raw_bytes, stored_bytes, by_status, exhibit_first, exhibit_count, seal,
   order_id, order_digest, case_id, agent, profile)
 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25)";
const UPDATE: &str = "UPDATE collections SET state = $2, reason = $3, ending_outcome = $4, ending_reason = $5, ending_refusal = $6,
   cancel = $7, stream = $8, queued_at = $9, started_at = $10, ended_at = $11, expires_at = $12, give_up_at = $13, items = $14,
   raw_bytes = $15, stored_bytes = $16, by_status = $17, exhibit_first = $18, exhibit_count = $19, seal = $20 WHERE collection = $1";

/// Either statement with its first twenty values.
fn changing<'q>(sql: &'static str, row: &'q CollectionRow) -> Result<Query<'q>> {
    let ending = row.ending.as_ref();
    Ok(sqlx::query(sql)
        .bind(row.collection.as_str())
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
        .bind(row.seal.as_deref()))
}
