//! `exhibit cat` and `exhibit get`: the bytes of items, checked against their digests while they arrive.

use std::collections::BTreeSet;
use std::io::Write as _;

use base64::Engine as _;
use exhibit_evidence::manifest::{Item, ItemId, Kind};
use exhibit_evidence::stream::reader::{Member, Parser, Sink};
use exhibit_evidence::text::escape_bounded;
use exhibit_proto::responder::v1 as pb;
use pb::read_items_response::Kind as Answer;
use serde_json::json;

use crate::args::{CatArgs, GetArgs};
use crate::commands::items;
use crate::connection::Connection;
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::restore::{Extras, Metadata, Restoring, Target};

/// Where the content of one item goes.
trait Destination {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()>;
}

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

/// Standard output, holes written as zeros.
struct Stdout {
    at: u64,
}

impl Stdout {
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
        std::io::stdout()
            .lock()
            .write_all(bytes)
            .map_err(|e| Failure::new(Code::CannotCreate, format!("cannot write to standard output: {e}")))
    }
}

impl Destination for Stdout {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.zeros_to(offset)?;
        self.put(bytes)
    }
}

struct FileDestination<'a> {
    target: &'a Target,
    file: Restoring,
}

impl Destination for FileDestination<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.target.write(&self.file, offset, bytes)
    }
}

/// Takes items without content.
struct Nowhere;

impl Destination for Nowhere {
    fn write(&mut self, _: u64, _: &[u8]) -> Result<()> {
        Ok(())
    }
}

fn parse_item_id(text: &str) -> Result<ItemId> {
    text.parse().map_err(|e| Failure::new(Code::Input, e))
}

/// The answer stream, with the item that has been announced but not read.
struct Reading {
    stream: tonic::Streaming<pb::ReadItemsResponse>,
    next: Option<pb::Item>,
}

impl Reading {
    async fn open(connection: &mut Connection, items: Vec<String>, reason: &str) -> Result<Self> {
        let request = pb::ReadItemsRequest { items, reason: reason.to_owned() };
        let stream = connection.rpc().read_items(request).await?.into_inner();
        Ok(Self { stream, next: None })
    }

    async fn next_item(&mut self) -> Result<Option<pb::Item>> {
        if let Some(item) = self.next.take() {
            return Ok(Some(item));
        }
        match self.stream.message().await?.and_then(|m| m.kind) {
            Some(Answer::Item(item)) => Ok(Some(item)),
            Some(Answer::TarData(_)) => Err(Failure::new(Code::Failure, "the coordinator sent bytes that belong to no item")),
            None => Ok(None),
        }
    }

    /// Reads the announced item's bytes into `to` and checks them against the manifest line.
    async fn content(&mut self, id: &str, item: &Item, to: &mut dyn Destination) -> Result<()> {
        let mut parser = Parser::new();
        let mut content = Content { to, failure: None, member: None };
        loop {
            match self.stream.message().await?.and_then(|m| m.kind) {
                Some(Answer::TarData(bytes)) => {
                    parser.push(&bytes, &mut content).map_err(|e| damaged(id, &e.to_string()))?;
                    if let Some(failure) = content.failure.take() {
                        return Err(failure);
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
            return if item.location.is_some() { Err(damaged(id, "its bytes did not arrive whole")) } else { Ok(()) };
        };
        if member.sha256 != item.sha256.filter(|_| item.kind != Kind::Hardlink) {
            return Err(damaged(id, "its bytes do not have the SHA-256 of the manifest"));
        }
        Ok(())
    }
}

fn damaged(id: &str, problem: &str) -> Failure {
    Failure::new(Code::Damaged, format!("item {}: {}", escape_bounded(id, 80), escape_bounded(problem, 400)))
        .hint("do not use it; verify the case with exhibit-verify")
}

/// The item that holds a hard link's content: same stream, named by the link's target.
async fn linked_item(connection: &mut Connection, id: &ItemId, item: &Item, reason: &str) -> Result<String> {
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
    let mut id = parse_item_id(&args.item)?;
    // Twice at most: a hard link's content is that of the item that it names.
    for _ in 0..2 {
        let mut reading = Reading::open(connection, vec![id.to_string()], &args.reason).await?;
        let announced = reading.next_item().await?.ok_or_else(|| Failure::new(Code::Input, format!("there is no item {id}")))?;
        let item = items::parse(&announced)?;
        match item.kind {
            Kind::Hardlink => {
                let linked = linked_item(connection, &id, &item, &args.reason).await?;
                id = parse_item_id(&linked)?;
            }
            Kind::Symlink => {
                let target = item.target.as_ref().map(|t| t.as_bytes().to_vec()).unwrap_or_default();
                Stdout { at: 0 }.put(&target)?;
                return Ok(Code::Ok);
            }
            _ if item.location.is_none() => {
                let why = item.reason.as_deref().unwrap_or("it is kept by record only");
                return Err(Failure::new(
                    Code::Incomplete,
                    format!("item {id} is '{}' and has no content: {}", item.status.as_str(), escape_bounded(why, 300)),
                ));
            }
            _ => {
                let mut stdout = Stdout { at: 0 };
                reading.content(&id.to_string(), &item, &mut stdout).await?;
                stdout.zeros_to(item.size)?;
                return Ok(Code::Ok);
            }
        }
    }
    Err(damaged(&args.item, "a hard link to a hard link"))
}

fn metadata(item: &Item) -> Metadata {
    let Some(meta) = &item.meta else { return Metadata { mode: 0o600, ..Metadata::default() } };
    let decode = |value: &String| base64::engine::general_purpose::STANDARD.decode(value).unwrap_or_default();
    Metadata {
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        atime: meta.atime,
        xattrs: meta.xattrs.iter().map(|(key, value)| (key.clone(), decode(value))).collect(),
    }
}

/// Restores items below a folder: `<capture>/<original path>`, below the collection's id when there are several.
pub async fn get(connection: &mut Connection, args: GetArgs, out: &Output) -> Result<Code> {
    let ids = args.items.iter().map(|i| parse_item_id(i)).collect::<Result<Vec<_>>>()?;
    let several = ids.iter().map(|i| &i.collection).collect::<BTreeSet<_>>().len() > 1;
    let target = Target::open(&args.out, Extras { xattrs: args.xattrs, owner: args.owner })?;
    let mut incomplete = false;
    let mut links = Vec::new();
    for batch in ids.chunks(exhibit_proto::bounds::READ_ITEMS_MAX) {
        let mut reading = Reading::open(connection, batch.iter().map(ToString::to_string).collect(), &args.reason).await?;
        while let Some(announced) = reading.next_item().await? {
            let item = items::parse(&announced)?;
            let id = parse_item_id(&announced.item)?;
            if item.kind == Kind::Hardlink {
                reading.content(&announced.item, &item, &mut Nowhere).await?;
                links.push((id, item));
                continue;
            }
            incomplete |= !restore_one(&mut reading, &target, &id, &item, several, out).await?;
        }
    }
    for (id, link) in links {
        let linked = linked_item(connection, &id, &link, &args.reason).await?;
        let mut reading = Reading::open(connection, vec![linked.clone()], &args.reason).await?;
        let announced = reading.next_item().await?.ok_or_else(|| damaged(&linked, "it is not there"))?;
        let mut item = items::parse(&announced)?;
        item.path = link.path;
        incomplete |= !restore_one(&mut reading, &target, &id, &item, several, out).await?;
    }
    Ok(if incomplete { Code::Incomplete } else { Code::Ok })
}

/// Restores one item; false when it has no content to restore.
async fn restore_one(reading: &mut Reading, target: &Target, id: &ItemId, item: &Item, several: bool, out: &Output) -> Result<bool> {
    let mut name = if several { format!("{}/", id.collection).into_bytes() } else { Vec::new() };
    name.extend(item.path.member_name(&item.capture));
    let meta = metadata(item);
    let text = id.to_string();
    let shown = match item.kind {
        Kind::Symlink => {
            reading.content(&text, item, &mut Nowhere).await?;
            let to = item.target.as_ref().map(|t| t.as_bytes().to_vec()).unwrap_or_default();
            target.symlink(&name, &to, &meta)?
        }
        Kind::Directory if item.location.is_some() => {
            reading.content(&text, item, &mut Nowhere).await?;
            target.directory(&name, &meta)?
        }
        _ if item.location.is_none() => {
            let why = escape_bounded(item.reason.as_deref().unwrap_or("kept by record only"), 300);
            out.note(&format!("{text}: {} is '{}', nothing to restore: {why}", item.path, item.status.as_str()));
            if out.is_json() {
                out.object(&json!({"item": text, "restored": false, "status": item.status, "reason": why}))?;
            }
            return Ok(false);
        }
        _ => {
            let mut to = FileDestination { target, file: target.file(&name, item.size)? };
            reading.content(&text, item, &mut to).await?;
            target.finish(to.file, &meta)?
        }
    };
    if out.is_json() {
        out.object(
            &json!({"item": text, "restored": true, "file": shown, "size": item.size, "sha256": item.sha256, "status": item.status}),
        )?;
    } else {
        out.line(&shown)?;
    }
    Ok(true)
}
