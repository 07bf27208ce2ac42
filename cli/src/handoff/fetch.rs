//! Fetching a case from the coordinator, object by object, in flat memory. Nothing that it says is believed: names are
//! those of the format, in order, of the collections that were asked for; sizes are kept to.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;

use exhibit_evidence::bag::Sums;
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{AuthorityName, CaseObject, TimestampFile};
use exhibit_evidence::log::{BUNDLE_BYTES_MAX, Checkpoint, NOTE_BYTES_MAX};
use exhibit_evidence::stream::SEGMENT_BYTES_MAX;
use exhibit_evidence::text::escape_bounded;
use exhibit_evidence::timestamp::CRL_BYTES_MAX;
use exhibit_proto::bounds::MANIFEST_BYTES_MAX;
use exhibit_proto::responder::v1 as pb;
use exhibit_proto::transport::NEEDS_A_PERSON;
use indicatif::{ProgressBar, ProgressStyle};
use pb::export_case_response::Kind as Answer;

use super::place::{Arrived, Place, cannot};
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::count;

/// What has been fetched.
#[derive(Debug)]
pub struct Fetched {
    /// The head of the log.
    pub head: Checkpoint,
    /// Collections whose evidence is here, in the order of their ids.
    pub collections: Vec<CollectionId>,
    /// Timestamp authorities of the deployment, in the order of their names.
    pub authorities: Vec<String>,
    /// How many revocation lists are going to be kept with the tokens of each, where there are any.
    pub revocation_lists: BTreeMap<String, u8>,
    /// What the coordinator left out.
    pub foreign: Foreign,
}

/// Objects in the folders of sealed collections that no signed manifest names.
#[derive(Debug, Default)]
pub struct Foreign {
    /// How many.
    pub count: u64,
    /// The first of them, relative to the case's folder, escaped.
    pub names: Vec<String>,
}

impl Foreign {
    fn read(head: &pb::ExportHead) -> Self {
        let names = head.foreign_names.iter().take(FOREIGN_NAMED_MAX).map(|name| escape_bounded(name, 200)).collect();
        Self { count: head.foreign_objects, names }
    }

    /// The line for people; none when nothing was left out.
    pub fn line(&self) -> Option<String> {
        if self.count == 0 {
            return None;
        }
        let (objects, names) = (count(self.count, "object", "objects"), self.names.join("', '"));
        let like = if names.is_empty() { String::new() } else { format!(", like '{names}'") };
        Some(format!(
            "left out: {objects} in the folders of sealed collections that no signed manifest names{like}: somebody else wrote into the \
             store; tell whoever runs the coordinator (incident 'store-foreign')"
        ))
    }
}

/// Names that are shown of what was left out.
const FOREIGN_NAMED_MAX: usize = 5;

/// An object that is arriving.
struct Incoming {
    file: File,
    name: String,
    size: u64,
    had: u64,
    sums: Sums,
}

fn wrong(what: impl std::fmt::Display) -> Failure {
    Failure::new(Code::Failure, format!("the coordinator's answer is not a case: {what}"))
}

/// Fetches everything that is not here yet.
pub async fn fetch(connection: &mut Connection, request: pb::ExportCaseRequest, place: &mut Place, out: &Output) -> Result<Fetched> {
    let asked: Vec<CollectionId> = request.collections.iter().map(|c| parse_id(c)).collect::<Result<_>>()?;
    let mut stream = connection.rpc().export_case(request).await?.into_inner();
    let Some(Answer::Head(head)) = stream.message().await.map_err(again)?.and_then(|m| m.kind) else { return Err(wrong("it has no head")) };
    let fetched = read_head(&head, &asked)?;
    if let Some(how) = place.tell() {
        out.note(&format!("if this is interrupted, {how}"));
    }
    let bar = progress(out, "fetching: {bytes} ({bytes_per_sec})");
    let mut last = place.after();
    let mut incoming: Option<Incoming> = None;
    while let Some(message) = stream.message().await.map_err(again)? {
        match message.kind {
            Some(Answer::Object(object)) if incoming.is_none() => {
                check_name(&object, &last, &fetched)?;
                last.clone_from(&object.name);
                incoming = Some(Incoming { file: place.incoming()?, name: object.name, size: object.size, had: 0, sums: Sums::new() });
            }
            Some(Answer::Data(bytes)) => {
                let object = incoming.as_mut().ok_or_else(|| wrong("bytes of no object"))?;
                object.had = object.had.saturating_add(bytes.len() as u64);
                object.sums.update(&bytes);
                object.file.write_all(&bytes).map_err(|e| cannot("write", place.bag(), &e))?;
                bar.inc(bytes.len() as u64);
            }
            _ => return Err(wrong("an object is not whole")),
        }
        if let Some(object) = incoming.take_if(|o| o.had >= o.size) {
            keep(place, object)?;
        }
    }
    if incoming.is_some() {
        return Err(wrong("it ends within an object"));
    }
    bar.finish_and_clear();
    keep_checkpoint(place, &head.checkpoint)?;
    Ok(fetched)
}

/// What is made of a case is made of its records. One that did not arrive is missing where the evidence lies, and not on this disk.
///
/// # Errors
/// [`Code::Damaged`] with the first record that is not here.
pub fn all_records(place: &Place, head: &Checkpoint) -> Result<()> {
    let mut names = (0..head.size).map(|n| (n, CaseObject::Slot(n).to_string()));
    let Some((n, name)) = names.find(|(_, name)| !place.arrived.contains_key(name)) else { return Ok(()) };
    Err(Failure::new(Code::Damaged, format!("the coordinator did not give record {n} of {}, '{name}': it is missing in the store", head.size))
        .hint("tell whoever runs the coordinator: 'exhibit-coordinator store verify' says more; what has arrived is kept, and the same command goes on when the record is back"))
}

/// A lost connection loses nothing: how the export goes on is said by whoever began it. Not of what does not pass by itself: the same
/// command again would end in the same way, until somebody has seen to it.
fn again(status: tonic::Status) -> Failure {
    let lasts = status.metadata().contains_key(NEEDS_A_PERSON);
    let mut failure = Failure::from(status);
    if failure.code == Code::Unavailable && !lasts {
        failure.hint = None;
    }
    failure
}

/// A line that counts bytes, for a person who watches.
pub fn progress(out: &Output, template: &str) -> ProgressBar {
    if !out.is_watched() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar
}

fn read_head(head: &pb::ExportHead, asked: &[CollectionId]) -> Result<Fetched> {
    let checkpoint = Checkpoint::parse_unverified(&head.checkpoint).map_err(|e| wrong(escape_bounded(&e.to_string(), 200)))?;
    if checkpoint.size != head.size {
        return Err(wrong("its head has another size than it says"));
    }
    let collections: Vec<CollectionId> = head.collections.iter().map(|c| parse_id(c)).collect::<Result<_>>()?;
    if !collections.is_sorted_by(|a, b| a < b) {
        return Err(wrong("its collections are not in order"));
    }
    if !asked.is_empty() && (asked.len() != collections.len() || asked.iter().any(|id| collections.binary_search(id).is_err())) {
        return Err(wrong("it gives other collections than were asked for"));
    }
    let authorities = &head.authorities;
    if !authorities.is_sorted_by(|a, b| a < b) || authorities.iter().any(|name| name.parse::<AuthorityName>().is_err()) {
        return Err(wrong("its timestamp authorities are no names in their order"));
    }
    // A coordinator that does not know of them announces none.
    if !head.revocation_lists.is_empty() && head.revocation_lists.len() != authorities.len() {
        return Err(wrong("its revocation lists are not those of its timestamp authorities"));
    }
    let mut revocation_lists = BTreeMap::new();
    for (name, n) in authorities.iter().zip(&head.revocation_lists).filter(|(_, n)| **n > 0) {
        let n = u8::try_from(*n).ok().filter(|n| *n <= TimestampFile::CRLS_MAX);
        revocation_lists.insert(name.clone(), n.ok_or_else(|| wrong("it announces more revocation lists than are kept"))?);
    }
    Ok(Fetched { head: checkpoint, collections, authorities: authorities.clone(), revocation_lists, foreign: Foreign::read(head) })
}

fn check_name(object: &pb::ExportedObject, last: &str, fetched: &Fetched) -> Result<()> {
    let shown = escape_bounded(&object.name, 120);
    let max = match CaseObject::parse(&object.name) {
        Some(CaseObject::Segment(id, ..)) if fetched.collections.binary_search(&id).is_ok() => SEGMENT_BYTES_MAX as u64,
        Some(CaseObject::Manifest(id, _)) if fetched.collections.binary_search(&id).is_ok() => MANIFEST_BYTES_MAX,
        Some(CaseObject::Slot(n)) if n < fetched.head.size => 65_535,
        Some(CaseObject::Tile(_)) => BUNDLE_BYTES_MAX,
        Some(CaseObject::Cosigned(..)) => NOTE_BYTES_MAX as u64,
        Some(CaseObject::Timestamp(size, _)) if size <= fetched.head.size => CRL_BYTES_MAX as u64,
        _ => return Err(wrong(format!("'{shown}' is nothing that was asked for"))),
    };
    if object.name.as_str() <= last {
        return Err(wrong(format!("'{shown}' is out of order")));
    }
    if object.size > max {
        return Err(wrong(format!("'{shown}' has {} bytes, at most {max} are allowed", object.size)));
    }
    Ok(())
}

fn keep(place: &mut Place, object: Incoming) -> Result<()> {
    if object.had != object.size {
        return Err(wrong(format!("'{}' has more bytes than announced", escape_bounded(&object.name, 120))));
    }
    let (sha256, sha512) = object.sums.finish();
    place.keep(&object.file, &object.name, Arrived { size: object.size, sha256, sha512 })
}

/// The head comes last: with it the case is whole.
fn keep_checkpoint(place: &mut Place, checkpoint: &[u8]) -> Result<()> {
    let mut sums = Sums::new();
    sums.update(checkpoint);
    let mut file = place.incoming()?;
    file.write_all(checkpoint).map_err(|e| cannot("write", place.bag(), &e))?;
    let name = CaseObject::Checkpoint.to_string();
    keep(place, Incoming { file, name, size: checkpoint.len() as u64, had: checkpoint.len() as u64, sums })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_again_is_for_what_passes_by_itself() {
        assert_eq!(again(tonic::Status::unavailable("the store is disturbed")).hint, None, "whoever began it says how it goes on");
        let mut full = tonic::Status::unavailable("the store is full (free space)");
        full.metadata_mut().insert(NEEDS_A_PERSON, tonic::metadata::MetadataValue::from_static("true"));
        let hint = again(full).hint.expect("a hint");
        assert!(hint.contains("whoever runs the coordinator"), "{hint}");
    }

    #[test]
    fn what_was_left_out_is_a_line_of_bounded_length_that_acts_on_no_terminal() {
        let head = |n, names: &[&str]| pb::ExportHead {
            foreign_objects: n,
            foreign_names: names.iter().map(|name| (*name).to_owned()).collect(),
            ..pb::ExportHead::default()
        };
        assert_eq!(Foreign::read(&head(0, &[])).line(), None);
        let line = Foreign::read(&head(1, &["collections/c/s9/x\n\u{1b}[2J"])).line().expect("told");
        assert!(line.contains("1 object in") && line.contains(r"like 'collections/c/s9/x\n\x1b[2J': "), "{line}");
        let many = Foreign::read(&head(9_000, &["x".repeat(10_000).as_str(); 40]));
        let line = many.line().expect("told");
        assert!(many.names.len() == FOREIGN_NAMED_MAX && line.contains("9000 objects") && line.len() < 2_000, "{line}");
    }
}
