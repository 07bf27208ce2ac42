//! Lists of more cases than logs are open at a time: no log is opened again for them, and nothing old is told.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::sync::Arc;

use crate::custody_disposal::Story;
use crate::support::deployment::{self, case, close_logs, opening, order};
use crate::support::world::Place;
use exhibit_coordinator::ledger::{LOGS_OPEN_MAX, Ledgers};
use exhibit_coordinator::store::faulty::{Fault, Faults, FaultyStore, Op};
use exhibit_coordinator::store::{Kind, RemoteStore, Store};
use exhibit_evidence::CaseId;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{Destruction, Predicate as _};
use exhibit_proto::responder::v1 as people;

fn ledgers() -> (Arc<Ledgers>, Faults) {
    let faulty = FaultyStore::new(Arc::new(RemoteStore::memory()));
    let faults = faulty.faults.clone();
    let store: Arc<dyn Store> = Arc::new(faulty);
    (Ledgers::new(store, deployment::keys()), faults)
}

/// How often the log of a case was opened: its slots are listed then, and at no other time.
fn openings(faults: &Faults, case: &CaseId) -> usize {
    let slots = format!("{}/seq", LogName::Case(case.clone()).folder());
    faults.calls().iter().filter(|(op, name)| *op == Op::List && *name == slots).count()
}

#[tokio::test]
async fn more_cases_than_logs_are_open_are_told_of_and_each_log_is_opened_once() {
    let (ledgers, faults) = ledgers();
    let cases: Vec<CaseId> = (0..LOGS_OPEN_MAX + 50).map(|n| CaseId::new(n as u64, [2; 10])).collect();
    for round in 0..3 {
        for case in &cases {
            ledgers.brief(case).await.expect("told");
        }
        let most = cases.iter().map(|case| openings(&faults, case)).max();
        assert_eq!(most, Some(1), "round {round}");
    }
}

#[tokio::test]
async fn what_was_added_since_is_told_whether_the_log_is_open_or_not() {
    let (ledgers, faults) = ledgers();
    let size = async || ledgers.brief(&case()).await.expect("told").head.size;
    ledgers.case(&case()).await.expect("opens").append(opening()).await.expect("appended");
    close_logs(&ledgers).await;
    assert_eq!((size().await, openings(&faults, &case())), (5, 1));
    ledgers.case(&case()).await.expect("opens").append(vec![order(1).1]).await.expect("appended");
    assert_eq!((size().await, openings(&faults, &case())), (6, 2), "open");
    close_logs(&ledgers).await;
    assert_eq!((size().await, openings(&faults, &case())), (6, 2), "closed");
}

/// Opening it publishes the head, so a list opens it.
#[tokio::test]
async fn a_log_without_its_head_is_opened_again() {
    let (ledgers, faults) = ledgers();
    faults.fail(Op::PutHead, case().as_str(), 0, 1, Fault::Before(Kind::Retry));
    ledgers.case(&case()).await.expect("opens").append(opening()).await.expect_err("no head");
    close_logs(&ledgers).await;
    assert_eq!(ledgers.brief(&case()).await.expect("told").head.size, 5);
    assert_eq!(openings(&faults, &case()), 2);
    let heads = |(op, name): &(Op, String)| *op == Op::PutHead && name.contains(case().as_str());
    assert_eq!(faults.calls().into_iter().filter(heads).count(), 2);
}

/// Places of the certificates and states, by the order of the collections; and how the case counts them.
async fn listed(s: &mut Story) -> (Vec<(String, u64)>, Vec<(String, u64)>) {
    let mut rows = Vec::new();
    for (id, _) in s.collections.clone() {
        let row = s.world.collection(&id).await;
        rows.push((row.state, row.disposed.map_or(0, |gone| gone.certificate_n)));
    }
    let mut cases = s.world.people.list_cases(people::ListCasesRequest::default()).await.expect("listed").into_inner();
    let case = cases.message().await.expect("row").expect("is there");
    (rows, case.collections.into_iter().collect())
}

fn texts(of: &[(&str, u64)]) -> Vec<(String, u64)> {
    of.iter().map(|(text, n)| ((*text).to_owned(), *n)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destruction_is_told_while_it_goes_on_and_after_it() {
    let mut s = Story::on(Place::default(), 2).await;
    let disposal = s.ask(0).await;
    s.world.faults.fail(Op::Destroy, "/manifest.jsonl", 0, 1_000_000, Fault::Before(Kind::Retry));
    s.approve_unfinished(disposal).await;
    let ledgers = Arc::clone(&s.world.running().parts.ledgers);
    close_logs(&ledgers).await;
    let (rows, counts) = listed(&mut s).await;
    assert_eq!(rows, texts(&[("destroying", 0), ("sealed", 0)]));
    assert_eq!(counts, texts(&[("destroying", 1), ("sealed", 1)]));

    s.world.faults.heal();
    s.certified(0).await;
    let certificate = ledgers.case(&s.case).await.expect("open").entries(0, &|e| e.kind == Destruction::TYPE, 1)[0].n;
    let (told, counted) = (texts(&[("destroyed", certificate), ("sealed", 0)]), texts(&[("destroyed", 1), ("sealed", 1)]));
    assert_eq!(listed(&mut s).await, (told.clone(), counted.clone()), "of the open log");
    close_logs(&ledgers).await;
    let before = openings(&s.world.faults, &s.case);
    assert_eq!(listed(&mut s).await, (told, counted), "of the closed one");
    assert_eq!(openings(&s.world.faults, &s.case), before);
}
