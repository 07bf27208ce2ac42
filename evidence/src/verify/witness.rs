//! Heads that are signed besides the checkpoint: those that witnesses vouch for, in the case and from outside. Each must
//! be part of the history, and as many witnesses as are required must vouch for its last head.

use std::collections::{BTreeMap, BTreeSet};

use super::{CaseFiles, Code, Findings, Options, Witnessed, read_bounded, unreadable};
use crate::digest::Digest;
use crate::layout::CaseObject;
use crate::log::{Checkpoint, NOTE_BYTES_MAX, NotCosigned, Note};
use crate::text::escape_bounded;
use crate::time::Timestamp;

/// What the history is that heads are compared with.
pub(super) struct Heads<'a> {
    /// Root at each size.
    pub roots: &'a [Digest],
    /// The log's name, once the case is known.
    pub origin: Option<&'a str>,
    /// True when one of the log's keys signed a note.
    pub signed_by_log: &'a dyn Fn(&Note) -> bool,
}

const CHECKPOINT: &str = "log/checkpoint";

/// Checks everything that is signed about the log's heads. `checkpoint` is the head of the case when it is valid.
pub(super) fn check(
    files: &dyn CaseFiles,
    options: &Options,
    heads: &Heads<'_>,
    checkpoint: Option<&Note>,
    cosigned: &BTreeSet<(String, u64)>,
    findings: &mut Findings,
) -> Vec<Witnessed> {
    let mut tally = Tally { options, heads, newest: BTreeMap::new() };
    let mut buffer = Vec::new();
    for (id, size) in cosigned {
        let object = CaseObject::Cosigned(id.clone(), *size).to_string();
        if let Err(e) = read_bounded(files, &object, NOTE_BYTES_MAX as u64, &mut buffer) {
            findings.add(unreadable(&e, Code::WitnessMalformed), &object, format!("'{object}' cannot be read: {e}"));
            continue;
        }
        match Note::parse(&buffer) {
            Ok(note) => tally.note(&object, &note, Some(*size), findings),
            Err(e) => findings.add(Code::WitnessMalformed, &object, format!("'{object}': {e}")),
        }
    }
    for (n, note) in options.held.iter().enumerate() {
        tally.note(&format!("held checkpoint {}", n + 1), note, None, findings);
    }
    if let Some(note) = checkpoint {
        tally.forged(CHECKPOINT, note, findings);
        tally.count(note);
    }
    tally.require(checkpoint, findings);
    tally.into_summary()
}

struct Tally<'a> {
    options: &'a Options,
    heads: &'a Heads<'a>,
    /// For each witness (by its place in the options) the newest head of this history that it cosigned: size and time.
    newest: BTreeMap<usize, (u64, u64)>,
}

impl Tally<'_> {
    /// Checks a head that is signed by somebody and counts its witnesses.
    fn note(&mut self, object: &str, note: &Note, size: Option<u64>, findings: &mut Findings) {
        let bad = |why: String, findings: &mut Findings| findings.add(Code::WitnessMalformed, object, format!("{object}: {why}"));
        let checkpoint = match Checkpoint::of(note) {
            Ok(checkpoint) if size.is_none_or(|size| size == checkpoint.size) => checkpoint,
            Ok(checkpoint) => return bad(format!("it is a head of {} records", checkpoint.size), findings),
            Err(e) => return bad(escape_bounded(&e.to_string(), 300), findings),
        };
        if self.heads.origin != Some(checkpoint.origin.as_str()) {
            return bad(format!("it is of log '{}'", escape_bounded(&checkpoint.origin, 120)), findings);
        }
        let by_witness = self.options.witnesses.iter().any(|w| w.verify(note).is_ok());
        if !by_witness && !(self.heads.signed_by_log)(note) {
            return bad("neither a log key of this case nor a given witness signed it".to_owned(), findings);
        }
        self.forged(object, note, findings);
        if self.contains(&checkpoint) {
            self.count(note);
            return;
        }
        let who = if by_witness { "a witness vouches for" } else { "the log's own key signed" };
        let have = self.heads.roots.len().saturating_sub(1);
        let message = match self.heads.roots.get(checkpoint.size as usize) {
            Some(root) => format!("{object}: {who} root {} at {} records, this history has root {root}", checkpoint.root, checkpoint.size),
            None => format!("{object}: {who} a head of {} records, this history has {have}", checkpoint.size),
        };
        findings.add(Code::LogForked, object, message);
    }

    /// A line in the name of a given witness that does not hold: damaged, or made by somebody else.
    fn forged(&self, object: &str, note: &Note, findings: &mut Findings) {
        for witness in &self.options.witnesses {
            if let Err(e @ NotCosigned::BadSignature(_)) = witness.verify(note) {
                findings.add(Code::WitnessMalformed, object, format!("{object}: {}", escape_bounded(&e.to_string(), 300)));
            }
        }
    }

    fn contains(&self, checkpoint: &Checkpoint) -> bool {
        self.heads.roots.get(checkpoint.size as usize) == Some(&checkpoint.root)
    }

    /// Counts the witnesses of a head of this history.
    fn count(&mut self, note: &Note) {
        for (n, witness) in self.options.witnesses.iter().enumerate() {
            if let Ok(cosigned) = witness.verify(note)
                && self.contains(&cosigned.checkpoint)
            {
                let found = (cosigned.checkpoint.size, cosigned.time_s);
                let newest = self.newest.entry(n).or_insert(found);
                *newest = found.max(*newest);
            }
        }
    }

    fn require(&self, checkpoint: Option<&Note>, findings: &mut Findings) {
        let required = self.options.witnesses_required;
        if required == 0 {
            return;
        }
        let size = checkpoint.and_then(|note| Checkpoint::of(note).ok()).map(|c| c.size);
        // One key under two names is one witness.
        let keys_at = |size: u64| {
            let vouching = self.newest.iter().filter(|(_, (newest, _))| *newest >= size);
            vouching.filter_map(|(n, _)| self.options.witnesses.get(*n)).map(|w| *w.key().as_bytes()).collect::<BTreeSet<_>>().len()
        };
        let Some(size) = size else {
            let message = format!("{required} witnesses are required, and there is no valid checkpoint that they could have cosigned");
            return findings.add(Code::WitnessRequired, CHECKPOINT, message);
        };
        let have = keys_at(size);
        if have >= required {
            return;
        }
        let older = self.newest.values().map(|(s, _)| *s).filter(|s| keys_at(*s) >= required).max();
        let older = older.map_or_else(
            || "no head of this history has enough".to_owned(),
            |s| format!("the newest head that has enough is of {s} records, so what was added since rests on the log key alone"),
        );
        let message = format!("{have} of {required} required witnesses cosigned the checkpoint of {size} records; {older}");
        findings.add(Code::WitnessRequired, CHECKPOINT, message);
    }

    fn into_summary(self) -> Vec<Witnessed> {
        let one = |(n, witness): (usize, &crate::log::WitnessKey)| {
            let newest = self.newest.get(&n);
            let at = newest.and_then(|(_, time_s)| i64::try_from(*time_s).ok()).map(Timestamp::from_unix_s);
            Witnessed { witness: witness.name().to_owned(), size: newest.map(|(size, _)| *size), at }
        };
        self.options.witnesses.iter().enumerate().map(one).collect()
    }
}
