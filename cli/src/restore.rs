//! Restoring an item as a file below one folder, and nowhere else.
//!
//! Names come from a host that may have been hostile: every component is opened relative to the folder before it,
//! without following links, and nothing that exists is replaced.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use exhibit_evidence::time::FileTime;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};

use crate::exit::{Code, Failure, Result};

/// What else to restore beside content, names and times.
#[derive(Debug, Clone, Copy, Default)]
pub struct Extras {
    /// Extended attributes.
    pub xattrs: bool,
    /// Owner, group and the full mode.
    pub owner: bool,
}

/// Metadata to put back.
#[derive(Debug, Clone, Default)]
pub struct Metadata {
    /// Mode bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Last change.
    pub mtime: Option<FileTime>,
    /// Last access.
    pub atime: Option<FileTime>,
    /// Extended attributes, values as bytes.
    pub xattrs: BTreeMap<String, Vec<u8>>,
}

/// A folder to restore into.
#[derive(Debug)]
pub struct Target {
    root: OwnedFd,
    shown: String,
    extras: Extras,
    /// Folders that were made for it, the innermost first.
    made: Vec<PathBuf>,
}

/// A file that is being restored. Until [`Target::finish`] it has another name in the same folder, and goes away with this
/// value: what has the item's name has the item's bytes.
#[derive(Debug)]
pub struct Restoring {
    file: File,
    folder: OwnedFd,
    /// Name for now; none once it has its own.
    partial: Option<String>,
    name: Vec<u8>,
    shown: String,
}

impl Drop for Restoring {
    fn drop(&mut self) {
        if let Some(partial) = self.partial.take() {
            // What cannot be removed keeps a name that says what it is.
            let _ = rustix::fs::unlinkat(&self.folder, &partial, AtFlags::empty());
        }
    }
}

impl Restoring {
    /// Gives the file its name, unless something has it already.
    fn name(&mut self) -> rustix::io::Result<()> {
        let Some(partial) = self.partial.take() else { return Ok(()) };
        let own = OsStr::from_bytes(&self.name);
        let renamed = rustix::fs::renameat_with(&self.folder, &partial, &self.folder, own, rustix::fs::RenameFlags::NOREPLACE);
        let done = match renamed {
            // Not every file system can rename without replacing (NFS); a link does not replace either.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
                rustix::fs::linkat(&self.folder, &partial, &self.folder, own, AtFlags::empty())
                    .and_then(|()| rustix::fs::unlinkat(&self.folder, &partial, AtFlags::empty()))
            }
            other => other,
        };
        if done.is_err() {
            self.partial = Some(partial);
        }
        done
    }
}

/// How files are called that are not whole yet.
const PARTIAL_PREFIX: &str = ".exhibit-partial-";

fn failed(what: &str, shown: &str, e: io::Error) -> Failure {
    let code = match e.kind() {
        io::ErrorKind::PermissionDenied => Code::NotPermitted,
        _ => Code::CannotCreate,
    };
    let mut failure = Failure::new(code, format!("cannot {what} {shown}: {e}"));
    failure.exists = e.kind() == io::ErrorKind::AlreadyExists;
    match e.kind() {
        io::ErrorKind::AlreadyExists => failure.hint("nothing is overwritten: give another --out folder"),
        _ => failure,
    }
}

fn components(name: &[u8]) -> Result<(Vec<&[u8]>, &[u8])> {
    let mut parts: Vec<&[u8]> = name.split(|b| *b == b'/').filter(|p| !p.is_empty()).collect();
    if parts.iter().any(|p| *p == b"." || *p == b"..") || name.contains(&0) {
        return Err(Failure::new(
            Code::Damaged,
            format!("the name '{}' would leave the folder", exhibit_evidence::text::escape_bytes(name)),
        ));
    }
    match parts.pop() {
        Some(last) => Ok((parts, last)),
        None => Err(Failure::new(Code::Damaged, "an item without a name")),
    }
}

impl Target {
    /// Opens the folder, making it when it is absent.
    pub fn open(path: &Path, extras: Extras) -> Result<Self> {
        let shown = path.display().to_string();
        let missing = path.ancestors().take_while(|p| !p.as_os_str().is_empty() && std::fs::symlink_metadata(p).is_err());
        let made = missing.map(Path::to_owned).collect();
        std::fs::create_dir_all(path).map_err(|e| failed("make the folder", &shown, e))?;
        let root = rustix::fs::open(path, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open the folder", &shown, e.into()))?;
        Ok(Self { root, shown, extras, made })
    }

    /// Removes the folders that were made for it, as far as they are empty.
    pub fn take_back(&self) {
        let _ = self.made.iter().try_for_each(std::fs::remove_dir);
    }

    fn show(&self, name: &[u8]) -> String {
        format!("{}/{}", self.shown, exhibit_evidence::text::escape_bytes(name))
    }

    /// Opens the folder of a name, making the ones between. Links are not followed: a link that was restored earlier
    /// cannot carry a later name away.
    fn parent(&self, folders: &[&[u8]], shown: &str) -> Result<OwnedFd> {
        let err = |e: rustix::io::Errno| failed("make the folders of", shown, e.into());
        let mut at = self.root.try_clone().map_err(|e| failed("open", shown, e))?;
        for folder in folders {
            match rustix::fs::mkdirat(&at, *folder, Mode::from_raw_mode(0o755)) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(err(e)),
            }
            at = rustix::fs::openat(&at, *folder, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(err)?;
        }
        Ok(at)
    }

    /// Begins a regular file of `size` bytes; what is not written stays a hole. Fails at once when its name is taken.
    pub fn file(&self, name: &[u8], size: u64) -> Result<Restoring> {
        let shown = self.show(name);
        let (folders, last) = components(name)?;
        let parent = self.parent(&folders, &shown)?;
        let err = |e: rustix::io::Errno| failed("write", &shown, e.into());
        match rustix::fs::statat(&parent, last, AtFlags::SYMLINK_NOFOLLOW) {
            Err(rustix::io::Errno::NOENT) => {}
            Ok(_) => return Err(err(rustix::io::Errno::EXIST)),
            Err(e) => return Err(err(e)),
        }
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut number = 0_u32;
        let (fd, partial) = loop {
            let partial = format!("{PARTIAL_PREFIX}{}-{number}", std::process::id());
            match rustix::fs::openat(&parent, &partial, flags, Mode::from_raw_mode(0o600)) {
                // Left by a process that was killed, or another one's in a shared folder.
                Err(rustix::io::Errno::EXIST) if number < 10_000 => number += 1,
                opened => break (opened.map_err(err)?, partial),
            }
        };
        let restoring = Restoring { file: File::from(fd), folder: parent, partial: Some(partial), name: last.to_vec(), shown };
        restoring.file.set_len(size).map_err(|e| failed("write", &restoring.shown, e))?;
        Ok(restoring)
    }

    /// Writes a piece of a file.
    pub fn write(&self, to: &Restoring, offset: u64, bytes: &[u8]) -> Result<()> {
        to.file.write_all_at(bytes, offset).map_err(|e| failed("write", &to.shown, e))
    }

    /// Reads a piece of a file back; false when it is not there.
    pub fn read(&self, from: &Restoring, offset: u64, into: &mut [u8]) -> bool {
        from.file.read_exact_at(into, offset).is_ok()
    }

    /// Makes a file that was converted `size` bytes long.
    pub fn set_len(&self, of: &Restoring, size: u64) -> Result<()> {
        of.file.set_len(size).map_err(|e| failed("write", &of.shown, e))
    }

    /// SHA-256 of a file as it lies there now; holes are not read.
    pub fn sha256(&self, of: &Restoring) -> Result<exhibit_evidence::Digest> {
        use rustix::fs::SeekFrom;
        let err = |e: io::Error| failed("read back", &of.shown, e);
        let size = of.file.metadata().map_err(err)?.len();
        let mut hasher = exhibit_evidence::digest::Hasher::new();
        let mut buffer = vec![0; 1 << 20];
        while hasher.bytes() < size {
            let at = hasher.bytes();
            let (data, hole) = match rustix::fs::seek(&of.file, SeekFrom::Data(at)) {
                Ok(data) => (data, rustix::fs::seek(&of.file, SeekFrom::Hole(data)).map_err(|e| err(e.into()))?),
                Err(rustix::io::Errno::NXIO) => (size, size),
                // Not every file system says where its holes are.
                Err(_) => (at, size),
            };
            hasher.update_zeros(data.min(size).saturating_sub(at));
            while hasher.bytes() < hole.min(size) {
                let want = (hole.min(size) - hasher.bytes()).min(buffer.len() as u64) as usize;
                let piece = buffer.get_mut(..want).unwrap_or_default();
                of.file.read_exact_at(piece, hasher.bytes()).map_err(err)?;
                hasher.update(piece);
            }
        }
        Ok(hasher.finish())
    }

    /// Ends a file whose bytes were checked: metadata, so that writing does not change the times again, and last its name.
    pub fn finish(&self, mut restoring: Restoring, meta: &Metadata) -> Result<String> {
        let (file, shown) = (&restoring.file, restoring.shown.clone());
        if self.extras.xattrs {
            for (key, value) in &meta.xattrs {
                rustix::fs::fsetxattr(file, key.as_str(), value, rustix::fs::XattrFlags::empty())
                    .map_err(|e| failed(&format!("set the attribute '{}' of", exhibit_evidence::text::escape(key)), &shown, e.into()))?;
            }
        }
        if self.extras.owner {
            let (uid, gid) = (rustix::fs::Uid::from_raw(meta.uid), rustix::fs::Gid::from_raw(meta.gid));
            rustix::fs::fchown(file, Some(uid), Some(gid)).map_err(|e| failed("set the owner of", &shown, e.into()))?;
        }
        // Without --owner a restored set-id program must not become one of the person who restores.
        let mode = if self.extras.owner { meta.mode & 0o7777 } else { meta.mode & 0o777 };
        rustix::fs::fchmod(file, Mode::from_raw_mode(mode)).map_err(|e| failed("set the mode of", &shown, e.into()))?;
        rustix::fs::futimens(file, &timestamps(meta)).map_err(|e| failed("set the times of", &shown, e.into()))?;
        restoring.name().map_err(|e| failed("write", &shown, e.into()))?;
        Ok(shown)
    }

    /// [`Target::finish`] under a name that was not known when the file was begun.
    pub fn finish_as(&self, mut restoring: Restoring, name: &[u8], meta: &Metadata) -> Result<String> {
        let shown = self.show(name);
        let (folders, last) = components(name)?;
        let folder = self.parent(&folders, &shown)?;
        if let Some(partial) = &restoring.partial {
            rustix::fs::renameat(&restoring.folder, partial, &folder, partial).map_err(|e| failed("write", &shown, e.into()))?;
        }
        (restoring.folder, restoring.name, restoring.shown) = (folder, last.to_vec(), shown);
        self.finish(restoring, meta)
    }

    /// Makes `name` another name of `existing`, which was restored before.
    pub fn hard_link(&self, existing: &[u8], name: &[u8]) -> Result<String> {
        let shown = self.show(name);
        let (old_folders, old_last) = components(existing)?;
        let old_parent = self.parent(&old_folders, &shown)?;
        let (folders, last) = components(name)?;
        let parent = self.parent(&folders, &shown)?;
        rustix::fs::linkat(&old_parent, old_last, &parent, last, AtFlags::empty()).map_err(|e| failed("link", &shown, e.into()))?;
        Ok(shown)
    }

    /// Makes what was restored survive a power cut.
    pub fn sync(&self) -> Result<()> {
        rustix::fs::syncfs(&self.root).map_err(|e| failed("write", &self.shown, e.into()))
    }

    /// Makes a directory.
    pub fn directory(&self, name: &[u8], meta: &Metadata) -> Result<String> {
        let shown = self.show(name);
        let (mut folders, last) = components(name)?;
        folders.push(last);
        let fd = self.parent(&folders, &shown)?;
        rustix::fs::futimens(fd.as_fd(), &timestamps(meta)).map_err(|e| failed("set the times of", &shown, e.into()))?;
        Ok(shown)
    }

    /// Makes a symbolic link; it may point anywhere, and nothing is ever written through it.
    pub fn symlink(&self, name: &[u8], target: &[u8], meta: &Metadata) -> Result<String> {
        let shown = self.show(name);
        let (folders, last) = components(name)?;
        let parent = self.parent(&folders, &shown)?;
        rustix::fs::symlinkat(OsStr::from_bytes(target), &parent, last).map_err(|e| failed("make the link", &shown, e.into()))?;
        rustix::fs::utimensat(&parent, last, &timestamps(meta), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("set the times of", &shown, e.into()))?;
        Ok(shown)
    }
}

fn timestamps(meta: &Metadata) -> Timestamps {
    let spec = |t: Option<FileTime>| match t {
        Some(t) => Timespec { tv_sec: t.s, tv_nsec: t.ns.into() },
        None => Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_OMIT },
    };
    Timestamps { last_access: spec(meta.atime), last_modification: spec(meta.mtime) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn content_holes_names_and_times_come_back() {
        let dir = tempfile::tempdir().expect("folder");
        let target = Target::open(dir.path(), Extras::default()).expect("open");
        let meta = Metadata { mode: 0o4755, mtime: Some(FileTime { s: -5, ns: 123_456_789 }), ..Metadata::default() };
        let file = target.file(b"files/a\xff/b\n", 1 << 30).expect("file");
        target.write(&file, (1 << 30) - 3, b"end").expect("write");
        target.finish(file, &meta).expect("finish");
        let path = dir.path().join(OsStr::from_bytes(b"files/a\xff/b\n"));
        let stat = std::fs::metadata(&path).expect("restored");
        assert_eq!((stat.len(), stat.mode() & 0o7777, stat.mtime(), stat.mtime_nsec()), (1 << 30, 0o755, -5, 123_456_789));
        assert!(stat.blocks() < 1_000, "a hole stays a hole");
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            std::fs::read_dir(dir).expect("list").map(|e| e.expect("entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_digest_is_that_of_the_file_with_its_holes() {
        let dir = tempfile::tempdir().expect("folder");
        let target = Target::open(dir.path(), Extras::default()).expect("open");
        let file = target.file(b"a", 0).expect("file");
        target.write(&file, 3 << 20, b"data").expect("write");
        target.set_len(&file, 5 << 20).expect("length");
        let mut all = vec![0_u8; 5 << 20];
        all[3 << 20..][..4].copy_from_slice(b"data");
        assert_eq!(target.sha256(&file).expect("readable"), exhibit_evidence::Digest::of(&all));
        let (mut back, mut beyond) = ([0; 4], [0; 8]);
        assert!(target.read(&file, 3 << 20, &mut back) && back == *b"data");
        assert!(!target.read(&file, (5 << 20) - 4, &mut beyond));
    }

    #[test]
    fn only_a_finished_file_has_its_name() {
        let dir = tempfile::tempdir().expect("folder");
        let target = Target::open(dir.path(), Extras::default()).expect("open");
        let given_up = target.file(b"a", 3).expect("file");
        target.write(&given_up, 0, b"bad").expect("write");
        assert!(names(dir.path()).iter().all(|n| n.starts_with(PARTIAL_PREFIX)), "{:?}", names(dir.path()));
        // Two at a time, and a leftover of the same name, do not meet.
        let other = target.file(b"b", 3).expect("file");
        drop(given_up);
        target.finish(other, &Metadata::default()).expect("finish");
        assert_eq!(names(dir.path()), ["b"]);
        // Somebody takes the name while the file arrives.
        let late = target.file(b"c", 3).expect("file");
        std::fs::write(dir.path().join("c"), "theirs").expect("write");
        assert_eq!(target.finish(late, &Metadata::default()).expect_err("taken").code, Code::CannotCreate);
        assert_eq!(std::fs::read(dir.path().join("c")).expect("read"), b"theirs");
        assert_eq!(names(dir.path()), ["b", "c"]);
        target.hard_link(b"b", b"d/e").expect("link");
        let inode = |name: &str| std::fs::metadata(dir.path().join(name)).expect("stat").ino();
        assert_eq!(inode("b"), inode("d/e"));
        assert!(target.hard_link(b"b", b"c").expect_err("taken").exists);
    }

    #[test]
    fn folders_that_stayed_empty_are_taken_back() {
        let dir = tempfile::tempdir().expect("folder");
        let (there, new) = (dir.path().join("there"), dir.path().join("a/b"));
        std::fs::create_dir(&there).expect("folder");
        for path in [&there, &new] {
            Target::open(path, Extras::default()).expect("open").take_back();
        }
        assert_eq!(names(dir.path()), ["there"], "what was there before stays");
        let target = Target::open(&new, Extras::default()).expect("open");
        std::fs::write(new.join("x"), "x").expect("write");
        target.take_back();
        assert!(new.join("x").exists(), "nothing with content goes");
    }

    #[test]
    fn nothing_leaves_the_folder_or_is_replaced() {
        let dir = tempfile::tempdir().expect("folder");
        let outside = tempfile::tempdir().expect("folder");
        let target = Target::open(&dir.path().join("out"), Extras::default()).expect("open");
        target.symlink(b"files/link", outside.path().as_os_str().as_bytes(), &Metadata::default()).expect("link");
        assert!(target.file(b"files/link/x", 1).is_err(), "through a restored link");
        assert!(target.file(b"files/../../x", 1).is_err(), "dot dot");
        assert!(target.file(b"", 1).is_err(), "no name");
        let first = target.file(b"files/x", 1).expect("new");
        target.finish(first, &Metadata::default()).expect("finish");
        assert!(target.file(b"files/x", 1).is_err(), "exists");
        assert_eq!(std::fs::read_dir(outside.path()).expect("list").count(), 0);
    }
}
