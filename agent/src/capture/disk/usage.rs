//! What uses a device while it is read: file systems that are mounted from it or from anything that lies on it, swap, other
//! block devices. A disk that is written to while it is read is not one state of it, and an examiner must be told.

use std::sync::Arc;

use serde::Serialize;

use super::patience::{self, within};
use super::sysfs::{Device, Devices};
use crate::capture::live::{Lossless, SMALL_BYTES_MAX, lines, names, open_dir, read, words};
use crate::capture::mounts::{self, Mount, Mounts};
use crate::capture::walk::may_enter;

/// Most mounts of one device that are listed.
const MOUNTS_MAX: usize = 256;
/// Most mounts that stand in the fact.
const SHOWN_MAX: usize = 3;
/// Most btrfs file systems that are asked.
const BTRFS_MAX: usize = 1_024;
/// Where btrfs lists its file systems by their ids, each with a folder of its devices.
const BTRFS: &str = "/sys/fs/btrfs";
/// File systems that list the devices they are mounted from in `/sys/fs`, in whichever mount namespace that is.
const LISTED: &[&str] = &["ext4", "xfs", "f2fs", "erofs", "jfs"];

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MountedAt {
    /// Where.
    pub point: Lossless,
    /// The device that it is mounted from.
    pub device: Lossless,
    /// Its kind.
    pub fs_type: Lossless,
    /// The file system may be written to. It may be so although this mount of it may not.
    pub writable: bool,
}

/// Everything that uses a device or what lies on it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Mounted file systems.
    pub mounts: Vec<MountedAt>,
    /// Devices of it that are swap.
    pub swap: Vec<Lossless>,
    /// File systems that are mounted, but not in the agent's mount namespace: kind and device.
    pub elsewhere: Vec<Lossless>,
    /// Devices that lie on it.
    pub held_by: Vec<Lossless>,
    /// Loop devices that show it (of image files).
    pub shown_by: Vec<Lossless>,
    /// Mappings of dm-crypt that lie on it: what they show is the plain content.
    pub opened: Vec<Lossless>,
    /// There were more mounts than are listed.
    pub more: bool,
    /// Why it is not known where it is mounted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounts_unknown: Option<String>,
}

/// The host's tables, read once for all devices.
pub struct Tables {
    /// Block devices.
    pub devices: Devices,
    /// Mounts of the agent's namespace; none when the table could not be read,
    pub mounts: Arc<Mounts>,
    /// and why not.
    unknown: Option<String>,
    /// Numbers of devices that are swap.
    swap: Vec<(u32, u32)>,
    /// Files that are swap.
    swap_files: Vec<Vec<u8>>,
}

impl Tables {
    /// Reads them.
    #[must_use]
    pub fn read(devices: Devices) -> Self {
        let table = read("/proc/swaps", SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
        let (swap, swap_files) = swap_places(&table);
        let (mounts, unknown) = match Mounts::read() {
            Ok(mounts) => (mounts, None),
            Err(e) => (Mounts::default(), Some(format!("the agent's table of mounts: {e}"))),
        };
        Self { devices, mounts: Arc::new(mounts), unknown, swap, swap_files }
    }

    /// What uses a device.
    #[must_use]
    pub fn of_device(&self, device: &Device) -> Usage {
        let mut usage = Usage { mounts_unknown: self.unknown.clone(), ..Usage::default() };
        let stack = self.devices.above(device);
        for one in &stack {
            self.add(one, &mut usage);
        }
        usage.opened.retain(|n| *n != device.name);
        usage.held_by = stack.iter().filter(|d| !d.slaves.is_empty()).map(|d| d.name.clone()).filter(|n| *n != device.name).collect();
        usage
    }

    /// What uses an image file, given by its inode: loop devices that show it, and what uses those.
    #[must_use]
    pub fn of_file(&self, device: u64, inode: u64) -> Usage {
        let mut usage = Usage { mounts_unknown: self.unknown.clone(), ..Usage::default() };
        for path in &self.swap_files {
            if self.is_file(path, device, inode) {
                usage.swap.push(Lossless(path.clone()));
            }
        }
        for shown in self.devices.all() {
            let Some(file) = shown.text("loop/backing_file") else { continue };
            if self.is_file(file, device, inode) {
                usage.shown_by.push(shown.name.clone());
                for one in self.devices.above(shown) {
                    self.add(one, &mut usage);
                }
            }
        }
        usage
    }

    /// Whether a path leads to this inode. The mount table speaks first: another file of this host may lie on a server that
    /// is gone.
    fn is_file(&self, path: &[u8], device: u64, inode: u64) -> bool {
        let same_system = |m: &Mount| rustix::fs::makedev(m.dev.0, m.dev.1) == device;
        if self.mounts.holding(path).is_some_and(|m| !may_enter(m, false) && !same_system(m)) {
            return false;
        }
        let path = path.to_vec();
        let found = within(patience::LOOK, "looking at a file that is in use", move || Ok(rustix::fs::stat(path.as_slice())?));
        found.is_ok_and(|s| s.st_dev == device && s.st_ino == inode)
    }

    fn add(&self, device: &Device, usage: &mut Usage) {
        let Some(dev) = device.dev else { return };
        if device.mapping_type() == "CRYPT" {
            usage.opened.push(device.name.clone());
        }
        if self.swap.contains(&dev) {
            usage.swap.push(device.name.clone());
        }
        let others = self.btrfs_of(&device.name.0);
        for mount in self.mounts.all().iter().filter(|m| self.is_on(m, dev, &others)) {
            if usage.mounts.len() >= MOUNTS_MAX {
                usage.more = true;
                break;
            }
            usage.mounts.push(MountedAt {
                point: Lossless(mount.point.clone()),
                device: device.name.clone(),
                fs_type: Lossless(mount.fs_type.clone()),
                writable: is_writable(mount),
            });
        }
        let seen = usage.mounts.iter().any(|m| m.device == device.name);
        if let Some(kind) = listed_as(&device.name.0).or((!others.is_empty()).then_some("btrfs")).filter(|_| !seen) {
            let shown = [kind.as_bytes(), b" on ", &device.name.0].concat();
            usage.elsewhere.push(Lossless(shown));
        }
    }

    /// True when a mount is of the file system on a device: of a btrfs over several devices the table names one.
    fn is_on(&self, mount: &Mount, dev: (u32, u32), others: &[(u32, u32)]) -> bool {
        mount.dev == dev || source_of(mount).is_some_and(|source| source == dev || mount.fs_type == b"btrfs" && others.contains(&source))
    }

    /// The devices of the btrfs that a device is one of.
    fn btrfs_of(&self, name: &[u8]) -> Vec<(u32, u32)> {
        let devices =
            |id: Vec<u8>| open_dir(rustix::fs::CWD, [BTRFS.as_bytes(), b"/", &id, b"/devices"].concat()).and_then(|d| names(d, BTRFS_MAX));
        let systems = open_dir(rustix::fs::CWD, BTRFS).and_then(|dir| names(dir, BTRFS_MAX)).map(|(ids, _)| ids).unwrap_or_default();
        let mut lists = systems.into_iter().filter_map(|id| Some(devices(id).ok()?.0));
        let found = lists.find(|list| list.iter().any(|n| n == name)).unwrap_or_default();
        found.iter().filter_map(|n| self.devices.named(n)?.dev).collect()
    }
}

impl Usage {
    /// Mounts whose file system may be written to.
    pub fn writable(&self) -> impl Iterator<Item = &MountedAt> {
        self.mounts.iter().filter(|m| m.writable)
    }

    /// What may write to it beside the file systems that are mounted here.
    #[must_use]
    pub fn besides(&self) -> Vec<String> {
        let mut why: Vec<String> = listed("swap on", self.swap.iter()).into_iter().collect();
        why.extend(listed("mounted in another mount namespace:", self.elsewhere.iter()));
        why.extend(self.more.then(|| format!("mounted at more than {MOUNTS_MAX} points")));
        why
    }

    /// True when something is known that may write to it: its `consistency` says so before anything is read.
    #[must_use]
    pub fn may_be_written(&self) -> bool {
        self.writable().next().is_some() || !self.besides().is_empty()
    }

    /// In one sentence whether what is read is one state of the device: the fact `consistency`.
    #[must_use]
    pub fn consistency(&self) -> String {
        let mut why = Vec::new();
        if let Some(text) = listed("mounted read-write at", self.writable().map(|m| &m.point)) {
            why.push(text);
        }
        why.extend(self.besides());
        let unknown = self.mounts_unknown.as_ref().map(|e| format!("not known where it is mounted ({e})"));
        if !why.is_empty() {
            return format!("inconsistent: {}", why.into_iter().chain(unknown).collect::<Vec<_>>().join("; "));
        }
        if let Some(unknown) = unknown {
            return unknown;
        }
        if let Some(text) = listed("mounted read-only at", self.mounts.iter().map(|m| &m.point)) {
            return format!("nothing that is known of writes to it: {text}");
        }
        if let Some(text) = listed("held by", self.held_by.iter().chain(&self.shown_by)) {
            return format!("nothing that is known of writes to it: {text}, not mounted");
        }
        "nothing that is known of writes to it: not mounted, no swap, nothing lies on it".to_owned()
    }
}

fn listed<'a>(what: &str, names: impl Iterator<Item = &'a Lossless>) -> Option<String> {
    let mut names: Vec<String> = names.map(|n| super::shown(&n.0)).collect();
    names.dedup();
    if names.is_empty() {
        return None;
    }
    let more = names.len().saturating_sub(SHOWN_MAX);
    names.truncate(SHOWN_MAX);
    let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
    Some(format!("{what} {}{rest}", names.join(", ")))
}

/// File systems over several devices (btrfs, bcachefs, zfs) have a number of their own; what was mounted is then the device.
fn source_of(mount: &Mount) -> Option<(u32, u32)> {
    // Whoever mounts may write anything there: only what lies in /dev is asked, and only by its name.
    let first = mount.source.split(|b| *b == b':').next().unwrap_or_default();
    if mount.dev.0 != 0 || !first.starts_with(b"/dev/") || first.split(|b| *b == b'/').any(|part| part == b"..") {
        return None;
    }
    block_number(first)
}

fn block_number(path: &[u8]) -> Option<(u32, u32)> {
    let found = rustix::fs::stat(path).ok()?;
    let is_block = rustix::fs::FileType::from_raw_mode(found.st_mode) == rustix::fs::FileType::BlockDevice;
    is_block.then(|| (rustix::fs::major(found.st_rdev), rustix::fs::minor(found.st_rdev)))
}

/// The file system's own options decide: it may be mounted a second time in a way that cannot be seen from here.
fn is_writable(mount: &Mount) -> bool {
    mount.super_options.split(|b| *b == b',').next() != Some(b"ro")
}

/// The file system in whose list of devices a device stands.
fn listed_as(name: &[u8]) -> Option<&'static str> {
    let name = std::str::from_utf8(name).ok()?;
    let there = |path: String| rustix::fs::stat(path).is_ok();
    LISTED.iter().find(|kind| there(format!("/sys/fs/{kind}/{name}"))).copied()
}

/// Devices that are swap, by their numbers, and files that are.
fn swap_places(table: &[u8]) -> (Vec<(u32, u32)>, Vec<Vec<u8>>) {
    let mut places = (Vec::new(), Vec::new());
    for line in lines(table).skip(1) {
        let mut fields = words(line);
        let (Some(path), Some(kind)) = (fields.next(), fields.next()) else { continue };
        match kind {
            b"file" => places.1.push(mounts::unescape_octal(path)),
            _ => places.0.extend(Some(path).filter(|p| p.starts_with(b"/dev/")).and_then(block_number)),
        }
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_a_device_follows_its_users() {
        let mount = |point: &str, writable| MountedAt {
            point: Lossless(point.into()),
            device: Lossless(b"sda1".to_vec()),
            fs_type: Lossless(b"ext4".to_vec()),
            writable,
        };
        let mut usage = Usage::default();
        assert_eq!(usage.consistency(), "nothing that is known of writes to it: not mounted, no swap, nothing lies on it");
        usage.held_by.push(Lossless(b"dm-0".to_vec()));
        assert_eq!(usage.consistency(), "nothing that is known of writes to it: held by dm-0, not mounted");
        usage.mounts.push(mount("/srv", false));
        assert_eq!(usage.consistency(), "nothing that is known of writes to it: mounted read-only at /srv");
        assert!(!usage.may_be_written());
        for point in ["/", "/a\nb", "/c", "/d"] {
            usage.mounts.push(mount(point, true));
        }
        assert_eq!(usage.consistency(), "inconsistent: mounted read-write at /, /a\\nb, /c and 1 more");
        assert!(usage.may_be_written());
        usage.swap.push(Lossless(b"sda2".to_vec()));
        assert!(usage.consistency().ends_with("; swap on sda2"));
        // No table of mounts is not the same as no mounts.
        usage.mounts_unknown = Some("denied".to_owned());
        assert!(usage.consistency().ends_with("; swap on sda2; not known where it is mounted (denied)"));
        let unknown = Usage { mounts_unknown: Some("denied".to_owned()), ..Usage::default() };
        assert_eq!((unknown.consistency().as_str(), unknown.may_be_written()), ("not known where it is mounted (denied)", false));
    }

    #[test]
    fn the_root_file_system_of_this_host_is_in_use() {
        let Ok(devices) = Devices::read() else { return };
        let tables = Tables::read(devices);
        let Some(root) = tables.mounts.at(b"/").map(|m| (m.dev, is_writable(m))) else { return };
        if let Some(device) = tables.devices.numbered(root.0) {
            let usage = tables.of_device(device);
            assert_eq!(usage.consistency().starts_with("inconsistent"), root.1, "{usage:?}");
        }
    }

    #[test]
    fn a_file_that_is_swap_is_in_use_and_one_on_a_server_is_not_asked() {
        use std::os::unix::fs::MetadataExt as _;
        let dir = tempfile::tempdir().expect("folder");
        let file = dir.path().join("swap file");
        std::fs::write(&file, b"x").expect("file");
        let meta = std::fs::metadata(&file).expect("there");
        let name = file.to_str().expect("text");
        let table =
            format!("Filename Type Size Used Priority\n{} file 1 0 -2\n/dev/no-such partition 1 0 -3\n", name.replace(' ', "\\040"));
        let (swap, swap_files) = swap_places(table.as_bytes());
        assert_eq!((swap.len(), swap_files.as_slice()), (0, [name.as_bytes().to_vec()].as_slice()));
        let mut tables = Tables { devices: Devices::default(), mounts: Arc::default(), unknown: None, swap, swap_files };
        let usage = tables.of_file(meta.dev(), meta.ino());
        assert_eq!(usage.consistency(), format!("inconsistent: swap on {name}"));
        assert!(usage.may_be_written());
        assert_eq!(tables.of_file(meta.dev(), meta.ino().wrapping_add(1)), Usage::default());
        // The mount table says that it lies on a server, which is not asked.
        let mounts = format!("1 0 8:1 / / rw - ext4 a rw\n2 1 0:999999 / {} rw - nfs4 s:/ rw\n", dir.path().display());
        tables.mounts = Arc::new(Mounts::parse(mounts.as_bytes()));
        assert_eq!(tables.of_file(meta.dev(), meta.ino()), Usage::default());
    }
}
