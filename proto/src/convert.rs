//! Wire to domain: every field that comes from a peer passes through one of these before anything else sees it.

use exhibit_evidence::Digest;
use exhibit_evidence::dsse::Envelope;

/// A field of a message that does not hold what its documentation says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct BadField {
    /// The field's name in the proto file.
    pub field: &'static str,
    /// What is wrong, with the value where it is short, escaped.
    pub problem: String,
}

fn bad(field: &'static str, problem: impl Into<String>) -> BadField {
    BadField { field, problem: problem.into() }
}

/// Parses an id.
///
/// # Errors
/// [`BadField`]
pub fn id<T: std::str::FromStr>(field: &'static str, text: &str) -> Result<T, BadField>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|e: T::Err| bad(field, e.to_string()))
}

/// Takes 32 bytes of SHA-256.
///
/// # Errors
/// [`BadField`]
pub fn digest(field: &'static str, bytes: &[u8]) -> Result<Digest, BadField> {
    Digest::try_from(bytes).map_err(|_| bad(field, format!("expected the 32 bytes of a SHA-256, got {} bytes", bytes.len())))
}

/// Parses an envelope; its signature is not verified here.
///
/// # Errors
/// [`BadField`]
pub fn envelope(field: &'static str, bytes: &[u8]) -> Result<Envelope, BadField> {
    Envelope::parse(bytes).map_err(|e| bad(field, e.to_string()))
}

/// Parses a short list of envelopes.
///
/// # Errors
/// [`BadField`]
pub fn envelopes(field: &'static str, list: &[Vec<u8>]) -> Result<Vec<Envelope>, BadField> {
    bounded(field, list.len(), crate::bounds::ENROLMENTS_MAX)?;
    list.iter().map(|bytes| envelope(field, bytes)).collect()
}

/// Checks a text's length in bytes.
///
/// # Errors
/// [`BadField`]
pub fn text(field: &'static str, value: &str, bytes_max: usize) -> Result<String, BadField> {
    if value.len() > bytes_max {
        return Err(bad(field, format!("{} bytes: at most {bytes_max} are allowed", value.len())));
    }
    Ok(value.to_owned())
}

/// Checks a text that must not be empty.
///
/// # Errors
/// [`BadField`]
pub fn required_text(field: &'static str, value: &str, bytes_max: usize) -> Result<String, BadField> {
    if value.trim().is_empty() {
        return Err(bad(field, "must not be empty"));
    }
    text(field, value, bytes_max)
}

/// Checks a count.
///
/// # Errors
/// [`BadField`]
pub fn bounded(field: &'static str, count: usize, max: usize) -> Result<(), BadField> {
    if count > max { Err(bad(field, format!("{count} entries: at most {max} are allowed"))) } else { Ok(()) }
}

/// Takes a value that must be there.
///
/// # Errors
/// [`BadField`]
pub fn required<T>(field: &'static str, value: Option<T>) -> Result<T, BadField> {
    value.ok_or_else(|| bad(field, "is missing"))
}

impl From<BadField> for tonic::Status {
    fn from(e: BadField) -> Self {
        Self::invalid_argument(e.to_string())
    }
}
