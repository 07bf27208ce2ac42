//! The mount table as `/proc/self/mountinfo` gives it, and what may be entered: local file systems are, remote ones
//! are only on request (a dead server would stop the capture for ever, and the bytes are evidence of another host),
//! pseudo file systems are not (the `system`, `process` and `network` captures read them by name).

use std::collections::HashMap;
use std::io::Error;

use rustix::io::Errno;

use super::live::refusal;
use super::procfs;

#[cfg(test)]
mod tests;

/// Where the table is read from, below the folder of processes: root can mount another one over `/proc`.
const MOUNTINFO: &str = "self/mountinfo";

/// The most bytes of the table that are read: 4 MiB hold about 20,000 mounts of 200 bytes, far above what the
/// kernel allows in one namespace by default (`fs.mount-max` is 100,000, of which hosts with many containers use a few
/// thousand).
pub const TABLE_BYTES_MAX: usize = 4 << 20;

/// What kind of file system lies under a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Kept by this host: entered.
    Local,
    /// Kept by another host or by a user-space server: skipped unless the order says `remote=yes`.
    Remote,
    /// Made up by the kernel: not entered.
    Pseudo,
    /// A trigger that mounts something when it is touched: touching it would change the host, so it is not entered.
    Trigger,
}

impl Class {
    /// The class of a file system type as the kernel names it. A type that is not known counts as local: leaving
    /// evidence out silently is worse than walking one tree too many.
    #[must_use]
    pub fn of(fs_type: &[u8]) -> Self {
        if fs_type == b"autofs" {
            return Self::Trigger;
        }
        if PSEUDO.iter().any(|name| name.as_bytes() == fs_type) {
            return Self::Pseudo;
        }
        if REMOTE.iter().any(|name| name.as_bytes() == fs_type) {
            return Self::Remote;
        }
        // A user-space server can hang for ever and can be anywhere; the ones below serve a local block device or layers.
        if fs_type == b"fuse" || (fs_type.starts_with(b"fuse.") && !FUSE_LOCAL.iter().any(|name| name.as_bytes() == fs_type)) {
            return Self::Remote;
        }
        Self::Local
    }

    /// The word used in records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Remote => "remote",
            Self::Pseudo => "pseudo",
            Self::Trigger => "automount trigger",
        }
    }
}

/// Types whose bytes are kept by another host.
const REMOTE: &[&str] = &[
    "9p",
    "acfs",
    "afs",
    "beegfs",
    "ceph",
    "cifs",
    "coda",
    "cvmfs",
    "davfs",
    "exafs",
    "gfs",
    "gfs2",
    "glusterfs",
    "gpfs",
    "lustre",
    "mfs",
    "moosefs",
    "ncp",
    "ncpfs",
    "nfs",
    "nfs4",
    "ocfs2",
    "orangefs",
    "panfs",
    "pvfs2",
    "smb3",
    "smbfs",
    "vboxsf",
    "virtiofs",
    "vmhgfs",
    "weka",
    "wekafs",
];

/// Types that the kernel makes up.
const PSEUDO: &[&str] = &[
    "anon_inodefs",
    "bdev",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "cpuset",
    "debugfs",
    "devpts",
    "efivarfs",
    "functionfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nfsd",
    "nsfs",
    "openpromfs",
    "pipefs",
    "proc",
    "pstore",
    "resctrl",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "smackfs",
    "sockfs",
    "spufs",
    "sysfs",
    "tracefs",
    "xenfs",
];

/// User-space file systems that serve a local block device or local layers.
const FUSE_LOCAL: &[&str] = &[
    "fuse.fuse-overlayfs",
    "fuse.unionfs",
    "fuse.unionfs-fuse",
    "fuse.mergerfs",
    "fuse.ntfs-3g",
    "fuse.ntfs",
    "fuse.exfat",
    "fuse.bindfs",
    "fuse.lxcfs",
];

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's id of the mount.
    pub id: u64,
    /// The id of the mount that it lies on.
    pub parent: u64,
    /// Major and minor number of the file system.
    pub dev: (u32, u32),
    /// The directory of the file system that is shown.
    pub root: Vec<u8>,
    /// Where it is shown.
    pub point: Vec<u8>,
    /// Options of the mount.
    pub options: Vec<u8>,
    /// Type of the file system.
    pub fs_type: Vec<u8>,
    /// What was mounted: a device, a server's export, a name.
    pub source: Vec<u8>,
    /// Options of the file system.
    pub super_options: Vec<u8>,
    /// What it counts as.
    pub class: Class,
}

impl Mount {
    /// The upper and lower directories of an overlay, where the table gives them as absolute paths. `None` when one of
    /// them is relative (some container engines shorten them) or when this is no overlay.
    #[must_use]
    pub fn overlay_layers(&self) -> Option<Vec<Vec<u8>>> {
        if self.fs_type != b"overlay" {
            return None;
        }
        let mut layers = Vec::new();
        for option in split_unescaped(&self.super_options, b',') {
            if let Some(upper) = option.strip_prefix(b"upperdir=") {
                layers.push(unescape_backslash(upper));
            } else if let Some(lower) = option.strip_prefix(b"lowerdir+=").or_else(|| option.strip_prefix(b"datadir+=")) {
                layers.push(unescape_backslash(lower));
            } else if let Some(lower) = option.strip_prefix(b"lowerdir=") {
                layers.extend(split_unescaped(lower, b':').filter(|l| !l.is_empty()).map(unescape_backslash));
            }
        }
        (!layers.is_empty() && layers.iter().all(|l| l.starts_with(b"/"))).then_some(layers)
    }
}

/// The mounts of a namespace, found by id and by path.
#[derive(Debug, Clone, Default)]
pub struct Mounts {
    all: Vec<Mount>,
    by_point: HashMap<Vec<u8>, usize>,
    by_id: HashMap<u64, usize>,
    /// Lines that could not be understood, for the record.
    pub bad_lines: u64,
    /// True when the table was longer than [`TABLE_BYTES_MAX`].
    pub cut: bool,
}

impl Mounts {
    /// Reads the table of this process.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read() -> std::io::Result<Self> {
        let read = procfs::root().and_then(|root| procfs::read_at(root, MOUNTINFO, TABLE_BYTES_MAX));
        let read = read.map_err(|e| if e == Errno::XDEV { Error::other(refusal(e).1) } else { e.into() })?;
        let mut mounts = Self::parse(&read.bytes);
        mounts.cut = read.cut.is_some();
        Ok(mounts)
    }

    /// Parses a table. Lines that do not fit the format are counted, never guessed.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Self {
        let mut mounts = Self::default();
        for line in bytes.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            match parse_line(line) {
                Some(mount) => mounts.push(mount),
                None => mounts.bad_lines = mounts.bad_lines.saturating_add(1),
            }
        }
        mounts
    }

    fn push(&mut self, mount: Mount) {
        let index = self.all.len();
        // What is mounted later on the same point hides what was there.
        self.by_point.insert(mount.point.clone(), index);
        self.by_id.insert(mount.id, index);
        self.all.push(mount);
    }

    /// All mounts in the table's order.
    #[must_use]
    pub fn all(&self) -> &[Mount] {
        &self.all
    }

    /// The mount that is shown at exactly this path.
    #[must_use]
    pub fn at(&self, path: &[u8]) -> Option<&Mount> {
        self.by_point.get(path).and_then(|i| self.all.get(*i))
    }

    /// The mount with this id.
    #[must_use]
    pub fn by_id(&self, id: u64) -> Option<&Mount> {
        self.by_id.get(&id).and_then(|i| self.all.get(*i))
    }

    /// The mount that a path (absolute, without symbolic links) lies on.
    #[must_use]
    pub fn holding(&self, path: &[u8]) -> Option<&Mount> {
        let mut end = path.len();
        loop {
            let prefix = path.get(..end).unwrap_or_default();
            if let Some(mount) = self.at(if prefix.is_empty() { b"/" } else { prefix }) {
                return Some(mount);
            }
            end = prefix.iter().rposition(|b| *b == b'/')?;
        }
    }

    /// Other paths under which the directory that is shown at `mount`'s point can be seen: the same file system mounted
    /// with a root that contains this one's. Only paths where nothing else is mounted over are given. When two mounts
    /// show exactly the same directory, only the one that stands earlier in the table counts as the other's alias, so
    /// that one of them is always walked.
    #[must_use]
    pub fn aliases(&self, mount: &Mount) -> Vec<Vec<u8>> {
        let position = |m: &Mount| self.by_id.get(&m.id).copied().unwrap_or(usize::MAX);
        let mut found = Vec::new();
        for other in &self.all {
            if other.dev != mount.dev || other.id == mount.id || other.fs_type != mount.fs_type {
                continue;
            }
            let Some(rest) = below(&mount.root, &other.root) else { continue };
            if rest.is_empty() && position(other) > position(mount) {
                continue;
            }
            let path = join(&other.point, rest);
            // The alias must really show: the mount that holds it is `other`, and it is not the same place.
            if path != mount.point && self.holding(&path).is_some_and(|m| m.id == other.id) {
                found.push(path);
            }
        }
        found
    }
}

/// What of `path` lies below `base`: empty when they are equal, without leading slash.
fn below<'a>(path: &'a [u8], base: &[u8]) -> Option<&'a [u8]> {
    if base == b"/" {
        return path.strip_prefix(b"/");
    }
    match path.strip_prefix(base)? {
        b"" => Some(b""),
        rest => rest.strip_prefix(b"/"),
    }
}

fn join(base: &[u8], rest: &[u8]) -> Vec<u8> {
    let mut path = base.to_vec();
    if !rest.is_empty() {
        if path.last() != Some(&b'/') {
            path.push(b'/');
        }
        path.extend_from_slice(rest);
    }
    path
}

/// `36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue` (proc_pid_mountinfo(5)).
fn parse_line(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|b| *b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let mut dev = fields.next()?.splitn(2, |b| *b == b':');
    let dev = (u32::try_from(number(dev.next()?)?).ok()?, u32::try_from(number(dev.next()?)?).ok()?);
    let root = unescape_octal(fields.next()?);
    let point = unescape_octal(fields.next()?);
    let options = unescape_octal(fields.next()?);
    // Optional fields (shared:1, master:2, ...) up to a single hyphen.
    fields.by_ref().find(|f| *f == b"-")?;
    let fs_type = unescape_octal(fields.next()?);
    let source = unescape_octal(fields.next()?);
    let super_options = unescape_octal(fields.next().unwrap_or_default());
    if !point.starts_with(b"/") || fs_type.is_empty() {
        return None;
    }
    let class = Class::of(&fs_type);
    Some(Mount { id, parent, dev, root, point, options, fs_type, source, super_options, class })
}

fn number(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    text.bytes().all(|b| b.is_ascii_digit()).then_some(())?;
    text.parse().ok()
}

/// The kernel writes space, tab, newline, backslash (and `#`) as `\ooo`, here and in `/proc/swaps`.
#[must_use]
pub fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some(([a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7'], after)) = tail.split_first_chunk::<3>()
        {
            // At most 0o377: fits a byte.
            out.push(((a & 7) << 6) | ((b & 7) << 3) | (c & 7));
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

/// Splits at a separator that has no backslash before it (overlay options write `\:` and `\,` for the bytes themselves).
fn split_unescaped(text: &[u8], separator: u8) -> impl Iterator<Item = &[u8]> {
    let mut escaped = false;
    text.split(move |b| {
        let cuts = *b == separator && !escaped;
        escaped = *b == b'\\' && !escaped;
        cuts
    })
}

fn unescape_backslash(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut escaped = false;
    for b in text {
        if *b == b'\\' && !escaped {
            escaped = true;
        } else {
            out.push(*b);
            escaped = false;
        }
    }
    out
}
