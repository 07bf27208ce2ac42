//! Locked evidence on Azure and Google, and what somebody tries there who holds the coordinator's own credentials.
//!
//! Neither cloud was ever asked. What answers is made by their references (`support/azure.py` in front of Azurite,
//! `support/google.py` in front of moto): it shows that requests and readings are those of the reference, and what becomes of
//! evidence when a cloud does what its reference says.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::clock;
use exhibit_coordinator::store::attest::{Pass, Report, Task};
use exhibit_coordinator::store::check::{self, State};
use exhibit_coordinator::store::conformance::{self, Deviation, Promise};
use exhibit_coordinator::store::{
    Kind, LockMode, LockPolicy, Payload, Protection, RemoteSettings, RemoteStore, Store, StoreError, Stored, list_all,
};
use exhibit_evidence::Digest;
use exhibit_evidence::id::{CaseId, CollectionId};

use crate::support::clouds::{self, Front};
use crate::support::moto::{self, Server};

const DAY_S: i64 = 86_400;

/// What somebody does who holds the coordinator's credentials, without its program.
enum Deed<'a> {
    DeleteVersion(&'a str),
    Delete,
    Write(&'a str),
}

/// A reference, asked by hand: the status of its answer.
trait Cloud {
    fn does(&self, name: &str, deed: &Deed<'_>) -> u16;
}

impl Cloud for Front {
    fn does(&self, name: &str, deed: &Deed<'_>) -> u16 {
        let name = format!("below/here/{name}");
        match deed {
            Deed::DeleteVersion(version) => self.send("DELETE", &name, &format!("?versionid={version}"), "", ""),
            Deed::Delete => self.send("DELETE", &name, "", "", ""),
            Deed::Write(content) => self.send("PUT", &name, "", "x-ms-blob-type: BlockBlob\r\n", content),
        }
    }
}

impl Cloud for Server {
    fn does(&self, name: &str, deed: &Deed<'_>) -> u16 {
        let object = format!("below/here/{name}").replace('/', "%2F");
        let object = format!("/storage/v1/b/evidence/o/{object}");
        match deed {
            Deed::DeleteVersion(version) => self.send("DELETE", &format!("{object}?generation={version}"), "", "").0,
            Deed::Delete => self.send("DELETE", &object, "", "").0,
            Deed::Write(content) => self.send("PUT", &format!("/evidence/below/here/{name}"), "", content).0,
        }
    }
}

fn open(settings: &RemoteSettings, mode: LockMode) -> RemoteStore {
    let lock = Some(LockPolicy { mode, days: 10 });
    RemoteStore::open(&RemoteSettings { lock, ..settings.clone() }).expect("settings")
}

async fn put(store: &dyn Store, name: &str, content: &'static [u8]) -> Result<Stored, StoreError> {
    store.put_new(name, Payload::from_static(content), Digest::of(content)).await
}

async fn pass(store: &RemoteStore, begin: &str, repair: bool) -> Report {
    let task = Task { begin: begin.to_owned(), repair, pause: Duration::ZERO, now: clock::now() };
    Pass::new(store.attestable().expect("versions"), task).run().await.expect("attested")
}

fn kinds(report: &Report) -> Vec<&'static str> {
    report.troubles.iter().map(|t| t.kind).collect()
}

/// The story of `store_lock`, as far as it is the same where deletion leaves no marker.
async fn what_is_locked_stays(cloud: &dyn Cloud, settings: &RemoteSettings) {
    let store = open(settings, LockMode::Compliance);
    let (case, collection) = (CaseId::new(1, [2; 10]), CollectionId::from_digest(&Digest::of(b"held")));
    let [name, hidden] = [0, 1].map(|n| format!("cases/{case}/collections/{collection}/s1/{n:08}.tar.zst"));
    let far = clock::now().plus_s(40 * DAY_S);
    let held = |until| Protection { until: Some(until), held_collections: BTreeSet::from([collection.clone()]), ..Protection::default() };
    store.protect(&case, held(far));
    let version = put(&store, &name, b"genuine").await.expect("written").version.expect("versions are kept");
    assert_eq!(put(&store, &name, b"genuine").await.expect("again").version.as_ref(), Some(&version), "the same version is meant");
    put(&store, &hidden, b"hidden").await.expect("written");
    let slot = "deployment/log/seq/0000000000.dsse.json";
    let slot_version = put(&store, slot, b"record").await.expect("written").version.expect("version");
    let head = "deployment/log/checkpoint";
    for content in ["one", "two", "three"] {
        store.put_head(head, content.into()).await.expect("a locked head is replaced");
    }

    // The head of a held case is replaced after attestation has looked at it, too.
    let all_held = CaseId::new(2, [3; 10]);
    store.protect(&all_held, Protection { held: true, ..Protection::default() });
    for content in ["one", "two"] {
        store.put_head(&format!("cases/{all_held}/log/checkpoint"), content.into()).await.expect("the head of a held case is replaced");
        assert_eq!(kinds(&pass(&store, &format!("cases/{all_held}/"), true).await), [""; 0]);
    }

    // As custody and the policy ask, each by its own version.
    let vault = store.attestable().expect("versions").vault;
    let seen = vault.lock_of(&name, &version).await.expect("looks");
    assert_eq!((seen.mode, seen.hold), (Some(LockMode::Compliance), true));
    assert!(seen.until.is_some_and(|until| until.plus_s(1) >= far), "the case's retention is the later one: {seen}");
    let kept = vault.lock_of(slot, &slot_version).await.expect("looks");
    let ten_days = clock::now().plus_s(10 * DAY_S);
    assert_eq!((kept.mode, kept.hold), (Some(LockMode::Compliance), false));
    assert!(kept.until.is_some_and(|until| until <= ten_days.plus_s(2) && until.plus_s(120) >= ten_days), "{kept}");
    let heads = vault.versions_of(head).await.expect("listed");
    assert_eq!(heads.len(), 3, "each head that was signed stays: {heads:?}");
    for old in &heads {
        assert_eq!(vault.lock_of(head, &old.version).await.expect("looks").mode, Some(LockMode::Compliance), "{old:?}");
    }
    assert_eq!(kinds(&pass(&store, "", false).await), [""; 0], "all is well");

    // Somebody sets a hold on heads, so that the logs cannot go on: attestation takes it off, and so does the next record.
    let held_head = format!("cases/{all_held}/log/checkpoint");
    for head in [head, held_head.as_str()] {
        let newest = async || vault.versions_of(head).await.expect("listed").into_iter().find(|v| v.latest).expect("current").version;
        vault.hold(head, &newest().await, true).await.expect("set");
        let looked = pass(&store, "", false).await;
        assert!(looked.to_release.is_empty() && kinds(&looked) == ["store-lock"], "{looked:#?}");
        let repaired = pass(&store, "", true).await;
        assert_eq!((repaired.holds_released, kinds(&repaired)), (1, vec!["store-lock"]));
        assert!(repaired.troubles[0].detail.contains("it was taken off"), "{repaired:#?}");
        assert!(!vault.lock_of(head, &newest().await).await.expect("looks").hold);
        vault.hold(head, &newest().await, true).await.expect("set");
        store.put_head(head, "goes on".into()).await.expect("the log does not stand still");
        let troubles = store.troubles();
        assert!(troubles.len() == 1 && troubles[0].detail.contains("could not be replaced; it was taken off"), "{troubles:?}");
        assert_eq!(kinds(&pass(&store, "", false).await), [""; 0]);
    }

    // The holder of the credentials.
    assert!(cloud.does(&name, &Deed::DeleteVersion(&version)) >= 400, "the lock; the same credentials hide it below");
    for (mode, bypass) in [(LockMode::Compliance, false), (LockMode::Governance, true)] {
        let e = vault.retain(slot, &slot_version, mode, clock::now().plus_s(DAY_S), bypass).await.expect_err("never shorter");
        assert_eq!((e.kind(), vault.lock_of(slot, &slot_version).await.expect("looks")), (Kind::Denied, kept), "{e}");
    }
    assert_eq!(put(&store, &name, b"forgery").await.expect_err("taken").kind(), Kind::Conflict);
    assert_eq!(store.destroy(&name).await.expect_err("locked").kind(), Kind::Denied);
    assert_eq!(open(settings, LockMode::Compliance).get(&name, 100).await.expect("a refused disposal hides nothing"), "genuine");
    for hides in [&name, &hidden] {
        assert!((200..300).contains(&cloud.does(hides, &Deed::Delete)), "{hides}");
    }
    assert!((200..300).contains(&cloud.does(&name, &Deed::Write("forgery"))), "the name is free");
    assert!(cloud.does(&name, &Deed::DeleteVersion(&version)) >= 400, "locked, under another one too");

    // Who wrote it reads by version. A later process is deceived until it has looked, and then never again.
    assert_eq!(store.get(&name, 100).await.expect("read"), "genuine");
    let later = open(settings, LockMode::Compliance);
    assert_eq!(later.get(&name, 100).await.expect("read"), "forgery");
    // Where nothing is seen the versions are looked at, and what they say is told.
    assert_eq!((later.get(&hidden, 100).await.expect("read"), later.size(&hidden).await.expect("size")), ("hidden".into(), 6));
    assert_eq!(later.troubles().iter().map(|t| t.kind).collect::<Vec<_>>(), ["store-marker"]);
    let listed = list_all(&later, &format!("cases/{case}/collections"), 10).await.expect("listed");
    assert_eq!(listed.into_iter().map(|e| e.name).collect::<Vec<_>>(), [name.clone(), hidden.clone()]);
    let looked = pass(&later, "", false).await;
    assert_eq!(kinds(&looked), ["store-marker", "store-version"], "{looked:#?}");
    assert!(looked.troubles[0].detail.contains(&hidden) && looked.troubles[1].detail.contains(&version), "{looked:#?}");
    assert_eq!(later.get(&name, 100).await.expect("read"), "genuine");
    assert_eq!((later.get(&hidden, 100).await.expect("read"), later.size(&hidden).await.expect("size")), ("hidden".into(), 6));

    // The case is to be kept longer, then its hold is released.
    let (farther, below) = (clock::now().plus_s(80 * DAY_S), format!("cases/{case}/"));
    later.protect(&case, held(farther));
    assert_eq!(pass(&later, &below, true).await.set_again, 2);
    let seen = vault.lock_of(&name, &version).await.expect("looks");
    assert!(seen.hold && seen.mode == Some(LockMode::Compliance) && seen.until.is_some_and(|until| until.plus_s(1) >= farther), "{seen}");
    later.protect(&case, Protection { until: Some(farther), ..Protection::default() });
    assert_eq!(pass(&later, &below, true).await.holds_released, 2);
    assert!(!vault.lock_of(&name, &version).await.expect("looks").hold);
    // What is being destroyed may look hidden: on Azure that takes two steps.
    assert_eq!(kinds(&pass(&later, &below, false).await), ["store-marker", "store-version"]);
    let condemned = BTreeSet::from([collection.clone()]);
    later.protect(&case, Protection { until: Some(farther), condemned, ..Protection::default() });
    assert_eq!(kinds(&pass(&later, &below, false).await), ["store-version"]);

    // What nothing locks is destroyed with all of its versions, the current one included.
    // In more than one page, where pages are short.
    for content in ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"] {
        store.put_head("probe/head", content.into()).await.expect("the probes of a start are not locked");
    }
    store.destroy("probe/head").await.expect("destroyed");
    assert!(vault.versions_of("probe/head").await.expect("listed").is_empty());
}

/// What `store check` says of a reference, by the mode of the lock: what is missing, and what becomes of a held object that is written
/// again.
async fn checked(settings: &RemoteSettings, mode: LockMode, missing: &[&str], over_held: &str) {
    let report = check::run(&open(settings, mode), Some(LockPolicy { mode, days: 10 }), clock::now()).await;
    let held = report.checks.iter().find(|c| c.what == "held-overwrite").expect("tried");
    assert!(held.state == State::Holds && held.detail.contains(over_held) && held.detail.contains("no hold here"), "{held:?}");
    let tried =
        ["versioning", "object-lock", "lock", "overwrite", "shorten", "bypass-shorten", "delete-version", "bypass-delete", "delete-marker"];
    for what in tried {
        let expected = if missing.contains(&what) { State::Missing } else { State::Holds };
        assert_eq!(report.state(what), Some(expected), "{what} of {mode:?}\n{}", report.text());
    }
    assert!(!report.text().contains(settings.secret.as_deref().expect("a secret")) && !report.text().contains("s3-writer"));
}

/// The whole contract with locks: only destruction is otherwise, as it must be.
async fn keeps_the_contract(settings: &RemoteSettings) {
    let reason = "a locked object is not destroyed before its day";
    let locked = Deviation { promise: Promise::Destruction, seen: "destroyed: ", reason };
    conformance::run_with(Arc::new(open(settings, LockMode::Compliance)), "suite", &[locked]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_on_azure_stays_and_what_hides_it_is_told_and_passed_over() {
    let (front, settings) = clouds::azure_with_lock();
    what_is_locked_stays(&front, &settings).await;
    // The key of another account, by the way, opens nothing.
    let stranger = RemoteSettings { secret: Some("c3RyYW5nZXI=".to_owned()), ..settings };
    let e = put(&open(&stranger, LockMode::Compliance), "cases/x", b"x").await.expect_err("signatures are looked at");
    assert!(e.needs_a_person() && e.word() == "denied", "{e}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_locked_on_google_stays_and_what_hides_it_is_told_and_passed_over() {
    let server = moto::start_as_google_with_lock();
    what_is_locked_stays(&server, &server.google_settings("below/here")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_s_lock_is_tried_on_a_probe_and_its_contract_kept() {
    let (_front, settings) = clouds::azure_with_lock();
    checked(&settings, LockMode::Compliance, &["overwrite", "delete-marker"], "is refused").await;
    // Who may set an unlocked policy may shorten it and take it off.
    let weak = ["overwrite", "delete-marker", "shorten", "bypass-shorten", "bypass-delete"];
    checked(&settings, LockMode::Governance, &weak, "is refused").await;
    keeps_the_contract(&settings).await;
    // The other reading of what a hold forbids: nothing of ours rests on which one it is.
    let (_front, settings) = clouds::azure_where_a_held_blob_is("covered");
    checked(&settings, LockMode::Compliance, &["overwrite", "delete-marker"], "makes a version on top").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_s_lock_is_tried_on_a_probe_and_its_contract_kept() {
    let server = moto::start_as_google_with_lock();
    let settings = server.google_settings("below/here");
    checked(&settings, LockMode::Compliance, &["overwrite", "delete-marker"], "is refused").await;
    // These credentials may override what is unlocked.
    checked(&settings, LockMode::Governance, &["overwrite", "delete-marker", "bypass-shorten", "bypass-delete"], "is refused").await;
    keeps_the_contract(&settings).await;
}

/// The roles that are shipped give what locks need and nothing that takes evidence away. Whether a cloud obeys them is for
/// `store check` to show.
#[test]
fn the_shipped_roles_give_no_way_to_take_evidence_away() {
    let text = include_str!("../../../deploy/policies/azure-writer.json");
    let role: serde_json::Value = serde_json::from_str(text).expect("JSON");
    let given = |key: &str| role[key].as_array().expect("actions").iter().filter_map(|a| a.as_str()).collect::<Vec<_>>();
    let (data, not) = (given("DataActions"), given("NotDataActions"));
    assert!(data.iter().any(|a| a.ends_with("/immutableStorage/runAsSuperUser/action")) && data.iter().all(|a| !a.contains('*')));
    for away in ["/blobs/delete", "/deleteBlobVersion/action", "/permanentDelete/action"] {
        assert!(not.iter().any(|a| a.ends_with(away)) && !data.iter().any(|a| a.ends_with(away)), "{away}");
    }
    let text = include_str!("../../../deploy/policies/google-writer.yaml");
    let given: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("  - ")).collect();
    for needed in ["storage.buckets.get", "storage.objects.setRetention", "storage.objects.update", "storage.objects.list"] {
        assert!(given.contains(&needed), "{needed}");
    }
    for away in ["delete", "overrideUnlockedRetention", "setIamPolicy", "buckets.update"] {
        assert!(!given.iter().any(|permission| permission.ends_with(away)), "{away}");
    }
}
