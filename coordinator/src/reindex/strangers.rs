//! What lies in the store and is named by nothing: told, and left out of the catalog.

use exhibit_evidence::id::CollectionId;
use exhibit_evidence::layout::{self, LogName, StreamNumber};

use super::rebuild::Trouble;
use super::{Report, STRANGERS_MAX};
use crate::reverify::{Left, Records, Why};
use crate::store::Store;

/// Names what in the folder of a case, or of the deployment, has a name that nothing of ours has, and the evidence that no record of the
/// log accounts for; `records` are those of a case whose log could be read. No coordinator may run: the log is older than the listing.
pub(super) async fn tell(store: &dyn Store, log: &LogName, records: Option<&Records>, report: &mut Report) -> Result<(), Trouble> {
    let (of, folder) = match log {
        LogName::Case(case) => (case.to_string(), layout::case_folder(case)),
        LogName::Deployment => ("deployment".to_owned(), "deployment".to_owned()),
    };
    let (mut odd, mut count, mut left, mut after) = (Vec::new(), 0_usize, Left::default(), None::<String>);
    loop {
        let page = store.list(&folder, after.as_deref()).await?;
        for entry in &page.entries {
            if layout::parse(&entry.name).is_some() {
                if let Some(records) = records {
                    left.note(records, entry);
                }
            } else if !records.is_some_and(|records| is_told(records, &entry.name)) {
                count = count.saturating_add(1);
                if odd.len() <= STRANGERS_MAX {
                    odd.push(entry.name.clone());
                }
            }
        }
        let Some(last) = page.entries.last().filter(|_| page.more) else { break };
        after = Some(last.name.clone());
    }
    report.foreign((odd.as_slice(), count), ("nothing of ours ever has such a name", "have a name that nothing of ours has"));
    // Streams beside a sealed collection are told with their collection.
    for finding in left.findings(Some(Why::NoReceipt)) {
        report.problem(format!("{of}: {finding}"));
    }
    Ok(())
}

/// Whether whoever reads a stream, or compares the streams of a sealed collection, names what lies in its folder.
fn is_told(records: &Records, name: &str) -> bool {
    let mut parts = name.split('/').skip(2);
    let (Some("collections"), Some(collection), Some(stream), Some(_)) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return false;
    };
    let Ok(collection) = collection.parse::<CollectionId>() else { return false };
    let number = stream.strip_prefix('s').and_then(|n| n.parse().ok()).map(StreamNumber);
    records.has(&collection, number.filter(|number| number.to_string() == stream))
}
