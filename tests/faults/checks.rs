//! What must be true after every run, whatever happened in it: read from the bytes of the store.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use exhibit_evidence::Digest;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{self, StreamNumber};
use exhibit_evidence::manifest::{Kind, Line, Status};
use exhibit_evidence::record::Outcome;
use exhibit_evidence::verify::{CaseFiles, Code, Entry, EntryKind, Options, Verdict, verify};

use crate::heard;
use crate::world::World;

/// How long a record may lie beyond the checkpoint while nothing fails.
const COVERED_WITHIN: Duration = Duration::from_secs(10);

struct Folder(PathBuf);

fn walk(dir: &Path, each: &mut dyn FnMut(&Path, u64)) -> io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() { walk(&entry.path(), each)? } else { each(&entry.path(), entry.metadata()?.len()) }
    }
    Ok(())
}

impl CaseFiles for Folder {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        walk(&self.0, &mut |path, size| {
            let name = path.strip_prefix(&self.0).expect("below").to_string_lossy().into_owned();
            each(Entry { name: name.as_bytes(), size, kind: EntryKind::File });
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        Ok(Box::new(std::fs::File::open(self.0.join(name))?))
    }
}

/// What the run stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct Stored {
    /// Streams.
    pub streams: u32,
    /// Bytes of segments and manifests.
    pub bytes: u64,
}

/// Checks a collection that must be sealed whole. Blocks; the errors say what is wrong.
pub fn check(world: &World, collection: &CollectionId) -> Result<Stored, String> {
    let outcome = sound(world, collection)?;
    if outcome != Some(Outcome::Sealed) {
        return Err(format!("it ended as {outcome:?}"));
    }
    promises(world, collection)?;
    contents(world, collection)
}

/// The verifier finds nothing, and the collection has one end: which.
#[allow(clippy::disallowed_methods, reason = "it waits for another task, which no event tells of")]
pub fn sound(world: &World, collection: &CollectionId) -> Result<Option<Outcome>, String> {
    let folder = Folder(world.store_dir().join(layout::case_folder(world.case())));
    let options = Options { complete: true, ..Options::default() };
    let read = || verify(&folder, world.anchor(), &options, &mut |_| {}).map_err(|e| e.to_string());
    let mut report = read()?;
    // The coordinator lives: an incident may be a record and not yet below a checkpoint. It gets there, or it is a finding.
    let until = Instant::now() + COVERED_WITHIN;
    while report.findings.kept().iter().any(|f| f.code == Code::LogSlotBeyond) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(100));
        report = read()?;
    }
    if report.verdict != Verdict::Sound {
        return Err(format!("the verifier finds: {:#?}", report.findings));
    }
    let ends: Vec<_> = report.collections.iter().filter(|c| c.id == *collection).map(|c| c.outcome).collect();
    if let [one] = ends[..] { Ok(one) } else { Err(format!("the collection has {} ends", ends.len())) }
}

/// Every acknowledgement that the agent heard was true.
pub fn promises(world: &World, collection: &CollectionId) -> Result<(), String> {
    let root = world.store_dir();
    let heard = heard::take(collection.as_str());
    if heard.sent.is_empty() {
        return Err("the agent sent nothing".to_owned());
    }
    if !heard.altered.is_empty() {
        return Err(format!("sent again with other content: {:?}", heard.altered));
    }
    for (stream, last) in &heard.acknowledged {
        for n in 0..=*last {
            let Some(sent) = heard.sent.get(&(*stream, n)) else {
                return Err(format!("segment {n} of stream {stream} was acknowledged and never sent"));
            };
            let name = layout::segment(world.case(), collection, StreamNumber(*stream as u32), n as u32);
            let bytes = std::fs::read(root.join(&name)).map_err(|e| format!("acknowledged and lost: {name}: {e}"))?;
            if Digest::of(&bytes).to_string() != *sent {
                return Err(format!("acknowledged and altered: {name}"));
            }
        }
    }
    Ok(())
}

/// The newest stream holds every file of the source with the source's digest.
fn contents(world: &World, collection: &CollectionId) -> Result<Stored, String> {
    let first = layout::stream_folder(world.case(), collection, StreamNumber(1));
    let streams = world.store_dir().join(first);
    contents_of(streams.parent().expect("above"), world.template.source.path(), &world.template.facts)
}

/// Path below the source to size and digest.
pub type Facts = BTreeMap<Vec<u8>, (u64, String)>;

/// In a collection's folder of the store the newest stream holds every file of the source, as the facts say.
pub fn contents_of(streams: &Path, source: &Path, facts: &Facts) -> Result<Stored, String> {
    let mut stored = Stored::default();
    let mut newest = Vec::new();
    // An attempt of which nothing arrived has no folder.
    for stream in 1..=9 {
        let folder = streams.join(StreamNumber(stream).to_string());
        if !folder.is_dir() {
            continue;
        }
        walk(&folder, &mut |_, size| stored.bytes += size).map_err(|e| e.to_string())?;
        let manifest = folder.join("manifest.jsonl");
        newest = std::fs::read(&manifest).map_err(|e| format!("{}: {e}", manifest.display()))?;
        stored.streams += 1;
    }
    let mut wanted = facts.clone();
    let below = format!("{}/", source.display());
    for line in newest.split_inclusive(|b| *b == b'\n') {
        let Line::Item(item) = Line::parse(line)? else { continue };
        let Some(name) = item.path.as_bytes().strip_prefix(below.as_bytes()) else { continue };
        if let Some((size, sha256)) = wanted.remove(name) {
            if item.kind == Kind::Hardlink {
                continue;
            }
            let is = (item.status, item.size, item.sha256.map(|d| d.to_string()));
            if is != (Status::Collected, size, Some(sha256)) {
                return Err(format!("the item {} is not the file: {is:?}", String::from_utf8_lossy(name)));
            }
        }
    }
    match wanted.into_keys().next() {
        Some(name) => Err(format!("no item for {} in stream {}", String::from_utf8_lossy(&name), stored.streams)),
        None => Ok(stored),
    }
}
