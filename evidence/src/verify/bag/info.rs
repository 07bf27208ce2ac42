//! `bag-info.txt`, which people and archives read first: each label against what the bag, the log and the payload say.

use std::collections::BTreeSet;
use std::io;

use super::Bag;
use crate::bag::{Description, INFO, INFO_BYTES_MAX, INFO_VERIFIED, PAYLOAD, info};
use crate::text::escape_bounded;
use crate::verify::{Checked, Code, Findings};

/// Lines that are looked at: a dozen are the format's.
const LINES_MAX: usize = 100;

/// Compares what is there. A bag that says which views were made has every label.
pub(super) fn check(bag: &Bag<'_>, d: &Description, case: &Checked, findings: &mut Findings) {
    let mut problem = |message: String| findings.add(Code::BagInfo, INFO, message);
    let text = match bag.read(INFO, INFO_BYTES_MAX) {
        Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => String::new(),
        Err(e) => return problem(format!("{INFO} cannot be read: {e}")),
    };
    // Other readers split at LF alone: what one takes for a line the others must take for the same.
    if text.contains('\r') {
        problem(format!("{INFO} holds a carriage return; the format ends its lines with LF alone"));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        problem(format!("{INFO}: its last line has no end; the format ends every line with LF"));
    }
    let title = case.chain.case_summary().map(|opened| opened.title);
    let payload = bag.found.iter().filter(|(name, _)| name.starts_with(PAYLOAD));
    let (bytes, files) = payload.fold((0_u64, 0_u64), |(bytes, files), (_, f)| (bytes.saturating_add(f.size), files.saturating_add(1)));
    let expected = info(d, title.as_deref().unwrap_or_default(), bytes, files);
    let mut seen = BTreeSet::new();
    for line in text.lines().take(LINES_MAX) {
        let Some((label, value)) = line.split_once(": ") else {
            problem(format!("{INFO}: '{}' is no label with a value", escape_bounded(line, 100)));
            continue;
        };
        if !seen.insert(label) {
            problem(format!("{INFO} has the label '{}' twice", escape_bounded(label, 100)));
        }
        match expected.iter().find(|(known, _)| *known == label) {
            // Without a record that opens the case its title is not known, and that is said already.
            Some(("External-Description", _)) if title.is_none() => {}
            Some((_, stated)) if stated == value => {}
            Some((_, stated)) => {
                problem(format!("{INFO} has '{label}: {}', expected was '{}'", escape_bounded(value, 300), escape_bounded(stated, 300)));
            }
            None if label == INFO_VERIFIED && is_verdict(value) => {}
            None => problem(format!("{INFO} has '{}', which is none of the format's labels", escape_bounded(line, 200))),
        }
    }
    if text.lines().nth(LINES_MAX).is_some() {
        problem(format!("{INFO} has more than {LINES_MAX} lines"));
    }
    if d.views.is_some() {
        let labels = expected.iter().map(|(label, _)| *label).chain([INFO_VERIFIED]);
        for label in labels.filter(|label| !seen.contains(label)) {
            problem(format!("{INFO} lacks the label '{label}'"));
        }
    }
}

/// What an exporter may say of the verification: its word, which the verdict of whoever verifies stands beside.
fn is_verdict(value: &str) -> bool {
    value == "sound" || value.starts_with("sound as far as it can be read: ") || value == "NOT SOUND: see the documents"
}
