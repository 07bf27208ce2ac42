//! The threads of a process while they are held.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use exhibit_agent_sys::ptrace;
use rustix::fs::AtFlags;

use super::registers::Set;
use super::stop::Thread;
use crate::clock;

/// Bytes of registers of one process, without their zeros, beyond which the large sets are left out: 1,500 threads with 1 KiB of the
/// 3 KiB and more that a processor saves of each.
const LARGE_SETS_BYTES_MAX: usize = 3 << 19;
/// Beyond which those for floating point are left out too. The general ones, a quarter of a KiB, are there of every thread.
const SETS_BYTES_MAX: usize = 5 << 19;
/// The largest set of registers: 11 KiB on today's processors.
pub const SET_BYTES_MAX: usize = 64 << 10;

/// Sets of registers by their note type in core files (include/uapi/linux/elf.h), the general ones first.
#[cfg(target_arch = "x86_64")]
const SETS: &[u32] = &[1, 2, 0x202];
/// General, floating point, TLS, pointer authentication masks, SVE.
#[cfg(target_arch = "aarch64")]
const SETS: &[u32] = &[1, 2, 0x401, 0x406, 0x405];
/// Only what every architecture has.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const SETS: &[u32] = &[1, 2];

/// A thread that was seized. Those that stand are released in any case: by name here, by the kernel when this thread ends.
pub struct Seized {
    /// As far as it is known.
    pub thread: Thread,
    /// It stands.
    pub stands: bool,
    /// It ended, or is none of this process: nothing is said of it.
    pub gone: bool,
    /// Its number was given to a thread of another process between listing and seizing: it runs on as soon as it can be
    /// released, and nothing of it is read.
    pub stray: bool,
}

impl Seized {
    /// Looks at a thread that was just seized. Its number cannot be used again from here on, so that what its folder below
    /// the process's (`dir`, opened) says now holds.
    pub fn new(dir: &OwnedFd, tid: u32) -> Self {
        let stray = rustix::fs::statat(dir, format!("task/{tid}"), AtFlags::SYMLINK_NOFOLLOW).is_err();
        Self { thread: Thread { tid, ..Thread::default() }, stands: false, gone: false, stray }
    }

    /// It came to a stand: its registers are read, or it is released at once.
    pub fn stopped(&mut self, pending: i32, group_stop: bool, buffer: &mut [u8], bytes: &mut usize) {
        if self.stray {
            // It can only fail for a thread that was killed meanwhile.
            let _ = ptrace::detach(self.thread.tid, pending);
            self.gone = true;
            return;
        }
        self.stands = true;
        (self.thread.pending, self.thread.group_stop) = (pending, group_stop);
        registers(&mut self.thread, buffer, bytes);
    }

    /// Whether it is waited for.
    pub const fn is_awaited(&self) -> bool {
        !self.stands && !self.gone && self.thread.running.is_none()
    }
}

/// All that were seized. Dropping it releases them.
pub struct Held {
    /// In the order of seizing.
    pub all: Vec<Seized>,
    /// When the stop began, on the clock of moments.
    pub begun_ns: u64,
}

impl Held {
    /// Their numbers.
    pub fn known(&self) -> BTreeSet<u32> {
        self.all.iter().map(|s| s.thread.tid).collect()
    }

    /// Whether everybody stands who was seized, but for who ended or is none of this process.
    pub fn all_stand(&self) -> bool {
        self.all.iter().all(|s| s.stands || s.gone || s.stray)
    }

    /// Nanoseconds since the stop began.
    pub fn since(&self) -> u64 {
        clock::now().mono_ns.saturating_sub(self.begun_ns)
    }

    /// Lets them run on.
    pub fn release(&mut self) {
        for seized in self.all.iter_mut().filter(|s| s.stands) {
            // It can only fail for a thread that was killed meanwhile.
            let _ = ptrace::detach(seized.thread.tid, seized.thread.pending);
            seized.stands = false;
            seized.thread.to_ns = clock::now().mono_ns.saturating_sub(self.begun_ns);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

/// Reads all registers of a thread that stands.
fn registers(thread: &mut Thread, buffer: &mut [u8], bytes: &mut usize) {
    for (n, kind) in SETS.iter().enumerate() {
        // A process with very many threads loses the vector registers of the last ones; where they stand is never lost.
        let room = [usize::MAX, SETS_BYTES_MAX].get(n).copied().unwrap_or(LARGE_SETS_BYTES_MAX);
        if *bytes >= room {
            thread.sets_left_out = true;
            continue;
        }
        if let Ok(length) = ptrace::register_set(thread.tid, *kind, buffer) {
            let set = Set::new(buffer.get(..length).unwrap_or_default());
            *bytes = bytes.saturating_add(set.packed_bytes());
            thread.sets.push((*kind, set));
        }
    }
    thread.siginfo = ptrace::signal_info(thread.tid).ok().map(|info| Set::new(&info));
    thread.blocked = ptrace::blocked_signals(thread.tid).unwrap_or(0);
}
