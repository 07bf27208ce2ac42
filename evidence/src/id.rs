//! Identifiers: a prefix that names the kind, then 26 characters of Crockford base32 (lower case): 48 bits of
//! milliseconds since 1970 and 80 random bits, so that names sort by age and are safe in paths, object keys and URIs.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;

const ALPHABET: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const BODY_CHARS: usize = 26;

/// Why a text is not an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is not {kind} id: expected '{prefix}' and 26 characters of 0-9 a-z without i, l, o, u")]
pub struct BadId {
    kind: &'static str,
    prefix: &'static str,
    shown: String,
}

fn encode(value: u128) -> String {
    (0..BODY_CHARS)
        .rev()
        .map(|i| {
            let digit = (value >> (5 * i)) & 31;
            // `digit` is below 32, the length of the alphabet.
            ALPHABET.get(digit as usize).copied().map_or('0', char::from)
        })
        .collect()
}

fn body_is_valid(body: &str) -> bool {
    body.len() == BODY_CHARS
        && body.bytes().all(|b| ALPHABET.contains(&b))
        // 26 x 5 = 130 bits: the first character carries only three.
        && body.bytes().next().is_some_and(|b| b <= b'7')
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $kind:literal, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The text that every identifier of this kind starts with.
            pub const PREFIX: &'static str = $prefix;

            /// Makes an identifier from the caller's clock (milliseconds since 1970) and ten random bytes.
            #[must_use]
            pub fn new(unix_ms: u64, random: [u8; 10]) -> Self {
                let low = random.iter().fold(0_u128, |acc, b| (acc << 8) | u128::from(*b));
                let high = u128::from(unix_ms & 0xffff_ffff_ffff);
                Self(format!("{}{}", $prefix, encode((high << 80) | low)))
            }

            /// Makes an identifier from the first 128 bits of a digest, where two parties must arrive at the same one.
            #[must_use]
            pub fn from_digest(digest: &Digest) -> Self {
                let value = digest.as_bytes().iter().take(16).fold(0_u128, |acc, b| (acc << 8) | u128::from(*b));
                Self(format!("{}{}", $prefix, encode(value)))
            }

            /// The identifier as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadId;
            fn from_str(text: &str) -> Result<Self, BadId> {
                match text.strip_prefix($prefix) {
                    Some(body) if body_is_valid(body) => Ok(Self(text.to_owned())),
                    _ => Err(BadId { kind: $kind, prefix: $prefix, shown: crate::text::escape_bounded(text, 80) }),
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                crate::parsed::parsed(d)
            }
        }
    };
}

id!(
    /// A legal matter.
    CaseId, "a case", "case-"
);
id!(
    /// A responder's signed instruction.
    OrderId, "an order", "ord-"
);
id!(
    /// One order's execution on one host. Derived: see [`CollectionId::of`].
    CollectionId, "a collection", "col-"
);
id!(
    /// An enrolled agent. Derived: see [`AgentId::of_key`].
    AgentId, "an agent", "agt-"
);

impl AgentId {
    /// The agent that holds an evidence key: its id is a function of the key, so that an order that names an agent names
    /// its key, and nobody, whoever may enrol keys, can put another key in its place.
    #[must_use]
    pub fn of_key(key: &Digest) -> Self {
        Self::from_digest(key)
    }
}

impl CollectionId {
    /// The collection that an order makes on one agent: a function of both, so that an order cannot be executed twice
    /// under two names and agent and coordinator agree without asking each other.
    #[must_use]
    pub fn of(order_envelope: &Digest, agent: &AgentId) -> Self {
        let mut text = Vec::with_capacity(128);
        text.extend_from_slice(b"exhibit collection v1\n");
        text.extend_from_slice(order_envelope.to_string().as_bytes());
        text.push(b'\n');
        text.extend_from_slice(agent.as_str().as_bytes());
        Self::from_digest(&Digest::of(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_and_sorts_by_age() {
        let a = CaseId::new(1_700_000_000_000, [0xff; 10]);
        let b = CaseId::new(1_700_000_000_001, [0; 10]);
        assert!(a < b);
        assert_eq!(a.to_string().parse::<CaseId>().as_ref(), Ok(&a));
        assert_eq!(a.as_str().len(), 31);
    }

    #[test]
    fn refuses_what_could_leave_its_folder_or_its_kind() {
        for bad in [
            "",
            "case-",
            "case-../../etc/passwd",
            "col-01hf7yat00zzzzzzzzzzzzzzzz",
            "case-81hf7yat00zzzzzzzzzzzzzzzz",
            "case-01HF7YAT00ZZZZZZZZZZZZZZZZ",
        ] {
            assert!(bad.parse::<CaseId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_collection_is_a_function_of_order_and_agent() {
        let agent = AgentId::new(1, [1; 10]);
        let order = Digest::of(b"order");
        assert_eq!(CollectionId::of(&order, &agent), CollectionId::of(&order, &agent));
        assert_ne!(CollectionId::of(&order, &agent), CollectionId::of(&Digest::of(b"other"), &agent));
    }
}
