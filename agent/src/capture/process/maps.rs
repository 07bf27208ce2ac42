//! The summary of a process's mappings: which files, which of them deleted, and which memory is writable and executable.

use std::collections::BTreeMap;

use serde::Serialize;

use super::parse::{Mapping, mapping};
use crate::capture::live::{Lossless, lines};

/// Most files and most suspicious regions listed per process; the raw `maps` item holds all of them.
const LISTED_MAX: usize = 2048;

/// Bytes of their names: whoever owns the process chooses them.
const NAMES_BYTES_MAX: usize = 1 << 20;

/// A file that is mapped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MappedFile {
    /// As the kernel prints it, without the mark ` (deleted)`; a newline in a name shows as `\012`.
    pub path: Lossless,
    pub dev: [u32; 2],
    pub ino: u64,
    pub deleted: bool,
    pub memfd: bool,
    /// Whether any of its mappings may be executed.
    pub executable: bool,
    pub regions: u64,
    pub bytes: u64,
    /// For deleted files: the first region's name in `/proc/<pid>/map_files`, through which the content can be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub map_file: Option<String>,
    /// The path of the item that holds its content, where it was taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub item: Option<String>,
}

/// Memory that is not backed by a file and may be executed, or that is both writable and executable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Region {
    pub start: String,
    pub bytes: u64,
    pub perms: Lossless,
    pub name: Lossless,
}

/// The summary.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Summary {
    pub regions: u64,
    pub files: Vec<MappedFile>,
    pub files_left_out: u64,
    pub executable_anonymous: Vec<Region>,
    pub executable_anonymous_left_out: u64,
    /// Lines that could not be understood (none on any known kernel); they are in the raw item.
    pub lines_not_understood: u64,
}

/// Summarises `/proc/<pid>/maps`.
#[must_use]
pub fn summarise(bytes: &[u8]) -> Summary {
    let mut summary = Summary::default();
    let mut names_bytes = 0_usize;
    let mut index: BTreeMap<(u32, u32, u64, Vec<u8>), usize> = BTreeMap::new();
    for line in lines(bytes) {
        let Some(m) = mapping(line) else {
            summary.lines_not_understood = summary.lines_not_understood.saturating_add(1);
            continue;
        };
        summary.regions = summary.regions.saturating_add(1);
        suspicious(&mut summary, &m);
        if !m.is_file() || m.path.is_empty() {
            continue;
        }
        let bytes = m.end.saturating_sub(m.start);
        let executable = m.perms.contains(&b'x');
        let [major, minor] = m.dev;
        let key = (major, minor, m.ino, m.path.to_vec());
        if let Some(file) = index.get(&key).and_then(|i| summary.files.get_mut(*i)) {
            file.regions = file.regions.saturating_add(1);
            file.bytes = file.bytes.saturating_add(bytes);
            file.executable |= executable;
        } else if summary.files.len() < LISTED_MAX && names_bytes.saturating_add(m.path.len()) <= NAMES_BYTES_MAX {
            names_bytes = names_bytes.saturating_add(m.path.len());
            let stripped = m.path.strip_suffix(b" (deleted)");
            index.insert(key, summary.files.len());
            summary.files.push(MappedFile {
                path: Lossless::from(stripped.unwrap_or(m.path)),
                dev: m.dev,
                ino: m.ino,
                deleted: stripped.is_some(),
                memfd: m.path.starts_with(b"/memfd:"),
                executable,
                regions: 1,
                bytes,
                map_file: stripped.map(|_| format!("{:x}-{:x}", m.start, m.end)),
                item: None,
            });
        } else {
            summary.files_left_out = summary.files_left_out.saturating_add(1);
        }
    }
    summary
}

fn suspicious(summary: &mut Summary, m: &Mapping<'_>) {
    let executable = m.perms.contains(&b'x');
    let kernels_own = matches!(m.path, b"[vdso]" | b"[vsyscall]" | b"[uprobes]" | b"[sigpage]" | b"[vectors]");
    if !executable || kernels_own || (m.is_file() && !m.perms.contains(&b'w')) {
        return;
    }
    if summary.executable_anonymous.len() >= LISTED_MAX {
        summary.executable_anonymous_left_out = summary.executable_anonymous_left_out.saturating_add(1);
        return;
    }
    summary.executable_anonymous.push(Region {
        start: format!("{:x}", m.start),
        bytes: m.end.saturating_sub(m.start),
        perms: Lossless::from(m.perms),
        name: Lossless::from(m.path),
    });
}
