//! The folder of processes. What is mounted over `/proc/<pid>`, or over a file in it, shows another process, or whatever its
//! maker likes, under that number. So the agent looks through a procfs of its own, which is attached nowhere: nothing can be
//! mounted in it. Where the kernel refuses it one (no CAP_SYS_ADMIN, a user namespace) it looks through `/proc` and crosses no
//! mount below it: then what is covered is an error that says so ([`refusal`](super::live::refusal)), never another's data.
//!
//! The links of a process (`exe`, `fd/<n>`, `map_files/...`) lead out of procfs by design: [`follow`] looks at the way to them only.

use std::collections::BTreeSet;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use rustix::path::Arg;

use super::live::{self, Read, SMALL_BYTES_MAX, number, read_fd};
use super::mounts::Mounts;

struct Root {
    dir: OwnedFd,
    /// The kernel takes the agent's own procfs away when this is closed. It is a place only: nothing can be listed through it.
    _mount: Option<OwnedFd>,
    /// Something could be mounted below, and the kernel can be told not to cross it.
    guards: bool,
}

impl Root {
    /// A procfs of the PID namespace of the agent, attached nowhere.
    fn own() -> Result<Self, Errno> {
        let context = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_create(&context)?;
        let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
        let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        let dir = live::open_dir(&mount, ".")?;
        // A security module may allow the mount and then refuse every path in it, because it cannot name it.
        live::read_at(&dir, "self/stat", SMALL_BYTES_MAX)?;
        // A container may have the host's processes at /proc, and numbers of its own: it was given those to look at.
        let known_as = live::link(&dir, "self")?;
        if live::link(CWD, "/proc/self").is_ok_and(|other| other != known_as) {
            return Err(Errno::XDEV);
        }
        Ok(Self { dir, _mount: Some(mount), guards: false })
    }

    /// `/proc`, which others can mount things in.
    fn shared() -> Result<Self, Errno> {
        let dir = live::open_dir(CWD, "/proc")?;
        // An old filter of a container runtime may not know the call: then there is nothing to ask with.
        let guards = openat2(&dir, ".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_XDEV).is_ok();
        Ok(Self { dir, _mount: None, guards })
    }
}

/// Made once: every process is looked at through the same one.
fn known() -> Result<&'static Root, Errno> {
    static ROOT: OnceLock<Root> = OnceLock::new();
    if let Some(root) = ROOT.get() {
        return Ok(root);
    }
    let root = Root::own().or_else(|_| Root::shared())?;
    Ok(ROOT.get_or_init(|| root))
}

/// The folder of processes.
///
/// # Errors
/// When there is neither a procfs of the agent's own nor `/proc`.
pub fn root() -> Result<BorrowedFd<'static>, Errno> {
    Ok(known()?.dir.as_fd())
}

/// The numbers of all processes, at most `count_max`, sorted; the flag says that there were more.
///
/// # Errors
/// What the kernel said.
pub fn listed(count_max: usize) -> Result<(Vec<u32>, bool), Errno> {
    live::numbers(root()?, count_max)
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
    if guards(dir) {
        live::link(uncrossed(dir, path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?, "")
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
        uncrossed(dir, link, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC)?;
    }
    openat(dir, link, flags | OFlags::CLOEXEC, Mode::empty())
}

/// Opens again what is held by `O_PATH`.
///
/// # Errors
/// What the kernel said.
pub fn reopen(held: impl AsFd, flags: OFlags) -> Result<OwnedFd, Errno> {
    follow(root()?, &format!("self/fd/{}", held.as_fd().as_raw_fd()), flags)
}

/// The processes over whose folder in `/proc`, or in it, something is mounted. Whoever looks there sees something else.
#[must_use]
pub fn covered(mounts: &Mounts) -> BTreeSet<u32> {
    let of = |point: &[u8]| number::<u32>(point.strip_prefix(b"/proc/")?.split(|b| *b == b'/').next()?);
    mounts.all().iter().filter_map(|mount| of(&mount.point)).collect()
}

fn open(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    if guards(dir) { uncrossed(dir, path, flags) } else { openat(dir, path, flags, Mode::empty()) }
}

/// Opens without crossing a mount.
fn uncrossed(dir: BorrowedFd<'_>, path: impl Arg, flags: OFlags) -> Result<OwnedFd, Errno> {
    openat2(dir, path, flags, Mode::empty(), ResolveFlags::NO_XDEV)
}

/// Whether mounts below a folder have to be looked out for. A whole path crosses mounts on its way to procfs.
fn guards(dir: BorrowedFd<'_>) -> bool {
    dir.as_raw_fd() != CWD.as_raw_fd() && known().is_ok_and(|root| root.guards)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rustix::mount::mount_bind;

    use super::*;
    use crate::capture::Status;
    use crate::capture::process_memory::tests::programs::Target;
    use crate::capture::testing::in_own_mounts;

    /// A process with a word of its own in its command line.
    fn sleeper(word: &str) -> Target {
        let mut command = Command::new("sh");
        command.args(["-c", "echo ready; read forever", word]);
        Target::start(command)
    }

    #[test]
    fn a_folder_of_the_agents_own_has_nothing_mounted_in_it() {
        in_own_mounts("capture::procfs::tests::a_folder_of_the_agents_own_has_nothing_mounted_in_it", || {
            let (first, other) = (sleeper("the-first"), sleeper("the-other"));
            let folder = format!("/proc/{}", first.pid());
            mount_bind(format!("/proc/{}", other.pid()), &folder).expect("mount");
            let shown = |line: &[u8]| String::from_utf8_lossy(line).into_owned();
            let through = live::read_at(CWD, format!("{folder}/cmdline"), SMALL_BYTES_MAX).expect("read");
            assert!(shown(&through.bytes).contains("the-other"), "the mount stands");

            let dir = process(first.pid()).expect("its folder");
            let read = read_at(&dir, "cmdline", SMALL_BYTES_MAX).expect("read");
            assert!(shown(&read.bytes).contains("the-first"), "{}", shown(&read.bytes));
            assert!(link(&dir, "exe").is_ok() && follow(&dir, "exe", OFlags::PATH).is_ok());
            assert!(covered(&Mounts::read().expect("mounts")).contains(&first.pid()));
        });
    }

    #[test]
    fn where_there_is_no_folder_of_its_own_a_mount_is_an_error_that_is_told() {
        in_own_mounts("capture::procfs::tests::where_there_is_no_folder_of_its_own_a_mount_is_an_error_that_is_told", || {
            let (first, second, other) = (sleeper("the-first"), sleeper("the-second"), sleeper("the-other"));
            let Root { dir: proc, guards, .. } = Root::shared().expect("/proc");
            assert!(guards, "the kernel has openat2");
            mount_bind(format!("/proc/{}", other.pid()), format!("/proc/{}", first.pid())).expect("mount");
            mount_bind(format!("/proc/{}/cmdline", other.pid()), format!("/proc/{}/cmdline", second.pid())).expect("mount");
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let opened = |path: String| uncrossed(proc.as_fd(), path, flags).map(drop);
            assert_eq!(opened(first.pid().to_string()), Err(Errno::XDEV));
            assert_eq!(opened(format!("{}/cmdline", second.pid())), Err(Errno::XDEV));
            assert_eq!(opened(format!("{}/environ", second.pid())), Ok(()));
            assert_eq!(opened(format!("{}/cmdline", other.pid())), Ok(()));
            let (status, reason) = live::refusal(Errno::XDEV);
            assert!(status == Status::Error && reason.contains("mounted over"), "{reason}");
        });
    }
}
