//! Parsers of `/proc/<pid>/*`: any bytes in, never a panic; a field that is not there is `None`, not a guess.

use serde::Serialize;

use crate::capture::live::{Lossless, hex, lines, number, split_at_byte, words};

/// `PF_KTHREAD` in the flags of `/proc/<pid>/stat` (include/linux/sched.h).
const PF_KTHREAD: u64 = 0x0020_0000;

/// `/proc/<pid>/stat`, proc(5) section "stat". Times are in ticks of `sysconf(_SC_CLK_TCK)`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stat {
    /// Name between the first `(` and the last `)`: it may hold any byte, parentheses and newlines among them.
    pub comm: Vec<u8>,
    pub state: Option<char>,
    pub ppid: Option<i64>,
    pub pgid: Option<i64>,
    pub sid: Option<i64>,
    pub tty_nr: Option<i64>,
    pub tty_pgid: Option<i64>,
    pub flags: Option<u64>,
    pub minor_faults: Option<u64>,
    pub major_faults: Option<u64>,
    pub utime_ticks: Option<u64>,
    pub stime_ticks: Option<u64>,
    pub priority: Option<i64>,
    pub nice: Option<i64>,
    pub threads: Option<u64>,
    pub start_ticks: Option<u64>,
    pub processor: Option<i64>,
    pub rt_priority: Option<u64>,
    pub policy: Option<u64>,
    /// From where to where its arguments lay when it was started, and its environment. The process can move both.
    pub arguments: Option<(u64, u64)>,
    /// See above.
    pub environment: Option<(u64, u64)>,
    pub exit_code: Option<i64>,
}

impl Stat {
    /// Whether the kernel says that it is one of its own threads. The name is no proof: anyone may be called `[kworker]`.
    #[must_use]
    pub fn kernel_thread(&self) -> bool {
        self.flags.is_some_and(|f| f & PF_KTHREAD != 0)
    }
}

/// Parses `/proc/<pid>/stat` or `/proc/<pid>/task/<tid>/stat`.
#[must_use]
pub fn stat(bytes: &[u8]) -> Option<Stat> {
    let (_, after_open) = split_at_byte(bytes, b'(')?;
    let close = after_open.iter().rposition(|b| *b == b')')?;
    let comm = after_open.get(..close)?.to_vec();
    let fields: Vec<&[u8]> = words(after_open.get(close.checked_add(1)?..)?).collect();
    // proc(5) numbers the fields from 1 and the first after the name is field 3.
    let field = |n: usize| fields.get(n.checked_sub(3)?).copied();
    let signed = |n: usize| field(n).and_then(number::<i64>);
    let unsigned = |n: usize| field(n).and_then(number::<u64>);
    // Zeros stand for "not told": no memory, or no right to know.
    let area = |n: usize| unsigned(n).zip(unsigned(n.saturating_add(1))).filter(|(start, end)| *start > 0 && start <= end);
    Some(Stat {
        comm,
        state: field(3).and_then(|f| f.first()).map(|b| char::from(*b)),
        ppid: signed(4),
        pgid: signed(5),
        sid: signed(6),
        tty_nr: signed(7),
        tty_pgid: signed(8),
        flags: unsigned(9),
        minor_faults: unsigned(10),
        major_faults: unsigned(12),
        utime_ticks: unsigned(14),
        stime_ticks: unsigned(15),
        priority: signed(18),
        nice: signed(19),
        threads: unsigned(20),
        start_ticks: unsigned(22),
        processor: signed(39),
        rt_priority: unsigned(40),
        policy: unsigned(41),
        arguments: area(48),
        environment: area(50),
        exit_code: signed(52),
    })
}

/// The terminal's name from the device number of `stat` field 7 (bits 31-20 and 7-0 minor, 15-8 major).
#[must_use]
pub fn tty_name(tty_nr: i64) -> Option<String> {
    let n = u32::try_from(tty_nr).ok().filter(|n| *n != 0)?;
    let (major, minor) = ((n >> 8) & 0xfff, (n & 0xff) | ((n >> 12) & 0xf_ff00));
    Some(match (major, minor) {
        (4, 0..=63) => format!("tty{minor}"),
        (4, _) => format!("ttyS{}", minor.saturating_sub(64)),
        (5, 1) => "console".to_owned(),
        (136..=143, _) => format!("pts/{}", (major.saturating_sub(136) << 20) | minor),
        _ => format!("{major}:{minor}"),
    })
}

/// Four ids of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ids {
    pub real: u32,
    pub effective: u32,
    pub saved: u32,
    pub filesystem: u32,
}

/// The five capability sets, hexadecimal as the kernel prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Caps {
    pub inheritable: Option<Lossless>,
    pub permitted: Option<Lossless>,
    pub effective: Option<Lossless>,
    pub bounding: Option<Lossless>,
    pub ambient: Option<Lossless>,
}

/// Signal masks, hexadecimal as the kernel prints them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Signals {
    pub pending_thread: Option<Lossless>,
    pub pending_process: Option<Lossless>,
    pub blocked: Option<Lossless>,
    pub ignored: Option<Lossless>,
    pub caught: Option<Lossless>,
}

/// Memory sizes in KiB.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[expect(clippy::struct_field_names, reason = "the unit is part of each name in the record")]
pub struct Memory {
    pub vm_peak_kib: Option<u64>,
    pub vm_size_kib: Option<u64>,
    pub vm_locked_kib: Option<u64>,
    pub rss_kib: Option<u64>,
    pub rss_peak_kib: Option<u64>,
    pub rss_anon_kib: Option<u64>,
    pub rss_file_kib: Option<u64>,
    pub rss_shmem_kib: Option<u64>,
    pub data_kib: Option<u64>,
    pub stack_kib: Option<u64>,
    pub text_kib: Option<u64>,
    pub libraries_kib: Option<u64>,
    pub page_tables_kib: Option<u64>,
    pub swap_kib: Option<u64>,
    pub hugetlb_kib: Option<u64>,
}

/// `/proc/<pid>/status`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Status {
    pub umask: Option<Lossless>,
    pub tgid: Option<u64>,
    pub tracer_pid: Option<u64>,
    pub uids: Option<Ids>,
    pub gids: Option<Ids>,
    pub groups: Vec<u32>,
    pub ns_pids: Vec<u64>,
    pub ns_pgids: Vec<u64>,
    pub ns_sids: Vec<u64>,
    pub memory: Memory,
    pub signals: Signals,
    pub caps: Caps,
    pub no_new_privs: Option<u64>,
    pub seccomp: Option<u64>,
    pub seccomp_filters: Option<u64>,
    pub speculation_store_bypass: Option<Lossless>,
    pub cpus_allowed: Option<Lossless>,
    pub mems_allowed: Option<Lossless>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
}

fn ids(value: &[u8]) -> Option<Ids> {
    let mut numbers = words(value).map(number::<u32>);
    Some(Ids { real: numbers.next()??, effective: numbers.next()??, saved: numbers.next()??, filesystem: numbers.next()?? })
}

/// Parses `/proc/<pid>/status`. The name is left out: it is escaped there, and raw in `stat`.
#[must_use]
pub fn status(bytes: &[u8]) -> Status {
    let mut s = Status::default();
    for line in lines(bytes) {
        let Some((key, value)) = split_at_byte(line, b':') else { continue };
        let value = value.trim_ascii();
        let text = || Some(Lossless::from(value));
        let all = || words(value).filter_map(number::<u64>).collect::<Vec<_>>();
        match key {
            b"Umask" => s.umask = text(),
            b"Tgid" => s.tgid = number(value),
            b"TracerPid" => s.tracer_pid = number(value),
            b"Uid" => s.uids = ids(value),
            b"Gid" => s.gids = ids(value),
            b"Groups" => s.groups = words(value).filter_map(number::<u32>).collect(),
            b"NSpid" => s.ns_pids = all(),
            b"NSpgid" => s.ns_pgids = all(),
            b"NSsid" => s.ns_sids = all(),
            b"SigPnd" => s.signals.pending_thread = text(),
            b"ShdPnd" => s.signals.pending_process = text(),
            b"SigBlk" => s.signals.blocked = text(),
            b"SigIgn" => s.signals.ignored = text(),
            b"SigCgt" => s.signals.caught = text(),
            b"CapInh" => s.caps.inheritable = text(),
            b"CapPrm" => s.caps.permitted = text(),
            b"CapEff" => s.caps.effective = text(),
            b"CapBnd" => s.caps.bounding = text(),
            b"CapAmb" => s.caps.ambient = text(),
            b"NoNewPrivs" => s.no_new_privs = number(value),
            b"Seccomp" => s.seccomp = number(value),
            b"Seccomp_filters" => s.seccomp_filters = number(value),
            b"Speculation_Store_Bypass" => s.speculation_store_bypass = text(),
            b"Cpus_allowed_list" => s.cpus_allowed = text(),
            b"Mems_allowed_list" => s.mems_allowed = text(),
            b"voluntary_ctxt_switches" => s.voluntary_switches = number(value),
            b"nonvoluntary_ctxt_switches" => s.involuntary_switches = number(value),
            _ => memory_line(&mut s.memory, key, value),
        }
    }
    s
}

fn memory_line(m: &mut Memory, key: &[u8], value: &[u8]) {
    let slot = match key {
        b"VmPeak" => &mut m.vm_peak_kib,
        b"VmSize" => &mut m.vm_size_kib,
        b"VmLck" => &mut m.vm_locked_kib,
        b"VmRSS" => &mut m.rss_kib,
        b"VmHWM" => &mut m.rss_peak_kib,
        b"RssAnon" => &mut m.rss_anon_kib,
        b"RssFile" => &mut m.rss_file_kib,
        b"RssShmem" => &mut m.rss_shmem_kib,
        b"VmData" => &mut m.data_kib,
        b"VmStk" => &mut m.stack_kib,
        b"VmExe" => &mut m.text_kib,
        b"VmLib" => &mut m.libraries_kib,
        b"VmPTE" => &mut m.page_tables_kib,
        b"VmSwap" => &mut m.swap_kib,
        b"HugetlbPages" => &mut m.hugetlb_kib,
        _ => return,
    };
    *slot = words(value).next().and_then(number);
}

/// Most arguments and bytes of them in a row of the table; the raw item holds all. A hostile process can have millions of
/// empty arguments.
const ARGUMENTS_MAX: usize = 8192;
const ARGUMENTS_BYTES_MAX: usize = 256 << 10;

/// The arguments of `/proc/<pid>/cmdline`, separated by NUL, and whether some were left out. A process may overwrite them,
/// so they are its claim.
#[must_use]
pub fn arguments(bytes: &[u8]) -> (Vec<Lossless>, bool) {
    if bytes.is_empty() {
        return (Vec::new(), false);
    }
    let kept = bytes.get(..ARGUMENTS_BYTES_MAX).unwrap_or(bytes);
    let body = kept.strip_suffix(b"\0").unwrap_or(kept);
    let mut all = body.split(|b| *b == 0).map(Lossless::from);
    let listed: Vec<Lossless> = all.by_ref().take(ARGUMENTS_MAX).collect();
    let cut = kept.len() < bytes.len() || all.next().is_some();
    (listed, cut)
}

/// A line of `/proc/<pid>/limits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Limit {
    pub name: Lossless,
    /// `None` is unlimited.
    pub soft: Option<u64>,
    pub hard: Option<u64>,
    pub unit: Option<Lossless>,
}

/// Parses `/proc/<pid>/limits`: columns of fixed width 26, 21, 21 (fs/proc/base.c prints `%-25s %-20s %-20s %-10s`).
#[must_use]
pub fn limits(bytes: &[u8]) -> Vec<Limit> {
    lines(bytes)
        .skip(1)
        .filter_map(|line| {
            let value = |range: std::ops::Range<usize>| -> Option<Option<u64>> {
                match line.get(range)?.trim_ascii() {
                    b"unlimited" => Some(None),
                    n => Some(Some(number(n)?)),
                }
            };
            let unit = line.get(68..).map(<[u8]>::trim_ascii).filter(|u| !u.is_empty());
            Some(Limit {
                name: Lossless::from(line.get(..26)?.trim_ascii()),
                soft: value(26..47)?,
                hard: value(47..line.len().min(68))?,
                unit: unit.map(Lossless::from),
            })
        })
        .collect()
}

/// `key: value` lines whose values are numbers, as in `/proc/<pid>/io`.
#[must_use]
pub fn counters(bytes: &[u8]) -> std::collections::BTreeMap<String, u64> {
    lines(bytes)
        .filter_map(|line| {
            let (key, value) = split_at_byte(line, b':')?;
            Some((exhibit_evidence::text::escape_bytes(key.trim_ascii()), number(value)?))
        })
        .take(64)
        .collect()
}

/// Most lines of an fdinfo kept as `extra`: an epoll or inotify instance can watch millions of things.
pub const FDINFO_EXTRA_LINES_MAX: usize = 256;

/// `/proc/<pid>/fdinfo/<n>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FdInfo {
    pub pos: Option<i64>,
    /// Open flags (`O_*`), from octal.
    pub flags: Option<u32>,
    pub mnt_id: Option<u64>,
    /// Lines of the special kinds, raw: eventfd-count, tfd (epoll), inotify, fanotify, bpf (`prog_type`, `map_type`), io_uring, timerfd,
    /// pidfd, file locks.
    pub extra: Vec<Lossless>,
    /// How many further lines there were.
    pub extra_left_out: usize,
}

/// Parses an fdinfo.
#[must_use]
pub fn fdinfo(bytes: &[u8]) -> FdInfo {
    let mut info = FdInfo::default();
    for line in lines(bytes) {
        let value = split_at_byte(line, b':').map_or(&[][..], |(_, v)| v.trim_ascii());
        if line.starts_with(b"pos:") {
            info.pos = number(value);
        } else if line.starts_with(b"flags:") && info.flags.is_none() {
            info.flags = std::str::from_utf8(value).ok().and_then(|v| u32::from_str_radix(v, 8).ok());
        } else if line.starts_with(b"mnt_id:") {
            info.mnt_id = number(value);
        } else if line.starts_with(b"ino:") {
            // The same number comes from statx, for every kind of file and every kernel.
        } else if info.extra.len() < FDINFO_EXTRA_LINES_MAX {
            info.extra.push(Lossless::from(line.trim_ascii_end()));
        } else {
            info.extra_left_out = info.extra_left_out.saturating_add(1);
        }
    }
    info
}

/// The inode of a link like `socket:[123]` or `net:[4026531840]`.
#[must_use]
pub fn bracketed(target: &[u8], kind: &[u8]) -> Option<u64> {
    number(target.strip_prefix(kind)?.strip_prefix(b":[")?.strip_suffix(b"]")?)
}

/// A line of `/proc/<pid>/maps`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping<'a> {
    pub start: u64,
    pub end: u64,
    pub perms: &'a [u8],
    pub offset: u64,
    /// Major and minor.
    pub dev: [u32; 2],
    pub ino: u64,
    /// As printed: the kernel writes a newline in a name as `\012`.
    pub path: &'a [u8],
}

impl Mapping<'_> {
    /// Whether there is a file behind it. A file system in user space numbers its files as it likes, also with 0: then the
    /// device or the path tells.
    #[must_use]
    pub fn is_file(&self) -> bool {
        self.ino != 0 || self.dev != [0, 0] || self.path.starts_with(b"/")
    }
}

/// Parses a line of maps.
#[must_use]
pub fn mapping(line: &[u8]) -> Option<Mapping<'_>> {
    let (range, rest) = split_at_byte(line, b' ')?;
    let (start, end) = split_at_byte(range, b'-')?;
    let (perms, rest) = split_at_byte(rest, b' ')?;
    let (offset, rest) = split_at_byte(rest, b' ')?;
    let (dev, rest) = split_at_byte(rest, b' ')?;
    let (major, minor) = split_at_byte(dev, b':')?;
    let (ino, path) = split_at_byte(rest, b' ').unwrap_or((rest, &[]));
    let small = |b: &[u8]| hex(b).and_then(|n| u32::try_from(n).ok());
    Some(Mapping {
        start: hex(start)?,
        end: hex(end)?,
        perms,
        offset: hex(offset)?,
        dev: [small(major)?, small(minor)?],
        ino: number(ino)?,
        path: path.trim_ascii_start(),
    })
}
