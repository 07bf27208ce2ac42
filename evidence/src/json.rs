//! What the JSON of this format does not allow and serde does.

use serde::{Deserialize, Deserializer};

/// For fields that may be left out: a field that is there has a value. serde would take `null` for a field left out, so
/// that one content had two forms, and a reader that follows the schemas would refuse what this one takes.
///
/// # Errors
/// What `T` says of its value; `null` is none.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}
