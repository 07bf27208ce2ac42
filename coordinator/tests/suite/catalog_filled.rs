//! No coordinator runs on a catalog that nobody ever used while the store is full: it would say that there is nothing.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use exhibit_certs::PeerName;
use exhibit_certs::deployment::Deployment;
use exhibit_certs::enrol::Enroller;
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::ledger::{Keys, Ledgers};
use exhibit_coordinator::store::LocalStore;
use exhibit_coordinator::{clock, reindex};
use exhibit_evidence::id::{AgentId, CaseId};
use exhibit_evidence::key::SigningKey;
use exhibit_evidence::record::Role;

use crate::support::world::World;

/// Stops, and puts a new, empty catalog in the place of the one that was used.
async fn lose_catalog(world: &mut World, name: &str) -> PathBuf {
    world.stop().await;
    let file = world.dir.path().join(name);
    SqliteCatalog::create(&file).await.expect("catalog").close().await;
    world.place.catalog_file = Some(file.clone());
    file
}

fn deployment(world: &World) -> Deployment {
    Deployment::load(&world.dir.path().join("deployment")).expect("deployment")
}

fn ledgers(world: &World, deployment: Deployment) -> Arc<Ledgers> {
    let keys = Keys { anchor: deployment.anchor, log: deployment.log_key, witnesses: Vec::new() };
    Ledgers::new(Arc::new(LocalStore::open(&world.store_dir()).expect("store")), keys)
}

async fn reindexed(world: &World, file: &Path) -> reindex::Report {
    let catalog = SqliteCatalog::open(file).await.expect("catalog");
    let report = reindex::rebuild(&ledgers(world, deployment(world)), &catalog, clock::now()).await.expect("made again");
    catalog.close().await;
    report
}

async fn refused(world: &mut World) -> String {
    world.try_start().await.expect_err("an empty catalog")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unused_catalog_is_refused_over_a_full_store_until_it_is_filled() {
    let mut world = World::start().await;
    let case = world.open_case().await.case_id;
    let file = lose_catalog(&mut world, "lost.sqlite").await;
    for _ in 0..2 {
        let why = refused(&mut world).await;
        let words = ["the catalog is empty", "the store has objects of cases", "catalog.postgres", "reindex --replace", "catalog import"];
        assert!(words.iter().all(|word| why.contains(word)), "{why}");
    }
    assert_eq!(reindexed(&world, &file).await.cases, 1);
    world.try_start().await.expect("filled");
    let known = world.running().parts.catalog.case(case.parse().expect("id")).await.expect("read");
    assert!(known.is_some());

    let _ = world.enroll("agent").await;
    let file = lose_catalog(&mut world, "lost-again.sqlite").await;
    let why = refused(&mut world).await;
    assert!(why.contains("agents are enrolled in the deployment's log (1)"), "{why}");
    assert_eq!(reindexed(&world, &file).await.agents, 1);
    world.try_start().await.expect("filled");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_catalog_that_was_used_may_lack_what_a_dying_process_did_not_write_into_it() {
    let mut world = World::start().await;
    world.stop().await;
    let own = deployment(&world);
    let key = SigningKey::from_seed(&[9; 32]);
    let name: PeerName = format!("spiffe://test/agent/{}", AgentId::of_key(&key.public().id())).parse().expect("name");
    let enroller = Enroller { key: &own.issuer_key, enrolment: Some(&own.issuer_enrolment) };
    let record = enroller.enrol(&name, key.public(), &[Role::Agent], "token", clock::now()).expect("small");
    let log = ledgers(&world, own).deployment().await.expect("log");
    log.append(vec![record]).await.expect("enrolled");
    world.try_start().await.expect("it was used");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_among_the_cases_of_a_new_deployment_is_told_and_keeps_nobody_from_starting() {
    let mut world = World::start().await;
    // As `init` leaves it.
    lose_catalog(&mut world, "new.sqlite").await;
    let like_a_case = CaseId::new(1_700_000_000_000, [7; 10]);
    let deployment_log = world.store_dir().join("deployment/log");
    let cases = world.store_dir().join("cases");
    for (file, content) in [
        ("junk/x".to_owned(), b"junk".to_vec()),
        (
            format!("{like_a_case}/log/seq/0000000000.dsse.json"),
            std::fs::read(deployment_log.join("seq/0000000000.dsse.json")).expect("record"),
        ),
        (format!("{like_a_case}/log/checkpoint"), std::fs::read(deployment_log.join("checkpoint")).expect("head")),
    ] {
        let file = cases.join(file);
        std::fs::create_dir_all(file.parent().expect("above")).expect("folder");
        std::fs::write(file, content).expect("written");
    }
    world.try_start().await.expect("no case is left out");
    let told = world.incidents().await;
    let told: Vec<&String> = told.iter().filter(|i| i.starts_with("store-foreign: ")).collect();
    assert!(told.len() == 1 && told[0].contains("(2)") && told[0].contains("'cases/"), "{told:?}");
    world.stop().await;
    world.try_start().await.expect("it was used");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_among_the_cases_keeps_nobody_from_starting_after_a_reindex() {
    let mut world = World::start().await;
    let file = lose_catalog(&mut world, "lost.sqlite").await;
    let junk = world.store_dir().join("cases/junk");
    std::fs::create_dir_all(&junk).expect("folder");
    std::fs::write(junk.join("x"), b"junk").expect("written");
    let report = reindexed(&world, &file).await;
    assert!(report.cases == 0 && report.problem_count > 0, "{report:?}");
    world.try_start().await.expect("nothing more can be found");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_case_whose_head_is_gone_is_one_that_an_empty_catalog_leaves_out() {
    let mut world = World::start().await;
    let case = world.open_case().await.case_id;
    lose_catalog(&mut world, "lost.sqlite").await;
    std::fs::remove_file(world.store_dir().join(format!("cases/{case}/log/checkpoint"))).expect("removed");
    let why = refused(&mut world).await;
    assert!(why.contains("the store has objects of cases") && why.contains(&case), "{why}");
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_start_leaves_the_catalog_empty_for_an_import() {
    let mut world = World::start().await;
    let case = world.open_case().await.case_id;
    world.stop().await;
    let used = SqliteCatalog::open(&world.dir.path().join("catalog.sqlite")).await.expect("catalog");
    let mut export = Vec::new();
    let written = used.export(&mut export).await.expect("written");
    used.close().await;
    let file = lose_catalog(&mut world, "moved.sqlite").await;
    refused(&mut world).await;
    let catalog = SqliteCatalog::open(&file).await.expect("catalog");
    let taken = catalog.import(&mut export.as_slice()).await.expect("it is empty");
    assert_eq!(taken.rows, written.rows);
    catalog.close().await;
    drop(catalog);
    world.try_start().await.expect("filled");
    let known = world.running().parts.catalog.case(case.parse().expect("id")).await.expect("read");
    assert!(known.is_some());
    world.stop().await;
}
