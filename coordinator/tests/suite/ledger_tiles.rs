//! Tiles, proofs and cosignatures of the custody log: what is written and when, that it can be made again, and that
//! nothing is given away that does not hold.

use std::sync::Arc;

use crate::support::deployment::{self, access, case, cosigned, log_key, opening, verify_from_bytes, witness};
use exhibit_coordinator::ledger::{Kind, Ledger, LedgerError, ProofOf};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{self, LocalStore, RemoteStore, Store};
use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::{Checkpoint, Note, leaf_hash, verify_consistency, verify_inclusion};

fn log() -> LogName {
    LogName::Case(case())
}

async fn try_open(store: &Arc<dyn Store>) -> Result<Ledger, LedgerError> {
    Ledger::open(Arc::clone(store), log(), Arc::new(deployment::keys()), None).await
}

async fn open(store: &Arc<dyn Store>) -> Ledger {
    try_open(store).await.expect("opens")
}

fn memory() -> Arc<dyn Store> {
    Arc::new(RemoteStore::memory())
}

fn many(range: std::ops::Range<u32>) -> Vec<Envelope> {
    range.map(access).collect()
}

#[tokio::test]
async fn an_append_costs_the_same_however_long_the_log_is() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    ledger.append(many(0..505)).await.expect("appended");
    assert_eq!(ledger.size(), 510);
    for n in 505..511 {
        let before = faulty.faults.calls().len();
        ledger.append(vec![access(n)]).await.expect("appended");
        let calls = faulty.faults.calls().split_off(before);
        let puts: Vec<&str> =
            calls.iter().filter(|(op, _)| *op == Op::PutNew).map(|(_, n)| n.rsplit("/log/").next().expect("name")).collect();
        let size = u64::from(n) + 6;
        if size == 512 {
            // The second tile of level 0 is full: its bundle is made of its slots, and the level above gets a hash.
            assert_eq!(puts, ["seq/0000000511.dsse.json", "tile/entries/001", "tile/0/001", "tile/1/000.p/2"]);
            assert_eq!(calls.iter().filter(|(op, _)| *op == Op::Get).count(), 256);
        } else {
            let tile = if size < 512 { format!("tile/0/001.p/{}", size - 256) } else { format!("tile/0/002.p/{}", size - 512) };
            // The incomplete tile of level 1 is the same as before; to put it again is no new object.
            assert_eq!(puts.first().map(|s| s.starts_with("seq/")), Some(true));
            assert!(puts.contains(&tile.as_str()) && puts.len() <= 3, "{puts:?}");
            assert!(calls.iter().all(|(op, _)| *op != Op::Get), "{calls:?}");
        }
    }
    verify_from_bytes(&store, &log()).await;
}

#[tokio::test]
async fn tiles_that_are_gone_are_made_again() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().join("store");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&root).expect("store"));
    let ledger = open(&store).await;
    ledger.append([opening(), many(0..300)].concat()).await.expect("appended");
    drop(ledger);
    std::fs::remove_dir_all(root.join(log().folder()).join("tile")).expect("removed");
    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&root).expect("store"));
    let ledger = open(&store).await;
    verify_from_bytes(&store, &log()).await;
    assert!(ledger.prove(ProofOf::Record(7), 0).await.is_ok());
    // And one by one, whichever it is.
    for tile in ["tile/0/000", "tile/entries/000", "tile/0/001.p/49", "tile/1/000.p/1"] {
        std::fs::remove_file(root.join(log().folder()).join(tile)).expect("removed");
        assert_eq!(open(&store).await.head(), ledger.head());
        verify_from_bytes(&store, &log()).await;
    }
    // The bundle that ends with the end of the case, too, whatever came after it.
    let ledger = open(&store).await;
    ledger.append(vec![deployment::case_closed()]).await.expect("closed");
    let bundle = root.join(log().folder()).join("tile/entries/001.p/50");
    let written = std::fs::read(&bundle).expect("written with the end");
    ledger.append(vec![access(900)]).await.expect("appended");
    drop(ledger);
    std::fs::remove_file(&bundle).expect("removed");
    let _ = open(&store).await;
    assert_eq!(std::fs::read(&bundle).expect("made again"), written);
    verify_from_bytes(&store, &log()).await;
}

#[tokio::test]
async fn a_batch_over_a_full_tile_fails_at_every_write() {
    for name in ["tile/entries/000", "tile/0/000", "tile/0/001.p/9", "tile/1/000.p/1", "checkpoint"] {
        for fault in [Fault::Before(store::Kind::Retry), Fault::After(store::Kind::Retry)] {
            for dies in [false, true] {
                let faulty = FaultyStore::new(memory());
                let store: Arc<dyn Store> = Arc::new(faulty.clone());
                let ledger = open(&store).await;
                ledger.append(opening()).await.expect("appended");
                let op = if name == "checkpoint" { Op::PutHead } else { Op::PutNew };
                faulty.faults.fail(op, name, 0, 1, fault);
                ledger.append(many(0..260)).await.expect_err(name);
                let ledger = if dies { open(&store).await } else { ledger };
                ledger.append(many(0..260)).await.unwrap_or_else(|e| panic!("{name}: {e}"));
                assert_eq!(verify_from_bytes(&store, &log()).await.len(), 265, "{name}");
                assert_eq!(open(&store).await.head(), ledger.head(), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_process_that_dies_at_any_write_leaves_what_the_next_one_finishes() {
    for (op, name) in [(Op::PutNew, "seq/"), (Op::PutNew, "tile/0/"), (Op::PutNew, "tile/entries"), (Op::PutHead, "checkpoint")] {
        for fault in [Fault::DieBefore, Fault::DieAfter] {
            let inner = memory();
            let faulty = FaultyStore::new(Arc::clone(&inner));
            let store: Arc<dyn Store> = Arc::new(faulty.clone());
            let ledger = open(&store).await;
            ledger.append(opening()).await.expect("appended");
            faulty.faults.fail(op, name, 0, 1, fault);
            let dying = tokio::spawn(async move { ledger.append(many(0..260)).await });
            faulty.died().await;
            dying.abort();
            let ledger = open(&inner).await;
            ledger.append(many(0..260)).await.unwrap_or_else(|e| panic!("{name} {fault:?}: {e}"));
            assert_eq!(verify_from_bytes(&inner, &log()).await.len(), 265, "{name} {fault:?}");
        }
    }
}

#[tokio::test]
async fn proofs_hold_for_every_record_and_every_published_head() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    ledger.append(many(0..300)).await.expect("appended");
    ledger.append(many(300..310)).await.expect("appended");
    let published = ledger.published();
    for size in [0, 1, 5, 6, 256, 257, 300, published] {
        let head = if size == 0 { published } else { size };
        let root = ledger.root_at(head).expect("a root");
        for n in [0, 3, 255, 256, 299, 314] {
            let proof = ledger.prove(ProofOf::Record(n), size).await;
            if n >= head {
                assert_eq!(proof.expect_err("not in it").kind(), Kind::Refused);
                continue;
            }
            let proof = proof.expect("in it");
            let leaf = leaf_hash(ledger.read(n).await.expect("record").as_bytes());
            assert_eq!(verify_inclusion(leaf, n, head, &proof.hashes, &root), Ok(()));
            let checkpoint = Checkpoint::verify(&proof.checkpoint, &log_key().public()).expect("signed");
            assert_eq!((checkpoint.size, checkpoint.root), (head, root));
            let proof = ledger.prove(ProofOf::Head(n), size).await.expect("earlier");
            let old = ledger.root_at(n).expect("a root");
            assert_eq!(verify_consistency((n, &old), (head, &root), &proof.hashes), Ok(()));
        }
    }
    for (what, size) in [(ProofOf::Record(0), published + 1), (ProofOf::Head(published + 1), 0), (ProofOf::Head(7), 6)] {
        let e = ledger.prove(what, size).await.expect_err("no such head");
        assert_eq!(e.kind(), Kind::Refused, "{e}");
    }
}

#[tokio::test]
async fn a_proof_reads_only_the_tiles_that_it_needs_and_never_trusts_them() {
    let faulty = FaultyStore::new(memory());
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await;
    ledger.append([opening(), many(0..800)].concat()).await.expect("appended");
    let before = faulty.faults.calls().len();
    ledger.prove(ProofOf::Record(600), 0).await.expect("holds");
    let calls = faulty.faults.calls().split_off(before);
    assert!(calls.iter().filter(|(_, name)| name.contains("/tile/")).count() <= 4, "{calls:?}");
    assert!(calls.len() <= 8 && calls.iter().all(|(op, _)| *op == Op::Get), "{calls:?}");
    for fault in [Fault::Corrupt, Fault::Short] {
        faulty.faults.fail(Op::Get, "tile/0/", 0, 1, fault);
        let e = ledger.prove(ProofOf::Record(600), 0).await.expect_err("altered");
        assert_eq!(e.kind(), Kind::Damaged, "{e}");
        faulty.faults.heal();
    }
}

/// Tiles are derived: one that somebody put there beforehand does not get the log to promise it.
#[tokio::test]
async fn a_foreign_tile_stops_the_checkpoint() {
    let store = memory();
    let ledger = open(&store).await;
    let junk = bytes::Bytes::from_static(&[7; 160]);
    store.put_new("cases/x", junk.clone().into(), Digest::of(&junk)).await.expect("any name");
    store.put_new(&format!("{}/tile/0/000.p/5", log().folder()), junk.clone().into(), Digest::of(&junk)).await.expect("written");
    let e = ledger.append(opening()).await.expect_err("foreign");
    assert!(e.kind() == Kind::Damaged && e.to_string().contains("tile/0/000.p/5"), "{e}");
    assert_eq!(ledger.published(), 0, "nothing is signed over it");
}

#[tokio::test]
async fn cosignatures_of_configured_witnesses_are_kept_and_published() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    let note = ledger.checkpoint(5).await.expect("published");
    // A stranger, nobody, and a witness whose signature is of another head.
    assert_eq!(ledger.add_cosignatures(cosigned(&note, &witness(92), 10)).await.expect_err("unknown").kind(), Kind::Refused);
    assert_eq!(ledger.add_cosignatures(Note::parse(&note).expect("note")).await.expect_err("none").kind(), Kind::Refused);
    let origin = log().origin(deployment::NAME);
    let forged = Checkpoint { origin: origin.clone(), size: 5, root: Digest::of(b"other") }.sign(&log_key());
    let early = Checkpoint { origin, size: 6, root: Digest::of(b"other") }.sign(&log_key());
    for note in [forged, early] {
        let e = ledger.add_cosignatures(cosigned(&note, &witness(90), 10)).await.expect_err("no head of this log");
        assert!(e.kind() == Kind::Damaged && e.to_string().contains("that is not in it"), "its own key signed it: {e}");
    }
    assert_eq!(ledger.add_cosignatures(cosigned(&note, &witness(90), 10)).await, Ok(vec!["counsel.example/w90".to_owned()]));
    assert_eq!(ledger.add_cosignatures(cosigned(&note, &witness(91), 20)).await, Ok(vec!["counsel.example/w91".to_owned()]));
    // Again, at another time: accepted, and the first one stays.
    assert!(ledger.add_cosignatures(cosigned(&note, &witness(90), 30)).await.is_ok());
    let published = Note::parse(&store.get(&log().checkpoint(), 20_000).await.expect("there")).expect("a note");
    let times: Vec<u64> = [90, 91].map(|n| witness(n).0.verify(&published).expect("cosigned").time_s).to_vec();
    assert_eq!(times, [10, 20]);
    assert_eq!(ledger.checkpoint(5).await, Ok(published.to_bytes()));
    verify_from_bytes(&store, &log()).await;
    // The next record gets a checkpoint of its own; the old cosignature stays where it was.
    ledger.append(vec![access(1)]).await.expect("appended");
    let again = open(&store).await;
    assert_eq!(again.checkpoint(5).await, Ok(published.to_bytes()));
    assert!(witness(90).0.verify(&Note::parse(&again.checkpoint(6).await.expect("signed")).expect("note")).is_err());
    assert!(again.add_cosignatures(cosigned(&note, &witness(90), 40)).await.is_ok(), "of an earlier head");
}

/// Slots and checkpoint are those of last week, and what a witness vouched for since lies there still.
#[tokio::test]
async fn a_log_that_lacks_what_a_witness_vouched_for_is_not_opened() {
    let store = memory();
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appended");
    ledger.append(vec![access(1)]).await.expect("appended");
    let note = cosigned(&ledger.checkpoint(6).await.expect("published"), &witness(90), 10);
    ledger.add_cosignatures(note).await.expect("taken");
    let rolled_back = memory();
    let again = open(&rolled_back).await;
    again.append(opening()).await.expect("appended");
    assert!(open(&rolled_back).await.size() == 5);
    let name = log().cosigned(&witness(90).0, 6);
    let bytes = store.get(&name, 20_000).await.expect("there");
    let digest = Digest::of(&bytes);
    rolled_back.put_new(&name, bytes.into(), digest).await.expect("put");
    let e = try_open(&rolled_back).await.expect_err("it had six");
    assert!(e.kind() == Kind::Damaged && e.to_string().contains("it had 6 records and now has 5"), "{e}");
}

#[tokio::test]
async fn a_cosignature_survives_every_failed_write() {
    for (op, name) in [(Op::PutNew, "cosigned/"), (Op::PutHead, "checkpoint")] {
        for fault in [Fault::Before(store::Kind::Retry), Fault::After(store::Kind::Retry)] {
            let faulty = FaultyStore::new(memory());
            let store: Arc<dyn Store> = Arc::new(faulty.clone());
            let ledger = open(&store).await;
            ledger.append(opening()).await.expect("appended");
            let note = cosigned(&ledger.checkpoint(5).await.expect("published"), &witness(90), 10);
            faulty.faults.fail(op, name, 0, 1, fault);
            ledger.add_cosignatures(note.clone()).await.expect_err(name);
            let ledger = open(&store).await;
            ledger.add_cosignatures(note.clone()).await.unwrap_or_else(|e| panic!("{name}: {e}"));
            assert_eq!(store.get(&log().checkpoint(), 20_000).await.expect("there"), note.to_bytes());
        }
    }
}
