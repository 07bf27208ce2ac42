//! The table: every call of store and catalog that a collection makes on its way, times every fault that such a call
//! can have. The calls are counted in a run without faults; then the first fails, the second, and so on.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use exhibit_coordinator::catalog::{CatalogError, faulty as catalog};
use exhibit_coordinator::store::{Kind, faulty as store};
use tokio::sync::Semaphore;

use crate::plan::Fault;
use crate::world::{Faults, Template, World};
use crate::{drive, heard};

/// One full segment and a rest.
const NOISE_BYTES: usize = 9 << 20;
/// Calls of one reading method that are tried; writes are tried all.
const READS_MAX: u32 = 6;
/// Runs at once: most of a run is waiting.
const AT_ONCE: usize = 16;
/// With `tests/run --quick` every so many-th case.
const QUICK_EVERY: usize = 12;

/// A step, a fault, and how to make it happen.
struct Case {
    step: String,
    column: String,
    fault: Fault,
}

/// What an object's name says about the step.
fn step_of(op: store::Op, name: &str) -> String {
    let what = match name {
        _ if name.ends_with("checkpoint") => "checkpoint",
        _ if name.contains("/seq/") => "log slot",
        _ if name.ends_with("manifest.jsonl") => "manifest",
        _ if name.contains("/collections/") && op != store::Op::List => "segment",
        _ => "folder",
    };
    format!("store {op:?} {what}")
}

fn store_faults(op: store::Op) -> Vec<store::Fault> {
    use store::Fault;
    let delay = Fault::Delay(Duration::from_millis(300));
    let before = [Kind::Retry, Kind::Full, Kind::Denied, Kind::Damaged].map(Fault::Before);
    match op {
        store::Op::PutNew | store::Op::PutHead => {
            let after = [Kind::Retry, Kind::Full, Kind::Denied, Kind::Damaged].map(Fault::After);
            [&before[..], &after[..], &[delay, Fault::DieBefore, Fault::DieAfter]].concat()
        }
        store::Op::Get => [&before[..], &[delay, Fault::DieBefore, Fault::Short, Fault::Corrupt]].concat(),
        store::Op::Size | store::Op::List | store::Op::Destroy => [&before[..], &[delay, Fault::DieBefore]].concat(),
    }
}

fn catalog_faults(op: &str) -> Vec<catalog::Fault> {
    use catalog::Fault;
    let errors = || [CatalogError::Busy("injected".to_owned()), CatalogError::Failed("injected".to_owned())];
    let mut all: Vec<Fault> = errors().map(Fault::Before).to_vec();
    all.push(Fault::Before(CatalogError::Damaged("injected".to_owned())));
    all.extend([Fault::Delay(Duration::from_millis(300)), Fault::DieBefore]);
    if catalog::WRITES.contains(&op) {
        all.extend(errors().map(Fault::After));
        all.push(Fault::DieAfter);
    }
    all
}

/// The word of a fault, for a column.
fn word(fault: &impl std::fmt::Debug) -> String {
    let text = format!("{fault:?}").to_lowercase().replace("(\"injected\")", "");
    if text.starts_with("delay") { "delay".to_owned() } else { text }
}

/// Counts the calls of a run without faults and makes a case of each call and fault.
async fn cases(template: &Arc<Template>) -> Vec<Case> {
    let mut world = World::start(template).await;
    let done = drive::run(&mut world, &[]).await.expect("without faults");
    assert_eq!(done.stored.streams, 1);
    let Faults { store, catalog } = &world.faults;
    let mut all = Vec::new();
    let mut counts: BTreeMap<store::Op, u32> = BTreeMap::new();
    for (op, name) in store.calls().split_off(done.calls_before.0) {
        let k = counts.entry(op).or_default();
        for fault in store_faults(op) {
            all.push(Case { step: step_of(op, &name), column: word(&fault), fault: Fault::Store(op, "", *k, 1, fault) });
        }
        *k += 1;
    }
    let mut counts: BTreeMap<&str, u32> = BTreeMap::new();
    for op in catalog.calls().split_off(done.calls_before.1) {
        let k = counts.entry(op).or_default();
        if catalog::WRITES.contains(&op) || *k < READS_MAX {
            for fault in catalog_faults(op) {
                all.push(Case { step: format!("catalog {op}"), column: word(&fault), fault: Fault::Catalog(op, *k, 1, fault) });
            }
        }
        *k += 1;
    }
    all
}

/// Runs per step and fault, and those that failed.
type Table = BTreeMap<(String, String), (u32, u32)>;

fn print(table: &Table) {
    let mut steps: Vec<&String> = table.keys().map(|(step, _)| step).collect();
    steps.dedup();
    for step in steps {
        let cells = table.iter().filter(|((s, _), _)| s == step).map(|((_, column), (runs, failed))| match failed {
            0 => format!("{column} {runs}"),
            _ => format!("{column} {runs} ({failed} FAILED)"),
        });
        eprintln!("  {step}: {}", cells.collect::<Vec<_>>().join(", "));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_step_times_every_fault() {
    heard::listen(false);
    let template = Template::make(NOISE_BYTES).await;
    let mut cases = cases(&template).await;
    if exhibit_tests::is_quick() {
        cases = cases.into_iter().step_by(QUICK_EVERY).collect();
    }
    let count = cases.len();
    let (table, failed) = (Arc::new(Mutex::new(Table::new())), Arc::new(Mutex::new(Vec::new())));
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut runs = tokio::task::JoinSet::new();
    let begun = tokio::time::Instant::now();
    for Case { step, column, fault } in cases {
        let place = Arc::clone(&places).acquire_owned().await.expect("open");
        let (template, table, failed) = (Arc::clone(&template), Arc::clone(&table), Arc::clone(&failed));
        runs.spawn(async move {
            let outcome = drive::in_new_world(&template, std::slice::from_ref(&fault)).await;
            let outcome = outcome.and_then(|done| match done.stored.streams {
                1 => Ok(()),
                n => Err(format!("the agent lived and made {n} streams")),
            });
            let mut table = table.lock().expect("lock");
            let cell = table.entry((step.clone(), column)).or_default();
            cell.0 += 1;
            if let Err(why) = outcome {
                cell.1 += 1;
                eprintln!("{step}: {fault:?}\n  {why}");
                failed.lock().expect("lock").push(format!("{step}: {fault:?}: {why}"));
            }
            drop(place);
        });
        while runs.try_join_next().is_some() {}
    }
    while runs.join_next().await.is_some() {}
    eprintln!("{count} cases in {} s", begun.elapsed().as_secs());
    print(&table.lock().expect("lock"));
    let failed = failed.lock().expect("lock");
    assert!(failed.is_empty(), "{} of {count} cases failed:\n{}", failed.len(), failed.join("\n"));
}
