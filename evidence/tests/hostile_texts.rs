//! Small texts that come from a store, a witness or a stranger, with anything done to them: no reader panics, and what one
//! accepts is written again as the same bytes, so that no two texts mean one thing.

use exhibit_evidence::anchor::{self, Anchor};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::CaseObject;
use exhibit_evidence::log::{Checkpoint, Note, WitnessKey, cosign};
use exhibit_evidence::manifest::ItemId;
use exhibit_evidence::profile::Profile;
use exhibit_evidence::{CaseId, CollectionId, Digest, record};
use proptest::prelude::*;

/// What is done to a text.
#[derive(Debug, Clone)]
enum Edit {
    Put(usize, u8),
    Insert(usize, u8),
    Remove(usize),
    Repeat(usize, usize),
    Cut(usize),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    // Bytes that mean something in these texts come up more often than others.
    let byte = prop_oneof![any::<u8>(), prop::sample::select(b"\n /+=-._0s1fA{}\":,\\\xe2\x80\x94".to_vec())];
    let at = 0..2_000_usize;
    let edit = prop_oneof![
        (at.clone(), byte.clone()).prop_map(|(at, b)| Edit::Put(at, b)),
        (at.clone(), byte).prop_map(|(at, b)| Edit::Insert(at, b)),
        at.clone().prop_map(Edit::Remove),
        (at.clone(), 1..40_usize).prop_map(|(at, n)| Edit::Repeat(at, n)),
        at.prop_map(Edit::Cut),
    ];
    prop::collection::vec(edit, 0..4)
}

fn changed(text: &[u8], edits: &[Edit]) -> Vec<u8> {
    let mut out = text.to_vec();
    for edit in edits {
        let length = out.len().max(1);
        match *edit {
            Edit::Put(at, byte) => {
                if let Some(slot) = out.get_mut(at % length) {
                    *slot = byte;
                }
            }
            Edit::Insert(at, byte) => out.insert(at % length.min(out.len() + 1), byte),
            Edit::Remove(at) if !out.is_empty() => {
                out.remove(at % length);
            }
            Edit::Repeat(at, n) => {
                let from = at % length;
                let again: Vec<u8> = out.iter().skip(from).take(n).copied().collect();
                out.splice(from..from, again);
            }
            Edit::Cut(at) => out.truncate(at % length),
            Edit::Remove(_) => {}
        }
    }
    out
}

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32])
}

fn witness() -> WitnessKey {
    WitnessKey::new("counsel.example/witness", key().public()).expect("a name")
}

fn note() -> Note {
    let head = Checkpoint { origin: "exhibit/d/case/x".to_owned(), size: 12, root: Digest::of(b"root") };
    let mut note = head.signed_note(&key());
    note.signatures.push(cosign(&head, &witness(), &key(), 1_790_000_000));
    note
}

/// What a text says when it is read and written again; none when it is refused.
fn again<T: std::str::FromStr + ToString>(text: &str) -> Option<String> {
    text.parse::<T>().ok().map(|read| read.to_string())
}

const NAMES: [&str; 8] = [
    "log/checkpoint",
    "log/seq/0000000003.dsse.json",
    "log/tile/entries/x001/000.p/7",
    "log/cosigned/0a1b2c3d/0000000012",
    "collections/col-6wksdbw15cm05m915kawjxfv0a/s2/00000007.tar.zst",
    "collections/col-6wksdbw15cm05m915kawjxfv0a/s2/manifest.jsonl",
    "timestamps/0000000012.a-1.tsr",
    "timestamps/0000000012.a-1.3.crl",
];

proptest! {
    #[test]
    fn a_note_that_is_read_is_the_note_that_was_written(edits in edits()) {
        let bytes = changed(&note().to_bytes(), &edits);
        if let Ok(read) = Note::parse(&bytes) {
            prop_assert_eq!(read.to_bytes(), bytes.clone());
        }
        let _ = Checkpoint::parse_unverified(&bytes);
        if let Ok(head) = Checkpoint::verify(&bytes, &key().public()) {
            prop_assert_eq!((head.size, head.root), (12, Digest::of(b"root")), "nothing else was signed");
        }
    }

    #[test]
    fn a_witness_has_one_text(edits in edits()) {
        let text = changed(witness().to_string().as_bytes(), &edits);
        if let Some(read) = std::str::from_utf8(&text).ok().and_then(|t| t.parse::<WitnessKey>().ok()) {
            prop_assert_eq!(read.to_string().into_bytes(), text);
        }
    }

    #[test]
    fn an_id_and_a_digest_have_one_text(edits in edits()) {
        for good in ["case-01hf7yat00zzzzzzzzzzzzzzzz", "col-6wksdbw15cm05m915kawjxfv0a.s2.17", &Digest::of(b"x").to_string()] {
            let Ok(text) = String::from_utf8(changed(good.as_bytes(), &edits)) else { continue };
            for read in [again::<CaseId>(&text), again::<CollectionId>(&text), again::<ItemId>(&text), again::<Digest>(&text)] {
                prop_assert!(read.is_none_or(|read| read == text), "{}", text);
            }
        }
    }

    #[test]
    fn a_profile_that_is_read_captures_something_once(edits in edits(), any in ".{0,80}") {
        let good = serde_json::to_vec(&Profile::built_in().swap_remove(0)).expect("serialises");
        let changed = String::from_utf8_lossy(&changed(&good, &edits)).into_owned();
        for text in [changed, any] {
            if let Ok(profile) = Profile::parse(&text) {
                let names: std::collections::BTreeSet<&str> = profile.captures.iter().map(|c| c.name.as_str()).collect();
                prop_assert!(!names.is_empty() && names.len() == profile.captures.len());
            }
        }
    }

    #[test]
    fn an_object_has_one_name(which in 0..NAMES.len(), edits in edits()) {
        let name = changed(NAMES[which].as_bytes(), &edits);
        if let Ok(name) = std::str::from_utf8(&name) {
            let _ = CaseObject::is_folder(name);
            if let Some(read) = CaseObject::parse(name) {
                prop_assert_eq!(read.to_string(), name);
            }
        }
    }

    #[test]
    fn an_anchor_names_one_key_whatever_was_done_to_it(edits in edits()) {
        let anchor = Anchor { format: anchor::FORMAT.to_owned(), deployment: "d".to_owned(), root_key: key().public() };
        let bytes = changed(&serde_json::to_vec(&anchor).expect("serialises"), &edits);
        if let Ok(read) = Anchor::parse(&bytes) {
            prop_assert_eq!(read.format, anchor::FORMAT);
            prop_assert!(String::from_utf8_lossy(&bytes).contains(&read.deployment) || bytes.contains(&b'\\'));
        }
    }

    #[test]
    fn an_altered_record_is_no_record_or_has_no_signature(edits in edits()) {
        let revocation = record::Revocation {
            deployment: "d".to_owned(),
            key: key().public().id(),
            predecessor: Digest::of(b"enrolment"),
            reason: "gone".to_owned(),
            revoked_at: exhibit_evidence::Timestamp::from_unix_s(1),
        };
        let good = record::sign(&revocation, &key()).expect("small");
        let bytes = changed(good.as_bytes(), &edits);
        if let Ok(read) = Envelope::parse(&bytes) {
            prop_assert_eq!(read.as_bytes(), &bytes[..]);
            prop_assert!(bytes == good.as_bytes() || read.verified_payload(&key().public()).is_none());
            let _ = record::Record::from_payload(read.unverified_payload());
        }
    }
}
