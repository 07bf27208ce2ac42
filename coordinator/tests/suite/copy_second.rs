//! A copy in a second store: an S3 server that fails now and then, beside a folder.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_coordinator::copy::{Lag, Second, lag};
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::faulty::{Fault, FaultyStore, Op};
use exhibit_coordinator::store::{Kind, LocalStore, Payload, RemoteStore, Store, list_all};
use exhibit_evidence::Digest;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::verify::Verdict;

use crate::custody_disposal::Story;
use crate::support::world::{Place, World};
use crate::support::{moto, verdict};

async fn soon(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Nothing is missing, and the heads are the same.
async fn is_whole(world: &World, copy: &dyn Store, logs: &[LogName]) -> bool {
    let first = LocalStore::open(&world.store_dir()).expect("store");
    for log in logs {
        let (here, there) = (first.get(&log.checkpoint(), 1 << 14).await, copy.get(&log.checkpoint(), 1 << 14).await);
        if here.expect("head") != there.unwrap_or_default() {
            return false;
        }
    }
    lag(&first, copy).await.expect("listed") == Lag::default()
}

async fn download(store: &dyn Store, folder: &str, to: &Path) {
    for entry in list_all(store, folder, 1_000).await.expect("listed") {
        let path = to.join(entry.name.strip_prefix(folder).expect("below").trim_start_matches('/'));
        std::fs::create_dir_all(path.parent().expect("above")).expect("folder");
        std::fs::write(path, store.get(&entry.name, entry.size).await.expect("read")).expect("written");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_durable_is_copied_and_what_is_destroyed_is_destroyed_there_too() {
    // It keeps versions, so what is deleted there lies hidden under a marker.
    let server = moto::start_with_lock();
    let bucket = Arc::new(RemoteStore::open(&server.settings("copy")).expect("settings"));
    let copy = FaultyStore::new(Arc::clone(&bucket) as Arc<dyn Store>);
    let faults = copy.faults.clone();
    // It is away at first, then takes an object and does not say so.
    faults.fail(Op::PutHead, "probe/head", 0, 1, Fault::Before(Kind::Retry));
    faults.fail(Op::PutNew, ".tar.zst", 0, 1, Fault::After(Kind::Retry));
    let second = Second { store: Arc::new(copy), every: Duration::from_secs(1), rate: Some(64 << 20) };
    let upkeep = Upkeep { copy: Some(second), verify: None };
    let mut s = Story::on(Place { upkeep, ..Place::default() }, 2).await;
    let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
    soon("everything is in the copy", async || is_whole(&s.world, &*bucket, &logs).await).await;
    assert_eq!(s.world.incidents().await, Vec::<String>::new(), "what another try mends is no incident");

    // A disposal is done when the copy is destroyed as well; what is copied meanwhile does not bring it back.
    let collection = s.collections[0].0.clone();
    let folder = format!("cases/{}/collections/{collection}", s.case);
    assert!(!list_all(&*bucket, &folder, 1_000).await.expect("listed").is_empty());
    faults.fail(Op::Destroy, "manifest", 0, 1, Fault::Before(Kind::Retry));
    let disposal = s.ask(0).await;
    s.approve(disposal).await.expect_err("the copy does not let it");
    assert!(!list_all(&*bucket, &folder, 1_000).await.expect("listed").is_empty(), "the copy of the manifest is left");
    s.certified(0).await;
    assert!(list_all(&*bucket, &folder, 1_000).await.expect("listed").is_empty());
    soon("the certificate is in the copy", async || is_whole(&s.world, &*bucket, &logs).await).await;
    assert!(list_all(&*bucket, &folder, 1_000).await.expect("listed").is_empty(), "it stays destroyed");

    // The copy alone is the case.
    let dir = tempfile::tempdir().expect("folder");
    download(&*bucket, &format!("cases/{}", s.case), dir.path()).await;
    let report = verdict::report_of(&s.world, dir.path(), true);
    assert_eq!(report.verdict, Verdict::Sound, "{:#?}", report.findings);

    // What is deleted there is told and put there again, from what the receipt names and not from what is damaged here.
    let kept = format!("cases/{}/collections/{}/s1", s.case, s.collections[1].0);
    let told = async |what: &str, has: &str| s.world.incidents().await.iter().any(|i| i.starts_with(what) && i.contains(has));
    s.world.faults.fail(Op::Get, &format!("{kept}/manifest.jsonl"), 0, 1, Fault::Corrupt);
    assert_eq!(server.send("DELETE", &format!("/evidence/copy/{kept}/manifest.jsonl"), "", "").0, 204);
    soon("damage here is an incident", async || told("copy-source: ", "manifest.jsonl' reads back from the store with").await).await;
    soon("so is the marker there", async || told("copy-marker: ", "manifest.jsonl' was hidden in the copy").await).await;
    soon("it is there again", async || is_whole(&s.world, &*bucket, &logs).await).await;
    assert!(!told("store-", "").await, "nothing was done to the store itself: {:?}", s.world.incidents().await);

    // A head of another log, and what never was ours: 20 folders are one accusation of nobody.
    let other = bucket.get(&logs[0].checkpoint(), 1 << 14).await.expect("head");
    bucket.put_head(&logs[1].checkpoint(), other).await.expect("altered");
    for n in 0..20 {
        let junk = Bytes::from_static(b"junk");
        bucket.put_new(&format!("cases/junk{n}/x"), Payload::from(junk.clone()), Digest::of(&junk)).await.expect("written");
    }
    soon("the head is told", async || told("copy-differs: ", "/log/checkpoint' in the copy was no signed head").await).await;
    soon("so is the junk", async || told("copy-foreign: ", "20 objects are in the copy that the store has not").await).await;
    let foreign = s.world.incidents().await.into_iter().filter(|i| i.contains("junk")).collect::<Vec<_>>();
    assert!(foreign.len() < 5 && foreign.iter().all(|i| i.starts_with("copy-foreign: ")), "{foreign:?}");

    // What differs there, and what is lost here.
    bucket.put_head(&format!("{kept}/00000000.tar.zst"), "short".into()).await.expect("altered");
    std::fs::remove_file(s.world.store_dir().join(format!("{kept}/manifest.jsonl"))).expect("lost");
    soon("both are incidents", async || {
        let told = s.world.incidents().await;
        told.iter().any(|i| i.starts_with("copy-differs: ") && i.contains("00000000.tar.zst' has"))
            && told.iter().any(|i| i.starts_with("store-lost: ") && i.contains("manifest.jsonl' is in the copy and not in the store"))
    })
    .await;
    soon("metrics say it", async || {
        let metrics = s.world.running().parts.metrics.text();
        ["exhibit_copy_wrong_objects 22", "exhibit_copy_missing_objects 0", "exhibit_copy_oldest_seconds 0"]
            .iter()
            .all(|line| metrics.lines().any(|l| l == *line))
    })
    .await;
    s.world.stop().await;
}
