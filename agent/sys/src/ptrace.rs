//! Stopping threads of other processes for a moment and reading their registers, with `ptrace(2)`.
//!
//! The kernel ties a traced thread to the *thread* that seized it: every call for it must come from there, and when that
//! thread ends, for whatever reason, the kernel detaches all it held and they run on. Nothing here sets an option that
//! would change this (`PTRACE_O_EXITKILL` among them).

use std::io;

const GETREGSET: libc::c_long = 0x4204;
const SEIZE: libc::c_long = 0x4206;
const INTERRUPT: libc::c_long = 0x4207;
const GETSIGINFO: libc::c_long = 0x4202;
const GETSIGMASK: libc::c_long = 0x420a;
const DETACH: libc::c_long = 17;
/// The event of a stop that is no signal: an interrupt of ours, or a stop of the whole process (`SIGSTOP` and the like).
const EVENT_STOP: i32 = 128;

/// Bytes of `siginfo_t`.
pub const SIGINFO_BYTES: usize = 128;

/// What became of a thread that was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// It runs, or sleeps where no signal reaches it.
    NotYet,
    /// It stands.
    Stopped {
        /// The signal that it was about to receive when it stopped, to be given back when it is released; 0 for a stop without
        /// one.
        pending: i32,
        /// The whole process had been stopped before (`SIGSTOP` and the like), and stays so.
        group_stop: bool,
    },
    /// It ended.
    Gone,
}

fn call(request: libc::c_long, tid: u32, addr: usize, data: usize) -> io::Result<()> {
    // SAFETY: the requests of this module that come here take integers, or a pointer in `data` that the callers below make
    // from an exclusive borrow which lives for the whole call; the kernel keeps none.
    let result = unsafe { libc::syscall(libc::SYS_ptrace, request, libc::c_long::from(tid), addr, data) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Attaches the calling thread to a thread without stopping it.
///
/// # Errors
/// `EPERM`: no right to, or somebody else traces it already. `ESRCH`: there is no such thread.
pub fn seize(tid: u32) -> io::Result<()> {
    call(SEIZE, tid, 0, 0)
}

/// Tells a seized thread to stop. It stands when [`poll_stop`] says so.
///
/// # Errors
/// `ESRCH` when it ended.
pub fn interrupt(tid: u32) -> io::Result<()> {
    call(INTERRUPT, tid, 0, 0)
}

/// Lets a standing thread run on, with the signal that it was about to receive, and gives up the right over it.
///
/// # Errors
/// `ESRCH` when it does not stand or ended: then only the end of the calling thread detaches it.
pub fn detach(tid: u32, pending: i32) -> io::Result<()> {
    call(DETACH, tid, 0, usize::try_from(pending).unwrap_or(0))
}

/// Whether a seized thread stands by now. Does not wait.
///
/// The stop is looked at, not taken (`WNOWAIT`): a signal at which a thread stands is then still with the kernel, which gives
/// it to the thread when the tracer dies before [`detach`]. Taken, it would be lost with the tracer.
///
/// # Errors
/// `ECHILD` when the calling thread has not seized it.
pub fn poll_stop(tid: u32) -> io::Result<Waited> {
    let pid = libc::pid_t::try_from(tid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    // Only this one and only as its tracer: children of the program's other threads are theirs to wait for.
    let flags = libc::__WALL | libc::WNOHANG | libc::__WNOTHREAD;
    // SAFETY: the structure is plain integers (and unions of them), for which zeros are valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live, exclusively borrowed structure, which the call fills and does not keep.
    let result = unsafe { libc::waitid(libc::P_PID, tid, &raw mut info, flags | libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call filled the members for children, or left the zeros in place.
    let found = unsafe { info.si_pid() };
    // SAFETY: as above.
    let status = unsafe { info.si_status() };
    match info.si_code {
        _ if found == 0 => Ok(Waited::NotYet),
        libc::CLD_TRAPPED | libc::CLD_STOPPED => {
            let (signal, event) = (status & 0x7f, status >> 8 & 0xff);
            let group_stop = event == EVENT_STOP && signal != libc::SIGTRAP;
            Ok(Waited::Stopped { pending: if event == 0 { signal } else { 0 }, group_stop })
        }
        _ => {
            let mut status: libc::c_int = 0;
            // SAFETY: the pointer is to a live, exclusively borrowed integer. An end is taken: nothing is lost with it.
            let _ = unsafe { libc::waitpid(pid, &raw mut status, flags) };
            Ok(Waited::Gone)
        }
    }
}

/// Reads one set of registers of a standing thread into `buffer`; returns how many bytes it has. `kind` is the note type of
/// the set in core files (`NT_PRSTATUS` = 1, ...).
///
/// # Errors
/// `ENODEV` or `EINVAL` where the processor has no such set, `ESRCH` when the thread does not stand.
pub fn register_set(tid: u32, kind: u32, buffer: &mut [u8]) -> io::Result<usize> {
    let mut vector = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    call(GETREGSET, tid, kind as usize, (&raw mut vector) as usize)?;
    Ok(vector.iov_len.min(buffer.len()))
}

/// What the kernel says about the signal or stop at which a thread stands.
///
/// # Errors
/// `EINVAL` when the whole process is stopped: then there is none.
pub fn signal_info(tid: u32) -> io::Result<[u8; SIGINFO_BYTES]> {
    // `siginfo_t` is aligned to eight bytes.
    let mut words = [0_u64; SIGINFO_BYTES / 8];
    call(GETSIGINFO, tid, 0, (&raw mut words) as usize)?;
    let mut bytes = [0_u8; SIGINFO_BYTES];
    for (to, from) in bytes.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&from.to_ne_bytes());
    }
    Ok(bytes)
}

/// The signals that a standing thread blocks.
///
/// # Errors
/// What the kernel answers; `EIO` before Linux 3.11.
pub fn blocked_signals(tid: u32) -> io::Result<u64> {
    let mut mask = 0_u64;
    call(GETSIGMASK, tid, size_of::<u64>(), (&raw mut mask) as usize)?;
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Child(std::process::Child);

    impl Drop for Child {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    fn state(pid: u32) -> char {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat");
        stat.rsplit(") ").next().and_then(|rest| rest.chars().next()).expect("state")
    }

    fn until(mut done: impl FnMut() -> bool) {
        for _ in 0..100_000 {
            if done() {
                return;
            }
            std::thread::yield_now();
        }
        panic!("it did not happen");
    }

    #[test]
    fn a_thread_stands_shows_its_registers_and_runs_on() {
        let child = Child(std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep"));
        let tid = child.0.id();
        seize(tid).expect("a child may be seized");
        assert_eq!(poll_stop(tid).expect("seized"), Waited::NotYet, "seizing does not stop");
        interrupt(tid).expect("interrupted");
        until(|| poll_stop(tid).expect("seized") == Waited::Stopped { pending: 0, group_stop: false });
        let mut buffer = [0_u8; 4096];
        let bytes = register_set(tid, 1, &mut buffer).expect("registers");
        assert!(bytes >= 68 && buffer.iter().take(bytes).any(|b| *b != 0));
        assert_eq!(blocked_signals(tid).expect("mask"), 0);
        signal_info(tid).expect("a stop has information");
        detach(tid, 0).expect("released");
        until(|| state(tid) == 'S');
        assert!(poll_stop(tid).is_ok_and(|w| w == Waited::NotYet), "an ordinary child again");
    }

    #[test]
    fn the_end_of_the_seizing_thread_releases() {
        let child = Child(std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep"));
        let tid = child.0.id();
        std::thread::spawn(move || {
            seize(tid).expect("a child may be seized");
            interrupt(tid).expect("interrupted");
            until(|| matches!(poll_stop(tid), Ok(Waited::Stopped { .. })));
            assert_eq!(state(tid), 't');
        })
        .join()
        .expect("thread");
        until(|| state(tid) == 'S');
    }

    /// The tracer ends, as when the agent is killed, while a thread stands at a signal: it still gets that signal.
    #[test]
    fn a_signal_on_its_way_survives_its_tracer() {
        use std::os::unix::process::ExitStatusExt as _;
        let mut child = Child(std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep"));
        let tid = child.0.id();
        std::thread::spawn(move || {
            seize(tid).expect("a child may be seized");
            // SAFETY: takes two integers.
            let sent = unsafe { libc::kill(tid as libc::pid_t, libc::SIGUSR1) };
            assert_eq!(sent, 0);
            until(|| poll_stop(tid).expect("seized") == Waited::Stopped { pending: libc::SIGUSR1, group_stop: false });
        })
        .join()
        .expect("thread");
        let mut ended = None;
        until(|| {
            ended = child.0.try_wait().expect("waited");
            ended.is_some()
        });
        assert_eq!(ended.and_then(|e| e.signal()), Some(libc::SIGUSR1), "it ends by the signal that it was about to receive");
    }

    #[test]
    fn nobody_is_seized_twice() {
        let child = Child(std::process::Command::new("/bin/sleep").arg("60").spawn().expect("sleep"));
        let tid = child.0.id();
        seize(tid).expect("a child may be seized");
        let again = std::thread::spawn(move || seize(tid)).join().expect("thread").expect_err("traced");
        assert_eq!(again.raw_os_error(), Some(libc::EPERM));
        assert_eq!(seize(u32::MAX >> 2).expect_err("no such thread").raw_os_error(), Some(libc::ESRCH));
    }
}
