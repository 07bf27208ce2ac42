use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// A bucket at a server on this port.
pub(super) fn bucket_at(port: u16) -> RemoteSettings {
    RemoteSettings {
        kind: RemoteKind::S3,
        bucket: "evidence".to_owned(),
        account: String::new(),
        prefix: String::new(),
        region: "us-east-1".to_owned(),
        endpoint: Some(format!("http://127.0.0.1:{port}")),
        allow_http: true,
        access_key_id: Some("key".to_owned()),
        secret: Some("secret".to_owned()),
        lock: None,
        encryption: None,
    }
}

/// A bucket at a server that gives every request this answer and then waits for the client to go.
pub(super) async fn answering(answer: &'static str) -> RemoteSettings {
    answering_late(answer, Duration::ZERO).await.0
}

/// The same, and it takes so long before each answer; and how many requests came.
pub(super) async fn answering_late(answer: &'static str, late: Duration) -> (RemoteSettings, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Arc::<AtomicUsize>::default();
    let counted = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut request = [0_u8; 4_096];
                if connection.read(&mut request).await.is_ok_and(|n| n > 0) {
                    counted.fetch_add(1, Ordering::AcqRel);
                    tokio::time::sleep(late).await;
                    if connection.write_all(answer.as_bytes()).await.is_ok() {
                        while connection.read(&mut request).await.is_ok_and(|n| n > 0) {}
                    }
                }
            });
        }
    });
    (bucket_at(port), asked)
}

/// The port of a server that takes connections and never says a word.
pub(super) async fn mute_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            kept.push(connection);
        }
    });
    port
}

#[test]
fn names_of_the_layout_are_valid() {
    use exhibit_evidence::layout::{self, LogName, StreamNumber};
    let case = exhibit_evidence::CaseId::new(1, [2; 10]);
    let collection = exhibit_evidence::CollectionId::from_digest(&Digest::of(b"x"));
    for name in [
        layout::segment(&case, &collection, StreamNumber(1), 0),
        layout::manifest(&case, &collection, StreamNumber(1)),
        LogName::Case(case).slot(7),
        LogName::Deployment.checkpoint(),
    ] {
        assert!(name_is_valid(&name), "{name}");
    }
}

#[tokio::test]
async fn a_store_is_known_under_another_name() {
    let dir = tempfile::tempdir().expect("a folder");
    let (folder, link) = (dir.path().join("store"), dir.path().join("link"));
    let first = LocalStore::create(&folder).expect("made");
    std::os::unix::fs::symlink(&folder, &link).expect("a link");
    let (again, other) = (LocalStore::open(&link).expect("opened"), LocalStore::create(&dir.path().join("other")).expect("made"));
    assert!(is_same(&first, &again).await.expect("tried"));
    assert!(!is_same(&first, &other).await.expect("tried"));
}

proptest::proptest! {
    #[test]
    fn no_name_leaves_its_folder(name: String) {
        if name_is_valid(&name) {
            let path = std::path::Path::new(&name);
            proptest::prop_assert!(path.components().all(|c| matches!(c, std::path::Component::Normal(_))));
        }
    }

    #[test]
    fn valid_names_stay_valid(name in "[a-z0-9_-][a-z0-9._-]{0,20}(/[a-z0-9_-][a-z0-9._-]{0,20}){0,5}") {
        proptest::prop_assert!(name_is_valid(&name));
    }
}
