//! `store verify` reads the bytes again: it finds what changed, and an interrupted run is gone on with.
#![allow(clippy::large_futures, reason = "a test's future is as large as its story")]

use std::path::PathBuf;
use std::sync::Arc;

use exhibit_coordinator::config::{Config, Paths};
use exhibit_coordinator::reverify::{self, Depth, RESULTS, Report};
use exhibit_coordinator::store::LocalStore;

use crate::support::agent::{Agent, Job, file};
use crate::support::world::{self, World};

const EVERY_SEGMENT: Depth = Depth::Sample(1_000_000);

#[tokio::test(flavor = "multi_thread")]
async fn what_changed_in_the_store_is_found_and_an_interrupted_run_goes_on() {
    let mut world = World::start().await;
    let credential = world.enroll("web-1").await;
    let mut agent = Agent::new(credential, world.port, 1).await;
    let mut session = agent.session(&[]).await.expect("session");
    let (case, order, envelope) = world.ordered(std::slice::from_ref(&agent.id)).await;
    let job = Job::new(&order, &envelope, &agent.id, 1);
    session.offer().await;
    session.reply(&job.collection, vec![]).await;
    let files = [file("system", "os-release", "NAME=Debian\n"), file("files", "/etc/passwd", "root:x:0:0::/root:/bin/sh\n")];
    agent.send_all(&job, &job.honest(&files)).await.expect("received");
    session.closed().await;
    world.open_case().await;

    let paths = Paths { deployment: PathBuf::from("deployment"), ..Paths::default() };
    let config = Config { paths, folder: world.dir.path().to_owned(), ..Config::default() };
    let verify = async |depth: Depth| -> Report {
        let store = Arc::new(LocalStore::open(&world.store_dir()).expect("store"));
        reverify::run(&config, store, depth, Some(1 << 30), world::now).await.expect("runs")
    };
    // The coordinator runs meanwhile.
    for depth in [EVERY_SEGMENT, Depth::All] {
        let report = verify(depth).await;
        assert!(report.sound && report.cases.len() == 2 && report.resumed == 0, "{report:#?}");
        assert_eq!(report.cases.iter().map(|c| c.segments).sum::<u64>(), 3, "{report:#?}");
    }
    // A run that died before its last line, or in the middle of one.
    let kept = world.dir.path().join(RESULTS);
    let text = std::fs::read_to_string(&kept).expect("results");
    let (whole, _) = text.trim_end().rsplit_once("\n{\"done\"").expect("the run ended");
    std::fs::write(&kept, format!("{whole}\n{{\"case\": \"cut")).expect("written");
    let report = verify(Depth::All).await;
    assert!(report.sound && report.cases.is_empty() && report.resumed == 2, "{report:#?}");
    assert_eq!(verify(Depth::All).await.resumed, 0, "that run has its end");

    let segment = world.store_dir().join(format!("cases/{}/collections/{}/s1/00000000.tar.zst", case.case_id, job.collection));
    let mut bytes = std::fs::read(&segment).expect("segment");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&segment).and_then(|()| std::fs::write(&segment, bytes)).expect("altered");
    for (depth, words) in [(EVERY_SEGMENT, "is not what its manifest names"), (Depth::All, "segment.")] {
        let report = verify(depth).await;
        let found = report.cases.iter().find(|c| c.case == case.case_id).expect("the case");
        assert!(!report.sound && !found.sound && found.findings.iter().any(|f| f.contains(words)), "{report:#?}");
        assert!(report.text().contains("NOT SOUND") && report.text().contains("exhibit-verify"), "{}", report.text());
    }
    assert_eq!("0.5%".parse(), Ok(Depth::Sample(5_000)));
    assert!(["", "0%", "101%", "1", "x%"].iter().all(|bad| bad.parse::<Depth>().is_err()));
}
