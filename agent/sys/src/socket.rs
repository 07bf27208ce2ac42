//! What the kernel says about an open socket.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// `SIOCGSKNS` (include/uapi/linux/sockios.h).
const NAMESPACE: libc::Ioctl = 0x894c;

/// The network namespace that a socket belongs to, whoever holds it and wherever that lives.
///
/// # Errors
/// `ENOTSOCK` for what is no socket, `EPERM` without CAP_NET_ADMIN over that namespace.
pub fn network_namespace(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut kind: libc::c_int = 0;
    let mut bytes: libc::socklen_t = 4;
    let at = (&raw mut kind).cast();
    // SAFETY: the call writes at most the four bytes of a live integer, and keeps neither pointer.
    let asked = unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_TYPE, at, &raw mut bytes) };
    if asked < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: of a socket this request reads and writes no memory.
    let opened = unsafe { libc::ioctl(socket.as_raw_fd(), NAMESPACE, 0_usize) };
    // A protocol that takes the request for one of its own opens nothing: standard input is no namespace.
    if opened <= 0 {
        return Err(if opened < 0 { io::Error::last_os_error() } else { io::Error::from_raw_os_error(libc::ENOTTY) });
    }
    // SAFETY: the kernel has just opened it for this process (close-on-exec), and nobody else here knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(opened) })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd as _;
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn a_socket_belongs_to_the_namespace_in_which_it_was_made() {
        let socket = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
        match network_namespace(socket.as_fd()) {
            Ok(namespace) => {
                let found = std::fs::File::from(namespace).metadata().expect("stat").ino();
                assert_eq!(found, std::fs::metadata("/proc/self/ns/net").expect("stat").ino());
            }
            Err(e) => assert_eq!(e.kind(), io::ErrorKind::PermissionDenied),
        }
    }

    #[test]
    fn what_is_no_socket_is_not_asked() {
        let file = std::fs::File::open("/dev/null").expect("open");
        assert_eq!(network_namespace(file.as_fd()).expect_err("no socket").raw_os_error(), Some(libc::ENOTSOCK));
    }
}
