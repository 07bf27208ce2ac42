//! Capture `files`: files, directories, links and special files by pattern, on all local file systems, with all their
//! metadata. The default list (profile `triage`) is where intruders persist and what explains a host's configuration.

pub mod collect;
pub mod plan;
pub mod report;
pub mod take;
#[cfg(test)]
mod tests;

use exhibit_evidence::profile::Profile;

use self::plan::{EXCLUDE, Limits, MAX_FILES, MAX_SIZE, MAX_TOTAL, NEWER_THAN, OLDER_THAN, Plan, REMOTE, check_exclude, parse_list};
use super::walk::rule::Rule;
use super::walk::source::Growth;
use super::{Capture, Output, Param, ParamKind, Params, Stop};

/// Default of `max_size`.
const MAX_SIZE_DEFAULT: u64 = 256 << 20;

/// Default of `max_total`.
const MAX_TOTAL_DEFAULT: u64 = 8 << 30;

/// The capture.
#[derive(Debug, Default)]
pub struct Files;

const PATHS: Param = Param {
    name: "paths",
    kind: ParamKind::List,
    help: "Patterns of absolute paths, e.g. /etc/cron*/**; options may stand in front, e.g. [max_size=1MiB] /tmp/**; default: the list of profile triage.",
};

const PRIVATE_KEYS: Param = Param {
    name: "private_keys",
    kind: ParamKind::Flag,
    help: "Take files that are private keys; default false: recorded with metadata only.",
};

const PARAMS: &[Param] = &[PATHS, EXCLUDE, MAX_SIZE, MAX_FILES, MAX_TOTAL, NEWER_THAN, OLDER_THAN, REMOTE, PRIVATE_KEYS];

impl Capture for Files {
    fn name(&self) -> &'static str {
        "files"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        rules(params)?;
        check_exclude(params)
    }

    fn reads_again(&self) -> bool {
        true
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let rules = rules(params).map_err(Stop::Fatal)?;
        let mut limits = Limits::from_params(params, MAX_SIZE_DEFAULT, MAX_TOTAL_DEFAULT, Growth::IsChange)?;
        limits.private_keys = params.flag(PRIVATE_KEYS.name, false)?;
        collect::collect(&Plan::new(rules, params, limits)?, out)
    }
}

fn rules(params: &Params) -> Result<Vec<Rule>, String> {
    let default = default_paths();
    let lines = params.list(PATHS.name).unwrap_or_else(|| default.lines().collect());
    let rules = parse_list(PATHS.name, lines)?;
    if rules.is_empty() {
        return Err("parameter 'paths': the list is empty; write one pattern a line, for example '/etc/cron*/**'".to_owned());
    }
    Ok(rules)
}

/// The list of profile `triage`, one pattern a line.
fn default_paths() -> String {
    let files = Profile::find("triage").and_then(|p| p.captures().into_iter().find(|c| c.name == "files"));
    files.and_then(|c| c.params.get(PATHS.name).cloned()).unwrap_or_default()
}
