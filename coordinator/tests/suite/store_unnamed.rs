//! Evidence that no record of its log names, and what lies beside the folders of a store: a sample finds it by the names alone.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;

use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::reverify::{self, Depth, Report};
use exhibit_coordinator::store::LocalStore;
use exhibit_evidence::Digest;
use exhibit_evidence::id::CollectionId;

use crate::custody_access::collected;
use crate::support::world::{self, World};

/// So little that no segment is read.
const LITTLE: Depth = Depth::Sample(1);

#[tokio::test(flavor = "multi_thread")]
async fn a_sample_names_evidence_that_no_record_names_and_what_lies_beside_the_folders() {
    let mut world = World::start().await;
    let (case, job) = collected(&mut world).await;
    assert_eq!(world.closed(&job.collection).await.state, "sealed");
    world.stop().await;
    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let root = world.store_dir();
    let verify = async |depth: Depth| -> Report {
        let store = Arc::new(LocalStore::open(&root).expect("store"));
        reverify::run(&config, store, depth, None, world::now).await.expect("runs")
    };
    assert!(verify(LITTLE).await.sound && verify(Depth::All).await.sound);

    let evidence = root.join(format!("cases/{}/collections", case.case_id));
    let genuine = evidence.join(format!("{}/s1/00000000.tar.zst", job.collection));
    let strange = CollectionId::from_digest(&Digest::of(b"no order"));
    let copies = [format!("{strange}/s1"), format!("{}/s9", job.collection)];
    for copy in &copies {
        std::fs::create_dir_all(evidence.join(copy)).expect("folder");
        std::fs::copy(&genuine, evidence.join(copy).join("00000000.tar.zst")).expect("copied");
    }
    std::fs::write(evidence.join("notes.txt"), b"junk").expect("written");
    let report = verify(LITTLE).await;
    let found = report.cases[0].findings.join("\n");
    assert!(!report.sound && !report.text().contains("Everything that was read is sound"), "{report:#?}");
    for words in [
        format!("object.unaccounted collections/{strange}/: 1 object "),
        format!("object.unaccounted collections/{}/s9/: 1 object ", job.collection),
        "object.unknown collections/notes.txt: ".to_owned(),
    ] {
        assert!(found.contains(&words), "{words}: {report:#?}");
    }
    let all = verify(Depth::All).await.cases[0].findings.join("\n");
    assert_eq!(all.matches("object.unaccounted ").count(), 2, "as the verifier finds it: {all}");

    for copy in &copies {
        std::fs::remove_dir_all(evidence.join(copy)).expect("removed");
    }
    std::fs::remove_dir_all(evidence.join(strange.as_str())).expect("removed");
    std::fs::remove_file(evidence.join("notes.txt")).expect("removed");
    assert!(verify(LITTLE).await.sound);
    for name in ["junk", "cases/junk"] {
        std::fs::write(root.join(name), b"junk").expect("written");
        let report = verify(LITTLE).await;
        assert!(!report.sound && report.notes.iter().any(|note| note.contains(&format!("'{name}'"))), "{report:#?}");
        std::fs::remove_file(root.join(name)).expect("removed");
    }
    assert!(verify(LITTLE).await.sound);
    // A name that cannot be ours hides nothing beside it; a disk's own folder is nobody's trace.
    std::fs::create_dir(root.join("lost+found")).expect("made");
    assert!(verify(LITTLE).await.sound);
    std::fs::write(root.join("junk"), b"junk").expect("written");
    for name in ["a b", "cases/a b"] {
        std::fs::create_dir(root.join(name)).expect("made");
    }
    let report = verify(LITTLE).await;
    for name in ["'junk'", "'a b/'", "'cases/a b/'"] {
        assert!(!report.sound && report.notes.iter().any(|note| note.contains(name)), "{name}: {report:#?}");
    }
    assert!(!report.notes.iter().any(|note| note.contains("lost+found")), "{report:#?}");
}
