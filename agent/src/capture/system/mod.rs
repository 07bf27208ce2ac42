//! The `system` capture: who this host is, its clocks, kernel, mounts, parameters, logins and packages.

mod facts;
mod kernel;
mod packages;
mod sysctl;
#[cfg(test)]
mod tests;
mod utmp;

use super::live::{LARGE_BYTES_MAX, SMALL_BYTES_MAX, names, open_dir, put_absent, refusal, take};
use super::{Capture, Kind, Moment, NewItem, Output, Params, Status, Stop, Table, evidence_path};

/// The capture; see the module.
#[derive(Debug, Default, Clone, Copy)]
pub struct System;

impl System {
    /// For the registry.
    #[must_use]
    pub fn boxed() -> Box<dyn Capture> {
        Box::new(Self)
    }
}

/// Raw files below `/proc` and `/sys` that are one item each. Most volatile first.
const RAW: &[&str] = &[
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/vmstat",
    "/proc/interrupts",
    "/proc/softirqs",
    "/proc/schedstat",
    "/proc/pressure/cpu",
    "/proc/pressure/io",
    "/proc/pressure/memory",
    "/proc/diskstats",
    "/proc/buddyinfo",
    "/proc/zoneinfo",
    "/proc/slabinfo",
    "/proc/vmallocinfo",
    "/proc/locks",
    "/proc/keys",
    "/proc/key-users",
    "/proc/modules",
    "/proc/self/mountinfo",
    "/proc/mdstat",
    "/proc/swaps",
    "/proc/partitions",
    "/proc/filesystems",
    "/proc/devices",
    "/proc/misc",
    "/proc/fb",
    "/proc/consoles",
    "/proc/tty/drivers",
    "/proc/timer_list",
    "/proc/crypto",
    "/proc/cgroups",
    "/proc/cmdline",
    "/proc/bootconfig",
    "/proc/version",
    "/proc/version_signature",
    "/proc/cpuinfo",
    "/proc/iomem",
    "/proc/ioports",
    "/proc/dma",
    "/proc/execdomains",
    "/proc/sysvipc/msg",
    "/proc/sysvipc/sem",
    "/proc/sysvipc/shm",
    "/sys/kernel/tracing/kprobe_events",
    "/sys/kernel/tracing/uprobe_events",
    "/sys/kernel/tracing/enabled_functions",
    "/sys/kernel/security/lsm",
    "/sys/kernel/security/lockdown",
    "/sys/kernel/security/ima/ascii_runtime_measurements",
    "/sys/kernel/security/apparmor/profiles",
    "/sys/fs/selinux/enforce",
    "/sys/devices/system/clocksource/clocksource0/current_clocksource",
    "/sys/kernel/kexec_loaded",
    "/sys/power/state",
];

/// Small files of the host that say who it is.
const FILES: &[&str] = &["/etc/machine-id", "/etc/hostname", "/etc/timezone", "/etc/adjtime", "/etc/passwd", "/etc/group"];

/// Folders of `/run` whose files are states of logins and virtual machines, taken raw.
const FOLDERS: &[&str] =
    &["/run/systemd/sessions", "/run/systemd/users", "/run/systemd/seats", "/run/systemd/machines", "/run/systemd/inhibit"];
const FOLDER_FILES_MAX: usize = 10_000;

impl Capture for System {
    fn name(&self) -> &'static str {
        "system"
    }

    fn run(&self, params: &Params, out: &mut dyn Output) -> Result<(), Stop> {
        let (sysctl, packages) = (params.flag("sysctl", true)?, params.flag("packages", true)?);
        // The clocks first: everything else is dated by them.
        facts::clocks(out)?;
        facts::identity(out)?;
        utmp::logins(out)?;
        for folder in FOLDERS {
            folder_files(out, folder)?;
        }
        out.note("kernel state");
        for path in RAW {
            raw(out, path)?;
        }
        kernel::record(out)?;
        kernel::modules(out)?;
        kernel::log(out)?;
        facts::mounts(out)?;
        for path in FILES {
            take(out, path, SMALL_BYTES_MAX)?;
        }
        facts::os_release(out)?;
        left_out(out, sysctl, "sysctl", "sysctl.jsonl", sysctl::walk)?;
        left_out(out, packages, "packages", "packages.jsonl", packages::list)?;
        // Its items say so, and they are many.
        super::procfs::not_whole().map_or(Ok(()), |why| Err(Stop::Nothing(why)))
    }
}

/// Takes one of [`RAW`]. What is the agent's own is read where processes are read: what lies over `/proc` does not take its place.
fn raw(out: &mut dyn Output, path: &str) -> Result<(), Stop> {
    let Some(own) = path.strip_prefix("/proc/").filter(|rest| rest.starts_with("self/")) else {
        return take(out, path, LARGE_BYTES_MAX).map(drop);
    };
    let started = out.now();
    let result = super::procfs::root().and_then(|root| super::procfs::read_at(root, own, LARGE_BYTES_MAX));
    super::live::put_read(out, evidence_path(path), &result, started, std::collections::BTreeMap::new())
}

/// Runs a part, or says that the order left it out.
fn left_out(
    out: &mut dyn Output,
    wanted: bool,
    param: &str,
    record: &str,
    part: impl FnOnce(&mut dyn Output) -> Result<(), Stop>,
) -> Result<(), Stop> {
    if wanted {
        out.note(param);
        return part(out);
    }
    let item = NewItem::record(record, out.now(), "none").with_status(Status::Skipped, format!("{param}=false in the order"));
    out.put(item, super::Content::None).map(drop)
}

/// Every regular file of a folder, raw.
fn folder_files(out: &mut dyn Output, folder: &str) -> Result<(), Stop> {
    let started = out.now();
    let listed = open_dir(rustix::fs::CWD, folder).and_then(|d| Ok((names(&d, FOLDER_FILES_MAX)?, d)));
    let ((entries, more), dir) = match listed {
        Ok(listed) => listed,
        Err(e) => {
            let (status, reason) = refusal(e);
            return put_absent(out, evidence_path(folder), status, reason, started, "readdir");
        }
    };
    for name in entries {
        let begun = out.now();
        let mut path = format!("{folder}/").into_bytes();
        path.extend_from_slice(&name);
        let stat = rustix::fs::statat(&dir, name.as_slice(), rustix::fs::AtFlags::SYMLINK_NOFOLLOW);
        match stat.map(|s| s.st_mode & 0o170_000) {
            Ok(0o100_000) => {
                let result = super::live::read_at(&dir, name.as_slice(), SMALL_BYTES_MAX);
                super::live::put_read(out, evidence_path(&path), &result, begun, std::collections::BTreeMap::new())?;
            }
            // systemd keeps a fifo beside each session: by record.
            Ok(kind) => {
                let kind = match kind {
                    0o010_000 => Kind::Fifo,
                    0o140_000 => Kind::Socket,
                    _ => Kind::Unknown,
                };
                let item = NewItem::new(evidence_path(&path), kind, begun, "stat").with_status(Status::Skipped, "not a regular file");
                out.put(item, super::Content::None)?;
            }
            Err(e) => {
                let (status, reason) = refusal(e);
                put_absent(out, evidence_path(&path), status, reason, begun, "stat")?;
            }
        }
    }
    if more {
        put_absent(out, evidence_path(folder), Status::Partial, format!("more than {FOLDER_FILES_MAX} entries"), started, "readdir")?;
    }
    Ok(())
}

/// Puts a record of one JSON value, much of which comes from `/proc`.
fn put_of_proc(out: &mut dyn Output, name: &str, value: &impl serde::Serialize, started: Moment, method: &'static str) -> Result<(), Stop> {
    let mut bytes = serde_json::to_vec(value).map_err(|e| Stop::Fatal(format!("making the record {name}: {e}")))?;
    bytes.push(b'\n');
    let mut item = NewItem::record(name, started, method);
    if let Some(why) = super::procfs::not_whole() {
        item = item.with_status(Status::Partial, why);
    }
    out.put(item, super::Content::Bytes(&bytes)).map(drop)
}

/// A table of one record that the parts share.
fn table(out: &dyn Output, stem: &str, method: &'static str) -> Table {
    Table::new(stem, out.now(), method)
}
