//! Taking one file: limits, private keys, opening without a trace, reading as evidence.
//!
//! A read can wait for as long as the kernel lets it: for a failing disk, for a user-space server that died, for a
//! mandatory lock of an old kernel. Remote and user-space file systems are therefore not entered unless asked for, and
//! everything is opened non-blocking. A read that waits all the same cannot be ended from here: some time after the
//! collection's deadline the coordinator closes the collection as partial with what it has, and the agent leaves the waiting
//! thread behind and takes the next order.

use std::os::fd::{AsFd, BorrowedFd};

use exhibit_evidence::{Digest, Timestamp};

use super::plan::Limits;
use crate::capture::walk::Found;
use crate::capture::walk::inode::{Look, XATTRS_FACT};
use crate::capture::walk::rule::Rule;
use crate::capture::walk::source::FileSource;
use crate::capture::{Content, InodeState, Kind, NewItem, Output, Source as _, Status, Stop, evidence_path, status_of};

/// Private keys are looked for in files up to this size.
const KEY_FILE_BYTES_MAX: u64 = 1 << 20;

/// How a signing key of this project begins (`exhibit_certs`).
const OWN_KEY_PREFIX: &[u8] = b"exhibit-ed25519-seed-v1:";

/// In so many first bytes.
const KEY_HEAD_BYTES: usize = 8 << 10;

/// What a file may still use up.
pub struct Room<'a> {
    /// Bytes that the capture may still take.
    pub left: u64,
    /// The rules that matched, and what each took so far.
    pub rules: Vec<(&'a Rule, u64)>,
    /// The capture's limits.
    pub limits: &'a Limits,
}

impl Room<'_> {
    /// Why so many bytes of data are too many, if they are. A file may come in by any rule that has room for it.
    fn against(&self, bytes: u64) -> Option<String> {
        if bytes > self.limits.max_size {
            return Some(format!("{bytes} bytes of data: more than 'max_size' ({})", self.limits.max_size));
        }
        if bytes > self.left {
            return Some(format!("{bytes} bytes of data: 'max_total' ({}) has only {} left", self.limits.max_total, self.left));
        }
        let against = |(rule, taken): &(&Rule, u64)| match (rule.max_size, rule.max_total) {
            (Some(max), _) if bytes > max => Some(format!("{bytes} bytes of data: more than the rule's max_size ({max})")),
            (_, Some(max)) if taken.saturating_add(bytes) > max => {
                Some(format!("{bytes} bytes of data: the rule's max_total ({max}) has only {} left", max.saturating_sub(*taken)))
            }
            _ => None,
        };
        let mut reasons = self.rules.iter().map(against);
        let first = reasons.next()??;
        if reasons.any(|r| r.is_none()) { None } else { Some(first) }
    }
}

/// What became of a file.
pub struct Taken {
    /// Its status.
    pub status: Status,
    /// Bytes of data that were read.
    pub bytes: u64,
}

/// Fills in what is known about something that is not a regular file: it is never opened for its content.
pub fn describe(found: &Found<'_>, item: &mut NewItem) {
    add_metadata(found.look, found.opened, item);
    if found.look.stat.kind == Kind::Symlink {
        item.method = "readlinkat";
        match found.look.link_target() {
            Ok(target) => item.target = Some(evidence_path(target)),
            Err(e) => {
                let (status, reason) = status_of(&e);
                (item.status, item.reason) = (status, Some(format!("its target cannot be read: {reason}")));
            }
        }
    }
    if let Some(e) = found.unreadable {
        let (status, reason) = status_of(e);
        (item.status, item.reason) = (status, Some(format!("its names cannot be read: {reason}")));
    }
}

/// Adds what the inode says. Attributes that could not be had, or not as they are, leave the item partial.
fn add_metadata(look: &Look, opened: Option<BorrowedFd<'_>>, item: &mut NewItem) {
    item.meta = Some(Box::new(look.metadata(opened, &mut item.facts)));
    if let Some(problem) = item.facts.get(XATTRS_FACT) {
        (item.status, item.reason) = (Status::Partial, Some(format!("extended attributes: {problem}")));
    }
}

/// Takes a regular file, whatever becomes of it. `buffer` is used from one file to the next.
///
/// # Errors
/// [`Stop`] from the output.
pub fn file(found: &Found<'_>, mut item: NewItem, room: &Room<'_>, buffer: &mut Vec<u8>, out: &mut dyn Output) -> Result<Taken, Stop> {
    let look = found.look;
    // A file without holes is judged without opening it.
    let may_have_holes = look.stat.meta.blocks.saturating_mul(512) < look.stat.size;
    if !may_have_holes && let Some(reason) = room.against(look.stat.size) {
        return put_without(look, item, Status::Skipped, reason, out);
    }
    let (opened, atime, before) = match look.open_file(found.folder, found.name) {
        Ok(opened) => opened,
        Err(e) => {
            let (status, reason) = status_of(&e);
            // The inode is there (it was looked at); only its content is not.
            let status = if status == Status::Missing { Status::Vanished } else { status };
            return put_without(look, item, status, reason, out);
        }
    };
    add_metadata(look, Some(opened.as_fd()), &mut item);
    if atime {
        item.facts.insert("atime".into(), "reading may have set it (O_NOATIME was refused)".into());
    }
    // The size when it was opened: a log may have grown since it was looked at.
    let state = before.state();
    let mut source = FileSource::new(opened, before, room.limits.growth).at(found.path);
    let size = source.size();
    let extents = source.extents();
    let data = extents.as_ref().map_or(size, |e| e.iter().fold(0_u64, |sum, e| sum.saturating_add(e.length)));
    if let Some(reason) = room.against(data) {
        return put_record(item, size, Status::Skipped, reason, out);
    }
    if size <= KEY_FILE_BYTES_MAX
        && let Some(reason) = against_key(source.look_at_begin(KEY_HEAD_BYTES, std::mem::take(buffer)), room.limits.private_keys)
    {
        if let Some(sha256) = sha256(&mut source, size) {
            item.facts.insert("sha256".into(), sha256.to_string());
        }
        return put_record(item, size, Status::Skipped, reason.to_owned(), out);
    }
    item.method = "pread";
    if look.stat.meta.nlink > 1 {
        item.inode = Some(state).filter(|state| is_settled(state, item.started.wall));
    }
    let status = out.put(item, Content::Source { size, extents, source: &mut source })?;
    *buffer = source.into_buffer();
    Ok(Taken { status, bytes: data })
}

/// Kernels keep the time of a change in steps of up to 10 ms: a file that changed this lately may change again without
/// showing it.
fn is_settled(state: &InodeState, now: Timestamp) -> bool {
    const STEP_NS: i64 = 20_000_000;
    let changed = state.ctime.map(|t| t.s.saturating_mul(1_000_000_000).saturating_add(i64::from(t.ns)));
    changed.is_some_and(|ns| now.unix_ns().saturating_sub(ns) > STEP_NS)
}

fn put_without(look: &Look, mut item: NewItem, status: Status, reason: String, out: &mut dyn Output) -> Result<Taken, Stop> {
    item.meta = Some(Box::new(look.metadata(None, &mut item.facts)));
    put_record(item, look.stat.size, status, reason, out)
}

fn put_record(mut item: NewItem, size_on_host: u64, status: Status, reason: String, out: &mut dyn Output) -> Result<Taken, Stop> {
    if let Some(meta) = &item.meta
        && meta.nlink == 0
    {
        item.facts.insert("unlinked".into(), "before it was read".into());
    }
    // An item without content has size 0: what the host has is a fact.
    item.facts.insert("size_on_host".into(), size_on_host.to_string());
    let status = out.put(item.with_status(status, reason), Content::None)?;
    Ok(Taken { status, bytes: 0 })
}

/// Why a file is not given because it is a key. The digest of what is left out tells whether it is one that is known.
fn against_key(head: &[u8], private_keys: bool) -> Option<&'static str> {
    if head.starts_with(OWN_KEY_PREFIX) {
        // With it, whoever may read the case could sign as a party of a deployment.
        return Some("a signing key of an Exhibit deployment: never taken");
    }
    (!private_keys && is_private_key(head)).then_some("a private key: not taken unless the order says 'private_keys=true'")
}

fn sha256(source: &mut FileSource, size: u64) -> Option<Digest> {
    let mut content = vec![0_u8; usize::try_from(size).ok()?];
    let mut filled = 0_usize;
    while let Some(room) = content.get_mut(filled..).filter(|room| !room.is_empty()) {
        match source.read_at(filled as u64, room) {
            Ok(0) | Err(_) => return None,
            Ok(count) => filled = filled.saturating_add(count),
        }
    }
    Some(Digest::of(&content))
}

/// True for files that are keys: they begin with PEM or are PuTTY's, and a private key is among what follows. What merely
/// holds one, or a line that looks like the begin of one, is taken.
fn is_private_key(head: &[u8]) -> bool {
    let begin = head.trim_ascii_start();
    if let Some(rest) = begin.strip_prefix(b"PuTTY-User-Key-File-") {
        let numbered = rest.first().is_some_and(u8::is_ascii_digit) && rest.get(1..3) == Some(b": ");
        return numbered && begin.split(|b| *b == b'\n').any(|line| line.starts_with(b"Encryption: "));
    }
    let mut lines = begin.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
    if !begin.starts_with(b"-----BEGIN ") {
        return false;
    }
    let header = |line: &[u8]| line.starts_with(b"-----BEGIN ") && line.ends_with(b"PRIVATE KEY-----");
    lines.by_ref().any(header) && lines.find(|line| !line.is_empty()).is_some_and(is_key_body)
}

/// The first line after a PEM header: base64 (RFC 7468), or a header of an encrypted key (RFC 1421).
fn is_key_body(line: &[u8]) -> bool {
    let base64 = line.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'='));
    base64 || line.starts_with(b"Proc-Type: ") || line.starts_with(b"DEK-Info: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn private_keys_are_known_by_what_they_are() {
        for (head, expected) in [
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nb3Bl", true),
            ("\n-----BEGIN RSA PRIVATE KEY-----\r\nMIIE", true),
            ("-----BEGIN PRIVATE KEY-----\nMIIE\n", true),
            ("-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIE\n", true),
            ("-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n", true),
            ("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n-----BEGIN EC PRIVATE KEY-----\nMHc\n", true),
            ("PuTTY-User-Key-File-3: ssh-ed25519\nEncryption: none\n", true),
            // Scripts that begin like a key.
            ("PuTTY-User-Key-File-=1;echo hidden\n", false),
            ("-----BEGIN PRIVATE KEY-----\nrm -rf /tmp/x; echo hidden\n", false),
            ("-----BEGIN PRIVATE KEY-----\n", false),
            ("-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----\n", false),
            ("ssh-ed25519 AAAA bob@host\n", false),
            ("#!/bin/sh\ncat <<E > k\n-----BEGIN OPENSSH PRIVATE KEY-----\n", false),
            ("", false),
        ] {
            assert_eq!(is_private_key(head.as_bytes()), expected, "{head}");
        }
    }
}
