//! `exhibit-coordinator store verify`: reads the store again and verifies it from the bytes, case by case, with the code that
//! courts use. It writes nothing into the store, so the coordinator may run.
//!
//! Every case's log, and the deployment's, is verified whole each time. Of the evidence, either everything is (`--all`), or every manifest against its
//! receipt and a share of the segments against their manifest (`--sample`), another share each time.

mod accounted;
mod beside;
mod case_by_case;
mod files;
mod found;
mod known;
mod log;
mod results;
mod sample;
mod scheduled;
mod text;
mod work;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use accounted::{Left, Records, Why};
pub(crate) use beside::strangers;
use case_by_case::Run;
use exhibit_certs::Deployment;
use exhibit_evidence::Timestamp;
use known::known_to_catalog;
pub(crate) use known::{Catalogued, catalogued};
pub(crate) use log::judge_log;
pub use results::RESULTS;
pub use scheduled::{Schedule, run_scheduled};

use crate::attest::Offline;
use crate::config::Config;
use crate::ledger::{Keys, News};
use crate::store::{Store, attest};

/// How much of the evidence is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// All of it, every item decoded and hashed; of encrypted cases every segment as it is stored.
    All,
    /// So many of a million segments.
    Sample(u32),
}

impl std::fmt::Display for Depth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Sample(millionths) => write!(f, "{}%", f64::from(*millionths) / 10_000.0),
        }
    }
}

impl std::str::FromStr for Depth {
    type Err = String;

    /// A share like `1%` or `0.5%`.
    fn from_str(text: &str) -> Result<Self, String> {
        let share = text.strip_suffix('%').and_then(|n| n.parse::<f64>().ok()).filter(|n| *n > 0.0 && *n <= 100.0);
        share
            .map(|n| Self::Sample((n * 10_000.0).ceil() as u32))
            .ok_or_else(|| "expected a share above 0 and up to 100, like 1%".to_owned())
    }
}

/// The name of the deployment's own log among the cases, which no case can have.
const DEPLOYMENT: &str = "deployment/log";

/// What was read and found of one case; a line of the result file.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CaseResult {
    /// The case.
    pub case: String,
    /// When it was verified.
    pub at: Timestamp,
    /// Everything that was read holds.
    pub sound: bool,
    /// Segments read.
    pub segments: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Objects of ours that were listed of it. None: it could not be listed, or an earlier version wrote the line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub objects: Option<u64>,
    /// What does not hold.
    pub findings: Vec<String>,
    /// How much more does not hold.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub more: u64,
    /// Items whose contents were not decoded, because they are encrypted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub items_unchecked: u64,
    /// Nothing of it is in the store any more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gone: bool,
    /// Its log holds together, and is shorter than, or another one than, what the catalog knows of it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub put_back: bool,
    /// What is worth knowing of it and changes nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// What whoever opens its log would tell of it.
    #[serde(skip)]
    pub news: Vec<News>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

/// What was found in all.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Everything that was read holds, and no case is gone.
    pub sound: bool,
    /// When the run began: earlier than now if it was interrupted.
    pub begun: Timestamp,
    /// Cases that an interrupted run had verified already.
    pub resumed: u64,
    /// What was not looked at, and why.
    pub notes: Vec<String>,
    /// How many of the notes name what somebody else put into the store and what is passed over: it changes nothing of what was read.
    #[serde(skip_serializing_if = "is_zero")]
    pub answered: u64,
    /// Every case of this run.
    pub cases: Vec<CaseResult>,
    /// The deployment's own log, which is verified whole with each run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub deployment: Option<CaseResult>,
}

/// Verifies the store of a deployment. `rate` bounds the bytes read in a second.
///
/// # Errors
/// A sentence when the store does not answer or refuses us, or the result cannot be kept.
pub async fn run(
    config: &Config,
    store: Arc<dyn Store>,
    depth: Depth,
    rate: Option<u64>,
    now: fn() -> Timestamp,
) -> Result<Report, String> {
    let deployment = Deployment::load(&config.resolve(&config.paths.deployment)).map_err(|e| e.to_string())?;
    // Before anything is read: what lies on top of an object is not what is to be verified, and what is hidden is.
    let seen = attest::recall(&*store, "").await.map_err(|e| e.to_string())?;
    let keys = Arc::new(Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let judge: Arc<dyn attest::Judge> = Offline::new(Arc::clone(&store), Arc::clone(&keys));
    let on_top = Box::pin(attest::recall_again(&*store, "", seen, Some(judge))).await.map_err(|e| e.to_string())?;
    let task = Task { keys, results: config.resolve(Path::new(RESULTS)), store, depth, rate, now };
    let mut run = Run::begin(task, None, known_to_catalog(config).await).await?;
    let told = on_top.iter().map(|t| format!("{} {}: {}", t.kind, t.subject, t.detail));
    run.report.notes.extend(told);
    run.report.answered = on_top.iter().filter(|t| t.is_answered()).count() as u64;
    while run.next().await?.is_some() {}
    run.end().await
}

/// What to verify, and how.
#[derive(Debug, Clone)]
struct Task {
    keys: Arc<Keys>,
    /// The file that keeps the results.
    results: PathBuf,
    store: Arc<dyn Store>,
    depth: Depth,
    /// Bytes read in a second, at most.
    rate: Option<u64>,
    now: fn() -> Timestamp,
}
