//! The `memory` capture: all of the host's RAM, without a kernel module, and everything that is needed to read it.
//!
//! Two passes, each an image of its own: first, within minutes, the pages that decide an analysis and change fastest; then
//! all of System RAM. No zeros are left out, and every byte of System RAM ends in the map as data, as a gap with its reason,
//! or as zeros that the kernel gave instead of content. What stands in the way of one source leads to the next; if there is
//! none, the processes' memory is taken one by one.

mod core;
mod diary;
mod flags;
mod grown;
mod holes;
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
mod symbols;
mod tables;
#[cfg(test)]
mod tests;
mod window;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, openat};

use self::flags::Flags;
use self::image::{From, Image};
use self::iomem::Iomem;
use self::lime::Layout;
use self::physical::{Physical, Refused};
use self::preflight::Preflight;
use self::ranges::{PAGE, Range, total, without};
use self::smear::Smear;
use self::tables::Tables;
use super::live::{LARGE_BYTES_MAX, put_json, read, refusal};
use super::process_memory;
use super::{Capture, Content, NewItem, Output, Params, Status, Stop};
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

/// The images, each with its map.
const FULL: (&str, &str) = ("memory.lime", "map.jsonl");
const FIRST: (&str, &str) = ("priority.lime", "priority-map.jsonl");
/// Of memory that was added meanwhile.
const ADDED: (&str, &str) = ("added.lime", "added-map.jsonl");

impl Capture for Memory {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        out.note("looking where memory can be read");
        let started = out.now();
        let before = (read("/proc/iomem", LARGE_BYTES_MAX), started);
        let iomem = before.0.as_ref().map(Iomem::of).unwrap_or_default();
        let (physical, mut refused) = if iomem.ram.is_empty() { (None, Vec::new()) } else { physical::open(&iomem.ram) };
        if let Err(e) = before.0 {
            refused.push(Refused { source: "/proc/iomem", reason: format!("{}: where memory lies is not known", refusal(e).1) });
        } else if iomem.ram.is_empty() {
            let why = if iomem.hidden { "shows only zeros: CAP_SYS_ADMIN is missing" } else { "lists no System RAM" };
            refused.push(Refused { source: "/proc/iomem", reason: why.to_owned() });
        }
        let exposed = physical.as_ref().map(|p| p.exposed(&iomem.ram)).unwrap_or_default();
        let notes = physical.as_ref().and_then(|p| p.notes()).and_then(kcore::vmcoreinfo).unwrap_or_default();
        let tables = tables(physical.as_deref(), notes, preflight::page_bytes());
        let preflight = Preflight::look(&iomem, physical.as_deref(), &exposed, refused.clone(), notes, &tables);
        put_json(out, "preflight.json", &preflight, started, "read:/proc")?;
        let Some(physical) = physical else { return nothing(out, params, (&preflight, &refused), (&before.0, started)) };
        let flags = open_flags(out, preflight::page_bytes())?;
        let run = Run {
            physical: physical.as_ref(),
            tables: tables.as_ref().ok(),
            flags: flags.as_ref().map(|f| f as &dyn Flags),
            iomem: &iomem,
            exposed,
            preflight,
        };
        meta::put(out, Some(run.physical), (&before.0, started))?;
        run.all(params, out)
    }
}

/// The kernel's page tables, or why zeros are not held against them.
fn tables(physical: Option<&dyn Physical>, vmcoreinfo: &[u8], page_bytes: u64) -> Result<Tables, String> {
    match physical {
        None => Err("there is no source".to_owned()),
        Some(_) if page_bytes != PAGE => Err(preflight::other_pages(page_bytes)),
        Some(physical) => Tables::of(physical, vmcoreinfo, symbols::address),
    }
}

/// Page flags, or an item that says why there are none.
fn open_flags(out: &mut dyn Output, page_bytes: u64) -> Result<Option<OwnedFd>, Stop> {
    let started = out.now();
    let opened = match page_bytes {
        PAGE => openat(rustix::fs::CWD, "/proc/kpageflags", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(refusal),
        other => Err((Status::Skipped, preflight::other_pages(other))),
    };
    match opened {
        Ok(file) => Ok(Some(file)),
        Err((status, reason)) => {
            let reason = format!("{reason}: pages are not told apart, and zeros that the kernel gave are not told from real ones");
            let item = NewItem::record(map::FLAGS_BEFORE, started, "read:/proc/kpageflags").with_status(status, reason);
            out.put(item, Content::None)?;
            Ok(None)
        }
    }
}

/// No source gives memory: says so where an examiner looks for the image, and takes what can be had instead.
fn nothing(
    out: &mut dyn Output,
    params: &Params,
    (preflight, refused): (&Preflight, &[Refused]),
    iomem: meta::Before<'_>,
) -> Result<(), Stop> {
    let started = out.now();
    let tried: Vec<String> = refused.iter().map(|r| format!("{}: {}", r.source, r.reason)).collect();
    let reason = format!("no source gives physical memory (lockdown: {}): {}", preflight.lockdown(), tried.join("; "));
    let denied = refused.iter().any(|r| r.reason.contains("Permission") || r.reason.contains("not permitted") || r.reason.contains("CAP_"));
    let status = if denied { Status::Denied } else { Status::Missing };
    out.put(NewItem::record(FULL.0, started, "none").with_status(status, reason.clone()), Content::None)?;
    meta::put(out, None, iomem)?;
    if !params.flag("fallback", true)? {
        return Err(Stop::Nothing(reason));
    }
    out.note("physical memory is refused: taking that of every process");
    let taken = match process_memory::all(out) {
        Err(Stop::Nothing(why)) => return Err(Stop::Nothing(format!("{reason}; nor was the memory of processes taken one by one: {why}"))),
        other => other?,
    };
    let (cores, meant, in_part) = (taken.cores, taken.meant, taken.in_part);
    Err(Stop::Nothing(format!(
        "{reason}; instead the memory of {cores} of {meant} processes was taken one by one ({in_part} of them in part)"
    )))
}

/// Why an image is not whole: the source shows a page or more of what should be in it not at all. Less than a page at the edge of a range
/// is nothing that the kernel itself uses as memory.
fn not_shown(hidden: &[Range], source: &str, list: &str) -> Option<String> {
    let page = preflight::page_bytes();
    let holds_page =
        |r: &Range| r.start.checked_next_multiple_of(page).and_then(|first| first.checked_add(page)).is_some_and(|end| end <= r.end);
    let bytes = total(hidden);
    hidden.iter().any(holds_page).then(|| format!("{bytes} bytes of System RAM are not shown by {source}: they are gaps in {list}"))
}

struct Run<'a> {
    physical: &'a dyn Physical,
    tables: Option<&'a Tables>,
    flags: Option<&'a dyn Flags>,
    iomem: &'a Iomem,
    /// What of System RAM the source shows.
    exposed: Vec<Range>,
    preflight: Preflight,
}

impl Run<'_> {
    fn all(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        map::put_flags(out, self.flags, &self.iomem.ram, map::FLAGS_BEFORE)?;
        let full = params.flag("full", true)?;
        if full {
            out.expect(total(&self.exposed));
        }
        let percent = params.number("priority_percent")?.unwrap_or(10).min(50);
        let began = clock::monotonic();
        let mut smear = Smear::new(Arc::default());
        if params.flag("priority", true)? {
            smear = self.first(percent, out)?;
        }
        smear.begin_second();
        let image = if full {
            let layout = Layout::new(self.exposed.clone());
            self.image(out, FULL, (&self.iomem.ram, &layout), &mut smear)
        } else {
            Ok(())
        };
        let window = clock::monotonic().saturating_sub(began);
        // Told to end, nothing more is read; what was compared until then is there.
        let flags = image.and_then(|()| map::put_flags(out, self.flags, &self.iomem.ram, map::FLAGS_AFTER));
        let now = out.now();
        let put = put_json(out, "smear.json", &smear.report(window.as_millis() as u64), now, "compare");
        flags.and(put)?;
        self.grown(full, out)
    }

    /// Memory that was added meanwhile, in an image of its own.
    fn grown(&self, full: bool, out: &mut dyn Output) -> Result<(), Stop> {
        let added = grown::look(out, self.physical, &self.iomem.ram)?;
        if !full || added.is_empty() {
            return Ok(());
        }
        let layout = Layout::new(self.physical.exposed(&added));
        self.image(out, ADDED, (&added, &layout), &mut Smear::new(Arc::default()))
    }

    /// The first pass; what it saw is what the second is compared with.
    fn first(&self, percent: u64, out: &mut dyn Output) -> Result<Smear, Stop> {
        let started = out.now();
        let Some(flags) = self.flags else {
            let reason = "without /proc/kpageflags nothing says which pages these are; the image of all memory has them";
            let item = NewItem::record(FIRST.0, started, "none").with_status(Status::Missing, reason);
            out.put(item, Content::None)?;
            return Ok(Smear::new(Arc::default()));
        };
        out.note("choosing pages for the first pass");
        let pages_max = total(&self.iomem.ram) / PAGE * percent / 100;
        let choice = select::choose(flags, &self.exposed, self.iomem, pages_max, &mut || out.checkpoint())?;
        put_json(out, "priority.json", &choice.classes, started, "read:/proc/kpageflags")?;
        let layout = Arc::new(Layout::new(choice.ranges));
        let mut smear = Smear::new(Arc::clone(&layout));
        self.image(out, FIRST, (&[], &layout), &mut smear)?;
        Ok(smear)
    }

    /// An image, and its map: of the ranges in `ram` every byte, of others what is in the image.
    fn image(
        &self,
        out: &mut dyn Output,
        (name, list): (&str, &'static str),
        (ram, layout): (&[Range], &Layout),
        smear: &mut Smear,
    ) -> Result<(), Stop> {
        out.note(&format!("{name}: {} MiB", layout.size() >> 20));
        let changes = self.physical.changes();
        let hidden = without(ram, layout.ranges());
        let mut item = NewItem::record(name, out.now(), "read:physical-memory");
        item.facts = meta::facts(&[
            ("format", "lime-1".to_owned()),
            ("source", self.physical.name().to_owned()),
            ("system_ram_bytes", total(&self.iomem.ram).to_string()),
            ("image_ranges", layout.ranges().len().to_string()),
            ("image_memory_bytes", total(layout.ranges()).to_string()),
            ("image_end", format!("{:#x}", layout.ranges().last().map_or(0, |r| r.end))),
            ("not_exposed_bytes", total(&self.iomem.ram).saturating_sub(total(&self.exposed)).to_string()),
            ("lockdown", self.preflight.lockdown().to_owned()),
        ]);
        if !self.preflight.warnings.is_empty() {
            item.facts.insert("warnings".to_owned(), self.preflight.warnings.join(" | "));
        }
        if let Some(why) = not_shown(&hidden, self.physical.name(), list) {
            item = item.with_status(Status::Partial, why);
        }
        let withholds = window::withholds(self.physical.name(), &self.preflight.release);
        let from = From { physical: self.physical, tables: self.tables, flags: self.flags, iomem: self.iomem, withholds };
        let mut image = Image::new(&from, layout, smear, list);
        let started = out.now();
        let done = if layout.ranges().is_empty() {
            let reason =
                if ram.is_empty() { "no page was chosen".to_owned() } else { format!("{} shows none of it", self.physical.name()) };
            out.put(item.with_status(Status::Missing, reason), Content::None)
        } else {
            out.put(item, Content::Source { size: layout.size(), extents: None, source: &mut image })
        };
        let diary = std::mem::take(&mut image.diary);
        let stem = list.strip_suffix(".jsonl").unwrap_or(list);
        let source_changes = self.physical.changes().saturating_sub(changes);
        let shown = map::Shown { diary: &diary, layout, hidden: &hidden, source: self.physical.name(), source_changes };
        // Also when the image is the last thing that is taken: it names its map.
        let put = map::put(out, stem, &shown, started);
        done?;
        put
    }
}
