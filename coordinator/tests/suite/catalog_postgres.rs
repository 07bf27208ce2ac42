//! The catalog in PostgreSQL: its contract, and what is special to a server that several coordinators share.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use exhibit_coordinator::catalog::conformance::{self, agent_id, at, case, collection, commit, digest, order, stream_row, token};
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::postgres::{Alone, PostgresCatalog, Settings};
use exhibit_coordinator::catalog::{
    Catalog, CatalogError, CollectionChange, CollectionRow, IncidentRow, SharedCatalog, State, Step, TokenUse,
};
use exhibit_evidence::layout::StreamNumber;
use futures::future::join_all;

const S1: StreamNumber = StreamNumber(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_and_two_coordinators_never_do_one_thing_twice() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let settings = server.database("contract").await;
    // Several programs that begin at once: one makes it, the others are told; the schema is made once.
    let made = join_all((0..4).map(|_| PostgresCatalog::create(&settings))).await;
    assert_eq!(made.iter().filter(|m| m.is_ok()).count(), 1, "{made:?}");
    assert!(made.iter().all(|m| matches!(m, Ok(_) | Err(CatalogError::Conflict(_)))), "{made:?}");
    let first = made.into_iter().find_map(Result::ok).expect("one");
    conformance::run(Arc::new(first)).await;

    let settings = server.database("shared").await;
    let one: SharedCatalog = Arc::new(PostgresCatalog::create(&settings).await.expect("new"));
    let two: SharedCatalog = Arc::new(PostgresCatalog::open(&settings).await.expect("opens"));
    let row = prepared(&*one).await;
    let (mut taken, mut repeated, mut changed, mut committed) = (0, 0, 0, 0);
    let tasks = (0..40_u32).map(|n| {
        let (catalog, row) = (Arc::clone(if n % 2 == 0 { &one } else { &two }), row.clone());
        tokio::spawn(async move {
            // Each agent asks twice, from two coordinators.
            let used = catalog.use_token(digest(1), digest(1_000 + n / 2), agent_id((n / 2) as u8), at(2)).await;
            let to = CollectionChange { state: Some(State::Offered), ..CollectionChange::default() };
            let changed = catalog.change(row.collection.clone(), vec![State::Queued], to).await;
            let segment = catalog.commit_segment(commit(&row, 0)).await;
            (used, changed, segment)
        })
    });
    for done in join_all(tasks).await {
        let (used, change, segment) = done.expect("ran");
        match used.expect("answered") {
            TokenUse::Taken { .. } => taken += 1,
            TokenUse::Repeated { .. } => repeated += 1,
            TokenUse::UsedUp => {}
            other => panic!("{other:?}"),
        }
        changed += usize::from(change.expect("answered").is_some());
        committed += usize::from(segment.expect("answered") == Step::Done);
    }
    assert_eq!((taken, repeated, changed, committed), (7, 7, 1, 1));
    assert_eq!(one.segments(row.collection, S1, 0, 10).await.map(|s| s.len()), Ok(1));
}

/// A case with a queued collection, an open stream and a token with seven uses.
async fn prepared(c: &dyn Catalog) -> CollectionRow {
    let order = order(1, 1);
    let row = collection(&order, 1, 50);
    c.add_token(token(1, 7)).await.expect("token");
    c.add_case(case(1)).await.expect("case");
    c.add_order(order, vec![row.clone()]).await.expect("order");
    c.open_stream(stream_row(&row, 1)).await.expect("stream");
    row
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_dies_and_comes_back_costs_time_only() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let catalog: SharedCatalog = Arc::new(PostgresCatalog::create(&settings).await.expect("new"));
    let row = prepared(&*catalog).await;
    // One segment after the other, each until it is there, while the server is killed twice.
    let (counted, mut reached) = tokio::sync::watch::channel(0_u32);
    let writing = tokio::spawn({
        let (catalog, row) = (Arc::clone(&catalog), row.clone());
        async move {
            let mut trouble = Vec::new();
            for n in 0..150 {
                while let Err(e) = catalog.commit_segment(commit(&row, n)).await {
                    trouble.push(e);
                }
                counted.send_replace(n);
            }
            trouble
        }
    });
    for at in [30, 90] {
        reached.wait_for(|n| *n >= at).await.expect("goes on");
        server.crash();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.resume().await;
    }
    let trouble = writing.await.expect("ended");
    assert!(!trouble.is_empty() && trouble.iter().all(|e| matches!(e, CatalogError::Busy(_))), "{trouble:?}");
    let stream = catalog.stream(row.collection.clone(), S1).await.expect("read").expect("there");
    assert_eq!(stream.next_segment, 150);
    let segments = catalog.segments(row.collection.clone(), S1, 0, 1_000).await.expect("read");
    assert!(segments.iter().map(|s| s.n).eq(0..150), "each once");
    let parts = commit(&row, 0).manifest_parts.len() as u32;
    assert!(catalog.manifest_part(row.collection.clone(), S1, 150 * parts - 1).await.expect("read").is_some());
    assert_eq!(catalog.manifest_part(row.collection.clone(), S1, 150 * parts).await, Ok(None), "no part twice");
    // While it is away every call says so within seconds, and nobody can start.
    server.stop();
    let begun = tokio::time::Instant::now();
    assert!(matches!(catalog.add_incident(IncidentRow::new(at(1), None, "k", "s", String::new())).await, Err(CatalogError::Busy(_))));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    for address in [server.address("catalog"), server.tcp_address("catalog")] {
        let settings = Settings::parse(&address, dir.path(), false).expect("address").with_password("Very-Secret");
        let Err(CatalogError::Failed(e)) = PostgresCatalog::open(&settings).await else { panic!("nobody is there") };
        assert!(e.contains("catalog.postgres") && e.contains("pg_isready"), "{e}");
        assert!(!format!("{e}{settings:?}").contains("Very-Secret"), "{e}");
    }
    server.resume().await;
    catalog.healthy().await.expect("it goes on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_the_server_does_not_answer_is_found_out_in_time() {
    let dir = tempfile::tempdir().expect("dir");
    let mut server = Scratch::start(dir.path()).await;
    let _ = server.database("catalog").await;
    let settings = Settings::parse(&server.tcp_address("catalog"), dir.path(), false).expect("address").with_password("Very-Secret");
    let catalog = PostgresCatalog::create(&settings).await.expect("new");
    // It is there; somebody else has what is to be written.
    let e = catalog.silence().await;
    assert!(matches!(&e, CatalogError::Busy(said) if said.contains("takes connections") && said.contains("pg_stat_activity")), "{e}");
    server.stop();
    let begun = tokio::time::Instant::now();
    let e = catalog.silence().await.to_string();
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    let place = format!("exhibit@127.0.0.1:{}/catalog", server.port());
    assert!(e.contains(&place) && e.contains("Connection refused") && e.contains("pg_isready") && !e.contains("Very-Secret"), "{e}");
}

#[tokio::test]
async fn what_cannot_be_used_is_named() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let refused = async |settings: &Settings, words: &[&str]| {
        let e = PostgresCatalog::open(settings).await.expect_err("refused").to_string();
        assert!(words.iter().all(|w| e.contains(w)), "{e}");
    };
    refused(&settings, &["there is no catalog", "reindex"]).await;
    refused(&server.settings("nothing"), &["catalog.postgres", "make the database first"]).await;
    server.run("catalog", "CREATE SCHEMA exhibit; CREATE TABLE exhibit.other (n int)").await;
    refused(&settings, &["something else than a catalog"]).await;
    server.run("catalog", "DROP SCHEMA exhibit CASCADE").await;
    let catalog = PostgresCatalog::create(&settings).await.expect("new");
    assert!(matches!(PostgresCatalog::create(&settings).await, Err(CatalogError::Conflict(_))));
    // By the loopback port, and without the right to write.
    server.run("catalog", "CREATE ROLE reader LOGIN; GRANT USAGE ON SCHEMA exhibit TO reader").await;
    let tcp = Settings::parse(&server.tcp_address("catalog"), dir.path(), false).expect("address");
    PostgresCatalog::open(&tcp).await.expect("opens").healthy().await.expect("writes");
    let reader = server.tcp_address("catalog").replace("exhibit@", "reader@");
    refused(&Settings::parse(&reader, dir.path(), false).expect("address"), &["lacks a right", "catalog.md"]).await;
    // A row that this program did not write.
    catalog.add_case(case(1)).await.expect("new");
    server.run("catalog", "UPDATE exhibit.cases SET case_opened = 'x'").await;
    assert!(matches!(catalog.case(case(1).case).await, Err(CatalogError::Damaged(_))));
    server.run("catalog", "UPDATE exhibit.schema_version SET version = 99").await;
    refused(&settings, &["version 99", "start the newer program"]).await;
    server.run("catalog", "UPDATE exhibit.schema_version SET application_id = 1").await;
    refused(&settings, &["something else than a catalog"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_coordinator_starts_while_a_program_works_alone() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    let settings = server.database("catalog").await;
    let catalog = PostgresCatalog::create(&settings).await.expect("new");
    let e = Alone::take(&settings).await.expect_err("a coordinator is there").to_string();
    assert!(e.contains("a coordinator is connected"), "{e}");
    catalog.close().await;
    let mut alone = Alone::take(&settings).await.expect("nobody is there");
    let e = PostgresCatalog::open(&settings).await.expect_err("it would not hear of what is done").to_string();
    assert!(e.contains("'recover-admin' is at work"), "{e}");
    let e = Alone::take(&settings).await.expect_err("one at a time").to_string();
    assert!(e.contains("another program makes a new catalog"), "{e}");
    alone.confirm().await.expect("it has the right still");
    // It makes a catalog of its own meanwhile, and whoever opens that is no coordinator.
    let fresh = alone.fresh().await.expect("beside the other one");
    fresh.add_case(case(1)).await.expect("filled");
    fresh.close().await;
    alone.exchange().await.expect("in its place");
    let catalog = PostgresCatalog::open(&settings).await.expect("it has ended");
    assert!(catalog.case(case(1).case).await.expect("read").is_some());

    catalog.close().await;

    // Whoever lost the connection lost the right, and hears of it.
    let mut alone = Alone::take(&settings).await.expect("nobody is there");
    let end = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE application_name = 'exhibit-coordinator alone'";
    server.run("catalog", end).await;
    alone.confirm().await.expect_err("a coordinator may have started");
}

/// A CA and a certificate for `localhost` in the server's folder, which then serves TLS.
async fn serve_tls(server: &Scratch, folder: &Path) {
    let openssl = |args: &str| {
        let done = Command::new("openssl").args(args.split(' ')).current_dir(folder).output().expect("openssl runs");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    let new = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2";
    openssl(&format!("{new} -keyout ca.key -out ca.pem -subj /CN=ca"));
    openssl(&format!("{new} -keyout other.key -out other.pem -subj /CN=ca"));
    openssl(&format!(
        "{new} -CA ca.pem -CAkey ca.key -keyout server.key -out server.pem -subj /CN=db -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
    ));
    server.adopt("server.key");
    for (key, value) in
        [("ssl", "on".to_owned()), ("ssl_cert_file", path(folder, "server.pem")), ("ssl_key_file", path(folder, "server.key"))]
    {
        server.run("postgres", &format!("ALTER SYSTEM SET {key} = '{value}'")).await;
    }
    // From now on the loopback port asks for a password and for TLS.
    let rules = "local all all trust\nhostssl all all 127.0.0.1/32 scram-sha-256\n";
    std::fs::write(folder.join("data/pg_hba.conf"), rules).expect("rules");
    server.run("postgres", "ALTER ROLE exhibit PASSWORD 'Very-Secret'").await;
    server.run("postgres", "SELECT pg_reload_conf()").await;
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

#[tokio::test]
async fn a_server_must_prove_who_it_is_and_so_must_we() {
    let dir = tempfile::tempdir().expect("dir");
    let server = Scratch::start(dir.path()).await;
    PostgresCatalog::create(&server.database("catalog").await).await.expect("new").close().await;
    serve_tls(&server, dir.path()).await;
    let by = |host: &str, parameters: &str, password: &str| {
        let address = server.tcp_address("catalog").replace("127.0.0.1", host);
        Settings::parse(&format!("{address}?{parameters}"), dir.path(), false).expect("address").with_password(password)
    };
    let verified = "sslmode=verify-full&sslrootcert=ca.pem";
    // The server reads its configuration when it gets to it.
    let mut opened = PostgresCatalog::open(&by("localhost", verified, "Very-Secret")).await;
    for _ in 0..50 {
        if opened.is_ok() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        opened = PostgresCatalog::open(&by("localhost", verified, "Very-Secret")).await;
    }
    let catalog = opened.expect("opens");
    let encrypted = sqlx::query_scalar("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").fetch_one(catalog.pool());
    assert!(encrypted.await.is_ok_and(|ssl: bool| ssl));
    for (settings, words) in [
        (by("localhost", "sslmode=verify-full&sslrootcert=other.pem", "Very-Secret"), "check sslmode and sslrootcert"),
        (by("127.0.0.1", verified, "Very-Secret"), "check sslmode and sslrootcert"),
        (by("localhost", "sslmode=disable", "Very-Secret"), "pg_hba.conf"),
        (by("localhost", verified, "Wrong-Secret"), "catalog.password_file"),
    ] {
        let e = PostgresCatalog::open(&settings).await.expect_err(words);
        let said = format!("{e} {e:?} {settings:?}");
        assert!(said.contains(words) && !said.contains("-Secret"), "{words}: {said}");
    }
}
