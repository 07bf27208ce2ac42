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
    let done = witness.cosign(&request("a", 0, 5), &log, at(10)).expect("the first head");
    assert_eq!((done.before, done.cosigned.checkpoint.size), (0, 5));
    let note = Note::parse(&done.note).expect("a note");
    assert_eq!(witness.public.verify(&note).map(|c| c.time_s), Ok(10));
    assert_eq!(witness.seen(ORIGIN).expect("memory").map(|s| s.checkpoint.size), Some(5));
    let done = witness.cosign(&request("a", 5, 9), &log, at(20)).expect("continues");
    assert_eq!((done.before, done.cosigned.checkpoint.size), (5, 9));
    assert!(witness.cosign(&request("a", 9, 9), &log, at(30)).is_ok(), "the same head at a later time");
    // Not a lie, only a proof from somewhere else.
    assert_eq!(witness.cosign(&request("a", 5, 12), &log, at(40)).expect_err("from elsewhere").code, Code::Input);
    assert_eq!(witness.cosign(&request("a", 9, 12), &log, at(5)).expect_err("clock").code, Code::Failure);
    assert_eq!(witness.cosign(&request("a", 9, 12), &key(3).public(), at(50)).expect_err("another key").code, Code::Damaged);
    assert_eq!(witness.all_seen().expect("memory").len(), 1);
}

#[test]
fn a_log_that_was_rewritten_forked_or_cut_back_is_refused_and_kept() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    witness.cosign(&request("a", 0, 9), &log, at(10)).expect("the first head");
    let cut = ConsistencyProof { old: 9, hashes: Vec::new(), ..request("a", 0, 6) };
    for (n, bad) in [request("b", 9, 9), request("b", 9, 14), cut].into_iter().enumerate() {
        let failure = witness.cosign(&bad, &log, at(20)).expect_err("refused");
        assert!(failure.code == Code::Damaged && failure.message.starts_with("NOT COSIGNED"), "{}", failure.message);
        assert_eq!(std::fs::read_dir(dir.path().join("w/refused")).expect("there").count(), n + 1);
    }
    assert_eq!(witness.seen(ORIGIN).expect("memory").map(|s| s.checkpoint.size), Some(9));
    assert!(witness.cosign(&request("a", 9, 14), &log, at(30)).is_ok(), "the true log goes on");
}

#[test]
fn an_altered_memory_vouches_for_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let witness = made(&dir.path().join("w"));
    let log = key(2).public();
    witness.cosign(&request("a", 0, 9), &log, at(10)).expect("the first head");
    let path = witness.seen_file(ORIGIN);
    let good = std::fs::read(&path).expect("memory");
    for at in [0, 20, good.len() - 5] {
        let mut bytes = good.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).expect("altered");
        assert_eq!(witness.cosign(&request("a", 9, 12), &log, self::at(20)).expect_err("altered").code, Code::Damaged);
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
