//! What a HEAD was refused for. Its answer has no body, so S3 refuses credentials that expired, or that nobody knows, in the same words as
//! missing rights: in none. Of those only the second is a word on the object.

use http::Method;

use super::super::{Kind, StoreError};
use super::dialect::{Ask, Reply};
use super::{Vault, refusal};

impl Vault {
    /// Order, after a HEAD that was refused without a word: 1. the same with GET, which needs the same right and whose answer has words, of
    /// an object for one byte; 2. where that is not refused, HEAD once more, because the credentials may have been renewed between the two.
    /// What is not told then says nothing of the object.
    pub(super) async fn in_words(&self, tried: &str, name: Option<&str>, path: &str, ask: &Ask) -> Result<Reply, StoreError> {
        let get = Ask { method: Method::GET, ..ask.clone() };
        let get = if name.is_some() { get.header("range", "bytes=0-0") } else { get };
        let request = self.signed(path, &get).await?;
        match self.once(tried, name, request, self.answers_within, &get).await {
            Err(e) if e.is_wordless() => return Err(refusal::unclear(e.message())),
            Err(e) if e.says_nothing() || e.kind() == Kind::Denied => return Err(e),
            _ => {}
        }
        let request = self.signed(path, ask).await?;
        match self.once(tried, name, request, self.answers_within, ask).await {
            Err(e) if e.is_wordless() => Err(refusal::unclear(e.message())),
            again => again,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use exhibit_evidence::Digest;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::refusal::WORDLESS;
    use super::*;
    use crate::clock;
    use crate::store::attest::{Pass, Task};
    use crate::store::tests::bucket_at;
    use crate::store::{LockMode, LockPolicy, Payload, RemoteSettings, RemoteStore, Store as _};

    const NAME: &str = "deployment/log/seq/0000000000.dsse.json";

    /// What is answered to HEAD, and to GET of the object.
    #[derive(Debug, Clone, Copy)]
    struct Answers {
        head: &'static str,
        get: &'static str,
    }

    const BARE_400: &str = "400 Bad Request";
    const BARE_403: &str = "403 Forbidden";
    const EXPIRED: &str = "400 Bad Request <Error><Code>ExpiredToken</Code></Error>";
    const UNKNOWN_KEY: &str = "403 Forbidden <Error><Code>InvalidAccessKeyId</Code></Error>";
    const NO_RIGHT: &str = "403 Forbidden <Error><Code>AccessDenied</Code></Error>";
    const THERE: &str = "206 Partial Content <x";

    /// What says nothing of an object, and what its remedy says.
    const UNHEARD: [(Answers, &str); 6] = [
        (Answers { head: BARE_400, get: EXPIRED }, "the credentials are expired: renew them"),
        (Answers { head: BARE_403, get: EXPIRED }, "the credentials are expired: renew them"),
        (Answers { head: BARE_400, get: UNKNOWN_KEY }, "the store does not know who asks: renew the credentials"),
        (Answers { head: BARE_403, get: UNKNOWN_KEY }, "the store does not know who asks: renew the credentials"),
        (Answers { head: BARE_403, get: BARE_403 }, WORDLESS),
        (Answers { head: BARE_400, get: THERE }, WORDLESS),
    ];
    const RIGHTS: Answers = Answers { head: BARE_403, get: NO_RIGHT };

    /// Status and body of the answer to a request.
    fn answer(request: &str, answers: Answers) -> (String, String) {
        let listed = format!(
            "200 OK <ListVersionsResult><Version><Key>{NAME}</Key><VersionId>v1</VersionId><IsLatest>true</IsLatest>\
             <LastModified>2026-01-01T00:00:00.000Z</LastModified></Version></ListVersionsResult>"
        );
        let line = request.lines().next().unwrap_or_default();
        let said = match line {
            line if line.starts_with("HEAD") => answers.head,
            line if line.starts_with("PUT") => "200 OK",
            line if line.contains("?versioning") => "200 OK <VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>",
            line if line.contains("?object-lock") => {
                "200 OK <ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>"
            }
            line if line.contains("?versions") => listed.as_str(),
            _ => answers.get,
        };
        let (status, body) = said.split_once(" <").map_or((said, String::new()), |(status, body)| (status, format!("<{body}")));
        (status.to_owned(), body)
    }

    /// A bucket that lists one record and takes every write.
    async fn bucket(answers: Answers) -> RemoteStore {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut request = [0_u8; 4_096];
                    let Ok(read) = connection.read(&mut request).await else { return };
                    let (status, body) = answer(&String::from_utf8_lossy(&request[..read]), answers);
                    let length = body.len();
                    let text = format!(
                        "HTTP/1.1 {status}\r\nconnection: close\r\netag: \"1\"\r\nx-amz-version-id: v1\r\n\
                         last-modified: Thu, 01 Jan 2026 00:00:00 GMT\r\ncontent-length: {length}\r\n\r\n{body}"
                    );
                    if connection.write_all(text.as_bytes()).await.is_ok() {
                        while connection.read(&mut request).await.is_ok_and(|n| n > 0) {}
                    }
                });
            }
        });
        let lock = Some(LockPolicy { mode: LockMode::Compliance, days: 1 });
        let settings = RemoteSettings { lock, ..bucket_at(port) };
        RemoteStore::open(&settings).expect("settings")
    }

    #[tokio::test]
    async fn a_head_that_is_refused_without_a_word_is_told_by_a_get() {
        for (answers, remedy) in UNHEARD {
            let vault = bucket(answers).await.attestable().expect("an S3 store").vault;
            let e = vault.lock_of(NAME, "v1").await.expect_err("refused");
            assert!(e.says_nothing() && e.needs_a_person() && e.word() == "denied", "{answers:?}: {e}");
            assert!(e.remedy().contains(remedy), "{answers:?}: {e}");
        }
        let vault = bucket(RIGHTS).await.attestable().expect("an S3 store").vault;
        let e = vault.lock_of(NAME, "v1").await.expect_err("refused");
        assert!(e.kind() == Kind::Denied && e.message().contains("AccessDenied"), "rights are said of the object: {e}");
    }

    #[tokio::test]
    async fn the_size_of_an_object_is_refused_in_words_too() {
        for (answers, is_unheard) in UNHEARD[..5].iter().map(|(answers, _)| (*answers, true)).chain([(RIGHTS, false)]) {
            let e = bucket(answers).await.size(NAME).await.expect_err("refused");
            assert!(e.says_nothing() == is_unheard && e.needs_a_person(), "{answers:?}: {e}");
            assert_eq!(e.remedy().contains("renew"), is_unheard, "{answers:?}: {e}");
        }
    }

    #[tokio::test]
    async fn attestation_stops_there_and_tells_of_no_lock() {
        let task = || Task { begin: String::new(), repair: false, pause: Duration::ZERO, now: clock::now() };
        for (answers, _) in UNHEARD {
            let found = bucket(answers).await.attestable().expect("an S3 store");
            let mut pass = Pass::new(found, task());
            let told = Box::pin(pass.run()).await;
            let e = told.map(|report| report.troubles).expect_err("it goes on once it is heard");
            assert!(e.says_nothing() && e.needs_a_person(), "{answers:?}: {e}");
        }
        let mut pass = Pass::new(bucket(RIGHTS).await.attestable().expect("an S3 store"), task());
        let report = Box::pin(pass.run()).await.expect("heard");
        let kinds: Vec<&str> = report.troubles.iter().map(|trouble| trouble.kind).collect();
        assert_eq!(kinds, ["store-unattested"], "a lock that may not be read is told: {report:?}");
    }

    #[tokio::test]
    async fn a_write_whose_lock_nobody_came_to_read_is_no_incident() {
        for (answers, troubles) in UNHEARD.iter().map(|(answers, _)| (*answers, 0)).chain([(RIGHTS, 1)]) {
            let store = bucket(answers).await;
            let e = store.put_new(NAME, Payload::from_static(b"record"), Digest::of(b"record")).await.expect_err("not locked");
            assert!(e.needs_a_person(), "{answers:?}: {e}");
            let told: Vec<&str> = store.troubles().iter().map(|trouble| trouble.kind).collect();
            assert_eq!(told, vec!["store-unattested"; troubles], "{answers:?}: {e}");
        }
    }
}
