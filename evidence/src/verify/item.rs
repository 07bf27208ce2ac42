//! The rules for one item: by itself, and against the tar member that the parser saw.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::stream::Job;
use super::{Code, Findings};
use crate::manifest::{Gap, Item, Kind, Status};
use crate::stream::reader::{Member, MemberKind};
use crate::text::{escape_bounded, escape_bytes};

/// What the rules write to: the findings about one stream.
pub(super) struct About<'a> {
    pub job: &'a Job,
    pub findings: &'a mut Findings,
}

impl About<'_> {
    fn add(&mut self, item: &Item, code: Code, message: &str) {
        let id = format!("{}.{}.{}", self.job.collection, self.job.stream, item.n);
        let path = escape_bounded(&item.path.to_string(), 300);
        self.findings.add(code, id, format!("item {} ({}, '{path}'): {message}", item.n, escape_bounded(&item.capture, 40)));
    }

    /// Rules that need nothing but the line.
    pub fn check_alone(&mut self, item: &Item) {
        if !self.job.captures.contains(&item.capture) {
            self.add(item, Code::ItemNotOrdered, "its capture is not among those that were ordered");
        }
        if item.status == Status::Collected {
            if !item.gaps.is_empty() {
                self.add(item, Code::ItemStatus, "it is stated as taken whole but has gaps");
            }
        } else if item.reason.as_deref().is_none_or(str::is_empty) {
            self.add(item, Code::ItemStatus, &format!("its status is '{}' and no reason is given", item.status.as_str()));
        }
        if let Some(problem) = gaps_problem(&item.gaps, item.size) {
            self.add(item, Code::ItemGaps, problem);
        }
        if item.path.as_bytes().split(|b| *b == b'/').any(|component| component == b"..") {
            self.add(item, Code::ItemName, "its path holds a '..' component");
        }
        if item.taken.mono_end_ns < item.taken.mono_start_ns {
            let message = format!("it was taken from {} to {} ns after boot", item.taken.mono_start_ns, item.taken.mono_end_ns);
            self.add(item, Code::ItemTimes, &message);
        }
        let attributes = item.meta.as_deref().map_or(0, |meta| meta.xattrs.len());
        if attributes > 0 && !self.job.encrypt_to.is_none() {
            self.add(item, Code::ItemAttributes, &format!("its line states {attributes} extended attributes, and its stream is encrypted"));
        }
        if item.location.is_none() {
            self.check_by_record(item);
        }
    }

    fn check_by_record(&mut self, item: &Item) {
        if item.sha256.is_some() {
            self.add(item, Code::ItemDigest, "it has a SHA-256 but no content in the stream");
        }
        if item.size != 0 {
            self.add(item, Code::ItemSize, &format!("it has no content in the stream but a size of {} bytes", item.size));
        }
        let by_record = matches!(item.kind, Kind::BlockDevice | Kind::CharDevice | Kind::Fifo | Kind::Socket);
        if !by_record && matches!(item.status, Status::Collected | Status::ChangedDuringRead) {
            self.add(item, Code::ItemStatus, &format!("its status is '{}' but nothing of it is in the stream", item.status.as_str()));
        }
    }

    /// Rules between the line and the member at its place.
    pub fn check_member(&mut self, item: &Item, member: &Member) {
        let head = &member.head;
        let stated = item.path.member_name(&item.capture);
        // A directory's member may be written with a slash at its end.
        let plain =
            |name: &[u8]| if head.kind == MemberKind::Directory { name.strip_suffix(b"/").unwrap_or(name).to_vec() } else { name.to_vec() };
        if plain(&head.name) != plain(&stated) {
            self.add(item, Code::ItemName, &format!("the member at its place is '{}'", escape_bounded(&escape_bytes(&head.name), 300)));
        }
        let fits = match head.kind {
            MemberKind::File => matches!(item.kind, Kind::File | Kind::Record),
            MemberKind::Directory => item.kind == Kind::Directory,
            MemberKind::Symlink => item.kind == Kind::Symlink,
            MemberKind::Hardlink => item.kind == Kind::Hardlink,
        };
        if !fits {
            self.add(item, Code::ItemKind, &format!("it is stated as {:?}, the member is a {:?}", item.kind, head.kind));
        }
        let target = item.target.as_ref().map(crate::EvidencePath::as_bytes);
        if target != head.target.as_deref() {
            let shown = |t: Option<&[u8]>| t.map_or_else(|| "none".to_owned(), |t| format!("'{}'", escape_bounded(&escape_bytes(t), 200)));
            let message = format!("its target is stated as {}, the member's is {}", shown(target), shown(head.target.as_deref()));
            self.add(item, Code::ItemKind, &message);
        }
        let length = item.location.map_or(0, |l| l.length);
        if item.size != head.size || length != member.length {
            let message = format!(
                "it is stated with {} bytes in {length} of the stream, the member has {} in {}",
                item.size, head.size, member.length
            );
            self.add(item, Code::ItemSize, &message);
        }
        if item.sha256 != member.sha256 {
            let shown = |d: Option<crate::Digest>| d.map_or_else(|| "none".to_owned(), |d| d.to_string());
            self.add(
                item,
                Code::ItemDigest,
                &format!("its stated SHA-256 is {}, its content's is {}", shown(item.sha256), shown(member.sha256)),
            );
        }
        self.check_meta(item, member);
    }

    fn check_meta(&mut self, item: &Item, member: &Member) {
        let (Some(meta), head) = (item.meta.as_deref(), &member.head) else { return };
        let stated = (meta.mode, meta.uid, meta.gid);
        let found = (head.mode, head.uid, head.gid);
        if stated != found {
            let message = format!("mode, owner and group are stated as {stated:?}, the member has {found:?}");
            self.add(item, Code::ItemMeta, &message);
        }
        // A line that would be too long leaves its attributes out; those that it states must be the member's.
        let encoded = || head.xattrs.iter().map(|(name, value)| (name, STANDARD.encode(value)));
        if !meta.xattrs.is_empty() && !encoded().eq(meta.xattrs.iter().map(|(name, value)| (name, value.clone()))) {
            self.add(item, Code::ItemMeta, "its extended attributes are stated otherwise than the member has them");
        }
        if meta.mtime.is_some() && meta.mtime != head.mtime {
            let shown = |t: Option<crate::time::FileTime>| t.map_or_else(|| "none".to_owned(), |t| t.to_string());
            self.add(
                item,
                Code::ItemMeta,
                &format!("its modification time is stated as {}, the member has {}", shown(meta.mtime), shown(head.mtime)),
            );
        }
    }
}

/// Gaps are sorted, do not touch or overlap, lie inside the content and have reasons.
fn gaps_problem(gaps: &[Gap], size: u64) -> Option<&'static str> {
    let mut end = 0_u64;
    for gap in gaps {
        if gap.length == 0 {
            return Some("a gap is empty");
        }
        if gap.reason.is_empty() {
            return Some("a gap has no reason");
        }
        if gap.offset < end {
            return Some("its gaps overlap or are out of order");
        }
        match gap.offset.checked_add(gap.length) {
            Some(e) if e <= size => end = e,
            _ => return Some("a gap reaches beyond its content"),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_lie_in_order_inside_the_content() {
        let gap = |offset, length| Gap { offset, length, reason: "unreadable".to_owned() };
        assert_eq!(gaps_problem(&[gap(0, 10), gap(10, 5), gap(90, 10)], 100), None);
        for (gaps, what) in [
            (vec![gap(95, 6)], "beyond"),
            (vec![gap(u64::MAX, 2)], "beyond"),
            (vec![gap(0, 10), gap(9, 5)], "overlap"),
            (vec![gap(50, 10), gap(0, 5)], "order"),
            (vec![gap(5, 0)], "empty"),
            (vec![Gap { offset: 0, length: 1, reason: String::new() }], "reason"),
        ] {
            assert!(gaps_problem(&gaps, 100).is_some_and(|p| p.contains(what)), "{what}");
        }
    }
}
