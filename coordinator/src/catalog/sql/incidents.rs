//! Incidents.

use super::{Connection, Row, decode, dialect, int, map, page};
use crate::catalog::{CatalogError, IncidentRow, UnloggedIncidents};

type Result<T> = std::result::Result<T, CatalogError>;

pub async fn add(c: &mut Connection, incident: IncidentRow) -> Result<()> {
    // Rows are marked as logged up to a number: one that got a lower number must not become visible later.
    dialect::one_at_a_time(c, "incidents").await?;
    sqlx::query("INSERT INTO incidents (at, case_id, kind, subject, detail, count, logged) VALUES ($1, $2, $3, $4, $5, $6, $7)")
        .bind(incident.at.unix_ns())
        .bind(incident.case.map(|c| c.to_string()))
        .bind(&incident.kind)
        .bind(&incident.subject)
        .bind(&incident.detail)
        .bind(int(incident.count)?)
        .bind(i64::from(incident.logged))
        .execute(c)
        .await
        .map_err(map)?;
    Ok(())
}

pub async fn newest(c: &mut Connection, limit: u32) -> Result<Vec<IncidentRow>> {
    let rows = sqlx::query("SELECT * FROM incidents ORDER BY id DESC LIMIT $1").bind(page(limit)).fetch_all(c).await.map_err(map)?;
    rows.iter().map(decode::incident).collect()
}

pub async fn unlogged(c: &mut Connection, limit: u32) -> Result<Vec<UnloggedIncidents>> {
    let groups = sqlx::query(
        "SELECT n.at AS at, n.case_id AS case_id, n.kind AS kind, n.subject AS subject, n.detail AS detail, n.logged AS logged,
           g.count AS count, g.first_at AS first_at, g.up_to AS up_to
         FROM (SELECT CAST(SUM(count) AS BIGINT) AS count, MIN(at) AS first_at, MAX(id) AS up_to FROM incidents WHERE logged = 0
               GROUP BY case_id, kind, subject) g
         JOIN incidents n ON n.id = g.up_to ORDER BY g.first_at, g.up_to LIMIT $1",
    )
    .bind(page(limit))
    .fetch_all(c)
    .await
    .map_err(map)?;
    let group = |row: &Row| {
        Ok(UnloggedIncidents {
            newest: decode::incident(row)?,
            first_at: decode::time(row, "first_at")?,
            up_to: decode::number(row, "up_to")?,
        })
    };
    groups.iter().map(group).collect()
}

pub async fn details(c: &mut Connection, incidents: UnloggedIncidents, after: i64, limit: u32) -> Result<Vec<(i64, String)>> {
    let rows = sqlx::query(
        "SELECT id, detail FROM incidents WHERE logged = 0 AND case_id IS NOT DISTINCT FROM $1 AND kind = $2 AND subject = $3
           AND id <= $4 AND id > $5 ORDER BY id LIMIT $6",
    )
    .bind(incidents.newest.case.map(|c| c.to_string()))
    .bind(&incidents.newest.kind)
    .bind(&incidents.newest.subject)
    .bind(incidents.up_to)
    .bind(after)
    .bind(page(limit))
    .fetch_all(c)
    .await
    .map_err(map)?;
    rows.iter().map(|row| Ok((decode::number(row, "id")?, decode::get(row, "detail")?))).collect()
}

pub async fn logged(c: &mut Connection, incidents: UnloggedIncidents) -> Result<()> {
    sqlx::query(
        "UPDATE incidents SET logged = 1 WHERE logged = 0 AND case_id IS NOT DISTINCT FROM $1 AND kind = $2 AND subject = $3 AND id <= $4",
    )
    .bind(incidents.newest.case.map(|c| c.to_string()))
    .bind(&incidents.newest.kind)
    .bind(&incidents.newest.subject)
    .bind(incidents.up_to)
    .execute(c)
    .await
    .map_err(map)?;
    Ok(())
}
