//! Verification of a bag: the case in it as any case, and that the bag is what its signer handed over.
//!
//! The order is again that of trust: the tag manifest and the files that it names, the case with its log, the signature
//! by a key that this log enrols, what the bag says about itself, then every file of the payload. Files that no manifest
//! names come last.
//!
//! Memory: about 300 bytes per file of the bag.

use std::collections::BTreeMap;
use std::io::{self, Read as _};

mod export;
mod info;
mod names;
mod stamps;
mod views;

use stamps::Stamps;

use super::report::BagSummary;
use super::timestamps;
use super::{CaseFiles, Checked, Code, Entry, EntryKind, Findings, Options, Progress, Report, check_case, read_bounded, unreadable};
use crate::anchor::Anchor;
use crate::bag::{
    BAGIT, DECLARATION, DESCRIPTION, DESCRIPTION_BYTES_MAX, Description, LINE_BYTES_MAX, MANIFEST_SHA256, MANIFEST_SHA512, PAYLOAD,
    SIGNATURE, Sums, TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX, is_outside_manifests, parse_manifest_line,
};
use crate::record::Role;
use crate::text::{escape_bounded, escape_bytes};

/// Verifies a bag. Findings about the case name its objects relative to the case's folder, which is `data/` here.
///
/// # Errors
/// As [`verify`](super::verify).
pub fn verify_bag(files: &dyn CaseFiles, anchor: &Anchor, options: &Options, progress: &mut dyn FnMut(Progress)) -> io::Result<Report> {
    let mut findings = Findings::default();
    let mut bag = Bag::list(files, &mut findings)?;
    bag.check_declaration(&mut findings);
    let tag_manifest = bag.manifest(TAG_MANIFEST, 64, &mut findings);
    let tag_files = tag_manifest.len() as u64;
    let tags: Files = tag_manifest.into_iter().map(|(name, sha256)| (name, Digests { sha256: Some(sha256), sha512: None })).collect();
    bag.check_files(&tags, &mut findings, &mut |_| {});
    let description = bag.description(&mut findings);

    let left_out = description.as_ref().map(|d| d.left_out.clone()).unwrap_or_default();
    let options = Options { left_out, is_bag: true, ..options.clone() };
    let payload_bytes = bag.payload_bytes();
    let both = |p: Progress| Progress { bytes_total: p.bytes_total.saturating_add(payload_bytes), ..p };
    let mut case = check_case(&Payload(files), anchor, &options, &mut findings, &mut |p| progress(both(p)))?;
    let signed = description.as_ref().is_some_and(|d| bag.check_signed(d, &case, &mut findings));
    if let Some(description) = &description {
        bag.check_description(description, anchor, &case, &mut findings);
        info::check(&bag, description, &case, &mut findings);
    }
    let stamps = Stamps { bag: &bag, options: &options, size: case.history.size }.check(description.as_ref(), &mut findings);
    if let Some(description) = &description {
        export::check(description, &case.chain, &stamps, &mut findings);
    }
    views::check(&bag, &tags, &case, description.as_ref(), &mut findings);

    let payload = bag.payload_manifests(&mut findings);
    let payload_files = payload.len() as u64;
    let mut state = both(case.progress);
    bag.check_files(&payload, &mut findings, &mut |bytes| {
        state.bytes = state.bytes.saturating_add(bytes);
        progress(state);
    });
    // Over the tag manifest is over every record, as long as the manifests say what is there.
    let over_all = stamps.iter().filter(|_| bag.binds_the_log()).filter_map(timestamps::believed);
    case.history.timestamps.tokens.extend(over_all);
    let said = timestamps::conclude(&options, &case.history.timestamps.tokens, &mut case.chain, &mut findings);
    case.history.timestamps.last = said;
    bag.account(&mut findings);
    let summary = description.map(|d| BagSummary {
        exported_by: d.exported_by,
        exported_at: d.exported_at,
        reason: d.reason,
        key: d.key,
        signed,
        left_out: d.left_out,
        timestamps: stamps,
        payload_files,
        tag_files,
        views: d.views,
    });
    Ok(Report { bag: summary, ..case.report(anchor, findings) })
}

/// The case inside a bag.
struct Payload<'a>(&'a dyn CaseFiles);

impl CaseFiles for Payload<'_> {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        self.0.list(&mut |entry| {
            if let Some(name) = entry.name.strip_prefix(PAYLOAD.as_bytes()) {
                each(Entry { name, ..entry });
            }
        })
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn io::Read + '_>> {
        self.0.open(&format!("{PAYLOAD}{name}"))
    }
}

/// What manifests state about a file.
#[derive(Debug, Default)]
struct Digests {
    sha256: Option<String>,
    sha512: Option<String>,
}

type Files = BTreeMap<String, Digests>;

/// The folder of the log's records in a bag.
const RECORDS: &str = "data/log/seq/";

/// A file that is there.
#[derive(Debug)]
struct Found {
    size: u64,
    listed: bool,
    /// It has the SHA-256 that a manifest states.
    holds: bool,
}

struct Bag<'a> {
    files: &'a dyn CaseFiles,
    found: BTreeMap<String, Found>,
}

impl<'a> Bag<'a> {
    /// Lists the bag. What lies below the payload and is no plain file is the case's to report.
    fn list(files: &'a dyn CaseFiles, findings: &mut Findings) -> io::Result<Self> {
        let mut found = BTreeMap::new();
        files.list(&mut |entry| {
            let shown = escape_bytes(entry.name);
            let in_payload = entry.name.starts_with(PAYLOAD.as_bytes());
            match (entry.kind, std::str::from_utf8(entry.name)) {
                (EntryKind::Other, _) if !in_payload => {
                    findings.add(Code::ObjectNotAFile, &shown, format!("'{shown}' is not a plain file; it was not followed"));
                }
                (EntryKind::File, Ok(name)) => {
                    found.insert(name.to_owned(), Found { size: entry.size, listed: false, holds: false });
                }
                (EntryKind::File, Err(_)) => {
                    findings.add(Code::BagFileUnlisted, &shown, format!("'{shown}' is named by no manifest of the bag"));
                }
                (EntryKind::Folder { empty: true }, _) if !in_payload => {
                    findings.add(Code::BagFileUnlisted, &shown, format!("'{shown}' is a folder without files, which no manifest can name"));
                }
                (EntryKind::Folder { .. } | EntryKind::Other, _) => {}
            }
        })?;
        Ok(Self { files, found })
    }

    fn payload_bytes(&self) -> u64 {
        self.found.iter().filter(|(name, _)| name.starts_with(PAYLOAD)).fold(0, |sum: u64, (_, f)| sum.saturating_add(f.size))
    }

    /// A small file whole.
    fn read(&self, name: &str, bytes_max: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        read_bounded(self.files, name, bytes_max, &mut bytes).map(|()| bytes)
    }

    fn check_declaration(&self, findings: &mut Findings) {
        match self.read(BAGIT, 1_024) {
            Ok(bytes) if bytes == DECLARATION.as_bytes() => {}
            Ok(_) => findings.add(
                Code::BagDeclaration,
                BAGIT,
                "bagit.txt does not say 'BagIt-Version: 1.0' and 'Tag-File-Character-Encoding: UTF-8'",
            ),
            Err(e) => findings.add(unreadable(&e, Code::BagDeclaration), BAGIT, format!("bagit.txt cannot be read: {e}")),
        }
    }

    /// Reads a manifest line by line. A line that is none is a finding, and the others still count.
    fn manifest(&self, name: &str, hex_length: usize, findings: &mut Findings) -> BTreeMap<String, String> {
        let mut files = BTreeMap::new();
        let read = self.files.open(name).and_then(|reader| {
            let mut number = 0_u64;
            each_line(reader, &mut |line| {
                number = number.saturating_add(1);
                let entry = line.ok_or("it is too long, is no UTF-8, or has no line end").and_then(|l| parse_manifest_line(l, hex_length));
                let problem = match entry {
                    Ok((_, path)) if path.starts_with(PAYLOAD) == (name == TAG_MANIFEST) || is_outside_manifests(&path) => {
                        format!("'{}' does not belong into this manifest", escape_bounded(&path, 200))
                    }
                    Ok((digest, path)) => match files.insert(path.clone(), digest) {
                        None => return,
                        Some(_) => format!("'{}' is named twice", escape_bounded(&path, 200)),
                    },
                    Err(problem) => problem.to_owned(),
                };
                findings.add(Code::BagManifest, name, format!("{name}, line {number}: {problem}"));
            })
        });
        if let Err(e) = read {
            findings.add(unreadable(&e, Code::BagManifest), name, format!("{name} cannot be read: {e}"));
        }
        files
    }

    /// Both payload manifests, which must name the same files.
    fn payload_manifests(&self, findings: &mut Findings) -> Files {
        let sha256 = self.manifest(MANIFEST_SHA256, 64, findings);
        let mut sha512 = self.manifest(MANIFEST_SHA512, 128, findings);
        let mut differ = |missing_in: &str, path: &str| {
            findings.add(Code::BagManifest, missing_in, format!("{missing_in} does not name '{}'", escape_bounded(path, 300)));
        };
        let mut files = Files::new();
        for (path, sha256) in sha256 {
            let sha512 = sha512.remove(&path);
            if sha512.is_none() {
                differ(MANIFEST_SHA512, &path);
            }
            files.insert(path, Digests { sha256: Some(sha256), sha512 });
        }
        for (path, sha512) in sha512 {
            differ(MANIFEST_SHA256, &path);
            files.insert(path, Digests { sha256: None, sha512: Some(sha512) });
        }
        files
    }

    /// Reads every file that a manifest names and compares it.
    fn check_files(&mut self, files: &Files, findings: &mut Findings, tick: &mut dyn FnMut(u64)) {
        for (name, digests) in files {
            let shown = escape_bounded(name, 300);
            let Some(found) = self.found.get_mut(name) else {
                findings.add(Code::BagFileMissing, &shown, format!("'{shown}' is named by a manifest of the bag and is not there"));
                continue;
            };
            found.listed = true;
            let sums = self.files.open(name).and_then(|reader| sums(reader, tick));
            let (sha256, sha512) = match sums {
                Ok(sums) => sums.finish(),
                Err(e) => {
                    findings.add(unreadable(&e, Code::BagFileMissing), &shown, format!("'{shown}' cannot be read: {e}"));
                    continue;
                }
            };
            let sha256 = sha256.to_string();
            found.holds = digests.sha256.as_ref() == Some(&sha256);
            for (kind, stated, found) in [("SHA-256", &digests.sha256, sha256), ("SHA-512", &digests.sha512, sha512)] {
                if let Some(stated) = stated.as_ref().filter(|stated| **stated != found) {
                    findings.add(
                        Code::BagFileDigest,
                        &shown,
                        format!("the {kind} of '{shown}' is {found}, the bag's manifest states {stated}"),
                    );
                }
            }
        }
    }

    fn description(&self, findings: &mut Findings) -> Option<Description> {
        match self.read(DESCRIPTION, DESCRIPTION_BYTES_MAX) {
            Ok(bytes) => Description::parse(&bytes)
                .inspect_err(|e| findings.add(Code::BagDescription, DESCRIPTION, format!("bag.json: {}", escape_bounded(e, 300))))
                .ok(),
            Err(e) => {
                findings.add(unreadable(&e, Code::BagDescription), DESCRIPTION, format!("bag.json cannot be read: {e}"));
                None
            }
        }
    }

    /// The signature, by a key that the log in the bag enrols for a person who may hand a case over. True when all holds.
    fn check_signed(&self, description: &Description, case: &Checked, findings: &mut Findings) -> bool {
        let (key, name) = (description.key, escape_bounded(&description.exported_by, 200));
        if case.chain.exports_by(&description.exported_by).is_empty() {
            let message = format!("no access record of the log says that '{name}' exported the case");
            findings.add(Code::BagAccess, DESCRIPTION, message);
        }
        let Some((holder, _, public)) = case.history.ring.holder(key) else {
            findings.add(Code::BagSigner, DESCRIPTION, format!("key {key} is not enrolled in this case's log, or was revoked"));
            return false;
        };
        // The key's own rights: what another key of that name may do is not this one's.
        let roles = case.history.ring.rights_of_key(key).in_case(&description.case);
        let may = roles.contains(&Role::Custodian) || roles.contains(&Role::Responder);
        if holder != description.exported_by || !may {
            let holder = escape_bounded(holder, 200);
            let message =
                format!("key {key} is that of '{holder}', bag.json names '{name}'; only a responder or custodian may hand a case over");
            findings.add(Code::BagSigner, DESCRIPTION, message);
            return false;
        }
        let signature = self.read(SIGNATURE, 64);
        let manifest = self.read(TAG_MANIFEST, TAG_MANIFEST_BYTES_MAX);
        match (signature, manifest) {
            (Ok(signature), Ok(manifest)) if public.verifies(&manifest, &signature) => true,
            (Err(e), _) => {
                findings.add(unreadable(&e, Code::BagSignature), SIGNATURE, format!("{SIGNATURE} cannot be read: {e}"));
                false
            }
            _ => {
                findings.add(Code::BagSignature, SIGNATURE, format!("{SIGNATURE} is not key {key}'s signature over {TAG_MANIFEST}"));
                false
            }
        }
    }

    /// What the bag says about itself, against the log and the payload.
    fn check_description(&self, d: &Description, anchor: &Anchor, case: &Checked, findings: &mut Findings) {
        let mut problem = |message: String| findings.add(Code::BagDescription, DESCRIPTION, message);
        if d.deployment != anchor.deployment {
            problem(format!("bag.json names deployment '{}', the anchor '{}'", escape_bounded(&d.deployment, 80), anchor.deployment));
        }
        if let Some(id) = case.chain.case().filter(|id| **id != d.case) {
            problem(format!("bag.json names case {}, the log is that of case {id}", d.case));
        }
        if (d.head.size, d.head.root) != (case.history.size, case.history.root) {
            let (size, root) = (case.history.size, case.history.root);
            problem(format!("bag.json names the head {}:{}, the log's is {size}:{root}", d.head.size, d.head.root));
        }
        let mut named: Vec<_> = d.collections.iter().chain(&d.left_out).collect();
        named.sort();
        if !case.chain.collections().eq(named.iter().copied()) {
            problem("the collections that bag.json names, in the bag or left out, are not those of the log".to_owned());
        }
        for id in &d.left_out {
            let folder = format!("{PAYLOAD}collections/{id}/");
            if self.found.range(folder.clone()..).next().is_some_and(|(name, _)| name.starts_with(&folder)) {
                problem(format!("bag.json says that collection {id} was left out, but there are files of it"));
            }
        }
        for id in &d.left_out {
            let message = format!("collection {id} was left out of this bag by '{}'", escape_bounded(&d.exported_by, 200));
            findings.add(Code::BagLeftOut, format!("collections/{id}"), message);
        }
    }

    /// True when the tag manifest fixes every file of the log's records, by way of the payload manifest.
    fn binds_the_log(&self) -> bool {
        let holds = |name: &str| self.found.get(name).is_some_and(|found| found.holds);
        let mut records = self.found.iter().filter(|(name, _)| name.starts_with(RECORDS));
        holds(MANIFEST_SHA256) && records.all(|(_, found)| found.holds)
    }

    /// Reports what no manifest names.
    fn account(&self, findings: &mut Findings) {
        for (name, _) in self.found.iter().filter(|(name, found)| !found.listed && !is_outside_manifests(name)) {
            let shown = escape_bounded(name, 300);
            findings.add(Code::BagFileUnlisted, &shown, format!("'{shown}' is named by no manifest of the bag"));
        }
    }
}

/// Calls `each` with every line without its line end; with nothing for one that is too long, is no UTF-8 or has no end.
fn each_line(reader: Box<dyn io::Read + '_>, each: &mut dyn FnMut(Option<&str>)) -> io::Result<()> {
    use std::io::BufRead as _;
    let mut reader = io::BufReader::with_capacity(65_536, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(LINE_BYTES_MAX as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        each(line.strip_suffix(b"\n").and_then(|line| std::str::from_utf8(line).ok()));
    }
}

fn sums(mut reader: Box<dyn io::Read + '_>, tick: &mut dyn FnMut(u64)) -> io::Result<Sums> {
    let mut sums = Sums::new();
    let mut chunk = vec![0; 1 << 18];
    loop {
        let n = reader.read(&mut chunk)?;
        match chunk.get(..n) {
            Some([]) | None => return Ok(sums),
            Some(bytes) => {
                sums.update(bytes);
                tick(n as u64);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn every_line_is_given_once_and_whole_or_said_to_be_none(
            lines in proptest::collection::vec(("[a-z ]{0,5}", 0_usize..4), 0..8),
            tail in "[a-z]{0,3}",
        ) {
            // Besides plain lines: one that is no UTF-8, the longest one, and one that is longer.
            let pad = |text: &str, kind: usize| match kind {
                1 => [text.as_bytes(), b"\xff"].concat(),
                2 => vec![b'x'; LINE_BYTES_MAX - 1],
                3 => vec![b'x'; LINE_BYTES_MAX],
                _ => text.as_bytes().to_vec(),
            };
            let (mut bytes, mut expected) = (Vec::new(), Vec::new());
            for (text, kind) in &lines {
                let line = pad(text, *kind);
                expected.push((*kind != 3).then(|| String::from_utf8(line.clone()).ok()).flatten());
                // What is left of a line that is too long: its end.
                expected.extend((*kind == 3).then(|| Some(String::new())));
                bytes.extend_from_slice(&line);
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(tail.as_bytes());
            expected.extend((!tail.is_empty()).then_some(None));
            let mut found: Vec<Option<String>> = Vec::new();
            each_line(Box::new(bytes.as_slice()), &mut |line| found.push(line.map(str::to_owned))).expect("reads");
            proptest::prop_assert_eq!(found, expected);
        }
    }
}
