//! The record `rules.jsonl`: what every rule brought, which mounts were entered, what the walk did. A pattern that
//! matched nothing has its row with zeros here, so that "nothing was there" can be told from "nobody looked".

use std::collections::BTreeMap;

use exhibit_evidence::EvidencePath;
use serde::Serialize;

use super::plan::{Compiled, Plan};
use crate::capture::walk::{Tally, may_enter};
use crate::capture::{Moment, Output, Status, Stop, Table, evidence_path};

/// What one rule brought.
#[derive(Debug, Clone, Default)]
pub struct RuleTally {
    /// Items by status, obstacles included.
    pub by_status: BTreeMap<Status, u64>,
    /// Bytes of data taken.
    pub bytes: u64,
    /// Paths that matched but changed too long ago, or too lately.
    pub outside_age: u64,
}

impl RuleTally {
    /// Counts an item.
    pub fn count(&mut self, status: Status) {
        let count = self.by_status.entry(status).or_default();
        *count = count.saturating_add(1);
    }
}

#[derive(Serialize)]
#[serde(tag = "row", rename_all = "kebab-case")]
enum Row<'a> {
    Rule {
        rule: &'a str,
        #[serde(skip_serializing_if = "str::is_empty")]
        class: &'a str,
        patterns: usize,
        items: u64,
        by_status: &'a BTreeMap<Status, u64>,
        bytes: u64,
        outside_age: u64,
    },
    Mount {
        path: EvidencePath,
        id: u64,
        fs_type: EvidencePath,
        source: EvidencePath,
        class: &'static str,
        may_enter: bool,
    },
    Walk {
        folders_read: u64,
        names_read: u64,
        names_looked_at: u64,
        links_passed: u64,
        stopped_by_depth: u64,
        changed_folders: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        ended_at: Option<EvidencePath>,
        opened_with: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        without_openat2: Option<&'a str>,
        homes: usize,
        #[serde(skip_serializing_if = "<[String]>::is_empty")]
        homes_left_out: &'a [String],
        mount_lines_not_understood: u64,
        mount_table_cut: bool,
    },
}

/// Puts the record.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put_report(
    plan: &Plan,
    compiled: &Compiled,
    tallies: &[RuleTally],
    walk: &Tally,
    without_openat2: Option<&str>,
    started: Moment,
    out: &mut dyn Output,
) -> Result<(), Stop> {
    let mut table = Table::new("rules", started, "walk");
    for (index, (rule, tally)) in plan.rules.iter().zip(tallies).enumerate() {
        let patterns = compiled.rule_of.iter().filter(|r| **r as usize == index).count();
        let items = tally.by_status.values().fold(0_u64, |sum, n| sum.saturating_add(*n));
        let (by_status, bytes, outside_age) = (&tally.by_status, tally.bytes, tally.outside_age);
        table.row(out, &Row::Rule { rule: &rule.text, class: rule.class, patterns, items, by_status, bytes, outside_age })?;
    }
    for mount in plan.mounts.all() {
        let row = Row::Mount {
            path: evidence_path(&mount.point),
            id: mount.id,
            fs_type: evidence_path(&mount.fs_type),
            source: evidence_path(if mount.source.is_empty() { b"none".as_slice() } else { &mount.source }),
            class: mount.class.as_str(),
            may_enter: may_enter(mount, plan.remote),
        };
        table.row(out, &row)?;
    }
    let row = Row::Walk {
        folders_read: walk.folders_read,
        names_read: walk.names_read,
        names_looked_at: walk.names_looked_at,
        links_passed: walk.links_passed,
        stopped_by_depth: walk.stopped_by_depth,
        changed_folders: walk.changed_folders,
        ended_at: walk.ended_at.as_ref().map(evidence_path),
        opened_with: if without_openat2.is_some() { "openat" } else { "openat2" },
        without_openat2,
        homes: plan.homes.prefixes.len(),
        homes_left_out: &plan.homes.left_out,
        mount_lines_not_understood: plan.mounts.bad_lines,
        mount_table_cut: plan.mounts.cut,
    };
    table.row(out, &row)?;
    table.finish(out, None).map(drop)
}
