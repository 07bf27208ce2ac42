//! Every readable kernel parameter below `/proc/sys`, one row each.

use rustix::fs::{AtFlags, ResolveFlags, StatxFlags, openat2, statx};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use serde::Serialize;

use crate::capture::live::{Lossless, names, open_dir, read_fd, refusal};
use crate::capture::procfs;
use crate::capture::{Output, Status, Stop, Table};

/// One parameter.
#[derive(Serialize)]
struct Parameter {
    path: Lossless,
    value: Option<Lossless>,
    mode: Option<String>,
    status: Status,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

/// Parameters whose reading does something: draws randomness, folds counters.
const SIDE_EFFECTS: [&str; 2] = ["kernel/random/uuid", "vm/stat_refresh"];
const OTHER_FILE_SYSTEM: &str = "another file system, not entered: that could mount it";
/// Rows: a host with a thousand interfaces has about 100,000 parameters.
const ROWS_MAX: u64 = 262_144;
const DEPTH_MAX: usize = 16;
const NAMES_MAX: usize = 65_536;
/// A value is at most a few pages.
const VALUE_BYTES_MAX: usize = 64 << 10;

/// Walks `/proc/sys`. Other file systems mounted in it (binfmt_misc is one, often behind an automount trigger) are not
/// entered: entering would mount them.
pub fn walk(out: &mut dyn Output) -> Result<(), Stop> {
    let mut table = super::table(out, "sysctl", "read:/proc/sys");
    let root = match open_dir(rustix::fs::CWD, "/proc/sys") {
        Ok(root) => root,
        Err(e) => {
            let (status, reason) = refusal(e);
            let said = procfs::not_whole().map_or_else(|| reason.clone(), |doubt| format!("{reason}; {doubt}"));
            return table.finish(out, Some((status, said))).map(drop);
        }
    };
    let walked = parameters(out, &root, &mut table);
    let (cut, ended) = match walked {
        Ok(cut) => (cut, Ok(())),
        Err(stop) => (Some(format!("not all parameters were read: {stop}")), Err(stop)),
    };
    let problems: Vec<String> = cut.into_iter().chain(procfs::not_whole()).collect();
    let put = table.finish(out, (!problems.is_empty()).then(|| (Status::Partial, problems.join("; ")))).map(drop);
    ended.and(put)
}

/// Fills the table. Returns why it is cut, if it is.
fn parameters(out: &mut dyn Output, root: &rustix::fd::OwnedFd, table: &mut Table) -> Result<Option<String>, Stop> {
    let mut problem = None;
    let own = statx(root, "", AtFlags::EMPTY_PATH, StatxFlags::BASIC_STATS).map(|s| (s.stx_dev_major, s.stx_dev_minor));
    let mut folders: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(folder) = folders.pop() {
        out.checkpoint()?;
        let listed = open_below(root, &folder, OFlags::DIRECTORY).and_then(|d| names(d, NAMES_MAX));
        let entries = match listed {
            Ok((entries, _)) => entries,
            Err(e) => {
                let reason = match e {
                    Errno::XDEV => (Status::Skipped, OTHER_FILE_SYSTEM.to_owned()),
                    e => refusal(e),
                };
                table.row(out, &absent(&folder, reason))?;
                continue;
            }
        };
        let mut below = Vec::new();
        for name in entries {
            if table.rows() >= ROWS_MAX {
                problem = Some(format!("cut after {ROWS_MAX} parameters"));
                break;
            }
            let mut path = folder.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            match statx(root, path.as_slice(), AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::BASIC_STATS) {
                Ok(s) if s.stx_mode & 0o170_000 == 0o040_000 && own == Ok((s.stx_dev_major, s.stx_dev_minor)) => below.push(path),
                Ok(s) if s.stx_mode & 0o170_000 == 0o040_000 => {
                    table.row(out, &absent(&path, (Status::Skipped, OTHER_FILE_SYSTEM.to_owned())))?;
                }
                Ok(s) => table.row(out, &parameter(root, &path, u32::from(s.stx_mode)))?,
                Err(e) => table.row(out, &absent(&path, refusal(e)))?,
            }
        }
        // Nearest first, in order.
        if folder.split(|b| *b == b'/').count() <= DEPTH_MAX {
            folders.extend(below.into_iter().rev());
        }
    }
    Ok(problem)
}

fn open_below(root: &rustix::fd::OwnedFd, path: &[u8], extra: OFlags) -> Result<rustix::fd::OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC | extra;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    match openat2(root, path, flags, Mode::empty(), resolve) {
        // Before Linux 5.6, or where a sandbox knows openat only: the walk was by lstat, so only a race could mislead.
        Err(Errno::NOSYS | Errno::PERM) => rustix::fs::openat(root, path, flags | OFlags::NOFOLLOW, Mode::empty()),
        other => other,
    }
}

fn absent(path: &[u8], (status, reason): (Status, String)) -> Parameter {
    Parameter { path: Lossless::from(path), value: None, mode: None, status, reason: Some(reason) }
}

fn parameter(root: &rustix::fd::OwnedFd, path: &[u8], mode: u32) -> Parameter {
    let shown = Some(format!("{:04o}", mode & 0o7777));
    if mode & 0o444 == 0 {
        return Parameter { mode: shown, ..absent(path, (Status::Skipped, "write-only".to_owned())) };
    }
    if SIDE_EFFECTS.iter().any(|s| s.as_bytes() == path) {
        return Parameter { mode: shown, ..absent(path, (Status::Skipped, "reading it changes something".to_owned())) };
    }
    match open_below(root, path, OFlags::empty()).and_then(|f| read_fd(f, VALUE_BYTES_MAX)) {
        Ok(read) => {
            let status = if read.cut.is_some() { Status::Partial } else { Status::Collected };
            let value = Some(Lossless::from(read.bytes.strip_suffix(b"\n").unwrap_or(&read.bytes)));
            Parameter { path: Lossless::from(path), value, mode: shown, status, reason: read.cut }
        }
        Err(e) => Parameter { mode: shown, ..absent(path, refusal(e)) },
    }
}
