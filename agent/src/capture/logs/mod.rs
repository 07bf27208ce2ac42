//! Capture `logs`: the logs that are on the host, byte for byte, rotated ones too, each with its class as a fact.
//!
//! Logs are written while they are read. The size when a log is opened is what is taken. If it only grew meanwhile, its
//! first and last 4 KiB (of what was taken) are read a second time; when they are unchanged, the item is `collected` with
//! the fact `grew_to`, else, or when the size shrank or stayed while times changed, it is `changed-during-read`. Journal
//! files are written in place and are therefore often the latter; their readers expect that.

pub mod definitions;
pub mod pointers;
#[cfg(test)]
mod tests;

use self::definitions::{CLASSES, rules_of};
use super::files::collect::collect;
use super::files::plan::{Limits, Plan, check_exclude, parse_list};
use super::walk::rule::Rule;
use super::walk::source::Growth;
use super::{Capture, Output, Params, Stop};

/// Default of `max_size`.
const MAX_SIZE_DEFAULT: u64 = 2 << 30;

/// Default of `max_total`.
const MAX_TOTAL_DEFAULT: u64 = 16 << 30;

/// The capture.
#[derive(Debug, Default)]
pub struct Logs;

impl Capture for Logs {
    fn name(&self) -> &'static str {
        "logs"
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        asked(params)?;
        check_exclude(params)
    }

    fn reads_again(&self) -> bool {
        true
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let limits = Limits::from_params(params, MAX_SIZE_DEFAULT, MAX_TOTAL_DEFAULT, Growth::IsNormal)?;
        collect(&Plan::new(rules(params).map_err(Stop::Fatal)?, params, limits)?, out)
    }
}

/// What an order wants: its own patterns first (so that they speak for what they match), then the classes in their
/// order, what configuration files add to a class before the class `other`.
fn rules(params: &Params) -> Result<Vec<Rule>, String> {
    let (mut rules, wanted) = asked(params)?;
    rules.extend(pointers::rules(&wanted));
    rules.extend(wanted.into_iter().flat_map(rules_of));
    Ok(rules)
}

/// The order's own patterns and the classes that it wants: what can be said without the host.
fn asked(params: &Params) -> Result<(Vec<Rule>, Vec<&'static str>), String> {
    let wanted = wanted_classes(params)?;
    let extra = parse_list("extra", params.list("extra").unwrap_or_default())?;
    if wanted.is_empty() && extra.is_empty() {
        return Err(
            "parameter 'classes': the list is empty and there is no 'extra'; write one class a line, for example 'audit'".to_owned()
        );
    }
    Ok((extra.into_iter().map(|r| r.of_class("extra")).collect(), wanted))
}

fn wanted_classes(params: &Params) -> Result<Vec<&'static str>, String> {
    let Some(names) = params.list("classes") else { return Ok(CLASSES.to_vec()) };
    if let Some(unknown) = names.iter().find(|n| !CLASSES.contains(n)) {
        let shown = exhibit_evidence::text::escape_bounded(unknown, 60);
        return Err(format!("parameter 'classes': '{shown}' is no class of logs; there are {}", CLASSES.join(", ")));
    }
    Ok(CLASSES.iter().filter(|c| names.contains(c)).copied().collect())
}
