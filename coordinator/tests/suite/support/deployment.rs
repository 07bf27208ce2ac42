//! A deployment with its keys, and records of a small case.

use std::collections::BTreeMap;
use std::sync::Arc;

use exhibit_coordinator::ledger::{Keys, LOGS_OPEN_MAX, Ledgers};
use exhibit_coordinator::store::{Store, list_all};
use exhibit_evidence::anchor::{Anchor, FORMAT};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::{LogName, StreamNumber};
use exhibit_evidence::log::{Checkpoint, Layer, Tile, Tiler, Tree, WitnessKey, bundle_entries, cosign, hash_tiles, leaf_hash};
use exhibit_evidence::manifest::Status;
use exhibit_evidence::record::{self, *};
use exhibit_evidence::{Digest, Timestamp};

pub const NAME: &str = "test";

pub fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

pub fn root() -> SigningKey {
    key(1)
}
pub fn log_key() -> SigningKey {
    key(2)
}
pub fn issuer() -> SigningKey {
    key(3)
}
pub fn responder() -> SigningKey {
    key(4)
}
pub fn agent_key() -> SigningKey {
    key(5)
}

pub fn agent() -> AgentId {
    AgentId::of_key(&agent_key().public().id())
}

pub fn responder_name() -> String {
    format!("spiffe://{NAME}/responder/alex")
}

pub fn anchor() -> Anchor {
    Anchor { format: FORMAT.to_owned(), deployment: NAME.to_owned(), root_key: root().public() }
}

pub fn keys() -> Keys {
    Keys { anchor: anchor(), log: log_key(), witnesses: vec![witness(90).0, witness(91).0] }
}

pub fn at(s: i64) -> Timestamp {
    Timestamp::from_unix_s(1_764_000_000 + s)
}

pub fn enrolment(name: &str, key: &SigningKey, roles: &[Role], by: &SigningKey, predecessor: Option<Digest>) -> Envelope {
    let p = Enrolment {
        deployment: NAME.to_owned(),
        name: format!("spiffe://{NAME}/{name}"),
        key: key.public(),
        roles: roles.to_vec(),
        cases: None,
        predecessor,
        method: "init".to_owned(),
        enrolled_at: at(0),
    };
    record::sign(&p, by).expect("small")
}

/// Enrolments of the log key, the issuer, a responder and an agent, in an order that verifies.
pub fn enrolments() -> Vec<Envelope> {
    let log = enrolment("coordinator/log", &log_key(), &[Role::Log], &root(), None);
    let issuer_record = enrolment("coordinator/issuer", &issuer(), &[Role::Issuer], &root(), None);
    let person = enrolment("responder/alex", &responder(), &[Role::Responder, Role::Admin], &root(), None);
    let agent = enrolment(&format!("agent/{}", agent()), &agent_key(), &[Role::Agent], &issuer(), Some(issuer_record.digest()));
    vec![log, issuer_record, person, agent]
}

pub fn case() -> CaseId {
    CaseId::new(1_764_000_000_000, [7; 10])
}

pub fn case_opened() -> Envelope {
    let p = CaseOpened {
        case: case(),
        deployment: NAME.to_owned(),
        title: "A case".to_owned(),
        legal_basis: "a test".to_owned(),
        accountable: "Alex".to_owned(),
        opened_by: responder_name(),
        opened_at: at(1),
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    };
    record::sign(&p, &responder()).expect("small")
}

pub fn order(n: u8) -> (OrderId, Envelope) {
    let id = OrderId::new(1_764_000_001_000, [n; 10]);
    let p = Order {
        order: id.clone(),
        case: case(),
        predecessor: case_opened().digest(),
        targets: vec![agent()],
        profile: Some("triage".to_owned()),
        captures: vec![CaptureSpec { name: "system".to_owned(), params: BTreeMap::new() }],
        limits: Limits::default(),
        legal_basis: "works agreement, section 4".to_owned(),
        reason: "a test".to_owned(),
        issued_by: responder_name(),
        issued_at: at(2),
        expires_at: at(3_600),
        nonce: Nonce { size: 0, root: Tree::new().root() },
    };
    (id, record::sign(&p, &responder()).expect("small"))
}

pub fn collection(n: u8) -> CollectionId {
    CollectionId::of(&order(n).1.digest(), &agent())
}

pub fn manifest_ref(sha256: Digest, items: u64) -> ManifestRef {
    ManifestRef {
        sha256,
        size: 100,
        segments: 1,
        stored_bytes: 10,
        raw_bytes: 2_048,
        items,
        by_status: BTreeMap::from([(Status::Collected, items)]),
    }
}

pub fn receipt(n: u8, stream: u32, items: u64) -> Envelope {
    let p = Receipt {
        case: case(),
        collection: collection(n),
        stream: StreamNumber(stream),
        predecessor: order(n).1.digest(),
        agent_signed: false,
        contents_unverified: false,
        manifest: manifest_ref(Digest::of(&[n]), items),
        received_from: at(3),
        received_to: at(4),
    };
    record::sign(&p, &log_key()).expect("small")
}

pub fn seal(n: u8, exhibits: (u64, u64)) -> Envelope {
    let p = Seal {
        case: case(),
        collection: collection(n),
        agent: agent(),
        order: order(n).1.digest(),
        predecessor: receipt(n, 1, exhibits.1).digest(),
        outcome: Outcome::Partial,
        reason: Some("a test".to_owned()),
        streams: vec![SealedStream { stream: StreamNumber(1), receipt: receipt(n, 1, exhibits.1).digest() }],
        exhibit_first: exhibits.0,
        exhibit_count: exhibits.1,
        sealed_at: at(5),
    };
    record::sign(&p, &log_key()).expect("small")
}

pub fn access(n: u32) -> Envelope {
    let p = Access {
        case: case(),
        predecessor: case_opened().digest(),
        by: responder_name(),
        action: record::Action::View,
        what: vec![format!("item {n}")],
        reason: "a test".to_owned(),
        at: at(i64::from(n)),
    };
    record::sign(&p, &log_key()).expect("small")
}

pub fn case_closed() -> Envelope {
    let p = CaseClosed {
        case: case(),
        predecessor: case_opened().digest(),
        reason: "done".to_owned(),
        closed_by: responder_name(),
        closed_at: at(9),
    };
    record::sign(&p, &responder()).expect("small")
}

/// Opens so many other logs that all are closed that nobody uses just now.
pub async fn close_logs(ledgers: &Ledgers) {
    for n in 0..=LOGS_OPEN_MAX {
        ledgers.case(&CaseId::new(n as u64, [1; 10])).await.expect("opens");
    }
}

/// The beginning of a case log.
pub fn opening() -> Vec<Envelope> {
    let mut all = enrolments();
    all.push(case_opened());
    all
}

/// The witness that the logs of these tests know, and its key.
pub fn witness(n: u8) -> (WitnessKey, SigningKey) {
    let key = key(n);
    (WitnessKey::new(&format!("counsel.example/w{n}"), key.public()).expect("a name"), key)
}

/// A checkpoint with the cosignature of a witness.
pub fn cosigned(note: &[u8], (witness, key): &(WitnessKey, SigningKey), time_s: u64) -> exhibit_evidence::log::Note {
    let mut note = exhibit_evidence::log::Note::parse(note).expect("a note");
    let line = cosign(&Checkpoint::of(&note).expect("a checkpoint"), witness, key, time_s);
    note.signatures.push(line);
    note
}

/// Every tile is what the records give, and those of the signed head are there.
async fn verify_tiles(store: &Arc<dyn Store>, name: &LogName, names: &[String], leaves: &[Digest]) {
    let (mut tiler, mut expected) = (Tiler::new(), BTreeMap::new());
    for leaf in leaves {
        tiler.append(*leaf, &mut |tile, bytes| {
            expected.insert(tile, bytes);
        });
        expected.extend(tiler.partial());
    }
    for object in names {
        let tile = Tile::parse(object.strip_prefix(&format!("{}/", name.folder())).expect("inside")).expect("a tile");
        let bytes = store.get(object, tile.bytes_max()).await.expect("tile");
        if tile.layer() == Layer::Entries {
            let first = (tile.index() * 256) as usize;
            let hashes: Vec<Digest> = bundle_entries(&bytes).expect("whole").into_iter().map(|(_, hash)| hash).collect();
            assert_eq!(hashes, leaves[first..first + tile.width() as usize], "{object}");
        } else {
            assert!(expected.get(&tile).is_some_and(|e| *e == bytes), "{object} is not what the records give");
        }
    }
    let bundles = (0..leaves.len() as u64 / 256).map(|n| Tile::of(Layer::Entries, n, leaves.len() as u64).expect("full"));
    for tile in hash_tiles(leaves.len() as u64).chain(bundles) {
        assert!(names.contains(&name.tile(&tile)), "{tile} is missing");
    }
}

/// Reads a log's bytes as a stranger would: slots without holes, each record trusted, the checkpoint over all of them, the
/// tiles what they give.
/// Gives the digests of the records in order.
pub async fn verify_from_bytes(store: &Arc<dyn Store>, name: &LogName) -> Vec<Digest> {
    let listed = list_all(&**store, &name.folder(), 100_000).await.expect("list");
    let mut names: Vec<String> = listed.into_iter().map(|e| e.name).collect();
    let checkpoint_name = name.checkpoint();
    assert!(names.contains(&checkpoint_name), "no checkpoint among {names:?}");
    let tiles: Vec<String> = names.iter().filter(|n| n.contains("/tile/")).cloned().collect();
    names.retain(|n| n.contains("/seq/"));
    let mut leaves = Vec::new();
    let note = store.get(&checkpoint_name, 10_000).await.expect("checkpoint");
    let checkpoint = Checkpoint::verify(&note, &log_key().public()).expect("signed by the log key");
    assert_eq!(checkpoint.origin, name.origin(NAME));
    let (mut ring, mut tree, mut digests) = (KeyRing::new(&anchor()), Tree::new(), Vec::new());
    for (n, object) in names.iter().enumerate() {
        assert_eq!(*object, name.slot(n as u64));
        let bytes = store.get(object, 100_000).await.expect("slot");
        let envelope = Envelope::parse(&bytes).expect("an envelope");
        ring.verify(&envelope).expect("trusted");
        tree.append(&bytes);
        leaves.push(leaf_hash(&bytes));
        digests.push(envelope.digest());
    }
    assert_eq!((checkpoint.size, checkpoint.root), (tree.size(), tree.root()), "the checkpoint covers everything");
    verify_tiles(store, name, &tiles, &leaves).await;
    let distinct: std::collections::BTreeSet<_> = digests.iter().collect();
    assert_eq!(distinct.len(), digests.len(), "a record is in the log twice");
    digests
}
