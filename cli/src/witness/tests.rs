use exhibit_evidence::log::{Layer, Plan, Tile, Tiler, Tree};
use exhibit_evidence::record::{self, Enrolment};

use super::*;

const ORIGIN: &str = "exhibit/test/case/x";

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn anchor() -> Vec<u8> {
    let anchor = Anchor { format: exhibit_evidence::anchor::FORMAT.to_owned(), deployment: "test".to_owned(), root_key: key(1).public() };
    serde_json::to_vec(&anchor).expect("JSON")
}

fn made(dir: &Path) -> Witness {
    init(dir, "counsel.example/w", &anchor(), &[9; 32]).expect("made");
    Witness::open(dir).expect("opens")
}

/// The head of a history whose records are `salt` and their number, and the proof that it continues `old`.
fn request(salt: &str, old: u64, size: u64) -> ConsistencyProof {
    let (mut tree, mut tiler) = (Tree::new(), Tiler::new());
    for n in 0..size {
        let entry = format!("{} {n}", if n < 3 { "same" } else { salt });
        tree.append(entry.as_bytes());
        tiler.append(exhibit_evidence::log::leaf_hash(entry.as_bytes()), &mut |_, _| {});
    }
    let tiles = tiler.partial();
    let plan = Plan::consistency(old, size).expect("inside");
    let hashes = plan.build(&|t| tiles.iter().find(|(tile, _)| tile == t).map(|(_, b)| b.as_slice())).expect("small");
    assert!(size == 0 || Tile::of(Layer::Hashes(0), 0, size).is_some());
    let checkpoint = Checkpoint { origin: ORIGIN.to_owned(), size, root: tree.root() }.sign(&key(2));
    ConsistencyProof { old, hashes, checkpoint }
}

fn at(s: i64) -> Timestamp {
    Timestamp::from_unix_s(s)
}

#[test]
fn a_witness_remembers_before_it_answers() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    let done = witness.cosign(&request("a", 0, 5), &log, Source::Given, at(10)).expect("the first head");
    assert_eq!((done.before, done.cosigned.checkpoint.size), (0, 5));
    let note = Note::parse(&done.note).expect("a note");
    assert_eq!(witness.public.verify(&note).map(|c| c.time_s), Ok(10));
    assert_eq!(witness.seen(ORIGIN).expect("memory").map(|s| s.checkpoint.size), Some(5));
    let done = witness.cosign(&request("a", 5, 9), &log, Source::Given, at(20)).expect("continues");
    assert_eq!((done.before, done.cosigned.checkpoint.size), (5, 9));
    assert!(witness.cosign(&request("a", 9, 9), &log, Source::Given, at(30)).is_ok(), "the same head at a later time");
    // Not a lie, only a proof from somewhere else.
    assert_eq!(witness.cosign(&request("a", 5, 12), &log, Source::Given, at(40)).expect_err("from elsewhere").code, Code::Input);
    assert_eq!(witness.cosign(&request("a", 9, 12), &log, Source::Given, at(5)).expect_err("clock").code, Code::Failure);
    assert_eq!(witness.cosign(&request("a", 9, 12), &key(3).public(), Source::Given, at(50)).expect_err("another key").code, Code::Damaged);
    assert_eq!(witness.all_seen().expect("memory").len(), 1);
}

/// Everything in `refused`, by name.
fn refused(dir: &Path) -> std::collections::BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir.join("w/refused")).expect("there").map(|e| e.expect("entry").path());
    entries.map(|p| (p.file_name().expect("name").to_string_lossy().into_owned(), std::fs::read(&p).expect("kept"))).collect()
}

fn words(failure: &Failure) -> String {
    format!("{} {}", failure.message, failure.hint.as_deref().unwrap_or_default())
}

#[test]
fn two_histories_are_claimed_only_where_they_are_proved() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    witness.cosign(&request("a", 0, 9), &log, Source::Given, at(10)).expect("the first head");
    let cosign = |request: &ConsistencyProof, source| witness.cosign(request, &log, source, at(20)).expect_err("not cosigned");

    // Shorter than what was seen: a copy of last week and a fork look alike. Neither is claimed, and what was given is kept.
    let older = ConsistencyProof { old: 9, hashes: Vec::new(), ..request("a", 0, 6) };
    let fork = ConsistencyProof { old: 9, hashes: Vec::new(), ..request("b", 0, 6) };
    for (given, files) in [(&older, 3), (&fork, 6)] {
        let failure = cosign(given, Source::Given);
        assert_eq!(failure.code, Code::Input);
        let said = "is shorter than what this witness saw (9 records): whether it is an old copy or a fork cannot be told from it";
        assert!(failure.message.contains(said) && !words(&failure).contains("prove"), "{}", words(&failure));
        let name = Digest::of(&given.checkpoint).to_string();
        let root = Checkpoint::parse_unverified(&given.checkpoint).expect("a head").root;
        let said = format!("exhibit log consistency --case x --from 6:{root}");
        assert!(words(&failure).contains(&said) && words(&failure).contains("--held "), "{}", words(&failure));
        assert_eq!(refused(dir.path()).get(&name), Some(&given.checkpoint));
        assert_eq!(refused(dir.path()).len(), files);
    }
    // The same from the coordinator: it cannot have forgotten, but one head is no proof.
    let failure = cosign(&older, Source::Coordinator);
    assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
    assert!(failure.message.contains("the coordinator shows an older head than this witness saw"), "{}", failure.message);
    assert!(!words(&failure).contains("prove"), "{}", words(&failure));

    // A proof that was damaged on its way leads nowhere: nothing is claimed, and who gave it is said.
    let mut damaged = request("a", 9, 14);
    damaged.hashes.pop();
    let failure = cosign(&damaged, Source::Given);
    assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
    let said = "the proof does not hold: the log was rewritten, or what was given is damaged or incomplete";
    assert!(failure.message.contains(said), "{}", failure.message);
    let said = words(&failure);
    let next = "get the proof again from the coordinator and keep both files: exhibit log consistency --case x --from 9:";
    assert!(said.contains(next) && !said.contains("prove"), "{said}");
    let failure = cosign(&damaged, Source::Coordinator);
    assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
    assert!(failure.message.contains("the coordinator's own proof does not hold"), "{}", failure.message);
    let said = words(&failure);
    assert!(said.contains("repeat the command once") && said.contains("--held ") && !said.contains("prove"), "{said}");

    // A proof that leads to the new head from another root than the one that was seen shows the other history.
    for source in [Source::Coordinator, Source::Given] {
        let failure = cosign(&request("b", 9, 14), source);
        assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
        let said = words(&failure);
        assert!(failure.message.contains("two histories") && said.contains("with the proof between them they prove it"), "{said}");
        assert!(said.contains("--held "), "{said}");
        let kept = Digest::of(&request("b", 9, 14).checkpoint).to_string();
        for suffix in ["", ".seen", ".proof"] {
            assert!(refused(dir.path()).contains_key(&format!("{kept}{suffix}")), "{suffix}");
        }
    }

    // Whatever the proof says: two signed heads of one size.
    for old in [9, 0] {
        let failure = cosign(&ConsistencyProof { old, ..request("b", 9, 9) }, Source::Given);
        assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
        assert!(failure.message.contains("two histories") && words(&failure).contains("prove it together"), "{}", words(&failure));
    }
    assert_eq!(witness.seen(ORIGIN).expect("memory").map(|s| s.checkpoint.size), Some(9));
    assert!(witness.cosign(&request("a", 9, 14), &log, Source::Given, at(30)).is_ok(), "the true log goes on");
}

#[test]
fn a_bag_has_a_proof_or_what_shows_why_not() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    let done = witness.cosign(&request("a", 0, 14), &log, Source::Coordinator, at(10)).expect("the log as it is now");
    let bag = |salt: &str, size: u64| {
        let note = request(salt, 0, size).checkpoint;
        BagHead { head: Checkpoint::verify(&note, &log).expect("a head"), note }
    };
    let now = |old: u64| ConsistencyProof { checkpoint: done.note.clone(), ..request("a", old, 14) };
    for size in [8, 9, 14] {
        let proof = witness.proof_for(&bag("a", size), now(size), &done, None).expect("a proof");
        let head = bag("a", size).head;
        let later = Checkpoint::verify(&proof.checkpoint, &log).expect("a head");
        assert_eq!(verify_consistency((head.size, &head.root), (later.size, &later.root), &proof.hashes), Ok(()));
        assert!(witness.public.verify(&Note::parse(&proof.checkpoint).expect("a note")).is_ok(), "it bears the cosignature");
    }
    assert!(refused(dir.path()).is_empty());

    // Another history under the same key, with the coordinator's own head of that size, or without.
    let same: SameSize = {
        let good = bag("a", 8);
        (good.note, good.head)
    };
    let none = ConsistencyProof { old: 20, hashes: Vec::new(), checkpoint: done.note.clone() };
    for (held, proof, same, said) in [
        (bag("b", 8), now(8), Some(&same), "there are two histories"),
        (bag("b", 9), now(9), None, "it is damaged, or the log is another one"),
        (bag("a", 20), none, None, "the log was cut back"),
    ] {
        let failure = witness.proof_for(&held, proof.clone(), &done, same).expect_err("no proof");
        assert!(failure.code == Code::Damaged && failure.message.starts_with("NO PROOF FOR THE BAG"), "{}", failure.message);
        assert!(failure.message.contains(said) && failure.hint.is_some(), "{}", words(&failure));
        let (name, kept) = (Digest::of(&held.note).to_string(), refused(dir.path()));
        assert_eq!(kept.get(&name), Some(&held.note));
        assert_eq!(kept.get(&format!("{name}.seen")), Some(same.map_or(&done.note, |(note, _)| note)));
        assert_eq!(kept.get(&format!("{name}.proof")), Some(&proof.to_bytes()));
    }
}

#[test]
fn a_head_that_this_witness_cosigned_once_is_known() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    let first = witness.cosign(&request("a", 0, 6), &log, Source::Given, at(10)).expect("the first head").note;
    // A refusal keeps what was seen then; the memory goes on.
    witness.cosign(&request("c", 6, 8), &log, Source::Given, at(20)).expect_err("refused");
    witness.cosign(&request("a", 6, 9), &log, Source::Given, at(30)).expect("continues");
    let kept = refused(dir.path()).len();
    let cosign = |request: &ConsistencyProof, source| witness.cosign(request, &log, source, at(40)).expect_err("not cosigned");
    let given = |checkpoint: Vec<u8>| ConsistencyProof { old: 9, hashes: Vec::new(), checkpoint };
    for old in [first, request("a", 0, 6).checkpoint] {
        let failure = cosign(&given(old), Source::Given);
        let said = "is older than what this witness saw (9 records), which cosigned it before; nothing to cosign; give it a newer head";
        assert!(failure.code == Code::Input && failure.message.contains(said), "{}", words(&failure));
    }
    assert_eq!(refused(dir.path()).len(), kept, "nothing was refused");
    for source in [Source::Given, Source::Coordinator] {
        let failure = cosign(&given(request("b", 0, 6).checkpoint), source);
        assert!(failure.code == Code::Damaged && failure.message.contains("two histories"), "{}", words(&failure));
    }
}

#[test]
fn a_refusal_keeps_the_head_its_proof_and_what_was_seen() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    let seen = witness.cosign(&request("a", 0, 9), &log, Source::Given, at(10)).expect("the first head").note;
    let bad = request("b", 9, 14);
    let refuse = |bad: &ConsistencyProof| witness.cosign(bad, &log, Source::Given, at(20)).expect_err("refused");
    let _ = refuse(&bad);
    let name = Digest::of(&bad.checkpoint).to_string();
    let file = |suffix: &str| format!("{name}{suffix}");
    let first = [(file(""), bad.checkpoint.clone()), (file(".proof"), bad.to_bytes()), (file(".seen"), seen.clone())];
    assert_eq!(refused(dir.path()), first.clone().into());
    assert_eq!(ConsistencyProof::parse(&bad.to_bytes()).as_ref(), Ok(&bad), "the hashes are read back");
    let _ = refuse(&bad);
    assert_eq!(refused(dir.path()), first.clone().into(), "the same is kept once");

    // The memory goes on; the same head is refused again, with another proof and against another memory.
    let later = witness.cosign(&request("a", 9, 12), &log, Source::Given, at(30)).expect("goes on").note;
    let again = ConsistencyProof { checkpoint: bad.checkpoint.clone(), ..request("a", 12, 14) };
    let _ = witness.cosign(&again, &log, Source::Given, at(40)).expect_err("refused");
    let second = [(file(".2.proof"), again.to_bytes()), (file(".2.seen"), later)];
    assert_eq!(refused(dir.path()), first.into_iter().chain(second).collect());

    // Half a file that a crash left hides nothing.
    let fork = request("c", 12, 12);
    let name = Digest::of(&fork.checkpoint).to_string();
    std::fs::write(dir.path().join("w/refused").join(&name), &fork.checkpoint[..9]).expect("half");
    let failure = witness.cosign(&fork, &log, Source::Given, at(50)).expect_err("refused");
    assert!(failure.message.contains(&format!("{name}.2")), "{}", failure.message);
    assert_eq!(refused(dir.path())[&format!("{name}.2")], fork.checkpoint);
}

#[test]
fn the_head_that_was_seen_gets_the_cosignature_that_it_has() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    witness.cosign(&request("a", 0, 5), &log, Source::Given, at(10)).expect("the first head");
    let asked = request("a", 5, 9);
    let given = witness.cosign(&asked, &log, Source::Given, at(20)).expect("continues").note;
    for (old, time) in [(5, 30), (0, 30), (9, 30), (7, 1)] {
        let again = ConsistencyProof { old, ..asked.clone() };
        let done = witness.cosign(&again, &log, Source::Given, at(time)).expect("again");
        assert_eq!((done.note, done.cosigned.time_s, done.before), (given.clone(), 20, 9));
    }
}

#[test]
fn a_witness_that_was_put_back_knows_its_own_signature() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    let first = witness.cosign(&request("a", 0, 5), &log, Source::Given, at(10)).expect("the first head").note;
    let signed = witness.cosign(&request("a", 5, 9), &log, Source::Given, at(20)).expect("continues").note;
    std::fs::write(witness.seen_file(ORIGIN), &first).expect("an older backup");
    // Its proof holds, and the head bears what the witness signed itself.
    let back = ConsistencyProof { checkpoint: signed, ..request("a", 5, 9) };
    for source in [Source::Coordinator, Source::Given] {
        let failure = witness.cosign(&back, &log, source, at(30)).expect_err("refused");
        let said = "this witness signed 9 records, its memory says 5: its folder was restored from an older backup";
        assert!(failure.code == Code::Damaged && failure.message.contains(said), "{}", failure.message);
    }
    assert_eq!(refused(dir.path()).len(), 3);
    assert_eq!(witness.seen(ORIGIN).expect("memory").map(|s| s.checkpoint.size), Some(5));
    // A line in its name that it never signed says nothing.
    let mut note = Note::parse(&request("a", 5, 9).checkpoint).expect("a note");
    let line = cosign(&Checkpoint::parse_unverified(&first).expect("a head"), &witness.public, &key(9), 10);
    note.signatures.push(line);
    let foreign = ConsistencyProof { checkpoint: note.to_bytes(), ..request("a", 5, 9) };
    assert!(witness.cosign(&foreign, &log, Source::Given, at(30)).is_ok());
}

#[test]
fn an_altered_memory_vouches_for_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    witness.cosign(&request("a", 0, 9), &log, Source::Given, at(10)).expect("the first head");
    let path = witness.seen_file(ORIGIN);
    let good = std::fs::read(&path).expect("memory");
    for at in [0, 20, good.len() - 5] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("altered");
        assert_eq!(witness.cosign(&request("a", 9, 12), &log, Source::Given, self::at(20)).expect_err("altered").code, Code::Damaged);
    }
}

#[test]
fn a_witness_is_made_once_and_its_key_is_private() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().expect("dir");
    let path = dir.path().join("w");
    drop(made(&path));
    assert_eq!(std::fs::metadata(path.join(KEY)).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(init(&path, "other", &anchor(), &[8; 32]).expect_err("exists").code, Code::CannotCreate);
    std::fs::set_permissions(path.join(KEY), std::fs::Permissions::from_mode(0o644)).expect("mode");
    assert_eq!(Witness::open(&path).err().map(|f| f.code), Some(Code::NotPermitted));
    assert_eq!(Witness::open(dir.path().join("none").as_path()).err().map(|f| f.code), Some(Code::Input));
    for bad in ["", "a b", "a+b"] {
        assert_eq!(init(&dir.path().join("x"), bad, &anchor(), &[8; 32]).expect_err("name").code, Code::Input);
    }
}

#[test]
fn a_log_key_must_be_enrolled_by_the_anchors_root() {
    let anchor = Anchor::parse(&anchor()).expect("own");
    let enrolment = |by: u8, role: Role| {
        let p = Enrolment {
            deployment: "test".to_owned(),
            name: "spiffe://test/coordinator/log".to_owned(),
            key: key(2).public(),
            roles: vec![role],
            cases: None,
            predecessor: None,
            method: "init".to_owned(),
            enrolled_at: at(1),
        };
        record::sign(&p, &key(by)).expect("small").as_bytes().to_vec()
    };
    assert_eq!(log_key(&anchor, &enrolment(1, Role::Log)).ok(), Some(key(2).public()));
    for bad in [enrolment(3, Role::Log), enrolment(1, Role::Admin), b"{}".to_vec()] {
        assert!(log_key(&anchor, &bad).is_err());
    }
}
