//! Reading the memory of a process without touching what it never touched: pages that it has are read through it, pages of
//! files that it has not are read from the file, and what does not exist is zeros. So no page is made by looking.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use exhibit_agent_sys::memory::read_process;
use rustix::fs::AtFlags;
use rustix::io::{Errno, pread};

use super::behind::open_behind;
use super::kept::KeptPages;
use super::pages::{Page, Pages};
use super::plan::{Devices, Wish};
use super::regions::{Class, PAGE, PROTECTED, Region, Regions, SUPPLIED};
use super::silent::{self, Dev, Silent};
use super::stop::Stands;
use super::unmapped::{UNMAPPED, Unmapped};
use crate::capture::left::Asked;

/// Why what userfaultfd watches is not read where there is no page.
pub const NOT_SUPPLIED: &str =
    "not in memory, and watched by userfaultfd: a program would supply it when touched, which would run that program, so it is not touched";

/// Why nothing is there where the process put a guard.
pub const GUARD: &str = "a guard (MADV_GUARD_INSTALL): the process has no memory there, and is ended when it touches it";

/// Why nothing is read of a device's mapping where there is no page of the process's own.
pub const NOT_OWN: &str =
    "no page of the process's own: beneath it lies a device, and reading it could do something or take for ever, so it is not read";

/// Why nothing more can be read of a process.
pub const GONE: &str = "the process ended or ran another program";

/// The thread reads no mapping right now: if it hangs there, it waits for a lock of the whole process.
pub const NOWHERE: u64 = u64::MAX;

/// The rest of a mapping from which a read did not come back.
#[derive(Debug, Clone, Copy)]
pub struct Lost {
    /// The address that was asked for.
    pub start: u64,
    /// Where the mapping ends.
    pub end: u64,
    /// Its device.
    pub dev: Dev,
    /// How long was waited.
    pub patience: Duration,
}

/// Bytes by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Read from the process's pages, those in swap among them.
    pub memory: u64,
    /// Of those, in swap when they were asked for.
    pub swapped: u64,
    /// Read from mapped files.
    pub files: u64,
    /// Pages that do not exist and read as zeros.
    pub zeros: u64,
}

/// A read that gave nothing.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: io::Error,
    /// How many bytes from there on cannot be read for that reason.
    pub bytes: u64,
    /// The memory itself is gone: the process ended, or runs another program.
    pub gone: bool,
}

impl Failed {
    fn new(error: impl Into<io::Error>, bytes: usize) -> Self {
        Self { error: error.into(), bytes: bytes as u64, gone: false }
    }

    fn said(reason: &str, bytes: usize) -> Self {
        Self::new(io::Error::other(reason.to_owned()), bytes)
    }

    fn gone() -> Self {
        Self { gone: true, ..Self::said(GONE, 1) }
    }
}

/// Everything that is needed to read.
pub struct Access {
    /// `/proc/<pid>`, opened.
    pub dir: Arc<OwnedFd>,
    /// `/proc/<pid>/mem`, opened while it stood.
    pub memory: Arc<OwnedFd>,
    /// Its pages, if they can be looked at.
    pub pages: Option<Pages>,
    /// Its mappings.
    pub regions: Arc<Regions>,
    /// Pages that were copied while it stood: they stand in the place of what is there now.
    pub kept: Arc<KeptPages>,
    /// What the order wants.
    pub wish: Wish,
    /// File systems.
    pub devices: Arc<Devices>,
    /// Those that do not answer.
    pub silent: Silent,
    /// Counts the process while a thread waits for it that was left behind.
    pub asked: Arc<Asked>,
    /// What did not answer of this process.
    pub lost: Vec<Lost>,
    /// The address that is being read: in which mapping a thread hangs that does not come back.
    pub place: Arc<AtomicU64>,
    /// Its number, and whether it stands right now: then it cannot run another program, and the faster call may be used. That
    /// call waits for userfaultfd, so it is not for mappings that are watched, nor where that is not known.
    pub held: Option<(u32, Stands)>,
    /// The file behind the mapping that was read last.
    pub open: Option<(u64, Behind)>,
    /// What is not mapped any more.
    pub unmapped: Unmapped,
    /// Where there was no page any more, of what was read since it was taken from here.
    pub given_back: Vec<(u64, u64)>,
    /// The pages were looked at when it was planned: where data was to be, there was one.
    pub sees_pages: bool,
    /// So far.
    pub counts: Counts,
}

/// The file behind a mapping.
pub enum Behind {
    /// Opened.
    Open(OwnedFd),
    /// Not to be read, for this reason.
    Elsewhere(String),
    /// It cannot be opened: its pages come through the process.
    Unknown,
}

impl Access {
    /// The same for a further thread, which begins where the last answer ended.
    #[must_use]
    pub fn again(&self) -> Self {
        Self {
            dir: Arc::clone(&self.dir),
            memory: Arc::clone(&self.memory),
            pages: self.pages.as_ref().map(Pages::again),
            regions: Arc::clone(&self.regions),
            kept: Arc::clone(&self.kept),
            wish: self.wish.clone(),
            devices: Arc::clone(&self.devices),
            silent: self.silent.clone(),
            asked: Arc::clone(&self.asked),
            lost: self.lost.clone(),
            place: Arc::new(AtomicU64::new(NOWHERE)),
            held: self.held.clone(),
            open: None,
            unmapped: self.unmapped.clone(),
            given_back: Vec::new(),
            sees_pages: self.sees_pages,
            counts: self.counts,
        }
    }

    /// Fills a buffer from pieces, up to the first that cannot be had whole.
    ///
    /// # Errors
    /// [`Failed`] when the first byte cannot be had.
    pub fn fill_all(&mut self, pieces: &[(u64, usize)], buffer: &mut [u8]) -> Result<usize, Failed> {
        let mut filled = 0_usize;
        for (address, length) in pieces {
            let end = filled.saturating_add(*length).min(buffer.len());
            match self.fill(*address, buffer.get_mut(filled..end).unwrap_or_default()) {
                Ok(got) => {
                    filled = filled.saturating_add(got);
                    if got < *length {
                        break;
                    }
                }
                Err(e) if filled == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(filled)
    }

    /// Fills a buffer from an address on, as far as one mapping and one reason go.
    fn fill(&mut self, address: u64, buffer: &mut [u8]) -> Result<usize, Failed> {
        let regions = Arc::clone(&self.regions);
        let Some(region) = regions.holding(address) else { return Err(Failed::said("no mapping", buffer.len())) };
        let length = buffer.len().min(region.end.saturating_sub(address) as usize);
        let mut filled = 0_usize;
        while filled < length {
            let at = address.saturating_add(filled as u64);
            let rest = buffer.get_mut(filled..length).unwrap_or_default();
            match self.run(region, at, rest) {
                Ok(0) => break,
                Ok(count) => filled = filled.saturating_add(count),
                Err(e) if filled == 0 => return Err(self.explained(region, at, e)),
                Err(_) => break,
            }
        }
        if filled == 0 { Err(Failed::gone()) } else { Ok(filled) }
    }

    /// Says of memory that was given back that it was: the kernel says the same of it as of memory that is broken.
    fn explained(&mut self, region: &Region, at: u64, failed: Failed) -> Failed {
        if failed.gone || failed.error.raw_os_error() != Some(Errno::IO.raw_os_error()) {
            return failed;
        }
        // The table waits for a lock of the whole process.
        self.place.store(NOWHERE, Ordering::Relaxed);
        self.not_mapped(region, at).unwrap_or(failed)
    }

    /// Says of memory that is not mapped any more that it is not, up to the next page that was kept.
    fn not_mapped(&mut self, region: &Region, at: u64) -> Option<Failed> {
        let bytes = self.unmapped.bytes(at, region.end)?;
        Some(Failed::said(UNMAPPED, self.kept.before(at, bytes as usize)))
    }

    /// Gives the zeros of memory without a page, and says so where there was one: nothing but what had a page is asked for, and small
    /// holes between pages.
    fn without_page(&mut self, region: &Region, at: u64, buffer: &mut [u8]) -> Result<usize, Failed> {
        let bytes = buffer.len() as u64;
        if self.sees_pages {
            // The table waits for a lock of the whole process.
            self.place.store(NOWHERE, Ordering::Relaxed);
            if let Some(failed) = self.not_mapped(region, at) {
                return Err(failed);
            }
            // Where writing is watched, a mark that is no page may have been listed as one.
            if region.bits & PROTECTED == 0 {
                self.given_back.push((at, at.saturating_add(bytes)));
            }
        }
        buffer.fill(0);
        self.counts.zeros = self.counts.zeros.saturating_add(bytes);
        Ok(buffer.len())
    }

    /// Reads pages of one kind, or gives what was kept of one.
    fn run(&mut self, region: &Region, at: u64, buffer: &mut [u8]) -> Result<usize, Failed> {
        let given = self.kept.give(at, buffer);
        if given > 0 {
            self.counts.memory = self.counts.memory.saturating_add(given as u64);
            return Ok(given);
        }
        let until = self.kept.before(at, buffer.len());
        let buffer = buffer.get_mut(..until).unwrap_or_default();
        if let Some(lost) = self.lost.iter().find(|l| l.start <= at && at < l.end) {
            let why = silent::who(lost.dev, lost.patience);
            return Err(Failed::said(&format!("{why}: the rest of this mapping was given up"), lost.end.saturating_sub(at) as usize));
        }
        self.place.store(NOWHERE, Ordering::Relaxed);
        let (page, bytes) = match (region.class, self.pages.as_mut()) {
            // Of a device nothing is read that is not known to be the process's own.
            (Class::Device, None) => (Page::Absent, buffer.len()),
            (Class::Kernel, _) | (_, None) => (Page::Present, buffer.len()),
            (class, Some(pages)) => {
                let length = buffer.len();
                let run = if class == Class::Device { pages.own_run(at, length) } else { pages.run(at, length) };
                run.map_err(|e| match e {
                    Errno::SRCH => Failed::gone(),
                    e => Failed::new(e, 1),
                })?
            }
        };
        let buffer = buffer.get_mut(..bytes).unwrap_or_default();
        self.place.store(at, Ordering::Relaxed);
        match (page, region.class) {
            (Page::Swapped, _) if !self.wish.swapped => Err(Failed::said("in swap: left there by the order (swapped=false)", bytes)),
            (Page::Present | Page::Swapped | Page::Zero, _) => {
                let got = self.through_process(region, at, buffer)?;
                let got = if region.class == Class::Device { self.still_own(at, got, buffer)? } else { got };
                self.counts.memory = self.counts.memory.saturating_add(got as u64);
                if page == Page::Swapped {
                    self.counts.swapped = self.counts.swapped.saturating_add(got as u64);
                }
                Ok(got)
            }
            (Page::Guard, Class::File | Class::Device) => Err(Failed::said(GUARD, bytes)),
            (Page::Absent, Class::Device) => {
                // The table waits for a lock of the whole process.
                self.place.store(NOWHERE, Ordering::Relaxed);
                Err(self.not_mapped(region, at).unwrap_or_else(|| Failed::said(NOT_OWN, bytes)))
            }
            (Page::Absent, Class::File) => self.behind_mapping(region, at, buffer),
            (Page::Absent, _) if region.bits & SUPPLIED != 0 => Err(Failed::said(NOT_SUPPLIED, bytes)),
            (Page::Absent | Page::Guard, _) => self.without_page(region, at, buffer),
        }
    }

    /// How many of the bytes that were read over a device are the process's own: between the look at its pages and the reading it may have
    /// given them back, and then what was read is the device's.
    fn still_own(&mut self, at: u64, got: usize, buffer: &mut [u8]) -> Result<usize, Failed> {
        // The table waits for a lock of the whole process.
        self.place.store(NOWHERE, Ordering::Relaxed);
        let mut own = 0_usize;
        while let Some(pages) = self.pages.as_mut().filter(|_| own < got) {
            match pages.own_run(at.saturating_add(own as u64), got.saturating_sub(own)) {
                Ok((Page::Present | Page::Swapped | Page::Zero, bytes)) if bytes > 0 => own = own.saturating_add(bytes),
                Err(Errno::SRCH) => return Err(Failed::gone()),
                _ => break,
            }
        }
        let own = own.min(got);
        buffer.get_mut(own..).unwrap_or_default().fill(0);
        if own > 0 { Ok(own) } else { Err(Failed::said(NOT_OWN, PAGE.saturating_sub(at % PAGE) as usize)) }
    }

    fn through_process(&self, region: &Region, at: u64, buffer: &mut [u8]) -> Result<usize, Failed> {
        let free = region.bits & (SUPPLIED | PROTECTED) == 0;
        if let Some((pid, _)) = self.held.as_ref().filter(|(_, stands)| free && stands()) {
            // What it refuses (no right to read for the process itself) goes the other way.
            let read = read_process(*pid, at, buffer);
            // Meanwhile it may have been released, or killed and its number given to another one: then its folder is empty.
            if let Ok(got) = read
                && got > 0
                && self.held.as_ref().is_some_and(|(_, stands)| stands())
                && rustix::fs::statat(&self.dir, "stat", AtFlags::empty()).is_ok()
                && pread(&self.memory, &mut [0_u8; 1], at).is_ok_and(|n| n > 0)
            {
                return Ok(got);
            }
        }
        loop {
            match pread(&self.memory, &mut *buffer, at) {
                Ok(0) => return Err(Failed::gone()),
                Ok(got) => return Ok(got),
                Err(Errno::INTR) => {}
                // One page is what is known to be refused.
                Err(e) => return Err(Failed::new(e, PAGE.saturating_sub(at % PAGE) as usize)),
            }
        }
    }

    fn behind_mapping(&mut self, region: &Region, at: u64, buffer: &mut [u8]) -> Result<usize, Failed> {
        if self.open.as_ref().is_none_or(|(start, _)| *start != region.start) {
            self.open = Some((region.start, self.behind(region)));
        }
        let bytes = buffer.len();
        let got = match &self.open {
            Some((_, Behind::Open(file))) => {
                let offset = region.offset.saturating_add(at.saturating_sub(region.start));
                match pread(file, &mut *buffer, offset) {
                    Ok(0) => return Err(Failed::said("beyond the end of the file: no access", bytes)),
                    Ok(got) => got,
                    Err(Errno::INTR) => 0,
                    Err(e) => return Err(Failed::new(e, PAGE.saturating_sub(at % PAGE) as usize)),
                }
            }
            Some((_, Behind::Elsewhere(why))) => return Err(Failed::said(why, bytes)),
            _ => self.through_process(region, at, buffer)?,
        };
        // The rest of a file's last page is zeros.
        let page_end = got.saturating_add((PAGE.saturating_sub(at.saturating_add(got as u64) % PAGE) % PAGE) as usize);
        let filled = if got < bytes && got > 0 { page_end.min(bytes) } else { got };
        buffer.get_mut(got..filled).unwrap_or_default().fill(0);
        self.counts.files = self.counts.files.saturating_add(filled as u64);
        Ok(filled)
    }

    fn behind(&self, region: &Region) -> Behind {
        if let Some(fs) = self.devices.remote.get(&region.dev) {
            return Behind::Elsewhere(format!("not in memory, and on a remote or user-space file system ({fs})"));
        }
        // Nobody who did not answer before is asked again, whichever mapping and process that was.
        if self.silent.is(region.dev) || self.lost.iter().any(|l| l.dev == region.dev) {
            let [major, minor] = region.dev;
            return Behind::Elsewhere(format!("not in memory, and its file system (device {major}:{minor}) did not answer before"));
        }
        if !self.wish.files {
            return Behind::Elsewhere("not in memory: left out by the order (files=false)".to_owned());
        }
        let Ok(file) = open_behind(&self.dir, region) else { return Behind::Unknown };
        let size = rustix::fs::fstat(&file).map_or(0, |s| u64::try_from(s.st_size).unwrap_or(0));
        if size > self.wish.file_bytes_max {
            return Behind::Elsewhere(format!(
                "not in memory, and of a file above the limit (file_max, {} bytes)",
                self.wish.file_bytes_max
            ));
        }
        Behind::Open(file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::left::LeftBehind;
    use crate::capture::live::{open_at, open_dir};

    /// For the test's own memory.
    fn access(regions: &[u8], kept: KeptPages) -> Access {
        let own = || open_dir(rustix::fs::CWD, format!("/proc/{}", std::process::id())).expect("own folder");
        let opened = |name: &str| Arc::new(open_at(own(), name).expect("opened"));
        Access {
            dir: Arc::new(own()),
            memory: opened("mem"),
            pages: None,
            regions: Arc::new(Regions::parse(regions)),
            kept: Arc::new(kept),
            wish: Wish { swapped: true, files: true, file_bytes_max: 1 << 20 },
            devices: Arc::new(Devices::default()),
            silent: Silent::default(),
            asked: LeftBehind::default().asked(),
            lost: Vec::new(),
            place: Arc::new(AtomicU64::new(NOWHERE)),
            held: None,
            open: None,
            unmapped: Unmapped::new(opened("maps")),
            given_back: Vec::new(),
            sees_pages: true,
            counts: Counts::default(),
        }
    }

    #[test]
    fn memory_that_was_given_back_is_not_called_broken() {
        // The first pages, which nobody ever has: as if they had been mapped when it was looked.
        let mut access = access(b"0-4000 rw-p 00000000 00:00 0 \n", KeptPages::default());
        let failed = access.fill_all(&[(0x1000, 4096)], &mut [0; 4096]).expect_err("nothing is there");
        assert_eq!((failed.error.to_string().as_str(), failed.bytes, failed.gone), (UNMAPPED, 0x3000, false));
        // The pages are asked first, and say that there are none: no zeros are made of that.
        access.pages = Some(own_pages());
        let failed = access.fill_all(&[(0x1000, 4096)], &mut [0; 4096]).expect_err("nothing is there");
        assert_eq!((failed.error.to_string().as_str(), failed.bytes, access.given_back.len()), (UNMAPPED, 0x3000, 0));
    }

    fn own_pages() -> Pages {
        Pages::new(open_at(rustix::fs::CWD, "/proc/self/pagemap").expect("pagemap"))
    }

    #[test]
    fn a_page_that_is_there_no_more_is_zeros_and_told() {
        // Large enough to be a mapping of its own; its last pages were never touched.
        let block = vec![0_u8; 8 << 20];
        let at = (block.as_ptr() as u64 + (7 << 20)).next_multiple_of(PAGE);
        let regions = format!("{at:x}-{:x} rw-p 00000000 00:00 0 \n", at + 4 * PAGE);
        let mut access = access(regions.as_bytes(), KeptPages::default());
        access.pages = Some(own_pages());
        let mut buffer = [9_u8; 2 * 4096];
        assert_eq!(access.fill_all(&[(at + PAGE, 2 * 4096)], &mut buffer).expect("zeros"), buffer.len());
        assert!(buffer.iter().all(|b| *b == 0));
        assert_eq!(access.given_back, [(at + PAGE, at + 3 * PAGE)]);
        // Where pages could not be looked at nobody knows whether there was one.
        access.sees_pages = false;
        access.given_back.clear();
        assert_eq!(access.fill_all(&[(at, 4096)], &mut buffer[..4096]).expect("zeros"), 4096);
        assert!(access.given_back.is_empty() && block.len() == 8 << 20);
    }

    #[test]
    fn what_was_given_back_over_a_device_meanwhile_is_not_taken_for_own() {
        // Only its first two pages are there.
        let mut block = vec![0_u8; 8 << 20];
        let at = (block.as_ptr() as u64 + (6 << 20)).next_multiple_of(2 << 20);
        let first = (at - block.as_ptr() as u64) as usize - 2 * 4096;
        block[first] = 1;
        block[first + 4096] = 1;
        let own = at - 2 * PAGE;
        let mut access = access(b"", KeptPages::default());
        access.pages = Some(own_pages());
        let mut buffer = [9_u8; 3 * 4096];
        assert_eq!(access.still_own(own, 2 * 4096, &mut buffer[..2 * 4096]).expect("own"), 2 * 4096);
        assert!(buffer.iter().all(|b| *b == 9));
        // Without anything behind it there is no page of anybody's.
        let gone = access.still_own(0x1000, 4096, &mut buffer[..4096]).expect_err("nothing of its own");
        assert_eq!((gone.error.to_string().as_str(), gone.bytes), (NOT_OWN, PAGE));
        assert!(buffer[..4096].iter().all(|b| *b == 0), "what was read is not left behind");
        access.pages = None;
        assert!(access.still_own(own, 4096, &mut buffer[..4096]).is_err(), "not known");
    }

    #[test]
    fn a_kept_page_stands_in_the_place_of_what_is_there_now() {
        let (base, first, mut block) = super::super::kept::tests::block(4);
        let mut kept = KeptPages::room(false);
        let memory = open_at(rustix::fs::CWD, "/proc/self/mem").expect("mem");
        kept.copy(&memory, base + PAGE, base + 2 * PAGE, 9);
        for page in 0..4 {
            block[first + page * 4096] = 2;
        }
        let regions = format!("{base:x}-{:x} rw-p 00000000 00:00 0 \n", base + 4 * PAGE);
        let mut access = access(regions.as_bytes(), kept.closed());
        let mut buffer = vec![0; 4 * 4096];
        assert_eq!(access.fill_all(&[(base, 4 * 4096)], &mut buffer).expect("read"), buffer.len());
        assert_eq!([0, 1, 2, 3].map(|page: usize| buffer[page * 4096]), [2, 1, 2, 2]);
        assert_eq!((access.counts.memory, block[first + 4096]), (4 * PAGE, 2));
    }
}
