//! Which devices and images an order means: by path, or all whole disks of the host.
//!
//! An image is a regular file on a file system that keeps files: the kernel makes up what lies in /proc and /sys while it is
//! read (`/proc/kcore` claims 128 TiB), and a server that is gone would hold whoever asks it. What kind of file system it is
//! stands in the mount table, so that is asked first, and nothing is touched that it speaks against.

use std::io;
use std::sync::Arc;

use exhibit_evidence::text::{escape_bounded, escape_bytes};
use exhibit_evidence::{Digest, EvidencePath};

use super::patience::{self, within};
use super::sysfs::{Class, Device, Devices};
use crate::capture::mounts::{self, Mount, Mounts};
use crate::capture::walk::inode::{Look, Opener};
use crate::capture::walk::may_enter;
use crate::capture::walk::prefix::{Resolver, path_of};
use crate::capture::{Kind, Status, evidence_path, status_of};

/// Most that one order takes.
pub const CHOSEN_MAX: usize = 4_096;

/// Something that is to be taken.
pub struct Chosen {
    /// Its real path.
    pub path: EvidencePath,
    /// The path in the order, when it led there through links.
    pub through: Option<String>,
    /// What was found there.
    pub found: Found,
}

/// What lies at a path.
pub enum Found {
    /// A block device; what the kernel says of it, where sysfs lists it.
    Device(Arc<Look>, Option<Device>),
    /// A regular file.
    Image(Arc<Look>),
    /// Nothing that can be taken, and why.
    Not(Kind, Status, String),
}

/// What lies at a path of the order. `remote` says that file systems of other hosts may be asked.
#[must_use]
pub fn at(path: &str, remote: bool, mounts: &Arc<Mounts>, devices: &Devices) -> Chosen {
    let (asked, table) = (path.as_bytes().to_vec(), Arc::clone(mounts));
    let found = within(patience::LOOK, "looking at it", move || Ok(find(&asked, remote, &table)));
    let (real, found) = found.unwrap_or_else(|e| (path.as_bytes().to_vec(), Err(e.into())));
    let through = (real != path.as_bytes()).then(|| escape_bounded(path, 400));
    Chosen { path: evidence_path(&real), through, found: found.map_or_else(Refusal::into_found, |look| sort(look, devices)) }
}

/// Why something is not looked at.
struct Refusal(Status, String);

impl From<io::Error> for Refusal {
    fn from(e: io::Error) -> Self {
        let (status, reason) = status_of(&e);
        Self(status, reason)
    }
}

impl Refusal {
    fn into_found(self) -> Found {
        Found::Not(Kind::Unknown, self.0, self.1)
    }
}

/// The path without links, as far as it may be followed, and what lies there.
fn find(path: &[u8], remote: bool, mounts: &Mounts) -> (Vec<u8>, Result<Look, Refusal>) {
    let Some(resolved) = Resolver::new(mounts, remote).resolve(path.split(|b| *b == b'/')) else {
        return (path.to_vec(), Err(io::Error::from(rustix::io::Errno::LOOP).into()));
    };
    let real = path_of(&resolved.names);
    if let Some(refusal) = mounts.holding(&real).and_then(|m| against(m, remote)) {
        return (real, Err(refusal));
    }
    let look = Opener::new().look_path(&real).map_err(Refusal::from).and_then(|look| {
        // What was mounted since the table was read is not in it; the kernel says on which mount the file really lies.
        match look.stat.mount.and_then(|id| mounts.by_id(id)).and_then(|m| against(m, remote)) {
            Some(refusal) if look.stat.kind == Kind::File => Err(refusal),
            _ => Ok(look),
        }
    });
    (real, look)
}

/// Why nothing is taken from a mount.
fn against(mount: &Mount, remote: bool) -> Option<Refusal> {
    if may_enter(mount, remote) {
        return None;
    }
    let shown = |bytes: &[u8]| escape_bounded(&escape_bytes(bytes), 200);
    let what = format!("{} file system {} ({})", mount.class.as_str(), shown(&mount.fs_type), shown(&mount.source));
    Some(match mount.class {
        mounts::Class::Trigger => Refusal(Status::Skipped, format!("{what}: touching it would mount something; 'remote=true' allows it")),
        mounts::Class::Pseudo => {
            Refusal(Status::Error, format!("{what}: the kernel makes its files up while they are read, none is an image of a disk"))
        }
        _ => Refusal(Status::Skipped, format!("{what}: its server may not answer; 'remote=true' asks it")),
    })
}

fn sort(look: Look, devices: &Devices) -> Found {
    match look.stat.kind {
        Kind::BlockDevice => {
            let device = look.stat.meta.rdev.and_then(|[major, minor]| devices.numbered((major, minor))).cloned();
            Found::Device(Arc::new(look), device)
        }
        Kind::File => Found::Image(Arc::new(look)),
        kind => {
            let what = crate::capture::disk::kind_name(kind);
            Found::Not(kind, Status::Error, format!("it is {what}; a block device or a regular file (an image) is expected"))
        }
    }
}

/// All whole disks of the host, and what is left out, each with its reason.
#[must_use]
pub fn all(mounts: &Arc<Mounts>, devices: &Devices) -> Vec<Chosen> {
    devices
        .all()
        .filter(|d| d.class != Class::Partition)
        .map(|device| {
            let path = [b"/dev/", node_name(&device.name.0).as_slice()].concat();
            if let Some(why) = left_out(device) {
                let found = Found::Not(Kind::BlockDevice, Status::Skipped, why);
                return Chosen { path: evidence_path(&path), through: None, found };
            }
            let one = at(&String::from_utf8_lossy(&path), false, mounts, devices);
            Chosen { found: the_same(one.found, device), ..one }
        })
        .take(CHOSEN_MAX)
        .collect()
}

/// `/sys` writes `!` where a node lies in a folder: `cciss!c0d0` is `/dev/cciss/c0d0`.
fn node_name(name: &[u8]) -> Vec<u8> {
    name.iter().map(|b| if *b == b'!' { b'/' } else { *b }).collect()
}

/// A node in /dev is a file like any other: it may be missing, or be that of another device.
fn the_same(found: Found, device: &Device) -> Found {
    match found {
        Found::Device(_, Some(ref is)) if is.name == device.name => found,
        Found::Not(..) => found,
        _ => Found::Not(Kind::Unknown, Status::Error, "its node in /dev is not that of the device which the kernel calls so".to_owned()),
    }
}

/// Why a device is not one of the host's disks.
fn left_out(device: &Device) -> Option<String> {
    let name = super::shown(&device.name.0);
    let beneath = || device.slaves.iter().map(|s| super::shown(&s.0)).collect::<Vec<_>>().join(", ");
    if device.size == Some(0) {
        return Some("it has no bytes: no medium, or not set up".to_owned());
    }
    match device.class {
        Class::Mapping => {
            let kind = device.mapping_type();
            let how = if kind == "CRYPT" { " in its encrypted form" } else { "" };
            Some(format!("a mapping ({kind}) over {}, which is taken{how}; name /dev/{name} in 'path' to take what it shows", beneath()))
        }
        Class::Md => Some(format!("an array of {}, which are taken; name /dev/{name} in 'path' to take it as a whole", beneath())),
        Class::Loop => {
            let file = device.text("loop/backing_file").map(super::shown).unwrap_or_default();
            Some(format!("it shows the file {file}; name that file or /dev/{name} in 'path' to take it"))
        }
        Class::Memory => Some("made of the host's memory; name it in 'path' to take it".to_owned()),
        Class::Media => Some("a drive with exchangeable media; name it in 'path' to take the medium".to_owned()),
        Class::Partition => Some("a part of a disk".to_owned()),
        Class::Disk if device.text("hidden") == Some(b"1") => {
            Some("a path of a disk that the kernel hides behind another device".to_owned())
        }
        Class::Disk => None,
    }
}

/// The name of a device's or image's records in the stream: `[A-Za-z0-9._-]`, never two the same for two paths.
#[must_use]
pub fn label(chosen: &Chosen) -> String {
    let path = chosen.path.as_bytes();
    let plain =
        |name: &[u8]| !name.is_empty() && name.len() <= 64 && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if let Some(name) = path.strip_prefix(b"/dev/").filter(|n| plain(n)) {
        return String::from_utf8_lossy(name).into_owned();
    }
    let digest = Digest::of(path).to_string();
    format!("at.{}", digest.get(..16).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::live::Lossless;

    fn device(name: &str, class: Class) -> Device {
        Device { name: Lossless(name.into()), class, size: Some(1), slaves: vec![Lossless(b"sda2".to_vec())], ..Device::default() }
    }

    #[test]
    fn what_is_left_out_says_how_to_have_it() {
        let mut crypt = device("dm-0", Class::Mapping);
        crypt.says.insert("dm/uuid", Lossless(b"CRYPT-LUKS2-abc-name".to_vec()));
        let why = left_out(&crypt).expect("left out");
        assert!(why.contains("sda2, which is taken in its encrypted form; name /dev/dm-0"), "{why}");
        assert!(left_out(&device("loop0", Class::Loop)).is_some() && left_out(&device("sda", Class::Disk)).is_none());
        assert!(left_out(&Device { size: Some(0), ..device("nbd0", Class::Disk) }).is_some_and(|w| w.contains("no bytes")));
    }

    #[test]
    fn labels_are_plain_and_differ() {
        let of = |path: &str| {
            label(&Chosen { path: evidence_path(path), through: None, found: Found::Not(Kind::Unknown, Status::Missing, String::new()) })
        };
        assert_eq!(of("/dev/nvme0n1p1"), "nvme0n1p1");
        assert!(of("/dev/mapper/vg-root").starts_with("at.") && of("/dev/mapper/vg-root") != of("/dev/mapper/vg-home"));
        assert!(of("/dev/..").starts_with("at."));
    }

    #[test]
    fn neither_folders_nor_terminals_are_disks() {
        let none = Arc::default();
        for (path, kind) in [("/", Kind::Directory), ("/dev/null", Kind::CharDevice)] {
            let Found::Not(found, status, why) = at(path, false, &none, &Devices::default()).found else { panic!("{path} was taken") };
            assert_eq!((found, status), (kind, Status::Error));
            assert!(why.contains("a block device or a regular file"), "{why}");
        }
        let Found::Not(_, status, _) = at("/dev/no-such-disk", false, &none, &Devices::default()).found else { panic!("taken") };
        assert_eq!(status, Status::Missing);
    }

    #[test]
    fn nothing_is_asked_of_a_server_and_nothing_made_up_is_an_image() {
        let table = Mounts::parse(
            b"1 0 8:1 / / rw - ext4 /dev/sda1 rw\n2 1 0:5 / /proc rw - proc proc rw\n3 1 0:9 / /proc/self rw - nfs4 store:/vm rw\n",
        );
        // /proc/self is a link; it would be resolved if it were looked at.
        let table = Arc::new(table);
        let not = |path: &str, remote| match at(path, remote, &table, &Devices::default()).found {
            Found::Not(_, status, why) => (status, why),
            _ => panic!("{path} was taken"),
        };
        let (status, why) = not("/proc/self/disk.img", false);
        assert_eq!(
            (status, why.contains("remote file system nfs4 (store:/vm)") && why.contains("remote=true")),
            (Status::Skipped, true),
            "{why}"
        );
        let (status, why) = not("/proc/version", true);
        assert_eq!((status, why.contains("pseudo file system proc")), (Status::Error, true), "{why}");
        let (status, _) = not("/proc/self/disk.img", true);
        assert_ne!(status, Status::Skipped, "asked");
    }
}
