//! The contract of [`Store`] as a program: every backend and every wrapper runs it. It panics with the broken promise.

use std::sync::Arc;

use bytes::Bytes;
use exhibit_evidence::Digest;

use super::{Kind, PAGE_ENTRIES_MAX, Payload, Store, list_all, self_test};

/// A promise of the contract, each with its own check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// A name that is taken stays as it is.
    CreateOnly,
    /// An object may be handed over in pieces.
    Pieces,
    /// Heads are replaced whole.
    Heads,
    /// Ranges and bounds of reading.
    Reads,
    /// What is not there is said to be absent, and nothing else is.
    Absence,
    /// Names that the layout could not write are refused.
    Names,
    /// What is destroyed is gone.
    Destruction,
    /// Listings are whole, in order and in pages.
    Listings,
    /// The start-up test holds, twice.
    SelfTest,
    /// Of several writers of one name one wins.
    OneWinner,
}

impl Promise {
    /// All, in the order in which they are checked: destruction before there are many objects, because a server may take long to
    /// list the versions of all of them.
    const ALL: [Self; 10] = [
        Self::CreateOnly,
        Self::Pieces,
        Self::Heads,
        Self::Reads,
        Self::Absence,
        Self::Names,
        Self::Destruction,
        Self::Listings,
        Self::SelfTest,
        Self::OneWinner,
    ];

    async fn check(self, store: Arc<dyn Store>, below: String) {
        let (store, below) = (&store, below.as_str());
        match self {
            Self::CreateOnly => create_only(&**store, below).await,
            Self::Pieces => pieces(&**store, below).await,
            Self::Heads => heads(&**store, below).await,
            Self::Reads => reads(&**store, below).await,
            Self::Absence => absence(&**store, below).await,
            Self::Names => names(&**store, below).await,
            Self::Destruction => destruction(&**store, below).await,
            Self::Listings => listings(&**store, below).await,
            Self::SelfTest => {
                self_test(&**store).await.expect("the start-up test holds");
                self_test(&**store).await.expect("the start-up test can be repeated");
            }
            Self::OneWinner => one_winner(store, below).await,
        }
    }
}

/// What one server is known to do otherwise.
#[derive(Debug, Clone, Copy)]
pub struct Deviation {
    /// Which promise it does not keep.
    pub promise: Promise,
    /// What its check then says, or a part of it: any other failure is a new one.
    pub seen: &'static str,
    /// Why it is so, and what it means for evidence.
    pub reason: &'static str,
}

/// Runs the whole suite below the folder `below`, which must not exist yet in the store.
///
/// # Panics
/// With all promises that the store does not keep.
pub async fn run(store: Arc<dyn Store>, below: &str) {
    run_with(store, below, &[]).await;
}

/// [`run`] for a server with known deviations. Each is checked like everything else and must be seen: nothing is skipped, and
/// one that went away is to be taken out of the list.
///
/// # Panics
/// With all promises that the store does not keep, or keeps though they are in the list.
pub async fn run_with(store: Arc<dyn Store>, below: &str, known: &[Deviation]) {
    let mut wrong = Vec::new();
    for promise in Promise::ALL {
        let deviation = known.iter().find(|d| d.promise == promise);
        // A task of its own: its panic is then a value.
        let done = tokio::spawn(promise.check(Arc::clone(&store), below.to_owned())).await;
        let broken = done.err().map(|e| e.try_into_panic().map_or_else(|e| e.to_string(), said));
        match (deviation, broken) {
            (None, None) => {}
            (None, Some(said)) => wrong.push(format!("{promise:?}: {said}")),
            (Some(d), Some(said)) if said.contains(d.seen) => {}
            (Some(d), Some(said)) => wrong.push(format!("{promise:?}: {said}\n  known is only '{}': {}", d.seen, d.reason)),
            (Some(d), None) => wrong.push(format!("{promise:?} is kept, take the deviation out: {}", d.reason)),
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", store.describe(), wrong.join("\n"));
}

/// The words of a panic.
fn said(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_else(|| "a panic without words".to_owned())
}

async fn put(store: &dyn Store, name: &str, content: &[u8]) -> Result<super::Stored, super::StoreError> {
    store.put_new(name, Payload::from(content.to_vec()), Digest::of(content)).await
}

async fn create_only(store: &dyn Store, below: &str) {
    let name = format!("{below}/create/00000000.tar.zst");
    assert!(!put(store, &name, b"first").await.expect("a new object").existed);
    assert!(put(store, &name, b"first").await.expect("the same again is success").existed);
    for other in [&b"other"[..], b"first!", b""] {
        assert_eq!(put(store, &name, other).await.expect_err("other content").kind(), Kind::Conflict, "{other:?}");
    }
    assert_eq!(store.get(&name, 100).await.expect("still there"), Bytes::from_static(b"first"), "a refused write changed the object");
    let empty = format!("{below}/create/empty");
    put(store, &empty, b"").await.expect("an empty object");
    assert_eq!((store.size(&empty).await.expect("size"), store.get(&empty, 0).await.expect("content")), (0, Bytes::new()));
}

async fn pieces(store: &dyn Store, below: &str) {
    let name = format!("{below}/pieces");
    let parts: Vec<Bytes> = (0..9_u8).map(|i| Bytes::from(vec![i; 1 << 18])).collect();
    let whole: Vec<u8> = parts.concat();
    store.put_new(&name, parts.into_iter().collect(), Digest::of(&whole)).await.expect("an object in pieces");
    assert_eq!(Digest::of(&store.get(&name, 4 << 20).await.expect("whole")), Digest::of(&whole));
}

async fn heads(store: &dyn Store, below: &str) {
    let name = format!("{below}/log/checkpoint");
    for content in ["one", "twenty two", ""] {
        store.put_head(&name, Bytes::from(content)).await.expect("replace");
        assert_eq!(store.get(&name, 100).await.expect("read"), Bytes::from(content));
    }
    let too_large = Bytes::from(vec![0; 65_537]);
    assert_eq!(store.put_head(&name, too_large).await.expect_err("too large").kind(), Kind::Bug);
}

async fn reads(store: &dyn Store, below: &str) {
    let name = format!("{below}/reads");
    let content: Vec<u8> = (0..100_000_u32).map(|i| (i % 251) as u8).collect();
    put(store, &name, &content).await.expect("write");
    assert_eq!(store.size(&name).await.expect("size"), 100_000);
    for range in [0..1, 0..100_000, 99_999..100_000, 1_000..70_000, 5..5, 100_000..100_000] {
        let expected = &content[range.start as usize..range.end as usize];
        assert_eq!(store.get_range(&name, range.clone()).await.expect("range"), expected, "{range:?}");
    }
    for range in [99_999..100_001, 100_000..100_001, 200_000..200_001] {
        let e = store.get_range(&name, range.clone()).await.expect_err("beyond the end");
        assert_eq!(e.kind(), Kind::Damaged, "{range:?}: {e}");
    }
    assert_eq!(store.get(&name, 99_999).await.expect_err("larger than allowed").kind(), Kind::Damaged);
    assert_eq!(store.get(&name, 100_000).await.expect("as large as allowed").len(), 100_000);
}

async fn absence(store: &dyn Store, below: &str) {
    put(store, &format!("{below}/absence/object"), b"x").await.expect("write");
    for name in [format!("{below}/absence/none"), format!("{below}/absence"), format!("{below}/absence/object/below")] {
        assert_eq!(store.get(&name, 10).await.expect_err("absent").kind(), Kind::NotFound, "get {name}");
        assert_eq!(store.get_range(&name, 0..1).await.expect_err("absent").kind(), Kind::NotFound, "get_range {name}");
        assert_eq!(store.get_range(&name, 0..0).await.expect_err("absent").kind(), Kind::NotFound, "empty get_range {name}");
        assert_eq!(store.size(&name).await.expect_err("absent").kind(), Kind::NotFound, "size {name}");
    }
}

async fn names(store: &dyn Store, below: &str) {
    let long = format!("{below}/{}", "a".repeat(1_024));
    for bad in
        ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "a/./b", ".staging/x", "a/.b", "A", "a b", "a\0b", "ä", "a\nb", "a\\b", &long]
    {
        assert_eq!(put(store, bad, b"x").await.expect_err("a bad name").kind(), Kind::Bug, "put_new {bad:?}");
        assert_eq!(store.put_head(bad, Bytes::new()).await.expect_err("a bad name").kind(), Kind::Bug, "put_head {bad:?}");
        assert_eq!(store.get(bad, 1).await.expect_err("a bad name").kind(), Kind::Bug, "get {bad:?}");
        assert_eq!(store.get_range(bad, 0..1).await.expect_err("a bad name").kind(), Kind::Bug, "get_range {bad:?}");
        assert_eq!(store.size(bad).await.expect_err("a bad name").kind(), Kind::Bug, "size {bad:?}");
        if !bad.is_empty() {
            assert_eq!(store.list(bad, None).await.expect_err("a bad name").kind(), Kind::Bug, "list {bad:?}");
            assert_eq!(store.folders(bad).await.expect_err("a bad name").kind(), Kind::Bug, "folders {bad:?}");
        }
    }
}

async fn listings(store: &dyn Store, below: &str) {
    let root = format!("{below}/list");
    assert!(list_all(store, &root, 10).await.expect("an absent folder is empty").is_empty());
    assert!(store.folders(&root).await.expect("and has no folders").is_empty());
    // '-' and '.' sort before '/', digits and letters after it: the order of full names is not the order of folders.
    let mut expected: Vec<String> = ["a/1", "a/b/2", "a-x", "a.x", "a0", "ab/c"].iter().map(|n| format!("{root}/{n}")).collect();
    expected.extend((0..PAGE_ENTRIES_MAX + 5).map(|n| format!("{root}/many/{n:010}.dsse.json")));
    for (i, name) in expected.iter().enumerate() {
        put(store, name, &vec![b'x'; i % 7]).await.expect("write");
    }
    put(store, &format!("{below}/list-neighbour"), b"x").await.expect("write");
    expected.sort_unstable();
    let listed = list_all(store, &root, 10_000).await.expect("list");
    assert_eq!(listed.iter().map(|e| e.name.clone()).collect::<Vec<_>>(), expected);
    for entry in listed.iter().take(20) {
        assert_eq!(entry.size, store.size(&entry.name).await.expect("size"), "{}", entry.name);
    }
    let first = store.list(&root, None).await.expect("a page");
    assert_eq!((first.entries.len(), first.more), (PAGE_ENTRIES_MAX, true));
    let cut = &expected[2];
    let rest = store.list(&root, Some(cut)).await.expect("a later page");
    assert_eq!(rest.entries.first().map(|e| &e.name), expected.get(3), "after {cut}");
    assert_eq!(store.folders(&root).await.expect("folders"), ["a", "ab", "many"]);
    assert_eq!(list_all(store, &root, 10).await.expect_err("bounded").kind(), Kind::Damaged);
}

/// What is destroyed is gone for every call, nothing else is, and doing it again is success.
async fn destruction(store: &dyn Store, below: &str) {
    let folder = format!("{below}/destroy");
    let [first, second, other] = ["a/s1/0", "a/s1/1", "b/0"].map(|n| format!("{folder}/{n}"));
    for name in [&first, &second, &other] {
        put(store, name, b"evidence").await.expect("write");
    }
    store.destroy(&first).await.expect("destroyed");
    assert_eq!(store.get(&first, 100).await.expect_err("gone").kind(), Kind::NotFound);
    assert_eq!(store.size(&first).await.expect_err("gone").kind(), Kind::NotFound);
    assert_eq!(store.get(&second, 100).await.expect("its neighbour stays"), Bytes::from_static(b"evidence"));
    store.destroy(&first).await.expect("again is success");
    store.destroy(&second).await.expect("destroyed");
    assert_eq!(store.folders(&folder).await.expect("folders"), ["b"], "no empty folder is left");
    let left: Vec<String> = list_all(store, &folder, 10).await.expect("list").into_iter().map(|e| e.name).collect();
    assert_eq!(left, [other]);
    store.destroy(&second).await.expect("again is success, its folder gone as well");
    store.destroy(&format!("{below}/never/was")).await.expect("what never was is gone");
    put(store, &first, b"another").await.expect("the name is free again");
    assert_eq!(store.destroy("../x").await.expect_err("a bad name").kind(), Kind::Bug);
}

/// Of several writers of one name exactly one wins, and the object is the winner's.
async fn one_winner(store: &Arc<dyn Store>, below: &str) {
    for slot in 0..10 {
        let name = format!("{below}/race/{slot:010}.dsse.json");
        let writers = (0..8_u8).map(|writer| {
            let (store, name) = (Arc::clone(store), name.clone());
            tokio::spawn(async move { (writer, put(&*store, &name, &[writer; 5_000]).await) })
        });
        let mut winner = None;
        for done in futures::future::join_all(writers).await {
            match done.expect("no panic") {
                (writer, Ok(stored)) => {
                    assert!(!stored.existed, "writer {writer} was told that its content was there before");
                    assert_eq!(winner.replace(writer), None, "two winners of {name}");
                }
                (writer, Err(e)) => assert_eq!(e.kind(), Kind::Conflict, "writer {writer}: {e}"),
            }
        }
        let winner = winner.expect("one of them wins");
        assert_eq!(store.get(&name, 10_000).await.expect("read"), vec![winner; 5_000]);
    }
}
