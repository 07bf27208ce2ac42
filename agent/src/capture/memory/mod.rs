//! The `memory` capture: all of the host's RAM, without a kernel module, and everything that is needed to read it.
//!
//! Two passes, each an image of its own: first, within minutes, the pages that decide an analysis and change fastest; then
//! all of System RAM. No zeros are left out, and every byte of System RAM ends in the map as data, as a gap with its reason,
//! or as zeros that the kernel gave instead of content. What stands in the way of one source leads to the next; if there is
//! none, the processes' memory is taken one by one.

mod flags;
mod image;
mod iomem;
mod kcore;
mod lime;
mod map;
mod meta;
mod physical;
mod preflight;
mod ranges;
mod select;
mod smear;
#[cfg(test)]
mod tests;

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};

use self::flags::Flags;
use self::image::{Diary, From, Image};
use self::iomem::Iomem;
use self::lime::Layout;
use self::physical::{Physical, Refused};
use self::preflight::Preflight;
use self::ranges::{PAGE, Range, total, without};
use self::smear::Smear;
use super::live::{LARGE_BYTES_MAX, put_json, read, refusal};
use super::process_memory;
use super::{Capture, Content, NewItem, Output, Param, ParamKind, Params, Status, Stop};
use crate::clock;

/// The capture; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct Memory;

impl Memory {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self)
    }
}

const PARAMS: &[Param] = &[
    Param {
        name: "priority",
        kind: ParamKind::Flag,
        help: "first take the pages that decide an analysis (priority.lime): page tables, kernel, slab, stacks (default true)",
    },
    Param { name: "priority_percent", kind: ParamKind::Number, help: "how much of RAM that first pass may take at most (default 10)" },
    Param {
        name: "fallback",
        kind: ParamKind::Flag,
        help: "where physical memory is refused, take the memory of every process instead (default true)",
    },
    Param { name: "full", kind: ParamKind::Flag, help: "take all of RAM (memory.lime; default true)" },
];

/// The images.
const FULL: &str = "memory.lime";
const FIRST: &str = "priority.lime";

impl Capture for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn params(&self) -> &'static [Param] {
        PARAMS
    }

    fn check(&self, params: &Params) -> Result<(), String> {
        match params.number("priority_percent").map_err(|e| e.to_string())? {
            Some(percent @ (0 | 51..)) => Err(format!("parameter 'priority_percent', {percent}: expected 1 to 50")),
            _ => Ok(()),
        }
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        out.note("looking where memory can be read");
        let started = out.now();
        let iomem = read("/proc/iomem", LARGE_BYTES_MAX).map(|r| Iomem::parse(&r.bytes));
        let (iomem, unreadable) = match iomem {
            Ok(iomem) => (iomem, None),
            Err(e) => (Iomem::default(), Some(refusal(e))),
        };
        let (physical, mut refused) = if iomem.ram.is_empty() { (None, Vec::new()) } else { physical::open(&iomem.ram) };
        if let Some((_, reason)) = unreadable {
            refused.push(Refused { source: "/proc/iomem", reason: format!("{reason}: where memory lies is not known") });
        } else if iomem.ram.is_empty() {
            let why = if iomem.hidden { "shows only zeros: CAP_SYS_ADMIN is missing" } else { "lists no System RAM" };
            refused.push(Refused { source: "/proc/iomem", reason: why.to_owned() });
        }
        let exposed = physical.as_ref().map(|p| p.exposed(&iomem.ram)).unwrap_or_default();
        let notes = physical.as_ref().and_then(|p| p.notes()).and_then(kcore::vmcoreinfo).unwrap_or_default();
        let preflight = Preflight::look(&iomem, physical.as_deref(), &exposed, refused.clone(), notes);
        put_json(out, "preflight.json", &preflight, started, "read:/proc")?;
        let Some(physical) = physical else { return nothing(out, params, &preflight, &refused) };
        let flags = open_flags(out)?;
        let run = Run { physical: physical.as_ref(), flags: flags.as_ref().map(|f| f as &dyn Flags), iomem: &iomem, exposed, preflight };
        run.all(params, out)
    }
}

/// Page flags, or an item that says why there are none.
fn open_flags(out: &mut dyn Output) -> Result<Option<OwnedFd>, Stop> {
    let started = out.now();
    match openat(rustix::fs::CWD, "/proc/kpageflags", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(file) => Ok(Some(file)),
        Err(e) => {
            let (status, reason) = refusal(e);
            let reason = format!("{reason}: pages are not told apart, and zeros that the kernel gave are not told from real ones");
            let item = NewItem::record(map::FLAGS_BEFORE, started, "read:/proc/kpageflags").with_status(status, reason);
            out.put(item, Content::None)?;
            Ok(None)
        }
    }
}

/// No source gives memory: says so where an examiner looks for the image, and takes what can be had instead.
fn nothing(out: &mut dyn Output, params: &Params, preflight: &Preflight, refused: &[Refused]) -> Result<(), Stop> {
    let started = out.now();
    let tried: Vec<String> = refused.iter().map(|r| format!("{}: {}", r.source, r.reason)).collect();
    let reason = format!("no source gives physical memory (lockdown: {}): {}", preflight.lockdown(), tried.join("; "));
    let denied = refused.iter().any(|r| r.reason.contains("Permission") || r.reason.contains("not permitted") || r.reason.contains("CAP_"));
    let status = if denied { Status::Denied } else { Status::Missing };
    out.put(NewItem::record(FULL, started, "none").with_status(status, reason.clone()), Content::None)?;
    meta::put(out, None)?;
    if !params.flag("fallback", true)? {
        return Err(Stop::Nothing(reason));
    }
    out.note("physical memory is refused: taking that of every process");
    let taken = process_memory::all(out)?;
    let (cores, meant) = (taken.cores, taken.meant);
    Err(Stop::Nothing(format!("{reason}; instead the memory of {cores} of {meant} processes was taken one by one")))
}

struct Run<'a> {
    physical: &'a dyn Physical,
    flags: Option<&'a dyn Flags>,
    iomem: &'a Iomem,
    /// What of System RAM the source shows.
    exposed: Vec<Range>,
    preflight: Preflight,
}

impl Run<'_> {
    fn all(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        meta::put(out, Some(self.physical))?;
        map::put_flags(out, self.flags, &self.iomem.ram, map::FLAGS_BEFORE)?;
        let began = clock::monotonic();
        if params.flag("full", true)? {
            out.expect(total(&self.exposed));
        }
        let percent = params.number("priority_percent")?.unwrap_or(10).min(50);
        let mut smear = Smear::new(Layout::default());
        if params.flag("priority", true)? {
            smear = self.first(percent, out)?;
        }
        smear.begin_second();
        if params.flag("full", true)? {
            let layout = Layout::new(self.exposed.clone());
            self.image(out, FULL, "map.jsonl", &layout, &mut smear)?;
        }
        map::put_flags(out, self.flags, &self.iomem.ram, map::FLAGS_AFTER)?;
        let window = clock::monotonic().saturating_sub(began);
        let now = out.now();
        put_json(out, "smear.json", &smear.report(window.as_millis() as u64), now, "compare")
    }

    /// The first pass; what it saw is what the second is compared with.
    fn first(&self, percent: u64, out: &mut dyn Output) -> Result<Smear, Stop> {
        let started = out.now();
        let Some(flags) = self.flags else {
            let reason = "without /proc/kpageflags nothing says which pages these are; the image of all memory has them";
            let item = NewItem::record(FIRST, started, "none").with_status(Status::Missing, reason);
            out.put(item, Content::None)?;
            return Ok(Smear::new(Layout::default()));
        };
        out.note("choosing pages for the first pass");
        let pages_max = total(&self.iomem.ram) / PAGE * percent / 100;
        let chosen = select::share(&select::count(flags, &self.exposed, self.iomem), pages_max);
        out.checkpoint()?;
        let layout = Layout::new(select::ranges(flags, &self.exposed, self.iomem, &chosen, pages_max));
        put_json(out, "priority.json", &chosen, started, "read:/proc/kpageflags")?;
        let mut smear = Smear::new(layout.clone());
        self.image(out, FIRST, "priority-map.jsonl", &layout, &mut smear)?;
        Ok(smear)
    }

    fn image(&self, out: &mut dyn Output, name: &str, list: &'static str, layout: &Layout, smear: &mut Smear) -> Result<(), Stop> {
        out.note(&format!("{name}: {} MiB", layout.size() >> 20));
        let mut item = NewItem::record(name, out.now(), "read:physical-memory");
        item.facts = meta::facts(&[
            ("format", "lime-1".to_owned()),
            ("source", self.physical.name().to_owned()),
            ("system_ram_bytes", total(&self.iomem.ram).to_string()),
            ("image_ranges", layout.ranges().len().to_string()),
            ("image_memory_bytes", total(layout.ranges()).to_string()),
            ("not_exposed_bytes", total(&self.iomem.ram).saturating_sub(total(&self.exposed)).to_string()),
            ("lockdown", self.preflight.lockdown().to_owned()),
        ]);
        if !self.preflight.warnings.is_empty() {
            item.facts.insert("warnings".to_owned(), self.preflight.warnings.join(" | "));
        }
        let from = From { physical: self.physical, flags: self.flags, iomem: self.iomem };
        let mut image = Image::new(&from, layout, smear, list);
        let started = out.now();
        let done = out.put(item, Content::Source { size: layout.size(), extents: None, source: &mut image });
        let diary = std::mem::take(&mut image.diary);
        done?;
        self.map(out, list, &diary, layout, started)
    }

    /// The map of an image; in that of all memory, every byte of System RAM.
    fn map(&self, out: &mut dyn Output, list: &str, diary: &Diary, layout: &Layout, started: super::Moment) -> Result<(), Stop> {
        let stem = list.strip_suffix(".jsonl").unwrap_or(list);
        let hidden = if list == "map.jsonl" { without(&self.iomem.ram, &self.exposed) } else { Vec::new() };
        map::put(out, stem, &map::Shown { diary, layout, hidden: &hidden, source: self.physical.name() }, started)
    }
}
