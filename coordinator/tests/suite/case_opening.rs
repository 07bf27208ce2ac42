//! A case whose opening stands in its log and that the catalog does not have: it is told, and taken in.

use std::time::Duration;

use exhibit_coordinator::catalog::faulty::{Fault, Faults};
use exhibit_coordinator::catalog::sqlite::SqliteCatalog;
use exhibit_coordinator::catalog::{Catalog as _, CatalogError};
use exhibit_coordinator::store;
use exhibit_coordinator::store::faulty::Op;
use exhibit_evidence::id::CaseId;
use exhibit_evidence::record::{self, CaseClosed};
use exhibit_proto::transport::NEEDS_A_PERSON;

use crate::store_verify::verified;
use crate::support::soon;
use crate::support::world::{self, Place, World};

async fn has(world: &World, case: &CaseId) -> bool {
    world.running().parts.catalog.case(case.clone()).await.expect("read").is_some()
}

/// Of those that have a folder in the store the newest one.
fn newest(world: &World) -> CaseId {
    let folders = std::fs::read_dir(world.store_dir().join("cases")).expect("cases");
    let names = folders.map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned());
    names.max().expect("a case").parse().expect("id")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_case_that_the_catalog_did_not_take_is_told_and_taken_in_later() {
    let faults = Faults::default();
    let mut world = World::start_on(Place { catalog_faults: Some(faults.clone()), ..Place::default() }).await;
    let readonly = || Fault::Before(CatalogError::Failed("attempt to write a readonly database".to_owned()));
    faults.fail("add_case", 0, u32::MAX, readonly());
    let refused = world.try_open_case(false).await.expect_err("refused");
    let case = newest(&world);
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused:?}");
    assert!(refused.message().contains("is in its log") && refused.message().contains(case.as_str()), "{refused:?}");
    assert!(refused.metadata().contains_key(NEEDS_A_PERSON), "{refused:?}");
    assert!(!has(&world, &case).await);

    world.stop().await;
    let report = verified(&world).await;
    assert!(report.sound && report.cases.len() == 1, "{report:#?}");
    assert!(report.text().contains("the catalog lacks it"), "{}", report.text());
    faults.heal();
    world.try_start().await.expect("starts");
    soon("it is taken in at the start", async || has(&world, &case).await).await;

    // Without a restart.
    tokio::time::sleep(Duration::from_millis(5)).await;
    faults.fail("add_case", 0, 2, readonly());
    world.try_open_case(false).await.expect_err("refused");
    let later = newest(&world);
    assert!(later != case && !has(&world, &later).await);
    soon("it is taken in when the catalog takes it", async || has(&world, &later).await).await;
    assert_eq!(world.incidents().await, Vec::<String>::new());
    world.stop().await;
    assert!(!verified(&world).await.text().contains("the catalog lacks it"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_case_that_the_catalog_lost_with_more_than_its_opening_nothing_is_taken_in() {
    let mut world = World::start().await;
    let (opened, grown) = (world.open_case().await, world.open_case().await);
    let ids = [&opened, &grown].map(|case| case.case_id.parse::<CaseId>().expect("id"));
    let closed = CaseClosed {
        case: ids[1].clone(),
        predecessor: grown.case_opened_sha256.as_slice().try_into().expect("digest"),
        reason: "done".to_owned(),
        closed_by: world.me(),
        closed_at: world::now(),
    };
    let closed = record::sign(&closed, &world.admin.evidence).expect("small");
    world.running().parts.ledgers.case(&ids[1]).await.expect("log").append(vec![closed]).await.expect("appended");
    world.stop().await;
    // One that was used, as an older state of it would be.
    let file = world.dir.path().join("older.sqlite");
    let older = SqliteCatalog::create(&file).await.expect("new");
    older.set_standing("filled", "yes".to_owned()).await.expect("marked");
    older.close().await;
    drop(older);
    world.place.catalog_file = Some(file);
    world.try_start().await.expect("starts");
    soon("the one is taken in", async || has(&world, &ids[0]).await).await;
    let told = async |world: &World| world.incidents().await.into_iter().filter(|i| i.starts_with("recovery: ")).collect::<Vec<_>>();
    soon("the other is told", async || !told(&world).await.is_empty()).await;
    for start in 0..3 {
        let told = told(&world).await;
        assert!(told.len() == 1 && told[0].contains("more than its opening") && told[0].contains("reindex"), "{start}: {told:?}");
        assert!(!has(&world, &ids[1]).await);
        // What a recovery takes back at its end.
        let refused = r#"{"recovery start":[]}"#.to_owned();
        world.running().parts.catalog.set_standing("refused", refused).await.expect("kept");
        world.stop().await;
        world.try_start().await.expect("starts");
        let ended = async || world.running().parts.catalog.standing("refused").await.expect("read").as_deref() == Some("{}");
        soon("the recovery ends", ended).await;
    }
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_cannot_be_read_keeps_no_case_out_that_the_catalog_did_not_take() {
    let faults = Faults::default();
    let mut world = World::start_on(Place { catalog_faults: Some(faults.clone()), ..Place::default() }).await;
    let unread = world.open_case().await.case_id;
    tokio::time::sleep(Duration::from_millis(5)).await;
    faults.fail("add_case", 0, u32::MAX, Fault::Before(CatalogError::Failed("attempt to write a readonly database".to_owned())));
    world.try_open_case(false).await.expect_err("refused");
    let lacking = newest(&world);
    assert!(lacking.as_str() != unread && !has(&world, &lacking).await);
    world.stop().await;
    faults.heal();
    world.faults.fail(Op::Get, &format!("cases/{unread}/"), 0, u32::MAX, store::faulty::Fault::Before(store::Kind::Bug));
    world.try_start().await.expect("starts");
    soon("it is taken in", async || has(&world, &lacking).await).await;
    let told = async || world.incidents().await.iter().filter(|i| i.starts_with("recovery: ")).count();
    soon("the other is told", async || told().await == 1).await;
    world.faults.heal();
    world.stop().await;
}
