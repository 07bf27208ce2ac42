//! Paths of evidence: bytes, never text. A Linux path is any byte string without NUL; nothing is lost on the way.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The original path of an item, or the name of a record that a capture made itself.
/// An original path is absolute (`/etc/passwd`); a made record's name has no leading slash (`sockets.jsonl`).
///
/// In JSON it is a string when it is UTF-8, else an object `{"b64": ..., "shown": ...}`, where `b64` holds the bytes
/// (RFC 4648, padded) and `shown` is for people only.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EvidencePath(Vec<u8>);

impl EvidencePath {
    /// The longest path in bytes. The kernel's PATH_MAX (4,096) bounds one call, not a tree, so walkers can go deeper.
    pub const BYTES_MAX: usize = 32_768;

    /// Takes the bytes of a path; `None` when empty, too long or holding NUL.
    #[must_use]
    pub fn new(bytes: impl Into<Vec<u8>>) -> Option<Self> {
        let bytes = bytes.into();
        (!bytes.is_empty() && bytes.len() <= Self::BYTES_MAX && !bytes.contains(&0)).then_some(Self(bytes))
    }

    /// Takes the bytes of a path as far as they are one: cut at the first NUL and at [`EvidencePath::BYTES_MAX`]; `?` when
    /// nothing is left. For names that a kernel gave, where neither can happen and losing the item would be worse.
    #[must_use]
    pub fn truncating(bytes: &[u8]) -> Self {
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len()).min(Self::BYTES_MAX);
        let kept = bytes.get(..end).filter(|b| !b.is_empty()).unwrap_or(b"?");
        Self(kept.to_vec())
    }

    /// The path's bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The name of the tar member that holds this path for a capture: `<capture>/<path without leading slashes>`.
    #[must_use]
    pub fn member_name(&self, capture: &str) -> Vec<u8> {
        let rest = self.0.iter().position(|b| *b != b'/').and_then(|i| self.0.get(i..)).unwrap_or_default();
        let mut name = Vec::with_capacity(capture.len() + 1 + rest.len());
        name.extend_from_slice(capture.as_bytes());
        name.push(b'/');
        name.extend_from_slice(rest);
        name
    }
}

impl fmt::Display for EvidencePath {
    /// Escaped for people; not reversible. See [`crate::text::escape_bytes`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::text::escape_bytes(&self.0))
    }
}

impl fmt::Debug for EvidencePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A path that is no text.
#[derive(Serialize, Deserialize)]
struct Repr {
    b64: String,
    #[serde(default)]
    shown: String,
}

impl Serialize for EvidencePath {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => s.serialize_str(text),
            Err(_) => Repr { b64: STANDARD.encode(&self.0), shown: self.to_string() }.serialize(s),
        }
    }
}

impl<'de> Deserialize<'de> for EvidencePath {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        d.deserialize_any(PathVisitor)
    }
}

struct PathVisitor;

impl PathVisitor {
    fn path<E: Error>(bytes: impl Into<Vec<u8>>) -> Result<EvidencePath, E> {
        EvidencePath::new(bytes).ok_or_else(|| E::custom("a path is 1 to 32,768 bytes without NUL"))
    }
}

impl<'de> Visitor<'de> for PathVisitor {
    type Value = EvidencePath;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a path: a string, or an object with 'b64' and 'shown'")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<EvidencePath, E> {
        Self::path(text)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<EvidencePath, A::Error> {
        let Repr { b64, .. } = Repr::deserialize(MapAccessDeserializer::new(map))?;
        let bytes = STANDARD.decode(b64).map_err(A::Error::custom)?;
        if std::str::from_utf8(&bytes).is_ok() {
            return Err(A::Error::custom("a UTF-8 path is written as a string, not as b64"));
        }
        Self::path(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn json_loses_no_byte(bytes in proptest::collection::vec(1_u8..=255, 1..300)) {
            let path = EvidencePath::new(bytes).expect("no NUL");
            let json = serde_json::to_string(&path).expect("serialises");
            proptest::prop_assert_eq!(serde_json::from_str::<EvidencePath>(&json).expect("own output"), path);
        }
    }

    #[test]
    fn member_names() {
        let name = |p: &str| String::from_utf8(EvidencePath::new(p).expect("path").member_name("files")).expect("utf-8");
        assert_eq!(
            (name("/etc/passwd"), name("//x"), name("table.jsonl")),
            ("files/etc/passwd".into(), "files/x".into(), "files/table.jsonl".into())
        );
    }
}
