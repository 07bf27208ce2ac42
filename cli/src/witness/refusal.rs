//! Why a head is not cosigned: in words, and what to do next.

use std::path::Path;

use exhibit_evidence::Digest;

use crate::exit::Code;

/// Why a head is not cosigned.
pub enum Why {
    /// Two signed heads of the same size differ: the only refusal that is proof by itself.
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
    /// Nothing shows that the head continues what was seen; why, nobody can tell from it.
    BadProof {
        /// Records of the head.
        size: u64,
        /// Records that were seen.
        before: u64,
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
            Self::BadProof { size, before } => format!(
                "from {before} to {size} records the proof does not hold: the log was rewritten, or what was given is damaged or incomplete"
            ),
            Self::Forgot { signed, before } => {
                format!("this witness signed {signed} records, its memory says {before}: its folder was restored from an older backup")
            }
        }
    }

    /// What to do next; `kept` is the head's file.
    pub fn hint(&self, kept: Option<&Path>) -> String {
        let fixed = match self {
            Self::TwoHistories { .. } => {
                "both heads bear the log's signature and prove it together: keep the witness's folder, and tell whoever answers for the case"
            }
            Self::Older { .. } => {
                "keep the witness's folder, and ask whoever runs the coordinator: its store was put back to an older state, or the log was cut back"
            }
            Self::BadProof { .. } => "get the proof again from the coordinator and keep both files",
            Self::Forgot { .. } => {
                "restore the newest backup of the witness's folder; when there is none, make another witness: this one forgot"
            }
            Self::Shorter { size, root, log, .. } => {
                let which = log.rsplit_once("/case/").map_or_else(|| "--deployment".to_owned(), |(_, case)| format!("--case {case}"));
                let kept = kept.map_or_else(|| "HEAD".to_owned(), |path| path.display().to_string());
                return format!(
                    "compare it with the log as it is now: exhibit log consistency {which} --from {size}:{root}, or where a current copy of \
                     the log lies: exhibit-verify FOLDER --anchor ANCHOR --held {kept}; if that says log.forked, it is a fork"
                );
            }
        };
        fixed.to_owned()
    }
}
