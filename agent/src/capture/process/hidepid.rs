//! A procfs that is mounted with `hidepid` does not show everybody every process (proc(5)): whom the agent may not trace it does not
//! find there, or it finds nothing in the folder. What is not shown has not ended, and who was looked for may be among it.

use rustix::io::Errno;
use rustix::thread::{CapabilitySet, capabilities};

use super::hidden::{Host as _, Real};
use super::parse;
use crate::capture::live::{number, words};
use crate::capture::mounts::{Mount, Mounts};
use crate::capture::procfs;

/// Where `ns/user` of a process in the initial user namespace leads (`PROC_USER_INIT_INO`, `include/linux/proc_ns.h`).
const INITIAL_USERS: &[u8] = b"user:[4026531837]";

/// The option by which `/proc` keeps processes from those who may not trace them.
#[must_use]
pub fn option(mounts: &Mounts) -> Option<String> {
    let hides = |word: &&[u8]| word.starts_with(b"hidepid=") && !matches!(*word, b"hidepid=0" | b"hidepid=off");
    options(mounts.at(b"/proc")?).find(hides).map(exhibit_evidence::text::escape_bytes)
}

/// What the agent is not shown in the folder of processes that it looks through; `None` where it is shown all.
#[must_use]
pub fn told() -> Option<String> {
    let mounts = Mounts::read().ok()?;
    let option = option(&mounts)?;
    let is_own = procfs::facts().iter().any(|(name, value)| *name == "procfs" && value.starts_with("own"));
    let is_shown = if is_own {
        // Since Linux 5.8 the option is that of one mount; before, it holds for the agent's own procfs too.
        !matches!(procfs::process(1), Err(Errno::NOENT | Errno::ACCESS | Errno::PERM))
    } else {
        mounts.at(b"/proc").is_some_and(|mount| sees_all(mount, &option))
    };
    let why = "does not show the agent the processes that it may not trace: run it with CAP_SYS_PTRACE to see them";
    (!is_shown).then(|| format!("/proc is mounted with {option}, and {why}"))
}

/// Whether the kernel makes an exception of the agent (`has_pid_permissions`, `fs/proc/base.c`).
fn sees_all(mount: &Mount, option: &str) -> bool {
    let is_initial = procfs::own_link("ns/user").is_ok_and(|leads| leads == INITIAL_USERS);
    let traces = capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_PTRACE));
    // In a user namespace that right is over the processes there, and not over those around it.
    if traces && (is_initial || procfs::has_own_numbers()) {
        return true;
    }
    if !is_initial || matches!(option, "hidepid=4" | "hidepid=ptraceable") {
        return false;
    }
    let group = options(mount).find_map(|word| number::<u32>(word.strip_prefix(b"gid=")?)).unwrap_or(0);
    let Ok(status) = procfs::own_status() else { return false };
    let status = parse::status(&status);
    status.groups.contains(&group) || status.gids.is_some_and(|gids| gids.filesystem == group)
}

/// The options of a mount and of its file system.
fn options(mount: &Mount) -> impl Iterator<Item = &[u8]> {
    let both = [mount.options.as_slice(), mount.super_options.as_slice()];
    both.into_iter().flat_map(|options| words(options).flat_map(|word| word.split(|b| *b == b',')))
}

/// What is said of a process whose folder is not there, when signal 0, with which nothing is sent, finds it all the same; `None` when
/// nobody answers, or nobody can be asked by this number. `told` is what [`told`] says.
#[must_use]
pub fn unseen(pid: u32, told: Option<&str>) -> Option<String> {
    let why = told.unwrap_or("why is not known");
    Real.answers(pid).then(|| format!("it is there (it answers signal 0), and /proc does not show it to the agent: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_found_in_every_spelling_and_only_where_it_hides() {
        let of = |options: &str| option(&Mounts::parse(format!("22 1 0:21 / /proc rw,relatime - proc proc {options}\n").as_bytes()));
        for hides in ["hidepid=1", "hidepid=2", "hidepid=4", "hidepid=noaccess", "hidepid=invisible", "hidepid=ptraceable"] {
            assert_eq!(of(&format!("rw,gid=7,{hides}")).as_deref(), Some(hides));
        }
        for shows in ["rw", "rw,hidepid=0", "rw,hidepid=off", "rw,gid=7"] {
            assert_eq!(of(shows), None, "{shows}");
        }
    }

    #[test]
    fn who_ended_is_not_called_unseen() {
        let mut child = std::process::Command::new("true").spawn().expect("true");
        child.wait().expect("reaped");
        assert_eq!(unseen(child.id(), Some("hidepid")), None);
        assert!(unseen(std::process::id(), Some("hidepid")).is_some_and(|why| why.ends_with("hidepid")));
    }
}
