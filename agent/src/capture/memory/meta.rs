//! What an image is useless without: the kernel's types and symbols as this very host has them, taken beside it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, fstat, openat};
use rustix::io::Errno;
use serde::Serialize;

use super::physical::Physical;
use crate::capture::live::{Lossless, Read, SMALL_BYTES_MAX, names, open_dir, put_absent, put_read, read_at, refusal, take};
use crate::capture::{Content, Kind, Moment, NewItem, Output, Source, Status, Stop, Table, evidence_path};

/// Small texts.
const RAW: [&str; 5] = ["/proc/modules", "/proc/version", "/proc/cmdline", "/proc/swaps", "/proc/zoneinfo"];
/// Modules looked at.
const MODULES_MAX: usize = 16_384;
/// The largest file of this kind that is taken: types of the largest kernels are 8 MiB, symbols of all modules 16 MiB.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A text that was read before: what is stored is what was worked with.
pub type Before<'a> = (&'a Result<Read, Errno>, Moment);

/// Takes everything that a profile for an analyser can be made of, and `/proc/iomem` as it was read.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put(out: &mut dyn Output, physical: Option<&dyn Physical>, (iomem, read_at): Before<'_>) -> Result<(), Stop> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    put_read(out, evidence_path("/proc/iomem"), iomem, read_at, BTreeMap::new())?;
    for path in RAW {
        take(out, path, SMALL_BYTES_MAX)?;
    }
    file(out, "/proc/kallsyms")?;
    file(out, "/sys/kernel/notes")?;
    folder(out, "/sys/kernel/btf")?;
    for path in [format!("/boot/config-{release}"), "/proc/config.gz".to_owned()] {
        file(out, &path)?;
    }
    sections(out)?;
    notes(out, physical)
}

/// The notes of kcore, and VMCOREINFO as text.
fn notes(out: &mut dyn Output, physical: Option<&dyn Physical>) -> Result<(), Stop> {
    let started = out.now();
    let Some(notes) = physical.and_then(Physical::notes) else {
        let reason = "only /proc/kcore has it, and that cannot be read: see preflight.json";
        return put_absent(out, evidence_path("vmcoreinfo.txt"), Status::Missing, reason, started, "read:/proc/kcore");
    };
    out.put(NewItem::record("kcore-notes.bin", started, "read:/proc/kcore"), Content::Bytes(notes))?;
    let text = super::kcore::vmcoreinfo(notes).unwrap_or_default();
    out.put(NewItem::record("vmcoreinfo.txt", started, "read:/proc/kcore"), Content::Bytes(text)).map(drop)
}

/// Every file of a folder of `/sys`.
fn folder(out: &mut dyn Output, path: &str) -> Result<(), Stop> {
    let started = out.now();
    let found = open_dir(rustix::fs::CWD, path).and_then(|dir| names(dir, MODULES_MAX));
    match found {
        Ok((found, _)) => found.iter().try_for_each(|name| {
            let name = String::from_utf8_lossy(name);
            file(out, &format!("{path}/{name}"))
        }),
        Err(e) => {
            let (status, reason) = refusal(e);
            put_absent(out, evidence_path(path), status, reason, started, "read")
        }
    }
}

/// A file that is taken as it is read, never whole in memory. Those that do not know their size are read through once to
/// count, because the stream must know it first.
fn file(out: &mut dyn Output, path: &str) -> Result<(), Stop> {
    let started = out.now();
    out.note(path);
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let opened = openat(rustix::fs::CWD, path, flags, Mode::empty()).and_then(|file| Ok((length(&file)?, file)));
    match opened {
        Ok((size, file)) if size <= FILE_BYTES_MAX => {
            let item = NewItem::new(evidence_path(path), Kind::File, started, "read");
            out.put(item, Content::Source { size, extents: None, source: &mut Through { file, size } }).map(drop)
        }
        Ok((size, _)) => {
            let reason = format!("{size} bytes: above {FILE_BYTES_MAX}");
            put_absent(out, evidence_path(path), Status::Skipped, reason, started, "read")
        }
        Err(e) => {
            let (status, reason) = refusal(e);
            put_absent(out, evidence_path(path), status, reason, started, "read")
        }
    }
}

/// The size that the file says, or what reading it through gives.
fn length(file: &OwnedFd) -> Result<u64, Errno> {
    let stated = fstat(file)?.st_size;
    if let Ok(stated @ 1..) = u64::try_from(stated) {
        return Ok(stated);
    }
    let mut buffer = vec![0; 64 << 10];
    let mut at = 0_u64;
    while at <= FILE_BYTES_MAX {
        match rustix::io::pread(file, &mut buffer, at) {
            Ok(0) => break,
            Ok(n) => at = at.saturating_add(n as u64),
            Err(Errno::INTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(at)
}

struct Through {
    file: OwnedFd,
    size: u64,
}

impl Source for Through {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::pread(&self.file, buf, offset)?)
    }

    fn after(&mut self) -> Option<(Status, String)> {
        let more = rustix::io::pread(&self.file, &mut [0], self.size).is_ok_and(|n| n > 0);
        more.then(|| (Status::ChangedDuringRead, format!("it grew beyond the {} bytes that were counted before", self.size)))
    }
}

/// Where a section of a module was loaded.
#[derive(Serialize)]
struct Section {
    module: Lossless,
    section: Lossless,
    /// Hexadecimal as the kernel prints it; zeros where addresses are restricted.
    address: Lossless,
}

fn sections(out: &mut dyn Output) -> Result<(), Stop> {
    let mut table = Table::new("module-sections", out.now(), "read:/sys/module");
    let modules = open_dir(rustix::fs::CWD, "/sys/module").and_then(|dir| names(dir, MODULES_MAX)).unwrap_or_default().0;
    for module in modules {
        out.checkpoint()?;
        let path = [b"/sys/module/", module.as_slice(), b"/sections"].concat();
        // Built into the kernel: no sections of its own.
        let Ok(dir) = open_dir(rustix::fs::CWD, path.as_slice()) else { continue };
        let again = open_dir(rustix::fs::CWD, path.as_slice());
        for name in again.and_then(|dir| names(dir, 4096)).unwrap_or_default().0 {
            let Ok(address) = read_at(&dir, name.as_slice(), 4096) else { continue };
            let row = Section { module: Lossless(module.clone()), address: Lossless(address.trimmed().to_vec()), section: Lossless(name) };
            table.row(out, &row)?;
        }
    }
    table.finish(out, None).map(drop)
}

/// Facts that every image has.
#[must_use]
pub fn facts(pairs: &[(&str, String)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::Memory;

    #[test]
    fn the_table_of_memory_is_stored_as_it_was_parsed() {
        let mut out = Memory::default();
        let read =
            Ok(Read { bytes: b"00001000-0009fbff : System RAM\n0010".to_vec(), cut: Some("longer than 35 bytes: cut there".to_owned()) });
        let now = out.now();
        put(&mut out, None, (&read, now)).expect("put");
        let item = out.get("/proc/iomem").expect("an item");
        assert_eq!((item.status, item.item.reason.as_deref()), (Status::Partial, Some("longer than 35 bytes: cut there")));
        assert_eq!(item.content.as_deref(), Some(&b"00001000-0009fbff : System RAM\n0010"[..]));
    }
}
