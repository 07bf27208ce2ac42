//! What a restored file is not: what could not be read of it, what changed meanwhile, and which item says where. A file on a disk has no
//! room to say so itself; zeros that nobody read look like zeros that were there.

use std::fmt::Write as _;

use exhibit_evidence::Digest;
use exhibit_evidence::manifest::{Item, Status};
use exhibit_evidence::text::{escape_bounded, escape_bytes};
use serde_json::{Value, json};

use crate::convert::Unread;
use crate::units::show_bytes;

/// What of an item's content is not what the host had.
#[derive(Debug, PartialEq, Eq)]
pub struct Shortfall {
    status: Status,
    reason: Option<String>,
    size: u64,
    unread: Unread,
    /// Memory of the host that its kernel did not show, and that is therefore not in an image.
    not_exposed: u64,
    /// The item of the same capture that says where.
    map: Option<String>,
}

impl Shortfall {
    /// Of an item that is restored.
    pub fn of(item: &Item) -> Self {
        let not_exposed = item.facts.get("not_exposed_bytes").and_then(|n| n.parse().ok()).unwrap_or(0);
        let (reason, unread) = (item.reason.as_deref().map(|r| escape_bounded(r, 300)), Unread::of(item));
        Self { status: item.status, reason, size: item.size, unread, not_exposed, map: map_of(item) }
    }

    /// True when there is nothing to say.
    pub const fn is_none(&self) -> bool {
        matches!(self.status, Status::Collected) && self.unread.bytes == 0 && self.not_exposed == 0
    }

    /// The fields of a line for scripts; they are there of whole items too.
    pub fn into_fields(self, line: &mut Value) {
        let Self { status, reason, unread, not_exposed, map, .. } = self;
        let fields = json!({
            "status": status, "reason": reason, "unread_bytes": unread.bytes, "unread_at_most": unread.at_most,
            "not_exposed_bytes": not_exposed, "map": map,
        });
        if let (Value::Object(line), Value::Object(mut fields)) = (line, fields) {
            line.append(&mut fields);
        }
    }

    /// One line for people.
    pub fn line(&self, path: &str) -> String {
        let mut text = format!("{path} is '{}'", self.status.as_str());
        if let Some(reason) = &self.reason {
            let _ = write!(text, ": {reason}");
        }
        if self.unread.bytes > 0 {
            let _ = write!(text, "; {} of its {} could not be read and are zeros", self.unread, show_bytes(self.size));
        }
        if self.not_exposed > 0 {
            let _ = write!(text, "; {} of the host's memory were not shown by its kernel and are not in it", show_bytes(self.not_exposed));
        }
        if let Some(map) = &self.map {
            // A long one has several parts.
            let _ = write!(text, "; where: --path '{}*.jsonl'", map.strip_suffix(".jsonl").unwrap_or(map));
        }
        text
    }
}

/// The item that says where the gaps of another are, by the names that captures give (`docs/operations/captures.md`).
fn map_of(item: &Item) -> Option<String> {
    let path = item.path.as_bytes();
    let core = || path.strip_prefix(b"/proc/")?.strip_suffix(b"/core").filter(|pid| pid.iter().all(u8::is_ascii_digit));
    match (item.capture.as_str(), path) {
        ("memory", b"memory.lime") => Some("map.jsonl".to_owned()),
        ("memory", b"priority.lime") => Some("priority-map.jsonl".to_owned()),
        ("memory", b"added.lime") => Some("added-map.jsonl".to_owned()),
        ("memory" | "process-memory", _) => core().map(|pid| format!("{}/map.jsonl", escape_bytes(pid))),
        // The list is there when a sector failed, which this fact says.
        ("disk", _) if !item.gaps.is_empty() && item.facts.contains_key("bad_sectors") => {
            Some(format!("{}/bad-sectors.jsonl", disk_name(path)))
        }
        _ => None,
    }
}

/// The folder of what the capture `disk` says of a disk: its name in `/dev`, or 16 digits of the digest of its path.
fn disk_name(path: &[u8]) -> String {
    let is_plain =
        |name: &&[u8]| !name.is_empty() && name.len() <= 64 && name.iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if let Some(name) = path.strip_prefix(b"/dev/").filter(is_plain) {
        return escape_bytes(name);
    }
    let digest = Digest::of(path).to_string();
    format!("at.{}", digest.get(..16).unwrap_or(&digest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(capture: &str, path: &str, status: Status, gaps: &[(u64, u64, &str)]) -> Item {
        let gaps: Vec<Value> = gaps.iter().map(|(at, n, why)| json!({"offset": at, "length": n, "reason": why})).collect();
        let when = "2026-01-02T03:04:05.000000000Z";
        let mut item = json!({
            "n": 0, "capture": capture, "path": path, "kind": "record", "status": status, "size": 11_u64 << 30,
            "taken": {"start": when, "end": when, "mono_start_ns": 0, "mono_end_ns": 0}, "method": "read", "gaps": gaps,
        });
        if status != Status::Collected {
            item["reason"] = json!("1 range could not be \u{1b}[31mread");
        }
        serde_json::from_value(item).expect("an item")
    }

    #[test]
    fn what_was_not_read_is_said_with_the_map() {
        let part = Shortfall::of(&item("memory", "memory.lime", Status::Partial, &[(4_096, 128 << 20, "EIO")]));
        let line = part.line("memory.lime");
        for said in
            ["'partial'", "128.0 MiB of its 11.0 GiB could not be read and are zeros", "--path 'map*.jsonl'", "1 range could not be"]
        {
            assert!(line.contains(said), "{said}: {line}");
        }
        assert!(!line.contains('\u{1b}') && !line.contains('\n') && !part.is_none());
        let mut fields = json!({"item": "x"});
        part.into_fields(&mut fields);
        assert_eq!((&fields["item"], &fields["status"], &fields["unread_bytes"]), (&json!("x"), &json!("partial"), &json!(128 << 20)));
        assert_eq!((&fields["unread_at_most"], &fields["map"]), (&json!(false), &json!("map.jsonl")));
        assert!(fields["reason"].as_str().is_some_and(|r| r.starts_with("1 range")));
        // What changed has no gaps, and what is whole has nothing to say, but all fields.
        let changed = Shortfall::of(&item("files", "/var/log/x", Status::ChangedDuringRead, &[]));
        assert!(!changed.is_none() && changed.line("/var/log/x").contains("'changed-during-read'") && !changed.line("x").contains("zeros"));
        let whole = Shortfall::of(&item("files", "/etc/passwd", Status::Collected, &[]));
        assert!(whole.is_none());
        whole.into_fields(&mut fields);
        assert_eq!((&fields["status"], &fields["reason"], &fields["unread_bytes"]), (&json!("collected"), &Value::Null, &json!(0)));
    }

    #[test]
    fn what_the_kernel_did_not_show_is_missing_although_all_was_read() {
        let mut whole = item("memory", "memory.lime", Status::Collected, &[]);
        whole.facts.insert("not_exposed_bytes".to_owned(), (2_u64 << 20).to_string());
        let found = Shortfall::of(&whole);
        assert!(!found.is_none() && found.line("memory.lime").contains("2.0 MiB of the host's memory"), "{found:?}");
    }

    #[test]
    fn more_gaps_than_a_line_holds_are_a_bound() {
        let rest = "1024 or more unreadable ranges: those from here on are in 'bad-sectors.jsonl'";
        let mut disk = item("disk", "/dev/sdb", Status::Partial, &[(0, 512, "EIO"), (1 << 30, 10 << 30, rest)]);
        disk.facts.insert("bad_sectors".to_owned(), "1048576 bytes in 2048 ranges could not be read".to_owned());
        let found = Shortfall::of(&disk);
        assert!(found.unread.at_most && found.line("x").contains("up to 10.0 GiB of its"), "{}", found.line("x"));
        assert_eq!(found.map.as_deref(), Some("sdb/bad-sectors.jsonl"));
        disk.path = exhibit_evidence::path::EvidencePath::new("/srv/disk.img").expect("path");
        assert!(Shortfall::of(&disk).map.is_some_and(|m| m.starts_with("at.") && m.len() == 19 + "/bad-sectors.jsonl".len()));
        disk.facts.clear();
        assert_eq!(Shortfall::of(&disk).map, None);
        let core = item("process-memory", "/proc/17/core", Status::Partial, &[]);
        assert_eq!(Shortfall::of(&core).map.as_deref(), Some("17/map.jsonl"));
        assert_eq!(Shortfall::of(&item("process-memory", "/proc/../core", Status::Partial, &[])).map, None);
    }
}
