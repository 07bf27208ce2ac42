//! Freezing a whole control group for mode `atomic` (cgroup v2, Documentation/admin-guide/cgroup-v2.rst, `cgroup.freeze`):
//! all processes of a container stand at the same moment.
//!
//! Unlike a stop by `ptrace` a frozen group stays frozen when the agent dies. So a small child process is started first, which
//! thaws it when its pipe to the agent closes or the deadline passes ([`exhibit_agent_sys::watchdog`]).

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use exhibit_agent_sys::watchdog::{self, Watchdog};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::{Errno, pread, pwrite};

use super::stop::Stands;
use crate::capture::live::{SMALL_BYTES_MAX, lines, open_dir};
use crate::capture::mounts::Mounts;
use crate::capture::procfs::{self, read_at};
use crate::clock;

/// How long a group may take until all its processes stand; one in uninterruptible sleep can delay it for ever.
const PATIENCE: Duration = Duration::from_secs(2);

/// How a group's standing still ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thawed {
    /// How long its processes may have stood because of the agent; none where somebody else had frozen it before.
    pub stood: Option<Duration>,
    /// What ended it.
    pub by: ThawedBy,
}

/// Who or what ended it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThawedBy {
    /// The agent had done with it.
    Agent,
    /// Its deadline had passed.
    Deadline,
    /// Somebody else, before its deadline: how long it stood is known at most.
    Other,
    /// Nobody: it was frozen before, and stays so.
    Nobody,
}

/// A frozen group. Dropping it thaws it.
pub struct Frozen {
    /// As in `/proc/<pid>/cgroup`.
    pub path: String,
    freeze: Arc<OwnedFd>,
    events: Arc<OwnedFd>,
    /// `None` when somebody else had frozen it: then it stays as it was found.
    watchdog: Option<Watchdog>,
    /// When freezing began, on the clock of [`clock::monotonic`].
    begun: Duration,
    /// On the same clock: from then on the agent itself thaws, should the watchdog be gone.
    until: Duration,
    /// The agent itself has thawed it at the deadline or later, or has done with it. Once: whoever freezes it afterwards has a reason. With
    /// the moment, where it stood until then: the watchdog was gone.
    thawed: Arc<OnceLock<Option<Duration>>>,
}

impl Frozen {
    /// Freezes a group, named as in `/proc/<pid>/cgroup`, for at most `deadline`.
    ///
    /// # Errors
    /// Why it is not frozen, in words: there is no such group, the agent is in it, or it did not stand in time (then it was
    /// thawed again).
    pub fn freeze(path: &str, deadline: Duration) -> Result<Self, String> {
        if path.is_empty() {
            return Err("the root group cannot be frozen".to_owned());
        }
        let mount = mount_point().ok_or("there is no cgroup v2 here")?;
        let said = |what: &str, e: Errno| format!("{what}: {e}");
        let whole = [mount.as_slice(), path.as_bytes()].concat();
        let dir = open_dir(rustix::fs::CWD, whole.as_slice()).map_err(|e| said("its folder", e))?;
        if holds_agent(&mount, &dir)? {
            return Err("the agent itself is in this group".to_owned());
        }
        let open = |name: &str, flags| openat(&dir, name, flags | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty());
        let freeze = Arc::new(open("cgroup.freeze", OFlags::RDWR).map_err(|e| said("cgroup.freeze", e))?);
        let events = Arc::new(open("cgroup.events", OFlags::RDONLY).map_err(|e| said("cgroup.events", e))?);
        let begun = clock::monotonic();
        let until = begun.saturating_add(deadline);
        if is_somebody_elses(&freeze, &events)? {
            return Ok(Self { path: path.to_owned(), freeze, events, watchdog: None, begun, until, thawed: Arc::default() });
        }
        // First the one who thaws, then the frost.
        let ms = i32::try_from(deadline.as_millis()).unwrap_or(i32::MAX);
        let watchdog = watchdog::start(freeze.as_fd(), ms).map_err(|e| format!("the process that would thaw it: {e}"))?;
        let begun = clock::monotonic();
        let frozen = Self { path: path.to_owned(), freeze, events, watchdog: Some(watchdog), begun, until, thawed: Arc::default() };
        pwrite(&*frozen.freeze, b"1", 0).map_err(|e| said("freezing", e))?;
        // The agent may have been held up in between: a watchdog whose time is up is no watchdog.
        if clock::monotonic() >= until {
            return Err("its deadline passed before it was frozen: it was thawed again".to_owned());
        }
        if !stands_in_time(&frozen.events) {
            return Err(format!("it did not stand within {} s and was thawed again", PATIENCE.as_secs()));
        }
        Ok(frozen)
    }

    /// Whether a process of these groups is in it.
    #[must_use]
    pub fn holds(&self, groups: &[String]) -> bool {
        groups.iter().any(|g| g == &self.path || g.strip_prefix(&self.path).is_some_and(|rest| rest.starts_with('/')))
    }

    /// Says whether the group stands right now.
    #[must_use]
    pub fn stands(&self) -> Stands {
        let (events, freeze) = (Arc::clone(&self.events), Arc::clone(&self.freeze));
        let (until, ours, thawed) = (self.until, self.watchdog.is_some(), Arc::clone(&self.thawed));
        Arc::new(move || {
            if ours && clock::monotonic() >= until {
                // Who finds it thawed finds the watchdog's work.
                let stood = is_frozen(&events);
                if thawed.set(stood.then(clock::monotonic)).is_ok() {
                    let _ = pwrite(&*freeze, b"0", 0);
                }
                return false;
            }
            is_frozen(&events)
        })
    }

    /// Whether it was the agent that froze it.
    #[must_use]
    pub const fn is_ours(&self) -> bool {
        self.watchdog.is_some()
    }

    /// Lets it run on. Says how long it stood, and what ended that.
    pub fn thaw(mut self) -> Thawed {
        let (is_ours, stood) = (self.is_ours(), is_frozen(&self.events) || (!self.is_ours() && is_asked(&self.freeze)));
        let at_deadline = self.thawed.get().copied();
        self.release();
        let now = clock::monotonic();
        let by = match (is_ours, stood) {
            (false, true) => ThawedBy::Nobody,
            (true, _) if at_deadline.is_some() => ThawedBy::Deadline,
            (true, true) => ThawedBy::Agent,
            (true, false) if now >= self.until => ThawedBy::Deadline,
            (_, false) => ThawedBy::Other,
        };
        let end = if by == ThawedBy::Deadline { at_deadline.flatten().unwrap_or(self.until) } else { now };
        Thawed { stood: is_ours.then(|| end.saturating_sub(self.begun)), by }
    }

    fn release(&mut self) {
        if let Some(watchdog) = self.watchdog.take() {
            // From now on nobody who still reads looks after it.
            if self.thawed.set(None).is_err() {
                return watchdog.dismiss();
            }
            // If this fails, the watchdog does it.
            if pwrite(&*self.freeze, b"0", 0).is_ok() { watchdog.dismiss() } else { drop(watchdog) }
        }
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        self.release();
    }
}

fn is_frozen(events: &OwnedFd) -> bool {
    let mut buffer = [0_u8; 256];
    let got = pread(events, &mut buffer, 0).unwrap_or(0);
    lines(buffer.get(..got).unwrap_or_default()).any(|line| line == b"frozen 1")
}

/// Whether somebody asked for this very group to be frozen, even if it does not stand (yet).
fn is_asked(freeze: &OwnedFd) -> bool {
    let mut word = [0_u8; 1];
    pread(freeze, &mut word, 0).is_ok_and(|got| got == 1) && word == *b"1"
}

/// Whether all processes of a group stand within [`PATIENCE`].
fn stands_in_time(events: &OwnedFd) -> bool {
    let asked = clock::monotonic();
    while !is_frozen(events) {
        if clock::monotonic().saturating_sub(asked) > PATIENCE {
            return false;
        }
        let _ = rustix::thread::nanosleep(&rustix::time::Timespec { tv_sec: 0, tv_nsec: 200_000 });
    }
    true
}

/// Whether somebody else has frozen a group. A process in uninterruptible sleep keeps it from standing: who froze it did so all the same,
/// and thawing it is not for the agent.
fn is_somebody_elses(freeze: &OwnedFd, events: &OwnedFd) -> Result<bool, String> {
    if is_frozen(events) {
        return Ok(true);
    }
    if !is_asked(freeze) {
        return Ok(false);
    }
    let why = "somebody else freezes it, and it does not stand yet: it was left as it is";
    if stands_in_time(events) { Ok(true) } else { Err(why.to_owned()) }
}

/// Where cgroup v2 is mounted as a whole.
fn mount_point() -> Option<Vec<u8>> {
    let mounts = Mounts::read().ok()?;
    mounts.all().iter().find(|m| m.fs_type == b"cgroup2" && m.root == b"/").map(|m| m.point.clone())
}

/// Whether the agent, and with it the process that would thaw it, is in an opened group or below it. Told by what the folders
/// are, not by their names: one group has many spellings. What cannot be told counts as yes.
fn holds_agent(mount: &[u8], group: &OwnedFd) -> Result<bool, String> {
    let own = own_group().ok_or("which group the agent itself is in cannot be told")?;
    let id = |dir: &OwnedFd| rustix::fs::fstat(dir).map(|s| (s.st_dev, s.st_ino)).map_err(|e| format!("its folder: {e}"));
    let wanted = id(group)?;
    let mut at = own.trim_end_matches('/');
    loop {
        let path = [mount, at.as_bytes()].concat();
        let dir = open_dir(rustix::fs::CWD, path.as_slice()).map_err(|e| format!("the agent's own group: {e}"))?;
        if id(&dir)? == wanted {
            return Ok(true);
        }
        match at.rsplit_once('/') {
            Some((parent, _)) => at = parent,
            None => return Ok(false),
        }
    }
}

/// The agent's own group of cgroup v2.
fn own_group() -> Option<String> {
    let root = procfs::root().ok()?;
    let read = |path: &str| read_at(&root, path, SMALL_BYTES_MAX);
    let table = read("thread-self/cgroup").or_else(|_| read("self/cgroup")).ok()?;
    let path = lines(&table.bytes).find_map(|l| l.strip_prefix(b"0::"))?;
    String::from_utf8(path.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Only looked at, never frozen: if this were wrong, freezing would hold the test itself.
    #[test]
    fn the_agents_own_group_is_known_under_every_spelling() {
        let (Some(mount), Some(own)) = (mount_point(), own_group()) else { panic!("this machine has no cgroup v2") };
        let holds = |path: &str| {
            let whole = [mount.as_slice(), path.as_bytes()].concat();
            holds_agent(&mount, &open_dir(rustix::fs::CWD, whole.as_slice()).expect("a group")).expect("told")
        };
        for path in [own.clone(), format!("/{own}"), format!("/.{own}"), format!("{own}/."), "/".to_owned(), "//".to_owned()] {
            assert!(holds(&path), "{path}");
        }
    }

    /// In the place of a file of a group.
    fn file(text: &str) -> Arc<OwnedFd> {
        let file = rustix::fs::memfd_create("group", rustix::fs::MemfdFlags::CLOEXEC).expect("memfd");
        pwrite(&file, text.as_bytes(), 0).expect("written");
        Arc::new(file)
    }

    #[test]
    fn frost_that_somebody_else_asked_for_is_theirs_though_nothing_stands_yet() {
        let told = |freeze: &str, events: &str| is_somebody_elses(&file(freeze), &file(events));
        assert_eq!(told("0\n", "populated 1\nfrozen 0\n"), Ok(false));
        assert_eq!((told("1\n", "frozen 1\n"), told("0\n", "frozen 1\n")), (Ok(true), Ok(true)));
        assert!(told("1\n", "populated 1\nfrozen 0\n").is_err_and(|why| why.contains("somebody else")));
    }

    /// Its watchdog was killed: it stood longer than until its deadline, and that is said.
    #[test]
    fn a_group_that_was_thawed_late_stood_until_then() {
        for (stands_late, stood_s) in [(true, 10), (false, 5)] {
            let (freeze, events) = (file("1"), file(if stands_late { "frozen 1\n" } else { "frozen 0\n" }));
            let dog = watchdog::start(freeze.as_fd(), 60_000).expect("started");
            // As if it had been frozen ten seconds ago, for five.
            let begun = clock::monotonic().saturating_sub(Duration::from_secs(10));
            let until = begun.saturating_add(Duration::from_secs(5));
            let (path, thawed, watchdog) = (String::new(), Arc::default(), Some(dog));
            let frozen = Frozen { path, freeze, events: Arc::clone(&events), watchdog, begun, until, thawed };
            assert!(!frozen.stands()());
            pwrite(&*events, b"frozen 0\n", 0).expect("thawed");
            let thawed = frozen.thaw();
            assert_eq!((thawed.by, thawed.stood.map(|time| time.as_secs() / 5 * 5)), (ThawedBy::Deadline, Some(stood_s)));
        }
    }

    #[test]
    fn a_group_is_thawed_once_and_somebody_elses_frost_stays() {
        let (freeze, events) = (file("1"), file("frozen 1\n"));
        let dog = watchdog::start(freeze.as_fd(), 60_000).expect("started");
        let until = clock::monotonic();
        let (path, thawed) = (String::new(), Arc::default());
        let frozen = Frozen { path, freeze: Arc::clone(&freeze), events, watchdog: Some(dog), begun: until, until, thawed };
        let state = || {
            let mut word = [0_u8; 1];
            pread(&*freeze, &mut word, 0).map(|_| word[0]).expect("read")
        };
        let stands = frozen.stands();
        assert!(!stands() && state() == b'0', "its time is up");
        pwrite(&*freeze, b"1", 0).expect("frozen by an administrator");
        assert!(!stands() && state() == b'1', "theirs");
        drop(frozen);
        assert!(!stands() && state() == b'1', "theirs, whoever still reads");
    }

    #[test]
    fn what_cannot_be_frozen_says_why() {
        let error = |path: &str| Frozen::freeze(path, Duration::from_secs(1)).err().expect("refused");
        assert!(!error("/no/such/group/at/all").is_empty());
        if let Some(own) = own_group().filter(|own| own != "/") {
            assert!(error(&own).contains("the agent itself"), "{}", error(&own));
        }
        assert!(!error("").is_empty());
    }
}
