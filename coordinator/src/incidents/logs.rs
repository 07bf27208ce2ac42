//! What is wrong with logs, as incidents: that one was put back to an older state, so that whoever opens it is refused, and what somebody
//! put into one.

use exhibit_evidence::layout::LogName;
use exhibit_evidence::text::one_line;

use super::Reported;
use crate::catalog::{IncidentRow, SharedCatalog};
use crate::clock;
use crate::ledger::Ledgers;
use crate::parts::Parts;

/// The word for it.
const PUT_BACK: &str = "log-put-back";

/// From the timers: into the deployment's log, because nothing is added to the one that is refused.
pub async fn tell_refused_logs(parts: &Parts) {
    for (name, why) in parts.ledgers.known().untold() {
        if parts.incident(None, PUT_BACK, &name.folder(), &why).await.is_told() {
            parts.ledgers.known().note_told(&name);
        }
    }
}

/// From the timers: what else was seen of logs, into the log of its case, or the deployment's where that does not take it.
pub async fn tell_log_news(parts: &Parts) {
    let desk = parts.ledgers.known().news();
    for news in desk.take() {
        let case = match &news.log {
            LogName::Case(case) => Some(case),
            LogName::Deployment => None,
        };
        if parts.incident(case, news.kind, &news.log.folder(), &news.detail).await == Reported::Failed {
            desk.wait(news);
        }
    }
}

/// Before there are timers: the deployment's own log is refused, so the coordinator does not start. The row waits in the catalog until
/// that log is whole again, and goes into it then.
pub async fn keep_refused_logs(catalog: &SharedCatalog, ledgers: &Ledgers) {
    for (name, why) in ledgers.known().untold() {
        let row = IncidentRow::new(clock::now(), None, PUT_BACK, &name.folder(), one_line(&why, 2_000));
        match catalog.add_incident(row).await {
            Ok(()) => ledgers.known().note_told(&name),
            Err(error) => tracing::error!(%error, "the incident could not be kept in the catalog"),
        }
    }
}
