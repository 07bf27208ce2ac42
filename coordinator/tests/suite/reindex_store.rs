//! A catalog that is made again from the store says what the lost one said, as far as any store can know.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_certs::{Credential, Deployment};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog, CollectionFilter, IncidentRow, Labels, State, StreamState};
use exhibit_coordinator::config::{Config, StoreKind};
use exhibit_coordinator::init::{self, Options};
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::reindex;
use exhibit_coordinator::store::{LocalStore, Payload, Store};
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::{self, LogName, StreamNumber};
use exhibit_evidence::log::Tree;
use exhibit_evidence::manifest::{End, FORMAT, Header, Line, Segment, Status};
use exhibit_evidence::record::{self, *};
use exhibit_evidence::{Digest, Timestamp};

fn now() -> Timestamp {
    Timestamp::from_unix_s(1_800_000_000)
}

/// A deployment on disk with agents and one case, written as the coordinator writes it.
struct Site {
    config: Config,
    catalog: PathBuf,
    ledgers: Arc<Ledgers>,
    store: Arc<dyn Store>,
    deployment: Deployment,
    admin: Credential,
    case: CaseId,
    opened: Digest,
}

const SEGMENTS: u32 = 3;

impl Site {
    async fn new(dir: &Path) -> Self {
        let options = Options {
            dir: dir.join("d"),
            name: "test".to_owned(),
            listen: "127.0.0.1:7420".parse().expect("address"),
            hosts: vec!["localhost".to_owned()],
            admin: "alex".to_owned(),
            store: StoreKind::Local,
            bucket: None,
            account: None,
            prefix: String::new(),
            region: String::new(),
            endpoint: None,
            dangerous_allow_http: false,
            credentials_file: None,
            lock: None,
            catalog_postgres: None,
            catalog_password_file: None,
            catalog_dangerous_allow_unverified: false,
            json: false,
        };
        let made = init::run(&options, now()).await.expect("made");
        let config = Config::load(&made.config).expect("configuration");
        let load = || Deployment::load(&config.folder).expect("deployment");
        let store: Arc<dyn Store> = Arc::new(LocalStore::open(&config.resolve(&config.store.path)).expect("store"));
        let ledgers = Ledgers::new(Arc::clone(&store), Keys { anchor: load().anchor, log: load().log_key, witnesses: Vec::new() });
        let admin = Credential::load(&made.admin_home).expect("admin");
        let case = CaseId::new(1_800_000_000_000, [7; 10]);
        let catalog = config.catalog_file();
        let mut site = Self { catalog, ledgers, store, deployment: load(), admin, case, opened: Digest::of(b""), config };
        site.open_case().await;
        site
    }

    async fn open_case(&mut self) {
        let p = CaseOpened {
            case: self.case.clone(),
            deployment: "test".to_owned(),
            title: "A case".to_owned(),
            legal_basis: "a test".to_owned(),
            accountable: "Alex".to_owned(),
            opened_by: self.admin.name().to_string(),
            opened_at: now(),
            two_person: false,
            encrypt_to: exhibit_evidence::age::Recipients::default(),
        };
        let envelope = record::sign(&p, &self.admin.evidence).expect("small");
        self.opened = envelope.digest();
        let keys = [self.deployment.log_key.public().id(), self.admin.evidence.public().id()];
        self.ledgers.ensure_enrolled(&self.case, &keys).await.expect("enrolled");
        self.log(vec![envelope]).await;
    }

    async fn log(&self, records: Vec<exhibit_evidence::dsse::Envelope>) {
        self.ledgers.case(&self.case).await.expect("log").append(records).await.expect("appended");
    }

    async fn enrol(&self, n: u8) -> (AgentId, SigningKey) {
        let key = SigningKey::from_seed(&[n; 32]);
        let id = AgentId::of_key(&key.public().id());
        let name = format!("spiffe://test/agent/{id}").parse().expect("name");
        let enrolment = self.deployment.issuer().enrol(&name, key.public(), &[Role::Agent], "token", now()).expect("enrolled");
        self.ledgers.deployment().await.expect("log").append(vec![enrolment]).await.expect("appended");
        (id, key)
    }

    /// An order for these agents; gives its id and envelope digest.
    async fn order(&self, n: u8, targets: &[AgentId]) -> (OrderId, Digest) {
        let id = OrderId::new(1_800_000_000_000, [n; 10]);
        let p = Order {
            order: id.clone(),
            case: self.case.clone(),
            predecessor: self.opened,
            targets: targets.to_vec(),
            profile: Some("triage".to_owned()),
            captures: vec![CaptureSpec { name: "system".to_owned(), params: BTreeMap::new() }],
            limits: Limits::default(),
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "a test".to_owned(),
            issued_by: self.admin.name().to_string(),
            issued_at: now().plus_s(i64::from(n)),
            expires_at: now().plus_s(3_600),
            nonce: Nonce { size: 0, root: Tree::new().root() },
        };
        let envelope = record::sign(&p, &self.admin.evidence).expect("small");
        let digest = envelope.digest();
        self.log(vec![envelope]).await;
        (id, digest)
    }

    async fn put(&self, name: &str, content: Vec<u8>) {
        let digest = Digest::of(&content);
        self.store.put_new(name, Payload::from(content), digest).await.expect("stored");
    }

    /// Segments and manifest of a stream, and its receipt in the log.
    async fn receive(&self, order: Digest, agent: &AgentId, items: u64) -> (CollectionId, Digest) {
        let (collection, stream) = (CollectionId::of(&order, agent), StreamNumber(1));
        let header = Header {
            format: FORMAT.to_owned(),
            case: self.case.clone(),
            collection: collection.clone(),
            stream,
            agent: agent.clone(),
            order,
            encrypted_to: exhibit_evidence::age::Recipients::default(),
        };
        let mut manifest = Line::Header(header).to_bytes().expect("line");
        for n in 0..SEGMENTS {
            let content = vec![n as u8; 1_000 + n as usize];
            let segment = Segment {
                n,
                size: content.len() as u64,
                sha256: Digest::of(&content),
                raw_offset: u64::from(n) * 2_048,
                raw_size: 2_048,
                seam: None,
            };
            manifest.extend(Line::Segment(segment).to_bytes().expect("line"));
            self.put(&layout::segment(&self.case, &collection, stream, n), content).await;
        }
        let by_status = BTreeMap::from([(Status::Collected, items)]);
        let end = End { complete: false, segments: SEGMENTS, stored_bytes: 3_003, raw_bytes: 6_144, items, by_status: by_status.clone() };
        manifest.extend(Line::End(end).to_bytes().expect("line"));
        let reference = ManifestRef {
            sha256: Digest::of(&manifest),
            size: manifest.len() as u64,
            segments: SEGMENTS,
            stored_bytes: 3_003,
            raw_bytes: 6_144,
            items,
            by_status,
        };
        self.put(&layout::manifest(&self.case, &collection, stream), manifest).await;
        let receipt = Receipt {
            case: self.case.clone(),
            collection: collection.clone(),
            stream,
            predecessor: order,
            agent_signed: false,
            contents_unverified: false,
            manifest: reference,
            received_from: now().plus_s(60),
            received_to: now().plus_s(70),
        };
        let envelope = record::sign(&receipt, &self.deployment.log_key).expect("small");
        let digest = envelope.digest();
        self.log(vec![envelope]).await;
        (collection, digest)
    }

    async fn seal(&self, order: Digest, agent: &AgentId, receipt: Option<Digest>, outcome: Outcome, exhibits: (u64, u64)) -> Vec<u8> {
        let seal = Seal {
            case: self.case.clone(),
            collection: CollectionId::of(&order, agent),
            agent: agent.clone(),
            order,
            predecessor: receipt.unwrap_or(order),
            outcome,
            reason: Some("a reason".to_owned()),
            streams: receipt.iter().map(|r| SealedStream { stream: StreamNumber(1), receipt: *r }).collect(),
            exhibit_first: exhibits.0,
            exhibit_count: exhibits.1,
            sealed_at: now().plus_s(80),
        };
        let envelope = record::sign(&seal, &self.deployment.log_key).expect("small");
        let bytes = envelope.as_bytes().to_vec();
        self.log(vec![envelope]).await;
        bytes
    }

    async fn reindex(&self) -> (reindex::Report, SqliteCatalog) {
        let report = reindex::run(&self.config, false, now().plus_s(100)).await.expect("made again");
        (report, SqliteCatalog::open(&self.catalog).await.expect("opens"))
    }
}

#[tokio::test]
async fn every_state_comes_back() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let mut agents = Vec::new();
    for n in 1..=5 {
        agents.push(site.enrol(n).await);
    }
    let ids: Vec<AgentId> = agents.iter().map(|(id, _)| id.clone()).collect();
    let revocation = Revocation {
        deployment: "test".to_owned(),
        key: agents[4].1.public().id(),
        predecessor: site.ledgers.deployment().await.expect("log").key_ring().enrolment_of(agents[4].1.public().id()).expect("enrolled"),
        reason: "stolen".to_owned(),
        revoked_at: now().plus_s(5),
    };
    let revocation = record::sign(&revocation, &site.deployment.issuer_key).expect("small");
    site.ledgers.deployment().await.expect("log").append(vec![revocation]).await.expect("appended");

    let (order, digest) = site.order(1, &ids).await;
    // Sealed; received but not sealed; refused but not sealed; begun, with a segment and no receipt; never begun.
    let (sealed, receipt) = site.receive(digest, &ids[0], 4).await;
    let seal = site.seal(digest, &ids[0], Some(receipt), Outcome::Partial, (1, 4)).await;
    let (received, _) = site.receive(digest, &ids[1], 2).await;
    let refusal = Refusal {
        collection: CollectionId::of(&digest, &ids[2]),
        agent: ids[2].clone(),
        predecessor: digest,
        code: "policy".to_owned(),
        message: "not here".to_owned(),
        refused_at: now(),
    };
    let refusal = record::sign(&refusal, &agents[2].1).expect("small");
    site.ledgers.ensure_enrolled(&site.case, &[agents[2].1.public().id()]).await.expect("enrolled");
    site.log(vec![refusal.clone()]).await;
    let begun = CollectionId::of(&digest, &ids[3]);
    site.put(&layout::segment(&site.case, &begun, StreamNumber(2), 0), vec![1; 10]).await;
    let waiting = CollectionId::of(&digest, &ids[4]);
    let (_, failed) = site.order(2, &ids[..1]).await;
    site.seal(failed, &ids[0], None, Outcome::Failed, (5, 0)).await;

    let (report, catalog) = site.reindex().await;
    assert_eq!(report.problems, Vec::<String>::new());
    assert_eq!(
        (report.cases, report.orders, report.collections, report.unsealed, report.streams, report.segments, report.agents),
        (1, 2, 6, 4, 2, 2 * u64::from(SEGMENTS), 5)
    );
    let row = |id: &CollectionId| {
        let (catalog, id) = (catalog.clone(), id.clone());
        async move { catalog.collection(id).await.expect("read").expect("there") }
    };
    let closed = row(&sealed).await;
    assert_eq!(
        (closed.state, closed.seal, closed.exhibit_first, closed.exhibit_count),
        (State::Closed(Outcome::Partial), Some(seal), 1, 4)
    );
    assert_eq!((closed.totals.items, closed.totals.stored_bytes, closed.ended_at), (4, 3_003, Some(now().plus_s(80))));
    let halfway = row(&received).await;
    assert_eq!((halfway.state, halfway.ending.map(|e| e.outcome)), (State::Sealing, Some(Outcome::Partial)));
    let refused = row(&CollectionId::of(&digest, &ids[2])).await;
    let ending = refused.ending.expect("an ending");
    assert_eq!((refused.state, ending.outcome, ending.refusal.as_deref()), (State::Sealing, Outcome::Refused, Some(refusal.as_bytes())));
    assert_eq!(ending.reason.as_deref(), Some("policy: not here"));
    let resumed = row(&begun).await;
    assert_eq!((resumed.state, resumed.stream), (State::Queued, StreamNumber(3)), "its segments are never written over");
    let untouched = row(&waiting).await;
    assert_eq!((untouched.state, untouched.stream, untouched.expires_at), (State::Queued, StreamNumber(1), now().plus_s(3_600)));

    let stream = catalog.stream(sealed.clone(), StreamNumber(1)).await.expect("read").expect("there");
    assert_eq!((stream.state, stream.receipt, stream.next_segment), (StreamState::Received, Some(receipt), SEGMENTS));
    let segments = catalog.segments(sealed, StreamNumber(1), 0, 100).await.expect("read");
    assert_eq!(segments.iter().map(|s| s.size).collect::<Vec<_>>(), [1_000, 1_001, 1_002]);
    assert_eq!(catalog.order(order).await.expect("read").map(|o| o.digest), Some(digest));
    let case = catalog.case(site.case.clone()).await.expect("read").expect("there");
    assert_eq!((case.title.as_str(), case.case_opened, case.case_closed), ("A case", site.opened, None));
    let agents = catalog.agents(Labels::new(), None, 100).await.expect("read");
    let revoked: Vec<_> = agents.iter().filter_map(|a| a.revoked.clone()).collect();
    assert_eq!((agents.len(), revoked), (5, vec![(now().plus_s(5), "stolen".to_owned())]));
}

/// Reindexing what was reindexed gives the same; the catalog before is kept beside it.
#[tokio::test]
async fn it_can_be_repeated_and_keeps_the_old_catalog() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, _) = site.enrol(1).await;
    let (_, digest) = site.order(1, std::slice::from_ref(&agent)).await;
    let (_, receipt) = site.receive(digest, &agent, 4).await;
    site.seal(digest, &agent, Some(receipt), Outcome::Partial, (1, 4)).await;

    let old = SqliteCatalog::open(&site.catalog).await.expect("opens");
    let incident = IncidentRow::new(now(), None, "old", "s", "d".to_owned());
    old.add_incident(incident.clone()).await.expect("kept");
    let e = reindex::run(&site.config, false, now()).await.expect_err("the coordinator runs");
    assert!(e.to_string().contains("another coordinator is running"), "{e}");
    old.close().await;
    drop(old);
    // What an interrupted reindex leaves.
    std::fs::write(site.catalog.with_file_name("catalog.sqlite.new"), b"half").expect("write");

    let (first, catalog) = site.reindex().await;
    let all = |c: SqliteCatalog| async move { c.collections(CollectionFilter::default(), None, 100).await.expect("list") };
    let rows = all(catalog.clone()).await;
    catalog.close().await;
    drop(catalog);
    let kept = SqliteCatalog::open(&site.catalog.with_file_name("catalog.sqlite.old")).await.expect("the old one");
    assert_eq!(kept.incidents(10).await, Ok(vec![incident]));
    kept.close().await;
    drop(kept);
    let (second, catalog) = site.reindex().await;
    assert_eq!((first, rows), (second, all(catalog).await));
}

#[tokio::test]
async fn what_does_not_fit_together_is_told_and_the_rest_is_restored() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, _) = site.enrol(1).await;
    let mut receive = Vec::new();
    for n in 1..=5 {
        let (_, digest) = site.order(n, std::slice::from_ref(&agent)).await;
        receive.push(site.receive(digest, &agent, 1).await.0);
    }
    let root = site.config.resolve(&site.config.store.path);
    let path = |name: String| root.join(name);
    let s1 = StreamNumber(1);
    std::fs::remove_file(path(layout::segment(&site.case, &receive[0], s1, 1))).expect("remove");
    std::fs::remove_file(path(layout::manifest(&site.case, &receive[1], s1))).expect("remove");
    let manifest = path(layout::manifest(&site.case, &receive[2], s1));
    let mut bytes = std::fs::read(&manifest).expect("read");
    let digit = bytes.windows(8).position(|w| w == b"\"size\":1").expect("a size") + 7;
    bytes[digit] = b'2';
    std::fs::remove_file(&manifest).expect("remove");
    std::fs::write(&manifest, bytes).expect("write");
    std::fs::write(path(layout::segment(&site.case, &receive[3], s1, 7)), b"extra").expect("write");
    // A second case whose log lost a record.
    let other = CaseId::new(1, [9; 10]);
    let log = LogName::Case(other.clone());
    let key = site.deployment.log_key.public().id();
    site.ledgers.ensure_enrolled(&other, &[key, site.admin.evidence.public().id()]).await.expect("enrolled");
    std::fs::remove_file(path(log.slot(0))).expect("remove");

    let (report, catalog) = site.reindex().await;
    let told = report.problems.join("\n");
    for words in [
        "segment 1 is missing",
        "its manifest is missing",
        "not the one that the receipt names",
        "00000007.tar.zst': no signed manifest names it",
        "where record 0 is expected",
    ] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert_eq!((report.problem_count, report.streams, report.cases), (5, 2, 1));
    for whole in &receive[3..] {
        assert_eq!(catalog.segments(whole.clone(), s1, 0, 100).await.expect("read").len(), SEGMENTS as usize, "{whole}");
    }
    assert_eq!(catalog.incidents(10).await.expect("read").len(), 5, "the problems are incidents of the new catalog");
    assert!(report.text().contains("enrolment tokens"));
}

#[tokio::test]
async fn what_lies_beside_a_sealed_collection_is_named_and_the_catalog_is_whole() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, _) = site.enrol(1).await;
    let (_, order) = site.order(1, std::slice::from_ref(&agent)).await;
    let (collection, receipt) = site.receive(order, &agent, 1).await;
    site.seal(order, &agent, Some(receipt), Outcome::Partial, (1, 1)).await;
    let (s1, s9) = (StreamNumber(1), StreamNumber(9));
    let more = layout::segment(&site.case, &collection, s1, 7);
    site.put(&more, b"junkseg".to_vec()).await;
    site.put(&layout::segment(&site.case, &collection, s9, 0), b"junkseg".to_vec()).await;

    let (report, catalog) = site.reindex().await;
    assert_eq!((report.collections, report.streams, report.segments), (1, 1, u64::from(SEGMENTS)), "{:?}", report.problems);
    let folder = layout::stream_folder(&site.case, &collection, s9);
    let told: Vec<bool> = [more, format!("{folder}/")]
        .iter()
        .map(|name| report.problems.iter().any(|p| p.starts_with(&format!("store-foreign '{name}': no signed manifest names it"))))
        .collect();
    assert_eq!((told, report.problem_count), (vec![true, true], 2), "{:?}", report.problems);
    assert_eq!(catalog.segments(collection.clone(), s1, 0, 100).await.expect("read").len(), SEGMENTS as usize);
    assert!(catalog.stream(collection.clone(), s9).await.expect("read").is_none());
    let row = catalog.collection(collection).await.expect("read").expect("row");
    assert_eq!(row.state, State::Closed(Outcome::Partial));
}

/// The files below a folder, by their names in it.
fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut all, mut todo) = (BTreeMap::new(), vec![folder.to_owned()]);
    while let Some(next) = todo.pop() {
        for entry in std::fs::read_dir(next).expect("list").filter_map(Result::ok) {
            if entry.path().is_dir() {
                todo.push(entry.path());
            } else {
                all.insert(entry.path(), std::fs::read(entry.path()).expect("read"));
            }
        }
    }
    all
}

/// `kept` in the place of whatever is in a folder now.
fn put_back(folder: &Path, kept: &BTreeMap<PathBuf, Vec<u8>>) {
    std::fs::remove_dir_all(folder).expect("removed");
    for (path, bytes) in kept {
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("folder");
        std::fs::write(path, bytes).expect("written");
    }
}

fn named(report: &reindex::Report, of: &str, words: &str) {
    assert!(report.problems.iter().any(|p| p.starts_with(&format!("{of}: ")) && p.contains(words)), "{of}: {words}: {report:#?}");
    assert!(!report.text().contains("The catalog is whole"), "{}", report.text());
}

#[tokio::test]
async fn logs_that_lost_their_end_their_head_or_everything_are_named_and_the_rest_is_made() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, _) = site.enrol(1).await;
    let root = site.config.resolve(&site.config.store.path);
    let (case, log) = (site.case.to_string(), LogName::Case(site.case.clone()));
    let (head, whole) = (root.join(log.checkpoint()), root.join("cases"));
    let older = std::fs::read(&head).expect("head");
    site.order(1, std::slice::from_ref(&agent)).await;
    let size = site.ledgers.case(&site.case).await.expect("log").size();
    let before = files(&whole);

    // The last record is gone and the head before it is on top: the tiles still tell of it.
    std::fs::remove_file(root.join(log.slot(size - 1))).and_then(|()| std::fs::remove_file(&head)).expect("removed");
    std::fs::write(&head, older).expect("written");
    let (report, catalog) = site.reindex().await;
    named(&report, &case, &format!("lies beyond the {} records", size - 1));
    assert_eq!((report.cases, report.orders, report.agents), (1, 0, 1), "{report:#?}");
    catalog.close().await;
    drop(catalog);

    put_back(&whole, &before);
    std::fs::remove_file(&head).expect("removed");
    let (report, catalog) = site.reindex().await;
    named(&report, &case, "log.checkpoint-missing");
    assert_eq!((report.cases, report.orders), (1, 1), "{report:#?}");
    catalog.close().await;
    drop(catalog);

    put_back(&whole, &before);
    std::fs::remove_dir_all(root.join("deployment")).expect("removed");
    let (report, catalog) = site.reindex().await;
    named(&report, "deployment/log", "nothing of it is in the store");
    named(&report, "deployment/log", agent.as_str());
    assert_eq!((report.cases, report.orders, report.agents), (1, 1, 0), "{report:#?}");
    catalog.close().await;
}

#[tokio::test]
async fn what_the_catalog_before_knew_and_the_store_no_longer_shows_is_named_once() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let root = site.config.resolve(&site.config.store.path);
    let (own, of_case) = (root.join("deployment"), root.join(layout::case_folder(&site.case)));
    let (own_before, case_before) = (files(&own), files(&of_case));
    let (agent, _) = site.enrol(1).await;
    site.order(1, std::slice::from_ref(&agent)).await;
    let (report, catalog) = site.reindex().await;
    assert_eq!((report.problem_count, report.agents, report.orders), (0, 1, 1), "{report:#?}");
    catalog.close().await;
    drop(catalog);

    // Both logs hold together in themselves, tiles and heads too.
    put_back(&own, &own_before);
    put_back(&of_case, &case_before);
    let (report, catalog) = site.reindex().await;
    named(&report, "deployment/log", "log.expected");
    named(&report, "deployment/log", agent.as_str());
    named(&report, site.case.as_str(), "was put back to an older state");
    assert_eq!((report.cases, report.agents, report.orders), (1, 0, 0), "made as far as the store shows: {report:#?}");
    catalog.close().await;
    drop(catalog);
    let (report, catalog) = site.reindex().await;
    assert_eq!((report.problem_count, report.cases), (0, 1), "the new catalog begins with what the store shows: {report:#?}");
    catalog.close().await;
    drop(catalog);

    std::fs::remove_dir_all(&of_case).expect("removed");
    let (report, catalog) = site.reindex().await;
    named(&report, site.case.as_str(), "nothing of it is in the store, and the catalog before had it");
    assert_eq!(report.cases, 0);
    catalog.close().await;
    drop(catalog);

    // A catalog that is no catalog any more is no reason not to make one, and the report says what was not looked for.
    std::fs::write(&site.catalog, b"no database").expect("written");
    let (report, _) = site.reindex().await;
    assert!(report.not_compared.is_some() && report.text().contains("could not be asked what it knew"), "{}", report.text());
    assert!(!report.text().contains("The catalog is whole"), "{}", report.text());
}

#[tokio::test]
async fn without_a_catalog_a_log_that_was_put_back_shows_by_its_evidence_and_every_foreign_name_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, _) = site.enrol(1).await;
    let root = site.config.resolve(&site.config.store.path);
    let (case, log) = (site.case.to_string(), LogName::Case(site.case.clone()));
    let older = files(&root.join(log.folder()));
    let (_, order) = site.order(1, std::slice::from_ref(&agent)).await;
    let (collection, receipt) = site.receive(order, &agent, 1).await;
    site.seal(order, &agent, Some(receipt), Outcome::Partial, (1, 1)).await;
    put_back(&root.join(log.folder()), &older);
    std::fs::remove_file(&site.catalog).expect("lost");

    let (report, catalog) = site.reindex().await;
    let unaccounted = format!("object.unaccounted collections/{collection}/: {} objects ", SEGMENTS + 1);
    named(&report, &case, &unaccounted);
    assert_eq!((report.cases, report.orders, report.problem_count, &report.kept), (1, 0, 1, &None), "{report:#?}");
    catalog.close().await;
    drop(catalog);

    let folder = layout::case_folder(&site.case);
    let foreign = [
        "junk".to_owned(),
        "cases/junk".to_owned(),
        "deployment/junk".to_owned(),
        format!("{folder}/evil.txt"),
        format!("{folder}/log/cosigned/12"),
        format!("{folder}/collections/{collection}/x"),
    ];
    for name in &foreign {
        let path = root.join(name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(path, b"junk").expect("written");
    }
    // A name that cannot be ours hides nothing and stops nothing; a disk has a folder of its own.
    let odd = ["a b", "cases/a b"];
    for name in odd.iter().chain(&["lost+found"]) {
        std::fs::create_dir(root.join(name)).expect("folder");
    }
    let (report, _) = site.reindex().await;
    named(&report, &case, &unaccounted);
    for name in foreign.iter().cloned().chain(odd.map(|name| format!("{name}/"))) {
        let told = format!("store-foreign '{name}': nothing of ours ever has such a name");
        assert_eq!(report.problems.iter().filter(|p| p.starts_with(&told)).count(), 1, "{name}: {report:#?}");
    }
    assert_eq!(report.problem_count, 1 + (foreign.len() + odd.len()) as u64, "{report:#?}");
    let text = report.text();
    assert!(text.contains("catalog.sqlite.old until the next reindex") && text.contains("copy it first"), "{text}");
}

#[tokio::test]
async fn hosts_are_known_again_from_what_their_agents_signed() {
    let dir = tempfile::tempdir().expect("dir");
    let site = Site::new(dir.path()).await;
    let (agent, key) = site.enrol(1).await;
    let (_, digest) = site.order(1, std::slice::from_ref(&agent)).await;
    let ended = Clocks { wall: now().plus_s(60), mono_ns: 1, offset_ns: None };
    let manifest = ManifestRef {
        sha256: Digest::of(b"manifest"),
        size: 1,
        segments: 1,
        stored_bytes: 1,
        raw_bytes: 1,
        items: 0,
        by_status: BTreeMap::new(),
    };
    let p = Acquisition {
        case: site.case.clone(),
        collection: CollectionId::of(&digest, &agent),
        stream: StreamNumber(1),
        agent: agent.clone(),
        predecessor: digest,
        nonce: Nonce { size: 1, root: Digest::of(b"root") },
        host: Host {
            hostname: "web\n1".to_owned(),
            machine_id: None,
            boot_id: "b".to_owned(),
            kernel: "6.1".to_owned(),
            os: None,
            hardware: std::collections::BTreeMap::new(),
            cloud: std::collections::BTreeMap::new(),
        },
        tool: Tool { name: "exhibit-agent".to_owned(), version: "0.1.0".to_owned(), sha256: Digest::of(b"binary") },
        started: Clocks { wall: now(), ..ended },
        ended,
        complete: true,
        reason: None,
        manifest,
        footprint: Footprint { pid: 1, rss_peak_bytes: 1, cpu_ms: 1, commands: vec![], wrote: vec![] },
    };
    site.ledgers.ensure_enrolled(&site.case, &[key.public().id()]).await.expect("enrolled");
    site.log(vec![record::sign(&p, &key).expect("small")]).await;
    let (_, catalog) = site.reindex().await;
    let seen = catalog.agent(agent).await.expect("read").expect("there").seen;
    assert_eq!((seen.hostname.as_str(), seen.kernel.as_str(), seen.at), ("web\\n1", "6.1", Some(now().plus_s(60))));
}
