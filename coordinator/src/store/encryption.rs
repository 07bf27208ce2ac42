//! Encryption by an S3 store itself, with keys that it or its key service holds. Whoever may read objects reads them in clear: it
//! guards disks and copies of them, not against the store's credentials. (Encryption to a case's recipients is the agents'.)

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};

use super::{Kind, StoreError};

/// What a store is asked to encrypt each object with.
#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Encryption {
    /// With a key of the store (SSE-S3, AES-256).
    SseS3 {},
    /// With a key of its key service (SSE-KMS).
    SseKms {
        /// Id or ARN of the key; without it the bucket's default key.
        #[serde(default)]
        key: Option<String>,
        /// One key of the bucket for many objects: fewer and cheaper requests to the key service.
        #[serde(default)]
        bucket_key: bool,
    },
}

/// What a store says of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Encrypted {
    /// `x-amz-server-side-encryption`; empty when the store says nothing.
    pub with: String,
    /// `x-amz-server-side-encryption-aws-kms-key-id`.
    pub key: String,
    /// `x-amz-server-side-encryption-bucket-key-enabled`.
    pub bucket_key: bool,
}

impl Encryption {
    /// As requests and answers name it.
    #[must_use]
    pub const fn as_s3(&self) -> &'static str {
        match self {
            Self::SseS3 {} => "AES256",
            Self::SseKms { .. } => "aws:kms",
        }
    }

    /// Makes a client ask for it with every object that it writes. The client's names of these settings are not exported, so they
    /// are given as texts.
    pub(super) fn apply(&self, builder: AmazonS3Builder) -> object_store::Result<AmazonS3Builder> {
        let set = |builder: AmazonS3Builder, key: &str, value: &str| Ok(builder.with_config(key.parse::<AmazonS3ConfigKey>()?, value));
        let builder = set(builder, "aws_server_side_encryption", self.as_s3())?;
        match self {
            Self::SseS3 {} => Ok(builder),
            Self::SseKms { key, bucket_key } => {
                let builder = match key {
                    Some(key) => set(builder, "aws_sse_kms_key_id", key)?,
                    None => builder,
                };
                set(builder, "aws_sse_bucket_key_enabled", if *bucket_key { "true" } else { "false" })
            }
        }
    }

    /// Whether an object is encrypted as it was asked for; otherwise what differs.
    ///
    /// # Errors
    /// In words. A store names a key by its ARN, which ends in the id.
    pub fn compare(&self, seen: &Encrypted) -> Result<(), String> {
        let shown = |text: &str| if text.is_empty() { "nothing".to_owned() } else { exhibit_evidence::text::escape_bounded(text, 200) };
        if seen.with != self.as_s3() {
            return Err(format!("asked for was {}, the store says {}", self.as_s3(), shown(&seen.with)));
        }
        let Self::SseKms { key, bucket_key } = self else { return Ok(()) };
        if let Some(key) = key
            && seen.key != *key
            && !seen.key.ends_with(&format!("/{key}"))
        {
            return Err(format!("asked for was key {}, the store says {}", shown(key), shown(&seen.key)));
        }
        if *bucket_key && !seen.bucket_key {
            return Err("asked for was a key of the bucket, the store says that it is none".to_owned());
        }
        Ok(())
    }

    /// The error of a store that does not do it.
    pub(super) fn refused(why: &str) -> StoreError {
        StoreError::new(
            Kind::Denied,
            format!("the store does not encrypt as store.encryption says: {why}"),
            "compare the key's policy and the bucket's settings, or take out store.encryption: docs/operations/stores.md",
        )
    }
}

impl std::fmt::Display for Encryption {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::SseS3 {} => f.write_str("SSE-S3"),
            Self::SseKms { key, bucket_key } => {
                write!(
                    f,
                    "SSE-KMS with {}{}",
                    key.as_deref().unwrap_or("the bucket's default key"),
                    if *bucket_key { ", bucket key" } else { "" }
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_store_says_is_held_against_what_was_asked_for() {
        let parse =
            |text: &str| toml::from_str::<std::collections::BTreeMap<String, Encryption>>(text).map(|mut m| m.remove("e").expect("e"));
        let s3 = parse("e = { kind = \"sse-s3\" }").expect("valid");
        let kms = parse("e = { kind = \"sse-kms\", key = \"1234-abcd\", bucket_key = true }").expect("valid");
        assert!(parse("e = { kind = \"sse-c\" }").is_err() && parse("e = { kind = \"sse-s3\", key = \"k\" }").is_err());
        let says = |with: &str, key: &str, bucket_key| Encrypted { with: with.to_owned(), key: key.to_owned(), bucket_key };
        assert!(s3.compare(&says("AES256", "", false)).is_ok());
        assert!(s3.compare(&says("", "", false)).is_err_and(|e| e.contains("nothing")));
        assert!(kms.compare(&says("aws:kms", "arn:aws:kms:eu-1:1:key/1234-abcd", true)).is_ok());
        for wrong in
            [says("AES256", "1234-abcd", true), says("aws:kms", "arn:aws:kms:eu-1:1:key/9", true), says("aws:kms", "1234-abcd", false)]
        {
            assert!(kms.compare(&wrong).is_err(), "{wrong:?}");
        }
    }
}
