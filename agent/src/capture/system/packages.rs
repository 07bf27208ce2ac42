//! The installed packages, from the databases of dpkg, apk and pacman; those of rpm are taken raw.

use std::fs::File;
use std::io::{BufRead, BufReader, Read as _};
use std::os::fd::OwnedFd;

use serde::Serialize;

use crate::capture::live::{Lossless, names, open_dir, put_absent, refusal};
use crate::capture::{Content, Kind, NewItem, Output, Source, Status, Stop, Table, evidence_path};

/// One package.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Package {
    pub manager: &'static str,
    pub name: Lossless,
    pub version: Lossless,
    pub architecture: Lossless,
    /// dpkg's three words (`install ok installed`); other managers list only what is installed.
    #[serde(skip_serializing_if = "is_empty")]
    pub status: Lossless,
    /// The database file that says so.
    pub source: String,
}

fn is_empty(text: &Lossless) -> bool {
    text.0.is_empty()
}

/// Lines longer than this are cut: no field that is read here is longer.
const LINE_BYTES_MAX: u64 = 64 << 10;
/// A database of a million packages.
const DATABASE_BYTES_MAX: u64 = 1 << 30;
const ENTRIES_MAX: usize = 65_536;

/// Where rpm keeps its database, by age.
const RPM: [&str; 6] = [
    "/usr/lib/sysimage/rpm/rpmdb.sqlite",
    "/usr/lib/sysimage/rpm/Packages.db",
    "/var/lib/rpm/rpmdb.sqlite",
    "/var/lib/rpm/Packages.db",
    "/var/lib/rpm/Packages",
    "/usr/share/rpm/rpmdb.sqlite",
];

/// Lists the packages of every manager found.
pub fn list(out: &mut dyn Output) -> Result<(), Stop> {
    let mut table = super::table(out, "packages", "read:package-database");
    let (mut problems, mut managers) = (Vec::new(), 0_u32);
    let filled = fill(out, &mut table, &mut problems, &mut managers);
    let problem = match (&filled, managers, problems.is_empty()) {
        (Err(stop), ..) => {
            problems.push(format!("not all packages were listed: {stop}"));
            Some((Status::Partial, problems.join("; ")))
        }
        (Ok(false), 0, _) => Some((Status::Missing, "no package database of dpkg, apk, pacman or rpm was found".to_owned())),
        (Ok(true), ..) => {
            problems.push("packages of rpm are not listed here: its database is taken raw".to_owned());
            Some((Status::Partial, problems.join("; ")))
        }
        (Ok(false), _, false) => Some((Status::Partial, problems.join("; "))),
        (Ok(false), _, true) => None,
    };
    let put = table.finish(out, problem).map(drop);
    filled.map(drop).and(put)
}

/// Fills the table; true when there is a database of rpm.
fn fill(out: &mut dyn Output, table: &mut Table, problems: &mut Vec<String>, managers: &mut u32) -> Result<bool, Stop> {
    let mut database = |out: &mut dyn Output, table: &mut Table, path: &str, manager: &'static str, grammar: &Grammar| {
        let file = match open_regular(path) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(()),
            Err(problem) => {
                problems.push(problem);
                return Ok(());
            }
        };
        *managers = managers.saturating_add(1);
        stanzas(file, manager, path, grammar, &mut |p| table.row(out, &p)).map(|problem| problems.extend(problem))
    };
    database(out, table, "/var/lib/dpkg/status", "dpkg", &DPKG)?;
    // Distroless images keep one file a package.
    if let Ok((entries, _)) = open_dir(rustix::fs::CWD, "/var/lib/dpkg/status.d").and_then(|d| names(d, ENTRIES_MAX)) {
        for name in entries.iter().filter(|n| !n.ends_with(b".md5sums")) {
            // A name that is not UTF-8 is no package's: opening its lossy form fails and the problem is said.
            let name = String::from_utf8_lossy(name);
            database(out, table, &format!("/var/lib/dpkg/status.d/{name}"), "dpkg", &DPKG)?;
        }
    }
    for path in ["/lib/apk/db/installed", "/usr/lib/apk/db/installed"] {
        database(out, table, path, "apk", &APK)?;
    }
    if let Ok((entries, _)) = open_dir(rustix::fs::CWD, "/var/lib/pacman/local").and_then(|d| names(d, ENTRIES_MAX)) {
        *managers = managers.saturating_add(1);
        for package in entries.iter().filter_map(|n| pacman(n)) {
            table.row(out, &package)?;
        }
    }
    let mut rpm = false;
    for path in RPM {
        rpm |= raw(out, path)?;
    }
    Ok(rpm)
}

/// `None` when there is no such file.
fn open_regular(path: &str) -> Result<Option<File>, String> {
    let fd: OwnedFd = match crate::capture::live::open_at(rustix::fs::CWD, path) {
        Ok(fd) => fd,
        Err(rustix::io::Errno::NOENT) if !path.contains('\u{fffd}') => return Ok(None),
        Err(e) => return Err(format!("{path}: {e}")),
    };
    let file = File::from(fd);
    if file.metadata().is_ok_and(|m| m.is_file()) { Ok(Some(file)) } else { Err(format!("{path}: not a regular file")) }
}

/// The fields of a database of stanzas: each key as it stands at the beginning of a line, with its separator.
pub struct Grammar {
    name: &'static [u8],
    version: &'static [u8],
    architecture: &'static [u8],
    status: &'static [u8],
}

/// `/var/lib/dpkg/status`.
pub const DPKG: Grammar = Grammar { name: b"Package:", version: b"Version:", architecture: b"Architecture:", status: b"Status:" };
/// `/lib/apk/db/installed`: one letter each.
pub const APK: Grammar = Grammar { name: b"P:", version: b"V:", architecture: b"A:", status: b"\0" };

/// Reads stanzas line by line, in flat memory. Returns what went wrong, if anything.
pub fn stanzas(
    file: impl std::io::Read,
    manager: &'static str,
    source: &str,
    grammar: &Grammar,
    each: &mut dyn FnMut(Package) -> Result<(), Stop>,
) -> Result<Option<String>, Stop> {
    let mut reader = BufReader::with_capacity(64 << 10, file.take(DATABASE_BYTES_MAX));
    let mut line = Vec::new();
    let mut package: Option<Package> = None;
    loop {
        line.clear();
        match (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
            Ok(0) => break,
            Ok(_) => {}
            Err(e) => {
                if let Some(done) = package.take() {
                    each(done)?;
                }
                return Ok(Some(format!("{source}: {e}")));
            }
        }
        let text = line.trim_ascii_end();
        if text.is_empty() {
            if let Some(done) = package.take() {
                each(done)?;
            }
            continue;
        }
        let value = |key: &[u8]| text.strip_prefix(key).map(|v| Lossless::from(v.trim_ascii()));
        if let Some(name) = value(grammar.name) {
            // A name begins a stanza even if the empty line before it is missing.
            if let Some(done) = package.replace(Package { manager, name, source: source.to_owned(), ..Package::default() }) {
                each(done)?;
            }
        } else if let Some(package) = &mut package {
            if let Some(v) = value(grammar.version) {
                package.version = v;
            } else if let Some(v) = value(grammar.architecture) {
                package.architecture = v;
            } else if let Some(v) = value(grammar.status) {
                package.status = v;
            }
        }
    }
    package.take().map_or(Ok(()), each)?;
    Ok(None)
}

/// `<name>-<version>-<release>` of a folder in pacman's database.
fn pacman(folder: &[u8]) -> Option<Package> {
    let at = folder.iter().enumerate().rev().filter(|(_, b)| **b == b'-').nth(1)?.0;
    let (name, version) = (folder.get(..at)?, folder.get(at.checked_add(1)?..)?);
    Some(Package {
        manager: "pacman",
        name: Lossless::from(name),
        version: Lossless::from(version),
        source: "/var/lib/pacman/local".to_owned(),
        ..Package::default()
    })
}

struct Raw(File);

impl Source for Raw {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> std::io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(&self.0, buf, offset)
    }
}

/// Takes a database as it is; says whether it exists.
fn raw(out: &mut dyn Output, path: &str) -> Result<bool, Stop> {
    let started = out.now();
    let file = match crate::capture::live::open_at(rustix::fs::CWD, path) {
        Ok(fd) => File::from(fd),
        Err(rustix::io::Errno::NOENT) => return Ok(false),
        Err(e) => {
            let (status, reason) = refusal(e);
            return put_absent(out, evidence_path(path), status, reason, started, "open").map(|()| true);
        }
    };
    let Some(size) = file.metadata().ok().filter(std::fs::Metadata::is_file).map(|m| m.len()) else { return Ok(false) };
    let item = NewItem::new(evidence_path(path), Kind::File, started, "read");
    if size > DATABASE_BYTES_MAX {
        let item = item.with_status(Status::Skipped, format!("{size} bytes: above the bound of {DATABASE_BYTES_MAX} bytes"));
        return out.put(item, Content::None).map(|_| true);
    }
    out.put(item, Content::Source { size, extents: None, source: &mut Raw(file) }).map(|_| true)
}
