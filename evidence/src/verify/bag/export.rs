//! What a bag says of its own making, against the log's record of the export and the timestamps over the bag. Whoever exported
//! can sign a bag anew with another date or reason, but neither of these.

use crate::bag::{DESCRIPTION, Description};
use crate::text::escape_bounded;
use crate::time::Timestamp;
use crate::verify::chain::{Chain, SLACK_S};
use crate::verify::{Code, Findings, TimestampSummary};

/// Compares `exported_at` and `reason`. An export that is not recorded at all has its own finding.
pub(super) fn check(d: &Description, chain: &Chain, stamps: &[TimestampSummary], findings: &mut Findings) {
    let at = d.exported_at;
    let exports = chain.exports_by(&d.exported_by);
    // Of several the newest with that reason: others may have been asked for at the same time.
    if let Some(recorded) = exports.iter().rev().find(|e| e.reason == d.reason).or_else(|| exports.last()) {
        if recorded.reason != d.reason {
            let (said, recorded) = (escape_bounded(&d.reason, 300), escape_bounded(&recorded.reason, 300));
            let message = format!("bag.json gives the reason '{said}', the log's record of the export '{recorded}'");
            findings.add(Code::BagExport, DESCRIPTION, message);
        }
        if at.plus_s(SLACK_S) < recorded.at {
            let message = format!("bag.json says that the case was exported at {at}, the log records the export at {}", recorded.at);
            findings.add(Code::BagExport, DESCRIPTION, message);
        }
    }
    for stamp in stamps {
        let latest = latest(stamp);
        if at > latest.plus_s(SLACK_S) {
            let message =
                format!("bag.json says that the case was exported at {at}, '{}' saw the bag at {latest} at the latest", stamp.object);
            findings.add(Code::BagExport, DESCRIPTION, message);
        }
    }
}

/// The last moment that a token allows.
fn latest(stamp: &TimestampSummary) -> Timestamp {
    let off = i64::try_from(stamp.accuracy_ns.unwrap_or(0)).unwrap_or(i64::MAX);
    Timestamp::from_unix_ns(stamp.time.unix_ns().saturating_add(off))
}
