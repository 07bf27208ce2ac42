//! The rows of the process table: one JSON object per process.

use std::collections::BTreeMap;

use serde::Serialize;

use super::container::Container;
use super::maps::Summary;
use super::parse::{Caps, Ids, Limit, Memory, Signals};
use crate::capture::live::{Lossless, Problem};

/// One process. A field that could not be read is `null`, and `problems` says why.
#[derive(Debug, Default, Serialize)]
pub struct Row {
    pub pid: u32,
    /// The thread through which all but `stat` and `status` was read: the first thread of this process has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_through: Option<u32>,
    /// `collected`, `partial` (see `problems`) or `vanished` (ended while it was read; what came before is here).
    pub status: &'static str,
    pub ppid: Option<i64>,
    pub pgid: Option<i64>,
    pub sid: Option<i64>,
    pub tgid: Option<u64>,
    pub tty_nr: Option<i64>,
    pub tty: Option<String>,
    pub tty_pgid: Option<i64>,
    pub comm: Option<Lossless>,
    pub kernel_thread: bool,
    pub state: Option<char>,
    pub flags: Option<u64>,
    pub cmdline: Option<Vec<Lossless>>,
    /// The raw item holds more arguments than are listed here.
    pub cmdline_cut: bool,
    pub exe: Option<Exe>,
    pub cwd: Option<Lossless>,
    pub root: Option<Lossless>,
    /// Clock ticks after boot, `ticks_per_s` to the second.
    pub start_ticks: Option<u64>,
    pub ticks_per_s: u64,
    /// The same on the host's wall clock, as it stood when this row was read.
    pub start_wall: Option<String>,
    pub utime_ticks: Option<u64>,
    pub stime_ticks: Option<u64>,
    pub minor_faults: Option<u64>,
    pub major_faults: Option<u64>,
    pub exit_code: Option<i64>,
    pub uids: Option<Ids>,
    pub gids: Option<Ids>,
    pub groups: Vec<u32>,
    pub umask: Option<Lossless>,
    pub caps: Caps,
    pub no_new_privs: Option<u64>,
    pub seccomp: Option<u64>,
    pub seccomp_filters: Option<u64>,
    pub speculation_store_bypass: Option<Lossless>,
    pub lsm_label: Option<Lossless>,
    /// 4294967295 is "not set".
    pub loginuid: Option<u64>,
    pub sessionid: Option<u64>,
    pub tracer_pid: Option<u64>,
    pub signals: Signals,
    pub oom_score: Option<i64>,
    pub oom_score_adj: Option<i64>,
    pub cgroup: Vec<Lossless>,
    pub container: Option<Container>,
    /// Inode of each namespace.
    pub namespaces: BTreeMap<&'static str, u64>,
    pub ns_pids: Vec<u64>,
    pub ns_pgids: Vec<u64>,
    pub ns_sids: Vec<u64>,
    pub limits: Vec<Limit>,
    pub sched: Sched,
    pub io: BTreeMap<String, u64>,
    pub memory: Memory,
    pub personality: Option<Lossless>,
    pub timer_slack_ns: Option<u64>,
    pub wchan: Option<Lossless>,
    pub syscall: Option<Lossless>,
    pub stack: Option<Vec<Lossless>>,
    pub threads_total: u64,
    pub threads: Vec<Thread>,
    pub fds_total: u64,
    /// The first [`super::fds::FDS_IN_ROW_MAX`]; further ones are rows of `fds.jsonl`.
    pub fds: Vec<Fd>,
    pub fds_elsewhere: u64,
    pub fds_left_out: u64,
    pub maps: Option<Summary>,
    pub problems: Vec<Problem>,
}

/// The program of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Exe {
    pub path: Lossless,
    /// Its last name was removed.
    pub deleted: bool,
    pub memfd: bool,
    pub dev: [u32; 2],
    pub ino: u64,
    pub nlink: u64,
    pub size: u64,
    pub mtime: String,
    /// `NT_GNU_BUILD_ID`, by which its symbols are found.
    pub build_id: Option<String>,
    /// The path of the item that holds the content: the same one for every process that runs the same file.
    pub item: Option<String>,
}

/// Scheduling.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Sched {
    pub policy: Option<&'static str>,
    pub priority: Option<i64>,
    pub nice: Option<i64>,
    pub rt_priority: Option<u64>,
    pub processor: Option<i64>,
    pub cpus_allowed: Option<Lossless>,
    pub mems_allowed: Option<Lossless>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
}

/// The name of a scheduling policy (include/uapi/linux/sched.h).
#[must_use]
pub const fn policy_name(policy: u64) -> &'static str {
    match policy {
        0 => "other",
        1 => "fifo",
        2 => "rr",
        3 => "batch",
        5 => "idle",
        6 => "deadline",
        7 => "ext",
        _ => "unknown",
    }
}

/// One thread.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Thread {
    pub tid: u32,
    pub comm: Option<Lossless>,
    pub state: Option<char>,
    pub start_ticks: Option<u64>,
    pub utime_ticks: Option<u64>,
    pub stime_ticks: Option<u64>,
    pub processor: Option<i64>,
    pub policy: Option<&'static str>,
    /// Inodes of its namespaces, of those that are not the process's.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub namespaces: BTreeMap<&'static str, u64>,
}

/// One open file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[expect(clippy::struct_field_names, reason = "the name in the record, as in /proc/<pid>/fd")]
pub struct Fd {
    pub fd: u32,
    /// The thread whose it is, where that has open files of its own (`unshare(CLONE_FILES)`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<u32>,
    /// What `/proc/<pid>/fd/<n>` says it points to.
    pub target: Option<Lossless>,
    /// `file`, `directory`, `socket`, `fifo`, `char`, `block`, `symlink`, `anonymous`.
    #[serde(rename = "type")]
    pub kind: Option<&'static str>,
    pub dev: Option<[u32; 2]>,
    pub ino: Option<u64>,
    pub nlink: Option<u64>,
    pub size: Option<u64>,
    pub pos: Option<i64>,
    /// `O_*` as a number; `mode` is its access part.
    pub flags: Option<u32>,
    pub mode: Option<&'static str>,
    pub mnt_id: Option<u64>,
    pub deleted: bool,
    /// The path of the item that holds the content, for deleted regular files and memfds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Lossless>,
    #[serde(skip_serializing_if = "is_zero")]
    pub extra_left_out: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
const fn is_zero(n: &usize) -> bool {
    *n == 0
}
