//! What several tests need.

pub mod agent;
#[allow(dead_code, reason = "the end-to-end scenarios use all of it")]
#[path = "../../../../tests/harness/authority.rs"]
pub mod authority;
pub mod clouds;
pub mod deployment;
pub mod moto;
pub mod verdict;
pub mod world;

use exhibit_coordinator::store::{RemoteKind, RemoteSettings};

pub fn s3_settings(port: u16, prefix: &str) -> RemoteSettings {
    RemoteSettings {
        kind: RemoteKind::S3,
        bucket: "evidence".to_owned(),
        account: String::new(),
        prefix: prefix.to_owned(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        allow_http: true,
        access_key_id: Some("id".to_owned()),
        secret: Some("very-secret".to_owned()),
        lock: None,
        encryption: None,
    }
}
