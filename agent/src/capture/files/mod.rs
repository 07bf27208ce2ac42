//! Capture `files`: files, directories, links and special files by pattern, on all local file systems, with all their
//! metadata. The default list (profile `triage`) is where intruders persist and what explains a host's configuration.

pub mod collect;
pub mod plan;
pub mod report;
pub mod take;
#[cfg(test)]
mod tests;

use exhibit_evidence::profile::Profile;

use self::plan::{Limits, Plan, check_exclude, parse_list};
use super::walk::rule::Rule;
use super::walk::source::Growth;
use super::{Capture, Output, Params, Stop};

/// Default of `max_size`.
const MAX_SIZE_DEFAULT: u64 = 256 << 20;

/// Default of `max_total`.
const MAX_TOTAL_DEFAULT: u64 = 8 << 30;

/// The capture.
#[derive(Debug, Default)]
pub struct Files;

impl Capture for Files {
    fn name(&self) -> &'static str {
        "files"
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
        limits.private_keys = params.flag("private_keys", false)?;
        collect::collect(&Plan::new(rules, params, limits)?, out)
    }
}

fn rules(params: &Params) -> Result<Vec<Rule>, String> {
    let default = default_paths();
    let lines = params.list("paths").unwrap_or_else(|| default.lines().collect());
    let rules = parse_list("paths", lines)?;
    if rules.is_empty() {
        return Err("parameter 'paths': the list is empty; write one pattern a line, for example '/etc/cron*/**'".to_owned());
    }
    Ok(rules)
}

/// The list of profile `triage`, one pattern a line.
fn default_paths() -> String {
    let files = Profile::find("triage").and_then(|p| p.captures().into_iter().find(|c| c.name == "files"));
    files.and_then(|c| c.params.get("paths").cloned()).unwrap_or_default()
}
