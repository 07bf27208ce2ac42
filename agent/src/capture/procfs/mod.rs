//! The folder of processes. What is mounted over `/proc/<pid>`, or over a file in it, shows another process, or whatever its
//! maker likes, under that number; what is mounted over the whole of `/proc` shows other processes. So the agent looks through a
//! procfs of its own, which is attached nowhere, and asks the kernel to cross no mount in it. Where the kernel refuses it one (no
//! CAP_SYS_ADMIN, a user namespace) it looks through `/proc` and crosses no mount below it: then what is covered is an error that
//! says so ([`refusal`](super::live::refusal)), never another's data. A container that was given the host's `/proc` looks through
//! that ([`choice`]); by the numbers there nobody may be asked, stopped or signalled ([`foreign`]). [`facts`] say which one it was.
//!
//! Which one it is stays, because the agent holds it open: what is mounted over `/proc` later changes nothing. What lies at `/proc` is
//! looked at anew whenever that is told or listed, because the agent runs for months and mounts come and go. Where something can be
//! mounted in the agent's own (since Linux 6.15), each capture has a new one ([`renew`]), and what was met in one is told.
//!
//! The links of a process (`exe`, `fd/<n>`, `map_files/...`) lead out of procfs by design: [`follow`] looks at the way to them only.

mod choice;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, ResolveFlags, fstat, openat, openat2, statat};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree};
use rustix::path::Arg;

use self::choice::{Seen, Shown, is_initial};
use super::live::{self, Read, SMALL_BYTES_MAX, number, read_fd};
use super::mounts::Mounts;

struct Root {
    dir: OwnedFd,
    /// The kernel takes the agent's own procfs away when this is closed. It is a place only: nothing can be listed through it.
    _mount: Option<OwnedFd>,
    /// Why the kernel cannot be told not to cross a mount, if it cannot.
    unguarded: Option<Errno>,
    /// Nothing can be mounted in it.
    is_still: bool,
    /// Why it is `/proc`, if it is.
    instead: Option<Instead>,
    /// What it is.
    shows: Shown,
    /// Something that is mounted in it was met.
    is_met: AtomicBool,
    /// The same happened in one that the agent had before.
    was_met: bool,
}

/// Why `/proc` is looked through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Instead {
    /// A container was given it.
    Given,
    /// The kernel gives no procfs of the agent's own.
    Refused(Errno),
}

impl Root {
    /// The agent's own, unless it was given another one, or can have none.
    fn choose() -> Result<Self, Errno> {
        let own = match Self::own() {
            Ok(own) => own,
            Err(e) => {
                let seen = Seen::now(None);
                let shows = seen.shown;
                return Ok(Self::shared(seen.opened()?, shows, Instead::Refused(e)));
            }
        };
        let seen = Seen::now(Some(&own.dir));
        let shows = seen.shown;
        if shows.is_given(is_initial(&own.dir)) { Ok(Self::shared(seen.opened()?, shows, Instead::Given)) } else { Ok(own) }
    }

    /// A procfs of the PID namespace of the agent, attached nowhere. Since Linux 6.15 something can be mounted there too, by who
    /// finds it through the agent's descriptors.
    fn own() -> Result<Self, Errno> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let dir = live::open_dir(&mount, ".")?;
        // A security module may allow the mount and then refuse every path in it, because it cannot name it.
        live::read_at(&dir, "self/stat", SMALL_BYTES_MAX)?;
        let (unguarded, is_still) = (unguarded(&dir), is_still(&dir));
        let is_met = AtomicBool::new(false);
        Ok(Self { dir, _mount: Some(mount), unguarded, is_still, instead: None, shows: Shown::Own, is_met, was_met: false })
    }

    /// `/proc`, which others can mount things in.
    fn shared(dir: OwnedFd, shows: Shown, why: Instead) -> Self {
        let unguarded = unguarded(&dir);
        let is_met = AtomicBool::new(false);
        Self { dir, _mount: None, unguarded, is_still: false, instead: Some(why), shows, is_met, was_met: false }
    }

    /// A new one in the place of the agent's own, where something may be mounted in this one.
    fn fresh(&self) -> Option<Self> {
        let (is_own, is_met) = (self.instead.is_none(), self.is_met.load(Ordering::Relaxed));
        if !is_own || (self.is_still && !is_met) {
            return None;
        }
        let new = Self::own().ok()?;
        Some(Self { was_met: self.was_met || is_met, ..new })
    }

    /// Whether nobody but the kernel says what it is.
    const fn is_vouched(&self) -> bool {
        !matches!(self.instead, Some(Instead::Refused(_)))
    }

    /// Whether it stays in use. What is neither the agent's own nor looks right may be something that lay over `/proc` for a while.
    const fn stays(&self) -> bool {
        self.is_vouched() || self.is_plausible()
    }

    /// Whether it shows the agent, as far as can be told: then its links to what the agent has open are followed.
    const fn is_plausible(&self) -> bool {
        matches!(self.shows, Shown::Own | Shown::Around)
    }

    /// What lies at `/proc` now.
    fn seen(&self) -> Seen {
        Seen::now(self.is_vouched().then_some(&self.dir))
    }

    /// Whether processes have the numbers here by which the agent can ask the kernel for them.
    fn has_own_numbers(&self) -> bool {
        self.shows == Shown::Own
    }

    fn told(&self) -> String {
        let why = match self.instead {
            None if self.is_met.load(Ordering::Relaxed) => {
                return "own; something was mounted in it, and what that covers was not looked at: the next capture has a new one"
                    .to_owned();
            }
            None if self.was_met => return "own; something was mounted in one that the agent had before".to_owned(),
            None => return "own".to_owned(),
            Some(Instead::Given) => "this container was given it".to_owned(),
            Some(Instead::Refused(e)) => {
                format!("the kernel gives the agent none of its own ({e}), without which it cannot be checked that /proc is one")
            }
        };
        let how = match self.unguarded {
            None => "guarded: /proc, and no mount below it is crossed".to_owned(),
            Some(e) => {
                let why = if e == Errno::NOSYS { "the kernel does not offer openat2" } else { "openat2 is refused" };
                format!("unguarded: /proc with what is mounted below it, because {why} ({e})")
            }
        };
        format!("{how}; {why}")
    }
}

static ROOT: RwLock<Option<Arc<Root>>> = RwLock::new(None);

fn kept() -> Option<Arc<Root>> {
    ROOT.read().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Every process is looked at through the same one until [`renew`].
fn known() -> Result<Arc<Root>, Errno> {
    match kept() {
        Some(root) => Ok(root),
        None => Ok(keep(Root::choose()?)),
    }
}

/// The one before is given back when nobody looks through it any more: threads that were left behind may.
fn keep(root: Root) -> Arc<Root> {
    let root = Arc::new(root);
    *ROOT.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&root));
    root
}

/// Called at the beginning of each capture. Where something can be mounted in the agent's own procfs it makes a new one: what was mounted
/// in the one before hides nothing any longer. Where the agent could have none of its own it asks again; one that is better takes the
/// place of the other, which happens twice at most. What looked right is not given up for what was mounted over `/proc` since.
pub fn renew() {
    let Some(root) = kept() else { return };
    if let Some(new) = root.fresh() {
        keep(new);
        return;
    }
    if !root.is_vouched()
        && let Ok(new) = Root::choose()
        && (new.is_vouched() || (new.stays() && !root.stays()))
    {
        keep(new);
    }
}

/// Which procfs is looked through, and what `/proc` is now where that is something else: facts for the items that come of it.
#[must_use]
pub fn facts() -> Vec<(&'static str, String)> {
    let Ok(root) = known() else { return Vec::new() };
    let shown = root.seen().shown.told().map(|shown| ("proc_shows", shown.to_owned()));
    std::iter::once(("procfs", root.told())).chain(shown).collect()
}

/// Why what is missing at `/proc` need not be missing in the kernel, and what to do about it; `None` where a whole procfs is there. Mounted
/// with `subset=pid` (systemd's `ProcSubset=pid`) it has nothing but processes.
#[must_use]
pub fn not_whole() -> Option<String> {
    const REMEDY: &str = "what it lacks, or says, need not be so of this kernel; run the agent with a whole procfs at /proc";
    let seen = match known() {
        Ok(root) => root.seen(),
        Err(_) => Seen::now(None),
    };
    // Whosever processes a procfs shows, what it says of the kernel is of this one.
    let what = match seen.shown {
        Shown::Own | Shown::Around | Shown::Other => None,
        other => other.told(),
    };
    if let Some(what) = what {
        return Some(format!("/proc is {what}: {REMEDY}"));
    }
    // Every kernel has this file there.
    match seen.opened().and_then(|dir| statat(&dir, "version", AtFlags::SYMLINK_NOFOLLOW)) {
        Ok(_) => None,
        Err(Errno::NOENT) => Some(format!("/proc has processes only (subset=pid): {REMEDY}")),
        Err(e) => Some(format!("/proc cannot be looked at ({e}): {REMEDY}")),
    }
}

/// What was mounted in the agent's own procfs and met there; `None` where nothing was.
#[must_use]
pub fn met() -> Option<String> {
    let root = known().ok().filter(|root| root.instead.is_none())?;
    // Asked anew: nobody need have met that one.
    let covers_own = matches!(open_links(), Err(Errno::XDEV));
    if covers_own {
        return Some(format!(
            "something is mounted over the agent's own folder /proc/{} in its procfs: what it holds cannot be opened again, so that contents are \
             missing of processes that nothing is mounted over",
            std::process::id()
        ));
    }
    let what = "something was mounted in the agent's own procfs: what that covers was not looked at";
    root.is_met.load(Ordering::Relaxed).then(|| what.to_owned())
}

/// Whether the numbers of processes here are those by which the agent can ask the kernel for them.
#[must_use]
pub fn has_own_numbers() -> bool {
    known().is_ok_and(|root| root.has_own_numbers())
}

/// Why nobody is asked, stopped or signalled by the numbers here, and what to do about it; `None` when they are the agent's own.
#[must_use]
pub fn foreign() -> Option<String> {
    let root = known().ok().filter(|root| !root.has_own_numbers())?;
    let shown = root.shows.told().unwrap_or("the procfs of another PID namespace");
    let remedy = match (root.shows, root.instead) {
        (Shown::Around, _) => "run the agent in the host's PID namespace (hostPID: true, --pid=host)".to_owned(),
        (_, Some(Instead::Refused(e))) => {
            format!("the kernel gives the agent no procfs of its own ({e}): run it with CAP_SYS_ADMIN, or with its own procfs at /proc")
        }
        _ => "run the agent with its own procfs at /proc".to_owned(),
    };
    Some(format!("/proc is {shown}: by a number that stands there the agent would ask or stop another process; {remedy}"))
}

/// The folder of processes, which stays open as long as this is held.
#[derive(Clone)]
pub struct Folder(Arc<Root>);

impl AsFd for Folder {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.dir.as_fd()
    }
}

/// The folder of processes.
///
/// # Errors
/// When there is neither a procfs of the agent's own nor `/proc`.
pub fn root() -> Result<Folder, Errno> {
    known().map(Folder)
}

/// The numbers of all processes, at most `count_max`, sorted; the flag says that there were more.
///
/// # Errors
/// What the kernel said.
pub fn listed(count_max: usize) -> Result<(Vec<u32>, bool), Errno> {
    live::numbers(root()?, count_max)
}

/// What everybody is shown who looks in `/proc`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listed {
    /// The numbers of processes, sorted.
    pub pids: Vec<u32>,
    /// What `/proc` was instead, where it did not show these processes by these numbers: then they are what the agent sees.
    pub instead: Option<&'static str>,
}

/// Lists what everybody is shown. Where `/proc` does not show these processes by these numbers, there is nothing to compare with: it is
/// what the agent sees, and that is told. What was looked at is what is listed: nothing can be mounted between.
///
/// # Errors
/// What the kernel said.
pub fn listed_to_all(count_max: usize) -> Result<Listed, Errno> {
    let root = known()?;
    let seen = root.seen();
    let is_meant = seen.shown == Shown::Own || (seen.shown == Shown::Around && root.shows == Shown::Around);
    let instead = if is_meant { None } else { seen.shown.told() };
    let (pids, _) = if root.instead.is_none() && seen.shown == Shown::Own {
        live::numbers(seen.opened()?, count_max)?
    } else {
        live::numbers(&root.dir, count_max)?
    };
    Ok(Listed { pids, instead })
}

/// The folder of a process or thread, pinned: what is opened below it is of that one, or an error.
///
/// # Errors
/// It is gone or hidden; [`Errno::XDEV`] when something is mounted over it.
pub fn process(pid: u32) -> Result<OwnedFd, Errno> {
    open_dir(root()?, pid.to_string())
}

/// As [`live::open_dir`], below a folder of a process.
pub fn open_dir(dir: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    open(dir.as_fd(), path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// As [`live::open_at`], below a folder of a process.
pub fn open_at(dir: impl AsFd, path: impl Arg) -> Result<OwnedFd, Errno> {
    open(dir.as_fd(), path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC)
}

/// As [`live::read_at`], below a folder of a process.
pub fn read_at(dir: impl AsFd, path: impl Arg, bytes_max: usize) -> Result<Read, Errno> {
    read_fd(open_at(dir, path)?, bytes_max)
}

/// As [`live::link`], below a folder of a process.
pub fn link(dir: impl AsFd, path: impl Arg) -> Result<Vec<u8>, Errno> {
    let dir = dir.as_fd();
    // It takes three system calls instead of one, for every open file of every process.
    if guards(dir) && !known().is_ok_and(|root| root.is_still) {
        live::link(within(dir, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?, "")
    } else {
        live::link(dir, path)
    }
}

/// Opens what a link of a process leads to. Nothing is mounted on the way to the link or over it; behind it lies another file
/// system by design.
///
/// # Errors
/// What the kernel said.
pub fn follow(dir: impl AsFd, link: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let dir = dir.as_fd();
    if guards(dir) {
        within(dir, link, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    }
    openat(dir, link, flags | OFlags::CLOEXEC, Mode::empty())
}

/// What the agent's own links are followed in. A folder that does not even look like a procfs could lead to any device or server, and
/// to open one may do something.
fn own() -> Result<Arc<Root>, Errno> {
    known().and_then(|root| if root.is_plausible() { Ok(root) } else { Err(Errno::STALE) })
}

/// The folder of the agent's links to what it has open, and whether nobody but the kernel can have made it.
///
/// # Errors
/// What the kernel said; [`Errno::STALE`] where there is no procfs that shows the agent.
pub fn open_links() -> Result<(OwnedFd, bool), Errno> {
    let root = own()?;
    Ok((follow(&root.dir, "self/fd", OFlags::PATH | OFlags::DIRECTORY)?, root.is_vouched()))
}

/// Where a link of the agent's own process leads.
///
/// # Errors
/// As [`open_links`].
pub fn own_link(name: &str) -> Result<Vec<u8>, Errno> {
    link(&own()?.dir, format!("self/{name}"))
}

/// The program that this process runs, also after its file was replaced.
///
/// # Errors
/// As [`open_links`].
pub fn own_program() -> Result<OwnedFd, Errno> {
    follow(&own()?.dir, "self/exe", OFlags::RDONLY)
}

/// `status` of this process.
///
/// # Errors
/// As [`open_links`].
pub fn own_status() -> Result<Vec<u8>, Errno> {
    Ok(read_at(&own()?.dir, "self/status", SMALL_BYTES_MAX)?.bytes)
}

/// Opens again what is held by `O_PATH`.
///
/// # Errors
/// What the kernel said; [`Errno::STALE`] when the link led to something else, or would be followed in what shows the agent not at all.
pub fn reopen(held: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    let held = held.as_fd();
    let file = follow(&own()?.dir, &format!("self/fd/{}", held.as_raw_fd()), flags)?;
    let (meant, found) = (fstat(held)?, fstat(&file)?);
    if (meant.st_dev, meant.st_ino) == (found.st_dev, found.st_ino) { Ok(file) } else { Err(Errno::STALE) }
}

/// The processes over whose folder in `/proc`, or in it, something is mounted. Whoever looks there sees something else.
#[must_use]
pub fn covered(mounts: &Mounts) -> BTreeSet<u32> {
    let of = |point: &[u8]| number::<u32>(point.strip_prefix(b"/proc/")?.split(|b| *b == b'/').next()?);
    mounts.all().iter().filter_map(|mount| of(&mount.point)).collect()
}

fn open(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    if guards(dir) { within(dir, path, flags) } else { opened(dir, path, flags, false) }
}

/// Opens, below the folder of processes, without crossing a mount; remembers that there was one.
fn within(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    let opened = uncrossed(dir, path, flags);
    if matches!(opened, Err(Errno::XDEV))
        && let Ok(root) = known()
    {
        root.is_met.store(true, Ordering::Relaxed);
    }
    opened
}

/// Opens; crosses no mount where the kernel can be told so.
fn opened(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags, guards: bool) -> Result<OwnedFd, Errno> {
    if guards { uncrossed(dir, path, flags) } else { openat(dir, path, flags, Mode::empty()) }
}

/// Opens without crossing a mount.
fn uncrossed(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(dir, path, flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

/// Why the kernel cannot be told not to cross a mount, if it cannot. An old filter of a container runtime may not know the call: then
/// there is nothing to ask with.
fn unguarded(dir: &OwnedFd) -> Option<Errno> {
    uncrossed(dir.as_fd(), ".", OFlags::PATH | OFlags::CLOEXEC).err()
}

/// Whether the kernel can be told not to cross a mount.
fn can_guard(dir: &OwnedFd) -> bool {
    unguarded(dir).is_none()
}

/// Whether nobody can mount anything in a folder that is attached nowhere. The kernel allows it since Linux 6.15, which brought in the
/// same change that a copy of such a folder can be made; that is asked, because it changes nothing.
fn is_still(dir: &OwnedFd) -> bool {
    matches!(open_tree(dir, ".", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC), Err(Errno::INVAL))
}

/// Whether mounts below a folder have to be looked out for. A whole path crosses mounts on its way to procfs.
fn guards(dir: BorrowedFd<'_>) -> bool {
    dir.as_raw_fd() != CWD.as_raw_fd() && known().is_ok_and(|root| root.unguarded.is_none())
}
