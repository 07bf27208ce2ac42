//! The stores that are neither a folder nor S3, as far as there are emulators of them.
//!
//! What Azurite hides: it has only stubs for immutability policies, and no versions; what it says of a lock is tried here, and locks
//! in `store_lock_clouds`. Google has no emulator that would do: of the two that can be had, one does not know puts of the XML API and the
//! other overwrites whatever the precondition says, answers without an ETag and lists nothing. So its dialect is translated, by the
//! reference of the XML API, in front of an S3 server: that shows that our requests and readings are those of the reference, not
//! that Google keeps it. `exhibit-coordinator store check` shows that, on a bucket of Google's own.

use std::sync::Arc;

use exhibit_coordinator::clock;
use exhibit_coordinator::store::check::{self, State};
use exhibit_coordinator::store::{Kind, LockMode, LockPolicy, Payload, RemoteKind, RemoteSettings, RemoteStore, Store as _, conformance};
use exhibit_evidence::Digest;

use crate::support::{self, clouds, moto};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn azure_keeps_the_contract_and_what_it_does_not_refuse_is_named() {
    let (_emulator, settings) = clouds::azure();
    let store = RemoteStore::open(&settings).expect("settings");
    conformance::run(Arc::new(store.clone()), "suite").await;
    let report = check::run(&store, None, clock::now()).await;
    assert_eq!(report.state("create-only"), Some(State::Holds), "{}", report.text());
    // Nothing locks the container, and that is what the table says.
    for what in ["overwrite", "delete"] {
        assert_eq!(report.state(what), Some(State::Missing), "{}", report.text());
    }
    assert!(report.text().contains("retention on the bucket or container"), "{}", report.text());
    let shown = format!("{settings:?}{store:?}{}", report.text());
    assert!(!shown.contains(settings.secret.as_deref().expect("a key")), "{shown}");
    let absent = RemoteStore::open(&RemoteSettings { bucket: "absent".to_owned(), ..settings.clone() }).expect("settings");
    let e = absent.get("a", 10).await.expect_err("no container");
    assert!(e.kind() == Kind::Denied && e.message().contains("container absent of") && e.remedy().contains("make it"), "{e}");
    // A lock that is asked for and cannot be had is said before anything is believed.
    let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
    let store = RemoteStore::open(&RemoteSettings { lock, ..settings }).expect("settings");
    let e = store.put_new("cases/x/object", Payload::from_static(b"x"), Digest::of(b"x")).await.expect_err("no lock of objects there");
    assert!(e.kind() == Kind::Denied && e.remedy().contains("has no version-level immutability"), "{e}");
    let vault = store.attestable().expect("asked for").vault;
    let posture = vault.posture().await.expect("says so");
    assert!(!posture.lockable && !posture.versioned, "{posture:?}");
    let report = check::run(&store, lock, clock::now()).await;
    assert_eq!(report.state("write"), Some(State::Missing), "{}", report.text());
    assert!(report.text().contains("version-level immutability"), "{}", report.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn google_s_dialect_keeps_the_contract() {
    let server = moto::start_as_google();
    for prefix in ["", "below/here"] {
        let settings = server.google_settings(prefix);
        conformance::run(Arc::new(RemoteStore::open(&settings).expect("settings")), "suite").await;
    }
    // The bucket has neither versions nor object retention, and is asked for both.
    let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
    let store = RemoteStore::open(&RemoteSettings { lock, ..server.google_settings("d1") }).expect("settings");
    let e = store.put_new("cases/x/object", Payload::from_static(b"x"), Digest::of(b"x")).await.expect_err("no lock of objects there");
    assert!(e.kind() == Kind::Denied && e.remedy().contains("has no object retention"), "{e}");
    assert_eq!(store.size("cases/x/object").await.expect_err("not written").kind(), Kind::NotFound);
    let report = check::run(&store, lock, clock::now()).await;
    assert_eq!(report.state("write"), Some(State::Missing), "{}", report.text());
}

/// What can be shown of Google without Google: the settings make a client, with a lock and without, and tell no secret.
#[test]
fn google_has_settings_that_tell_no_secret() {
    let key = r#"{"gcs_base_url": "http://127.0.0.1:9", "disable_oauth": true, "client_email": "", "private_key": "very-secret", "private_key_id": ""}"#;
    let settings = RemoteSettings { kind: RemoteKind::Google, secret: Some(key.to_owned()), ..support::s3_settings(9, "") };
    let store = RemoteStore::open(&settings).expect("settings");
    assert!(!format!("{settings:?}{store:?}{}", store.describe()).contains("very-secret"));
    let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
    let locked = RemoteStore::open(&RemoteSettings { lock, ..settings.clone() }).expect("settings");
    assert!(store.attestable().is_none() && locked.attestable().is_some_and(|found| found.locks()));
    assert!(!format!("{locked:?}").contains("very-secret"));
    let e = RemoteStore::open(&RemoteSettings { secret: Some("very-secret".to_owned()), ..settings }).expect_err("no key file");
    assert!(e.kind() == Kind::Denied && !e.to_string().contains("very-secret"), "{e}");
}
