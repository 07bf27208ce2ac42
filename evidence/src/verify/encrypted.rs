//! Encrypted cases: what can be checked of a stream without the secret of a recipient, and whether the right one was given.

use std::collections::BTreeSet;
use std::io;

use super::stream::{Job, Tally};
use crate::age::{self, AgeError, Identity, Recipient, Recipients};

/// An identity that opens nothing here is a mistake of whoever verifies, and no finding about the case.
pub(super) fn check_identities(recipients: &Recipients, identities: &[Identity]) -> io::Result<()> {
    let known = |identity: &Identity| recipients.as_slice().contains(identity.recipient());
    if recipients.is_none() || identities.is_empty() || identities.iter().any(known) {
        return Ok(());
    }
    let given: Vec<String> = identities.iter().map(|i| i.recipient().to_string()).collect();
    let message =
        format!("the case is encrypted to {recipients}; the given identity is that of {}, which opens nothing of it", given.join(", "));
    Err(io::Error::new(io::ErrorKind::InvalidInput, message))
}

/// The recipients whose identities were given and opened every segment. `closed` are those whose identity failed at one.
pub(super) fn opened_with(recipients: &Recipients, identities: &[Identity], closed: &BTreeSet<Recipient>) -> Vec<Recipient> {
    let opened = |recipient: &&Recipient| !closed.contains(*recipient) && identities.iter().any(|i| i.recipient() == *recipient);
    recipients.as_slice().iter().filter(opened).copied().collect()
}

/// Decrypts a segment. What one recipient opens need not open for another one, so each identity that was given is tried; whose does
/// not open it is added to `closed`.
pub(super) fn open(
    bytes: &[u8],
    recipients: &Recipients,
    identities: &[Identity],
    plain: &mut Vec<u8>,
    closed: &mut BTreeSet<Recipient>,
) -> Result<(), AgeError> {
    let count = recipients.as_slice().len();
    let decrypted = age::decrypt(bytes, count, identities, plain);
    let mut all = decrypted.clone();
    for identity in identities.iter().filter(|i| recipients.as_slice().contains(i.recipient())) {
        let opened = decrypted.clone().and_then(|()| age::opens(bytes, count, identity));
        if opened.is_err() {
            closed.insert(*identity.recipient());
        }
        all = all.and(opened);
    }
    all
}

/// The note about a stream that was not read.
pub(super) fn unchecked(job: &Job, tally: &Tally) -> String {
    format!(
        "the contents of {} items in {} segments of stream {}.{} were not checked: they are encrypted to {}; give --identity",
        tally.items_unchecked, tally.segments, job.collection, job.stream, job.encrypt_to
    )
}
