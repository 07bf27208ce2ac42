//! Which second store is the copy: what stands in its place is not written, nothing counts as destroyed there, and what lies in the copy
//! of a collection that was destroyed is destroyed.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::config::{Config, CopyConfig, StoreConfig};
use exhibit_coordinator::copy::{self, Second};
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::check::{self, State};
use exhibit_coordinator::store::{LocalStore, Payload, Store};
use exhibit_coordinator::{clock, init};
use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::layout::LogName;

use crate::copy_second::{is_whole, soon};
use crate::custody_disposal::Story;
use crate::support::world::Place;

/// A deployment with a sealed collection and a copy that is compared every second, once everything is in it.
async fn copied(copy: Arc<dyn Store>, path: &Path) -> Story {
    let second = Second { store: copy, every: Duration::from_secs(1), rate: None };
    let upkeep = Upkeep { copy: Some(second), verify: None };
    let s = Story::on(Place { upkeep, ..Place::default() }, 1).await;
    let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
    soon("everything is in the copy", async || match LocalStore::open(path) {
        Ok(there) => is_whole(&s.world, &there, &logs).await,
        Err(_) => false,
    })
    .await;
    s
}

async fn told(s: &Story, kind: &str, has: &str) -> usize {
    s.world.incidents().await.iter().filter(|i| i.starts_with(kind) && i.contains(has)).count()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten() {
        let path = entry.expect("entry").path();
        if path.is_dir() { all.extend(files(&path)) } else { all.push(path) }
    }
    all.sort();
    all
}

/// What `store check` says of the copy, as a program of its own.
async fn checked(s: &Story, config: &Config) -> (State, String) {
    let first = LocalStore::open(&s.world.store_dir()).expect("store");
    let copy = init::open_copy(config).expect("no reason not to look").expect("a copy");
    let mut report = check::run(&first, None, clock::now()).await;
    copy::check(&mut report, Arc::new(first), copy, None).await;
    let line = report.checks.last().expect("a line");
    assert_eq!(line.what, "copy", "{}", report.text());
    (line.state, line.detail.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_in_the_place_of_the_copy_is_not_written_and_a_disposal_waits_for_the_copy() {
    let dir = tempfile::tempdir().expect("folder");
    let (path, unmounted) = (dir.path().join("copy"), dir.path().join("unmounted"));
    for folder in [&path, &dir.path().join("store")] {
        std::fs::create_dir(folder).expect("folder");
    }
    let store = StoreConfig { path: path.clone(), ..StoreConfig::default() };
    let copy = CopyConfig { store: Some(store), ..CopyConfig::default() };
    let config = Config { folder: dir.path().to_owned(), copy, ..Config::default() };
    let copy = init::open_copy(&config).expect("an empty folder").expect("a copy");
    assert!(files(&path).is_empty(), "only the coordinator knows whether a copy is begun here");
    let mut s = copied(copy, &path).await;
    assert_eq!(checked(&s, &config).await.0, State::Holds);

    // The disk is away: `store check` does not make its mount point look like a copy.
    std::fs::rename(&path, &unmounted).expect("unmounted");
    std::fs::create_dir(&path).expect("a mount point");
    let (state, detail) = checked(&s, &config).await;
    assert!(state == State::Missing && detail.contains("is empty, and the copy was in it"), "{detail}");
    assert_eq!(std::fs::read_dir(&path).expect("there").count(), 0);

    // A copy that was begun under the disk once, with the same first record.
    let first = LocalStore::open(&s.world.store_dir()).expect("store");
    let slot = LogName::Deployment.slot(0);
    let record = first.get(&slot, 1 << 20).await.expect("record");
    let under = LocalStore::create(&path).expect("store");
    under.put_new(&slot, Payload::from(record.clone()), Digest::of(&record)).await.expect("written");
    drop(under);
    let begun = files(&path);
    let collection = format!("cases/{}/collections/{}", s.case, s.collections[0].0);
    let disposal = s.ask(0).await;
    let here = files(&s.world.store_dir().join(&collection));
    let why = s.approve_unfinished(disposal).await;
    assert!(why.contains("copy"), "{why}");
    assert_eq!(files(&s.world.store_dir().join(&collection)), here, "nothing is begun while the copy is away");
    assert!(!here.is_empty());
    soon("it is told", async || told(&s, "copy-failed: ", "has no probe/copy-mark").await > 0).await;
    let (state, detail) = checked(&s, &config).await;
    assert!(state == State::Missing && detail.contains("has no probe/copy-mark"), "{detail}");
    assert_eq!(files(&path), begun, "nothing is copied under the disk");
    assert!(!files(&unmounted.join(&collection)).is_empty(), "the evidence is on the disk");

    std::fs::remove_dir_all(&path).expect("removed");
    std::fs::rename(&unmounted, &path).expect("mounted again");
    soon("it is destroyed there", async || files(&path.join(&collection)).is_empty()).await;
    s.certified(0).await;
    s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_certified_as_destroyed_and_lies_in_the_copy_is_told_and_destroyed() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("copy");
    let copy = LocalStore::create(&path).expect("store");
    let mut s = copied(Arc::new(copy), &path).await;
    let collection = path.join(format!("cases/{}/collections/{}", s.case, s.collections[0].0));
    let aside = dir.path().join("aside");
    let done = std::process::Command::new("cp").arg("-r").arg(&collection).arg(&aside).status().expect("cp");
    assert!(done.success() && !files(&aside).is_empty());
    let disposal = s.ask(0).await;
    s.approve(disposal).await.expect("destroyed");
    s.certified(0).await;
    assert!(files(&collection).is_empty());

    // The disk as it was before.
    std::fs::create_dir_all(collection.parent().expect("above")).expect("folder");
    std::fs::rename(&aside, &collection).expect("brought back");
    soon("it is told", async || told(&s, "copy-undestroyed: ", "was certified as destroyed at").await > 0).await;
    soon("it is destroyed", async || files(&collection).is_empty()).await;
    assert_eq!(told(&s, "copy-undestroyed: ", "").await, 1, "once for the collection: {:?}", s.world.incidents().await);
    assert_eq!(told(&s, "store-lost: ", "").await, 0);
    s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_without_a_mark_gets_one_once_and_one_that_lost_it_is_refused_until_it_is_back() {
    let dir = tempfile::tempdir().expect("folder");
    let path = dir.path().join("copy");
    let copy = LocalStore::create(&path).expect("store");
    let mut s = copied(Arc::new(copy), &path).await;
    let mark = path.join("probe/copy-mark");
    let probes = s.world.store_dir().join("probe");
    let memory =
        || files(&probes).into_iter().find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("copy-")));
    // As a version without marks left both.
    s.world.stop().await;
    std::fs::remove_file(&mark).expect("marked");
    std::fs::remove_file(memory().expect("remembered")).expect("removed");
    s.world.restart().await;
    soon("it is marked and remembered", async || mark.exists() && memory().is_some()).await;
    let remembered = std::fs::read(memory().expect("remembered")).expect("read");
    assert_eq!(std::fs::read(&mark).expect("read"), remembered);

    s.world.stop().await;
    std::fs::remove_file(&mark).expect("removed");
    s.world.restart().await;
    soon("it is told", async || told(&s, "copy-failed: ", "has no probe/copy-mark").await > 0).await;
    let case: CaseId = s.world.open_case().await.case_id.parse().expect("id");
    let copied = path.join(LogName::Case(case).slot(0));
    assert!(!mark.exists() && !copied.exists(), "it is not marked a second time");
    std::fs::write(&mark, remembered).expect("put back");
    soon("it goes on", async || copied.exists()).await;
    s.world.stop().await;
}
