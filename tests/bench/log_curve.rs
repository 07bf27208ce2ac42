//! What a long custody log costs: appending, opening, proving, by length up to 100,000 records. Run by hand:
//! `cargo test --release -p exhibit-tests --test log_curve -- --ignored --nocapture`.

use std::sync::Arc;
use std::time::Instant;

use exhibit_coordinator::ledger::{Keys, Ledger, ProofOf};
use exhibit_coordinator::store::{LocalStore, Store};
use exhibit_evidence::anchor::{Anchor, FORMAT};
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::record::{self, Access, Enrolment, Role};
use exhibit_evidence::{Digest, Timestamp};

fn key(n: u8) -> SigningKey {
    SigningKey::from_seed(&[n; 32])
}

fn case() -> CaseId {
    CaseId::new(1, [1; 10])
}

fn access(n: u64) -> Envelope {
    let p = Access {
        case: case(),
        predecessor: Digest::of(b"case"),
        by: "spiffe://bench/responder/alex".to_owned(),
        action: record::Action::View,
        what: vec![format!("item {n}")],
        reason: "measure".to_owned(),
        at: Timestamp::from_unix_s(n as i64),
    };
    record::sign(&p, &key(2)).expect("small")
}

fn enrolment() -> Envelope {
    let p = Enrolment {
        deployment: "bench".to_owned(),
        name: "spiffe://bench/coordinator/log".to_owned(),
        key: key(2).public(),
        roles: vec![Role::Log],
        cases: None,
        predecessor: None::<Digest>,
        method: "init".to_owned(),
        enrolled_at: Timestamp::from_unix_s(1),
    };
    record::sign(&p, &key(1)).expect("small")
}

#[allow(clippy::disallowed_methods, reason = "a benchmark measures time")]
#[tokio::test]
#[ignore = "a measurement of minutes"]
async fn cost_by_length() {
    let dir = tempfile::tempdir().expect("dir");
    let store: Arc<dyn Store> = Arc::new(LocalStore::create(&dir.path().join("store")).expect("store"));
    let anchor = Anchor { format: FORMAT.to_owned(), deployment: "bench".to_owned(), root_key: key(1).public() };
    let keys = Arc::new(Keys { anchor, log: key(2), witnesses: Vec::new() });
    let open = || Ledger::open(Arc::clone(&store), LogName::Case(case()), Arc::clone(&keys), None);
    let mut ledger = open().await.expect("opens");
    ledger.append(vec![enrolment()]).await.expect("appended");
    println!("{:>8} {:>12} {:>12} {:>12} {:>8} {:>10}", "records", "append, us", "prove, us", "consist., us", "hashes", "open, ms");
    for length in [1_000_u64, 5_000, 20_000, 50_000, 100_000] {
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
        println!("{:>8} {append:>12} {prove:>12} {consistency:>12} {hashes:>8} {opened:>10}", ledger.size());
        assert!(hashes <= 18, "a proof grows with the logarithm");
    }
}
