//! The page flags around the place that an image is read at.

use super::flags::{Class, Flags, is_huge_tail, withheld};
use super::iomem::Iomem;
use super::ranges::PAGE;

/// Frames of a huge page of 2 MiB.
const SMALL_HUGE: u64 = 512;
/// Frames of huge pages: 2 MiB and 1 GiB on x86-64 and AArch64 with pages of 4 KiB.
const HUGE_FRAMES: [u64; 2] = [SMALL_HUGE, SMALL_HUGE * 512];
/// Frames whose flags are known at once: those of 4 MiB.
const WINDOW: u64 = 1024;

/// The flags of the frames around the one that is read.
pub struct Window<'a> {
    flags: Option<&'a dyn Flags>,
    iomem: &'a Iomem,
    first: u64,
    /// Frames from `first` on that are known; `None` before the first look.
    known: Option<u64>,
    bytes: Vec<u8>,
    /// The first frame of the huge page that was looked at last, and its flags.
    head: Option<(u64, u64)>,
}

impl<'a> Window<'a> {
    /// Nothing is known yet.
    pub fn new(flags: Option<&'a dyn Flags>, iomem: &'a Iomem) -> Self {
        Self { flags, iomem, first: 0, known: None, bytes: vec![0; WINDOW as usize * 8], head: None }
    }

    /// Reads the flags of frames of this window again: a page that was read as zeros may have been withheld since they were read.
    pub fn look_again(&mut self, frame: u64, frames: u64) {
        let Some(flags) = self.flags else { return };
        // Of a huge page the first frame says it; one of 1 GiB begins outside.
        self.head = None;
        let tail = self.of(frame).is_some_and(is_huge_tail);
        let start = if tail { frame / SMALL_HUGE * SMALL_HUGE } else { frame };
        let end = frame.saturating_add(frames).min(self.first.saturating_add(self.known.unwrap_or(0)));
        let place = |frame: u64| usize::try_from(frame.saturating_sub(self.first).saturating_mul(8)).unwrap_or(usize::MAX);
        let mut now = vec![0; place(end).saturating_sub(place(start))];
        let got = flags.read(start, &mut now).unwrap_or(0).saturating_mul(8).min(now.len());
        if let (Some(to), Some(from)) = (self.bytes.get_mut(place(start)..place(start).saturating_add(got)), now.get(..got)) {
            to.copy_from_slice(from);
        }
    }

    /// Makes the flags of a frame known.
    fn look(&mut self, frame: u64) {
        let first = frame / WINDOW * WINDOW;
        if self.known.is_none() || self.first != first {
            self.first = first;
            self.known = Some(self.flags.and_then(|f| f.read(first, &mut self.bytes).ok()).unwrap_or(0) as u64);
        }
    }

    fn of(&self, frame: u64) -> Option<u64> {
        let n = frame.checked_sub(self.first).filter(|n| *n < self.known.unwrap_or(0))? as usize;
        let bytes = self.bytes.get(n.saturating_mul(8)..n.saturating_add(1).saturating_mul(8))?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }

    /// Why the kernel may answer with zeros for a frame. Of a huge page that holds one poisoned page it gives nothing, but marks
    /// its first frame only (`is_page_hwpoison`).
    pub fn withheld(&mut self, frame: u64) -> Option<&'static str> {
        let flags = self.of(frame)?;
        withheld(flags)
            .or_else(|| HUGE_FRAMES.iter().filter(|_| is_huge_tail(flags)).find_map(|frames| withheld(self.head(frame / frames * frames))))
    }

    /// The flags of a huge page's first frame, which may lie far away.
    fn head(&mut self, frame: u64) -> u64 {
        if let Some(flags) = self.of(frame).or(self.head.filter(|(f, _)| *f == frame).map(|(_, flags)| flags)) {
            return flags;
        }
        let mut bytes = [0; 8];
        let got = self.flags.and_then(|f| f.read(frame, &mut bytes).ok()).unwrap_or(0);
        let flags = if got == 1 { u64::from_le_bytes(bytes) } else { 0 };
        self.head = Some((frame, flags));
        flags
    }

    /// What a frame is used for.
    pub fn class_of(&self, frame: u64) -> Class {
        self.of(frame).map_or(Class::Unknown, |f| Class::of(f, frame, self.iomem))
    }

    /// How much may be read in one go at an address: pages that the kernel may answer with zeros for the same reason, which is
    /// given, or pages without such a reason.
    pub fn stretch(&mut self, at: u64, want: u64) -> (u64, Option<&'static str>) {
        let frame = at / PAGE;
        self.look(frame);
        let flag = self.withheld(frame);
        let mut count = PAGE.saturating_sub(at % PAGE);
        let mut next = frame.saturating_add(1);
        while count < want && !next.is_multiple_of(WINDOW) && self.withheld(next) == flag {
            count = count.saturating_add(PAGE);
            next = next.saturating_add(1);
        }
        (want.min(count), flag)
    }
}

/// Whether a source answers with zeros for pages that are flagged as poisoned or offline, without touching them: kcore does since
/// Linux 5.14. Where that is not known such pages are not read: to read broken memory can stop the machine.
#[must_use]
pub fn withholds(source: &str, release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    source == "/proc/kcore" && matches!((major, minor), (Some(major), Some(minor)) if (major, minor) >= (5, 14))
}

/// Pages that are not read where they are not withheld.
#[must_use]
pub fn is_dangerous(flag: &str) -> bool {
    matches!(flag, "hwpoison" | "offline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_kernel_that_is_known_to_withhold_is_trusted_with_broken_pages() {
        for release in ["5.14.0-503.el9.x86_64", "5.15.0", "6.1.0-13-amd64", "10.0.1", "5.14"] {
            assert!(withholds("/proc/kcore", release) && !withholds("/dev/mem", release), "{release}");
        }
        for release in ["5.13.19", "4.18.0-553.el8", "5.4.0-200-generic", "", "x", "6", "-5.14", "99999999999999.1"] {
            assert!(!withholds("/proc/kcore", release), "{release}");
        }
    }
}
