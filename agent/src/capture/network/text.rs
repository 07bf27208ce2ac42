//! The text tables of `/proc/<pid>/net`, for kernels that refuse `sock_diag`.

use std::net::IpAddr;

use super::sockets::{Ask, Endpoint, Socket, state_name};
use crate::capture::live::{Lossless, hex, lines, number, split_at_byte, words};

/// Reads a table into rows; lines that do not fit are left to the raw item.
#[must_use]
pub fn table(ask: &Ask, text: &[u8]) -> Vec<Socket> {
    let line: fn(&[u8]) -> Option<Socket> = match ask.name {
        "tcp" | "udp" | "raw" => inet,
        "unix" => unix,
        _ => return Vec::new(),
    };
    let mut rows: Vec<Socket> = lines(text).skip(1).filter_map(line).collect();
    for row in &mut rows {
        row.protocol = ask.name;
        row.source = format!("/proc/net/{}", ask.text);
    }
    rows
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000  0 12345 ...`
fn inet(line: &[u8]) -> Option<Socket> {
    let mut fields = words(line).skip(1);
    let local = endpoint(fields.next()?)?;
    let remote = endpoint(fields.next()?)?;
    let state = u8::try_from(hex(fields.next()?)?).ok()?;
    let (tx, rx) = split_at_byte(fields.next()?, b':')?;
    let mut fields = fields.skip(2);
    let uid = number(fields.next()?)?;
    let inode = number(fields.nth(1)?)?;
    let small = |b: &[u8]| hex(b).and_then(|n| u32::try_from(n).ok());
    Some(Socket {
        ip_version: Some(if local.address.is_ipv4() { 4 } else { 6 }),
        state: state_name(state),
        local: Some(local),
        remote: Some(remote),
        uid: Some(uid),
        inode,
        receive_queue: small(rx),
        send_queue: small(tx),
        ..Socket::default()
    })
}

/// Addresses are printed as 32-bit words in the host's byte order.
fn endpoint(field: &[u8]) -> Option<Endpoint> {
    let (address, port) = split_at_byte(field, b':')?;
    let mut bytes = Vec::with_capacity(16);
    for word in address.chunks(8) {
        if word.len() != 8 {
            return None;
        }
        bytes.extend_from_slice(&u32::try_from(hex(word)?).ok()?.to_ne_bytes());
    }
    let address: IpAddr = super::netlink::ip(&bytes)?;
    Some(Endpoint { address, port: u16::try_from(hex(port)?).ok()? })
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/x`
fn unix(line: &[u8]) -> Option<Socket> {
    let (_, rest) = split_at_byte(line, b':')?;
    let mut rest = rest.trim_ascii_start();
    let mut fields: [&[u8]; 6] = [&[]; 6];
    for field in &mut fields {
        let (word, tail) = split_at_byte(rest, b' ').unwrap_or((rest, &[]));
        *field = word;
        rest = tail.trim_ascii_start();
    }
    let [_, _, flags, kind, state, inode] = fields;
    // __SO_ACCEPTCON marks a listener; the state column is that of `struct socket`.
    let listening = hex(flags)? & 0x1_0000 != 0;
    let state = match (listening, hex(state)?) {
        (true, _) => "listen",
        (false, 3) => "established",
        (false, _) => "unconnected",
    };
    Some(Socket {
        state: state.into(),
        kind: Some(match hex(kind)? {
            1 => "stream",
            2 => "dgram",
            5 => "seqpacket",
            _ => "unknown",
        }),
        inode: number(inode)?,
        name: (!rest.is_empty()).then(|| Lossless::from(rest)),
        ..Socket::default()
    })
}
