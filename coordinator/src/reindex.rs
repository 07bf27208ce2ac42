//! `exhibit-coordinator reindex`: makes a new catalog from the store alone.
//!
//! Logs say what happened, manifests where every segment lies. What only ever lived in the catalog is gone and said so:
//! see [`LOST`].

mod before;
mod collections;
mod rebuild;
mod strangers;
mod stream;

use std::fmt::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_certs::Deployment;
use exhibit_evidence::Timestamp;
use exhibit_evidence::text::{escape_bounded, one_line};

use before::Before;
pub(crate) use rebuild::Trouble;
pub use rebuild::rebuild;
use rebuild::rebuild_after;
pub(crate) use stream::segments;

use crate::catalog::postgres::{Alone, PostgresCatalog, Settings};
use crate::catalog::sqlite::{self, SqliteCatalog};
use crate::catalog::{Catalog, CatalogPlace};
use crate::config::Config;
use crate::ledger::{Keys, Ledgers};
use crate::several;

/// What no store holds, in words for the operator.
pub const LOST: [&str; 5] = [
    "enrolment tokens: make new ones",
    "labels of agents and what they last said about themselves: set the labels again, the rest comes with their next connection",
    "where uploads stood: their collections begin again with a new stream; segments that had arrived stay in the store and are kept with the old one",
    "how long the logs were, where no catalog before could say it: the new one begins with what the store shows, and only a witness, or a head that was noted, tells whether that is all",
    "requests to cancel, incidents that no log has (those of the last hour, where the same was logged before), and the moment at which an order was admitted (the time of its signature is shown instead)",
];

/// Problems that are listed; more are counted.
const PROBLEMS_MAX: usize = 1_000;
/// Names of one folder that nobody signed for and that are told one by one; the others are counted.
const STRANGERS_MAX: usize = 10;

/// What was found and made.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize)]
pub struct Report {
    /// Cases.
    pub cases: u64,
    /// Cases that are not among them, because nobody can open their logs: the problems say why.
    #[serde(skip_serializing_if = "is_zero")]
    pub left_out: u64,
    /// Orders.
    pub orders: u64,
    /// Collections, all states.
    pub collections: u64,
    /// Collections that have no seal yet: they are taken up again.
    pub unsealed: u64,
    /// Streams with a receipt.
    pub streams: u64,
    /// Segments of those streams.
    pub segments: u64,
    /// Agents, revoked ones too.
    pub agents: u64,
    /// What did not fit together, for a person to look at.
    pub problems: Vec<String>,
    /// Problems in all.
    pub problem_count: u64,
    /// What somebody else put into the store and what was passed over: the catalog is as it would be without it.
    pub answered: Vec<String>,
    /// Of these in all.
    pub answered_count: u64,
    /// Why the catalog that was there before was not asked what it knew. None: it was, or there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_compared: Option<String>,
    /// Where the catalog before is kept, until the next reindex. None: there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde hands a reference")]
const fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Report {
    fn problem(&mut self, what: impl fmt::Display) {
        // The names in it are escaped where they are put in.
        let what = one_line(&what.to_string(), 1_000);
        tracing::error!(%what, "reindex");
        self.problem_count = self.problem_count.saturating_add(1);
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(what);
        }
    }

    /// What was wrong with one log or case is a problem, and the rest goes on; what stops everything is given back.
    fn take_trouble(&mut self, of: impl fmt::Display, made: Result<(), Trouble>) -> Result<(), ReindexError> {
        match made {
            Ok(()) => Ok(()),
            Err(Trouble::Damaged(what)) => {
                self.problem(format!("{of}: {what}"));
                Ok(())
            }
            Err(Trouble::Fatal(what)) => Err(ReindexError(what)),
        }
    }

    /// Names what is not ours and left nothing out.
    fn answered(&mut self, what: impl fmt::Display) {
        let what = one_line(&what.to_string(), 1_000);
        tracing::warn!(%what, "reindex");
        self.answered_count = self.answered_count.saturating_add(1);
        if self.answered.len() < PROBLEMS_MAX {
            self.answered.push(what);
        }
    }

    /// Names what lies in a collection's folder and that nobody signed for.
    fn strangers(&mut self, names: &[String]) {
        self.foreign((names, names.len()), ("no signed manifest names it", "no signed manifest names"));
    }

    /// Names what is none of ours, why it is not, in words for one and for several; of `count` the first ones are given.
    fn foreign(&mut self, (names, count): (&[String], usize), (one, many): (&str, &str)) {
        for name in names.iter().take(STRANGERS_MAX) {
            let shown = escape_bounded(name, 200);
            self.problem(format!("store-foreign '{shown}': {one}; it was left out (docs/operations/stores.md)"));
        }
        if let Some(next) = names.get(STRANGERS_MAX) {
            let (more, shown) = (count.saturating_sub(STRANGERS_MAX), escape_bounded(next, 200));
            self.problem(format!("store-foreign '{shown}': with it {more} more that {many}; they were left out"));
        }
    }

    /// The report for people.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = format!(
            "The catalog was made again from the store: {}, {}, {} ({} without a seal), {}, {}, {}.\n",
            several::count(self.cases, "case"),
            several::count(self.orders, "order"),
            several::count(self.collections, "collection"),
            self.unsealed,
            several::count(self.streams, "stream"),
            several::count(self.segments, "segment"),
            several::count(self.agents, "agent")
        );
        if self.left_out > 0 {
            let _ = writeln!(out, "Left out, because nobody can open the log: {}.", several::count(self.left_out, "case"));
        }
        out.push_str("\nNot in the store, and therefore gone:\n");
        for what in LOST {
            let _ = writeln!(out, "  - {what}");
        }
        if self.problem_count > 0 {
            let problems = several::count(self.problem_count, "problem");
            let _ = writeln!(out, "\n{problems} (run exhibit-verify on the cases that are named):");
            for what in &self.problems {
                let _ = writeln!(out, "  - {what}");
            }
        }
        if self.answered_count > 0 {
            let things = several::count(self.answered_count, "thing");
            let _ = writeln!(out, "\nNot ours, and passed over: {things} in the store (docs/operations/stores.md says what to do):");
            for what in &self.answered {
                let _ = writeln!(out, "  - {what}");
            }
        }
        if let Some(why) = &self.not_compared {
            let _ = writeln!(
                out,
                "\nThe catalog before could not be asked what it knew: {why}. That a log is shorter than it was, or a case is gone, was not looked for."
            );
        }
        if let Some(kept) = &self.kept {
            let _ = write!(out, "\nThe catalog before is kept as {kept} until the next reindex, which puts this one in its place.");
            out.push_str(if self.problem_count > 0 { " It may be all that knows what is gone: copy it first.\n" } else { "\n" });
        }
        match (self.problem_count, &self.not_compared) {
            (0, None) => out.push_str("\nThe catalog is whole.\n"),
            (0, Some(_)) => out.push_str("\nThe catalog holds what the store shows; whether that is all that there was is not known.\n"),
            _ => {}
        }
        out
    }
}

/// Why there is no new catalog; the old one is as it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReindexError(String);

impl fmt::Display for ReindexError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ReindexError {}

impl ReindexError {
    fn new(e: impl fmt::Display) -> Self {
        Self(e.to_string())
    }
}

/// Makes a new catalog and puts it in the place of the old one. No coordinator may run on it. A catalog in PostgreSQL is
/// replaced only if `replace` says so: others may use it, and the store that this machine sees may not be theirs.
///
/// # Errors
/// [`ReindexError`]
pub async fn run(config: &Config, replace: bool, now: Timestamp) -> Result<Report, ReindexError> {
    let deployment = Deployment::load(&config.resolve(&config.paths.deployment)).map_err(ReindexError::new)?;
    let place = config.catalog().map_err(ReindexError::new)?;
    let ledgers = || {
        let store = crate::init::open_store(config, false).map_err(ReindexError)?;
        Ok(Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() }))
    };
    match place {
        CatalogPlace::File(path) => in_file(&path, ledgers, now).await,
        CatalogPlace::Postgres(settings) => in_database(&settings, replace, ledgers, now).await,
    }
}

/// Order:
/// 1. what the old catalog knows is read, and it is closed; lock; remove what an interrupted reindex left
/// 2. a new catalog beside the old one, filled and closed
/// 3. the old one's file, then its write-ahead log, are renamed to `.old` - without its file that log is nobody's
/// 4. the new one is renamed into place; fsync of the folder
///
/// A crash before 3 leaves the old catalog, between 3 and 4 none (the coordinator refuses to start and names this
/// command), after 4 the new one.
async fn in_file(
    path: &Path,
    ledgers: impl FnOnce() -> Result<Arc<Ledgers>, ReindexError>,
    now: Timestamp,
) -> Result<Report, ReindexError> {
    // Not under the lock, which whoever opens a catalog takes. That a coordinator runs is said by the lock.
    let before = Box::pin(Before::ask(&CatalogPlace::File(path.to_owned()))).await;
    let _lock = sqlite::lock(path).map_err(ReindexError::new)?;
    let fresh = beside(path, ".new");
    for suffix in ["", "-wal", "-shm", "-journal", ".lock"] {
        remove(&beside(&fresh, suffix))?;
    }
    let ledgers = ledgers()?;
    let catalog = SqliteCatalog::create(&fresh).await.map_err(ReindexError::new)?;
    let report = rebuild_after(&ledgers, &catalog, &before, now).await;
    catalog.close().await;
    drop(catalog);
    let report = report?;
    let kept = path.exists().then(|| escape_bounded(&beside(path, ".old").to_string_lossy(), 200));
    swap(path, &fresh)?;
    Ok(Report { kept, ..report })
}

/// Order:
/// 1. what the old catalog knows is read; the lock of [`Alone`]: no coordinator is connected, and none starts
/// 2. a new catalog in a schema of its own, what an interrupted reindex left there removed; filled
/// 3. one transaction renames the schemas, on the connection that has the lock
///
/// A crash before 3 leaves the old catalog, after 3 the new one. A lost answer of 3 may be either: a second run is sound.
async fn in_database(
    settings: &Settings,
    replace: bool,
    ledgers: impl FnOnce() -> Result<Arc<Ledgers>, ReindexError>,
    now: Timestamp,
) -> Result<Report, ReindexError> {
    let is_there = match PostgresCatalog::is_there(settings).await {
        Err(e) if !replace => return Err(ReindexError::new(e)),
        // Whatever is there is kept.
        looked => looked.unwrap_or(true),
    };
    if !replace && is_there {
        return Err(ReindexError(format!(
            "{} holds a catalog: give --replace to put a new one in its place (the old one is kept as schema exhibit_old)",
            settings.place()
        )));
    }
    // Asked before: what works alone keeps everybody from the catalog.
    let before = Box::pin(Before::ask(&CatalogPlace::Postgres(settings.clone()))).await;
    let mut alone = Alone::take(settings).await.map_err(ReindexError::new)?;
    let ledgers = ledgers()?;
    let catalog = alone.fresh().await.map_err(ReindexError::new)?;
    let report = rebuild_after(&ledgers, &catalog as &dyn Catalog, &before, now).await;
    catalog.close().await;
    let report = report?;
    alone.exchange().await.map_err(ReindexError::new)?;
    let kept = is_there.then(|| format!("schema exhibit_old in {}", settings.place()));
    Ok(Report { kept, ..report })
}

fn swap(path: &Path, fresh: &Path) -> Result<(), ReindexError> {
    let fail = |e: std::io::Error| ReindexError(format!("cannot put the new catalog into place: {e}; it is {}", fresh.display()));
    if beside(fresh, "-wal").exists() {
        // Closing folds the log into the file; a log that is still there means that it did not.
        return Err(ReindexError(format!("the new catalog {} was not closed cleanly: run reindex again", fresh.display())));
    }
    for suffix in ["", "-wal", "-shm"] {
        match std::fs::rename(beside(path, suffix), beside(&beside(path, ".old"), suffix)) {
            Ok(()) => {}
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => remove(&beside(&beside(path, ".old"), suffix))?,
            Err(e) => return Err(fail(e)),
        }
    }
    std::fs::rename(fresh, path).map_err(fail)?;
    remove(&beside(fresh, ".lock"))?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|f| f.sync_all()).map_err(fail)
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn remove(path: &Path) -> Result<(), ReindexError> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(ReindexError(format!("cannot remove {}: {e}", path.display()))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_in_problems_are_escaped_once_and_many_of_one_folder_are_counted() {
        let mut report = Report::default();
        report.problem(format!("'{}' is not a case's folder\n", escape_bounded("cases/\u{1}ctl", 100)));
        assert_eq!(report.problems, [r"'cases/\x01ctl' is not a case's folder\n"]);
        let names: Vec<String> = (0..STRANGERS_MAX + 5).map(|n| format!("f/\u{1}{n}")).collect();
        report.strangers(&names);
        assert_eq!(report.problem_count, 2 + STRANGERS_MAX as u64, "{report:?}");
        assert!(report.problems[1].starts_with(r"store-foreign 'f/\x010': "), "{report:?}");
        assert!(report.problems.last().expect("the rest").starts_with(r"store-foreign 'f/\x0110': with it 5 more"), "{report:?}");
    }
}
