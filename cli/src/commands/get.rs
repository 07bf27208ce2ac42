//! `exhibit get`: items as files. One that cannot be had is said and counted, and the others are restored; of one that was not taken whole
//! it is said what is not in it.

mod counts;
mod shortfall;

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{Item, ItemId, Kind, Status};
use exhibit_evidence::record::Action;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::{CaseId, CollectionId};
use serde_json::json;

use super::read::{Attributes, Destination, Nowhere, Reading, damaged, linked_item, parse_item_id};
use super::{items, readable};
use crate::args::GetArgs;
use crate::clock;
use crate::connection::{Connection, parse_id};
use crate::convert::{self, About, Companions, Content, Format, e01};
use crate::exit::{Code, Failure, Result};
use crate::interrupt;
use crate::output::Output;
use crate::restore::{Extras, Metadata, Restoring, Target};
use crate::symbols::collection;
use counts::{Counts, relation};
use shortfall::Shortfall;

/// Most items of which it is said one by one that they are not whole; the others are counted.
const SHORT_TOLD_MAX: u64 = 100;

struct FileDestination<'a> {
    target: &'a Target,
    file: Restoring,
}

impl Destination for FileDestination<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.target.write(&self.file, offset, bytes)
    }
}

/// A member's place: hard links name the member that they are another name of.
type Member = (CollectionId, StreamNumber, Vec<u8>);

struct Get<'a> {
    args: &'a GetArgs,
    target: Target,
    /// Names begin with the collection when there are several.
    several: bool,
    out: &'a Output,
    counts: Counts,
    /// Files with several names, and where each was restored.
    linkable: BTreeMap<Member, Vec<u8>>,
    /// What stands beside images of memory, where another format is made of them.
    companions: BTreeMap<CollectionId, Companions>,
    /// Of which cases the collections are, and who asks: what an E01 file says.
    cases: BTreeMap<CollectionId, String>,
    examiner: String,
    /// More than one item is restored.
    many: bool,
    /// Images that the format asked for is of.
    images: u64,
}

/// Restores items below a folder: `<capture>/<original path>`, below the collection's id when there are several.
///
/// # Errors
/// What stops everything: a lost connection, damaged evidence, a full disk. What was restored before stays.
pub async fn run(connection: &mut Connection, args: GetArgs, out: &Output) -> Result<Code> {
    let identities = args.identity.read()?;
    let (case, collections) = asked(&args)?;
    readable::must_open(connection, case.as_ref(), &collections, &identities).await?;
    connection.decrypt_with(identities);
    let ids = selected(connection, &args).await?;
    if ids.is_empty() {
        out.note("nothing matches");
        return Ok(Code::Incomplete);
    }
    let several = ids.iter().map(|i| &i.collection).collect::<BTreeSet<_>>().len() > 1;
    let target = Target::open(&args.out, Extras { xattrs: args.xattrs, owner: args.owner })?;
    let mut get = Get {
        args: &args,
        target,
        several,
        out,
        counts: Counts::default(),
        linkable: BTreeMap::new(),
        companions: BTreeMap::new(),
        cases: BTreeMap::new(),
        examiner: connection.name(),
        many: ids.len() > 1,
        images: 0,
    };
    let done = interrupt::or(get.all(connection, &ids)).await;
    if let (Ok(()), Some(format), 0) = (&done, args.format, get.images) {
        out.note(&format!("nothing of it is an image: no file was made as {}", format.as_str()));
    }
    if done.is_err() && get.counts == Counts::default() {
        get.target.take_back();
    } else {
        get.counts.ended(ids.iter().collect::<BTreeSet<_>>().len() as u64);
        out.note(&get.counts.summary(&args.out.display().to_string()));
    }
    done.map(|()| get.counts.code()).map_err(|failure| go_on(failure, get.counts.restored))
}

/// What to do about a connection that was lost in the middle.
fn go_on(failure: Failure, restored: u64) -> Failure {
    if failure.code != Code::Unavailable || restored == 0 {
        return failure;
    }
    failure.hint("the same command again, when the coordinator answers: it overwrites nothing and writes what is missing")
}

async fn selected(connection: &mut Connection, args: &GetArgs) -> Result<Vec<ItemId>> {
    if args.items.is_empty() {
        let mut stream = items::list(connection, &args.select, &args.reason).await?;
        let mut ids = Vec::new();
        while let Some(item) = stream.message().await? {
            ids.push(parse_item_id(&item.item)?);
        }
        return Ok(ids);
    }
    let select = &args.select;
    if !(select.paths.is_empty() && select.captures.is_empty() && select.statuses.is_empty()) {
        let problem = "--path, --capture and --status choose among the items of --collection or --case, not among items that are named";
        return Err(Failure::new(Code::Usage, problem));
    }
    args.items.iter().map(|i| parse_item_id(i)).collect()
}

/// The case and the collections of which items are asked for.
fn asked(args: &GetArgs) -> Result<(Option<CaseId>, BTreeSet<CollectionId>)> {
    let items = args.items.iter().map(|item| parse_item_id(item).map(|id| id.collection));
    let collections = items.chain(args.select.collections.iter().map(|id| parse_id(id))).collect::<Result<_>>()?;
    Ok((args.select.case.as_deref().map(parse_id::<CaseId>).transpose()?, collections))
}

impl Get<'_> {
    async fn all(&mut self, connection: &mut Connection, ids: &[ItemId]) -> Result<()> {
        if self.args.format == Some(Format::E01) {
            let collections: BTreeSet<CollectionId> = ids.iter().map(|id| id.collection.clone()).collect();
            self.cases = readable::cases_of(connection, &collections).await?;
        } else if self.args.format.is_some() {
            // Beforehand: what an image needs must be there when its first byte arrives.
            for id in ids {
                if !self.companions.contains_key(&id.collection) {
                    let found = collection::companions(connection, &id.collection.to_string(), &self.args.reason).await?;
                    self.companions.insert(id.collection.clone(), found);
                }
            }
        }
        let mut links = Vec::new();
        for batch in ids.chunks(exhibit_proto::bounds::READ_ITEMS_MAX) {
            let names = batch.iter().map(ToString::to_string).collect();
            let mut reading = Reading::open(connection, names, Action::Download, &self.args.reason).await?;
            while let Some(announced) = reading.next_item().await? {
                let item = items::parse(&announced)?;
                let id = parse_item_id(&announced.item)?;
                if item.kind == Kind::Hardlink && item.location.is_some() {
                    reading.content(&announced.item, &item, &mut Nowhere).await?;
                    links.push((id, item));
                } else {
                    self.one(&mut reading, &id, &item).await?;
                }
            }
        }
        for (id, link) in links {
            self.link(connection, &id, link).await?;
        }
        self.target.sync()
    }

    fn name(&self, id: &ItemId, item: &Item) -> Vec<u8> {
        let mut name = if self.several { format!("{}/", id.collection).into_bytes() } else { Vec::new() };
        name.extend(item.path.member_name(&item.capture));
        name
    }

    /// Restores one item, or says why not.
    async fn one(&mut self, reading: &mut Reading, id: &ItemId, item: &Item) -> Result<()> {
        let name = self.name(id, item);
        // Of several items those that have no such format are restored as they are; one alone is a mistake that is told.
        let fits = |(format, content): &(Format, Content)| !self.many || format.fits(*content);
        if let Some((format, content)) = self.args.format.zip(Content::of(item)).filter(fits) {
            self.images += 1;
            if let Some(why) = convert::refusal(format, content, item, self.args.cut_off) {
                self.counts.not_convertible += 1;
                return self.left_out(id, "not-convertible", &format!("{}: {why}", item.path));
            }
            return match self.convert(reading, id, item, (format, content, &name)).await {
                Err(failure) if failure.exists => self.exists(id, &failure),
                done => done,
            };
        }
        match self.write(reading, id, item, &name).await {
            Ok(Some(shown)) => {
                if item.meta.as_ref().is_some_and(|m| m.nlink > 1) && item.kind == Kind::File {
                    let member = (id.collection.clone(), id.stream, item.path.member_name(&item.capture));
                    self.linkable.insert(member, name);
                }
                self.restored(id, item, &shown, None)
            }
            Ok(None) => self.nothing_to_restore(id, item),
            Err(failure) if failure.exists => self.exists(id, &failure),
            Err(failure) => Err(failure),
        }
    }

    /// Writes one item; nothing when it has no content to write.
    async fn write(&self, reading: &mut Reading, id: &ItemId, item: &Item, name: &[u8]) -> Result<Option<String>> {
        if item.location.is_none() {
            return Ok(None);
        }
        let text = id.to_string();
        match item.kind {
            Kind::Symlink => {
                let meta = metadata(item, reading.content(&text, item, &mut Nowhere).await?);
                let to = item.target.as_ref().map(|t| t.as_bytes().to_vec()).unwrap_or_default();
                self.target.symlink(name, &to, &meta).map(Some)
            }
            Kind::Directory => {
                let meta = metadata(item, reading.content(&text, item, &mut Nowhere).await?);
                self.target.directory(name, &meta).map(Some)
            }
            _ => {
                let mut to = FileDestination { target: &self.target, file: self.target.file(name, item.size)? };
                let meta = metadata(item, reading.content(&text, item, &mut to).await?);
                self.target.finish(to.file, &meta).map(Some)
            }
        }
    }

    /// Makes another format of one item.
    async fn convert(
        &mut self,
        reading: &mut Reading,
        id: &ItemId,
        item: &Item,
        (format, content, name): (Format, Content, &[u8]),
    ) -> Result<()> {
        let companions = self.companions.get(&id.collection).cloned().unwrap_or_default();
        let five_levels = content == Content::Memory && companions.info().is_some_and(|info| info.five_levels());
        let about = About::of(item, content, companions, self.media(id, item)?);
        let (conversion, name) = convert::conversion(format, content, name, about)?;
        let mut making = Making { out: FileDestination { target: &self.target, file: self.target.file(&name, 0)? }, conversion };
        let attributes = reading.content(&id.to_string(), item, &mut making).await?;
        let made = making.conversion.end(item.size, &mut making.out)?;
        let file = making.out.file;
        self.target.set_len(&file, made.size)?;
        let sha256 = self.target.sha256(&file)?;
        let shown = self.target.finish(file, &metadata(item, attributes))?;
        self.counts.restored += 1;
        self.counts.bytes += made.size;
        let mut notes = made.notes;
        if five_levels {
            notes.push(super::symbols::FIVE_LEVELS.to_owned());
        }
        let text = format!("{shown}\n  {}", relation(item, format, &sha256));
        let fields = json!({
            "item": id.to_string(), "restored": true, "file": shown, "size": item.size, "sha256": item.sha256,
            "as": format.as_str(), "file_size": made.size, "file_sha256": sha256, "same_bytes": item.sha256 == Some(sha256), "notes": notes,
        });
        self.say(id, item, &text, fields)?;
        for note in notes {
            self.out.note(&format!("{id}: {note}"));
        }
        Ok(())
    }

    /// What an E01 file says of itself.
    fn media(&self, id: &ItemId, item: &Item) -> Result<e01::Media> {
        let sha256 = item.sha256.map(|d| d.to_string()).unwrap_or_default();
        let status = item.reason.as_ref().map(|reason| format!("; {}: {reason}", item.status.as_str())).unwrap_or_default();
        let consistency = item.facts.get("consistency").map(|c| format!("; {c}")).unwrap_or_default();
        let what = e01::Description {
            case_number: self.cases.get(&id.collection).cloned().unwrap_or_default(),
            evidence_number: id.to_string(),
            description: item.path.to_string(),
            examiner: self.examiner.clone(),
            notes: format!("SHA-256 {sha256}{status}{consistency}; copied for: {}", self.args.reason),
            acquired: Some(item.taken.start),
            now: Some(clock::now()),
            physical: item.meta.as_ref().is_some_and(|m| m.rdev.is_some()),
        };
        let random = clock::random_32().map_err(|e| Failure::new(Code::Failure, format!("the system has no random numbers: {e}")))?;
        let set = random.first_chunk().copied().unwrap_or_default();
        let sector = item.facts.get("sector_bytes").and_then(|n| n.parse().ok());
        Ok(e01::Media { size: item.size, sector, what, set, bad: item.gaps.iter().map(|g| (g.offset, g.length)).collect() })
    }

    /// Restores a hard link: as one, if what it is another name of was restored as well, else as a file of its own.
    async fn link(&mut self, connection: &mut Connection, id: &ItemId, link: Item) -> Result<()> {
        let target = link.target.as_ref().map(|t| t.as_bytes().to_vec()).unwrap_or_default();
        let member = (id.collection.clone(), id.stream, target);
        let name = self.name(id, &link);
        if let Some(existing) = self.linkable.get(&member) {
            return match self.target.hard_link(existing, &name) {
                Ok(shown) => self.restored(id, &link, &shown, Some(&exhibit_evidence::text::escape_bytes(existing))),
                Err(failure) if failure.exists => self.exists(id, &failure),
                Err(failure) => Err(failure),
            };
        }
        let linked = linked_item(connection, id, &link, &self.args.reason).await?;
        let mut reading = Reading::open(connection, vec![linked.clone()], Action::Download, &self.args.reason).await?;
        let announced = reading.next_item().await?.ok_or_else(|| damaged(&linked, "it is not there"))?;
        let mut item = items::parse(&announced)?;
        self.out.note(&format!("{id}: {} is a hard link to {}, which is not restored: it becomes a file of its own", link.path, item.path));
        item.path = link.path;
        self.one(&mut reading, id, &item).await?;
        // Further links to the same file are links to this one.
        self.linkable.insert(member, name);
        Ok(())
    }

    fn restored(&mut self, id: &ItemId, item: &Item, shown: &str, linked_to: Option<&str>) -> Result<()> {
        self.counts.restored += 1;
        self.counts.bytes += if linked_to.is_some() { 0 } else { item.size };
        let fields = json!({
            "item": id.to_string(), "restored": true, "file": shown, "size": item.size, "sha256": item.sha256, "linked_to": linked_to,
        });
        self.say(id, item, shown, fields)
    }

    /// Says that a file was made, and what of the item is not in it.
    fn say(&mut self, id: &ItemId, item: &Item, text: &str, mut fields: serde_json::Value) -> Result<()> {
        let shortfall = Shortfall::of(item);
        if !shortfall.is_none() {
            self.counts.short += 1;
        }
        if self.out.is_json() {
            shortfall.into_fields(&mut fields);
            return self.out.object(&fields);
        }
        self.out.line(text)?;
        if !shortfall.is_none() && self.counts.short <= SHORT_TOLD_MAX {
            self.out.note(&format!("{id}: {}", shortfall.line(&escape_bounded(&item.path.to_string(), 300))));
        }
        if self.counts.short == SHORT_TOLD_MAX.saturating_add(1) && !shortfall.is_none() {
            self.out.note("further ones are counted only: exhibit items, or --json, names each");
        }
        Ok(())
    }

    fn exists(&mut self, id: &ItemId, failure: &Failure) -> Result<()> {
        self.counts.exists += 1;
        self.left_out(id, "exists", &failure.message)
    }

    fn nothing_to_restore(&mut self, id: &ItemId, item: &Item) -> Result<()> {
        let kind = kind_name(item.kind);
        if item.status == Status::Collected {
            self.counts.by_record += 1;
            return self.left_out(id, "by-record", &format!("{} is kept by record only ({kind}): there is nothing to restore", item.path));
        }
        self.counts.without_content += 1;
        let why = escape_bounded(item.reason.as_deref().unwrap_or("no reason is given"), 300);
        self.left_out(id, item.status.as_str(), &format!("{} is '{}', without content: {why}", item.path, item.status.as_str()))
    }

    fn left_out(&self, id: &ItemId, status: &str, why: &str) -> Result<()> {
        self.out.note(&format!("{id}: {why}"));
        if self.out.is_json() {
            self.out.object(&json!({"item": id.to_string(), "restored": false, "status": status, "reason": why}))?;
        }
        Ok(())
    }
}

/// An item of which another format is made.
struct Making<'a> {
    out: FileDestination<'a>,
    conversion: Box<dyn convert::Conversion>,
}

impl Destination for Making<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.conversion.write(offset, bytes, &mut self.out)
    }
}

impl convert::Output for FileDestination<'_> {
    fn write(&mut self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.target.write(&self.file, offset, bytes)
    }

    fn read(&self, offset: u64, into: &mut [u8]) -> bool {
        self.target.read(&self.file, offset, into)
    }
}

/// A kind in the word that manifests use.
pub fn kind_name(kind: Kind) -> String {
    serde_json::to_value(kind).ok().and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default()
}

/// What a line says of its item, and where it leaves extended attributes out, those that are in the stream.
fn metadata(item: &Item, in_stream: Attributes) -> Metadata {
    let Some(meta) = &item.meta else { return Metadata { mode: 0o600, ..Metadata::default() } };
    let decode = |value: &String| base64::engine::general_purpose::STANDARD.decode(value).unwrap_or_default();
    Metadata {
        mode: meta.mode,
        uid: meta.uid,
        gid: meta.gid,
        mtime: meta.mtime,
        atime: meta.atime,
        xattrs: if meta.xattrs.is_empty() {
            in_stream
        } else {
            meta.xattrs.iter().map(|(key, value)| (key.clone(), decode(value))).collect()
        },
    }
}
