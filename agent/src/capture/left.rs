//! Who was asked something and has not answered yet, and whom to ask while there are many. A thread that waits for an answer is left
//! behind; whoever answers later gives its place back. When places become few they are for processes that look as if they answered,
//! so that those who never do (a user can start some) do not hide the others. Each that is late costs a wait, whether it gives its
//! place back or not, so all that were late are counted too: a user can start any number that answer just too late.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::live::{SMALL_BYTES_MAX, numbers, open_dir, read_at};
use super::process::parse;

/// Processes that may be left behind at a time, with the threads that wait for them: 512 KiB of stack each.
const LEFT_MAX: usize = 16;
/// Of these, places for anybody.
const LEFT_ANYBODY_MAX: usize = 12;
/// Processes that may be late in one capture, those that answered later among them: eight minutes at ten seconds each.
pub const LATE_MAX: usize = 48;
/// Of these, anybody.
pub const LATE_ANYBODY_MAX: usize = 24;
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

    /// Whether a process may be asked now.
    #[must_use]
    pub fn admits(&self, pid: u32) -> bool {
        let (now, late) = (self.count(), self.0.late.load(Ordering::Acquire));
        if now >= LEFT_MAX || late >= LATE_MAX {
            return false;
        }
        (now < LEFT_ANYBODY_MAX && late < LATE_ANYBODY_MAX) || !waits(pid)
    }
}

/// One that is asked.
#[derive(Debug)]
pub struct Asked {
    all: LeftBehind,
    left: AtomicBool,
}

impl Asked {
    /// It did not answer in time: it counts until the last thread that shares this has ended.
    pub fn leave(&self) {
        if !self.left.swap(true, Ordering::AcqRel) {
            self.all.0.now.fetch_add(1, Ordering::AcqRel);
            self.all.0.late.fetch_add(1, Ordering::AcqRel);
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

/// Whether a thread of a process is in a sleep that no signal interrupts: so sleeps who holds a lock of the process and waits for a
/// server or a disk. Read from files that need no such lock; somebody in such a sleep may still answer, and somebody else not.
fn waits(pid: u32) -> bool {
    let Ok(task) = open_dir(rustix::fs::CWD, format!("/proc/{pid}/task")) else { return false };
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
        first.leave();
        first.leave();
        drop((first, second));
        assert_eq!(left.count(), 1, "one process, however many threads wait for it; who answered does not count");
        drop(threads);
        assert_eq!(left.count(), 0);
    }

    #[test]
    fn who_is_late_is_not_waited_for_without_end() {
        let left = LeftBehind::default();
        for late in 0..LATE_MAX {
            assert!(left.admits(u32::MAX), "{late} were late");
            left.asked().leave();
        }
        assert_eq!(left.count(), 0, "each gave its place back");
        assert!(!left.admits(u32::MAX));
        assert!(LeftBehind::default().admits(u32::MAX), "another capture begins anew");
    }

    #[test]
    fn the_last_places_are_not_for_anybody_and_they_end() {
        let left = LeftBehind::default();
        let mut all = Vec::new();
        while all.len() < LEFT_MAX {
            assert!(left.admits(u32::MAX), "{} left behind", all.len());
            let asked = left.asked();
            asked.leave();
            all.push(asked);
        }
        assert!(!left.admits(u32::MAX));
        all.pop();
        assert!(left.admits(u32::MAX));
    }
}
