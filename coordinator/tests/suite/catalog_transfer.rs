//! Moving a catalog: everything arrives, or nothing, and a bad file is named by line and field.

use std::sync::Arc;

use exhibit_coordinator::catalog::postgres::PostgresCatalog;
use exhibit_coordinator::catalog::postgres::scratch::Scratch;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog, CatalogError, CatalogPlace, CollectionFilter, conformance};
use exhibit_coordinator::upkeep::{self, Command};
use exhibit_evidence::Digest;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sqlite_to_postgres_and_back_is_the_same_catalog() {
    let dir = tempfile::tempdir().expect("dir");
    let sub = |name: &str| dir.path().join(name);
    std::fs::create_dir(sub("server")).expect("folder");
    let server = Scratch::start(&sub("server")).await;
    let first = SqliteCatalog::create(&sub("first.sqlite")).await.expect("new");
    conformance::run(Arc::new(first.clone())).await;
    let (mut out, mut there, mut back) = (Vec::new(), Vec::new(), Vec::new());
    let moved = first.export(&mut out).await.expect("written");
    let postgres = PostgresCatalog::create(&server.database("catalog").await).await.expect("new");
    // The server's own tables are not ours to look at: it warns of each. Some it looked at itself when it was made.
    let looked = "SELECT count(*) FILTER (WHERE schemaname = 'exhibit'), count(*) FILTER (WHERE schemaname = 'pg_catalog')
                  FROM pg_stat_all_tables WHERE last_analyze IS NOT NULL";
    let looked = async || sqlx::query_as::<_, (i64, i64)>(looked).fetch_one(postgres.pool()).await.expect("asked");
    let before = looked().await;
    let taken = postgres.import(&mut out.as_slice()).await.expect("read");
    let after = looked().await;
    assert!(after.0 > before.0 + 5 && after.1 == before.1, "{before:?} and {after:?}");
    assert!(taken.rows == moved.rows && moved.rows > 50, "{moved:?}");
    postgres.export(&mut there).await.expect("written");
    let second = SqliteCatalog::create(&sub("second.sqlite")).await.expect("new");
    second.import(&mut there.as_slice()).await.expect("read");
    second.export(&mut back).await.expect("written");
    assert_eq!(String::from_utf8_lossy(&there), String::from_utf8_lossy(&out));
    assert!(back == out, "every byte");
    let all = CollectionFilter::default();
    assert_eq!(postgres.collections(all.clone(), None, 100).await, first.collections(all, None, 100).await);
    // It takes new rows as if it had made the old ones.
    let incident = exhibit_coordinator::catalog::IncidentRow::new(conformance::at(1), None, "k", "s", "new".to_owned());
    postgres.add_incident(incident.clone()).await.expect("kept");
    assert_eq!(postgres.incidents(1).await, Ok(vec![incident]));
    let e = postgres.import(&mut out.as_slice()).await.expect_err("not empty").to_string();
    assert!(e.contains("there are tokens already"), "{e}");
}

/// The same lines with another end.
fn summed(lines: &[String]) -> String {
    let body = lines.join("\n") + "\n";
    format!("{body}{{\"end\":{{\"rows\":{},\"sha256\":\"{}\"}}}}\n", lines.len() - 1, Digest::of(body.as_bytes()))
}

#[tokio::test]
async fn a_bad_file_changes_nothing_and_is_named_by_line_and_field() {
    let dir = tempfile::tempdir().expect("dir");
    let source = SqliteCatalog::create(&dir.path().join("source.sqlite")).await.expect("new");
    source.add_token(conformance::token(1, 2)).await.expect("kept");
    source.add_case(conformance::case(1)).await.expect("kept");
    source.add_case(conformance::case(2)).await.expect("kept");
    let order = conformance::order(1, 1);
    source.add_order(order.clone(), vec![conformance::collection(&order, 1, 50)]).await.expect("kept");
    let mut out = Vec::new();
    source.export(&mut out).await.expect("written");
    let good = String::from_utf8(out).expect("text");
    // 1 header, 2 token, 3 and 4 cases, 5 order, 6 collection, 7 end.
    let lines: Vec<String> = good.lines().map(str::to_owned).collect();
    assert_eq!((lines.len(), summed(&lines[..6])), (7, good.clone()));
    let with = |n: usize, from: &str, to: &str| {
        let mut lines = lines[..6].to_vec();
        assert!(lines[n - 1].contains(from), "{}", lines[n - 1]);
        lines[n - 1] = lines[n - 1].replacen(from, to, 1);
        summed(&lines)
    };
    let target = SqliteCatalog::create(&dir.path().join("target.sqlite")).await.expect("new");
    for (text, words) in [
        (String::new(), "line 0: the file is empty"),
        ("{}\n".to_owned(), "line 1: is not the beginning"),
        (with(1, "\"version\":1", "\"version\":2"), "line 1: version 2"),
        (good[..good.len() - 1].to_owned(), "line 7: does not end"),
        (lines[..6].join("\n") + "\n", "ends without its last line"),
        (good.replacen("Übung", "Ubung", 1), "line 7: end.sha256"),
        ([&lines[..3], &lines[4..]].concat().join("\n") + "\n", "line 6: end.rows: there were 4"),
        (format!("{good}{{}}\n"), "line 8: stands behind the end"),
        (with(2, "\"uses\":2", "\"uses\":\"2\""), "line 2: tokens.uses: expected a number"),
        (with(2, "\"uses\":2", "\"uses\":2.5"), "line 2: tokens.uses: is no integer"),
        (with(2, "\"uses\":2,", ""), "line 2: tokens.uses: is missing"),
        (with(2, "\"uses\":2", "\"uses\":2,\"more\":1"), "line 2: tokens.more: is no column"),
        (with(2, "\"uses_left\":2", "\"uses_left\":-1"), "line 2: tokens"),
        (with(3, "\"cases\"", "\"files\""), "line 3: 'files' is no table"),
        (with(3, "\"title\":\"", "\"title\":\"\\u0000"), "line 3: cases.title: holds a NUL"),
        (with(4, "\"case_opened\":\"", "\"case_opened\":\"!"), "line 4: cases.case_opened: is no base64"),
        (with(4, "\"case_id\":\"", "\"case_id\":\"x"), "line 4: cases: column case_id"),
        (with(6, "\"state\":\"queued\"", "\"state\":\"lost\""), "line 6: collections: column state: lost"),
        (with(5, "\"envelope\":\"", "\"envelope\":null,\"x\":\""), "line 5: orders.x: is no column"),
        (summed(&[lines[0].clone(), lines[4].clone()]), "line 2: orders"),
        (summed(&[lines[0].clone(), lines[2].clone(), lines[1].clone()]), "line 3: tokens: stands behind cases"),
        (summed(&[lines[0].clone(), "[1]".to_owned()]), "line 2: is not a JSON object"),
    ] {
        let e = target.import(&mut text.as_bytes()).await.expect_err(words).to_string();
        assert!(e.contains(words), "{words}: {e}");
        assert_eq!(target.cases(None, 10).await, Ok(Vec::new()), "{words}");
    }
    target.import(&mut good.as_bytes()).await.expect("the good one");
    assert_eq!(
        target.use_token(conformance::digest(9), conformance::digest(9), conformance::agent_id(1), conformance::at(1)).await,
        Ok(exhibit_coordinator::catalog::TokenUse::Unknown)
    );
    assert!(matches!(target.collection(conformance::collection(&order, 1, 50).collection).await, Ok(Some(_))));
    assert!(!matches!(target.healthy().await, Err(CatalogError::Damaged(_))));
}

#[tokio::test]
async fn an_export_goes_into_a_new_file_only_and_one_without_rows_is_not_imported() {
    let dir = tempfile::tempdir().expect("dir");
    let sub = |name: &str| dir.path().join(name);
    let (source, target) = (CatalogPlace::File(sub("source.sqlite")), CatalogPlace::File(sub("target.sqlite")));
    SqliteCatalog::create(&sub("source.sqlite")).await.expect("new").close().await;
    let done = upkeep::run(&source, &Command::Export(sub("empty"))).await.expect("written");
    assert_eq!(done.rows, 0);
    for (to, words) in [("empty", "it is left as it is: name a new file"), ("absent/rows", "name a file in a folder that is there")] {
        let e = upkeep::run(&source, &Command::Export(sub(to))).await.expect_err(to);
        assert!(e.exit_code() == 73 && e.to_string().contains(words), "{} {e}", e.exit_code());
    }
    let import = Command::Import(sub("empty"));
    let e = upkeep::run(&target, &import).await.expect_err("no rows");
    for words in ["nothing was imported", "empty: it has no rows", "catalog migrate"] {
        assert!(e.exit_code() == 1 && e.to_string().contains(words), "{} {e}", e.exit_code());
    }
    assert!(!sub("target.sqlite").exists(), "no empty catalog appears");
    SqliteCatalog::create(&sub("target.sqlite")).await.expect("new").close().await;
    let e = upkeep::run(&target, &import).await.expect_err("no rows either");
    assert!(e.to_string().contains("it has no rows") && sub("target.sqlite").exists(), "{e}");
    let catalog = SqliteCatalog::open(&sub("source.sqlite")).await.expect("there");
    catalog.add_token(conformance::token(1, 2)).await.expect("kept");
    catalog.close().await;
    drop(catalog);
    let done = upkeep::run(&source, &Command::Export(sub("rows"))).await.expect("written");
    assert_eq!(done.rows, 1);
    assert_eq!(upkeep::run(&target, &Command::Import(sub("rows"))).await.map(|done| done.rows), Ok(1));
}
