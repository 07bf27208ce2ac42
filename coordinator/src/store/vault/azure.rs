//! Azure Blob Storage with version-level immutability (REST reference: Put Blob, Get Blob Properties, Set Blob Immutability Policy,
//! Delete Blob Immutability Policy, Set Blob Legal Hold, List Blobs, Delete Blob, Get Container Properties; service version
//! 2020-06-12 and later, which the client names).
//!
//! There are no delete markers: what is deleted without a version is no longer the current one ("Version-level WORM policies").

use exhibit_evidence::Timestamp;
use http::{HeaderMap, Method};

use super::super::lock::{Lock, LockMode, Seen};
use super::dialect::{Ask, Dialect, Reply, Setting, Words, encoded, header};
use super::versions::{Cursor, Found, Listed};
use super::{date, xml};

const MODE: &str = "x-ms-immutability-policy-mode";
const UNTIL: &str = "x-ms-immutability-policy-until-date";
const HOLD: &str = "x-ms-legal-hold";
const VERSION: &str = "x-ms-version-id";

/// Microsoft's own.
#[derive(Debug)]
pub(super) struct Azure;

static WORDS: Words = Words {
    cloud: "Azure Blob Storage",
    lock: "version-level immutability",
    set_lock: "switch on versioning for the account, make the container with version-level immutability (--enable-vlw), and set store.lock in the configuration",
    cannot_lock: "store.lock is set and the container has no version-level immutability: make one that has it (docs/operations/stores.md)",
    use_policy: "give the coordinator's identity the role deploy/policies/azure-writer.json and nothing beside it; an account's key can do everything",
    stays_weak: "compare the identity's role with deploy/policies/azure-writer.json, and run 'exhibit-coordinator store check'",
    hidden: "an object can be hidden by deleting it without its version; attestation finds it, nothing prevents it",
    shortens_governance: true,
    // Under a legal hold "blobs can be created and read, but not modified or deleted" ("Legal holds for immutable blob data"). Whether
    // a write over one modifies it, or makes a version on top, is not said.
    hold_keeps_name: true,
};

impl Dialect for Azure {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn path(&self, key: &str) -> String {
        format!("/{}", encoded(key, "/"))
    }

    fn locked(&self, lock: &Lock) -> Vec<(&'static str, String)> {
        let mut headers = vec![(MODE, lock.mode.as_state().to_owned()), (UNTIL, date::text(lock.until))];
        if lock.hold {
            headers.push((HOLD, "true".to_owned()));
        }
        headers
    }

    fn look(&self, version: &str) -> Ask {
        of_version(Ask::new(Method::HEAD), version)
    }

    fn seen(&self, reply: &Reply, version: &str) -> Result<Seen, String> {
        let text = |name: &str| header(&reply.headers, name);
        if version != NO_VERSION && text(VERSION) != version {
            return Err(format!("asked for version {version}, it speaks of '{}'", text(VERSION)));
        }
        Ok(Seen { mode: LockMode::from_state(text(MODE)), until: date::parse(text(UNTIL)), hold: text(HOLD).eq_ignore_ascii_case("true") })
    }

    /// There is no word for a bypass: an unlocked policy is shortened by whoever may set one.
    fn retain(&self, version: &str, mode: LockMode, until: Timestamp, _bypass: bool) -> Ask {
        let ask = of_version(empty_put().query("comp", "immutabilityPolicies"), version);
        ask.header(MODE, mode.as_state()).header(UNTIL, date::text(until))
    }

    fn hold(&self, version: &str, on: bool) -> Ask {
        of_version(empty_put().query("comp", "legalhold"), version).header(HOLD, if on { "true" } else { "false" })
    }

    fn delete(&self, version: Option<&str>, _bypass: bool) -> Ask {
        let ask = Ask::new(Method::DELETE);
        if let Some(version) = version { of_version(ask, version) } else { ask }
    }

    fn unlock(&self, version: &str) -> Option<Ask> {
        Some(of_version(Ask::new(Method::DELETE).query("comp", "immutabilityPolicies"), version))
    }

    fn refuses_current(&self, message: &str) -> bool {
        message.contains("OperationNotAllowedOnRootBlob")
    }

    fn list(&self, prefix: &str, after: Option<&Cursor>) -> (&'static str, Ask) {
        let ask = Ask::new(Method::GET).query("restype", "container").query("comp", "list").query("include", "versions");
        let mut ask = ask.query("maxresults", "1000");
        if !prefix.is_empty() {
            ask = ask.query("prefix", prefix);
        }
        ("", if let Some(after) = after { ask.query("marker", after.key.as_str()) } else { ask })
    }

    fn page(&self, reply: &Reply) -> Result<Listed, String> {
        let root = xml::parse(&reply.body)?;
        if root.name != "EnumerationResults" {
            return Err("it is no list of blobs".to_owned());
        }
        let blobs = root.children.iter().filter(|node| node.name == "Blobs").flat_map(|blobs| &blobs.children);
        let found = blobs.filter(|node| node.name == "Blob").map(|node| {
            let properties = node.children.iter().find(|child| child.name == "Properties");
            // Without versions of the account a blob has no id, as an object of S3 has "null" then.
            let version = Some(node.get("VersionId")).filter(|version| !version.is_empty());
            Found {
                key: node.get("Name").to_owned(),
                version: version.unwrap_or(NO_VERSION).to_owned(),
                marker: false,
                latest: version.is_none() || node.get("IsCurrentVersion") == "true",
                modified: properties.and_then(|p| date::parse(p.get("Last-Modified"))),
            }
        });
        let next = Some(root.get("NextMarker")).filter(|marker| !marker.is_empty());
        Ok(Listed { found: found.collect(), next: next.map(|key| Cursor { key: key.to_owned(), version: String::new() }) })
    }

    fn setting(&self, _what: Setting) -> Ask {
        Ask::new(Method::HEAD).query("restype", "container")
    }

    /// Whether the account keeps versions is not said here; version-level immutability cannot be had without.
    fn is_on(&self, _what: Setting, reply: &Reply) -> Result<bool, String> {
        Ok(header(&reply.headers, "x-ms-immutable-storage-with-versioning-enabled").eq_ignore_ascii_case("true"))
    }

    fn said(&self, headers: &HeaderMap, body: &[u8]) -> (String, String) {
        let error = xml::parse(body).unwrap_or_default();
        let in_body = if error.name == "Error" { error.get("Code") } else { "" };
        let code = Some(header(headers, "x-ms-error-code")).filter(|code| !code.is_empty()).unwrap_or(in_body);
        (code.to_owned(), error.get("Message").to_owned())
    }
}

/// The id of what has none.
const NO_VERSION: &str = "null";

fn of_version(ask: Ask, version: &str) -> Ask {
    if version == NO_VERSION { ask } else { ask.query("versionid", version) }
}

/// A put without a body is refused without its length.
fn empty_put() -> Ask {
    Ask::new(Method::PUT).header("content-length", "0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    #[test]
    fn answers_are_read() {
        let mut headers = HeaderMap::new();
        for (name, value) in [(VERSION, "v1"), (MODE, "locked"), (UNTIL, "Thu, 01 Jan 2026 00:00:00 GMT"), (HOLD, "true")] {
            headers.insert(name, http::HeaderValue::from_static(value));
        }
        let until = Some(Timestamp::from_unix_s(1_767_225_600));
        let reply = Reply::new(headers, Bytes::new());
        assert!(Azure.seen(&reply, "v0").is_err(), "the lock of another version");
        assert_eq!(Azure.seen(&reply, "v1"), Ok(Seen { mode: Some(LockMode::Compliance), until, hold: true }));
        let none = Reply::new(HeaderMap::new(), Bytes::new());
        assert!(Azure.seen(&none, "v1").is_err(), "of no version");
        assert_eq!((Azure.seen(&none, NO_VERSION), Azure.is_on(Setting::Locks, &none)), (Ok(Seen::default()), Ok(false)));
        // With the byte order mark that Azure writes.
        let text = "\u{feff}<?xml version=\"1.0\"?><EnumerationResults><Blobs><Blob><Name>a</Name><VersionId>v1</VersionId><Properties>\
            <Last-Modified>Thu, 01 Jan 2026 00:00:00 GMT</Last-Modified></Properties></Blob><Blob><Name>b</Name><Properties>\
            <Last-Modified>x</Last-Modified></Properties></Blob></Blobs><NextMarker>m</NextMarker></EnumerationResults>";
        let listed = Azure.page(&Reply::new(HeaderMap::new(), Bytes::from_static(text.as_bytes()))).expect("reads");
        let found: Vec<_> = listed.found.iter().map(|f| (f.version.as_str(), f.latest, f.modified)).collect();
        assert_eq!(found, [("v1", false, until), (NO_VERSION, true, None)]);
        assert_eq!(listed.next.map(|n| n.key).as_deref(), Some("m"));
        assert!(Azure.page(&Reply::new(HeaderMap::new(), Bytes::from_static(b"<html/>"))).is_err(), "another's page");
    }

    #[test]
    fn a_refusal_without_a_body_has_its_code_in_a_header() {
        let mut headers = HeaderMap::new();
        headers.insert("x-ms-error-code", http::HeaderValue::from_static("BlobImmutableDueToPolicy"));
        assert_eq!(Azure.said(&headers, b""), ("BlobImmutableDueToPolicy".to_owned(), String::new()));
        let told = |body: &[u8]| Azure.said(&HeaderMap::new(), body);
        let in_body = b"<Error><Code>BlobImmutableDueToPolicy</Code><Message>no</Message></Error>";
        assert_eq!(told(in_body), ("BlobImmutableDueToPolicy".to_owned(), "no".to_owned()), "where a gateway drops the header");
        for page in [&b"<html>blocked</html>"[..], b"<Fault><Code>Blocked</Code></Fault>", br#"{"error":"blocked"}"#, b""] {
            assert_eq!(told(page).0, "");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_page_comes_back_as_it_was_and_any_other_answer_is_read_or_refused(
            blobs in proptest::collection::vec(("[a-z0-9/._-]{1,20}", "[0-9TZ:.-]{1,20}"), 0..20),
            (at, byte) in (0_usize..2_000, proptest::num::u8::ANY),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        ) {
            let rows = blobs.iter().map(|(name, version)| format!("<Blob><Name>{name}</Name><VersionId>{version}</VersionId></Blob>"));
            let text = format!("<EnumerationResults><Blobs>{}</Blobs></EnumerationResults>", rows.collect::<Vec<_>>().concat());
            let reply = |body: Vec<u8>| Reply::new(HeaderMap::new(), Bytes::from(body));
            let listed = Azure.page(&reply(text.clone().into_bytes())).expect("reads");
            proptest::prop_assert_eq!(listed.found.into_iter().map(|f| (f.key, f.version)).collect::<Vec<_>>(), blobs);

            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            proptest::prop_assert!(Azure.page(&reply(bytes[..at].to_vec())).is_err(), "a cut one");
            bytes[at] = byte;
            for body in [bytes, noise.clone()] {
                let mut reply = reply(body);
                if let Ok(value) = http::HeaderValue::from_bytes(&noise) {
                    for name in [VERSION, MODE, UNTIL, HOLD] {
                        reply.headers.insert(name, value.clone());
                    }
                }
                let _ = (Azure.seen(&reply, NO_VERSION), Azure.is_on(Setting::Locks, &reply), Azure.said(&reply.headers, &reply.body));
                let found = Azure.page(&reply).map_or(0, |listed| listed.found.len());
                proptest::prop_assert!(found * "<Blob/>".len() <= reply.body.len(), "no more than there is");
            }
        }
    }
}
