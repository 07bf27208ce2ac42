//! A copy in a second store: an S3 server that fails now and then, beside a folder.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use exhibit_coordinator::catalog::{Catalog, CatalogError, faulty};
use exhibit_coordinator::config::{Config, CopyConfig, StoreConfig, StoreKind};
use exhibit_coordinator::copy::{Lag, Second, lag};
use exhibit_coordinator::init;
use exhibit_coordinator::serve::Upkeep;
use exhibit_coordinator::store::faulty::{Fault, Faults, FaultyStore, Op};
use exhibit_coordinator::store::{Kind, LocalStore, Payload, RemoteStore, Store, list_all};
use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{self, LogName, StreamNumber};
use exhibit_evidence::log::Checkpoint;
use exhibit_evidence::verify::Verdict;
use exhibit_evidence::{Digest, Timestamp};

use crate::custody_disposal::Story;
use crate::support::world::{Place, World};
use crate::support::{moto, verdict};

pub(crate) async fn soon(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(40), waited).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

/// Nothing is missing, and the heads are the same.
pub(crate) async fn is_whole(world: &World, copy: &dyn Store, logs: &[LogName]) -> bool {
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
    s.approve_unfinished(disposal).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_mounted_later_is_used_from_then_on_and_nothing_is_made_in_its_place() {
    let dir = tempfile::tempdir().expect("folder");
    let disk = dir.path().join("disk");
    let path = disk.join("exhibit");
    std::fs::create_dir(dir.path().join("store")).expect("folder");
    let store = StoreConfig { path: path.clone(), ..StoreConfig::default() };
    let copy = CopyConfig { store: Some(store), ..CopyConfig::default() };
    let config = Config { folder: dir.path().to_owned(), copy, ..Config::default() };
    let late = init::open_copy(&config).expect("no reason not to start").expect("a copy");
    let second = Second { store: late, every: Duration::from_secs(1), rate: None };
    let upkeep = Upkeep { copy: Some(second), verify: None };
    let mut s = Story::on(Place { upkeep, ..Place::default() }, 1).await;
    let told = async || s.world.incidents().await.into_iter().filter(|i| i.starts_with("copy-")).collect::<Vec<_>>();
    soon("it is told", async || !told().await.is_empty()).await;
    assert!(!disk.exists());
    std::fs::create_dir_all(&path).expect("mounted");
    let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
    soon("everything is in the copy", async || match LocalStore::open(&path) {
        Ok(there) => is_whole(&s.world, &there, &logs).await,
        Err(_) => false,
    })
    .await;
    let told = told().await;
    assert!(told.len() == 1 && told[0].starts_with("copy-failed: ") && told[0].contains("mount the disk"), "once: {told:?}");
    s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_away_for_a_while_is_used_again_and_its_mount_point_stays_empty() {
    let dir = tempfile::tempdir().expect("folder");
    let (path, unmounted) = (dir.path().join("copy"), dir.path().join("unmounted"));
    for folder in [&path, &dir.path().join("store")] {
        std::fs::create_dir(folder).expect("folder");
    }
    let store = StoreConfig { path: path.clone(), ..StoreConfig::default() };
    let copy = CopyConfig { store: Some(store), ..CopyConfig::default() };
    let config = Config { folder: dir.path().to_owned(), copy, ..Config::default() };
    let copy = init::open_copy(&config).expect("an empty folder").expect("a copy");
    let second = Second { store: Arc::clone(&copy), every: Duration::from_secs(1), rate: None };
    let upkeep = Upkeep { copy: Some(second), verify: None };
    let mut s = Story::on(Place { upkeep, ..Place::default() }, 1).await;
    let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
    let whole = async |s: &Story| match LocalStore::open(&path) {
        Ok(there) => is_whole(&s.world, &there, &logs).await,
        Err(_) => false,
    };
    soon("everything is in the copy", async || whole(&s).await).await;
    assert_eq!(s.world.incidents().await, Vec::<String>::new());

    // What an unmounted disk leaves: an empty folder.
    std::fs::rename(&path, &unmounted).expect("unmounted");
    std::fs::create_dir(&path).expect("a mount point");
    let refused = copy.destroy("cases/none").await.expect_err("an empty folder is no proof of absence");
    assert!(refused.kind() == Kind::Denied && refused.to_string().contains("copy.store.path"), "{refused}");
    let _ = s.ask(0).await;
    let told = async |s: &Story| s.world.incidents().await.into_iter().filter(|i| i.starts_with("copy-failed: ")).collect::<Vec<_>>();
    soon("it is told", async || !told(&s).await.is_empty()).await;
    let words = ["copy.store.path: ", "is empty, and the copy was in it", "mount the disk", "evidence is in the first store"];
    let said = told(&s).await;
    assert!(said.iter().any(|i| words.iter().all(|word| i.contains(word))), "{said:?}");
    assert_eq!(std::fs::read_dir(&path).expect("there").count(), 0, "nothing is made in its place");

    std::fs::remove_dir(&path).expect("empty");
    std::fs::rename(&unmounted, &path).expect("mounted again");
    soon("everything is in the copy again", async || whole(&s).await).await;
    s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn credentials_of_the_copy_that_are_not_there_yet_keep_nobody_from_starting() {
    use std::os::unix::fs::PermissionsExt as _;
    let server = moto::start_with_lock();
    let settings = server.settings("copy");
    let dir = tempfile::tempdir().expect("folder");
    let store = StoreConfig {
        kind: StoreKind::S3,
        bucket: settings.bucket.clone(),
        prefix: settings.prefix.clone(),
        region: settings.region.clone(),
        endpoint: settings.endpoint.clone(),
        dangerous_allow_http: settings.allow_http,
        access_key_id: settings.access_key_id.clone(),
        secret_access_key_file: Some("secret".into()),
        ..StoreConfig::default()
    };
    let copy = CopyConfig { store: Some(store), ..CopyConfig::default() };
    let config = Config { folder: dir.path().to_owned(), copy, ..Config::default() };
    let file = dir.path().join("secret");
    assert_eq!(config.copy_secret_away().as_ref(), Some(&file));
    let late = init::open_copy(&config).expect("no reason not to start").expect("a copy");
    let second = Second { store: late, every: Duration::from_secs(1), rate: None };
    let upkeep = Upkeep { copy: Some(second), verify: None };
    let mut s = Story::on(Place { upkeep, ..Place::default() }, 1).await;
    let told = async || s.world.incidents().await.into_iter().filter(|i| i.starts_with("copy-")).collect::<Vec<_>>();
    soon("it is told", async || !told().await.is_empty()).await;
    let said = told().await;
    assert!(said.len() == 1 && said[0].contains("the copy's secret") && said[0].contains(&*file.to_string_lossy()), "once: {said:?}");
    let staged = dir.path().join("staged");
    std::fs::write(&staged, settings.secret.clone().expect("a secret")).expect("written");
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(0o600)).expect("private");
    std::fs::rename(&staged, &file).expect("there");
    let bucket = RemoteStore::open(&settings).expect("settings");
    let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
    soon("everything is in the copy", async || is_whole(&s.world, &bucket, &logs).await).await;
    s.world.stop().await;
}

/// A deployment with a collection whose copy is a folder, once everything is in it.
struct Copied {
    s: Story,
    dir: tempfile::TempDir,
    copy: Arc<LocalStore>,
    /// What fails in the copy, and what was asked of it.
    faults: Faults,
    logs: [LogName; 2],
}

impl Copied {
    async fn every(every: Duration) -> Self {
        Self::every_on(every, Place::default()).await
    }

    async fn every_on(every: Duration, place: Place) -> Self {
        let dir = tempfile::tempdir().expect("folder");
        let copy = Arc::new(LocalStore::create(&dir.path().join("copy")).expect("store"));
        let faulty = FaultyStore::new(Arc::clone(&copy) as Arc<dyn Store>);
        let faults = faulty.faults.clone();
        let second = Second { store: Arc::new(faulty), every, rate: None };
        let upkeep = Upkeep { copy: Some(second), verify: None };
        let s = Story::on(Place { upkeep, ..place }, 1).await;
        let logs = [LogName::Deployment, LogName::Case(s.case.clone())];
        let copied = Self { s, dir, copy, faults, logs };
        copied.is_whole_soon().await;
        copied
    }

    async fn is_whole_soon(&self) {
        soon("everything is in the copy", async || is_whole(&self.s.world, &*self.copy, &self.logs).await).await;
    }

    /// How often everything was compared.
    fn compared(&self) -> usize {
        self.listed("cases")
    }

    fn listed(&self, folder: &str) -> usize {
        self.faults.calls().iter().filter(|(op, name)| *op == Op::List && name == folder).count()
    }

    async fn compare_again(&self, times: usize) {
        let wanted = self.compared() + times;
        soon("everything is compared again", async || self.compared() >= wanted).await;
    }

    async fn told(&self, kind: &str, has: &str) -> usize {
        self.s.world.incidents().await.iter().filter(|i| i.starts_with(kind) && i.contains(has)).count()
    }

    /// The three differences of the test below, never one of them twice.
    async fn three_are_told(&self) -> bool {
        let counts = [
            self.told("copy-differs: ", "the log was forked").await,
            self.told("copy-differs: ", "00000000.tar.zst' has").await,
            self.told("copy-source: ", "collections/large' has").await,
        ];
        assert!(counts.iter().all(|n| *n <= 1), "each is told once: {counts:?}");
        counts == [1; 3]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lasts_is_told_once_and_a_forked_head_in_the_copy_stays() {
    let mut c = Copied::every(Duration::from_secs(1)).await;
    let folder = format!("cases/{}", c.s.case);
    let segment = format!("{folder}/collections/{}/s1/00000000.tar.zst", c.s.collections[0].0);
    let parts = Arc::clone(&c.s.world.running().parts);
    // Signed with the log's own key, over another history: whoever wrote it there has the key.
    let forked = Checkpoint { origin: c.logs[1].origin(parts.deployment()), size: 2, root: Digest::of(b"another history") };
    let forked = Bytes::from(forked.sign(parts.ledgers.log_key()));
    c.copy.put_head(&c.logs[1].checkpoint(), forked.clone()).await.expect("written");
    c.copy.put_head(&segment, "short".into()).await.expect("altered");
    // What is too large to be ours is not read into memory.
    let large = format!("{folder}/collections/large");
    let file = std::fs::File::create(c.s.world.store_dir().join(&large)).expect("file");
    file.set_len((513 << 20) + 1).expect("holes");
    soon("all three are told", async || c.three_are_told().await).await;

    // What is told becomes a record, and the log that grew is looked at: that must come to an end.
    let log = parts.ledgers.case(&c.s.case).await.expect("log");
    soon("it is a record", async || !log.entries(0, &|e| e.kind == "incident:v1", 1).is_empty()).await;
    c.compare_again(3).await;
    let size = log.size();
    c.compare_again(2).await;
    assert!(c.three_are_told().await);
    assert_eq!(log.size(), size, "the log does not grow by what is known");
    assert!(size > 2);
    assert_eq!(c.copy.get(&c.logs[1].checkpoint(), 1 << 14).await.expect("head"), forked, "the log grew, and evidence stays");
    assert!(!c.s.world.faults.calls().iter().any(|(op, name)| *op == Op::Get && *name == large), "it was read");

    // What was gone and came back is news.
    std::fs::remove_file(c.dir.path().join("copy").join(&segment)).expect("removed");
    soon("it is copied again", async || c.copy.size(&segment).await.is_ok_and(|size| size > 5)).await;
    c.compare_again(2).await;
    c.copy.put_head(&segment, "short".into()).await.expect("altered");
    soon("it is told again", async || c.told("copy-differs: ", "00000000.tar.zst' has").await == 2).await;
    drop((log, parts));
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_copy_lost_is_put_back_and_told_also_after_a_restart() {
    let mut c = Copied::every(Duration::from_secs(1)).await;
    let root = c.dir.path().join("copy");
    let segment = format!("cases/{}/collections/{}/s1/00000000.tar.zst", c.s.case, c.s.collections[0].0);
    let lost = [segment, c.logs[1].slot(0)];
    c.compare_again(2).await;
    assert_eq!(c.told("copy-", "").await, 0, "what was never there is none of it: {:?}", c.s.world.incidents().await);
    for name in &lost {
        std::fs::remove_file(root.join(name)).expect("removed");
    }
    soon("it is told", async || c.told("copy-missing: ", "gone from the copy").await > 0).await;
    soon("both are there again", async || lost.iter().all(|name| root.join(name).exists())).await;
    c.compare_again(2).await;
    let told = c.told("copy-", "").await;
    assert_eq!(told, c.told("copy-missing: ", "the first: it was there").await, "{:?}", c.s.world.incidents().await);
    c.compare_again(2).await;
    assert_eq!(c.told("copy-", "").await, told, "once for each comparison that finds some");

    // All of a case, its head too, while nobody looks: what was written long before the last comparison was there.
    let catalog = Arc::clone(&c.s.world.running().parts.catalog);
    // Of a copy that was empty it is kept that nothing was in it.
    soon("how far it came is kept", async || kept(&*catalog).await.is_some_and(|before| before > Timestamp::from_unix_s(1))).await;
    drop(catalog);
    let missing = async |c: &Copied| c.told("copy-missing: ", "gone from the copy").await;
    let told = missing(&c).await;
    c.s.world.stop().await;
    let folder = format!("cases/{}", c.s.case);
    let first = LocalStore::open(&c.s.world.store_dir()).expect("store");
    for entry in list_all(&first, &folder, 1_000).await.expect("listed") {
        let file = std::fs::File::open(c.s.world.store_dir().join(&entry.name)).expect("there");
        file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1)).expect("written long ago");
    }
    drop(first);
    std::fs::remove_dir_all(root.join(&folder)).expect("removed");
    c.s.world.restart().await;
    soon("it is told once more", async || missing(&c).await > told).await;
    c.is_whole_soon().await;
    assert_eq!(c.told("store-", "").await, 0, "{:?}", c.s.world.incidents().await);
    c.s.world.stop().await;
}

/// What was written before was in the copy, as the catalog keeps it.
async fn kept(catalog: &dyn Catalog) -> Option<Timestamp> {
    let text = catalog.standing("copy").await.expect("read")?;
    let kept: serde_json::Value = serde_json::from_str(&text).expect("an object");
    Some(serde_json::from_value(kept["before"].clone()).expect("a moment"))
}

impl Copied {
    async fn kept(&self) -> Option<Timestamp> {
        kept(&*self.s.world.running().parts.catalog).await
    }

    /// From now on the catalog says so. A copier that runs has its own word.
    async fn keep(&self, before: Timestamp) {
        let place = FaultyStore::new(Arc::clone(&self.copy) as Arc<dyn Store>).describe();
        let text = serde_json::json!({ "place": place, "before": before }).to_string();
        self.s.world.running().parts.catalog.set_standing("copy", text).await.expect("kept");
    }

    fn segment(&self) -> String {
        format!("cases/{}/collections/{}/s1/00000000.tar.zst", self.s.case, self.s.collections[0].0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_put_back_is_told_before_everything_is_compared_again() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let segment = c.segment();
    std::fs::remove_file(c.dir.path().join("copy").join(&segment)).expect("removed");
    let compared = c.compared();
    // The log grows, so its folder is looked at.
    let _ = c.s.ask(0).await;
    soon("it is told", async || c.told("copy-missing: ", &segment).await == 1).await;
    assert_eq!(c.compared(), compared, "nothing else was compared");
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_comparison_that_a_folder_left_says_nothing_of_what_was_in_the_copy() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = Timestamp::from_unix_s(7);
    c.keep(before).await;
    let segment = c.segment();
    c.s.world.stop().await;
    std::fs::remove_file(c.dir.path().join("copy").join(&segment)).expect("removed");
    c.faults.fail(Op::PutNew, &segment, 0, 1, Fault::Before(Kind::Retry));
    c.s.world.restart().await;
    soon("it is told", async || c.told("copy-missing: ", "gone from the copy").await == 1).await;
    c.is_whole_soon().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(c.kept().await, Some(before), "its folder was copied outside of the comparison");
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_none_of_ours_yet_is_not_taken_for_copied() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    c.keep(Timestamp::from_unix_s(0)).await;
    // Of a collection that is sealed, and in none of its manifests.
    let stranger = layout::segment(&c.s.case, &c.s.collections[0].0, StreamNumber(1), 7);
    let stranger = c.s.world.store_dir().join(stranger);
    std::fs::write(&stranger, "junk").expect("written");
    let file = std::fs::File::options().append(true).open(&stranger).expect("there");
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_000)).expect("written long ago");
    let nothing = Some(Timestamp::from_unix_s(0));
    // A comparison beside which a log grows says nothing of when all was there.
    for _ in 0..5 {
        c.s.world.restart().await;
        tokio::time::sleep(Duration::from_secs(4)).await;
        if c.kept().await != nothing {
            break;
        }
    }
    assert_eq!(c.kept().await, Some(Timestamp::from_unix_s(1_000)), "{:?}", c.s.world.incidents().await);
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_copy_that_was_emptied_nothing_is_remembered_after_another_restart() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    // The last comparison was before anything below.
    c.keep(Timestamp::from_unix_s(4_000_000_000)).await;
    c.s.world.stop().await;
    for folder in ["cases", "deployment"] {
        std::fs::remove_dir_all(c.dir.path().join("copy").join(folder)).expect("emptied, but for its mark");
    }
    c.faults.fail(Op::PutNew, "cases/", 0, 100_000, Fault::Before(Kind::Denied));
    c.s.world.restart().await;
    soon("nothing was in it", async || c.kept().await == Some(Timestamp::from_unix_s(0))).await;
    let slot = LogName::Deployment.slot(0);
    soon("it is being copied", async || c.copy.size(&slot).await.is_ok()).await;
    c.s.world.stop().await;
    c.faults.heal();
    c.s.world.restart().await;
    c.is_whole_soon().await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(c.told("copy-missing: ", "").await, 0, "{:?}", c.s.world.incidents().await);
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_catalog_did_not_take_is_told_by_the_next_look() {
    let faults = faulty::Faults::default();
    let place = Place { catalog_faults: Some(faults.clone()), ..Place::default() };
    let mut c = Copied::every_on(Duration::from_secs(1), place).await;
    let segment = format!("cases/{}/collections/{}/s1/00000000.tar.zst", c.s.case, c.s.collections[0].0);
    faults.fail("add_incident", 0, 2, faulty::Fault::Before(CatalogError::Busy("injected".to_owned())));
    c.copy.put_head(&segment, "short".into()).await.expect("altered");
    c.copy.put_new("cases/junk/x", Payload::from_static(b"junk"), Digest::of(b"junk")).await.expect("written");
    soon("what differs is told", async || c.told("copy-differs: ", "00000000.tar.zst' has").await == 1).await;
    soon("what is foreign is told", async || c.told("copy-foreign: ", "1 objects are in the copy").await == 1).await;
    c.compare_again(2).await;
    assert_eq!(c.told("copy-", "").await, 2, "each is told once: {:?}", c.s.world.incidents().await);
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_an_error_only_what_failed_is_looked_at_again() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    let other = c.s.world.open_case().await;
    let other = LogName::Case(other.case_id.parse().expect("id"));
    soon("the other case is in the copy", async || is_whole(&c.s.world, &*c.copy, std::slice::from_ref(&other)).await).await;
    c.is_whole_soon().await;
    // What grew last is looked at within seconds, though everything is there.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let other = other.folder();
    let other = other.strip_suffix("/log").expect("a log's folder");
    let before = (c.compared(), c.listed(other));
    assert_eq!(before.0, 1, "at the start");
    c.faults.fail(Op::PutHead, &c.logs[1].checkpoint(), 0, 2, Fault::Before(Kind::Retry));
    let _ = c.s.ask(0).await;
    c.is_whole_soon().await;
    let failed = c.faults.calls().iter().filter(|(op, name)| *op == Op::PutHead && name == "probe/head").count();
    assert!(failed >= 3, "it was away twice: {failed}");
    assert_eq!((c.compared(), c.listed(other)), before, "nothing else was listed again");
    assert_eq!(c.s.world.incidents().await, Vec::<String>::new());
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_store_that_refuses_whoever_asks_is_told_at_once_and_once() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    c.faults.fail(Op::PutHead, "", 0, 1_000_000, Fault::Unheard);
    let _ = c.s.ask(0).await;
    soon("it is told", async || c.told("copy-failed: ", "injected fault").await > 0).await;
    // The record of it makes another log grow, and the start of the copy is tried in the meantime.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!((c.told("copy-failed: ", "").await, c.told("copy-away: ", "").await), (1, 0), "{:?}", c.s.world.incidents().await);
    c.faults.heal();
    c.is_whole_soon().await;
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_no_seal_names_is_told_and_not_copied_and_what_cannot_be_told_is() {
    let mut c = Copied::every(Duration::from_secs(1)).await;
    let (case, sealed) = (c.s.case.clone(), c.s.collections[0].0.clone());
    let segment = |collection: &CollectionId, stream, n| layout::segment(&case, collection, StreamNumber(stream), n);
    let junk = [
        segment(&sealed, 1, 7),
        segment(&sealed, 9, 0),
        layout::manifest(&case, &sealed, StreamNumber(9)),
        format!("{}/tile/0/999", c.logs[1].folder()),
    ];
    // Of a collection that is not sealed nobody can say what its seal is going to name.
    let untold = segment(&CollectionId::from_digest(&Digest::of(b"not sealed")), 1, 0);
    let write = |name: &String| {
        let path = c.s.world.store_dir().join(name);
        std::fs::create_dir_all(path.parent().expect("above")).expect("folder");
        std::fs::write(path, "junk").expect("written");
    };
    junk.iter().chain([&untold]).for_each(write);
    for name in &junk {
        soon(name, async || c.told("store-foreign: ", &format!("'{name}': ")).await > 0).await;
    }
    soon("what cannot be told is copied", async || c.copy.size(&untold).await.is_ok()).await;
    // What is told makes the log grow, so that the folder is looked at again, and the head is not held back.
    soon("the copy has the newest head", async || {
        let first = LocalStore::open(&c.s.world.store_dir()).expect("store");
        let (here, there) = (first.get(&c.logs[1].checkpoint(), 1 << 14).await, c.copy.get(&c.logs[1].checkpoint(), 1 << 14).await);
        here.expect("head") == there.expect("head")
    })
    .await;
    c.compare_again(2).await;
    for name in &junk {
        assert_eq!(c.copy.size(name).await.expect_err("not copied").kind(), Kind::NotFound, "{name}");
        assert_eq!(c.told("store-foreign: ", &format!("'{name}': ")).await, 1, "{name} is told once");
    }
    soon("nothing is missing", async || {
        let metrics = c.s.world.running().parts.metrics.text();
        metrics.lines().any(|line| line == "exhibit_copy_missing_objects 0")
    })
    .await;
    c.s.world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_of_witnesses_are_walked_a_page_at_a_time() {
    let mut c = Copied::every(Duration::from_hours(1)).await;
    let folder = c.logs[1].cosigned_folder();
    let (heads, missing) = (1_500, 10);
    for (root, from) in [(c.s.world.store_dir(), 0), (c.dir.path().join("copy"), missing)] {
        let folder = root.join(&folder).join("0a1b2c3d");
        std::fs::create_dir_all(&folder).expect("folder");
        for n in from..heads {
            std::fs::write(folder.join(format!("{n:010}")), "a head").expect("written");
        }
    }
    // Its record makes the log grow.
    let _ = c.s.ask(0).await;
    c.is_whole_soon().await;
    let calls = c.faults.calls();
    let first_written = calls.iter().position(|(op, name)| *op == Op::PutHead && name.starts_with(&folder)).expect("written");
    let last_listed = calls.iter().rposition(|(op, name)| *op == Op::List && *name == folder).expect("listed");
    assert!(first_written < last_listed, "all of them were listed before the first one was copied");
    c.s.world.stop().await;
}
