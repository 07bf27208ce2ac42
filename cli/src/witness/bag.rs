//! A bag and the log as it is now: whether what the witness vouches for continues what the bag holds.

use exhibit_evidence::log::{Checkpoint, ConsistencyProof, verify_consistency};
use exhibit_evidence::text::escape_bounded;

use super::{Done, Witness, said};
use crate::exit::{Code, Failure, Result};

/// The last head of a bag's log.
pub struct BagHead {
    /// The signed checkpoint, as it is.
    pub note: Vec<u8>,
    /// What it says; its signature was verified.
    pub head: Checkpoint,
}

/// A signed head from the coordinator, of as many records as the bag's: the note and what it says.
pub type SameSize = (Vec<u8>, Checkpoint);

impl Witness {
    /// The proof that the head that was cosigned continues that of a bag, checked.
    ///
    /// # Errors
    /// When it does not, after all that shows it was kept. `same` is the log's own head of the bag's size, where it has one.
    pub fn proof_for(&self, bag: &BagHead, proof: ConsistencyProof, done: &Done, same: Option<&SameSize>) -> Result<ConsistencyProof> {
        let (head, now) = (&bag.head, &done.cosigned.checkpoint);
        if verify_consistency((head.size, &head.root), (now.size, &now.root), &proof.hashes).is_ok() {
            return Ok(proof);
        }
        let other = same.filter(|(_, theirs)| theirs.size == head.size && theirs.root != head.root);
        let shown = match other {
            Some((note, _)) => note.as_slice(),
            None => done.note.as_slice(),
        };
        let kept = self.keep_all(&bag.note, Some(shown), &proof);
        let (log, size) = (escape_bounded(&head.origin, 200), head.size);
        let (why, next) = match other {
            Some(_) => (
                format!(
                    "the bag's head of {size} records is another one than the head of {size} that the coordinator shows: there are two histories"
                ),
                "both heads bear the log's signature and prove it together: keep the witness's folder and the bag, and tell whoever answers for the case",
            ),
            None if now.size < size => (
                format!(
                    "the bag has {size} records, the coordinator's newest head has {}: the log was cut back, or put back to an older state",
                    now.size
                ),
                "keep the witness's folder and the bag, whose head bears the log's signature; ask whoever runs the coordinator",
            ),
            None => (
                format!(
                    "the coordinator's proof does not lead from the bag's {size} records to {}: it is damaged, or the log is another one",
                    now.size
                ),
                "the same command again; when it says the same, keep the witness's folder and the bag, and ask whoever runs the coordinator",
            ),
        };
        Err(Failure::new(Code::Damaged, format!("NO PROOF FOR THE BAG: log '{log}': {why} ({})", said(&kept))).hint(next))
    }
}
