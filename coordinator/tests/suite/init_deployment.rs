//! `init`: what it makes, what it refuses, what it says.

use crate::support;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use clap::Parser as _;
use exhibit_certs::{Credential, Deployment};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::config::Config;
use exhibit_coordinator::init::{self, Options};
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::store::{LocalStore, RemoteStore, Store};
use exhibit_evidence::Timestamp;
use exhibit_evidence::layout::LogName;
use exhibit_evidence::log::Checkpoint;

#[derive(clap::Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

fn options(dir: &Path, more: &[&str]) -> Options {
    let dir = dir.to_string_lossy().into_owned();
    let args = ["init", "--dir", dir.as_str(), "--name", "example.org"].into_iter().chain(more.iter().copied());
    Line::try_parse_from(args).expect("good options").options
}

fn now() -> Timestamp {
    Timestamp::from_unix_s(1_800_000_000)
}

#[tokio::test]
async fn makes_everything_that_a_start_needs() {
    let dir = tempfile::tempdir().expect("dir");
    let d = dir.path().join("d");
    let made = init::run(&options(&d, &["--listen", "127.0.0.1:9443", "--host", "c.example.org", "--host", "192.0.2.1"]), now())
        .await
        .expect("made");

    let config = Config::load(&made.config).expect("a readable configuration");
    assert_eq!((config.listen.port(), config.names.as_slice()), (9443, ["c.example.org".to_owned(), "192.0.2.1".to_owned()].as_slice()));
    let deployment = Deployment::load(&config.resolve(&config.paths.deployment)).expect("a deployment");
    assert_eq!((deployment.tls_root_sha256(), deployment.name.as_str()), (made.ca_sha256, "example.org"));
    SqliteCatalog::open(&config.catalog_file()).await.expect("a catalog").close().await;

    let admin = Credential::load(&made.admin_home).expect("the admin's folder is a credential");
    assert_eq!(admin.name().to_string(), "spiffe://example.org/responder/admin");
    let client = std::fs::read_to_string(made.admin_home.join("config.toml")).expect("the client's configuration");
    assert!(client.ends_with("coordinator = \"c.example.org:9443\"\n"), "{client}");

    let store: Arc<dyn Store> = Arc::new(LocalStore::open(&config.resolve(&config.store.path)).expect("a store"));
    let note = store.get(&LogName::Deployment.checkpoint(), 10_000).await.expect("a checkpoint");
    assert_eq!(Checkpoint::verify(&note, &deployment.log_key.public()).expect("signed").size, 3);
    let log_key = deployment.log_key.public().id();
    let ledgers = Ledgers::new(store, Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() });
    let ring = ledgers.deployment().await.expect("the log verifies").key_ring();
    for key in [log_key, deployment.issuer_key.public().id(), admin.evidence.public().id()] {
        assert!(ring.holder(key).is_some());
    }
    for private in [
        "root/tls.pem",
        "root/evidence.key",
        "issuing/tls.pem",
        "server/tls.pem",
        "issuer.key",
        "log.key",
        "admin/tls.pem",
        "admin/evidence.key",
        "config.toml",
        "catalog.sqlite",
    ] {
        let mode = std::fs::metadata(d.join(private)).unwrap_or_else(|e| panic!("{private}: {e}")).permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{private}");
    }
    let text = made.text();
    for part in ["exhibit-coordinator run --config", "EXHIBIT_HOME=", &made.ca_sha256.to_string(), "safe place"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let json = serde_json::to_value(&made).expect("json");
    assert_eq!(json["ca_sha256"], made.ca_sha256.to_string());
}

fn snapshot(dir: &Path) -> Vec<(String, Option<Vec<u8>>)> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).expect("list") {
        let path = entry.expect("entry").path();
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() {
            all.push((name, None));
            all.extend(snapshot(&path));
        } else {
            all.push((name, Some(std::fs::read(&path).expect("read"))));
        }
    }
    all.sort();
    all
}

#[tokio::test]
async fn refuses_what_is_there_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let d = dir.path().join("d");
    init::run(&options(&d, &[]), now()).await.expect("made");
    let before = snapshot(&d);
    let e = init::run(&options(&d, &[]), now()).await.expect_err("twice");
    assert!(e.exit_code() == 64 && e.to_string().contains("holds a deployment"), "{e}");
    assert_eq!(snapshot(&d), before);

    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("dir");
    init::run(&options(&other, &[]), now()).await.expect("an empty folder is taken");
    std::fs::remove_file(other.join("config.toml")).expect("remove");
    let e = init::run(&options(&other, &[]), now()).await.expect_err("unfinished");
    assert!(e.exit_code() == 64 && e.to_string().contains("interrupted init"), "{e}");

    let foreign = dir.path().join("foreign");
    std::fs::create_dir(&foreign).expect("dir");
    std::fs::write(foreign.join("thesis.txt"), "x").expect("write");
    let e = init::run(&options(&foreign, &[]), now()).await.expect_err("foreign");
    assert!(e.exit_code() == 64 && e.to_string().contains("not empty"), "{e}");
}

#[tokio::test]
async fn nobodys_identity_is_called_the_rest_of_an_init() {
    let dir = tempfile::tempdir().expect("dir");
    let d = dir.path().join("d");
    init::run(&options(&d, &[]), now()).await.expect("made");
    // The admin's own folder looks like an agent's: keys, enrolments, an anchor.
    let home = d.join("admin");
    let before = snapshot(&home);
    let e = init::run(&options(&home, &[]), now()).await.expect_err("an identity");
    assert!(e.exit_code() == 64 && e.to_string().contains("the identity of an agent") && !e.to_string().contains("remove"), "{e}");
    assert_eq!(snapshot(&home), before);
    // Where no folder can be made there is none to remove.
    let e = init::run(&options(Path::new("/proc/d2"), &[]), now()).await.expect_err("not there");
    assert!(e.exit_code() == 73 && e.to_string().contains("nothing was made") && !e.to_string().contains("remove"), "{e}");
}

/// However far an earlier init came, the folder is recognised as unfinished: every part of what it makes is left alone.
#[tokio::test]
async fn every_unfinished_state_is_recognised() {
    let dir = tempfile::tempdir().expect("dir");
    let d = dir.path().join("d");
    init::run(&options(&d, &[]), now()).await.expect("made");
    // Backwards through the order of writes.
    let steps: [&[&str]; 6] = [
        &["config.toml"],
        &["admin"],
        &["catalog.sqlite", "catalog.sqlite.lock"],
        &["store"],
        &["anchor.json"],
        &["issuer.key", "log.key"],
    ];
    for step in steps {
        for name in step {
            let path = d.join(name);
            if path.is_dir() {
                std::fs::remove_dir_all(&path).expect("remove");
            } else {
                std::fs::remove_file(&path).unwrap_or_else(|e| panic!("{name}: {e}"));
            }
        }
        let before = snapshot(&d);
        let e = init::run(&options(&d, &[]), now()).await.expect_err("unfinished");
        assert!(e.to_string().contains("interrupted init"), "without {step:?}: {e}");
        assert_eq!(snapshot(&d), before);
        assert!(Config::load(&d.join("config.toml")).is_err(), "no start takes it for a deployment");
    }
}

#[tokio::test]
async fn wrong_options_touch_nothing() {
    let dir = tempfile::tempdir().expect("dir");
    let d = dir.path().join("d");
    let with = |name: &str, more: &[&str]| Options { name: name.to_owned(), ..options(&d, more) };
    for (bad, words) in [
        (with("Not A Name", &[]), "--name"),
        (with("ok", &["--admin", "Alex Doe"]), "--admin"),
        (with("ok", &["--host", "bad name"]), "--host"),
        (with("ok", &["--store", "s3", "--bucket", "b", "--endpoint", "http://127.0.0.1:1"]), "--dangerous-allow-http"),
        (with("ok", &["--store", "s3", "--bucket", "b", "--endpoint", "http://u:pw@127.0.0.1:1"]), "--endpoint: holds a name, a password"),
        (with("ok", &["--store", "s3", "--bucket", "Bad_Bucket/.."]), "--bucket: 'Bad_Bucket/..' is no name of a bucket: expected 3 to 63"),
    ] {
        let e = init::run(&bad, now()).await.expect_err(words);
        assert!(e.exit_code() == 64 && e.to_string().contains(words), "{words}: {e}");
        assert!(!d.exists());
    }
    assert!(Line::try_parse_from(["init", "--dir", "x", "--name", "n", "--store", "s3"]).is_err(), "an s3 store needs a bucket");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_s3_store_is_used_once() {
    let server = support::moto::start();
    let dir = tempfile::tempdir().expect("dir");
    let settings = server.settings("d1");
    let endpoint = settings.endpoint.clone().expect("endpoint");
    // The coordinator takes credentials from files or from the machine; here: a program with its own environment.
    let init = |name: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"))
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "very-secret")
            .args(["init", "--name", "example.org", "--store", "s3", "--bucket", "evidence", "--prefix", "d1", "--dangerous-allow-http"])
            .args(["--endpoint", &endpoint])
            .arg("--dir")
            .arg(dir.path().join(name))
            .output()
            .expect("runs")
    };
    let first = init("one");
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    let store = RemoteStore::open(&settings).expect("settings");
    assert!(store.size(&LogName::Deployment.slot(2)).await.expect("there") > 0);
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"));
    let checked = check.arg("check-config").arg("--dir").arg(dir.path().join("one")).output().expect("runs");
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("the store was not asked: 'exhibit-coordinator store check' asks it"), "{said}");
    let second = init("two");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr);
    assert!(said.contains("holds a deployment already") && said.contains("('deployment/log/checkpoint')"), "{said}");
    assert!(!dir.path().join("two").exists(), "what it made is gone, so that the next call finds no rest of it");
}

/// What somebody else put in the log's place is no deployment: it is named, and once it is gone the same call goes through.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn junk_in_a_bucket_is_named_and_the_next_call_goes_on() {
    let server = support::moto::start();
    let dir = tempfile::tempdir().expect("dir");
    let endpoint = server.settings("").endpoint.expect("endpoint");
    let init = |bucket: &str| {
        std::process::Command::new(env!("CARGO_BIN_EXE_exhibit-coordinator"))
            .env("AWS_ACCESS_KEY_ID", "id")
            .env("AWS_SECRET_ACCESS_KEY", "very-secret")
            .args(["init", "--name", "example.org", "--store", "s3", "--bucket", bucket, "--dangerous-allow-http", "--endpoint", &endpoint])
            .arg("--dir")
            .arg(dir.path().join("d"))
            .output()
            .expect("runs")
    };
    let refused = |bucket: &str, words: &[&str]| {
        let done = init(bucket);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(done.status.code() == Some(1) && words.iter().all(|word| said.contains(word)), "{said}");
        assert!(said.contains("is taken away again: correct this and run init again") && !dir.path().join("d").exists(), "{said}");
    };
    refused("absent", &["there is no such bucket"]);
    let junk = "/evidence/deployment/log/junk";
    assert_eq!(server.send("PUT", junk, "", "x").0, 200);
    refused("evidence", &["holds 'deployment/log/junk' where the deployment's log will lie, and no deployment", "remove it"]);
    assert_eq!(server.send("DELETE", junk, "", "").0, 204);
    // A folder that was there stays, and what somebody else put into it.
    std::fs::create_dir(dir.path().join("d")).expect("dir");
    assert_eq!(init("absent").status.code(), Some(1));
    assert_eq!(std::fs::read_dir(dir.path().join("d")).expect("it stays").count(), 0);
    let done = init("evidence");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}
