//! A good case with tiles and a witness, and what can be done to such a log.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::Digest;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::log::{Checkpoint, Layer, Note, Tile, Tiler, WitnessKey, cosign, leaf_hash, put_in_bundle};

use super::cases::good_2;
use super::faults::Faults;
use super::tamper::{Edit, Tampered, difference};
use super::{Case, LOG, Objects, key};

/// The seed of the witness.
const WITNESS: u8 = 77;
/// When it cosigned.
const TIME_S: u64 = 1_790_000_000;

pub fn witness() -> (WitnessKey, SigningKey) {
    let key = key(WITNESS);
    (WitnessKey::new("counsel.example/witness", key.public()).expect("a name"), key)
}

fn cosigned(head: &Checkpoint) -> Note {
    let (witness, key) = witness();
    let mut note = head.signed_note(&super::key(LOG));
    note.signatures.push(cosign(head, &witness, &key, TIME_S));
    note
}

fn slots(objects: &Objects) -> Vec<Vec<u8>> {
    objects.iter().filter(|(n, _)| n.starts_with("log/seq/")).map(|(_, bytes)| bytes.clone()).collect()
}

/// Writes the tiles over the records: the incomplete one at every size, as a log that grew one by one leaves them.
fn tiles(objects: &mut Objects) {
    let (mut tiler, mut bundle) = (Tiler::new(), Vec::new());
    for record in slots(objects) {
        tiler.append(leaf_hash(&record), &mut |_, _| panic!("a small log"));
        put_in_bundle(&mut bundle, &record).expect("a record");
        objects.extend(tiler.partial().into_iter().map(|(tile, bytes)| (format!("log/{tile}"), bytes)));
    }
    let entries = Tile::of(Layer::Entries, 0, tiler.size()).expect("some");
    objects.insert(format!("log/{entries}"), bundle);
}

/// `good-3`: the case of `good-2`, with tiles; a witness cosigned an early head and the last one.
pub fn good_3() -> Case {
    let mut case = good_2(&Faults::default());
    tiles(&mut case.objects);
    let (witness, _) = witness();
    let early = head_at(&case, 5);
    for head in [early, case.head()] {
        let name = format!("log/cosigned/{}/{:010}", witness.id(), head.size);
        case.objects.insert(name, cosigned(&head).to_bytes());
    }
    let checkpoint = cosigned(&case.head()).to_bytes();
    case.objects.insert("log/checkpoint".to_owned(), checkpoint);
    case
}

fn head_at(case: &Case, size: usize) -> Checkpoint {
    let mut tree = exhibit_evidence::log::Tree::new();
    slots(&case.objects).iter().take(size).for_each(|record| tree.append(record));
    Checkpoint { size: size as u64, root: tree.root(), ..case.head() }
}

/// The log as somebody with the log key makes it of the first `keep` records: tiles and head fit, no cosignature is left.
fn remade(case: &Case, keep: usize, change: &dyn Fn(&mut Objects)) -> Objects {
    let mut objects = case.objects.clone();
    let first = format!("log/seq/{keep:010}");
    objects.retain(|n, _| !n.starts_with("log/tile/") && !n.starts_with("log/cosigned/") && (!n.starts_with("log/seq/") || *n < first));
    change(&mut objects);
    tiles(&mut objects);
    let mut tree = exhibit_evidence::log::Tree::new();
    for record in slots(&objects) {
        tree.append(&record);
    }
    let head = Checkpoint { size: tree.size(), root: tree.root(), ..case.head() };
    objects.insert("log/checkpoint".to_owned(), head.sign(&key(LOG)));
    objects
}

pub fn logs(cases: &mut Vec<Tampered>) {
    let good = good_3();
    let (witness, _) = witness();
    let records = slots(&good.objects).len();
    let held = STANDARD.encode(cosigned(&good.head()).to_bytes());
    let mut add = |name: &str, says: &str, edits: Vec<Edit>, (with_witness, with_held): (bool, bool), codes: &[&str]| {
        cases.push(Tampered {
            name: name.to_owned(),
            says: says.to_owned(),
            base: "good-3".to_owned(),
            complete: false,
            expect: None,
            witnesses: if with_witness { vec![witness.to_string()] } else { Vec::new() },
            held: if with_held { vec![held.clone()] } else { Vec::new() },
            timestamp_anchors: Vec::new(),
            timestamps_required: 0,
            identities: Vec::new(),
            edits,
            codes: codes.iter().map(|c| (*c).to_owned()).collect(),
        });
    };
    let flip = |object: &str, at: i64| vec![Edit::Flip { object: object.to_owned(), at, with: 1 }];
    let put = |object: &str, bytes: &[u8]| vec![Edit::Put { object: object.to_owned(), b64: STANDARD.encode(bytes) }];
    let copy = |a: &str, to: &str| vec![Edit::Copy { object: a.to_owned(), to: to.to_owned() }];
    let (tile, bundle) = (format!("log/tile/0/000.p/{records}"), format!("log/tile/entries/000.p/{records}"));
    let seen = format!("log/cosigned/{}/0000000005", witness.id());
    add("tile-flipped", "a byte of a hash tile", flip(&tile, 40), (false, false), &["log.tile"]);
    add("old-tile-flipped", "a byte of a tile that a later one replaced", flip("log/tile/0/000.p/3", 40), (false, false), &["log.tile"]);
    add("bundle-flipped", "a byte of an entry bundle", flip(&bundle, 700), (false, false), &["log.tile"]);
    let cut = vec![Edit::Truncate { object: bundle.clone(), size: good.objects[&bundle].len() - 1 }];
    add("bundle-cut", "an entry bundle without its last byte", cut, (false, false), &["log.tile"]);
    let beyond = format!("log/tile/0/000.p/{}", records + 1);
    add("tile-beyond", "a tile of more records than there are", copy(&tile, &beyond), (false, false), &["log.tile"]);
    add(
        "tile-of-a-level",
        "a tile of a level that the log does not have",
        copy(&tile, "log/tile/1/000.p/1"),
        (false, false),
        &["log.tile"],
    );
    add("cosigned-flipped", "a letter of a cosigned head's first line", flip(&seen, 3), (false, false), &["witness.malformed"]);
    let elsewhere = format!("log/cosigned/{}/0000000006", witness.id());
    add("cosigned-misplaced", "a cosigned head under another size", copy(&seen, &elsewhere), (false, false), &["witness.malformed"]);
    let mut forged = cosigned(&head_at(&good, 5));
    forged.signatures.last_mut().expect("the witness's line").bytes[20] ^= 1;
    add(
        "cosignature-forged",
        "a line in the name of a given witness that does not hold",
        put(&seen, &forged.to_bytes()),
        (true, false),
        &["witness.malformed"],
    );
    let other = Checkpoint { root: Digest::of(b"another history"), ..head_at(&good, 6) };
    add(
        "cosigned-another",
        "a head of another history that the log key signed",
        put(&elsewhere, &cosigned(&other).to_bytes()),
        (false, false),
        &["log.forked"],
    );
    let by_stranger = other.signed_note(&key(super::STRANGER)).to_bytes();
    add("cosigned-by-nobody", "a head that a stranger signed", put(&elsewhere, &by_stranger), (false, false), &["witness.malformed"]);

    // With the log key everything inside the case can be made to fit again; only what was kept outside tells.
    let last = difference(&good.objects, &remade(&good, records - 1, &|_| {}));
    add(
        "last-records-gone",
        "the end of the log removed, and the head signed again",
        last.clone(),
        (true, true),
        &["log.forked", "witness.required"],
    );
    add(
        "last-records-gone-held",
        "the same, found by the log key's own signature on the head that was kept",
        last.clone(),
        (false, true),
        &["log.forked"],
    );
    add("not-cosigned", "the same, found because no witness vouches for the new end", last, (true, false), &["witness.required"]);
    let rewrite = |objects: &mut Objects| {
        let n = format!("log/seq/{:010}.dsse.json", records - 1);
        let envelope = exhibit_evidence::dsse::Envelope::parse(&good.objects[&n]).expect("good");
        let mut statement: serde_json::Value = serde_json::from_slice(envelope.unverified_payload()).expect("JSON");
        statement["predicate"]["sealed_at"] = "2031-01-01T00:00:00.000000000Z".into();
        let again = exhibit_evidence::dsse::Envelope::sign(serde_json::to_vec(&statement).expect("JSON"), &key(LOG)).expect("small");
        objects.insert(n, again.as_bytes().to_vec());
    };
    let rewritten = difference(&good.objects, &remade(&good, records, &rewrite));
    add("log-rewritten", "the last record made anew, and the head signed again", rewritten, (false, true), &["log.forked"]);
}
