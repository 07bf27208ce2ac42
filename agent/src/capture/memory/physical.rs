//! Where physical memory can be read: `/proc/kcore`, the `crash` driver of Red Hat's kernels, `/dev/mem`. Each is tried, and
//! what stood in the way of one is said.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use super::core::Core;
use super::ranges::{PAGE, Range};

/// Reads physical memory.
pub trait Physical: Send {
    /// Its name in records.
    fn name(&self) -> &'static str;

    /// What of these ranges it can read.
    fn exposed(&self, ram: &[Range]) -> Vec<Range>;

    /// Reads at a physical address; short counts are not the end.
    ///
    /// # Errors
    /// What the kernel said.
    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// The core file's notes and their VMCOREINFO, if it has some.
    fn notes(&self) -> Option<&[u8]> {
        None
    }

    /// The kernel's address at which this source reads a physical one, if it reads through the kernel's own map.
    fn address_of(&self, _at: u64) -> Option<u64> {
        None
    }

    /// The physical address of one of the kernel's addresses, of its own image too.
    fn physical_of(&self, _address: u64) -> Option<u64> {
        None
    }

    /// The machine, as ELF numbers it; 0 where the source does not say.
    fn machine(&self) -> u16 {
        0
    }

    /// Asks the kernel for what it shows now: memory may have been added since.
    fn refresh(&self) {}

    /// How often what the source shows was found to have changed.
    fn changes(&self) -> u64 {
        0
    }
}

/// A source that cannot be used, and why.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Refused {
    /// The source.
    pub source: &'static str,
    /// Why, in the kernel's words or ours.
    pub reason: String,
}

/// Opens a source, or says why not.
type Opener = fn() -> Result<Box<dyn Physical>, String>;

/// Bytes that are read before a source counts as one that works.
const PROBE: usize = PAGE as usize;

/// The first source that really gives memory; what was tried before it.
pub fn open(ram: &[Range]) -> (Option<Box<dyn Physical>>, Vec<Refused>) {
    let mut refused = Vec::new();
    let openers: [(&'static str, Opener); 3] = [
        ("/proc/kcore", || Core::open(open_kcore)),
        ("/dev/crash", || Device::open("/dev/crash", PAGE)),
        ("/dev/mem", || Device::open("/dev/mem", PAGE)),
    ];
    for (source, opener) in openers {
        match opener().and_then(|physical| probe(physical, ram)) {
            Ok(physical) => return (Some(physical), refused),
            Err(reason) => refused.push(Refused { source, reason }),
        }
    }
    (None, refused)
}

/// Reads the first and the last page of the largest range: a device that stops at 1 MiB is no source.
fn probe(physical: Box<dyn Physical>, ram: &[Range]) -> Result<Box<dyn Physical>, String> {
    let exposed = physical.exposed(ram);
    let Some(largest) = exposed.iter().max_by_key(|r| r.len()) else {
        return Err("it shows none of the System RAM that /proc/iomem lists".to_owned());
    };
    let mut buf = vec![0; PROBE];
    for at in [largest.start, largest.end.saturating_sub(1) / PAGE * PAGE] {
        match physical.read(at.max(largest.start), &mut buf) {
            Ok(0) => return Err(format!("reading at {at:#x} gives nothing")),
            Ok(_) => {}
            Err(e) => return Err(format!("reading at {at:#x}: {e}")),
        }
    }
    Ok(physical)
}

fn open_read(path: &str) -> Result<OwnedFd, Errno> {
    openat(rustix::fs::CWD, path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty())
}

/// `/proc/kcore`; to open it makes the kernel look what memory there is.
fn open_kcore() -> Result<OwnedFd, Errno> {
    open_read("/proc/kcore")
}

/// A device whose offsets are physical addresses.
struct Device {
    name: &'static str,
    file: OwnedFd,
    /// Most bytes of one read.
    step: u64,
}

impl Device {
    fn open(name: &'static str, step: u64) -> Result<Box<dyn Physical>, String> {
        let file = open_read(name).map_err(|e| format!("opening: {e}"))?;
        Ok(Box::new(Self { name, file, step }))
    }
}

impl Physical for Device {
    fn name(&self) -> &'static str {
        self.name
    }

    /// Whole pages: both drivers refuse others.
    fn exposed(&self, ram: &[Range]) -> Vec<Range> {
        let whole = |r: &Range| Range { start: r.start.next_multiple_of(PAGE), end: r.end / PAGE * PAGE };
        ram.iter().map(whole).filter(|r| !r.is_empty()).collect()
    }

    fn read(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        let to_end = self.step.saturating_sub(at % self.step);
        let count = buf.len().min(usize::try_from(to_end).unwrap_or(usize::MAX));
        Ok(rustix::io::pread(&self.file, buf.get_mut(..count).unwrap_or_default(), at)?)
    }
}
