//! Identity, clocks and mounts.

use std::collections::BTreeMap;

use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;

use crate::capture::live::{Lossless, SMALL_BYTES_MAX, lines, link, put_read, read, split_at_byte, text, words};
use crate::capture::mounts::Mounts;
use crate::capture::procfs;
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, evidence_path};

#[derive(Serialize)]
struct Clocks {
    /// Nanoseconds of each clock, read one after the other in this order.
    realtime_ns: i64,
    realtime: String,
    monotonic_ns: i64,
    monotonic_raw_ns: i64,
    boottime_ns: i64,
    /// The wall clock once more, after the others: the difference bounds the error of comparing them.
    realtime_after_ns: i64,
    /// When the kernel says that it was booted, seconds since 1970.
    btime_s: Option<u64>,
    /// Real-time clock of the machine, as the kernel shows it.
    rtc: Option<Lossless>,
    timezone_link: Option<Lossless>,
    timezone: Option<Lossless>,
    discipline: Option<Discipline>,
    discipline_problem: Option<String>,
    clocksource: Option<Lossless>,
    /// Files of time services that exist, by path.
    time_services: Vec<&'static str>,
}

/// `adjtimex(2)` in read mode.
#[derive(Serialize)]
struct Discipline {
    state: &'static str,
    synchronised: bool,
    status: i32,
    offset_ns: i64,
    frequency_ppm_65536: i64,
    max_error_us: i64,
    estimated_error_us: i64,
    tick_us: i64,
    tai_offset_s: i32,
}

const TIME_SERVICES: [&str; 8] = [
    "/run/chrony",
    "/var/lib/chrony/drift",
    "/run/ntpd.pid",
    "/var/lib/ntp/ntp.drift",
    "/run/systemd/timesync/synchronized",
    "/var/lib/systemd/timesync/clock",
    "/etc/chrony.conf",
    "/etc/chrony/chrony.conf",
];

fn ns(id: ClockId) -> i64 {
    let t = clock_gettime(id);
    t.tv_sec.saturating_mul(1_000_000_000).saturating_add(t.tv_nsec)
}

/// Reads all clocks close together.
pub fn clocks(out: &mut dyn Output) -> Result<(), Stop> {
    let started = out.now();
    let realtime_ns = ns(ClockId::Realtime);
    let (monotonic_ns, monotonic_raw_ns) = (ns(ClockId::Monotonic), ns(ClockId::MonotonicRaw));
    let boottime_ns = ns(ClockId::Boottime);
    let realtime_after_ns = ns(ClockId::Realtime);
    let discipline = exhibit_agent_sys::clock_state();
    let stat = read("/proc/stat", SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
    let record = Clocks {
        realtime_ns,
        realtime: exhibit_evidence::Timestamp::from_unix_ns(realtime_ns).to_string(),
        monotonic_ns,
        monotonic_raw_ns,
        boottime_ns,
        realtime_after_ns,
        btime_s: lines(&stat).find_map(|l| crate::capture::live::number(l.strip_prefix(b"btime ")?)),
        rtc: text("/proc/driver/rtc").or_else(|| text("/sys/class/rtc/rtc0/since_epoch")),
        timezone_link: link(rustix::fs::CWD, "/etc/localtime").ok().map(Lossless),
        timezone: text("/etc/timezone"),
        discipline_problem: discipline.as_ref().err().map(ToString::to_string),
        discipline: discipline.ok().map(|d| Discipline {
            state: match d.state {
                0 => "ok",
                1 => "leap second to be inserted",
                2 => "leap second to be deleted",
                3 => "leap second in progress",
                4 => "leap second has occurred",
                _ => "not synchronised",
            },
            // STA_UNSYNC; STA_NANO says that the offset is in nanoseconds, else it is in microseconds.
            synchronised: d.status & 0x40 == 0 && d.state != 5,
            status: d.status,
            offset_ns: if d.status & 0x2000 == 0 { d.offset.saturating_mul(1000) } else { d.offset },
            frequency_ppm_65536: d.frequency,
            max_error_us: d.max_error_us,
            estimated_error_us: d.estimated_error_us,
            tick_us: d.tick_us,
            tai_offset_s: d.tai_s,
        }),
        clocksource: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        time_services: TIME_SERVICES.into_iter().filter(|p| std::fs::symlink_metadata(p).is_ok()).collect(),
    };
    super::put_of_proc(out, "clocks.json", &record, started, "clock_gettime+adjtimex")
}

#[derive(Serialize)]
struct Identity {
    hostname: Lossless,
    domain: Lossless,
    kernel_name: Lossless,
    kernel_release: Lossless,
    kernel_version: Lossless,
    machine: Lossless,
    machine_id: Option<Lossless>,
    dbus_machine_id: Option<Lossless>,
    boot_id: Option<Lossless>,
    os: BTreeMap<String, Lossless>,
    /// What the firmware says; serial numbers are for root only.
    dmi: BTreeMap<&'static str, Lossless>,
    device_tree_model: Option<Lossless>,
    virtualization: Vec<Hint>,
    cloud: Vec<Hint>,
    /// Signs that this agent itself runs in a container and may not see the whole host.
    container: Vec<Hint>,
    /// Not known where `/proc/cpuinfo` names none.
    cpus: Option<u64>,
    memory_kib: Option<u64>,
    agent_pid: u32,
}

/// Something that hints at an answer, with the source that said it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Hint {
    pub source: &'static str,
    pub value: Lossless,
}

const DMI: [&str; 15] = [
    "bios_date",
    "bios_vendor",
    "bios_version",
    "board_name",
    "board_serial",
    "board_vendor",
    "board_version",
    "chassis_asset_tag",
    "chassis_serial",
    "chassis_vendor",
    "product_name",
    "product_serial",
    "product_uuid",
    "product_version",
    "sys_vendor",
];

/// Vendors in the firmware's tables that name a cloud or a hypervisor.
const CLOUDS: [(&str, &str); 10] = [
    ("Amazon EC2", "aws"),
    ("Google", "gcp"),
    ("Microsoft Corporation", "azure or hyper-v"),
    ("DigitalOcean", "digitalocean"),
    ("Hetzner", "hetzner"),
    ("Alibaba Cloud", "alibaba"),
    ("OracleCloud.com", "oracle"),
    ("Scaleway", "scaleway"),
    ("Vultr", "vultr"),
    ("Akamai", "akamai"),
];

const CONTAINER_FILES: [&str; 4] =
    ["/.dockerenv", "/run/.containerenv", "/run/systemd/container", "/var/run/secrets/kubernetes.io/serviceaccount/namespace"];

/// Who this host is.
pub fn identity(out: &mut dyn Output) -> Result<(), Stop> {
    let started = out.now();
    let uname = rustix::system::uname();
    let bytes = |c: &std::ffi::CStr| Lossless::from(c.to_bytes());
    let dmi: BTreeMap<&'static str, Lossless> =
        DMI.into_iter().filter_map(|n| Some((n, text(&format!("/sys/class/dmi/id/{n}"))?))).collect();
    let cpuinfo = read("/proc/cpuinfo", 4 << 20).map(|r| r.bytes).unwrap_or_default();
    let meminfo = read("/proc/meminfo", SMALL_BYTES_MAX).map(|r| r.bytes).unwrap_or_default();
    let os = read_following("/etc/os-release").or_else(|| read_following("/usr/lib/os-release")).unwrap_or_default();
    let record = Identity {
        hostname: bytes(uname.nodename()),
        domain: text("/proc/sys/kernel/domainname").unwrap_or_default(),
        kernel_name: bytes(uname.sysname()),
        kernel_release: bytes(uname.release()),
        kernel_version: bytes(uname.version()),
        machine: bytes(uname.machine()),
        machine_id: text("/etc/machine-id"),
        dbus_machine_id: text("/var/lib/dbus/machine-id"),
        boot_id: text("/proc/sys/kernel/random/boot_id"),
        os: assignments(&os),
        virtualization: virtualization(&cpuinfo),
        cloud: cloud(&dmi),
        container: container(),
        dmi,
        device_tree_model: text("/proc/device-tree/model"),
        cpus: Some(lines(&cpuinfo).filter(|l| l.starts_with(b"processor")).count() as u64).filter(|n| *n > 0),
        memory_kib: lines(&meminfo).find_map(|l| words(l.strip_prefix(b"MemTotal:")?).next().and_then(crate::capture::live::number)),
        agent_pid: std::process::id(),
    };
    super::put_of_proc(out, "identity.json", &record, started, "uname+read")
}

fn virtualization(cpuinfo: &[u8]) -> Vec<Hint> {
    let mut hints = Vec::new();
    for (source, value) in [
        ("/sys/hypervisor/type", text("/sys/hypervisor/type")),
        ("/proc/xen/capabilities", text("/proc/xen/capabilities")),
        ("/sys/class/dmi/id/sys_vendor", text("/sys/class/dmi/id/sys_vendor")),
        ("/sys/class/dmi/id/product_name", text("/sys/class/dmi/id/product_name")),
    ] {
        hints.extend(value.map(|value| Hint { source, value }));
    }
    let flag = lines(cpuinfo).find(|l| l.starts_with(b"flags")).is_some_and(|l| words(l).any(|w| w == b"hypervisor"));
    if flag {
        hints.push(Hint { source: "/proc/cpuinfo", value: Lossless::from(&b"hypervisor"[..]) });
    }
    hints
}

fn cloud(dmi: &BTreeMap<&'static str, Lossless>) -> Vec<Hint> {
    let mut hints = Vec::new();
    for (vendor, cloud) in CLOUDS {
        for (source, value) in dmi {
            if value.0.windows(vendor.len()).any(|w| w == vendor.as_bytes()) && !hints.iter().any(|h: &Hint| h.source == *source) {
                hints.push(Hint { source, value: Lossless::from(cloud.as_bytes()) });
            }
        }
    }
    hints.extend(text("/run/cloud-init/cloud-id").map(|value| Hint { source: "/run/cloud-init/cloud-id", value }));
    hints
}

fn container() -> Vec<Hint> {
    let mut hints = Vec::new();
    for path in CONTAINER_FILES {
        if std::fs::symlink_metadata(path).is_ok() {
            hints.push(Hint { source: path, value: text(path).unwrap_or_default() });
        }
    }
    // Not by the path `/proc`: root can mount over it what another process seems to say.
    if let Ok(environ) = procfs::root().and_then(|proc| procfs::read_at(proc, "1/environ", SMALL_BYTES_MAX))
        && let Some(value) = environ.bytes.split(|b| *b == 0).find_map(|v| v.strip_prefix(b"container="))
    {
        hints.push(Hint { source: "/proc/1/environ", value: Lossless::from(value) });
    }
    // The first process of a namespace that is not the host's has a number outside that differs; its own says 1.
    let namespace = |of: &str| procfs::root().and_then(|proc| procfs::link(proc, format!("{of}/ns/pid")));
    if let (Ok(own), Ok(first)) = (namespace("self"), namespace("1"))
        && own != first
    {
        hints.push(Hint { source: "/proc/1/ns/pid", value: Lossless::from(&b"another pid namespace than the agent's"[..]) });
    }
    hints
}

/// `KEY=value` lines, quotes taken off, at most 64.
#[must_use]
pub fn assignments(bytes: &[u8]) -> BTreeMap<String, Lossless> {
    lines(bytes)
        .filter_map(|line| {
            let (key, value) = split_at_byte(line.trim_ascii(), b'=')?;
            let bare =
                value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).or_else(|| value.strip_prefix(b"'")?.strip_suffix(b"'"));
            let named = !key.is_empty() && key.iter().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || *b == b'_');
            named.then(|| (String::from_utf8_lossy(key).into_owned(), Lossless::from(bare.unwrap_or(value))))
        })
        .take(64)
        .collect()
}

/// Reads a file that distributions keep behind a link.
fn read_following(path: &str) -> Option<Vec<u8>> {
    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY | rustix::fs::OFlags::CLOEXEC;
    let file = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).ok()?;
    crate::capture::live::read_fd(file, SMALL_BYTES_MAX).ok().map(|r| r.bytes)
}

/// `/etc/os-release`, which usually is a link: the link and the file.
pub fn os_release(out: &mut dyn Output) -> Result<(), Stop> {
    let started = out.now();
    if let Ok(target) = link(rustix::fs::CWD, "/etc/os-release") {
        let mut item = NewItem::new(evidence_path("/etc/os-release"), Kind::Symlink, started, "readlink");
        item.target = Some(evidence_path(target));
        out.put(item, Content::None)?;
    } else {
        crate::capture::live::take(out, "/etc/os-release", SMALL_BYTES_MAX)?;
    }
    let started = out.now();
    let result = read("/usr/lib/os-release", SMALL_BYTES_MAX);
    put_read(out, evidence_path("/usr/lib/os-release"), &result, started, BTreeMap::new())
}

#[derive(Serialize)]
struct MountRow {
    id: u64,
    parent: u64,
    dev: (u32, u32),
    root: Lossless,
    point: Lossless,
    options: Lossless,
    fs_type: Lossless,
    source: Lossless,
    super_options: Lossless,
    /// `local`, `remote`, `pseudo`, `automount trigger`.
    class: &'static str,
}

/// The mount table in rows; the raw table is an item of its own.
pub fn mounts(out: &mut dyn Output) -> Result<(), Stop> {
    let mut table = super::table(out, "mounts", "read:/proc/self/mountinfo");
    let mounts = match Mounts::read() {
        Ok(mounts) => mounts,
        Err(e) => {
            let (status, reason) = crate::capture::status_of(&e);
            return table.finish(out, Some((status, reason))).map(drop);
        }
    };
    for m in mounts.all() {
        let row = MountRow {
            id: m.id,
            parent: m.parent,
            dev: m.dev,
            root: Lossless::from(m.root.as_slice()),
            point: Lossless::from(m.point.as_slice()),
            options: Lossless::from(m.options.as_slice()),
            fs_type: Lossless::from(m.fs_type.as_slice()),
            source: Lossless::from(m.source.as_slice()),
            super_options: Lossless::from(m.super_options.as_slice()),
            class: m.class.as_str(),
        };
        table.row(out, &row)?;
    }
    let problem = (mounts.bad_lines > 0 || mounts.cut)
        .then(|| (Status::Partial, format!("{} lines not understood{}", mounts.bad_lines, if mounts.cut { ", table cut" } else { "" })));
    table.finish(out, problem).map(drop)
}
