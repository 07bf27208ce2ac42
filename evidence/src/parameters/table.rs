//! Every capture with its parameters, as this version knows them. Agents check orders against it, and the responder's program does
//! before it signs one; what the parameters do is in `docs/operations/captures.md`.

use super::{Definition, Entry, Param, ParamKind};

const SPAN: ParamKind = ParamKind::Seconds { min: 0, max: u64::MAX };
const PATTERNS: ParamKind = ParamKind::List(Entry::Pattern);
const WORDS: ParamKind = ParamKind::List(Entry::Any);

const fn param(name: &'static str, kind: ParamKind, help: &'static str) -> Param {
    Param { name, kind, help }
}

const fn flag(name: &'static str, help: &'static str) -> Param {
    param(name, ParamKind::Flag, help)
}

/// All of them.
pub const CAPTURES: &[Definition] = &[
    Definition { name: "network", params: NETWORK, one_of: &[] },
    Definition { name: "process", params: PROCESS, one_of: &[] },
    Definition { name: "process-memory", params: PROCESS_MEMORY, one_of: &["pid", "name", "container", "cgroup", "all"] },
    Definition { name: "memory", params: MEMORY, one_of: &[] },
    Definition { name: "system", params: SYSTEM, one_of: &[] },
    Definition { name: "logs", params: LOGS, one_of: &[] },
    Definition { name: "files", params: FILES, one_of: &[] },
    Definition { name: "disk", params: DISK, one_of: &["path", "all"] },
];

const NETWORK: &[Param] = &[
    flag("sock_diag", "ask the kernel for sockets by netlink, for which it may load its small *_diag modules (default true)"),
    flag("tools", "run nft, iptables-save, ip6tables-save and ipset of the host (default true)"),
];

const PROCESS: &[Param] = &[
    flag("environ", "take the environment of each process, which may hold secrets (default true)"),
    flag("smaps", "take smaps and smaps_rollup, which hold up large processes while read (default false)"),
    flag("exe", "take the program file of every process, each distinct file once (default true)"),
    flag("deleted", "take files that are open or mapped although deleted, memfds among them (default true)"),
    flag("hidden", "look for processes that /proc does not list, by asking for every number (default true)"),
    param("file_max", ParamKind::Bytes, "most data of a program or deleted file that is taken, holes do not count (default 512MiB)"),
    param("total_max", ParamKind::Bytes, "data of all programs and deleted files together (default 8GiB)"),
];

const PROCESS_MEMORY: &[Param] = &[
    param("pid", ParamKind::List(Entry::Number), "processes by number, as the agent sees them"),
    param("name", WORDS, "processes by name (comm) or file name of their program; * and ? allowed"),
    param("container", ParamKind::List(Entry::Id { chars_min: 8 }), "processes of containers, by id or its first 8 or more characters"),
    param("cgroup", ParamKind::List(Entry::Path), "processes of control groups and those below, by path as in /proc/<pid>/cgroup"),
    flag("all", "every process but the agent's own (default false)"),
    param(
        "mode",
        ParamKind::Word(&["fast", "atomic"]),
        "fast: stopped for the registers only; atomic: stopped until copied (default fast)",
    ),
    param(
        "deadline",
        ParamKind::Seconds { min: 1, max: 600 },
        "mode atomic: longest time that a process stands (default 10s, at most 10m)",
    ),
    flag("swapped", "read what is in swap, which brings it back into memory (default true)"),
    flag("files", "read parts of mapped files that are not in memory too (default true)"),
    param("file_max", ParamKind::Bytes, "of a larger mapped file only what is in memory is taken (default 1GiB)"),
];

const MEMORY: &[Param] = &[
    flag("priority", "first take the pages that decide an analysis (priority.lime): page tables, kernel, slab, stacks (default true)"),
    param("priority_percent", ParamKind::Number { min: 1, max: 50 }, "how much of RAM that first pass may take at most (default 10)"),
    flag("fallback", "where physical memory is refused, take the memory of every process instead (default true)"),
    flag("full", "take all of RAM (memory.lime; default true)"),
];

const SYSTEM: &[Param] = &[
    flag("sysctl", "read every readable kernel parameter below /proc/sys (default true)"),
    flag("packages", "list the installed packages (default true)"),
];

/// The classes of logs, `other` last.
pub const LOG_CLASSES: &[&str] =
    &["audit", "auth", "journal", "system", "network", "security", "container", "cloud", "packages", "application", "other"];

const EXCLUDE: Param = param(
    "exclude",
    PATTERNS,
    "Patterns of what is left out; an excluded directory with all beneath it. Each exclusion is an item with status skipped.",
);
const MAX_SIZE: Param = param("max_size", ParamKind::Bytes, "Files with more data are recorded with their metadata but not taken.");
const MAX_FILES: Param =
    param("max_files", ParamKind::Number { min: 0, max: u64::MAX }, "The walk ends after so many hits; default 500000.");
const MAX_TOTAL: Param = param("max_total", ParamKind::Bytes, "Once so much was taken, further files that do not fit are recorded only.");
const NEWER_THAN: Param =
    param("newer_than", SPAN, "Only what changed (content or inode) within this span, e.g. 30d; default: of any age.");
const OLDER_THAN: Param =
    param("older_than", SPAN, "Only what did not change (content nor inode) within this span, e.g. 1d; default: of any age.");
const REMOTE: Param = flag("remote", "Enter remote file systems and automount points too; default false.");

const LOGS: &[Param] = &[
    param("classes", ParamKind::List(Entry::Word(LOG_CLASSES)), "Which classes of logs; default: all."),
    param("extra", PATTERNS, "Further patterns, e.g. /srv/app/**/*.log; class 'extra'."),
    EXCLUDE,
    MAX_SIZE,
    MAX_FILES,
    MAX_TOTAL,
    NEWER_THAN,
    OLDER_THAN,
    REMOTE,
];

const FILES: &[Param] = &[
    param(
        "paths",
        PATTERNS,
        "Patterns of absolute paths, e.g. /etc/cron*/**; options may stand in front, e.g. [max_size=1MiB] /tmp/**; default: the list of profile triage.",
    ),
    EXCLUDE,
    MAX_SIZE,
    MAX_FILES,
    MAX_TOTAL,
    NEWER_THAN,
    OLDER_THAN,
    REMOTE,
    flag("private_keys", "Take files that are private keys; default false: recorded with metadata only."),
];

const DISK: &[Param] = &[
    param(
        "path",
        ParamKind::List(Entry::Path),
        "Block devices and image files by absolute path, one a line; links as in /dev/disk/by-id are followed.",
    ),
    flag("all", "All whole disks of the host; default false."),
    flag("content", "Take the bytes; default true. With false only what describes the disks."),
    flag("direct", "Read past the page cache where that works (O_DIRECT); default true."),
    param("tries", ParamKind::Number { min: 1, max: 10 }, "How often a sector that fails is read, 1 to 10; default 2."),
    flag(
        "remote",
        "Take images on file systems of other hosts and of user-space servers too; one that does not answer can hold the capture. Default false.",
    ),
    flag(
        "freeze",
        "Freeze file systems that are mounted read-write from the disk while it is read; everybody who writes to them waits. A freeze that has begun cannot be taken back: while somebody is stuck in a write, it goes on past freeze_max. Default false.",
    ),
    param("freeze_max", ParamKind::Seconds { min: 1, max: 300 }, "Thaw so long after it is frozen, 1s to 300s; default 30s."),
];
