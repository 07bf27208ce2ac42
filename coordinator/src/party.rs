//! Who is at the other end of a connection: a name, and of a person the evidence key whose rights the certificate carries.

use std::fmt;

use exhibit_certs::name::PeerName;
use exhibit_evidence::key::KeyId;

/// A peer as its certificate says. Its text is what its connections are known by; two keys of one person are two of them, so that
/// one can be cut off while the other goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Party {
    /// The name in the certificate.
    pub name: PeerName,
    /// Of a person: the evidence key that the certificate names, if it does.
    pub key: Option<KeyId>,
}

/// Between name and key; no name holds it.
const SEPARATOR: char = '#';

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.key {
            Some(key) => write!(f, "{}{SEPARATOR}{key}", self.name),
            None => self.name.fmt(f),
        }
    }
}

/// The text by which the connections of a person's key are known.
#[must_use]
pub fn known_by(name: &str, key: KeyId) -> String {
    format!("{name}{SEPARATOR}{key}")
}

/// The key in such a text; `None` where it is no person's.
#[must_use]
pub fn key_in(text: &str) -> Option<KeyId> {
    text.split_once(SEPARATOR)?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use exhibit_evidence::Digest;

    #[test]
    fn a_persons_keys_are_two_parties_and_an_agent_is_one() {
        let name: PeerName = "spiffe://acme/responder/ada".parse().expect("name");
        let party = |key| Party { name: name.clone(), key }.to_string();
        let [one, two] = [b"1", b"2"].map(|b| Digest::of(b));
        assert_ne!(party(Some(one)), party(Some(two)));
        assert_eq!((party(Some(one)), key_in(&party(Some(one)))), (known_by("spiffe://acme/responder/ada", one), Some(one)));
        assert_eq!((party(None).as_str(), key_in("spiffe://acme/agent/x"), key_in("a#b")), ("spiffe://acme/responder/ada", None, None));
    }
}
