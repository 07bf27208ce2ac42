//! The kernel: version, taint, security modules, loaded modules, log.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::capture::live::{LARGE_BYTES_MAX, Lossless, lines, names, number, open_dir, read, text, words};
use crate::capture::procfs;
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, evidence_path};

#[derive(Serialize)]
struct Kernel {
    version: Option<Lossless>,
    cmdline: Option<Lossless>,
    tainted: Option<u64>,
    /// Names of the taint bits that are set (Documentation/admin-guide/tainted-kernels.rst).
    taint: Option<Vec<&'static str>>,
    security_modules: Option<Lossless>,
    lockdown: Option<Lossless>,
    modules_disabled: Option<Lossless>,
    kptr_restrict: Option<Lossless>,
    dmesg_restrict: Option<Lossless>,
    unprivileged_bpf_disabled: Option<Lossless>,
    yama_ptrace_scope: Option<Lossless>,
    kexec_loaded: Option<Lossless>,
    /// Where the build's configuration, types and symbols can be found on this host.
    build_files: Vec<String>,
}

const TAINTS: [&str; 20] = [
    "proprietary module",
    "forced module load",
    "unsafe SMP",
    "forced module unload",
    "machine check",
    "bad page",
    "user request",
    "died",
    "ACPI override",
    "warned",
    "staging module",
    "firmware workaround",
    "out-of-tree module",
    "unsigned module",
    "soft lockup",
    "live patched",
    "auxiliary",
    "struct randomisation",
    "in-kernel test",
    "fwctl",
];

/// The names of taint bits.
#[must_use]
pub fn taint_names(bits: u64) -> Vec<&'static str> {
    TAINTS.iter().enumerate().filter(|(i, _)| bits.checked_shr(*i as u32).unwrap_or(0) & 1 == 1).map(|(_, n)| *n).collect()
}

/// One record of the kernel's own state.
pub fn record(out: &mut dyn Output) -> Result<(), Stop> {
    let started = out.now();
    let tainted = text("/proc/sys/kernel/tainted").and_then(|t| number(&t.0));
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let candidates = [
        "/proc/config.gz".to_owned(),
        "/proc/kallsyms".to_owned(),
        "/sys/kernel/btf/vmlinux".to_owned(),
        format!("/boot/config-{release}"),
        format!("/boot/System.map-{release}"),
        format!("/lib/modules/{release}/build"),
    ];
    let record = Kernel {
        version: text("/proc/version"),
        cmdline: text("/proc/cmdline"),
        tainted,
        taint: tainted.map(taint_names),
        security_modules: text("/sys/kernel/security/lsm"),
        lockdown: text("/sys/kernel/security/lockdown"),
        modules_disabled: text("/proc/sys/kernel/modules_disabled"),
        kptr_restrict: text("/proc/sys/kernel/kptr_restrict"),
        dmesg_restrict: text("/proc/sys/kernel/dmesg_restrict"),
        unprivileged_bpf_disabled: text("/proc/sys/kernel/unprivileged_bpf_disabled"),
        yama_ptrace_scope: text("/proc/sys/kernel/yama/ptrace_scope"),
        kexec_loaded: text("/sys/kernel/kexec_loaded"),
        build_files: candidates.into_iter().filter(|p| std::fs::symlink_metadata(p).is_ok()).collect(),
    };
    super::put_of_proc(out, "kernel.json", &record, started, "read:/proc/sys")
}

#[derive(Serialize)]
struct Module {
    name: Lossless,
    /// `/proc/modules` lists it; none where that could not be read.
    listed: Option<bool>,
    /// `/sys/module/<name>` exists with `initstate`, as loaded modules have. Loaded, but not listed: hidden.
    in_sysfs: bool,
    size_bytes: Option<u64>,
    references: Option<u64>,
    users: Option<Lossless>,
    state: Option<Lossless>,
    /// Zeros where addresses are restricted.
    address: Option<Lossless>,
    taint: Option<Lossless>,
    version: Option<Lossless>,
    srcversion: Option<Lossless>,
}

const MODULES_MAX: usize = 16_384;

/// Modules from both places where the kernel lists them: one that is only in one of them is worth a look.
pub fn modules(out: &mut dyn Output) -> Result<(), Stop> {
    let mut table = super::table(out, "modules", "read:/proc/modules+/sys/module");
    // Only a whole procfs says by a file that is not there what the kernel has not.
    let doubt = procfs::not_whole();
    let mut problems: Vec<String> = doubt.iter().cloned().collect();
    let mut knows = doubt.is_none();
    let listed = match read("/proc/modules", LARGE_BYTES_MAX) {
        Ok(read) => read.bytes,
        // The file is there in every kernel that can load modules (CONFIG_MODULES), also when none is loaded.
        Err(Errno::NOENT) if knows => {
            table.fact("modules", "this kernel is built without loadable modules: there is no /proc/modules");
            Vec::new()
        }
        Err(e) => {
            problems.push(format!("/proc/modules: {e}"));
            knows = false;
            Vec::new()
        }
    };
    let (folders, _) = open_dir(rustix::fs::CWD, "/sys/module").and_then(|d| names(d, MODULES_MAX)).unwrap_or_else(|e| {
        problems.push(format!("/sys/module: {e}"));
        (Vec::new(), false)
    });
    // Built-in modules with parameters have a folder too, but no initstate.
    let loaded: Vec<Vec<u8>> = folders.into_iter().filter(|n| of(n, "initstate").is_some()).collect();
    let mut seen = Vec::new();
    for line in lines(&listed) {
        let fields: Vec<&[u8]> = words(line).collect();
        let Some(name) = fields.first() else { continue };
        let field = |n: usize| fields.get(n).map(|f| Lossless::from(*f));
        seen.push(name.to_vec());
        let row = Module {
            name: Lossless::from(*name),
            listed: Some(true),
            in_sysfs: loaded.iter().any(|l| l == name),
            size_bytes: field(1).and_then(|f| number(&f.0)),
            references: field(2).and_then(|f| number(&f.0)),
            users: field(3),
            state: field(4),
            address: field(5),
            taint: of(name, "taint"),
            version: of(name, "version"),
            srcversion: of(name, "srcversion"),
        };
        table.row(out, &row)?;
    }
    for name in loaded.iter().filter(|n| !seen.contains(n)) {
        let row = Module {
            name: Lossless(name.clone()),
            listed: knows.then_some(false),
            in_sysfs: true,
            size_bytes: of(name, "coresize").and_then(|t| number(&t.0)),
            references: of(name, "refcnt").and_then(|t| number(&t.0)),
            users: None,
            state: of(name, "initstate"),
            address: None,
            taint: of(name, "taint"),
            version: of(name, "version"),
            srcversion: of(name, "srcversion"),
        };
        table.row(out, &row)?;
    }
    if table.rows() == 0 && problems.is_empty() && std::fs::symlink_metadata("/proc/modules").is_ok() {
        table.fact("modules", "no module is loaded");
    }
    table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")))).map(drop)
}

fn of(module: &[u8], what: &str) -> Option<Lossless> {
    // Names of modules are text; what is not cannot be a folder of theirs.
    text(&format!("/sys/module/{}/{what}", std::str::from_utf8(module).ok()?))
}

/// The largest log: records of at most 8 KiB each up to this many bytes (the default buffer has 128 KiB to 1 MiB).
const LOG_BYTES_MAX: usize = 16 << 20;
const LOG_RECORD_BYTES: usize = 8192 + 256;

/// The kernel's log, record by record from `/dev/kmsg` (with sequence numbers and times), else as text.
pub fn log(out: &mut dyn Output) -> Result<(), Stop> {
    let started = out.now();
    let item = NewItem::new(evidence_path("/dev/kmsg"), Kind::File, started, "read:kmsg");
    match kmsg() {
        Ok(log) => {
            let mut item = item.with_fact("records", log.records.to_string()).with_fact("overwritten_while_reading", log.lost.to_string());
            if let Some(cut) = log.cut {
                item = item.with_status(Status::Partial, cut);
            }
            out.put(item, Content::Bytes(&log.bytes)).map(drop)
        }
        Err(e) => {
            let (status, reason) = crate::capture::live::refusal(e);
            out.put(item.with_status(status, reason), Content::None)?;
            let started = out.now();
            let item = NewItem::record("kernel-log.txt", started, "syslog");
            match exhibit_agent_sys::kernel_log(LOG_BYTES_MAX) {
                Ok(text) => out.put(item, Content::Bytes(&text)).map(drop),
                Err(e) => {
                    let (status, reason) = crate::capture::status_of(&e);
                    out.put(item.with_status(status, reason), Content::None).map(drop)
                }
            }
        }
    }
}

#[derive(Default)]
struct Log {
    bytes: Vec<u8>,
    records: u64,
    lost: u64,
    cut: Option<String>,
}

fn kmsg() -> Result<Log, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/kmsg", flags, Mode::empty())?;
    // In a container this may be anything: only the device with number 1:11 is the log.
    let stat = rustix::fs::fstat(&device)?;
    if (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev)) != (1, 11) {
        return Err(Errno::NODEV);
    }
    let mut log = Log::default();
    let mut record = vec![0_u8; LOG_RECORD_BYTES];
    loop {
        match rustix::io::read(&device, &mut record) {
            Ok(0) | Err(Errno::AGAIN) => return Ok(log),
            Ok(n) => {
                log.bytes.extend_from_slice(record.get(..n).unwrap_or_default());
                log.records = log.records.saturating_add(1);
            }
            Err(Errno::INTR) => {}
            // Records were overwritten before they were read: the next read goes on with the oldest.
            Err(Errno::PIPE) => log.lost = log.lost.saturating_add(1),
            Err(e) if log.records == 0 => return Err(e),
            Err(e) => {
                log.cut = Some(format!("reading stopped: {e}"));
                return Ok(log);
            }
        }
        if log.bytes.len() >= LOG_BYTES_MAX || log.lost > 10_000 {
            log.cut = Some(format!("cut after {} bytes and {} overwritten places", log.bytes.len(), log.lost));
            return Ok(log);
        }
    }
}
