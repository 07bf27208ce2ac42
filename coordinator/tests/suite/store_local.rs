//! The local store: its contract, and what is special to a folder of files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use exhibit_coordinator::store::{Kind, LocalStore, Payload, Store, Trouble, conformance, self_test};
use exhibit_evidence::Digest;
use exhibit_evidence::id::CaseId;

async fn put(store: &LocalStore, name: &str, content: &'static [u8]) -> Result<bool, Kind> {
    store.put_new(name, Payload::from(content), Digest::of(content)).await.map(|s| s.existed).map_err(|e| e.kind())
}

fn mode(path: &Path) -> u32 {
    std::fs::symlink_metadata(path).expect("there").permissions().mode() & 0o7777
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(&dir.path().join("store")).expect("new store");
    conformance::run(Arc::new(store.clone()), "suite").await;
    let free = store.free_bytes().await.expect("free").expect("known");
    assert!(free > 0);
    // Nothing half-written stays behind a suite of successes and refusals.
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("store/.staging")).expect("staging").map(|e| e.expect("entry").file_name()).collect();
    assert_eq!(left, ["lock"]);
}

#[tokio::test]
async fn files_and_folders_are_private_and_objects_read_only() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().join("store");
    let store = LocalStore::create(&root).expect("new store");
    put(&store, "cases/x/object", b"x").await.expect("written");
    store.put_head("cases/x/head", bytes::Bytes::from_static(b"h")).await.expect("written");
    for (path, expected) in [(".", 0o700), ("cases", 0o700), ("cases/x", 0o700), ("cases/x/object", 0o400), ("cases/x/head", 0o600)] {
        assert_eq!(mode(&root.join(path)), expected, "{path}");
    }
}

#[tokio::test]
async fn a_store_is_made_explicitly_and_only_once() {
    let dir = tempfile::tempdir().expect("dir");
    assert_eq!(LocalStore::open(dir.path()).expect_err("no store").kind(), Kind::NotFound);
    assert_eq!(LocalStore::open(&dir.path().join("typo")).expect_err("no store").kind(), Kind::NotFound);
    assert!(!dir.path().join("typo").exists());
    drop(LocalStore::create(dir.path()).expect("an empty folder"));
    assert_eq!(LocalStore::create(dir.path()).expect_err("taken").kind(), Kind::Conflict);
}

#[tokio::test]
async fn a_folder_that_others_can_write_is_refused() {
    let dir = tempfile::tempdir().expect("dir");
    drop(LocalStore::create(dir.path()).expect("new store"));
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o770)).expect("chmod");
    let e = LocalStore::open(dir.path()).expect_err("writable for others");
    assert_eq!(e.kind(), Kind::Denied);
    assert!(e.remedy().contains("chmod go-w"), "{e}");
}

#[tokio::test]
async fn leftovers_are_swept_only_when_nobody_else_has_the_store() {
    let dir = tempfile::tempdir().expect("dir");
    let first = LocalStore::create(dir.path()).expect("new store");
    let leftover = dir.path().join(".staging/4711-0");
    std::fs::write(&leftover, b"half").expect("write");
    let second = LocalStore::open(dir.path()).expect("a second user");
    assert!(leftover.exists(), "it may be the first user's");
    drop((first, second));
    let third = LocalStore::open(dir.path()).expect("alone");
    assert!(!leftover.exists());
    put(&third, "a", b"x").await.expect("usable");
}

#[tokio::test]
async fn a_taken_staging_name_is_passed_over() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    std::fs::write(dir.path().join(format!(".staging/{}-0", std::process::id())), b"other").expect("write");
    assert_eq!(put(&store, "a", b"x").await, Ok(false));
    assert_eq!(std::fs::read(dir.path().join("a")).expect("object"), b"x");
}

#[tokio::test]
async fn what_is_not_ours_is_an_incident_not_an_absence() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    put(&store, "cases/x/object", b"x").await.expect("written");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("cases/x/link")).expect("link");
    assert_eq!(store.get("cases/x/link", 10_000).await.expect_err("a link").kind(), Kind::Damaged);
    assert_eq!(put(&store, "cases/x/link", b"y").await, Err(Kind::Damaged));
    assert_eq!(store.list("cases", None).await.expect_err("a link").kind(), Kind::Damaged);
    std::fs::remove_file(dir.path().join("cases/x/link")).expect("remove");
    std::fs::write(dir.path().join("cases/x/README"), b"hello").expect("write");
    std::fs::create_dir(dir.path().join("cases/a b")).expect("folder");
    // Such a name can take the place of nothing of ours: it is left out, named as long as it is there, and told once.
    for told in [1, 0] {
        let listed = store.list("cases", None).await.expect("listed").entries;
        assert_eq!(listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), ["cases/x/object"]);
        assert_eq!(store.folders("cases").await.expect("listed"), ["x"]);
        assert_eq!(store.foreign("cases"), ["cases/a b/", "cases/x/README"]);
        let troubles = store.troubles();
        let is_named = |t: &Trouble| t.kind == "store-foreign" && t.detail.contains("'cases/a b/'") && t.detail.contains("README");
        assert!(troubles.len() == told && troubles.iter().all(is_named), "{troubles:?}");
    }
    std::fs::remove_dir(dir.path().join("cases/a b")).expect("removed");
    store.list("cases", None).await.expect("listed");
    assert_eq!(store.foreign("cases"), ["cases/x/README"]);
    // Among the cases a link under what no case is called hides nothing; in the place of a case it may.
    std::os::unix::fs::symlink("/etc", dir.path().join("cases/link")).expect("link");
    let listed = store.list("", None).await.expect("listed").entries;
    assert_eq!(listed.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), ["cases/x/object"]);
    assert_eq!(store.folders("cases").await.expect("listed"), ["x"]);
    assert_eq!(store.foreign("cases"), ["cases/link", "cases/x/README"]);
    let case = CaseId::new(1, [2; 10]);
    std::os::unix::fs::symlink("/etc", dir.path().join(format!("cases/{case}"))).expect("link");
    assert_eq!(store.folders("cases").await.expect_err("a link").kind(), Kind::Damaged);
}

#[tokio::test]
async fn an_altered_object_is_a_conflict_for_its_own_writer() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    put(&store, "a/object", b"content").await.expect("written");
    let path = dir.path().join("a/object");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("chmod");
    std::fs::write(&path, b"CONTENT").expect("alter");
    assert_eq!(put(&store, "a/object", b"content").await, Err(Kind::Conflict));
    assert_eq!(std::fs::read(&path).expect("object"), b"CONTENT", "nothing is overwritten, not even damage");
}

/// A process that died between the rename and the sync of the folder: the object is there, its writer never heard of it.
#[tokio::test]
async fn an_earlier_try_counts_and_is_synced_again() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    std::fs::create_dir(dir.path().join("a")).expect("folder");
    std::fs::write(dir.path().join("a/object"), b"content").expect("write");
    assert_eq!(put(&store, "a/object", b"content").await, Ok(true));
}

#[tokio::test]
async fn a_folder_without_an_object_is_none() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    std::fs::create_dir_all(dir.path().join("cases/empty/log/seq")).expect("folders");
    put(&store, "cases/full/log/seq/0", b"x").await.expect("written");
    assert_eq!(store.folders("cases").await.expect("listed"), ["full"]);
    assert_eq!(store.folders("").await.expect("listed"), ["cases"]);
    std::fs::write(dir.path().join("cases/empty/log/seq/0"), b"x").expect("written");
    assert_eq!(store.folders("cases").await.expect("listed"), ["empty", "full"]);
}

/// Whoever finds a folder empty takes it away, and whoever writes into it at that moment makes it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_into_a_folder_that_goes_is_done() {
    let dir = tempfile::tempdir().expect("dir");
    let store = LocalStore::create(dir.path()).expect("new store");
    for _ in 0..100 {
        put(&store, "a/b/c/first", b"x").await.expect("written");
        let (destroyed, written) = tokio::join!(store.destroy("a/b/c/first"), put(&store, "a/b/c/second", b"y"));
        destroyed.expect("destroyed");
        assert_eq!(written, Ok(false));
        assert_eq!(store.get("a/b/c/second", 10).await.expect("there"), bytes::Bytes::from_static(b"y"));
        store.destroy("a/b/c/second").await.expect("destroyed");
    }
    put(&store, "b", b"x").await.expect("no disk failed");
}

/// Unmounted also when an assertion fails.
struct Mounted<'a>(&'a Path);

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0).output();
    }
}

/// A full disk in a small tmpfs; needs the right to mount, which test machines in containers often have.
#[tokio::test]
async fn a_full_disk_says_so_and_keeps_what_is_there() {
    let dir = tempfile::tempdir().expect("dir");
    let mounted = std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs"]).arg(dir.path()).output();
    if !mounted.is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: this user may not mount a tmpfs");
        return;
    }
    let _mounted = Mounted(dir.path());
    let store = LocalStore::create(dir.path()).expect("new store");
    self_test(&store).await.expect("there is room");
    put(&store, "a/small", b"x").await.expect("there is room");
    let big = vec![7_u8; 1 << 20];
    let e = store.put_new("a/big", Payload::from(big.clone()), Digest::of(&big)).await.expect_err("no room");
    assert_eq!(e.kind(), Kind::Full, "{e}");
    assert_eq!(store.get("a/big", 1 << 21).await.expect_err("not there").kind(), Kind::NotFound);
    let refused = store.put_new("cases/x/log/seq/0", Payload::from(big.clone()), Digest::of(&big)).await.expect_err("no room");
    assert!(refused.kind() == Kind::Full && !dir.path().join("cases").exists(), "nothing was made for it: {refused}");
    assert_eq!(put(&store, "a/other", b"y").await, Ok(false), "the failed write gave its room back");
}

/// Whether this process may set the attribute decides which of the two promises is tried: that it holds, or that a store that
/// asks for it in vain is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn immutable_files_keep_the_contract_and_everybody_out() {
    let dir = tempfile::tempdir().expect("dir");
    let root = dir.path().join("store");
    let store = LocalStore::create(&root).expect("new store");
    if let Err(e) = store.make_immutable() {
        assert!(e.kind() == Kind::Denied && e.remedy().contains("CAP_LINUX_IMMUTABLE"), "{e}");
        return;
    }
    conformance::run(Arc::new(store.clone()), "suite").await;
    put(&store, "cases/x/object", b"x").await.expect("written");
    let path = root.join("cases/x/object");
    let refused = [
        std::fs::remove_file(&path),
        std::fs::rename(&path, root.join("elsewhere")),
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)),
        std::fs::OpenOptions::new().append(true).open(&path).map(drop),
    ];
    assert!(refused.iter().all(|r| r.as_ref().is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)), "{refused:?}");
    // A later process that was told nothing takes the attribute off as well, when two people signed.
    let later = LocalStore::open(&root).expect("opens");
    later.destroy("cases/x/object").await.expect("destroyed");
    assert!(!path.exists());
    let cleared = std::process::Command::new("chattr").args(["-R", "-f", "-i"]).arg(&root).status().expect("chattr runs");
    assert!(cleared.success(), "the folder can be removed");
}
