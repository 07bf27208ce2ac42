//! Finding files: one walk over all local file systems for any number of patterns at once.
//!
//! Each directory is read at most once, and only when a pattern has a wildcard there; literal names are looked up.
//! No symbolic link is followed: names are opened one at a time relative to a directory that is held open, so that
//! nothing can be swapped in on the way and paths may be longer than the kernel's PATH_MAX. What stands in the way
//! (a mount that is not entered, a directory that may not be read, a link) is told to the [`Visitor`].
//!
//! Bounds: [`FOLDERS_DEEP_MAX`] open directories of about 20 KiB each (reading buffer and one batch of names); patterns
//! are bounded by their own limits.

pub mod glob;
#[cfg(test)]
mod glob_tests;
pub mod homes;
pub mod inode;
pub mod prefix;
pub mod rule;
pub mod source;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use exhibit_evidence::time::FileTime;
use rustix::fs::{CWD, Dir, FileType, Mode, OFlags, openat};
use rustix::io::Errno;

use self::glob::{Pattern, States, Step};
use self::inode::{Look, Opener, kind_of};
use self::prefix::Resolver;
use super::mounts::{Class, Mount, Mounts};
use super::{EvidencePath, Kind, Status, Stop, status_of};

/// Deepest nesting of directories, counted from the root. Each level holds two file descriptors, so that the walk stays
/// far below the usual limit of 1,024 open files.
pub const FOLDERS_DEEP_MAX: usize = 160;

/// Names of a directory that are sorted and handled together.
const BATCH_NAMES: usize = 256;

/// When content and inode of a directory last changed.
fn changed(handle: &OwnedFd) -> Option<Changed> {
    inode::stat(handle.as_fd()).ok().map(|s| (s.meta.mtime, s.meta.ctime))
}

/// True when a mount may be entered.
#[must_use]
pub fn may_enter(mount: &Mount, remote: bool) -> bool {
    match mount.class {
        Class::Local => true,
        // A host whose root lies on a server is still that host.
        Class::Remote => remote || mount.point == b"/",
        Class::Trigger => remote,
        Class::Pseudo => false,
    }
}

/// Whether to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Yes.
    On,
    /// No: end the walk, it is no failure.
    Enough,
}

/// A path that patterns matched.
pub struct Found<'a> {
    /// Its path.
    pub path: &'a [u8],
    /// Its name.
    pub name: &'a CStr,
    /// The directory that holds it.
    pub folder: BorrowedFd<'a>,
    /// What it is, and a handle on it.
    pub look: &'a Look,
    /// A directory opened for reading, if it could be.
    pub opened: Option<BorrowedFd<'a>>,
    /// Why a directory whose names are needed cannot be read.
    pub unreadable: Option<&'a io::Error>,
}

/// Something that the walk could not or would not look into.
pub struct Obstacle<'a> {
    /// Where.
    pub path: &'a [u8],
    /// What is known about its kind.
    pub kind: Kind,
    /// What became of it.
    pub status: Status,
    /// Why.
    pub reason: String,
    /// What the kernel said about it, if it was asked.
    pub look: Option<&'a Look>,
}

/// Whoever is told what the walk finds. Pattern numbers are indices into the walk's patterns.
pub trait Visitor {
    /// A path that patterns matched.
    ///
    /// # Errors
    /// [`Stop`], which ends the walk.
    fn hit(&mut self, found: Found<'_>, patterns: &[u32]) -> Result<Flow, Stop>;

    /// A path that was not looked into, and the patterns that would have matched it or something in it.
    ///
    /// # Errors
    /// [`Stop`], which ends the walk.
    fn obstacle(&mut self, obstacle: Obstacle<'_>, patterns: &[u32]) -> Result<Flow, Stop>;

    /// A literal name is not there (`path` ends with it), and the patterns that asked for it.
    ///
    /// # Errors
    /// [`Stop`], which ends the walk.
    fn absent(&mut self, path: &[u8], reason: &str, patterns: &[u32]) -> Result<Flow, Stop>;

    /// Called often; `folder` is what is being read.
    ///
    /// # Errors
    /// [`Stop`], which ends the walk.
    fn tick(&mut self, folder: &[u8]) -> Result<(), Stop>;
}

/// What a walk did, for the record.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Directories whose names were read.
    pub folders_read: u64,
    /// Names that were looked at one by one.
    pub names_looked_at: u64,
    /// Names in directories that were read.
    pub names_read: u64,
    /// Links under a `**` that no pattern asked for by name and that were therefore not gone into.
    pub links_passed: u64,
    /// Directories in which a `**` with a number ended: what lies beneath was not asked for.
    pub stopped_by_depth: u64,
    /// Directories whose names changed while they were read: some may be missing or stand twice.
    pub changed_folders: u64,
    /// Where the walk ended early.
    pub ended_at: Option<Vec<u8>>,
}

/// A walk, ready to run.
pub struct Walk<'a> {
    patterns: &'a [Pattern],
    excluded: &'a [Pattern],
    mounts: &'a Mounts,
    remote: bool,
    opener: Opener,
    tally: Tally,
    path: Vec<u8>,
    stack: Vec<Folder>,
}

/// Times of the last change of content and inode.
type Changed = (Option<FileTime>, Option<FileTime>);

/// A directory on the way.
struct Folder {
    /// For looking names up; an O_PATH handle needs only search permission.
    handle: OwnedFd,
    /// For reading names, when a wildcard needs it.
    reader: Option<Dir>,
    states: States,
    excluded: States,
    /// Length of the path of this directory.
    path_bytes: usize,
    /// When it had changed last, before its names were read.
    changed: Option<Changed>,
    /// True when its names were read.
    listed: bool,
    /// Names still to do, last first.
    pending: Vec<Entry>,
    /// Literal names that were not yet seen.
    literals: Vec<Vec<u8>>,
}

struct Entry {
    name: CString,
    file_type: FileType,
    /// True when a pattern asks for exactly this name.
    literal: bool,
    /// True when the directory's listing held it.
    listed: bool,
}

impl<'a> Walk<'a> {
    /// A walk for patterns, except what `excluded` matches. With `remote`, remote file systems are entered as well.
    #[must_use]
    pub fn new(patterns: &'a [Pattern], excluded: &'a [Pattern], mounts: &'a Mounts, remote: bool) -> Self {
        Self { patterns, excluded, mounts, remote, opener: Opener::new(), tally: Tally::default(), path: Vec::new(), stack: Vec::new() }
    }

    /// Why names are opened with `openat(2)` and not with `openat2(2)`, if that is so.
    #[must_use]
    pub fn without_openat2(&self) -> Option<&str> {
        self.opener.without_openat2.as_deref()
    }

    /// Walks.
    ///
    /// # Errors
    /// What the visitor returned, or [`Stop::Fatal`] when the root cannot be opened.
    pub fn run(self, visitor: &mut dyn Visitor) -> Result<Tally, Stop> {
        let (tally, ended) = self.run_so_far(visitor);
        ended.map(|()| tally)
    }

    /// The same; what was counted until then is there too where it ended with an error.
    pub fn run_so_far(mut self, visitor: &mut dyn Visitor) -> (Tally, Result<(), Stop>) {
        let ended = self.walk(visitor);
        if ended.is_err() {
            self.tally.ended_at = Some(self.path);
        }
        (self.tally, ended)
    }

    fn walk(&mut self, visitor: &mut dyn Visitor) -> Result<(), Stop> {
        let states = States::start(self.patterns);
        if states.is_empty() {
            return Ok(());
        }
        let root = openat(CWD, c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| Stop::Fatal(format!("the root directory cannot be opened: {}", io::Error::from(e))))?;
        let reader = if states.needs_listing(self.patterns) { open_reader(&root).ok() } else { None };
        let excluded = States::start(self.excluded);
        self.push(root, reader, states, excluded, 0);
        while let Some(entry) = self.next_entry(visitor)? {
            if self.entry(&entry, visitor)? == Flow::Enough {
                self.tally.ended_at = Some(self.path.clone());
                break;
            }
        }
        Ok(())
    }

    fn push(&mut self, handle: OwnedFd, reader: Option<Dir>, states: States, excluded: States, path_bytes: usize) {
        let literals = states.literals(self.patterns).into_iter().map(<[u8]>::to_vec).collect();
        let (changed, listed) = (changed(&handle), reader.is_some());
        self.stack.push(Folder { handle, reader, states, excluded, path_bytes, changed, listed, pending: Vec::new(), literals });
    }

    /// The next name to handle, from the innermost directory that has one left; `self.path` becomes its path.
    fn next_entry(&mut self, visitor: &mut dyn Visitor) -> Result<Option<Entry>, Stop> {
        while let Some(folder) = self.stack.last_mut() {
            self.path.truncate(folder.path_bytes);
            if let Some(entry) = folder.pending.pop() {
                self.path.push(b'/');
                self.path.extend_from_slice(entry.name.to_bytes());
                return Ok(Some(entry));
            }
            visitor.tick(&self.path)?;
            if folder.reader.is_some() {
                match read_batch(folder, self.patterns, &mut self.tally) {
                    Ok(()) => {}
                    Err(e) => {
                        folder.reader = None;
                        let patterns: Vec<u32> = folder.states.patterns().collect();
                        let (status, reason) = status_of(&e);
                        let reason = format!("reading the directory failed after some names: {reason}");
                        let path = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
                        visitor.obstacle(Obstacle { path, kind: Kind::Directory, status, reason, look: None }, &patterns)?;
                    }
                }
            } else if folder.literals.is_empty() {
                if let Some(folder) = self.stack.pop() {
                    self.leave(&folder, visitor)?;
                }
            } else {
                // Names that no listing gave (or that none was needed for): asked for one by one.
                let names = std::mem::take(&mut folder.literals);
                let entries = names.into_iter().rev().filter_map(|n| CString::new(n).ok());
                folder.pending = entries.map(|name| Entry { name, file_type: FileType::Unknown, literal: true, listed: false }).collect();
            }
        }
        Ok(None)
    }

    /// A directory is done. If names came, went or were renamed in it meanwhile, its listing may have missed some and given
    /// others twice; renaming the directory itself counts as well.
    fn leave(&mut self, folder: &Folder, visitor: &mut dyn Visitor) -> Result<(), Stop> {
        // What cannot be asked is not known to be unchanged.
        if !folder.listed || folder.changed.is_some_and(|before| changed(&folder.handle) == Some(before)) {
            return Ok(());
        }
        self.tally.changed_folders = self.tally.changed_folders.saturating_add(1);
        let patterns: Vec<u32> = folder.states.patterns().collect();
        let path = if self.path.is_empty() { b"/" } else { self.path.as_slice() };
        let reason = "names in it were added, removed or renamed while it was walked: some may be missing or taken twice".to_owned();
        let obstacle = Obstacle { path, kind: Kind::Directory, status: Status::Error, reason, look: None };
        visitor.obstacle(obstacle, &patterns).map(drop)
    }

    /// One name: what stands against going there, what it is, whether it is wanted, whether to go in.
    fn entry(&mut self, entry: &Entry, visitor: &mut dyn Visitor) -> Result<Flow, Stop> {
        let Some(folder) = self.stack.last() else { return Ok(Flow::On) };
        let name = entry.name.to_bytes();
        let step = folder.states.step(self.patterns, name);
        let excluded = folder.excluded.step(self.excluded, name);
        let concerned = || concerned(&step);
        let obstacle = |kind, status, reason, look| Obstacle { path: &self.path, kind, status, reason, look };
        if self.path.len() > EvidencePath::BYTES_MAX {
            let reason = format!("a path of more than {} bytes", EvidencePath::BYTES_MAX);
            return visitor.obstacle(obstacle(kind_of(entry.file_type), Status::Skipped, reason, None), &concerned());
        }
        // Before anything touches it: a dead server answers nobody.
        let mount = self.mounts.at(&self.path);
        if let Some(reason) = mount.and_then(|m| self.reason_against(m, &step)) {
            // Single files can be mounted as well.
            let kind = if entry.file_type == FileType::Unknown { Kind::Directory } else { kind_of(entry.file_type) };
            return visitor.obstacle(obstacle(kind, Status::Skipped, reason, None), &concerned());
        }
        self.tally.names_looked_at = self.tally.names_looked_at.saturating_add(1);
        let look = match self.opener.look(folder.handle.as_fd(), &entry.name, mount.is_some()) {
            Ok(look) => look,
            Err(e) => return self.not_looked_at(entry, &step, &e, visitor),
        };
        if let Some(which) = excluded.hits.first() {
            let what = if look.stat.kind == Kind::Directory { ", and all beneath it" } else { "" };
            let reason = format!("excluded by the order (entry {} of 'exclude'){what}", which.saturating_add(1));
            return visitor.obstacle(obstacle(look.stat.kind, Status::Skipped, reason, Some(&look)), &concerned());
        }
        if look.stat.kind == Kind::Directory {
            return self.directory(entry, step, excluded.next, look, visitor);
        }
        if !step.hits.is_empty() {
            let folder = folder.handle.as_fd();
            let found = Found { path: &self.path, name: &entry.name, folder, look: &look, opened: None, unreadable: None };
            if visitor.hit(found, &step.hits)? == Flow::Enough {
                return Ok(Flow::Enough);
            }
        }
        if step.next.is_empty() { Ok(Flow::On) } else { self.no_way_in(entry, &step, &look, visitor) }
    }

    fn directory(&mut self, entry: &Entry, step: Step, excluded: States, look: Look, visitor: &mut dyn Visitor) -> Result<Flow, Stop> {
        let Some(folder) = self.stack.last() else { return Ok(Flow::On) };
        let wanted = !step.hits.is_empty();
        let inside = !step.next.is_empty();
        let listing = inside && step.next.needs_listing(self.patterns);
        let opened = if wanted || listing { Some(look.open_directory()) } else { None };
        let unreadable = opened.as_ref().and_then(|o| o.as_ref().err()).filter(|_| listing);
        if wanted {
            let opened = opened.as_ref().and_then(|o| o.as_ref().ok()).map(AsFd::as_fd);
            let found = Found { path: &self.path, name: &entry.name, folder: folder.handle.as_fd(), look: &look, opened, unreadable };
            if visitor.hit(found, &step.hits)? == Flow::Enough {
                return Ok(Flow::Enough);
            }
        } else if let Some(e) = unreadable {
            let (status, reason) = status_of(e);
            let reason = format!("its names cannot be read: {reason}");
            let obstacle = Obstacle { path: &self.path, kind: Kind::Directory, status, reason, look: Some(&look) };
            visitor.obstacle(obstacle, &concerned(&step))?;
        }
        self.tally.stopped_by_depth = self.tally.stopped_by_depth.saturating_add(u64::from(step.bounded));
        if !inside {
            return Ok(Flow::On);
        }
        if self.stack.len() >= FOLDERS_DEEP_MAX {
            let reason = format!("deeper than {FOLDERS_DEEP_MAX} directories: not gone into");
            let obstacle = Obstacle { path: &self.path, kind: Kind::Directory, status: Status::Skipped, reason, look: Some(&look) };
            return visitor.obstacle(obstacle, &concerned(&step));
        }
        let reader = opened.and_then(Result::ok).filter(|_| listing).and_then(|fd| Dir::new(fd).ok());
        if reader.is_some() {
            self.tally.folders_read = self.tally.folders_read.saturating_add(1);
        }
        let path_bytes = self.path.len();
        self.push(look.handle, reader, step.next, excluded, path_bytes);
        Ok(Flow::On)
    }

    /// Patterns go on behind something that is no directory.
    fn no_way_in(&mut self, entry: &Entry, step: &Step, look: &Look, visitor: &mut dyn Visitor) -> Result<Flow, Stop> {
        let Some(folder) = self.stack.last() else { return Ok(Flow::On) };
        let asked = folder.states.asks_for(self.patterns, entry.name.to_bytes());
        if look.stat.kind == Kind::Symlink {
            if !step.hits.is_empty() {
                // Told already, as an item of its own.
                return Ok(Flow::On);
            }
            if !asked {
                self.tally.links_passed = self.tally.links_passed.saturating_add(1);
                return Ok(Flow::On);
            }
            let reason = "a symbolic link inside a pattern is not followed; name its target in the order if that is wanted".to_owned();
            let obstacle = Obstacle { path: &self.path, kind: Kind::Symlink, status: Status::Skipped, reason, look: Some(look) };
            return visitor.obstacle(obstacle, &concerned(step));
        }
        if entry.literal {
            let patterns: Vec<u32> = step.next.patterns().collect();
            return visitor.absent(&self.path, "it is there but is no directory", &patterns);
        }
        Ok(Flow::On)
    }

    fn not_looked_at(&self, entry: &Entry, step: &Step, error: &io::Error, visitor: &mut dyn Visitor) -> Result<Flow, Stop> {
        let obstacle = |status, reason| Obstacle { path: &self.path, kind: kind_of(entry.file_type), status, reason, look: None };
        match Errno::from_io_error(error) {
            Some(Errno::NOENT | Errno::NOTDIR) if entry.literal && !entry.listed => {
                visitor.absent(&self.path, "there is nothing of that name", &concerned(step))
            }
            Some(Errno::NOENT) => {
                let reason = "it was in the directory's listing and was gone when it was looked at".to_owned();
                visitor.obstacle(obstacle(Status::Vanished, reason), &concerned(step))
            }
            Some(Errno::XDEV) => {
                let reason = "something was mounted here after the walk began: not entered".to_owned();
                visitor.obstacle(obstacle(Status::Skipped, reason), &concerned(step))
            }
            _ => {
                let (status, reason) = status_of(error);
                visitor.obstacle(obstacle(status, reason), &concerned(step))
            }
        }
    }

    /// Why a mount is not entered, if it is not.
    fn reason_against(&self, mount: &Mount, step: &Step) -> Option<String> {
        let shown = |bytes: &[u8]| exhibit_evidence::text::escape_bounded(&String::from_utf8_lossy(bytes), 200);
        if !may_enter(mount, self.remote) {
            let what = format!("{} file system {} ({})", mount.class.as_str(), shown(&mount.fs_type), shown(&mount.source));
            return Some(match mount.class {
                Class::Remote => format!("{what}: not entered; 'remote=true' includes it"),
                Class::Trigger => format!("{what}: touching it would mount something; 'remote=true' includes it"),
                _ => format!("{what}: not entered; the captures of live state read it by name"),
            });
        }
        if step.next.is_empty() || self.has_mounts_beneath(&mount.point) {
            return None;
        }
        if let Some(alias) = self.mounts.aliases(mount).into_iter().find(|alias| self.is_walked(alias, step)) {
            return Some(format!("shows the same directory as {}, which the same patterns walk", shown(&alias)));
        }
        let layers = mount.overlay_layers()?;
        let mut resolver = Resolver::new(self.mounts, self.remote);
        let all_walked = layers.iter().all(|layer| {
            let resolved = resolver.resolve(layer.split(|b| *b == b'/'));
            resolved.is_some_and(|r| self.is_walked(&prefix::path_of(&r.names), step))
        });
        all_walked.then(|| "an overlay, all of whose layers the same patterns walk".to_owned())
    }

    /// True when everything that the patterns want from here is also found by walking `path`.
    fn is_walked(&self, path: &[u8], step: &Step) -> bool {
        let mut at = Vec::new();
        let mut excluded = States::start(self.excluded);
        for name in path.split(|b| *b == b'/').filter(|n| !n.is_empty()) {
            at.push(b'/');
            at.extend_from_slice(name);
            let next = excluded.step(self.excluded, name);
            if !next.hits.is_empty() || self.mounts.at(&at).is_some_and(|m| !may_enter(m, self.remote)) {
                return false;
            }
            excluded = next.next;
        }
        // What is excluded only there would be lost as well.
        excluded.is_empty() && States::at_path(self.patterns, path).covers(&step.next)
    }

    fn has_mounts_beneath(&self, point: &[u8]) -> bool {
        self.mounts.all().iter().any(|m| m.point.strip_prefix(point).is_some_and(|rest| rest.starts_with(b"/")))
    }
}

fn concerned(step: &Step) -> Vec<u32> {
    let mut patterns: Vec<u32> = step.hits.iter().copied().chain(step.next.patterns()).collect();
    patterns.sort_unstable();
    patterns.dedup();
    patterns
}

fn open_reader(handle: &OwnedFd) -> io::Result<Dir> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(Dir::new(openat(handle, c".", flags, Mode::empty())?)?)
}

/// Reads some names, keeps those that a pattern wants, in order of name.
fn read_batch(folder: &mut Folder, patterns: &[Pattern], tally: &mut Tally) -> io::Result<()> {
    let Some(reader) = &mut folder.reader else { return Ok(()) };
    for _ in 0..BATCH_NAMES {
        let Some(entry) = reader.read() else {
            folder.reader = None;
            break;
        };
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        tally.names_read = tally.names_read.saturating_add(1);
        let step = folder.states.step(patterns, name);
        let file_type = entry.file_type();
        let may_hold = matches!(file_type, FileType::Directory | FileType::Symlink | FileType::Unknown);
        let known = folder.literals.iter().position(|l| l == name);
        if let Some(at) = known {
            folder.literals.swap_remove(at);
        } else if step.hits.is_empty() && (step.next.is_empty() || !may_hold) {
            continue;
        }
        folder.pending.push(Entry { name: entry.file_name().to_owned(), file_type, literal: known.is_some(), listed: true });
    }
    folder.pending.sort_unstable_by(|a, b| b.name.cmp(&a.name));
    Ok(())
}
