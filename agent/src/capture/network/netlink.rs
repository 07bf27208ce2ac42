//! Netlink dumps: send one request, read messages until the kernel says done. Attributes keep their numbers, so that what
//! this program has no name for is still recorded.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, send, socket_with};

/// The kernel builds dump messages of at most 32 KiB (`NLMSG_GOODSIZE` rules); twice that is never cut.
const BUFFER_BYTES: usize = 64 << 10;
/// A dump answers at once or not at all.
const PATIENCE: Duration = Duration::from_secs(5);

const NLM_F_REQUEST_DUMP: u16 = 0x0301;
const NLM_F_DUMP_INTR: u16 = 0x10;
const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const HEADER_BYTES: usize = 16;

/// A netlink socket. It belongs to the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
    sequence: u32,
}

/// How a dump ended when it ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dumped {
    /// The tables changed while they were dumped: entries may be missing or twice.
    pub interrupted: bool,
}

/// Why a dump did not come to its end.
#[derive(Debug)]
pub enum Failure<S> {
    /// The kernel's answer.
    Kernel(Errno),
    /// It sent what netlink does not allow.
    Malformed(&'static str),
    /// The receiver of the messages wants to stop.
    Stop(S),
}

/// What is called with the type and payload of each message.
pub type Receiver<'a, S> = dyn FnMut(u16, &[u8]) -> Result<(), S> + 'a;

impl<S> From<Errno> for Failure<S> {
    fn from(e: Errno) -> Self {
        Self::Kernel(e)
    }
}

impl Netlink {
    /// Opens a socket for a netlink protocol; none is NETLINK_ROUTE, whose number is 0.
    pub fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        bind(&socket, &SocketAddrNetlink::new(0, 0))?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Asks for a dump and hands on each message's type and payload.
    pub fn dump<S>(&mut self, kind: u16, request: &[u8], each: &mut Receiver<'_, S>) -> Result<Dumped, Failure<S>> {
        self.sequence = self.sequence.wrapping_add(1);
        let length = u32::try_from(HEADER_BYTES.saturating_add(request.len())).map_err(|_| Failure::Malformed("request too long"))?;
        let mut message = Vec::with_capacity(length as usize);
        message.extend_from_slice(&length.to_ne_bytes());
        message.extend_from_slice(&kind.to_ne_bytes());
        message.extend_from_slice(&NLM_F_REQUEST_DUMP.to_ne_bytes());
        message.extend_from_slice(&self.sequence.to_ne_bytes());
        message.extend_from_slice(&0_u32.to_ne_bytes());
        message.extend_from_slice(request);
        send(&self.socket, &message, SendFlags::empty())?;
        let mut buffer = vec![0_u8; BUFFER_BYTES];
        let mut dumped = Dumped::default();
        loop {
            let (_, length) = match recv(&self.socket, buffer.as_mut_slice(), RecvFlags::TRUNC) {
                Ok(got) => got,
                Err(Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            let datagram = buffer.get(..length).ok_or(Failure::Malformed("a message longer than netlink's bound"))?;
            if datagram.is_empty() {
                return Err(Failure::Malformed("an empty message"));
            }
            for message in messages(datagram) {
                let message = message.ok_or(Failure::Malformed("a message that is not whole"))?;
                // An answer to an earlier request that timed out.
                if message.sequence != self.sequence {
                    continue;
                }
                dumped.interrupted |= message.flags & NLM_F_DUMP_INTR != 0;
                match message.kind {
                    NLMSG_NOOP => {}
                    NLMSG_DONE | NLMSG_ERROR => {
                        let code = i32_at(message.payload, 0).unwrap_or(0);
                        return if code < 0 { Err(Errno::from_raw_os_error(code.saturating_neg()).into()) } else { Ok(dumped) };
                    }
                    kind => each(kind, message.payload).map_err(Failure::Stop)?,
                }
            }
        }
    }
}

/// One message of a datagram.
#[derive(Debug, PartialEq, Eq)]
pub struct Message<'a> {
    pub kind: u16,
    pub flags: u16,
    pub sequence: u32,
    pub payload: &'a [u8],
}

/// Splits a datagram; `None` once, at the end, for what is not a whole message.
pub fn messages(datagram: &[u8]) -> impl Iterator<Item = Option<Message<'_>>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let message = (|| {
            let length = u32_at(rest, 0)? as usize;
            let payload = rest.get(HEADER_BYTES..length)?;
            let message = Message { kind: u16_at(rest, 4)?, flags: u16_at(rest, 6)?, sequence: u32_at(rest, 8)?, payload };
            rest = rest.get(align(length)..).unwrap_or_default();
            Some(message)
        })();
        if message.is_none() {
            rest = &[];
        }
        Some(message)
    })
}

/// Attributes (type without flag bits, value). What does not fit ends the list: a kernel never sends it.
pub fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & 0x3fff;
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The bytes after a fixed head, where the attributes are.
#[must_use]
pub fn after(payload: &[u8], head: usize) -> &[u8] {
    payload.get(head..).unwrap_or_default()
}

const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// A byte.
#[must_use]
pub fn u8_at(bytes: &[u8], at: usize) -> Option<u8> {
    bytes.get(at).copied()
}

/// A number in the host's byte order.
#[must_use]
pub fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_ne_bytes)
}

/// A number in network byte order.
#[must_use]
pub fn be16_at(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// A number in the host's byte order.
#[must_use]
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    array(bytes, at).map(u32::from_ne_bytes)
}

/// A number in the host's byte order.
#[must_use]
pub fn i32_at(bytes: &[u8], at: usize) -> Option<i32> {
    array(bytes, at).map(i32::from_ne_bytes)
}

/// A number in the host's byte order.
#[must_use]
pub fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    array(bytes, at).map(u64::from_ne_bytes)
}

/// An address of 4 or 16 bytes.
#[must_use]
pub fn ip(bytes: &[u8]) -> Option<std::net::IpAddr> {
    match bytes.len() {
        4 => array::<4>(bytes, 0).map(Into::into),
        16 => array::<16>(bytes, 0).map(Into::into),
        _ => None,
    }
}
