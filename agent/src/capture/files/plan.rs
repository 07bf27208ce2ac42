//! What an order asks of a capture that takes files: rules, exclusions, limits. Parsed whole before anything is touched.

use std::collections::BTreeSet;

use crate::capture::mounts::Mounts;
use crate::capture::walk::glob::{BadPattern, Pattern};
use crate::capture::walk::homes::Homes;
use crate::capture::walk::prefix::{Link, Resolver, path_of};
use crate::capture::walk::rule::{Rule, parse_rules};
use crate::capture::walk::source::Growth;
use crate::capture::{Params, Stop, read_pseudo};

/// Default of `max_files`: 500,000 manifest lines of about 600 bytes are 300 MB.
const MAX_FILES_DEFAULT: u64 = 500_000;

/// The largest `/etc/passwd` that is read for home directories.
const PASSWD_BYTES_MAX: usize = 4 << 20;

/// Limits of one capture.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Largest file in bytes of data.
    pub max_size: u64,
    /// Most hits.
    pub max_files: u64,
    /// Most bytes of data of all files.
    pub max_total: u64,
    /// Only what changed within this many seconds.
    pub newer_than_s: Option<u64>,
    /// Only what did not change within this many seconds.
    pub older_than_s: Option<u64>,
    /// Whether private keys are taken.
    pub private_keys: bool,
    /// What it means when a file grows while it is read.
    pub growth: Growth,
}

impl Limits {
    /// Reads the limits from parameters, with the capture's defaults.
    ///
    /// # Errors
    /// [`Stop::Fatal`] that names the parameter, its value and an example.
    pub fn from_params(params: &Params, max_size: u64, max_total: u64, growth: Growth) -> Result<Self, Stop> {
        Ok(Self {
            max_size: params.bytes("max_size")?.unwrap_or(max_size),
            max_files: params.number("max_files")?.unwrap_or(MAX_FILES_DEFAULT),
            max_total: params.bytes("max_total")?.unwrap_or(max_total),
            newer_than_s: params.seconds("newer_than")?,
            older_than_s: params.seconds("older_than")?,
            private_keys: true,
            growth,
        })
    }
}

/// Everything that decides what a walk finds and takes.
pub struct Plan {
    /// What is wanted, most specific first: the first rule that matches a file speaks for it.
    pub rules: Vec<Rule>,
    /// What is left out.
    pub exclude: Vec<Rule>,
    /// Limits.
    pub limits: Limits,
    /// Whether remote file systems are entered.
    pub remote: bool,
    /// Mounts of this host.
    pub mounts: Mounts,
    /// Home directories of this host.
    pub homes: Homes,
}

/// Patterns of a plan on this host.
#[derive(Default)]
pub struct Compiled {
    /// What the walk matches.
    pub patterns: Vec<Pattern>,
    /// Which rule each pattern came from.
    pub rule_of: Vec<u32>,
    /// For a literal rule, the path as it was asked for.
    pub asked: Vec<Option<Vec<u8>>>,
    /// The links that each rule's pattern went through before any wildcard.
    pub links: Vec<Vec<Link>>,
    /// Rules whose literal part is a loop of links.
    pub loops: Vec<u32>,
}

impl Plan {
    /// A plan for this host.
    ///
    /// # Errors
    /// [`Stop::Fatal`] when a pattern is none, or when the mount table cannot be read: without it remote file systems
    /// could not be told from local ones, and a dead one would hang the agent.
    pub fn new(rules: Vec<Rule>, params: &Params, limits: Limits) -> Result<Self, Stop> {
        let exclude = parse_list("exclude", params.list("exclude").unwrap_or_default()).map_err(Stop::Fatal)?;
        let mounts = Mounts::read().map_err(|e| Stop::Fatal(format!("the mount table /proc/self/mountinfo cannot be read: {e}")))?;
        // Without the file, /home and /root remain.
        let passwd = read_pseudo(b"/etc/passwd", PASSWD_BYTES_MAX).unwrap_or_default();
        let homes = Homes::from_passwd(&passwd.bytes);
        Ok(Self { rules, exclude, limits, remote: params.flag("remote", false)?, mounts, homes })
    }

    /// Rules as patterns of this host, their literal parts freed of links.
    #[must_use]
    pub fn compile(&self, rules: &[Rule]) -> Compiled {
        let mut resolver = Resolver::new(&self.mounts, self.remote);
        let mut out = Compiled::default();
        let mut texts = BTreeSet::new();
        for (index, rule) in rules.iter().enumerate() {
            let index = index as u32;
            // Written twice it is still one rule; the second keeps its row in the record, with no hits of its own.
            if !texts.insert(rule.text.as_str()) {
                continue;
            }
            for pattern in rule.patterns(&self.homes) {
                let prefix = pattern.literal_prefix();
                let Some(resolved) = resolver.resolve(prefix.iter().copied()) else {
                    out.loops.push(index);
                    continue;
                };
                let asked = rule.is_literal().then(|| literal_path(&pattern)).flatten();
                let pattern =
                    if resolved.links.is_empty() { Some(pattern.clone()) } else { pattern.with_prefix(prefix.len(), &resolved.names) };
                let Some(pattern) = pattern else { continue };
                out.patterns.push(pattern);
                out.rule_of.push(index);
                out.asked.push(asked);
                out.links.push(resolved.links);
            }
        }
        out
    }
}

/// Parses a parameter that is a list of patterns.
///
/// # Errors
/// A sentence that names the parameter, the entry, what is wrong and an example.
pub fn parse_list<'a>(name: &str, lines: impl IntoIterator<Item = &'a str>) -> Result<Vec<Rule>, String> {
    parse_rules(lines).map_err(|e: BadPattern| format!("parameter '{name}': {e}"))
}

/// Checks the parameter `exclude`.
///
/// # Errors
/// As [`parse_list`].
pub fn check_exclude(params: &Params) -> Result<(), String> {
    parse_list("exclude", params.list("exclude").unwrap_or_default()).map(|_| ())
}

fn literal_path(pattern: &Pattern) -> Option<Vec<u8>> {
    use crate::capture::walk::glob::Component;
    let name = |c: &Component| if let Component::Literal(name) = c { Some(name.clone()) } else { None };
    let names: Option<Vec<Vec<u8>>> = pattern.components().iter().map(name).collect();
    names.map(|names| path_of(&names))
}
