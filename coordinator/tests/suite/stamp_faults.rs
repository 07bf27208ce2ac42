//! Every step of stamping a head fails, before and after it was applied, and the process goes on or dies. In the end there is
//! one token, one record, and every object is the one that the record names.

use std::sync::Arc;
use std::time::Duration;

use crate::support::authority::{Answers, Authority as Running};
use crate::support::deployment::{self, access, case, opening, verify_from_bytes};
use exhibit_coordinator::ledger::Ledger;
use exhibit_coordinator::stamp::{Authority, Desk, Due, Failed, NoToken, due};
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{self, LocalStore, Store};
use exhibit_evidence::Digest;
use exhibit_evidence::layout::{LogName, TimestampFile};
use exhibit_evidence::record::{Record, Stamped};
use exhibit_evidence::timestamp::Anchors;

fn authority(running: &Running) -> Authority {
    let root = Anchors::parse(&std::fs::read(running.file("root.pem")).expect("root")).expect("a root");
    Authority::new("one", &running.url(), root, &[running.crl()], Duration::from_secs(1)).expect("an authority")
}

async fn open(store: &Arc<dyn Store>) -> Ledger {
    Ledger::open(Arc::clone(store), LogName::Case(case()), Arc::new(deployment::keys()), None).await.expect("opens")
}

fn due_in(ledger: &Ledger, authority: &Authority) -> Option<Due> {
    due(&ledger.view(), ledger.name(), authority.name())
}

async fn stamp(store: &Arc<dyn Store>, ledger: &Ledger, authority: &Authority) -> Result<Stamped, Failed> {
    let key = deployment::log_key();
    let desk = Desk { store: &**store, key: &key, deployment: deployment::NAME, authority, ledger };
    let due = due_in(ledger, authority).expect("there is something to stamp");
    desk.stamp(&due).await
}

/// The records about tokens, and that what they name is there.
async fn stamped(store: &Arc<dyn Store>, ledger: &Ledger) -> Vec<Stamped> {
    let mut found = Vec::new();
    for n in 0..ledger.size() {
        let envelope = ledger.read(n).await.expect("there");
        if let Ok(Record::Stamped(p)) = Record::from_payload(envelope.unverified_payload()) {
            let name: exhibit_evidence::layout::AuthorityName = p.authority.parse().expect("a name");
            let named = [(TimestampFile::Checkpoint, p.checkpoint), (TimestampFile::Request(name.clone()), p.request)];
            let named = named.into_iter().chain([(TimestampFile::Reply(name.clone()), p.reply), (TimestampFile::Crl(name, 0), p.crls[0])]);
            for (file, digest) in named {
                let bytes = store.get(&ledger.name().timestamp(p.size, &file), 1 << 20).await.expect("kept");
                assert_eq!(Digest::of(&bytes), digest, "{file}");
            }
            found.push(*p);
        }
    }
    found
}

#[tokio::test]
async fn a_failed_step_is_taken_up_again_and_nothing_is_twice() {
    let running = Running::start("p256");
    let authority = authority(&running);
    for step in [".checkpoint", ".tsq", ".crl", ".tsr", "log/seq/", "log/tile/"] {
        for fault in [Fault::Before(store::Kind::Retry), Fault::After(store::Kind::Retry)] {
            for dies in [false, true] {
                let shown = format!("{step} {fault:?} dies: {dies}");
                let dir = tempfile::tempdir().expect("folder");
                let faulty = FaultyStore::new(Arc::new(LocalStore::create(dir.path()).expect("store")));
                let store: Arc<dyn Store> = Arc::new(faulty.clone());
                let mut ledger = open(&store).await;
                ledger.append(opening()).await.expect("nothing fails yet");
                faulty.faults.fail(Op::PutNew, step, 0, 1, fault);
                let failed = stamp(&store, &ledger, &authority).await.expect_err(&shown);
                assert!(matches!(failed, Failed::Own(_)), "{shown}: {failed:?}");
                let asked = running.asked();
                if dies {
                    drop(ledger);
                    ledger = open(&store).await;
                }
                // A record that was written before the failure was said is found when the log is looked at again.
                if due_in(&ledger, &authority).is_none() {
                    ledger.append(Vec::new()).await.expect("publishes");
                } else {
                    stamp(&store, &ledger, &authority).await.unwrap_or_else(|e| panic!("{shown}: {e:?}"));
                }
                assert_eq!(stamped(&store, &ledger).await.len(), 1, "{shown}");
                assert_eq!(due_in(&ledger, &authority), None, "{shown}: a token asks for no other token");
                verify_from_bytes(&store, &LogName::Case(case())).await;
                // What was kept is not asked for again.
                let again = running.asked() - asked;
                let kept = matches!((step, fault), ("log/seq/" | "log/tile/", _) | (".tsr", Fault::After(_)));
                assert_eq!(again, u32::from(!kept), "{shown}");
                ledger.append(vec![access(9)]).await.expect("goes on");
                assert!(due_in(&ledger, &authority).is_some_and(|d| d.size == ledger.size() && !d.soon), "{shown}");
            }
        }
    }
}

#[tokio::test]
async fn failures_are_recorded_once_for_a_head_and_what_was_altered_is_named() {
    let running = Running::start("p256");
    running.answer(Answers::AlteredSignature);
    let authority = authority(&running);
    let dir = tempfile::tempdir().expect("folder");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(dir.path()).expect("store"));
    let ledger = open(&store).await;
    ledger.append(opening()).await.expect("appends");
    let key = deployment::log_key();
    let desk = Desk { store: &*store, key: &key, deployment: deployment::NAME, authority: &authority, ledger: &ledger };
    let first = due_in(&ledger, &authority).expect("due");
    assert!(first.soon && !first.failure_recorded);
    let Err(Failed::Token(e)) = desk.stamp(&first).await else { panic!("a lie was kept") };
    assert_eq!(e.code, "signature");
    desk.record_failure(&first, &e, exhibit_evidence::Timestamp::from_unix_s(1)).await.expect("recorded");
    // The head to be stamped stays the same, and that it failed is known.
    let second = due_in(&ledger, &authority).expect("still due");
    assert!(second.failure_recorded && (second.size, second.root) == (first.size, first.root));
    running.answer(Answers::Honestly);
    desk.stamp(&second).await.expect("the authority came to its senses");
    assert_eq!(due_in(&ledger, &authority), None);

    // Somebody puts something under the next head's name: it is not taken for a token, and not written over.
    ledger.append(vec![access(9)]).await.expect("appends");
    let third = due_in(&ledger, &authority).expect("due");
    let name = ledger.name().timestamp(third.size, &TimestampFile::Reply("one".parse().expect("a name")));
    let bytes = bytes::Bytes::from_static(b"not a token");
    store.put_new(&name, store::Payload::from(bytes.clone()), Digest::of(&bytes)).await.expect("put");
    assert!(matches!(desk.stamp(&third).await, Err(Failed::Damaged(what)) if what.contains(&name)));
    let unreachable = Authority::new("one", "http://127.0.0.1:1/", Anchors::default(), &[], Duration::from_secs(1)).expect("an authority");
    let request = exhibit_evidence::timestamp::Request::new(Digest::of(b"a bag"), 7);
    assert!(matches!(unreachable.ask(&request).await, Err(NoToken { code: "unreachable", .. })));
    authority.ask(&request).await.expect("any digest can be stamped");
}
