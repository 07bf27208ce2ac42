//! The log: every record in its order, the tree over them, and the signed head.

use super::chain::Chain;
use super::inventory::Inventory;
use super::{CaseFiles, Code, Counts, Findings, Head, Options, Witnessed, read_bounded, tiles, timestamps, unreadable, witness};
use crate::anchor::Anchor;
use crate::digest::Digest;
use crate::dsse::{ENVELOPE_BYTES_MAX, Envelope};
use crate::key::KeyId;
use crate::layout::{CaseObject, LogName};
use crate::log::{Checkpoint, NOTE_BYTES_MAX, Note, Tree, leaf_hash};
use crate::record::{Access, BadRecord, KeyRing, READERS, Record, Role, TrustError};

/// Reads the records in order, verifies each with the keys that are enrolled so far, hands it to the chain, and checks
/// the tree against the signed head and whatever else is signed about it.
pub(super) fn read(
    files: &dyn CaseFiles,
    anchor: &Anchor,
    options: &Options,
    inventory: &mut Inventory,
    chain: &mut Chain,
    counts: &mut Counts,
    findings: &mut Findings,
) -> History {
    let mut log = Log::new(anchor);
    let slots: Vec<u64> = std::mem::take(&mut inventory.slots).into_keys().collect();
    let checkpoint = read_checkpoint(files, inventory.checkpoint, findings);
    let covered = checkpoint.as_ref().map(|(c, _)| c.size);
    let mut expected = 0_u64;
    let mut buffer = Vec::new();
    for n in slots {
        if n != expected {
            report_gap((expected, n), covered, counts, findings);
        }
        expected = n.saturating_add(1);
        let object = CaseObject::Slot(n).to_string();
        if covered.is_some_and(|size| n >= size) {
            findings.add(
                Code::LogSlotBeyond,
                &object,
                format!("record {n} lies after the checkpoint, which covers {} records", covered.unwrap_or_default()),
            );
        }
        counts.records = counts.records.saturating_add(1);
        log.record(files, n, &object, &mut buffer, chain, counts, findings);
        if covered == Some(expected) {
            log.check_root(checkpoint.as_ref(), findings);
        }
    }
    if let Some(size) = covered.filter(|size| *size > expected) {
        report_missing(expected, size, counts, findings);
    }
    if let Some((size, root)) = options.expected {
        log.check_expected(size, root, findings);
    }
    if log.tree.size() == expected && log.leaves.len() as u64 == expected {
        tiles::check(files, &log.leaves, &inventory.tiles, covered, findings);
    }
    let name = if options.deployment { Some(LogName::Deployment) } else { chain.case().map(|case| LogName::Case(case.clone())) };
    let origin = name.map(|name| name.origin(&anchor.deployment));
    let head = checkpoint.as_ref().and_then(|(checkpoint, bytes)| log.head(checkpoint, bytes, origin.as_deref(), findings));
    let note = head.and_then(|_| checkpoint.and_then(|(_, bytes)| Note::parse(&bytes).ok()));
    let heads = witness::Heads {
        roots: &log.roots,
        origin: origin.as_deref(),
        signed_by_log: &|note| log.signer_of_note(note).is_some(),
        exported: chain.last_export(),
    };
    let witnesses = witness::check(files, options, &heads, note.as_ref(), &inventory.cosigned, findings);
    let timestamps = timestamps::check(files, options, &heads, &inventory.timestamps, chain, counts, findings);
    History { head, witnesses, timestamps, ring: log.ring, size: log.tree.size(), root: log.tree.root() }
}

/// What the log turned out to be.
pub(super) struct History {
    /// The signed head, if its signature holds.
    pub head: Option<Head>,
    /// What the witnesses vouch for.
    pub witnesses: Vec<Witnessed>,
    /// The timestamps of the case.
    pub timestamps: timestamps::Timestamps,
    /// The keys that are trusted after the last record.
    pub ring: KeyRing,
    /// Records that were read.
    pub size: u64,
    /// Root of the tree over them.
    pub root: Digest,
}

const CHECKPOINT: &str = "log/checkpoint";

fn read_checkpoint(files: &dyn CaseFiles, exists: bool, findings: &mut Findings) -> Option<(Checkpoint, Vec<u8>)> {
    if !exists {
        findings.add(Code::LogCheckpointMissing, CHECKPOINT, "there is no log/checkpoint");
        return None;
    }
    let mut bytes = Vec::new();
    if let Err(e) = read_bounded(files, CHECKPOINT, NOTE_BYTES_MAX as u64, &mut bytes) {
        findings.add(unreadable(&e, Code::LogCheckpointMissing), CHECKPOINT, format!("log/checkpoint cannot be read: {e}"));
        return None;
    }
    match Checkpoint::parse_unverified(&bytes) {
        Ok(checkpoint) => Some((checkpoint, bytes)),
        Err(e) => {
            findings.add(Code::LogCheckpointMalformed, CHECKPOINT, e.to_string());
            None
        }
    }
}

/// A gap before object `to`. That its records existed is signed as far as the checkpoint covers them; of the others nothing but the name of a
/// later object speaks, and anybody can have put that there.
fn report_gap((from, to): (u64, u64), covered: Option<u64>, counts: &mut Counts, findings: &mut Findings) {
    let signed = covered.map_or(to, |size| size.clamp(from, to));
    if from < signed {
        report_missing(from, signed, counts, findings);
    }
    if signed < to {
        counts.records = counts.records.saturating_add(to.saturating_sub(signed));
        let last = to.saturating_sub(1);
        let places = if signed == last { format!("place {signed}") } else { format!("places {signed} to {last}") };
        let message = format!(
            "nothing lies in {places}, after the {} records that the checkpoint covers, and '{}' lies beyond: it was put there, or records \
             that no signed head covered were removed",
            covered.unwrap_or_default(),
            CaseObject::Slot(to)
        );
        findings.add_broken_history(Code::LogSlotMissing, CaseObject::Slot(signed).to_string(), message);
    }
}

fn report_missing(from: u64, to: u64, counts: &mut Counts, findings: &mut Findings) {
    counts.records = counts.records.saturating_add(to.saturating_sub(from));
    let object = CaseObject::Slot(from).to_string();
    let last = to.saturating_sub(1);
    let message = if from == last { format!("record {from} is missing") } else { format!("records {from} to {last} are missing") };
    findings.add_broken_history(Code::LogSlotMissing, object, message);
}

struct Log {
    ring: KeyRing,
    tree: Tree,
    /// Root of the tree at each size; 32 bytes per record, so that an order's nonce can be checked.
    roots: Vec<Digest>,
    /// The hash of each record that could be read: what the tiles are made of.
    leaves: Vec<Digest>,
    log_keys: Vec<KeyId>,
}

impl Log {
    fn new(anchor: &Anchor) -> Self {
        let tree = Tree::new();
        Self { ring: KeyRing::new(anchor), roots: vec![tree.root()], tree, leaves: Vec::new(), log_keys: Vec::new() }
    }

    /// The signed head, when it is of this log and by its key.
    fn head(&self, checkpoint: &Checkpoint, bytes: &[u8], origin: Option<&str>, findings: &mut Findings) -> Option<Head> {
        if checkpoint.size == 0 {
            self.check_root(Some(&(checkpoint.clone(), Vec::new())), findings);
        }
        if let Some(origin) = origin.filter(|origin| checkpoint.origin != **origin) {
            let shown = crate::text::escape_bounded(&checkpoint.origin, 120);
            let message = format!("the checkpoint is of log '{shown}', this case's log is '{origin}'");
            findings.add(Code::LogCheckpointOrigin, CHECKPOINT, message);
        }
        let Some(key) = Note::parse(bytes).ok().and_then(|note| self.signer_of_note(&note)) else {
            let message = format!(
                "none of the {} log keys enrolled in this case signed the checkpoint of {} records",
                self.log_keys.len(),
                checkpoint.size
            );
            findings.add(Code::LogCheckpointSignature, CHECKPOINT, message);
            return None;
        };
        Some(Head { size: checkpoint.size, root: checkpoint.root, key })
    }

    #[allow(clippy::too_many_arguments, reason = "one caller; the alternative is a struct of the same eight things")]
    fn record(
        &mut self,
        files: &dyn CaseFiles,
        n: u64,
        object: &str,
        buffer: &mut Vec<u8>,
        chain: &mut Chain,
        counts: &mut Counts,
        findings: &mut Findings,
    ) {
        if let Err(e) = read_bounded(files, object, ENVELOPE_BYTES_MAX as u64, buffer) {
            findings.add_broken_history(unreadable(&e, Code::RecordMalformed), object, format!("record {n} cannot be read: {e}"));
            return;
        }
        let leaf = leaf_hash(buffer);
        self.tree.append_hash(leaf);
        self.leaves.push(leaf);
        let envelope = match Envelope::parse(buffer) {
            Ok(envelope) => envelope,
            Err(e) => {
                let message = format!("record {n}: {}", crate::text::escape_bounded(&e.to_string(), 300));
                findings.add_broken_history(Code::RecordMalformed, object, message);
                self.roots.push(self.tree.root());
                return;
            }
        };
        match self.ring.verify(&envelope) {
            Ok(verified) => {
                counts.records_verified = counts.records_verified.saturating_add(1);
                if let Record::Enrolment(p) = verified.record()
                    && p.roles.contains(&Role::Log)
                    && !self.log_keys.contains(&p.key.id())
                {
                    self.log_keys.push(p.key.id());
                }
                if let Record::Access(p) = verified.record() {
                    self.check_reader(object, p, findings);
                }
                chain.add(object, &verified, &self.roots, findings);
            }
            Err(e) => {
                let code = match &e {
                    TrustError::UnknownKey(_) => Code::RecordUnknownKey,
                    TrustError::BadSignature(_) => Code::RecordSignature,
                    TrustError::Revoked(..) => Code::RecordRevokedKey,
                    TrustError::NotAuthorized { .. } => Code::RecordNotAuthorized,
                    TrustError::BadRecord(BadRecord::UnknownType(_)) => Code::RecordUnknownType,
                    TrustError::BadRecord(BadRecord::Malformed(_)) => Code::RecordMalformed,
                };
                let message = format!("record {n}: {}", crate::text::escape_bounded(&e.to_string(), 400));
                if matches!(code, Code::RecordSignature | Code::RecordMalformed) {
                    findings.add_broken_history(code, object, message);
                } else {
                    findings.add(code, object, message);
                }
            }
        }
        self.roots.push(self.tree.root());
    }

    /// Whoever is said to have read must have been entitled to read in this case.
    fn check_reader(&self, object: &str, p: &Access, findings: &mut Findings) {
        let roles = self.ring.rights_of(&p.by).in_case(&p.case);
        if !READERS.iter().any(|role| roles.contains(role)) {
            let by = crate::text::escape_bounded(&p.by, 200);
            let message = format!("'{by}' is said to {} evidence and has no role in this case that allows it", p.action);
            findings.add(Code::AccessNotAuthorized, object, message);
        }
    }

    /// Called when as many records were read as the checkpoint covers.
    fn check_root(&self, checkpoint: Option<&(Checkpoint, Vec<u8>)>, findings: &mut Findings) {
        let Some((checkpoint, _)) = checkpoint else { return };
        if self.tree.size() != checkpoint.size {
            // A hole was reported already; the root over fewer records says nothing more.
            return;
        }
        let root = self.tree.root();
        if root != checkpoint.root {
            let message = format!("the root over {} records is {root}, the checkpoint signs {}", checkpoint.size, checkpoint.root);
            findings.add(Code::LogRoot, CHECKPOINT, message);
        }
    }

    fn check_expected(&self, size: u64, root: Digest, findings: &mut Findings) {
        match usize::try_from(size).ok().and_then(|n| self.roots.get(n)) {
            Some(found) if *found == root => {}
            Some(found) => {
                findings.add(
                    Code::LogExpected,
                    CHECKPOINT,
                    format!("at {size} records this history has root {found}, expected was {root}"),
                );
            }
            None => {
                let have = self.tree.size();
                findings.add(
                    Code::LogExpected,
                    CHECKPOINT,
                    format!("this history has {have} records, expected was a head of {size} records"),
                );
            }
        }
    }

    /// The log key of this case that signed a checkpoint first.
    fn signer_of_note(&self, note: &Note) -> Option<KeyId> {
        self.log_keys.iter().copied().find(|id| self.ring.holder(*id).is_some_and(|(_, _, key)| Checkpoint::verify_note(note, key).is_ok()))
    }
}
