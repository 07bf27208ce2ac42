//! Copies the pages that have to fit the registers, while a process stands in mode `fast`. The C library's list of threads goes from
//! thread to thread through the memory of each: read while threads come and go it leads nowhere, or in a circle without end.
//!
//! Only what the process has in memory is read, through its `mem`, which waits for no userfaultfd: it costs microseconds, and nothing is
//! brought there by it.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::{Errno, pread};

use super::behind::{is_made_up, map_file};
use super::choose::{Choice, Place};
use super::kept::{KeptPages, PAGES_MAX};
use super::look::Looked;
use super::pages::{Page, Pages};
use super::regions::{Class, PAGE, Region};
use crate::capture::process::gather;
use crate::clock;

/// Of the pages so many at most are data of libraries.
const LIBRARY_PAGES_MAX: usize = 64;
/// Pages of each stack, as long as there is room for as many of every thread.
const STACK_PAGES: usize = 4;
/// Words that may be looked at as the next of a list, each costs two calls.
const NODES_MAX: usize = 256;
/// How long copying goes on: where it takes longer, the agent has no processor.
const COPY_PATIENCE: Duration = Duration::from_millis(50);

/// What is needed to copy, beside the mappings, for which somebody else waits already.
pub struct Keeper {
    choice: Choice,
    /// `/proc/<pid>`, and the mappings of files in which data of libraries is.
    dir: Arc<OwnedFd>,
    files: Vec<Region>,
    places: Vec<Place>,
    copying: Copying,
}

impl Keeper {
    /// For a process that was looked at, with its threads. `None` where its pages cannot be seen: then nobody knows which are there.
    #[must_use]
    pub fn new(looked: &Looked, places: Vec<Place>, kept: KeptPages, dir: Arc<OwnedFd>) -> Option<Self> {
        let pages = looked.pages.as_ref().ok()?.again();
        let memory = looked.memory.try_clone().ok()?;
        let may_hold_environment = |region: &Region| {
            let told = looked.environment.is_some_and(|(start, end)| start < region.end && region.start < end);
            told || looked.regions.name(region) == b"[stack]"
        };
        let spares = kept.spares_environment;
        let choice = Choice::new(&looked.regions, &looked.auxv, &|region| spares && may_hold_environment(region));
        let of_library = choice.library.iter().filter_map(|(start, _)| looked.regions.holding(*start));
        let files = of_library.filter(|region| region.class == Class::File).copied().collect();
        Some(Self { choice, dir, files, places, copying: Copying { kept, pages, memory, until: Duration::ZERO } })
    }

    /// Copies: first what decides whether a debugger finds the threads, then what of their stacks has room.
    #[must_use]
    pub fn kept(mut self) -> KeptPages {
        self.copying.until = clock::monotonic().saturating_add(COPY_PATIENCE);
        self.all()
    }

    fn all(self) -> KeptPages {
        let Self { choice, dir, files, places, mut copying } = self;
        for range in &choice.library {
            let file = files.iter().find(|region| region.start == range.0);
            if file.is_none_or(|region| is_file(&dir, region)) {
                copying.range(*range, LIBRARY_PAGES_MAX);
            }
        }
        for range in places.iter().filter_map(|place| choice.record(*place)) {
            copying.range(range, PAGES_MAX);
        }
        copying.lists(&choice);
        for range in &choice.ends {
            copying.range(*range, PAGES_MAX);
        }
        let share = copying.room().checked_div(places.len()).unwrap_or(0).clamp(1, STACK_PAGES);
        for range in places.iter().filter_map(|place| choice.stack(*place, share as u64)) {
            copying.range(range, PAGES_MAX);
        }
        copying.kept.closed()
    }
}

/// Whether a regular file is behind a mapping, and none of those that are devices' memory: a device can be called like a library, and
/// reading a device does something. Who may not look (without CAP_SYS_ADMIN) goes by the name.
fn is_file(dir: &OwnedFd, region: &Region) -> bool {
    match gather::look(dir, map_file(region)) {
        // Which file system it is on a dead server would not say: only those without blocks of their own are asked, as the kernel's are.
        Ok(stat) => gather::kind_of(&stat) == "file" && (stat.stx_blocks > 0 || !is_made_up(dir, region)),
        Err(e) => matches!(e, Errno::PERM | Errno::ACCESS),
    }
}

struct Copying {
    kept: KeptPages,
    pages: Pages,
    memory: OwnedFd,
    /// When it ends.
    until: Duration,
}

impl Copying {
    const fn room(&self) -> usize {
        PAGES_MAX.saturating_sub(self.kept.count())
    }

    fn is_late(&self) -> bool {
        clock::monotonic() > self.until
    }

    /// Copies what is in memory between two addresses, until there are `most` pages in all.
    fn range(&mut self, (start, end): (u64, u64), most: usize) {
        let mut at = start;
        while at < end && self.kept.count() < most.min(PAGES_MAX) && !self.is_late() {
            let rest = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let Ok((kind, bytes)) = self.pages.run(at, rest) else { return };
            let next = at.saturating_add((bytes as u64).max(PAGE)).min(end);
            if kind == Page::Present {
                self.kept.copy(&self.memory, at, next, most);
            }
            at = next;
        }
    }

    /// Follows the lists that go through what was copied, and copies what they lead to. The record of a thread that ended and that nobody
    /// waited for yet is in such a list, and nothing else tells where it lies. Returns how many pages were looked through.
    fn lists(&mut self, choice: &Choice) -> usize {
        let (Some((low, _)), Some((_, high))) = (choice.memory.first().copied(), choice.memory.last().copied()) else { return 0 };
        let (mut slot, mut left) = (0_usize, NODES_MAX);
        // Looking through a page takes its time also where it leads nowhere.
        while let Some(base) = self.kept.address(slot).filter(|_| !self.is_late()) {
            for n in 0..(PAGE / 8) as usize {
                let word = self.kept.word(slot, n).unwrap_or(0);
                let page = word.saturating_sub(word % PAGE);
                // A node is two words in one page.
                let can_be = low <= word && word < high && word.is_multiple_of(8) && word.saturating_sub(page) <= PAGE.saturating_sub(16);
                if !can_be || self.kept.holds(page) || choice.holding(word).is_none() {
                    continue;
                }
                let Some(rest) = left.checked_sub(1).filter(|_| self.room() > 0 && !self.is_late()) else { return slot };
                left = rest;
                let from = base.saturating_add((n as u64).saturating_mul(8));
                if self.is_node(word, from) {
                    self.kept.copy(&self.memory, page, page.saturating_add(PAGE), PAGES_MAX);
                }
            }
            slot = slot.saturating_add(1);
        }
        slot
    }

    /// Whether a word at `from` that names `at` is a link of a list that can be followed both ways: to the next node, which names this one
    /// as the one before it, or the other way round. A list that was being changed has one of the two at the place of the change.
    fn is_node(&mut self, at: u64, from: u64) -> bool {
        let page = at.saturating_sub(at % PAGE);
        let mut node = [0_u8; 16];
        let is_there = matches!(self.pages.run(page, PAGE as usize), Ok((Page::Present, _)));
        if !is_there || !pread(&self.memory, &mut node, at).is_ok_and(|got| got == 16) {
            return false;
        }
        match node.as_chunks::<8>().0 {
            [next, before] => u64::from_ne_bytes(*before) == from || u64::from_ne_bytes(*next) == from.wrapping_sub(8),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::kept::tests::block;
    use super::super::regions::Regions;
    use super::*;
    use crate::capture::live::{open_at, open_dir};

    const PAGE_BYTES: usize = PAGE as usize;

    fn own(name: &str) -> OwnedFd {
        open_at(rustix::fs::CWD, format!("/proc/self/{name}")).expect("opened")
    }

    fn copying() -> Copying {
        let until = clock::monotonic().saturating_add(Duration::from_mins(1));
        Copying { kept: KeptPages::room(false), pages: Pages::new(own("pagemap")), memory: own("mem"), until }
    }

    fn folder() -> Arc<OwnedFd> {
        Arc::new(open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("own folder"))
    }

    #[test]
    fn what_is_called_like_a_library_and_is_no_file_is_not_copied() {
        let (base, _, _block) = block(4);
        let library = (base, base + 4 * PAGE);
        let kept = |files: Vec<Region>| {
            let choice = Choice { library: vec![library], ..Choice::default() };
            let keeper = Keeper { choice, dir: folder(), files, places: Vec::new(), copying: copying() };
            keeper.all().count()
        };
        assert_eq!(kept(Vec::new()), 4, "memory behind a library's data has no file");
        // As of a file, and there is none behind it.
        assert_eq!(kept(vec![Region { start: base, end: library.1, class: Class::File, ..Region::default() }]), 0);
        let maps = std::fs::read("/proc/self/maps").expect("own mappings");
        let regions = Regions::parse(&maps);
        let program = regions.list().iter().find(|region| region.class == Class::File).expect("the program");
        assert!(is_file(&folder(), program));
        // A file of the kernel is called like a library.
        let temp = tempfile::tempdir().expect("folder");
        let region = Region { start: 0x1000, end: 0x2000, class: Class::File, ..Region::default() };
        let link = temp.path().join(map_file(&region));
        std::fs::create_dir(temp.path().join("map_files")).expect("folder");
        let dir = open_dir(rustix::fs::CWD, temp.path()).expect("folder");
        for (target, expected) in [("/proc/version", false), ("/proc/self/exe", true)] {
            std::os::unix::fs::symlink(target, &link).expect("link");
            assert_eq!(is_file(&dir, &region), expected, "{target}");
            std::fs::remove_file(&link).expect("removed");
        }
    }

    #[test]
    fn libraries_and_records_come_first_and_stacks_share_what_is_left() {
        let (base, _, _block) = block(600);
        let at = |page: u64| base + page * PAGE;
        let choice = Choice { library: vec![(base, at(100))], ends: vec![(at(198), at(200))], memory: vec![(at(100), at(600))] };
        // 90 threads: their records are one page each, their stacks begin elsewhere.
        let place = |n: u64| Place { thread: Some(at(200 + n) + 64), stack: Some(at(300 + 3 * n) + 8) };
        let (dir, files, places) = (folder(), Vec::new(), (0..90).map(place).collect());
        let keeper = Keeper { choice, dir, files, places, copying: copying() };
        let kept = keeper.all();
        let held = |from: u64, to: u64| (from..to).filter(|page| kept.holds(at(*page))).count();
        assert_eq!((held(0, 64), held(64, 198), held(198, 200)), (64, 0, 2));
        assert!(held(200, 290) >= 90);
        let stacks = (0..90_u64).filter(|n| kept.holds(at(300 + 3 * *n))).count();
        assert!(stacks >= 85 && kept.count() <= PAGES_MAX, "{stacks} stacks, {} pages", kept.count());
    }

    #[test]
    fn what_is_not_in_memory_is_not_brought_there_and_time_is_bounded() {
        let block = vec![0_u8; 4 << 20];
        let base = (block.as_ptr() as u64).next_multiple_of(PAGE) + 64 * PAGE;
        let end = base + 200 * PAGE;
        let present = || {
            let mut count = 0_usize;
            let mut each = |start: u64, end: u64, _: Page| count += ((end - start) / PAGE) as usize;
            Pages::new(own("pagemap")).ranges(base, end, &mut || true, &mut each).expect("looked");
            count
        };
        let before = present();
        let mut copying = copying();
        copying.range((base, end), PAGES_MAX);
        assert_eq!((copying.kept.count(), present()), (before, before));
        copying.until = Duration::ZERO;
        let here = (&raw const copying as u64).next_multiple_of(PAGE) - PAGE;
        copying.range((here, here + PAGE), PAGES_MAX);
        assert_eq!(copying.kept.count(), before, "when its time is over nothing is copied");
    }

    #[test]
    fn a_list_is_followed_to_its_end_and_nothing_else_is() {
        let (base, first, mut block) = block(16);
        let node = |page: u64| base + page * PAGE + 0x2c0;
        // A ring over pages 1, 5, 9 and 12; page 3 is only pointed at, and so is the end of page 4.
        let ring = [1, 5, 9, 12];
        let mut put = |address: u64, word: u64| {
            let at = first + (address - base) as usize;
            block[at..at + 8].copy_from_slice(&word.to_ne_bytes());
        };
        for (n, page) in ring.into_iter().enumerate() {
            put(node(page), node(ring[(n + 1) % 4]));
            put(node(page) + 8, node(ring[(n + 3) % 4]));
        }
        put(base + PAGE, node(3));
        put(base + PAGE + 8, base + 5 * PAGE - 8);
        // It was being changed: page 9 does not name the one before it yet, and is found from the other side.
        put(node(9) + 8, 0);
        let choice = Choice { memory: vec![(base, base + 16 * PAGE)], ..Choice::default() };
        let mut copying = copying();
        copying.range((base + PAGE, base + 2 * PAGE), PAGES_MAX);
        copying.lists(&choice);
        let held: Vec<u64> = (0..16).filter(|page| copying.kept.holds(base + page * PAGE)).collect();
        assert_eq!(held, ring);
        assert_eq!(block.len(), 17 * PAGE_BYTES);
        // All of them lead nowhere else now, and are looked through once more; not when the time is over.
        assert_eq!(copying.lists(&choice), ring.len());
        copying.until = Duration::ZERO;
        assert_eq!(copying.lists(&choice), 0);
    }
}
