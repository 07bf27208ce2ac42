//! What the kernel says about an open block device. Every call is a pure read of a number; nothing is ever set.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

// `linux/fs.h`; the numbers are the same on every architecture that is supported (x86-64 and AArch64).
const BLKROGET: libc::Ioctl = 0x125e;
const BLKSSZGET: libc::Ioctl = 0x1268;
const BLKALIGNOFF: libc::Ioctl = 0x127a;
const BLKPBSZGET: libc::Ioctl = 0x127b;
const BLKGETSIZE64: libc::Ioctl = 0x8008_1272_u32 as libc::Ioctl;

/// Bytes of a block device (`BLKGETSIZE64`).
///
/// # Errors
/// What the kernel answers: `ENOTTY` when it is no block device, `ENXIO` or `ENODEV` when it is gone.
pub fn size(device: BorrowedFd<'_>) -> io::Result<u64> {
    let mut bytes = 0_u64;
    // SAFETY: the call writes one `size_t`, which is 64 bits wide here, into a live variable and keeps no pointer.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), BLKGETSIZE64, &raw mut bytes) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(bytes) }
}

/// Bytes of a logical sector (`BLKSSZGET`): the unit in which the device is addressed.
///
/// # Errors
/// What the kernel answers.
pub fn logical_sector(device: BorrowedFd<'_>) -> io::Result<u32> {
    number(device, BLKSSZGET)
}

/// Bytes of a physical sector (`BLKPBSZGET`): the unit in which it writes.
///
/// # Errors
/// What the kernel answers.
pub fn physical_sector(device: BorrowedFd<'_>) -> io::Result<u32> {
    number(device, BLKPBSZGET)
}

/// Whether the kernel would refuse to write to it (`BLKROGET`).
///
/// # Errors
/// What the kernel answers.
pub fn is_read_only(device: BorrowedFd<'_>) -> io::Result<bool> {
    number(device, BLKROGET).map(|flag| flag != 0)
}

/// Bytes by which the first logical sector is shifted against the physical ones (`BLKALIGNOFF`).
///
/// # Errors
/// What the kernel answers; also when the device says that it does not know.
pub fn alignment_offset(device: BorrowedFd<'_>) -> io::Result<u32> {
    number(device, BLKALIGNOFF)
}

fn number(device: BorrowedFd<'_>, request: libc::Ioctl) -> io::Result<u32> {
    let mut value: libc::c_int = 0;
    // SAFETY: each of these requests writes one `int` into a live variable and keeps no pointer.
    let result = unsafe { libc::ioctl(device.as_raw_fd(), request, &raw mut value) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(value).map_err(|_| io::Error::from_raw_os_error(libc::ERANGE))
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;

    use super::*;

    #[test]
    fn what_is_no_block_device_is_refused() {
        let file = tempfile();
        for answer in [size(file.as_fd()).err(), logical_sector(file.as_fd()).err(), is_read_only(file.as_fd()).err()] {
            let error = answer.expect("a regular file has none");
            assert!(matches!(error.raw_os_error(), Some(libc::ENOTTY | libc::EINVAL)), "{error}");
        }
    }

    fn tempfile() -> std::fs::File {
        std::fs::File::open(std::env::current_exe().expect("own path")).expect("open")
    }
}
