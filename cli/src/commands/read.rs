//! The bytes of items, checked against their digests while they arrive; `exhibit cat`.

mod encrypted;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{IsTerminal as _, Write as _};

use exhibit_evidence::manifest::{Item, ItemId, Kind};
use exhibit_evidence::record::Action;
use exhibit_evidence::stream::reader::{Member, Parser, Sink};
use exhibit_evidence::text::{escape_bounded, escape_bytes};
use exhibit_proto::responder::v1 as pb;
use pb::read_items_response::Kind as Answer;

use crate::args::CatArgs;
use crate::commands::{items, readable};
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};
use crate::output::cannot_write;
use encrypted::Encrypted;

/// Where the content of one item goes.
pub trait Destination {
    /// Takes the next piece.
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
}

/// Extended attributes by name.
pub type Attributes = BTreeMap<String, Vec<u8>>;

/// Hands the parsed content on and keeps the first failure: a parser's sink cannot fail.
struct Content<'a> {
    to: &'a mut dyn Destination,
    failure: Option<Failure>,
    member: Option<Member>,
}

impl Sink for Content<'_> {
    fn data(&mut self, logical_offset: u64, bytes: &[u8]) {
        if self.failure.is_none() {
            self.failure = self.to.write(logical_offset, bytes).err();
        }
    }

    fn end(&mut self, member: &Member) {
        self.member = Some(member.clone());
    }
}

/// Standard output, holes written as zeros. A terminal gets text in which nothing can act on it.
struct Stdout {
    at: u64,
    escape: Option<TerminalText>,
}

impl Stdout {
    fn new(raw: bool) -> Self {
        let escape = !raw && std::io::stdout().is_terminal();
        Self { at: 0, escape: escape.then(TerminalText::default) }
    }

    fn zeros_to(&mut self, offset: u64) -> Result<()> {
        static ZEROS: [u8; 65_536] = [0; 65_536];
        while self.at < offset {
            let step = (offset - self.at).min(ZEROS.len() as u64);
            self.put(&ZEROS[..step as usize])?;
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        let mut stdout = std::io::stdout().lock();
        match &mut self.escape {
            Some(text) => stdout.write_all(text.next(bytes).as_bytes()),
            None => stdout.write_all(bytes),
        }
        .map_err(|e| cannot_write(&e))
    }

    /// Holes at the end, and what was held back.
    fn end(mut self, size: u64) -> Result<()> {
        self.zeros_to(size)?;
        let rest = self.escape.take().map(TerminalText::rest).unwrap_or_default();
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(rest.as_bytes()).and_then(|()| stdout.flush()).map_err(|e| cannot_write(&e))
    }
}

/// Escapes content for a terminal, line by line; a character that arrives in two pieces is put together.
#[derive(Debug, Default)]
struct TerminalText {
    held: Vec<u8>,
}

impl TerminalText {
    fn next(&mut self, bytes: &[u8]) -> String {
        self.held.extend_from_slice(bytes);
        let whole = self.held.len() - incomplete_tail(&self.held);
        let held = self.held.split_off(whole);
        let text = terminal_text(&self.held);
        self.held = held;
        text
    }

    fn rest(self) -> String {
        terminal_text(&self.held)
    }
}

/// Bytes at the end that begin a UTF-8 character and do not end it.
fn incomplete_tail(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let needed = match bytes[bytes.len() - back] {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            _ => 1,
        };
        return if needed > back { back } else { 0 };
    }
    0
}

fn terminal_text(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for piece in bytes.split_inclusive(|b| matches!(b, b'\n' | b'\t')) {
        match piece.split_last() {
            Some((end @ (b'\n' | b'\t'), line)) => {
                text.push_str(&escape_bytes(line));
                text.push(char::from(*end));
            }
            _ => text.push_str(&escape_bytes(piece)),
        }
    }
    text
}

impl Destination for Stdout {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.zeros_to(offset)?;
        self.put(bytes)
    }
}

/// Takes items without content.
pub struct Nowhere;

impl Destination for Nowhere {
    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

/// Parses an item's id that a person typed or the coordinator sent.
pub fn parse_item_id(text: &str) -> Result<ItemId> {
    text.parse().map_err(|e| Failure::new(Code::Input, e))
}

/// Hands raw bytes to the parser, and on what they hold.
fn pass(parser: &mut Parser, content: &mut Content<'_>, id: &str, raw: &[u8]) -> Result<()> {
    parser.push(raw, content).map_err(|e| damaged(id, &e.to_string()))?;
    content.failure.take().map_or(Ok(()), Err)
}

/// The answer stream, with the item that has been announced but not read.
pub struct Reading {
    stream: tonic::Streaming<pb::ReadItemsResponse>,
    next: Option<pb::Item>,
    encrypted: Encrypted,
}

impl Reading {
    /// Asks for items; the access is recorded before the first one arrives.
    pub async fn open(connection: &mut Connection, items: Vec<String>, action: Action, reason: &str) -> Result<Self> {
        let encrypted = Encrypted::new(connection.identities());
        let request = pb::ReadItemsRequest { items, reason: reason.to_owned(), action: action.to_string() };
        let stream = connection.rpc().read_items(request).await?.into_inner();
        Ok(Self { stream, next: None, encrypted })
    }

    /// The next item. What was not read of the one before is passed over.
    pub async fn next_item(&mut self) -> Result<Option<pb::Item>> {
        if let Some(item) = self.next.take() {
            return Ok(Some(item));
        }
        loop {
            match self.stream.message().await?.and_then(|m| m.kind) {
                Some(Answer::Item(item)) => return Ok(Some(item)),
                Some(Answer::TarData(_)) => {}
                // The items after it may lie in the segment, too.
                Some(Answer::Segment(segment)) => self.encrypted.begin(&segment),
                Some(Answer::SegmentData(bytes)) => self.encrypted.take(&bytes).map_err(|e| damaged("passed over", &e))?,
                None => return Ok(None),
            }
        }
    }

    /// Reads the announced item's bytes into `to` and checks them against the manifest line. Gives the extended attributes of its
    /// member: lines of encrypted cases have none, nor have some others.
    pub async fn content(&mut self, id: &str, item: &Item, to: &mut dyn Destination) -> Result<Attributes> {
        let mut parser = Parser::new();
        let mut content = Content { to, failure: None, member: None };
        loop {
            match self.stream.message().await?.and_then(|m| m.kind) {
                Some(Answer::TarData(bytes)) => pass(&mut parser, &mut content, id, &bytes)?,
                Some(Answer::Segment(segment)) => {
                    self.encrypted.begin(&segment);
                    if segment.size == 0 {
                        self.encrypted.part(id, item, &mut |raw| pass(&mut parser, &mut content, id, raw))?;
                    }
                }
                Some(Answer::SegmentData(bytes)) => {
                    self.encrypted.take(&bytes).map_err(|e| damaged(id, &e))?;
                    if self.encrypted.is_whole() {
                        self.encrypted.part(id, item, &mut |raw| pass(&mut parser, &mut content, id, raw))?;
                    }
                }
                Some(Answer::Item(next)) => {
                    self.next = Some(next);
                    break;
                }
                None => break,
            }
        }
        let Some(member) = content.member else {
            let nothing = if item.location.is_some() { Err(damaged(id, "its bytes did not arrive whole")) } else { Ok(()) };
            return nothing.map(|()| Attributes::new());
        };
        if member.sha256 != item.sha256.filter(|_| item.kind != Kind::Hardlink) {
            return Err(damaged(id, "its bytes do not have the SHA-256 of the manifest"));
        }
        Ok(member.head.xattrs)
    }
}

/// Evidence that is not what its manifest says.
pub fn damaged(id: &str, problem: &str) -> Failure {
    Failure::new(Code::Damaged, format!("item {}: {}", escape_bounded(id, 80), escape_bounded(problem, 400)))
        .hint("do not use it; verify the case with exhibit-verify")
}

/// The item that holds a hard link's content: same stream, named by the link's target.
pub async fn linked_item(connection: &mut Connection, id: &ItemId, item: &Item, reason: &str) -> Result<String> {
    let missing = || damaged(&id.to_string(), "the item that it is a hard link to is not in the collection");
    let target = item.target.as_ref().ok_or_else(missing)?;
    let capture = target.as_bytes().split(|b| *b == b'/').next().unwrap_or_default();
    let request = pb::ListItemsRequest {
        collections: vec![id.collection.to_string()],
        captures: vec![String::from_utf8_lossy(capture).into_owned()],
        reason: reason.to_owned(),
        ..Default::default()
    };
    let mut stream = connection.rpc().list_items(request).await?.into_inner();
    while let Some(found) = stream.message().await? {
        let parsed = items::parse(&found)?;
        let same_stream = parse_item_id(&found.item)?.stream == id.stream;
        if same_stream && parsed.kind == Kind::File && parsed.path.member_name(&parsed.capture) == target.as_bytes() {
            return Ok(found.item);
        }
    }
    Err(missing())
}

/// Writes one item to standard output.
pub async fn cat(connection: &mut Connection, args: CatArgs) -> Result<Code> {
    let identities = args.identity.read()?;
    let mut id = parse_item_id(&args.item)?;
    readable::must_open(connection, None, &BTreeSet::from([id.collection.clone()]), &identities).await?;
    connection.decrypt_with(identities);
    // Twice at most: a hard link's content is that of the item that it names.
    for _ in 0..2 {
        let mut reading = Reading::open(connection, vec![id.to_string()], Action::View, &args.reason).await?;
        let announced = reading.next_item().await?.ok_or_else(|| Failure::new(Code::Input, format!("there is no item {id}")))?;
        let item = items::parse(&announced)?;
        match item.kind {
            Kind::Hardlink => {
                let linked = linked_item(connection, &id, &item, &args.reason).await?;
                id = parse_item_id(&linked)?;
            }
            Kind::Symlink => {
                let target = item.target.as_ref().map(|t| t.as_bytes().to_vec()).unwrap_or_default();
                let mut stdout = Stdout::new(args.raw);
                stdout.put(&target)?;
                stdout.end(target.len() as u64)?;
                return Ok(Code::Ok);
            }
            Kind::Directory => {
                let problem = format!("item {id} is a directory: it has metadata and no content");
                return Err(Failure::new(Code::Incomplete, problem).hint("exhibit items --path lists what is in it"));
            }
            _ if item.location.is_none() => {
                let why = item.reason.as_deref().unwrap_or("it is kept by record only");
                return Err(Failure::new(
                    Code::Incomplete,
                    format!("item {id} is '{}' and has no content: {}", item.status.as_str(), escape_bounded(why, 300)),
                ));
            }
            _ => {
                let mut stdout = Stdout::new(args.raw);
                reading.content(&id.to_string(), &item, &mut stdout).await?;
                stdout.end(item.size)?;
                return Ok(Code::Ok);
            }
        }
    }
    Err(damaged(&args.item, "a hard link to a hard link"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_acts_on_a_terminal_and_text_stays_text() {
        let mut text = TerminalText::default();
        let whole = "żółw\tx\n\x1b]0;owned\x07 日本".as_bytes();
        let mut shown = String::new();
        for byte in whole {
            shown.push_str(&text.next(&[*byte]));
        }
        shown.push_str(&text.rest());
        assert_eq!(shown, "żółw\tx\n\\x1b]0;owned\\x07 日本");
        let mut cut = TerminalText::default();
        assert_eq!(cut.next(b"a\xff\xe6\x97"), "a\\xff");
        assert_eq!(cut.rest(), "\\xe6\\x97");
    }
}
