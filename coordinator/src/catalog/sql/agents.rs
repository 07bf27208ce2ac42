//! Tokens and agents.

use exhibit_evidence::id::AgentId;
use exhibit_evidence::{Digest, Timestamp};

use super::{Connection, QueryBuilder, blob, decode, dialect, json, map, page, same};
use crate::catalog::{AgentRow, CatalogError, Labels, Seen, TokenRow, TokenUse};

type Result<T> = std::result::Result<T, CatalogError>;

pub async fn add_token(c: &mut Connection, token: TokenRow) -> Result<()> {
    let inserted = sqlx::query(
        "INSERT INTO tokens (sha256, labels, uses, uses_left, expires_at, created_by, created_at)
         VALUES ($1, $2, $3, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
    )
    .bind(blob(token.sha256))
    .bind(json(&token.labels)?)
    .bind(i64::from(token.uses_left))
    .bind(token.expires_at.unix_ns())
    .bind(&token.created_by)
    .bind(token.created_at.unix_ns())
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if inserted.rows_affected() == 1 {
        return Ok(());
    }
    let row = sqlx::query("SELECT * FROM tokens WHERE sha256 = $1").bind(blob(token.sha256)).fetch_one(c).await.map_err(map)?;
    // Compared as it was made: uses since then do not make it another token.
    let there = decode::token(&row)?;
    same(&there, &token, "token")
}

pub async fn use_token(c: &mut Connection, token: Digest, keys: Digest, proposed: AgentId, now: Timestamp) -> Result<TokenUse> {
    // Locked first: two agents at once see each other's uses one after the other.
    let found = sqlx::query(dialect::for_update!("SELECT * FROM tokens WHERE sha256 = $1"))
        .bind(blob(token))
        .fetch_optional(&mut *c)
        .await
        .map_err(map)?;
    let Some(row) = found else { return Ok(TokenUse::Unknown) };
    let expires_at = decode::time(&row, "expires_at")?;
    if expires_at <= now {
        return Ok(TokenUse::Expired(expires_at));
    }
    let labels: Labels = decode::json(&row, "labels")?;
    let before = sqlx::query("SELECT agent FROM token_uses WHERE token = $1 AND keys = $2")
        .bind(blob(token))
        .bind(blob(keys))
        .fetch_optional(&mut *c)
        .await
        .map_err(map)?;
    if let Some(row) = before {
        return Ok(TokenUse::Repeated { agent: decode::parsed(&row, "agent")?, labels });
    }
    let taken = sqlx::query("UPDATE tokens SET uses_left = uses_left - 1 WHERE sha256 = $1 AND uses_left > 0")
        .bind(blob(token))
        .execute(&mut *c)
        .await
        .map_err(map)?;
    if taken.rows_affected() == 0 {
        return Ok(TokenUse::UsedUp);
    }
    sqlx::query("INSERT INTO token_uses (token, keys, agent) VALUES ($1, $2, $3)")
        .bind(blob(token))
        .bind(blob(keys))
        .bind(proposed.as_str())
        .execute(c)
        .await
        .map_err(map)?;
    Ok(TokenUse::Taken { labels })
}

pub async fn add(c: &mut Connection, agent: AgentRow) -> Result<()> {
    let (revoked_at, revoked_reason) = agent.revoked.clone().map(|(at, why)| (at.unix_ns(), why)).unzip();
    let inserted = sqlx::query(
        "INSERT INTO agents (agent, key, enrolment, enrolled_at, labels, revoked_at, revoked_reason, alarm, seen_at, hostname, version,
           kernel, os, boot_id, build, clock_offset_ns, captures)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17) ON CONFLICT DO NOTHING",
    )
    .bind(agent.agent.as_str())
    .bind(blob(agent.key))
    .bind(blob(agent.enrolment))
    .bind(agent.enrolled_at.unix_ns())
    .bind(json(&agent.labels)?)
    .bind(revoked_at)
    .bind(revoked_reason)
    .bind(&agent.alarm)
    .bind(agent.seen.at.map(Timestamp::unix_ns))
    .bind(&agent.seen.hostname)
    .bind(&agent.seen.version)
    .bind(&agent.seen.kernel)
    .bind(&agent.seen.os)
    .bind(&agent.seen.boot_id)
    .bind(agent.seen.build.map(blob))
    .bind(agent.seen.clock_offset_ns)
    .bind(json(&agent.seen.captures)?)
    .execute(&mut *c)
    .await
    .map_err(map)?;
    if inserted.rows_affected() == 1 {
        return Ok(());
    }
    let there = one(c, agent.agent.clone()).await?;
    let there = there.map(|a| (a.agent, a.key, a.enrolment));
    same(&there, &Some((agent.agent, agent.key, agent.enrolment)), "agent")
}

pub async fn one(c: &mut Connection, agent: AgentId) -> Result<Option<AgentRow>> {
    let row = sqlx::query("SELECT * FROM agents WHERE agent = $1").bind(agent.as_str()).fetch_optional(c).await.map_err(map)?;
    row.as_ref().map(decode::agent).transpose()
}

pub async fn some(c: &mut Connection, labels: Labels, after: Option<AgentId>, limit: u32) -> Result<Vec<AgentRow>> {
    let mut query = QueryBuilder::new("SELECT * FROM agents a WHERE TRUE");
    if let Some(after) = after {
        query.push(" AND agent > ").push_bind(after.as_str().to_owned());
    }
    if !labels.is_empty() {
        query.push(dialect::HAS_LABELS.0).push_bind(json(&labels)?).push(dialect::HAS_LABELS.1);
    }
    let rows = query.push(" ORDER BY agent LIMIT ").push_bind(page(limit)).build().fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::agent).collect()
}

pub async fn set_labels(c: &mut Connection, agent: AgentId, labels: Labels) -> Result<bool> {
    let done = sqlx::query("UPDATE agents SET labels = $2 WHERE agent = $1").bind(agent.as_str()).bind(json(&labels)?).execute(c).await;
    Ok(done.map_err(map)?.rows_affected() == 1)
}

pub async fn set_seen(c: &mut Connection, agent: AgentId, seen: Seen) -> Result<bool> {
    let done = sqlx::query(
        "UPDATE agents SET seen_at = $2, hostname = $3, version = $4, kernel = $5, os = $6, boot_id = $7, build = $8,
           clock_offset_ns = $9, captures = $10 WHERE agent = $1",
    )
    .bind(agent.as_str())
    .bind(seen.at.map(Timestamp::unix_ns))
    .bind(&seen.hostname)
    .bind(&seen.version)
    .bind(&seen.kernel)
    .bind(&seen.os)
    .bind(&seen.boot_id)
    .bind(seen.build.map(blob))
    .bind(seen.clock_offset_ns)
    .bind(json(&seen.captures)?)
    .execute(c)
    .await
    .map_err(map)?;
    Ok(done.rows_affected() == 1)
}

pub async fn set_alarm(c: &mut Connection, agent: AgentId, alarm: Option<String>) -> Result<bool> {
    let done = sqlx::query("UPDATE agents SET alarm = $2 WHERE agent = $1").bind(agent.as_str()).bind(alarm).execute(c).await;
    Ok(done.map_err(map)?.rows_affected() == 1)
}

pub async fn revoke(c: &mut Connection, agent: AgentId, at: Timestamp, reason: String) -> Result<bool> {
    sqlx::query("UPDATE agents SET revoked_at = $2, revoked_reason = $3 WHERE agent = $1 AND revoked_at IS NULL")
        .bind(agent.as_str())
        .bind(at.unix_ns())
        .bind(reason)
        .execute(&mut *c)
        .await
        .map_err(map)?;
    Ok(one(c, agent).await?.is_some())
}
