//! Makes whole signed cases in memory, deterministically: fixed seeds, fixed times, the real writers. What these make
//! is checked in under `tests/vectors` and read there by two programs.
#![allow(dead_code, reason = "each test program uses another part")]

pub mod approvals;
pub mod bags;
pub mod cases;
pub mod custody;
pub mod der;
pub mod encrypted;
pub mod faults;
pub mod lies;
pub mod logs;
pub mod retained;
pub mod stamps;
pub mod stream;
pub mod tamper;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use exhibit_evidence::anchor::{self, Anchor};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::{PublicKey, SigningKey};
use exhibit_evidence::layout::{CaseObject, LogName, StreamNumber};
use exhibit_evidence::log::{Checkpoint, Tree};
use exhibit_evidence::record::{self, *};
use exhibit_evidence::verify::{self, CaseFiles, Entry, EntryKind, Options, Report};
use exhibit_evidence::{AgentId, CaseId, CollectionId, Digest, OrderId, Timestamp};

pub const DEPLOYMENT: &str = "vectors";

/// `tests/vectors` of the repository.
pub fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors")
}

/// Objects by name relative to the case folder.
pub type Objects = BTreeMap<String, Vec<u8>>;

/// A case in memory.
pub struct Memory<'a>(pub &'a Objects);

impl CaseFiles for Memory<'_> {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()> {
        for (name, bytes) in self.0 {
            each(Entry { name: name.as_bytes(), size: bytes.len() as u64, kind: EntryKind::File });
        }
        Ok(())
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>> {
        let bytes = self.0.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Box::new(bytes.as_slice()))
    }
}

/// Verifies a case in memory.
pub fn check(objects: &Objects, options: &Options) -> Report {
    verify::verify(&Memory(objects), &anchor(), options, &mut |_| {}).expect("memory can be listed")
}

/// The codes that a report has.
pub fn codes(report: &Report) -> Vec<&'static str> {
    let mut codes: Vec<_> = report.findings.kept().iter().map(|f| f.code.as_str()).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Writes objects below a folder.
pub fn write_objects(folder: &Path, objects: &Objects) {
    for (name, bytes) in objects {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().expect("a file has a folder")).expect("temporary folder");
        std::fs::write(path, bytes).expect("temporary folder");
    }
}

/// Reads all plain files below a folder.
pub fn read_objects(folder: &Path) -> Objects {
    let mut out = Objects::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(&next).unwrap_or_else(|e| panic!("{}: {e}", next.display())) {
            let path = entry.expect("listed").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).expect("below").to_str().expect("ASCII names").to_owned();
                out.insert(name, std::fs::read(path).expect("readable"));
            }
        }
    }
    out
}

/// The keys of the test deployment. Their seeds are public: they protect nothing.
pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&[seed; 32])
}

pub const ROOT: u8 = 1;
pub const LOG: u8 = 2;
pub const ADMIN: u8 = 3;
pub const RESPONDER: u8 = 4;
pub const ISSUER: u8 = 5;
/// Agents are 16, 17, ...
pub const AGENT: u8 = 16;
/// A key that nobody enrolled.
pub const STRANGER: u8 = 99;

pub fn anchor() -> Anchor {
    Anchor { format: anchor::FORMAT.to_owned(), deployment: DEPLOYMENT.to_owned(), root_key: key(ROOT).public() }
}

pub fn anchor_bytes() -> Vec<u8> {
    let mut bytes = serde_json::to_vec(&anchor()).expect("serialises");
    bytes.push(b'\n');
    bytes
}

pub fn agent_id(n: u8) -> AgentId {
    AgentId::of_key(&key(AGENT + n).public().id())
}

pub fn name(rest: &str) -> String {
    format!("spiffe://{DEPLOYMENT}/{rest}")
}

pub fn responder_name() -> String {
    name("responder/ada")
}

/// A case that is being written.
pub struct Case {
    pub id: CaseId,
    pub objects: Objects,
    pub opened: Digest,
    pub next_exhibit: u64,
    tree: Tree,
    pub clock: i64,
    enrolments: BTreeMap<u8, Digest>,
}

/// An order that is in the log.
pub struct Ordered {
    pub digest: Digest,
    pub nonce: Nonce,
}

/// The texts of a case-opened record.
pub fn case_opened(id: &CaseId, title: &str, at: Timestamp) -> CaseOpened {
    CaseOpened {
        case: id.clone(),
        deployment: DEPLOYMENT.to_owned(),
        title: title.to_owned(),
        legal_basis: "internal investigation, policy 7.2".to_owned(),
        accountable: "head of security".to_owned(),
        opened_by: responder_name(),
        opened_at: at,
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    }
}

impl Case {
    /// A log with the enrolments that every case begins with, and no case yet.
    pub fn unopened(n: u8) -> Self {
        let mut case = Self {
            id: CaseId::new(1_768_471_200_000, [n; 10]),
            objects: Objects::new(),
            opened: Digest::of(b"no case"),
            next_exhibit: 1,
            tree: Tree::new(),
            clock: 1_768_471_200,
            enrolments: BTreeMap::new(),
        };
        case.enrol(LOG, ROOT, "coordinator/log", &[Role::Log], "init");
        case.enrol(ISSUER, ROOT, "coordinator/issuer", &[Role::Issuer], "init");
        case.enrol(ADMIN, ROOT, "responder/root-admin", &[Role::Admin], "init");
        case.enrol(RESPONDER, ADMIN, "responder/ada", &[Role::Responder], "token");
        case
    }

    /// A case that was opened.
    pub fn open(n: u8, title: &str) -> Self {
        let mut case = Self::unopened(n);
        let at = case.now();
        let opened = case_opened(&case.id, title, at);
        case.opened = case.sign(&opened, RESPONDER);
        case
    }

    /// The next second.
    pub fn now(&mut self) -> Timestamp {
        self.clock += 1;
        Timestamp::from_unix_s(self.clock)
    }

    pub fn records(&self) -> u64 {
        self.tree.size()
    }

    pub fn nonce(&self) -> Nonce {
        Nonce { size: self.tree.size(), root: self.tree.root() }
    }

    /// Appends the bytes of a record.
    pub fn append(&mut self, bytes: &[u8]) -> Digest {
        self.objects.insert(CaseObject::Slot(self.tree.size()).to_string(), bytes.to_vec());
        self.tree.append(bytes);
        Digest::of(bytes)
    }

    /// Signs and appends a record.
    pub fn sign<P: Predicate>(&mut self, predicate: &P, seed: u8) -> Digest {
        let envelope = record::sign(predicate, &key(seed)).expect("small record");
        self.append(envelope.as_bytes())
    }

    /// Appends a payload that is no record of this version.
    pub fn sign_raw(&mut self, payload: &[u8], seed: u8) -> Digest {
        let envelope = Envelope::sign(payload.to_vec(), &key(seed)).expect("small record");
        self.append(envelope.as_bytes())
    }

    pub fn public(seed: u8) -> PublicKey {
        key(seed).public()
    }

    pub fn enrol(&mut self, seed: u8, by: u8, rest: &str, roles: &[Role], method: &str) {
        self.enrol_in(seed, by, rest, roles, method, None);
    }

    /// [`Case::enrol`] with roles that hold in these cases only.
    pub fn enrol_in(&mut self, seed: u8, by: u8, rest: &str, roles: &[Role], method: &str, cases: Option<Vec<CaseId>>) {
        let enrolment = Enrolment {
            deployment: DEPLOYMENT.to_owned(),
            name: name(rest),
            key: key(seed).public(),
            roles: roles.to_vec(),
            cases,
            predecessor: self.enrolments.get(&by).copied(),
            method: method.to_owned(),
            enrolled_at: self.now(),
        };
        let digest = self.sign(&enrolment, by);
        self.enrolments.insert(seed, digest);
    }

    pub fn enrolment_of(&self, seed: u8) -> Digest {
        self.enrolments[&seed]
    }

    pub fn enrol_agent(&mut self, n: u8) {
        let id = agent_id(n);
        self.enrol(AGENT + n, ISSUER, &format!("agent/{id}"), &[Role::Agent], "token");
    }

    pub fn order(&mut self, n: u8, agents: &[u8], captures: &[&str], tweak: &dyn Fn(&mut Order)) -> Ordered {
        let issued_at = self.now();
        let mut order = Order {
            order: OrderId::new(1_768_471_300_000 + u64::from(n), [n; 10]),
            case: self.id.clone(),
            predecessor: self.opened,
            targets: agents.iter().map(|n| agent_id(*n)).collect(),
            profile: Some("triage".to_owned()),
            captures: captures.iter().map(|c| CaptureSpec { name: (*c).to_owned(), params: BTreeMap::new() }).collect(),
            limits: Limits { deadline_s: Some(3_600), cpu_percent: Some(50), ..Limits::default() },
            legal_basis: "works agreement, section 4".to_owned(),
            reason: "suspected intrusion on the web tier".to_owned(),
            issued_by: responder_name(),
            issued_at,
            expires_at: issued_at.plus_s(86_400),
            nonce: self.nonce(),
        };
        tweak(&mut order);
        let digest = self.sign(&order, RESPONDER);
        Ordered { digest, nonce: order.nonce }
    }

    pub fn collection(ordered: &Ordered, agent: u8) -> CollectionId {
        CollectionId::of(&ordered.digest, &agent_id(agent))
    }

    pub fn refuse(&mut self, ordered: &Ordered, agent: u8, tweak: &dyn Fn(&mut Refusal)) -> Digest {
        let mut refusal = Refusal {
            collection: Self::collection(ordered, agent),
            agent: agent_id(agent),
            predecessor: ordered.digest,
            code: "policy".to_owned(),
            message: "the host's policy does not allow the capture 'process'".to_owned(),
            refused_at: self.now(),
        };
        tweak(&mut refusal);
        self.sign(&refusal, AGENT + agent)
    }

    /// Stores the objects of a stream.
    pub fn put(&mut self, collection: &CollectionId, number: u32, built: &stream::Built) {
        let number = StreamNumber(number);
        for (n, bytes) in built.segments.iter().enumerate() {
            self.objects.insert(CaseObject::Segment(collection.clone(), number, n as u32).to_string(), bytes.clone());
        }
        self.objects.insert(CaseObject::Manifest(collection.clone(), number).to_string(), built.manifest.clone());
    }

    pub fn acquire(
        &mut self,
        ordered: &Ordered,
        agent: u8,
        number: u32,
        built: &stream::Built,
        tweak: &dyn Fn(&mut Acquisition),
    ) -> Digest {
        let wall = self.now();
        let clocks = |wall, mono_ns| Clocks { wall, mono_ns, offset_ns: Some(1_500_000) };
        let mut acquisition = Acquisition {
            case: self.id.clone(),
            collection: Self::collection(ordered, agent),
            stream: StreamNumber(number),
            agent: agent_id(agent),
            predecessor: ordered.digest,
            nonce: ordered.nonce.clone(),
            host: Host {
                hostname: ["web-1", "db-1", "app-1"][usize::from(agent % 3)].to_owned(),
                machine_id: Some("0123456789abcdef0123456789abcdef".to_owned()),
                boot_id: "6f1c2a34-0000-4000-8000-000000000001".to_owned(),
                kernel: "Linux 6.1.0 #1 SMP x86_64".to_owned(),
                os: Some("Debian GNU/Linux 12 (bookworm)".to_owned()),
                hardware: BTreeMap::from([("sys_vendor".to_owned(), "QEMU".to_owned())]),
                cloud: BTreeMap::from([("region".to_owned(), "eu-west-1".to_owned())]),
            },
            tool: Tool { name: "exhibit-agent".to_owned(), version: "0.1.0".to_owned(), sha256: Digest::of(b"agent binary") },
            started: clocks(wall, 5_000_000_000),
            ended: clocks(wall.plus_s(1), 6_000_000_000),
            complete: true,
            reason: None,
            manifest: built.totals.clone(),
            footprint: Footprint {
                pid: 4242,
                rss_peak_bytes: 20 << 20,
                cpu_ms: 300,
                commands: vec!["nft -j list ruleset".to_owned()],
                wrote: Vec::new(),
            },
        };
        tweak(&mut acquisition);
        self.sign(&acquisition, AGENT + agent)
    }

    /// A receipt; `predecessor` is the acquisition, or `None` when the agent never signed.
    pub fn receipt(
        &mut self,
        ordered: &Ordered,
        agent: u8,
        number: u32,
        acquisition: Option<Digest>,
        built: &stream::Built,
        tweak: &dyn Fn(&mut Receipt),
    ) -> Digest {
        let received_from = self.now();
        let mut receipt = Receipt {
            case: self.id.clone(),
            collection: Self::collection(ordered, agent),
            stream: StreamNumber(number),
            predecessor: acquisition.unwrap_or(ordered.digest),
            agent_signed: acquisition.is_some(),
            contents_unverified: built.encrypted,
            manifest: built.totals.clone(),
            received_from,
            received_to: self.now(),
        };
        tweak(&mut receipt);
        self.sign(&receipt, LOG)
    }

    /// A seal over streams given as (number, receipt, items).
    #[allow(clippy::too_many_arguments, reason = "a seal says this much")]
    pub fn seal(
        &mut self,
        ordered: &Ordered,
        agent: u8,
        outcome: Outcome,
        reason: Option<&str>,
        streams: &[(u32, Digest, u64)],
        refusal: Option<Digest>,
        tweak: &dyn Fn(&mut Seal),
    ) -> Digest {
        let exhibit_count = streams.iter().map(|s| s.2).sum();
        let mut seal = Seal {
            case: self.id.clone(),
            collection: Self::collection(ordered, agent),
            agent: agent_id(agent),
            order: ordered.digest,
            predecessor: streams.last().map(|s| s.1).or(refusal).unwrap_or(ordered.digest),
            outcome,
            reason: reason.map(str::to_owned),
            streams: streams.iter().map(|(n, receipt, _)| SealedStream { stream: StreamNumber(*n), receipt: *receipt }).collect(),
            exhibit_first: self.next_exhibit,
            exhibit_count,
            sealed_at: self.now(),
        };
        self.next_exhibit += exhibit_count;
        tweak(&mut seal);
        self.sign(&seal, LOG)
    }

    /// Signs the head of the log.
    pub fn checkpoint(&mut self) {
        let origin = LogName::Case(self.id.clone()).origin(DEPLOYMENT);
        self.checkpoint_as(&origin, LOG);
    }

    /// The head as it is now, with the log's signature.
    pub fn head(&self) -> Checkpoint {
        let origin = LogName::Case(self.id.clone()).origin(DEPLOYMENT);
        Checkpoint { origin, size: self.tree.size(), root: self.tree.root() }
    }

    pub fn checkpoint_as(&mut self, origin: &str, seed: u8) {
        let checkpoint = Checkpoint { origin: origin.to_owned(), size: self.tree.size(), root: self.tree.root() };
        self.objects.insert("log/checkpoint".to_owned(), checkpoint.sign(&key(seed)));
    }
}
