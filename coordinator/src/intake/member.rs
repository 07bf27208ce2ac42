//! One item line against the rules and against the tar member that it describes. The rules are those of the offline
//! verifier (`exhibit_evidence::verify`): what is accepted here must be found sound there.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::digest::{Digest, Hasher};
use exhibit_evidence::manifest::{Gap, Item, Kind, Location, METHOD_ADOPTED, Status, Taken};
use exhibit_evidence::stream::reader::{Member, MemberKind};
use exhibit_evidence::text::{escape_bounded, escape_bytes};
use exhibit_evidence::time::FileTime;
use exhibit_evidence::{EvidencePath, Timestamp};

use super::check::{BadUpload, bad};

/// Longest reason and method text.
const TEXT_BYTES_MAX: usize = 4_096;

/// What is remembered of a member until its item line is seen: of fixed size, whatever the tar holds.
#[derive(Debug, Clone)]
pub(super) struct MemberFacts {
    name: Digest,
    target: Option<Digest>,
    kind: MemberKind,
    size: u64,
    sha256: Option<Digest>,
    owner: (u32, u32, u32),
    mtime: Option<FileTime>,
    xattrs: Option<Digest>,
    /// Its place in the raw stream.
    pub(super) location: Location,
}

impl MemberFacts {
    pub(super) fn of(member: &Member) -> Self {
        let head = &member.head;
        Self {
            name: Digest::of(&head.name),
            target: head.target.as_deref().map(Digest::of),
            kind: head.kind,
            size: head.size,
            sha256: member.sha256,
            owner: (head.mode, head.uid, head.gid),
            mtime: head.mtime,
            xattrs: digest_of_xattrs(head.xattrs.iter().map(|(name, value)| (name.as_str(), STANDARD.encode(value)))),
            location: member.location(),
        }
    }
}

/// One digest for all attributes, values in base64: of fixed size, and no two lists have the same text. None for none.
fn digest_of_xattrs<'a, V: AsRef<str>>(xattrs: impl Iterator<Item = (&'a str, V)>) -> Option<Digest> {
    let mut xattrs = xattrs.peekable();
    xattrs.peek()?;
    let mut hasher = Hasher::new();
    for (name, value) in xattrs {
        for part in [name, value.as_ref()] {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
        }
    }
    Some(hasher.finish())
}

/// What a line must hold by itself, member or not.
pub(super) fn check_line(item: &Item, captures: &BTreeSet<String>) -> Result<(), BadUpload> {
    let n = item.n;
    if !captures.contains(&item.capture) {
        return bad("item.capture", format!("item {n}: '{}' was not ordered", escape_bounded(&item.capture, 80)));
    }
    if escapes_its_folder(item.path.as_bytes()) {
        return bad("item.path", format!("item {n}: '{}' holds a '..' component", escape_bounded(&item.path.to_string(), 200)));
    }
    for (field, text) in [("item.reason", item.reason.as_deref().unwrap_or_default()), ("item.method", item.method.as_str())] {
        if text.len() > TEXT_BYTES_MAX {
            return bad(field, format!("item {n}: {} bytes, at most {TEXT_BYTES_MAX} are allowed", text.len()));
        }
    }
    if item.status == Status::Collected && !item.gaps.is_empty() {
        return bad("item.gaps", format!("item {n}: status 'collected' with gaps"));
    }
    // Nothing is left out in silence: whatever was not simply taken says why.
    if item.status != Status::Collected && item.reason.as_deref().is_none_or(|r| r.trim().is_empty()) {
        return bad("item.reason", format!("item {n}: status '{}' without a reason", item.status.as_str()));
    }
    check_gaps(item)?;
    if item.taken.mono_end_ns < item.taken.mono_start_ns {
        return bad(
            "item.taken",
            format!("item {n}: ends {} ns after boot, before its start at {}", item.taken.mono_end_ns, item.taken.mono_start_ns),
        );
    }
    if item.location.is_none() { check_by_record(item) } else { Ok(()) }
}

fn check_by_record(item: &Item) -> Result<(), BadUpload> {
    let n = item.n;
    if item.sha256.is_some() || item.size != 0 {
        return bad("item.location", format!("item {n}: {} bytes or a digest are given, but no tar member holds the content", item.size));
    }
    let device = matches!(item.kind, Kind::BlockDevice | Kind::CharDevice | Kind::Fifo | Kind::Socket);
    if !device && matches!(item.status, Status::Collected | Status::ChangedDuringRead) {
        return bad("item.status", format!("item {n}: '{}', but nothing of it is in the stream", item.status.as_str()));
    }
    Ok(())
}

fn check_gaps(item: &Item) -> Result<(), BadUpload> {
    let mut end = 0_u64;
    for Gap { offset, length, reason } in &item.gaps {
        let after = offset.checked_add(*length).filter(|e| *length > 0 && *offset >= end && *e <= item.size && !reason.is_empty());
        let Some(after) = after else {
            return bad(
                "item.gaps",
                format!(
                    "item {}: [{offset}, {length}]: gaps are sorted, not empty, apart, inside the {} bytes and have a reason",
                    item.n, item.size
                ),
            );
        };
        end = after;
    }
    Ok(())
}

/// The line of a member whose agent's own line is lost: what the tar says, and that this is all that is known.
pub(super) fn adopted(n: u64, member: &Member, at: Timestamp) -> Result<Item, BadUpload> {
    let head = &member.head;
    let shown = || escape_bounded(&escape_bytes(&head.name), 200);
    let Some(slash) = head.name.iter().position(|b| *b == b'/') else {
        return bad("segment_data", format!("member '{}' is in no capture's folder", shown()));
    };
    let (capture, rest) = head.name.split_at(slash);
    // The member of a root directory is the capture's folder itself.
    let rest = rest.get(1..).filter(|r| !r.is_empty()).unwrap_or(b"/");
    let path = EvidencePath::new(rest);
    let (Some(path), Ok(capture)) = (path, std::str::from_utf8(capture)) else {
        return bad("segment_data", format!("member '{}' has no path", shown()));
    };
    let kind = match head.kind {
        MemberKind::File => Kind::File,
        MemberKind::Directory => Kind::Directory,
        MemberKind::Symlink => Kind::Symlink,
        MemberKind::Hardlink => Kind::Hardlink,
    };
    let reason = "the agent's own line about this item was lost when the coordinator stopped; the content is whole, what the tar does not say is not known";
    Ok(Item {
        n,
        capture: capture.to_owned(),
        path,
        kind,
        status: Status::Partial,
        reason: Some(reason.to_owned()),
        size: head.size,
        sha256: member.sha256,
        location: Some(member.location()),
        target: head.target.clone().and_then(EvidencePath::new),
        meta: None,
        gaps: Vec::new(),
        taken: Taken { start: at, end: at, mono_start_ns: 0, mono_end_ns: 0 },
        method: METHOD_ADOPTED.to_owned(),
        facts: BTreeMap::from([
            ("path".to_owned(), "as in the tar; whether it began with a slash is not known".to_owned()),
            ("taken".to_owned(), "before the time given, which is the coordinator's when it took the item over".to_owned()),
        ]),
    })
}

/// Compares a line with the member that ended at its place in the order.
pub(super) fn compare(item: &Item, said: Location, computed: &MemberFacts) -> Result<(), BadUpload> {
    let n = item.n;
    if said != computed.location {
        let c = computed.location;
        return bad(
            "item.location",
            format!("item {n}: the agent says [{}, {}], the coordinator computed [{}, {}]", said.offset, said.length, c.offset, c.length),
        );
    }
    let expected = item.path.member_name(&item.capture);
    if Digest::of(&expected) != computed.name {
        return bad(
            "item.path",
            format!("item {n}: its member should be named '{}', the tar says otherwise", escape_bounded(&escape_bytes(&expected), 200)),
        );
    }
    let wanted = match item.kind {
        Kind::File | Kind::Record => MemberKind::File,
        Kind::Directory => MemberKind::Directory,
        Kind::Symlink => MemberKind::Symlink,
        Kind::Hardlink => MemberKind::Hardlink,
        _ => return bad("item.kind", format!("item {n}: {:?} items have no tar member", item.kind)),
    };
    if wanted != computed.kind {
        return bad("item.kind", format!("item {n}: the line says {wanted:?}, the tar {:?}", computed.kind));
    }
    if item.target.as_ref().map(|t| Digest::of(t.as_bytes())) != computed.target {
        return bad("item.target", format!("item {n}: the line and the tar name different targets"));
    }
    if item.size != computed.size {
        return bad("item.size", format!("item {n}: the agent says {}, the coordinator computed {}", item.size, computed.size));
    }
    if item.sha256 != computed.sha256 {
        let shown = |d: Option<Digest>| d.map_or_else(|| "none".to_owned(), |d| d.to_string());
        return bad(
            "item.sha256",
            format!("item {n}: the agent says {}, the coordinator computed {}", shown(item.sha256), shown(computed.sha256)),
        );
    }
    let Some(meta) = item.meta.as_deref() else { return Ok(()) };
    if (meta.mode, meta.uid, meta.gid) != computed.owner {
        return bad(
            "item.meta",
            format!("item {n}: mode, owner and group are {:?}, the tar says {:?}", (meta.mode, meta.uid, meta.gid), computed.owner),
        );
    }
    if meta.mtime.is_some() && meta.mtime != computed.mtime {
        return bad("item.meta", format!("item {n}: the line and the tar give different modification times"));
    }
    // A line that would be too long leaves its attributes out; those that it states must be the member's.
    let said = || digest_of_xattrs(meta.xattrs.iter().map(|(name, value)| (name.as_str(), value)));
    if !meta.xattrs.is_empty() && said() != computed.xattrs {
        return bad("item.meta", format!("item {n}: the line and the tar give different extended attributes"));
    }
    Ok(())
}

/// A `..` component would lead out of the folder into which somebody extracts the tar.
fn escapes_its_folder(path: &[u8]) -> bool {
    path.split(|b| *b == b'/').any(|component| component == b"..")
}
