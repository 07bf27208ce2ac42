//! A case as it is handed over: `bag-1`, made of `good-2`, and what can be done to it.

use std::collections::BTreeMap;

use exhibit_evidence::bag::*;
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::record::{Access, Action, Nonce, Tool};
use exhibit_evidence::verify::{self, Options, Report};
use exhibit_evidence::{CollectionId, Digest, Timestamp};

use super::faults::Faults;
use super::tamper::{Edit, Tampered, difference};
use super::{ADMIN, DEPLOYMENT, LOG, Memory, Objects, RESPONDER, STRANGER, anchor, cases, key, responder_name};

/// Verifies a bag in memory.
pub fn check_bag(objects: &Objects, options: &Options) -> Report {
    verify::verify_bag(&Memory(objects), &anchor(), options, &mut |_| {}).expect("memory can be listed")
}

/// What a bag is made with; tests lie about it.
pub struct Making<'a> {
    pub exporter: String,
    pub seed: u8,
    pub recorded: bool,
    pub left_out: bool,
    pub tweak: &'a dyn Fn(&mut Description),
}

impl Default for Making<'_> {
    fn default() -> Self {
        Self { exporter: responder_name(), seed: RESPONDER, recorded: true, left_out: false, tweak: &|_| {} }
    }
}

/// Makes a bag of `good-2`.
pub fn bag(making: &Making<'_>) -> Objects {
    let mut case = cases::good_2(&Faults::default());
    if making.recorded {
        let at = case.now();
        let (by, reason) = (making.exporter.clone(), "handed to counsel".to_owned());
        let (id, predecessor, what) = (case.id.clone(), case.opened, vec![case.id.to_string()]);
        case.sign(&Access { case: id, predecessor, by, action: Action::Export, what, reason, at }, LOG);
    }
    case.checkpoint();
    let Checkpoint { size, root, .. } = case.head();
    let report = super::check(&case.objects, &Options::default());
    let mut all: Vec<CollectionId> = report.collections.into_iter().map(|c| c.id).collect();
    all.sort();
    let (collections, left_out) = if making.left_out { (Vec::new(), all) } else { (all, Vec::new()) };
    let mut description = Description {
        format: FORMAT.to_owned(),
        deployment: DEPLOYMENT.to_owned(),
        case: case.id.clone(),
        head: Nonce { size, root },
        collections,
        left_out,
        exported_by: making.exporter.clone(),
        key: key(making.seed).public().id(),
        exported_at: Timestamp::from_unix_s(1_768_480_000),
        reason: "handed to counsel".to_owned(),
        tool: Tool { name: "exhibit".to_owned(), version: "0.1.0".to_owned(), sha256: Digest::of(b"exhibit binary") },
        authorities: Vec::new(),
        revocation_lists: BTreeMap::new(),
        views: None,
    };
    (making.tweak)(&mut description);
    let payload = case.objects.iter().filter(|(name, _)| !making.left_out || !name.starts_with("collections/"));
    let mut objects: Objects = payload.map(|(name, bytes)| (format!("{PAYLOAD}{name}"), bytes.clone())).collect();
    objects.insert(BAGIT.to_owned(), DECLARATION.as_bytes().to_vec());
    objects.insert(DESCRIPTION.to_owned(), description.to_bytes().expect("serialises"));
    objects.insert(INFO.to_owned(), b"Source-Organization: vectors\n".to_vec());
    objects.insert("documents/report.html".to_owned(), b"<p>A report</p>\n".to_vec());
    seal(&mut objects, making.seed);
    objects
}

/// Writes the manifests and the signature over what is there.
pub fn seal(objects: &mut Objects, seed: u8) {
    for name in [MANIFEST_SHA256, MANIFEST_SHA512, TAG_MANIFEST, SIGNATURE] {
        objects.remove(name);
    }
    let sums: BTreeMap<String, (Digest, String)> = objects
        .iter()
        .map(|(name, bytes)| {
            let mut sums = Sums::new();
            sums.update(bytes);
            (name.clone(), sums.finish())
        })
        .collect();
    let payload = |which: &dyn Fn(&(Digest, String)) -> String| -> Vec<u8> {
        let lines = sums.iter().filter(|(name, _)| name.starts_with(PAYLOAD)).map(|(name, s)| manifest_line(&which(s), name));
        lines.collect::<String>().into_bytes()
    };
    let (sha256, sha512) = (payload(&|s| s.0.to_string()), payload(&|s| s.1.clone()));
    objects.insert(MANIFEST_SHA256.to_owned(), sha256);
    objects.insert(MANIFEST_SHA512.to_owned(), sha512);
    let tags = objects.iter().filter(|(name, _)| !name.starts_with(PAYLOAD));
    let tags: String = tags.map(|(name, bytes)| manifest_line(&Digest::of(bytes).to_string(), name)).collect();
    objects.insert(SIGNATURE.to_owned(), key(seed).sign(tags.as_bytes()).to_vec());
    objects.insert(TAG_MANIFEST.to_owned(), tags.into_bytes());
}

/// What can be done to a bag, by anybody and by somebody with a key.
pub fn bags(cases: &mut Vec<Tampered>) {
    let good = bag(&Making::default());
    let mut add = |name: &str, says: &str, edits: Vec<Edit>, codes: &[&str]| {
        cases.push(Tampered {
            name: name.to_owned(),
            says: says.to_owned(),
            base: "bag-1".to_owned(),
            complete: false,
            expect: None,
            witnesses: Vec::new(),
            held: Vec::new(),
            timestamp_anchors: Vec::new(),
            timestamps_required: 0,
            identities: Vec::new(),
            edits,
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        });
    };
    let flip = |object: &str, at: i64| vec![Edit::Flip { object: object.to_owned(), at, with: 1 }];
    let delete = |object: &str| vec![Edit::Delete { object: object.to_owned() }];
    let put = |object: &str| vec![Edit::Put { object: object.to_owned(), b64: "aGVsbG8=".to_owned() }];
    let segment = good.keys().find(|n| n.ends_with("/00000000.tar.zst")).expect("there").clone();
    let altered = |change: &dyn Fn(&mut Objects)| {
        let mut objects = good.clone();
        change(&mut objects);
        difference(&good, &objects)
    };
    let made = |making: Making<'_>| difference(&good, &bag(&making));

    add("bag-declaration-flipped", "a byte of bagit.txt", flip(BAGIT, 3), &["bag.declaration", "bag.file-digest"]);
    add("bag-declaration-deleted", "bagit.txt removed", delete(BAGIT), &["bag.declaration", "bag.file-missing"]);
    add("bag-document-flipped", "a byte of a document", flip("documents/report.html", 3), &["bag.file-digest"]);
    add("bag-document-deleted", "a document removed", delete("documents/report.html"), &["bag.file-missing"]);
    add("bag-file-added", "a file beside the payload that no manifest names", put("documents/note.html"), &["bag.file-unlisted"]);
    add("bag-payload-added", "a file in the payload", put("data/note.txt"), &["bag.file-unlisted", "object.unknown"]);
    add("bag-segment-flipped", "a byte of a segment", flip(&segment, 100), &["bag.file-digest", "segment.digest"]);
    add("bag-segment-deleted", "a segment removed", delete(&segment), &["bag.file-missing", "segment.missing"]);
    add("bag-manifest-flipped", "a digest in the payload manifest", flip(MANIFEST_SHA512, 5), &["bag.file-digest"]);
    add("bag-manifest-deleted", "a payload manifest removed", delete(MANIFEST_SHA256), &["bag.manifest", "bag.file-missing"]);
    add("bag-tag-manifest-flipped", "a digest in the tag manifest", flip(TAG_MANIFEST, 5), &["bag.signature"]);
    add(
        "bag-tag-manifest-deleted",
        "the tag manifest removed",
        delete(TAG_MANIFEST),
        &["bag.manifest", "bag.signature", "bag.file-unlisted"],
    );
    add("bag-signature-flipped", "a byte of the signature", flip(SIGNATURE, 5), &["bag.signature"]);
    add("bag-signature-deleted", "the signature removed", delete(SIGNATURE), &["bag.signature"]);
    add("bag-description-deleted", "bag.json removed", delete(DESCRIPTION), &["bag.description"]);
    let remade = altered(&|objects| {
        objects.insert("documents/report.html".to_owned(), b"<p>Another</p>\n".to_vec());
        let signature = objects[SIGNATURE].clone();
        seal(objects, RESPONDER);
        objects.insert(SIGNATURE.to_owned(), signature);
    });
    add("bag-remade", "a document exchanged and all manifests made anew, without a key", remade, &["bag.signature"]);
    let stranger = altered(&|objects| seal(objects, STRANGER));
    add("bag-signed-by-a-stranger", "all manifests made anew and signed by another key", stranger, &["bag.signature"]);
    let lie = Making { seed: STRANGER, ..Making::default() };
    add("bag-of-a-stranger", "made and signed with a key that nobody enrolled", made(lie), &["bag.signer"]);
    let admin = Making { seed: ADMIN, exporter: format!("spiffe://{DEPLOYMENT}/responder/root-admin"), ..Making::default() };
    add("bag-of-an-admin", "signed by somebody who may not hand a case over", made(admin), &["bag.signer"]);
    let unrecorded = Making { recorded: false, ..Making::default() };
    add("bag-not-recorded", "made by its signer without an access record", made(unrecorded), &["bag.access"]);
    let wrong_head = Making { tweak: &|d| d.head.root = Digest::of(b"another"), ..Making::default() };
    add("bag-of-another-head", "its description names another head", made(wrong_head), &["bag.description"]);
    let hidden = Making { tweak: &|d| d.collections.clear(), ..Making::default() };
    add("bag-hides-a-collection", "its description names a collection neither in the bag nor left out", made(hidden), &["bag.description"]);
}
