//! S3 (API reference: HeadObject, PutObjectRetention, PutObjectLegalHold, ListObjectVersions, DeleteObject,
//! GetBucketVersioning, GetObjectLockConfiguration).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::{Digest, Timestamp};
use http::{HeaderMap, Method};

use super::super::lock::{Lock, LockMode, Seen, parse_time, seconds_text};
use super::dialect::{Ask, Dialect, Reply, Setting, Words, encoded, header};
use super::versions::{Cursor, Found, Listed};
use super::xml;

const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Amazon S3 and what speaks as it does.
#[derive(Debug)]
pub(super) struct S3;

static WORDS: Words = Words {
    cloud: "S3",
    lock: "Object Lock",
    set_lock: "make the bucket with Object Lock (it cannot be had without versioning) and set store.lock in the configuration",
    cannot_lock: "store.lock is set and the bucket has no Object Lock: switch it on, or make a bucket that has it (docs/operations/stores.md)",
    use_policy: "give the coordinator's credentials the policy deploy/policies/s3-writer.json and nothing beside it",
    stays_weak: "the store ignores locks, or s3:GetObjectRetention and s3:GetObjectLegalHold are missing: run 'exhibit-coordinator store check'",
    hidden: "an object can be hidden under a delete marker; attestation finds it, nothing prevents it",
    shortens_governance: false,
    hold_keeps_name: false,
};

impl Dialect for S3 {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn path(&self, key: &str) -> String {
        format!("/{}", encoded(key, "/"))
    }

    fn locked(&self, lock: &Lock) -> Vec<(&'static str, String)> {
        let mut headers = vec![
            ("x-amz-object-lock-mode", lock.mode.as_s3().to_owned()),
            ("x-amz-object-lock-retain-until-date", seconds_text(lock.until)),
            ("x-amz-sdk-checksum-algorithm", "SHA256".to_owned()),
        ];
        if lock.hold {
            headers.push(("x-amz-object-lock-legal-hold", "ON".to_owned()));
        }
        headers
    }

    fn look(&self, version: &str) -> Ask {
        Ask::new(Method::HEAD).query("versionId", version)
    }

    fn seen(&self, reply: &Reply, _version: &str) -> Result<Seen, String> {
        let text = |name: &str| header(&reply.headers, name);
        Ok(Seen {
            mode: LockMode::from_s3(text("x-amz-object-lock-mode")),
            until: parse_time(text("x-amz-object-lock-retain-until-date")),
            hold: text("x-amz-object-lock-legal-hold") == "ON",
        })
    }

    fn retain(&self, version: &str, mode: LockMode, until: Timestamp, bypass: bool) -> Ask {
        let (mode, until) = (mode.as_s3(), seconds_text(until));
        let body = format!("<Retention xmlns=\"{NAMESPACE}\"><Mode>{mode}</Mode><RetainUntilDate>{until}</RetainUntilDate></Retention>");
        bypassing(with_xml(Ask::new(Method::PUT).query("retention", "").query("versionId", version), body), bypass)
    }

    fn hold(&self, version: &str, on: bool) -> Ask {
        let status = if on { "ON" } else { "OFF" };
        let body = format!("<LegalHold xmlns=\"{NAMESPACE}\"><Status>{status}</Status></LegalHold>");
        with_xml(Ask::new(Method::PUT).query("legal-hold", "").query("versionId", version), body)
    }

    fn delete(&self, version: Option<&str>, bypass: bool) -> Ask {
        let ask = Ask::new(Method::DELETE);
        bypassing(if let Some(version) = version { ask.query("versionId", version) } else { ask }, bypass)
    }

    fn list(&self, prefix: &str, after: Option<&Cursor>) -> (&'static str, Ask) {
        let ask = Ask::new(Method::GET).query("versions", "").query("prefix", prefix).query("max-keys", "1000");
        let Some(after) = after else { return ("", ask) };
        ("", ask.query("key-marker", after.key.as_str()).query("version-id-marker", after.version.as_str()))
    }

    fn page(&self, reply: &Reply) -> Result<Listed, String> {
        let root = xml::parse(&reply.body)?;
        let found = root.children.iter().filter(|node| matches!(node.name.as_str(), "Version" | "DeleteMarker"));
        let found = found.map(|node| Found {
            key: node.get("Key").to_owned(),
            version: node.get("VersionId").to_owned(),
            marker: node.name == "DeleteMarker",
            latest: node.get("IsLatest") == "true",
            modified: parse_time(node.get("LastModified")),
        });
        let next = (root.get("IsTruncated") == "true")
            .then(|| Cursor { key: root.get("NextKeyMarker").to_owned(), version: root.get("NextVersionIdMarker").to_owned() });
        Ok(Listed { found: found.collect(), next })
    }

    fn has_markers(&self) -> bool {
        true
    }

    fn setting(&self, what: Setting) -> Ask {
        Ask::new(Method::GET).query(if what == Setting::Versions { "versioning" } else { "object-lock" }, "")
    }

    fn is_on(&self, what: Setting, reply: &Reply) -> Result<bool, String> {
        let key = if what == Setting::Versions { "Status" } else { "ObjectLockEnabled" };
        Ok(xml::parse(&reply.body)?.get(key) == "Enabled")
    }

    fn said(&self, _headers: &HeaderMap, body: &[u8]) -> (String, String) {
        xml::parse(body).map(|e| (e.get("Code").to_owned(), e.get("Message").to_owned())).unwrap_or_default()
    }
}

/// Requests that change a lock are refused without a checksum of their body.
fn with_xml(ask: Ask, body: String) -> Ask {
    ask.header("x-amz-sdk-checksum-algorithm", "SHA256")
        .header("x-amz-checksum-sha256", STANDARD.encode(Digest::of(body.as_bytes()).as_bytes()))
        .header("content-type", "application/xml")
        .body(body)
}

fn bypassing(ask: Ask, yes: bool) -> Ask {
    if yes { ask.header("x-amz-bypass-governance-retention", "true") } else { ask }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    proptest::proptest! {
        #[test]
        fn a_page_comes_back_as_it_was_and_any_other_answer_is_read_or_refused(
            versions in proptest::collection::vec(("[a-z0-9/._-]{1,20}", "[A-Za-z0-9]{1,20}", proptest::bool::ANY), 0..20),
            (at, byte) in (0_usize..2_000, proptest::num::u8::ANY),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        ) {
            let row = |(key, version, marker): &(String, String, bool)| {
                let kind = if *marker { "DeleteMarker" } else { "Version" };
                format!("<{kind}><Key>{key}</Key><VersionId>{version}</VersionId></{kind}>")
            };
            let text = format!("<ListVersionsResult>{}</ListVersionsResult>", versions.iter().map(row).collect::<Vec<_>>().concat());
            let reply = |body: Vec<u8>| Reply { headers: HeaderMap::new(), body: Bytes::from(body) };
            let listed = S3.page(&reply(text.clone().into_bytes())).expect("reads");
            proptest::prop_assert_eq!(listed.found.into_iter().map(|f| (f.key, f.version, f.marker)).collect::<Vec<_>>(), versions);

            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            proptest::prop_assert!(S3.page(&reply(bytes[..at].to_vec())).is_err(), "a cut one");
            bytes[at] = byte;
            for body in [bytes, noise] {
                let reply = reply(body);
                let _ = (S3.is_on(Setting::Locks, &reply), S3.said(&reply.headers, &reply.body));
                let found = S3.page(&reply).map_or(0, |listed| listed.found.len());
                proptest::prop_assert!(found * "<Version/>".len() <= reply.body.len(), "no more than there is");
            }
        }
    }
}
