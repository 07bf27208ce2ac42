//! Freezing the file systems that are mounted from a device while it is read (`freeze=true` in the order).

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use exhibit_agent_sys::freeze::{self, Ended, Frozen, NotFrozen, Tell, Unfinished};
use rustix::fs::{FileType, Mode, OFlags, fstat, makedev, open};
use rustix::io::Errno;

use super::usage::Usage;
use crate::capture::live::{SMALL_BYTES_MAX, numbers, open_dir, refusal};
use crate::capture::mounts::Mounts;
use crate::capture::procfs;

/// Longest time for which an order may freeze a file system: everybody who writes on the host waits that long.
pub const MOST_S_MAX: u64 = 300;
/// Without a word in the order.
pub const MOST_S_DEFAULT: u64 = 30;
/// Open files of the agent that are looked at.
const FILES_MAX: usize = 65_536;

/// Frozen file systems of one device, and how far the reading was when the first was thawed.
#[derive(Default)]
pub struct Freezes {
    held: Vec<(String, Frozen)>,
    /// Why it is not frozen: a file system that could not be, and why.
    refused: Option<String>,
    /// A freeze that the kernel has not finished.
    unfinished: Option<(String, Unfinished)>,
    /// The offset up to which all were frozen.
    over_at: Option<u64>,
    most: Duration,
    /// What else may write to the device.
    besides: Vec<String>,
}

impl Freezes {
    /// Freezes everything that is mounted read-write from the device. At the first that cannot be frozen the others are not
    /// kept frozen either: it would be for nothing.
    #[must_use]
    pub fn begin(usage: &Usage, most: Duration) -> Self {
        let mut freezes = Self { most, besides: usage.besides(), ..Self::default() };
        let mounts = match Mounts::read() {
            Ok(mounts) => mounts,
            Err(e) => {
                freezes.refused = Some(format!("the agent's table of mounts cannot be read: {e}"));
                return freezes;
            }
        };
        let mut done = Vec::new();
        for mount in usage.writable() {
            let shown = super::shown(&mount.point.0);
            if !freezes.add(&mount.point.0, &shown, &mounts, &mut done) {
                freezes.held.clear();
                return freezes;
            }
        }
        if freezes.held.is_empty() {
            freezes.refused = Some("nothing on it is mounted read-write in the agent's mount namespace".to_owned());
        }
        freezes
    }

    /// Freezes what is mounted at a point, once for each file system. False when it could not be.
    fn add(&mut self, point: &[u8], shown: &str, mounts: &Mounts, done: &mut Vec<u64>) -> bool {
        let refused = |why: &dyn std::fmt::Display| Some(format!("{shown}: {why}"));
        let dir = match open_dir(rustix::fs::CWD, point) {
            Ok(dir) => dir,
            Err(e) => {
                self.refused = refused(&std::io::Error::from(e));
                return false;
            }
        };
        let Some(system) = file_system(dir.as_fd(), mounts) else {
            self.refused = refused(&"the kernel does not say which file system it is");
            return false;
        };
        if done.contains(&system) {
            return true;
        }
        if let Some(why) = needed_by_agent(system, mounts) {
            self.refused = refused(&why);
            return false;
        }
        done.push(system);
        match freeze::freeze(dir.as_fd(), self.most, log(shown.to_owned(), self.most)) {
            Ok(frozen) => self.held.push((shown.to_owned(), frozen)),
            Err(NotFrozen::Refused(e)) => self.refused = refused(&e),
            Err(NotFrozen::Unfinished(unfinished)) => self.unfinished = Some((shown.to_owned(), unfinished)),
        }
        self.refused.is_none() && self.unfinished.is_none()
    }

    /// True when something is frozen.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.held.is_empty()
    }

    /// Why nothing is frozen, if something should be.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        self.refused.as_ref().map(|why| format!("not frozen: {why}")).or_else(|| self.blocked())
    }

    /// What is to be said loudly: a freeze that goes on, and that no deadline ends.
    #[must_use]
    pub fn blocked(&self) -> Option<String> {
        let (point, Unfinished { pid, .. }) = self.unfinished.as_ref()?;
        Some(format!(
            "freezing of {point} has begun and is not finished after {} s: writers are blocked now, process {pid}; the kernel waits for \
             somebody who is writing, and it is thawed as soon as that one goes on or is killed",
            self.most.as_secs()
        ))
    }

    /// Called before a read at an offset: remembers where the freeze ended.
    pub fn look(&mut self, offset: u64) {
        if self.over_at.is_none() && self.held.iter_mut().any(|(_, f)| f.is_over()) {
            self.over_at = Some(offset);
        }
    }

    /// Thaws, and says in facts what the freezing was worth. `written` is how many sectors the kernel counted as written
    /// while it was read, if it counts them.
    pub fn end(&mut self, was_frozen: bool, written: Option<u64>) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        if let Some((point, unfinished)) = self.unfinished.take() {
            let text = match unfinished.ended() {
                None => {
                    format!("{point} was still being frozen when the reading was over: its writers are blocked, process {}", unfinished.pid)
                }
                Some(Ok(_)) => format!("{point} was frozen while the disk was read, and thawed at once"),
                Some(Err(e)) => format!("{point}: {e}"),
            };
            facts.insert("freeze_later".to_owned(), text);
        }
        if self.held.is_empty() {
            if was_frozen {
                facts.insert("freeze".to_owned(), "ended with the agent's process that began the reading".to_owned());
            }
            return facts;
        }
        let (mut points, mut problems, mut whole) = (Vec::new(), Vec::new(), self.over_at.is_none());
        for (point, frozen) in self.held.drain(..) {
            match frozen.thaw() {
                Ok(ended) => whole &= ended == Ended::Asked,
                Err(e) => problems.push(format!("{point}: {e}")),
            }
            points.push(point);
        }
        let points = points.join(", ");
        if whole {
            facts.insert("freeze".to_owned(), format!("frozen while it was read: {points}"));
            facts.insert("consistency".to_owned(), consistency(&points, &self.besides, written));
        } else {
            let to = self.over_at.map_or_else(|| "the end or shortly before it".to_owned(), |at| format!("about byte {at}"));
            facts.insert("freeze".to_owned(), format!("frozen up to {to}, until the {} s were over: {points}", self.most.as_secs()));
        }
        if !problems.is_empty() {
            facts.insert("freeze_problem".to_owned(), problems.join("; "));
        }
        facts
    }
}

/// What a freeze that lasted makes of the consistency. File systems are not all that writes to a device: the kernel's count has
/// the last word.
fn consistency(points: &str, besides: &[String], written: Option<u64>) -> String {
    let frozen = format!("mounted read-write at {points}, frozen while it was read");
    let mut against = besides.to_vec();
    match written {
        Some(0) => {}
        Some(sectors) => against.push(format!("{sectors} sectors of 512 bytes were written to it all the same")),
        None => against.push("the kernel does not count what is written to it".to_owned()),
    }
    if against.is_empty() {
        format!("consistent: frozen while it was read, mounted read-write at {points}; no write to it was counted")
    } else {
        format!("inconsistent: {}; {frozen}", against.join("; "))
    }
}

/// What the agent's log says of a freeze when it is over.
fn log(point: String, most: Duration) -> Tell {
    Box::new(move |ended, took| {
        let seconds = took.as_secs();
        match ended {
            Ok(Ended::Asked | Ended::TimeUp) if took < most => tracing::info!(point, "the file system was frozen and is thawed"),
            Ok(Ended::ChildLost) => {
                tracing::warn!(point, seconds, "the process that froze the file system was killed: it was thawed by the agent");
            }
            Ok(_) => tracing::warn!(
                point,
                seconds,
                "the file system was frozen too late and thawed at once; its writers were blocked until then"
            ),
            Err(e) => tracing::error!(point, seconds, "the file system may still be frozen: {e}"),
        }
    })
}

/// Which file system an open file lies on. The number of the inode's device would not do: each subvolume of a btrfs has another
/// one. The table of mounts has one number for the whole; a mount that it does not have is told apart as its inode says. `None`: the
/// kernel does not say which mount it is.
fn file_system(file: BorrowedFd<'_>, mounts: &Mounts) -> Option<u64> {
    let path = format!("self/fdinfo/{}", file.as_raw_fd());
    let table = procfs::root().and_then(|root| procfs::read_at(root, path, SMALL_BYTES_MAX)).ok()?;
    match mounts.by_id(mount_id(&table.bytes)?) {
        Some(mount) => Some(makedev(mount.dev.0, mount.dev.1)),
        None => fstat(file).ok().map(|s| s.st_dev),
    }
}

/// The line `mnt_id:` of a file's table.
fn mount_id(table: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(table).ok()?;
    text.lines().find_map(|line| line.strip_prefix("mnt_id:"))?.trim().parse().ok()
}

/// The agent writes to some file systems itself, and would wait for its own thaw. What it needs and cannot be looked at may be there.
fn needed_by_agent(system: u64, mounts: &Mounts) -> Option<String> {
    for place in ["/", "/var", "/var/log", "/var/lib", "/tmp", "/run", "/etc"] {
        let Ok(held) = open(place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { continue };
        match file_system(held.as_fd(), mounts) {
            Some(other) if other != system => {}
            Some(_) => return Some(format!("it holds {place}, to which the host's own services and the agent write")),
            None => return Some(format!("it may hold {place}: the kernel does not say on which file system that lies")),
        }
    }
    match used_by_agent(system, mounts) {
        Ok(file) => file.map(|file| format!("it holds {}, which the agent uses", super::shown(&file))),
        Err(e) => Some(format!("it may hold what the agent uses, which cannot be looked at: {}", refusal(e).1)),
    }
}

/// The agent's program, or a file that it has open, if it lies on a file system.
fn used_by_agent(system: u64, mounts: &Mounts) -> Result<Option<Vec<u8>>, Errno> {
    let root = procfs::root()?;
    let is_there = |file: &OwnedFd| file_system(file.as_fd(), mounts).map(|found| found == system).ok_or(Errno::NODATA);
    if is_there(&procfs::follow(&root, "self/exe", OFlags::PATH)?)? {
        return procfs::link(&root, "self/exe").map(Some);
    }
    let links = procfs::open_dir(&root, "self/fd")?;
    let (open, more) = numbers(&links, FILES_MAX)?;
    for name in open.iter().map(u32::to_string) {
        let file = match procfs::follow(&links, &name, OFlags::PATH) {
            Ok(file) => file,
            // It was closed meanwhile.
            Err(Errno::NOENT) => continue,
            Err(e) => return Err(e),
        };
        let is_file = FileType::from_raw_mode(fstat(&file)?.st_mode) == FileType::RegularFile;
        if is_file && is_there(&file)? {
            return procfs::link(&links, name).map(Some);
        }
    }
    if more { Err(Errno::MFILE) } else { Ok(None) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::testing::{in_own_mounts, without_mounting};

    /// A file that the agent has open on a file system of its own, and the number of that.
    fn open_file(folder: &std::path::Path) -> (std::fs::File, u64) {
        rustix::mount::mount("none", folder, "tmpfs", rustix::mount::MountFlags::empty(), None::<&std::ffi::CStr>).expect("mount");
        let file = std::fs::File::create(folder.join("spool")).expect("file");
        let system = fstat(&file).expect("its number").st_dev;
        (file, system)
    }

    #[test]
    fn what_the_agent_has_open_is_not_frozen_whatever_lies_over_proc() {
        in_own_mounts("capture::disk::frozen::tests::what_the_agent_has_open_is_not_frozen_whatever_lies_over_proc", || {
            let (folder, empty) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
            let (file, system) = open_file(folder.path());
            rustix::mount::mount_bind(empty.path(), "/proc").expect("mount");
            let mounts = Mounts::read().expect("the agent's own table");
            let why = needed_by_agent(system, &mounts);
            drop(file);
            let after = needed_by_agent(system, &mounts);
            rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounted");
            assert!(why.as_deref().is_some_and(|why| why.contains("spool, which the agent uses")), "{why:?}");
            assert_eq!(after, None, "it is needed no more");
        });
    }

    /// What cannot be looked at is not what is not there.
    #[test]
    fn where_the_agents_own_files_cannot_be_looked_at_nothing_is_frozen() {
        in_own_mounts("capture::disk::frozen::tests::where_the_agents_own_files_cannot_be_looked_at_nothing_is_frozen", || {
            let (folder, empty) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
            let (_file, system) = open_file(folder.path());
            let mounts = Mounts::parse(&std::fs::read("/proc/self/mountinfo").expect("table"));
            // Before that is covered: only the list of open files.
            let list = format!("/proc/{}/fd", std::process::id());
            rustix::mount::mount_bind(empty.path(), list.as_str()).expect("mount");
            without_mounting();
            let why = needed_by_agent(system, &mounts);
            crate::capture::testing::with_mounting(true);
            rustix::mount::unmount(folder.path(), rustix::mount::UnmountFlags::DETACH).expect("unmounted");
            assert!(why.as_deref().is_some_and(|why| why.contains("cannot be looked at")), "{why:?}");
        });
    }

    #[test]
    fn frozen_is_consistent_only_if_nothing_else_wrote() {
        let said = |besides: &[&str], written| consistency("/srv", &besides.iter().map(|b| (*b).to_owned()).collect::<Vec<_>>(), written);
        assert!(said(&[], Some(0)).starts_with("consistent: frozen while it was read, mounted read-write at /srv"));
        assert_eq!(
            said(&["swap on sda2"], Some(8)),
            "inconsistent: swap on sda2; 8 sectors of 512 bytes were written to it all the same; mounted read-write at /srv, frozen while it was read"
        );
        assert!(said(&["swap on sda2"], Some(0)).starts_with("inconsistent: swap on sda2; mounted"));
        assert!(said(&[], None).starts_with("inconsistent: the kernel does not count"));
    }

    #[test]
    fn subvolumes_are_one_file_system() {
        let file = tempfile::tempfile().expect("file");
        let id = std::fs::read(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).ok().and_then(|t| mount_id(&t)).expect("an id");
        let table = format!("{id} 1 0:77 /@home /home rw - btrfs /dev/sda2 rw\n");
        assert_eq!(file_system(file.as_fd(), &Mounts::parse(table.as_bytes())), Some(makedev(0, 77)), "not the inode's own number");
        assert_eq!(file_system(file.as_fd(), &Mounts::default()), fstat(&file).ok().map(|s| s.st_dev));
    }
}
