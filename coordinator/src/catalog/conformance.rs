//! The contract of [`Catalog`] as a program: every backend runs it on an empty catalog. It panics with the broken promise.

use std::collections::BTreeMap;

use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::layout::StreamNumber;
use exhibit_evidence::manifest::{Segment, Status};
use exhibit_evidence::record::{ManifestRef, Outcome};
use exhibit_evidence::{Digest, Timestamp};

use super::*;

/// Runs the whole suite. The catalog must be empty.
///
/// # Panics
/// At the first promise that the catalog does not keep.
pub async fn run(catalog: SharedCatalog) {
    let c = &*catalog;
    c.healthy().await.expect("healthy");
    tokens(c).await;
    last_use(&catalog).await;
    agents(c).await;
    cases(c).await;
    orders(c).await;
    listings(c).await;
    changes(c).await;
    times(c).await;
    streams(c).await;
    one_commit(&catalog).await;
    incidents(c).await;
    chores(c).await;
    published(c).await;
    c.healthy().await.expect("still healthy");
}

async fn published(c: &dyn Catalog) {
    let kept = async |log: &str| c.published(log.to_owned()).await.expect("read");
    let head = |size, n| Published { size, root: digest(n) };
    assert_eq!(kept("cases/a/log").await, None, "nothing is known yet");
    let known = [(head(3, 3), head(3, 3)), (head(9, 9), head(9, 9)), (head(4, 4), head(9, 9)), (head(9, 8), head(9, 9))];
    for (told, expected) in known {
        c.set_published("cases/a/log".to_owned(), told).await.expect("kept");
        assert_eq!(kept("cases/a/log").await, Some(expected), "the longest stays, and of two the first");
    }
    assert_eq!(kept("cases/b/log").await, None, "each log has its own");
}

async fn chores(c: &dyn Catalog) {
    assert_eq!(c.standing("verify").await.expect("read"), None, "nothing is kept yet");
    for standing in ["first", "second", ""] {
        c.set_standing("verify", standing.to_owned()).await.expect("kept");
        assert_eq!(c.standing("verify").await.expect("read").as_deref(), Some(standing), "the last one stays");
    }
    assert_eq!(c.standing("other").await.expect("read"), None, "each chore has its own");
    let tries = [
        (Some("a"), "b", false, None),
        (None, "a", true, Some("a")),
        (None, "b", false, Some("a")),
        (Some("b"), "c", false, Some("a")),
        (Some("a"), "", true, Some("")),
        (Some("a"), "c", false, Some("")),
        (Some(""), "c", true, Some("c")),
        (Some("c"), "c", true, Some("c")),
    ];
    for (before, after, is_done, stays) in tries {
        let done = c.replace_standing("other", before.map(str::to_owned), after.to_owned()).await.expect("asked");
        assert_eq!(done, is_done, "{before:?} {after}");
        assert_eq!(c.standing("other").await.expect("read").as_deref(), stays, "only in the place of what was read");
    }
    assert_eq!(c.standing("verify").await.expect("read").as_deref(), Some(""), "another chore's stays");
}

/// Some time.
#[must_use]
pub fn at(s: i64) -> Timestamp {
    Timestamp::from_unix_ns(s * 1_000_000_000 + 7)
}

/// Some digest.
#[must_use]
pub fn digest(n: u32) -> Digest {
    Digest::of(&n.to_le_bytes())
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

/// Some agent.
#[must_use]
pub fn agent_id(n: u8) -> AgentId {
    AgentId::new(1_000, [n; 10])
}

fn case_id(n: u8) -> CaseId {
    CaseId::new(1_000, [n; 10])
}

/// A token with so many uses.
#[must_use]
pub fn token(n: u32, uses: u32) -> TokenRow {
    TokenRow {
        sha256: digest(n),
        labels: labels(&[("role", "web")]),
        uses_left: uses,
        expires_at: at(100),
        created_by: "alex".to_owned(),
        created_at: at(1),
    }
}

async fn tokens(c: &dyn Catalog) {
    assert_eq!(c.use_token(digest(1), digest(50), agent_id(1), at(2)).await, Ok(TokenUse::Unknown));
    c.add_token(token(1, 2)).await.expect("new");
    c.add_token(token(1, 2)).await.expect("equal");
    let other = TokenRow { uses_left: 3, ..token(1, 2) };
    assert!(matches!(c.add_token(other).await, Err(CatalogError::Conflict(_))));
    let l = labels(&[("role", "web")]);
    assert_eq!(c.use_token(digest(1), digest(50), agent_id(1), at(2)).await, Ok(TokenUse::Taken { labels: l.clone() }));
    let again = TokenUse::Repeated { agent: agent_id(1), labels: l.clone() };
    assert_eq!(c.use_token(digest(1), digest(50), agent_id(9), at(3)).await, Ok(again.clone()), "the first agent of these keys");
    assert_eq!(c.use_token(digest(1), digest(51), agent_id(2), at(3)).await, Ok(TokenUse::Taken { labels: l }));
    assert_eq!(c.use_token(digest(1), digest(52), agent_id(3), at(3)).await, Ok(TokenUse::UsedUp));
    assert_eq!(c.use_token(digest(1), digest(50), agent_id(9), at(99)).await, Ok(again), "used up, and still repeatable");
    c.add_token(token(1, 2)).await.expect("the same token, although it was used since");
    for now in [at(100), at(101)] {
        assert_eq!(c.use_token(digest(1), digest(50), agent_id(1), now).await, Ok(TokenUse::Expired(at(100))));
    }
}

/// Of many agents that use the last use at once exactly one gets it.
async fn last_use(catalog: &SharedCatalog) {
    catalog.add_token(token(2, 3)).await.expect("new");
    let uses = (0..12_u8).map(|n| {
        let catalog = Arc::clone(catalog);
        tokio::spawn(async move { catalog.use_token(digest(2), digest(100 + u32::from(n)), agent_id(n), at(2)).await.expect("answered") })
    });
    let all = futures::future::join_all(uses).await;
    let taken = all.into_iter().filter(|u| matches!(u, Ok(TokenUse::Taken { .. }))).count();
    assert_eq!(taken, 3);
}

fn agent(n: u8) -> AgentRow {
    AgentRow {
        agent: agent_id(n),
        key: digest(u32::from(n)),
        enrolment: digest(1_000 + u32::from(n)),
        enrolled_at: at(5),
        labels: labels(&[("env", if n.is_multiple_of(2) { "prod" } else { "test" }), ("role", "web")]),
        revoked: None,
        alarm: None,
        seen: Seen::default(),
    }
}

async fn agents(c: &dyn Catalog) {
    assert_eq!(c.agent(agent_id(1)).await, Ok(None));
    for n in 1..=5 {
        c.add_agent(agent(n)).await.expect("new");
    }
    let seen = Seen {
        at: Some(at(9)),
        hostname: "h'; DROP TABLE agents; --".to_owned(),
        version: "1".to_owned(),
        kernel: "Linux".to_owned(),
        os: "Debian".to_owned(),
        boot_id: "b".to_owned(),
        build: Some(digest(7)),
        clock_offset_ns: -5,
        captures: vec!["system".to_owned(), "files".to_owned()],
    };
    assert_eq!(c.set_seen(agent_id(1), seen.clone()).await, Ok(true));
    assert_eq!(c.set_alarm(agent_id(1), Some("two of them".to_owned())).await, Ok(true));
    assert_eq!(c.set_labels(agent_id(1), labels(&[("env", "prod"), ("a b", "\"")])).await, Ok(true));
    c.add_agent(agent(1)).await.expect("the same agent");
    let row = c.agent(agent_id(1)).await.expect("read").expect("there");
    assert_eq!((row.seen, row.alarm.as_deref()), (seen, Some("two of them")), "adding it again changed nothing");
    assert!(matches!(c.add_agent(AgentRow { key: digest(99), ..agent(1) }).await, Err(CatalogError::Conflict(_))));
    let ids = |rows: Vec<AgentRow>| rows.into_iter().map(|r| r.agent).collect::<Vec<_>>();
    let all: Vec<AgentId> = (1..=5).map(agent_id).collect();
    assert_eq!(c.agents(Labels::new(), None, 100).await.map(ids), Ok(all.clone()));
    assert_eq!(c.agents(Labels::new(), Some(agent_id(2)), 2).await.map(ids), Ok(all[2..4].to_vec()));
    assert_eq!(c.agents(labels(&[("env", "prod")]), None, 100).await.map(ids), Ok(vec![agent_id(1), agent_id(2), agent_id(4)]));
    assert_eq!(c.agents(labels(&[("env", "prod"), ("role", "web")]), None, 100).await.map(ids), Ok(vec![agent_id(2), agent_id(4)]));
    assert_eq!(c.agents(labels(&[("a b", "\"")]), None, 100).await.map(ids), Ok(vec![agent_id(1)]));
    assert_eq!(c.agents(labels(&[("env", "none")]), None, 100).await.map(ids), Ok(vec![]));
    assert_eq!(c.revoke_agent(agent_id(3), at(20), "stolen".to_owned()).await, Ok(true));
    assert_eq!(c.revoke_agent(agent_id(3), at(30), "again".to_owned()).await, Ok(true));
    let revoked = c.agent(agent_id(3)).await.expect("read").and_then(|a| a.revoked);
    assert_eq!(revoked, Some((at(20), "stolen".to_owned())), "the first revocation stays");
    let nobody = AgentId::new(2_000, [77; 10]);
    assert_eq!(c.set_labels(nobody.clone(), Labels::new()).await, Ok(false));
    assert_eq!(c.set_seen(nobody.clone(), Seen::default()).await, Ok(false));
    assert_eq!(c.set_alarm(nobody.clone(), None).await, Ok(false));
    assert_eq!(c.revoke_agent(nobody, at(1), String::new()).await, Ok(false));
}

/// A case.
#[must_use]
pub fn case(n: u8) -> CaseRow {
    CaseRow {
        case: case_id(n),
        title: "Übung 日本".to_owned(),
        legal_basis: "b".to_owned(),
        accountable: "c".to_owned(),
        opened_by: "d".to_owned(),
        opened_at: Timestamp::from_unix_ns(-1),
        case_opened: digest(u32::from(n)),
        case_closed: None,
    }
}

async fn cases(c: &dyn Catalog) {
    for n in 1..=3 {
        c.add_case(case(n)).await.expect("new");
        c.add_case(case(n)).await.expect("equal");
    }
    assert!(matches!(c.add_case(CaseRow { title: "x".to_owned(), ..case(1) }).await, Err(CatalogError::Conflict(_))));
    assert_eq!(c.case(case_id(1)).await, Ok(Some(case(1))));
    assert_eq!(c.case(case_id(9)).await, Ok(None));
    assert_eq!(c.cases(None, 2).await, Ok(vec![case(3), case(2)]), "newest first");
    assert_eq!(c.cases(Some(case_id(2)), 2).await, Ok(vec![case(1)]));
    assert_eq!(c.close_case(case_id(1), digest(500)).await, Ok(true));
    assert_eq!(c.close_case(case_id(1), digest(501)).await, Ok(true));
    assert_eq!(c.case(case_id(1)).await.map(|r| r.and_then(|r| r.case_closed)), Ok(Some(digest(500))), "the first one stays");
    assert_eq!(c.close_case(case_id(9), digest(1)).await, Ok(false));
    c.add_case(case(1)).await.expect("still the same case");
    assert_eq!(c.case_counts(case_id(1)).await, Ok((BTreeMap::new(), 0)));
}

fn order_id(n: u8) -> OrderId {
    OrderId::new(1_000, [n; 10])
}

/// An order of a case.
#[must_use]
pub fn order(n: u8, in_case: u8) -> OrderRow {
    OrderRow {
        order: order_id(n),
        digest: digest(2_000 + u32::from(n)),
        envelope: vec![0, 255, n],
        case: case_id(in_case),
        issued_by: "alex".to_owned(),
        profile: Some("triage".to_owned()),
        expires_at: at(1_000),
        admitted_at: at(50),
    }
}

/// A queued collection of an order on an agent.
#[must_use]
pub fn collection(of: &OrderRow, on: u8, queued: i64) -> CollectionRow {
    CollectionRow {
        collection: CollectionId::of(&of.digest, &agent_id(on)),
        order: of.order.clone(),
        order_digest: of.digest,
        case: of.case.clone(),
        agent: agent_id(on),
        profile: of.profile.clone(),
        state: State::Queued,
        reason: None,
        ending: None,
        cancel: None,
        stream: StreamNumber(1),
        queued_at: at(queued),
        started_at: None,
        ended_at: None,
        expires_at: at(1_000),
        give_up_at: None,
        totals: Totals::default(),
        exhibit_first: 0,
        exhibit_count: 0,
        seal: None,
    }
}

async fn orders(c: &dyn Catalog) {
    let first = order(1, 2);
    let rows: Vec<_> = (1..=3).map(|on| collection(&first, on, 50)).collect();
    c.add_order(first.clone(), rows.clone()).await.expect("new");
    c.add_order(first.clone(), rows.clone()).await.expect("equal");
    assert_eq!(c.order(order_id(1)).await, Ok(Some(first.clone())));
    assert_eq!(c.order(order_id(9)).await, Ok(None));
    assert_eq!(c.collection(rows[1].collection.clone()).await, Ok(Some(rows[1].clone())));
    let other = OrderRow { envelope: vec![1], ..first };
    assert!(matches!(c.add_order(other, rows.clone()).await, Err(CatalogError::Conflict(_))));
    // All or nothing: the second collection stands under a key that is taken.
    let second = order(2, 2);
    let clash = CollectionRow { collection: rows[0].collection.clone(), ..collection(&second, 2, 60) };
    assert!(c.add_order(second.clone(), vec![collection(&second, 1, 60), clash]).await.is_err());
    assert_eq!((c.order(order_id(2)).await, c.collection(collection(&second, 1, 60).collection).await), (Ok(None), Ok(None)));
    assert!(c.add_order(order(3, 99), Vec::new()).await.is_err(), "an order of a case that is not there");
}

async fn listings(c: &dyn Catalog) {
    let (old, new) = (order(4, 3), order(5, 3));
    c.add_order(old.clone(), (1..=2).map(|on| collection(&old, on, 40)).collect()).await.expect("new");
    c.add_order(new.clone(), (1..=4).map(|on| collection(&new, on, 70)).collect()).await.expect("new");
    let of_case = CollectionFilter { case: Some(case_id(3)), ..CollectionFilter::default() };
    let all = c.collections(of_case.clone(), None, 100).await.expect("list");
    let mut sorted = all.clone();
    sorted.sort_by(|a, b| (b.queued_at, &b.collection).cmp(&(a.queued_at, &a.collection)));
    assert_eq!((all.len(), &all), (6, &sorted), "newest first");
    let mut paged = Vec::new();
    loop {
        let page = c.collections(of_case.clone(), paged.last().map(|r: &CollectionRow| r.collection.clone()), 2).await.expect("page");
        if page.is_empty() {
            break;
        }
        paged.extend(page);
    }
    assert_eq!(paged, all, "pages have no holes and no doubles, also among equal times");
    let count = |f: CollectionFilter| async move { c.collections(f, None, 100).await.expect("list").len() };
    assert_eq!(count(CollectionFilter { order: Some(order_id(4)), ..of_case.clone() }).await, 2);
    assert_eq!(count(CollectionFilter { agent: Some(agent_id(1)), ..of_case.clone() }).await, 2);
    assert_eq!(count(CollectionFilter { case: Some(case_id(2)), order: Some(order_id(4)), ..CollectionFilter::default() }).await, 0);
    let only = vec![all[0].collection.clone(), all[5].collection.clone(), CollectionId::from_digest(&digest(1))];
    assert_eq!(count(CollectionFilter { only, ..CollectionFilter::default() }).await, 2);
    let close = CollectionChange { state: Some(State::Closed(Outcome::Failed)), exhibits: Some((1, 5)), ..CollectionChange::default() };
    c.change(all[0].collection.clone(), vec![State::Queued], close).await.expect("changed").expect("it was queued");
    assert_eq!(count(CollectionFilter { open: true, ..of_case }).await, 5);
    let counts = BTreeMap::from([("queued".to_owned(), 5), ("failed".to_owned(), 1)]);
    assert_eq!(c.case_counts(case_id(3)).await, Ok((counts, 5)));
}

async fn changes(c: &dyn Catalog) {
    let before = collection(&order(1, 2), 1, 50);
    let id = before.collection.clone();
    let nothing = CollectionChange::default();
    assert_eq!(c.change(id.clone(), vec![State::Running, State::Sealing], nothing.clone()).await, Ok(None), "in another state");
    assert_eq!(c.change(CollectionId::from_digest(&digest(3)), State::ALL.to_vec(), nothing.clone()).await, Ok(None), "not there");
    assert_eq!(c.change(id.clone(), vec![], nothing.clone()).await, Ok(None));
    assert_eq!(c.change(id.clone(), vec![State::Queued], nothing).await, Ok(Some(before.clone())), "nothing changes nothing");
    let ending = Ending { outcome: Outcome::Refused, reason: Some("no".to_owned()), refusal: Some(vec![0, 1, 2]) };
    let totals = Totals {
        items: 3,
        raw_bytes: 4,
        stored_bytes: 5,
        by_status: BTreeMap::from([(Status::Collected, 2), (Status::ChangedDuringRead, 1)]),
    };
    let change = CollectionChange {
        state: Some(State::Sealing),
        reason: Some(Some("r".to_owned())),
        ending: Some(Some(ending.clone())),
        cancel: Some("stop".to_owned()),
        stream: Some(StreamNumber(2)),
        started_at: Some(at(60)),
        ended_at: Some(at(61)),
        give_up_at: Some(at(62)),
        totals: Some(totals.clone()),
        exhibits: Some((7, 3)),
        seal: Some(vec![9]),
    };
    let expected = CollectionRow {
        state: State::Sealing,
        reason: Some("r".to_owned()),
        ending: Some(ending),
        cancel: Some("stop".to_owned()),
        stream: StreamNumber(2),
        started_at: Some(at(60)),
        ended_at: Some(at(61)),
        give_up_at: Some(at(62)),
        totals,
        exhibit_first: 7,
        exhibit_count: 3,
        seal: Some(vec![9]),
        ..before
    };
    assert_eq!(c.change(id.clone(), vec![State::Offered, State::Queued], change).await, Ok(Some(expected.clone())));
    assert_eq!(c.collection(id.clone()).await, Ok(Some(expected.clone())));
    assert_eq!(c.sealing(None, 10).await, Ok(vec![expected.clone()]));
    assert_eq!(c.sealing(Some(id.clone()), 10).await, Ok(Vec::new()), "none after the last");
    let clear = CollectionChange {
        reason: Some(None),
        ending: Some(None),
        state: Some(State::Closed(Outcome::Refused)),
        ..CollectionChange::default()
    };
    let cleared = CollectionRow { reason: None, ending: None, state: State::Closed(Outcome::Refused), ..expected };
    assert_eq!(c.change(id, vec![State::Sealing], clear).await, Ok(Some(cleared)));
    assert_eq!(c.sealing(None, 10).await, Ok(Vec::new()));
}

async fn times(c: &dyn Catalog) {
    let o = order(6, 1);
    let row = |on, queued, expires| CollectionRow { expires_at: at(expires), ..collection(&o, on, queued) };
    let (queued, offered, running, later) = (row(1, 30, 200), row(2, 20, 200), row(3, 10, 0), row(4, 5, 5_000));
    let unapproved = CollectionRow { state: State::Unapproved, ..row(5, 40, 200) };
    c.add_order(o.clone(), vec![queued.clone(), offered.clone(), running.clone(), later, unapproved.clone()]).await.expect("new");
    let to = |state, give_up_at| CollectionChange { state: Some(state), give_up_at, ..CollectionChange::default() };
    c.change(offered.collection.clone(), vec![State::Queued], to(State::Offered, None)).await.expect("changed");
    c.change(running.collection.clone(), vec![State::Queued], to(State::Running, Some(at(300)))).await.expect("changed");
    let due = |now| async move { c.due(now, 100).await.expect("list").into_iter().map(|r| r.collection).collect::<Vec<_>>() };
    assert_eq!(due(at(199)).await, Vec::new());
    let expired = [offered.collection, queued.collection, unapproved.collection.clone()];
    assert_eq!(due(at(200)).await, expired, "expired; oldest first");
    assert_eq!(due(at(300)).await, [&[running.collection][..], &expired].concat(), "and given up");
    let open = CollectionFilter { order: Some(o.order.clone()), open: true, ..CollectionFilter::default() };
    assert_eq!(c.collections(open, None, 1).await.expect("list")[0].collection, unapproved.collection, "open while it waits");
    assert_eq!(c.due(at(300), 1).await.expect("list").len(), 1);
    for one in &expired {
        c.change(one.clone(), State::ALL.to_vec(), to(State::Sealing, None)).await.expect("changed").expect("there");
    }
    let mut paged: Vec<CollectionId> = Vec::new();
    loop {
        let page = c.sealing(paged.last().cloned(), 1).await.expect("page");
        if page.is_empty() {
            break;
        }
        paged.extend(page.into_iter().map(|row| row.collection));
    }
    assert_eq!(paged, expired, "oldest first, page by page");
    let closed = to(State::Closed(Outcome::Expired), None);
    c.change(expired[0].clone(), vec![State::Sealing], closed).await.expect("changed").expect("there");
    let rest = c.sealing(Some(expired[0].clone()), 10).await.expect("page");
    assert_eq!(rest.len(), 2, "after one that is closed meanwhile");
}

/// An open stream.
#[must_use]
pub fn stream_row(of: &CollectionRow, stream: u32) -> StreamRow {
    StreamRow {
        collection: of.collection.clone(),
        stream: StreamNumber(stream),
        state: StreamState::Open,
        next_segment: 0,
        snapshot: vec![1],
        bookmark: Vec::new(),
        totals: Totals::default(),
        received_from: at(80),
        received_to: at(80),
        manifest: None,
        acquisition: None,
        receipt: None,
    }
}

/// The commit of a segment.
#[must_use]
pub fn commit(of: &CollectionRow, n: u32) -> SegmentCommit {
    SegmentCommit {
        collection: of.collection.clone(),
        stream: StreamNumber(1),
        segment: Segment { n, size: 100, sha256: digest(n), raw_offset: u64::from(n) * 512, raw_size: 512, seam: None },
        manifest_parts: vec![vec![n as u8; 3], vec![n as u8; 4]],
        snapshot: vec![n as u8; 50],
        bookmark: vec![n as u8; 5],
        totals: Totals { items: u64::from(n) + 1, raw_bytes: 512, stored_bytes: 100, by_status: BTreeMap::from([(Status::Missing, 1)]) },
        at: at(81 + i64::from(n)),
    }
}

fn manifest_ref() -> ManifestRef {
    ManifestRef {
        sha256: digest(9),
        size: 28,
        segments: 3,
        stored_bytes: 300,
        raw_bytes: 1_536,
        items: 3,
        by_status: BTreeMap::from([(Status::Missing, 3)]),
    }
}

async fn streams(c: &dyn Catalog) {
    let of = collection(&order(1, 2), 2, 50);
    let id = of.collection.clone();
    let (s1, s2) = (StreamNumber(1), StreamNumber(2));
    assert_eq!(c.stream(id.clone(), s1).await, Ok(None));
    assert_eq!(c.commit_segment(commit(&of, 0)).await, Ok(Step::NotNow), "no such stream");
    assert_eq!(c.open_stream(stream_row(&of, 1)).await, Ok(stream_row(&of, 1)));
    let other = StreamRow { snapshot: vec![2], ..stream_row(&of, 1) };
    assert_eq!(c.open_stream(other).await, Ok(stream_row(&of, 1)), "the first one stays");
    assert_eq!(c.commit_segment(commit(&of, 1)).await, Ok(Step::NotNow), "not this one's turn");
    for n in 0..3 {
        assert_eq!(c.commit_segment(commit(&of, n)).await, Ok(Step::Done));
        assert_eq!(c.commit_segment(commit(&of, n)).await, Ok(Step::NotNow), "a second time");
    }
    let row = c.stream(id.clone(), s1).await.expect("read").expect("there");
    let expected = StreamRow {
        next_segment: 3,
        snapshot: vec![2; 50],
        bookmark: vec![2; 5],
        totals: commit(&of, 2).totals,
        received_to: at(83),
        ..stream_row(&of, 1)
    };
    assert_eq!(row, expected);
    let numbers = |v: Vec<Segment>| v.into_iter().map(|s| s.n).collect::<Vec<_>>();
    assert_eq!(c.segments(id.clone(), s1, 0, 100).await.map(numbers), Ok(vec![0, 1, 2]));
    assert_eq!(c.segments(id.clone(), s1, 1, 1).await, Ok(vec![commit(&of, 1).segment]));
    let manifest = manifest_ref();
    let finish = StreamFinish {
        collection: id.clone(),
        stream: s1,
        manifest_parts: vec![vec![7; 7]],
        manifest: manifest.clone(),
        acquisition: Some(vec![1, 2]),
        at: at(90),
    };
    assert_eq!(c.receive_stream(id.clone(), s1, digest(5)).await, Ok(Step::NotNow), "not finished");
    assert_eq!(c.void_stream(id.clone(), s1).await, Ok(Step::NotNow), "it holds segments");
    assert_eq!(c.finish_stream(finish.clone()).await, Ok(Step::Done));
    assert_eq!(c.finish_stream(finish).await, Ok(Step::NotNow));
    assert_eq!(c.commit_segment(commit(&of, 3)).await, Ok(Step::NotNow), "it is finished");
    let mut parts = Vec::new();
    while let Some(part) = c.manifest_part(id.clone(), s1, parts.len() as u32).await.expect("read") {
        parts.push(part);
    }
    assert_eq!(parts.concat(), [[0; 7], [1; 7], [2; 7], [7; 7]].concat(), "in the order in which they came");
    assert_eq!(c.receive_stream(id.clone(), s1, digest(5)).await, Ok(Step::Done));
    assert_eq!(c.receive_stream(id.clone(), s1, digest(5)).await, Ok(Step::Done), "again");
    assert_eq!(c.receive_stream(id.clone(), s1, digest(6)).await, Ok(Step::NotNow), "another receipt");
    assert_eq!(c.manifest_part(id.clone(), s1, 0).await, Ok(None), "the manifest lies in the store now");
    let received = StreamRow {
        state: StreamState::Received,
        manifest: Some(manifest),
        acquisition: Some(vec![1, 2]),
        receipt: Some(digest(5)),
        received_to: at(90),
        ..expected
    };
    c.open_stream(stream_row(&of, 2)).await.expect("opened");
    for _ in 0..2 {
        assert_eq!(c.void_stream(id.clone(), s2).await, Ok(Step::Done));
    }
    let void = StreamRow { state: StreamState::Void, ..stream_row(&of, 2) };
    assert_eq!(c.streams(id).await, Ok(vec![received, void]));
}

/// Two uploads of one segment: one commits, the other is told.
async fn one_commit(catalog: &SharedCatalog) {
    let of = collection(&order(1, 2), 3, 50);
    catalog.open_stream(stream_row(&of, 1)).await.expect("opened");
    let tries = (0..8).map(|_| {
        let (catalog, of) = (Arc::clone(catalog), of.clone());
        tokio::spawn(async move { catalog.commit_segment(commit(&of, 0)).await.expect("answered") })
    });
    let all = futures::future::join_all(tries).await;
    assert_eq!(all.into_iter().filter(|s| matches!(s, Ok(Step::Done))).count(), 1);
    // A caller that goes away: the commit happens whole or not at all, and the next one finds out which.
    for n in 1..20 {
        let waiting = catalog.commit_segment(commit(&of, n));
        let _ = tokio::time::timeout(std::time::Duration::from_micros(u64::from(n) * 40), waiting).await;
        let second = catalog.commit_segment(commit(&of, n)).await.expect("answered");
        let row = catalog.stream(of.collection.clone(), StreamNumber(1)).await.expect("read").expect("there");
        let parts = catalog.manifest_part(of.collection.clone(), StreamNumber(1), 2 * n + 1).await.expect("read");
        assert_eq!((row.next_segment, parts.is_some()), (n + 1, true), "{second:?}");
        assert_eq!(catalog.manifest_part(of.collection.clone(), StreamNumber(1), 2 * n + 2).await, Ok(None), "never twice");
    }
}

async fn incidents(c: &dyn Catalog) {
    let row = |n: i64, case: Option<u8>| {
        let case = case.map(|n| CaseId::new(1, [n; 10]));
        IncidentRow { count: n.unsigned_abs() + 1, ..IncidentRow::new(at(n), case, "store-damaged", "s", format!("d{n}")) }
    };
    for n in 0..3 {
        c.add_incident(row(n, None)).await.expect("kept");
    }
    assert_eq!(c.incidents(2).await, Ok(vec![row(2, None), row(1, None)]), "newest first");
    c.add_incident(row(3, Some(7))).await.expect("kept");
    c.add_incident(IncidentRow { logged: true, ..row(4, Some(8)) }).await.expect("kept");
    let groups = c.unlogged_incidents(10).await.expect("read");
    let [first, second] = groups.as_slice() else { panic!("two groups: {groups:?}") };
    assert_eq!((&first.newest, first.first_at), (&IncidentRow { count: 6, ..row(2, None) }, at(0)), "summed, with the newest words");
    assert_eq!(second.newest, row(3, Some(7)), "a case's are apart");
    c.add_incident(row(5, None)).await.expect("kept");
    let said = c.incident_details(first.clone(), 0, 2).await.expect("read");
    assert_eq!(said.iter().map(|(_, detail)| detail.as_str()).collect::<Vec<_>>(), ["d0", "d1"], "the oldest first");
    let rest = c.incident_details(first.clone(), said[1].0, 9).await.expect("read");
    assert_eq!(rest.iter().map(|(_, detail)| detail.as_str()).collect::<Vec<_>>(), ["d2"], "none of a case, none that came since");
    c.incidents_logged(first.clone()).await.expect("marked");
    c.incidents_logged(first.clone()).await.expect("once more");
    let groups = c.unlogged_incidents(10).await.expect("read");
    let left: Vec<&IncidentRow> = groups.iter().map(|g| &g.newest).collect();
    assert_eq!(left, [&row(3, Some(7)), &row(5, None)], "what came since is not marked");
    assert!(c.incidents(10).await.expect("read").iter().filter(|i| i.logged).count() == 4);
}
