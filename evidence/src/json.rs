//! What the JSON of this format does not allow and serde does.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// For fields that may be left out: a field that is there has a value. serde would take `null` for a field left out, so
/// that one content had two forms, and a reader that follows the schemas would refuse what this one takes.
///
/// # Errors
/// What `T` says of its value; `null` is none.
pub fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// For fields that are always there and may be `null`, which serde would also take for a field left out.
///
/// # Errors
/// What `T` says of a value that is not `null`.
pub fn nullable<'de, T: Deserialize<'de>, D: Deserializer<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    Option::deserialize(deserializer)
}

/// serde takes a list of values for an object with these fields in that order. A text that was read as `value` must have
/// objects where `value` has them.
///
/// # Errors
/// What is wrong, in words.
pub fn objects_are_objects(text: &[u8], value: &impl Serialize) -> Result<(), String> {
    let written: Value = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    let meant = serde_json::to_value(value).map_err(|e| e.to_string())?;
    if alike(&written, &meant) { Ok(()) } else { Err("a list stands where an object is expected".to_owned()) }
}

fn alike(written: &Value, meant: &Value) -> bool {
    match (written, meant) {
        (Value::Object(written), Value::Object(meant)) => {
            written.iter().all(|(name, value)| meant.get(name).is_none_or(|meant| alike(value, meant)))
        }
        (Value::Array(written), Value::Array(meant)) => written.iter().zip(meant).all(|(written, meant)| alike(written, meant)),
        (Value::Array(_), Value::Object(_)) => false,
        _ => true,
    }
}
