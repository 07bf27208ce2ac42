//! Requests that `object_store` has no call for, and headers that it does not write, under the same credentials.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector};

use super::super::lock::{Lock, seconds_text};

const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");

/// Signs requests with the credentials that the store has at that moment.
#[derive(Clone)]
pub(in crate::store) struct Signer {
    pub(in crate::store) credentials: AwsCredentialProvider,
    pub(in crate::store) region: String,
    /// Over TLS the signature need not cover the payload: the checksum header is signed, and S3 checks it.
    pub(in crate::store) sign_payload: bool,
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({})", self.region)
    }
}

impl Signer {
    pub(super) async fn sign(&self, request: &mut HttpRequest) -> Result<(), object_store::Error> {
        let credential = self.credentials.get_credential().await?;
        request.headers_mut().remove(AUTHORIZATION);
        // A payload in pieces cannot be hashed by the signer; its digest stands in the checksum header.
        let digest = request.headers().get(CHECKSUM).and_then(|v| STANDARD.decode(v.as_bytes()).ok());
        AwsAuthorizer::new(&credential, "s3", &self.region).with_sign_payload(self.sign_payload).try_authorize(request, digest.as_deref())
    }
}

/// Makes clients that write the lock of a put into its headers. The headers of S3 must all be signed, and `object_store` signs
/// before the client is called; so a request with a lock is signed once more.
#[derive(Debug)]
pub(in crate::store) struct LockingConnector(pub(in crate::store) Signer);

impl HttpConnector for LockingConnector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let inner = ReqwestConnector::default().connect(options)?;
        Ok(HttpClient::new(Locking { inner, signer: self.0.clone() }))
    }
}

#[derive(Debug)]
struct Locking {
    inner: HttpClient,
    signer: Signer,
}

#[async_trait]
impl HttpService for Locking {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let Some(lock) = request.extensions().get::<Arc<Lock>>().cloned() else { return self.inner.execute(request).await };
        let bad = |e: http::header::InvalidHeaderValue| HttpError::new(HttpErrorKind::Unknown, e);
        let until = HeaderValue::from_str(&seconds_text(lock.until)).map_err(bad)?;
        let headers = request.headers_mut();
        headers.insert("x-amz-object-lock-mode", HeaderValue::from_static(lock.mode.as_s3()));
        headers.insert("x-amz-object-lock-retain-until-date", until);
        if lock.hold {
            headers.insert("x-amz-object-lock-legal-hold", HeaderValue::from_static("ON"));
        }
        headers.insert("x-amz-sdk-checksum-algorithm", HeaderValue::from_static("SHA256"));
        self.signer.sign(&mut request).await.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        self.inner.execute(request).await
    }
}
