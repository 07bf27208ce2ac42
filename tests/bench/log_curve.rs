//! What a long custody log costs: appending, opening, proving, verifying, by length up to 100,000 records; how many records a
//! second one writer and eight get in, on a disk and on S3; how fast a lost catalog comes back; what the export of a case of several
//! GiB takes of memory. Run by hand:
//! `cargo test --release -p exhibit-tests --test log_curve -- --ignored --nocapture`.

mod export;
mod reindex;
mod writers;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use exhibit_coordinator::ledger::{Keys, Ledger, ProofOf};
use exhibit_coordinator::store::{LocalStore, Store};
use exhibit_evidence::anchor::{Anchor, FORMAT};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{self, Access, CaseOpened, Enrolment, Role};
use exhibit_evidence::verify::{self, CaseFiles, Entry, EntryKind, Options, Verdict};
use exhibit_evidence::{Digest, Timestamp};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn case() -> CaseId {
    CaseId::new(1, [1; 10])
}

const PERSON: &str = "spiffe://bench/responder/alex";

fn access(n: u64) -> Envelope {
    let p = Access {
        case: case(),
        predecessor: opened().digest(),
        by: PERSON.to_owned(),
        action: record::Action::View,
        what: vec![format!("item {n}")],
        reason: "measure".to_owned(),
        at: Timestamp::from_unix_s(n as i64),
    };
    record::sign(&p, &key(2)).expect("small")
}

fn enrolment(name: &str, of: u8, role: Role) -> Envelope {
    let p = Enrolment {
        deployment: "bench".to_owned(),
        name: name.to_owned(),
        key: key(of).public(),
        roles: vec![role],
        cases: None,
        predecessor: None::<Digest>,
        method: "init".to_owned(),
        enrolled_at: Timestamp::from_unix_s(1),
    };
    record::sign(&p, &key(1)).expect("small")
}

fn opened() -> Envelope {
    let p = CaseOpened {
        case: case(),
        deployment: "bench".to_owned(),
        title: "A long case".to_owned(),
        legal_basis: "a measurement".to_owned(),
        accountable: "nobody".to_owned(),
        opened_by: PERSON.to_owned(),
        opened_at: Timestamp::from_unix_s(1),
        two_person: false,
        encrypt_to: exhibit_evidence::age::Recipients::default(),
    };
    record::sign(&p, &key(3)).expect("small")
}

/// What every case of these measurements begins with.
fn opening() -> Vec<Envelope> {
    vec![enrolment("spiffe://bench/coordinator/log", 2, Role::Log), enrolment(PERSON, 3, Role::Responder), opened()]
}

fn keys() -> Arc<Keys> {
    let anchor = Anchor { format: FORMAT.to_owned(), deployment: "bench".to_owned(), root_key: key(1).public() };
    Arc::new(Keys { anchor, log: key(2), witnesses: Vec::new() })
}

/// A case on the disk.
struct Folder(PathBuf);

impl CaseFiles for Folder {
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> std::io::Result<()> {
        let mut folders = vec![self.0.clone()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder)? {
                let (path, meta) = entry.and_then(|e| Ok((e.path(), e.metadata()?)))?;
                if meta.is_dir() {
                    folders.push(path);
                    continue;
                }
                let name = path.strip_prefix(&self.0).map_err(std::io::Error::other)?;
                each(Entry { name: name.as_os_str().as_encoded_bytes(), size: meta.len(), kind: EntryKind::File });
            }
        }
        Ok(())
    }

    fn open(&self, name: &str) -> std::io::Result<Box<dyn std::io::Read + '_>> {
        Ok(Box::new(std::fs::File::open(self.0.join(name))?))
    }
}

/// Milliseconds for the whole verification of the case.
#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
fn verified(store: &Path) -> u128 {
    let (files, begun) = (Folder(store.join("cases").join(case().as_str())), Instant::now());
    let report = verify::verify(&files, &keys().anchor, &Options::default(), &mut |_| {}).expect("listed");
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.findings.kept().first());
    begun.elapsed().as_millis()
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn cost_by_length() {
    let dir = tempfile::tempdir().expect("dir");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("store"));
    let keys = keys();
    let open = || Ledger::open(Arc::clone(&store), LogName::Case(case()), Arc::clone(&keys), None);
    let mut ledger = open().await.expect("opens");
    ledger.append(opening()).await.expect("appended");
    println!(
        "{:>8} {:>12} {:>12} {:>12} {:>12} {:>10} {:>11}",
        "records", "append, us", "prove, us", "consist., us", "proof, bytes", "open, ms", "verify, ms"
    );
    for length in [1_000_u64, 10_000, 100_000] {
        while ledger.size() + 256 < length {
            let from = ledger.size();
            let batch = (from..(from + 2_048).min(length - 255)).map(access).collect();
            ledger.append(batch).await.expect("appended");
        }
        // One by one over a whole tile, so that what happens once a tile counts.
        let (from, begun) = (ledger.size(), Instant::now());
        for n in from..from + 256 {
            ledger.append(vec![access(n)]).await.expect("appended");
        }
        let append = begun.elapsed().as_micros() / 256;
        let (mut hashes, begun) = (0, Instant::now());
        for n in 0..64 {
            hashes = hashes.max(ledger.prove(ProofOf::Record(n * ledger.size() / 64), 0).await.expect("holds").hashes.len());
        }
        let prove = begun.elapsed().as_micros() / 64;
        let begun = Instant::now();
        for n in 0..64 {
            ledger.prove(ProofOf::Head(n * ledger.size() / 64), 0).await.expect("holds");
        }
        let consistency = begun.elapsed().as_micros() / 64;
        let begun = Instant::now();
        ledger = open().await.expect("opens");
        let opened = begun.elapsed().as_millis();
        let verified = verified(&dir.path().join("store"));
        println!("{:>8} {append:>12} {prove:>12} {consistency:>12} {:>12} {opened:>10} {verified:>11}", ledger.size(), hashes * 32);
        assert!(hashes <= 18, "a proof grows with the logarithm");
    }
}
