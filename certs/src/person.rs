//! The two files by which a person comes in: the request, which the person makes, and the answer of whoever enrols. Neither holds a
//! secret; each is checked on the other side, and nothing rests on the way that it took.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::dsse::Envelope;
use exhibit_evidence::key::PublicKey;
use exhibit_evidence::text::escape_bounded;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::credential::Pending;
use crate::enrol::{sign_proof, verify_proof};
use crate::files;
use crate::key::BadTlsKey;
use crate::name::{DeploymentName, PeerName};

/// Largest request or answer that is read: 8 enrolments and 4 certificates, as base64.
const FILE_BYTES_MAX: usize = 1 << 20;

const REQUEST: &str = "exhibit-person-request/1";
const ANSWER: &str = "exhibit-person-answer/1";

/// What makes each of the files: whoever gives the wrong one is told which it is.
fn maker(file: &str) -> &'static str {
    if file == "REQUEST" {
        "expected the file that the new person's 'exhibit person request' wrote with --out"
    } else {
        "expected the file that the admin's 'exhibit person enroll' (or 'exhibit-coordinator recover-admin') wrote with --out"
    }
}

/// Why a request or an answer is of no use. One sentence that names file and field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {why}")]
pub struct BadExchange {
    file: &'static str,
    why: String,
}

fn bad(file: &'static str, why: impl std::fmt::Display) -> BadExchange {
    BadExchange { file, why: escape_bounded(&why.to_string(), 400) }
}

/// What a person asks with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    format: String,
    /// SPIFFE-style URI.
    name: String,
    /// The evidence key.
    key: PublicKey,
    /// PKCS #10, base64.
    tls_csr: String,
    /// The evidence key's signature over request and name, base64.
    proof: String,
}

/// A [`Request`] that was not altered on its way, by somebody of this deployment.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Who.
    pub name: PeerName,
    /// The evidence key.
    pub key: PublicKey,
    /// PKCS #10 in DER.
    pub tls_csr: Vec<u8>,
}

impl Request {
    /// A request for keys that wait in a folder.
    ///
    /// # Errors
    /// When the TLS key cannot sign.
    pub fn new(pending: &Pending, name: &PeerName) -> Result<Self, BadTlsKey> {
        let csr = pending.tls.request()?;
        let proof = sign_proof(&pending.evidence, &csr, &name.to_string());
        Ok(Self {
            format: REQUEST.to_owned(),
            name: name.to_string(),
            key: pending.evidence.public(),
            tls_csr: STANDARD.encode(&csr),
            proof: STANDARD.encode(proof),
        })
    }

    /// Reads a request and checks that its key signed it and that it names a person of `deployment`. Whether the key is that
    /// person's is for whoever enrols to find out on another way.
    ///
    /// # Errors
    /// [`BadExchange`]
    pub fn open(path: &Path, deployment: &DeploymentName) -> Result<Asked, BadExchange> {
        let request: Self = read(path, "REQUEST")?;
        if request.format != REQUEST {
            let why = format!("{}; its format is not {REQUEST}, but '{}'", maker("REQUEST"), request.format);
            return Err(bad("REQUEST", why));
        }
        let tls_csr = decode("REQUEST: tls_csr", &request.tls_csr)?;
        let proof = decode("REQUEST: proof", &request.proof)?;
        if !verify_proof(&request.key, &tls_csr, &request.name, &proof) {
            return Err(bad("REQUEST", "it was altered on its way: the key's signature does not hold; ask for another one"));
        }
        let name: PeerName = request.name.parse().map_err(|e| bad("REQUEST: name", e))?;
        if name.responder().is_none() || name.deployment() != deployment {
            return Err(bad("REQUEST: name", format!("{name} is no person of deployment '{deployment}'")));
        }
        Ok(Asked { name, key: request.key, tls_csr })
    }
}

/// What the person gets.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    format: String,
    /// `HOST:PORT`.
    coordinator: String,
    /// Certificates, leaf first, base64.
    tls_chain: Vec<String>,
    /// The TLS root, base64.
    tls_root: String,
    /// Enrolment records from the root down, base64.
    enrolments: Vec<String>,
}

/// An [`Answer`], decoded; what it says is checked against the person's own anchor, by [`crate::Credential::new`].
#[derive(Debug, Clone)]
pub struct Given {
    /// `HOST:PORT`, as it was written.
    pub coordinator: String,
    /// Certificates in DER, leaf first.
    pub tls_chain: Vec<Vec<u8>>,
    /// The TLS root in DER.
    pub tls_root: Vec<u8>,
    /// Enrolment records from the root down.
    pub enrolments: Vec<Envelope>,
}

impl Answer {
    /// An answer with everything that a person needs to connect.
    #[must_use]
    pub fn new<B: AsRef<[u8]>>(coordinator: &str, tls_chain: &[B], tls_root: &[u8], enrolments: &[B]) -> Self {
        let all = |list: &[B]| list.iter().map(|bytes| STANDARD.encode(bytes)).collect();
        Self {
            format: ANSWER.to_owned(),
            coordinator: coordinator.to_owned(),
            tls_chain: all(tls_chain),
            tls_root: STANDARD.encode(tls_root),
            enrolments: all(enrolments),
        }
    }

    /// Reads an answer.
    ///
    /// # Errors
    /// [`BadExchange`]
    pub fn open(path: &Path) -> Result<Given, BadExchange> {
        let answer: Self = read(path, "ANSWER")?;
        if answer.format != ANSWER {
            let why = format!("{}; its format is not {ANSWER}, but '{}'", maker("ANSWER"), answer.format);
            return Err(bad("ANSWER", why));
        }
        let tls_chain = answer.tls_chain.iter().map(|text| decode("ANSWER: tls_chain", text));
        let enrolment = |text: &String| {
            let bytes = decode("ANSWER: enrolments", text)?;
            Envelope::parse(&bytes).map_err(|e| bad("ANSWER: enrolments", e))
        };
        Ok(Given {
            tls_chain: tls_chain.collect::<Result<_, _>>()?,
            tls_root: decode("ANSWER: tls_root", &answer.tls_root)?,
            enrolments: answer.enrolments.iter().map(enrolment).collect::<Result<_, _>>()?,
            coordinator: answer.coordinator,
        })
    }
}

/// The bytes of a request's or an answer's file.
///
/// # Errors
/// None that happens: all of it is text.
pub fn to_file(value: &impl Serialize) -> Result<Vec<u8>, serde_json::Error> {
    let mut bytes = serde_json::to_vec_pretty(value)?;
    bytes.push(b'\n');
    Ok(bytes)
}

fn read<T: DeserializeOwned>(path: &Path, file: &'static str) -> Result<T, BadExchange> {
    let bytes = files::read(path).map_err(|e| bad(file, e))?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(bad(file, format!("{} has {} bytes, at most {FILE_BYTES_MAX} are expected", path.display(), bytes.len())));
    }
    serde_json::from_slice(&bytes).map_err(|e| bad(file, format!("{}; {} is another one: {e}", maker(file), path.display())))
}

fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, BadExchange> {
    STANDARD.decode(text).map_err(|e| bad(field, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_file_is_told_what_makes_the_right_one() {
        let dir = tempfile::tempdir().expect("folder");
        let path = dir.path().join("given");
        let deployment: DeploymentName = "test".parse().expect("name");
        for wrong in ["-----BEGIN CERTIFICATE-----", "{}", "{\"format\": \"exhibit-person-answer/1\"}", ""] {
            std::fs::write(&path, wrong).expect("written");
            let request = Request::open(&path, &deployment).expect_err("no request").to_string();
            let said = "REQUEST: expected the file that the new person's 'exhibit person request' wrote with --out; ";
            assert!(request.starts_with(said) && request.contains("given is another one"), "{request}");
            let answer = Answer::open(&path).expect_err("no answer").to_string();
            assert!(answer.starts_with("ANSWER: expected") && answer.contains("'exhibit person enroll'"), "{answer}");
        }
    }

    /// A request and who asks.
    static ASKING: std::sync::LazyLock<(Vec<u8>, PublicKey)> = std::sync::LazyLock::new(|| {
        let dir = tempfile::tempdir().expect("folder");
        let pending = Pending::take_up(dir.path(), &[7; 32]).expect("keys");
        let name: PeerName = "spiffe://test/responder/alex".parse().expect("name");
        let request = Request::new(&pending, &name).expect("signed");
        (to_file(&request).expect("text"), pending.evidence.public())
    });

    proptest::proptest! {
        #[test]
        fn an_altered_request_is_refused_or_asks_for_the_same(
            (at, byte) in (0_usize..4_000, proptest::num::u8::ANY),
            cut in proptest::bool::ANY,
        ) {
            let (mut bytes, key) = (ASKING.0.clone(), ASKING.1);
            let at = at % bytes.len();
            bytes[at] = byte;
            if cut {
                bytes.truncate(at);
            }
            let dir = tempfile::tempdir().expect("folder");
            let path = dir.path().join("given");
            std::fs::write(&path, &bytes).expect("written");
            if let Ok(asked) = Request::open(&path, &"test".parse().expect("name")) {
                proptest::prop_assert!(asked.key == key && asked.name.to_string() == "spiffe://test/responder/alex");
            }
            proptest::prop_assert!(Answer::open(&path).is_err(), "it is a request");
        }
    }
}
