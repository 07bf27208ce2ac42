//! Handing a case over: fetched as it is stored, verified, described for people and programs, signed, and only then named.

mod certificate;
mod destroyed;
mod details;
mod envelope;
mod evidence;
mod exhibits;
mod facts;
mod fetch;
mod folder;
mod form;
mod items;
mod ontology;
mod place;
mod reasons;
mod release;
mod report;
mod schemas;
mod scope;
mod stamp;
mod statements;
mod tags;
mod unapproved;
mod words;

use std::collections::BTreeSet;

use exhibit_evidence::age::Identity;
use exhibit_evidence::bag::{Description, FORMAT, View};
use exhibit_evidence::id::{CaseId, CollectionId};
use exhibit_evidence::record::{Nonce, Tool};
use exhibit_evidence::verify::{self, Options, Report, Verdict};
use exhibit_proto::responder::v1 as pb;
use serde_json::json;

use crate::args::handoff::ExportArgs;
use crate::clock;
use crate::commands::readable;
use crate::connection::{Connection, parse_id};
use crate::exit::{Code, Failure, Result};
use crate::output::Output;
use crate::units::{count, show_bytes};

use crate::document::{Document, Language, html, pdf};

use facts::Facts;
use folder::Folder;
use place::{Place, What};

/// The steps to verify a bag with foreign programs. `{{...}}` is filled in.
const VERIFY: &str = include_str!("VERIFY.md");

/// Exports a case.
///
/// Order of writes, each of which may be the last before the process dies; the same command then goes on:
///
/// 1. the case, object by object, into `DIR.partial/data` ([`fetch`], [`Place::keep`])
/// 2. what is made of it: documents, proofs, expanded files
/// 3. manifests, tag files, signature ([`tags::write`])
/// 4. timestamps over all of that ([`stamp::ask`])
/// 5. its name ([`Place::finish`])
///
/// # Errors
/// What stops it. A case that is not sound stops nothing: the bag says so, and the exit code is [`Code::Damaged`].
pub async fn export(connection: &mut Connection, args: ExportArgs, out: &Output) -> Result<Code> {
    let folder = args.out.clone();
    export_all(connection, args, out).await.map_err(|failure| match (&failure.hint, place::unfinished(&folder)) {
        // The same again would be refused again.
        (None, Some(_)) if failure.code == Code::NotPermitted => failure.hint("what had arrived before is kept for when it is permitted"),
        (None, Some(how)) => failure.hint(how),
        (None, None) if failure.code == Code::Unavailable => failure.hint("run the same command again; nothing had arrived"),
        _ => failure,
    })
}

async fn export_all(connection: &mut Connection, args: ExportArgs, out: &Output) -> Result<Code> {
    let case: CaseId = parse_id(&args.case)?;
    let asked: BTreeSet<CollectionId> = args.collections.iter().map(|c| parse_id(c)).collect::<Result<_>>()?;
    let collections: Vec<String> = asked.iter().map(ToString::to_string).collect();
    let what = What {
        format: "exhibit-export/1".to_owned(),
        deployment: connection.deployment().to_owned(),
        case: case.to_string(),
        collections: collections.clone(),
    };
    let recipients = envelope::Recipients::read(&args.recipients, &args.recipient_certificates)?;
    let identities = args.identity.read()?;
    if args.expand || !identities.is_empty() {
        readable::must_open(connection, Some(&case), &BTreeSet::new(), &identities)
            .await
            .map_err(|failure| or_leave_out(&args, failure))?;
    }
    let mut place = Place::open(&args.out, &what)?;
    if !place.arrived.is_empty() {
        out.note(&format!("going on: {} are here already", count(place.arrived.len() as u64, "object", "objects")));
    }
    let goes_on = !place.arrived.is_empty();
    let request = |connection: &Connection, after: String| pb::ExportCaseRequest {
        case_id: case.to_string(),
        collections: collections.clone(),
        key: connection.evidence_key().public().id().as_bytes().to_vec(),
        after,
        reason: args.reason.clone(),
    };
    let asked = request(connection, place.after());
    let mut fetched = fetch::fetch(connection, asked, &mut place, out).await.inspect_err(|_| place.take_back())?;
    place.clear_derived()?;
    let mut report = verified(connection, &place, &fetched, (&identities, out))?;
    if goes_on && report.verdict == Verdict::Unsound {
        // The case went on between two tries: something came, or was destroyed, at a place that was passed already.
        out.note("what had arrived does not fit the case any more, because it went on meanwhile: fetching it once more from the start");
        place.restart(&what)?;
        let asked = request(connection, String::new());
        fetched = fetch::fetch(connection, asked, &mut place, out).await?;
        report = verified(connection, &place, &fetched, (&identities, out))?;
    }
    fetch::all_records(&place, &fetched.head)?;
    if let (true, Some(opened)) = (args.expand, &report.case) {
        // The record itself says to whom; before, only the coordinator did.
        let to: Vec<String> = opened.encrypt_to.as_slice().iter().map(ToString::to_string).collect();
        readable::opens(&case, &to, &identities).map_err(|failure| or_leave_out(&args, failure))?;
    }
    let description = describe(connection, &args, case, &report, &fetched)?;
    let mut facts = Facts::read(&place, connection.anchor(), report, description)?;
    facts.description.views = Some(derive(&place, &facts, args.expand, &identities)?);
    let verdict = in_tags(&facts);
    let title = facts.report.case.as_ref().map_or("", |c| c.title.as_str());
    let sealed = tags::write(&place, &facts.description, &tags::Info { title, verdict: &verdict }, connection.evidence_key())?;
    let stamps = stamp::ask(connection, &place, &facts.description, sealed, out).await?;
    let bytes = place.arrived.values().fold(0_u64, |sum, o| sum.saturating_add(o.size));
    let objects = place.arrived.len() as u64;
    let key_files = if recipients.are_none() {
        place.finish()?;
        Vec::new()
    } else {
        place.sync()?;
        envelope::seal(place, facts.description.case.as_str(), &recipients)?
    };
    let sealed = Sealed { manifest: sealed.to_string(), stamps, key_files, foreign: fetched.foreign };
    say(&args, &facts, (objects, bytes), &sealed, out)
}

/// A verdict as the bag's own tags say it.
fn in_tags(facts: &Facts) -> String {
    match facts.report.verdict {
        Verdict::Sound => "sound".to_owned(),
        Verdict::SoundAsFarAsReadable => format!("sound as far as it can be read: {}", not_checked(facts)),
        Verdict::Unsound => "NOT SOUND: see the documents".to_owned(),
    }
}

/// What nobody decrypted, for what is written in one language.
fn not_checked(facts: &Facts) -> String {
    words::not_checked(Language::En, words::unread(facts).unwrap_or_default())
}

/// The remedy where no identity opens the contents that are to be expanded.
fn or_leave_out(args: &ExportArgs, failure: Failure) -> Failure {
    let wants_identity = failure.hint.as_ref().is_some_and(|hint| hint.contains("--identity"));
    if args.expand && failure.code == Code::Input && wants_identity {
        return failure.hint("give --identity FILE with the age identity of a recipient, or leave --expand out");
    }
    failure
}

/// What makes a document.
type Make = fn(Language, &Facts) -> Document;

/// Makes what is made of the case: proofs, CASE, documents, lists, steps to verify, and says which were made.
fn derive(place: &Place, facts: &Facts, expand: bool, identities: &[Identity]) -> Result<Vec<View>> {
    let failed = |e: serde_json::Error| Failure::new(Code::Failure, format!("{}: {e}", ontology::FILE));
    let checkpoint = std::fs::read(place.object("log/checkpoint")).map_err(|e| place::cannot("read", place.bag(), &e))?;
    let proven = facts.seals.iter().map(|s| s.n).chain(facts.handlings.iter().filter(|h| h.action == "export").map(|h| h.n));
    for n in proven {
        if let Some(proof) = facts.proof(n, &checkpoint) {
            place.write(&format!("proofs/{n:010}.tlog-proof"), &proof.to_bytes())?;
        }
    }
    place.write(ontology::FILE, &ontology::case(facts).map_err(failed)?)?;
    let steps = VERIFY.replace("{{CASE}}", facts.description.case.as_str()).replace("{{DEPLOYMENT}}", &facts.description.deployment);
    place.write("VERIFY.md", steps.as_bytes())?;
    for (name, content) in schemas::ALL {
        place.write(&format!("schemas/{name}"), content.as_bytes())?;
    }
    let documents: [(&str, Make); 4] = [
        ("report", report::report),
        ("chain-of-custody", form::form),
        ("certificate-902-14", statements::certificate),
        ("statement-27037", statements::handling),
    ];
    for language in Language::ALL {
        for (name, make) in &documents {
            let document = make(language, facts);
            let file = |ending: &str| format!("documents/{name}.{}.{ending}", language.tag());
            place.write(&file("html"), html(&document).as_bytes())?;
            place.write(&file("pdf"), &pdf(&document)?)?;
        }
    }
    let listed = match exhibits::write(place, facts, expand, identities) {
        // What is damaged cannot be listed. The bag is made nevertheless, and its report says what is wrong.
        Err(failure) if failure.code == Code::Damaged && facts.report.verdict == Verdict::Unsound => {
            place.remove("load-file")?;
            place.remove("expanded")?;
            place.write("load-file/NOT-MADE.txt", format!("{}\n", failure.message).as_bytes())?;
            false
        }
        done => done.map(|()| true)?,
    };
    let is_made = |view: &View| match view {
        View::Expanded => listed && expand,
        View::LoadFile => listed,
        View::Documents | View::Ontology | View::Proofs | View::Schemas | View::Steps => true,
    };
    Ok(View::ALL.into_iter().filter(is_made).collect())
}

/// The collections of the log whose evidence is not here.
fn left_out(report: &Report, fetched: &fetch::Fetched) -> Vec<CollectionId> {
    let all: BTreeSet<&CollectionId> = report.collections.iter().map(|c| &c.id).collect();
    all.into_iter().filter(|id| fetched.collections.binary_search(id).is_err()).cloned().collect()
}

/// Reads everything that was fetched as a court would: with the anchor alone.
fn verified(connection: &Connection, place: &Place, fetched: &fetch::Fetched, (identities, out): (&[Identity], &Output)) -> Result<Report> {
    let folder = Folder(place.case());
    // Every byte is read and hashed again: of a large case that takes as long as its disk does.
    let bar = fetch::progress(out, "verifying: {bytes} of {total_bytes}, {eta} left");
    let mut each = |p: verify::Progress| {
        bar.set_length(p.bytes_total);
        bar.set_position(p.bytes);
    };
    // An input that is not valid is an identity that opens nothing of the case.
    let failed = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::InvalidInput => Failure::new(Code::Input, e.to_string()).hint("give --identity FILE of one of the recipients"),
        _ => place::cannot("read", place.bag(), &e),
    };
    let mut read = |left_out: Vec<CollectionId>| {
        let options = Options { left_out, identities: identities.to_vec(), ..Options::default() };
        verify::verify(&folder, connection.anchor(), &options, &mut each).map_err(failed)
    };
    // The log says which collections there are; without the others nothing is missing.
    let log_only = LogOnly(&folder);
    let all = verify::verify(&log_only, connection.anchor(), &Options::default(), &mut |_| {})
        .map_err(|e| place::cannot("read", place.bag(), &e))?;
    let report = read(left_out(&all, fetched));
    bar.finish_and_clear();
    let report = report?;
    match &report.checkpoint {
        Some(head) if (head.size, head.root) == (fetched.head.size, fetched.head.root) => Ok(report),
        _ => {
            Err(Failure::new(Code::Damaged, "the log that arrived has no head that its key signed")
                .hint("verify the case with exhibit-verify"))
        }
    }
}

/// The log of a case without its evidence.
struct LogOnly<'a>(&'a Folder);

impl verify::CaseFiles for LogOnly<'_> {
    fn list(&self, each: &mut dyn FnMut(verify::Entry<'_>)) -> std::io::Result<()> {
        self.0.list(&mut |entry| {
            if entry.name.starts_with(b"log") {
                each(entry);
            }
        })
    }

    fn open(&self, name: &str) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        self.0.open(name)
    }
}

fn describe(connection: &Connection, args: &ExportArgs, case: CaseId, report: &Report, fetched: &fetch::Fetched) -> Result<Description> {
    let program = std::env::current_exe().and_then(|path| tags::digest(&path));
    let sha256 = program.map_err(|e| Failure::new(Code::Failure, format!("cannot read this program: {e}")))?;
    Ok(Description {
        format: FORMAT.to_owned(),
        deployment: connection.deployment().to_owned(),
        case,
        head: Nonce { size: fetched.head.size, root: fetched.head.root },
        collections: fetched.collections.clone(),
        left_out: left_out(report, fetched),
        exported_by: connection.name(),
        key: connection.evidence_key().public().id(),
        exported_at: clock::now(),
        reason: args.reason.clone(),
        tool: Tool { name: "exhibit".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned(), sha256 },
        authorities: fetched.authorities.clone(),
        revocation_lists: fetched.revocation_lists.clone(),
        // Said when they were made.
        views: None,
    })
}

/// What was made of the finished bag.
struct Sealed {
    /// SHA-256 of the tag manifest.
    manifest: String,
    stamps: Vec<stamp::Stamp>,
    /// Files with the key for those who have certificates.
    key_files: Vec<String>,
    /// What the coordinator left out.
    foreign: fetch::Foreign,
}

fn say(args: &ExportArgs, facts: &Facts, (objects, bytes): (u64, u64), sealed: &Sealed, out: &Output) -> Result<Code> {
    let Sealed { manifest: sealed, stamps, key_files, foreign } = sealed;
    let (report, description) = (&facts.report, &facts.description);
    let sound = report.verdict.is_sound();
    let encrypted = !args.recipients.is_empty() || !args.recipient_certificates.is_empty();
    let place = format!("{}{}", args.out.display(), if encrypted { ".tar.age" } else { "" });
    if out.is_json() {
        out.object(&json!({
            "bag": place, "case": description.case, "objects": objects, "bytes": bytes, "left_out": description.left_out,
            "log_size": description.head.size, "log_root": description.head.root, "tagmanifest_sha256": sealed, "verdict": report.verdict,
            "items_unchecked": report.counts.items_unchecked, "segments_unchecked": words::unread(facts).map_or(0, |(_, segments)| segments),
            "recipients": args.recipients, "key_files": key_files, "timestamps": stamps,
            "foreign_objects": foreign.count, "foreign_names": foreign.names,
        }))?;
    } else {
        let (head, files) = (&description.head, count(objects, "object", "objects"));
        out.line(&format!("{place}: {files} ({}), log head {}:{}", show_bytes(bytes), head.size, head.root))?;
        out.line(&format!("for the paper form: SHA-256 of tagmanifest-sha256.txt is {sealed}"))?;
        for stamp in stamps {
            if let Some(time) = stamp.time {
                out.line(&format!("stamped by '{}' at {time}", stamp.authority))?;
            }
        }
        if report.verdict == Verdict::SoundAsFarAsReadable {
            out.line(&format!("SOUND AS FAR AS IT CAN BE READ: {}", not_checked(facts)))?;
            out.note("so the certificate and the statement have no line for a signature; a recipient makes them with --identity FILE");
        }
        if let Some(line) = foreign.line() {
            out.line(&line)?;
        }
        if !description.left_out.is_empty() {
            out.note(&format!("left out by choice: {}", count(description.left_out.len() as u64, "collection", "collections")));
        }
        let open = report.collections.iter().filter(|c| c.outcome.is_none() && !c.unapproved).count() as u64;
        if open > 0 {
            let them = count(open, "collection is still open: what it brings", "collections are still open: what they bring");
            out.note(&format!("{them} later is not in this bag"));
        }
        let next = if encrypted {
            for file in key_files {
                out.line(&format!("{file}: the key, for the holder of that certificate"))?;
            }
            let with_key = if key_files.is_empty() { "" } else { "openssl cms -decrypt gives the key file; " };
            format!("{with_key}the recipient opens it with age -d and tar")
        } else {
            format!("exhibit-verify {place} --anchor anchor.json")
        };
        out.note(&format!("next: {next}; exhibit anchor print gives the sheet for the paper form"));
    }
    if sound {
        return Ok(Code::Ok);
    }
    let (errors, warnings, _) = report.findings.counts();
    Err(Failure::new(Code::Damaged, format!("the bag was made, but the case in it is not sound: {errors} errors, {warnings} warnings"))
        .hint("exhibit-verify shows them; the bag's documents name them as well"))
}
