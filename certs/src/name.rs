//! Names of the parties, as they stand in certificates and enrolment records:
//! `spiffe://<deployment>/agent/<agent id>`, `spiffe://<deployment>/responder/<name>` (every person, whatever the
//! roles) and `spiffe://<deployment>/coordinator/<part>`.

use std::fmt;
use std::str::FromStr;

use exhibit_evidence::AgentId;
use exhibit_evidence::text::escape_bounded;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{shown}' is not {expected}{why}")]
pub struct BadName {
    shown: String,
    expected: &'static str,
    /// Empty, or a clause that begins with its separator.
    why: String,
}

fn bad(text: &str, expected: &'static str) -> BadName {
    BadName { shown: escape_bounded(text, 120), expected, why: String::new() }
}

/// What is wrong with a label, for whoever wrote it: the character that does not belong, or the place.
fn flaw(text: &str, punctuation: &[u8]) -> String {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || (c.is_ascii() && punctuation.contains(&(c as u8)));
    let Some(c) = text.chars().find(|c| !allowed(*c)) else {
        let length = text.len();
        return match text {
            "" => "it is empty".to_owned(),
            _ if length > NAME_BYTES_MAX => format!("it has {length} characters"),
            _ if text.contains("..") => "it has two dots in a row".to_owned(),
            _ => "it begins or ends with punctuation".to_owned(),
        };
    };
    let shown = escape_bounded(&c.to_string(), 12);
    let why = match c {
        'A'..='Z' => format!(": write '{}'", c.to_ascii_lowercase()),
        c if c.is_ascii() => String::new(),
        _ => ": names of people are compared by eye, so only characters are taken that look like no other".to_owned(),
    };
    format!("'{shown}' is not allowed{why}")
}

const NAME_BYTES_MAX: usize = 63;

fn is_label(text: &str, punctuation: &[u8]) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = [text.bytes().next(), text.bytes().next_back()];
    text.len() <= NAME_BYTES_MAX
        && ends.iter().all(|end| end.is_some_and(alphanumeric))
        && text.bytes().all(|b| alphanumeric(b) || punctuation.contains(&b))
        && !text.contains("..")
}

macro_rules! label {
    ($(#[$doc:meta])* $name:ident, $punctuation:literal, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = BadName;
            fn from_str(text: &str) -> Result<Self, BadName> {
                if is_label(text, $punctuation) {
                    return Ok(Self(text.to_owned()));
                }
                Err(BadName { why: format!("; {}", flaw(text, $punctuation)), ..bad(text, $expected) })
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
                let text = <std::borrow::Cow<'de, str> as serde::Deserialize>::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

label!(
    /// A deployment: the authority part of every name in it.
    DeploymentName,
    b".-",
    "a deployment name: expected 1 to 63 characters of a-z 0-9 . -, beginning and ending with a letter or digit"
);
label!(
    /// A person's name within a deployment.
    PersonName,
    b".-_",
    "a person's name: expected 1 to 63 characters of a-z 0-9 . - _, beginning and ending with a letter or digit"
);
label!(
    /// A part of the coordinator: `server`, `issuer`, `log`.
    PartName,
    b"-",
    "a part of the coordinator: expected 1 to 63 characters of a-z 0-9 -, beginning and ending with a letter or digit"
);

/// Who a peer is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerName {
    /// An agent.
    Agent(DeploymentName, AgentId),
    /// A person.
    Responder(DeploymentName, PersonName),
    /// A part of the coordinator.
    Coordinator(DeploymentName, PartName),
}

impl PeerName {
    /// The deployment that the name belongs to.
    #[must_use]
    pub const fn deployment(&self) -> &DeploymentName {
        match self {
            Self::Agent(d, _) | Self::Responder(d, _) | Self::Coordinator(d, _) => d,
        }
    }

    /// The agent's id, if this is an agent.
    #[must_use]
    pub const fn agent(&self) -> Option<&AgentId> {
        if let Self::Agent(_, id) = self { Some(id) } else { None }
    }

    /// The person, if this is one.
    #[must_use]
    pub const fn responder(&self) -> Option<&PersonName> {
        if let Self::Responder(_, name) = self { Some(name) } else { None }
    }

    /// The last part of the name, without kind and deployment.
    #[must_use]
    pub fn short(&self) -> &str {
        match self {
            Self::Agent(_, id) => id.as_str(),
            Self::Responder(_, name) => name.as_str(),
            Self::Coordinator(_, part) => part.as_str(),
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Agent(..) => "agent",
            Self::Responder(..) => "responder",
            Self::Coordinator(..) => "coordinator",
        }
    }
}

impl FromStr for PeerName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        let malformed = || bad(text, "a peer's name: expected spiffe://<deployment>/agent/<id>, /responder/<name> or /coordinator/<part>");
        let rest = text.strip_prefix("spiffe://").ok_or_else(malformed)?;
        let mut parts = rest.split('/');
        let (Some(deployment), Some(kind), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(malformed());
        };
        let deployment = deployment.parse().map_err(|_| malformed())?;
        match kind {
            "agent" => Ok(Self::Agent(deployment, name.parse().map_err(|_| malformed())?)),
            // What people choose themselves: the error says which character is not allowed.
            "responder" => Ok(Self::Responder(deployment, name.parse()?)),
            "coordinator" => Ok(Self::Coordinator(deployment, name.parse().map_err(|_| malformed())?)),
            _ => Err(malformed()),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}/{}", self.deployment(), self.kind(), self.short())
    }
}

impl fmt::Debug for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_kinds_round_trip() {
        for text in [
            "spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzzz",
            "spiffe://ir.acme-corp.example/responder/ana.b_c-1",
            "spiffe://a/coordinator/server",
        ] {
            assert_eq!(text.parse::<PeerName>().map(|n| n.to_string()).as_deref(), Ok(text));
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "spiffe://",
            "spiffe://acme",
            "spiffe://acme/agent/",
            "spiffe://acme/agent/web-1",
            "spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzzz/",
            "spiffe://acme/agent/agt-01hf7yat00zzzzzzzzzzzzzzzz/x",
            "spiffe://Acme/responder/ana",
            "spiffe://acme/responder/Ana",
            "spiffe://acme/responder/..",
            "spiffe://acme/responder/a..b",
            "spiffe://acme/responder/ana%20b",
            "spiffe://acme/responder/ana?x=1",
            "spiffe://acme:80/responder/ana",
            "spiffe://u@acme/responder/ana",
            "spiffe://-acme/responder/ana",
            "spiffe://acme/admin/ana",
            "SPIFFE://acme/responder/ana",
            "https://acme/responder/ana",
            "spiffe://acme/responder/ana\u{202e}",
        ] {
            assert!(text.parse::<PeerName>().is_err(), "{text}");
        }
        assert!("a".repeat(64).parse::<DeploymentName>().is_err());
        for (text, said) in [
            ("Ana", "'A' is not allowed: write 'a'"),
            ("ana smith", "' ' is not allowed"),
            ("an\u{430}", "compared by eye"),
            ("ana.", "begins or ends with punctuation"),
            ("a..b", "two dots"),
            ("", "it is empty"),
        ] {
            let why = text.parse::<PersonName>().expect_err("no name").to_string();
            assert!(why.contains("expected 1 to 63 characters of a-z 0-9 . - _") && why.contains(said), "{why}");
        }
        assert!("a".repeat(63).parse::<DeploymentName>().is_ok());
    }

    proptest::proptest! {
        #[test]
        fn what_parses_prints_back(text in "(spiffe://)?[a-z0-9./-]{0,80}") {
            if let Ok(name) = text.parse::<PeerName>() {
                proptest::prop_assert_eq!(name.to_string(), text);
            }
        }

        #[test]
        fn any_text_is_handled(text: String) {
            let _ = text.parse::<PeerName>();
            let _ = format!("spiffe://a/responder/{text}").parse::<PeerName>();
        }
    }
}
