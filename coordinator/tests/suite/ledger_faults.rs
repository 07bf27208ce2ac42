//! Every step of adding to a log fails, before and after it was applied, and the process dies there or goes on. In the end
//! the log is read from its bytes as a stranger would: nothing lost that was acknowledged, nothing twice, no hole.

use std::sync::Arc;

use crate::support::deployment::{self, access, case, opening, verify_from_bytes};
use exhibit_coordinator::ledger::{Kind, Ledger, LedgerError};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{self, LocalStore, RemoteStore, Store};
use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;

async fn open(store: &Arc<dyn Store>) -> Result<Ledger, LedgerError> {
    Ledger::open(Arc::clone(store), LogName::Case(case()), Arc::new(deployment::keys()), None).await
}

/// What happens after the failed append.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Then {
    /// The same process repeats it.
    Repeat,
    /// The same process adds something else first.
    Other,
    /// The process dies; the next one repeats it.
    DieAndRepeat,
    /// The process dies; the next one never hears of it and adds something else.
    DieAndOther,
}

async fn story(inner: Arc<dyn Store>, (op, name): (Op, &str), at: u32, twice: bool, fault: Fault, then: Then) {
    let shown = format!("{op:?} {name} number {at} {fault:?} {} {then:?}", if twice { "twice" } else { "once" });
    let faulty = FaultyStore::new(inner);
    let store: Arc<dyn Store> = Arc::new(faulty.clone());
    let ledger = open(&store).await.expect("opens");
    let mut acknowledged: Vec<Digest> = opening().iter().map(exhibit_evidence::dsse::Envelope::digest).collect();
    ledger.append(opening()).await.expect("nothing fails yet");

    let batch = || vec![access(1), access(2), access(3)];
    faulty.faults.fail(op, name, at, if twice { 2 } else { 1 }, fault);
    let e = ledger.append(batch()).await.expect_err(&shown);
    assert_eq!(e.kind(), Kind::Retry, "{shown}: {e}");
    if twice {
        ledger.append(batch()).await.expect_err(&shown);
    }
    let ledger = match then {
        Then::Repeat | Then::Other => ledger,
        Then::DieAndRepeat | Then::DieAndOther => {
            drop(ledger);
            let again = open(&store).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
            verify_from_bytes(&store, &LogName::Case(case())).await;
            again
        }
    };
    if matches!(then, Then::Other | Then::DieAndOther) {
        ledger.append(vec![access(77)]).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
        acknowledged.push(access(77).digest());
        verify_from_bytes(&store, &LogName::Case(case())).await;
    }
    if then != Then::DieAndOther {
        let places = ledger.append(batch()).await.unwrap_or_else(|e| panic!("{shown}: {e}"));
        for (n, envelope) in places.iter().zip(batch()) {
            assert_eq!(ledger.read(*n).await.expect("there"), envelope, "{shown}");
        }
        acknowledged.extend(batch().iter().map(exhibit_evidence::dsse::Envelope::digest));
    }
    let digests = verify_from_bytes(&store, &LogName::Case(case())).await;
    for digest in &acknowledged {
        assert!(digests.contains(digest), "{shown}: an acknowledged record is gone");
    }
    let reopened = open(&store).await.expect("opens");
    assert_eq!(reopened.head(), ledger.head(), "{shown}: what the process knew is what the bytes say");
}

#[tokio::test]
async fn every_step_fails_before_and_after() {
    for (op, steps) in [((Op::PutNew, "seq/"), 3), ((Op::PutNew, "tile/"), 1), ((Op::PutHead, "checkpoint"), 1)] {
        for at in 0..steps {
            for fault in [Fault::Before(store::Kind::Retry), Fault::After(store::Kind::Retry)] {
                for twice in [false, true] {
                    for then in [Then::Repeat, Then::Other, Then::DieAndRepeat, Then::DieAndOther] {
                        story(Arc::new(RemoteStore::memory()), op, at, twice, fault, then).await;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn the_same_on_a_real_folder() {
    for fault in [Fault::Before(store::Kind::Retry), Fault::After(store::Kind::Retry)] {
        for (op, at) in [((Op::PutNew, "seq/"), 1), ((Op::PutNew, "tile/"), 0), ((Op::PutHead, "checkpoint"), 0)] {
            for then in [Then::Other, Then::DieAndOther] {
                let dir = tempfile::tempdir().expect("dir");
                let store = LocalStore::create(&dir.path().join("store")).expect("new store");
                story(Arc::new(store), op, at, false, fault, then).await;
            }
        }
    }
}

#[tokio::test]
async fn a_disturbed_store_delays_and_loses_nothing() {
    for seed in 0..30 {
        let faulty = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let ledger = open(&store).await.expect("opens");
        ledger.append(opening()).await.expect("nothing fails yet");
        faulty.faults.fail_at_random(seed, 250);
        let mut ledger = ledger;
        let mut acknowledged = Vec::new();
        for n in 0..40 {
            // Every seventh record is given up after its first failure, every fifth failure is a crash.
            for attempt in 0..200 {
                match ledger.append(vec![access(n)]).await {
                    Ok(places) => {
                        acknowledged.push((places[0], access(n).digest()));
                        break;
                    }
                    Err(e) if e.kind() == Kind::Retry => {}
                    Err(e) => panic!("seed {seed}: {e}"),
                }
                if n % 7 == 3 {
                    break;
                }
                if (n + attempt) % 5 == 0 {
                    ledger = loop {
                        match open(&store).await {
                            Ok(ledger) => break ledger,
                            Err(e) => assert_eq!(e.kind(), Kind::Retry, "seed {seed}: {e}"),
                        }
                    };
                }
            }
        }
        faulty.faults.heal();
        ledger.append(vec![access(1_000)]).await.expect("healed");
        let digests = verify_from_bytes(&store, &LogName::Case(case())).await;
        for (place, digest) in acknowledged {
            assert_eq!(digests.get(place as usize), Some(&digest), "seed {seed}");
        }
    }
}

#[tokio::test]
async fn full_and_denied_are_told_apart() {
    for (kind, expected) in [(store::Kind::Full, Kind::Full), (store::Kind::Denied, Kind::Denied)] {
        let faulty = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let ledger = open(&store).await.expect("opens");
        faulty.faults.fail(Op::PutNew, "seq/", 2, 1, Fault::Before(kind));
        assert_eq!(ledger.append(opening()).await.expect_err("it fails").kind(), expected);
        ledger.append(opening()).await.expect("room was made");
        assert_eq!(verify_from_bytes(&store, &LogName::Case(case())).await.len(), 5);
    }
}

#[tokio::test]
async fn a_read_that_comes_back_altered_opens_nothing() {
    for fault in [Fault::Short, Fault::Corrupt] {
        let faulty = FaultyStore::new(Arc::new(RemoteStore::memory()));
        let store: Arc<dyn Store> = Arc::new(faulty.clone());
        let ledger = open(&store).await.expect("opens");
        ledger.append(opening()).await.expect("appended");
        for name in ["seq/0000000003", "checkpoint"] {
            faulty.faults.fail(Op::Get, name, 0, 1, fault);
            assert_eq!(open(&store).await.expect_err("altered").kind(), Kind::Damaged, "{name} {fault:?}");
        }
        faulty.faults.fail(Op::Get, "seq/0000000003", 0, 1, fault);
        assert_eq!(ledger.read(3).await.expect_err("altered").kind(), Kind::Damaged);
        assert_eq!(open(&store).await.expect("the store itself is well").size(), 5);
    }
}

/// A slot that somebody else filled with something of their own: the log stops there and says so.
#[tokio::test]
async fn a_foreign_record_in_the_next_slot_stops_the_log() {
    let store: Arc<dyn Store> = Arc::new(RemoteStore::memory());
    let ledger = open(&store).await.expect("opens");
    ledger.append(opening()).await.expect("appended");
    let junk = bytes::Bytes::from_static(b"{}");
    store.put_new(&LogName::Case(case()).slot(5), junk.clone().into(), Digest::of(&junk)).await.expect("written");
    for _ in 0..2 {
        let e = ledger.append(vec![access(1)]).await.expect_err("foreign");
        assert!(e.kind() == Kind::Damaged && e.to_string().contains("record 5"), "{e}");
    }
}
