//! From columns to rows: whatever does not parse is damage, never a default.

use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::Segment;
use exhibit_evidence::record::Outcome;
use exhibit_evidence::{Digest, Timestamp};
use sqlx::Row as _;

use super::{Database, Row};
use crate::catalog::{
    AgentRow, CaseRow, CatalogError, CollectionRow, Ending, IncidentRow, OrderRow, Published, Seen, State, StreamRow, StreamState,
    TokenRow, Totals,
};

type Result<T> = std::result::Result<T, CatalogError>;

fn damaged(column: &str, why: impl std::fmt::Display) -> CatalogError {
    CatalogError::Damaged(format!("column {column}: {why}"))
}

pub fn get<'r, T>(row: &'r Row, column: &'static str) -> Result<T>
where
    T: sqlx::Decode<'r, Database> + sqlx::Type<Database>,
{
    row.try_get(column).map_err(|e| damaged(column, e))
}

pub fn parsed<T: std::str::FromStr<Err: std::fmt::Display>>(row: &Row, column: &'static str) -> Result<T> {
    get::<&str>(row, column)?.parse().map_err(|e| damaged(column, e))
}

pub fn digest(row: &Row, column: &'static str) -> Result<Digest> {
    Digest::try_from(get::<&[u8]>(row, column)?).map_err(|e| damaged(column, e))
}

fn digest_maybe(row: &Row, column: &'static str) -> Result<Option<Digest>> {
    get::<Option<&[u8]>>(row, column)?.map(|b| Digest::try_from(b).map_err(|e| damaged(column, e))).transpose()
}

pub fn time(row: &Row, column: &'static str) -> Result<Timestamp> {
    get(row, column).map(Timestamp::from_unix_ns)
}

fn time_maybe(row: &Row, column: &'static str) -> Result<Option<Timestamp>> {
    Ok(get::<Option<i64>>(row, column)?.map(Timestamp::from_unix_ns))
}

pub fn number<T: TryFrom<i64>>(row: &Row, column: &'static str) -> Result<T> {
    let value: i64 = get(row, column)?;
    T::try_from(value).map_err(|_| damaged(column, value))
}

pub fn json<T: serde::de::DeserializeOwned>(row: &Row, column: &'static str) -> Result<T> {
    serde_json::from_str(get(row, column)?).map_err(|e| damaged(column, e))
}

/// A token as it was made: with all its uses.
pub fn token(row: &Row) -> Result<TokenRow> {
    Ok(TokenRow {
        sha256: digest(row, "sha256")?,
        labels: json(row, "labels")?,
        uses_left: number(row, "uses")?,
        expires_at: time(row, "expires_at")?,
        created_by: get(row, "created_by")?,
        created_at: time(row, "created_at")?,
    })
}

pub fn agent(row: &Row) -> Result<AgentRow> {
    let revoked = match (time_maybe(row, "revoked_at")?, get::<Option<String>>(row, "revoked_reason")?) {
        (Some(at), Some(reason)) => Some((at, reason)),
        (None, None) => None,
        _ => return Err(damaged("revoked_at", "time and reason belong together")),
    };
    Ok(AgentRow {
        agent: parsed(row, "agent")?,
        key: digest(row, "key")?,
        enrolment: digest(row, "enrolment")?,
        enrolled_at: time(row, "enrolled_at")?,
        labels: json(row, "labels")?,
        revoked,
        alarm: get(row, "alarm")?,
        seen: Seen {
            at: time_maybe(row, "seen_at")?,
            hostname: get(row, "hostname")?,
            version: get(row, "version")?,
            kernel: get(row, "kernel")?,
            os: get(row, "os")?,
            boot_id: get(row, "boot_id")?,
            build: digest_maybe(row, "build")?,
            clock_offset_ns: get(row, "clock_offset_ns")?,
            captures: json(row, "captures")?,
        },
    })
}

pub fn case(row: &Row) -> Result<CaseRow> {
    Ok(CaseRow {
        case: parsed(row, "case_id")?,
        title: get(row, "title")?,
        legal_basis: get(row, "legal_basis")?,
        accountable: get(row, "accountable")?,
        opened_by: get(row, "opened_by")?,
        opened_at: time(row, "opened_at")?,
        case_opened: digest(row, "case_opened")?,
        case_closed: digest_maybe(row, "case_closed")?,
    })
}

pub fn order(row: &Row) -> Result<OrderRow> {
    Ok(OrderRow {
        order: parsed(row, "order_id")?,
        digest: digest(row, "digest")?,
        envelope: get(row, "envelope")?,
        case: parsed(row, "case_id")?,
        issued_by: get(row, "issued_by")?,
        profile: get(row, "profile")?,
        expires_at: time(row, "expires_at")?,
        admitted_at: time(row, "admitted_at")?,
    })
}

fn totals(row: &Row) -> Result<Totals> {
    Ok(Totals {
        items: number(row, "items")?,
        raw_bytes: number(row, "raw_bytes")?,
        stored_bytes: number(row, "stored_bytes")?,
        by_status: json(row, "by_status")?,
    })
}

fn ending(row: &Row) -> Result<Option<Ending>> {
    let Some(text) = get::<Option<&str>>(row, "ending_outcome")? else { return Ok(None) };
    let outcome = outcome(text).ok_or_else(|| damaged("ending_outcome", text))?;
    Ok(Some(Ending { outcome, reason: get(row, "ending_reason")?, refusal: get(row, "ending_refusal")? }))
}

fn outcome(text: &str) -> Option<Outcome> {
    match State::parse(text)? {
        State::Closed(outcome) => Some(outcome),
        _ => None,
    }
}

pub fn collection(row: &Row) -> Result<CollectionRow> {
    let state: &str = get(row, "state")?;
    Ok(CollectionRow {
        collection: parsed(row, "collection")?,
        order: parsed(row, "order_id")?,
        order_digest: digest(row, "order_digest")?,
        case: parsed(row, "case_id")?,
        agent: parsed(row, "agent")?,
        profile: get(row, "profile")?,
        state: State::parse(state).ok_or_else(|| damaged("state", state))?,
        reason: get(row, "reason")?,
        ending: ending(row)?,
        cancel: get(row, "cancel")?,
        stream: StreamNumber(number(row, "stream")?),
        queued_at: time(row, "queued_at")?,
        started_at: time_maybe(row, "started_at")?,
        ended_at: time_maybe(row, "ended_at")?,
        expires_at: time(row, "expires_at")?,
        give_up_at: time_maybe(row, "give_up_at")?,
        totals: totals(row)?,
        exhibit_first: number(row, "exhibit_first")?,
        exhibit_count: number(row, "exhibit_count")?,
        seal: get(row, "seal")?,
    })
}

pub fn stream(row: &Row) -> Result<StreamRow> {
    let state: &str = get(row, "state")?;
    let manifest = match get::<Option<&str>>(row, "manifest")? {
        Some(text) => Some(serde_json::from_str(text).map_err(|e| damaged("manifest", e))?),
        None => None,
    };
    Ok(StreamRow {
        collection: parsed(row, "collection")?,
        stream: StreamNumber(number(row, "stream")?),
        state: StreamState::parse(state).ok_or_else(|| damaged("state", state))?,
        next_segment: number(row, "next_segment")?,
        snapshot: get(row, "snapshot")?,
        bookmark: get(row, "bookmark")?,
        totals: totals(row)?,
        received_from: time(row, "received_from")?,
        received_to: time(row, "received_to")?,
        manifest,
        acquisition: get(row, "acquisition")?,
        receipt: digest_maybe(row, "receipt")?,
    })
}

pub fn segment(row: &Row) -> Result<Segment> {
    Ok(Segment {
        n: number(row, "n")?,
        size: number(row, "size")?,
        sha256: digest(row, "sha256")?,
        raw_offset: number(row, "raw_offset")?,
        raw_size: number(row, "raw_size")?,
        // The manifest's line says it; the row is for finding the object.
        seam: None,
    })
}

pub fn incident(row: &Row) -> Result<IncidentRow> {
    Ok(IncidentRow {
        at: time(row, "at")?,
        case: get::<Option<&str>>(row, "case_id")?.map(|c| c.parse().map_err(|e| damaged("case_id", e))).transpose()?,
        kind: get(row, "kind")?,
        subject: get(row, "subject")?,
        detail: get(row, "detail")?,
        count: number(row, "count")?,
        logged: number::<i64>(row, "logged")? != 0,
    })
}

pub fn published(row: &Row) -> Result<Published> {
    Ok(Published { size: number(row, "size")?, root: digest(row, "root")? })
}
