//! Requests that `object_store` has no call for, and headers that it does not write, under the same credentials.

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HeaderName};
use http::{HeaderValue, Uri};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::azure::{AzureAuthorizer, AzureCredential, AzureCredentialProvider};
use object_store::client::{HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector};
use object_store::gcp::GcpCredentialProvider;

use super::super::lock::Lock;
use super::azure::Azure;
use super::dialect::Dialect;
use super::google::Google;
use super::s3::S3;

const CHECKSUM: HeaderName = HeaderName::from_static("x-amz-checksum-sha256");

/// Signs requests with the credentials that the store has at that moment.
#[derive(Clone)]
pub(in crate::store) enum Signer {
    S3 {
        credentials: AwsCredentialProvider,
        region: String,
        /// Over TLS the signature need not cover the payload: the checksum header is signed, and S3 checks it.
        sign_payload: bool,
    },
    Google(GcpCredentialProvider),
    Azure {
        credentials: AzureCredentialProvider,
        account: String,
    },
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Signer({:?})", self.dialect())
    }
}

impl Signer {
    /// The calls that go with these credentials.
    pub(super) fn dialect(&self) -> &'static dyn Dialect {
        match self {
            Self::S3 { .. } => &S3,
            Self::Google(_) => &Google,
            Self::Azure { .. } => &Azure,
        }
    }

    /// The region that requests are signed for; S3 only.
    pub(super) fn region(&self) -> Option<&str> {
        match self {
            Self::S3 { region, .. } => Some(region),
            Self::Google(_) | Self::Azure { .. } => None,
        }
    }

    /// Signs a request, also one that was signed before its last headers were written.
    pub(super) async fn sign(&self, request: &mut HttpRequest) -> Result<(), object_store::Error> {
        match self {
            Self::S3 { credentials, region, sign_payload } => {
                let credential = credentials.get_credential().await?;
                request.headers_mut().remove(AUTHORIZATION);
                // A payload in pieces cannot be hashed by the signer; its digest stands in the checksum header.
                let digest = request.headers().get(CHECKSUM).and_then(|v| STANDARD.decode(v.as_bytes()).ok());
                AwsAuthorizer::new(&credential, "s3", region).with_sign_payload(*sign_payload).try_authorize(request, digest.as_deref())
            }
            Self::Google(credentials) => {
                let credential = credentials.get_credential().await?;
                let mut value = HeaderValue::from_str(&format!("Bearer {}", credential.bearer))
                    .map_err(|e| object_store::Error::Generic { store: "GCS", source: Box::new(e) })?;
                value.set_sensitive(true);
                request.headers_mut().insert(AUTHORIZATION, value);
                Ok(())
            }
            Self::Azure { credentials, account } => {
                let credential = credentials.get_credential().await?;
                // A shared access signature covers no headers, and stands in the address once.
                if matches!(&*credential, AzureCredential::SASToken(_)) && has_signature(request.uri()) {
                    return Ok(());
                }
                request.headers_mut().remove(AUTHORIZATION);
                AzureAuthorizer::new(&credential, account).try_authorize(request)
            }
        }
    }
}

fn has_signature(uri: &Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("sig=")))
}

/// Makes clients that write the lock of a put into its headers. Headers must all be signed on S3, and on Azure with an account's
/// key, and `object_store` signs before the client is called; so a request with a lock is signed once more.
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
        for (name, value) in self.signer.dialect().locked(&lock) {
            let value = HeaderValue::from_str(&value).map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
            request.headers_mut().insert(name, value);
        }
        self.signer.sign(&mut request).await.map_err(|e| HttpError::new(HttpErrorKind::Unknown, e))?;
        self.inner.execute(request).await
    }
}
