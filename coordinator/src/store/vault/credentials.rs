//! Credentials, from whoever gives them out: the service of a machine's role, a token service, a file. What goes wrong there is told as
//! such, and not as a refusal or a silence of the store, and it is waited for within bounds: by every way to a store, because the clients
//! and the [`super::Signer`] ask here.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use object_store::CredentialProvider;
use object_store::client::{HttpError, HttpErrorKind};

use super::super::{Kind, StoreError};
use super::refusal;

/// Time until there are credentials. Shorter than a store may be silent, so that of the two the one is named that is.
const GIVEN_WITHIN: Duration = Duration::from_secs(20);

const AWAY: &str =
    "see to what gives out the credentials (the service of a machine's role, a token service) and the way to it; it is tried again";
const REFUSED: &str = "check the store's credentials, and the role or token that they are given out for";

/// Words of `object_store` for an answer that it does not understand, where the error has no type. What follows them may quote the answer.
const NOT_UNDERSTOOD: [&str; 2] = ["Invalid AssumeRoleWithWebIdentity response", "Failed to parse azure cli response"];
/// Its words for a redirect to nowhere.
const BARE_REDIRECT: &str = "Received redirect without LOCATION";

/// Credentials of another provider, for which nobody waits without end.
struct Given<C> {
    inner: Arc<dyn CredentialProvider<Credential = C>>,
    within: Duration,
}

/// Shows nothing of what it holds.
impl<C> fmt::Debug for Given<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Given")
    }
}

/// The same credentials, waited for within bounds; where there are none, the error is a [`NotGiven`].
pub(in crate::store) fn given<C: Send + Sync + 'static>(
    inner: &Arc<dyn CredentialProvider<Credential = C>>,
) -> Arc<dyn CredentialProvider<Credential = C>> {
    given_within(inner, GIVEN_WITHIN)
}

fn given_within<C: Send + Sync + 'static>(
    inner: &Arc<dyn CredentialProvider<Credential = C>>,
    within: Duration,
) -> Arc<dyn CredentialProvider<Credential = C>> {
    Arc::new(Given { inner: Arc::clone(inner), within })
}

#[async_trait]
impl<C: Send + Sync + 'static> CredentialProvider for Given<C> {
    type Credential = C;

    async fn get_credential(&self) -> object_store::Result<Arc<C>> {
        let given = match tokio::time::timeout(self.within, self.inner.get_credential()).await {
            Ok(given) => given.map_err(|e| NotGiven::of(&e)),
            Err(_) => Err(NotGiven::silent(self.within)),
        };
        given.map_err(|why| object_store::Error::Generic { store: "credentials", source: Box::new(why) })
    }
}

/// Why there are no credentials, so that nothing was asked of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::store) struct NotGiven {
    why: String,
    remedy: &'static str,
    passes: bool,
}

impl fmt::Display for NotGiven {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "there are no credentials: {}", self.why)
    }
}

impl Error for NotGiven {}

impl NotGiven {
    fn passing(why: String) -> Self {
        Self { why, remedy: AWAY, passes: true }
    }

    fn silent(within: Duration) -> Self {
        Self::passing(format!("what gives them out gave no answer within {} s", within.as_secs_f64()))
    }

    /// From the error of a provider, or of a signature. It passes where the service was not reached or is disturbed; what it refuses, and
    /// what is not there or of no use, a person must see to.
    pub(super) fn of(e: &object_store::Error) -> Self {
        if let Some(known) = Self::in_error(e) {
            return known.clone();
        }
        let error = e.to_string();
        let why = refusal::shown(&error);
        match refusal::status(&error) {
            Some(400..=407 | 409..=428 | 430..=499) => Self { why, remedy: refusal::remedy_in(&error).unwrap_or(REFUSED), passes: false },
            Some(_) => Self::passing(why),
            None => Self::of_none(e, &error, why),
        }
    }

    /// Where no answer with a status came.
    fn of_none(e: &object_store::Error, error: &str, why: String) -> Self {
        let http = found::<HttpError>(e).map(HttpError::kind);
        if http == Some(HttpErrorKind::Decode) || NOT_UNDERSTOOD.iter().any(|words| error.contains(words)) {
            return Self::passing("what gives them out answers with what is not understood".to_owned());
        }
        if http.is_some() || error.contains(BARE_REDIRECT) {
            return Self::passing(why);
        }
        Self { why, remedy: REFUSED, passes: false }
    }

    /// The one in an error of a client that asked for credentials.
    pub(in crate::store) fn in_error(e: &object_store::Error) -> Option<&Self> {
        found(e)
    }

    /// As an error of what was to be done, behind "could not".
    pub(in crate::store) fn told(&self, tried: &str) -> StoreError {
        let message = format!("could not {tried}: {self}");
        // That nobody may sign says nothing of an object either.
        if self.passes { StoreError::new(Kind::Retry, message, self.remedy) } else { StoreError::unheard(message, self.remedy) }
    }
}

/// The error of this type among an error and its sources.
fn found<'a, E: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use exhibit_evidence::Timestamp;
    use object_store::aws::{AmazonS3Builder, AwsCredentialProvider};
    use object_store::path::Path;
    use object_store::{ObjectStore as _, PutOptions, RetryConfig};

    use super::super::{LockingConnector, Signer, Vault};
    use super::*;
    use crate::store::lock::{Lock, LockMode};
    use crate::store::tests::{answering, bucket_at, mute_port};
    use crate::store::{RemoteStore, Store as _};

    const SHORT: Duration = Duration::from_millis(300);
    /// No answer's words may bring it to light.
    const SECRET: &str = "SECRETOFTHEROLE";

    fn builder() -> AmazonS3Builder {
        AmazonS3Builder::new()
            .with_bucket_name("evidence")
            .with_region("us-east-1")
            .with_endpoint("http://127.0.0.1:9")
            .with_allow_http(true)
    }

    /// Credentials of a machine's role, whose service is at this address.
    fn of_role_at(address: &str, within: Duration) -> AwsCredentialProvider {
        let once = RetryConfig { max_retries: 0, ..RetryConfig::default() };
        let client = builder().with_metadata_endpoint(address).with_retry(once).build().expect("settings");
        given_within(client.credentials(), within)
    }

    async fn why(credentials: &AwsCredentialProvider) -> NotGiven {
        let e = credentials.get_credential().await.map(|_| ()).expect_err("none");
        NotGiven::in_error(&e).expect("told as such").clone()
    }

    #[tokio::test]
    async fn what_passes_and_what_a_person_must_see_to_are_told_apart() {
        for (answer, passes, words) in [
            ("HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", false, "403"),
            ("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 15\r\n\r\nSECRETOFTHEROLE", false, "404"),
            ("HTTP/1.1 302 Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true, "redirect"),
            ("HTTP/1.1 429 Too Many Requests\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true, "429"),
            ("HTTP/1.1 503 Service Unavailable\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", true, "503"),
            ("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 15\r\n\r\nSECRETOFTHEROLE", true, "not understood"),
        ] {
            let at = answering(answer).await.endpoint.expect("an address");
            let why = why(&of_role_at(&at, Duration::from_secs(20))).await;
            let e = why.told("read 'a' in a bucket");
            assert_eq!((why.passes, e.needs_a_person()), (passes, !passes), "{answer}: {e}");
            assert!(e.says_nothing(), "it is no word on an object: {e}");
            assert!(e.message().starts_with("could not read 'a' in a bucket: there are no credentials: "), "{e}");
            assert!(e.message().contains(words) && !e.to_string().contains(SECRET), "{e}");
        }
        let away = why(&of_role_at("http://127.0.0.1:9", Duration::from_secs(20))).await;
        assert!(away.passes, "nothing listens there: {away}");
        let expired = answering(
            "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 61\r\n\r\n\
             {\"error\":\"invalid_grant\",\"error_description\":\"Token expired\"}",
        );
        let expired = why(&of_role_at(&expired.await.endpoint.expect("an address"), Duration::from_secs(20))).await;
        assert!(
            !expired.passes && expired.remedy.contains("renew them") && expired.why.contains("invalid_grant: Token expired"),
            "{expired}"
        );
    }

    #[test]
    fn what_is_told_in_words_alone_is_told_apart_and_not_quoted() {
        let of = |words: String| NotGiven::of(&object_store::Error::Generic { store: "S3", source: words.into() });
        let file = of("Failed to read token file '/var/run/token': No such file or directory".to_owned());
        assert!(!file.passes && file.why.contains("/var/run/token"), "{file}");
        for words in NOT_UNDERSTOOD {
            let unread = of(format!("{words}: {SECRET}"));
            assert!(unread.passes && !unread.why.contains(SECRET), "{unread}");
        }
    }

    /// By every way to a store: objects, versions, and a put with its lock.
    #[tokio::test]
    async fn a_silence_of_whoever_gives_them_out_is_not_blamed_on_the_store() {
        let port = mute_port().await;
        let credentials = of_role_at(&format!("http://127.0.0.1:{port}"), SHORT);
        let client = builder().with_credentials(Arc::clone(&credentials)).build().expect("settings");
        let store = RemoteStore::new(Arc::new(client), "", "a bucket");
        let vault = RemoteStore::open(&bucket_at(9)).expect("settings").attestable().expect("an S3 store").vault;
        let signer = Signer::S3 { credentials, region: "us-east-1".to_owned(), sign_payload: true };
        let vault = Vault { signer: signer.clone(), ..vault };
        for e in [
            store.get("cases/a", 10).await.map(|_| ()).expect_err("not read"),
            store.list("cases", None).await.map(|_| ()).expect_err("not listed"),
            vault.versions("", None).await.map(|_| ()).expect_err("not listed"),
        ] {
            assert!(e.kind() == Kind::Retry && !e.needs_a_person() && e.remedy() == AWAY, "{e}");
            assert!(e.message().contains("what gives them out gave no answer within 0.3 s"), "{e}");
        }
        let locking = builder().with_access_key_id("key").with_secret_access_key("secret").with_http_connector(LockingConnector(signer));
        let mut options = PutOptions::default();
        let lock = Lock { mode: LockMode::Compliance, until: Timestamp::from_unix_s(1_767_225_600), hold: false };
        options.extensions.insert(Arc::new(lock));
        let put = locking.build().expect("settings").put_opts(&Path::from("cases/a"), "x".into(), options).await;
        let e = put.map(|_| ()).expect_err("not signed");
        assert_eq!(NotGiven::in_error(&e), Some(&NotGiven::silent(SHORT)), "{e}");
    }
}
