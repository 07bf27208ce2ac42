//! S3 (API reference: HeadObject, GetObjectRetention, GetObjectLegalHold, PutObjectRetention, PutObjectLegalHold,
//! ListObjectVersions, DeleteObject, GetBucketVersioning, GetObjectLockConfiguration).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use exhibit_evidence::{Digest, Timestamp};
use http::{HeaderMap, Method};

use super::super::lock::{Lock, LockMode, Seen, parse_time, seconds_text};
use super::dialect::{Ask, Dialect, Part, Reply, Setting, Words, encoded, header};
use super::refusal::Said;
use super::versions::{Cursor, Found, Listed};
use super::xml::{self, Node};

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
    stays_weak: "the store ignores locks: run 'exhibit-coordinator store check'",
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

    /// The headers of HEAD are "only returned if the requester has the s3:GetObjectRetention permission", or that of the hold.
    fn look_closer(&self, part: Part, version: &str) -> Option<Ask> {
        let (what, right) = match part {
            Part::Retention => ("retention", "s3:GetObjectRetention"),
            Part::Hold => ("legal-hold", "s3:GetObjectLegalHold"),
        };
        Some(Ask::new(Method::GET).query(what, "").query("versionId", version).right(right))
    }

    fn closer(&self, part: Part, reply: &Reply, seen: &mut Seen) -> Result<(), String> {
        let root = xml::parse(&reply.body)?;
        match part {
            Part::Retention => {
                if let Some((mode, until)) = retention(&root)? {
                    (seen.mode, seen.until) = (Some(mode), Some(until));
                }
            }
            Part::Hold => seen.hold = is_held(&root)?,
        }
        Ok(())
    }

    /// HEAD just showed the version, so a 404 with a code that does not speak of that is about the part; MinIO says the same with the status
    /// 400.
    fn lacks(&self, status: u16, said: &Said) -> bool {
        let is_of_version = matches!(said.code.as_str(), "NoSuchKey" | "NoSuchVersion" | "NoSuchBucket");
        match said.code.as_str() {
            "NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError" | "MethodNotAllowed" | "NotImplemented" => true,
            // A word for very much else too: the bucket has no Object Lock, as S3, MinIO and Ceph say it.
            "InvalidRequest" => {
                let message = said.message.to_lowercase();
                let words = ["missing object lock configuration", "missing objectlockconfiguration", "object lock not configured"];
                words.iter().any(|words| message.contains(words))
            }
            code => status == 404 && !code.is_empty() && !is_of_version,
        }
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
        let error = xml::parse(body).ok().filter(|e| e.name == "Error");
        error.map(|e| (e.get("Code").to_owned(), e.get("Message").to_owned())).unwrap_or_default()
    }
}

/// What `GET ?retention` answers; nothing of an empty one.
fn retention(root: &Node) -> Result<Option<(LockMode, Timestamp)>, String> {
    if root.name != "Retention" {
        return Err(format!("asked for a retention, it speaks of '{}'", root.name));
    }
    let (mode, until) = (root.get("Mode"), root.get("RetainUntilDate"));
    if mode.is_empty() && until.is_empty() {
        return Ok(None);
    }
    match (LockMode::from_s3(mode), parse_time(until)) {
        (Some(mode), Some(until)) => Ok(Some((mode, until))),
        _ => Err(format!("a retention of mode '{mode}' until '{until}'")),
    }
}

/// What `GET ?legal-hold` answers.
fn is_held(root: &Node) -> Result<bool, String> {
    match (root.name.as_str(), root.get("Status")) {
        ("LegalHold", "ON") => Ok(true),
        ("LegalHold", "OFF" | "") => Ok(false),
        (name, status) => Err(format!("asked for a legal hold, it speaks of '{name}' with status '{status}'")),
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

    fn answered(part: Part, body: impl Into<Bytes>) -> Result<Seen, String> {
        let mut seen = Seen::default();
        S3.closer(part, &Reply::new(HeaderMap::new(), body.into()), &mut seen).map(|()| seen)
    }

    #[test]
    fn a_part_of_a_lock_is_read_whole_or_refused() {
        let text = format!(
            "<Retention xmlns=\"{NAMESPACE}\"><Mode>GOVERNANCE</Mode><RetainUntilDate>2026-01-01T00:00:00.000Z</RetainUntilDate></Retention>"
        );
        let until = Some(Timestamp::from_unix_s(1_767_225_600));
        let seen = Seen { mode: Some(LockMode::Governance), until, hold: false };
        assert_eq!(answered(Part::Retention, text), Ok(seen));
        assert_eq!(answered(Part::Retention, "<Retention/>"), Ok(Seen::default()));
        for bad in [
            "",
            "<Retention><Mode>COMPLIANCE</Mode></Retention>",
            "<Retention><RetainUntilDate>2026-01-01T00:00:00Z</RetainUntilDate></Retention>",
            "<Retention><Mode>NONE</Mode><RetainUntilDate>2026-01-01T00:00:00Z</RetainUntilDate></Retention>",
            "<Retention><Mode>COMPLIANCE</Mode><RetainUntilDate>never</RetainUntilDate></Retention>",
            "<LegalHold><Status>ON</Status></LegalHold>",
            "record",
        ] {
            assert!(answered(Part::Retention, bad).is_err(), "{bad}");
        }
        for (status, hold) in [("ON", true), ("OFF", false), ("", false)] {
            let text = format!("<LegalHold><Status>{status}</Status></LegalHold>");
            assert_eq!(answered(Part::Hold, text), Ok(Seen { hold, ..Seen::default() }), "{status}");
        }
        for bad in ["", "<LegalHold><Status>on</Status></LegalHold>", "<Retention><Status>ON</Status></Retention>", "<LegalHold>"] {
            assert!(answered(Part::Hold, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_says_that_there_is_no_lock_is_told_from_what_refuses() {
        let lacks = |status: u16, code: &str, message: &str| {
            S3.lacks(status, &Said { code: code.to_owned(), message: message.to_owned(), is_expired: false })
        };
        for (status, code, message) in [
            (404, "NoSuchObjectLockConfiguration", "x"),
            (400, "NoSuchObjectLockConfiguration", "x"),
            (404, "ObjectLockConfigurationNotFoundError", "x"),
            (404, "NoSuchObjectLegalHold", "x"),
            (400, "InvalidRequest", "Bucket is missing Object Lock Configuration"),
            (400, "InvalidRequest", "Bucket is missing ObjectLockConfiguration"),
            (405, "MethodNotAllowed", "x"),
            (501, "NotImplemented", "x"),
        ] {
            assert!(lacks(status, code, message), "{status} {code} {message}");
        }
        for (status, code, message) in [
            (404, "NoSuchKey", "x"),
            (404, "NoSuchVersion", "x"),
            (404, "NoSuchBucket", "x"),
            (403, "AccessDenied", "Bucket is missing Object Lock Configuration"),
            (400, "InvalidRequest", "The authorization mechanism is not supported"),
            (400, "ExpiredToken", "x"),
            (403, "", ""),
            (400, "", ""),
            (404, "", ""),
            (405, "", ""),
            (501, "", ""),
            (503, "SlowDown", "x"),
        ] {
            assert!(!lacks(status, code, message), "{status} {code} {message}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_lock_comes_back_as_it_was_and_any_other_answer_is_read_or_refused(
            s in 0_i64..9_000_000_000,
            (at, byte) in (0_usize..2_000, proptest::num::u8::ANY),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        ) {
            let until = Timestamp::from_unix_s(s);
            for mode in [LockMode::Governance, LockMode::Compliance] {
                let ask = S3.retain("v1", mode, until, false);
                let seen = Seen { mode: Some(mode), until: Some(until), hold: false };
                proptest::prop_assert_eq!(answered(Part::Retention, ask.body.clone()), Ok(seen));
                let mut bytes = ask.body.to_vec();
                let at = at % bytes.len();
                proptest::prop_assert!(answered(Part::Retention, bytes[..at].to_vec()).is_err(), "a cut one");
                bytes[at] = byte;
                for body in [bytes, noise.clone()] {
                    let seen = answered(Part::Retention, body.clone()).unwrap_or_default();
                    proptest::prop_assert_eq!(seen.mode.is_some(), seen.until.is_some(), "whole or not at all");
                    let held = answered(Part::Hold, body).unwrap_or_default();
                    proptest::prop_assert!(!held.hold, "nothing that says so");
                }
            }
        }

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
            let reply = |body: Vec<u8>| Reply::new(HeaderMap::new(), Bytes::from(body));
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
