//! Scheduling of the threads that take evidence: the host's own work goes first.

use std::io;

/// Puts the calling thread into the "idle" I/O class: it reads only when nobody else wants the disk.
///
/// # Errors
/// What the kernel answers.
pub fn io_priority_idle() -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_IDLE: libc::c_int = 3;
    const CLASS_SHIFT: libc::c_int = 13;
    const CALLING_THREAD: libc::c_int = 0;
    // SAFETY: `ioprio_set` takes three integers, no pointer.
    let result = unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, CALLING_THREAD, CLASS_IDLE << CLASS_SHIFT) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets the nice value of the calling thread only (Linux keeps it per thread).
///
/// # Errors
/// What the kernel answers.
pub fn nice_thread(nice: i32) -> io::Result<()> {
    const CALLING_THREAD: libc::id_t = 0;
    // SAFETY: `setpriority` takes three integers, no pointer.
    let result = unsafe { libc::setpriority(libc::PRIO_PROCESS, CALLING_THREAD, nice) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the calling thread's sleeps end when they should: by default the kernel lets them last 50 us longer.
///
/// # Errors
/// What the kernel answers.
pub fn fine_timers() -> io::Result<()> {
    // SAFETY: `PR_SET_TIMERSLACK` takes one integer, no pointer.
    let result = unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1 as libc::c_ulong) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_thread_may_always_step_back() {
        std::thread::spawn(|| {
            super::io_priority_idle().expect("lowering needs no privilege");
            super::nice_thread(10).expect("lowering needs no privilege");
            super::fine_timers().expect("one's own timers need no privilege");
        })
        .join()
        .expect("thread");
    }
}
