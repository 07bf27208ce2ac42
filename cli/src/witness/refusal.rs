//! Why a head is not cosigned: in words, and what to do next.

use std::path::Path;

use exhibit_evidence::Digest;

use super::Source;
use crate::exit::Code;

/// Why a head is not cosigned.
pub enum Why {
    /// Two signed heads of the same size differ: they are proof by themselves.
    TwoHistories {
        /// Records of both.
        size: u64,
    },
    /// The coordinator's newest head has fewer records than the one that was seen.
    Older {
        /// Records of the head.
        size: u64,
        /// Records that were seen.
        before: u64,
    },
    /// A head that was given has fewer records than the one that was seen, and nothing shows whether it is a part of it.
    Shorter {
        /// Records of the head.
        size: u64,
        /// Records that were seen.
        before: u64,
        /// Root of the head.
        root: Digest,
        /// The log's name, escaped.
        log: String,
    },
    /// The head continues another history than the one that was seen: its own proof shows the root that differs.
    Rewritten {
        /// Records of the head.
        size: u64,
        /// Records that were seen.
        before: u64,
        /// The root that was seen.
        root: Digest,
        /// The root that the proof shows there.
        theirs: Digest,
    },
    /// Nothing shows that the head continues what was seen; why, nobody can tell from it.
    BadProof {
        /// Records of the head.
        size: u64,
        /// Records that were seen.
        before: u64,
        /// The root that was seen.
        root: Digest,
        /// The log's name, escaped.
        log: String,
        /// Who gave the proof.
        source: Source,
    },
    /// The head bears this witness's own signature, and it does not remember.
    Forgot {
        /// Records that it signed.
        signed: u64,
        /// Records that it remembers.
        before: u64,
    },
}

impl Why {
    /// How the program ends. A head that may honestly be old is no damage.
    pub const fn code(&self) -> Code {
        if matches!(self, Self::Shorter { .. }) { Code::Input } else { Code::Damaged }
    }

    /// What is wrong.
    pub fn message(&self) -> String {
        match self {
            Self::TwoHistories { size } => {
                format!(
                    "the head of {size} records is another one than the head of {size} that this witness vouched for: there are two histories"
                )
            }
            Self::Older { size, before } => {
                format!("the coordinator shows an older head than this witness saw: {size} records, this witness saw {before}")
            }
            Self::Shorter { size, before, .. } => format!(
                "the head of {size} records is shorter than what this witness saw ({before} records): whether it is an old copy or a fork \
                 cannot be told from it"
            ),
            Self::Rewritten { size, before, root, theirs } => format!(
                "the head of {size} records continues another history: at {before} records that one has root {theirs}, this witness vouched \
                 for {root}: there are two histories"
            ),
            Self::BadProof { size, before, source: Source::Coordinator, .. } => format!(
                "from {before} to {size} records the coordinator's own proof does not hold: its log was rewritten, or its tiles or its answer \
                 are damaged"
            ),
            Self::BadProof { size, before, .. } => format!(
                "from {before} to {size} records the proof does not hold: the log was rewritten, or what was given is damaged or incomplete"
            ),
            Self::Forgot { signed, before } => {
                format!("this witness signed {signed} records, its memory says {before}: its folder was restored from an older backup")
            }
        }
    }

    /// What to do next; `kept` is the head's file, `held` that of the newest head that was cosigned.
    pub fn hint(&self, kept: Option<&Path>, held: &Path) -> String {
        let held = held.display();
        match self {
            Self::TwoHistories { .. } => format!(
                "both heads bear the log's signature and prove it together: keep the witness's folder, and tell whoever answers for the case; \
                 which of the two a copy has: exhibit-verify FOLDER --anchor ANCHOR --held {held}"
            ),
            Self::Rewritten { .. } => format!(
                "both heads bear the log's signature, and with the proof between them they prove it: keep the witness's folder, and tell whoever \
                 answers for the case; which of the two a copy has: exhibit-verify FOLDER --anchor ANCHOR --held {held}"
            ),
            Self::Older { .. } => format!(
                "keep the witness's folder, and ask whoever runs the coordinator: its store was put back to an older state, or the log was cut \
                 back; what a copy of the log lacks: exhibit-verify FOLDER --anchor ANCHOR --held {held}"
            ),
            Self::BadProof { source: Source::Coordinator, .. } => format!(
                "keep the witness's folder, and repeat the command once; when it says the same, ask whoever runs the coordinator, and compare a \
                 copy of its store: exhibit-verify FOLDER --anchor ANCHOR --held {held}"
            ),
            Self::BadProof { before, root, log, .. } => {
                let which = which(log);
                format!(
                    "get the proof again from the coordinator and keep both files: exhibit log consistency {which} --from {before}:{root} --out \
                     FILE"
                )
            }
            Self::Forgot { .. } => {
                "restore the newest backup of the witness's folder; when there is none, make another witness: this one forgot".to_owned()
            }
            Self::Shorter { size, root, log, .. } => {
                let which = which(log);
                let kept = kept.map_or_else(|| "HEAD".to_owned(), |path| path.display().to_string());
                format!(
                    "compare it with the log as it is now: exhibit log consistency {which} --from {size}:{root}, or where a current copy of \
                     the log lies: exhibit-verify FOLDER --anchor ANCHOR --held {kept}; if that says log.forked, it is a fork"
                )
            }
        }
    }
}

/// The option that names a log.
fn which(log: &str) -> String {
    log.rsplit_once("/case/").map_or_else(|| "--deployment".to_owned(), |(_, case)| format!("--case {case}"))
}
