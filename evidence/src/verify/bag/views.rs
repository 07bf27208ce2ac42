//! What is made of the case and lies beside it, as far as it can be compared: `expanded/` with the digests of the items, `proofs/`
//! with the log, every name with those of the format. The manifests of a bag are its exporter's, so that a file is the one that they
//! name says nothing about the case.

use std::collections::BTreeMap;
use std::io::Read as _;

use super::{Bag, Files, names};
use crate::bag::{Description, PAYLOAD, View};
use crate::dsse::ENVELOPE_BYTES_MAX;
use crate::layout::CaseObject;
use crate::log::{InclusionProof, NOTE_BYTES_MAX, leaf_hash, verify_inclusion};
use crate::manifest::{Item, Kind, Line};
use crate::text::escape_bounded;
use crate::verify::chain::Job;
use crate::verify::lines::Lines;
use crate::verify::{Checked, Code, Findings};

const EXPANDED: &str = "expanded/";
/// What the folder says about itself; compared with nothing.
const README: &str = "expanded/README.txt";
const PROOFS: &str = "proofs/";
/// A proof without its checkpoint: at most 64 hashes in lines of 45 bytes.
const HASHES_BYTES_MAX: u64 = 4_096;

/// Compares what can be compared. `tags` is what the tag manifest names: that the files are those is checked elsewhere. Which views were
/// made the bag says itself, so that one that is taken out is missed, whether it can be compared or not.
pub(super) fn check(bag: &Bag<'_>, tags: &Files, case: &Checked, description: Option<&Description>, findings: &mut Findings) {
    let made = |view: View| description.and_then(|d| d.made(view));
    let mut problem = |name: &str, message: String| findings.add(Code::BagView, escape_bounded(name, 300), message);
    for name in tags.keys() {
        if let Some(why) = names::problem(name) {
            problem(name, why);
        }
    }
    for view in View::ALL {
        let begin = view.begin();
        let what = begin.trim_end_matches("exhibits.");
        match (made(view), below(tags, begin).next().is_some()) {
            (Some(true), false) => problem(what, format!("bag.json says that {what} was made, and nothing of it is there")),
            (Some(false), true) => problem(what, format!("bag.json does not say that {what} was made, and it is there")),
            _ => {}
        }
    }
    expanded(bag, tags, case, &mut problem);
    // Where no head is signed nothing can be proven, and that is said already.
    if case.history.head.is_some() {
        for name in below(tags, PROOFS).map(|(name, _)| name).filter(|name| !holds(bag, name, case)) {
            problem(name, format!("'{}' does not prove that its record is in this log", escape_bounded(name, 300)));
        }
        let complete = made(View::Proofs) == Some(true) && below(tags, PROOFS).next().is_some();
        let proven = case.chain.proven().iter().map(|n| proof_name(*n));
        for name in proven.filter(|name| complete && !tags.contains_key(name)) {
            problem(&name, format!("'{name}' is not there, and its record is a seal or an export"));
        }
    }
}

fn proof_name(n: u64) -> String {
    format!("{PROOFS}{n:010}.tlog-proof")
}

type Problem<'a> = dyn FnMut(&str, String) + 'a;

fn below<'a>(tags: &'a Files, folder: &'static str) -> impl Iterator<Item = (&'a str, Option<&'a str>)> {
    let files = tags.range(folder.to_owned()..).take_while(move |(name, _)| name.starts_with(folder));
    files.map(|(name, digests)| (name.as_str(), digests.sha256.as_deref()))
}

/// Each file against the item whose exhibit number it has. Whether a bag without the folder was made without it is said above.
fn expanded(bag: &Bag<'_>, tags: &Files, case: &Checked, problem: &mut Problem<'_>) {
    let mut files: BTreeMap<u64, (&str, &str)> = BTreeMap::new();
    let mut is_there = false;
    for (name, sha256) in below(tags, EXPANDED) {
        is_there = true;
        if name == README {
            continue;
        }
        match (exhibit_of(name).filter(|n| !files.contains_key(n)), sha256) {
            (Some(n), Some(sha256)) => {
                files.insert(n, (name, sha256));
            }
            _ => problem(name, format!("'{}' is not named as the file of one exhibit", escape_bounded(name, 300))),
        }
    }
    if !is_there {
        return;
    }
    let mut next = BTreeMap::new();
    for job in case.chain.jobs() {
        let Some([first, _]) = case.chain.exhibits(&job.collection) else { continue };
        let at = next.entry(job.collection.clone()).or_insert(first);
        each_content(bag, &job, &mut |item, sha256| {
            let exhibit = at.saturating_add(item.n);
            let id = format!("{}.{}.{}", job.collection, job.stream, item.n);
            match files.remove(&exhibit) {
                Some((_, found)) if found == sha256 => {}
                Some((name, found)) => {
                    problem(name, format!("exhibit {exhibit} is item {id} with SHA-256 {sha256}, the SHA-256 of '{name}' is {found}"));
                }
                None => problem(EXPANDED, format!("exhibit {exhibit}, item {id}, has content and no file in {EXPANDED}")),
            }
        });
        *at = at.saturating_add(job.manifest.items);
    }
    for (exhibit, (name, _)) in files {
        problem(name, format!("'{name}' is there, and exhibit {exhibit} is no item in this bag that has content"));
    }
}

/// Calls `each` with every item of a stream that has content of its own, and its digest. What is wrong with the manifest is said
/// where the stream is verified.
fn each_content(bag: &Bag<'_>, job: &Job, each: &mut dyn FnMut(&Item, String)) {
    let name = format!("{PAYLOAD}{}", CaseObject::Manifest(job.collection.clone(), job.stream));
    let Ok(reader) = bag.files.open(&name) else { return };
    let mut lines = Lines::new(Box::new(reader.take(job.manifest.size)));
    while let Ok(line) = lines.next() {
        if let Line::Item(item) = line
            && matches!(item.kind, Kind::File | Kind::Record)
            && item.location.is_some()
            && let Some(sha256) = item.sha256
        {
            each(&item, sha256.to_string());
        }
    }
}

/// The exhibit number in `expanded/00000/EXH00000002.txt`; the ending is free.
fn exhibit_of(name: &str) -> Option<u64> {
    let (folder, file) = name.strip_prefix(EXPANDED)?.split_once('/')?;
    let number = file.strip_prefix("EXH")?;
    let (digits, ending) = match number.split_once('.') {
        Some((digits, ending)) => (digits, Some(ending)),
        None => (number, None),
    };
    let n: u64 = digits.parse().ok()?;
    let is_plain = ending.is_none_or(|e| (1..=8).contains(&e.len()) && e.bytes().all(|b| b.is_ascii_alphanumeric()));
    (is_plain && digits == format!("{n:08}") && folder == format!("{:05}", n / 1_000)).then_some(n)
}

/// True when a proof is the one of the record in its name, in this log under this head.
fn holds(bag: &Bag<'_>, name: &str, case: &Checked) -> bool {
    let number = name.strip_prefix(PROOFS).and_then(|file| file.strip_suffix(".tlog-proof")).and_then(|n| n.parse::<u64>().ok());
    let number = number.filter(|n| proof_name(*n) == name);
    let read = |name: &str, bytes_max: u64| bag.read(name, bytes_max).ok();
    let Some(n) = number else { return false };
    let Some(bytes) = read(name, NOTE_BYTES_MAX as u64 + HASHES_BYTES_MAX) else { return false };
    let Some(record) = read(&format!("{PAYLOAD}{}", CaseObject::Slot(n)), ENVELOPE_BYTES_MAX as u64) else { return false };
    let Some(checkpoint) = read(&format!("{PAYLOAD}{}", CaseObject::Checkpoint), NOTE_BYTES_MAX as u64) else { return false };
    let Ok(proof) = InclusionProof::parse(&bytes) else { return false };
    proof.index == n
        && proof.checkpoint == checkpoint
        && proof.to_bytes() == bytes
        && verify_inclusion(leaf_hash(&record), n, case.history.size, &proof.hashes, &case.history.root).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_of_the_exhibit_in_its_name() {
        for (name, n) in [("00000/EXH00000002.txt", 2), ("00000/EXH00000010", 10), ("00012/EXH00012345.log", 12_345)] {
            assert_eq!(exhibit_of(&format!("{EXPANDED}{name}")), Some(n), "{name}");
        }
        for name in
            ["00001/EXH00000002.txt", "00000/EXH2.txt", "00000/EXH00000002.", "00000/EXH00000002.a.b", "EXH00000002", "00000/EXH+0000002"]
        {
            assert_eq!(exhibit_of(&format!("{EXPANDED}{name}")), None, "{name}");
        }
    }

    proptest::proptest! {
        #[test]
        fn an_exhibit_has_one_name_but_for_its_ending(
            n in proptest::num::u64::ANY,
            few in 0_u64..3_000,
            ending in "[A-Za-z0-9]{1,8}",
            near in "0000[0-2]/EXH[0-9+]{0,9}(\\.[a-z.]{0,9})?|.{0,30}",
        ) {
            for n in [n, few] {
                let name = format!("{EXPANDED}{:05}/EXH{n:08}", n / 1_000);
                proptest::prop_assert_eq!((exhibit_of(&name), exhibit_of(&format!("{name}.{ending}"))), (Some(n), Some(n)));
            }
            let name = format!("{EXPANDED}{near}");
            if let Some(n) = exhibit_of(&name) {
                let begin = format!("{EXPANDED}{:05}/EXH{n:08}", n / 1_000);
                proptest::prop_assert!(name.strip_prefix(&begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')), "{}", name);
            }
        }
    }
}
