//! Google Cloud Storage. A put is locked by headers of the XML API (reference of its headers: `x-goog-object-lock-mode`,
//! `x-goog-object-lock-retain-until-date`), because objects are written through that. All else is asked of the JSON API, which
//! alone knows holds (reference of its resources Objects and Buckets: `retention`, `temporaryHold`, `objectRetention`,
//! `versioning`; "Use object holds").
//!
//! A version is a generation. There are no delete markers: what is deleted without one, or replaced, is no longer live, and is
//! listed with `timeDeleted` ("an object that hasn't reached this retain-until time can still be made noncurrent").

use exhibit_evidence::Timestamp;
use http::{HeaderMap, Method};
use serde::Deserialize;

use super::super::lock::{Lock, LockMode, Seen, parse_time, seconds_text};
use super::dialect::{Ask, Dialect, Reply, Setting, Words, encoded};
use super::versions::{Cursor, Found, Listed};

/// Google's own.
#[derive(Debug)]
pub(super) struct Google;

static WORDS: Words = Words {
    cloud: "Google Cloud Storage",
    lock: "object retention",
    set_lock: "make the bucket with --enable-per-object-retention, switch on its versioning, and set store.lock in the configuration",
    cannot_lock: "store.lock is set and the bucket has no object retention or keeps no versions: make one that has both (docs/operations/stores.md)",
    use_policy: "give the coordinator's service account the role deploy/policies/google-writer.yaml and nothing beside it",
    stays_weak: "compare the service account's role with deploy/policies/google-writer.yaml, and run 'exhibit-coordinator store check'; from governance to compliance only the bucket's owner goes",
    hidden: "an object can be hidden by deleting it without its generation; attestation finds it, nothing prevents it",
    shortens_governance: false,
    hold_keeps_name: true,
};

/// An object, as far as it is asked for. All texts, because the JSON API writes 64-bit numbers so.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Object {
    name: String,
    generation: String,
    time_created: String,
    time_deleted: Option<String>,
    retention: Option<Retention>,
    temporary_hold: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Retention {
    mode: String,
    retain_until_time: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Objects {
    kind: String,
    items: Vec<Object>,
    next_page_token: Option<String>,
}

impl Dialect for Google {
    fn words(&self) -> &'static Words {
        &WORDS
    }

    fn path(&self, key: &str) -> String {
        format!("/o/{}", encoded(key, ""))
    }

    /// A hold has no header: it is set when the lock is read back and lacks it.
    fn locked(&self, lock: &Lock) -> Vec<(&'static str, String)> {
        let (mode, until) = (lock.mode.as_s3().to_owned(), seconds_text(lock.until));
        vec![("x-goog-object-lock-mode", mode), ("x-goog-object-lock-retain-until-date", until)]
    }

    fn look(&self, version: &str) -> Ask {
        Ask::new(Method::GET).query("generation", version).query("fields", "generation,retention,temporaryHold")
    }

    fn seen(&self, reply: &Reply, version: &str) -> Result<Seen, String> {
        let object: Object = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        if object.generation != version {
            return Err(format!("asked for generation {version}, it speaks of '{}'", object.generation));
        }
        let retention = object.retention.unwrap_or_default();
        Ok(Seen {
            mode: LockMode::from_state(&retention.mode),
            until: parse_time(&retention.retain_until_time),
            hold: object.temporary_hold,
        })
    }

    /// Shortening, and going from governance to compliance, are refused without `overrideUnlockedRetention` and the right of that name.
    fn retain(&self, version: &str, mode: LockMode, until: Timestamp, bypass: bool) -> Ask {
        let body = format!(r#"{{"retention":{{"mode":"{}","retainUntilTime":"{}"}}}}"#, mode.as_state(), seconds_text(until));
        overriding(patch(version, body), bypass)
    }

    /// A temporary hold: an event-based one cannot be together with a retention ("Object holds"). "While an object has a hold placed
    /// on it, the object cannot be deleted or replaced": unlike of a retention, no exception is told for buckets with versions.
    fn hold(&self, version: &str, on: bool) -> Ask {
        patch(version, format!(r#"{{"temporaryHold":{on}}}"#))
    }

    fn delete(&self, version: Option<&str>, _bypass: bool) -> Ask {
        let ask = Ask::new(Method::DELETE);
        if let Some(version) = version { ask.query("generation", version) } else { ask }
    }

    fn unlock(&self, version: &str) -> Option<Ask> {
        Some(overriding(patch(version, r#"{"retention":null}"#.to_owned()), true))
    }

    fn list(&self, prefix: &str, after: Option<&Cursor>) -> (&'static str, Ask) {
        let ask = Ask::new(Method::GET)
            .query("versions", "true")
            .query("prefix", prefix)
            .query("maxResults", "1000")
            .query("fields", "kind,nextPageToken,items(name,generation,timeCreated,timeDeleted)");
        let Some(after) = after else { return ("/o", ask) };
        ("/o", ask.query("pageToken", after.key.as_str()))
    }

    fn page(&self, reply: &Reply) -> Result<Listed, String> {
        let objects: Objects = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        if objects.kind != "storage#objects" {
            return Err("it is no list of objects".to_owned());
        }
        let found = objects.items.into_iter().map(|object| Found {
            modified: parse_time(&object.time_created),
            latest: object.time_deleted.is_none(),
            key: object.name,
            version: object.generation,
            marker: false,
        });
        let next = objects.next_page_token.filter(|token| !token.is_empty());
        Ok(Listed { found: found.collect(), next: next.map(|key| Cursor { key, version: String::new() }) })
    }

    fn setting(&self, _what: Setting) -> Ask {
        Ask::new(Method::GET).query("fields", "versioning,objectRetention")
    }

    fn is_on(&self, what: Setting, reply: &Reply) -> Result<bool, String> {
        let bucket: serde_json::Value = serde_json::from_slice(&reply.body).map_err(|e| e.to_string())?;
        Ok(match what {
            Setting::Versions => bucket.pointer("/versioning/enabled").and_then(serde_json::Value::as_bool) == Some(true),
            Setting::Locks => bucket.pointer("/objectRetention/mode").and_then(serde_json::Value::as_str) == Some("Enabled"),
        })
    }

    fn said(&self, _headers: &HeaderMap, body: &[u8]) -> (String, String) {
        let error: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
        let text = |place: &str| error.pointer(place).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        let (reason, message) = (text("/error/errors/0/reason"), text("/error/message"));
        let reason = if reason.is_empty() { text("/error/status") } else { reason };
        // One word for both that are not there: but a bucket that is gone is no absence of an object.
        let reason = if reason == "notFound" && message.contains("bucket does not exist") { "NoSuchBucket".to_owned() } else { reason };
        (reason, message)
    }
}

fn patch(version: &str, body: String) -> Ask {
    Ask::new(Method::PATCH).query("generation", version).header("content-type", "application/json").body(body)
}

fn overriding(ask: Ask, yes: bool) -> Ask {
    if yes { ask.query("overrideUnlockedRetention", "true") } else { ask }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn reply(body: &'static str) -> Reply {
        Reply::new(HeaderMap::new(), Bytes::from_static(body.as_bytes()))
    }

    #[test]
    fn answers_are_read_and_what_is_none_refused() {
        let text = r#"{"generation":"7","retention":{"mode":"Locked","retainUntilTime":"2026-01-01T00:00:00.000Z"},"temporaryHold":true}"#;
        let until = Some(Timestamp::from_unix_s(1_767_225_600));
        assert_eq!(Google.seen(&reply(text), "7"), Ok(Seen { mode: Some(LockMode::Compliance), until, hold: true }));
        assert_eq!(Google.seen(&reply(r#"{"generation":"7"}"#), "7"), Ok(Seen::default()));
        for other in [text, "{}", "<a/>"] {
            assert!(Google.seen(&reply(other), "8").is_err(), "{other}");
        }
        assert!(Google.page(&reply("[]x")).is_err() && Google.page(&reply("{}")).is_err());
        let text = r#"{"kind":"storage#objects","items":[{"name":"a","generation":"1","timeCreated":"2026-01-01T00:00:00Z","timeDeleted":"2026-01-01T00:00:01Z"},
            {"name":"a","generation":"2","timeCreated":"2026-01-01T00:00:01Z"}],"nextPageToken":"t"}"#;
        let listed = Google.page(&reply(text)).expect("reads");
        assert_eq!(listed.found.iter().map(|f| (f.version.as_str(), f.latest)).collect::<Vec<_>>(), [("1", false), ("2", true)]);
        assert_eq!(listed.next.map(|n| n.key).as_deref(), Some("t"));
        let bucket = reply(r#"{"versioning":{"enabled":true},"objectRetention":{"mode":"Enabled"}}"#);
        for what in [Setting::Versions, Setting::Locks] {
            assert_eq!((Google.is_on(what, &bucket), Google.is_on(what, &reply("{}"))), (Ok(true), Ok(false)));
        }
        let no = br#"{"error":{"code":403,"message":"held","errors":[{"reason":"retentionPolicyNotMet"}]}}"#;
        assert_eq!(Google.said(&HeaderMap::new(), no), ("retentionPolicyNotMet".to_owned(), "held".to_owned()));
        let plain = br#"{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}"#;
        assert_eq!(Google.said(&HeaderMap::new(), plain).0, "PERMISSION_DENIED");
        let gone = br#"{"error":{"message":"The specified bucket does not exist.","errors":[{"reason":"notFound"}]}}"#;
        assert_eq!(Google.said(&HeaderMap::new(), gone).0, "NoSuchBucket");
        assert_eq!(Google.said(&HeaderMap::new(), b"gateway"), (String::new(), String::new()));
    }

    proptest::proptest! {
        #[test]
        fn a_page_comes_back_as_it_was_and_any_other_answer_is_read_or_refused(
            objects in proptest::collection::vec((".{0,20}", "[0-9]{1,20}"), 0..20),
            (at, byte) in (0_usize..2_000, proptest::num::u8::ANY),
            noise in proptest::collection::vec(proptest::num::u8::ANY, 0..64),
        ) {
            let rows: Vec<_> = objects.iter().map(|(name, n)| serde_json::json!({ "name": name, "generation": n })).collect();
            let text = serde_json::json!({ "kind": "storage#objects", "items": rows }).to_string();
            let reply = |body: Vec<u8>| Reply::new(HeaderMap::new(), Bytes::from(body));
            let listed = Google.page(&reply(text.clone().into_bytes())).expect("reads");
            proptest::prop_assert_eq!(listed.found.into_iter().map(|f| (f.key, f.version)).collect::<Vec<_>>(), objects);

            let mut bytes = text.into_bytes();
            let at = at % bytes.len();
            proptest::prop_assert!(Google.page(&reply(bytes[..at].to_vec())).is_err(), "a cut one");
            bytes[at] = byte;
            for body in [bytes, noise] {
                let reply = reply(body);
                let _ = (Google.seen(&reply, "7"), Google.said(&reply.headers, &reply.body));
                let _ = (Google.is_on(Setting::Locks, &reply), Google.is_on(Setting::Versions, &reply));
                let found = Google.page(&reply).map_or(0, |listed| listed.found.len());
                proptest::prop_assert!(found * "{}".len() <= reply.body.len(), "no more than there is");
            }
        }
    }
}
