//! Who is logged in: `/run/utmp`, records of glibc's `struct utmp`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;

use crate::capture::live::{Lossless, SMALL_BYTES_MAX, read, take};
use crate::capture::{Output, Status, Stop};

/// Where the offsets of the two layouts differ: glibc keeps session and time in 32 bits on x86-64
/// (`__WORDSIZE_TIME64_COMPAT32`) and in 64 bits on aarch64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    /// Size of a record.
    pub bytes: usize,
    seconds_at: usize,
    wide: bool,
    address_at: usize,
}

/// 384 bytes: x86-64, and 32-bit systems.
pub const NARROW: Layout = Layout { bytes: 384, seconds_at: 340, wide: false, address_at: 348 };
/// 400 bytes: aarch64.
pub const WIDE: Layout = Layout { bytes: 400, seconds_at: 344, wide: true, address_at: 360 };

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Login {
    #[serde(rename = "type")]
    pub kind: &'static str,
    pub pid: i32,
    pub line: Lossless,
    pub id: Lossless,
    pub user: Lossless,
    pub host: Lossless,
    pub session: i64,
    pub time: String,
    pub address: Option<IpAddr>,
}

const KINDS: [&str; 10] = [
    "empty",
    "run-level",
    "boot-time",
    "new-time",
    "old-time",
    "init-process",
    "login-process",
    "user-process",
    "dead-process",
    "accounting",
];

fn array<const N: usize>(record: &[u8], at: usize) -> Option<[u8; N]> {
    record.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn text(record: &[u8], at: usize, length: usize) -> Option<Lossless> {
    let field = record.get(at..at.checked_add(length)?)?;
    Some(Lossless::from(field.split(|b| *b == 0).next().unwrap_or_default()))
}

/// Reads one record; `None` when it is too short.
#[must_use]
pub fn login(record: &[u8], layout: Layout) -> Option<Login> {
    let i32_at = |at| array(record, at).map(i32::from_ne_bytes);
    let i64_at = |at| array(record, at).map(i64::from_ne_bytes);
    let (session, seconds, micros) = if layout.wide {
        (i64_at(336)?, i64_at(layout.seconds_at)?, i64_at(layout.seconds_at.checked_add(8)?)?)
    } else {
        // Unsigned: this is how 32 bits of seconds last until 2106.
        let seconds = array(record, layout.seconds_at).map(u32::from_ne_bytes)?;
        (i64::from(i32_at(336)?), i64::from(seconds), i64::from(i32_at(layout.seconds_at.checked_add(4)?)?))
    };
    let ns = seconds.saturating_mul(1_000_000_000).saturating_add(micros.clamp(0, 999_999).saturating_mul(1000));
    let address: [u8; 16] = array(record, layout.address_at)?;
    let [a, b, c, d, rest @ ..] = address;
    let address = match (address == [0; 16], rest == [0; 12]) {
        (true, _) => None,
        (false, true) => Some(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        (false, false) => Some(IpAddr::V6(Ipv6Addr::from(address))),
    };
    let kind = i16::from_ne_bytes(array(record, 0)?);
    Some(Login {
        kind: usize::try_from(kind).ok().and_then(|k| KINDS.get(k)).copied().unwrap_or("unknown"),
        pid: i32_at(4)?,
        line: text(record, 8, 32)?,
        id: text(record, 40, 4)?,
        user: text(record, 44, 32)?,
        host: text(record, 76, 256)?,
        session,
        time: exhibit_evidence::Timestamp::from_unix_ns(ns).to_string(),
        address,
    })
}

/// The layout of a file: the one of this processor, unless only the other divides the file.
#[must_use]
pub fn layout(length: usize) -> Layout {
    let (own, other) = if cfg!(target_arch = "aarch64") { (WIDE, NARROW) } else { (NARROW, WIDE) };
    let fits = |l: Layout| length.checked_rem(l.bytes) == Some(0);
    if !fits(own) && fits(other) { other } else { own }
}

/// The raw file and the table of logins.
pub fn logins(out: &mut dyn Output) -> Result<(), Stop> {
    take(out, "/run/utmp", SMALL_BYTES_MAX)?;
    let mut table = super::table(out, "logins", "read:/run/utmp");
    let bytes = match read("/run/utmp", SMALL_BYTES_MAX) {
        Ok(read) => read.bytes,
        Err(e) => {
            // Systems without utmp keep sessions in systemd only (taken raw) or not at all.
            let problem = crate::capture::live::refusal(e);
            return table.finish(out, Some(problem)).map(drop);
        }
    };
    let layout = layout(bytes.len());
    let records = bytes.chunks_exact(layout.bytes);
    let rest = records.remainder().len();
    for login in records.filter_map(|r| login(r, layout)).filter(|l| l.kind != "empty") {
        table.row(out, &login)?;
    }
    let problem = (rest > 0).then(|| (Status::Partial, format!("{rest} bytes at the end are no whole record of {} bytes", layout.bytes)));
    table.finish(out, problem).map(drop)
}
