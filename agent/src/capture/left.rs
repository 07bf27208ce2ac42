//! Who was asked something and has not answered yet, and whom to ask while there are many. A thread that waits for an answer is left
//! behind; whoever answers later gives its place back. When places become few they are for processes that look as if they answered,
//! so that those who never do (a user can start some) do not hide the others. Each that is late costs a wait, whether it gives its
//! place back or not, so all that were late are counted too: a user can start any number that answer just too late. What that costs
//! is paid by the same service, login or container first: of one that had a few late ones the others are asked after everybody else.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::live::{SMALL_BYTES_MAX, lines, numbers, split_at_byte};
use super::process::parse;
use super::procfs::{self, open_dir, read_at};

/// Processes that may be left behind at a time, with the threads that wait for them: 512 KiB of stack each.
const LEFT_MAX: usize = 16;
/// Of these, places for anybody.
const LEFT_ANYBODY_MAX: usize = 12;
/// Processes that may be late in one capture, those that answered later among them: eight minutes at ten seconds each.
pub const LATE_MAX: usize = 48;
/// Of these, anybody.
pub const LATE_ANYBODY_MAX: usize = 24;
/// Late processes of one owner before everybody else is asked first.
const LATE_OF_ONE_MAX: usize = 3;
/// Parts of a control group's path that tell owners apart where none of them is a service, a login or a container.
const OWNER_PARTS_MAX: usize = 3;
/// Threads of a process that are looked at.
const THREADS_MAX: usize = 8192;
/// Processes that are put aside, to be tried again after all others: 256 KiB.
pub const ASIDE_MAX: usize = 65_536;

/// Those that have not answered, of one capture.
#[derive(Debug, Default, Clone)]
pub struct LeftBehind(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    /// Who has not answered yet.
    now: AtomicUsize,
    /// Who did not answer in time.
    late: AtomicUsize,
    /// The same by owner: as many entries at most.
    late_by_owner: Mutex<BTreeMap<Vec<u8>, usize>>,
}

impl LeftBehind {
    /// How many there are now.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.now.load(Ordering::Acquire)
    }

    /// For somebody who is about to be asked. To be shared with each thread that asks.
    #[must_use]
    pub fn asked(&self) -> Arc<Asked> {
        Arc::new(Asked { all: self.clone(), left: AtomicBool::new(false) })
    }

    /// Whether a process may be asked now. `last`: everybody else was asked before.
    #[must_use]
    pub fn admits(&self, pid: u32, last: bool) -> bool {
        let (now, late) = (self.count(), self.0.late.load(Ordering::Acquire));
        if now >= LEFT_MAX || late >= LATE_MAX || (!last && self.had_its_share(pid)) {
            return false;
        }
        (now < LEFT_ANYBODY_MAX && late < LATE_ANYBODY_MAX) || !waits(pid)
    }

    /// Whether others of the same owner were late so often that this one has to wait for everybody else.
    fn had_its_share(&self, pid: u32) -> bool {
        let late = self.0.late_by_owner.lock().unwrap_or_else(PoisonError::into_inner);
        // Hardly ever is anybody late: then nobody is looked up.
        late.values().any(|n| *n >= LATE_OF_ONE_MAX)
            && owner(pid).is_some_and(|owner| late.get(&owner).is_some_and(|n| *n >= LATE_OF_ONE_MAX))
    }
}

/// One that is asked.
#[derive(Debug)]
pub struct Asked {
    all: LeftBehind,
    left: AtomicBool,
}

impl Asked {
    /// The process of this number did not answer in time: it counts until the last thread that shares this has ended.
    pub fn leave(&self, pid: u32) {
        if self.left.swap(true, Ordering::AcqRel) {
            return;
        }
        self.all.0.now.fetch_add(1, Ordering::AcqRel);
        self.all.0.late.fetch_add(1, Ordering::AcqRel);
        if let Some(owner) = owner(pid) {
            let mut late = self.all.0.late_by_owner.lock().unwrap_or_else(PoisonError::into_inner);
            let of_owner = late.entry(owner).or_insert(0);
            *of_owner = of_owner.saturating_add(1);
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        if *self.left.get_mut() {
            self.all.0.now.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// Of whom a process is: the service, login or container in whose control group it runs, which it cannot leave by starting others or
/// by calling itself otherwise; where there are no groups its user. `None` when it is gone. Read from files that need no lock of it.
fn owner(pid: u32) -> Option<Vec<u8>> {
    let dir = procfs::process(pid).ok()?;
    let groups = read_at(&dir, "cgroup", SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
    unit(&groups).or_else(|| {
        let status = parse::status(&read_at(&dir, "status", SMALL_BYTES_MAX).ok()?.bytes);
        Some(format!("user {}", status.uids?.real).into_bytes())
    })
}

/// The first control group in `/proc/<pid>/cgroup` that is not the root, cut where what is below may be its own to make: behind a
/// login (`user-1000.slice`), a service or a scope of systemd, else behind three parts (a pod).
fn unit(groups: &[u8]) -> Option<Vec<u8>> {
    lines(groups).find_map(|line| {
        let (_, rest) = split_at_byte(line, b':')?;
        let (_, path) = split_at_byte(rest, b':')?;
        let mut unit = Vec::new();
        for part in path.split(|b| *b == b'/').filter(|part| !part.is_empty()).take(OWNER_PARTS_MAX) {
            unit.push(b'/');
            unit.extend_from_slice(part);
            let is_login = part.starts_with(b"user-") && part.ends_with(b".slice");
            if is_login || part.ends_with(b".service") || part.ends_with(b".scope") {
                break;
            }
        }
        (!unit.is_empty()).then_some(unit)
    })
}

/// Whether a thread of a process is in a sleep that no signal interrupts: so sleeps who holds a lock of the process and waits for a
/// server or a disk. Read from files that need no such lock; somebody in such a sleep may still answer, and somebody else not.
fn waits(pid: u32) -> bool {
    let Ok(task) = procfs::process(pid).and_then(|dir| open_dir(dir, "task")) else { return false };
    let Ok((tids, more)) = numbers(&task, THREADS_MAX) else { return false };
    let state = |tid: u32| parse::stat(&read_at(&task, format!("{tid}/stat"), SMALL_BYTES_MAX).ok()?.bytes)?.state;
    more || tids.into_iter().any(|tid| state(tid) == Some('D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_answers_later_gives_its_place_back() {
        let left = LeftBehind::default();
        let (first, second) = (left.asked(), left.asked());
        let threads = [Arc::clone(&first), Arc::clone(&first)];
        first.leave(u32::MAX);
        first.leave(u32::MAX);
        drop((first, second));
        assert_eq!(left.count(), 1, "one process, however many threads wait for it; who answered does not count");
        drop(threads);
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn who_is_late_is_not_waited_for_without_end() {
        let left = LeftBehind::default();
        for late in 0..LATE_MAX {
            assert!(left.admits(u32::MAX, false), "{late} were late");
            left.asked().leave(u32::MAX);
        }
        assert_eq!(left.count(), 0, "each gave its place back");
        assert!(!left.admits(u32::MAX, false));
        assert!(LeftBehind::default().admits(u32::MAX, false), "another capture begins anew");
    }

    #[test]
    fn who_is_late_costs_its_own_first() {
        let (left, own) = (LeftBehind::default(), std::process::id());
        for late in 0..LATE_OF_ONE_MAX {
            assert!(left.admits(own, false), "{late} were late");
            left.asked().leave(own);
        }
        assert!(!left.admits(own, false), "everybody else comes first");
        assert!(left.admits(u32::MAX, false), "somebody else is asked");
        assert!(left.admits(own, true), "behind all others there is a place for it");
        for _ in LATE_OF_ONE_MAX..LATE_MAX {
            left.asked().leave(own);
        }
        assert!(!left.admits(own, true));
    }

    #[test]
    fn an_owner_is_what_starting_more_does_not_change() {
        for (groups, owner) in [
            ("0::/user.slice/user-1000.slice/session-3.scope\n", Some("/user.slice/user-1000.slice")),
            ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/a.scope\n", Some("/user.slice/user-1000.slice")),
            ("0::/system.slice/nginx.service/made/by/itself\n", Some("/system.slice/nginx.service")),
            ("0::/system.slice/docker-0123.scope\n", Some("/system.slice/docker-0123.scope")),
            ("0::/kubepods/burstable/pod17/0123/x\n", Some("/kubepods/burstable/pod17")),
            ("12:pids:/\n1:name=systemd:/system.slice/cron.service\n0::/\n", Some("/system.slice/cron.service")),
            ("0::/\n", None),
            ("", None),
            ("nonsense\n", None),
        ] {
            assert_eq!(unit(groups.as_bytes()).as_deref(), owner.map(str::as_bytes), "{groups}");
        }
        assert!(owner(std::process::id()).is_some() && owner(u32::MAX).is_none());
    }

    #[test]
    fn the_last_places_are_not_for_anybody_and_they_end() {
        let left = LeftBehind::default();
        let mut all = Vec::new();
        while all.len() < LEFT_MAX {
            assert!(left.admits(u32::MAX, false), "{} left behind", all.len());
            let asked = left.asked();
            asked.leave(u32::MAX);
            all.push(asked);
        }
        assert!(!left.admits(u32::MAX, false));
        all.pop();
        assert!(left.admits(u32::MAX, false));
    }
}
