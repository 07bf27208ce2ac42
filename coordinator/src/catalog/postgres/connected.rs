//! Which agents are connected where. The table is lost with the server's memory; then each coordinator enters its agents again.

use std::time::Duration;

use exhibit_evidence::id::AgentId;
use sqlx::postgres::PgPool;
use sqlx::{PgConnection, Row as _};

use super::error::map;
use super::peers::{LIFE_SPACE, alive, seconds};
use crate::catalog::CatalogError;

/// After what was lost with the server's memory: time for all coordinators to come back. Each tries again about every second.
const COME_BACK: Duration = Duration::from_secs(5);

/// Enters a session that begins. True when both processes live.
pub async fn enter(c: &mut PgConnection, me: i32, agent: &AgentId, instance: &[u8; 16], window: Duration) -> Result<bool, CatalogError> {
    let agent = agent.to_string();
    let made = sqlx::query("INSERT INTO sessions (agent, replica, instance) VALUES ($1, $2, $3) ON CONFLICT (agent) DO NOTHING");
    let made = made.bind(&agent).bind(me).bind(&instance[..]).execute(&mut *c).await.map_err(map)?;
    if made.rows_affected() == 1 {
        return Ok(false);
    }
    let there = sqlx::query(
        "SELECT instance, before, coalesce(replaced_at > clock_timestamp() - make_interval(secs => $2), false) AS lately
         FROM sessions WHERE agent = $1 FOR UPDATE",
    );
    let there = there.bind(&agent).bind(seconds(window)).fetch_one(&mut *c).await.map_err(map)?;
    let last: Vec<u8> = there.try_get("instance").map_err(map)?;
    if last == instance {
        let same = sqlx::query("UPDATE sessions SET replica = $2 WHERE agent = $1").bind(&agent).bind(me);
        same.execute(&mut *c).await.map_err(map)?;
        return Ok(false);
    }
    let before: Option<Vec<u8>> = there.try_get("before").map_err(map)?;
    let lately: bool = there.try_get("lately").map_err(map)?;
    let changed = sqlx::query(
        "UPDATE sessions SET replica = $2, instance = $3, before = $4, replaced_at = clock_timestamp(), began = clock_timestamp() WHERE agent = $1",
    );
    changed.bind(&agent).bind(me).bind(&instance[..]).bind(&last).execute(&mut *c).await.map_err(map)?;
    Ok(lately && before.as_deref() == Some(&instance[..]))
}

/// Puts these agents where they are, in one statement and in one order: two coordinators that do so at once do not wait for
/// each other crosswise. `$1` the space of lives, `$2` this coordinator.
const ENTER_AGAIN: &str = concat!(
    "INSERT INTO sessions AS s (agent, replica, instance, began)
     SELECT mine.agent, $2, mine.instance, clock_timestamp() - make_interval(secs => mine.age)
     FROM unnest($3::text[], $4::bytea[], $5::float8[]) AS mine (agent, instance, age) ORDER BY mine.agent COLLATE \"C\"
     ON CONFLICT (agent) DO UPDATE SET replica = excluded.replica, instance = excluded.instance,
       before = CASE WHEN s.instance = excluded.instance THEN s.before ELSE s.instance END,
       replaced_at = CASE WHEN s.instance = excluded.instance THEN s.replaced_at ELSE clock_timestamp() END,
       began = CASE WHEN s.instance = excluded.instance THEN least(s.began, excluded.began) ELSE excluded.began END
     WHERE s.replica IS NULL OR s.replica = $2 OR NOT ",
    alive!("s.replica")
);

/// True when this coordinator is seen and heard, all that live have entered their agents, and nothing was lost just now.
const IS_SETTLED: &str = concat!(
    "SELECT coalesce((SELECT at < clock_timestamp() - make_interval(secs => $2) FROM entered WHERE replica = 0), false)
     AND NOT EXISTS (SELECT 1 FROM pg_locks k JOIN pg_database d ON d.oid = k.database
       WHERE d.datname = current_database() AND k.locktype = 'advisory' AND k.objsubid = 2 AND k.granted
         AND k.classid::bigint = $1 AND NOT EXISTS (SELECT 1 FROM entered e WHERE e.replica = k.objid::bigint))
     AND ",
    alive!("$3")
);

pub async fn enter_again(pool: &PgPool, me: i32, agents: Vec<(AgentId, [u8; 16], Duration)>) -> Result<(), CatalogError> {
    let names: Vec<String> = agents.iter().map(|(agent, ..)| agent.to_string()).collect();
    let instances: Vec<Vec<u8>> = agents.iter().map(|(_, instance, _)| instance.to_vec()).collect();
    let ages: Vec<f64> = agents.iter().map(|(.., since)| seconds(*since)).collect();
    let again = sqlx::query(ENTER_AGAIN).bind(i64::from(LIFE_SPACE)).bind(me).bind(names).bind(instances).bind(ages);
    again.execute(pool).await.map_err(map)?;
    Ok(())
}

pub async fn entered(pool: &PgPool, me: i32) -> Result<(), CatalogError> {
    let said = sqlx::query("INSERT INTO entered (replica) VALUES ($1) ON CONFLICT (replica) DO NOTHING").bind(me);
    said.execute(pool).await.map_err(map)?;
    // Those of coordinators that are gone for long say nothing to anybody.
    let gone = sqlx::query(concat!(
        "DELETE FROM entered WHERE replica <> 0 AND replica <> $2 AND at < clock_timestamp() - interval '1 hour' AND NOT ",
        alive!("replica")
    ));
    gone.bind(i64::from(LIFE_SPACE)).bind(me).execute(pool).await.map_err(map)?;
    Ok(())
}

pub async fn win(pool: &PgPool, me: i32, agent: AgentId, instance: [u8; 16], since: Duration) -> Result<bool, CatalogError> {
    let won = sqlx::query(
        "UPDATE sessions SET replica = $2, instance = $3, before = instance, replaced_at = clock_timestamp(),
           began = clock_timestamp() - make_interval(secs => $4)
         WHERE agent = $1 AND instance <> $3 AND began > clock_timestamp() - make_interval(secs => $4)",
    );
    let won = won.bind(agent.to_string()).bind(me).bind(&instance[..]).bind(seconds(since));
    Ok(won.execute(pool).await.map_err(map)?.rows_affected() == 1)
}

pub async fn is_settled(pool: &PgPool, me: i32) -> Result<bool, CatalogError> {
    let settled = sqlx::query_scalar::<_, bool>(IS_SETTLED).bind(i64::from(LIFE_SPACE)).bind(seconds(COME_BACK)).bind(i64::from(me));
    settled.fetch_one(pool).await.map_err(map)
}
