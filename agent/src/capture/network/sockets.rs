//! Sockets as `sock_diag(7)` gives them: requests and their answers, pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::netlink::{after, attributes, be16_at, ip, u8_at, u16_at, u32_at, u64_at};
use crate::capture::live::{Lossless, to_hex};

/// `SOCK_DIAG_BY_FAMILY`.
pub const BY_FAMILY: u16 = 20;

pub const AF_UNIX: u8 = 1;
pub const AF_INET: u8 = 2;
pub const AF_INET6: u8 = 10;
pub const AF_NETLINK: u8 = 16;
pub const AF_PACKET: u8 = 17;
pub const AF_VSOCK: u8 = 40;

/// A kind of socket to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    pub family: u8,
    /// IP protocol for the inet families, else 0.
    pub protocol: u8,
    /// In rows: `tcp`, `udp`, `unix`, ...
    pub name: &'static str,
    /// The file below `/proc/<pid>/net` that says the same in text, or nothing.
    pub text: &'static str,
    /// A path that must exist before this is asked, because asking would load a whole protocol into the kernel.
    pub only_if: Option<&'static str>,
}

impl Ask {
    /// For people: `raw sockets over IPv6`, `vsock sockets`.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.family {
            AF_INET => format!("{} sockets over IPv4", self.name),
            AF_INET6 => format!("{} sockets over IPv6", self.name),
            _ => format!("{} sockets", self.name),
        }
    }
}

const fn ask(family: u8, protocol: u8, name: &'static str, text: &'static str, only_if: Option<&'static str>) -> Ask {
    Ask { family, protocol, name, text, only_if }
}

/// All kinds.
pub const ASKS: &[Ask] = &[
    ask(AF_INET, 6, "tcp", "tcp", None),
    ask(AF_INET6, 6, "tcp", "tcp6", None),
    ask(AF_INET, 17, "udp", "udp", None),
    ask(AF_INET6, 17, "udp", "udp6", None),
    ask(AF_INET, 255, "raw", "raw", None),
    ask(AF_INET6, 255, "raw", "raw6", None),
    ask(AF_UNIX, 0, "unix", "unix", None),
    ask(AF_PACKET, 0, "packet", "packet", None),
    ask(AF_NETLINK, 255, "netlink", "netlink", None),
    ask(AF_INET, 132, "sctp", "sctp/eps", Some("/proc/net/sctp")),
    ask(AF_INET6, 132, "sctp", "sctp/eps", Some("/proc/net/sctp")),
    ask(AF_VSOCK, 0, "vsock", "", Some("/dev/vsock")),
];

/// The request's payload.
#[must_use]
pub fn request(ask: &Ask) -> Vec<u8> {
    const ALL: [u8; 4] = u32::MAX.to_ne_bytes();
    let mut r = vec![ask.family, ask.protocol];
    match ask.family {
        AF_INET | AF_INET6 => {
            // idiag_ext: TCP info (2), congestion (4), socket memory (7), shutdown (8); one bit each, from 1.
            r.extend_from_slice(&[0b1100_1010, 0]);
            r.extend_from_slice(&ALL);
            r.resize(56, 0);
        }
        AF_UNIX => {
            r.extend_from_slice(&[0, 0]);
            r.extend_from_slice(&ALL);
            r.extend_from_slice(&0_u32.to_ne_bytes());
            // name, vfs, peer, icons, queues, memory, uid
            r.extend_from_slice(&0x7f_u32.to_ne_bytes());
            r.extend_from_slice(&[0xff; 8]);
        }
        AF_VSOCK => {
            r.extend_from_slice(&[0, 0]);
            r.extend_from_slice(&ALL);
            r.resize(24, 0);
        }
        _ => {
            r.extend_from_slice(&[0, 0]);
            r.extend_from_slice(&0_u32.to_ne_bytes());
            // packet: info, multicast, rings, fanout, memory, filter; netlink: memory, groups
            r.extend_from_slice(&0x3f_u32.to_ne_bytes());
            r.resize(20, 0);
        }
    }
    r
}

/// A process's descriptor that refers to a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: u32,
    pub fd: u32,
    /// The thread whose descriptor it is, where that has open files of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<u32>,
    pub comm: Lossless,
}

/// One socket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Socket {
    /// Inode of the network namespace.
    pub netns: u64,
    pub protocol: &'static str,
    /// 4 or 6 for the inet families.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<u8>,
    pub state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local: Option<Endpoint>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remote: Option<Endpoint>,
    /// Index of the interface that it is bound to, 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub interface: Option<u32>,
    pub inode: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receive_queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub send_queue: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup_id: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<u32>,
    /// Of unix sockets: `stream`, `dgram`, `seqpacket`; of packet sockets the same of theirs.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Of unix sockets: the name, which begins with NUL when it is abstract.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Lossless>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer_inode: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp: Option<Tcp>,
    /// Fields and attributes without a name of their own here: names or numbers with values or hexadecimal bytes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub more: BTreeMap<String, String>,
    /// Empty for sockets in no process's table: time-wait, in the kernel, in flight, or of a process that is hidden.
    pub holders: Vec<Holder>,
    /// `sock_diag`, or the text file that it was read from.
    pub source: String,
}

/// Address and port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Endpoint {
    pub address: IpAddr,
    pub port: u16,
}

/// What the kernel knows of a TCP connection (`struct tcp_info`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tcp {
    pub last_data_sent_ms: Option<u32>,
    pub last_data_received_ms: Option<u32>,
    pub rtt_us: Option<u32>,
    pub retransmits: Option<u32>,
    pub bytes_acked: Option<u64>,
    pub bytes_received: Option<u64>,
    pub bytes_sent: Option<u64>,
}

/// The names of TCP states (include/net/tcp_states.h), also used by UDP for 1 and 7.
#[must_use]
pub fn state_name(state: u8) -> String {
    const NAMES: [&str; 14] = [
        "unknown",
        "established",
        "syn-sent",
        "syn-received",
        "fin-wait-1",
        "fin-wait-2",
        "time-wait",
        "close",
        "close-wait",
        "last-ack",
        "listen",
        "closing",
        "new-syn-received",
        "bound-inactive",
    ];
    NAMES.get(usize::from(state)).map_or_else(|| format!("unknown ({state})"), |n| (*n).to_owned())
}

const fn type_name(kind: u8) -> &'static str {
    match kind {
        1 => "stream",
        2 => "dgram",
        3 => "raw",
        5 => "seqpacket",
        10 => "packet",
        _ => "unknown",
    }
}

/// Reads one answer; `None` when it is shorter than its fixed head.
#[must_use]
pub fn answer(ask: &Ask, payload: &[u8]) -> Option<Socket> {
    let mut s = match ask.family {
        AF_INET | AF_INET6 => inet(payload)?,
        AF_UNIX => unix(payload)?,
        AF_PACKET => packet(payload)?,
        AF_NETLINK => netlink(payload)?,
        AF_VSOCK => vsock(payload)?,
        _ => return None,
    };
    s.protocol = ask.name;
    "sock_diag".clone_into(&mut s.source);
    Some(s)
}

fn inet(p: &[u8]) -> Option<Socket> {
    let family = u8_at(p, 0)?;
    let bytes = if family == AF_INET { 4 } else { 16 };
    let endpoint =
        |port_at: usize, at: usize| Some(Endpoint { address: ip(p.get(at..at.checked_add(bytes)?)?)?, port: be16_at(p, port_at)? });
    let mut s = Socket {
        ip_version: Some(if family == AF_INET { 4 } else { 6 }),
        state: state_name(u8_at(p, 1)?),
        local: endpoint(4, 8),
        remote: endpoint(6, 24),
        interface: u32_at(p, 40),
        receive_queue: u32_at(p, 56),
        send_queue: u32_at(p, 60),
        uid: u32_at(p, 64),
        inode: u64::from(u32_at(p, 68)?),
        ..Socket::default()
    };
    s.more.insert("cookie".into(), to_hex(p.get(44..52)?));
    s.more.insert("timer".into(), format!("{} retransmits {} expires_ms {}", u8_at(p, 2)?, u8_at(p, 3)?, u32_at(p, 52)?));
    for (kind, value) in attributes(after(p, 72)) {
        match kind {
            2 if value.len() >= 8 => s.tcp = Some(tcp(value)),
            4 => {
                s.more.insert("congestion".into(), shown(value));
            }
            8 => {
                s.more.insert("shutdown".into(), u8_at(value, 0).unwrap_or(0).to_string());
            }
            11 => {
                s.more.insert("v6_only".into(), u8_at(value, 0).unwrap_or(0).to_string());
            }
            14 => {}
            15 => s.mark = u32_at(value, 0),
            21 => s.cgroup_id = u64_at(value, 0),
            _ => {
                s.more.insert(format!("attr_{kind}"), to_hex(value));
            }
        }
    }
    Some(s)
}

fn tcp(i: &[u8]) -> Tcp {
    Tcp {
        last_data_sent_ms: u32_at(i, 44),
        last_data_received_ms: u32_at(i, 52),
        rtt_us: u32_at(i, 68),
        retransmits: u32_at(i, 100),
        bytes_acked: u64_at(i, 120),
        bytes_received: u64_at(i, 128),
        bytes_sent: u64_at(i, 200),
    }
}

/// Text of the kernel, which ends in NUL.
fn shown(value: &[u8]) -> String {
    exhibit_evidence::text::escape_bytes(value.strip_suffix(b"\0").unwrap_or(value))
}

fn unix(p: &[u8]) -> Option<Socket> {
    let mut s = Socket {
        kind: Some(type_name(u8_at(p, 1)?)),
        state: state_name(u8_at(p, 2)?),
        inode: u64::from(u32_at(p, 4)?),
        ..Socket::default()
    };
    for (kind, value) in attributes(after(p, 16)) {
        match kind {
            // A path ends with the NUL of its C string; an abstract name begins with one and may hold any byte.
            0 if value.first() == Some(&0) => s.name = Some(Lossless::from(value)),
            0 => s.name = Some(Lossless::from(value.strip_suffix(b"\0").unwrap_or(value))),
            1 => {
                s.more.insert("vfs_inode".into(), u32_at(value, 0)?.to_string());
                s.more.insert("vfs_dev".into(), u32_at(value, 4)?.to_string());
            }
            2 => s.peer_inode = u32_at(value, 0).map(u64::from),
            4 => (s.receive_queue, s.send_queue) = (u32_at(value, 0), u32_at(value, 4)),
            7 => s.uid = u32_at(value, 0),
            _ => {
                s.more.insert(format!("attr_{kind}"), to_hex(value));
            }
        }
    }
    Some(s)
}

fn packet(p: &[u8]) -> Option<Socket> {
    let mut s = Socket { kind: Some(type_name(u8_at(p, 1)?)), inode: u64::from(u32_at(p, 4)?), ..Socket::default() };
    "open".clone_into(&mut s.state);
    s.more.insert("ethertype".into(), format!("0x{:04x}", u16_at(p, 2)?));
    for (kind, value) in attributes(after(p, 16)) {
        match kind {
            0 => {
                s.interface = u32_at(value, 0);
                s.more.insert("flags".into(), u32_at(value, 20).unwrap_or(0).to_string());
            }
            5 => s.uid = u32_at(value, 0),
            // The classic BPF program: how a back door picks its packets.
            7 => {
                s.more.insert("filter".into(), to_hex(value));
            }
            _ => {
                s.more.insert(format!("attr_{kind}"), to_hex(value));
            }
        }
    }
    Some(s)
}

fn netlink(p: &[u8]) -> Option<Socket> {
    let mut s = Socket { kind: Some(type_name(u8_at(p, 1)?)), inode: u64::from(u32_at(p, 16)?), ..Socket::default() };
    s.state = if u8_at(p, 3)? == 1 { "connected".into() } else { "unconnected".into() };
    for (name, value) in [("netlink_protocol", u32::from(u8_at(p, 2)?)), ("port_id", u32_at(p, 4)?), ("peer_port_id", u32_at(p, 8)?)] {
        s.more.insert(name.into(), value.to_string());
    }
    for (kind, value) in attributes(after(p, 28)) {
        let name = if kind == 1 { "groups".into() } else { format!("attr_{kind}") };
        s.more.insert(name, to_hex(value));
    }
    Some(s)
}

fn vsock(p: &[u8]) -> Option<Socket> {
    let mut s = Socket {
        kind: Some(type_name(u8_at(p, 1)?)),
        state: state_name(u8_at(p, 2)?),
        inode: u64::from(u32_at(p, 20)?),
        ..Socket::default()
    };
    for (name, at) in [("local_cid", 4), ("local_port", 8), ("remote_cid", 12), ("remote_port", 16)] {
        s.more.insert(name.into(), u32_at(p, at)?.to_string());
    }
    Some(s)
}
