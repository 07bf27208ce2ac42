//! The items of the bag one by one, in flat memory: a list for review programs (Concordance DAT, Opticon OPT) and, when
//! asked for, the content as plain files. Files are named by exhibit number, never by what a host called them: such names can
//! be hostile, too long, or equal on other systems. The list says which was which.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Read as _, Write as _};
use std::path::PathBuf;

use exhibit_evidence::age::{self, Identity};
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::CaseObject;
use exhibit_evidence::manifest::{Item, Kind, LINE_BYTES_MAX, Line};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::stream::reader::{Member, MemberHead, MemberKind, Parser, Sink};
use exhibit_evidence::stream::segment::SegmentDecoder;
use exhibit_evidence::text::escape;

use super::facts::Facts;
use super::place::{Place, cannot};
use super::words::host;
use crate::commands::get::kind_name;
use crate::exit::{Code, Failure, Result};
use crate::restore::{Extras, Metadata, Restoring, Target};

/// The list.
const DAT: &str = "load-file/exhibits.dat";
/// Where each file of the list lies.
const OPT: &str = "load-file/exhibits.opt";
/// The folder of the files.
const EXPANDED: &str = "expanded";

const COLUMNS: [&str; 15] = [
    "BEGDOC",
    "ENDDOC",
    "EXHIBIT",
    "CUSTODIAN",
    "FILENAME",
    "FILEPATH",
    "CAPTURE",
    "KIND",
    "STATUS",
    "FILESIZE",
    "DATECOLLECTED",
    "SHA256",
    "NATIVELINK",
    "TEXTLINK",
    "ITEMID",
];

fn damaged(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Damaged, format!("the evidence cannot be listed: {what}")).hint("verify the case with exhibit-verify")
}

/// A stream of the bag.
struct Stream<'a> {
    place: &'a Place,
    collection: &'a CollectionId,
    number: exhibit_evidence::layout::StreamNumber,
    host: String,
    /// Exhibit number of its first item.
    first: u64,
}

/// Writes the lists, and the files when `expand` says so.
pub fn write(place: &Place, facts: &Facts, expand: bool, identities: &[Identity]) -> Result<()> {
    let lists = Lists::create(place)?;
    let target = if expand {
        place.write("expanded/README.txt", README.as_bytes())?;
        Some(Target::open(&place.bag().join(EXPANDED), Extras::default())?)
    } else {
        None
    };
    let recipients = facts.report.case.as_ref().map_or(0, |c| c.encrypt_to.as_slice().len());
    let mut writing = Writing { lists, target, recipients, identities: identities.to_vec() };
    // Of what was destroyed nothing is left to list; its numbers stay its own.
    for collection in facts.report.collections.iter().filter(|c| !c.left_out && c.disposed.is_none()) {
        let Some(seal) = facts.seal_of(&collection.id) else { continue };
        let mut first = seal.record.exhibit_first;
        for sealed in &seal.record.streams {
            let stream = Stream { place, collection: &collection.id, number: sealed.stream, host: host(collection), first };
            writing.stream(&stream)?;
            let receipt = facts.receipts_of(&collection.id).find(|r| r.record.stream == sealed.stream);
            first = first.saturating_add(receipt.map_or(0, |r| r.record.manifest.items));
        }
    }
    writing.lists.finish()
}

const README: &str = "These files were restored from the evidence in data/ and are named by their exhibit numbers, in folders of a thousand.\n\
load-file/exhibits.dat says for each number which host it comes from and what it was called there. The evidence is in data/; these\n\
files are copies of its content, without owner, mode and attributes. What has no content (directories, links, devices) is in the list only.\n";

struct Lists {
    dat: BufWriter<File>,
    opt: BufWriter<File>,
    path: PathBuf,
}

impl Lists {
    fn create(place: &Place) -> Result<Self> {
        place.write(DAT, b"")?;
        place.write(OPT, b"")?;
        let create = |name: &str| {
            let path = place.bag().join(name);
            File::create(&path).map(BufWriter::new).map_err(|e| cannot("write", &path, &e))
        };
        let mut lists = Self { dat: create(DAT)?, opt: create(OPT)?, path: place.bag().join(DAT) };
        lists.line(&COLUMNS.map(str::to_owned))?;
        Ok(lists)
    }

    fn line(&mut self, values: &[String]) -> Result<()> {
        let fields: Vec<String> = values.iter().map(|v| format!("\u{fe}{}\u{fe}", field(v))).collect();
        // Concordance ends a line with both characters.
        write!(self.dat, "{}\r\n", fields.join("\u{14}")).map_err(|e| cannot("write", &self.path, &e))
    }

    fn add(&mut self, stream: &Stream<'_>, item: &Item, file: Option<&str>) -> Result<()> {
        let exhibit = stream.first.saturating_add(item.n);
        let number = format!("EXH{exhibit:08}");
        let path = item.path.to_string();
        let values = [
            number.clone(),
            number.clone(),
            exhibit.to_string(),
            stream.host.clone(),
            path.rsplit('/').next().unwrap_or_default().to_owned(),
            path.clone(),
            escape(&item.capture),
            kind_name(item.kind),
            item.status.as_str().to_owned(),
            item.size.to_string(),
            item.taken.start.to_string(),
            item.sha256.map(|d| d.to_string()).unwrap_or_default(),
            file.unwrap_or_default().to_owned(),
            String::new(),
            format!("{}.{}.{}", stream.collection, stream.number, item.n),
        ];
        self.line(&values)?;
        match file {
            Some(file) => write!(self.opt, "{number},EVIDENCE,{file},Y,,,1\r\n").map_err(|e| cannot("write", &self.path, &e)),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<()> {
        self.dat.flush().and_then(|()| self.opt.flush()).map_err(|e| cannot("write", &self.path, &e))
    }
}

/// A value without the characters that structure the list.
fn field(value: &str) -> String {
    let plain = exhibit_evidence::text::one_line(value, 8_000);
    plain.replace('\u{fe}', "\\u{fe}").replace('\u{ae}', "\\u{ae}")
}

struct Writing {
    lists: Lists,
    target: Option<Target>,
    /// How many recipients the case is encrypted to, and what decrypts it.
    recipients: usize,
    identities: Vec<Identity>,
}

impl Writing {
    fn stream(&mut self, stream: &Stream<'_>) -> Result<()> {
        let mut lines = Lines::open(stream)?;
        if self.target.is_none() {
            while let Some(item) = lines.next_item()? {
                self.lists.add(stream, &item, None)?;
            }
            return Ok(());
        }
        let mut decoder = SegmentDecoder::new().map_err(damaged)?;
        let mut parser = Parser::new();
        let mut members = Members { writing: self, stream, lines, current: None, failure: None };
        let (mut n, mut plain) = (0_u32, Vec::new());
        loop {
            let name = CaseObject::Segment(stream.collection.clone(), stream.number, n).to_string();
            if !stream.place.arrived.contains_key(&name) {
                break;
            }
            let path = stream.place.object(&name);
            let mut bytes = Vec::new();
            let file = File::open(&path).map_err(|e| cannot("read", &path, &e))?;
            file.take(SEGMENT_BYTES_MAX as u64).read_to_end(&mut bytes).map_err(|e| cannot("read", &path, &e))?;
            if members.writing.recipients > 0 {
                let opened = age::decrypt(&bytes, members.writing.recipients, &members.writing.identities, &mut plain);
                opened.map_err(|e| damaged(format!("{name}: {e}")))?;
                std::mem::swap(&mut bytes, &mut plain);
            }
            decoder.decode(&bytes, &mut |raw| parser.push(raw, &mut members)).map_err(|e| damaged(format!("{name}: {e:?}")))?;
            if let Some(failure) = members.failure.take() {
                return Err(failure);
            }
            n += 1;
        }
        members.rest()
    }
}

/// Items of a manifest, one at a time.
struct Lines {
    reader: BufReader<File>,
    buffer: Vec<u8>,
    name: String,
}

impl Lines {
    fn open(stream: &Stream<'_>) -> Result<Self> {
        let name = CaseObject::Manifest(stream.collection.clone(), stream.number).to_string();
        let path = stream.place.object(&name);
        let file = File::open(&path).map_err(|e| damaged(format!("{name}: {e}")))?;
        Ok(Self { reader: BufReader::new(file), buffer: Vec::new(), name })
    }

    fn next_item(&mut self) -> Result<Option<Box<Item>>> {
        loop {
            self.buffer.clear();
            let read = (&mut self.reader).take(LINE_BYTES_MAX as u64 + 1).read_until(b'\n', &mut self.buffer);
            if read.map_err(|e| damaged(format!("{}: {e}", self.name)))? == 0 {
                return Ok(None);
            }
            match Line::parse(&self.buffer) {
                Ok(Line::Item(item)) => return Ok(Some(item)),
                Ok(_) => {}
                Err(e) => return Err(damaged(format!("{}: {e}", self.name))),
            }
        }
    }
}

/// Takes the members of a stream in step with its items: both come in the same order.
struct Members<'a, 'b> {
    writing: &'a mut Writing,
    stream: &'a Stream<'b>,
    lines: Lines,
    current: Option<Restoring>,
    failure: Option<Failure>,
}

impl Members<'_, '_> {
    fn keep<T>(&mut self, result: Result<T>) -> Option<T> {
        match result {
            Ok(value) => Some(value),
            Err(failure) => {
                self.failure.get_or_insert(failure);
                None
            }
        }
    }

    /// Lists the items before the member's, and the member's; its content gets its name.
    fn ended(&mut self, member: &Member) -> Result<()> {
        loop {
            let item = match self.lines.next_item()? {
                Some(item) => item,
                // The end of a broken-off encrypted stream may have come without its lines.
                None if self.writing.recipients > 0 => {
                    self.current = None;
                    return Ok(());
                }
                None => return Err(damaged("a member without an item")),
            };
            let Some(location) = item.location else {
                self.writing.lists.add(self.stream, &item, None)?;
                continue;
            };
            let whole = location.offset == member.offset && item.sha256 == member.sha256;
            if !whole {
                return Err(damaged(format!("{}: item {} is not what its stream holds", self.lines.name, item.n)));
            }
            let file = self.current.take().filter(|_| matches!(item.kind, Kind::File | Kind::Record));
            let name = match (file, &self.writing.target) {
                (Some(restoring), Some(target)) => Some(self.named(restoring, target, &item)?),
                _ => None,
            };
            return self.writing.lists.add(self.stream, &item, name.as_deref());
        }
    }

    fn named(&self, restoring: Restoring, target: &Target, item: &Item) -> Result<String> {
        let exhibit = self.stream.first.saturating_add(item.n);
        let name = format!("{:05}/EXH{exhibit:08}{}", exhibit / 1_000, ending(item));
        let meta = Metadata { mode: 0o600, mtime: item.meta.as_ref().and_then(|m| m.mtime), ..Metadata::default() };
        target.finish_as(restoring, name.as_bytes(), &meta)?;
        Ok(format!("{EXPANDED}/{name}"))
    }

    /// Items after the last member.
    fn rest(mut self) -> Result<()> {
        while let Some(item) = self.lines.next_item()? {
            self.writing.lists.add(self.stream, &item, None)?;
        }
        Ok(())
    }
}

impl Sink for Members<'_, '_> {
    fn begin(&mut self, member: &MemberHead) {
        if member.kind == MemberKind::File
            && self.failure.is_none()
            && let Some(target) = &self.writing.target
        {
            let file = target.file(b"incoming", member.size);
            self.current = self.keep(file);
        }
    }

    fn data(&mut self, offset: u64, bytes: &[u8]) {
        if let (Some(file), Some(target), None) = (&self.current, &self.writing.target, &self.failure) {
            let written = target.write(file, offset, bytes);
            self.keep(written);
        }
    }

    fn end(&mut self, member: &Member) {
        if self.failure.is_none() {
            let done = self.ended(member);
            self.keep(done);
        }
    }
}

/// The ending of the name on the host where it is a plain one, so that review programs know the kind of file.
fn ending(item: &Item) -> String {
    let name = item.path.as_bytes().rsplit(|b| *b == b'/').next().unwrap_or_default();
    let end = name.iter().rposition(|b| *b == b'.').filter(|at| *at > 0).map(|at| &name[at + 1..]);
    match end.filter(|e| (1..=8).contains(&e.len()) && e.iter().all(u8::is_ascii_alphanumeric)) {
        Some(end) => format!(".{}", String::from_utf8_lossy(end).to_ascii_lowercase()),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_cannot_break_the_list() {
        assert_eq!(field("a\u{14}b\u{fe}c\r\n\u{ae}d"), "a\\x14b\\u{fe}c\\r\\n\\u{ae}d");
    }
}
