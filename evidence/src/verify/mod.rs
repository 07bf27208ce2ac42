//! Verification of one case from its objects and an anchor alone. Normative text: `docs/format/verification.md`.
//!
//! The order of the checks is the order of trust: the list of objects, then the log (signatures, tree, signed head),
//! then what the records say to each other, then every stream against its manifest, then that nothing is left over.
//!
//! Memory does not grow with the size of the evidence: a stream is read segment by segment in step with its manifest.
//! What is kept is one segment (at most [`crate::stream::SEGMENT_BYTES_MAX`]), one zstd frame, one manifest line, 64 bytes per record,
//! a few hundred bytes per collection and about 40 bytes per segment of the case (for the final account of objects):
//! a case of 100 GiB has 12,800 segments, half a megabyte.
//!
//! What this cannot know: whether the case once had a longer history (give a head that you learned elsewhere as
//! [`Options::expected`], a checkpoint that a witness kept as [`Options::held`], or require witnesses), and whether a key was revoked in the deployment's log after the case was written.

mod bag;
mod chain;
mod codes;
mod encrypted;
mod finding;
mod history;
mod inventory;
mod item;
mod later;
mod lines;
mod replies;
mod report;
mod stream;
mod tiles;
mod timestamps;
mod witness;

pub use bag::verify_bag;
pub use codes::Code;
pub use finding::{Blame, Cause, Finding, Findings, Severity};
pub use report::{
    BagSummary, Bound, CaseSummary, CollectionSummary, Counts, Disposed, Head, LastStamped, Report, Sandwich, TimestampSummary,
    TimestampTrust, Verdict, Witnessed,
};

use std::collections::BTreeSet;
use std::io::{self, Read};

use crate::age::{Identity, Recipient};
use crate::anchor::Anchor;
use crate::digest::Digest;
use crate::id::CollectionId;
use crate::log::{ConsistencyProof, Note, WitnessKey};
use crate::timestamp;

/// The objects of one case, wherever they lie. Names are relative to the case folder and `/`-separated.
pub trait CaseFiles {
    /// Names every object once, in any order, and every folder where there are folders.
    ///
    /// # Errors
    /// When the list may be incomplete. A verification that cannot list the case has no result.
    fn list(&self, each: &mut dyn FnMut(Entry<'_>)) -> io::Result<()>;

    /// Opens an object that [`CaseFiles::list`] named, from its beginning. It must not follow a symbolic link.
    ///
    /// # Errors
    /// When it cannot be opened; that is a finding, not the end.
    fn open(&self, name: &str) -> io::Result<Box<dyn Read + '_>>;
}

/// One object in a list.
#[derive(Debug, Clone, Copy)]
pub struct Entry<'a> {
    /// Name relative to the case folder; names that are not UTF-8 are given as they are.
    pub name: &'a [u8],
    /// Bytes.
    pub size: u64,
    /// What it is.
    pub kind: EntryKind,
}

/// What an entry of a list is. Object stores have plain objects only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A plain file or stored object.
    File,
    /// A folder.
    Folder {
        /// Nothing is in it.
        empty: bool,
    },
    /// A symbolic link, a device, a socket or the like.
    Other,
}

/// What a verification is told from outside.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// What is verified is the deployment's own log: keys of people and agents, and what concerns no case.
    pub deployment: bool,
    /// Every order target must have its seal: [`Code::OrderOpen`], [`Code::OrderUnapproved`] and [`Code::StreamUnsealed`] become warnings.
    pub complete: bool,
    /// A head (size and root) that was learned on another way, for example from a paper form or an earlier letter: the
    /// history must contain it.
    pub expected: Option<(u64, Digest)>,
    /// Witnesses whose cosignatures count.
    pub witnesses: Vec<WitnessKey>,
    /// How many of them must have cosigned the checkpoint of the case; otherwise [`Code::WitnessRequired`].
    pub witnesses_required: usize,
    /// Checkpoints that were kept elsewhere, by a witness for example: what is signed in them must be part of the history.
    pub held: Vec<Note>,
    /// Proofs that lead from the last head of the history to a later one: what a witness vouches for there, it vouches for here.
    pub consistency: Vec<ConsistencyProof>,
    /// What is verified is a history up to a moment and not a log as it is now: that a longer head is held is no sign that
    /// records were taken away, unless it was there before that moment. [`verify_bag`] sets it and nobody else.
    pub is_bag: bool,
    /// Roots of timestamp authorities. Without any, tokens are checked in themselves and nothing is believed.
    pub timestamp_anchors: timestamp::Anchors,
    /// Under how many of these roots the last records must be stamped, in the log or with the whole bag; otherwise [`Code::TimestampRequired`].
    pub timestamps_required: usize,
    /// Secrets of recipients of an encrypted case: with one of them contents are checked too.
    pub identities: Vec<Identity>,
    /// Collections whose evidence was left out of this copy by choice, in the order of their ids: it is neither looked for
    /// nor said to be missing. [`verify_bag`] takes them from the bag's description and nowhere else.
    pub left_out: Vec<CollectionId>,
}

/// How far a verification has come.
#[derive(Debug, Clone, Copy, Default)]
pub struct Progress {
    /// Bytes of segments and records read.
    pub bytes: u64,
    /// Bytes that will be read in all.
    pub bytes_total: u64,
    /// Items compared.
    pub items: u64,
}

/// Verifies a case.
///
/// # Errors
/// Only when the case cannot be listed, or is encrypted to others than the given identities; everything else is a finding.
pub fn verify(files: &dyn CaseFiles, anchor: &Anchor, options: &Options, progress: &mut dyn FnMut(Progress)) -> io::Result<Report> {
    let mut findings = Findings::default();
    let case = check_case(files, anchor, options, &mut findings, progress)?;
    Ok(case.report(anchor, findings))
}

/// A case that was read, before the last word on it.
struct Checked {
    chain: chain::Chain,
    history: history::History,
    counts: Counts,
    progress: Progress,
    /// There is evidence whose contents are encrypted, and nothing to decrypt them with.
    unread: bool,
    /// The recipients with whose identities all of it was decrypted.
    opened_with: Vec<Recipient>,
}

impl Checked {
    fn report(self, anchor: &Anchor, findings: Findings) -> Report {
        let (errors, warnings, _) = findings.counts();
        Report {
            verdict: match (errors, warnings) {
                (0, 0) if self.unread => Verdict::SoundAsFarAsReadable,
                (0, 0) => Verdict::Sound,
                _ => Verdict::Unsound,
            },
            bag: None,
            deployment_log: self.chain.is_deployment(),
            case: self.chain.case_summary(),
            unread: self.unread,
            opened_with: self.opened_with,
            deployment: anchor.deployment.clone(),
            checkpoint: self.history.head,
            witnesses: self.history.witnesses,
            timestamps: self.history.timestamps.summaries,
            last_stamped: self.history.timestamps.last,
            collections: self.chain.into_summaries(),
            counts: self.counts,
            findings,
        }
    }
}

/// Everything that is to be checked of a case.
fn check_case(
    files: &dyn CaseFiles,
    anchor: &Anchor,
    options: &Options,
    findings: &mut Findings,
    progress: &mut dyn FnMut(Progress),
) -> io::Result<Checked> {
    let mut counts = Counts::default();
    let mut inventory = inventory::Inventory::read(files, findings)?;
    counts.objects = inventory.objects;
    counts.tiles = inventory.tiles.len() as u64;
    let mut state = Progress { bytes: 0, bytes_total: inventory.bytes, items: 0 };
    progress(state);

    let mut chain = chain::Chain::new(options.complete, options.deployment);
    let history = history::read(files, anchor, options, &mut inventory, &mut chain, &mut counts, findings);
    chain.finish(findings);
    encrypted::check_identities(chain.encrypt_to(), &options.identities)?;
    chain.leave_out(&options.left_out);

    let mut closed = BTreeSet::new();
    for job in chain.jobs() {
        let tally = stream::verify(files, &job, &options.identities, &mut inventory, findings, &mut |bytes, items| {
            state.bytes = state.bytes.saturating_add(bytes);
            state.items = state.items.saturating_add(items);
            progress(state);
        });
        counts.streams = counts.streams.saturating_add(1);
        counts.segments = counts.segments.saturating_add(tally.segments);
        counts.items = counts.items.saturating_add(tally.items);
        counts.items_verified = counts.items_verified.saturating_add(tally.items_verified);
        counts.items_unchecked = counts.items_unchecked.saturating_add(tally.items_unchecked);
        counts.raw_bytes_unread = counts.raw_bytes_unread.saturating_add(tally.raw_bytes_unread);
        counts.raw_bytes = counts.raw_bytes.saturating_add(tally.raw_bytes);
        counts.stored_bytes = counts.stored_bytes.saturating_add(tally.stored_bytes);
        chain.add_tally(&job.collection, job.stream, &tally);
        closed.extend(tally.closed);
    }
    inventory.account(&chain, options.complete, findings);
    let unread = counts.streams > 0 && !chain.encrypt_to().is_none() && options.identities.is_empty();
    let opened_with =
        if counts.segments > 0 { encrypted::opened_with(chain.encrypt_to(), &options.identities, &closed) } else { Vec::new() };
    Ok(Checked { chain, history, counts, progress: state, unread, opened_with })
}

/// The code for an object that cannot be read: lost, or only closed to whoever verifies.
fn unreadable(e: &io::Error, otherwise: Code) -> Code {
    if e.kind() == io::ErrorKind::PermissionDenied { Code::ObjectUnreadable } else { otherwise }
}

/// Reads a whole object of at most `bytes_max` bytes into `out`.
fn read_bounded(files: &dyn CaseFiles, name: &str, bytes_max: u64, out: &mut Vec<u8>) -> io::Result<()> {
    out.clear();
    files.open(name)?.take(bytes_max.saturating_add(1)).read_to_end(out)?;
    if out.len() as u64 > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(())
}
