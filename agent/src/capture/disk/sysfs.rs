//! What the kernel says about every block device in `/sys`: geometry, names that the hardware gives, and what lies on what
//! (partitions, device-mapper, md, loop). Nothing is opened but small text files of the kernel.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::capture::live::{Lossless, SMALL_BYTES_MAX, link, names, number, open_dir, read_at, to_hex, words};

/// Where the kernel lists block devices.
pub const CLASS_BLOCK: &str = "/sys/class/block";
/// Most block devices that are described; hosts with thousands of volumes have fewer.
const DEVICES_MAX: usize = 16_384;
/// Most holders or slaves of one device.
const LINKS_MAX: usize = 1_024;
/// The unit of `size`, `start` and `stat` in `/sys`, whatever the device's sectors are.
pub const SYSFS_SECTOR_BYTES: u64 = 512;
/// Deepest stack that is followed (partition, md, dm-crypt, LVM, ... rarely more than five).
const STACK_MAX: usize = 32;

/// What kind of block device it is, by its driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// A whole disk of the host.
    #[default]
    Disk,
    /// A part of another device.
    Partition,
    /// Device-mapper: LVM, dm-crypt, multipath, ...
    Mapping,
    /// A software RAID.
    Md,
    /// A file or device shown as a disk.
    Loop,
    /// Made of memory: `ram`, `zram`.
    Memory,
    /// A drive with exchangeable media: `sr`, `fd`.
    Media,
}

/// One block device.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Device {
    /// The kernel's name, e.g. `sda1`.
    pub name: Lossless,
    /// Major and minor number.
    pub dev: Option<(u32, u32)>,
    /// What it is.
    pub class: Class,
    /// Bytes.
    pub size: Option<u64>,
    /// Of a partition: the device that it is a part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Lossless>,
    /// Of a partition: its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// Of a partition: the offset in its parent, bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<u64>,
    /// Further texts of the kernel, by their path below the device's folder. Those that the device does not have are left out.
    pub says: BTreeMap<&'static str, Lossless>,
    /// What lies on it.
    pub holders: Vec<Lossless>,
    /// What it lies on.
    pub slaves: Vec<Lossless>,
}

/// Files below a device's folder (or its whole disk's, for a partition), in their words.
const TEXTS: &[&str] = &[
    "ro",
    "removable",
    "hidden",
    "diskseq",
    "alignment_offset",
    "stat",
    "queue/logical_block_size",
    "queue/physical_block_size",
    "queue/rotational",
    "queue/write_cache",
    "queue/discard_granularity",
    "queue/zoned",
    "serial",
    "wwid",
    "device/vendor",
    "device/model",
    "device/rev",
    "device/firmware_rev",
    "device/serial",
    "device/wwid",
    "device/cid",
    "device/state",
    "device/transport",
    "dm/name",
    "dm/uuid",
    "dm/suspended",
    "md/level",
    "md/raid_disks",
    "md/metadata_version",
    "md/array_state",
    "md/uuid",
    "md/degraded",
    "loop/backing_file",
    "loop/offset",
    "loop/sizelimit",
    "loop/autoclear",
    "loop/dio",
    "bcache/state",
    "partition_uuid",
];

/// Vital product data of SCSI disks (SPC-4): unit serial number and device identification, as hexadecimal digits.
const PAGES: &[&str] = &["device/vpd_pg80", "device/vpd_pg83"];

/// All block devices of the host, found by name.
#[derive(Debug, Clone, Default)]
pub struct Devices {
    all: BTreeMap<Vec<u8>, Device>,
    /// There were more than can be described.
    pub more: bool,
}

impl Devices {
    /// Reads `/sys/class/block`.
    ///
    /// # Errors
    /// When the folder cannot be listed: no sysfs.
    pub fn read() -> Result<Self, rustix::io::Errno> {
        Self::read_below(CLASS_BLOCK)
    }

    fn read_below(folder: &str) -> Result<Self, rustix::io::Errno> {
        let dir = open_dir(rustix::fs::CWD, folder)?;
        let (listed, more) = names(&dir, DEVICES_MAX)?;
        let all = listed.into_iter().map(|name| (name.clone(), describe(folder, &name))).collect();
        Ok(Self { all, more })
    }

    /// Every device, sorted by name.
    pub fn all(&self) -> impl Iterator<Item = &Device> {
        self.all.values()
    }

    /// The device of this name.
    #[must_use]
    pub fn named(&self, name: &[u8]) -> Option<&Device> {
        self.all.get(name)
    }

    /// The device with these numbers.
    #[must_use]
    pub fn numbered(&self, dev: (u32, u32)) -> Option<&Device> {
        self.all.values().find(|d| d.dev == Some(dev))
    }

    /// A device with everything that lies on it: its partitions, what holds them, and so on upwards. Itself first.
    #[must_use]
    pub fn above(&self, device: &Device) -> Vec<&Device> {
        let mut found: Vec<&Device> = Vec::new();
        let mut seen = BTreeSet::new();
        let mut next: Vec<&[u8]> = vec![&device.name.0];
        for _ in 0..STACK_MAX {
            let now = std::mem::take(&mut next);
            for name in now {
                let Some(one) = self.all.get(name).filter(|_| seen.insert(name.to_vec())) else { continue };
                found.push(one);
                next.extend(one.holders.iter().map(|h| h.0.as_slice()));
                let parts = self.all.values().filter(|d| d.parent.as_ref().is_some_and(|p| p.0 == name));
                next.extend(parts.map(|d| d.name.0.as_slice()));
            }
        }
        found
    }
}

impl Device {
    /// A text of the kernel about it.
    #[must_use]
    pub fn text(&self, what: &str) -> Option<&[u8]> {
        self.says.get(what).map(|t| t.0.as_slice())
    }

    /// What names the hardware, if anything does: the world wide name, else model and serial number.
    #[must_use]
    pub fn hardware(&self) -> Option<Vec<u8>> {
        let serial = || self.text("device/serial").or_else(|| self.text("serial")).or_else(|| self.text("device/vpd_pg80"));
        let wwid = self.text("wwid").or_else(|| self.text("device/wwid")).or_else(|| self.text("device/cid"));
        wwid.or_else(serial).filter(|id| !id.is_empty()).map(<[u8]>::to_vec)
    }

    /// What a mapping is, by the beginning of its id: `LVM`, `CRYPT`, `mpath`, ...
    #[must_use]
    pub fn mapping_type(&self) -> String {
        let id = self.text("dm/uuid").unwrap_or_default();
        let kind = id.split(|b| *b == b'-').next().unwrap_or_default();
        super::shown(kind)
    }
}

fn describe(class: &str, name: &[u8]) -> Device {
    let shown = String::from_utf8_lossy(name);
    let path = format!("{class}/{shown}");
    let mut device = Device { name: Lossless(name.to_vec()), ..Device::default() };
    // The last component is a link into the tree of devices.
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let Ok(dir) = rustix::fs::openat(rustix::fs::CWD, path.as_str(), flags, rustix::fs::Mode::empty()) else { return device };
    let read = |what: &str| read_at(&dir, what, SMALL_BYTES_MAX).ok().map(|r| r.trimmed().to_vec());
    device.dev = read("dev").as_deref().and_then(numbers);
    device.size = read("size").as_deref().and_then(number::<u64>).map(|n| n.saturating_mul(SYSFS_SECTOR_BYTES));
    device.partition = read("partition").as_deref().and_then(number);
    device.start = read("start").as_deref().and_then(number::<u64>).map(|n| n.saturating_mul(SYSFS_SECTOR_BYTES));
    for what in TEXTS {
        if let Some(text) = read(what).filter(|t| !t.is_empty()) {
            device.says.insert(what, Lossless(text));
        }
    }
    for what in PAGES {
        if let Some(page) = read_at(&dir, *what, SMALL_BYTES_MAX).ok().filter(|r| !r.bytes.is_empty()) {
            device.says.insert(what, Lossless(to_hex(&page.bytes).into_bytes()));
        }
    }
    device.holders = listed(&dir, "holders");
    device.slaves = listed(&dir, "slaves");
    if device.partition.is_some() {
        device.parent = parent(&path);
    }
    device.class = class_of(&device);
    device
}

fn listed(dir: &std::os::fd::OwnedFd, what: &str) -> Vec<Lossless> {
    let found = open_dir(dir, what).and_then(|d| names(d, LINKS_MAX)).map(|(names, _)| names);
    found.unwrap_or_default().into_iter().map(Lossless).collect()
}

/// A partition's folder lies in that of its disk: `../../devices/.../block/sda/sda1`.
fn parent(path: &str) -> Option<Lossless> {
    let target = link(rustix::fs::CWD, path).ok()?;
    let mut parts = target.rsplit(|b| *b == b'/');
    parts.next()?;
    parts.next().map(Lossless::from)
}

fn class_of(device: &Device) -> Class {
    let name = device.name.0.as_slice();
    let numbered =
        |prefix: &str| name.strip_prefix(prefix.as_bytes()).is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
    if device.partition.is_some() {
        Class::Partition
    } else if device.text("dm/name").is_some() || numbered("dm-") {
        Class::Mapping
    } else if device.text("md/level").is_some() || numbered("md") {
        Class::Md
    } else if numbered("loop") {
        Class::Loop
    } else if numbered("ram") || numbered("zram") {
        Class::Memory
    } else if numbered("sr") || numbered("fd") {
        Class::Media
    } else {
        Class::Disk
    }
}

/// `8:16`.
fn numbers(text: &[u8]) -> Option<(u32, u32)> {
    let (major, minor) = crate::capture::live::split_at_byte(text, b':')?;
    Some((number(major)?, number(minor)?))
}

/// Sectors of 512 bytes that were written to or discarded on a device since it appeared, of `/sys/dev/block/M:m/stat`
/// (Documentation/block/stat.rst: field 7 and, since 4.18, field 14).
#[must_use]
pub fn sectors_changed(dev: (u32, u32)) -> Option<u64> {
    let read = crate::capture::live::read(&format!("/sys/dev/block/{}:{}/stat", dev.0, dev.1), SMALL_BYTES_MAX).ok()?;
    let fields: Vec<&[u8]> = words(&read.bytes).collect();
    let field = |n: usize| fields.get(n).and_then(|f| number::<u64>(f));
    Some(field(6)?.saturating_add(field(13).unwrap_or(0)))
}

/// The kernel's running number of a disk: another one means another disk, even under the same name (Linux 5.15).
#[must_use]
pub fn disk_sequence(dev: (u32, u32)) -> Option<u64> {
    let at = |what: &str| crate::capture::live::read(&format!("/sys/dev/block/{}:{}/{what}", dev.0, dev.1), SMALL_BYTES_MAX).ok();
    at("diskseq").or_else(|| at("../diskseq")).and_then(|r| number(&r.bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_hosts_devices_are_read() {
        let Ok(devices) = Devices::read() else { return };
        for device in devices.all() {
            assert!(device.dev.is_some() && device.size.is_some(), "{device:?}");
            assert_eq!(devices.above(device).first().map(|d| &d.name), Some(&device.name));
        }
    }

    #[test]
    fn a_stack_is_followed_upwards_and_a_circle_ends() {
        let device = |name: &str, parent: Option<&str>, holders: &[&str]| Device {
            name: Lossless(name.into()),
            parent: parent.map(|p| Lossless(p.into())),
            partition: parent.map(|_| 1),
            holders: holders.iter().map(|h| Lossless((*h).into())).collect(),
            ..Device::default()
        };
        let all = [
            device("sda", None, &[]),
            device("sda1", Some("sda"), &["md0"]),
            device("sda2", Some("sda"), &[]),
            device("md0", None, &["dm-0"]),
            device("dm-0", None, &["dm-1", "gone"]),
            device("dm-1", None, &["md0"]),
            device("sdb", None, &[]),
        ];
        let devices = Devices { all: all.into_iter().map(|d| (d.name.0.clone(), d)).collect(), more: false };
        let above = |name: &[u8]| -> Vec<String> {
            let found = devices.above(devices.named(name).expect("there"));
            found.iter().map(|d| String::from_utf8_lossy(&d.name.0).into_owned()).collect()
        };
        assert_eq!(above(b"sda"), ["sda", "sda1", "sda2", "md0", "dm-0", "dm-1"]);
        assert_eq!(above(b"sdb"), ["sdb"]);
        assert_eq!(above(b"dm-1"), ["dm-1", "md0", "dm-0"]);
    }

    #[test]
    fn kinds_are_told_apart_by_name_and_folder() {
        let class = |name: &str| class_of(&Device { name: Lossless(name.into()), ..Device::default() });
        assert_eq!(class("sda"), Class::Disk);
        assert_eq!(class("nvme0n1"), Class::Disk);
        assert_eq!(class("dm-12"), Class::Mapping);
        assert_eq!(class("md127"), Class::Md);
        assert_eq!(class("mdx"), Class::Disk);
        assert_eq!(class("zram0"), Class::Memory);
        assert_eq!(class("sr0"), Class::Media);
        assert_eq!(class("loop7"), Class::Loop);
    }
}
