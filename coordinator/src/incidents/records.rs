//! Incidents as signed records: in the log of the case that they concern, else in the deployment's. So they are handed over
//! with the evidence, and outlive the catalog.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::record::{self, Incident};
use tokio::time::Instant;

use super::names::Names;
use crate::catalog::{IncidentRow, UnloggedIncidents};
use crate::ledger::{self, LedgerError};
use crate::parts::Parts;
use crate::problem::Result;

/// One kind about one subject is written into a log at once, and then once in this time, with how many came: a log has a
/// bounded number of records, and whoever can cause incidents must not be able to fill it.
const EVERY: Duration = Duration::from_hours(1);
/// What a log did not take, and a person has to see to that, is tried again after so long: the store refuses whoever asks, for example.
const LATER: Duration = Duration::from_mins(1);
/// Kinds and subjects looked at in one round.
const ROUND_MAX: u32 = 1_000;
/// Kinds and subjects that are remembered; beyond, all are forgotten, and may be written again earlier.
const REMEMBERED_MAX: usize = 4_096;

type Subject = (Option<String>, String, String);

/// What was written into a log in the last hour, or waits for a person: until when it is left alone.
#[derive(Debug, Default)]
pub struct Recorded(Mutex<HashMap<Subject, Instant>>);

impl Recorded {
    fn subject(row: &IncidentRow) -> Subject {
        (row.case.as_ref().map(ToString::to_string), row.kind.clone(), row.subject.clone())
    }

    fn is_due(&self, row: &IncidentRow, now: Instant) -> bool {
        let recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recorded.get(&Self::subject(row)).is_none_or(|until| *until <= now)
    }

    /// It is left alone until then.
    fn note(&self, row: &IncidentRow, now: Instant, until: Instant) {
        let mut recorded = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if recorded.len() >= REMEMBERED_MAX {
            recorded.retain(|_, until| *until > now);
            if recorded.len() >= REMEMBERED_MAX {
                recorded.clear();
            }
        }
        recorded.insert(Self::subject(row), until);
    }
}

/// Writes the incidents that no log has yet, as far as it is their time.
///
/// Order, for each kind and subject:
///
/// 1. the record, in its log
/// 2. the catalog: a log has them
///
/// A process that dies between the two writes the same bytes again, which the log has already, or, when more came
/// meanwhile, one record more whose times begin at the same incident.
///
/// # Errors
/// When the catalog or a log fails (the first failure): what is not written waits for the next call, or for a minute where it hardly passes
/// by waiting alone.
pub async fn record(parts: &Parts) -> Result<()> {
    let mut failed = None;
    for incidents in parts.catalog.unlogged_incidents(ROUND_MAX).await? {
        let now = Instant::now();
        if !parts.recorded_incidents.is_due(&incidents.newest, now) {
            continue;
        }
        // A log that fails must not keep the others from what concerns them.
        match append(parts, &incidents).await {
            Ok(()) => {
                parts.recorded_incidents.note(&incidents.newest, now, now + EVERY);
                parts.catalog.incidents_logged(incidents).await?;
            }
            Err(problem) => {
                // Every try is written to the store, and told in this program's log.
                if !problem.passes_soon() {
                    parts.recorded_incidents.note(&incidents.newest, now, now + LATER);
                }
                failed = failed.or(Some(problem));
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Words of incidents that are read at a time.
const DETAILS_AT_A_TIME: u32 = 500;

/// The words of all of them.
async fn details(parts: &Parts, incidents: &UnloggedIncidents) -> Result<String> {
    let (mut names, mut after) = (Names::new(), 0);
    loop {
        let page = parts.catalog.incident_details(incidents.clone(), after, DETAILS_AT_A_TIME).await?;
        for (_, detail) in &page {
            names.add(detail);
        }
        match page.last() {
            Some((id, _)) => after = *id,
            None => return Ok(names.text(&incidents.newest.detail)),
        }
    }
}

async fn append(parts: &Parts, incidents: &UnloggedIncidents) -> Result<()> {
    let row = &incidents.newest;
    let incident = Incident {
        deployment: parts.deployment().to_owned(),
        case: row.case.clone(),
        kind: row.kind.clone(),
        about: row.subject.clone(),
        detail: details(parts, incidents).await?,
        count: row.count,
        first_at: incidents.first_at.min(row.at),
        last_at: row.at,
    };
    let envelope = record::sign(&incident, parts.ledgers.log_key())
        .map_err(|e| LedgerError::new(ledger::Kind::Bug, format!("incident record: {e}")))?;
    if let Some(case) = &row.case {
        let appended = match parts.ledgers.case(case).await {
            Ok(log) => log.append(vec![envelope.clone()]).await.map(|_| ()),
            Err(e) => Err(e),
        };
        match appended {
            Ok(()) => return Ok(()),
            // The case's log may be what the incident is about: then the deployment's has to hold it.
            Err(e) if matches!(e.kind(), ledger::Kind::Damaged | ledger::Kind::Refused) => {
                tracing::error!(%case, error = %e, "an incident goes into the deployment's log, because the case's does not take it");
            }
            Err(e) => return Err(e.into()),
        }
    }
    parts.deployment_log.append(vec![envelope]).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Timestamp;

    #[tokio::test(start_paused = true)]
    async fn one_kind_about_one_subject_is_due_once_an_hour() {
        let recorded = Recorded::default();
        let row = |subject: &str| IncidentRow::new(Timestamp::from_unix_s(1), None, "k", subject, "d".to_owned());
        assert!(recorded.is_due(&row("a"), Instant::now()));
        recorded.note(&row("a"), Instant::now(), Instant::now() + EVERY);
        assert!(!recorded.is_due(&row("a"), Instant::now()) && recorded.is_due(&row("b"), Instant::now()));
        tokio::time::advance(EVERY).await;
        assert!(recorded.is_due(&row("a"), Instant::now()));
        recorded.note(&row("a"), Instant::now(), Instant::now() + LATER);
        assert!(!recorded.is_due(&row("a"), Instant::now()), "a log that a person has to see to");
        tokio::time::advance(LATER).await;
        assert!(recorded.is_due(&row("a"), Instant::now()));
        for n in 0..3 * REMEMBERED_MAX {
            recorded.note(&row(&n.to_string()), Instant::now(), Instant::now() + EVERY);
        }
        assert!(recorded.0.lock().expect("lock").len() <= REMEMBERED_MAX);
    }
}
