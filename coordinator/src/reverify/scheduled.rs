//! `[verify]`: a coordinator does regularly what `store verify` does when somebody asks for it.
//!
//! Each case's result is a line of the same file. Where a run stands is in the catalog as well, so that another coordinator goes
//! on with it; a catalog that was made anew lets a run begin again, or go on where the file says.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::LogName;
use tokio::sync::watch;

use super::{CaseResult, Depth, Run, Task, catalogued};
use crate::clock;
use crate::parts::Parts;
use crate::several;

/// The chore's name in the catalog.
const CHORE: &str = "verify";
/// Time before a run goes on that something interrupted: the store, the catalog, or a run by hand that has the file.
const TRY_AGAIN: Duration = Duration::from_mins(1);
/// The clock is asked again after so long whether it is time.
const LOOK_EVERY: Duration = Duration::from_mins(10);

/// When to verify, and how much.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schedule {
    /// From the end of a run to the beginning of the next.
    pub every: Duration,
    /// How much of the evidence.
    pub depth: Depth,
    /// Bytes read in a second, at most.
    pub rate: Option<u64>,
    /// The file that keeps the results.
    pub results: PathBuf,
}

/// Where the chore stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
struct Standing {
    /// When the last run began; none: there was none.
    begun: Option<Timestamp>,
    /// When it ended; none: it has not.
    ended: Option<Timestamp>,
    /// Its depth.
    depth: String,
    /// The last case that it verified.
    after: Option<String>,
    /// Cases of it that do not hold.
    unsound: u64,
    /// The same of the run before, which counts until this one has its end.
    unsound_before: u64,
}

impl Standing {
    /// What does not hold, as far as is known.
    fn findings(&self) -> u64 {
        if self.ended.is_some() { self.unsound } else { self.unsound.max(self.unsound_before) }
    }

    /// How long until the next run begins; none when it is time.
    fn wait(&self, every: Duration, now: Timestamp) -> Option<Duration> {
        let due = self.ended?.plus_s(i64::try_from(every.as_secs()).unwrap_or(i64::MAX));
        let left_ns = due.unix_ns().saturating_sub(now.unix_ns());
        u64::try_from(left_ns).ok().filter(|left| *left > 0).map(Duration::from_nanos)
    }
}

/// Verifies whenever it is time, until `stop` says so. Of several coordinators one does it.
pub async fn run_scheduled(parts: Arc<Parts>, mut stop: watch::Receiver<bool>) {
    let Some(schedule) = &parts.verify else { return };
    let work = async {
        loop {
            let wait = turn(&parts, schedule).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the store could not be verified; it goes on in a minute");
                TRY_AGAIN
            });
            tokio::time::sleep(wait).await;
        }
    };
    tokio::select! {
        () = work => {}
        _ = stop.wait_for(|s| *s) => {}
    }
}

/// One run, if it is time. How long until it must be looked again. Before it, whether the store still locks, and what lies on top of
/// what is to be read.
///
/// Order for each case: 1. it is verified, and its line is in the file; 2. what does not hold is an incident; 3. the catalog says
/// how far the run came. Died before 3: the case is verified again, and the incident told again.
async fn turn(parts: &Parts, schedule: &Schedule) -> Result<Duration, String> {
    let mut standing = read(parts).await?;
    parts.metrics.verified(standing.ended, standing.findings());
    if let Some(wait) = standing.wait(schedule.every, clock::now()) {
        return Ok(wait.min(LOOK_EVERY));
    }
    crate::attest::again(parts).await.map_err(|e| e.to_string())?;
    let depth = schedule.depth.to_string();
    let goes_on = standing.begun.filter(|_| standing.ended.is_none() && standing.depth == depth);
    let stood = goes_on.map(|begun| (begun, standing.after.clone()));
    let task = Task {
        keys: Arc::clone(parts.ledgers.keys()),
        results: schedule.results.clone(),
        store: Arc::clone(&parts.store),
        depth: schedule.depth,
        rate: schedule.rate,
        now: clock::now,
    };
    let mut run = Run::begin(task, stood, Ok(catalogued(&*parts.catalog).await.map_err(|e| e.to_string())?)).await?;
    if goes_on.is_none() {
        let unsound_before = standing.findings();
        standing = Standing { begun: Some(run.report.begun), depth, unsound_before, ..Standing::default() };
        keep(parts, &standing).await?;
    }
    while let Some(result) = run.next().await? {
        take(parts, &mut standing, &result).await;
        standing.after = Some(result.case);
        keep(parts, &standing).await?;
    }
    let report = run.end().await?;
    if let Some(result) = &report.deployment {
        take(parts, &mut standing, result).await;
    }
    standing.ended = Some(clock::now());
    keep(parts, &standing).await?;
    let (begun, cases, notes) = (report.begun, report.cases.len(), report.notes.join(" "));
    tracing::info!(%begun, cases, unsound = standing.unsound, notes, "the store was verified");
    Ok(Duration::ZERO)
}

/// What was found of one log: counted and told.
async fn take(parts: &Parts, standing: &mut Standing, result: &CaseResult) {
    judge(parts, result);
    // As whoever opens the log says it: once, and not again when a record of the log has it.
    let desk = parts.ledgers.known().news();
    for news in result.news.iter().filter(|news| desk.is_news(&news.log, news.kind, &news.detail)) {
        desk.wait(news.clone());
    }
    if !result.sound {
        standing.unsound = standing.unsound.saturating_add(1);
        tell(parts, result).await;
    }
}

/// Nothing is added to a log that was put back, from now on; one that was mended may be used again.
fn judge(parts: &Parts, result: &CaseResult) {
    let Some(log) = result.log() else { return };
    let known = parts.ledgers.known();
    if result.put_back {
        let error = known.refuse(&log, "the verification of the store found less than was published");
        tracing::error!(%error, "a log is refused");
    } else if result.sound {
        known.accept(&log);
    }
}

/// In the log of its case, unless nothing of that is left, or nothing may be added to it.
async fn tell(parts: &Parts, result: &CaseResult) {
    let case = result.case.parse().ok().filter(|_| !result.gone && !result.put_back);
    let found = several::listed(&result.findings, result.more, "; ", several::DETAIL_BYTES);
    let detail = format!("{found} (docs/operations/stores.md: copy it first)");
    let subject = if result.log() == Some(LogName::Deployment) { result.case.clone() } else { format!("cases/{}", result.case) };
    parts.incident(case.as_ref(), "store-verify", &subject, &detail).await;
}

async fn read(parts: &Parts) -> Result<Standing, String> {
    let kept = parts.catalog.standing(CHORE).await.map_err(|e| e.to_string())?;
    // What cannot be read was not written by this version: it is done again.
    Ok(kept.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

async fn keep(parts: &Parts, standing: &Standing) -> Result<(), String> {
    parts.metrics.verified(standing.ended, standing.findings());
    let text = serde_json::to_string(standing).map_err(|e| e.to_string())?;
    parts.catalog.set_standing(CHORE, text).await.map_err(|e| e.to_string())
}
