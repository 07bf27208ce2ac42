//! From what the walk finds to items: which rule speaks for a path, whether it is within the limits, taking it, and the
//! record of what every rule brought.

use std::collections::{BTreeMap, BTreeSet};

use super::plan::{Compiled, Plan};
use super::report::{RuleTally, put_report};
use super::take::{self, Taken};
use crate::capture::walk::inode::{Look, Opener};
use crate::capture::walk::prefix::Link;
use crate::capture::walk::rule::Rule;
use crate::capture::walk::{Flow, Found, Obstacle, Visitor, Walk};
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, evidence_path, status_of};

/// Walks and takes everything that the plan asks for; always puts at least the record `rules.jsonl`.
///
/// # Errors
/// [`Stop`] from the output.
pub fn collect(plan: &Plan, out: &mut dyn Output) -> Result<(), Stop> {
    let compiled = plan.compile(&plan.rules);
    let excluded = plan.compile(&plan.exclude).patterns;
    let started = out.now();
    // Ages are counted from the same moment, however many processes take part.
    let began_s = out.began().wall.unix_ns().div_euclid(1_000_000_000);
    let walk = Walk::new(&compiled.patterns, &excluded, &plan.mounts, plan.remote);
    let without_openat2 = walk.without_openat2().map(str::to_owned);
    let links = compiled.links.iter().flatten().cloned().collect();
    let tallies = vec![RuleTally::default(); plan.rules.len()];
    let mut collector =
        Collector { plan, compiled: &compiled, out, tallies, links, hits: 0, found: 0, bytes: 0, now_s: began_s, buffer: Vec::new() };
    let (tally, ended) = walk.run_so_far(&mut collector);
    if ended.is_err() {
        // Nothing more is looked at; what was done until then is in memory.
        let put = put_report(plan, &compiled, &collector.tallies, &tally, without_openat2.as_deref(), started, collector.out);
        return ended.and(put);
    }
    collector.put_links()?;
    collector.put_loops()?;
    if let Some(path) = &tally.ended_at {
        collector.put_end(path)?;
    }
    let (tallies, hits, found) = (collector.tallies, collector.hits, collector.found);
    put_report(plan, &compiled, &tallies, &tally, without_openat2.as_deref(), started, out)?;
    if hits == 0 {
        let item = NewItem::new(evidence_path("nothing-found"), Kind::Unknown, started, "walk").with_status(
            Status::Missing,
            format!("none of the {} patterns matched anything on this host; see rules.jsonl", plan.rules.len()),
        );
        out.put(item, Content::None)?;
    }
    if found == 0 {
        return Err(Stop::Nothing("nothing was found that could be taken; see rules.jsonl".to_owned()));
    }
    Ok(())
}

struct Collector<'a> {
    plan: &'a Plan,
    compiled: &'a Compiled,
    out: &'a mut dyn Output,
    tallies: Vec<RuleTally>,
    /// Links that literal parts of patterns went through and that no pattern matched so far.
    links: BTreeSet<Link>,
    hits: u64,
    /// Hits of which something was taken.
    found: u64,
    bytes: u64,
    now_s: i64,
    /// For the first bytes of files, see [`take::file`].
    buffer: Vec<u8>,
}

impl Collector<'_> {
    /// Rules of patterns, in the plan's order, each once.
    fn rules_of(&self, patterns: &[u32]) -> Vec<u32> {
        let mut rules: Vec<u32> = patterns.iter().filter_map(|p| self.compiled.rule_of.get(*p as usize).copied()).collect();
        rules.sort_unstable();
        rules.dedup();
        rules
    }

    fn rule(&self, index: u32) -> Option<&Rule> {
        self.plan.rules.get(index as usize)
    }

    /// Counts what was taken, or at least recorded as what it is.
    fn found(&mut self, status: Status) {
        let taken = matches!(status, Status::Collected | Status::Partial | Status::ChangedDuringRead);
        self.found = self.found.saturating_add(u64::from(taken));
    }

    fn tally(&mut self, rules: &[u32], count: impl Fn(&mut RuleTally)) {
        for rule in rules {
            if let Some(tally) = self.tallies.get_mut(*rule as usize) {
                count(tally);
            }
        }
    }

    /// True when the time of the last change is what the rule and the order ask for.
    fn is_of_age(&self, rule: u32, look: &Look) -> bool {
        let age_s = self.now_s.saturating_sub(look.stat.changed_s());
        let within = |span: Option<u64>| span.is_none_or(|s| age_s <= i64::try_from(s).unwrap_or(i64::MAX));
        let beyond = |span: Option<u64>| span.is_none_or(|s| age_s > i64::try_from(s).unwrap_or(i64::MAX));
        let limits = &self.plan.limits;
        within(limits.newer_than_s) && within(self.rule(rule).and_then(|r| r.newer_than_s)) && beyond(limits.older_than_s)
    }

    fn facts(&self, rules: &[u32], patterns: &[u32]) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        if let Some(rule) = rules.first().and_then(|r| self.rule(*r)) {
            facts.insert("rule".to_owned(), rule.text.clone());
            if !rule.class.is_empty() {
                facts.insert("class".to_owned(), rule.class.to_owned());
            }
        }
        let links = patterns.iter().filter_map(|p| self.compiled.links.get(*p as usize)).find(|l| !l.is_empty());
        if let Some(links) = links {
            let shown: Vec<String> =
                links.iter().take(4).map(|l| format!("{} -> {}", evidence_path(&l.path), evidence_path(&l.target))).collect();
            facts.insert("through".to_owned(), shown.join(", "));
        }
        facts
    }

    /// An earlier process put it into the stream: it counts, as far as its inode still tells.
    fn found_before(&mut self, found: &Found<'_>, status: Status, rules: &[u32]) {
        self.found(status);
        let taken = found.look.stat.kind == Kind::File && matches!(status, Status::Collected | Status::Partial | Status::ChangedDuringRead);
        let stat = &found.look.stat;
        let bytes = if taken { stat.size.min(stat.meta.blocks.saturating_mul(512)) } else { 0 };
        self.bytes = self.bytes.saturating_add(bytes);
        self.tally(rules, |t| {
            t.count(status);
            t.bytes = t.bytes.saturating_add(bytes);
        });
    }

    /// Counts a hit; false when there were enough.
    fn count(&mut self) -> bool {
        let room = self.hits < self.plan.limits.max_files;
        self.hits = self.hits.saturating_add(u64::from(room));
        room
    }

    fn put(&mut self, item: NewItem, content: Content<'_>, rules: &[u32]) -> Result<Status, Stop> {
        let status = self.out.put(item, content)?;
        self.tally(rules, |t| t.count(status));
        Ok(status)
    }

    /// Links that patterns went through are evidence of where things really lay.
    fn put_links(&mut self) -> Result<(), Stop> {
        let opener = Opener::new();
        for link in std::mem::take(&mut self.links) {
            let mut item = NewItem::new(evidence_path(&link.path), Kind::Symlink, self.out.now(), "readlinkat");
            item.target = Some(evidence_path(&link.target));
            item.facts.insert("role".into(), "a link on the way of a pattern".into());
            match opener.look_path(&link.path) {
                Ok(look) if look.stat.kind == Kind::Symlink => {
                    item.meta = Some(Box::new(look.metadata(None, &mut item.facts)));
                }
                Ok(_) => item = item.with_status(Status::Vanished, "it was a link before the walk and is none after it"),
                Err(e) => {
                    let (_, reason) = status_of(&e);
                    item = item.with_status(Status::Vanished, format!("it was a link before the walk; after it: {reason}"));
                }
            }
            self.out.put(item, Content::None)?;
        }
        Ok(())
    }

    fn put_loops(&mut self) -> Result<(), Stop> {
        for rule in self.compiled.loops.clone() {
            let Some(text) = self.rule(rule).map(|r| r.text.clone()) else { continue };
            let item = NewItem::new(evidence_path(&text), Kind::Unknown, self.out.now(), "readlinkat")
                .with_status(Status::Error, "more than 40 symbolic links before any wildcard: a loop");
            self.put(item, Content::None, &[rule])?;
        }
        Ok(())
    }

    fn put_end(&mut self, path: &[u8]) -> Result<(), Stop> {
        let reason =
            format!("{} hits ('max_files'): the walk ended before this path, nothing after it was looked at", self.plan.limits.max_files);
        let item = NewItem::new(evidence_path("walk-ended"), Kind::Unknown, self.out.now(), "walk")
            .with_status(Status::Skipped, reason)
            .with_fact("at", evidence_path(path).to_string());
        self.out.put(item, Content::None).map(drop)
    }
}

impl Visitor for Collector<'_> {
    fn hit(&mut self, found: Found<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        let matched = self.rules_of(patterns);
        let (rules, outside): (Vec<u32>, Vec<u32>) = matched.into_iter().partition(|r| self.is_of_age(*r, found.look));
        self.tally(&outside, |t| t.outside_age = t.outside_age.saturating_add(1));
        if rules.is_empty() {
            return Ok(Flow::On);
        }
        if !self.count() {
            return Ok(Flow::Enough);
        }
        if found.look.stat.kind == Kind::Symlink && !self.links.is_empty() {
            self.links.retain(|l| l.path != found.path);
        }
        if let Some(status) = self.out.already(found.path, &found.look.stat.meta) {
            self.found_before(&found, status, &rules);
            return Ok(Flow::On);
        }
        let mut item = NewItem::new(evidence_path(found.path), found.look.stat.kind, self.out.now(), "statx");
        item.facts = self.facts(&rules, patterns);
        let limits = &self.plan.limits;
        if found.look.stat.kind != Kind::File {
            take::describe(&found, &mut item);
            let status = self.put(item, Content::None, &rules)?;
            self.found(status);
            return Ok(Flow::On);
        }
        let room = take::Room {
            left: limits.max_total.saturating_sub(self.bytes),
            rules: rules.iter().filter_map(|r| Some((self.plan.rules.get(*r as usize)?, self.tallies.get(*r as usize)?.bytes))).collect(),
            limits,
        };
        let taken = take::file(&found, item, &room, &mut self.buffer, self.out)?;
        let Taken { status, bytes } = taken;
        self.bytes = self.bytes.saturating_add(bytes);
        self.found(status);
        self.tally(&rules, |t| {
            t.count(status);
            t.bytes = t.bytes.saturating_add(bytes);
        });
        Ok(Flow::On)
    }

    fn obstacle(&mut self, obstacle: Obstacle<'_>, patterns: &[u32]) -> Result<Flow, Stop> {
        if !self.count() {
            return Ok(Flow::Enough);
        }
        let rules = self.rules_of(patterns);
        let mut item = NewItem::new(evidence_path(obstacle.path), obstacle.kind, self.out.now(), "statx");
        item.facts = self.facts(&rules, patterns);
        if rules.len() > 1 {
            item.facts.insert("rules".into(), rules.len().to_string());
        }
        if let Some(look) = obstacle.look {
            item.meta = Some(Box::new(look.metadata(None, &mut item.facts)));
            if look.stat.kind == Kind::Symlink {
                item.target = look.link_target().ok().map(evidence_path);
                self.links.retain(|l| l.path != obstacle.path);
            }
        }
        self.put(item.with_status(obstacle.status, obstacle.reason), Content::None, &rules)?;
        Ok(Flow::On)
    }

    fn absent(&mut self, path: &[u8], reason: &str, patterns: &[u32]) -> Result<Flow, Stop> {
        for pattern in patterns {
            let Some(asked) = self.compiled.asked.get(*pattern as usize).cloned().flatten() else { continue };
            if !self.count() {
                return Ok(Flow::Enough);
            }
            let rules = self.rules_of(&[*pattern]);
            let reason = if asked == path { reason.to_owned() } else { format!("{}: {reason}", evidence_path(path)) };
            let mut item =
                NewItem::new(evidence_path(&asked), Kind::Unknown, self.out.now(), "openat").with_status(Status::Missing, reason);
            item.facts = self.facts(&rules, &[*pattern]);
            self.put(item, Content::None, &rules)?;
        }
        Ok(Flow::On)
    }

    fn tick(&mut self, folder: &[u8]) -> Result<(), Stop> {
        self.out.note(&String::from_utf8_lossy(folder));
        self.out.checkpoint()
    }
}
