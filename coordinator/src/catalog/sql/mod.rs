//! The catalog in SQL, written once for both databases.
//!
//! Each backend includes this folder as a module of its own and gives it, by the names that are imported below, its driver's
//! types and the few places where the databases differ (`dialect`). Statements use `$n` and what both databases understand;
//! a step that reads before it writes locks the row that it reads (`dialect::for_update!`), because several coordinators may
//! work on one PostgreSQL.

mod agents;
mod cases;
mod decode;
mod incidents;
mod logs;
mod moving;
mod streams;

use std::collections::BTreeMap;
use std::sync::Arc;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::{Digest, Timestamp};
use futures::future::BoxFuture;
use sqlx::Connection as _;

use super::{Backend, Connection, Database, Row, dialect, map};
use crate::catalog::*;

type QueryBuilder = sqlx::QueryBuilder<Database>;
type Query<'q> = sqlx::query::Query<'q, Database, <Database as sqlx::Database>::Arguments>;

impl Backend {
    /// One write transaction in a task of its own, so that a caller that goes away cannot roll it back half-way through
    /// unseen. Order: BEGIN, the work, COMMIT (synced); an error of the work rolls everything back, a lost answer of COMMIT is
    /// an error whose effect may have happened.
    ///
    /// A connection of which nobody knows any more in what state it is, is not used again.
    fn write<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, CatalogError>> + Send + 'static,
    {
        let backend = self.clone();
        Box::pin(async move {
            let task = tokio::spawn(async move {
                let mut connection = backend.writers().acquire().await.map_err(map)?;
                let done = dialect::patient(transaction(&mut connection, work)).await;
                if done.as_ref().is_err_and(dialect::spoils) {
                    dialect::discard(connection).await;
                }
                done
            });
            task.await.unwrap_or_else(|e| Err(CatalogError::Failed(format!("a write ended badly: {e}"))))
        })
    }

    /// One read.
    fn read<'a, T, F>(&'a self, work: F) -> Answer<'a, T>
    where
        T: Send + 'a,
        F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, CatalogError>> + Send + 'a,
    {
        Box::pin(async move {
            let mut connection = self.readers().acquire().await.map_err(map)?;
            let done = dialect::patient(work(&mut connection)).await;
            if done.as_ref().is_err_and(dialect::spoils) {
                dialect::discard(connection).await;
            }
            done
        })
    }

    /// Writes and reads a row that nothing else is kept in.
    async fn beat(&self) -> Result<(), CatalogError> {
        self.write(|c| {
            Box::pin(async move {
                sqlx::query("UPDATE health SET beats = beats + 1").execute(c).await.map_err(map)?;
                Ok(())
            })
        })
        .await?;
        self.read(|c| {
            Box::pin(async move {
                sqlx::query("SELECT beats FROM health").fetch_one(c).await.map_err(map)?;
                Ok(())
            })
        })
        .await
    }
}

async fn transaction<T, F>(connection: &mut Connection, work: F) -> Result<T, CatalogError>
where
    F: for<'c> FnOnce(&'c mut Connection) -> BoxFuture<'c, Result<T, CatalogError>>,
{
    let mut tx = connection.begin_with(dialect::BEGIN).await.map_err(map)?;
    let value = work(&mut tx).await?;
    tx.commit().await.map_err(map)?;
    Ok(value)
}

/// A number that both databases can hold; anything above is a defect of the caller, told instead of wrapped.
fn int(value: u64) -> Result<i64, CatalogError> {
    i64::try_from(value).map_err(|_| CatalogError::Failed(format!("{value} is too large for the catalog")))
}

fn json<T: serde::Serialize>(value: &T) -> Result<String, CatalogError> {
    serde_json::to_string(value).map_err(|e| CatalogError::Failed(e.to_string()))
}

fn blob(digest: Digest) -> Vec<u8> {
    digest.as_bytes().to_vec()
}

/// Decides what an insert that found its key taken means.
fn same<T: PartialEq>(there: &T, wanted: &T, what: &str) -> Result<(), CatalogError> {
    if there == wanted { Ok(()) } else { Err(CatalogError::Conflict(format!("another {what} stands under the same key"))) }
}

fn page(limit: u32) -> i64 {
    i64::from(limit.min(PAGE_MAX))
}

impl Catalog for Backend {
    fn add_token(&self, token: TokenRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(agents::add_token(c, token)))
    }
    fn use_token(&self, token: Digest, keys: Digest, proposed: AgentId, now: Timestamp) -> Answer<'_, TokenUse> {
        self.write(move |c| Box::pin(agents::use_token(c, token, keys, proposed, now)))
    }
    fn add_agent(&self, agent: AgentRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(agents::add(c, agent)))
    }
    fn agent(&self, agent: AgentId) -> Answer<'_, Option<AgentRow>> {
        self.read(move |c| Box::pin(agents::one(c, agent)))
    }
    fn agents(&self, labels: Labels, after: Option<AgentId>, limit: u32) -> Answer<'_, Vec<AgentRow>> {
        self.read(move |c| Box::pin(agents::some(c, labels, after, limit)))
    }
    fn set_labels(&self, agent: AgentId, labels: Labels) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_labels(c, agent, labels)))
    }
    fn set_seen(&self, agent: AgentId, seen: Seen) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_seen(c, agent, seen)))
    }
    fn set_alarm(&self, agent: AgentId, alarm: Option<String>) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::set_alarm(c, agent, alarm)))
    }
    fn revoke_agent(&self, agent: AgentId, at: Timestamp, reason: String) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(agents::revoke(c, agent, at, reason)))
    }
    fn add_case(&self, case: CaseRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(cases::add(c, case)))
    }
    fn case(&self, case: CaseId) -> Answer<'_, Option<CaseRow>> {
        self.read(move |c| Box::pin(cases::one(c, case)))
    }
    fn cases(&self, after: Option<CaseId>, limit: u32) -> Answer<'_, Vec<CaseRow>> {
        self.read(move |c| Box::pin(cases::some(c, after, limit)))
    }
    fn close_case(&self, case: CaseId, case_closed: Digest) -> Answer<'_, bool> {
        self.write(move |c| Box::pin(cases::close(c, case, case_closed)))
    }
    fn case_counts(&self, case: CaseId) -> Answer<'_, (BTreeMap<String, u64>, u64)> {
        self.read(move |c| Box::pin(cases::counts(c, case)))
    }
    fn add_order(&self, order: OrderRow, collections: Vec<CollectionRow>) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(cases::add_order(c, order, collections)))
    }
    fn order(&self, order: OrderId) -> Answer<'_, Option<OrderRow>> {
        self.read(move |c| Box::pin(cases::order(c, order)))
    }
    fn collection(&self, collection: CollectionId) -> Answer<'_, Option<CollectionRow>> {
        self.read(move |c| Box::pin(cases::collection(c, collection)))
    }
    fn collections(&self, filter: CollectionFilter, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::collections(c, filter, after, limit)))
    }
    fn due(&self, now: Timestamp, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::due(c, now, limit)))
    }
    fn sealing(&self, after: Option<CollectionId>, limit: u32) -> Answer<'_, Vec<CollectionRow>> {
        self.read(move |c| Box::pin(cases::sealing(c, after, limit)))
    }
    fn change(&self, collection: CollectionId, from: Vec<State>, change: CollectionChange) -> Answer<'_, Option<CollectionRow>> {
        self.write(move |c| Box::pin(cases::change(c, collection, from, change)))
    }
    fn open_stream(&self, stream: StreamRow) -> Answer<'_, StreamRow> {
        self.write(move |c| Box::pin(streams::open(c, stream)))
    }
    fn stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Option<StreamRow>> {
        self.read(move |c| Box::pin(streams::one(c, collection, stream)))
    }
    fn streams(&self, collection: CollectionId) -> Answer<'_, Vec<StreamRow>> {
        self.read(move |c| Box::pin(streams::all(c, collection)))
    }
    fn commit_segment(&self, commit: SegmentCommit) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::commit(c, commit)))
    }
    fn finish_stream(&self, finish: StreamFinish) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::finish(c, finish)))
    }
    fn receive_stream(&self, collection: CollectionId, stream: StreamNumber, receipt: Digest) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::receive(c, collection, stream, receipt)))
    }
    fn void_stream(&self, collection: CollectionId, stream: StreamNumber) -> Answer<'_, Step> {
        self.write(move |c| Box::pin(streams::void(c, collection, stream)))
    }
    fn segments(&self, collection: CollectionId, stream: StreamNumber, from: u32, limit: u32) -> Answer<'_, Vec<Segment>> {
        self.read(move |c| Box::pin(streams::segments(c, collection, stream, from, limit)))
    }
    fn manifest_part(&self, collection: CollectionId, stream: StreamNumber, n: u32) -> Answer<'_, Option<Vec<u8>>> {
        self.read(move |c| Box::pin(streams::manifest_part(c, collection, stream, n)))
    }
    fn published(&self, log: String) -> Answer<'_, Option<Published>> {
        self.read(move |c| Box::pin(logs::published(c, log)))
    }
    fn set_published(&self, log: String, head: Published) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(logs::set_published(c, log, head)))
    }
    fn add_incident(&self, incident: IncidentRow) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(incidents::add(c, incident)))
    }
    fn incidents(&self, limit: u32) -> Answer<'_, Vec<IncidentRow>> {
        self.read(move |c| Box::pin(incidents::newest(c, limit)))
    }
    fn unlogged_incidents(&self, limit: u32) -> Answer<'_, Vec<UnloggedIncidents>> {
        self.read(move |c| Box::pin(incidents::unlogged(c, limit)))
    }
    fn incident_details(&self, incidents: UnloggedIncidents, after: i64, limit: u32) -> Answer<'_, Vec<(i64, String)>> {
        self.read(move |c| Box::pin(incidents::details(c, incidents, after, limit)))
    }
    fn incidents_logged(&self, incidents: UnloggedIncidents) -> Answer<'_, ()> {
        self.write(move |c| Box::pin(incidents::logged(c, incidents)))
    }
    fn standing(&self, chore: &'static str) -> Answer<'_, Option<String>> {
        self.read(move |c| {
            Box::pin(async move {
                let kept = sqlx::query_scalar("SELECT standing FROM chores WHERE name = $1").bind(chore);
                kept.fetch_optional(c).await.map_err(map)
            })
        })
    }
    fn set_standing(&self, chore: &'static str, standing: String) -> Answer<'_, ()> {
        self.write(move |c| {
            Box::pin(async move {
                let sql =
                    "INSERT INTO chores (name, standing) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET standing = excluded.standing";
                sqlx::query(sql).bind(chore).bind(standing).execute(c).await.map_err(map)?;
                Ok(())
            })
        })
    }
    fn replace_standing(&self, chore: &'static str, before: Option<String>, standing: String) -> Answer<'_, bool> {
        self.write(move |c| {
            Box::pin(async move {
                let done = match before {
                    None => {
                        let sql = "INSERT INTO chores (name, standing) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
                        sqlx::query(sql).bind(chore).bind(standing).execute(c).await
                    }
                    Some(before) => {
                        let sql = "UPDATE chores SET standing = $1 WHERE name = $2 AND standing = $3";
                        sqlx::query(sql).bind(standing).bind(chore).bind(before).execute(c).await
                    }
                };
                Ok(done.map_err(map)?.rows_affected() == 1)
            })
        })
    }
    fn peers(&self) -> Option<Arc<dyn peers::Peers>> {
        dialect::peers(self)
    }
    fn healthy(&self) -> Answer<'_, ()> {
        Box::pin(async move { self.beat().await.map_err(|e| e.at(&dialect::place(self))) })
    }
    fn silence(&self) -> BoxFuture<'_, CatalogError> {
        Box::pin(dialect::silence(self))
    }
}
