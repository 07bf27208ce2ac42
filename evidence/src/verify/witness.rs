//! Heads that are signed besides the checkpoint: those that witnesses vouch for, in the case and from outside. Each must
//! be part of the history, and as many witnesses as are required must vouch for its last head, or for a later one that is proved
//! to continue it.

use std::collections::{BTreeMap, BTreeSet};

use super::later::{Shown, before_the_export, judge};
use super::{CaseFiles, Code, Findings, Options, Severity, Witnessed, read_bounded, unreadable};
use crate::digest::Digest;
use crate::layout::CaseObject;
use crate::log::{Checkpoint, ConsistencyProof, NOTE_BYTES_MAX, NotCosigned, Note};
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
    /// When the history says last that the case was exported.
    pub exported: Option<Timestamp>,
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
    let mut tally = Tally { options, heads, later: BTreeSet::new(), longer: BTreeMap::new(), newest: BTreeMap::new() };
    // Before the heads that they are about.
    for (n, proof) in options.consistency.iter().enumerate() {
        tally.proof(&format!("consistency proof {}", n + 1), proof, findings);
    }
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
    /// Size and root of later heads that are proved to continue this history.
    later: BTreeSet<(u64, Digest)>,
    /// Of each size beyond this history the first head that somebody signed, and which it was.
    longer: BTreeMap<u64, (Digest, String)>,
    /// For each witness (by its place in the options) the newest head of this history that it cosigned, or of a later one that
    /// continues it: size and time.
    newest: BTreeMap<usize, (u64, u64)>,
}

impl Tally<'_> {
    /// The head in a note of this log that its key or a given witness signed, and in words who did.
    fn signed(&self, object: &str, note: &Note, size: Option<u64>, findings: &mut Findings) -> Option<(Checkpoint, &'static str)> {
        let mut bad = |why: String| {
            findings.add(Code::WitnessMalformed, object, format!("{object}: {why}"));
            None
        };
        let checkpoint = match Checkpoint::of(note) {
            Ok(checkpoint) if size.is_none_or(|size| size == checkpoint.size) => checkpoint,
            Ok(checkpoint) => return bad(format!("it is a head of {} records", checkpoint.size)),
            Err(e) => return bad(escape_bounded(&e.to_string(), 300)),
        };
        if self.heads.origin != Some(checkpoint.origin.as_str()) {
            return bad(format!("it is of log '{}'", escape_bounded(&checkpoint.origin, 120)));
        }
        if self.options.witnesses.iter().any(|w| w.verify(note).is_ok()) {
            return Some((checkpoint, "a witness vouches for"));
        }
        if !(self.heads.signed_by_log)(note) {
            return bad("neither a log key of this case nor a given witness signed it".to_owned());
        }
        Some((checkpoint, "the log's own key signed"))
    }

    /// Checks a head that is signed by somebody and counts its witnesses. One that lies in the case is of the size in its name.
    fn note(&mut self, object: &str, note: &Note, size: Option<u64>, findings: &mut Findings) {
        let Some((checkpoint, who)) = self.signed(object, note, size, findings) else { return };
        self.forged(object, note, findings);
        let differs = self.differs(object, &checkpoint, who, findings);
        if self.contains(&checkpoint) {
            self.count(note);
            return;
        }
        if differs {
            return;
        }
        match self.heads.roots.get(checkpoint.size as usize) {
            Some(root) => {
                let (theirs, size) = (checkpoint.root, checkpoint.size);
                let message = format!("{object}: {who} root {theirs} at {size} records, this history has root {root}");
                findings.add(Code::LogForked, object, message);
            }
            None => self.longer(object, note, (checkpoint.size, who), size.is_some(), findings),
        }
    }

    /// True when another signed head of as many records, beyond this history, has another root: then there were two histories,
    /// whichever of them this one belongs to.
    fn differs(&mut self, object: &str, head: &Checkpoint, who: &str, findings: &mut Findings) -> bool {
        let (size, root) = (head.size, head.root);
        if size <= self.last().0 {
            return false;
        }
        let (known, first) = self.longer.entry(size).or_insert_with(|| (root, object.to_owned()));
        if *known == root {
            return false;
        }
        let message =
            format!("{object}: {who} root {root} at {size} records, and {first} is signed too and has root {known} there: two histories");
        findings.add(Code::LogForked, object, message);
        true
    }

    /// Records of the history, and the root over them.
    fn last(&self) -> (u64, Digest) {
        let root = self.heads.roots.last().copied().unwrap_or_else(|| Digest::of(b""));
        (self.heads.roots.len().saturating_sub(1) as u64, root)
    }

    /// A head of more records than there are, of which nothing shows yet that it continues this history.
    fn longer(&self, object: &str, note: &Note, (size, who): (u64, &str), inside: bool, findings: &mut Findings) {
        let (have, root) = self.last();
        let found = format!("{object}: {who} a head of {size} records, this history has {have}");
        if inside || !self.options.is_bag {
            let message =
                format!("{found}: records are missing at its end; it was cut back, or this is an older copy, or of another history");
            return findings.add(Code::LogForked, object, message);
        }
        if let Some((witness, at)) = before_the_export(note, &self.options.witnesses, self.heads.exported)
            && let Some(exported) = self.heads.exported
        {
            let name = escape_bounded(witness.name(), 128);
            let message = format!(
                "{found} and says that it was exported at {exported}, but '{name}' vouched for the longer one at {at} already, unless its \
                     clock or the coordinator's is wrong; this decides: exhibit log consistency --case CASE --from {have}:{root} --to {size} \
                     --out FILE, then --consistency FILE"
            );
            return findings.add(Code::LogForked, object, message);
        }
        let message = format!(
            "{found}, up to its export; the proof that the longer one continues it: exhibit log consistency --case CASE --from {have}:{root} \
             --to {size} --out FILE, then --consistency FILE"
        );
        findings.add(Code::LogShorter, object, message);
    }

    /// Checks a proof, and counts the witnesses of the later head that it leads to.
    fn proof(&mut self, object: &str, proof: &ConsistencyProof, findings: &mut Findings) {
        let note = match Note::parse(&proof.checkpoint) {
            Ok(note) => note,
            Err(e) => return findings.add(Code::WitnessMalformed, object, format!("{object}: {e}")),
        };
        let Some((head, who)) = self.signed(object, &note, None, findings) else { return };
        let ((have, root), size) = (self.last(), head.size);
        if size <= have {
            // Nothing has to lead to a head that is, or is not, in this history.
            return self.note(object, &note, None, findings);
        }
        self.forged(object, &note, findings);
        self.differs(object, &head, who, findings);
        let old = proof.old;
        match judge(self.heads.roots, proof, &head) {
            Shown::Continues => {
                self.later.insert((size, head.root));
                self.count(&note);
                if !self.options.is_bag {
                    let message = format!(
                        "{object}: {who} a head of {size} records that continues this history of {have}: it was cut back, or this is an older copy"
                    );
                    findings.add(Code::LogForked, object, message);
                }
            }
            Shown::Another(theirs) => {
                let message = format!(
                    "{object}: {who} a head of {size} records whose history has root {theirs} at {old} records, this one has another root"
                );
                findings.add(Code::LogForked, object, message);
            }
            Shown::Nothing => {
                let message = format!("{object}: it does not lead from the root of {old} records to the head of {size} that {who}");
                findings.add(Code::LogConsistency, object, message);
            }
            Shown::Elsewhere => {
                let message = format!(
                    "{object}: it begins at {old} records, this history ends at {have}: it shows nothing; get one --from {have}:{root}"
                );
                findings.add_as(Code::LogConsistency, Severity::Note, object, message);
            }
        }
    }

    /// A line in the name of a given witness that does not hold: damaged, or made by somebody else.
    fn forged(&self, object: &str, note: &Note, findings: &mut Findings) {
        for witness in &self.options.witnesses {
            if let Err(e @ NotCosigned::BadSignature(_)) = witness.verify(note) {
                findings.add(Code::WitnessMalformed, object, format!("{object}: {}", escape_bounded(&e.to_string(), 300)));
            }
        }
    }

    /// The head is one of this history, or is proved to continue it.
    fn contains(&self, checkpoint: &Checkpoint) -> bool {
        let here = self.heads.roots.get(checkpoint.size as usize) == Some(&checkpoint.root);
        here || self.later.contains(&(checkpoint.size, checkpoint.root))
    }

    /// Counts the witnesses of a head that this history contains.
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
        let how = if self.options.is_bag {
            "; where they cosigned the log later, the proof from this head to that one will do: --consistency FILE, which 'exhibit witness \
             cosign --for BAG --out FILE' writes"
        } else {
            ""
        };
        let message = format!("{have} of {required} required witnesses cosigned the checkpoint of {size} records; {older}{how}");
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
