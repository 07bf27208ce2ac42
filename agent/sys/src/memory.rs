//! Reading the memory of other processes, and asking which of it there is.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Reads memory of a process by address with `process_vm_readv(2)`: what the process itself may read, in one copy. A short
/// count ends at what could not be read.
///
/// The number names whatever program the process runs at that moment: only where it cannot run another one meanwhile (it
/// stands) does that mean the one that was looked at before.
///
/// # Errors
/// `EFAULT` when the first byte cannot be read, `ESRCH` when the process is gone, `EPERM`.
pub fn read_process(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: the local vector is a live, exclusively borrowed buffer of that length; the remote one is only a number, which
    // the kernel checks in the other process. Neither is kept.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

/// The number of bits of [`PageRange::categories`].
pub const PAGE_PRESENT: u64 = 1 << 3;
/// In swap.
pub const PAGE_SWAPPED: u64 = 1 << 4;

/// The kernel's own page of zeros, the same for all: it was read, and never written.
pub const PAGE_ZERO: u64 = 1 << 5;
/// Part of a huge page that is mapped as a whole.
pub const PAGE_HUGE: u64 = 1 << 6;
/// A guard (`MADV_GUARD_INSTALL`): whoever touches it is ended, whatever the mapping allows. The kernel calls it swapped as well.
pub const PAGE_GUARD: u64 = 1 << 8;

/// `struct page_region` of the kernel's user interface (include/uapi/linux/fs.h): neighbouring pages of the same kind.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PageRange {
    /// First address.
    pub start: u64,
    /// One past the last.
    pub end: u64,
    /// `PAGE_*`.
    pub categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
struct ScanArguments {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `PAGEMAP_SCAN`: `_IOWR('f', 16, struct pm_scan_arg)`.
const SCAN: libc::c_ulong = 0xc060_6610;

/// Lists the pages between two addresses that are in memory or in swap, lowest first, as far as `ranges` has room. Returns
/// how many ranges there are and the address up to which they are all. `pagemap` is an open `/proc/<pid>/pagemap`. Nothing
/// is changed. With `guards` the kernel is asked to tell guards from swap.
///
/// # Errors
/// `ENOTTY` before Linux 6.7, `EINVAL` where the kernel does not tell guards and is asked to, `ESRCH` when the process is gone.
pub fn scan_pages(pagemap: BorrowedFd<'_>, start: u64, end: u64, guards: bool, ranges: &mut [PageRange]) -> io::Result<(usize, u64)> {
    let guard = if guards { PAGE_GUARD } else { 0 };
    let mut arguments = ScanArguments {
        size: size_of::<ScanArguments>() as u64,
        flags: 0,
        start,
        end,
        walk_end: 0,
        vec: ranges.as_mut_ptr() as u64,
        vec_len: ranges.len() as u64,
        max_pages: 0,
        category_inverted: 0,
        category_mask: 0,
        category_anyof_mask: PAGE_PRESENT | PAGE_SWAPPED,
        return_mask: PAGE_PRESENT | PAGE_SWAPPED | PAGE_ZERO | PAGE_HUGE | guard,
    };
    // SAFETY: the argument has the layout of the kernel's interface and says how large it is; the vector that it names is a
    // live, exclusively borrowed slice of that many elements. The kernel fills both and keeps neither.
    let found = unsafe { libc::ioctl(pagemap.as_raw_fd(), SCAN as _, &raw mut arguments) };
    let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
    Ok((found.min(ranges.len()), arguments.walk_end))
}

/// Whether two processes use the same memory, as after `vfork` or `clone` with `CLONE_VM` (kcmp(2)).
///
/// # Errors
/// What the kernel answers: `ESRCH` when one is gone, `ENOSYS` where it was built without, `EPERM` for strangers.
pub fn is_shared(one: u32, other: u32) -> io::Result<bool> {
    const KCMP_VM: libc::c_int = 1;
    compare(one, other, KCMP_VM)
}

/// Whether two threads use the same table of open files: all threads of a process do, but who called `unshare(CLONE_FILES)`
/// (kcmp(2)).
///
/// # Errors
/// As [`is_shared`].
pub fn shares_descriptors(one: u32, other: u32) -> io::Result<bool> {
    const KCMP_FILES: libc::c_int = 2;
    compare(one, other, KCMP_FILES)
}

fn compare(one: u32, other: u32, what: libc::c_int) -> io::Result<bool> {
    // SAFETY: takes five integers.
    let answer = unsafe { libc::syscall(libc::SYS_kcmp, one, other, what, 0_u64, 0_u64) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(answer == 0) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn nobody_but_oneself_has_ones_memory() {
        let own = std::process::id();
        assert!(is_shared(own, own).expect("told"));
        assert!(!is_shared(own, 1).unwrap_or(false));
        assert!(shares_descriptors(own, own).expect("told"));
        assert!(!shares_descriptors(own, 1).unwrap_or(false));
    }

    #[test]
    fn own_memory_is_what_it_is() {
        let words = [7_u8; 100];
        let mut buffer = [0_u8; 100];
        assert_eq!(read_process(std::process::id(), words.as_ptr() as u64, &mut buffer).expect("own memory"), 100);
        assert_eq!(buffer, words);
        let nothing = read_process(std::process::id(), 16, &mut buffer).expect_err("page zero");
        assert_eq!(nothing.raw_os_error(), Some(libc::EFAULT));
    }

    #[test]
    fn touched_pages_are_found_where_the_kernel_can_tell() {
        const PAGE: usize = 4096;
        let mut block = vec![0_u8; 64 * PAGE];
        let base = (block.as_ptr() as usize).next_multiple_of(PAGE) as u64;
        let first = usize::try_from(base).expect("fits") - block.as_ptr() as usize;
        block[first + 3 * PAGE] = 1;
        block[first + 5 * PAGE] = 1;
        let file = std::fs::File::open("/proc/self/pagemap").expect("pagemap");
        let mut ranges = [PageRange::default(); 16];
        match scan_pages(file.as_fd(), base, base + 32 * PAGE as u64, false, &mut ranges) {
            Ok((found, walked)) => {
                assert_eq!(walked, base + 32 * PAGE as u64);
                let at = |page: u64| ranges[..found].iter().any(|r| r.start <= base + page * 4096 && base + page * 4096 < r.end);
                assert!(at(3) && at(5), "{:?}", &ranges[..found]);
            }
            Err(e) => assert_eq!(e.raw_os_error(), Some(libc::ENOTTY), "{e}"),
        }
    }
}
