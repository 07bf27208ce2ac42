//! What is on a disk before its bytes come: tables, marks, raw copies of its first and last sectors. Small, so it is taken
//! first: should the disk die or the collection end in the middle of the content, this is there.

use std::io;

use serde::Serialize;

use super::signature::{self, Signature};
use super::table::{Partition, Sectors, Tables};
use super::usage::Usage;
use crate::capture::live::put_json;
use crate::capture::{Content, NewItem, Output, Source, Status, Stop};

/// Bytes that are copied from the beginning and from the end: boot code, tables and what boot loaders keep between table and
/// first partition; at the end the backup of the GPT and old formats of md.
const EDGE_BYTES: u64 = 1 << 20;
/// Partitions whose marks are looked for.
const PROBED_MAX: usize = 128;

/// The record `layout.json`.
#[derive(Serialize)]
struct Layout<'a> {
    path: &'a exhibit_evidence::EvidencePath,
    size: u64,
    /// Of a device: what the kernel says; the sector of an image is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    geometry: Option<&'a super::drive::Geometry>,
    usage: &'a Usage,
    consistency: String,
    tables: &'a Tables,
    /// Marks at the start of the whole.
    signatures: Vec<Signature>,
    /// Marks at the start of each partition.
    partitions: Vec<Marked<'a>>,
}

#[derive(Serialize)]
struct Marked<'a> {
    #[serde(flatten)]
    partition: &'a Partition,
    signatures: Vec<Signature>,
}

/// A source that is read here and there.
struct Through<'a> {
    source: &'a mut dyn Source,
    size: u64,
}

impl Sectors for Through<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0_usize;
        while let Some(room) = buf.get_mut(filled..).filter(|r| !r.is_empty()) {
            match self.source.read_at(offset.saturating_add(filled as u64), room) {
                Ok(0) => break,
                Ok(got) => filled = filled.saturating_add(got),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(filled)
    }
}

/// A part of a source, from a byte on, as a source of its own.
struct Part<'a> {
    source: &'a mut dyn Source,
    from: u64,
}

impl Source for Part<'_> {
    fn read_at(&mut self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read_at(self.from.saturating_add(offset), buf)
    }

    fn unit_end(&self, offset: u64) -> u64 {
        self.source.unit_end(self.from.saturating_add(offset)).saturating_sub(self.from)
    }

    fn gone(&self) -> Option<&str> {
        self.source.gone()
    }
}

/// What is described.
pub struct Subject<'a> {
    /// Its real path.
    pub path: &'a exhibit_evidence::EvidencePath,
    /// First part of the names of its records.
    pub label: &'a str,
    /// Bytes.
    pub size: u64,
    /// Of a device.
    pub geometry: Option<&'a super::drive::Geometry>,
    /// What uses it.
    pub usage: &'a Usage,
}

/// Puts the records of one disk.
///
/// # Errors
/// [`Stop`] from the output.
pub fn put(subject: &Subject<'_>, source: &mut dyn Source, out: &mut dyn Output) -> Result<Found, Stop> {
    let started = out.now();
    let mut disk = Through { source, size: subject.size };
    let mut tables = Tables::read(&mut disk, subject.geometry.map(|g| g.logical_sector));
    let mut problems = Vec::new();
    let mut probe = |offset: u64, length: u64| {
        signature::probe(&mut disk, offset, length).unwrap_or_else(|problem| {
            problems.push(problem);
            Vec::new()
        })
    };
    let whole = probe(0, subject.size);
    let partitions: Vec<Partition> = tables.partitions().into_iter().cloned().collect();
    let marked = partitions.iter().take(PROBED_MAX).map(|partition| {
        let inside = partition.offset < subject.size;
        Marked { partition, signatures: if inside { probe(partition.offset, partition.length) } else { Vec::new() } }
    });
    let marked: Vec<Marked<'_>> = marked.collect();
    tables.problems.append(&mut problems);
    let layout = Layout {
        path: subject.path,
        size: subject.size,
        geometry: subject.geometry,
        usage: subject.usage,
        consistency: subject.usage.consistency(),
        tables: &tables,
        signatures: whole,
        partitions: marked,
    };
    put_json(out, &format!("{}/layout.json", subject.label), &layout, started, "pread")?;
    edges(subject, &mut disk, out)?;
    let at_start = layout.signatures.iter().map(|s| (s.what, None));
    let in_parts = layout.partitions.iter().flat_map(|p| p.signatures.iter().map(|s| (s.what, Some(p.partition.number))));
    Ok(Found { marks: at_start.chain(in_parts).collect() })
}

/// What was found on a disk, for those who go on with it.
pub struct Found {
    /// Marks, and the number of the partition at whose start each stands.
    marks: Vec<(&'static str, Option<u32>)>,
}

impl Found {
    /// Where encrypted containers begin, in words, if there are any.
    #[must_use]
    pub fn sealed(&self) -> Option<String> {
        let mut places: Vec<String> = Vec::new();
        for (what, part) in self.marks.iter().filter(|(what, _)| SEALED.contains(what)) {
            let place = part.map_or_else(|| format!("{what} at its start"), |n| format!("{what} in partition {n}"));
            if !places.contains(&place) {
                places.push(place);
            }
        }
        let more = places.len().saturating_sub(SEALED_SHOWN_MAX);
        places.truncate(SEALED_SHOWN_MAX);
        let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
        (!places.is_empty()).then(|| format!("{}{rest}", places.join(", ")))
    }
}

/// Marks of containers whose content needs a key.
const SEALED: &[&str] = &["crypto_LUKS", "BitLocker"];
/// Most of them that stand in the fact.
const SEALED_SHOWN_MAX: usize = 8;

/// Raw copies of the first and the last sectors.
fn edges(subject: &Subject<'_>, disk: &mut Through<'_>, out: &mut dyn Output) -> Result<(), Stop> {
    let length = subject.size.min(EDGE_BYTES);
    let last = subject.size.saturating_sub(length);
    for (name, offset) in [("first-sectors.bin", 0), ("last-sectors.bin", last)] {
        let item = NewItem::record(&format!("{}/{name}", subject.label), out.now(), "pread").with_fact("offset", offset.to_string());
        let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
        // The quick way, which also may use what is kept of the order's limit for records.
        match disk.read(offset, &mut bytes) {
            Ok(got) => {
                bytes.truncate(got);
                out.put(item, Content::Bytes(&bytes))?;
            }
            // Something in it fails: it costs itself, as in the content.
            Err(_) if disk.source.gone().is_none() => {
                let mut part = Part { source: &mut *disk.source, from: offset };
                out.put(item, Content::Source { size: length, extents: None, source: &mut part })?;
            }
            Err(e) => {
                let item = item.with_status(Status::Error, format!("{e}; the content says which sectors cannot be read"));
                out.put(item, Content::None)?;
            }
        }
    }
    Ok(())
}
