//! A deployment whose catalog is in PostgreSQL: collects, outlives the server's restart, gets a new admin, is made again from the
//! store, and moves to a file.

use std::time::Duration;

use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_tests::{Finished, Fleet, Running, wait_until};

#[test]
fn a_catalog_in_postgres_serves_restarts_is_rebuilt_and_moves() {
    const PASSWORD: &str = "Very-Secret-Word";
    let folder = tempfile::tempdir().expect("folder");
    let runtime = tokio::runtime::Runtime::new().expect("runtime");
    let mut server = runtime.block_on(Scratch::start(folder.path()));
    runtime.block_on(server.run("postgres", "CREATE DATABASE catalog"));
    let password = tempfile::NamedTempFile::new().expect("file");
    std::fs::write(password.path(), PASSWORD).expect("written");
    let address = server.tcp_address("catalog");
    let secret = password.path().to_string_lossy().into_owned();
    let fleet = Fleet::prepare_with(&["--catalog-postgres", &address, "--catalog-password-file", &secret]);
    fleet.start_coordinator();
    let dir = fleet.coordinator_dir();
    assert!(!dir.join("catalog.sqlite").exists());
    let coordinator = |args: &[&str]| Finished::of(fleet.program("exhibit-coordinator").args(args).arg("--dir").arg(&dir));
    let agent = fleet.agent();
    let case = fleet.open_case();
    let ended = fleet.collect(&case, &agent, &["--capture", "system"]);
    assert_eq!(ended["state"], "sealed", "{ended}");

    // The server goes away and comes back: busy meanwhile, then everything goes on by itself.
    server.stop();
    let busy = fleet.exhibit(&["case", "list"]);
    assert_ne!(busy.code, 0);
    assert!(busy.stderr.contains("busy") || busy.stderr.contains("PostgreSQL"), "{}", busy.stderr);
    runtime.block_on(server.resume());
    wait_until(Duration::from_secs(20), "the coordinator is back", || fleet.exhibit(&["case", "list"]).code == 0);
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "network"])["state"], "sealed");

    // Made again from the store: not under a running coordinator, and not over what is there unless told to.
    let items = fleet.items(ended["collection"].as_str().expect("id"));
    let refused = coordinator(&["reindex", "--replace"]);
    assert!(refused.code == 1 && refused.stderr.contains("stop every coordinator"), "{}", refused.stderr);
    // Nor is there a new admin by the root key beside one, which would not hear of it.
    let shown = |name: &str| fleet.path().join(name).display().to_string();
    let (home, request, answer, anchor) =
        (shown("olga"), shown("olga.request"), shown("olga.answer"), fleet.anchor().display().to_string());
    let root = dir.join("root").display().to_string();
    let _ = fleet.exhibit(&["person", "request", "--name", "olga", "--dir", &home, "--anchor", &anchor, "--out", &request]).ok();
    let recover = ["recover-admin", &request, "--root", &root, "--out", &answer, "--reason", "lost"];
    let beside = coordinator(&recover);
    assert!(beside.code == 1 && beside.stderr.contains("stop every coordinator"), "{}", beside.stderr);
    assert_eq!(fleet.terminate_coordinator(), 0);
    let _ = coordinator(&recover).ok();
    let refused = coordinator(&["reindex"]);
    assert!(refused.code == 1 && refused.stderr.contains("--replace"), "{}", refused.stderr);
    let made = coordinator(&["reindex", "--replace", "--json"]).ok();
    assert_eq!(made.json()[0]["collections"], 2);
    let done = coordinator(&["catalog", "migrate", "--json"]).ok();
    assert_eq!((&done.json()[0]["did"], &done.json()[0]["made"]), (&"migrate".into(), &false.into()));
    fleet.start_coordinator();
    let _ = fleet.exhibit(&["person", "accept", &answer, "--dir", &home, "--anchor", &anchor]).ok();
    let _ = fleet.exhibit(&["--home", &home, "person", "allow", "olga", "--role", "auditor"]).ok();
    assert_eq!(fleet.items(ended["collection"].as_str().expect("id")), items);
    fleet.wait_online(&agent);
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "network"])["state"], "sealed");

    // To a file: export while it runs, import into a new one. A second import is refused.
    let _restored = fleet.replica("restored");
    let export = fleet.path().join("rows.jsonl");
    let export = export.to_str().expect("text");
    let exported = coordinator(&["catalog", "export", export, "--json"]).ok().json()[0]["rows"].clone();
    assert_eq!(fleet.terminate_coordinator(), 0);
    let file = dir.join("config.toml");
    let all = std::fs::read_to_string(&file).expect("configuration");
    let moved: String = all
        .lines()
        .filter(|l| !l.starts_with("postgres =") && !l.starts_with("password_file ="))
        .map(|l| if l.starts_with("# catalog = ") { "catalog = \"catalog.sqlite\"\n".to_owned() } else { format!("{l}\n") })
        .collect();
    std::fs::write(&file, moved).expect("written");
    let imported = coordinator(&["catalog", "import", export, "--json"]).ok();
    assert_eq!((&imported.json()[0]["rows"], &imported.json()[0]["made"]), (&exported, &true.into()));
    let again = coordinator(&["catalog", "import", export]);
    assert!(again.code == 1 && again.stderr.contains("nothing was imported"), "{}", again.stderr);
    fleet.start_coordinator();
    fleet.wait_online(&agent);
    assert_eq!(fleet.collect(&case, &agent, &["--capture", "network"])["state"], "sealed");
    let _ = fleet.verify(&case).expect_sound();

    // Somebody who still has the catalog in PostgreSQL does not serve from the same folder beside it.
    let (mut program, restored) = (fleet.program("exhibit-coordinator"), fleet.path().join("restored"));
    let mut other = Running::start(program.arg("run").arg("--dir").arg(&restored), &fleet.path().join("restored.log"));
    let mut code = None;
    wait_until(Duration::from_secs(40), "the other one ends", || {
        code = other.exit_code();
        code.is_some()
    });
    let said = other.said();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("serves from the store in") && !said.contains(" listens on "), "{said}");
    assert!(!format!("{}{}{}", fleet.coordinator_log(), done.stderr, refused.stderr).contains(PASSWORD));
}
