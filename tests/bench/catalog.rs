//! What a full catalog costs: a million collections imported, and one page of every listing, on SQLite and on PostgreSQL.
//! Prints, never fails on a figure: `cargo bench -p exhibit-tests --bench catalog [-- COLLECTIONS]`.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::postgres::PostgresCatalog;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{CatalogError, CollectionFilter, Labels, SharedCatalog, conformance};
use exhibit_evidence::id::{AgentId, CaseId, CollectionId, OrderId};
use exhibit_evidence::{Digest, Timestamp};
use serde_json::json;
use tokio::time::Instant;

/// Collections of one order, orders of one case, agents of the deployment.
const PER_ORDER: u64 = 100;
const ORDERS_PER_CASE: u64 = 100;
const AGENTS: u64 = 10_000;
const PAGE: u32 = 100;

fn random(n: u64) -> [u8; 10] {
    let digest = Digest::of(&n.to_le_bytes());
    std::array::from_fn(|i| digest.as_bytes()[i])
}

fn agent(n: u64) -> AgentId {
    AgentId::new(1_000, random(n))
}

fn case(n: u64) -> CaseId {
    CaseId::new(1_000_000 + n, random(n))
}

fn order(n: u64) -> (OrderId, Digest) {
    (OrderId::new(1_000_000 + n, random(n)), Digest::of(&(n + (1 << 40)).to_le_bytes()))
}

fn collection(n: u64) -> CollectionId {
    CollectionId::of(&order(n / PER_ORDER).1, &agent(n % AGENTS))
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let n = group.iter().fold(0_u32, |n, b| n << 8 | u32::from(*b)) << (8 * (3 - group.len()));
        (0..4).map(|i| if i <= group.len() { char::from(ALPHABET[(n >> (18 - 6 * i) & 63) as usize]) } else { '=' }).collect::<String>()
    };
    bytes.chunks(3).map(group).collect()
}

/// A catalog as an export, in the order that the format asks for.
fn write_export(file: &std::path::Path, collections: u64) {
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).expect("file"));
    let (mut hasher, mut rows) = (exhibit_evidence::Hasher::new(), 0_u64);
    let mut line = |value: serde_json::Value, rows: &mut u64| {
        let text = format!("{value}\n");
        hasher.update(text.as_bytes());
        out.write_all(text.as_bytes()).expect("written");
        *rows += 1;
    };
    line(json!({ "format": "exhibit-catalog", "version": 1 }), &mut 0);
    for n in 0..AGENTS {
        let labels = json!({ "role": if n % 100 == 0 { "db" } else { "web" }, "rack": format!("r{}", n % 500) }).to_string();
        line(
            json!({ "agents": { "agent": agent(n), "key": base64(&[1; 32]), "enrolment": base64(&[2; 32]), "enrolled_at": 1, "labels": labels,
                "revoked_at": null, "revoked_reason": null, "alarm": null, "seen_at": 5, "hostname": format!("host-{n}"), "version": "1",
                "kernel": "6.1", "os": "Debian", "boot_id": "b", "build": null, "clock_offset_ns": 0, "captures": "[\"system\",\"files\"]" } }),
            &mut rows,
        );
    }
    let orders = collections.div_ceil(PER_ORDER);
    for n in 0..orders.div_ceil(ORDERS_PER_CASE) {
        line(
            json!({ "cases": { "case_id": case(n), "title": "A case", "legal_basis": "b", "accountable": "c", "opened_by": "d", "opened_at": n,
                "case_opened": base64(&[3; 32]), "case_closed": null } }),
            &mut rows,
        );
    }
    for n in 0..orders {
        line(
            json!({ "orders": { "order_id": order(n).0, "digest": base64(order(n).1.as_bytes()), "envelope": base64(&[7; 1_500]),
                "case_id": case(n / ORDERS_PER_CASE), "issued_by": "alex", "profile": "triage", "expires_at": i64::MAX, "admitted_at": n } }),
            &mut rows,
        );
    }
    for n in 0..collections {
        let (id, digest) = order(n / PER_ORDER);
        // All but the oldest are sealed: who looks for open ones by age finds them last.
        let open = n < 1_000;
        line(
            json!({ "collections": { "collection": collection(n), "order_id": id, "order_digest": base64(digest.as_bytes()),
                "case_id": case(n / PER_ORDER / ORDERS_PER_CASE), "agent": agent(n % AGENTS), "profile": "triage",
                "state": if open { "queued" } else { "sealed" }, "reason": null, "ending_outcome": null, "ending_reason": null,
                "ending_refusal": null, "cancel": null, "stream": 1, "queued_at": n / PER_ORDER, "started_at": n, "ended_at": n,
                "expires_at": i64::MAX, "give_up_at": null, "items": 100, "raw_bytes": 1 << 20, "stored_bytes": 1 << 18,
                "by_status": "{\"collected\":100}", "exhibit_first": 1, "exhibit_count": 100, "seal": base64(&[9; 900]) } }),
            &mut rows,
        );
    }
    let end = json!({ "end": { "rows": rows, "sha256": hasher.finish().to_string() } });
    writeln!(out, "{end}").and_then(|()| out.flush()).expect("written");
}

async fn timed<T>(what: &str, on: &str, call: impl AsyncFn() -> Result<T, CatalogError>) {
    let mut worst = Duration::ZERO;
    let mut all = Duration::ZERO;
    for _ in 0..10 {
        let begun = Instant::now();
        call().await.expect("answered");
        worst = worst.max(begun.elapsed());
        all += begun.elapsed();
    }
    println!(
        "{}",
        json!({ "bench": "catalog", "on": on, "what": what, "mean_us": (all / 10).as_micros() as u64, "worst_us": worst.as_micros() as u64 })
    );
}

async fn pages(c: &SharedCatalog, on: &str, collections: u64) {
    let filter = CollectionFilter::default;
    let list = async |filter: CollectionFilter, after: Option<u64>| c.collections(filter, after.map(collection), PAGE).await;
    let some_case = case(collections / PER_ORDER / ORDERS_PER_CASE / 2);
    let only: Vec<CollectionId> = (0..500).map(|n| collection(n * collections / 500)).collect();
    timed("newest page", on, async || list(filter(), None).await).await;
    timed("page in the middle", on, async || list(filter(), Some(collections / 2)).await).await;
    timed("of a case", on, async || list(CollectionFilter { case: Some(some_case.clone()), ..filter() }, None).await).await;
    timed("of a case, middle", on, async || {
        list(CollectionFilter { case: Some(some_case.clone()), ..filter() }, Some(collections / 2 + 500)).await
    })
    .await;
    timed("of an order", on, async || list(CollectionFilter { order: Some(order(collections / PER_ORDER / 2).0), ..filter() }, None).await)
        .await;
    timed("of an agent", on, async || list(CollectionFilter { agent: Some(agent(77)), ..filter() }, None).await).await;
    timed("of an agent in a case", on, async || {
        list(CollectionFilter { agent: Some(agent(77)), case: Some(some_case.clone()), ..filter() }, None).await
    })
    .await;
    timed("500 by id", on, async || list(CollectionFilter { only: only.clone(), ..filter() }, None).await).await;
    timed("open", on, async || list(CollectionFilter { open: true, ..filter() }, None).await).await;
    timed("open of an agent", on, async || list(CollectionFilter { open: true, agent: Some(agent(77)), ..filter() }, None).await).await;
    timed("due", on, async || c.due(Timestamp::from_unix_s(1_900_000_000), PAGE).await).await;
    timed("sealing", on, async || c.sealing(None, PAGE).await).await;
    timed("counts of a case", on, async || c.case_counts(some_case.clone()).await).await;
    timed("cases", on, async || c.cases(None, PAGE).await).await;
    timed("agents", on, async || c.agents(Labels::new(), None, PAGE).await).await;
    let labels = |k: &str, v: &str| Labels::from([(k.to_owned(), v.to_owned())]);
    timed("agents by a rare label", on, async || c.agents(labels("role", "db"), None, PAGE).await).await;
    timed("agents by no label", on, async || c.agents(labels("role", "none"), None, PAGE).await).await;
    timed("health", on, async || c.healthy().await).await;
    let n = std::sync::atomic::AtomicU32::new(0);
    timed("a token", on, async || c.add_token(conformance::token(n.fetch_add(1, std::sync::atomic::Ordering::Relaxed), 1)).await).await;
}

fn main() {
    let collections = std::env::args().find_map(|a| a.parse().ok()).unwrap_or(1_000_000);
    // On a disk: /tmp is memory on some machines.
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("folder");
    let export = dir.path().join("rows.jsonl");
    write_export(&export, collections);
    let server_dir = tempfile::tempdir().expect("folder");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    runtime.block_on(async {
        let input = || std::io::BufReader::new(std::fs::File::open(&export).expect("export"));
        let imported = |on: &str, begun: Instant, rows: u64| {
            println!("{}", json!({ "bench": "catalog", "on": on, "what": "import", "rows": rows, "seconds": begun.elapsed().as_secs() }));
        };
        let sqlite = SqliteCatalog::create(&dir.path().join("catalog.sqlite")).await.expect("new");
        let begun = Instant::now();
        let moved = sqlite.import(&mut input()).await.expect("imported");
        imported("sqlite", begun, moved.rows);
        pages(&(Arc::new(sqlite) as SharedCatalog), "sqlite", collections).await;
        let server = Scratch::start(server_dir.path()).await;
        let postgres = PostgresCatalog::create(&server.database("catalog").await).await.expect("new");
        let begun = Instant::now();
        let moved = postgres.import(&mut input()).await.expect("imported");
        imported("postgres", begun, moved.rows);
        pages(&(Arc::new(postgres.clone()) as SharedCatalog), "postgres", collections).await;
        let begun = Instant::now();
        let moved = postgres.export(&mut std::io::sink()).await.expect("exported");
        println!(
            "{}",
            json!({ "bench": "catalog", "on": "postgres", "what": "export", "rows": moved.rows, "seconds": begun.elapsed().as_secs() })
        );
    });
}
