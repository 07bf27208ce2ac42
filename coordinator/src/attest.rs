//! Keeps looking whether the store still holds what was written, locked as it should be: at the start, then every
//! `store.attest_hours`, and for one case at once when custody asks for more or less of it.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout;
use tokio::sync::{Notify, watch};

use crate::clock;
use crate::parts::Parts;
use crate::store::attest::{Attestable, Pass, Report, Task};

/// Time between two requests of a pass: a million objects take six hours, and 0.40 USD where a thousand requests cost
/// 0.0004.
const PAUSE: Duration = Duration::from_millis(20);
/// Time before a pass that the store interrupted goes on.
const TRY_AGAIN: Duration = Duration::from_mins(1);

/// Cases whose locks are to be looked at soon. Memory only: a pass over everything finds what a dead process forgot.
#[derive(Debug, Default)]
pub struct Desk {
    cases: Mutex<BTreeSet<CaseId>>,
    wake: Notify,
}

impl Desk {
    /// Custody of a case changed: its objects are to be locked for longer, held, or no longer held.
    pub fn ask(&self, case: &CaseId) {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).insert(case.clone());
        self.wake.notify_one();
    }

    fn take(&self) -> Option<CaseId> {
        self.cases.lock().unwrap_or_else(PoisonError::into_inner).pop_first()
    }
}

/// Looks at cases of which this coordinator was asked to, until `stop` says so. A store without versions has nothing to look
/// at. Beside [`run_all`], which may take hours: a hold must not wait for it. What both set is the same.
pub async fn run_asked(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let stores = attestable(&parts);
    tokio::select! {
        () = of_cases(&parts, &stores) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// Looks at everything, now and again after each `every`, until `stop` says so. Of several coordinators one does it.
pub async fn run_all(parts: Arc<Parts>, every: Duration, mut stop: watch::Receiver<bool>) {
    let stores = attestable(&parts);
    tokio::select! {
        _ = futures::future::join_all(stores.iter().map(|store| of_all(&parts, store, every))) => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// The store and its copy, those that have versions.
fn attestable(parts: &Parts) -> Vec<Attestable> {
    let copy = parts.copy.as_ref().and_then(|second| second.store.attestable());
    parts.store.attestable().into_iter().chain(copy).collect()
}

async fn of_cases(parts: &Parts, stores: &[Attestable]) {
    if stores.is_empty() {
        return;
    }
    loop {
        while let Some(case) = parts.attesting.take() {
            // What custody says now, whichever coordinator wrote it: a hold must not be taken off by what was known before.
            if let Err(error) = parts.ledgers.case(&case).await {
                tracing::warn!(%case, %error, "the log of a case could not be read; its locks in the store are left as they are");
                continue;
            }
            for store in stores {
                let report = pass(parts, store, &format!("{}/", layout::case_folder(&case))).await;
                tracing::info!(%case, set = report.set_again, released = report.holds_released, "the locks of a case were looked at");
            }
        }
        parts.attesting.wake.notified().await;
    }
}

async fn of_all(parts: &Parts, store: &Attestable, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let report = pass(parts, store, "").await;
        let (objects, set) = (report.objects, report.set_again);
        tracing::info!(objects, set, troubles = report.troubles.len(), "the store was attested");
        report.to_release.iter().filter_map(|case| case.parse().ok()).for_each(|case| parts.attesting.ask(&case));
    }
}

/// One pass with its incidents. A store that fails interrupts it; it goes on where it stood.
async fn pass(parts: &Parts, store: &Attestable, begin: &str) -> Report {
    let task = Task { begin: begin.to_owned(), repair: true, pause: PAUSE, now: clock::now() };
    let mut pass = Pass::new(store.clone(), task);
    let report = loop {
        match pass.run().await {
            Ok(report) => break report,
            // Nothing was promised of a store without locks, and not every one can list its versions.
            Err(e) if !store.locks() && e.kind() != crate::store::Kind::Retry => {
                tracing::warn!(error = %e, "the versions in the store cannot be looked at; 'store check' says what that means");
                return Report::default();
            }
            Err(e) => {
                tracing::warn!(error = %e, "the store could not be attested; it goes on in a minute");
                if e.kind() != crate::store::Kind::Retry {
                    parts.incident(None, "store-unattested", store.vault.describe(), &e.to_string()).await;
                }
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    };
    for trouble in &report.troubles {
        let case = trouble.subject.strip_prefix("cases/").and_then(|case| case.parse().ok());
        parts.incident(case.as_ref(), trouble.kind, &trouble.subject, &trouble.detail).await;
    }
    report
}

/// From the timers: what the store could not do as it should, beyond the error that a caller got.
pub async fn tell_troubles(parts: &Parts) {
    let of_copy = parts.copy.as_ref().map(|second| second.store.troubles()).unwrap_or_default();
    for trouble in parts.store.troubles().into_iter().chain(of_copy) {
        let case = trouble.subject.strip_prefix("cases/").and_then(|case| case.parse().ok());
        parts.incident(case.as_ref(), trouble.kind, &trouble.subject, &trouble.detail).await;
    }
}
