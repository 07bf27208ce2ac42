//! Encrypted cases: what can be checked of a stream without the secret of a recipient, and whether the right one was given.

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

/// The recipients whose identities were given: each of them has to open every segment.
pub(super) fn opened_with(recipients: &Recipients, identities: &[Identity]) -> Vec<Recipient> {
    let given = |recipient: &&Recipient| identities.iter().any(|i| i.recipient() == *recipient);
    recipients.as_slice().iter().filter(given).copied().collect()
}

/// What one recipient opens need not open for another one, so each identity that was given is tried.
pub(super) fn each_opens(bytes: &[u8], recipients: &Recipients, identities: &[Identity]) -> Result<(), AgeError> {
    let mut of_recipients = identities.iter().filter(|i| recipients.as_slice().contains(i.recipient()));
    of_recipients.try_for_each(|identity| age::opens(bytes, recipients.as_slice().len(), identity))
}

/// The note about a stream that was not read.
pub(super) fn unchecked(job: &Job, tally: &Tally) -> String {
    format!(
        "the contents of {} items in {} segments of stream {}.{} were not checked: they are encrypted to {}; give --identity",
        tally.items_unchecked, tally.segments, job.collection, job.stream, job.encrypt_to
    )
}
