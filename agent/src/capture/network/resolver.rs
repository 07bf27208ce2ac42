//! The configuration of name resolution, raw. `/etc` may lie on the file system of a server: it is waited for only so long.

use std::collections::BTreeMap;

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;

use super::patient::Patient;
use crate::capture::live::{self, Read, SMALL_BYTES_MAX, put_absent, put_read, read};
use crate::capture::{Content, Kind, NewItem, Output, Status, Stop, evidence_path};

const FILES: [&str; 6] =
    ["/etc/hosts", "/etc/nsswitch.conf", "/etc/resolv.conf", "/run/systemd/resolve/resolv.conf", "/etc/host.conf", "/etc/gai.conf"];

/// Takes all of it.
///
/// # Errors
/// [`Stop`] from the output.
pub fn take(out: &mut dyn Output) -> Result<(), Stop> {
    let mut patient = Patient::default();
    for path in FILES {
        file(out, &mut patient, path)?;
    }
    Ok(())
}

/// What there is of a file of the resolver.
struct Resolver {
    /// Where its link leads, if it is one.
    target: Option<Vec<u8>>,
    read: Result<Read, Errno>,
    /// Where it is at last.
    resolved: Vec<u8>,
}

impl Resolver {
    fn read(path: &str) -> Self {
        let Ok(target) = live::link(CWD, path) else {
            return Self { target: None, read: read(path, SMALL_BYTES_MAX), resolved: path.as_bytes().to_vec() };
        };
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let read = open(path, flags, Mode::empty()).and_then(|f| live::read_fd(f, SMALL_BYTES_MAX));
        let resolved = std::fs::canonicalize(path).map_or_else(|_| target.clone(), |p| p.into_os_string().into_encoded_bytes());
        Self { target: Some(target), read, resolved }
    }
}

/// `/etc/resolv.conf` is often a link: the link and what it points to are both evidence.
fn file(out: &mut dyn Output, patient: &mut Patient, path: &'static str) -> Result<(), Stop> {
    let started = out.now();
    let found = match patient.ask(move || Resolver::read(path)) {
        Ok(found) => found,
        Err(why) => return put_absent(out, evidence_path(path), Status::Error, format!("not read: {why}"), started, "read"),
    };
    let Some(target) = found.target else {
        return put_read(out, evidence_path(path), &found.read, started, BTreeMap::new());
    };
    let mut item = NewItem::new(evidence_path(path), Kind::Symlink, started, "readlink");
    item.target = Some(evidence_path(&target));
    out.put(item, Content::None)?;
    if FILES.iter().any(|f| f.as_bytes() == found.resolved) {
        return Ok(());
    }
    let facts = BTreeMap::from([("reached_through".to_owned(), path.to_owned())]);
    put_read(out, evidence_path(&found.resolved), &found.read, started, facts)
}
