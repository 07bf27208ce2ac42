//! Which objects the case folder holds, and which of them somebody signed for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::chain::Chain;
use super::{CaseFiles, Code, EntryKind, Findings, Severity};
use crate::custody::Fate;
use crate::id::CollectionId;
use crate::layout::{CaseObject, StreamNumber, TimestampFile};
use crate::log::Tile;
use crate::text::escape_bytes;

/// The list of objects. Segments and slots are kept as numbers; what is used by a check is taken out of the list, and
/// what remains at the end is unaccounted for.
#[derive(Debug, Default)]
pub(super) struct Inventory {
    /// `log/checkpoint` exists.
    pub checkpoint: bool,
    /// Record slots and their sizes.
    pub slots: BTreeMap<u64, u64>,
    /// Tiles over the records.
    pub tiles: BTreeSet<Tile>,
    /// Heads that witnesses vouch for: key id and size.
    pub cosigned: BTreeSet<(String, u64)>,
    /// What lies in `timestamps/`.
    pub timestamps: BTreeSet<(u64, TimestampFile)>,
    /// Streams.
    streams: BTreeMap<(CollectionId, StreamNumber), StreamObjects>,
    /// Objects in all.
    pub objects: u64,
    /// Bytes of all objects that will be read.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct StreamObjects {
    manifest: Option<u64>,
    segments: BTreeMap<u32, u64>,
}

impl Inventory {
    /// Lists the case; what cannot belong to it becomes a finding at once.
    pub fn read(files: &dyn CaseFiles, findings: &mut Findings) -> io::Result<Self> {
        let mut out = Self::default();
        files.list(&mut |entry| {
            let shown = escape_bytes(entry.name);
            let name = std::str::from_utf8(entry.name).ok();
            if let EntryKind::Folder { empty } = entry.kind {
                return folder(name, &shown, empty, findings);
            }
            out.objects = out.objects.saturating_add(1);
            if entry.kind != EntryKind::File {
                findings.add(Code::ObjectNotAFile, &shown, format!("'{shown}' is not a plain file; it was not followed"));
                return;
            }
            let Some(object) = name.and_then(CaseObject::parse) else {
                findings.add(Code::ObjectUnknown, &shown, format!("'{shown}' ({} bytes) has no name of the case format", entry.size));
                return;
            };
            if !matches!(object, CaseObject::Tile(_) | CaseObject::Cosigned(..) | CaseObject::Timestamp(..)) {
                out.bytes = out.bytes.saturating_add(entry.size);
            }
            match object {
                CaseObject::Tile(tile) => {
                    out.tiles.insert(tile);
                }
                CaseObject::Cosigned(witness, size) => {
                    out.cosigned.insert((witness, size));
                }
                CaseObject::Timestamp(size, file) => {
                    out.timestamps.insert((size, file));
                }
                CaseObject::Checkpoint => out.checkpoint = true,
                CaseObject::Slot(n) => {
                    out.slots.insert(n, entry.size);
                }
                CaseObject::Segment(collection, stream, n) => {
                    out.streams.entry((collection, stream)).or_default().segments.insert(n, entry.size);
                }
                CaseObject::Manifest(collection, stream) => {
                    out.streams.entry((collection, stream)).or_default().manifest = Some(entry.size);
                }
            }
        })?;
        Ok(out)
    }

    /// Takes a stream's manifest out of the list.
    pub fn take_manifest(&mut self, collection: &CollectionId, stream: StreamNumber) -> Option<u64> {
        self.streams.get_mut(&(collection.clone(), stream))?.manifest.take()
    }

    /// Takes a segment out of the list.
    pub fn take_segment(&mut self, collection: &CollectionId, stream: StreamNumber, n: u32) -> Option<u64> {
        self.streams.get_mut(&(collection.clone(), stream))?.segments.remove(&n)
    }

    /// Reports what no check has used. Objects of a collection that is still open are only noted.
    pub fn account(self, chain: &Chain, complete: bool, findings: &mut Findings) {
        for ((collection, stream), objects) in self.streams {
            let fate = chain.fate(&collection);
            if matches!(fate, Fate::Condemned { .. }) {
                // Some may be gone and some be left; that it is not finished is said already.
                continue;
            }
            let open = chain.is_open(&collection) && !chain.has_receipt(&collection, stream);
            let names = objects
                .manifest
                .map(|size| (CaseObject::Manifest(collection.clone(), stream), size))
                .into_iter()
                .chain(objects.segments.iter().map(|(n, size)| (CaseObject::Segment(collection.clone(), stream, *n), *size)));
            if open {
                let (count, bytes) = names.fold((0_u64, 0_u64), |(n, sum), (_, size)| (n.saturating_add(1), sum.saturating_add(size)));
                if count > 0 {
                    let severity = if complete { Severity::Warning } else { Severity::Note };
                    let folder = format!("collections/{collection}/{stream}");
                    let message =
                        format!("collection {collection} is open; stream {stream} has {count} objects ({bytes} bytes) without a receipt");
                    findings.add_as(Code::StreamUnsealed, severity, folder, message);
                }
                continue;
            }
            for (name, size) in names {
                let name = name.to_string();
                if let Fate::Destroyed { certificate, .. } = fate {
                    let message = format!("'{name}' ({size} bytes) is there, although record {certificate} certifies its destruction");
                    findings.add(Code::DisposalRemains, &name, message);
                    continue;
                }
                findings.add(
                    Code::ObjectUnaccounted,
                    &name,
                    format!("'{name}' ({size} bytes) is named by no signed record and no manifest"),
                );
            }
        }
    }
}

/// A folder is no evidence, but nothing may be in a case that nobody accounts for.
fn folder(name: Option<&str>, shown: &str, empty: bool, findings: &mut Findings) {
    if name.and_then(CaseObject::parse).is_some() {
        findings.add(Code::ObjectNotAFile, shown, format!("'{shown}' is a folder where a file belongs"));
    } else if !name.is_some_and(CaseObject::is_folder) {
        findings.add(Code::ObjectUnknown, shown, format!("the folder '{shown}' has no name of the case format"));
    } else if empty {
        // What an upload that broke off before its first segment leaves behind.
        findings.add_as(Code::ObjectUnknown, Severity::Note, shown, format!("the folder '{shown}' is empty"));
    }
}
