//! Encryption to people: the part of age (C2SP `age.md`, age-encryption.org/v1) that encrypted cases use. One file for each
//! segment, to X25519 recipients, in one form: one stanza for each recipient in the order of the case-opened record, no other
//! stanza. What this writes `age -d` opens, and what `age` wrote to the same recipients in the same order this opens.
//!
//! The cryptography is aws-lc-rs, which every program and the verifier have already. The published crate would bring more
//! than a hundred others into the verifier, most of them for translated messages and for keys that no case has.
//!
//! Pure like everything here: whoever encrypts hands the random bytes in ([`random_len`]).

mod file;
mod keys;
mod secret;

#[cfg(test)]
mod tests;

pub use file::{Encryptor, Form, decrypt, opens};
pub use keys::{Identity, Recipient, Recipients, holds_secret};

/// Most recipients of a case: each costs 98 bytes in every segment.
pub const RECIPIENTS_MAX: usize = 16;

/// Random bytes that encrypting one file to so many recipients takes: the file's key, its nonce, and a key for each.
#[must_use]
pub const fn random_len(recipients: usize) -> usize {
    FILE_KEY_LEN.saturating_add(NONCE_LEN).saturating_add(KEY_LEN.saturating_mul(recipients))
}

/// Bytes of the key that encrypts one file.
const FILE_KEY_LEN: usize = 16;
/// Bytes of the nonce before the payload.
const NONCE_LEN: usize = 16;
/// Bytes of an X25519 key.
const KEY_LEN: usize = 32;
/// Plain bytes of a chunk of the payload; only the last may have fewer.
const CHUNK_LEN: usize = 64 << 10;
/// Bytes by which a chunk is longer than what it holds.
const TAG_LEN: usize = 16;

/// Why something cannot be encrypted or opened. The set is closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgeError {
    /// A text is no recipient.
    #[error("'{0}' is no age X25519 recipient: expected age1 and 58 characters, as `age-keygen -y` prints it")]
    Recipient(String),
    /// A text is a secret where a recipient belongs. It is not repeated.
    #[error(
        "this is a secret identity, not a recipient: give the age1... that `age-keygen -y FILE` prints for it. Others may have seen it here: make a new identity"
    )]
    Secret,
    /// The text of a key that nobody's identity has, or that age writes otherwise.
    #[error(
        "'{0}' is written like an age recipient, and nobody can have its identity: ask its holder for what `age-keygen -y FILE` prints"
    )]
    Unusable(String),
    /// The list is empty, too long, or names one twice.
    #[error("{0}")]
    Recipients(String),
    /// A text is no identity. The text is not repeated: it may be a secret.
    #[error("{0}")]
    Identity(&'static str),
    /// An identity file cannot be read, or others than its owner can.
    #[error("{0}")]
    File(String),
    /// The bytes are not an age file of the one form.
    #[error("not an age file to {recipients} X25519 recipients: {problem}")]
    Form {
        /// How many there should be.
        recipients: usize,
        /// What is wrong.
        problem: &'static str,
    },
    /// The file is to others.
    #[error("none of the given identities opens it")]
    OtherRecipients,
    /// The secret of somebody to whom the file should be does not open it.
    #[error("the identity of {0} does not open it")]
    Closed(Recipient),
    /// The file's key was found, and something in the file is not what was written under it.
    #[error("it was altered after it was encrypted: {0}")]
    Altered(&'static str),
    /// The cryptography refused what it was given: a key of low order, or too few random bytes.
    #[error("cannot encrypt: {0}")]
    Encrypt(&'static str),
}
