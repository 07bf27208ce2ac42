//! An open block device: read past the page cache where that works, never opened for writing.

use std::ffi::CString;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::AsFd as _;

use exhibit_agent_sys::{block, page_cache};
use exhibit_evidence::EvidencePath;
use rustix::fs::{Advice, OFlags, fadvise, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::patience::{READ, Reads};
use super::sysfs;
use crate::capture::Kind;
use crate::capture::walk::inode::{Look, Opener};

/// What the source of a device's bytes needs of the device.
pub trait Drive {
    /// Reads at an offset into a part of a buffer; the part is aligned and whole sectors long where reading past the page cache
    /// asks for it.
    ///
    /// # Errors
    /// What the kernel said, or that it did not come back ([`is_stuck`](super::patience::is_stuck)).
    fn pread(&mut self, offset: u64, buffer: &mut Vec<u8>, part: Range<usize>) -> io::Result<usize>;

    /// From now on reads go through the page cache. False when they did already.
    fn through_cache(&mut self) -> bool;

    /// Bytes that it has now.
    ///
    /// # Errors
    /// When it is gone.
    fn size(&self) -> io::Result<u64>;

    /// Sectors of 512 bytes that were written to it, or discarded, since it appeared.
    fn changed(&self) -> Option<u64>;

    /// Leaves the page cache as it was found, up to an offset.
    fn give_back(&mut self, to: u64, all: bool);

    /// Numbers that the kernel gave when it was opened.
    fn geometry(&self) -> &Geometry;

    /// Whether it is read past the page cache.
    fn is_direct(&self) -> bool;

    /// How it is found again.
    fn identity(&self) -> Option<&Identity>;
}

/// What tells a device from another one under the same name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// Where its node is.
    pub path: EvidencePath,
    /// Major and minor number.
    pub dev: (u32, u32),
    /// Bytes.
    pub size: u64,
    /// The kernel that ran.
    pub boot_id: String,
    /// The kernel's running number of the disk.
    pub sequence: Option<u64>,
    /// World wide name or serial number.
    pub hardware: Option<Vec<u8>>,
}

/// Numbers that the kernel gives of an open device.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Geometry {
    /// Bytes (`BLKGETSIZE64`).
    pub size: u64,
    /// Bytes of a logical sector (`BLKSSZGET`).
    pub logical_sector: u32,
    /// Bytes of a physical one (`BLKPBSZGET`).
    pub physical_sector: Option<u32>,
    /// Bytes by which the first sector is shifted (`BLKALIGNOFF`).
    pub alignment_offset: Option<u32>,
    /// The kernel refuses writes (`BLKROGET`).
    pub read_only: Option<bool>,
}

/// A block device of the host.
pub struct Node {
    file: Reads,
    geometry: Geometry,
    identity: Identity,
    direct: bool,
    /// Through the page cache, nothing of it was there before.
    drop_behind: bool,
    dropped_to: u64,
}

/// Read pages are given back in steps of this size.
const DROP_STEP_BYTES: u64 = 8 << 20;
/// Used where the device does not say.
const SECTOR_BYTES: u32 = 512;

impl Node {
    /// Opens what was looked at, for reading only. `direct` asks for reading past the page cache.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn open(look: &Look, path: EvidencePath, direct: bool) -> io::Result<Self> {
        let name = CString::new(path.as_bytes()).map_err(|_| io::Error::from(Errno::INVAL))?;
        let (file, ..) = look.open_file(rustix::fs::CWD, &name)?;
        let dev = look.stat.meta.rdev.map(|[major, minor]| (major, minor)).ok_or(Errno::NOTBLK)?;
        let fd = file.as_fd();
        let geometry = Geometry {
            size: block::size(fd)?,
            logical_sector: block::logical_sector(fd)
                .ok()
                .filter(|n| n.is_power_of_two() && (512..=65_536).contains(n))
                .unwrap_or(SECTOR_BYTES),
            physical_sector: block::physical_sector(fd).ok(),
            alignment_offset: block::alignment_offset(fd).ok(),
            read_only: block::is_read_only(fd).ok(),
        };
        // Non-blocking was for opening a drive without a medium; a read waits.
        let flags = fcntl_getfl(fd)?.difference(OFlags::NONBLOCK);
        fcntl_setfl(fd, flags)?;
        let direct = direct && fcntl_setfl(fd, flags | OFlags::DIRECT).is_ok();
        let identity = Identity {
            path,
            dev,
            size: geometry.size,
            boot_id: crate::custody::boot_id(),
            sequence: sysfs::disk_sequence(dev),
            hardware: hardware(dev),
        };
        let drop_behind = page_cache::cached_pages(fd).is_ok_and(|pages| pages == 0);
        Ok(Self { file: Reads::new(file, READ), geometry, identity, direct, drop_behind, dropped_to: 0 })
    }

    /// Opens the device again that an earlier process read: `Ok` also when the host was restarted meanwhile; then only the
    /// hardware's own name can tell that it is the same one.
    ///
    /// # Errors
    /// Why the rest cannot be read, for the record.
    pub fn open_again(was: &Identity, direct: bool) -> Result<Self, String> {
        let no = |e: io::Error| format!("after the agent's process ended it could not be opened again: {e}");
        let look = Opener::new().look_path(was.path.as_bytes()).map_err(no)?;
        let other = || Err("after the agent's process ended another device was found at its path".to_owned());
        if look.stat.kind != Kind::BlockDevice {
            return other();
        }
        let node = Self::open(&look, was.path.clone(), direct).map_err(no)?;
        let is = &node.identity;
        let same_kernel = is.boot_id == was.boot_id;
        let same = is.size == was.size
            && is.hardware == was.hardware
            && if same_kernel { is.dev == was.dev && is.sequence == was.sequence } else { is.hardware.is_some() };
        if same { Ok(node) } else { other() }
    }
}

fn hardware(dev: (u32, u32)) -> Option<Vec<u8>> {
    let devices = sysfs::Devices::read().ok()?;
    let device = devices.numbered(dev)?;
    let whole = device.parent.as_ref().and_then(|p| devices.named(&p.0)).unwrap_or(device);
    // A mapping has its id, an array its own; what shows a file has none that another file could not have.
    whole.hardware().or_else(|| whole.text("dm/uuid").or_else(|| whole.text("md/uuid")).map(<[u8]>::to_vec))
}

impl Drive for Node {
    fn pread(&mut self, offset: u64, buffer: &mut Vec<u8>, part: Range<usize>) -> io::Result<usize> {
        self.file.pread(offset, buffer, part)
    }

    fn through_cache(&mut self) -> bool {
        let was = std::mem::replace(&mut self.direct, false);
        was && fcntl_getfl(&self.file).and_then(|flags| fcntl_setfl(&self.file, flags.difference(OFlags::DIRECT))).is_ok()
    }

    fn size(&self) -> io::Result<u64> {
        block::size(self.file.as_fd())
    }

    fn changed(&self) -> Option<u64> {
        sysfs::sectors_changed(self.identity.dev)
    }

    fn give_back(&mut self, to: u64, all: bool) {
        if self.direct || !self.drop_behind || (!all && to.saturating_sub(self.dropped_to) < DROP_STEP_BYTES) {
            return;
        }
        // Advice only. The last call covers everything: read-ahead goes beyond what was asked for.
        let (from, length) = if all { (0, None) } else { (self.dropped_to, NonZeroU64::new(to.saturating_sub(self.dropped_to))) };
        let _ = fadvise(&self.file, from, length, Advice::DontNeed);
        self.dropped_to = to;
    }

    fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    fn is_direct(&self) -> bool {
        self.direct
    }

    fn identity(&self) -> Option<&Identity> {
        Some(&self.identity)
    }
}
