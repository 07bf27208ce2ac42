//! The store in a local folder.
//!
//! ```text
//! <root>/.staging/            half-written files; swept at start; its presence marks the folder as a store
//! <root>/.staging/lock        held shared by everybody who has the store open, exclusively while sweeping
//! <root>/.staging/run         held by the one coordinator that serves from it, or shared by those with one catalog in PostgreSQL
//! <root>/<name>               objects: files of mode 0400, checkpoints 0600, folders 0700
//! ```
//!
//! Trust: the file system and its owner can take objects away but not forge what verifies.

mod claim;
mod files;
mod folders;
mod immutable;
mod strangers;

use std::collections::HashMap;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::{Digest, Hasher, Timestamp};
use rustix::fs::FlockOperation;
use rustix::io::Errno;

pub use claim::{Beside, Claim};
use files::{foreign, map, open_object, rename_new, shown, sync_folder, too_large, too_short, write_bytes};
use strangers::below;

use super::foreign::Foreign;
use super::{
    Answer, Entry, Kind, OBJECT_BYTES_MAX, PAGE_ENTRIES_MAX, Page, Payload, Store, StoreError, Stored, Trouble, check_name, name_is_valid,
};

const STAGING: &str = ".staging";
const HEAD_BYTES_MAX: usize = 65_536;
/// Deepest folder of a listing; the layout needs six.
const DEPTH_MAX: usize = 16;
/// Folders whose durability is remembered; beyond it the memory is dropped and costs one fsync a folder again.
const KNOWN_FOLDERS_MAX: usize = 10_000;

/// A store in a folder of this machine.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    /// Holds the shared lock until the last user is gone.
    _lock: File,
    next: AtomicU64,
    /// Folders that are known to be durable themselves: their parent was synced after they existed.
    known: Mutex<HashMap<PathBuf, folders::Made>>,
    /// Held while a folder is made, or an empty one taken away.
    making: Mutex<()>,
    /// Set when the disk failed to sync. Linux forgets such an error after telling it once, so nothing that is written
    /// afterwards may be called durable until the program was started again and has looked.
    sync_failed: AtomicBool,
    /// New files get the immutable attribute.
    immutable: AtomicBool,
    /// Names that listings left out.
    foreign: Foreign,
}

impl LocalStore {
    /// Makes a new store in a folder that does not exist or is empty, then opens it.
    ///
    /// # Errors
    /// [`Kind::Conflict`] when the folder holds something, otherwise what the file system said.
    pub fn create(root: &Path) -> Result<Self, StoreError> {
        let at = |e: io::Error| map(&e, "make the store's folder", &root.to_string_lossy());
        match std::fs::read_dir(root) {
            Ok(mut entries) => {
                if entries.next().is_some() {
                    return Err(StoreError::new(
                        Kind::Conflict,
                        format!("the folder {} is not empty", shown(root)),
                        "name an empty or a new folder for a new store",
                    ));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(at)?;
            }
            Err(e) => return Err(at(e)),
        }
        DirBuilder::new().mode(0o700).create(root.join(STAGING)).map_err(at)?;
        sync_folder(root).map_err(at)?;
        if let Some(parent) = root.parent().filter(|p| !p.as_os_str().is_empty()) {
            sync_folder(parent).map_err(at)?;
        }
        Self::open(root)
    }

    /// Opens a store that [`LocalStore::create`] made, and sweeps what interrupted writes left when nobody else has it
    /// open. Blocks for a few file system calls.
    ///
    /// # Errors
    /// [`Kind::NotFound`] when there is no store, [`Kind::Denied`] when the folder may not be used or is writable for
    /// others.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        let staging = root.join(STAGING);
        let meta = match std::fs::metadata(&staging) {
            Ok(meta) if meta.is_dir() => std::fs::metadata(root).map_err(|e| map(&e, "look at", &root.to_string_lossy()))?,
            Ok(_) => {
                return Err(StoreError::new(Kind::Damaged, format!("{} is not a folder", shown(&staging)), "restore the store's folder"));
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(StoreError::new(
                    Kind::NotFound,
                    format!("{} is not a store of this program", shown(root)),
                    "check the path in the configuration; a new store is made by `exhibit-coordinator init`",
                ));
            }
            Err(e) => return Err(map(&e, "open the store", &root.to_string_lossy())),
        };
        if meta.permissions().mode() & 0o022 != 0 {
            return Err(StoreError::new(
                Kind::Denied,
                format!("the store's folder {} can be written by other users (mode {:o})", shown(root), meta.permissions().mode() & 0o7777),
                format!("run: chmod go-w {}", shown(root)),
            ));
        }
        let lock = open_lock(&staging)?;
        let inner = Inner {
            root: root.to_owned(),
            _lock: lock,
            next: AtomicU64::new(0),
            known: Mutex::new(HashMap::new()),
            making: Mutex::new(()),
            sync_failed: AtomicBool::new(false),
            immutable: AtomicBool::new(false),
            foreign: Foreign::default(),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// What tells the store in a folder from another one in its place, by asking the file system once; `None` where there is none.
    #[must_use]
    pub fn standing(root: &Path) -> Option<(u64, u64)> {
        let meta = std::fs::metadata(root.join(STAGING).join("lock")).ok()?;
        Some((meta.dev(), meta.ino()))
    }

    /// Reads a small object of the store in a folder without opening the store, so that nothing is written there; `None` where there is none.
    ///
    /// # Errors
    /// As [`Store::get`].
    pub fn peek(root: &Path, name: &str, bytes_max: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let (file, size) = match open_object(name, &root.join(name)) {
            Ok(found) => found,
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        if size > bytes_max {
            return Err(too_large(name, size, bytes_max));
        }
        let mut bytes = Vec::new();
        file.take(bytes_max).read_to_end(&mut bytes).map_err(|e| map(&e, "read", name))?;
        Ok(Some(bytes))
    }

    /// From now on files get the immutable attribute, which only [`Store::destroy`] takes off.
    ///
    /// # Errors
    /// [`Kind::Denied`] when this process may not set it, or the file system has none.
    pub fn make_immutable(&self) -> Result<(), StoreError> {
        immutable::probe(&self.inner)?;
        self.inner.immutable.store(true, Ordering::Release);
        Ok(())
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(result) => result,
            Err(e) => Err(StoreError::bug(format!("a file system task ended badly: {e}"))),
        }
    }
}

/// Takes the shared lock; when nobody else holds it, removes the leftovers of interrupted writes first.
fn open_lock(staging: &Path) -> Result<File, StoreError> {
    let path = staging.join("lock");
    let fail = |e: io::Error| map(&e, "lock the store", &path.to_string_lossy());
    let lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(fail)?;
    if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
        for entry in std::fs::read_dir(staging).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_name() != "lock" && entry.file_name() != claim::FILE {
                tracing::info!(file = %shown(&entry.path()), "removing the rest of an interrupted write");
                if let Ok(left) = File::open(entry.path()) {
                    immutable::clear(&left).map_err(fail)?;
                }
                std::fs::remove_file(entry.path()).map_err(fail)?;
            }
        }
    }
    rustix::fs::flock(&lock, FlockOperation::LockShared).map_err(|e| fail(e.into()))?;
    Ok(lock)
}

impl Inner {
    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Order of system calls, each of which may be the last one before the power goes:
    ///
    /// 1. staging file: open(O_EXCL), write, fchmod 0400, fsync   - a crash leaves a staging file, swept at start; a full disk no folder
    /// 2. every folder on the way: mkdir, fsync of its parent
    /// 3. renameat2(RENAME_NOREPLACE) onto the name, or link + unlink where the file system has no such rename
    /// 4. the immutable attribute, where it is wanted, and fsync of the file
    /// 5. fsync of the folder                                     - only now the caller is told
    ///
    /// A crash between 3 and 5 may leave the object or not, with its attribute or not; all are found by repeating the call: an object with the
    /// same content gets the attribute, is synced again and counts as written.
    fn put_new(&self, name: &str, content: &Payload, sha256: Digest) -> Result<Stored, StoreError> {
        self.usable()?;
        let path = self.path(name);
        if let Some(found) = self.compare(name, &path, content, sha256)? {
            return Ok(found);
        }
        let (mut file, staged) = self.stage(name)?;
        let result = (|| {
            content.iter().try_for_each(|bytes| write_bytes(&mut file, bytes))?;
            file.set_permissions(std::fs::Permissions::from_mode(0o400))?;
            self.sync(&file)?;
            let folder = self.place(name, || rename_new(&staged, &path))?;
            self.keep(&file)?;
            Ok::<PathBuf, io::Error>(folder)
        })();
        let folder = match result {
            Ok(folder) => folder,
            Err(e) => {
                let _ = std::fs::remove_file(&staged);
                if e.kind() == io::ErrorKind::AlreadyExists {
                    // Somebody was faster; NotFound here would mean that the winner vanished again.
                    return self.compare(name, &path, content, sha256)?.ok_or_else(|| {
                        StoreError::new(
                            Kind::Damaged,
                            format!("'{name}' was there and is gone"),
                            "somebody deletes objects in the store: find out who",
                        )
                    });
                }
                return Err(map(&e, "write", name));
            }
        };
        self.sync_dir(&folder).map_err(|e| map(&e, "make durable", name))?;
        Ok(Stored { existed: false, version: None })
    }

    /// What is under the name already: `None` when nothing.
    fn compare(&self, name: &str, path: &Path, content: &Payload, sha256: Digest) -> Result<Option<Stored>, StoreError> {
        let mut file = match open_object(name, path) {
            Ok((file, size)) if size == content.content_length() as u64 => file,
            Ok(_) => return Err(StoreError::conflict(name)),
            Err(e) if e.kind() == Kind::NotFound => return Ok(None),
            Err(e) => return Err(e),
        };
        let mut hasher = Hasher::new();
        let mut buffer = vec![0; 1 << 18];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => hasher.update(&buffer[..n]),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(map(&e, "read", name)),
            }
        }
        if hasher.finish() != sha256 {
            return Err(StoreError::conflict(name));
        }
        // The earlier try may have ended before its syncs.
        self.make_folders(name, &mut Vec::new()).map_err(|e| map(&e, "make durable", name))?;
        self.keep(&file).and_then(|()| self.sync(&file)).map_err(|e| map(&e, "make durable", name))?;
        if let Some(folder) = path.parent() {
            self.sync_dir(folder).map_err(|e| map(&e, "make durable", name))?;
        }
        Ok(Some(Stored { existed: true, version: None }))
    }

    /// Gives a file the immutable attribute, where it is wanted, and has it durable.
    fn keep(&self, file: &File) -> io::Result<()> {
        if !self.immutable.load(Ordering::Acquire) {
            return Ok(());
        }
        immutable::set(file, true)?;
        self.sync(file)
    }

    /// 1. staging file, fsync; 2. folders as in `put_new`; 3. rename over the old one; 4. fsync of the folder.
    ///
    /// A reader sees the old or the new bytes; so does whoever looks after a crash.
    fn put_head(&self, name: &str, content: &[u8]) -> Result<(), StoreError> {
        self.usable()?;
        let path = self.path(name);
        let (mut file, staged) = self.stage(name)?;
        let written = file.write_all(content).and_then(|()| self.sync(&file));
        match written.and_then(|()| self.place(name, || std::fs::rename(&staged, &path))) {
            Ok(folder) => self.sync_dir(&folder).map_err(|e| map(&e, "make durable", name)),
            Err(e) => {
                let _ = std::fs::remove_file(&staged);
                Err(map(&e, "replace", name))
            }
        }
    }

    /// 1. the immutable attribute, if there is one, and the name; 2. fsync of the folder - only now the object is gone for good; 3. folders above that are empty now are
    ///    removed, the parent of each is synced. A crash leaves the object, or an empty folder.
    fn destroy(&self, name: &str) -> Result<(), StoreError> {
        self.usable()?;
        let path = self.path(name);
        if let Ok((file, _)) = open_object(name, &path) {
            immutable::clear(&file).map_err(|e| map(&e, "take the immutable attribute off", name))?;
        }
        match std::fs::remove_file(&path) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(map(&e, "destroy", name)),
        }
        let mut folder = path.parent();
        while let Some(here) = folder.filter(|f| *f != self.root) {
            match self.sync_existing(here) {
                Ok(()) => {}
                Err(e) => return Err(map(&e, "make durable the destruction of", name)),
            }
            match self.remove_empty(here) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                // Something else lies in it: it stays, as do those above.
                Err(_) => break,
            }
            folder = here.parent();
        }
        folder.map_or(Ok(()), |f| self.sync_existing(f)).map_err(|e| map(&e, "make durable the destruction of", name))
    }

    fn sync_existing(&self, folder: &Path) -> io::Result<()> {
        if !folder.is_dir() {
            return Ok(());
        }
        // Somebody else may take it away in this moment, because it is empty.
        self.sync_dir(folder).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.sync_failed.load(Ordering::Acquire) {
            return Err(StoreError::new(
                Kind::Damaged,
                "the disk failed to make an earlier write durable, so nothing more is written",
                "check the disk and the kernel's log, then start the coordinator again: it looks at everything it holds",
            ));
        }
        Ok(())
    }

    fn stage(&self, name: &str) -> Result<(File, PathBuf), StoreError> {
        // Another process may have used our number before us (process ids repeat); a few steps find a free one.
        for _ in 0..1_000 {
            let n = self.next.fetch_add(1, Ordering::Relaxed);
            let path = self.root.join(STAGING).join(format!("{}-{n}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok((file, path)),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(map(&e, "begin to write", name)),
            }
        }
        Err(StoreError::new(
            Kind::Retry,
            "no free staging name after 1000 tries",
            "start the coordinator again: it sweeps the staging folder",
        ))
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        // ENOSPC and EDQUOT at fsync (delayed allocation) leave a staging file that is thrown away: nothing was claimed.
        file.sync_all().inspect_err(|e| {
            if !matches!(Errno::from_io_error(e), Some(Errno::NOSPC | Errno::DQUOT)) {
                self.sync_failed.store(true, Ordering::Release);
            }
        })
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder).inspect_err(|e| {
            // A folder that is not there was empty when it went: the disk lost nothing.
            if e.kind() != io::ErrorKind::NotFound {
                self.sync_failed.store(true, Ordering::Release);
            }
        })
    }

    fn read(name: &str, path: &Path, range: Option<Range<u64>>, bytes_max: u64) -> Result<Bytes, StoreError> {
        let (file, size) = open_object(name, path)?;
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end - range.start > OBJECT_BYTES_MAX {
            return Err(StoreError::bug(format!("a read of bytes {}..{} of '{name}'", range.start, range.end)));
        }
        if range.end > size {
            return Err(too_short(name, size, range.end));
        }
        if range.end - range.start > bytes_max {
            return Err(too_large(name, size, bytes_max));
        }
        let mut buffer = vec![0; (range.end - range.start) as usize];
        file.read_exact_at(&mut buffer, range.start).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => too_short(name, size, range.end),
            _ => map(&e, "read", name),
        })?;
        Ok(Bytes::from(buffer))
    }

    /// Collects objects in byte order of full names, after `after`, until the page holds one more than fits.
    fn walk(&self, folder: &str, after: Option<&str>, depth: usize, out: &mut Vec<Entry>) -> Result<(), StoreError> {
        if depth > DEPTH_MAX {
            return Err(foreign(folder));
        }
        for (child, is_folder) in self.children(folder)? {
            if out.len() > PAGE_ENTRIES_MAX {
                return Ok(());
            }
            let name = if folder.is_empty() { child } else { format!("{folder}/{child}") };
            if is_folder {
                let inside = format!("{name}/");
                // Everything inside begins with `inside`: skip it when all of that sorts before `after`.
                if after.is_none_or(|a| inside.as_str() > a || a.starts_with(&inside)) {
                    self.walk(&name, after, depth + 1, out)?;
                }
            } else if after.is_none_or(|a| name.as_str() > a) {
                let meta = std::fs::symlink_metadata(self.path(&name)).map_err(|e| map(&e, "look at", &name))?;
                out.push(Entry { name, size: meta.len(), modified: modified(&meta) });
            }
        }
        Ok(())
    }

    /// Names in a folder, sorted as their full names sort (a folder as if it ended in `/`), and whether each is a folder. What nothing of ours
    /// can be called is left out and remembered. What has a name of ours and is neither a file nor a folder may stand in the place of
    /// evidence: that is an error and no absence.
    fn children(&self, folder: &str) -> Result<Vec<(String, bool)>, StoreError> {
        let entries = match std::fs::read_dir(self.path(folder)) {
            Ok(entries) => entries,
            Err(e) if matches!(Errno::from_io_error(&e), Some(Errno::NOENT | Errno::NOTDIR)) => return Ok(Vec::new()),
            Err(e) => return Err(map(&e, "list", folder)),
        };
        let mut children = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| map(&e, "list", folder))?;
            let raw = entry.file_name();
            if raw.as_encoded_bytes().starts_with(b".") && folder.is_empty() {
                continue;
            }
            let kind = entry.file_type().map_err(|e| map(&e, "list", folder))?;
            let Some(name) = raw.to_str().filter(|n| name_is_valid(n)) else {
                self.leave_out(folder, &raw, kind.is_dir());
                continue;
            };
            if !kind.is_dir() && !kind.is_file() {
                // Directly in the store nothing of ours can be missing for it, nor among the cases under what no case is called.
                if folder.is_empty() || (folder == "cases" && name.parse::<CaseId>().is_err()) {
                    self.leave_out(folder, &raw, false);
                    continue;
                }
                return Err(foreign(&entry.path().to_string_lossy()));
            }
            children.push((name.to_owned(), kind.is_dir()));
        }
        children.sort_by_cached_key(|(name, is_folder)| if *is_folder { format!("{name}/") } else { name.clone() });
        Ok(children)
    }
}

/// When a file was written.
fn modified(meta: &std::fs::Metadata) -> Timestamp {
    Timestamp::from_unix_ns(meta.mtime().saturating_mul(1_000_000_000).saturating_add(meta.mtime_nsec()))
}

impl Store for LocalStore {
    fn describe(&self) -> String {
        format!("local folder {}", shown(&self.inner.root))
    }

    fn put_new<'a>(&'a self, name: &'a str, content: Payload, sha256: Digest) -> Answer<'a, Stored> {
        Box::pin(async move {
            check_name(name)?;
            let name = name.to_owned();
            self.run(move |inner| inner.put_new(&name, &content, sha256)).await
        })
    }

    fn put_head<'a>(&'a self, name: &'a str, content: Bytes) -> Answer<'a, ()> {
        Box::pin(async move {
            check_name(name)?;
            if content.len() > HEAD_BYTES_MAX {
                return Err(StoreError::bug(format!(
                    "a replaceable object of {} bytes: at most {HEAD_BYTES_MAX} are allowed",
                    content.len()
                )));
            }
            let name = name.to_owned();
            self.run(move |inner| inner.put_head(&name, &content)).await
        })
    }

    fn get<'a>(&'a self, name: &'a str, bytes_max: u64) -> Answer<'a, Bytes> {
        Box::pin(async move {
            check_name(name)?;
            let name = name.to_owned();
            self.run(move |inner| Inner::read(&name, &inner.path(&name), None, bytes_max)).await
        })
    }

    fn get_range<'a>(&'a self, name: &'a str, range: Range<u64>) -> Answer<'a, Bytes> {
        Box::pin(async move {
            check_name(name)?;
            let name = name.to_owned();
            self.run(move |inner| Inner::read(&name, &inner.path(&name), Some(range), OBJECT_BYTES_MAX)).await
        })
    }

    fn size<'a>(&'a self, name: &'a str) -> Answer<'a, u64> {
        Box::pin(async move {
            check_name(name)?;
            let name = name.to_owned();
            self.run(move |inner| open_object(&name, &inner.path(&name)).map(|(_, size)| size)).await
        })
    }

    fn list<'a>(&'a self, folder: &'a str, after: Option<&'a str>) -> Answer<'a, Page> {
        Box::pin(async move {
            if !folder.is_empty() {
                check_name(folder)?;
            }
            let (folder, after) = (folder.to_owned(), after.map(str::to_owned));
            self.run(move |inner| {
                if after.is_none() {
                    inner.foreign.forget_below(&below(&folder));
                }
                let mut entries = Vec::new();
                inner.walk(&folder, after.as_deref(), 0, &mut entries)?;
                let more = entries.len() > PAGE_ENTRIES_MAX;
                entries.truncate(PAGE_ENTRIES_MAX);
                Ok(Page { entries, more })
            })
            .await
        })
    }

    fn folders<'a>(&'a self, folder: &'a str) -> Answer<'a, Vec<String>> {
        Box::pin(async move {
            if !folder.is_empty() {
                check_name(folder)?;
            }
            let folder = folder.to_owned();
            self.run(move |inner| {
                inner.foreign.forget_folders(&below(&folder));
                let children = inner.children(&folder)?.into_iter();
                let holds = |name: &str| inner.holds_something(&format!("{}{name}", below(&folder)));
                let mut names: Vec<String> = children.filter(|(name, is)| *is && holds(name)).map(|(name, _)| name).collect();
                names.sort_unstable();
                Ok(names)
            })
            .await
        })
    }

    fn destroy<'a>(&'a self, name: &'a str) -> Answer<'a, ()> {
        Box::pin(async move {
            check_name(name)?;
            let name = name.to_owned();
            self.run(move |inner| inner.destroy(&name)).await
        })
    }

    fn free_bytes(&self) -> Answer<'_, Option<u64>> {
        Box::pin(async move {
            self.run(|inner| {
                let stat =
                    rustix::fs::statvfs(&inner.root).map_err(|e| map(&e.into(), "ask for the free space of", &shown(&inner.root)))?;
                Ok(Some(stat.f_bavail.saturating_mul(stat.f_frsize)))
            })
            .await
        })
    }

    fn troubles(&self) -> Vec<Trouble> {
        self.strangers(&self.describe()).into_iter().collect()
    }

    fn foreign(&self, folder: &str) -> Vec<String> {
        self.inner.foreign.below(&below(folder))
    }
}
